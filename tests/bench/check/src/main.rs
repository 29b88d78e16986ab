//! The sides of `tests/bench/run check`, all in one process: given a guard's deployment, prints as JSON what each took.

mod measure;
mod measured;
mod sides;
mod ticks;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::bail;
use clap::Parser;
use tagout::{Client, Guard};

use self::measure::Measure;
use self::ticks::Ticks;

/// A busy machine may take this long to give the first lease.
const READY: Duration = Duration::from_secs(30);

#[derive(Parser)]
struct Cli {
    /// A deployment's name with the hash of its genesis
    #[arg(long)]
    pinned: String,
    #[arg(long)]
    genesis: PathBuf,
    #[arg(long)]
    ca: PathBuf,
    #[arg(long = "node")]
    nodes: Vec<String>,
    /// An agent with consent
    #[arg(long)]
    agent: String,
    /// A class of essential calls that its consent names
    #[arg(long)]
    class: String,
    /// Where files may be written
    #[arg(long)]
    dir: PathBuf,
    #[arg(long)]
    rounds: usize,
    #[arg(long)]
    cold_rounds: usize,
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    // Peers' own tasks run on it, as the guard's do on the client's thread.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let sides = runtime.block_on(async {
        let guard = guard(&cli).await?;
        sides::all(&guard, &cli.class, &cli.dir).await
    })?;
    let measured = Measure::new(Ticks::calibrate(), sides)?.run(cli.rounds, cli.cold_rounds)?;
    println!("{}", serde_json::to_string(&measured)?);
    Ok(())
}

async fn guard(cli: &Cli) -> anyhow::Result<Guard> {
    let builder =
        Client::builder().pinned(&cli.pinned).genesis_file(&cli.genesis).ca_file(&cli.ca).instance("checked");
    let client = cli.nodes.iter().fold(builder, |builder, node| builder.node(node)).build()?;
    let guard = client.guard(&cli.agent)?;
    if tokio::time::timeout(READY, guard.wait_enabled()).await.is_err() {
        bail!("the guard did not open within {} s: {:?}", READY.as_secs(), guard.check());
    }
    Ok(guard)
}
