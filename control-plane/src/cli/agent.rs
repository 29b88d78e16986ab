//! `tagout agent`: who may ask for an agent's leases. A process shows the token of its enrolment, and gets leases of that
//! scope and of all below it; whether it may run is a matter of grants and locks.

use std::fs;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde::Serialize;
use tagout_proto::command::{Action, Enroll};
use tagout_proto::scope::Scope;
use tagout_proto::token::Token;
use tagout_proto::wire::EnrolmentRecord;

use super::failure::{Exit, Failure};
use super::files::write_new;
use super::out::{Ink, Out, count, instant, now_ms, span};
use super::revoke::{Known, Withdrawal};
use super::session::{Done, Gift, ProposedDone, Session};
use super::{Globals, KeyArgs, duration_ms};
use crate::sign::Signer;

#[derive(Subcommand)]
pub enum AgentVerb {
    /// Make the token with which a process gets leases for a scope and all below it; it is shown once
    Enroll(EnrollArgs),
    /// Show the enrolments in force
    List(ListArgs),
    /// End enrolments, for ever: no lease is given by their tokens any more. One signature is enough
    Revoke(RevokeArgs),
}

#[derive(Args)]
pub struct EnrollArgs {
    /// What the process may guard: an agent, or all below a path
    scope: Scope,
    /// For how long from now, such as 720h [default: until it is revoked]
    #[arg(long = "for", value_name = "TIME", value_parser = duration_ms)]
    for_ms: Option<u64>,
    /// What for, as `tagout agent list` shows it, such as the host or the service that gets the token
    #[arg(long)]
    reason: String,
    /// Write the token into a new file that only you can read, and do not show it
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    keys: KeyArgs,
}

#[derive(Args)]
pub struct ListArgs {
    /// Only this scope, and what lies above and below it
    scope: Option<Scope>,
}

#[derive(Args)]
pub struct RevokeArgs {
    /// Enrolment ids, or the first 12 digits of those in force; all 64 also for one that has not arrived yet
    #[arg(required_unless_present = "scope", conflicts_with = "scope", value_name = "ENROLMENT")]
    enrolments: Vec<String>,
    #[command(flatten)]
    withdrawal: Withdrawal,
}

pub fn run(out: &Out, globals: &Globals, verb: AgentVerb) -> Result<Exit, Failure> {
    match verb {
        AgentVerb::Enroll(args) => enroll(out, globals, args),
        AgentVerb::List(args) => list(out, globals, args),
        AgentVerb::Revoke(args) => revoke(out, globals, args),
    }
}

#[derive(Serialize)]
struct Enrolled<'a> {
    #[serde(flatten)]
    done: Option<Done>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    proposals: Vec<ProposedDone>,
    expires_at_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_file: Option<&'a Path>,
}

fn enroll(out: &Out, globals: &Globals, args: EnrollArgs) -> Result<Exit, Failure> {
    let session = Session::open(out, globals)?;
    let signers = session.signers(&args.keys)?;
    let expires_at_ms = args.for_ms.map(|for_ms| now_ms().saturating_add(for_ms));
    let token = new_token();
    // Before it counts: a token that cannot be kept shall not be in force.
    if let Some(path) = &args.out {
        write_new(path, format!("{}\n", token.reveal()).as_bytes(), 0o600)?;
    }
    let done = enroll_token(&session, &token, args.scope, expires_at_ms, args.reason, &signers);
    if let (Err(_), Some(path)) = (&done, &args.out) {
        let _ = fs::remove_file(path);
    }
    let (mut gift, exit) = done?;
    let token_file = args.out.as_deref();
    let shown = token_file.is_none().then(|| token.reveal());
    let (done, proposals) = (gift.commands.pop(), gift.proposals);
    if done.is_none() {
        out.line("the token counts once others have signed its enrolment, too");
    }
    out.document(&Enrolled { done, proposals, expires_at_ms, token: shown, token_file });
    if !session.authority().enrolment {
        out.note("note: the authority of this deployment asks for no enrolment: whoever sends no token gets leases too");
    }
    match (shown, token_file) {
        (Some(token), _) => {
            out.line(
                "its token, which is shown this once; the SDK takes it from TAGOUT_TOKEN, or .token(…):",
            );
            out.line(out.ink(Ink::Bold, token));
        }
        (None, path) => {
            let path = path.unwrap_or(Path::new("")).display();
            out.line(format!(
                "its token is in {path}; the SDK takes it from TAGOUT_TOKEN_FILE, or .token_file(…)"
            ));
        }
    }
    Ok(exit)
}

pub fn new_token() -> Token {
    let mut bits = [0; 32];
    getrandom::fill(&mut bits).expect("the operating system has randomness");
    Token::of_random(bits)
}

/// Signs and sends the enrolment of `token`, or proposes it, and proves that it is in the log.
pub fn enroll_token(
    session: &Session<'_>,
    token: &Token,
    scope: Scope,
    expires_at_ms: Option<u64>,
    reason: String,
    signers: &[Signer],
) -> Result<(Gift, Exit), Failure> {
    let enroll = Enroll { scope, token: token.digest(), expires_at_ms, reason };
    let signed = session.sign_loosening(Action::Enroll(enroll), signers)?;
    let given = session.give(&signed, &[])?;
    session.prove_given(vec![(signed, given)])
}

fn list(out: &Out, globals: &Globals, args: ListArgs) -> Result<Exit, Failure> {
    let session = Session::open(out, globals)?;
    let found = session.client.enrolments(&args.scope.unwrap_or_else(Scope::fleet))?;
    out.document(&found);
    out.line(count(found.enrolments.len() as u64, "enrolment"));
    say(out, found.enrolments.iter());
    if !found.required {
        out.line("the authority asks for no enrolment: whoever sends no token gets leases too");
    }
    Ok(Exit::Ok)
}

fn say<'a>(out: &Out, enrolments: impl Iterator<Item = &'a EnrolmentRecord>) {
    let now = now_ms();
    let rows: Vec<_> = enrolments
        .map(|EnrolmentRecord { id, enrolment }| {
            let until = match enrolment.expires_at_ms {
                None => "until it is revoked".into(),
                Some(at) => format!("until {} ({} left)", instant(at), span(at.saturating_sub(now))),
            };
            let (by, entry) =
                (format!("by {}", enrolment.by.join(", ")), format!("entry {}", enrolment.index));
            vec![id.short(), enrolment.scope.to_string(), until, by, entry, enrolment.reason.clone()]
        })
        .collect();
    out.table(&rows);
}

fn revoke(out: &Out, globals: &Globals, args: RevokeArgs) -> Result<Exit, Failure> {
    let (mut session, withdrawal) = (Session::open_to_tighten(out, globals)?, &args.withdrawal);
    let enrolments = match session.client.enrolments(&Scope::fleet()) {
        Ok(found) => {
            session.learn_if_shown();
            found.enrolments
        }
        // Whole ids need no looking up.
        Err(failure) if withdrawal.scope.is_none() => {
            out.note(format!("warning: which enrolments are in force cannot be said: {failure}"));
            Vec::new()
        }
        Err(failure) => return Err(failure),
    };
    let all = enrolments.iter().map(|record| (&record.enrolment.scope, record.id)).collect();
    let known = Known { noun: "enrolment", listed_by: "tagout agent list", all };
    let chosen = withdrawal.choose(&known, &args.enrolments)?;
    let taken: Vec<_> =
        enrolments.iter().filter(|e| chosen.iter().any(|(_, ids)| ids.contains(&e.id))).collect();
    out.line(format!("{} in force:", count(taken.len() as u64, "enrolment")));
    say(out, taken.into_iter());
    out.line("their tokens get no lease any more: new calls are denied within the ttl, and calls under way are cut a grace later");
    withdrawal.carry_out(&session, withdrawal.commands(chosen))
}
