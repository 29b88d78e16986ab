//! The client against three nodes of which one fails: no healthy guard is denied for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tagout::proto::lock::LockKind;
use tagout::{Client, Guard, Reason};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use crate::node::*;
use crate::world::*;

/// The shortest there is: what does not lapse with it does not lapse.
const TTL_MS: u64 = 2_000;
/// Several leases long.
const A_WHILE: Duration = Duration::from_millis(3 * TTL_MS / 2);

struct Cluster {
    world: Arc<Mutex<World>>,
    members: Vec<Member>,
    guard: Guard,
    watching: Watching,
}

struct Member {
    shared: Arc<Shared>,
    url: String,
    /// Its end closes every connection, as the end of a process does.
    runtime: Option<Runtime>,
}

impl Member {
    fn start(world: Arc<Mutex<World>>) -> Self {
        let (shared, router) = serving(world);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        runtime.spawn(async move {
            axum::serve(TcpListener::from_std(listener).unwrap(), router).await.unwrap();
        });
        Self { shared, url, runtime: Some(runtime) }
    }

    fn kill(&mut self) {
        self.runtime.take().expect("it lives").shutdown_background();
    }

    fn leases(&self) -> usize {
        *self.shared.leases.borrow()
    }

    fn streams(&self) -> usize {
        *self.shared.streams.borrow()
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Asks the guard all the time, as an agent does, and keeps the first refusal.
struct Watching {
    refused: Arc<Mutex<Option<Reason>>>,
    end: Arc<AtomicBool>,
}

impl Watching {
    fn of(guard: &Guard) -> Self {
        let watching = Self { refused: Arc::default(), end: Arc::default() };
        let (guard, refused, end) = (guard.clone(), watching.refused.clone(), watching.end.clone());
        std::thread::spawn(move || {
            while !end.load(Ordering::Relaxed) {
                if let Err(denied) = guard.check() {
                    refused.lock().get_or_insert(denied.reason);
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        watching
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
    }
}

impl Cluster {
    /// Three nodes, in the order in which their turns come, and a running guard.
    async fn start() -> Self {
        let world = world(TTL_MS, 20_000);
        let mut members: Vec<_> = (0..3).map(|_| Member::start(world.clone())).collect();
        let client = client(&world.lock(), &members);
        let guard = client.guard(AGENT).unwrap();
        let _permit = within(guard.wait_enabled()).await.unwrap();
        // A client begins anywhere.
        let first = members.iter().position(|member| member.leases() > 0).unwrap();
        members.rotate_left(first);
        reached(&members[0].shared.streams, |streams| *streams > 0).await;
        let watching = Watching::of(&guard);
        Self { world, members, guard, watching }
    }

    /// Goes on for a while, in which the guard renews at another node, and is never denied.
    async fn goes_on(&self) {
        let before: Vec<_> = self.members.iter().map(Member::leases).collect();
        tokio::time::sleep(A_WHILE).await;
        assert!(self.members.iter().zip(before).any(|(member, before)| member.leases() > before));
        assert_eq!(*self.watching.refused.lock(), None, "a healthy guard was denied");
    }
}

fn client(world: &World, members: &[Member]) -> Client {
    let builder = Client::builder()
        .genesis_json(serde_json::to_vec(&world.genesis).unwrap())
        .pinned(world.deployment.to_string())
        .instance("test-1");
    members.iter().fold(builder, |builder, member| builder.node(&member.url)).build().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_node_of_three_may_die_while_the_others_choose_a_leader() {
    let mut cluster = Cluster::start().await;
    cluster.members[0].kill();
    // An election, in which nobody can issue leases.
    for member in &cluster.members[1..] {
        member.shared.dark.send_replace(true);
    }
    tokio::time::sleep(Duration::from_millis(600)).await;
    for member in &cluster.members[1..] {
        member.shared.dark.send_replace(false);
    }
    cluster.goes_on().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_node_of_three_may_hang_and_its_listeners_leave_it_too() {
    let cluster = Cluster::start().await;
    let began = Instant::now();
    cluster.members[0].shared.hold_leases.send_replace(true);
    cluster.goes_on().await;
    while cluster.members[1..].iter().all(|member| member.streams() == 0) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let silence = Duration::from_millis(tagout::limits::PUSH_SILENCE_MS);
    assert!(began.elapsed() < silence, "the stream's own silence is not waited for");
    // The stop is pushed by the node where the guard listens now, and by no other.
    let event = cluster.world.lock().stop(AGENT, LockKind::Halt);
    for member in &cluster.members {
        member.shared.hold_leases.send_replace(true);
    }
    for member in cluster.members[1..].iter().filter(|member| member.streams() > 0) {
        member.shared.push("stop", &event);
    }
    let mut changes = cluster.guard.changes();
    while cluster.guard.check().is_ok() {
        within(changes.next()).await.unwrap();
    }
    assert!(matches!(cluster.guard.check().unwrap_err().reason, Reason::Stopped(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn s5_a_node_that_is_behind_is_refused_and_another_one_asked() {
    let cluster = Cluster::start().await;
    let [first, behind, third] = &cluster.members[..] else { unreachable!() };
    behind.shared.behind.lock().replace(cluster.world.lock().clone());
    // More entries, and an authority that the second node has not heard of.
    let leases = first.leases();
    {
        let mut world = cluster.world.lock();
        world.succeed(|_| {});
        world.grant("demo", DAY_MS);
    }
    reached(&first.shared.leases, |now| *now > leases + 1).await;
    first.shared.hold_leases.send_replace(true);
    cluster.goes_on().await;
    assert!(behind.leases() > 0, "it was asked, and its lease refused");
    assert!(third.leases() > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_without_a_quorum_denies_after_ttl_and_heals() {
    let cluster = Cluster::start().await;
    for member in &cluster.members {
        member.shared.dark.send_replace(true);
    }
    let mut changes = cluster.guard.changes();
    while cluster.guard.check().is_ok() {
        within(changes.next()).await.unwrap();
    }
    assert!(matches!(cluster.guard.check().unwrap_err().reason, Reason::Lapsed { last_error: Some(_) }));
    for member in &cluster.members {
        member.shared.dark.send_replace(false);
    }
    let _permit = within(cluster.guard.wait_enabled()).await.unwrap();
}
