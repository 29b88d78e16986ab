//! The verifier: everything in a log follows again from the pinned genesis and the signatures of people.
//!
//! It replays every entry into the same ledger that nodes run, which must write the very same bytes. So a signature, an
//! authorisation, an order or a chaining that does not hold is found at the first entry where it fails. What no replay
//! can find, a cut end or another history, is found against older checkpoints, first of all the newest that this machine
//! has seen.
//!
//! Replaying is slow, hashing is not: what was replayed before is only hashed again, all of it, and the replay goes on
//! where it ended if those are the very same bytes.

use std::collections::BTreeMap;

use serde::Serialize;
use tagout_proto::digest::Digest;
use tagout_proto::log::checkpoint::Checkpoint;
use tagout_proto::log::entry::{Entry, EntryKind};
use tagout_proto::log::tile::{TILE_WIDTH, TileId, TileKind, subtree_root};
use tagout_proto::log::tree::{Frontier, leaf_hash};
use tagout_proto::trust::Trust;

use super::tiles::{Bundle, Found, LogError, LogReader, Tiles, open_checkpoint};

mod replay;

pub use replay::Replay;
use replay::{Wrong, named};

/// A log and what is known about it beforehand.
pub struct Log<'a> {
    pub tiles: &'a dyn Tiles,
    /// The signed checkpoint up to which it is verified.
    pub note: &'a str,
    pub trust: &'a Trust,
    /// Verified checkpoints that it must continue.
    pub older: &'a [Checkpoint],
}

/// What holds for a log in which nothing was found wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verified {
    pub size: u64,
    pub root: Digest,
    /// How many entries of each kind.
    pub kinds: BTreeMap<EntryKind, u64>,
    pub signatures: u64,
    /// The size of the newest older checkpoint that this log continues.
    pub continues: Option<u64>,
    /// How many entries had been replayed before, and are the same bytes still.
    pub resumed_at: u64,
}

/// How far it has come.
pub enum Step<'a> {
    /// So many entries are the ones that were replayed before.
    Hashed(u64),
    Replayed(&'a Replay),
    /// It ends here, at the log's end or because the log cannot be read on; all that was replayed is good.
    Ended(&'a Replay),
}

/// Verifies `log`, after what of it was replayed before.
pub fn verify(
    log: &Log<'_>,
    before: Option<Replay>,
    step: &mut dyn FnMut(Step<'_>),
) -> Result<Verified, LogError> {
    let checkpoint = open_checkpoint(log.note, log.trust)?;
    let size = checkpoint.size;
    if let Some(older) = log.older.iter().find(|older| older.size > size) {
        return Err(LogError::Shorter { size, seen: older.size });
    }
    let reader = LogReader::new(log.tiles, size);
    let mut pass = match before.filter(|before| before.size() <= size) {
        Some(before) => Pass::resume(&reader, before, log.older, step)?,
        None => None,
    }
    .unwrap_or_else(|| Pass::new(Replay::new(log.trust.deployment().genesis)));
    let resumed_at = pass.replay.size();

    let found = pass.run(&reader, log.older, step).and_then(|()| {
        let found = pass.hashes.root();
        if found != checkpoint.root {
            return Err(LogError::Root { size, found, signed: checkpoint.root });
        }
        // It is what the node signed, so that the node itself has shown two histories.
        if let Some(forked) = pass.forked.take() {
            return Err(forked);
        }
        check_upper_tiles(&reader, &pass.hashes.levels)
    });
    match (found, pass.suspect) {
        (Ok(()), None) => step(Step::Ended(&pass.replay)),
        (Err(LogError::Read(failure)), suspect) => {
            if suspect.is_none() && pass.forked.is_none() {
                step(Step::Ended(&pass.replay));
            }
            return Err(LogError::Read(failure));
        }
        // All entries are what the node signed, so it is the tile that is not.
        (Ok(()), Some(Suspect { tile, at, .. })) => return Err(LogError::Tile { tile, at }),
        // What is wrong further on follows from it.
        (Err(_), Some(suspect)) => return Err(suspect.into()),
        (Err(error), None) => return Err(error),
    }
    let Replay { kinds, signatures, .. } = pass.replay;
    let continues = log.older.iter().map(|older| older.size).max();
    Ok(Verified { size, root: checkpoint.root, kinds, signatures, continues, resumed_at })
}

/// One way through a log.
struct Pass {
    replay: Replay,
    hashes: Hashes,
    suspect: Option<Suspect>,
    /// An older checkpoint with another root: by an entry that was changed, which shows further on, or by a fork.
    forked: Option<LogError>,
}

/// The first entry that replays and does not hash to its leaf in the published tile. Which of the two was changed shows
/// further on: by the chain, or by the root.
struct Suspect {
    index: u64,
    of: String,
    tile: TileId,
    at: usize,
}

impl From<Suspect> for LogError {
    fn from(Suspect { index, of, tile, .. }: Suspect) -> Self {
        let what = format!(
            "it does not hash to its leaf in tile/{tile}, nor does the rest fit: the entry was changed after it was written"
        );
        LogError::Entry { index, of, what }
    }
}

impl Pass {
    fn new(replay: Replay) -> Self {
        Self { replay, hashes: Hashes::default(), suspect: None, forked: None }
    }

    /// Hashes again what was replayed `before`; `None` unless all of it is the same. What is wrong otherwise, a replay
    /// from the first entry on tells best.
    fn resume(
        reader: &LogReader<'_>,
        before: Replay,
        older: &[Checkpoint],
        step: &mut dyn FnMut(Step<'_>),
    ) -> Result<Option<Self>, LogError> {
        let (mut hashes, until) = (Hashes::default(), before.size());
        for n in 0..until.div_ceil(TILE_WIDTH) {
            let (found, published) = match (reader.bundle_as_found(n), reader.published_hashes(0, n)) {
                (Err(LogError::Read(failure)), _) | (_, Err(LogError::Read(failure))) => {
                    return Err(LogError::Read(failure));
                }
                (Ok(found), Ok(published)) if found.whole => (found, published),
                _ => return Ok(None),
            };
            let left = (until - hashes.size()).min(TILE_WIDTH) as usize;
            for (at, entry) in found.entries.iter().take(left).enumerate() {
                let leaf = leaf_hash(entry);
                hashes.push(leaf);
                if published.as_ref().is_some_and(|leaves| leaves[at] != leaf) || hashes.check(older).is_err()
                {
                    return Ok(None);
                }
            }
            step(Step::Hashed(hashes.size()));
        }
        let same = hashes.root() == before.root();
        Ok(same.then_some(Self { replay: before, hashes, suspect: None, forked: None }))
    }

    fn run(
        &mut self,
        reader: &LogReader<'_>,
        older: &[Checkpoint],
        step: &mut dyn FnMut(Step<'_>),
    ) -> Result<(), LogError> {
        for n in self.replay.size() / TILE_WIDTH..reader.size().div_ceil(TILE_WIDTH) {
            let found = reader.bundle_as_found(n)?;
            let published = reader.published_hashes(0, n)?;
            let first = n * TILE_WIDTH;
            for at in (self.replay.size() - first) as usize..found.entries.len() {
                let (index, bytes) = (first + at as u64, &found.entries[at]);
                let leaf = match self.replay.entry(bytes) {
                    Ok(leaf) => leaf,
                    Err(wrong) => return Err(blame(reader, index, wrong, &found.entries)),
                };
                self.hashes.push(leaf);
                let differs = published.as_ref().is_some_and(|leaves| leaves[at] != leaf);
                if differs && self.suspect.is_none() {
                    let kind = TileKind::Hashes { level: 0 };
                    let tile = TileId { kind, ..found.id };
                    self.suspect = Some(Suspect { index, of: named(bytes), tile, at });
                }
                self.forked = self.forked.take().or(self.hashes.check(older).err());
            }
            if !found.whole {
                return Err(torn(&found, self.replay.size()));
            }
            if self.suspect.is_none() && self.forked.is_none() {
                step(Step::Replayed(&self.replay));
            }
        }
        Ok(())
    }
}

/// Which entry it is that was changed, where `index` does not follow from the one before it.
fn blame(reader: &LogReader<'_>, index: u64, wrong: Wrong, entries: &Bundle) -> LogError {
    let at = (index % TILE_WIDTH) as usize;
    let next = match entries.get(at + 1) {
        Some(next) => Some(next.clone()),
        // It is only a hint: what cannot be read says nothing.
        None if index + 1 < reader.size() && at + 1 == TILE_WIDTH as usize => reader
            .bundle_as_found(index / TILE_WIDTH + 1)
            .ok()
            .and_then(|found| found.entries.first().cloned()),
        None => None,
    };
    let next = next.and_then(|next| Entry::decode(&next).ok());
    // The chain goes on from this entry as it stands, so that it is the one before it that was changed.
    let intact = next.is_some_and(|next| next.prev == Digest::of(&entries[at]));
    match (wrong, at.checked_sub(1)) {
        (Wrong::Prev, Some(before)) if intact => LogError::Entry {
            index: index - 1,
            of: named(&entries[before]),
            what: format!(
                "its SHA-256 is not the `prev` of entry {index}, from which the chain goes on: it was changed after it was \
                 written"
            ),
        },
        (wrong, _) => LogError::Entry { index, of: named(&entries[at]), what: wrong.to_string() },
    }
}

/// A bundle of which all entries replay, and which is not what it should be all the same.
fn torn(found: &Found, size: u64) -> LogError {
    let (id, of) = (found.id, String::new());
    if found.entries.len() == usize::from(id.width) {
        return LogError::Malformed(id);
    }
    let what = format!("it is missing: tile/{id} ends before it, so it was dropped or the tile was cut off");
    LogError::Entry { index: size, of, what }
}

/// The tree over the entries that were read, with the hashes of every level.
struct Hashes {
    frontier: Frontier,
    /// By level from 0 on: the leaves of the unfinished tile, then all hashes above.
    levels: Vec<Vec<Digest>>,
}

impl Default for Hashes {
    fn default() -> Self {
        Self { frontier: Frontier::default(), levels: vec![vec![]] }
    }
}

impl Hashes {
    fn size(&self) -> u64 {
        self.frontier.size()
    }

    fn root(&self) -> Digest {
        self.frontier.root()
    }

    fn push(&mut self, leaf: Digest) {
        self.frontier.push(leaf);
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

    /// Compares with the older checkpoints of just this size.
    fn check(&self, older: &[Checkpoint]) -> Result<(), LogError> {
        match older.iter().find(|older| older.size == self.size() && older.root != self.root()) {
            Some(older) => Err(LogError::Forked { size: older.size, found: self.root(), seen: older.root }),
            None => Ok(()),
        }
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
