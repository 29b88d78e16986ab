//! The node's core: from a received command to its answer. Steps ② to ⑤, and ⑨, of a stop.

use std::sync::Arc;
use std::time::Duration;

use tagout_proto::envelope::Envelope;
use tagout_proto::ledger::{Proposal, Receipt, Refusal};
use tagout_proto::log::entry::EntryKind;
use tokio::sync::{Semaphore, mpsc};

use crate::WAY;
use crate::audit::{AuditReader, LAG_MAX};
use crate::clock;
use crate::instances::Instances;
use crate::leases::Leases;
use crate::outcomes::{Account, Outcomes};
use crate::push::Hub;
use crate::raft::{Consensus, ProposeError};
use crate::replica::Replica;

/// Outcomes that may be proposed at once, so that they never crowd out a stop.
const OUTCOMES_AT_ONCE: usize = 16;
/// The pause before an outcome that could not be committed is proposed again.
const OUTCOME_RETRY: Duration = Duration::from_secs(1);
/// How long a command may wait for consensus before the caller is told that nothing is known yet.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(10);

/// What the API works with; clones are handles.
#[derive(Clone)]
pub struct Service {
    pub node: Arc<str>,
    pub replica: Arc<Replica>,
    pub consensus: Consensus,
    pub audit: AuditReader,
    pub hub: Arc<Hub>,
    pub instances: Arc<Instances>,
    pub outcomes: Arc<Outcomes>,
    pub leases: Leases,
}

#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("the command could not be committed: {0}")]
    Consensus(#[from] ProposeError),
    #[error("the command was not committed within {} s; it may still be: send the same bytes again", COMMIT_TIMEOUT.as_secs())]
    Timeout,
    #[error("consensus answered with what is no answer")]
    Answer(#[source] std::io::Error),
}

impl Service {
    /// Has a command take effect; returns once it is durable on a quorum and applied here.
    pub async fn submit(&self, envelope: Envelope) -> Result<Receipt, SubmitError> {
        // ② Verified early, to refuse without troubling anyone. What counts is the same check inside `apply`.
        let time_ms = clock::wall_ms();
        if let Some(receipt) = self.replica.ledger().check(&envelope, time_ms)? {
            return Ok(receipt);
        }
        self.propose(Proposal { kind: EntryKind::Command, time_ms, envelope }).await
    }

    /// ③ Proposes; ④ and ⑤ follow in `Replica::apply` on every node.
    pub async fn propose(&self, proposal: Proposal) -> Result<Receipt, SubmitError> {
        tracing::debug!(target: WAY, digest = %proposal.envelope.digest(), kind = ?proposal.kind, "proposed");
        // Entries that the disk of the audit log has not taken yet are held in memory: a bound on them.
        let lag_floor = self.replica.ledger().size().saturating_sub(LAG_MAX);
        let committed = async {
            self.audit.wait_for(lag_floor).await;
            self.consensus.propose(Replica::encode(&proposal)).await
        };
        let answer =
            tokio::time::timeout(COMMIT_TIMEOUT, committed).await.map_err(|_| SubmitError::Timeout)??;
        Ok(Replica::decode_answer(&answer).map_err(SubmitError::Answer)??)
    }

    /// ⑨ Appends the outcome of every stop once it is settled.
    pub async fn append_outcomes(self, mut opened: mpsc::UnboundedReceiver<Arc<Account>>) {
        let slots = Arc::new(Semaphore::new(OUTCOMES_AT_ONCE));
        while let Some(account) = opened.recv().await {
            let (service, slots) = (self.clone(), slots.clone());
            tokio::spawn(async move {
                let outcome = service.outcomes.settle(&account).await;
                let (confirmed, bounded, slowest_ms) =
                    (outcome.confirmed, outcome.bounded, outcome.slowest_ms);
                tracing::debug!(target: WAY, digest = %outcome.outcome, confirmed, bounded, slowest_ms, "outcome");
                let document = serde_json::to_string(&outcome).expect("an outcome is plain data");
                let envelope = Envelope { document, signatures: Vec::new() };
                // The semaphore is never closed.
                let _slot = slots.acquire().await;
                let index = service.append_outcome(envelope).await;
                service.outcomes.finish(&account, index);
            });
        }
    }

    /// Tries until the outcome is in the log; a node that ends before goes on after its restart.
    async fn append_outcome(&self, envelope: Envelope) -> Option<u64> {
        loop {
            let (kind, time_ms) = (EntryKind::Outcome, clock::wall_ms());
            match self.propose(Proposal { kind, time_ms, envelope: envelope.clone() }).await {
                Ok(receipt) => return Some(receipt.index),
                Err(SubmitError::Refused(Refusal::OutcomeKnown(index))) => return Some(index),
                Err(error @ (SubmitError::Consensus(_) | SubmitError::Timeout)) => {
                    tracing::warn!(%error, "an outcome is not in the log yet");
                    tokio::time::sleep(OUTCOME_RETRY).await;
                }
                Err(error @ (SubmitError::Refused(_) | SubmitError::Answer(_))) => {
                    tracing::error!(%error, "an outcome was refused");
                    return None;
                }
            }
        }
    }

    /// Commits the stops that guards hold and this service had not seen (S6).
    pub async fn commit_unknown_stops(self, mut stops: mpsc::Receiver<Envelope>) {
        while let Some(stop) = stops.recv().await {
            let digest = stop.digest();
            match self.submit(stop).await {
                Ok(receipt) => {
                    tracing::info!(lock = %digest, index = receipt.index, "committed a stop that a guard held")
                }
                Err(error) => tracing::warn!(lock = %digest, %error, "a stop that a guard holds was refused"),
            }
        }
    }
}
