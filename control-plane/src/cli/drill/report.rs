//! `tagout drill report`: what an auditor asks of the drills, all of it from the log that was verified here.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use tagout_proto::command::{Action, Command};
use tagout_proto::digest::Digest;
use tagout_proto::drill::{Drill, Drilled};
use tagout_proto::ledger::StopRecord;
use tagout_proto::log::checkpoint::Checkpoint;
use tagout_proto::log::entry::{Entry, EntryKind};
use tagout_proto::log::tile::TILE_WIDTH;
use tagout_proto::log::tree::{Frontier, leaf_hash};
use tagout_proto::scope::Scope;
use tagout_proto::strict::parse_instant_ms;
use tagout_proto::trust::Trust;

use super::evidence::{entry, listed, outcome_of};
use super::{CASE, page};
use crate::cli::Globals;
use crate::cli::backup;
use crate::cli::duration_ms;
use crate::cli::failure::{Exit, Failure};
use crate::cli::files::{quoted, replace};
use crate::cli::log::seen::Seen;
use crate::cli::log::tiles::{LogError, LogReader, TileDir, Tiles, open_checkpoint, read_checkpoint};
use crate::cli::log::verify::Replay;
use crate::cli::log::{export, verify_all};
use crate::cli::out::{Ink, Out, count, instant, now_ms, span};
use crate::cli::profile::{self, Profile};
use crate::cli::session::Session;
use crate::signers::signed_by;

/// What a drill may be late by, of the time between two, before it counts as missed: schedules are not that exact.
const LATE_PERCENT: u64 = 10;

#[derive(Args)]
pub struct ReportArgs {
    /// Only this scope, and what lies below it
    scope: Option<Scope>,
    /// What came into the log since then: an instant, or a time before now such as 90d
    #[arg(long, value_name = "TIME", value_parser = since)]
    since: Option<Since>,
    /// How often a drill was promised, such as 24h: a longer time without one is told, and is exit code 1
    #[arg(long, value_name = "TIME", value_parser = duration_ms)]
    every: Option<u64>,
    /// The limit of a confirmation: what is slower, or was silent, is told, and is exit code 1
    #[arg(long, value_name = "TIME", value_parser = duration_ms)]
    alert_over: Option<u64>,
    /// Write it as a page for people, which holds all that it shows
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// A folder with a copy of the log, such as a backup, instead of the node
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

#[derive(Clone, Copy)]
enum Since {
    Instant(u64),
    Ago(u64),
}

fn since(text: &str) -> Result<Since, String> {
    match parse_instant_ms(text) {
        Some(at_ms) => Ok(Since::Instant(at_ms)),
        None => {
            duration_ms(text).map(Since::Ago).map_err(|error| format!("{error}, or as 2026-12-01T00:00:00Z"))
        }
    }
}

#[derive(Serialize)]
pub struct Report {
    pub deployment: String,
    pub scope: Option<Scope>,
    pub since_ms: Option<u64>,
    pub generated_at_ms: u64,
    /// The log that all of this was verified against.
    pub log_size: u64,
    pub log_root: Digest,
    /// The signed note of a node, verbatim.
    pub checkpoint: String,
    pub every_ms: Option<u64>,
    pub limit_ms: Option<u64>,
    /// Of the slowest confirmations.
    pub worst_ms: Option<u64>,
    pub p50_ms: Option<u64>,
    /// The oldest first.
    pub drills: Vec<Record>,
    /// Stops that were placed as drills and of which nobody signed what they showed.
    pub unfinished: Vec<Unfinished>,
    /// Times without a drill that are longer than the schedule allows.
    pub gaps: Vec<Gap>,
    /// For `ssh-keygen -Y verify`: every key of every version of the authority.
    pub allowed_signers: String,
}

#[derive(Serialize)]
pub struct Record {
    pub scope: Scope,
    pub lock: Digest,
    pub reason: String,
    pub stop: Signed,
    /// Its node's own record, which nobody signs.
    pub outcome: Placed,
    pub node: String,
    pub release: Option<Signed>,
    pub start: Option<Signed>,
    pub evidence: Signed,
    pub confirmed: u64,
    pub bounded: u64,
    pub slowest_ms: Option<u64>,
    pub instances: Vec<Instance>,
    /// From the stop's entry to the one that started it again.
    pub stopped_for_ms: Option<u64>,
    pub state: State,
    /// What the log contradicts; the ledger lets nothing of that in but an instance.
    pub wrong: Vec<String>,
    /// What is to be known beside.
    pub notes: Vec<String>,
    /// The evidence's exact text, and who signed it how.
    pub document: String,
    pub signatures: Vec<String>,
}

/// A place in the log.
#[derive(Clone, Serialize)]
pub struct Placed {
    pub index: u64,
    pub time_ms: u64,
    /// Of the entry's bytes.
    pub sha256: Digest,
}

#[derive(Clone, Serialize)]
pub struct Signed {
    #[serde(flatten)]
    pub placed: Placed,
    pub by: Vec<String>,
}

#[derive(Serialize)]
pub struct Instance {
    pub agent: Scope,
    pub instance: String,
    /// Absent where it was silent, and its last lease ended instead.
    pub after_ms: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    Resumed,
    /// After the evidence was signed.
    ResumedLater,
    /// It holds still.
    Stopped,
}

#[derive(Serialize)]
pub struct Unfinished {
    pub scope: Scope,
    pub lock: Digest,
    pub stop: Signed,
    pub state: State,
}

#[derive(Serialize)]
pub struct Gap {
    pub scope: Scope,
    pub from_ms: u64,
    pub to_ms: u64,
}

pub fn run(out: &Out, globals: &Globals, args: &ReportArgs) -> Result<Exit, Failure> {
    let report = match &args.dir {
        Some(path) => {
            let mut profile = Profile::load(&profile::locate(globals.profile.as_deref())?)?;
            backup::learn(path, &mut profile)?;
            let tiles = TileDir { path: path.clone() };
            let note = read_checkpoint(&tiles)?;
            made(out, &profile, &tiles, note, args)?
        }
        None => {
            let session = Session::open(out, globals)?;
            let (note, _) = session.checkpoint_note(0)?;
            made(out, &session.profile, &session.client, note, args)?
        }
    };
    if let Some(file) = &args.html {
        replace(file, page::html(&report).as_bytes())?;
    }
    out.document(&report);
    report.say(out);
    if let Some(file) = &args.html {
        out.line(format!("wrote {}", quoted(file)));
    }
    let wrong: Vec<_> = report.drills.iter().flat_map(|drill| &drill.wrong).collect();
    for wrong in &wrong {
        out.note(format!("{} {wrong}", out.ink(Ink::Red, "error:")));
    }
    Ok(match (wrong.is_empty(), report.breaks_a_promise()) {
        (false, _) => Exit::Unverified,
        (true, true) => Exit::Failed,
        (true, false) => Exit::Ok,
    })
}

/// What is looked for in a log.
#[derive(Default)]
struct Found {
    drills: Vec<(Entry, Digest, Drill)>,
    /// Stops that were placed as drills, by their locks.
    declared: BTreeMap<Digest, (Scope, Signed)>,
    /// When its first and its newest entry were written.
    oldest_ms: Option<u64>,
    newest_ms: u64,
}

impl Found {
    /// Reads the whole log. Whether it is the one that was verified shows by its root.
    fn read(reader: &LogReader<'_>, trust: &Trust) -> Result<(Self, Digest), Failure> {
        let (mut found, mut frontier) = (Self::default(), Frontier::default());
        for n in 0..reader.size().div_ceil(TILE_WIDTH) {
            for bytes in reader.bundle(n)?.iter() {
                frontier.push(leaf_hash(bytes));
                let entry = Entry::decode(bytes).map_err(|e| Failure::unverified("entry", e.to_string()))?;
                found.oldest_ms.get_or_insert(entry.time_ms);
                found.newest_ms = found.newest_ms.max(entry.time_ms);
                found.take(entry, Digest::of(bytes), trust);
            }
        }
        Ok((found, frontier.root()))
    }

    fn take(&mut self, entry: Entry, sha256: Digest, trust: &Trust) {
        let bytes = entry.envelope.document.as_bytes();
        match entry.kind {
            EntryKind::Drill => {
                if let Ok(drill) = Drill::parse(bytes) {
                    self.drills.push((entry, sha256, drill));
                }
            }
            EntryKind::Command => {
                if let Ok(Command { action: Action::Lock(lock), .. }) = Command::parse(bytes)
                    && lock.case.as_deref() == Some(CASE)
                {
                    let stop = signed(&entry, sha256, trust);
                    self.declared.insert(entry.envelope.digest(), (lock.scope, stop));
                }
            }
            EntryKind::Trip
            | EntryKind::Outcome
            | EntryKind::Proposal
            | EntryKind::Restore
            | EntryKind::RuleVersion => {}
        }
    }
}

fn placed(entry: &Entry, sha256: Digest) -> Placed {
    Placed { index: entry.index, time_ms: entry.time_ms, sha256 }
}

fn signed(entry: &Entry, sha256: Digest, trust: &Trust) -> Signed {
    Signed { placed: placed(entry, sha256), by: signed_by(trust, entry.kind, &entry.envelope) }
}

fn made(
    out: &Out,
    profile: &Profile,
    tiles: &dyn Tiles,
    note: String,
    args: &ReportArgs,
) -> Result<Report, Failure> {
    let trust = profile.trust();
    let checkpoint = open_checkpoint(&note, trust)?;
    let reader = LogReader::new(tiles, checkpoint.size);
    let (found, root) = Found::read(&reader, trust)?;
    let locks: BTreeSet<Digest> = found
        .drills
        .iter()
        .map(|(_, _, drill)| drill.stop.digest)
        .chain(found.declared.keys().copied())
        .collect();
    let mut records: BTreeMap<Digest, StopRecord> = BTreeMap::new();
    let mut ended = |replay: &Replay| {
        let of = |lock: &Digest| Some((*lock, replay.ledger().stop_record(lock)?));
        records = locks.iter().filter_map(of).collect();
    };
    let older: Vec<_> = Seen::load(profile)?.checkpoint.into_iter().collect();
    let verified = verify_all(out, profile, tiles, &note, &older, false, &mut ended)?;
    if (verified.size, verified.root) != (checkpoint.size, root) {
        return Err(LogError::Root { size: checkpoint.size, found: root, signed: verified.root }.into());
    }

    let generated_at_ms = now_ms();
    let since_ms = args.since.map(|since| match since {
        Since::Instant(at_ms) => at_ms,
        Since::Ago(ms) => generated_at_ms.saturating_sub(ms),
    });
    let wanted = |scope: &Scope| args.scope.as_ref().is_none_or(|of| of.covers(scope));
    let recent = |time_ms: u64| since_ms.is_none_or(|since_ms| since_ms <= time_ms);
    let over = |lock: &Digest| records.get(lock).is_some_and(|record| record.over);
    let (mut drills, mut scopes, mut drilled) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
    for (evidence, sha256, drill) in found.drills {
        drilled.insert(drill.stop.digest);
        if !wanted(&drill.scope) {
            continue;
        }
        scopes.insert(drill.scope.clone());
        if recent(evidence.time_ms) {
            let over = over(&drill.stop.digest);
            drills.push(record(&reader, &checkpoint, trust, (evidence, sha256, drill), over)?);
        }
    }
    let unfinished = (found.declared.into_iter())
        .filter(|(lock, (scope, stop))| {
            !drilled.contains(lock) && wanted(scope) && recent(stop.placed.time_ms)
        })
        .map(|(lock, (scope, stop))| {
            let state = if over(&lock) { State::Resumed } else { State::Stopped };
            Unfinished { scope, lock, stop, state }
        });
    let mut unfinished: Vec<_> = unfinished.collect();
    unfinished.sort_by_key(|stop| stop.stop.placed.index);
    // Where nothing was ever drilled, that is what is missing.
    if scopes.is_empty() {
        scopes.insert(args.scope.clone().unwrap_or_else(Scope::fleet));
    }
    // A copy tells of nothing that came after it.
    let until_ms = if args.dir.is_some() { found.newest_ms } else { generated_at_ms };
    let begun_ms = found.oldest_ms.unwrap_or(until_ms);
    let gaps = args.every.map(|every_ms| gaps(&drills, scopes, (since_ms, begun_ms), until_ms, every_ms));
    let mut slowest: Vec<u64> = drills.iter().filter_map(|drill| drill.slowest_ms).collect();
    slowest.sort_unstable();
    Ok(Report {
        deployment: trust.deployment().to_string(),
        scope: args.scope.clone(),
        since_ms,
        generated_at_ms,
        log_size: verified.size,
        log_root: verified.root,
        checkpoint: note,
        every_ms: args.every,
        limit_ms: args.alert_over,
        worst_ms: slowest.last().copied(),
        p50_ms: slowest.get(slowest.len().saturating_sub(1) / 2).copied(),
        drills,
        unfinished,
        gaps: gaps.unwrap_or_default(),
        allowed_signers: allowed_signers(trust),
    })
}

/// The keys of all versions: what was signed then stays signed.
fn allowed_signers(trust: &Trust) -> String {
    let mut lines = Vec::new();
    for line in trust
        .versions()
        .iter()
        .rev()
        .flat_map(|v| export::allowed(v).lines().map(String::from).collect::<Vec<_>>())
    {
        if !lines.contains(&line) {
            lines.push(line);
        }
    }
    lines.iter().map(|line| format!("{line}\n")).collect()
}

/// One drill with all that belongs to it, each entry proven.
fn record(
    reader: &LogReader<'_>,
    checkpoint: &Checkpoint,
    trust: &Trust,
    (evidence, sha256, drill): (Entry, Digest, Drill),
    over: bool,
) -> Result<Record, Failure> {
    let entry = |index: u64| entry(reader, checkpoint, index);
    let command = |index: u64| entry(index).map(|(entry, sha256)| signed(&entry, sha256, trust));
    let (stop, stop_sha256) = entry(drill.stop.index)?;
    let (outcome, outcome_sha256) = entry(drill.outcome)?;
    let (mut notes, mut wrong) = (Vec::new(), Vec::new());
    let reason = match Command::parse(stop.envelope.document.as_bytes()).map(|command| command.action) {
        Ok(Action::Lock(lock)) => {
            if lock.case.as_deref() != Some(CASE) {
                let case = lock.case.unwrap_or_else(|| "none".into());
                notes.push(format!("the stop was not placed as a drill: its case is {case:?}"));
            }
            lock.reason
        }
        _ => {
            notes.push("the stop is no command that a person or an automation signed".into());
            String::new()
        }
    };
    let achieved = outcome_of(&outcome)?;
    let all = listed(&achieved);
    if !all.starts_with(&drill.instances) {
        wrong.push(format!(
            "the drill at entry {} lists other instances than the outcome at entry {}: who signed it, and why?",
            evidence.index, outcome.index
        ));
    }
    let (release, start) = (drill.release.map(|r| command(r.index)), drill.start.map(|s| command(s.index)));
    let (release, start) = (release.transpose()?, start.transpose()?);
    let ended = start.as_ref().map(|start| start.placed.time_ms);
    let state = match (drill.start.is_some(), over) {
        (true, _) => State::Resumed,
        (false, true) => State::ResumedLater,
        (false, false) => State::Stopped,
    };
    let instances = drill.instances.into_iter().map(|Drilled { agent, instance, after_ms }| Instance {
        agent,
        instance,
        after_ms,
    });
    Ok(Record {
        scope: drill.scope,
        lock: drill.stop.digest,
        reason,
        stopped_for_ms: ended.map(|ended| ended.saturating_sub(stop.time_ms)),
        stop: signed(&stop, stop_sha256, trust),
        outcome: placed(&outcome, outcome_sha256),
        node: achieved.node,
        release,
        start,
        confirmed: drill.confirmed,
        bounded: drill.bounded,
        slowest_ms: drill.slowest_ms,
        instances: instances.collect(),
        state,
        wrong,
        notes,
        evidence: Signed {
            placed: placed(&evidence, sha256),
            by: signed_by(trust, EntryKind::Drill, &evidence.envelope),
        },
        document: evidence.envelope.document,
        signatures: evidence.envelope.signatures,
    })
}

/// Where a scope was not drilled for longer than promised, from the beginning of the period on, or else from its first drill;
/// never before the log begins.
fn gaps(
    drills: &[Record],
    scopes: BTreeSet<Scope>,
    (since_ms, begun_ms): (Option<u64>, u64),
    until_ms: u64,
    every_ms: u64,
) -> Vec<Gap> {
    let allowed_ms = every_ms.saturating_add(every_ms / 100 * LATE_PERCENT);
    let mut gaps = Vec::new();
    for scope in scopes {
        let times = drills.iter().filter(|drill| drill.scope == scope).map(|drill| drill.stop.placed.time_ms);
        let mut times: Vec<u64> = times.chain([until_ms]).collect();
        if let Some(since_ms) = since_ms {
            times.insert(0, since_ms.max(begun_ms));
        } else if times.len() == 1 {
            times.insert(0, begun_ms);
        }
        for pair in times.windows(2).filter(|pair| pair[1].saturating_sub(pair[0]) > allowed_ms) {
            gaps.push(Gap { scope: scope.clone(), from_ms: pair[0], to_ms: pair[1] });
        }
    }
    gaps
}

impl State {
    pub fn words(self) -> &'static str {
        match self {
            Self::Resumed => "brought back",
            Self::ResumedLater => "brought back only after its evidence",
            Self::Stopped => "never brought back",
        }
    }
}

impl Record {
    /// `1 of 2`.
    pub fn confirmed_of_all(&self) -> String {
        format!("{} of {}", self.confirmed, self.confirmed + self.bounded)
    }
}

impl Report {
    /// What somebody has to look at, one sentence each.
    pub fn findings(&self) -> Vec<String> {
        let mut findings: Vec<String> = self.drills.iter().flat_map(|drill| drill.wrong.clone()).collect();
        for drill in &self.drills {
            let (scope, at, index) =
                (&drill.scope, instant(drill.stop.placed.time_ms), drill.evidence.placed.index);
            let of = format!("{scope}, drilled at {at} (entry {index}):");
            if drill.bounded > 0 {
                let silent = count(drill.bounded, "instance");
                findings
                    .push(format!("{of} {silent} did not confirm, and could only run until its lease ended"));
            }
            if let (Some(slowest), Some(limit)) = (drill.slowest_ms, self.limit_ms)
                && slowest > limit
            {
                findings.push(format!("{of} the slowest confirmation took {slowest} ms, over {limit} ms"));
            }
            if drill.state != State::Resumed {
                findings.push(format!("{of} {}", drill.state.words()));
            }
            findings.extend(drill.notes.iter().map(|note| format!("{of} {note}")));
        }
        for stop in &self.unfinished {
            let (scope, at, index) = (&stop.scope, instant(stop.stop.placed.time_ms), stop.stop.placed.index);
            let state = stop.state.words();
            findings.push(format!(
                "{scope}, stopped as a drill at {at} (entry {index}): nobody signed what it showed; {state}"
            ));
        }
        for gap in &self.gaps {
            let (from, to) = (instant(gap.from_ms), instant(gap.to_ms));
            let long = span(gap.to_ms.saturating_sub(gap.from_ms));
            findings.push(format!("{}: no drill from {from} to {to}, for {long}", gap.scope));
        }
        findings
    }

    /// Whether something was slower or rarer than whoever asked said that it may be.
    fn breaks_a_promise(&self) -> bool {
        let late = |limit: u64| {
            self.drills.iter().any(|d| d.bounded > 0 || d.slowest_ms.is_some_and(|slowest| slowest > limit))
        };
        !self.gaps.is_empty() || self.limit_ms.is_some_and(late)
    }

    fn say(&self, out: &Out) {
        let verified = out.ink(Ink::Green, "verified");
        let drills = count(self.drills.len() as u64, "drill");
        let log = format!("the log of {} entries with root {}", self.log_size, self.log_root.short());
        out.line(format!("{verified}: {drills} in {log}"));
        let rows = self.drills.iter().map(|drill| {
            let slowest = drill.slowest_ms.map_or_else(|| "silent".into(), |ms| format!("{ms} ms"));
            vec![
                instant(drill.stop.placed.time_ms),
                drill.scope.to_string(),
                format!("{} confirmed", drill.confirmed_of_all()),
                slowest,
                drill.state.words().into(),
                format!("by {}", drill.evidence.by.join(", ")),
                format!("entry {}", drill.evidence.placed.index),
                format!("{:?}", drill.reason),
            ]
        });
        out.table(&rows.collect::<Vec<_>>());
        if let (Some(worst), Some(p50)) = (self.worst_ms, self.p50_ms) {
            out.line(format!("slowest confirmation: worst {worst} ms, median {p50} ms"));
        }
        for finding in self.findings() {
            out.line(format!("{} {finding}", out.ink(Ink::Yellow, "finding:")));
        }
    }
}
