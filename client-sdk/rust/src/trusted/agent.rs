//! What is believed of one agent, and what follows from it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use tagout_proto::digest::Digest;
use tagout_proto::lock::LockKind;
use tagout_proto::rule::{self, CallLimits, LockFact, Verdict};
use tagout_proto::trust::GrantRefused;
use tagout_proto::view::LockView;
use tagout_proto::wire::StopPath;

use super::boot_ns_of;
use super::consent::Consent;
use super::latch::Latched;
use crate::clock::Now;
use crate::denied::{Lock, Reason};
use crate::limits::{CLEARED_PER_AGENT_MAX, LOCKS_MAX};

#[derive(Clone, Default)]
pub(super) struct Agent {
    pub(super) lease: Option<Held>,
    /// The newest answer gave no lease for it, since this process is not enrolled for it.
    pub(super) unenrolled: Option<Arc<str>>,
    pub(super) view: Option<Digest>,
    /// How many instances share its limits, as the newest lease says; 0 is not known.
    pub(super) instances: u32,
    /// The `Asked` whose answer changed the view.
    pub(super) changed: u64,
    pub(super) consents: Vec<Arc<Consent>>,
    pub(super) refused: Arc<[GrantRefused]>,
    /// Locks that the newest view shows.
    pub(super) shown: BTreeSet<Digest>,
    pub(super) latched: BTreeMap<Digest, Latched>,
    pub(super) cleared: VecDeque<Digest>,
    /// A lock came that there was no room for.
    overflowed: bool,
}

/// The newest lease.
#[derive(Clone, Copy)]
pub(super) struct Held {
    pub(super) t0_ns: u64,
    pub(super) deadline_ns: u64,
    pub(super) grace_ns: u64,
}

/// What may happen now, by everything that is believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    pub verdict: Verdict,
    /// Calls may begin until then, by the boot clock; 0 is not at all.
    pub allow_until_ns: u64,
    /// Why not, if not.
    pub refusal: Option<Reason>,
    pub essential: Essential,
    /// Of all instances together.
    pub limits: CallLimits,
    /// What this instance may use of them.
    pub share: CallLimits,
    /// Nothing may go in or out of its network.
    pub isolated: bool,
    /// Calls under way end now.
    pub cut: bool,
    /// When this may change though nothing arrives.
    pub next_ns: Option<u64>,
    pub locks: Vec<JudgedLock>,
}

/// Which essential calls may begin: those of a drain and of a restriction, and when all calls may.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Essential {
    /// By class, until when, by the boot clock. A class that no grant names is not here.
    pub until_ns: BTreeMap<String, u64>,
    /// Why none may, if none may.
    pub refusal: Option<Reason>,
}

/// One lock on an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JudgedLock {
    pub id: Digest,
    pub by: StopPath,
    pub received_ns: u64,
    /// It has its full effect: a drain has that from its deadline on, a throttle never denies.
    pub in_force: bool,
    /// Calls under way end by it now.
    pub cuts: bool,
}

impl Judgement {
    /// Nothing may happen.
    pub(super) fn denied(reason: Reason) -> Self {
        Self {
            verdict: Verdict::Denied,
            allow_until_ns: 0,
            refusal: Some(reason.clone()),
            essential: Essential { until_ns: BTreeMap::new(), refusal: Some(reason) },
            limits: CallLimits::default(),
            share: CallLimits::default(),
            isolated: false,
            cut: true,
            next_ns: None,
            locks: Vec::new(),
        }
    }
}

impl Agent {
    /// Whether nothing holds it.
    pub(super) fn is_free(&self) -> bool {
        self.latched.is_empty() && !self.overflowed
    }

    /// Latches a lock that a view shows; whether it is new.
    pub(super) fn latch_shown(&mut self, shown: LockView, received_ns: u64, latched: usize) -> bool {
        if let Some(lock) = self.latched.get_mut(&shown.id) {
            lock.shown_again(shown);
            return false;
        }
        let (id, lock) = Latched::shown(shown, received_ns);
        self.latch_new(id, lock, latched)
    }

    /// Latches a lock by its verified bytes; whether it is new.
    pub(super) fn latch_signed(&mut self, id: Digest, signed: &Latched, latched: usize) -> bool {
        if let Some(lock) = self.latched.get_mut(&id) {
            lock.signed_as(signed);
            return false;
        }
        self.latch_new(id, signed.clone(), latched)
    }

    fn latch_new(&mut self, id: Digest, lock: Latched, latched: usize) -> bool {
        if latched >= LOCKS_MAX {
            self.overflow();
            return false;
        }
        self.latched.insert(id, lock);
        true
    }

    pub(super) fn has_overflowed(&self) -> bool {
        self.overflowed
    }

    /// Denies for good: there may be a lock that there was no room for.
    pub(super) fn overflow(&mut self) {
        self.overflowed = true;
    }

    /// Takes off a lock whose end is proven.
    pub(super) fn clear(&mut self, id: Digest) {
        self.latched.remove(&id);
        if self.cleared.len() == CLEARED_PER_AGENT_MAX {
            self.cleared.pop_front();
        }
        self.cleared.push_back(id);
    }

    pub(super) fn judge(&self, now: Now, now_ms: u64, newer_than: Option<&(u64, Reason)>) -> Judgement {
        let facts: Vec<LockFact> = self.latched.values().map(|lock| lock.fact(now, now_ms)).collect();
        let holding = || self.consents.iter().map(|c| &c.grant).filter(|grant| now_ms < grant.expires_at_ms);
        let terms = rule::terms(holding().map(|grant| &grant.terms), facts.iter().copied());

        let unsure = self.unsure(now, now_ms, newer_than);
        let refusal = |needed: Verdict| {
            if self.overflowed {
                return Some(Reason::TooManyLocks);
            }
            let lock = self.told(&facts, now_ms, needed).map(|lock| Reason::Stopped(Arc::new(lock)));
            lock.or_else(|| unsure.clone())
        };
        let (refusal, essential_refusal) = (refusal(Verdict::Enabled), refusal(Verdict::EssentialOnly));
        let allowed = match (&refusal, &essential_refusal) {
            (None, None) => Verdict::Enabled,
            (_, None) => Verdict::EssentialOnly,
            (_, Some(_)) => Verdict::Denied,
        };
        // The rule has the last word.
        let by_rule = rule::verdict(holding().map(|g| g.expires_at_ms), facts.iter().copied(), now_ms);
        let verdict = allowed.min(by_rule);

        let lease_until_ns = self.lease.map_or(0, |held| held.deadline_ns);
        let until_ns = |expires_at_ms: Option<u64>| {
            expires_at_ms.map_or(0, |at_ms| boot_ns_of(at_ms, now, now_ms).min(lease_until_ns))
        };
        let allow_until_ns = match verdict {
            Verdict::Enabled => until_ns(holding().map(|grant| grant.expires_at_ms).max()),
            Verdict::EssentialOnly | Verdict::Denied => 0,
        };
        let drains = || facts.iter().filter_map(|fact| fact.drain_deadline_ms);
        let drained_ns = drains().map(|at_ms| boot_ns_of(at_ms, now, now_ms)).min().unwrap_or(u64::MAX);
        let mut essential = Essential { until_ns: BTreeMap::new(), refusal: essential_refusal };
        if verdict >= Verdict::EssentialOnly {
            for class in terms.essential {
                let naming = holding().filter(|grant| grant.terms.essential.contains(&class));
                let until_ns = until_ns(naming.map(|grant| grant.expires_at_ms).max()).min(drained_ns);
                essential.until_ns.insert(class, until_ns);
            }
        }

        let cut_at_ns = self.lease.map(|held| held.deadline_ns.saturating_add(held.grace_ns));
        let cut = self.overflowed
            || facts.iter().any(|fact| fact.cuts(now_ms))
            || cut_at_ns.is_none_or(|at_ns| now.boot_ns >= at_ns);
        let ends = holding().map(|grant| grant.expires_at_ms).chain(drains());
        let next_ns = (self.lease.map(|held| held.deadline_ns).into_iter())
            .chain(cut_at_ns)
            .chain(ends.map(|at_ms| boot_ns_of(at_ms, now, now_ms)))
            .filter(|at_ns| *at_ns > now.boot_ns)
            .min();
        let locks = self.latched.iter().zip(&facts).map(|((id, lock), fact)| JudgedLock {
            id: *id,
            by: lock.by,
            received_ns: lock.received_ns,
            in_force: match fact.kind {
                LockKind::Halt | LockKind::Pause | LockKind::Isolate | LockKind::Restrict => true,
                LockKind::Drain { .. } => fact.verdict(now_ms) == Verdict::Denied,
                LockKind::Throttle(_) => false,
            },
            cuts: fact.cuts(now_ms),
        });
        Judgement {
            verdict,
            allow_until_ns,
            refusal,
            essential,
            limits: terms.limits,
            share: terms.limits.shared(self.instances),
            isolated: isolates(&facts, now_ms),
            cut,
            next_ns,
            locks: locks.collect(),
        }
    }

    /// Whether a lock says so; it outlives every lapse.
    pub(super) fn isolated(&self, now: Now, now_ms: u64) -> bool {
        isolates(&self.latched.values().map(|lock| lock.fact(now, now_ms)).collect::<Vec<_>>(), now_ms)
    }

    /// What is missing beside the locks: a lease that counts, or consent.
    fn unsure(&self, now: Now, now_ms: u64, newer_than: Option<&(u64, Reason)>) -> Option<Reason> {
        if let Some(why) = &self.unenrolled {
            return Some(Reason::NotEnrolled { why: Arc::clone(why) });
        }
        let Some(held) = self.lease else { return Some(Reason::NotReady { last_error: None }) };
        match newer_than {
            Some((after_ns, why)) if held.t0_ns <= *after_ns => return Some(why.clone()),
            Some(_) | None if now.boot_ns >= held.deadline_ns => {
                return Some(Reason::Lapsed { last_error: None });
            }
            Some(_) | None => {}
        }
        match self.consents.iter().map(|consent| consent.grant.expires_at_ms).max() {
            None => Some(Reason::NoConsent { refused: Arc::clone(&self.refused) }),
            Some(at_ms) if now_ms >= at_ms => Some(Reason::GrantExpired { at_ms }),
            Some(_) => None,
        }
    }

    /// The lock to tell of: the strongest of those that allow less than `needed`.
    fn told(&self, facts: &[LockFact], now_ms: u64, needed: Verdict) -> Option<Lock> {
        let allows_less = |fact: &LockFact, than| fact.verdict(now_ms) < than;
        let locks = || self.latched.iter().zip(facts);
        let ((id, lock), _) = (locks().filter(|(_, fact)| allows_less(fact, needed)))
            .min_by_key(|((_, lock), _)| lock.rank())?;
        let limiting = locks().filter(|(_, fact)| allows_less(fact, Verdict::Enabled)).count();
        Some(Lock {
            id: *id,
            scope: lock.scope.clone(),
            kind: lock.kind,
            released: lock.released,
            tag: lock.tag.clone(),
            since_ms: lock.time_ms,
            others: limiting - 1,
            held: lock.held.clone(),
        })
    }
}

fn isolates(facts: &[LockFact], now_ms: u64) -> bool {
    facts.iter().any(|fact| fact.kind == LockKind::Isolate && fact.verdict(now_ms) == Verdict::Denied)
}
