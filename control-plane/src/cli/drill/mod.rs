//! `tagout drill`: does the switch really work? A canary is stopped, looked at, and brought back, and what that showed goes
//! into the log, signed.
//!
//! It is an ordinary stop: wherever this process ends before its start, the canary stays stopped.

use std::io::IsTerminal;
use std::slice;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use serde::Serialize;
use tagout_proto::authority::Unauthorised;
use tagout_proto::command::{Action, ActionKind, LockCommand, LockSet, Release, Start};
use tagout_proto::digest::Digest;
use tagout_proto::limits::PROPOSAL_TTL_MS;
use tagout_proto::lock::LockKind;
use tagout_proto::rule::Verdict;
use tagout_proto::scope::Scope;

use super::failure::{Exit, Failure};
use super::out::{Ink, Out, count, span};
use super::restart::{asked, send_each};
use super::session::{Gift, Session};
use super::{Globals, KeyArgs, duration_ms, reach, stop};
use crate::sign::Signer;

mod evidence;
mod page;
mod report;

use evidence::{Appended, Back};

/// The case of every stop that is a drill.
const CASE: &str = "drill";
/// Agents that a drill stops without being told that there are many.
const CANARY_AGENTS_MAX: usize = 1;
const EVERY_MIN_MS: u64 = 1000;
/// How often a drill that waits for other people looks whether they have signed.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// So often in a row a proposal is gone before that counts.
const LAG_LOOKS: u32 = 2;

#[derive(Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct DrillArgs {
    #[command(subcommand)]
    verb: Option<DrillVerb>,
    #[command(flatten)]
    run: RunArgs,
}

#[derive(Subcommand)]
enum DrillVerb {
    /// Sign what a drill showed whose canary other people brought back, and append it to the log
    Finish(FinishArgs),
    /// All drills by the verified log, for an auditor: how fast, who, when, what is missing
    Report(report::ReportArgs),
}

#[derive(Args)]
struct RunArgs {
    /// The canary: an agent that is enrolled and runs, and that may be stopped for a moment
    #[arg(required = true)]
    scope: Option<Scope>,
    /// Why; it hangs on the lock for everybody to read
    #[arg(long, required = true)]
    reason: Option<String>,
    #[command(flatten)]
    keys: KeyArgs,
    /// The scope covers more than one agent, and all of them are to be stopped
    #[arg(long)]
    many: bool,
    /// Do not ask before it is stopped
    #[arg(long)]
    yes: bool,
    /// With too few keys to bring it back: wait until others have signed, and finish then
    #[arg(long)]
    wait: bool,
    /// Go on, with a drill every so often, such as 24h, until this process is ended; a failed one is said and does not end it
    #[arg(long, value_name = "TIME", value_parser = duration_ms, requires = "yes")]
    every: Option<u64>,
    /// An instance that confirmed later than that is an error: exit code 1
    #[arg(long, value_name = "TIME", value_parser = duration_ms)]
    alert_over: Option<u64>,
}

#[derive(Args)]
struct FinishArgs {
    /// The lock of its stop, or the first 12 digits
    lock: String,
    /// Also if it was not brought back: the evidence says so, for good
    #[arg(long)]
    not_resumed: bool,
    /// An instance that confirmed later than that is an error: exit code 1
    #[arg(long, value_name = "TIME", value_parser = duration_ms)]
    alert_over: Option<u64>,
    #[command(flatten)]
    keys: KeyArgs,
}

/// What a drill did, for programs.
#[derive(Serialize)]
struct Done<'a> {
    scope: &'a Scope,
    lock: Digest,
    /// What brought it back, and what others have to sign first.
    #[serde(flatten)]
    gift: Option<Gift>,
    /// Absent while it is not brought back.
    drill: Option<&'a Appended>,
    /// What is wrong with what it showed.
    alert: Option<String>,
}

pub fn run(out: &Out, globals: &Globals, args: DrillArgs) -> Result<Exit, Failure> {
    match args.verb {
        Some(DrillVerb::Finish(args)) => finish(out, globals, &args),
        Some(DrillVerb::Report(args)) => report::run(out, globals, &args),
        None => {
            if args.run.every.is_some_and(|every_ms| every_ms < EVERY_MIN_MS) {
                return Err(Failure::usage(
                    "--every is at least 1s: a drill cuts whatever the canary is doing",
                ));
            }
            let (session, args) = (Session::open(out, globals)?, &args.run);
            let signers = session.signers(&args.keys)?;
            match args.every {
                None => once(&session, args, &signers),
                Some(every_ms) => every(out, globals, args, &signers, Duration::from_millis(every_ms)),
            }
        }
    }
}

impl RunArgs {
    fn scope(&self) -> &Scope {
        self.scope.as_ref().expect("required by clap")
    }

    fn reason(&self) -> &str {
        self.reason.as_deref().expect("required by clap")
    }
}

/// One drill after the other. What fails is said, and looked at again the next time.
fn every(
    out: &Out,
    globals: &Globals,
    args: &RunArgs,
    signers: &[Signer],
    every: Duration,
) -> Result<Exit, Failure> {
    loop {
        let begun = Instant::now();
        // Anew each time: the authority and the nodes may be others by then.
        let done = Session::open(out, globals).and_then(|session| once(&session, args, signers));
        if let Err(failure) = done {
            out.failure(&failure);
        }
        if out.closed() {
            return Ok(Exit::Failed);
        }
        out.line(format!(
            "the next drill of {} begins {} after this one did",
            args.scope(),
            span(millis(every))
        ));
        std::thread::sleep(every.saturating_sub(begun.elapsed()));
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn once(session: &Session<'_>, args: &RunArgs, signers: &[Signer]) -> Result<Exit, Failure> {
    let (out, scope) = (session.out, args.scope());
    let canary = Canary::find(session, args)?;
    let stopper = who_may_stop(session, scope, signers)?;
    let lacking = what_it_lacks(session, scope, signers)?;
    canary.say(out, scope, lacking.as_ref());
    confirm(out, args)?;

    let kind = LockKind::Halt;
    let (reason, case) = (format!("drill: {}", args.reason()), Some(CASE.to_owned()));
    let lock = LockCommand { scope: scope.clone(), kind, reason, case };
    let signed = session.sign_tightening(Action::Lock(lock), slice::from_ref(stopper))?;
    let answer = session.send(&signed.envelope);
    let lock = signed.envelope.digest();
    let answer = answer.inspect_err(|failure| {
        stop::say_not_committed(out, scope, &signed, failure);
        out.line(
            "where it is in force, or once it is, this brings it back, and then says what the drill showed:",
        );
        say_way_back(out, scope, &lock);
    })?;
    stop::say_placed(out, kind, &answer);
    // Said now, since nothing may be said any more when this process is killed.
    out.line("whatever ends this command now leaves it stopped. This brings it back, and then says what the drill showed:");
    say_way_back(out, scope, &lock);
    session.say_place(&session.prove(answer.index, &signed.envelope)?);
    reach::follow(session, lock)?;

    let (gift, exit) = bring_back(session, scope, lock, args.reason(), signers)?;
    if exit == Exit::Proposed && !args.wait {
        out.line(format!(
            "and once {scope} runs again, anybody who may stop it appends what the drill showed:"
        ));
        out.line(format!("  tagout drill finish {}", lock.short()));
        out.document(&Done { scope, lock, gift: Some(gift), drill: None, alert: None });
        return Ok(exit);
    }
    if exit == Exit::Proposed {
        wait_for_others(session, scope, &lock, &gift)?;
    }
    append(session, lock, stopper, Some(gift), args.alert_over, Back::Shown)
}

fn say_way_back(out: &Out, scope: &Scope, lock: &Digest) {
    let lock = lock.short();
    out.line(format!("  tagout resume {scope} --reason \"after a drill\" && tagout drill finish {lock}"));
}

/// Signs and appends the evidence, and says what it shows.
fn append(
    session: &Session<'_>,
    lock: Digest,
    signer: &Signer,
    gift: Option<Gift>,
    alert_over: Option<u64>,
    back: Back,
) -> Result<Exit, Failure> {
    let out = session.out;
    let appended = evidence::append(session, lock, signer, back)?;
    appended.say(out);
    let alert = appended.alert(alert_over);
    let scope = &appended.drill.scope;
    out.document(&Done { scope, lock, gift, drill: Some(&appended), alert: alert.clone() });
    Ok(match alert {
        Some(alert) => {
            out.note(format!("{} {alert}", out.ink(Ink::Red, "error:")));
            Exit::Failed
        }
        None => Exit::Ok,
    })
}

fn finish(out: &Out, globals: &Globals, args: &FinishArgs) -> Result<Exit, Failure> {
    let session = Session::open(out, globals)?;
    let signers = session.signers(&args.keys)?;
    let (lock, scope) = evidence::find(&session, &args.lock)?;
    let signer = who_may_stop(&session, &scope, &signers)?;
    let back = if args.not_resumed { Back::Never } else { Back::Asked };
    append(&session, lock, signer, None, args.alert_over, back)
}

/// Whom a drill would stop.
struct Canary {
    /// Agents of which instances live, and those instances.
    agents: u64,
    instances: u64,
}

impl Canary {
    /// Refuses what would prove nothing, and what would stop more than was meant.
    fn find(session: &Session<'_>, args: &RunArgs) -> Result<Self, Failure> {
        let scope = args.scope();
        let agents = session.client.agents(scope)?.agents;
        let enrolments = session.client.enrolments(scope)?.enrolments;
        let enrolled = enrolments.into_iter().map(|record| record.enrolment.scope);
        let mut covered: Vec<Scope> =
            agents.iter().map(|agent| agent.scope.clone()).chain(enrolled).collect();
        covered.retain(|on| scope.covers(on));
        covered.sort();
        covered.dedup();
        if !args.many && (scope.is_fleet() || covered.len() > CANARY_AGENTS_MAX) {
            let all = count(covered.len() as u64, "agent");
            return Err(Failure::usage(format!(
                "{scope} covers {all}, and a drill really stops them: name one canary, or add --many"
            )));
        }
        if let Some(denied) = agents.iter().find(|agent| agent.verdict == Verdict::Denied) {
            let (agent, locks) = (&denied.scope, &denied.locks);
            let (why, next) = match locks.first() {
                Some(lock) => (
                    format!("lock {} holds it", lock.short()),
                    format!("`tagout resume {agent} --reason WHY` brings it back"),
                ),
                None => {
                    ("nobody consents to it".into(), format!("`tagout grant {agent} --for 72h` lets it run"))
                }
            };
            let detail = format!(
                "{agent} does not run now: {why}, so that stopping it would show nothing; {next}, and then drill"
            );
            return Err(Failure::new(Exit::Failed, "stopped-already", detail));
        }
        let living = agents.iter().filter(|agent| !agent.instances.is_empty());
        let instances = living.clone().map(|agent| agent.instances.len() as u64).sum();
        if instances == 0 {
            let detail = format!(
                "no instance of {scope} lives, and a drill on nothing proves nothing: start the canary, and look with \
                 `tagout status {scope}`; nothing was stopped"
            );
            return Err(Failure::new(Exit::Failed, "no-instance", detail));
        }
        Ok(Self { agents: living.count() as u64, instances })
    }

    fn say(&self, out: &Out, scope: &Scope, lacking: Option<&Unauthorised>) {
        let (agents, instances) = (count(self.agents, "agent"), count(self.instances, "instance"));
        let scope = out.ink(Ink::Bold, scope.to_string());
        out.line(format!(
            "a drill really stops {scope}, {agents} with {instances}: no new calls, and calls under way are cut"
        ));
        out.line(match lacking {
            None => "then these keys release and start it again, and sign what that showed".into(),
            Some(lacking) => {
                format!("these keys do not suffice to bring it back, which is proposed then and waits for others: {lacking}")
            }
        });
    }
}

fn confirm(out: &Out, args: &RunArgs) -> Result<(), Failure> {
    if args.yes {
        return Ok(());
    }
    if out.json() || !std::io::stdin().is_terminal() {
        return Err(Failure::usage("a drill stops what runs, and nobody can be asked here: add --yes"));
    }
    match asked("stop it now? [y/N] ")?.as_str() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(Failure::new(Exit::Failed, "not-confirmed", "nothing was stopped")),
    }
}

/// The first of `signers` who may stop the scope: who places the lock, and who says afterwards what it reached.
fn who_may_stop<'a>(
    session: &Session<'_>,
    scope: &Scope,
    signers: &'a [Signer],
) -> Result<&'a Signer, Failure> {
    let may = |signer: &&Signer| {
        let alone = session.assumed(slice::from_ref(*signer));
        session.authority().authorise(ActionKind::Stop, scope, &alone).is_ok()
    };
    match signers.iter().find(may) {
        Some(signer) => Ok(signer),
        None => {
            let all = session.assumed(signers);
            let refused = session.authority().authorise(ActionKind::Stop, scope, &all);
            Err(refused
                .err()
                .map_or_else(|| Failure::usage("no key signs this: give --key FILE"), Failure::from))
        }
    }
}

/// What `signers` lack to bring the scope back, if others can add it. A drill that they could not even propose to end is
/// not begun.
fn what_it_lacks(
    session: &Session<'_>,
    scope: &Scope,
    signers: &[Signer],
) -> Result<Option<Unauthorised>, Failure> {
    let all = session.assumed(signers);
    for action in [ActionKind::Release, ActionKind::Start] {
        match session.authority().authorise(action, scope, &all) {
            Ok(()) => {}
            Err(lacking @ Unauthorised::BelowThreshold { .. }) => return Ok(Some(lacking)),
            Err(refused) => {
                let mut failure = Failure::from(refused);
                failure.problem.detail.push_str("; a drill brings back what it stops, so it was not begun");
                return Err(failure);
            }
        }
    }
    Ok(None)
}

/// S2: the release and then the start, and both name the drill's lock and no other.
fn bring_back(
    session: &Session<'_>,
    scope: &Scope,
    lock: Digest,
    reason: &str,
    signers: &[Signer],
) -> Result<(Gift, Exit), Failure> {
    let (locks, reason) = (LockSet::Ids(vec![lock]), format!("after the drill: {reason}"));
    let release =
        Release { scope: scope.clone(), locks: locks.clone(), lost_from: None, reason: reason.clone() };
    let start = Start { scope: scope.clone(), locks, reason };
    let sign = |action| Ok((session.sign_loosening(action, signers)?, Vec::new()));
    let signed: Result<Vec<_>, Failure> =
        [Action::Release(release), Action::Start(start)].into_iter().map(sign).collect();
    send_each(session, signed?)
}

fn wait_for_others(session: &Session<'_>, scope: &Scope, lock: &Digest, gift: &Gift) -> Result<(), Failure> {
    session.out.line("waiting for the others; whoever ends this command leaves it stopped");
    let (begun, mut refused) = (Instant::now(), 0);
    loop {
        match look(session, scope, lock, gift) {
            Ok(Look::Back) => return Ok(()),
            Ok(Look::Open) => refused = 0,
            // Nodes are not all at the same entry: one may know of the release, and another one not yet.
            Ok(Look::Refused) if refused < LAG_LOOKS => refused += 1,
            Ok(Look::Refused) => {
                return Err(not_resumed(scope, lock, "what would bring it back was refused"));
            }
            // Somebody signs all the same while this machine reaches no node.
            Err(failure) if failure.exit == Exit::Unreachable => {}
            Err(failure) => return Err(failure),
        }
        if begun.elapsed() > Duration::from_millis(PROPOSAL_TTL_MS) {
            let why = format!("nobody brought it back within {}", span(PROPOSAL_TTL_MS));
            return Err(not_resumed(scope, lock, &why));
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

enum Look {
    Back,
    /// Others may still sign.
    Open,
    Refused,
}

fn look(session: &Session<'_>, scope: &Scope, lock: &Digest, gift: &Gift) -> Result<Look, Failure> {
    let open = session.client.proposals(scope)?.proposals;
    let locks = session.client.locks(scope)?.locks;
    let Some(record) = locks.iter().find(|record| record.lock.id == *lock) else { return Ok(Look::Back) };
    let refused = gift.proposals.iter().map(|proposed| &proposed.proposal).any(|proposal| {
        let done = proposal.action == ActionKind::Release && record.lock.released;
        !done && !open.iter().any(|other| other.id == proposal.id)
    });
    Ok(if refused { Look::Refused } else { Look::Open })
}

fn not_resumed(scope: &Scope, lock: &Digest, why: &str) -> Failure {
    let detail = format!(
        "{why}, and {scope} stays stopped: tagout resume {scope} --reason WHY, then tagout drill finish {}",
        lock.short()
    );
    Failure::new(Exit::MissingSignatures, "not-resumed", detail)
}
