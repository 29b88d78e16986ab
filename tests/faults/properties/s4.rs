//! S4, fail closed: where no node could answer for a ttl, no guard allows a call; and no permit outlasts its lease's ttl.

use super::{Run, ms};
use crate::faults::history::Decided;

pub fn check(run: &Run) -> Vec<String> {
    let mut found = Vec::new();
    for decision in &run.record.decisions {
        let Decided::Allowed { left_ns } = decision.verdict else { continue };
        let (guard, agent) = (decision.guard, &decision.agent);
        for outage in &run.record.outages {
            if (outage.start + run.ttl_ns() + 1..outage.end).contains(&decision.at_ns) {
                let after = ms(outage.start, decision.at_ns);
                found.push(format!(
                    "guard {guard} of {agent} allowed a call {after:.1} ms after the last node could answer"
                ));
            }
        }
        if left_ns > run.ttl_ns() {
            found.push(format!("guard {guard} of {agent} held a permit for {} ms", left_ns / 1_000_000));
        }
    }
    for lease in run.record.leases.iter().filter(|lease| lease.ttl_ms > run.ttl_ms) {
        found.push(format!("node {} signed a lease for {} ms", lease.node, lease.ttl_ms));
    }
    found
}
