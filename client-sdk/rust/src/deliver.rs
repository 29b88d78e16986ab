//! Stops that come past the service: a program or a file brings them, and one signature makes them stops (S6).

use tagout_proto::digest::Digest;
use tagout_proto::envelope::Envelope;
use tagout_proto::scope::Scope;
use tagout_proto::sentence::sentence;
use tagout_proto::wire::StopPath;
use tokio::sync::{mpsc, oneshot};

use crate::limits::{DELIVERY_MAX_BYTES, PUSH_QUEUE_MAX};
use crate::trusted::PushRefused;

/// What a delivered document did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivered {
    /// Its SHA-256: the id of its lock.
    pub document: Digest,
    /// The agents of this client that it touches, in order; for these it holds already.
    pub agents: Vec<Scope>,
}

/// Why a delivered document stops nobody.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeliverError {
    #[error("it has {0} bytes, at most {DELIVERY_MAX_BYTES} are taken")]
    TooLarge(usize),
    #[error("it is no JSON of {{\"document\": …, \"signatures\": […]}}: {0}")]
    Unreadable(String),
    #[error(transparent)]
    Refused(#[from] PushRefused),
    #[error("this stop was used: its lock {} has ended, and the same bytes never stop twice; sign a new one", .lock.short())]
    Used { lock: Digest },
    #[error("this process is a forked child; make a client of its own in it")]
    ForkedChild,
    #[error("the client's thread has ended; start the process again, or make a new client")]
    ClientGone,
}

/// A document on its way to the driver.
pub(crate) struct Delivery {
    pub(crate) stop: Envelope,
    pub(crate) by: StopPath,
    pub(crate) answer: oneshot::Sender<Result<Delivered, DeliverError>>,
}

/// The way to the driver.
#[derive(Clone)]
pub(crate) struct Deliveries(mpsc::Sender<Delivery>);

pub(crate) fn channel() -> (Deliveries, mpsc::Receiver<Delivery>) {
    let (sender, receiver) = mpsc::channel(PUSH_QUEUE_MAX);
    (Deliveries(sender), receiver)
}

impl Deliveries {
    pub(crate) async fn bring(&self, stop: Envelope, by: StopPath) -> Result<Delivered, DeliverError> {
        let (answer, answered) = oneshot::channel();
        let delivery = Delivery { stop, by, answer };
        self.0.send(delivery).await.map_err(|_| DeliverError::ClientGone)?;
        answered.await.unwrap_or(Err(DeliverError::ClientGone))
    }
}

pub(crate) fn parse(bytes: &[u8]) -> Result<Envelope, DeliverError> {
    if bytes.len() > DELIVERY_MAX_BYTES {
        return Err(DeliverError::TooLarge(bytes.len()));
    }
    serde_json::from_slice(bytes).map_err(|error| DeliverError::Unreadable(sentence(error)))
}
