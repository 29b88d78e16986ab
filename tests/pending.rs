//! S10 without a quorum: a stop is pushed by its signatures, kept on the disk, and committed once there is a quorum again.
//!
//! The quorum is a disk: strace lets the Raft log of the one voter wait in its fdatasync, for as long as it is attached.

use std::process::Command;

use tagout_proto::command::{Action, Suspend};
use tagout_proto::digest::Digest;
use tagout_proto::envelope::Envelope;
use tagout_proto::wire::Locks;
use tagout_tests::deployment::{Choice, Deployment, Listener, runtime};
use tagout_tests::process::Process;
use tagout_tests::ran::Ran;
use tagout_tests::skip;
use tagout_tests::wait::{wait_at_most, wait_until};

const FOREVER: &str = "inject=fdatasync:delay_enter=3000000000";
const ATTACHED: &str = "attached";

fn strace(deployment: &Deployment, name: &str) -> Process {
    let mut command = Command::new("strace");
    command.args(["-f", "-o", "/dev/null", "-e", "trace=fdatasync", "-e", FOREVER, "-p"]);
    command.arg(deployment.node_id().to_string());
    let mut process = Process::spawn(name, deployment.folder(), &mut command);
    // It says so of each thread.
    let said = wait_at_most(std::time::Duration::from_secs(20), || {
        (process.stderr().contains(ATTACHED) || process.ended().is_some()).then_some(())
    });
    assert!(said.is_some(), "{}", process.stderr());
    process
}

fn locked(deployment: &Deployment, digest: Digest) -> bool {
    let http = deployment.http();
    let locks: Locks = runtime().block_on(deployment.get(&http, "/v1/locks"));
    locks.locks.iter().any(|record| record.lock.id == digest)
}

fn kept(deployment: &Deployment) -> usize {
    let folder = std::fs::read_dir(deployment.data().join("pending")).expect("the folder");
    folder
        .filter(|entry| entry.as_ref().is_ok_and(|e| e.path().extension().is_some_and(|e| e == "json")))
        .count()
}

fn metric(deployment: &Deployment, name: &str) -> Option<String> {
    let http = deployment.http();
    let text = runtime()
        .block_on(async { http.get(deployment.url("/metrics")).send().await.unwrap().text().await.unwrap() });
    let mut lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.find_map(|line| line.strip_prefix(name)).map(|value| value.trim().to_owned())
}

#[test]
fn s10_a_stop_without_a_quorum_is_pushed_kept_and_committed_later() {
    const NAME: &str = "pending::s10_a_stop_without_a_quorum_is_pushed_kept_and_committed_later";
    let runtime = runtime();
    let mut deployment = Deployment::start(Choice::default());
    let mut tracer = strace(&deployment, "strace-1");
    if tracer.ended().is_some() {
        skip!(NAME, "strace may not attach here");
    }
    let submit = |deployment: &Deployment, stop: &Envelope| {
        runtime.block_on(async { deployment.submit(&deployment.http(), stop).await })
    };
    let mut early = runtime.block_on(Listener::start(&deployment, "pending"));
    let first = deployment.stop("pending/agent");
    let told = submit(&deployment, &first).expect_err("there is no quorum");
    assert_eq!((told.code.as_str(), told.status), ("pending", 503));
    assert_eq!(runtime.block_on(early.hear_stop(&first)), None, "pushed by its signatures");
    // Again: the same answer. And whoever connects only now hears of it as well.
    assert_eq!(submit(&deployment, &first).expect_err("there still is none"), told);
    let mut late = runtime.block_on(Listener::start(&deployment, "pending/agent/below"));
    assert_eq!(runtime.block_on(late.hear_stop(&first)), None);
    assert_eq!((kept(&deployment), metric(&deployment, "tagout_stops_pending").as_deref()), (1, Some("1")));
    assert!(!locked(&deployment, first.digest()), "it is in no log");
    // As a person meets it.
    let stop = ["stop", "pending/person", "--reason", "by hand", "--node", &deployment.url("")];
    let said = Ran::of(&mut deployment.command(&stop)).exits(6);
    let said = format!("{}{}", said.stdout, said.stderr);
    assert!(said.contains("PENDING") && said.contains("pending/person"), "{said}");

    // The quorum is back.
    tracer.kill();
    wait_until("the pending stops to be committed", || {
        locked(&deployment, first.digest()) && kept(&deployment) == 0
    });
    assert!(runtime.block_on(late.hear_stop(&first)).is_some(), "pushed with its entry");
    let answer = submit(&deployment, &first).expect("it is committed");
    assert!(answer.repeated, "once, however often it was proposed");
    // Its account is opened as any other, and its outcome is in the log.
    wait_until("the outcome", || {
        let reach = runtime.block_on(async {
            let path = format!("/v1/locks/{}/reach", first.digest());
            deployment.get::<tagout_proto::wire::StopReach>(&deployment.http(), &path).await
        });
        reach.outcome_index.is_some()
    });

    // Gone again, and then the node is killed. The first of these may be in the Raft log; the second is in its file only.
    let mut tracer = strace(&deployment, "strace-2");
    let both = ["pending/written", "pending/only/kept"].map(|scope| deployment.stop(scope));
    for stop in &both {
        assert_eq!(submit(&deployment, stop).expect_err("there is no quorum").code, "pending");
    }
    assert_eq!(kept(&deployment), 2);
    // The node first, or it would go on once nobody traces it; but it is gone only when the tracer has let go of it.
    let node = rustix::process::Pid::from_raw(deployment.node_id() as i32).expect("a process id");
    rustix::process::kill_process(node, rustix::process::Signal::KILL).expect("the node is ours");
    tracer.kill();
    deployment.kill_node();
    deployment.start_node();
    wait_until("what was kept to be committed", || {
        both.iter().all(|stop| locked(&deployment, stop.digest())) && kept(&deployment) == 0
    });
    assert!(Ran::of(&mut deployment.command(&["log", "verify"])).exits(0).stdout.contains("entries"));
}

/// It counted when it was kept, and counts no more: said loudly, and given up.
#[test]
fn s10_a_pending_stop_whose_signer_was_suspended_is_given_up_loudly() {
    let runtime = runtime();
    let mut deployment = Deployment::start(Choice::default());
    let http = deployment.http();
    let stop = deployment.envelope(
        &["soar"],
        &tagout_tests::deployment::stop("late/agent", tagout_proto::lock::LockKind::Halt),
    );
    let key = tagout_proto::sshsig::PublicKey::parse_openssh(
        std::fs::read_to_string(deployment.key("soar.pub")).expect("soar's public key").trim(),
    );
    let suspend = Suspend { keys: vec![key.expect("a key")], reason: "stolen".into(), case: None };
    runtime
        .block_on(deployment.submit(&http, &deployment.envelope(&["alice"], &Action::Suspend(suspend))))
        .expect("the suspend");
    deployment.kill_node();
    let file = deployment.data().join(format!("pending/{}.json", stop.digest()));
    let content = serde_json::json!({ "format": 1, "time_ms": 1, "stop": stop });
    std::fs::write(&file, content.to_string()).expect("the pending stop");
    deployment.start_node();
    wait_until("it to be given up", || !file.exists());
    assert_eq!(metric(&deployment, "tagout_pending_refused_total").as_deref(), Some("1"));
    assert!(!locked(&deployment, stop.digest()));
    let security = || std::fs::read_to_string(deployment.data().join("security.jsonl")).unwrap_or_default();
    wait_until("the security log", || security().contains(&stop.digest().to_string()));
    assert!(deployment.node().stderr().contains("A PENDING STOP IS REFUSED"));
}
