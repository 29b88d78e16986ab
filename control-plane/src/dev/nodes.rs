//! The nodes of `tagout dev`, each a process that is ended with this one, however this one ends.

use std::fmt::Write as _;
use std::net::TcpListener;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::cli::Profile;
use crate::config::NodeConfig;

/// How long the nodes of a run before may take to give their ports back.
const PORT_PATIENCE: Duration = Duration::from_secs(5);
/// How long a node may take to end in order.
const END_PATIENCE: Duration = Duration::from_secs(15);

pub struct Nodes {
    nodes: Vec<Node>,
    ends: mpsc::UnboundedReceiver<(usize, std::io::Result<ExitStatus>)>,
}

struct Node {
    name: String,
    config: PathBuf,
    url: String,
    pid: Option<Pid>,
    /// It ends with its input.
    _input: Option<ChildStdin>,
}

impl Nodes {
    /// Starts every node that has a folder in `dir`, but for those that the authority no longer has.
    pub async fn start(dir: &Path) -> anyhow::Result<Self> {
        let profile = Profile::load(&dir.join("profile.toml")).map_err(|failure| anyhow!("{failure}"))?;
        let removed = |name: &str| {
            let was = profile.trust().versions().iter().any(|version| version.node(name).is_some());
            was && profile.authority().node(name).is_none()
        };
        let entries =
            std::fs::read_dir(dir).with_context(|| format!("cannot look into {}", dir.display()))?;
        let mut configs: Vec<PathBuf> =
            entries.flatten().map(|entry| entry.path().join("tagout.toml")).collect();
        configs.retain(|config| config.is_file());
        configs.sort();
        if configs.is_empty() {
            bail!("{} has no nodes: choose another --dir", dir.display());
        }
        let (sender, ends) = mpsc::unbounded_channel();
        let mut nodes = Vec::new();
        for path in configs {
            let config = NodeConfig::load(&path)?;
            if removed(&config.node) {
                continue;
            }
            if !config.listen.ip().is_loopback() {
                bail!("{} is no loopback address; `tagout dev` runs on this machine only", config.listen);
            }
            wait_for_port(&config).await?;
            let mut child = spawn(&path)?;
            let pid = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
            let input = child.stdin.take();
            let sender = sender.clone();
            let at = nodes.len();
            // Whoever waits for the child holds it, so that it is gone when this process is.
            tokio::spawn(async move { sender.send((at, child.wait().await)) });
            let name = config.node.rsplit('/').next().unwrap_or(&config.node).to_owned();
            nodes.push(Node {
                name,
                config: path,
                url: format!("https://{}", config.listen),
                pid,
                _input: input,
            });
        }
        Ok(Self { nodes, ends })
    }

    pub fn count(&self) -> usize {
        self.nodes.len()
    }

    /// Does `work` that needs the nodes, and gives up if one of them ends.
    pub async fn work(&mut self, work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
        tokio::select! {
            done = work => done,
            Some((at, status)) = self.ends.recv() => bail!("{} ended: {}", self.nodes[at].name, said(&status)),
        }
    }

    /// Says of every node that ends what that means; returns once none is left.
    pub async fn watch(&mut self) -> anyhow::Error {
        let all = self.nodes.len();
        while let Some((at, status)) = self.ends.recv().await {
            self.nodes[at].pid = None;
            let node = &self.nodes[at];
            let left = self.nodes.iter().filter(|node| node.pid.is_some()).count();
            if left == 0 {
                return anyhow!("{} ended: {}", node.name, said(&status));
            }
            let meaning = if left > all / 2 {
                "the others elect a leader if it led, and go on".to_owned()
            } else {
                "that is no majority: nothing can be committed, and agents are denied once their leases end"
                    .to_string()
            };
            println!(
                "\n{} ended: {}. {left} of {all} nodes are left; {meaning}.\nStart it again with: {} serve --config {}\n",
                node.name,
                said(&status),
                exe(),
                node.config.display()
            );
        }
        anyhow!("no node is left")
    }

    /// Ends all that are there, in order for each of them.
    pub async fn shutdown(mut self) {
        let pids = self.nodes.iter().filter_map(|node| node.pid);
        let mut left = 0;
        for pid in pids {
            // One that ended meanwhile has not been waited for by anybody else, so its number is still its own or nobody's.
            let _ = kill_process(pid, Signal::TERM);
            left += 1;
        }
        while left > 0 {
            match timeout(END_PATIENCE, self.ends.recv()).await {
                Ok(Some((at, status))) => {
                    if !status.as_ref().is_ok_and(ExitStatus::success) {
                        eprintln!("{} did not end in order: {}", self.nodes[at].name, said(&status));
                    }
                    left -= 1;
                }
                // Their inputs end with this process, and they with those.
                Ok(None) | Err(_) => return,
            }
        }
    }

    /// A line for each.
    pub fn list(&self) -> String {
        let mut lines = String::new();
        for Node { name, url, pid, .. } in &self.nodes {
            let pid = pid.map_or(0, |pid| pid.as_raw_nonzero().get());
            let _ = writeln!(lines, "  {name:<12}  {url}  pid {pid}");
        }
        lines
    }

    /// What to try with several.
    pub fn suggestion(&self) -> String {
        let [first, _, ..] = self.nodes.as_slice() else { return String::new() };
        let pid = first.pid.map_or(0, |pid| pid.as_raw_nonzero().get());
        format!(
            "    tagout node list\n    kill -9 {pid}                        # {}: the others go on\n",
            first.name
        )
    }
}

/// A node that was killed together with its `tagout dev` may still be about to end.
async fn wait_for_port(config: &NodeConfig) -> anyhow::Result<()> {
    let begun = tokio::time::Instant::now();
    let free =
        || config.peer_listen.into_iter().chain([config.listen]).all(|at| TcpListener::bind(at).is_ok());
    while !free() {
        if begun.elapsed() > PORT_PATIENCE {
            bail!("cannot listen on {}: is another node running there?", config.listen);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

fn spawn(config: &Path) -> anyhow::Result<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("serve").arg("--ends-with-input").arg("--config").arg(config);
    if std::env::var_os("RUST_LOG").is_none_or(|chosen| chosen.is_empty()) {
        command.env("RUST_LOG", "error");
    }
    // In a group of its own: a terminal's Ctrl-C is for `tagout dev`, which ends the nodes last.
    command.stdin(Stdio::piped()).stdout(Stdio::null()).process_group(0).kill_on_drop(true);
    command.spawn().with_context(|| format!("cannot start a node with {}", config.display()))
}

fn said(status: &std::io::Result<ExitStatus>) -> String {
    match status {
        Ok(status) => match status.signal() {
            Some(signal) => format!("killed by signal {signal}"),
            None => status.to_string(),
        },
        Err(error) => error.to_string(),
    }
}

/// This program, as it is called from here.
pub fn exe() -> String {
    let exe = std::env::current_exe().unwrap_or_else(|_| "tagout".into());
    let here = std::env::current_dir().ok();
    let near = here.and_then(|here| exe.strip_prefix(here).ok().map(Path::to_owned));
    // A shell looks for a bare name elsewhere.
    let near = near.map(|near| if near.components().count() == 1 { Path::new(".").join(near) } else { near });
    near.unwrap_or(exe).display().to_string()
}
