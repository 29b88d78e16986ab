//! What the ledger shows: to guards as views and proofs, to people as records.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;

use serde::{Deserialize, Serialize};

use super::{GrantRecord, Ledger, Lock, Order, Rank, bulk};
use crate::command::{Action, Listed, LockSet};
use crate::digest::Digest;
use crate::lock::LockKind;
use crate::log::tree::{self, prove_inclusion};
use crate::rule::{self, Terms, Verdict};
use crate::scope::Scope;
use crate::view::{LockView, View};

/// Where the proofs lie that a lock no longer holds an agent: entries of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockStatus {
    Held,
    Cleared { placed: u64, release: u64, start: Option<u64> },
    Unknown,
}

/// One lock in force, for people and for the account of what a stop reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockRecord {
    #[serde(flatten)]
    pub lock: LockView,
    /// Sub-scopes that were started already.
    pub started: Vec<Scope>,
    /// For a restore's lock: its release names this, as `lost_from`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost_from: Option<u64>,
}

/// One grant, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantSummary {
    pub scope: Scope,
    pub id: Digest,
    /// Its entry in the log.
    pub index: u64,
    pub expires_at_ms: u64,
    pub terms: Terms,
}

/// What a document would take from the grants that hold now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Impact {
    /// Grants that would be void for ever.
    pub voids: Vec<GrantSummary>,
    /// Scopes with a grant that would lose their last consent.
    pub disables: Vec<Scope>,
}

impl Ledger {
    /// All that a guard of `agent` needs to know, as of `now_ms`.
    pub fn view(&self, agent: &Scope, now_ms: u64) -> View {
        let mut strongest: BTreeMap<Rank, Order> = BTreeMap::new();
        let mut grants = Vec::new();
        for scope in agent.upward() {
            let Some(locks) = self.by_scope.get(&scope) else { continue };
            for rank in Rank::ALL {
                let equal = locks.range((rank, 0, Digest::default())..).take_while(|(r, ..)| *r == rank);
                let mut holding = equal.filter(|(.., id)| !self.locks[id].started_for(agent));
                if let Some(order) = holding.next() {
                    let best = strongest.entry(rank).or_insert(*order);
                    *best = (*best).min(*order);
                }
            }
        }
        for scope in agent.upward() {
            let unexpired =
                self.grants.get(&scope).into_iter().flatten().filter(|g| now_ms < g.expires_at_ms);
            grants.extend(unexpired.map(|g| g.envelope.clone()));
        }
        let mut locks: Vec<LockView> = Vec::new();
        for (.., id) in strongest.values() {
            // One throttle may be the lowest in both of its limits.
            if !locks.iter().any(|lock| lock.id == *id) {
                locks.push(self.locks[id].view(*id));
            }
        }
        View { agent: agent.clone(), locks, grants }
    }

    /// The verdict for `agent` at `now_ms`, by every lock and grant there is.
    pub fn verdict(&self, agent: &Scope, now_ms: u64) -> Verdict {
        let grants = agent.upward().filter_map(|s| self.grants.get(&s)).flatten().map(|g| g.expires_at_ms);
        let locks = self.in_force_on(agent).map(|(_, lock)| lock.fact());
        rule::verdict(grants, locks, now_ms)
    }

    /// What the verdict for `agent` would be once `actions` took effect, for those who shall sign them. A start counts as
    /// if its locks were released.
    pub fn verdict_after(&self, actions: &[Action], agent: &Scope, now_ms: u64) -> Verdict {
        let grants = agent.upward().filter_map(|s| self.grants.get(&s)).flatten().map(|g| g.expires_at_ms);
        let more = actions.iter().filter_map(|action| match action {
            Action::Grant(grant) if grant.scope.covers(agent) => Some(grant.expires_at_ms),
            _ => None,
        });
        let ends = |action: &Action, id: &Digest, lock: &Lock| match action {
            Action::Release(release) => {
                !lock.kind.needs_start()
                    && release.scope.covers(&lock.scope)
                    && named(&release.locks, id, lock)
            }
            Action::Start(start) => {
                lock.kind.needs_start() && start.scope.covers(agent) && named(&start.locks, id, lock)
            }
            _ => false,
        };
        let stays = |(id, lock): &(Digest, &Lock)| !actions.iter().any(|action| ends(action, id, lock));
        let locks = self.in_force_on(agent).filter(stays).map(|(_, lock)| lock.fact());
        rule::verdict(grants.chain(more), locks, now_ms)
    }

    /// Essential classes and limits for `agent` at `now_ms`.
    pub fn terms(&self, agent: &Scope, now_ms: u64) -> Terms {
        let covering: Vec<_> = agent.upward().filter_map(|s| self.grants.get(&s)).flatten().collect();
        let unexpired = covering.into_iter().filter(|g| now_ms < g.expires_at_ms).map(|g| &g.terms);
        rule::terms(unexpired, self.in_force_on(agent).map(|(_, lock)| lock.fact()))
    }

    /// Whether the lock `id` still holds `agent`, and if not, which entries prove it.
    pub fn lock_status(&self, id: &Digest, agent: &Scope) -> LockStatus {
        let Some(used) = self.used.get(id) else { return LockStatus::Unknown };
        let placed = used.index;
        match (self.locks.get(id), used.ended.as_deref()) {
            (Some(lock), _) => match (lock.released_at, lock.wave_for(agent)) {
                (Some(release), Some(start)) => LockStatus::Cleared { placed, release, start: Some(start) },
                _ => LockStatus::Held,
            },
            (None, Some(ended)) => LockStatus::Cleared { placed, release: ended.release, start: ended.start },
            // No lock was ever made of these bytes.
            (None, None) => LockStatus::Unknown,
        }
    }

    /// The proof that the bulk list of the document at entry `index` holds `id`.
    pub fn listed(&self, index: u64, id: &Digest) -> Option<Listed> {
        let ids = self.bulk.get(&index)?;
        let at = ids.iter().position(|listed| listed == id)?;
        let leaves = bulk::leaves(ids);
        let mut perfect = |level: u32, n: u64| {
            let (from, len) = ((n as usize) << level, 1 << level);
            Ok::<_, Infallible>(tree::root(&leaves[from..from + len]))
        };
        let path = match prove_inclusion(at as u64, ids.len() as u64, &mut perfect) {
            Ok(path) => path,
            Err(never) => match never {},
        };
        Some(Listed { index: at as u64, path })
    }

    /// Locks in force on `scope`, above it or below it, oldest first.
    pub fn locks_touching(&self, scope: &Scope) -> Vec<LockRecord> {
        let mut locks: Vec<_> = (self.locks.iter())
            .filter(|(_, lock)| lock.scope.covers(scope) || scope.covers(&lock.scope))
            .map(|(id, lock)| lock.record(*id))
            .collect();
        locks.sort_by_key(|record| record.lock.index);
        locks
    }

    /// The lock on `scope` itself that `by` has placed for this case, the oldest; none that is released.
    pub fn lock_of_case(&self, scope: &Scope, kind: LockKind, case: &str, by: &str) -> Option<LockRecord> {
        let here = self.by_scope.get(scope)?.iter().map(|(_, _, id)| (id, &self.locks[id]));
        let of_case = here.filter(|(_, lock)| {
            lock.kind == kind
                && lock.released_at.is_none()
                && lock.tag.case.as_deref() == Some(case)
                && lock.tag.by.iter().any(|name| name == by)
        });
        of_case.min_by_key(|(_, lock)| lock.index).map(|(id, lock)| lock.record(*id))
    }

    /// Where `by` has placed locks after `since_ms` that are in force still.
    pub fn locked_since(&self, by: &str, since_ms: u64) -> BTreeSet<Scope> {
        let is_of = |lock: &&Lock| lock.time_ms > since_ms && lock.tag.by.iter().any(|name| name == by);
        let scopes: BTreeSet<&Scope> = self.locks.values().filter(is_of).map(|lock| &lock.scope).collect();
        scopes.into_iter().cloned().collect()
    }

    /// The locks that hold `agent`: on it or above it, and not started for it.
    pub fn locks_on(&self, agent: &Scope) -> Vec<Digest> {
        self.in_force_on(agent).map(|(id, _)| id).collect()
    }

    fn in_force_on<'a>(&'a self, agent: &'a Scope) -> impl Iterator<Item = (Digest, &'a Lock)> {
        (agent.upward().filter_map(|scope| self.by_scope.get(&scope)).flatten())
            .map(|(rank, _, id)| (*rank, *id, &self.locks[id]))
            .filter(|(rank, _, lock)| !lock.started_for(agent) && lock.first_rank() == *rank)
            .map(|(_, id, lock)| (id, lock))
    }

    pub fn lock(&self, id: &Digest) -> Option<LockRecord> {
        Some(self.locks.get(id)?.record(*id))
    }

    /// Stops whose outcome is not in the log yet, those that are over included.
    pub fn stops_without_outcome(&self) -> impl Iterator<Item = (Digest, &Scope, LockKind)> {
        self.without_outcome.iter().map(|(id, (scope, kind))| (*id, scope, *kind))
    }

    /// The entry at which a stop's outcome stands.
    pub fn outcome_index(&self, id: &Digest) -> Option<u64> {
        self.used.get(id)?.outcome.as_ref().map(|achieved| achieved.index)
    }

    pub fn lock_count(&self) -> usize {
        self.locks.len()
    }

    /// The entry at which the command with this digest took effect.
    pub fn used_at(&self, digest: &Digest) -> Option<u64> {
        self.used.get(digest).map(|used| used.index)
    }

    /// The entry that made a grant void for ever.
    pub fn void_since(&self, digest: &Digest) -> Option<u64> {
        self.void.get(digest).copied()
    }

    /// Unexpired grants, by scope.
    pub fn grants(&self, now_ms: u64) -> Vec<GrantSummary> {
        (self.grants.iter())
            .flat_map(|(scope, grants)| grants.iter().map(move |g| (scope, g)))
            .filter(|(_, g)| now_ms < g.expires_at_ms)
            .map(|(scope, g)| self.summary(scope, g))
            .collect()
    }

    /// What `action` would take away, for those who shall sign it: an authority, a suspend or a revoke.
    pub fn impact(&self, action: &Action, now_ms: u64) -> Impact {
        let Some(trust) = self.trust() else { return Impact::default() };
        match action {
            Action::Authority(next) => self.without(now_ms, |scope, grant| {
                !trust.still_consents(&grant.consent(scope), Some(next.as_ref()))
            }),
            Action::Suspend(suspend) => {
                let mut after = trust.clone();
                after.suspend(suspend);
                self.without(now_ms, |scope, grant| !after.still_consents(&grant.consent(scope), None))
            }
            Action::Revoke(revoke) => self.without(now_ms, |_, grant| revoke.grants.contains(&grant.digest)),
            Action::Lock(_)
            | Action::Refuse(_)
            | Action::Release(_)
            | Action::Start(_)
            | Action::Grant(_)
            | Action::Enroll(_) => Impact::default(),
        }
    }

    /// What would be gone with the grants that are `lost`.
    fn without(&self, now_ms: u64, lost: impl Fn(&Scope, &GrantRecord) -> bool) -> Impact {
        let mut impact = Impact::default();
        let mut stays = BTreeSet::new();
        for (scope, grants) in &self.grants {
            for grant in grants.iter().filter(|g| now_ms < g.expires_at_ms) {
                if lost(scope, grant) {
                    impact.voids.push(self.summary(scope, grant));
                } else {
                    stays.insert(scope.clone());
                }
            }
        }
        let enabled_after = |scope: &Scope| scope.upward().any(|above| stays.contains(&above));
        let enabled_now = |scope: &Scope| {
            let mut covering = scope.upward().filter_map(|above| self.grants.get(&above)).flatten();
            covering.any(|g| now_ms < g.expires_at_ms)
        };
        let disabled = self.grants.keys().filter(|scope| enabled_now(scope) && !enabled_after(scope));
        impact.disables = disabled.cloned().collect();
        impact
    }

    fn summary(&self, scope: &Scope, grant: &GrantRecord) -> GrantSummary {
        GrantSummary {
            scope: scope.clone(),
            id: grant.digest,
            index: self.used_at(&grant.digest).expect("a grant's document is used"),
            expires_at_ms: grant.expires_at_ms,
            terms: grant.terms.clone(),
        }
    }
}

/// Whether a set of locks names this one; a bulk set by what it says of them, since its root holds for the moment of its
/// entry.
fn named(locks: &LockSet, id: &Digest, lock: &Lock) -> bool {
    match locks {
        LockSet::Ids(ids) => ids.contains(id),
        LockSet::Bulk(bulk) => {
            lock.index < bulk.before && bulk.by.as_ref().is_none_or(|by| lock.tag.by.contains(by))
        }
    }
}

impl Lock {
    /// A throttle may stand in two places and counts once.
    fn first_rank(&self) -> Rank {
        self.orders(Digest::default()).next().expect("every lock has a place").0
    }

    fn record(&self, id: Digest) -> LockRecord {
        LockRecord {
            lock: self.view(id),
            started: self.waves.keys().cloned().collect(),
            lost_from: self.lost_from,
        }
    }

    fn view(&self, id: Digest) -> LockView {
        LockView {
            id,
            scope: self.scope.clone(),
            kind: self.kind,
            index: self.index,
            time_ms: self.time_ms,
            released: self.released_at.is_some(),
            tag: self.tag.clone(),
        }
    }
}
