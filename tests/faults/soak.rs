//! Thousands of guards for a while: people stop and resume agents at random, nodes are killed, and in the end every guard has
//! kept to S3, and their process holds no more than it did.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tagout::{Client, Guard};
use tagout_proto::command::{Action, Grant, Seen};
use tagout_proto::digest::Digest;
use tagout_proto::envelope::Envelope;
use tagout_proto::rule::Terms;
use tagout_proto::wire::Status;
use tagout_tests::deployment::{PEOPLE, parse, try_submit};
use tagout_tests::random::Random;
use tagout_tests::wait::{wait_for, wait_until};

use super::cluster::{Cluster, Made, TTL_MS};
use super::history::now_ns;
use super::scenarios::one_at_a_time;

/// Agents are stopped and resumed in groups, each of which is a client with as many guards.
const AGENTS_PER_GROUP: usize = 10;
const KILL_EVERY: Duration = Duration::from_secs(15);
/// What processes may grow by after their first fifth: allocators keep what a burst took, and the ledger remembers every
/// command, in 40 bytes of state and an entry of the Raft log.
const GROWN_MAX: f64 = 1.25;
const GROWN_SPARE_KIB: u64 = 32 * 1024;
/// The same from the middle on: by then every client has been at every node.
const GROWN_LATE_MAX: f64 = 1.1;
const GROWN_LATE_SPARE_KIB: u64 = 16 * 1024;

const PATIENCE: Duration = Duration::from_secs(300);
/// Set in the process that the test starts for itself.
const ALONE: &str = "TAGOUT_SOAK_ALONE";

struct Size {
    groups: usize,
    lasts: Duration,
}

#[test]
fn s3_holds_for_thousands_of_guards_and_nothing_grows() {
    if std::env::var_os(ALONE).is_none() {
        // In a process of its own: what other tests hold must not count.
        let _turn = one_at_a_time();
        let mut alone = Command::new(std::env::current_exe().expect("a process knows its own path"));
        alone.args([
            "faults::soak::s3_holds_for_thousands_of_guards_and_nothing_grows",
            "--exact",
            "--nocapture",
        ]);
        // glibc's allocator keeps the most that each thread ever had, and what is measured is what is held.
        alone.env("MALLOC_ARENA_MAX", "1").env("MALLOC_TRIM_THRESHOLD_", "131072");
        assert!(alone.env(ALONE, "1").status().expect("it starts").success(), "what went wrong is above");
        return;
    }
    let long = std::env::var_os("TAGOUT_LONG").is_some();
    let size = match long {
        true => Size { groups: 500, lasts: Duration::from_secs(600) },
        false => Size { groups: 20, lasts: Duration::from_secs(8) },
    };
    let seed = std::env::var("TAGOUT_SEED").map_or_else(
        |_| getrandom::u32().expect("randomness").into(),
        |seed| seed.parse().expect("TAGOUT_SEED is a number"),
    );
    println!("soak: TAGOUT_SEED={seed}");
    let mut random = Random::new(seed, 0);
    let mut cluster = Cluster::start(Made::default());
    consent(&cluster, "soak");

    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let groups: Arc<[Group]> = (0..size.groups).map(|n| Group::new(&cluster, n, runtime.handle())).collect();
    wait_until_all_allow(&groups);
    let watched = Watched::start(groups.clone());

    let began = Instant::now();
    let (mut stops, mut resumes, mut kills, mut last_kill) = (0_u64, 0_u64, 0_u64, Instant::now());
    let (mut size_then, mut size_midway) = (None, None);
    while began.elapsed() < size.lasts {
        let group = &groups[random.below(groups.len() as u64) as usize];
        match group.stopped_by() {
            None => {
                group.stop(&cluster);
                stops += 1;
            }
            Some(lock) => {
                group.resume(&cluster, lock);
                resumes += 1;
            }
        }
        if last_kill.elapsed() > KILL_EVERY.min(size.lasts / 3) {
            let all: Vec<usize> = cluster.all().collect();
            cluster.kill_and_restart(all[random.below(all.len() as u64) as usize]);
            (kills, last_kill) = (kills + 1, Instant::now());
        }
        if size_then.is_none() && began.elapsed() > size.lasts / 5 {
            size_then = Some(own_resident_kib());
        }
        if size_midway.is_none() && began.elapsed() > size.lasts / 2 {
            size_midway = Some(own_resident_kib());
        }
        std::thread::sleep(Duration::from_millis(random.below(200)));
    }

    cluster.wait_until_ready();
    for group in groups.iter() {
        if let Some(lock) = group.stopped_by() {
            group.resume(&cluster, lock);
        }
    }
    wait_until_all_allow(&groups);
    let (now, then) = (own_resident_kib(), size_then.expect("it lasted"));
    let midway = size_midway.expect("it lasted");
    let (decisions, permissive) = watched.end();
    println!(
        "SOAKED {} guards for {} s: {stops} stops, {resumes} resumes, {kills} kills, {decisions} decisions, {} \
         permissive errors, {then} KiB after a fifth, {midway} KiB midway, {now} KiB at the end",
        groups.len() * AGENTS_PER_GROUP,
        began.elapsed().as_secs(),
        permissive.len()
    );
    assert!(permissive.is_empty(), "S3: {permissive:?}");
    assert!(now <= (then as f64 * GROWN_MAX) as u64 + GROWN_SPARE_KIB, "{then} KiB became {now}");
    assert!(
        now <= (midway as f64 * GROWN_LATE_MAX) as u64 + GROWN_LATE_SPARE_KIB,
        "{midway} KiB midway became {now}"
    );
    drop(groups);
    wait_until("the clients' tasks to end", || runtime.metrics().num_alive_tasks() == 0);
}

/// An hour's consent for `scope`.
pub fn consent(cluster: &Cluster, scope: &str) {
    let node = cluster.leader();
    let status = cluster.get(&format!("{}/v1/status", cluster.url(node))).expect("the node answers");
    let Status { epoch, log_size, authority_version, time_ms, .. } = serde_json::from_slice(&status).unwrap();
    let grant = Action::Grant(Grant {
        scope: parse(scope),
        expires_at_ms: time_ms + 3_600_000,
        seen: Seen { epoch: epoch.id, size: log_size, authority: authority_version },
        terms: Terms::default(),
        reason: "test".into(),
    });
    send(cluster, &cluster.deployment.envelope(&PEOPLE, &grant));
}

/// Sends it to one node after the other until one has taken it; gives when, by the boot clock.
pub fn send(cluster: &Cluster, envelope: &Envelope) -> u64 {
    let http = cluster.deployment.http();
    wait_for("a node to take the command", || {
        cluster.all().find_map(|node| {
            let url = format!("{}/v1/commands", cluster.url(node));
            let sent = cluster.clients.block_on(try_submit(&http, &url, envelope)).ok()?;
            sent.is_ok().then(now_ns)
        })
    })
}

/// The agents of one client, which are stopped together.
struct Group {
    scope: String,
    guards: Vec<Guard>,
    /// Since when no guard may allow a call, by the boot clock: the acknowledgement and a ttl; 0 while it may run.
    denied_from_ns: AtomicU64,
    lock: parking_lot::Mutex<Option<Digest>>,
}

impl Group {
    fn new(cluster: &Cluster, n: usize, runtime: &tokio::runtime::Handle) -> Self {
        let deployment = &cluster.deployment;
        let builder = Client::builder()
            .ca_pem(deployment.ca_pem())
            .genesis_file(deployment.dir().join("genesis.json"))
            .pinned(deployment.name.to_string())
            .runtime(runtime.clone());
        let client = cluster.urls().into_iter().fold(builder, |builder, url| builder.node(url)).build();
        let client = client.expect("a client of the SDK");
        let scope = format!("soak/group_{n}");
        let guards =
            (0..AGENTS_PER_GROUP).map(|agent| client.guard(&format!("{scope}/agent_{agent}")).unwrap());
        Self { guards: guards.collect(), scope, denied_from_ns: AtomicU64::new(0), lock: Default::default() }
    }

    fn stopped_by(&self) -> Option<Digest> {
        *self.lock.lock()
    }

    fn stop(&self, cluster: &Cluster) {
        let stop = cluster.deployment.stop(&self.scope);
        let acknowledged_ns = send(cluster, &stop);
        *self.lock.lock() = Some(stop.digest());
        self.denied_from_ns.store(acknowledged_ns + TTL_MS * 1_000_000, Ordering::SeqCst);
    }

    fn resume(&self, cluster: &Cluster, lock: Digest) {
        let deployment = &cluster.deployment;
        send(cluster, &deployment.release(&self.scope, &[lock]));
        // It may run again from the moment that the start is sent.
        self.denied_from_ns.store(0, Ordering::SeqCst);
        send(cluster, &deployment.start_of(&self.scope, &[lock]));
        *self.lock.lock() = None;
    }
}

/// Asks every guard, again and again.
struct Watched {
    ended: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<(u64, Vec<String>)>,
}

impl Watched {
    fn start(groups: Arc<[Group]>) -> Self {
        let ended = Arc::new(AtomicBool::new(false));
        let end = Arc::clone(&ended);
        let thread = std::thread::spawn(move || {
            let (mut decisions, mut permissive) = (0, BTreeMap::new());
            while !end.load(Ordering::SeqCst) {
                for group in groups.iter() {
                    for guard in &group.guards {
                        // Both before and after the decision: a resume in between makes it nobody's error.
                        let denied_from_ns = group.denied_from_ns.load(Ordering::SeqCst);
                        let asked_ns = now_ns();
                        decisions += 1;
                        if guard.check().is_ok()
                            && denied_from_ns != 0
                            && asked_ns > denied_from_ns
                            && group.denied_from_ns.load(Ordering::SeqCst) == denied_from_ns
                        {
                            let late_ms = (asked_ns - denied_from_ns) / 1_000_000;
                            permissive.insert(guard.agent().to_string(), late_ms);
                        }
                    }
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            (decisions, permissive.iter().map(|(agent, ms)| format!("{agent} {ms} ms too late")).collect())
        });
        Self { ended, thread }
    }

    fn end(self) -> (u64, Vec<String>) {
        self.ended.store(true, Ordering::SeqCst);
        self.thread.join().expect("the watching ends well")
    }
}

fn own_resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("/proc");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a size");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// Waits until every guard has allowed a call: on a busy machine some lease is always late. Thousands of TLS handshakes take
/// a while, too.
fn wait_until_all_allow(groups: &[Group]) {
    let began = Instant::now();
    let mut left: Vec<&Guard> = groups.iter().flat_map(|group| &group.guards).collect();
    loop {
        left.retain(|guard| guard.check().is_err());
        let Some(first) = left.first() else { return };
        let why = first.check().err().map(|denied| denied.to_string()).unwrap_or_default();
        assert!(
            began.elapsed() < PATIENCE,
            "{} guards deny after {PATIENCE:?}; the first: {why}",
            left.len()
        );
        std::thread::sleep(Duration::from_millis(100));
    }
}
