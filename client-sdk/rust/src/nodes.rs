//! The nodes over HTTP: one request at a time to one of them, the next one after a failure. Believes nothing it reads.

use std::error::Error as _;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use reqwest::header::{self, HeaderValue};
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use serde::de::DeserializeOwned;
use tagout_proto::lease::{LeaseRequest, LeaseResponse};
use tagout_proto::scope::Scope;
use tagout_proto::sentence::sentence;
use tagout_proto::token::Token;
use tagout_proto::wire::{Confirmation, Problem, TrustChain};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::limits::*;
use crate::tls;

pub(crate) struct Nodes {
    /// Without a slash at the end.
    urls: Vec<String>,
    tls: ClientConfig,
    /// `Bearer` and the token, for what is said in an agent's name.
    authorization: Option<HeaderValue>,
    /// For each node, the client whose connection answered last, or a new one.
    http: Arc<Mutex<Vec<reqwest::Client>>>,
    /// Requests for leases, also those that nobody waits for any more.
    asked: Mutex<JoinSet<()>>,
    /// The node whose turn it is, counted on and on.
    turn: watch::Sender<usize>,
    /// The node that was left last because nothing good comes from it: whoever listens there leaves too.
    left: watch::Sender<Option<usize>>,
}

/// What nodes answer to a process that is not enrolled for what it asks.
const UNENROLLED_CODES: [&str; 2] = ["not-enrolled", "enrolled-elsewhere"];

/// Why another node's turn has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Left {
    /// It says nothing; perhaps only our connection is broken.
    Silent,
    /// What it says is older than what was seen, or not to be believed.
    Unproven,
    /// It says that it cannot answer now, as all may while they choose a leader.
    Unable,
}

#[derive(Debug, thiserror::Error)]
pub enum NodesError {
    #[error("no node is given: use .node(\"https://host:port\")")]
    None,
    #[error("node {0:?} is no https://host:port address")]
    Address(String),
    #[error("node {0:?} is neither https nor on this host: leases travel over TLS")]
    Plain(String),
    #[error("no CA is given for the https nodes: use .ca_file(…) with the deployment's ca.pem")]
    NoCa,
    #[error("the CA file is no PEM of certificates: {0}")]
    Ca(String),
    #[error("the HTTP client cannot be made")]
    Http(#[source] reqwest::Error),
    #[error("TLS cannot be set up")]
    Tls(#[source] rustls::Error),
}

/// Why a node gave no answer.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{node}: {what}")]
pub(crate) struct NodeError {
    node: String,
    what: String,
    /// The node's own wish, in whole seconds.
    pub(crate) retry_after: Option<Duration>,
    /// The node has understood, and its answer will not change.
    pub(crate) is_final: bool,
    /// Why this process gets no lease, where it is not enrolled for what it asks.
    pub(crate) unenrolled: Option<String>,
    pub(crate) left: Left,
}

impl Nodes {
    pub(crate) fn new(
        nodes: &[String],
        ca_pem: Option<&[u8]>,
        token: Option<&Token>,
    ) -> Result<Self, NodesError> {
        let urls = nodes.iter().map(|node| address(node)).collect::<Result<Vec<_>, _>>()?;
        if urls.is_empty() {
            return Err(NodesError::None);
        }
        let mut roots = RootCertStore::empty();
        match ca_pem {
            Some(pem) => {
                for certificate in CertificateDer::pem_slice_iter(pem) {
                    let certificate = certificate.map_err(|e| NodesError::Ca(e.to_string()))?;
                    roots.add(certificate).map_err(|e| NodesError::Ca(e.to_string()))?;
                }
                if roots.is_empty() {
                    return Err(NodesError::Ca("it holds no certificate".into()));
                }
            }
            None if urls.iter().any(|url| url.starts_with("https://")) => return Err(NodesError::NoCa),
            None => {}
        }
        let tls = tls::client_config(roots).map_err(NodesError::Tls)?;
        let http = vec![connect(&tls).map_err(NodesError::Http)?; urls.len()];
        // A fleet that starts at once shall not meet at the first node of everybody's list.
        let first = getrandom::u32().map_or(0, |random| random as usize % urls.len());
        let (turn, left) = (watch::Sender::new(first), watch::Sender::new(None));
        let authorization = token.map(|token| {
            let bearer = format!("Bearer {}", token.reveal());
            let mut value = HeaderValue::try_from(bearer).expect("a token is printable ASCII");
            value.set_sensitive(true);
            value
        });
        let http = Arc::new(Mutex::new(http));
        Ok(Self { urls, tls, authorization, http, asked: Mutex::default(), turn, left })
    }

    pub(crate) fn count(&self) -> usize {
        self.urls.len()
    }

    /// Turns to the next node.
    pub(crate) fn turn(&self, left: Left) {
        let node = self.at(0);
        self.turn.send_modify(|turn| *turn = turn.wrapping_add(1));
        if left != Left::Unable {
            self.left.send_replace(Some(node));
        }
        // A connection that fails silently must not be used again, unless its answer was only late.
        if left == Left::Silent
            && let Ok(http) = connect(&self.tls)
        {
            self.http.lock()[node] = http;
        }
    }

    /// The node that is so far from the one whose turn it is.
    pub(crate) fn at(&self, offset: usize) -> usize {
        self.turn.borrow().wrapping_add(offset) % self.urls.len()
    }

    /// From now on, the nodes that are left for what they say or do not say.
    pub(crate) fn leavings(&self) -> watch::Receiver<Option<usize>> {
        self.left.subscribe()
    }

    fn node(&self, offset: usize) -> (&str, reqwest::Client) {
        self.numbered(self.at(offset))
    }

    fn numbered(&self, node: usize) -> (&str, reqwest::Client) {
        (&self.urls[node], self.http.lock()[node].clone())
    }

    fn authorized(&self, request: RequestBuilder) -> RequestBuilder {
        match &self.authorization {
            Some(value) => request.header(header::AUTHORIZATION, value),
            None => request,
        }
    }

    /// `POST /v1/leases` at the node whose turn it is.
    ///
    /// A request that is given up goes on by itself: its connection serves the next one, if it answers at all. Otherwise a fleet
    /// that is answered late would make all its connections anew, which takes more of everybody than any answer.
    pub(crate) async fn lease(
        &self,
        request: &LeaseRequest,
        within: Duration,
    ) -> Result<LeaseResponse, NodeError> {
        let number = self.at(0);
        let (node, http) = self.numbered(number);
        let request = self.authorized(http.post(format!("{node}/v1/leases"))).json(request);
        let request = request.timeout(Duration::from_millis(LEASE_TIMEOUT_MS));
        let (answered, answer) = oneshot::channel();
        {
            let mut asked = self.asked.lock();
            while asked.try_join_next().is_some() {}
            let clients = Arc::clone(&self.http);
            asked.spawn(async move {
                let response = request.send().await;
                if response.is_ok() {
                    clients.lock()[number] = http;
                }
                drop(answered.send(response));
            });
        }
        let answer = async {
            let response = answer.await.map_err(|_gone| NodeError::late(node))?;
            body(node, accepted(node, response).await?, RESPONSE_MAX_BYTES).await
        };
        timeout(within, answer).await.unwrap_or_else(|_elapsed| Err(NodeError::late(node)))
    }

    /// `GET /v1/authority` at the node whose turn it is. It may be long, but it has to begin `within` that time.
    pub(crate) async fn trust_chain(&self, within: Duration) -> Result<TrustChain, NodeError> {
        let (node, http) = self.node(0);
        let request = self.authorized(http.get(format!("{node}/v1/authority")));
        let request = request.timeout(Duration::from_millis(TRUST_CHAIN_TIMEOUT_MS));
        let response = timeout(within, request.send()).await.map_err(|_elapsed| NodeError::late(node))?;
        let response = accepted(node, response).await?;
        body(node, response, TRUST_CHAIN_MAX_BYTES).await
    }

    /// `POST /v1/confirmations`, at another node with every attempt.
    pub(crate) async fn confirm(&self, confirmation: &Confirmation, attempt: u32) -> Result<(), NodeError> {
        let (node, http) = self.node(attempt as usize);
        let request = self.authorized(http.post(format!("{node}/v1/confirmations"))).json(confirmation);
        let request = request.timeout(Duration::from_millis(CONFIRM_TIMEOUT_MS));
        accepted(node, request.send().await).await.map(drop)
    }

    /// `POST /v1/trips`, at another node with every attempt. What was taken before is taken, also if it has ended since.
    pub(crate) async fn trip(&self, document: &str, attempt: u32) -> Result<(), NodeError> {
        let (node, http) = self.node(attempt as usize);
        let request = self.authorized(http.post(format!("{node}/v1/trips"))).body(document.to_owned());
        let request = request.header(header::CONTENT_TYPE, "application/json");
        let response = request.timeout(Duration::from_millis(TRIP_TIMEOUT_MS)).send().await;
        match response {
            Ok(response) if response.status() == StatusCode::CONFLICT => Ok(()),
            response => accepted(node, response).await.map(drop),
        }
    }

    /// `GET /v1/events` at that node: the stream, once its head has come.
    pub(crate) async fn events(
        &self,
        scopes: &[Scope],
        instance: &str,
        node: usize,
    ) -> Result<Response, NodeError> {
        let (node, http) = self.numbered(node);
        // A scope's characters mean themselves in a query (RFC 3986, 3.4), the comma and the star too.
        let scopes = scopes.iter().map(Scope::as_str).collect::<Vec<_>>().join(",");
        let mut url =
            Url::parse(&format!("{node}/v1/events?scope={scopes}")).expect("a node's address is one");
        url.query_pairs_mut().append_pair("instance", instance);
        let request = self.authorized(http.request(Method::GET, url));
        let request = request.header(header::ACCEPT, "text/event-stream");
        let response = timeout(Duration::from_millis(PUSH_CONNECT_MS), request.send()).await;
        accepted(node, response.map_err(|_elapsed| NodeError::late(node))?).await
    }
}

impl NodeError {
    fn new(node: &str, what: impl Into<String>) -> Self {
        let (node, what) = (node.into(), what.into());
        Self { node, what, retry_after: None, is_final: false, unenrolled: None, left: Left::Unproven }
    }

    fn late(node: &str) -> Self {
        Self { left: Left::Silent, ..Self::new(node, "it does not answer in time") }
    }

    fn transport(node: &str, error: reqwest::Error) -> Self {
        let error = error.without_url();
        let mut what = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            what = format!("{what}: {cause}");
            source = cause.source();
        }
        Self { left: Left::Silent, ..Self::new(node, what) }
    }
}

fn connect(tls: &ClientConfig) -> Result<reqwest::Client, reqwest::Error> {
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls.clone())
        .user_agent(concat!("tagout-rust/", env!("CARGO_PKG_VERSION")))
        // The nodes are named one by one: nothing on the way may send us elsewhere.
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .tcp_nodelay(true)
        .pool_idle_timeout(Duration::from_millis(CONNECTION_IDLE_MS))
        .pool_max_idle_per_host(1)
        .build()
}

/// Checks a node's address and gives it without a slash at the end.
fn address(node: &str) -> Result<String, NodesError> {
    let wrong = || NodesError::Address(node.into());
    let url = Url::parse(node).map_err(|_| wrong())?;
    let host = url.host_str().ok_or_else(wrong)?;
    if url.path() != "/" || url.query().is_some() || url.fragment().is_some() || !url.username().is_empty() {
        return Err(wrong());
    }
    let ip = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    match url.scheme() {
        "https" => {}
        "http" if ip.is_ok_and(|ip| ip.is_loopback()) => {}
        "http" => return Err(NodesError::Plain(node.into())),
        _ => return Err(wrong()),
    }
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

/// A response of status 2xx.
async fn accepted(node: &str, response: Result<Response, reqwest::Error>) -> Result<Response, NodeError> {
    let response = response.map_err(|error| NodeError::transport(node, error))?;
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let wish =
        response.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    let problem: Option<Problem> =
        bytes(node, response, PROBLEM_MAX_BYTES).await.ok().and_then(|b| serde_json::from_slice(&b).ok());
    let unenrolled = problem.as_ref().filter(|p| UNENROLLED_CODES.contains(&p.code.as_str()));
    let unenrolled = unenrolled.map(|problem| sentence(&problem.detail));
    let what = match problem {
        Some(problem) => {
            format!("{status}: {}", sentence(problem.detail))
        }
        None => status.to_string(),
    };
    let retry_after = wish.map(Duration::from_secs);
    // 404 is what a node says that has not applied as far as another one.
    let again =
        matches!(status, StatusCode::NOT_FOUND | StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS);
    let is_final = status.is_client_error() && !again;
    let left = Left::Unable;
    Err(NodeError { retry_after, is_final, unenrolled, left, ..NodeError::new(node, what) })
}

async fn body<T: DeserializeOwned>(node: &str, response: Response, max: usize) -> Result<T, NodeError> {
    let bytes = bytes(node, response, max).await?;
    serde_json::from_slice(&bytes)
        .map_err(|error| NodeError::new(node, format!("its answer is malformed: {}", sentence(error))))
}

async fn bytes(node: &str, mut response: Response, max: usize) -> Result<Vec<u8>, NodeError> {
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| NodeError::transport(node, error))? {
        if bytes.len() + chunk.len() > max {
            return Err(NodeError::new(node, format!("its answer has more than {max} bytes")));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_is_for_loopback_only() {
        for (good, clean) in [
            ("https://node-1.example:7470", "https://node-1.example:7470"),
            ("https://node-1.example/", "https://node-1.example"),
            ("http://127.0.0.1:7470", "http://127.0.0.1:7470"),
            ("http://[::1]:7470/", "http://[::1]:7470"),
        ] {
            assert_eq!(address(good).unwrap(), clean);
        }
        for plain in ["http://node-1.example", "http://localhost", "http://10.0.0.1:7470"] {
            assert!(matches!(address(plain), Err(NodesError::Plain(_))), "{plain}");
        }
        for bad in
            ["", "node-1:7470", "ftp://node-1", "https://node-1/v1", "https://u@node-1", "https://n?a=b"]
        {
            assert!(matches!(address(bad), Err(NodesError::Address(_))), "{bad}");
        }
    }

    #[test]
    fn https_needs_a_ca() {
        let https = ["https://node-1:7470".to_owned()];
        assert!(matches!(Nodes::new(&[], None, None), Err(NodesError::None)));
        assert!(matches!(Nodes::new(&https, None, None), Err(NodesError::NoCa)));
        assert!(matches!(Nodes::new(&https, Some(b"no pem"), None), Err(NodesError::Ca(_))));
    }
}
