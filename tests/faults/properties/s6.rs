//! S6, any path stops: whatever stop reached a guard, by whatever path, is in the log in the end.

use std::collections::BTreeMap;

use super::Run;
use crate::faults::history::Decided;

pub fn check(run: &Run) -> Vec<String> {
    let log = run.log();
    let mut seen = BTreeMap::new();
    for decision in &run.record.decisions {
        if let Decided::Stopped(id) = &decision.verdict {
            seen.entry(*id).or_insert(decision.guard);
        }
    }
    let missing = seen.into_iter().filter(|(id, _)| !log.contains_key(id));
    missing
        .map(|(id, guard)| format!("lock {} stopped guard {guard}, and is not in the log", id.short()))
        .collect()
}
