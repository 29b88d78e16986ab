//! The node and its parts.

pub mod dev;
pub mod pki;
pub mod raft;
pub mod sign;
pub mod store;
pub mod tls;
