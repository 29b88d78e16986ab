//! Push: stops to the guards that listen, at once and in the log's order. Step ⑥.
//!
//! Push only makes things fast; the guarantee is the lease (S3). Per subscriber there is a bounded queue of stops: when it
//! is full the subscriber is told to deny until it has renewed. Only loosenings coalesce.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;
use tagout_proto::scope::Scope;
use tagout_proto::wire::{Renew, StopEvent};
use tokio::sync::Notify;

/// Stops that may wait for one slow connection.
const QUEUE_MAX: usize = 64;
/// Scopes of one subscription; the SDK asks for common parents when it has more agents.
pub const SCOPES_MAX: usize = 64;
/// A stop's confirmations are spread over so much for each of them. One takes about a tenth of it, here and in the guard:
/// the pushes go first.
const CONFIRMATION_US: u64 = 1_000;
/// Renewals after something was given are spread likewise.
const RENEWAL_US: u64 = 500;
/// Open subscriptions.
pub const SUBSCRIBERS_MAX: usize = 20_000;

#[derive(Default)]
pub struct Hub {
    subscribers: Mutex<Subscribers>,
}

#[derive(Default)]
struct Subscribers {
    next: u64,
    by_id: HashMap<u64, Arc<Queue>>,
    /// Keyed by the scope's text, so that everything below a scope is one range.
    by_scope: BTreeMap<String, BTreeSet<u64>>,
}

#[derive(Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    arrived: Notify,
}

#[derive(Default)]
struct Waiting {
    stops: VecDeque<Arc<str>>,
    renew: Option<Renew>,
}

/// What a connection sends next.
#[derive(Clone, Debug)]
pub enum Event {
    /// A `StopEvent`, written once for all.
    Stop(Arc<str>),
    Renew(Renew),
}

/// One connection's subscription; dropping it ends it.
pub struct Subscription {
    hub: Arc<Hub>,
    id: u64,
    scopes: Vec<Scope>,
    queue: Arc<Queue>,
}

impl Hub {
    /// Listens for everything that touches one of `scopes`; `None` when there are too many subscribers already.
    pub fn subscribe(self: &Arc<Self>, scopes: Vec<Scope>) -> Option<Subscription> {
        let mut subscribers = self.subscribers.lock();
        if subscribers.by_id.len() >= SUBSCRIBERS_MAX {
            return None;
        }
        let id = subscribers.next;
        subscribers.next += 1;
        let queue = Arc::new(Queue::default());
        subscribers.by_id.insert(id, queue.clone());
        for scope in &scopes {
            subscribers.by_scope.entry(scope.as_str().into()).or_default().insert(id);
        }
        Some(Subscription { hub: self.clone(), id, scopes, queue })
    }

    pub fn subscribers(&self) -> usize {
        self.subscribers.lock().by_id.len()
    }

    pub fn push_stop(&self, scope: &Scope, event: &StopEvent) {
        let touched = self.touched(scope);
        let confirm_within_ms = CONFIRMATION_US * touched.len() as u64 / 1_000;
        let text = text_of(&StopEvent { confirm_within_ms, ..event.clone() });
        change(&touched, |waiting| waiting.add(&text, event));
    }

    pub fn push_renew(&self, scope: &Scope, log_size: u64, deny: bool) {
        let touched = self.touched(scope);
        let within_ms = RENEWAL_US * touched.len() as u64 / 1_000;
        change(&touched, |waiting| {
            let deny = deny || waiting.renew.is_some_and(|r| r.deny);
            waiting.renew = Some(Renew { log_size, deny, within_ms });
        });
    }

    /// Those who listen on `scope`, above it or below it.
    fn touched(&self, scope: &Scope) -> Vec<Arc<Queue>> {
        let subscribers = self.subscribers.lock();
        let ids: BTreeSet<u64> = if scope.is_fleet() {
            subscribers.by_id.keys().copied().collect()
        } else {
            let above = scope.upward().filter_map(|s| subscribers.by_scope.get(s.as_str()));
            // '0' is the character after '/'.
            let below = format!("{scope}/")..format!("{scope}0");
            above.chain(subscribers.by_scope.range(below).map(|(_, ids)| ids)).flatten().copied().collect()
        };
        ids.iter().filter_map(|id| subscribers.by_id.get(id).cloned()).collect()
    }
}

fn change(queues: &[Arc<Queue>], mut change: impl FnMut(&mut Waiting)) {
    for queue in queues {
        change(&mut queue.waiting.lock());
        queue.arrived.notify_one();
    }
}

fn text_of(event: &StopEvent) -> Arc<str> {
    serde_json::to_string(event).expect("an event is plain data").into()
}

impl Waiting {
    fn add(&mut self, text: &Arc<str>, event: &StopEvent) {
        if self.stops.len() < QUEUE_MAX {
            self.stops.push_back(text.clone());
        } else {
            self.renew =
                Some(Renew { log_size: event.index.map_or(0, |index| index + 1), deny: true, within_ms: 0 });
        }
    }
}

impl Subscription {
    /// Sends a stop to this connection only: one that is pending since before it began to listen.
    pub fn offer(&self, event: &StopEvent) {
        self.queue.waiting.lock().add(&text_of(event), event);
        self.queue.arrived.notify_one();
    }

    /// Waits for the next event: stops first and in order, then the call to renew.
    pub async fn next(&self) -> Event {
        loop {
            {
                let mut waiting = self.queue.waiting.lock();
                if let Some(stop) = waiting.stops.pop_front() {
                    return Event::Stop(stop);
                }
                if let Some(renew) = waiting.renew.take() {
                    return Event::Renew(renew);
                }
            }
            self.queue.arrived.notified().await;
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut subscribers = self.hub.subscribers.lock();
        subscribers.by_id.remove(&self.id);
        for scope in &self.scopes {
            if let Some(ids) = subscribers.by_scope.get_mut(scope.as_str()) {
                ids.remove(&self.id);
                if ids.is_empty() {
                    subscribers.by_scope.remove(scope.as_str());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use tagout_proto::envelope::Envelope;

    fn scope(text: &str) -> Scope {
        Scope::parse(text).unwrap()
    }

    fn event(index: u64) -> StopEvent {
        StopEvent {
            stop: Envelope { document: "{}".into(), signatures: vec![] },
            index: Some(index),
            time_ms: 0,
            confirm_within_ms: 0,
        }
    }

    fn drain(subscription: &Subscription) -> (usize, Option<Renew>) {
        let (mut stops, mut renew) = (0, None);
        while let Some(event) = subscription.next().now_or_never() {
            match event {
                Event::Stop(_) => stops += 1,
                Event::Renew(r) => renew = Some(r),
            }
        }
        (stops, renew)
    }

    #[test]
    fn a_stop_reaches_those_on_above_and_below_its_scope() {
        let hub = Arc::new(Hub::default());
        let names = ["*", "a", "a/b", "a/b/c", "a/bc", "ab", "a0"];
        let all: Vec<_> = names.map(|s| hub.subscribe(vec![scope(s)]).unwrap()).into();
        hub.push_stop(&scope("a/b"), &event(0));
        let reached: Vec<_> =
            names.into_iter().zip(&all).filter(|(_, s)| drain(s).0 == 1).map(|(n, _)| n).collect();
        assert_eq!(reached, ["*", "a", "a/b", "a/b/c"]);
        hub.push_stop(&Scope::fleet(), &event(1));
        assert!(all.iter().all(|s| drain(s).0 == 1));
        drop(all);
        assert!(hub.subscribers() == 0 && hub.subscribers.lock().by_scope.is_empty());
    }

    #[test]
    fn the_confirmations_and_the_renewals_of_many_are_spread() {
        let hub = Arc::new(Hub::default());
        let all: Vec<_> =
            (0..1_000).map(|n| hub.subscribe(vec![scope(&format!("a/b_{n}"))]).unwrap()).collect();
        hub.push_stop(&scope("a"), &event(0));
        let Some(Event::Stop(text)) = all[7].next().now_or_never() else { panic!("it is pushed") };
        assert_eq!(serde_json::from_str::<StopEvent>(&text).unwrap().confirm_within_ms, 1_000);
        hub.push_renew(&scope("a"), 1, false);
        let Some(Event::Renew(renew)) = all[7].next().now_or_never() else { panic!("it is pushed") };
        assert_eq!(renew.within_ms, 500);
    }

    #[test]
    fn s3_an_overflow_denies_and_loosenings_never_take_that_back() {
        let hub = Arc::new(Hub::default());
        let slow = hub.subscribe(vec![scope("a"), scope("a/b")]).unwrap();
        for index in 0..QUEUE_MAX as u64 + 3 {
            hub.push_stop(&scope("a"), &event(index));
        }
        hub.push_renew(&scope("a"), 99, false);
        assert_eq!(drain(&slow), (QUEUE_MAX, Some(Renew { log_size: 99, deny: true, within_ms: 0 })));
        hub.push_renew(&scope("a"), 100, false);
        hub.push_renew(&scope("a"), 101, false);
        assert_eq!(drain(&slow), (0, Some(Renew { log_size: 101, deny: false, within_ms: 0 })));
    }

    #[test]
    fn s10_who_connects_later_gets_the_pending_stops_and_denies_if_there_are_too_many() {
        let hub = Arc::new(Hub::default());
        let late = hub.subscribe(vec![scope("a")]).unwrap();
        late.offer(&StopEvent { index: None, ..event(0) });
        assert_eq!(drain(&late), (1, None));
        for _ in 0..QUEUE_MAX + 1 {
            late.offer(&StopEvent { index: None, ..event(0) });
        }
        assert_eq!(drain(&late), (QUEUE_MAX, Some(Renew { log_size: 0, deny: true, within_ms: 0 })));
    }
}
