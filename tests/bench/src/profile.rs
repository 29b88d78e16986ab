//! Where the processors' time of the nodes goes while stops are written or leases renewed: perf's samples, as text that can be kept.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tagout_control_plane::store::StoreKind;

use crate::cluster::Cluster;
use crate::http::Connection;
use crate::leases::{self, Ask, Guard};
use crate::perf::{Perf, Sample};

#[derive(clap::Args, Clone)]
pub struct ProfileArgs {
    /// Nodes
    #[arg(long, default_value_t = 3)]
    pub nodes: usize,
    #[arg(long, value_enum, default_value = "sled")]
    pub store: StoreKind,
    /// Writers, or guards, at once, each with a connection of its own
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub writers: usize,
    #[arg(long, default_value_t = 10)]
    pub seconds: u64,
    /// Lease renewals in place of stops
    #[arg(long)]
    pub leases: bool,
    /// Only the leader
    #[arg(long)]
    pub leader: bool,
    /// Write the text here too, as tests/bench/profiles/NAME.txt
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Shares below this many per cent are left out of the tree
    #[arg(long, default_value_t = 1.0)]
    pub least: f64,
}

/// What a frame belongs to: the innermost frame that is named here decides.
const PARTS: &[(&str, &[&str])] = &[
    (
        "disk: fsync, fdatasync",
        &["do_fsync", "ext4_sync_file", "sys_fdatasync", "sys_sync_file_range", "sys_fsync"],
    ),
    (
        "disk: other file calls",
        &["sys_rename", "sys_openat", "sys_unlink", "sys_pwrite64", "sys_write", "ext4_", "sys_mkdir"],
    ),
    (
        "network calls",
        &["sys_sendto", "sys_recvfrom", "sys_writev", "sys_epoll", "tcp_", "sock_", "sys_sendmsg"],
    ),
    ("threads waking and sleeping", &["sys_futex", "schedule", "sys_sched_yield", "sys_nanosleep"]),
    ("signatures", &["ed25519", "curve25519_dalek"]),
    ("hashes", &["sha2::", "crc32fast"]),
    ("TLS", &["rustls", "ring::", "aes_", "gcm_", "ring_core"]),
    ("HTTP and the form", &["h2::", "hyper", "axum", "multer", "tower", "http::"]),
    ("JSON", &["serde_json", "tagout_proto::strict"]),
    ("logs and metrics", &["tracing", "metrics"]),
    ("sled", &["sled::"]),
    ("the rest of the raft log", &["raft::log::"]),
    ("openraft", &["openraft"]),
    ("peers", &["::peers::"]),
    ("the audit log", &["::audit::"]),
    ("snapshots", &["snapshot"]),
    ("the ledger", &["tagout_proto::ledger", "tagout_proto"]),
    ("tokio", &["tokio::"]),
];

pub async fn run(folder: &Path, args: &ProfileArgs) -> anyhow::Result<String> {
    let mut cluster = Cluster::tagout(folder, "profiled", args.nodes, args.store, None).await?;
    let leader = cluster.leader().await?;
    let mut load = Load::prepare(&mut cluster, leader, args).await?;
    let pids = match args.leader {
        true => vec![cluster.process(leader)?.id()],
        false => cluster.process_ids(),
    };
    let mut perf = Perf::start(folder, &pids)?;
    perf.on()?;
    let (began, cpu) = (Instant::now(), cluster.cpu()?);
    let done = load.run(&cluster, began + Duration::from_secs(args.seconds)).await?;
    let cpu = cluster.cpu()? - cpu;
    let per_second = done as f64 / began.elapsed().as_secs_f64();
    perf.off()?;
    let samples = perf.samples()?;
    drop(cluster);
    let head = format!(
        "{} node(s), {:?}, {} at once, {}: {per_second:.0} {} a second, {:.0} µs of CPU each, {} samples\n",
        args.nodes,
        args.store,
        args.writers,
        if args.leader { "the leader only" } else { "all nodes" },
        if args.leases { "leases" } else { "stops" },
        cpu.as_secs_f64() * 1e6 / done as f64,
        samples.len()
    );
    let text = head + &report(&samples, args.least)?;
    if let Some(out) = &args.out {
        std::fs::write(out, &text)?;
    }
    Ok(text)
}

enum Load {
    Stops(Vec<Connection>, RefCell<Vec<Bytes>>),
    Leases(Vec<Guard>),
}

impl Load {
    async fn prepare(cluster: &mut Cluster, leader: usize, args: &ProfileArgs) -> anyhow::Result<Self> {
        if args.leases {
            return Ok(Self::Leases(leases::guards(cluster, args.writers, &[leader]).await?));
        }
        let mut connections = Vec::new();
        for _ in 0..args.writers {
            connections.push(cluster.connect(leader).await?);
        }
        Ok(Self::Stops(connections, RefCell::new(cluster.writes(args.seconds as usize * 5000)?)))
    }

    /// How many requests were answered.
    async fn run(&mut self, cluster: &Cluster, ends: Instant) -> anyhow::Result<usize> {
        let (connections, stops) = match self {
            Self::Leases(guards) => {
                let left = ends.saturating_duration_since(Instant::now()).as_secs_f64();
                return Ok(leases::measure(cluster, guards, left, None, Ask::Lease).await?.count());
            }
            Self::Stops(connections, stops) => (connections, stops),
        };
        let protocol = cluster.protocol();
        let writes = connections.iter().map(async |connection| -> anyhow::Result<usize> {
            let mut written = 0;
            while Instant::now() < ends {
                let Some(body) = stops.borrow_mut().pop() else { break };
                protocol.write(connection, body).await?;
                written += 1;
            }
            Ok(written)
        });
        Ok(futures_util::future::try_join_all(writes).await?.into_iter().sum())
    }
}

fn part(sample: &Sample) -> &'static str {
    let named = |frame: &String| {
        PARTS.iter().find(|(_, marks)| marks.iter().any(|mark| frame.contains(mark))).map(|(part, _)| *part)
    };
    sample.frames.iter().find_map(named).unwrap_or("everything else")
}

pub fn report(samples: &[Sample], least: f64) -> anyhow::Result<String> {
    let mut text = String::new();
    let per_cent = |count: usize| count as f64 * 100.0 / samples.len() as f64;
    let mut ranked = |title: &str, of: &dyn Fn(&Sample) -> String| -> anyhow::Result<()> {
        let mut counts = BTreeMap::<String, usize>::new();
        samples.iter().for_each(|sample| *counts.entry(of(sample)).or_default() += 1);
        let mut counts: Vec<_> = counts.into_iter().collect();
        counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        writeln!(text, "\n{title}\n")?;
        for (what, count) in counts.into_iter().take(30).filter(|(_, count)| per_cent(*count) >= 0.5) {
            writeln!(text, "{:6.1} %  {what}", per_cent(count))?;
        }
        Ok(())
    };
    ranked("by thread", &|sample| sample.thread.clone())?;
    ranked("by part", &|sample| part(sample).into())?;
    ranked("by thread and part", &|sample| format!("{:16} {}", sample.thread, part(sample)))?;
    ranked("by innermost function", &|sample| sample.frames[0].clone())?;
    writeln!(text, "\nby caller, from the thread down, shares of {least} % and more\n")?;
    let mut root = Tree::default();
    for sample in samples {
        let mut at = &mut root;
        at.count += 1;
        for frame in std::iter::once(&sample.thread).chain(sample.frames.iter().rev()) {
            at = at.below.entry(frame.clone()).or_default();
            at.count += 1;
        }
    }
    root.write(&mut text, 0, samples.len(), least)?;
    Ok(text)
}

#[derive(Default)]
struct Tree {
    count: usize,
    below: BTreeMap<String, Tree>,
}

impl Tree {
    fn write(&self, text: &mut String, depth: usize, all: usize, least: f64) -> anyhow::Result<()> {
        let mut below: Vec<_> = self.below.iter().collect();
        below.sort_by_key(|(_, tree)| std::cmp::Reverse(tree.count));
        for (frame, tree) in below {
            let share = tree.count as f64 * 100.0 / all as f64;
            if share < least {
                continue;
            }
            // A frame that only passes on to one other says nothing: async functions make many.
            let passes_on =
                tree.below.len() == 1 || tree.below.values().any(|t| t.count * 100 >= tree.count * 97);
            let dull = passes_on && !["tagout", "sled::", "openraft"].iter().any(|mark| frame.contains(mark));
            if !dull {
                writeln!(text, "{}{share:5.1} %  {frame}", "  ".repeat(depth))?;
            }
            tree.write(text, depth + usize::from(!dull), all, least)?;
        }
        Ok(())
    }
}
