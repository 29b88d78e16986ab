//! A signed stop, verified and durable on a quorum, beside a put of as many bytes into etcd.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use serde::Serialize;
use tagout_control_plane::store::StoreKind;

use crate::cluster::{Cluster, Protocol, VALUE_BYTES};
use crate::figures::{Table, median, ms, percentile};
use crate::http::Connection;

#[derive(clap::Args, Clone)]
pub struct StopsArgs {
    /// Nodes on each side
    #[arg(long, default_value_t = 3)]
    pub nodes: usize,
    /// Rounds, in each of which every side has its turn
    #[arg(long, default_value_t = 10)]
    pub rounds: usize,
    /// How long a turn lasts
    #[arg(long, value_name = "MS", default_value_t = 600)]
    pub turn_ms: u64,
    /// Writers at once, each with a connection of its own
    #[arg(long, value_name = "N", default_values_t = [1, 64], value_delimiter = ',')]
    pub writers: Vec<usize>,
    /// Only the sides whose names contain one of these
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub only: Vec<String>,
    /// Another build of the `tagout` command, which takes its turns too: what a change brings
    #[arg(long, value_name = "PATH")]
    pub before: Option<PathBuf>,
}

/// Who takes turns.
struct Side {
    name: String,
    cluster: usize,
    /// Ask a node that does not lead.
    follower: bool,
    connections: Vec<Connection>,
    ready: Vec<Bytes>,
    runs: Vec<Run>,
}

/// What a side did with so many writers.
#[derive(Default)]
struct Run {
    samples: Vec<Duration>,
    elapsed: Duration,
    cpu: Duration,
    /// By round, so that the scatter of a ratio is seen.
    p50_ms: Vec<f64>,
}

#[derive(Serialize)]
struct Cells {
    p50_ms: f64,
    p99_ms: f64,
    per_second: f64,
    cpu_us: f64,
}

pub async fn run(folder: &Path, args: &StopsArgs) -> anyhow::Result<Table> {
    let nodes = args.nodes;
    let wanted =
        |name: &str| args.only.is_empty() || args.only.iter().any(|only| name.contains(only.as_str()));
    let mut clusters = Vec::new();
    let mut sides = Vec::new();
    let mut all = vec![
        ("etcd", Kind::Etcd { tls: true }),
        ("etcd, no TLS", Kind::Etcd { tls: false }),
        ("sled", Kind::Tagout(StoreKind::Sled, None)),
        ("segment", Kind::Tagout(StoreKind::Segment, None)),
    ];
    if let Some(before) = &args.before {
        all.push(("sled, before", Kind::Tagout(StoreKind::Sled, Some(before.as_path()))));
        all.push(("segment, before", Kind::Tagout(StoreKind::Segment, Some(before.as_path()))));
    }
    for (name, kind) in all {
        let follower = (nodes > 1).then(|| format!("{name}, follower"));
        let follower =
            follower.filter(|f| matches!(kind, Kind::Tagout(..) | Kind::Etcd { tls: true }) && wanted(f));
        if !wanted(name) && follower.is_none() {
            continue;
        }
        clusters.push(match kind {
            Kind::Etcd { tls } => Cluster::etcd(folder, name, nodes, tls, None).await?,
            Kind::Tagout(store, build) => Cluster::tagout(folder, name, nodes, store, build).await?,
        });
        let cluster = clusters.len() - 1;
        for (name, follower) in [(Some(name.to_owned()), false), (follower, true)] {
            let Some(name) = name.filter(|name| wanted(name)) else { continue };
            let runs = args.writers.iter().map(|_| Run::default()).collect();
            sides.push(Side { name, cluster, follower, connections: vec![], ready: vec![], runs });
        }
    }
    let most = args.writers.iter().copied().max().unwrap_or(1);
    for side in &mut sides {
        let cluster = &clusters[side.cluster];
        let leader = cluster.leader().await?;
        let node = if side.follower { (leader + 1) % nodes } else { leader };
        for _ in 0..most {
            side.connections.push(cluster.connect(node).await?);
        }
    }
    let turn = Duration::from_millis(args.turn_ms);
    // Round 0 warms up and does not count.
    for round in 0..=args.rounds {
        for (at, &writers) in args.writers.iter().enumerate() {
            for i in 0..sides.len() {
                // Each goes first as often as the others.
                let i = (i + round) % sides.len();
                let side = &mut sides[i];
                let cluster = &mut clusters[side.cluster];
                side.prepare(cluster, at, turn)?;
                let cpu = cluster.cpu()?;
                let began = Instant::now();
                let samples = side.turn(cluster.protocol(), writers, turn).await;
                let mut samples = samples.with_context(|| side.name.clone())?;
                let elapsed = began.elapsed();
                let run = &mut side.runs[at];
                if round == 0 {
                    // What `prepare` estimates from; forgotten below.
                    run.elapsed = elapsed;
                    run.samples = samples;
                    continue;
                }
                if round == 1 {
                    *run = Run::default();
                }
                run.p50_ms.push(ms(percentile(&mut samples, 50.0)));
                run.samples.extend(samples);
                run.elapsed += elapsed;
                // What one turn leaves behind shall not fall into the next side's.
                tokio::time::sleep(Duration::from_millis(100)).await;
                run.cpu += clusters[side.cluster].cpu()? - cpu;
            }
        }
    }
    let mut table = table(args, &mut sides);
    let mut idle = Vec::new();
    for cluster in &clusters {
        idle.push(cluster.cpu()?);
    }
    tokio::time::sleep(IDLE).await;
    for (cluster, before) in clusters.iter().zip(&mut idle) {
        *before = cluster.cpu()? - *before;
    }
    let share = |used: &Duration| 100.0 * used.as_secs_f64() / IDLE.as_secs_f64();
    let idle = clusters.iter().zip(&idle).map(|(c, used)| format!("{} {:.1} %", c.name, share(used)));
    table.note(format!(
        "Idle, the nodes of a side take of one core: {}.",
        idle.collect::<Vec<_>>().join(", ")
    ));
    Ok(table)
}

/// How long everybody does nothing at the end.
const IDLE: Duration = Duration::from_secs(3);

enum Kind<'a> {
    Etcd {
        tls: bool,
    },
    /// With a build that is not the one beside this program.
    Tagout(StoreKind, Option<&'a Path>),
}

impl Side {
    /// Makes and signs what the turn will send.
    fn prepare(&mut self, cluster: &mut Cluster, at: usize, turn: Duration) -> anyhow::Result<()> {
        let run = &self.runs[at];
        let per_second = run.samples.len() as f64 / run.elapsed.as_secs_f64().max(1e-3);
        let likely = if run.samples.is_empty() { 8000.0 } else { per_second * 2.0 };
        let wanted = (likely * turn.as_secs_f64()) as usize + 256;
        let missing = wanted.saturating_sub(self.ready.len());
        self.ready.extend(cluster.writes(missing)?);
        Ok(())
    }

    /// `writers` write for `turn`, each waiting for its answer. Gives every write's time.
    async fn turn(
        &mut self,
        protocol: Protocol,
        writers: usize,
        turn: Duration,
    ) -> anyhow::Result<Vec<Duration>> {
        let ready = std::cell::RefCell::new(std::mem::take(&mut self.ready));
        let ends = Instant::now() + turn;
        let writer = async |connection: &Connection| -> anyhow::Result<Vec<Duration>> {
            let mut samples = Vec::new();
            while Instant::now() < ends {
                let Some(body) = ready.borrow_mut().pop() else { break };
                let began = Instant::now();
                protocol.write(connection, body).await?;
                samples.push(began.elapsed());
            }
            Ok(samples)
        };
        let samples =
            futures_util::future::try_join_all(self.connections[..writers].iter().map(writer)).await;
        self.ready = ready.into_inner();
        Ok(samples?.concat())
    }
}

impl Run {
    fn cells(&mut self) -> Cells {
        Cells {
            p50_ms: ms(percentile(&mut self.samples, 50.0)),
            p99_ms: ms(percentile(&mut self.samples, 99.0)),
            per_second: self.samples.len() as f64 / self.elapsed.as_secs_f64(),
            cpu_us: self.cpu.as_secs_f64() * 1e6 / self.samples.len() as f64,
        }
    }
}

fn table(args: &StopsArgs, sides: &mut [Side]) -> Table {
    let title = format!("a signed stop beside a put into etcd, {} node(s) each", args.nodes);
    let columns = ["side", "writers", "p50 ms", "p99 ms", "a second", "CPU µs", "p50 ×", "p99 ×", "rate ×"];
    let mut table = Table::new(&title, &[&columns[..], &["p50 × by round"]].concat());
    for (at, writers) in args.writers.iter().enumerate() {
        let base = (sides.iter_mut().find(|side| side.name == "etcd")).map(|side| {
            let cells = side.runs[at].cells();
            (cells, side.runs[at].p50_ms.clone())
        });
        for side in sides.iter_mut() {
            let run = &mut side.runs[at];
            let cells = run.cells();
            let ratio = |of: fn(&Cells) -> f64| {
                base.as_ref().map_or("-".into(), |(base, _)| format!("{:.2}", of(&cells) / of(base)))
            };
            let by_round = base.as_ref().map_or(vec![], |(_, base)| {
                run.p50_ms.iter().zip(base).map(|(own, base)| own / base).collect::<Vec<f64>>()
            });
            let scatter = scatter(by_round);
            table.row([
                side.name.clone(),
                writers.to_string(),
                format!("{:.2}", cells.p50_ms),
                format!("{:.2}", cells.p99_ms),
                format!("{:.0}", cells.per_second),
                format!("{:.0}", cells.cpu_us),
                ratio(|c| c.p50_ms),
                ratio(|c| c.p99_ms),
                ratio(|c| c.per_second),
                scatter,
            ]);
        }
    }
    table.note(
        "× is beside etcd with TLS for clients and mutual TLS among its members, as ours has it; \
         \"no TLS\" is etcd in the clear.",
    );
    table.note(format!(
        "Both over HTTP/2 by the same client, a connection a writer; a put has a value of {VALUE_BYTES} bytes, as long as \
         a stop's document; a stop has its signature besides, made before the clock runs.",
    ));
    table.note(
        "CPU is that of all nodes for one write. Aims: p50 and p99 ≤ 1.0 at 1 writer, ≤ 0.8 at 64 on sled, ≤ 0.75 on segment.",
    );
    table
}

/// Least, median and largest.
fn scatter(mut figures: Vec<f64>) -> String {
    let middle = median(&mut figures);
    match (figures.first(), figures.last()) {
        (Some(least), Some(most)) => format!("{least:.2} {middle:.2} {most:.2}"),
        _ => "-".into(),
    }
}
