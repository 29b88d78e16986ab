//! The nodes' HTTP API, seen from a person's machine. What takes away is sent to all nodes at once, and everything else is
//! asked of one after the other; a node that says nothing delays nobody by more than a moment.

use std::cell::Cell;
use std::pin::pin;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use reqwest::header::{self, HeaderMap};
use reqwest::multipart::Form;
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url};
use serde::de::DeserializeOwned;
use tagout_proto::digest::Digest;
use tagout_proto::envelope::Envelope;
use tagout_proto::scope::Scope;
use tagout_proto::sentence::sentence;
use tagout_proto::wire::{
    Agents, AuthorityImpact, Cluster, CommandAnswer, DrillAnswer, Enrolments, Locks, NotificationTest,
    Notifications, NotificationsReplayed, NotificationsResumed, Problem, ProposalRecord, ProposalShown,
    Proposals, Status, StopReach, Tokens, TrustChain,
};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};

use self::bearer::Bearer;
use super::Globals;
use super::failure::{Exit, Failure, chain};
use super::log::tiles::Tiles;
use super::profile::Profile;
use super::session::Given;
use crate::tls;

/// A node's problem with a token that it does not know.
const INVALID_TOKEN: &str = "invalid-token";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A node holds a long poll for 20 s at most.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// After so long without an answer the next node is asked too, and whichever answers first counts.
const HEDGE_AFTER: Duration = Duration::from_millis(700);
/// During a long poll, how often a node is asked whether it is still there, and how long that may take.
const PROBE_EVERY: Duration = Duration::from_secs(1);
/// Once one node has said no, how long the others are waited for; and once one has said not yet, before all are asked again.
const AFTER_NO: Duration = Duration::from_secs(5);
const AFTER_NOT_YET: Duration = Duration::from_secs(1);
/// How long something that takes away is sent again to nodes that cannot commit it now: an election takes less.
const QUORUM_PATIENCE: Duration = Duration::from_secs(4);
const QUORUM_RETRY: Duration = Duration::from_millis(300);
/// Above the largest tile (256 entries of 64 KiB) and above a hundred thousand locks with long reasons.
const ANSWER_MAX_BYTES: usize = 256 * 1024 * 1024;

pub mod bearer;

pub struct Client {
    runtime: tokio::runtime::Runtime,
    http: reqwest::Client,
    /// Takes a node's certificate whatever the date is: what takes away is signed, and must get through (S10).
    to_tighten: reqwest::Client,
    nodes: Vec<Url>,
    bearer: Bearer,
    /// The node that answered last: what a stop reached is known best where it was committed.
    current: Cell<usize>,
}

/// An answer in full.
struct Answer {
    status: StatusCode,
    body: Vec<u8>,
}

impl Client {
    /// A node that `globals` name replaces the profile's.
    pub fn new(profile: &Profile, globals: &Globals) -> Result<Self, Failure> {
        let nodes: Vec<&str> = globals
            .node
            .as_deref()
            .map_or_else(|| profile.nodes.iter().map(String::as_str).collect(), |node| vec![node]);
        if nodes.is_empty() {
            return Err(Failure::usage("the profile names no nodes: give one with --node https://HOST:7470"));
        }
        let nodes = nodes.into_iter().map(base).collect::<Result<_, _>>()?;
        let ca = std::fs::read_to_string(&profile.ca)
            .map_err(|e| Failure::file("read the deployment's CA", &profile.ca, &e))?;
        let local = |e: &dyn std::error::Error| {
            Failure::new(Exit::Failed, "client", format!("no client: {}", chain(e)))
        };
        let bearer = Bearer::find(globals.api_token.as_deref(), profile.token.as_deref());
        let shown = bearer.header.iter().map(|value| (header::AUTHORIZATION, value.clone())).collect();
        let http = |tls: Result<rustls::ClientConfig, tls::TlsError>, headers: HeaderMap| {
            let tls = tls.map_err(|e| Failure::new(Exit::Failed, "certificate", chain(&e)))?;
            let client = reqwest::Client::builder()
                .tls_backend_preconfigured(tls)
                .https_only(true)
                .redirect(reqwest::redirect::Policy::none())
                .default_headers(headers)
                .connect_timeout(CONNECT_TIMEOUT)
                .timeout(ANSWER_TIMEOUT);
            client.build().map_err(|e| local(&e))
        };
        // A thread of its own notices a closed connection while somebody is still being asked for a passphrase.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.map_err(|e| local(&e))?;
        let to_tighten = http(tls::client_config_to_tighten(&ca), HeaderMap::new())?;
        let http = http(tls::client_config(&ca), shown)?;
        Ok(Self { runtime, http, to_tighten, nodes, bearer, current: Cell::new(0) })
    }

    /// The node that is asked first.
    pub fn node(&self) -> &str {
        self.name(self.current.get())
    }

    pub fn node_count(&self) -> usize {
        self.nodes.len()
    }

    /// Asks another node first from here on: this one is behind.
    pub fn pass_over(&self) {
        self.current.set((self.current.get() + 1) % self.nodes.len());
    }

    fn name(&self, at: usize) -> &str {
        self.nodes[at].as_str().trim_end_matches('/')
    }

    fn url(&self, at: usize, path: &str) -> Url {
        self.nodes[at].join(path).expect("our paths are plain")
    }

    /// Sends a command that gives. Sending the same bytes to a second node is safe: a command takes effect once, for ever.
    pub fn command(&self, envelope: &Envelope) -> Result<CommandAnswer, Failure> {
        let form = |request: RequestBuilder| request.multipart(form(envelope));
        let answer = self.ask(Method::POST, "v1/commands", &form)?;
        let answer: CommandAnswer = self.parse("v1/commands", self.accepted(answer)?)?;
        self.check_digest(self.current.get(), envelope, answer.digest)?;
        Ok(answer)
    }

    /// Sends a command that gives as a proposal, or more signatures for one. It takes effect once they are enough.
    pub fn propose(&self, envelope: &Envelope) -> Result<Given, Failure> {
        let path = "v1/proposals";
        let answer =
            self.ask(Method::POST, path, &|request: RequestBuilder| request.multipart(form(envelope)))?;
        let open = answer.status == StatusCode::ACCEPTED;
        let body = self.accepted(answer)?;
        let (given, claimed) = if open {
            let record: ProposalRecord = self.parse(path, body)?;
            let claimed = record.id;
            (Given::Proposed(record), claimed)
        } else {
            let answer: CommandAnswer = self.parse(path, body)?;
            let claimed = answer.digest;
            (Given::InForce(answer), claimed)
        };
        self.check_digest(self.current.get(), envelope, claimed)?;
        Ok(given)
    }

    /// Sends a drill. Sending the same bytes to a second node is safe: they are one entry.
    pub fn drill(&self, envelope: &Envelope) -> Result<DrillAnswer, Failure> {
        let path = "v1/drills";
        let form = |request: RequestBuilder| request.multipart(form_of("drill", envelope));
        let answer = self.ask(Method::POST, path, &form)?;
        let answer: DrillAnswer = self.parse(path, self.accepted(answer)?)?;
        self.check_digest(self.current.get(), envelope, answer.digest)?;
        Ok(answer)
    }

    /// Proposals that may be signed, on `scope`, above it and below it.
    pub fn proposals(&self, scope: &Scope) -> Result<Proposals, Failure> {
        self.get(&format!("v1/proposals?scope={scope}"))
    }

    /// One proposal, and what it would let run. A node that has not come as far does not know it yet.
    pub fn proposal(&self, id: &Digest) -> Result<ProposalShown, Failure> {
        let path = format!("v1/proposals/{id}");
        self.where_found(&path).and_then(|answer| self.parse(&path, self.accepted(answer)?))
    }

    /// Sends a command that takes away to every node at once. The first that says it took effect counts; the others go on
    /// by themselves, and each node that cannot commit it keeps it, and pushes it to its own guards (S6, S10).
    pub fn tighten(&self, envelope: &Envelope) -> Result<CommandAnswer, Failure> {
        let begun = Instant::now();
        loop {
            let told = match self.runtime.block_on(self.tell_all(envelope)) {
                Ok((at, answer)) => {
                    self.current.set(at);
                    return Ok(answer);
                }
                Err(told) => told,
            };
            if !told.may_change() || begun.elapsed() > QUORUM_PATIENCE {
                return Err(told.failure(self, envelope));
            }
            std::thread::sleep(QUORUM_RETRY);
        }
    }

    async fn tell_all(&self, envelope: &Envelope) -> Result<(usize, CommandAnswer), Told> {
        let (sender, mut answers) = mpsc::unbounded_channel();
        for at in 0..self.nodes.len() {
            let request = self.to_tighten.post(self.url(at, "v1/commands")).multipart(form(envelope));
            let sender = sender.clone();
            // On its own, so that it reaches its node also when another one has answered.
            tokio::spawn(async move { sender.send((at, read(request).await)) });
        }
        drop(sender);
        let mut told = Told::default();
        let mut until = Instant::now() + ANSWER_TIMEOUT;
        while let Ok(Some((at, answer))) = timeout_at(until, answers.recv()).await {
            let answered = match answer {
                Ok(answer) => accepted(answer).and_then(|body| self.parse_of(at, "v1/commands", body)),
                Err(why) => {
                    told.silent.push((at, why));
                    continue;
                }
            };
            match answered.and_then(|answer: CommandAnswer| {
                self.check_digest(at, envelope, answer.digest).map(|()| answer)
            }) {
                Ok(answer) => return Ok((at, answer)),
                Err(failure) => {
                    let patience = if failure.problem.status == 503 { AFTER_NOT_YET } else { AFTER_NO };
                    until = until.min(Instant::now() + patience);
                    told.said.push((at, failure));
                }
            }
        }
        let heard = |at| told.said.iter().any(|(a, _)| *a == at) || told.silent.iter().any(|(a, _)| *a == at);
        let late: Vec<_> = (0..self.nodes.len()).filter(|at| !heard(*at)).collect();
        told.silent.extend(late.into_iter().map(|at| (at, "no answer yet".into())));
        Err(told)
    }

    fn check_digest(&self, at: usize, sent: &Envelope, claimed: Digest) -> Result<(), Failure> {
        let digest = sent.digest();
        if claimed == digest {
            return Ok(());
        }
        let detail = format!(
            "{} answers for {claimed}, but {digest} was sent: do not trust it, and send it to another node",
            self.name(at)
        );
        Err(Failure::unverified("other-digest", detail))
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
        self.parse(path, self.accepted(self.ask(Method::POST, path, &text)?)?)
    }

    /// Who is told of what happens, and how far that is.
    pub fn notifications(&self) -> Result<Notifications, Failure> {
        self.get("v1/notifications")
    }

    /// Has dead letters sent again, or what entry `id` names.
    pub fn replay_notifications(
        &self,
        receiver: &str,
        id: Option<&str>,
    ) -> Result<NotificationsReplayed, Failure> {
        let mut path = format!("{}/replay", receiver_path(receiver)?);
        if let Some(id) = id {
            path = format!("{path}?id={}", word(id, "id")?);
        }
        self.post(&path)
    }

    pub fn resume_notifications(&self, receiver: &str) -> Result<NotificationsResumed, Failure> {
        self.post(&format!("{}/resume", receiver_path(receiver)?))
    }

    pub fn test_notification(&self, receiver: &str) -> Result<NotificationTest, Failure> {
        self.post(&format!("{}/test", receiver_path(receiver)?))
    }

    fn post<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.parse(path, self.accepted(self.ask(Method::POST, path, &bare)?)?)
    }

    /// Agents on or below `scope`.
    pub fn agents(&self, scope: &Scope) -> Result<Agents, Failure> {
        self.get(&format!("v1/agents?scope={scope}"))
    }

    /// Enrolments on `scope`, above it and below it.
    pub fn enrolments(&self, scope: &Scope) -> Result<Enrolments, Failure> {
        self.get(&format!("v1/enrolments?scope={scope}"))
    }

    /// Locks on `scope`, above it and below it.
    pub fn locks(&self, scope: &Scope) -> Result<Locks, Failure> {
        self.get(&format!("v1/locks?scope={scope}"))
    }

    /// What the stop has reached, once that is newer than `after`. Each node counts its versions for itself: where another
    /// one has to be asked, it tells what there is.
    pub fn reach(&self, lock: &Digest, after: Option<u64>) -> Result<StopReach, Failure> {
        let path = format!("v1/locks/{lock}/reach");
        if let Some(version) = after {
            let at = self.current.get();
            let request = self.http.get(self.url(at, &format!("{path}?after={version}")));
            match self.runtime.block_on(self.while_alive(at, request)) {
                Ok(answer) if answer.status.is_success() => return self.parse(&path, answer.body),
                Ok(_) | Err(_) => self.pass_over(),
            }
        }
        // A node that has not come as far does not know the stop yet.
        self.where_found(&path).and_then(|answer| self.parse(&path, self.accepted(answer)?))
    }

    /// The checkpoint, once it covers `size` entries or the node has waited long enough.
    pub fn checkpoint(&self, size: u64) -> Result<String, Failure> {
        let path = format!("log/checkpoint?size={size}");
        self.text(&path, self.accepted(self.ask(Method::GET, &path, &bare)?)?)
    }

    /// The API tokens that a node takes.
    pub fn tokens(&self) -> Result<Tokens, Failure> {
        self.get("v1/tokens")
    }

    /// As [`accepted`], and where reading was refused, with what was not shown here, and why.
    fn accepted(&self, answer: Answer) -> Result<Vec<u8>, Failure> {
        accepted(answer).map_err(|mut failure| {
            if failure.problem.code == INVALID_TOKEN {
                failure.problem.detail = format!("{}: {}", self.node(), failure.problem.detail);
            }
            self.bearer.explain(failure)
        })
    }

    /// Whether a node gives leases; what it said otherwise.
    pub fn ready(&self) -> Result<(), Failure> {
        self.accepted(self.ask(Method::GET, "readyz", &bare)?).map(drop)
    }

    fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.parse(path, self.accepted(self.ask(Method::GET, path, &bare)?)?)
    }

    fn parse<T: DeserializeOwned>(&self, path: &str, body: Vec<u8>) -> Result<T, Failure> {
        self.parse_of(self.current.get(), path, body)
    }

    fn parse_of<T: DeserializeOwned>(&self, at: usize, path: &str, body: Vec<u8>) -> Result<T, Failure> {
        serde_json::from_slice(&body).map_err(|e| self.strange(at, path, &sentence(e)))
    }

    fn text(&self, path: &str, body: Vec<u8>) -> Result<String, Failure> {
        String::from_utf8(body).map_err(|_| self.strange(self.current.get(), path, "it is not UTF-8"))
    }

    fn strange(&self, at: usize, path: &str, what: &str) -> Failure {
        let detail = format!(
            "{} answered /{path} with something else than expected ({what}): is it a Tagout node, of this version?",
            self.name(at)
        );
        Failure::new(Exit::Failed, "strange-answer", detail)
    }

    /// Asks each node in turn until one gives an answer of its own: the next one at once where one fails or has no quorum,
    /// and after a moment where one says nothing. Whatever is asked so may be answered twice.
    fn ask(
        &self,
        method: Method,
        path: &str,
        fill: &dyn Fn(RequestBuilder) -> RequestBuilder,
    ) -> Result<Answer, Failure> {
        let (count, first) = (self.nodes.len(), self.current.get());
        let request = |step| {
            let at = (first + step) % count;
            let request = fill(self.http.request(method.clone(), self.url(at, path)));
            async move { (at, read(request).await) }
        };
        let (mut silent, mut unable, mut asked) = (Vec::new(), None, 0);
        let answered = self.runtime.block_on(async {
            let mut open = FuturesUnordered::new();
            loop {
                let more = asked < count;
                if open.is_empty() && !more {
                    return None;
                }
                if !open.is_empty() {
                    let next = timeout(if more { HEDGE_AFTER } else { ANSWER_TIMEOUT * 2 }, open.next());
                    match next.await {
                        Ok(Some((at, Ok::<Answer, String>(answer)))) if another_may(&answer) => {
                            unable = unable.take().or(Some((at, answer)));
                        }
                        Ok(Some((at, Ok(answer)))) => return Some((at, answer)),
                        Ok(Some((at, Err(why)))) => silent.push((at, why)),
                        Ok(None) | Err(_) => {}
                    }
                }
                if more {
                    open.push(request(asked));
                    asked += 1;
                }
            }
        });
        if let Some((at, answer)) = answered.or(unable) {
            self.current.set(at);
            return Ok(answer);
        }
        Err(self.unreachable(&silent))
    }

    /// As a bare [`Client::ask`]; where a node has no such thing, another may have it.
    fn where_found(&self, path: &str) -> Result<Answer, Failure> {
        let mut last = self.ask(Method::GET, path, &bare)?;
        for _ in 1..self.nodes.len() {
            if last.status != StatusCode::NOT_FOUND {
                break;
            }
            self.pass_over();
            last = self.ask(Method::GET, path, &bare)?;
        }
        Ok(last)
    }

    /// Waits for a long poll for as long as its node answers other questions.
    async fn while_alive(&self, at: usize, request: RequestBuilder) -> Result<Answer, String> {
        let mut answer = pin!(read(request));
        loop {
            if let Ok(answer) = timeout(PROBE_EVERY, answer.as_mut()).await {
                return answer;
            }
            let probe = self.http.get(self.url(at, "healthz")).timeout(PROBE_EVERY);
            tokio::select! {
                biased;
                answer = answer.as_mut() => return answer,
                probe = read(probe) => drop(probe?),
            }
        }
    }

    fn unreachable(&self, silent: &[(usize, String)]) -> Failure {
        let detail = format!(
            "no node answered: {}. Check the network and the profile's `nodes`, or name a node with --node",
            self.listed(silent)
        );
        Failure::new(Exit::Unreachable, "unreachable", detail)
    }

    fn listed(&self, nodes: &[(usize, String)]) -> String {
        let each: Vec<_> = nodes.iter().map(|(at, why)| format!("{} ({why})", self.name(*at))).collect();
        each.join("; ")
    }
}

/// What the nodes said to a command that none of them says took effect.
#[derive(Default)]
struct Told {
    said: Vec<(usize, Failure)>,
    silent: Vec<(usize, String)>,
}

impl Told {
    /// A quorum may be back in a moment; a refusal stays.
    fn may_change(&self) -> bool {
        !self.said.is_empty() && self.said.iter().all(|(_, failure)| failure.problem.status == 503)
    }

    fn failure(mut self, client: &Client, envelope: &Envelope) -> Failure {
        if self.said.is_empty() {
            return client.unreachable(&self.silent);
        }
        let code = |failure: &Failure, code: &str| failure.problem.code == code;
        let pending: Vec<_> = (self.said.iter())
            .filter(|(_, failure)| code(failure, "pending"))
            .map(|(at, _)| client.name(*at))
            .collect();
        // What people have to do something about comes first; a node that only waits for a quorum does so by itself.
        self.said.sort_by_key(|(_, failure)| (failure.exit == Exit::Unreachable, code(failure, "pending")));
        let (first, mut failure) = self.said.remove(0);
        let mut notes = Vec::new();
        if !pending.is_empty() {
            let stored = format!(
                "it is stored as pending on {}: it is pushed to the guards that can be reached from there, and commits when a \
                 quorum is back (digest {})",
                pending.join(", "),
                envelope.digest()
            );
            if code(&failure, "pending") {
                failure.problem.detail = format!("not in force everywhere yet: {stored}");
            } else {
                notes.push(stored);
            }
        }
        let others = self.said.into_iter().filter(|(_, other)| !code(other, "pending"));
        for (at, other) in others.filter(|(_, other)| other.problem.code != failure.problem.code) {
            notes.push(format!("{} says: {other}", client.name(at)));
        }
        if !self.silent.is_empty() {
            notes.push(format!("without an answer: {}", client.listed(&self.silent)));
        }
        if !notes.is_empty() {
            if client.node_count() > 1 && !code(&failure, "pending") {
                failure.problem.detail = format!("{}: {}", client.name(first), failure.problem.detail);
            }
            failure.problem.detail = format!("{}; {}", failure.problem.detail, notes.join("; "));
        }
        failure
    }
}

/// The log as the nodes serve it. One may not have come as far as another.
impl Tiles for Client {
    fn read(&self, path: &str) -> Result<Option<Vec<u8>>, Failure> {
        let answer = self.where_found(&format!("log/{path}"))?;
        if answer.status == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        self.accepted(answer).map(Some)
    }
}

fn form(envelope: &Envelope) -> Form {
    form_of("command", envelope)
}

fn form_of(part: &'static str, envelope: &Envelope) -> Form {
    let form = Form::new().text(part, envelope.document.clone());
    envelope.signatures.iter().fold(form, |form, s| form.text("signature", s.clone()))
}

fn receiver_path(receiver: &str) -> Result<String, Failure> {
    Ok(format!("v1/notifications/{}", word(receiver, "receiver's name")?))
}

/// What stands in an address as it is.
fn word<'a>(text: &'a str, what: &str) -> Result<&'a str, Failure> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    if !text.is_empty() && text.bytes().all(plain) && ![".", ".."].contains(&text) {
        return Ok(text);
    }
    Err(Failure::usage(format!("{text:?} is no {what}: `tagout notifications` lists them")))
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
    let mut response: Response = request.send().await.map_err(|e| said(&e.without_url()))?;
    let (status, mut body) = (response.status(), Vec::new());
    while let Some(chunk) = response.chunk().await.map_err(|e| chain(&e.without_url()))? {
        body.extend_from_slice(&chunk);
        if body.len() > ANSWER_MAX_BYTES {
            return Err("its answer is too long".into());
        }
    }
    Ok(Answer { status, body })
}

/// What went wrong with a connection, and what to do where that is known.
fn said(error: &reqwest::Error) -> String {
    let text = chain(error);
    if text.contains("certificate expired") {
        return format!("{text}; its node needs `tagout renew`, and stopping works all the same");
    }
    text
}

/// Whether another node may give what this one does not: it has a quorum, or knows the token.
fn another_may(answer: &Answer) -> bool {
    let unknown = || serde_json::from_slice::<Problem>(&answer.body).is_ok_and(|p| p.code == INVALID_TOKEN);
    answer.status.is_server_error() || (answer.status == StatusCode::UNAUTHORIZED && unknown())
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

#[cfg(test)]
mod several;
