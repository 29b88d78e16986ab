//! Pending stops: what people signed to take away and no log has yet (S10).
//!
//! ```text
//! <data>/pending/<digest>.json     format, the time at which this node took it, the envelope; written once, 0444
//! ```
//!
//! A tightening that counts and finds no quorum is pushed to this node's guards by its signatures alone (S6), kept in a
//! file that is durable before anybody is told of it, and proposed until it is committed, restarts or not. Its file is
//! removed only when the ledger knows its digest, or refuses it for good. A command takes effect once by its digest, so
//! however often it is proposed, by this node and by others, it is one entry.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tagout_proto::command::Command;
use tagout_proto::digest::Digest;
use tagout_proto::envelope::Envelope;
use tagout_proto::limits::{SIGNATURE_MAX_BYTES, SIGNATURES_MAX, STOP_MAX_BYTES};
use tagout_proto::scope::Scope;
use tagout_proto::wire::StopEvent;
use tokio::sync::watch;

use crate::reserve::{DiskRefused, Need, Reserve, file_cost_bytes};
use crate::store::files;

const FORMAT: u32 = 1;
/// Pending stops, and the bytes of their files: as many as the disk reserve is counted for, and then all of the largest.
pub const PENDING_MAX: usize = 10_000;
pub const PENDING_MAX_BYTES: usize = PENDING_MAX * (STOP_MAX_BYTES + SIGNATURE_MAX_BYTES);
/// A file larger than this is not ours: the largest envelope, with every character of it escaped.
const FILE_MAX_BYTES: u64 =
    6 * (tagout_proto::limits::COMMAND_MAX_BYTES + SIGNATURES_MAX * SIGNATURE_MAX_BYTES) as u64;

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingStop {
    pub stop: Envelope,
    pub scope: Scope,
    /// When this node took it.
    pub time_ms: u64,
}

impl PendingStop {
    /// As it is pushed: it has no entry yet.
    pub fn event(&self) -> StopEvent {
        StopEvent { stop: self.stop.clone(), index: None, time_ms: self.time_ms, confirm_within_ms: 0 }
    }
}

pub struct Pending {
    folder: PathBuf,
    reserve: Arc<Reserve>,
    kept: watch::Sender<Kept>,
    /// Held while a file is written or removed.
    disk: Mutex<()>,
}

#[derive(Default)]
struct Kept {
    by_digest: BTreeMap<Digest, Arc<PendingStop>>,
    bytes: usize,
}

#[derive(Serialize, Deserialize)]
struct OnDisk {
    format: u32,
    time_ms: u64,
    stop: Envelope,
}

/// What an older or newer version can always be asked.
#[derive(Deserialize)]
struct AnyFormat {
    format: u32,
}

#[derive(Debug, thiserror::Error)]
pub enum PendingError {
    #[error("cannot {doing} {}", path.display())]
    Io {
        doing: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "{} was written in format {found}, and this version of tagout reads formats up to {FORMAT}: start the version that \
         wrote it, or a newer one", path.display()
    )]
    NewerFormat { path: PathBuf, found: u32 },
}

/// Why a stop could not be kept.
#[derive(Debug, thiserror::Error)]
pub enum NotKept {
    #[error("{PENDING_MAX} stops, or {PENDING_MAX_BYTES} bytes of them, are pending already")]
    TooMany,
    #[error(transparent)]
    Disk(#[from] DiskRefused),
    #[error("its file could not be written")]
    Io(#[from] io::Error),
}

impl Pending {
    /// Loads what a restart left. A file that cannot be read is put aside under the suffix `damaged`, and told.
    pub fn open(data: &Path, reserve: Arc<Reserve>) -> Result<Self, PendingError> {
        let folder = data.join("pending");
        let at = |doing, path: &Path| {
            let path = path.to_owned();
            move |source| PendingError::Io { doing, path, source }
        };
        files::create_folder(&folder).map_err(at("create the folder", &folder))?;
        files::sweep_temporaries(&folder).map_err(at("clean", &folder))?;
        let mut kept = Kept::default();
        for entry in fs::read_dir(&folder).map_err(at("read the folder", &folder))? {
            let path = entry.map_err(at("read the folder", &folder))?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            match read(&path)? {
                Ok(stop) => kept.insert(stop),
                Err(what) => {
                    tracing::error!(path = %path.display(), what, "a pending stop cannot be read: send it again. Its file is put aside");
                    let aside = path.with_extension("damaged");
                    fs::rename(&path, &aside).map_err(at("put aside", &path))?;
                }
            }
        }
        if !kept.by_digest.is_empty() {
            tracing::warn!(count = kept.by_digest.len(), "stops are pending from before the restart");
        }
        let kept = watch::Sender::new(kept);
        Ok(Self { folder, reserve, kept, disk: Mutex::default() })
    }

    pub fn get(&self, digest: &Digest) -> Option<Arc<PendingStop>> {
        self.kept.borrow().by_digest.get(digest).cloned()
    }

    /// All of them, in no order that means anything.
    pub fn all(&self) -> Vec<Arc<PendingStop>> {
        self.kept.borrow().by_digest.values().cloned().collect()
    }

    pub fn count(&self) -> usize {
        self.kept.borrow().by_digest.len()
    }

    /// Those that touch one of `scopes`: for whoever begins to listen now.
    pub fn touching(&self, scopes: &[Scope]) -> Vec<Arc<PendingStop>> {
        let kept = self.kept.borrow();
        let touches = |stop: &Scope| scopes.iter().any(|s| s.covers(stop) || stop.covers(s));
        kept.by_digest.values().filter(|stop| touches(&stop.scope)).cloned().collect()
    }

    /// Makes a stop durable here; once this returns, it is proposed until it is committed. Blocks.
    pub fn keep(&self, stop: PendingStop) -> Result<(), NotKept> {
        let _disk = self.disk.lock();
        let digest = stop.stop.digest();
        let bytes = stop.bytes();
        {
            let kept = self.kept.borrow();
            if kept.by_digest.contains_key(&digest) {
                return Ok(());
            }
            if kept.by_digest.len() >= PENDING_MAX || kept.bytes + bytes > PENDING_MAX_BYTES {
                return Err(NotKept::TooMany);
            }
        }
        let _room = self.reserve.admit(Need::Stop, bytes, 0)?;
        self.reserve.make_room(file_cost_bytes(bytes))?;
        let on_disk = OnDisk { format: FORMAT, time_ms: stop.time_ms, stop: stop.stop.clone() };
        let text = serde_json::to_vec(&on_disk).map_err(io::Error::other)?;
        files::create_once(&self.path(&digest), &text)?;
        self.kept.send_modify(|kept| kept.insert(stop));
        Ok(())
    }

    /// Its entry is in the ledger, or never will be. Blocks.
    pub fn forget(&self, digest: &Digest) -> io::Result<()> {
        let _disk = self.disk.lock();
        if !self.kept.borrow().by_digest.contains_key(digest) {
            return Ok(());
        }
        // A crash before the folder is synced brings it back, and the ledger answers for it once more.
        fs::remove_file(self.path(digest))?;
        files::sync_folder(&self.folder)?;
        self.kept.send_modify(|kept| kept.remove(digest));
        Ok(())
    }

    /// Waits until there is any.
    pub async fn any(&self) {
        // The sender lives in `self`.
        let _ = self.kept.subscribe().wait_for(|kept| !kept.by_digest.is_empty()).await;
    }

    /// Waits until this one is pending no longer.
    pub async fn gone(&self, digest: &Digest) {
        let _ = self.kept.subscribe().wait_for(|kept| !kept.by_digest.contains_key(digest)).await;
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.folder.join(format!("{digest}.json"))
    }
}

impl PendingStop {
    fn bytes(&self) -> usize {
        self.stop.document.len() + self.stop.signatures.iter().map(String::len).sum::<usize>()
    }
}

impl Kept {
    fn insert(&mut self, stop: PendingStop) {
        self.bytes += stop.bytes();
        self.by_digest.insert(stop.stop.digest(), Arc::new(stop));
    }

    fn remove(&mut self, digest: &Digest) {
        if let Some(stop) = self.by_digest.remove(digest) {
            self.bytes -= stop.bytes();
        }
    }
}

/// The stop in a file; the inner error says what is wrong with it.
fn read(path: &Path) -> Result<Result<PendingStop, String>, PendingError> {
    let failed = |source| PendingError::Io { doing: "read", path: path.into(), source };
    if fs::metadata(path).map_err(failed)?.len() > FILE_MAX_BYTES {
        return Ok(Err("it is too large".into()));
    }
    let bytes = fs::read(path).map_err(failed)?;
    match serde_json::from_slice(&bytes) {
        Ok(AnyFormat { format }) if format > FORMAT => {
            return Err(PendingError::NewerFormat { path: path.into(), found: format });
        }
        Ok(AnyFormat { .. }) => {}
        Err(error) => return Ok(Err(error.to_string())),
    }
    Ok((|| {
        let OnDisk { time_ms, stop, .. } = serde_json::from_slice(&bytes).map_err(|e| e.to_string())?;
        let named = path.file_stem().and_then(|stem| stem.to_str()?.parse::<Digest>().ok());
        if named != Some(stop.digest()) {
            return Err("its name is not the digest of what it holds".into());
        }
        let command = Command::parse(stop.document.as_bytes()).map_err(|e| e.to_string())?;
        if !command.action.kind().tightens_guards() {
            return Err(format!(
                "it holds a {}, which takes nothing away from guards",
                command.action.kind()
            ));
        }
        Ok(PendingStop { scope: command.action.scope(), stop, time_ms })
    })())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stop(n: usize, scope: &str) -> PendingStop {
        let document = serde_json::json!({
            "tagout": 1, "deployment": format!("demo:{}", "0".repeat(64)), "action": "stop", "id": n.to_string(),
            "issued_at": "2026-11-22T15:00:00Z", "scope": scope, "mode": "halt", "reason": "test",
        });
        let stop = Envelope { document: document.to_string(), signatures: vec!["signed".into()] };
        PendingStop { stop, scope: Scope::parse(scope).unwrap(), time_ms: 7 }
    }

    fn open(data: &Path) -> Result<Pending, PendingError> {
        Pending::open(data, Reserve::open(data, Some(1)).unwrap())
    }

    #[test]
    fn s10_a_pending_stop_outlives_a_restart_and_ends_only_when_it_is_known() {
        let dir = tempfile::tempdir().unwrap();
        let pending = open(dir.path()).unwrap();
        let (one, two) = (stop(1, "a/b"), stop(2, "c"));
        pending.keep(one.clone()).unwrap();
        // The same bytes again are the same stop, whenever they come.
        pending.keep(PendingStop { time_ms: 9, ..one.clone() }).unwrap();
        pending.keep(two.clone()).unwrap();
        assert_eq!(pending.count(), 2);
        drop(pending);

        let pending = open(dir.path()).unwrap();
        assert_eq!(pending.get(&one.stop.digest()).as_deref(), Some(&one));
        let scopes = |texts: &[&str]| texts.iter().map(|s| Scope::parse(s).unwrap()).collect::<Vec<_>>();
        let touching = |texts: &[&str]| pending.touching(&scopes(texts)).len();
        assert_eq!(touching(&["a", "x"]), 1, "it listens above the stop");
        assert_eq!(touching(&["a/b/c", "c"]), 2, "or below");
        assert_eq!((touching(&["a/bb"]), touching(&["*"])), (0, 2));
        pending.forget(&one.stop.digest()).unwrap();
        pending.forget(&one.stop.digest()).unwrap();
        drop(pending);
        let pending = open(dir.path()).unwrap();
        assert_eq!(pending.all(), [Arc::new(two)]);
    }

    #[test]
    fn a_damaged_file_is_put_aside_and_a_newer_one_refused() {
        let dir = tempfile::tempdir().unwrap();
        let pending = open(dir.path()).unwrap();
        let (one, two) = (stop(1, "a"), stop(2, "b"));
        pending.keep(one.clone()).unwrap();
        let (good, other) = (pending.path(&one.stop.digest()), pending.path(&two.stop.digest()));
        drop(pending);
        fs::copy(&good, &other).unwrap();
        let pending = open(dir.path()).unwrap();
        assert_eq!(pending.count(), 1, "one under another's name is none");
        assert!(other.with_extension("damaged").exists() && good.exists());
        drop(pending);
        fs::write(&other, br#"{"format": 2, "what": []}"#).unwrap();
        assert!(matches!(open(dir.path()), Err(PendingError::NewerFormat { found: 2, .. })));
    }
}
