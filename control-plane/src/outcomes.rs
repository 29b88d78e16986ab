//! The account of a stop: which instances confirmed it, and when the rest is bounded. Steps ⑧ and ⑨.
//!
//! Every node keeps one of every stop, of the instances that asked it for leases, and tells the others: so any node
//! knows the whole, and an outcome is settled early only once each has told what it knows.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tagout_proto::authority::Limits;
use tagout_proto::command::DOCUMENT_VERSION;
use tagout_proto::digest::Digest;
use tagout_proto::limits::TTL_MAX_MS;
use tagout_proto::lock::LockKind;
use tagout_proto::scope::Scope;
use tagout_proto::wire::{Confirmation, InstanceReach, Outcome, ReachState, StopPath, StopReach};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::instances::Instances;

/// Settled accounts that are kept for those who ask; the outcome itself is in the log.
const SETTLED_MAX: usize = 1024;
/// Pending stops whose confirmations are kept until they are committed; of others the bound is told.
const FORESEEN_MAX: usize = 256;
/// Instances that an outcome entry lists; its counts hold for all.
const LISTED_MAX: usize = 64;
/// News of stops that this node has not applied yet: those of a moment.
const EARLY_MAX: usize = 4096;

/// What one node tells the others of a stop's account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct News {
    pub lock: Digest,
    /// With the first news of a stop: these are all the instances that the node knew of.
    pub opening: bool,
    /// By agent and instance.
    pub instances: Vec<((Scope, String), Reached)>,
}

/// How far a stop has come with one instance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reached {
    /// It listened to a node when the stop came: if it stays silent, somebody should look at it.
    connected: bool,
    confirmed: Option<Confirmed>,
}

/// Its own word, and after how long that was here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Confirmed {
    after_ms: u64,
    closed_us: u64,
    cut_us: u64,
    calls_cut: u64,
    by: StopPath,
}

pub struct Outcomes {
    instances: Arc<Instances>,
    node: String,
    limits: Mutex<InForce>,
    /// Leases that this process does not know of are dead from then on.
    all_known_from: Mutex<Instant>,
    accounts: Mutex<Accounts>,
    opened: mpsc::UnboundedSender<Arc<Account>>,
    news: mpsc::UnboundedSender<News>,
    /// The other nodes, and when each was last heard of.
    others: Mutex<BTreeMap<u64, Instant>>,
}

#[derive(Default)]
struct Accounts {
    by_lock: BTreeMap<Digest, Arc<Account>>,
    settled: VecDeque<Digest>,
    /// From whom, of stops that are not applied here yet.
    early: VecDeque<(u64, News)>,
    /// Of stops that are pending: who held a lease when they were pushed, and what was confirmed since.
    foreseen: BTreeMap<Digest, AllReached>,
}

type AllReached = BTreeMap<(Scope, String), Reached>;

pub struct Account {
    lock: Digest,
    committed: Instant,
    bounded_after: Duration,
    calls_bounded_after: Option<Duration>,
    /// Whether every instance with a lease was remembered here when the stop came.
    all_known: bool,
    /// The nodes that may have issued leases that are still alive.
    awaited: BTreeSet<u64>,
    state: Mutex<AccountState>,
    version: watch::Sender<u64>,
}

struct AccountState {
    instances: AllReached,
    /// The other nodes that have told of all their instances.
    told: BTreeSet<u64>,
    settled: bool,
    outcome_index: Option<u64>,
}

impl Outcomes {
    /// The first receiver gets every account that is opened; `settle` and `finish` end each. The second gets what the
    /// other nodes are to be told.
    pub fn new(
        instances: Arc<Instances>,
        node: String,
        limits: Limits,
    ) -> (Arc<Self>, mpsc::UnboundedReceiver<Arc<Account>>, mpsc::UnboundedReceiver<News>) {
        let (opened, receiver) = mpsc::unbounded_channel();
        let (news, to_tell) = mpsc::unbounded_channel();
        let limits = InForce { current: limits, before: Vec::new() };
        let (ttl, lapse_grace) = limits.largest();
        let all_known_from = Mutex::new(Instant::now() + ttl + lapse_grace);
        let (limits, accounts, others) = (Mutex::new(limits), Mutex::default(), Mutex::default());
        let outcomes = Self { instances, node, limits, all_known_from, accounts, opened, news, others };
        (Arc::new(outcomes), receiver, to_tell)
    }

    /// Which other nodes there are. One that is new counts as heard of now.
    pub fn nodes_are(&self, ids: Vec<u64>) {
        let mut others = self.others.lock();
        others.retain(|id, _| ids.contains(id));
        for id in ids {
            others.entry(id).or_insert_with(Instant::now);
        }
    }

    /// A node that neither answers nor asks for as long as a lease and its grace last has no lease alive: it could not
    /// have made one without a leader.
    pub fn heard(&self, id: u64) {
        if let Some(at) = self.others.lock().get_mut(&id) {
            *at = Instant::now();
        }
    }

    /// A new authority sets the limits; leases under the old ones may live on for a while (S3).
    pub fn limits_changed(&self, limits: Limits) {
        self.limits.lock().change(limits);
    }

    /// The deployment begins with this process: no lease of it can be older.
    pub fn begin(&self) {
        *self.all_known_from.lock() = Instant::now();
    }

    /// A stop is pushed before it is committed: whoever stops for it now is counted once its account is opened.
    pub fn foresee(&self, lock: Digest, scope: &Scope) {
        let (ttl, lapse_grace) = self.limits.lock().largest();
        let waiting = self.waiting(scope, ttl + lapse_grace);
        let mut accounts = self.accounts.lock();
        if accounts.foreseen.len() < FORESEEN_MAX && !accounts.by_lock.contains_key(&lock) {
            accounts.foreseen.entry(lock).or_insert(waiting);
        }
    }

    /// It will not be committed after all.
    pub fn foresee_no_more(&self, lock: &Digest) {
        self.accounts.lock().foreseen.remove(lock);
    }

    /// Those at or below `scope` that may hold a lease, or have calls under way.
    fn waiting(&self, scope: &Scope, within: Duration) -> AllReached {
        (self.instances.below(scope, within).into_iter())
            .map(|(agent, instance)| {
                let connected = self.instances.listens(&instance.instance);
                ((agent, instance.instance), Reached { connected, confirmed: None })
            })
            .collect()
    }

    /// Opens the account of a stop that was committed now.
    pub fn open(&self, lock: Digest, scope: &Scope, kind: LockKind) {
        // A lease from before the stop lives for ttl at most; a drain grants its time on top. Calls under way may outlive
        // their lease by the grace, also those of an instance that lost its connection long before the stop.
        let (ttl, lapse_grace) = self.limits.lock().largest();
        let drain = match kind {
            LockKind::Drain { drain_ms } => Duration::from_millis(drain_ms),
            LockKind::Halt
            | LockKind::Pause
            | LockKind::Isolate
            | LockKind::Restrict
            | LockKind::Throttle(_) => Duration::ZERO,
        };
        let bounded_after = ttl + drain;
        let calls_bounded_after = kind.cuts().then_some(bounded_after + lapse_grace);
        let mut instances = self.waiting(scope, ttl + lapse_grace);
        // What was confirmed while it was pending counts.
        instances.extend(self.accounts.lock().foreseen.remove(&lock).unwrap_or_default());
        let all_known = !self.instances.is_full();
        let others = self.others.lock();
        let awaited =
            others.iter().filter(|(_, at)| at.elapsed() <= ttl + lapse_grace).map(|(id, _)| *id).collect();
        drop(others);
        let state = AccountState { instances, told: BTreeSet::new(), settled: false, outcome_index: None };
        let account = Arc::new(Account {
            lock,
            committed: Instant::now(),
            bounded_after,
            calls_bounded_after,
            all_known,
            awaited,
            state: Mutex::new(state),
            version: watch::Sender::new(1),
        });
        let early: VecDeque<_> = {
            let mut accounts = self.accounts.lock();
            accounts.by_lock.insert(lock, account.clone());
            let (early, later) = accounts.early.drain(..).partition(|(_, news)| news.lock == lock);
            accounts.early = later;
            early
        };
        early.into_iter().for_each(|(from, news)| account.learn(from, news));
        if !self.others.lock().is_empty() {
            let instances = account.state.lock().instances.clone().into_iter().collect();
            self.tell(News { lock, opening: all_known, instances });
        }
        // The receiver ends only with the node.
        let _ = self.opened.send(account);
    }

    fn tell(&self, news: News) {
        // The receiver ends only with the node.
        let _ = self.news.send(news);
    }

    /// Takes in what another node tells.
    pub fn learn(&self, from: u64, news: News) {
        let mut accounts = self.accounts.lock();
        match accounts.by_lock.get(&news.lock).cloned() {
            Some(account) => {
                drop(accounts);
                account.learn(from, news);
            }
            None => {
                if accounts.early.len() >= EARLY_MAX {
                    accounts.early.pop_front();
                }
                accounts.early.push_back((from, news));
            }
        }
    }

    pub fn account(&self, lock: &Digest) -> Option<Arc<Account>> {
        self.accounts.lock().by_lock.get(lock).cloned()
    }

    /// Takes an instance's word that it has stopped; false when no such stop is being accounted for.
    pub fn confirm(&self, confirmation: Confirmation) -> bool {
        let Some(account) = self.account(&confirmation.lock) else {
            return self.confirm_foreseen(confirmation);
        };
        let after_ms = account.age_ms();
        let (lock, who, confirmed) = told(confirmation, after_ms);
        let mut state = account.state.lock();
        // Only whoever held a lease when the stop came can have stopped for it.
        let Some(known) = state.instances.get_mut(&who) else { return false };
        known.confirmed.get_or_insert(confirmed);
        let reached = known.clone();
        drop(state);
        account.version.send_modify(|v| *v += 1);
        if !self.others.lock().is_empty() {
            self.tell(News { lock, opening: false, instances: vec![(who, reached)] });
        }
        true
    }

    /// The same for a stop that is pending: it was stopped for before it was committed.
    fn confirm_foreseen(&self, confirmation: Confirmation) -> bool {
        let (lock, who, confirmed) = told(confirmation, 0);
        let mut accounts = self.accounts.lock();
        let foreseen = accounts.foreseen.get_mut(&lock).and_then(|all| all.get_mut(&who));
        let Some(known) = foreseen else { return false };
        known.confirmed.get_or_insert(confirmed);
        true
    }

    /// Waits until every instance has confirmed or the bound has passed, and gives the outcome for the log.
    pub async fn settle(&self, account: &Account) -> Outcome {
        // A node that started less than a ttl ago may not have met every lease that is alive.
        let all_known_from = *self.all_known_from.lock();
        let mut version = account.version.subscribe();
        let all_confirmed = async {
            tokio::time::sleep_until(all_known_from).await;
            // The sender lives in the account.
            let _ = version.wait_for(|_| account.all_confirmed()).await;
        };
        let bound = account.calls_bounded_after.unwrap_or(account.bounded_after);
        let _ = tokio::time::timeout_at(account.committed + bound, all_confirmed).await;
        account.settle(self.node.clone())
    }

    /// Notes where the outcome stands in the log; the account stays for a while for those who ask.
    pub fn finish(&self, account: &Account, outcome_index: Option<u64>) {
        account.state.lock().outcome_index = outcome_index;
        account.version.send_modify(|v| *v += 1);
        let mut accounts = self.accounts.lock();
        accounts.settled.push_back(account.lock);
        while accounts.settled.len() > SETTLED_MAX {
            let Some(oldest) = accounts.settled.pop_front() else { break };
            accounts.by_lock.remove(&oldest);
        }
    }
}

fn told(confirmation: Confirmation, after_ms: u64) -> (Digest, (Scope, String), Confirmed) {
    let Confirmation { lock, agent, instance, closed_us, cut_us, calls_cut, by, waited_us } = confirmation;
    // It waited for others' sake, and had stopped before.
    let after_ms = after_ms.saturating_sub(waited_us / 1_000);
    (lock, (agent, instance), Confirmed { after_ms, closed_us, cut_us, calls_cut, by })
}

/// The limits in force, and those that leases still alive may have been made under.
struct InForce {
    current: Limits,
    /// Until when each of them counts.
    before: Vec<(Instant, Limits)>,
}

impl InForce {
    fn change(&mut self, limits: Limits) {
        let now = Instant::now();
        self.before.retain(|(until, _)| now < *until);
        // No lease lives longer than the largest ttl, and calls in flight outlive it by their grace.
        let longest = Duration::from_millis(TTL_MAX_MS + self.current.lapse_grace_ms);
        self.before.push((now + longest, std::mem::replace(&mut self.current, limits)));
    }

    /// How long a lease may let calls begin, and how much longer those under way may go on.
    fn largest(&self) -> (Duration, Duration) {
        let now = Instant::now();
        let alive = self.before.iter().filter(|(until, _)| now < *until).map(|(_, limits)| limits);
        let all = || alive.clone().chain([&self.current]);
        let largest = |of: fn(&Limits) -> u64| Duration::from_millis(all().map(of).max().unwrap_or_default());
        (largest(|limits| limits.ttl_ms), largest(|limits| limits.lapse_grace_ms))
    }
}

impl Account {
    fn age_ms(&self) -> u64 {
        millis(self.committed.elapsed())
    }

    fn all_confirmed(&self) -> bool {
        let state = self.state.lock();
        self.all_known
            && self.awaited.is_subset(&state.told)
            && state.instances.values().all(|reached| reached.confirmed.is_some())
    }

    /// Another node knows of these instances. Who has confirmed anywhere has confirmed.
    fn learn(&self, from: u64, news: News) {
        let mut state = self.state.lock();
        if news.opening {
            state.told.insert(from);
        }
        for (who, theirs) in news.instances {
            let ours = state.instances.entry(who).or_default();
            ours.connected |= theirs.connected;
            ours.confirmed = ours.confirmed.take().or(theirs.confirmed);
        }
        drop(state);
        self.version.send_modify(|v| *v += 1);
    }

    pub fn lock(&self) -> Digest {
        self.lock
    }

    fn settle(&self, node: String) -> Outcome {
        let mut state = self.state.lock();
        state.settled = true;
        let mut outcome = Outcome {
            tagout: DOCUMENT_VERSION,
            outcome: self.lock,
            node,
            bounded_after_ms: millis(self.bounded_after),
            calls_bounded_after_ms: self.calls_bounded_after.map(millis),
            confirmed: 0,
            bounded: 0,
            slowest_ms: None,
            calls_cut: 0,
            instances: state.listed().take(LISTED_MAX).collect(),
        };
        for reached in state.instances.values() {
            match &reached.confirmed {
                Some(Confirmed { after_ms, calls_cut, .. }) => {
                    outcome.confirmed += 1;
                    outcome.slowest_ms = outcome.slowest_ms.max(Some(*after_ms));
                    outcome.calls_cut = outcome.calls_cut.saturating_add(*calls_cut);
                }
                None => outcome.bounded += 1,
            }
        }
        drop(state);
        self.version.send_modify(|v| *v += 1);
        outcome
    }

    /// The account as it stands.
    pub fn reach(&self) -> StopReach {
        let version = *self.version.borrow();
        let state = self.state.lock();
        StopReach {
            lock: self.lock,
            version,
            age_ms: self.age_ms(),
            bounded_after_ms: millis(self.bounded_after),
            calls_bounded_after_ms: self.calls_bounded_after.map(millis),
            instances: state.listed().collect(),
            settled: state.settled,
            outcome_index: state.outcome_index,
        }
    }

    /// Waits for a version after `version`.
    pub async fn changed_since(&self, version: u64) {
        // The sender lives in the account.
        let _ = self.version.subscribe().wait_for(|v| *v > version).await;
    }
}

impl AccountState {
    fn listed(&self) -> impl Iterator<Item = InstanceReach> + '_ {
        self.instances.iter().map(|((agent, instance), reached)| {
            let connected = reached.connected;
            let state = match reached.confirmed.clone() {
                Some(Confirmed { after_ms, closed_us, cut_us, calls_cut, by }) => {
                    ReachState::Confirmed { after_ms, closed_us, cut_us, calls_cut, by }
                }
                None if self.settled => ReachState::Bounded { connected },
                None => ReachState::Waiting { connected },
            };
            InstanceReach { agent: agent.clone(), instance: instance.clone(), state }
        })
    }
}

fn millis(duration: Duration) -> u64 {
    duration.as_millis().try_into().unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(text: &str) -> Scope {
        Scope::parse(text).unwrap()
    }

    fn confirmation(lock: Digest, agent: &str, instance: &str) -> Confirmation {
        let (agent, instance) = (scope(agent), instance.into());
        Confirmation {
            lock,
            agent,
            instance,
            closed_us: 1,
            cut_us: 2,
            calls_cut: 3,
            by: StopPath::Push,
            waited_us: 0,
        }
    }

    #[tokio::test]
    async fn s8_only_who_held_a_lease_confirms_and_the_outcome_counts_just_that() {
        let instances = Arc::new(Instances::default());
        let limits = Limits { ttl_ms: 60_000, lapse_grace_ms: 60_000 };
        let (outcomes, mut opened, mut news) = Outcomes::new(instances.clone(), "demo/node-1".into(), limits);
        outcomes.begin();
        instances.note("one", [scope("a/b"), scope("c")].iter());
        instances.note("two", [scope("a/b")].iter());
        let lock = Digest([1; 32]);
        outcomes.open(lock, &scope("a"), LockKind::Halt);
        let account = opened.recv().await.unwrap();

        for (agent, instance) in [("a/b", "three"), ("c", "one"), ("a", "one"), ("a/b/x", "one")] {
            assert!(
                !outcomes.confirm(confirmation(lock, agent, instance)),
                "{agent} {instance} was not stopped"
            );
        }
        assert!(!outcomes.confirm(confirmation(Digest([2; 32]), "a/b", "one")), "no such stop");
        assert!(!account.all_confirmed());
        assert!(outcomes.confirm(confirmation(lock, "a/b", "one")));
        assert!(!account.all_confirmed());
        assert!(outcomes.confirm(confirmation(lock, "a/b", "two")));

        // Another node may know of more: nothing is settled before it has told.
        assert!(news.try_recv().is_err(), "nobody is there to be told");

        let outcome = outcomes.settle(&account).await;
        assert_eq!((outcome.confirmed, outcome.bounded, outcome.calls_cut), (2, 0, 6));
        assert_eq!((outcome.bounded_after_ms, outcome.calls_bounded_after_ms), (60_000, Some(120_000)));
        assert!(account.reach().settled);
    }
    #[tokio::test]
    async fn s8_a_stop_is_settled_once_every_node_has_told_what_it_knows() {
        let instances = Arc::new(Instances::default());
        let limits = Limits { ttl_ms: 60_000, lapse_grace_ms: 60_000 };
        let (outcomes, mut opened, mut told) = Outcomes::new(instances.clone(), "demo/node-1".into(), limits);
        outcomes.begin();
        outcomes.nodes_are(vec![2, 3]);
        instances.note("one", [scope("a")].iter());
        let lock = Digest([1; 32]);
        let theirs = |instance: &str, confirmed| {
            vec![((scope("a"), instance.to_owned()), Reached { connected: true, confirmed })]
        };
        let confirmed = Confirmed { after_ms: 7, closed_us: 1, cut_us: 2, calls_cut: 1, by: StopPath::Push };
        // Node 2 has applied the stop before this one has.
        outcomes.learn(2, News { lock, opening: true, instances: theirs("two", None) });
        outcomes.open(lock, &scope("a"), LockKind::Halt);
        let account = opened.recv().await.unwrap();
        let opening = told.recv().await.unwrap();
        assert!(opening.opening && opening.instances.len() == 2, "{opening:?}");

        assert!(outcomes.confirm(confirmation(lock, "a", "one")));
        assert!(
            outcomes.confirm(confirmation(lock, "a", "two")),
            "at another node than it asked for its leases"
        );
        assert!(told.recv().await.unwrap().instances[0].1.confirmed.is_some());
        assert!(!account.all_confirmed(), "node 3 has not said what it knows");
        outcomes.learn(3, News { lock, opening: true, instances: theirs("three", None) });
        assert!(!account.all_confirmed(), "and it knows of one more");
        outcomes.learn(3, News { lock, opening: false, instances: theirs("three", Some(confirmed)) });
        let outcome = outcomes.settle(&account).await;
        assert_eq!((outcome.confirmed, outcome.bounded, outcome.calls_cut), (3, 0, 7));
    }

    #[test]
    fn news_arrive_at_other_nodes_as_they_were_told() {
        let confirmed = Confirmed { after_ms: 7, closed_us: 1, cut_us: 2, calls_cut: 1, by: StopPath::Push };
        let who = |name: &str| (scope("a"), name.to_owned());
        let instances = vec![
            (who("one"), Reached { connected: true, confirmed: None }),
            (who("two"), Reached { connected: false, confirmed: Some(confirmed) }),
        ];
        let told = vec![News { lock: Digest([1; 32]), opening: true, instances }];
        let heard: Vec<News> = crate::peers::decode(&crate::peers::encode(&told)).unwrap();
        assert_eq!(heard, told);
    }
}
