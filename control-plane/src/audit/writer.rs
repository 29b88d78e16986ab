//! Writing the log: one thread, entries in, tiles and a checkpoint out.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use tagout_proto::digest::Digest;
use tagout_proto::log::checkpoint::Checkpoint;
use tagout_proto::log::tile::{
    TILE_WIDTH, TileId, TileKind, hashes_at, parse_bundle, parse_hashes, subtree_root,
};
use tagout_proto::note::NoteSigner;
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle as Task;

use super::AuditError;
use super::edge::Edge;
use super::fill::{ANSWER_TIMEOUT, Filler, Peers, Verified};
use super::gap::{Gap, Mark, Progress};
use super::reader::{AuditReader, Checkpointed, Pending, Recent};
use crate::reserve::Reserve;
use crate::store::files;
use crate::store::watchdog::{DISK_PATIENCE, Watchdog};

/// Entries that one checkpoint may cover.
const BATCH_MAX: usize = 4 * 1024;
/// The least time between two checkpoints. Each takes several syncs of the disk that stops wait for.
const PACE: Duration = Duration::from_millis(50);

/// The way to the writer, which ends once the log is dropped.
pub(super) type Jobs = Arc<Mutex<Option<Sender<Message>>>>;

pub(super) enum Message {
    Entry(Job),
    /// Answered once everything before it was compared or written.
    Barrier(oneshot::Sender<()>),
    /// The ledger was replaced by one of this size.
    Restored(Mark),
    /// Where a gap begins, and where its next entries end; `None` if there is none any more.
    Begin(oneshot::Sender<Option<Begun>>),
    /// Entries for the gap. Answered once they are in the log.
    Verified(Verified, oneshot::Sender<()>),
    /// The gap cannot be filled.
    Failed(AuditError),
}

/// A round of filling a gap: from the log as it is, to a target.
pub(super) struct Begun {
    pub(super) size: u64,
    pub(super) root: Digest,
    pub(super) target: Mark,
}

/// An applied entry on its way to the disk.
pub(super) struct Job {
    pub(super) index: u64,
    pub(super) bytes: Vec<u8>,
    /// The ledger's root after it: what the log's must be.
    pub(super) root: Digest,
}

/// Told of the error that ends the writing, once.
type OnFailure = Arc<Mutex<Option<Box<dyn FnOnce(AuditError) + Send>>>>;

fn report(failed: &OnFailure, error: AuditError) {
    let failed = failed.lock().take();
    if let Some(failed) = failed {
        failed(error);
    }
}

pub struct AuditLog {
    jobs: Jobs,
    reader: AuditReader,
    progress: Arc<watch::Sender<Progress>>,
    opened_size: u64,
    filler: Mutex<Option<Task<()>>>,
    thread: Option<JoinHandle<()>>,
    reserve: Arc<OnceLock<Arc<Reserve>>>,
}

impl AuditLog {
    /// Opens the log in `folder`, checks its edge against its own checkpoint, and starts the writer.
    ///
    /// `failed` is called once with the error that ends the writing: the process cannot go on without its log.
    pub fn open(
        folder: &Path,
        origin: String,
        signer: NoteSigner,
        failed: impl FnOnce(AuditError) + Send + 'static,
    ) -> Result<Self, AuditError> {
        Self::open_with(folder, origin, signer, failed, DISK_PATIENCE)
    }

    pub(super) fn open_with(
        folder: &Path,
        origin: String,
        signer: NoteSigner,
        failed: impl FnOnce(AuditError) + Send + 'static,
        patience: Duration,
    ) -> Result<Self, AuditError> {
        let at = |doing, path: &Path| {
            let path = path.display().to_string();
            move |source| AuditError::Io { doing, path, source }
        };
        let entries = folder.join("tile").join("entries");
        files::create_folder(&entries).map_err(at("created", &entries))?;
        files::sweep_temporaries(folder).map_err(at("cleaned", folder))?;
        let (edge, note) = load(folder, &origin, &signer)?;
        let (publish, checkpoint) = watch::channel(Checkpointed { size: edge.size(), note: note.into() });
        let edge = Arc::new(RwLock::new(edge));
        let pending = Pending::default();
        let progress = Arc::new(watch::Sender::new(Progress::default()));
        let reader = AuditReader {
            folder: folder.into(),
            pending,
            edge: edge.clone(),
            checkpoint,
            progress: progress.subscribe(),
            recent: Recent::default(),
        };
        let (jobs, queue) = channel();
        let opened_size = edge.read().size();
        let failed: OnFailure = Arc::new(Mutex::new(Some(Box::new(failed))));
        let (hung, path) = (failed.clone(), folder.display().to_string());
        let disk = Watchdog::start(patience, move || report(&hung, AuditError::Hung { path, patience }));
        let reserve = Arc::new(OnceLock::new());
        let mut writer = Writer {
            durable_size: edge.read().size(),
            reader: reader.clone(),
            origin,
            signer,
            publish,
            progress: progress.clone(),
            bundle: None,
            gap: None,
            disk: disk.map_err(at("watched", folder))?,
            reserve: reserve.clone(),
        };
        let thread = std::thread::Builder::new().name("audit-log".into()).spawn(move || {
            if let Err(error) = writer.run(&queue) {
                report(&failed, error);
            }
        });
        let (jobs, filler) = (Arc::new(Mutex::new(Some(jobs))), Mutex::default());
        let thread = Some(thread.map_err(at("written", folder))?);
        Ok(Self { jobs, reader, progress, opened_size, filler, thread, reserve })
    }

    /// Lets the disk reserve make room for what is written.
    pub fn draw_on(&self, reserve: Arc<Reserve>) {
        // Called once.
        let _ = self.reserve.set(reserve);
    }

    /// Names the other nodes, from which a gap is filled whenever there is one. Called once, in a runtime.
    pub fn fill_from(&self, peers: impl Peers) {
        self.fill_with(peers, ANSWER_TIMEOUT);
    }

    pub(super) fn fill_with(&self, peers: impl Peers, patience: Duration) {
        let (jobs, reader, progress) = (self.jobs.clone(), self.reader.clone(), self.progress.subscribe());
        let filler = tokio::spawn(Filler { peers, jobs, reader, progress, patience }.run());
        *self.filler.lock() = Some(filler);
    }

    pub fn reader(&self) -> AuditReader {
        self.reader.clone()
    }

    /// The entries that it had when it was opened.
    pub fn opened_size(&self) -> u64 {
        self.opened_size
    }

    /// For the moment when everything that was committed before the start is applied (after the first read barrier), and
    /// the ledger has `applied` entries.
    ///
    /// The Raft store and the audit log are two witnesses of one history. A store that was put back, or half lost, would
    /// forget acknowledged stops: it is refused before anything is served (S1, S8, S9).
    pub async fn caught_up(&self, applied: u64) -> Result<(), AuditError> {
        if applied < self.opened_size {
            return Err(AuditError::Ahead { applied, logged: self.opened_size });
        }
        self.compared().await
    }

    /// Waits until every entry that was handed over has been compared with the disk, or written to it, or left to a gap.
    pub async fn compared(&self) -> Result<(), AuditError> {
        let (waiting, reached) = oneshot::channel();
        let sent = self.jobs.lock().as_ref().is_some_and(|jobs| jobs.send(Message::Barrier(waiting)).is_ok());
        if sent && reached.await.is_ok() { Ok(()) } else { Err(AuditError::Ended) }
    }

    /// A sender for the state machine, which calls it in order for every entry that it applies, again after a restart.
    pub fn sink(&self) -> AuditSink {
        let (jobs, reader, progress) = (self.jobs.clone(), self.reader.clone(), self.progress.clone());
        AuditSink { jobs, reader, progress, opened_size: self.opened_size }
    }
}

impl Drop for AuditLog {
    /// Writes what is queued; what is applied afterwards is written by the replay of the next start.
    fn drop(&mut self) {
        *self.jobs.lock() = None;
        if let Some(filler) = self.filler.lock().take() {
            filler.abort();
        }
        if let Some(thread) = self.thread.take() {
            // A writer that panicked has reported itself; there is nothing to add.
            let _ = thread.join();
        }
    }
}

/// The state machine's end of the log.
pub struct AuditSink {
    jobs: Jobs,
    reader: AuditReader,
    progress: Arc<watch::Sender<Progress>>,
    opened_size: u64,
}

impl AuditSink {
    /// The entries that the log had when it was opened.
    pub fn opened_size(&self) -> u64 {
        self.opened_size
    }

    /// Hands an applied entry over, without waiting. Whoever proposes waits for a log that lags (`LAG_MAX`).
    pub fn append(&self, index: u64, bytes: Vec<u8>, root: Digest) {
        self.reader.recent.push(Mark { size: index + 1, root });
        if let Some(jobs) = self.jobs.lock().as_ref() {
            self.reader.pending.write().insert(index, bytes.clone());
            // The writer is gone only when its failure is ending the process already.
            let _ = jobs.send(Message::Entry(Job { index, bytes, root }));
        }
    }

    /// Says that the ledger was replaced by a snapshot's, of `size` entries: the next one to be appended is entry `size`.
    /// What the log does not have up to there it fetches from other nodes. It is not [complete](AuditReader::complete)
    /// from this call on until it knows that it has everything.
    pub fn restored(&self, size: u64, root: Digest) {
        let mark = Mark { size, root };
        self.reader.recent.push(mark);
        if let Some(jobs) = self.jobs.lock().as_ref() {
            self.progress.send_modify(|progress| progress.unseen += 1);
            let _ = jobs.send(Message::Restored(mark));
        }
    }

    pub fn complete(&self) -> bool {
        self.reader.complete()
    }

    pub fn durable(&self) -> Durable {
        Durable(self.reader.checkpoint.clone(), self.reader.progress.clone())
    }
}

/// Waits for the log to be on disk.
pub struct Durable(watch::Receiver<Checkpointed>, watch::Receiver<Progress>);

impl Durable {
    /// Blocks until the checkpoint covers `size` entries. Not for async threads.
    ///
    /// Gives false once a snapshot from the leader left a gap, which may stay open for long.
    pub fn wait(self, size: u64) -> io::Result<bool> {
        let Self(mut checkpoint, mut progress) = self;
        let reached = Handle::current().block_on(async {
            tokio::select! {
                biased;
                reached = checkpoint.wait_for(|c| c.size >= size) => reached.map(|_| true),
                gap = progress.wait_for(|p| !p.complete()) => gap.map(|_| false),
            }
        });
        reached.map_err(|_| io::Error::other("the audit log's writer has ended"))
    }
}

/// What one checkpoint covers: all entries that are queued, and those that come until it may be written. Whoever waits for
/// an answer does not wait for that.
fn gathered(first: Message, queue: &Receiver<Message>, at: Instant) -> Vec<Message> {
    let mut gathered = vec![first];
    while gathered.len() < BATCH_MAX && matches!(gathered.last(), Some(Message::Entry(_))) {
        let left = at.saturating_duration_since(Instant::now());
        match queue.recv_timeout(left) {
            Ok(message) => gathered.push(message),
            Err(_) => break,
        }
    }
    gathered
}

struct Writer {
    /// Entries below this are on disk under a checkpoint.
    durable_size: u64,
    reader: AuditReader,
    origin: String,
    signer: NoteSigner,
    publish: watch::Sender<Checkpointed>,
    progress: Arc<watch::Sender<Progress>>,
    /// The full bundle that entries applied again are compared with.
    bundle: Option<(u64, Vec<Vec<u8>>)>,
    /// While the log is behind its ledger.
    gap: Option<Gap>,
    disk: Watchdog,
    reserve: Arc<OnceLock<Arc<Reserve>>>,
}

impl Writer {
    /// A stop was admitted for the room that there was, and others may have taken it since: before each write the reserve
    /// gives back what is short.
    fn make_room(&self, bytes: usize) -> Result<(), AuditError> {
        let Some(reserve) = self.reserve.get() else { return Ok(()) };
        reserve.make_room(bytes as u64).map_err(|e| self.io("written", e))
    }

    fn run(&mut self, queue: &Receiver<Message>) -> Result<(), AuditError> {
        let mut next_at = Instant::now();
        while let Ok(first) = queue.recv() {
            let (mut root, mut barriers) = (None, Vec::new());
            for message in gathered(first, queue, next_at) {
                match message {
                    Message::Entry(job) => root = self.take(job)?.or(root),
                    Message::Barrier(waiting) => barriers.push(waiting),
                    Message::Restored(mark) => {
                        if let Some(root) = root.take() {
                            self.checkpoint(root)?;
                        }
                        self.restored(mark)?;
                    }
                    // Whoever asked may have given up, here and below.
                    Message::Begin(asked) => drop(asked.send(self.begin())),
                    Message::Verified(entries, done) => {
                        self.fill(entries)?;
                        let _ = done.send(());
                    }
                    Message::Failed(error) => return Err(error),
                }
            }
            if let Some(root) = root {
                self.checkpoint(root)?;
                next_at = Instant::now() + PACE;
            }
            for waiting in barriers {
                let _ = waiting.send(());
            }
        }
        Ok(())
    }

    /// Takes an applied entry. Gives the root for a checkpoint if the entry is new to the log.
    fn take(&mut self, job: Job) -> Result<Option<Digest>, AuditError> {
        let (index, root) = (job.index, job.root);
        if let Some(gap) = &mut self.gap {
            let dropped = gap.append(job);
            let newest = gap.newest();
            self.forget(&dropped);
            self.say_missing(newest);
            return Ok(None);
        }
        let new = index >= self.durable_size;
        if new {
            self.push(index, job.bytes)?;
        } else {
            self.compare(&job)?;
        }
        self.reader.pending.write().remove(&index);
        Ok(new.then_some(root))
    }

    /// The ledger was replaced. A log that has as much must have had that root; one that has less has a gap.
    fn restored(&mut self, mark: Mark) -> Result<(), AuditError> {
        let size = self.reader.edge.read().size();
        if mark.size > size {
            let dropped = match &mut self.gap {
                Some(gap) => gap.skip_to(mark),
                None => {
                    self.gap = Some(Gap::new(mark));
                    Vec::new()
                }
            };
            self.forget(&dropped);
            let missing = mark.size - size;
            tracing::warn!(missing, "the ledger came in a snapshot, and the log lacks what is before it");
            self.progress.send_modify(|progress| {
                *progress = Progress { unseen: progress.unseen - 1, missing };
            });
            return Ok(());
        }
        let request = self.disk.request();
        let root = self.reader.tree_root(mark.size).map_err(|e| self.io("read", e))?;
        drop(request);
        if root != Some(mark.root) {
            return Err(AuditError::Diverged { index: mark.size.saturating_sub(1) });
        }
        self.progress.send_modify(|progress| progress.unseen -= 1);
        Ok(())
    }

    fn begin(&mut self) -> Option<Begun> {
        let target = self.gap.as_mut()?.begin();
        let edge = self.reader.edge.read();
        Some(Begun { size: edge.size(), root: edge.root(), target })
    }

    /// Adds entries that follow from the ledger's root. Checkpoints come often enough that a crash costs little, and at full
    /// tiles; the one at the target comes at last. All of them are of a log that the ledger had.
    fn fill(&mut self, entries: Verified) -> Result<(), AuditError> {
        let Some(target) = self.gap.as_ref().and_then(Gap::target) else { return Ok(()) };
        let (first, entries) = entries.into_parts();
        for (index, bytes) in (first..).zip(entries) {
            self.push(index, bytes)?;
            let (size, last_full) = (index + 1, target.size - target.size % TILE_WIDTH);
            let due = size - self.durable_size >= BATCH_MAX as u64 || size == last_full;
            if size.is_multiple_of(TILE_WIDTH) && due && size < target.size {
                let root = self.reader.edge.read().root();
                self.checkpoint(root)?;
            }
        }
        if self.reader.edge.read().size() == target.size {
            self.checkpoint(target.root)?;
            self.end_round()?;
        }
        if let Some(gap) = &self.gap {
            let newest = gap.newest();
            self.say_missing(newest);
        }
        Ok(())
    }

    /// The target is reached. If the entries since were kept, the log has them all with these.
    fn end_round(&mut self) -> Result<(), AuditError> {
        let Some(tail) = self.gap.as_mut().and_then(Gap::end_round) else { return Ok(()) };
        self.gap = None;
        let mut root = None;
        for job in tail {
            root = self.take(job)?.or(root);
        }
        if let Some(root) = root {
            self.checkpoint(root)?;
        }
        tracing::info!(size = self.durable_size, "the log has what it lacked");
        self.progress.send_modify(|progress| progress.missing = 0);
        Ok(())
    }

    fn say_missing(&self, newest: Mark) {
        let missing = newest.size - self.reader.edge.read().size();
        self.progress.send_modify(|progress| progress.missing = missing);
    }

    fn forget(&self, dropped: &[Job]) {
        let mut pending = self.reader.pending.write();
        dropped.iter().for_each(|job| drop(pending.remove(&job.index)));
    }

    /// An entry that was on disk before the restart must come out of the replay again, byte for byte (S9).
    fn compare(&mut self, job: &Job) -> Result<(), AuditError> {
        let diverged = AuditError::Diverged { index: job.index };
        if let Some(entry) = self.reader.edge.read().entry(job.index) {
            return if entry == job.bytes { Ok(()) } else { Err(diverged) };
        }
        let n = job.index / TILE_WIDTH;
        if self.bundle.as_ref().is_none_or(|(have, _)| *have != n) {
            let request = self.disk.request();
            let entries = self.reader.bundle(n).map_err(|e| self.io("read", e))?;
            drop(request);
            self.bundle = Some((n, entries));
        }
        let entries = self.bundle.as_ref().map(|(_, entries)| entries);
        match entries.and_then(|entries| entries.get((job.index % TILE_WIDTH) as usize)) {
            Some(entry) if *entry == job.bytes => Ok(()),
            _ => Err(diverged),
        }
    }

    /// Takes an entry in and seals the tiles that it fills. A crash here leaves sealed tiles above the checkpoint; the
    /// replay fills them again with the same bytes.
    fn push(&mut self, index: u64, bytes: Vec<u8>) -> Result<(), AuditError> {
        let size = self.reader.edge.read().size();
        if index != size {
            return Err(self.damaged(format!("entry {index} was applied where entry {size} was due")));
        }
        if !(size + 1).is_multiple_of(TILE_WIDTH) {
            self.reader.edge.write().push(bytes);
            return Ok(());
        }
        // Readers see a full tile in the edge or in its file: so the files come first.
        let mut next = self.reader.edge.read().clone();
        for (id, bytes) in next.push(bytes) {
            self.make_room(bytes.len())?;
            let _request = self.disk.request();
            let path = self.reader.path(id);
            let folder = path.parent().expect("a tile lies in a folder");
            files::create_folder(folder)
                .and_then(|()| files::create_once(&path, &bytes))
                .map_err(|e| self.io("sealed", e))?;
        }
        *self.reader.edge.write() = next;
        Ok(())
    }

    /// Makes everything up to the edge durable, the signed checkpoint last. A crash before its rename leaves the older
    /// checkpoint, whose partial bundle is removed only afterwards.
    fn checkpoint(&mut self, ledger_root: Digest) -> Result<(), AuditError> {
        let (size, root, bundle) = {
            let edge = self.reader.edge.read();
            (edge.size(), edge.root(), edge.bundle(TILE_WIDTH as usize))
        };
        if root != ledger_root {
            return Err(AuditError::Diverged { index: size - 1 });
        }
        self.make_room(bundle.len())?;
        let began = Instant::now();
        let request = self.disk.request();
        let width = (size % TILE_WIDTH) as u16;
        if width > 0 {
            let path = self.reader.path(TileId { kind: TileKind::Entries, n: size / TILE_WIDTH, width });
            let folder = path.parent().expect("a partial bundle lies in a folder");
            files::create_folder(folder)
                .and_then(|()| files::create_once(&path, &bundle))
                .map_err(|e| self.io("written", e))?;
        }
        let note = Checkpoint { origin: self.origin.clone(), size, root }.sign(&self.signer);
        let path = self.reader.folder.join("checkpoint");
        files::replace(&path, note.as_bytes()).map_err(|e| self.io("checkpointed", e))?;
        let before = std::mem::replace(&mut self.durable_size, size);
        self.publish.send_replace(Checkpointed { size, note: note.into() });
        self.remove_partial(before).map_err(|e| self.io("tidied", e))?;
        drop(request);
        metrics::histogram!("tagout_checkpoint_seconds").record(began.elapsed());
        Ok(())
    }

    /// Removes the partial bundle of the checkpoint before: each entry of it now stands in a newer or full bundle too.
    fn remove_partial(&self, size: u64) -> io::Result<()> {
        let width = (size % TILE_WIDTH) as u16;
        if width == 0 {
            return Ok(());
        }
        let path = self.reader.path(TileId { kind: TileKind::Entries, n: size / TILE_WIDTH, width });
        fs::remove_file(&path)?;
        if self.durable_size / TILE_WIDTH > size / TILE_WIDTH {
            fs::remove_dir(path.parent().expect("a partial bundle lies in a folder"))?;
        }
        Ok(())
    }

    fn io(&self, doing: &'static str, source: io::Error) -> AuditError {
        AuditError::Io { doing, path: self.reader.folder.display().to_string(), source }
    }

    fn damaged(&self, what: String) -> AuditError {
        AuditError::Damaged { path: self.reader.folder.display().to_string(), what }
    }
}

/// The edge that the checkpoint in `folder` vouches for, and the checkpoint itself.
fn load(folder: &Path, origin: &str, signer: &NoteSigner) -> Result<(Edge, String), AuditError> {
    let shown = folder.display().to_string();
    let damaged = |what: String| AuditError::Damaged { path: shown.clone(), what };
    let read = |path: &Path| match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(AuditError::Io { doing: "read", path: path.display().to_string(), source }),
    };
    let Some(note) = read(&folder.join("checkpoint"))? else {
        tidy(folder, 0)?;
        return Ok((Edge::default(), String::new()));
    };
    let note = String::from_utf8(note).map_err(|_| damaged("its checkpoint is not text".into()))?;
    let checkpoint = Checkpoint::open(&note, &signer.verifier(), origin)
        .map_err(|e| damaged(format!("its checkpoint: {e}")))?;
    let size = checkpoint.size;
    let tile = |kind, n, width| folder.join("tile").join(TileId { kind, n, width }.to_string());

    // The partial tile of each upper level holds the roots of the full tiles below it that no full tile covers yet.
    let mut upper_levels = Vec::new();
    for level in 1u8..=8 {
        let (below, own) = (level - 1, hashes_at(level, size));
        if own == 0 {
            break;
        }
        let mut hashes = Vec::new();
        for n in own / TILE_WIDTH * TILE_WIDTH..own {
            let path = tile(TileKind::Hashes { level: below }, n, TILE_WIDTH as u16);
            let full =
                read(&path)?.and_then(|bytes| parse_hashes(&bytes)).filter(|h| h.len() as u64 == TILE_WIDTH);
            let full = full.ok_or_else(|| damaged(format!("tile {} is missing or torn", path.display())))?;
            hashes.push(subtree_root(&full));
        }
        upper_levels.push(hashes);
    }

    let (n, width) = (size / TILE_WIDTH, (size % TILE_WIDTH) as usize);
    let mut edge = Edge::at_full_tiles(n * TILE_WIDTH, upper_levels);
    if width > 0 {
        let partial = read(&tile(TileKind::Entries, n, width as u16))?;
        let bundle =
            partial.ok_or_else(|| damaged(format!("the bundle of its last {width} entries is missing")))?;
        let entries = parse_bundle(&bundle).filter(|entries| entries.len() == width);
        let entries =
            entries.ok_or_else(|| damaged(format!("the bundle of its last {width} entries is torn")))?;
        for entry in entries {
            edge.push(entry.to_vec());
        }
    }
    if edge.root() != checkpoint.root {
        return Err(damaged("its entries and tiles do not hash to its own checkpoint".into()));
    }
    tidy(folder, size)?;
    Ok((edge, note))
}

/// Removes what a crash left at the right edge: temporary files, and partial bundles that the checkpoint does not name.
/// The replay writes again what is still needed.
fn tidy(folder: &Path, size: u64) -> Result<(), AuditError> {
    let tiles = folder.join("tile");
    let (n, width) = (size / TILE_WIDTH, size % TILE_WIDTH);
    let io = |source| AuditError::Io { doing: "tidied", path: tiles.display().to_string(), source };
    let kinds = (0..8).map(|level| TileKind::Hashes { level }).chain([TileKind::Entries]);
    for kind in kinds {
        let level = if let TileKind::Hashes { level } = kind { level } else { 0 };
        let next =
            TileId { kind, n: hashes_at(level, size) / TILE_WIDTH, width: TILE_WIDTH as u16 }.to_string();
        let next = tiles.join(next);
        if let Some(folder) = next.parent().filter(|f| f.is_dir()) {
            files::sweep_temporaries(folder).map_err(io)?;
        }
    }
    // A crash can have come after the bundles of a whole batch, whose checkpoint was the next step.
    for n in n.saturating_sub(1)..=n + BATCH_MAX as u64 / TILE_WIDTH + 1 {
        let partial = tiles.join(TileId { kind: TileKind::Entries, n, width: 1 }.to_string());
        let partials = partial.parent().expect("a partial bundle lies in a folder");
        if !partials.is_dir() {
            continue;
        }
        for entry in fs::read_dir(partials).map_err(io)? {
            let entry = entry.map_err(io)?;
            if n != size / TILE_WIDTH || *entry.file_name().to_string_lossy() != width.to_string() {
                fs::remove_file(entry.path()).map_err(io)?;
            }
        }
        if n != size / TILE_WIDTH {
            fs::remove_dir(partials).map_err(io)?;
        }
    }
    Ok(())
}
