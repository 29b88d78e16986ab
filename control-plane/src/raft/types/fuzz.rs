//! Any bytes in the rows and snapshots of consensus. See `tests/fuzz/lib.rs` for how.

use std::collections::{BTreeMap, BTreeSet};

use openraft::entry::{RaftEntry, RaftPayload};
use openraft::vote::RaftLeaderIdExt;
use tagout_fuzz::{Answer as Outcome, Target, same};

use super::*;
use crate::peers::Member;

pub(in super::super) fn log_id() -> LogId {
    LogId::new(openraft::alias::LeaderIdOf::<Types>::new_committed(3, 7), 300)
}

fn membership() -> openraft::Membership<u64, Member> {
    let member =
        |id: u64| Member { name: format!("demo/node-{id}"), key: [id as u8; 32], address: "h:7471".into() };
    let nodes = BTreeMap::from([7, 8, 9].map(|id| (id, member(id))));
    openraft::Membership::new(vec![BTreeSet::from([7, 8, 9])], nodes).unwrap()
}

pub(in super::super) fn meta() -> SnapshotMeta {
    SnapshotMeta {
        last_log_id: Some(log_id()),
        last_membership: Membership::new(Some(log_id()), membership()),
    }
}

/// What was read is written and read again without loss.
fn row<T: Serialize + DeserializeOwned + PartialEq + fmt::Debug>(bytes: &[u8]) -> Outcome {
    let read = decode::<T>(bytes);
    if let Ok(value) = &read {
        assert_eq!(&decode::<T>(&encode(value).unwrap()).unwrap(), value);
        assert!(decode::<T>(&[bytes, &[0]].concat()).is_err(), "bytes behind the value");
        same(|| decode::<T>(bytes).unwrap());
    }
    Outcome::of(&read)
}

#[test]
fn stored_types() {
    let normal = openraft::EntryPayload::blank().with_normal(Proposal(Arc::from(&b"stop"[..])));
    let blank = openraft::EntryPayload::blank();
    let change = openraft::EntryPayload::Membership(membership());
    let mut seeds: Vec<Vec<u8>> =
        [normal, blank, change].map(|payload| encode(&Entry::new(log_id(), payload)).unwrap()).into();
    seeds.push(encode(&Vote::new_committed(3, 7)).unwrap());
    seeds.push(encode(&log_id()).unwrap());
    seeds.push(encode(&meta()).unwrap());
    seeds.push(encode(&Answer(vec![1, 2, 3])).unwrap());
    Target::new("raft-rows", seeds).extra_bytes(2 << 20).check(|bytes| {
        row::<Entry>(bytes)
            .or(row::<Vote>(bytes))
            .or(row::<LogId>(bytes))
            .or(row::<SnapshotMeta>(bytes))
            .or(row::<Membership>(bytes))
            .or(row::<Answer>(bytes))
    });
}
