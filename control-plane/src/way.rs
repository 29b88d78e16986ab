//! The way of one command through the nodes, as operators follow it: a span with its digest on each node that it passes, and
//! in it the events received, proposed, handed on, applied, pushed, confirmed and outcome. `RUST_LOG=info,tagout::way=debug` shows
//! them.

use tagout_proto::digest::Digest;
use tracing::Span;

/// The target of the events.
pub const WAY: &str = "tagout::way";

pub fn way(digest: &Digest) -> Span {
    tracing::info_span!(target: WAY, "command", %digest)
}
