//! The whole line of a stop, as somebody meets it who has just installed Tagout: with the real programs, and with the
//! stock tools that everybody has.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use tagout::{Guard, Reason, Stopped};
use tagout_proto::digest::Digest;
use tagout_tests::bin;
use tagout_tests::deployment::{Choice, Deployment, free_address, runtime};
use tagout_tests::process::Process;
use tagout_tests::ran::Ran;
use tagout_tests::wait::{DEADLINE, wait_for, wait_until};
use tempfile::TempDir;
use tokio::sync::oneshot;

const BOTH: [&str; 4] = ["--key", ".tagout/keys/alice", "--key", ".tagout/keys/bob"];

#[test]
fn s1_s2_a_new_user_cuts_one_of_three_agents_and_two_people_bring_it_back() {
    let mut dev = Dev::start();
    for agent in AGENTS {
        wait_until("every agent to print what it thinks", || !dev.printed(agent).is_empty());
    }

    // A dry run, of one agent and of nobody, signs nothing.
    let size = dev.log_size();
    let dry = dev.tagout(&["stop", "demo", "--reason", "drill", "--dry-run"]).exits(0);
    assert!(
        dry.stdout.contains("a halt of demo would reach 3 agents, 3 instances; nothing was signed"),
        "{dry:?}"
    );
    dev.tagout(&["stop", "demo/nobody", "--reason", "drill", "--dry-run"]).exits(5);
    let dry = dev.json(&["stop", AGENT_2, "--reason", "drill", "--dry-run"]);
    assert_eq!((&dry["dry_run"], dry["agents"]["agents"].as_array().unwrap().len()), (&true.into(), 1));
    assert_eq!(dev.log_size(), size, "a dry run is in the log");

    // Just after a call began, so that the stop meets it in the middle.
    let requests = dev.requests(AGENT_2);
    wait_until("agent 2 to begin a call", || dev.requests(AGENT_2) > requests);
    let stop = dev.tagout(&["stop", AGENT_2, "--reason", "policy violation 4.1", "--wait"]).exits(0);
    let line = |start: &str| stop.line(start);
    let index: u64 = line("STOPPED demo/agent_2 (halt) at entry ").parse().expect("the entry's index");
    let lock: Digest = line("lock ").parse().expect("a lock id");
    assert_eq!(line("reaches "), "1 agent, 1 instance");
    let place = line("in the log: ");
    assert!(place.starts_with(&format!("index {index} of ")) && place.ends_with(", verified"), "{place}");
    let instance = line("  demo/agent_2 demo.agent_2-");
    let (_, confirmed) = instance.split_once(" confirmed after ").expect("the instance confirmed");
    let (ms, how) = confirmed.split_once(" ms by ").expect("after how long");
    assert!(ms.parse::<u64>().is_ok() && how.ends_with(", 1 call cut"), "{instance}");
    let settled = line("settled: 1 of 1 instance confirmed, the slowest after ");
    let (_, layer) = settled.split_once(" ms, most of it ").expect("the slowest layer");
    assert!(layer.contains(", 1 call cut; outcome at entry "), "{settled}");

    // Agent 2 was cut in the middle and asks no more; the others go on.
    let end = wait_for("agent 2 to say that it was cut", || {
        let printed = dev.printed(AGENT_2);
        let at = printed.iter().position(|line| line.ends_with("✂ cut here"))?;
        printed.get(at + 1).is_some().then(|| printed[at..].to_vec())
    });
    assert_eq!(end.len(), 2, "{end:?}");
    assert!(end[1].starts_with("— ") && end[1].contains("policy violation 4.1"), "{end:?}");
    wait_until("the model server to see the cut", || dev.counter(AGENT_2, "streams_cut") == 1);
    dev.asks_no_more(AGENT_2);
    assert_eq!(
        dev.printed(AGENT_2).len(),
        dev.printed(AGENT_2).iter().position(|l| *l == end[1]).unwrap() + 1
    );
    let status = dev.tagout(&["status"]).exits(0);
    assert!(status.row("demo/agent_2").starts_with("STOPPED"), "{status:?}");
    assert!(status.row("demo/agent_1").starts_with("ENABLED"), "{status:?}");

    // One person does not bring it back: it is proposed, and says who is missing.
    let resume = ["resume", AGENT_2, "--reason", "reviewed, INC-4711"];
    let proposed = dev.tagout(&[&resume[..], &BOTH[..2], &["--json"]].concat()).exits(8).json();
    assert_eq!(proposed["commands"], serde_json::json!([]));
    let missing =
        "release demo/agent_2 takes 2 people of role \"restart\" and 1 signed; missing: 1 more of bob";
    assert_eq!(
        (&proposed["proposals"][0]["action"], &proposed["proposals"][0]["missing"]),
        (&"release".into(), &missing.into())
    );
    let refused = dev.tagout(&[&resume[..], &["--json"]].concat()).exits(4);
    assert_eq!(refused.json()["code"], "proposed-already");
    let automation = ["--key", ".tagout/keys/soar"];
    let refused = dev.tagout(&[&resume[..], &automation].concat()).exits(3);
    assert_eq!(
        refused.stderr,
        "error: soar may not release demo/agent_2: that takes 2 of alice, bob (role \"restart\"); nothing was sent\n"
    );
    let early = ["start", "--scope", AGENT_2, "--reason", "now"];
    assert!(dev.tagout(&[&early[..], &BOTH].concat()).exits(1).stderr.contains("no released locks"));

    // S2: nor does the release alone, by both.
    let id = lock.to_string();
    let release = dev.tagout(&[&["release", &id, "--reason", "reviewed"], &BOTH[..]].concat()).exits(0);
    assert!(release.stdout.contains("nothing runs again yet"), "{release:?}");
    dev.asks_no_more(AGENT_2);
    wait_until("agent 2 to say what it still takes", || {
        let takes = "takes a signed start that names it; it is released already";
        dev.printed(AGENT_2).last().is_some_and(|line| line.contains(takes))
    });
    let status = dev.tagout(&["status", AGENT_2]).exits(0);
    let row = status.row("demo/agent_2");
    assert!(row.starts_with("STOPPED") && row.contains("(released, not started)"), "{status:?}");
    let one = dev.tagout(&[&["start", &id[..12], "--reason", "reviewed"], &BOTH[2..]].concat()).exits(4);
    assert!(one.stderr.contains("the same is proposed already, signed by alice"), "{one:?}");
    dev.tagout(&[&["start", &id[..12], "--reason", "reviewed"], &BOTH[..]].concat()).exits(0);
    dev.runs_again(AGENT_2);

    // A stop that nobody answers to says so, and holds all the same.
    let nobody = dev.tagout(&["stop", "demo/agent_22", "--reason", "mistyped"]).exits(5);
    assert!(
        nobody.stdout.contains("No known agent matches demo/agent_22. The lock is in place all the same")
    );
    let locks = dev.json(&["status", "demo/agent_22"]);
    assert_eq!(locks["lock_records"][0]["scope"], "demo/agent_22");

    // Everything outlives a restart: this stop, and the log.
    let stopped = dev.json(&["stop", "demo/agent_1", "--reason", "restart", "--case", "INC-1", "--no-wait"]);
    assert_eq!((&stopped["action"], &stopped["log"]["index"]), (&"stop".into(), &stopped["index"]));
    let index = stopped["index"].to_string();
    dev.tagout(&["log", "prove", &index, "-o", "proof"]).exits(0);
    let raw = dev.tagout(&["log", "show", &index, "--raw"]).exits(0).raw;
    std::fs::write(dev.folder().join("entry"), &raw).unwrap();
    std::fs::write(dev.folder().join("forged"), [&raw[..], b" "].concat()).unwrap();
    let size = dev.log_size();
    dev.interrupt();
    // With nobody to ask: whoever has the two files verifies them offline.
    let proven = dev.tagout(&["log", "verify", "--proof", "proof", "--entry", "entry"]).exits(0);
    assert!(
        proven.stdout.starts_with(&format!("verified: it is entry {index} of the log of ")),
        "{proven:?}"
    );
    dev.tagout(&["log", "verify", "--proof", "proof", "--entry", "forged"]).exits(7);
    dev.tagout(&["status"]).exits(6);

    dev.run();
    for agent in [AGENT_2, "demo/agent_3"] {
        wait_until("the other agents to work again", || dev.requests(agent) > 0);
    }
    let said = wait_for("agent 1 to say that it is stopped", || {
        dev.printed("demo/agent_1").into_iter().find(|line| line.contains("INC-1"))
    });
    assert!(said.starts_with("— ") && said.contains("restart"), "{said}");
    assert!(dev.tagout(&["status"]).exits(0).row("demo/agent_1").starts_with("STOPPED"));
    assert!(dev.log_size() >= size);
    let verified = dev.tagout(&["log", "verify"]).exits(0);
    assert!(verified.stdout.contains("continues the log of "), "{verified:?}");
    assert_eq!(dev.requests("demo/agent_1"), 0, "it began no call after the restart");
    let resume = ["resume", "demo/agent_1", "--reason", "reviewed", "--json"];
    let resumed = dev.tagout(&[&resume[..], &BOTH].concat()).exits(0).json();
    let actions: Vec<_> = resumed["commands"].as_array().unwrap().iter().map(|c| &c["action"]).collect();
    assert_eq!(actions, ["release", "start"]);
    dev.runs_again("demo/agent_1");
    for command in [&["log", "verify"][..], &["log", "show"], &["log", "show", &index], &["key", "show"]] {
        assert!(dev.json(command).is_object(), "{command:?}");
    }
    dev.interrupt();
}

const AGENTS: [&str; 3] = ["demo/agent_1", AGENT_2, "demo/agent_3"];
const AGENT_2: &str = "demo/agent_2";

/// `tagout dev` in a folder of its own, and a second terminal there.
struct Dev {
    folder: TempDir,
    beside: TempDir,
    listen: SocketAddr,
    process: Option<Process>,
    runs: u32,
    counters: String,
}

impl Dev {
    fn start() -> Self {
        let (folder, beside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (listen, counters) = (free_address(), String::new());
        let mut dev = Self { folder, beside, listen, process: None, runs: 0, counters };
        dev.run();
        dev
    }

    fn run(&mut self) {
        self.runs += 1;
        let mut command = self.command(["dev", "--word-ms", "40", "--listen", &self.listen.to_string()]);
        let mut process = Process::spawn(&format!("dev-{}", self.runs), self.beside.path(), &mut command);
        let model = process.wait_for_line("  model server  ");
        let (_, counters) = model.split_once("curl -s ").expect("how to see the counters");
        self.counters = counters.trim_end_matches(')').into();
        self.process = Some(process);
    }

    /// What Ctrl-C sends; it ends in good order.
    fn interrupt(&mut self) {
        let mut process = self.process.take().expect("it runs");
        let pid = rustix::process::Pid::from_raw(process.id() as i32).expect("a process id");
        rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("it is ours");
        process.succeed();
    }

    fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn command<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(bin::tagout());
        command.args(arguments).current_dir(self.folder()).env("NO_COLOR", "1");
        command.env("XDG_STATE_HOME", self.beside.path().join("state"));
        command.env_remove("TAGOUT_PROFILE").env_remove("SSH_AUTH_SOCK");
        command
    }

    fn tagout(&self, arguments: &[&str]) -> Ran {
        Ran::of(&mut self.command(arguments))
    }

    /// Its one document of JSON.
    fn json(&self, arguments: &[&str]) -> Value {
        self.tagout(&[arguments, &["--json"]].concat()).exits(0).json()
    }

    fn log_size(&self) -> u64 {
        self.json(&["status"])["log_size"].as_u64().expect("a size")
    }

    /// What an agent has printed since the last start, line by line.
    fn printed(&self, agent: &str) -> Vec<String> {
        let stdout = self.process.as_ref().expect("it runs").stdout();
        let whole = stdout.rfind('\n').map_or("", |end| &stdout[..end]);
        let of_agent = |line: &str| line.strip_prefix(agent)?.strip_prefix(" | ").map(str::to_owned);
        whole.lines().filter_map(of_agent).collect()
    }

    fn counter(&self, agent: &str, name: &str) -> u64 {
        let counters = Ran::of(Command::new("curl").arg("-s").arg(&self.counters)).exits(0).json();
        counters["agents"][agent][name].as_u64().unwrap_or(0)
    }

    fn requests(&self, agent: &str) -> u64 {
        self.counter(agent, "requests")
    }

    /// The model server hears nothing from `agent` while the others go on and print.
    fn asks_no_more(&self, agent: &str) {
        let others = AGENTS.map(|other| (other, self.requests(other), self.printed(other).len()));
        for (other, requests, printed) in others.into_iter().filter(|(other, ..)| *other != agent) {
            wait_until("the other agents to go on", || {
                self.requests(other) > requests && self.printed(other).len() > printed
            });
        }
        let (_, before, _) = others.into_iter().find(|(other, ..)| *other == agent).expect("an agent");
        assert_eq!(self.requests(agent), before, "{agent} has begun a call");
    }

    fn runs_again(&self, agent: &str) {
        let before = self.requests(agent);
        wait_until("the agent to say that it runs", || {
            self.printed(agent).iter().any(|l| l == "— enabled again")
        });
        wait_until("the agent to call again", || self.requests(agent) > before);
    }
}

#[test]
fn s6_stock_tools_stop_an_agent_and_follow_the_log() {
    let deployment = Deployment::start(Choice::default());
    let runtime = runtime();
    let client = runtime.block_on(async {
        deployment.grant(&deployment.http(), "stock").await;
        deployment.sdk(&deployment.url(""))
    });
    let guard = |agent: &str| {
        let guard = client.guard(agent).expect("a guard");
        let ready = runtime.block_on(guard.ready(DEADLINE));
        assert!(ready.is_ok() && guard.check().is_ok(), "{ready:?}");
        guard
    };
    let folder = deployment.folder().join("stock");
    std::fs::create_dir(&folder).unwrap();
    // The lines are run as they are printed; curl reads here what else it shall say.
    std::fs::write(folder.join(".curlrc"), "silent\nshow-error\nwrite-out = \"\\n%{http_code}\\n\"\n")
        .unwrap();
    let bash = |script: &str| {
        let mut bash = Command::new("bash");
        bash.args(["-euo", "pipefail", "-c", script]).current_dir(&folder).env("CURL_HOME", &folder);
        Ran::of(&mut bash)
    };
    let tagout = |arguments: &[&str]| Ran::of(deployment.command(arguments).current_dir(&folder));

    // ①, the two lines that `--print-curl` prints.
    let printed = guard("stock/printed");
    let lines = tagout(&["stop", "stock/printed", "--reason", "by hand", "--print-curl"]).exits(0).stdout;
    assert_eq!(lines.lines().count(), 2, "{lines}");
    let answer = bash(&lines).exits(0).created();
    assert_eq!(answer["digest"].as_str(), Some(stopped_by(&printed).as_str()));
    // The same bytes once more: the first answer, and not a second lock.
    let (body, status) = bash(lines.lines().nth(1).unwrap()).exits(0).answer();
    assert_eq!((status.as_str(), &body["repeated"], &body["index"]), ("200", &true.into(), &answer["index"]));

    // ①, written by hand for the other address: no action, no mode, `agent_id` for the scope, and a final newline.
    let shut_down = guard("stock/shut/down");
    let document = format!(
        "{{\"tagout\": 1, \"deployment\": \"{}\", \"id\": \"by-hand-1\", \"issued_at\": \"2026-11-22T15:00:00Z\",\n \
         \"agent_id\": \"stock/shut/down\", \"reason\": \"policy violation 4.1\"}}\n",
        deployment.name
    );
    std::fs::write(folder.join("shutdown.json"), &document).unwrap();
    let (key, ca) = (deployment.key("alice"), deployment.dir().join("ca.pem"));
    let script = format!(
        "ssh-keygen -Y sign -n tagout-command -f {} shutdown.json\n\
         curl --fail-with-body --cacert {} -F command=@shutdown.json -F signature=@shutdown.json.sig {}",
        key.display(),
        ca.display(),
        deployment.url("/agent/shutdown")
    );
    let answer = bash(&script).exits(0).created();
    assert_eq!((&answer["action"], &answer["scope"]), (&"stop".into(), &"stock/shut/down".into()));
    assert_eq!(answer["digest"].as_str(), Some(stopped_by(&shut_down).as_str()));
    let shutdown_index = answer["index"].as_u64().unwrap();

    // ①, by a key that only an ssh-agent holds.
    let by_agent = guard("stock/agent");
    let socket = folder.join("agent.sock");
    let mut ssh_agent = Command::new("ssh-agent");
    let ssh_agent = Process::spawn("ssh-agent", &folder, ssh_agent.arg("-D").arg("-a").arg(&socket));
    wait_until("the ssh-agent to listen", || socket.exists());
    let bob = deployment.key("bob");
    Ran::of(Command::new("ssh-add").arg("-q").arg(&bob).env("SSH_AUTH_SOCK", &socket)).exits(0);
    std::fs::remove_file(&bob).unwrap();
    let shown = Ran::of(Command::new("ssh-keygen").arg("-lf").arg(bob.with_extension("pub"))).exits(0);
    let fingerprint = shown.stdout.split(' ').nth(1).expect("a fingerprint").to_owned();
    let key = format!("agent:{fingerprint}");
    let stop = ["stop", "stock/agent", "--reason", "r", "--key", &key];
    let stop = Ran::of(deployment.command(&stop).env("SSH_AUTH_SOCK", &socket)).exits(0);
    assert!(stop.stdout.contains(&format!("as bob ({fingerprint})")), "{stop:?}");
    assert_eq!(stop.line("lock "), stopped_by(&by_agent));
    drop(ssh_agent);

    // What lies in the log is what was signed, and ssh-keygen vouches for it.
    let entry = tagout(&["log", "show", &shutdown_index.to_string(), "--raw"]).exits(0).raw;
    let (stored, signature) = document_and_signature(&entry);
    assert_eq!(stored, document.as_bytes());
    std::fs::write(folder.join("stored.json"), stored).unwrap();
    std::fs::write(folder.join("stored.json.sig"), signature).unwrap();
    let public = std::fs::read_to_string(deployment.key("alice").with_extension("pub")).unwrap();
    let allowed = format!("alice namespaces=\"tagout-command\" {public}");
    std::fs::write(folder.join("allowed_signers"), allowed).unwrap();
    let verify = "ssh-keygen -Y verify -f allowed_signers -I alice -n tagout-command -s stored.json.sig";
    let verified = bash(&format!("{verify} < stored.json")).exits(0);
    assert!(verified.stdout.contains("Good \"tagout-command\" signature for alice"), "{verified:?}");
    bash(&format!("head -c -1 stored.json | {verify}")).exits(255);

    // The same by the files and the line that `log show --out` gives; and for programs the text verbatim.
    let show = ["log", "show", &shutdown_index.to_string(), "--out", "export"];
    let export = tagout(&show).exits(0);
    let line = export.stdout.lines().nth(1).expect("the command that verifies");
    assert!(bash(line).exits(0).stdout.contains("Good \"tagout-command\" signature for alice"), "{line}");
    let exported = std::fs::read(folder.join(format!("export/{shutdown_index}.json"))).unwrap();
    assert_eq!(exported, document.as_bytes());
    assert!(tagout(&show).exits(1).stderr.contains("exists already"), "nothing is overwritten");
    tagout(&["log", "show", "0", "--out", "export"]).exits(0).stdout.lines().skip(1).for_each(|line| {
        bash(line).exits(0);
    });
    let shown = tagout(&["log", "show", &shutdown_index.to_string(), "--json"]).exits(0).json();
    assert_eq!(shown["document"], document.as_str());

    // The chain, followed by sha256sum: each entry holds the digest of the one before.
    let size = deployment_size(&deployment);
    for index in 0..size {
        let entry = tagout(&["log", "show", &index.to_string(), "--raw"]).exits(0).raw;
        std::fs::write(folder.join(format!("entry-{index:03}")), entry).unwrap();
    }
    let sums = bash("sha256sum entry-*").exits(0).stdout;
    let sums: Vec<_> = sums.lines().filter_map(|line| line.split(' ').next()).collect();
    let mut prev = "0".repeat(64);
    assert_eq!(sums.len() as u64, size);
    for (index, sum) in sums.into_iter().enumerate() {
        let entry = std::fs::read(folder.join(format!("entry-{index:03}"))).unwrap();
        assert_eq!(hex(&entry[PREV..PREV + 32]), prev, "entry {index} does not follow the one before it");
        prev = sum.into();
    }
    tagout(&["log", "verify"]).exits(0);
}

#[test]
fn a_pause_and_a_drain_let_a_call_under_way_go_on() {
    let deployment = Deployment::start(Choice::default());
    let runtime = runtime();
    let client = runtime.block_on(async {
        deployment.grant(&deployment.http(), "gentle").await;
        deployment.sdk(&deployment.url(""))
    });
    for (agent, mode) in [
        ("gentle/paused", &["--mode", "pause"][..]),
        ("gentle/draining", &["--mode", "drain", "--drain", "1h"]),
        ("gentle/drained", &["--drain", "300ms"]),
    ] {
        let guard = client.guard(agent).unwrap();
        runtime.block_on(guard.ready(DEADLINE)).unwrap();
        let (end, ended) = oneshot::channel();
        let call = runtime.spawn({
            let guard = guard.clone();
            async move { guard.run(ended).await }
        });
        wait_until("the call to be under way", || guard.state().calls_under_way == 1);
        let stop = [&["stop", agent, "--reason", "gently", "--json", "--no-wait"], mode].concat();
        let stop = Ran::of(&mut deployment.command(&stop)).exits(0).json();
        assert_eq!(stop["digest"].as_str(), Some(stopped_by(&guard).as_str()));
        let refused = runtime.block_on(guard.run(async {})).unwrap_err();
        assert!(matches!(refused, Stopped::Denied(_)), "{agent}: a new call began");
        if agent == "gentle/drained" {
            // Nobody ends this call: the deadline does.
            let cut = runtime.block_on(call).unwrap().unwrap_err();
            assert!(
                matches!(&cut, Stopped::Cut(denied) if matches!(denied.reason, Reason::Stopped(_))),
                "{cut}"
            );
            assert!(end.is_closed(), "a call that is cut is dropped");
        } else {
            assert_eq!(guard.state().calls_under_way, 1, "{agent}: the call was cut");
            end.send("to its end").expect("the call is under way");
            assert_eq!(runtime.block_on(call).unwrap(), Ok(Ok("to its end")));
        }
        assert!(guard.check().is_err());
    }
}

/// Waits until the guard is stopped, and gives the lock's id.
fn stopped_by(guard: &Guard) -> String {
    wait_for("the guard to be stopped", || match guard.check().err()?.reason {
        Reason::Stopped(lock) => Some(lock.id.to_string()),
        _ => None,
    })
}

fn deployment_size(deployment: &Deployment) -> u64 {
    let status = Ran::of(&mut deployment.command(&["status", "--json"])).exits(0).json();
    status["log_size"].as_u64().expect("a size")
}

/// Where an entry's `prev` begins: after format, kind, index and time (proto/src/log/entry.rs).
const PREV: usize = 1 + 1 + 8 + 8;

/// Read by the layout alone, as an outsider would.
fn document_and_signature(entry: &[u8]) -> (&[u8], &[u8]) {
    let (size, rest) = entry[PREV + 32..].split_first_chunk::<4>().unwrap();
    let (document, rest) = rest.split_at(u32::from_be_bytes(*size) as usize);
    assert_eq!(rest[0], 1, "one signature");
    let (size, signature) = rest[1..].split_first_chunk::<2>().unwrap();
    assert_eq!(signature.len(), usize::from(u16::from_be_bytes(*size)));
    (document, signature)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
