//! The node among its peers. Whoever leads is nobody else's business: what is proposed or read here finds its way.
//! Step ③ of a stop goes through here.
//!
//! Nodes ask one another every half second how they are: their clocks, how far their logs are and the roots, and whether
//! they serve (exchange.rs). From this follow three rules. A node whose clock is off, or whose log is not the majority's,
//! gives nothing and does not lead (exchange.rs, compare.rs). The leader makes Raft's members those of the committed
//! authority, one at a time, and a new rule of verdicts comes into force once every voter supports it (members.rs).

mod answers;
mod compare;
mod exchange;
mod members;
mod sharing;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use futures_util::future::join_all;
use parking_lot::Mutex;
use tagout_proto::digest::Digest;
use tagout_proto::envelope::Envelope;
use tagout_proto::ledger::Proposal;
use tagout_proto::log::entry::EntryKind;
use tagout_proto::scope::Scope;
use tagout_proto::wire::{self, ClusterNode, NodeNews, NodeRole};
use tokio::time::Instant;

use self::answers::HandedOn;
pub use self::compare::PeerLogs;
use self::exchange::CLOCK_OFF_MAX_MS;
pub use self::exchange::{NodeState, Seen};
use crate::audit::AuditReader;
use crate::clock;
use crate::divergence::{Divergence, Verdict};
use crate::instances::Instances;
use crate::notify::Notifications;
use crate::outcomes::Outcomes;
use crate::peers::{Kind, Member, Peers};
use crate::raft::{Consensus, ProposeError, ReadError, Status};
use crate::replica::{Answer, Replica};
use crate::reserve::{DiskRefused, Need, Reserve, proposal_bytes};
use crate::seed::Ground;

/// What a node has said of itself counts for so long.
const SEEN_FOR: Duration = Duration::from_secs(5);
/// How long the leader has for a command that was handed on to it. Its own answer comes sooner; this is for its silence.
const FORWARD_TIMEOUT: Duration = Duration::from_secs(3);
const READ_INDEX_TIMEOUT: Duration = Duration::from_millis(500);
/// How long a read waits for a leader: an election is over sooner, a majority that is gone does not come back sooner.
const READ_PATIENCE: Duration = Duration::from_millis(1_500);
/// The pause where a new leader must first be found.
const RETRY_PAUSE: Duration = Duration::from_millis(20);
const INSTANCES_TIMEOUT: Duration = Duration::from_millis(300);

pub struct Cluster {
    pub id: u64,
    pub consensus: Consensus,
    pub peers: Arc<Peers>,
    pub replica: Arc<Replica>,
    pub audit: AuditReader,
    pub instances: Arc<Instances>,
    pub outcomes: Arc<Outcomes>,
    pub reserve: Arc<Reserve>,
    pub notifications: Arc<Notifications>,
    pub seen: Mutex<BTreeMap<u64, Seen>>,
    pub divergence: Mutex<Divergence>,
    /// The newest rule of verdicts that this node may support: its build knows it, and its configuration allows it.
    pub rule_known: u64,
    /// What the node is still at since its start: no leases until then.
    pub withheld: Mutex<Option<String>>,
    /// The last that was said of logs that differ, and how.
    pub said: Mutex<Option<(Verdict, String)>>,
    /// Set once everything that was committed before this start is applied.
    pub recovered: AtomicBool,
}

/// Why a proposal was not committed.
#[derive(Debug, thiserror::Error)]
pub enum NotCommitted {
    #[error(transparent)]
    Consensus(#[from] ProposeError),
    #[error(transparent)]
    Disk(#[from] DiskRefused),
    /// It gives, and this node's log is not the others' (S8).
    #[error("this node takes only what takes away: {0}")]
    Differs(String),
}

impl Cluster {
    /// ③ Has a proposal committed, wherever the leader is, and gives the answer of the state machine. It tries for as long
    /// as it is polled: proposing the same document again is safe, since a document takes effect once.
    pub async fn propose(
        &self,
        need: Need,
        kind: EntryKind,
        envelope: &Envelope,
    ) -> Result<Answer, NotCommitted> {
        self.may_take(need)?;
        loop {
            let leader = match self.propose_here(need, kind, envelope).await {
                Err(NotCommitted::Consensus(ProposeError::NotLeader { leader })) => leader,
                Err(NotCommitted::Consensus(ProposeError::Unknown { .. })) => None,
                answered => return answered,
            };
            if let Some(leader) = leader.filter(|leader| *leader != self.id) {
                let request = (need, kind, envelope);
                match self.peers.ask(leader, Kind::Propose, &request, FORWARD_TIMEOUT).await {
                    Ok(HandedOn::Answered(answer, index)) => {
                        // Whoever reads here afterwards finds what was answered. It is true in any case.
                        let _ = self.applied(index).await;
                        return Ok(answer);
                    }
                    Ok(HandedOn::Disk(refused)) => return Err(refused.into()),
                    Ok(HandedOn::Failed(said)) => {
                        tracing::debug!(leader, said, "a proposal was handed on in vain")
                    }
                    Ok(HandedOn::Again) => {}
                    Err(error) => tracing::debug!(%error, "a proposal could not be handed on"),
                }
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    /// As the leader: the entry bears this node's time, and this node's disk must have room for it.
    async fn propose_here(
        &self,
        need: Need,
        kind: EntryKind,
        envelope: &Envelope,
    ) -> Result<Answer, NotCommitted> {
        if !self.consensus.is_leader() {
            return Err(ProposeError::NotLeader { leader: self.consensus.leader() }.into());
        }
        self.may_take(need)?;
        let proposal = Proposal { kind, time_ms: clock::wall_ms(), envelope: envelope.clone() };
        let room = self.reserve.admit(need, proposal_bytes(&proposal), self.audit.checkpointed_size())?;
        // Entries that the disk of the audit log has not taken yet are held in memory: a bound on them.
        let size = self.replica.ledger().size();
        self.audit.keep_up(size).await;
        let answer = self.consensus.propose(Replica::encode(&proposal)).await?;
        let answer = Replica::decode_answer(&answer).map_err(ProposeError::strange)?;
        if let Ok(receipt) = &answer {
            room.until_logged(receipt.index);
        }
        Ok(answer)
    }

    /// When this returns, the state here includes everything that was acknowledged anywhere before the call (S3): the
    /// leader confirms with a majority how far the log was committed, and this node waits until it has applied as much.
    pub async fn read_barrier(&self) -> Result<(), ReadError> {
        let began = Instant::now();
        loop {
            let failed = match self.consensus.read_index().await {
                Ok(index) => return self.applied(index).await,
                Err(ReadError::NotLeader { leader: Some(leader) }) if leader != self.id => {
                    match self.peers.ask::<_, u64>(leader, Kind::ReadIndex, &(), READ_INDEX_TIMEOUT).await {
                        Ok(index) => return self.applied(index).await,
                        Err(error) => ReadError::NoQuorum { source: Box::new(error) },
                    }
                }
                Err(error @ ReadError::Stopped { .. }) => return Err(error),
                Err(error) => error,
            };
            if began.elapsed() >= READ_PATIENCE {
                return Err(failed);
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    /// A node that is behind says so, and its guards ask another one meanwhile.
    async fn applied(&self, index: u64) -> Result<(), ReadError> {
        let applied = tokio::time::timeout(READ_PATIENCE, self.consensus.applied(index)).await;
        applied.unwrap_or(Err(ReadError::Behind))
    }

    /// Whether this node may sign leases now, apart from its read: why not, in words.
    pub fn may_lease(&self) -> Result<(), String> {
        if let Some(why) = self.withheld.lock().clone() {
            return Err(why);
        }
        self.may_give()?;
        if !self.audit.complete() {
            let missing = self.audit.missing();
            return Err(format!(
                "it is fetching {missing} entries of the log from other nodes; it goes on by itself"
            ));
        }
        let off_ms = self.clock_off_ms();
        if off_ms.abs() > CLOCK_OFF_MAX_MS {
            return Err(format!(
                "this node's clock is {} ms {} the median of the voters': set it right (chrony or NTP), and it goes on by \
                 itself",
                off_ms.abs(),
                if off_ms > 0 { "behind" } else { "ahead of" }
            ));
        }
        Ok(())
    }

    fn voters(&self) -> Vec<u64> {
        self.consensus.members().into_iter().filter(|(_, _, votes)| *votes).map(|(id, _, _)| id).collect()
    }

    /// What takes away is taken on a wrong log, too (S10); what gives is not, since that log may lack a lock (S8).
    fn may_take(&self, need: Need) -> Result<(), NotCommitted> {
        match need {
            Need::Stop | Need::Trip => Ok(()),
            Need::Other => self.may_give().map_err(NotCommitted::Differs),
        }
    }

    /// Whether this node's log is one with the others', as far as is known: why not, in words.
    pub fn may_give(&self) -> Result<(), String> {
        // The judgement itself: nothing else may set or clear it, not the end of a start either.
        let verdict = self.divergence.lock().verdict();
        if verdict.may_serve() {
            return Ok(());
        }
        let said = self.said.lock().clone().filter(|(said, _)| *said == verdict);
        Err(said.map_or_else(|| verdict.to_string(), |(_, words)| words))
    }

    /// The nodes, as this one sees them: those of the authority, and those that Raft has yet to leave.
    pub fn view(&self) -> wire::Cluster {
        let raft = self.consensus.status();
        let heard = |id: u64| {
            let (state, ms_ago, clock_offset_ms) = if id == self.id {
                (self.state(), 0, 0)
            } else {
                let seen = self.seen.lock();
                let seen = seen.get(&id).filter(|seen| seen.at.elapsed() < SEEN_FOR)?;
                (seen.state.clone(), seen.at.elapsed().as_millis() as u64, seen.offset_ms)
            };
            let NodeState { ready, log_size, build: version, rule_known: rule_version, .. } = state;
            Some(NodeNews { ms_ago, ready, log_size, clock_offset_ms, version, rule_version })
        };
        let mut nodes: BTreeMap<u64, ClusterNode> = BTreeMap::new();
        for (id, Member { name, address, .. }, _) in self.consensus.members() {
            let address = (!address.is_empty()).then_some(address);
            nodes.insert(id, ClusterNode { id, name, address, role: NodeRole::Removed, heard: heard(id) });
        }
        let listed = self.replica.ledger().authority().map(|a| a.nodes.clone()).unwrap_or_default();
        for node in listed {
            let role = if node.learner { NodeRole::Learner } else { NodeRole::Voter };
            let (id, name, address) = (node.id, node.key.name, node.address);
            nodes.insert(id, ClusterNode { id, name, address, role, heard: heard(id) });
        }
        wire::Cluster {
            node: self.id,
            leader: raft.leader,
            term: raft.term,
            voters: raft.voters.into_iter().collect(),
            nodes: nodes.into_values().collect(),
        }
    }

    pub fn status(&self) -> Status {
        self.consensus.status()
    }

    /// Instances at or below `scope` that any node has seen within `within`, and how many nodes did not say.
    pub async fn instances_below(
        &self,
        scope: &Scope,
        within: Duration,
    ) -> (Vec<(Scope, wire::Instance)>, u64) {
        let mut found: BTreeMap<(Scope, String), u64> = BTreeMap::new();
        let request = (scope, within.as_millis() as u64);
        let asked = self.peers.others().into_iter().map(|id| {
            let request = &request;
            async move {
                self.peers
                    .ask::<_, Vec<(Scope, wire::Instance)>>(id, Kind::Instances, request, INSTANCES_TIMEOUT)
                    .await
            }
        });
        let answers = join_all(asked).await;
        let unheard = answers.iter().filter(|answer| answer.is_err()).count() as u64;
        let others = answers.into_iter().flatten().flatten();
        for (agent, instance) in self.instances.below(scope, within).into_iter().chain(others) {
            let seen = found.entry((agent, instance.instance)).or_insert(instance.seen_ms_ago);
            *seen = instance.seen_ms_ago.min(*seen);
        }
        let instance = |((agent, instance), seen_ms_ago)| (agent, wire::Instance { instance, seen_ms_ago });
        (found.into_iter().map(instance).collect(), unheard)
    }
}

/// What a deployment begins with grows in the log of its first node, which leads itself.
impl Ground for Cluster {
    fn tree(&self) -> (u64, Digest) {
        let ledger = self.replica.ledger();
        (ledger.size(), ledger.frontier().root())
    }

    async fn commit(&self, proposals: Vec<Proposal>) -> anyhow::Result<Vec<Answer>> {
        let size = self.replica.ledger().size();
        self.audit.keep_up(size).await;
        let answers = self.consensus.propose_all(proposals.iter().map(Replica::encode).collect()).await?;
        Ok(answers.iter().map(|answer| Replica::decode_answer(answer)).collect::<io::Result<_>>()?)
    }
}
