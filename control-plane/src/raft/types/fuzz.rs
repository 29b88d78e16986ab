//! Any bytes in the rows and snapshots of consensus. See `tests/fuzz/lib.rs` for how.

use std::collections::BTreeSet;

use openraft::entry::{RaftEntry, RaftPayload};
use openraft::vote::RaftLeaderIdExt;
use tagout_fuzz::{Answer as Outcome, Target, same};

use super::*;

pub(in super::super) fn log_id() -> LogId {
    LogId::new(openraft::alias::LeaderIdOf::<Types>::new_committed(3, 7), 300)
}

fn voters() -> BTreeSet<u64> {
    BTreeSet::from([7, 8, 9])
}

pub(in super::super) fn meta() -> SnapshotMeta {
    SnapshotMeta {
        last_log_id: Some(log_id()),
        last_membership: Membership::new(
            Some(log_id()),
            openraft::Membership::new_with_defaults(vec![voters()], []),
        ),
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
    let change = openraft::Membership::new_with_defaults(vec![voters()], []);
    let change = openraft::EntryPayload::Membership(change);
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
