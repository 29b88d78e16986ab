//! `tagout authority history`: every change of whom to believe, in the log's order and proven to be there.

use serde::Serialize;
use tagout_proto::command::{Action, Command};
use tagout_proto::digest::Digest;
use tagout_proto::envelope::Envelope;
use tagout_proto::log::entry::{Entry, EntryKind};
use tagout_proto::restore::Restore;
use tagout_proto::trust::Trust;

use crate::cli::Globals;
use crate::cli::failure::{Exit, Failure};
use crate::cli::log::tiles::LogReader;
use crate::cli::out::{Ink, Out, count, instant};
use crate::cli::session::Session;
use crate::signers::signed_by;

/// A document of the trust chain, and where the signed log has it.
pub struct Dated {
    pub index: u64,
    pub time_ms: u64,
    pub envelope: Envelope,
}

/// Proves where the documents of the chain lie. `entries` is what the node said of it.
pub fn dated(session: &Session<'_>, entries: &[u64]) -> Result<Vec<Dated>, Failure> {
    let documents = session.profile.chain.documents();
    if documents.len() != entries.len() || !entries.is_sorted() {
        let detail =
            "the node does not say where each document of whom to believe lies in the log: do not trust it";
        return Err(Failure::unverified("authority-entries", detail));
    }
    let checkpoint = session.checkpoint(entries.last().map_or(0, |newest| newest + 1))?;
    let reader = LogReader::new(&session.client, checkpoint.size);
    let date = |(envelope, index): (&Envelope, &u64)| {
        let (bytes, _) = reader.proven_entry(*index, checkpoint.root)?;
        let entry = Entry::decode(&bytes).ok().filter(|entry| entry.envelope.document == envelope.document);
        let entry = entry.ok_or_else(|| {
            let detail = format!("entry {index} of the log is not what the node says it is: do not trust it");
            Failure::unverified("authority-entries", detail)
        })?;
        Ok(Dated { index: *index, time_ms: entry.time_ms, envelope: envelope.clone() })
    };
    documents.iter().zip(entries).map(date).collect()
}

#[derive(Serialize)]
struct Event {
    index: u64,
    time_ms: u64,
    digest: Digest,
    signed_by: Vec<String>,
    #[serde(flatten)]
    what: What,
    reason: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "lowercase", tag = "kind")]
enum What {
    Authority { version: u64, disables: Option<u64> },
    Suspend { keys: Vec<String> },
    Restore { epoch: u64, lost_from: u64 },
}

pub fn run(out: &Out, globals: &Globals) -> Result<Exit, Failure> {
    let (session, entries) = Session::open_with_entries(out, globals)?;
    let events = dated(&session, &entries)?;
    let events = events.iter().map(|dated| event(session.trust(), dated)).collect::<Result<Vec<_>, _>>()?;
    out.document(&serde_json::json!({ "deployment": session.deployment().to_string(), "events": events }));
    for event in &events {
        say(out, event);
    }
    Ok(Exit::Ok)
}

fn event(trust: &Trust, dated: &Dated) -> Result<Event, Failure> {
    let document = dated.envelope.document.as_bytes();
    let (what, reason) = match Restore::parse(document) {
        Ok(restore) => {
            let (epoch, lost_from) = (restore.epoch.number, restore.lost_from);
            (What::Restore { epoch, lost_from }, Some(restore.reason))
        }
        Err(_) => match Command::parse(document)?.action {
            Action::Suspend(suspend) => {
                let keys = suspend.keys.iter().map(|key| key.fingerprint()).collect();
                (What::Suspend { keys }, Some(suspend.reason))
            }
            Action::Authority(authority) => {
                let disables = authority.succession.as_ref().map(|s| s.disables);
                let reason = authority.succession.and_then(|s| s.reason);
                (What::Authority { version: authority.version, disables }, reason)
            }
            other => {
                let detail = format!("a {} says nothing of whom to believe", other.kind());
                return Err(Failure::unverified("authority-entries", detail));
            }
        },
    };
    let (digest, signed_by) =
        (dated.envelope.digest(), signed_by(trust, EntryKind::Command, &dated.envelope));
    Ok(Event { index: dated.index, time_ms: dated.time_ms, digest, signed_by, what, reason })
}

fn say(out: &Out, event: &Event) {
    let what = match &event.what {
        What::Authority { version, disables } => {
            let disables = match disables {
                Some(n) if *n > 0 => format!(", disables {} at most", count(*n, "scope")),
                _ => String::new(),
            };
            format!("authority version {version} ({}){disables}", event.digest.short())
        }
        What::Suspend { keys } => format!("suspend {}", keys.join(", ")),
        What::Restore { epoch, lost_from } => {
            format!("restore: epoch {epoch} begins, locks from entry {lost_from} on may be lost")
        }
    };
    let reason = event.reason.as_ref().map(|reason| format!(" {reason:?}")).unwrap_or_default();
    let by = event.signed_by.join(", ");
    let index = out.ink(Ink::Dim, format!("{:>6}", event.index));
    out.line(format!("{index}  {}  {what} by {by}{reason}", instant(event.time_ms)));
}
