//! Where a guard keeps what must outlive its process (S4). What it is, `trusted/kept.rs` says; here it gets to the disk and
//! back.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::limits::KEPT_MAX_BYTES;
use crate::trusted::KeptError;

const STATE: &str = "guard-state";
/// Written whole before it takes the place of the state; one that is left over means nothing.
const NEXT: &str = "guard-state.next";
const LOCK: &str = "guard-state.lock";

/// Why there is no telling what was stopped before.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StateError {
    #[error("the folder {path} cannot be used: {error}; see to it, and start the process again")]
    Folder { path: PathBuf, error: Arc<io::Error> },
    #[error("another process uses the folder {path}: give each client one of its own")]
    InUse { path: PathBuf },
    #[error("{path} cannot be read: {error}; see to the disk, and start the process again")]
    Read { path: PathBuf, error: Arc<io::Error> },
    #[error(
        "{path} does not say what was stopped before: {why}; if the service still has every stop, move it away and start the \
         process again"
    )]
    Kept { path: PathBuf, why: KeptError },
}

impl PartialEq for StateError {
    fn eq(&self, other: &Self) -> bool {
        self.to_string() == other.to_string()
    }
}

impl Eq for StateError {}

/// The folder, in the hands of this client alone.
pub(crate) struct StateFolder {
    path: PathBuf,
    folder: File,
    _lock: File,
}

impl StateFolder {
    /// Opens the folder, makes it if need be, and gives what an earlier process kept there.
    pub(crate) fn open(path: &Path) -> Result<(Self, Option<Vec<u8>>), StateError> {
        let unusable = |error| StateError::Folder { path: path.into(), error: Arc::new(error) };
        std::fs::create_dir_all(path).map_err(unusable)?;
        let folder = File::open(path).map_err(unusable)?;
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(path.join(LOCK));
        let lock = lock.map_err(unusable)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(StateError::InUse { path: path.into() }),
            Err(TryLockError::Error(error)) => return Err(unusable(error)),
        }
        let state = path.join(STATE);
        let kept = match read(&state) {
            Ok(kept) => Some(kept),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(StateError::Read { path: state, error: Arc::new(error) }),
        };
        Ok((Self { path: path.into(), folder, _lock: lock }, kept))
    }

    pub(crate) fn state(path: &Path) -> PathBuf {
        path.join(STATE)
    }

    /// Puts `bytes` in the place of what was kept, so that a crash at any moment leaves the one or the other.
    pub(crate) fn write(&self, bytes: &[u8]) -> io::Result<()> {
        if bytes.len() > KEPT_MAX_BYTES {
            return Err(io::Error::other(format!("it has more than {KEPT_MAX_BYTES} bytes")));
        }
        let next = self.path.join(NEXT);
        let mut file = File::create(&next)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&next, self.path.join(STATE))?;
        self.folder.sync_all()
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(KEPT_MAX_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}
