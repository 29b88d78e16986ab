//! The replicated state on this node: committed proposals in, the ledger, the audit log and the pushes out. Step ④.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use parking_lot::{RwLock, RwLockReadGuard};
use tagout_proto::digest::Digest;
use tagout_proto::ledger::{Effect, Ledger, Proposal, Receipt, Refusal};
use tagout_proto::log::entry::EntryKind;
use tagout_proto::rule::RULE_VERSION;
use tagout_proto::scope::Scope;
use tagout_proto::wire::StopEvent;

use crate::audit::{AuditError, AuditSink};
use crate::outcomes::Outcomes;
use crate::push::Hub;
use crate::raft::{Machine, SnapshotBytes};
use crate::way::{WAY, way};

/// The format of a snapshot's bytes under rule 1; each newer rule of verdicts has the next one. What a node writes is
/// decided by the rule in force and not by its build, so that nodes of two builds read one another's snapshots.
const SNAPSHOT_FORMAT: u8 = 5;

/// The exit code of a node whose build cannot follow the log any more (`EX_CONFIG` of sysexits.h).
pub const OUTGROWN_EXIT_CODE: i32 = 78;

/// What a build understands. Tests of upgrades pretend a newer one, tests of S8 one that errs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Build {
    /// The newest rule of verdicts that it knows.
    pub rule_known: u64,
    /// The entry that it writes otherwise than all others.
    pub errs_at: Option<u64>,
}

impl Build {
    pub const THIS: Self = Self { rule_known: RULE_VERSION, errs_at: None };

    fn snapshot_format(rule_version: u64) -> u8 {
        SNAPSHOT_FORMAT + (rule_version - 1) as u8
    }
}

pub struct Replica {
    ledger: RwLock<Ledger>,
    build: Build,
    audit: AuditSink,
    hub: Arc<Hub>,
    outcomes: Arc<Outcomes>,
    /// False while the log is replayed after a start: what happened then was pushed and accounted for before.
    live: AtomicBool,
}

/// What `apply` answers to the proposer.
pub type Answer = Result<Receipt, Refusal>;

impl Replica {
    pub fn new(
        pinned: Digest,
        build: Build,
        audit: AuditSink,
        hub: Arc<Hub>,
        outcomes: Arc<Outcomes>,
    ) -> Self {
        let ledger = RwLock::new(Ledger::new(pinned));
        Self { ledger, build, audit, hub, outcomes, live: AtomicBool::new(false) }
    }

    /// This build does not know what the log asks of it: going on would be another history than the other nodes have.
    fn outgrown(&self, found: u64) -> ! {
        tracing::error!(
            "the other nodes decide by rule {found} from here on, and this build knows rules up to {}. Nothing is lost: start \
             a newer version of tagout on this data",
            self.build.rule_known
        );
        std::process::exit(OUTGROWN_EXIT_CODE);
    }

    pub fn ledger(&self) -> RwLockReadGuard<'_, Ledger> {
        self.ledger.read()
    }

    pub fn go_live(&self) {
        self.live.store(true, Ordering::Release);
    }

    pub fn encode(proposal: &Proposal) -> Vec<u8> {
        postcard::to_stdvec(proposal).expect("a proposal is plain data")
    }

    pub fn decode_answer(bytes: &[u8]) -> io::Result<Answer> {
        postcard::from_bytes(bytes).map_err(io::Error::other)
    }

    fn publish(&self, proposal: &Proposal, effect: &Effect, ledger: &Ledger) {
        let log_size = ledger.size();
        let renew = |scope, deny| self.hub.push_renew(scope, log_size, deny);
        let push = |scope| {
            let (index, time_ms) = (Some(log_size - 1), proposal.time_ms);
            self.hub.push_stop(
                scope,
                &StopEvent { stop: proposal.envelope.clone(), index, time_ms, confirm_within_ms: 0 },
            );
            tracing::debug!(target: WAY, index, "pushed");
        };
        match effect {
            Effect::Locked { lock, scope, kind } => {
                // The account is opened before the push, so that no confirmation can come too early for it.
                if kind.denies() {
                    self.outcomes.open(*lock, scope, *kind);
                }
                // A trip carries no signature and a restore not one of an operator: the lease shows what they place.
                if proposal.kind == EntryKind::Command { push(scope) } else { renew(scope, true) }
            }
            Effect::Withdrawn { scope } => push(scope),
            Effect::Loosened { scope } => renew(scope, false),
            Effect::Succeeded => {
                self.outcomes.limits_changed(ledger.authority().expect("there is a successor").limits);
                renew(&Scope::fleet(), false);
            }
        }
    }
}

impl Machine for Replica {
    fn apply(&self, proposal: &[u8]) -> Vec<u8> {
        let answer = match postcard::from_bytes::<Proposal>(proposal) {
            Ok(mut proposal) => {
                let mut ledger = self.ledger.write();
                if self.build.errs_at == Some(ledger.size()) {
                    proposal.time_ms += 1;
                }
                let began = Instant::now();
                let applied = ledger.apply_knowing(&proposal, self.build.rule_known);
                metrics::histogram!("tagout_apply_seconds").record(began.elapsed());
                if let Err(Refusal::RuleUnknown { found, .. }) = applied.answer {
                    self.outgrown(found);
                }
                if let Some(entry) = &applied.entry {
                    self.audit.append(ledger.size() - 1, entry.clone(), ledger.frontier().root());
                }
                let _way = way(&proposal.envelope.digest()).entered();
                if let Some(effect) = &applied.effect {
                    tracing::debug!(target: WAY, index = ledger.size() - 1, ?effect, "applied");
                }
                // From here on every lease shows it; the lock is kept so that pushes leave in the log's order.
                if let Some(effect) = &applied.effect
                    && self.live.load(Ordering::Acquire)
                {
                    self.publish(&proposal, effect, &ledger);
                }
                applied.answer
            }
            // Every node refuses the same bytes alike.
            Err(error) => Err(Refusal::Malformed(format!("the proposal cannot be read: {error}"))),
        };
        postcard::to_stdvec(&answer).expect("an answer is plain data")
    }

    fn snapshot(&self) -> Option<SnapshotBytes> {
        // The Raft log may lose these entries afterwards, so the audit log must have them first (S8). While it waits for
        // other nodes to give it what it lacks, that may be never.
        if !self.audit.complete() {
            return None;
        }
        let ledger = self.ledger.read().clone();
        let durable = self.audit.durable();
        Some(Box::new(move || {
            if !durable.wait(ledger.size())? {
                return Ok(None);
            }
            let format = Build::snapshot_format(ledger.rule_version());
            let bytes = postcard::to_extend(&ledger, vec![format]).map_err(io::Error::other)?;
            Ok(Some(bytes))
        }))
    }

    fn restore(&self, snapshot: &[u8]) -> io::Result<()> {
        let known = SNAPSHOT_FORMAT..=Build::snapshot_format(self.build.rule_known);
        let restored: Ledger = match snapshot.split_first() {
            Some((format, bytes)) if known.contains(format) => {
                postcard::from_bytes(bytes).map_err(io::Error::other)?
            }
            Some((format, _)) if format > known.end() => {
                return Err(io::Error::other(format!(
                    "the snapshot has format {format}, this build reads up to {}: start the newer version",
                    known.end()
                )));
            }
            _ => return Err(io::Error::other("the snapshot's state has no known format")),
        };
        let mut ledger = self.ledger.write();
        if restored.pinned() != ledger.pinned() {
            return Err(io::Error::other(
                "the snapshot is of another deployment than the configuration names",
            ));
        }
        *ledger = restored;
        // Under the lock, so that the next entry comes after it.
        self.audit.restored(ledger.size(), ledger.frontier().root());
        Ok(())
    }

    /// The audit log is the witness: it was written from what was applied (S1, S8, S9).
    fn foresee(&self, proposals: &mut dyn Iterator<Item = Arc<[u8]>>) -> io::Result<()> {
        let logged = self.audit.opened_size();
        let mut ledger = self.ledger.read().clone();
        while ledger.size() < logged {
            let Some(bytes) = proposals.next() else {
                let applied = ledger.size();
                return Err(io::Error::other(AuditError::Ahead { applied, logged }));
            };
            if let Ok(proposal) = postcard::from_bytes::<Proposal>(&bytes)
                && let Err(Refusal::RuleUnknown { found, .. }) =
                    ledger.apply_knowing(&proposal, self.build.rule_known).answer
            {
                self.outgrown(found);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
