//! One record of the audit log, and its one encoding.
//!
//! ```text
//! u8       format version, 1
//! u8       kind
//! u64      index in the log
//! u64      the leader's time, Unix milliseconds (information, never a decision)
//! [32]     prev: SHA-256 of the previous entry's bytes, zeros in entry 0
//! u32, []  the document, verbatim
//! u8       signature count, then for each: u16, [] the armored signature, verbatim
//! ```
//!
//! Integers are big-endian. `prev` lets a person follow the chain with `sha256sum`; trust comes from the tree.

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::envelope::Envelope;
use crate::limits::{ENTRY_MAX_BYTES, SIGNATURES_MAX};

pub const ENTRY_FORMAT: u8 = 1;

/// The numbers are on disk for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[repr(u8)]
pub enum EntryKind {
    /// Signed by principals; the authority's documents too.
    Command = 1,
    /// Latched by an agent's own process.
    Trip = 2,
    /// What a stop achieved, as its node observed it.
    Outcome = 3,
    /// A loosening that still lacks signatures.
    Proposal = 4,
    Drill = 5,
    /// Begins a new epoch.
    Restore = 6,
    /// Activates a version of the rule.
    RuleVersion = 7,
}

impl EntryKind {
    fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Command,
            2 => Self::Trip,
            3 => Self::Outcome,
            4 => Self::Proposal,
            5 => Self::Drill,
            6 => Self::Restore,
            7 => Self::RuleVersion,
            _ => return None,
        })
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Command => "command",
            Self::Trip => "trip",
            Self::Outcome => "outcome",
            Self::Proposal => "proposal",
            Self::Drill => "drill",
            Self::Restore => "restore",
            Self::RuleVersion => "rule-version",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub kind: EntryKind,
    pub index: u64,
    pub time_ms: u64,
    pub prev: Digest,
    pub envelope: Envelope,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    #[error("the entry has format version {0}; this build reads version {ENTRY_FORMAT}: upgrade it")]
    Format(u8),
    #[error("the entry has the unknown kind {0}")]
    Kind(u8),
    #[error("the entry is malformed: {0}")]
    Malformed(&'static str),
    #[error("the entry would have {0} bytes, at most {ENTRY_MAX_BYTES} are allowed")]
    TooLarge(usize),
}

impl Entry {
    pub fn encode(&self) -> Result<Vec<u8>, EntryError> {
        let mut bytes = vec![ENTRY_FORMAT, self.kind as u8];
        bytes.extend(self.index.to_be_bytes());
        bytes.extend(self.time_ms.to_be_bytes());
        bytes.extend(self.prev.0);
        let too_large = EntryError::TooLarge;
        let document = self.envelope.document.as_bytes();
        bytes.extend(u32::try_from(document.len()).map_err(|_| too_large(document.len()))?.to_be_bytes());
        bytes.extend(document);
        let signatures = &self.envelope.signatures;
        // What decode refuses must never be written: an entry is for ever.
        if signatures.len() > SIGNATURES_MAX {
            return Err(EntryError::Malformed("it has more than 16 signatures"));
        }
        bytes.push(signatures.len() as u8);
        for signature in signatures {
            bytes.extend(
                u16::try_from(signature.len()).map_err(|_| too_large(signature.len()))?.to_be_bytes(),
            );
            bytes.extend(signature.as_bytes());
        }
        if bytes.len() > ENTRY_MAX_BYTES { Err(too_large(bytes.len())) } else { Ok(bytes) }
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, EntryError> {
        if bytes.len() > ENTRY_MAX_BYTES {
            return Err(EntryError::TooLarge(bytes.len()));
        }
        let mut rest = bytes;
        let [format, kind] = take(&mut rest)?;
        if format != ENTRY_FORMAT {
            return Err(EntryError::Format(format));
        }
        let kind = EntryKind::from_byte(kind).ok_or(EntryError::Kind(kind))?;
        let index = u64::from_be_bytes(take(&mut rest)?);
        let time_ms = u64::from_be_bytes(take(&mut rest)?);
        let prev = Digest(take(&mut rest)?);
        let document_len = u32::from_be_bytes(take(&mut rest)?) as usize;
        let document = text(&mut rest, document_len)?;
        let [count] = take(&mut rest)?;
        if usize::from(count) > SIGNATURES_MAX {
            return Err(EntryError::Malformed("it has more than 16 signatures"));
        }
        let mut signatures = Vec::with_capacity(count.into());
        for _ in 0..count {
            let len = u16::from_be_bytes(take(&mut rest)?).into();
            signatures.push(text(&mut rest, len)?);
        }
        if !rest.is_empty() {
            return Err(EntryError::Malformed("bytes are left over after its end"));
        }
        Ok(Self { kind, index, time_ms, prev, envelope: Envelope { document, signatures } })
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], EntryError> {
    let (head, tail) = rest.split_first_chunk::<N>().ok_or(EntryError::Malformed("it ends too early"))?;
    *rest = tail;
    Ok(*head)
}

fn text(rest: &mut &[u8], len: usize) -> Result<String, EntryError> {
    let (head, tail) = rest.split_at_checked(len).ok_or(EntryError::Malformed("it ends too early"))?;
    *rest = tail;
    String::from_utf8(head.into()).map_err(|_| EntryError::Malformed("a text in it is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_entry_has_one_encoding(
            index: u64, time_ms: u64, prev: [u8; 32], kind in 1u8..=7,
            document in ".{0,300}", signatures in proptest::collection::vec(".{0,60}", 0..=16),
        ) {
            let envelope = Envelope { document, signatures };
            let kind = EntryKind::from_byte(kind).unwrap();
            let entry = Entry { kind, index, time_ms, prev: Digest(prev), envelope };
            let bytes = entry.encode().unwrap();
            prop_assert_eq!(Entry::decode(&bytes).unwrap(), entry);
        }

        #[test]
        fn whatever_decodes_encodes_to_the_same_bytes(mut bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let [format, kind, ..] = &mut bytes[..] { *format = 1; *kind = *kind % 7 + 1; }
            if let Ok(entry) = Entry::decode(&bytes) {
                prop_assert_eq!(entry.encode().unwrap(), bytes);
            }
        }
    }

    #[test]
    fn the_layout_is_fixed_for_good() {
        let envelope = Envelope { document: "{}".into(), signatures: vec!["s".into()] };
        let entry = Entry { kind: EntryKind::Outcome, index: 2, time_ms: 3, prev: Digest([4; 32]), envelope };
        let hex = data_encoding::HEXLOWER.encode(&entry.encode().unwrap());
        let prev = "04".repeat(32);
        assert_eq!(hex, format!("010300000000000000020000000000000003{prev}000000027b7d01000173"));
    }

    #[test]
    fn refuses_newer_formats_unknown_kinds_and_leftovers() {
        let envelope = Envelope { document: "{}".into(), signatures: vec![] };
        let entry =
            Entry { kind: EntryKind::Command, index: 0, time_ms: 0, prev: Digest::default(), envelope };
        let good = entry.encode().unwrap();
        let with = |at: usize, byte: u8| [&good[..at], &[byte], &good[at + 1..]].concat();
        assert_eq!(Entry::decode(&with(0, 2)), Err(EntryError::Format(2)));
        assert_eq!(Entry::decode(&with(1, 9)), Err(EntryError::Kind(9)));
        assert!(Entry::decode(&[&good[..], b"x"].concat()).is_err());
        assert!((0..good.len()).all(|len| Entry::decode(&good[..len]).is_err()));
    }
}
