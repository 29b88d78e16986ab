//! Reading the log: full tiles from their files, the rest from memory.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use tagout_proto::digest::Digest;
use tagout_proto::log::entry::Entry;
use tagout_proto::log::tile::{
    TILE_WIDTH, TileId, TileKind, hashes_at, parse_bundle, parse_hashes, push_entry,
};
use tokio::sync::watch;

use super::edge::{Edge, right_edge, root_of};
use super::gap::{Mark, Progress};

/// Applied entries that may wait for this node's disk before new proposals wait for them: a bound on memory.
pub const LAG_MAX: u64 = 16 * 1024;
/// Roots of the ledger that are remembered: nodes compare theirs within seconds of one another.
const RECENT_MAX: usize = 2048;
/// What one answer to a peer carries, or one entry if that is larger.
const ANSWER_BYTES: usize = 256 * 1024;

/// A cheap handle; calls may read a file.
#[derive(Clone)]
pub struct AuditReader {
    pub(super) folder: Arc<Path>,
    pub(super) pending: Pending,
    pub(super) edge: Arc<RwLock<Edge>>,
    pub(super) checkpoint: watch::Receiver<Checkpointed>,
    pub(super) progress: watch::Receiver<Progress>,
    pub(super) recent: Recent,
}

/// The ledger's newest sizes and roots, in order.
#[derive(Clone, Default)]
pub(super) struct Recent(Arc<Mutex<VecDeque<Mark>>>);

impl Recent {
    pub(super) fn push(&self, mark: Mark) {
        let mut marks = self.0.lock();
        // A ledger that was restored begins anew.
        if marks.back().is_some_and(|last| last.size >= mark.size) {
            marks.clear();
        }
        if marks.len() == RECENT_MAX {
            marks.pop_front();
        }
        marks.push_back(mark);
    }

    fn root_at(&self, size: u64) -> Option<Digest> {
        let marks = self.0.lock();
        let at = marks.binary_search_by_key(&size, |mark| mark.size).ok()?;
        Some(marks[at].root)
    }
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

    /// Whether the log holds every entry that the ledger went through, or is about to. Without that a node must not serve:
    /// it cannot show what its state stands on (S8).
    pub fn complete(&self) -> bool {
        self.progress.borrow().complete()
    }

    /// How many entries have to come from other nodes.
    pub fn missing(&self) -> u64 {
        self.progress.borrow().missing
    }

    /// Waits until the log is complete.
    pub async fn completed(&self) {
        let mut progress = self.progress.clone();
        if progress.wait_for(Progress::complete).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Waits while more than [`LAG_MAX`] of the ledger's entries wait in memory for the disk. During a gap none do, and
    /// nobody waits: not a stop, above all (S10).
    pub async fn keep_up(&self, ledger_size: u64) {
        let mut progress = self.progress.clone();
        tokio::select! {
            () = self.wait_for(ledger_size.saturating_sub(LAG_MAX)) => {}
            Ok(_) = progress.wait_for(|progress| !progress.complete()) => {}
        }
    }

    /// The root of the log's first `size` entries, or `None` if neither log nor ledger have come so far. Those of the last
    /// few thousand sizes are remembered; others take one tile of each level.
    pub fn root_at(&self, size: u64) -> io::Result<Option<Digest>> {
        if let Some(root) = self.recent.root_at(size) {
            return Ok(Some(root));
        }
        self.tree_root(size)
    }

    /// The same by the tiles alone.
    pub(super) fn tree_root(&self, size: u64) -> io::Result<Option<Digest>> {
        let mut levels = Vec::new();
        for id in right_edge(size) {
            levels.push(match id {
                None => Vec::new(),
                Some(id) => match self.tile(id)?.and_then(|bytes| parse_hashes(&bytes)) {
                    Some(hashes) => hashes,
                    None if size > self.edge.read().size() => return Ok(None),
                    None => return Err(io::Error::other(format!("tile {id} is missing or torn"))),
                },
            });
        }
        Ok(root_of(size, &levels))
    }

    /// Entries from index `from` on, for a peer: at most `max`, and no more than an answer should carry.
    pub fn entries(&self, from: u64, max: u64) -> io::Result<Vec<Vec<u8>>> {
        let (mut entries, mut bytes) = (Vec::new(), 0);
        let end = self.edge.read().size().min(from.saturating_add(max));
        let mut bundle = None;
        for index in from..end {
            let entry = self.edge.read().entry(index).map(<[u8]>::to_vec);
            let entry = match entry {
                Some(entry) => entry,
                None => {
                    let n = index / TILE_WIDTH;
                    if bundle.as_ref().is_none_or(|(have, _)| *have != n) {
                        bundle = Some((n, self.bundle(n)?));
                    }
                    let found = bundle.as_ref().and_then(|(_, all)| all.get((index % TILE_WIDTH) as usize));
                    found.cloned().ok_or_else(|| io::Error::other(format!("bundle {n} is torn")))?
                }
            };
            bytes += entry.len();
            if bytes > ANSWER_BYTES && !entries.is_empty() {
                break;
            }
            entries.push(entry);
        }
        Ok(entries)
    }

    /// The entries of a full bundle; none where it cannot be one.
    pub(super) fn bundle(&self, n: u64) -> io::Result<Vec<Vec<u8>>> {
        let id = TileId { kind: TileKind::Entries, n, width: TILE_WIDTH as u16 };
        let bytes = self.tile(id)?.unwrap_or_default();
        Ok(parse_bundle(&bytes).unwrap_or_default().into_iter().map(<[u8]>::to_vec).collect())
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
