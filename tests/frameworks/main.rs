//! The SDK's examples with other people's frameworks, against `tagout dev`: its node, and its model server as the judge.

use std::net::TcpListener;
use std::process::Command;

use serde_json::Value;

#[path = "../bin.rs"]
#[allow(dead_code)]
mod bin;
#[path = "../process.rs"]
#[allow(dead_code)]
mod process;
#[path = "../wait.rs"]
#[allow(dead_code)]
mod wait;

use process::Process;
use wait::wait_until;

const FRAMEWORKS: [(&str, &str); 3] = [
    ("async-openai", env!("CARGO_BIN_EXE_with-async-openai")),
    ("genai", env!("CARGO_BIN_EXE_with-genai")),
    ("rig", env!("CARGO_BIN_EXE_with-rig")),
];
/// An agent that nobody stops: it shows that time goes by.
const BYSTANDER: &str = "demo/agent_1";

#[test]
fn s3_frameworks_are_cut_in_the_middle_of_a_word_and_do_not_try_again() {
    let folder = tempfile::tempdir().unwrap();
    let listen = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let tagout = |arguments: &[&str]| {
        let mut command = Command::new(bin::tagout());
        command.args(arguments).current_dir(folder.path()).env("NO_COLOR", "1");
        command.env("XDG_STATE_HOME", folder.path().join("state"));
        command.env_remove("TAGOUT_PROFILE").env_remove("SSH_AUTH_SOCK");
        command
    };
    let run = |arguments: &[&str]| {
        let output = tagout(arguments).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    };
    let mut dev = tagout(&["dev", "--word-ms", "40", "--listen", &listen.to_string()]);
    let mut dev = Process::spawn("dev", folder.path(), &mut dev);
    let model = dev.wait_for_line("  model server  ");
    let (base_url, counters) = model.split_once("  (it counts requests: curl -s ").unwrap();
    let counters = counters.trim_end_matches(')');
    let counter = |agent: &str, name: &str| {
        let output = Command::new("curl").arg("-s").arg(counters).output().unwrap();
        let counters: Value = serde_json::from_slice(&output.stdout).unwrap();
        counters["agents"][agent][name].as_u64().unwrap_or(0)
    };
    let profile = std::fs::read_to_string(folder.path().join(".tagout/profile.toml")).unwrap();
    let deployment = profile.lines().find_map(|line| line.strip_prefix("deployment = ")).unwrap();

    for (name, program) in FRAMEWORKS {
        let agent = format!("demo/{name}");
        let token = format!("{name}.token");
        run(&["agent", "enroll", &agent, "--reason", "an example", "--out", &token]);
        let mut command = Command::new(program);
        command.env("TAGOUT_TOKEN_FILE", token);
        command.current_dir(folder.path()).env("TAGOUT_NODE", format!("https://{listen}"));
        command.env("TAGOUT_DEPLOYMENT", deployment.trim_matches('"')).env("OPENAI_BASE_URL", base_url);
        let example = Process::spawn(name, folder.path(), &mut command);
        wait_until("the example to print a word", || example.stdout().contains(' '));
        // Just after a call began, so that the stop meets it in the middle.
        let requests = counter(&agent, "requests");
        wait_until("the example to begin a call", || counter(&agent, "requests") > requests);

        run(&["stop", &agent, "--reason", "policy violation 4.1"]);
        wait_until("the model server to see the cut", || counter(&agent, "streams_cut") == 1);
        let requests = counter(&agent, "requests");
        // Cut, and refused when it goes on.
        wait_until("the example to be refused", || {
            example.stdout().matches("policy violation 4.1").count() == 2
        });
        // Whoever tries again would do it by now: the bystander has begun two calls.
        let others = counter(BYSTANDER, "requests");
        wait_until("another agent to go on", || counter(BYSTANDER, "requests") > others + 1);
        assert_eq!(counter(&agent, "requests"), requests, "{name} asked again");
        assert_eq!(counter(&agent, "streams_open"), 0);

        let both = ["--key", ".tagout/keys/alice", "--key", ".tagout/keys/bob"];
        run(&[&["resume", &agent, "--reason", "reviewed"], &both[..]].concat());
        wait_until("the example to go on by itself", || counter(&agent, "requests") > requests);
    }
}
