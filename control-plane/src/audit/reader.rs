//! Reading the log: full tiles from their files, the rest from memory.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::RwLock;
use tagout_proto::log::entry::Entry;
use tagout_proto::log::tile::{TILE_WIDTH, TileId, TileKind, hashes_at, parse_bundle, push_entry};
use tokio::sync::watch;

use super::edge::Edge;

/// Applied entries that may wait for this node's disk before new proposals wait for them: a bound on memory.
pub const LAG_MAX: u64 = 16 * 1024;

/// A cheap handle; calls may read a file.
#[derive(Clone)]
pub struct AuditReader {
    pub(super) folder: Arc<Path>,
    pub(super) pending: Pending,
    pub(super) edge: Arc<RwLock<Edge>>,
    pub(super) checkpoint: watch::Receiver<Checkpointed>,
}

/// Entries that were applied and have not reached the edge yet: whoever sees the ledger may ask for them.
pub(super) type Pending = Arc<RwLock<BTreeMap<u64, Vec<u8>>>>;

#[derive(Clone, Debug, Default)]
pub(super) struct Checkpointed {
    pub(super) size: u64,
    pub(super) note: Arc<str>,
}

impl AuditReader {
    /// The newest signed checkpoint; empty before the first.
    pub fn checkpoint(&self) -> Arc<str> {
        self.checkpoint.borrow().note.clone()
    }

    pub fn checkpointed_size(&self) -> u64 {
        self.checkpoint.borrow().size
    }

    /// Waits until the checkpoint covers `size` entries.
    pub async fn wait_for(&self, size: u64) {
        let mut receiver = self.checkpoint.clone();
        // The writer's end: nobody waits for a log that is gone, and the caller's own bound ends it.
        if receiver.wait_for(|c| c.size >= size).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// The bytes of a tile of any width that the log has reached.
    pub fn tile(&self, id: TileId) -> io::Result<Option<Vec<u8>>> {
        {
            let edge = self.edge.read();
            let (level, at_edge) = match id.kind {
                TileKind::Entries => (0, edge.first_entry() / TILE_WIDTH),
                TileKind::Hashes { level } => (level, hashes_at(level, edge.size()) / TILE_WIDTH),
            };
            if id.n > at_edge {
                return Ok(None);
            }
            if id.n == at_edge {
                let width = usize::from(id.width);
                if width > edge.hashes(level).len() {
                    return Ok(None);
                }
                return Ok(Some(match id.kind {
                    TileKind::Entries => edge.bundle(width),
                    TileKind::Hashes { level } => {
                        edge.hashes(level)[..width].iter().flat_map(|h| h.0).collect()
                    }
                }));
            }
        }
        let full = TileId { width: TILE_WIDTH as u16, ..id };
        let bytes = match std::fs::read(self.path(full)) {
            Ok(bytes) => bytes,
            // Full in memory, and its file about to be there.
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        if id.is_full() {
            return Ok(Some(bytes));
        }
        let width = usize::from(id.width);
        Ok(match id.kind {
            TileKind::Hashes { .. } => bytes.get(..width * 32).map(<[u8]>::to_vec),
            TileKind::Entries => parse_bundle(&bytes).map(|entries| {
                let mut part = Vec::new();
                entries.into_iter().take(width).for_each(|entry| push_entry(&mut part, entry));
                part
            }),
        })
    }

    /// The bytes of one entry.
    pub fn entry_bytes(&self, index: u64) -> io::Result<Option<Vec<u8>>> {
        if let Some(entry) = self.pending.read().get(&index) {
            return Ok(Some(entry.clone()));
        }
        if let Some(entry) = self.edge.read().entry(index) {
            return Ok(Some(entry.to_vec()));
        }
        let id = TileId { kind: TileKind::Entries, n: index / TILE_WIDTH, width: TILE_WIDTH as u16 };
        let Some(bundle) = self.tile(id)? else { return Ok(None) };
        let entries =
            parse_bundle(&bundle).ok_or_else(|| io::Error::other(format!("bundle {id} is torn")))?;
        Ok(entries.get((index % TILE_WIDTH) as usize).map(|entry| entry.to_vec()))
    }

    /// One entry, decoded. An entry that the ledger names must be there.
    pub fn entry(&self, index: u64) -> io::Result<Entry> {
        let bytes = self.entry_bytes(index)?;
        let bytes = bytes.ok_or_else(|| io::Error::other(format!("entry {index} is not in the log")))?;
        Entry::decode(&bytes).map_err(|e| io::Error::other(format!("entry {index}: {e}")))
    }

    pub(super) fn path(&self, id: TileId) -> PathBuf {
        self.folder.join("tile").join(id.to_string())
    }
}
