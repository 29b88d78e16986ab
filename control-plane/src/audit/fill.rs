//! Fetching what the log lacks from other nodes. Nothing that comes from them is believed: the ledger's own root says what
//! the entries must be, so a wrong one costs time and is never written (S9).
//!
//! The hash tiles come first, from the root down ([`Tree`]); then the entries, each against the leaf hash that the root
//! vouches for. So every entry is right when the writer gets it, however many there are, and memory holds few of them.

use std::collections::BTreeSet;
use std::io;
use std::time::Duration;

use tagout_proto::digest::Digest;
use tagout_proto::log::tile::{TILE_WIDTH, TileId};
use tagout_proto::log::tree::leaf_hash;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, timeout};

use super::AuditError;
use super::gap::Progress;
use super::reader::AuditReader;
use super::tree::{Side, Tiles, Tree, TreeError, first_difference};
use super::writer::{Begun, Jobs, Message};

/// A node that gives no answer for so long is left for another one.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// The pause after no node gave what is missing.
const RETRY: Duration = Duration::from_millis(500);
/// How often a long gap is spoken of.
const SAY_EVERY: Duration = Duration::from_secs(10);

/// The other nodes and their logs.
pub trait Peers: Send + Sync + 'static {
    /// All that may have the log, now. Empty says that this node has no others, and that its gap cannot be filled.
    fn others(&self) -> Vec<u64>;

    /// A hash tile of a peer's log, or `None` if that has not got so far ([`AuditReader::tile`] there).
    fn tile(&self, peer: u64, id: TileId) -> impl Future<Output = io::Result<Option<Vec<u8>>>> + Send;

    /// Entries of a peer's log from index `from` on: at least one unless it has not got so far, at most `max`
    /// ([`AuditReader::entries`] there).
    fn entries(
        &self,
        peer: u64,
        from: u64,
        max: u64,
    ) -> impl Future<Output = io::Result<Vec<Vec<u8>>>> + Send;
}

/// For a node that is alone.
pub struct NoPeers;

impl Peers for NoPeers {
    fn others(&self) -> Vec<u64> {
        Vec::new()
    }

    async fn tile(&self, _: u64, _: TileId) -> io::Result<Option<Vec<u8>>> {
        Err(io::ErrorKind::NotFound.into())
    }

    async fn entries(&self, _: u64, _: u64, _: u64) -> io::Result<Vec<Vec<u8>>> {
        Err(io::ErrorKind::NotFound.into())
    }
}

/// Entries that follow from the ledger's root. Only [`Filler::checked`] makes them.
pub(super) struct Verified {
    first: u64,
    entries: Vec<Vec<u8>>,
}

impl Verified {
    pub(super) fn into_parts(self) -> (u64, Vec<Vec<u8>>) {
        (self.first, self.entries)
    }
}

pub(super) struct Filler<P> {
    pub(super) peers: P,
    pub(super) jobs: Jobs,
    pub(super) reader: AuditReader,
    pub(super) progress: watch::Receiver<Progress>,
    pub(super) patience: Duration,
}

/// Why a peer gave no more.
enum Failure {
    /// It cannot be asked, or has not got so far.
    NotNow(String),
    /// It gave what does not follow from the root that its own tiles have.
    Wrong(String),
    /// Its log is not the one of this node's ledger.
    OtherRoot,
    /// This node's own log is the one that is wrong.
    Own(AuditError),
    /// The writer has ended.
    Ended,
}

/// A peer as one whose tiles can be read.
struct Peer<'a, P> {
    peers: &'a P,
    id: u64,
    patience: Duration,
}

impl<P: Peers> Tiles for Peer<'_, P> {
    async fn tile(&self, id: TileId) -> io::Result<Option<Vec<u8>>> {
        self.answered(self.peers.tile(self.id, id)).await
    }
}

impl<P> Peer<'_, P> {
    async fn answered<T>(&self, answer: impl Future<Output = io::Result<T>>) -> io::Result<T> {
        timeout(self.patience, answer).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<P: Peers> Filler<P> {
    /// Fills every gap, until the log is closed.
    pub(super) async fn run(mut self) {
        let mut said = Instant::now();
        // Those that gave something wrong are asked last.
        let mut wrong = BTreeSet::new();
        while self.progress.wait_for(|progress| progress.missing > 0).await.is_ok() {
            let mut peers = self.peers.others();
            peers.sort_by_key(|peer| wrong.contains(peer));
            if peers.is_empty() {
                return self.fail(self.alone());
            }
            let (mut others, mut filled, mut why) = (Vec::new(), false, Vec::new());
            for peer in &peers {
                match self.fetch(*peer, &mut said).await {
                    Ok(()) => {
                        filled = true;
                        break;
                    }
                    Err(Failure::NotNow(what)) => why.push(format!("node {peer}: {what}")),
                    Err(Failure::Wrong(what)) => {
                        tracing::error!(node = peer, %what, "a node gave what is not in the log; another one is asked");
                        wrong.insert(*peer);
                    }
                    Err(Failure::OtherRoot) => {
                        tracing::error!(node = peer, "the log of a node differs from this node's ledger");
                        wrong.insert(*peer);
                        others.push(*peer);
                    }
                    Err(Failure::Own(error)) => return self.fail(error),
                    Err(Failure::Ended) => return,
                }
            }
            if filled {
                continue;
            }
            // One that differs may be the wrong one. All, or a majority of the nodes, are not.
            if others.len() == peers.len() || others.len() * 2 > peers.len() + 1 {
                return self.fail(AuditError::PeersDiffer { nodes: others });
            }
            if said.elapsed() > SAY_EVERY {
                said = Instant::now();
                let missing = self.progress.borrow().missing;
                tracing::warn!(
                    missing,
                    why = why.join("; "),
                    "the log lacks entries, and no node gives them now"
                );
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// One round with one peer: everything up to where the ledger was at its beginning.
    async fn fetch(&self, peer: u64, said: &mut Instant) -> Result<(), Failure> {
        let Some(Begun { size, root, target }) = self.ask(Message::Begin).await? else { return Ok(()) };
        let peer = Peer { peers: &self.peers, id: peer, patience: self.patience };
        let mut theirs = Tree::open(&peer, target.size, target.root).await.map_err(of_peer)?;
        self.compare(size, root, &mut theirs).await?;

        let mut at = size;
        let mut written = None;
        while at < target.size {
            let n = at / TILE_WIDTH;
            let leaves = theirs.hashes(0, n).await.map_err(of_peer)?;
            let expected = &leaves[(at % TILE_WIDTH) as usize..];
            let entries = peer.answered(self.peers.entries(peer.id, at, expected.len() as u64)).await;
            let verified = Self::checked(at, entries.map_err(|e| Failure::NotNow(e.to_string()))?, expected)?;
            at += verified.entries.len() as u64;
            // The disk takes these while the next ones come.
            if let Some(written) = written.replace(self.send(|done| Message::Verified(verified, done))?) {
                written.await.map_err(|_| Failure::Ended)?;
            }
            if said.elapsed() > SAY_EVERY {
                *said = Instant::now();
                let missing = self.progress.borrow().missing;
                tracing::info!(missing, node = peer.id, "fetching what the log lacks");
            }
        }
        match written {
            Some(written) => written.await.map_err(|_| Failure::Ended),
            None => Ok(()),
        }
    }

    /// The entries of this node, up to its edge, must be those of the ledger; its own tiles are wrong otherwise, since the
    /// peer's follow from the ledger's root.
    async fn compare(&self, size: u64, root: Digest, theirs: &mut Tree<impl Tiles>) -> Result<(), Failure> {
        let damaged = |error: TreeError| Failure::Own(self.damaged(format!("{error:#}")));
        let mut own = Tree::open(&self.reader, size, root).await.map_err(damaged)?;
        match first_difference(&mut own, theirs).await {
            Ok(None) => Ok(()),
            Ok(Some(index)) => Err(Failure::Own(AuditError::Diverged { index })),
            Err((Side::Shorter, error)) => Err(damaged(error)),
            Err((Side::Longer, error)) => Err(of_peer(error)),
        }
    }

    fn checked(first: u64, entries: Vec<Vec<u8>>, expected: &[Digest]) -> Result<Verified, Failure> {
        if entries.is_empty() {
            return Err(Failure::NotNow(format!("it has no entry {first} yet")));
        }
        if entries.len() > expected.len() {
            return Err(Failure::Wrong("more entries than it was asked for".into()));
        }
        let wrong = entries.iter().zip(expected).position(|(entry, leaf)| leaf_hash(entry) != *leaf);
        match wrong {
            Some(at) => Err(Failure::Wrong(format!("entry {}", first + at as u64))),
            None => Ok(Verified { first, entries }),
        }
    }

    async fn ask<T>(&self, message: impl FnOnce(oneshot::Sender<T>) -> Message) -> Result<T, Failure> {
        self.send(message)?.await.map_err(|_| Failure::Ended)
    }

    fn send<T>(
        &self,
        message: impl FnOnce(oneshot::Sender<T>) -> Message,
    ) -> Result<oneshot::Receiver<T>, Failure> {
        let (answer, answered) = oneshot::channel();
        let jobs = self.jobs.lock();
        jobs.as_ref().and_then(|jobs| jobs.send(message(answer)).ok()).ok_or(Failure::Ended)?;
        Ok(answered)
    }

    fn fail(&self, error: AuditError) {
        if let Some(jobs) = self.jobs.lock().as_ref() {
            // The writer is gone only when its failure is ending the process already.
            let _ = jobs.send(Message::Failed(error));
        }
    }

    fn alone(&self) -> AuditError {
        let size = self.reader.edge.read().size();
        let missing = self.progress.borrow().missing;
        self.damaged(format!(
            "it ends at entry {size}, the Raft store is {missing} entries further, and no other node has them"
        ))
    }

    fn damaged(&self, what: String) -> AuditError {
        AuditError::Damaged { path: self.reader.folder.display().to_string(), what }
    }
}

fn of_peer(error: TreeError) -> Failure {
    match error {
        TreeError::Io { ref source, .. } => Failure::NotNow(format!("{error}: {source}")),
        TreeError::Missing(_) => Failure::NotNow(error.to_string()),
        TreeError::OtherRoot { .. } => Failure::OtherRoot,
        TreeError::Differs(_) => Failure::Wrong(error.to_string()),
    }
}

impl Tiles for AuditReader {
    async fn tile(&self, id: TileId) -> io::Result<Option<Vec<u8>>> {
        let reader = self.clone();
        crate::blocking(move || reader.tile(id)).await
    }
}
