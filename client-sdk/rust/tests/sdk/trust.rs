//! Whom the guard believes: authorities, suspends, revokes and restores, learned in order or heard out of turn (S5).

use serde_json::json;
use tagout::Reason;
use tagout::proto::authority::Unauthorised;
use tagout::proto::digest::Digest;
use tagout::proto::lock::LockKind;
use tagout::proto::trust::{NotNewer, TrustError};
use tagout::proto::wire::StopEvent;
use tagout::trusted::{ChainRefused, GrantRefused, LeaseRefused, PushRefused};

use crate::world::*;

fn running() -> (World, Believer) {
    let world = World::running();
    let mut guard = Believer::new(&world);
    guard.renew(&world);
    assert!(guard.allowed());
    (world, guard)
}

/// The next authority without Bob.
fn without_bob(next: &mut serde_json::Value) {
    next["principals"].as_array_mut().unwrap().retain(|p| p["name"] != "bob");
    next["roles"][0]["principals"] = json!(["alice", "bot"]);
    next["roles"][1]["principals"] = json!(["alice", "carol"]);
}

fn refused(guard: &Believer) -> Vec<GrantRefused> {
    match guard.judge().refusal {
        Some(Reason::NoConsent { refused }) => refused.to_vec(),
        other => panic!("{other:?}"),
    }
}

fn restored_lock(guard: &Believer) -> tagout::Lock {
    match guard.judge().refusal {
        Some(Reason::Stopped(lock)) if lock.scope.is_fleet() => (*lock).clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_new_authority_is_proven_once_and_what_it_keeps_goes_on() {
    let (mut world, mut guard) = running();
    world.succeed(|next| next["limits"]["ttl_ms"] = 4_000.into());
    let error = guard.renew_with(&world, |_| {}).unwrap_err();
    assert!(matches!(error, LeaseRefused::AuthorityUnproven { found: 2, .. }) && error.asks_for_proof());
    assert_eq!(guard.learn(&world), Ok(true));
    assert!(guard.allowed(), "consent that still holds is not interrupted");
    assert_eq!(guard.learn(&world), Ok(false), "known documents are no news");
    let asked = guard.ask();
    assert_eq!(asked.request.agents[0].view, None, "every view comes again");
    let accepted = guard.renew(&world);
    assert_eq!(accepted.ttl_ms, 4_000);
    let old = World::running();
    let error = guard.renew_with(&old, |_| {}).unwrap_err();
    assert!(matches!(error, LeaseRefused::AuthorityRollback { found: 1, floor: 2 }));
    let shorter = guard.learn(&old).unwrap_err();
    assert_eq!(shorter, ChainRefused::NotNewer(NotNewer::AuthorityRollback { found: 1, ours: 2 }));
}

#[test]
fn s5_nothing_stays_allowed_by_an_older_authority() {
    let (mut world, mut guard) = running();
    world.succeed(without_bob);
    assert!(guard.allowed(), "it has not heard of it");
    guard.learn(&world).unwrap();
    assert!(matches!(refused(&guard)[..], [GrantRefused::Voided { version: 2, .. }]), "at once");
    assert!(!guard.judge().cut, "the end of consent lets calls finish");
    guard.renew(&world);
    assert_eq!(refused(&guard), [], "and the service has forgotten it too");
}

#[test]
fn what_an_older_authority_could_not_read_counts_after_the_newer_one() {
    let mut world = World::new();
    let mut guard = Believer::new(&world);
    let before = world.clone();
    world.succeed(|_| {});
    let grant = world.grant("demo", DAY_MS);
    // A node that lags shows the grant before the authority that its signers saw.
    guard.renew_with(&before, |reply| reply.views[0].grants = vec![grant]).unwrap();
    assert_eq!(refused(&guard), [GrantRefused::AuthorityAhead { seen: 2, version: 1 }]);
    guard.settle(&world).unwrap();
    assert!(guard.allowed());
}

#[test]
fn a_chain_holds_as_a_whole_or_not_at_all() {
    let (mut world, mut guard) = running();
    world.succeed(|_| {});
    let mut chain = world.chain();
    let bad = envelope(&world.next_authority(|_| {}), &[Who::RootA]);
    chain.push(bad);
    let error = guard.trusted.learn(&chain, guard.now).unwrap_err();
    assert!(matches!(error, ChainRefused::Document { at: 2, error: TrustError::RootThreshold(_) }));
    assert_eq!(guard.trusted.trust().authority().version, 1);
    let other = envelope(&world.stop_document("demo", LockKind::Halt), &[Who::Bot]);
    let error = guard.trusted.learn(&[other], guard.now).unwrap_err();
    assert!(matches!(error, ChainRefused::Document { at: 0, error: TrustError::NothingToLearn(_) }));
    let many = vec![world.genesis.clone(); tagout::limits::TRUST_DOCUMENTS_MAX + 1];
    assert!(matches!(guard.trusted.learn(&many, guard.now), Err(ChainRefused::TooMany(_))));
    // Two second versions: whichever came first stays.
    guard.learn(&world).unwrap();
    let mut fork = World::running();
    fork.succeed(|next| next["limits"]["ttl_ms"] = 5_000.into());
    let error = guard.learn(&fork).unwrap_err();
    assert!(matches!(error, ChainRefused::NotNewer(NotNewer::OtherAuthority { version: 2, .. })));
}

#[test]
fn a_pushed_suspend_takes_consent_away_at_once_and_for_good() {
    let (mut world, mut guard) = running();
    let before = world.clone();
    let event = {
        let document = world.suspend_document(&[Who::Bob]);
        world.take_away(&document)
    };
    assert_eq!(guard.push(&event), [scope(AGENT)]);
    let [GrantRefused::Unauthorised(Unauthorised::BelowThreshold { have: 1, .. })] = refused(&guard)[..]
    else {
        panic!("{:?}", refused(&guard))
    };
    guard.renew(&before); // a node that hides it
    assert!(!guard.allowed());
    assert_eq!(guard.push(&event), [], "once is enough");
    assert_eq!(guard.learn(&world), Ok(false), "and the chain has no more to say");
    guard.renew(&world);
    assert!(!guard.allowed());
}

#[test]
fn a_suspend_that_came_before_the_version_that_it_follows_blocks_nobody() {
    // In the log: a version that still names Bob's key, then the suspend. The push of the suspend is quicker.
    let (mut world, mut guard) = running();
    world.succeed(|_| {});
    let document = world.suspend_document(&[Who::Bob]);
    let event = world.take_away(&document);
    guard.push(&event);
    assert_eq!(guard.learn(&world), Ok(true));
    assert_eq!(guard.trusted.trust().authority().version, 2);
    assert!(guard.trusted.trust().is_suspended(&public_key(Who::Bob)), "and it stays suspended");
    assert!(!guard.allowed());
}

#[test]
fn s5_a_suspend_that_no_log_has_outlives_every_chain() {
    let (mut world, mut guard) = running();
    let document = world.suspend_document(&[Who::Bob]);
    guard.push(&StopEvent {
        stop: envelope(&document, &[Who::Bot]),
        index: Some(0),
        time_ms: 0,
        confirm_within_ms: 0,
    });
    world.succeed(|_| {});
    guard.settle(&world).unwrap();
    assert_eq!(guard.trusted.trust().authority().version, 2);
    assert!(guard.trusted.trust().is_suspended(&public_key(Who::Bob)));
    assert!(!guard.allowed());
}

#[test]
fn a_suspend_whose_signer_has_left_since_is_learned_from_the_chain() {
    let (mut world, mut guard) = running();
    let document = world.suspend_document(&[Who::Carol]);
    world.take_away(&document); // not pushed
    world.succeed(|next| {
        next["principals"].as_array_mut().unwrap().retain(|p| p["name"] != "bot" && p["name"] != "carol");
        next["roles"][0]["principals"] = json!(["alice", "bob"]);
        next["roles"][1]["principals"] = json!(["alice", "bob"]);
    });
    assert_eq!(guard.learn(&world), Ok(true));
    assert!(guard.trusted.trust().is_suspended(&public_key(Who::Carol)));
}

#[test]
fn a_pushed_revoke_voids_the_grants_that_it_names_also_those_to_come() {
    let (mut world, mut guard) = running();
    let grant = world.ledger.view(&scope(AGENT), world.now_ms).grants[0].digest();
    let later = envelope(&world.grant_document("demo", DAY_MS), &PEOPLE);
    let document = world.revoke_document("demo", &[grant, later.digest()]);
    let event = StopEvent {
        stop: envelope(&document, &[Who::Bot]),
        index: Some(9),
        time_ms: 0,
        confirm_within_ms: 0,
    };
    assert_eq!(guard.push(&event), [scope(AGENT)]);
    assert_eq!(refused(&guard), [GrantRefused::Revoked]);
    // A service that never got the revoke gives the other one.
    world.send(&later);
    guard.renew(&world);
    assert_eq!(refused(&guard), [GrantRefused::Revoked, GrantRefused::Revoked]);
    world.grant("demo", DAY_MS);
    guard.renew(&world);
    assert!(guard.allowed(), "new consent is consent");
}

#[test]
fn a_revoke_reaches_no_further_than_its_scope() {
    let (mut world, mut guard) = running();
    let grant = world.ledger.view(&scope(AGENT), world.now_ms).grants[0].digest();
    let document = world.revoke_document(AGENT, &[grant]); // the grant is for all of demo
    guard.push(&StopEvent {
        stop: envelope(&document, &[Who::Bot]),
        index: Some(9),
        time_ms: 0,
        confirm_within_ms: 0,
    });
    assert!(guard.allowed());
}

#[test]
fn what_gives_is_refused_as_a_push_whoever_signed_it() {
    let (mut world, mut guard) = running();
    let lock = Digest([1; 32]);
    let documents = [
        world.document("release", "demo", json!({"locks": [lock]})),
        world.document("start", "demo", json!({"locks": [lock]})),
        world.grant_document("demo", DAY_MS),
        world.next_authority(|_| {}),
    ];
    let all = [Who::Alice, Who::Bob, Who::RootA, Who::RootB];
    for document in documents {
        let event =
            StopEvent { stop: envelope(&document, &all), index: Some(9), time_ms: 0, confirm_within_ms: 0 };
        let refused = guard.trusted.accept_push(&event, guard.now);
        assert!(matches!(refused, Err(PushRefused::Loosens(_))), "{refused:?}");
    }
    for document in [world.suspend_document(&[Who::Bob]), world.revoke_document("demo", &[lock])] {
        let event = StopEvent {
            stop: envelope(&document, &[Who::Carol]),
            index: Some(9),
            time_ms: 0,
            confirm_within_ms: 0,
        };
        let refused = guard.trusted.accept_push(&event, guard.now).unwrap_err();
        assert!(matches!(
            refused,
            PushRefused::Unauthorised(_) | PushRefused::Trust(TrustError::Unauthorised(_))
        ));
    }
    let roots = world.suspend_document(&[Who::RootA]);
    let event =
        StopEvent { stop: envelope(&roots, &[Who::Bot]), index: Some(9), time_ms: 0, confirm_within_ms: 0 };
    let refused = guard.trusted.accept_push(&event, guard.now).unwrap_err();
    assert!(matches!(refused, PushRefused::Trust(TrustError::RootKey(_))));
    assert!(guard.allowed());
}

#[test]
fn s1_a_restore_begins_an_epoch_with_everything_halted() {
    for by_push in [true, false] {
        let mut world = World::running();
        let mut guard = Believer::new(&world);
        let backup = world.clone();
        for _ in 0..5 {
            world.stop("elsewhere", LockKind::Pause);
        }
        guard.renew(&world);
        let mut world = backup;
        let event = world.restore(Digest([2; 32]));
        if by_push {
            assert_eq!(guard.push(&event), [scope(AGENT)]);
        } else {
            let error = guard.renew_with(&world, |_| {}).unwrap_err();
            assert!(matches!(error, LeaseRefused::EpochUnproven { found: 2, .. }) && error.asks_for_proof());
            assert_eq!(guard.learn(&world), Ok(true));
        }
        let lock = event.stop.digest();
        assert_eq!(restored_lock(&guard).id, lock);
        assert!(guard.judge().cut);
        // The log may be shorter now, but no shorter than where the restore stands.
        assert_eq!(guard.trusted.log_size(), 3);
        let shorter = guard.renew_with(&world, |reply| reply.lease.log_size = 2).unwrap_err();
        assert_eq!(shorter, LeaseRefused::LogRollback { found: 2, floor: 3 });
        // A node that hides the lock hides it from nobody here, agents that come later included.
        let hide = |reply: &mut Reply| reply.views[0].locks.clear();
        guard.renew_with(&world, hide).unwrap();
        assert_eq!(restored_lock(&guard).id, lock);
        guard.trusted.add(scope("demo/late"));
        let late = guard.trusted.judge(&scope("demo/late"), guard.now);
        assert_eq!(late.locks.len(), 1);

        // The old epoch's consent is none any more.
        let old = World::running().ledger.view(&scope(AGENT), T0_MS).grants;
        let more = json!({"locks": [lock], "lost_from": 2});
        let release = world.document("release", "*", more);
        world.send(&envelope(&release, &PEOPLE));
        world.start("*", lock);
        guard.settle(&world).unwrap();
        assert_eq!(refused(&guard), []);
        guard.renew_with(&world, |reply| reply.views[0].grants = old).unwrap();
        assert!(matches!(refused(&guard)[..], [GrantRefused::OtherEpoch(_)]));
        world.grant("demo", DAY_MS);
        guard.renew(&world);
        assert!(guard.allowed());
        assert_eq!(guard.push(&event), [], "and the restore is no news");
        assert!(guard.allowed());
    }
}

#[test]
fn s6_a_stop_that_was_used_and_is_lost_stops_again() {
    let (mut world, mut guard) = running();
    let mut backup = world.clone();
    let event = world.stop(AGENT, LockKind::Halt);
    guard.push(&event);
    world.release(AGENT, event.stop.digest());
    world.start(AGENT, event.stop.digest());
    guard.settle(&world).unwrap();
    assert!(guard.allowed());
    guard.push(&event);
    assert!(guard.allowed(), "the same bytes never stop twice");
    let restore = backup.restore(Digest([2; 32]));
    guard.push(&restore);
    // The restored log has never seen this stop, and takes it; so does the guard.
    backup.send(&event.stop);
    assert_eq!(guard.push(&event), [scope(AGENT)]);
    assert_eq!(guard.judge().locks.len(), 2);
}

#[test]
fn a_node_that_only_a_newer_authority_names_is_believed_once_that_is_proven() {
    let (mut world, mut guard) = running();
    world.succeed(|next| {
        let key = node_signer(3).verifier().to_string();
        next["nodes"]
            .as_array_mut()
            .unwrap()
            .push(json!({"id": 3, "address": "node-3.example:7471", "key": key}));
    });
    let by_the_new_node = |reply: &mut Reply| reply.signer = node_signer(3);
    let error = guard.renew_with(&world, by_the_new_node).unwrap_err();
    assert!(error == LeaseRefused::UnknownNode && error.asks_for_proof());
    guard.learn(&world).unwrap();
    guard.renew_with(&world, by_the_new_node).unwrap();
}

#[test]
fn a_fresh_guard_learns_a_whole_history() {
    let mut world = World::running();
    world.succeed(|next| next["principals"][0]["keys"] = json!([line(Who::AliceAgain)]));
    let document = world.suspend_document(&[Who::Dora]);
    world.take_away(&document);
    for epoch in [2, 3] {
        let lock = world.restore(Digest([epoch; 32])).stop.digest();
        let lost_from = world.ledger.size() - 1;
        let release = world.document("release", "*", json!({"locks": [lock], "lost_from": lost_from}));
        world.send(&envelope(&release, &[Who::AliceAgain, Who::Bob]));
        let start = world.lifting("start", "*", lock, &[Who::AliceAgain, Who::Bob]);
        world.send(&start);
    }
    let grant = world.grant_document("demo", DAY_MS);
    world.send(&envelope(&grant, &[Who::AliceAgain, Who::Bob]));
    let mut guard = Believer::new(&world);
    guard.settle(&world).unwrap();
    assert!(guard.allowed(), "{:?}", guard.judge().refusal);
    assert_eq!(guard.trusted.trust().epoch().number, 3);
    assert_eq!(guard.learn(&world), Ok(false));
}

#[test]
fn more_revoked_grants_than_are_kept_deny_everything() {
    let (mut world, mut guard) = running();
    let batches = tagout::limits::REVOKED_MAX / 400;
    for batch in 0..=batches as u32 {
        let ids: Vec<_> =
            (0..400u32).map(|n| Digest::of_parts(&[&batch.to_be_bytes(), &n.to_be_bytes()])).collect();
        assert!(guard.allowed(), "batch {batch}");
        let document = world.revoke_document("elsewhere", &ids);
        guard.push(&StopEvent {
            stop: envelope(&document, &[Who::Bot]),
            index: Some(9),
            time_ms: 0,
            confirm_within_ms: 0,
        });
    }
    assert_eq!(guard.judge().refusal, Some(Reason::TooManyRevokes));
    assert!(guard.judge().cut);
}
