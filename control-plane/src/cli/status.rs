//! `tagout status`: what runs, what is locked out and by whom, and when consent ends.

use clap::Args;
use serde::Serialize;
use tagout_proto::ledger::LockRecord;
use tagout_proto::rule::Verdict;
use tagout_proto::scope::Scope;
use tagout_proto::view::LockView;
use tagout_proto::wire::{Agent, Agents, Locks, Status};

use super::Globals;
use super::failure::{Exit, Failure};
use super::log::seen::Seen;
use super::out::{Ink, Out, count, instant, now_ms, span};
use super::session::Session;

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
        seen.check_size(status.log_size)?;
    }
    status.grants.retain(|grant| grant.scope.covers(&scope) || scope.covers(&grant.scope));
    out.document(&Everything { status: &status, agents: &agents.agents, lock_records: &locks.locks });

    let deployment = out.ink(Ink::Bold, &session.deployment().name);
    let (node, epoch, size) = (&status.node, status.epoch.number, status.log_size);
    out.line(format!(
        "{deployment} at {node}: epoch {epoch}, {size} log entries, authority {}",
        status.authority_version
    ));
    out.line(format!("\n{}", count(agents.agents.len() as u64, "agent")));
    say_agents(out, &agents, &locks);
    out.line(format!("\n{}", count(locks.locks.len() as u64, "lock")));
    say_locks(out, &locks);
    out.line(format!("\n{}", count(status.grants.len() as u64, "grant")));
    let now = now_ms();
    let rows: Vec<_> = (status.grants.iter())
        .map(|grant| {
            let left = match grant.expires_at_ms.saturating_sub(now) {
                0 => out.ink(Ink::Yellow, "expired"),
                left => format!("{} left", span(left)),
            };
            vec![grant.scope.to_string(), format!("until {}", instant(grant.expires_at_ms)), left]
        })
        .collect();
    out.table(&rows);
    Ok(Exit::Ok)
}

pub fn say_agents(out: &Out, agents: &Agents, locks: &Locks) {
    let rows: Vec<_> = (agents.agents.iter())
        .map(|agent| {
            let strongest = agent.locks.iter().find_map(|id| locks.locks.iter().find(|r| r.lock.id == *id));
            let why = match (strongest, agent.consent_until_ms) {
                (Some(record), _) => held(&record.lock),
                (None, Some(until)) => format!("consent until {}", instant(until)),
                (None, None) => "no grant covers it".into(),
            };
            let instances = count(agent.instances.len() as u64, "instance");
            vec![agent.scope.to_string(), verdict(out, agent), instances, why]
        })
        .collect();
    out.table(&rows);
}

fn verdict(out: &Out, agent: &Agent) -> String {
    match agent.verdict {
        Verdict::Enabled => out.ink(Ink::Green, "ENABLED"),
        Verdict::EssentialOnly => out.ink(Ink::Yellow, "ESSENTIAL ONLY"),
        Verdict::Denied if agent.locks.is_empty() => out.ink(Ink::Yellow, "NO CONSENT"),
        Verdict::Denied => out.ink(Ink::Red, "STOPPED"),
    }
}

fn held(lock: &LockView) -> String {
    let state = if lock.released { " (released, not started)" } else { "" };
    format!("{} on {}{state}: {}", lock.kind.name(), lock.scope, lock.tag.reason)
}

pub fn say_locks(out: &Out, locks: &Locks) {
    say_records(out, &locks.locks);
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
    let case = tag.case.as_ref().map(|case| format!(" [{case}]")).unwrap_or_default();
    let since = format!("{} ({} ago)", instant(*time_ms), span(now_ms.saturating_sub(*time_ms)));
    vec![
        id.short(),
        scope.to_string(),
        kind.name().into(),
        state,
        format!("by {}", tag.by.join(", ")),
        format!("since {since}, entry {index}"),
        format!("{}{case}", tag.reason),
    ]
}
