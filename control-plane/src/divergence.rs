//! Whether the nodes' logs are one log (S8): a node that differs from the majority stops serving. Pure.
//!
//! Nodes tell one another how far their ledgers are and the root there. Two that have different roots at one size can never
//! agree again, at any size from there on: so one comparison proves a difference, for good, while agreement counts only up
//! to where it was seen. Which entry it is, [`first_difference`](crate::audit::first_difference) finds.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use tagout_proto::digest::Digest;

/// What a node says of its ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    pub node: u64,
    pub size: u64,
    pub root: Digest,
}

/// How this node's log stands to the others'.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A majority of the voters has the same log, and nobody is known to have another.
    Agree,
    /// Nobody is known to have another log, and too few could be compared: they are silent, or this node is not that far.
    Waiting { uncompared: Vec<u64> },
    /// A majority has the same log, and these nodes another: they are wrong, and know it.
    OthersDiffer { nodes: Vec<Differs> },
    /// A majority of the voters has another log than this node: this node is wrong.
    ThisDiffers { nodes: Vec<Differs> },
    /// Nodes differ, and no majority says which of them are wrong: the rest is silent, or there is no rest.
    NoMajority { nodes: Vec<Differs> },
}

/// A node with another log, and the smallest size at which that was seen: the first difference lies below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Differs {
    pub node: u64,
    pub size: u64,
}

impl Verdict {
    /// Whether this node may issue leases and take what loosens.
    ///
    /// Without a majority neither side may: one of two logs is wrong, that one may lack a lock, and a lease that does not
    /// show a lock breaks S1 and S3; nobody can say that it is not this one. It heals when a third voter is heard again, or
    /// when the wrong node is replaced. Stops are another matter: they are taken, committed and pushed whatever this says
    /// (S10), since a stop is right on a wrong log, too.
    pub fn may_serve(&self) -> bool {
        match self {
            Self::Agree | Self::Waiting { .. } | Self::OthersDiffer { .. } => true,
            Self::ThisDiffers { .. } | Self::NoMajority { .. } => false,
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = |nodes: &[Differs]| {
            let each = nodes.iter().map(|d| format!("node {} (within its first {} entries)", d.node, d.size));
            each.collect::<Vec<_>>().join(", ")
        };
        match self {
            Self::Agree => f.write_str("a majority of the nodes has the same log"),
            Self::Waiting { uncompared } => {
                let nodes = uncompared.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
                write!(f, "the log could not be compared yet with that of node {nodes}")
            }
            Self::OthersDiffer { nodes } => {
                write!(
                    f,
                    "{} has another log than the majority: put a new node in its place, `tagout node replace`",
                    named(nodes)
                )
            }
            Self::ThisDiffers { nodes } => {
                write!(
                    f,
                    "this node's log differs from the majority's: from that of {}. It issues no leases any more. Keep its \
                     data folder for analysis, and put a new node in its place: `tagout node replace`",
                    named(nodes)
                )
            }
            Self::NoMajority { nodes } => {
                write!(
                    f,
                    "the logs differ: this node's from that of {}, and too few others answer to say which is wrong. Neither \
                     issues leases; stops are still taken. Bring the other nodes back, or compare the logs with `tagout log \
                     verify` and replace the wrong node",
                    named(nodes)
                )
            }
        }
    }
}

/// What this node knows of the others' logs.
#[derive(Debug)]
pub struct Divergence {
    node: u64,
    voters: BTreeSet<u64>,
    known: BTreeMap<u64, Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// The first claim that goes further than this node is: kept until it gets there, since a later one might always be
    /// ahead.
    ahead: Option<Claim>,
    /// It agreed up to here.
    agreed: Option<u64>,
    /// It differed here.
    differed: Option<u64>,
}

impl Divergence {
    /// For the node `node`, which need not be a voter.
    pub fn new(node: u64) -> Self {
        Self { node, voters: BTreeSet::new(), known: BTreeMap::new() }
    }

    /// Who counts. A node that is none any more is forgotten, also as one that differs: its successor has another id.
    pub fn set_voters(&mut self, voters: impl IntoIterator<Item = u64>) {
        self.voters = voters.into_iter().collect();
        self.known.retain(|node, _| self.voters.contains(node));
    }

    /// Takes a claim in. `root_at` gives this node's own root at a size, or `None` if it is not that far.
    pub fn hear<E>(
        &mut self,
        claim: Claim,
        mut root_at: impl FnMut(u64) -> Result<Option<Digest>, E>,
    ) -> Result<(), E> {
        if claim.node == self.node || !self.voters.contains(&claim.node) {
            return Ok(());
        }
        let known = self.known.entry(claim.node).or_default();
        for claim in known.ahead.take().into_iter().chain([claim]) {
            match root_at(claim.size)? {
                Some(root) if root == claim.root => {
                    known.agreed = known.agreed.max(Some(claim.size));
                    // What was seen at or below this size was not so: a node does not come back to a log that it left.
                    known.differed = known.differed.filter(|size| *size > claim.size);
                }
                Some(_) => {
                    known.differed = Some(known.differed.map_or(claim.size, |size| size.min(claim.size)));
                }
                None => known.ahead = known.ahead.or(Some(claim)),
            }
        }
        Ok(())
    }

    pub fn verdict(&self) -> Verdict {
        let mut differ = Vec::new();
        let mut uncompared = Vec::new();
        let mut agree = usize::from(self.voters.contains(&self.node));
        for voter in self.voters.iter().filter(|voter| **voter != self.node) {
            match self.known.get(voter) {
                Some(Known { differed: Some(size), .. }) => {
                    differ.push(Differs { node: *voter, size: *size })
                }
                Some(Known { agreed: Some(_), .. }) => agree += 1,
                Some(_) | None => uncompared.push(*voter),
            }
        }
        let majority = |nodes: usize| nodes * 2 > self.voters.len();
        match (differ.len(), majority(agree)) {
            (0, true) => Verdict::Agree,
            (0, false) => Verdict::Waiting { uncompared },
            (nodes, _) if majority(nodes) => Verdict::ThisDiffers { nodes: differ },
            (_, true) => Verdict::OthersDiffer { nodes: differ },
            (_, false) => Verdict::NoMajority { nodes: differ },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::convert::Infallible;

    /// The log `log` at a size: all are the same up to size 100.
    fn root(log: u64, size: u64) -> Digest {
        Digest::of(format!("{} {size}", if size <= 100 { 0 } else { log }).as_bytes())
    }

    fn hear(divergence: &mut Divergence, own_size: u64, node: u64, log: u64, size: u64) {
        let own = |at| Ok::<_, Infallible>((at <= own_size).then(|| root(0, at)));
        let Ok(()) = divergence.hear(Claim { node, size, root: root(log, size) }, own);
    }

    fn of_three() -> Divergence {
        let mut divergence = Divergence::new(1);
        divergence.set_voters([1, 2, 3]);
        divergence
    }

    fn differs(node: u64, size: u64) -> Vec<Differs> {
        vec![Differs { node, size }]
    }

    #[test]
    fn s8_one_other_that_agrees_is_a_majority_of_three() {
        let mut three = of_three();
        assert_eq!(three.verdict(), Verdict::Waiting { uncompared: vec![2, 3] });
        hear(&mut three, 150, 2, 0, 150);
        assert_eq!(three.verdict(), Verdict::Agree);
        hear(&mut three, 150, 3, 7, 100);
        assert_eq!(three.verdict(), Verdict::Agree, "up to there they are one");
        hear(&mut three, 150, 3, 7, 140);
        assert_eq!(three.verdict(), Verdict::OthersDiffer { nodes: differs(3, 140) });
        hear(&mut three, 150, 3, 7, 120);
        assert_eq!(three.verdict(), Verdict::OthersDiffer { nodes: differs(3, 120) }, "nearer to the first");
        hear(&mut three, 150, 3, 7, 90);
        let verdict = three.verdict();
        assert_eq!(verdict, Verdict::OthersDiffer { nodes: differs(3, 120) }, "it started again");
        assert!(verdict.may_serve() && verdict.to_string().contains("node 3"), "{verdict}");
    }

    #[test]
    fn s8_a_node_that_differs_from_the_majority_does_not_serve() {
        let mut three = of_three();
        hear(&mut three, 150, 2, 7, 150);
        let verdict = three.verdict();
        assert_eq!(verdict, Verdict::NoMajority { nodes: differs(2, 150) });
        assert!(!verdict.may_serve(), "one to one, and the third is silent");
        assert!(verdict.to_string().contains("stops are still taken"), "{verdict}");
        let mut outvoted = of_three();
        hear(&mut outvoted, 150, 2, 7, 150);
        hear(&mut outvoted, 150, 3, 7, 130);
        let verdict = outvoted.verdict();
        let nodes = [differs(2, 150), differs(3, 130)].concat();
        assert_eq!(verdict, Verdict::ThisDiffers { nodes });
        assert!(!verdict.may_serve() && verdict.to_string().contains("tagout node replace"), "{verdict}");
        hear(&mut three, 150, 3, 0, 110);
        assert_eq!(three.verdict(), Verdict::OthersDiffer { nodes: differs(2, 150) }, "the third decides");
        three.set_voters([1, 3, 4]);
        assert_eq!(three.verdict(), Verdict::Agree, "it was replaced");
    }

    #[test]
    fn s8_a_claim_from_ahead_is_kept_until_this_node_is_there() {
        let mut three = of_three();
        hear(&mut three, 100, 2, 7, 110);
        assert_eq!(three.verdict(), Verdict::Waiting { uncompared: vec![2, 3] });
        // It is always ahead of this one.
        hear(&mut three, 109, 2, 7, 120);
        assert_eq!(three.verdict(), Verdict::Waiting { uncompared: vec![2, 3] });
        hear(&mut three, 119, 2, 7, 130);
        assert_eq!(three.verdict(), Verdict::NoMajority { nodes: differs(2, 110) });
    }

    #[test]
    fn a_learner_compares_itself_with_the_voters() {
        let mut learner = Divergence::new(9);
        learner.set_voters([1, 2, 3]);
        hear(&mut learner, 150, 1, 0, 150);
        assert_eq!(learner.verdict(), Verdict::Waiting { uncompared: vec![2, 3] });
        hear(&mut learner, 150, 9, 7, 150);
        hear(&mut learner, 150, 2, 0, 150);
        assert_eq!(learner.verdict(), Verdict::Agree);
        let mut alone = Divergence::new(1);
        alone.set_voters([1]);
        assert_eq!(alone.verdict(), Verdict::Agree);
    }

    proptest! {
        /// Whoever has heard all the others knows the truth, whatever the order, and never two logs serve.
        #[test]
        fn s8_only_the_majority_s_log_is_served(
            logs in prop::collection::vec(0u64..3, 1..8),
            heard in prop::collection::vec((any::<prop::sample::Index>(), 101u64..200), 0..30),
            all in any::<bool>(),
        ) {
            let nodes = logs.len();
            let serving: BTreeSet<u64> = (0..nodes)
                .filter(|me| {
                    let mut divergence = Divergence::new(*me as u64);
                    divergence.set_voters(0..nodes as u64);
                    let own = |at| Ok::<_, Infallible>(Some(root(logs[*me] + 10, at)));
                    let claims = heard.iter().map(|(node, size)| (node.index(nodes), *size));
                    let rest = (0..nodes).map(|node| (node, 150)).filter(|_| all);
                    let mut differing = BTreeSet::new();
                    for (node, size) in claims.chain(rest) {
                        let claim = Claim { node: node as u64, size, root: root(logs[node] + 10, size) };
                        let Ok(()) = divergence.hear(claim, own);
                        if logs[node] != logs[*me] { differing.insert(node); }
                    }
                    let verdict = divergence.verdict();
                    let minority = logs.iter().filter(|log| **log == logs[*me]).count() * 2 <= nodes;
                    if !differing.is_empty() && minority { assert!(!verdict.may_serve(), "{verdict:?}"); }
                    if differing.len() * 2 > nodes { assert!(matches!(verdict, Verdict::ThisDiffers { .. })); }
                    verdict.may_serve()
                })
                .map(|me| logs[me])
                .collect();
            if all { prop_assert!(serving.len() <= 1, "{serving:?}"); }
        }
    }
}
