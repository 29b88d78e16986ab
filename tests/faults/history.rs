//! What happened in a run, for the checkers: every answer that an operator got, every decision of a guard, every lease and
//! checkpoint that a node signed. All times are nanoseconds since boot, by this process's clock, in which the guards live too.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use parking_lot::Mutex;
use rustix::time::{ClockId, clock_gettime};
use tagout_proto::digest::Digest;
use tagout_proto::ledger::LockRecord;
use tagout_proto::lock::LockKind;
use tagout_proto::log::checkpoint::Checkpoint;
use tagout_proto::log::entry::Entry;
use tagout_proto::scope::Scope;

/// Nanoseconds since boot, by the clock that bounds a stop (S3).
pub fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs()
}

/// A run as it is being written.
#[derive(Default)]
pub struct History(Mutex<Record>);

#[derive(Clone, Debug, Default)]
pub struct Record {
    /// Everything that was ever sent, by digest.
    pub commands: BTreeMap<Digest, Command>,
    pub attempts: Vec<Attempt>,
    pub decisions: Vec<Decision>,
    pub leases: Vec<Lease>,
    /// By node.
    pub checkpoints: Vec<(usize, Checkpoint)>,
    /// When no node could answer a guard: no quorum was together, or clients were cut off.
    pub outages: Vec<Range<u64>>,
    pub faults: Vec<(u64, String)>,
    /// Nodes whose writes failed: what they cannot keep they cannot call pending, and say so.
    pub cannot_write: BTreeSet<usize>,
    /// When everything was taken back, and every node ready.
    pub healed_ns: Option<u64>,
}

#[derive(Clone, Debug)]
pub struct Command {
    pub what: What,
    pub by: By,
    pub document: String,
}

#[derive(Clone, Debug, PartialEq)]
pub enum What {
    Lock { scope: Scope, kind: LockKind },
    Release { locks: Vec<Digest> },
    Start { scope: Scope, locks: Vec<Digest> },
    Grant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// Whom the authority names, and enough of them.
    Operators,
    Automation,
    /// A document that must never take effect.
    Forger,
}

/// One request and its answer.
#[derive(Clone, Debug)]
pub struct Attempt {
    pub digest: Digest,
    pub node: usize,
    pub sent_ns: u64,
    pub answered_ns: u64,
    pub answer: Answer,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// 201, or 200 for bytes that took effect before: acknowledged.
    Took {
        index: u64,
    },
    Refused {
        status: u16,
        code: String,
    },
    /// The node or the network said nothing.
    Nothing,
}

/// One `check()`.
#[derive(Clone, Debug)]
pub struct Decision {
    /// Read before the check: a permit is not older than this.
    pub at_ns: u64,
    pub guard: usize,
    pub agent: Scope,
    pub verdict: Decided,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Decided {
    /// With the time that the lease had left.
    Allowed {
        left_ns: u64,
    },
    /// By this lock.
    Stopped(Digest),
    /// It ends by itself.
    Lapsed,
    Other(String),
}

/// A lease that a node signed for a nonce of ours.
#[derive(Clone, Debug)]
pub struct Lease {
    pub node: usize,
    /// When the nonce was made.
    pub asked_ns: u64,
    pub answered_ns: u64,
    pub log_size: u64,
    pub log_root: Digest,
    pub epoch_number: u64,
    pub authority_version: u64,
    pub ttl_ms: u64,
}

/// A node after everything was healed.
#[derive(Clone, Debug, Default)]
pub struct Ending {
    /// Raw, as its log has them.
    pub entries: Vec<Vec<u8>>,
    pub locks: Vec<LockRecord>,
}

impl History {
    pub fn sent(&self, digest: Digest, command: Command) {
        self.0.lock().commands.entry(digest).or_insert(command);
    }

    pub fn attempt(&self, attempt: Attempt) {
        self.0.lock().attempts.push(attempt);
    }

    pub fn decided(&self, decisions: impl IntoIterator<Item = Decision>) {
        self.0.lock().decisions.extend(decisions);
    }

    pub fn lease(&self, lease: Lease) {
        self.0.lock().leases.push(lease);
    }

    pub fn checkpoint(&self, node: usize, checkpoint: Checkpoint) {
        self.0.lock().checkpoints.push((node, checkpoint));
    }

    pub fn outage(&self, outage: Range<u64>) {
        self.0.lock().outages.push(outage);
    }

    pub fn fault(&self, what: String) {
        self.0.lock().faults.push((now_ns(), what));
    }

    pub fn cannot_write(&self, node: usize) {
        self.0.lock().cannot_write.insert(node);
    }

    pub fn healed(&self) {
        self.0.lock().healed_ns = Some(now_ns());
    }

    /// The run so far.
    pub fn record(&self) -> Record {
        self.0.lock().clone()
    }

    pub fn acknowledged(&self) -> usize {
        self.0.lock().acknowledged().count()
    }
}

/// A lock in its life, as far as clients know it.
pub struct Life<'a> {
    pub id: Digest,
    pub scope: &'a Scope,
    pub kind: LockKind,
    /// When it was first acknowledged.
    pub acknowledged_ns: Option<u64>,
    /// When a document that names it and that ends its hold was first sent: the release, after a halt or drain the start.
    pub may_end_ns: Option<u64>,
    /// A release, and after a halt or drain a start, were acknowledged.
    pub ended: bool,
}

impl Record {
    pub fn acknowledged(&self) -> impl Iterator<Item = &Attempt> {
        self.attempts.iter().filter(|attempt| matches!(attempt.answer, Answer::Took { .. }))
    }

    /// Every lock that somebody entitled sent.
    pub fn lives(&self) -> Vec<Life<'_>> {
        // When each document was first sent, and first acknowledged.
        let mut sent: BTreeMap<Digest, u64> = BTreeMap::new();
        let mut took: BTreeMap<Digest, u64> = BTreeMap::new();
        for attempt in &self.attempts {
            let first = |map: &mut BTreeMap<Digest, u64>, at: u64| {
                let earliest = map.entry(attempt.digest).or_insert(at);
                *earliest = at.min(*earliest);
            };
            // What was refused for what it is has done nothing.
            if !matches!(attempt.answer, Answer::Refused { status: 400..500, .. }) {
                first(&mut sent, attempt.sent_ns);
            }
            if matches!(attempt.answer, Answer::Took { .. }) {
                first(&mut took, attempt.answered_ns);
            }
        }
        // By lock: the first release and the first start that name it, as sent and as acknowledged.
        let mut released: BTreeMap<Digest, (Option<u64>, Option<u64>)> = BTreeMap::new();
        let mut started = released.clone();
        for (digest, command) in self.commands.iter().filter(|(_, command)| command.by != By::Forger) {
            let (locks, ends) = match &command.what {
                What::Release { locks } => (locks, &mut released),
                What::Start { locks, .. } => (locks, &mut started),
                What::Lock { .. } | What::Grant => continue,
            };
            for lock in locks {
                let (first_sent, first_took) = ends.entry(*lock).or_default();
                *first_sent = earlier(*first_sent, sent.get(digest).copied());
                *first_took = earlier(*first_took, took.get(digest).copied());
            }
        }
        self.commands
            .iter()
            .filter(|(_, command)| command.by != By::Forger)
            .filter_map(|(id, command)| {
                let What::Lock { scope, kind } = &command.what else { return None };
                let (release_sent, release_took) = released.get(id).copied().unwrap_or_default();
                let (start_sent, start_took) = started.get(id).copied().unwrap_or_default();
                let (may_end_ns, ended) = if kind.needs_start() {
                    let both = release_sent.zip(start_sent).map(|(release, start)| release.max(start));
                    (both, release_took.is_some() && start_took.is_some())
                } else {
                    (release_sent, release_took.is_some())
                };
                let acknowledged_ns = took.get(id).copied();
                Some(Life { id: *id, scope, kind: *kind, acknowledged_ns, may_end_ns, ended })
            })
            .collect()
    }
}

impl Ending {
    pub fn decoded(&self) -> impl Iterator<Item = Entry> + '_ {
        self.entries.iter().map(|bytes| Entry::decode(bytes).expect("a node keeps entries"))
    }
}

fn earlier(one: Option<u64>, other: Option<u64>) -> Option<u64> {
    one.into_iter().chain(other).min()
}
