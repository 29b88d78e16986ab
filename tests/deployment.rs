//! A deployment of the test's own: keys, a genesis and a node that runs as a process.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use tagout_control_plane::cli::init::{Plan, Readers, TOKEN_FILE, make};
use tagout_control_plane::cli::node_folder::NodePlan;
use tagout_control_plane::cli::signing::{draft, sign};
use tagout_control_plane::sign::{Signer, generate};
use tagout_control_plane::store::StoreKind;
use tagout_control_plane::tls;
use tagout_proto::command::{Action, Deployment as Name, Grant, LockCommand, LockSet, Release, Seen, Start};
use tagout_proto::digest::Digest;
use tagout_proto::envelope::Envelope;
use tagout_proto::lock::LockKind;
use tagout_proto::rule::Terms;
use tagout_proto::scope::Scope;
use tagout_proto::sshsig::PublicKey;
use tagout_proto::wire::{CommandAnswer, Problem, Status, StopEvent};

use crate::bin;
use crate::process::Process;
use crate::ran::Ran;
use crate::wait::wait_for;

/// People, automation and a stranger: the names of the keys that every deployment has.
pub const PEOPLE: [&str; 2] = ["alice", "bob"];

pub struct Deployment {
    // Dropped before its folder, where its output lies.
    node: Option<Process>,
    folder: tempfile::TempDir,
    pub name: Name,
    pub address: SocketAddr,
    signers: Vec<(String, Signer)>,
    starts: u32,
}

/// The smallest disk reserve: many nodes of tests share one disk.
const RESERVE_MIB: Option<u64> = Some(1);

/// What a test may choose.
pub struct Choice {
    pub store: StoreKind,
    pub ttl_ms: u64,
    /// Leases are for enrolled agents only.
    pub enrolment: bool,
    /// A node at each of them; without any there is one, on a free port of the loopback address.
    pub seats: Vec<Seat>,
}

/// Where a node listens, and where it is found, which may be a proxy.
#[derive(Clone, Copy, Debug)]
pub struct Seat {
    pub api: SocketAddr,
    pub peers: SocketAddr,
    pub api_found_at: SocketAddr,
    pub peers_found_at: SocketAddr,
}

impl Seat {
    fn plan(&self, id: u64) -> NodePlan {
        let Self { api, peers, api_found_at, peers_found_at } = *self;
        let mut sans: Vec<String> =
            [api_found_at, api, peers_found_at, peers].map(|address| address.ip().to_string()).into();
        sans.dedup();
        let (peer_listen, address) = (Some(peers), Some(peers_found_at.to_string()));
        let (name, reserve_mib) = (format!("node-{id}"), RESERVE_MIB);
        NodePlan { name, id, listen: api, peer_listen, address, sans, reserve_mib }
    }
}

impl Default for Choice {
    fn default() -> Self {
        // The shortest ttl, so that nothing waits long for a bound.
        let ttl_ms = tagout_proto::limits::TTL_MIN_MS;
        Self { store: StoreKind::Sled, ttl_ms, enrolment: false, seats: Vec::new() }
    }
}

impl Deployment {
    /// Makes one, with two people who restart together and an automation, and starts its node.
    pub fn start(choice: Choice) -> Self {
        let mut deployment = Self::make(choice);
        deployment.start_node();
        deployment
    }

    pub fn make(choice: Choice) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let keys = folder.path().join("keys");
        std::fs::create_dir(&keys).expect("a new folder");
        let mut signers = Vec::new();
        let mut key = |name: &str| {
            let path = keys.join(name);
            let public = generate(&path, name, None).expect("a new key");
            let signer = Signer::open(&path.to_string_lossy()).expect("a key that was just made");
            signers.push((name.to_owned(), signer));
            (name.to_owned(), PublicKey::parse_openssh(&public.line()).expect("a public key"))
        };
        let people = PEOPLE.map(&mut key).into();
        let (soar, root, _stranger) = (key("soar"), key("root"), key("stranger"));
        let (address, nodes) = match &choice.seats[..] {
            [] => {
                let free = free_address();
                // Without peers: the port above may be another test's.
                let alone = NodePlan::new("node-1", 1, free, vec![free.ip().to_string()]);
                (free, vec![NodePlan { peer_listen: None, address: None, reserve_mib: RESERVE_MIB, ..alone }])
            }
            seats => (seats[0].api, seats.iter().zip(1..).map(|(seat, id)| seat.plan(id)).collect()),
        };
        let plan = Plan {
            name: "test".into(),
            dir: folder.path().join("deployment"),
            people,
            automation: vec![soar],
            threshold: 2,
            root_keys: vec![root],
            root_threshold: 1,
            nodes,
            ttl_ms: choice.ttl_ms,
            enrolment: choice.enrolment,
            store: choice.store,
            keys: vec!["../keys/alice".into()],
            readers: Readers::Token,
        };
        let root = Signer::open(&keys.join("root").to_string_lossy()).expect("the root key");
        let made = make(&plan, &[root]).unwrap_or_else(|failure| panic!("{failure}"));
        Self { folder, name: made.deployment, address, signers, node: None, starts: 0 }
    }

    /// Adds a line to the node's configuration, before it starts.
    pub fn configure(&self, line: &str) {
        let text = std::fs::read_to_string(self.config()).expect("the configuration");
        std::fs::write(self.config(), format!("{text}{line}\n")).expect("its folder is there");
    }

    /// Starts the node and waits until it can issue leases.
    pub fn start_node(&mut self) {
        self.starts += 1;
        let mut serve = Command::new(bin::tagout());
        serve.arg("serve").arg("--config").arg(self.config());
        self.start_node_as(&mut serve);
    }

    /// The same, with the node run by another program, such as strace.
    pub fn start_node_as(&mut self, command: &mut Command) {
        self.node = Some(Process::spawn(&format!("node-{}", self.starts), self.folder.path(), command));
        let http = self.http();
        let runtime = runtime();
        wait_for("the node to be ready", || {
            if let Some(status) = self.node.as_mut().and_then(Process::ended) {
                panic!("the node ended before it was ready: {status}");
            }
            let ready = runtime.block_on(http.get(self.url("/readyz")).send());
            ready.ok().filter(|r| r.status().is_success())
        });
    }

    pub fn node(&mut self) -> &mut Process {
        self.node.as_mut().expect("the node runs")
    }

    /// What it has said so far.
    pub fn said(&self) -> String {
        self.node.as_ref().expect("the node runs").stderr()
    }

    pub fn node_id(&self) -> u32 {
        self.node.as_ref().expect("the node runs").id()
    }

    /// `kill -9`, and waits until it is gone.
    pub fn kill_node(&mut self) {
        self.node().kill();
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn dir(&self) -> PathBuf {
        self.folder.path().join("deployment")
    }

    pub fn config(&self) -> PathBuf {
        self.dir().join("node-1/tagout.toml")
    }

    pub fn data(&self) -> PathBuf {
        self.dir().join("node-1/data")
    }

    pub fn profile(&self) -> PathBuf {
        self.dir().join("profile.toml")
    }

    pub fn key(&self, name: &str) -> PathBuf {
        self.folder.path().join("keys").join(name)
    }

    pub fn ca_pem(&self) -> String {
        std::fs::read_to_string(self.dir().join("ca.pem")).expect("the CA's certificate")
    }

    pub fn url(&self, path: &str) -> String {
        format!("https://{}{path}", self.address)
    }

    /// A client that trusts the deployment's CA, and may read.
    pub fn http(&self) -> reqwest::Client {
        self.client(self.bearer())
    }

    /// What shows that somebody may read.
    pub fn bearer(&self) -> HeaderMap {
        let mut bearer = HeaderValue::from_str(&format!("Bearer {}", self.api_token())).expect("a token");
        bearer.set_sensitive(true);
        [(AUTHORIZATION, bearer)].into_iter().collect()
    }

    /// The same of somebody who shows nothing.
    pub fn bare_http(&self) -> reqwest::Client {
        self.client(HeaderMap::new())
    }

    fn client(&self, headers: HeaderMap) -> reqwest::Client {
        let tls = tls::client_config(&self.ca_pem()).expect("the CA's certificate");
        let client = reqwest::Client::builder().tls_backend_preconfigured(tls).default_headers(headers);
        client.build().expect("a client")
    }

    /// The operators' token.
    pub fn api_token(&self) -> String {
        std::fs::read_to_string(self.token_file()).expect("the operators' token").trim().to_owned()
    }

    pub fn token_file(&self) -> PathBuf {
        self.dir().join(TOKEN_FILE)
    }

    /// Who may read from the node.
    pub fn access_file(&self) -> PathBuf {
        self.dir().join("node-1/access.toml")
    }

    /// Adds lines to it: before the tokens, and after.
    pub fn add_access(&self, top: &str, tables: &str) {
        let text = std::fs::read_to_string(self.access_file()).expect("the access file");
        let text = if top.contains("open =") { text.replace("open = []\n", "") } else { text };
        std::fs::write(self.access_file(), format!("{top}{text}{tables}")).expect("its folder is there");
    }

    /// Runs the `tagout` command on this deployment.
    pub fn cli(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("the tagout command runs")
    }

    /// The same, for what is to be looked at as a person sees it.
    pub fn run(&self, arguments: &[&str]) -> Ran {
        Ran::of(&mut self.command(arguments))
    }

    /// The same with the keys of both people; it must go well.
    pub fn run_by_both(&self, arguments: &[&str]) -> Ran {
        let keys = PEOPLE.map(|name| self.key(name).display().to_string());
        self.run(&[arguments, &["--key", &keys[0], "--key", &keys[1]]].concat()).exits(0)
    }

    /// The `tagout` command on this deployment, to be run.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(bin::tagout());
        command.arg("--profile").arg(self.profile()).args(arguments).env_remove("SSH_AUTH_SOCK");
        // What it writes by a name alone goes with the deployment, and so into no source tree.
        command.current_dir(self.folder());
        // What the command remembers of logs that it saw is this deployment's own.
        command.env("XDG_STATE_HOME", self.folder.path().join("state")).env("NO_COLOR", "1");
        command
    }

    pub fn envelope(&self, who: &[&str], action: &Action) -> Envelope {
        let document = draft(&self.name, action).unwrap_or_else(|failure| panic!("{failure}"));
        self.signed(who, document)
    }

    pub fn signer(&self, name: &str) -> &Signer {
        let found = self.signers.iter().find(|(have, _)| have == name);
        &found.expect("a key of the deployment").1
    }

    pub fn signed(&self, who: &[&str], document: String) -> Envelope {
        let signatures = who.iter().map(|name| {
            sign(document.clone(), std::slice::from_ref(self.signer(name)))
                .unwrap_or_else(|f| panic!("{f}"))
                .signatures
                .remove(0)
        });
        let signatures = signatures.collect();
        Envelope { document, signatures }
    }

    pub fn stop(&self, scope: &str) -> Envelope {
        self.envelope(&["alice"], &stop(scope, LockKind::Halt))
    }

    pub fn release(&self, scope: &str, locks: &[Digest]) -> Envelope {
        let (scope, locks, reason) = (parse(scope), LockSet::Ids(locks.to_vec()), "reviewed".into());
        self.envelope(&PEOPLE, &Action::Release(Release { scope, locks, lost_from: None, reason }))
    }

    pub fn start_of(&self, scope: &str, locks: &[Digest]) -> Envelope {
        let (scope, locks, reason) = (parse(scope), LockSet::Ids(locks.to_vec()), "reviewed".into());
        self.envelope(&PEOPLE, &Action::Start(Start { scope, locks, reason }))
    }

    /// A day's consent for `scope`, signed by both people.
    pub async fn grant(&self, http: &reqwest::Client, scope: &str) -> CommandAnswer {
        let grant = self.grant_for(scope).await;
        self.submit(http, &self.envelope(&PEOPLE, &grant)).await.expect("the grant")
    }

    pub async fn grant_for(&self, scope: &str) -> Action {
        let http = self.http();
        let status: Status = http.get(self.url("/v1/status")).send().await.unwrap().json().await.unwrap();
        Action::Grant(Grant {
            scope: parse(scope),
            expires_at_ms: status.time_ms + 24 * 3600 * 1000,
            seen: Seen { epoch: status.epoch.id, size: status.log_size, authority: status.authority_version },
            terms: Terms::default(),
            reason: "test".into(),
        })
    }

    /// Sends a command; panics where the node cannot be reached.
    pub async fn submit(
        &self,
        http: &reqwest::Client,
        envelope: &Envelope,
    ) -> Result<CommandAnswer, Problem> {
        try_submit(http, &self.url("/v1/commands"), envelope).await.expect("the node answers")
    }

    pub async fn get<T: serde::de::DeserializeOwned>(&self, http: &reqwest::Client, path: &str) -> T {
        let answer = http.get(self.url(path)).send().await.expect("the node answers");
        answer.error_for_status().expect("a good answer").json().await.expect("the answer's JSON")
    }

    /// A client of the SDK for this deployment, asking `node`.
    pub fn sdk(&self, node: &str) -> tagout::Client {
        tagout::Client::builder()
            .node(node)
            .ca_pem(self.ca_pem())
            .genesis_file(self.dir().join("genesis.json"))
            .pinned(self.name.to_string())
            .build()
            .expect("a client of the SDK")
    }
}

/// What the node pushes to one connection.
pub struct Listener {
    stream: reqwest::Response,
    text: String,
}

impl Listener {
    /// Listens for what touches `scope`; the greeting has come.
    pub async fn start(deployment: &Deployment, scope: &str) -> Self {
        let http = deployment.http();
        let stream = http.get(deployment.url(&format!("/v1/events?scope={scope}"))).send().await.unwrap();
        let mut listener = Self { stream: stream.error_for_status().unwrap(), text: String::new() };
        listener.hear("event: hello").await;
        listener
    }

    /// Waits for a line with `what` in it, among those that were not waited for yet, and gives it.
    pub async fn hear(&mut self, what: &str) -> String {
        tokio::time::timeout(crate::wait::DEADLINE, async {
            loop {
                while let Some((line, rest)) = self.text.split_once('\n') {
                    let (line, rest) = (line.to_owned(), rest.to_owned());
                    self.text = rest;
                    if line.contains(what) {
                        return line;
                    }
                }
                let chunk =
                    self.stream.chunk().await.expect("the stream goes on").expect("the stream goes on");
                self.text.push_str(std::str::from_utf8(&chunk).expect("text"));
            }
        })
        .await
        .unwrap_or_else(|_| panic!("never heard {what:?}"))
    }

    /// Waits for the push of `stop`, and says whether it has an entry.
    pub async fn hear_stop(&mut self, stop: &Envelope) -> Option<u64> {
        loop {
            let line = self.hear("data: {\"stop\":").await;
            let event: StopEvent = serde_json::from_str(&line["data: ".len()..]).expect("a stop event");
            if event.stop.digest() == stop.digest() {
                return event.index;
            }
        }
    }
}

/// Sends a command to `url`; the outer error is the network's.
pub async fn try_submit(
    http: &reqwest::Client,
    url: &str,
    envelope: &Envelope,
) -> reqwest::Result<Result<CommandAnswer, Problem>> {
    let form = reqwest::multipart::Form::new().text("command", envelope.document.clone());
    let form = envelope.signatures.iter().fold(form, |form, s| form.text("signature", s.clone()));
    let answer = http.post(url).multipart(form).send().await?;
    if answer.status().is_success() { Ok(Ok(answer.json().await?)) } else { Ok(Err(answer.json().await?)) }
}

pub fn stop(scope: &str, kind: LockKind) -> Action {
    Action::Lock(LockCommand { scope: parse(scope), kind, reason: "test".into(), case: None })
}

pub fn parse(scope: &str) -> Scope {
    Scope::parse(scope).expect("a scope")
}

pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

/// A loopback port that nobody has now; the node takes it a moment later.
pub fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its address")
}
