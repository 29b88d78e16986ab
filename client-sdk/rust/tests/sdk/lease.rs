//! Leases: how long they last, and every way in which one may lie about its place, its time or its state.

use tagout::proto::digest::Digest;
use tagout::proto::lease::{LeaseError, LeaseResponse, LockAnswer};
use tagout::proto::lock::LockKind;
use tagout::proto::note::{NoteError, NoteSigner};
use tagout::trusted::LeaseRefused;
use tagout::{Now, Reason};

use crate::world::*;

#[test]
fn s3_a_lease_lasts_its_ttl_from_the_moment_of_the_nonce_and_calls_the_grace_longer() {
    let world = World::running();
    let mut guard = Believer::new(&world);
    assert_eq!(guard.judge().refusal, Some(Reason::NotReady { last_error: None }));
    let t0_ns = guard.now.boot_ns;
    let asked = guard.ask();
    let answer = world.reply(&asked.request).sign(&asked.request);
    guard.pass(4_000); // on its way
    let accepted = guard.trusted.accept_lease(&asked, answer, guard.now).unwrap();
    let deadline_ns = t0_ns + 10_000 * NS_PER_MS;
    assert_eq!((accepted.deadline_ns, guard.judge().allow_until_ns), (deadline_ns, deadline_ns));
    guard.pass(5_999);
    assert!(guard.allowed());
    guard.pass(1);
    assert_eq!(guard.judge().refusal, Some(Reason::Lapsed { last_error: None }));
    assert!(!guard.judge().cut, "a lapse is not a stop");
    assert_eq!(guard.judge().next_ns, Some(deadline_ns + 20_000 * NS_PER_MS));
    guard.pass(19_999);
    assert!(!guard.judge().cut);
    guard.pass(1);
    assert!(guard.judge().cut, "but past its grace calls under way end");
    guard.renew(&world);
    assert!(guard.allowed(), "and it heals by itself");
}

#[test]
fn s3_a_lease_that_comes_too_late_allows_nothing() {
    let world = World::running();
    let mut guard = Believer::new(&world);
    let asked = guard.ask();
    let answer = world.reply(&asked.request).sign(&asked.request);
    guard.pass(10_000);
    guard.trusted.accept_lease(&asked, answer, guard.now).unwrap();
    assert_eq!(guard.judge().refusal, Some(Reason::Lapsed { last_error: None }));
}

#[test]
fn s3_a_node_cannot_give_more_time_than_the_authority() {
    let world = World::running();
    let mut guard = Believer::new(&world);
    let accepted = guard.renew_with(&world, |reply| reply.lease.ttl_ms = 60_000).unwrap();
    assert_eq!(accepted.deadline_ns, guard.now.boot_ns + 10_000 * NS_PER_MS);
    let accepted = guard.renew_with(&world, |reply| reply.lease.ttl_ms = 3_000).unwrap();
    assert_eq!(accepted.deadline_ns, guard.now.boot_ns + 3_000 * NS_PER_MS, "less is its right");
}

#[test]
fn s5_every_lie_about_its_place_is_refused_by_its_name() {
    let world = World::running();
    let honest = |guard: &mut Believer| guard.renew(&world).log_size;
    type Lie = (&'static str, fn(&mut Reply), fn(&LeaseRefused) -> bool);
    let lies: [Lie; 13] = [
        (
            "a stranger's key under a node's name",
            |r| r.signer = NoteSigner::new("demo/node-1", &[99; 32]).unwrap(),
            |e| matches!(e, LeaseRefused::UnknownNode),
        ),
        (
            "a stranger's key",
            |r| r.signer = NoteSigner::new("demo/node-9", &[99; 32]).unwrap(),
            |e| matches!(e, LeaseRefused::UnknownNode),
        ),
        (
            "another deployment",
            |r| r.lease.deployment.name = "prod".into(),
            |e| matches!(e, LeaseRefused::OtherDeployment(_)),
        ),
        (
            "another genesis",
            |r| r.lease.deployment.genesis = Digest([0xee; 32]),
            |e| matches!(e, LeaseRefused::OtherDeployment(_)),
        ),
        (
            "another rule",
            |r| r.lease.rule_version = 2,
            |e| matches!(e, LeaseRefused::RuleVersion { found: 2 }),
        ),
        (
            "an older epoch",
            |r| r.lease.epoch_number = 0,
            |e| matches!(e, LeaseRefused::EpochRollback { found: 0, floor: 1 }),
        ),
        (
            "a newer epoch that nobody signed",
            |r| r.lease.epoch_number = 2,
            |e| matches!(e, LeaseRefused::EpochUnproven { found: 2, .. }),
        ),
        (
            "another epoch of this number",
            |r| r.lease.epoch = Digest([0xee; 32]),
            |e| matches!(e, LeaseRefused::EpochUnproven { found: 1, .. }),
        ),
        (
            "an older authority",
            |r| r.lease.authority_version = 0,
            |e| matches!(e, LeaseRefused::AuthorityRollback { found: 0, floor: 1 }),
        ),
        (
            "a newer authority that nobody signed",
            |r| r.lease.authority_version = 2,
            |e| matches!(e, LeaseRefused::AuthorityUnproven { found: 2, .. }),
        ),
        (
            "another authority of this version",
            |r| r.lease.authority = Digest([0xee; 32]),
            |e| matches!(e, LeaseRefused::AuthorityUnproven { found: 1, .. }),
        ),
        (
            "a smaller log",
            |r| r.lease.log_size -= 1,
            |e| matches!(e, LeaseRefused::LogRollback { found: 1, floor: 2 }),
        ),
        (
            "another log of this size",
            |r| r.lease.log_root = Digest([0xee; 32]),
            |e| matches!(e, LeaseRefused::LogForked { size: 2 }),
        ),
    ];
    for (name, lie, expected) in lies {
        let mut guard = Believer::new(&world);
        assert_eq!(honest(&mut guard), 2);
        let before = guard.judge();
        let error = guard.renew_with(&world, lie).expect_err(name);
        assert!(expected(&error), "{name}: {error:?}");
        assert!(!error.to_string().is_empty());
        assert_eq!(guard.judge(), before, "{name}: a refused lease changes nothing");
        guard.pass(10_000);
        assert!(!guard.allowed(), "{name}: and prolongs nothing");
        guard.renew(&world);
        assert!(guard.allowed(), "{name}: the honest one is still taken");
    }
}

#[test]
fn s5_every_lie_about_its_state_is_refused() {
    let mut world = World::running();
    let lock = world.stop(AGENT, LockKind::Pause).stop.digest();
    let mut guard = Believer::new(&world);
    guard.renew(&world);
    world.release(AGENT, lock);
    let asked = guard.ask();
    assert_eq!(asked.request.known.len(), 1);
    let answer = || world.reply(&asked.request).sign(&asked.request);
    type Lie = (&'static str, fn(&mut LeaseResponse));
    let lies: [Lie; 9] = [
        ("a view altered after it was signed", |a| a.views[0].as_mut().unwrap().grants.clear()),
        ("a view left out", |a| a.views[0] = None),
        ("no views", |a| a.views.clear()),
        ("a view too many", |a| a.views.push(None)),
        ("another agent's view", |a| a.views[0].as_mut().unwrap().agent = scope("demo/agent_3")),
        ("an answer altered after it was signed", |a| a.answers[0] = LockAnswer::Held { why: "no".into() }),
        ("no answers", |a| a.answers.clear()),
        ("another place in the batch", |a| a.leaf_index = 0),
        ("another path", |a| a.path[0] = Digest([1; 32])),
    ];
    for (name, lie) in lies {
        let mut answer = answer();
        lie(&mut answer);
        let error = guard.trusted.accept_lease(&asked, answer, guard.now).expect_err(name);
        let expected = matches!(error, LeaseRefused::Lease(LeaseError::NotBound) | LeaseRefused::Misfit(_));
        assert!(expected, "{name}: {error:?}");
    }
    let mut forged = answer();
    forged.lease = forged.lease.replace("ttl_ms 10000", "ttl_ms 60000");
    let error = guard.trusted.accept_lease(&asked, forged, guard.now).unwrap_err();
    assert!(matches!(error, LeaseRefused::Lease(LeaseError::Note(NoteError::BadSignature(_)))), "{error:?}");
    guard.trusted.accept_lease(&asked, answer(), guard.now).unwrap();
    assert!(guard.allowed());
}

#[test]
fn s3_an_answer_to_another_nonce_is_no_answer() {
    let world = World::running();
    let mut guard = Believer::new(&world);
    let old = guard.ask();
    let replayed = world.reply(&old.request).sign(&old.request);
    let asked = guard.ask();
    let error = guard.trusted.accept_lease(&asked, replayed.clone(), guard.now).unwrap_err();
    assert_eq!(error, LeaseRefused::Lease(LeaseError::NotBound));
    // And the right answer to an old question is too old once a newer one was answered.
    guard.pass(1);
    guard.renew(&world);
    assert_eq!(guard.trusted.accept_lease(&old, replayed, guard.now), Err(LeaseRefused::Stale));
}

#[test]
fn unbounded_views_are_refused() {
    let world = World::running();
    let mut guard = Believer::new(&world);
    let many = |reply: &mut Reply| {
        reply.views[0].locks = (0..=255).map(|n| lock_view(Digest([n; 32]), AGENT, LockKind::Halt)).collect();
    };
    assert!(matches!(guard.renew_with(&world, many), Err(LeaseRefused::Unbounded(_))));
    let long = |reply: &mut Reply| {
        let mut lock = lock_view(Digest([1; 32]), AGENT, LockKind::Halt);
        lock.tag.reason = "x".repeat(1 << 20);
        reply.views[0].locks = vec![lock];
    };
    assert!(matches!(guard.renew_with(&world, long), Err(LeaseRefused::Unbounded(_))));
    assert_eq!(guard.judge().refusal, Some(Reason::NotReady { last_error: None }));
}

#[test]
fn s3_only_a_newer_lease_ends_a_demand_for_one() {
    let world = World::running();
    let mut guard = Believer::new(&world);
    guard.renew(&world);
    let under_way = guard.ask();
    guard.pass(1);
    guard.trusted.require_newer(guard.now.boot_ns, Reason::StopsMissed);
    assert_eq!(guard.judge().refusal, Some(Reason::StopsMissed));
    let answer = world.reply(&under_way.request).sign(&under_way.request);
    guard.trusted.accept_lease(&under_way, answer, guard.now).unwrap();
    assert_eq!(guard.judge().refusal, Some(Reason::StopsMissed), "its nonce is older than the demand");
    assert!(!guard.judge().cut);
    guard.pass(1);
    guard.renew(&world);
    assert!(guard.allowed());
}

#[test]
fn the_later_clock_counts_and_a_bad_one_hurts_only_itself() {
    let world = World::running(); // until T0 + a day
    let mut guard = Believer::new(&world);
    guard.now.wall_ms = 0; // 1970
    guard.renew(&world);
    assert!(guard.allowed(), "the service's clock counts on");
    guard.now.wall_ms = T0_MS + DAY_MS;
    assert_eq!(guard.judge().refusal, Some(Reason::GrantExpired { at_ms: T0_MS + DAY_MS }));
    let lying = |reply: &mut Reply| reply.lease.time_ms = 0;
    guard.now.wall_ms = T0_MS;
    guard.renew_with(&world, lying).unwrap();
    guard.now = Now { wall_ms: T0_MS + DAY_MS, ..guard.now };
    assert!(!guard.allowed(), "S5: a node cannot stretch consent by its clock");
}
