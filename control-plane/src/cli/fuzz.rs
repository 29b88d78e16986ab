//! Any text as an argument. See `tests/fuzz/lib.rs` for how.

use tagout_fuzz::{Answer, Target};

use super::*;

#[test]
fn duration() {
    Target::new("duration", ["30s", "72h", "1h 30m", "2days 5ms 100us", "1year 2months 3weeks"]).check(
        |bytes| {
            let parsed = duration_ms(&String::from_utf8_lossy(bytes));
            if let Ok(ms) = parsed {
                assert_eq!(duration_ms(&format!("{}s {}ms", ms / 1000, ms % 1000)), Ok(ms));
            }
            Answer::taken(parsed.is_ok())
        },
    );
}
