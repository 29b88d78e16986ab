//! Who shares limits: each node asks every other one how many instances of limited agents it has.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tagout_proto::rule::CallLimits;
use tagout_proto::scope::Scope;
use tokio_util::sync::CancellationToken;

use super::Cluster;
use super::exchange::EXCHANGE_TIMEOUT;
use crate::clock;
use crate::peers::Kind;

/// How old a node's word of it may be at the others.
const SHARING_EVERY: Duration = Duration::from_secs(1);

impl Cluster {
    /// Asks for as long as the node runs.
    pub async fn follow_sharing(self: Arc<Self>, shutdown: CancellationToken) {
        let mut tick = tokio::time::interval(SHARING_EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while shutdown.run_until_cancelled(tick.tick()).await.is_some() {
            let peers = &self.peers;
            let asked = peers.others().into_iter().map(|id| async move {
                (id, peers.ask::<_, Vec<(Scope, u32)>>(id, Kind::Sharing, &(), EXCHANGE_TIMEOUT).await)
            });
            for (id, told) in join_all(asked).await {
                match told {
                    Ok(sharing) => self.instances.learn(id, sharing),
                    Err(error) => tracing::debug!(%error, "a peer does not say who shares limits there"),
                }
            }
        }
    }

    /// The instances here of agents with limits.
    pub(super) fn sharing(&self) -> Vec<(Scope, u32)> {
        let ledger = self.replica.ledger();
        let Some(authority) = ledger.authority() else { return Vec::new() };
        let (within, now_ms) = (Duration::from_millis(authority.limits.ttl_ms), clock::wall_ms());
        self.instances.sharing(within, |agent| ledger.terms(agent, now_ms).limits != CallLimits::default())
    }
}
