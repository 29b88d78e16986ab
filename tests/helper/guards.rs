//! Many guards in one process, each with a client, a connection and an event stream of its own.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tagout::{Client, Guard};
use tagout_proto::profile::ProfileFile;

const READY: Duration = Duration::from_secs(120);

/// Prints `ready` once all may call, then `denied` with when the first and the last were and by how many stops that came
/// by push, then `enabled` once all may call again.
pub fn run(profile: &Path, scope: &str, count: u64) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("a runtime");
    let guards: Vec<Guard> = (0..count)
        .map(|n| {
            client(profile, runtime.handle().clone(), n)
                .guard(&format!("{scope}/agent_{n}"))
                .expect("a guard")
        })
        .collect();
    runtime.block_on(async {
        let began = Instant::now();
        for guard in &guards {
            let ready = tokio::time::timeout(READY, guard.wait_enabled()).await;
            let _ =
                ready.unwrap_or_else(|_| panic!("{}", guard.check().unwrap_err())).expect("the client lives");
        }
        println!("ready after {} ms, {} KiB resident", began.elapsed().as_millis(), resident_kib());
        let waits: Vec<_> = guards.iter().cloned().map(|guard| tokio::spawn(denied(guard))).collect();
        let mut moments_us = Vec::new();
        let mut pushed = 0;
        for wait in waits {
            let (moment_us, by_push) = wait.await.expect("a guard is denied");
            moments_us.push(moment_us);
            pushed += u64::from(by_push);
        }
        moments_us.sort_unstable();
        let (first, last) = (moments_us.first().unwrap(), moments_us.last().unwrap());
        println!("denied first {first} last {last} pushed {pushed}");
        for guard in &guards {
            let _ = guard.wait_enabled().await.expect("the client lives");
        }
        println!("enabled {}", guards.len());
    });
}

/// When the guard was first seen to deny, Unix microseconds, and whether the stop came by push.
async fn denied(guard: Guard) -> (u128, bool) {
    let mut changes = guard.changes();
    while guard.check().is_ok() {
        changes.next().await.expect("the client lives");
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970");
    let by_push =
        guard.last_change().and_then(|change| change.by) == Some(tagout_proto::wire::StopPath::Push);
    (now.as_micros(), by_push)
}

fn client(profile: &Path, runtime: tokio::runtime::Handle, n: u64) -> Client {
    let folder = profile.parent().expect("a profile lies in a folder");
    let text = std::fs::read_to_string(profile).expect("the profile");
    let profile: ProfileFile = toml::from_str(&text).expect("the profile");
    let builder = Client::builder()
        .pinned(profile.deployment)
        .genesis_file(folder.join(profile.genesis))
        .ca_file(folder.join(profile.ca))
        .instance(format!("load-{n}"))
        .runtime(runtime);
    profile.nodes.into_iter().fold(builder, |builder, node| builder.node(node)).build().expect("a client")
}

fn resident_kib() -> u64 {
    tagout_tests::process::resident_kib(std::process::id())
}
