//! From one message to the last of its listeners: a signed stop and guards that deny, a put into etcd and watchers, a PUBLISH
//! to Redis and subscribers. Each listener has a connection of its own, as processes have; once more, guards share clients.

pub mod listeners;
mod redis;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tagout_control_plane::store::StoreKind;

use self::listeners::{Kind, Listeners};
use self::redis::Redis;
use crate::cluster::{Cluster, TTL_S, VALUE_BYTES};
use crate::deployment;
use crate::etcd;
use crate::figures::{Table, median, percentile};
use crate::http::Connection;
use crate::perf::Perf;
use crate::profile::report;

#[derive(clap::Args, Clone)]
pub struct FanoutArgs {
    /// Listeners at once
    #[arg(long, value_name = "N", default_values_t = [1_000, 10_000], value_delimiter = ',')]
    pub listeners: Vec<usize>,
    /// Messages to each side
    #[arg(long, default_value_t = 10)]
    pub rounds: usize,
    /// How long the servers are watched while nothing is sent
    #[arg(long, default_value_t = 10.0)]
    pub idle_seconds: f64,
    #[arg(long, value_enum, default_value = "sled")]
    pub store: StoreKind,
    /// How many seconds leases live [default: 10 for up to 1,000 listeners, 60 for more: the guards of one machine would take
    /// all of it for their renewals]
    #[arg(long, value_name = "N")]
    pub ttl: Option<u64>,
    /// Only ours
    #[arg(long)]
    pub alone: bool,
    /// Write where the time of nodes and guards goes while a stop is on its way to them (takes linux-perf); that of guards
    /// which share a client goes into FILE.100.txt
    #[arg(long, value_name = "FILE", requires = "alone")]
    pub profile: Option<PathBuf>,
}

/// What is stopped, watched and subscribed to.
pub const TOPIC: &str = "fleet";
const NODES: usize = 3;

/// What sends, with an open connection to it.
pub enum Sender {
    Tagout(Cluster, Connection),
    Etcd(Cluster, Connection),
    Redis(Redis),
}

struct Side {
    name: &'static str,
    server: &'static str,
    /// Guards of one client, as in a process that runs many agents; other listeners have a connection each.
    per_client: usize,
}

const SIDES: [Side; 4] = [
    Side { name: "tagout", server: "tagout", per_client: 1 },
    Side { name: "tagout, 100 guards a client", server: "tagout", per_client: 100 },
    Side { name: "etcd", server: "etcd", per_client: 1 },
    Side { name: "Redis", server: "Redis", per_client: 1 },
];

/// What one side did.
struct Measured {
    p50: Duration,
    p99: Duration,
    last: Duration,
    server_kib: f64,
    listener_kib: f64,
    message_us: f64,
    idle_us: f64,
    lapses: u64,
}

pub async fn run(folder: &Path, args: &FanoutArgs) -> anyhow::Result<Table> {
    let most = args.listeners.iter().copied().max().unwrap_or(0);
    raise_open_files(most as u64 + 4096)?;
    let columns = [
        "listeners",
        "side",
        "p50 ms",
        "p99 ms",
        "last ms",
        "× etcd",
        "× Redis",
        "servers KiB each",
        "CPU µs each",
        "idle CPU µs/s each",
        "own KiB",
    ];
    let mut table = Table::new("from the sending of one message to its listeners", &columns);
    for &count in &args.listeners {
        let ttl_s = args.ttl.unwrap_or(if count > 1_000 { 60 } else { TTL_S });
        let mut measured = Vec::new();
        for side in SIDES.iter().filter(|side| side.server == "tagout" || !args.alone) {
            let folder = folder.join(format!("{count}-{}-{}", side.server, side.per_client));
            let sender = Sender::start(side.server, &folder, args.store, ttl_s).await?;
            let found = measure(sender, &folder, count, side.per_client, args);
            measured.push((side, found.await.with_context(|| format!("{}, {count} listeners", side.name))?));
        }
        table.note(format!("{count} listeners: guards' leases live {ttl_s} s."));
        for (side, of) in &measured {
            let beside = |server: &str| {
                let other = measured.iter().find(|(side, _)| side.server == server);
                other.map_or("-".into(), |(_, other)| {
                    format!("{:.2}", of.last.as_secs_f64() / other.last.as_secs_f64())
                })
            };
            let ms = |d: Duration| format!("{:.1}", d.as_secs_f64() * 1e3);
            table.row([
                count.to_string(),
                side.name.into(),
                ms(of.p50),
                ms(of.p99),
                ms(of.last),
                beside("etcd"),
                beside("Redis"),
                format!("{:.1}", of.server_kib),
                format!("{:.0}", of.message_us),
                format!("{:.0}", of.idle_us),
                format!("{:.1}", of.listener_kib),
            ]);
            if of.lapses > 0 {
                table.note(format!(
                    "{}, {count} listeners: {} guards lapsed meanwhile.",
                    side.name, of.lapses
                ));
            }
        }
    }
    table.note(format!(
        "Medians over {} messages of {VALUE_BYTES} bytes. Ours is a stop that was signed before, verified, durable on a \
         quorum of {NODES} nodes ({:?}) and denied by guards that renew their leases meanwhile; etcd's a put that is \
         durable on {NODES} members, watched over TLS; Redis keeps nothing, is one process and speaks in the clear. All \
         listeners are in one other process, each with a connection of its own, but for the guards that share a client. × \
         compares the last.",
        args.rounds, args.store
    ));
    table.note("Aims at 10,000: last ≤ 0.7 × etcd and ≤ 1.2 × Redis; ≤ 20 KiB a guard.");
    Ok(table)
}

async fn measure(
    mut sender: Sender,
    folder: &Path,
    count: usize,
    per_client: usize,
    args: &FanoutArgs,
) -> anyhow::Result<Measured> {
    let before_kib = sender.resident_kib();
    let mut listeners = Listeners::start(folder, count, per_client, &sender).await?;
    let server_kib = (sender.resident_kib().saturating_sub(before_kib)) as f64 / count as f64;
    let own_kib = listeners.resident_kib() as f64 / count as f64;

    let idle = sender.cpu()?;
    tokio::time::sleep(Duration::from_secs_f64(args.idle_seconds)).await;
    let idle_us = (sender.cpu()? - idle).as_secs_f64() * 1e6 / args.idle_seconds / count as f64;

    let (mut of_p50, mut of_p99, mut of_last) = (Vec::new(), Vec::new(), Vec::new());
    let (mut spent, mut lapses) = (Duration::ZERO, 0);
    let mut perf = match &args.profile {
        Some(_) => Some(Perf::start(folder, &[sender.process_ids(), vec![listeners.process_id()]].concat())?),
        None => None,
    };
    for round in 0..args.rounds {
        // Not at the same point between two renewals each time.
        tokio::time::sleep(Duration::from_millis(200 + 37 * (round as u64 % 10))).await;
        let cpu = sender.cpu()?;
        perf.as_mut().map_or(Ok(()), Perf::on)?;
        let (sent_us, message) = sender.send().await?;
        let heard = listeners.heard().await?;
        perf.as_mut().map_or(Ok(()), Perf::off)?;
        spent += sender.cpu()?.saturating_sub(cpu);
        if heard.at_us.len() != count {
            bail!("{} of {count} listeners heard of message {round}", heard.at_us.len());
        }
        lapses += heard.lapses;
        let mut after: Vec<Duration> =
            heard.at_us.iter().map(|at| Duration::from_micros(at.saturating_sub(sent_us))).collect();
        of_p50.push(percentile(&mut after, 50.0).as_secs_f64());
        of_p99.push(percentile(&mut after, 99.0).as_secs_f64());
        of_last.push(percentile(&mut after, 100.0).as_secs_f64());
        sender.take_back(message).await?;
        listeners.ready().await?;
    }
    if let (Some(perf), Some(out)) = (perf, &args.profile) {
        let (guards, nodes): (Vec<_>, Vec<_>) =
            perf.samples()?.into_iter().partition(|sample| sample.pid == listeners.process_id());
        let text = format!(
            "{} stops to {count} guards\n\nnodes: {} samples\n{}\nguards: {} samples\n{}",
            args.rounds,
            nodes.len(),
            report(&nodes, 1.0)?,
            guards.len(),
            report(&guards, 1.0)?
        );
        let out = if per_client == 1 { out.clone() } else { out.with_extension(format!("{per_client}.txt")) };
        std::fs::write(&out, text).with_context(|| format!("cannot write {}", out.display()))?;
    }
    let of = |mut samples: Vec<f64>| Duration::from_secs_f64(median(&mut samples));
    Ok(Measured {
        p50: of(of_p50),
        p99: of(of_p99),
        last: of(of_last),
        server_kib,
        listener_kib: own_kib,
        message_us: spent.as_secs_f64() * 1e6 / (args.rounds * count) as f64,
        idle_us,
        lapses,
    })
}

impl Sender {
    async fn start(side: &str, folder: &Path, store: StoreKind, ttl_s: u64) -> anyhow::Result<Self> {
        std::fs::create_dir_all(folder)?;
        Ok(match side {
            "tagout" => {
                let cluster = Cluster::tagout_of(folder, side, NODES, store, None, ttl_s).await?;
                let connection = cluster.connect(cluster.leader().await?).await?;
                cluster.deployment()?.grant(&connection, TOPIC, tagout_proto::rule::Terms::default()).await?;
                Self::Tagout(cluster, connection)
            }
            "etcd" => {
                let cluster = Cluster::etcd(folder, side, NODES, true, None).await?;
                let connection = cluster.connect(cluster.leader().await?).await?;
                Self::Etcd(cluster, connection)
            }
            _ => Self::Redis(Redis::start(folder).await?),
        })
    }

    /// Sends one message; gives when it began to, in microseconds of Unix time, and what is to be taken back.
    async fn send(&mut self) -> anyhow::Result<(u64, Option<tagout_proto::envelope::Envelope>)> {
        match self {
            Self::Tagout(cluster, connection) => {
                let stop = cluster.deployment()?.stop_of(TOPIC)?;
                let form = deployment::form(&stop);
                let began_us = now_us();
                let sent = connection.post(deployment::COMMANDS, &deployment::FORM, form).await?;
                deployment::accepted(&sent)?;
                Ok((began_us, Some(stop)))
            }
            Self::Etcd(_, connection) => {
                let put = etcd::put(TOPIC.as_bytes(), &[b'x'; VALUE_BYTES]);
                let began_us = now_us();
                etcd::accepted(&connection.post(etcd::PUT, &etcd::GRPC, put).await?)?;
                Ok((began_us, None))
            }
            Self::Redis(redis) => {
                let began_us = now_us();
                redis.publish(TOPIC, &[b'x'; VALUE_BYTES]).await?;
                Ok((began_us, None))
            }
        }
    }

    async fn take_back(&mut self, message: Option<tagout_proto::envelope::Envelope>) -> anyhow::Result<()> {
        match (self, message) {
            (Self::Tagout(cluster, connection), Some(stop)) => {
                cluster.deployment()?.resume(connection, TOPIC, &stop).await
            }
            _ => Ok(()),
        }
    }

    fn kind(&self) -> Kind {
        match self {
            Self::Tagout(..) => Kind::Guards,
            Self::Etcd(..) => Kind::Watchers,
            Self::Redis(_) => Kind::Subscribers,
        }
    }

    fn addresses(&self) -> Vec<SocketAddr> {
        match self {
            Self::Tagout(cluster, _) | Self::Etcd(cluster, _) => {
                cluster.nodes.iter().map(|n| n.address).collect()
            }
            Self::Redis(redis) => vec![redis.address],
        }
    }

    fn resident_kib(&self) -> u64 {
        match self {
            Self::Tagout(cluster, _) | Self::Etcd(cluster, _) => cluster.resident_kib(),
            Self::Redis(redis) => redis.process.resident_kib(),
        }
    }

    fn process_ids(&self) -> Vec<u32> {
        match self {
            Self::Tagout(cluster, _) | Self::Etcd(cluster, _) => cluster.process_ids(),
            Self::Redis(redis) => vec![redis.process.id()],
        }
    }

    fn cpu(&self) -> anyhow::Result<Duration> {
        match self {
            Self::Tagout(cluster, _) | Self::Etcd(cluster, _) => cluster.cpu(),
            Self::Redis(redis) => redis.process.cpu(),
        }
    }
}

/// Unix time, which all processes here share.
fn now_us() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64)
}

/// For this process and those that it starts.
fn raise_open_files(wanted: u64) -> anyhow::Result<()> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_none_or(|current| current >= wanted) {
        return Ok(());
    }
    let maximum = maximum.map(|maximum| maximum.max(wanted));
    setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum }).with_context(|| {
        format!(
            "so many listeners take {wanted} open files: raise the limit (`ulimit -n`), or run this as root"
        )
    })
}
