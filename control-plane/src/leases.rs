//! Leases: the one authoritative exchange with guards (S3).
//!
//! A batch is whatever arrived while the one before was being served. It is frozen before its linearizable read begins, so
//! the read is after every nonce in it; one read and one signature then answer all of it.

use std::sync::Arc;
use std::time::Duration;

use tagout_proto::command::{Deployment, Listed};
use tagout_proto::digest::Digest;
use tagout_proto::envelope::Envelope;
use tagout_proto::lease::{
    AgentRequest, Clearing, KnownLock, Lease, LeaseRequest, LeaseResponse, LockAnswer, Unenrolled,
    leaf_hash_of,
};
use tagout_proto::ledger::{Ledger, LockStatus, NotEnrolled};
use tagout_proto::limits::LEASE_BATCH_MAX;
use tagout_proto::log::tree;
use tagout_proto::note::NoteSigner;
use tagout_proto::rule::CallLimits;
use tagout_proto::scope::Scope;
use tagout_proto::view::View;
use tokio::sync::{mpsc, oneshot};

use crate::audit::AuditReader;
use crate::clock;
use crate::cluster::Cluster;
use crate::instances::Instances;
use crate::raft::ReadError;
use crate::replica::Replica;

/// Lease requests that may wait for the batch before theirs.
const QUEUE_MAX: usize = 16 * 1024;

#[derive(Clone)]
pub struct Leases {
    queue: mpsc::Sender<Waiting>,
}

struct Waiting {
    request: LeaseRequest,
    /// The SHA-256 of the token that came with it.
    token: Option<Digest>,
    answer: oneshot::Sender<Result<LeaseResponse, Arc<LeaseFailure>>>,
}

#[derive(Debug, thiserror::Error)]
pub enum LeaseFailure {
    #[error("too many lease requests are waiting; try again")]
    Busy,
    #[error("the service cannot say now what is so: {0}")]
    Read(#[source] ReadError),
    #[error("this node signs no leases: {0}")]
    Withheld(String),
    #[error("the service has no genesis yet")]
    NoGenesis,
    #[error(transparent)]
    NotEnrolled(NotEnrolled),
    #[error("the node is shutting down")]
    Gone,
}

/// What serves the leases: everything that a batch needs.
pub struct LeaseServer {
    pub cluster: Arc<Cluster>,
    pub replica: Arc<Replica>,
    pub instances: Arc<Instances>,
    pub audit: AuditReader,
    pub signer: Arc<NoteSigner>,
    /// Gets the stops that guards hold and this service has not seen: they are proposed (S6).
    pub unknown_stops: mpsc::Sender<Envelope>,
}

impl Leases {
    /// Asks for a lease, by the SHA-256 of the token that was sent; waits for its batch.
    pub async fn ask(
        &self,
        request: LeaseRequest,
        token: Option<Digest>,
    ) -> Result<LeaseResponse, Arc<LeaseFailure>> {
        let (answer, received) = oneshot::channel();
        self.queue.try_send(Waiting { request, token, answer }).map_err(|e| match e {
            mpsc::error::TrySendError::Full(_) => LeaseFailure::Busy,
            mpsc::error::TrySendError::Closed(_) => LeaseFailure::Gone,
        })?;
        received.await.unwrap_or_else(|_| Err(LeaseFailure::Gone.into()))
    }

    pub fn serve(server: LeaseServer) -> Self {
        let (queue, receiver) = mpsc::channel(QUEUE_MAX);
        tokio::spawn(server.run(receiver));
        Self { queue }
    }
}

impl LeaseServer {
    async fn run(self, mut queue: mpsc::Receiver<Waiting>) {
        let server = Arc::new(self);
        let mut batch = Vec::new();
        // From here the batch is frozen: `recv_many` gives what has arrived, and what comes later waits for the next.
        while queue.recv_many(&mut batch, LEASE_BATCH_MAX).await > 0 {
            server.note_instances(&batch);
            metrics::histogram!("tagout_lease_batch_size").record(batch.len() as f64);
            let frozen = std::mem::take(&mut batch);
            let began = std::time::Instant::now();
            let read = match server.cluster.may_lease() {
                Ok(()) => server.cluster.read_barrier().await.map_err(LeaseFailure::Read),
                Err(why) => Err(LeaseFailure::Withheld(why)),
            };
            metrics::histogram!("tagout_read_barrier_seconds").record(began.elapsed());
            if let Err(failure) = read {
                let failure = Arc::new(failure);
                for waiting in frozen {
                    // A guard that has hung up needs no answer.
                    let _ = waiting.answer.send(Err(failure.clone()));
                }
                continue;
            }
            // Views, hashes and perhaps a file read: not for an async thread.
            let server = server.clone();
            let answered = tokio::task::spawn_blocking(move || server.answer(frozen)).await;
            if let Err(error) = answered {
                tracing::error!(%error, "a batch of leases was lost");
            }
        }
    }

    /// Before the read, so that whoever may get a lease from before a stop is in its account. Who is enrolled it says by what
    /// this node has applied so far; the read decides.
    fn note_instances(&self, batch: &[Waiting]) {
        let now_ms = clock::wall_ms();
        let ledger = self.replica.ledger();
        for Waiting { request, token, .. } in batch {
            let admitted = |agent: &&Scope| ledger.admits(token.as_ref(), agent, now_ms).is_ok();
            let agents = request.agents.iter().map(|agent| &agent.scope).filter(admitted);
            self.instances.note(&request.instance, agents);
        }
    }

    /// Answers a frozen batch from the state after its read.
    fn answer(&self, batch: Vec<Waiting>) {
        match self.build(&batch) {
            Ok(responses) => {
                for (waiting, response) in batch.into_iter().zip(responses) {
                    let _ = waiting.answer.send(response);
                }
            }
            Err(failure) => {
                tracing::warn!(error = &failure as &dyn std::error::Error, "a batch of leases was refused");
                let failure = Arc::new(failure);
                for waiting in batch {
                    let _ = waiting.answer.send(Err(failure.clone()));
                }
            }
        }
    }

    fn build(
        &self,
        batch: &[Waiting],
    ) -> Result<Vec<Result<LeaseResponse, Arc<LeaseFailure>>>, LeaseFailure> {
        let time_ms = clock::wall_ms();
        // One lock for the whole batch: its size, root and views are of one moment.
        let ledger = self.replica.ledger();
        let authority = ledger.authority().ok_or(LeaseFailure::NoGenesis)?;
        let (mut views, mut admitted) = (Vec::with_capacity(batch.len()), Vec::with_capacity(batch.len()));
        for Waiting { request, token, .. } in batch {
            let scopes = || request.agents.iter().map(|agent| &agent.scope);
            let refusals: Vec<Option<NotEnrolled>> =
                scopes().map(|agent| ledger.admits(token.as_ref(), agent, time_ms).err()).collect();
            views.push(
                scopes()
                    .zip(&refusals)
                    .map(|(agent, refused)| {
                        let view = ledger.view(agent, time_ms);
                        if refused.is_some() { View { grants: Vec::new(), ..view } } else { view }
                    })
                    .collect::<Vec<_>>(),
            );
            admitted.push(unenrolled(&request.agents, refusals));
        }
        let sharers: Vec<Vec<u32>> = (batch.iter())
            .map(|w| self.sharers(&w.request, &ledger, time_ms, authority.limits.ttl_ms))
            .collect();
        let statuses: Vec<Vec<KnownStatus>> = (batch.iter())
            .map(|w| w.request.known.iter().map(|known| KnownStatus::of(known, &ledger)).collect())
            .collect();
        let mut lease = Lease {
            deployment: Deployment::clone(&authority.deployment),
            epoch_number: ledger.epoch().number,
            epoch: ledger.epoch().id,
            authority_version: authority.version,
            authority: authority.digest,
            log_size: ledger.size(),
            log_root: ledger.frontier().root(),
            time_ms,
            ttl_ms: authority.limits.ttl_ms,
            lapse_grace_ms: authority.limits.lapse_grace_ms,
            rule_version: ledger.rule_version(),
            batch_size: batch.len() as u64,
            batch_root: Digest::default(),
        };
        drop(ledger);

        let mut leaves = Vec::with_capacity(batch.len());
        let mut responses = Vec::with_capacity(batch.len());
        let answers = batch.iter().zip(views).zip(statuses).zip(admitted).zip(sharers);
        for ((((waiting, views), statuses), admitted), instances) in answers {
            let request = &waiting.request;
            let answers = (request.known.iter().zip(statuses))
                .map(|(known, status)| self.answer_known(known, status))
                .collect::<Vec<_>>();
            let digests: Vec<Digest> = views.iter().map(View::digest).collect();
            let named: Vec<_> = request.known.iter().map(|k| k.id).zip(answers.iter().cloned()).collect();
            let scopes = request.agents.iter().map(|a| &a.scope);
            leaves.push(leaf_hash_of(&request.nonce, scopes.zip(digests.iter().copied()), &named));
            let changed = (request.agents.iter().zip(views).zip(&digests))
                .map(|((agent, view), digest)| (agent.view.as_ref() != Some(digest)).then_some(view))
                .collect();
            // Who is refused keeps its leaf, which binds nothing to anybody.
            responses.push(admitted.map(|unenrolled| LeaseResponse {
                lease: String::new(),
                leaf_index: 0,
                path: Vec::new(),
                views: changed,
                answers,
                unenrolled,
                instances,
            }));
        }
        lease.batch_root = tree::root(&leaves);
        let note = lease.sign(&self.signer);
        for (index, (response, path)) in responses.iter_mut().zip(tree::prove_all(&leaves)).enumerate() {
            if let Ok(response) = response {
                (response.lease, response.leaf_index, response.path) = (note.clone(), index as u64, path);
            }
        }
        Ok(responses)
    }

    /// How many instances share each agent's limits; nothing where each has one.
    fn sharers(&self, request: &LeaseRequest, ledger: &Ledger, time_ms: u64, ttl_ms: u64) -> Vec<u32> {
        // One that asks for no lease any more has none to call by.
        let within = Duration::from_millis(ttl_ms);
        let sharers = request.agents.iter().map(|agent| match ledger.terms(&agent.scope, time_ms).limits {
            limits if limits == CallLimits::default() => 1,
            _ => self.instances.sharers(&agent.scope, within),
        });
        let sharers: Vec<u32> = sharers.collect();
        if sharers.iter().all(|instances| *instances == 1) { Vec::new() } else { sharers }
    }

    /// What is known of a lock that a guard holds. Where the proof of its end cannot be read, it holds: one damaged file
    /// must not lapse the guards that did not ask about it.
    fn answer_known(&self, known: &KnownLock, status: KnownStatus) -> LockAnswer {
        match (status, &known.document) {
            (KnownStatus::Held, _) => LockAnswer::Held { why: "it holds until then".into() },
            (KnownStatus::Cleared { placed, release, start }, _) => {
                self.clearance(placed, release, start).unwrap_or_else(|error| {
                    tracing::error!(lock = %known.id, %error, "the log does not give the proof of a lock's end");
                    LockAnswer::Held { why: "the proof of its end cannot be read on this node; its log tells why".into() }
                })
            }
            (KnownStatus::Unknown, None) => LockAnswer::SendDocument,
            // It takes the token of an enrolled agent, which a lease may not.
            (KnownStatus::Unknown, Some(document)) if document.signatures.is_empty() => {
                LockAnswer::Held { why: "nobody signed it: a trip is handed in with POST /v1/trips".into() }
            }
            (KnownStatus::Unknown, Some(document)) if document.digest() == known.id => {
                // A full queue loses nothing: the guard sends it again with its next request.
                let _ = self.unknown_stops.try_send(document.clone());
                LockAnswer::Held { why: "this service had not seen it and is committing it".into() }
            }
            (KnownStatus::Unknown, Some(_)) => {
                LockAnswer::Held { why: "the bytes sent for it are another lock's".into() }
            }
        }
    }

    fn clearance(&self, placed: u64, release: Ended, start: Option<Ended>) -> std::io::Result<LockAnswer> {
        let envelope = |index| self.audit.entry(index).map(|entry| entry.envelope);
        let clearing =
            |Ended { index, listed }| envelope(index).map(|envelope| Clearing { envelope, listed });
        let start = start.map(clearing).transpose()?;
        Ok(LockAnswer::Cleared { placed: envelope(placed)?, release: clearing(release)?, start })
    }
}

/// The agents that get no lease. Where that is all of them, nobody gets one.
fn unenrolled(
    agents: &[AgentRequest],
    refusals: Vec<Option<NotEnrolled>>,
) -> Result<Vec<Unenrolled>, Arc<LeaseFailure>> {
    if let Some(first) = refusals.first().cloned().flatten()
        && refusals.iter().all(Option::is_some)
    {
        return Err(LeaseFailure::NotEnrolled(first).into());
    }
    let refused = agents.iter().zip(refusals).filter_map(|(agent, refused)| Some((agent, refused?)));
    Ok(refused.map(|(agent, why)| Unenrolled { agent: agent.scope.clone(), why: why.to_string() }).collect())
}

/// What the ledger knows of a lock that a guard holds, and where in the log the proofs lie.
enum KnownStatus {
    Held,
    Cleared { placed: u64, release: Ended, start: Option<Ended> },
    Unknown,
}

/// The entry that released or started a lock, and the lock's place in its bulk list.
struct Ended {
    index: u64,
    listed: Option<Listed>,
}

impl KnownStatus {
    fn of(known: &KnownLock, ledger: &Ledger) -> Self {
        let ended = |index| Ended { index, listed: ledger.listed(index, &known.id) };
        match ledger.lock_status(&known.id, &known.agent) {
            LockStatus::Held => Self::Held,
            LockStatus::Unknown => Self::Unknown,
            LockStatus::Cleared { placed, release, start } => {
                Self::Cleared { placed, release: ended(release), start: start.map(ended) }
            }
        }
    }
}

/// How long a guard's request may wait for its batch before the node says so.
pub const LEASE_TIMEOUT: Duration = Duration::from_secs(5);
