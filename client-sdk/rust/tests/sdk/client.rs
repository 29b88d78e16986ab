//! The client against a small node over HTTP: renewals, pushes, cuts, confirmations, failures.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::{StreamExt, stream};
use tagout::proto::lock::LockKind;
use tagout::proto::rule::CallLimits;
use tagout::proto::wire::{Renew, StopEvent, StopPath};
use tagout::{BuildError, Client, Gone, Guard, GuardError, NodesError, Reason, State, Stopped};

use crate::node::*;
use crate::world::*;

const TTL_MS: u64 = 10_000;
const GRACE_MS: u64 = 20_000;

/// Waits until the guard's state is as `wanted`.
pub(crate) async fn until(guard: &Guard, wanted: impl Fn(&State) -> bool) -> State {
    let mut changes = guard.changes();
    loop {
        let state = guard.state();
        if wanted(&state) {
            return state;
        }
        within(changes.next()).await.expect("the client lives");
    }
}

pub(crate) fn stopped_by(state: &State, lock: tagout::proto::digest::Digest) -> bool {
    matches!(&state.denied, Some(Reason::Stopped(told)) if told.id == lock)
}

/// Sets its flag when it is dropped.
struct Dropped(Arc<AtomicBool>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guard_opens_by_itself_and_calls_run() {
    let node = Node::start(TTL_MS, GRACE_MS).await;
    let client = node.client();
    let guard = client.guard(AGENT).unwrap();
    let state = within(guard.ready(PATIENCE)).await.unwrap();
    assert!(state.enabled() && state.left > Duration::ZERO, "{state:?}");
    within(client.ready(PATIENCE)).await.unwrap();
    let _permit = guard.check().unwrap();
    assert_eq!(guard.run(async { 7 }).await, Ok(7));
    let items: Vec<_> = guard.stream(stream::iter([1, 2])).unwrap().collect().await;
    assert_eq!(items, [Ok(1), Ok(2)]);
    assert_eq!(guard.state().calls_under_way, 0);
    reached(&node.shared.scopes, |query| query == "scope=demo/agent_2&instance=test-1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s4_without_a_node_construction_returns_at_once_and_denies() {
    let node = Node::start(TTL_MS, GRACE_MS).await;
    let client = node.builder().node("http://127.0.0.1:1").build().unwrap();
    let guard = client.guard(AGENT).unwrap();
    assert!(matches!(guard.check().unwrap_err().reason, Reason::NotReady { .. }));
    let state = until(&guard, |s| matches!(s.denied, Some(Reason::NotReady { .. }))).await;
    assert!(!state.enabled());
    let denied = guard.ready(Duration::from_millis(1)).await.unwrap_err();
    assert!(matches!(denied.reason, Reason::NotReady { .. }));
    assert!(client.ready(Duration::from_millis(1)).await.is_err());
    let mut begun = false;
    let refused = guard.run(async { begun = true }).await;
    assert!(matches!(refused, Err(Stopped::Denied(_))));
    assert!(!begun);
    assert!(guard.stream(stream::iter([1])).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_a_pushed_halt_denies_cuts_and_is_confirmed() {
    let node = Node::start(TTL_MS, GRACE_MS).await;
    let guard = node.running_guard().await;
    let gone = Arc::new(AtomicBool::new(false));
    let call = tokio::spawn({
        let (guard, flag) = (guard.clone(), Dropped(Arc::clone(&gone)));
        async move {
            guard
                .run(async move {
                    let _flag = flag;
                    pending::<()>().await
                })
                .await
        }
    });
    let mut items = guard.stream(stream::iter([1]).chain(stream::pending())).unwrap();
    assert_eq!(items.next().await, Some(Ok(1)));
    while guard.state().calls_under_way < 2 {
        tokio::task::yield_now().await;
    }
    node.shared.hold_leases.send_replace(true);
    let lock = node.stop("demo", LockKind::Halt, true);

    let cut = within(call).await.unwrap().unwrap_err();
    assert!(
        matches!(&cut, Stopped::Cut(denied) if matches!(&denied.reason, Reason::Stopped(l) if l.id == lock))
    );
    assert!(gone.load(Ordering::SeqCst), "the call was dropped before its cut was told");
    assert!(guard.check().is_err());
    // The stream is a call under way until it is dropped: only then the stop is confirmed.
    assert!(node.shared.confirmations.borrow().is_empty());
    assert!(matches!(within(items.next()).await, Some(Err(Stopped::Cut(_)))));
    assert_eq!(within(items.next()).await, None);
    reached(&node.shared.confirmations, |all| !all.is_empty()).await;
    let told = node.shared.confirmations.borrow()[0].clone();
    assert_eq!((told.lock, told.agent, told.instance.as_str()), (lock, scope(AGENT), "test-1"));
    assert_eq!((told.calls_cut, told.by), (2, StopPath::Push));
    assert!(told.closed_us <= told.cut_us);
    let change = guard.last_change().unwrap();
    assert_eq!((change.calls_cut, change.by), (2, Some(StopPath::Push)));
    assert!(change.closed_us.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_a_stop_that_was_never_pushed_comes_with_the_next_lease() {
    let node = Node::start(2_000, GRACE_MS).await;
    let guard = node.running_guard().await;
    let lock = node.stop(AGENT, LockKind::Halt, false);
    until(&guard, |state| stopped_by(state, lock)).await;
    assert!(guard.check().is_err());
    reached(&node.shared.confirmations, |all| all.iter().any(|c| c.by == StopPath::Lease)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s2_only_release_and_then_start_let_it_run_again() {
    let node = Node::start(TTL_MS, GRACE_MS).await;
    let guard = node.running_guard().await;
    let lock = node.stop("demo", LockKind::Halt, true);
    until(&guard, |state| stopped_by(state, lock)).await;
    node.release("demo", lock);
    until(&guard, |s| matches!(&s.denied, Some(Reason::Stopped(l)) if l.released)).await;
    node.start_again("demo", lock);
    let _permit = within(guard.wait_enabled()).await.unwrap();
    assert_eq!(guard.run(async { 7 }).await, Ok(7));
    // The same push once more is no new stop.
    assert!(guard.last_change().unwrap().denied.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_lets_calls_finish() {
    let node = Node::start(TTL_MS, GRACE_MS).await;
    let guard = node.running_guard().await;
    let (finish, finished) = tokio::sync::oneshot::channel();
    let call = tokio::spawn({
        let guard = guard.clone();
        async move { guard.run(finished).await }
    });
    while guard.state().calls_under_way < 1 {
        tokio::task::yield_now().await;
    }
    let lock = node.stop(AGENT, LockKind::Pause, true);
    until(&guard, |state| stopped_by(state, lock)).await;
    reached(&node.shared.confirmations, |all| all.iter().any(|c| c.calls_cut == 0)).await;
    finish.send(7).unwrap();
    assert_eq!(within(call).await.unwrap(), Ok(Ok(7)));
    node.release(AGENT, lock);
    let _permit = within(guard.wait_enabled()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_cuts_at_its_deadline_though_nothing_arrives() {
    let node = Node::start(TTL_MS, GRACE_MS).await;
    let guard = node.running_guard().await;
    let call = tokio::spawn({
        let guard = guard.clone();
        async move { guard.run(pending::<()>()).await }
    });
    while guard.state().calls_under_way < 1 {
        tokio::task::yield_now().await;
    }
    let lock = node.stop(AGENT, LockKind::Drain { drain_ms: 300 }, true);
    until(&guard, |state| stopped_by(state, lock)).await;
    assert!(matches!(within(call).await.unwrap(), Err(Stopped::Cut(_))));
    reached(&node.shared.confirmations, |all| all.iter().any(|c| c.calls_cut == 1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn essential_calls_go_on_under_a_restriction_and_until_a_drains_end() {
    let node = Node::start(TTL_MS, GRACE_MS).await;
    let terms = serde_json::json!({"essential": ["handover"], "limits": {"calls_per_minute": 60}});
    node.shared.world.lock().grant_with("demo", DAY_MS, terms);
    let guard = node.running_guard().await;
    let handover = guard.essential("handover").unwrap();
    let other = guard.essential("other").unwrap();
    let _permit = handover.check().unwrap();
    assert_eq!(handover.run(async { 7 }).await, Ok(7));
    let state = guard.state();
    // The other grant sets no limit, and the widest counts.
    assert_eq!((state.essential, state.limits), (vec!["handover".to_owned()], CallLimits::default()));

    let restrict = node.stop(AGENT, LockKind::Restrict, true);
    until(&guard, |state| stopped_by(state, restrict)).await;
    assert!(guard.check().is_err());
    let _permit = handover.check().unwrap();
    let _permit = guard.check_essential("handover").unwrap();
    let refused = other.check().unwrap_err().reason;
    assert_eq!(refused, Reason::NotEssential { class: "other".into() });
    reached(&node.shared.confirmations, |all| all.iter().any(|c| c.lock == restrict)).await;

    let throttle = LockKind::Throttle(CallLimits { calls_per_minute: Some(3), tokens_per_minute: None });
    node.stop(AGENT, throttle, true);
    until(&guard, |state| state.limits.calls_per_minute == Some(3)).await;
    assert_eq!(guard.limits().calls_per_minute, Some(3));

    // A call that is under way when the drain comes goes on, and so does an essential one that begins later.
    let mut items = handover.stream(stream::iter([1]).chain(stream::pending())).unwrap();
    let drain = node.stop(AGENT, LockKind::Drain { drain_ms: 500 }, true);
    until(&guard, |state| stopped_by(state, drain)).await;
    assert_eq!(items.next().await, Some(Ok(1)));
    let cut = within(items.next()).await;
    assert!(matches!(cut, Some(Err(Stopped::Cut(_)))), "{cut:?}");
    let denied = handover.check().unwrap_err();
    assert!(matches!(&denied.reason, Reason::Stopped(lock) if lock.id == drain), "{denied}");
    assert!(guard.state().essential.is_empty());
    reached(&node.shared.confirmations, |all| all.iter().any(|c| c.lock == drain && c.calls_cut == 1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn handles_of_essential_classes_are_bounded_and_shared() {
    let node = Node::start(TTL_MS, GRACE_MS).await;
    let guard = node.running_guard().await;
    for n in 0..tagout::limits::ESSENTIAL_HANDLES_MAX {
        guard.essential(&format!("class-{n}")).unwrap();
    }
    guard.essential("class-0").unwrap();
    assert_eq!(guard.essential("one more").unwrap_err(), GuardError::TooManyClasses);
    assert!(guard.check_essential("one more").is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pushed_suspend_and_revoke_deny_and_a_new_authority_is_learned_without_a_gap() {
    let node = Node::start(60_000, GRACE_MS).await;
    let guard = node.running_guard().await;
    let mut changes = guard.changes();
    node.shared.world.lock().succeed(|_| {});
    let leases = *node.shared.leases.borrow();
    node.renew(false);
    reached(&node.shared.leases, |now| *now > leases + 1).await; // one refused, one under the new authority
    assert!(guard.check().is_ok());
    let event = {
        let mut world = node.shared.world.lock();
        let document = world.suspend_document(&[Who::Bob]);
        world.take_away(&document)
    };
    node.push("stop", &event);
    let state = within(changes.next()).await.unwrap();
    assert!(matches!(state.denied, Some(Reason::NoConsent { .. })), "{state:?}");
    let grant = {
        let mut world = node.shared.world.lock();
        let document = world.grant_document("demo", DAY_MS);
        let grant = envelope(&document, &[Who::Alice, Who::Carol]);
        world.send(&grant);
        grant.digest()
    };
    node.renew(false);
    let _permit = within(guard.wait_enabled()).await.unwrap();
    let event = {
        let mut world = node.shared.world.lock();
        let document = world.revoke_document("demo", &[grant]);
        world.take_away(&document)
    };
    node.push("stop", &event);
    until(&guard, |state| matches!(state.denied, Some(Reason::NoConsent { .. }))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s4_a_lapse_denies_cuts_after_its_grace_and_heals() {
    let node = Node::start(2_000, 200).await;
    let guard = node.running_guard().await;
    let call = tokio::spawn({
        let guard = guard.clone();
        async move { guard.run(pending::<()>()).await }
    });
    while guard.state().calls_under_way < 1 {
        tokio::task::yield_now().await;
    }
    node.shared.dark.send_replace(true);
    until(&guard, |state| matches!(state.denied, Some(Reason::Lapsed { last_error: Some(_) }))).await;
    let cut = within(call).await.unwrap().unwrap_err();
    assert!(matches!(&cut, Stopped::Cut(denied) if matches!(denied.reason, Reason::Lapsed { .. })), "{cut}");
    assert!(node.shared.confirmations.borrow().is_empty(), "a lapse is not a stop");
    node.shared.dark.send_replace(false);
    let _permit = within(guard.wait_enabled()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn another_node_is_asked_when_one_does_not_answer() {
    let node = Node::start(TTL_MS, GRACE_MS).await;
    let client =
        node.builder().node("http://127.0.0.1:1").node(&node.url).node("http://127.0.0.1:2").build().unwrap();
    let guard = client.guard(AGENT).unwrap();
    let _permit = within(guard.wait_enabled()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_out_of_its_time_is_no_kill_switch_and_a_strangers_is_none() {
    for (from, to) in [(1999, 2000), (3000, 4000)] {
        let node = Node::start_tls_valid(TTL_MS, GRACE_MS, from, to).await;
        node.running_guard().await;
        let stranger = Node::start_tls_valid(TTL_MS, GRACE_MS, from, to).await;
        let client = node.builder().node(&stranger.url).build().unwrap();
        let guard = client.guard(AGENT).unwrap();
        // The same reason with another text is no change that guards are told of.
        let refused = within(async {
            loop {
                match guard.state().denied {
                    Some(Reason::NotReady { last_error: Some(error) }) => return error,
                    _ => tokio::time::sleep(Duration::from_millis(10)).await,
                }
            }
        });
        let error = refused.await;
        assert!(error.contains("certificate"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn s4_what_cannot_be_verified_denies_until_a_lease_says_otherwise() {
    let node = Node::start(TTL_MS, GRACE_MS).await;
    let guard = node.running_guard().await;
    let forged = {
        let mut world = node.shared.world.lock();
        let document = world.stop_document("demo", LockKind::Halt);
        StopEvent {
            stop: envelope(&document, &[Who::Stranger]),
            index: Some(9),
            time_ms: 0,
            confirm_within_ms: 0,
        }
    };
    let mut changes = guard.changes();
    for push in ["forged", "garbage", "unknown"] {
        let leases = *node.shared.leases.borrow();
        match push {
            "forged" => node.push("stop", &forged),
            "garbage" => node.push("stop", &"garbage"),
            _ => node.push("tighten", &"something of a later version"),
        }
        // Denied, and open again by a lease that was asked for because of it.
        within(changes.next()).await.unwrap();
        reached(&node.shared.leases, |now| *now > leases).await;
        let _permit = within(guard.wait_enabled()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_for_renewal_is_answered_and_may_deny_until_then() {
    let node = Node::start(TTL_MS, GRACE_MS).await;
    let guard = node.running_guard().await;
    let leases = *node.shared.leases.borrow();
    node.renew(false);
    reached(&node.shared.leases, |now| *now > leases).await;
    let mut changes = guard.changes();
    node.renew(true);
    within(changes.next()).await.unwrap();
    let _permit = within(guard.wait_enabled()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_greeting_that_tells_of_a_longer_log_renews() {
    let node = Node::start(60_000, GRACE_MS).await;
    let guard = node.running_guard().await;
    // Committed while nobody listened; the greeting of the next stream tells.
    let lock = node.stop(AGENT, LockKind::Halt, false);
    let log_size = node.shared.world.lock().ledger.size();
    node.push("hello", &Renew { log_size, deny: false, within_ms: 0 });
    until(&guard, |state| stopped_by(state, lock)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_stream_is_opened_again() {
    let node = Node::start(60_000, GRACE_MS).await;
    let guard = node.running_guard().await;
    node.shared.dark.send_replace(true);
    let lock = node.stop(AGENT, LockKind::Halt, true); // into the void
    node.shared.dark.send_replace(false);
    until(&guard, |state| stopped_by(state, lock)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_guards_share_requests_and_guards_of_one_agent_share_everything() {
    let node = Node::start(TTL_MS, GRACE_MS).await;
    let client = node.client();
    let guards: Vec<_> = (0..1500).map(|n| client.guard(&format!("demo/crowd/{n}")).unwrap()).collect();
    within(client.ready(PATIENCE)).await.unwrap();
    assert!(guards.iter().all(|guard| guard.check().is_ok()));
    let requests = *node.shared.leases.borrow();
    assert!(requests < 100, "{requests}");
    reached(&node.shared.scopes, |query| query == "scope=demo/crowd&instance=test-1").await;
    let twin = client.guard("demo/crowd/0").unwrap();
    let _permit = twin.check().unwrap();
    reached(&node.shared.streams, |streams| *streams > 0).await;
    node.stop("demo/crowd", LockKind::Halt, true);
    for guard in &guards {
        until(guard, |state| !state.enabled()).await;
    }
    reached(&node.shared.confirmations, |all| all.len() == guards.len()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s4_a_client_whose_runtime_ends_denies_and_cuts() {
    let node = Node::start(TTL_MS, GRACE_MS).await;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let client = node.builder().node(&node.url).runtime(runtime.handle().clone()).build().unwrap();
    let guard = client.guard(AGENT).unwrap();
    let _permit = within(guard.wait_enabled()).await.unwrap();
    let call = tokio::spawn({
        let guard = guard.clone();
        async move { guard.run(pending::<()>()).await }
    });
    while guard.state().calls_under_way < 1 {
        tokio::task::yield_now().await;
    }
    runtime.shutdown_background();
    assert!(matches!(within(call).await.unwrap(), Err(Stopped::Cut(_))));
    assert_eq!(guard.check().unwrap_err().reason, Reason::ClientGone { why: Gone::RuntimeEnded });
    let waited = within(guard.wait_enabled()).await.unwrap_err();
    assert_eq!(waited.reason, Reason::ClientGone { why: Gone::RuntimeEnded }, "nobody waits for ever");
    let late = client.guard("demo/late").unwrap();
    assert_eq!(late.check().unwrap_err().reason, Reason::ClientGone { why: Gone::RuntimeEnded });
}

#[tokio::test(flavor = "multi_thread")]
async fn s4_a_client_whose_thread_stands_still_denies_says_so_and_heals() {
    let node = Node::start(2_000, GRACE_MS).await;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let client = node.builder().node(&node.url).runtime(runtime.handle().clone()).build().unwrap();
    let guard = client.guard(AGENT).unwrap();
    let _permit = within(guard.wait_enabled()).await.unwrap();
    // As a program does that blocks its runtime.
    let (go_on, blocked) = std::sync::mpsc::channel::<()>();
    runtime.spawn(async move { blocked.recv().is_err() });
    let stuck = |reason: Reason| matches!(reason, Reason::ClientStuck { .. }) && reason.is_lapse();
    within(async {
        while !guard.check().is_err_and(|denied| stuck(denied.reason)) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    drop(go_on);
    let _permit = within(guard.wait_enabled()).await.unwrap();
    runtime.shutdown_background();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_misconfigured_client_is_told_what_to_do() {
    let node = Node::start(TTL_MS, GRACE_MS).await;
    let world = node.shared.world.lock().clone();
    let json = serde_json::to_vec(&world.genesis).unwrap();
    let pin = world.deployment.to_string();
    let build =
        |pin: &str, node: &str| Client::builder().genesis_json(json.clone()).pinned(pin).node(node).build();
    assert!(matches!(Client::builder().build(), Err(BuildError::NoGenesis)));
    assert!(matches!(build("demo", &node.url), Err(BuildError::Pin(_))));
    let other = format!("demo:{}", "ee".repeat(32));
    assert!(matches!(build(&other, &node.url), Err(BuildError::Authority(_))), "S5");
    let name = pin.replace("demo:", "prod:");
    assert!(matches!(build(&name, &node.url), Err(BuildError::PinnedName { .. })));
    assert!(matches!(build(&pin, "http://10.0.0.1:1"), Err(BuildError::Nodes(NodesError::Plain(_)))));
    assert!(matches!(build(&pin, "https://node-1:1"), Err(BuildError::Nodes(NodesError::NoCa))));
    let spaced =
        Client::builder().genesis_json(json.clone()).pinned(&pin).node(&node.url).instance("a b").build();
    assert!(matches!(spaced, Err(BuildError::Instance(_))));
    let digest = world.deployment.genesis.to_string();
    let client = build(&digest, &node.url).unwrap();
    assert_eq!(client.deployment(), &world.deployment);
    assert_eq!(client.guard("*").unwrap_err(), GuardError::Fleet);
    assert!(matches!(client.guard("a//b"), Err(GuardError::Scope(_))));
}
