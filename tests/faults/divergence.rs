//! A node whose log is not the others': it errs in one entry, as no build should (S8).

use tagout_proto::wire::{Problem, Status};
use tagout_tests::deployment::try_submit;
use tagout_tests::wait::wait_for;

use super::cluster::{Build, Cluster, Made};

#[test]
fn s8_a_node_that_differs_from_the_majority_signs_no_leases_and_says_at_which_entry() {
    let mut cluster = Cluster::start(Made::default());
    let deployment = cluster.deployment.clone();
    let size = |cluster: &Cluster, node: usize| {
        let body = cluster.get(&format!("{}/v1/status", cluster.url(node)));
        serde_json::from_slice::<Status>(&body.expect("the node answers")).expect("a status").log_size
    };
    let stop = |cluster: &Cluster, node: usize, scope: &str| {
        let (http, url) = (deployment.http(), format!("{}/v1/commands", cluster.url(node)));
        let answer = cluster.clients.block_on(try_submit(&http, &url, &deployment.stop(scope)));
        answer.expect("the node answers").unwrap_or_else(|problem| panic!("node {node}: {}", problem.detail))
    };
    let errs = cluster.a_follower();
    let right: Vec<usize> = cluster.all().filter(|node| *node != errs).collect();
    stop(&cluster, right[0], "before");
    let entry = size(&cluster, right[0]) + 2;
    cluster.change_build(errs, Build::ErringAt(entry));
    cluster.restart(errs);
    cluster.wait_until_ready();
    while size(&cluster, right[0]) <= entry + 2 {
        stop(&cluster, right[1], "many");
    }

    let said = wait_for("the node to notice", || {
        let problem = cluster.problem(&format!("{}/readyz", cluster.url(errs)));
        problem.map(|Problem { detail, .. }| detail).filter(|detail| detail.contains("The first entry"))
    });
    assert!(said.contains("this node's log differs from the majority's"), "{said}");
    assert!(said.contains(&format!("The first entry that differs is {entry}")), "{said}");
    // The others know it too and go on; and a stop is a stop, whoever is asked (S10).
    assert!(right.iter().all(|node| cluster.answers(&format!("{}/readyz", cluster.url(*node)))));
    stop(&cluster, right[0], "after");
    stop(&cluster, errs, "after/all");
}
