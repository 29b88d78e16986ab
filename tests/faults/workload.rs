//! Who uses the cluster while it fails: operators who stop and bring back, guards that ask before every call, a prober that
//! asks for leases as guards do, and attackers. All of them write down what they were told.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use tagout::{Guard, Reason};
use tagout_control_plane::cli::signing::draft;
use tagout_proto::command::{Action, Grant, LockCommand, LockSet, Release, Seen, Start};
use tagout_proto::digest::Digest;
use tagout_proto::envelope::Envelope;
use tagout_proto::lease::{self, AgentRequest, LeaseRequest, LeaseResponse};
use tagout_proto::lock::LockKind;
use tagout_proto::log::checkpoint::Checkpoint;
use tagout_proto::note::VerifierKey;
use tagout_proto::rule::{CallLimits, Terms};
use tagout_proto::wire::{Locks, Status};
use tagout_tests::deployment::{Deployment, PEOPLE, parse, try_submit};
use tagout_tests::random::Random;
use tagout_tests::wait::{wait_until, wait_within};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::cluster::{Cluster, TTL_MS};
use super::history::{Answer, Attempt, By, Command, Decided, Decision, History, Lease, What, now_ns};

/// Everything happens to agents below this one.
pub const FLEET: &str = "fleet";
pub const AGENTS: [&str; 4] = ["fleet/a", "fleet/b", "fleet/c", "fleet/d"];
/// An agent that no operator of the workload touches: what the story itself stops and starts.
pub const QUIET: &str = "fleet/quiet";
/// Processes with guards for every agent.
const PROCESSES: usize = 2;
const BETWEEN_CHECKS: Duration = Duration::from_millis(1);
const BETWEEN_LEASES: Duration = Duration::from_millis(60);
const AFTER_NOTHING: Duration = Duration::from_millis(20);
/// How long an operator's program waits for an answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a client has.
pub struct Field {
    pub deployment: Arc<Deployment>,
    pub history: Arc<History>,
    /// Its own connections, and new ones after a failure.
    http: Mutex<reqwest::Client>,
    /// By number; of the first so many the cluster was made.
    urls: Arc<[String]>,
    nodes: usize,
    keys: Arc<[VerifierKey]>,
    ending: CancellationToken,
}

pub struct Workload {
    pub field: Field,
    tasks: TaskTracker,
    runtime: tokio::runtime::Handle,
    guards: Arc<[Guard]>,
    watching: Option<JoinHandle<()>>,
    watched: Arc<AtomicBool>,
}

/// How much of it.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// They stop, release, start and grant.
    pub operators: usize,
    /// They only stop, as fast as they are answered.
    pub stoppers: usize,
    pub attackers: usize,
}

impl Workload {
    pub fn start(cluster: &Cluster, load: Load, random: &mut Random) -> Self {
        let field = Field {
            deployment: cluster.deployment.clone(),
            history: cluster.history.clone(),
            http: Mutex::new(cluster.deployment.http()),
            urls: cluster.urls().into(),
            nodes: cluster.all().count(),
            keys: cluster.all().map(|node| cluster.node_key(node)).collect(),
            ending: CancellationToken::new(),
        };
        let consent = field.another();
        cluster.in_clients(async move { consent.grant(1).await });

        let runtime = cluster.clients.handle().clone();
        let guards: Arc<[Guard]> = (0..PROCESSES)
            .flat_map(|_| {
                let client = field.guard_process(&runtime, &field.urls[..field.nodes]);
                AGENTS.into_iter().chain([QUIET]).map(move |agent| client.guard(agent).expect("a guard"))
            })
            .collect();
        wait_until("every guard to allow calls", || guards.iter().all(|guard| guard.check().is_ok()));
        let watched = Arc::new(AtomicBool::new(true));
        let watching = watch(guards.clone(), field.history.clone(), watched.clone());

        let tasks = TaskTracker::new();
        let spawn = |work: futures_util::future::BoxFuture<'static, ()>| drop(tasks.spawn_on(work, &runtime));
        for name in 0..load.operators {
            let (field, random) = (field.another(), Random::new(random.number(), name as u64));
            spawn(Box::pin(async move { field.operate(random).await }));
        }
        for name in 0..load.stoppers {
            let (field, random) = (field.another(), Random::new(random.number(), name as u64));
            spawn(Box::pin(async move { field.stop_and_stop(name, random).await }));
        }
        for name in 0..load.attackers {
            let (field, random) = (field.another(), Random::new(random.number(), name as u64));
            spawn(Box::pin(async move { field.attack(random).await }));
        }
        for node in cluster.all() {
            let field = field.another();
            spawn(Box::pin(async move { field.ask_for_leases(node).await }));
        }
        Self { field, tasks, runtime, guards, watching: Some(watching), watched }
    }

    /// Operators, attackers and probers end what they are doing; guards go on.
    pub fn end(&self) {
        self.field.ending.cancel();
        self.tasks.close();
        let tasks = self.tasks.clone();
        let ended = self.runtime.spawn(async move { tasks.wait().await });
        wait_within(PATIENCE * 4, "the operators to end", || ended.is_finished().then_some(()));
    }

    /// Guards are asked no more.
    pub fn end_of_watch(&mut self) {
        self.watched.store(false, Ordering::Relaxed);
        if let Some(watching) = self.watching.take() {
            watching.join().expect("watching guards does not fail");
        }
    }

    pub fn guards_of(&self, agent: &str) -> Vec<Guard> {
        self.guards.iter().filter(|guard| guard.agent().as_str() == agent).cloned().collect()
    }

    /// One more guard, which knows only `node` and is not watched.
    pub fn guard_at(&self, node: usize, agent: &str) -> Guard {
        let client = self.field.guard_process(&self.runtime, &[self.field.url(node).to_owned()]);
        let guard = client.guard(agent).expect("a guard");
        wait_until("the guard to allow calls", || guard.check().is_ok());
        guard
    }

    /// Whether every guard of `agent` says that `lock` stops it.
    pub fn stopped(&self, agent: &str, lock: Digest) -> bool {
        self.guards_of(agent).iter().all(|guard| stopped_by(guard, lock))
    }

    pub fn allowed(&self, agent: &str) -> bool {
        self.guards_of(agent).iter().all(|guard| guard.check().is_ok())
    }
}

pub fn stopped_by(guard: &Guard, lock: Digest) -> bool {
    match guard.check() {
        Err(denied) => matches!(denied.reason, Reason::Stopped(by) if by.id == lock),
        Ok(_) => false,
    }
}

/// One thread asks every guard again and again, as agents do before their calls.
fn watch(guards: Arc<[Guard]>, history: Arc<History>, watched: Arc<AtomicBool>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        while watched.load(Ordering::Relaxed) {
            history.decided(guards.iter().enumerate().map(|(number, guard)| {
                let at_ns = now_ns();
                let verdict = match guard.check() {
                    Ok(_) => Decided::Allowed { left_ns: guard.state().left.as_nanos() as u64 },
                    Err(denied) => match denied.reason {
                        Reason::Stopped(lock) => Decided::Stopped(lock.id),
                        reason if reason.is_lapse() => Decided::Lapsed,
                        reason => Decided::Other(reason.to_string()),
                    },
                };
                Decision { at_ns, guard: number, agent: guard.agent().clone(), verdict }
            }));
            std::thread::sleep(BETWEEN_CHECKS);
        }
    })
}

impl Field {
    /// Another client of the same cluster.
    pub fn another(&self) -> Self {
        Self {
            deployment: self.deployment.clone(),
            history: self.history.clone(),
            http: Mutex::new(self.deployment.http()),
            urls: self.urls.clone(),
            nodes: self.nodes,
            keys: self.keys.clone(),
            ending: self.ending.clone(),
        }
    }

    fn http(&self) -> reqwest::Client {
        self.http.lock().clone()
    }

    fn connect_anew(&self) {
        *self.http.lock() = self.deployment.http();
    }

    fn nodes(&self) -> usize {
        self.nodes
    }

    pub fn url(&self, node: usize) -> &str {
        &self.urls[node - 1]
    }

    /// A process with a client of the SDK that knows these nodes.
    pub fn guard_process(&self, runtime: &tokio::runtime::Handle, urls: &[String]) -> tagout::Client {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let builder = tagout::Client::builder()
            .ca_pem(self.deployment.ca_pem())
            .genesis_file(self.deployment.dir().join("genesis.json"))
            .pinned(self.deployment.name.to_string())
            .instance(format!("process-{}", NUMBER.fetch_add(1, Ordering::Relaxed)))
            .runtime(runtime.clone());
        urls.iter().fold(builder, |builder, url| builder.node(url)).build().expect("a client of the SDK")
    }

    /// Sends `envelope` to `node`, once, and writes down both.
    pub async fn send(&self, node: usize, by: By, what: What, envelope: &Envelope) -> Answer {
        self.send_to(&format!("{}/v1/commands", self.url(node)), node, by, what, envelope).await
    }

    async fn send_to(&self, url: &str, node: usize, by: By, what: What, envelope: &Envelope) -> Answer {
        let digest = envelope.digest();
        self.history.sent(digest, Command { what, by, document: envelope.document.clone() });
        let (http, sent_ns) = (self.http(), now_ns());
        let answer = match tokio::time::timeout(PATIENCE, try_submit(&http, url, envelope)).await {
            Ok(Ok(Ok(answer))) => Answer::Took { index: answer.index },
            Ok(Ok(Err(problem))) => Answer::Refused { status: problem.status, code: problem.code },
            Ok(Err(_)) | Err(_) => Answer::Nothing,
        };
        self.history.attempt(Attempt {
            digest,
            node,
            sent_ns,
            answered_ns: now_ns(),
            answer: answer.clone(),
        });
        if answer == Answer::Nothing {
            self.connect_anew();
            tokio::time::sleep(AFTER_NOTHING).await;
        }
        answer
    }

    /// Sends `envelope` to one node after the other, from `node` on, until one takes it or refuses it for what it is.
    pub async fn send_until_taken(&self, node: usize, by: By, what: What, envelope: &Envelope) -> Answer {
        let mut answer = Answer::Nothing;
        for attempt in 0..self.nodes() {
            let node = (node - 1 + attempt) % self.nodes() + 1;
            answer = self.send(node, by, what.clone(), envelope).await;
            if matches!(answer, Answer::Took { .. } | Answer::Refused { status: 400..500, .. }) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        answer
    }

    pub fn lock(&self, who: &str, scope: &str, kind: LockKind) -> (What, Envelope) {
        let scope = parse(scope);
        let command = LockCommand { scope: scope.clone(), kind, reason: "fault".into(), case: None };
        (What::Lock { scope, kind }, self.deployment.envelope(&[who], &Action::Lock(command)))
    }

    pub fn release(&self, who: &[&str], scope: &str, locks: Vec<Digest>) -> (What, Envelope) {
        let (scope, named, reason) = (parse(scope), LockSet::Ids(locks.clone()), "reviewed".into());
        let release = Action::Release(Release { scope, locks: named, lost_from: None, reason });
        (What::Release { locks }, self.deployment.envelope(who, &release))
    }

    pub fn start_of(&self, who: &[&str], scope: &str, locks: Vec<Digest>) -> (What, Envelope) {
        let (scope, named, reason) = (parse(scope), LockSet::Ids(locks.clone()), "reviewed".into());
        let start = Action::Start(Start { scope: scope.clone(), locks: named, reason });
        (What::Start { scope, locks }, self.deployment.envelope(who, &start))
    }

    /// An hour's consent for the whole fleet.
    pub async fn grant(&self, node: usize) -> Option<()> {
        let status: Status = self.get(node, "/v1/status").await?;
        let grant = Grant {
            scope: parse(FLEET),
            expires_at_ms: status.time_ms + 3600 * 1000,
            seen: Seen { epoch: status.epoch.id, size: status.log_size, authority: status.authority_version },
            terms: Terms::default(),
            reason: "test".into(),
        };
        let envelope = self.deployment.envelope(&PEOPLE, &Action::Grant(grant));
        self.send_until_taken(node, By::Operators, What::Grant, &envelope).await;
        Some(())
    }

    async fn get<T: serde::de::DeserializeOwned>(&self, node: usize, path: &str) -> Option<T> {
        let request = self.http().get(format!("{}{path}", self.url(node))).timeout(PATIENCE);
        request.send().await.ok()?.error_for_status().ok()?.json().await.ok()
    }

    /// Releases everything that a node says holds `scope`, and starts what takes that.
    pub async fn bring_back(&self, node: usize, scope: &str) -> bool {
        let Some(locks) = self.get::<Locks>(node, &format!("/v1/locks?scope={scope}")).await else {
            return false;
        };
        let mut all_taken = true;
        for place in locks.locks.iter().map(|record| record.lock.scope.clone()).collect::<BTreeSet<_>>() {
            let here = || locks.locks.iter().map(|record| &record.lock).filter(|lock| lock.scope == place);
            let unreleased: Vec<Digest> = here().filter(|lock| !lock.released).map(|lock| lock.id).collect();
            if !unreleased.is_empty() {
                let (what, release) = self.release(&PEOPLE, place.as_str(), unreleased);
                let answer = self.send_until_taken(node, By::Operators, what, &release).await;
                if !matches!(answer, Answer::Took { .. }) {
                    all_taken = false;
                    continue;
                }
            }
            let to_start: Vec<Digest> =
                here().filter(|lock| lock.kind.needs_start()).map(|lock| lock.id).collect();
            if !to_start.is_empty() {
                let (what, start) = self.start_of(&PEOPLE, place.as_str(), to_start);
                let answer = self.send_until_taken(node, By::Operators, what, &start).await;
                all_taken &= matches!(answer, Answer::Took { .. });
            }
        }
        all_taken
    }

    /// An operator's day: mostly one agent is stopped or brought back.
    async fn operate(self, mut random: Random) {
        let mut earlier: Vec<(What, Envelope)> = Vec::new();
        while !self.ending.is_cancelled() {
            let node = 1 + random.below(self.nodes() as u64) as usize;
            let agent = AGENTS[random.below(AGENTS.len() as u64) as usize];
            match random.below(100) {
                0..45 => {
                    let scope = if random.below(12) == 0 { FLEET } else { agent };
                    let (what, stop) = self.lock("alice", scope, some_kind(&mut random));
                    self.send_until_taken(node, By::Operators, what.clone(), &stop).await;
                    earlier.push((what, stop));
                }
                45..50 => {
                    let (what, stop) = self.lock("soar", agent, LockKind::Halt);
                    self.send_until_taken(node, By::Automation, what, &stop).await;
                }
                50..54 => {
                    let (what, stop) = self.lock("bob", agent, LockKind::Halt);
                    let url = format!("{}/agent/shutdown", self.url(node));
                    self.send_to(&url, node, By::Operators, what, &stop).await;
                }
                54..58 if !earlier.is_empty() => {
                    // The same bytes once more, as somebody does who is not sure.
                    let (what, stop) = &earlier[random.below(earlier.len() as u64) as usize];
                    self.send(node, By::Operators, what.clone(), stop).await;
                }
                58..62 => drop(self.grant(node).await),
                _ => drop(self.bring_back(node, agent).await),
            }
            tokio::time::sleep(Duration::from_millis(random.below(120))).await;
        }
    }

    /// Stops of agents that nobody guards, one after the other.
    async fn stop_and_stop(self, name: usize, mut random: Random) {
        let mut number = 0;
        while !self.ending.is_cancelled() {
            number += 1;
            let node = 1 + random.below(self.nodes() as u64) as usize;
            let (what, stop) = self.lock("alice", &format!("crowd/{name}/{number}"), LockKind::Halt);
            self.send(node, By::Operators, what, &stop).await;
        }
    }

    /// Documents that nobody may sign, in every way that we know.
    async fn attack(self, mut random: Random) {
        while !self.ending.is_cancelled() {
            let node = 1 + random.below(self.nodes() as u64) as usize;
            let locks: Vec<Digest> = match self.get::<Locks>(node, "/v1/locks").await {
                Some(locks) => locks.locks.iter().map(|record| record.lock.id).take(4).collect(),
                None => Vec::new(),
            };
            let locks = if locks.is_empty() { vec![Digest::of(b"no lock")] } else { locks };
            let (what, forged) = match random.below(7) {
                0 => self.lock("stranger", AGENTS[0], LockKind::Halt),
                1 => self.release(&["alice"], FLEET, locks),
                2 => self.release(&["alice", "alice"], FLEET, locks),
                3 => self.release(&["alice", "soar"], FLEET, locks),
                4 => self.start_of(&["bob", "stranger"], FLEET, locks),
                5 => {
                    // Signed by both, and changed afterwards.
                    let (what, mut release) = self.release(&PEOPLE, FLEET, locks);
                    release.document = release.document.replace("reviewed", "Reviewed");
                    (what, release)
                }
                _ => self.another_deployments_release(locks),
            };
            self.send(node, By::Forger, what, &forged).await;
            tokio::time::sleep(Duration::from_millis(40)).await;
        }
    }

    fn another_deployments_release(&self, locks: Vec<Digest>) -> (What, Envelope) {
        let mut other = self.deployment.name.clone();
        other.genesis = Digest::of(b"another genesis");
        let (scope, named, reason) = (parse(FLEET), LockSet::Ids(locks.clone()), "reviewed".into());
        let release = Action::Release(Release { scope, locks: named, lost_from: None, reason });
        let document = draft(&other, &release).unwrap_or_else(|failure| panic!("{failure}"));
        (What::Release { locks }, self.deployment.signed(&PEOPLE, document))
    }

    /// Asks as a guard does, and believes what a guard believes.
    async fn ask_for_leases(self, node: usize) {
        let (key, name) = (&self.keys[node - 1], self.deployment.name.to_string());
        let scope = parse(AGENTS[0]);
        while !self.ending.is_cancelled() {
            let asked_ns = now_ns();
            let mut nonce = Digest::default();
            getrandom::fill(&mut nonce.0).expect("randomness");
            let agents = vec![AgentRequest { scope: scope.clone(), view: None }];
            let request =
                LeaseRequest { nonce, instance: format!("prober-{node}"), agents, known: Vec::new() };
            match ask(&self.http(), self.url(node), &request).await {
                None => self.connect_anew(),
                Some(response) => {
                    let answered_ns = now_ns();
                    let signed = lease::Lease::open(&response.lease, key).expect("a node signs its leases");
                    let views = [(&scope, response.views[0].as_ref().expect("a first view").digest())];
                    let leaf = lease::leaf_hash_of(&nonce, views.into_iter(), &[]);
                    signed
                        .binds(leaf, response.leaf_index, &response.path)
                        .expect("the lease is of our nonce");
                    assert_eq!(signed.deployment.to_string(), name);
                    self.history.lease(Lease {
                        node,
                        asked_ns,
                        answered_ns,
                        log_size: signed.log_size,
                        log_root: signed.log_root,
                        epoch_number: signed.epoch_number,
                        authority_version: signed.authority_version,
                        ttl_ms: signed.ttl_ms,
                    });
                }
            }
            self.keep_checkpoint(node, key, &name).await;
            tokio::time::sleep(BETWEEN_LEASES).await;
        }
    }

    /// What an auditor does from time to time.
    async fn keep_checkpoint(&self, node: usize, key: &VerifierKey, name: &str) {
        let url = format!("{}/log/checkpoint", self.url(node));
        let answer = self.http().get(url).timeout(Duration::from_millis(TTL_MS)).send();
        let Some(answer) = answer.await.ok().filter(|answer| answer.status().is_success()) else { return };
        let Ok(note) = answer.text().await else { return };
        let checkpoint = Checkpoint::open(&note, key, name).expect("a node signs its checkpoints");
        self.history.checkpoint(node, checkpoint);
    }
}

async fn ask(http: &reqwest::Client, url: &str, request: &LeaseRequest) -> Option<LeaseResponse> {
    let request = http.post(format!("{url}/v1/leases")).json(request).timeout(Duration::from_millis(TTL_MS));
    request.send().await.ok()?.error_for_status().ok()?.json().await.ok()
}

fn some_kind(random: &mut Random) -> LockKind {
    match random.below(10) {
        0..6 => LockKind::Halt,
        6 => LockKind::Pause,
        7 => LockKind::Drain { drain_ms: 1 + random.below(3_000) },
        8 => LockKind::Restrict,
        _ => LockKind::Throttle(CallLimits { calls_per_minute: Some(60), tokens_per_minute: None }),
    }
}
