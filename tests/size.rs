//! What a node bears: ten thousand commands and a restart, a thousand guards and one stop for all of them.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use tagout_proto::wire::{Locks, Status, StopReach};
use tagout_tests::bin;
use tagout_tests::deployment::{Choice, Deployment, runtime, try_submit};
use tagout_tests::process::{Process, resident_kib};

const COMMANDS: u64 = 10_000;
const WRITERS: u64 = 64;
const GUARDS: u64 = 1_000;

#[test]
fn s1_s8_ten_thousand_commands_survive_a_restart_and_verify() {
    let mut deployment = Deployment::start(Choice::default());
    let runtime = runtime();
    let http = deployment.http();
    let next = Arc::new(AtomicU64::new(0));
    let began = Instant::now();
    runtime.block_on(async {
        let deployment = &deployment;
        let writers = (0..WRITERS).map(|_| {
            let (http, next, url) = (http.clone(), next.clone(), deployment.url("/v1/commands"));
            async move {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= COMMANDS {
                        return;
                    }
                    let stop = deployment.stop(&format!("size/{}/{n}", n % 100));
                    try_submit(&http, &url, &stop).await.unwrap().unwrap();
                }
            }
        });
        futures_util::future::join_all(writers).await;
    });
    let committed = began.elapsed();
    let resident = resident_kib(deployment.node_id());
    let before: Status = runtime.block_on(deployment.get(&http, "/v1/status"));
    deployment.kill_node();
    let began = Instant::now();
    deployment.start_node();
    let reopened = began.elapsed();
    let http = deployment.http();
    let after: Status = runtime.block_on(deployment.get(&http, "/v1/status"));
    assert_eq!(after.locks, COMMANDS);
    assert!(after.log_size >= before.log_size, "the log has lost entries");
    let locks: Locks = runtime.block_on(deployment.get(&http, "/v1/locks?scope=size/7"));
    assert_eq!(locks.locks.len() as u64, COMMANDS / 100);
    let began = Instant::now();
    let verified = deployment.cli(&["log", "verify", "--json"]);
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
    println!(
        "{COMMANDS} commands by {WRITERS} writers in {committed:?}; node {resident} KiB resident, {} KiB after the restart; \
         ready again after {reopened:?}; verified over TLS in {:?}",
        resident_kib(deployment.node_id()),
        began.elapsed()
    );
}

#[test]
fn s3_one_fleet_stop_denies_a_thousand_guards() {
    let deployment = Deployment::start(Choice { ttl_ms: 10_000, ..Choice::default() });
    let runtime = runtime();
    let http = deployment.http();
    runtime.block_on(deployment.grant(&http, "load"));
    let idle = resident_kib(deployment.node_id());
    let mut load = Command::new(bin::helper());
    load.arg("guards").arg(deployment.profile()).arg("load").arg(GUARDS.to_string());
    let mut load = Process::spawn("guards", deployment.folder(), &mut load);
    let ready = load.wait_for_line("ready ");
    let resident = resident_kib(deployment.node_id());

    let stop = deployment.stop("*");
    let sent = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros();
    let answer = runtime.block_on(deployment.submit(&http, &stop)).unwrap();
    let acknowledged = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros();
    assert_eq!((answer.reach.agents, answer.reach.instances), (GUARDS, GUARDS));
    let denied = load.wait_for_line("denied ");
    let numbers: Vec<u128> = denied.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let [first, last, pushed] = numbers[..] else { panic!("{denied}") };

    let mut reach = StopReach {
        lock: answer.digest,
        version: 0,
        age_ms: 0,
        bounded_after_ms: 0,
        calls_bounded_after_ms: None,
        instances: Vec::new(),
        settled: false,
        outcome_index: None,
    };
    while reach.outcome_index.is_none() {
        let path = format!("/v1/locks/{}/reach?after={}", answer.digest, reach.version);
        reach = runtime.block_on(deployment.get(&http, &path));
    }
    let confirmed = reach
        .instances
        .iter()
        .filter(|i| matches!(i.state, tagout_proto::wire::ReachState::Confirmed { .. }));
    assert_eq!(confirmed.count() as u64, GUARDS, "every guard confirmed");

    // S2: the release alone brings nobody back, and the start brings back everybody.
    let id = [answer.digest];
    runtime.block_on(deployment.submit(&http, &deployment.release("*", &id))).unwrap();
    assert!(load.line("enabled ").is_none());
    runtime.block_on(deployment.submit(&http, &deployment.start_of("*", &id))).unwrap();
    assert_eq!(load.wait_for_line("enabled "), GUARDS.to_string());
    println!(
        "{GUARDS} guards {ready}; node {idle} KiB before, {resident} KiB with them; acknowledged {} ms after it was sent, first \
         guard denies {} ms and last {} ms after it was sent; {pushed} by push",
        (acknowledged - sent) as f64 / 1e3,
        (first.saturating_sub(sent)) as f64 / 1e3,
        (last.saturating_sub(sent)) as f64 / 1e3,
    );
}
