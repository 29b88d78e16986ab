//! Consensus with one voter, over real stores and over one that fails.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use futures_util::FutureExt;
use openraft::StorageError;
use openraft::storage::{IOFlushed, RaftLogReader, RaftLogStorage, RaftSnapshotBuilder, RaftStateMachine};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::type_config::TypeConfigExt;
use tokio::task::JoinSet;

use super::*;
use crate::store::Op;

/// Remembers every proposal it applied, and answers with how many those are.
#[derive(Default)]
pub(super) struct Counting {
    applied: Mutex<Vec<Vec<u8>>>,
    restored: AtomicUsize,
    /// As while the audit log waits for other nodes.
    in_a_gap: AtomicBool,
}

impl Counting {
    pub(super) fn count(&self) -> usize {
        self.applied.lock().len()
    }
}

impl Machine for Counting {
    fn apply(&self, proposal: &[u8]) -> Vec<u8> {
        assert_ne!(proposal, b"panic");
        let mut applied = self.applied.lock();
        applied.push(proposal.to_vec());
        applied.len().to_string().into_bytes()
    }

    fn snapshot(&self) -> Option<SnapshotBytes> {
        let state = self.applied.lock().clone();
        let asked = !self.in_a_gap.load(Ordering::SeqCst);
        asked.then_some(Box::new(move || encode(&state).map(Some)))
    }

    fn restore(&self, snapshot: &[u8]) -> io::Result<()> {
        self.restored.fetch_add(1, Ordering::Relaxed);
        *self.applied.lock() = decode(snapshot)?;
        Ok(())
    }

    fn foresee(&self, _: &mut dyn Iterator<Item = Arc<[u8]>>) -> io::Result<()> {
        Ok(())
    }
}

/// A disk that counts its commits and fails on demand, before or after it wrote.
struct Watched {
    disk: Box<dyn LogDisk>,
    watch: Arc<Watch>,
}

#[derive(Default)]
struct Watch {
    commits: AtomicUsize,
    fail_before: AtomicBool,
    fail_after: AtomicBool,
    panic: AtomicBool,
    /// Commits wait while this is held.
    gate: Mutex<()>,
}

impl LogDisk for Watched {
    fn load(&self) -> io::Result<Loaded> {
        self.disk.load()
    }

    fn commit(&self, ops: &[Op]) -> io::Result<()> {
        drop(self.watch.gate.lock());
        self.watch.commits.fetch_add(1, Ordering::SeqCst);
        assert!(!self.watch.panic.load(Ordering::SeqCst), "the store panics");
        if self.watch.fail_before.load(Ordering::SeqCst) {
            return Err(io::Error::other("the disk is gone"));
        }
        self.disk.commit(ops)?;
        if self.watch.fail_after.load(Ordering::SeqCst) {
            return Err(io::Error::other("fsync failed"));
        }
        Ok(())
    }
}

/// A node whose end is recorded instead of carried out.
struct Node {
    consensus: Consensus,
    machine: Arc<Counting>,
    watch: Arc<Watch>,
    failures: tokio::sync::watch::Receiver<Option<String>>,
}

fn config(dir: &Path, store: StoreKind) -> ConsensusConfig {
    ConsensusConfig { store, ..ConsensusConfig::new(1, dir) }
}

async fn start(config: ConsensusConfig) -> Result<Node, StartError> {
    let machine = Arc::new(Counting::default());
    let watch = Arc::new(Watch::default());
    let (failed, failures) = tokio::sync::watch::channel(None);
    let watching = watch.clone();
    let consensus = Consensus::start_with(
        config,
        machine.clone(),
        Peers::nobody(),
        move |disk| Box::new(Watched { disk, watch: watching }),
        Arc::new(move |e: &io::Error| {
            failed.send_replace(Some(e.to_string()));
        }),
    )
    .await?;
    Ok(Node { consensus, machine, watch, failures })
}

impl Node {
    async fn propose(&self, proposal: &str) -> String {
        String::from_utf8(self.consensus.propose(proposal.as_bytes().to_vec()).await.unwrap()).unwrap()
    }

    fn applied(&self) -> Vec<String> {
        self.machine.applied.lock().iter().map(|p| String::from_utf8(p.clone()).unwrap()).collect()
    }

    async fn failure(&mut self) -> String {
        self.failures.wait_for(Option::is_some).await.unwrap().clone().unwrap()
    }
}

const STORES: [StoreKind; 2] = [StoreKind::Sled, StoreKind::Segment];

#[tokio::test]
async fn an_empty_store_becomes_a_cluster_of_one_and_answers() {
    for store in STORES {
        let dir = tempfile::tempdir().unwrap();
        let node = start(config(dir.path(), store)).await.unwrap();
        let status = node.consensus.status();
        assert_eq!((status.leader, status.is_leader, status.running), (Some(1), true, true));
        assert_eq!(status.voters, BTreeSet::from([1]));
        assert_eq!(node.propose("a").await, "1");
        assert_eq!(node.propose("b").await, "2");
        node.consensus.read_barrier().await.unwrap();
        assert_eq!(node.applied(), ["a", "b"]);
        let too_large = node.consensus.propose(vec![0; PROPOSAL_MAX_BYTES + 1]).await.unwrap_err();
        assert!(matches!(too_large, ProposeError::TooLarge { .. }));
        node.consensus.shutdown().await;
        assert!(!node.consensus.status().running);
        let stopped = node.consensus.propose(b"c".to_vec()).await.unwrap_err();
        assert!(matches!(stopped, ProposeError::Stopped { .. }), "{stopped}");
        assert!(matches!(node.consensus.read_barrier().await, Err(ReadError::Stopped { .. })));
    }
}

#[tokio::test]
async fn a_restart_applies_everything_before_it_returns_and_leads_in_a_new_term() {
    for store in STORES {
        let dir = tempfile::tempdir().unwrap();
        let mut expected: Vec<String> = Vec::new();
        let mut term = 0;
        for round in 0..4 {
            let node = start(config(dir.path(), store)).await.unwrap();
            assert_eq!(node.applied(), expected);
            // A leader that took up its old term again could give the ids of lost entries to new ones.
            let status = node.consensus.status();
            assert!(status.is_leader && status.term > term, "{status:?}");
            term = status.term;
            for n in 0..20 {
                let proposal = format!("{round}/{n}");
                assert_eq!(node.propose(&proposal).await, (expected.len() + 1).to_string());
                expected.push(proposal);
            }
            node.consensus.shutdown().await;
        }
    }
}

#[test]
fn a_restarted_leader_has_to_be_elected() {
    let config = ConsensusConfig::new(1, "unused").for_openraft().unwrap();
    assert_eq!(config.enable_leader_restore, Some(false));
    assert_eq!(config.enable_pre_vote, Some(true));
}

#[tokio::test]
async fn timings_that_do_not_fit_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let wrong = ConsensusConfig { election_min_ms: 40, ..config(dir.path(), StoreKind::Segment) };
    assert!(matches!(start(wrong).await.err().unwrap(), StartError::Config { .. }));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn the_data_of_another_node_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    start(config(dir.path(), StoreKind::Sled)).await.unwrap().consensus.shutdown().await;
    let other = ConsensusConfig { node_id: 2, ..config(dir.path(), StoreKind::Sled) };
    let error = start(other).await.err().unwrap();
    assert!(matches!(error, StartError::OtherNode { found: 1, configured: 2, .. }), "{error}");
}

#[tokio::test]
async fn changing_the_store_keeps_everything() {
    let dir = tempfile::tempdir().unwrap();
    for (n, store) in [StoreKind::Sled, StoreKind::Segment, StoreKind::Sled].into_iter().enumerate() {
        let node = start(config(dir.path(), store)).await.unwrap();
        assert_eq!(node.propose("again").await, (n + 1).to_string());
        node.consensus.shutdown().await;
    }
}

#[test]
fn a_snapshot_waits_until_the_disk_has_room_for_it_and_for_stops() {
    let spare = snapshot::SPARE_BYTES;
    assert!(snapshot::fits(1000, spare + 2001));
    assert!(!snapshot::fits(1000, spare + 2000));
    assert!(!snapshot::fits(u64::MAX, u64::MAX));
}

#[tokio::test]
async fn concurrent_proposals_share_commits() {
    const PROPOSALS: usize = 200;
    for store in STORES {
        let dir = tempfile::tempdir().unwrap();
        let node = start(config(dir.path(), store)).await.unwrap();
        let before = node.watch.commits.load(Ordering::SeqCst);
        let mut proposals = JoinSet::new();
        for n in 0..PROPOSALS {
            let consensus = node.consensus.clone();
            proposals.spawn(async move { consensus.propose(n.to_string().into_bytes()).await.unwrap() });
        }
        let answers: BTreeSet<Vec<u8>> = proposals.join_all().await.into_iter().collect();
        assert_eq!(answers.len(), PROPOSALS);
        let commits = node.watch.commits.load(Ordering::SeqCst) - before;
        assert!(commits <= PROPOSALS / 4, "{commits} commits");
        node.consensus.shutdown().await;
    }
}

#[tokio::test]
async fn what_gathers_behind_a_commit_is_the_next_commit() {
    let dir = tempfile::tempdir().unwrap();
    let watch = Arc::new(Watch::default());
    let disk = store::open(StoreKind::Segment, dir.path()).unwrap();
    let disk = Box::new(Watched { disk, watch: watch.clone() });
    let (mut log, writer) =
        log::start(disk, &Loaded::default(), Box::new(|| None), Arc::new(|_| {})).unwrap();

    let mut waiting = Vec::new();
    {
        // The writer takes up to one job of these, and then waits.
        let _held = watch.gate.lock();
        for index in 0..100 {
            let (done, flushed) = Types::oneshot();
            // It only queues, so it is ready at once.
            log.append([blank(index)], IOFlushed::signal(done)).now_or_never().unwrap().unwrap();
            waiting.push(flushed);
        }
    }
    for flushed in waiting {
        flushed.await.unwrap().unwrap();
    }
    assert!(watch.commits.load(Ordering::SeqCst) <= 2);
    tokio::task::spawn_blocking(move || writer.stop()).await.unwrap();
    assert_eq!(store::open(StoreKind::Segment, dir.path()).unwrap().load().unwrap().entries.len(), 100);
}

fn blank(index: u64) -> types::Entry {
    use openraft::entry::RaftEntry;
    use openraft::vote::RaftLeaderIdExt;
    types::Entry::new_blank(types::LogId::new(
        openraft::alias::LeaderIdOf::<Types>::new_committed(1, 1),
        index,
    ))
}

mod failures {
    use super::*;

    /// Breaks the disk under a running node, and gives what the proposals after that were told.
    async fn break_with(fault: fn(&Watch) -> &AtomicBool) -> (tempfile::TempDir, String) {
        let dir = tempfile::tempdir().unwrap();
        let mut node = start(config(dir.path(), StoreKind::Segment)).await.unwrap();
        assert_eq!(node.propose("before").await, "1");
        fault(&node.watch).store(true, Ordering::SeqCst);
        let commits = node.watch.commits.load(Ordering::SeqCst);
        for proposal in ["lost", "later"] {
            let error = node.consensus.propose(proposal.as_bytes().to_vec()).await.unwrap_err();
            assert!(matches!(error, ProposeError::Stopped { .. }), "{error}");
        }
        assert_eq!(node.watch.commits.load(Ordering::SeqCst), commits + 1, "the disk is not asked again");
        assert_eq!(node.applied(), ["before"]);
        let said = node.failure().await;
        node.consensus.shutdown().await;
        (dir, said)
    }

    #[tokio::test]
    async fn a_commit_that_fails_ends_the_node_and_is_never_acknowledged() {
        let (dir, said) = break_with(|watch| &watch.fail_before).await;
        assert!(said.contains("the disk is gone"), "{said}");
        let node = start(config(dir.path(), StoreKind::Segment)).await.unwrap();
        assert_eq!(node.applied(), ["before"]);
        node.consensus.shutdown().await;
    }

    #[tokio::test]
    async fn a_commit_that_was_written_and_failed_may_take_effect_after_a_restart() {
        let (dir, said) = break_with(|watch| &watch.fail_after).await;
        assert!(said.contains("fsync failed"), "{said}");
        let node = start(config(dir.path(), StoreKind::Segment)).await.unwrap();
        assert_eq!(node.applied(), ["before", "lost"]);
        node.consensus.shutdown().await;
    }

    #[tokio::test]
    async fn a_store_that_panics_is_a_store_that_fails() {
        let (_dir, said) = break_with(|watch| &watch.panic).await;
        assert!(said.contains("the log store panicked"), "{said}");
    }

    #[tokio::test]
    async fn a_disk_that_hangs_ends_the_node_and_nothing_is_acknowledged() {
        let dir = tempfile::tempdir().unwrap();
        let watch = Arc::new(Watch::default());
        let disk = store::open(StoreKind::Segment, dir.path()).unwrap();
        let disk = Box::new(Watched { disk, watch: watch.clone() });
        let (failed, failure) = std::sync::mpsc::channel();
        let failed = Mutex::new(failed);
        let on_failure = Arc::new(move |e: &io::Error| failed.lock().send(e.to_string()).unwrap());
        let patience = std::time::Duration::from_millis(600);
        let (mut log, writer) =
            log::start_with_patience(disk, &Loaded::default(), Box::new(|| None), on_failure, patience)
                .unwrap();
        let held = watch.gate.lock();
        let (done, flushed) = Types::oneshot();
        log.append([blank(0)], IOFlushed::signal(done)).now_or_never().unwrap().unwrap();
        let said = failure.recv_timeout(20 * patience).unwrap();
        assert!(said.contains("it hangs"), "{said}");
        assert_eq!(watch.commits.load(Ordering::SeqCst), 0);
        // Outside of tests the process is gone by now.
        drop(held);
        flushed.await.unwrap().unwrap();
        tokio::task::spawn_blocking(move || writer.stop()).await.unwrap();
        assert!(failure.try_recv().is_err(), "it is told once");
    }

    #[tokio::test]
    async fn a_panic_in_apply_ends_the_node() {
        let dir = tempfile::tempdir().unwrap();
        let mut node = start(config(dir.path(), StoreKind::Segment)).await.unwrap();
        let error = node.consensus.propose(b"panic".to_vec()).await.unwrap_err();
        assert!(matches!(error, ProposeError::Stopped { .. }), "{error}");
        let said = node.failure().await;
        assert!(said.contains("applying entry") && said.contains("panicked"), "{said}");
        node.consensus.shutdown().await;
    }

    #[tokio::test]
    async fn a_snapshot_that_cannot_be_written_ends_the_node() {
        let dir = tempfile::tempdir().unwrap();
        let mut node = start(snapshots::often(dir.path())).await.unwrap();
        fs::remove_dir_all(dir.path().join("snapshots")).unwrap();
        for n in 0..20 {
            // Whichever comes first: the snapshot fails while the proposals go on.
            let _ = node.consensus.propose(vec![n]).await;
        }
        node.failure().await;
        node.consensus.shutdown().await;
    }
}

mod snapshots {
    use super::*;

    pub(super) fn often(dir: &Path) -> ConsensusConfig {
        ConsensusConfig { snapshot_every_entries: 10, ..config(dir, StoreKind::Segment) }
    }

    /// A node that stopped after three snapshots, and all that was proposed to it.
    async fn with_three(dir: &Path) -> Vec<String> {
        let node = start(often(dir)).await.unwrap();
        let mut proposed = Vec::new();
        for _ in 0..3 {
            let taken = node.consensus.status().snapshot;
            while node.consensus.status().snapshot == taken {
                let proposal = format!("{}", proposed.len());
                node.propose(&proposal).await;
                proposed.push(proposal);
            }
        }
        let purged = |m: &openraft::RaftMetrics<Types>| {
            let index = |id: &Option<types::LogId>| id.map_or(0, |id| id.index());
            index(&m.purged) + 10 >= index(&m.snapshot)
        };
        node.consensus.raft.wait(None).metrics(purged, "purged").await.unwrap();
        node.consensus.shutdown().await;
        proposed
    }

    fn files(dir: &Path) -> Vec<PathBuf> {
        let mut files: Vec<_> =
            fs::read_dir(dir.join("snapshots")).unwrap().map(|e| e.unwrap().path()).collect();
        files.sort();
        files
    }

    fn damage(file: &Path) {
        let mut bytes = fs::read(file).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(file, bytes).unwrap();
    }

    #[tokio::test]
    async fn a_restart_goes_on_from_the_newest_snapshot() {
        let dir = tempfile::tempdir().unwrap();
        let proposed = with_three(dir.path()).await;
        assert_eq!(files(dir.path()).len(), 2);
        let node = start(often(dir.path())).await.unwrap();
        assert_eq!(node.applied(), proposed);
        assert_eq!(node.machine.restored.load(Ordering::Relaxed), 1);
        assert!(node.consensus.status().purged.is_some());
        assert_eq!(node.propose("on").await, (proposed.len() + 1).to_string());
        node.consensus.shutdown().await;
    }

    #[tokio::test]
    async fn a_damaged_newest_snapshot_costs_a_longer_replay() {
        let dir = tempfile::tempdir().unwrap();
        let proposed = with_three(dir.path()).await;
        let newest = files(dir.path()).pop().unwrap();
        damage(&newest);
        let node = start(often(dir.path())).await.unwrap();
        assert_eq!(node.applied(), proposed);
        node.consensus.shutdown().await;
        assert!(newest.with_extension("damaged").exists());
    }

    #[test]
    fn the_log_keeps_what_the_older_snapshot_needs() {
        let dir = tempfile::tempdir().unwrap();
        let snapshots = Snapshots::open(dir.path()).unwrap();
        for (index, purgeable) in [(7, None), (31, Some(7)), (90, Some(31))] {
            let last_log_id = Some(openraft::entry::RaftEntry::log_id(&blank(index)));
            let meta = types::SnapshotMeta { last_log_id, last_membership: Membership::default() };
            snapshots.write(&meta, b"state").unwrap();
            assert_eq!(snapshots.purgeable(), purgeable);
            let again = Snapshots::open(dir.path()).unwrap();
            assert_eq!(again.restore_point(0).unwrap().unwrap().meta, meta);
            assert_eq!(again.purgeable(), purgeable);
        }
    }

    /// A state machine and a log, without openraft.
    fn by_hand(dir: &Path) -> (StateMachine, log::Log, log::Writer) {
        let disk = store::open(StoreKind::Segment, &dir.join("log")).unwrap();
        let loaded = disk.load().unwrap();
        let snapshots = Arc::new(Snapshots::open(&dir.join("snapshots")).unwrap());
        let for_log = snapshots.clone();
        let purgeable = Box::new(move || for_log.purgeable());
        let (log, writer) = log::start(disk, &loaded, purgeable, Arc::new(|e| panic!("{e}"))).unwrap();
        let machine: Arc<dyn Machine> = Arc::new(Counting::default());
        let machine = StateMachine {
            machine,
            snapshots,
            applied: None,
            membership: Membership::default(),
            write_ahead: None,
        };
        (machine, log, writer)
    }

    fn up_to(index: u64) -> types::SnapshotMeta {
        let last_log_id = Some(openraft::entry::RaftEntry::log_id(&blank(index)));
        types::SnapshotMeta { last_log_id, last_membership: Membership::default() }
    }

    /// What a node could start from, with each of its snapshots: all of the log after it must be there.
    async fn nothing_is_lost(dir: &Path, machine: &StateMachine, log: &mut log::Log, last: u64) {
        let purged = log.get_log_state().await.unwrap().last_purged_log_id.map_or(0, |id| id.index() + 1);
        let kept = log.get_log_reader().await.try_get_log_entries(purged..last + 1).await.unwrap();
        assert_eq!(kept.len() as u64, (last + 1).saturating_sub(purged), "without a hole");
        let reopened = Snapshots::open(&dir.join("snapshots")).unwrap();
        let newest = reopened.restore_point(purged).unwrap().unwrap();
        assert!(newest.meta.last_log_id.unwrap().index() + 1 >= purged);
        if let Some(older) = machine.snapshots.purgeable()
            && last > newest.meta.last_log_id.unwrap().index()
        {
            assert!(purged <= older + 1, "purged to {purged}, and the older snapshot ends at {older}");
        }
    }

    #[tokio::test]
    async fn s8_snapshots_from_the_leader_purge_nothing_that_a_restart_needs() {
        let dir = tempfile::tempdir().unwrap();
        let (mut machine, mut log, writer) = by_hand(dir.path());
        log.append((0..40).map(blank), IOFlushed::noop()).await.unwrap();
        // Two of its own.
        for own in [5, 10] {
            machine.snapshots.write(&up_to(own), &encode(&Vec::<Vec<u8>>::new()).unwrap()).unwrap();
            log.purge(up_to(own).last_log_id.unwrap()).await.unwrap();
            nothing_is_lost(dir.path(), &machine, &mut log, 39).await;
        }
        // From the leader, one within this log, one after it during the same gap, and one beyond it.
        for (index, first_kept) in [(15, 11), (30, 16), (60, 61)] {
            let state = encode(&Vec::<Vec<u8>>::new()).unwrap();
            machine.install_snapshot(&up_to(index), state).await.unwrap();
            log.purge(up_to(index).last_log_id.unwrap()).await.unwrap();
            let purged = log.get_log_state().await.unwrap().last_purged_log_id.unwrap();
            assert_eq!(purged.index() + 1, first_kept);
            nothing_is_lost(dir.path(), &machine, &mut log, index.max(39)).await;
        }
        tokio::task::spawn_blocking(move || writer.stop()).await.unwrap();
    }

    #[tokio::test]
    async fn s8_no_snapshot_is_taken_while_the_audit_log_has_a_gap_and_the_node_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let node = start(often(dir.path())).await.unwrap();
        node.machine.in_a_gap.store(true, Ordering::SeqCst);
        for n in 0..50 {
            node.propose(&format!("{n}")).await;
        }
        let status = node.consensus.status();
        assert_eq!((status.snapshot, status.purged, status.running), (None, None, true));
        node.machine.in_a_gap.store(false, Ordering::SeqCst);
        for n in 0..30 {
            node.propose(&format!("later {n}")).await;
        }
        let taken = |m: &openraft::RaftMetrics<Types>| m.snapshot.is_some();
        node.consensus.raft.wait(None).metrics(taken, "a snapshot").await.unwrap();
        node.consensus.shutdown().await;
    }

    #[tokio::test]
    async fn a_snapshot_that_the_leader_s_went_beyond_becomes_the_leader_s() {
        let dir = tempfile::tempdir().unwrap();
        let (mut machine, _log, writer) = by_hand(dir.path());
        let builder = |machine: &StateMachine| machine::Builder {
            meta: up_to(5),
            bytes: Mutex::new(Some(Box::new(|| Ok(None)))),
            snapshots: machine.snapshots.clone(),
        };
        machine.install_snapshot(&up_to(9), encode(&Vec::<Vec<u8>>::new()).unwrap()).await.unwrap();
        let built = builder(&machine).build_snapshot().await.unwrap();
        assert_eq!(built.meta, up_to(9));
        assert_eq!(files(dir.path()).len(), 1, "and nothing is written");
        tokio::task::spawn_blocking(move || writer.stop()).await.unwrap();
    }

    #[tokio::test]
    async fn without_a_snapshot_that_the_log_reaches_the_node_does_not_start() {
        let dir = tempfile::tempdir().unwrap();
        with_three(dir.path()).await;
        files(dir.path()).iter().for_each(|file| damage(file));
        let StartError::Snapshots(error) = start(often(dir.path())).await.err().unwrap() else { panic!() };
        assert!(error.to_string().contains("does not match its checksum"), "{error}");
        assert!(error.to_string().contains("make a new deployment"), "{error}");
        // Nothing was touched, so a second try says the same.
        assert_eq!(files(dir.path()).len(), 2);
    }

    #[tokio::test]
    async fn a_newer_snapshot_format_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        with_three(dir.path()).await;
        let newest = files(dir.path()).pop().unwrap();
        let mut bytes = fs::read(&newest).unwrap();
        bytes[8] += 1;
        fs::write(&newest, bytes).unwrap();
        let error = start(often(dir.path())).await.err().unwrap();
        assert!(
            matches!(error, StartError::Snapshots(SnapshotError::NewerFormat { found: 3, .. })),
            "{error}"
        );
    }

    #[tokio::test]
    async fn snapshots_without_a_log_are_a_node_that_lost_its_vote() {
        let dir = tempfile::tempdir().unwrap();
        with_three(dir.path()).await;
        fs::remove_dir_all(dir.path().join("log")).unwrap();
        for _ in 0..2 {
            let error = start(often(dir.path())).await.err().unwrap();
            assert!(matches!(error, StartError::LogLost { .. }), "{error}");
        }
    }
}

mod suite {
    use super::*;

    struct Builder(StoreKind);

    /// Lets the writer thread finish before the folder goes.
    struct Stop(Option<log::Writer>);

    impl Drop for Stop {
        fn drop(&mut self) {
            if let Some(writer) = self.0.take() {
                writer.stop();
            }
        }
    }

    impl StoreBuilder<Types, log::Log, StateMachine, (Stop, tempfile::TempDir)> for Builder {
        async fn build(
            &self,
        ) -> Result<((Stop, tempfile::TempDir), log::Log, StateMachine), StorageError<Types>> {
            let dir = tempfile::tempdir().unwrap();
            let disk = store::open(self.0, &dir.path().join("log")).unwrap();
            let loaded = disk.load().unwrap();
            let (log, writer) =
                log::start(disk, &loaded, Box::new(|| Some(u64::MAX)), Arc::new(|e| panic!("{e}"))).unwrap();
            let snapshots = Arc::new(Snapshots::open(&dir.path().join("snapshots")).unwrap());
            let machine: Arc<dyn Machine> = Arc::new(Counting::default());
            let machine = StateMachine {
                machine,
                snapshots,
                applied: None,
                membership: Membership::default(),
                write_ahead: None,
            };
            Ok(((Stop(Some(writer)), dir), log, machine))
        }
    }

    #[tokio::test]
    async fn openraft_is_content_with_sled() {
        Suite::test_all(Builder(StoreKind::Sled)).await.unwrap();
    }

    #[tokio::test]
    async fn openraft_is_content_with_segments() {
        Suite::test_all(Builder(StoreKind::Segment)).await.unwrap();
    }
}
