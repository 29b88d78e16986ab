//! What a guard believes, and why: bytes in, verified in order, rollback refused. No I/O, no clock, no randomness.
//!
//! Everything starts from the pinned genesis. A node is believed when it takes away; when it gives, the signatures of
//! people are verified here (S5). A lock that was ever seen stays latched until its release, and after a halt or drain
//! its start, have been verified here too (S2).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use tagout_proto::authority::{Authority, AuthorityError, Limits, Unauthorised};
use tagout_proto::command::{Action, ActionKind, Command, Deployment, Grant, Stop, StopMode};
use tagout_proto::digest::Digest;
use tagout_proto::envelope::{Envelope, EnvelopeError};
use tagout_proto::lease::{
    AgentRequest, KnownLock, Lease, LeaseError, LeaseRequest, LeaseResponse, LockAnswer, RULE_VERSION,
    leaf_hash_of,
};
use tagout_proto::limits::{
    CASE_MAX_BYTES, GRANTS_PER_SCOPE_MAX, KNOWN_PER_LEASE_MAX, NAME_MAX_BYTES, REASON_MAX_BYTES,
    SCOPE_SEGMENTS_MAX, SIGNATURES_MAX,
};
use tagout_proto::note::NoteError;
use tagout_proto::rule::{self, LockFact, Verdict};
use tagout_proto::scope::Scope;
use tagout_proto::sentence::sentence;
use tagout_proto::strict::DocumentError;
use tagout_proto::view::{LockView, Tag, View};
use tagout_proto::wire::{StopEvent, StopPath};

use crate::clock::Now;
use crate::denied::{Lock, Reason};
use crate::limits::*;

const NS_PER_MS: u64 = 1_000_000;
/// A view carries the grants of the agent's scope and of each above it.
const GRANTS_PER_VIEW_MAX: usize = GRANTS_PER_SCOPE_MAX * (SCOPE_SEGMENTS_MAX + 1);

/// The trusted set of one client.
#[derive(Clone)]
pub struct Trusted {
    authority: Authority,
    /// SHA-256 of the authority's document.
    authority_digest: Digest,
    epoch_number: u64,
    epoch: Digest,
    /// The floor: the newest log that a verified lease was read from.
    log: Option<(u64, Digest)>,
    /// The newest lease's time at its node, and the moment its nonce was made.
    lease_time: Option<(u64, u64)>,
    /// Only leases with a nonce made after this count, and why.
    newer_than: Option<(u64, Reason)>,
    agents: BTreeMap<Scope, Agent>,
    latched: usize,
    asks: u64,
}

#[derive(Clone, Default)]
struct Agent {
    lease: Option<Held>,
    view: Option<Digest>,
    /// The `Asked` whose answer changed the view.
    changed: u64,
    consents_until_ms: Vec<u64>,
    refused: Arc<[GrantRefused]>,
    /// Locks that the newest view shows.
    shown: BTreeSet<Digest>,
    latched: BTreeMap<Digest, Latched>,
    cleared: VecDeque<Digest>,
    /// A lock came that there was no room for.
    overflowed: bool,
}

#[derive(Clone, Copy)]
struct Held {
    t0_ns: u64,
    deadline_ns: u64,
    grace_ns: u64,
}

#[derive(Clone)]
struct Latched {
    scope: Scope,
    stop: StopMode,
    tag: Tag,
    index: u64,
    time_ms: u64,
    /// As the service says; only ever shown to people.
    released: bool,
    received_ns: u64,
    by: StopPath,
    /// The stop with its signatures, where it came as such.
    signed: Option<Arc<Envelope>>,
    /// The service asked for its bytes.
    wanted: bool,
    /// The newest `Asked` that named it.
    asked: u64,
    held: Option<String>,
}

/// A lease request as it was made, and when its nonce was.
#[derive(Clone, Debug)]
pub struct Asked {
    pub request: LeaseRequest,
    /// The moment the nonce was made, by the boot clock: the permission dates from here (S3).
    pub t0_ns: u64,
}

/// What an accepted lease did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    pub log_size: u64,
    pub ttl_ms: u64,
    /// The end of the permission, by the boot clock.
    pub deadline_ns: u64,
    /// Locks that ended, by agent.
    pub cleared: Vec<(Digest, Scope)>,
    /// Locks that stay because what should end them does not prove it.
    pub uncleared: Vec<(Digest, Scope, ClearanceRefused)>,
    /// Some lock could be cleared by asking again at once.
    pub ask_again: bool,
}

/// What may happen now, by everything that is believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// Calls may begin until then, by the boot clock; 0 is not at all.
    pub allow_until_ns: u64,
    /// Why not, if not.
    pub refusal: Option<Reason>,
    /// Calls under way end now.
    pub cut: bool,
    /// When this may change though nothing arrives.
    pub next_ns: Option<u64>,
    pub locks: Vec<JudgedLock>,
}

/// One lock on an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JudgedLock {
    pub id: Digest,
    pub by: StopPath,
    pub received_ns: u64,
    /// It has its full effect: a drain has that from its deadline on.
    pub in_force: bool,
    /// Calls under way end by it now.
    pub cuts: bool,
}

/// Why a lease is no lease.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeaseRefused {
    #[error("no node key of the authority signed the lease")]
    UnknownNode,
    #[error(transparent)]
    Lease(#[from] LeaseError),
    #[error("the lease is of deployment {0}, another one")]
    OtherDeployment(Deployment),
    #[error("the lease was made under rule {found}, this guard knows rule {RULE_VERSION}: upgrade it")]
    RuleVersion { found: u64 },
    #[error("the lease is of epoch {found}, older than epoch {floor} that was accepted before")]
    EpochRollback { found: u64, floor: u64 },
    #[error("the lease is of epoch {found} {id}, which no verified restore began")]
    EpochUnproven { found: u64, id: Digest },
    #[error("the lease knows authority version {found}, older than version {floor} that was accepted before")]
    AuthorityRollback { found: u64, floor: u64 },
    #[error("the lease names authority version {found} {digest}, which was not proven")]
    AuthorityUnproven { found: u64, digest: Digest },
    #[error(
        "the lease was read from a log of {found} entries, smaller than {floor} that were accepted before"
    )]
    LogRollback { found: u64, floor: u64 },
    #[error("two logs of {size} entries differ: the service showed two histories")]
    LogForked { size: u64 },
    #[error("the lease was made for a nonce that is older than the newest accepted one")]
    Stale,
    #[error("the answer does not fit the question: {0}")]
    Misfit(&'static str),
    #[error("the answer exceeds a bound: {0}")]
    Unbounded(&'static str),
}

/// Why a grant does not count.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GrantRefused {
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    #[error(transparent)]
    Document(#[from] DocumentError),
    #[error("it is a {0}, not a grant")]
    NotAGrant(ActionKind),
    #[error("it is of deployment {0}, another one")]
    OtherDeployment(Deployment),
    #[error("it is for {0}, elsewhere")]
    Elsewhere(Scope),
    #[error("it was signed in epoch {0}, another one")]
    OtherEpoch(Digest),
    #[error("it says it saw {seen} entries, but the log has {size}")]
    SeenAhead { seen: u64, size: u64 },
    #[error(transparent)]
    Unauthorised(#[from] Unauthorised),
}

/// Why a pushed stop is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StopRefused {
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    #[error(transparent)]
    Document(#[from] DocumentError),
    #[error("it is a {0}, not a stop")]
    NotAStop(ActionKind),
    #[error("it is of deployment {0}, another one")]
    OtherDeployment(Deployment),
    #[error(transparent)]
    Unauthorised(#[from] Unauthorised),
}

/// Why a lock stays although the service says that it ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClearanceRefused {
    #[error("the stop that came with it is not this lock's: its SHA-256 is {0}")]
    OtherStop(Digest),
    #[error("the document in the stop's place is a {0}")]
    NotAStop(ActionKind),
    #[error("the stop cannot be read: {0}")]
    Stop(DocumentError),
    #[error("the {what} cannot be read: {error}")]
    Document { what: ActionKind, error: DocumentError },
    #[error("the {what}'s envelope is refused: {error}")]
    Envelope { what: ActionKind, error: EnvelopeError },
    #[error("the document in the {what}'s place is a {found}")]
    WrongAction { what: ActionKind, found: ActionKind },
    #[error("the {what} is of deployment {found}, another one")]
    OtherDeployment { what: ActionKind, found: Deployment },
    #[error("the {what} names other locks")]
    OtherLock { what: ActionKind },
    #[error("the {what} is for {found} and does not cover {needed}")]
    OtherScope { what: ActionKind, found: Scope, needed: Scope },
    #[error("the {what} is not authorised: {error}")]
    Unauthorised { what: ActionKind, error: Unauthorised },
    #[error("no start came with it, and a {} takes one", .0.name())]
    StartMissing(StopMode),
}

impl Trusted {
    /// Trusts the genesis that `pinned` names, and nothing else.
    pub fn new(genesis: &Envelope, pinned: Digest) -> Result<Self, AuthorityError> {
        let authority = Authority::genesis(genesis, pinned)?;
        Ok(Self {
            authority,
            authority_digest: pinned,
            epoch_number: 1,
            epoch: pinned,
            log: None,
            lease_time: None,
            newer_than: None,
            agents: BTreeMap::new(),
            latched: 0,
            asks: 0,
        })
    }

    pub fn deployment(&self) -> &Deployment {
        &self.authority.deployment
    }

    pub fn limits(&self) -> Limits {
        self.authority.limits
    }

    /// The size of the newest log that a verified lease was read from.
    pub fn log_size(&self) -> u64 {
        self.log.map_or(0, |(size, _)| size)
    }

    /// Begins to hold beliefs about `agent`.
    pub fn add(&mut self, agent: Scope) {
        self.agents.entry(agent).or_default();
    }

    /// Forgets `agent`, unless a lock is latched on it: those are never forgotten.
    pub fn forget(&mut self, agent: &Scope) {
        if self.agents.get(agent).is_some_and(|a| a.latched.is_empty() && !a.overflowed) {
            self.agents.remove(agent);
        }
    }

    /// Whether a lease for `agent` was accepted, ever.
    pub fn answered(&self, agent: &Scope) -> bool {
        self.agents.get(agent).is_some_and(|a| a.lease.is_some())
    }

    /// From here on only leases whose nonce was made after `boot_ns` count.
    pub fn require_newer(&mut self, boot_ns: u64, why: Reason) {
        self.newer_than = Some((boot_ns, why));
    }

    /// The lease request for `agents`, with the locks to ask about: first those not asked for the longest time.
    pub fn ask(&mut self, nonce: Digest, t0_ns: u64, instance: String, agents: &[Scope]) -> Asked {
        self.asks += 1;
        let mut latched: Vec<(u64, bool, &Scope, Digest)> = agents
            .iter()
            .filter_map(|scope| self.agents.get(scope).map(|agent| (scope, agent)))
            .flat_map(|(scope, agent)| {
                agent.latched.iter().map(move |(id, l)| (l.asked, agent.shown.contains(id), scope, *id))
            })
            .collect();
        latched.sort_unstable_by_key(|(asked, shown, ..)| (*shown, *asked));
        latched.truncate(KNOWN_PER_LEASE_MAX);
        let chosen: Vec<(Scope, Digest)> = latched.into_iter().map(|(_, _, s, id)| (s.clone(), id)).collect();
        let mut stops = 0;
        let known = chosen
            .into_iter()
            .map(|(scope, id)| {
                let agent = self.agents.get_mut(&scope).expect("chosen from it");
                let lock = agent.latched.get_mut(&id).expect("chosen from it");
                lock.asked = self.asks;
                let send = lock.wanted && lock.signed.is_some() && stops < STOPS_PER_REQUEST_MAX;
                stops += usize::from(send);
                let stop = lock.signed.as_deref().filter(|_| send).cloned();
                KnownLock { id, agent: scope, stop }
            })
            .collect();
        let agents = agents
            .iter()
            .map(|scope| AgentRequest {
                scope: scope.clone(),
                view: self.agents.get(scope).and_then(|a| a.view),
            })
            .collect();
        Asked { request: LeaseRequest { nonce, instance, agents, known }, t0_ns }
    }

    /// Verifies the answer to `asked` and takes it over whole, or not at all.
    pub fn accept_lease(
        &mut self,
        asked: &Asked,
        answer: LeaseResponse,
        now: Now,
    ) -> Result<Accepted, LeaseRefused> {
        let lease = self.open(&answer.lease)?;
        self.check_place(&lease)?;
        if self.lease_time.is_some_and(|(_, newest_t0_ns)| asked.t0_ns < newest_t0_ns) {
            return Err(LeaseRefused::Stale);
        }
        let LeaseRequest { nonce, agents, known, .. } = &asked.request;
        let digests = self.check_views(agents, &answer.views)?;
        if answer.answers.len() != known.len() {
            return Err(LeaseRefused::Misfit("it has another number of locks"));
        }
        let answers: Vec<_> = known.iter().map(|k| k.id).zip(answer.answers).collect();
        let scopes = agents.iter().map(|a| &a.scope);
        let leaf = leaf_hash_of(nonce, scopes.zip(digests.iter().copied()), &answers);
        lease.binds(leaf, answer.leaf_index, &answer.path)?;

        // Verified; from here on nothing fails.
        self.log = Some((lease.log_size, lease.log_root));
        self.lease_time = Some((lease.time_ms, asked.t0_ns));
        // The authority's people set these bounds; a node may only go below.
        let ttl_ms = lease.ttl_ms.min(self.authority.limits.ttl_ms);
        let grace_ms = lease.lapse_grace_ms.min(self.authority.limits.lapse_grace_ms);
        let deadline_ns = asked.t0_ns.saturating_add(ttl_ms * NS_PER_MS);
        let held = Held { t0_ns: asked.t0_ns, deadline_ns, grace_ns: grace_ms * NS_PER_MS };
        self.take_views(agents, answer.views, &digests, held, now);
        let mut accepted = Accepted {
            log_size: lease.log_size,
            ttl_ms,
            deadline_ns,
            cleared: Vec::new(),
            uncleared: Vec::new(),
            ask_again: false,
        };
        for ((id, answer), known) in answers.into_iter().zip(known) {
            self.take_answer(id, answer, known, &mut accepted);
        }
        // A lock that the changed view no longer shows may have ended; once asked about, it waits for the next renewal.
        accepted.ask_again |= agents.iter().filter_map(|a| self.agents.get(&a.scope)).any(|agent| {
            agent.latched.iter().any(|(id, lock)| !agent.shown.contains(id) && lock.asked < agent.changed)
        });
        Ok(accepted)
    }

    fn open(&self, note: &str) -> Result<Lease, LeaseRefused> {
        for node in &self.authority.nodes {
            match Lease::open(note, &node.key) {
                Err(LeaseError::Note(NoteError::NotSigned(_))) => {}
                opened => return Ok(opened?),
            }
        }
        Err(LeaseRefused::UnknownNode)
    }

    /// Whether the lease is of our history, and no step back in it.
    fn check_place(&self, lease: &Lease) -> Result<(), LeaseRefused> {
        if lease.deployment != self.authority.deployment {
            return Err(LeaseRefused::OtherDeployment(lease.deployment.clone()));
        }
        if lease.rule_version != RULE_VERSION {
            return Err(LeaseRefused::RuleVersion { found: lease.rule_version });
        }
        let (found, floor) = (lease.epoch_number, self.epoch_number);
        if found < floor {
            return Err(LeaseRefused::EpochRollback { found, floor });
        }
        if (found, lease.epoch) != (floor, self.epoch) {
            return Err(LeaseRefused::EpochUnproven { found, id: lease.epoch });
        }
        let (found, floor) = (lease.authority_version, self.authority.version);
        if found < floor {
            return Err(LeaseRefused::AuthorityRollback { found, floor });
        }
        if (found, lease.authority) != (floor, self.authority_digest) {
            return Err(LeaseRefused::AuthorityUnproven { found, digest: lease.authority });
        }
        match self.log {
            Some((floor, _)) if lease.log_size < floor => {
                Err(LeaseRefused::LogRollback { found: lease.log_size, floor })
            }
            Some((size, root)) if lease.log_size == size && lease.log_root != root => {
                Err(LeaseRefused::LogForked { size })
            }
            Some(_) | None => Ok(()),
        }
    }

    /// The digest of each agent's view: of the one that came, or of our own where none did.
    fn check_views(
        &self,
        agents: &[AgentRequest],
        views: &[Option<View>],
    ) -> Result<Vec<Digest>, LeaseRefused> {
        if views.len() != agents.len() {
            return Err(LeaseRefused::Misfit("it has another number of views"));
        }
        let digest = |(asked, view): (&AgentRequest, &Option<View>)| match view {
            Some(view) if view.agent != asked.scope => {
                Err(LeaseRefused::Misfit("a view is of an agent that was not asked for in its place"))
            }
            Some(view) => check_bounds(view).map(|()| view.digest()),
            None => {
                let own = self.agents.get(&asked.scope).and_then(|a| a.view);
                own.filter(|own| Some(*own) == asked.view)
                    .ok_or(LeaseRefused::Misfit("a view is left out that the guard does not have"))
            }
        };
        agents.iter().zip(views).map(digest).collect()
    }

    fn take_views(
        &mut self,
        agents: &[AgentRequest],
        views: Vec<Option<View>>,
        digests: &[Digest],
        held: Held,
        now: Now,
    ) {
        // A grant for a team covers many agents of one client: its signatures are verified once.
        let mut judged: Vec<(Envelope, Result<Grant, GrantRefused>)> = Vec::new();
        for ((asked, view), digest) in agents.iter().zip(views).zip(digests) {
            let agent = self.agents.entry(asked.scope.clone()).or_default();
            agent.lease = Some(held);
            let Some(view) = view else { continue };
            agent.view = Some(*digest);
            agent.changed = self.asks;
            let (mut consents, mut refused) = (Vec::new(), Vec::new());
            for envelope in view.grants {
                let known = judged.iter().position(|(seen, _)| *seen == envelope);
                let at = known.unwrap_or_else(|| {
                    let grant = judge_grant(&self.authority, &envelope);
                    judged.push((envelope, grant));
                    judged.len() - 1
                });
                let size = self.log.map_or(0, |(size, _)| size);
                let placed =
                    judged[at].1.clone().and_then(|g| place_grant(g, &asked.scope, self.epoch, size));
                match placed {
                    Ok(expires_at_ms) => consents.push(expires_at_ms),
                    Err(why) => refused.push(why),
                }
            }
            (agent.consents_until_ms, agent.refused) = (consents, refused.into());
            agent.shown = view.locks.iter().map(|lock| lock.id).collect();
            for lock in view.locks {
                self.latched += usize::from(agent.latch_shown(lock, now.boot_ns, self.latched));
            }
        }
    }

    fn take_answer(&mut self, id: Digest, answer: LockAnswer, known: &KnownLock, accepted: &mut Accepted) {
        let Some(agent) = self.agents.get_mut(&known.agent) else { return };
        let Some(lock) = agent.latched.get_mut(&id) else { return };
        lock.wanted = false;
        match answer {
            // It says in one breath that the lock holds and that it does not: it holds.
            LockAnswer::Cleared { .. } if agent.shown.contains(&id) => {}
            LockAnswer::Cleared { stop, release, start } => {
                let cleared = Clearance { authority: &self.authority, id, agent: &known.agent };
                match cleared.verify(&stop, &release, start.as_ref()) {
                    Ok(()) => {
                        agent.latched.remove(&id);
                        self.latched -= 1;
                        if agent.cleared.len() == CLEARED_PER_AGENT_MAX {
                            agent.cleared.pop_front();
                        }
                        agent.cleared.push_back(id);
                        accepted.cleared.push((id, known.agent.clone()));
                    }
                    Err(why) => {
                        lock.held = Some(format!("the service says that it ended, but {why}"));
                        accepted.uncleared.push((id, known.agent.clone(), why));
                    }
                }
            }
            LockAnswer::Held { why } => {
                lock.held = Some(sentence(why));
            }
            LockAnswer::SendStop => {
                lock.wanted = true;
                accepted.ask_again |= lock.signed.is_some() && known.stop.is_none();
            }
        }
    }

    /// Step ⑦ of a stop: verifies a pushed one and latches it. Gives the agents that it covers, in order.
    ///
    /// It needs one signature, no date and no knowledge of the log (S6).
    pub fn accept_stop(&mut self, event: &StopEvent, now: Now) -> Result<Vec<Scope>, StopRefused> {
        let envelope = &event.stop;
        envelope.check_bounds()?;
        let command = Command::parse(envelope.document.as_bytes())?;
        let stop = match command.action {
            Action::Stop(stop) => stop,
            other => return Err(StopRefused::NotAStop(other.kind())),
        };
        if command.deployment != self.authority.deployment {
            return Err(StopRefused::OtherDeployment(command.deployment));
        }
        let signers = self.authority.signers(envelope);
        self.authority.authorise(ActionKind::Stop, &stop.scope, &signers)?;
        let id = envelope.digest();
        let lock = Latched {
            scope: stop.scope.clone(),
            stop: stop.mode,
            tag: Tag { reason: stop.reason, by: signers.names(), case: stop.case },
            index: event.index,
            time_ms: event.time_ms,
            released: false,
            received_ns: now.boot_ns,
            by: StopPath::Push,
            signed: Some(Arc::new(envelope.clone())),
            wanted: false,
            asked: 0,
            held: None,
        };
        let mut covered = Vec::new();
        for (scope, agent) in self.agents.iter_mut().filter(|(scope, _)| stop.scope.covers(scope)) {
            // Its release and start were verified here: the same bytes never stop twice.
            if agent.cleared.contains(&id) {
                continue;
            }
            self.latched += usize::from(agent.latch_signed(id, &lock, self.latched));
            covered.push(scope.clone());
        }
        Ok(covered)
    }

    /// What `agent` may do now.
    pub fn judge(&self, agent: &Scope, now: Now) -> Judgement {
        match self.agents.get(agent) {
            Some(agent) => agent.judge(now, self.now_ms(now), self.newer_than.as_ref()),
            None => Judgement {
                allow_until_ns: 0,
                refusal: Some(Reason::NotReady { last_error: None }),
                cut: true,
                next_ns: None,
                locks: Vec::new(),
            },
        }
    }

    /// The later of the service's clock, carried on by the boot clock, and the host's own: a bad clock only denies.
    fn now_ms(&self, now: Now) -> u64 {
        let service_ms = self.lease_time.map_or(0, |(time_ms, t0_ns)| {
            time_ms.saturating_add(now.boot_ns.saturating_sub(t0_ns) / NS_PER_MS)
        });
        service_ms.max(now.wall_ms)
    }
}

impl Agent {
    /// Latches a lock that a view shows; whether it is new. A view is not signed by people, so it never softens what
    /// was latched before.
    fn latch_shown(&mut self, shown: LockView, received_ns: u64, latched: usize) -> bool {
        if let Some(lock) = self.latched.get_mut(&shown.id) {
            lock.released = shown.released;
            lock.index = shown.index;
            lock.time_ms = lock.time_ms.min(shown.time_ms);
            return false;
        }
        if latched >= LOCKS_MAX {
            self.overflowed = true;
            return false;
        }
        let LockView { id, scope, stop, index, time_ms, released, tag } = shown;
        let lock = Latched {
            scope,
            stop,
            tag,
            index,
            time_ms,
            released,
            received_ns,
            by: StopPath::Lease,
            signed: None,
            wanted: false,
            asked: 0,
            held: None,
        };
        self.latched.insert(id, lock);
        true
    }

    /// Latches a verified stop; whether it is new.
    fn latch_signed(&mut self, id: Digest, stop: &Latched, latched: usize) -> bool {
        if let Some(lock) = self.latched.get_mut(&id) {
            // The signed bytes decide what kind of lock it is.
            (lock.scope, lock.stop) = (stop.scope.clone(), stop.stop);
            lock.signed = stop.signed.clone();
            return false;
        }
        if latched >= LOCKS_MAX {
            self.overflowed = true;
            return false;
        }
        self.latched.insert(id, stop.clone());
        true
    }

    fn judge(&self, now: Now, now_ms: u64, newer_than: Option<&(u64, Reason)>) -> Judgement {
        let facts: Vec<LockFact> = self.latched.values().map(|lock| lock.fact(now, now_ms)).collect();
        let verdict = rule::verdict(self.consents_until_ms.iter().copied(), facts.iter().copied(), now_ms);
        let consent_until_ms = self.consents_until_ms.iter().copied().max();
        let consent_until_ns = consent_until_ms.map_or(0, |at_ms| boot_ns_of(at_ms, now, now_ms));

        let refusal = if self.overflowed {
            Some(Reason::TooManyLocks)
        } else if let Some(lock) = self.strongest() {
            Some(Reason::Stopped(Arc::new(lock)))
        } else {
            match (self.lease, newer_than) {
                (None, _) => Some(Reason::NotReady { last_error: None }),
                (Some(held), Some((after_ns, why))) if held.t0_ns <= *after_ns => Some(why.clone()),
                (Some(held), _) if now.boot_ns >= held.deadline_ns => {
                    Some(Reason::Lapsed { last_error: None })
                }
                (Some(_), _) => match consent_until_ms {
                    None => Some(Reason::NoConsent { refused: Arc::clone(&self.refused) }),
                    Some(at_ms) if now_ms >= at_ms => Some(Reason::GrantExpired { at_ms }),
                    Some(_) => None,
                },
            }
        };
        let allow_until_ns = match (&refusal, self.lease, verdict) {
            (None, Some(held), Verdict::Enabled) => held.deadline_ns.min(consent_until_ns),
            // The rule has the last word: without `Enabled` nothing is allowed.
            _ => 0,
        };
        let cut_at_ns = self.lease.map(|held| held.deadline_ns.saturating_add(held.grace_ns));
        let cut = self.overflowed
            || facts.iter().any(|fact| fact.cuts(now_ms))
            || cut_at_ns.is_none_or(|at_ns| now.boot_ns >= at_ns);
        let drains = facts.iter().filter_map(|fact| fact.drain_deadline_ms);
        let next_ns = (self.lease.map(|held| held.deadline_ns).into_iter())
            .chain(cut_at_ns)
            .chain((consent_until_ns != 0).then_some(consent_until_ns))
            .chain(drains.map(|at_ms| boot_ns_of(at_ms, now, now_ms)))
            .filter(|at_ns| *at_ns > now.boot_ns)
            .min();
        let locks = self.latched.iter().zip(&facts).map(|((id, lock), fact)| JudgedLock {
            id: *id,
            by: lock.by,
            received_ns: lock.received_ns,
            in_force: fact.verdict(now_ms) == Verdict::Denied,
            cuts: fact.cuts(now_ms),
        });
        Judgement { allow_until_ns, refusal, cut, next_ns, locks: locks.collect() }
    }

    /// The lock to tell of.
    fn strongest(&self) -> Option<Lock> {
        let rank = |stop: StopMode| match stop {
            StopMode::Halt => 0,
            StopMode::Drain { .. } => 1,
            StopMode::Pause => 2,
        };
        let (id, lock) = self.latched.iter().min_by_key(|(_, lock)| (rank(lock.stop), lock.index))?;
        Some(Lock {
            id: *id,
            scope: lock.scope.clone(),
            mode: lock.stop,
            released: lock.released,
            tag: lock.tag.clone(),
            since_ms: lock.time_ms,
            others: self.latched.len() - 1,
            held: lock.held.clone(),
        })
    }
}

impl Latched {
    /// The fact for the rule. The service's word that it is released never counts here: a latched lock ends by proof
    /// (S2). A drain ends at the earlier of entry time and first receipt, each plus its length.
    fn fact(&self, now: Now, now_ms: u64) -> LockFact {
        let drain_deadline_ms = match self.stop {
            StopMode::Drain { drain_ms } => {
                let by_entry_ms = self.time_ms.saturating_add(drain_ms);
                let since_receipt_ms = now.boot_ns.saturating_sub(self.received_ns) / NS_PER_MS;
                let by_receipt_ms = now_ms.saturating_add(drain_ms).saturating_sub(since_receipt_ms);
                Some(by_entry_ms.min(by_receipt_ms))
            }
            StopMode::Halt | StopMode::Pause => None,
        };
        LockFact { mode: self.stop, released: false, drain_deadline_ms }
    }
}

/// Proves that a lock no longer holds an agent.
struct Clearance<'a> {
    authority: &'a Authority,
    id: Digest,
    agent: &'a Scope,
}

impl Clearance<'_> {
    fn verify(
        &self,
        stop: &Envelope,
        release: &Envelope,
        start: Option<&Envelope>,
    ) -> Result<(), ClearanceRefused> {
        let Stop { scope, mode, .. } = self.stop(stop)?;
        self.names_and_covers(ActionKind::Release, release, &scope)?;
        // S2: the release alone restarts nothing.
        match (mode.needs_start(), start) {
            (true, Some(start)) => self.names_and_covers(ActionKind::Start, start, self.agent),
            (true, None) => Err(ClearanceRefused::StartMissing(mode)),
            (false, _) => Ok(()),
        }
    }

    /// The lock's own document. Its digest is the id, so its bytes need no signature to be the right ones.
    fn stop(&self, envelope: &Envelope) -> Result<Stop, ClearanceRefused> {
        let found = envelope.digest();
        if found != self.id {
            return Err(ClearanceRefused::OtherStop(found));
        }
        match Command::parse(envelope.document.as_bytes()).map_err(ClearanceRefused::Stop)?.action {
            Action::Stop(stop) => Ok(stop),
            other => Err(ClearanceRefused::NotAStop(other.kind())),
        }
    }

    /// Whether people signed that this lock is released or started, for all of `needed`.
    fn names_and_covers(
        &self,
        what: ActionKind,
        envelope: &Envelope,
        needed: &Scope,
    ) -> Result<(), ClearanceRefused> {
        envelope.check_bounds().map_err(|error| ClearanceRefused::Envelope { what, error })?;
        let command = Command::parse(envelope.document.as_bytes())
            .map_err(|error| ClearanceRefused::Document { what, error })?;
        if command.deployment != self.authority.deployment {
            return Err(ClearanceRefused::OtherDeployment { what, found: command.deployment });
        }
        let (scope, locks) = match command.action {
            Action::Release(release) if what == ActionKind::Release => (release.scope, release.locks),
            Action::Start(start) if what == ActionKind::Start => (start.scope, start.locks),
            other => return Err(ClearanceRefused::WrongAction { what, found: other.kind() }),
        };
        if !locks.contains(&self.id) {
            return Err(ClearanceRefused::OtherLock { what });
        }
        if !scope.covers(needed) {
            return Err(ClearanceRefused::OtherScope { what, found: scope, needed: needed.clone() });
        }
        let signers = self.authority.signers(envelope);
        self.authority
            .authorise(what, &scope, &signers)
            .map_err(|error| ClearanceRefused::Unauthorised { what, error })
    }
}

/// Whether enough people signed a grant, whatever it is for.
fn judge_grant(authority: &Authority, envelope: &Envelope) -> Result<Grant, GrantRefused> {
    envelope.check_bounds()?;
    let command = Command::parse(envelope.document.as_bytes())?;
    let grant = match command.action {
        Action::Grant(grant) => grant,
        other => return Err(GrantRefused::NotAGrant(other.kind())),
    };
    if command.deployment != authority.deployment {
        return Err(GrantRefused::OtherDeployment(command.deployment));
    }
    authority.authorise(ActionKind::Grant, &grant.scope, &authority.signers(envelope))?;
    Ok(grant)
}

/// When a grant ends that holds for `agent`, here and in this epoch.
fn place_grant(grant: Grant, agent: &Scope, epoch: Digest, size: u64) -> Result<u64, GrantRefused> {
    if !grant.scope.covers(agent) {
        return Err(GrantRefused::Elsewhere(grant.scope));
    }
    if grant.seen_epoch != epoch {
        return Err(GrantRefused::OtherEpoch(grant.seen_epoch));
    }
    if grant.seen_size > size {
        return Err(GrantRefused::SeenAhead { seen: grant.seen_size, size });
    }
    Ok(grant.expires_at_ms)
}

fn check_bounds(view: &View) -> Result<(), LeaseRefused> {
    let unbounded = |what| Err(LeaseRefused::Unbounded(what));
    if view.locks.len() > LOCKS_PER_VIEW_MAX {
        return unbounded("locks in a view");
    }
    if view.grants.len() > GRANTS_PER_VIEW_MAX {
        return unbounded("grants in a view");
    }
    // No command has control characters, and people are shown these in terminals.
    let unfit = |text: &String, max: usize| text.len() > max || text.contains(char::is_control);
    let tag_unfit = |tag: &Tag| {
        unfit(&tag.reason, REASON_MAX_BYTES)
            || tag.case.as_ref().is_some_and(|case| unfit(case, CASE_MAX_BYTES))
            || tag.by.len() > SIGNATURES_MAX
            || tag.by.iter().any(|name| unfit(name, NAME_MAX_BYTES))
    };
    if view.locks.iter().any(|lock| tag_unfit(&lock.tag)) {
        return unbounded("a lock's tag");
    }
    Ok(())
}

/// When the guard's `now_ms` will reach `at_ms`, by the boot clock.
fn boot_ns_of(at_ms: u64, now: Now, now_ms: u64) -> u64 {
    now.boot_ns.saturating_add(at_ms.saturating_sub(now_ms).saturating_mul(NS_PER_MS))
}
