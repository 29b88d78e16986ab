//! The command against several nodes: which of them count, and which cost nothing.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{Method, StatusCode, Uri, header};
use axum::response::IntoResponse;
use data_encoding::BASE64;
use tagout_proto::command::{Action, LockCommand, Release};
use tagout_proto::lock::LockKind;
use tagout_proto::log::checkpoint::Checkpoint;
use tagout_proto::note::NoteSigner;
use tagout_proto::wire::Reach;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::cli::log::seen::Seen;
use crate::cli::out::Out;
use crate::cli::session::Session;
use crate::cli::signing::Signed;
use crate::cli::testing::{self, Deployed};
use crate::config::NodeConfig;
use crate::pki::testing::{DAY_S, issue_between};
use crate::tls::{ServerLimits, serve_tls, server_config};

/// What a fake node says: status and body, by method and path (with the query).
type Answers = BTreeMap<&'static str, (u16, String)>;

struct Fakes {
    deployed: Deployed,
    out: Out,
    runtime: tokio::runtime::Runtime,
    /// Held open, and never answered.
    silent: Vec<TcpListener>,
}

struct Fake {
    url: String,
    commands: Arc<AtomicUsize>,
}

#[derive(Clone)]
struct Saying(Arc<Answers>, Arc<AtomicUsize>);

impl Fakes {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let (deployed, out) = (testing::deployed(), Out::new(true));
        Self { deployed, out, runtime: runtime.unwrap(), silent: Vec::new() }
    }

    fn node(&self, answers: Answers) -> Fake {
        self.node_until(answers, 100)
    }

    /// A node whose certificate ends so many days from now.
    fn node_until(&self, answers: Answers, days: i64) -> Fake {
        let ca = self.deployed.dir.path().join("ca");
        let issued = issue_between(&ca, "fake", &["127.0.0.1"], -400 * DAY_S, days * DAY_S);
        let config = server_config(&issued.cert_pem, &issued.key_pem).unwrap();
        let commands = Arc::new(AtomicUsize::new(0));
        let app = Router::new().fallback(say).with_state(Saying(Arc::new(answers), commands.clone()));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        self.runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            serve_tls(listener, config, app, ServerLimits::default(), CancellationToken::new()).await;
        });
        Fake { url, commands }
    }

    fn silent(&mut self) -> Fake {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        self.silent.push(listener);
        Fake { url, commands: Arc::default() }
    }

    fn session(&self, nodes: &[&Fake]) -> Session<'_> {
        let mut profile = Profile::load(&self.deployed.made.profile).unwrap();
        profile.nodes = nodes.iter().map(|node| node.url.clone()).collect();
        let client = Client::new(&profile, &Globals::default()).unwrap();
        Session { out: &self.out, profile, client }
    }

    /// What the stop fails with. On a busy machine a node's answer may come too late to be told: it is sent again then.
    fn failure(&self, nodes: &[&Fake], stop: &Envelope, tells: &str) -> Failure {
        let session = self.session(nodes);
        let mut failures = (0..10).map(|_| session.send(stop).unwrap_err());
        let all_heard = failures.find(|failure| failure.to_string().contains(tells));
        all_heard.unwrap_or_else(|| panic!("never said: {tells}"))
    }

    fn signed(&self, action: Action) -> Envelope {
        let signers = [self.deployed.keys.signer("alice")];
        Signed::new(&self.deployed.made.deployment, action, &signers).unwrap().envelope
    }

    fn stop(&self) -> Envelope {
        let scope = Scope::parse("demo/a").unwrap();
        let lock = LockCommand { scope, kind: LockKind::Halt, reason: "r".into(), case: None };
        self.signed(Action::Lock(lock))
    }

    /// A checkpoint of so many entries, by the deployment's node.
    fn checkpoint(&self, size: u64) -> String {
        let config = NodeConfig::load(&self.deployed.made.node_config).unwrap();
        let seed = std::fs::read_to_string(&config.node_key).unwrap();
        let seed = BASE64.decode(seed.trim().as_bytes()).unwrap();
        let signer = NoteSigner::new(&config.node, &seed.try_into().unwrap()).unwrap();
        let (origin, root) = (self.deployed.made.deployment.to_string(), Digest([size as u8; 32]));
        Checkpoint { origin, size, root }.sign(&signer)
    }
}

async fn say(State(saying): State<Saying>, method: Method, uri: Uri, _body: Bytes) -> impl IntoResponse {
    let Saying(answers, commands) = saying;
    commands.fetch_add(usize::from(method == Method::POST), Ordering::SeqCst);
    let path = uri.path_and_query().map_or("", |path| path.as_str());
    let named = answers.get(path).or_else(|| answers.get(uri.path()));
    let (status, body) = named.cloned().unwrap_or((404, problem("no-such-path", 404)));
    (StatusCode::from_u16(status).unwrap(), [(header::CONTENT_TYPE, "application/json")], body)
}

fn problem(code: &str, status: u16) -> String {
    let (title, detail) = (String::new(), format!("this is {code}"));
    serde_json::to_string(&Problem { code: code.into(), status, title, detail }).unwrap()
}

fn refusing(code: &str, status: u16) -> Answers {
    [("/v1/commands", (status, problem(code, status)))].into()
}

fn taking(digest: Digest, index: u64) -> Answers {
    let answer = CommandAnswer {
        action: tagout_proto::command::ActionKind::Stop,
        scope: Scope::parse("demo/a").unwrap(),
        digest,
        index,
        time_ms: 1,
        repeated: false,
        awaited: 0,
        reach: Reach { agents: 0, instances: 0 },
    };
    [("/v1/commands", (201, serde_json::to_string(&answer).unwrap()))].into()
}

fn authority(documents: &[Envelope]) -> Answers {
    let chain = TrustChain { documents: documents.to_vec(), entries: vec![0] };
    [("/v1/authority", (200, serde_json::to_string(&chain).unwrap()))].into()
}

fn commands(node: &Fake) -> usize {
    node.commands.load(Ordering::SeqCst)
}

#[test]
fn s10_a_stop_goes_to_all_nodes_at_once_and_the_first_good_answer_counts() {
    let mut fakes = Fakes::new();
    let stop = fakes.stop();
    let (silent, pending) = (fakes.silent(), fakes.node(refusing("pending", 503)));
    let (refused, good) = (fakes.node(refusing("no-role", 403)), fakes.node(taking(stop.digest(), 7)));
    let session = fakes.session(&[&silent, &pending, &refused, &good]);
    let begun = Instant::now();
    assert_eq!(session.send(&stop).unwrap().index, 7);
    assert!(begun.elapsed() < ANSWER_TIMEOUT, "nobody waits for the silent one");
    assert_eq!(session.client.node(), good.url, "what it reached is known best there");
    while commands(&pending) == 0 || commands(&refused) == 0 {
        std::thread::yield_now(); // it reaches the others all the same
    }
    // A liar's answer is none.
    let liar = fakes.node(taking(Digest([9; 32]), 1));
    assert_eq!(fakes.session(&[&liar, &good]).send(&stop).unwrap().index, 7);
    let failure = fakes.session(&[&liar]).send(&stop).unwrap_err();
    assert_eq!((failure.exit, failure.problem.code.as_str()), (Exit::Unverified, "other-digest"));
}

#[test]
fn s10_a_stop_that_no_node_can_commit_says_where_it_waits() {
    let mut fakes = Fakes::new();
    let stop = fakes.stop();
    let [first, second] = [(); 2].map(|()| fakes.node(refusing("pending", 503)));
    let (silent, full) = (fakes.silent(), fakes.node(refusing("disk-full", 507)));
    let where_it_waits = format!("stored as pending on {}, {}:", first.url, second.url);
    let failure = fakes.failure(&[&first, &silent, &second], &stop, &where_it_waits);
    assert_eq!((failure.exit, failure.problem.code.as_str()), (Exit::Unreachable, "pending"));
    assert!(commands(&first) > 1, "a quorum may be back in a moment");
    let said = failure.to_string();
    assert!(said.contains(&stop.digest().to_string()), "{said}");
    assert!(said.contains(&format!("without an answer: {}", silent.url)), "{said}");

    let where_it_waits = format!("stored as pending on {}", first.url);
    let failure = fakes.failure(&[&full, &first], &stop, &where_it_waits);
    assert_eq!(failure.problem.code, "disk-full");

    let refused = fakes.node(refusing("used", 409));
    let failure = fakes.failure(&[&first, &refused], &stop, "this is used; it is stored");
    assert_eq!((failure.exit, failure.problem.code.as_str()), (Exit::Refused, "used"));
    assert!(failure.to_string().starts_with(&refused.url), "{failure}");
    // One node alone says it as it said it.
    assert_eq!(fakes.session(&[&refused]).send(&stop).unwrap_err().to_string(), "this is used");
    let failure = fakes.session(&[&silent_port()]).send(&stop).unwrap_err();
    assert_eq!(failure.problem.code, "unreachable");
}

/// Nobody listens there.
fn silent_port() -> Fake {
    let url = format!("https://{}", TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap());
    Fake { url, commands: Arc::default() }
}

#[test]
fn what_gives_goes_to_one_node_after_the_other() {
    let mut fakes = Fakes::new();
    let scope = Scope::parse("demo/a").unwrap();
    let locks = tagout_proto::command::LockSet::Ids(vec![Digest([1; 32])]);
    let release =
        fakes.signed(Action::Release(Release { scope, locks, reason: "r".into(), lost_from: None }));
    let (silent, unable) = (fakes.silent(), fakes.node(refusing("not-ready", 503)));
    let [good, other] = [(); 2].map(|()| fakes.node(taking(release.digest(), 7)));
    let session = fakes.session(&[&silent, &unable, &good, &other]);
    let begun = Instant::now();
    assert_eq!(session.send(&release).unwrap().index, 7);
    assert!(begun.elapsed() < CONNECT_TIMEOUT, "a silent node costs a moment");
    assert_eq!((commands(&good), commands(&other)), (1, 0));
    assert_eq!(session.client.node(), good.url);
    assert!(
        session.send(&release).is_ok() && commands(&unable) == 1,
        "the good one is asked first from now on"
    );
}

#[test]
fn a_node_that_is_only_behind_is_passed_over() {
    let fakes = Fakes::new();
    let genesis = Profile::load(&fakes.deployed.made.profile).unwrap().chain.documents().to_vec();
    let (behind, good) = (fakes.node(authority(&[])), fakes.node(authority(&genesis)));
    assert_eq!(fakes.session(&[&behind, &good]).learn().unwrap(), [0]);
    let failure = fakes.session(&[&behind, &behind]).learn().unwrap_err();
    assert_eq!((failure.exit, failure.problem.code.as_str()), (Exit::Unverified, "authority-behind"));
    // One that shows another history is not only behind.
    let mut forked = genesis.clone();
    forked[0].document.push(' ');
    let forked = fakes.node(authority(&forked));
    let failure = fakes.session(&[&forked, &good]).learn().unwrap_err();
    assert_eq!(failure.problem.code, "authority-forked");
}

#[test]
fn s9_a_log_is_cut_off_only_if_every_node_says_so() {
    let fakes = Fakes::new();
    let checkpoints = |size: u64, newest: &'static str| -> Answers {
        let mut answers: Answers = [("/log/checkpoint", (503, problem("no-checkpoint", 503)))].into();
        answers.insert(newest, (200, fakes.checkpoint(size)));
        answers.insert("/log/checkpoint?size=0", (200, fakes.checkpoint(size)));
        answers
    };
    let (short, same) = (
        fakes.node(checkpoints(3, "/log/checkpoint?size=3")),
        fakes.node(checkpoints(5, "/log/checkpoint?size=5")),
    );
    let session = fakes.session(&[&same]);
    assert_eq!(session.checkpoint(5).unwrap().size, 5);
    assert_eq!(Seen::load(&session.profile).unwrap().size(), 5);
    assert_eq!(fakes.session(&[&short, &same]).checkpoint(0).unwrap().size, 5);
    let failure = fakes.session(&[&short, &short]).checkpoint(0).unwrap_err();
    assert_eq!((failure.exit, failure.problem.code.as_str()), (Exit::Unverified, "shorter"));
    // An entry that no node has published yet, though one has all that was seen.
    let seen = Seen::load(&session.profile).unwrap();
    let failure = fakes.session(&[&short, &same]).fetch_checkpoint(6, &seen).unwrap_err();
    assert_eq!((failure.exit, failure.problem.code.as_str()), (Exit::Unreachable, "no-checkpoint"));
}

#[test]
fn tiles_and_reach_come_from_whichever_node_has_them() {
    let fakes = Fakes::new();
    let lock = Digest([1; 32]);
    let reach = StopReach {
        lock,
        version: 4,
        age_ms: 1,
        bounded_after_ms: 2,
        calls_bounded_after_ms: None,
        instances: Vec::new(),
        settled: true,
        outcome_index: None,
    };
    let path: &'static str = format!("/v1/locks/{lock}/reach").leak();
    let without = fakes.node(Answers::new());
    let with = fakes.node(
        [("/log/tile/0/000", (200, "tile".into())), (path, (200, serde_json::to_string(&reach).unwrap()))]
            .into(),
    );
    let session = fakes.session(&[&without, &with]);
    assert_eq!(session.client.read("tile/0/000").unwrap(), Some(b"tile".to_vec()));
    assert_eq!(session.client.read("tile/0/001").unwrap(), None);
    for after in [None, Some(9)] {
        let session = fakes.session(&[&without, &with]);
        assert_eq!(session.client.reach(&lock, after).unwrap().version, 4);
    }
}

#[test]
fn a_long_poll_ends_with_its_node() {
    let mut fakes = Fakes::new();
    let silent = fakes.silent();
    let session = fakes.session(&[&silent]);
    let request = session.client.http.get(session.client.url(0, "v1/locks/x/reach?after=1"));
    let begun = Instant::now();
    let answer = session.client.runtime.block_on(session.client.while_alive(0, request));
    assert!(answer.is_err() && begun.elapsed() < CONNECT_TIMEOUT);
}

#[test]
fn s10_an_ended_certificate_keeps_no_stop_and_is_told_of_otherwise() {
    let fakes = Fakes::new();
    let stop = fakes.stop();
    let ended = fakes.node_until(taking(stop.digest(), 7), -40);
    let session = fakes.session(&[&ended]);
    assert_eq!(session.send(&stop).unwrap().index, 7);
    let failure = session.client.status().unwrap_err();
    assert_eq!(failure.exit, Exit::Unreachable);
    assert!(failure.to_string().contains("its node needs `tagout renew`"), "{failure}");

    // Whose certificate another CA issued is a stranger, ended or not.
    let elsewhere = Fakes::new();
    let stranger = elsewhere.node(taking(stop.digest(), 7));
    assert_eq!(fakes.session(&[&stranger]).send(&stop).unwrap_err().problem.code, "unreachable");
}
