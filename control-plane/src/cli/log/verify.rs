//! The verifier: everything in a log follows again from the pinned genesis and the signatures of people.
//!
//! It replays every entry into the same ledger that nodes run, which must write the very same bytes. So a signature, an
//! authorisation, an order or a chaining that does not hold is found at the first entry where it fails. What no replay
//! can find, a cut end or another history, is found against the newest checkpoint that this machine has seen.

use std::collections::BTreeMap;

use serde::Serialize;
use tagout_proto::authority::Authority;
use tagout_proto::digest::Digest;
use tagout_proto::ledger::{Ledger, Proposal};
use tagout_proto::log::checkpoint::Checkpoint;
use tagout_proto::log::entry::Entry;
use tagout_proto::log::tile::{TILE_WIDTH, TileId, TileKind, subtree_root};
use tagout_proto::log::tree::leaf_hash;

use super::tiles::{LogError, LogReader, Tiles, open_checkpoint};

/// What holds for a log in which nothing was found wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verified {
    pub size: u64,
    pub root: Digest,
    /// How many entries of each kind.
    pub kinds: BTreeMap<&'static str, u64>,
    pub signatures: u64,
    /// The older checkpoint that this log continues.
    pub continues: Option<u64>,
}

/// Verifies the log of `tiles` up to the checkpoint `note`. `seen` is the newest checkpoint known before.
pub fn verify(
    tiles: &dyn Tiles,
    note: &str,
    authority: &Authority,
    seen: Option<&Checkpoint>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Verified, LogError> {
    let checkpoint = open_checkpoint(note, authority)?;
    let size = checkpoint.size;
    if let Some(seen) = seen.filter(|seen| seen.size > size) {
        return Err(LogError::Shorter { size, seen: seen.size });
    }

    let reader = LogReader::new(tiles, size);
    let mut replay = Replay::new(authority.deployment.genesis);
    check_seen(&replay, seen)?;
    for n in 0..size.div_ceil(TILE_WIDTH) {
        let leaves = reader.published_hashes(0, n)?;
        for (at, bytes) in reader.bundle(n)?.iter().enumerate() {
            let leaf = replay.entry(bytes)?;
            if leaves.as_ref().is_some_and(|leaves| leaves[at] != leaf) {
                let width = reader.width(0, n).expect("within the log");
                let tile = TileId { kind: TileKind::Hashes { level: 0 }, n, width };
                let what =
                    format!("it does not hash to its leaf in tile/{tile}: the entry or the tile was changed");
                return Err(LogError::Entry { index: n * TILE_WIDTH + at as u64, what });
            }
            check_seen(&replay, seen)?;
        }
        progress(replay.ledger.size(), size);
    }

    let found = replay.ledger.frontier().root();
    if found != checkpoint.root {
        return Err(LogError::Root { size, found, signed: checkpoint.root });
    }
    check_upper_tiles(&reader, &replay.levels)?;
    let continues = seen.map(|seen| seen.size);
    Ok(Verified { size, root: found, kinds: replay.kinds, signatures: replay.signatures, continues })
}

/// The ledger as it grows again, and the hashes of every level that follow.
struct Replay {
    ledger: Ledger,
    /// By level from 0 on: the leaves of the unfinished tile, then all hashes above.
    levels: Vec<Vec<Digest>>,
    kinds: BTreeMap<&'static str, u64>,
    signatures: u64,
}

impl Replay {
    fn new(pinned: Digest) -> Self {
        Self { ledger: Ledger::new(pinned), levels: vec![vec![]], kinds: BTreeMap::new(), signatures: 0 }
    }

    /// Takes the next entry and returns its leaf hash.
    fn entry(&mut self, bytes: &[u8]) -> Result<Digest, LogError> {
        let index = self.ledger.size();
        let wrong = |what: String| Err(LogError::Entry { index, what });
        let entry = match Entry::decode(bytes) {
            Ok(entry) => entry,
            Err(error) => return wrong(error.to_string()),
        };
        if entry.index != index {
            let what = format!(
                "it is the record of entry {}: entries were dropped, inserted or swapped",
                entry.index
            );
            return wrong(what);
        }
        if entry.prev != self.ledger.prev() {
            return wrong(
                "its `prev` is not the SHA-256 of the entry before it: one of the two was changed".into(),
            );
        }
        let Entry { kind, time_ms, envelope, .. } = entry;
        self.signatures += envelope.signatures.len() as u64;
        let applied = self.ledger.apply(&Proposal { kind, time_ms, envelope });
        match (applied.entry, applied.answer) {
            (Some(written), _) if written == bytes => {}
            (Some(_), _) => return wrong("the ledger writes other bytes for it".into()),
            (None, Ok(_)) => {
                return wrong("its command had taken effect before, and does so only once".into());
            }
            (None, Err(refusal)) => return wrong(format!("the ledger refuses it: {refusal}")),
        }
        *self.kinds.entry(kind.name()).or_default() += 1;
        let leaf = leaf_hash(bytes);
        self.push(leaf);
        Ok(leaf)
    }

    fn push(&mut self, leaf: Digest) {
        self.levels[0].push(leaf);
        if self.levels[0].len() < TILE_WIDTH as usize {
            return;
        }
        let mut hash = subtree_root(&self.levels[0]);
        self.levels[0].clear();
        for level in 1.. {
            if self.levels.len() == level {
                self.levels.push(vec![]);
            }
            self.levels[level].push(hash);
            let full = self.levels[level].len().is_multiple_of(TILE_WIDTH as usize);
            match self.levels[level].rchunks(TILE_WIDTH as usize).next() {
                Some(tile) if full => hash = subtree_root(tile),
                _ => break,
            }
        }
    }
}

fn check_seen(replay: &Replay, seen: Option<&Checkpoint>) -> Result<(), LogError> {
    let frontier = replay.ledger.frontier();
    match seen.filter(|seen| seen.size == frontier.size()) {
        Some(seen) if seen.root != frontier.root() => {
            Err(LogError::Forked { size: seen.size, found: frontier.root(), seen: seen.root })
        }
        _ => Ok(()),
    }
}

/// Compares the published tiles above the leaves with what follows from the entries.
fn check_upper_tiles(reader: &LogReader<'_>, levels: &[Vec<Digest>]) -> Result<(), LogError> {
    for (level, hashes) in levels.iter().enumerate().skip(1) {
        for (n, expected) in hashes.chunks(TILE_WIDTH as usize).enumerate() {
            let (level, n) = (level as u8, n as u64);
            let Some(published) = reader.published_hashes(level, n)? else { continue };
            if let Some(at) = published.iter().zip(expected).position(|(found, right)| found != right) {
                let width = expected.len() as u16;
                return Err(LogError::Tile {
                    tile: TileId { kind: TileKind::Hashes { level }, n, width },
                    at,
                });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
