//! S2, no restart by reset: once a guard was stopped by a halt or drain, it allows nothing before both a release and a
//! start that name it were sent; and in the log the start comes after the release.

use std::collections::BTreeMap;

use super::Run;
use crate::faults::history::{Decided, What};

pub fn check(run: &Run) -> Vec<String> {
    let mut found = Vec::new();
    let lives: BTreeMap<_, _> = run.record.lives().into_iter().map(|life| (life.id, life)).collect();
    // By guard: the halts and drains that it said it was stopped by.
    let mut seen: BTreeMap<usize, Vec<_>> = BTreeMap::new();
    for decision in &run.record.decisions {
        let seen = seen.entry(decision.guard).or_default();
        match &decision.verdict {
            Decided::Stopped(id) => {
                let restarts = lives.get(id).is_some_and(|life| life.kind.needs_start());
                if restarts && !seen.contains(id) {
                    seen.push(*id);
                }
            }
            Decided::Allowed { .. } => {
                seen.retain(|id| {
                    let ended = lives[id].may_end_ns.is_some_and(|sent| sent <= decision.at_ns);
                    if !ended {
                        let (guard, agent, id) = (decision.guard, &decision.agent, id.short());
                        found.push(format!("guard {guard} of {agent} allowed a call after {id} had stopped it, with no release and start"));
                    }
                    false
                });
            }
            Decided::Lapsed | Decided::Other(_) => {}
        }
    }

    let log = run.log();
    for (digest, start) in &log {
        let Some(What::Start { locks, .. }) = run.record.commands.get(digest).map(|c| &c.what) else {
            continue;
        };
        for lock in locks {
            let released = log.iter().any(|(digest, release)| {
                let what = run.record.commands.get(digest).map(|c| &c.what);
                let names = matches!(what, Some(What::Release { locks }) if locks.contains(lock));
                names && release.index < start.index
            });
            if !released {
                found.push(format!(
                    "entry {} starts {} and no release of it stands before",
                    start.index,
                    lock.short()
                ));
            }
        }
    }
    found
}
