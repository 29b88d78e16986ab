//! What outlives the process: it denies, and never allows (S4).

use std::path::Path;

use tagout::proto::lock::LockKind;
use tagout::proto::wire::StopPath;
use tagout::trusted::{KeptError, LeaseRefused};
use tagout::{Client, Guard, Reason, State, StateError};

use crate::client::{stopped_by, until};
use crate::node::*;
use crate::world::*;

/// A guard after a restart of its process, with what the one before kept.
fn restarted(world: &World, before: &Believer) -> Believer {
    let mut after = Believer::new(world);
    after.now = before.now;
    after.trusted.recall(&before.trusted.keep(), after.now).unwrap();
    after
}

fn running() -> (World, Believer) {
    let world = World::running();
    let mut guard = Believer::new(&world);
    guard.renew(&world);
    assert!(guard.allowed());
    (world, guard)
}

#[test]
fn s4_nothing_that_is_kept_allows() {
    let (world, guard) = running();
    let mut after = restarted(&world, &guard);
    assert!(matches!(after.judge().refusal, Some(Reason::NotReady { .. })));
    after.renew(&world);
    assert!(after.allowed(), "it heals by itself");
}

#[test]
fn s1_s2_a_lock_is_latched_after_a_restart_until_its_end_is_proven() {
    for pushed in [true, false] {
        let (mut world, mut guard) = running();
        let stop = world.stop(AGENT, LockKind::Halt);
        if pushed {
            guard.push(&stop);
        } else {
            guard.renew(&world);
        }
        let mut after = restarted(&world, &guard);
        let lock = |guard: &Believer| match guard.judge().refusal {
            Some(Reason::Stopped(lock)) => lock.id,
            other => panic!("{other:?}"),
        };
        assert_eq!(lock(&after), stop.stop.digest(), "before any node is asked");
        // The service forgets it, or hides it.
        let hidden = after.renew_with(&world, |reply| reply.views[0].locks.clear());
        assert_eq!(hidden.unwrap().cleared, []);
        assert_eq!(lock(&after), stop.stop.digest());
        let id = stop.stop.digest();
        world.release(AGENT, id);
        after.settle(&world).unwrap();
        assert_eq!(lock(&after), id);
        world.start(AGENT, id);
        after.settle(&world).unwrap();
        assert!(after.allowed());
        assert!(restarted(&world, &after).judge().locks.is_empty(), "what has ended is not kept");
    }
}

#[test]
fn s6_a_delivered_stop_is_kept_for_agents_that_come_later() {
    let (mut world, mut guard) = running();
    let document = world.stop_document("demo/team", LockKind::Halt);
    let stop = envelope(&document, &[Who::Bot]);
    guard.trusted.accept_delivered(&stop, StopPath::File, guard.now).unwrap();
    let mut after = restarted(&world, &guard);
    after.trusted.add(scope("demo/team/late"));
    let judged = after.trusted.judge(&scope("demo/team/late"), after.now);
    assert_eq!((judged.locks[0].id, judged.locks[0].by), (stop.digest(), StopPath::File));
}

#[test]
fn s5_no_history_before_the_restart_is_taken_for_the_newest() {
    let (mut world, mut guard) = running();
    let earlier = world.clone();
    world.grant("demo", DAY_MS);
    guard.renew(&world);
    let mut after = restarted(&world, &guard);
    let refused = after.renew_with(&earlier, |_| {}).unwrap_err();
    assert!(matches!(refused, LeaseRefused::LogRollback { .. }), "{refused}");
    // Restarted again before any lease, it knows as much.
    let mut again = restarted(&world, &after);
    assert!(again.renew_with(&earlier, |_| {}).is_err());
    again.renew(&world);
    assert!(again.allowed());
}

#[test]
fn s5_what_was_taken_back_stays_taken_back() {
    let (mut world, mut guard) = running();
    let honest = world.clone();
    let document = world.suspend_document(&[Who::Bob]);
    let suspend = world.take_away(&document);
    guard.push(&suspend);
    assert!(!guard.allowed());
    // The service leaves the suspend out: its log is that of before.
    let mut after = restarted(&world, &guard);
    after.renew(&honest);
    assert!(matches!(after.judge().refusal, Some(Reason::NoConsent { .. })), "{:?}", after.judge().refusal);
}

#[test]
fn s4_a_damaged_file_is_never_taken_for_another() {
    let (mut world, mut guard) = running();
    guard.push(&world.stop(AGENT, LockKind::Halt));
    let kept = guard.trusted.keep();
    let recall = |bytes: &[u8]| Believer::new(&world).trusted.recall(bytes, guard.now);
    assert_eq!(recall(&kept), Ok(()));
    for at in 0..kept.len() {
        let mut bytes = kept.clone();
        bytes[at] ^= 1;
        assert!(recall(&bytes).is_err(), "byte {at}");
        assert!(recall(&kept[..at]).is_err(), "cut at {at}");
    }
    let text = String::from_utf8(kept).unwrap();
    let newer = text.replacen("state 1", "state 2", 1);
    assert_eq!(recall(newer.as_bytes()), Err(KeptError::Newer { found: 2 }));
    let other = World::with(genesis("other", 10_000, 20_000), T0_MS);
    let other = Believer::new(&other).trusted.recall(text.as_bytes(), guard.now);
    assert!(matches!(other, Err(KeptError::OtherDeployment(_))), "{other:?}");
}

async fn open(node: &Node, folder: &Path) -> (Client, Guard) {
    let client = node.builder().node(&node.url).state_folder(folder).build().unwrap();
    let guard = client.guard(AGENT).unwrap();
    (client, guard)
}

fn in_use(state: &State) -> bool {
    matches!(&state.denied, Some(Reason::StateLost(why)) if matches!(**why, StateError::InUse { .. }))
}

/// How a guard stands whose client has the folder for itself, once those before have ended.
async fn opened_alone(node: &Node, folder: &Path) -> State {
    loop {
        let (_client, guard) = open(node, folder).await;
        let not_ready = |state: &State| matches!(state.denied, Some(Reason::NotReady { .. }));
        let state = until(&guard, |state| !not_ready(state)).await;
        if !in_use(&state) {
            return state;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn s4_a_process_that_starts_again_denies_by_what_the_one_before_saw() {
    let (node, folder) = (Node::start(10_000, 20_000).await, tempfile::tempdir().unwrap());
    let (client, guard) = open(&node, folder.path()).await;
    let _permit = within(guard.wait_enabled()).await.unwrap();
    let (_second, shut_out) = open(&node, folder.path()).await;
    until(&shut_out, in_use).await;

    reached(&node.shared.streams, |streams| *streams > 0).await;
    let lock = node.stop(AGENT, LockKind::Halt, true);
    until(&guard, |state| stopped_by(state, lock)).await;
    drop((guard, client));
    // No node answers any more.
    node.shared.dark.send_replace(true);
    let again = opened_alone(&node, folder.path()).await;
    assert!(stopped_by(&again, lock), "{again:?}");

    // It writes once more when it ends.
    let ended = std::fs::File::open(folder.path().join("guard-state.lock")).unwrap();
    let ended = tokio::task::spawn_blocking(move || ended.lock().map(|()| ended)).await.unwrap().unwrap();
    let state = folder.path().join("guard-state");
    let kept = std::fs::read(&state).unwrap();
    std::fs::write(&state, &kept[..kept.len() / 2]).unwrap();
    drop(ended);
    let Some(Reason::StateLost(lost)) = opened_alone(&node, folder.path()).await.denied else {
        panic!("what is damaged is taken for nothing");
    };
    assert!(lost.to_string().contains("damaged"), "{lost}");
    assert_eq!(std::fs::read(&state).unwrap().len(), kept.len() / 2, "it is left for people to look at");
}
