//! A rolling upgrade, node by node and without a pause, to a build that writes newer formats; and the way back, which is
//! open until those formats are in use and then closed in words.

use std::fs;
use std::time::Duration;

use tagout_control_plane::replica::OUTGROWN_EXIT_CODE;
use tagout_proto::wire::Status;
use tagout_tests::deployment::try_submit;
use tagout_tests::wait::wait_until;

use super::cluster::{Build, Cluster, Made};

#[test]
fn s1_s4_nodes_are_upgraded_one_after_the_other_and_newer_formats_wait_for_the_last() {
    let mut cluster = Cluster::start(Made::default());
    let deployment = cluster.deployment.clone();
    let rule = |cluster: &Cluster, node: usize| {
        let url = format!("{}/v1/status", cluster.url(node));
        cluster
            .get(&url)
            .and_then(|body| serde_json::from_slice::<Status>(&body).ok())
            .map(|s| s.rule_version)
    };
    let stop = |cluster: &Cluster, node: usize, scope: &str| {
        let (http, url) = (deployment.http(), format!("{}/v1/commands", cluster.url(node)));
        let stop = deployment.stop(scope);
        let answer = cluster.clients.block_on(try_submit(&http, &url, &stop)).expect("the node answers");
        answer.unwrap_or_else(|problem| panic!("node {node}: {}", problem.detail)).digest
    };
    cluster.clients.block_on(deployment.grant(&deployment.http(), "agents"));
    let client = deployment.sdk(&cluster.url(1));
    let guard = client.guard("agents/a").expect("a guard");
    cluster.clients.block_on(guard.ready(Duration::from_secs(20))).expect("an agent with consent");

    // Every voter's operator allows the newer rule, which the build of today does not know yet.
    for node in cluster.all() {
        let path = cluster.folder(node).join("tagout.toml");
        let config = fs::read_to_string(&path).expect("the node's configuration");
        fs::write(&path, config.replace("# rule = 1", "rule = 2")).expect("the node's configuration");
    }
    let mut locks = Vec::new();
    for node in [2, 3] {
        cluster.change_build(node, Build::Newer);
        cluster.restart(node);
        cluster.wait_until_ready();
        // The two builds talk, commit and issue leases together, under the rule that all of them know.
        locks.extend(cluster.all().map(|at| stop(&cluster, at, &format!("stopped/{node}/{at}"))));
        assert!(
            cluster.all().all(|at| rule(&cluster, at) == Some(1)),
            "a voter does not know the newer rule"
        );
        assert!(guard.check().is_ok(), "nothing happened to this agent");
    }
    // Back to the build of today, while nothing newer is in use.
    cluster.change_build(3, Build::Today);
    cluster.restart(3);
    cluster.wait_until_ready();
    cluster.change_build(3, Build::Newer);
    cluster.restart(3);
    cluster.wait_until_ready();

    cluster.change_build(1, Build::Newer);
    cluster.restart(1);
    cluster.wait_until_ready();
    wait_until("the newer rule to come into force everywhere", || {
        cluster.all().all(|at| rule(&cluster, at) == Some(2))
    });
    locks.push(stop(&cluster, 1, "stopped/last"));
    wait_until("S1: another node to have every lock", || {
        let held = cluster.get(&format!("{}/v1/locks", cluster.url(2))).expect("the locks");
        let held = String::from_utf8(held).expect("JSON");
        locks.iter().all(|lock| held.contains(&lock.to_string()))
    });
    // A guard that does not know the rule in force denies, and says what to do (S4).
    wait_until("an older guard to deny", || guard.check().is_err());
    wait_until("an older guard to say why", || {
        guard.check().err().is_some_and(|denied| denied.to_string().contains("upgrade this SDK"))
    });

    // The build of today cannot follow any more, and says so: nothing of its data is touched.
    cluster.change_build(2, Build::Today);
    cluster.restart(2);
    let said = cluster.wait_until_ended_with(2, OUTGROWN_EXIT_CODE);
    assert!(said.contains("a newer version of tagout"), "{said}");
    cluster.change_build(2, Build::Newer);
    cluster.restart(2);
    cluster.wait_until_ready();
}
