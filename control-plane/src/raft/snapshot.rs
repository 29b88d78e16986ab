//! Snapshots, one file each.
//!
//! ```text
//! <path>/<last applied index>-<its term>.snap      both with 20 digits
//! ```
//!
//! A file is magic "TAGOUTSN", format u32, length of the head u32, the head (postcard: last applied log id, membership
//! and the id it was proposed at), the machine's bytes, CRC-32 of everything before it u32; numbers are little-endian.
//!
//! The newest two are kept, and the log keeps the entries that lead on from the older one (see [`Snapshots::purgeable`]):
//! one bad file costs a longer replay and nothing else.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

use super::types::{Snapshot, SnapshotMeta, decode, encode};
use crate::store::files;

const MAGIC: &[u8; 8] = b"TAGOUTSN";
/// 2: members have names, keys and addresses.
const FORMAT: u32 = 2;
const PREFIX_BYTES: usize = 16;
const CRC_BYTES: usize = 4;
const KEPT: usize = 2;
const SUFFIX: &str = "snap";
/// What a snapshot leaves free on the disk: entries are worth more than a shorter restart.
pub(super) const SPARE_BYTES: u64 = 64 << 20;

/// Why a node cannot start from its snapshots.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    #[error("cannot {doing} {}", path.display())]
    Io {
        doing: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "{} was written in snapshot format {found}, and this version of tagout reads formats up to {FORMAT}: start the \
         version that wrote it, or a newer one", path.display()
    )]
    NewerFormat { path: PathBuf, found: u32 },
    #[error(
        "no readable snapshot in {} reaches the log, which begins at entry {first_index} ({detail}): this node cannot \
         rebuild its state. Keep the folder for analysis and make a new deployment: this version has no \
         restore for a single node", path.display()
    )]
    OutOfReach { path: PathBuf, first_index: u64, detail: String },
}

pub(super) struct Snapshots {
    path: PathBuf,
    /// Held while a file is written, so that two writers take turns and closing waits for the one under way.
    newest: Mutex<Newest>,
    purgeable: Mutex<Option<u64>>,
}

#[derive(Default)]
struct Newest {
    /// What a restart would use.
    file: Option<PathBuf>,
    closed: bool,
}

enum Unreadable {
    Damaged(String),
    Refused(SnapshotError),
}

impl Snapshots {
    pub(super) fn open(path: &Path) -> Result<Self, SnapshotError> {
        let prepared = files::create_folder(path).and_then(|()| files::sweep_temporaries(path));
        prepared.map_err(|source| SnapshotError::Io {
            doing: "prepare the folder",
            path: path.to_owned(),
            source,
        })?;
        Ok(Self { path: path.to_owned(), newest: Mutex::default(), purgeable: Mutex::default() })
    }

    pub(super) fn is_empty(&self) -> Result<bool, SnapshotError> {
        Ok(self.list()?.is_empty())
    }

    /// The snapshot to start from: the newest that can be read, if the log, which begins at `first_index`, leads on
    /// from it. Files that cannot be read are put aside under the suffix `damaged`.
    pub(super) fn restore_point(&self, first_index: u64) -> Result<Option<Snapshot>, SnapshotError> {
        let mut damaged = Vec::new();
        let mut found = None;
        for file in self.list()?.into_iter().rev() {
            match read(&file) {
                Ok(snapshot) => {
                    found = Some((file, snapshot));
                    break;
                }
                Err(Unreadable::Damaged(what)) => damaged.push((file, what)),
                Err(Unreadable::Refused(e)) => return Err(e),
            }
        }
        let next_index = found.as_ref().map_or(0, |(_, s)| s.meta.last_log_id.map_or(0, |id| id.index() + 1));
        if next_index < first_index {
            let detail = match damaged.first() {
                Some((file, what)) => format!("{} {what}", file.display()),
                None => "there is no newer one".into(),
            };
            return Err(SnapshotError::OutOfReach { path: self.path.clone(), first_index, detail });
        }
        for (file, what) in damaged {
            tracing::error!(path = %file.display(), %what, "a snapshot cannot be read; going back to the one before it");
            let aside = file.with_extension("damaged");
            fs::rename(&file, &aside).map_err(|source| SnapshotError::Io {
                doing: "put aside",
                path: file.clone(),
                source,
            })?;
        }
        self.note_purgeable().map_err(|source| SnapshotError::Io {
            doing: "read",
            path: self.path.clone(),
            source,
        })?;
        Ok(found.map(|(file, snapshot)| {
            self.newest.lock().file = Some(file);
            snapshot
        }))
    }

    /// The snapshot that a restart would use.
    pub(super) fn current(&self) -> io::Result<Option<Snapshot>> {
        let newest = self.newest.lock();
        let Some(file) = newest.file.as_deref() else { return Ok(None) };
        match read(file) {
            Ok(snapshot) => Ok(Some(snapshot)),
            Err(Unreadable::Damaged(what)) => {
                Err(io::Error::new(io::ErrorKind::InvalidData, format!("{} {what}", file.display())))
            }
            Err(Unreadable::Refused(e)) => Err(io::Error::other(e)),
        }
    }

    /// The last entry that the log may purge: what the older snapshot holds. With fewer than two there is none.
    pub(super) fn purgeable(&self) -> Option<u64> {
        *self.purgeable.lock()
    }

    fn note_purgeable(&self) -> io::Result<()> {
        let files = self.list().map_err(io::Error::other)?;
        let older = files.len().checked_sub(KEPT).map(|n| &files[n]);
        *self.purgeable.lock() =
            older.and_then(|file| file.file_stem()?.to_str()?.split('-').next()?.parse().ok());
        Ok(())
    }

    /// Whether the disk has room for another snapshot, going by the size of the last. A snapshot that ran into a full
    /// disk would end the node, which can still take stops.
    pub(super) fn has_room(&self) -> io::Result<bool> {
        let newest = self.newest.lock().file.clone();
        let size = newest.map_or(Ok(0), |file| fs::metadata(file).map(|m| m.len()))?;
        let disk = rustix::fs::statvfs(&self.path)?;
        Ok(fits(size, disk.f_bavail.saturating_mul(disk.f_frsize)))
    }

    /// Makes a snapshot durable. A crash before the end leaves the one before it in use, or one file too many, which
    /// the next snapshot removes.
    pub(super) fn write(&self, meta: &SnapshotMeta, data: &[u8]) -> io::Result<()> {
        let last = meta.last_log_id.ok_or_else(|| io::Error::other("a snapshot of nothing"))?;
        let file = self.path.join(format!("{:020}-{:020}.{SUFFIX}", last.index(), last.leader_id.term));
        let head = encode(meta)?;
        let mut bytes = Vec::with_capacity(PREFIX_BYTES + head.len() + data.len() + CRC_BYTES);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&FORMAT.to_le_bytes());
        bytes.extend_from_slice(&(head.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&head);
        bytes.extend_from_slice(data);
        let crc = crc32fast::hash(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());

        let mut newest = self.newest.lock();
        if newest.closed {
            return Err(io::Error::other("the node is shutting down"));
        }
        // One of the same position says the same, though perhaps in other bytes, so it may be replaced.
        files::replace(&file, &bytes)?;
        if newest.file.as_ref().is_none_or(|newest| *newest < file) {
            newest.file = Some(file);
        }
        let all = self.list().map_err(io::Error::other)?;
        for old in all.iter().rev().skip(KEPT) {
            fs::remove_file(old)?;
        }
        self.note_purgeable()
    }

    /// Blocks until no file is being written; none is from then on. openraft does not wait for a snapshot under way
    /// when it stops.
    pub(super) fn close(&self) {
        self.newest.lock().closed = true;
    }

    /// Oldest first.
    fn list(&self) -> Result<Vec<PathBuf>, SnapshotError> {
        let failed = |source| SnapshotError::Io { doing: "read the folder", path: self.path.clone(), source };
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if path.extension().is_some_and(|e| e == SUFFIX) {
                found.push(path);
            }
        }
        found.sort_unstable();
        Ok(found)
    }
}

pub(super) fn fits(last_bytes: u64, free_bytes: u64) -> bool {
    free_bytes > last_bytes.saturating_mul(2).saturating_add(SPARE_BYTES)
}

fn read(file: &Path) -> Result<Snapshot, Unreadable> {
    let mut bytes = fs::read(file).map_err(|source| {
        Unreadable::Refused(SnapshotError::Io { doing: "read", path: file.to_owned(), source })
    })?;
    let damaged = |what: &str| Unreadable::Damaged(what.to_owned());
    let (prefix, _) = bytes.split_at_checked(PREFIX_BYTES).ok_or_else(|| damaged("is cut short"))?;
    let number = |at: usize| prefix[at..at + 4].iter().rev().fold(0, |n, b| n << 8 | u32::from(*b));
    let (format, head_bytes) = (number(8), number(12) as usize);
    if &prefix[..8] != MAGIC {
        return Err(damaged("does not begin as a snapshot does"));
    }
    let Some((covered, crc)) = bytes.split_last_chunk::<CRC_BYTES>() else {
        return Err(damaged("is cut short"));
    };
    let whole = u32::from_le_bytes(*crc) == crc32fast::hash(covered);
    match format {
        FORMAT if whole => {}
        // A newer format may check itself otherwise, and a flipped bit in its number is worth a look, too.
        found if found > FORMAT => {
            return Err(Unreadable::Refused(SnapshotError::NewerFormat { path: file.to_owned(), found }));
        }
        _ => return Err(damaged("does not match its checksum")),
    }
    let head = covered.get(PREFIX_BYTES..PREFIX_BYTES + head_bytes).ok_or_else(|| damaged("is cut short"))?;
    let meta: SnapshotMeta = decode(head).map_err(|e| damaged(&format!("has an unreadable head: {e}")))?;
    bytes.truncate(bytes.len() - CRC_BYTES);
    bytes.drain(..PREFIX_BYTES + head_bytes);
    Ok(Snapshot { meta, snapshot: bytes })
}

#[cfg(test)]
mod fuzz;
