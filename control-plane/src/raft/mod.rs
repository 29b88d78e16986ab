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

use std::collections::BTreeSet;
use std::error::Error;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ClientWriteError, Fatal, LinearizableReadError, RaftError};
use openraft::{ReadPolicy, SnapshotPolicy};
use parking_lot::Mutex;

use self::machine::StateMachine;
use self::network::NoPeers;
pub use self::snapshot::SnapshotError;
use self::snapshot::Snapshots;
use self::types::{Membership, Proposal, Types, decode, encode};
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
}

/// The slow part of a snapshot. Gives `None` if [`Machine::restore`] was called meanwhile with a snapshot that goes
/// further, so that this one is of no use any more.
pub type SnapshotBytes = Box<dyn FnOnce() -> io::Result<Option<Vec<u8>>> + Send>;

/// The exit code of a process that can no longer trust its storage (`EX_IOERR` of sysexits.h).
pub const STORAGE_FAILED_EXIT_CODE: i32 = 74;

/// The largest proposal. A bound for memory and for one commit; what may be proposed is bounded far below, where it is
/// received.
pub const PROPOSAL_MAX_BYTES: usize = 1 << 20;

#[derive(Clone, Debug)]
pub struct ConsensusConfig {
    /// Never used twice: a node that lost its store comes back under a new id.
    pub node_id: u64,
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
}

impl ConsensusConfig {
    /// Timings for nodes in one region: about 0.3 s from a dead leader to the next one.
    pub fn new(node_id: u64, dir: impl Into<PathBuf>) -> Self {
        Self {
            node_id,
            dir: dir.into(),
            store: StoreKind::default(),
            heartbeat_ms: 50,
            election_min_ms: 150,
            election_max_ms: 200,
            snapshot_every_entries: 5000,
            recovery_timeout_ms: 30_000,
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
        "{} has snapshots and no log: this node lost its log, and with it its vote. Put the log back, or make a new \
         deployment: this version has no restore for a single node",
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
    /// Opens this node's store and takes its place in the cluster; returns once everything committed is applied.
    ///
    /// An empty store becomes a cluster with this node as its only voter.
    pub async fn start(config: ConsensusConfig, machine: Arc<dyn Machine>) -> Result<Self, StartError> {
        Self::start_with(config, machine, |disk| disk, Arc::new(end_process)).await
    }

    async fn start_with(
        config: ConsensusConfig,
        machine: Arc<dyn Machine>,
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

        let writer = Arc::new(Mutex::new(Some(writer)));
        let started =
            openraft::Raft::new(config.node_id, openraft_config, NoPeers, log, opened.machine).await;
        let raft = match started {
            Ok(raft) => raft,
            Err(e) => {
                stop_writer(&writer).await;
                return Err(StartError::Raft { source: Box::new(e) });
            }
        };
        let consensus = Self { node_id: config.node_id, raft, snapshots, writer };
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
        if self.raft.is_initialized().await.map_err(|e| failed(Box::new(e)))? {
            // Nobody else can be the leader, so there is nothing to wait for.
            if self.raft.voter_ids().eq([self.node_id]) {
                self.raft.trigger().elect(false).await.map_err(|e| failed(Box::new(e)))?;
            }
        } else {
            let alone = BTreeSet::from([self.node_id]);
            self.raft.initialize(alone).await.map_err(|e| failed(Box::new(e)))?;
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

    /// When this returns, the machine's state includes everything that was acknowledged anywhere before the call.
    ///
    /// It asks a quorum each time. A lease would be quicker and would rest on clocks, which S3 must not.
    pub async fn read_barrier(&self) -> Result<(), ReadError> {
        match self.raft.ensure_linearizable(ReadPolicy::ReadIndex).await {
            Ok(_) => Ok(()),
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(to))) => {
                Err(ReadError::NotLeader { leader: to.leader_id })
            }
            Err(RaftError::APIError(e @ LinearizableReadError::QuorumNotEnough(_))) => {
                Err(ReadError::NoQuorum { source: Box::new(e) })
            }
            Err(RaftError::Fatal(e)) => Err(ReadError::Stopped { source: Box::new(e) }),
        }
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
        let disk = wrap(store::open(config.store, &dir.join("log"))?);
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
            None if !snapshots.is_empty()? => return Err(StartError::LogLost { dir: dir.clone() }),
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
        let machine = StateMachine { machine, snapshots: Arc::new(snapshots), applied, membership };
        Ok(Self { disk, loaded, machine })
    }
}

#[cfg(test)]
mod tests;
