//! What a guard believes, and why: bytes in, verified in order, rollback refused. No I/O, no clock, no randomness.
//!
//! Everything starts from the pinned genesis. A node is believed when it takes away; when it gives, the signatures of
//! people are verified here (S5). A lock that was ever seen stays latched until its release, and after a halt or drain
//! its start, have been verified here too (S2). What is bounded denies when it overflows.

mod agent;
mod chain;
mod clearance;
mod consent;
mod kept;
mod latch;
mod lease;
mod push;

use std::collections::BTreeMap;

use tagout_proto::authority::{AuthorityError, Limits};
use tagout_proto::command::Deployment;
use tagout_proto::digest::Digest;
use tagout_proto::envelope::Envelope;
use tagout_proto::lease::{AgentRequest, KnownLock, LeaseRequest};
use tagout_proto::limits::KNOWN_PER_LEASE_MAX;
use tagout_proto::scope::Scope;
use tagout_proto::trust::Trust;

pub use self::agent::{Essential, JudgedLock, Judgement};
pub use self::chain::ChainRefused;
pub use self::clearance::ClearanceRefused;
pub use self::kept::KeptError;
pub use self::lease::{Accepted, LeaseRefused};
pub use self::push::PushRefused;
pub use tagout_proto::trust::GrantRefused;

use self::agent::Agent;
use self::consent::{Judge, Revoked};
use self::kept::Floors;
use self::latch::Latched;
use crate::clock::Now;
use crate::denied::Reason;
use crate::limits::*;

const NS_PER_MS: u64 = 1_000_000;

/// The trusted set of one client.
#[derive(Clone)]
pub struct Trusted {
    /// As the genesis left it: every chain is verified from here on.
    genesis: Trust,
    trust: Trust,
    /// The floor: the newest log that a verified lease was read from, or where a restore began.
    log: Option<Floor>,
    /// What an earlier process had accepted.
    kept: Option<Floors>,
    /// Why nothing counts, as long as this process lives.
    denied: Option<Reason>,
    /// The newest lease's time at its node, and the moment its nonce was made.
    lease_time: Option<(u64, u64)>,
    /// Only leases with a nonce made after this count, and why.
    newer_than: Option<(u64, Reason)>,
    revoked: Revoked,
    /// The halt of the restore that began this epoch: agents that come later are under it too.
    restored: Option<(Digest, Latched)>,
    /// Locks that came past the service: agents that come later are under them too.
    delivered: BTreeMap<Digest, Latched>,
    /// One came that there was no room for.
    delivered_overflowed: bool,
    agents: BTreeMap<Scope, Agent>,
    latched: usize,
    asks: u64,
}

#[derive(Clone, Copy)]
struct Floor {
    size: u64,
    /// Unknown where a restore began.
    root: Option<Digest>,
}

/// A lease request as it was made, and when its nonce was.
#[derive(Clone, Debug)]
pub struct Asked {
    pub request: LeaseRequest,
    /// The moment the nonce was made, by the boot clock: the permission dates from here (S3).
    pub t0_ns: u64,
}

impl Trusted {
    /// Trusts the genesis that `pinned` names, and nothing else.
    pub fn new(genesis: &Envelope, pinned: Digest) -> Result<Self, AuthorityError> {
        let genesis = Trust::begin(genesis, pinned)?;
        Ok(Self {
            trust: genesis.clone(),
            genesis,
            log: None,
            kept: None,
            denied: None,
            lease_time: None,
            newer_than: None,
            revoked: Revoked::default(),
            restored: None,
            delivered: BTreeMap::new(),
            delivered_overflowed: false,
            agents: BTreeMap::new(),
            latched: 0,
            asks: 0,
        })
    }

    pub fn deployment(&self) -> &Deployment {
        self.trust.deployment()
    }

    pub fn limits(&self) -> Limits {
        self.trust.authority().limits
    }

    /// Whom it believes.
    pub fn trust(&self) -> &Trust {
        &self.trust
    }

    /// The size below which no log is accepted.
    pub fn log_size(&self) -> u64 {
        self.log.map_or(0, |floor| floor.size)
    }

    /// Begins to hold beliefs about `agent`.
    pub fn add(&mut self, agent: Scope) {
        if self.agents.contains_key(&agent) {
            return;
        }
        let mut new = Agent::default();
        let delivered = self.delivered.iter().filter(|(_, lock)| lock.scope.covers(&agent));
        for (id, lock) in delivered.chain(self.restored.iter().map(|(id, lock)| (id, lock))) {
            self.latched += usize::from(new.latch_signed(*id, lock, self.latched));
        }
        if self.delivered_overflowed {
            new.overflow();
        }
        self.agents.insert(agent, new);
    }

    /// Forgets `agent`, unless a lock is latched on it: those are never forgotten.
    pub fn forget(&mut self, agent: &Scope) {
        if self.agents.get(agent).is_some_and(Agent::is_free) {
            self.agents.remove(agent);
        }
    }

    /// Whether `lock` ended for an agent, and holds none any more.
    pub fn has_ended(&self, lock: &Digest) -> bool {
        self.agents.values().any(|agent| agent.cleared.contains(lock))
            && !self.agents.values().any(|agent| agent.latched.contains_key(lock))
    }

    /// Whether a lease for `agent` was accepted or refused, ever.
    pub fn answered(&self, agent: &Scope) -> bool {
        self.agents.get(agent).is_some_and(|a| a.lease.is_some() || a.unenrolled.is_some())
    }

    /// Takes a node's word that this process is not enrolled for `agents`: a node may deny without proof. They stay denied
    /// until a lease for them is accepted, and calls under way are cut as by a lapse.
    pub fn unenrolled(&mut self, agents: &[Scope], why: &str) {
        for agent in agents {
            if let Some(agent) = self.agents.get_mut(agent) {
                agent.unenrolled = Some(why.into());
            }
        }
    }

    /// From here on only leases whose nonce was made after `boot_ns` count.
    pub fn require_newer(&mut self, boot_ns: u64, why: Reason) {
        self.newer_than = Some((boot_ns, why));
    }

    /// Denies everything as long as this process lives.
    pub fn deny_for_good(&mut self, why: Reason) {
        self.denied = Some(why);
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
        let mut sent = 0;
        let known = chosen
            .into_iter()
            .map(|(scope, id)| {
                let agent = self.agents.get_mut(&scope).expect("chosen from it");
                let lock = agent.latched.get_mut(&id).expect("chosen from it");
                lock.asked = self.asks;
                let send = lock.wanted && lock.signed.is_some() && sent < DOCUMENTS_PER_REQUEST_MAX;
                sent += usize::from(send);
                let document = lock.signed.as_deref().filter(|_| send).cloned();
                KnownLock { id, agent: scope, document }
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

    /// What `agent` may do now.
    pub fn judge(&self, agent: &Scope, now: Now) -> Judgement {
        if let Some(why) = &self.denied {
            return Judgement::denied(why.clone());
        }
        match self.agents.get(agent) {
            found if self.revoked.overflowed => Judgement {
                isolated: found.is_some_and(|agent| agent.isolated(now, self.now_ms(now))),
                ..Judgement::denied(Reason::TooManyRevokes)
            },
            Some(agent) => agent.judge(now, self.now_ms(now), self.newer_than.as_ref()),
            None => Judgement::denied(Reason::NotReady { last_error: None }),
        }
    }

    /// The later of the service's clock, carried on by the boot clock, and the host's own: a bad clock only denies.
    fn now_ms(&self, now: Now) -> u64 {
        let service_ms = self.lease_time.map_or(0, |(time_ms, t0_ns)| {
            time_ms.saturating_add(now.boot_ns.saturating_sub(t0_ns) / NS_PER_MS)
        });
        service_ms.max(now.wall_ms)
    }

    /// Judges every grant that is held once more: nothing stays allowed by what is not trusted any longer.
    fn judge_again(&mut self) {
        let size = self.log_size();
        let mut judge = Judge::new(&self.trust, &self.revoked, size);
        for (scope, agent) in &mut self.agents {
            let mut refused = agent.refused.to_vec();
            agent.consents.retain(|consent| match judge.place(consent.envelope(), scope) {
                Ok(_) => true,
                Err(why) => {
                    refused.push(why);
                    false
                }
            });
            if refused.len() != agent.refused.len() {
                agent.refused = refused.into();
            }
        }
    }

    fn deliver(&mut self, id: Digest, lock: &Latched) {
        if self.delivered.len() < DELIVERED_MAX {
            self.delivered.insert(id, lock.clone());
        } else if !self.delivered.contains_key(&id) {
            self.delivered_overflowed = true;
        }
    }

    /// Latches a signed lock on every agent below `lock.scope` but those for which it has ended. Gives them, in order.
    fn latch(&mut self, id: Digest, lock: &Latched) -> Vec<Scope> {
        let mut covered = Vec::new();
        for (scope, agent) in self.agents.iter_mut().filter(|(scope, _)| lock.scope.covers(scope)) {
            // Its release and start were verified here: the same bytes never stop twice.
            if agent.cleared.contains(&id) {
                continue;
            }
            self.latched += usize::from(agent.latch_signed(id, lock, self.latched));
            covered.push(scope.clone());
        }
        covered
    }
}

/// When the guard's `now_ms` will reach `at_ms`, by the boot clock.
fn boot_ns_of(at_ms: u64, now: Now, now_ms: u64) -> u64 {
    now.boot_ns.saturating_add(at_ms.saturating_sub(now_ms).saturating_mul(NS_PER_MS))
}
