//! `tagout dev`: a whole deployment in one folder, to be tried: authority, keys, consent, durable nodes, three agents. Nodes
//! and agents are processes of their own, so that one may be killed.

pub mod agent;
pub mod model_server;
mod nodes;

use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use tagout_proto::limits::NODES_MAX;
use tagout_proto::scope::Scope;
use tagout_proto::sshsig::PublicKey;
use tokio::process::{Child, Command};
use tokio::sync::oneshot;

use self::model_server::ModelServer;
use self::nodes::Nodes;
use crate::cli::dev::agree;
use crate::cli::init::{Plan, Readers, make};
use crate::cli::node_folder::NodePlan;
use crate::node::ended;
use crate::sign::{self, Signer};
use crate::store::StoreKind;

/// A demonstration needs no more of the disk.
const RESERVE_MIB: u64 = 16;
/// The scope that gets consent, and the agents below it.
const DEMO: &str = "demo";
const AGENTS: [&str; 3] = ["demo/agent_1", "demo/agent_2", "demo/agent_3"];
/// Enrolled for whoever puts an agent of their own under the deployment.
const MINE: &str = "demo/mine";
/// What a terminal sends on Ctrl-C.
const SIGINT: i32 = 2;

#[derive(Args)]
pub struct DevArgs {
    /// The folder that everything is kept in; made if it is not there
    #[arg(long, value_name = "DIR", default_value = ".tagout")]
    pub dir: PathBuf,
    /// How many nodes a new deployment has, each in a process of its own [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=NODES_MAX as u64))]
    pub nodes: Option<u64>,
    /// Where a new deployment's node listens, further ones every second port above; loopback only, since reading is open to
    /// everybody
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7470")]
    pub listen: SocketAddr,
    /// Where the demonstration's model server listens
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    pub model: SocketAddr,
    /// What keeps a new deployment's Raft log
    #[arg(long, value_enum, default_value = "sled")]
    pub store: StoreKind,
    /// How fast the model speaks, in milliseconds a word
    #[arg(long, value_name = "MS", default_value_t = 150, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub word_ms: u64,
}

pub async fn run(args: DevArgs) -> anyhow::Result<()> {
    if !args.listen.ip().is_loopback() {
        bail!(
            "`tagout dev` is open to whoever reaches it, so it listens on loopback only; use `tagout init` and `serve`"
        );
    }
    let made_now = !args.dir.join("profile.toml").exists();
    if made_now {
        make_deployment(&args)?;
    }
    let mut nodes = Nodes::start(&args.dir).await?;
    if let Some(wanted) = args.nodes.filter(|wanted| *wanted != nodes.count() as u64) {
        let (dir, count) = (args.dir.display(), nodes.count());
        bail!("the deployment in {dir} has {count} of the {wanted} nodes: make another one with --dir");
    }
    nodes.work(agreed(&args.dir)).await?;
    let model = ModelServer::start(args.model, Duration::from_millis(args.word_ms)).await?;
    write_mine(&args.dir, &model)?;
    introduce(&args, &nodes, &model, made_now)?;

    let mut agents =
        AGENTS.iter().map(|agent| spawn(&args.dir, agent, &model)).collect::<Result<Vec<_>, _>>()?;
    // Held apart, since waiting for a child closes its input, and the agents end with their input.
    let inputs: Vec<_> = agents.iter_mut().map(|agent| agent.stdin.take()).collect();
    let watched = async {
        let (first, rest) = agents.split_at_mut(1);
        let (second, third) = rest.split_at_mut(1);
        tokio::select! {
            status = first[0].wait() => (AGENTS[0], status),
            status = second[0].wait() => (AGENTS[1], status),
            status = third[0].wait() => (AGENTS[2], status),
        }
    };
    let unexpected = tokio::select! {
        told = ended() => told.map(|()| None)?,
        (agent, status) = watched => Some((agent, status?)),
        gone = nodes.watch() => return Err(gone),
    };
    drop(inputs);
    for mut agent in agents {
        agent.wait().await?;
    }
    model.shutdown().await;
    nodes.shutdown().await;
    match unexpected {
        // A terminal's Ctrl-C goes to the agents too, and may end them first.
        Some((agent, status)) if status.signal() != Some(SIGINT) => {
            bail!("{agent} ended by itself: {status}")
        }
        Some(_) | None => Ok(()),
    }
}

/// Makes everything beside the folder and gives it its name at the end: a crash leaves nothing half made.
fn make_deployment(args: &DevArgs) -> anyhow::Result<()> {
    let name = args.dir.file_name().with_context(|| format!("{} names no folder", args.dir.display()))?;
    if args.dir.exists() {
        bail!("{} is there and is no deployment of `tagout dev`: choose another --dir", args.dir.display());
    }
    let mut making = name.to_os_string();
    making.push(".making");
    let making = args.dir.with_file_name(making);
    match std::fs::remove_dir_all(&making) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            return Err(e).with_context(|| format!("cannot remove {}", making.display()));
        }
        _ => {}
    }
    let keys = making.join("keys");
    std::fs::create_dir_all(&keys).with_context(|| format!("cannot make {}", keys.display()))?;
    let key = |name: &str| -> anyhow::Result<PublicKey> {
        let public = sign::generate(&keys.join(name), &format!("{name}@tagout-dev"), None)?;
        Ok(PublicKey::parse_openssh(&public.line())?)
    };
    let plan = Plan {
        name: "demo".into(),
        dir: making.clone(),
        people: vec![("alice".into(), key("alice")?), ("bob".into(), key("bob")?)],
        automation: vec![("soar".into(), key("soar")?)],
        threshold: 2,
        root_keys: vec![("root".into(), key("root")?)],
        root_threshold: 1,
        nodes: plans(args)?,
        ttl_ms: tagout_proto::limits::TTL_DEFAULT_MS,
        enrolment: true,
        store: args.store,
        keys: vec!["keys/alice".into()],
        readers: Readers::AnybodyHere,
    };
    make(&plan, &[signer(&keys, "root")?]).map_err(|failure| anyhow::anyhow!("{failure}"))?;
    std::fs::rename(&making, &args.dir).with_context(|| format!("cannot make {}", args.dir.display()))
}

fn signer(keys: &Path, name: &str) -> anyhow::Result<Signer> {
    Ok(Signer::open(&keys.join(name).to_string_lossy())?)
}

/// The nodes of a new deployment.
fn plans(args: &DevArgs) -> anyhow::Result<Vec<NodePlan>> {
    let count = args.nodes.unwrap_or(1);
    let plan = |n: u64| {
        let port =
            u16::try_from(u64::from(args.listen.port()) + 2 * (n - 1)).context("no port is above 65535")?;
        let listen = SocketAddr::new(args.listen.ip(), port);
        let sans = vec![listen.ip().to_string(), "localhost".into()];
        let mut plan = NodePlan::new(&format!("node-{n}"), n, listen, sans);
        plan.reserve_mib = Some(RESERVE_MIB);
        if count == 1 {
            // It has no peers, and takes no second port.
            (plan.address, plan.peer_listen) = (None, None);
        }
        Ok(plan)
    };
    (1..=count).map(plan).collect()
}

/// Once the nodes serve: Alice and Bob grant `demo` and enroll its agents, and every node votes.
async fn agreed(dir: &Path) -> anyhow::Result<()> {
    let (profile, keys) = (dir.join("profile.toml"), dir.join("keys"));
    let scope = Scope::parse(DEMO)?;
    let tokens = dir.join("tokens");
    std::fs::create_dir_all(&tokens).with_context(|| format!("cannot make {}", tokens.display()))?;
    let agents = AGENTS.iter().chain([&MINE]);
    let agents = agents.map(|agent| Scope::parse(agent).map(|scope| (scope, token_file(dir, agent))));
    let agents = agents.collect::<Result<Vec<_>, _>>()?;
    let agree = move || {
        let signers = [signer(&keys, "alice")?, signer(&keys, "bob")?];
        agree(&profile, &scope, &agents, &signers).map_err(|failure| anyhow::anyhow!("{failure}"))
    };
    // In a thread that nobody waits for: where a node has ended, it would go on asking.
    let (done, agreed) = oneshot::channel();
    std::thread::spawn(move || done.send(agree()));
    agreed.await?
}

fn token_file(dir: &Path, agent: &str) -> PathBuf {
    dir.join("tokens").join(agent.replace('/', "."))
}

fn spawn(dir: &Path, agent: &str, model: &ModelServer) -> anyhow::Result<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("dev-agent").arg("--profile").arg(dir.join("profile.toml"));
    command.arg("--agent").arg(agent).arg("--model").arg(model.base_url());
    let token_file = token_file(dir, agent);
    if token_file.exists() {
        command.arg("--token-file").arg(token_file);
    }
    command.stdin(Stdio::piped()).kill_on_drop(true).spawn().with_context(|| format!("cannot start {agent}"))
}

/// What a shell reads to run an agent of one's own here: the demonstration's model answers it if there is no key for another.
fn write_mine(dir: &Path, model: &ModelServer) -> anyhow::Result<()> {
    let whole = std::path::absolute(dir)?;
    let quoted = |path: PathBuf| format!("'{}'", path.display().to_string().replace('\'', r"'\''"));
    let text = format!(
        "\
export TAGOUT_PROFILE={}
export TAGOUT_TOKEN_FILE={}
export TAGOUT_AGENT={MINE}
[ -n \"${{OPENAI_API_KEY-}}\" ] && [ \"$OPENAI_API_KEY\" != {MINE} ] ||
    export OPENAI_API_KEY={MINE} OPENAI_BASE_URL={}
",
        quoted(whole.join("profile.toml")),
        quoted(token_file(&whole, MINE)),
        model.base_url()
    );
    let path = mine_file(dir);
    std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
}

fn mine_file(dir: &Path) -> PathBuf {
    dir.join("mine.env")
}

fn introduce(args: &DevArgs, nodes: &Nodes, model: &ModelServer, made_now: bool) -> anyhow::Result<()> {
    let (dir, exe) = (args.dir.display(), nodes::exe());
    let profile = if args.dir == Path::new(".tagout") {
        String::new()
    } else {
        format!("export TAGOUT_PROFILE={dir}/profile.toml\n    ")
    };
    let state = if made_now { "made" } else { "kept from last time" };
    println!(
        "\
Tagout is running on this machine only; its state is in {dir} ({state}).

{}                (anybody on this machine may read; every command is signed)
  people        alice and bob: one of them stops, both together restart     keys in {dir}/keys
  automation    soar: may stop, never restart
  agents        {}
  model server  {}  (it counts requests: curl -s http://{}/counters)

Try this in a second terminal:

    {profile}alias tagout={exe}
    tagout stop demo/agent_2 --reason \"policy violation 4.1\"
    tagout status
    tagout resume demo/agent_2 --reason \"reviewed, INC-4711\" --key {dir}/keys/alice
    tagout resume demo/agent_2 --reason \"reviewed, INC-4711\" --key {dir}/keys/alice --key {dir}/keys/bob
    tagout log verify
{}
To put an agent of your own under it, as {MINE}: `. {}` in its shell (see \"Python\" in README.md).

Ctrl-C ends it; the next `tagout dev` goes on from here.
",
        nodes.list(),
        AGENTS.join(", "),
        model.base_url(),
        model.addr(),
        nodes.suggestion(),
        mine_file(&args.dir).display(),
    );
    Ok(())
}
