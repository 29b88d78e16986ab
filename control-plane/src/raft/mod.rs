//! Consensus: the one order in which everything takes effect, the same on every node. Steps ③ and ④ of the way of a
//! stop: a proposal is written to a quorum of logs, and then every node's machine applies it.
//!
//! openraft does the protocol; its types stay in this folder. The rest of the node sees [`Machine`], which is what is
//! replicated, and [`Consensus`], which replicates it.
//!
//! ```text
//! <dir>/log/          the Raft log (see crate::store)
//! <dir>/snapshots/    the machine's state up to some entry (see snapshot.rs)
//! ```
//!
//! The state lives in memory. A start restores the newest snapshot and applies the log from there on.

mod log;
mod machine;
mod network;
mod snapshot;
mod types;

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::TryStreamExt;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ClientWriteError, Fatal, LinearizableReadError, RaftError};
use openraft::{ChangeMembers, ReadPolicy, SnapshotPolicy};
use parking_lot::Mutex;

use self::machine::StateMachine;
use self::network::{Arriving, Network};
pub use self::snapshot::SnapshotError;
use self::snapshot::Snapshots;
use self::types::{Entry, Membership, Proposal, Types, decode, encode};
use crate::peers::{Kind, Member, Peers};
use crate::reserve::{Guarded, Reserve};
use crate::store::{self, Loaded, LogDisk, Op, StoreError, StoreKind};

/// The replicated state machine, as raft sees it: bytes in, bytes out.
pub trait Machine: Send + Sync + 'static {
    /// Total and deterministic. Called in log order, once for each committed proposal in the life of the process (and
    /// again after a restart, from the last snapshot on). It must not block and must not panic.
    fn apply(&self, proposal: &[u8]) -> Vec<u8>;

    /// Captures the state now, which must be cheap; the closure does the slow part and gives the bytes. It may block
    /// until the audit log is durable, and must: the entries before the snapshot may be purged afterwards.
    ///
    /// `None` while the audit log cannot become durable by itself. There is no snapshot then, the Raft log keeps its
    /// entries, and it is asked again after as many entries.
    fn snapshot(&self) -> Option<SnapshotBytes>;

    /// Puts the snapshot's state in place of the whole state.
    fn restore(&self, snapshot: &[u8]) -> io::Result<()>;

    /// Whether the state as it is, and these proposals of the log after it, committed or not, lead to everything that was
    /// applied before the last end: an entry is applied only once the log has it on disk, so a log that does not has lost
    /// a part of what it held, and its node must not vote with the rest. Changes nothing.
    fn foresee(&self, proposals: &mut dyn Iterator<Item = Arc<[u8]>>) -> io::Result<()>;
}

/// The slow part of a snapshot. Gives `None` if [`Machine::restore`] was called meanwhile with a snapshot that goes
/// further, so that this one is of no use any more.
pub type SnapshotBytes = Box<dyn FnOnce() -> io::Result<Option<Vec<u8>>> + Send>;

/// The exit code of a process that can no longer trust its storage (`EX_IOERR` of sysexits.h).
pub const STORAGE_FAILED_EXIT_CODE: i32 = 74;

/// The largest proposal. A bound for memory and for one commit; what may be proposed is bounded far below, where it is
/// received.
pub const PROPOSAL_MAX_BYTES: usize = 1 << 20;

/// What an empty store means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The deployment begins here: this node becomes a cluster of one.
    Begin,
    /// This node is new in a cluster, whose leader will find it.
    Join,
    /// This node has run before, so its store is lost, and with it the votes that it gave: it must not vote again.
    Known,
}

/// How long a snapshot may take to its node; its pieces have shorter bounds of their own.
const SNAPSHOT_TIMEOUT_MS: u64 = 10 * 60 * 1000;

#[derive(Clone)]
pub struct ConsensusConfig {
    /// Never used twice: a node that lost its store comes back under a new id.
    pub node_id: u64,
    /// What the others shall know of this node, where it begins a cluster.
    pub member: Member,
    pub origin: Origin,
    pub dir: PathBuf,
    pub store: StoreKind,
    pub heartbeat_ms: u64,
    /// An election starts after the leader's lease, which lasts the maximum, plus a random time between the two.
    pub election_min_ms: u64,
    pub election_max_ms: u64,
    /// A snapshot after so many entries. Those since the last but one are kept, in memory and on disk.
    pub snapshot_every_entries: u64,
    /// How long a start may take to find a leader and to apply what is committed.
    pub recovery_timeout_ms: u64,
    /// Makes room on the disk before every commit.
    pub reserve: Option<Arc<Reserve>>,
}

impl ConsensusConfig {
    /// Timings for nodes in one region: about 0.3 s from a dead leader to the next one.
    pub fn new(node_id: u64, dir: impl Into<PathBuf>) -> Self {
        Self {
            node_id,
            member: Member::default(),
            origin: Origin::Begin,
            dir: dir.into(),
            store: StoreKind::default(),
            heartbeat_ms: 50,
            election_min_ms: 150,
            election_max_ms: 200,
            snapshot_every_entries: 5000,
            recovery_timeout_ms: 30_000,
            reserve: None,
        }
    }

    fn for_openraft(&self) -> Result<openraft::Config, StartError> {
        let config = openraft::Config {
            cluster_name: "tagout".into(),
            heartbeat_interval: self.heartbeat_ms,
            election_timeout_min: self.election_min_ms,
            election_timeout_max: self.election_max_ms,
            snapshot_policy: SnapshotPolicy::LogsSinceLast(self.snapshot_every_entries),
            // For followers that are a little behind. What a restart may need is kept whatever this says, see log.rs.
            max_in_snapshot_log_to_keep: self.snapshot_every_entries,
            // Above the distance of snapshots: a snapshot could not help a follower that is less far behind.
            replication_lag_threshold: self.snapshot_every_entries * 2,
            // A leader sends entries to followers before its own disk has them. One that is killed and comes back at
            // once must not go on in its old term (openraft's default): it would give the log ids of lost entries to
            // new ones, followers would keep the old entry under the same id, and acknowledged stops would be gone.
            // With `false` it has to be elected, and then it knows the entries of a quorum.
            enable_leader_restore: Some(false),
            // A node that was cut off asks first and does not unseat a healthy leader when it returns.
            enable_pre_vote: Some(true),
            install_snapshot_timeout: SNAPSHOT_TIMEOUT_MS,
            ..openraft::Config::default()
        };
        config.validate().map_err(|e| StartError::Config { source: Box::new(e) })
    }
}

/// How a node stands in its cluster, as it knows itself: another node may be ahead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    pub node_id: u64,
    pub leader: Option<u64>,
    pub is_leader: bool,
    pub term: u64,
    pub voters: BTreeSet<u64>,
    /// Indexes of Raft's log, which are not those of the audit log.
    pub last_log: Option<u64>,
    pub committed: Option<u64>,
    pub applied: Option<u64>,
    pub snapshot: Option<u64>,
    pub purged: Option<u64>,
    /// False once consensus was shut down or gave up.
    pub running: bool,
}

type Cause = Box<dyn Error + Send + Sync>;

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("the timings of consensus do not fit together: correct them in the configuration")]
    Config {
        #[source]
        source: Cause,
    },
    #[error("the log cannot be opened")]
    Store(#[from] StoreError),
    #[error("the log in {} cannot be used", dir.display())]
    Log {
        dir: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the snapshots cannot be used")]
    Snapshots(#[from] SnapshotError),
    #[error("the snapshot in {} is readable, but the state in it was refused", dir.display())]
    Restore {
        dir: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "{} belongs to node {found}, and the configuration says node {configured}: correct the one or the other. \
         Never give a node the data of another", dir.display()
    )]
    OtherNode { dir: PathBuf, found: u64, configured: u64 },
    #[error(
        "the log in {} has lost a part of what it held, and this node must not vote with the rest. Keep the folder for \
         analysis. Where a majority of the nodes lives, put a new one in its place: `tagout node replace`. Where none does, \
         restore from a backup: `tagout restore`", dir.display()
    )]
    LogShort {
        dir: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "{} holds no log, and this node is not new: it lost its log, and with it the votes that it gave, so it must not \
         vote again under its name. Where other nodes live, replace it: `tagout node replace`. Where none does, restore \
         from a backup: `tagout restore`",
        dir.display()
    )]
    LogLost { dir: PathBuf },
    #[error("consensus could not be started")]
    Raft {
        #[source]
        source: Cause,
    },
    #[error(
        "no leader, or not everything committed applied, within {waited_ms} ms: check that a majority of the voters \
         runs and can be reached"
    )]
    NotRecovered {
        waited_ms: u64,
        #[source]
        source: Cause,
    },
}

#[derive(Debug, thiserror::Error)]
pub enum ProposeError {
    #[error("a proposal of {bytes} bytes is larger than {PROPOSAL_MAX_BYTES}")]
    TooLarge { bytes: usize },
    /// Nothing was written.
    #[error("this node does not lead: {}", to_leader(*leader))]
    NotLeader { leader: Option<u64> },
    /// It was written here and may still take effect, through another leader.
    #[error("leadership changed while the proposal was being written; whether it took effect is not known yet: look \
             for it before proposing it again ({})", to_leader(*leader))]
    Unknown { leader: Option<u64> },
    /// Whether a proposal under way took effect is known after the next start.
    #[error("consensus has stopped on this node")]
    Stopped {
        #[source]
        source: Cause,
    },
    #[error("consensus answered with what is no answer")]
    Strange {
        #[source]
        source: io::Error,
    },
}

impl ProposeError {
    pub fn strange(source: io::Error) -> Self {
        Self::Strange { source }
    }
}

/// One step in who belongs to the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    AddLearner(u64, Member),
    /// A member has another address.
    Rename(u64, Member),
    /// All of these at once, so that the number of voters need not be even in between.
    Promote(BTreeSet<u64>),
    /// It stays as a learner until it is removed.
    RemoveVoter(u64),
    Remove(u64),
}

#[derive(Debug, thiserror::Error)]
#[error("the change of the cluster's members was not committed")]
pub struct ChangeError {
    #[source]
    source: Cause,
}

#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("this node does not lead: {}", to_leader(*leader))]
    NotLeader { leader: Option<u64> },
    #[error(
        "a majority of the voters did not answer: this node may be cut off, and must not serve this read"
    )]
    NoQuorum {
        #[source]
        source: Cause,
    },
    #[error("this node is behind: it has not applied yet what a majority has committed")]
    Behind,
    #[error("consensus has stopped on this node")]
    Stopped {
        #[source]
        source: Cause,
    },
}

fn to_leader(leader: Option<u64>) -> String {
    match leader {
        Some(id) => format!("node {id} does"),
        None => "no leader is known, an election may be under way".into(),
    }
}

/// A running member of the cluster; clones are handles of the same one.
#[derive(Clone)]
pub struct Consensus {
    node_id: u64,
    raft: openraft::Raft<Types, StateMachine>,
    peers: Arc<Peers>,
    arriving: Arc<Arriving>,
    snapshots: Arc<Snapshots>,
    writer: Arc<Mutex<Option<log::Writer>>>,
}

/// Called when storage cannot be trusted any more. Outside of tests it does not return.
type OnFailure = Arc<dyn Fn(&io::Error) + Send + Sync>;

fn end_process(error: &io::Error) {
    let mut causes = String::new();
    let mut cause: &dyn Error = error;
    while let Some(next) = cause.source() {
        causes.push_str(&format!(": {next}"));
        cause = next;
    }
    tracing::error!(
        "storage failed: {error}{causes}. The process ends with code {STORAGE_FAILED_EXIT_CODE}, since nothing it \
         would still acknowledge could be trusted. Check the disk and its free space, then start the node again"
    );
    std::process::exit(STORAGE_FAILED_EXIT_CODE);
}

impl Consensus {
    /// Opens this node's store and takes its place in the cluster. The only voter returns once everything committed is
    /// applied; one among several returns at once, since nobody knows when a majority will be there:
    /// see [`Consensus::read_barrier`].
    pub async fn start(
        config: ConsensusConfig,
        machine: Arc<dyn Machine>,
        peers: Arc<Peers>,
    ) -> Result<Self, StartError> {
        Self::start_with(config, machine, peers, |disk| disk, Arc::new(end_process)).await
    }

    async fn start_with(
        config: ConsensusConfig,
        machine: Arc<dyn Machine>,
        peers: Arc<Peers>,
        wrap: impl FnOnce(Box<dyn LogDisk>) -> Box<dyn LogDisk> + Send + 'static,
        on_failure: OnFailure,
    ) -> Result<Self, StartError> {
        let openraft_config = Arc::new(config.for_openraft()?);
        let opening = config.clone();
        let opened = tokio::task::spawn_blocking(move || Opened::open(&opening, machine, wrap)).await;
        let opened = opened.map_err(|e| StartError::Raft { source: Box::new(e) })??;
        let snapshots = opened.machine.snapshots.clone();
        let for_log = snapshots.clone();
        let purgeable = Box::new(move || for_log.purgeable());
        let (log, writer) = log::start(opened.disk, &opened.loaded, purgeable, on_failure.clone())
            .map_err(|source| StartError::Log { dir: config.dir.clone(), source })?;

        let mut machine = opened.machine;
        machine.write_ahead = Some(log.write_ahead());
        let writer = Arc::new(Mutex::new(Some(writer)));
        let started =
            openraft::Raft::new(config.node_id, openraft_config, Network(peers.clone()), log, machine).await;
        let raft = match started {
            Ok(raft) => raft,
            Err(e) => {
                stop_writer(&writer).await;
                return Err(StartError::Raft { source: Box::new(e) });
            }
        };
        let arriving = Arc::default();
        let consensus = Self { node_id: config.node_id, raft, peers, arriving, snapshots, writer };
        for (id, member, _) in consensus.members() {
            consensus.peers.know(id, &member);
        }
        consensus.end_with_raft(on_failure);
        match consensus.join(&config).await {
            Ok(()) => Ok(consensus),
            Err(e) => {
                consensus.shutdown().await;
                Err(e)
            }
        }
    }

    async fn join(&self, config: &ConsensusConfig) -> Result<(), StartError> {
        let failed = |source: Cause| StartError::Raft { source };
        let initialized = self.raft.is_initialized().await.map_err(|e| failed(Box::new(e)))?;
        if !initialized && config.origin == Origin::Begin {
            let alone = BTreeMap::from([(self.node_id, config.member.clone())]);
            self.raft.initialize(alone).await.map_err(|e| failed(Box::new(e)))?;
        } else if !self.raft.voter_ids().eq([self.node_id]) {
            return Ok(());
        } else {
            // Nobody else can be the leader, so there is nothing to wait for.
            self.raft.trigger().elect(false).await.map_err(|e| failed(Box::new(e)))?;
        }
        let timeout = Duration::from_millis(config.recovery_timeout_ms);
        match self.raft.wait_for_recovery(Some(timeout)).await {
            Ok(_) => Ok(()),
            Err(e) => {
                Err(StartError::NotRecovered { waited_ms: config.recovery_timeout_ms, source: Box::new(e) })
            }
        }
    }

    /// A node whose consensus gave up (a snapshot that could not be written, a panic in apply) must not live on as one
    /// that merely answers nothing.
    fn end_with_raft(&self, on_failure: OnFailure) {
        let raft = self.raft.clone();
        tokio::spawn(async move {
            // It changes with leadership only and closes at the end, so this task hardly ever wakes.
            let mut until_ended = raft.server_metrics();
            while until_ended.changed().await.is_ok() {}
            let ended = raft.metrics().borrow_watched().running_state.clone();
            match ended {
                Ok(()) | Err(Fatal::Stopped) => {}
                Err(fatal) => on_failure(&io::Error::other(fatal)),
            }
        });
    }

    /// Has the proposal applied on this node, after a quorum has it on disk, and gives the machine's answer. Only the
    /// leader can. Dropping the future does not take the proposal back.
    pub async fn propose(&self, proposal: Vec<u8>) -> Result<Vec<u8>, ProposeError> {
        if proposal.len() > PROPOSAL_MAX_BYTES {
            return Err(ProposeError::TooLarge { bytes: proposal.len() });
        }
        match self.raft.client_write(Proposal(proposal.into())).await {
            Ok(response) => Ok(response.data.0),
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(to))) => {
                Err(ProposeError::NotLeader { leader: to.leader_id })
            }
            Err(RaftError::APIError(ClientWriteError::LogEntryDiscarded(to))) => {
                Err(ProposeError::Unknown { leader: to.leader_id })
            }
            // Answers to requests that this was not, so openraft cannot be trusted any more.
            Err(RaftError::APIError(
                e @ (ClientWriteError::ChangeMembershipError(_) | ClientWriteError::PreconditionFailed(_)),
            )) => Err(ProposeError::Stopped { source: Box::new(e) }),
            Err(RaftError::Fatal(e)) => Err(ProposeError::Stopped { source: Box::new(e) }),
        }
    }

    /// As [`Consensus::propose`], of many at once: they take effect in this order, and their answers come in it.
    pub async fn propose_all(&self, proposals: Vec<Vec<u8>>) -> Result<Vec<Vec<u8>>, ProposeError> {
        if let Some(proposal) = proposals.iter().find(|proposal| proposal.len() > PROPOSAL_MAX_BYTES) {
            return Err(ProposeError::TooLarge { bytes: proposal.len() });
        }
        let stopped = |e| ProposeError::Stopped { source: Box::new(e) };
        let mut answers = Vec::with_capacity(proposals.len());
        let proposals = proposals.into_iter().map(|proposal| Proposal(proposal.into()));
        let mut written = self.raft.client_write_many(proposals).await.map_err(stopped)?;
        while let Some(answer) = written.try_next().await.map_err(stopped)? {
            match answer {
                Ok(answer) => answers.push(answer.response.0),
                Err(ClientWriteError::ForwardToLeader(to)) => {
                    return Err(ProposeError::NotLeader { leader: to.leader_id });
                }
                Err(ClientWriteError::LogEntryDiscarded(to)) => {
                    return Err(ProposeError::Unknown { leader: to.leader_id });
                }
                // As in `propose`.
                Err(
                    e
                    @ (ClientWriteError::ChangeMembershipError(_) | ClientWriteError::PreconditionFailed(_)),
                ) => return Err(ProposeError::Stopped { source: Box::new(e) }),
            }
        }
        Ok(answers)
    }

    /// Where Raft's log must be applied to include everything that was acknowledged anywhere before the call. Only the
    /// leader can tell.
    ///
    /// It asks a quorum each time. A lease would be quicker and would rest on clocks, which S3 must not.
    pub async fn read_index(&self) -> Result<u64, ReadError> {
        match self.raft.get_read_log_id(ReadPolicy::ReadIndex).await {
            Ok((id, _)) => Ok(id.index()),
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(to))) => {
                Err(ReadError::NotLeader { leader: to.leader_id })
            }
            Err(RaftError::APIError(e @ LinearizableReadError::QuorumNotEnough(_))) => {
                Err(ReadError::NoQuorum { source: Box::new(e) })
            }
            Err(RaftError::Fatal(e)) => Err(ReadError::Stopped { source: Box::new(e) }),
        }
    }

    /// Waits until this node has applied Raft's log up to `index`.
    pub async fn applied(&self, index: u64) -> Result<(), ReadError> {
        let applied = self.raft.wait(None).applied_index_at_least(Some(index), "a read's index").await;
        applied.map(drop).map_err(|e| ReadError::Stopped { source: Box::new(e) })
    }

    /// When this returns on the leader, the machine's state includes everything that was acknowledged anywhere before
    /// the call.
    pub async fn read_barrier(&self) -> Result<(), ReadError> {
        let index = self.read_index().await?;
        self.applied(index).await
    }

    /// Answers a message of Raft from another node.
    pub async fn answer(&self, kind: Kind, request: &[u8]) -> io::Result<Vec<u8>> {
        network::answer(&self.raft, &self.arriving, kind, request).await
    }

    /// Everybody in the cluster, as far as this node knows: its id, what it says of itself, and whether it votes.
    pub fn members(&self) -> Vec<(u64, Member, bool)> {
        let metrics = self.raft.metrics();
        let membership = metrics.borrow_watched().membership_config.membership().clone();
        let voters: BTreeSet<u64> = membership.voter_ids().collect();
        membership.nodes().map(|(id, member)| (*id, member.clone(), voters.contains(id))).collect()
    }

    /// For the leader: how many entries of Raft's log each other member still lacks. `None` for everybody else.
    pub fn lags(&self) -> Option<BTreeMap<u64, u64>> {
        let metrics = self.raft.metrics();
        let m = metrics.borrow_watched();
        let last = m.last_log_index.unwrap_or(0);
        let replication = m.replication.as_ref()?;
        Some(
            replication
                .iter()
                .map(|(id, at)| (*id, last.saturating_sub(at.map_or(0, |at| at.index()))))
                .collect(),
        )
    }

    /// Changes who belongs to the cluster; returns once that is committed. Only the leader can.
    pub async fn change(&self, change: Change) -> Result<(), ChangeError> {
        let change = match change {
            Change::AddLearner(id, member) => ChangeMembers::AddNodes(BTreeMap::from([(id, member)])),
            Change::Rename(id, member) => ChangeMembers::SetNodes(BTreeMap::from([(id, member)])),
            Change::Promote(ids) => ChangeMembers::AddVoterIds(ids),
            Change::RemoveVoter(id) => ChangeMembers::RemoveVoters(BTreeSet::from([id])),
            Change::Remove(id) => ChangeMembers::RemoveNodes(BTreeSet::from([id])),
        };
        self.raft
            .change_membership(change, true)
            .await
            .map(drop)
            .map_err(|e| ChangeError { source: Box::new(e) })
    }

    /// Asks `to` to take over at once. It may not happen.
    pub async fn hand_over(&self, to: u64) {
        // Fails only when consensus has stopped.
        let _ = self.raft.trigger().transfer_leader(to).await;
    }

    /// Waits for a change of the leader, as this node knows it, or of the membership.
    pub async fn changed(&self) {
        let mut metrics = self.raft.server_metrics();
        // It closes at the end.
        let _ = metrics.changed().await;
    }

    /// Whether this node is the only voter.
    pub fn is_alone(&self) -> bool {
        self.raft.voter_ids().eq([self.node_id])
    }

    pub fn is_leader(&self) -> bool {
        self.raft.is_leader()
    }

    pub fn leader(&self) -> Option<u64> {
        self.raft.metrics().borrow_watched().current_leader
    }

    pub fn status(&self) -> Status {
        let metrics = self.raft.metrics();
        let m = metrics.borrow_watched();
        Status {
            node_id: self.node_id,
            leader: m.current_leader,
            is_leader: m.current_leader == Some(self.node_id) && m.state.is_leader(),
            term: m.current_term,
            voters: m.membership_config.membership().voter_ids().collect(),
            last_log: m.last_log_index,
            committed: m.local_committed.map(|id| id.index()),
            applied: m.last_applied.map(|id| id.index()),
            snapshot: m.snapshot.map(|id| id.index()),
            purged: m.purged.map(|id| id.index()),
            running: m.running_state.is_ok(),
        }
    }

    /// Leaves the cluster as a crash would, but in order: when this returns nothing is written any more, and the folder
    /// may be opened again.
    pub async fn shutdown(&self) {
        // Fails only if the task panicked, which it reported itself.
        let _ = self.raft.shutdown().await;
        let snapshots = self.snapshots.clone();
        let _ = tokio::task::spawn_blocking(move || snapshots.close()).await;
        stop_writer(&self.writer).await;
    }
}

async fn stop_writer(writer: &Mutex<Option<log::Writer>>) {
    let writer = writer.lock().take();
    if let Some(writer) = writer {
        // It waits for the disk, which no async thread may.
        let _ = tokio::task::spawn_blocking(move || writer.stop()).await;
    }
}

/// What a start finds on the disk.
struct Opened {
    disk: Box<dyn LogDisk>,
    loaded: Loaded,
    machine: StateMachine,
}

/// Who a store belongs to.
#[derive(serde::Serialize, serde::Deserialize)]
struct Identity {
    node_id: u64,
}

impl Opened {
    fn open(
        config: &ConsensusConfig,
        machine: Arc<dyn Machine>,
        wrap: impl FnOnce(Box<dyn LogDisk>) -> Box<dyn LogDisk>,
    ) -> Result<Self, StartError> {
        let dir = &config.dir;
        let failed = |source| StartError::Log { dir: dir.clone(), source };
        let disk = store::open(config.store, &dir.join("log"))?;
        let disk = wrap(match config.reserve.clone() {
            Some(reserve) => Box::new(Guarded { disk, reserve }),
            None => disk,
        });
        let loaded = disk.load().map_err(failed)?;
        let snapshots = Snapshots::open(&dir.join("snapshots"))?;
        match &loaded.identity {
            Some(identity) => {
                let Identity { node_id } = decode(identity).map_err(failed)?;
                if node_id != config.node_id {
                    return Err(StartError::OtherNode {
                        dir: dir.clone(),
                        found: node_id,
                        configured: config.node_id,
                    });
                }
            }
            None if config.origin == Origin::Known || !snapshots.is_empty()? => {
                return Err(StartError::LogLost { dir: dir.clone() });
            }
            None => {
                let identity = encode(&Identity { node_id: config.node_id }).map_err(failed)?;
                disk.commit(&[Op::SaveIdentity(identity)]).map_err(failed)?;
            }
        }

        let restored = snapshots.restore_point(loaded.first_index())?;
        let (applied, membership) = match restored {
            Some(snapshot) => {
                machine
                    .restore(&snapshot.snapshot)
                    .map_err(|source| StartError::Restore { dir: dir.join("snapshots"), source })?;
                (snapshot.meta.last_log_id, snapshot.meta.last_membership)
            }
            None => (None, Membership::default()),
        };
        let after = applied.map_or(0, |id| id.index() + 1);
        let mut proposals = loaded.entries.range(after..).filter_map(|(_, bytes)| {
            match decode::<Entry>(bytes).ok()?.payload {
                openraft::EntryPayload::Normal(Proposal(proposal)) => Some(proposal),
                openraft::EntryPayload::Blank | openraft::EntryPayload::Membership(_) => None,
            }
        });
        machine
            .foresee(&mut proposals)
            .map_err(|source| StartError::LogShort { dir: dir.join("log"), source })?;
        let snapshots = Arc::new(snapshots);
        let machine = StateMachine { machine, snapshots, applied, membership, write_ahead: None };
        Ok(Self { disk, loaded, machine })
    }
}

#[cfg(test)]
mod cluster_tests;
#[cfg(test)]
mod tests;
