//! Grants: only what enough people signed for this agent, here and now, is consent (S5).

use tagout::proto::authority::Unauthorised;
use tagout::proto::envelope::Envelope;
use tagout::trusted::GrantRefused;
use tagout::{Now, Reason};

use crate::world::*;

/// What a guard says when a node shows `grants`, all of them in one view.
fn shown(world: &World, grants: Vec<Envelope>) -> Option<Reason> {
    let mut guard = Believer::new(world);
    guard.renew_with(world, |reply| reply.views[0].grants = grants).unwrap();
    guard.judge().refusal
}

fn refused(world: &World, grant: Envelope) -> GrantRefused {
    match shown(world, vec![grant]) {
        Some(Reason::NoConsent { refused }) => {
            assert_eq!(refused.len(), 1);
            refused[0].clone()
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn s5_each_forged_grant_is_refused_by_its_name() {
    let mut world = World::new();
    let good = world.grant_document("demo", DAY_MS);
    assert_eq!(shown(&world, vec![envelope(&good, &PEOPLE)]), None);
    assert_eq!(shown(&world, vec![]), Some(Reason::NoConsent { refused: [].into() }));

    let one_few = refused(&world, envelope(&good, &[Who::Alice]));
    assert!(matches!(
        one_few,
        GrantRefused::Unauthorised(Unauthorised::BelowThreshold { have: 1, need: 2, .. })
    ));
    let twice = refused(&world, envelope(&good, &[Who::Alice, Who::Alice]));
    assert!(
        matches!(twice, GrantRefused::Unauthorised(Unauthorised::BelowThreshold { have: 1, .. })),
        "one person counts once"
    );
    let strangers = refused(&world, envelope(&good, &[Who::Stranger]));
    assert!(matches!(strangers, GrantRefused::Unauthorised(Unauthorised::NoValidSignature(_))));
    let bots = refused(&world, envelope(&good, &[Who::Bot]));
    assert!(matches!(bots, GrantRefused::Unauthorised(Unauthorised::NoRole { .. })), "S7");

    let mut altered = envelope(&good, &PEOPLE);
    altered.document = altered.document.replace("\"demo\"", "\"*\"");
    let altered = refused(&world, altered);
    assert!(matches!(altered, GrantRefused::Unauthorised(Unauthorised::NoValidSignature(_))));
    assert!(matches!(refused(&world, envelope(&good, &[])), GrantRefused::Envelope(_)));

    let elsewhere = world.grant_document("demo/agent_3", DAY_MS);
    assert!(matches!(refused(&world, envelope(&elsewhere, &PEOPLE)), GrantRefused::Elsewhere(_)));
    // Dora's signature is enough for her team, and for nothing above it.
    let too_wide = world.grant_document("demo", DAY_MS);
    assert!(matches!(refused(&world, envelope(&too_wide, &[Who::Dora])), GrantRefused::Unauthorised(_)));

    let mut ahead = world.grant_document("demo", DAY_MS);
    ahead["seen"]["size"] = 3.into();
    let ahead = refused(&world, envelope(&ahead, &PEOPLE));
    assert_eq!(ahead, GrantRefused::SeenAhead { seen: 3, size: 1 });
    let mut epoch = world.grant_document("demo", DAY_MS);
    epoch["seen"]["epoch"] = "ee".repeat(32).into();
    assert!(matches!(refused(&world, envelope(&epoch, &PEOPLE)), GrantRefused::OtherEpoch(_)));
    let mut deployment = world.grant_document("demo", DAY_MS);
    deployment["deployment"] = format!("demo:{}", "ee".repeat(32)).into();
    let deployment = refused(&world, envelope(&deployment, &PEOPLE));
    assert!(matches!(deployment, GrantRefused::OtherDeployment(_)));
    let stop = world.stop_document("demo", tagout::proto::lock::LockKind::Halt);
    assert!(matches!(refused(&world, envelope(&stop, &PEOPLE)), GrantRefused::NotAGrant(_)));
    let no_json = Envelope { document: "consent".into(), ..envelope(&good, &PEOPLE) };
    assert!(matches!(refused(&world, no_json), GrantRefused::Document(_)));
}

#[test]
fn one_bad_grant_does_not_spoil_a_good_one() {
    let mut world = World::new();
    let good = world.grant_document("demo", DAY_MS);
    let bad = envelope(&good, &[Who::Alice]);
    assert_eq!(shown(&world, vec![bad, envelope(&good, &PEOPLE)]), None);
}

#[test]
fn consent_ends_at_its_hour_though_the_lease_goes_on() {
    let mut world = World::new();
    world.grant("demo", 4_000);
    world.grant(AGENT, 6_000);
    let mut guard = Believer::new(&world);
    guard.renew(&world);
    let ends_ns = guard.now.boot_ns + 6_000 * NS_PER_MS;
    assert_eq!(guard.judge().allow_until_ns, ends_ns, "the later of both, and before the lease's own end");
    guard.pass(5_999);
    assert!(guard.allowed());
    guard.pass(1);
    assert_eq!(guard.judge().refusal, Some(Reason::GrantExpired { at_ms: T0_MS + 6_000 }));
    assert!(!guard.judge().cut, "the end of consent lets calls finish");
    world.now_ms += 6_000;
    guard.renew(&world);
    assert_eq!(guard.judge().refusal, Some(Reason::NoConsent { refused: [].into() }));
}

#[test]
fn s5_no_wall_clock_prolongs_consent_and_one_that_is_ahead_only_ends_it() {
    let mut world = World::new();
    world.grant("demo", 6_000);
    let expired = Some(Reason::GrantExpired { at_ms: T0_MS + 6_000 });
    let mut guard = Believer::new(&world);
    guard.renew(&world);
    let at = |wall_ms, boot_ms| Now { boot_ns: guard.now.boot_ns + boot_ms * NS_PER_MS, wall_ms };
    let judged = |now| guard.trusted.judge(&scope(AGENT), now);
    let ends_ns = guard.now.boot_ns + 6_000 * NS_PER_MS;
    for back_ms in [0, T0_MS - DAY_MS, T0_MS - 1, T0_MS] {
        assert_eq!(judged(at(back_ms, 0)).allow_until_ns, ends_ns, "the service's hour, carried on");
        assert_eq!(judged(at(back_ms, 5_999)).refusal, None);
        assert_eq!(judged(at(back_ms, 6_000)).refusal, expired);
    }
    assert_eq!(judged(at(T0_MS + 4_000, 0)).allow_until_ns, ends_ns - 4_000 * NS_PER_MS, "the later clock");
    for ahead_ms in [T0_MS + 6_000, T0_MS + DAY_MS, u64::MAX] {
        assert_eq!(judged(at(ahead_ms, 0)).refusal, expired);
    }
    assert_eq!(judged(at(T0_MS, 0)).refusal, None, "set right again, it hurts no longer");
}

#[test]
fn s5_an_expired_grant_that_a_node_still_shows_is_no_consent() {
    let mut world = World::new();
    let old = world.grant_document("demo", 1_000);
    world.now_ms += 2_000;
    let mut guard = Believer::new(&world);
    guard.pass(2_000);
    let old = envelope(&old, &PEOPLE);
    guard.renew_with(&world, |reply| reply.views[0].grants = vec![old]).unwrap();
    assert_eq!(guard.judge().refusal, Some(Reason::GrantExpired { at_ms: T0_MS + 1_000 }));
}
