//! The state machine as openraft uses it, over a [`Machine`].

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use futures_util::{Stream, TryStreamExt};
use openraft::EntryPayload;
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use parking_lot::Mutex;

use super::log::WriteAhead;
use super::snapshot::Snapshots;
use super::types::{Answer, LogId, Membership, Snapshot, SnapshotMeta, Types};
use super::{Machine, SnapshotBytes};

pub(super) struct StateMachine {
    pub(super) machine: Arc<dyn Machine>,
    pub(super) snapshots: Arc<Snapshots>,
    pub(super) applied: Option<LogId>,
    pub(super) membership: Membership,
    /// Set before the first entry comes.
    pub(super) write_ahead: Option<WriteAhead>,
}

impl RaftStateMachine<Types> for StateMachine {
    type SnapshotData = Vec<u8>;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, Membership), io::Error> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<Types>, io::Error>> + Unpin + Send,
    {
        while let Some((entry, responder)) = entries.try_next().await? {
            if let Some(log) = &mut self.write_ahead {
                log.reach(entry.log_id.index()).await?;
            }
            let answer = match entry.payload {
                EntryPayload::Blank => Vec::new(),
                // A panic halfway leaves a state that no other node has. It becomes an error here, and that ends the
                // process.
                EntryPayload::Normal(proposal) => catch_unwind(AssertUnwindSafe(|| {
                    self.machine.apply(&proposal.0)
                }))
                .map_err(|_| io::Error::other(format!("applying entry {} panicked", entry.log_id.index())))?,
                EntryPayload::Membership(membership) => {
                    self.membership = Membership::new(Some(entry.log_id), membership);
                    Vec::new()
                }
            };
            self.applied = Some(entry.log_id);
            if let Some(responder) = responder {
                responder.send(Answer(answer));
            }
            // A long run of entries comes from memory and would never give up the thread by itself.
            tokio::task::coop::consume_budget().await;
        }
        Ok(())
    }

    /// `force` is a follower that needs one. Otherwise it is only about a shorter log, and openraft asks again after as
    /// many entries as this time.
    async fn try_create_snapshot_builder(&mut self, force: bool) -> Option<Builder> {
        if !force {
            let snapshots = self.snapshots.clone();
            match blocking(move || snapshots.has_room()).await {
                Ok(true) => {}
                Ok(false) => {
                    tracing::warn!(
                        "no snapshot: the disk is too full for one. Free space on it, the log keeps growing"
                    );
                    return None;
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot tell how full the disk is; taking a snapshot anyway")
                }
            }
        }
        // An error from a builder would end the node, and one that waits would hold up all later ones; that there is none
        // now is an answer that openraft takes.
        match self.machine.snapshot() {
            None if !force => {
                tracing::warn!("no snapshot: the audit log waits for entries from other nodes");
                None
            }
            bytes => Some(self.builder(bytes)),
        }
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        self.builder(self.machine.snapshot())
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, data: Vec<u8>) -> Result<(), io::Error> {
        let (machine, snapshots, for_disk) = (self.machine.clone(), self.snapshots.clone(), meta.clone());
        blocking(move || {
            // The file first: a crash after it restarts from it, and one before it leaves everything as it was.
            snapshots.write(&for_disk, &data)?;
            machine.restore(&data)
        })
        .await?;
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        let snapshots = self.snapshots.clone();
        blocking(move || snapshots.current()).await
    }
}

impl StateMachine {
    fn builder(&self, bytes: Option<SnapshotBytes>) -> Builder {
        Builder {
            meta: SnapshotMeta { last_log_id: self.applied, last_membership: self.membership.clone() },
            bytes: Mutex::new(bytes),
            snapshots: self.snapshots.clone(),
        }
    }
}

pub(super) struct Builder {
    pub(super) meta: SnapshotMeta,
    /// In a mutex only because openraft wants the builder to be `Sync`, which the closure need not be.
    pub(super) bytes: Mutex<Option<SnapshotBytes>>,
    pub(super) snapshots: Arc<Snapshots>,
}

impl RaftSnapshotBuilder<Types> for Builder {
    type SnapshotData = Vec<u8>;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        let bytes = self.bytes.get_mut().take();
        let bytes = bytes.ok_or_else(|| io::Error::other("there is no snapshot to be built now"))?;
        let (meta, snapshots) = (self.meta.clone(), self.snapshots.clone());
        blocking(move || {
            // The machine gives its bytes only once the audit log holds everything they stand for. Purging follows
            // the snapshot, so the log keeps what either of the two still needs: min(snapshot, checkpointed).
            let Some(data) = bytes()? else {
                // A snapshot from the leader went beyond this one; openraft knows of it and does nothing more.
                let installed = snapshots.current()?;
                return installed.ok_or_else(|| io::Error::other("the snapshot that went beyond is gone"));
            };
            if meta.last_log_id.is_some() {
                snapshots.write(&meta, &data)?;
            }
            Ok(Snapshot { meta, snapshot: data })
        })
        .await
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|e| Err(io::Error::other(e)))
}
