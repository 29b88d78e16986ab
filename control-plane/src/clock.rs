//! The node's clocks. Wall time is information in entries and leases; durations use the monotonic clock.

use std::time::{SystemTime, UNIX_EPOCH};

/// Unix milliseconds; 0 for a clock before 1970.
pub fn wall_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis().try_into().unwrap_or(u64::MAX))
}
