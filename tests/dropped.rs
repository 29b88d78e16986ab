//! A stop that is dropped as a file on the agent's host, end to end, while there is no node to send it to (S6).

use serde_json::Value;
use tagout::proto::wire::StopPath;
use tagout::{Client, Reason};
use tagout_tests::deployment::{Choice, Deployment, runtime};
use tagout_tests::ran::Ran;
use tagout_tests::wait::{DEADLINE, wait_for, wait_until};

#[test]
fn s6_a_stop_in_the_agents_folder_holds_without_a_node_and_is_committed_by_the_next() {
    let (mut deployment, runtime) = (Deployment::start(Choice::default()), runtime());
    let run =
        |deployment: &Deployment, arguments: &[&str]| Ran::of(&mut deployment.command(arguments)).exits(0);
    let keys = ["alice", "bob"].map(|name| deployment.key(name).display().to_string());
    let both = ["--reason", "r", "--key", &keys[0], "--key", &keys[1]];
    run(&deployment, &[&["grant", "demo", "--for", "1h"], &both[..]].concat());
    let folder = deployment.folder().join("stops");
    let builder = Client::builder()
        .node(deployment.url(""))
        .ca_pem(deployment.ca_pem())
        .genesis_file(deployment.dir().join("genesis.json"))
        .pinned(deployment.name.to_string())
        .stop_folder(&folder);
    let guard = builder.build().unwrap().guard("demo/a").unwrap();
    let _permit =
        runtime.block_on(async { tokio::time::timeout(DEADLINE, guard.wait_enabled()).await }).unwrap();

    deployment.kill_node();
    let out = folder.display().to_string();
    run(&deployment, &["stop", "demo/a", "--reason", "by hand", "--copies", "1", "--out", &out]);
    let lock = wait_for("the stop", || match guard.check().map_err(|denied| denied.reason) {
        Err(Reason::Stopped(lock)) => Some(lock.id),
        _ => None,
    });
    assert_eq!(guard.last_change().unwrap().by, Some(StopPath::File));

    deployment.start_node();
    let http = deployment.http();
    wait_until("the stop to be in the log", || {
        let locks: Value = runtime.block_on(deployment.get(&http, "/v1/locks?scope=demo/a"));
        locks["locks"].as_array().unwrap().iter().any(|record| record["id"] == lock.to_string().as_str())
    });
    assert!(guard.check().is_err());
    run(&deployment, &[&["resume", "demo/a"], &both[..]].concat());
    wait_until("the agent to go on", || guard.check().is_ok());
}
