//! Confirmations: what a stop did in this process, told to the service. Step ⑧ of a stop.

use std::sync::Arc;
use std::time::Duration;

use tagout_proto::wire::Confirmation;
use tokio::sync::Semaphore;

use crate::limits::*;
use crate::nodes::Nodes;
use crate::push::jitter;

/// Sends confirmations, a few at once and each a bounded number of times.
#[derive(Clone)]
pub(crate) struct Confirmations {
    nodes: Arc<Nodes>,
    at_once: Arc<Semaphore>,
}

impl Confirmations {
    pub(crate) fn new(nodes: Arc<Nodes>) -> Self {
        Self { nodes, at_once: Arc::new(Semaphore::new(CONFIRMS_AT_ONCE_MAX)) }
    }

    pub(crate) async fn send(self, confirmation: Confirmation) {
        let Ok(_turn) = self.at_once.acquire().await else { return };
        let Confirmation { lock, agent, .. } = &confirmation;
        for attempt in 0..CONFIRM_ATTEMPTS_MAX {
            match self.nodes.confirm(&confirmation, attempt).await {
                Ok(()) => {
                    tracing::info!(target: "tagout", %agent, %lock, "stop confirmed");
                    return;
                }
                Err(error) if error.is_final => {
                    tracing::warn!(target: "tagout", %agent, %lock, %error, "confirmation refused");
                    return;
                }
                Err(error) => {
                    tracing::debug!(target: "tagout", %agent, %lock, %error, attempt, "confirmation not delivered");
                    let longest = Duration::from_millis(BACK_OFF_FIRST_MS << attempt.min(16));
                    tokio::time::sleep(jitter(Duration::ZERO..=longest)).await;
                }
            }
        }
        // The stop holds all the same. Either its account is closed, as for one older than this process, or the service
        // counts this process as bounded by its lease (S3).
        tracing::info!(target: "tagout", %agent, %lock, "confirmation given up");
    }
}
