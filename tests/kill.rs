//! Durable before acknowledged: a node that is killed with writers under way keeps every stop that it acknowledged.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tagout_control_plane::store::StoreKind;
use tagout_proto::digest::Digest;
use tagout_proto::log::entry::Entry;
use tagout_proto::log::tile::{TileId, TileKind, parse_bundle};
use tagout_proto::wire::{Locks, Status};
use tagout_tests::deployment::{Choice, Deployment, runtime, try_submit};
use tokio::sync::mpsc;

const WRITERS: usize = 32;
const ACKNOWLEDGED_PER_ROUND: usize = 100;

fn rounds() -> u32 {
    if std::env::var_os("TAGOUT_LONG").is_some() { 100 } else { 30 }
}

#[test]
fn s1_s8_kill_9_loses_no_acknowledged_stop_on_sled() {
    kill_rounds(StoreKind::Sled, rounds());
}

#[test]
fn s1_s8_kill_9_loses_no_acknowledged_stop_on_the_segment_file() {
    // The store's own promise is the power cut's to test; a third of the rounds shows that the node keeps to it.
    kill_rounds(StoreKind::Segment, rounds() / 3);
}

fn kill_rounds(store: StoreKind, rounds: u32) {
    let runtime = runtime();
    let mut deployment = Deployment::start(Choice { store, ..Choice::default() });
    let mut acknowledged: BTreeSet<Digest> = BTreeSet::new();
    for round in 0..rounds {
        let before = acknowledged.len();
        let (sent, mut received) = mpsc::unbounded_channel();
        let stopped = Arc::new(AtomicBool::new(false));
        std::thread::scope(|threads| {
            for writer in 0..WRITERS {
                let (deployment, sent, stopped, handle) =
                    (&deployment, sent.clone(), stopped.clone(), runtime.handle());
                threads.spawn(move || {
                    let http = deployment.http();
                    let url = deployment.url("/v1/commands");
                    let mut n = 0;
                    while !stopped.load(Ordering::Relaxed) {
                        n += 1;
                        let stop = deployment.stop(&format!("killed/{round}/{writer}/{n}"));
                        match handle.block_on(try_submit(&http, &url, &stop)) {
                            Ok(Ok(answer)) => sent.send(answer.digest).expect("the test listens"),
                            Ok(Err(problem)) => panic!("a stop was refused: {}", problem.detail),
                            // The node is dead: this one was not acknowledged.
                            Err(_) => return,
                        }
                    }
                });
            }
            drop(sent);
            while acknowledged.len() - before < ACKNOWLEDGED_PER_ROUND {
                acknowledged.insert(received.blocking_recv().expect("the writers go on"));
            }
            // With all writers in the middle of something.
            kill(&deployment);
            stopped.store(true, Ordering::Relaxed);
            while let Some(digest) = received.blocking_recv() {
                acknowledged.insert(digest);
            }
        });
        deployment.kill_node();
        deployment.start_node();
        let http = deployment.http();
        let locks: Locks = runtime.block_on(deployment.get(&http, "/v1/locks"));
        let in_force: BTreeSet<Digest> = locks.locks.iter().map(|record| record.lock.id).collect();
        let lost: Vec<_> = acknowledged.difference(&in_force).collect();
        assert!(
            lost.is_empty(),
            "round {round}: {} of {} acknowledged are gone: {lost:?}",
            lost.len(),
            acknowledged.len()
        );
    }

    let http = deployment.http();
    let status: Status = runtime.block_on(deployment.get(&http, "/v1/status"));
    let logged: BTreeSet<Digest> = runtime
        .block_on(log(&deployment, &http, status.log_size))
        .iter()
        .map(|entry| entry.envelope.digest())
        .collect();
    assert!(acknowledged.is_subset(&logged), "an acknowledged stop is in force and not in the log");
    let verified = deployment.cli(&["log", "verify", "--json"]);
    assert!(
        verified.status.success(),
        "{}{}",
        String::from_utf8_lossy(&verified.stdout),
        String::from_utf8_lossy(&verified.stderr)
    );
    println!("{store:?}: {rounds} kills, {} acknowledged stops, 0 lost", acknowledged.len());
}

/// By its id, which is its own until it is waited for.
fn kill(deployment: &Deployment) {
    let pid = rustix::process::Pid::from_raw(deployment.node_id() as i32).expect("a process id");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("the node is ours");
}

/// The first `size` entries, as the node serves them.
async fn log(deployment: &Deployment, http: &reqwest::Client, size: u64) -> Vec<Entry> {
    let covered = http.get(deployment.url(&format!("/log/checkpoint?size={size}"))).send().await.unwrap();
    covered.error_for_status().unwrap();
    let mut entries = Vec::new();
    for n in 0..size.div_ceil(256) {
        let width = (size - n * 256).min(256) as u16;
        let id = TileId { kind: TileKind::Entries, n, width };
        let tile = http.get(deployment.url(&format!("/log/tile/{id}"))).send().await.unwrap();
        let bytes = tile.error_for_status().unwrap().bytes().await.unwrap();
        entries.extend(parse_bundle(&bytes).unwrap().into_iter().map(|entry| Entry::decode(entry).unwrap()));
    }
    entries
}
