//! `tagout grant`: consent that a scope may run, until it expires.

use clap::Args;
use serde::Serialize;
use tagout_proto::command::{Action, Grant, Seen};
use tagout_proto::rule::Terms;
use tagout_proto::scope::Scope;
use tagout_proto::strict::parse_instant_ms;
use tagout_proto::wire::{CommandAnswer, Status};

use super::failure::{Exit, Failure};
use super::out::{Out, instant, now_ms, span};
use super::session::{Place, Session};
use super::{Globals, KeyArgs, duration_ms};

#[derive(Args)]
pub struct GrantArgs {
    /// What may run: an agent, all below a path, or '*' (in quotes) for the whole fleet
    scope: Scope,
    /// For how long from now, such as 72h
    #[arg(long = "for", value_name = "TIME", value_parser = duration_ms, required_unless_present = "until")]
    for_ms: Option<u64>,
    /// Until when, in UTC, such as 2026-12-01T00:00:00Z
    #[arg(long, value_name = "INSTANT", value_parser = instant_ms, conflicts_with = "for_ms")]
    until: Option<u64>,
    /// Why
    #[arg(long)]
    reason: String,
    #[command(flatten)]
    keys: KeyArgs,
}

fn instant_ms(text: &str) -> Result<u64, String> {
    parse_instant_ms(text)
        .ok_or_else(|| "write an RFC 3339 instant in UTC such as 2026-12-01T00:00:00Z".into())
}

#[derive(Serialize)]
struct Done {
    #[serde(flatten)]
    answer: CommandAnswer,
    expires_at_ms: u64,
    log: Place,
}

pub fn run(out: &Out, globals: &Globals, args: GrantArgs) -> Result<Exit, Failure> {
    let now = now_ms();
    let expires_at_ms = match (args.until, args.for_ms) {
        (Some(until), _) => until,
        (None, for_ms) => now.saturating_add(for_ms.expect("required by clap")),
    };
    if expires_at_ms <= now {
        return Err(Failure::usage(format!(
            "{} is past: a grant ends later than now",
            instant(expires_at_ms)
        )));
    }
    let session = Session::open(out, globals)?;
    let signers = session.signers(&args.keys)?;
    let status = session.client.status()?;
    check_epoch(&session, &status)?;
    // The status is only the node's word; what people put their names to is the signed checkpoint.
    let seen = session.checkpoint_to_sign_on()?;
    let grant = Grant {
        scope: args.scope,
        expires_at_ms,
        seen: Seen { epoch: status.epoch.id, size: seen.size, authority: session.authority().version },
        terms: Terms::default(),
        reason: args.reason,
    };
    out.line(format!(
        "until {} (in {}), seen: epoch {} and {} entries with root {}",
        instant(expires_at_ms),
        span(expires_at_ms - now),
        status.epoch.number,
        seen.size,
        seen.root.short()
    ));
    let signed = session.sign_loosening(Action::Grant(grant), &signers, &status)?;
    let answer = session.send_said(&signed)?;
    let log = session.prove(answer.index, &signed.envelope)?;
    session.say_place(&log);
    out.document(&Done { answer, expires_at_ms, log });
    Ok(Exit::Ok)
}

/// The first epoch is the genesis; a later one begins with a restore that people signed.
fn check_epoch(session: &Session<'_>, status: &Status) -> Result<(), Failure> {
    let genesis = session.deployment().genesis;
    if status.epoch.number == 1 && status.epoch.id == genesis {
        return Ok(());
    }
    let detail = format!(
        "{} says that epoch {} began with {}, which this build cannot verify: use a `tagout` as new as the node",
        session.client.node(),
        status.epoch.number,
        status.epoch.id
    );
    Err(Failure::unverified("epoch", detail))
}
