//! The client: made once per process, it keeps the leases of all its guards.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use futures_util::future::try_join_all;
use parking_lot::Mutex;
use tagout_proto::authority::AuthorityError;
use tagout_proto::command::Deployment;
use tagout_proto::digest::Digest;
use tagout_proto::envelope::Envelope;
use tagout_proto::profile::ProfileFile;
use tagout_proto::scope::{Scope, ScopeError};
use tagout_proto::token::{NotAToken, Token};
use tagout_proto::wire::StopPath;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::cell::Cell;
use crate::clock::{self, Now};
use crate::counters::{Counters, Counts};
use crate::deliver::{self, DeliverError, Delivered, Deliveries};
use crate::denied::{Denied, Gone, Reason};
use crate::driver::Driver;
use crate::guard::{Agent, Guard};
use crate::limits::{AGENTS_MAX, ESSENTIAL_HANDLES_MAX, INSTANCE_MAX_BYTES, STUCK_MS};
use crate::nodes::{Nodes, NodesError};
use crate::state_folder::{StateError, StateFolder};
use crate::stop_folder::{self, StopFolder};
use crate::trip::{self, TripError, Trips};
use crate::trusted::Trusted;

/// Keeps the leases of its guards. Cloning is cheap; it ends when the last clone and the last guard are gone.
#[derive(Clone)]
pub struct Client(Arc<Handle>);

/// What clients and guards hold; dropping the last one ends the driver.
pub(crate) struct Handle {
    core: Arc<Core>,
    deployment: Deployment,
    nodes: Vec<String>,
}

/// What the driver and the handles share.
pub(crate) struct Core {
    agents: Mutex<BTreeMap<Scope, Weak<Agent>>>,
    /// An agent came or the driver has something else to look at.
    pub(crate) changed: Notify,
    pub(crate) closed: CancellationToken,
    /// When the driver was last at work, by the boot clock.
    beat_ns: AtomicU64,
    pub(crate) counts: Counts,
    /// Why the driver has ended, once it has.
    ended: OnceLock<Gone>,
    /// The way of stops that a program or a file brings.
    deliveries: Deliveries,
    trips: Trips,
    pub(crate) stop_folder: Option<Arc<stop_folder::Known>>,
    /// Taken by the process that built the client; a forked child finds it wiped.
    witness: Cell,
}

#[derive(Default)]
pub struct Builder {
    profile: Option<PathBuf>,
    nodes: Vec<String>,
    ca: Option<Source>,
    genesis: Option<Source>,
    pinned: Option<String>,
    token: Option<Source>,
    instance: Option<String>,
    stop_folder: Option<PathBuf>,
    state_folder: Option<PathBuf>,
    runtime: Option<tokio::runtime::Handle>,
}

enum Source {
    Bytes(Vec<u8>),
    File(PathBuf),
}

/// What is wrong with a client's configuration.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error("cannot read {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path} is no profile of a deployment")]
    Profile {
        path: PathBuf,
        #[source]
        source: toml::de::Error,
    },
    #[error(
        "no genesis is given: use .genesis_file(…) with the deployment's genesis.json, or .profile_file(…)"
    )]
    NoGenesis,
    #[error("the genesis is no JSON of {{\"document\": …, \"signatures\": […]}}")]
    Genesis(#[source] serde_json::Error),
    #[error("nothing is pinned: use .pinned(\"name:<SHA-256 of the genesis>\")")]
    NotPinned,
    #[error("the pin {0:?} is neither name:<SHA-256 of the genesis> nor the SHA-256 alone, 64 hex digits")]
    Pin(String),
    #[error("the pin is for deployment {pinned:?}, but the genesis is of {found:?}")]
    PinnedName { pinned: String, found: String },
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    #[error("the client's token is none: {0}")]
    Token(#[from] NotAToken),
    #[error(transparent)]
    Nodes(#[from] NodesError),
    #[error(
        "the instance name {0:?} is not 1 to {INSTANCE_MAX_BYTES} printable ASCII characters without spaces"
    )]
    Instance(String),
    #[error("the operating system gave no randomness")]
    Randomness(#[source] getrandom::Error),
    #[error("the client's thread cannot start")]
    Thread(#[source] io::Error),
}

/// Why there is no guard.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GuardError {
    #[error(transparent)]
    Scope(#[from] ScopeError),
    #[error("* is the whole fleet; a guard is for one agent")]
    Fleet,
    #[error("this client has guards for {AGENTS_MAX} agents already; make another client")]
    TooManyAgents,
    #[error(
        "this agent's guards have handles for {ESSENTIAL_HANDLES_MAX} classes already; use check_essential"
    )]
    TooManyClasses,
}

impl Client {
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// The guard of `agent`, a scope such as `demo/agent_2`; guards of one agent share everything.
    ///
    /// It never waits. The guard denies until a node has answered: see [`Guard::ready`].
    pub fn guard(&self, agent: &str) -> Result<Guard, GuardError> {
        let scope = Scope::parse(agent)?;
        if scope.is_fleet() {
            return Err(GuardError::Fleet);
        }
        Ok(Guard::new(self.0.core.agent(scope)?, Arc::clone(&self.0)))
    }

    pub fn deployment(&self) -> &Deployment {
        &self.0.deployment
    }

    /// Where it asks.
    pub fn nodes(&self) -> &[String] {
        &self.0.nodes
    }

    /// Takes a signed stop, or whatever else takes away, that came by a way of its own: an envelope as JSON,
    /// `{"document": "…", "signatures": ["…"]}`, the exact bytes of the document and of its armored signatures as text
    /// ([`Envelope`] serialises to it).
    ///
    /// One signature makes it a stop, whatever its date, and no node is asked (S6). When this returns, it holds. A lock is
    /// handed on to the service, which commits it if it did not know it, and it holds agents that get their guards later;
    /// a revoke or a suspend takes effect here, and has to be sent to a node as well.
    ///
    /// # Errors
    /// [`DeliverError`] says why it stops nobody. Nothing has changed then.
    pub async fn deliver(&self, envelope: &[u8]) -> Result<Delivered, DeliverError> {
        let stop = deliver::parse(envelope)?;
        if self.0.forked() {
            return Err(DeliverError::ForkedChild);
        }
        self.0.core.deliveries.bring(stop, StopPath::Deliver).await
    }

    /// What was found in the [folder of stops](Builder::stop_folder), if there is one.
    pub fn stop_folder(&self) -> Option<StopFolder> {
        // In a forked child its lock may be held by a thread that is not there.
        if self.0.forked() { None } else { self.0.core.stop_folder.as_ref().map(|known| known.get()) }
    }

    /// What this client has done so far. Checks are not counted: they share nothing that is written.
    pub fn counters(&self) -> Counters {
        self.0.core.counts.read()
    }

    /// Waits until the service has answered for every guard there is now. Needs a tokio runtime with time.
    ///
    /// # Errors
    /// [`Denied`] after `timeout`, with the reason of a guard that is still without an answer.
    pub async fn ready(&self, timeout: Duration) -> Result<(), Denied> {
        let agents = self.0.core.agents().into_iter();
        let guards: Vec<_> = agents.map(|agent| Guard::new(agent, Arc::clone(&self.0))).collect();
        try_join_all(guards.iter().map(|guard| guard.ready(timeout))).await.map(drop)
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Client").field(&self.0.deployment).finish()
    }
}

impl Builder {
    /// `profile.toml` of the deployment, as `tagout init` and `tagout dev` write it: it says what [`node`](Self::node),
    /// [`ca_file`](Self::ca_file), [`genesis_file`](Self::genesis_file) and [`pinned`](Self::pinned) would, where these are
    /// not called. It is read when the client is built. As with a pin, take it from the people who made the deployment.
    pub fn profile_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.profile = Some(path.into());
        self
    }

    /// A node's address, `https://host:port`. Name all of them: the client tries them in turn.
    ///
    /// `http://` is taken only for a loopback address, for tests and for a proxy on the same host.
    pub fn node(mut self, url: impl Into<String>) -> Self {
        self.nodes.push(url.into());
        self
    }

    /// The certificates, PEM, of the authorities that sign the nodes' TLS certificates.
    pub fn ca_pem(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.ca = Some(Source::Bytes(pem.into()));
        self
    }

    pub fn ca_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.ca = Some(Source::File(path.into()));
        self
    }

    /// The genesis: an envelope as JSON, `{"document": …, "signatures": […]}`.
    pub fn genesis_json(mut self, json: impl Into<Vec<u8>>) -> Self {
        self.genesis = Some(Source::Bytes(json.into()));
        self
    }

    pub fn genesis_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.genesis = Some(Source::File(path.into()));
        self
    }

    /// The root of all trust: `name:<SHA-256 of the genesis document>`, or the SHA-256 alone.
    ///
    /// Take it from the people who made the deployment, never from the place that the genesis comes from.
    pub fn pinned(mut self, pin: impl Into<String>) -> Self {
        self.pinned = Some(pin.into());
        self
    }

    /// The token of this process, as `tagout agent enroll` printed it: the client may guard the scope that it is enrolled
    /// for, and everything below. By default it is that of the environment: `TAGOUT_TOKEN`, or else what stands in the
    /// file that `TAGOUT_TOKEN_FILE` names.
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.token = Some(Source::Bytes(token.into().into_bytes()));
        self
    }

    /// The file that holds the token. It is read once, when the client is built.
    pub fn token_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.token = Some(Source::File(path.into()));
        self
    }

    /// A name for this process in the account of who confirmed a stop. By default host, process id and four random bytes.
    pub fn instance(mut self, name: impl Into<String>) -> Self {
        self.instance = Some(name.into());
        self
    }

    /// A folder of this host in which signed stops take effect: each a `NAME.json` with its signature in `NAME.json.sig`, as
    /// `tagout stop --copies` and `ssh-keygen -Y sign` write them. It is looked at every 250 ms, may come later, and is
    /// read only. Taking a file away lifts nothing.
    ///
    /// What is no stop, and a stop that was used, is logged as an error and told by [`Client::stop_folder`].
    pub fn stop_folder(mut self, path: impl Into<PathBuf>) -> Self {
        self.stop_folder = Some(path.into());
        self
    }

    /// A folder in which this client keeps, across restarts of the process, the locks that it has latched and the log size,
    /// epoch and authority that it has accepted: it then still denies by those locks until their end is proven, and takes no
    /// older history, whatever the service says. Nothing in it lets a call begin.
    ///
    /// It is made if need be, and each client needs one of its own. Where it cannot be read, belongs to another process or
    /// deployment, or is damaged, everything is denied with [`Reason::StateLost`](crate::Reason::StateLost), which says what
    /// to do. It is written within a second.
    pub fn state_folder(mut self, path: impl Into<PathBuf>) -> Self {
        self.state_folder = Some(path.into());
        self
    }

    /// Runs the client on a runtime of yours instead of a thread of its own: for a great many clients in one process.
    ///
    /// Leases are then renewed only as punctually as that runtime polls its tasks.
    pub fn runtime(mut self, runtime: tokio::runtime::Handle) -> Self {
        self.runtime = Some(runtime);
        self
    }

    /// Starts the client. It waits for no node.
    pub fn build(mut self) -> Result<Client, BuildError> {
        if let Some(path) = self.profile.take() {
            self.fill_in(&path)?;
        }
        let genesis = self.genesis.ok_or(BuildError::NoGenesis)?.read()?;
        let genesis: Envelope = serde_json::from_slice(&genesis).map_err(BuildError::Genesis)?;
        let (name, pinned) = parse_pin(&self.pinned.ok_or(BuildError::NotPinned)?)?;
        let mut trusted = Trusted::new(&genesis, pinned)?;
        let deployment = trusted.deployment().clone();
        if let Some(pinned) = name.filter(|name| *name != deployment.name) {
            return Err(BuildError::PinnedName { pinned, found: deployment.name });
        }
        let ca = self.ca.map(Source::read).transpose()?;
        let token = self.token.or_else(Source::token_of_environment).map(Source::read).transpose()?;
        let token = token.map(|bytes| read_token(&bytes)).transpose()?;
        let nodes = Nodes::new(&self.nodes, ca.as_deref(), token.as_ref())?;
        let instance = match self.instance {
            Some(name) => name,
            None => default_instance().map_err(BuildError::Randomness)?,
        };
        if instance.is_empty()
            || instance.len() > INSTANCE_MAX_BYTES
            || !instance.bytes().all(|b| b.is_ascii_graphic())
        {
            return Err(BuildError::Instance(instance));
        }
        let state = self.state_folder.and_then(|path| recalled(&path, &mut trusted));
        let (deliveries, delivered) = deliver::channel();
        let (trips, tripped) = trip::channel();
        let core = Arc::new(Core {
            agents: Mutex::default(),
            changed: Notify::new(),
            closed: CancellationToken::new(),
            beat_ns: AtomicU64::new(clock::boot_ns()),
            counts: Counts::default(),
            ended: OnceLock::new(),
            deliveries,
            trips,
            stop_folder: self.stop_folder.map(|path| Arc::new(stop_folder::Known::new(path))),
            witness: Cell::new(),
        });
        let nodes = Arc::new(nodes);
        let driver = Driver::new(Arc::clone(&core), trusted, nodes, instance, delivered, tripped, state);
        match self.runtime {
            Some(runtime) => drop(runtime.spawn(driver.run())),
            None => start_thread(driver).map_err(BuildError::Thread)?,
        }
        Ok(Client(Arc::new(Handle { core, deployment, nodes: self.nodes })))
    }

    /// What nobody has said, as the profile says it.
    fn fill_in(&mut self, path: &Path) -> Result<(), BuildError> {
        let text = Source::File(path.into()).read()?;
        let text = String::from_utf8_lossy(&text);
        let profile: ProfileFile =
            toml::from_str(&text).map_err(|source| BuildError::Profile { path: path.into(), source })?;
        let beside = |file: PathBuf| Source::File(path.parent().unwrap_or(Path::new("")).join(file));
        if self.nodes.is_empty() {
            self.nodes = profile.nodes;
        }
        self.ca.get_or_insert_with(|| beside(profile.ca));
        self.genesis.get_or_insert_with(|| beside(profile.genesis));
        self.pinned.get_or_insert(profile.deployment);
        Ok(())
    }
}

/// A thread and a runtime of its own, so that a busy application cannot starve the renewals.
fn start_thread(driver: Driver) -> io::Result<()> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(4).build()?;
    std::thread::Builder::new()
        .name("tagout".into())
        .spawn(move || {
            runtime.block_on(driver.run());
            // A name lookup that hangs shall not keep the thread.
            runtime.shutdown_background();
        })
        .map(drop)
}

/// Opens the state folder and takes over what is in it; without it, nothing is allowed.
fn recalled(path: &Path, trusted: &mut Trusted) -> Option<StateFolder> {
    let opened = StateFolder::open(path).and_then(|(folder, kept)| {
        let recalled = kept.map_or(Ok(()), |kept| trusted.recall(&kept, Now::read()));
        recalled.map(|()| folder).map_err(|why| StateError::Kept { path: StateFolder::state(path), why })
    });
    opened
        .inspect_err(|error| {
            tracing::error!(target: "tagout", %error, "the state folder is of no use: denying everything");
            trusted.deny_for_good(Reason::StateLost(Arc::new(error.clone())));
        })
        .ok()
}

fn parse_pin(pin: &str) -> Result<(Option<String>, Digest), BuildError> {
    if let Ok(digest) = pin.parse() {
        return Ok((None, digest));
    }
    let deployment: Deployment = pin.parse().map_err(|_| BuildError::Pin(pin.into()))?;
    Ok((Some(deployment.name), deployment.genesis))
}

fn default_instance() -> Result<String, getrandom::Error> {
    let host = rustix::system::uname();
    let host = host.nodename().to_string_lossy();
    let host: String = host.chars().filter(char::is_ascii_graphic).take(64).collect();
    Ok(format!("{host}-{}-{:08x}", std::process::id(), getrandom::u32()?))
}

/// A file may end with a newline.
fn read_token(bytes: &[u8]) -> Result<Token, NotAToken> {
    std::str::from_utf8(bytes).map_err(|_| NotAToken)?.trim_end().parse()
}

impl Source {
    /// Set and empty means unset, as in a unit file with a blank value.
    fn token_of_environment() -> Option<Self> {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let token = variable("TAGOUT_TOKEN").map(|token| Self::Bytes(token.into_encoded_bytes()));
        token.or_else(|| variable("TAGOUT_TOKEN_FILE").map(|path| Self::File(path.into())))
    }

    fn read(self) -> Result<Vec<u8>, BuildError> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            Self::File(path) => std::fs::read(&path).map_err(|source| BuildError::Read { path, source }),
        }
    }
}

impl Core {
    fn agent(&self, scope: Scope) -> Result<Arc<Agent>, GuardError> {
        if self.forked() {
            // Nobody will ever open it, and the lock below may be held by a thread that is not here.
            return Ok(Arc::new(Agent::new(scope)));
        }
        let mut agents = self.agents.lock();
        if let Some(agent) = agents.get(&scope).and_then(Weak::upgrade) {
            return Ok(agent);
        }
        if agents.len() >= AGENTS_MAX {
            return Err(GuardError::TooManyAgents);
        }
        let agent = Arc::new(Agent::new(scope.clone()));
        agents.insert(scope, Arc::downgrade(&agent));
        // Under the lock, so that the driver's end either sees this agent or is seen here.
        if let Some(why) = self.ended.get() {
            agent.abandon(*why);
        }
        drop(agents);
        self.changed.notify_one();
        Ok(agent)
    }

    /// The agents that have guards.
    pub(crate) fn agents(&self) -> Vec<Arc<Agent>> {
        self.agents.lock().values().filter_map(Weak::upgrade).collect()
    }

    /// The task that looks at the folder of stops, if there is one.
    pub(crate) fn follow_stop_folder(&self) -> Option<impl Future<Output = ()> + use<>> {
        let known = Arc::clone(self.stop_folder.as_ref()?);
        Some(stop_folder::follow(known, self.deliveries.clone()))
    }

    /// The driver is at work.
    pub(crate) fn beat(&self, now_ns: u64) {
        self.beat_ns.store(now_ns, Ordering::Relaxed);
    }

    /// Notes that nobody drives any more, and gives the agents that are left.
    pub(crate) fn end(&self, why: Gone) -> Vec<Arc<Agent>> {
        let agents = self.agents.lock();
        let _ = self.ended.set(why);
        agents.values().filter_map(Weak::upgrade).collect()
    }

    /// Takes out the agents whose last guard is gone.
    pub(crate) fn take_dropped(&self) -> Vec<Scope> {
        let mut agents = self.agents.lock();
        let dropped: Vec<_> =
            agents.iter().filter(|(_, a)| a.strong_count() == 0).map(|(s, _)| s.clone()).collect();
        dropped.iter().for_each(|scope| drop(agents.remove(scope)));
        dropped
    }

    /// Whether this process is a forked child of the one that built the client.
    pub(crate) fn forked(&self) -> bool {
        self.witness.reader().forked()
    }
}

impl Handle {
    pub(crate) fn counts(&self) -> &Counts {
        &self.core.counts
    }

    /// For how long the driver has not been at work, if that is too long.
    pub(crate) fn stuck_ms(&self) -> Option<u64> {
        let beat_ns = self.core.beat_ns.load(Ordering::Relaxed);
        Some(clock::boot_ns().saturating_sub(beat_ns) / 1_000_000).filter(|ms| *ms >= STUCK_MS)
    }

    pub(crate) async fn trip(&self, scope: Scope, reason: String) -> Result<Digest, TripError> {
        if self.forked() {
            return Err(TripError::ForkedChild);
        }
        self.core.trips.bring(scope, reason).await
    }

    /// Asks the driver to look at its agents again.
    pub(crate) fn changed(&self) {
        self.core.changed.notify_one();
    }

    pub(crate) fn forked(&self) -> bool {
        self.core.forked()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // The driver is the parent's; in a forked child there is none to end.
        if !self.forked() {
            self.core.closed.cancel();
        }
    }
}
