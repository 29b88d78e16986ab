//! Healthy guards in a process of their own, asked all the time: how often do they deny although nobody stopped them?

use std::collections::BTreeMap;
use std::io::BufRead;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use tagout::{Client, Guard};

use crate::deployment;

const READY: Duration = Duration::from_secs(30);
/// Between two looks at every guard: far below any lapse, which lasts until the next lease.
const LOOK: Duration = Duration::from_micros(500);

#[derive(clap::Args, Clone)]
pub struct GuardsArgs {
    #[arg(long)]
    profile: PathBuf,
    #[arg(long)]
    scope: String,
    #[arg(long)]
    count: usize,
}

/// What the guards did until they were told to end.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Watched {
    pub guards: usize,
    pub checks: u64,
    /// From allowing to denying.
    pub denials: u64,
    pub denied_ms: u64,
    pub reasons: BTreeMap<String, u64>,
}

/// Runs the guards, a client each, until standard input ends: prints `ready`, and at the end what it saw.
pub fn run(args: &GuardsArgs) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ended = std::thread::spawn(|| std::io::stdin().lock().read_line(&mut String::new()));
    let watched = runtime.block_on(async {
        let guards = (0..args.count)
            .map(|n| Ok(client(&args.profile, n)?.guard(&format!("{}/agent_{n}", args.scope))?))
            .collect::<anyhow::Result<Vec<Guard>>>()?;
        for guard in &guards {
            if tokio::time::timeout(READY, guard.wait_enabled()).await.is_err() {
                bail!("a guard did not open within {} s: {:?}", READY.as_secs(), guard.check());
            }
        }
        println!("ready");
        let mut watched = Watched { guards: guards.len(), ..Watched::default() };
        let mut denied = vec![false; guards.len()];
        let mut last = Instant::now();
        while !ended.is_finished() {
            tokio::time::sleep(LOOK).await;
            let (now, mut any) = (Instant::now(), false);
            for (guard, was) in guards.iter().zip(&mut denied) {
                watched.checks += 1;
                let refused = guard.check().err();
                any |= refused.is_some();
                if let Some(refused) = refused.as_ref().filter(|_| !*was) {
                    watched.denials += 1;
                    *watched.reasons.entry(refused.reason.to_string()).or_default() += 1;
                }
                *was = refused.is_some();
            }
            if any {
                watched.denied_ms += (now - last).as_millis() as u64;
            }
            last = now;
        }
        Ok(watched)
    })?;
    println!("{}", serde_json::to_string(&watched)?);
    Ok(())
}

/// A client with a thread of its own, as an application has it; each begins with another node.
fn client(profile: &Path, n: usize) -> anyhow::Result<Client> {
    let mut profile = deployment::profile(profile)?;
    let count = profile.nodes.len().max(1);
    profile.nodes.rotate_left(n % count);
    let builder = Client::builder()
        .pinned(profile.deployment)
        .genesis_file(profile.genesis)
        .ca_file(profile.ca)
        .instance(format!("healthy-{n}"));
    Ok(profile.nodes.into_iter().fold(builder, |builder, node| builder.node(node)).build()?)
}

/// Such a process. Its input's end is its own.
pub struct Guards(Child);

impl Guards {
    pub fn start(profile: &Path, scope: &str, count: usize) -> anyhow::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["guards", "--scope", scope, "--count", &count.to_string(), "--profile"])
            .arg(profile)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        let stdout = child.stdout.take().context("its output is a pipe")?;
        let mut stdout = std::io::BufReader::new(stdout);
        stdout.read_line(&mut line)?;
        child.stdout = Some(stdout.into_inner());
        if line.trim() != "ready" {
            let _ = child.kill();
            let _ = child.wait();
            bail!("the guards did not begin; what they said is above");
        }
        Ok(Self(child))
    }

    pub fn end(mut self) -> anyhow::Result<Watched> {
        drop(self.0.stdin.take());
        let stdout = self.0.stdout.take().context("its output is a pipe")?;
        let watched = serde_json::from_reader(stdout)?;
        self.0.wait()?;
        Ok(watched)
    }
}

impl Drop for Guards {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
