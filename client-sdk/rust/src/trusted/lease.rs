//! Leases: whether an answer is of our history, newer than all before it, and bound to our own question (S3, S5).

use tagout_proto::command::Deployment;
use tagout_proto::digest::Digest;
use tagout_proto::envelope::Envelope;
use tagout_proto::lease::{
    AgentRequest, KnownLock, Lease, LeaseError, LeaseRequest, LeaseResponse, LockAnswer, Unenrolled,
    leaf_hash_of,
};
use tagout_proto::limits::{
    CASE_MAX_BYTES, GRANTS_PER_SCOPE_MAX, NAME_MAX_BYTES, REASON_MAX_BYTES, SCOPE_SEGMENTS_MAX,
    SIGNATURES_MAX,
};
use tagout_proto::note::NoteError;
use tagout_proto::rule::RULE_VERSION;
use tagout_proto::scope::Scope;
use tagout_proto::sentence::sentence;
use tagout_proto::view::{Tag, View};

use super::agent::Held;
use super::clearance::{Clearance, ClearanceRefused};
use super::consent::Judge;
use super::{Asked, Floor, NS_PER_MS, Trusted};
use crate::clock::Now;
use crate::denied::Obstacle;
use crate::limits::*;

/// A view carries the grants of the agent's scope and of each above it.
const GRANTS_PER_VIEW_MAX: usize = GRANTS_PER_SCOPE_MAX * (SCOPE_SEGMENTS_MAX + 1);

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
    /// Trips of this process that the service does not know, with their scopes.
    pub untold: Vec<(Scope, Envelope)>,
    /// Some lock could be cleared by asking again at once.
    pub ask_again: bool,
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
    #[error("the lease was made under rule {found}, and this guard knows rule {RULE_VERSION}: upgrade {}", older(*.found))]
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

fn older(rule_version: u64) -> &'static str {
    if rule_version > RULE_VERSION { "this SDK" } else { "the service" }
}

impl LeaseRefused {
    /// Whether a newer trust chain might prove it.
    pub fn asks_for_proof(&self) -> bool {
        match self {
            // A node that an authority names which is not known here.
            Self::UnknownNode | Self::EpochUnproven { .. } | Self::AuthorityUnproven { .. } => true,
            Self::Lease(_)
            | Self::OtherDeployment(_)
            | Self::RuleVersion { .. }
            | Self::EpochRollback { .. }
            | Self::AuthorityRollback { .. }
            | Self::LogRollback { .. }
            | Self::LogForked { .. }
            | Self::Stale
            | Self::Misfit(_)
            | Self::Unbounded(_) => false,
        }
    }
}

impl Trusted {
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
        if !answer.instances.is_empty() && answer.instances.len() != agents.len() {
            return Err(LeaseRefused::Misfit("it tells the instances of another number of agents"));
        }
        let answers: Vec<_> = known.iter().map(|k| k.id).zip(answer.answers).collect();
        let scopes = agents.iter().map(|a| &a.scope);
        let leaf = leaf_hash_of(nonce, scopes.zip(digests.iter().copied()), &answers);
        lease.binds(leaf, answer.leaf_index, &answer.path)?;

        // Verified; from here on nothing fails.
        self.log = Some(Floor { size: lease.log_size, root: Some(lease.log_root) });
        self.lease_time = Some((lease.time_ms, asked.t0_ns));
        // The authority's people set these bounds; a node may only go below.
        let limits = self.trust.authority().limits;
        let ttl_ms = lease.ttl_ms.min(limits.ttl_ms);
        let grace_ms = lease.lapse_grace_ms.min(limits.lapse_grace_ms);
        let deadline_ns = asked.t0_ns.saturating_add(ttl_ms * NS_PER_MS);
        let held = Held { t0_ns: asked.t0_ns, deadline_ns, grace_ns: grace_ms * NS_PER_MS };
        self.take_views(agents, answer.views, &digests, &answer.unenrolled, held, now);
        for (at, asked) in agents.iter().enumerate() {
            if let Some(agent) = self.agents.get_mut(&asked.scope) {
                agent.instances = answer.instances.get(at).copied().unwrap_or_default();
            }
        }
        let mut accepted = Accepted {
            log_size: lease.log_size,
            ttl_ms,
            deadline_ns,
            cleared: Vec::new(),
            uncleared: Vec::new(),
            untold: Vec::new(),
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
        for node in &self.trust.authority().nodes {
            match Lease::open(note, &node.key) {
                Err(LeaseError::Note(NoteError::NotSigned(_))) => {}
                opened => return Ok(opened?),
            }
        }
        Err(LeaseRefused::UnknownNode)
    }

    /// Whether the lease is of our history, and no step back in it.
    fn check_place(&self, lease: &Lease) -> Result<(), LeaseRefused> {
        if lease.deployment != *self.deployment() {
            return Err(LeaseRefused::OtherDeployment(lease.deployment.clone()));
        }
        if lease.rule_version != RULE_VERSION {
            return Err(LeaseRefused::RuleVersion { found: lease.rule_version });
        }
        let epoch = self.trust.epoch();
        let (found, floor) = (lease.epoch_number, epoch.number);
        if found < floor {
            return Err(LeaseRefused::EpochRollback { found, floor });
        }
        if (found, lease.epoch) != (floor, epoch.id) {
            return Err(LeaseRefused::EpochUnproven { found, id: lease.epoch });
        }
        let authority = self.trust.authority();
        let (found, floor) = (lease.authority_version, authority.version);
        if found < floor {
            return Err(LeaseRefused::AuthorityRollback { found, floor });
        }
        if (found, lease.authority) != (floor, authority.digest) {
            return Err(LeaseRefused::AuthorityUnproven { found, digest: lease.authority });
        }
        self.check_kept(lease)?;
        let Some(Floor { size, root }) = self.log else { return Ok(()) };
        if lease.log_size < size {
            return Err(LeaseRefused::LogRollback { found: lease.log_size, floor: size });
        }
        if lease.log_size == size && root.is_some_and(|root| root != lease.log_root) {
            return Err(LeaseRefused::LogForked { size });
        }
        Ok(())
    }

    /// Whether the lease is no step back behind what an earlier process had accepted.
    fn check_kept(&self, lease: &Lease) -> Result<(), LeaseRefused> {
        let Some(kept) = self.kept else { return Ok(()) };
        let (found, floor) = (lease.epoch_number, kept.epoch);
        if found < floor {
            return Err(LeaseRefused::EpochRollback { found, floor });
        }
        if found == floor && lease.epoch != kept.epoch_id {
            return Err(LeaseRefused::EpochUnproven { found, id: lease.epoch });
        }
        let (found, floor) = (lease.authority_version, kept.authority);
        if found < floor {
            return Err(LeaseRefused::AuthorityRollback { found, floor });
        }
        if found == floor && lease.authority != kept.authority_digest {
            return Err(LeaseRefused::AuthorityUnproven { found, digest: lease.authority });
        }
        // A restore resets the size.
        if lease.epoch_number > kept.epoch {
            return Ok(());
        }
        if lease.log_size < kept.size {
            return Err(LeaseRefused::LogRollback { found: lease.log_size, floor: kept.size });
        }
        if lease.log_size == kept.size && kept.root.is_some_and(|root| root != lease.log_root) {
            return Err(LeaseRefused::LogForked { size: kept.size });
        }
        Ok(())
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
                let ours = match self.agents.get(&asked.scope) {
                    Some(agent) => agent.view.filter(|own| Some(*own) == asked.view),
                    // Given up meanwhile: bound like the others, and believed by nobody.
                    None => asked.view,
                };
                ours.ok_or(LeaseRefused::Misfit("a view is left out that the guard does not have"))
            }
        };
        agents.iter().zip(views).map(digest).collect()
    }

    fn take_views(
        &mut self,
        agents: &[AgentRequest],
        views: Vec<Option<View>>,
        digests: &[Digest],
        unenrolled: &[Unenrolled],
        held: Held,
        now: Now,
    ) {
        let size = self.log_size();
        let mut judge = Judge::new(&self.trust, &self.revoked, size);
        for ((asked, view), digest) in agents.iter().zip(views).zip(digests) {
            // Given up meanwhile.
            let Some(agent) = self.agents.get_mut(&asked.scope) else { continue };
            agent.unenrolled =
                unenrolled.iter().find(|u| u.agent == asked.scope).map(|u| sentence(&u.why).into());
            if agent.unenrolled.is_none() {
                agent.lease = Some(held);
            }
            let Some(view) = view else { continue };
            agent.view = Some(*digest);
            agent.changed = self.asks;
            let (mut consents, mut refused) = (Vec::new(), Vec::new());
            for grant in &view.grants {
                match judge.place(grant, &asked.scope) {
                    Ok(consent) => consents.push(consent),
                    Err(why) => refused.push(why),
                }
            }
            (agent.consents, agent.refused) = (consents, refused.into());
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
            LockAnswer::Cleared { placed, release, start } => {
                let cleared = Clearance { trust: &self.trust, id, agent: &known.agent };
                match cleared.verify(&placed, &release, start.as_ref()) {
                    Ok(()) => {
                        // Ended for all that it covers, it holds nobody who comes later.
                        let whole = lock.scope.clone();
                        let for_all = Clearance { agent: &whole, ..cleared };
                        if self.delivered.contains_key(&id)
                            && for_all.verify(&placed, &release, start.as_ref()).is_ok()
                        {
                            self.delivered.remove(&id);
                        }
                        agent.clear(id);
                        self.latched -= 1;
                        accepted.cleared.push((id, known.agent.clone()));
                    }
                    Err(why) => {
                        lock.held = Some(Obstacle::Unproven(why.clone()));
                        accepted.uncleared.push((id, known.agent.clone(), why));
                    }
                }
            }
            LockAnswer::Held { why } => {
                lock.held = Some(Obstacle::Service(sentence(why)));
            }
            LockAnswer::SendDocument => match lock.as_trip() {
                // It takes a token, which a lease may not.
                Some(trip) => accepted.untold.push((lock.scope.clone(), trip.clone())),
                None => {
                    lock.wanted = true;
                    accepted.ask_again |= lock.signed.is_some() && known.document.is_none();
                }
            },
        }
    }
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
