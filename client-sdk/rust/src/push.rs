//! The push stream: what makes a stop fast. Step ⑥ of a stop, at its far end.
//!
//! Nothing rests on it: whatever is lost here, the next lease shows.

use std::collections::VecDeque;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt, stream};
use tagout_proto::scope::Scope;
use tagout_proto::sentence::sentence;
use tagout_proto::wire::{Renew, StopEvent};
use tokio::sync::{mpsc, watch};

use crate::limits::*;
use crate::nodes::{NodeError, Nodes};
use crate::sse::{Event, Parser, SseError};

#[derive(Clone, Debug)]
pub(crate) enum Push {
    /// The stream is (again) open, and the log has this size.
    Hello(Renew),
    Stop(StopEvent),
    Renew(Renew),
    /// Something came that cannot be read; it may have been a stop.
    Unreadable(String),
}

/// Subscribes to `scopes`, again and again, until `events` is closed.
pub(crate) async fn follow(
    nodes: Arc<Nodes>,
    mut scopes: watch::Receiver<Vec<Scope>>,
    instance: String,
    events: mpsc::Sender<Push>,
) {
    let mut attempt = 0;
    let mut failures = 0;
    loop {
        let wanted = scopes.borrow_and_update().clone();
        if wanted.is_empty() {
            if scopes.changed().await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(SUBSCRIPTION_SETTLE_MS)).await;
            continue;
        }
        let subscription = subscription(&wanted);
        let mut leavings = nodes.leavings();
        let node = nodes.at(attempt);
        let ended = tokio::select! {
            () = outgrown(&mut scopes, &subscription) => Ended::Outgrown,
            () = left(&mut leavings, node) => Ended::Left,
            ended = read(&nodes, &subscription, &instance, node, &events, &mut failures) => ended,
        };
        match ended {
            Ended::Outgrown => tokio::time::sleep(Duration::from_millis(SUBSCRIPTION_SETTLE_MS)).await,
            Ended::Nobody => return,
            Ended::Left => {
                // Leases come from another node now; so do pushes.
                attempt = 0;
                tokio::time::sleep(jitter(Duration::ZERO..=Duration::from_millis(PUSH_BACK_OFF_FIRST_MS)))
                    .await;
            }
            Ended::Lost(why) => {
                tracing::debug!(target: "tagout", %why, "push stream lost");
                attempt += 1;
                let most_ms = PUSH_BACK_OFF_MAX_MS.min(PUSH_BACK_OFF_FIRST_MS << failures.min(16));
                let wish = why.retry_after().min(Duration::from_millis(PUSH_BACK_OFF_MAX_MS));
                failures += 1;
                tokio::time::sleep(jitter(wish..=wish + Duration::from_millis(most_ms))).await;
            }
        }
    }
}

enum Ended {
    /// There are agents now that the subscription does not cover.
    Outgrown,
    /// Nobody listens any more.
    Nobody,
    /// Its node gives no leases that can be believed, or says nothing: long before its silence shows here.
    Left,
    Lost(Lost),
}

async fn outgrown(scopes: &mut watch::Receiver<Vec<Scope>>, subscription: &[Scope]) {
    let covered = |scope: &Scope| subscription.iter().any(|s| s.covers(scope));
    // The sender lives as long as the driver, which ends this task with itself.
    let _ = scopes.wait_for(|wanted| !wanted.iter().all(covered)).await;
}

async fn left(leavings: &mut watch::Receiver<Option<usize>>, node: usize) {
    loop {
        // The sender lives as long as the nodes, which `follow` holds.
        let _ = leavings.changed().await;
        if *leavings.borrow_and_update() == Some(node) {
            return;
        }
    }
}

async fn read(
    nodes: &Nodes,
    subscription: &[Scope],
    instance: &str,
    node: usize,
    events: &mpsc::Sender<Push>,
    failures: &mut u32,
) -> Ended {
    let response = match nodes.events(subscription, instance, node).await {
        Ok(response) => response,
        Err(error) => return Ended::Lost(error.into()),
    };
    let mut pushes = Box::pin(pushes(response.bytes_stream()));
    // Whoever is no node, or a broken one, may send bytes for ever: a node greets at once.
    let greeting = tokio::time::timeout(Duration::from_millis(PUSH_CONNECT_MS), pushes.next()).await;
    let Ok(mut next) = greeting else { return Ended::Lost(Lost::NotGreeted) };
    loop {
        let push = match next {
            Some(Ok(push)) => push,
            Some(Err(why)) => return Ended::Lost(why),
            None => return Ended::Lost(Lost::Closed),
        };
        *failures = 0;
        if events.send(push).await.is_err() {
            return Ended::Nobody;
        }
        next = pushes.next().await;
    }
}

/// Why a stream is none any more.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error(transparent)]
    Refused(#[from] NodeError),
    #[error("the node closed it")]
    Closed,
    #[error("it did not greet within {} s", PUSH_CONNECT_MS / 1000)]
    NotGreeted,
    #[error("nothing came for {} s", PUSH_SILENCE_MS / 1000)]
    Silent,
    #[error(transparent)]
    Sse(#[from] SseError),
    #[error(transparent)]
    Transport(#[from] reqwest::Error),
}

impl Lost {
    /// The node's own wish.
    fn retry_after(&self) -> Duration {
        match self {
            Self::Refused(error) => error.retry_after.unwrap_or_default(),
            Self::Closed | Self::NotGreeted | Self::Silent | Self::Sse(_) | Self::Transport(_) => {
                Duration::ZERO
            }
        }
    }
}

/// The events in a stream of bytes, and why it ends where it breaks off or falls silent.
fn pushes<B: AsRef<[u8]>>(
    bytes: impl Stream<Item = Result<B, reqwest::Error>>,
) -> impl Stream<Item = Result<Push, Lost>> {
    let state = (Box::pin(bytes), Parser::default(), VecDeque::new());
    stream::unfold(state, |(mut bytes, mut parser, mut ready)| async move {
        while ready.is_empty() {
            let silence = Duration::from_millis(PUSH_SILENCE_MS);
            let read = match tokio::time::timeout(silence, bytes.next()).await {
                Ok(None) => return None,
                Ok(Some(Ok(piece))) => {
                    let event = |event| ready.push_back(Ok(understood(&event)));
                    parser.read(piece.as_ref(), event).map_err(Lost::from)
                }
                Ok(Some(Err(error))) => Err(error.into()),
                Err(_elapsed) => Err(Lost::Silent),
            };
            ready.extend(read.err().map(Err));
        }
        ready.pop_front().map(|push| (push, (bytes, parser, ready)))
    })
}

fn understood(event: &Event) -> Push {
    let parsed = match event.kind.as_str() {
        "hello" => serde_json::from_str(&event.data).map(Push::Hello),
        "stop" => serde_json::from_str(&event.data).map(Push::Stop),
        "renew" => serde_json::from_str(&event.data).map(Push::Renew),
        other => {
            return Push::Unreadable(sentence(format_args!("an event of the unknown kind {other:?}")));
        }
    };
    parsed.unwrap_or_else(|error| Push::Unreadable(sentence(error)))
}

/// At most `SUBSCRIPTION_SCOPES_MAX` scopes that cover all of `scopes`: where there are more, the deepest give way to
/// their parents.
fn subscription(scopes: &[Scope]) -> Vec<Scope> {
    let mut chosen = scopes.to_vec();
    loop {
        chosen.sort_unstable();
        chosen.dedup();
        if chosen.len() <= SUBSCRIPTION_SCOPES_MAX {
            return chosen;
        }
        let depth = |scope: &Scope| scope.upward().count();
        let deepest = chosen.iter().map(depth).max().unwrap_or_default();
        for scope in chosen.iter_mut().filter(|scope| depth(scope) == deepest) {
            let parent = scope.upward().nth(1).unwrap_or_else(Scope::fleet);
            *scope = parent;
        }
    }
}

/// A random duration of these, evenly; the longest one if there is no randomness.
pub(crate) fn jitter(between: RangeInclusive<Duration>) -> Duration {
    let (shortest, longest) = between.into_inner();
    let part = getrandom::u32().map_or(1.0, |random| f64::from(random) / f64::from(u32::MAX));
    shortest + longest.saturating_sub(shortest).mul_f64(part)
}

#[cfg(test)]
mod fuzz;

#[cfg(test)]
mod tests {
    use super::*;

    fn scopes(texts: impl IntoIterator<Item = String>) -> Vec<Scope> {
        texts.into_iter().map(|text| Scope::parse(&text).unwrap()).collect()
    }

    #[test]
    fn few_scopes_are_subscribed_as_they_are() {
        let few = scopes((0..SUBSCRIPTION_SCOPES_MAX).map(|n| format!("demo/agent_{n:02}")));
        assert_eq!(subscription(&few), few);
    }

    #[test]
    fn many_scopes_become_their_common_parents_and_none_is_left_out() {
        let team = scopes((0..1000).map(|n| format!("demo/team_{}/agent_{n}", n % 3)));
        assert_eq!(subscription(&team), scopes((0..3).map(|n| format!("demo/team_{n}"))));
        let fleet = scopes((0..1000).map(|n| format!("agent_{n}")));
        assert_eq!(subscription(&fleet), [Scope::fleet()]);
        let mixed = scopes((0..100).map(|n| format!("t{n}")).chain((0..100).map(|n| format!("a/b/c{n}"))));
        let chosen = subscription(&mixed);
        assert!(chosen.len() <= SUBSCRIPTION_SCOPES_MAX);
        assert!(mixed.iter().all(|scope| chosen.iter().any(|c| c.covers(scope))));
    }
}
