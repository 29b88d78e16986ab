//! Tests that cannot run on this machine.

use std::io::Write;

/// Leaves the test, which cannot run here, for a reason that `tests/skips.toml` lists for it; any other skip fails.
/// `skip!("power_cut::…", "it needs root")` returns from the test function.
#[macro_export]
macro_rules! skip {
    ($test:expr, $reason:expr) => {{
        $crate::skip::record($test, $reason);
        return;
    }};
}

#[derive(serde::Deserialize)]
struct Skips {
    #[serde(default)]
    skip: Vec<Skip>,
}

#[derive(Debug, PartialEq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Skip {
    test: String,
    reason: String,
}

/// Use [`skip!`](crate::skip!).
pub fn record(test: &str, reason: &str) {
    let skips: Skips = toml::from_str(include_str!("skips.toml")).expect("tests/skips.toml does not parse");
    let skip = Skip { test: test.into(), reason: reason.into() };
    assert!(
        skips.skip.contains(&skip),
        "{test} cannot run here ({reason}), and tests/skips.toml does not list that"
    );
    // Not println!, whose output is shown only when the test fails.
    let _ = writeln!(std::io::stderr(), "\nSKIPPED {test}: {reason}");
}
