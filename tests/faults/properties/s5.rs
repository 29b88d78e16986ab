//! S5, no forged consent: what nobody may sign took effect nowhere; and no lease shows less than one that was answered
//! before it was asked for, in log size, epoch and authority: the floors of guards never make them refuse an honest node.

use super::Run;
use crate::faults::history::{Answer, By};

pub fn check(run: &Run) -> Vec<String> {
    let mut found = Vec::new();
    let log = run.log();
    for (digest, _) in run.record.commands.iter().filter(|(_, command)| command.by == By::Forger) {
        if let Some(entry) = log.get(digest) {
            found.push(format!("the forged document {} is entry {}", digest.short(), entry.index));
        }
    }
    for attempt in run.record.acknowledged() {
        if run.record.commands.get(&attempt.digest).is_some_and(|command| command.by == By::Forger) {
            let Answer::Took { index } = attempt.answer else { unreachable!("it is acknowledged") };
            let (node, digest) = (attempt.node, attempt.digest.short());
            found.push(format!("node {node} acknowledged the forged document {digest} as entry {index}"));
        }
    }

    let mut answered: Vec<_> = run.record.leases.iter().collect();
    answered.sort_unstable_by_key(|lease| lease.answered_ns);
    let mut asked = answered.clone();
    asked.sort_unstable_by_key(|lease| lease.asked_ns);
    let (mut answered, mut floor) = (answered.into_iter().peekable(), (0, 0, 0));
    for lease in asked {
        while let Some(before) = answered.next_if(|before| before.answered_ns < lease.asked_ns) {
            floor.0 = floor.0.max(before.epoch_number);
            floor.1 = floor.1.max(before.authority_version);
            floor.2 = floor.2.max(before.log_size);
        }
        let shown = (lease.epoch_number, lease.authority_version, lease.log_size);
        if shown.0 < floor.0 || shown.1 < floor.1 || shown.2 < floor.2 {
            found.push(format!("node {} signed a lease of (epoch, authority, size) {shown:?} after one of {floor:?} was answered", lease.node));
        }
    }
    found
}
