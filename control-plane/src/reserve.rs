//! The disk reserve: room for ten thousand stops that nothing else may take (S10).
//!
//! ```text
//! <data>/reserve      holds space, and nothing in it means anything; its length is what is held
//! ```
//!
//! What is free beside it decides what is accepted:
//!
//! ```text
//! free ≥ WATERMARK, the file at its full length    enough    everything
//! free < WATERMARK                                 low       what takes away; the rest gets 507 disk-low
//! free < WORKING, or the file shorter than that    reserve   the same: the file is given back step by step
//! free + file < WORKING + a stop                   full      nothing: stops get 507 disk-full, and are pushed all the same
//! ```
//!
//! # What is counted
//!
//! A stop has at most 4 KiB, and the one signature that it needs at most 1 KiB. Its bytes are written to the Raft log and
//! to the audit log. Measured, one commit for each: sled's log grows by 1.7 to 1.9 times their length (2.9 KiB for 0.9,
//! 11 KiB for 5.7), the segment files by 1.0 times; the audit log by their length, 32 bytes of hash and its share of a
//! block. So three times the length and 2 KiB are counted, 18 KiB for the largest stop, 174 MiB for ten thousand of them.
//! An ordinary stop has 0.9 KiB and costs 4 KiB: the reserve holds more than forty thousand.
//!
//! Snapshots never count: below the watermark none is taken (raft/snapshot.rs asks for more room than that), so the Raft
//! log keeps what it has, and once there is room again a snapshot shortens it. The security log writes only above the
//! watermark. What is written between a stop's admission and its last byte on the disk is counted as in flight.
//!
//! On top of all this stays `WORKING`, which is never planned for and which the file holds too, since another process may
//! fill the disk to its last block: a segment that is made anew (8 MiB of zeros), and a bundle of 256 entries, written
//! beside the one that it replaces (16 MiB at most).
//!
//! # What else is written
//!
//! - A *trip* takes away, but no person signed it and its guard has latched it already: it is taken while the disk is
//!   low, and never from the reserve, which a runaway process could empty otherwise.
//! - An *outcome* is evidence and stops nothing: it waits until there is room. Nothing is lost by that while the node runs;
//!   after a restart meanwhile, instances whose confirmations were in memory are told as bounded.
//! - Votes and whatever a leader sends to a follower go to the store without being asked for here; [`Guarded`] makes
//!   room for them too, before every commit.
//!
//! A disk that another process fills at the very moment can still run out, and then the process ends (code 74): the
//! acknowledgement is given only after the write, so nothing that was acknowledged is lost.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use parking_lot::Mutex;
use rustix::fs::{FallocateFlags, fallocate, statvfs};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use tagout_proto::ledger::Proposal;
use tagout_proto::limits::{SIGNATURE_MAX_BYTES, STOP_MAX_BYTES};
use tagout_proto::log::entry::EntryKind;

use crate::store::{Loaded, LogDisk, Op, files};

const MIB: u64 = 1 << 20;
/// The stops that the reserve holds.
const STOPS: u64 = 10_000;
/// The largest stop with its one signature, as it is proposed.
const STOP_PROPOSAL_BYTES: usize = STOP_MAX_BYTES + SIGNATURE_MAX_BYTES + 256;
/// What must be free whenever the stores write, see above.
pub const WORKING_BYTES: u64 = 24 * MIB;
/// Below so much beside the reserve, only what takes away is accepted.
pub const WATERMARK_BYTES: u64 = WORKING_BYTES + 8 * MIB;
/// How much more it takes until all is accepted again, so that the state does not flutter.
const RECOVERED_BYTES: u64 = WATERMARK_BYTES + 4 * MIB;
/// The file shrinks and grows by so much.
const STEP_BYTES: u64 = MIB;
/// A smaller reserve than this is none; tests have this one.
pub const RESERVE_MIN_MIB: u64 = 1;
/// What a file takes beside its bytes: its last block, its inode, its name.
const FILE_BYTES: u64 = 8 * 1024;

/// What the reserve holds for stops unless the configuration says otherwise, in MiB.
pub const fn default_mib() -> u64 {
    (STOPS * cost_bytes(STOP_PROPOSAL_BYTES)).div_ceil(MIB)
}

/// What a proposal of so many bytes takes on the disk at most, in both logs.
pub const fn cost_bytes(proposal_bytes: usize) -> u64 {
    3 * proposal_bytes as u64 + 2048
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum DiskState {
    Enough,
    Low,
    UsingReserve,
    Full,
}

impl DiskState {
    const ALL: [Self; 4] = [Self::Enough, Self::Low, Self::UsingReserve, Self::Full];

    pub fn name(self) -> &'static str {
        match self {
            Self::Enough => "enough",
            Self::Low => "low",
            Self::UsingReserve => "using-reserve",
            Self::Full => "full",
        }
    }
}

/// What something to be proposed may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Need {
    /// Takes away, signed: the reserve too.
    Stop,
    /// Takes away by itself: what is free.
    Trip,
    /// All else: only what is free above the watermark.
    Other,
}

impl Need {
    /// `loosens` is what a command does.
    pub fn of(kind: EntryKind, loosens: bool) -> Self {
        match kind {
            EntryKind::Command if !loosens => Self::Stop,
            // It halts the fleet, and root signers signed it.
            EntryKind::Restore => Self::Stop,
            EntryKind::Trip => Self::Trip,
            EntryKind::Command
            | EntryKind::Outcome
            | EntryKind::Proposal
            | EntryKind::Drill
            | EntryKind::RuleVersion => Self::Other,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum DiskRefused {
    #[error(
        "this node's disk has {free_mib} MiB free, and below {} it takes only what stops, restricts, throttles, isolates, \
         revokes or suspends: free space on the file system of {folder}", WATERMARK_BYTES / MIB
    )]
    Low { free_mib: u64, folder: String },
    #[error(
        "this node's disk is full, its reserve for stops is used up, and nothing can be kept. Free space on the file system \
         of {folder}, and send it to another node meanwhile"
    )]
    Full { folder: String },
}

/// Gives what is free on a file system.
type Free = Box<dyn Fn() -> io::Result<u64> + Send + Sync>;

pub struct Reserve {
    folder: PathBuf,
    path: PathBuf,
    free: Free,
    file: Mutex<File>,
    target: u64,
    held: AtomicU64,
    in_flight: Mutex<InFlight>,
    state: AtomicU8,
}

#[derive(Default)]
struct InFlight {
    bytes: u64,
    /// Committed, and not yet in the audit log on this disk: index and cost.
    unlogged: VecDeque<(u64, u64)>,
}

impl Reserve {
    /// Opens the reserve in `folder`, which must come before the stores are: on a full disk it gives them the room that
    /// they need to open.
    pub fn open(folder: &Path, reserve_mib: Option<u64>) -> io::Result<Arc<Self>> {
        files::create_folder(folder)?;
        let path = folder.to_owned();
        // About a microsecond; it reads no disk.
        let free = move || {
            let disk = statvfs(&path)?;
            Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
        };
        Self::open_on(folder, reserve_mib, Box::new(free))
    }

    fn open_on(folder: &Path, reserve_mib: Option<u64>, free: Free) -> io::Result<Arc<Self>> {
        let path = folder.join("reserve");
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(&path)?;
        let for_stops = reserve_mib.unwrap_or(default_mib()).max(RESERVE_MIN_MIB).saturating_mul(MIB);
        let target = for_stops.saturating_add(WORKING_BYTES);
        let found = file.metadata()?;
        if found.len() > target {
            file.set_len(target)?;
        }
        // A copy of the folder may have holes where the original held space.
        let held = found.len().min(found.blocks() * 512).min(target);
        let reserve = Arc::new(Self {
            folder: folder.into(),
            path,
            free,
            file: Mutex::new(file),
            target,
            held: AtomicU64::new(held),
            in_flight: Mutex::default(),
            state: AtomicU8::new(DiskState::Enough as u8),
        });
        reserve.make_room(0)?;
        reserve.look()?;
        Ok(reserve)
    }

    /// What is free on the file system, beside the reserve.
    fn free(&self) -> io::Result<u64> {
        (self.free)()
    }

    /// Whether a proposal may be written now. It counts as in flight until the answer is dropped, or the audit log has it.
    /// `logged` is the size of the audit log on this disk.
    pub fn admit(
        self: &Arc<Self>,
        need: Need,
        proposal_bytes: usize,
        logged: u64,
    ) -> Result<Admitted, DiskRefused> {
        let cost = cost_bytes(proposal_bytes);
        let mut in_flight = self.in_flight.lock();
        in_flight.settle(logged);
        let free = match self.free() {
            Ok(free) => free.saturating_sub(in_flight.bytes),
            Err(error) => {
                // Then the write itself will tell.
                tracing::error!(%error, folder = %self.folder.display(), "cannot tell how full the disk is");
                u64::MAX
            }
        };
        let state = self.judge(free);
        let takes = match need {
            Need::Stop => self.room(free) >= cost,
            Need::Trip => state == DiskState::Enough || free >= WORKING_BYTES + cost,
            Need::Other => state == DiskState::Enough,
        };
        if !takes {
            let folder = self.folder.display().to_string();
            return Err(match need {
                Need::Stop => DiskRefused::Full { folder },
                Need::Trip | Need::Other => DiskRefused::Low { free_mib: free / MIB, folder },
            });
        }
        in_flight.bytes += cost;
        Ok(Admitted { reserve: self.clone(), cost })
    }

    /// What stops may still take, where so much is free and not in flight.
    fn room(&self, free: u64) -> u64 {
        free.saturating_add(self.held_bytes()).saturating_sub(WORKING_BYTES)
    }

    /// Notes the state, and says so when it changes.
    fn judge(&self, free: u64) -> DiskState {
        let held = self.held_bytes();
        let before = self.state();
        let enough = if before == DiskState::Enough { WATERMARK_BYTES } else { RECOVERED_BYTES };
        let state = if self.room(free) < cost_bytes(STOP_PROPOSAL_BYTES) {
            DiskState::Full
        } else if held < self.target || free < WORKING_BYTES {
            DiskState::UsingReserve
        } else if free < enough {
            DiskState::Low
        } else {
            DiskState::Enough
        };
        if self.state.swap(state as u8, Ordering::Relaxed) != state as u8 {
            let (free_mib, held_mib) = (free / MIB, held / MIB);
            let folder = self.folder.display();
            match state {
                DiskState::Enough => {
                    tracing::info!(%folder, free_mib, "the disk has room again: all is taken")
                }
                DiskState::Low => tracing::error!(
                    %folder, free_mib, "the disk is nearly full: only what takes away is taken. Free space on it"
                ),
                DiskState::UsingReserve => tracing::error!(
                    %folder, free_mib, held_mib, target_mib = self.target / MIB,
                    "the reserve for stops is not whole: only what takes away is taken. Free space on the disk"
                ),
                DiskState::Full => tracing::error!(
                    %folder, free_mib, "the disk is full and the reserve used up: stops are pushed and NOT kept. Free space on it"
                ),
            }
        }
        state
    }

    /// Gives back as much of the reserve as writing `bytes` needs. Blocks; called before whatever goes to the disk.
    pub fn make_room(&self, bytes: u64) -> io::Result<()> {
        let wanted = WORKING_BYTES.saturating_add(bytes);
        if self.free()? >= wanted {
            return Ok(());
        }
        let file = self.file.lock();
        // Somebody else may have made it meanwhile.
        let short = wanted.saturating_sub(self.free()?);
        let held = self.held_bytes();
        let left = held.saturating_sub(short.next_multiple_of(STEP_BYTES));
        if short == 0 || held == 0 {
            return Ok(());
        }
        file.set_len(left)?;
        // Freed blocks of a file can be used again only once the file system has noted that they are free.
        file.sync_all()?;
        self.held.store(left, Ordering::Release);
        tracing::warn!(
            given_mib = (held - left) / MIB,
            left_mib = left / MIB,
            "gave back of the reserve for stops"
        );
        Ok(())
    }

    /// Lets the reserve grow back where there is room, and notes the state. Blocks; called every second.
    pub fn look(&self) -> io::Result<()> {
        let spare = self.free()?.saturating_sub(RECOVERED_BYTES);
        let held = self.held_bytes();
        let more = (self.target - held).min(spare / STEP_BYTES * STEP_BYTES);
        if more > 0 {
            let file = self.file.lock();
            if let Err(error) = hold(&file, held, held + more) {
                // Whoever was quicker has it; what was held before still is.
                file.set_len(held)?;
                tracing::warn!(%error, path = %self.path.display(), "the reserve for stops cannot grow");
            } else {
                self.held.store(held + more, Ordering::Release);
                tracing::info!(
                    held_mib = (held + more) / MIB,
                    target_mib = self.target / MIB,
                    "the reserve for stops has grown"
                );
            }
        }
        let free = self.free()?.saturating_sub(self.in_flight.lock().bytes);
        self.judge(free);
        Ok(())
    }

    pub fn state(&self) -> DiskState {
        let state = self.state.load(Ordering::Relaxed);
        DiskState::ALL[usize::from(state)]
    }

    pub fn held_bytes(&self) -> u64 {
        self.held.load(Ordering::Acquire)
    }

    /// Whether what is neither a stop nor proposed, such as the security log, may write.
    pub fn has_spare(&self) -> bool {
        self.held_bytes() == self.target && self.free().is_ok_and(|free| free >= WATERMARK_BYTES)
    }

    /// For /metrics.
    pub fn report(&self) {
        let gauge = |name: &'static str, value: u64| metrics::gauge!(name).set(value as f64);
        let free = self.free().unwrap_or_default();
        gauge("tagout_reserve_bytes", self.held_bytes());
        gauge("tagout_reserve_target_bytes", self.target);
        gauge("tagout_disk_free_bytes", free);
        gauge("tagout_stops_left", self.room(free) / cost_bytes(STOP_PROPOSAL_BYTES));
        for state in DiskState::ALL {
            metrics::gauge!("tagout_disk_state", "state" => state.name())
                .set(f64::from(u8::from(state == self.state())));
        }
    }
}

/// Makes the file hold its first `to` bytes on the disk, of which it holds `from`.
fn hold(file: &File, from: u64, to: u64) -> io::Result<()> {
    match fallocate(file, FallocateFlags::empty(), 0, to) {
        // Not every file system can: then what is written holds the space.
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
            let mut writer = file;
            io::Seek::seek(&mut writer, io::SeekFrom::Start(from))?;
            let zeros = vec![0; STEP_BYTES as usize];
            for _ in 0..(to - from) / STEP_BYTES {
                writer.write_all(&zeros)?;
            }
        }
        allocated => allocated?,
    }
    file.sync_all()
}

impl InFlight {
    fn settle(&mut self, logged: u64) {
        while let Some((_, cost)) = self.unlogged.pop_front_if(|(index, _)| *index < logged) {
            self.bytes -= cost;
        }
    }
}

/// Room for one proposal.
pub struct Admitted {
    reserve: Arc<Reserve>,
    cost: u64,
}

impl Admitted {
    /// It was committed, and its entry is on its way to the audit log.
    pub fn until_logged(mut self, index: u64) {
        let cost = std::mem::take(&mut self.cost);
        // Answers arrive nearly in the log's order; one that comes late is settled with those after it.
        self.reserve.in_flight.lock().unlogged.push_back((index, cost));
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.reserve.in_flight.lock().bytes -= self.cost;
    }
}

/// What a pending stop of so many bytes takes as a file.
pub fn file_cost_bytes(bytes: usize) -> u64 {
    bytes as u64 + FILE_BYTES
}

/// The bytes of a proposal, as it is written.
pub fn proposal_bytes(proposal: &Proposal) -> usize {
    let signatures = proposal.envelope.signatures.iter().map(|s| s.len() + 8).sum::<usize>();
    proposal.envelope.document.len() + signatures + 64
}

/// A store for which room is made before each commit, whoever asked for it.
pub struct Guarded {
    pub disk: Box<dyn LogDisk>,
    pub reserve: Arc<Reserve>,
}

impl LogDisk for Guarded {
    fn load(&self) -> io::Result<Loaded> {
        self.disk.load()
    }

    fn commit(&self, ops: &[Op]) -> io::Result<()> {
        let cost = |op: &Op| match op {
            Op::Append { entry, .. } => cost_bytes(entry.len()),
            Op::SaveIdentity(_)
            | Op::SaveVote(_)
            | Op::SaveCommitted(_)
            | Op::TruncateAfter(_)
            | Op::Purge(_) => 0,
        };
        self.reserve.make_room(ops.iter().map(cost).sum())?;
        self.disk.commit(ops)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{self, StoreKind};

    fn used_bytes(folder: &Path) -> u64 {
        let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
        let size = |entry: std::fs::DirEntry| match entry.metadata().unwrap() {
            of if of.is_dir() => used_bytes(&entry.path()),
            of => of.blocks() * 512,
        };
        entries.map(size).sum()
    }

    /// The figures of the comment above: what a stop costs in the Raft log, one commit for each.
    #[test]
    fn s10_a_stop_costs_the_raft_log_no_more_than_is_counted() {
        const COUNT: u64 = 800;
        // What a store makes in one piece, for many entries to come.
        for (kind, piece) in [(StoreKind::Sled, MIB), (StoreKind::Segment, 8 * MIB)] {
            for bytes in [900, STOP_PROPOSAL_BYTES] {
                let dir = tempfile::tempdir().unwrap();
                let disk = store::open(kind, dir.path()).unwrap();
                let before = used_bytes(dir.path());
                for index in 0..COUNT {
                    let mut entry = vec![0; bytes];
                    getrandom::fill(&mut entry).unwrap();
                    disk.commit(&[Op::Append { index, entry }]).unwrap();
                }
                let each = (used_bytes(dir.path()) - before).saturating_sub(piece) / COUNT;
                println!("{kind:?}: {bytes} bytes cost {each}");
                // The audit log has the rest: the entry once more, and the hash of it.
                assert!(
                    each + bytes as u64 + 256 <= cost_bytes(bytes),
                    "{kind:?}: {bytes} bytes cost {each}"
                );
            }
        }
    }

    #[test]
    fn s10_the_default_holds_ten_thousand_of_the_largest_stops() {
        assert!(default_mib() * MIB >= 10_000 * cost_bytes(STOP_PROPOSAL_BYTES));
        assert_eq!(default_mib(), 174);
    }

    /// On a disk with room: the file holds what it says, and a change of the configuration is followed.
    #[test]
    fn s10_the_reserve_is_held_on_the_disk_and_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let held = |mib: u64| mib * MIB + WORKING_BYTES;
        let reserve = Reserve::open(dir.path(), Some(2)).unwrap();
        let file = std::fs::metadata(dir.path().join("reserve")).unwrap();
        assert_eq!(
            (reserve.state(), reserve.held_bytes(), file.len()),
            (DiskState::Enough, held(2), held(2))
        );
        assert!(file.blocks() * 512 >= held(2), "a hole holds nothing");
        drop(reserve);
        // As a careless copy makes it: the length is there, the space is not.
        let path = dir.path().join("reserve");
        std::fs::remove_file(&path).unwrap();
        File::create(&path).unwrap().set_len(held(2)).unwrap();
        for mib in [2, 4, 1] {
            assert_eq!(Reserve::open(dir.path(), Some(mib)).unwrap().held_bytes(), held(mib));
            let file = std::fs::metadata(&path).unwrap();
            assert!(file.len() == held(mib) && file.blocks() * 512 >= held(mib));
        }
    }

    /// A disk of so many bytes, of which others have `used`; the reserve's file is as long as it really is.
    struct Disk {
        folder: tempfile::TempDir,
        used: Arc<AtomicU64>,
    }

    const DISK_BYTES: u64 = 256 * MIB;

    impl Disk {
        fn new() -> Self {
            Self { folder: tempfile::tempdir().unwrap(), used: Arc::default() }
        }

        fn open(&self, mib: u64) -> Arc<Reserve> {
            let (path, used) = (self.folder.path().join("reserve"), self.used.clone());
            let free = move || {
                let held = std::fs::metadata(&path).map_or(0, |m| m.len());
                Ok(DISK_BYTES.saturating_sub(held + used.load(Ordering::Relaxed)))
            };
            Reserve::open_on(self.folder.path(), Some(mib), Box::new(free)).unwrap()
        }

        /// Others fill it, but for so much.
        fn leave(&self, reserve: &Reserve, bytes: u64) {
            self.used.store(DISK_BYTES - reserve.held_bytes() - bytes, Ordering::Relaxed);
        }

        fn propose(&self, reserve: &Arc<Reserve>, need: Need, bytes: usize) -> Result<(), DiskRefused> {
            let _admitted = reserve.admit(need, bytes, 0)?;
            reserve.make_room(cost_bytes(bytes)).unwrap();
            let free = reserve.free().unwrap();
            assert!(free >= WORKING_BYTES + cost_bytes(bytes), "{free} bytes are free when it is written");
            self.used.fetch_add(cost_bytes(bytes), Ordering::Relaxed);
            Ok(())
        }
    }

    #[test]
    fn s10_below_the_watermark_only_what_takes_away_is_taken() {
        let disk = Disk::new();
        let reserve = disk.open(1);
        let takes = |need| disk.propose(&reserve, need, 1000);
        disk.leave(&reserve, WATERMARK_BYTES);
        for need in [Need::Other, Need::Trip, Need::Stop] {
            disk.leave(&reserve, WATERMARK_BYTES);
            assert_eq!(takes(need), Ok(()), "{need:?}");
        }
        disk.leave(&reserve, WATERMARK_BYTES - 1);
        let held = reserve.held_bytes();
        assert!(matches!(takes(Need::Other), Err(DiskRefused::Low { free_mib: 31, .. })));
        assert_eq!((takes(Need::Trip), takes(Need::Stop)), (Ok(()), Ok(())));
        assert_eq!((reserve.state(), reserve.held_bytes()), (DiskState::Low, held), "not from the reserve");
        // A little more room is not yet enough: it would flutter.
        disk.leave(&reserve, WATERMARK_BYTES + 1);
        assert!(takes(Need::Other).is_err());
        disk.leave(&reserve, RECOVERED_BYTES);
        assert_eq!(takes(Need::Other), Ok(()));
        assert_eq!(reserve.state(), DiskState::Enough);
    }

    /// A disk that others fill to the last block takes as many stops as the reserve was made for, restarts in between or
    /// not; a trip takes nothing of it; and when there is room again the reserve grows back.
    #[test]
    fn s10_the_reserve_holds_the_stops_that_it_is_counted_for() {
        let disk = Disk::new();
        let mut reserve = disk.open(2);
        let held = reserve.held_bytes();
        disk.leave(&reserve, 0);
        assert!(disk.propose(&reserve, Need::Trip, 300).is_err());
        let mut taken = 0;
        while disk.propose(&reserve, Need::Stop, STOP_PROPOSAL_BYTES).is_ok() {
            assert_eq!(reserve.state(), DiskState::UsingReserve);
            taken += 1;
            if taken % 50 == 0 {
                // Also after a restart, what was given back is found given back.
                let left = reserve.held_bytes();
                reserve = disk.open(2);
                assert_eq!(reserve.held_bytes(), left);
            }
        }
        assert!(taken >= 2 * MIB / cost_bytes(STOP_PROPOSAL_BYTES), "{taken}");
        let last = disk.propose(&reserve, Need::Stop, STOP_PROPOSAL_BYTES);
        assert!(matches!(last, Err(DiskRefused::Full { .. })));
        assert_eq!((reserve.state(), reserve.held_bytes()), (DiskState::Full, 0));
        reserve = disk.open(2);
        assert!(disk.propose(&reserve, Need::Stop, STOP_PROPOSAL_BYTES).is_err());

        disk.leave(&reserve, RECOVERED_BYTES + 3 * MIB);
        reserve.look().unwrap();
        assert_eq!(
            (reserve.state(), reserve.held_bytes()),
            (DiskState::UsingReserve, 3 * MIB),
            "as far as it goes"
        );
        disk.leave(&reserve, RECOVERED_BYTES + held);
        reserve.look().unwrap();
        assert_eq!((reserve.state(), reserve.held_bytes()), (DiskState::Enough, held));
    }

    #[test]
    fn s10_what_is_in_flight_counts_until_the_audit_log_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let reserve = Reserve::open(dir.path(), Some(1)).unwrap();
        let in_flight = || reserve.in_flight.lock().bytes;
        let one = reserve.admit(Need::Stop, 1000, 0).unwrap();
        let two = reserve.admit(Need::Other, 1000, 0).unwrap();
        assert_eq!(in_flight(), 2 * cost_bytes(1000));
        drop(two);
        one.until_logged(5);
        drop(reserve.admit(Need::Stop, 1000, 5).unwrap());
        assert_eq!(in_flight(), cost_bytes(1000));
        drop(reserve.admit(Need::Stop, 1000, 6).unwrap());
        assert_eq!(in_flight(), 0);
    }

    #[test]
    fn what_each_kind_may_use() {
        assert_eq!(Need::of(EntryKind::Command, false), Need::Stop);
        assert_eq!(Need::of(EntryKind::Command, true), Need::Other);
        assert_eq!(Need::of(EntryKind::Restore, true), Need::Stop);
        assert_eq!(Need::of(EntryKind::Trip, true), Need::Trip);
        assert_eq!(Need::of(EntryKind::Outcome, true), Need::Other);
    }
}
