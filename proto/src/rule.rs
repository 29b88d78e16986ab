//! The rule: the one function that says whether an agent may call. Nodes and every SDK use this and nothing else.
//!
//! It has no clock, no I/O and no randomness: `now_ms` comes from the caller. The verdict is a minimum, so that adding a
//! lock can never raise it (S7) and neither order nor duplicates of locks matter.

use serde::{Deserialize, Serialize};

use crate::command::StopMode;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Denied,
    EssentialOnly,
    Enabled,
}

/// What the rule needs to know of a lock on the agent or on any of its ancestors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LockFact {
    pub mode: StopMode,
    /// Released, but not yet started for this agent.
    pub released: bool,
    /// When a drain ends; without it a drain is a halt.
    pub drain_deadline_ms: Option<u64>,
}

impl LockFact {
    /// The fact as of its log entry: a drain counts from the entry's time.
    pub fn of_entry(mode: StopMode, released: bool, entry_time_ms: u64) -> Self {
        let drain_deadline_ms = match mode {
            StopMode::Drain { drain_ms } => Some(entry_time_ms.saturating_add(drain_ms)),
            StopMode::Halt | StopMode::Pause => None,
        };
        Self { mode, released, drain_deadline_ms }
    }

    pub fn verdict(&self, now_ms: u64) -> Verdict {
        match self.mode {
            // S2: released is not started.
            StopMode::Halt => Verdict::Denied,
            StopMode::Drain { .. } if self.drain_deadline_ms.is_some_and(|at| now_ms < at) => {
                Verdict::EssentialOnly
            }
            StopMode::Drain { .. } => Verdict::Denied,
            StopMode::Pause if self.released => Verdict::Enabled,
            StopMode::Pause => Verdict::Denied,
        }
    }

    /// Whether calls in flight are cut too.
    pub fn cuts(&self, now_ms: u64) -> bool {
        match self.mode {
            StopMode::Halt | StopMode::Drain { .. } => self.verdict(now_ms) == Verdict::Denied,
            StopMode::Pause => false,
        }
    }
}

/// The verdict for an agent, from the expiry instants of the valid grants that cover it and the locks on it.
pub fn verdict(
    grant_expiries_ms: impl IntoIterator<Item = u64>,
    locks: impl IntoIterator<Item = LockFact>,
    now_ms: u64,
) -> Verdict {
    let consent = grant_expiries_ms.into_iter().any(|expires_at_ms| now_ms < expires_at_ms);
    let mut verdict = if consent { Verdict::Enabled } else { Verdict::Denied };
    for lock in locks {
        // A minimum: among ten thousand locks, the first that denies ends the search.
        if verdict == Verdict::Denied {
            break;
        }
        verdict = verdict.min(lock.verdict(now_ms));
    }
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lock(mode: StopMode, released: bool, drain_deadline_ms: Option<u64>) -> LockFact {
        LockFact { mode, released, drain_deadline_ms }
    }

    #[test]
    fn consent_is_needed_and_ends() {
        assert_eq!(verdict([], [], 0), Verdict::Denied);
        assert_eq!(verdict([10], [], 9), Verdict::Enabled);
        assert_eq!(verdict([10], [], 10), Verdict::Denied);
        assert_eq!(verdict([10, 20], [], 15), Verdict::Enabled);
    }

    #[test]
    fn s2_a_released_halt_or_drain_still_denies_and_a_released_pause_does_not() {
        let drain = StopMode::Drain { drain_ms: 5 };
        for (fact, at_9, at_10) in [
            (lock(StopMode::Halt, false, None), Verdict::Denied, Verdict::Denied),
            (lock(StopMode::Halt, true, None), Verdict::Denied, Verdict::Denied),
            (lock(drain, false, Some(10)), Verdict::EssentialOnly, Verdict::Denied),
            (lock(drain, true, Some(10)), Verdict::EssentialOnly, Verdict::Denied),
            (lock(drain, false, None), Verdict::Denied, Verdict::Denied),
            (lock(StopMode::Pause, false, None), Verdict::Denied, Verdict::Denied),
            (lock(StopMode::Pause, true, None), Verdict::Enabled, Verdict::Enabled),
        ] {
            assert_eq!(verdict([99], [fact], 9), at_9, "{fact:?}");
            assert_eq!(verdict([99], [fact], 10), at_10, "{fact:?}");
        }
        assert!(!lock(StopMode::Pause, false, None).cuts(0), "a pause leaves calls in flight alone");
        assert!(!lock(drain, false, Some(10)).cuts(9) && lock(drain, false, Some(10)).cuts(10));
    }
}
