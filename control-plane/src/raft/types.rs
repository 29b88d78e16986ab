//! The types that openraft is given, and how they become bytes in the store.
//!
//! Rows and snapshots are postcard, a specified wire format; postcard writes structs and enums by position, so fields
//! of what is stored here only ever change together with a format version.

use std::fmt;
use std::io;
use std::sync::Arc;

use serde::de::{DeserializeOwned, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

openraft::declare_raft_types!(
    /// Members are numbers with a name, a key and an address: a node that has lost everything but its Raft log must find
    /// the others, and the authority, which says the same, is known only once the log is applied.
    pub(super) Types:
        D = Proposal,
        R = Answer,
        Node = crate::peers::Member,
);

pub(super) type Entry = openraft::alias::EntryOf<Types>;
pub(super) type LogId = openraft::alias::LogIdOf<Types>;
pub(super) type Vote = openraft::alias::VoteOf<Types>;
pub(super) type Membership = openraft::alias::StoredMembershipOf<Types>;
pub(super) type SnapshotMeta = openraft::alias::SnapshotMetaOf<Types>;
pub(super) type Snapshot = openraft::alias::SnapshotOf<Types, Vec<u8>>;

/// What is proposed: bytes that only the machine understands. Shared, since the log in memory, the writer, replication
/// and apply all hold the same ones.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Proposal(pub(super) Arc<[u8]>);

/// What the machine answered.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct Answer(pub(super) Vec<u8>);

impl fmt::Debug for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

// As one byte string; serde's default for a list of bytes is one call for each.

impl Serialize for Proposal {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Proposal {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_bytes(Bytes).map(|bytes| Self(bytes.into()))
    }
}

impl Serialize for Answer {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Answer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_bytes(Bytes).map(Self)
    }
}

struct Bytes;

impl Visitor<'_> for Bytes {
    type Value = Vec<u8>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("bytes")
    }

    fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
        Ok(bytes.to_vec())
    }
}

pub(super) fn encode(value: &impl Serialize) -> io::Result<Vec<u8>> {
    postcard::to_stdvec(value).map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))
}

/// The whole of `bytes`: anything left over is an error.
pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> io::Result<T> {
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Ok(value),
        Ok(_) => Err(io::Error::new(io::ErrorKind::InvalidData, "there are bytes behind the value")),
        Err(e) => Err(io::Error::new(io::ErrorKind::InvalidData, e)),
    }
}

#[cfg(test)]
pub(super) mod fuzz;

#[cfg(test)]
mod tests {
    use openraft::entry::{RaftEntry, RaftPayload};
    use openraft::vote::RaftLeaderIdExt;

    use super::*;

    /// Bytes that stores in the field hold. If this fails, old logs cannot be read: raise the format instead.
    #[test]
    fn the_encoding_of_an_entry_is_fixed() {
        let leader = openraft::alias::LeaderIdOf::<Types>::new_committed(3, 7);
        let id = LogId::new(leader, 300);
        let payload = openraft::EntryPayload::blank().with_normal(Proposal(Arc::from(&b"stop"[..])));
        let entry = Entry::new(id, payload);
        let bytes = encode(&entry).unwrap();
        assert_eq!(bytes, [3, 7, 0xac, 2, 1, 4, b's', b't', b'o', b'p']);
        assert_eq!(decode::<Entry>(&bytes).unwrap(), entry);
        assert!(decode::<Entry>(&bytes[..9]).is_err());
        assert!(decode::<Entry>(&[&bytes[..], &[0]].concat()).is_err());
    }
}
