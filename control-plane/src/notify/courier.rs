//! Tells one receiver, in order, for as long as this node leads. A receiver that is slow or gone holds up nobody else.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tagout_proto::digest::Digest;
use tagout_proto::limits::PROPOSAL_TTL_MS;
use tagout_proto::lock::parse_placing;
use tagout_proto::log::entry::{Entry, EntryKind};
use tagout_proto::scope::Scope;
use tagout_proto::wire::Outcome;
use tokio_util::sync::CancellationToken;

use super::Notifications;
use super::config::Receiver;
use super::event::{self, Event, Topic};
use super::state::{DeadLetter, Failing, State, WARNED_MAX};
use super::target::Answer;
use crate::audit::AuditReader;
use crate::clock;
use crate::replica::Replica;
use crate::signers::signed_by;

/// Entries that are read from the log at once.
const READ_AT_ONCE: u64 = 64;
/// The pause before a log that could not be read is read again.
const READ_RETRY: Duration = Duration::from_secs(1);
/// From the first failure on the pause doubles, up to the second. Of each pause half is random.
const BACK_OFF_FIRST: Duration = Duration::from_secs(1);
const BACK_OFF_MAX: Duration = Duration::from_secs(15 * 60);
/// How far back it is looked whether a proposal's entry is its first.
const LOOK_BACK_MAX: u64 = 4096;

/// Where events come from: this node's log.
#[derive(Clone)]
pub struct Source {
    pub deployment: Arc<str>,
    pub audit: AuditReader,
    pub replica: Arc<Replica>,
}

pub struct Courier {
    pub desk: Arc<Notifications>,
    pub receiver: Arc<Receiver>,
    pub source: Source,
}

/// What is told next.
enum Job {
    Entry(u64, Event),
    Again(Event),
    Unlogged(Event),
}

impl Job {
    fn event(&self) -> &Event {
        match self {
            Self::Entry(_, event) | Self::Again(event) | Self::Unlogged(event) => event,
        }
    }
}

impl Courier {
    pub async fn run(self, shutdown: CancellationToken) {
        let mut lead = self.desk.lead.subscribe();
        loop {
            let term = *lead.borrow_and_update();
            tokio::select! {
                () = shutdown.cancelled() => return,
                // What is under way then may arrive, and the next leader sends it once more.
                _ = lead.changed() => {}
                () = self.work(term) => {}
            }
        }
    }

    /// Goes on until it is dropped.
    async fn work(&self, term: Option<u64>) {
        let Some(term) = term else { return std::future::pending().await };
        let name = &self.receiver.name;
        let wakes = self.desk.wakes(name);
        let (mut read, mut failures) = (VecDeque::new(), 0);
        loop {
            let state = self.desk.state(name);
            let job = if state.disabled.is_some() { None } else { self.next(term, &state, &mut read).await };
            let Some(job) = job else {
                let cursor = self.desk.state(name).cursor;
                let more = async {
                    match &state.disabled {
                        Some(_) => std::future::pending().await,
                        None => self.source.audit.wait_for(cursor + 1).await,
                    }
                };
                tokio::select! {
                    () = more => {}
                    () = wakes.work.notified() => {}
                    () = wakes.asked.notified() => {}
                }
                continue;
            };
            let answer = self.receiver.target.send(job.event(), self.desk.reserve.has_spare()).await;
            let pause = match answer {
                Answer::Taken(_) => {
                    metrics::counter!("tagout_notifications_sent_total", "receiver" => name.clone())
                        .increment(1);
                    self.finish(term, &job, None);
                    failures = 0;
                    continue;
                }
                Answer::Refused(why) => {
                    self.count_failed();
                    tracing::error!(
                        receiver = name,
                        id = job.event().id,
                        why,
                        "a notification was refused: it is a dead letter"
                    );
                    self.finish(term, &job, Some((why, self.attempts(&job) + 1)));
                    failures = 0;
                    continue;
                }
                Answer::Gone(why) => {
                    self.count_failed();
                    tracing::error!(
                        receiver = name,
                        why,
                        "the receiver wants no more notifications (410) and is DISABLED; nothing is lost: `tagout notifications \
                         resume {name}` goes on from there"
                    );
                    self.desk.alter(name, term, |state| state.disabled = Some(why));
                    continue;
                }
                Answer::Later { why, after } => {
                    self.count_failed();
                    failures += 1;
                    let pause = pause(failures, after, random_unit());
                    if let Some(given_up) = self.fail(term, &job, why, pause) {
                        tracing::error!(
                            receiver = name,
                            id = job.event().id,
                            why = given_up.0,
                            attempts = given_up.1,
                            "a notification could not be delivered for too long: it is a dead letter"
                        );
                        self.finish(term, &job, Some(given_up));
                        continue;
                    }
                    pause
                }
            };
            // A stop does not wait for what is not in the log.
            let cursor = self.desk.state(name).cursor;
            let overtaken = async {
                match &job {
                    Job::Entry(..) => std::future::pending().await,
                    Job::Again(_) | Job::Unlogged(_) => self.source.audit.wait_for(cursor + 1).await,
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = overtaken => {}
                () = wakes.asked.notified() => {}
            }
        }
    }

    /// Entries come first, then what people want again, then what no log has.
    async fn next(&self, term: u64, state: &State, read: &mut VecDeque<(u64, Vec<u8>)>) -> Option<Job> {
        let mut cursor = state.cursor;
        while cursor < self.source.audit.checkpointed_size() {
            if read.front().is_none_or(|(index, _)| *index != cursor) {
                *read = self.read(cursor).await;
                continue;
            }
            let (index, bytes) = read.front().expect("seen above").clone();
            let source = self.source.clone();
            let made = crate::blocking(move || source.event(&bytes)).await;
            let wanted = match made {
                Ok(event) => Some(event).filter(|event| self.receiver.wants(event)),
                Err(error) => {
                    tracing::error!(receiver = self.receiver.name, index, %error, "an entry cannot be told of yet");
                    tokio::time::sleep(READ_RETRY).await;
                    continue;
                }
            };
            if let Some(event) = wanted {
                return Some(Job::Entry(index, event));
            }
            read.pop_front();
            cursor = index + 1;
            self.desk.alter(&self.receiver.name, term, |state| state.cursor = cursor);
        }
        for letter in state.dead.iter().filter(|letter| letter.again) {
            match self.revive(letter).await {
                Ok(event) => return Some(Job::Again(event)),
                Err(error) => {
                    tracing::error!(receiver = self.receiver.name, id = letter.id, %error, "it cannot be replayed");
                    let letter = DeadLetter { again: false, error, ..letter.clone() };
                    self.desk
                        .alter(&self.receiver.name, term, |state| state.bury(&self.receiver.name, letter));
                }
            }
        }
        self.desk.queued(&self.receiver.name).map(Job::Unlogged)
    }

    async fn read(&self, from: u64) -> VecDeque<(u64, Vec<u8>)> {
        let audit = self.source.audit.clone();
        match crate::blocking(move || audit.entries(from, READ_AT_ONCE)).await {
            Ok(entries) if !entries.is_empty() => (from..).zip(entries).collect(),
            result => {
                let error = result.err().map(|error| error.to_string());
                tracing::error!(receiver = self.receiver.name, from, error, "the log cannot be read");
                tokio::time::sleep(READ_RETRY).await;
                VecDeque::new()
            }
        }
    }

    async fn revive(&self, letter: &DeadLetter) -> Result<Event, String> {
        match (letter.index, &letter.event) {
            (Some(index), _) => {
                let source = self.source.clone();
                let event = crate::blocking(move || {
                    let bytes = source.audit.entry_bytes(index)?;
                    source.event(&bytes.ok_or_else(|| std::io::Error::other("no such entry is in the log"))?)
                });
                event.await.map_err(|error| error.to_string())
            }
            (None, Some(event)) => Ok(event.clone()),
            (None, None) => Err("nothing is known of it".into()),
        }
    }

    fn attempts(&self, job: &Job) -> u32 {
        let state = self.desk.state(&self.receiver.name);
        state.failing.filter(|failing| failing.id == job.event().id).map_or(0, |failing| failing.attempts)
    }

    /// Notes a failure; gives it back, with the attempts, where that was the last one.
    fn fail(&self, term: u64, job: &Job, error: String, pause: Duration) -> Option<(String, u32)> {
        let (now_ms, id) = (clock::wall_ms(), &job.event().id);
        let give_up_ms = self.receiver.give_up_after.as_millis() as u64;
        let name = &self.receiver.name;
        self.desk.alter(name, term, |state| {
            let known = state.failing.take().filter(|failing| failing.id == *id);
            let since_ms = known.as_ref().map_or(now_ms, |failing| failing.since_ms);
            let attempts = known.map_or(0, |failing| failing.attempts).saturating_add(1);
            if attempts == 1 {
                tracing::warn!(receiver = name, id, error, "a notification is not delivered yet");
            }
            if now_ms.saturating_sub(since_ms) >= give_up_ms {
                return Some((error, attempts));
            }
            let next_ms = now_ms + pause.as_millis() as u64;
            state.failing = Some(Failing { id: id.clone(), since_ms, attempts, error, next_ms });
            None
        })
    }

    /// It is done with: delivered, or given up.
    fn finish(&self, term: u64, job: &Job, given_up: Option<(String, u32)>) {
        let name = &self.receiver.name;
        let event = job.event();
        self.desk.alter(name, term, |state| {
            state.failing = None;
            match job {
                Job::Entry(index, _) => state.cursor = index + 1,
                Job::Again(_) => {}
                Job::Unlogged(_) => {
                    if event.topic == Topic::Expiry {
                        if state.warned.len() >= WARNED_MAX {
                            state.warned.pop_first();
                        }
                        state.warned.insert(event.id.clone());
                    }
                }
            }
            let before = match job {
                Job::Again(_) => state.dead.iter().position(|letter| letter.id == event.id),
                Job::Entry(..) | Job::Unlogged(_) => None,
            };
            match given_up {
                None => drop(before.map(|at| state.dead.remove(at))),
                Some((error, attempts)) => {
                    let before = before.map_or(0, |at| state.dead[at].attempts);
                    let letter = DeadLetter {
                        id: event.id.clone(),
                        index: event::entry_of(&event.id),
                        event: event::entry_of(&event.id).is_none().then(|| event.clone()),
                        attempts: before.saturating_add(attempts),
                        error,
                        at_ms: clock::wall_ms(),
                        again: false,
                    };
                    state.bury(name, letter);
                }
            }
        });
        if let Job::Unlogged(_) = job {
            self.desk.unqueue(name, &event.id);
        }
    }

    fn count_failed(&self) {
        metrics::counter!("tagout_notifications_failed_total", "receiver" => self.receiver.name.clone())
            .increment(1);
    }
}

impl Source {
    /// What an entry says. It may read others.
    fn event(&self, bytes: &[u8]) -> std::io::Result<Event> {
        let entry = Entry::decode(bytes).map_err(std::io::Error::other)?;
        // Copied, so that nothing is verified while the ledger is held.
        let trust =
            if entry.envelope.signatures.is_empty() { None } else { self.replica.ledger().trust().cloned() };
        let by = trust.map(|trust| signed_by(&trust, entry.kind, &entry.envelope)).unwrap_or_default();
        let opens = entry.kind == EntryKind::Proposal && self.opens(&entry)?;
        let stopped = if entry.kind == EntryKind::Outcome { self.stopped(&entry)? } else { None };
        let surroundings = event::Surroundings { deployment: &self.deployment, by, opens, stopped };
        Ok(Event::of_entry(&entry, surroundings))
    }

    /// Whether no entry before has proposed the same while it was open.
    fn opens(&self, entry: &Entry) -> std::io::Result<bool> {
        let digest = entry.envelope.digest();
        let oldest = entry.index.saturating_sub(LOOK_BACK_MAX);
        for index in (oldest..entry.index).rev() {
            let before = self.audit.entry(index)?;
            if before.time_ms + PROPOSAL_TTL_MS <= entry.time_ms {
                return Ok(true);
            }
            if before.kind == EntryKind::Proposal && before.envelope.digest() == digest {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// What the stop stopped whose outcome this is.
    fn stopped(&self, entry: &Entry) -> std::io::Result<Option<Scope>> {
        let Ok(outcome) = serde_json::from_str::<Outcome>(&entry.envelope.document) else { return Ok(None) };
        let lock: Digest = outcome.outcome;
        let placed = self.replica.ledger().used_at(&lock);
        let Some(placed) = placed else { return Ok(None) };
        let placing = self.audit.entry(placed)?.envelope.document;
        Ok(parse_placing(placing.as_bytes()).ok().map(|placed| placed.scope))
    }
}

/// The pause after so many failures in a row, and no shorter than the receiver wants. `random` is from 0 to 1.
fn pause(failures: u32, after: Option<Duration>, random: f64) -> Duration {
    let doubled = BACK_OFF_FIRST.saturating_mul(1 << (failures.clamp(1, 20) - 1));
    let back_off = doubled.min(BACK_OFF_MAX);
    let jittered = back_off.mul_f64(0.5 + random / 2.0);
    // Nobody comes back at the very moment, where many were told the same.
    after.map_or(jittered, |after| jittered.max(after.mul_f64(1.0 + random / 10.0)))
}

fn random_unit() -> f64 {
    let bytes = getrandom::u32().expect("the operating system has randomness");
    f64::from(bytes) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_bound_and_half_of_each_is_random() {
        let s = Duration::from_secs;
        assert_eq!((pause(1, None, 0.0), pause(1, None, 1.0)), (Duration::from_millis(500), s(1)));
        assert_eq!(pause(4, None, 1.0), s(8));
        assert_eq!((pause(11, None, 1.0), pause(u32::MAX, None, 1.0)), (BACK_OFF_MAX, BACK_OFF_MAX));
        assert_eq!(pause(1, Some(s(30)), 0.0), s(30), "as long as the receiver wants");
        assert_eq!(pause(1, Some(s(30)), 1.0), s(33));
        assert_eq!(pause(11, Some(s(30)), 1.0), BACK_OFF_MAX);
    }
}
