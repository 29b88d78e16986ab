//! The log in sled 0.34, with what that needs to keep its promises.
//!
//! One tree, so that a batch is atomic across entries and metadata:
//!
//! ```text
//! m/format  m/identity  m/vote  m/committed  m/purged     metadata, one row each
//! e <index: u64 BE> <chunk: u16 BE>                       an entry, in chunks
//! ```
//!
//! A row is CRC-32 (LE, over key and data), then at most 4,092 bytes of data; an entry's first chunk begins with the
//! entry's length (u32 LE). The purged row is its index (u64 LE), then the id.
//!
//! Why so: sled's `flush` calls `sync_file_range`, which reaches neither the drive's cache nor the file's length, so
//! each commit adds an `fdatasync` of our own (spacejam/sled#1351). Pages over 128 KiB become files that sled never
//! syncs, so rows are small. Its recovery trusts what it reads, so each row has a checksum, and opening may panic, so
//! that is caught and turned into an answer.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use tagout_proto::sentence::sentence;

use super::{INDEX_MAX, Loaded, LogDisk, Op, Purged, StoreError, check_append, files};

const FORMAT: u32 = 1;
const ROW_BYTES: usize = 4096;
const CRC_BYTES: usize = 4;
const LENGTH_BYTES: usize = 4;
/// sled's cache holds what the process holds in memory anyway.
const CACHE_BYTES: u64 = 16 << 20;

const FORMAT_KEY: &[u8] = b"m/format";
const IDENTITY_KEY: &[u8] = b"m/identity";
const VOTE_KEY: &[u8] = b"m/vote";
const COMMITTED_KEY: &[u8] = b"m/committed";
const PURGED_KEY: &[u8] = b"m/purged";

pub struct SledDisk {
    path: PathBuf,
    // Dropped in this order, see `Data`.
    db: sled::Db,
    data: Data,
    rows: RefCell<Rows>,
}

/// sled's data file once more, for the sync that sled leaves out.
struct Data(File);

impl Drop for Data {
    /// sled's threads may keep the file, and with it the lock on it, for a while after the database was dropped. Once
    /// this lock is granted they are gone, and the store can be opened again.
    fn drop(&mut self) {
        let _ = self.0.lock_shared();
    }
}

/// How many chunks each stored entry has, so that removing one needs no read.
#[derive(Default)]
struct Rows {
    first: u64,
    chunks: VecDeque<u16>,
}

impl Rows {
    fn last(&self) -> Option<u64> {
        (self.first + self.chunks.len() as u64).checked_sub(1).filter(|_| !self.chunks.is_empty())
    }
}

impl SledDisk {
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        files::create_folder(path).map_err(StoreError::io("create the folder", path))?;
        let db = guarded(path, || {
            sled::Config::new().path(path).flush_every_ms(None).cache_capacity(CACHE_BYTES).open()
        })?
        .map_err(|e| match e {
            // Its file lock has no error of its own.
            sled::Error::Io(e) if e.to_string().contains("could not acquire lock") => {
                StoreError::InUse { path: path.to_owned() }
            }
            sled::Error::Io(e) => StoreError::io("open the sled store in", path)(e),
            e => StoreError::damaged(path, format!("sled cannot read it ({e})")),
        })?;
        let data = File::open(path.join("db")).map_err(StoreError::io("open", &path.join("db")))?;
        let disk = Self { path: path.to_owned(), db, data: Data(data), rows: RefCell::default() };

        let read = match guarded(path, || disk.read_all()) {
            Ok(read) => read,
            Err(e) => {
                // A thread of sled that panicked may never let go of the file, for which dropping would wait.
                std::mem::forget(disk);
                return Err(e);
            }
        };
        disk.rows.replace(read?.1);
        // A process that was killed in a commit may have left it in the page cache only. It was just read as if it
        // were durable, so it has to be.
        disk.data.0.sync_data().map_err(StoreError::io("sync", &path.join("db")))?;
        Ok(disk)
    }

    /// The first rows of a new store. sled syncs none of the files it has just made, nor their folder.
    fn create(&self) -> Result<(), StoreError> {
        let failed =
            |source| StoreError::Io { doing: "create the sled store in", path: self.path.clone(), source };
        self.db
            .insert(FORMAT_KEY, seal(FORMAT_KEY, &FORMAT.to_le_bytes()))
            .map_err(|e| failed(from_sled(e)))?;
        self.sync().map_err(failed)?;
        for name in ["db", "conf"] {
            File::open(self.path.join(name)).and_then(|file| file.sync_all()).map_err(failed)?;
        }
        files::sync_folder(&self.path).map_err(failed)?;
        files::sync_folder(self.path.parent().unwrap_or(&self.path)).map_err(failed)
    }

    #[cfg(test)]
    pub(super) fn db(&self) -> &sled::Db {
        &self.db
    }

    fn sync(&self) -> io::Result<()> {
        self.db.flush().map_err(from_sled)?;
        self.data.0.sync_data()
    }

    fn read_all(&self) -> Result<(Loaded, Rows), StoreError> {
        let damaged = |what: String| StoreError::damaged(&self.path, what);
        let mut loaded = Loaded::default();
        let mut rows = Rows::default();
        let mut format = None;
        // The entry of which chunks are still to come: its index, length and bytes so far.
        let mut open: Option<(u64, usize, Vec<u8>)> = None;

        for row in self.db.iter() {
            let (key, value) = row.map_err(|e| match e {
                sled::Error::Io(e) => StoreError::io("read the sled store in", &self.path)(e),
                e => damaged(format!("sled cannot read it ({e})")),
            })?;
            let data = unseal(&key, &value)
                .ok_or_else(|| damaged(format!("the checksum of row {} does not match", show(&key))))?;
            if let Some((index, chunk)) = entry_key(&key) {
                let bytes = match open.take() {
                    None if chunk == 0 && data.len() >= LENGTH_BYTES => {
                        let (length, bytes) = data.split_at(LENGTH_BYTES);
                        rows.chunks.push_back(0);
                        open = Some((index, u32_le(length) as usize, Vec::new()));
                        bytes
                    }
                    Some((at, length, bytes)) if at == index && rows.chunks.back() == Some(&chunk) => {
                        open = Some((at, length, bytes));
                        data
                    }
                    _ => return Err(damaged(format!("row {} has no place in an entry", show(&key)))),
                };
                if let (Some((_, length, so_far)), Some(chunks)) = (&mut open, rows.chunks.back_mut()) {
                    *chunks += 1;
                    so_far.extend_from_slice(bytes);
                    if so_far.len() >= *length {
                        if so_far.len() > *length {
                            return Err(damaged(format!("entry {index} is longer than it says")));
                        }
                        loaded.entries.insert(index, std::mem::take(so_far));
                        open = None;
                    }
                }
                continue;
            }
            match &*key {
                FORMAT_KEY if data.len() == 4 => format = Some(u32_le(data)),
                IDENTITY_KEY => loaded.identity = Some(data.to_vec()),
                VOTE_KEY => loaded.vote = Some(data.to_vec()),
                COMMITTED_KEY => loaded.committed = Some(data.to_vec()),
                PURGED_KEY if data.len() >= 8 && u64_le(&data[..8]) <= INDEX_MAX => {
                    let (index, id) = data.split_at(8);
                    loaded.purged = Some(Purged { index: u64_le(index), id: id.to_vec() });
                }
                _ => return Err(damaged(format!("row {} is not one of ours", show(&key)))),
            }
        }
        match format {
            Some(FORMAT) => {}
            Some(found) => {
                return Err(StoreError::NewerFormat { path: self.path.clone(), found, known: FORMAT });
            }
            // A crash while it was made: the format is the first row that is ever written.
            None if loaded.is_empty() => self.create()?,
            None => return Err(damaged("its format row is missing".into())),
        }
        if let Some((index, ..)) = open {
            return Err(damaged(format!("entry {index} is cut short")));
        }
        if let Some(missing) = loaded.gap() {
            return Err(damaged(format!("entry {missing} is missing")));
        }
        rows.first = loaded.first_index();
        Ok((loaded, rows))
    }
}

impl LogDisk for SledDisk {
    fn load(&self) -> io::Result<Loaded> {
        Ok(guarded(&self.path, || self.read_all())??.0)
    }

    fn commit(&self, ops: &[Op]) -> io::Result<()> {
        let mut batch = sled::Batch::default();
        let mut rows = self.rows.borrow_mut();
        for op in ops {
            match op {
                Op::SaveIdentity(bytes) => put(&mut batch, IDENTITY_KEY, bytes)?,
                Op::SaveVote(bytes) => put(&mut batch, VOTE_KEY, bytes)?,
                Op::SaveCommitted(Some(bytes)) => put(&mut batch, COMMITTED_KEY, bytes)?,
                Op::SaveCommitted(None) => batch.remove(COMMITTED_KEY),
                Op::Append { index, entry } => {
                    check_append(rows.last(), *index)?;
                    if rows.chunks.is_empty() {
                        rows.first = *index;
                    }
                    rows.chunks.push_back(put_entry(&mut batch, *index, entry)?);
                }
                Op::TruncateAfter(keep) => {
                    while let Some(last) = rows.last().filter(|last| keep.is_none_or(|keep| *last > keep)) {
                        remove_entry(&mut batch, last, rows.chunks.pop_back());
                    }
                }
                Op::Purge(purged) => {
                    while !rows.chunks.is_empty() && rows.first <= purged.index {
                        remove_entry(&mut batch, rows.first, rows.chunks.pop_front());
                        rows.first += 1;
                    }
                    let mut row = purged.index.to_le_bytes().to_vec();
                    row.extend_from_slice(&purged.id);
                    put(&mut batch, PURGED_KEY, &row)?;
                }
            }
        }
        // Until the sync returns, a crash leaves all of the batch or none of it; after, all of it.
        self.db.apply_batch(batch).map_err(from_sled)?;
        self.sync()
    }
}

fn put(batch: &mut sled::Batch, key: &[u8], data: &[u8]) -> io::Result<()> {
    if CRC_BYTES + data.len() > ROW_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("row {} is too large", show(key))));
    }
    batch.insert(key, seal(key, data));
    Ok(())
}

fn put_entry(batch: &mut sled::Batch, index: u64, entry: &[u8]) -> io::Result<u16> {
    let too_large = || io::Error::new(io::ErrorKind::InvalidInput, format!("entry {index} is too large"));
    let length = u32::try_from(entry.len()).map_err(|_| too_large())?;
    let (head, mut rest) = entry.split_at(entry.len().min(ROW_BYTES - CRC_BYTES - LENGTH_BYTES));
    let mut first = length.to_le_bytes().to_vec();
    first.extend_from_slice(head);
    put(batch, &key_of(index, 0), &first)?;
    let mut chunks: u16 = 1;
    while !rest.is_empty() {
        let (chunk, after) = rest.split_at(rest.len().min(ROW_BYTES - CRC_BYTES));
        put(batch, &key_of(index, chunks), chunk)?;
        chunks = chunks.checked_add(1).ok_or_else(too_large)?;
        rest = after;
    }
    Ok(chunks)
}

fn remove_entry(batch: &mut sled::Batch, index: u64, chunks: Option<u16>) {
    for chunk in 0..chunks.unwrap_or(0) {
        batch.remove(&key_of(index, chunk));
    }
}

fn key_of(index: u64, chunk: u16) -> [u8; 11] {
    let mut key = [b'e'; 11];
    key[1..9].copy_from_slice(&index.to_be_bytes());
    key[9..].copy_from_slice(&chunk.to_be_bytes());
    key
}

fn entry_key(key: &[u8]) -> Option<(u64, u16)> {
    let rest = key.strip_prefix(b"e")?;
    let (index, chunk) = rest.split_first_chunk::<8>()?;
    let (index, chunk) = (u64::from_be_bytes(*index), u16::from_be_bytes(chunk.try_into().ok()?));
    (index <= INDEX_MAX).then_some((index, chunk))
}

fn seal(key: &[u8], data: &[u8]) -> Vec<u8> {
    let mut row = Vec::with_capacity(CRC_BYTES + data.len());
    row.extend_from_slice(&crc_of(key, data).to_le_bytes());
    row.extend_from_slice(data);
    row
}

fn unseal<'a>(key: &[u8], row: &'a [u8]) -> Option<&'a [u8]> {
    let (crc, data) = row.split_first_chunk::<CRC_BYTES>()?;
    (u32::from_le_bytes(*crc) == crc_of(key, data)).then_some(data)
}

/// Over the key too, so that a row under another's key does not pass.
fn crc_of(key: &[u8], data: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(key);
    crc.update(data);
    crc.finalize()
}

fn u32_le(bytes: &[u8]) -> u32 {
    bytes.iter().rev().fold(0, |n, b| n << 8 | u32::from(*b))
}

fn u64_le(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b))
}

fn show(key: &[u8]) -> String {
    match entry_key(key) {
        Some((index, chunk)) => format!("{chunk} of entry {index}"),
        None => format!("\"{}\"", sentence(key.escape_ascii())),
    }
}

fn from_sled(e: sled::Error) -> io::Error {
    match e {
        sled::Error::Io(e) => e,
        e => io::Error::other(e),
    }
}

/// sled panics on some of the damage that it meets.
fn guarded<T>(path: &Path, work: impl FnOnce() -> T) -> Result<T, StoreError> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| {
        let said = panic.downcast_ref::<String>().map(String::as_str);
        let said = said.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no reason given");
        StoreError::damaged(path, format!("sled gave up on it ({said})"))
    })
}

#[cfg(test)]
mod fuzz;
