//! What the core costs, each figure beside the work that cannot be left out: `cargo bench -p tagout-proto`.
//!
//! Both sides of a ratio take turns in one run, and the median of their turns is printed: a noisy machine slows both.

#[path = "../tests/core/support.rs"]
#[allow(dead_code, reason = "the tests use the rest of it")]
mod support;

use std::hint::black_box;
use std::time::Instant;

use ed25519_dalek::{Signature, Verifier as _, VerifyingKey};
use serde_json::json;
use tagout_proto::digest::Digest;
use tagout_proto::envelope::Envelope;
use tagout_proto::ledger::{Ledger, Proposal, bulk_list, bulk_locks};
use tagout_proto::log::entry::{Entry, EntryKind};
use tagout_proto::log::tree::leaf_hash;
use tagout_proto::sshsig;
use tagout_proto::strict::format_instant_ms;

use support::*;

const TURNS: usize = 31;
const LOCKS: usize = 100_000;

fn main() {
    // `cargo test --benches` only wants to know that it runs.
    let locks = if std::env::args().any(|arg| arg == "--bench") { LOCKS } else { 200 };
    println!("one thread, medians of {TURNS} turns\n");
    floors();
    commands();
    verification(locks.min(2_000));
    large_ledger(locks);
}

/// The median of `TURNS` turns of each side, which take turns, in nanoseconds per call.
fn compare(mut ours: impl FnMut(), mut peer: impl FnMut(), calls_per_turn: u32) -> (f64, f64) {
    let turn = |work: &mut dyn FnMut()| {
        let began = Instant::now();
        (0..calls_per_turn).for_each(|_| work());
        began.elapsed().as_nanos() as f64 / f64::from(calls_per_turn)
    };
    let (mut a, mut b): (Vec<_>, Vec<_>) = (0..TURNS).map(|_| (turn(&mut ours), turn(&mut peer))).unzip();
    (median(&mut a), median(&mut b))
}

fn median(figures: &mut [f64]) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

fn row(what: &str, ours_ns: f64, peer: &str, peer_ns: f64) {
    println!("{what:<44} {:>9.1} µs   {:>5.2} × {peer}", ours_ns / 1e3, ours_ns / peer_ns);
}

/// One strict Ed25519 verification and the hash of what was signed: the floor of every command with one signature.
struct Floor {
    key: VerifyingKey,
    signature: Signature,
    document: String,
}

impl Floor {
    fn new(document: &str) -> Self {
        use ed25519_dalek::Signer as _;
        let key = signing_key(ALICE);
        let signature = key.sign(&sshsig::to_be_signed(sshsig::NAMESPACE, document.as_bytes()));
        Self { key: key.verifying_key(), signature, document: document.into() }
    }

    fn pay(&self, signatures: usize) {
        black_box(Digest::of(self.document.as_bytes()));
        for _ in 0..signatures {
            let signed = sshsig::to_be_signed(sshsig::NAMESPACE, black_box(self.document.as_bytes()));
            self.key.verify_strict(&signed, &self.signature).unwrap();
        }
    }
}

fn floors() {
    let floor = Floor::new(&World::running().stop_document("a/b", "halt").document);
    let lax = || {
        let signed = sshsig::to_be_signed(sshsig::NAMESPACE, floor.document.as_bytes());
        floor.key.verify(&signed, &floor.signature).unwrap();
    };
    let (strict_ns, lax_ns) = compare(|| floor.pay(1), lax, 50);
    row("floor: SHA-256 and one strict Ed25519", strict_ns, "plain Ed25519", lax_ns);
}

/// Applying each command, beside its hash and its signatures.
fn commands() {
    println!("\napply, whole: bounds, strict JSON, signatures, roles, state, entry, tree");
    let mut world = World::running();
    let lock = world.stop("a", "halt");
    let released = world.stop("b", "halt");
    world.release("b", &[released]).unwrap();
    let granted = world.grant("c", T0 + 86_400_000).unwrap().digest;
    let thousand: Vec<Digest> = (0..1000).map(|_| world.stop("loop", "pause")).collect();
    let before = world.ledger.size();
    let bulk = {
        let records = world.ledger.locks_touching(&scope("loop"));
        let ids =
            bulk_list(tagout_proto::command::ActionKind::Release, &scope("loop"), before, None, &records);
        assert_eq!(ids, thousand);
        let bulk = bulk_locks(&ids, before, None);
        json!({"locks": {"count": bulk.count, "root": bulk.root, "before": bulk.before}})
    };
    let seen = json!({"epoch": world.ledger.epoch().id, "size": world.ledger.size(), "authority": 1});
    let expires_at = format_instant_ms(T0 + 86_400_000);
    let one = &[ALICE][..];
    let two = &[ALICE, BOB][..];
    let cases = [
        ("stop", "stop", "a/b", json!({"mode": "halt"}), one),
        ("restrict", "restrict", "a/b", json!({}), one),
        ("throttle", "throttle", "a/b", json!({"limits": {"calls_per_minute": 6}}), one),
        ("isolate", "isolate", "a/b", json!({}), one),
        ("revoke", "revoke", "c", json!({"grants": [granted]}), one),
        ("release of one lock", "release", "a", json!({"locks": [lock]}), two),
        ("release of 400 locks", "release", "loop", json!({"locks": thousand[..400]}), two),
        ("release of 1,000 locks by their root", "release", "loop", bulk, two),
        ("start", "start", "b", json!({"locks": [released]}), two),
        ("grant", "grant", "d", json!({"expires_at": expires_at, "seen": seen}), two),
    ];
    for (what, action, on, more, who) in cases {
        let envelope = envelope(world.document(action, on, more), who);
        command(&world.ledger, what, envelope);
    }
    let suspend = world.suspend_document(&[public_key(CAROL)], &[ALICE]);
    command(&world.ledger, "suspend", suspend);
    // Both roots sign it, and each of the two looks at both signatures.
    let authority = envelope(world.successor(|_| {}), &[ROOT_1, ROOT_2]);
    command(&world.ledger, "authority", authority);
}

fn command(ledger: &Ledger, what: &str, envelope: Envelope) {
    let (floor, signatures) = (Floor::new(&envelope.document), envelope.signatures.len());
    let (ours_ns, floor_ns) = apply_beside(ledger, envelope, |_| floor.pay(signatures));
    row(what, ours_ns, &format!("SHA-256 and {signatures} strict Ed25519"), floor_ns);
}

/// `apply` on a fresh copy of the ledger each time; the copying is not counted.
fn apply_beside(ledger: &Ledger, envelope: Envelope, mut peer: impl FnMut(&Envelope)) -> (f64, f64) {
    let proposal = Proposal { kind: EntryKind::Command, time_ms: T0, envelope };
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..TURNS {
        let mut copy = ledger.clone();
        let began = Instant::now();
        let applied = black_box(copy.apply(&proposal));
        ours.push(began.elapsed().as_nanos() as f64);
        applied.answer.unwrap();
        let began = Instant::now();
        peer(&proposal.envelope);
        theirs.push(began.elapsed().as_nanos() as f64);
    }
    (median(&mut ours), median(&mut theirs))
}

/// What `tagout log verify` does for an entry, without reading it from anywhere.
fn verification(stops: usize) {
    println!(
        "\nverifying the log: decode, chain, replay, leaf, beside SHA-256 and strict Ed25519 of each entry"
    );
    let mut world = World::running();
    for _ in 0..stops {
        world.stop("a/b", "pause");
    }
    let floor = Floor::new(&world.stop_document("a/b", "pause").document);
    let entries = &world.entries;
    let verify = || {
        let mut ledger = Ledger::new(genesis().digest());
        for bytes in entries {
            let Entry { kind, time_ms, envelope, .. } = Entry::decode(bytes).unwrap();
            let applied = ledger.apply(&Proposal { kind, time_ms, envelope });
            assert!(applied.entry.as_deref() == Some(bytes));
            black_box(leaf_hash(bytes));
        }
    };
    let hash = || {
        for bytes in entries {
            black_box(leaf_hash(bytes));
            floor.pay(1);
        }
    };
    let (ours_ns, floor_ns) = compare(verify, hash, 1);
    let per = entries.len() as f64;
    row(&format!("one of {per} entries"), ours_ns / per, "the floor", floor_ns / per);
}

/// A ledger of many locks on as many scopes, and an agent eight deep with locks on every level.
fn large_ledger(locks: usize) {
    println!("\na ledger of {locks} locks on {locks} scopes");
    let before_kib = resident_kib();
    let mut world = World::running();
    let agent = scope("s0/x/x/x/x/x/x/x");
    let levels: Vec<String> = agent.upward().map(|level| level.to_string()).collect();
    let modes = ["halt", "drain", "pause"];
    for i in 0..locks {
        let on = match levels.get(i) {
            Some(level) => level.clone(),
            None => format!("s{}/g{}/agent_{i}", i % 10, i % 100),
        };
        let envelope = world.stop_document(&on, modes[i % modes.len()]);
        let proposal = Proposal { kind: EntryKind::Command, time_ms: T0, envelope };
        world.ledger.apply(&proposal).answer.unwrap();
    }
    let resident_kib = resident_kib().saturating_sub(before_kib);
    let snapshot = postcard::to_stdvec(&world.ledger).unwrap();
    let per = |bytes: usize| bytes as f64 / locks as f64;
    println!(
        "snapshot {:.1} MiB, {:.0} bytes a lock",
        snapshot.len() as f64 / 1048576.0,
        per(snapshot.len())
    );
    println!(
        "resident {:.1} MiB, {:.0} bytes a lock",
        resident_kib as f64 / 1024.0,
        per(resident_kib as usize * 1024)
    );
    let small = World::running();
    let (large_ns, small_ns) = compare(
        || drop(black_box(world.ledger.view(&agent, T0))),
        || drop(black_box(small.ledger.view(&agent, T0))),
        200,
    );
    row("view of an agent eight deep", large_ns, "the same in an empty ledger", small_ns);
    let (large_ns, small_ns) = compare(
        || _ = black_box(world.ledger.verdict(&agent, T0)),
        || _ = black_box(small.ledger.verdict(&agent, T0)),
        200,
    );
    row("verdict for it", large_ns, "the same in an empty ledger", small_ns);
    let stop = world.stop_document("s0", "halt");
    let floor = Floor::new(&stop.document);
    let (ours_ns, floor_ns) = apply_beside(&world.ledger, stop, |_| floor.pay(1));
    row("apply of a stop", ours_ns, "SHA-256 and one strict Ed25519", floor_ns);
    let began = Instant::now();
    let restored: Ledger = postcard::from_bytes(&snapshot).unwrap();
    println!("reading the snapshot {:.0} ms", began.elapsed().as_secs_f64() * 1e3);
    assert_eq!(restored.lock_count(), world.ledger.lock_count());
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or_default()
}
