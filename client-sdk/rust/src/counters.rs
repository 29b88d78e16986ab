//! What a client counts. Only its own thread writes here, and no check does: a check shares nothing with anybody.

use std::sync::atomic::{AtomicU64, Ordering};

/// What a client did since it was built, and how far it has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Leases that were verified and taken.
    pub leases: u64,
    /// Requests for one that no node answered in time, or at all.
    pub lease_failures: u64,
    /// Answers and pushes that did not prove themselves.
    pub unproven: u64,
    /// Documents that took something away, by push, file or delivery.
    pub stops: u64,
    /// Calls that were under way and were cut.
    pub calls_cut: u64,
    /// The size of the log that the newest lease was read from.
    pub log_size: u64,
}

#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) leases: Count,
    pub(crate) lease_failures: Count,
    pub(crate) unproven: Count,
    pub(crate) stops: Count,
    pub(crate) calls_cut: Count,
    pub(crate) log_size: Count,
    /// When the newest lease ends, by the boot clock.
    pub(crate) lease_ns: Count,
}

#[derive(Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    pub(crate) fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    pub(crate) fn set(&self, now: u64) {
        self.0.store(now, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Counts {
    pub(crate) fn read(&self) -> Counters {
        Counters {
            leases: self.leases.get(),
            lease_failures: self.lease_failures.get(),
            unproven: self.unproven.get(),
            stops: self.stops.get(),
            calls_cut: self.calls_cut.get(),
            log_size: self.log_size.get(),
        }
    }
}
