//! A log that is behind its ledger, among other nodes that help, fail, lie, or are wrong.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Receiver;
use std::time::Duration;

use parking_lot::Mutex;
use proptest::prelude::*;
use tagout_proto::digest::Digest;
use tagout_proto::log::checkpoint::Checkpoint;
use tagout_proto::log::tile::{TILE_WIDTH, TileId, TileKind, subtree_root};
use tagout_proto::log::tree::{Frontier, leaf_hash};

use super::super::{AuditError, AuditLog, AuditSink, NoPeers, Peers};
use super::{ORIGIN, entries, open, run, signer};

const PATIENCE: Duration = Duration::from_millis(200);
const SOON: Duration = Duration::from_secs(20);

/// A whole log in memory.
#[derive(Clone)]
pub(super) struct Memory {
    pub(super) entries: Vec<Vec<u8>>,
    /// All hashes of every level of tiles.
    levels: Vec<Vec<Digest>>,
}

impl Memory {
    pub(super) fn new(entries: &[Vec<u8>]) -> Self {
        let mut levels = vec![entries.iter().map(|entry| leaf_hash(entry)).collect::<Vec<_>>()];
        while levels.last().is_some_and(|level| level.len() >= 256) {
            let full = levels[levels.len() - 1].chunks_exact(256).map(subtree_root).collect();
            levels.push(full);
        }
        Self { entries: entries.to_vec(), levels }
    }

    pub(super) fn tile(&self, id: TileId) -> Option<Vec<u8>> {
        let TileKind::Hashes { level } = id.kind else { panic!("bundles are not asked for") };
        let first = (id.n * TILE_WIDTH) as usize;
        let hashes = self.levels.get(usize::from(level))?.get(first..first + usize::from(id.width))?;
        Some(hashes.iter().flat_map(|hash| hash.0).collect())
    }

    pub(super) fn root(&self, size: u64) -> Digest {
        let mut frontier = Frontier::default();
        self.levels[0][..size as usize].iter().for_each(|leaf| frontier.push(*leaf));
        frontier.root()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    Honest,
    Down,
    Silent,
    /// Gives entries below this index only.
    UpTo(u64),
    /// Lies about this entry.
    WrongEntry(u64),
    /// Has other hashes in its full tiles than above them.
    WrongTiles,
    TooMany,
}

const LIES: [Manner; 5] =
    [Manner::Down, Manner::Silent, Manner::WrongEntry(0), Manner::WrongTiles, Manner::TooMany];

/// The other nodes.
#[derive(Default)]
struct Others {
    nodes: Mutex<BTreeMap<u64, (Arc<Memory>, Manner)>>,
    /// The lowest index of an entry that was asked for.
    lowest: AtomicU64,
}

impl Others {
    fn new(nodes: impl IntoIterator<Item = (u64, Memory, Manner)>) -> Arc<Self> {
        let nodes = nodes.into_iter().map(|(id, log, manner)| (id, (Arc::new(log), manner))).collect();
        Arc::new(Self { nodes: Mutex::new(nodes), lowest: AtomicU64::new(u64::MAX) })
    }

    fn set(&self, id: u64, log: Memory, manner: Manner) {
        self.nodes.lock().insert(id, (Arc::new(log), manner));
    }

    async fn ask(&self, id: u64) -> io::Result<(Arc<Memory>, Manner)> {
        let (log, manner) = self.nodes.lock()[&id].clone();
        match manner {
            Manner::Down => Err(io::ErrorKind::ConnectionRefused.into()),
            Manner::Silent => std::future::pending().await,
            _ => Ok((log, manner)),
        }
    }
}

impl Peers for Arc<Others> {
    fn others(&self) -> Vec<u64> {
        self.nodes.lock().keys().copied().collect()
    }

    async fn tile(&self, peer: u64, id: TileId) -> io::Result<Option<Vec<u8>>> {
        let (log, manner) = self.ask(peer).await?;
        let mut tile = log.tile(id);
        if let (Some(tile), Manner::WrongTiles) = (&mut tile, manner)
            && id.is_full()
        {
            tile[77] ^= 1;
        }
        Ok(tile)
    }

    async fn entries(&self, peer: u64, from: u64, max: u64) -> io::Result<Vec<Vec<u8>>> {
        let (log, manner) = self.ask(peer).await?;
        self.lowest.fetch_min(from, Ordering::Relaxed);
        let end = match manner {
            Manner::UpTo(end) => end.clamp(from, from + max),
            Manner::TooMany => from + max + 1,
            // Fewer than could be, as an answer that has become too large.
            _ => from + max.min(100),
        };
        let mut given = log.entries[from as usize..(end as usize).min(log.entries.len())].to_vec();
        if let Manner::WrongEntry(index) = manner
            && let Some(entry) = index.max(from).checked_sub(from).and_then(|at| given.get_mut(at as usize))
        {
            entry[10] ^= 1;
        }
        Ok(given)
    }
}

/// Appends `log[from..to]` as the ledger does.
fn append(sink: &AuditSink, log: &Memory, from: u64, to: u64) {
    let mut frontier = Frontier::default();
    for (index, entry) in (0..to).zip(&log.entries) {
        frontier.push(leaf_hash(entry));
        if index >= from {
            sink.append(index, entry.clone(), frontier.root());
        }
    }
}

/// What the folder must hold for this log, and no tile that is not of it.
fn check(folder: &Path, log: &Memory, size: u64) {
    let note = fs::read_to_string(folder.join("checkpoint")).unwrap();
    let checkpoint = Checkpoint::open(&note, &signer().verifier(), ORIGIN).unwrap();
    assert_eq!((checkpoint.size, checkpoint.root), (size, log.root(size)));
    let mut found = 0;
    for (id, bytes) in sealed(folder) {
        if let TileKind::Hashes { .. } = id.kind {
            assert_eq!(Some(bytes), log.tile(id), "tile {id}");
        } else {
            let entries = tagout_proto::log::tile::parse_bundle(&bytes).unwrap();
            assert_eq!(entries, log.entries[id.n as usize * 256..][..256], "bundle {id}");
            found += 1;
        }
    }
    assert_eq!(found, size / 256);
    // It starts from there, and the same entries are the same.
    run(folder, &log.entries[..size as usize], 0).unwrap();
}

/// All full tiles of a folder.
fn sealed(folder: &Path) -> Vec<(TileId, Vec<u8>)> {
    let mut folders = vec![folder.join("tile")];
    let mut found = Vec::new();
    while let Some(within) = folders.pop() {
        for item in fs::read_dir(within).unwrap().map(Result::unwrap) {
            let path = item.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let name = path.strip_prefix(folder.join("tile")).unwrap().to_str().unwrap().to_owned();
            let id = TileId::parse(&name).unwrap_or_else(|| panic!("{name} is left over"));
            if id.is_full() {
                found.push((id, fs::read(path).unwrap()));
            }
        }
    }
    found
}

async fn soon(what: impl Future<Output = ()>) {
    tokio::time::timeout(SOON, what).await.expect("it comes soon");
}

async fn failure(failed: Receiver<AuditError>) -> AuditError {
    tokio::task::spawn_blocking(move || failed.recv_timeout(SOON).unwrap()).await.unwrap()
}

/// A log of `size` entries whose ledger came to `restored` by a snapshot.
fn behind(folder: &Path, log: &Memory, size: u64, restored: u64) -> (AuditLog, Receiver<AuditError>) {
    let own = log.entries[..size as usize].to_vec();
    // It has a runtime of its own.
    std::thread::scope(|scope| scope.spawn(|| run(folder, &own, 0).unwrap()).join().unwrap());
    let (audit, failed) = open(folder).unwrap();
    assert!(audit.reader().complete());
    audit.sink().restored(restored, log.root(restored));
    assert!(!audit.reader().complete(), "from this call on");
    (audit, failed)
}

fn other_log(size: u64, from: u64) -> Memory {
    let mut other = entries(size);
    other[from as usize..].iter_mut().for_each(|entry| entry[20] ^= 1);
    Memory::new(&other)
}

#[tokio::test]
async fn s9_a_gap_is_filled_from_the_one_node_that_tells_the_truth() {
    let log = Memory::new(&entries(1500));
    let (dir, restored) = (tempfile::tempdir().unwrap(), 1400);
    let (audit, _failed) = behind(dir.path(), &log, 300, restored);
    let liars = LIES.into_iter().zip(2..).map(|(manner, id)| (id, log.clone(), manner));
    let forked = [(8, other_log(1500, 900), Manner::Honest), (9, log.clone(), Manner::UpTo(700))];
    let others = Others::new(liars.chain(forked).chain([(10, log.clone(), Manner::Honest)]));
    audit.fill_with(others, PATIENCE);
    append(&audit.sink(), &log, restored, 1450);
    let reader = audit.reader();
    soon(reader.completed()).await;
    soon(reader.wait_for(1450)).await;
    assert_eq!(reader.missing(), 0);
    append(&audit.sink(), &log, 1450, 1500);
    soon(reader.wait_for(1500)).await;
    drop(audit);
    tokio::task::spawn_blocking(move || check(dir.path(), &log, 1500)).await.unwrap();
}

#[tokio::test]
async fn s9_nothing_is_sealed_when_all_others_have_another_log_than_the_ledger() {
    let log = Memory::new(&entries(1500));
    let dir = tempfile::tempdir().unwrap();
    let (audit, failed) = behind(dir.path(), &log, 300, 1400);
    let other = other_log(1500, 500);
    audit.fill_with(Others::new([2, 3].map(|id| (id, other.clone(), Manner::Honest))), PATIENCE);
    let error = failure(failed).await;
    assert!(matches!(&error, AuditError::PeersDiffer { nodes } if *nodes == [2, 3]), "{error}");
    assert!(error.to_string().contains("tagout node replace"), "{error}");
    let reader = audit.reader();
    assert!(!reader.complete() && reader.checkpointed_size() == 300);
    drop(audit);
    tokio::task::spawn_blocking(move || check(dir.path(), &log, 300)).await.unwrap();
}

#[tokio::test]
async fn s8_one_node_that_differs_is_not_believed_while_another_is_silent() {
    let log = Memory::new(&entries(600));
    let dir = tempfile::tempdir().unwrap();
    let (audit, failed) = behind(dir.path(), &log, 100, 600);
    let others = Others::new([(2, other_log(600, 50), Manner::Honest), (3, log.clone(), Manner::Down)]);
    audit.fill_with(others.clone(), PATIENCE);
    tokio::time::sleep(Duration::from_millis(1200)).await;
    assert!(failed.try_recv().is_err());
    assert_eq!(audit.reader().missing(), 500);
    others.set(3, log.clone(), Manner::Honest);
    soon(audit.reader().completed()).await;
    drop(audit);
    tokio::task::spawn_blocking(move || check(dir.path(), &log, 600)).await.unwrap();
}

#[tokio::test]
async fn s8_a_log_that_differs_from_its_own_ledger_is_told_at_the_entry() {
    let log = Memory::new(&entries(1500));
    for at in [0, 255, 256, 511, 599] {
        let dir = tempfile::tempdir().unwrap();
        let (audit, failed) = {
            let own = Memory { entries: other_log(1500, at).entries, ..log.clone() };
            behind(dir.path(), &own, 600, 1400)
        };
        audit.fill_with(Others::new([(2, log.clone(), Manner::Honest)]), PATIENCE);
        let error = failure(failed).await;
        assert!(matches!(error, AuditError::Diverged { index } if index == at), "{at}: {error}");
        assert_eq!(audit.reader().checkpointed_size(), 600);
    }
}

#[tokio::test]
async fn a_crash_in_the_middle_goes_on_from_what_is_durable() {
    let log = Memory::new(&entries(9000));
    let dir = tempfile::tempdir().unwrap();
    let (audit, _failed) = behind(dir.path(), &log, 300, 8999);
    let others = Others::new([(2, log.clone(), Manner::UpTo(6000))]);
    audit.fill_with(others.clone(), PATIENCE);
    let reader = audit.reader();
    soon(async {
        while reader.missing() == 0 || reader.missing() > 8999 - 6000 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    assert!(!reader.complete());
    drop(audit);

    let (audit, _failed) = open(dir.path()).unwrap();
    assert!(audit.opened_size() >= 4096 && audit.opened_size() < 6000, "{}", audit.opened_size());
    let others = Others::new([(2, log.clone(), Manner::Honest)]);
    audit.fill_with(others.clone(), PATIENCE);
    audit.sink().restored(8999, log.root(8999));
    append(&audit.sink(), &log, 8999, 9000);
    soon(audit.reader().completed()).await;
    assert_eq!(others.lowest.load(Ordering::Relaxed), audit.opened_size());
    soon(audit.reader().wait_for(9000)).await;
    drop(audit);
    tokio::task::spawn_blocking(move || check(dir.path(), &log, 9000)).await.unwrap();
}

#[tokio::test]
async fn s9_a_node_that_is_alone_with_a_gap_says_what_to_do() {
    let log = Memory::new(&entries(300));
    let dir = tempfile::tempdir().unwrap();
    let (audit, failed) = behind(dir.path(), &log, 100, 300);
    audit.fill_from(NoPeers);
    let error = failure(failed).await.to_string();
    for says in ["ends at entry 100", "200 entries further", "restore it from a copy"] {
        assert!(error.contains(says), "{error}");
    }
}

#[tokio::test]
async fn a_gap_that_stays_open_costs_no_memory_and_holds_up_nobody() {
    let log = Memory::new(&entries(20_000));
    let dir = tempfile::tempdir().unwrap();
    let (audit, failed) = behind(dir.path(), &log, 100, 300);
    let others = Others::new([(2, log.clone(), Manner::Down)]);
    audit.fill_with(others.clone(), PATIENCE);
    append(&audit.sink(), &log, 300, 19_000);
    audit.compared().await.unwrap();
    let reader = audit.reader();
    assert!(reader.pending.read().len() <= super::super::gap::TAIL_MAX);
    assert_eq!(reader.missing(), 18_900);
    soon(reader.keep_up(19_000)).await;
    let durable = audit.sink().durable();
    let waited = tokio::task::spawn_blocking(move || durable.wait(19_000)).await;
    assert!(!waited.unwrap().unwrap(), "nor does a thread wait for it");
    assert!(failed.try_recv().is_err());

    others.set(2, log.clone(), Manner::Honest);
    append(&audit.sink(), &log, 19_000, 20_000);
    soon(reader.completed()).await;
    soon(reader.wait_for(20_000)).await;
    assert!(reader.pending.read().is_empty());
    drop(audit);
    tokio::task::spawn_blocking(move || check(dir.path(), &log, 20_000)).await.unwrap();
}

#[tokio::test]
async fn a_snapshot_under_way_is_given_up_when_the_leader_s_leaves_a_gap() {
    let log = Memory::new(&entries(300));
    let dir = tempfile::tempdir().unwrap();
    let (audit, _failed) = open(dir.path()).unwrap();
    let (sink, durable) = (audit.sink(), audit.sink().durable());
    let waiting = tokio::task::spawn_blocking(move || durable.wait(50));
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!waiting.is_finished());
    sink.restored(300, log.root(300));
    assert!(!waiting.await.unwrap().unwrap());
}

#[tokio::test]
async fn s8_a_snapshot_that_goes_no_further_than_the_log_must_have_its_root() {
    let log = Memory::new(&entries(600));
    for (size, root, good) in [
        (600, log.root(600), true),
        (256, log.root(256), true),
        (0, Memory::new(&[]).root(0), true),
        (600, log.root(599), false),
        (300, log.root(299), false),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let own = log.entries.clone();
        std::thread::scope(|scope| scope.spawn(|| run(dir.path(), &own, 0).unwrap()).join().unwrap());
        let (audit, failed) = open(dir.path()).unwrap();
        audit.sink().restored(size, root);
        if good {
            soon(audit.reader().completed()).await;
            append(&audit.sink(), &log, size, 600);
            audit.caught_up(600).await.unwrap();
            let behind = audit.caught_up(599).await;
            assert!(matches!(behind, Err(AuditError::Ahead { applied: 599, logged: 600 })));
        } else {
            let error = failure(failed).await;
            assert!(matches!(error, AuditError::Diverged { index } if index == size - 1), "{error}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Wherever the gap begins and ends, and however entries go on being applied, the log ends up as if it had never had one.
    #[test]
    fn s9_a_log_with_gaps_becomes_the_log_without(
        size in 0u64..700,
        first_gap in 1u64..1200,
        applied in prop::collection::vec((1u64..40, 0u64..3), 0..8),
        second_gap in 0u64..600,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let log = Memory::new(&entries(size + first_gap + 40 * 8 + second_gap + 5));
        let others = Others::new([
            (2, log.clone(), Manner::WrongEntry(size + first_gap / 2)),
            (3, log.clone(), Manner::Honest),
        ]);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let end = runtime.block_on(async {
            let (audit, _failed) = behind(dir.path(), &log, size, size + first_gap);
            audit.fill_with(others, PATIENCE);
            let (sink, reader) = (audit.sink(), audit.reader());
            let mut at = size + first_gap;
            for (count, pause) in applied {
                append(&sink, &log, at, at + count);
                at += count;
                tokio::time::sleep(Duration::from_millis(pause)).await;
            }
            if second_gap > 0 {
                at += second_gap;
                sink.restored(at, log.root(at));
            }
            append(&sink, &log, at, at + 5);
            soon(reader.completed()).await;
            soon(reader.wait_for(at + 5)).await;
            at + 5
        });
        drop(runtime);
        check(dir.path(), &log, end);
    }
}
