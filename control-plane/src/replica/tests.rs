//! A snapshot from one node's state machine into another's, and what the audit logs make of it.

use tagout_proto::authority::Authority;
use tagout_proto::envelope::Envelope;
use tagout_proto::log::tile::TileId;
use tagout_proto::note::NoteSigner;

use super::*;
use crate::audit::{AuditLog, AuditReader, Peers};
use crate::cli::testing::deployed;
use crate::instances::Instances;

struct Of(AuditReader);

impl Peers for Of {
    fn others(&self) -> Vec<u64> {
        vec![1]
    }

    async fn tile(&self, _: u64, id: TileId) -> io::Result<Option<Vec<u8>>> {
        self.0.tile(id)
    }

    async fn entries(&self, _: u64, from: u64, max: u64) -> io::Result<Vec<Vec<u8>>> {
        self.0.entries(from, max)
    }
}

#[tokio::test]
async fn s8_a_snapshot_from_the_leader_leaves_a_gap_that_is_filled_before_another_is_taken() {
    let deployed = deployed();
    let genesis: Envelope = serde_json::from_slice(&std::fs::read(&deployed.made.genesis).unwrap()).unwrap();
    let pinned = deployed.made.deployment.genesis;
    let limits = Authority::genesis(&genesis, pinned).unwrap().limits;
    let node = |name: &str| {
        let folder = deployed.dir.path().join(name);
        let signer = NoteSigner::new(name, &[7; 32]).unwrap();
        let audit = AuditLog::open(&folder, "demo:00".into(), signer, |e| panic!("{e}")).unwrap();
        let outcomes = Outcomes::new(Arc::new(Instances::default()), name.into(), limits).0;
        (Replica::new(pinned, Build::THIS, audit.sink(), Arc::default(), outcomes), audit)
    };
    let taken = |replica: &Replica| {
        let bytes = replica.snapshot().expect("the log is whole");
        async move { tokio::task::spawn_blocking(bytes).await.unwrap().unwrap().unwrap() }
    };
    let (leader, leaders_log) = node("leader");
    let proposal = Proposal { kind: EntryKind::Command, time_ms: 1, envelope: genesis };
    leader.apply(&Replica::encode(&proposal));
    assert_eq!(leader.ledger().size(), 1);
    let snapshot = taken(&leader).await;

    let (follower, log) = node("follower");
    follower.restore(&snapshot).unwrap();
    let reader = log.reader();
    assert!(!reader.complete());
    assert!(follower.snapshot().is_none(), "the Raft log might lose what the audit log lacks");
    log.fill_from(Of(leaders_log.reader()));
    reader.completed().await;
    assert_eq!(reader.entry_bytes(0).unwrap(), leaders_log.reader().entry_bytes(0).unwrap());
    assert_eq!(taken(&follower).await, snapshot);
}
