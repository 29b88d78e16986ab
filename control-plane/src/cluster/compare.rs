//! This node's log beside the others' (S8), and pieces of theirs for one that lacks a part of its own.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tagout_proto::digest::Digest;
use tagout_proto::log::tile::TileId;

use super::Cluster;
use super::exchange::EXCHANGE_TIMEOUT;
use crate::audit::{self, AuditReader, Side, Tiles, Tree, first_difference};
use crate::divergence::{Claim, Differs, Verdict};
use crate::peers::{CallError, Kind, Peers};

/// How long a peer may take for a piece of its log.
const LOG_TIMEOUT: Duration = Duration::from_secs(10);

impl Cluster {
    /// Holds what a peer says of its log against this node's (S8). A node that differs from the majority, or cannot tell
    /// who is right, signs no leases from here on.
    pub(super) async fn compare(self: &Arc<Self>, claim: Claim) {
        if claim.size == 0 {
            return;
        }
        let cluster = self.clone();
        // A size of long ago takes a few tiles from the disk.
        let heard = crate::blocking(move || {
            let mut divergence = cluster.divergence.lock();
            divergence.hear(claim, |size| cluster.audit.root_at(size))?;
            Ok(divergence.verdict())
        });
        let verdict = match heard.await {
            Ok(verdict) => verdict,
            Err(error) => return tracing::error!(%error, "the root of this node's own log cannot be read"),
        };
        metrics::gauge!("tagout_log_diverged").set(match verdict {
            Verdict::Agree | Verdict::Waiting { .. } => 0.0,
            Verdict::OthersDiffer { .. } | Verdict::NoMajority { .. } | Verdict::ThisDiffers { .. } => 1.0,
        });
        let nodes = match &verdict {
            Verdict::Agree | Verdict::Waiting { .. } => return self.differs_no_more(),
            Verdict::OthersDiffer { nodes }
            | Verdict::ThisDiffers { nodes }
            | Verdict::NoMajority { nodes } => nodes,
        };
        if self.said.lock().as_ref().is_some_and(|(said, _)| *said == verdict) {
            return;
        }
        // Said, and acted upon, before the entry is looked for: that takes answers of the other node.
        let mut text = verdict.to_string();
        *self.said.lock() = Some((verdict.clone(), text.clone()));
        match self.first_difference(nodes[0]).await {
            Ok(Some(index)) => text.push_str(&format!(". The first entry that differs is {index}")),
            Ok(None) => {}
            Err(error) => tracing::warn!(error, "where the logs begin to differ could not be found"),
        }
        tracing::error!("{text}");
        if let Some((_, words)) = self.said.lock().as_mut().filter(|(said, _)| *said == verdict) {
            *words = text;
        }
    }

    fn differs_no_more(&self) {
        if self.said.lock().take().is_some() {
            tracing::info!("the logs of the nodes are one log again");
        }
    }

    /// The first entry that a peer has otherwise, found over the hash tiles of both.
    async fn first_difference(&self, differs: Differs) -> Result<Option<u64>, String> {
        let (size, id) = (differs.size, differs.node);
        let root_there: Option<Digest> = self
            .peers
            .ask(id, Kind::Root, &size, EXCHANGE_TIMEOUT)
            .await
            .map_err(|error| error.to_string())?;
        let root_here = self.audit.root_at(size).map_err(|error| error.to_string())?;
        let (Some(here), Some(there)) = (root_here, root_there) else { return Ok(None) };
        let mut ours = Tree::open(OwnTiles(&self.audit), size, here).await.map_err(|e| e.to_string())?;
        let mut theirs =
            Tree::open(PeerTiles(&self.peers, id), size, there).await.map_err(|e| e.to_string())?;
        first_difference(&mut ours, &mut theirs).await.map_err(|(side, error)| match side {
            Side::Shorter => format!("this node: {error}"),
            Side::Longer => format!("node {id}: {error}"),
        })
    }
}

/// The logs of the other nodes, for one that lacks a part of its own.
pub struct PeerLogs(pub Arc<Peers>);

impl audit::Peers for PeerLogs {
    fn others(&self) -> Vec<u64> {
        self.0.others()
    }

    async fn tile(&self, peer: u64, id: TileId) -> io::Result<Option<Vec<u8>>> {
        PeerTiles(&self.0, peer).tile(id).await
    }

    async fn entries(&self, peer: u64, from: u64, max: u64) -> io::Result<Vec<Vec<u8>>> {
        Ok(self.0.ask(peer, Kind::Entries, &(from, max), LOG_TIMEOUT).await?)
    }
}

struct PeerTiles<'a>(&'a Arc<Peers>, u64);

impl Tiles for PeerTiles<'_> {
    async fn tile(&self, id: TileId) -> io::Result<Option<Vec<u8>>> {
        Ok(self.0.ask(self.1, Kind::Tile, &id.to_string(), LOG_TIMEOUT).await?)
    }
}

struct OwnTiles<'a>(&'a AuditReader);

impl Tiles for OwnTiles<'_> {
    async fn tile(&self, id: TileId) -> io::Result<Option<Vec<u8>>> {
        let audit = self.0.clone();
        crate::blocking(move || audit.tile(id)).await
    }
}

impl From<CallError> for io::Error {
    fn from(error: CallError) -> Self {
        io::Error::other(error)
    }
}
