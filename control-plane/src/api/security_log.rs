//! Refused and forged attempts, as JSON lines apart from the audit log (S8): bounded, and never in a stop's way. On a disk
//! that is nearly full they go to the process's own log instead (S10).

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};

use serde::Serialize;
use tagout_proto::envelope::Envelope;
use tagout_proto::ledger::Refusal;
use tagout_proto::strict::format_instant_ms;

use super::problem::Problem;
use crate::clock;
use crate::notify::{self, Notifications};
use crate::reserve::Reserve;

/// The queue to the file; clones are handles.
#[derive(Clone)]
pub struct SecurityLog {
    lines: SyncSender<String>,
    notifications: Arc<Notifications>,
}

/// Lines that may wait for the disk; what comes on top is counted and dropped.
const SECURITY_QUEUE_MAX: usize = 1024;
/// The file turns over at this size; one older file is kept.
const SECURITY_FILE_MAX_BYTES: u64 = 8 * 1024 * 1024;

#[derive(Serialize)]
struct Attempt<'a> {
    time: String,
    peer: Option<String>,
    status: u16,
    code: &'a str,
    detail: &'a str,
    digest: Option<String>,
    document: Option<&'a str>,
}

impl SecurityLog {
    /// Writes to `security.jsonl` in `folder`, while the disk has room that no stop may need.
    pub fn open(
        folder: &Path,
        reserve: Arc<Reserve>,
        notifications: Arc<Notifications>,
    ) -> std::io::Result<Self> {
        let path = folder.join("security.jsonl");
        let mut file = SecurityFile::open(path)?;
        let (lines, received) = sync_channel::<String>(SECURITY_QUEUE_MAX);
        std::thread::Builder::new().name("security-log".into()).spawn(move || {
            for line in received {
                if !reserve.has_spare() {
                    tracing::warn!(
                        line = line.trim_end(),
                        "the disk is nearly full: a line of the security log"
                    );
                    metrics::counter!("tagout_security_log_dropped_total").increment(1);
                } else if let Err(error) = file.append(&line) {
                    tracing::warn!(%error, "the security log could not be written");
                }
            }
        })?;
        Ok(Self { lines, notifications })
    }

    pub fn refused(&self, peer: Option<String>, envelope: Option<&Envelope>, problem: &Problem) {
        let time_ms = clock::wall_ms();
        let (status, code, detail) = (problem.status().as_u16(), problem.code().name(), problem.detail());
        let digest = envelope.map(Envelope::digest);
        let peer_text = peer.as_deref();
        self.notifications.refused(&notify::Attempt {
            time_ms,
            peer: peer_text,
            status,
            code,
            detail,
            digest,
        });
        self.note(Attempt {
            time: format_instant_ms(time_ms),
            peer,
            status,
            code,
            detail,
            digest: digest.map(|digest| digest.to_string()),
            document: envelope.map(|e| e.document.as_str()).filter(|d| d.len() <= 4096),
        });
    }

    /// A stop that was pending, and that the ledger refuses.
    pub fn pending_refused(&self, stop: &Envelope, refusal: Refusal) {
        self.refused(None, Some(stop), &Problem::from(refusal));
    }

    fn note(&self, attempt: Attempt<'_>) {
        let line = serde_json::to_string(&attempt).expect("an attempt is plain data") + "\n";
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) = self.lines.try_send(line) {
            metrics::counter!("tagout_security_log_dropped_total").increment(1);
        }
    }
}

struct SecurityFile {
    path: PathBuf,
    file: std::fs::File,
    size: u64,
}

impl SecurityFile {
    fn open(path: PathBuf) -> std::io::Result<Self> {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(&path)?;
        let size = file.metadata()?.len();
        Ok(Self { path, file, size })
    }

    fn append(&mut self, line: &str) -> std::io::Result<()> {
        if self.size + line.len() as u64 > SECURITY_FILE_MAX_BYTES {
            std::fs::rename(&self.path, self.path.with_extension("1.jsonl"))?;
            *self = Self::open(self.path.clone())?;
        }
        self.file.write_all(line.as_bytes())?;
        self.size += line.len() as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s8_the_security_log_turns_over_and_stays_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("security.jsonl");
        let mut file = SecurityFile::open(path.clone()).unwrap();
        let line = "x".repeat(1024 * 1024 - 1) + "\n";
        for _ in 0..20 {
            file.append(&line).unwrap();
        }
        let total: u64 =
            std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum();
        assert!(total <= 2 * SECURITY_FILE_MAX_BYTES && std::fs::read_dir(dir.path()).unwrap().count() == 2);
    }
}
