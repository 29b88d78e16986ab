//! S3, bounded stop: after an acknowledgement and a ttl no guard allows a call, until what ends the stop is sent; and every
//! lease whose nonce was made after an acknowledgement was read from a log that holds what was acknowledged.

use super::{Run, ms};
use crate::faults::history::{Answer, Decided};

pub fn check(run: &Run) -> Vec<String> {
    let mut found = Vec::new();
    let denying = run.record.lives().into_iter().filter(|life| life.kind.denies());
    let bounds: Vec<_> = denying
        .filter_map(|life| {
            let from_ns = life.acknowledged_ns? + run.ttl_ns();
            Some((life.id, life.scope.clone(), from_ns, life.may_end_ns.unwrap_or(u64::MAX)))
        })
        .collect();
    for decision in &run.record.decisions {
        let Decided::Allowed { .. } = decision.verdict else { continue };
        for (id, scope, from_ns, to_ns) in &bounds {
            if (*from_ns + 1..*to_ns).contains(&decision.at_ns) && scope.covers(&decision.agent) {
                let (guard, agent, id) = (decision.guard, &decision.agent, id.short());
                let late = ms(*from_ns, decision.at_ns);
                found.push(format!("guard {guard} of {agent} allowed a call {late:.1} ms after {id} was acknowledged and a ttl had passed"));
            }
        }
    }

    // The newest acknowledged entry by time, as a staircase.
    let mut acknowledged: Vec<(u64, u64)> = (run.record.attempts.iter())
        .filter_map(|attempt| match attempt.answer {
            Answer::Took { index } => Some((attempt.answered_ns, index)),
            Answer::Refused { .. } | Answer::Nothing => None,
        })
        .collect();
    acknowledged.sort_unstable();
    let mut newest = 0;
    for (_, index) in &mut acknowledged {
        newest = newest.max(*index);
        *index = newest;
    }
    for lease in &run.record.leases {
        let before = acknowledged.partition_point(|(at_ns, _)| *at_ns < lease.asked_ns);
        let Some((at_ns, index)) = before.checked_sub(1).map(|last| acknowledged[last]) else { continue };
        if lease.log_size <= index {
            found.push(format!(
                "node {} signed a lease of log size {} for a nonce made {:.1} ms after entry {index} was acknowledged",
                lease.node,
                lease.log_size,
                ms(at_ns, lease.asked_ns)
            ));
        }
    }
    found
}
