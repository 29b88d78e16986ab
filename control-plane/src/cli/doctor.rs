//! `tagout doctor`, on an agent's host: could this host be stopped now, by which paths, and if not, why not?

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use futures_util::future::join_all;
use reqwest::Url;
use reqwest::header::{AUTHORIZATION, HeaderValue};
use rustls_pki_types::ServerName;
use serde::Serialize;
use tagout::{Reason, State};
use tagout_proto::scope::Scope;
use tagout_proto::sentence::sentence;
use tagout_proto::wire::{Problem, Status};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::Globals;
use super::client::bearer::Bearer;
use super::failure::{Exit, Failure, chain};
use super::out::{Ink, Out, now_ms, span};
use super::profile::{self, Profile};
use crate::{pki, tls};

/// Each question's; a guard gives up sooner.
const PATIENCE: Duration = Duration::from_secs(5);
/// A guard whose host's clock is further ahead than this loses its consent that much too early; one that is behind does not.
const CLOCK_OFF_MS: i64 = 2_000;
const CERTIFICATE_DAYS: i64 = 30;

#[derive(Args)]
pub struct DoctorArgs {
    /// An agent of this host: a lease is asked for it as its guard does, and verified
    agent: Option<Scope>,
    /// Its token, as `tagout agent enroll` wrote it. Without this, as a guard does: TAGOUT_TOKEN, or the file that
    /// TAGOUT_TOKEN_FILE names
    #[arg(long, value_name = "FILE", requires = "agent")]
    token_file: Option<PathBuf>,
    /// The folder in which its guard looks for stops
    #[arg(long, value_name = "DIR")]
    stop_folder: Option<PathBuf>,
}

#[derive(Serialize)]
struct Report<'a> {
    deployment: String,
    agent: Option<&'a Scope>,
    #[serde(flatten)]
    verdict: Verdict,
    /// The folder, if it can bring a stop.
    stop_folder: Option<&'a Path>,
    nodes: &'a [Node],
    problems: &'a [String],
}

/// Whose guard the doctor stands in for.
#[derive(Clone, Copy)]
struct Agent<'a> {
    scope: &'a Scope,
    token_file: Option<&'a Path>,
}

/// How one node looks from here.
#[derive(Default, Serialize)]
struct Node {
    url: String,
    certificate_days_left: Option<i64>,
    /// Its clock minus this host's.
    clock_offset_ms: Option<i64>,
    /// It can issue leases; `lease_ms` says more where an agent was named.
    ready: bool,
    /// Until a lease for the agent was here, and verified.
    lease_ms: Option<u64>,
    /// Until it greeted whoever listens for stops.
    push_ms: Option<u64>,
    /// How long its leases let a guard allow calls.
    ttl_ms: Option<u64>,
    problems: Vec<String>,
}

/// What a stop would do here now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "verdict")]
enum Verdict {
    /// It is pushed; where the push is lost, no call begins after this.
    Pushed { bounded_after_ms: u64 },
    /// No node pushes: it takes as long as a lease may live.
    Lapses { bounded_after_ms: u64 },
    /// No node gives a lease: guards here deny already.
    Denied,
}

pub fn run(out: &Out, globals: &Globals, args: DoctorArgs) -> Result<Exit, Failure> {
    let profile = Profile::load(&profile::locate(globals.profile.as_deref())?)?;
    let ca = std::fs::read_to_string(&profile.ca)
        .map_err(|e| Failure::file("read the deployment's CA", &profile.ca, &e))?;
    let urls = globals.node.clone().map_or_else(|| profile.nodes.clone(), |node| vec![node]);
    let bearer = match &args.agent {
        // As its guard, whose token is enough for what a guard needs.
        Some(_) => agents_bearer(args.token_file.as_deref())?,
        None => None,
    };
    let bearer =
        bearer.or_else(|| Bearer::find(globals.api_token.as_deref(), profile.token.as_deref()).header);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime =
        runtime.map_err(|e| Failure::new(Exit::Failed, "runtime", format!("cannot start threads: {e}")))?;
    let agent = args.agent.as_ref().map(|scope| Agent { scope, token_file: args.token_file.as_deref() });
    let looked = urls.iter().map(|url| Node::look_at(url, &profile, &ca, bearer.as_ref(), agent));
    let nodes = runtime.block_on(join_all(looked));

    let folder = args.stop_folder.as_deref().map(|folder| readable(folder).map(|()| folder));
    let verdict = Verdict::of(&nodes);
    let problems: Vec<String> = (nodes.iter())
        .flat_map(|node| node.problems.iter().map(|problem| format!("{}: {problem}", node.url)))
        .chain(folder.as_ref().and_then(|folder| folder.as_ref().err()).cloned())
        .collect();
    let stop_folder = folder.and_then(Result::ok);
    out.document(&Report {
        deployment: profile.deployment().to_string(),
        agent: args.agent.as_ref(),
        verdict,
        stop_folder,
        nodes: &nodes,
        problems: &problems,
    });
    say(out, args.agent.as_ref(), &nodes, stop_folder, verdict, &problems);
    Ok(match verdict {
        Verdict::Denied => Exit::Unreachable,
        _ if problems.is_empty() => Exit::Ok,
        _ => Exit::Failed,
    })
}

fn say(
    out: &Out,
    agent: Option<&Scope>,
    nodes: &[Node],
    folder: Option<&Path>,
    verdict: Verdict,
    problems: &[String],
) {
    let took = |what: &str, ms: Option<u64>| match ms {
        Some(ms) => out.ink(Ink::Green, format!("{what} {ms} ms")),
        None => out.ink(Ink::Red, format!("no {what}")),
    };
    let rows = nodes.iter().map(|node| {
        let lease = match node.lease_ms {
            None if node.ready => "ready".into(),
            lease => took("lease", lease),
        };
        let days = node.certificate_days_left.map(|days| format!("certificate {days} d"));
        let clock = node.clock_offset_ms.map(|ms| format!("clock {ms:+} ms"));
        let url = node.url.clone();
        vec![url, took("push", node.push_ms), lease, days.unwrap_or_default(), clock.unwrap_or_default()]
    });
    out.table(&rows.collect::<Vec<_>>());
    if let Some(folder) = folder {
        out.line(format!(
            "  {}  stops are read from here, also when no node can be reached",
            folder.display()
        ));
    }
    problems.iter().for_each(|problem| out.line(format!("{} {problem}", out.ink(Ink::Yellow, "problem:"))));
    out.line(match verdict {
        Verdict::Pushed { bounded_after_ms } => format!(
            "{}: by push in milliseconds, and where that is lost, no call begins after {}",
            out.ink(Ink::Green, "This host can be stopped now"),
            span(bounded_after_ms)
        ),
        Verdict::Lapses { bounded_after_ms } => format!(
            "{}: no node pushes to it, so a stop denies when the lease that an agent has runs out, {} at most",
            out.ink(Ink::Yellow, "This host can be stopped, and slowly"),
            span(bounded_after_ms)
        ),
        Verdict::Denied => format!(
            "{}: no node gives a lease for the reasons above, so guards deny already, or will within the ttl of their last lease",
            out.ink(Ink::Yellow, match agent {
                Some(agent) => format!("{agent} cannot run on this host"),
                None => "No agent can run on this host".into(),
            })
        ),
    });
}

impl Verdict {
    fn of(nodes: &[Node]) -> Self {
        let leases = || nodes.iter().filter(|node| node.ready);
        let bounded_after_ms = leases().filter_map(|node| node.ttl_ms).max().unwrap_or(0);
        match (leases().next(), nodes.iter().any(|node| node.push_ms.is_some())) {
            (None, _) => Self::Denied,
            (Some(_), true) => Self::Pushed { bounded_after_ms },
            (Some(_), false) => Self::Lapses { bounded_after_ms },
        }
    }
}

impl Node {
    async fn look_at(
        url: &str,
        profile: &Profile,
        ca: &str,
        bearer: Option<&HeaderValue>,
        agent: Option<Agent<'_>>,
    ) -> Self {
        let mut node = Self { url: url.into(), ..Self::default() };
        if let Err(problem) = node.look(profile, ca, bearer, agent).await {
            node.problems.push(problem);
        }
        node
    }

    /// An error is what keeps everything after it from being looked at.
    async fn look(
        &mut self,
        profile: &Profile,
        ca: &str,
        bearer: Option<&HeaderValue>,
        agent: Option<Agent<'_>>,
    ) -> Result<(), String> {
        let url = Url::parse(&self.url).map_err(|_| "that is no https://host:port address".to_owned())?;
        // As a guard: a certificate that has ended must not stop the fleet, and is told of.
        let tls = tls::client_config_to_tighten(ca).map_err(|e| chain(&e))?;
        let days = certificate_days_left(&url, tls.clone()).await?;
        self.certificate_days_left = Some(days);
        if days < CERTIFICATE_DAYS {
            self.problems.push(format!("its certificate ends in {days} days: renew it with `tagout renew`"));
        }

        let shown = bearer.iter().map(|value| (AUTHORIZATION, (*value).clone())).collect();
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .no_proxy()
            .default_headers(shown)
            .build();
        let http = http.map_err(|e| chain(&e))?;
        let at = |path: &str| url.join(path).expect("our paths are plain");
        let status: Status = ask(http.get(at("v1/status"))).await?;
        if status.deployment != profile.deployment().to_string() {
            return Err(format!("it serves deployment {}, not {}", status.deployment, profile.deployment()));
        }
        let offset_ms = status.time_ms as i64 - now_ms() as i64;
        self.clock_offset_ms = Some(offset_ms);
        self.ttl_ms = Some(status.limits.ttl_ms);
        if offset_ms.abs() > CLOCK_OFF_MS {
            self.problems.push(format!(
                "its clock is {} ms {} this host's: consent ends too early where this host's is ahead (chrony or NTP sets it)",
                offset_ms.abs(),
                if offset_ms < 0 { "behind" } else { "ahead of" }
            ));
        }

        match agent {
            None => match ask_text(http.get(at("readyz"))).await {
                Ok(_) => self.ready = true,
                Err(why) => self.problems.push(format!("it gives no leases: {why}")),
            },
            Some(agent) => match self.lease(profile, ca, agent).await {
                Ok(took) => (self.ready, self.lease_ms) = (true, Some(took.as_millis() as u64)),
                Err(why) => self.problems.push(format!("no lease for {}: {why}", agent.scope)),
            },
        }
        let scope = agent.map_or("*", |agent| agent.scope.as_str());
        match greeting(http.get(at(&format!("v1/events?scope={scope}")))).await {
            Ok(took) => self.push_ms = Some(took.as_millis() as u64),
            Err(why) => self.problems.push(format!("it pushes no stops: {why}")),
        }
        Ok(())
    }

    /// As a guard asks for it, with this node alone. That people have stopped the agent is an answer as well.
    async fn lease(&self, profile: &Profile, ca: &str, agent: Agent<'_>) -> Result<Duration, String> {
        let genesis = serde_json::to_vec(&profile.chain.documents()[0]).expect("an envelope is plain data");
        let mut client = tagout::Client::builder()
            .node(self.url.clone())
            .ca_pem(ca)
            .genesis_json(genesis)
            .pinned(profile.deployment().to_string())
            .instance(format!("doctor-{}", std::process::id()))
            .runtime(tokio::runtime::Handle::current());
        if let Some(file) = agent.token_file {
            client = client.token_file(file);
        }
        let client = client.build().map_err(|e| chain(&e))?;
        let began = Instant::now();
        let guard = client.guard(agent.scope.as_str()).map_err(|e| e.to_string())?;
        match guard.ready(PATIENCE).await {
            Ok(State { denied: Some(Reason::NotEnrolled { why }), .. }) => Err(why.to_string()),
            Ok(_) => Ok(began.elapsed()),
            Err(denied) => Err(match denied.reason {
                Reason::NotReady { last_error: Some(error) } => error,
                reason => reason.to_string(),
            }),
        }
    }
}

/// The token that a guard would show here.
fn agents_bearer(file: Option<&Path>) -> Result<Option<HeaderValue>, Failure> {
    let read =
        |path: &Path| std::fs::read_to_string(path).map_err(|e| Failure::file("read the token", path, &e));
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let token = match (file, set("TAGOUT_TOKEN"), set("TAGOUT_TOKEN_FILE")) {
        (Some(path), _, _) => read(path)?,
        (None, Some(token), _) => token.to_string_lossy().into_owned(),
        (None, None, Some(path)) => read(Path::new(&path))?,
        (None, None, None) => return Ok(None),
    };
    // Whether it is one is what the lease tells.
    let value = HeaderValue::try_from(format!("Bearer {}", token.trim()));
    Ok(value.ok().map(|mut value| {
        value.set_sensitive(true);
        value
    }))
}

async fn certificate_days_left(url: &Url, tls: rustls::ClientConfig) -> Result<i64, String> {
    let (Some(host), Some(port)) = (url.host_str(), url.port_or_known_default()) else {
        return Err("that is no https://host:port address".into());
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let name = ServerName::try_from(host.to_owned()).map_err(|e| e.to_string())?;
    let shaken = async {
        let stream = TcpStream::connect((host, port)).await.map_err(|e| format!("cannot connect: {e}"))?;
        let shaken = TlsConnector::from(Arc::new(tls)).connect(name, stream).await;
        shaken.map_err(|e| format!("no TLS with it: {e}"))
    };
    let stream = timeout(PATIENCE, shaken).await.map_err(|_| silent())??;
    let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let validity = certificate.ok_or("it shows no certificate").map(pki::validity_of)?;
    Ok(validity.map_err(|e| chain(&e))?.days_left().floor() as i64)
}

async fn ask<T: serde::de::DeserializeOwned>(request: reqwest::RequestBuilder) -> Result<T, String> {
    let text = ask_text(request).await?;
    serde_json::from_str(&text)
        .map_err(|e| format!("it answers with something else than expected: {}", sentence(e)))
}

async fn ask_text(request: reqwest::RequestBuilder) -> Result<String, String> {
    let answer = request.timeout(PATIENCE).send().await.map_err(|e| chain(&e.without_url()))?;
    let status = answer.status();
    let text = answer.text().await.map_err(|e| chain(&e.without_url()))?;
    if status.is_success() {
        return Ok(text);
    }
    Err(serde_json::from_str(&text).map_or_else(|_| status.to_string(), |problem: Problem| problem.detail))
}

/// Until the node has greeted whoever listens.
async fn greeting(request: reqwest::RequestBuilder) -> Result<Duration, String> {
    let began = Instant::now();
    let greeted = async {
        let mut answer = request.send().await.map_err(|e| chain(&e.without_url()))?;
        if !answer.status().is_success() {
            return Err(answer.status().to_string());
        }
        match answer.chunk().await {
            Ok(Some(_)) => Ok(began.elapsed()),
            Ok(None) => Err("the stream ended".into()),
            Err(error) => Err(chain(&error.without_url())),
        }
    };
    timeout(PATIENCE, greeted).await.unwrap_or_else(|_| Err(silent()))
}

fn silent() -> String {
    format!("it says nothing for {} s", PATIENCE.as_secs())
}

fn readable(folder: &Path) -> Result<(), String> {
    std::fs::read_dir(folder).map(drop).map_err(|error| {
        format!(
            "the stop folder {} cannot be read: {error}; make it, for its agents to read",
            folder.display()
        )
    })
}
