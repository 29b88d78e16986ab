//! From `kill -9` of the leader to the next write that is accepted, and what healthy guards make of it.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use bytes::Bytes;
use tagout_control_plane::store::StoreKind;
use tagout_proto::rule::Terms;
use tokio::sync::mpsc;

use crate::cluster::{Cluster, Protocol};
use crate::etcd::Timing;
use crate::figures::{Table, median, ms};
use crate::guards::{Guards, Watched};
use crate::http::Connection;

#[derive(clap::Args, Clone)]
pub struct FailoverArgs {
    /// Leaders killed on each side
    #[arg(long, default_value_t = 20)]
    pub kills: usize,
    /// Healthy guards that are asked all the time
    #[arg(long, default_value_t = 12)]
    pub guards: usize,
    #[arg(long, value_enum, default_value = "sled")]
    pub store: StoreKind,
    /// Only ours
    #[arg(long)]
    pub alone: bool,
}

/// Ours are 50 ms and 150 to 200 ms after a lease of 200 ms. This is the shortest election timeout that etcd takes with
/// such a heartbeat, and it draws from one to two of them.
const OURS: Timing = Timing { heartbeat_ms: 50, election_ms: 250 };

/// How often a client that has no answer yet tries again. A node of ours goes on trying what it was asked, so that this adds
/// nothing to its time; etcd may have handed it to the dead leader, and never answer.
const RETRY: Duration = Duration::from_millis(25);
const GIVEN_UP: Duration = Duration::from_secs(30);
/// The consent of the guards; nobody stops anything below it.
const HEALTHY: &str = "healthy";

pub async fn run(folder: &Path, args: &FailoverArgs) -> anyhow::Result<Table> {
    let mut clusters = vec![Cluster::tagout(folder, "tagout", 3, args.store, None).await?];
    if !args.alone {
        clusters.push(Cluster::etcd(folder, "etcd", 3, true, None).await?);
        clusters.push(Cluster::etcd(folder, "etcd, our timing", 3, true, Some(OURS)).await?);
    }
    let leader = clusters[0].leader().await?;
    let connection = clusters[0].connect(leader).await?;
    clusters[0].deployment()?.grant(&connection, HEALTHY, Terms::default()).await?;
    let guards = Guards::start(&clusters[0].deployment()?.profile(), HEALTHY, args.guards)?;

    let mut found = vec![Vec::new(); clusters.len()];
    for kill in 0..args.kills {
        for (cluster, found) in clusters.iter_mut().zip(&mut found) {
            // Not at the same point between two heartbeats each time.
            tokio::time::sleep(Duration::from_millis(300 + 37 * (kill as u64 % 10))).await;
            let took =
                kill_leader(cluster).await.with_context(|| format!("{}, kill {kill}", cluster.name))?;
            found.push(ms(took));
        }
    }
    let watched = guards.end()?;
    Ok(table(args, &clusters, found, &watched))
}

async fn kill_leader(cluster: &mut Cluster) -> anyhow::Result<Duration> {
    let leader = cluster.leader().await?;
    let mut survivors = Vec::new();
    for n in (0..cluster.nodes.len()).filter(|n| *n != leader) {
        survivors.push(cluster.connect(n).await?);
    }
    let body = cluster.writes(1)?.remove(0);
    let protocol = cluster.protocol();
    let killed = Instant::now();
    cluster.process(leader)?.kill()?;
    let accepted = first_accepted(protocol, &survivors, body).await?;
    let took = accepted - killed;
    cluster.process(leader)?.reap()?;
    cluster.start(leader)?;
    cluster.ready(leader).await?;
    Ok(took)
}

/// Sends the write to every survivor, over connections that are open already, again and again, as whoever must stop an
/// agent does: what an old leader was still being asked may never be answered.
async fn first_accepted(
    protocol: Protocol,
    survivors: &[Connection],
    body: Bytes,
) -> anyhow::Result<Instant> {
    let (accepted, mut first) = mpsc::unbounded_channel();
    let began = Instant::now();
    let mut tries = Vec::new();
    let at = loop {
        for survivor in survivors {
            let (survivor, body, accepted) = (survivor.clone(), body.clone(), accepted.clone());
            tries.push(tokio::spawn(async move {
                if protocol.write(&survivor, body).await.is_ok() {
                    let _ = accepted.send(Instant::now());
                }
            }));
        }
        if let Ok(Some(at)) = tokio::time::timeout(RETRY, first.recv()).await {
            break at;
        }
        if began.elapsed() > GIVEN_UP {
            bail!("nothing was accepted within {} s", GIVEN_UP.as_secs());
        }
    };
    tries.iter().for_each(tokio::task::JoinHandle::abort);
    Ok(at)
}

fn table(args: &FailoverArgs, clusters: &[Cluster], mut found: Vec<Vec<f64>>, watched: &Watched) -> Table {
    let title =
        format!("from kill -9 of the leader to the next accepted write, 3 nodes, {} kills each", args.kills);
    let mut table =
        Table::new(&title, &["side", "median ms", "least", "largest", "× etcd", "× at our timing"]);
    let medians: Vec<f64> = found.iter_mut().map(|samples| median(samples)).collect();
    for ((cluster, samples), own) in clusters.iter().zip(&found).zip(&medians) {
        let beside = |n: usize| medians.get(n).map_or("-".into(), |other| format!("{:.2}", own / other));
        table.row([
            cluster.name.clone(),
            format!("{own:.0}"),
            format!("{:.0}", samples.first().copied().unwrap_or(f64::NAN)),
            format!("{:.0}", samples.last().copied().unwrap_or(f64::NAN)),
            beside(1),
            beside(2),
        ]);
    }
    table.note(format!(
        "Every {} ms the write goes to both survivors over open connections. etcd's defaults are 100 ms and 1000 ms; our \
         timing is 50 ms, and for etcd an election timeout of 250 ms, the shortest it takes with that.",
        RETRY.as_millis()
    ));
    table.note(format!(
        "{} healthy guards, checked {} times meanwhile: {} false denials over {} kills{}. Aims: ≤ 0.3 × etcd's, and 0.",
        watched.guards,
        watched.checks,
        watched.denials,
        args.kills,
        if watched.denials == 0 { String::new() } else { format!(" ({} ms; {:?})", watched.denied_ms, watched.reasons) }
    ));
    table
}
