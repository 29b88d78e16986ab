//! Bounds that nobody can use up alone: each of them is shared out by where requests come from (S10).
//!
//! Many guards may stand behind one address (a cluster's NAT, a proxy), so no address has a small bound of its own. What
//! it cannot do is keep the others out: in a [`Lane`] addresses take turns, and of a [`Share`] the last part is kept for
//! those that hold little.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// Whom a bound takes for one: an IPv4 address, or the /64 network that a single IPv6 host can usually fill.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Source(IpAddr);

impl Source {
    /// The node itself.
    pub const OWN: Self = Self(IpAddr::V6(Ipv6Addr::UNSPECIFIED));
}

impl From<IpAddr> for Source {
    fn from(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V4(address) => IpAddr::V4(address),
            IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64))),
        })
    }
}

/// So many at once; the others wait, and sources take turns. One source's crowd costs another's next one a single turn.
pub struct Lane {
    waiting_max: usize,
    waiting_per_source_max: usize,
    state: Mutex<Queues>,
}

#[derive(Default)]
struct Queues {
    /// Nobody waits while a slot is free.
    free: usize,
    waiting: usize,
    by_source: HashMap<Source, VecDeque<oneshot::Sender<Turn>>>,
    /// Every source that waits, once.
    order: VecDeque<Source>,
}

/// A slot of a lane; dropping it lets the next one in.
pub struct Turn(Option<Arc<Lane>>);

/// Too many wait already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crowded;

impl Lane {
    pub fn new(slots: usize, waiting_max: usize, waiting_per_source_max: usize) -> Arc<Self> {
        let state = Mutex::new(Queues { free: slots.max(1), ..Queues::default() });
        Arc::new(Self { waiting_max, waiting_per_source_max, state })
    }

    /// Waits for a turn. Whoever gives up (drops the future) gives the turn on.
    pub async fn enter(self: &Arc<Self>, source: Source) -> Result<Turn, Crowded> {
        let turn = {
            let mut queues = self.state.lock();
            if queues.free > 0 {
                queues.free -= 1;
                return Ok(Turn(Some(self.clone())));
            }
            if queues.by_source.get(&source).is_some_and(|queue| queue.len() >= self.waiting_per_source_max) {
                return Err(Crowded);
            }
            if queues.waiting >= self.waiting_max && !queues.displace_one_for(source) {
                return Err(Crowded);
            }
            queues.push(source)
        };
        // The sender is dropped only for somebody from a source that waits less.
        turn.await.map_err(|_| Crowded)
    }

    pub fn waiting(&self) -> usize {
        self.state.lock().waiting
    }
}

impl Queues {
    fn push(&mut self, source: Source) -> oneshot::Receiver<Turn> {
        let (turn, receiver) = oneshot::channel();
        let queue = self.by_source.entry(source).or_default();
        if queue.is_empty() {
            self.order.push_back(source);
        }
        queue.push_back(turn);
        self.waiting += 1;
        receiver
    }

    fn pop(&mut self) -> Option<oneshot::Sender<Turn>> {
        let source = self.order.pop_front()?;
        let queue = self.by_source.get_mut(&source)?;
        let turn = queue.pop_front();
        if queue.is_empty() {
            self.by_source.remove(&source);
        } else {
            self.order.push_back(source);
        }
        self.waiting -= 1;
        turn
    }

    /// Turns away the last of whoever waits with the most, if `source` would still wait with fewer.
    fn displace_one_for(&mut self, source: Source) -> bool {
        let own = self.by_source.get(&source).map_or(0, VecDeque::len);
        let most = self.by_source.values_mut().max_by_key(|queue| queue.len());
        let Some(most) = most.filter(|queue| queue.len() > own + 1) else { return false };
        most.pop_back();
        self.waiting -= 1;
        true
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Some(lane) = self.0.take() else { return };
        let mut queues = lane.state.lock();
        while let Some(next) = queues.pop() {
            match next.send(Turn(Some(lane.clone()))) {
                Ok(()) => return,
                // Nobody waits there any more; and this turn must not pass itself on while the lane is locked.
                Err(mut turn) => drop(turn.0.take()),
            }
        }
        queues.free += 1;
    }
}

/// So much in all; the last `kept` of it only for sources that hold at most `few`.
pub struct Share {
    total: usize,
    kept: usize,
    few: usize,
    state: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    all: usize,
    by_source: HashMap<Source, usize>,
}

/// A part of a share; dropping it gives it back.
pub struct Held {
    share: Arc<Share>,
    source: Source,
    units: usize,
}

impl Share {
    pub fn new(total: usize, kept: usize, few: usize) -> Arc<Self> {
        Arc::new(Self { total, kept, few, state: Mutex::default() })
    }

    pub fn take(self: &Arc<Self>, source: Source, units: usize) -> Option<Held> {
        let mut taken = self.state.lock();
        let held = taken.by_source.get(&source).copied().unwrap_or(0) + units;
        let most = if held <= self.few { self.total } else { self.total - self.kept };
        if taken.all + units > most {
            return None;
        }
        taken.all += units;
        taken.by_source.insert(source, held);
        Some(Held { share: self.clone(), source, units })
    }

    pub fn taken(&self) -> usize {
        self.state.lock().all
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut taken = self.share.state.lock();
        taken.all -= self.units;
        if let Some(held) = taken.by_source.get_mut(&self.source) {
            *held -= self.units;
            if *held == 0 {
                taken.by_source.remove(&self.source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn source(n: u8) -> Source {
        IpAddr::from([10, 0, 0, n]).into()
    }

    /// One source's crowd, then one of another source: it has the very next turn but one.
    #[tokio::test]
    async fn s10_a_crowd_from_one_source_costs_another_one_turn() {
        let lane = Lane::new(1, 100, 100);
        let first = lane.enter(source(1)).await.unwrap();
        let mut crowd: Vec<_> = (0..50).map(|_| Box::pin(lane.enter(source(1)))).collect();
        assert!(crowd.iter_mut().all(|waiting| waiting.as_mut().now_or_never().is_none()));
        let mut other = Box::pin(lane.enter(source(2)));
        assert!(other.as_mut().now_or_never().is_none());
        drop(first);
        let turn = crowd[0].as_mut().now_or_never().expect("it came first").unwrap();
        assert!(other.as_mut().now_or_never().is_none() && lane.waiting() == 50);
        drop(turn);
        let turn = other.as_mut().now_or_never().expect("then it is the other's turn").unwrap();
        drop(turn);
        // Whoever gave up is passed over, and the slot is not lost.
        crowd.truncate(1);
        drop(crowd);
        let again = lane.enter(source(3)).now_or_never();
        assert!(again.is_some_and(|turn| turn.is_ok()) && lane.waiting() == 0);
    }

    #[tokio::test]
    async fn s10_a_full_lane_makes_room_for_whoever_waits_least() {
        let lane = Lane::new(1, 4, 3);
        let _first = lane.enter(source(1)).await.unwrap();
        let mut crowd: Vec<_> = (0..3).map(|_| Box::pin(lane.enter(source(1)))).collect();
        assert!(crowd.iter_mut().all(|waiting| waiting.as_mut().now_or_never().is_none()));
        assert!(lane.enter(source(1)).await.is_err(), "its own bound");
        let mut second = Box::pin(lane.enter(source(2)));
        assert!(second.as_mut().now_or_never().is_none());
        let mut third = Box::pin(lane.enter(source(3)));
        assert!(third.as_mut().now_or_never().is_none(), "it waits");
        assert!(crowd[2].as_mut().await.is_err(), "in the place of the crowd's last");
        let mut fourth = Box::pin(lane.enter(source(4)));
        assert!(fourth.as_mut().now_or_never().is_none());
        assert!(lane.enter(source(5)).await.is_err(), "everybody waits with one");
    }

    #[test]
    fn s10_the_last_part_of_a_share_is_for_those_that_hold_little() {
        let share = Share::new(10, 3, 1);
        let crowd: Vec<_> = (0..20).filter_map(|_| share.take(source(1), 1)).collect();
        assert_eq!(crowd.len(), 7);
        let others: Vec<_> = (2..9).filter_map(|n| share.take(source(n), 1)).collect();
        assert_eq!((others.len(), share.taken()), (3, 10));
        drop(others);
        assert!(share.take(source(2), 2).is_none(), "two are more than few");
        drop(crowd);
        assert!(share.take(source(2), 7).is_some() && share.taken() == 0);
        assert!(share.state.lock().by_source.is_empty());
    }

    #[test]
    fn a_host_is_one_source_however_it_writes_its_address() {
        let of = |text: &str| Source::from(text.parse::<IpAddr>().unwrap());
        assert_eq!(of("192.0.2.1"), of("::ffff:192.0.2.1"));
        assert_eq!(of("2001:db8:1:2::1"), of("2001:db8:1:2:ffff::9"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
    }
}
