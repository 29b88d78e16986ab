//! Guards in the stacks of HTTP clients, against a server that counts what reaches it and what leaves it.

use std::convert::Infallible;
use std::future::{Ready, pending, ready};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, Response, StatusCode};
use axum::routing::get;
use futures_util::{StreamExt, stream};
use http_body_util::BodyExt;
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware};
use reqwest_retry::{RetryTransientMiddleware, policies::ExponentialBackoff};
use rustls::crypto::ring::default_provider;
use tagout::http::BoxError;
use tagout::proto::lock::LockKind;
use tagout::{Guard, Reason, Stopped};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tower::retry::{Policy, RetryLayer};
use tower::{Service, ServiceBuilder, ServiceExt, service_fn};

use crate::client::{stopped_by, until};
use crate::node::*;
use crate::world::*;

const TTL_MS: u64 = 10_000;
const GRACE_MS: u64 = 20_000;
const RETRIES: usize = 2;

#[tokio::test(flavor = "multi_thread")]
async fn s3_a_guard_in_a_client_cuts_a_body_in_its_middle_and_its_refusal_is_not_retried() {
    let (node, model) = (Node::start(TTL_MS, GRACE_MS).await, Model::start().await);
    let guard = node.running_guard().await;
    let client = retrying(&guard);

    let answer = client.get(model.at("/word")).send().await.unwrap();
    assert_eq!((answer.status(), answer.url().as_str()), (StatusCode::OK, model.at("/word").as_str()));
    assert_eq!(guard.state().calls_under_way, 1, "its body is still to be read");
    assert_eq!(answer.text().await.unwrap(), "word");
    assert_eq!((guard.state().calls_under_way, model.requests()), (0, 1));
    let busy = client.get(model.at("/busy")).send().await.unwrap();
    assert_eq!((busy.status(), model.requests()), (StatusCode::SERVICE_UNAVAILABLE, 1 + 1 + RETRIES));
    drop(busy);

    let silent = tokio::spawn(client.get(model.at("/silent")).send());
    reached(&model.requests, |requests| *requests == 3 + RETRIES).await;
    let mut words = client.get(model.at("/words")).send().await.unwrap();
    assert_eq!(words.chunk().await.unwrap().unwrap(), "word");
    let lock = node.stop(AGENT, LockKind::Halt, true);
    for error in [
        &within(words.chunk()).await.unwrap_err() as &(dyn std::error::Error + 'static),
        &within(silent).await.unwrap().unwrap_err(),
    ] {
        let cut = Stopped::find(error).expect("it says why");
        assert!(matches!(cut, Stopped::Cut(_)) && stops(cut, lock), "{cut}");
    }
    assert_eq!(within(words.chunk()).await.unwrap(), None);
    reached(&model.open, |open| *open == 0).await;
    reached(&node.shared.confirmations, |all| all.iter().any(|c| c.lock == lock && c.calls_cut == 2)).await;

    let error = client.get(model.at("/word")).send().await.unwrap_err();
    let refused = Stopped::find(&error).expect("it says why");
    assert!(matches!(refused, Stopped::Denied(_)) && stops(refused, lock), "{refused}");
    assert_eq!(model.requests(), 4 + RETRIES, "nothing was asked again");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_essential_guard_in_a_client_goes_on_under_a_restriction() {
    let (node, model) = (Node::start(TTL_MS, GRACE_MS).await, Model::start().await);
    node.shared.world.lock().grant_with("demo", DAY_MS, serde_json::json!({"essential": ["handover"]}));
    let guard = node.running_guard().await;
    let lock = node.stop(AGENT, LockKind::Restrict, true);
    until(&guard, |state| stopped_by(state, lock)).await;
    assert!(retrying(&guard).get(model.at("/word")).send().await.is_err());
    let essential = ClientBuilder::new(plain()).with(guard.essential("handover").unwrap()).build();
    let answer = essential.get(model.at("/word")).send().await.unwrap();
    assert_eq!(answer.text().await.unwrap(), "word");
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_a_guard_as_a_layer_cuts_and_whoever_retries_finds_the_refusal() {
    let node = Node::start(TTL_MS, GRACE_MS).await;
    let guard = node.running_guard().await;
    let asked = watch::Sender::new(0);
    let model = {
        let asked = asked.clone();
        service_fn(move |request: Request<()>| {
            asked.send_modify(|asked| *asked += 1);
            ready(match request.uri().path() {
                "/words" => Ok(Response::new(Body::from_stream(words(())))),
                _ => Err(BoxError::from("no such path")),
            })
        })
    };
    // The guard is asked by the retries, as a careless stack has it.
    let stack = ServiceBuilder::new().layer(RetryLayer::new(Thrice(3))).layer(guard.clone());
    let mut stack = stack.service(model);
    let request = |path: &str| Request::builder().uri(path).body(()).unwrap();
    assert!(stack.ready().await.unwrap().call(request("/")).await.is_err());
    assert_eq!(*asked.borrow(), 3, "an ordinary failure is retried");

    let answer = stack.ready().await.unwrap().call(request("/words")).await.unwrap();
    let mut answer = answer.into_body();
    let frame = answer.frame().await.unwrap().unwrap();
    assert_eq!(frame.into_data().unwrap(), "word");
    assert_eq!(guard.state().calls_under_way, 1);
    let lock = node.stop(AGENT, LockKind::Halt, true);
    let cut = within(answer.frame()).await.unwrap().unwrap_err();
    assert!(stops(Stopped::find(&*cut).unwrap(), lock), "{cut}");
    reached(&node.shared.confirmations, |all| all.iter().any(|c| c.lock == lock && c.calls_cut == 1)).await;
    let refused = stack.ready().await.unwrap().call(request("/words")).await.unwrap_err();
    assert!(matches!(Stopped::find(&*refused), Some(Stopped::Denied(_))), "{refused}");
    assert_eq!(*asked.borrow(), 4);
}

fn stops(stopped: &Stopped, lock: tagout::proto::digest::Digest) -> bool {
    matches!(stopped.reason(), Reason::Stopped(told) if told.id == lock)
}

/// Retries what its own rules call transient, before it asks the guard.
fn retrying(guard: &Guard) -> ClientWithMiddleware {
    let bounds = (Duration::from_millis(1), Duration::from_millis(2));
    let policy = ExponentialBackoff::builder().retry_bounds(bounds.0, bounds.1);
    let retry = RetryTransientMiddleware::new_with_policy(policy.build_with_max_retries(RETRIES as u32));
    ClientBuilder::new(plain()).with(retry).with(guard.clone()).build()
}

/// The SDK's reqwest brings no TLS provider of its own, so a client is given one, here unused.
fn plain() -> reqwest::Client {
    let tls = rustls::ClientConfig::builder_with_provider(Arc::new(default_provider()));
    let tls = tls.with_safe_default_protocol_versions().unwrap();
    let tls = tls.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth();
    reqwest::Client::builder().tls_backend_preconfigured(tls).no_proxy().build().unwrap()
}

/// One word, and then nothing for ever; holds `with` until it is dropped.
fn words<T: Send + 'static>(with: T) -> impl futures_util::Stream<Item = Result<&'static str, Infallible>> {
    stream::iter([Ok("word")]).chain(stream::pending()).map(move |word| {
        let _with = &with;
        word
    })
}

struct Model {
    url: String,
    requests: watch::Sender<usize>,
    /// Answers that nobody has left yet.
    open: watch::Sender<usize>,
}

impl Model {
    async fn start() -> Self {
        let (requests, open) = (watch::Sender::new(0), watch::Sender::new(0));
        let begin = {
            let (requests, open) = (requests.clone(), open.clone());
            move || {
                requests.send_modify(|requests| *requests += 1);
                open.send_modify(|open| *open += 1);
                Open(open.clone())
            }
        };
        let counted = |answer: fn(Open) -> Response<Body>| {
            let begin = begin.clone();
            get(move || ready(answer(begin())))
        };
        let router = axum::Router::new()
            .route("/word", counted(|_| Response::new("word".into())))
            .route(
                "/busy",
                counted(|_| {
                    Response::builder().status(StatusCode::SERVICE_UNAVAILABLE).body(Body::empty()).unwrap()
                }),
            )
            .route("/words", counted(|open| Response::new(Body::from_stream(words(open)))))
            .route(
                "/silent",
                get({
                    let begin = begin.clone();
                    async move || {
                        let _open = begin();
                        pending::<()>().await
                    }
                }),
            );
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, requests, open }
    }

    fn at(&self, path: &str) -> String {
        format!("{}{path}", self.url)
    }

    fn requests(&self) -> usize {
        *self.requests.borrow()
    }
}

struct Open(watch::Sender<usize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.send_modify(|open| *open -= 1);
    }
}

/// Tries so often, but takes a refusal for an answer.
#[derive(Clone)]
struct Thrice(usize);

impl<A> Policy<Request<()>, A, BoxError> for Thrice {
    type Future = Ready<()>;

    fn retry(&mut self, _: &mut Request<()>, result: &mut Result<A, BoxError>) -> Option<Ready<()>> {
        let error = result.as_ref().err()?;
        self.0 -= 1;
        (self.0 > 0 && Stopped::find(&**error).is_none()).then(|| ready(()))
    }

    fn clone_request(&mut self, request: &Request<()>) -> Option<Request<()>> {
        Some(request.clone())
    }
}
