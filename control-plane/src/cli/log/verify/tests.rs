//! A log with real signatures, and every way to tamper with it.

use std::collections::BTreeMap;

use tagout_proto::command::{Action, Grant, LockCommand, LockSet, Release, Start, Suspend};
use tagout_proto::envelope::Envelope;
use tagout_proto::ledger::{Ledger, Proposal};
use tagout_proto::lock::LockKind;
use tagout_proto::log::checkpoint::Checkpoint;
use tagout_proto::log::entry::EntryKind;
use tagout_proto::log::tile::{push_entry, subtree_root};
use tagout_proto::log::tree;
use tagout_proto::note::NoteSigner;
use tagout_proto::restore::{Epoch, Restore};
use tagout_proto::rule::Terms;
use tagout_proto::scope::Scope;

use super::super::resume::Kept;
use super::super::seen::{Seen, behind};
use super::super::tiles::{TileDir, check_index};
use super::super::{Record, check_consistency, check_inclusion};
use super::*;
use crate::cli::failure::{Exit, Failure};
use crate::cli::profile::Profile;
use crate::cli::signing::{Signed, sign};
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
        let mut ledger = Ledger::new(self.trust().deployment().genesis);
        let mut entries = Vec::new();
        let mut apply = |kind, envelope: Envelope| {
            let applied = ledger.apply(&Proposal { kind, time_ms: 1_000, envelope });
            entries.push(applied.entry.unwrap_or_else(|| panic!("{:?}", applied.answer)));
        };
        let genesis = std::fs::read_to_string(&self.deployed.made.genesis).unwrap();
        apply(EntryKind::Command, serde_json::from_str(&genesis).unwrap());
        let (scope, reason) = (Scope::parse("demo/a").unwrap(), "r".to_owned());
        let seen_epoch = self.trust().deployment().genesis;
        let grant = Grant {
            scope: scope.clone(),
            expires_at_ms: u64::MAX / 1_000_000,
            seen: tagout_proto::command::Seen { epoch: seen_epoch, size: 1, authority: 1 },
            terms: Terms::default(),
            reason,
        };
        apply(EntryKind::Command, self.sign(Action::Grant(grant), &["alice", "bob"]));
        let stop = self.stop("demo/a", "soar");
        let locks = LockSet::Ids(vec![stop.digest()]);
        apply(EntryKind::Command, stop);
        let release =
            Release { scope: scope.clone(), locks: locks.clone(), lost_from: None, reason: "r".into() };
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

    fn trust(&self) -> &Trust {
        self.profile.trust()
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
        let older: Vec<_> = seen.into_iter().cloned().collect();
        self.verify_after(log, &older, None, &mut |_| {})
    }

    fn verify_after(
        &self,
        tiles: &Memory,
        older: &[Checkpoint],
        before: Option<Replay>,
        step: &mut dyn FnMut(Step<'_>),
    ) -> Result<Verified, LogError> {
        let note = String::from_utf8(tiles.0["checkpoint"].clone()).unwrap();
        verify(&Log { tiles, note: &note, trust: self.trust(), older }, before, step)
    }

    /// Publishes other entries, with everything signed and hashed as it should be for them.
    fn verify_entries(&self, change: impl FnOnce(&mut Vec<Vec<u8>>)) -> Result<Verified, LogError> {
        let mut entries = self.entries.clone();
        change(&mut entries);
        self.verify(&self.publish(&entries), None)
    }

    fn checkpoint(&self, size: usize) -> Checkpoint {
        let note = self.publish(&self.entries[..size]).0["checkpoint"].clone();
        open_checkpoint(&String::from_utf8(note).unwrap(), self.trust()).unwrap()
    }
}

fn halt(scope: &str) -> Action {
    let scope = Scope::parse(scope).unwrap();
    Action::Lock(LockCommand { scope, kind: LockKind::Halt, reason: "r".into(), case: None })
}

/// The index of the entry that is blamed, and what for.
fn blamed(result: Result<Verified, LogError>) -> (u64, String) {
    match result {
        Err(LogError::Entry { index, what, .. }) => (index, what),
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
    assert_eq!(
        (verified.continues, verified.kinds[&EntryKind::Command], verified.signatures),
        (Some(300), 600, 603)
    );
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
fn s9_what_is_wrong_with_a_changed_entry_is_said_of_that_entry() {
    let world = World::new(8);
    let honest = world.publish(&world.entries);
    // The entries of an honest log with one of them changed, beside the honest tiles or without any: nodes keep no
    // partial ones.
    let said = |index: usize, tiles: bool, change: &dyn Fn(&mut Entry)| {
        let mut entries = world.entries.clone();
        let mut entry = Entry::decode(&entries[index]).unwrap();
        change(&mut entry);
        entries[index] = entry.encode().unwrap();
        let mut log = honest.clone();
        let mut bundle = Vec::new();
        entries.iter().for_each(|entry| push_entry(&mut bundle, entry));
        log.0.insert("tile/entries/000.p/8".into(), bundle);
        if !tiles {
            log.0.retain(|path, _| !path.starts_with("tile/0"));
        }
        Failure::from(world.verify(&log, None).unwrap_err()).to_string()
    };
    for tiles in [true, false] {
        assert_eq!(
            said(2, tiles, &|entry| entry.envelope.document =
                entry.envelope.document.replace("halt", "pause")),
            "entry 2 (stop of demo/a): the signature of soar does not fit the document: the entry was changed after it was \
             signed"
        );
        let cut = said(2, tiles, &|entry| entry.envelope.signatures[0].truncate(100));
        assert!(
            cut.starts_with("entry 2 (stop of demo/a): a signature on it cannot be read any more ("),
            "{cut}"
        );
        let genesis = said(0, tiles, &|entry| entry.envelope.document.push(' '));
        assert!(
            genesis.contains("entry 0 (authority of *): it is not the genesis that your profile pins"),
            "{genesis}"
        );
        let one_less = said(1, tiles, &|entry| drop(entry.envelope.signatures.pop()));
        assert!(
            one_less.starts_with(
                "entry 1 (grant of demo/a): the ledger refuses it after the entries before it, so that no"
            ) && one_less.contains("takes 2 people"),
            "{one_less}"
        );
        let unchained = said(4, tiles, &|entry| entry.prev = Digest::default());
        assert!(unchained.starts_with("entry 4 (start of demo/a): its `prev` is not"), "{unchained}");
    }
    // What nobody signed shows by the tile, and without one by the chain, which goes on from the next entry.
    let time = |entry: &mut Entry| entry.time_ms += 1;
    assert!(
        said(4, true, &time)
            .starts_with("entry 4 (start of demo/a): it does not hash to its leaf in tile/0/000.p/8")
    );
    assert!(
        said(4, false, &time)
            .starts_with("entry 4 (start of demo/a): its SHA-256 is not the `prev` of entry 5")
    );
    assert!(said(7, true, &time).starts_with("entry 7 (stop of demo/c): it does not hash to its leaf"));
    assert!(said(7, false, &time).contains("the log is not what the node signed"));
}

#[test]
fn s9_a_bundle_that_lost_or_gained_an_entry_names_it() {
    let world = World::new(300);
    let said = |change: &dyn Fn(&mut Vec<Vec<u8>>)| {
        let mut log = world.publish(&world.entries);
        let (mut entries, mut bundle) = (world.entries[..256].to_vec(), Vec::new());
        change(&mut entries);
        entries.iter().for_each(|entry| push_entry(&mut bundle, entry));
        log.0.insert("tile/entries/000".into(), bundle);
        Failure::from(world.verify(&log, None).unwrap_err()).to_string()
    };
    assert!(
        said(&|entries| drop(entries.remove(77)))
            .starts_with("entry 77 (stop of demo/c): the record of entry 78")
    );
    assert!(
        said(&|entries| drop(entries.pop()))
            .starts_with("entry 255: it is missing: tile/entries/000 ends before it")
    );
    assert!(
        said(&|entries| entries.insert(9, entries[8].clone()))
            .starts_with("entry 9 (stop of demo/c): the record of entry 8")
    );
    assert_eq!(said(&|entries| entries.push(vec![])), "tile/entries/000 is malformed");
    assert!(
        said(&|entries| entries.swap(8, 9)).starts_with("entry 8 (stop of demo/c): the record of entry 9")
    );

    // A length that is not the entry's: it is the bundle that was changed, and that entry that cannot be read.
    let mut log = world.publish(&world.entries);
    let at: usize = world.entries[..5].iter().map(|entry| entry.len() + 2).sum();
    log.0.get_mut("tile/entries/000").unwrap()[at + 1] ^= 1;
    assert_eq!(blamed(world.verify(&log, None)).0, 5);
}

/// Where an earlier run left off, as the next one finds it.
struct State {
    folder: tempfile::TempDir,
    program: Digest,
}

impl State {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), program: Digest::of(b"this build") }
    }

    fn kept(&self, world: &World) -> Kept {
        Kept::open_in(self.folder.path(), &world.profile, self.program)
    }

    fn load(&self, world: &World) -> Result<Option<Replay>, String> {
        self.kept(world).load(world.trust().deployment().genesis)
    }

    fn verify(&self, world: &World, log: &Memory, older: &[Checkpoint]) -> Result<Verified, LogError> {
        let (mut kept, before) = (self.kept(world), self.load(world).unwrap());
        world.verify_after(log, older, before, &mut |step| {
            if let Step::Ended(replay) = step {
                kept.keep(replay).unwrap();
            }
        })
    }
}

#[test]
fn a_verification_goes_on_from_the_last_one_and_comes_to_the_same_end() {
    let (world, state) = (World::new(600), State::new());
    for size in [6, 6, 255, 256, 300, 600, 600] {
        let log = world.publish(&world.entries[..size]);
        let before = state.load(&world).unwrap().map_or(0, |replay| replay.size());
        let verified = state.verify(&world, &log, &[world.checkpoint(4)]).unwrap();
        assert_eq!(verified.resumed_at, before);
        let afresh = world.verify(&log, Some(&world.checkpoint(4))).unwrap();
        assert_eq!(verified, Verified { resumed_at: before, ..afresh });
    }
    // A log that is shorter than what was replayed is replayed itself.
    let shorter = state.verify(&world, &world.publish(&world.entries[..9]), &[]).unwrap();
    assert_eq!((shorter.size, shorter.resumed_at), (9, 0));
}

#[test]
fn an_interrupted_verification_goes_on_where_it_was() {
    let (world, state) = (World::new(600), State::new());
    let log = world.publish(&world.entries);
    for lost in ["tile/entries/002.p/88", "tile/entries/001"] {
        /// A node that goes away in the middle.
        struct Lost<'a>(&'a Memory, &'a str);
        impl Tiles for Lost<'_> {
            fn read(&self, path: &str) -> Result<Option<Vec<u8>>, Failure> {
                let gone = || Failure::new(Exit::Unreachable, "unreachable", "no node answered");
                if path == self.1 { Err(gone()) } else { self.0.read(path) }
            }
        }
        let (mut kept, before) = (state.kept(&world), state.load(&world).unwrap());
        let (note, tiles) = (String::from_utf8(log.0["checkpoint"].clone()).unwrap(), Lost(&log, lost));
        let lost = Log { tiles: &tiles, note: &note, trust: world.trust(), older: &[] };
        let result = verify(&lost, before, &mut |step| {
            if let Step::Ended(replay) = step {
                kept.keep(replay).unwrap();
            }
        });
        assert!(matches!(result, Err(LogError::Read(_))), "{result:?}");
        // A second interruption, while it is only hashing again, takes nothing away.
        assert_eq!(state.load(&world).unwrap().unwrap().size(), 512);
    }
    assert_eq!(state.verify(&world, &log, &[]).unwrap().resumed_at, 512);
}

#[test]
fn s9_what_was_verified_before_does_not_hide_what_was_changed_since() {
    let (world, state) = (World::new(600), State::new());
    let honest = world.publish(&world.entries);
    state.verify(&world, &honest, &[]).unwrap();
    let mut entries = world.entries.clone();
    *entries[300].last_mut().unwrap() ^= 1;
    // With the honest tiles and without; by a node that hashes anew what it changed, and signs it.
    let (mut log, rewritten) = (honest.clone(), world.publish(&entries));
    log.0.insert("tile/entries/001".into(), rewritten.0["tile/entries/001"].clone());
    for log in [&log, &rewritten] {
        let (index, what) = blamed(state.verify(&world, log, &[]));
        assert_eq!(index, 300, "{what}");
    }
    let mut log = honest.clone();
    log.0.get_mut("tile/0/000").unwrap()[77] ^= 1;
    let changed = state.verify(&world, &log, &[]);
    assert!(matches!(changed, Err(LogError::Tile { at: 2, .. })), "{changed:?}");
    // Another history is another history, also below what was replayed.
    let other = Checkpoint { root: Digest::of(b"x"), ..world.checkpoint(300) };
    let forked = state.verify(&world, &honest, &[other]);
    assert!(matches!(forked, Err(LogError::Forked { size: 300, .. })), "{forked:?}");
    assert_eq!(state.load(&world).unwrap().unwrap().size(), 600, "nothing bad was kept");
}

#[test]
fn a_state_that_is_damaged_or_of_another_program_or_deployment_is_not_used() {
    let (world, state) = (World::new(20), State::new());
    assert!(state.load(&world).unwrap().is_none());
    state.verify(&world, &world.publish(&world.entries), &[]).unwrap();
    let why = |state: &State| state.load(&world).map(|_| "it is used").unwrap_or_else(|why| why.leak());
    assert_eq!(why(&state), "it is used");
    let path = state.kept(&world).path().to_owned();
    let good = std::fs::read(&path).unwrap();
    for at in (0..good.len()).step_by(101) {
        let mut bad = good.clone();
        bad[at] ^= 1;
        std::fs::write(&path, bad).unwrap();
        assert_eq!(why(&state), "it is damaged", "byte {at}");
        std::fs::write(&path, &good[..at]).unwrap();
        assert_eq!(why(&state), "it is damaged", "cut off at {at}");
    }
    std::fs::write(&path, &good).unwrap();
    let other = state.kept(&world).load(Digest::of(b"another genesis")).err().unwrap();
    assert_eq!(other, "it is of another deployment");
    let state = State { program: Digest::of(b"another build"), ..state };
    assert_eq!(why(&state), "another version of tagout wrote it");
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
        let root = [world.deployed.keys.signer("root")];
        entry.envelope = sign(entry.envelope.document, &root).unwrap();
        entries[5] = entry.encode().unwrap();
        rechain(entries);
    }));
    assert_eq!((at, what.contains("belongs to no principal")), (5, true), "{what}");
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
    let (whole, other) = (world.checkpoint(600), Digest::of(b"another history"));
    let note = String::from_utf8(log.0["checkpoint"].clone()).unwrap();
    let reader = LogReader::new(&log, 600);
    for size in [0, 1, 2, 255, 256, 257, 300, 512, 599, 600] {
        let old = world.checkpoint(size as usize);
        reader.continues(whole.root, &old).unwrap();
        // And as a file, for somebody who has the older checkpoint.
        let proof = reader.prove_since(&old, &note, whole.root).unwrap().to_text();
        assert_eq!(check_consistency(&proof, &old, world.trust()).unwrap(), whole);
        let forked = Checkpoint { root: other, ..old };
        assert_eq!(check_consistency(&proof, &forked, world.trust()).unwrap_err().exit, Exit::Unverified);
    }
    let other = |size| Checkpoint { root: other, size, ..whole.clone() };
    for size in [1, 256, 300, 600] {
        assert!(matches!(reader.continues(whole.root, &other(size)), Err(LogError::Forked { .. })), "{size}");
    }
    let signed = reader.continues(other(600).root, &world.checkpoint(300));
    assert!(matches!(signed, Err(LogError::Root { .. })), "{signed:?}");
    assert!(matches!(reader.continues(whole.root, &other(601)), Err(LogError::Shorter { .. })));
}

#[test]
fn the_newest_checkpoint_is_remembered_and_only_moves_on() {
    let world = World::new(20);
    let dir = tempfile::tempdir().unwrap();
    let load = || Seen::load_from(&dir.path().join("state"), &world.profile);
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

/// The roots' word that a new epoch begins, in a log of `lost_from` entries.
fn restore(world: &World, lost_from: u64, by: &str) -> Envelope {
    let authority = world.profile.authority();
    let document = Restore {
        deployment: authority.deployment.clone(),
        epoch: Epoch { number: 2, id: Digest([7; 32]) },
        issued_at_ms: 0,
        authority_version: authority.version,
        authority: authority.digest,
        checkpoint_size: 20,
        checkpoint_root: Digest([8; 32]),
        lost_from,
        reason: "all nodes are lost".into(),
    };
    sign(document.to_document(), &[world.deployed.keys.signer(by)]).unwrap()
}

#[test]
fn s9_only_a_restore_that_the_roots_signed_lets_a_log_be_shorter_than_what_was_seen() {
    for (seen_before, lost_from) in [(20, 10), (10, 10)] {
        let mut world = World::new(20);
        let dir = tempfile::tempdir().unwrap();
        let note = |size: usize| {
            String::from_utf8(world.publish(&world.entries[..size]).0["checkpoint"].clone()).unwrap()
        };
        let (note_before, note_after) = (note(seen_before), note(12));
        let mut seen = Seen::load_from(dir.path(), &world.profile).unwrap();
        seen.remember(&note_before, &world.checkpoint(seen_before)).unwrap();

        let genesis = world.profile.chain.documents()[0].clone();
        let forged = world.profile.chain.go_on(vec![genesis.clone(), restore(&world, lost_from, "alice")]);
        assert_eq!(forged.unwrap_err().code(), "authority-refused");
        world.profile.chain.go_on(vec![genesis.clone(), restore(&world, lost_from, "root")]).unwrap();
        let mut seen = Seen::load_from(dir.path(), &world.profile).unwrap();
        if seen_before as u64 > lost_from {
            let lost = seen.lost.clone().unwrap();
            assert_eq!((lost.checkpoint.size, lost.from, seen.checkpoint.is_none()), (20, 10, true));
            assert_eq!(seen.size(), 11, "the restore itself is in the log");
            let said = || Failure::new(Exit::Unreachable, "no-checkpoint", "try again");
            assert!(
                behind(10, 10, seen.size(), said()).is_err() && behind(11, 11, seen.size(), said()).is_ok()
            );
        } else {
            assert_eq!((seen.size(), &seen.lost), (10, &None), "it is continued");
        }
        seen.remember(&note_after, &world.checkpoint(12)).unwrap();
        assert_eq!(Seen::load_from(dir.path(), &world.profile).unwrap().size(), 12);
        assert_eq!(
            std::fs::read_dir(dir.path()).unwrap().count(),
            2,
            "what the epoch before had shown is kept"
        );
    }
}

#[test]
fn s5_a_later_epoch_may_have_lost_what_is_remembered_and_an_equal_one_may_not() {
    let mut world = World::new(6);
    let genesis = world.profile.chain.documents()[0].clone();
    let keys = vec![world.deployed.keys.public("soar")];
    let suspend = Suspend { keys, reason: "r".into(), case: None };
    let suspend = world.sign(Action::Suspend(suspend), &["alice"]);
    assert!(world.profile.chain.go_on(vec![genesis.clone(), suspend.clone()]).unwrap());
    let behind = world.profile.chain.go_on(vec![genesis.clone()]).unwrap_err();
    assert_eq!(behind.code(), "authority-behind");
    let restored = vec![genesis.clone(), restore(&world, 5, "root")];
    assert!(world.profile.chain.go_on(restored.clone()).unwrap());
    assert_eq!(world.trust().epoch().number, 2);
    assert_eq!(world.profile.chain.documents(), &restored[..]);
    let back = world.profile.chain.go_on(vec![genesis, suspend]).unwrap_err();
    assert_eq!(back.code(), "authority-forked");
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
        let (proof, checkpoint) = check_inclusion(&text, entry, world.trust()).unwrap();
        assert_eq!((proof.index, checkpoint.size), (index, 300));
        let other = &world.entries[(index as usize + 1) % 300];
        assert_eq!(check_inclusion(&text, other, world.trust()).unwrap_err().exit, Exit::Unverified);
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
    let log = Log { tiles: &tiles, note: &note, trust: world.trust(), older: &[] };
    assert_eq!(verify(&log, None, &mut |_| {}).unwrap().size, 9);
    let empty = TileDir { path: dir.path().join("nothing") };
    assert!(matches!(super::super::tiles::read_checkpoint(&empty), Err(LogError::NoCheckpoint)));
}

#[test]
fn entries_are_told_in_a_few_words() {
    let world = World::new(6);
    let told = |index: usize| Record::new(&world.entries[index], world.trust()).unwrap();
    assert!(told(0).summary().starts_with("authority "));
    assert_eq!(told(2).summary(), "stop demo/a (halt) \"r\"");
    assert_eq!(told(2).signed_by, ["soar"]);
    assert_eq!(told(3).summary(), "release 1 lock on demo/a \"r\"");
    assert_eq!(told(4).summary(), "start demo/a after 1 lock \"r\"");
}
