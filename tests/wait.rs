//! Waiting for a condition, never for a time.

use std::thread;
use std::time::{Duration, Instant};

/// Far above what anything takes, so that a slow machine fails no test.
pub const DEADLINE: Duration = Duration::from_secs(60);

const POLL: Duration = Duration::from_millis(5);

/// Waits until `found` gives something. `what` completes "waited 60 s for".
#[track_caller]
pub fn wait_for<T>(what: &str, found: impl FnMut() -> Option<T>) -> T {
    wait_within(DEADLINE, what, found)
}

/// The same for what takes longer.
#[track_caller]
pub fn wait_within<T>(deadline: Duration, what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(it) = found() {
            return it;
        }
        assert!(started.elapsed() < deadline, "waited {} s for {what}", deadline.as_secs());
        thread::sleep(POLL);
    }
}

/// Waits until `found` gives something, or gives up quietly.
pub fn wait_at_most<T>(deadline: Duration, mut found: impl FnMut() -> Option<T>) -> Option<T> {
    let started = Instant::now();
    loop {
        let it = found();
        if it.is_some() || started.elapsed() >= deadline {
            return it;
        }
        thread::sleep(POLL);
    }
}

/// Waits until `holds` does.
#[track_caller]
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    wait_for(what, || holds().then_some(()));
}
