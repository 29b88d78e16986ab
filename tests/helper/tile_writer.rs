//! The audit log on a disk that fails: every checkpoint that was published is still covered, every file is whole, and
//! applying all entries again finds them equal.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use tagout_control_plane::audit::AuditLog;
use tagout_control_plane::raft::STORAGE_FAILED_EXIT_CODE;
use tagout_proto::digest::Digest;
use tagout_proto::log::checkpoint::Checkpoint;
use tagout_proto::log::tile::{TILE_WIDTH, TileId, TileKind, push_entry, subtree_root};
use tagout_proto::log::tree::{Frontier, leaf_hash};
use tagout_proto::note::NoteSigner;
use tokio::runtime::Runtime;

use tagout_tests::random::Random;

use crate::cuts::Target;

pub struct Tiles;

const ORIGIN: &str = "power:0000000000000000000000000000000000000000000000000000000000000000";
/// How many entries a restart applies again, at most.
const REPLAYED: u64 = 600;

impl Target for Tiles {
    fn write(&self, folder: &Path, seed: u64, round: u64) {
        let log = open(folder, || std::process::exit(STORAGE_FAILED_EXIT_CODE)).expect("the audit log opens");
        let (sink, reader, runtime) = (log.sink(), log.reader(), runtime());
        let mut random = Random::new(seed, round);
        let durable = reader.checkpointed_size();
        let mut tree = Frontier::default();
        let mut append = |index| {
            let entry = entry(seed, index);
            tree.push(leaf_hash(&entry));
            if index + REPLAYED >= durable {
                sink.append(index, entry, tree.root());
            }
        };
        (0..durable).for_each(&mut append);
        let mut size = durable;
        loop {
            let batch = size..size + random.magnitude(9);
            size = batch.end;
            batch.for_each(&mut append);
            runtime.block_on(reader.wait_for(size));
            println!("acknowledged {size}");
        }
    }

    fn check(
        &mut self,
        folder: &Path,
        seed: u64,
        _: u64,
        acknowledged: Option<u64>,
    ) -> Result<String, String> {
        let size = match fs::read_to_string(folder.join("checkpoint")) {
            Ok(note) => {
                let checkpoint = Checkpoint::open(&note, &signer().verifier(), ORIGIN);
                checkpoint.map_err(|e| format!("the checkpoint: {e}"))?.size
            }
            Err(_) => 0,
        };
        if size < acknowledged.unwrap_or(0) {
            return Err(format!("found a checkpoint of only {size} entries"));
        }

        // Sealed files may lie above the checkpoint, and must be right as well.
        let mut files = files_in(&folder.join("tile"))?;
        let full = expected_tiles(seed, size + 2 * 4096);
        let sealed = files.iter().filter(|(id, _)| id.is_full()).count();
        for (id, bytes) in &full {
            match files.remove(id) {
                Some(found) if found != *bytes => return Err(format!("tile {id} has other bytes")),
                None if last_entry(id) < size => return Err(format!("tile {id} is missing")),
                _ => {}
            }
        }
        for (id, found) in files.iter().filter(|(id, _)| !id.is_full()) {
            if *found != bundle(seed, id.n * TILE_WIDTH, id.width.into()) {
                return Err(format!("partial bundle {id} has other bytes"));
            }
        }
        if let Some((id, _)) = files.iter().find(|(id, _)| id.is_full()) {
            return Err(format!("tile {id} is of entries that were never written"));
        }

        let log = open(folder, || panic!("the log differs from the entries that were applied again"));
        let log = log.map_err(|e| format!("it does not open: {e}"))?;
        let (sink, reader) = (log.sink(), log.reader());
        let mut tree = Frontier::default();
        for index in 0..size + REPLAYED {
            let entry = entry(seed, index);
            tree.push(leaf_hash(&entry));
            sink.append(index, entry, tree.root());
        }
        drop(sink);
        drop(log);
        match reader.checkpointed_size() {
            after if after == size + REPLAYED => {
                Ok(format!("found {size} entries under the checkpoint and {sealed} sealed tiles"))
            }
            after => Err(format!("after {size} entries it was applied {REPLAYED} more and covers {after}")),
        }
    }
}

fn signer() -> NoteSigner {
    NoteSigner::new("power/node-1", &[7; 32]).expect("a name for a note")
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime")
}

fn open(folder: &Path, failed: impl FnOnce() + Send + 'static) -> Result<AuditLog, String> {
    AuditLog::open(folder, ORIGIN.into(), signer(), |error| {
        eprintln!("{error}: {:?}", std::error::Error::source(&error));
        failed();
    })
    .map_err(|e| e.to_string())
}

/// The same entry at the same index, in whatever round.
fn entry(seed: u64, index: u64) -> Vec<u8> {
    let mut random = Random::new(seed, index);
    let length = 50 + random.below(600);
    random.bytes(length)
}

fn bundle(seed: u64, first: u64, width: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    (first..first + width).for_each(|index| push_entry(&mut bytes, &entry(seed, index)));
    bytes
}

/// The full tiles of a log of this size, computed the plain way.
fn expected_tiles(seed: u64, size: u64) -> BTreeMap<TileId, Vec<u8>> {
    let width = TILE_WIDTH as u16;
    let mut tiles = BTreeMap::new();
    let mut hashes: Vec<Digest> = (0..size).map(|index| leaf_hash(&entry(seed, index))).collect();
    for n in 0..size / TILE_WIDTH {
        tiles.insert(TileId { kind: TileKind::Entries, n, width }, bundle(seed, n * TILE_WIDTH, TILE_WIDTH));
    }
    for level in 0.. {
        let full = hashes.chunks_exact(TILE_WIDTH as usize);
        if full.len() == 0 {
            break;
        }
        for (n, tile) in (0..).zip(full.clone()) {
            let bytes = tile.iter().flat_map(|hash| hash.0).collect();
            tiles.insert(TileId { kind: TileKind::Hashes { level }, n, width }, bytes);
        }
        hashes = full.map(subtree_root).collect();
    }
    tiles
}

/// The index of the entry that fills a full tile.
fn last_entry(id: &TileId) -> u64 {
    let level = match id.kind {
        TileKind::Entries => 0,
        TileKind::Hashes { level } => u32::from(level),
    };
    (id.n + 1) * TILE_WIDTH.pow(level + 1) - 1
}

/// All tiles below a folder, except the temporary files of a write that was cut off.
fn files_in(tiles: &Path) -> Result<BTreeMap<TileId, Vec<u8>>, String> {
    let mut found = BTreeMap::new();
    let mut folders: Vec<PathBuf> = tiles.is_dir().then(|| tiles.to_owned()).into_iter().collect();
    while let Some(folder) = folders.pop() {
        for item in fs::read_dir(&folder).map_err(|e| e.to_string())? {
            let path = item.map_err(|e| e.to_string())?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_none_or(|e| e != "tmp") {
                let name = path.strip_prefix(tiles).expect("it lies below").to_string_lossy().into_owned();
                let id = TileId::parse(&name).ok_or_else(|| format!("{name} is no tile"))?;
                found.insert(id, fs::read(&path).map_err(|e| format!("{name}: {e}"))?);
            }
        }
    }
    Ok(found)
}
