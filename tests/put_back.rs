//! A Raft store that is older than the node's own audit log has forgotten what was acknowledged: it is refused.

use std::path::Path;
use std::process::Command;

use tagout_tests::bin;
use tagout_tests::deployment::{Choice, Deployment, runtime};
use tagout_tests::process::Process;
use tagout_tests::three::Three;
use tagout_tests::wait::{wait_for, wait_until};

#[test]
fn s1_s8_a_store_that_was_put_back_is_refused_before_anything_is_served() {
    let mut deployment = Deployment::start(Choice::default());
    let runtime = runtime();
    let http = deployment.http();
    runtime.block_on(deployment.submit(&http, &deployment.stop("before/agent"))).unwrap();
    deployment.kill_node();
    let (raft, older) = (deployment.data().join("raft"), deployment.folder().join("older"));
    copy(&raft, &older);

    deployment.start_node();
    let http = deployment.http();
    let answer = runtime.block_on(deployment.submit(&http, &deployment.stop("after/agent"))).unwrap();
    let covered = deployment.url(&format!("/log/checkpoint?size={}", answer.index + 1));
    runtime.block_on(http.get(covered).send()).unwrap().error_for_status().unwrap();
    deployment.kill_node();
    std::fs::remove_dir_all(&raft).unwrap();
    copy(&older, &raft);

    let mut serve = Command::new(bin::tagout());
    serve.arg("serve").arg("--config").arg(deployment.config());
    let mut node = Process::spawn("put-back", deployment.folder(), &mut serve);
    assert!(!node.wait().success());
    let said = node.stderr();
    assert!(said.contains("it has forgotten what was acknowledged"), "{said}");
    assert!(!said.contains("serving"), "{said}");
}

/// After a crash a follower has entries of which it does not know that they are committed, until it hears from another node.
#[test]
fn s9_an_honest_node_that_comes_back_alone_is_behind_and_no_liar() {
    let mut three = Three::start();
    let stopped = three.deployment.run(&["stop", "demo/agent", "--reason", "r", "--json"]).exits(5).json();
    let size = stopped["index"].as_u64().expect("an entry") + 1;
    let (http, runtime) = (three.deployment.http(), runtime());
    for node in 0..3 {
        wait_until("every node to have it", || {
            let covered = http.get(three.url(node, &format!("/log/checkpoint?size={size}")));
            runtime.block_on(covered.send()).is_ok_and(|answer| answer.status().is_success())
        });
    }
    three.deployment.run(&["log", "verify"]).exits(0);
    let follower = (three.leader() + 1) % 3;
    three.kill();
    three.run_one(follower);

    let url = three.url(follower, "");
    let shown = wait_for("it to show what it has", || {
        let ran = three.deployment.run(&["--node", &url, "status"]);
        assert_ne!(ran.code, Some(7), "it is called a liar: {ran:?}");
        (ran.stdout.contains("log entries")).then_some(ran)
    });
    let said = ["it reaches no quorum", "no leases are given now"];
    assert!(shown.code == Some(6) && said.iter().any(|said| shown.stderr.contains(said)), "{shown:?}");
    // It shows the stop if it knows of more than the genesis that it is committed.
    let knows_it = !shown.stdout.contains(" 1 log entries");
    assert_eq!(shown.stdout.contains("demo/agent"), knows_it, "{shown:?}");
    three.deployment.run(&["--node", &url, "backup", "--out", "last-node"]).exits(0);
}

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(copied.success());
}
