//! A node of another build than today's.

use std::path::Path;

use tagout_control_plane::config::NodeConfig;
use tagout_control_plane::node::{Node, ended};
use tagout_control_plane::replica::Build;

/// It pretends to be newer: it knows one more rule of verdicts, and with it the next version of the protocol between nodes
/// and the next format of snapshots.
pub const NEWER: Build = Build { rule_known: Build::THIS.rule_known + 1, ..Build::THIS };

/// It writes one entry otherwise than all others.
pub fn erring_at(entry: u64) -> Build {
    Build { errs_at: Some(entry), ..Build::THIS }
}

pub fn serve(build: Build, config: &Path) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let served = runtime.block_on(async {
        let node = Node::start_as(build, NodeConfig::load(config)?).await?;
        ended().await?;
        node.shutdown().await;
        Ok::<_, Box<dyn std::error::Error>>(())
    });
    if let Err(error) = served {
        eprintln!("{error}");
        std::process::exit(1);
    }
}
