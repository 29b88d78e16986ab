//! The audit log on this node's disk. Step ⑤ of a stop.
//!
//! ```text
//! <data>/log/checkpoint                    the signed checkpoint, replaced as a whole, always last
//! <data>/log/tile/<L>/<N>                  full hash tiles, written once, mode 0444
//! <data>/log/tile/entries/<N>              full entry bundles, likewise
//! <data>/log/tile/entries/<N>.p/<W>        the newest partial bundle: what full ones do not hold yet
//! ```
//!
//! A node writes it from the entries that it applied, off the path of the acknowledgement: what was acknowledged is
//! durable in the Raft log, which is purged only below the checkpoint. After a crash the entries above the checkpoint are
//! applied again, and those that had reached the disk must then be equal, byte for byte (S9). Partial hash tiles are not
//! kept: they follow from the entries and the full tiles, and are served from memory.
//!
//! In a cluster the ledger may get ahead of the log: a snapshot from the leader skips entries. Until they have come from
//! other nodes (`fill.rs`) the log has a gap, and the node is not [complete](AuditReader::complete).

mod edge;
mod fill;
mod gap;
mod reader;
mod tree;
mod writer;

pub use fill::{NoPeers, Peers};
pub use reader::{AuditReader, LAG_MAX};
pub use tree::{Side, Tiles, Tree, TreeError, first_difference};
pub use writer::{AuditLog, AuditSink};

#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    #[error(
        "this node's audit log has {logged} entries, but its Raft store knows only {applied}: the store was put back or lost a \
         part. It is refused, since it has forgotten what was acknowledged. Put back the newer store if you have it"
    )]
    Ahead { applied: u64, logged: u64 },
    #[error("the audit log's writer has ended")]
    Ended,
    #[error("the audit log at {path} cannot be {doing}")]
    Io {
        doing: &'static str,
        path: String,
        #[source]
        source: std::io::Error,
    },
    #[error(
        "the audit log at {path} is damaged: {what}. Keep the folder for analysis and do not start this node on it; \
         restore it from a copy that is not older than the Raft store, or the node would not start either"
    )]
    Damaged { path: String, what: String },
    #[error(
        "this node's state differs from its own audit log at entry {index}: it stops rather than serve either. Keep its \
         data folder for analysis; compare with another node's log with `tagout log verify`"
    )]
    Diverged { index: u64 },
    #[error(
        "the logs of the other nodes ({}) are not the one that this node's ledger came to: it stops rather than serve what \
         differs. Keep its data folder for analysis, and put a new node in its place: `tagout node replace`",
        nodes.iter().map(u64::to_string).collect::<Vec<_>>().join(", ")
    )]
    PeersDiffer { nodes: Vec<u64> },
    #[error(
        "the disk of the audit log at {path} has not answered for {} s: it hangs. Check the disk, then start the node again",
        patience.as_secs()
    )]
    Hung { path: String, patience: std::time::Duration },
}

#[cfg(test)]
mod tests;
