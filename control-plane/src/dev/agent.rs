//! A demonstration agent: a process of its own that thinks aloud through the SDK, call after call.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use eventsource_stream::Eventsource;
use futures_util::StreamExt;
use tagout::{Client, Guard, Reason, Stopped};
use tagout_proto::profile::ProfileFile;
use tokio::io::AsyncReadExt;

use crate::tls;

/// A line is shown once it has so many characters.
const LINE_CHARS: usize = 72;
/// How long the first call waits for the service.
const FIRST_ANSWER: Duration = Duration::from_secs(5);
/// The pause after a call that the model server failed.
const RETRY: Duration = Duration::from_secs(1);

#[derive(Args)]
pub struct AgentArgs {
    /// The agent's scope
    #[arg(long)]
    pub agent: String,
    /// The token of its enrolment
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Base URL of an OpenAI-compatible server
    #[arg(long)]
    pub model: String,
}

/// Runs until standard input ends, as it does when the parent is gone.
pub async fn run(profile: &Path, args: AgentArgs) -> anyhow::Result<()> {
    let folder = profile.parent().unwrap_or(Path::new("."));
    let text =
        std::fs::read_to_string(profile).with_context(|| format!("cannot read {}", profile.display()))?;
    let profile: ProfileFile = toml::from_str(&text)?;
    let ca_pem =
        std::fs::read_to_string(folder.join(&profile.ca)).context("cannot read the deployment's CA")?;
    let guard = guard(folder, profile, &ca_pem, &args)?;
    // The model server speaks plain HTTP, but a client must say whom it would trust.
    let http = reqwest::Client::builder().tls_backend_preconfigured(tls::client_config(&ca_pem)?).build()?;
    let model = Model { http, url: args.model, agent: args.agent };
    tokio::select! {
        () = work(&guard, &model) => {}
        () = input_ends() => {}
    }
    Ok(())
}

/// The guard of one agent of the deployment that the profile names.
fn guard(folder: &Path, profile: ProfileFile, ca_pem: &str, args: &AgentArgs) -> anyhow::Result<Guard> {
    let mut builder = Client::builder()
        .pinned(profile.deployment)
        .genesis_file(folder.join(profile.genesis))
        .ca_pem(ca_pem)
        .instance(format!("{}-{}", args.agent.replace('/', "."), std::process::id()));
    if let Some(path) = &args.token_file {
        builder = builder.token_file(path);
    }
    let client = profile.nodes.into_iter().fold(builder, |builder, node| builder.node(node)).build()?;
    Ok(client.guard(&args.agent)?)
}

async fn input_ends() {
    let mut buffer = [0; 64];
    let mut input = tokio::io::stdin();
    while input.read(&mut buffer).await.is_ok_and(|n| n > 0) {}
}

/// One call after another; waits while it is stopped.
async fn work(guard: &Guard, model: &Model) {
    let mut lines = Lines::new(&model.agent);
    // An answer of the service, whatever it is; without one the first call says why.
    let _ = guard.ready(FIRST_ANSWER).await;
    loop {
        match model.think(guard, &mut lines).await {
            Ok(()) => lines.end(),
            Err(Failed::Stopped(stopped)) => {
                lines.stopped(&stopped);
                if !wait_enabled(guard, &mut lines, stopped.denied().reason.clone()).await {
                    return;
                }
                lines.remark("enabled again");
            }
            Err(Failed::Model(error)) => {
                lines.remark(&format!("the model server failed: {error}"));
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// Waits, and says so when it waits for something else than before; false when there is nothing left to wait for.
async fn wait_enabled(guard: &Guard, lines: &mut Lines<'_>, mut said: Reason) -> bool {
    let mut changes = guard.changes();
    while let Err(denied) = guard.check() {
        let another = match (&said, &denied.reason) {
            (Reason::Stopped(said), Reason::Stopped(now)) => {
                (said.id, said.released) != (now.id, now.released)
            }
            (said, now) => std::mem::discriminant(said) != std::mem::discriminant(now),
        };
        if another {
            lines.remark(&denied.reason.to_string());
            said = denied.reason;
        }
        if changes.next().await.is_none() {
            return false;
        }
    }
    true
}

struct Model {
    http: reqwest::Client,
    url: String,
    agent: String,
}

enum Failed {
    Stopped(Stopped),
    Model(String),
}

impl From<Stopped> for Failed {
    fn from(stopped: Stopped) -> Self {
        Self::Stopped(stopped)
    }
}

impl From<tagout::Denied> for Failed {
    fn from(denied: tagout::Denied) -> Self {
        Self::Stopped(denied.into())
    }
}

impl From<reqwest::Error> for Failed {
    fn from(error: reqwest::Error) -> Self {
        Self::Model(error.to_string())
    }
}

impl Model {
    /// One streamed answer, every step of it under the guard.
    async fn think(&self, guard: &Guard, lines: &mut Lines<'_>) -> Result<(), Failed> {
        let body = serde_json::json!({
            "model": "demo",
            "stream": true,
            "messages": [{"role": "user", "content": "Think aloud about the next ticket."}],
        });
        let request =
            self.http.post(format!("{}/chat/completions", self.url)).bearer_auth(&self.agent).json(&body);
        let response = guard.run(request.send()).await??.error_for_status()?;
        let mut events = guard.stream(response.bytes_stream().eventsource())?;
        while let Some(event) = events.next().await {
            let event = event?.map_err(|e| Failed::Model(e.to_string()))?;
            if event.data == "[DONE]" {
                break;
            }
            let chunk: serde_json::Value =
                serde_json::from_str(&event.data).map_err(|e| Failed::Model(e.to_string()))?;
            if let Some(token) = chunk["choices"][0]["delta"]["content"].as_str() {
                lines.token(token);
            }
        }
        Ok(())
    }
}

/// Tokens gathered into lines, since three agents share one terminal.
struct Lines<'a> {
    agent: &'a str,
    line: String,
}

impl<'a> Lines<'a> {
    fn new(agent: &'a str) -> Self {
        Self { agent, line: String::new() }
    }

    fn token(&mut self, token: &str) {
        self.line.push_str(token);
        if self.line.chars().count() >= LINE_CHARS {
            self.end();
        }
    }

    fn end(&mut self) {
        if !self.line.trim().is_empty() {
            self.print(self.line.trim());
        }
        self.line.clear();
    }

    fn stopped(&mut self, stopped: &Stopped) {
        let cut = match stopped {
            Stopped::Cut(_) => format!("{} ✂ cut here", self.line.trim()),
            Stopped::Denied(_) => self.line.trim().to_owned(),
        };
        self.line.clear();
        if !cut.is_empty() {
            self.print(cut.trim());
        }
        self.remark(&stopped.denied().reason.to_string());
    }

    fn remark(&mut self, text: &str) {
        self.end();
        self.print(&format!("— {text}"));
    }

    fn print(&self, text: &str) {
        // A terminal that is gone does not keep an agent from working.
        let _ = writeln!(std::io::stdout(), "{} | {text}", self.agent);
    }
}
