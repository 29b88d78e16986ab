//! The cell under every interleaving and every value that the C11 memory model lets a load see, by loom. It is `slot.rs`
//! itself, a second time, over loom's atomics and a clock that the threads of the model move.

use loom::lazy_static;
use loom::sync::{Arc, Mutex};
use loom::thread;

use self::slot::{Cell, Slot};
use self::sync::{AtomicU64, Ordering};

#[path = "slot.rs"]
#[allow(
    dead_code,
    clippy::duplicate_mod,
    reason = "the same file over a model, which does not use all of it"
)]
mod slot;

mod sync {
    pub(super) use std::process::id as process_id;

    pub(super) use loom::sync::atomic::{AtomicU64, Ordering};

    pub(super) fn boot_ns() -> u64 {
        let now = super::NOW.load(Ordering::Acquire);
        super::SEEN.with(|seen| seen.set(now));
        now
    }
}

lazy_static! {
    static ref NOW: AtomicU64 = AtomicU64::new(1);
}

loom::thread_local! {
    /// What this thread's newest look at the clock gave.
    static SEEN: std::cell::Cell<u64> = std::cell::Cell::new(0);
}

const FAR_NS: u64 = 1_000;

/// A block of its own for every run of the model; what lies in it is leaked, as in life.
fn block(count: usize) -> &'static [Slot] {
    let slots: &'static [Slot] = Box::leak(slot::empty(count + 1));
    slot::open(slots);
    slots
}

fn cell() -> Cell {
    slot::take(block(1), None).expect("it is new")
}

#[test]
fn s3_a_check_that_reads_the_clock_after_a_stop_refuses() {
    loom::model(|| {
        let cell = cell();
        cell.allow_until(FAR_NS);
        let reader = cell.reader();
        let check = thread::spawn(move || (reader.permits(), SEEN.with(|seen| seen.get())));
        cell.deny();
        NOW.store(2, Ordering::Release);
        let (permitted, at) = check.join().unwrap();
        assert!(!permitted || at < 2, "a call began at {at}, and the stop was at 2");
        assert!(!reader.permits());
    });
}

#[test]
fn s3_a_check_never_outlives_a_deadline_that_was_moved_under_it() {
    loom::model(|| {
        let cell = cell();
        cell.allow_until(5);
        let reader = cell.reader();
        let check = thread::spawn(move || (reader.permits(), SEEN.with(|seen| seen.get())));
        // A renewal, then a lease that gives less; by now the first deadline is over.
        cell.allow_until(20);
        NOW.store(7, Ordering::Release);
        cell.allow_until(10);
        NOW.store(12, Ordering::Release);
        let (permitted, at) = check.join().unwrap();
        assert!(!permitted || at < 10, "a call began at {at}, after every deadline");
    });
}

/// The order of `calls.rs` and of the driver, with a list in the place of the calls.
#[test]
fn s3_a_call_that_registers_and_then_checks_is_refused_or_cut() {
    loom::model(|| {
        let cell = cell();
        cell.allow_until(FAR_NS);
        let reader = cell.reader();
        let registered = Arc::new(Mutex::new(false));
        let call = {
            let registered = Arc::clone(&registered);
            thread::spawn(move || {
                *registered.lock().unwrap() = true;
                reader.permits()
            })
        };
        cell.deny();
        let cut = *registered.lock().unwrap();
        let began = call.join().unwrap();
        assert!(!began || cut, "a call slipped through between the stop and its cut");
    });
}

#[test]
fn s4_a_slot_has_one_owner_and_comes_denied() {
    loom::model(|| {
        let slots = block(1);
        slot::take(slots, None).expect("it is new").allow_until(FAR_NS);
        let own = move || {
            let Some(cell) = slot::take(slots, None) else { return };
            let reader = cell.reader();
            assert!(!reader.permits(), "it came as its last owner left it");
            cell.allow_until(FAR_NS);
            assert_eq!(reader.deadline_ns(), FAR_NS, "somebody else wrote it");
        };
        let other = thread::spawn(own);
        own();
        other.join().unwrap();
        // Nothing was lost or counted wrongly on the way.
        let cell = slot::take(slots, None).expect("it is free");
        assert!(!cell.reader().permits());
        assert!(slot::take(slots, None).is_none(), "and it is the only one");
    });
}
