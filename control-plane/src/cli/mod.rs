//! The `tagout` command.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use tagout_proto::lock::LockKind;
use tracing_subscriber::EnvFilter;

mod agent;
mod authority;
mod backup;
mod chain;
mod client;
pub mod dev;
mod doctor;
mod drill;
mod failure;
mod files;
#[cfg(test)]
mod fuzz;
mod grant;
pub mod init;
mod keys;
pub mod log;
pub mod node_folder;
mod nodes;
mod notifications;
mod out;
mod profile;
mod proposals;
mod reach;
mod renew;
mod renew_due;
mod restart;
mod restore;
mod revoke;
mod session;
pub mod signing;
mod status;
mod stop;
mod suspend;
#[cfg(test)]
pub(crate) mod testing;
mod token;

pub use failure::{Exit, Failure};
pub use profile::Profile;

use out::Out;

use crate::{dev as demo, node};

/// Stops AI agents, and lets them run again: signed, logged, and verified on this machine
#[derive(Parser)]
#[command(name = "tagout", version, after_help = Exit::help(), after_long_help = Exit::help())]
struct Cli {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Args, Default)]
struct Globals {
    /// Which deployment, and its nodes and keys [default: .tagout/profile.toml, then ~/.config/tagout/profile.toml]
    #[arg(long, global = true, value_name = "FILE", env = "TAGOUT_PROFILE")]
    profile: Option<PathBuf>,
    /// Ask this node instead of the profile's
    #[arg(long, global = true, value_name = "URL")]
    node: Option<String>,
    /// A file with an API token, or a token of the issuer, to read with [default: TAGOUT_API_TOKEN, then the profile's]
    #[arg(long, global = true, value_name = "FILE", env = "TAGOUT_API_TOKEN_FILE")]
    api_token: Option<PathBuf>,
    /// One JSON document on standard output, also for errors
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Args, Default)]
struct KeyArgs {
    /// A key that signs: a file, or agent:SHA256:…; several for m-of-n [default: the profile's]
    #[arg(long = "key", value_name = "KEY")]
    keys: Vec<String>,
}

#[derive(Subcommand)]
enum Verb {
    /// Make a deployment: its genesis, private CA, first node and profile
    Init(Box<init::InitArgs>),
    /// Make keys, and see what they may do
    #[command(subcommand)]
    Key(keys::KeyVerb),
    /// Stop agents; one signature is enough. Calls under way are cut (or drain, or go on); a release and a start lift it
    Stop(stop::StopArgs),
    /// Deny all but essential calls, whose classes the grants name; calls under way go on. A release lifts it
    Restrict(stop::LockArgs),
    /// Limit calls and tokens per minute; calls under way go on. A release lifts it
    Throttle(stop::ThrottleArgs),
    /// Stop agents and have enforcers cut their network; calls under way are cut. A release lifts it
    Isolate(stop::LockArgs),
    /// Take consent back, for ever: new calls are denied, calls under way go on. Only new consent undoes it
    Revoke(revoke::RevokeArgs),
    /// Take keys out of use, for ever, and with them the grants that no longer have enough signatures
    Suspend(suspend::SuspendArgs),
    /// Take off locks; halted and drained agents then wait for their start
    Release(restart::ReleaseArgs),
    /// Start agents again whose locks were released
    Start(restart::StartArgs),
    /// Release every lock that holds a scope and start it, in one ceremony
    Resume(restart::ResumeArgs),
    /// Consent that agents may run, until a time
    Grant(grant::GrantArgs),
    /// What was signed by too few: show it, sign it, refuse it
    Proposals(proposals::ProposalsArgs),
    /// Does the switch really work? Stop a canary, bring it back, and append what that showed, signed
    Drill(Box<drill::DrillArgs>),
    /// Give agents' processes the token that they get leases with; list and revoke them
    #[command(subcommand)]
    Agent(agent::AgentVerb),
    /// Who may read: make tokens for people and tools, list and revoke them
    #[command(subcommand)]
    Token(token::TokenVerb),
    /// Who may do what: show, propose, sign and submit a change
    #[command(subcommand)]
    Authority(authority::AuthorityVerb),
    /// The nodes: list, add, promote, remove and replace them
    #[command(subcommand)]
    Node(nodes::NodeVerb),
    /// Who is told of what happens: list receivers, replay dead letters, resume, test, and make keys
    Notifications(notifications::NotificationsArgs),
    /// Show agents, locks and grants
    Status(status::StatusArgs),
    /// On an agent's host: could it be stopped now, by which paths, and if not, why not
    Doctor(doctor::DoctorArgs),
    /// Read and verify the audit log
    #[command(subcommand)]
    Log(log::LogVerb),
    /// Copy the log into a folder, verified; a second run fetches only what is new
    Backup(backup::BackupArgs),
    /// Begin anew from a backup after all nodes were lost: new nodes, a new epoch, and everything halted
    #[command(subcommand)]
    Restore(restore::RestoreVerb),
    /// Give a node a new certificate for the key that it has; a running node takes it over without a restart
    Renew(renew::RenewArgs),
    /// Run a node
    Serve(ServeArgs),
    /// Make a deployment to try Tagout with, and run it: a node, or three, and three agents on this machine
    Dev(demo::DevArgs),
    /// One of the agents that `dev` runs
    #[command(hide = true)]
    DevAgent(demo::agent::AgentArgs),
}

#[derive(Args)]
struct ServeArgs {
    /// The node's configuration, as `tagout init` makes it
    #[arg(long, value_name = "FILE", default_value = "tagout.toml")]
    config: PathBuf,
    /// End at once when standard input does, as the nodes of `tagout dev` do
    #[arg(long, hide = true)]
    ends_with_input: bool,
}

/// Runs the command of this process's arguments.
pub fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    let cli = match Cli::try_parse_from(&args) {
        Ok(cli) => cli,
        Err(error) => return wrong_usage(&error, args.iter().any(|arg| arg == "--json")),
    };
    let out = Out::new(cli.globals.json);
    let exit = run(&out, &cli.globals, cli.verb).unwrap_or_else(|failure| {
        out.failure(&failure);
        failure.exit
    });
    ExitCode::from(exit as u8)
}

fn run(out: &Out, globals: &Globals, verb: Verb) -> Result<Exit, Failure> {
    match verb {
        Verb::Init(args) => init::run(out, *args),
        Verb::Key(verb) => keys::run(out, globals, verb),
        Verb::Stop(args) => stop::stop(out, globals, args),
        Verb::Restrict(args) => stop::place(out, globals, LockKind::Restrict, &args),
        Verb::Throttle(args) => stop::throttle(out, globals, args),
        Verb::Isolate(args) => stop::place(out, globals, LockKind::Isolate, &args),
        Verb::Revoke(args) => revoke::run(out, globals, args),
        Verb::Suspend(args) => suspend::run(out, globals, args),
        Verb::Release(args) => restart::release(out, globals, args),
        Verb::Start(args) => restart::start(out, globals, args),
        Verb::Resume(args) => restart::resume(out, globals, args),
        Verb::Grant(args) => grant::run(out, globals, args),
        Verb::Proposals(args) => proposals::run(out, globals, args),
        Verb::Drill(args) => drill::run(out, globals, *args),
        Verb::Agent(verb) => agent::run(out, globals, verb),
        Verb::Token(verb) => token::run(out, globals, verb),
        Verb::Authority(verb) => authority::run(out, globals, verb),
        Verb::Node(verb) => nodes::run(out, globals, verb),
        Verb::Notifications(args) => notifications::run(out, globals, args),
        Verb::Status(args) => status::run(out, globals, args),
        Verb::Doctor(args) => doctor::run(out, globals, args),
        Verb::Log(verb) => log::run(out, globals, verb),
        Verb::Backup(args) => backup::run(out, globals, args),
        Verb::Restore(verb) => restore::run(out, globals, verb),
        Verb::Renew(args) => renew::run(out, args),
        Verb::Serve(args) => {
            if args.ends_with_input {
                end_with_input();
            }
            // Consensus warns at every heartbeat of a peer that is gone; peers/ says it once, and what is fatal ends the process.
            long_running(globals, "info,openraft=off", node::serve_command(&args.config))
        }
        Verb::Dev(args) => long_running(globals, "error", demo::run(args)),
        Verb::DevAgent(args) => {
            let profile = profile::locate(globals.profile.as_deref())?;
            long_running(globals, "error", demo::agent::run(&profile, args))
        }
    }
}

/// Whoever started this process is gone when its input ends, and nobody would ever end it.
fn end_with_input() {
    std::thread::spawn(|| {
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        std::process::exit(Exit::Failed as i32);
    });
}

/// Runs what goes on until it is told to end. Its events go to standard error, as JSON lines if asked; `RUST_LOG` chooses
/// which.
fn long_running(
    globals: &Globals,
    events: &str,
    work: impl Future<Output = anyhow::Result<()>>,
) -> Result<Exit, Failure> {
    // Set and empty means unset, as in a unit file with a blank value.
    let chosen = std::env::var(EnvFilter::DEFAULT_ENV).ok().filter(|chosen| !chosen.is_empty());
    let filter = EnvFilter::new(chosen.as_deref().unwrap_or(events));
    let events = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let events = events.with_ansi(std::io::stderr().is_terminal());
    if globals.json {
        events.json().init()
    } else {
        events.init()
    }
    let failed = |what: String| Failure::new(Exit::Failed, "node", what);
    let runtime = tokio::runtime::Runtime::new().map_err(|e| failed(format!("cannot start threads: {e}")))?;
    runtime.block_on(work).map_err(|error| failed(format!("{error:#}")))?;
    Ok(Exit::Ok)
}

fn wrong_usage(error: &clap::Error, json: bool) -> ExitCode {
    if json && error.use_stderr() {
        Out::new(true)
            .failure(&Failure::usage(error.render().to_string().trim_start_matches("error: ").trim_end()));
    } else {
        let _ = error.print();
    }
    ExitCode::from(error.exit_code() as u8)
}

/// `30s`, `72h`, `1h 30m`, in milliseconds.
fn duration_ms(text: &str) -> Result<u64, String> {
    let duration = humantime::parse_duration(text).map_err(|e| format!("{e}; write it as 30s, 5m or 72h"))?;
    u64::try_from(duration.as_millis()).map_err(|_| "it is too long".into())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_arguments_are_well_formed_and_the_help_names_the_exit_codes() {
        Cli::command().debug_assert();
        let help = Cli::command().render_help().to_string();
        assert!(help.contains("5  the stop is in force, but no known agent matches its scope"), "{help}");
    }

    #[test]
    fn no_argument_takes_the_place_of_a_global_one() {
        fn check(command: &clap::Command, globals: &[String]) {
            for verb in command.get_subcommands() {
                let own = verb.get_arguments().map(|arg| arg.get_id().as_str());
                let twice: Vec<_> = own.filter(|id| globals.iter().any(|global| global == id)).collect();
                assert!(twice.is_empty(), "{}: {twice:?}", verb.get_name());
                check(verb, globals);
            }
        }
        let cli = Cli::command();
        let globals =
            cli.get_arguments().filter(|arg| arg.is_global_set()).map(|arg| arg.get_id().to_string());
        let globals: Vec<_> = globals.collect();
        assert_eq!(globals.len(), 4);
        check(&cli, &globals);
    }

    #[test]
    fn durations() {
        assert_eq!(duration_ms("30s"), Ok(30_000));
        assert!(duration_ms("30").unwrap_err().contains("write it as"));
    }
}
