//! `tagout release`, `start` and `resume`: how an agent runs again. Release and start both name the locks (S2).

use std::collections::BTreeSet;
use std::io::{IsTerminal, Write};

use clap::Args;
use tagout_proto::command::{Action, ActionKind, LockSet, Release, Start};
use tagout_proto::digest::Digest;
use tagout_proto::ledger::{LockRecord, bulk_list, bulk_locks};
use tagout_proto::limits::{BULK_LOCKS_MAX, LOCK_IDS_MAX};
use tagout_proto::scope::Scope;

use super::failure::{Exit, Failure};
use super::out::{Ink, Out, count};
use super::session::{Gift, Session};
use super::signing::Signed;
use super::{Globals, KeyArgs};
use super::{proposals, status};

#[derive(Args)]
pub struct LocksArgs {
    /// Lock ids, or their first 12 digits
    #[arg(required_unless_present = "scope", conflicts_with = "scope", value_name = "LOCK")]
    locks: Vec<String>,
    /// All locks on this scope and below it
    #[arg(long)]
    scope: Option<Scope>,
    #[command(flatten)]
    many: ManyArgs,
    /// Why
    #[arg(long)]
    reason: String,
    #[command(flatten)]
    keys: KeyArgs,
}

/// For locks of which there are many.
#[derive(Args)]
struct ManyArgs {
    /// Only locks that this principal placed, such as an automation that ran wild
    #[arg(long, value_name = "NAME", conflicts_with = "locks")]
    by: Option<String>,
    /// Name the locks in one document, by their number and root; more than 400 are named so anyway
    #[arg(long, conflicts_with = "locks")]
    bulk: bool,
}

#[derive(Args)]
pub struct ReleaseArgs {
    #[command(flatten)]
    locks: LocksArgs,
    #[command(flatten)]
    lost: LostArgs,
}

#[derive(Args)]
struct LostArgs {
    /// To release the lock of a restore: the entry from which on locks may be lost, as `tagout status` shows it
    #[arg(long, value_name = "ENTRY")]
    lost_from: Option<u64>,
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
    /// Also every lock below it
    #[arg(long)]
    below: bool,
    /// Only locks that this principal placed, such as an automation that ran wild
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
    /// Name the locks in one document, by their number and root; more than 400 are named so anyway
    #[arg(long)]
    bulk: bool,
    /// Why
    #[arg(long)]
    reason: String,
    #[command(flatten)]
    lost: LostArgs,
    #[command(flatten)]
    keys: KeyArgs,
}

pub fn release(out: &Out, globals: &Globals, args: ReleaseArgs) -> Result<Exit, Failure> {
    let session = Session::open(out, globals)?;
    let ReleaseArgs { locks: args, lost } = args;
    let chosen = Chosen::of(&session, &args, |lock| !lock.lock.released, "unreleased")?;
    confirm_lost(out, &chosen.locks, lost.lost_from)?;
    let documents = chosen.documents(ActionKind::Release, args.scope.as_ref());
    let commands = documents.into_iter().map(|document| document.release(&args.reason));
    let exit = send_all(&session, commands.collect(), &args.keys)?;
    if exit == Exit::Ok && chosen.locks.iter().any(|lock| lock.lock.kind.needs_start()) {
        out.line(
            "nothing runs again yet: what was halted or drained needs a `tagout start` that names the lock",
        );
    }
    Ok(exit)
}

pub fn start(out: &Out, globals: &Globals, args: StartArgs) -> Result<Exit, Failure> {
    let session = Session::open(out, globals)?;
    let (wave, args) = (args.wave, args.locks);
    let startable = |lock: &LockRecord| lock.lock.released && lock.lock.kind.needs_start();
    let chosen = Chosen::of(&session, &args, startable, "released")?;
    let documents = chosen.documents(ActionKind::Start, wave.as_ref().or(args.scope.as_ref()));
    let commands = documents.into_iter().map(|document| document.start(&args.reason));
    send_all(&session, commands.collect(), &args.keys)
}

pub fn resume(out: &Out, globals: &Globals, args: ResumeArgs) -> Result<Exit, Failure> {
    let session = Session::open(out, globals)?;
    let scope = &args.scope;
    let naming = Naming { bulk: args.bulk, before: session.checkpoint_to_sign_on()?.size, by: args.by };
    let touching = session.client.locks(scope)?.locks;
    let topmost = topmost(scope, &touching);
    // A bulk release of a scope above names what lies beside this one too, and so must be looked at.
    let all = if topmost == *scope { touching.clone() } else { session.client.locks(&topmost)?.locks };
    let ceremony = Ceremony::plan(scope, &args.reason, touching, &all, args.below, &naming);
    if ceremony.blocking.is_empty() {
        if !ceremony.staying.is_empty() {
            return Err(nothing_to_resume(scope, naming.by.as_deref(), &ceremony.staying));
        }
        out.document(&serde_json::json!({ "scope": scope, "commands": [], "below": ceremony.staying }));
        out.line(format!(
            "no lock holds {scope}; if it does not run, it lacks consent: `tagout grant {scope} --for 72h`"
        ));
        return Ok(Exit::Ok);
    }
    let and_below = if args.below { ", above or below" } else { " or above" };
    out.line(format!("{} on{and_below} {scope}:", count(ceremony.blocking.len() as u64, "lock")));
    status::say_some(out, &ceremony.blocking);
    if !ceremony.staying.is_empty() {
        let staying = count(ceremony.staying.len() as u64, "other lock");
        out.line(format!(
            "{} {staying} on it, above it or below it stay in place:",
            out.ink(Ink::Yellow, "note:")
        ));
        status::say_some(out, &ceremony.staying);
    }
    confirm_lost(out, &ceremony.blocking, args.lost.lost_from)?;
    let commands = ceremony.release.into_iter().chain(ceremony.start).collect();
    let exit = send_all(&session, commands, &args.keys)?;
    if exit == Exit::Ok
        && !scope.is_fleet()
        && ceremony.blocking.iter().any(|record| record.lost_from.is_some())
    {
        out.line("the rest of the fleet stays halted by the restore until it is resumed, too: scope by scope, or all of it as '*'");
        out.line(format!("no grant of before the restore holds: without one since, {scope} does not run"));
    }
    Ok(exit)
}

/// S1: whoever releases a restore's lock says, signed, what may be lost. It is asked for, or given beforehand.
fn confirm_lost(out: &Out, locks: &[LockRecord], given: Option<u64>) -> Result<(), Failure> {
    let unreleased = locks.iter().filter(|record| !record.lock.released);
    let lost: BTreeSet<u64> = unreleased.filter_map(|record| record.lost_from).collect();
    for lost_from in &lost {
        let what = format!(
            "a restore placed one of these locks, the halt of the whole fleet: other locks that were placed at entry {lost_from} or \
             later may be lost, unless guards, pending stores or files hold them"
        );
        let confirmed = match given {
            Some(given) => given == *lost_from,
            None if std::io::stdin().is_terminal() && !out.json() => {
                out.line(what.as_str());
                asked(&format!("type {lost_from} to release it all the same: "))? == lost_from.to_string()
            }
            None => false,
        };
        if !confirmed {
            return Err(Failure::usage(format!("{what}. If that is known, add --lost-from {lost_from}")));
        }
    }
    match given {
        // It was said before, where such a lock only waits to be started here.
        Some(_) if locks.iter().all(|record| record.lost_from.is_none()) => {
            Err(Failure::usage("none of these locks is a restore's: leave --lost-from out"))
        }
        _ => Ok(()),
    }
}

pub(super) fn asked(question: &str) -> Result<String, Failure> {
    let mut answer = String::new();
    let _ = write!(std::io::stderr(), "{question}");
    let read = std::io::stdin().read_line(&mut answer);
    read.map_err(|e| Failure::new(Exit::Failed, "question", format!("no answer could be read: {e}")))?;
    Ok(answer.trim().into())
}

/// Locks that a sentence names one by one; `status` shows all of them.
const NAMED_MAX: usize = 10;

/// Nothing holds the scope itself, so that there is nothing to resume: its parts are resumed one by one.
fn nothing_to_resume(scope: &Scope, by: Option<&str>, below: &[LockRecord]) -> Failure {
    let named = below.iter().take(NAMED_MAX).map(|r| format!("{} {}", r.lock.scope, r.lock.id.short()));
    let mut named: Vec<_> = named.collect();
    if below.len() > NAMED_MAX {
        named.push(format!("and {} more, see `tagout status {scope}`", below.len() - NAMED_MAX));
    }
    let (locks, named) = (count(below.len() as u64, "lock"), named.join(", "));
    let detail = match by {
        Some(by) => format!("{by} placed no lock on or above {scope} that holds it; {locks} there: {named}"),
        None => format!(
            "no lock on or above {scope} holds it; {locks} below it: {named}; resume those, or all with --below"
        ),
    };
    Failure::new(Exit::Failed, "no-locks", detail)
}

/// Signs every command before the first one is sent, so that nothing is half done for want of a signature: what has too few
/// is proposed.
fn send_all(session: &Session<'_>, commands: Vec<Action>, keys: &KeyArgs) -> Result<Exit, Failure> {
    let signers = session.signers(keys)?;
    let sign = |action| session.sign_loosening(action, &signers);
    let signed: Vec<Signed> = commands.into_iter().map(sign).collect::<Result<_, _>>()?;
    proposals::check_not_proposed(session, &signed)?;
    let gift = send_each(session, signed.into_iter().map(|signed| (signed, Vec::new())).collect())?;
    session.out.document(&gift.0);
    Ok(gift.1)
}

/// Sends one command after the other, each with those who had signed it before.
pub(super) fn send_each(
    session: &Session<'_>,
    signed: Vec<(Signed, Vec<String>)>,
) -> Result<(Gift, Exit), Failure> {
    let mut sent = Vec::new();
    for (signed, before) in signed {
        let given = session.give(&signed, &before).map_err(|mut failure| {
            if !sent.is_empty() {
                let before = count(sent.len() as u64, "command");
                let detail = &mut failure.problem.detail;
                *detail = format!("{before} went through, then: {detail}. Run it again for the rest");
            }
            failure
        });
        sent.push((signed, given?));
    }
    session.prove_given(sent)
}

/// The locks that a release or start is about.
struct Chosen {
    locks: Vec<LockRecord>,
    /// All that touch their scope: what nodes compare a bulk list with.
    all: Vec<LockRecord>,
    naming: Naming,
}

impl Chosen {
    /// The locks that were named, or all below the scope that are in the wanted state.
    fn of(
        session: &Session<'_>,
        args: &LocksArgs,
        wanted: impl Fn(&LockRecord) -> bool,
        state: &str,
    ) -> Result<Self, Failure> {
        let (fleet, by) = (Scope::fleet(), args.many.by.clone());
        // First the checkpoint: a bulk list holds what lies before it.
        let naming = Naming { bulk: args.many.bulk, before: session.checkpoint_to_sign_on()?.size, by };
        let all = session.client.locks(args.scope.as_ref().unwrap_or(&fleet))?.locks;
        let locks: Vec<_> = match &args.scope {
            Some(scope) => {
                let below = |lock: &&LockRecord| {
                    scope.covers(&lock.lock.scope) && wanted(lock) && naming.placed(lock)
                };
                all.iter().filter(below).cloned().collect()
            }
            None => named(&args.locks, &all)?,
        };
        if locks.is_empty() {
            let scope = args.scope.as_ref().unwrap_or(&fleet);
            let by = naming.by.as_ref().map(|by| format!(" that {by} placed")).unwrap_or_default();
            let detail =
                format!("{scope} has no {state} locks{by}; `tagout status {scope}` shows what holds it");
            return Err(Failure::new(Exit::Failed, "no-locks", detail));
        }
        session.out.line(format!("{}:", count(locks.len() as u64, "lock")));
        status::say_some(session.out, &locks);
        Ok(Self { locks, all, naming })
    }

    /// For `scope` if there is one, or for the locks' own scopes.
    fn documents(&self, action: ActionKind, scope: Option<&Scope>) -> Vec<Document> {
        let mut groups: Vec<(&Scope, Vec<LockRecord>)> = Vec::new();
        for record in &self.locks {
            let scope = scope.unwrap_or(&record.lock.scope);
            match groups.iter_mut().find(|(s, _)| *s == scope) {
                Some((_, locks)) => locks.push(record.clone()),
                None => groups.push((scope, vec![record.clone()])),
            }
        }
        let documents =
            |(scope, locks): (&Scope, Vec<_>)| self.naming.documents(action, scope, &locks, &self.all);
        groups.into_iter().flat_map(documents).collect()
    }
}

/// How documents name locks: one by one, or many by their root.
#[derive(Debug)]
struct Naming {
    bulk: bool,
    before: u64,
    by: Option<String>,
}

/// A release or start, but for its reason.
#[derive(Debug)]
struct Document {
    scope: Scope,
    locks: LockSet,
    lost_from: Option<u64>,
}

impl Document {
    fn release(self, reason: &str) -> Action {
        let Self { scope, locks, lost_from } = self;
        Action::Release(Release { scope, locks, lost_from, reason: reason.into() })
    }

    fn start(self, reason: &str) -> Action {
        Action::Start(Start { scope: self.scope, locks: self.locks, reason: reason.into() })
    }
}

impl Naming {
    /// Whether the lock is one by the principal in question.
    fn placed(&self, record: &LockRecord) -> bool {
        self.by.as_ref().is_none_or(|by| record.lock.tag.by.contains(by))
    }

    /// The documents that name `locks`, as few as possible.
    fn documents(
        &self,
        action: ActionKind,
        scope: &Scope,
        locks: &[LockRecord],
        all: &[LockRecord],
    ) -> Vec<Document> {
        let mut documents = Vec::new();
        let lost: BTreeSet<Option<u64>> = locks.iter().map(|record| record.lost_from).collect();
        let restores = lost.iter().flatten().count();
        // One document says of one restore what may be lost.
        let groups: Vec<(Option<u64>, Vec<Digest>)> = if restores <= 1 {
            vec![(lost.last().copied().flatten(), locks.iter().map(|record| record.lock.id).collect())]
        } else {
            let of = |lost| locks.iter().filter(move |r| r.lost_from == lost).map(|r| r.lock.id);
            lost.iter().map(|lost| (*lost, of(*lost).collect())).collect()
        };
        for (lost_from, ids) in groups {
            for locks in self.sets(action, scope, ids, all) {
                documents.push(Document { scope: scope.clone(), locks, lost_from });
            }
        }
        documents
    }

    fn sets(&self, action: ActionKind, scope: &Scope, ids: Vec<Digest>, all: &[LockRecord]) -> Vec<LockSet> {
        if !self.bulk && ids.len() <= LOCK_IDS_MAX {
            return vec![LockSet::Ids(ids)];
        }
        let mut sets = Vec::new();
        let mut rest: Vec<Digest> = ids.clone();
        let listed = bulk_list(action, scope, self.before, self.by.as_deref(), all);
        let wanted: BTreeSet<&Digest> = ids.iter().collect();
        let fits = !listed.is_empty() && listed.len() as u64 <= BULK_LOCKS_MAX;
        // Where the list that follows from the log holds others too, the locks are named one by one.
        if fits && listed.iter().all(|id| wanted.contains(id)) {
            sets.push(LockSet::Bulk(bulk_locks(&listed, self.before, self.by.clone())));
            // What was placed since the checkpoint is not in the list.
            let listed: BTreeSet<Digest> = listed.into_iter().collect();
            rest.retain(|id| !listed.contains(id));
        }
        sets.extend(rest.chunks(LOCK_IDS_MAX).map(|ids| LockSet::Ids(ids.to_vec())));
        sets
    }
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

/// The topmost scope of the unreleased locks on `scope` or above it: they lie on one path up to the fleet.
fn topmost(scope: &Scope, touching: &[LockRecord]) -> Scope {
    let unreleased = touching.iter().filter(|r| !r.lock.released && r.lock.scope.covers(scope));
    let topmost = unreleased.map(|r| &r.lock.scope).min_by_key(|s| s.upward().count());
    topmost.unwrap_or(scope).clone()
}

/// All that keeps a scope from running, and what takes it away.
#[derive(Debug)]
struct Ceremony {
    blocking: Vec<LockRecord>,
    /// Locks that are not meant: below the scope, or by others.
    staying: Vec<LockRecord>,
    release: Vec<Action>,
    start: Vec<Action>,
}

impl Ceremony {
    /// `all` are the locks that touch the topmost scope of those.
    fn plan(
        scope: &Scope,
        reason: &str,
        touching: Vec<LockRecord>,
        all: &[LockRecord],
        below: bool,
        naming: &Naming,
    ) -> Self {
        let started = |r: &LockRecord| r.lock.released && r.started.iter().any(|wave| wave.covers(scope));
        let touching = touching.into_iter().filter(|record| !started(record));
        let (blocking, staying): (Vec<_>, Vec<_>) =
            touching.partition(|record| (below || record.lock.scope.covers(scope)) && naming.placed(record));
        let unreleased: Vec<_> = blocking.iter().filter(|r| !r.lock.released).cloned().collect();
        let release = if unreleased.is_empty() {
            Vec::new()
        } else {
            naming.documents(ActionKind::Release, &topmost(scope, &unreleased), &unreleased, all)
        };
        // The start is signed now, and names what the releases will have released by then.
        let mut released = all.to_vec();
        let ids: BTreeSet<Digest> = unreleased.iter().map(|r| r.lock.id).collect();
        released.iter_mut().filter(|r| ids.contains(&r.lock.id)).for_each(|r| r.lock.released = true);
        let halted: Vec<_> = blocking.iter().filter(|r| r.lock.kind.needs_start()).cloned().collect();
        let start = if halted.is_empty() {
            Vec::new()
        } else {
            naming.documents(ActionKind::Start, scope, &halted, &released)
        };
        let release = release.into_iter().map(|document| document.release(reason)).collect();
        let start = start.into_iter().map(|document| document.start(reason)).collect();
        Self { blocking, staying, release, start }
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
        let ceremony = plan("demo/a", records, false, &naming(None));
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
        assert_eq!(ceremony.staying.len(), 1);
    }

    #[test]
    fn a_lock_whose_wave_was_started_does_not_block() {
        let mut record = lock(1, "demo", LockKind::Halt, true);
        record.started = vec![scope("demo/a")];
        let ceremony = plan("demo/a/b", vec![record.clone()], false, &naming(None));
        assert!(ceremony.blocking.is_empty());
        let ceremony = plan("demo/c", vec![record], false, &naming(None));
        assert_eq!((ceremony.release.len(), ceremony.start.len()), (0, 1));
    }

    #[test]
    fn a_scope_of_which_only_parts_are_held_names_them() {
        let below: Vec<_> = (1..=12).map(|id| lock(id, "demo/a", LockKind::Halt, false)).collect();
        let failure = nothing_to_resume(&scope("demo"), None, &below[..2]);
        assert_eq!(failure.exit, Exit::Failed);
        assert_eq!(
            failure.to_string(),
            "no lock on or above demo holds it; 2 locks below it: demo/a 010101010101, demo/a 020202020202; resume \
             those, or all with --below"
        );
        let many = nothing_to_resume(&scope("demo"), None, &below).to_string();
        assert!(
            many.contains(
                "demo/a 0a0a0a0a0a0a, and 2 more, see `tagout status demo`; resume those, or all with --below"
            ),
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

    fn naming(by: Option<&str>) -> Naming {
        Naming { bulk: false, before: 5000, by: by.map(Into::into) }
    }

    fn plan(on: &str, records: Vec<LockRecord>, below: bool, naming: &Naming) -> Ceremony {
        Ceremony::plan(&scope(on), "why", records.clone(), &records, below, naming)
    }

    fn many(n: u64, on: &str, by: &str) -> Vec<LockRecord> {
        let one = |index: u64| {
            let mut record = lock(0, on, LockKind::Halt, false);
            (record.lock.id, record.lock.index) = (Digest::of(&index.to_be_bytes()), index);
            record.lock.tag.by = vec![by.into()];
            record
        };
        (1..=n).map(one).collect()
    }

    #[test]
    fn many_locks_are_named_by_their_root_and_too_few_for_that_one_by_one() {
        let ceremony = plan("demo/a", many(1000, "demo/a", "soar"), false, &naming(None));
        let ([Action::Release(release)], [Action::Start(start)]) =
            (&ceremony.release[..], &ceremony.start[..])
        else {
            panic!("{ceremony:?}")
        };
        let LockSet::Bulk(bulk) = &release.locks else { panic!("{release:?}") };
        assert_eq!((bulk.count, bulk.before, &bulk.by), (1000, 5000, &None));
        assert_eq!(start.locks, release.locks, "both name the same thousand");
        let few = plan("demo/a", many(400, "demo/a", "soar"), false, &naming(None));
        assert_eq!((few.release.len(), few.start.len()), (1, 1));
        let bulk = Naming { bulk: true, ..naming(None) };
        let few = plan("demo/a", many(3, "demo/a", "soar"), false, &bulk);
        assert!(matches!(&few.release[..], [Action::Release(r)] if matches!(r.locks, LockSet::Bulk(_))));
    }

    #[test]
    fn a_bulk_list_never_names_more_than_was_meant() {
        // What lies below is not meant, and a bulk list of the scope would hold it: so three times up to 400 ids.
        let mut records = many(1000, "demo/a", "soar");
        records.push(lock(9, "demo/a/b", LockKind::Halt, false));
        let ceremony = plan("demo/a", records.clone(), false, &naming(None));
        assert_eq!((ceremony.release.len(), ceremony.staying.len()), (3, 1));
        // With all below it is one again, and with only those of the automation too.
        assert_eq!(plan("demo/a", records.clone(), true, &naming(None)).release.len(), 1);
        let by_soar = plan("demo/a", records, true, &naming(Some("soar")));
        assert_eq!((by_soar.release.len(), by_soar.start.len(), by_soar.staying.len()), (1, 1, 1));
        // What came after the checkpoint is named one by one.
        let before = Naming { before: 991, ..naming(None) };
        let ceremony = plan("demo/a", many(1000, "demo/a", "soar"), false, &before);
        let counts = ceremony.release.iter().map(|action| match action {
            Action::Release(release) => release.locks.count(),
            other => panic!("{other:?}"),
        });
        assert_eq!(counts.collect::<Vec<_>>(), [990, 10]);
    }

    #[test]
    fn s1_the_release_of_a_restores_lock_says_what_may_be_lost() {
        let mut records = vec![lock(1, "*", LockKind::Halt, false), lock(2, "*", LockKind::Halt, false)];
        records[0].lost_from = Some(40);
        let ceremony = plan("*", records.clone(), false, &naming(None));
        assert!(matches!(&ceremony.release[..], [Action::Release(r)] if r.lost_from == Some(40)));
        let out = Out::new(true);
        let asked = confirm_lost(&out, &records, None).unwrap_err();
        assert!(asked.exit == Exit::Usage && asked.to_string().ends_with("add --lost-from 40"), "{asked}");
        assert!(confirm_lost(&out, &records, Some(41)).is_err());
        confirm_lost(&out, &records, Some(40)).unwrap();
        assert!(
            confirm_lost(&out, &records[1..], Some(40))
                .unwrap_err()
                .to_string()
                .contains("leave --lost-from out")
        );
        confirm_lost(&out, &records[1..], None).unwrap();
        let mut released = records[..1].to_vec();
        released[0].lock.released = true;
        confirm_lost(&out, &released, None).unwrap();
        confirm_lost(&out, &released, Some(40)).unwrap();
        // Two restores: each is said in a document of its own.
        records[1].lost_from = Some(50);
        let lost: Vec<_> = plan("*", records, false, &naming(None))
            .release
            .into_iter()
            .map(|action| match action {
                Action::Release(release) => release.lost_from,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(lost, [Some(40), Some(50)]);
    }
}
