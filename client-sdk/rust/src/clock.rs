//! The two clocks of the SDK. No other file reads one.

use rustix::time::{ClockId, clock_gettime};

use crate::limits::CLOCK_JUMP_MS;

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

/// Watches whether both clocks go at one pace, from look to look.
#[derive(Default)]
pub(crate) struct Skew {
    /// Wall clock minus boot clock at the last look.
    ms: Option<i128>,
}

impl Skew {
    /// Whether one of them jumped since the last look.
    pub(crate) fn jumped(&mut self, now: Now) -> bool {
        let ms = i128::from(now.wall_ms) - i128::from(now.boot_ns / 1_000_000);
        self.ms.replace(ms).is_some_and(|last| last.abs_diff(ms) > u128::from(CLOCK_JUMP_MS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(boot_ms: u64, wall_ms: u64) -> Now {
        Now { boot_ns: boot_ms * 1_000_000, wall_ms }
    }

    #[test]
    fn s3_clocks_that_part_between_two_looks_are_noticed_once() {
        let mut skew = Skew::default();
        let wall_ms = 1_795_359_600_000;
        assert!(!skew.jumped(at(10_000, wall_ms)), "the first look has nothing to compare with");
        assert!(!skew.jumped(at(11_000, wall_ms + 1_000)));
        assert!(!skew.jumped(at(86_411_000, wall_ms + 86_401_000)), "both go on while the machine sleeps");
        let wall_ms = wall_ms + 86_401_000;
        assert!(skew.jumped(at(86_412_000, wall_ms + 1_000 + 1_001)), "the boot clock stood still");
        let wall_ms = wall_ms + 2_001;
        assert!(!skew.jumped(at(86_413_000, wall_ms + 1_000)), "and goes on");
        assert!(skew.jumped(at(86_414_000, 0)), "the wall clock was set back");
        assert!(skew.jumped(at(86_415_000, u64::MAX)), "and far ahead");
    }

    #[test]
    fn clocks_may_drift_apart_a_little() {
        let mut skew = Skew::default();
        for look in 0..1_000 {
            assert!(!skew.jumped(at(look * 1_000, 1_000_000 + look * (1_000 + CLOCK_JUMP_MS))));
        }
        for look in 1_000..2_000 {
            assert!(!skew.jumped(at(look * 1_000, 1_000_000 + 1_000 * (1_000 + CLOCK_JUMP_MS))));
        }
    }
}
