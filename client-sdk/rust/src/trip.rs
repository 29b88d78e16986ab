//! Trips: the program stops its own agent. It holds here first, and then the service is told.

use std::sync::Arc;
use std::time::Duration;

use tagout_proto::command::Deployment;
use tagout_proto::digest::Digest;
use tagout_proto::envelope::Envelope;
use tagout_proto::limits::REASON_MAX_BYTES;
use tagout_proto::lock::Trip;
use tagout_proto::scope::Scope;
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::clock::Now;
use crate::limits::*;
use crate::nodes::Nodes;
use crate::push::jitter;

/// Why nobody is told of a trip. Everything is denied here all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TripError {
    #[error("this process is a forked child: its guards deny everything, and the service is not told")]
    ForkedChild,
    #[error("the client's thread has ended: its guards deny everything, and the service is not told")]
    ClientGone,
}

/// A trip on its way to the driver.
pub(crate) struct Tripping {
    pub(crate) scope: Scope,
    pub(crate) reason: String,
    pub(crate) answer: oneshot::Sender<Digest>,
}

/// The way to the driver.
pub(crate) struct Trips(mpsc::Sender<Tripping>);

pub(crate) fn channel() -> (Trips, mpsc::Receiver<Tripping>) {
    let (sender, receiver) = mpsc::channel(PUSH_QUEUE_MAX);
    (Trips(sender), receiver)
}

impl Trips {
    pub(crate) async fn bring(&self, scope: Scope, reason: String) -> Result<Digest, TripError> {
        let (answer, answered) = oneshot::channel();
        let tripping = Tripping { scope, reason, answer };
        self.0.send(tripping).await.map_err(|_| TripError::ClientGone)?;
        answered.await.map_err(|_| TripError::ClientGone)
    }
}

/// What a trip says, and its nonce. It is never refused for what the program gave as its reason, nor for a long name.
pub(crate) fn make(
    deployment: Deployment,
    scope: Scope,
    instance: &str,
    reason: &str,
    now: Now,
) -> (Trip, Digest) {
    let mut nonce = Digest::default();
    if getrandom::fill(&mut nonce.0).is_err() {
        // It only has to be another one than every other trip's.
        nonce = Digest::of(format!("{scope} {instance} {} {}", now.boot_ns, now.wall_ms).as_bytes());
    }
    // What tells default names apart stands at their end.
    let instance = &instance[instance.len().saturating_sub(Trip::INSTANCE_MAX_BYTES)..];
    let (instance, reason) = (instance.to_owned(), fitting(reason));
    (Trip { deployment, scope, issued_at_ms: now.wall_ms, instance, reason }, nonce)
}

fn fitting(reason: &str) -> String {
    let mut fitting = reason.replace(char::is_control, " ").trim().to_owned();
    while fitting.len() > REASON_MAX_BYTES {
        fitting.pop();
    }
    if fitting.is_empty() { "no reason was given".into() } else { fitting }
}

/// What became of telling the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    Taken,
    /// For good: nobody will ever hear of it from this process.
    Refused,
    /// No node took it now.
    Later,
}

/// Hands trips to the nodes, a few at once and each a bounded number of times; the next lease tells whether it is to be
/// done again.
#[derive(Clone)]
pub(crate) struct Telling {
    nodes: Arc<Nodes>,
    at_once: Arc<Semaphore>,
}

impl Telling {
    pub(crate) fn new(nodes: Arc<Nodes>) -> Self {
        Self { nodes, at_once: Arc::new(Semaphore::new(TRIPS_AT_ONCE_MAX)) }
    }

    pub(crate) async fn tell(self, trip: Envelope) -> Told {
        // The semaphore is never closed.
        let _turn = self.at_once.acquire().await;
        let lock = trip.digest();
        for attempt in 0..TRIP_ATTEMPTS_MAX {
            match self.nodes.trip(&trip.document, attempt).await {
                Ok(()) => {
                    tracing::info!(target: "tagout", %lock, "the service has the trip");
                    return Told::Taken;
                }
                Err(error) if error.is_final => {
                    tracing::error!(
                        target: "tagout", %lock, %error,
                        "trip refused: it holds in this process alone, and only its end lifts it"
                    );
                    return Told::Refused;
                }
                Err(error) => {
                    tracing::warn!(target: "tagout", %lock, %error, attempt, "trip not delivered");
                    let longest = Duration::from_millis(BACK_OFF_FIRST_MS << attempt.min(16));
                    tokio::time::sleep(jitter(Duration::ZERO..=longest)).await;
                }
            }
        }
        Told::Later
    }
}

#[cfg(test)]
mod tests {
    use tagout_proto::lock::parse_placing;

    use super::*;

    #[test]
    fn whatever_the_reason_and_the_name_it_is_a_trip() {
        let deployment = Deployment { name: "demo".into(), genesis: Digest::default() };
        let scope = Scope::parse(&["x".repeat(64).as_str(); 8].join("/")).unwrap();
        let now = Now { boot_ns: 1, wall_ms: 1_795_359_600_000 };
        let (long, quotes) = ("ä".repeat(1_000), "\"".repeat(5_000));
        for (reason, says) in [
            ("loop", "loop"),
            (" a\nb\u{7f}c\t", "a b c"),
            ("", "no reason was given"),
            ("\0", "no reason was given"),
            (&long, &long[..REASON_MAX_BYTES]),
            (&quotes, &quotes[..REASON_MAX_BYTES]),
        ] {
            let instance = format!("{}-4711", "h".repeat(INSTANCE_MAX_BYTES - 5));
            let (trip, nonce) = make(deployment.clone(), scope.clone(), &instance, reason, now);
            let document = trip.to_document(&nonce);
            assert_eq!(parse_placing(document.as_bytes()).map(|placed| placed.scope), Ok(scope.clone()));
            let read = Trip::parse(document.as_bytes()).unwrap();
            assert_eq!((read.reason.as_str(), read.instance.ends_with("-4711")), (says, true));
            let (_, other) = make(deployment.clone(), scope.clone(), &instance, reason, now);
            assert_ne!(nonce, other);
        }
    }
}
