//! The audit log: hash-chained entries that are the leaves of an RFC 6962 tree, in the formats of C2SP tlog-tiles.

pub mod checkpoint;
pub mod entry;
pub mod proof;
pub mod tile;
pub mod tree;
