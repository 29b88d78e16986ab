//! Seeds in a ground that is nothing but a ledger.

use std::sync::atomic::{AtomicUsize, Ordering};

use ed25519_dalek::{Signer as _, SigningKey};
use parking_lot::Mutex;
use serde_json::json;
use tagout_proto::ledger::Ledger;
use tagout_proto::log::tile::push_entry;
use tagout_proto::note::NoteSigner;
use tagout_proto::restore::Epoch;
use tagout_proto::sshsig::{self, PublicKey};

use super::*;

const ROOT: u8 = 1;
const ALICE: u8 = 2;

fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

fn openssh(seed: u8) -> PublicKey {
    PublicKey::Ed25519(key(seed).verifying_key().to_bytes())
}

fn signed(document: String, by: u8) -> Envelope {
    let bytes = sshsig::to_be_signed(sshsig::NAMESPACE, document.as_bytes());
    let blob = sshsig::ed25519_signature_blob(&key(by).sign(&bytes).to_bytes());
    let armored = sshsig::armor(&openssh(by).blob(), sshsig::NAMESPACE, &blob);
    Envelope { document, signatures: vec![armored] }
}

fn node(id: u64) -> serde_json::Value {
    let name = format!("demo/node-{id}");
    json!({"id": id, "key": NoteSigner::new(&name, &[id as u8 + 9; 32]).unwrap().verifier().to_string()})
}

fn authority(more: serde_json::Value, nodes: &[u64]) -> Envelope {
    let mut document = json!({
        "tagout": 1, "action": "authority", "deployment": "demo", "version": 1, "issued_at": "2026-11-22T15:00:00Z",
        "principals": [{"name": "alice", "kind": "person", "keys": [openssh(ALICE).to_openssh()]}],
        "roles": [{"name": "all", "principals": ["alice"], "actions": ["stop", "release", "start", "grant"],
            "scopes": ["*"], "threshold": 1}],
        "root": {"threshold": 1, "signers": [{"name": "root", "key": openssh(ROOT).to_openssh()}]},
        "nodes": nodes.iter().map(|id| node(*id)).collect::<Vec<_>>(),
        "limits": {"ttl_ms": 10_000, "lapse_grace_ms": 0},
    });
    for (key, value) in more.as_object().unwrap() {
        document[key] = value.clone();
    }
    signed(document.to_string(), ROOT)
}

/// A deployment's log as it was before all of its nodes were lost.
struct Old {
    ledger: Ledger,
    entries: Vec<Vec<u8>>,
}

impl Old {
    fn new() -> Self {
        let genesis = authority(json!({}), &[1]);
        let mut old = Self { ledger: Ledger::new(genesis.digest()), entries: vec![] };
        old.propose(EntryKind::Command, genesis);
        old
    }

    fn of(size: u64) -> Self {
        let mut old = Self::new();
        while old.ledger.size() < size {
            old.stop();
        }
        old
    }

    fn propose(&mut self, kind: EntryKind, envelope: Envelope) {
        let time_ms = 1_000 + self.ledger.size();
        let applied = self.ledger.apply(&Proposal { kind, time_ms, envelope });
        self.entries.push(applied.entry.unwrap_or_else(|| panic!("{:?}", applied.answer)));
    }

    fn command(&self, action: &str, more: serde_json::Value) -> Envelope {
        let mut document = json!({
            "tagout": 1, "deployment": self.deployment(), "action": action, "id": format!("{action}-{:010}", self.ledger.size()),
            "issued_at": "2026-11-22T15:00:00Z", "scope": "demo/a", "reason": "test",
        });
        for (key, value) in more.as_object().unwrap() {
            document[key] = value.clone();
        }
        signed(document.to_string(), ALICE)
    }

    fn stop(&mut self) {
        let stop = self.command("stop", json!({"mode": "halt"}));
        self.propose(EntryKind::Command, stop);
    }

    fn deployment(&self) -> String {
        self.ledger.deployment().unwrap().to_string()
    }

    fn tree(&self) -> (u64, Digest) {
        (self.ledger.size(), self.ledger.frontier().root())
    }

    /// The restore and the authority after it, as root signers sign them.
    fn then(&self) -> Vec<Envelope> {
        let (size, root) = self.tree();
        let authority_now = self.ledger.authority().unwrap();
        let restore = Restore {
            deployment: authority_now.deployment.clone(),
            epoch: Epoch { number: 2, id: Digest([7; 32]) },
            issued_at_ms: 0,
            authority_version: authority_now.version,
            authority: authority_now.digest,
            checkpoint_size: size,
            checkpoint_root: root,
            lost_from: size,
            reason: "all nodes are lost".into(),
        };
        let next = json!({
            "deployment": self.deployment(), "version": 2, "previous": authority_now.digest, "disables": 0,
        });
        vec![signed(restore.to_document(), ROOT), authority(next, &[2])]
    }

    fn bundle(&self, id: TileId) -> Vec<u8> {
        let mut bytes = Vec::new();
        let first = (id.n * TILE_WIDTH) as usize;
        self.entries[first..first + usize::from(id.width)].iter().for_each(|e| push_entry(&mut bytes, e));
        bytes
    }

    fn write(&self, data: &Path) {
        Seed::write(data, &self.deployment(), self.tree(), self.then(), |id| Ok(self.bundle(id))).unwrap();
    }

    fn load(&self, data: &Path) -> Result<Option<Seed>, SeedError> {
        Seed::load(data, &self.deployment(), self.ledger.pinned())
    }
}

/// A node's ledger, which a test may end in the middle.
struct Node {
    ledger: Mutex<Ledger>,
    commits: AtomicUsize,
    /// Commits that succeed before the process ends, in the middle of the next one.
    crash_after: usize,
}

impl Node {
    fn new(pinned: Digest, crash_after: usize) -> Self {
        Self { ledger: Mutex::new(Ledger::new(pinned)), commits: AtomicUsize::new(0), crash_after }
    }
}

impl Ground for Node {
    fn tree(&self) -> (u64, Digest) {
        let ledger = self.ledger.lock();
        (ledger.size(), ledger.frontier().root())
    }

    async fn commit(&self, proposals: Vec<Proposal>) -> anyhow::Result<Vec<Result<Receipt, Refusal>>> {
        let crash = self.commits.fetch_add(1, Ordering::Relaxed) >= self.crash_after;
        let last = if crash { proposals.len() / 2 } else { proposals.len() };
        let mut ledger = self.ledger.lock();
        let answers = proposals[..last].iter().map(|proposal| ledger.apply(proposal).answer).collect();
        if crash { Err(anyhow::anyhow!("the process ended")) } else { Ok(answers) }
    }
}

#[tokio::test]
async fn s1_a_restored_log_is_the_old_one_byte_for_byte_and_then_halted_in_a_new_epoch() {
    let mut old = Old::of(300);
    // What is in the log and was refused all the same: a stop whose release came first.
    let stop = old.command("stop", json!({"mode": "pause"}));
    let release = old.command("release", json!({"locks": [stop.digest()]}));
    old.propose(EntryKind::Command, release);
    old.propose(EntryKind::Command, stop);
    let data = tempfile::tempdir().unwrap();
    old.write(data.path());
    let seed = old.load(data.path()).unwrap().unwrap();
    assert_eq!((seed.is_genesis(), seed.authority().unwrap().version), (false, 2));

    let node = Node::new(old.ledger.pinned(), usize::MAX);
    assert_eq!(plant(&seed, &node).await.unwrap(), Planted { from: 0, to: 304 });
    let ledger = node.ledger.lock();
    assert_eq!((ledger.epoch().number, ledger.authority().unwrap().nodes[0].id), (2, 2));
    let lock = ledger.lock(&old.then()[0].digest()).unwrap();
    assert_eq!((lock.lost_from, lock.lock.scope.to_string().as_str()), (Some(302), "*"));
    assert!(old.load(data.path()).unwrap().is_none(), "it is off the disk");
    assert_eq!(fs::read_dir(data.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn s1_a_crash_anywhere_in_the_planting_goes_on_where_it_ended() {
    let old = Old::of(600);
    for crash_after in 0..5 {
        let data = tempfile::tempdir().unwrap();
        old.write(data.path());
        let seed = old.load(data.path()).unwrap().unwrap();
        let mut node = Node::new(old.ledger.pinned(), crash_after);
        assert!(matches!(plant(&seed, &node).await, Err(SeedError::Commit(_))), "{crash_after}");
        let (size, _) = node.tree();
        node.crash_after = usize::MAX;
        let seed = old.load(data.path()).unwrap().expect("it stays until all of it has grown");
        assert_eq!(plant(&seed, &node).await.unwrap(), Planted { from: size, to: 602 });
        assert_eq!(node.ledger.lock().epoch().number, 2);
    }
}

#[tokio::test]
async fn the_genesis_alone_is_a_seed_too_and_planted_once() {
    let old = Old::new();
    let genesis = authority(json!({}), &[1]);
    let data = tempfile::tempdir().unwrap();
    fs::create_dir(data.path().join(BEGIN)).unwrap();
    fs::write(data.path().join("begin/genesis.json"), serde_json::to_string(&genesis).unwrap()).unwrap();
    let node = Node::new(old.ledger.pinned(), usize::MAX);
    let seed = old.load(data.path()).unwrap().unwrap();
    assert!(seed.is_genesis());
    assert_eq!(plant(&seed, &node).await.unwrap(), Planted { from: 0, to: 1 });
    assert_eq!(plant(&seed, &node).await.unwrap(), Planted { from: 1, to: 1 });
    assert!(!data.path().join(BEGIN).exists());

    fs::create_dir(data.path().join(BEGIN)).unwrap();
    let other = authority(json!({"deployment": "other"}), &[1]);
    fs::write(data.path().join("begin/genesis.json"), serde_json::to_string(&other).unwrap()).unwrap();
    assert!(old.load(data.path()).unwrap_err().to_string().contains("pins"));
}

#[tokio::test]
async fn s9_a_seed_that_is_not_what_it_says_plants_nothing() {
    let old = Old::of(300);
    let damaged = |break_it: &dyn Fn(&Path)| {
        let data = tempfile::tempdir().unwrap();
        old.write(data.path());
        break_it(&data.path().join(BEGIN));
        data
    };
    let entries = "tile/entries/000";
    let flipped = damaged(&|begin| {
        let mut bytes = fs::read(begin.join(entries)).unwrap();
        let at = bytes.len() / 2;
        bytes[at] ^= 1;
        fs::write(begin.join(entries), bytes).unwrap();
    });
    let cut = damaged(&|begin| fs::write(begin.join(entries), b"").unwrap());
    for data in [&flipped, &cut] {
        let node = Node::new(old.ledger.pinned(), usize::MAX);
        let seed = old.load(data.path()).unwrap().unwrap();
        let error = plant(&seed, &node).await.unwrap_err();
        assert!(matches!(error, SeedError::Damaged { .. }), "{error}");
        assert_eq!(node.tree().0, 0, "what is committed stays, so nothing was");
    }
    let incomplete = damaged(&|begin| fs::remove_file(begin.join(SEED_FILE)).unwrap());
    assert!(matches!(old.load(incomplete.path()), Err(SeedError::Incomplete { .. })));
    let newer = damaged(&|begin| {
        let text = fs::read_to_string(begin.join(SEED_FILE)).unwrap();
        fs::write(begin.join(SEED_FILE), text.replace("\"format\":1,", "\"format\":2,\"more\":true,"))
            .unwrap();
    });
    let error = old.load(newer.path()).unwrap_err().to_string();
    assert!(error.contains("newer version") && error.contains("format 2"), "{error}");
}

#[tokio::test]
async fn s1_a_log_with_another_history_takes_no_seed() {
    let old = Old::of(300);
    let data = tempfile::tempdir().unwrap();
    old.write(data.path());
    let seed = old.load(data.path()).unwrap().unwrap();
    let node = Node::new(old.ledger.pinned(), usize::MAX);
    let mut other = Old::new();
    let stop = other.command("stop", json!({"mode": "pause"}));
    other.propose(EntryKind::Command, stop);
    *node.ledger.lock() = other.ledger.clone();
    let error = plant(&seed, &node).await.unwrap_err();
    assert!(matches!(error, SeedError::Elsewhere { size: 2, .. }), "{error}");
    assert_eq!(node.tree(), other.tree());
    // Nor one that is longer than the backup.
    *node.ledger.lock() = Old::of(400).ledger;
    let error = plant(&seed, &node).await.unwrap_err();
    assert!(matches!(error, SeedError::Refused { what: "restore", .. }), "{error}");
}

#[tokio::test]
async fn s1_a_restore_that_the_roots_did_not_sign_ends_the_start() {
    let old = Old::of(10);
    let data = tempfile::tempdir().unwrap();
    let mut then = old.then();
    then[0] = signed(then[0].document.clone(), ALICE);
    Seed::write(data.path(), &old.deployment(), old.tree(), then, |id| Ok(old.bundle(id))).unwrap();
    let node = Node::new(old.ledger.pinned(), usize::MAX);
    let seed = old.load(data.path()).unwrap().unwrap();
    let error = plant(&seed, &node).await.unwrap_err().to_string();
    assert!(error.contains("the restore that shall follow the backup is refused"), "{error}");
    assert!(data.path().join(BEGIN).exists(), "so that every start says so");
}
