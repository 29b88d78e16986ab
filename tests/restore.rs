//! Backups, and the restore of a deployment of which nothing else is left: by the real commands, against real nodes, as a
//! guard sees it that has seen more than the backup holds.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use serde_json::Value;
use tagout::{Guard, Lock, Reason};
use tagout_proto::digest::Digest;
use tagout_proto::wire::{Locks, Status};
use tagout_tests::bin;
use tagout_tests::deployment::{Choice, Deployment, free_address, runtime};
use tagout_tests::process::Process;
use tagout_tests::ran::Ran;
use tagout_tests::wait::{DEADLINE, wait_for, wait_until};

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/golden/restore.txt");

/// Why the guard is stopped.
fn stopped(guard: &Guard) -> Option<Lock> {
    match guard.check().err()?.reason {
        Reason::Stopped(lock) => Some(Lock::clone(&lock)),
        _ => None,
    }
}

struct World {
    deployment: Deployment,
    runtime: tokio::runtime::Runtime,
}

impl World {
    fn start() -> Self {
        Self { deployment: Deployment::start(Choice::default()), runtime: runtime() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.deployment.folder().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        Ran::of(&mut self.deployment.command(arguments))
    }

    fn by_both(&self, arguments: &[&str]) -> Ran {
        let keys = ["alice", "bob"].map(|name| self.deployment.key(name));
        Ran::of(self.deployment.command(arguments).arg("--key").arg(&keys[0]).arg("--key").arg(&keys[1]))
    }

    fn stop(&self, scope: &str) -> Digest {
        let stop = self.run(&["stop", scope, "--reason", "policy violation 4.1", "--no-wait", "--json"]);
        let stop = if stop.code == Some(5) { stop } else { stop.exits(0) };
        stop.json()["digest"].as_str().unwrap().parse().unwrap()
    }

    fn backup(&self, dir: &str) -> Value {
        self.run(&["backup", "--out", &self.text(dir), "--json"]).exits(0).json()
    }

    /// All that is known of the deployment in future: the backup, the CA, and what people and guards remember.
    fn lose_everything(&mut self) {
        self.deployment.kill_node();
        fs::rename(self.deployment.dir().join("node-1"), self.path("lost")).unwrap();
    }

    /// `restore prepare` for one new node where the old one was.
    fn prepare(&self, dir: &str, backup: &str) -> Ran {
        let (ca, address) = (self.deployment.dir().join("ca").display().to_string(), self.deployment.address);
        let config = self.path(dir).join("node-2/tagout.toml");
        let (backup, dir, node) = (self.text(backup), self.text(dir), format!("node-2={address}"));
        let ran = self.run(&[
            "restore",
            "prepare",
            "--from",
            &backup,
            "--dir",
            &dir,
            "--new-node",
            &node,
            "--ca",
            &ca,
            "--reason",
            "the data centre burnt down",
        ]);
        // The port beside its API may be somebody's; it has no peers.
        if let Ok(text) = fs::read_to_string(&config) {
            let line =
                text.lines().find(|line| line.starts_with("peer_listen")).expect("where peers reach it");
            fs::write(&config, text.replace(line, &format!("peer_listen = \"{}\"", free_address()))).unwrap();
        }
        ran
    }

    fn sign(&self, dir: &str, key: &str) -> Ran {
        self.run(&[
            "restore",
            "sign",
            &self.text(dir),
            "--key",
            &self.deployment.key(key).display().to_string(),
        ])
    }

    fn serve(&self, name: &str, config: &Path) -> Process {
        let mut serve = Command::new(bin::tagout());
        Process::spawn(name, self.deployment.folder(), serve.arg("serve").arg("--config").arg(config))
    }

    /// Starts the restored node, and waits until it can issue leases.
    fn serve_restored(&self, dir: &str) -> Process {
        self.read_with_the_token_of(dir);
        let mut node = self.serve("restored", &self.path(dir).join("node-2/tagout.toml"));
        let http = self.deployment.http();
        wait_for("the restored node to be ready", || {
            assert!(node.ended().is_none(), "the restored node ended: {}", node.stderr());
            let ready = self.runtime.block_on(http.get(self.deployment.url("/readyz")).send());
            ready.ok().filter(|r| r.status().is_success())
        });
        node
    }

    /// A restore makes a token of its own.
    fn read_with_the_token_of(&self, dir: &str) {
        let token = "operator.token";
        std::fs::copy(self.deployment.dir().join(token), self.path("old.token")).unwrap();
        std::fs::copy(self.path(dir).join(token), self.deployment.dir().join(token)).unwrap();
    }

    fn get<T: serde::de::DeserializeOwned>(&self, path: &str) -> T {
        self.runtime.block_on(self.deployment.get(&self.deployment.http(), path))
    }
}

#[test]
fn s1_s5_s9_after_a_restore_everything_is_halted_and_a_guard_brings_the_stop_that_the_backup_lost() {
    let mut world = World::start();
    world.by_both(&["grant", "support", "--for", "1h", "--reason", "consent"]).exits(0);
    let kept = world.stop("support/other");
    let client = world.runtime.block_on(async { world.deployment.sdk(&world.deployment.url("")) });
    let guard = client.guard("support/agent").unwrap();
    world.runtime.block_on(guard.ready(DEADLINE)).unwrap();
    let backed_up = world.backup("backup")["size"].as_u64().unwrap();

    // After the backup: one stop that a guard holds, and one that nobody does.
    let lost = world.stop("support/agent");
    wait_until("the guard to be stopped", || stopped(&guard).is_some_and(|lock| lock.id == lost));
    world.stop("support/forgotten");
    world.run(&["log", "verify"]).exits(0);
    let old: Status = world.get("/v1/status");
    world.lose_everything();

    let prepared = world.prepare("new", "backup").exits(0);
    assert!(prepared.stdout.contains(" lost: the newest checkpoint that is known has "), "{prepared:?}");
    assert!(
        prepared.stdout.contains("but for the stops that guards, pending stores or files hold"),
        "{prepared:?}"
    );
    let signed = world.sign("new", "root").exits(0);
    assert!(signed.stdout.contains("the whole fleet is halted, and every grant is void"), "{signed:?}");
    assert!(signed.stdout.contains("enough root keys have signed"), "{signed:?}");
    let finished = world.run(&["restore", "finish", &world.text("new"), "--json"]).exits(0).json();
    let halt: Digest = finished["lock"].as_str().unwrap().parse().unwrap();
    assert_eq!((&finished["lost_from"], &finished["entries"]), (&backed_up.into(), &backed_up.into()));
    let node = world.serve_restored("new");

    // S1, S5: the guard follows the new epoch and the new node's key by the roots' signatures alone. It is under both locks.
    let told =
        wait_for("the guard to be under both locks", || stopped(&guard).filter(|lock| lock.others == 1));
    assert!([halt, lost].contains(&told.id), "{told:?}");
    let status: Status = world.get("/v1/status");
    assert_eq!((status.epoch.number, old.epoch.number, status.grants.len()), (2, 1, 0));
    // What the backup had lost, the guard has brought.
    wait_until("the service to learn of the stop from the guard", || {
        let locks: Locks = world.get("/v1/locks?scope=support/agent");
        locks.locks.iter().any(|record| record.lock.id == lost)
    });
    let status = world.run(&["status"]).exits(0);
    assert!(status.stdout.contains("epoch 2, "), "{status:?}");
    assert!(status.stdout.contains(&format!("locks from entry {backed_up} on may be lost")), "{status:?}");
    assert!(
        status.stdout.contains(&kept.short()) && !status.stdout.contains("support/forgotten"),
        "{status:?}"
    );

    // S9: the log goes on from the backup's, and says in it what was done. What this machine saw of the old end is no fork.
    let verified = world.run(&["log", "verify"]).exits(0);
    assert!(verified.stdout.contains("1 restore"), "{verified:?}");
    let history = world.run(&["authority", "history"]).exits(0);
    assert!(history.stdout.contains("restore: epoch 2 begins"), "{history:?}");
    // A stop is in force before the next checkpoint covers it, and a backup goes by checkpoints.
    wait_until("a backup to go on across the restore, with the stop that the guard brought", || {
        world.backup("backup")["size"].as_u64().unwrap() > backed_up + 2
    });

    // S1: whoever lifts the halt says, signed, what is lost with it.
    let resume = ["resume", "support/agent", "--reason", "reviewed"];
    let unsaid = world.by_both(&resume).exits(2);
    assert!(unsaid.stderr.contains(&format!("add --lost-from {backed_up}")), "{unsaid:?}");
    let lost_from = backed_up.to_string();
    let other = ["resume", "support/other", "--reason", "all is known", "--lost-from", &lost_from];
    let resumed = world.by_both(&other).exits(0);
    assert!(resumed.stdout.contains("the rest of the fleet stays halted by the restore"), "{resumed:?}");
    // Neither new consent nor the release of the halt brings it back (S2), nor its start: the stop holds that was lost.
    world.by_both(&["grant", "support", "--for", "1h", "--reason", "consent after the restore"]).exits(0);
    wait_until("the halt to be released and still to hold", || {
        stopped(&guard).is_some_and(|lock| lock.others == 1 && (lock.id == lost || lock.released))
    });
    let id = halt.to_string();
    world.by_both(&["start", &id, "--wave", "support/agent", "--reason", "all is known"]).exits(0);
    wait_until("the guard to be under its own stop alone", || {
        stopped(&guard).is_some_and(|lock| (lock.id, lock.others) == (lost, 0))
    });
    world.by_both(&resume).exits(0);
    wait_until("the guard to run again", || guard.check().is_ok());
    world.run(&["log", "verify", "--from-start"]).exits(0);
    world.run(&["backup", "--verify", &world.text("backup")]).exits(0);

    // S5: the old node, should it come back, is believed by nobody.
    let other = free_address();
    let config = world.path("lost").join("tagout.toml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace(&world.deployment.address.to_string(), &other.to_string())).unwrap();
    let mut revenant = world.serve("revenant", &config);
    let http = world.deployment.http();
    wait_for("the old node to answer", || {
        assert!(revenant.ended().is_none(), "the old node ended: {}", revenant.stderr());
        let ready = world.runtime.block_on(http.get(format!("https://{other}/readyz")).send());
        ready.ok().filter(|r| r.status().is_success())
    });
    let behind = world
        .run(&["--api-token", &world.text("old.token"), "--node", &format!("https://{other}"), "status"])
        .exits(7);
    assert!(behind.stderr.contains("it is behind, or was set back; do not trust this node"), "{behind:?}");
    drop(revenant);
    drop(node);
    // Nor does its data make the new node forget.
    let data = world.path("new/node-2/data");
    fs::remove_dir_all(&data).unwrap();
    fs::create_dir(&data).unwrap();
    fs::rename(world.path("lost/data/raft"), data.join("raft")).unwrap();
    let mut mixed = world.serve("mixed", &world.path("new/node-2/tagout.toml"));
    assert!(!mixed.wait().success());
    assert!(
        mixed.stderr().contains("belongs to node 1, and the configuration says node 2"),
        "{}",
        mixed.stderr()
    );
}

#[test]
fn s1_s9_what_a_backup_or_a_restore_refuses_is_said_in_words() {
    let mut world = World::start();
    world.stop("support/a");
    world.backup("backup");
    let mut golden = Golden { text: String::new(), folder: world.deployment.folder().display().to_string() };
    golden.text.push_str(
        "What `tagout backup` and `tagout restore` refuse or warn of, each with its exit code and what it says.\n\
         tests/restore.rs compares; TAGOUT_BLESS=1 writes this file anew.\n",
    );
    copy(&world.path("backup"), &world.path("flipped"));
    let bundle =
        fs::read_dir(world.path("flipped/tile/entries/000.p")).unwrap().next().unwrap().unwrap().path();
    let mut bytes = fs::read(&bundle).unwrap();
    let at = bytes.windows(6).rposition(|w| w == b"policy").expect("the stop's reason");
    bytes[at] ^= 1;
    fs::remove_file(&bundle).unwrap();
    fs::write(&bundle, &bytes).unwrap();
    copy(&world.path("backup"), &world.path("older"));
    // Its end cut off, under an older checkpoint that a node did sign: it is a whole backup of less.
    world.stop("support/b");
    world.run(&["log", "verify"]).exits(0);

    golden.add(
        "a backup that was changed goes on",
        7,
        world.run(&["backup", "--out", &world.text("flipped")]),
    );
    golden.add("a backup that was changed", 7, world.run(&["backup", "--verify", &world.text("flipped")]));
    golden.add("a folder without a backup", 1, world.run(&["backup", "--verify", &world.text("nothing")]));
    golden.add(
        "a backup that is older than what was seen",
        0,
        world.run(&["backup", "--verify", &world.text("older")]),
    );
    golden.add("a restore while a node is left", 3, world.prepare("new", "older"));

    // A node that was set back behind the backup.
    world.backup("newest");
    world.deployment.kill_node();
    copy(&world.deployment.data(), &world.path("ahead"));
    world.deployment.start_node();
    world.stop("support/c");
    let newest = world.backup("newest");
    world.deployment.kill_node();
    fs::remove_dir_all(world.deployment.data()).unwrap();
    copy(&world.path("ahead"), &world.deployment.data());
    world.deployment.start_node();
    golden.add(
        "a node that was set back behind the backup",
        7,
        world.run(&["backup", "--out", &world.text("newest")]),
    );
    assert_eq!(
        world.run(&["backup", "--verify", &world.text("newest"), "--json"]).exits(0).json()["size"].as_u64(),
        newest["size"].as_u64(),
        "nothing was taken from it"
    );
    world.lose_everything();

    fs::create_dir(world.path("full")).unwrap();
    golden.add("a restore into a folder that exists", 1, world.prepare("full", "older"));
    golden.add("a restore from a backup that was changed", 7, world.prepare("new", "flipped"));
    golden.add("a restore from a backup that is older than what was seen", 0, world.prepare("new", "older"));
    let finish = ["restore", "finish", &world.text("new")];
    golden.add("a restore that nobody signed", 4, world.run(&finish));
    golden.add("a restore that a stranger signs", 1, world.sign("new", "stranger"));
    let ssh = |key: &str, file: &str, signature: &str| {
        let file = world.path(file);
        let _ = fs::remove_file(world.path(signature));
        let signed = Command::new("ssh-keygen")
            .args(["-q", "-Y", "sign", "-n", "tagout-command", "-f"])
            .arg(world.deployment.key(key))
            .arg(&file)
            .output()
            .unwrap();
        assert!(signed.status.success(), "{signed:?}");
        fs::rename(format!("{}.sig", file.display()), world.path(signature)).unwrap();
    };
    ssh("stranger", "new/restore.json", "new/restore.json.sig");
    golden.add("a restore that only a stranger signed", 4, world.run(&finish));
    ssh("root", "new/profile.toml", "new/restore.json.sig");
    golden.add("a restore with the signature of something else", 7, world.run(&finish));
    ssh("root", "new/restore.json", "new/restore.json.sig");
    golden.add("a restore without its authority", 4, world.run(&finish));
    ssh("root", "new/authority-2.json", "new/authority-2.json.sig");
    let plan = fs::read_to_string(world.path("new/plan.json")).unwrap();
    let other = ["restore", "finish", &world.text("new"), "--from", &world.text("newest")];
    golden.add("a restore of another backup than was signed", 1, world.run(&other));
    let changed = plan.replace("\"format\":1", "\"format\":2");
    fs::write(world.path("new/plan.json"), changed).unwrap();
    golden.add("a restore that a newer version prepared", 1, world.run(&finish));
    fs::write(world.path("new/plan.json"), &plan).unwrap();
    world.run(&finish).exits(0);
    let mut node = world.serve_restored("new");
    node.kill();
    golden.add("a restore that has begun", 1, world.run(&finish));
    golden.compare();
}

#[test]
fn s9_a_backup_is_incremental_and_goes_on_where_it_was_interrupted() {
    let world = World::start();
    let http = world.deployment.http();
    let stops = |from: u32, to: u32| {
        world.runtime.block_on(async {
            for n in from..to {
                world
                    .deployment
                    .submit(&http, &world.deployment.stop(&format!("many/agent_{n}")))
                    .await
                    .unwrap();
            }
        });
    };
    stops(0, 300);
    let first = world.backup("backup");
    assert_eq!(first["new"], first["size"]);
    let nothing = world.backup("backup");
    assert!(
        nothing["new"].as_u64().unwrap()
            <= nothing["size"].as_u64().unwrap() - first["size"].as_u64().unwrap()
    );
    stops(300, 310);
    // As a crash leaves it: tiles that no checkpoint covers yet.
    let checkpoint = fs::read(world.path("backup/checkpoint")).unwrap();
    world.backup("backup");
    fs::write(world.path("backup/checkpoint"), checkpoint).unwrap();
    let again = world.backup("backup");
    let verified = world.run(&["backup", "--verify", &world.text("backup"), "--json"]).exits(0).json();
    assert_eq!(verified["root"], again["root"]);
    // It is a log like any other: the command for folders takes it too, and so does anybody's tool.
    let dir = world.run(&["log", "verify", "--dir", &world.text("backup"), "--json"]);
    assert_eq!(dir.exits(0).json()["root"], again["root"]);
    let full = world.path("backup/tile/entries/000");
    assert!(full.is_file(), "the partial bundle became a full one");
}

#[test]
fn s5_an_authority_that_the_backup_lost_is_put_back_before_the_new_nodes_are_listed() {
    for more_was_lost in [false, true] {
        let mut world = World::start();
        world.by_both(&["grant", "support", "--for", "1h", "--reason", "consent"]).exits(0);
        let client = world.runtime.block_on(async { world.deployment.sdk(&world.deployment.url("")) });
        let guard = client.guard("support/agent").unwrap();
        world.runtime.block_on(guard.ready(DEADLINE)).unwrap();
        let size = world.backup("backup")["size"].as_u64().unwrap();

        let draft = world.text("authority-2.json");
        world.run(&["authority", "propose", "--ttl", "3s", "--reason", "slower", "--out", &draft]).exits(0);
        let root = world.deployment.key("root").display().to_string();
        world.run(&["authority", "sign", &draft, "--key", &root]).exits(0);
        world.run(&["authority", "submit", &draft]).exits(0);
        wait_until("the guard to have a lease under version 2", || guard.check().is_ok());
        if more_was_lost {
            world.stop("support/other");
            world.run(&["log", "verify"]).exits(0);
        }
        world.lose_everything();

        let prepared = world.prepare("new", "backup").exits(0);
        assert!(prepared.stdout.contains("put back: 1 document of whom to believe"), "{prepared:?}");
        assert!(prepared.stdout.contains("authority-3.json"), "{prepared:?}");
        world.sign("new", "root").exits(0);
        let finished = world.run(&["restore", "finish", &world.text("new"), "--json"]).exits(0).json();
        // It comes before the restore, which then knows it, unless its own place was the last that is known.
        assert_eq!(finished["lost_from"], size + u64::from(more_was_lost), "{finished}");
        let halt: Digest = finished["lock"].as_str().unwrap().parse().unwrap();
        let _node = world.serve_restored("new");
        wait_until("the guard to follow", || stopped(&guard).is_some_and(|lock| lock.id == halt));
        let status: Status = world.get("/v1/status");
        assert_eq!((status.authority_version, status.epoch.number, status.limits.ttl_ms), (3, 2, 3000));
        world.run(&["log", "verify"]).exits(0);
        world.run(&["authority", "history"]).exits(0);
    }
}

/// Kills the first node while its log grows, again and again: what was planted stays, and the rest follows.
#[test]
fn s1_a_node_that_is_killed_while_it_begins_from_a_backup_goes_on() {
    let mut world = World::start();
    let many = if std::env::var_os("TAGOUT_LONG").is_some() { 20_000 } else { 1_500 };
    world.runtime.block_on(async {
        let http = world.deployment.http();
        for first in (0..many).step_by(50) {
            let stops: Vec<_> =
                (first..first + 50).map(|n| world.deployment.stop(&format!("many/agent_{n}"))).collect();
            let sent = stops.iter().map(|stop| world.deployment.submit(&http, stop));
            for answer in futures_util::future::join_all(sent).await {
                answer.unwrap();
            }
        }
    });
    let backup = world.backup("backup");
    world.lose_everything();
    world.prepare("new", "backup").exits(0);
    world.sign("new", "root").exits(0);
    world.run(&["restore", "finish", &world.text("new")]).exits(0);
    let begin = world.path("new/node-2/data/begin");
    let mut kills = 0;
    for round in 0..20 {
        let mut node = world.serve(&format!("killed-{round}"), &world.path("new/node-2/tagout.toml"));
        let planted = |node: &Process| node.stderr().matches(" planted ").count();
        wait_until("some of it to be planted", || {
            planted(&node) > 0 || !begin.exists() || node.ended().is_some()
        });
        assert!(node.ended().is_none(), "{}", node.stderr());
        node.kill();
        if !begin.exists() {
            break;
        }
        kills += 1;
    }
    assert!(kills > 0, "it was killed in the middle");
    let started = Instant::now();
    let _node = world.serve_restored("new");
    println!("{many} stops, {kills} kills; the last start took {:?}", started.elapsed());
    assert!(!begin.exists());
    let status: Status = world.get("/v1/status");
    assert_eq!((status.epoch.number, status.authority_version), (2, 2));
    let verified = world.run(&["log", "verify", "--json"]).exits(0).json();
    assert!(verified["size"].as_u64().unwrap() >= backup["size"].as_u64().unwrap() + 2);
}

/// Every one of them, though only the first is given the backup.
#[test]
fn s1_s8_three_new_nodes_have_the_log_of_the_one_that_was_lost() {
    let mut world = World::start();
    let lost = world.stop("support/agent");
    world.backup("backup");
    world.lose_everything();
    let addresses = [free_pair(), free_pair(), free_pair()];
    let specs: Vec<_> = addresses.iter().zip(2..).map(|(address, n)| format!("node-{n}={address}")).collect();
    let (backup, dir) = (world.text("backup"), world.text("new"));
    let ca = world.deployment.dir().join("ca").display().to_string();
    let mut prepare =
        vec!["restore", "prepare", "--from", &backup, "--dir", &dir, "--ca", &ca, "--reason", "fire"];
    specs.iter().for_each(|spec| prepare.extend(["--new-node", spec]));
    world.run(&prepare).exits(0);
    world.sign("new", "root").exits(0);
    let finished = world.run(&["restore", "finish", &dir, "--json"]).exits(0).json();
    world.read_with_the_token_of("new");
    let mut nodes: Vec<_> = (2..5)
        .map(|n| world.serve(&format!("new-{n}"), &world.path(&format!("new/node-{n}/tagout.toml"))))
        .collect();
    let http = world.deployment.http();
    for address in addresses {
        wait_for("every new node to be ready", || {
            for node in &mut nodes {
                assert!(node.ended().is_none(), "a new node ended: {}", node.stderr());
            }
            let ready = world.runtime.block_on(http.get(format!("https://{address}/readyz")).send());
            ready.ok().filter(|r| r.status().is_success())
        });
    }
    for address in addresses {
        let node = format!("https://{address}");
        let locks = world.run(&["--node", &node, "status", "--json"]).exits(0).json();
        let locks: Vec<_> =
            locks["lock_records"].as_array().unwrap().iter().map(|lock| lock["id"].clone()).collect();
        assert!(locks.contains(&lost.to_string().into()) && locks.contains(&finished["lock"]), "{locks:?}");
        world.run(&["--node", &node, "log", "verify"]).exits(0);
    }
}

/// A port of which the next one is free too.
fn free_pair() -> SocketAddr {
    loop {
        let address = free_address();
        let next = SocketAddr::new(address.ip(), address.port().saturating_add(1));
        if std::net::TcpListener::bind(next).is_ok() {
            return address;
        }
    }
}

struct Golden {
    text: String,
    folder: String,
}

impl Golden {
    fn add(&mut self, name: &str, code: i32, ran: Ran) {
        let ran = ran.exits(code);
        let said = format!("{}{}", ran.stdout, ran.stderr);
        let said = said.replace(&self.folder, "HERE");
        write!(self.text, "\n{name}\n  exit {code}\n").unwrap();
        for line in said.lines() {
            writeln!(self.text, "    {}", normal(line)).unwrap();
        }
    }

    fn compare(&self) {
        if std::env::var_os("TAGOUT_BLESS").is_some() {
            fs::write(GOLDEN, &self.text).unwrap();
        }
        let expected = fs::read_to_string(GOLDEN).unwrap_or_default();
        assert!(
            expected == self.text,
            "what is said has changed; look at it, and write it anew with TAGOUT_BLESS=1:\n{}",
            self.text
        );
    }
}

/// Without what differs from run to run: digests, addresses, and numbers of entries, since outcomes come when they come.
fn normal(line: &str) -> String {
    let mut words: Vec<String> = Vec::new();
    for word in line.split(' ') {
        let bare = word.trim_matches(|c: char| !c.is_ascii_alphanumeric());
        let is = |what: fn(&u8) -> bool| !bare.is_empty() && bare.bytes().all(|b| what(&b));
        let told = words
            .last()
            .is_some_and(|before| ["epoch", "version", "format", "(node"].contains(&before.as_str()));
        let word = if word.contains("SHA256:") {
            "<fingerprint>".into()
        } else if let Some((before, address)) = word.split_once("127.0.0.1:") {
            format!("{before}<node>{}", address.trim_start_matches(|c: char| c.is_ascii_digit()))
        } else if let Some((before, _)) = word.split_once("test:") {
            format!("{before}<deployment>")
        } else if bare.len() >= 12 && is(u8::is_ascii_hexdigit) {
            word.replace(bare, "<digest>")
        } else if is(u8::is_ascii_digit) && !told {
            word.replace(bare, "<n>")
        } else {
            word.into()
        };
        words.push(word);
    }
    words.join(" ")
}

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(copied.success());
}
