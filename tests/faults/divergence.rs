//! A node whose log is not the others': it errs in one entry, as no build should (S8).

use tagout_proto::command::{Action, Grant, Seen};
use tagout_proto::envelope::Envelope;
use tagout_proto::rule::Terms;
use tagout_proto::wire::{CommandAnswer, Problem, Status};
use tagout_tests::deployment::{PEOPLE, parse, try_submit};
use tagout_tests::wait::{wait_for, wait_until};

use super::cluster::{Build, Cluster, Made};
use super::scenarios::one_at_a_time;

#[test]
fn s8_a_node_that_differs_from_the_majority_gives_nothing_and_says_at_which_entry() {
    let _turn = one_at_a_time();
    let mut cluster = Cluster::start(Made::default());
    let errs = cluster.a_follower();
    let right: Vec<usize> = cluster.all().filter(|node| *node != errs).collect();
    stop(&cluster, right[0], "before");
    let entry = status(&cluster, right[0]).log_size + 2;
    cluster.change_build(errs, Build::ErringAt(entry));
    cluster.restart(errs);
    cluster.wait_until_ready();
    while status(&cluster, right[0]).log_size <= entry + 2 {
        stop(&cluster, right[1], "many");
    }

    let said = wait_for("the node to notice", || said_by(&cluster, errs, "The first entry"));
    assert!(said.contains("this node's log differs from the majority's"), "{said}");
    assert!(said.contains(&format!("The first entry that differs is {entry}")), "{said}");
    let refused = grant(&cluster, errs).expect_err("what it knows may lack a lock");
    assert_eq!((refused.status, refused.code.as_str()), (503, "not-ready"));
    assert!(refused.detail.starts_with("this node takes only what takes away: this node's log differs"));
    // The others know it too and go on; and a stop is a stop, whoever is asked (S10).
    assert!(right.iter().all(|node| cluster.answers(&format!("{}/readyz", cluster.url(*node)))));
    grant(&cluster, right[0]).expect("the majority gives");
    stop(&cluster, right[0], "after");
    stop(&cluster, errs, "after/all");
}

#[test]
fn s8_a_leader_that_differs_from_the_majority_hands_the_leadership_over() {
    let _turn = one_at_a_time();
    let mut cluster = Cluster::start(Made::default());
    // The first of the followers with the least lag is who a leader hands over to when it ends.
    let errs = cluster.a_follower();
    let entry = status(&cluster, errs).log_size + 10;
    cluster.change_build(errs, Build::ErringAt(entry));
    cluster.restart(errs);
    cluster.wait_until_ready();
    for _ in 0..10 {
        let leader = cluster.leader();
        if leader == errs {
            break;
        }
        cluster.end(leader);
        cluster.revive(leader);
        cluster.wait_until_ready();
    }
    assert_eq!(cluster.leader(), errs, "the leadership came to it");
    while status(&cluster, errs).log_size <= entry + 2 {
        stop(&cluster, errs, "many");
    }

    wait_for("the leader to notice", || said_by(&cluster, errs, "this node's log differs"));
    wait_until("another node to lead", || cluster.leader() != errs);
    let right = cluster.leader();
    // Whoever asks it is told no, and through everybody else it goes on.
    assert_eq!(grant(&cluster, errs).expect_err("its state is wrong").code, "not-ready");
    grant(&cluster, right).expect("the new leader gives");
    stop(&cluster, errs, "after");
}

fn status(cluster: &Cluster, node: usize) -> Status {
    let body = cluster.get(&format!("{}/v1/status", cluster.url(node)));
    serde_json::from_slice(&body.expect("the node answers")).expect("a status")
}

/// What the node says of why it is not ready, if it says so.
fn said_by(cluster: &Cluster, node: usize, words: &str) -> Option<String> {
    let problem = cluster.problem(&format!("{}/readyz", cluster.url(node)));
    problem.map(|Problem { detail, .. }| detail).filter(|detail| detail.contains(words))
}

fn send(cluster: &Cluster, node: usize, envelope: &Envelope) -> Result<CommandAnswer, Problem> {
    let (http, url) = (cluster.deployment.http(), format!("{}/v1/commands", cluster.url(node)));
    cluster.clients.block_on(try_submit(&http, &url, envelope)).expect("the node answers")
}

fn stop(cluster: &Cluster, node: usize, scope: &str) {
    let taken = send(cluster, node, &cluster.deployment.stop(scope));
    taken.unwrap_or_else(|problem| panic!("node {node}: {}", problem.detail));
}

/// Consent as two people sign it who look at another node.
fn grant(cluster: &Cluster, node: usize) -> Result<CommandAnswer, Problem> {
    let elsewhere = cluster.all().find(|other| *other != node).expect("there are others");
    let Status { epoch, authority_version, time_ms, .. } = status(cluster, elsewhere);
    let grant = Action::Grant(Grant {
        scope: parse("granted"),
        expires_at_ms: time_ms + 3_600_000,
        seen: Seen { epoch: epoch.id, size: 1, authority: authority_version },
        terms: Terms::default(),
        reason: "test".into(),
    });
    send(cluster, node, &cluster.deployment.envelope(&PEOPLE, &grant))
}
