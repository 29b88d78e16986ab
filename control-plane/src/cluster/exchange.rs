//! How the nodes are: each asks every other one twice a second, and what follows from a clock that is off.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use tagout_proto::digest::Digest;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Cluster, SEEN_FOR};
use crate::clock;
use crate::divergence::Claim;
use crate::outcomes::News;
use crate::peers::{Kind, encode};
use crate::reserve::DiskState;

/// How often nodes ask one another how they are.
const EXCHANGE_EVERY: Duration = Duration::from_millis(500);
pub(super) const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(1);
/// How far a node's clock may be from the median of the voters'.
pub(super) const CLOCK_OFF_MAX_MS: i64 = 2_000;
/// How long the news of a stop's account wait for others, to be told together.
const NEWS_GATHERED: Duration = Duration::from_millis(10);
/// How often they are told to a node that does not take them.
const NEWS_TOLD: u32 = 4;

/// What a node says of itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NodeState {
    pub time_ms: u64,
    pub log_size: u64,
    pub log_root: Digest,
    /// It can issue leases.
    pub ready: bool,
    /// Its disk has room for everything, and not only for what takes away.
    pub has_room: bool,
    /// The newest rule of verdicts that it may support.
    pub rule_known: u64,
    pub build: String,
}

/// What was last heard from a node.
#[derive(Clone, Debug)]
pub struct Seen {
    pub at: Instant,
    pub state: NodeState,
    /// Its clock minus this node's.
    pub offset_ms: i64,
}

impl Cluster {
    /// Asks the others how they are, for as long as the node runs.
    pub async fn exchange(self: Arc<Self>, shutdown: CancellationToken) {
        let mut tick = tokio::time::interval(EXCHANGE_EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while shutdown.run_until_cancelled(tick.tick()).await.is_some() {
            self.follow_authority();
            for id in self.peers.others() {
                let cluster = self.clone();
                tokio::spawn(async move { cluster.exchange_with(id).await });
            }
            if self.status().is_leader {
                self.step_aside().await;
                self.reconcile().await;
                self.raise_the_rule().await;
            }
        }
    }

    async fn exchange_with(self: &Arc<Self>, id: u64) {
        let (began, sent_ms) = (Instant::now(), clock::wall_ms());
        let asked = self.peers.ask::<_, NodeState>(id, Kind::Status, &self.state(), EXCHANGE_TIMEOUT).await;
        match asked {
            Ok(state) => {
                // Theirs was read in the middle of the way there and back, give or take half of it.
                let middle_ms = sent_ms.saturating_add(began.elapsed().as_millis() as u64 / 2);
                let offset_ms = state.time_ms.saturating_as_i64() - middle_ms.saturating_as_i64();
                self.outcomes.heard(id);
                let claim = Claim { node: id, size: state.log_size, root: state.log_root };
                self.seen.lock().insert(id, Seen { at: Instant::now(), state, offset_ms });
                self.compare(claim).await;
            }
            Err(error) => tracing::debug!(%error, "a peer does not say how it is"),
        }
    }

    pub(super) fn state(&self) -> NodeState {
        let ledger = self.replica.ledger();
        NodeState {
            time_ms: clock::wall_ms(),
            log_size: ledger.size(),
            log_root: ledger.frontier().root(),
            ready: self.recovered.load(Ordering::Relaxed) && self.may_lease().is_ok(),
            has_room: self.reserve.state() == DiskState::Enough,
            rule_known: self.rule_known,
            build: env!("CARGO_PKG_VERSION").into(),
        }
    }

    /// The median of the voters' clocks minus this node's, as far as they were heard of.
    pub(super) fn clock_off_ms(&self) -> i64 {
        let voters: Vec<u64> = self.voters();
        let seen = self.seen.lock();
        let heard = seen.iter().filter(|(id, seen)| voters.contains(id) && seen.at.elapsed() < SEEN_FOR);
        median_ms(heard.map(|(_, seen)| seen.offset_ms).collect())
    }

    /// Tells every other node what is new of stops' accounts. What still does not arrive leaves an instance bounded instead of
    /// confirmed there, which is true as well.
    pub async fn tell_news(self: Arc<Self>, mut news: tokio::sync::mpsc::UnboundedReceiver<News>) {
        const AT_ONCE: usize = 256;
        let mut batch = Vec::new();
        while let Some(first) = news.recv().await {
            // Most stops come with many others, or with confirmations: one call for all of a moment.
            tokio::time::sleep(NEWS_GATHERED).await;
            batch.push(first);
            while batch.len() < AT_ONCE
                && let Ok(more) = news.try_recv()
            {
                batch.push(more);
            }
            let request = Arc::new(encode(&batch));
            batch.clear();
            let told = self.peers.others().into_iter().map(|id| {
                let (peers, request) = (self.peers.clone(), request.clone());
                async move {
                    // A connection that broke shows only with the next call. Told twice, news are the same.
                    for _ in 0..NEWS_TOLD {
                        match peers.call(id, Kind::Accounts, request.to_vec(), EXCHANGE_TIMEOUT).await {
                            Ok(_) => return,
                            Err(error) => tracing::debug!(%error, "a peer did not take the news of stops"),
                        }
                        tokio::time::sleep(EXCHANGE_EVERY).await;
                    }
                }
            });
            // Those that are gone must not hold up the others' news.
            tokio::spawn(join_all(told));
        }
    }
}

/// The median of these and of 0, which is this node's own. Of two in the middle, the one nearer to 0: two clocks that
/// differ cannot tell which of them is wrong.
fn median_ms(mut offsets: Vec<i64>) -> i64 {
    offsets.push(0);
    offsets.sort_unstable();
    let middle = offsets.len() / 2;
    let upper = offsets[middle];
    if offsets.len() % 2 == 1 {
        return upper;
    }
    let lower = offsets[middle - 1];
    if lower.abs() < upper.abs() { lower } else { upper }
}

trait Saturating {
    fn saturating_as_i64(self) -> i64;
}

impl Saturating for u64 {
    fn saturating_as_i64(self) -> i64 {
        i64::try_from(self).unwrap_or(i64::MAX / 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_nodes_own_unless_a_majority_disagrees() {
        assert_eq!(median_ms(vec![]), 0);
        assert_eq!(median_ms(vec![9_000]), 0, "one against one");
        assert_eq!(median_ms(vec![9_000, 9_100]), 9_000);
        assert_eq!(median_ms(vec![-9_000, 9_100]), 0);
        assert_eq!(median_ms(vec![-9_000, -9_100, -1, 0]), -1);
        assert_eq!(median_ms(vec![3_000, 3_100, 3_200]), 3_000);
    }
}
