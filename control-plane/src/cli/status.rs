//! `tagout status`: what runs, what is locked out and by whom, and when consent ends.

use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;
use tagout_proto::digest::Digest;
use tagout_proto::ledger::{GrantSummary, LockRecord};
use tagout_proto::lock::LockKind;
use tagout_proto::rule::{CallLimits, Terms, Verdict};
use tagout_proto::scope::Scope;
use tagout_proto::view::LockView;
use tagout_proto::wire::{Agent, Agents, Locks, ProposalRecord, Status};

use super::Globals;
use super::failure::{Exit, Failure};
use super::log::seen::Seen;
use super::out::{Ink, Out, count, instant, now_ms, span};
use super::proposals;
use super::session::Session;

/// How long nodes may take to be ready before it is said that they are not.
const READY_PATIENCE: Duration = Duration::from_secs(3);

#[derive(Args)]
pub struct StatusArgs {
    /// Only this scope, and what lies above and below it
    scope: Option<Scope>,
}

#[derive(Serialize)]
struct Everything<'a> {
    #[serde(flatten)]
    status: &'a Status,
    agents: &'a [Agent],
    /// In full, under another name than the status's number of them.
    lock_records: &'a [LockRecord],
    proposals: &'a [ProposalRecord],
}

pub fn run(out: &Out, globals: &Globals, args: StatusArgs) -> Result<Exit, Failure> {
    let session = Session::open(out, globals)?;
    let scope = args.scope.unwrap_or_else(Scope::fleet);
    let (mut status, agents, locks) =
        (session.client.status()?, session.client.agents(&scope)?, session.client.locks(&scope)?);
    if status.deployment != session.deployment().to_string() {
        let (found, node) = (&status.deployment, session.client.node());
        let detail = format!("{node} serves deployment {found}, not the profile's {}", session.deployment());
        return Err(Failure::unverified("other-deployment", detail));
    }
    let seen = Seen::load(&session.profile)?;
    if status.log_size < seen.size() {
        // A node that is only behind gets the time to catch up with what was seen of another.
        session.fetch_checkpoint(seen.size(), &seen)?;
        status = session.client.status()?;
    }
    // It has those entries, signed, and without a quorum it does not know that they are committed.
    let behind = status.log_size < seen.size();
    status.grants.retain(|grant| grant.scope.covers(&scope) || scope.covers(&grant.scope));
    let proposals = session.client.proposals(&scope)?.proposals;
    out.document(&Everything {
        status: &status,
        agents: &agents.agents,
        lock_records: &locks.locks,
        proposals: &proposals,
    });

    let deployment = out.ink(Ink::Bold, &session.deployment().name);
    let (node, epoch, size) = (&status.node, status.epoch.number, status.log_size);
    out.line(format!(
        "{deployment} at {node}: epoch {epoch}, {size} log entries, authority {}",
        status.authority_version
    ));
    if let Some(lost) = &seen.lost {
        let (seen, from) = (lost.checkpoint.size, lost.from);
        out.line(format!(
            "{} a restore began this epoch: of the {seen} entries that this machine had seen, those from {from} on are lost",
            out.ink(Ink::Yellow, "note:")
        ));
    }
    out.line(format!("\n{}", count(agents.agents.len() as u64, "agent")));
    say_agents(out, &agents, &locks);
    out.line(format!("\n{}", count(locks.locks.len() as u64, "lock")));
    say_locks(out, &locks);
    out.line(format!("\n{}", count(status.grants.len() as u64, "grant")));
    say_grants(out, status.grants.iter());
    if !proposals.is_empty() {
        out.line(format!("\n{}, see `tagout proposals`", count(proposals.len() as u64, "proposal")));
        proposals::say_open(&session, &proposals)?;
    }
    if behind {
        out.note(format!(
            "{} this node's log has {} entries, and what it shows is as of {}: it reaches no quorum, and knows of what came \
             after them only that it was proposed. A stop is taken all the same; look at `tagout node list`",
            out.ink(Ink::Yellow, "note:"),
            seen.size(),
            status.log_size
        ));
        return Ok(Exit::Unreachable);
    }
    if let Err(why) = ready(&session) {
        out.note(format!(
            "{} no leases are given now ({why}): guards deny once theirs have ended, and a stop that waits for a quorum is not \
             shown here. A stop is taken all the same; look at `tagout node list`",
            out.ink(Ink::Yellow, "note:")
        ));
        return Ok(Exit::Unreachable);
    }
    Ok(Exit::Ok)
}

/// A leader may be about to be elected.
fn ready(session: &Session<'_>) -> Result<(), Failure> {
    let begun = Instant::now();
    loop {
        let ready = session.client.ready();
        if ready.is_ok() || begun.elapsed() > READY_PATIENCE {
            return ready;
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

pub fn say_grants<'a>(out: &Out, grants: impl Iterator<Item = &'a GrantSummary>) {
    let now = now_ms();
    let rows: Vec<_> = grants
        .map(|grant| {
            let left = match grant.expires_at_ms.saturating_sub(now) {
                0 => out.ink(Ink::Yellow, "expired"),
                left => format!("{} left", span(left)),
            };
            let until = format!("until {}", instant(grant.expires_at_ms));
            let entry = format!("entry {}", grant.index);
            vec![grant.id.short(), grant.scope.to_string(), until, left, entry, terms(&grant.terms)]
        })
        .collect();
    out.table(&rows);
}

/// Scopes that a change would leave without consent.
pub fn say_disabled(out: &Out, scopes: &[Scope]) {
    if scopes.is_empty() {
        return;
    }
    let n = count(scopes.len() as u64, "scope");
    out.line(format!("{} {n} would be without any consent:", out.ink(Ink::Yellow, "note:")));
    scopes.iter().take(SHOWN_MAX).for_each(|scope| out.line(format!("  {scope}")));
    say_rest(out, scopes.len());
}

/// `essential: alarm, handover; at most 60 calls a minute`.
pub fn terms(terms: &Terms) -> String {
    let essential: Vec<_> = terms.essential.iter().map(String::as_str).collect();
    let essential = match essential.as_slice() {
        [] => "no essential calls".into(),
        classes => format!("essential: {}", classes.join(", ")),
    };
    match terms.limits == CallLimits::default() {
        true => format!("{essential}; no limits"),
        false => format!("{essential}; at most {}", terms.limits),
    }
}

pub fn say_agents(out: &Out, agents: &Agents, locks: &Locks) {
    let now = now_ms();
    let rows: Vec<_> = (agents.agents.iter())
        .map(|agent| {
            let held_by = |id: &Digest| locks.locks.iter().find(|r| r.lock.id == *id).map(|r| &r.lock);
            let on: Vec<&LockView> = agent.locks.iter().filter_map(held_by).collect();
            // The one that takes most: it says why.
            let strongest = on.iter().min_by_key(|lock| lock.fact().verdict(now));
            let why = match (strongest, agent.consent_until_ms) {
                (_, None) => "no grant covers it".into(),
                (Some(lock), Some(_)) => held(lock),
                (None, Some(until)) => format!("consent until {}", instant(until)),
            };
            let instances = count(agent.instances.len() as u64, "instance");
            let terms = if agent.consent_until_ms.is_some() { terms(&agent.terms) } else { String::new() };
            vec![agent.scope.to_string(), verdict(out, agent, &on), instances, why, terms]
        })
        .collect();
    out.table(&rows);
}

fn verdict(out: &Out, agent: &Agent, locks: &[&LockView]) -> String {
    let throttled = locks.iter().any(|lock| lock.fact().limits() != CallLimits::default());
    let isolated = locks.iter().any(|lock| lock.kind == LockKind::Isolate && !lock.released);
    match agent.verdict {
        Verdict::Enabled if throttled => out.ink(Ink::Yellow, "THROTTLED"),
        Verdict::Enabled => out.ink(Ink::Green, "ENABLED"),
        Verdict::EssentialOnly => out.ink(Ink::Yellow, "ESSENTIAL ONLY"),
        Verdict::Denied if isolated => out.ink(Ink::Red, "ISOLATED"),
        Verdict::Denied if locks.iter().any(|lock| lock.kind.denies()) => out.ink(Ink::Red, "STOPPED"),
        Verdict::Denied => out.ink(Ink::Yellow, "NO CONSENT"),
    }
}

fn held(lock: &LockView) -> String {
    let state = if lock.released { " (released, not started)" } else { "" };
    format!("{} on {}{state}: {}", how(lock.kind), lock.scope, lock.tag.reason)
}

pub fn say_locks(out: &Out, locks: &Locks) {
    say_records(out, &locks.locks);
}

/// Rows that are shown of what there may be thousands of.
const SHOWN_MAX: usize = 20;

/// The first of many locks.
pub fn say_some(out: &Out, records: &[LockRecord]) {
    say_records(out, &records[..records.len().min(SHOWN_MAX)]);
    say_rest(out, records.len());
}

fn say_rest(out: &Out, all: usize) {
    if all > SHOWN_MAX {
        out.line(format!("  … and {} more", all - SHOWN_MAX));
    }
}

pub fn say_records(out: &Out, records: &[LockRecord]) {
    let now = now_ms();
    let rows: Vec<_> = records.iter().map(|record| row(out, record, now)).collect();
    out.table(&rows);
}

fn row(out: &Out, record: &LockRecord, now_ms: u64) -> Vec<String> {
    let LockView { id, scope, kind, index, time_ms, released, tag } = &record.lock;
    let state = match (released, record.started.len() as u64) {
        (false, _) => out.ink(Ink::Red, "active"),
        (true, 0) => out.ink(Ink::Yellow, "released, not started"),
        (true, started) => out.ink(Ink::Yellow, format!("released, {} started", count(started, "part"))),
    };
    let lost = record.lost_from.map(|at| format!(" (a restore: locks from entry {at} on may be lost)"));
    let lost = lost.unwrap_or_default();
    let case = tag.case.as_ref().map(|case| format!(" [{case}]")).unwrap_or_default();
    let since = format!("{} ({} ago)", instant(*time_ms), span(now_ms.saturating_sub(*time_ms)));
    vec![
        id.short(),
        scope.to_string(),
        how(*kind),
        state,
        format!("by {}", tag.by.join(", ")),
        format!("since {since}, entry {index}"),
        format!("{}{case}{lost}", tag.reason),
    ]
}

fn how(kind: LockKind) -> String {
    match kind {
        LockKind::Throttle(limits) => format!("throttle to {limits}"),
        kind => kind.name().into(),
    }
}
