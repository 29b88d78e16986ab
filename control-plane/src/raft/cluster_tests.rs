//! Consensus with three voters, over TLS on loopback and real stores.

use std::path::Path;

use ed25519_dalek::SigningKey;
use futures_util::future::BoxFuture;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::tests::Counting;
use super::*;
use crate::peers::tests::Ca;
use crate::peers::{self, Handler, Me, PROTOCOL_NEWEST};

const PATIENCE: Duration = Duration::from_secs(60);

struct Node {
    consensus: Consensus,
    machine: Arc<Counting>,
    shutdown: CancellationToken,
}

struct Answering(Consensus);

impl Handler for Answering {
    fn handle(
        self: Arc<Self>,
        _from: u64,
        kind: Kind,
        request: Vec<u8>,
    ) -> BoxFuture<'static, io::Result<Vec<u8>>> {
        Box::pin(async move { self.0.answer(kind, &request).await })
    }
}

fn key(id: u64) -> SigningKey {
    SigningKey::from_bytes(&[id as u8; 32])
}

fn member(id: u64, address: &str) -> Member {
    let key = key(id).verifying_key().to_bytes();
    Member { name: format!("demo/node-{id}"), key, address: address.into() }
}

/// Starts node `id` of those at `addresses`, the first of which begins the cluster.
async fn start(ca: &Ca, dir: &Path, id: u64, addresses: &[String], origin: Origin) -> Node {
    let peers = Peers::new(
        Me { id, newest: PROTOCOL_NEWEST, deployment: "demo:0".into(), key: key(id) },
        ca.client(),
    );
    for (other, address) in (1..).zip(addresses) {
        peers.know(other, &member(other, address));
    }
    let config = ConsensusConfig {
        member: member(id, &addresses[id as usize - 1]),
        origin,
        snapshot_every_entries: 50,
        // The tests share the machine with many others.
        heartbeat_ms: 100,
        election_min_ms: 500,
        election_max_ms: 900,
        ..ConsensusConfig::new(id, dir.join(id.to_string()))
    };
    let machine = Arc::new(Counting::default());
    let consensus = Consensus::start(config, machine.clone(), peers.clone()).await.unwrap();
    let listener = TcpListener::bind(&addresses[id as usize - 1]).await.unwrap();
    let shutdown = CancellationToken::new();
    let answering = Arc::new(Answering(consensus.clone()));
    tokio::spawn(peers::serve(listener, ca.server(), peers, answering, shutdown.clone()));
    Node { consensus, machine, shutdown }
}

impl Node {
    async fn stop(self) {
        self.shutdown.cancel();
        self.consensus.shutdown().await;
    }

    fn applied(&self) -> usize {
        self.machine.count()
    }
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("waited for {what}"));
}

/// Has it committed by whoever leads.
async fn propose(nodes: &[&Node], proposal: &str) {
    let proposed = tokio::time::timeout(PATIENCE, async {
        loop {
            for node in nodes {
                if node.consensus.propose(proposal.as_bytes().to_vec()).await.is_ok() {
                    return;
                }
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    proposed.await.expect("somebody leads");
}

async fn change(node: &Node, change: Change) {
    let changed = tokio::time::timeout(PATIENCE, async {
        while let Err(error) = node.consensus.change(change.clone()).await {
            eprintln!("{change:?}: {error:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    changed.await.expect("a change of members");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_grow_from_one_and_go_on_without_any_one_of_them() {
    let (ca, dir) = (Ca::new(), tempfile::tempdir().unwrap());
    let mut addresses = Vec::new();
    for _ in 0..3 {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        addresses.push(free.local_addr().unwrap().to_string());
    }
    let one = start(&ca, dir.path(), 1, &addresses, Origin::Begin).await;
    // Far enough that the others need a snapshot, and entries after it.
    for n in 0..130 {
        propose(&[&one], &format!("before {n}")).await;
    }
    let two = start(&ca, dir.path(), 2, &addresses, Origin::Join).await;
    let three = start(&ca, dir.path(), 3, &addresses, Origin::Join).await;
    for id in [2, 3] {
        change(&one, Change::AddLearner(id, member(id, &addresses[id as usize - 1]))).await;
        until("a learner to catch up", || {
            one.consensus.lags().unwrap().get(&id).is_some_and(|lag| *lag == 0)
        })
        .await;
    }
    change(&one, Change::Promote(BTreeSet::from([2, 3]))).await;
    until("all to have all", || two.applied() == 130 && three.applied() == 130).await;
    assert_eq!(three.consensus.members().iter().filter(|(_, _, votes)| *votes).count(), 3);

    // A follower does not propose; the leader's read index serves its reads.
    assert!(matches!(two.consensus.propose(vec![1]).await, Err(ProposeError::NotLeader { leader: Some(1) })));
    assert!(matches!(two.consensus.read_index().await, Err(ReadError::NotLeader { leader: Some(1) })));
    let index = one.consensus.read_index().await.unwrap();
    two.consensus.applied(index).await.unwrap();

    // Handed over, not elected after a silence.
    one.consensus.hand_over(2).await;
    until("node 2 to lead", || three.consensus.leader() == Some(2)).await;
    one.stop().await;
    for n in 0..10 {
        propose(&[&two, &three], &format!("without one {n}")).await;
    }
    // It comes back with what it had, and gets what it missed.
    let one = start(&ca, dir.path(), 1, &addresses, Origin::Known).await;
    until("node 1 to catch up", || one.applied() == 140).await;

    // Without a majority nothing is committed and nothing is read.
    one.stop().await;
    three.stop().await;
    let alone = tokio::time::timeout(Duration::from_secs(3), two.consensus.propose(b"alone".to_vec())).await;
    assert!(!matches!(alone, Ok(Ok(_))), "a minority has committed");
    assert!(two.consensus.read_index().await.is_err(), "a minority has answered a read");
    let three = start(&ca, dir.path(), 3, &addresses, Origin::Known).await;
    propose(&[&two, &three], "together again").await;
    two.stop().await;
    three.stop().await;

    // A node whose folder is gone must not come back under its id.
    std::fs::remove_dir_all(dir.path().join("3")).unwrap();
    let config = ConsensusConfig { origin: Origin::Known, ..ConsensusConfig::new(3, dir.path().join("3")) };
    let machine = Arc::new(Counting::default());
    let lost = Consensus::start(config, machine, Peers::nobody()).await.err().expect("its store is lost");
    assert!(lost.to_string().contains("tagout node replace"), "{lost}");
}
