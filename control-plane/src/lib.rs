//! The node and its parts.

pub mod dev;
pub mod pki;
pub mod sign;
pub mod tls;
