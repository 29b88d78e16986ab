//! What a drill showed, as the log has it: read from the log that was verified here, and from nobody's word.

use std::time::{Duration, Instant};

use serde::Serialize;
use tagout_proto::command::ActionKind;
use tagout_proto::digest::Digest;
use tagout_proto::drill::{Drill, Drilled, Place};
use tagout_proto::envelope::Envelope;
use tagout_proto::ledger::StopRecord;
use tagout_proto::limits::{COMMAND_MAX_BYTES, DRILL_INSTANCES_MAX};
use tagout_proto::log::checkpoint::Checkpoint;
use tagout_proto::log::entry::Entry;
use tagout_proto::scope::Scope;
use tagout_proto::sshsig::DRILL_NAMESPACE;
use tagout_proto::wire::{DrillAnswer, Outcome, ReachState};

use crate::cli::failure::{Exit, Failure};
use crate::cli::log::tiles::LogReader;
use crate::cli::log::verify_all;
use crate::cli::out::{Ink, Out, count, now_ms};
use crate::cli::session::{Place as InTheLog, Session};
use crate::sign::Signer;

/// How long the log is waited for: a stop is settled by then, unless its node has gone.
const LOG_PATIENCE: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Evidence that is in the log.
#[derive(Serialize)]
pub struct Appended {
    #[serde(flatten)]
    pub answer: DrillAnswer,
    pub confirmed: u64,
    pub bounded: u64,
    pub slowest_ms: Option<u64>,
    pub resumed: bool,
    /// The exact text that was signed.
    pub document: String,
    pub log: InTheLog,
    #[serde(skip)]
    pub drill: Drill,
}

/// Whether whom the drill stopped is back.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Back {
    /// A node has shown so: its checkpoint covers that in a moment.
    Shown,
    /// That is for the log to say.
    Asked,
    /// Somebody says for good that it is not.
    Never,
}

/// The stop of a lock and the state that it is in, by the log that was verified now.
fn verified(session: &Session<'_>, lock: &Digest) -> Result<(Checkpoint, StopRecord), Failure> {
    let (note, checkpoint) = session.checkpoint_note(0)?;
    let mut record = None;
    let mut ended = |replay: &crate::cli::log::verify::Replay| record = replay.ledger().stop_record(lock);
    verify_all(session.out, &session.profile, &session.client, &note, &[], false, &mut ended)?;
    let record = record.ok_or_else(|| no_such_stop(&lock.to_string()))?;
    Ok((checkpoint, record))
}

/// The lock that is named by its digits, or by the first of them, and its scope.
pub fn find(session: &Session<'_>, text: &str) -> Result<(Digest, Scope), Failure> {
    if text.len() < Digest::default().short().len() {
        return Err(Failure::usage(format!(
            "{text:?} is too short for a lock id: give its first 12 digits or all 64"
        )));
    }
    let (note, _) = session.checkpoint_note(0)?;
    let mut found = Vec::new();
    let mut ended = |replay: &crate::cli::log::verify::Replay| {
        let ledger = replay.ledger();
        let of = |id: Digest| ledger.stop_record(&id).map(|record| (id, record.scope));
        found = ledger.stops_beginning(text).into_iter().filter_map(of).collect();
    };
    verify_all(session.out, &session.profile, &session.client, &note, &[], false, &mut ended)?;
    if found.len() > 1 {
        return Err(Failure::usage(format!("several locks begin with {text}: give all 64 digits")));
    }
    found.pop().ok_or_else(|| no_such_stop(text))
}

fn no_such_stop(text: &str) -> Failure {
    let detail = format!("no stop placed a lock {text}: `tagout log show` lists what is in the log");
    Failure::new(Exit::Failed, "no-such-stop", detail)
}

/// Writes down what the log says of this stop, signs it, and has it appended.
pub fn append(session: &Session<'_>, lock: Digest, signer: &Signer, back: Back) -> Result<Appended, Failure> {
    let begun = Instant::now();
    let (checkpoint, record) = loop {
        let (checkpoint, record) = verified(session, &lock)?;
        let whole = record.outcome.is_some() && (record.over || back != Back::Shown);
        if whole || begun.elapsed() > LOG_PATIENCE {
            break (checkpoint, record);
        }
        std::thread::sleep(LOOK_EVERY);
    };
    if let Some(index) = record.drill {
        let detail = format!("what this drill showed is in the log already: tagout log show {index}");
        return Err(Failure::new(Exit::Refused, "drill-known", detail));
    }
    if !record.over && back != Back::Never {
        let scope = &record.scope;
        let detail = format!(
            "{scope} is not brought back yet: sign that first (`tagout proposals`, or `tagout resume {scope} --reason WHY`), or say for \
             good that it was not, with --not-resumed"
        );
        return Err(Failure::new(Exit::MissingSignatures, "not-resumed", detail));
    }
    let drill = by_log(session, &checkpoint, lock, &record)?;
    let document = drill.to_document();
    let signatures = vec![signer.sign(DRILL_NAMESPACE, document.as_bytes())?];
    let envelope = Envelope { document, signatures };
    session.out.line(format!("signing {}", session.out.ink(Ink::Dim, &envelope.document)));
    let signers = session.trust().signers_in(DRILL_NAMESPACE, &envelope);
    for signer in &signers.valid {
        session.out.line(format!("  as {} ({})", signer.principal.name, signer.key.fingerprint()));
    }
    session.authority().authorise(ActionKind::Stop, &drill.scope, &signers)?;
    let answer = session.client.drill(&envelope)?;
    let log = session.prove(answer.index, &envelope)?;
    let (confirmed, bounded, slowest_ms) = (drill.confirmed, drill.bounded, drill.slowest_ms);
    let (document, resumed) = (envelope.document, record.over);
    Ok(Appended { answer, confirmed, bounded, slowest_ms, resumed, document, log, drill })
}

/// The drill that tells what the log says of a stop.
fn by_log(
    session: &Session<'_>,
    checkpoint: &Checkpoint,
    lock: Digest,
    record: &StopRecord,
) -> Result<Drill, Failure> {
    let reader = LogReader::new(&session.client, checkpoint.size);
    let entry = |index: u64| entry(&reader, checkpoint, index);
    let outcome = record.outcome.ok_or_else(|| {
        let detail = format!(
            "the outcome of this stop is not in the log yet, which a drill tells of: tagout drill finish {}, later",
            lock.short()
        );
        Failure::new(Exit::Unreachable, "no-outcome", detail)
    })?;
    let place = |index: u64| Ok::<_, Failure>(Place { digest: entry(index)?.0.envelope.digest(), index });
    let achieved = outcome_of(&entry(outcome)?.0)?;
    let mut instances = listed(&achieved);
    instances.truncate(DRILL_INSTANCES_MAX);
    let mut drill = Drill {
        deployment: session.deployment().clone(),
        issued_at_ms: now_ms(),
        scope: record.scope.clone(),
        stop: Place { digest: lock, index: record.index },
        outcome,
        release: record.release.map(place).transpose()?,
        start: record.start.map(place).transpose()?,
        confirmed: achieved.confirmed,
        bounded: achieved.bounded,
        slowest_ms: achieved.slowest_ms,
        instances,
    };
    // The counts hold for all; of many with long names fewer are listed.
    while drill.to_document().len() > COMMAND_MAX_BYTES && drill.instances.len() > 1 {
        drill.instances.pop();
    }
    // The reader that nodes use has the last word.
    Drill::parse(drill.to_document().as_bytes()).map_err(|error| match achieved.instances.is_empty() {
        true => {
            let detail = "the outcome tells of no instance: a drill on nothing proves nothing";
            Failure::new(Exit::Failed, "no-instance", detail)
        }
        false => error.into(),
    })
}

/// An entry that is proven to be in the log, and the SHA-256 of its bytes.
pub(super) fn entry(
    reader: &LogReader<'_>,
    checkpoint: &Checkpoint,
    index: u64,
) -> Result<(Entry, Digest), Failure> {
    let (bytes, _) = reader.proven_entry(index, checkpoint.root)?;
    let entry = Entry::decode(&bytes).map_err(|e| Failure::unverified("entry", e.to_string()))?;
    Ok((entry, Digest::of(&bytes)))
}

pub(super) fn outcome_of(entry: &Entry) -> Result<Outcome, Failure> {
    serde_json::from_str(&entry.envelope.document).map_err(|error| {
        let detail =
            format!("the outcome at entry {} is of another version of tagout ({error})", entry.index);
        Failure::new(Exit::Failed, "outcome", detail)
    })
}

/// What an outcome lists, as a drill does.
pub(super) fn listed(outcome: &Outcome) -> Vec<Drilled> {
    let each = outcome.instances.iter().map(|instance| {
        let after_ms = match instance.state {
            ReachState::Confirmed { after_ms, .. } => Some(after_ms),
            ReachState::Bounded { .. } | ReachState::Waiting { .. } => None,
        };
        Drilled { agent: instance.agent.clone(), instance: instance.instance.clone(), after_ms }
    });
    each.collect()
}

impl Appended {
    pub fn say(&self, out: &Out) {
        let (scope, all) = (out.ink(Ink::Bold, self.drill.scope.to_string()), self.confirmed + self.bounded);
        let slowest = self.slowest_ms.map(|ms| format!(", the slowest after {ms} ms")).unwrap_or_default();
        let silent = match self.bounded {
            0 => String::new(),
            n => format!("; {n} stayed silent and {} bounded instead", if n == 1 { "is" } else { "are" }),
        };
        let back = if self.resumed { "" } else { "; it is NOT brought back" };
        out.line(format!(
            "{} {scope} at entry {}: {} of {} confirmed{slowest}{silent}{back}",
            out.ink(Ink::Green, "drilled"),
            self.answer.index,
            self.confirmed,
            count(all, "instance"),
        ));
        let InTheLog { index, log_size, log_root } = &self.log;
        out.line(format!("in the log: index {index} of {log_size}, root {}, verified", log_root.short()));
    }

    /// What somebody has to look at.
    pub fn alert(&self, over_ms: Option<u64>) -> Option<String> {
        let scope = &self.drill.scope;
        if self.bounded > 0 {
            let silent = count(self.bounded, "instance");
            return Some(format!(
                "{silent} of {scope} did not confirm the stop and ran out of time instead: look at what they run, and at \
                 their network"
            ));
        }
        let (slowest, over) = (self.slowest_ms?, over_ms?);
        (slowest > over).then(|| {
            format!(
                "the slowest instance of {scope} confirmed after {slowest} ms, over {over} ms: look at its host"
            )
        })
    }
}
