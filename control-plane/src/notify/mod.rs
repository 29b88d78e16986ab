//! Others are told what happened: receivers over HTTP, signed as standardwebhooks.com has it, and lines for a SIEM.
//!
//! ```text
//! an entry in this node's log (audit/) → an event (event.rs) → a body (format/) → a receiver (target/), by its courier (courier.rs)
//! ```
//!
//! Nothing of this is on the way of a stop. What is in the log is told from the log, behind it: each receiver has a cursor,
//! which all nodes know (state.rs) and which the leader moves once the receiver has taken an entry or it was given up. So an
//! entry is told at least once, whatever crashes, in the log's order but for doubles, and by the same id each time.
//!
//! What no log has (refused attempts, and what ends soon) goes to the leader, which has a bounded queue for it in memory: a
//! crash loses it, and it stands in the node's security log or is said again.

mod config;
mod courier;
mod event;
mod format;
pub mod key;
mod state;
mod target;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tagout_proto::digest::Digest;
use tagout_proto::log::entry::Entry;
use tagout_proto::wire;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub use self::config::ConfigError;
use self::config::{From, Receiver};
use self::courier::{Courier, Source};
pub use self::event::Attempt;
use self::event::{Event, Topic, expiry_id};
use self::state::{DeadLetter, State, States};
use self::target::Answer;
use crate::access::Access;
use crate::audit::AuditReader;
use crate::certificates::NodeTls;
use crate::clock;
use crate::cluster::Cluster;
use crate::due::{Ending, WARNED_BEFORE_H};
use crate::peers::Kind;
use crate::reserve::Reserve;

/// Events that no log has and that wait for one receiver, or for a leader. What comes on top is dropped and counted.
const QUEUE_MAX: usize = 1024;
/// How many of them are handed to the leader at once.
const HANDED_ON_MAX: usize = 64;
/// How often it is looked who leads.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Changes of a moment are saved and told to the other nodes together.
const KEPT_EVERY: Duration = Duration::from_millis(250);
/// A node that missed some is told again.
const TOLD_AGAIN_EVERY: Duration = Duration::from_secs(5);
const ASK_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a new leader waits for what the others know.
const GATHER_ROUNDS: usize = 5;
const HAND_ON_RETRY: Duration = Duration::from_millis(500);
const WARN_EVERY: Duration = Duration::from_secs(5);
const CERTIFICATE_EVERY: Duration = Duration::from_secs(60);
/// How long before its end a node's certificate is told of, in hours: what goes on for months is told of earlier, too.
const CERTIFICATE_WARNED_BEFORE_H: [u64; 5] = [30 * 24, 7 * 24, 72, 24, 1];
const MESSAGES_MAX_BYTES: usize = 16 << 20;

/// Who is told of what, and how far that is.
pub struct Notifications {
    node: String,
    deployment: Arc<str>,
    receivers: Vec<Arc<Receiver>>,
    path: PathBuf,
    reserve: Arc<Reserve>,
    states: Mutex<States>,
    /// The term in which this node leads and tells; `None` while it does not.
    lead: watch::Sender<Option<u64>>,
    queues: Mutex<BTreeMap<String, VecDeque<Event>>>,
    /// What happened here and is for the leader.
    outbox: Mutex<VecDeque<Event>>,
    outbox_filled: Notify,
    changed: Notify,
    wakes: BTreeMap<String, Arc<Wakes>>,
}

/// What ends a courier's wait.
#[derive(Default)]
struct Wakes {
    work: Notify,
    /// An operator wants something.
    asked: Notify,
}

/// What nodes ask one another, in JSON: it may gain fields.
#[derive(Serialize, Deserialize)]
enum Ask {
    /// How far the asking node knows the receivers to be; the answer is what the other one knows better.
    States(States),
    /// For the leader.
    Events(Vec<Event>),
    Replay {
        receiver: String,
        id: Option<String>,
    },
    Resume {
        receiver: String,
    },
}

/// Why an operator's wish was not carried out.
#[derive(Debug, thiserror::Error, Serialize, Deserialize)]
pub enum NotDone {
    #[error(
        "there is no receiver of that name in the leader's configuration: `tagout notifications` lists them"
    )]
    NoReceiver,
    #[error(
        "{0} is neither a dead letter of it nor the id of an entry: `tagout notifications` lists the dead letters"
    )]
    NoEvent(String),
    #[error("no leader is known, and only the leader tells receivers: try again in a moment")]
    NoLeader,
}

impl Notifications {
    /// Reads the file of receivers, if there is one, and how far they were told. Nothing is told before [`Self::start`].
    pub fn open(
        config: Option<&Path>,
        data: &Path,
        node: &str,
        deployment: &str,
        reserve: Arc<Reserve>,
    ) -> anyhow::Result<Arc<Self>> {
        let receivers = config.map(|path| config::load(path, node)).transpose()?.unwrap_or_default();
        let path = data.join("notifications.json");
        let states = state::load(&path)?;
        let names = receivers.iter().map(|receiver| receiver.name.clone());
        Ok(Arc::new(Self {
            node: node.into(),
            deployment: deployment.into(),
            wakes: names.map(|name| (name, Arc::default())).collect(),
            receivers: receivers.into_iter().map(Arc::new).collect(),
            path,
            reserve,
            states: Mutex::new(states),
            lead: watch::Sender::new(None),
            queues: Mutex::default(),
            outbox: Mutex::default(),
            outbox_filled: Notify::new(),
            changed: Notify::new(),
        }))
    }

    /// Tells receivers from here on, whenever this node leads. What is returned ends once the last change is saved.
    pub fn start(
        self: &Arc<Self>,
        cluster: &Arc<Cluster>,
        tls: Arc<NodeTls>,
        access: Arc<Access>,
        shutdown: &CancellationToken,
    ) -> JoinHandle<()> {
        let source = Source {
            deployment: self.deployment.clone(),
            audit: cluster.audit.clone(),
            replica: cluster.replica.clone(),
        };
        for receiver in &self.receivers {
            let courier = Courier { desk: self.clone(), receiver: receiver.clone(), source: source.clone() };
            tokio::spawn(courier.run(shutdown.clone()));
        }
        if !self.receivers.is_empty() {
            tokio::spawn(self.clone().follow_the_lead(cluster.clone(), shutdown.clone()));
            tokio::spawn(self.clone().hand_on(cluster.clone(), shutdown.clone()));
            tokio::spawn(self.clone().warn(cluster.clone(), access, shutdown.clone()));
            tokio::spawn(self.clone().warn_of_certificate(tls, shutdown.clone()));
        }
        tokio::spawn(self.clone().keep(cluster.clone(), shutdown.clone()))
    }

    /// Takes what was refused here; it never waits.
    pub fn refused(&self, attempt: &Attempt<'_>) {
        if !self.receivers.iter().any(|receiver| receiver.wants_topic(Topic::Security)) {
            return;
        }
        self.post(Event::of_attempt(&self.deployment, &self.node, random_id("sec"), attempt));
    }

    fn post(&self, event: Event) {
        if push(&mut self.outbox.lock(), event).is_some() {
            count_dropped("every", 1);
        }
        self.outbox_filled.notify_one();
    }

    /// Begins to tell once this node leads and knows what the others know, and ends when it does not lead any more.
    async fn follow_the_lead(self: Arc<Self>, cluster: Arc<Cluster>, shutdown: CancellationToken) {
        let mut tick = tokio::time::interval(LOOK_EVERY);
        while shutdown.run_until_cancelled(tick.tick()).await.is_some() {
            if !cluster.recovered.load(std::sync::atomic::Ordering::Relaxed) || !cluster.audit.complete() {
                continue;
            }
            self.begin_new(&cluster).await;
            let status = cluster.status();
            let led = *self.lead.borrow();
            if !status.is_leader {
                self.lead.send_if_modified(|lead| lead.take().is_some());
            } else if led != Some(status.term) {
                self.gather(&cluster).await;
                self.lead.send_replace(Some(status.term));
                // From here on its word counts for more than that of the leaders before.
                for receiver in &self.receivers {
                    self.alter(&receiver.name, status.term, |_| {});
                }
            }
        }
        self.lead.send_replace(None);
    }

    /// Where receivers begin that nobody has told anything yet. It is saved at once: a crash before that would have them
    /// begin later, at what is then the end.
    async fn begin_new(&self, cluster: &Cluster) {
        let began = {
            let mut states = self.states.lock();
            let new: Vec<_> = (self.receivers.iter())
                .filter(|receiver| !states.contains_key(&receiver.name))
                .map(|receiver| (receiver.name.clone(), receiver.from))
                .collect();
            if new.is_empty() {
                return;
            }
            for (name, from) in new {
                let cursor = match from {
                    From::Beginning => 0,
                    From::End => cluster.audit.checkpointed_size(),
                };
                states.insert(name, State { cursor, ..State::default() });
            }
            states.clone()
        };
        if let Err(error) = self.save(began).await {
            tracing::error!(%error, "where new receivers begin cannot be saved: after a crash they begin later");
        }
        self.changed.notify_one();
    }

    /// Only on a disk with room that no stop may need (S10).
    async fn save(&self, states: States) -> io::Result<()> {
        if !self.reserve.has_spare() {
            return Err(io::Error::other("the disk is nearly full, and what room there is belongs to stops"));
        }
        let path = self.path.clone();
        crate::blocking(move || state::save(&path, &states)).await
    }

    /// Learns from the others how far the leaders before have come. Those that do not answer may be gone; what only they know
    /// is told twice.
    async fn gather(&self, cluster: &Arc<Cluster>) {
        for _ in 0..GATHER_ROUNDS {
            let others = cluster.peers.others();
            let answered = self.exchange(cluster).await;
            if answered >= others.len().div_ceil(2) {
                return;
            }
        }
    }

    /// Tells every other node how far it is, and takes over what they know better. Gives how many answered.
    async fn exchange(&self, cluster: &Arc<Cluster>) -> usize {
        let states = self.states.lock().clone();
        let request = encode(&Ask::States(states));
        let asked = cluster.peers.others().into_iter().map(|id| {
            let request = request.clone();
            async move { cluster.peers.call(id, Kind::Notifications, request, ASK_TIMEOUT).await }
        });
        let mut answered = 0;
        for answer in join_all(asked).await {
            match answer.map_err(io::Error::other).and_then(|answer| decode::<States>(&answer)) {
                Ok(theirs) => {
                    answered += 1;
                    self.learn(theirs);
                }
                Err(error) => {
                    tracing::debug!(%error, "a peer does not say how far receivers were told")
                }
            }
        }
        answered
    }

    fn learn(&self, theirs: States) {
        if state::merge(&mut self.states.lock(), theirs) {
            self.changed.notify_one();
        }
    }

    /// Saves what changes, and tells the other nodes. On a disk that is nearly full it stays in memory (S10).
    async fn keep(self: Arc<Self>, cluster: Arc<Cluster>, shutdown: CancellationToken) {
        let mut saved = self.states.lock().clone();
        let mut complained = false;
        loop {
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = async {
                    let _ = tokio::time::timeout(TOLD_AGAIN_EVERY, self.changed.notified()).await;
                    tokio::time::sleep(KEPT_EVERY).await;
                } => {}
            }
            if self.lead.borrow().is_some() {
                self.exchange(&cluster).await;
            }
            let states = self.states.lock().clone();
            if states != saved {
                match self.save(states.clone()).await {
                    Ok(()) => (saved, complained) = (states, false),
                    Err(error) if !complained => {
                        tracing::warn!(%error, "how far receivers were told is not saved now: after a crash they are told twice");
                        complained = true;
                    }
                    Err(_) => {}
                }
            }
            if shutdown.is_cancelled() {
                return;
            }
        }
    }

    /// Brings what happened here to the leader.
    async fn hand_on(self: Arc<Self>, cluster: Arc<Cluster>, shutdown: CancellationToken) {
        loop {
            let events: Vec<Event> = self.outbox.lock().iter().take(HANDED_ON_MAX).cloned().collect();
            if events.is_empty() {
                if shutdown.run_until_cancelled(self.outbox_filled.notified()).await.is_none() {
                    return;
                }
                continue;
            }
            let ids: BTreeSet<String> = events.iter().map(|event| event.id.clone()).collect();
            let taken = match self.ask_leader(&cluster, Ask::Events(events)).await {
                Ok(answer) => matches!(decode(&answer), Ok(true)),
                Err(NotDone::NoLeader | NotDone::NoReceiver | NotDone::NoEvent(_)) => false,
            };
            if taken {
                self.outbox.lock().retain(|event| !ids.contains(&event.id));
            } else if shutdown.run_until_cancelled(tokio::time::sleep(HAND_ON_RETRY)).await.is_none() {
                return;
            }
        }
    }

    /// Has the leader do it, which may be this node.
    async fn ask_leader(&self, cluster: &Arc<Cluster>, ask: Ask) -> Result<Vec<u8>, NotDone> {
        if self.lead.borrow().is_some() {
            return Ok(self.do_here(&cluster.audit, ask).await);
        }
        let leader =
            cluster.status().leader.filter(|leader| *leader != cluster.id).ok_or(NotDone::NoLeader)?;
        let asked = cluster.peers.call(leader, Kind::Notifications, encode(&ask), ASK_TIMEOUT).await;
        asked.map_err(|error| {
            tracing::debug!(%error, "the leader does not take what is for receivers");
            NotDone::NoLeader
        })
    }

    /// What another node asks of this one.
    pub async fn answer(&self, audit: &AuditReader, request: &[u8]) -> io::Result<Vec<u8>> {
        Ok(self.do_here(audit, decode(request)?).await)
    }

    async fn do_here(&self, audit: &AuditReader, ask: Ask) -> Vec<u8> {
        match ask {
            Ask::States(theirs) => {
                let better = state::newer(&self.states.lock(), &theirs);
                self.learn(theirs);
                encode(&better)
            }
            Ask::Events(events) => {
                let leads = self.lead.borrow().is_some();
                if leads {
                    events.into_iter().for_each(|event| self.queue(event));
                }
                encode(&leads)
            }
            Ask::Replay { receiver, id } => encode(&self.replay_here(audit, &receiver, id).await),
            Ask::Resume { receiver } => encode(&self.resume_here(&receiver)),
        }
    }

    /// For every receiver that wants it.
    fn queue(&self, event: Event) {
        for receiver in self.receivers.iter().filter(|receiver| receiver.wants(&event)) {
            let warned = self.states.lock().get(&receiver.name).is_some_and(|s| s.warned.contains(&event.id));
            let mut queues = self.queues.lock();
            let queue = queues.entry(receiver.name.clone()).or_default();
            if warned || queue.iter().any(|queued| queued.id == event.id) {
                continue;
            }
            if push(queue, event.clone()).is_some() {
                count_dropped(&receiver.name, 1);
            }
            self.wakes(&receiver.name).work.notify_one();
        }
    }

    fn queued(&self, receiver: &str) -> Option<Event> {
        self.queues.lock().get(receiver)?.front().cloned()
    }

    fn unqueue(&self, receiver: &str, id: &str) {
        if let Some(queue) = self.queues.lock().get_mut(receiver) {
            queue.retain(|event| event.id != id);
        }
    }

    /// Of what ends soon, while this node leads. API tokens are those of its own access file.
    async fn warn(self: Arc<Self>, cluster: Arc<Cluster>, access: Arc<Access>, shutdown: CancellationToken) {
        let mut tick = tokio::time::interval(WARN_EVERY);
        while shutdown.run_until_cancelled(tick.tick()).await.is_some() {
            let Some(term) = *self.lead.borrow() else { continue };
            let now_ms = clock::wall_ms();
            let endings = Ending::all(&cluster.replica, &access.tokens(), now_ms);
            for ending in &endings {
                if let Some(hours) = ending.within_h(now_ms) {
                    self.queue(Event::of_expiry(&self.deployment, ending, hours));
                }
            }
            // Of what has ended, or is followed by now, nobody was warned any more.
            let ends = |id: &String| {
                !id.starts_with("exp_")
                    || endings.iter().any(|e| WARNED_BEFORE_H.iter().any(|h| expiry_id(&e.id, *h) == *id))
            };
            for receiver in &self.receivers {
                let stale = |state: &State| state.warned.iter().any(|id| !ends(id));
                if self.states.lock().get(&receiver.name).is_some_and(stale) {
                    self.alter(&receiver.name, term, |state| state.warned.retain(ends));
                }
            }
        }
    }

    async fn warn_of_certificate(self: Arc<Self>, tls: Arc<NodeTls>, shutdown: CancellationToken) {
        let mut said: Option<(Digest, u64)> = None;
        let mut tick = tokio::time::interval(CERTIFICATE_EVERY);
        while shutdown.run_until_cancelled(tick.tick()).await.is_some() {
            let Some((cert, days_left)) = tls.days_left() else { continue };
            let hours_left = days_left * 24.0;
            let before = CERTIFICATE_WARNED_BEFORE_H.into_iter().filter(|hours| hours_left <= *hours as f64);
            if let Some(hours) = before.min()
                && said != Some((cert, hours))
            {
                said = Some((cert, hours));
                let now_ms = clock::wall_ms();
                self.post(Event::of_certificate(&self.deployment, &self.node, &cert, hours, now_ms));
            }
        }
    }

    fn state(&self, receiver: &str) -> State {
        self.states.lock().get(receiver).cloned().unwrap_or_default()
    }

    /// Changes a receiver's state as the leader of `term`.
    fn alter<T>(&self, receiver: &str, term: u64, change: impl FnOnce(&mut State) -> T) -> T {
        let mut states = self.states.lock();
        let state = states.entry(receiver.to_owned()).or_default();
        let changed = change(state);
        state.seq = if state.term == term { state.seq + 1 } else { 1 };
        state.term = term;
        drop(states);
        self.changed.notify_one();
        changed
    }

    fn wakes(&self, receiver: &str) -> Arc<Wakes> {
        self.wakes.get(receiver).cloned().unwrap_or_default()
    }

    fn receiver(&self, name: &str) -> Result<&Arc<Receiver>, NotDone> {
        self.receivers.iter().find(|receiver| receiver.name == name).ok_or(NotDone::NoReceiver)
    }

    /// Sends dead letters again, or whatever entry `id` names; all of them without one. Gives how many that are.
    pub async fn replay(
        &self,
        cluster: &Arc<Cluster>,
        receiver: &str,
        id: Option<String>,
    ) -> Result<u64, NotDone> {
        let receiver = self.receiver(receiver)?.name.clone();
        let answer = self.ask_leader(cluster, Ask::Replay { receiver, id }).await?;
        decode(&answer).unwrap_or(Err(NotDone::NoLeader))
    }

    async fn replay_here(
        &self,
        audit: &AuditReader,
        receiver: &str,
        id: Option<String>,
    ) -> Result<u64, NotDone> {
        let receiver = &self.receiver(receiver)?.name;
        let known = self.state(receiver).dead.iter().any(|letter| id.as_ref() == Some(&letter.id));
        let lead = || (*self.lead.borrow()).ok_or(NotDone::NoLeader);
        let count = match &id {
            Some(id) if !known => {
                let entry = entry_named(audit, id).await;
                let index = entry.ok_or_else(|| NotDone::NoEvent(event::shortened(id, 100)))?;
                let letter = DeadLetter {
                    id: id.clone(),
                    index: Some(index),
                    event: None,
                    attempts: 0,
                    error: "somebody wants it once more".into(),
                    at_ms: clock::wall_ms(),
                    again: true,
                };
                self.alter(receiver, lead()?, |state| state.bury(receiver, letter));
                1
            }
            _ => self.alter(receiver, lead()?, |state| {
                let wanted =
                    state.dead.iter_mut().filter(|letter| id.as_ref().is_none_or(|id| *id == letter.id));
                wanted.map(|letter| letter.again = true).count() as u64
            }),
        };
        self.wakes(receiver).asked.notify_one();
        Ok(count)
    }

    /// Goes on with a receiver that had answered 410, or tries at once what waits for its next attempt.
    pub async fn resume(&self, cluster: &Arc<Cluster>, receiver: &str) -> Result<(), NotDone> {
        let receiver = self.receiver(receiver)?.name.clone();
        let answer = self.ask_leader(cluster, Ask::Resume { receiver }).await?;
        decode(&answer).unwrap_or(Err(NotDone::NoLeader))
    }

    fn resume_here(&self, receiver: &str) -> Result<(), NotDone> {
        let receiver = &self.receiver(receiver)?.name;
        let term = (*self.lead.borrow()).ok_or(NotDone::NoLeader)?;
        self.alter(receiver, term, |state| state.disabled = None);
        self.wakes(receiver).asked.notify_one();
        Ok(())
    }

    /// Sends one test event from this node, and gives what was answered.
    pub async fn test(&self, receiver: &str) -> Result<wire::NotificationTest, NotDone> {
        let receiver = self.receiver(receiver)?;
        let event = Event::test(&self.deployment, random_id("tst"), clock::wall_ms());
        let (delivered, answer) = match receiver.target.send(&event, self.reserve.has_spare()).await {
            Answer::Taken(answer) => (true, answer),
            Answer::Refused(why) | Answer::Gone(why) | Answer::Later { why, .. } => (false, why),
        };
        Ok(wire::NotificationTest { id: event.id, delivered, answer })
    }

    /// How far the receivers of this node's configuration were told, as far as it knows.
    pub fn shown(&self, log_size: u64) -> wire::Notifications {
        let receivers = self.receivers.iter().map(|receiver| {
            let state = self.state(&receiver.name);
            let queued = self.queues.lock().get(&receiver.name).map_or(0, VecDeque::len) as u64;
            let dead_letters = state.dead.into_iter().map(|letter| wire::DeadLetter {
                id: letter.id,
                index: letter.index,
                attempts: letter.attempts,
                error: letter.error,
                at_ms: letter.at_ms,
                again: letter.again,
            });
            let failing = state.failing.map(|failing| wire::FailingNotification {
                id: failing.id,
                since_ms: failing.since_ms,
                attempts: failing.attempts,
                error: failing.error,
                next_ms: failing.next_ms,
            });
            wire::NotificationReceiver {
                name: receiver.name.clone(),
                format: receiver.target.format().into(),
                place: receiver.target.place(),
                cursor: state.cursor,
                behind: log_size.saturating_sub(state.cursor),
                queued,
                disabled: state.disabled,
                failing,
                dead_letters: dead_letters.collect(),
                dead_letters_dropped: state.dead_dropped,
            }
        });
        wire::Notifications { node: self.node.clone(), log_size, receivers: receivers.collect() }
    }

    /// For /metrics.
    pub fn report(&self, log_size: u64) {
        for receiver in self.shown(log_size).receivers {
            let gauge = |name: &'static str, value: u64| {
                metrics::gauge!(name, "receiver" => receiver.name.clone()).set(value as f64);
            };
            gauge("tagout_notifications_behind_entries", receiver.behind);
            gauge("tagout_notifications_dead_letters", receiver.dead_letters.len() as u64);
            gauge("tagout_notifications_disabled", receiver.disabled.is_some().into());
            gauge("tagout_notifications_dead_letters_dropped", receiver.dead_letters_dropped);
        }
    }
}

/// The entry that `id` names: only if it is the very id that the entry is told of by.
async fn entry_named(audit: &AuditReader, id: &str) -> Option<u64> {
    let index = event::entry_of(id).filter(|index| *index < audit.checkpointed_size())?;
    let audit = audit.clone();
    let bytes = crate::blocking(move || audit.entry_bytes(index)).await.ok()??;
    let digest = Entry::decode(&bytes).ok()?.envelope.digest();
    (event::entry_id(index, &digest) == id).then_some(index)
}

/// Gives back what has no room. That is a refused attempt, if there is one: strangers can make as many as they like.
fn push(queue: &mut VecDeque<Event>, event: Event) -> Option<Event> {
    let mut dropped = None;
    if queue.len() >= QUEUE_MAX {
        let attempt = queue.iter().rposition(|queued| queued.topic == Topic::Security);
        let Some(at) = attempt.filter(|_| event.topic != Topic::Security) else { return Some(event) };
        dropped = queue.remove(at);
    }
    queue.push_back(event);
    dropped
}

fn count_dropped(receiver: &str, count: u64) {
    metrics::counter!("tagout_notifications_dropped_total", "receiver" => receiver.to_owned())
        .increment(count);
}

fn random_id(prefix: &str) -> String {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("the operating system has randomness");
    format!("{prefix}_{}", data_encoding::HEXLOWER.encode(&bytes))
}

fn encode(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("messages between nodes are plain data")
}

fn decode<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> io::Result<T> {
    if bytes.len() > MESSAGES_MAX_BYTES {
        return Err(io::Error::other("the message is too long"));
    }
    serde_json::from_slice(bytes).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::event::tests::{attempt, stop};
    use super::*;

    #[test]
    fn refused_attempts_take_no_place_of_anything_else() {
        let mut queue = VecDeque::new();
        (0..QUEUE_MAX).for_each(|_| assert_eq!(push(&mut queue, attempt()), None));
        assert_eq!(push(&mut queue, attempt()).map(|event| event.topic), Some(Topic::Security));
        for _ in 0..QUEUE_MAX {
            assert_eq!(push(&mut queue, stop()).map(|event| event.topic), Some(Topic::Security));
        }
        assert_eq!(push(&mut queue, stop()), Some(stop()), "there is nothing else to drop");
        assert!(queue.len() == QUEUE_MAX && queue.iter().all(|event| *event == stop()));
    }
}
