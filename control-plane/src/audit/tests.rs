//! The log against its own restarts: what was written comes back, what differs is refused (S9).

mod gap;
mod hang;
mod roots;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};

use tagout_proto::digest::Digest;
use tagout_proto::envelope::Envelope;
use tagout_proto::log::checkpoint::Checkpoint;
use tagout_proto::log::entry::{Entry, EntryKind};
use tagout_proto::log::proof::InclusionProof;
use tagout_proto::log::tile::{TILE_WIDTH, TileId, TileKind, parse_bundle, parse_hashes, subtree_root};
use tagout_proto::log::tree::{Frontier, leaf_hash, prove_inclusion};
use tagout_proto::note::NoteSigner;

use super::{AuditError, AuditLog, AuditReader};

const ORIGIN: &str = "demo:00";

fn signer() -> NoteSigner {
    NoteSigner::new("demo/node-1", &[7; 32]).unwrap()
}

fn entries(count: u64) -> Vec<Vec<u8>> {
    let mut prev = Digest::default();
    (0..count)
        .map(|index| {
            let envelope = Envelope { document: format!("{{\"n\":{index}}}"), signatures: vec!["s".into()] };
            let entry =
                Entry { kind: EntryKind::Command, index, time_ms: index, prev, envelope }.encode().unwrap();
            prev = Digest::of(&entry);
            entry
        })
        .collect()
}

fn open(folder: &Path) -> Result<(AuditLog, Receiver<AuditError>), AuditError> {
    let (failed, failure) = channel();
    let log = AuditLog::open(folder, ORIGIN.into(), signer(), move |e| {
        let _ = failed.send(e);
    })?;
    Ok((log, failure))
}

/// Appends `entries[from..]` as a replay does, waits for the checkpoint and closes. Gives the writer's failure, if any.
fn run(folder: &Path, entries: &[Vec<u8>], from: usize) -> Result<AuditReader, AuditError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (log, failure) = open(folder)?;
    let (sink, reader) = (log.sink(), log.reader());
    let mut frontier = Frontier::default();
    for (index, entry) in entries.iter().enumerate() {
        frontier.push(leaf_hash(entry));
        if index >= from {
            sink.append(index as u64, entry.clone(), frontier.root());
        }
    }
    let written = runtime.block_on(async {
        let written = reader.wait_for(entries.len() as u64);
        let failed = tokio::task::spawn_blocking(move || failure.recv());
        tokio::select! {
            biased;
            () = written => None,
            failed = failed => Some(failed.unwrap().unwrap()),
        }
    });
    drop(log);
    // The receiver's thread ends with the writer.
    drop(runtime);
    written.map_or(Ok(reader), Err)
}

fn bundle_path(folder: &Path, n: u64, width: u16) -> std::path::PathBuf {
    folder.join("tile").join(TileId { kind: TileKind::Entries, n, width }.to_string())
}

#[test]
fn s9_sealed_tiles_are_read_only_and_everything_is_served_at_every_width() {
    let dir = tempfile::tempdir().unwrap();
    let all = entries(600);
    let reader = run(dir.path(), &all, 0).unwrap();
    for n in [0, 1] {
        let mode = fs::metadata(bundle_path(dir.path(), n, 256)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o444);
    }
    assert!(
        !bundle_path(dir.path(), 1, 1).parent().unwrap().exists(),
        "partial bundles of sealed tiles are gone"
    );
    for (n, width) in [(0, 256), (0, 7), (1, 255), (2, 88), (2, 1)] {
        let part = reader.tile(TileId { kind: TileKind::Entries, n, width }).unwrap().unwrap();
        let start = n as usize * 256;
        assert_eq!(parse_bundle(&part).unwrap(), all[start..start + usize::from(width)]);
        let hashes = reader.tile(TileId { kind: TileKind::Hashes { level: 0 }, n, width }).unwrap().unwrap();
        let expected: Vec<_> = all[start..start + usize::from(width)].iter().map(|e| leaf_hash(e)).collect();
        assert_eq!(parse_hashes(&hashes).unwrap(), expected);
    }
    for (level, n, width) in [(0, 2, 89), (0, 3, 1), (1, 0, 3), (2, 0, 1), (9, 0, 1)] {
        assert_eq!(reader.tile(TileId { kind: TileKind::Hashes { level }, n, width }).unwrap(), None);
    }
    assert_eq!(reader.entry(599).unwrap().index, 599);
    assert!(reader.entry_bytes(600).unwrap().is_none());
}

#[test]
fn a_proof_from_its_tiles_convinces_for_every_entry() {
    let dir = tempfile::tempdir().unwrap();
    let all = entries(300);
    let reader = run(dir.path(), &all, 0).unwrap();
    let checkpoint = reader.checkpoint();
    for index in [0u64, 1, 255, 256, 299] {
        let mut perfect = |level: u32, n: u64| -> std::io::Result<Digest> {
            let (tile_level, within) = ((level / 8) as u8, level % 8);
            let first = n << within;
            let last = (first % TILE_WIDTH) + (1 << within);
            let id = TileId {
                kind: TileKind::Hashes { level: tile_level },
                n: first / TILE_WIDTH,
                width: last as u16,
            };
            let hashes = parse_hashes(&reader.tile(id)?.unwrap()).unwrap();
            Ok(subtree_root(&hashes[(first % TILE_WIDTH) as usize..]))
        };
        let path = prove_inclusion(index, 300, &mut perfect).unwrap();
        let proof = InclusionProof { index, path, checkpoint: checkpoint.to_string() };
        proof.verify(&all[index as usize], &signer().verifier(), ORIGIN).unwrap();
    }
}

#[test]
fn a_restart_goes_on_where_it_was_at_every_size_around_a_tile() {
    for size in [1, 2, 255, 256, 257, 511, 512, 513] {
        let dir = tempfile::tempdir().unwrap();
        let all = entries(size + 3);
        run(dir.path(), &all[..size as usize], 0).unwrap();
        // The whole log is replayed, or only what came after a snapshot.
        let from = if size % 2 == 0 { 0 } else { size as usize };
        let reader = run(dir.path(), &all, from).unwrap();
        let open = Checkpoint::open(&reader.checkpoint(), &signer().verifier(), ORIGIN).unwrap();
        let leaves: Vec<_> = all.iter().map(|e| leaf_hash(e)).collect();
        assert_eq!((open.size, open.root), (size + 3, tagout_proto::log::tree::root(&leaves)), "from {size}");
    }
}

#[test]
fn s9_a_replay_that_differs_is_refused_at_its_entry() {
    let all = entries(300);
    for at in [0usize, 100, 255, 256, 299] {
        let dir = tempfile::tempdir().unwrap();
        run(dir.path(), &all, 0).unwrap();
        let mut other = all.clone();
        other[at][20] ^= 1;
        match run(dir.path(), &[&other[..], &entries(301)[300..]].concat(), 0) {
            Err(AuditError::Diverged { index }) => assert_eq!(index, at as u64),
            outcome => panic!("entry {at}: {:?}", outcome.err()),
        }
    }
}

#[test]
fn s9_damage_at_the_edge_is_refused_at_the_start() {
    let all = entries(300);
    type Damage = fn(&Path);
    let damages: [(&str, Damage); 5] = [
        ("hash to its own checkpoint", |d| flip(&bundle_path(d, 1, 44), 30)),
        ("torn", |d| cut(&bundle_path(d, 1, 44))),
        ("missing", |d| fs::remove_file(bundle_path(d, 1, 44)).unwrap()),
        ("missing or torn", |d| fs::remove_file(d.join("tile/0/000")).unwrap()),
        ("checkpoint", |d| flip(&d.join("checkpoint"), 3)),
    ];
    for (says, damage) in damages {
        let dir = tempfile::tempdir().unwrap();
        run(dir.path(), &all, 0).unwrap();
        damage(dir.path());
        let error = open(dir.path()).err().expect(says).to_string();
        assert!(error.contains(says) && error.contains("restore"), "{error}");
    }
}

#[test]
fn a_crash_between_two_steps_is_mended_by_the_replay() {
    let dir = tempfile::tempdir().unwrap();
    let all = entries(256);
    run(dir.path(), &all[..200], 0).unwrap();
    let older: Vec<_> =
        ["checkpoint", "tile/entries/000.p/200"].map(|f| (f, fs::read(dir.path().join(f)).unwrap())).into();
    run(dir.path(), &all, 200).unwrap();
    // As if the machine had died after sealing the tile and before the newer checkpoint got its name.
    fs::create_dir(dir.path().join("tile/entries/000.p")).unwrap();
    for (file, bytes) in older {
        fs::write(dir.path().join(file), bytes).unwrap();
    }
    fs::write(dir.path().join("tile/entries/000.p/17"), b"left over").unwrap();
    fs::write(dir.path().join("tile/entries/.000.1.2.tmp"), b"half").unwrap();
    let reader = run(dir.path(), &all, 0).unwrap();
    assert_eq!(reader.checkpointed_size(), 256);
    let mut left: Vec<_> =
        fs::read_dir(dir.path().join("tile/entries")).unwrap().map(|e| e.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["000"]);
}

#[test]
fn bundles_that_a_crash_left_without_a_checkpoint_are_in_nobodys_way() {
    let dir = tempfile::tempdir().unwrap();
    let all = entries(700);
    for (n, width) in [(0, 9), (1, 200), (2, 3)] {
        let leftover = bundle_path(dir.path(), n, width);
        fs::create_dir_all(leftover.parent().unwrap()).unwrap();
        fs::write(leftover, b"written, and never named by a checkpoint").unwrap();
    }
    // One entry after the other, so that each of these bundles gets its turn.
    run(dir.path(), &all[..1], 0).unwrap();
    assert_eq!(run(dir.path(), &all, 0).unwrap().checkpointed_size(), 700);
    assert!(!bundle_path(dir.path(), 1, 200).parent().unwrap().exists());
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 1;
    fs::remove_file(path).unwrap();
    fs::write(path, bytes).unwrap();
}

fn cut(path: &Path) {
    let bytes = fs::read(path).unwrap();
    fs::remove_file(path).unwrap();
    fs::write(path, &bytes[..bytes.len() - 1]).unwrap();
}
