//! A node of a build that pretends to be newer: it knows one more rule of verdicts, and with it the next version of the
//! protocol between nodes and the next format of snapshots. Nothing else of it is different.

use std::path::Path;

use tagout_control_plane::config::NodeConfig;
use tagout_control_plane::node::{Node, ended};
use tagout_control_plane::replica::Build;

pub fn serve(config: &Path) {
    // To standard error, as a node does.
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let served = runtime.block_on(async {
        let newer = Build { rule_known: Build::THIS.rule_known + 1 };
        let node = Node::start_as(newer, NodeConfig::load(config)?).await?;
        ended().await?;
        node.shutdown().await;
        Ok::<_, Box<dyn std::error::Error>>(())
    });
    if let Err(error) = served {
        eprintln!("{error}");
        std::process::exit(1);
    }
}
