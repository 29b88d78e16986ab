//! S10 in a flood: commands that are not what they seem never keep a valid stop out.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tagout_control_plane::tls;
use tagout_proto::envelope::Envelope;
use tagout_proto::lock::LockKind;
use tagout_tests::deployment::{Choice, Deployment, runtime, stop, try_submit};

/// Requests under way at once, in all.
const FLOOD: usize = 128;
const STOPS: usize = 40;

/// A client that speaks from an address of its own; loopback has many.
fn from(deployment: &Deployment, last: u8) -> reqwest::Client {
    let tls = tls::client_config(&deployment.ca_pem()).expect("the CA's certificate");
    let client =
        reqwest::Client::builder().tls_backend_preconfigured(tls).default_headers(deployment.bearer());
    client.local_address(IpAddr::from([127, 0, 0, last])).build().expect("a client")
}

/// What takes the node the longest: sixteen signatures by keys that it knows, none of them of this document.
fn forged(deployment: &Deployment) -> Envelope {
    let other = deployment.envelope(&["alice"], &stop("another", LockKind::Halt));
    let document = deployment.stop("forged/agent").document;
    Envelope { document, signatures: vec![other.signatures[0].clone(); 16] }
}

#[test]
fn s10_a_flood_of_forged_commands_keeps_no_stop_out() {
    let deployment = Deployment::start(Choice::default());
    let runtime = runtime();
    let url = deployment.url("/v1/commands");
    let ended = Arc::new(AtomicBool::new(false));
    let sent = Arc::new(AtomicU64::new(0));
    let busy = Arc::new(AtomicU64::new(0));
    let stops: Vec<_> = (0..STOPS).map(|n| deployment.stop(&format!("flooded/{n}"))).collect();
    let own = from(&deployment, 9);
    let quiet = runtime.block_on(async {
        let began = Instant::now();
        try_submit(&own, &url, &deployment.stop("flooded/before")).await.unwrap().unwrap();
        began.elapsed()
    });
    let forged = forged(&deployment);
    let flood: Vec<_> = (0..FLOOD)
        .map(|n| {
            // One loud address, and three others.
            let http = from(&deployment, if n % 4 > 0 { 2 } else { 3 + (n / 4 % 3) as u8 });
            let (url, forged, ended) = (url.clone(), forged.clone(), ended.clone());
            let (sent, busy) = (sent.clone(), busy.clone());
            runtime.spawn(async move {
                while !ended.load(Ordering::Relaxed) {
                    let refused = try_submit(&http, &url, &forged).await;
                    let Ok(refused) = refused else { continue };
                    let code = refused.expect_err("nobody signed it").code;
                    match code.as_str() {
                        "no-valid-signature" => sent.fetch_add(1, Ordering::Relaxed),
                        "busy" => busy.fetch_add(1, Ordering::Relaxed),
                        other => panic!("{other}"),
                    };
                }
            })
        })
        .collect();
    runtime.block_on(async {
        while sent.load(Ordering::Relaxed) < 4 * FLOOD as u64 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let before = sent.load(Ordering::Relaxed);
        let mut took: Vec<Duration> = Vec::new();
        let began = Instant::now();
        // From an address that floods nobody: every one is taken, at the first attempt.
        for stop in &stops[..STOPS / 2] {
            let began = Instant::now();
            let taken = try_submit(&own, &url, stop).await.expect("the node answers");
            taken.unwrap_or_else(|problem| panic!("a stop was refused: {} {}", problem.code, problem.detail));
            took.push(began.elapsed());
        }
        let (own_took, forgeries) = (began.elapsed(), sent.load(Ordering::Relaxed) - before);
        took.sort_unstable();
        println!(
            "{} stops beside {forgeries} forged commands in {own_took:?}: p50 {:?}, slowest {:?}; without a flood {quiet:?}",
            took.len(), took[took.len() / 2], took[took.len() - 1]
        );
        // From the very address that floods: it may be told to come again, and then it is taken.
        let loud = from(&deployment, 2);
        let (mut took, mut again) = (Vec::new(), 0);
        for stop in &stops[STOPS / 2..] {
            let began = Instant::now();
            while let Err(problem) = try_submit(&loud, &url, stop).await.expect("the node answers") {
                assert_eq!(problem.code, "busy", "{}", problem.detail);
                again += 1;
            }
            took.push(began.elapsed());
        }
        took.sort_unstable();
        println!(
            "{} stops from the flood's own address: p50 {:?}, slowest {:?}, {again} times sent again",
            took.len(), took[took.len() / 2], took[took.len() - 1]
        );
        ended.store(true, Ordering::Relaxed);
        for task in flood {
            task.await.expect("the flood was refused as it should be");
        }
    });
    println!(
        "{} forged commands were verified, {} turned away",
        sent.load(Ordering::Relaxed),
        busy.load(Ordering::Relaxed)
    );
}
