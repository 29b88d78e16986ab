//! S10, a stop is always taken: a valid stop that reached a node is acknowledged, or honestly pending (503) and then in the
//! log after all, or the disk is full (507). Nothing else is an answer; and once all is healed, it is answered and kept.

use super::Run;
use crate::faults::history::{Answer, By, What};

pub fn check(run: &Run) -> Vec<String> {
    let mut found = Vec::new();
    let log = run.log();
    for attempt in &run.record.attempts {
        let Some(command) = run.record.commands.get(&attempt.digest) else { continue };
        if command.by == By::Forger || !matches!(command.what, What::Lock { .. }) {
            continue;
        }
        let (digest, node) = (attempt.digest.short(), attempt.node);
        match &attempt.answer {
            Answer::Took { .. } | Answer::Nothing => {}
            // It took effect before, and was released since.
            Answer::Refused { status: 409, code } if code == "used" && log.contains_key(&attempt.digest) => {}
            Answer::Refused { status: 503, code } if code == "pending" => {
                if !log.contains_key(&attempt.digest) {
                    found.push(format!(
                        "node {node} said that stop {digest} is pending, and it never was committed"
                    ));
                }
            }
            Answer::Refused { status: 507, .. } => {}
            // It was pushed and could not be kept, and the answer says both.
            Answer::Refused { status: 503, code }
                if code == "not-kept" && run.record.cannot_write.contains(&node) => {}
            Answer::Refused { status, code } => {
                found.push(format!("node {node} refused the valid stop {digest}: {status} {code}"));
            }
        }
        // One that was replaced is gone for good. On a busy machine a second may be too short for a node that is well.
        let healed = run.record.healed_ns.filter(|_| run.nodes.contains(&node));
        let well = healed.is_some_and(|healed_ns| healed_ns <= attempt.sent_ns);
        if well && matches!(attempt.answer, Answer::Nothing | Answer::Refused { status: 507, .. }) {
            found.push(format!(
                "node {node} is well and answered the stop {digest} with {:?}",
                attempt.answer
            ));
        }
    }
    found
}
