//! Documents that name what has not arrived yet: whatever the order of arrival, it ends in one state (S2).

use proptest::prelude::*;
use serde_json::json;
use tagout_proto::digest::Digest;
use tagout_proto::envelope::Envelope;
use tagout_proto::ledger::{LockStatus, Refusal};
use tagout_proto::limits::REMEMBERED_PER_ID_MAX;
use tagout_proto::log::entry::{Entry, EntryKind};
use tagout_proto::rule::Verdict::{self, Denied, Enabled};

use crate::support::*;

const AGENTS: [&str; 5] = ["*", "a", "a/x", "a/y", "b"];

#[test]
fn s2_a_start_before_its_release_is_refused_also_for_what_has_not_arrived() {
    let mut world = World::running();
    let (here, late) = (world.stop("a", "halt"), world.stop_document("a", "halt"));
    for lock in [here, late.digest(), Digest([9; 32])] {
        let refusal = world.start("a", &[lock]).unwrap_err();
        assert_eq!(refusal, Refusal::NotReleased(lock));
        assert!(refusal.to_string().ends_with("release it first, then start it (`tagout resume` does both)"));
    }
    assert_eq!(world.release("a", &[here, late.digest()]).unwrap().awaited, 1);
    assert_eq!(world.start("a", &[here, late.digest()]).unwrap().awaited, 1);
    assert_eq!(world.verdict("a"), Enabled);
}

#[test]
fn s2_a_waiting_start_counts_only_after_the_waiting_release_that_fits() {
    let mut world = World::running();
    let stop = world.stop_document("a", "halt");
    // This release is for another scope: it lets the start wait, and releases nothing.
    world.release("a/x", &[stop.digest()]).unwrap();
    world.start("a", &[stop.digest()]).unwrap();
    world.release("a", &[stop.digest()]).unwrap();
    let receipt = world.send(stop.clone()).unwrap();
    assert_eq!((receipt.digest, world.verdict("a")), (stop.digest(), Denied), "released, not started");
    world.start("a", &[stop.digest()]).unwrap();
    assert_eq!(world.verdict("a"), Enabled);
}

#[test]
fn s8_s10_a_stop_that_races_its_own_release_is_in_the_log_and_says_that_it_stops_nothing() {
    let mut world = World::running();
    let (halt, pause) = (world.stop_document("a", "halt"), world.stop_document("b", "pause"));
    let release = world.release("*", &[halt.digest(), pause.digest()]).unwrap().index;
    world.start("*", &[halt.digest()]).unwrap();
    for (stop, start) in [(halt, Some(3)), (pause, None)] {
        let applied = world.propose(EntryKind::Command, stop.clone());
        let index = world.ledger.size() - 1;
        assert_eq!(applied.answer, Err(Refusal::Used { index, released_at: release }));
        let entry = Entry::decode(&applied.entry.unwrap()).unwrap();
        assert_eq!((entry.index, &entry.envelope), (index, &stop));
        assert_eq!(world.ledger.used_at(&stop.digest()), Some(index));
        let cleared = LockStatus::Cleared { placed: index, release, start };
        assert_eq!(world.ledger.lock_status(&stop.digest(), &scope("a")), cleared);
        // Again, and for ever: used.
        let again = world.propose(EntryKind::Command, stop);
        assert!(matches!(again.answer, Err(Refusal::Used { .. })) && again.entry.is_none());
    }
    assert_eq!((world.verdict("a"), world.verdict("b"), world.ledger.lock_count()), (Enabled, Enabled, 0));
    assert_eq!(postcard::to_stdvec(&world.replayed()).unwrap(), postcard::to_stdvec(&world.ledger).unwrap());
}

#[test]
fn s2_a_stop_that_meets_only_its_release_holds_until_its_start() {
    let mut world = World::running();
    let (halt, other) = (world.stop_document("a", "halt"), world.stop_document("a", "halt"));
    world.release("a", &[halt.digest()]).unwrap();
    world.send(halt.clone()).unwrap();
    assert_eq!(world.verdict("a"), Denied);
    assert!(world.ledger.lock(&halt.digest()).unwrap().lock.released);
    world.start("a/x", &[halt.digest()]).unwrap();
    assert_eq!((world.verdict("a/x"), world.verdict("a/y")), (Enabled, Denied));
    // None of it says anything of another stop of the same words.
    world.send(other).unwrap();
    assert_eq!(world.verdict("a/x"), Denied);
}

#[test]
fn what_waits_is_bounded_and_tells_so() {
    let mut world = World::running();
    let never = Digest([9; 32]);
    for _ in 0..REMEMBERED_PER_ID_MAX {
        assert_eq!(world.release("a", &[never]).unwrap().awaited, 1);
    }
    assert_eq!(world.release("a", &[never]), Err(Refusal::TooManyRemembered));
    assert_eq!(world.start("a", &[never]), Err(Refusal::TooManyRemembered));
}

/// Each document by itself: what it is for must not show in the order in which they come.
fn documents(world: &mut World) -> Vec<Envelope> {
    let mut documents: Vec<_> = [("a", "halt"), ("a/x", "drain"), ("*", "pause"), ("a", "halt")]
        .map(|(on, mode)| world.stop_document(on, mode))
        .into();
    let ids: Vec<_> = documents.iter().map(Envelope::digest).collect();
    // The last halt is released and started for one wave only; the pause is released by a document of its own.
    documents.push(world.release_document("a", &[ids[0], ids[1], ids[3]]));
    documents.push(world.release_document("*", &[ids[2]]));
    documents.push(world.start_document("a", &[ids[0], ids[1]]));
    documents.push(world.start_document("a/x", &[ids[3]]));
    let (kept, revoked) =
        (world.grant_document("*", T0 + 10_000_000), world.grant_document("b", T0 + 10_000_000));
    let revoke = world.document("revoke", "b", json!({"grants": [revoked.digest()]}));
    documents.extend([kept, revoked, envelope(revoke, &[BOT])]);
    documents
}

/// What there is to see of a lock or an agent, without the places in the log.
fn seen(world: &mut World, documents: &[Envelope]) -> (Vec<Verdict>, Vec<String>, usize) {
    world.now_ms += 120_000;
    let verdicts = AGENTS.iter().map(|agent| world.verdict(agent)).collect();
    let statuses = documents.iter().flat_map(|document| {
        AGENTS.map(|agent| match world.ledger.lock_status(&document.digest(), &scope(agent)) {
            LockStatus::Cleared { start, .. } => format!("cleared, started: {}", start.is_some()),
            other => format!("{other:?}"),
        })
    });
    (verdicts, statuses.collect(), world.ledger.lock_count())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(120))]

    /// Refused ones are sent again, as the service's answer tells people to do.
    #[test]
    fn s2_every_order_of_arrival_ends_in_one_state(order in Just((0..11usize).collect::<Vec<_>>()).prop_shuffle()) {
        let mut world = World::new();
        let documents = documents(&mut world);
        let mut in_order = world.clone();
        for document in &documents {
            in_order.send(document.clone()).unwrap();
        }
        for _ in 0..3 {
            for at in &order {
                let _ = world.send(documents[*at].clone());
            }
        }
        prop_assert_eq!(seen(&mut world, &documents), seen(&mut in_order, &documents));
        prop_assert_eq!(postcard::to_stdvec(&world.replayed()).unwrap(), postcard::to_stdvec(&world.ledger).unwrap());
    }
}
