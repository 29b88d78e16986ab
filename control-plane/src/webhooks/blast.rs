//! How much one webhook or producer may take away: so many agents an hour, and then it is for people. Pure: times are given.

use std::collections::{BTreeMap, BTreeSet};

use tagout_proto::scope::Scope;

use crate::due::HOUR_MS;

/// What it took away from through this node, and when last. The locks in force are in the ledger, for all nodes; this is for
/// those that people have lifted since. A scope counts as an agent, or is above one that counts: so the limit bounds it.
#[derive(Default)]
pub struct Taken(BTreeMap<Scope, u64>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "it may take away from {limit} agents an hour, and with this it would be {agents}: what it asks for is for \
     people to do, with `tagout stop` (agents_per_hour in the node's webhooks file is the limit)"
)]
pub struct TooMany {
    pub limit: u64,
    pub agents: u64,
}

impl Taken {
    /// Whether `scope` may be added, which it is then. `in_force` are the scopes of its locks of the last hour, `agents` all
    /// that live.
    pub fn add(
        &mut self,
        scope: &Scope,
        in_force: &BTreeSet<Scope>,
        agents: &BTreeSet<Scope>,
        limit: u64,
        now_ms: u64,
    ) -> Result<(), TooMany> {
        self.0.retain(|_, at_ms| *at_ms + HOUR_MS > now_ms);
        let mut scopes: BTreeSet<&Scope> = self.0.keys().chain(in_force).collect();
        scopes.insert(scope);
        // Somebody may soon be where nobody is: such a scope counts as one agent.
        let (mut reached, mut deserted) = (BTreeSet::new(), 0);
        for scope in scopes {
            let mut covered = agents.iter().filter(|agent| scope.covers(agent)).peekable();
            deserted += u64::from(covered.peek().is_none());
            reached.extend(covered);
        }
        let count = reached.len() as u64 + deserted;
        if count > limit {
            return Err(TooMany { limit, agents: count });
        }
        self.0.insert(scope.clone(), now_ms);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(text: &str) -> Scope {
        Scope::parse(text).unwrap()
    }

    #[test]
    fn agents_are_counted_once_for_an_hour() {
        let agents: BTreeSet<_> = ["demo/a/1", "demo/a/2", "demo/b"].map(scope).into();
        let mut taken = Taken::default();
        let allow = |taken: &mut Taken, text: &str, limit, now_ms| {
            taken.add(&scope(text), &BTreeSet::new(), &agents, limit, now_ms).map_err(|over| over.agents)
        };
        assert_eq!(allow(&mut taken, "demo/a", 2, 0), Ok(()));
        assert_eq!(allow(&mut taken, "demo/a/1", 2, 1), Ok(()), "it counts already");
        assert_eq!(allow(&mut taken, "demo/b", 2, 2), Err(3));
        assert_eq!(allow(&mut taken, "demo/nobody", 2, 3), Err(3), "somebody may be there soon");
        assert_eq!(allow(&mut taken, "*", 3, 4), Ok(()));
        assert_eq!(allow(&mut taken, "demo/b", 2, HOUR_MS + 3), Err(3), "the fleet was taken away from at 4");
        assert_eq!(allow(&mut taken, "demo/b", 2, HOUR_MS + 4), Ok(()));
    }

    #[test]
    fn a_flood_about_one_agent_takes_nobody_elses_place() {
        let mut taken = Taken::default();
        for now_ms in 0..20_000 {
            taken.add(&scope("demo/a"), &BTreeSet::new(), &BTreeSet::new(), 2, now_ms).unwrap();
        }
        assert_eq!(taken.0.len(), 1);
        assert_eq!(taken.add(&scope("demo/b"), &BTreeSet::new(), &BTreeSet::new(), 2, 20_000), Ok(()));
    }

    #[test]
    fn what_other_nodes_have_taken_counts_by_its_locks() {
        let agents: BTreeSet<_> = ["demo/a", "demo/b"].map(scope).into();
        let mut taken = Taken::default();
        let in_force = [scope("demo/a")].into();
        assert_eq!(
            taken.add(&scope("demo/b"), &in_force, &agents, 1, 0),
            Err(TooMany { limit: 1, agents: 2 })
        );
    }
}
