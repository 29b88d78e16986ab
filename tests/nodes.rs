//! The nodes of a deployment come and go by signed changes of its authority, each with one command.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tagout::{Client, Guard};
use tagout_control_plane::sign::generate;
use tagout_tests::bin;
use tagout_tests::process::Process;
use tagout_tests::ran::Ran;
use tagout_tests::wait::{wait_for, wait_until};

/// Nodes in folders that `tagout` made, on loopback addresses of their own, so that every one has the usual ports.
struct Nodes {
    // Dropped before its folder, where its output lies.
    running: Vec<(String, Process)>,
    folder: tempfile::TempDir,
    subnet: String,
    started: u32,
}

impl Nodes {
    /// `tagout init --nodes` with three.
    fn make() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for name in ["alice", "bob", "root"] {
            generate(&folder.path().join(name), name, None).expect("a key");
        }
        // Another test process on this machine has another number.
        let pid = std::process::id();
        let subnet = format!("127.{}.{}", 64 + pid % 64, (pid / 64) % 256);
        let nodes = Self { running: Vec::new(), folder, subnet, started: 0 };
        let three = (1..=3).map(|n| nodes.named(n)).collect::<Vec<_>>().join(",");
        let init = "init --name test --dir deployment --without-enrolment --person alice=alice.pub --person bob=bob.pub --ttl 2s \
                    --root-key root.pub --sign-root root --nodes";
        let arguments: Vec<_> = init.split_whitespace().chain([three.as_str()]).collect();
        nodes.tagout(&arguments).exits(0);
        nodes
    }

    /// `node-2=127.70.3.2`.
    fn named(&self, n: u64) -> String {
        format!("node-{n}={}.{n}", self.subnet)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(bin::tagout());
        command.args(arguments).current_dir(self.folder.path()).env("NO_COLOR", "1");
        command.env("XDG_STATE_HOME", self.folder.path().join("state"));
        command.env("TAGOUT_PROFILE", self.dir().join("profile.toml")).env_remove("SSH_AUTH_SOCK");
        command
    }

    fn tagout(&self, arguments: &[&str]) -> Ran {
        Ran::of(&mut self.command(arguments))
    }

    fn dir(&self) -> PathBuf {
        self.folder.path().join("deployment")
    }

    /// Starts a node with the least disk reserve.
    fn start(&mut self, name: &str) {
        let config = self.dir().join(name).join("tagout.toml");
        reserve_little(&config);
        self.started += 1;
        let output = format!("{name}-{}", self.started);
        let mut serve = self.command(&["serve", "--config", config.to_str().expect("a plain path")]);
        let process = Process::spawn(&output, self.folder.path(), &mut serve);
        self.running.push((name.into(), process));
    }

    fn kill(&mut self, name: &str) {
        let at = self.running.iter().position(|(running, _)| running == name).expect("it runs");
        self.running.remove(at).1.kill();
    }

    /// A guard of an instance of its own, which asks this node only.
    fn guard(&self, node: u64, agent: &str) -> Guard {
        let profile = std::fs::read_to_string(self.dir().join("profile.toml")).expect("the profile");
        let pin = profile.lines().find_map(|line| line.strip_prefix("deployment = ")).expect("a deployment");
        let client = Client::builder()
            .node(format!("https://{}.{node}:7470", self.subnet))
            .ca_file(self.dir().join("ca.pem"))
            .genesis_file(self.dir().join("genesis.json"))
            .pinned(pin.trim_matches('"'))
            .build();
        client.expect("a client of the SDK").guard(agent).expect("a guard")
    }

    fn list(&self) -> Option<Value> {
        let ran = self.tagout(&["node", "list", "--json"]);
        (ran.code == Some(0)).then(|| ran.json())
    }

    /// Waits until exactly these vote, with the others' word for it that they are there.
    fn wait_for_voters(&self, wanted: &[u64]) {
        wait_until(&format!("{wanted:?} to vote"), || {
            self.list().is_some_and(|list| {
                let mut voters: Vec<u64> = serde_json::from_value(list["voters"].clone()).expect("ids");
                voters.sort_unstable();
                voters == wanted && list["leader"].is_u64()
            })
        });
    }

    fn node(&self, id: u64) -> Option<Value> {
        let nodes = self.list()?["nodes"].as_array().expect("nodes").clone();
        nodes.into_iter().find(|node| node["id"] == id)
    }
}

/// Many nodes of tests share one disk.
fn reserve_little(config: &Path) {
    let text = std::fs::read_to_string(config).expect("the node's configuration");
    let line = text.lines().find(|line| line.starts_with("# reserve_mib = ")).map(str::to_owned);
    if let Some(line) = line {
        std::fs::write(config, text.replace(&line, "reserve_mib = 1")).expect("the node's configuration");
    }
}

#[test]
fn three_nodes_lose_one_and_get_another_and_grow() {
    let mut nodes = Nodes::make();
    for name in ["node-1", "node-2", "node-3"] {
        nodes.start(name);
    }
    nodes.wait_for_voters(&[1, 2, 3]);
    let grant = "grant demo --for 1h --reason test --calls-per-minute 10 --key alice --key bob";
    nodes.tagout(&grant.split(' ').collect::<Vec<_>>()).exits(0);

    // Instances that ask different nodes share a limit.
    let mut guards = [1, 2].map(|node| nodes.guard(node, "demo/sharing")).to_vec();
    let shares =
        |guards: &[Guard], share| guards.iter().all(|g| g.state().share.calls_per_minute == Some(share));
    wait_until("each to have half of the limit", || shares(&guards, 5));
    guards.pop();
    wait_until("the one that is left to have all of it", || shares(&guards, 10));
    drop(guards);

    // One is lost, with its store: the others go on, and it never comes back under its number.
    nodes.kill("node-3");
    let stop = ["stop", "demo/agent", "--reason", "one is lost", "--key", "alice", "--no-wait"];
    nodes.tagout(&stop).exits(5);
    std::fs::remove_dir_all(nodes.dir().join("node-3/data")).expect("its store");
    let lost = nodes.tagout(&["serve", "--config", "deployment/node-3/tagout.toml"]).exits(1);
    assert!(lost.stderr.contains("tagout node replace"), "{lost:?}");
    wait_until("its silence to be noticed", || nodes.node(3).is_some_and(|node| node["heard"].is_null()));
    let list = nodes.tagout(&["node", "list"]).exits(0);
    assert!(
        list.stdout.contains("silent") && list.stdout.contains("3 voters, 2 of which it takes; 2 answer"),
        "{list:?}"
    );

    // Without the third, neither of the other two can be spared.
    let refused = nodes.tagout(&["node", "remove", "node-2", "--key", "root"]).exits(3);
    assert!(refused.stderr.contains("only 1 of the 2 voters that would be left answer"), "{refused:?}");

    // A new one takes its place, with one change that root signs.
    let new = nodes.named(4);
    let replace = [
        "node",
        "replace",
        "node-3",
        "--with",
        &new,
        "--key",
        "root",
        "--reason",
        "its disk is gone",
        "--json",
    ];
    let replaced = nodes.tagout(&replace).exits(0).json();
    assert_eq!((&replaced["id"], &replaced["version"]), (&4.into(), &2.into()));
    nodes.start("node-4");
    nodes.wait_for_voters(&[1, 2, 4]);
    wait_until("the lost one to be forgotten", || nodes.list().is_some() && nodes.node(3).is_none());
    wait_until("the new one to be ready", || {
        nodes.node(4).is_some_and(|node| node["heard"]["ready"] == true)
    });

    // A fifth number is added as a learner by a draft, which root signs elsewhere.
    let new = nodes.named(5);
    nodes.tagout(&["node", "add", &new]).exits(0);
    nodes.start("node-5");
    nodes.tagout(&["authority", "sign", "authority-3.json", "--key", "root"]).exits(0);
    nodes.tagout(&["authority", "submit", "authority-3.json"]).exits(0);
    let learner =
        wait_for("the learner to be ready", || nodes.node(5).filter(|node| node["heard"]["ready"] == true));
    assert_eq!((&learner["role"], &learner["votes"]), (&"learner".into(), &false.into()));
    nodes.tagout(&["node", "promote", "node-5", "--key", "root"]).exits(0);
    nodes.wait_for_voters(&[1, 2, 4, 5]);

    // The one where all began leaves.
    let removed = nodes.tagout(&["node", "remove", "node-1", "--key", "root", "--json"]).exits(0).json();
    assert_eq!(removed["version"], 5);
    nodes.wait_for_voters(&[2, 4, 5]);
    nodes.kill("node-1");
    let stop = ["stop", "demo/other", "--reason", "without the first", "--key", "alice", "--no-wait"];
    nodes.tagout(&stop).exits(5);
    nodes.tagout(&["log", "verify", "--node", &format!("https://{}.5:7470", nodes.subnet)]).exits(0);

    // What is no node, and what was one.
    let again = nodes.named(3);
    for (arguments, says) in [
        (["node", "promote", "node-9"], "there is no node \"node-9\": those are node-2, node-4, node-5"),
        (["node", "promote", "node-4"], "node-4 votes already"),
        (["node", "add", &again], "\"node-3\" is or was node 3: choose another name"),
    ] {
        let refused = nodes.tagout(&arguments).exits(2);
        assert!(refused.stderr.contains(says), "{refused:?}");
    }
}
