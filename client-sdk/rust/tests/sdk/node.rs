//! A node for the client's tests: the HTTP side of `World`, over plain HTTP on loopback, and able to fail.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures_util::{Stream, stream};
use serde::Serialize;
use tagout::proto::digest::Digest;
use tagout::proto::envelope::Envelope;
use tagout::proto::lease::{LeaseRequest, LeaseResponse};
use tagout::proto::lock::LockKind;
use tagout::proto::log::entry::EntryKind;
use tagout::proto::wire::{Confirmation, Renew, TrustChain};
use tagout::{Client, Guard};
use tokio::net::TcpListener;
use tokio::sync::{broadcast, watch};

use crate::tls;
use crate::world::*;

/// Long enough for the slowest machine; nothing waits for it when all is well.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Node {
    pub(crate) url: String,
    pub(crate) shared: Arc<Shared>,
    serving: tokio::task::JoinHandle<()>,
    /// PEM.
    ca: Option<String>,
}

pub(crate) struct Shared {
    /// Nodes of one cluster share it.
    pub(crate) world: Arc<parking_lot::Mutex<World>>,
    /// What a node shows that has not come as far as the others.
    pub(crate) behind: parking_lot::Mutex<Option<World>>,
    /// Answers nothing but 503.
    pub(crate) dark: watch::Sender<bool>,
    /// Leases wait, so that only a push can bring news.
    pub(crate) hold_leases: watch::Sender<bool>,
    pub(crate) leases: watch::Sender<usize>,
    pub(crate) streams: watch::Sender<usize>,
    pub(crate) scopes: watch::Sender<String>,
    pub(crate) confirmations: watch::Sender<Vec<Confirmation>>,
    /// The trips that were sent.
    pub(crate) trips: watch::Sender<Vec<String>>,
    /// What trips are answered with.
    pub(crate) trip_refusal: parking_lot::Mutex<Option<StatusCode>>,
    /// What a lying node makes of a lease before it is signed.
    pub(crate) lie: parking_lot::Mutex<Option<Lie>>,
    /// What it makes of the answer afterwards.
    pub(crate) alter: parking_lot::Mutex<Option<Alter>>,
    /// What it shows in the place of the trust chain.
    pub(crate) chain: parking_lot::Mutex<Option<Vec<Envelope>>>,
    events: broadcast::Sender<(&'static str, String)>,
}

pub(crate) type Lie = Box<dyn FnMut(&LeaseRequest, &mut Reply) + Send>;

pub(crate) type Alter = Box<dyn FnMut(&mut LeaseResponse) + Send>;

pub(crate) fn wall_ms() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis() as u64
}

impl Node {
    /// A node with consent for `demo`, over plain HTTP.
    pub(crate) async fn start(ttl_ms: u64, lapse_grace_ms: u64) -> Self {
        let (shared, router) = serving(world(ttl_ms, lapse_grace_ms));
        Self::serve(shared, router).await
    }

    pub(crate) async fn serve(shared: Arc<Shared>, router: Router) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let serving = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, shared, serving, ca: None }
    }

    /// The same over TLS, as real nodes serve.
    pub(crate) async fn start_tls(ttl_ms: u64, lapse_grace_ms: u64) -> Self {
        Self::start_tls_valid(ttl_ms, lapse_grace_ms, 2000, 4000).await
    }

    /// With a certificate from the one year to the other.
    pub(crate) async fn start_tls_valid(ttl_ms: u64, lapse_grace_ms: u64, from: i32, until: i32) -> Self {
        let (shared, router) = serving(world(ttl_ms, lapse_grace_ms));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let (acceptor, ca) = tls::acceptor(from, until);
        let serving = tokio::spawn(tls::serve(listener, acceptor, router));
        Self { url, shared, serving, ca: Some(ca) }
    }

    pub(crate) fn client(&self) -> Client {
        self.builder().node(&self.url).build().unwrap()
    }

    pub(crate) fn builder(&self) -> tagout::Builder {
        let world = self.shared.world.lock();
        let builder = match &self.ca {
            Some(ca) => Client::builder().ca_pem(ca.as_bytes()),
            None => Client::builder(),
        };
        builder
            .genesis_json(serde_json::to_vec(&world.genesis).unwrap())
            .pinned(world.deployment.to_string())
            .instance("test-1")
    }

    /// A guard that may call, whose client hears pushes.
    pub(crate) async fn running_guard(&self) -> Guard {
        let guard = self.client().guard(AGENT).unwrap();
        let _permit = within(guard.wait_enabled()).await.unwrap();
        reached(&self.shared.streams, |streams| *streams > 0).await;
        guard
    }

    /// Commits a stop and, as `push` says, tells those who listen.
    pub(crate) fn stop(&self, scope: &str, mode: LockKind, push: bool) -> Digest {
        let event = self.shared.world.lock().stop(scope, mode);
        if push {
            self.push("stop", &event);
        }
        event.stop.digest()
    }

    pub(crate) fn push(&self, name: &'static str, data: &impl Serialize) {
        self.shared.push(name, data);
    }

    pub(crate) fn renew(&self, deny: bool) {
        let log_size = self.shared.world.lock().ledger.size();
        self.push("renew", &Renew { log_size, deny, within_ms: 0 });
    }

    pub(crate) fn release(&self, scope: &str, lock: Digest) {
        self.shared.world.lock().release(scope, lock);
        self.renew(false);
    }

    pub(crate) fn start_again(&self, scope: &str, lock: Digest) {
        self.shared.world.lock().start(scope, lock);
        self.renew(false);
    }
}

impl Shared {
    pub(crate) fn push(&self, name: &'static str, data: &impl Serialize) {
        let _ = self.events.send((name, serde_json::to_string(data).unwrap()));
    }
}

/// With consent for `demo`.
pub(crate) fn world(ttl_ms: u64, lapse_grace_ms: u64) -> Arc<parking_lot::Mutex<World>> {
    let mut world = World::with(genesis("demo", ttl_ms, lapse_grace_ms), wall_ms());
    world.grant("demo", DAY_MS);
    Arc::new(parking_lot::Mutex::new(world))
}

pub(crate) fn serving(world: Arc<parking_lot::Mutex<World>>) -> (Arc<Shared>, Router) {
    let shared = Arc::new(Shared {
        world,
        behind: parking_lot::Mutex::new(None),
        dark: watch::Sender::new(false),
        hold_leases: watch::Sender::new(false),
        leases: watch::Sender::new(0),
        streams: watch::Sender::new(0),
        scopes: watch::Sender::new(String::new()),
        confirmations: watch::Sender::new(Vec::new()),
        trips: watch::Sender::new(Vec::new()),
        trip_refusal: parking_lot::Mutex::new(None),
        lie: parking_lot::Mutex::new(None),
        alter: parking_lot::Mutex::new(None),
        chain: parking_lot::Mutex::new(None),
        events: broadcast::Sender::new(64),
    });
    let router = Router::new()
        .route("/v1/leases", post(lease))
        .route("/v1/authority", get(authority))
        .route("/v1/events", get(events))
        .route("/v1/confirmations", post(confirm))
        .route("/v1/trips", post(trip))
        .with_state(Arc::clone(&shared));
    (shared, router)
}

impl Drop for Node {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// Waits for `future`, but not for ever.
pub(crate) async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future).await.expect("it comes to an end")
}

/// Waits until `condition` holds of what is watched.
pub(crate) async fn reached<T>(watched: &watch::Sender<T>, condition: impl FnMut(&T) -> bool) {
    within(watched.subscribe().wait_for(condition)).await.expect("the node is there");
}

async fn lease(State(node): State<Arc<Shared>>, Json(request): Json<LeaseRequest>) -> Response {
    if *node.dark.borrow() {
        // As real nodes wish it.
        return (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "1")]).into_response();
    }
    let _ = node.hold_leases.subscribe().wait_for(|hold| !hold).await;
    let answer = {
        let (mut world, mut behind) = (node.world.lock(), node.behind.lock());
        let world = behind.as_mut().unwrap_or(&mut world);
        world.now_ms = wall_ms();
        world.take_over(&request);
        let mut reply = world.reply(&request);
        if let Some(lie) = &mut *node.lie.lock() {
            lie(&request, &mut reply);
        }
        let mut answer = reply.sign(&request);
        if let Some(alter) = &mut *node.alter.lock() {
            alter(&mut answer);
        }
        answer
    };
    node.leases.send_modify(|leases| *leases += 1);
    Json(answer).into_response()
}

async fn authority(State(node): State<Arc<Shared>>) -> Json<TrustChain> {
    let shown = node.chain.lock().clone();
    let newest = || node.behind.lock().as_ref().map_or_else(|| node.world.lock().chain(), World::chain);
    let documents = shown.unwrap_or_else(newest);
    // Guards ask for no place in the log.
    Json(TrustChain { documents, entries: Vec::new() })
}

async fn events(State(node): State<Arc<Shared>>, uri: axum::http::Uri) -> Response {
    if *node.dark.borrow() {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    let listener = node.events.subscribe();
    node.scopes.send_replace(uri.query().unwrap_or_default().to_owned());
    let hello = Renew { log_size: node.world.lock().ledger.size(), deny: false, within_ms: 0 };
    node.streams.send_modify(|streams| *streams += 1);
    Sse::new(stream_of(hello, listener, node.dark.subscribe())).into_response()
}

/// Ends when the node goes dark.
fn stream_of(
    hello: Renew,
    listener: broadcast::Receiver<(&'static str, String)>,
    dark: watch::Receiver<bool>,
) -> impl Stream<Item = Result<Event, Infallible>> {
    let hello = Some(("hello", serde_json::to_string(&hello).unwrap()));
    stream::unfold((hello, listener, dark), |(hello, mut listener, mut dark)| async move {
        let (name, data) = match hello {
            Some(hello) => hello,
            None => tokio::select! {
                event = listener.recv() => event.ok()?,
                _ = dark.wait_for(|dark| *dark) => return None,
            },
        };
        Some((Ok(Event::default().event(name).data(data)), (None, listener, dark)))
    })
}

async fn confirm(State(node): State<Arc<Shared>>, Json(confirmation): Json<Confirmation>) -> StatusCode {
    node.confirmations.send_modify(|all| all.push(confirmation));
    StatusCode::NO_CONTENT
}

async fn trip(State(node): State<Arc<Shared>>, document: String) -> StatusCode {
    if *node.dark.borrow() {
        return StatusCode::SERVICE_UNAVAILABLE;
    }
    let refusal = *node.trip_refusal.lock();
    if refusal.is_none() {
        let trip = Envelope { document: document.clone(), signatures: Vec::new() };
        let mut world = node.world.lock();
        world.now_ms = wall_ms();
        world.apply(EntryKind::Trip, &trip).expect("the service takes it");
    }
    node.trips.send_modify(|all| all.push(document));
    refusal.unwrap_or(StatusCode::CREATED)
}
