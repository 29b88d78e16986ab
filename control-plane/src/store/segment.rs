//! The log in plain files that are only ever appended to.
//!
//! ```text
//! <path>/lock            held while a process has the store open
//! <path>/<number>.seg    segments; the number has 20 digits and grows by one
//! ```
//!
//! A segment is a header, then frames, then zeros to its end. One frame is one commit, so a commit is atomic. All
//! numbers are little-endian:
//!
//! ```text
//! header, 64 bytes   magic "TAGOUTLG", format u32, 0 u32, number u64, sequence of its first frame u64, salt u64,
//!                    CRC-32 of these 40 bytes u32, zeros
//! frame              payload length u32 (never 0), CRC-32 of salt and payload u32, sequence u64,
//!                    CRC-32 of salt and these 16 bytes u32, 0 u32, payload, zeros up to a multiple of 8
//! ```
//!
//! The first frame of a segment repeats the metadata, so older segments matter for their entries only and are deleted
//! once all of those are purged. A segment is written full of zeros before it is used: a commit then changes neither
//! the file's length nor its extents, and `fdatasync` has no metadata to write.
//!
//! # What a crash leaves, and what is refused
//!
//! One commit is written at a time and the next begins after its `fdatasync`. So at most the last frame of the last
//! segment may be incomplete, nothing follows it, and at least one of its sectors still holds the zeros from before,
//! because a sector is written whole or not at all. Exactly that is cut off at open, since no `commit` returned `Ok`
//! for it. Anything else that does not read back is damage and is refused: a bad frame with a good one behind it, one
//! with bytes behind it, or one that was written out in full. What cannot be told from a torn write is a sector of the
//! very last commit that a drive turned into zeros.
//!
//! The salt is random, so that an entry which carries the bytes of a frame is never taken for one.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::{INDEX_MAX, Loaded, LogDisk, Op, Purged, StoreError, check_append, files};

const MAGIC: &[u8; 8] = b"TAGOUTLG";
const FORMAT: u32 = 1;
const SEGMENT_BYTES: usize = 8 << 20;
const HEADER_BYTES: usize = 64;
const FRAME_HEADER_BYTES: usize = 24;
const FRAME_ALIGN: usize = 8;
/// The unit that a drive writes as a whole.
const SECTOR_BYTES: usize = 512;
const SUFFIX: &str = "seg";

pub struct SegmentDisk {
    path: PathBuf,
    /// How large a segment is made; a commit that does not fit gets one of its own size.
    segment_bytes: usize,
    state: RefCell<State>,
    /// Held until the process ends or drops the store.
    _lock: File,
}

struct State {
    /// Oldest first; the last one is written to, and there is always one.
    segments: VecDeque<Segment>,
    file: File,
    salt: u64,
    end: usize,
    size: usize,
    next_sequence: u64,
    /// What the first frame of the next segment repeats. Its entries stay empty.
    metadata: Loaded,
    /// The indexes of the entries.
    entries: Range<u64>,
}

struct Segment {
    number: u64,
    path: PathBuf,
    /// The highest index that was ever appended in it, truncated since or not.
    highest: Option<u64>,
}

impl SegmentDisk {
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        Self::with_segment_bytes(path, SEGMENT_BYTES)
    }

    pub(super) fn with_segment_bytes(path: &Path, segment_bytes: usize) -> Result<Self, StoreError> {
        files::create_folder(path).map_err(StoreError::io("create the folder", path))?;
        let lock_path = path.join("lock");
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(&lock_path);
        let lock = lock.map_err(StoreError::io("open", &lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(StoreError::InUse { path: path.to_owned() }),
            Err(TryLockError::Error(e)) => return Err(StoreError::io("lock", &lock_path)(e)),
        }
        files::sweep_temporaries(path).map_err(StoreError::io("clean", path))?;

        let mut found = Found::read(path)?;
        if found.segments.is_empty() {
            let first = create_segment(path, 0, 0, &[], |_| segment_bytes)?;
            found.segments.push_back(first.segment);
            found.tail = Some(Tail { salt: first.salt, end: first.end, size: first.size, torn: None });
        }
        let (Some(segment), Some(tail)) = (found.segments.back(), found.tail) else {
            return Err(StoreError::damaged(path, "it has no last segment"));
        };
        let file = OpenOptions::new().write(true).open(&segment.path);
        let file = file.map_err(StoreError::io("open", &segment.path))?;
        if let Some(torn_bytes) = tail.torn {
            tracing::warn!(
                path = %segment.path.display(), offset = tail.end, bytes = torn_bytes,
                "cutting off a commit that a crash left half-written; it was never acknowledged"
            );
            // Again zeros up to the end, or the next frame would have bytes behind it. A crash here leaves a torn
            // frame with more zeros in it.
            file.write_all_at(&vec![0; torn_bytes], tail.end as u64)
                .map_err(StoreError::io("cut the torn tail of", &segment.path))?;
        }
        // Also for a process that was killed in a commit and left it in the page cache only: it was just read as if it
        // were durable, so it has to be.
        file.sync_data().map_err(StoreError::io("sync", &segment.path))?;
        let first = found.loaded.first_index();
        let entries = first..first + found.loaded.entries.len() as u64;
        let state = State {
            file,
            salt: tail.salt,
            end: tail.end,
            size: tail.size,
            next_sequence: found.next_sequence,
            metadata: Loaded { entries: Default::default(), ..found.loaded },
            entries,
            segments: found.segments,
        };
        let disk = Self { path: path.to_owned(), segment_bytes, state: RefCell::new(state), _lock: lock };
        // A crash may have come between a purge and the deletion that follows it.
        disk.delete_purged(&mut disk.state.borrow_mut())
            .map_err(StoreError::io("delete old segments in", path))?;
        Ok(disk)
    }

    fn delete_purged(&self, state: &mut State) -> io::Result<()> {
        let Some(purged) = state.metadata.purged.as_ref().map(|p| p.index) else { return Ok(()) };
        // Oldest first, each for good before the next: a crash leaves a run of segments without a hole.
        while state.segments.len() > 1 && state.segments[0].highest.is_none_or(|highest| highest <= purged) {
            fs::remove_file(&state.segments[0].path)?;
            files::sync_folder(&self.path)?;
            state.segments.pop_front();
        }
        Ok(())
    }
}

impl LogDisk for SegmentDisk {
    fn load(&self) -> io::Result<Loaded> {
        Ok(Found::read(&self.path)?.loaded)
    }

    fn commit(&self, ops: &[Op]) -> io::Result<()> {
        if ops.is_empty() {
            return Ok(());
        }
        let state = &mut *self.state.borrow_mut();
        let entries = &mut state.entries;
        for op in ops {
            match op {
                Op::Append { index, .. } => {
                    check_append(entries.end.checked_sub(1).filter(|_| !entries.is_empty()), *index)?;
                    *entries = if entries.is_empty() { *index..index + 1 } else { entries.start..index + 1 };
                }
                Op::TruncateAfter(keep) => entries.end = entries.end.min(keep.map_or(0, |keep| keep + 1)),
                Op::Purge(purged) => entries.start = entries.start.max(purged.index + 1),
                Op::SaveIdentity(_) | Op::SaveVote(_) | Op::SaveCommitted(_) => {}
            }
        }

        let payload = encode(ops)?;
        if state.end + frame_bytes(&payload) > state.size {
            // A crash before the new segment has its name leaves a temporary file; after, an empty segment.
            let number = state.segments.back().map_or(0, |s| s.number + 1);
            let metadata = metadata_ops(&state.metadata);
            let made = create_segment(&self.path, number, state.next_sequence, &metadata, |start| {
                self.segment_bytes.max(start + frame_bytes(&payload))
            })?;
            state.file = OpenOptions::new().write(true).open(&made.segment.path)?;
            state.segments.push_back(made.segment);
            (state.salt, state.end, state.size) = (made.salt, made.end, made.size);
            state.next_sequence = made.next_sequence;
        }
        let mut frame = Vec::with_capacity(frame_bytes(&payload));
        write_frame(&mut frame, state.salt, state.next_sequence, &payload);
        state.file.write_all_at(&frame, state.end as u64)?;
        // Until here a crash leaves a torn frame, which is cut; from here the commit is there.
        state.file.sync_data()?;
        state.end += frame.len();
        state.next_sequence += 1;

        let mut purged = false;
        for op in ops {
            match op {
                Op::Append { index, .. } => {
                    if let Some(segment) = state.segments.back_mut() {
                        segment.highest = segment.highest.max(Some(*index));
                    }
                }
                Op::TruncateAfter(_) => {}
                Op::Purge(_) => {
                    purged = true;
                    replay(&mut state.metadata, op);
                }
                Op::SaveIdentity(_) | Op::SaveVote(_) | Op::SaveCommitted(_) => {
                    replay(&mut state.metadata, op)
                }
            }
        }
        if purged { self.delete_purged(state) } else { Ok(()) }
    }
}

/// What the segments of a folder hold.
#[derive(Default)]
struct Found {
    loaded: Loaded,
    segments: VecDeque<Segment>,
    next_sequence: u64,
    /// Of the last segment.
    tail: Option<Tail>,
}

struct Tail {
    salt: u64,
    end: usize,
    size: usize,
    /// The length of what a crash left behind `end`.
    torn: Option<usize>,
}

impl Found {
    fn read(path: &Path) -> Result<Self, StoreError> {
        let mut found = Self::default();
        let numbers = segment_numbers(path)?;
        for (position, number) in numbers.iter().copied().enumerate() {
            let file = segment_path(path, number);
            let bytes = fs::read(&file).map_err(StoreError::io("read", &file))?;
            let damaged =
                |offset: usize, what: &str| StoreError::damaged(&file, format!("at byte {offset}, {what}"));

            let header = Header::parse(&file, &bytes)?;
            if header.number != number {
                return Err(damaged(0, "it is another segment than its name says"));
            }
            if position > 0 && numbers[position - 1] + 1 != number {
                return Err(StoreError::damaged(
                    path,
                    format!("segment {:020} is missing", numbers[position - 1] + 1),
                ));
            }
            if position > 0 && header.first_sequence != found.next_sequence {
                return Err(damaged(0, "it does not follow the segment before it"));
            }
            found.next_sequence = header.first_sequence;

            let mut highest = None;
            let mut at = HEADER_BYTES;
            let torn = loop {
                let Some(payload) = whole_frame(&bytes, at, header.salt, found.next_sequence) else {
                    break judge_tail(&bytes, at, header.salt, found.next_sequence)
                        .map_err(|what| damaged(at, what))?;
                };
                for op in
                    decode(payload).ok_or_else(|| damaged(at, "a commit holds what no version wrote"))?
                {
                    if let Op::Append { index, .. } = op {
                        highest = highest.max(Some(index));
                        let last = found.loaded.entries.keys().next_back().copied();
                        check_append(last, index)
                            .map_err(|e| damaged(at, &format!("the entries are not contiguous: {e}")))?;
                    }
                    replay(&mut found.loaded, &op);
                }
                at += frame_bytes(payload);
                found.next_sequence += 1;
            };
            if torn.is_some() && position + 1 < numbers.len() {
                return Err(damaged(at, "a commit is incomplete, and a later segment follows"));
            }
            found.segments.push_back(Segment { number, path: file, highest });
            found.tail = Some(Tail { salt: header.salt, end: at, size: bytes.len(), torn });
        }
        match found.loaded.gap() {
            Some(missing) => Err(StoreError::damaged(path, format!("entry {missing} is missing"))),
            None => Ok(found),
        }
    }
}

struct Header {
    number: u64,
    first_sequence: u64,
    salt: u64,
}

impl Header {
    fn parse(path: &Path, bytes: &[u8]) -> Result<Self, StoreError> {
        let damaged = |what: &str| StoreError::damaged(path, format!("at byte 0, {what}"));
        let mut reader = Reader(bytes.get(..HEADER_BYTES).ok_or_else(|| damaged("the header is cut short"))?);
        let (magic, format) = (reader.take(8), reader.u32());
        if magic != Some(MAGIC) {
            return Err(damaged("it does not begin as a segment does"));
        }
        // Before the checksum, which a newer format may compute otherwise.
        match format {
            Some(FORMAT) => {}
            Some(found) if found > FORMAT => {
                return Err(StoreError::NewerFormat { path: path.to_owned(), found, known: FORMAT });
            }
            _ => return Err(damaged("the format number is impossible")),
        }
        let header = (|| {
            reader.u32()?;
            let header = Self { number: reader.u64()?, first_sequence: reader.u64()?, salt: reader.u64()? };
            (reader.u32()? == crc32fast::hash(&bytes[..40])).then_some(header)
        })();
        header.ok_or_else(|| damaged("the checksum of the header does not match"))
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&FORMAT.to_le_bytes());
        out.extend_from_slice(&0u32.to_le_bytes());
        for number in [self.number, self.first_sequence, self.salt] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        let crc = crc32fast::hash(out);
        out.extend_from_slice(&crc.to_le_bytes());
        out.resize(HEADER_BYTES, 0);
    }
}

struct Made {
    segment: Segment,
    salt: u64,
    end: usize,
    size: usize,
    next_sequence: u64,
}

/// Writes a new segment, with `metadata` as its first frame where there is any, which gets its name when it is whole.
/// `size` says how large it shall be, from where its free space starts.
fn create_segment(
    path: &Path,
    number: u64,
    first_sequence: u64,
    metadata: &[Op],
    size: impl FnOnce(usize) -> usize,
) -> Result<Made, StoreError> {
    let file = segment_path(path, number);
    let made = (|| {
        let salt = getrandom::u64().map_err(io::Error::from)?;
        let mut bytes = Vec::new();
        Header { number, first_sequence, salt }.write(&mut bytes);
        let mut next_sequence = first_sequence;
        if !metadata.is_empty() {
            write_frame(&mut bytes, salt, next_sequence, &encode(metadata)?);
            next_sequence += 1;
        }
        let end = bytes.len();
        let size = size(end);
        bytes.resize(size, 0);
        files::replace(&file, &bytes)?;
        Ok((salt, end, size, next_sequence))
    })();
    let (salt, end, size, next_sequence) = made.map_err(StoreError::io("create", &file))?;
    Ok(Made { segment: Segment { number, path: file, highest: None }, salt, end, size, next_sequence })
}

fn segment_path(path: &Path, number: u64) -> PathBuf {
    path.join(format!("{number:020}.{SUFFIX}"))
}

fn segment_numbers(path: &Path) -> Result<Vec<u64>, StoreError> {
    let failed = |e| StoreError::io("read the folder", path)(e);
    let mut numbers = Vec::new();
    for entry in fs::read_dir(path).map_err(failed)? {
        let name = PathBuf::from(entry.map_err(failed)?.file_name());
        if name.extension().is_some_and(|e| e == SUFFIX) {
            let number = name.file_stem().and_then(|stem| stem.to_str()?.parse().ok());
            let number =
                number.ok_or_else(|| StoreError::damaged(&path.join(&name), "its name is no number"))?;
            numbers.push(number);
        }
    }
    numbers.sort_unstable();
    Ok(numbers)
}

fn frame_bytes(payload: &[u8]) -> usize {
    (FRAME_HEADER_BYTES + payload.len()).next_multiple_of(FRAME_ALIGN)
}

fn write_frame(out: &mut Vec<u8>, salt: u64, sequence: u64, payload: &[u8]) {
    let start = out.len();
    out.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    out.extend_from_slice(&salted_crc(salt, payload).to_le_bytes());
    out.extend_from_slice(&sequence.to_le_bytes());
    let crc = salted_crc(salt, &out[start..]);
    out.extend_from_slice(&crc.to_le_bytes());
    out.extend_from_slice(&0u32.to_le_bytes());
    out.extend_from_slice(payload);
    out.resize(start + frame_bytes(payload), 0);
}

struct FrameHeader {
    length: usize,
    crc: u32,
    sequence: u64,
}

fn frame_header(bytes: &[u8], at: usize, salt: u64) -> Option<FrameHeader> {
    let header = bytes.get(at..at + FRAME_HEADER_BYTES)?;
    let mut reader = Reader(header);
    let (length, crc, sequence) = (reader.u32()? as usize, reader.u32()?, reader.u64()?);
    let whole = length > 0 && reader.u32()? == salted_crc(salt, &header[..16]) && reader.u32()? == 0;
    whole.then_some(FrameHeader { length, crc, sequence })
}

/// The payload of the frame at `at`, if one with this sequence is there and whole.
fn whole_frame(bytes: &[u8], at: usize, salt: u64, sequence: u64) -> Option<&[u8]> {
    let header = frame_header(bytes, at, salt).filter(|header| header.sequence == sequence)?;
    let payload = bytes.get(at + FRAME_HEADER_BYTES..)?.get(..header.length)?;
    (salted_crc(salt, payload) == header.crc).then_some(payload)
}

/// Says what lies at `at`, where no frame could be read: nothing (`None`), the torn frame of a crash (its length up to
/// the last byte that is not zero), or damage.
fn judge_tail(bytes: &[u8], at: usize, salt: u64, sequence: u64) -> Result<Option<usize>, &'static str> {
    let rest = &bytes[at.min(bytes.len())..];
    let Some(last) = rest.iter().rposition(|b| *b != 0) else { return Ok(None) };

    let extent = match frame_header(bytes, at, salt) {
        Some(header) => {
            if header.sequence != sequence {
                return Err("a commit is out of sequence");
            }
            let extent = (FRAME_HEADER_BYTES + header.length).next_multiple_of(FRAME_ALIGN);
            if extent > rest.len() || last >= extent {
                return Err("a commit does not read back, and there are bytes behind it");
            }
            extent
        }
        // Without its header a frame may be as long as it likes, but the header's own sectors must be the blank ones.
        None => (at + FRAME_HEADER_BYTES).next_multiple_of(SECTOR_BYTES).min(bytes.len()) - at,
    };
    let followed = (at + FRAME_ALIGN..bytes.len()).step_by(FRAME_ALIGN).any(|later| {
        frame_header(bytes, later, salt).is_some_and(|header| {
            header.sequence > sequence && whole_frame(bytes, later, salt, header.sequence).is_some()
        })
    });
    if followed {
        return Err("a commit does not read back, and later ones follow");
    }
    let mut from = at;
    while from < at + extent {
        let to = (from + 1).next_multiple_of(SECTOR_BYTES).min(at + extent);
        if bytes[from..to].iter().all(|b| *b == 0) {
            return Ok(Some(last + 1));
        }
        from = to;
    }
    Err("a commit was written in full and does not read back")
}

fn salted_crc(salt: u64, bytes: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&salt.to_le_bytes());
    crc.update(bytes);
    crc.finalize()
}

fn metadata_ops(metadata: &Loaded) -> Vec<Op> {
    let identity = metadata.identity.clone().map(Op::SaveIdentity);
    let vote = metadata.vote.clone().map(Op::SaveVote);
    let committed = metadata.committed.clone().map(|c| Op::SaveCommitted(Some(c)));
    let purged = metadata.purged.clone().map(Op::Purge);
    [identity, vote, committed, purged].into_iter().flatten().collect()
}

fn replay(loaded: &mut Loaded, op: &Op) {
    match op {
        Op::SaveIdentity(bytes) => loaded.identity = Some(bytes.clone()),
        Op::SaveVote(bytes) => loaded.vote = Some(bytes.clone()),
        Op::SaveCommitted(bytes) => loaded.committed = bytes.clone(),
        Op::Append { index, entry } => {
            loaded.entries.insert(*index, entry.clone());
        }
        Op::TruncateAfter(Some(keep)) => {
            loaded.entries.split_off(&(keep + 1));
        }
        Op::TruncateAfter(None) => loaded.entries.clear(),
        Op::Purge(purged) => {
            loaded.entries = loaded.entries.split_off(&(purged.index + 1));
            loaded.purged = Some(purged.clone());
        }
    }
}

// The tags of operations in a payload. A number is never given to another operation.
const IDENTITY: u8 = 1;
const VOTE: u8 = 2;
const COMMITTED: u8 = 3;
const NOT_COMMITTED: u8 = 4;
const APPEND: u8 = 5;
const TRUNCATE_AFTER: u8 = 6;
const TRUNCATE_ALL: u8 = 7;
const PURGE: u8 = 8;

fn encode(ops: &[Op]) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    for op in ops {
        let (tag, index, bytes): (u8, u64, &[u8]) = match op {
            Op::SaveIdentity(bytes) => (IDENTITY, 0, bytes),
            Op::SaveVote(bytes) => (VOTE, 0, bytes),
            Op::SaveCommitted(Some(bytes)) => (COMMITTED, 0, bytes),
            Op::SaveCommitted(None) => (NOT_COMMITTED, 0, &[]),
            Op::Append { index, entry } => (APPEND, *index, entry),
            Op::TruncateAfter(Some(keep)) => (TRUNCATE_AFTER, *keep, &[]),
            Op::TruncateAfter(None) => (TRUNCATE_ALL, 0, &[]),
            Op::Purge(purged) => (PURGE, purged.index, &purged.id),
        };
        out.push(tag);
        out.extend_from_slice(&index.to_le_bytes());
        out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        out.extend_from_slice(bytes);
    }
    match u32::try_from(out.len()) {
        Ok(_) => Ok(out),
        Err(_) => Err(io::Error::new(io::ErrorKind::InvalidInput, "a commit is larger than 4 GiB")),
    }
}

fn decode(payload: &[u8]) -> Option<Vec<Op>> {
    let mut reader = Reader(payload);
    let mut ops = Vec::new();
    while !reader.0.is_empty() {
        let (tag, index, length) = (reader.take(1)?[0], reader.u64()?, reader.u32()?);
        let bytes = reader.take(length as usize)?.to_vec();
        if index > INDEX_MAX {
            return None;
        }
        ops.push(match tag {
            IDENTITY => Op::SaveIdentity(bytes),
            VOTE => Op::SaveVote(bytes),
            COMMITTED => Op::SaveCommitted(Some(bytes)),
            NOT_COMMITTED => Op::SaveCommitted(None),
            APPEND => Op::Append { index, entry: bytes },
            TRUNCATE_AFTER => Op::TruncateAfter(Some(index)),
            TRUNCATE_ALL => Op::TruncateAfter(None),
            PURGE => Op::Purge(Purged { index, id: bytes }),
            _ => return None,
        });
    }
    Some(ops)
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(head)
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }
}

#[cfg(test)]
mod fuzz;
