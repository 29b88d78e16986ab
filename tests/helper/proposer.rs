//! Consensus with one voter, for whoever traces what it asks of the disk.

use std::io;
use std::path::Path;
use std::sync::Arc;

use tagout_control_plane::peers::Peers;
use tagout_control_plane::raft::{Consensus, ConsensusConfig, Machine, SnapshotBytes};
use tagout_control_plane::store::StoreKind;
use tokio::sync::Barrier;

struct Nothing;

impl Machine for Nothing {
    fn apply(&self, _: &[u8]) -> Vec<u8> {
        Vec::new()
    }

    fn snapshot(&self) -> Option<SnapshotBytes> {
        Some(Box::new(|| Ok(Some(Vec::new()))))
    }

    fn restore(&self, _: &[u8]) -> io::Result<()> {
        Ok(())
    }

    fn foresee(&self, _: &mut dyn Iterator<Item = Arc<[u8]>>) -> io::Result<()> {
        Ok(())
    }
}

/// Prints `ready`, then `acknowledged` for each proposal: `tasks` at once, each of which makes `each`.
pub fn run(store: StoreKind, folder: &Path, tasks: u64, each: u64) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let config = ConsensusConfig { store, ..ConsensusConfig::new(1, folder) };
        let consensus =
            Consensus::start(config, Arc::new(Nothing), Peers::nobody()).await.expect("consensus starts");
        println!("ready");
        let together = Arc::new(Barrier::new(tasks as usize));
        let proposers: Vec<_> = (0..tasks)
            .map(|task| {
                let (consensus, together) = (consensus.clone(), together.clone());
                tokio::spawn(async move {
                    together.wait().await;
                    for n in 0..each {
                        let proposal = format!("{task}/{n} {}", "x".repeat(400));
                        consensus.propose(proposal.into()).await.expect("a proposal is taken");
                        println!("acknowledged");
                    }
                })
            })
            .collect();
        for proposer in proposers {
            proposer.await.expect("a proposer ends well");
        }
        println!("done");
        consensus.shutdown().await;
    });
}
