//! The ledger: the replicated state, and `apply`, the only way it changes. Step ④ of a stop.
//!
//! `apply` is total and deterministic: every node that applies the same proposals in the same order has the same state and
//! the same log, byte for byte. It verifies signatures itself; what was checked on arrival only refuses early.

mod awaited;
mod bulk;
mod drills;
mod enrolment;
mod proposals;
mod read;
mod refusal;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

pub use self::bulk::{bulk_list, bulk_locks, bulk_root};
pub use self::drills::{LatestDrill, StopRecord};
pub use self::enrolment::{Enrolment, NotEnrolled};
pub use self::proposals::{Proposed, Refused};
pub use self::read::{GrantSummary, Impact, LockRecord, LockStatus};
pub use self::refusal::Refusal;

use self::awaited::{Awaited, Name, Role};
use self::drills::{Achieved, Drills, Figures};
use self::enrolment::Enrolments;
use self::proposals::Proposals;
use crate::authority::Authority;
use crate::command::{
    Action, ActionKind, Command, Deployment, Enroll, Grant, LockCommand, LockSet, Refuse, Release, Revoke,
    Start, Suspend,
};
use crate::digest::Digest;
use crate::drill::Drill;
use crate::envelope::Envelope;
use crate::limits::{COMMAND_MAX_BYTES, GRANTS_PER_SCOPE_MAX, WAVES_PER_LOCK_MAX};
use crate::lock::{LockKind, Placed, Trip};
use crate::log::entry::{Entry, EntryKind};
use crate::log::tree::{Frontier, leaf_hash};
use crate::restore::{Epoch, Restore};
use crate::rule::{LockFact, RULE_VERSION, Terms};
use crate::scope::Scope;
use crate::sshsig::Proven;
use crate::strict;
use crate::trust::{Consent, Trust};
use crate::view::Tag;

/// What a node asks consensus to append: an entry without its place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposal {
    pub kind: EntryKind,
    /// The proposing leader's clock, Unix milliseconds.
    pub time_ms: u64,
    pub envelope: Envelope,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Ledger {
    /// The SHA-256 of the only genesis that this ledger takes.
    pinned: Digest,
    trust: Option<Trust>,
    /// The entries that say whom to believe: authorities, suspends and restores, the genesis first.
    trust_entries: Vec<u64>,
    /// The newest entry since which signatures may count for less.
    distrust: u64,
    rule_version: u64,
    frontier: Frontier,
    /// SHA-256 of the newest entry's bytes.
    prev: Digest,
    /// Locks in force: active, or released and not yet started.
    locks: BTreeMap<Digest, Lock>,
    /// The same locks by scope, strongest first within a kind, so that a view never walks a thousand equal ones.
    by_scope: BTreeMap<Scope, BTreeSet<Order>>,
    grants: BTreeMap<Scope, Vec<GrantRecord>>,
    enrolments: Enrolments,
    /// Grants and enrolments that are void for ever, with the entry that made them so.
    void: BTreeMap<Digest, u64>,
    /// Every document that ever took effect: it does so once, for ever.
    used: BTreeMap<Digest, Used>,
    awaited: Awaited,
    /// The lists of bulk releases and starts, by entry: guards get proofs from them.
    bulk: BTreeMap<u64, Vec<Digest>>,
    /// Stops whose outcome is still to come.
    without_outcome: BTreeMap<Digest, (Scope, LockKind)>,
    proposals: Proposals,
    drills: Drills,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Lock {
    scope: Scope,
    kind: LockKind,
    tag: Tag,
    index: u64,
    time_ms: u64,
    released_at: Option<u64>,
    /// For a restore's lock: what its release must name.
    lost_from: Option<u64>,
    /// Sub-scopes that were started before the whole scope was, with the start's entry.
    waves: BTreeMap<Scope, u64>,
}

/// A lock's place among those of its scope: within a rank, the one that denies most comes first.
type Order = (Rank, u64, Digest);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
enum Rank {
    Halt,
    Drain,
    Isolate,
    Pause,
    Restrict,
    /// A throttle stands under each limit that it sets: the lowest of each is what counts.
    CallsPerMinute,
    TokensPerMinute,
}

impl Rank {
    const ALL: [Rank; 7] = [
        Rank::Halt,
        Rank::Drain,
        Rank::Isolate,
        Rank::Pause,
        Rank::Restrict,
        Rank::CallsPerMinute,
        Rank::TokensPerMinute,
    ];
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct GrantRecord {
    expires_at_ms: u64,
    seen_authority: u64,
    terms: Terms,
    /// Whose signatures it holds by.
    proven: Vec<Proven>,
    digest: Digest,
    envelope: Envelope,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Used {
    index: u64,
    time_ms: u64,
    /// For a lock that is gone.
    ended: Option<Box<Ended>>,
    /// What the stop achieved, by the entry that says so.
    outcome: Option<Box<Achieved>>,
}

/// What is left of a lock that is gone: enough to judge the fresh documents that guards may need.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Ended {
    scope: Scope,
    lost_from: Option<u64>,
    /// The entry that released it.
    release: u64,
    /// After a halt or drain, the entry that started it.
    start: Option<u64>,
}

/// What `apply` did.
#[derive(Clone, Debug)]
pub struct Applied {
    pub answer: Result<Receipt, Refusal>,
    /// The bytes of the new entry; `None` where nothing was appended.
    pub entry: Option<Vec<u8>>,
    pub effect: Option<Effect>,
}

/// The answer to a command that is in the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// The entry's place in the log.
    pub index: u64,
    pub time_ms: u64,
    pub digest: Digest,
    /// The same bytes had taken effect before; this is their first answer.
    pub repeated: bool,
    /// Locks or grants that it names and that have not arrived yet; it is remembered for them.
    pub awaited: u64,
}

/// What guards want to hear of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// A lock was placed: a signed one is pushed as it is.
    Locked { lock: Digest, scope: Scope, kind: LockKind },
    /// Grants or keys were taken away: it is pushed as it is, with its signatures.
    Withdrawn { scope: Scope },
    /// Something was given: guards renew and see for themselves.
    Loosened { scope: Scope },
    /// A new authority: limits may have changed, and guards fetch it.
    Succeeded,
}

impl Ledger {
    /// A ledger before its genesis: the first proposal it takes is the authority that `pinned` names.
    pub fn new(pinned: Digest) -> Self {
        Self {
            pinned,
            trust: None,
            trust_entries: Vec::new(),
            distrust: 0,
            rule_version: 1,
            frontier: Frontier::default(),
            prev: Digest::default(),
            locks: BTreeMap::new(),
            by_scope: BTreeMap::new(),
            grants: BTreeMap::new(),
            enrolments: Enrolments::default(),
            void: BTreeMap::new(),
            used: BTreeMap::new(),
            awaited: Awaited::default(),
            bulk: BTreeMap::new(),
            without_outcome: BTreeMap::new(),
            proposals: Proposals::default(),
            drills: Drills::new(),
        }
    }

    pub fn trust(&self) -> Option<&Trust> {
        self.trust.as_ref()
    }

    pub fn authority(&self) -> Option<&Authority> {
        self.trust().map(Trust::authority)
    }

    /// The entries that say whom to believe, for those who follow (`Trust::learn`).
    pub fn trust_entries(&self) -> &[u64] {
        &self.trust_entries
    }

    pub fn pinned(&self) -> Digest {
        self.pinned
    }

    pub fn epoch(&self) -> Epoch {
        self.trust().map_or(Epoch { number: 1, id: self.pinned }, Trust::epoch)
    }

    pub fn rule_version(&self) -> u64 {
        self.rule_version
    }

    pub fn deployment(&self) -> Option<&Deployment> {
        self.trust().map(Trust::deployment)
    }

    /// Entries in the log.
    pub fn size(&self) -> u64 {
        self.frontier.size()
    }

    pub fn frontier(&self) -> &Frontier {
        &self.frontier
    }

    /// SHA-256 of the newest entry's bytes, zeros for an empty log: what the next entry chains to.
    pub fn prev(&self) -> Digest {
        self.prev
    }

    /// Applies one committed proposal.
    pub fn apply(&mut self, proposal: &Proposal) -> Applied {
        self.apply_knowing(proposal, RULE_VERSION)
    }

    /// The same in a build that knows the rule of verdicts up to version `rule_known`. Builds that know less refuse an entry
    /// that raises it (`Refusal::RuleUnknown`) and cannot follow the log from there on.
    pub fn apply_knowing(&mut self, proposal: &Proposal, rule_known: u64) -> Applied {
        let judged = match proposal.kind {
            EntryKind::Command if proposal.envelope.digest() == self.pinned => self.judge_genesis(proposal),
            EntryKind::Command => self.judge(&proposal.envelope, proposal.time_ms),
            EntryKind::Trip => self.judge_trip(&proposal.envelope),
            EntryKind::Restore => self.judge_restore(&proposal.envelope),
            // Written by a node about what it saw: it changes no verdict, so it needs no signature of a person.
            EntryKind::Outcome => self.judge_outcome(&proposal.envelope),
            EntryKind::RuleVersion => self.judge_rule(&proposal.envelope, rule_known),
            EntryKind::Proposal => self.judge_proposal(&proposal.envelope, proposal.time_ms),
            EntryKind::Drill => self.judge_drill(&proposal.envelope),
        };
        match judged {
            Ok(Judged::New(change)) => self.take_effect(proposal, change),
            Ok(Judged::Repeated(receipt)) => Applied { answer: Ok(receipt), entry: None, effect: None },
            Err(refusal) => Applied { answer: Err(refusal), entry: None, effect: None },
        }
    }

    /// Whether a command would take effect now. Refuses early on arrival, and shows a dry run.
    pub fn check(&self, envelope: &Envelope, now_ms: u64) -> Result<Option<Receipt>, Refusal> {
        match self.judge(envelope, now_ms)? {
            Judged::New(_) => Ok(None),
            Judged::Repeated(receipt) => Ok(Some(receipt)),
        }
    }

    /// The same for a trip.
    pub fn check_trip(&self, trip: &Envelope) -> Result<Option<Receipt>, Refusal> {
        match self.judge_trip(trip)? {
            Judged::New(_) => Ok(None),
            Judged::Repeated(receipt) => Ok(Some(receipt)),
        }
    }

    /// The genesis, once: a new leader may propose it again before it has seen that the last one did.
    fn judge_genesis(&self, proposal: &Proposal) -> Result<Judged, Refusal> {
        if let Some(used) = self.used.get(&self.pinned) {
            return Ok(Judged::Repeated(used.receipt(self.pinned)));
        }
        let trust = Trust::begin(&proposal.envelope, self.pinned)?;
        Ok(Judged::New(Change::Genesis(Box::new(trust))))
    }

    fn judge(&self, envelope: &Envelope, time_ms: u64) -> Result<Judged, Refusal> {
        let (_, command) = self.read(envelope)?;
        // The authority has signers of its own, and so it is judged by its root; all else by roles.
        if let Action::Authority(next) = command.action {
            return match self.repeated(envelope)? {
                Some(receipt) => Ok(Judged::Repeated(receipt)),
                None => self.judge_authority(*next, envelope, time_ms),
            };
        }
        let signed = self.signed(&command.action, envelope)?;
        self.check_not_ended(&command.action, &envelope.digest())?;
        if let Some(receipt) = self.repeated(envelope)? {
            return Ok(Judged::Repeated(receipt));
        }
        self.judge_change(command.action, signed, envelope, time_ms).map(Judged::New)
    }

    /// Reads a command, and whom to believe about it.
    fn read(&self, envelope: &Envelope) -> Result<(&Trust, Command), Refusal> {
        envelope.check_bounds()?;
        let trust = self.trust().ok_or(Refusal::NoGenesis)?;
        let command = Command::parse(envelope.document.as_bytes())?;
        trust.check_deployment(&command.deployment)?;
        Ok((trust, command))
    }

    /// Who signed a command that is judged by roles, if they are enough.
    fn signed(&self, action: &Action, envelope: &Envelope) -> Result<Signed, Refusal> {
        let trust = self.trust().ok_or(Refusal::NoGenesis)?;
        Ok(match action {
            Action::Grant(_) => Signed { by: Vec::new(), proven: trust.judge_grant(envelope)?.1 },
            Action::Refuse(refuse) => {
                Signed { by: self.signed_refusal(trust, refuse, envelope)?, proven: Vec::new() }
            }
            action => {
                let by = trust.authorise(action.kind(), &action.scope(), envelope)?;
                Signed { by, proven: Vec::new() }
            }
        })
    }

    /// What was revoked or refused takes no effect any more.
    fn check_not_ended(&self, action: &Action, id: &Digest) -> Result<(), Refusal> {
        if let Action::Grant(_) | Action::Enroll(_) = action
            && let Some(at) = self.void.get(id)
        {
            return Err(Refusal::Void(*at));
        }
        self.proposals.check_not_refused(id)
    }

    /// What a command does that enough people signed, or why it does not fit this state.
    fn judge_change(
        &self,
        action: Action,
        signed: Signed,
        envelope: &Envelope,
        time_ms: u64,
    ) -> Result<Change, Refusal> {
        let (trust, Signed { by, proven }) = (self.trust().ok_or(Refusal::NoGenesis)?, signed);
        Ok(match action {
            Action::Lock(LockCommand { scope, kind, reason, case }) => {
                Change::Lock(Placed { scope, kind, lost_from: None }, Tag { reason, by, case })
            }
            Action::Revoke(revoke) => {
                self.judge_revoke(&revoke)?;
                Change::Revoke(revoke)
            }
            Action::Suspend(suspend) => {
                trust.check_suspend(&suspend)?;
                Change::Suspend(suspend)
            }
            Action::Refuse(refuse) => self.judge_refuse(refuse, by)?,
            Action::Release(release) => {
                let locks = self.listed_locks(ActionKind::Release, &release.scope, &release.locks)?;
                self.judge_release(&release, &locks)?;
                Change::Release(release, locks)
            }
            Action::Start(start) => {
                let locks = self.listed_locks(ActionKind::Start, &start.scope, &start.locks)?;
                self.judge_start(&start, &locks)?;
                Change::Start(start, locks)
            }
            Action::Grant(grant) => {
                self.judge_grant(&grant, envelope, time_ms)?;
                Change::Grant(grant, proven)
            }
            Action::Enroll(enroll) => {
                self.judge_enroll(&enroll, envelope, time_ms)?;
                Change::Enroll(enroll, by)
            }
            Action::Authority(_) => unreachable!("judged by its root"),
        })
    }

    /// The first answer to the same bytes, as long as it is still true.
    fn repeated(&self, envelope: &Envelope) -> Result<Option<Receipt>, Refusal> {
        let digest = envelope.digest();
        let Some(used) = self.used.get(&digest) else { return Ok(None) };
        match used.released_at(self.locks.get(&digest)) {
            Some(released_at) => Err(Refusal::Used { index: used.index, released_at }),
            None => Ok(Some(used.receipt(digest))),
        }
    }

    /// The ids that a release or start names; a bulk list follows from the log and must be what its signers saw.
    fn listed_locks(
        &self,
        action: ActionKind,
        scope: &Scope,
        locks: &LockSet,
    ) -> Result<Vec<Digest>, Refusal> {
        let bulk = match locks {
            LockSet::Ids(ids) => return Ok(ids.clone()),
            LockSet::Bulk(bulk) => bulk,
        };
        let records = self.locks_touching(scope);
        let ids = bulk_list(action, scope, bulk.before, bulk.by.as_deref(), &records);
        let (found, found_root) = (ids.len() as u64, bulk_root(&ids));
        if (found, found_root) != (bulk.count, bulk.root) {
            return Err(Refusal::OtherLocks { count: bulk.count, root: bulk.root, found, found_root });
        }
        Ok(ids)
    }

    fn judge_release(&self, release: &Release, locks: &[Digest]) -> Result<(), Refusal> {
        let mut restores = false;
        let mut unknown = Vec::new();
        for id in locks {
            let (lock_scope, lost_from, released_at) = match (self.locks.get(id), self.used.get(id)) {
                (Some(lock), _) => (&lock.scope, lock.lost_from, lock.released_at),
                (None, Some(used)) => match used.ended.as_deref() {
                    // Who signed its release may be gone; a guard that still holds it needs a fresh one.
                    Some(ended) if ended.release < self.distrust => {
                        (&ended.scope, ended.lost_from, Some(ended.release))
                    }
                    Some(_) | None => return Err(Refusal::NoSuchLock(*id)),
                },
                (None, None) => {
                    unknown.push(*id);
                    continue;
                }
            };
            if !release.scope.covers(lock_scope) {
                return Err(Refusal::outside(*id, lock_scope, &release.scope));
            }
            match released_at {
                Some(index) if index >= self.distrust => return Err(Refusal::AlreadyReleased(*id, index)),
                Some(_) | None => {}
            }
            // S1: every restore's lock says what may be lost, and the people who release it do.
            if let Some(lost_from) = lost_from {
                restores = true;
                if release.lost_from != Some(lost_from) {
                    return Err(Refusal::LostFrom { lock: *id, epoch: self.epoch().number, lost_from });
                }
            }
        }
        if release.lost_from.is_some() && !restores && unknown.is_empty() {
            return Err(Refusal::NothingLost);
        }
        if self.awaited.has_room(&unknown) { Ok(()) } else { Err(Refusal::TooManyRemembered) }
    }

    fn judge_start(&self, start: &Start, locks: &[Digest]) -> Result<(), Refusal> {
        let mut unknown = Vec::new();
        for id in locks {
            let Some(lock) = self.locks.get(id) else {
                let Some(used) = self.used.get(id) else {
                    // S2: also before the lock itself has come, its release comes first.
                    if !self.awaited.released(id) {
                        return Err(Refusal::NotReleased(*id));
                    }
                    unknown.push(*id);
                    continue;
                };
                match used.ended.as_deref() {
                    Some(Ended { start: Some(at), scope, .. }) if *at < self.distrust => {
                        // One for a part would leave the guards of all the others without any.
                        if !start.scope.covers(scope) {
                            return Err(Refusal::outside(*id, scope, &start.scope));
                        }
                    }
                    Some(_) | None => return Err(Refusal::NoSuchLock(*id)),
                }
                continue;
            };
            if !start.scope.covers(&lock.scope) && !lock.scope.covers(&start.scope) {
                let (lock, lock_scope, scope) = (*id, lock.scope.clone(), start.scope.clone());
                return Err(Refusal::StartElsewhere { lock, lock_scope, scope });
            }
            if !lock.kind.needs_start() {
                return Err(Refusal::TakesNoStart(*id));
            }
            // S2: the start comes after the release, and each names the lock.
            if lock.released_at.is_none() {
                return Err(Refusal::NotReleased(*id));
            }
            if lock.waves.len() >= WAVES_PER_LOCK_MAX && !start.scope.covers(&lock.scope) {
                return Err(Refusal::TooManyWaves(*id));
            }
        }
        if self.awaited.has_room(&unknown) { Ok(()) } else { Err(Refusal::TooManyRemembered) }
    }

    fn judge_grant(&self, grant: &Grant, envelope: &Envelope, time_ms: u64) -> Result<(), Refusal> {
        let epoch = self.epoch().id;
        if grant.seen.epoch != epoch {
            return Err(Refusal::WrongEpoch { theirs: grant.seen.epoch, ours: epoch });
        }
        if grant.seen.size > self.size() {
            return Err(Refusal::SeenAhead { theirs: grant.seen.size, ours: self.size() });
        }
        if grant.expires_at_ms <= time_ms {
            return Err(Refusal::expired(grant.expires_at_ms));
        }
        if let Some(index) = self.awaited.revoked(&envelope.digest(), &grant.scope) {
            return Err(Refusal::Void(index));
        }
        let unexpired =
            self.grants.get(&grant.scope).into_iter().flatten().filter(|g| time_ms < g.expires_at_ms);
        if unexpired.count() >= GRANTS_PER_SCOPE_MAX {
            return Err(Refusal::TooManyGrants { scope: grant.scope.clone() });
        }
        Ok(())
    }

    fn judge_enroll(&self, enroll: &Enroll, envelope: &Envelope, time_ms: u64) -> Result<(), Refusal> {
        if let Some(expires_at_ms) = enroll.expires_at_ms.filter(|at_ms| *at_ms <= time_ms) {
            return Err(Refusal::expired(expires_at_ms));
        }
        match self.awaited.revoked(&envelope.digest(), &enroll.scope) {
            Some(index) => Err(Refusal::Void(index)),
            None => Ok(()),
        }
    }

    fn judge_revoke(&self, revoke: &Revoke) -> Result<(), Refusal> {
        let named: BTreeSet<&Digest> = revoke.grants.iter().collect();
        let grants =
            self.grants.iter().flat_map(|(scope, grants)| grants.iter().map(move |g| (scope, g.digest)));
        let in_force = |(id, _): &(Digest, &Enrolment)| !self.void.contains_key(id);
        let enrolments =
            self.enrolments.iter().filter(in_force).map(|(id, enrolment)| (&enrolment.scope, id));
        for (scope, id) in grants.chain(enrolments).filter(|(_, id)| named.contains(id)) {
            if !revoke.scope.covers(scope) {
                let (grant, grant_scope, scope) = (id, scope.clone(), revoke.scope.clone());
                return Err(Refusal::GrantOutsideScope { grant, grant_scope, scope });
            }
        }
        let unknown: Vec<Digest> =
            revoke.grants.iter().filter(|id| !self.used.contains_key(id)).copied().collect();
        if self.awaited.has_room(&unknown) { Ok(()) } else { Err(Refusal::TooManyRemembered) }
    }

    fn judge_authority(&self, next: Authority, envelope: &Envelope, time_ms: u64) -> Result<Judged, Refusal> {
        let trust = self.trust().ok_or(Refusal::NoGenesis)?;
        trust.check_successor(&next, envelope)?;
        let signed = next.succession.as_ref().map_or(0, |succession| succession.disables);
        let found = self.disabled_by(&next, time_ms).len() as u64;
        if found > signed {
            return Err(Refusal::DisablesMore { signed, found });
        }
        Ok(Judged::New(Change::Authority(Box::new(next))))
    }

    /// The scopes with grants that would lose their last consent by `next`, for those who shall sign it.
    pub fn disabled_by(&self, next: &Authority, now_ms: u64) -> Vec<Scope> {
        self.impact(&Action::Authority(Box::new(next.clone())), now_ms).disables
    }

    /// A trip halts its own scope, with a document that nobody signs.
    fn judge_trip(&self, envelope: &Envelope) -> Result<Judged, Refusal> {
        let trust = self.trust().ok_or(Refusal::NoGenesis)?;
        let trip = Trip::parse(envelope.document.as_bytes())?;
        if !envelope.signatures.is_empty() {
            return Err(Refusal::Malformed("a trip carries no signatures".into()));
        }
        trust.check_deployment(&trip.deployment)?;
        if let Some(receipt) = self.repeated(envelope)? {
            return Ok(Judged::Repeated(receipt));
        }
        let tag = Tag { by: vec![trip.by()], reason: trip.reason, case: None };
        let placed = Placed { scope: trip.scope, kind: LockKind::Halt, lost_from: None };
        Ok(Judged::New(Change::Lock(placed, tag)))
    }

    fn judge_restore(&self, envelope: &Envelope) -> Result<Judged, Refusal> {
        envelope.check_bounds()?;
        let trust = self.trust().ok_or(Refusal::NoGenesis)?;
        let restore = Restore::parse(envelope.document.as_bytes())?;
        if let Some(receipt) = self.repeated(envelope)? {
            return Ok(Judged::Repeated(receipt));
        }
        let by = trust.check_restore(&restore, envelope)?;
        let elsewhere = |text: String| Err(Refusal::RestoreElsewhere(text));
        if restore.lost_from != self.size() {
            let (theirs, ours) = (restore.lost_from, self.size());
            return elsewhere(format!(
                "it says that entries from {theirs} on are lost, and the log ends at {ours}"
            ));
        }
        if restore.checkpoint_size == self.size() && restore.checkpoint_root != self.frontier.root() {
            return elsewhere("the checkpoint that it names has another root".into());
        }
        Ok(Judged::New(Change::Restore(Box::new(restore), by)))
    }

    /// An outcome is about a stop that has none yet; a node that restarted may try a second time.
    fn judge_outcome(&self, envelope: &Envelope) -> Result<Judged, Refusal> {
        /// Nothing else of an outcome decides whether it is one: builds that know more of its fields must not part ways
        /// here (S8).
        #[derive(Deserialize)]
        struct OutcomeOf {
            outcome: Digest,
        }
        let OutcomeOf { outcome: lock } = serde_json::from_str(&envelope.document)
            .map_err(|e| Refusal::Malformed(format!("the outcome cannot be read: {e}")))?;
        match self.used.get(&lock) {
            Some(Used { outcome: Some(achieved), .. }) => Err(Refusal::OutcomeKnown(achieved.index)),
            Some(used) if used.ended.is_some() || self.locks.contains_key(&lock) => {
                Ok(Judged::New(Change::Outcome(lock, Figures::of(&envelope.document))))
            }
            // Other commands stop nothing.
            Some(_) | None => Err(Refusal::NoSuchLock(lock)),
        }
    }

    /// A leader proposes the next version of the rule once every voter supports it; `supported` is what this build knows.
    fn judge_rule(&self, envelope: &Envelope, supported: u64) -> Result<Judged, Refusal> {
        let trust = self.trust().ok_or(Refusal::NoGenesis)?;
        if envelope.document.len() > COMMAND_MAX_BYTES {
            return Err(Refusal::TooLarge("a rule version document is short".into()));
        }
        let mut fields = strict::object(envelope.document.as_bytes(), "the rule version")?;
        fields.document_version()?;
        let deployment = fields.deployment()?;
        let found = fields.number("rule", 1..=u64::MAX)?;
        fields.finish()?;
        trust.check_deployment(&deployment)?;
        if found <= self.rule_version {
            return Err(Refusal::RuleInForce(self.rule_version));
        }
        if found > supported {
            return Err(Refusal::RuleUnknown { found, known: supported });
        }
        Ok(Judged::New(Change::Rule(found)))
    }

    /// The one place where the state changes.
    fn take_effect(&mut self, proposal: &Proposal, change: Change) -> Applied {
        let (mut receipt, entry) = match self.append(proposal) {
            Ok(appended) => appended,
            Err(refusal) => return Applied { answer: Err(refusal), entry: None, effect: None },
        };
        let (index, digest) = (receipt.index, receipt.digest);
        match change {
            // What nodes write of themselves takes no effect that could be repeated.
            Change::Outcome(..) | Change::Rule(_) => {}
            // Nor does what still lacks signatures.
            Change::Propose(_) => {}
            _ => {
                self.used.insert(digest, Used::new(&receipt));
                self.proposals.end(&digest);
            }
        }
        let mut answer = Ok(());
        let effect = match change {
            Change::Genesis(trust) => {
                self.trust = Some(*trust);
                self.trust_entries.push(index);
                None
            }
            Change::Lock(placed, tag) => {
                let (effect, ended) = self.place(placed, tag, &receipt);
                answer = ended;
                Some(effect)
            }
            Change::Revoke(revoke) => {
                receipt.awaited = self.revoke(&revoke, index);
                Some(Effect::Withdrawn { scope: revoke.scope })
            }
            Change::Suspend(suspend) => {
                self.trusting().suspend(&suspend);
                self.distrusted(index);
                Some(Effect::Withdrawn { scope: Scope::fleet() })
            }
            Change::Propose(mut proposed) => {
                proposed.entries.push(index);
                self.proposals.put(digest, proposed, proposal.time_ms);
                None
            }
            Change::Refuse(refuse, action, by) => {
                self.proposals.refuse(refuse, action, by, index);
                None
            }
            Change::Release(release, locks) => {
                receipt.awaited = self.release(&release, &locks, index);
                self.keep_list(&release.locks, locks, index);
                Some(Effect::Loosened { scope: release.scope })
            }
            Change::Start(start, locks) => {
                receipt.awaited = self.start(&start.scope, &locks, index);
                self.keep_list(&start.locks, locks, index);
                Some(Effect::Loosened { scope: start.scope })
            }
            Change::Grant(grant, proven) => Some(self.grant(grant, proven, proposal)),
            Change::Enroll(enroll, by) => {
                let scope = enroll.scope.clone();
                self.enrolments.add(enroll, by, &receipt);
                Some(Effect::Loosened { scope })
            }
            Change::Authority(next) => {
                self.trusting().succeed(*next);
                self.distrusted(index);
                Some(Effect::Succeeded)
            }
            Change::Restore(restore, by) => {
                self.trusting().restore(&restore);
                self.trust_entries.push(index);
                self.proposals.end_all();
                // A grant holds only in its epoch, and whoever sends it again is told so.
                for grant in std::mem::take(&mut self.grants).into_values().flatten() {
                    self.void.insert(grant.digest, index);
                }
                let placed = Placed {
                    scope: Scope::fleet(),
                    kind: LockKind::Halt,
                    lost_from: Some(restore.lost_from),
                };
                let (effect, ended) =
                    self.place(placed, Tag { reason: restore.reason, by, case: None }, &receipt);
                answer = ended;
                Some(effect)
            }
            Change::Outcome(lock, figures) => {
                if let Some(used) = self.used.get_mut(&lock) {
                    used.outcome = Some(Box::new(Achieved { index, figures, drill: None }));
                }
                self.without_outcome.remove(&lock);
                None
            }
            Change::Drill(drill, by) => {
                self.drilled(*drill, by, &receipt);
                None
            }
            Change::Rule(version) => {
                self.rule_version = version;
                None
            }
        };
        Applied { answer: answer.map(|()| receipt), entry: Some(entry), effect }
    }

    fn trusting(&mut self) -> &mut Trust {
        self.trust.as_mut().expect("nothing is judged before the genesis")
    }

    /// Signatures may count for less from entry `index` on: what has lost its consent by it is void for ever.
    fn distrusted(&mut self, index: u64) {
        self.trust_entries.push(index);
        self.distrust = index;
        let trust = self.trust.as_ref().expect("nothing is judged before the genesis");
        for (scope, grants) in &mut self.grants {
            grants.retain(|grant| {
                let holds = trust.still_consents(&grant.consent(scope), None);
                if !holds {
                    self.void.insert(grant.digest, index);
                }
                holds
            });
        }
        self.grants.retain(|_, grants| !grants.is_empty());
    }

    /// Places a lock, in the state that the documents give it which were here before it. A lock that has ended by them is
    /// in the log like any other, and whoever sent it is told that it stops nothing.
    fn place(&mut self, placed: Placed, tag: Tag, receipt: &Receipt) -> (Effect, Result<(), Refusal>) {
        let id = receipt.digest;
        let Placed { scope, kind, lost_from } = placed;
        let names = self.awaited.take(&id);
        // S1: what could not have released it had it been here does not do so now.
        let releases =
            |name: &&Name| name.scope.covers(&scope) && (lost_from.is_none() || name.lost_from == lost_from);
        let released_at = names.releases.iter().find(releases).map(|name| name.index);
        let mut waves = BTreeMap::new();
        let mut started = None;
        // S2: the release, and then the start.
        let starts = |name: &&Name| kind.needs_start() && released_at.is_some_and(|at| at < name.index);
        for name in names.starts.iter().filter(starts) {
            if name.scope.covers(&scope) {
                started = Some(name.index);
            } else if scope.covers(&name.scope) {
                waves.insert(name.scope.clone(), name.index);
            }
        }
        let (index, time_ms) = (receipt.index, receipt.time_ms);
        let lock = Lock { scope: scope.clone(), kind, tag, index, time_ms, released_at, lost_from, waves };
        for order in lock.orders(id) {
            self.by_scope.entry(scope.clone()).or_default().insert(order);
        }
        self.locks.insert(id, lock);
        if kind.denies() {
            self.without_outcome.insert(id, (scope.clone(), kind));
        }
        match released_at {
            Some(released_at) if started.is_some() || !kind.needs_start() => {
                self.end(id, started);
                (Effect::Loosened { scope }, Err(Refusal::Used { index, released_at }))
            }
            Some(_) | None => (Effect::Locked { lock: id, scope, kind }, Ok(())),
        }
    }

    /// Gives the number of locks that are not here yet.
    fn release(&mut self, release: &Release, locks: &[Digest], index: u64) -> u64 {
        let mut awaited = 0;
        for id in locks {
            let Some(lock) = self.locks.get_mut(id) else {
                let name = Name { scope: release.scope.clone(), lost_from: release.lost_from, index };
                awaited += self.fresh_or_awaited(id, Role::Release, name);
                continue;
            };
            lock.released_at = Some(index);
            if !lock.kind.needs_start() {
                self.end(*id, None);
            }
        }
        awaited
    }

    fn start(&mut self, scope: &Scope, locks: &[Digest], index: u64) -> u64 {
        let mut awaited = 0;
        for id in locks {
            let Some(lock) = self.locks.get_mut(id) else {
                let name = Name { scope: scope.clone(), lost_from: None, index };
                awaited += self.fresh_or_awaited(id, Role::Start, name);
                continue;
            };
            if scope.covers(&lock.scope) {
                self.end(*id, Some(index));
            } else {
                lock.waves.insert(scope.clone(), index);
            }
        }
        awaited
    }

    /// A lock that is not in force: its end gets a fresh document, or it has not come yet and the document waits for it.
    fn fresh_or_awaited(&mut self, id: &Digest, role: Role, name: Name) -> u64 {
        match (self.used.get_mut(id).and_then(|used| used.ended.as_mut()), role) {
            (Some(ended), Role::Release) => ended.release = name.index,
            (Some(ended), Role::Start) => ended.start = Some(name.index),
            (Some(_), Role::Revoke) => {}
            (None, role) => {
                self.awaited.remember(*id, role, name);
                return 1;
            }
        }
        0
    }

    fn keep_list(&mut self, named: &LockSet, locks: Vec<Digest>, index: u64) {
        if let LockSet::Bulk(_) = named {
            self.bulk.insert(index, locks);
        }
    }

    /// Takes a lock out of force; that it was used stays known for ever.
    fn end(&mut self, id: Digest, start: Option<u64>) {
        let lock = self.locks.remove(&id).expect("judged to be in force");
        let released_at = lock.released_at.expect("only a released lock ends (S1)");
        if let Some(locks) = self.by_scope.get_mut(&lock.scope) {
            for order in lock.orders(id) {
                locks.remove(&order);
            }
            if locks.is_empty() {
                self.by_scope.remove(&lock.scope);
            }
        }
        let ended = Ended { scope: lock.scope, lost_from: lock.lost_from, release: released_at, start };
        self.used.get_mut(&id).expect("a lock's document is used").ended = Some(Box::new(ended));
    }

    fn revoke(&mut self, revoke: &Revoke, index: u64) -> u64 {
        let named: BTreeSet<&Digest> = revoke.grants.iter().collect();
        for grants in self.grants.values_mut() {
            grants.retain(|grant| !named.contains(&grant.digest));
        }
        self.grants.retain(|_, grants| !grants.is_empty());
        let mut awaited = 0;
        for id in &revoke.grants {
            if self.used.contains_key(id) {
                self.void.entry(*id).or_insert(index);
            } else {
                let name = Name { scope: revoke.scope.clone(), lost_from: None, index };
                self.awaited.remember(*id, Role::Revoke, name);
                awaited += 1;
            }
        }
        awaited
    }

    fn grant(&mut self, grant: Grant, proven: Vec<Proven>, proposal: &Proposal) -> Effect {
        let grants = self.grants.entry(grant.scope.clone()).or_default();
        grants.retain(|g| proposal.time_ms < g.expires_at_ms);
        grants.push(GrantRecord {
            expires_at_ms: grant.expires_at_ms,
            seen_authority: grant.seen.authority,
            terms: grant.terms,
            proven,
            digest: proposal.envelope.digest(),
            envelope: proposal.envelope.clone(),
        });
        Effect::Loosened { scope: grant.scope }
    }

    /// Chains one entry to the log.
    fn append(&mut self, proposal: &Proposal) -> Result<(Receipt, Vec<u8>), Refusal> {
        let (index, time_ms) = (self.size(), proposal.time_ms);
        let envelope = proposal.envelope.clone();
        let digest = envelope.digest();
        let entry = Entry { kind: proposal.kind, index, time_ms, prev: self.prev, envelope };
        let bytes = entry.encode().map_err(|error| Refusal::TooLarge(error.to_string()))?;
        self.prev = Digest::of(&bytes);
        self.frontier.push(leaf_hash(&bytes));
        Ok((Receipt { index, time_ms, digest, repeated: false, awaited: 0 }, bytes))
    }
}

enum Judged {
    New(Change),
    Repeated(Receipt),
}

/// Who signed a command, and by which proofs where those are kept.
#[derive(Default)]
struct Signed {
    by: Vec<String>,
    proven: Vec<Proven>,
}

/// What a judged proposal does.
enum Change {
    Genesis(Box<Trust>),
    Lock(Placed, Tag),
    Revoke(Revoke),
    Suspend(Suspend),
    /// What is known of a proposal by it.
    Propose(Proposed),
    /// With what it refuses, and those who signed it.
    Refuse(Refuse, ActionKind, Vec<String>),
    /// With the ids that it names, by list or by root.
    Release(Release, Vec<Digest>),
    Start(Start, Vec<Digest>),
    Grant(Grant, Vec<Proven>),
    /// With those who signed it.
    Enroll(Enroll, Vec<String>),
    Authority(Box<Authority>),
    Restore(Box<Restore>, Vec<String>),
    Outcome(Digest, Figures),
    /// With those who signed it.
    Drill(Box<Drill>, Vec<String>),
    Rule(u64),
}

impl Used {
    fn new(receipt: &Receipt) -> Self {
        Self { index: receipt.index, time_ms: receipt.time_ms, ended: None, outcome: None }
    }

    /// The first answer, once more.
    fn receipt(&self, digest: Digest) -> Receipt {
        Receipt { index: self.index, time_ms: self.time_ms, digest, repeated: true, awaited: 0 }
    }

    fn released_at(&self, lock: Option<&Lock>) -> Option<u64> {
        self.ended.as_ref().map(|ended| ended.release).or(lock.and_then(|l| l.released_at))
    }
}

impl GrantRecord {
    fn consent<'a>(&'a self, scope: &'a Scope) -> Consent<'a> {
        let Self { seen_authority, ref proven, digest, .. } = *self;
        Consent { digest, scope, seen_authority, proven }
    }
}

impl Lock {
    fn orders(&self, id: Digest) -> impl Iterator<Item = Order> + use<> {
        let one = |rank, order| [Some((rank, order, id)), None];
        let orders = match self.kind {
            LockKind::Halt => one(Rank::Halt, self.index),
            LockKind::Drain { drain_ms } => one(Rank::Drain, self.time_ms.saturating_add(drain_ms)),
            LockKind::Pause => one(Rank::Pause, self.index),
            LockKind::Isolate => one(Rank::Isolate, self.index),
            LockKind::Restrict => one(Rank::Restrict, self.index),
            LockKind::Throttle(limits) => [
                limits.calls_per_minute.map(|limit| (Rank::CallsPerMinute, limit, id)),
                limits.tokens_per_minute.map(|limit| (Rank::TokensPerMinute, limit, id)),
            ],
        };
        orders.into_iter().flatten()
    }

    fn fact(&self) -> LockFact {
        LockFact::of_entry(self.kind, self.released_at.is_some(), self.time_ms)
    }

    fn wave_for(&self, agent: &Scope) -> Option<u64> {
        if self.waves.is_empty() {
            return None;
        }
        agent.upward().find_map(|scope| self.waves.get(&scope)).copied()
    }

    fn started_for(&self, agent: &Scope) -> bool {
        self.released_at.is_some() && self.wave_for(agent).is_some()
    }
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::{Signer as _, SigningKey};
    use serde_json::json;

    use super::*;
    use crate::note::NoteSigner;
    use crate::sshsig::{self, PublicKey};

    fn genesis() -> Envelope {
        let [alice, root] = [1, 2].map(|seed| SigningKey::from_bytes(&[seed; 32]));
        let key = |key: &SigningKey| PublicKey::Ed25519(key.verifying_key().to_bytes());
        let document = json!({
            "tagout": 1, "action": "authority", "deployment": "demo", "version": 1, "issued_at": "2026-11-22T15:00:00Z",
            "principals": [{"name": "alice", "kind": "person", "keys": [key(&alice).to_openssh()]}],
            "roles": [{"name": "stop", "principals": ["alice"], "actions": ["stop"], "scopes": ["*"], "threshold": 1}],
            "root": {"threshold": 1, "signers": [{"name": "root", "key": key(&root).to_openssh()}]},
            "nodes": [{"id": 1, "key": NoteSigner::new("n", &[3; 32]).unwrap().verifier().to_string()}],
            "limits": {"ttl_ms": 10_000, "lapse_grace_ms": 0},
        })
        .to_string();
        let signature = root.sign(&sshsig::to_be_signed(sshsig::NAMESPACE, document.as_bytes())).to_bytes();
        let blob = sshsig::ed25519_signature_blob(&signature);
        let armored = sshsig::armor(&key(&root).blob(), sshsig::NAMESPACE, &blob);
        Envelope { document, signatures: vec![armored] }
    }

    /// A build that knows more than this one takes a later version of the rule, once, and keeps it.
    #[test]
    fn a_rule_version_is_taken_by_a_build_that_knows_it_and_never_taken_back() {
        let genesis = genesis();
        let mut ledger = Ledger::new(genesis.digest());
        let propose = |kind, envelope| Proposal { kind, time_ms: 1, envelope };
        ledger.apply(&propose(EntryKind::Command, genesis)).answer.unwrap();
        let deployment = ledger.deployment().unwrap().to_string();
        let rule = |version: u64| Envelope {
            document: json!({"tagout": 1, "deployment": deployment, "rule": version}).to_string(),
            signatures: vec![],
        };
        let judged = |ledger: &Ledger, version, supported| match ledger.judge_rule(&rule(version), supported)
        {
            Ok(Judged::New(change)) => Ok(change),
            Ok(Judged::Repeated(receipt)) => panic!("{receipt:?}"),
            Err(refusal) => Err(refusal),
        };
        assert_eq!(judged(&ledger, 4, 3).err(), Some(Refusal::RuleUnknown { found: 4, known: 3 }));
        let change = judged(&ledger, 3, 3).unwrap_or_else(|refusal| panic!("{refusal}"));
        let applied = ledger.take_effect(&propose(EntryKind::RuleVersion, rule(3)), change);
        assert_eq!((applied.answer.unwrap().index, applied.effect), (1, None));
        let entry = Entry::decode(&applied.entry.unwrap()).unwrap();
        assert_eq!((entry.kind, entry.envelope), (EntryKind::RuleVersion, rule(3)));
        let ledger: Ledger = postcard::from_bytes(&postcard::to_stdvec(&ledger).unwrap()).unwrap();
        assert_eq!((ledger.rule_version(), ledger.size()), (3, 2));
        for version in [1, 2, 3] {
            assert_eq!(judged(&ledger, version, 3).err(), Some(Refusal::RuleInForce(3)));
        }
    }
}
