//! Tagout's pure core: documents, signatures, the rule, the ledger, leases and the log.
//!
//! No I/O, no clock, no randomness, no async. Nodes and every SDK decide with this code and no other.

pub mod address;
pub mod authority;
pub mod command;
pub mod digest;
pub mod drill;
pub mod envelope;
pub mod lease;
pub mod ledger;
pub mod limits;
pub mod lock;
pub mod log;
pub mod note;
pub mod profile;
pub mod restore;
pub mod rule;
pub mod scope;
pub mod sentence;
pub mod sshsig;
pub mod strict;
pub mod token;
pub mod trust;
pub mod view;
pub mod wire;
