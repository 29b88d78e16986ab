//! A view: all that the service knows of one agent, small and with a digest that a lease can bind.

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::envelope::Envelope;
use crate::lock::LockKind;
use crate::rule::LockFact;
use crate::scope::Scope;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct View {
    pub agent: Scope,
    /// The strongest lock of each kind on the agent or above it. Unsigned: a node may deny without proof.
    pub locks: Vec<LockView>,
    /// The unexpired grants that cover the agent, with their signatures: a node cannot consent by itself (S5).
    pub grants: Vec<Envelope>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockView {
    /// SHA-256 of the command that placed it.
    pub id: Digest,
    pub scope: Scope,
    pub kind: LockKind,
    /// The command's entry in the log.
    pub index: u64,
    /// The entry's time, Unix milliseconds.
    pub time_ms: u64,
    /// Released, and still in place until a start names it.
    pub released: bool,
    pub tag: Tag,
}

/// What hangs on the lock for people to read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tag {
    pub reason: String,
    pub by: Vec<String>,
    pub case: Option<String>,
}

impl LockView {
    /// The fact for the rule, with the drain counted from the entry's time.
    pub fn fact(&self) -> LockFact {
        LockFact::of_entry(self.kind, self.released, self.time_ms)
    }
}

impl View {
    /// SHA-256 over one unambiguous encoding: every part under its length.
    pub fn digest(&self) -> Digest {
        let mut bytes = b"tagout-view/v1\n".to_vec();
        put(&mut bytes, self.agent.as_str().as_bytes());
        put_count(&mut bytes, self.locks.len());
        for lock in &self.locks {
            bytes.extend(lock.id.0);
            put(&mut bytes, lock.scope.as_str().as_bytes());
            put_kind(&mut bytes, lock.kind);
            bytes.extend(lock.index.to_be_bytes());
            bytes.extend(lock.time_ms.to_be_bytes());
            bytes.push(lock.released.into());
            put(&mut bytes, lock.tag.reason.as_bytes());
            put_count(&mut bytes, lock.tag.by.len());
            lock.tag.by.iter().for_each(|name| put(&mut bytes, name.as_bytes()));
            bytes.push(lock.tag.case.is_some().into());
            lock.tag.case.iter().for_each(|case| put(&mut bytes, case.as_bytes()));
        }
        put_count(&mut bytes, self.grants.len());
        for grant in &self.grants {
            put_envelope(&mut bytes, grant);
        }
        Digest::of(&bytes)
    }
}

fn put_kind(out: &mut Vec<u8>, kind: LockKind) {
    put(out, kind.name().as_bytes());
    match kind {
        LockKind::Drain { drain_ms } => out.extend(drain_ms.to_be_bytes()),
        LockKind::Throttle(limits) => {
            for limit in [limits.calls_per_minute, limits.tokens_per_minute] {
                out.push(limit.is_some().into());
                limit.iter().for_each(|limit| out.extend(limit.to_be_bytes()));
            }
        }
        LockKind::Halt | LockKind::Pause | LockKind::Isolate | LockKind::Restrict => {}
    }
}

fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    put_count(out, bytes.len());
    out.extend(bytes);
}

fn put_count(out: &mut Vec<u8>, count: usize) {
    out.extend(u32::try_from(count).expect("views are bounded").to_be_bytes());
}

pub(crate) fn put_envelope(out: &mut Vec<u8>, envelope: &Envelope) {
    put(out, envelope.document.as_bytes());
    put_count(out, envelope.signatures.len());
    envelope.signatures.iter().for_each(|signature| put(out, signature.as_bytes()));
}
