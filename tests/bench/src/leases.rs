//! Lease renewals a second for each core that the nodes use.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use bytes::Bytes;
use hyper::header::HeaderValue;
use tagout_control_plane::store::StoreKind;
use tagout_proto::digest::Digest;
use tagout_proto::lease::{AgentRequest, LeaseRequest, LeaseResponse};
use tagout_proto::rule::Terms;
use tagout_proto::scope::Scope;

use crate::cluster::Cluster;
use crate::figures::{Table, ms, percentile};
use crate::http::Connection;

#[derive(clap::Args, Clone)]
pub struct LeasesArgs {
    /// Guards at once, each with a connection of its own
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub guards: usize,
    /// How long each kind of load lasts
    #[arg(long, default_value_t = 4.0)]
    pub seconds: f64,
    #[arg(long, value_enum, default_value = "sled")]
    pub store: StoreKind,
    /// Sizes of clusters
    #[arg(long, value_name = "N", default_values_t = [1, 3], value_delimiter = ',')]
    pub nodes: Vec<usize>,
}

const LEASES: &str = "/v1/leases";
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const CONSENTED: &str = "leased";

/// A guard as the node sees it: it has its view, and wants to hear that the view still holds.
pub struct Guard {
    connection: Connection,
    request: LeaseRequest,
}

pub async fn run(folder: &Path, args: &LeasesArgs) -> anyhow::Result<Table> {
    let columns =
        ["nodes", "asked", "load", "a second", "p50 ms", "p99 ms", "CPU µs each", "a second per core"];
    let mut table = Table::new("lease renewals", &columns);
    for &nodes in &args.nodes {
        let cluster = Cluster::tagout(folder, &format!("{nodes} nodes"), nodes, args.store, None).await?;
        let leader = cluster.leader().await?;
        let followers: Vec<usize> = (0..nodes).filter(|n| *n != leader).collect();
        let mut asked = vec![("the leader", vec![leader])];
        if nodes > 1 {
            asked.push(("followers", followers));
            asked.push(("all", (0..nodes).collect()));
        }
        for (who, asked) in asked {
            let mut guards = self::guards(&cluster, args.guards, &asked).await?;
            // As many as there can be, and then half as many at even distances, which is nearer to a working day.
            let full = measure(&cluster, &mut guards, args.seconds, None, Ask::Lease).await?;
            let rate = Some(full.per_second() / 2.0);
            let half = measure(&cluster, &mut guards, args.seconds, rate, Ask::Lease).await?;
            let floor = measure(&cluster, &mut guards, args.seconds, None, Ask::Nothing).await?;
            let runs = [(who, "full", full), (who, "half", half), ("  GET /healthz", "full", floor)];
            for (who, load, mut run) in runs {
                table.row([
                    nodes.to_string(),
                    who.into(),
                    load.into(),
                    format!("{:.0}", run.per_second()),
                    format!("{:.2}", ms(percentile(&mut run.samples, 50.0))),
                    format!("{:.2}", ms(percentile(&mut run.samples, 99.0))),
                    format!("{:.0}", run.cpu.as_secs_f64() * 1e6 / run.samples.len() as f64),
                    format!("{:.0}", run.samples.len() as f64 / run.cpu.as_secs_f64()),
                ]);
            }
        }
    }
    table.note(format!(
        "{} guards, a TLS connection and an agent each, whose views have not changed; every renewal is answered after a \
         linearizable read of its own batch and signed. CPU is that of all nodes; the load is made by another process.",
        args.guards
    ));
    table.note("Aim: ≤ 15 µs of CPU a lease. GET /healthz over the same connections is what HTTP and TLS take of it.");
    Ok(table)
}

/// `count` guards that ask the nodes `asked` in turn.
pub async fn guards(cluster: &Cluster, count: usize, asked: &[usize]) -> anyhow::Result<Vec<Guard>> {
    let connection = cluster.connect(asked[0]).await?;
    cluster.deployment()?.grant(&connection, CONSENTED, Terms::default()).await?;
    let mut guards = Vec::new();
    for n in 0..count {
        guards.push(Guard::new(cluster.connect(asked[n % asked.len()]).await?, n).await?);
    }
    Ok(guards)
}

impl Guard {
    async fn new(connection: Connection, n: usize) -> anyhow::Result<Self> {
        let scope = Scope::parse(&format!("{CONSENTED}/agent_{n}"))?;
        let agents = vec![AgentRequest { scope, view: None }];
        let request =
            LeaseRequest { nonce: nonce()?, instance: format!("leased-{n}"), agents, known: vec![] };
        let mut guard = Self { connection, request };
        let answer = guard.renew().await?;
        let view = answer.views.into_iter().next().flatten().context("the first answer shows the view")?;
        guard.request.agents[0].view = Some(view.digest());
        Ok(guard)
    }

    async fn renew(&mut self) -> anyhow::Result<LeaseResponse> {
        self.request.nonce = nonce()?;
        let body = Bytes::from(serde_json::to_vec(&self.request)?);
        Ok(serde_json::from_slice(&ask(&self.connection, body).await?)?)
    }
}

async fn ask(connection: &Connection, body: Bytes) -> anyhow::Result<Bytes> {
    let answer = connection.post(LEASES, &JSON, body).await?;
    if !answer.status.is_success() {
        bail!("no lease: {} {}", answer.status, String::from_utf8_lossy(&answer.body));
    }
    Ok(answer.body)
}

fn nonce() -> anyhow::Result<Digest> {
    let mut nonce = [0; 32];
    getrandom::fill(&mut nonce).map_err(|e| anyhow::anyhow!("no randomness: {e}"))?;
    Ok(Digest(nonce))
}

#[derive(Clone, Copy)]
pub enum Ask {
    Lease,
    /// What HTTP and TLS take by themselves.
    Nothing,
}

pub struct Run {
    samples: Vec<Duration>,
    elapsed: Duration,
    cpu: Duration,
}

impl Run {
    pub fn count(&self) -> usize {
        self.samples.len()
    }

    fn per_second(&self) -> f64 {
        self.samples.len() as f64 / self.elapsed.as_secs_f64()
    }
}

/// Every guard renews, again and again, or at `rate` renewals a second for all of them together.
pub async fn measure(
    cluster: &Cluster,
    guards: &mut [Guard],
    seconds: f64,
    rate: Option<f64>,
    what: Ask,
) -> anyhow::Result<Run> {
    let cpu = cluster.cpu()?;
    let began = Instant::now();
    let ends = began + Duration::from_secs_f64(seconds);
    let between = rate.map(|rate| Duration::from_secs_f64(guards.len() as f64 / rate));
    let count = guards.len() as u32;
    let each = guards.iter_mut().zip(0u32..).map(async |(guard, n)| -> anyhow::Result<Vec<Duration>> {
        let mut samples = Vec::new();
        let mut due = began + between.unwrap_or_default() * n / count;
        while due < ends && Instant::now() < ends {
            if let Some(between) = between {
                tokio::time::sleep_until(due.into()).await;
                due += between;
            }
            let asked = Instant::now();
            match what {
                Ask::Lease => {
                    guard.request.nonce = nonce()?;
                    let body = Bytes::from(serde_json::to_vec(&guard.request)?);
                    ask(&guard.connection, body).await?;
                }
                Ask::Nothing => drop(guard.connection.get("/healthz").await?),
            }
            samples.push(asked.elapsed());
        }
        Ok(samples)
    });
    let samples = futures_util::future::try_join_all(each).await?.concat();
    Ok(Run { samples, elapsed: began.elapsed(), cpu: cluster.cpu()? - cpu })
}
