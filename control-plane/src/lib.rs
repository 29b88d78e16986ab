//! The node and its parts.
