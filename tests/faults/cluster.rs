//! A cluster of real nodes, and all that can be done to it. Whatever is done is written into the history.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use tagout_proto::log::tile::{TileId, TileKind, parse_bundle};
use tagout_proto::note::{NoteSigner, VerifierKey};
use tagout_proto::wire::{self, Locks, Problem, Status};
use tagout_tests::bin;
use tagout_tests::deployment::{Choice, Deployment};
use tagout_tests::process::Process;
use tagout_tests::ran::Ran;
use tagout_tests::wait::{wait_until, wait_within};
use tokio::runtime::Runtime;

use super::disk::SmallDisk;
use super::history::{Ending, History, now_ns};
use super::network::{Network, Place, Topology, Trouble};

pub const TTL_MS: u64 = tagout_proto::limits::TTL_MIN_MS;
/// How long anything may take to come back once everything is healed.
const HEALED_WITHIN: Duration = Duration::from_secs(45);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// What a cluster is made of.
#[derive(Clone, Debug)]
pub struct Made {
    pub nodes: usize,
    pub topology: Topology,
    /// The nodes' wall clocks can be set (libfaketime).
    pub clocks: bool,
    /// Writes of nodes can be made to fail.
    pub failing_writes: bool,
    /// Each node's data lies on a disk of its own, of so many MiB.
    pub small_disks: Option<u64>,
}

pub struct Cluster {
    /// Those that ever were, by number.
    nodes: Vec<Node>,
    /// Those that are.
    members: Vec<usize>,
    network: Network,
    trouble: Trouble,
    /// Since when no node can answer a guard.
    outage: Option<u64>,
    made: Made,
    http: reqwest::Client,
    pub clients: Runtime,
    pub deployment: Arc<Deployment>,
    pub history: Arc<History>,
}

/// What a node runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Build {
    #[default]
    Today,
    /// Pretends to be newer.
    Newer,
    /// Writes this entry otherwise than all others.
    ErringAt(u64),
}

#[derive(Default)]
struct Node {
    process: Option<Process>,
    paused: bool,
    /// No file of it may grow.
    limited: bool,
    build: Build,
    starts: u32,
    disk: Option<SmallDisk>,
}

impl Cluster {
    /// Makes one and waits until all of it is ready.
    pub fn start(made: Made) -> Self {
        let network = Network::new(made.topology, made.nodes);
        let deployment = Deployment::make(Choice {
            ttl_ms: TTL_MS,
            seats: network.seats()[..made.nodes].to_vec(),
            ..Choice::default()
        });
        let clients = network.client_runtime();
        let http = deployment.http();
        let mut cluster = Self {
            nodes: (0..made.nodes).map(|_| Node::default()).collect(),
            members: (1..=made.nodes).collect(),
            network,
            trouble: Trouble::default(),
            outage: None,
            made,
            http,
            clients,
            deployment: Arc::new(deployment),
            history: Arc::default(),
        };
        if let Some(mib) = cluster.made.small_disks {
            for node in cluster.all() {
                cluster.nodes[node - 1].disk = Some(SmallDisk::make(&cluster.data(node), mib));
            }
        }
        for node in cluster.all() {
            fs::write(cluster.clock(node), "+0\n").expect("the clock's file");
            cluster.spawn(node);
        }
        cluster.wait_until_ready();
        cluster.wait_until_all_vote();
        cluster
    }

    /// A cluster grows from its first node: before it has grown, it does not outlive the loss of one.
    pub fn wait_until_all_vote(&self) {
        let first = self.all().next().expect("there are nodes");
        let url = format!("{}/v1/cluster", self.url(first));
        wait_within(HEALED_WITHIN, "all nodes to vote", || {
            let view: wire::Cluster = serde_json::from_slice(&self.get(&url)?).ok()?;
            // One that was replaced must vote no more, either: it is gone, and would count.
            let members: BTreeSet<u64> = self.members.iter().map(|node| *node as u64).collect();
            (view.voters.into_iter().collect::<BTreeSet<_>>() == members).then_some(())
        });
    }

    pub fn all(&self) -> std::vec::IntoIter<usize> {
        self.members.clone().into_iter()
    }

    pub fn topology(&self) -> Topology {
        self.made.topology
    }

    pub fn made(&self) -> &Made {
        &self.made
    }

    /// Where clients find a node.
    pub fn url(&self, node: usize) -> String {
        format!("https://{}", self.network.seats()[node - 1].api_found_at)
    }

    /// Where nodes are found, those that come later too.
    pub fn urls(&self) -> Vec<String> {
        (1..=self.network.seats().len()).map(|node| self.url(node)).collect()
    }

    pub fn folder(&self, node: usize) -> PathBuf {
        self.deployment.dir().join(format!("node-{node}"))
    }

    pub fn data(&self, node: usize) -> PathBuf {
        self.folder(node).join("data")
    }

    /// The node's data as the node sees it, which may lie on a disk of its own.
    pub fn data_of_running(&self, node: usize) -> PathBuf {
        let pid = self.running(node).id();
        let data = self.data(node);
        Path::new("/proc")
            .join(pid.to_string())
            .join("root")
            .join(data.strip_prefix("/").expect("an absolute path"))
    }

    fn clock(&self, node: usize) -> PathBuf {
        self.folder(node).join("clock")
    }

    fn running(&self, node: usize) -> &Process {
        self.nodes[node - 1].process.as_ref().expect("the node runs")
    }

    // What is done to nodes.

    pub fn kill(&mut self, node: usize) {
        self.fault(format!("kill -9 node {node}"), |cluster| {
            if let Some(mut process) = cluster.nodes[node - 1].process.take() {
                process.kill();
                forget_faketime(process.id());
            }
            cluster.nodes[node - 1].paused = false;
        });
    }

    /// SIGTERM: it ends in good order.
    pub fn end(&mut self, node: usize) {
        self.fault(format!("end node {node}"), |cluster| {
            cluster.signal(node, rustix::process::Signal::TERM);
            let mut process = cluster.nodes[node - 1].process.take().expect("the node runs");
            process.succeed();
        });
    }

    pub fn restart(&mut self, node: usize) {
        self.fault(format!("start node {node}"), |cluster| cluster.spawn(node));
    }

    /// Ends the node in good order; its next start is one of this build.
    pub fn change_build(&mut self, node: usize, build: Build) {
        if self.runs(node) {
            self.end(node);
        }
        self.nodes[node - 1].build = build;
    }

    /// Without a moment between: it is back before anybody misses it.
    pub fn kill_and_restart(&mut self, node: usize) {
        self.kill(node);
        self.restart(node);
    }

    pub fn pause(&mut self, node: usize) {
        self.fault(format!("SIGSTOP node {node}"), |cluster| {
            cluster.signal(node, rustix::process::Signal::STOP);
            cluster.nodes[node - 1].paused = true;
        });
    }

    pub fn resume(&mut self, node: usize) {
        self.fault(format!("SIGCONT node {node}"), |cluster| {
            cluster.signal(node, rustix::process::Signal::CONT);
            cluster.nodes[node - 1].paused = false;
        });
    }

    /// Puts a new node in the place of one that is lost, with the command that an operator runs; gives its number.
    pub fn replace(&mut self, lost: usize) -> usize {
        let new = self.nodes.len() + 1;
        let seat = *self.network.seats().get(new - 1).expect("this topology has a seat to spare");
        let (old, with) = (format!("node-{lost}"), format!("node-{new}={}", seat.api_found_at.ip()));
        let root = self.deployment.key("root").display().to_string();
        let asked = self.url(self.all().find(|node| *node != lost).expect("other nodes"));
        self.fault(format!("node {new} replaces node {lost}"), |cluster| {
            let replace = ["node", "replace", &old, "--with", &with, "--key", &root, "--reason", "lost"];
            let command = cluster.deployment.command(&[&replace[..], &["--node", &asked]].concat());
            Ran::of(&mut cluster.command_of_client(command)).exits(0);
            let path = cluster.folder(new).join("tagout.toml");
            let config = fs::read_to_string(&path).expect("the configuration");
            // It listens behind the proxy under which it is found, and shares its disk with many.
            let config = config.lines().map(|line| match line.split_once(" = ") {
                Some(("listen", _)) => format!("listen = \"{}\"\n", seat.api),
                Some(("peer_listen", _)) => format!("peer_listen = \"{}\"\n", seat.peers),
                Some(("reserve_mib" | "# reserve_mib", _)) => "reserve_mib = 1\n".into(),
                _ => format!("{line}\n"),
            });
            fs::write(&path, config.collect::<String>()).expect("the configuration");
            fs::write(cluster.clock(new), "+0\n").expect("the clock's file");
            cluster.nodes.push(Node::default());
            cluster.members.retain(|node| *node != lost);
            cluster.members.push(new);
            cluster.spawn(new);
        });
        new
    }

    /// Brings a node back that is down or stands still.
    pub fn revive(&mut self, node: usize) {
        if self.nodes[node - 1].paused {
            return self.resume(node);
        }
        self.nodes[node - 1].process = None;
        self.restart(node);
    }

    /// Starts the node where it should not start, and gives what it said.
    pub fn fails_to_start(&mut self, node: usize) -> String {
        self.spawn(node);
        let mut process = self.nodes[node - 1].process.take().expect("it was just started");
        let status = process.wait_within(HEALED_WITHIN);
        assert!(!status.success(), "node {node} ended well where it should refuse to start");
        process.stdout() + &process.stderr()
    }

    /// Waits until the node ends by itself, and gives what it said.
    pub fn wait_until_ended(&mut self, node: usize) -> String {
        let mut process = self.nodes[node - 1].process.take().expect("the node runs");
        process.wait_within(HEALED_WITHIN);
        self.fault(format!("node {node} ended by itself"), |_| ());
        process.stdout() + &process.stderr()
    }

    /// The same with this exit code.
    pub fn wait_until_ended_with(&mut self, node: usize, code: i32) -> String {
        let mut process = self.nodes[node - 1].process.take().expect("the node runs");
        let ended = process.wait_within(HEALED_WITHIN);
        assert_eq!(ended.code(), Some(code), "{}", process.stderr());
        process.stdout() + &process.stderr()
    }

    pub fn runs(&mut self, node: usize) -> bool {
        let node = &mut self.nodes[node - 1];
        !node.paused && node.process.as_mut().is_some_and(|process| process.ended().is_none())
    }

    fn signal(&self, node: usize, signal: rustix::process::Signal) {
        let pid = self.running(node).id().cast_signed();
        let pid = rustix::process::Pid::from_raw(pid).expect("a process id");
        rustix::process::kill_process(pid, signal).expect("the node is ours");
    }

    // What is done to the network.

    pub fn trouble(&mut self, what: String, change: impl FnOnce(&mut Trouble)) {
        self.fault(what, |cluster| {
            change(&mut cluster.trouble);
            cluster.network.set(&cluster.trouble);
        });
    }

    /// The node is alone with its clients: no other node hears it, nor it them.
    pub fn cut_off(&mut self, node: usize) {
        let others: Vec<_> = self.all().filter(|other| *other != node).collect();
        self.trouble(format!("cut node {node} off from the others"), |trouble| {
            others.iter().for_each(|other| trouble.part(Place::Node(node), Place::Node(*other)));
        });
    }

    /// The node speaks and does not hear the others.
    pub fn deafen(&mut self, node: usize) {
        let others: Vec<_> = self.all().filter(|other| *other != node).collect();
        self.trouble(format!("node {node} does not hear the others"), |trouble| {
            trouble.cut.extend(others.iter().map(|other| (Place::Node(*other), Place::Node(node))));
        });
    }

    /// The node hears the others and is not heard by them.
    pub fn silence(&mut self, node: usize) {
        let others: Vec<_> = self.all().filter(|other| *other != node).collect();
        self.trouble(format!("the others do not hear node {node}"), |trouble| {
            trouble.cut.extend(others.iter().map(|other| (Place::Node(node), Place::Node(*other))));
        });
    }

    pub fn cut_clients_off(&mut self, node: usize) {
        self.trouble(format!("cut the clients off from node {node}"), |trouble| {
            trouble.part(Place::Clients, Place::Node(node));
        });
    }

    pub fn lose_packets(&mut self, percent: u32) {
        self.trouble(format!("{percent} % of packets are lost"), |trouble| trouble.loss_percent = percent);
    }

    pub fn delay(&mut self, delay_ms: u64) {
        self.trouble(format!("{delay_ms} ms between nodes"), |trouble| trouble.delay_ms = delay_ms);
    }

    pub fn heal_network(&mut self) {
        self.trouble("the network works".into(), |trouble| *trouble = Trouble::default());
    }

    // What is done to clocks and disks.

    /// Sets the node's wall clock so many seconds off.
    pub fn set_clock(&mut self, node: usize, seconds: i64) {
        assert!(self.made.clocks, "this cluster's clocks cannot be set");
        let (path, new) = (self.clock(node), self.folder(node).join("clock.new"));
        self.fault(format!("the clock of node {node} is {seconds:+} s off"), |_| {
            fs::write(&new, format!("{seconds:+}\n")).expect("the clock's file");
            fs::rename(&new, &path).expect("the clock's file");
        });
    }

    /// From now on no file of the node can grow past `bytes`: what crosses them is written in part, the rest fails.
    pub fn limit_files(&mut self, node: usize, bytes: u64) {
        assert!(self.made.failing_writes, "this cluster's nodes die of a failed write");
        let pid = self.running(node).id();
        self.nodes[node - 1].limited = true;
        self.history.cannot_write(node);
        self.fault(format!("files of node {node} end at {bytes} bytes"), |_| {
            // The soft limit alone: to raise the hard one again, a second time, takes CAP_SYS_RESOURCE.
            let soft = format!("--fsize={bytes}:");
            let limit = Command::new("prlimit").arg(format!("--pid={pid}")).arg(soft).status();
            assert!(
                limit.is_ok_and(|status| status.success()),
                "prlimit sets the limit of a process of ours"
            );
        });
    }

    /// Fills the node's small disk to the last byte.
    pub fn fill_disk(&mut self, node: usize) {
        let filler = self.data_of_running(node).join("filler");
        self.fault(format!("the disk of node {node} is full"), |_| SmallDisk::fill(&filler));
    }

    pub fn free_disk(&mut self, node: usize) {
        let filler = self.data_of_running(node).join("filler");
        self.fault(format!("the disk of node {node} is free again"), |_| drop(fs::remove_file(&filler)));
    }

    // How it comes back.

    /// Takes back all that was done, and waits until every node can issue leases again.
    pub fn heal(&mut self) {
        if self.trouble != Trouble::default() {
            self.heal_network();
        }
        for node in self.all() {
            if self.made.clocks && fs::read_to_string(self.clock(node)).is_ok_and(|clock| clock != "+0\n") {
                self.set_clock(node, 0);
            }
            // A node whose writes fail may be about to end.
            if std::mem::take(&mut self.nodes[node - 1].limited) {
                self.kill(node);
            }
            if !self.runs(node) {
                self.revive(node);
            }
        }
        self.wait_until_ready();
    }

    pub fn wait_until_ready(&mut self) {
        for node in self.all() {
            let url = format!("{}/readyz", self.url(node));
            wait_within(HEALED_WITHIN, &format!("node {node} to be ready"), || {
                let ended = self.nodes[node - 1].process.as_mut().and_then(Process::ended);
                assert!(ended.is_none(), "node {node} ended before it was ready");
                self.get(&url).map(|_| ())
            });
        }
    }

    /// The node that leads, asked of all that answer.
    pub fn leader(&self) -> usize {
        wait_within(HEALED_WITHIN, "a node to lead", || {
            let claims = self.all().filter_map(|node| {
                let metrics = String::from_utf8(self.get(&format!("{}/metrics", self.url(node)))?).ok()?;
                let gauge = |name: &str| {
                    metrics.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok())
                };
                let leads = gauge("tagout_raft_leader ")? == 1.0;
                leads.then_some((gauge("tagout_raft_term ")? as u64, node))
            });
            claims.max().map(|(_, node)| node)
        })
    }

    pub fn a_follower(&self) -> usize {
        let leader = self.leader();
        self.all().find(|node| *node != leader).expect("a cluster has followers")
    }

    /// The size of the log on `node`.
    pub fn log_size(&self, node: usize) -> Option<u64> {
        let status = self.get(&format!("{}/v1/status", self.url(node)))?;
        serde_json::from_slice::<Status>(&status).ok().map(|status| status.log_size)
    }

    /// Every node with the same number of entries, once all have as many as the farthest has now.
    pub fn endings(&self) -> Vec<Ending> {
        let sizes = self
            .all()
            .map(|node| self.log_size(node).unwrap_or_else(|| panic!("node {node} tells its log's size")));
        let size = sizes.max().expect("there are nodes");
        self.all()
            .map(|node| {
                let url = self.url(node);
                let get =
                    |path: String| self.get(&format!("{url}{path}")).unwrap_or_else(|| panic!("{url}{path}"));
                wait_until(&format!("the log of node {node} to have {size} entries"), || {
                    self.get(&format!("{url}/log/checkpoint?size={size}")).is_some()
                });
                let bundles = (0..size.div_ceil(256)).map(|n| {
                    let width = (size - n * 256).min(256) as u16;
                    get(format!("/log/tile/{}", TileId { kind: TileKind::Entries, n, width }))
                });
                let entries = bundles.flat_map(|bundle| {
                    let entries = parse_bundle(&bundle).expect("a bundle of entries");
                    entries.into_iter().map(<[u8]>::to_vec).collect::<Vec<_>>()
                });
                let entries = entries.collect();
                let locks: Locks = serde_json::from_slice(&get("/v1/locks".into())).expect("locks");
                Ending { entries, locks: locks.locks }
            })
            .collect()
    }

    pub fn node_key(&self, node: usize) -> VerifierKey {
        node_key(&self.folder(node), node)
    }

    pub fn answers(&self, url: &str) -> bool {
        self.get(url).is_some()
    }

    /// What a node answers instead of doing it.
    pub fn problem(&self, url: &str) -> Option<Problem> {
        let request = self.http.get(url).timeout(ANSWER_TIMEOUT);
        self.in_clients(async move { request.send().await.ok()?.json().await.ok() })
    }

    /// What a client gets that asks once; nothing unless it is a success.
    pub fn get(&self, url: &str) -> Option<Vec<u8>> {
        let request = self.http.get(url).timeout(ANSWER_TIMEOUT);
        let answer = self.in_clients(async move {
            let answer = request.send().await.ok()?.error_for_status().ok()?;
            answer.bytes().await.ok()
        });
        answer.map(|bytes| bytes.to_vec())
    }

    /// Runs `work` where the clients are.
    pub fn in_clients<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> T {
        self.clients.block_on(self.clients.spawn(work)).expect("a client does not panic")
    }

    /// `command`, to be run where the clients are.
    pub fn command_of_client(&self, command: Command) -> Command {
        self.network.at(Place::Clients, command)
    }

    fn spawn(&mut self, node: usize) {
        let mut words: Vec<String> = Vec::new();
        if let Some(disk) = &self.nodes[node - 1].disk {
            words.extend(disk.mounted());
        }
        if self.made.failing_writes {
            // What it says must not fail with its files.
            let through = "exec \"$@\" > >(exec cat) 2> >(exec cat >&2)";
            words.extend(["bash", "-c", through, "bash"].map(String::from));
        }
        words.push("env".into());
        if self.made.failing_writes {
            words.push("--ignore-signal=XFSZ".into());
        }
        if self.made.clocks {
            words.push(format!("LD_PRELOAD={}", faketime().expect("libfaketime").display()));
            words.push(format!("FAKETIME_TIMESTAMP_FILE={}", self.clock(node).display()));
            // Only the date is wrong, and it jumps within a tenth of a second; files keep their own times.
            words
                .extend(["DONT_FAKE_MONOTONIC=1", "FAKETIME_NO_CACHE=1", "NO_FAKE_STAT=1"].map(String::from));
        }
        let (program, verb): (_, Vec<String>) = match self.nodes[node - 1].build {
            Build::Today => (bin::tagout(), vec!["serve".into(), "--config".into()]),
            Build::Newer => (bin::helper(), vec!["serve-newer".into()]),
            Build::ErringAt(entry) => (bin::helper(), vec!["serve-erring".into(), entry.to_string()]),
        };
        words.push(program.display().to_string());
        let mut command = Command::new(&words[0]);
        // Hundreds of commands say nothing about a fault.
        command.env("RUST_LOG", "info,tagout_control_plane::api=warn");
        command.args(&words[1..]).args(verb).arg(self.folder(node).join("tagout.toml"));
        let mut command = self.network.at(Place::Node(node), command);
        let slot = &mut self.nodes[node - 1];
        slot.starts += 1;
        let name = format!("node-{node}-{}", slot.starts);
        let process = Process::spawn(&name, self.deployment.folder(), &mut command);
        self.network.started(node, process.id());
        slot.process = Some(process);
    }

    /// Does something, writes it down, and keeps account of when no node could answer a guard: from when a fault is
    /// complete until before it is taken back.
    fn fault<T>(&mut self, what: String, act: impl FnOnce(&mut Self) -> T) -> T {
        let before = now_ns();
        let done = act(self);
        self.history.fault(what);
        match (self.outage, self.can_answer()) {
            (None, false) => self.outage = Some(now_ns()),
            (Some(since), true) => {
                self.outage = None;
                self.history.outage(since..before);
            }
            (None, true) | (Some(_), false) => {}
        }
        done
    }

    /// Whether some majority of nodes that run hear one another, one of which clients can ask.
    fn can_answer(&self) -> bool {
        let up = |node: usize| self.nodes[node - 1].process.is_some() && !self.nodes[node - 1].paused;
        self.all().filter(|node| up(*node)).any(|node| {
            let place = Place::Node(node);
            let heard = self.all().filter(|other| {
                up(*other) && (*other == node || self.trouble.talk(place, Place::Node(*other)))
            });
            let majority = heard.clone().count() > self.members.len() / 2;
            majority && heard.into_iter().any(|other| self.trouble.talk(Place::Clients, Place::Node(other)))
        })
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let faults = self.history.record().faults;
            let first = faults.first().map_or(0, |(at, _)| *at);
            for (at, what) in faults {
                eprintln!("{:>7} ms  {what}", at.saturating_sub(first) / 1_000_000);
            }
        }
        if self.made.clocks {
            // libfaketime leaves these of a process that was killed.
            let pids = self.nodes.iter().filter_map(|node| Some(node.process.as_ref()?.id()));
            pids.for_each(forget_faketime);
        }
    }
}

/// A node's key as the authority lists it.
pub fn node_key(folder: &Path, node: usize) -> VerifierKey {
    let seed = fs::read_to_string(folder.join("node.key")).expect("the node's key");
    let seed = data_encoding::BASE64.decode(seed.trim().as_bytes()).expect("base64");
    NoteSigner::new(&format!("test/node-{node}"), &seed.try_into().expect("32 bytes"))
        .expect("a key")
        .verifier()
}

/// The library that shows a process another date.
pub fn faketime() -> Option<PathBuf> {
    let folders = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib"];
    let paths = folders.map(|folder| Path::new(folder).join("faketime/libfaketimeMT.so.1"));
    paths.into_iter().find(|path| path.is_file())
}

fn forget_faketime(pid: u32) {
    for name in ["faketime_shm_", "sem.faketime_sem_"] {
        let _ = fs::remove_file(format!("/dev/shm/{name}{pid}"));
    }
}
