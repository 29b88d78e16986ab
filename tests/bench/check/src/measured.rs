//! What one process hands to the other.

use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// The timer and the loop by themselves.
    Floor,
    Clock,
    Check,
    EssentialCheck,
    Peer,
}

/// What one side took, in nanoseconds a call: a figure for each round.
#[derive(Debug, Serialize, Deserialize)]
pub struct Measured {
    pub side: String,
    pub role: Role,
    /// What the answer says, in a few words: the sides do different things.
    pub decides: String,
    /// Alone, one call after the other.
    pub warm: Vec<f64>,
    /// The same while another thread asks the same object; a figure for each thread.
    pub warm_shared: Vec<f64>,
    /// A single call after the caches were filled with something else, with what the timer takes.
    pub cold: Vec<f64>,
    /// The same while another thread, as cold, asks the same object.
    pub cold_shared: Vec<f64>,
}
