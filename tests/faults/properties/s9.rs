//! S9, write once: the log of every node continues each checkpoint that any node ever signed. (That each node's log
//! verifies, by `tagout log verify` and by the program in Go, is seen to where the run ends.)

use std::collections::BTreeMap;

use tagout_proto::log::tree::{Frontier, leaf_hash};

use super::Run;

pub fn check(run: &Run) -> Vec<String> {
    let mut found = Vec::new();
    for (node, ending) in run.by_node() {
        let mut frontier = Frontier::default();
        let mut roots = BTreeMap::from([(0, frontier.root())]);
        for entry in &ending.entries {
            frontier.push(leaf_hash(entry));
            roots.insert(frontier.size(), frontier.root());
        }
        for (by, checkpoint) in &run.record.checkpoints {
            match roots.get(&checkpoint.size) {
                None => found.push(format!(
                    "node {node} has {} entries, node {by} signed a checkpoint of {}",
                    ending.entries.len(),
                    checkpoint.size
                )),
                Some(root) if *root != checkpoint.root => {
                    found.push(format!(
                        "node {node} does not continue the checkpoint of {} by node {by}",
                        checkpoint.size
                    ));
                }
                Some(_) => {}
            }
        }
        for lease in &run.record.leases {
            if roots.get(&lease.log_size).is_none_or(|root| *root != lease.log_root) {
                found.push(format!(
                    "node {node} does not have the log of {} that node {} signed a lease of",
                    lease.log_size, lease.node
                ));
            }
        }
    }
    found
}
