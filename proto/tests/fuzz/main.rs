//! Hostile bytes for every parser of the core, 100,000 inputs each in every run. See `tests/fuzz/lib.rs` for how.

mod bodies;
mod documents;
mod log;
mod signatures;
mod state;
#[path = "../core/support.rs"]
#[allow(dead_code, reason = "shared with the core's tests, which use all of it")]
mod support;

use std::borrow::Cow;

/// Text that a parser of text may be given for these bytes; those that are no UTF-8 never get that far.
fn lossy(bytes: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}
