//! What takes away and finds no quorum, or no room on the disk. Step ③ of a stop where it cannot go straight on (S10).
//!
//! ```text
//! committed within a second                   201, as any other command; pushed by its signatures if that takes a while
//! no leader, no quorum, or longer than that   pushed, kept as pending, proposed on: 503 pending (or 201 after all)
//! no room even for that                       pushed: 507 disk-full, and the caller knows that nothing is kept
//! ```

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{TryStreamExt, stream};
use tagout_proto::command::{Action, Command};
use tagout_proto::envelope::Envelope;
use tagout_proto::ledger::{Receipt, Refusal};
use tagout_proto::log::entry::EntryKind;
use tokio::time::{Instant, timeout_at};
use tracing::Instrument;

use crate::api::SecurityLog;
use crate::clock;
use crate::pending::{NotKept, PendingStop};
use crate::raft::ProposeError;
use crate::reserve::Need;
use crate::service::{Service, SubmitError};
use crate::way::way;

/// How long a stop may take until it is pushed without an entry.
const PUSHED_AFTER: Duration = Duration::from_millis(150);
/// How long a stop may take until it is kept as pending, and its sender told.
const COMMITTED_WITHIN: Duration = Duration::from_secs(1);
/// Pending stops that are proposed at once, so that they never crowd out a fresh one.
const PROPOSED_AT_ONCE: usize = 8;
/// The pause before pending stops are proposed again.
const PROPOSED_AGAIN_AFTER: Duration = Duration::from_millis(250);

/// There is still no quorum, or no room.
struct Later;

impl Service {
    /// Has a command that was verified and takes away committed, or kept until it can be.
    pub(crate) async fn tighten(
        &self,
        command: &Command,
        envelope: Envelope,
        since_ms: u64,
    ) -> Result<Receipt, SubmitError> {
        let digest = envelope.digest();
        if let Some(stop) = self.pending.get(&digest) {
            return Err(SubmitError::Pending { since_ms: stop.time_ms });
        }
        let (pushed_at, deadline) = (Instant::now() + PUSHED_AFTER, Instant::now() + COMMITTED_WITHIN);
        let scope = command.action.scope();
        let stop = PendingStop { stop: envelope.clone(), scope: scope.clone(), time_ms: since_ms };
        let mut committed = pin!(self.propose_for(Need::Stop, EntryKind::Command, &envelope));
        let mut answer = timeout_at(pushed_at, committed.as_mut()).await;
        if answer.is_err() {
            // An election, or a disk that stalls: its signatures are enough for the guards (S6).
            self.push(command, &stop);
            answer = timeout_at(deadline, committed).await;
        }
        match answer {
            Err(_) | Ok(Err(SubmitError::Timeout)) => {}
            Ok(Err(SubmitError::Consensus(
                ProposeError::NotLeader { .. } | ProposeError::Unknown { .. } | ProposeError::Stopped { .. },
            ))) => {}
            // The disk of the node that leads; this one's may have room to keep it.
            Ok(Err(SubmitError::Disk(_))) => {}
            Ok(Ok(receipt)) => return Ok(receipt),
            Ok(Err(refused)) => {
                self.outcomes.foresee_no_more(&digest);
                return Err(refused);
            }
        }

        // Before it is written, for the disk may be the reason for all this.
        self.push(command, &stop);
        self.keep(&stop).await.map_err(|why| self.pushed_only(&stop, why))?;
        // Once more, for whoever began to listen meanwhile: guards take the same stop once.
        self.hub.push_stop(&scope, &stop.event());
        tracing::warn!(%digest, %scope, "a stop is pending: it is pushed and kept, and in no log yet");

        // An election is over within the second, and then the truth is better than a promise.
        let _ = timeout_at(deadline, self.pending.gone(&digest)).await;
        if self.pending.get(&digest).is_some() {
            return Err(SubmitError::Pending { since_ms });
        }
        match self.replica.ledger().check(&stop.stop, clock::wall_ms())? {
            Some(receipt) => Ok(Receipt { repeated: false, ..receipt }),
            None => Err(SubmitError::Timeout),
        }
    }

    /// To the guards that listen here; what they confirm is counted once the stop is committed.
    fn push(&self, command: &Command, stop: &PendingStop) {
        if let Action::Lock(lock) = &command.action
            && lock.kind.denies()
        {
            self.outcomes.foresee(stop.stop.digest(), &stop.scope);
        }
        self.hub.push_stop(&stop.scope, &stop.event());
    }

    fn pushed_only(&self, stop: &PendingStop, why: NotKept) -> SubmitError {
        self.outcomes.foresee_no_more(&stop.stop.digest());
        tracing::error!(
            digest = %stop.stop.digest(), scope = %stop.scope, error = &why as &dyn std::error::Error,
            "a stop was pushed and could NOT be kept"
        );
        SubmitError::Pushed(why)
    }

    async fn keep(&self, stop: &PendingStop) -> Result<(), NotKept> {
        let (pending, stop) = (self.pending.clone(), stop.clone());
        let kept = tokio::task::spawn_blocking(move || pending.keep(stop)).await;
        kept.unwrap_or_else(|panicked| Err(std::io::Error::other(panicked).into()))
    }

    /// Proposes what is pending until it is committed.
    pub async fn commit_pending(self, security: SecurityLog) {
        loop {
            self.pending.any().await;
            let all = stream::iter(self.pending.all().into_iter().map(Ok));
            // The first that has to wait lets all wait: they wait for the same.
            let _ =
                all.try_for_each_concurrent(PROPOSED_AT_ONCE, |stop| self.commit_one(stop, &security)).await;
            tokio::time::sleep(PROPOSED_AGAIN_AFTER).await;
        }
    }

    async fn commit_one(&self, stop: Arc<PendingStop>, security: &SecurityLog) -> Result<(), Later> {
        let digest = stop.stop.digest();
        let time_ms = clock::wall_ms();
        // It may be committed already: by another node, or by a proposal of ours that was given up on.
        let known = self.replica.ledger().check(&stop.stop, time_ms);
        let answer = match known {
            Ok(Some(receipt)) => Ok(receipt),
            Ok(None) => {
                let proposed = self.propose_for(Need::Stop, EntryKind::Command, &stop.stop);
                proposed.instrument(way(&digest)).await
            }
            Err(refusal) => Err(refusal.into()),
        };
        match answer {
            Ok(receipt) => tracing::info!(%digest, index = receipt.index, "a pending stop is committed"),
            Err(SubmitError::Refused(Refusal::Used { index, .. })) => {
                tracing::info!(%digest, index, "a pending stop was committed and is released already")
            }
            Err(SubmitError::Refused(Refusal::NoGenesis)) => return Err(Later),
            Err(SubmitError::Refused(refusal)) => {
                // Guards that have it hold it, since people signed it; no log will ever have it.
                tracing::error!(
                    %digest, scope = %stop.scope, %refusal,
                    "A PENDING STOP IS REFUSED and was given up: it holds only where it was pushed. If it is to hold, have \
                     it signed anew by somebody who may"
                );
                self.outcomes.foresee_no_more(&digest);
                metrics::counter!("tagout_pending_refused_total").increment(1);
                security.pending_refused(&stop.stop, refusal);
            }
            Err(error) => {
                tracing::debug!(%digest, %error, "a stop is still pending");
                return Err(Later);
            }
        }
        let pending = self.pending.clone();
        if let Err(error) = crate::blocking(move || pending.forget(&digest)).await {
            tracing::error!(%digest, %error, "the file of a pending stop cannot be removed; it is tried again");
            return Err(Later);
        }
        Ok(())
    }
}
