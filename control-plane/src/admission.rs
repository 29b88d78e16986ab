//! Who may make the node work: bounds on verifying and on reading, which a flood fills without keeping a stop out (S10).
//!
//! To verify a command costs up to sixteen Ed25519 operations, and anybody may send one. So only a few are verified at
//! once, what takes away in a lane of its own, and in each lane sources take turns: a valid stop waits for what is being
//! verified in its lane and for one more turn of each source that floods it, whatever the length of their queues. Whoever
//! sends more than a lane holds is told so with 503 and Retry-After, and another source is not.
//!
//! Reading a command to tell its lane costs less than the TLS that brought it. Bodies are bounded in bytes, all of them
//! together, before they are read.

use std::sync::Arc;

use crate::fair::{Crowded, Held, Lane, Share, Source, Turn};

/// Commands that may wait in a lane, and of one source. One with a single signature is verified in 0.1 ms, one with
/// sixteen in 1 ms: whoever shares an address with a flood, as behind a NAT, waits for a second at most. Others do not
/// wait for it, so there is no reason for a smaller bound.
const WAITING_MAX: usize = 4096;
const WAITING_PER_SOURCE_MAX: usize = 1024;
/// Bytes of bodies that may be under way. What a source with little under way can always have is the last quarter.
const BODY_BYTES_MAX: usize = 128 << 20;
const BODY_BYTES_KEPT: usize = BODY_BYTES_MAX / 4;
const BODY_BYTES_FEW: usize = 256 << 10;

pub struct Admission {
    tightening: Arc<Lane>,
    other: Arc<Lane>,
    bodies: Arc<Share>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Busy {
    #[error(
        "{WAITING_PER_SOURCE_MAX} commands from your address wait to be verified, or {WAITING_MAX} in all: send it again, or to another node"
    )]
    Verifying,
    #[error("the node is reading as much as it takes at once: send it again, or to another node")]
    Reading,
}

impl Busy {
    fn counted(self) -> Self {
        let what = match self {
            Self::Verifying => "verifying",
            Self::Reading => "reading",
        };
        metrics::counter!("tagout_admission_refused_total", "at" => what).increment(1);
        self
    }
}

impl Default for Admission {
    fn default() -> Self {
        let threads = std::thread::available_parallelism().map_or(2, usize::from);
        // The two lanes together leave threads for everything else where there are any.
        let lane = |slots| Lane::new(slots, WAITING_MAX, WAITING_PER_SOURCE_MAX);
        Self {
            tightening: lane(threads / 2),
            other: lane(threads / 4),
            bodies: Share::new(BODY_BYTES_MAX, BODY_BYTES_KEPT, BODY_BYTES_FEW),
        }
    }
}

impl Admission {
    /// Waits for the turn to verify a command; the turn lasts until it is dropped.
    pub async fn verify(&self, tightens: bool, source: Source) -> Result<Turn, Busy> {
        let lane = if tightens { &self.tightening } else { &self.other };
        lane.enter(source).await.map_err(|Crowded| Busy::Verifying.counted())
    }

    /// Sets memory aside for a body of at most so many bytes, until what it asks for is answered.
    pub fn read(&self, source: Source, body_bytes: usize) -> Result<Held, Busy> {
        self.bodies.take(source, body_bytes).ok_or_else(|| Busy::Reading.counted())
    }

    /// For /metrics.
    pub fn report(&self) {
        metrics::gauge!("tagout_admission_waiting", "lane" => "tightening")
            .set(self.tightening.waiting() as f64);
        metrics::gauge!("tagout_admission_waiting", "lane" => "other").set(self.other.waiting() as f64);
        metrics::gauge!("tagout_bodies_under_way_bytes").set(self.bodies.taken() as f64);
    }
}
