//! S1, latch: a lock that was acknowledged holds on every node until a release names its id.

use super::Run;

pub fn check(run: &Run) -> Vec<String> {
    let mut found = Vec::new();
    for life in run.record.lives() {
        let id = life.id.short();
        for (node, ending) in run.by_node() {
            let held = ending.locks.iter().any(|record| record.lock.id == life.id);
            if life.acknowledged_ns.is_some() && life.may_end_ns.is_none() && !held {
                found.push(format!(
                    "lock {id} on {:?} was acknowledged, and node {node} does not hold it",
                    life.scope
                ));
            }
            // The other way round it is no matter of safety, but a service that never lets go is broken too.
            if life.ended && held {
                found.push(format!(
                    "lock {id} was released, and started where it takes that, and node {node} holds it"
                ));
            }
        }
    }
    found
}
