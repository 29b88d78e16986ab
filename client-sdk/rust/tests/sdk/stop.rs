//! Stops: pushed or shown, they latch, and they take effect as their mode says.

use tagout::limits::DELIVERED_MAX;
use tagout::proto::digest::Digest;
use tagout::proto::lease::LockAnswer;
use tagout::proto::lock::LockKind;
use tagout::proto::scope::Scope;
use tagout::proto::wire::{StopEvent, StopPath};
use tagout::trusted::PushRefused;
use tagout::{Obstacle, Reason};

use crate::world::*;

fn running() -> (World, Believer) {
    let world = World::running();
    let mut guard = Believer::new(&world);
    guard.renew(&world);
    assert!(guard.allowed());
    (world, guard)
}

fn lock_of(guard: &Believer) -> tagout::Lock {
    match guard.judge().refusal {
        Some(Reason::Stopped(lock)) => (*lock).clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn s6_a_pushed_stop_needs_one_signature_and_nothing_else() {
    let (mut world, mut guard) = running();
    // Signed in advance, by an automation, with a date of long ago, and not in any log.
    let mut document = world.stop_document("demo", LockKind::Halt);
    document["issued_at"] = "2001-01-01T00:00:00Z".into();
    let event = StopEvent {
        stop: envelope(&document, &[Who::Bot]),
        index: Some(0),
        time_ms: 0,
        confirm_within_ms: 0,
    };
    assert_eq!(guard.push(&event), [scope(AGENT)]);
    let lock = lock_of(&guard);
    assert_eq!((lock.id, lock.scope.as_str(), lock.kind), (event.stop.digest(), "demo", LockKind::Halt));
    assert_eq!((lock.tag.reason.as_str(), lock.tag.by), ("test", vec!["bot".to_owned()]));
    let judgement = guard.judge();
    assert!(judgement.cut);
    assert_eq!(judgement.locks.len(), 1);
    assert_eq!((judgement.locks[0].by, judgement.locks[0].in_force), (StopPath::Push, true));
}

/// A node without a quorum pushes what it holds as pending: signed by people, and without an entry.
#[test]
fn s6_s10_a_pending_stop_holds_before_any_log_has_it() {
    let (mut world, mut guard) = running();
    let document = world.stop_document("demo", LockKind::Halt);
    let stop = envelope(&document, &[Who::Bot]);
    let pending = StopEvent { stop: stop.clone(), index: None, time_ms: T0_MS, confirm_within_ms: 0 };
    let read: StopEvent = serde_json::from_str(&serde_json::to_string(&pending).unwrap()).unwrap();
    assert_eq!(read, pending);
    assert_eq!(guard.push(&read), [scope(AGENT)]);
    assert_eq!(lock_of(&guard).id, stop.digest());

    // Then it is committed, and is pushed and shown once more: it is the same lock.
    let event = world.take_away(&document);
    assert!(event.index.is_some());
    assert_eq!(guard.push(&event), [scope(AGENT)]);
    guard.renew(&world);
    assert_eq!(guard.judge().locks.len(), 1);
    assert_eq!(lock_of(&guard).id, event.stop.digest());
}

#[test]
fn a_push_that_does_not_verify_is_no_stop_and_says_why() {
    let (mut world, mut guard) = running();
    let document = world.stop_document("demo", LockKind::Halt);
    let mut refused = |stop| {
        guard
            .trusted
            .accept_push(&StopEvent { stop, index: Some(2), time_ms: 0, confirm_within_ms: 0 }, guard.now)
    };
    assert!(matches!(refused(envelope(&document, &[])), Err(PushRefused::Envelope(_))));
    assert!(matches!(refused(envelope(&document, &[Who::Stranger])), Err(PushRefused::Unauthorised(_))));
    assert!(matches!(refused(envelope(&document, &[Who::Dora])), Err(PushRefused::Unauthorised(_))));
    let mut altered = envelope(&document, &[Who::Bot]);
    altered.document = altered.document.replace("\"demo\"", "\"*\"");
    assert!(matches!(refused(altered), Err(PushRefused::Unauthorised(_))));
    let grant = world.grant_document("demo", DAY_MS);
    assert!(matches!(refused(envelope(&grant, &PEOPLE)), Err(PushRefused::Loosens(_))));
    let mut other = world.stop_document("demo", LockKind::Halt);
    other["deployment"] = format!("demo:{}", "ee".repeat(32)).into();
    assert!(matches!(refused(envelope(&other, &[Who::Bot])), Err(PushRefused::OtherDeployment(_))));
    assert!(guard.allowed(), "what becomes of it is the client's decision: it denies and renews");
}

#[test]
fn a_stop_elsewhere_stops_nobody_here() {
    let (mut world, mut guard) = running();
    for elsewhere in ["demo/agent_3", "demo/agent_2/child", "demo2"] {
        let event = world.stop(elsewhere, LockKind::Halt);
        assert_eq!(guard.push(&event), Vec::<Scope>::new(), "{elsewhere}");
    }
    assert!(guard.allowed());
    assert_eq!(guard.push(&world.stop("*", LockKind::Halt)), [scope(AGENT)]);
}

#[test]
fn a_stop_covers_every_agent_below_it_and_they_are_told_in_order() {
    let world = World::running();
    let mut guard = Believer::of(&world, &["demo/b", "demo/a", "demo2/c"]);
    guard.renew(&world);
    let event = world.clone().stop("demo", LockKind::Halt);
    assert_eq!(guard.push(&event), [scope("demo/a"), scope("demo/b")]);
}

#[test]
fn s2_a_lease_that_hides_a_known_stop_changes_nothing() {
    let (mut world, mut guard) = running();
    let before = world.clone();
    let event = world.stop(AGENT, LockKind::Halt);
    guard.push(&event);
    // A node that never heard of it, and one that lies about it.
    let accepted = guard.renew(&before);
    assert!(!guard.allowed());
    assert!(accepted.ask_again, "the node wants to see it, and the guard has it");
    let asked = guard.ask();
    assert_eq!(asked.request.known[0].document.as_ref(), Some(&event.stop), "so it is shown");
    let held = |reply: &mut Reply| reply.answers[0] = LockAnswer::Held { why: "because".into() };
    guard.renew_with(&before, held).unwrap();
    assert_eq!(lock_of(&guard).held, Some(Obstacle::Service("because".into())));
    guard.pass(3_600_000);
    world.now_ms += 3_600_000;
    guard.renew(&world);
    assert_eq!(lock_of(&guard).id, event.stop.digest());
}

#[test]
fn s2_a_lock_seen_in_a_view_stays_when_the_view_forgets_it() {
    let (mut world, mut guard) = running();
    let before = world.clone();
    let lock = world.stop("demo", LockKind::Halt).stop.digest();
    guard.renew(&world);
    assert_eq!(guard.judge().locks[0].by, StopPath::Lease);
    let hiding = |reply: &mut Reply| {
        reply.views[0].locks.clear();
        reply.answers[0] = LockAnswer::Held { why: String::new() };
    };
    guard.renew_with(&world, hiding).unwrap();
    assert_eq!(lock_of(&guard).id, lock);
    assert!(guard.renew_with(&before, |_| {}).is_err(), "S5: and no older log is taken at all");
}

#[test]
fn s2_a_views_word_that_a_lock_is_released_lifts_nothing() {
    for mode in [LockKind::Halt, LockKind::Drain { drain_ms: 1 }, LockKind::Pause] {
        let (mut world, mut guard) = running();
        world.stop(AGENT, mode);
        guard.renew(&world);
        guard.pass(1);
        guard.renew_with(&world, |reply| reply.views[0].locks[0].released = true).unwrap();
        assert!(lock_of(&guard).released, "it is shown to people");
        assert!(!guard.allowed(), "and believed by nobody: {mode:?}");
    }
}

#[test]
fn a_pause_denies_and_cuts_nothing() {
    let (mut world, mut guard) = running();
    guard.push(&world.stop(AGENT, LockKind::Pause));
    assert!(!guard.allowed());
    let judgement = guard.judge();
    assert!(!judgement.cut && judgement.locks[0].in_force && !judgement.locks[0].cuts);
}

#[test]
fn a_drain_ends_at_the_earlier_of_entry_and_receipt() {
    let drain = LockKind::Drain { drain_ms: 5_000 };
    // By the entry: it was 4 s old when it came.
    let (mut world, mut guard) = running();
    let event = world.stop(AGENT, drain);
    guard.pass(4_000);
    guard.push(&event);
    assert!(!guard.allowed() && !guard.judge().cut && !guard.judge().locks[0].in_force);
    assert_eq!(guard.judge().next_ns, Some(guard.now.boot_ns + 1_000 * NS_PER_MS));
    guard.pass(999);
    assert!(!guard.judge().cut);
    guard.pass(1);
    assert!(guard.judge().cut && guard.judge().locks[0].in_force);

    // By the receipt: the entry claims to be of the future.
    let (mut world, mut guard) = running();
    let event = StopEvent { time_ms: T0_MS + DAY_MS, ..world.stop(AGENT, drain) };
    guard.push(&event);
    guard.pass(4_999);
    assert!(!guard.judge().cut);
    guard.pass(1);
    assert!(guard.judge().cut);
    guard.now.wall_ms -= 3_600_000; // the host's clock is set back
    assert!(guard.judge().cut, "receipts are counted by the boot clock");

    // Hearing of it again prolongs nothing.
    let (mut world, mut guard) = running();
    let event = world.stop(AGENT, drain);
    guard.push(&event);
    guard.pass(3_000);
    guard.push(&StopEvent { time_ms: T0_MS + DAY_MS, ..event });
    guard.pass(2_000);
    assert!(guard.judge().cut);
}

#[test]
fn the_signed_bytes_decide_what_a_lock_is() {
    let (mut world, mut guard) = running();
    let event = world.stop("demo", LockKind::Halt);
    let softer = |reply: &mut Reply| {
        reply.views[0].locks[0].kind = LockKind::Pause;
    };
    guard.renew_with(&world, softer).unwrap();
    assert!(!guard.allowed() && !guard.judge().cut, "a node may show less than there is");
    guard.push(&event);
    assert!(guard.judge().cut, "until the stop itself is here");
    guard.renew_with(&world, softer).unwrap();
    assert!(guard.judge().cut, "and from then on no more");
}

#[test]
fn the_strongest_lock_is_told_and_the_others_are_counted() {
    let (mut world, mut guard) = running();
    guard.push(&world.stop(AGENT, LockKind::Pause));
    let halt = world.stop("*", LockKind::Halt);
    guard.push(&halt);
    guard.push(&world.stop("demo", LockKind::Drain { drain_ms: 1_000 }));
    let lock = lock_of(&guard);
    assert_eq!((lock.id, lock.others), (halt.stop.digest(), 2));
    let text = guard.judge().refusal.unwrap().to_string();
    assert!(text.starts_with("halt on * since 2026-11-22T15:00:00.000Z: \"test\" by bot; lock "), "{text}");
    assert!(text.contains("a signed release and then a signed start that name it, and 2 more"), "{text}");
}

#[test]
fn an_agent_that_is_given_up_keeps_its_locks() {
    let (mut world, mut guard) = running();
    let before = world.clone();
    guard.push(&world.stop(AGENT, LockKind::Halt));
    guard.trusted.forget(&scope(AGENT));
    guard.trusted.add(scope(AGENT));
    let _ = guard.renew(&before);
    assert!(!guard.allowed(), "S2: making the guard anew is no start");
}

#[test]
fn a_lock_beyond_the_bound_denies_for_good() {
    let (mut world, mut guard) = running();
    // One lock for each of so many agents, and one too many.
    let agents: Vec<String> = (0..tagout::limits::LOCKS_MAX).map(|n| format!("full/{n}")).collect();
    agents.iter().for_each(|agent| guard.trusted.add(scope(agent)));
    guard.push(&world.stop("full", LockKind::Halt));
    assert!(guard.allowed());
    guard.push(&world.stop(AGENT, LockKind::Pause));
    assert_eq!(guard.judge().refusal, Some(Reason::TooManyLocks));
    assert!(guard.judge().cut, "what it was is not known any more, so it counts as the worst");
    guard.renew(&world);
    assert_eq!(guard.judge().refusal, Some(Reason::TooManyLocks));
}

#[test]
fn questions_about_many_locks_take_turns_and_come_to_an_end() {
    let (mut world, mut guard) = running();
    let events: Vec<_> = (0..300).map(|_| world.stop(AGENT, LockKind::Halt)).collect();
    events.iter().for_each(|event| drop(guard.push(event)));
    let mut asked = std::collections::BTreeSet::<Digest>::new();
    let mut rounds = 0;
    loop {
        let request = guard.ask();
        assert!(request.request.known.len() <= 256);
        asked.extend(request.request.known.iter().map(|known| known.id));
        let answer = world.reply(&request.request).sign(&request.request);
        rounds += 1;
        if !guard.trusted.accept_lease(&request, answer, guard.now).unwrap().ask_again {
            break;
        }
    }
    assert!(rounds <= 3, "{rounds}");
    assert!(asked.len() >= 299, "every lock that the view does not show: {}", asked.len());
    assert!(!guard.renew(&world).ask_again, "held locks wait for the next renewal");
}

#[test]
fn s6_a_delivered_stop_holds_agents_that_come_later_and_too_many_deny_them() {
    let (mut world, mut guard) = running();
    let (later, elsewhere) = (scope("demo/team/later"), scope("other/agent"));
    let stop = |world: &mut World| {
        let document = world.stop_document("demo/team", LockKind::Pause);
        envelope(&document, &[Who::Bot])
    };
    let first = stop(&mut world);
    assert_eq!(guard.trusted.accept_delivered(&first, StopPath::File, guard.now), Ok(vec![]));
    guard.trusted.add(later.clone());
    guard.trusted.add(elsewhere.clone());
    let judged = |guard: &Believer, agent| guard.trusted.judge(agent, guard.now);
    assert_eq!(judged(&guard, &later).locks[0].by, StopPath::File);
    assert!(judged(&guard, &elsewhere).locks.is_empty());
    assert!(guard.allowed());
    for _ in 0..DELIVERED_MAX {
        let more = stop(&mut world);
        guard.trusted.accept_delivered(&more, StopPath::Deliver, guard.now).unwrap();
    }
    guard.trusted.add(scope("other/too"));
    assert_eq!(judged(&guard, &scope("other/too")).refusal, Some(Reason::TooManyLocks));
    assert!(guard.allowed(), "whoever was there before is under them one by one");
}

#[test]
fn s2_a_delivered_stop_ends_for_agents_that_come_later_by_the_proof_for_all_of_them() {
    let (mut world, mut guard) = running();
    let document = world.stop_document("demo", LockKind::Halt);
    let stop = envelope(&document, &[Who::Bot]);
    let id = stop.digest();
    guard.trusted.accept_delivered(&stop, StopPath::File, guard.now).unwrap();
    world.send(&stop);
    world.release("demo", id);
    let late = |guard: &mut Believer, name: &str| {
        guard.trusted.add(scope(name));
        guard.trusted.judge(&scope(name), guard.now).locks.len()
    };
    // A wave: it runs again for one agent.
    world.start(AGENT, id);
    guard.settle(&world).unwrap();
    assert!(guard.allowed());
    assert_eq!(late(&mut guard, "demo/late_1"), 1);
    world.start("demo", id);
    guard.agents = vec![scope("demo/late_1")];
    guard.settle(&world).unwrap();
    assert_eq!(late(&mut guard, "demo/late_1"), 0);
    assert_eq!(late(&mut guard, "demo/late_2"), 0);
}
