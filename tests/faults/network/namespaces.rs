//! A cluster in network namespaces of its own: one for each node, one for the clients, and one with the bridge that joins
//! them. Each lives as long as a process that we started in it, so that nothing is left however a test ends.

use std::fmt::Write as _;
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::AsFd;
use std::process::{Command, Stdio};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tagout_tests::deployment::Seat;
use tagout_tests::process::Process;
use tagout_tests::wait::wait_until;

use super::{Place, Trouble};

pub struct Namespaces {
    seats: Vec<Seat>,
    /// The nodes' by their order, then the clients'.
    held: Vec<Held>,
    _bridge: Held,
    _folder: tempfile::TempDir,
}

/// A namespace and the process that keeps it: `cat`, which ends when its input does.
struct Held(Process);

const CLIENTS: u8 = 100;

/// Whether this machine lets us.
pub fn possible() -> bool {
    let unshare = || Command::new("unshare").args(["--net", "true"]).stderr(Stdio::null()).status();
    rustix::process::geteuid().is_root() && unshare().is_ok_and(|status| status.success())
}

fn ip(host: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, host)
}

fn host(place: Place) -> u8 {
    match place {
        Place::Node(node) => u8::try_from(node).expect("few nodes"),
        Place::Clients => CLIENTS,
    }
}

impl Namespaces {
    pub fn new(nodes: usize) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let hold = |name: &str| Held::new(name, folder.path());
        let bridge = hold("bridge");
        bridge.ip("link add bridge type bridge\nlink set bridge up\n");
        let places = (1..=nodes).map(Place::Node).chain([Place::Clients]);
        let held: Vec<Held> = places
            .map(|place| {
                let host = host(place);
                let held = hold(&format!("namespace-{host}"));
                bridge.ip(&format!(
                    "link add port-{host} type veth peer name eth0 netns {}\nlink set port-{host} master bridge up\n",
                    held.0.id()
                ));
                held.ip(&format!("link set lo up\naddr add {}/24 dev eth0\nlink set eth0 up\n", ip(host)));
                held
            })
            .collect();
        let seats = (1..=nodes).map(|node| {
            let at = |port| SocketAddr::V4(SocketAddrV4::new(ip(host(Place::Node(node))), port));
            let (api, peers) = (at(7470), at(7471));
            Seat { api, peers, api_found_at: api, peers_found_at: peers }
        });
        Self { seats: seats.collect(), held, _bridge: bridge, _folder: folder }
    }

    pub fn seats(&self) -> &[Seat] {
        &self.seats
    }

    fn held(&self, place: Place) -> &Held {
        match place {
            Place::Node(node) => &self.held[node - 1],
            Place::Clients => &self.held[self.seats.len()],
        }
    }

    /// Packets are dropped where they arrive, so that the sender hears nothing of it.
    pub fn set(&self, trouble: &Trouble) {
        assert_eq!(
            trouble.delay_ms, 0,
            "this kernel has no netem; delay needs the proxies of the loopback topology"
        );
        for place in (1..=self.seats.len()).map(Place::Node).chain([Place::Clients]) {
            let mut rules = String::from("add table inet faults\ndelete table inet faults\n");
            rules.push_str("table inet faults {\n chain input {\n  type filter hook input priority 0;\n");
            for (from, _) in trouble.cut.iter().filter(|(_, to)| *to == place) {
                writeln!(rules, "  ip saddr {} drop", ip(host(*from))).expect("text");
            }
            if trouble.loss_percent > 0 {
                writeln!(rules, "  iif != lo numgen random mod 100 < {} drop", trouble.loss_percent)
                    .expect("text");
            }
            rules.push_str(" }\n}\n");
            self.held(place).run(&["nft", "-f", "-"], &rules);
        }
    }

    pub fn at(&self, place: Place, command: Command) -> Command {
        self.held(place).enter(&command)
    }

    /// What brings a thread to `place`.
    pub fn entrance(&self, place: Place) -> impl Fn() + Send + Sync + 'static {
        let path = self.held(place).path();
        let namespace = File::open(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
        move || {
            let entered = move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network));
            entered.expect("root may enter a network namespace");
        }
    }
}

impl Held {
    fn new(name: &str, folder: &std::path::Path) -> Self {
        let process = Process::spawn(name, folder, Command::new("unshare").args(["--net", "cat"]));
        let held = Self(process);
        let ours = std::fs::read_link("/proc/self/ns/net").expect("our own namespace");
        wait_until("a network namespace", || std::fs::read_link(held.path()).is_ok_and(|link| link != ours));
        held
    }

    fn path(&self) -> String {
        format!("/proc/{}/ns/net", self.0.id())
    }

    fn enter(&self, command: &Command) -> Command {
        let mut entered = Command::new("nsenter");
        entered.arg(format!("--net={}", self.path())).arg("--").arg(command.get_program());
        entered.args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => entered.env(name, value),
                None => entered.env_remove(name),
            };
        }
        if let Some(folder) = command.get_current_dir() {
            entered.current_dir(folder);
        }
        entered
    }

    fn ip(&self, batch: &str) {
        self.run(&["ip", "-batch", "-"], batch);
    }

    fn run(&self, command: &[&str], input: &str) {
        let mut entered = Command::new(command[0]);
        entered.args(&command[1..]);
        let mut entered = self.enter(&entered);
        let spawned = entered.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
        let mut child = spawned.unwrap_or_else(|e| panic!("{command:?}: {e}"));
        let mut stdin = child.stdin.take().expect("its input is a pipe");
        std::io::Write::write_all(&mut stdin, input.as_bytes())
            .unwrap_or_else(|e| panic!("{command:?}: {e}"));
        drop(stdin);
        let output = child.wait_with_output().expect("a child can be waited for");
        assert!(
            output.status.success(),
            "{command:?} of {input}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}
