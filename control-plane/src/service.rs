//! The node's core: from a received command to its answer. Steps ② to ⑤, and ⑨, of a stop.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use tagout_proto::command::Command;
use tagout_proto::digest::Digest;
use tagout_proto::envelope::Envelope;
use tagout_proto::ledger::{Ledger, Receipt, Refusal};
use tagout_proto::log::entry::EntryKind;
use tagout_proto::strict::format_instant_ms;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;
use tracing::Instrument;

use crate::admission::{Admission, Busy};
use crate::audit::AuditReader;
use crate::clock;
use crate::cluster::{Cluster, NotCommitted};
use crate::fair::Source;
use crate::instances::Instances;
use crate::leases::Leases;
use crate::outcomes::{Account, Outcomes};
use crate::pending::{NotKept, Pending};
use crate::push::Hub;
use crate::raft::ProposeError;
use crate::replica::Replica;
use crate::reserve::{DiskRefused, Need, Reserve};
use crate::way::{WAY, way};

/// Outcomes that may be proposed at once, so that they never crowd out a stop.
const OUTCOMES_AT_ONCE: usize = 16;
/// How often the outcomes of the moment before are proposed.
const OUTCOMES_EVERY_MS: u64 = 50;
/// The pause before an outcome that could not be committed is proposed again.
const OUTCOME_RETRY: Duration = Duration::from_secs(1);
/// How long the nodes that do not lead leave a settled outcome to the leader, whose account is theirs as well.
const OUTCOME_OF_LEADER: Duration = Duration::from_secs(3);
/// How long a command may wait for consensus before the caller is told that nothing is known yet.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(10);

/// How often a node that is behind the leader looks whether it has applied what that answered for.
const APPLIED_POLL: Duration = Duration::from_millis(10);

/// What the API works with; clones are handles.
#[derive(Clone)]
pub struct Service {
    pub node: Arc<str>,
    pub replica: Arc<Replica>,
    pub cluster: Arc<Cluster>,
    pub audit: AuditReader,
    pub hub: Arc<Hub>,
    pub instances: Arc<Instances>,
    pub outcomes: Arc<Outcomes>,
    pub leases: Leases,
    pub admission: Arc<Admission>,
    pub reserve: Arc<Reserve>,
    pub pending: Arc<Pending>,
}

#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("the command could not be committed: {0}")]
    Consensus(#[from] ProposeError),
    #[error("the command was not committed within {} s; it may still be: send the same bytes again", COMMIT_TIMEOUT.as_secs())]
    Timeout,
    #[error(transparent)]
    Busy(#[from] Busy),
    #[error(transparent)]
    Disk(#[from] DiskRefused),
    /// It gives, and this node's log is not the others'.
    #[error("this node takes only what takes away: {0}")]
    Differs(String),
    /// It takes away, it counts, and no log has it yet.
    #[error(
        "it is in no log yet: no quorum of the nodes took it within a second. Since {} this node has it on its disk, has pushed \
         it to the guards that listen here and proposes it until it is committed. Send the same bytes again to learn whether \
         it is, and to the other nodes for the guards that listen there", format_instant_ms(*since_ms)
    )]
    Pending { since_ms: u64 },
    /// The same, and it could not be kept.
    #[error(
        "it was pushed to the guards that listen to this node, and is NOT kept anywhere: {0}. Send it again, here or to another node"
    )]
    Pushed(#[source] NotKept),
}

/// What came of signatures for a command that gives.
pub enum Gathered {
    InForce(Receipt),
    /// They are in the log, and more are needed.
    Proposed,
}

enum Look {
    /// With those that were collected; it is judged as any command now.
    Enough(Envelope),
    InForce(Receipt),
    TooFew,
}

fn look(ledger: &Ledger, envelope: &Envelope, now_ms: u64) -> Result<Look, Refusal> {
    if let Some(whole) = ledger.completed(envelope, now_ms) {
        return Ok(Look::Enough(whole));
    }
    Ok(ledger.check_proposal(envelope, now_ms)?.map_or(Look::TooFew, Look::InForce))
}

/// When outcomes are proposed next: all of a moment at once, since each that came alone would have the next stop wait for
/// its commit.
fn gathered() -> Instant {
    static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);
    let moments = BEGAN.elapsed().as_millis() as u64 / OUTCOMES_EVERY_MS;
    *BEGAN + Duration::from_millis((moments + 1) * OUTCOMES_EVERY_MS)
}

impl Service {
    /// Has a command take effect; returns once it is durable on a quorum and applied here.
    pub async fn submit(&self, envelope: Envelope) -> Result<Receipt, SubmitError> {
        let command = Command::parse(envelope.document.as_bytes()).map_err(Refusal::from)?;
        self.submit_from(Source::OWN, envelope, &command).await
    }

    /// The same for a command that came from elsewhere. `command` is what the envelope's document says; nothing of it is
    /// believed before it is verified here.
    pub async fn submit_from(
        &self,
        from: Source,
        envelope: Envelope,
        command: &Command,
    ) -> Result<Receipt, SubmitError> {
        // ② Verified early, to refuse without troubling anyone. What counts is the same check inside `apply`.
        let time_ms = clock::wall_ms();
        let (tightens, loosens) = (command.action.kind().tightens_guards(), command.action.kind().loosens());
        if loosens {
            // Before it is judged by a state that may be wrong.
            self.cluster.may_give().map_err(SubmitError::Differs)?;
        }
        {
            let _turn = self.admission.verify(tightens, from).await?;
            let checked = self.by_newest(|ledger| ledger.check(&envelope, time_ms)).await?;
            if let Some(receipt) = checked {
                return Ok(receipt);
            }
        }
        if tightens {
            self.tighten(command, envelope, time_ms).await
        } else {
            self.propose(EntryKind::Command, &envelope).await
        }
    }

    /// Gathers signatures for a command that gives. With enough of them, its own and those that others gave before, it takes
    /// effect; otherwise it is a proposal, or brings one more signatures.
    pub async fn gather_from(
        &self,
        from: Source,
        envelope: &Envelope,
        command: &Command,
    ) -> Result<Gathered, SubmitError> {
        self.cluster.may_give().map_err(SubmitError::Differs)?;
        let mut proposed = false;
        loop {
            let look = {
                let _turn = self.admission.verify(false, from).await?;
                self.by_newest(|ledger| look(ledger, envelope, clock::wall_ms())).await
            };
            match look {
                Ok(Look::Enough(whole)) => match self.submit_from(from, whole, command).await {
                    // A start that came before its release was in force: who signed it need not do so again.
                    Err(SubmitError::Refused(Refusal::NotReleased(_) | Refusal::OtherLocks { .. }))
                        if proposed =>
                    {
                        return Ok(Gathered::Proposed);
                    }
                    Err(SubmitError::Refused(Refusal::NotReleased(_) | Refusal::OtherLocks { .. }))
                        if self.adds(envelope) => {}
                    answer => return Ok(Gathered::InForce(answer?)),
                },
                Ok(Look::InForce(receipt)) => return Ok(Gathered::InForce(receipt)),
                // What is in the log by now was not enough.
                Ok(Look::TooFew) | Err(Refusal::NothingNew { .. }) if proposed => {
                    return Ok(Gathered::Proposed);
                }
                Ok(Look::TooFew) => {}
                Err(refusal) => return Err(refusal.into()),
            }
            let receipt = self.propose(EntryKind::Proposal, envelope).await?;
            self.applied(receipt.index).await?;
            // Two people may have signed at once: it is looked at again with all that came.
            proposed = true;
        }
    }

    /// Whether a proposal may take these signatures.
    fn adds(&self, envelope: &Envelope) -> bool {
        let checked = self.replica.ledger().check_proposal(envelope, clock::wall_ms());
        matches!(checked, Ok(None))
    }

    /// Waits until what another node answered for is applied here, too.
    async fn applied(&self, index: u64) -> Result<(), SubmitError> {
        let applied = async {
            while self.replica.ledger().size() <= index {
                tokio::time::sleep(APPLIED_POLL).await;
            }
        };
        tokio::time::timeout(COMMIT_TIMEOUT, applied).await.map_err(|_| SubmitError::Timeout)
    }

    /// This node may be a moment behind, and what it would refuse may be right by now: a start whose release another node
    /// has just taken. So it refuses only by the newest state, where a majority can be asked for it.
    async fn by_newest<T>(&self, judge: impl Fn(&Ledger) -> Result<T, Refusal>) -> Result<T, Refusal> {
        let judged = judge(&self.replica.ledger());
        match judged {
            Err(refusal) if refusal.may_pass() && self.cluster.read_barrier().await.is_ok() => {
                judge(&self.replica.ledger())
            }
            judged => judged,
        }
    }

    /// Has a trip take effect whose sender may stop its scope.
    pub async fn trip(&self, trip: &Envelope) -> Result<Receipt, SubmitError> {
        // Its guard repeats it until it hears an answer: what is in the log already is proposed no more.
        let checked = self.replica.ledger().check_trip(trip)?;
        match checked {
            Some(receipt) => Ok(receipt),
            None => self.propose_for(Need::Trip, EntryKind::Trip, trip).await,
        }
    }

    /// Has a drill come into the log: evidence of a stop, which waits behind whatever takes away.
    pub async fn drill_from(&self, from: Source, drill: &Envelope) -> Result<Receipt, SubmitError> {
        // Before it is judged by a state that may be wrong.
        self.cluster.may_give().map_err(SubmitError::Differs)?;
        let checked = {
            let _turn = self.admission.verify(false, from).await?;
            self.by_newest(|ledger| ledger.check_drill(drill)).await?
        };
        match checked {
            Some(receipt) => Ok(receipt),
            None => self.propose(EntryKind::Drill, drill).await,
        }
    }

    /// As `propose_for`, where it is no command that takes away.
    pub async fn propose(&self, kind: EntryKind, envelope: &Envelope) -> Result<Receipt, SubmitError> {
        self.propose_for(Need::of(kind, true), kind, envelope).await
    }

    /// ③ Proposes; ④ and ⑤ follow in `Replica::apply` on every node. `need` says which part of the disk it may use.
    pub async fn propose_for(
        &self,
        need: Need,
        kind: EntryKind,
        envelope: &Envelope,
    ) -> Result<Receipt, SubmitError> {
        tracing::debug!(target: WAY, ?kind, "proposed");
        let committed = self.cluster.propose(need, kind, envelope);
        let answer =
            tokio::time::timeout(COMMIT_TIMEOUT, committed).await.map_err(|_| SubmitError::Timeout)??;
        Ok(answer?)
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
                tracing::debug!(
                    target: WAY, parent: &way(&outcome.outcome), confirmed, bounded, slowest_ms, "outcome"
                );
                let document = serde_json::to_string(&outcome).expect("an outcome is plain data");
                let envelope = Envelope { document, signatures: Vec::new() };
                if service.cluster.consensus.is_leader() {
                    tokio::time::sleep_until(gathered()).await;
                } else {
                    tokio::time::sleep(OUTCOME_OF_LEADER).await;
                }
                // The semaphore is never closed.
                let _slot = slots.acquire().await;
                let appended = service.append_outcome(account.lock(), envelope);
                let index = appended.instrument(way(&outcome.outcome)).await;
                service.outcomes.finish(&account, index);
            });
        }
    }

    /// Tries until an outcome of this stop is in the log, be it another node's; a node that ends before goes on after its
    /// restart.
    async fn append_outcome(&self, lock: Digest, envelope: Envelope) -> Option<u64> {
        loop {
            if let Some(index) = self.replica.ledger().outcome_index(&lock) {
                return Some(index);
            }
            match self.propose(EntryKind::Outcome, &envelope).await {
                Ok(receipt) => return Some(receipt.index),
                Err(SubmitError::Refused(Refusal::OutcomeKnown(index))) => return Some(index),
                Err(error @ (SubmitError::Consensus(_) | SubmitError::Timeout)) => {
                    tracing::warn!(%error, "an outcome is not in the log yet");
                    tokio::time::sleep(OUTCOME_RETRY).await;
                }
                // Evidence waits: what room there is belongs to stops (reserve.rs), and nothing is counted on a wrong log.
                Err(SubmitError::Disk(_) | SubmitError::Differs(_)) => {
                    tokio::time::sleep(OUTCOME_RETRY).await
                }
                Err(
                    error @ (SubmitError::Refused(_)
                    | SubmitError::Busy(_)
                    | SubmitError::Pending { .. }
                    | SubmitError::Pushed(_)),
                ) => {
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
            match self.submit(stop).instrument(way(&digest)).await {
                Ok(receipt) => {
                    tracing::info!(lock = %digest, index = receipt.index, "committed a stop that a guard held")
                }
                Err(error) => tracing::warn!(lock = %digest, %error, "a stop that a guard holds was refused"),
            }
        }
    }
}

impl From<NotCommitted> for SubmitError {
    fn from(error: NotCommitted) -> Self {
        match error {
            NotCommitted::Consensus(error) => Self::Consensus(error),
            NotCommitted::Disk(refused) => Self::Disk(refused),
            NotCommitted::Differs(why) => Self::Differs(why),
        }
    }
}
