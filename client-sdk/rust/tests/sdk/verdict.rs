//! The verdict between all and nothing: essential calls, limits, and what each kind of lock leaves.

use serde_json::json;
use tagout::Reason;
use tagout::proto::lock::LockKind;
use tagout::proto::rule::{CallLimits, Verdict};
use tagout::trusted::Judgement;

use crate::world::*;

const HANDOVER: &str = "handover";

fn limits(calls: Option<u64>, tokens: Option<u64>) -> CallLimits {
    CallLimits { calls_per_minute: calls, tokens_per_minute: tokens }
}

/// An agent that may go on with handovers.
fn running() -> (World, Believer) {
    let mut world = World::new();
    world.grant_with("demo", DAY_MS, json!({"essential": [HANDOVER]}));
    let mut guard = Believer::new(&world);
    guard.renew(&world);
    assert_eq!(verdict(&guard), Verdict::Enabled);
    (world, guard)
}

/// The verdict, after a look at whether everything else says the same.
fn verdict(guard: &Believer) -> Verdict {
    let Judgement { verdict, allow_until_ns, refusal, essential, .. } = guard.judge();
    assert_eq!(verdict == Verdict::Enabled, refusal.is_none());
    assert_eq!(verdict == Verdict::Enabled, allow_until_ns > guard.now.boot_ns);
    assert_eq!(verdict >= Verdict::EssentialOnly, essential.refusal.is_none());
    assert!(verdict >= Verdict::EssentialOnly || essential.until_ns.is_empty());
    assert!(essential.until_ns.values().all(|until_ns| *until_ns > guard.now.boot_ns));
    verdict
}

fn told(guard: &Believer) -> String {
    guard.judge().refusal.unwrap().to_string()
}

#[test]
fn each_kind_of_lock_leaves_what_it_leaves_by_push_and_by_view() {
    use Verdict::*;
    let throttle = LockKind::Throttle(limits(Some(5), None));
    for (kind, expected, cuts, in_force, lifts) in [
        (LockKind::Halt, Denied, true, true, "a signed release and then a signed start that name it"),
        (LockKind::Drain { drain_ms: 5_000 }, EssentialOnly, false, false, "and then a signed start"),
        (LockKind::Pause, Denied, false, true, "takes a signed release that names it"),
        (LockKind::Isolate, Denied, true, true, "takes a signed release that names it"),
        (LockKind::Restrict, EssentialOnly, false, true, "takes a signed release that names it"),
        (throttle, Enabled, false, false, ""),
    ] {
        for by_push in [true, false] {
            let (mut world, mut guard) = running();
            let event = world.stop("demo", kind);
            if by_push {
                guard.push(&event);
            } else {
                guard.renew(&world);
            }
            assert_eq!(verdict(&guard), expected, "{kind:?}");
            let judgement = guard.judge();
            assert_eq!(judgement.cut, cuts, "{kind:?}");
            assert_eq!(judgement.locks[0].in_force, in_force, "{kind:?}");
            assert_eq!(judgement.essential.until_ns.contains_key(HANDOVER), expected >= EssentialOnly);
            assert!(!judgement.essential.until_ns.contains_key("other"), "nobody named it");
            if expected < Enabled {
                let text = told(&guard);
                assert!(text.starts_with(kind.name()) && text.contains(lifts), "{text}");
            }
            // And it ends as it says.
            let lock = event.stop.digest();
            world.release("demo", lock);
            guard.renew(&world);
            assert_eq!(verdict(&guard) == Enabled, !kind.needs_start() || expected == Enabled, "{kind:?}");
            if kind.needs_start() {
                world.start("demo", lock);
                guard.renew(&world);
            }
            assert_eq!(verdict(&guard), Enabled, "{kind:?}");
            assert_eq!(guard.judge().limits, limits(None, None));
        }
    }
}

#[test]
fn a_drain_lets_essential_calls_go_on_until_its_deadline_and_then_is_a_halt() {
    let (mut world, mut guard) = running();
    guard.push(&world.stop(AGENT, LockKind::Drain { drain_ms: 4_000 }));
    let until_ns = guard.judge().essential.until_ns[HANDOVER];
    assert_eq!(until_ns, guard.now.boot_ns + 4_000 * NS_PER_MS, "before the lease's own end");
    guard.pass(3_999);
    assert_eq!(verdict(&guard), Verdict::EssentialOnly);
    guard.pass(1);
    assert_eq!(verdict(&guard), Verdict::Denied);
    assert!(guard.judge().cut);
}

#[test]
fn essential_calls_end_with_the_lease_and_with_the_grant_that_names_them() {
    let mut world = World::new();
    world.grant_with("demo", 3_000, json!({"essential": [HANDOVER]}));
    world.grant_with(AGENT, 6_000, json!({"essential": ["alarm"]}));
    let mut guard = Believer::new(&world);
    guard.renew(&world);
    guard.push(&world.stop(AGENT, LockKind::Restrict));
    let classes = |guard: &Believer| guard.judge().essential.until_ns.into_keys().collect::<Vec<_>>();
    assert_eq!(classes(&guard), ["alarm", HANDOVER]);
    assert_eq!(guard.judge().next_ns, Some(guard.now.boot_ns + 3_000 * NS_PER_MS));
    guard.pass(3_000);
    assert_eq!(classes(&guard), ["alarm"]);
    guard.pass(3_000);
    assert_eq!(verdict(&guard), Verdict::Denied);
    assert!(matches!(guard.judge().essential.refusal, Some(Reason::GrantExpired { .. })));

    let (mut world, mut guard) = running();
    guard.push(&world.stop(AGENT, LockKind::Restrict));
    guard.pass(10_000);
    assert!(matches!(guard.judge().essential.refusal, Some(Reason::Lapsed { .. })), "S3");
}

#[test]
fn the_lock_that_is_told_is_the_one_that_denies_this_call() {
    let (mut world, mut guard) = running();
    guard.push(&world.stop(AGENT, LockKind::Restrict));
    guard.push(&world.stop(AGENT, LockKind::Drain { drain_ms: 60_000 }));
    guard.push(&world.stop(AGENT, LockKind::Throttle(limits(Some(1), None))));
    assert_eq!(verdict(&guard), Verdict::EssentialOnly);
    assert!(told(&guard).contains("drain") && told(&guard).contains("and 1 more"), "{}", told(&guard));
    guard.push(&world.stop(AGENT, LockKind::Isolate));
    let essential = guard.judge().essential.refusal.unwrap().to_string();
    assert!(essential.starts_with("isolate on demo/agent_2"), "{essential}");
}

#[test]
fn limits_are_the_widest_of_the_grants_and_then_the_lowest_of_the_throttles() {
    let mut world = World::new();
    world.grant_with("demo", DAY_MS, json!({"limits": {"calls_per_minute": 10, "tokens_per_minute": 900}}));
    world.grant_with(AGENT, 5_000, json!({"limits": {"calls_per_minute": 60, "tokens_per_minute": 500}}));
    let mut guard = Believer::new(&world);
    guard.renew(&world);
    assert_eq!(guard.judge().limits, limits(Some(60), Some(900)));
    guard.pass(5_000);
    assert_eq!(guard.judge().limits, limits(Some(10), Some(900)), "losing one never widens them");
    guard.push(&world.stop("demo", LockKind::Throttle(limits(Some(7), None))));
    guard.push(&world.stop("*", LockKind::Throttle(limits(Some(8), Some(3)))));
    assert_eq!(guard.judge().limits, limits(Some(7), Some(3)));
    assert_eq!(verdict(&guard), Verdict::Enabled);
}

#[test]
fn two_answers_that_differ_about_a_lock_count_as_the_worst() {
    let (mut world, mut guard) = running();
    let event = world.stop("demo", LockKind::Halt);
    let softer = |reply: &mut Reply| reply.views[0].locks[0].kind = LockKind::Throttle(limits(Some(9), None));
    guard.renew_with(&world, softer).unwrap();
    assert_eq!(verdict(&guard), Verdict::Enabled, "a node may show less than there is");
    guard.renew(&world);
    assert_eq!(verdict(&guard), Verdict::Denied, "but not after another one has shown it, nor before");
    guard.renew_with(&world, softer).unwrap();
    assert_eq!(verdict(&guard), Verdict::Denied);
    // The bytes decide.
    guard.push(&event);
    assert!(told(&guard).starts_with("halt on demo"));
}
