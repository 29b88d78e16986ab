//! S3 without its fast path: what the lease alone guarantees, by the guard's own clock against the operator's.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use tagout::{Guard, Reason};
use tagout_control_plane::{pki, tls};
use tagout_tests::deployment::{Choice, Deployment, runtime};
use tagout_tests::wait::DEADLINE;
use tokio_util::sync::CancellationToken;

#[test]
fn s3_with_events_blocked_no_call_begins_after_the_acknowledgement_and_a_ttl() {
    let deployment = Deployment::start(Choice::default());
    runtime().block_on(async {
        let http = deployment.http();
        deployment.grant(&http, "bound").await;
        let proxy = Proxy::start(&deployment, http.clone()).await;
        let guard = deployment.sdk(&proxy.url).guard("bound/agent").unwrap();
        guard.ready(DEADLINE).await.unwrap();
        assert!(guard.check().is_ok());

        let watch = watch_calls(guard.clone());
        let answer = deployment.submit(&http, &deployment.stop("bound/agent")).await.unwrap();
        let acknowledged = Instant::now();
        let last_allowed = watch.await.unwrap();
        let ttl = Duration::from_millis(Choice::default().ttl_ms);
        assert!(
            last_allowed <= acknowledged + ttl,
            "a call began {:?} after the acknowledgement",
            last_allowed - acknowledged
        );
        match guard.check().unwrap_err().reason {
            Reason::Stopped(lock) => assert_eq!(lock.id, answer.digest),
            other => panic!("{other}"),
        }
        let seen = guard.last_change().unwrap();
        println!(
            "events blocked: denied {} ms after the acknowledgement, ttl {} ms",
            seen.at_ms.saturating_sub(answer.time_ms),
            ttl.as_millis()
        );
        proxy.shutdown.cancel();
    });
}

#[test]
fn s3_s4_with_the_node_gone_no_call_begins_after_a_ttl() {
    let mut deployment = Deployment::start(Choice::default());
    let runtime = runtime();
    let guard = runtime.block_on(async {
        deployment.grant(&deployment.http(), "bound").await;
        let guard = deployment.sdk(&deployment.url("")).guard("bound/agent").unwrap();
        guard.ready(DEADLINE).await.unwrap();
        assert!(guard.check().is_ok());
        guard
    });
    let watch = {
        let _entered = runtime.enter();
        watch_calls(guard.clone())
    };
    deployment.kill_node();
    let gone = Instant::now();
    let last_allowed = runtime.block_on(watch).unwrap();
    let ttl = Duration::from_millis(Choice::default().ttl_ms);
    assert!(last_allowed <= gone + ttl, "a call began {:?} after the node was gone", last_allowed - gone);
    let reason = guard.check().unwrap_err().reason;
    assert!(matches!(reason, Reason::Lapsed { .. }), "a lapse is reported as what it is, not as {reason}");
    println!(
        "node gone: last call allowed {:?} after it, ttl {ttl:?}",
        last_allowed.saturating_duration_since(gone)
    );

    // A lapse is not a stop: it heals by itself (S4).
    deployment.start_node();
    let permit =
        runtime.block_on(async { tokio::time::timeout(DEADLINE, guard.wait_enabled()).await.unwrap() });
    assert!(permit.is_ok());
}

/// Checks as fast as it can until it is denied, and gives the moment of the last permit.
fn watch_calls(guard: Guard) -> tokio::task::JoinHandle<Instant> {
    tokio::task::spawn_blocking(move || {
        let mut last_allowed = Instant::now();
        loop {
            // Read before the check: the permit is not older than this.
            let now = Instant::now();
            match guard.check() {
                Ok(_) => last_allowed = now,
                Err(_) => return last_allowed,
            }
        }
    })
}

/// The node's API under another address, without its events.
struct Proxy {
    url: String,
    shutdown: CancellationToken,
}

#[derive(Clone)]
struct Behind {
    http: reqwest::Client,
    node: Arc<str>,
}

impl Proxy {
    async fn start(deployment: &Deployment, http: reqwest::Client) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let issued = pki::issue(&deployment.dir().join("ca"), "proxy", &["127.0.0.1"]).unwrap();
        let config = tls::server_config(&issued.cert_pem, &issued.key_pem).unwrap();
        let behind = Behind { http, node: deployment.url("").into() };
        let app = axum::Router::new().fallback(forward).with_state(behind);
        let shutdown = CancellationToken::new();
        tokio::spawn(tls::serve_tls(listener, config, app, tls::ServerLimits::default(), shutdown.clone()));
        Self { url, shutdown }
    }
}

async fn forward(State(behind): State<Behind>, request: Request) -> Response {
    if request.uri().path() == "/v1/events" {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    // Over HTTP/2 the whole URI names this proxy.
    let path = request.uri().path_and_query().expect("a request has a path").as_str();
    let url = format!("{}{path}", behind.node);
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 4 << 20).await.unwrap();
    let mut forwarded = behind.http.request(parts.method, url).body(body);
    if let Some(kind) = parts.headers.get("content-type") {
        forwarded = forwarded.header("content-type", kind);
    }
    match forwarded.send().await {
        Ok(answer) => (answer.status(), answer.bytes().await.unwrap_or_default()).into_response(),
        Err(_) => StatusCode::BAD_GATEWAY.into_response(),
    }
}
