//! Trips: the program stops its own agent, and the service hears of it afterwards.

use axum::http::StatusCode;
use tagout::proto::digest::Digest;
use tagout::proto::envelope::Envelope;
use tagout::proto::ledger::LockStatus;
use tagout::proto::lock::Trip;
use tagout::proto::log::entry::EntryKind;
use tagout::trusted::Trusted;
use tagout::{Gone, Guard, Reason, TripError};

use crate::client::{stopped_by, until};
use crate::node::*;
use crate::world::*;

const TTL_MS: u64 = 10_000;
const GRACE_MS: u64 = 20_000;

fn trip_of(world: &World, on: &str) -> Trip {
    Trip {
        deployment: world.deployment.clone(),
        scope: scope(on),
        issued_at_ms: T0_MS,
        instance: "test".into(),
        reason: "loop".into(),
    }
}

fn told(node: &Node) -> usize {
    node.shared.trips.borrow().len()
}

fn committed(node: &Node, lock: Digest) -> bool {
    node.shared.world.lock().ledger.lock_status(&lock, &scope(AGENT)) != LockStatus::Unknown
}

/// The document's bytes go to the service for as long as it does not know them, and never with a lease, which takes no token.
#[test]
fn s2_a_trip_holds_until_its_end_is_proven_also_in_the_next_process() {
    let mut world = World::running();
    let mut guard = Believer::new(&world);
    guard.renew(&world);
    let (document, covered) = guard.trusted.trip(trip_of(&world, AGENT), &Digest([5; 32]), guard.now);
    let lock = document.digest();
    assert_eq!((covered, document.signatures.len()), (vec![scope(AGENT)], 0));
    assert!(!guard.allowed() && guard.judge().cut);
    guard.trusted.add(scope("demo/agent_2/child"));
    assert!(guard.trusted.judge(&scope("demo/agent_2/child"), guard.now).refusal.is_some());

    let mut after = Believer::new(&world);
    after.trusted = Trusted::new(&world.genesis, world.genesis.digest()).unwrap();
    after.trusted.recall(&guard.trusted.keep(), guard.now).unwrap();
    after.trusted.add(scope(AGENT));
    for guard in [&mut guard, &mut after] {
        for _ in 0..3 {
            let accepted = guard.renew(&world);
            assert_eq!(accepted.untold, [(scope(AGENT), document.clone())]);
            assert!(guard.ask().request.known.iter().all(|known| known.document.is_none()));
            assert!(!guard.allowed(), "the service does not know it, and it holds");
        }
    }
    world.apply(EntryKind::Trip, &document).unwrap();
    let lifted =
        [world.lifting("release", AGENT, lock, &PEOPLE), world.lifting("start", AGENT, lock, &PEOPLE)];
    for step in lifted {
        for guard in [&mut guard, &mut after] {
            guard.settle(&world).unwrap();
            assert_eq!(guard.renew(&world).untold, []);
            assert!(!guard.allowed());
        }
        world.send(&step);
    }
    for guard in [&mut guard, &mut after] {
        guard.settle(&world).unwrap();
        assert!(guard.allowed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn s2_a_trip_holds_and_cuts_when_it_returns_and_people_end_it() {
    let node = Node::start(TTL_MS, GRACE_MS).await;
    let client = node.client();
    let open = async |agent: &str| {
        let guard = client.guard(agent).unwrap();
        let _permit = within(guard.wait_enabled()).await.unwrap();
        guard
    };
    let (guard, other) = (open(AGENT).await, open("demo/agent_3").await);
    let call = tokio::spawn({
        let guard = guard.clone();
        async move { guard.run(std::future::pending::<()>()).await }
    });
    while guard.state().calls_under_way == 0 {
        tokio::task::yield_now().await;
    }
    // No node is asked for it.
    node.shared.dark.send_replace(true);
    let lock = within(guard.trip("the same call\n50 times")).await.unwrap();
    let state = guard.state();
    assert!(guard.check().is_err() && stopped_by(&state, lock), "{state:?}");
    assert_eq!(state.last_change.unwrap().calls_cut, 1);
    assert!(within(call).await.unwrap().is_err(), "the call is cut");
    let Some(Reason::Stopped(shown)) = state.denied else { unreachable!("it is stopped") };
    assert_eq!(
        (&shown.tag.by[..], shown.tag.reason.as_str()),
        (&["trip:test-1".to_owned()][..], "the same call 50 times")
    );
    assert!(other.check().is_ok());
    let child = client.guard("demo/agent_2/child").unwrap();
    until(&child, |state| stopped_by(state, lock)).await;
    // Until a node has taken it, it is one stop.
    assert_eq!(within(guard.trip("again")).await, Ok(lock));

    assert_eq!(*node.shared.confirmations.borrow(), [], "nobody accounts for it yet");
    node.shared.dark.send_replace(false);
    reached(&node.shared.trips, |_| committed(&node, lock)).await;
    reached(&node.shared.confirmations, |all| all.iter().any(|c| (c.lock, c.calls_cut) == (lock, 1))).await;
    node.release(AGENT, lock);
    node.start_again(AGENT, lock);
    let _permit = within(guard.wait_enabled()).await.unwrap();
    let next = within(guard.trip("again")).await.unwrap();
    assert!(next != lock && stopped_by(&guard.state(), next), "it stops anew");
    reached(&node.shared.trips, |_| committed(&node, next)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_trip_holds_and_is_not_sent_again() {
    let node = Node::start(TTL_MS, GRACE_MS).await;
    *node.shared.trip_refusal.lock() = Some(StatusCode::FORBIDDEN);
    let guard = node.running_guard().await;
    let lock = within(guard.trip("loop")).await.unwrap();
    reached(&node.shared.trips, |trips| trips.len() == 1).await;
    for _ in 0..3 {
        let leases = *node.shared.leases.borrow();
        node.renew(false);
        reached(&node.shared.leases, |now| *now > leases).await;
        assert!(stopped_by(&guard.state(), lock));
    }
    assert_eq!(within(guard.trip("loop")).await, Ok(lock));
    assert_eq!((told(&node), committed(&node, lock)), (1, false));
}

/// As where the answer was lost, and people have ended it meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_trip_that_was_taken_and_has_ended_is_not_refused() {
    let node = Node::start(TTL_MS, GRACE_MS).await;
    let guard = node.running_guard().await;
    node.shared.hold_leases.send_replace(true);
    *node.shared.trip_refusal.lock() = Some(StatusCode::CONFLICT);
    let lock = within(guard.trip("loop")).await.unwrap();
    reached(&node.shared.trips, |trips| trips.len() == 1).await;
    let document = node.shared.trips.borrow()[0].clone();
    let trip = Envelope { document, signatures: Vec::new() };
    node.shared.world.lock().apply(EntryKind::Trip, &trip).unwrap();
    node.release(AGENT, lock);
    node.start_again(AGENT, lock);
    assert!(stopped_by(&guard.state(), lock), "only proof ends it here");
    node.shared.hold_leases.send_replace(false);
    let _permit = within(guard.wait_enabled()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn s4_a_client_whose_thread_has_ended_says_so_and_denies() {
    let node = Node::start(TTL_MS, GRACE_MS).await;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let client = node.builder().node(&node.url).runtime(runtime.handle().clone()).build().unwrap();
    let guard: Guard = client.guard(AGENT).unwrap();
    runtime.shutdown_background();
    until(&guard, |state| state.denied == Some(Reason::ClientGone { why: Gone::RuntimeEnded })).await;
    assert_eq!(within(guard.trip("loop")).await, Err(TripError::ClientGone));
    assert!(guard.check().is_err());
}
