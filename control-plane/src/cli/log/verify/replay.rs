//! The ledger as it grows again from a log's entries, and what is wrong with an entry from which it does not.
//!
//! The ledger's own refusals speak to somebody who is about to sign. Here it is the past that is read: what an honest
//! node would have refused was never written by one.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tagout_proto::authority::Authority;
use tagout_proto::command::Command;
use tagout_proto::digest::Digest;
use tagout_proto::envelope::Envelope;
use tagout_proto::ledger::{Ledger, Proposal, Refusal};
use tagout_proto::log::entry::{Entry, EntryError, EntryKind};
use tagout_proto::log::tree::leaf_hash;
use tagout_proto::sshsig::SshSignature;

use crate::signers::namespace_of;

#[derive(Serialize, Deserialize)]
pub struct Replay {
    ledger: Ledger,
    pub(super) kinds: BTreeMap<EntryKind, u64>,
    pub(super) signatures: u64,
}

/// Each sentence goes on after "entry 12 (stop of demo/a): ".
#[derive(Debug, thiserror::Error)]
pub(super) enum Wrong {
    #[error("{0}; the entry was changed after it was written")]
    Bytes(#[from] EntryError),
    #[error("the record of entry {0} stands in its place: it was dropped, or entries were swapped")]
    Later(u64),
    #[error("the record of entry {0} stands in its place: an entry was inserted, or entries were swapped")]
    Earlier(u64),
    #[error(
        "its `prev` is not the SHA-256 of the entry before it: one of the two was changed after it was written"
    )]
    Prev,
    #[error(
        "it is not the genesis that your profile pins: it was changed, or the log is of another deployment"
    )]
    NotTheGenesis,
    #[error("{0}: the entry was changed after it was signed")]
    Signature(String),
    #[error(
        "its command had taken effect before, and does so only once: no honest node writes it a second time"
    )]
    Twice,
    #[error(
        "the ledger refuses it after the entries before it, so that no honest node wrote it here: \"{0}\""
    )]
    Refused(Refusal),
    #[error("the ledger writes other bytes for it: the entry was changed after it was written")]
    OtherBytes,
}

impl Replay {
    /// Before the first entry of the log whose genesis is `pinned`.
    pub fn new(pinned: Digest) -> Self {
        Self { ledger: Ledger::new(pinned), kinds: BTreeMap::new(), signatures: 0 }
    }

    pub fn pinned(&self) -> Digest {
        self.ledger.pinned()
    }

    /// The state after what was replayed.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Entries that were replayed.
    pub fn size(&self) -> u64 {
        self.ledger.size()
    }

    pub(super) fn root(&self) -> Digest {
        self.ledger.frontier().root()
    }

    /// Takes the next entry and returns its leaf hash.
    pub(super) fn entry(&mut self, bytes: &[u8]) -> Result<Digest, Wrong> {
        let index = self.size();
        let entry = Entry::decode(bytes)?;
        if entry.index != index {
            let place = if entry.index > index { Wrong::Later } else { Wrong::Earlier };
            return Err(place(entry.index));
        }
        if entry.prev != self.ledger.prev() {
            return Err(Wrong::Prev);
        }
        let Entry { kind, time_ms, envelope, .. } = entry;
        if index == 0 && envelope.digest() != self.pinned() {
            return Err(Wrong::NotTheGenesis);
        }
        let signatures = envelope.signatures.len() as u64;
        let proposal = Proposal { kind, time_ms, envelope };
        let applied = self.ledger.apply(&proposal);
        match (applied.entry, applied.answer) {
            (Some(written), _) if written == bytes => {}
            (Some(_), _) => return Err(Wrong::OtherBytes),
            (None, Ok(_)) => return Err(Wrong::Twice),
            (None, Err(refusal)) => {
                let misfit = misfit(kind, &proposal.envelope, self.ledger.authority());
                return Err(misfit.map_or(Wrong::Refused(refusal), Wrong::Signature));
            }
        }
        self.signatures += signatures;
        *self.kinds.entry(kind).or_default() += 1;
        Ok(leaf_hash(bytes))
    }
}

/// The first signature that is not one of its key over this document. One among enough good ones is no reason to refuse
/// an entry; it is the likeliest one where an entry is refused.
fn misfit(kind: EntryKind, envelope: &Envelope, authority: Option<&Authority>) -> Option<String> {
    envelope.signatures.iter().find_map(|armored| {
        let signature = match SshSignature::parse(armored) {
            Ok(signature) => signature,
            Err(error) => return Some(format!("a signature on it cannot be read any more ({error})")),
        };
        signature.verify_for(namespace_of(kind), envelope.document.as_bytes()).err()?;
        let key = signature.claimed_key();
        let name = authority.and_then(|a| a.principal_of(key)).map(|principal| principal.name.clone());
        let whose = name.unwrap_or_else(|| format!("key {}", key.fingerprint()));
        Some(format!("the signature of {whose} does not fit the document"))
    })
}

/// What an entry is, as far as its bytes tell: `stop of demo/a`.
pub(super) fn named(bytes: &[u8]) -> String {
    let Ok(entry) = Entry::decode(bytes) else { return String::new() };
    match Command::parse(entry.envelope.document.as_bytes()) {
        Ok(command) if entry.kind == EntryKind::Command => {
            format!("{} of {}", command.action.kind(), command.action.scope())
        }
        Ok(command) if entry.kind == EntryKind::Proposal => {
            format!("proposal of a {} of {}", command.action.kind(), command.action.scope())
        }
        _ => entry.kind.name().into(),
    }
}
