//! A node, put together: its identity, its log, consensus, leases and the API.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use ed25519_dalek::SigningKey;
use parking_lot::Mutex;
use tagout_proto::authority::Authority;
use tagout_proto::command::Deployment;
use tagout_proto::digest::Digest;
use tagout_proto::envelope::Envelope;
use tagout_proto::note::NoteSigner;
use tagout_proto::rule::RULE_VERSION;
use tagout_proto::trust::Trust;
use tagout_proto::wire::TrustChain;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::access::Access;
use crate::api::{self, Api, Metrics, SecurityLog};
use crate::audit::{AuditError, AuditLog};
use crate::certificates::{self, NodeTls};
use crate::cluster::{Cluster, PeerLogs};
use crate::config::NodeConfig;
use crate::divergence::Divergence;
use crate::due;
use crate::instances::Instances;
use crate::leases::{LeaseServer, Leases};
use crate::notify::Notifications;
use crate::outcomes::Outcomes;
use crate::peers::{self, Me, Member, PROTOCOL_NEWEST, Peers};
use crate::pending::Pending;
use crate::push::Hub;
use crate::raft::{Consensus, ConsensusConfig, Origin, STORAGE_FAILED_EXIT_CODE};
use crate::replica::{Build, Replica};
use crate::reserve::Reserve;
use crate::seed::{self, Seed};
use crate::service::Service;
use crate::tls::{ServerLimits, serve_tls};
use crate::webhooks::Webhooks;

/// Stops that guards hold and the service does not know, waiting to be committed.
const UNKNOWN_STOPS_MAX: usize = 1024;
const HOUSEKEEPING: Duration = Duration::from_secs(15);
/// The pause before a node that finds no leader yet looks again.
const RECOVERY_RETRY: Duration = Duration::from_millis(100);
/// The rule of verdicts that a node supports unless its configuration allows a newer one.
const RULE_OLDEST: u64 = 1;
/// In the data folder of a node that is new in a cluster.
const JOIN: &str = "join";
/// How often the disk is looked at when nothing is written to it.
const DISK_LOOK: Duration = Duration::from_secs(1);

/// A running node.
pub struct Node {
    pub address: std::net::SocketAddr,
    pub service: Service,
    pub certificates: Arc<NodeTls>,
    shutdown: CancellationToken,
    server: JoinHandle<()>,
    telling: JoinHandle<()>,
    audit: Arc<AuditLog>,
}

/// `tagout serve`: runs a node until it is told to end.
pub async fn serve_command(config: &Path) -> anyhow::Result<()> {
    let config = NodeConfig::load(config)?;
    let node = Node::start(config).await?;
    tokio::spawn(node.certificates.clone().look_on_hangup());
    tracing::info!(address = %node.address, "serving");
    ended().await?;
    tracing::info!("shutting down");
    node.shutdown().await;
    Ok(())
}

/// Waits for SIGTERM or SIGINT.
pub async fn ended() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

impl Node {
    pub async fn start(config: NodeConfig) -> anyhow::Result<Self> {
        Self::start_as(Build::THIS, config).await
    }

    /// As [`Node::start`], for tests of upgrades: in the name of another build.
    pub async fn start_as(build: Build, config: NodeConfig) -> anyhow::Result<Self> {
        let (identity, seed) = Identity::load(&config)?;
        let metrics = Metrics::install().context("the metrics could not be set up")?;
        let listener = TcpListener::bind(config.listen)
            .await
            .with_context(|| format!("cannot listen on {}: is another node running there?", config.listen))?;
        let address = listener.local_addr()?;
        let tls = NodeTls::load(certificate_files(&config))?;
        let access = Access::load(config.access.as_deref(), config.listen.ip(), tls.clients())?;
        if config.access.is_none() {
            tracing::warn!(
                "nobody may read from this node: its configuration has no \"access\" (\"Who may read\" in README.md)"
            );
        }
        let webhooks = config.webhooks.as_deref().map(Webhooks::load).transpose()?.unwrap_or_default();

        // First of all: on a full disk, it gives the stores the room that they need to open.
        let reserve = Reserve::open(&config.data, config.reserve_mib)
            .with_context(|| format!("the disk reserve in {} cannot be used", config.data.display()))?;
        let instances = Arc::new(Instances::default());
        let hub = Arc::new(Hub::default());
        let limits = identity.genesis.limits;
        let (outcomes, opened, news) = Outcomes::new(instances.clone(), config.node.clone(), limits);
        let deployment = identity.genesis.deployment.clone();
        let audit =
            AuditLog::open(&config.data.join("log"), deployment.to_string(), identity.signer(), end_process)?;
        let notifications = Notifications::open(
            config.notify.as_deref(),
            &config.data,
            &config.node,
            &deployment.to_string(),
            reserve.clone(),
        )?;
        let security = SecurityLog::open(&config.data, reserve.clone(), notifications.clone())
            .context("the security log cannot be written")?;
        let replica =
            Arc::new(Replica::new(deployment.genesis, build, audit.sink(), hub.clone(), outcomes.clone()));

        let taking_peers = Peering::prepare(build, &config, &identity, &tls).await?;
        let peers = taking_peers.as_ref().map_or_else(Peers::nobody, |peering| peering.peers.clone());
        audit.draw_on(reserve.clone());
        audit.fill_from(PeerLogs(peers.clone()));
        let audit = Arc::new(audit);
        let origin = match &seed {
            Some(_) => Origin::Begin,
            None if joins(&config)? => Origin::Join,
            None => Origin::Known,
        };
        let consensus = ConsensusConfig {
            store: config.store,
            origin,
            member: identity.member(),
            reserve: Some(reserve.clone()),
            ..ConsensusConfig::new(identity.node_id, config.data.join("raft"))
        };
        let consensus = Consensus::start(consensus, replica.clone(), peers.clone()).await?;
        let cluster = Arc::new(Cluster {
            id: identity.node_id,
            consensus,
            peers,
            replica: replica.clone(),
            audit: audit.reader(),
            instances: instances.clone(),
            outcomes: outcomes.clone(),
            reserve: reserve.clone(),
            notifications: notifications.clone(),
            seen: Mutex::default(),
            divergence: Mutex::new(Divergence::new(identity.node_id)),
            rule_known: build.rule_known.min(config.rule.unwrap_or(RULE_OLDEST)),
            withheld: Mutex::new(Some("it is still finding out what was committed before its start".into())),
            said: Mutex::default(),
            recovered: AtomicBool::new(false),
        });
        let (unknown_stops, unknown) = mpsc::channel(UNKNOWN_STOPS_MAX);
        let leases = Leases::serve(LeaseServer {
            cluster: cluster.clone(),
            replica: replica.clone(),
            instances: instances.clone(),
            audit: audit.reader(),
            signer: Arc::new(identity.signer()),
            unknown_stops,
        });
        let pending = Pending::open(&config.data, reserve.clone())?;
        let service = Service {
            node: config.node.as_str().into(),
            replica: replica.clone(),
            cluster: cluster.clone(),
            audit: audit.reader(),
            hub,
            instances: instances.clone(),
            outcomes: outcomes.clone(),
            leases,
            admission: Arc::default(),
            reserve: reserve.clone(),
            pending: Arc::new(pending),
        };
        let shutdown = CancellationToken::new();
        if let Some(peering) = taking_peers {
            tokio::spawn(peering.serve(cluster.clone(), shutdown.clone()));
        }
        tokio::spawn(cluster.clone().tell_news(news));
        if origin == Origin::Join {
            // Its store has its identity now; from here on an empty one would be a lost one.
            remove_marker(&config.data.join(JOIN))?;
        }
        let webhooks = Arc::new(webhooks);
        let recovery =
            Recovery { service: service.clone(), audit: audit.clone(), webhooks: webhooks.clone() };
        if cluster.consensus.is_alone() {
            if let Some(seed) = seed {
                // After a restore the guards of before may still be at work.
                if seed.is_genesis() {
                    outcomes.begin();
                }
                let planted = seed::plant(&seed, &*cluster).await?;
                tracing::info!(from = planted.from, to = planted.to, "the seed has grown");
            }
            let newest = replica.ledger().authority().cloned();
            identity.listed(&newest.context("this node's log has no genesis")?)?;
            recovery.complete().await?;
        } else {
            let until = shutdown.clone();
            tokio::spawn(async move { until.run_until_cancelled(recovery.wait()).await });
        }
        // From here on the leader also makes Raft's members those of the authority.
        tokio::spawn(cluster.clone().exchange(shutdown.clone()));
        tokio::spawn(cluster.clone().follow_sharing(shutdown.clone()));
        tokio::spawn(service.clone().append_outcomes(opened));
        tokio::spawn(service.clone().commit_unknown_stops(unknown));
        tokio::spawn(service.clone().commit_pending(security.clone()));

        let telling = notifications.start(&cluster, tls.clone(), access.clone(), &shutdown);
        tokio::spawn(due::warn(replica.clone(), access.clone(), shutdown.clone()));
        tokio::spawn(housekeeping(instances, metrics.clone(), shutdown.clone()));
        tokio::spawn(watch_disk(reserve, shutdown.clone()));
        tokio::spawn(access.clone().follow(shutdown.clone()));
        let app = api::router(Api { service: service.clone(), security, metrics, webhooks, access });
        tokio::spawn(tls.clone().follow(shutdown.clone()));
        let server =
            tokio::spawn(serve_tls(listener, tls.api(), app, ServerLimits::default(), shutdown.clone()));
        Ok(Self { address, service, certificates: tls, shutdown, server, telling, audit })
    }

    /// Ends in order: another node leads, no new requests, open ones finish, then consensus, then the audit log.
    pub async fn shutdown(self) {
        self.service.cluster.hand_over().await;
        self.shutdown.cancel();
        if let Err(error) = self.server.await {
            tracing::error!(%error, "the listener did not end in order");
        }
        if let Err(error) = self.telling.await {
            tracing::error!(%error, "the notifications did not end in order");
        }
        self.service.cluster.consensus.shutdown().await;
        let audit = self.audit;
        // Dropping it waits for the disk.
        crate::blocking(move || {
            drop(audit);
            Ok(())
        })
        .await
        .unwrap_or_else(
            |error: std::io::Error| tracing::error!(%error, "the audit log did not end in order"),
        );
    }
}

/// What a start waits for: everything that was committed before is applied here.
struct Recovery {
    service: Service,
    audit: Arc<AuditLog>,
    webhooks: Arc<Webhooks>,
}

impl Recovery {
    /// Among several nodes that takes a leader, which may be long in coming; the node answers 503 meanwhile.
    async fn wait(self) {
        while self.service.cluster.read_barrier().await.is_err() {
            tokio::time::sleep(RECOVERY_RETRY).await;
        }
        if let Err(error) = self.complete().await {
            end_process(error);
        }
    }

    async fn complete(&self) -> Result<(), AuditError> {
        let Service { replica, outcomes, cluster, .. } = &self.service;
        let applied = replica.ledger().size();
        self.audit.caught_up(applied).await?;
        if let Some(authority) = replica.ledger().authority() {
            outcomes.limits_changed(authority.limits);
            self.webhooks.warn_of_keys(authority);
        }
        // S8: what this node knows of a stop's instances goes to those others that it knows when the stop comes.
        cluster.follow_authority();
        replica.go_live();
        // What a crash interrupted: nobody has yet said what these stops achieved.
        for (id, scope, kind) in replica.ledger().stops_without_outcome() {
            outcomes.open(id, scope, kind);
        }
        *cluster.withheld.lock() = None;
        cluster.recovered.store(true, Ordering::Relaxed);
        tracing::info!(log_size = applied, "caught up with what was committed before the start");
        Ok(())
    }
}

/// The port for other nodes.
struct Peering {
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    peers: Arc<Peers>,
}

impl Peering {
    async fn prepare(
        build: Build,
        config: &NodeConfig,
        identity: &Identity,
        tls: &NodeTls,
    ) -> anyhow::Result<Option<Self>> {
        let Some(listen) = config.peer_listen else { return Ok(None) };
        if config.ca.is_none() {
            bail!(
                "\"peer_listen\" in the configuration needs \"ca\": the deployment's CA, which vouches for peers"
            );
        }
        let listener = TcpListener::bind(listen).await.with_context(|| {
            format!("cannot listen for peers on {listen}: is another node running there?")
        })?;
        let me = Me {
            id: identity.node_id,
            // A newer protocol comes with a newer rule, as snapshots do.
            newest: PROTOCOL_NEWEST + (build.rule_known - RULE_VERSION) as u16,
            deployment: identity.genesis.deployment.to_string(),
            key: SigningKey::from_bytes(&identity.seed),
        };
        let peers = Peers::new(me, tls.peer_client()?);
        peers.know_authority(&identity.newest);
        Ok(Some(Self { listener, tls: tls.peer_server()?, peers }))
    }

    async fn serve(self, cluster: Arc<Cluster>, shutdown: CancellationToken) {
        peers::serve(self.listener, self.tls, self.peers, cluster, shutdown).await;
    }
}

/// Durably: what it says must not be believed again.
fn remove_marker(path: &Path) -> anyhow::Result<()> {
    let removed = if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
    match removed {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e),
        _ => crate::store::files::sync_folder(path.parent().unwrap_or(path)),
    }
    .with_context(|| format!("cannot remove {}", path.display()))
}

fn certificate_files(config: &NodeConfig) -> certificates::Files {
    let NodeConfig { tls_cert, tls_key, ca, ca_folder, .. } = config.clone();
    certificates::Files { cert: tls_cert, key: tls_key, ca, ca_folder }
}

async fn housekeeping(instances: Arc<Instances>, metrics: Metrics, shutdown: CancellationToken) {
    let mut tick = tokio::time::interval(HOUSEKEEPING);
    while shutdown.run_until_cancelled(tick.tick()).await.is_some() {
        instances.forget();
        metrics.upkeep();
    }
}

async fn watch_disk(reserve: Arc<Reserve>, shutdown: CancellationToken) {
    let mut tick = tokio::time::interval(DISK_LOOK);
    while shutdown.run_until_cancelled(tick.tick()).await.is_some() {
        let reserve = reserve.clone();
        if let Err(error) = crate::blocking(move || reserve.look()).await {
            tracing::error!(%error, "cannot tell how full the disk is");
        }
    }
}

/// Without its log a node must not go on: what it acknowledges could not be shown any more (S8).
fn end_process(error: AuditError) {
    let error = anyhow::Error::from(error);
    tracing::error!("{error:#}");
    std::process::exit(STORAGE_FAILED_EXIT_CODE);
}

/// Who this node is, checked before anything is opened.
struct Identity {
    genesis: Authority,
    /// The newest authority that its files hold: the genesis, or for a node that was added later what it was given.
    newest: Authority,
    node_id: u64,
    name: String,
    seed: [u8; 32],
}

impl Identity {
    /// With what its log is to begin with, if that is still under way.
    fn load(config: &NodeConfig) -> anyhow::Result<(Self, Option<Seed>)> {
        let read = |path: &PathBuf| {
            std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
        };
        let deployment: Deployment =
            config.deployment.parse().context("\"deployment\" in the configuration")?;
        let envelope: Envelope = serde_json::from_str(&read(&config.genesis)?)
            .with_context(|| format!("{} holds no signed genesis", config.genesis.display()))?;
        let genesis = Authority::genesis(&envelope, deployment.genesis)
            .with_context(|| format!("the genesis in {} is refused", config.genesis.display()))?;
        if genesis.deployment != deployment {
            bail!(
                "the configuration names deployment {deployment}, the genesis is of {}",
                genesis.deployment
            );
        }
        let seed = data_encoding::BASE64
            .decode(read(&config.node_key)?.trim().as_bytes())
            .ok()
            .and_then(|seed| seed.try_into().ok());
        let Some(seed) = seed else {
            bail!(
                "{} is not a node key: 32 bytes in base64, as `tagout init` writes them",
                config.node_key.display()
            );
        };
        if let Err(error) = NoteSigner::new(&config.node, &seed) {
            bail!("\"node\" in the configuration, {:?}, is no name for a node: {error}", config.node);
        }
        let planting = Seed::load(&config.data, &config.deployment, deployment.genesis)?;
        let newest = match planting.as_ref().and_then(Seed::authority) {
            Some(authority) => authority,
            None => newest_authority(&config.data.join(JOIN), &envelope, deployment.genesis)?,
        };
        // A node that was added later stands in an authority that it learns from the others.
        let node_id =
            (newest.node(&config.node).map(|node| node.id).or(config.node_id)).with_context(|| {
                format!(
                    "the authority knows no node {:?}, and the configuration gives no \"node_id\"",
                    config.node
                )
            })?;
        let identity = Self { node_id, name: config.node.clone(), seed, genesis, newest };
        if identity.newest.node(&config.node).is_some() {
            identity.listed(&identity.newest)?;
        }
        Ok((identity, planting))
    }

    /// Whether the authority lists it, so that guards will take what it signs.
    fn listed(&self, authority: &Authority) -> anyhow::Result<()> {
        let (name, version) = (&self.name, authority.version);
        let Some(node) = authority.node(name) else {
            bail!("version {version} of the authority lists no node {name:?}");
        };
        if node.key != self.signer().verifier() {
            bail!(
                "this node's key is not the one that version {version} of the authority lists for {name:?}: guards would \
                 refuse every lease"
            );
        }
        if node.id != self.node_id {
            bail!(
                "version {version} of the authority lists {name:?} as node {}, and this one says that it is node {}",
                node.id,
                self.node_id
            );
        }
        Ok(())
    }

    fn signer(&self) -> NoteSigner {
        NoteSigner::new(&self.name, &self.seed).expect("checked when it was loaded")
    }

    fn member(&self) -> Member {
        let listed = self.newest.node(&self.name).map(Member::of);
        listed.unwrap_or_else(|| Member { name: self.name.clone(), ..Member::default() })
    }
}

fn joins(config: &NodeConfig) -> anyhow::Result<bool> {
    let path = config.data.join(JOIN);
    path.try_exists().with_context(|| format!("cannot look for {}", path.display()))
}

/// What a node that joins was given: the documents of whom to believe, or nothing beyond the genesis.
fn newest_authority(join: &Path, genesis: &Envelope, pinned: Digest) -> anyhow::Result<Authority> {
    let mut trust = Trust::begin(genesis, pinned).context("the genesis is refused")?;
    let text = match std::fs::read_to_string(join) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(e) => return Err(e).with_context(|| format!("cannot read {}", join.display())),
    };
    if !text.trim().is_empty() {
        let chain: TrustChain = serde_json::from_str(&text)
            .with_context(|| format!("{} holds no chain of authorities", join.display()))?;
        for document in chain.documents.iter().skip(1) {
            trust
                .learn(document)
                .with_context(|| format!("an authority in {} is refused", join.display()))?;
        }
    }
    Ok(trust.authority().clone())
}
