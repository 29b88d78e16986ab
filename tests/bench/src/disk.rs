//! What many commands leave on the disk, and how long a node takes to serve again from it.

use std::path::Path;
use std::time::{Duration, Instant};

use tagout_control_plane::store::StoreKind;

use crate::cluster::{Cluster, VALUE_BYTES};
use crate::figures::{Table, median, ms};
use crate::process::disk_bytes;

#[derive(clap::Args, Clone)]
pub struct DiskArgs {
    /// Nodes on each side
    #[arg(long, default_value_t = 3)]
    pub nodes: usize,
    #[arg(long, default_value_t = 100_000)]
    pub commands: usize,
    /// Writers at once, each with a connection of its own
    #[arg(long, value_name = "N", default_value_t = 128)]
    pub writers: usize,
    /// How often a node is started again
    #[arg(long, default_value_t = 3)]
    pub restarts: usize,
}

/// How many writes are signed ahead.
const CHUNK: usize = 5000;

pub async fn run(folder: &Path, args: &DiskArgs) -> anyhow::Result<Table> {
    let title = format!("the disk after {} commands, {} node(s) each", args.commands, args.nodes);
    let columns =
        ["side", "written in s", "MB a node", "bytes each", "× etcd", "again in ms", "× etcd", "resident MB"];
    let mut table = Table::new(&title, &columns);
    let mut base = None;
    for name in ["etcd", "sled", "segment"] {
        let mut cluster = match name {
            "etcd" => Cluster::etcd(folder, name, args.nodes, true, None).await?,
            "sled" => Cluster::tagout(folder, name, args.nodes, StoreKind::Sled, None).await?,
            _ => Cluster::tagout(folder, name, args.nodes, StoreKind::Segment, None).await?,
        };
        let took = fill(&mut cluster, args).await?;
        let node = (cluster.leader().await? + 1) % args.nodes;
        settled(&cluster, node).await?;
        let resident_mb = cluster.process(node)?.resident_kib() as f64 / 1024.0;
        let mut again = Vec::new();
        for _ in 0..args.restarts {
            cluster.process(node)?.terminate()?;
            let began = Instant::now();
            cluster.start(node)?;
            cluster.ready(node).await?;
            again.push(ms(began.elapsed()));
        }
        // The reserve is no cost of a command, and set aside at once.
        let reserve = cluster.nodes[node].data.join("reserve");
        let bytes = (disk_bytes(&cluster.nodes[node].data)? - disk_bytes(&reserve)?) as f64;
        let again = median(&mut again);
        let (base_bytes, base_again) = *base.get_or_insert((bytes, again));
        table.row([
            name.into(),
            format!("{:.0}", took.as_secs_f64()),
            format!("{:.0}", bytes / 1e6),
            format!("{:.0}", bytes / args.commands as f64),
            format!("{:.2}", bytes / base_bytes),
            format!("{again:.0}"),
            format!("{:.2}", again / base_again),
            format!("{resident_mb:.0}"),
        ]);
    }
    table.note(format!(
        "A put has {VALUE_BYTES} bytes, as long as a stop's document. Ours keeps the document, its signature and the stop's \
         outcome, in Raft's log and snapshots and for ever in the audit log. Bytes are allocated blocks, \
         without the disk reserve that keeps room for stops.",
    ));
    table.note("Again: from the start of the process to its first linearizable read; its files are in the page cache.");
    Ok(table)
}

async fn fill(cluster: &mut Cluster, args: &DiskArgs) -> anyhow::Result<Duration> {
    let leader = cluster.leader().await?;
    let mut connections = Vec::new();
    for _ in 0..args.writers {
        connections.push(cluster.connect(leader).await?);
    }
    let mut took = Duration::ZERO;
    let mut left = args.commands;
    while left > 0 {
        let count = left.min(CHUNK);
        left -= count;
        let writes = std::cell::RefCell::new(cluster.writes(count)?);
        let protocol = cluster.protocol();
        let began = Instant::now();
        let each = connections.iter().map(async |connection| -> anyhow::Result<()> {
            loop {
                // In the condition of a `while let` it would be borrowed across the await.
                let Some(body) = writes.borrow_mut().pop() else { return Ok(()) };
                protocol.write(connection, body).await?;
            }
        });
        futures_util::future::try_join_all(each).await?;
        took += began.elapsed();
    }
    Ok(took)
}

/// Waits until the node's folder stops changing: outcomes and snapshots come after the last answer.
async fn settled(cluster: &Cluster, node: usize) -> anyhow::Result<()> {
    let began = Instant::now();
    let mut before = (0, cluster.cpu()?);
    let mut quiet = 0;
    while quiet < 3 && began.elapsed() < Duration::from_secs(120) {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let now = (disk_bytes(&cluster.nodes[node].data)?, cluster.cpu()?);
        let idle = now.0 == before.0 && now.1 - before.1 < Duration::from_millis(150);
        quiet = if idle { quiet + 1 } else { 0 };
        before = now;
    }
    Ok(())
}
