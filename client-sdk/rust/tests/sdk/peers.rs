//! What a network and a host do to a client: bad peers, a stopped process, a fleet that comes back at once.

use std::convert::Infallible;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::{HeaderValue, header};
use axum::middleware::map_response;
use axum::response::Response;
use axum::response::sse::{Event, Sse};
use axum::routing::get;
use futures_util::future::join_all;
use futures_util::stream;
use tagout::proto::wire::Renew;
use tagout::{Client, Guard, Reason};

use crate::agent::{Agent, Told};
use crate::client::until;
use crate::node::*;
use crate::world::*;

/// A peer that does `what` with everybody who comes, until the test's process ends.
fn peer(what: impl Fn(TcpStream) + Send + Copy + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || what(stream));
        }
    });
    url
}

/// Takes the request and never says anything, as a host does that has lost its power.
fn half_open(mut stream: TcpStream) {
    while stream.read(&mut [0; 4096]).is_ok_and(|bytes| bytes > 0) {}
}

/// Begins an answer and never ends it, a byte at a time.
fn trickle(mut stream: TcpStream) {
    let head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n";
    let mut alive = stream.write_all(head).is_ok();
    while alive {
        std::thread::sleep(Duration::from_millis(20));
        alive = stream.write_all(b" ").is_ok();
    }
}

fn garbage(mut stream: TcpStream) {
    let _ = stream.write_all(&[0xa5; 10_000]);
}

/// Answers in good form, with what is no lease and no event.
fn nonsense(mut stream: TcpStream) {
    let _ = stream.read(&mut [0; 4096]);
    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n[\"nonsense\"]");
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_peers_keep_no_guard_from_the_good_one_and_never_open_any() {
    let bad = [peer(half_open), peer(trickle), peer(garbage), peer(nonsense)];
    let node = Node::start(4_000, 20_000).await;
    let among = |good: Option<&str>| {
        let builder = bad.iter().fold(node.builder(), |builder, url| builder.node(url));
        good.into_iter().fold(builder, |builder, url| builder.node(url)).build().unwrap()
    };
    // Several, since each begins anywhere.
    let clients: Vec<Client> = (0..6).map(|_| among(Some(&node.url))).collect();
    let guards: Vec<Guard> = clients.iter().map(|client| client.guard(AGENT).unwrap()).collect();
    let opened = within(join_all(guards.iter().map(Guard::wait_enabled))).await;
    assert!(opened.iter().all(Result::is_ok));
    // A push still comes through; who is still on its way to the good one hears of it by its lease.
    reached(&node.shared.streams, |streams| *streams >= 1).await;
    let lock = node.stop(AGENT, tagout::proto::lock::LockKind::Halt, true);
    for guard in &guards {
        until(guard, |state| crate::client::stopped_by(state, lock)).await;
    }
    let alone = among(None);
    let guard = alone.guard(AGENT).unwrap();
    while alone.counters().lease_failures + alone.counters().unproven < 8 {
        assert!(guard.check().is_err(), "S4");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

const FLEET: usize = 10_000;

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_guards_lose_the_service_and_come_back_at_once() {
    let node = Node::start(2_000, 20_000).await;
    // Many clients, whose requests meet, on one runtime.
    let runtime = tokio::runtime::Handle::current();
    let clients: Vec<Client> =
        (0..20).map(|_| node.builder().node(&node.url).runtime(runtime.clone()).build().unwrap()).collect();
    let guards: Vec<Guard> = (0..FLEET)
        .map(|n| clients[n % clients.len()].guard(&format!("demo/fleet/agent_{n}")).unwrap())
        .collect();
    let all_open =
        || async { join_all(guards.iter().map(Guard::wait_enabled)).await.iter().all(Result::is_ok) };
    assert!(within(all_open()).await);
    node.shared.dark.send_replace(true);
    for guard in &guards {
        let state = until(guard, |state| state.denied.is_some()).await;
        assert!(matches!(state.denied, Some(Reason::Lapsed { .. })), "{:?}", state.denied);
    }
    node.shared.dark.send_replace(false);
    assert!(within(all_open()).await);
}

/// Every line is a call that wants to begin.
#[test]
fn agent_process() {
    let Some(told) = Told::hear() else { return };
    let guard = told.builder().build().unwrap().guard(AGENT).unwrap();
    while guard.check().is_err() {
        std::thread::sleep(Duration::from_millis(5));
    }
    println!("OPEN");
    for _line in std::io::stdin().lines() {
        println!("{}", guard.check().map_or_else(|denied| denied.to_string(), |_| "ALLOWED".into()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_the_first_check_of_a_process_that_was_stopped_beyond_its_ttl_denies() {
    let node = Node::start(2_000, 20_000).await;
    let mut agent = Agent::start("peers::agent_process", &node);
    assert_eq!(agent.line(), "OPEN");
    agent.signal(rustix::process::Signal::STOP);
    // Nobody renews for it when it goes on.
    node.shared.hold_leases.send_replace(true);
    tokio::time::sleep(Duration::from_millis(2_100)).await;
    agent.signal(rustix::process::Signal::CONT);
    let answer = agent.ask("call");
    assert!(answer.contains("its lease lapsed"), "{answer}");
    node.shared.hold_leases.send_replace(false);
    while agent.ask("call") != "ALLOWED" {}
}

const CLIENTS: usize = 60;
const WARM: u64 = 300;
const RECONNECTS: u64 = 1_000;

/// Says what it holds once its clients have connected again `WARM` times, and after `RECONNECTS` more: descriptors, tasks and
/// KiB of memory.
#[test]
fn reconnecting_process() {
    let Some(told) = Told::hear() else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let clients: Vec<Client> =
        (0..CLIENTS).map(|_| told.builder().runtime(runtime.handle().clone()).build().unwrap()).collect();
    let guards: Vec<Guard> = clients.iter().map(|client| client.guard(AGENT).unwrap()).collect();
    for reconnects in [WARM, WARM + RECONNECTS] {
        // Every stream calls for a lease, and each of both has a connection of its own.
        let leases = || clients.iter().map(|client| client.counters().leases).sum::<u64>();
        runtime.block_on(async {
            while leases() < reconnects {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        let descriptors = std::fs::read_dir("/proc/self/fd").unwrap().count();
        let tasks = runtime.metrics().num_alive_tasks();
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let memory = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        println!("{descriptors} {tasks} {}", memory.trim().trim_end_matches(" kB"));
    }
    drop(guards);
}

/// Ends every stream after the call for a lease, and every connection after its answer.
fn hanging_up(shared: &Arc<Shared>, router: Router) -> Router {
    let shared = Arc::clone(shared);
    let events = get(async move || {
        shared.streams.send_modify(|streams| *streams += 1);
        let renew = serde_json::to_string(&Renew { log_size: 0, deny: false, within_ms: 0 }).unwrap();
        Sse::new(stream::iter([Ok::<_, Infallible>(Event::default().event("renew").data(renew))]))
    });
    let closed = map_response(async |mut response: Response| {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        response
    });
    Router::new().route("/v1/events", events).fallback_service(router).layer(closed)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_reconnects_leave_nothing_behind() {
    let (shared, router) = serving(world(10_000, 20_000));
    let router = hanging_up(&shared, router);
    let node = Node::serve(shared, router).await;
    let mut agent = Agent::start("peers::reconnecting_process", &node);
    let mut held = || -> [usize; 3] {
        let line = agent.line();
        line.split(' ').map(|n| n.parse().unwrap()).collect::<Vec<_>>().try_into().unwrap()
    };
    let ([_, _, warm_kib], [descriptors, tasks, kib]) = (held(), held());
    let streams = *node.shared.streams.borrow();
    assert!(streams >= RECONNECTS as usize, "{streams}");
    // What may be under way at once, far less than one for each reconnect.
    assert!(descriptors < 6 * CLIENTS, "{descriptors} descriptors");
    assert!(tasks < 10 * CLIENTS, "{tasks} tasks");
    assert!(kib < warm_kib + 2 * RECONNECTS as usize, "{warm_kib} KiB became {kib}");
}
