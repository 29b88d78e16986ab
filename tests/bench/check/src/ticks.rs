//! The processor's own counter: reading it touches no memory, so that it warms nothing for the clock that is measured.

#![allow(unsafe_code)]

use std::time::{Duration, Instant};

const CALIBRATION: Duration = Duration::from_millis(100);

/// How long a tick is.
#[derive(Clone, Copy)]
pub struct Ticks {
    ns: f64,
}

impl Ticks {
    pub fn calibrate() -> Self {
        let (began, first) = (Instant::now(), now());
        std::thread::sleep(CALIBRATION);
        let (elapsed, ticks) = (began.elapsed(), now() - first);
        Self { ns: elapsed.as_nanos() as f64 / ticks as f64 }
    }

    pub fn ns(self, ticks: u64) -> f64 {
        ticks as f64 * self.ns
    }
}

/// Nothing before it is still under way, and nothing behind it has begun.
#[cfg(target_arch = "x86_64")]
#[inline]
pub fn now() -> u64 {
    use std::arch::x86_64::{_mm_lfence, _rdtsc};
    // SAFETY: every x86-64 processor has both instructions, and neither touches memory.
    unsafe {
        _mm_lfence();
        let ticks = _rdtsc();
        _mm_lfence();
        ticks
    }
}

#[cfg(target_arch = "aarch64")]
#[inline]
pub fn now() -> u64 {
    let ticks: u64;
    // SAFETY: user programs may read the virtual counter, and that touches no memory.
    unsafe { std::arch::asm!("isb", "mrs {}, cntvct_el0", "isb", out(reg) ticks, options(nostack)) };
    ticks
}
