//! `tagout release`, `start` and `resume`: how an agent runs again. Release and start both name the locks (S2).

use clap::Args;
use serde::Serialize;
use tagout_proto::command::{Action, LockSet, Release, Start};
use tagout_proto::digest::Digest;
use tagout_proto::ledger::LockRecord;
use tagout_proto::limits::LOCK_IDS_MAX;
use tagout_proto::scope::Scope;
use tagout_proto::wire::CommandAnswer;

use super::failure::{Exit, Failure};
use super::out::{Ink, Out, count};
use super::session::{Place, Session};
use super::signing::Signed;
use super::status;
use super::{Globals, KeyArgs};

#[derive(Args)]
pub struct LocksArgs {
    /// Lock ids, or their first 12 digits
    #[arg(required_unless_present = "scope", conflicts_with = "scope", value_name = "LOCK")]
    locks: Vec<String>,
    /// All locks on this scope and below it
    #[arg(long)]
    scope: Option<Scope>,
    /// Why
    #[arg(long)]
    reason: String,
    #[command(flatten)]
    keys: KeyArgs,
}

#[derive(Args)]
pub struct StartArgs {
    #[command(flatten)]
    locks: LocksArgs,
    /// Start only this part of the locks' scope, as one of several waves
    #[arg(long, value_name = "SCOPE", conflicts_with = "scope")]
    wave: Option<Scope>,
}

#[derive(Args)]
pub struct ResumeArgs {
    /// What shall run again: every lock on it and above it is released, and it is started
    scope: Scope,
    /// Why
    #[arg(long)]
    reason: String,
    #[command(flatten)]
    keys: KeyArgs,
}

/// A command that took effect, for programs.
#[derive(Serialize)]
struct Done {
    #[serde(flatten)]
    answer: CommandAnswer,
    log: Place,
}

pub fn release(out: &Out, globals: &Globals, args: LocksArgs) -> Result<Exit, Failure> {
    let session = Session::open(out, globals)?;
    let locks = chosen(&session, &args, |lock| !lock.lock.released, "unreleased")?;
    let commands = by_scope(args.scope.as_ref(), &locks)?
        .into_iter()
        .map(|(scope, locks)| release_of(scope, locks, &args.reason));
    send_all(&session, commands.collect(), &args.keys)?;
    if locks.iter().any(|lock| lock.lock.kind.needs_start()) {
        out.line(
            "nothing runs again yet: what was halted or drained needs a `tagout start` that names the lock",
        );
    }
    Ok(Exit::Ok)
}

pub fn start(out: &Out, globals: &Globals, args: StartArgs) -> Result<Exit, Failure> {
    let session = Session::open(out, globals)?;
    let (wave, args) = (args.wave, args.locks);
    let locks = chosen(&session, &args, |lock| lock.lock.released, "released")?;
    let scope = wave.as_ref().or(args.scope.as_ref());
    let commands =
        by_scope(scope, &locks)?.into_iter().map(|(scope, locks)| start_of(scope, locks, &args.reason));
    send_all(&session, commands.collect(), &args.keys)?;
    Ok(Exit::Ok)
}

pub fn resume(out: &Out, globals: &Globals, args: ResumeArgs) -> Result<Exit, Failure> {
    let session = Session::open(out, globals)?;
    let touching = session.client.locks(&args.scope)?;
    let ceremony = Ceremony::plan(&args.scope, &args.reason, touching.locks)?;
    if ceremony.blocking.is_empty() {
        let scope = &args.scope;
        if !ceremony.below.is_empty() {
            return Err(only_below(scope, &ceremony.below));
        }
        out.document(&serde_json::json!({ "scope": scope, "commands": [], "below": ceremony.below }));
        out.line(format!(
            "no lock holds {scope}; if it does not run, it lacks consent: `tagout grant {scope} --for 72h`"
        ));
        return Ok(Exit::Ok);
    }
    out.line(format!("{} on or above {}:", count(ceremony.blocking.len() as u64, "lock"), args.scope));
    status::say_records(out, &ceremony.blocking);
    if !ceremony.below.is_empty() {
        let below = count(ceremony.below.len() as u64, "lock");
        out.line(format!("{} {below} below it stay in place:", out.ink(Ink::Yellow, "note:")));
        status::say_records(out, &ceremony.below);
    }
    let commands = ceremony.release.into_iter().chain(ceremony.start).collect();
    send_all(&session, commands, &args.keys)?;
    Ok(Exit::Ok)
}

/// Locks that a sentence names one by one; `status` shows all of them.
const NAMED_MAX: usize = 10;

/// Nothing holds the scope itself, so that there is nothing to resume: its parts are resumed one by one.
fn only_below(scope: &Scope, below: &[LockRecord]) -> Failure {
    let named = below.iter().take(NAMED_MAX).map(|r| format!("{} {}", r.lock.scope, r.lock.id.short()));
    let mut named: Vec<_> = named.collect();
    if below.len() > NAMED_MAX {
        named.push(format!("and {} more, see `tagout status {scope}`", below.len() - NAMED_MAX));
    }
    let (locks, named) = (count(below.len() as u64, "lock"), named.join(", "));
    let detail = format!("no lock on or above {scope} holds it; {locks} below it: {named}; resume those");
    Failure::new(Exit::Failed, "no-locks", detail)
}

/// Signs every command before the first one is sent, so that nothing is half done for want of a signature.
fn send_all(session: &Session<'_>, commands: Vec<Action>, keys: &KeyArgs) -> Result<(), Failure> {
    let status = session.client.status()?;
    let signers = session.signers(keys)?;
    let sign = |action| session.sign_loosening(action, &signers, &status);
    let signed: Vec<Signed> = commands.into_iter().map(sign).collect::<Result<_, _>>()?;
    let mut answers = Vec::new();
    for signed in &signed {
        let sent = session.send_said(signed).map_err(|mut failure| {
            if !answers.is_empty() {
                let before = count(answers.len() as u64, "command");
                let detail = &mut failure.problem.detail;
                *detail = format!("{before} took effect, then: {detail}. Run it again for the rest");
            }
            failure
        });
        answers.push(sent?);
    }
    let mut done = Vec::new();
    for (signed, answer) in signed.iter().zip(answers) {
        let log = session.prove(answer.index, &signed.envelope)?;
        session.say_place(&log);
        done.push(Done { answer, log });
    }
    session.out.document(&serde_json::json!({ "commands": done }));
    Ok(())
}

/// The locks that were named, or all below the scope that were not in the wanted state already.
fn chosen(
    session: &Session<'_>,
    args: &LocksArgs,
    wanted: impl Fn(&LockRecord) -> bool,
    state: &str,
) -> Result<Vec<LockRecord>, Failure> {
    let fleet = Scope::fleet();
    let records = session.client.locks(args.scope.as_ref().unwrap_or(&fleet))?.locks;
    let locks = match &args.scope {
        Some(scope) => {
            let below = |lock: &LockRecord| scope.covers(&lock.lock.scope) && wanted(lock);
            records.into_iter().filter(below).collect()
        }
        None => named(&args.locks, &records)?,
    };
    if locks.is_empty() {
        let scope = args.scope.as_ref().unwrap_or(&fleet);
        let detail = format!("{scope} has no {state} locks; `tagout status {scope}` shows what holds it");
        return Err(Failure::new(Exit::Failed, "no-locks", detail));
    }
    session.out.line(format!("{}:", count(locks.len() as u64, "lock")));
    status::say_records(session.out, &locks);
    Ok(locks)
}

/// Finds locks by their ids or by the beginnings that `status` shows.
fn named(ids: &[String], records: &[LockRecord]) -> Result<Vec<LockRecord>, Failure> {
    let no_lock = |id: &str| {
        let detail = format!("no lock {id} is in force; `tagout status` lists those that are");
        Failure::new(Exit::Failed, "no-such-lock", detail)
    };
    let mut found: Vec<LockRecord> = Vec::new();
    for id in ids {
        if id.len() < Digest::default().short().len() {
            return Err(Failure::usage(format!(
                "{id:?} is too short for a lock id: give its first 12 digits or all 64"
            )));
        }
        let mut matching =
            records.iter().filter(|record| record.lock.id.to_string().starts_with(id.as_str()));
        let record = matching.next().ok_or_else(|| no_lock(id))?;
        if matching.next().is_some() {
            return Err(Failure::usage(format!("several locks begin with {id}: give all 64 digits")));
        }
        if !found.iter().any(|known| known.lock.id == record.lock.id) {
            found.push(record.clone());
        }
    }
    Ok(found)
}

fn release_of(scope: Scope, locks: Vec<Digest>, reason: &str) -> Action {
    let locks = LockSet::Ids(locks);
    Action::Release(Release { scope, locks, lost_from: None, reason: reason.into() })
}

fn start_of(scope: Scope, locks: Vec<Digest>, reason: &str) -> Action {
    Action::Start(Start { scope, locks: LockSet::Ids(locks), reason: reason.into() })
}

/// One command per scope and per 400 locks, for `scope` if one was named, or for the locks' own scopes.
fn by_scope(scope: Option<&Scope>, locks: &[LockRecord]) -> Result<Vec<(Scope, Vec<Digest>)>, Failure> {
    let mut commands: Vec<(Scope, Vec<Digest>)> = Vec::new();
    for record in locks {
        let scope = scope.unwrap_or(&record.lock.scope);
        match commands.iter_mut().rev().find(|(s, ids)| s == scope && ids.len() < LOCK_IDS_MAX) {
            Some((_, ids)) => ids.push(record.lock.id),
            None => commands.push((scope.clone(), vec![record.lock.id])),
        }
    }
    Ok(commands)
}

/// All that keeps a scope from running, and what takes it away.
#[derive(Debug)]
struct Ceremony {
    blocking: Vec<LockRecord>,
    /// Locks below the scope, which hold only parts of it and stay.
    below: Vec<LockRecord>,
    release: Vec<Action>,
    start: Vec<Action>,
}

impl Ceremony {
    fn plan(scope: &Scope, reason: &str, touching: Vec<LockRecord>) -> Result<Self, Failure> {
        let (above, below): (Vec<_>, Vec<_>) =
            touching.into_iter().partition(|record| record.lock.scope.covers(scope));
        let started = |r: &LockRecord| r.lock.released && r.started.iter().any(|wave| wave.covers(scope));
        let blocking: Vec<_> = above.into_iter().filter(|record| !started(record)).collect();

        let unreleased: Vec<_> = blocking.iter().filter(|r| !r.lock.released).cloned().collect();
        // They lie on one path up to the fleet, so the topmost scope covers all.
        let topmost = unreleased.iter().map(|r| &r.lock.scope).min_by_key(|s| s.upward().count()).cloned();
        let release = by_scope(topmost.as_ref(), &unreleased)?
            .into_iter()
            .map(|(scope, locks)| release_of(scope, locks, reason));
        let halted: Vec<_> = blocking.iter().filter(|r| r.lock.kind.needs_start()).cloned().collect();
        let start =
            by_scope(Some(scope), &halted)?.into_iter().map(|(scope, locks)| start_of(scope, locks, reason));
        let (release, start) = (release.collect(), start.collect());
        Ok(Self { blocking, below, release, start })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tagout_proto::lock::LockKind;
    use tagout_proto::view::{LockView, Tag};

    fn scope(text: &str) -> Scope {
        Scope::parse(text).unwrap()
    }

    fn lock(id: u8, on: &str, kind: LockKind, released: bool) -> LockRecord {
        let tag = Tag { reason: "r".into(), by: vec!["alice".into()], case: None };
        let id_and_index = (Digest([id; 32]), u64::from(id));
        let (id, index) = id_and_index;
        let lock = LockView { id, scope: scope(on), kind, index, time_ms: 0, released, tag };
        LockRecord { lock, started: vec![], lost_from: None }
    }

    #[test]
    fn a_ceremony_releases_all_that_blocks_and_starts_what_was_halted() {
        let records = vec![
            lock(1, "*", LockKind::Pause, false),
            lock(2, "demo", LockKind::Halt, false),
            lock(3, "demo/a", LockKind::Halt, true),
            lock(4, "demo/a/b", LockKind::Halt, false),
        ];
        let ceremony = Ceremony::plan(&scope("demo/a"), "why", records).unwrap();
        let [Action::Release(release)] = &ceremony.release[..] else { panic!("{ceremony:?}") };
        assert_eq!(release.scope, Scope::fleet());
        assert_eq!(release.locks, LockSet::Ids(vec![Digest([1; 32]), Digest([2; 32])]));
        let [Action::Start(start)] = &ceremony.start[..] else { panic!("{ceremony:?}") };
        assert_eq!(start.scope, scope("demo/a"));
        assert_eq!(
            start.locks,
            LockSet::Ids(vec![Digest([2; 32]), Digest([3; 32])]),
            "a pause takes no start"
        );
        assert_eq!(ceremony.below.len(), 1);
    }

    #[test]
    fn a_lock_whose_wave_was_started_does_not_block() {
        let mut record = lock(1, "demo", LockKind::Halt, true);
        record.started = vec![scope("demo/a")];
        let ceremony = Ceremony::plan(&scope("demo/a/b"), "why", vec![record.clone()]).unwrap();
        assert!(ceremony.blocking.is_empty());
        let ceremony = Ceremony::plan(&scope("demo/c"), "why", vec![record]).unwrap();
        assert_eq!((ceremony.release.len(), ceremony.start.len()), (0, 1));
    }

    #[test]
    fn a_scope_of_which_only_parts_are_held_names_them() {
        let below: Vec<_> = (1..=12).map(|id| lock(id, "demo/a", LockKind::Halt, false)).collect();
        let failure = only_below(&scope("demo"), &below[..2]);
        assert_eq!(failure.exit, Exit::Failed);
        assert_eq!(
            failure.to_string(),
            "no lock on or above demo holds it; 2 locks below it: demo/a 010101010101, demo/a 020202020202; resume those"
        );
        let many = only_below(&scope("demo"), &below).to_string();
        assert!(
            many.contains("demo/a 0a0a0a0a0a0a, and 2 more, see `tagout status demo`; resume those"),
            "{many}"
        );
    }

    #[test]
    fn locks_are_found_by_their_beginnings() {
        let records = [lock(1, "a", LockKind::Halt, false), lock(2, "b", LockKind::Halt, false)];
        let find = |ids: &[&str]| named(&ids.iter().map(ToString::to_string).collect::<Vec<_>>(), &records);
        let full = records[0].lock.id.to_string();
        assert_eq!(find(&[&full, &full[..12]]).unwrap().len(), 1);
        assert_eq!(find(&["0202"]).unwrap_err().exit, Exit::Usage);
        assert!(find(&["ffffffffffff"]).unwrap_err().to_string().contains("tagout status"));
    }

    #[test]
    fn many_locks_become_several_commands() {
        let locks: Vec<_> = (0..=LOCK_IDS_MAX).map(|_| lock(1, "a", LockKind::Halt, false)).collect();
        let sizes: Vec<_> = by_scope(None, &locks).unwrap().iter().map(|(_, ids)| ids.len()).collect();
        assert_eq!(sizes, [LOCK_IDS_MAX, 1]);
    }
}
