//! The node among its peers. Whoever leads is nobody else's business: what is proposed or read here finds its way.
//! Step ③ of a stop goes through here.
//!
//! Nodes ask one another every half second how they are (peers.rs carries it): their clocks, how far their logs are and
//! the roots, and whether they serve. From this follow three rules. A node whose clock is off signs no leases and does not
//! lead. The leader makes Raft's members those of the committed authority, one at a time. And a new rule of verdicts comes
//! into force once every voter supports it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::{BoxFuture, join_all};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tagout_proto::digest::Digest;
use tagout_proto::envelope::Envelope;
use tagout_proto::ledger::Proposal;
use tagout_proto::log::entry::EntryKind;
use tagout_proto::log::tile::TileId;
use tagout_proto::scope::Scope;
use tagout_proto::wire::{self, ClusterNode, NodeNews, NodeRole};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::audit::{self, AuditReader, Side, Tiles, Tree, first_difference};
use crate::clock;
use crate::divergence::{Claim, Differs, Divergence, Verdict};
use crate::instances::Instances;
use crate::outcomes::{News, Outcomes};
use crate::peers::{CallError, Handler, Kind, Member, Peers, decode, encode};
use crate::raft::{Change, Consensus, ProposeError, ReadError, Status};
use crate::replica::{Answer, Replica};
use crate::reserve::{DiskRefused, Need, Reserve, proposal_bytes};
use crate::seed::Ground;

/// How often nodes ask one another how they are.
const EXCHANGE_EVERY: Duration = Duration::from_millis(500);
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(1);
/// What a node has said of itself counts for so long.
const SEEN_FOR: Duration = Duration::from_secs(5);
/// How far a node's clock may be from the median of the voters'.
const CLOCK_OFF_MAX_MS: i64 = 2_000;
/// How long the leader has for a command that was handed on to it. Its own answer comes sooner; this is for its silence.
const FORWARD_TIMEOUT: Duration = Duration::from_secs(3);
const READ_INDEX_TIMEOUT: Duration = Duration::from_millis(500);
/// How long a read waits for a leader: an election is over sooner, a majority that is gone does not come back sooner.
const READ_PATIENCE: Duration = Duration::from_millis(1_500);
/// The pause where a new leader must first be found.
const RETRY_PAUSE: Duration = Duration::from_millis(20);
/// How long the news of a stop's account wait for others, to be told together.
const NEWS_GATHERED: Duration = Duration::from_millis(10);
const INSTANCES_TIMEOUT: Duration = Duration::from_millis(300);
/// A learner that lacks no more entries than this may vote: it catches up with the rest in a moment.
const PROMOTE_LAG_MAX: u64 = 64;
/// Steps towards the authority's members that one round takes.
const STEPS_AT_ONCE: usize = 8;
/// How long handing over the leadership may take before a node ends all the same.
const HAND_OVER_PATIENCE: Duration = Duration::from_secs(2);

pub struct Cluster {
    pub id: u64,
    pub consensus: Consensus,
    pub peers: Arc<Peers>,
    pub replica: Arc<Replica>,
    pub audit: AuditReader,
    pub instances: Arc<Instances>,
    pub outcomes: Arc<Outcomes>,
    pub reserve: Arc<Reserve>,
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

/// What a node says of itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NodeState {
    pub time_ms: u64,
    pub log_size: u64,
    pub log_root: Digest,
    /// It can issue leases.
    pub ready: bool,
    /// The newest rule of verdicts that it may support.
    pub rule_known: u64,
    pub build: String,
}

/// What was last heard from a node.
#[derive(Clone, Debug)]
pub struct Seen {
    pub at: Instant,
    pub state: NodeState,
    /// Its clock minus this node's.
    pub offset_ms: i64,
}

/// Why a proposal was not committed.
#[derive(Debug, thiserror::Error)]
pub enum NotCommitted {
    #[error(transparent)]
    Consensus(#[from] ProposeError),
    #[error(transparent)]
    Disk(#[from] DiskRefused),
}

/// The answer to a proposal that was handed on.
#[derive(Serialize, Deserialize)]
enum HandedOn {
    /// What the state machine answered, and how far Raft's log was applied then.
    Answered(Answer, u64),
    /// The leader's disk has no room for it.
    Disk(DiskRefused),
    /// Nothing is known of it: try again.
    Again,
    Failed(String),
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
        // The judgement itself: nothing else may set or clear it, not the end of a start either.
        let verdict = self.divergence.lock().verdict();
        if !verdict.may_serve() {
            let said = self.said.lock().clone().filter(|(said, _)| *said == verdict);
            return Err(said.map_or_else(|| verdict.to_string(), |(_, words)| words));
        }
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

    /// The median of the voters' clocks minus this node's, as far as they were heard of.
    fn clock_off_ms(&self) -> i64 {
        let voters: Vec<u64> = self.voters();
        let seen = self.seen.lock();
        let heard = seen.iter().filter(|(id, seen)| voters.contains(id) && seen.at.elapsed() < SEEN_FOR);
        median_ms(heard.map(|(_, seen)| seen.offset_ms).collect())
    }

    fn voters(&self) -> Vec<u64> {
        self.consensus.members().into_iter().filter(|(_, _, votes)| *votes).map(|(id, _, _)| id).collect()
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

    /// Instances at or below `scope` that any node has seen within `within`. A node that does not answer is passed over.
    pub async fn instances_below(&self, scope: &Scope, within: Duration) -> Vec<(Scope, wire::Instance)> {
        let mut found: BTreeMap<(Scope, String), u64> = BTreeMap::new();
        let request = (scope, within.as_millis() as u64);
        let asked = self.peers.others().into_iter().map(|id| {
            let request = &request;
            async move {
                self.peers
                    .ask::<_, Vec<(Scope, wire::Instance)>>(id, Kind::Instances, request, INSTANCES_TIMEOUT)
                    .await
                    .unwrap_or_default()
            }
        });
        let others = join_all(asked).await.into_iter().flatten();
        for (agent, instance) in self.instances.below(scope, within).into_iter().chain(others) {
            let seen = found.entry((agent, instance.instance)).or_insert(instance.seen_ms_ago);
            *seen = instance.seen_ms_ago.min(*seen);
        }
        let instance = |((agent, instance), seen_ms_ago)| (agent, wire::Instance { instance, seen_ms_ago });
        found.into_iter().map(instance).collect()
    }

    /// Tells every other node what is new of stops' accounts. What does not arrive leaves an instance bounded instead of
    /// confirmed there, which is true as well.
    pub async fn tell_news(self: Arc<Self>, mut news: tokio::sync::mpsc::UnboundedReceiver<News>) {
        const AT_ONCE: usize = 256;
        let mut batch = Vec::new();
        while let Some(first) = news.recv().await {
            // Most stops come with many others, or with confirmations: one call for all of a moment.
            tokio::time::sleep(NEWS_GATHERED).await;
            batch.push(first);
            while batch.len() < AT_ONCE
                && let Ok(more) = news.try_recv()
            {
                batch.push(more);
            }
            let request = Arc::new(encode(&batch));
            batch.clear();
            let told = self.peers.others().into_iter().map(|id| {
                let (peers, request) = (self.peers.clone(), request.clone());
                async move { drop(peers.call(id, Kind::Accounts, request.to_vec(), EXCHANGE_TIMEOUT).await) }
            });
            // Those that are gone must not hold up the others' news.
            tokio::spawn(join_all(told));
        }
    }

    /// Asks the others how they are, for as long as the node runs.
    pub async fn exchange(self: Arc<Self>, shutdown: CancellationToken) {
        let mut tick = tokio::time::interval(EXCHANGE_EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while shutdown.run_until_cancelled(tick.tick()).await.is_some() {
            self.follow_authority();
            for id in self.peers.others() {
                let cluster = self.clone();
                tokio::spawn(async move { cluster.exchange_with(id).await });
            }
            if self.status().is_leader {
                self.step_aside_for_a_right_clock().await;
                self.reconcile().await;
                self.raise_the_rule().await;
            }
        }
    }

    async fn exchange_with(self: &Arc<Self>, id: u64) {
        let (began, sent_ms) = (Instant::now(), clock::wall_ms());
        let asked = self.peers.ask::<_, NodeState>(id, Kind::Status, &self.state(), EXCHANGE_TIMEOUT).await;
        match asked {
            Ok(state) => {
                // Theirs was read in the middle of the way there and back, give or take half of it.
                let middle_ms = sent_ms.saturating_add(began.elapsed().as_millis() as u64 / 2);
                let offset_ms = state.time_ms.saturating_as_i64() - middle_ms.saturating_as_i64();
                self.outcomes.heard(id);
                let claim = Claim { node: id, size: state.log_size, root: state.log_root };
                self.seen.lock().insert(id, Seen { at: Instant::now(), state, offset_ms });
                self.compare(claim).await;
            }
            Err(error) => tracing::debug!(%error, "a peer does not say how it is"),
        }
    }

    /// Holds what a peer says of its log against this node's (S8). A node that differs from the majority, or cannot tell
    /// who is right, signs no leases from here on.
    async fn compare(self: &Arc<Self>, claim: Claim) {
        if claim.size == 0 {
            return;
        }
        let cluster = self.clone();
        // A size of long ago takes a few tiles from the disk.
        let heard = crate::blocking(move || {
            let mut divergence = cluster.divergence.lock();
            divergence.hear(claim, |size| cluster.audit.root_at(size))?;
            Ok(divergence.verdict())
        });
        let verdict = match heard.await {
            Ok(verdict) => verdict,
            Err(error) => return tracing::error!(%error, "the root of this node's own log cannot be read"),
        };
        metrics::gauge!("tagout_log_diverged").set(match verdict {
            Verdict::Agree | Verdict::Waiting { .. } => 0.0,
            Verdict::OthersDiffer { .. } | Verdict::NoMajority { .. } | Verdict::ThisDiffers { .. } => 1.0,
        });
        let nodes = match &verdict {
            Verdict::Agree | Verdict::Waiting { .. } => return self.differs_no_more(),
            Verdict::OthersDiffer { nodes }
            | Verdict::ThisDiffers { nodes }
            | Verdict::NoMajority { nodes } => nodes,
        };
        if self.said.lock().as_ref().is_some_and(|(said, _)| *said == verdict) {
            return;
        }
        // Said, and acted upon, before the entry is looked for: that takes answers of the other node.
        let mut text = verdict.to_string();
        *self.said.lock() = Some((verdict.clone(), text.clone()));
        match self.first_difference(nodes[0]).await {
            Ok(Some(index)) => text.push_str(&format!(". The first entry that differs is {index}")),
            Ok(None) => {}
            Err(error) => tracing::warn!(error, "where the logs begin to differ could not be found"),
        }
        tracing::error!("{text}");
        if let Some((_, words)) = self.said.lock().as_mut().filter(|(said, _)| *said == verdict) {
            *words = text;
        }
    }

    fn differs_no_more(&self) {
        if self.said.lock().take().is_some() {
            tracing::info!("the logs of the nodes are one log again");
        }
    }

    /// The first entry that a peer has otherwise, found over the hash tiles of both.
    async fn first_difference(&self, differs: Differs) -> Result<Option<u64>, String> {
        let (size, id) = (differs.size, differs.node);
        let root_there: Option<Digest> = self
            .peers
            .ask(id, Kind::Root, &size, EXCHANGE_TIMEOUT)
            .await
            .map_err(|error| error.to_string())?;
        let root_here = self.audit.root_at(size).map_err(|error| error.to_string())?;
        let (Some(here), Some(there)) = (root_here, root_there) else { return Ok(None) };
        let mut ours = Tree::open(OwnTiles(&self.audit), size, here).await.map_err(|e| e.to_string())?;
        let mut theirs =
            Tree::open(PeerTiles(&self.peers, id), size, there).await.map_err(|e| e.to_string())?;
        first_difference(&mut ours, &mut theirs).await.map_err(|(side, error)| match side {
            Side::Shorter => format!("this node: {error}"),
            Side::Longer => format!("node {id}: {error}"),
        })
    }

    /// Addresses and keys as the authority has them; whoever it does not list, and Raft neither, is no peer any more.
    fn follow_authority(&self) {
        let members: Vec<u64> = self.consensus.members().iter().map(|(id, _, _)| *id).collect();
        let ledger = self.replica.ledger();
        let Some(authority) = ledger.authority() else { return };
        self.peers.know_authority(authority);
        let listed = |id: u64| authority.nodes.iter().any(|node| node.id == id) || members.contains(&id);
        self.peers.forget_others(listed);
        self.seen.lock().retain(|id, _| listed(*id));
        self.divergence
            .lock()
            .set_voters(authority.nodes.iter().filter(|node| !node.learner).map(|node| node.id));
        self.outcomes.nodes_are(self.peers.others());
    }

    fn state(&self) -> NodeState {
        let ledger = self.replica.ledger();
        NodeState {
            time_ms: clock::wall_ms(),
            log_size: ledger.size(),
            log_root: ledger.frontier().root(),
            ready: self.recovered.load(Ordering::Relaxed) && self.may_lease().is_ok(),
            rule_known: self.rule_known,
            build: env!("CARGO_PKG_VERSION").into(),
        }
    }

    /// A leader's clock stamps the entries: one that is off hands over to a voter that serves. It still takes stops.
    async fn step_aside_for_a_right_clock(&self) {
        if self.clock_off_ms().abs() > CLOCK_OFF_MAX_MS
            && let Some(to) = self.successor()
        {
            tracing::warn!(to, "this node's clock is off: handing the leadership over");
            self.consensus.hand_over(to).await;
        }
    }

    /// The voter that lacks least of the log, of those that serve.
    fn successor(&self) -> Option<u64> {
        let lags = self.consensus.lags()?;
        let voters = self.voters();
        let seen = self.seen.lock();
        let ready = |id: &u64| seen.get(id).is_some_and(|s| s.at.elapsed() < SEEN_FOR && s.state.ready);
        lags.into_iter()
            .filter(|(id, _)| *id != self.id && voters.contains(id) && ready(id))
            .min_by_key(|(_, lag)| *lag)
            .map(|(id, _)| id)
    }

    /// Hands the leadership to another node before this one ends, so that nobody waits for an election.
    pub async fn hand_over(&self) {
        if !self.status().is_leader {
            return;
        }
        let Some(to) = self.successor() else { return };
        tracing::info!(to, "handing the leadership over");
        self.consensus.hand_over(to).await;
        let handed = async {
            while self.status().leader == Some(self.id) {
                self.consensus.changed().await;
            }
        };
        if tokio::time::timeout(HAND_OVER_PATIENCE, handed).await.is_err() {
            tracing::warn!(to, "the leadership was not taken over in time; the others will elect somebody");
        }
    }

    /// Makes Raft's members those that the committed authority lists, step by step as far as it goes now.
    async fn reconcile(&self) {
        for _ in 0..STEPS_AT_ONCE {
            if !self.step().await {
                return;
            }
        }
    }

    /// One step; false where there is none to take now.
    async fn step(&self) -> bool {
        let wanted: BTreeMap<u64, (Member, bool)> = {
            let ledger = self.replica.ledger();
            let Some(authority) = ledger.authority() else { return false };
            authority.nodes.iter().map(|node| (node.id, (Member::of(node), !node.learner))).collect()
        };
        let members: BTreeMap<u64, (Member, bool)> =
            self.consensus.members().into_iter().map(|(id, member, votes)| (id, (member, votes))).collect();
        let lags = self.consensus.lags().unwrap_or_default();
        let alive: BTreeSet<u64> = {
            let seen = self.seen.lock();
            seen.iter().filter(|(_, s)| s.at.elapsed() < SEEN_FOR).map(|(id, _)| *id).collect()
        };
        let Some(change) = next_change(self.id, &wanted, &members, &lags, &alive) else { return false };
        if let Change::RemoveVoter(id) = change
            && id == self.id
        {
            if let Some(to) = self.successor() {
                tracing::info!(to, "this node is to vote no more: handing the leadership over");
                self.consensus.hand_over(to).await;
            }
            return false;
        }
        if !self.majority_lives(&change, &members) {
            tracing::warn!(
                ?change,
                "the cluster's members are not changed: too few of those that would vote are there"
            );
            return false;
        }
        tracing::info!(?change, "changing the cluster's members as the authority says");
        match tokio::time::timeout(FORWARD_TIMEOUT, self.consensus.change(change)).await {
            Ok(Ok(())) => return true,
            Ok(Err(error)) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "it did not come about yet")
            }
            Err(_) => tracing::warn!("it takes its time"),
        }
        false
    }

    /// Whether a majority of those that vote after the change was heard of: a change that could not be committed would
    /// hold up everything else.
    fn majority_lives(&self, change: &Change, members: &BTreeMap<u64, (Member, bool)>) -> bool {
        let mut voters: Vec<u64> =
            members.iter().filter(|(_, (_, votes))| *votes).map(|(id, _)| *id).collect();
        match change {
            Change::Promote(ids) => voters.extend(ids),
            Change::RemoveVoter(id) => voters.retain(|voter| voter != id),
            Change::AddLearner(..) | Change::Rename(..) | Change::Remove(_) => {}
        }
        let seen = self.seen.lock();
        let lives = |id: &&u64| **id == self.id || seen.get(id).is_some_and(|s| s.at.elapsed() < SEEN_FOR);
        voters.iter().filter(lives).count() * 2 > voters.len()
    }

    /// A newer rule of verdicts comes into force once every voter supports it: from that entry on all decide by it. Guards
    /// whose SDK does not know it deny, so a build that knows it is not enough: the configuration of each voter allows it.
    async fn raise_the_rule(&self) {
        let voters = self.voters();
        let known = {
            let seen = self.seen.lock();
            let of = |id: &u64| {
                let fresh = seen.get(id).filter(|s| s.at.elapsed() < SEEN_FOR);
                if *id == self.id { self.rule_known } else { fresh.map_or(0, |s| s.state.rule_known) }
            };
            voters.iter().map(of).min().unwrap_or(0)
        };
        let (in_force, deployment) = {
            let ledger = self.replica.ledger();
            let Some(deployment) = ledger.deployment() else { return };
            (ledger.rule_version(), deployment.to_string())
        };
        if known <= in_force {
            return;
        }
        let document =
            serde_json::json!({ "tagout": 1, "deployment": deployment, "rule": known }).to_string();
        let envelope = Envelope { document, signatures: Vec::new() };
        match self.propose_here(Need::Other, EntryKind::RuleVersion, &envelope).await {
            Ok(_) => {
                tracing::info!(
                    rule = known,
                    "every voter supports the newer rule of verdicts: it is in force"
                )
            }
            Err(error) => {
                tracing::warn!(%error, "the newer rule of verdicts could not be brought into force")
            }
        }
    }
}

/// The next step from the members that are to those that are wanted; pure. `alive` are those that were heard of.
fn next_change(
    leader: u64,
    wanted: &BTreeMap<u64, (Member, bool)>,
    members: &BTreeMap<u64, (Member, bool)>,
    lags: &BTreeMap<u64, u64>,
    alive: &BTreeSet<u64>,
) -> Option<Change> {
    let add = wanted.iter().find(|(id, _)| !members.contains_key(id));
    if let Some((id, (member, _))) = add {
        return Some(Change::AddLearner(*id, member.clone()));
    }
    let renamed =
        wanted.iter().find(|(id, (member, _))| members.get(id).is_some_and(|(have, _)| have != member));
    if let Some((id, (member, _))) = renamed {
        return Some(Change::Rename(*id, member.clone()));
    }
    let is_to_vote = |id: &u64| wanted.get(id).is_some_and(|(_, votes)| *votes);
    let caught_up = |id: &u64| lags.get(id).is_some_and(|lag| *lag <= PROMOTE_LAG_MAX);
    let (promoted, late): (BTreeSet<u64>, BTreeSet<u64>) = members
        .iter()
        .filter(|(id, (_, votes))| !votes && is_to_vote(id))
        .map(|(id, _)| *id)
        .partition(caught_up);
    // Two voters are worse than one, and four no better than three: so whoever comes soon is waited for.
    let voters = members.values().filter(|(_, votes)| *votes).count();
    let even = (voters + promoted.len()).is_multiple_of(2);
    let waits = even && late.iter().any(|id| alive.contains(id));
    if !promoted.is_empty() && !waits {
        return Some(Change::Promote(promoted));
    }
    // Whoever is to go leaves after those who come have been promoted, and the leader last of all.
    let waiting = members.iter().any(|(id, (_, votes))| !votes && is_to_vote(id));
    let mut leaving = members.iter().filter(|(id, (_, votes))| *votes && !is_to_vote(id)).map(|(id, _)| *id);
    let leaves = leaving.clone().find(|id| *id != leader).or_else(|| leaving.next());
    if let Some(id) = leaves
        && !waiting
    {
        return Some(Change::RemoveVoter(id));
    }
    let gone = members.iter().find(|(id, (_, votes))| !votes && !wanted.contains_key(id));
    gone.map(|(id, _)| Change::Remove(*id))
}

/// The median of these and of 0, which is this node's own. Of two in the middle, the one nearer to 0: two clocks that
/// differ cannot tell which of them is wrong.
fn median_ms(mut offsets: Vec<i64>) -> i64 {
    offsets.push(0);
    offsets.sort_unstable();
    let middle = offsets.len() / 2;
    let upper = offsets[middle];
    if offsets.len() % 2 == 1 {
        return upper;
    }
    let lower = offsets[middle - 1];
    if lower.abs() < upper.abs() { lower } else { upper }
}

trait Saturating {
    fn saturating_as_i64(self) -> i64;
}

impl Saturating for u64 {
    fn saturating_as_i64(self) -> i64 {
        i64::try_from(self).unwrap_or(i64::MAX / 2)
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

impl Handler for Cluster {
    fn handle(
        self: Arc<Self>,
        from: u64,
        kind: Kind,
        request: Vec<u8>,
    ) -> BoxFuture<'static, io::Result<Vec<u8>>> {
        Box::pin(async move {
            self.outcomes.heard(from);
            match kind {
                Kind::Append | Kind::Vote | Kind::PreVote | Kind::TransferLeader | Kind::Snapshot => {
                    self.consensus.answer(kind, &request).await
                }
                Kind::ReadIndex => {
                    let index = self.consensus.read_index().await.map_err(io::Error::other)?;
                    Ok(encode(&index))
                }
                Kind::Propose => {
                    let (need, kind, envelope): (Need, EntryKind, Envelope) = decode(&request)?;
                    Ok(encode(&match self.propose_here(need, kind, &envelope).await {
                        Ok(answer) => {
                            HandedOn::Answered(answer, self.consensus.status().applied.unwrap_or_default())
                        }
                        Err(NotCommitted::Consensus(
                            ProposeError::NotLeader { .. } | ProposeError::Unknown { .. },
                        )) => HandedOn::Again,
                        Err(NotCommitted::Consensus(error)) => HandedOn::Failed(error.to_string()),
                        Err(NotCommitted::Disk(refused)) => HandedOn::Disk(refused),
                    }))
                }
                Kind::Status => Ok(encode(&self.state())),
                Kind::Accounts => {
                    let news: Vec<News> = decode(&request)?;
                    news.into_iter().for_each(|news| self.outcomes.learn(from, news));
                    Ok(Vec::new())
                }
                Kind::Instances => {
                    let (scope, within_ms): (Scope, u64) = decode(&request)?;
                    Ok(encode(&self.instances.below(&scope, Duration::from_millis(within_ms))))
                }
                Kind::Entries => {
                    let (from, max): (u64, u64) = decode(&request)?;
                    let entries = crate::blocking(move || self.audit.entries(from, max)).await?;
                    Ok(encode(&entries))
                }
                Kind::Tile => {
                    let id: String = decode(&request)?;
                    let id = TileId::parse(&id).ok_or_else(|| io::Error::other("that is no tile"))?;
                    let tile = crate::blocking(move || self.audit.tile(id)).await?;
                    Ok(encode(&tile))
                }
                Kind::Root => {
                    let size: u64 = decode(&request)?;
                    let root = crate::blocking(move || self.audit.root_at(size)).await?;
                    Ok(encode(&root))
                }
            }
        })
    }
}

/// How long a peer may take for a piece of its log.
const LOG_TIMEOUT: Duration = Duration::from_secs(10);

/// The logs of the other nodes, for one that lacks a part of its own.
pub struct PeerLogs(pub Arc<Peers>);

impl audit::Peers for PeerLogs {
    fn others(&self) -> Vec<u64> {
        self.0.others()
    }

    async fn tile(&self, peer: u64, id: TileId) -> io::Result<Option<Vec<u8>>> {
        PeerTiles(&self.0, peer).tile(id).await
    }

    async fn entries(&self, peer: u64, from: u64, max: u64) -> io::Result<Vec<Vec<u8>>> {
        Ok(self.0.ask(peer, Kind::Entries, &(from, max), LOG_TIMEOUT).await?)
    }
}

struct PeerTiles<'a>(&'a Arc<Peers>, u64);

impl Tiles for PeerTiles<'_> {
    async fn tile(&self, id: TileId) -> io::Result<Option<Vec<u8>>> {
        Ok(self.0.ask(self.1, Kind::Tile, &id.to_string(), LOG_TIMEOUT).await?)
    }
}

struct OwnTiles<'a>(&'a AuditReader);

impl Tiles for OwnTiles<'_> {
    async fn tile(&self, id: TileId) -> io::Result<Option<Vec<u8>>> {
        let audit = self.0.clone();
        crate::blocking(move || audit.tile(id)).await
    }
}

impl From<CallError> for io::Error {
    fn from(error: CallError) -> Self {
        io::Error::other(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_nodes_own_unless_a_majority_disagrees() {
        assert_eq!(median_ms(vec![]), 0);
        assert_eq!(median_ms(vec![9_000]), 0, "one against one");
        assert_eq!(median_ms(vec![9_000, 9_100]), 9_000);
        assert_eq!(median_ms(vec![-9_000, 9_100]), 0);
        assert_eq!(median_ms(vec![-9_000, -9_100, -1, 0]), -1);
        assert_eq!(median_ms(vec![3_000, 3_100, 3_200]), 3_000);
    }

    fn member(name: &str) -> Member {
        Member { name: name.into(), key: [1; 32], address: "h:1".into() }
    }

    type Members = BTreeMap<u64, (Member, bool)>;

    fn members(list: &[(u64, &str, bool)]) -> Members {
        list.iter().map(|(id, name, votes)| (*id, (member(name), *votes))).collect()
    }

    /// Carries steps out until there is none left, with everybody caught up.
    fn steps(leader: u64, wanted: &Members, mut now: Members) -> (Vec<Change>, Members) {
        let mut taken = Vec::new();
        loop {
            let lags = now.keys().map(|id| (*id, 0)).collect();
            let alive = now.keys().copied().collect();
            let Some(change) = next_change(leader, wanted, &now, &lags, &alive) else { return (taken, now) };
            match &change {
                Change::AddLearner(id, member) => drop(now.insert(*id, (member.clone(), false))),
                Change::Rename(id, member) => now.get_mut(id).unwrap().0 = member.clone(),
                Change::Promote(ids) => ids.iter().for_each(|id| now.get_mut(id).unwrap().1 = true),
                Change::RemoveVoter(id) => now.get_mut(id).unwrap().1 = false,
                Change::Remove(id) => drop(now.remove(id)),
            }
            taken.push(change);
            assert!(taken.len() < 50, "it goes in circles: {taken:?}");
        }
    }

    #[test]
    fn members_become_those_of_the_authority_one_step_at_a_time() {
        let three = members(&[(1, "a", true), (2, "b", true), (3, "c", true)]);
        let (taken, end) = steps(1, &three, members(&[(1, "a", true)]));
        assert_eq!(end, three);
        assert_eq!(taken.len(), 3, "two learners, promoted together: {taken:?}");

        let replaced = members(&[(1, "a", true), (2, "b", true), (4, "d", true)]);
        let (taken, end) = steps(1, &replaced, three.clone());
        assert_eq!(end, replaced);
        assert_eq!(
            taken,
            [
                Change::AddLearner(4, member("d")),
                Change::Promote(BTreeSet::from([4])),
                Change::RemoveVoter(3),
                Change::Remove(3)
            ],
            "whoever goes leaves after the one who comes votes"
        );

        let moved = members(&[(1, "a", true), (2, "bb", true), (3, "c", true)]);
        assert_eq!(steps(1, &moved, three.clone()).0, [Change::Rename(2, member("bb"))]);
        let without_leader = members(&[(2, "b", true), (3, "c", true)]);
        assert_eq!(steps(1, &without_leader, three).0, [Change::RemoveVoter(1), Change::Remove(1)]);
    }

    #[test]
    fn a_learner_that_is_behind_does_not_vote_and_nobody_leaves_for_it() {
        let wanted = members(&[(1, "a", true), (2, "b", true), (4, "d", true)]);
        let now = members(&[(1, "a", true), (2, "b", true), (3, "c", true), (4, "d", false)]);
        let behind = BTreeMap::from([(1, 0), (2, 0), (3, 0), (4, PROMOTE_LAG_MAX + 1)]);
        let alive = BTreeSet::from([2, 3, 4]);
        assert_eq!(next_change(1, &wanted, &now, &behind, &alive), None);
        let caught_up = BTreeMap::from([(4, PROMOTE_LAG_MAX)]);
        assert_eq!(
            next_change(1, &wanted, &now, &caught_up, &alive),
            Some(Change::Promote(BTreeSet::from([4])))
        );
    }
    #[test]
    fn one_voter_waits_for_a_second_that_lives_and_not_for_one_that_is_gone() {
        let wanted = members(&[(1, "a", true), (2, "b", true), (3, "c", true)]);
        let now = members(&[(1, "a", true), (2, "b", false), (3, "c", false)]);
        let lags = BTreeMap::from([(2, 0)]);
        assert_eq!(next_change(1, &wanted, &now, &lags, &BTreeSet::from([2, 3])), None);
        let alone = Some(Change::Promote(BTreeSet::from([2])));
        assert_eq!(next_change(1, &wanted, &now, &lags, &BTreeSet::from([2])), alone);
        let both = BTreeMap::from([(2, 0), (3, 1)]);
        let together = Some(Change::Promote(BTreeSet::from([2, 3])));
        assert_eq!(next_change(1, &wanted, &now, &both, &BTreeSet::from([2, 3])), together);
    }
}
