//! A Raft store that is older than the node's own audit log has forgotten what was acknowledged: it is refused.

use std::path::Path;
use std::process::Command;

use tagout_tests::bin;
use tagout_tests::deployment::{Choice, Deployment, runtime};
use tagout_tests::process::Process;

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

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(copied.success());
}
