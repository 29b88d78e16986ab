//! `tagout grant`: consent that a scope may run, until it expires.

use clap::Args;
use serde::Serialize;
use tagout_proto::command::{Action, Grant, Seen};
use tagout_proto::rule::Terms;
use tagout_proto::scope::Scope;
use tagout_proto::strict::parse_instant_ms;

use super::failure::{Exit, Failure};
use super::out::{Out, instant, now_ms, span};
use super::renew_due::{self, RenewDue};
use super::session::{Done, Session};
use super::status;
use super::stop::LimitArgs;
use super::{Globals, KeyArgs, duration_ms};

#[derive(Args)]
pub struct GrantArgs {
    /// What may run: an agent, all below a path, or '*' (in quotes) for the whole fleet. With --renew-due, only what lies there
    #[arg(required_unless_present = "renew_due")]
    scope: Option<Scope>,
    /// Give anew, in one ceremony and with the terms that they have, all grants that end soon and that none follows
    #[arg(long, conflicts_with_all = ["essential", "calls_per_minute", "tokens_per_minute"])]
    renew_due: bool,
    /// With --renew-due: what soon is
    #[arg(long, value_name = "TIME", value_parser = duration_ms, default_value = "72h")]
    within: u64,
    /// For how long from now, such as 72h
    #[arg(long = "for", value_name = "TIME", value_parser = duration_ms, required_unless_present = "until")]
    for_ms: Option<u64>,
    /// Until when, in UTC, such as 2026-12-01T00:00:00Z
    #[arg(long, value_name = "INSTANT", value_parser = instant_ms, conflicts_with = "for_ms")]
    until: Option<u64>,
    /// Why
    #[arg(long)]
    reason: String,
    /// A class of calls that go on where only essential ones do: under a restrict, and until a drain's end
    #[arg(long, value_name = "CLASS")]
    essential: Vec<String>,
    #[command(flatten)]
    limits: LimitArgs,
    #[command(flatten)]
    keys: KeyArgs,
}

pub fn instant_ms(text: &str) -> Result<u64, String> {
    parse_instant_ms(text)
        .ok_or_else(|| "write an RFC 3339 instant in UTC such as 2026-12-01T00:00:00Z".into())
}

#[derive(Serialize)]
struct Granted {
    #[serde(flatten)]
    done: Done,
    expires_at_ms: u64,
    terms: Terms,
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
    if args.renew_due {
        let GrantArgs { scope, within, reason, keys, .. } = &args;
        let renew = RenewDue { below: scope.as_ref(), within_ms: *within, expires_at_ms, reason, keys };
        return renew_due::run(out, globals, &renew);
    }
    let session = Session::open(out, globals)?;
    let signers = session.signers(&args.keys)?;
    // What people put their names to is what was verified here: the signed checkpoint, and the epoch and the authority
    // that follow from signatures.
    let (seen, epoch) = (session.checkpoint_to_sign_on()?, session.trust().epoch());
    let authority = session.authority().version;
    let terms = Terms { essential: args.essential.into_iter().collect(), limits: args.limits.limits() };
    let grant = Grant {
        scope: args.scope.expect("required by clap"),
        expires_at_ms,
        seen: Seen { epoch: epoch.id, size: seen.size, authority },
        terms: terms.clone(),
        reason: args.reason,
    };
    out.line(format!(
        "until {} (in {}), {}; seen: epoch {}, authority {authority} and {} entries with root {}",
        instant(expires_at_ms),
        span(expires_at_ms - now),
        status::terms(&terms),
        epoch.number,
        seen.size,
        seen.root.short()
    ));
    let signed = session.sign_loosening(Action::Grant(grant), &signers)?;
    let given = session.give(&signed, &[])?;
    let (mut gift, exit) = session.prove_given(vec![(signed, given)])?;
    match gift.commands.pop() {
        Some(done) => out.document(&Granted { done, expires_at_ms, terms }),
        None => out.document(&gift),
    }
    Ok(exit)
}
