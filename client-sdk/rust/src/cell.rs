//! The cell: one word per guard that says until when calls may begin. All of the SDK's `unsafe` is here.
//!
//! What a cell does is in `slot.rs`; here is the memory that cells lie in. The kernel wipes it in a forked child
//! (`MADV_WIPEONFORK`), so that a child reads 0 whatever its parent may do (S4). Where the kernel cannot do that, a reader
//! compares process ids instead.
//!
//! Blocks of cells are mapped once and never unmapped: a reader's reference is `'static` and cannot dangle. There is no lock
//! here, so a fork at any moment leaves nothing locked.

#![allow(unsafe_code)]

#[cfg(test)]
mod checked;
mod slot;

use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use self::slot::Slot;
pub(crate) use self::slot::{Cell, Reader};

/// What `slot.rs` stands on; `checked.rs` puts a model in its place.
mod sync {
    pub(super) use std::process::id as process_id;
    pub(super) use std::sync::atomic::{AtomicU64, Ordering};

    pub(super) use crate::clock::boot_ns;
}

/// A multiple of every page size in use (4, 16 and 64 KiB).
const BLOCK_BYTES: usize = 64 * 1024;
const BLOCK_SLOTS: usize = BLOCK_BYTES / size_of::<Slot>();

struct Block {
    /// The first slot belongs to the block itself.
    slots: &'static [Slot],
    /// The process that made the block, where the kernel does not wipe it on fork.
    pid: Option<u32>,
    next: *const Block,
}

/// The newest block. Blocks are leaked on purpose and immutable but for their atomics.
static BLOCKS: AtomicPtr<Block> = AtomicPtr::new(ptr::null_mut());

impl Cell {
    /// Takes a free slot, denied.
    pub(crate) fn new() -> Self {
        loop {
            let mut at: *const Block = BLOCKS.load(Ordering::Acquire);
            // SAFETY: a non-null pointer in the list came from `Box::leak` in `Block::publish` and is never freed; the
            // Acquire load pairs with its Release store, and `next` was written before that.
            while let Some(block) = unsafe { at.as_ref() } {
                if let Some(cell) = slot::take(block.slots, block.pid) {
                    return cell;
                }
                at = block.next;
            }
            Block::map().publish();
        }
    }
}

impl Block {
    /// A new block of zeros.
    fn map() -> Self {
        let wiped = map_wiped_on_fork();
        let pid = wiped.is_none().then(std::process::id);
        let slots = wiped.unwrap_or_else(|| Box::leak(slot::empty(BLOCK_SLOTS)));
        slot::open(slots);
        Self { slots, pid, next: ptr::null() }
    }

    fn publish(self) {
        let block = Box::leak(Box::new(self));
        let mut head = BLOCKS.load(Ordering::Acquire);
        loop {
            block.next = head;
            match BLOCKS.compare_exchange_weak(head, block, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return,
                Err(newer) => head = newer,
            }
        }
    }
}

/// Memory that a forked child finds full of zeros; `None` where the kernel has no such thing.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn map_wiped_on_fork() -> Option<&'static [Slot]> {
    use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

    let access = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a new private anonymous mapping at an address of the kernel's choosing aliases nothing.
    let memory = unsafe { mmap_anonymous(ptr::null_mut(), BLOCK_BYTES, access, MapFlags::PRIVATE) }.ok()?;
    // SAFETY: the advice changes what a forked child sees of exactly this mapping, and nothing here.
    if unsafe { madvise(memory, BLOCK_BYTES, Advice::LinuxWipeOnFork) }.is_err() {
        // SAFETY: nobody has seen the mapping yet.
        let _ = unsafe { munmap(memory, BLOCK_BYTES) };
        return None;
    }
    // SAFETY: the mapping is page-aligned (so 128-byte aligned), BLOCK_BYTES long, never unmapped from here on, and all
    // zeros, which is a valid `Slot`. A fork's wipe only turns atomics to zero in the child, before any code runs there.
    Some(unsafe { std::slice::from_raw_parts(memory.cast::<Slot>(), BLOCK_SLOTS) })
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn map_wiped_on_fork() -> Option<&'static [Slot]> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAR_NS: u64 = u64::MAX;

    #[test]
    fn a_cell_is_denied_until_it_is_allowed_and_after_its_deadline() {
        let cell = Cell::new();
        assert!(!cell.reader().permits());
        cell.allow_until(FAR_NS);
        assert!(cell.reader().permits());
        cell.allow_until(1); // long ago: the machine was up for more than a nanosecond
        assert!(!cell.reader().permits(), "S3: the deadline ends it with nobody's help");
        cell.allow_until(FAR_NS);
        cell.deny();
        assert!(!cell.reader().permits());
    }

    #[test]
    fn cells_do_not_share_cache_lines_and_freed_ones_come_back_denied() {
        let cells: Vec<_> = (0..2 * BLOCK_SLOTS).map(|_| Cell::new()).collect();
        let mut places: Vec<_> = cells.iter().map(|c| ptr::from_ref(c.reader().slot) as usize).collect();
        assert!(places.iter().all(|place| place % 128 == 0));
        places.sort_unstable();
        places.dedup();
        assert_eq!(places.len(), cells.len(), "no slot is taken twice");
        cells.iter().for_each(|cell| cell.allow_until(FAR_NS));
        drop(cells);
        let again: Vec<_> = (0..2 * BLOCK_SLOTS).map(|_| Cell::new()).collect();
        assert!(again.iter().all(|cell| !cell.reader().permits()));
    }

    /// Runs `child` in a forked child and gives what it returned.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn in_forked_child(child: impl FnOnce() -> bool) -> bool {
        // SAFETY: the child only reads memory, takes no lock that another thread may hold, and leaves by `_exit`.
        match unsafe { libc::fork() } {
            0 => {
                let code = if child() { 0 } else { 1 };
                // SAFETY: ends the child at once, without running the parent's exit handlers.
                unsafe { libc::_exit(code) }
            }
            pid => {
                let pid = rustix::process::Pid::from_raw(pid).expect("fork gave a child");
                let (_, status) = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty())
                    .unwrap()
                    .expect("the child ended");
                status.exit_status() == Some(0)
            }
        }
    }

    #[test]
    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn s4_a_forked_child_reads_zero_and_cannot_open_it_again() {
        let cell = Cell::new();
        cell.allow_until(FAR_NS);
        let reader = cell.reader();
        assert!(in_forked_child(|| {
            let wiped = reader.slot.deadline_ns.load(Ordering::Acquire) == 0;
            cell.allow_until(FAR_NS);
            wiped && !reader.permits() && reader.forked()
        }));
        assert!(reader.permits() && !reader.forked(), "the parent goes on");
    }

    #[test]
    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn s4_a_forked_childs_new_cells_never_lie_where_its_inherited_readers_look() {
        let cell = Cell::new();
        let inherited = cell.reader();
        assert!(in_forked_child(|| {
            let own = Cell::new();
            own.allow_until(FAR_NS);
            own.reader().permits() && !inherited.permits() && !ptr::eq(own.reader().slot, inherited.slot)
        }));
    }

    #[test]
    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn s4_without_the_kernels_help_the_process_id_tells_a_child() {
        let slots: &'static [Slot] = Box::leak(slot::empty(BLOCK_SLOTS));
        slot::open(slots);
        let pid = Some(std::process::id());
        let cell = slot::take(slots, pid).unwrap();
        cell.allow_until(FAR_NS);
        let reader = cell.reader();
        assert!(reader.permits());
        assert!(in_forked_child(|| !reader.permits() && reader.forked() && slot::take(slots, pid).is_none()));
    }
}
