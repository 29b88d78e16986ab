//! The node's HTTP API, seen from a person's machine: one request after the other, at the first node that answers.

use std::cell::Cell;
use std::time::Duration;

use reqwest::multipart::Form;
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url};
use serde::de::DeserializeOwned;
use tagout_proto::digest::Digest;
use tagout_proto::envelope::Envelope;
use tagout_proto::scope::Scope;
use tagout_proto::sentence::sentence;
use tagout_proto::wire::{
    Agents, AuthorityImpact, Cluster, CommandAnswer, Locks, Problem, Status, StopReach, TrustChain,
};

use super::failure::{Exit, Failure, chain};
use super::log::tiles::Tiles;
use super::profile::Profile;
use crate::tls;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A node holds a long poll for 20 s at most.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Above the largest tile (256 entries of 64 KiB) and above a hundred thousand locks with long reasons.
const ANSWER_MAX_BYTES: usize = 256 * 1024 * 1024;

pub struct Client {
    runtime: tokio::runtime::Runtime,
    http: reqwest::Client,
    nodes: Vec<Url>,
    /// The node that answered last: what a stop reached is known best where it was committed.
    current: Cell<usize>,
}

/// An answer in full.
struct Answer {
    status: StatusCode,
    body: Vec<u8>,
}

impl Client {
    /// `node` replaces the profile's nodes.
    pub fn new(profile: &Profile, node: Option<&str>) -> Result<Self, Failure> {
        let nodes: Vec<&str> =
            node.map_or_else(|| profile.nodes.iter().map(String::as_str).collect(), |node| vec![node]);
        if nodes.is_empty() {
            return Err(Failure::usage("the profile names no nodes: give one with --node https://HOST:7470"));
        }
        let nodes = nodes.into_iter().map(base).collect::<Result<_, _>>()?;
        let ca = std::fs::read_to_string(&profile.ca)
            .map_err(|e| Failure::file("read the deployment's CA", &profile.ca, &e))?;
        let tls =
            tls::client_config(&ca).map_err(|e| Failure::new(Exit::Failed, "certificate", chain(&e)))?;
        let local = |e: &dyn std::error::Error| {
            Failure::new(Exit::Failed, "client", format!("no client: {}", chain(e)))
        };
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .https_only(true)
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(ANSWER_TIMEOUT)
            .build()
            .map_err(|e| local(&e))?;
        // A thread of its own notices a closed connection while somebody is still being asked for a passphrase.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.map_err(|e| local(&e))?;
        Ok(Self { runtime, http, nodes, current: Cell::new(0) })
    }

    /// The node that is asked first.
    pub fn node(&self) -> &str {
        self.nodes[self.current.get()].as_str().trim_end_matches('/')
    }

    /// Sends a command. Sending the same bytes to a second node is safe: a command takes effect once, for ever.
    pub fn command(&self, envelope: &Envelope) -> Result<CommandAnswer, Failure> {
        let form = |request: RequestBuilder| {
            let form = Form::new().text("command", envelope.document.clone());
            request
                .multipart(envelope.signatures.iter().fold(form, |form, s| form.text("signature", s.clone())))
        };
        let answer = self.ask(Method::POST, "v1/commands", &form)?;
        self.parse("v1/commands", accepted(answer)?)
    }

    pub fn status(&self) -> Result<Status, Failure> {
        self.get("v1/status")
    }

    /// How the nodes are, as the one that answers sees them.
    pub fn cluster(&self) -> Result<Cluster, Failure> {
        self.get("v1/cluster")
    }

    /// Whom to believe, as the node shows it; nothing of it is verified yet.
    pub fn authority(&self) -> Result<TrustChain, Failure> {
        self.get("v1/authority")
    }

    /// What a next authority, a suspend or a revoke would take away.
    pub fn impact(&self, document: &str) -> Result<AuthorityImpact, Failure> {
        let path = "v1/authority/impact";
        let text = |request: RequestBuilder| request.body(document.to_owned());
        self.parse(path, accepted(self.ask(Method::POST, path, &text)?)?)
    }

    /// Agents on or below `scope`.
    pub fn agents(&self, scope: &Scope) -> Result<Agents, Failure> {
        self.get(&format!("v1/agents?scope={scope}"))
    }

    /// Locks on `scope`, above it and below it.
    pub fn locks(&self, scope: &Scope) -> Result<Locks, Failure> {
        self.get(&format!("v1/locks?scope={scope}"))
    }

    /// What the stop has reached, once that is newer than `after`.
    pub fn reach(&self, lock: &Digest, after: Option<u64>) -> Result<StopReach, Failure> {
        let after = after.map(|version| format!("?after={version}")).unwrap_or_default();
        self.get(&format!("v1/locks/{lock}/reach{after}"))
    }

    /// The checkpoint, once it covers `size` entries or the node has waited long enough.
    pub fn checkpoint(&self, size: u64) -> Result<String, Failure> {
        let path = format!("log/checkpoint?size={size}");
        self.text(&path, accepted(self.ask(Method::GET, &path, &bare)?)?)
    }

    fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.parse(path, accepted(self.ask(Method::GET, path, &bare)?)?)
    }

    fn parse<T: DeserializeOwned>(&self, path: &str, body: Vec<u8>) -> Result<T, Failure> {
        serde_json::from_slice(&body).map_err(|e| self.strange(path, &sentence(e)))
    }

    fn text(&self, path: &str, body: Vec<u8>) -> Result<String, Failure> {
        String::from_utf8(body).map_err(|_| self.strange(path, "it is not UTF-8"))
    }

    fn strange(&self, path: &str, what: &str) -> Failure {
        let detail = format!(
            "{} answered /{path} with something else than expected ({what}): is it a Tagout node, of this version?",
            self.node()
        );
        Failure::new(Exit::Failed, "strange-answer", detail)
    }

    /// Asks each node in turn until one gives an answer of its own; a node without a quorum is asked last in effect.
    fn ask(
        &self,
        method: Method,
        path: &str,
        fill: &dyn Fn(RequestBuilder) -> RequestBuilder,
    ) -> Result<Answer, Failure> {
        let mut silent = Vec::new();
        let mut unable = None;
        for step in 0..self.nodes.len() {
            let at = (self.current.get() + step) % self.nodes.len();
            let url = self.nodes[at].join(path).expect("our paths are plain");
            let request = fill(self.http.request(method.clone(), url));
            match self.runtime.block_on(read(request)) {
                Ok(answer) if answer.status.is_server_error() => unable = unable.or(Some((at, answer))),
                Ok(answer) => {
                    self.current.set(at);
                    return Ok(answer);
                }
                Err(why) => silent.push(format!("{} ({why})", self.nodes[at].as_str().trim_end_matches('/'))),
            }
        }
        if let Some((at, answer)) = unable {
            self.current.set(at);
            return Ok(answer);
        }
        let detail = format!(
            "no node answered: {}. Check the network and the profile's `nodes`, or name a node with --node",
            silent.join("; ")
        );
        Err(Failure::new(Exit::Unreachable, "unreachable", detail))
    }
}

/// The log as the node serves it.
impl Tiles for Client {
    fn read(&self, path: &str) -> Result<Option<Vec<u8>>, Failure> {
        let answer = self.ask(Method::GET, &format!("log/{path}"), &bare)?;
        if answer.status == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        accepted(answer).map(Some)
    }
}

/// A request without a body.
fn bare(request: RequestBuilder) -> RequestBuilder {
    request
}

fn base(node: &str) -> Result<Url, Failure> {
    let url = Url::parse(&format!("{}/", node.trim_end_matches('/'))).ok();
    url.filter(|url| url.scheme() == "https" && url.has_host())
        .ok_or_else(|| Failure::usage(format!("{node:?} is no node's address: write https://HOST:7470")))
}

async fn read(request: RequestBuilder) -> Result<Answer, String> {
    let mut response: Response = request.send().await.map_err(|e| chain(&e.without_url()))?;
    let (status, mut body) = (response.status(), Vec::new());
    while let Some(chunk) = response.chunk().await.map_err(|e| chain(&e.without_url()))? {
        body.extend_from_slice(&chunk);
        if body.len() > ANSWER_MAX_BYTES {
            return Err("its answer is too long".into());
        }
    }
    Ok(Answer { status, body })
}

/// The body of a success; the problem that a node described otherwise.
fn accepted(answer: Answer) -> Result<Vec<u8>, Failure> {
    if answer.status.is_success() {
        return Ok(answer.body);
    }
    Err(Failure::answered(serde_json::from_slice(&answer.body).unwrap_or_else(|_| Problem {
        code: "http".into(),
        status: answer.status.as_u16(),
        title: answer.status.canonical_reason().unwrap_or("an error").into(),
        detail: format!("the node answered {} without saying why", answer.status),
    })))
}

#[cfg(test)]
mod fuzz;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_https_addresses_are_nodes() {
        assert_eq!(base("https://node:7470").unwrap().join("v1/status").unwrap().path(), "/v1/status");
        assert_eq!(base("https://h/tagout/").unwrap().join("v1/status").unwrap().path(), "/tagout/v1/status");
        for bad in ["http://node:7470", "node:7470", "", "https://"] {
            assert_eq!(base(bad).unwrap_err().exit, Exit::Usage, "{bad:?}");
        }
    }

    #[test]
    fn an_answer_that_explains_nothing_still_becomes_a_sentence() {
        let answer = Answer { status: StatusCode::BAD_GATEWAY, body: b"<html>".to_vec() };
        let failure = accepted(answer).unwrap_err();
        assert_eq!(failure.exit, Exit::Unreachable);
        assert!(failure.to_string().contains("502"), "{failure}");
    }
}
