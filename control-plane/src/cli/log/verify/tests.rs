//! A log with real signatures, and every way to tamper with it.

use std::collections::BTreeMap;

use tagout_proto::command::{Action, Grant, Release, Start, Stop, StopMode};
use tagout_proto::envelope::Envelope;
use tagout_proto::log::checkpoint::Checkpoint;
use tagout_proto::log::entry::EntryKind;
use tagout_proto::log::tile::{push_entry, subtree_root};
use tagout_proto::log::tree;
use tagout_proto::note::NoteSigner;
use tagout_proto::scope::Scope;

use super::super::seen::Seen;
use super::super::tiles::{TileDir, check_index};
use super::super::{Record, check_proof};
use super::*;
use crate::cli::failure::{Exit, Failure};
use crate::cli::profile::Profile;
use crate::cli::signing::Signed;
use crate::cli::testing::{self, Deployed};

mod fuzz;

/// A log in memory.
#[derive(Clone, Default)]
struct Memory(BTreeMap<String, Vec<u8>>);

impl Tiles for Memory {
    fn read(&self, path: &str) -> Result<Option<Vec<u8>>, Failure> {
        Ok(self.0.get(path).cloned())
    }
}

struct World {
    deployed: Deployed,
    profile: Profile,
    node: NoteSigner,
    entries: Vec<Vec<u8>>,
}

impl World {
    /// A genesis, then the life of an agent; then stops until there are `size` entries.
    fn new(size: usize) -> Self {
        let deployed = testing::deployed();
        let profile = Profile::load(&deployed.made.profile).unwrap();
        let node_dir = deployed.made.node_config.parent().unwrap();
        let seed = std::fs::read_to_string(node_dir.join("node.key")).unwrap();
        let seed = data_encoding::BASE64.decode(seed.trim().as_bytes()).unwrap();
        let node = NoteSigner::new("demo/node-1", &seed.try_into().unwrap()).unwrap();
        let mut world = Self { deployed, profile, node, entries: vec![] };
        world.entries = world.life(size);
        world
    }

    fn life(&self, size: usize) -> Vec<Vec<u8>> {
        let mut ledger = Ledger::new(self.authority().deployment.genesis);
        let mut entries = Vec::new();
        let mut apply = |kind, envelope: Envelope| {
            let applied = ledger.apply(&Proposal { kind, time_ms: 1_000, envelope });
            entries.push(applied.entry.unwrap_or_else(|| panic!("{:?}", applied.answer)));
        };
        let genesis = std::fs::read_to_string(&self.deployed.made.genesis).unwrap();
        apply(EntryKind::Command, serde_json::from_str(&genesis).unwrap());
        let (scope, reason) = (Scope::parse("demo/a").unwrap(), "r".to_owned());
        let seen_epoch = self.authority().deployment.genesis;
        let grant = Grant {
            scope: scope.clone(),
            expires_at_ms: u64::MAX / 1_000_000,
            seen_epoch,
            seen_size: 1,
            reason,
        };
        apply(EntryKind::Command, self.sign(Action::Grant(grant), &["alice", "bob"]));
        let stop = self.stop("demo/a", "soar");
        let locks = vec![stop.digest()];
        apply(EntryKind::Command, stop);
        let release = Release { scope: scope.clone(), locks: locks.clone(), reason: "r".into() };
        apply(EntryKind::Command, self.sign(Action::Release(release), &["alice", "bob"]));
        let start = Start { scope, locks, reason: "r".into() };
        apply(EntryKind::Command, self.sign(Action::Start(start), &["bob", "alice"]));
        apply(EntryKind::Command, self.stop("demo/b", "alice"));
        let alice = [self.deployed.keys.signer("alice")];
        for _ in 6..size {
            let signed = Signed::new(self.profile.deployment(), halt("demo/c"), &alice).unwrap();
            apply(EntryKind::Command, signed.envelope);
        }
        entries.truncate(size);
        entries
    }

    fn authority(&self) -> &Authority {
        &self.profile.authority
    }

    fn sign(&self, action: Action, names: &[&str]) -> Envelope {
        let signers: Vec<_> = names.iter().map(|name| self.deployed.keys.signer(name)).collect();
        Signed::new(self.profile.deployment(), action, &signers).unwrap().envelope
    }

    fn stop(&self, scope: &str, by: &str) -> Envelope {
        self.sign(halt(scope), &[by])
    }

    /// The tiles and the signed checkpoint of `entries`, as an honest node publishes them.
    fn publish(&self, entries: &[Vec<u8>]) -> Memory {
        let mut files = BTreeMap::new();
        let mut level: Vec<Digest> = entries.iter().map(|e| leaf_hash(e)).collect();
        let root = tree::root(&level);
        for (n, chunk) in entries.chunks(256).enumerate() {
            let mut bundle = Vec::new();
            chunk.iter().for_each(|entry| push_entry(&mut bundle, entry));
            let id = TileId { kind: TileKind::Entries, n: n as u64, width: chunk.len() as u16 };
            files.insert(format!("tile/{id}"), bundle);
        }
        for height in 0.. {
            if level.is_empty() {
                break;
            }
            for (n, chunk) in level.chunks(256).enumerate() {
                let kind = TileKind::Hashes { level: height };
                let id = TileId { kind, n: n as u64, width: chunk.len() as u16 };
                files.insert(format!("tile/{id}"), chunk.iter().flat_map(|h| h.0).collect());
            }
            level = level.as_chunks::<256>().0.iter().map(|tile| subtree_root(tile)).collect();
        }
        let origin = self.profile.deployment().to_string();
        let note = Checkpoint { origin, size: entries.len() as u64, root }.sign(&self.node);
        files.insert("checkpoint".into(), note.into());
        Memory(files)
    }

    fn verify(&self, log: &Memory, seen: Option<&Checkpoint>) -> Result<Verified, LogError> {
        let note = String::from_utf8(log.0["checkpoint"].clone()).unwrap();
        verify(log, &note, self.authority(), seen, &mut |_, _| {})
    }

    /// Publishes other entries, with everything signed and hashed as it should be for them.
    fn verify_entries(&self, change: impl FnOnce(&mut Vec<Vec<u8>>)) -> Result<Verified, LogError> {
        let mut entries = self.entries.clone();
        change(&mut entries);
        self.verify(&self.publish(&entries), None)
    }

    fn checkpoint(&self, size: usize) -> Checkpoint {
        let note = self.publish(&self.entries[..size]).0["checkpoint"].clone();
        open_checkpoint(&String::from_utf8(note).unwrap(), self.authority()).unwrap()
    }
}

fn halt(scope: &str) -> Action {
    let scope = Scope::parse(scope).unwrap();
    Action::Stop(Stop { scope, mode: StopMode::Halt, reason: "r".into(), case: None })
}

/// The index of the entry that is blamed, and what for.
fn blamed(result: Result<Verified, LogError>) -> (u64, String) {
    match result {
        Err(LogError::Entry { index, what }) => (index, what),
        other => panic!("no entry is blamed: {other:?}"),
    }
}

/// Chains entries anew, as a node could that is ready to rewrite history.
fn rechain(entries: &mut [Vec<u8>]) {
    let mut prev = Digest::default();
    for (index, bytes) in entries.iter_mut().enumerate() {
        let entry = Entry::decode(bytes).unwrap();
        *bytes = Entry { index: index as u64, prev, ..entry }.encode().unwrap();
        prev = Digest::of(bytes);
    }
}

#[test]
fn an_honest_log_verifies_at_every_size() {
    let world = World::new(600);
    for size in [0, 1, 2, 6, 255, 256, 257, 511, 512, 513, 600] {
        let verified = world.verify(&world.publish(&world.entries[..size]), None).unwrap();
        assert_eq!(verified.size, size as u64);
        assert_eq!(verified.kinds.values().sum::<u64>(), size as u64);
    }
    let verified = world.verify(&world.publish(&world.entries), Some(&world.checkpoint(300))).unwrap();
    assert_eq!((verified.continues, verified.kinds["command"], verified.signatures), (Some(300), 600, 603));
}

#[test]
fn s9_every_flipped_bit_of_an_entry_is_found_at_that_entry() {
    let world = World::new(6);
    let honest = world.publish(&world.entries);
    for (index, entry) in world.entries.iter().enumerate() {
        for at in (0..entry.len()).step_by(29).chain([entry.len() - 1]) {
            let mut entries = world.entries.clone();
            entries[index][at] ^= 1;
            // The node's tiles and checkpoint are the honest ones; only this entry was changed.
            let mut log = honest.clone();
            let mut bundle = Vec::new();
            entries.iter().for_each(|entry| push_entry(&mut bundle, entry));
            log.0.insert("tile/entries/000.p/6".into(), bundle);
            let (found, what) = blamed(world.verify(&log, None));
            assert_eq!(found, index as u64, "byte {at}: {what}");
        }
    }
}

#[test]
fn s9_every_flipped_tile_and_checkpoint_is_found() {
    let world = World::new(600);
    let honest = world.publish(&world.entries);
    for (path, bytes) in &honest.0 {
        for at in [0, bytes.len() / 2, bytes.len() - 1] {
            let mut log = honest.clone();
            log.0.get_mut(path).unwrap()[at] ^= 1;
            if String::from_utf8(log.0["checkpoint"].clone()).is_err() {
                continue;
            }
            let result = world.verify(&log, None);
            assert!(result.is_err(), "{path}, byte {at}: {result:?}");
        }
        let mut log = honest.clone();
        let partial = path.contains(".p/") && !path.contains("entries");
        if path != "checkpoint" {
            log.0.remove(path);
            // Partial hash tiles follow from the rest, and nodes do not keep them.
            assert_eq!(world.verify(&log, None).is_ok(), partial, "{path}");
        }
    }
    let mut log = honest.clone();
    log.0.get_mut("tile/1/000.p/2").unwrap()[40] ^= 1;
    assert!(matches!(world.verify(&log, None), Err(LogError::Tile { at: 1, .. })));
}

#[test]
fn s9_dropped_inserted_and_swapped_entries_are_found_where_they_are() {
    let world = World::new(8);
    let (at, what) = blamed(world.verify_entries(|entries| drop(entries.remove(3))));
    assert_eq!((at, what.contains("record of entry 4")), (3, true), "{what}");
    let (at, what) = blamed(world.verify_entries(|entries| entries.insert(3, entries[2].clone())));
    assert_eq!((at, what.contains("record of entry 2")), (3, true), "{what}");
    assert_eq!(blamed(world.verify_entries(|entries| entries.swap(2, 3))).0, 2);
}

#[test]
fn s9_a_node_that_rewrites_its_log_with_its_own_key_is_still_found() {
    let world = World::new(8);
    // The release is gone, and all else is chained, hashed and signed by the node as if it had never been.
    let (at, what) = blamed(world.verify_entries(|entries| {
        entries.remove(3);
        rechain(entries);
    }));
    assert_eq!(at, 3);
    assert!(what.contains("release it first"), "{what}");

    // A grant with one of its two signatures.
    let (at, what) = blamed(world.verify_entries(|entries| {
        let mut entry = Entry::decode(&entries[1]).unwrap();
        entry.envelope.signatures.pop();
        entries[1] = entry.encode().unwrap();
        rechain(entries);
    }));
    assert_eq!((at, what.contains("takes 2 people")), (1, true), "{what}");

    // A command a second time.
    let (at, what) = blamed(world.verify_entries(|entries| {
        entries.insert(6, entries[5].clone());
        rechain(entries);
    }));
    assert_eq!((at, what.contains("only once")), (6, true), "{what}");

    // A stop by a stranger's key.
    let (at, what) = blamed(world.verify_entries(|entries| {
        let mut entry = Entry::decode(&entries[5]).unwrap();
        entry.envelope.signatures = world.stop("demo/b", "root").signatures;
        entries[5] = entry.encode().unwrap();
        rechain(entries);
    }));
    assert_eq!((at, what.contains("refuses it")), (5, true), "{what}");
}

#[test]
fn s9_a_cut_end_and_a_fork_show_against_an_older_checkpoint() {
    let world = World::new(300);
    let cut = world.publish(&world.entries[..290]);
    world.verify(&cut, None).unwrap();
    let result = world.verify(&cut, Some(&world.checkpoint(300)));
    assert!(matches!(result, Err(LogError::Shorter { size: 290, seen: 300 })), "{result:?}");

    // The last entries are others, properly made: only the older checkpoint tells.
    let mut forked = world.entries.clone();
    forked[280] = Entry { time_ms: 77, ..Entry::decode(&forked[280]).unwrap() }.encode().unwrap();
    rechain(&mut forked);
    let forked = world.publish(&forked);
    world.verify(&forked, Some(&world.checkpoint(280))).unwrap();
    for seen in [281, 300] {
        let result = world.verify(&forked, Some(&world.checkpoint(seen)));
        assert!(matches!(result, Err(LogError::Forked { size, .. }) if size == seen as u64), "{result:?}");
    }
}

#[test]
fn the_same_is_found_without_reading_all_entries() {
    let world = World::new(600);
    let log = world.publish(&world.entries);
    let whole = world.checkpoint(600);
    let reader = LogReader::new(&log, 600);
    for size in [0, 1, 2, 255, 256, 257, 300, 512, 599, 600] {
        reader.check_continues(whole.root, size, world.checkpoint(size as usize).root).unwrap();
    }
    let other = Digest::of(b"another history");
    assert!(matches!(reader.check_continues(whole.root, 300, other), Err(LogError::Forked { .. })));
    assert!(matches!(
        reader.check_continues(other, 300, world.checkpoint(300).root),
        Err(LogError::Root { .. })
    ));
    assert!(matches!(reader.check_continues(whole.root, 601, other), Err(LogError::Shorter { .. })));
}

#[test]
fn the_newest_checkpoint_is_remembered_and_only_moves_on() {
    let world = World::new(20);
    let dir = tempfile::tempdir().unwrap();
    let load = || Seen::load_from(dir.path().join("state"), &world.profile);
    let note = |log: &Memory| String::from_utf8(log.0["checkpoint"].clone()).unwrap();
    let (short, long) = (world.publish(&world.entries[..10]), world.publish(&world.entries));
    let mut seen = load().unwrap();
    seen.check(&world.checkpoint(10), &short).unwrap();
    seen.remember(&note(&short), &world.checkpoint(10)).unwrap();
    load().unwrap().check(&world.checkpoint(20), &long).unwrap();
    load().unwrap().remember(&note(&long), &world.checkpoint(20)).unwrap();
    load().unwrap().remember(&note(&short), &world.checkpoint(10)).unwrap();
    assert_eq!(load().unwrap().size(), 20);
    let cut = load().unwrap().check(&world.checkpoint(10), &short);
    assert!(matches!(cut, Err(LogError::Shorter { .. })));

    let file = std::fs::read_dir(dir.path().join("state")).unwrap().next().unwrap().unwrap().path();
    std::fs::write(&file, note(&long).replace("\n20\n", "\n19\n")).unwrap();
    assert_eq!(load().map(|seen| seen.size()).unwrap_err().exit, Exit::Unverified);
}

#[test]
fn a_proof_convinces_with_the_entry_alone_and_with_no_other() {
    let world = World::new(300);
    let (log, whole) = (world.publish(&world.entries), world.checkpoint(300));
    let note = String::from_utf8(log.0["checkpoint"].clone()).unwrap();
    let reader = LogReader::new(&log, 300);
    for index in [0, 5, 255, 256, 299] {
        let text = reader.prove(index, &note, whole.root).unwrap().to_text();
        let entry = &world.entries[index as usize];
        let (proof, checkpoint) = check_proof(&text, entry, world.authority()).unwrap();
        assert_eq!((proof.index, checkpoint.size), (index, 300));
        let other = &world.entries[(index as usize + 1) % 300];
        assert_eq!(check_proof(&text, other, world.authority()).unwrap_err().exit, Exit::Unverified);
    }
    assert!(check_index(299, 300).is_ok());
    assert!(check_index(300, 300).unwrap_err().to_string().contains("ends with entry 299"));
}

#[test]
fn a_folder_may_hold_wider_partial_tiles_than_its_checkpoint_covers() {
    let world = World::new(12);
    let dir = tempfile::tempdir().unwrap();
    let mut files = world.publish(&world.entries).0;
    files.retain(|path, _| path.contains("entries"));
    files.insert("checkpoint".into(), world.publish(&world.entries[..9]).0.remove("checkpoint").unwrap());
    for (path, bytes) in files {
        let path = dir.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    let tiles = TileDir { path: dir.path().into() };
    let note = super::super::tiles::read_checkpoint(&tiles).unwrap();
    assert_eq!(verify(&tiles, &note, world.authority(), None, &mut |_, _| {}).unwrap().size, 9);
    let empty = TileDir { path: dir.path().join("nothing") };
    assert!(matches!(super::super::tiles::read_checkpoint(&empty), Err(LogError::NoCheckpoint)));
}

#[test]
fn entries_are_told_in_a_few_words() {
    let world = World::new(6);
    let told = |index: usize| Record::new(&world.entries[index], world.authority()).unwrap();
    assert!(told(0).summary().starts_with("authority "));
    assert_eq!(told(2).summary(), "stop demo/a (halt) \"r\"");
    assert_eq!(told(2).signed_by, ["soar"]);
    assert_eq!(told(3).summary(), "release 1 lock on demo/a \"r\"");
    assert_eq!(told(4).summary(), "start demo/a after 1 lock \"r\"");
}
