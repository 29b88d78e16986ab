//! Who is a member, and who leads: Raft follows the committed authority, one step at a time, and the leadership goes to a
//! node that can serve.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tagout_proto::envelope::Envelope;
use tagout_proto::log::entry::EntryKind;

use super::exchange::CLOCK_OFF_MAX_MS;
use super::{Cluster, FORWARD_TIMEOUT, NodeState, SEEN_FOR};
use crate::peers::Member;
use crate::raft::Change;
use crate::reserve::{DiskState, Need};

/// A learner that lacks no more entries than this may vote: it catches up with the rest in a moment.
const PROMOTE_LAG_MAX: u64 = 64;
/// Steps towards the authority's members that one round takes.
const STEPS_AT_ONCE: usize = 8;
/// How long handing over the leadership may take before a node ends all the same.
const HAND_OVER_PATIENCE: Duration = Duration::from_secs(2);

impl Cluster {
    /// Addresses and keys as the authority has them; whoever it does not list, and Raft neither, is no peer any more.
    pub fn follow_authority(&self) {
        let members: Vec<u64> = self.consensus.members().iter().map(|(id, _, _)| *id).collect();
        let ledger = self.replica.ledger();
        let Some(authority) = ledger.authority() else { return };
        self.peers.know_authority(authority);
        let listed = |id: u64| authority.nodes.iter().any(|node| node.id == id) || members.contains(&id);
        self.peers.forget_others(listed);
        self.seen.lock().retain(|id, _| listed(*id));
        self.divergence
            .lock()
            .set_voters(authority.nodes.iter().filter(|node| !node.learner).map(|node| node.id));
        self.outcomes.nodes_are(self.peers.others());
    }

    /// A leader that cannot do all that a leader does hands over to a voter that can; until there is one, it goes on: it
    /// still takes stops. Its clock stamps the entries, its disk decides what the cluster accepts, and one whose log is
    /// another than the majority's judges by a state that is wrong.
    pub(super) async fn step_aside(&self) {
        let has_room = self.reserve.state() == DiskState::Enough;
        let why = if self.clock_off_ms().abs() > CLOCK_OFF_MAX_MS {
            "this node's clock is off"
        } else if !self.divergence.lock().verdict().may_serve() {
            "this node's log differs from the others'"
        } else if !has_room {
            "this node's disk has room only for what takes away"
        } else {
            return;
        };
        if let Some(to) = self.successor_of(|state| has_room || state.has_room) {
            tracing::warn!(to, why, "handing the leadership over");
            self.consensus.hand_over(to).await;
        }
    }

    fn successor(&self) -> Option<u64> {
        self.successor_of(|_| true)
    }

    /// The voter that lacks least of the log, of those that serve and are fit for it.
    fn successor_of(&self, fit: impl Fn(&NodeState) -> bool) -> Option<u64> {
        let lags = self.consensus.lags()?;
        let voters = self.voters();
        let seen = self.seen.lock();
        let ready = |id: &u64| {
            seen.get(id).is_some_and(|s| s.at.elapsed() < SEEN_FOR && s.state.ready && fit(&s.state))
        };
        lags.into_iter()
            .filter(|(id, _)| *id != self.id && voters.contains(id) && ready(id))
            .min_by_key(|(_, lag)| *lag)
            .map(|(id, _)| id)
    }

    /// Hands the leadership to another node before this one ends, so that nobody waits for an election.
    pub async fn hand_over(&self) {
        if !self.status().is_leader {
            return;
        }
        let Some(to) = self.successor() else { return };
        tracing::info!(to, "handing the leadership over");
        self.consensus.hand_over(to).await;
        let handed = async {
            while self.status().leader == Some(self.id) {
                self.consensus.changed().await;
            }
        };
        if tokio::time::timeout(HAND_OVER_PATIENCE, handed).await.is_err() {
            tracing::warn!(to, "the leadership was not taken over in time; the others will elect somebody");
        }
    }

    /// Makes Raft's members those that the committed authority lists, step by step as far as it goes now.
    pub(super) async fn reconcile(&self) {
        for _ in 0..STEPS_AT_ONCE {
            if !self.step().await {
                return;
            }
        }
    }

    /// One step; false where there is none to take now.
    async fn step(&self) -> bool {
        let wanted: BTreeMap<u64, (Member, bool)> = {
            let ledger = self.replica.ledger();
            let Some(authority) = ledger.authority() else { return false };
            authority.nodes.iter().map(|node| (node.id, (Member::of(node), !node.learner))).collect()
        };
        let members: BTreeMap<u64, (Member, bool)> =
            self.consensus.members().into_iter().map(|(id, member, votes)| (id, (member, votes))).collect();
        let lags = self.consensus.lags().unwrap_or_default();
        let alive: BTreeSet<u64> = {
            let seen = self.seen.lock();
            seen.iter().filter(|(_, s)| s.at.elapsed() < SEEN_FOR).map(|(id, _)| *id).collect()
        };
        let Some(change) = next_change(self.id, &wanted, &members, &lags, &alive) else { return false };
        if let Change::RemoveVoter(id) = change
            && id == self.id
        {
            if let Some(to) = self.successor() {
                tracing::info!(to, "this node is to vote no more: handing the leadership over");
                self.consensus.hand_over(to).await;
            }
            return false;
        }
        if !self.majority_lives(&change, &members) {
            tracing::warn!(
                ?change,
                "the cluster's members are not changed: too few of those that would vote are there"
            );
            return false;
        }
        tracing::info!(?change, "changing the cluster's members as the authority says");
        match tokio::time::timeout(FORWARD_TIMEOUT, self.consensus.change(change)).await {
            Ok(Ok(())) => return true,
            Ok(Err(error)) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "it did not come about yet")
            }
            Err(_) => tracing::warn!("it takes its time"),
        }
        false
    }

    /// Whether a majority of those that vote after the change was heard of: a change that could not be committed would
    /// hold up everything else.
    fn majority_lives(&self, change: &Change, members: &BTreeMap<u64, (Member, bool)>) -> bool {
        let mut voters: Vec<u64> =
            members.iter().filter(|(_, (_, votes))| *votes).map(|(id, _)| *id).collect();
        match change {
            Change::Promote(ids) => voters.extend(ids),
            Change::RemoveVoter(id) => voters.retain(|voter| voter != id),
            Change::AddLearner(..) | Change::Rename(..) | Change::Remove(_) => {}
        }
        let seen = self.seen.lock();
        let lives = |id: &&u64| **id == self.id || seen.get(id).is_some_and(|s| s.at.elapsed() < SEEN_FOR);
        voters.iter().filter(lives).count() * 2 > voters.len()
    }

    /// A newer rule of verdicts comes into force once every voter supports it: from that entry on all decide by it. Guards
    /// whose SDK does not know it deny, so a build that knows it is not enough: the configuration of each voter allows it.
    pub(super) async fn raise_the_rule(&self) {
        let voters = self.voters();
        let known = {
            let seen = self.seen.lock();
            let of = |id: &u64| {
                let fresh = seen.get(id).filter(|s| s.at.elapsed() < SEEN_FOR);
                if *id == self.id { self.rule_known } else { fresh.map_or(0, |s| s.state.rule_known) }
            };
            voters.iter().map(of).min().unwrap_or(0)
        };
        let (in_force, deployment) = {
            let ledger = self.replica.ledger();
            let Some(deployment) = ledger.deployment() else { return };
            (ledger.rule_version(), deployment.to_string())
        };
        if known <= in_force {
            return;
        }
        let document =
            serde_json::json!({ "tagout": 1, "deployment": deployment, "rule": known }).to_string();
        let envelope = Envelope { document, signatures: Vec::new() };
        match self.propose_here(Need::Other, EntryKind::RuleVersion, &envelope).await {
            Ok(_) => {
                tracing::info!(
                    rule = known,
                    "every voter supports the newer rule of verdicts: it is in force"
                )
            }
            Err(error) => {
                tracing::warn!(%error, "the newer rule of verdicts could not be brought into force")
            }
        }
    }
}

/// The next step from the members that are to those that are wanted; pure. `alive` are those that were heard of.
fn next_change(
    leader: u64,
    wanted: &BTreeMap<u64, (Member, bool)>,
    members: &BTreeMap<u64, (Member, bool)>,
    lags: &BTreeMap<u64, u64>,
    alive: &BTreeSet<u64>,
) -> Option<Change> {
    let add = wanted.iter().find(|(id, _)| !members.contains_key(id));
    if let Some((id, (member, _))) = add {
        return Some(Change::AddLearner(*id, member.clone()));
    }
    let renamed =
        wanted.iter().find(|(id, (member, _))| members.get(id).is_some_and(|(have, _)| have != member));
    if let Some((id, (member, _))) = renamed {
        return Some(Change::Rename(*id, member.clone()));
    }
    let is_to_vote = |id: &u64| wanted.get(id).is_some_and(|(_, votes)| *votes);
    let caught_up = |id: &u64| lags.get(id).is_some_and(|lag| *lag <= PROMOTE_LAG_MAX);
    let (promoted, late): (BTreeSet<u64>, BTreeSet<u64>) = members
        .iter()
        .filter(|(id, (_, votes))| !votes && is_to_vote(id))
        .map(|(id, _)| *id)
        .partition(caught_up);
    // Two voters are worse than one, and four no better than three: so whoever comes soon is waited for.
    let voters = members.values().filter(|(_, votes)| *votes).count();
    let even = (voters + promoted.len()).is_multiple_of(2);
    let waits = even && late.iter().any(|id| alive.contains(id));
    if !promoted.is_empty() && !waits {
        return Some(Change::Promote(promoted));
    }
    // Whoever is to go leaves after those who come have been promoted, and the leader last of all.
    let waiting = members.iter().any(|(id, (_, votes))| !votes && is_to_vote(id));
    let mut leaving = members.iter().filter(|(id, (_, votes))| *votes && !is_to_vote(id)).map(|(id, _)| *id);
    let leaves = leaving.clone().find(|id| *id != leader).or_else(|| leaving.next());
    if let Some(id) = leaves
        && !waiting
    {
        return Some(Change::RemoveVoter(id));
    }
    let gone = members.iter().find(|(id, (_, votes))| !votes && !wanted.contains_key(id));
    gone.map(|(id, _)| Change::Remove(*id))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(name: &str) -> Member {
        Member { name: name.into(), key: [1; 32], address: "h:1".into() }
    }

    type Members = BTreeMap<u64, (Member, bool)>;

    fn members(list: &[(u64, &str, bool)]) -> Members {
        list.iter().map(|(id, name, votes)| (*id, (member(name), *votes))).collect()
    }

    /// Carries steps out until there is none left, with everybody caught up.
    fn steps(leader: u64, wanted: &Members, mut now: Members) -> (Vec<Change>, Members) {
        let mut taken = Vec::new();
        loop {
            let lags = now.keys().map(|id| (*id, 0)).collect();
            let alive = now.keys().copied().collect();
            let Some(change) = next_change(leader, wanted, &now, &lags, &alive) else { return (taken, now) };
            match &change {
                Change::AddLearner(id, member) => drop(now.insert(*id, (member.clone(), false))),
                Change::Rename(id, member) => now.get_mut(id).unwrap().0 = member.clone(),
                Change::Promote(ids) => ids.iter().for_each(|id| now.get_mut(id).unwrap().1 = true),
                Change::RemoveVoter(id) => now.get_mut(id).unwrap().1 = false,
                Change::Remove(id) => drop(now.remove(id)),
            }
            taken.push(change);
            assert!(taken.len() < 50, "it goes in circles: {taken:?}");
        }
    }

    #[test]
    fn members_become_those_of_the_authority_one_step_at_a_time() {
        let three = members(&[(1, "a", true), (2, "b", true), (3, "c", true)]);
        let (taken, end) = steps(1, &three, members(&[(1, "a", true)]));
        assert_eq!(end, three);
        assert_eq!(taken.len(), 3, "two learners, promoted together: {taken:?}");

        let replaced = members(&[(1, "a", true), (2, "b", true), (4, "d", true)]);
        let (taken, end) = steps(1, &replaced, three.clone());
        assert_eq!(end, replaced);
        assert_eq!(
            taken,
            [
                Change::AddLearner(4, member("d")),
                Change::Promote(BTreeSet::from([4])),
                Change::RemoveVoter(3),
                Change::Remove(3)
            ],
            "whoever goes leaves after the one who comes votes"
        );

        let moved = members(&[(1, "a", true), (2, "bb", true), (3, "c", true)]);
        assert_eq!(steps(1, &moved, three.clone()).0, [Change::Rename(2, member("bb"))]);
        let without_leader = members(&[(2, "b", true), (3, "c", true)]);
        assert_eq!(steps(1, &without_leader, three).0, [Change::RemoveVoter(1), Change::Remove(1)]);
    }

    #[test]
    fn a_learner_that_is_behind_does_not_vote_and_nobody_leaves_for_it() {
        let wanted = members(&[(1, "a", true), (2, "b", true), (4, "d", true)]);
        let now = members(&[(1, "a", true), (2, "b", true), (3, "c", true), (4, "d", false)]);
        let behind = BTreeMap::from([(1, 0), (2, 0), (3, 0), (4, PROMOTE_LAG_MAX + 1)]);
        let alive = BTreeSet::from([2, 3, 4]);
        assert_eq!(next_change(1, &wanted, &now, &behind, &alive), None);
        let caught_up = BTreeMap::from([(4, PROMOTE_LAG_MAX)]);
        assert_eq!(
            next_change(1, &wanted, &now, &caught_up, &alive),
            Some(Change::Promote(BTreeSet::from([4])))
        );
    }
    #[test]
    fn one_voter_waits_for_a_second_that_lives_and_not_for_one_that_is_gone() {
        let wanted = members(&[(1, "a", true), (2, "b", true), (3, "c", true)]);
        let now = members(&[(1, "a", true), (2, "b", false), (3, "c", false)]);
        let lags = BTreeMap::from([(2, 0)]);
        assert_eq!(next_change(1, &wanted, &now, &lags, &BTreeSet::from([2, 3])), None);
        let alone = Some(Change::Promote(BTreeSet::from([2])));
        assert_eq!(next_change(1, &wanted, &now, &lags, &BTreeSet::from([2])), alone);
        let both = BTreeMap::from([(2, 0), (3, 1)]);
        let together = Some(Change::Promote(BTreeSet::from([2, 3])));
        assert_eq!(next_change(1, &wanted, &now, &both, &BTreeSet::from([2, 3])), together);
    }
}
