//! A running cluster of either side, behind one set of verbs.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use bytes::Bytes;
use rustls::ClientConfig;
use tagout_control_plane::store::StoreKind;
use tagout_control_plane::{pki, tls};
use tagout_proto::envelope::Envelope;

use crate::deployment::{self, Deployment};
use crate::etcd::{self, Timing};
use crate::http::Connection;
use crate::process::Process;

/// Far above what anything takes.
const DEADLINE: Duration = Duration::from_secs(60);

pub struct Cluster {
    pub name: String,
    pub nodes: Vec<Node>,
    folder: PathBuf,
    tls: Option<Arc<ClientConfig>>,
    side: Side,
}

pub struct Node {
    pub address: SocketAddr,
    pub data: PathBuf,
    program: PathBuf,
    arguments: Vec<String>,
    process: Option<Process>,
}

pub enum Side {
    Tagout(Box<Deployment>),
    /// With how many puts were made.
    Etcd(u64),
}

impl Cluster {
    /// `nodes` nodes of ours, running and ready: of `build`, or of the `tagout` command that was built beside this one.
    pub async fn tagout(
        folder: &Path,
        name: &str,
        nodes: usize,
        store: StoreKind,
        build: Option<&Path>,
    ) -> anyhow::Result<Self> {
        Self::tagout_of(folder, name, nodes, store, build, TTL_S).await
    }

    /// The same, whose leases live so many seconds.
    pub async fn tagout_of(
        folder: &Path,
        name: &str,
        nodes: usize,
        store: StoreKind,
        build: Option<&Path>,
        ttl_s: u64,
    ) -> anyhow::Result<Self> {
        let folder = folder.join(name.replace(' ', "-"));
        let address = |_| Ok((free_address()?, free_address()?));
        let addresses = (0..nodes).map(address).collect::<anyhow::Result<Vec<_>>>()?;
        let deployment = Deployment::make(&folder, store, &addresses, ttl_s)?;
        let program = build.map_or_else(deployment::tagout, Path::to_owned);
        let node = |(n, &(address, _)): (usize, &(SocketAddr, SocketAddr))| Node {
            address,
            data: deployment.data(n),
            program: program.clone(),
            arguments: ["serve".into(), "--config".into(), deployment.config(n).display().to_string()].into(),
            process: None,
        };
        let nodes = addresses.iter().enumerate().map(node).collect();
        let tls = Some(Arc::new(tls::client_config(&std::fs::read_to_string(deployment.ca())?)?));
        let side = Side::Tagout(Box::new(deployment));
        Self { name: name.into(), nodes, folder, tls, side }.started().await
    }

    /// `nodes` members of etcd, running and ready; with TLS for clients and mutual TLS among themselves, or without any.
    pub async fn etcd(
        folder: &Path,
        name: &str,
        nodes: usize,
        encrypted: bool,
        timing: Option<Timing>,
    ) -> anyhow::Result<Self> {
        let folder = folder.join(name.replace(' ', "-"));
        std::fs::create_dir_all(&folder)?;
        let ca = folder.join("ca");
        let ca_pem = pki::create_ca(&ca, "bench")?;
        let (cert, key) = pki::issue(&ca, "etcd", &["127.0.0.1"])?.write(&folder, "etcd")?;
        let ca = ca.join(pki::CA_CERT_FILE);
        let tls = encrypted.then_some(etcd::Tls { cert: &cert, key: &key, ca: &ca });
        let member = |_| Ok(etcd::Member { client: free_address()?, peer: free_address()? });
        let members = (0..nodes).map(member).collect::<anyhow::Result<Vec<_>>>()?;
        let node = |n: usize| {
            let data = folder.join(format!("member-{n}"));
            let arguments = etcd::arguments(n, &members, &data, tls.as_ref(), timing);
            Node { address: members[n].client, data, program: "etcd".into(), arguments, process: None }
        };
        let nodes = (0..nodes).map(node).collect();
        let client = encrypted.then(|| tls::client_config(&ca_pem)).transpose()?.map(Arc::new);
        Self { name: name.into(), nodes, folder, tls: client, side: Side::Etcd(0) }.started().await
    }

    async fn started(mut self) -> anyhow::Result<Self> {
        for n in 0..self.nodes.len() {
            self.start(n)?;
        }
        for n in 0..self.nodes.len() {
            self.ready(n).await?;
        }
        Ok(self)
    }

    pub fn deployment(&self) -> anyhow::Result<&Deployment> {
        match &self.side {
            Side::Tagout(deployment) => Ok(deployment),
            Side::Etcd(_) => bail!("etcd is no deployment of ours"),
        }
    }

    pub fn start(&mut self, n: usize) -> anyhow::Result<()> {
        let Node { program, arguments, .. } = &self.nodes[n];
        let process = Process::spawn(&format!("node-{n}"), &self.folder, program, arguments)?;
        self.nodes[n].process = Some(process);
        Ok(())
    }

    pub fn process(&mut self, n: usize) -> anyhow::Result<&mut Process> {
        self.nodes[n].process.as_mut().context("the node was not started")
    }

    /// Waits until the node answers a linearizable read.
    pub async fn ready(&mut self, n: usize) -> anyhow::Result<()> {
        let began = Instant::now();
        loop {
            self.process(n)?.ended().with_context(|| format!("in {}", self.folder.display()))?;
            match self.read(n).await {
                Ok(()) => return Ok(()),
                Err(e) if began.elapsed() > DEADLINE => {
                    return Err(e.context(format!("{} {n} is not ready", self.name)));
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    }

    async fn read(&self, n: usize) -> anyhow::Result<()> {
        let connection = self.connect(n).await?;
        match self.side {
            Side::Tagout(_) => deployment::ready(&connection.get("/readyz").await?),
            Side::Etcd(_) => etcd::read(&connection).await,
        }
    }

    pub async fn connect(&self, n: usize) -> anyhow::Result<Connection> {
        Connection::open(self.nodes[n].address, self.tls.as_ref()).await
    }

    /// The node that leads; waits for one.
    pub async fn leader(&self) -> anyhow::Result<usize> {
        let began = Instant::now();
        while began.elapsed() < DEADLINE {
            for n in 0..self.nodes.len() {
                let Ok(connection) = self.connect(n).await else { continue };
                let leads = match self.side {
                    Side::Tagout(_) => deployment::leads(&connection).await,
                    Side::Etcd(_) => etcd::leads(&connection).await,
                };
                if leads.unwrap_or(false) {
                    return Ok(n);
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        bail!("{} has no leader", self.name)
    }

    /// `count` writes that nobody has made before: signed stops, or puts of keys as long as a scope and values as long as
    /// a stop's document.
    pub fn writes(&mut self, count: usize) -> anyhow::Result<Vec<Bytes>> {
        (0..count)
            .map(|_| match &mut self.side {
                Side::Tagout(deployment) => Ok(deployment::form(&deployment.stop()?)),
                Side::Etcd(puts) => {
                    *puts += 1;
                    Ok(etcd::put(format!("stopped/agent_{puts}").as_bytes(), &[b'x'; VALUE_BYTES]))
                }
            })
            .collect()
    }

    /// A stop that is not in any form yet.
    pub fn stop(&mut self) -> anyhow::Result<Envelope> {
        match &mut self.side {
            Side::Tagout(deployment) => deployment.stop(),
            Side::Etcd(_) => bail!("etcd has no stops"),
        }
    }

    pub fn protocol(&self) -> Protocol {
        match self.side {
            Side::Tagout(_) => Protocol::Stop,
            Side::Etcd(_) => Protocol::Put,
        }
    }

    pub async fn write(&self, connection: &Connection, body: Bytes) -> anyhow::Result<()> {
        self.protocol().write(connection, body).await
    }

    pub fn cpu(&self) -> anyhow::Result<Duration> {
        self.nodes.iter().filter_map(|node| node.process.as_ref()).map(Process::cpu).sum()
    }

    pub fn resident_kib(&self) -> u64 {
        self.nodes.iter().filter_map(|node| node.process.as_ref()).map(Process::resident_kib).sum()
    }

    /// The CA of the nodes' certificates.
    pub fn ca(&self) -> PathBuf {
        match &self.side {
            Side::Tagout(deployment) => deployment.ca(),
            Side::Etcd(_) => self.folder.join("ca").join(pki::CA_CERT_FILE),
        }
    }

    pub fn process_ids(&self) -> Vec<u32> {
        self.nodes.iter().filter_map(|node| node.process.as_ref()).map(Process::id).collect()
    }
}

/// How long leases live where a benchmark does not say.
pub const TTL_S: u64 = 10;

/// The length of a stop's document, as `Deployment::stop` makes them.
pub const VALUE_BYTES: usize = 330;

/// How a write is sent, and what makes it an accepted one.
#[derive(Clone, Copy)]
pub enum Protocol {
    Stop,
    Put,
}

impl Protocol {
    pub async fn write(self, connection: &Connection, body: Bytes) -> anyhow::Result<()> {
        match self {
            Self::Stop => {
                let answer = connection.post(deployment::COMMANDS, &deployment::FORM, body).await?;
                deployment::accepted(&answer)
            }
            Self::Put => {
                let answer = connection.post(etcd::PUT, &etcd::GRPC, body).await?;
                etcd::accepted(&answer).map(drop)
            }
        }
    }
}

/// A loopback port that nobody has now; a node takes it a moment later.
fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}
