//! The log as openraft uses it: all of it in memory for reading, and one thread that makes it durable.
//!
//! The thread owns the disk. It takes what has gathered since its last commit, writes all of that as one commit, and
//! then reports it in order: while the disk is busy with one commit, the next one grows. That is the group commit, and
//! it needs no timer.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;
use std::ops::RangeBounds;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use openraft::entry::RaftEntry;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use parking_lot::RwLock;
use tokio::sync::{oneshot, watch};

use super::OnFailure;
use super::types::{Entry, LogId, Types, Vote, decode, encode};
use crate::store::watchdog::{DISK_PATIENCE, Watchdog};
use crate::store::{Loaded, LogDisk, Op, Purged};

/// How much one commit gathers.
const GATHERED_JOBS: usize = 1024;
const GATHERED_BYTES: usize = 8 << 20;

/// The log in memory. It runs ahead of the disk by what the thread has not committed yet; openraft counts an entry as
/// stored only once its callback came.
#[derive(Default)]
struct Memory {
    entries: BTreeMap<u64, Entry>,
    purged: Option<LogId>,
    vote: Option<Vote>,
    committed: Option<LogId>,
}

/// Given to openraft, which calls it from one task.
pub(super) struct Log {
    memory: Arc<RwLock<Memory>>,
    jobs: Sender<Job>,
    purgeable: Purgeable,
    /// How often entries were dropped from the end.
    truncations: Arc<AtomicU64>,
    on_disk: watch::Receiver<OnDisk>,
}

/// How far the log is durable: the last entry that is, after so many truncations.
#[derive(Clone, Copy, Debug, Default)]
struct OnDisk {
    truncations: u64,
    last: Option<u64>,
}

/// For whoever applies entries: they are applied only once this node's own disk has them. openraft would apply them as
/// soon as a majority of *other* disks has; then the audit log, which is written from what was applied, could hold entries
/// that a crash takes from this log, and a log that lost entries could not be told from one that never had them.
pub(super) struct WriteAhead {
    truncations: Arc<AtomicU64>,
    on_disk: watch::Receiver<OnDisk>,
}

impl WriteAhead {
    pub(super) async fn reach(&mut self, index: u64) -> io::Result<()> {
        let truncations = &self.truncations;
        let reached = |on_disk: &OnDisk| {
            on_disk.truncations == truncations.load(Ordering::Acquire) && on_disk.last >= Some(index)
        };
        self.on_disk.wait_for(reached).await.map(drop).map_err(|_| writer_is_gone())
    }
}

/// Gives the last entry that may be purged, if there is one.
pub(super) type Purgeable = Box<dyn Fn() -> Option<u64> + Send + Sync>;

#[derive(Clone)]
pub(super) struct Reader {
    memory: Arc<RwLock<Memory>>,
}

/// Stops the writer thread, after everything that was given to it before.
pub(super) struct Writer {
    jobs: Sender<Job>,
    thread: JoinHandle<()>,
}

enum Job {
    Append { entries: Vec<Entry>, flushed: IOFlushed<Types> },
    Vote { vote: Vote, done: Done },
    Committed(Option<LogId>),
    TruncateAfter { keep: Option<u64>, done: Done },
    Purge { id: LogId, done: Done },
    Stop,
}

type Done = oneshot::Sender<io::Result<()>>;

/// Starts the writer thread on a disk, with what was loaded from it.
pub(super) fn start(
    disk: Box<dyn LogDisk>,
    loaded: &Loaded,
    purgeable: Purgeable,
    on_failure: OnFailure,
) -> io::Result<(Log, Writer)> {
    start_with_patience(disk, loaded, purgeable, on_failure, DISK_PATIENCE)
}

pub(super) fn start_with_patience(
    disk: Box<dyn LogDisk>,
    loaded: &Loaded,
    purgeable: Purgeable,
    on_failure: OnFailure,
    patience: Duration,
) -> io::Result<(Log, Writer)> {
    let memory = Memory {
        entries: loaded
            .entries
            .iter()
            .map(|(i, bytes)| Ok((*i, decode(bytes)?)))
            .collect::<io::Result<_>>()?,
        purged: loaded.purged.as_ref().map(|purged| decode(&purged.id)).transpose()?,
        vote: loaded.vote.as_deref().map(decode).transpose()?,
        committed: loaded.committed.as_deref().map(decode).transpose()?,
    };
    let memory = Arc::new(RwLock::new(memory));
    let (jobs, inbox) = channel();
    let last = memory.read().entries.keys().next_back().copied();
    let (report, on_disk) = watch::channel(OnDisk { truncations: 0, last });
    let hung = on_failure.clone();
    let watchdog = Watchdog::start(patience, move || {
        let what = format!("the disk of the log has not answered for {} s, it hangs", patience.as_secs());
        hung(&io::Error::new(io::ErrorKind::TimedOut, what));
    })?;
    let thread = std::thread::Builder::new()
        .name("raft-log".into())
        .spawn(move || write_until_stopped(disk, &inbox, &on_failure, &watchdog, &report))?;
    let truncations = Arc::default();
    Ok((Log { memory, jobs: jobs.clone(), purgeable, truncations, on_disk }, Writer { jobs, thread }))
}

impl Writer {
    /// Blocks until everything queued is durable and the disk is closed.
    pub(super) fn stop(self) {
        // Both fail only when the thread ended before, which it reported itself.
        let _ = self.jobs.send(Job::Stop);
        let _ = self.thread.join();
    }
}

fn write_until_stopped(
    disk: Box<dyn LogDisk>,
    inbox: &Receiver<Job>,
    on_failure: &OnFailure,
    watchdog: &Watchdog,
    on_disk: &watch::Sender<OnDisk>,
) {
    // The committed position waits here for the next commit that has another reason: nothing depends on it being
    // fresh, since a restart finds out again how far the log is committed.
    let mut committed = None;
    let mut stopped = false;
    while !stopped {
        let Ok(first) = inbox.recv() else { return };
        let mut commit = Commit::default();
        let mut next = Some(first);
        while let Some(job) = next {
            match job {
                Job::Stop => stopped = true,
                Job::Committed(id) => committed = Some(id),
                job => commit.add(job),
            }
            let full = commit.jobs >= GATHERED_JOBS || commit.bytes >= GATHERED_BYTES;
            next = if stopped || full { None } else { inbox.try_recv().ok() };
        }
        if (stopped || !commit.ops.is_empty())
            && let Some(id) = committed.take()
        {
            commit.save_committed(id);
        }
        let result = commit.encoded.and_then(|()| {
            let _request = watchdog.request();
            write(disk.as_ref(), &commit.ops)
        });
        if let Err(error) = &result {
            // A failed commit proves nothing about what is on the disk, and a second fsync would report success for
            // pages that the first one lost. Nobody has been told of these entries, and nobody will be: the process
            // ends here, and the next start reads what the disk really has.
            on_failure(error);
            stopped = true;
        } else {
            on_disk.send_modify(|on_disk| commit.ops.iter().for_each(|op| on_disk.follow(op)));
        }
        for waiting in commit.waiting {
            waiting.report(&result);
        }
    }
}

impl OnDisk {
    fn follow(&mut self, op: &Op) {
        match op {
            Op::Append { index, .. } => self.last = Some(*index),
            Op::TruncateAfter(keep) => {
                self.truncations += 1;
                self.last = *keep;
            }
            // What was purged was applied.
            Op::Purge(_) | Op::SaveIdentity(_) | Op::SaveVote(_) | Op::SaveCommitted(_) => {}
        }
    }
}

fn write(disk: &dyn LogDisk, ops: &[Op]) -> io::Result<()> {
    if ops.is_empty() {
        return Ok(());
    }
    let entries = ops.iter().filter(|op| matches!(op, Op::Append { .. })).count();
    if entries > 0 {
        metrics::histogram!("tagout_commit_batch_entries").record(entries as f64);
    }
    let began = Instant::now();
    let committed = catch_unwind(AssertUnwindSafe(|| disk.commit(ops)))
        .unwrap_or_else(|_| Err(io::Error::other("the log store panicked; the message is above")));
    metrics::histogram!("tagout_fsync_seconds").record(began.elapsed());
    committed
}

/// What goes to the disk at once.
struct Commit {
    ops: Vec<Op>,
    waiting: Vec<Waiting>,
    jobs: usize,
    bytes: usize,
    /// The first thing that could not be turned into bytes.
    encoded: io::Result<()>,
}

impl Default for Commit {
    fn default() -> Self {
        Self { ops: Vec::new(), waiting: Vec::new(), jobs: 0, bytes: 0, encoded: Ok(()) }
    }
}

enum Waiting {
    Append(IOFlushed<Types>),
    Call(Done),
}

impl Commit {
    fn add(&mut self, job: Job) {
        self.jobs += 1;
        match job {
            Job::Append { entries, flushed } => {
                for entry in entries {
                    self.push(encode(&entry).map(|bytes| Op::Append { index: entry.index(), entry: bytes }));
                }
                self.waiting.push(Waiting::Append(flushed));
            }
            Job::Vote { vote, done } => {
                self.push(encode(&vote).map(Op::SaveVote));
                self.waiting.push(Waiting::Call(done));
            }
            Job::TruncateAfter { keep, done } => {
                self.push(Ok(Op::TruncateAfter(keep)));
                self.waiting.push(Waiting::Call(done));
            }
            Job::Purge { id, done } => {
                self.push(encode(&id).map(|bytes| Op::Purge(Purged { index: id.index(), id: bytes })));
                self.waiting.push(Waiting::Call(done));
            }
            Job::Committed(_) | Job::Stop => {}
        }
    }

    fn save_committed(&mut self, id: Option<LogId>) {
        let bytes = id.map(|id| encode(&id)).transpose();
        self.push(bytes.map(Op::SaveCommitted));
    }

    fn push(&mut self, op: io::Result<Op>) {
        match op {
            Ok(op) => {
                if let Op::Append { entry, .. } = &op {
                    self.bytes += entry.len();
                }
                self.ops.push(op);
            }
            Err(e) => self.encoded = Err(e),
        }
    }
}

impl Waiting {
    fn report(self, result: &io::Result<()>) {
        let result = match result {
            Ok(()) => Ok(()),
            Err(e) => Err(io::Error::new(e.kind(), e.to_string())),
        };
        match self {
            Self::Append(flushed) => flushed.io_completed(result),
            // The caller may have been dropped at shutdown.
            Self::Call(done) => drop(done.send(result)),
        }
    }
}

fn writer_is_gone() -> io::Error {
    io::Error::other("the log writer has stopped")
}

impl Log {
    pub(super) fn write_ahead(&self) -> WriteAhead {
        WriteAhead { truncations: self.truncations.clone(), on_disk: self.on_disk.clone() }
    }

    fn send(&self, job: Job) -> io::Result<()> {
        self.jobs.send(job).map_err(|_| writer_is_gone())
    }

    async fn call(&self, job: impl FnOnce(Done) -> Job) -> io::Result<()> {
        let (done, answer) = oneshot::channel();
        self.send(job(done))?;
        answer.await.unwrap_or_else(|_| Err(writer_is_gone()))
    }
}

impl RaftLogStorage<Types> for Log {
    type LogReader = Reader;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, io::Error> {
        let memory = self.memory.read();
        let last = memory.entries.values().next_back().map(|entry| entry.log_id());
        Ok(LogState { last_purged_log_id: memory.purged, last_log_id: last.or(memory.purged) })
    }

    async fn get_log_reader(&mut self) -> Reader {
        Reader { memory: self.memory.clone() }
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        self.call(|done| Job::Vote { vote: *vote, done }).await?;
        self.memory.write().vote = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        self.memory.write().committed = committed;
        self.send(Job::Committed(committed))
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.memory.read().committed)
    }

    async fn append<I>(&mut self, entries: I, flushed: IOFlushed<Types>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + Send,
        I::IntoIter: Send,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        self.memory.write().entries.extend(entries.iter().map(|entry| (entry.index(), entry.clone())));
        self.send(Job::Append { entries, flushed })
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        let keep = last.map(|id| id.index());
        // Nothing counts as durable until the disk has forgotten what is dropped here.
        self.truncations.fetch_add(1, Ordering::AcqRel);
        self.memory.write().entries.split_off(&keep.map_or(0, |keep| keep + 1));
        self.call(|done| Job::TruncateAfter { keep, done }).await
    }

    /// openraft asks for this only behind a snapshot that is durable. One of this node's own waited until the audit log held
    /// everything up to it. One from the leader skips entries, which this node can no more apply: its audit log gets them
    /// from nodes that did (the leader's held them before its snapshot was made), and takes no snapshot of its own until
    /// then. So no entry leaves this log that a restart would need for the one or the other.
    async fn purge(&mut self, id: LogId) -> Result<(), io::Error> {
        let id = {
            let mut memory = self.memory.write();
            let Some(id) = memory.may_purge(id, &self.purgeable) else { return Ok(()) };
            memory.entries = memory.entries.split_off(&(id.index() + 1));
            memory.purged = Some(id);
            id
        };
        self.call(|done| Job::Purge { id, done }).await
    }
}

impl Memory {
    /// How much of what openraft would purge may go. Purging less is always right: it reads nothing from there again.
    fn may_purge(&self, wanted: LogId, purgeable: &Purgeable) -> Option<LogId> {
        if self.entries.keys().next_back().is_none_or(|last| *last < wanted.index()) {
            // A snapshot from the leader goes beyond this log, and nothing that is left here leads on from an older
            // one: kept entries would only leave a hole before the next one.
            return Some(wanted);
        }
        match purgeable()? {
            limit if limit < wanted.index() => self.entries.get(&limit).map(|entry| entry.log_id()),
            _ => Some(wanted),
        }
    }
}

impl RaftLogReader<Types> for Reader {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> Result<Vec<Entry>, io::Error>
    where
        RB: RangeBounds<u64> + Clone + Debug + Send,
    {
        Ok(self.memory.read().entries.range(range).map(|(_, entry)| entry.clone()).collect())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.memory.read().vote)
    }
}
