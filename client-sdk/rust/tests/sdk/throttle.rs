//! Limits: counted, shared, and never more than people signed; and isolation, told to whoever enforces it.

use tagout::proto::lock::LockKind;
use tagout::proto::rule::CallLimits;
use tagout::{Denied, Reason, Stopped};

use crate::client::{stopped_by, until};
use crate::node::*;
use crate::world::*;

const TTL_MS: u64 = 10_000;
const GRACE_MS: u64 = 20_000;

fn per_minute(calls: Option<u64>, tokens: Option<u64>) -> CallLimits {
    CallLimits { calls_per_minute: calls, tokens_per_minute: tokens }
}

/// The share that was used up, and whether it says when to try again.
fn throttled<T: std::fmt::Debug>(refused: Result<T, Denied>) -> (CallLimits, bool) {
    match refused.unwrap_err().reason {
        Reason::Throttled { share, retry_after } => (share, retry_after.is_some()),
        reason => panic!("{reason}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_and_tokens_are_counted_once_each_and_check_counts_none() {
    let node = Node::start(TTL_MS, GRACE_MS).await;
    let guard = node.running_guard().await;
    let _permit = guard.acquire(u64::MAX).unwrap();
    let limits = per_minute(Some(5), Some(100));
    let throttle = node.stop(AGENT, LockKind::Throttle(limits), true);
    until(&guard, |state| state.limits == limits && state.share == limits).await;
    for _ in 0..20 {
        let _permit = guard.check().unwrap();
    }
    let _permit = guard.acquire(60).unwrap();
    assert_eq!(throttled(guard.acquire(60)), (limits, true));
    assert_eq!(throttled(guard.acquire(101)), (limits, false), "it never fits");
    assert_eq!(guard.run(async { 7 }).await, Ok(7));
    guard.stream(futures_util::stream::iter([1])).unwrap();
    let call = guard.call().unwrap();
    call.spend(40).unwrap();
    assert_eq!(throttled(call.spend(1)), (limits, true));
    let _permit = guard.acquire(0).unwrap();
    let refused = guard.run(async { unreachable!() }).await;
    assert!(matches!(&refused, Err(Stopped::Denied(d)) if matches!(d.reason, Reason::Throttled { .. })));
    assert!(guard.state().enabled(), "it is no stop");
    assert!(guard.check().is_ok());
    assert_eq!(guard.state().calls_under_way, 1);

    node.release(AGENT, throttle);
    until(&guard, |state| state.limits == CallLimits::default()).await;
    let _permit = guard.acquire(1_000).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn s7_a_guard_counts_its_share_and_no_node_makes_it_more_than_the_limit() {
    let node = Node::start(TTL_MS, GRACE_MS).await;
    let guard = node.running_guard().await;
    let limits = per_minute(Some(7), None);
    node.stop(AGENT, LockKind::Throttle(limits), true);
    for (instances, share) in [(vec![3], 2), (vec![0], 7), (vec![8], 0), (vec![], 7), (vec![1], 7)] {
        *node.shared.alter.lock() = Some(Box::new(move |answer| answer.instances = instances.clone()));
        node.renew(false);
        until(&guard, |state| state.share == per_minute(Some(share), None)).await;
        assert_eq!(guard.limits(), limits);
    }
    (0..7).for_each(|_| drop(guard.acquire(0).unwrap()));
    assert_eq!(throttled(guard.acquire(0)), (limits, true));

    // Of another number of agents: no lease at all.
    *node.shared.alter.lock() = Some(Box::new(|answer| answer.instances = vec![1, 1]));
    let mut changes = guard.changes();
    node.renew(true);
    assert!(!within(changes.next()).await.unwrap().enabled());
    until(&guard, |state| matches!(state.denied, Some(Reason::Unverifiable(_)))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn enforcers_hear_of_an_isolation_and_of_its_end_and_a_lapse_is_neither() {
    let node = Node::start(2_000, GRACE_MS).await;
    let guard = node.running_guard().await;
    assert!(!guard.state().isolated);
    let mut changes = guard.changes();
    let isolate = node.stop(AGENT, LockKind::Isolate, true);
    let state = within(changes.next()).await.unwrap();
    assert!(state.isolated && stopped_by(&state, isolate), "{state:?}");
    // A halt beside it is the stronger reason, and the isolation is there all the same.
    let halt = node.stop(AGENT, LockKind::Halt, true);
    assert!(until(&guard, |state| stopped_by(state, halt)).await.isolated);
    node.release(AGENT, halt);
    node.start_again(AGENT, halt);
    assert!(until(&guard, |state| stopped_by(state, isolate)).await.isolated);
    node.shared.dark.send_replace(true);
    node.release(AGENT, isolate);
    assert!(guard.state().isolated);
    node.shared.dark.send_replace(false);
    let state = until(&guard, |state| !state.isolated).await;
    assert!(state.enabled() || state.denied.is_some_and(|reason| reason.is_lapse()));
    let _permit = within(guard.wait_enabled()).await.unwrap();
}
