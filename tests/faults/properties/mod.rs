//! The safety properties of the design, one file each, as checks of what happened in a run and of what every node holds
//! after its heal phase. Each check must be able to fail: `doctored.rs` breaks a good run once for each.

mod doctored;
mod s1;
mod s10;
mod s2;
mod s3;
mod s4;
mod s5;
mod s6;
mod s7;
mod s8;
mod s9;

use std::collections::BTreeMap;

use tagout_proto::digest::Digest;
use tagout_proto::log::entry::Entry;

use super::history::{Ending, Record};

/// A run that has ended well: all nodes are up and caught up.
#[derive(Clone)]
pub struct Run {
    pub record: Record,
    /// The nodes that are there in the end, and each one's log and locks.
    pub nodes: Vec<usize>,
    pub endings: Vec<Ending>,
    pub ttl_ms: u64,
}

impl Run {
    fn ttl_ns(&self) -> u64 {
        self.ttl_ms * 1_000_000
    }

    fn by_node(&self) -> impl Iterator<Item = (usize, &Ending)> {
        self.nodes.iter().copied().zip(&self.endings)
    }

    /// The entries of the first node, by their document's digest. S8 says that the other nodes have the same.
    fn log(&self) -> BTreeMap<Digest, Entry> {
        let entries = self.endings.first().into_iter().flat_map(Ending::decoded);
        entries.map(|entry| (entry.envelope.digest(), entry)).collect()
    }
}

type Check = fn(&Run) -> Vec<String>;

const CHECKS: [(&str, Check); 10] = [
    ("S1", s1::check),
    ("S2", s2::check),
    ("S3", s3::check),
    ("S4", s4::check),
    ("S5", s5::check),
    ("S6", s6::check),
    ("S7", s7::check),
    ("S8", s8::check),
    ("S9", s9::check),
    ("S10", s10::check),
];

/// Every violation of every property, each as a sentence after the property's name.
pub fn violations(run: &Run) -> Vec<String> {
    let found = CHECKS.iter().flat_map(|(name, check)| check(run).into_iter().map(move |what| (name, what)));
    found.map(|(name, what)| format!("{name}: {what}")).collect()
}

/// Milliseconds between two moments of a run, for people.
fn ms(from_ns: u64, to_ns: u64) -> f64 {
    (to_ns as f64 - from_ns as f64) / 1e6
}
