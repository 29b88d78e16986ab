//! What outlives the process: floors, locks, and what was taken back. All of it can only deny (S4): whatever stands in the
//! file, consent is proven by what people signed, from the pinned genesis on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tagout_proto::command::Deployment;
use tagout_proto::digest::Digest;
use tagout_proto::envelope::Envelope;
use tagout_proto::lock::LockKind;
use tagout_proto::scope::Scope;
use tagout_proto::sentence::sentence;
use tagout_proto::view::Tag;
use tagout_proto::wire::StopPath;

use super::latch::{Came, Latched};
use super::{Floor, Trusted};
use crate::clock::Now;
use crate::limits::*;

/// The file's first line: this, the version and the SHA-256 of all that follows.
const MAGIC: &str = "tagout guard state";
const VERSION: u64 = 1;

/// Why a file says nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeptError {
    #[error("it has {0} bytes, at most {KEPT_MAX_BYTES} are read")]
    TooLarge(usize),
    #[error("it does not begin as a guard's state does")]
    NoState,
    #[error("it is of version {found}, and this SDK knows version {VERSION}: upgrade it")]
    Newer { found: u64 },
    #[error("its bytes are damaged: their SHA-256 is not the one in its first line")]
    Damaged,
    #[error("it cannot be understood: {0}")]
    Unreadable(String),
    #[error("it is of deployment {0}, another one")]
    OtherDeployment(Deployment),
}

/// What was accepted before, as far as it forbids to go back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Floors {
    pub(super) authority: u64,
    pub(super) authority_digest: Digest,
    pub(super) epoch: u64,
    pub(super) epoch_id: Digest,
    pub(super) size: u64,
    pub(super) root: Option<Digest>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    deployment: String,
    floors: Floors,
    /// Curve points of suspended keys.
    suspended: BTreeSet<Digest>,
    revoked: BTreeSet<(Digest, Scope)>,
    revoked_overflowed: bool,
    locks: Vec<KeptLock>,
    delivered_overflowed: bool,
    /// Agents with more locks than there was room for.
    overflowed: BTreeSet<Scope>,
}

/// A lock, once for all agents that it is latched on.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeptLock {
    id: Digest,
    scope: Scope,
    kind: LockKind,
    tag: Tag,
    index: Option<u64>,
    time_ms: u64,
    released: bool,
    by: StopPath,
    signed: Option<Envelope>,
    /// It came past the service: agents that come later are under it too.
    delivered: bool,
    agents: BTreeSet<Scope>,
}

impl Trusted {
    /// What has to outlive the process, as the bytes of a file.
    pub fn keep(&self) -> Vec<u8> {
        let mut locks: BTreeMap<Digest, KeptLock> = BTreeMap::new();
        for (id, lock) in &self.delivered {
            locks.entry(*id).or_insert_with(|| KeptLock::of(*id, lock)).delivered = true;
        }
        for (scope, agent) in &self.agents {
            for (id, lock) in &agent.latched {
                locks.entry(*id).or_insert_with(|| KeptLock::of(*id, lock)).agents.insert(scope.clone());
            }
        }
        let overflowed = self.agents.iter().filter(|(_, agent)| agent.has_overflowed());
        let kept = Kept {
            deployment: self.deployment().to_string(),
            floors: self.floors(),
            suspended: self.trust.suspended().map(Digest).collect(),
            revoked: self.revoked.named.clone(),
            revoked_overflowed: self.revoked.overflowed,
            locks: locks.into_values().collect(),
            delivered_overflowed: self.delivered_overflowed,
            overflowed: overflowed.map(|(scope, _)| scope.clone()).collect(),
        };
        let body = serde_json::to_vec(&kept).expect("it is plain data");
        let mut bytes = format!("{MAGIC} {VERSION} {}\n", Digest::of(&body)).into_bytes();
        bytes.extend(body);
        bytes
    }

    /// Takes over what an earlier process kept, before anything else is believed. All of it, or nothing.
    pub fn recall(&mut self, bytes: &[u8], now: Now) -> Result<(), KeptError> {
        let kept = Kept::read(bytes)?;
        if kept.deployment != self.deployment().to_string() {
            let found = kept.deployment.parse().map_err(|error| KeptError::Unreadable(sentence(error)))?;
            return Err(KeptError::OtherDeployment(found));
        }
        let locks = kept.locks.iter().map(|lock| lock.agents.len().max(1)).sum::<usize>();
        if locks > LOCKS_MAX + DELIVERED_MAX || kept.revoked.len() > REVOKED_MAX {
            return Err(KeptError::Unreadable("it holds more than a guard keeps".into()));
        }
        self.kept = Some(kept.floors);
        self.trust.distrust(kept.suspended.into_iter().map(|point| point.0));
        self.revoked.named.extend(kept.revoked);
        self.revoked.overflowed |= kept.revoked_overflowed;
        self.delivered_overflowed |= kept.delivered_overflowed;
        for lock in kept.locks {
            let (id, delivered) = (lock.id, lock.delivered);
            let (agents, lock) = lock.latched(now);
            if delivered {
                self.deliver(id, &lock);
            }
            for scope in agents {
                let agent = self.agents.entry(scope).or_default();
                self.latched += usize::from(agent.latch_signed(id, &lock, self.latched));
            }
        }
        for scope in kept.overflowed {
            self.agents.entry(scope).or_default().overflow();
        }
        Ok(())
    }

    /// The highest of what an earlier process accepted and of what this one did.
    pub(super) fn floors(&self) -> Floors {
        let (authority, epoch) = (self.trust.authority(), self.trust.epoch());
        let mut floors = Floors {
            authority: authority.version,
            authority_digest: authority.digest,
            epoch: epoch.number,
            epoch_id: epoch.id,
            size: self.log_size(),
            root: self.log.and_then(|Floor { root, .. }| root),
        };
        let Some(kept) = self.kept else { return floors };
        if kept.authority > floors.authority {
            (floors.authority, floors.authority_digest) = (kept.authority, kept.authority_digest);
        }
        // Where a restore began, the root is not known.
        let place = |floors: &Floors| (floors.epoch, floors.size, floors.root.is_some());
        if place(&kept) > place(&floors) {
            (floors.epoch, floors.epoch_id) = (kept.epoch, kept.epoch_id);
            (floors.size, floors.root) = (kept.size, kept.root);
        }
        floors
    }
}

impl Kept {
    fn read(bytes: &[u8]) -> Result<Self, KeptError> {
        if bytes.len() > KEPT_MAX_BYTES {
            return Err(KeptError::TooLarge(bytes.len()));
        }
        let end = bytes.iter().take(256).position(|byte| *byte == b'\n').ok_or(KeptError::NoState)?;
        let (first, body) = (&bytes[..end], &bytes[end + 1..]);
        let first =
            std::str::from_utf8(first).ok().and_then(|line| line.strip_prefix(MAGIC)?.strip_prefix(' '));
        let (version, digest) = first.and_then(|rest| rest.split_once(' ')).ok_or(KeptError::NoState)?;
        let found: u64 = version.parse().map_err(|_| KeptError::NoState)?;
        // A newer one may hold what this one would forget.
        if found > VERSION {
            return Err(KeptError::Newer { found });
        }
        if found != VERSION || digest != Digest::of(body).to_string() {
            return Err(KeptError::Damaged);
        }
        serde_json::from_slice(body).map_err(|error| KeptError::Unreadable(sentence(error)))
    }
}

impl KeptLock {
    fn of(id: Digest, lock: &Latched) -> Self {
        Self {
            id,
            scope: lock.scope.clone(),
            kind: lock.kind,
            tag: lock.tag.clone(),
            index: lock.index,
            time_ms: lock.time_ms,
            released: lock.released,
            by: lock.by,
            signed: lock.signed.as_deref().cloned(),
            delivered: false,
            agents: BTreeSet::new(),
        }
    }

    /// The boot clock may be another one now, so a drain counts from its entry's time.
    fn latched(self, now: Now) -> (BTreeSet<Scope>, Latched) {
        let Self { scope, kind, tag, index, time_ms, released, by, signed, agents, .. } = self;
        let came = Came { by, received_ns: now.boot_ns, index, time_ms };
        (agents, Latched::kept(scope, kind, tag, came, signed.map(Arc::new), released))
    }
}
