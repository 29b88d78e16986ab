//! The listeners, all in one process of their own: each says when it heard of a message.

use std::io::BufRead;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use tagout::{Client, Reason};
use tagout_control_plane::tls;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout};
use tokio::sync::{OnceCell, Semaphore, mpsc};

use super::redis::Subscriber;
use super::{Sender, TOPIC, now_us};
use crate::cluster::VALUE_BYTES;
use crate::deployment;
use crate::etcd::Watch;

/// Listeners that open at once: what is measured is not their beginning.
const OPENING_AT_ONCE: usize = 64;
/// After the first listener, how long the last may take. Far above anything that is measured.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long all of them may take to open.
const OPEN: Duration = Duration::from_secs(600);

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub enum Kind {
    Guards,
    Watchers,
    Subscribers,
}

#[derive(clap::Args, Clone)]
pub struct ListenersArgs {
    #[arg(long, value_enum)]
    kind: Kind,
    #[arg(long)]
    count: usize,
    /// Guards of one client
    #[arg(long, default_value_t = 1)]
    per_client: usize,
    #[arg(long, value_delimiter = ',')]
    addresses: Vec<SocketAddr>,
    /// Of the watchers' servers
    #[arg(long)]
    ca: Option<PathBuf>,
    /// Of the guards' deployment
    #[arg(long)]
    profile: Option<PathBuf>,
}

/// When they heard of one message, Unix microseconds.
#[derive(Default, Serialize, Deserialize)]
pub struct Heard {
    pub at_us: Vec<u64>,
    /// Guards that denied for another reason than the stop.
    pub lapses: u64,
}

enum News {
    /// It listens (again).
    Open,
    Heard(u64),
    Lapsed,
    Failed(anyhow::Error),
}

/// Prints `ready` once all listen, and a line of what they heard for each message, until standard input ends.
pub fn run(args: &ListenersArgs) -> anyhow::Result<()> {
    std::thread::spawn(|| {
        let _ = std::io::stdin().lock().read_line(&mut String::new());
        std::process::exit(0);
    });
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let (sender, mut news) = mpsc::unbounded_channel();
        let opening = Arc::new(Semaphore::new(OPENING_AT_ONCE));
        let tls = args.ca.as_ref().map(|ca| anyhow::Ok(tls::client_config(&std::fs::read_to_string(ca)?)?));
        let tls = tls.transpose()?.map(Arc::new);
        let clients: Vec<Arc<OnceCell<Client>>> =
            (0..args.count.div_ceil(args.per_client)).map(|_| Arc::default()).collect();
        for n in 0..args.count {
            let (args, sender, client) = (args.clone(), sender.clone(), clients[n / args.per_client].clone());
            let (opening, tls) = (Arc::clone(&opening), tls.clone());
            tokio::spawn(async move {
                let listened = match args.kind {
                    Kind::Guards => guard(n, &args, &client, &opening, &sender).await,
                    Kind::Watchers => watcher(n, &args, tls.as_ref(), &opening, &sender).await,
                    Kind::Subscribers => subscriber(&args, &opening, &sender).await,
                };
                if let Err(error) = listened {
                    let _ = sender.send(News::Failed(error.context(format!("listener {n}"))));
                }
            });
        }
        let mut open = 0;
        loop {
            let opened = all_open(args.count, open, &mut news);
            tokio::time::timeout(OPEN, opened).await.context("they do not all open")??;
            println!("ready");
            open = 0;
            let mut heard = Heard::default();
            let mut until = None;
            while heard.at_us.len() < args.count {
                let next = tokio::time::timeout_at(until.unwrap_or_else(far), news.recv()).await;
                match next.ok().flatten() {
                    None => break,
                    Some(News::Heard(at_us)) => heard.at_us.push(at_us),
                    Some(News::Lapsed) => heard.lapses += 1,
                    // Again, before the last has heard.
                    Some(News::Open) => open += 1,
                    Some(News::Failed(error)) => return Err(error),
                }
                until = until.or_else(|| Some(tokio::time::Instant::now() + PATIENCE));
            }
            println!("{}", serde_json::to_string(&heard)?);
        }
    })
}

fn far() -> tokio::time::Instant {
    tokio::time::Instant::now() + Duration::from_secs(24 * 3600)
}

async fn all_open(
    count: usize,
    mut open: usize,
    news: &mut mpsc::UnboundedReceiver<News>,
) -> anyhow::Result<()> {
    while open < count {
        match news.recv().await.context("nobody listens")? {
            News::Open => open += 1,
            News::Failed(error) => return Err(error),
            News::Heard(_) | News::Lapsed => {}
        }
    }
    Ok(())
}

type Told = mpsc::UnboundedSender<News>;

/// It asks for leases and listens for stops as in an application.
async fn guard(
    n: usize,
    args: &ListenersArgs,
    client: &OnceCell<Client>,
    opening: &Semaphore,
    told: &Told,
) -> anyhow::Result<()> {
    let guard = {
        let _turn = opening.acquire().await?;
        let client = client.get_or_try_init(async || {
            let profile = deployment::profile(args.profile.as_ref().context("guards need a profile")?)?;
            let builder = Client::builder()
                .pinned(profile.deployment)
                .genesis_file(profile.genesis)
                .ca_file(profile.ca)
                .instance(format!("listener-{n}"))
                .runtime(tokio::runtime::Handle::current());
            let builder = profile.nodes.into_iter().fold(builder, |builder, node| builder.node(node));
            anyhow::Ok(builder.build()?)
        });
        let guard = client.await?.guard(&format!("{TOPIC}/agent_{n}"))?;
        let _ = guard.wait_enabled().await?;
        guard
    };
    loop {
        let _ = told.send(News::Open);
        let mut changes = guard.changes();
        loop {
            match guard.check().map_err(|denied| denied.reason) {
                Ok(_) => {}
                Err(Reason::Stopped(_)) => break,
                Err(_) => drop(told.send(News::Lapsed)),
            }
            changes.next().await.context("the guard is gone")?;
        }
        let _ = told.send(News::Heard(now_us()));
        let _ = guard.wait_enabled().await?;
    }
}

async fn watcher(
    n: usize,
    args: &ListenersArgs,
    tls: Option<&Arc<rustls::ClientConfig>>,
    opening: &Semaphore,
    told: &Told,
) -> anyhow::Result<()> {
    let mut watch = {
        let _turn = opening.acquire().await?;
        Watch::open(args.addresses[n % args.addresses.len()], tls, TOPIC.as_bytes()).await?
    };
    loop {
        let _ = told.send(News::Open);
        watch.next().await?;
        let _ = told.send(News::Heard(now_us()));
    }
}

async fn subscriber(args: &ListenersArgs, opening: &Semaphore, told: &Told) -> anyhow::Result<()> {
    let mut subscriber = {
        let _turn = opening.acquire().await?;
        Subscriber::open(args.addresses[0], TOPIC, VALUE_BYTES).await?
    };
    loop {
        let _ = told.send(News::Open);
        subscriber.next().await?;
        let _ = told.send(News::Heard(now_us()));
    }
}

/// The process of the listeners. Its input's end is its own.
pub struct Listeners {
    child: Child,
    _input: ChildStdin,
    lines: tokio::io::Lines<BufReader<ChildStdout>>,
}

impl Listeners {
    /// Starts them; returns once all listen.
    pub async fn start(folder: &Path, count: usize, per_client: usize, to: &Sender) -> anyhow::Result<Self> {
        let addresses: Vec<_> = to.addresses().iter().map(SocketAddr::to_string).collect();
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["listeners", "--count", &count.to_string(), "--addresses", &addresses.join(",")]);
        command.args(["--per-client", &per_client.to_string()]);
        command.arg("--kind").arg(match to.kind() {
            Kind::Guards => "guards",
            Kind::Watchers => "watchers",
            Kind::Subscribers => "subscribers",
        });
        match to {
            Sender::Tagout(cluster, _) => command.arg("--profile").arg(cluster.deployment()?.profile()),
            Sender::Etcd(cluster, _) => command.arg("--ca").arg(cluster.ca()),
            Sender::Redis(_) => &mut command,
        };
        let log = std::fs::File::create(folder.join("listeners.log"))?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log);
        let mut child = tokio::process::Command::from(command).kill_on_drop(true).spawn()?;
        let input = child.stdin.take().context("its input is a pipe")?;
        let lines = BufReader::new(child.stdout.take().context("its output is a pipe")?).lines();
        let mut listeners = Self { child, _input: input, lines };
        listeners.ready().await?;
        Ok(listeners)
    }

    /// Waits until all listen (again).
    pub async fn ready(&mut self) -> anyhow::Result<()> {
        match self.lines.next_line().await?.as_deref() {
            Some("ready") => Ok(()),
            said => bail!("the listeners do not listen ({said:?}); what they said is in listeners.log"),
        }
    }

    pub async fn heard(&mut self) -> anyhow::Result<Heard> {
        let line = self.lines.next_line().await?.context("the listeners ended")?;
        Ok(serde_json::from_str(&line)?)
    }

    pub fn resident_kib(&self) -> u64 {
        crate::process::resident_kib(self.process_id())
    }

    pub fn process_id(&self) -> u32 {
        self.child.id().unwrap_or(0)
    }
}
