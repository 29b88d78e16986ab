//! A latched lock: what is known of one lock on one agent until its end is proven.

use std::sync::Arc;

use tagout_proto::command::LockCommand;
use tagout_proto::digest::Digest;
use tagout_proto::envelope::Envelope;
use tagout_proto::lock::{LockKind, Trip};
use tagout_proto::restore::Restore;
use tagout_proto::rule::LockFact;
use tagout_proto::scope::Scope;
use tagout_proto::view::{LockView, Tag};
use tagout_proto::wire::StopPath;

use super::NS_PER_MS;
use crate::clock::Now;
use crate::denied::Obstacle;

#[derive(Clone)]
pub(super) struct Latched {
    pub(super) scope: Scope,
    pub(super) kind: LockKind,
    pub(super) tag: Tag,
    /// Its entry in the log, as the service says; none while no log has it.
    pub(super) index: Option<u64>,
    pub(super) time_ms: u64,
    /// As the service says; only ever shown to people.
    pub(super) released: bool,
    pub(super) received_ns: u64,
    pub(super) by: StopPath,
    /// What placed it, with its signatures, where it came as such.
    pub(super) signed: Option<Arc<Envelope>>,
    /// The service asked for its bytes.
    pub(super) wanted: bool,
    /// The newest `Asked` that named it.
    pub(super) asked: u64,
    pub(super) held: Option<Obstacle>,
}

/// How and when a document came.
#[derive(Clone, Copy)]
pub(super) struct Came {
    pub(super) by: StopPath,
    pub(super) received_ns: u64,
    /// Its entry's place and time in the log, as the service says; without a place, when the node took it.
    pub(super) index: Option<u64>,
    pub(super) time_ms: u64,
}

impl Latched {
    pub(super) fn shown(lock: LockView, received_ns: u64) -> (Digest, Self) {
        let LockView { id, scope, kind, index, time_ms, released, tag } = lock;
        let came = Came { by: StopPath::Lease, received_ns, index: Some(index), time_ms };
        (id, Self { released, ..Self::new(scope, kind, tag, came, None) })
    }

    pub(super) fn command(lock: LockCommand, by: Vec<String>, signed: &Envelope, came: Came) -> Self {
        let LockCommand { scope, kind, reason, case } = lock;
        Self::new(scope, kind, Tag { reason, by, case }, came, Some(Arc::new(signed.clone())))
    }

    pub(super) fn trip(trip: Trip, document: &Envelope, came: Came) -> Self {
        let tag = Tag { by: vec![trip.by()], reason: trip.reason, case: None };
        Self::new(trip.scope, LockKind::Halt, tag, came, Some(Arc::new(document.clone())))
    }

    /// A restore halts the whole fleet.
    pub(super) fn restore(restore: Restore, signed: &Envelope, came: Came) -> Self {
        let tag = Tag { reason: restore.reason, by: Vec::new(), case: None };
        Self::new(Scope::fleet(), LockKind::Halt, tag, came, Some(Arc::new(signed.clone())))
    }

    /// As an earlier process had it.
    pub(super) fn kept(
        scope: Scope,
        kind: LockKind,
        tag: Tag,
        came: Came,
        signed: Option<Arc<Envelope>>,
        released: bool,
    ) -> Self {
        Self { released, ..Self::new(scope, kind, tag, came, signed) }
    }

    fn new(scope: Scope, kind: LockKind, tag: Tag, came: Came, signed: Option<Arc<Envelope>>) -> Self {
        let Came { by, received_ns, index, time_ms } = came;
        Self {
            scope,
            kind,
            tag,
            index,
            time_ms,
            released: false,
            received_ns,
            by,
            signed,
            wanted: false,
            asked: 0,
            held: None,
        }
    }

    /// Takes over what a view says of it. A view is not signed by people, so it never softens what was latched before.
    pub(super) fn shown_again(&mut self, shown: LockView) {
        self.released = shown.released;
        self.index = Some(shown.index);
        self.time_ms = self.time_ms.min(shown.time_ms);
        // Its bytes would say what it is. Without them, two answers that differ count as the worst there is.
        if self.signed.is_none() && self.kind != shown.kind {
            self.kind = LockKind::Halt;
        }
    }

    /// Takes over what its own bytes say of it.
    pub(super) fn signed_as(&mut self, signed: &Self) {
        (self.scope, self.kind) = (signed.scope.clone(), signed.kind);
        self.signed = signed.signed.clone();
    }

    /// The document, where it is a trip: it alone has no signatures.
    pub(super) fn as_trip(&self) -> Option<&Envelope> {
        self.signed.as_deref().filter(|document| document.signatures.is_empty())
    }

    /// The fact for the rule. The service's word that it is released never counts here: a latched lock ends by proof
    /// (S2). A drain ends at the earlier of entry time and first receipt, each plus its length.
    pub(super) fn fact(&self, now: Now, now_ms: u64) -> LockFact {
        let drain_deadline_ms = match self.kind {
            LockKind::Drain { drain_ms } => {
                let by_entry_ms = self.time_ms.saturating_add(drain_ms);
                let since_receipt_ms = now.boot_ns.saturating_sub(self.received_ns) / NS_PER_MS;
                let by_receipt_ms = now_ms.saturating_add(drain_ms).saturating_sub(since_receipt_ms);
                Some(by_entry_ms.min(by_receipt_ms))
            }
            LockKind::Halt
            | LockKind::Pause
            | LockKind::Isolate
            | LockKind::Restrict
            | LockKind::Throttle(_) => None,
        };
        LockFact { kind: self.kind, released: false, drain_deadline_ms }
    }

    /// Its place among an agent's locks: people are told of the first.
    pub(super) fn rank(&self) -> (u8, u64) {
        let rank = match self.kind {
            LockKind::Halt => 0,
            LockKind::Drain { .. } => 1,
            LockKind::Isolate => 2,
            LockKind::Pause => 3,
            LockKind::Restrict => 4,
            LockKind::Throttle(_) => 5,
        };
        (rank, self.index.unwrap_or(u64::MAX))
    }
}
