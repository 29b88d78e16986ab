//! Ceremonies over many locks: one root names them all, and it means what the log says.

use serde_json::{Value, json};
use tagout_proto::command::{Action, ActionKind, Command, Listed, LockSet};
use tagout_proto::digest::Digest;
use tagout_proto::envelope::Envelope;
use tagout_proto::ledger::{LockStatus, Proposal, Refusal, bulk_list, bulk_locks, bulk_root};
use tagout_proto::log::entry::EntryKind;
use tagout_proto::rule::Verdict::{Denied, Enabled};

use crate::support::*;

/// Without `World`'s own checks, which copy the whole state.
fn apply(world: &mut World, envelope: Envelope) -> Digest {
    let proposal = Proposal { kind: EntryKind::Command, time_ms: world.now_ms, envelope };
    let applied = world.ledger.apply(&proposal);
    world.entries.push(applied.entry.unwrap());
    applied.answer.unwrap().digest
}

/// What people sign who see this log.
fn bulk(world: &World, action: ActionKind, on: &str, before: u64, by: Option<&str>) -> Value {
    let records = world.ledger.locks_touching(&scope(on));
    let ids = bulk_list(action, &scope(on), before, by, &records);
    let locks = bulk_locks(&ids, before, by.map(str::to_owned));
    assert_eq!((locks.count, locks.root), (ids.len() as u64, bulk_root(&ids)));
    let mut locks = json!({"count": locks.count, "root": locks.root, "before": before});
    by.iter().for_each(|by| locks["by"] = (*by).into());
    json!({"locks": locks})
}

fn lock_set(document: &str) -> LockSet {
    match Command::parse(document.as_bytes()).unwrap().action {
        Action::Release(release) => release.locks,
        Action::Start(start) => start.locks,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_thousand_locks_of_a_mad_automation_go_with_one_release_and_one_start() {
    let mut world = World::running();
    let alices = world.stop("a/1", "halt");
    let mut bots = Vec::new();
    for i in 0..1000 {
        let (on, mode) = (format!("a/{i}"), if i % 3 == 0 { "pause" } else { "halt" });
        let stop = world.document("stop", &on, json!({"mode": mode}));
        bots.push(apply(&mut world, envelope(stop, &[BOT])));
    }
    let before = world.ledger.size();
    let after = world.document("stop", "a/2", json!({"mode": "halt"}));
    let after = apply(&mut world, envelope(after, &[BOT]));

    let more = bulk(&world, ActionKind::Release, "a", before, Some("bot"));
    assert_eq!(more["locks"]["count"], 1000);
    let release = world.document("release", "a", more);
    let receipt = world.send(envelope(&*release, &[ALICE, BOB])).unwrap();
    assert_eq!(world.ledger.lock_count(), 1 + 666 + 1, "pauses have ended with it");
    // Nobody has to carry the list: a guard that holds one of them gets its proof.
    for (i, id) in bots.iter().enumerate().step_by(97) {
        let listed = world.ledger.listed(receipt.index, id).unwrap();
        assert_eq!(listed.index, i as u64);
        assert!(lock_set(&release).names(id, Some(&listed)));
        assert!(!lock_set(&release).names(id, None));
        for not in [alices, after, Digest([9; 32])] {
            assert!(!lock_set(&release).names(&not, Some(&listed)));
            assert_eq!(world.ledger.listed(receipt.index, &not), None);
        }
        let elsewhere = Listed { index: listed.index + 1, ..listed.clone() };
        assert!(!lock_set(&release).names(id, Some(&elsewhere)));
        let cut = Listed { path: listed.path[1..].into(), ..listed };
        assert!(!lock_set(&release).names(id, Some(&cut)));
    }
    assert_eq!(world.ledger.listed(0, &bots[0]), None);

    world.restart();
    let more = bulk(&world, ActionKind::Start, "a", before, Some("bot"));
    assert_eq!(more["locks"]["count"], 666);
    let start = world.command("start", "a", more, &[ALICE, BOB]).unwrap();
    for (agent, verdict) in [("a/0", Enabled), ("a/1", Denied), ("a/2", Denied), ("a/999", Enabled)] {
        assert_eq!(world.verdict(agent), verdict, "{agent}");
    }
    let cleared = LockStatus::Cleared { placed: 4, release: receipt.index, start: Some(start.index) };
    assert_eq!(world.ledger.lock_status(&bots[1], &scope("a/1")), cleared);
    assert!(world.ledger.listed(start.index, &bots[1]).is_some());
    assert_eq!(world.ledger.listed(start.index, &bots[0]), None, "a pause takes no start");
    let mut left = world.ledger.locks_touching(&scope("*")).into_iter().map(|r| r.lock.id);
    assert_eq!((left.next(), left.next(), left.next()), (Some(alices), Some(after), None));
    assert_eq!(postcard::to_stdvec(&world.replayed()).unwrap(), postcard::to_stdvec(&world.ledger).unwrap());
}

#[test]
fn s2_what_changed_since_the_list_was_signed_is_refused() {
    let mut world = World::running();
    let locks: Vec<_> = ["a/1", "a/2", "a/3"].map(|on| world.stop(on, "halt")).into();
    let more = bulk(&world, ActionKind::Release, "a", world.ledger.size(), None);
    let signed = world.document("release", "a", more);
    world.release("a", &locks[1..2]).unwrap();
    let refusal = world.send(envelope(&*signed, &[ALICE, BOB])).unwrap_err();
    let Refusal::OtherLocks { count: 3, found: 2, .. } = refusal else { panic!("{refusal}") };
    assert!(refusal.to_string().contains("list them again and sign anew"));
    // A later stop is not meant by it and changes nothing of it.
    let more = bulk(&world, ActionKind::Release, "a", world.ledger.size(), None);
    let later = world.stop("a/4", "halt");
    world.command("release", "a", more, &[ALICE, BOB]).unwrap();
    assert_eq!(world.ledger.lock(&later).unwrap().lock.released, false);

    // The same count with another root, and the root of another scope's locks.
    let mut more = bulk(&world, ActionKind::Start, "a", world.ledger.size(), None);
    assert_eq!(more["locks"]["count"], 3);
    for (on, root) in
        [("a", Digest([7; 32])), ("a/1", more["locks"]["root"].as_str().unwrap().parse().unwrap())]
    {
        let mut other = more.clone();
        other["locks"]["root"] = json!(root);
        assert!(matches!(world.command("start", on, other, &[ALICE, BOB]), Err(Refusal::OtherLocks { .. })));
    }
    more["locks"]["by"] = "bob".into();
    assert!(matches!(world.command("start", "a", more, &[ALICE, BOB]), Err(Refusal::OtherLocks { .. })));
}

#[test]
fn s2_a_bulk_start_takes_what_was_released_and_can_go_in_waves() {
    let mut world = World::running();
    let above = world.stop("a", "halt");
    let below: Vec<_> = ["a/x/1", "a/y"].map(|on| world.stop(on, "drain")).into();
    world.release("a", &[above, below[0]]).unwrap();
    let more = bulk(&world, ActionKind::Start, "a/x", world.ledger.size(), None);
    assert_eq!(more["locks"]["count"], 2, "the one above and the one below, both released");
    world.command("start", "a/x", more, &[ALICE, BOB]).unwrap();
    world.now_ms += 60_000;
    let agents = ["a/x/1", "a/x/2", "a/y", "a/z"];
    assert_eq!(agents.map(|agent| world.verdict(agent)), [Enabled, Enabled, Denied, Denied]);
    // What has been started for the wave is no longer in its list.
    let none = bulk_list(
        ActionKind::Start,
        &scope("a/x"),
        u64::MAX,
        None,
        &world.ledger.locks_touching(&scope("a/x")),
    );
    assert_eq!(none, []);
    world.release("a", &below[1..]).unwrap();
    let more = bulk(&world, ActionKind::Start, "a", world.ledger.size(), None);
    world.command("start", "a", more, &[ALICE, BOB]).unwrap();
    assert_eq!(agents.map(|agent| world.verdict(agent)), [Enabled; 4]);
    assert_eq!(world.ledger.lock_count(), 0);
}

#[test]
fn s1_a_bulk_release_with_a_restores_lock_names_the_loss() {
    let mut world = World::running();
    world.stop("a", "halt");
    let restore = world.restore_with(|_| (), &[ROOT_1, ROOT_2]).unwrap();
    let mut more = bulk(&world, ActionKind::Release, "*", world.ledger.size(), None);
    assert_eq!(more["locks"]["count"], 2);
    let refusal = world.command("release", "*", more.clone(), &[ALICE, BOB]);
    assert!(matches!(refusal, Err(Refusal::LostFrom { .. })));
    more["lost_from"] = restore.index.into();
    world.command("release", "*", more, &[ALICE, BOB]).unwrap();
}
