//! What a network and a host do to a client: bad peers, a stopped process, a fleet that comes back at once.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use futures_util::future::join_all;
use tagout::{Client, Guard, Reason};

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

const AGENT_OF: &str = "TAGOUT_TEST_AGENT_OF";

/// An agent in a process of its own: the test below starts it, and by itself it is nothing.
#[test]
fn agent_process() {
    let Ok(told) = std::env::var(AGENT_OF) else { return };
    let [url, pin, genesis] = told.splitn(3, ' ').collect::<Vec<_>>().try_into().unwrap();
    let client = Client::builder().node(url).pinned(pin).genesis_json(genesis).build().unwrap();
    let guard = client.guard(AGENT).unwrap();
    while guard.check().is_err() {
        std::thread::sleep(Duration::from_millis(5));
    }
    println!("OPEN");
    // Every line is a call that wants to begin.
    for _line in std::io::stdin().lines() {
        println!("{}", guard.check().map_or_else(|denied| denied.to_string(), |_| "ALLOWED".into()));
    }
}

struct Agent {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Agent {
    fn start(node: &Node) -> Self {
        let (genesis, pin) = {
            let world = node.shared.world.lock();
            (serde_json::to_string(&world.genesis).unwrap(), world.deployment.to_string())
        };
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "peers::agent_process", "--nocapture"])
            .env(AGENT_OF, format!("{} {pin} {genesis}", node.url))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut agent = Self { child, lines };
        while agent.line() != "OPEN" {}
        agent
    }

    fn line(&mut self) -> String {
        self.lines.next().expect("the agent lives").unwrap()
    }

    fn call(&mut self) -> String {
        self.child.stdin.as_mut().unwrap().write_all(b"call\n").unwrap();
        self.line()
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_the_first_check_of_a_process_that_was_stopped_beyond_its_ttl_denies() {
    let node = Node::start(2_000, 20_000).await;
    let mut agent = tokio::task::block_in_place(|| Agent::start(&node));
    agent.signal(rustix::process::Signal::STOP);
    // Nobody renews for it when it goes on.
    node.shared.hold_leases.send_replace(true);
    tokio::time::sleep(Duration::from_millis(2_100)).await;
    agent.signal(rustix::process::Signal::CONT);
    let answer = tokio::task::block_in_place(|| agent.call());
    assert!(answer.contains("its lease lapsed"), "{answer}");
    node.shared.hold_leases.send_replace(false);
    tokio::task::block_in_place(|| while agent.call() != "ALLOWED" {});
}
