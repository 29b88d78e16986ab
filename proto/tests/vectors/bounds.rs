//! Bounds that take too many documents for vectors.

use ed25519_dalek::{Signer as _, SigningKey};
use serde_json::{Value, json};
use tagout_proto::digest::Digest;
use tagout_proto::envelope::Envelope;
use tagout_proto::ledger::{Ledger, Proposal, Receipt, Refusal};
use tagout_proto::limits::{
    KEYS_PER_SUSPEND_MAX, LOCK_IDS_MAX, REMEMBERED_MAX, SUSPENDED_KEYS_MAX, WAVES_PER_LOCK_MAX,
};
use tagout_proto::log::entry::EntryKind;
use tagout_proto::scope::Scope;
use tagout_proto::sshsig::{self, PublicKey};

use crate::cases::{genesis, pinned};
use crate::codes::Code;

/// People of the vectors' genesis, by the seeds of their keys.
const ALICE: u8 = 1;
const BOB: u8 = 2;

struct World {
    ledger: Ledger,
    next_id: u64,
}

impl World {
    fn new() -> Self {
        let mut world = Self { ledger: Ledger::new(pinned()), next_id: 0 };
        world.send(genesis()).expect("the genesis");
        world
    }

    fn send(&mut self, envelope: Envelope) -> Result<Receipt, Refusal> {
        let proposal = Proposal { kind: EntryKind::Command, time_ms: 1_795_359_600_000, envelope };
        self.ledger.apply(&proposal).answer
    }

    fn command(&mut self, action: &str, more: Value, signers: &[u8]) -> Result<Receipt, Refusal> {
        self.next_id += 1;
        let mut document = json!({
            "tagout": 1, "deployment": format!("demo:{}", pinned()), "action": action,
            "id": format!("c-{}", self.next_id), "issued_at": "2026-11-22T15:00:00Z", "reason": "r",
        });
        document.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        let document = document.to_string();
        let signatures = signers.iter().map(|seed| sign(*seed, &document)).collect();
        self.send(Envelope { document, signatures })
    }
}

fn sign(seed: u8, document: &str) -> String {
    let key = SigningKey::from_bytes(&[seed; 32]);
    let signature = key.sign(&sshsig::to_be_signed(sshsig::NAMESPACE, document.as_bytes())).to_bytes();
    let public = PublicKey::Ed25519(key.verifying_key().to_bytes());
    sshsig::armor(&public.blob(), sshsig::NAMESPACE, &sshsig::ed25519_signature_blob(&signature))
}

fn code(answer: Result<Receipt, Refusal>) -> String {
    answer.map(|receipt| format!("{receipt:?}")).unwrap_or_else(|refusal| refusal.code())
}

#[test]
fn no_more_keys_are_suspended_than_the_limit() {
    let mut world = World::new();
    let mut made = 0u64;
    let mut keys = |count: usize| {
        let line = |_| {
            made += 1;
            let mut seed = [0xa5; 32];
            seed[..8].copy_from_slice(&made.to_be_bytes());
            PublicKey::Ed25519(SigningKey::from_bytes(&seed).verifying_key().to_bytes()).to_openssh()
        };
        (0..count).map(line).collect::<Vec<_>>()
    };
    for _ in 0..SUSPENDED_KEYS_MAX / KEYS_PER_SUSPEND_MAX - 1 {
        let full = json!({"keys": keys(KEYS_PER_SUSPEND_MAX)});
        world.command("suspend", full, &[ALICE]).expect("there is room");
    }
    let almost = json!({"keys": keys(KEYS_PER_SUSPEND_MAX - 1)});
    world.command("suspend", almost, &[ALICE]).expect("there is room");
    let two = json!({"keys": keys(2)});
    assert_eq!(code(world.command("suspend", two, &[ALICE])), "too-many-suspended");
    let one = json!({"keys": keys(1)});
    world.command("suspend", one, &[ALICE]).expect("there is room for one");
    let one_more = json!({"keys": keys(1)});
    assert_eq!(code(world.command("suspend", one_more, &[ALICE])), "too-many-suspended");
}

#[test]
fn no_more_digests_are_waited_for_than_the_limit() {
    let mut world = World::new();
    let mut made = 0u64;
    let mut ids = |count: usize| {
        let id = |_| {
            made += 1;
            Digest::of(&made.to_be_bytes())
        };
        (0..count).map(id).collect::<Vec<_>>()
    };
    for _ in 0..REMEMBERED_MAX / LOCK_IDS_MAX {
        let more = json!({"scope": "a", "locks": ids(LOCK_IDS_MAX)});
        let receipt = world.command("release", more, &[ALICE, BOB]).expect("there is room");
        assert_eq!(receipt.awaited, LOCK_IDS_MAX as u64);
    }
    let one_more = json!({"scope": "a", "locks": ids(1)});
    assert_eq!(code(world.command("release", one_more, &[ALICE, BOB])), "too-many-remembered");
    let known = json!({"scope": "a", "locks": [Digest::of(&1u64.to_be_bytes())]});
    world.command("start", known, &[ALICE, BOB]).expect("what is waited for already takes no room");
    world
        .command("stop", json!({"scope": "a", "mode": "halt"}), &[ALICE])
        .expect("S10: a stop is always taken");
}

#[test]
fn a_lock_with_all_its_waves_takes_a_start_of_its_whole_scope() {
    let mut world = World::new();
    let stop = json!({"scope": "a", "mode": "halt"});
    let lock = world.command("stop", stop, &[ALICE]).expect("a stop").digest;
    let people = [ALICE, BOB];
    world.command("release", json!({"scope": "a", "locks": [lock]}), &people).expect("a release");
    for wave in 0..WAVES_PER_LOCK_MAX {
        let more = json!({"scope": format!("a/{wave}"), "locks": [lock]});
        world.command("start", more, &people).expect("a wave");
    }
    let one_more = json!({"scope": "a/more", "locks": [lock]});
    assert_eq!(code(world.command("start", one_more, &people)), "too-many-waves");
    let agent = Scope::parse("a/more").expect("a scope");
    assert_eq!(world.ledger.locks_on(&agent), [lock]);
    world.command("start", json!({"scope": "*", "locks": [lock]}), &people).expect("the whole scope");
    assert_eq!(world.ledger.locks_on(&agent), []);
}
