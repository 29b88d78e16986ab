//! The guard. See the README.
