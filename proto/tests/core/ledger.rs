//! The ledger: the latch (S1), no restart by reset (S2), and what is refused without a trace in the log.

use serde_json::json;
use tagout_proto::command::ActionKind;
use tagout_proto::digest::Digest;
use tagout_proto::envelope::Envelope;
use tagout_proto::ledger::{Effect, Ledger, LockStatus, Proposal, Refusal};
use tagout_proto::limits::*;
use tagout_proto::log::entry::{Entry, EntryKind};
use tagout_proto::log::tree;
use tagout_proto::rule::Verdict::{Denied, Enabled, EssentialOnly};

use crate::support::*;

const YEAR_MS: u64 = 365 * 86_400_000;

#[test]
fn nothing_happens_before_the_genesis_and_the_genesis_happens_once() {
    let mut ledger = Ledger::new(genesis().digest());
    let mut elsewhere = World::new();
    let stop = elsewhere.stop_document("*", "halt");
    let outcome = outcome_of(&stop.digest());
    let propose = |ledger: &mut Ledger, kind, envelope: &Envelope| {
        ledger.apply(&Proposal { kind, time_ms: T0, envelope: envelope.clone() }).answer
    };
    assert_eq!(propose(&mut ledger, EntryKind::Command, &stop), Err(Refusal::NoGenesis));
    assert_eq!(ledger.check(&stop, T0), Err(Refusal::NoGenesis));
    assert!(propose(&mut ledger, EntryKind::Outcome, &outcome).is_err());
    let under_signed = Envelope { signatures: genesis().signatures[..1].into(), ..genesis() };
    let refused = propose(&mut ledger, EntryKind::Command, &under_signed).unwrap_err();
    assert!(refused.to_string().contains("1 of 2 signatures of the root"));
    let unsigned = Envelope { signatures: vec![], ..genesis() };
    assert!(matches!(propose(&mut ledger, EntryKind::Command, &unsigned), Err(Refusal::Unsigned(_))));
    assert_eq!((ledger.size(), ledger.prev(), ledger.authority()), (0, Digest::default(), None));

    let first = propose(&mut ledger, EntryKind::Command, &genesis()).unwrap();
    assert_eq!((first.index, first.digest, first.repeated), (0, genesis().digest(), false));
    let again = propose(&mut ledger, EntryKind::Command, &genesis()).unwrap();
    assert_eq!((again.index, again.repeated, ledger.size()), (0, true, 1));
    assert_eq!(ledger.lock_status(&genesis().digest(), &scope("a")), LockStatus::Unknown);
}

#[test]
fn s1_a_lock_survives_restart_by_snapshot_and_by_replay() {
    let mut world = World::running();
    let locks: Vec<_> = [("a", "halt"), ("b", "drain"), ("c", "pause")].map(|(s, m)| world.stop(s, m)).into();
    world.release("a", &locks[..1]).unwrap();
    world.release("b", &locks[1..2]).unwrap();
    world.start("b/x", &locks[1..2]).unwrap();
    let before = postcard::to_stdvec(&world.ledger).unwrap();
    world.restart();
    assert_eq!(postcard::to_stdvec(&world.ledger).unwrap(), before);
    assert_eq!(postcard::to_stdvec(&world.replayed()).unwrap(), before);
    world.now_ms += 60_000;
    for (agent, verdict) in
        [("a/1", Denied), ("b/1", Denied), ("b/x/1", Enabled), ("c/1", Denied), ("d", Enabled)]
    {
        assert_eq!(world.verdict(agent), verdict, "{agent}");
    }
}

#[test]
fn s1_neither_time_nor_grants_nor_anything_but_its_release_ends_a_lock() {
    for mode in ["halt", "drain", "pause"] {
        let mut world = World::running();
        world.stop("a", mode);
        for _ in 0..3 {
            world.now_ms += 20 * YEAR_MS;
            for scope in ["a", "a/x", "*"] {
                world.grant(scope, world.now_ms + YEAR_MS).unwrap();
            }
            let other = world.stop("a/x", "halt");
            world.release("a/x", &[other]).unwrap();
            world.start("a/x", &[other]).unwrap();
            world.propose(EntryKind::Outcome, outcome_of(&other)).answer.unwrap();
            world.restart();
            assert_eq!(world.verdict("a/x"), Denied, "{mode}");
            assert_eq!(world.verdict("b"), Enabled);
        }
    }
}

#[test]
fn s2_every_order_of_release_start_and_grant() {
    // r: release, s: start, g: grant, S: a second stop of the same words (its bytes are its own).
    for (mode, script, refusals, verdict) in [
        ("halt", "", 0, Denied),
        ("halt", "r", 0, Denied),
        ("halt", "s", 1, Denied),
        ("halt", "g", 0, Denied),
        ("halt", "rg", 0, Denied),
        ("halt", "gr", 0, Denied),
        ("halt", "sr", 1, Denied),
        ("halt", "srg", 1, Denied),
        ("halt", "rr", 1, Denied),
        ("halt", "rs", 0, Enabled),
        ("halt", "grs", 0, Enabled),
        ("halt", "rsrs", 2, Enabled),
        ("halt", "rsS", 0, Denied),
        ("halt", "rSs", 0, Denied),
        ("halt", "Srs", 0, Denied),
        ("drain", "r", 0, Denied),
        ("drain", "s", 1, Denied),
        ("drain", "rg", 0, Denied),
        ("drain", "sr", 1, Denied),
        ("drain", "rs", 0, Enabled),
        ("pause", "", 0, Denied),
        ("pause", "g", 0, Denied),
        ("pause", "s", 1, Denied),
        ("pause", "r", 0, Enabled),
        ("pause", "rs", 1, Enabled),
        ("pause", "Sr", 0, Denied),
    ] {
        let mut world = World::running();
        let lock = world.stop("a", mode);
        world.now_ms += 120_000;
        let mut refused = 0;
        for step in script.chars() {
            let answer = match step {
                'r' => world.release("a", &[lock]),
                's' => world.start("a", &[lock]),
                'g' => world.grant("a", world.now_ms + YEAR_MS),
                _ => {
                    world.stop("a", mode);
                    world.now_ms += 120_000;
                    continue;
                }
            };
            refused += u32::from(answer.is_err());
        }
        assert_eq!((refused, world.verdict("a/x")), (refusals, verdict), "{mode} {script:?}");
        world.restart();
        assert_eq!(world.verdict("a/x"), verdict, "{mode} {script:?} after a restart");
    }
}

#[test]
fn s2_old_documents_do_nothing_against_a_later_stop() {
    let mut world = World::running();
    let stop = world.stop_document("a", "halt");
    let lock = world.send(stop.clone()).unwrap().digest;
    let (release, start) = (world.release_document("a", &[lock]), world.start_document("a", &[lock]));
    world.send(release.clone()).unwrap();
    world.send(start.clone()).unwrap();
    assert_eq!(world.verdict("a"), Enabled);
    let second = world.stop("a", "halt");
    let size = world.ledger.size();
    for (document, index) in [(&release, 3), (&start, 4)] {
        let receipt = world.send(document.clone()).unwrap();
        assert_eq!((receipt.index, receipt.repeated), (index, true));
    }
    assert_eq!((world.verdict("a"), world.ledger.size()), (Denied, size));
    // The old stop cannot be used again either, and says so.
    let refusal = world.send(stop).unwrap_err();
    assert_eq!(refusal, Refusal::Used { index: 2, released_at: 3 });
    assert_eq!(
        refusal.to_string(),
        "this command was used at entry 2 and its lock released at entry 3: sign a new one"
    );
    assert_eq!(world.ledger.lock_count(), 1);
    assert_eq!(world.ledger.lock_status(&second, &scope("a")), LockStatus::Held);
    assert_eq!(
        world.ledger.lock_status(&lock, &scope("a")),
        LockStatus::Cleared { placed: 2, release: 3, start: Some(4) }
    );
    assert_eq!(world.ledger.lock_status(&release.digest(), &scope("a")), LockStatus::Unknown);
}

#[test]
fn s2_waves_restart_what_they_name_and_nothing_beside_it() {
    let mut world = World::running();
    let lock = world.stop("a", "halt");
    assert_eq!(world.start("a/x", &[lock]), Err(Refusal::NotReleased(lock)), "no wave before the release");
    world.release("*", &[lock]).unwrap();
    world.start("a/x", &[lock]).unwrap();
    for (agent, verdict) in [
        ("a", Denied),
        ("a/x", Enabled),
        ("a/x/1", Enabled),
        ("a/x2", Denied),
        ("a/y", Denied),
        ("b", Enabled),
    ] {
        assert_eq!(world.verdict(agent), verdict, "{agent}");
    }
    assert_eq!(
        world.ledger.lock_status(&lock, &scope("a/x/1")),
        LockStatus::Cleared { placed: 2, release: 3, start: Some(4) }
    );
    assert_eq!(world.ledger.lock_status(&lock, &scope("a/y")), LockStatus::Held);
    assert_eq!(world.ledger.lock(&lock).unwrap().started, [scope("a/x")]);
    // A stop of the fleet, later, holds the started wave again, and its own waves are not the first one's.
    let fleet = world.stop("*", "drain");
    assert_eq!((world.verdict("a/x"), world.verdict("a/y")), (EssentialOnly, Denied));
    world.now_ms += 60_000;
    world.release("*", &[fleet]).unwrap();
    world.start("a/y", &[fleet]).unwrap();
    assert_eq!((world.verdict("a/x"), world.verdict("a/y"), world.verdict("b")), (Denied, Denied, Denied));
    world.start("*", &[fleet, lock]).unwrap();
    assert_eq!((world.verdict("a/x"), world.verdict("a/y"), world.verdict("b")), (Enabled, Enabled, Enabled));
    assert_eq!(world.ledger.lock_count(), 0);
}

#[test]
fn waves_are_bounded_and_the_whole_scope_can_always_be_started() {
    let mut world = World::running();
    let lock = world.stop("a", "halt");
    world.release("a", &[lock]).unwrap();
    for i in 0..WAVES_PER_LOCK_MAX {
        let document = world.start_document(&format!("a/{i}"), &[lock]);
        let proposal = Proposal { kind: EntryKind::Command, time_ms: T0, envelope: document };
        world.ledger.apply(&proposal).answer.unwrap();
    }
    assert_eq!(world.start("a/more", &[lock]), Err(Refusal::TooManyWaves(lock)));
    assert_eq!((world.verdict("a/more"), world.verdict("a/7")), (Denied, Enabled));
    world.start("a", &[lock]).unwrap();
    assert_eq!(world.verdict("a/more"), Enabled);
}

#[test]
fn a_command_takes_effect_once_and_repeats_its_first_answer() {
    let mut world = World::running();
    let stop = world.stop_document("a", "halt");
    let first = world.send(stop.clone()).unwrap();
    assert_eq!((first.index, first.time_ms, first.digest, first.repeated), (2, T0, stop.digest(), false));
    world.now_ms += 5_000;
    // Signed by another person too, it is the same command.
    let mut both = stop.clone();
    both.signatures.insert(0, sign(BOB, &both.document));
    for again in [stop.clone(), both] {
        let receipt = world.send(again).unwrap();
        assert_eq!((receipt.index, receipt.time_ms, receipt.repeated), (2, T0, true));
    }
    assert_eq!((world.ledger.size(), world.ledger.lock_count()), (3, 1));
    assert_eq!(world.ledger.used_at(&stop.digest()), Some(2));
    // Without a valid signature nobody learns what was used.
    let stranger = Envelope { signatures: vec![sign(STRANGER, &stop.document)], ..stop.clone() };
    assert!(matches!(world.send(stranger), Err(Refusal::Unauthorised(_))));
    world.release("a", &[first.digest]).unwrap();
    assert_eq!(
        world.send(stop),
        Err(Refusal::Used { index: 2, released_at: 3 }),
        "released, not yet started"
    );
}

#[test]
fn releases_and_starts_stay_within_what_their_signers_named() {
    let mut world = World::running();
    let (on_a, on_b, paused) = (world.stop("a", "halt"), world.stop("b", "halt"), world.stop("a/p", "pause"));
    let never = Digest([9; 32]);
    let (a, ax, b) = (scope("a"), scope("a/x"), scope("b"));
    for (release_scope, locks, refusal) in [
        ("a/x", &[on_a][..], Refusal::LockOutsideScope { lock: on_a, lock_scope: a.clone(), scope: ax }),
        (
            "a",
            &[on_a, on_b],
            Refusal::LockOutsideScope { lock: on_b, lock_scope: b.clone(), scope: a.clone() },
        ),
    ] {
        assert_eq!(world.release(release_scope, locks), Err(refusal));
    }
    assert_eq!(world.start("a", &[paused]), Err(Refusal::TakesNoStart(paused)));
    assert_eq!(world.start("a", &[never]), Err(Refusal::NotReleased(never)), "also what has not come yet");
    world.release("*", &[on_a, on_b]).unwrap();
    assert_eq!(world.release("a", &[on_a]), Err(Refusal::AlreadyReleased(on_a, 5)));
    let elsewhere = Refusal::StartElsewhere { lock: on_b, lock_scope: b, scope: a };
    assert_eq!(world.start("a", &[on_a, on_b]), Err(elsewhere));
    assert_eq!(world.verdict("a"), Denied, "a refused start has started none of its locks");
    // Dora may release and start below `team`, a lock on the fleet is none of hers.
    let fleet = world.stop("*", "halt");
    let on_team = world.stop("team/a", "halt");
    for (action, on, locks) in
        [("release", "*", [fleet]), ("release", "team", [fleet]), ("start", "*", [fleet])]
    {
        let document = world.document(action, on, json!({"locks": locks}));
        assert!(world.send(envelope(document, &[DORA])).is_err(), "{action} {on}");
    }
    let document = world.document("release", "team", json!({"locks": [on_team]}));
    world.send(envelope(document, &[DORA])).unwrap();
    let document = world.document("start", "team", json!({"locks": [on_team]}));
    world.send(envelope(document, &[DORA])).unwrap();
    assert_eq!(world.verdict("team/a"), Denied, "the fleet's lock still holds it");
}

#[test]
fn the_strongest_lock_of_each_mode_is_shown_and_a_drain_ends_when_the_first_does() {
    let mut world = World::running();
    let long = world.document("stop", "*", json!({"mode": "drain", "drain_ms": 3_000_000}));
    let long = world.send(envelope(long, &[BOT])).unwrap().digest;
    world.now_ms += 1_000;
    let short = world.stop("a", "drain");
    let paused = world.stop("a/x", "pause");
    let view = |world: &World| {
        world.ledger.view(&scope("a/x"), world.now_ms).locks.iter().map(|l| l.id).collect::<Vec<_>>()
    };
    assert_eq!(view(&world), [short, paused]);
    assert_eq!(
        (world.verdict("a/y"), world.verdict("b"), world.verdict("a/x")),
        (EssentialOnly, EssentialOnly, Denied)
    );
    world.now_ms += 59_999;
    assert_eq!(world.verdict("a/y"), EssentialOnly);
    world.now_ms += 1;
    assert_eq!((world.verdict("a/y"), world.verdict("b")), (Denied, EssentialOnly));
    let halts: Vec<_> = ["a", "*", "a/x"].map(|s| world.stop(s, "halt")).into();
    assert_eq!(view(&world), [halts[0], short, paused], "the oldest halt stands for all");
    let tags = world.ledger.view(&scope("a/x"), world.now_ms).locks;
    assert_eq!((&*tags[0].tag.reason, &*tags[0].tag.by), ("test", &["alice".to_owned()][..]));
    let ids: Vec<_> = world.ledger.locks_touching(&scope("a")).iter().map(|r| r.lock.id).collect();
    assert_eq!(ids, [long, short, paused, halts[0], halts[1], halts[2]], "oldest first, above and below");
    assert_eq!(world.ledger.locks_touching(&scope("b")).len(), 2);
}

#[test]
fn grants_are_of_their_epoch_bounded_and_end() {
    let mut world = World::new();
    assert_eq!(world.verdict("a"), Denied, "no consent yet");
    world.grant("a", T0 + 10_000).unwrap();
    assert_eq!((world.verdict("a/x"), world.verdict("b")), (Enabled, Denied));
    world.now_ms = T0 + 9_999;
    assert_eq!(world.verdict("a"), Enabled);
    world.now_ms = T0 + 10_000;
    assert_eq!((world.verdict("a"), world.ledger.grants(world.now_ms).len()), (Denied, 0));
    let refused = world.grant("a", T0 + 10_000).unwrap_err();
    assert_eq!(refused.to_string(), "it expired at 2026-11-22T15:00:10.000Z: sign one that ends later");

    for i in 0..GRANTS_PER_SCOPE_MAX as u64 {
        world.grant("a", T0 + 20_000 + i).unwrap();
    }
    let refused = world.grant("a", T0 + 30_000).unwrap_err();
    assert_eq!(refused.to_string(), "a has 8 unexpired grants already; let one end, or revoke one");
    world.grant("a/x", T0 + 30_000).unwrap();
    assert_eq!(world.ledger.view(&scope("a/x"), world.now_ms).grants.len(), 9);
    world.now_ms = T0 + 20_000;
    world.grant("a", T0 + 30_000).unwrap();
    assert_eq!(world.ledger.grants(world.now_ms).len(), 9);

    let mut grant = |epoch: Digest, size: u64| {
        let seen = json!({"epoch": epoch, "size": size, "authority": 1});
        let more = json!({"expires_at": "2027-01-01T00:00:00Z", "seen": seen});
        let document = world.document("grant", "b", more);
        let (now_epoch, now_size) = (world.ledger.epoch().id, world.ledger.size());
        (world.send(envelope(document, &[ALICE, CAROL])), now_epoch, now_size)
    };
    let (refused, ours, size) = grant(Digest([7; 32]), 0);
    assert_eq!(refused, Err(Refusal::WrongEpoch { theirs: Digest([7; 32]), ours }));
    assert_eq!(grant(ours, size + 1).0, Err(Refusal::SeenAhead { theirs: size + 1, ours: size }));
    assert!(grant(ours, size).0.is_ok() && grant(ours, 0).0.is_ok());
}

#[test]
fn s8_refusals_leave_no_trace_and_name_their_cause() {
    // `World::propose` compares the whole state before and after every refusal.
    let mut world = World::running();
    let good = world.stop_document("a", "halt");
    let with = |change: &dyn Fn(&mut Envelope)| {
        let mut envelope = good.clone();
        change(&mut envelope);
        envelope
    };
    let resigned = |from: &str, to: &str| {
        assert!(good.document.contains(from));
        envelope(good.document.replace(from, to), &[ALICE])
    };
    for (bad, says) in [
        (with(&|e| e.signatures.clear()), "the command has no signature"),
        (with(&|e| e.signatures = vec!["x".into(); 17]), "17 signatures were given"),
        (with(&|e| e.signatures = vec!["x".repeat(1025)]), "a signature has 1025 bytes"),
        (with(&|e| e.document = " ".repeat(COMMAND_MAX_BYTES + 1)), "the document has 32769 bytes"),
        (with(&|e| e.document.push('\n')), "no signature on it is valid: alice: the signature does not fit"),
        (
            with(&|e| e.signatures = vec![sign(CAROL, &e.document)]),
            "carol may not stop a: that takes 1 of alice, bob, bot",
        ),
        (envelope("{}", &[ALICE]), "the command has no \"tagout\""),
        (resigned("demo:", "prod:"), "the command is for deployment prod:"),
        (
            resigned(&genesis().digest().to_string(), &"00".repeat(32)),
            "the command is for deployment demo:00",
        ),
        (resigned("\"stop\"", "\"isolate\""), "unknown key \"mode\" in the isolate"),
        (
            resigned("{", &format!("{{{}", " ".repeat(STOP_MAX_BYTES))),
            "at most 4096 are allowed for a stop: shorten it",
        ),
    ] {
        let refusal = world.send(bad).unwrap_err();
        assert!(refusal.to_string().contains(says), "{refusal}");
    }
    for kind in [EntryKind::Trip, EntryKind::Restore, EntryKind::RuleVersion, EntryKind::Drill] {
        let refusal = world.propose(kind, good.clone()).answer.unwrap_err();
        assert!(matches!(refusal, Refusal::Malformed(_)), "a stop is no {}: {refusal}", kind.name());
    }
    let refusal = world.propose(EntryKind::Proposal, good.clone()).answer.unwrap_err();
    assert_eq!(refusal, Refusal::NotProposed(ActionKind::Stop));
    assert_eq!(world.ledger.size(), 2);
    world.send(good).unwrap();
}

fn outcome_of(lock: &Digest) -> Envelope {
    // Fields that this build does not know are kept and decide nothing.
    let document = json!({"tagout": 1, "outcome": lock, "of a later build": [0.5]}).to_string();
    Envelope { document, signatures: vec![] }
}

#[test]
fn an_outcome_is_taken_once_for_each_stop_and_changes_no_verdict() {
    let mut world = World::running();
    let (lock, paused) = (world.stop("a", "halt"), world.stop("b", "pause"));
    let send = |world: &mut World, envelope| world.propose(EntryKind::Outcome, envelope).answer;
    let unreadable = Envelope { signatures: vec![String::new(); 17], ..outcome_of(&lock) };
    assert!(send(&mut world, unreadable).is_err(), "an entry that could not be decoded again");
    let mut huge = outcome_of(&lock);
    huge.document.push_str(&" ".repeat(ENTRY_MAX_BYTES));
    assert!(matches!(send(&mut world, huge), Err(Refusal::TooLarge(_))));
    for document in ["", "{}", "[]", "{\"outcome\":1}"] {
        let malformed = Envelope { document: document.into(), signatures: vec![] };
        assert!(matches!(send(&mut world, malformed), Err(Refusal::Malformed(_))), "{document}");
    }
    let release = world.release("b", &[paused]).unwrap().digest;
    for no_lock in [Digest([9; 32]), genesis().digest(), release] {
        assert_eq!(send(&mut world, outcome_of(&no_lock)), Err(Refusal::NoSuchLock(no_lock)));
    }
    assert_eq!(world.ledger.stops_without_outcome().count(), 2);
    assert_eq!(send(&mut world, outcome_of(&lock)).unwrap().index, 5);
    assert_eq!(send(&mut world, outcome_of(&lock)), Err(Refusal::OutcomeKnown(5)));
    assert_eq!(send(&mut world, outcome_of(&paused)).unwrap().index, 6, "also when it has ended");
    assert_eq!((world.ledger.outcome_index(&lock), world.ledger.outcome_index(&release)), (Some(5), None));
    assert_eq!(world.ledger.stops_without_outcome().count(), 0);
    assert_eq!((world.verdict("a"), world.verdict("b")), (Denied, Enabled));
}

#[test]
fn s6_a_stop_has_no_date_and_needs_no_knowledge_of_the_log() {
    let mut world = World::running();
    for (i, at) in ["1970-01-01T00:00:00Z", "9999-12-31T23:59:59Z"].iter().enumerate() {
        let document = world.document("stop", &format!("a{i}"), json!({"mode": "halt"}));
        let document = document.replace("2026-11-22T15:00:00Z", at);
        world.send(envelope(document, &[BOT])).unwrap();
        assert_eq!(world.verdict(&format!("a{i}/x")), Denied);
    }
    world.now_ms = u64::MAX;
    world.stop("b", "drain");
    assert_eq!(world.verdict("b"), Denied, "no clock, however wrong, overflows");
}

#[test]
fn effects_say_what_guards_should_hear() {
    let mut world = World::running();
    let stop = world.stop_document("a", "halt");
    let effect = |world: &mut World, e: Envelope| world.propose(EntryKind::Command, e).effect;
    let tightened = effect(&mut world, stop.clone()).unwrap();
    let Effect::Locked { lock, scope: on, .. } = tightened else { panic!("{tightened:?}") };
    assert_eq!((lock, on), (stop.digest(), scope("a")));
    assert_eq!(effect(&mut world, stop), None, "heard already");
    let release = world.release_document("*", &[lock]);
    assert_eq!(effect(&mut world, release), Some(Effect::Loosened { scope: scope("*") }));
    let start = world.start_document("a/x", &[lock]);
    assert_eq!(effect(&mut world, start), Some(Effect::Loosened { scope: scope("a/x") }));
}

#[test]
fn s8_s9_entries_chain_and_are_the_leaves_of_the_tree() {
    let mut world = World::running();
    for i in 0..20 {
        world.stop(&format!("a/{i}"), "halt");
    }
    let mut prev = Digest::default();
    for (index, bytes) in world.entries.iter().enumerate() {
        let entry = Entry::decode(bytes).unwrap();
        assert_eq!((entry.index, entry.prev), (index as u64, prev));
        prev = Digest::of(bytes);
    }
    assert_eq!(world.ledger.prev(), prev);
    let leaves: Vec<_> = world.entries.iter().map(|e| tree::leaf_hash(e)).collect();
    assert_eq!(world.ledger.frontier().root(), tree::root(&leaves));
    assert_eq!(world.ledger.size(), leaves.len() as u64);
}
