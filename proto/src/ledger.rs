//! The ledger: the replicated state, and `apply`, the only way it changes. Step ④ of a stop.
//!
//! `apply` is total and deterministic: every node that applies the same proposals in the same order has the same state and
//! the same log, byte for byte. It verifies signatures itself; what was checked on arrival only refuses early.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::authority::{Authority, AuthorityError, Unauthorised};
use crate::command::{Action, Command, Deployment, Grant, Release, Start, Stop, StopMode};
use crate::digest::Digest;
use crate::envelope::{Envelope, EnvelopeError};
use crate::limits::{GRANTS_PER_SCOPE_MAX, WAVES_PER_LOCK_MAX};
use crate::log::entry::{Entry, EntryKind};
use crate::log::tree::{Frontier, leaf_hash};
use crate::rule::{self, LockFact, Verdict};
use crate::scope::Scope;
use crate::strict::DocumentError;
use crate::view::{LockView, Tag, View};

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
    authority: Option<Authority>,
    /// The entries that hold the authority's versions, the genesis first.
    authorities: Vec<u64>,
    epoch: Epoch,
    frontier: Frontier,
    /// SHA-256 of the newest entry's bytes.
    prev: Digest,
    /// Locks in force: active, or released and not yet started.
    locks: BTreeMap<Digest, Lock>,
    /// The same locks by scope, strongest first within a mode, so that a view never walks a thousand equal ones.
    by_scope: BTreeMap<Scope, BTreeSet<(Rank, u64, Digest)>>,
    grants: BTreeMap<Scope, Vec<GrantRecord>>,
    /// Every command that ever took effect: a command does so once, for ever.
    used: BTreeMap<Digest, Used>,
    /// Stops whose outcome is still to come.
    without_outcome: BTreeMap<Digest, (Scope, StopMode)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Epoch {
    pub number: u64,
    pub id: Digest,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Lock {
    scope: Scope,
    stop: StopMode,
    tag: Tag,
    index: u64,
    time_ms: u64,
    released_at: Option<u64>,
    /// Sub-scopes that were started before the whole scope was, with the start's entry.
    waves: BTreeMap<Scope, u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
enum Rank {
    Halt,
    Drain,
    Pause,
}

impl Rank {
    const ALL: [Rank; 3] = [Rank::Halt, Rank::Drain, Rank::Pause];
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct GrantRecord {
    expires_at_ms: u64,
    envelope: Envelope,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Used {
    index: u64,
    time_ms: u64,
    /// For a lock that is gone: the entries that released it and, after a halt or drain, started it.
    ended: Option<(u64, Option<u64>)>,
    /// The entry that says what the stop achieved.
    outcome: Option<u64>,
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
}

/// What guards want to hear of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Something was taken away: it is pushed as it is, with its signatures.
    Tightened { lock: Digest, scope: Scope, stop: StopMode },
    /// Something was given: guards renew and see for themselves.
    Loosened { scope: Scope },
}

/// Why a command does nothing. The texts tell what to do instead.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    #[error("{0}")]
    Malformed(String),
    #[error("{0}")]
    TooLarge(String),
    #[error("{0}")]
    Unsigned(String),
    #[error("this service is not ready: its genesis is not in the log yet; try again in a moment")]
    NoGenesis,
    #[error("the command is for deployment {theirs}, this is {ours}: sign one for this deployment")]
    WrongDeployment { theirs: String, ours: String },
    #[error(transparent)]
    Unauthorised(#[from] Unauthorised),
    #[error(
        "this command was used at entry {index} and its lock released at entry {released_at}: sign a new one"
    )]
    Used { index: u64, released_at: u64 },
    #[error("no lock {0} is in force; `tagout status` lists those that are")]
    NoSuchLock(Digest),
    #[error("lock {lock} lies on {lock_scope}, outside {scope}: name {lock_scope} as the scope")]
    LockOutsideScope { lock: Digest, lock_scope: Scope, scope: Scope },
    #[error("lock {0} is not released: release it first, then start it (`tagout resume` does both)")]
    NotReleased(Digest),
    #[error("lock {0} was already released at entry {1}; what it needs now is a start")]
    AlreadyReleased(Digest, u64),
    #[error("lock {0} is a pause: it ends with its release and takes no start")]
    TakesNoStart(Digest),
    #[error(
        "lock {lock} lies on {lock_scope}, not on {scope}: name {lock_scope} as the scope, or a part of it"
    )]
    StartElsewhere { lock: Digest, lock_scope: Scope, scope: Scope },
    #[error("lock {0} was started for {WAVES_PER_LOCK_MAX} sub-scopes already: start its whole scope")]
    TooManyWaves(Digest),
    #[error("the grant was signed in epoch {theirs}, this is epoch {ours}: sign a new one")]
    WrongEpoch { theirs: Digest, ours: Digest },
    #[error(
        "the grant says it saw {theirs} entries, but the log has {ours}: it was made for another log; sign a new one"
    )]
    SeenAhead { theirs: u64, ours: u64 },
    #[error("the grant expired at {0}: sign one that ends later")]
    Expired(String),
    #[error("the outcome of this stop is in the log already, at entry {0}")]
    OutcomeKnown(u64),
    #[error("{scope} has {GRANTS_PER_SCOPE_MAX} unexpired grants already; let one end")]
    TooManyGrants { scope: Scope },
}

impl From<DocumentError> for Refusal {
    fn from(error: DocumentError) -> Self {
        match error {
            DocumentError::TooLarge { .. } => Self::TooLarge(error.to_string()),
            _ => Self::Malformed(error.to_string()),
        }
    }
}

impl From<EnvelopeError> for Refusal {
    fn from(error: EnvelopeError) -> Self {
        match error {
            EnvelopeError::Unsigned => Self::Unsigned(error.to_string()),
            EnvelopeError::DocumentTooLarge(_)
            | EnvelopeError::TooManySignatures(_)
            | EnvelopeError::SignatureTooLarge(_) => Self::TooLarge(error.to_string()),
        }
    }
}

impl From<AuthorityError> for Refusal {
    fn from(error: AuthorityError) -> Self {
        match error {
            AuthorityError::Envelope(error) => error.into(),
            AuthorityError::Document(error) => error.into(),
            AuthorityError::NotThePinnedGenesis { .. } | AuthorityError::RootThreshold { .. } => {
                Self::Malformed(error.to_string())
            }
        }
    }
}

/// Where the proofs lie that a lock no longer holds an agent: entries of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockStatus {
    Held,
    Cleared { stop: u64, release: u64, start: Option<u64> },
    Unknown,
}

/// One lock in force, for people and for the account of what a stop reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockRecord {
    #[serde(flatten)]
    pub lock: LockView,
    /// Sub-scopes that were started already.
    pub started: Vec<Scope>,
}

/// One grant, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantSummary {
    pub scope: Scope,
    pub id: Digest,
    pub expires_at_ms: u64,
}

impl Ledger {
    /// A ledger before its genesis: the first proposal it takes is the authority that `pinned` names.
    pub fn new(pinned: Digest) -> Self {
        Self {
            pinned,
            authority: None,
            authorities: Vec::new(),
            epoch: Epoch { number: 1, id: pinned },
            frontier: Frontier::default(),
            prev: Digest::default(),
            locks: BTreeMap::new(),
            by_scope: BTreeMap::new(),
            grants: BTreeMap::new(),
            used: BTreeMap::new(),
            without_outcome: BTreeMap::new(),
        }
    }

    pub fn authority(&self) -> Option<&Authority> {
        self.authority.as_ref()
    }

    pub fn authority_entries(&self) -> &[u64] {
        &self.authorities
    }

    pub fn pinned(&self) -> Digest {
        self.pinned
    }

    pub fn epoch(&self) -> Epoch {
        self.epoch
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
        let refused = |refusal| Applied { answer: Err(refusal), entry: None, effect: None };
        match proposal.kind {
            EntryKind::Command if proposal.envelope.digest() == self.pinned => {
                match Authority::genesis(&proposal.envelope, self.pinned) {
                    Ok(genesis) => self.begin(proposal, genesis),
                    Err(error) => refused(error.into()),
                }
            }
            EntryKind::Command => match self.judge(&proposal.envelope, proposal.time_ms) {
                Ok(Judged::New { command, signers }) => self.take_effect(proposal, command, signers),
                Ok(Judged::Repeated(receipt)) => Applied { answer: Ok(receipt), entry: None, effect: None },
                Err(refusal) => refused(refusal),
            },
            // Written by a node about what it saw: it changes no state, so it needs no signature of a person.
            EntryKind::Outcome => match self.judge_outcome(&proposal.envelope) {
                Ok(lock) => {
                    let applied = self.append(proposal);
                    if let (Ok(receipt), Some(used)) = (&applied.answer, self.used.get_mut(&lock)) {
                        used.outcome = Some(receipt.index);
                        self.without_outcome.remove(&lock);
                    }
                    applied
                }
                Err(refusal) => refused(refusal),
            },
            EntryKind::Trip
            | EntryKind::Proposal
            | EntryKind::Drill
            | EntryKind::Restore
            | EntryKind::RuleVersion => refused(Refusal::Malformed(format!(
                "this build takes no {} entries: upgrade it",
                proposal.kind.name()
            ))),
        }
    }

    /// Takes the genesis, once: a new leader may propose it again before it has seen that the last one did.
    fn begin(&mut self, proposal: &Proposal, genesis: Authority) -> Applied {
        if let Some(used) = self.used.get(&self.pinned) {
            let receipt = used.receipt(self.pinned);
            return Applied { answer: Ok(receipt), entry: None, effect: None };
        }
        let applied = self.append(proposal);
        if let Ok(receipt) = &applied.answer {
            self.used.insert(receipt.digest, Used::new(receipt));
            self.authorities.push(self.size() - 1);
            self.authority = Some(genesis);
        }
        applied
    }

    /// Whether a command would take effect now. Refuses early on arrival, and shows a dry run.
    pub fn check(&self, envelope: &Envelope, now_ms: u64) -> Result<Option<Receipt>, Refusal> {
        match self.judge(envelope, now_ms)? {
            Judged::New { .. } => Ok(None),
            Judged::Repeated(receipt) => Ok(Some(receipt)),
        }
    }

    fn judge(&self, envelope: &Envelope, time_ms: u64) -> Result<Judged, Refusal> {
        envelope.check_bounds()?;
        let authority = self.authority.as_ref().ok_or(Refusal::NoGenesis)?;
        let command = Command::parse(envelope.document.as_bytes())?;
        if command.deployment != authority.deployment {
            let (theirs, ours) = (command.deployment.to_string(), authority.deployment.to_string());
            return Err(Refusal::WrongDeployment { theirs, ours });
        }
        let signers = authority.signers(envelope);
        authority.authorise(command.action.kind(), command.action.scope(), &signers)?;
        let digest = envelope.digest();
        if let Some(used) = self.used.get(&digest) {
            return match used.released_at(self.locks.get(&digest)) {
                Some(released_at) => Err(Refusal::Used { index: used.index, released_at }),
                None => Ok(Judged::Repeated(used.receipt(digest))),
            };
        }
        match &command.action {
            Action::Stop(_) => {}
            Action::Release(release) => self.judge_release(release)?,
            Action::Start(start) => self.judge_start(start)?,
            Action::Grant(grant) => self.judge_grant(grant, time_ms)?,
        }
        let signers = signers.names();
        Ok(Judged::New { command, signers })
    }

    fn judge_release(&self, release: &Release) -> Result<(), Refusal> {
        for id in &release.locks {
            let lock = self.locks.get(id).ok_or(Refusal::NoSuchLock(*id))?;
            if !release.scope.covers(&lock.scope) {
                let (lock, lock_scope, scope) = (*id, lock.scope.clone(), release.scope.clone());
                return Err(Refusal::LockOutsideScope { lock, lock_scope, scope });
            }
            if let Some(index) = lock.released_at {
                return Err(Refusal::AlreadyReleased(*id, index));
            }
        }
        Ok(())
    }

    fn judge_start(&self, start: &Start) -> Result<(), Refusal> {
        for id in &start.locks {
            let lock = self.locks.get(id).ok_or(Refusal::NoSuchLock(*id))?;
            if !start.scope.covers(&lock.scope) && !lock.scope.covers(&start.scope) {
                let (lock, lock_scope, scope) = (*id, lock.scope.clone(), start.scope.clone());
                return Err(Refusal::StartElsewhere { lock, lock_scope, scope });
            }
            if !lock.stop.needs_start() {
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
        Ok(())
    }

    fn judge_grant(&self, grant: &Grant, time_ms: u64) -> Result<(), Refusal> {
        if grant.seen_epoch != self.epoch.id {
            return Err(Refusal::WrongEpoch { theirs: grant.seen_epoch, ours: self.epoch.id });
        }
        if grant.seen_size > self.size() {
            return Err(Refusal::SeenAhead { theirs: grant.seen_size, ours: self.size() });
        }
        if grant.expires_at_ms <= time_ms {
            return Err(Refusal::Expired(crate::strict::format_instant_ms(grant.expires_at_ms)));
        }
        let unexpired =
            self.grants.get(&grant.scope).into_iter().flatten().filter(|g| time_ms < g.expires_at_ms);
        if unexpired.count() >= GRANTS_PER_SCOPE_MAX {
            return Err(Refusal::TooManyGrants { scope: grant.scope.clone() });
        }
        Ok(())
    }

    /// An outcome is about a stop that has none yet; a node that restarted may try a second time.
    fn judge_outcome(&self, envelope: &Envelope) -> Result<Digest, Refusal> {
        /// Nothing else of an outcome decides: builds that know more of its fields must not part ways here (S8).
        #[derive(Deserialize)]
        struct OutcomeOf {
            outcome: Digest,
        }
        let OutcomeOf { outcome: lock } = serde_json::from_str(&envelope.document)
            .map_err(|e| Refusal::Malformed(format!("the outcome cannot be read: {e}")))?;
        match self.used.get(&lock) {
            Some(Used { outcome: Some(index), .. }) => Err(Refusal::OutcomeKnown(*index)),
            Some(used) if used.ended.is_some() || self.locks.contains_key(&lock) => Ok(lock),
            // Other commands stop nothing.
            Some(_) | None => Err(Refusal::NoSuchLock(lock)),
        }
    }

    fn take_effect(&mut self, proposal: &Proposal, command: Command, signers: Vec<String>) -> Applied {
        let applied = self.append(proposal);
        let Ok(receipt) = applied.answer.clone() else { return applied };
        self.used.insert(receipt.digest, Used::new(&receipt));
        let effect = match command.action {
            Action::Stop(stop) => self.place(stop, signers, &receipt),
            Action::Release(release) => self.release(release, receipt.index),
            Action::Start(start) => self.start(start, receipt.index),
            Action::Grant(grant) => self.grant(grant, proposal),
        };
        Applied { effect: Some(effect), ..applied }
    }

    fn place(&mut self, stop: Stop, by: Vec<String>, receipt: &Receipt) -> Effect {
        let tag = Tag { reason: stop.reason, by, case: stop.case };
        let lock = Lock {
            scope: stop.scope.clone(),
            stop: stop.mode,
            tag,
            index: receipt.index,
            time_ms: receipt.time_ms,
            released_at: None,
            waves: BTreeMap::new(),
        };
        self.by_scope.entry(stop.scope.clone()).or_default().insert(lock.order(receipt.digest));
        self.locks.insert(receipt.digest, lock);
        self.without_outcome.insert(receipt.digest, (stop.scope.clone(), stop.mode));
        Effect::Tightened { lock: receipt.digest, scope: stop.scope, stop: stop.mode }
    }

    fn release(&mut self, release: Release, index: u64) -> Effect {
        for id in release.locks {
            let lock = self.locks.get_mut(&id).expect("judged to be in force");
            lock.released_at = Some(index);
            if !lock.stop.needs_start() {
                self.end(id, None);
            }
        }
        Effect::Loosened { scope: release.scope }
    }

    fn start(&mut self, start: Start, index: u64) -> Effect {
        for id in start.locks {
            let lock = self.locks.get_mut(&id).expect("judged to be in force");
            if start.scope.covers(&lock.scope) {
                self.end(id, Some(index));
            } else {
                lock.waves.insert(start.scope.clone(), index);
            }
        }
        Effect::Loosened { scope: start.scope }
    }

    /// Takes a lock out of force; that it was used stays known for ever.
    fn end(&mut self, id: Digest, start: Option<u64>) {
        let lock = self.locks.remove(&id).expect("judged to be in force");
        let released_at = lock.released_at.expect("only a released lock ends (S1)");
        if let Some(locks) = self.by_scope.get_mut(&lock.scope) {
            locks.remove(&lock.order(id));
            if locks.is_empty() {
                self.by_scope.remove(&lock.scope);
            }
        }
        self.used.get_mut(&id).expect("a lock's command is used").ended = Some((released_at, start));
    }

    fn grant(&mut self, grant: Grant, proposal: &Proposal) -> Effect {
        let grants = self.grants.entry(grant.scope.clone()).or_default();
        grants.retain(|g| proposal.time_ms < g.expires_at_ms);
        grants.push(GrantRecord { expires_at_ms: grant.expires_at_ms, envelope: proposal.envelope.clone() });
        Effect::Loosened { scope: grant.scope }
    }

    /// Chains one entry to the log.
    fn append(&mut self, proposal: &Proposal) -> Applied {
        let index = self.size();
        let time_ms = proposal.time_ms;
        let envelope = proposal.envelope.clone();
        let digest = envelope.digest();
        let bytes = match (Entry { kind: proposal.kind, index, time_ms, prev: self.prev, envelope }).encode()
        {
            Ok(bytes) => bytes,
            Err(error) => {
                return Applied {
                    answer: Err(Refusal::TooLarge(error.to_string())),
                    entry: None,
                    effect: None,
                };
            }
        };
        self.prev = Digest::of(&bytes);
        self.frontier.push(leaf_hash(&bytes));
        Applied {
            answer: Ok(Receipt { index, time_ms, digest, repeated: false }),
            entry: Some(bytes),
            effect: None,
        }
    }

    /// All that a guard of `agent` needs to know, as of `now_ms`.
    pub fn view(&self, agent: &Scope, now_ms: u64) -> View {
        let mut strongest: BTreeMap<Rank, (u64, Digest)> = BTreeMap::new();
        let mut grants = Vec::new();
        for scope in agent.upward() {
            let Some(locks) = self.by_scope.get(&scope) else { continue };
            for rank in Rank::ALL {
                let equal = locks.range((rank, 0, Digest::default())..).take_while(|(r, ..)| *r == rank);
                let mut holding = equal.filter(|(.., id)| !self.locks[id].started_for(agent));
                if let Some((_, order, id)) = holding.next() {
                    let best = strongest.entry(rank).or_insert((*order, *id));
                    *best = (*best).min((*order, *id));
                }
            }
        }
        for scope in agent.upward() {
            let unexpired =
                self.grants.get(&scope).into_iter().flatten().filter(|g| now_ms < g.expires_at_ms);
            grants.extend(unexpired.map(|g| g.envelope.clone()));
        }
        let locks = strongest.values().map(|(_, id)| self.locks[id].view(*id)).collect();
        View { agent: agent.clone(), locks, grants }
    }

    /// The verdict for `agent` at `now_ms`, by every lock and grant there is.
    pub fn verdict(&self, agent: &Scope, now_ms: u64) -> Verdict {
        let grants = agent.upward().filter_map(|s| self.grants.get(&s)).flatten().map(|g| g.expires_at_ms);
        let locks = self.in_force_on(agent).map(|(_, lock)| lock.fact());
        rule::verdict(grants, locks, now_ms)
    }

    /// Whether the lock `id` still holds `agent`, and if not, which entries prove it.
    pub fn lock_status(&self, id: &Digest, agent: &Scope) -> LockStatus {
        let Some(used) = self.used.get(id) else { return LockStatus::Unknown };
        match (self.locks.get(id), used.ended) {
            (Some(lock), _) => match (lock.released_at, lock.wave_for(agent)) {
                (Some(release), Some(start)) => {
                    LockStatus::Cleared { stop: used.index, release, start: Some(start) }
                }
                _ => LockStatus::Held,
            },
            (None, Some((release, start))) => LockStatus::Cleared { stop: used.index, release, start },
            // No lock was ever made of these bytes.
            (None, None) => LockStatus::Unknown,
        }
    }

    /// Locks in force on `scope`, above it or below it, oldest first.
    pub fn locks_touching(&self, scope: &Scope) -> Vec<LockRecord> {
        let mut locks: Vec<_> = (self.locks.iter())
            .filter(|(_, lock)| lock.scope.covers(scope) || scope.covers(&lock.scope))
            .map(|(id, lock)| LockRecord {
                lock: lock.view(*id),
                started: lock.waves.keys().cloned().collect(),
            })
            .collect();
        locks.sort_by_key(|record| record.lock.index);
        locks
    }

    /// The locks that hold `agent`: on it or above it, and not started for it.
    pub fn locks_on(&self, agent: &Scope) -> Vec<Digest> {
        self.in_force_on(agent).map(|(id, _)| id).collect()
    }

    fn in_force_on<'a>(&'a self, agent: &'a Scope) -> impl Iterator<Item = (Digest, &'a Lock)> {
        (agent.upward().filter_map(|scope| self.by_scope.get(&scope)).flatten())
            .map(|(_, _, id)| (*id, &self.locks[id]))
            .filter(|(_, lock)| !lock.started_for(agent))
    }

    pub fn lock(&self, id: &Digest) -> Option<LockRecord> {
        let lock = self.locks.get(id)?;
        Some(LockRecord { lock: lock.view(*id), started: lock.waves.keys().cloned().collect() })
    }

    /// Stops whose outcome is not in the log yet, those that are over included.
    pub fn stops_without_outcome(&self) -> impl Iterator<Item = (Digest, &Scope, StopMode)> {
        self.without_outcome.iter().map(|(id, (scope, stop))| (*id, scope, *stop))
    }

    /// The entry at which a stop's outcome stands.
    pub fn outcome_index(&self, id: &Digest) -> Option<u64> {
        self.used.get(id)?.outcome
    }

    pub fn lock_count(&self) -> usize {
        self.locks.len()
    }

    /// The entry at which the command with this digest took effect.
    pub fn used_at(&self, digest: &Digest) -> Option<u64> {
        self.used.get(digest).map(|used| used.index)
    }

    /// Unexpired grants, by scope.
    pub fn grants(&self, now_ms: u64) -> Vec<GrantSummary> {
        (self.grants.iter())
            .flat_map(|(scope, grants)| grants.iter().map(move |g| (scope, g)))
            .filter(|(_, g)| now_ms < g.expires_at_ms)
            .map(|(scope, g)| GrantSummary {
                scope: scope.clone(),
                id: g.envelope.digest(),
                expires_at_ms: g.expires_at_ms,
            })
            .collect()
    }

    pub fn deployment(&self) -> Option<&Deployment> {
        self.authority.as_ref().map(|a| &a.deployment)
    }
}

enum Judged {
    New { command: Command, signers: Vec<String> },
    Repeated(Receipt),
}

impl Used {
    fn new(receipt: &Receipt) -> Self {
        Self { index: receipt.index, time_ms: receipt.time_ms, ended: None, outcome: None }
    }

    /// The first answer, once more.
    fn receipt(&self, digest: Digest) -> Receipt {
        Receipt { index: self.index, time_ms: self.time_ms, digest, repeated: true }
    }

    fn released_at(&self, lock: Option<&Lock>) -> Option<u64> {
        self.ended.map(|(release, _)| release).or(lock.and_then(|l| l.released_at))
    }
}

impl Lock {
    /// Its place among the locks of its scope: within a mode, the one that denies most comes first.
    fn order(&self, id: Digest) -> (Rank, u64, Digest) {
        match self.stop {
            StopMode::Halt => (Rank::Halt, self.index, id),
            StopMode::Drain { drain_ms } => (Rank::Drain, self.time_ms.saturating_add(drain_ms), id),
            StopMode::Pause => (Rank::Pause, self.index, id),
        }
    }

    fn fact(&self) -> LockFact {
        LockFact::of_entry(self.stop, self.released_at.is_some(), self.time_ms)
    }

    fn view(&self, id: Digest) -> LockView {
        LockView {
            id,
            scope: self.scope.clone(),
            stop: self.stop,
            index: self.index,
            time_ms: self.time_ms,
            released: self.released_at.is_some(),
            tag: self.tag.clone(),
        }
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
