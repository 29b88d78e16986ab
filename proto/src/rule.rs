//! The rule: the one function that says whether an agent may call. Nodes and every SDK use this and nothing else.
//!
//! It has no clock, no I/O and no randomness: `now_ms` comes from the caller. The verdict is a minimum, so that adding a
//! lock can never raise it (S7) and neither order nor duplicates of locks matter.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize, Serializer};

use crate::lock::LockKind;

/// The version of this rule. A change of it is activated by an entry of the log, once every voter supports it.
pub const RULE_VERSION: u64 = 1;

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
    pub kind: LockKind,
    /// Released, but not yet started for this agent.
    pub released: bool,
    /// When a drain ends; without it a drain is a halt.
    pub drain_deadline_ms: Option<u64>,
}

impl LockFact {
    /// The fact as of its log entry: a drain counts from the entry's time.
    pub fn of_entry(kind: LockKind, released: bool, entry_time_ms: u64) -> Self {
        let drain_deadline_ms = match kind {
            LockKind::Drain { drain_ms } => Some(entry_time_ms.saturating_add(drain_ms)),
            LockKind::Halt
            | LockKind::Pause
            | LockKind::Isolate
            | LockKind::Restrict
            | LockKind::Throttle(_) => None,
        };
        Self { kind, released, drain_deadline_ms }
    }

    pub fn verdict(&self, now_ms: u64) -> Verdict {
        match self.kind {
            // S2: released is not started.
            LockKind::Halt => Verdict::Denied,
            LockKind::Drain { .. } if self.drain_deadline_ms.is_some_and(|at| now_ms < at) => {
                Verdict::EssentialOnly
            }
            LockKind::Drain { .. } => Verdict::Denied,
            LockKind::Pause | LockKind::Isolate | LockKind::Restrict if self.released => Verdict::Enabled,
            LockKind::Pause | LockKind::Isolate => Verdict::Denied,
            LockKind::Restrict => Verdict::EssentialOnly,
            LockKind::Throttle(_) => Verdict::Enabled,
        }
    }

    /// Whether calls in flight are cut too.
    pub fn cuts(&self, now_ms: u64) -> bool {
        self.kind.cuts() && self.verdict(now_ms) == Verdict::Denied
    }

    /// The limits that it sets.
    pub fn limits(&self) -> CallLimits {
        match self.kind {
            LockKind::Throttle(limits) if !self.released => limits,
            LockKind::Throttle(_)
            | LockKind::Halt
            | LockKind::Drain { .. }
            | LockKind::Pause
            | LockKind::Isolate
            | LockKind::Restrict => CallLimits::default(),
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

/// What a grant allows beside its time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// Classes of calls that go on where the verdict is `EssentialOnly`. A class that no grant names is denied.
    pub essential: BTreeSet<String>,
    pub limits: CallLimits,
}

/// An agent's calls and tokens per minute, all its instances together; `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CallLimits {
    #[serde(default)]
    pub calls_per_minute: Option<u64>,
    #[serde(default)]
    pub tokens_per_minute: Option<u64>,
}

/// In JSON what is not limited is left out, as in a grant. A snapshot has no names, so there every field has its place.
impl Serialize for CallLimits {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { calls_per_minute: calls, tokens_per_minute: tokens } = *self;
        if !serializer.is_human_readable() {
            return (calls, tokens).serialize(serializer);
        }
        let named = [("calls_per_minute", calls), ("tokens_per_minute", tokens)];
        serializer.collect_map(named.into_iter().filter_map(|(name, limit)| Some((name, limit?))))
    }
}

/// For people: `60 calls and 1000 tokens a minute`.
impl fmt::Display for CallLimits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = |n: u64| if n == 1 { "" } else { "s" };
        match (self.calls_per_minute, self.tokens_per_minute) {
            (None, None) => f.write_str("no limits"),
            (Some(calls), None) => write!(f, "{calls} call{} a minute", plural(calls)),
            (None, Some(tokens)) => write!(f, "{tokens} token{} a minute", plural(tokens)),
            (Some(calls), Some(tokens)) => {
                write!(f, "{calls} call{} and {tokens} token{} a minute", plural(calls), plural(tokens))
            }
        }
    }
}

impl CallLimits {
    /// Both limits hold.
    pub fn both(self, other: Self) -> Self {
        let lower = |a: Option<u64>, b: Option<u64>| a.into_iter().chain(b).min();
        Self {
            calls_per_minute: lower(self.calls_per_minute, other.calls_per_minute),
            tokens_per_minute: lower(self.tokens_per_minute, other.tokens_per_minute),
        }
    }

    /// What each of so many instances may use of them: all shares together are never more than the limits.
    pub fn shared(self, instances: u32) -> Self {
        let share = |limit: Option<u64>| limit.map(|limit| limit / u64::from(instances.max(1)));
        Self {
            calls_per_minute: share(self.calls_per_minute),
            tokens_per_minute: share(self.tokens_per_minute),
        }
    }

    /// Either suffices.
    fn either(self, other: Self) -> Self {
        let higher = |a: Option<u64>, b: Option<u64>| a.zip(b).map(|(a, b)| a.max(b));
        Self {
            calls_per_minute: higher(self.calls_per_minute, other.calls_per_minute),
            tokens_per_minute: higher(self.tokens_per_minute, other.tokens_per_minute),
        }
    }
}

/// The terms for an agent: the most permissive over the grants that hold, so that losing one never widens them, and
/// then the minimum with every throttle.
pub fn terms<'a>(
    grants: impl IntoIterator<Item = &'a Terms>,
    locks: impl IntoIterator<Item = LockFact>,
) -> Terms {
    let granted = grants.into_iter().fold(None, |widest: Option<Terms>, grant| match widest {
        None => Some(grant.clone()),
        Some(mut widest) => {
            widest.essential.extend(grant.essential.iter().cloned());
            widest.limits = widest.limits.either(grant.limits);
            Some(widest)
        }
    });
    let mut terms = granted.unwrap_or_default();
    terms.limits = locks.into_iter().fold(terms.limits, |limits, lock| limits.both(lock.limits()));
    terms
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lock(kind: LockKind, released: bool, drain_deadline_ms: Option<u64>) -> LockFact {
        LockFact { kind, released, drain_deadline_ms }
    }

    #[test]
    fn consent_is_needed_and_ends() {
        assert_eq!(verdict([], [], 0), Verdict::Denied);
        assert_eq!(verdict([10], [], 9), Verdict::Enabled);
        assert_eq!(verdict([10], [], 10), Verdict::Denied);
        assert_eq!(verdict([10, 20], [], 15), Verdict::Enabled);
    }

    #[test]
    fn s2_a_released_halt_or_drain_still_denies_and_what_takes_no_start_does_not() {
        use Verdict::*;
        let drain = LockKind::Drain { drain_ms: 5 };
        let throttle = LockKind::Throttle(CallLimits { calls_per_minute: Some(0), tokens_per_minute: None });
        for (fact, at_9, at_10) in [
            (lock(LockKind::Halt, false, None), Denied, Denied),
            (lock(LockKind::Halt, true, None), Denied, Denied),
            (lock(drain, false, Some(10)), EssentialOnly, Denied),
            (lock(drain, true, Some(10)), EssentialOnly, Denied),
            (lock(drain, false, None), Denied, Denied),
            (lock(LockKind::Pause, false, None), Denied, Denied),
            (lock(LockKind::Pause, true, None), Enabled, Enabled),
            (lock(LockKind::Isolate, false, None), Denied, Denied),
            (lock(LockKind::Isolate, true, None), Enabled, Enabled),
            (lock(LockKind::Restrict, false, None), EssentialOnly, EssentialOnly),
            (lock(LockKind::Restrict, true, None), Enabled, Enabled),
            (lock(throttle, false, None), Enabled, Enabled),
        ] {
            assert_eq!(verdict([99], [fact], 9), at_9, "{fact:?}");
            assert_eq!(verdict([99], [fact], 10), at_10, "{fact:?}");
        }
        assert!(!lock(LockKind::Pause, false, None).cuts(0), "a pause leaves calls in flight alone");
        assert!(!lock(LockKind::Restrict, false, None).cuts(0));
        assert!(lock(LockKind::Isolate, false, None).cuts(0) && !lock(LockKind::Isolate, true, None).cuts(0));
        assert!(!lock(drain, false, Some(10)).cuts(9) && lock(drain, false, Some(10)).cuts(10));
    }

    #[test]
    fn losing_a_grant_never_widens_the_terms_and_throttles_only_narrow_them() {
        let limits = |calls: Option<u64>, tokens: Option<u64>| CallLimits {
            calls_per_minute: calls,
            tokens_per_minute: tokens,
        };
        let grant = |classes: &[&str], limits| Terms {
            essential: classes.iter().map(ToString::to_string).collect(),
            limits,
        };
        let a = grant(&["handover"], limits(Some(10), None));
        let b = grant(&["alarm"], limits(Some(60), Some(1000)));
        assert_eq!(terms([&a, &b], []), grant(&["alarm", "handover"], limits(Some(60), None)));
        assert_eq!(terms([&a], []), a);
        assert_eq!(terms([&b], []), b);
        let throttle = |calls, tokens| lock(LockKind::Throttle(limits(calls, tokens)), false, None);
        let narrowed = terms([&a, &b], [throttle(Some(5), None), throttle(Some(20), Some(7))]);
        assert_eq!(narrowed.limits, limits(Some(5), Some(7)));
        assert_eq!(terms([&a], [lock(LockKind::Halt, false, None)]), a);
    }

    #[test]
    fn s7_shares_are_never_more_than_the_limits() {
        let limits = CallLimits { calls_per_minute: Some(10), tokens_per_minute: None };
        for instances in 0..20 {
            let share = limits.shared(instances);
            let calls = share.calls_per_minute.expect("limited");
            assert!(calls * u64::from(instances) <= 10 && calls <= 10, "{instances}");
            assert_eq!(share.tokens_per_minute, None);
        }
        assert_eq!(limits.shared(1), limits);
        assert_eq!(limits.shared(3).calls_per_minute, Some(3));
    }
}
