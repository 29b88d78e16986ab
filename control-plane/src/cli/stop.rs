//! `tagout stop`, and `restrict`, `throttle` and `isolate`, which go the same way: step ① of a stop on the operator's
//! machine, and step ⑨, where its outcome is shown.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde::Serialize;
use tagout_proto::command::{Action, LockCommand};
use tagout_proto::digest::Digest;
use tagout_proto::lock::LockKind;
use tagout_proto::rule::CallLimits;
use tagout_proto::scope::Scope;
use tagout_proto::sshsig::NAMESPACE;
use tagout_proto::wire::{Agents, CommandAnswer, Locks, Problem, StopReach};

use super::client::Client;
use super::failure::{Exit, Failure};
use super::files::{quoted, write_new};
use super::out::{Ink, Out, count, span};
use super::profile::{self, Profile};
use super::reach;
use super::session::{Place, Session};
use super::signing::{self, Signed, SignedSummary};
use super::status;
use super::{Globals, KeyArgs, duration_ms};

#[derive(Args)]
pub struct StopArgs {
    #[command(flatten)]
    lock: LockArgs,
    /// halt: now, calls under way are cut. drain: essential calls and calls under way go on until --drain is over, all
    /// others are denied at once. pause: new calls are denied, calls under way go on [default: halt, or drain with
    /// --drain]
    #[arg(long, value_enum)]
    mode: Option<Mode>,
    /// How long essential calls and calls under way may go on before they are cut, such as 30s
    #[arg(long, value_name = "TIME", value_parser = duration_ms)]
    drain: Option<u64>,
}

#[derive(Args)]
pub struct ThrottleArgs {
    #[command(flatten)]
    lock: LockArgs,
    #[command(flatten)]
    limits: LimitArgs,
}

/// What an agent may call, all its instances together.
#[derive(Args)]
pub struct LimitArgs {
    /// At most so many calls per minute, all instances of an agent together
    #[arg(long, value_name = "N")]
    calls_per_minute: Option<u64>,
    /// At most so many tokens per minute, all instances of an agent together
    #[arg(long, value_name = "N")]
    tokens_per_minute: Option<u64>,
}

/// What all locks have.
#[derive(Args)]
pub struct LockArgs {
    /// An agent, all below a path, or '*' (in quotes) for the whole fleet
    scope: Scope,
    /// Why; it hangs on the lock for everybody to read
    #[arg(long)]
    reason: String,
    /// The incident that it belongs to, such as INC-4711
    #[arg(long)]
    case: Option<String>,
    #[command(flatten)]
    keys: KeyArgs,
    /// Sign and send nothing; show what it would reach
    #[arg(long)]
    dry_run: bool,
    /// Write the document and print the two stock commands that sign and send it
    #[arg(long, conflicts_with_all = ["dry_run", "copies"])]
    print_curl: bool,
    /// Sign this many for a runbook, each with an id of its own, and send none
    #[arg(long, value_name = "N", requires = "out", conflicts_with = "dry_run", value_parser = clap::value_parser!(u16).range(1..=1000))]
    copies: Option<u16>,
    /// Where --copies (a folder) or --print-curl (a file) writes [default: the command's name, such as stop.json]
    #[arg(long, value_name = "PATH")]
    out: Option<PathBuf>,
    /// Wait, and show it, until every instance has confirmed or run out of time (the default)
    #[arg(long, overrides_with = "no_wait")]
    wait: bool,
    /// Return once it is in the log, without waiting for what it reaches
    #[arg(long, overrides_with = "wait")]
    no_wait: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Mode {
    Halt,
    Drain,
    Pause,
}

impl StopArgs {
    fn kind(&self) -> Result<LockKind, Failure> {
        Ok(match (self.mode, self.drain) {
            (None | Some(Mode::Drain), Some(drain_ms)) => LockKind::Drain { drain_ms },
            (Some(Mode::Drain), None) => {
                return Err(Failure::usage("--mode drain needs its time: add --drain 30s"));
            }
            (None | Some(Mode::Halt), None) => LockKind::Halt,
            (Some(Mode::Pause), None) => LockKind::Pause,
            (Some(Mode::Halt | Mode::Pause), Some(_)) => {
                return Err(Failure::usage("--drain goes with --mode drain only"));
            }
        })
    }
}

impl LimitArgs {
    pub fn limits(&self) -> CallLimits {
        let (calls_per_minute, tokens_per_minute) = (self.calls_per_minute, self.tokens_per_minute);
        CallLimits { calls_per_minute, tokens_per_minute }
    }
}

impl LockArgs {
    fn command(&self, kind: LockKind) -> LockCommand {
        let (scope, reason, case) = (self.scope.clone(), self.reason.clone(), self.case.clone());
        LockCommand { scope, kind, reason, case }
    }
}

/// What a stop did, for programs.
#[derive(Serialize)]
struct Report {
    #[serde(flatten)]
    answer: CommandAnswer,
    signed: SignedSummary,
    /// Absent where the proof could not be had; `problem` says why.
    log: Option<Place>,
    reach_now: Option<StopReach>,
    problem: Option<Problem>,
}

pub fn stop(out: &Out, globals: &Globals, args: StopArgs) -> Result<Exit, Failure> {
    place(out, globals, args.kind()?, &args.lock)
}

pub fn throttle(out: &Out, globals: &Globals, args: ThrottleArgs) -> Result<Exit, Failure> {
    let limits = args.limits.limits();
    if limits == CallLimits::default() {
        return Err(Failure::usage(
            "a throttle limits something: add --calls-per-minute N or --tokens-per-minute N",
        ));
    }
    place(out, globals, LockKind::Throttle(limits), &args.lock)
}

/// Places a lock of any kind: all of them go the way of a stop.
pub fn place(out: &Out, globals: &Globals, kind: LockKind, args: &LockArgs) -> Result<Exit, Failure> {
    let lock = args.command(kind);
    if args.print_curl {
        let default = PathBuf::from(format!("{}.json", kind.action()));
        return print_curl(out, globals, lock, args.out.as_deref().unwrap_or(&default));
    }
    if let (Some(copies), Some(dir)) = (args.copies, &args.out) {
        return runbook(out, globals, &lock, &args.keys, copies, dir);
    }
    let mut session = Session::open_to_tighten(out, globals)?;
    if args.dry_run {
        return dry_run(&session, &lock);
    }
    send(&mut session, lock, args)
}

fn send(session: &mut Session<'_>, lock: LockCommand, args: &LockArgs) -> Result<Exit, Failure> {
    let (out, kind, scope) = (session.out, lock.kind, lock.scope.clone());
    let signers = session.signers_to_tighten(&args.keys)?;
    let signed = session.sign_tightening(Action::Lock(lock), &signers)?;
    let answer = session.send(&signed.envelope);
    let answer = answer.inspect_err(|failure| say_not_committed(out, &scope, &signed, failure))?;
    say_placed(out, kind, &answer);

    // From here on the stop stands. What goes wrong now is reported beside it, never instead of it.
    let mut problem = None;
    let log = prove(session, answer.index, &signed).map_err(|f| problem = Some(f)).ok();
    if let Some(place) = &log {
        session.say_place(place);
    }
    let follow = kind.denies() && answer.reach.agents > 0 && !args.no_wait;
    let reach_now = if follow {
        reach::follow(session, answer.digest).map_err(|f| problem = problem.take().or(Some(f))).ok()
    } else {
        None
    };
    if let Some(failure) = &problem {
        let warning = out.ink(Ink::Yellow, "warning:");
        out.line(format!("{warning} the {} stands; but {failure}", kind.action()));
    }
    let exit = match &problem {
        // Reading was refused, for want of an identity: the command was not, as that exit code would say.
        Some(failure) if failure.exit != Exit::Refused => failure.exit,
        _ if answer.reach.agents == 0 => Exit::NoAgents,
        _ => Exit::Ok,
    };
    let (signed, problem) = (signed.summary(session.trust()), problem.map(|f| f.problem));
    out.document(&Report { answer, signed, log, reach_now, problem });
    Ok(exit)
}

/// The log may be signed by a node that this machine has not heard of yet.
fn prove(session: &mut Session<'_>, index: u64, signed: &Signed) -> Result<Place, Failure> {
    match session.prove(index, &signed.envelope) {
        Err(failure) if failure.exit == Exit::Unverified && session.learn().is_ok() => {
            session.prove(index, &signed.envelope)
        }
        proven => proven,
    }
}

/// What is so all the same, where a node took it and no log has it; the failure itself follows.
pub(super) fn say_not_committed(out: &Out, scope: &Scope, signed: &Signed, failure: &Failure) {
    let (done, so) = match failure.problem.code.as_str() {
        "pending" => (
            "PENDING",
            "the node keeps it and has pushed it to its guards; it is committed once there is a quorum, and nothing has to be \
             sent again",
        ),
        "disk-full" => (
            "PUSHED ONLY",
            "the node has pushed it to its guards and could not keep it; guards that did not hear of it may go on",
        ),
        _ => return,
    };
    let (done, scope) = (out.ink(Ink::Yellow, done), out.ink(Ink::Bold, scope.to_string()));
    out.line(format!("{done} {scope}: {so}"));
    out.line(format!("lock {}", signed.envelope.digest()));
}

pub(super) fn say_placed(out: &Out, kind: LockKind, answer: &CommandAnswer) {
    let scope = out.ink(Ink::Bold, answer.scope.to_string());
    let (done, mode) = match kind {
        LockKind::Halt | LockKind::Drain { .. } | LockKind::Pause => {
            ("STOPPED", format!(" ({})", kind.name()))
        }
        LockKind::Isolate => ("ISOLATED", String::new()),
        LockKind::Restrict => ("RESTRICTED", String::new()),
        LockKind::Throttle(limits) => ("THROTTLED", format!(" ({limits})")),
    };
    let again = if answer.repeated { ", as it was before" } else { "" };
    out.line(format!("{} {scope}{mode} at entry {}{again}", out.ink(Ink::Red, done), answer.index));
    out.line(format!("lock {}", answer.digest));
    out.line(format!("  {}", effect(kind)));
    let reach = answer.reach;
    if reach.agents == 0 {
        let nobody = out.ink(Ink::Yellow, format!("No known agent matches {}.", answer.scope));
        out.line(format!(
            "{nobody} The lock is in place all the same and holds whoever comes; check the spelling with `tagout status`"
        ));
    } else {
        let (agents, instances) = (count(reach.agents, "agent"), count(reach.instances, "instance"));
        out.line(format!("reaches {agents}, {instances}"));
    }
}

/// What a lock does to calls, and what lifts it.
fn effect(kind: LockKind) -> String {
    let calls = match kind {
        LockKind::Halt => "no new calls, and calls under way are cut".into(),
        LockKind::Drain { drain_ms } => format!(
            "no new calls but essential ones; those and calls under way go on for {} and are cut then",
            span(drain_ms)
        ),
        LockKind::Pause => "no new calls; calls under way go on".into(),
        LockKind::Isolate => {
            "no new calls, calls under way are cut, and enforcers cut the agent's network".into()
        }
        LockKind::Restrict => "no new calls but essential ones; calls under way go on".into(),
        LockKind::Throttle(limits) => format!("at most {limits}; calls under way go on"),
    };
    let lifted =
        if kind.needs_start() { "its release and then its start lift it" } else { "its release lifts it" };
    format!("{calls}; {lifted}")
}

fn dry_run(session: &Session<'_>, stop: &LockCommand) -> Result<Exit, Failure> {
    #[derive(Serialize)]
    struct DryRun<'a> {
        dry_run: bool,
        scope: &'a Scope,
        agents: &'a Agents,
        locks: &'a Locks,
    }
    let (agents, locks) = (session.client.agents(&stop.scope)?, session.client.locks(&stop.scope)?);
    let out = session.out;
    out.document(&DryRun { dry_run: true, scope: &stop.scope, agents: &agents, locks: &locks });
    let instances = agents.agents.iter().map(|a| a.instances.len() as u64).sum();
    let (found, instances) = (count(agents.agents.len() as u64, "agent"), count(instances, "instance"));
    let (name, scope) = (stop.kind.name(), &stop.scope);
    let article = if stop.kind == LockKind::Isolate { "an" } else { "a" };
    out.line(format!("{article} {name} of {scope} would reach {found}, {instances}; nothing was signed"));
    out.line(format!("  {}", effect(stop.kind)));
    status::say_agents(out, &agents, &locks);
    if !locks.locks.is_empty() {
        out.line("locks on it, above it or below it:");
        status::say_locks(out, &locks);
    }
    Ok(if agents.agents.is_empty() { Exit::NoAgents } else { Exit::Ok })
}

fn print_curl(out: &Out, globals: &Globals, stop: LockCommand, file: &Path) -> Result<Exit, Failure> {
    let profile = Profile::load_to_tighten(out, &profile::locate(globals.profile.as_deref())?)?;
    let client = Client::new(&profile, globals)?;
    let document = signing::draft(profile.deployment(), &Action::Lock(stop))?;
    write_new(file, document.as_bytes(), 0o644).map_err(|mut failure| {
        if failure.problem.code == "exists" {
            failure.problem.detail.push_str(" (--out FILE writes to another)");
        }
        failure
    })?;
    let key = profile.keys.first().filter(|key| !key.starts_with("agent:"));
    let key = key.map_or("~/.ssh/id_ed25519".into(), |key| quoted(Path::new(key)));
    let lines = stock_lines(&key, file, &profile.ca, client.node());
    let digest = Digest::of(document.as_bytes());
    out.document(&serde_json::json!({ "file": file, "digest": digest, "commands": lines }));
    lines.iter().for_each(|line| out.line(line));
    Ok(Exit::Ok)
}

/// The two commands that everybody has: they sign a document and send it.
fn stock_lines(key: &str, file: &Path, ca: &Path, node: &str) -> [String; 2] {
    let mut signature = file.as_os_str().to_owned();
    signature.push(".sig");
    let (signature, file) = (quoted(Path::new(&signature)), quoted(file));
    [
        format!("ssh-keygen -Y sign -n {NAMESPACE} -f {key} {file}"),
        format!(
            "curl --fail-with-body --cacert {} -F command=@{file} -F signature=@{signature} {node}/v1/commands",
            quoted(ca)
        ),
    ]
}

fn runbook(
    out: &Out,
    globals: &Globals,
    stop: &LockCommand,
    keys: &KeyArgs,
    copies: u16,
    dir: &Path,
) -> Result<Exit, Failure> {
    #[derive(Serialize)]
    struct Copy {
        command: PathBuf,
        signature: PathBuf,
        digest: Digest,
    }
    // What this machine believes must be in order here: there is time, and a wrong runbook shows on the worst day.
    let profile = Profile::load(&profile::locate(globals.profile.as_deref())?)?;
    let first = &profile.keys[..profile.keys.len().min(1)];
    let signers = signing::open_signers(if keys.keys.is_empty() { first } else { &keys.keys })?;
    let name = stop.kind.action();
    std::fs::create_dir_all(dir).map_err(|e| Failure::file("make the folder", dir, &e))?;
    let mut written = Vec::new();
    for number in 1..=copies {
        let signed = Signed::new(profile.deployment(), Action::Lock(stop.clone()), &signers)?;
        // Found wrong on the day when it is needed, a runbook stop is worth nothing.
        signed.check(profile.trust())?;
        let command = dir.join(format!("{name}-{number:04}.json"));
        write_new(&command, signed.envelope.document.as_bytes(), 0o600)?;
        let signature = dir.join(format!("{name}-{number:04}.json.sig"));
        write_new(&signature, signed.envelope.signatures[0].as_bytes(), 0o600)?;
        written.push(Copy { command, signature, digest: signed.envelope.digest() });
    }
    out.document(&serde_json::json!({ "scope": stop.scope, "copies": written }));
    out.line(format!(
        "signed {} of {} into {}",
        count(copies.into(), name.name()),
        stop.scope,
        dir.display()
    ));
    out.line("each works once, without a date; whoever has one can use it on this scope, so keep them safe. Use one with:");
    if let Ok(client) = Client::new(&profile, globals) {
        let [_, curl] = stock_lines("", &written[0].command, &profile.ca, client.node());
        out.line(format!("  {curl}"));
    }
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Verb, testing};

    fn parsed(args: &[&str]) -> StopArgs {
        let all = ["tagout", "stop", "demo/a", "--reason", "r"].iter().chain(args);
        match Cli::try_parse_from(all).unwrap().verb {
            Verb::Stop(args) => args,
            _ => panic!("it is a stop"),
        }
    }

    #[test]
    fn modes_and_drain_times() {
        let mode = |args: &[&str]| parsed(args).kind();
        assert_eq!(mode(&[]).unwrap(), LockKind::Halt);
        assert_eq!(mode(&["--mode", "pause"]).unwrap(), LockKind::Pause);
        assert_eq!(mode(&["--drain", "30s"]).unwrap(), LockKind::Drain { drain_ms: 30_000 });
        for wrong in [&["--mode", "drain"][..], &["--mode", "halt", "--drain", "1s"]] {
            assert_eq!(mode(wrong).unwrap_err().exit, Exit::Usage);
        }
    }

    #[test]
    fn runbook_stops_are_signed_and_each_has_a_lock_of_its_own() {
        let deployed = testing::deployed();
        let globals = Globals { profile: Some(deployed.made.profile.clone()), ..Globals::default() };
        let dir = deployed.dir.path().join("runbook");
        let stop = parsed(&[]).lock.command(LockKind::Halt);
        let keys = KeyArgs::default();
        runbook(&Out::new(true), &globals, &stop, &keys, 3, &dir).unwrap();
        let profile = Profile::load(&deployed.made.profile).unwrap();
        let mut digests = std::collections::BTreeSet::new();
        for number in 1..=3 {
            let document = std::fs::read_to_string(dir.join(format!("stop-{number:04}.json"))).unwrap();
            let signature = std::fs::read_to_string(dir.join(format!("stop-{number:04}.json.sig"))).unwrap();
            let envelope = tagout_proto::envelope::Envelope { document, signatures: vec![signature] };
            digests.insert(envelope.digest());
            assert_eq!(profile.authority().signers(&envelope).names(), ["alice"]);
        }
        assert_eq!(digests.len(), 3);
        assert!(runbook(&Out::new(true), &globals, &stop, &keys, 1, &dir).is_err(), "none is overwritten");
    }

    #[test]
    fn a_printed_stop_replaces_none_and_names_the_option_for_another_file() {
        let deployed = testing::deployed();
        let globals = Globals { profile: Some(deployed.made.profile.clone()), ..Globals::default() };
        let file = deployed.dir.path().join("stop.json");
        let print = || print_curl(&Out::new(true), &globals, parsed(&[]).lock.command(LockKind::Halt), &file);
        print().unwrap();
        assert!(print().unwrap_err().to_string().ends_with("(--out FILE writes to another)"));
    }

    #[test]
    fn the_stock_lines_are_the_documented_ones() {
        let [sign, send] = stock_lines(
            "~/.ssh/id_ed25519",
            Path::new("stop.json"),
            Path::new("ca.pem"),
            "https://node:7470",
        );
        assert_eq!(sign, "ssh-keygen -Y sign -n tagout-command -f ~/.ssh/id_ed25519 stop.json");
        assert_eq!(
            send,
            "curl --fail-with-body --cacert ca.pem -F command=@stop.json -F signature=@stop.json.sig https://node:7470/v1/commands"
        );
    }
}
