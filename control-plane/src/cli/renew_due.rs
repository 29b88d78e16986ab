//! `tagout grant --renew-due`: every grant that ends soon is given anew, in one ceremony and with the terms that it has.

use tagout_proto::command::{Action, Command, Grant, Seen};
use tagout_proto::ledger::GrantSummary;
use tagout_proto::log::checkpoint::Checkpoint;
use tagout_proto::log::entry::Entry;
use tagout_proto::scope::Scope;

use super::failure::{Exit, Failure};
use super::log::tiles::LogReader;
use super::out::{Out, count, instant, now_ms, span};
use super::session::Session;
use super::{Globals, KeyArgs, status};
use crate::due::due;

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
    let mut grants = session.client.status()?.grants;
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
        "{} due, to be renewed until {}:",
        count(due.len() as u64, "grant"),
        instant(args.expires_at_ms)
    ));
    status::say_grants(out, due.iter().copied());

    let signers = session.signers(args.keys)?;
    let (checkpoint, epoch) = (session.checkpoint_to_sign_on()?, session.trust().epoch());
    let seen = Seen { epoch: epoch.id, size: checkpoint.size, authority: session.authority().version };
    let renewed = due.into_iter().map(|grant| {
        let old = proven(&session, &checkpoint, grant)?;
        let Grant { scope, terms, .. } = old;
        Ok(Grant { scope, terms, expires_at_ms: args.expires_at_ms, seen, reason: args.reason.into() })
    });
    // All are read and proven before the first is signed: nobody ends with half of them for a tile that is missing.
    let renewed = renewed.collect::<Result<Vec<_>, Failure>>()?;
    let mut done = Vec::new();
    for grant in renewed {
        let signed = session.sign_loosening(Action::Grant(grant), &signers)?;
        let answer = session.send_said(&signed)?;
        done.push(session.prove_done(&signed, answer)?);
    }
    let left = span(args.expires_at_ms.saturating_sub(now_ms()));
    out.line(format!("{} renewed, with {left} left", count(done.len() as u64, "grant")));
    out.document(&serde_json::json!({ "grants": done }));
    Ok(Exit::Ok)
}

/// The grant as people signed it: a node's word for its terms is not enough to sign them again.
fn proven(session: &Session<'_>, checkpoint: &Checkpoint, grant: &GrantSummary) -> Result<Grant, Failure> {
    let wrong = |why: &str| {
        let detail = format!(
            "entry {} of the log, which is to be the grant {}, {why}: do not trust this node",
            grant.index,
            grant.id.short()
        );
        Failure::unverified("entry", detail)
    };
    let reader = LogReader::new(&session.client, checkpoint.size);
    let (bytes, _) = reader.proven_entry(grant.index, checkpoint.root)?;
    let entry = Entry::decode(&bytes).map_err(|_| wrong("cannot be read"))?;
    if entry.envelope.digest() != grant.id {
        return Err(wrong("is another document"));
    }
    match Command::parse(entry.envelope.document.as_bytes()).map(|command| command.action) {
        Ok(Action::Grant(old)) if old.scope == grant.scope => Ok(old),
        _ => Err(wrong("is none of that scope")),
    }
}
