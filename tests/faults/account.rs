//! The account of a stop in a cluster: agents ask one node each, and every node tells of all of them.

use tagout::Guard;
use tagout_proto::wire::{ReachState, StopReach};
use tagout_tests::wait::{wait_for, wait_until};

use super::cluster::{Cluster, Made};
use super::scenarios::one_at_a_time;
use super::soak::{consent, send};

#[test]
fn s8_every_node_tells_of_all_instances_whichever_node_they_asked() {
    let _turn = one_at_a_time();
    let cluster = Cluster::start(Made::default());
    consent(&cluster, "account");
    let guards: Vec<Guard> = cluster
        .all()
        .map(|node| {
            cluster.deployment.sdk(&cluster.url(node)).guard(&format!("account/agent_{node}")).unwrap()
        })
        .collect();
    wait_until("every guard to allow calls", || guards.iter().all(|guard| guard.check().is_ok()));

    let stop = cluster.deployment.stop("account");
    send(&cluster, &stop);
    for node in cluster.all() {
        let path = format!("{}/v1/locks/{}/reach", cluster.url(node), stop.digest());
        let reach: StopReach = wait_for("the account to be settled", || {
            let reach: StopReach = serde_json::from_slice(&cluster.get(&path)?).ok()?;
            (reach.settled && reach.outcome_index.is_some()).then_some(reach)
        });
        let confirmed = |state: &ReachState| matches!(state, ReachState::Confirmed { .. });
        assert_eq!(reach.instances.len(), guards.len(), "node {node}: {reach:?}");
        assert!(reach.instances.iter().all(|instance| confirmed(&instance.state)), "node {node}: {reach:?}");
    }
}
