//! What else takes away beside a stop: restrict, throttle, isolate and revoke, and the trip of an agent's own process.

use serde_json::json;
use tagout_proto::digest::Digest;
use tagout_proto::envelope::Envelope;
use tagout_proto::ledger::{Effect, LockStatus, Refusal};
use tagout_proto::lock::{LockKind, Trip};
use tagout_proto::log::entry::EntryKind;
use tagout_proto::rule::CallLimits;
use tagout_proto::rule::Verdict::{Denied, Enabled, EssentialOnly};

use crate::support::*;

const DAY_MS: u64 = 86_400_000;

#[test]
fn restrict_leaves_essential_calls_and_isolate_none_and_both_end_with_their_release() {
    for (action, kind, while_on) in
        [("restrict", LockKind::Restrict, EssentialOnly), ("isolate", LockKind::Isolate, Denied)]
    {
        let mut world = World::running();
        let lock = world.place(action, "a", json!({"case": "INC-4711"}));
        assert_eq!((world.verdict("a/x"), world.verdict("b")), (while_on, Enabled), "{action}");
        let shown = &world.ledger.view(&scope("a/x"), world.now_ms).locks[0];
        assert_eq!((shown.id, shown.kind, shown.tag.case.as_deref()), (lock, kind, Some("INC-4711")));
        // S1: neither time nor consent ends it.
        world.now_ms += 300 * DAY_MS;
        world.grant("a", world.now_ms + DAY_MS).unwrap();
        world.restart();
        assert_eq!(world.verdict("a/x"), while_on, "{action}");
        assert_eq!(world.start("a", &[lock]), Err(Refusal::TakesNoStart(lock)));
        let release = world.release("a", &[lock]).unwrap().index;
        assert_eq!(world.verdict("a/x"), Enabled, "{action}");
        let cleared = LockStatus::Cleared { placed: 2, release, start: None };
        assert_eq!(world.ledger.lock_status(&lock, &scope("a/x")), cleared);
    }
}

fn limits(calls_per_minute: Option<u64>, tokens_per_minute: Option<u64>) -> CallLimits {
    CallLimits { calls_per_minute, tokens_per_minute }
}

#[test]
fn throttles_set_the_lowest_of_each_limit_and_deny_nothing() {
    let mut world = World::running();
    let mut throttle = |on: &str, limits| world.place("throttle", on, json!({"limits": limits}));
    let calls = throttle("a", json!({"calls_per_minute": 5}));
    let both = throttle("*", json!({"calls_per_minute": 20, "tokens_per_minute": 700}));
    let tokens = throttle("a/x", json!({"tokens_per_minute": 900}));
    for (agent, expected) in [
        ("a", limits(Some(5), Some(700))),
        ("a/x", limits(Some(5), Some(700))),
        ("b", limits(Some(20), Some(700))),
    ] {
        assert_eq!((world.verdict(agent), world.terms(agent).limits), (Enabled, expected), "{agent}");
    }
    let shown = |world: &World, agent: &str| {
        world.ledger.view(&scope(agent), world.now_ms).locks.iter().map(|l| l.id).collect::<Vec<_>>()
    };
    assert_eq!(shown(&world, "a/x"), [calls, both]);
    assert_eq!(shown(&world, "b"), [both], "one lock, though it is the lowest in both");
    assert_eq!(world.ledger.locks_on(&scope("b")), [both]);
    world.restart();
    world.release("*", &[both]).unwrap();
    assert_eq!(world.terms("a/x").limits, limits(Some(5), Some(900)));
    assert_eq!(world.terms("a").limits, limits(Some(5), None));
    world.release("*", &[calls, tokens]).unwrap();
    assert_eq!(world.terms("a/x").limits, limits(None, None));
    assert_eq!(world.ledger.stops_without_outcome().count(), 0, "nobody waits for what denies nothing");
}

#[test]
fn terms_are_the_widest_of_the_grants_so_that_losing_one_never_widens_them() {
    let mut world = World::new();
    let grant = |world: &mut World, on: &str, essential: &[&str], limits: Option<serde_json::Value>| {
        let seen = json!({"epoch": world.ledger.epoch().id, "size": 0, "authority": 1});
        let mut more = json!({"expires_at": "2027-01-01T00:00:00Z", "seen": seen});
        if !essential.is_empty() {
            more["essential"] = json!(essential);
        }
        limits.into_iter().for_each(|limits| more["limits"] = limits);
        world.command("grant", on, more, &[ALICE, BOB]).unwrap().digest
    };
    let narrow = json!({"calls_per_minute": 10, "tokens_per_minute": 100});
    grant(&mut world, "a", &["handover"], Some(narrow));
    let wide = grant(&mut world, "*", &["alarm", "handover"], Some(json!({"calls_per_minute": 60})));
    let essential = |world: &World, on: &str| world.terms(on).essential.into_iter().collect::<Vec<_>>();
    assert_eq!(
        (essential(&world, "a"), world.terms("a").limits),
        (vec!["alarm".into(), "handover".into()], limits(Some(60), None))
    );
    assert_eq!(essential(&world, "b"), ["alarm", "handover"]);
    world.restart();
    world.command("revoke", "*", json!({"grants": [wide]}), &[BOT]).unwrap();
    assert_eq!(
        (essential(&world, "a"), world.terms("a").limits),
        (vec!["handover".into()], limits(Some(10), Some(100)))
    );
    assert_eq!((world.verdict("a"), world.verdict("b"), essential(&world, "b")), (Enabled, Denied, vec![]));
    // A throttle narrows whatever the grants allow, one that is wider than they are does nothing.
    world.place("throttle", "a", json!({"limits": {"calls_per_minute": 4, "tokens_per_minute": 1000}}));
    assert_eq!(world.terms("a").limits, limits(Some(4), Some(100)));
}

#[test]
fn s1_a_revoked_grant_is_void_for_ever_also_if_the_revoke_came_first() {
    let mut world = World::new();
    let (held, late, other) = (
        world.grant_document("a", T0 + DAY_MS),
        world.grant_document("a", T0 + DAY_MS),
        world.grant_document("b", T0 + DAY_MS),
    );
    world.send(held.clone()).unwrap();
    world.send(other).unwrap();
    let revoke = |world: &mut World, on: &str, grants: &[Digest]| {
        world.command("revoke", on, json!({"grants": grants}), &[BOT])
    };
    let elsewhere = revoke(&mut world, "b", &[held.digest()]).unwrap_err();
    assert_eq!(elsewhere.to_string(), format!("{} is for a, outside b: name a as the scope", held.digest()));
    let receipt = revoke(&mut world, "a", &[held.digest(), late.digest()]).unwrap();
    assert_eq!((receipt.awaited, world.verdict("a"), world.verdict("b")), (1, Denied, Enabled));
    for void in [&held, &late] {
        assert_eq!(world.send(void.clone()), Err(Refusal::Void(receipt.index)));
    }
    world.restart();
    assert_eq!(world.send(late), Err(Refusal::Void(receipt.index)));
    assert_eq!(world.verdict("a"), Denied);
    // A revoke for elsewhere that came first is none.
    let here = world.grant_document("a", T0 + DAY_MS);
    assert_eq!(revoke(&mut world, "b", &[here.digest()]).unwrap().awaited, 1);
    world.send(here).unwrap();
    assert_eq!(world.verdict("a"), Enabled);
}

#[test]
fn s1_s10_a_revoke_that_names_a_stop_takes_nothing_from_it() {
    let mut world = World::running();
    let (stop, late) = (world.stop_document("a", "halt"), world.stop_document("b", "halt"));
    let first = world.send(stop.clone()).unwrap();
    world.command("revoke", "*", json!({"grants": [stop.digest(), late.digest()]}), &[BOT]).unwrap();
    let again = world.send(stop).unwrap();
    assert_eq!((again.index, again.repeated), (first.index, true));
    world.send(late).unwrap();
    assert_eq!((world.verdict("a"), world.verdict("b")), (Denied, Denied));
}

#[test]
fn s7_a_trip_halts_its_own_scope_unsigned_and_people_give_it_back() {
    let mut world = World::running();
    let trip = world.trip_document("a/x");
    let applied = world.propose(EntryKind::Trip, trip.clone());
    let receipt = applied.answer.unwrap();
    let effect = Effect::Locked { lock: trip.digest(), scope: scope("a/x"), kind: LockKind::Halt };
    assert_eq!((receipt.digest, applied.effect), (trip.digest(), Some(effect)));
    assert_eq!((world.verdict("a/x/1"), world.verdict("a")), (Denied, Enabled));
    let tag = world.ledger.lock(&trip.digest()).unwrap().lock.tag;
    assert_eq!((&*tag.by, &*tag.reason), (&["trip:pod-7".to_owned()][..], "it talks to itself"));
    assert!(world.propose(EntryKind::Trip, trip.clone()).answer.unwrap().repeated);
    let signed = Envelope { signatures: vec![sign(ALICE, &trip.document)], ..world.trip_document("b") };
    let refusal = world.propose(EntryKind::Trip, signed).answer.unwrap_err();
    assert_eq!(refusal.to_string(), "a trip carries no signatures");
    let elsewhere = Trip {
        deployment: deployment().replace("demo", "prod").parse().unwrap(),
        ..Trip::parse(trip.document.as_bytes()).unwrap()
    };
    let elsewhere = Envelope { document: elsewhere.to_document(&Digest([1; 32])), signatures: vec![] };
    assert!(matches!(world.propose(EntryKind::Trip, elsewhere).answer, Err(Refusal::WrongDeployment { .. })));
    assert!(world.send(trip.clone()).is_err(), "it is no command, whoever sends it");

    world.restart();
    let lock = trip.digest();
    assert_eq!(world.start("a/x", &[lock]), Err(Refusal::NotReleased(lock)));
    let release = world.release("a/x", &[lock]).unwrap().index;
    assert_eq!(world.verdict("a/x"), Denied, "a halt needs its start");
    world.start("a/x", &[lock]).unwrap();
    assert_eq!(world.verdict("a/x"), Enabled);
    let used = world.propose(EntryKind::Trip, trip).answer;
    assert_eq!(used, Err(Refusal::Used { index: receipt.index, released_at: release }));
}

#[test]
fn a_rule_version_that_this_build_does_not_know_or_that_is_in_force_is_refused() {
    let mut world = World::running();
    let rule = |deployment: &str, version: u64| Envelope {
        document: json!({"tagout": 1, "deployment": deployment, "rule": version}).to_string(),
        signatures: vec![],
    };
    let mut propose = |envelope| world.propose(EntryKind::RuleVersion, envelope).answer;
    let ours = deployment();
    assert_eq!(propose(rule(&ours, 1)), Err(Refusal::RuleInForce(1)));
    assert_eq!(propose(rule(&ours, 2)), Err(Refusal::RuleUnknown { found: 2, known: 1 }));
    assert!(matches!(propose(rule(&ours, 0)), Err(Refusal::Malformed(_))));
    assert!(matches!(propose(rule(&ours.replace("demo", "prod"), 2)), Err(Refusal::WrongDeployment { .. })));
    let mut long = rule(&ours, 2);
    long.document.push_str(&" ".repeat(32 * 1024));
    assert!(matches!(propose(long), Err(Refusal::TooLarge(_))));
    assert_eq!(world.ledger.rule_version(), 1);
}
