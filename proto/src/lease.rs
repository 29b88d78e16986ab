//! Leases: a node's signed answer to a guard's nonce, "read after your nonce, the state of your agents is exactly this".
//!
//! One linearizable read and one signature serve a whole batch: the lease signs the root of a Merkle tree whose leaves
//! bind each nonce to the state that was answered for it. A guard recomputes its leaf from what it holds, so a node can
//! neither answer for another nonce nor show one state and sign another.

use data_encoding::BASE64;
use serde::{Deserialize, Serialize};

use crate::command::{Deployment, Listed};
use crate::digest::Digest;
use crate::envelope::Envelope;
use crate::limits::{INSTANT_MAX_MS, LAPSE_GRACE_MAX_MS, TTL_MAX_MS};
use crate::log::tree::{leaf_hash, verify_inclusion};
use crate::note::{NoteError, NoteSigner, VerifierKey};
use crate::scope::Scope;
use crate::strict;
use crate::view::{View, put_envelope};

/// `POST /v1/leases`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeaseRequest {
    /// 256 random bits, made before anything is sent: the guard's permission dates from that moment (S3).
    pub nonce: Digest,
    /// The process that asks, by a name of its own choosing, for the account of who confirmed a stop.
    pub instance: String,
    pub agents: Vec<AgentRequest>,
    /// Locks that the guard holds and wants to see cleared or confirmed.
    #[serde(default)]
    pub known: Vec<KnownLock>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentRequest {
    pub scope: Scope,
    /// The digest of the view that the guard has; the answer repeats the view only when it changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub view: Option<Digest>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KnownLock {
    pub id: Digest,
    /// The agent that is held by it.
    pub agent: Scope,
    /// The document that placed it, once the node has asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub document: Option<Envelope>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeaseResponse {
    /// The signed note that `Lease::open` reads.
    pub lease: String,
    /// The leaf's place in the batch and its inclusion proof.
    pub leaf_index: u64,
    pub path: Vec<Digest>,
    /// In the order of the request's agents; `None` where the guard's own view is still right.
    pub views: Vec<Option<View>>,
    /// In the order of the request's `known`.
    pub answers: Vec<LockAnswer>,
    /// In the order of the request's agents, how many instances share each one's limits; left out where each has one. It
    /// is in no signature: a guard never takes more than the limits that people signed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub instances: Vec<u32>,
    /// Agents of the request that the one who asks is not enrolled for: this is no lease of theirs, and their views have no
    /// grants. Unsigned, since a node may deny without proof.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unenrolled: Vec<Unenrolled>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unenrolled {
    pub agent: Scope,
    pub why: String,
}

/// What the service says of a lock that a guard holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "answer", deny_unknown_fields)]
pub enum LockAnswer {
    /// It no longer holds the agent. The guard verifies these itself: `placed` gives the id, the scope and the kind.
    Cleared { placed: Envelope, release: Clearing, start: Option<Clearing> },
    /// It stays.
    Held { why: String },
    /// The service does not know it yet: it stays, and the guard shall send its bytes.
    SendDocument,
}

/// A release or a start, and the proof that its bulk list holds the lock, if it has one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Clearing {
    pub envelope: Envelope,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listed: Option<Listed>,
}

/// The text that a node signs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    pub deployment: Deployment,
    pub epoch_number: u64,
    pub epoch: Digest,
    pub authority_version: u64,
    pub authority: Digest,
    /// The log that the state was read from.
    pub log_size: u64,
    pub log_root: Digest,
    /// The node's wall clock, Unix milliseconds.
    pub time_ms: u64,
    pub ttl_ms: u64,
    pub lapse_grace_ms: u64,
    pub rule_version: u64,
    pub batch_size: u64,
    pub batch_root: Digest,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LeaseError {
    #[error(transparent)]
    Note(#[from] NoteError),
    #[error("the lease is malformed: {0}")]
    Malformed(&'static str),
    #[error("the lease does not bind this state to this nonce")]
    NotBound,
}

const HEADER: &str = "tagout-lease/v1";

impl Lease {
    pub fn sign(&self, signer: &NoteSigner) -> String {
        signer.sign(&format!(
            "{HEADER}\ndeployment {}\nepoch {} {}\nauthority {} {}\nlog {} {}\ntime_ms {}\nttl_ms {}\nlapse_grace_ms {}\n\
             rule {}\nbatch {} {}\n",
            self.deployment,
            self.epoch_number,
            self.epoch,
            self.authority_version,
            self.authority,
            self.log_size,
            BASE64.encode(&self.log_root.0),
            self.time_ms,
            self.ttl_ms,
            self.lapse_grace_ms,
            self.rule_version,
            self.batch_size,
            BASE64.encode(&self.batch_root.0),
        ))
    }

    /// Opens a lease signed by `key`, which the caller took from a verified authority.
    pub fn open(note: &str, key: &VerifierKey) -> Result<Self, LeaseError> {
        Self::parse(key.open(note)?)
    }

    fn parse(text: &str) -> Result<Self, LeaseError> {
        let mut lines = text.lines();
        if lines.next() != Some(HEADER) {
            return Err(LeaseError::Malformed("its first line is not tagout-lease/v1"));
        }
        let mut field = |name: &str| {
            let rest = lines.next()?.strip_prefix(name)?.strip_prefix(' ')?;
            // A space at the end would be a second spelling.
            (!rest.ends_with(' ')).then(|| rest.split_once(' ').unwrap_or((rest, "")))
        };
        let parsed = (|| {
            let deployment = alone(field("deployment")?)?.parse().ok()?;
            let (epoch_number, epoch) = field("epoch")?;
            let (authority_version, authority) = field("authority")?;
            let (log_size, log_root) = field("log")?;
            let time_ms = decimal(alone(field("time_ms")?)?)?;
            let ttl_ms = decimal(alone(field("ttl_ms")?)?)?;
            let lapse_grace_ms = decimal(alone(field("lapse_grace_ms")?)?)?;
            let rule_version = decimal(alone(field("rule")?)?)?;
            let (batch_size, batch_root) = field("batch")?;
            Some(Self {
                deployment,
                epoch_number: decimal(epoch_number)?,
                epoch: epoch.parse().ok()?,
                authority_version: decimal(authority_version)?,
                authority: authority.parse().ok()?,
                log_size: decimal(log_size)?,
                log_root: base64(log_root)?,
                time_ms,
                ttl_ms,
                lapse_grace_ms,
                rule_version,
                batch_size: decimal(batch_size)?,
                batch_root: base64(batch_root)?,
            })
        })();
        match (parsed, lines.next()) {
            // S3 is a promise about the largest ttl that an authority can allow, and guards add these numbers up.
            (Some(lease), None) if lease.ttl_ms > TTL_MAX_MS || lease.lapse_grace_ms > LAPSE_GRACE_MAX_MS => {
                Err(LeaseError::Malformed("its ttl or lapse grace is longer than any authority allows"))
            }
            (Some(lease), None) if lease.time_ms > INSTANT_MAX_MS => {
                Err(LeaseError::Malformed("its time is after the year 9999"))
            }
            (Some(lease), None) => Ok(lease),
            _ => Err(LeaseError::Malformed("a line of it is missing, out of place or misspelt")),
        }
    }

    /// Whether this lease binds `leaf` (of `leaf_hash_of`) at its place in the batch.
    pub fn binds(&self, leaf: Digest, leaf_index: u64, path: &[Digest]) -> Result<(), LeaseError> {
        let bound = verify_inclusion(leaf, leaf_index, self.batch_size, path, self.batch_root);
        if bound { Ok(()) } else { Err(LeaseError::NotBound) }
    }
}

/// The leaf for a nonce and the state that was answered: views by agent in the request's order, then the lock answers.
pub fn leaf_hash_of<'a>(
    nonce: &Digest,
    views: impl ExactSizeIterator<Item = (&'a Scope, Digest)>,
    answers: &[(Digest, LockAnswer)],
) -> Digest {
    let mut bytes = b"tagout-lease-leaf/v1\n".to_vec();
    bytes.extend(nonce.0);
    bytes.extend((views.len() as u64).to_be_bytes());
    for (scope, view) in views {
        // The view's digest holds its agent; the scope is here so that the leaf also says which agent was asked about.
        bytes.extend(Digest::of(scope.as_str().as_bytes()).0);
        bytes.extend(view.0);
    }
    bytes.extend((answers.len() as u64).to_be_bytes());
    for (id, answer) in answers {
        bytes.extend(id.0);
        match answer {
            LockAnswer::Cleared { placed, release, start } => {
                bytes.push(1);
                put_envelope(&mut bytes, placed);
                put_clearing(&mut bytes, release);
                bytes.push(start.is_some().into());
                start.iter().for_each(|start| put_clearing(&mut bytes, start));
            }
            LockAnswer::Held { why } => {
                bytes.push(2);
                bytes.extend(Digest::of(why.as_bytes()).0);
            }
            LockAnswer::SendDocument => bytes.push(3),
        }
    }
    leaf_hash(&bytes)
}

fn put_clearing(out: &mut Vec<u8>, clearing: &Clearing) {
    put_envelope(out, &clearing.envelope);
    out.push(clearing.listed.is_some().into());
    if let Some(Listed { index, path }) = &clearing.listed {
        out.extend(index.to_be_bytes());
        out.extend((path.len() as u64).to_be_bytes());
        path.iter().for_each(|hash| out.extend(hash.0));
    }
}

fn alone<'a>((value, rest): (&'a str, &str)) -> Option<&'a str> {
    rest.is_empty().then_some(value)
}

fn decimal(text: &str) -> Option<u64> {
    text.parse::<u64>().ok().filter(|n| n.to_string() == text)
}

fn base64(text: &str) -> Option<Digest> {
    Some(Digest(strict::base64(text)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::tree;
    use crate::rule::RULE_VERSION;

    fn lease() -> Lease {
        Lease {
            deployment: Deployment { name: "demo".into(), genesis: Digest([1; 32]) },
            epoch_number: 1,
            epoch: Digest([2; 32]),
            authority_version: 1,
            authority: Digest([1; 32]),
            log_size: 12,
            log_root: Digest([3; 32]),
            time_ms: 1_795_359_600_000,
            ttl_ms: 10_000,
            lapse_grace_ms: 20_000,
            rule_version: RULE_VERSION,
            batch_size: 3,
            batch_root: Digest([4; 32]),
        }
    }

    #[test]
    fn a_lease_survives_its_text() {
        let signer = NoteSigner::new("demo/node-1", &[1; 32]).unwrap();
        let note = lease().sign(&signer);
        assert_eq!(Lease::open(&note, &signer.verifier()), Ok(lease()));
    }

    #[test]
    fn every_line_is_needed_and_has_one_spelling() {
        let signer = NoteSigner::new("demo/node-1", &[1; 32]).unwrap();
        let note = lease().sign(&signer);
        let text = note.split("\n\n").next().unwrap();
        for at in 0..text.lines().count() {
            let without: String =
                text.lines().enumerate().filter(|(i, _)| *i != at).map(|(_, l)| format!("{l}\n")).collect();
            assert!(Lease::parse(&without).is_err(), "line {at} is missing");
        }
        for (good, bad) in [
            ("ttl_ms 10000", "ttl_ms 010000"),
            ("ttl_ms 10000", "ttl_ms 10000 "),
            ("ttl_ms 10000", "ttl_ms 60001"),
            ("lapse_grace_ms 20000", "lapse_grace_ms 120001"),
            ("time_ms 1795359600000", "time_ms 253402300800000"),
            ("rule 1", "rule 1 2"),
            ("epoch 1 ", "epoch +1 "),
        ] {
            assert!(text.contains(good), "{good}");
            assert!(Lease::parse(&format!("{}\n", text.replace(good, bad))).is_err(), "{bad}");
        }
        assert!(Lease::parse(&format!("{text}\nmore 1\n")).is_err());
    }

    #[test]
    fn a_lease_binds_one_state_to_one_nonce() {
        let agents: Vec<Scope> = ["a", "b", "c"].map(|s| Scope::parse(s).unwrap()).into();
        let leaf = |nonce: u8, view: u8| {
            leaf_hash_of(&Digest([nonce; 32]), [(&agents[0], Digest([view; 32]))].into_iter(), &[])
        };
        let leaves = [leaf(1, 1), leaf(2, 2), leaf(3, 3)];
        let paths = tree::prove_all(&leaves);
        let lease = Lease { batch_size: 3, batch_root: tree::root(&leaves), ..lease() };
        assert_eq!(lease.binds(leaf(2, 2), 1, &paths[1]), Ok(()));
        assert_eq!(lease.binds(leaf(9, 2), 1, &paths[1]), Err(LeaseError::NotBound), "another nonce");
        assert_eq!(lease.binds(leaf(2, 9), 1, &paths[1]), Err(LeaseError::NotBound), "another state");
        let held = [(Digest([5; 32]), LockAnswer::Held { why: "x".into() })];
        let with_answer = leaf_hash_of(&Digest([2; 32]), [(&agents[0], Digest([2; 32]))].into_iter(), &held);
        assert_eq!(lease.binds(with_answer, 1, &paths[1]), Err(LeaseError::NotBound), "another answer");
    }
}
