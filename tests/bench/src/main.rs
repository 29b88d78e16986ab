//! Tagout beside its peers: both sides in one run, on the same disk, taking turns. Ratios are what counts; absolute figures
//! are of the machine.

mod check;
mod cluster;
mod deployment;
mod disk;
mod etcd;
mod failover;
mod fanout;
mod figures;
mod guards;
mod http;
mod layers;
mod leases;
#[path = "../check/src/measured.rs"]
mod measured;
mod perf;
mod process;
mod profile;
mod stops;

use std::cell::Cell;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::Context;
use clap::{Parser, Subcommand};

use self::figures::Table;

/// Runs ours and its peers side by side and prints a table with ratios.
#[derive(Parser)]
#[command(name = "tests/bench/run")]
struct Cli {
    /// One JSON document on standard output
    #[arg(long, global = true)]
    json: bool,
    /// Where the nodes of both sides keep their data; a new folder in it is made, and removed at the end
    #[arg(long, global = true, value_name = "DIR", default_value = "target")]
    dir: PathBuf,
    #[command(subcommand)]
    benchmark: Benchmark,
}

#[derive(Subcommand)]
enum Benchmark {
    /// A signed stop beside a put into etcd, with 1 and 64 writers
    Stops(stops::StopsArgs),
    /// From kill -9 of the leader to the next accepted write, and false denials meanwhile
    Failover(failover::FailoverArgs),
    /// Lease renewals a second for each core
    Leases(leases::LeasesArgs),
    /// From one stop to the last of 1,000 and 10,000 guards, beside etcd's watchers and Redis' subscribers
    Fanout(fanout::FanoutArgs),
    /// Bytes on the disk and the time to serve again after 100,000 commands
    Disk(disk::DiskArgs),
    /// A guard's check beside those of breakers, limiters, feature flags and policies
    Check(check::CheckArgs),
    /// Where the time of one stop goes
    Layers(layers::LayersArgs),
    /// Where the nodes' processor time goes while stops are written (takes linux-perf)
    Profile(profile::ProfileArgs),
    /// What `failover` runs as a process of its own
    #[command(hide = true)]
    Guards(guards::GuardsArgs),
    /// What `fanout` runs as a process of its own
    #[command(hide = true)]
    Listeners(fanout::listeners::ListenersArgs),
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tests/bench/run: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> anyhow::Result<()> {
    match &cli.benchmark {
        Benchmark::Guards(args) => return guards::run(args),
        Benchmark::Listeners(args) => return fanout::listeners::run(args),
        _ => {}
    }
    // One thread: the client shall take as little of the machine from both sides as it can.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let folder = Folder::make(&cli.dir)?;
    let began = Instant::now();
    let found = runtime.block_on(async {
        Ok(Some(match &cli.benchmark {
            Benchmark::Stops(args) => stops::run(&folder.0, args).await?,
            Benchmark::Failover(args) => failover::run(&folder.0, args).await?,
            Benchmark::Leases(args) => leases::run(&folder.0, args).await?,
            Benchmark::Fanout(args) => fanout::run(&folder.0, args).await?,
            Benchmark::Disk(args) => disk::run(&folder.0, args).await?,
            Benchmark::Check(args) => check::run(&folder.0, args).await?,
            Benchmark::Layers(args) => layers::run(&folder.0, args).await?,
            Benchmark::Guards(_) | Benchmark::Listeners(_) => return Ok(None),
            Benchmark::Profile(args) => {
                println!("{}", profile::run(&folder.0, args).await?);
                return Ok(None);
            }
        }))
    });
    let Some(mut table): Option<Table> = found.inspect_err(|_: &anyhow::Error| folder.keep())? else {
        return Ok(());
    };
    table.note(format!("{}; took {:.0} s.", machine(), began.elapsed().as_secs_f64()));
    if cli.json {
        println!("{}", serde_json::to_string_pretty(&table)?);
    } else {
        table.print();
    }
    Ok(())
}

/// The folder of one run, and whether it stays.
struct Folder(PathBuf, Cell<bool>);

impl Folder {
    fn make(dir: &std::path::Path) -> anyhow::Result<Self> {
        let folder = std::path::absolute(dir)?.join(format!("bench-{}", std::process::id()));
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(Self(folder, Cell::new(false)))
    }

    /// After a failure the nodes' output may tell why.
    fn keep(&self) {
        eprintln!("kept: {}", self.0.display());
        self.1.set(true);
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !self.1.get() {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}

/// What the figures depend on.
fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or_default().to_owned();
    let etcd = Command::new("etcd").arg("--version").output().map(|o| o.stdout).unwrap_or_default();
    let etcd = String::from_utf8_lossy(&etcd).lines().next().unwrap_or("no etcd").to_owned();
    format!("{cores} cores, load {load} at the end, {etcd}")
}
