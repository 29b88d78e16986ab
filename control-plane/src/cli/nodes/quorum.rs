//! Whether the service lives on after a change: of those who vote then, a majority must be there.

use tagout_proto::authority::Authority;
use tagout_proto::wire::Cluster;

use super::short;
use crate::cli::failure::{Exit, Failure};
use crate::cli::session::Session;

pub fn majority(voters: usize) -> usize {
    voters / 2 + 1
}

/// Of some voters, as a node sees them.
pub struct Quorum {
    pub voters: usize,
    pub alive: usize,
}

impl Quorum {
    pub fn of(cluster: &Cluster, voters: &[u64]) -> Self {
        let heard = |id: &&u64| cluster.nodes.iter().any(|node| node.id == **id && node.heard.is_some());
        Self { voters: voters.len(), alive: voters.iter().filter(heard).count() }
    }

    pub fn lives(&self) -> bool {
        self.alive >= majority(self.voters)
    }
}

/// Refuses a change after which too few of the voters would answer: nobody could then undo it.
pub fn check(session: &Session<'_>, next: &Authority) -> Result<(), Failure> {
    let cluster = session.client.cluster()?;
    let voters: Vec<u64> = next.nodes.iter().filter(|node| !node.learner).map(|node| node.id).collect();
    let quorum = Quorum::of(&cluster, &voters);
    if quorum.lives() {
        return Ok(());
    }
    let silent: Vec<_> = (next.nodes.iter())
        .filter(|node| !cluster.nodes.iter().any(|seen| seen.id == node.id && seen.heard.is_some()))
        .map(|node| short(session, &node.key.name))
        .collect();
    let Quorum { voters, alive } = quorum;
    let detail = format!(
        "only {alive} of the {voters} voters that would be left answer, and it takes {}: the service would stand still. \
         Bring back or replace {} first",
        majority(voters),
        silent.join(", ")
    );
    Err(Failure::new(Exit::Refused, "no-majority-left", detail))
}

#[cfg(test)]
mod tests {
    use tagout_proto::wire::{ClusterNode, NodeNews, NodeRole};

    use super::*;

    #[test]
    fn a_majority_of_the_voters_must_answer() {
        assert_eq!([1, 2, 3, 4, 5].map(majority), [1, 2, 2, 3, 3]);
        let node = |id, there: bool| ClusterNode {
            id,
            name: format!("demo/node-{id}"),
            address: None,
            role: NodeRole::Voter,
            heard: there.then(|| NodeNews {
                ms_ago: 0,
                ready: true,
                log_size: 1,
                clock_offset_ms: 0,
                version: "1".into(),
                rule_version: 1,
            }),
        };
        let nodes = vec![node(1, true), node(2, true), node(3, false)];
        let cluster = Cluster { node: 1, leader: Some(1), term: 1, voters: vec![1, 2, 3], nodes };
        let lives = |voters: &[u64]| Quorum::of(&cluster, voters).lives();
        assert!(lives(&[1, 2, 3]) && lives(&[1, 2]) && lives(&[1]));
        assert!(!lives(&[1, 3]) && !lives(&[3]) && !lives(&[1, 3, 4]));
    }
}
