//! `tagout grant --renew-due`: every grant that ends soon is given anew, in one ceremony and with the terms that it has.
//!
//! What is in force is not a node's to say here: it would have people sign again what they have revoked. So the log is
//! verified, and what follows from it is renewed.

use tagout_proto::command::{Action, ActionKind, Grant, Seen};
use tagout_proto::digest::Digest;
use tagout_proto::ledger::GrantSummary;
use tagout_proto::scope::Scope;

use super::failure::{Exit, Failure};
use super::log::verify_all;
use super::out::{Out, count, instant, now_ms, span};
use super::restart::send_each;
use super::session::{Gift, Session};
use super::{Globals, KeyArgs, proposals, status};
use crate::due::due;
use crate::sign::Signer;

pub struct RenewDue<'a> {
    /// Of these alone: at this scope or below it.
    pub below: Option<&'a Scope>,
    pub within_ms: u64,
    pub expires_at_ms: u64,
    pub reason: &'a str,
    pub keys: &'a KeyArgs,
}

pub fn run(out: &Out, globals: &Globals, args: &RenewDue<'_>) -> Result<Exit, Failure> {
    let session = Session::open(out, globals)?;
    let (note, checkpoint) = session.checkpoint_note(0)?;
    let mut grants: Vec<GrantSummary> = Vec::new();
    verify_all(out, &session.profile, &session.client, &note, &[], false, &mut |replay| {
        grants = replay.ledger().grants(now_ms());
    })?;
    grants.retain(|grant| args.below.is_none_or(|below| below.covers(&grant.scope)));
    let until_ms = now_ms().saturating_add(args.within_ms);
    let mut due = due(&grants, until_ms);
    due.sort_by_key(|grant| grant.expires_at_ms);
    if due.is_empty() {
        out.line(format!("no grant ends before {} without another one that follows it", instant(until_ms)));
        out.document(&serde_json::json!({ "grants": [] }));
        return Ok(Exit::Ok);
    }
    if let Some(longer) = due.iter().find(|grant| grant.expires_at_ms >= args.expires_at_ms) {
        let until = instant(longer.expires_at_ms);
        return Err(Failure::usage(format!(
            "the grant of {} holds until {until} already: renew it for longer",
            longer.scope
        )));
    }
    out.line(format!(
        "{} due by the log's {} entries, to be renewed until {}:",
        count(due.len() as u64, "grant"),
        checkpoint.size,
        instant(args.expires_at_ms)
    ));
    status::say_grants(out, due.iter().copied());

    let signers = session.signers(args.keys)?;
    let proposed = leave_what_is_proposed(&session, args, until_ms, &signers, &mut due)?;
    if due.is_empty() {
        let detail = "all that is due is proposed already: sign that; nothing was sent";
        return Err(Failure::new(Exit::MissingSignatures, "proposed-already", detail));
    }
    let epoch = session.trust().epoch();
    let seen = Seen { epoch: epoch.id, size: checkpoint.size, authority: session.authority().version };
    let sign = |GrantSummary { scope, terms, .. }: GrantSummary| {
        let (expires_at_ms, reason) = (args.expires_at_ms, args.reason.into());
        let grant = Grant { scope, expires_at_ms, seen, terms, reason };
        Ok((session.sign_loosening(Action::Grant(grant), &signers)?, Vec::new()))
    };
    let signed = due.into_iter().cloned().map(sign).collect::<Result<Vec<_>, Failure>>()?;
    let (Gift { commands: done, proposals }, exit) = send_each(&session, signed)?;
    if !done.is_empty() {
        let left = span(args.expires_at_ms.saturating_sub(now_ms()));
        out.line(format!("{} renewed, with {left} left", count(done.len() as u64, "grant")));
    }
    out.document(&serde_json::json!({ "grants": done, "proposals": proposals, "proposed_before": proposed }));
    Ok(exit)
}

/// Where these keys could only propose what is proposed already, a second proposal would halve the signatures of the first.
fn leave_what_is_proposed(
    session: &Session<'_>,
    args: &RenewDue<'_>,
    until_ms: u64,
    signers: &[Signer],
    due: &mut Vec<&GrantSummary>,
) -> Result<Vec<Digest>, Failure> {
    let (fleet, assumed) = (Scope::fleet(), session.assumed(signers));
    let open = proposals::of_grants(session, args.below.unwrap_or(&fleet))?;
    let mut proposed = Vec::new();
    due.retain(|grant| {
        let renews = |(_, other): &&(Digest, Grant)| {
            (&other.scope, &other.terms) == (&grant.scope, &grant.terms) && other.expires_at_ms > until_ms
        };
        let suffices = session.authority().authorise(ActionKind::Grant, &grant.scope, &assumed).is_ok();
        let same = open.iter().find(renews).filter(|_| !suffices);
        proposed.extend(same.map(|(id, _)| *id));
        same.is_none()
    });
    if !proposed.is_empty() {
        let ids: Vec<_> = proposed.iter().map(Digest::short).collect();
        session.out.line(format!("{} of them wait for signatures as proposals already:", ids.len()));
        session.out.line(format!("  tagout proposals sign {}", ids.join(" ")));
    }
    Ok(proposed)
}
