//! The two clocks of the SDK. No other file reads one.

use rustix::time::{ClockId, clock_gettime};

// S3: suspended time counts, so the clock must go on while the machine sleeps. `std::time::Instant` does not.
#[cfg(any(target_os = "linux", target_os = "android"))]
const RUN_TIME: ClockId = ClockId::Boottime;
// Apple's CLOCK_MONOTONIC goes on during sleep (clock_gettime(3)); the one that stops is CLOCK_UPTIME_RAW.
#[cfg(target_vendor = "apple")]
const RUN_TIME: ClockId = ClockId::Monotonic;
#[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple")))]
compile_error!(
    "no clock is known here that counts suspended time; without one a lease could outlive its end"
);

/// One reading of both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Nanoseconds since boot, suspended time included.
    pub boot_ns: u64,
    /// The host's wall clock, Unix milliseconds.
    pub wall_ms: u64,
}

impl Now {
    pub(crate) fn read() -> Self {
        Self { boot_ns: boot_ns(), wall_ms: wall_ms() }
    }
}

/// Nanoseconds since boot, suspended time included.
#[inline]
pub(crate) fn boot_ns() -> u64 {
    let time = clock_gettime(RUN_TIME);
    time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
}

pub(crate) fn wall_ms() -> u64 {
    let time = clock_gettime(ClockId::Realtime);
    // A date before 1970 is as wrong as 1970.
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000 + time.tv_nsec.unsigned_abs() / 1_000_000
}
