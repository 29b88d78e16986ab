//! A node, put together: its identity, its log, consensus, leases and the API.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use tagout_proto::authority::Authority;
use tagout_proto::command::Deployment;
use tagout_proto::envelope::Envelope;
use tagout_proto::ledger::Proposal;
use tagout_proto::log::entry::EntryKind;
use tagout_proto::note::NoteSigner;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::api::{self, Api, Metrics, SecurityLog};
use crate::audit::{AuditError, AuditLog, NoPeers};
use crate::clock;
use crate::config::NodeConfig;
use crate::instances::Instances;
use crate::leases::{LeaseServer, Leases};
use crate::outcomes::Outcomes;
use crate::pki;
use crate::push::Hub;
use crate::raft::{Consensus, ConsensusConfig, STORAGE_FAILED_EXIT_CODE};
use crate::replica::Replica;
use crate::service::Service;
use crate::tls::{ServerLimits, serve_tls, server_config};

/// Stops that guards hold and the service does not know, waiting to be committed.
const UNKNOWN_STOPS_MAX: usize = 1024;
const HOUSEKEEPING: Duration = Duration::from_secs(15);

/// A running node.
pub struct Node {
    pub address: std::net::SocketAddr,
    pub service: Service,
    shutdown: CancellationToken,
    server: JoinHandle<()>,
    audit: AuditLog,
}

/// `tagout serve`: runs a node until it is told to end.
pub async fn serve_command(config: &Path) -> anyhow::Result<()> {
    let config = NodeConfig::load(config)?;
    let node = Node::start(config).await?;
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
        let identity = Identity::load(&config)?;
        let metrics = Metrics::install().context("the metrics could not be set up")?;
        let listener = TcpListener::bind(config.listen)
            .await
            .with_context(|| format!("cannot listen on {}: is another node running there?", config.listen))?;
        let address = listener.local_addr()?;
        let tls = {
            let issued = pki::load(&config.tls_cert, &config.tls_key)?;
            tracing::info!(days_left = pki::days_left(&issued.cert_pem)?, "certificate of this node");
            server_config(&issued.cert_pem, &issued.key_pem)?
        };

        let instances = Arc::new(Instances::default());
        let hub = Arc::new(Hub::default());
        let limits = identity.genesis.limits;
        let (outcomes, opened) = Outcomes::new(instances.clone(), config.node.clone(), limits);
        let deployment = identity.genesis.deployment.clone();
        let audit =
            AuditLog::open(&config.data.join("log"), deployment.to_string(), identity.signer(), end_process)?;
        audit.fill_from(NoPeers);
        let security = SecurityLog::open(&config.data).context("the security log cannot be written")?;
        let replica = Arc::new(Replica::new(deployment.genesis, audit.sink(), hub.clone(), outcomes.clone()));

        let consensus = ConsensusConfig {
            store: config.store,
            ..ConsensusConfig::new(identity.node_id, config.data.join("raft"))
        };
        let consensus = Consensus::start(consensus, replica.clone()).await?;
        let applied = replica.ledger().size();
        audit.caught_up(applied).await?;
        let (unknown_stops, unknown) = mpsc::channel(UNKNOWN_STOPS_MAX);
        let leases = Leases::serve(LeaseServer {
            consensus: consensus.clone(),
            replica: replica.clone(),
            instances: instances.clone(),
            audit: audit.reader(),
            signer: Arc::new(identity.signer()),
            unknown_stops,
        });
        let service = Service {
            node: config.node.as_str().into(),
            replica: replica.clone(),
            consensus,
            audit: audit.reader(),
            hub,
            instances: instances.clone(),
            outcomes: outcomes.clone(),
            leases,
        };
        if replica.ledger().authority().is_none() {
            outcomes.begin();
            let envelope = identity.envelope;
            service
                .propose(Proposal { kind: EntryKind::Command, time_ms: clock::wall_ms(), envelope })
                .await?;
        }
        if let Some(authority) = replica.ledger().authority() {
            outcomes.limits_changed(authority.limits);
        }
        replica.go_live();
        // What a crash interrupted: nobody has yet said what these stops achieved.
        for (id, scope, kind) in replica.ledger().stops_without_outcome() {
            outcomes.open(id, scope, kind);
        }
        tokio::spawn(service.clone().append_outcomes(opened));
        tokio::spawn(service.clone().commit_unknown_stops(unknown));

        let shutdown = CancellationToken::new();
        tokio::spawn(housekeeping(instances, metrics.clone(), shutdown.clone()));
        let app = api::router(Api { service: service.clone(), security, metrics });
        let server = tokio::spawn(serve_tls(listener, tls, app, ServerLimits::default(), shutdown.clone()));
        Ok(Self { address, service, shutdown, server, audit })
    }

    /// Ends in order: no new requests, open ones finish, then consensus, then the audit log.
    pub async fn shutdown(self) {
        self.shutdown.cancel();
        if let Err(error) = self.server.await {
            tracing::error!(%error, "the listener did not end in order");
        }
        self.service.consensus.shutdown().await;
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

async fn housekeeping(instances: Arc<Instances>, metrics: Metrics, shutdown: CancellationToken) {
    let mut tick = tokio::time::interval(HOUSEKEEPING);
    while shutdown.run_until_cancelled(tick.tick()).await.is_some() {
        instances.forget();
        metrics.upkeep();
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
    envelope: Envelope,
    node_id: u64,
    name: String,
    seed: [u8; 32],
}

impl Identity {
    fn load(config: &NodeConfig) -> anyhow::Result<Self> {
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
        let identity = Self { node_id: 0, name: config.node.clone(), seed, genesis, envelope };
        let Some(node) = identity.genesis.node(&config.node) else {
            bail!("the authority knows no node {:?}", config.node);
        };
        if node.key != identity.signer().verifier() {
            bail!(
                "{} is not the key that the authority lists for {:?}: guards would refuse every lease",
                config.node_key.display(),
                config.node
            );
        }
        Ok(Self { node_id: node.id, ..identity })
    }

    fn signer(&self) -> NoteSigner {
        NoteSigner::new(&self.name, &self.seed).expect("a name that the authority lists is a key name")
    }
}
