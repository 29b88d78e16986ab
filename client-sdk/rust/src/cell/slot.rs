//! What a cell does: a deadline in nanoseconds of the boot clock, 0 is denied. It has one writer, the client's thread, and
//! any number of readers. A freed slot is used again only after it was zeroed.
//!
//! `checked.rs` runs this very file under every order that the memory model allows.

#![deny(unsafe_code)]

use super::sync::{AtomicU64, Ordering, boot_ns, process_id};

/// Two cache lines, since processors fetch lines in pairs: writing one cell never slows the readers of another.
#[repr(C, align(128))]
pub(super) struct Slot {
    /// In a block's first slot: how many of the others are taken.
    pub(super) deadline_ns: AtomicU64,
    /// 1 while taken. A forked child reads 0: that is how it knows.
    taken: AtomicU64,
}

/// A taken slot; dropping it denies and frees the slot.
pub(crate) struct Cell {
    reader: Reader,
    home: &'static Slot,
}

/// What `check()` reads. Whoever keeps one keeps its `Cell` too.
#[derive(Clone, Copy)]
pub(crate) struct Reader {
    pub(super) slot: &'static Slot,
    pid: Option<u32>,
}

impl Cell {
    pub(crate) fn reader(&self) -> Reader {
        self.reader
    }

    /// Lets calls begin until `deadline_ns`.
    pub(crate) fn allow_until(&self, deadline_ns: u64) {
        // Code of the parent that goes on in a forked child must not open what the fork has closed.
        if !self.reader.forked() {
            self.reader.slot.deadline_ns.store(deadline_ns, Ordering::Release);
        }
    }

    pub(crate) fn deny(&self) {
        self.reader.slot.deadline_ns.store(0, Ordering::Release);
    }
}

impl Drop for Cell {
    fn drop(&mut self) {
        let forked = self.reader.forked();
        self.deny();
        self.reader.slot.taken.store(0, Ordering::Release);
        if !forked {
            self.home.deadline_ns.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

impl Reader {
    /// Whether a call may begin now: load, clock, load, compare.
    #[inline]
    pub(crate) fn permits(&self) -> bool {
        let before = self.slot.deadline_ns.load(Ordering::Acquire);
        if before == 0 {
            return false;
        }
        let now = boot_ns();
        // Read again: a stop during the clock read counts.
        let after = self.slot.deadline_ns.load(Ordering::Acquire);
        now < before && now < after && self.same_process()
    }

    /// The deadline as it stands, 0 if denied.
    pub(crate) fn deadline_ns(&self) -> u64 {
        if self.forked() { 0 } else { self.slot.deadline_ns.load(Ordering::Acquire) }
    }

    /// Whether this process is a forked child of the one that took the slot.
    pub(crate) fn forked(&self) -> bool {
        self.slot.taken.load(Ordering::Acquire) == 0 || !self.same_process()
    }

    #[inline]
    fn same_process(&self) -> bool {
        self.pid.is_none_or(|pid| pid == process_id())
    }
}

/// Lets the slots of a new block be taken; the first one stays the block's own.
pub(super) fn open(slots: &[Slot]) {
    slots[0].taken.store(1, Ordering::Release);
}

/// Takes a free slot of a block of this process. In a forked child the parent's blocks stay unused for ever: inherited
/// readers still point at them.
pub(super) fn take(slots: &'static [Slot], pid: Option<u32>) -> Option<Cell> {
    let (home, slots) = slots.split_first()?;
    let own = home.taken.load(Ordering::Acquire) == 1 && pid.is_none_or(|pid| pid == process_id());
    if !own || home.deadline_ns.load(Ordering::Acquire) >= slots.len() as u64 {
        return None;
    }
    let slot = slots
        .iter()
        .find(|slot| slot.taken.compare_exchange(0, 1, Ordering::AcqRel, Ordering::Relaxed).is_ok())?;
    home.deadline_ns.fetch_add(1, Ordering::AcqRel);
    slot.deadline_ns.store(0, Ordering::Release);
    Some(Cell { reader: Reader { slot, pid }, home })
}

/// Slots of zeros, on the heap.
pub(super) fn empty(count: usize) -> Box<[Slot]> {
    (0..count).map(|_| Slot { deadline_ns: AtomicU64::new(0), taken: AtomicU64::new(0) }).collect()
}
