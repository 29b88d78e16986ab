//! Instances: the processes that hold guards, as their lease requests name them.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tagout_proto::limits::{LAPSE_GRACE_MAX_MS, TTL_MAX_MS};
use tagout_proto::scope::Scope;
use tagout_proto::wire;
use tokio::time::Instant;

/// Remembered (agent, instance) pairs. Beyond that a stop's account counts only the bound, which holds for all.
const INSTANCES_MAX: usize = 100_000;
/// An instance that has asked for no lease for so long has no call under way any more.
const FORGET_AFTER: Duration = Duration::from_millis(TTL_MAX_MS + LAPSE_GRACE_MAX_MS);

#[derive(Default)]
pub struct Instances {
    by_agent: Mutex<ByAgent>,
    /// How many streams of stops each of them has open.
    listening: Mutex<HashMap<String, usize>>,
    /// What the other nodes last said of theirs, by node.
    elsewhere: Mutex<BTreeMap<u64, Told>>,
}

/// How many instances each agent with limits has at another node.
struct Told {
    at: Instant,
    counts: BTreeMap<Scope, u32>,
}

/// An instance that listens for stops, for as long as this is kept.
pub struct Listening {
    instances: Arc<Instances>,
    name: String,
}

#[derive(Default)]
struct ByAgent {
    seen: BTreeMap<Scope, BTreeMap<String, Instant>>,
    count: usize,
}

impl Instances {
    /// Notes that `instance` is about to get a lease for these agents. Called before the lease's read, so that a stop's
    /// account never misses a guard whose lease is older than the stop.
    pub fn note<'a>(&self, instance: &str, agents: impl Iterator<Item = &'a Scope>) {
        let now = Instant::now();
        let mut by_agent = self.by_agent.lock();
        for agent in agents {
            if let Some(seen) = by_agent.seen.get_mut(agent).and_then(|instances| instances.get_mut(instance))
            {
                *seen = now;
                continue;
            }
            if by_agent.count >= INSTANCES_MAX {
                by_agent.forget(now);
            }
            if by_agent.count < INSTANCES_MAX {
                by_agent.seen.entry(agent.clone()).or_default().insert(instance.into(), now);
                by_agent.count += 1;
            }
        }
    }

    /// Those at or below `scope` that asked for a lease within the last `within`.
    pub fn below(&self, scope: &Scope, within: Duration) -> Vec<(Scope, wire::Instance)> {
        let now = Instant::now();
        let by_agent = self.by_agent.lock();
        let mut found = Vec::new();
        // What lies below a scope stands together, with what only begins like it: '0' is the character after '/'.
        let end = format!("{scope}0");
        let from = if scope.is_fleet() { Bound::Unbounded } else { Bound::Included(scope) };
        let near = by_agent.seen.range::<Scope, _>((from, Bound::Unbounded));
        let near = near.take_while(|(agent, _)| scope.is_fleet() || agent.as_str() < end.as_str());
        for (agent, instances) in near.filter(|(agent, _)| scope.covers(agent)) {
            for (instance, seen) in instances {
                let ago = now.saturating_duration_since(*seen);
                if ago <= within {
                    let seen_ms_ago = ago.as_millis().try_into().unwrap_or(u64::MAX);
                    found.push((agent.clone(), wire::Instance { instance: instance.clone(), seen_ms_ago }));
                }
            }
        }
        found
    }

    pub fn listen(self: &Arc<Self>, name: String) -> Listening {
        *self.listening.lock().entry(name.clone()).or_default() += 1;
        Listening { instances: Arc::clone(self), name }
    }

    /// Whether it listens for stops at this node.
    pub fn listens(&self, name: &str) -> bool {
        self.listening.lock().contains_key(name)
    }

    /// How many instances each agent has here that asked for a lease within the last `within`, of those that `limited`
    /// says have limits to share.
    pub fn sharing(&self, within: Duration, limited: impl Fn(&Scope) -> bool) -> Vec<(Scope, u32)> {
        let now = Instant::now();
        let by_agent = self.by_agent.lock();
        let counts = by_agent.seen.iter().map(|(agent, seen)| (agent, living(seen, now, within)));
        let sharing = counts.filter(|(agent, count)| *count > 0 && limited(agent));
        sharing.map(|(agent, count)| (agent.clone(), count)).collect()
    }

    /// Another node has told what `sharing` is there.
    pub fn learn(&self, node: u64, sharing: Vec<(Scope, u32)>) {
        self.elsewhere
            .lock()
            .insert(node, Told { at: Instant::now(), counts: sharing.into_iter().collect() });
    }

    /// How many instances share the limits of `agent`, on all nodes. One that went from one node to another counts twice
    /// for a while: that only lowers what each may do.
    pub fn sharers(&self, agent: &Scope, within: Duration) -> u32 {
        let now = Instant::now();
        let here = self.by_agent.lock().seen.get(agent).map_or(0, |seen| living(seen, now, within));
        let elsewhere = self.elsewhere.lock();
        // A node that fell silent gives no leases either.
        let heard = elsewhere.values().filter(|told| now.saturating_duration_since(told.at) <= within);
        heard
            .filter_map(|told| told.counts.get(agent))
            .fold(here.max(1), |sum, count| sum.saturating_add(*count))
    }

    /// Whether there may be more than are remembered.
    pub fn is_full(&self) -> bool {
        self.by_agent.lock().count >= INSTANCES_MAX
    }

    /// Drops those that are gone.
    pub fn forget(&self) {
        self.by_agent.lock().forget(Instant::now());
    }

    /// How long ago they asked for a lease.
    pub fn ages(&self, within: Duration) -> Ages {
        let (now, by_agent) = (Instant::now(), self.by_agent.lock());
        let mut ages = Ages { oldest: Duration::ZERO, older: 0 };
        for seen in by_agent.seen.values().flat_map(BTreeMap::values) {
            match now.saturating_duration_since(*seen) {
                age if age <= within => ages.oldest = ages.oldest.max(age),
                _ => ages.older += 1,
            }
        }
        ages
    }

    pub fn count(&self) -> usize {
        self.by_agent.lock().count
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let mut listening = self.instances.listening.lock();
        if let Some(streams) = listening.get_mut(&self.name) {
            *streams -= 1;
            if *streams == 0 {
                listening.remove(&self.name);
            }
        }
    }
}

/// When instances asked for their newest leases.
pub struct Ages {
    /// The longest time ago that is within the bound.
    pub oldest: Duration,
    /// How many it is longer ago for.
    pub older: usize,
}

fn living(seen: &BTreeMap<String, Instant>, now: Instant, within: Duration) -> u32 {
    let living = seen.values().filter(|seen| now.saturating_duration_since(**seen) <= within);
    living.count().try_into().unwrap_or(u32::MAX)
}

impl ByAgent {
    fn forget(&mut self, now: Instant) {
        for instances in self.seen.values_mut() {
            instances.retain(|_, seen| now.saturating_duration_since(*seen) < FORGET_AFTER);
        }
        self.seen.retain(|_, instances| !instances.is_empty());
        self.count = self.seen.values().map(BTreeMap::len).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_listens_until_its_last_stream_ends() {
        let instances = Arc::new(Instances::default());
        let (one, again) = (instances.listen("one".into()), instances.listen("one".into()));
        drop(one);
        assert!(instances.listens("one") && !instances.listens("two"));
        drop(again);
        assert!(!instances.listens("one"));
    }

    #[test]
    fn those_below_a_scope_are_found_and_no_others() {
        let instances = Instances::default();
        let scope = |text: &str| Scope::parse(text).unwrap();
        let all = ["a", "a-b", "a.b", "a/b", "a/b-c", "a/b/c", "a/b/c/d", "a/bc", "a0", "ab", "b/a"];
        instances.note("one", all.map(scope).iter());
        let below = |text: &str| -> Vec<String> {
            let found = instances.below(&scope(text), Duration::from_secs(60));
            found.into_iter().map(|(agent, _)| agent.to_string()).collect()
        };
        assert_eq!(below("a/b"), ["a/b", "a/b/c", "a/b/c/d"]);
        assert_eq!(below("a"), ["a", "a/b", "a/b-c", "a/b/c", "a/b/c/d", "a/bc"]);
        assert_eq!(below("*").len(), all.len());
        assert!(below("c").is_empty());
    }

    #[test]
    fn the_instances_of_all_nodes_share_an_agents_limits() {
        let (instances, ttl) = (Instances::default(), Duration::from_secs(10));
        let agents = ["a", "a/b", "c"].map(|agent| Scope::parse(agent).unwrap());
        let sharers = || agents.each_ref().map(|agent| instances.sharers(agent, ttl));
        assert_eq!(sharers(), [1, 1, 1], "whoever asks is one");
        instances.note("one", agents.iter());
        instances.note("two", agents[..1].iter());
        let gone = Instant::now() - 2 * ttl;
        instances.by_agent.lock().seen.entry(agents[1].clone()).or_default().insert("gone".into(), gone);
        assert_eq!(sharers(), [2, 1, 1]);
        let limited = instances.sharing(ttl, |agent| agent.as_str() != "c");
        assert_eq!(limited, [(agents[0].clone(), 2), (agents[1].clone(), 1)]);
        instances.learn(2, limited.clone());
        instances.learn(3, vec![(agents[2].clone(), 5)]);
        assert_eq!(sharers(), [4, 2, 6]);
        instances.learn(3, Vec::new());
        assert_eq!(sharers(), [4, 2, 1]);
        instances.elsewhere.lock().insert(2, Told { at: gone, counts: limited.into_iter().collect() });
        assert_eq!(sharers(), [2, 1, 1], "a node that fell silent");
    }

    #[test]
    fn the_oldest_lease_that_lives_is_told_apart_from_those_that_do_not() {
        let (instances, ttl) = (Instances::default(), Duration::from_secs(10));
        let a = Scope::parse("a").unwrap();
        assert_eq!(instances.ages(ttl).oldest, Duration::ZERO);
        for (instance, age_s) in [("gone", 12), ("late", 4), ("new", 1)] {
            let then = Instant::now() - Duration::from_secs(age_s);
            instances.by_agent.lock().seen.entry(a.clone()).or_default().insert(instance.into(), then);
        }
        let ages = instances.ages(ttl);
        assert_eq!((ages.oldest.as_secs(), ages.older), (4, 1));
    }
}
