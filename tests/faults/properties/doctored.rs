//! A good run, and for each property runs in which something went wrong that its check must see.

use tagout_proto::digest::Digest;
use tagout_proto::envelope::Envelope;
use tagout_proto::ledger::LockRecord;
use tagout_proto::lock::LockKind;
use tagout_proto::log::checkpoint::Checkpoint;
use tagout_proto::log::entry::{Entry, EntryKind};
use tagout_proto::log::tree::{leaf_hash, root};
use tagout_proto::scope::Scope;
use tagout_proto::view::{LockView, Tag};

use super::{CHECKS, Run, violations};
use crate::faults::history::{Answer, Attempt, By, Command, Decided, Decision, Ending, Lease, Record, What};

const S: u64 = 1_000_000_000;
const TTL_S: u64 = 2;

/// Two nodes and a guard of one agent. At second 1 it is stopped, at 10 released, at 11 started; at 20 it is stopped again,
/// for good. Between, a leaseless time from 13 to 17.
fn good() -> Run {
    let mut run =
        Run { record: Record::default(), nodes: vec![1, 2], endings: Vec::new(), ttl_ms: TTL_S * 1_000 };
    let stop = took(&mut run, 1, 0, lock("first"), "first");
    let release = What::Release { locks: vec![stop] };
    took(&mut run, 10, 1, release, "release");
    let start = What::Start { scope: agent(), locks: vec![stop] };
    took(&mut run, 11, 2, start, "start");
    let last = took(&mut run, 20, 3, lock("last"), "last");
    // Forged, and refused.
    sent(
        &mut run,
        By::Forger,
        21,
        What::Release { locks: vec![last] },
        "forged",
        refused(403, "below-threshold"),
    );
    sent(
        &mut run,
        By::Automation,
        21,
        What::Release { locks: vec![last] },
        "automation",
        refused(403, "no-role"),
    );
    // At a node that was cut off, and committed later.
    let pending = sent(&mut run, By::Operators, 22, elsewhere(), "pending", refused(503, "pending"));
    run.record.outages.push(13 * S..17 * S);
    for (second, verdict) in [
        (0, allowed()),
        (2, allowed()), // the old lease lives
        (4, Decided::Stopped(stop)),
        (10, Decided::Stopped(stop)),
        (12, allowed()),
        (14, allowed()),
        (16, Decided::Lapsed),
        (18, allowed()),
        (21, allowed()),
        (23, Decided::Stopped(last)),
        (24, Decided::Lapsed),
    ] {
        decided(&mut run, second, verdict);
    }
    let documents = ["first", "release", "start", "last", "pending"];
    let entries = log(&documents);
    let locks = vec![held(last, "last"), held(pending, "pending")];
    run.endings = vec![Ending { entries, locks }; 2];
    for (second, size) in [(2, 1), (12, 3), (23, 4)] {
        lease(&mut run, second, size);
    }
    checkpoint(&mut run, 3);
    run
}

fn agent() -> Scope {
    Scope::parse("fleet/a").unwrap()
}

fn lock(_: &str) -> What {
    What::Lock { scope: agent(), kind: LockKind::Halt }
}

fn elsewhere() -> What {
    What::Lock { scope: Scope::parse("fleet/z").unwrap(), kind: LockKind::Pause }
}

fn allowed() -> Decided {
    Decided::Allowed { left_ns: S }
}

fn refused(status: u16, code: &str) -> Answer {
    Answer::Refused { status, code: code.into() }
}

fn digest(document: &str) -> Digest {
    Digest::of(document.as_bytes())
}

fn took(run: &mut Run, second: u64, index: u64, what: What, document: &str) -> Digest {
    sent(run, By::Operators, second, what, document, Answer::Took { index })
}

/// Answered 100 ms later.
fn sent(run: &mut Run, by: By, second: u64, what: What, document: &str, answer: Answer) -> Digest {
    let (digest, sent_ns) = (digest(document), second * S);
    run.record.commands.insert(digest, Command { what, by, document: document.into() });
    run.record.attempts.push(Attempt { digest, node: 1, sent_ns, answered_ns: sent_ns + S / 10, answer });
    digest
}

fn decided(run: &mut Run, second: u64, verdict: Decided) {
    run.record.decisions.push(Decision { at_ns: second * S, guard: 0, agent: agent(), verdict });
    run.record.decisions.sort_by_key(|decision| decision.at_ns);
}

fn log(documents: &[&str]) -> Vec<Vec<u8>> {
    let mut prev = Digest::default();
    let entries = documents.iter().zip(0..).map(|(document, index)| {
        let envelope = Envelope { document: (*document).into(), signatures: vec!["signature".into()] };
        let entry = Entry { kind: EntryKind::Command, index, time_ms: index, prev, envelope };
        let bytes = entry.encode().unwrap();
        prev = Digest::of(&bytes);
        bytes
    });
    entries.collect()
}

fn relog(run: &mut Run, documents: &[&str]) {
    run.endings.iter_mut().for_each(|ending| ending.entries = log(documents));
}

fn held(id: Digest, reason: &str) -> LockRecord {
    let tag = Tag { reason: reason.into(), by: Vec::new(), case: None };
    let lock =
        LockView { id, scope: agent(), kind: LockKind::Halt, index: 0, time_ms: 0, released: false, tag };
    LockRecord { lock, started: Vec::new(), lost_from: None }
}

fn root_of(run: &Run, size: u64) -> Digest {
    let leaves: Vec<_> =
        run.endings[0].entries[..size as usize].iter().map(|entry| leaf_hash(entry)).collect();
    root(&leaves)
}

fn lease(run: &mut Run, second: u64, log_size: u64) {
    run.record.leases.push(Lease {
        node: 2,
        asked_ns: second * S,
        answered_ns: second * S + S / 100,
        log_size,
        log_root: root_of(run, log_size),
        epoch_number: 1,
        authority_version: 1,
        ttl_ms: TTL_S * 1_000,
    });
}

fn checkpoint(run: &mut Run, size: u64) {
    let checkpoint = Checkpoint { origin: "test".into(), size, root: root_of(run, size) };
    run.record.checkpoints.push((2, checkpoint));
}

#[test]
fn a_good_run_has_no_violation() {
    let none: Vec<String> = Vec::new();
    assert_eq!(violations(&good()), none);
}

/// What went wrong, and a word of what is said of it.
type Broken = (&'static str, &'static str, fn(&mut Run));

const BROKEN: [Broken; 25] = [
    ("S1", "does not hold it", |run| run.endings[1].locks.clear()),
    ("S1", "was released", |run| run.endings[0].locks.push(held(digest("first"), "first"))),
    ("S2", "had stopped it", |run| decided(run, 9, allowed())),
    ("S2", "had stopped it", |run| {
        // A release alone.
        run.record.commands.remove(&digest("start"));
    }),
    ("S2", "no release of it stands before", |run| {
        relog(run, &["first", "start", "release", "last", "pending"])
    }),
    ("S3", "a ttl had passed", |run| {
        run.record.decisions.retain(|decision| decision.verdict != Decided::Stopped(digest("last")));
        decided(run, 23, allowed());
    }),
    ("S3", "for a nonce made", |run| lease(run, 13, 2)),
    ("S4", "the last node could answer", |run| decided(run, 16, allowed())),
    ("S4", "held a permit", |run| decided(run, 0, Decided::Allowed { left_ns: 3 * S })),
    ("S4", "a lease for", |run| run.record.leases[0].ttl_ms += 1),
    ("S5", "the forged document", |run| {
        relog(run, &["first", "release", "start", "last", "pending", "forged"])
    }),
    ("S5", "acknowledged the forged", |run| {
        let what = What::Release { locks: vec![digest("last")] };
        sent(run, By::Forger, 22, what, "forged", Answer::Took { index: 4 });
    }),
    ("S5", "after one of", |run| {
        lease(run, 24, 4);
        run.record.leases.last_mut().unwrap().authority_version = 0;
    }),
    ("S6", "is not in the log", |run| decided(run, 25, Decided::Stopped(digest("from a file")))),
    ("S7", "by automation", |run| {
        relog(run, &["first", "release", "start", "last", "pending", "automation"])
    }),
    ("S8", "differ at entry 4", |run| {
        run.endings[1].entries = log(&["first", "release", "start", "last", "other"])
    }),
    ("S8", "has 5 entries, node 2 4", |run| drop(run.endings[1].entries.pop())),
    ("S8", "past the end", |run| relog(run, &["first", "release", "start"])),
    ("S8", "which is another", |run| relog(run, &["first", "release", "last", "start", "pending"])),
    ("S8", "are the same document", |run| {
        relog(run, &["first", "release", "start", "last", "pending", "last"])
    }),
    ("S9", "does not continue the checkpoint", |run| run.record.checkpoints[0].1.root = digest("fork")),
    ("S9", "signed a lease of", |run| run.record.leases[1].log_root = digest("fork")),
    ("S10", "refused the valid stop", |run| {
        sent(run, By::Operators, 25, elsewhere(), "flooded", refused(429, "too-many"));
    }),
    ("S10", "never was committed", |run| relog(run, &["first", "release", "start", "last"])),
    ("S10", "is well and answered", |run| {
        run.record.healed_ns = Some(15 * S);
        sent(run, By::Operators, 25, elsewhere(), "silent", Answer::Nothing);
    }),
];

#[test]
fn every_check_sees_what_breaks_its_property() {
    for (property, says, break_it) in BROKEN {
        let mut run = good();
        break_it(&mut run);
        let found = violations(&run);
        let seen = found.iter().any(|what| what.starts_with(&format!("{property}: ")) && what.contains(says));
        assert!(seen, "{property} should say {says:?}; found: {found:#?}");
    }
    for (property, _) in CHECKS {
        assert!(BROKEN.iter().any(|(broken, ..)| *broken == property), "{property} is never broken");
    }
}
