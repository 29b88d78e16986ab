//! Where a node keeps its Raft log: bytes on a disk, behind one small trait.
//!
//! ```text
//! <path>/CURRENT      which store holds the log: "sled" or "segment"
//! <path>/sled/        the sled store (see sled.rs)
//! <path>/segment/     the segment store (see segment.rs)
//! ```
//!
//! Both hold the same things: entries by Raft index, the vote, the last purged entry, the committed position and the
//! node's identity. What these bytes mean is decided in `raft/`. Changing the store of a node is one line of its
//! configuration: the next start copies the log over, and `CURRENT`, replaced as a whole, is the moment of the change.

pub mod files;
mod segment;
mod sled;
pub mod watchdog;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

pub use self::segment::SegmentDisk;
pub use self::sled::SledDisk;

/// The durable half of a Raft log.
///
/// The contract:
///
/// - **Atomic.** After a crash at any moment, `load` finds the effect of all of a `commit`'s operations or of none.
/// - **Durable.** What `commit` returned `Ok` for survives a crash of the process and a power cut.
/// - **In order.** Of commits made one after another, a later one never survives without the earlier.
/// - **Honest.** `load` gives back what was committed, or an error. It never skips, repairs or guesses at anything that
///   may have been acknowledged; it drops only what no `commit` can have returned `Ok` for.
///
/// After `commit` returned an error nothing is known about the disk, and asking it again proves nothing (a failed fsync
/// is reported once, and the pages it could not write are dropped). The owner ends the process.
///
/// Calls block; they have no place on an async thread.
pub trait LogDisk: Send + 'static {
    /// Everything that is stored, checked: checksums hold and the entries are contiguous. It is durable, also what a
    /// killed process had written and not synced.
    fn load(&self) -> io::Result<Loaded>;

    /// Makes these operations durable, in this order, all of them or none.
    fn commit(&self, ops: &[Op]) -> io::Result<()>;
}

/// One change to the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Who this store belongs to; written once, when it is made.
    SaveIdentity(Vec<u8>),
    SaveVote(Vec<u8>),
    /// How far the log was known to be committed. Only a hint for a faster restart, so it may lag.
    SaveCommitted(Option<Vec<u8>>),
    /// Appends at the end: `index` is one above the last entry, where there is one.
    Append {
        index: u64,
        entry: Vec<u8>,
    },
    /// Drops the entries above this index; `None` drops all.
    TruncateAfter(Option<u64>),
    /// Drops the entries up to and including this one, which may lie beyond the last (after a snapshot came from
    /// a leader).
    Purge(Purged),
}

/// The last entry that was purged: its index, and its log id as `raft/` writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Purged {
    pub index: u64,
    pub id: Vec<u8>,
}

/// All that a store holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loaded {
    pub identity: Option<Vec<u8>>,
    pub vote: Option<Vec<u8>>,
    pub committed: Option<Vec<u8>>,
    pub purged: Option<Purged>,
    /// Contiguous, from one above the purged entry, or from 0.
    pub entries: BTreeMap<u64, Vec<u8>>,
}

impl Loaded {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The index of the entry after the purged ones.
    pub fn first_index(&self) -> u64 {
        self.purged.as_ref().map_or(0, |p| p.index + 1)
    }

    /// The first index at which the entries are not contiguous, if there is one.
    fn gap(&self) -> Option<u64> {
        (self.first_index()..)
            .zip(self.entries.keys())
            .find(|(expected, found)| expected != *found)
            .map(|(e, _)| e)
    }
}

/// Which store keeps the log: `sled` or `segment` in a configuration and on a command line.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum StoreKind {
    /// The embedded database
    #[default]
    Sled,
    /// Append-only files
    Segment,
}

impl StoreKind {
    fn name(self) -> &'static str {
        match self {
            Self::Sled => "sled",
            Self::Segment => "segment",
        }
    }

    fn open(self, log: &Path) -> Result<Box<dyn LogDisk>, StoreError> {
        let path = log.join(self.name());
        Ok(match self {
            Self::Sled => Box::new(SledDisk::open(&path)?),
            Self::Segment => Box::new(SegmentDisk::open(&path)?),
        })
    }
}

const BOTH: [StoreKind; 2] = [StoreKind::Sled, StoreKind::Segment];

/// What an operator is told when a log cannot be trusted any more. A node that came back without part of its log could
/// vote twice in one term, or count an entry as stored that it has forgotten.
const LOST: &str = "Do not delete files here and start the node again: with part of its log gone it must not vote. \
Keep the folder for analysis. This version has no restore for a deployment of one node: make a new one with `tagout init`, \
and place a stop of * in it before agents reach it";

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("cannot {doing} {}", path.display())]
    Io {
        doing: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is in use by another process: stop that node first, or give this one a folder of its own", path.display())]
    InUse { path: PathBuf },
    #[error(
        "{} was written in store format {found}, and this version of tagout reads formats up to {known}: \
         start the version that wrote it, or a newer one", path.display()
    )]
    NewerFormat { path: PathBuf, found: u32, known: u32 },
    #[error("{} is damaged: {what}. {LOST}", path.display())]
    Damaged { path: PathBuf, what: String },
}

impl StoreError {
    fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { doing, path: path.to_owned(), source }
    }

    fn damaged(path: &Path, what: impl Into<String>) -> Self {
        Self::Damaged { path: path.to_owned(), what: what.into() }
    }
}

impl From<StoreError> for io::Error {
    fn from(e: StoreError) -> Self {
        let kind = match &e {
            StoreError::Io { source, .. } => source.kind(),
            StoreError::InUse { .. } => io::ErrorKind::ResourceBusy,
            StoreError::NewerFormat { .. } => io::ErrorKind::Unsupported,
            StoreError::Damaged { .. } => io::ErrorKind::InvalidData,
        };
        Self::new(kind, e)
    }
}

/// Opens the log in folder `path` in the store of this kind; makes it when there is none, and moves it when it is in
/// the other store.
pub fn open(kind: StoreKind, path: &Path) -> Result<Box<dyn LogDisk>, StoreError> {
    let current = path.join("CURRENT");
    files::create_folder(path).map_err(StoreError::io("create the folder", path))?;
    files::sweep_temporaries(path).map_err(StoreError::io("clean", path))?;

    let holder = match fs::read_to_string(&current) {
        Ok(text) => match BOTH.into_iter().find(|kind| text.trim() == kind.name()) {
            Some(holder) => holder,
            None => return Err(StoreError::damaged(&current, "it names no store that this version knows")),
        },
        Err(e) if e.kind() == io::ErrorKind::NotFound => return create(kind, path, &current),
        Err(e) => return Err(StoreError::io("read", &current)(e)),
    };

    // `CURRENT` is written after the store it names, so that one must be there. A store made afresh in its place would
    // be a node that forgot its vote.
    let holding = path.join(holder.name());
    if !holding.is_dir() {
        return Err(StoreError::damaged(&holding, "the folder that held the log is gone"));
    }
    // Whatever another store holds is older than the last change of `CURRENT`: a move that a crash stopped half-way
    // to the new store, or after the change, while the old one was being removed.
    for leftover in BOTH.into_iter().filter(|k| *k != holder).map(|k| path.join(k.name())) {
        remove_folder(&leftover)?;
    }
    let disk = holder.open(path)?;
    if holder == kind {
        return Ok(disk);
    }

    tracing::info!(from = holder.name(), to = kind.name(), path = %path.display(), "moving the log to the other store");
    let moved = kind.open(path)?;
    copy(disk.as_ref(), moved.as_ref())
        .map_err(StoreError::io("copy the log to the other store in", path))?;
    files::replace(&current, kind.name().as_bytes()).map_err(StoreError::io("write", &current))?;
    drop(disk);
    remove_folder(&holding)?;
    Ok(moved)
}

/// The first start. A crash before `CURRENT` is there leaves an empty store, since nothing was committed to it yet.
fn create(kind: StoreKind, path: &Path, current: &Path) -> Result<Box<dyn LogDisk>, StoreError> {
    for found in BOTH.into_iter().filter(|kind| path.join(kind.name()).is_dir()) {
        let held = found.open(path)?.load().map_err(StoreError::io("read the log in", path))?;
        if !held.is_empty() {
            return Err(StoreError::damaged(
                current,
                format!("it is gone, but {} holds a log", found.name()),
            ));
        }
        remove_folder(&path.join(found.name()))?;
    }
    let disk = kind.open(path)?;
    files::replace(current, kind.name().as_bytes()).map_err(StoreError::io("write", current))?;
    Ok(disk)
}

/// No log gets beyond this index: what is stored with a higher one is damage, and there is always a next index.
const INDEX_MAX: u64 = u64::MAX >> 1;

/// How many entries one commit of a move carries.
const MOVED_AT_ONCE: usize = 256;

fn copy(from: &dyn LogDisk, to: &dyn LogDisk) -> io::Result<()> {
    let held = from.load()?;
    let mut head = Vec::new();
    head.extend(held.identity.clone().map(Op::SaveIdentity));
    head.extend(held.vote.clone().map(Op::SaveVote));
    head.extend(held.purged.clone().map(Op::Purge));
    head.push(Op::SaveCommitted(held.committed.clone()));
    to.commit(&head)?;
    let appends: Vec<Op> = held
        .entries
        .iter()
        .map(|(index, entry)| Op::Append { index: *index, entry: entry.clone() })
        .collect();
    for some in appends.chunks(MOVED_AT_ONCE) {
        to.commit(some)?;
    }
    if to.load()? != held {
        return Err(io::Error::other("the copy reads back differently"));
    }
    Ok(())
}

fn remove_folder(path: &Path) -> Result<(), StoreError> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        removed => removed.map_err(StoreError::io("remove", path))?,
    }
    let parent = path.parent().unwrap_or(path);
    files::sync_folder(parent).map_err(StoreError::io("sync", parent))
}

/// What every store checks before it writes: an append that leaves a hole is a bug above, and would be found only at
/// the next start.
fn check_append(last: Option<u64>, index: u64) -> io::Result<()> {
    match last {
        Some(last) if index != last + 1 => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("entry {index} does not follow entry {last}"),
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
