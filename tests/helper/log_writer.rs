//! The Raft log on a disk that fails: what it holds afterwards must be the state after the last acknowledged commit, or
//! after the one that was under way.

use std::path::Path;

use tagout_control_plane::store::{self, Loaded, Op, Purged, StoreKind};
use tagout_tests::random::Random;

use crate::cuts::{Target, disk_failed};

pub struct RaftLog {
    kind: StoreKind,
    /// What the last check found: where the next round starts.
    found: Loaded,
}

impl RaftLog {
    pub fn new(kind: StoreKind) -> Self {
        Self { kind, found: Loaded::default() }
    }
}

impl Target for RaftLog {
    fn write(&self, folder: &Path, seed: u64, round: u64) {
        let disk = store::open(self.kind, folder).unwrap_or_else(|e| panic!("{:#}", Report(&e)));
        let mut script = Script::new(seed, round, disk.load().expect("an open log can be read"));
        for n in 0.. {
            disk.commit(&script.next()).unwrap_or_else(disk_failed);
            println!("acknowledged {n}");
        }
    }

    fn check(
        &mut self,
        folder: &Path,
        seed: u64,
        round: u64,
        acknowledged: Option<u64>,
    ) -> Result<String, String> {
        let disk =
            store::open(self.kind, folder).map_err(|e| format!("it does not open: {:#}", Report(&e)))?;
        let found = disk.load().map_err(|e| format!("it does not load: {e}"))?;
        let mut script = Script::new(seed, round, std::mem::take(&mut self.found));
        let commits = acknowledged.map_or(0, |last| last + 1);
        for _ in 0..commits {
            script.next();
        }
        let expected = script.state.clone();
        let also = if found == expected {
            "nothing beyond"
        } else {
            script.next();
            if found != script.state {
                return Err(format!(
                    "expected {}, or one commit more, {}; found {}",
                    Shown(&expected),
                    Shown(&script.state),
                    Shown(&found)
                ));
            }
            "also the commit under way"
        };
        // And it can be written to.
        let mut next = Script::new(seed, u64::MAX, found.clone());
        disk.commit(&next.next()).map_err(|e| format!("it takes nothing more: {e}"))?;
        drop(disk);
        let shown = format!("found {}, {also}", Shown(&found));
        self.found = found;
        Ok(shown)
    }
}

/// The same commits from the same state, for whoever writes them and for whoever checks them.
struct Script {
    random: Random,
    state: Loaded,
}

impl Script {
    fn new(seed: u64, round: u64, state: Loaded) -> Self {
        Self { random: Random::new(seed, round), state }
    }

    fn next(&mut self) -> Vec<Op> {
        let mut ops = Vec::new();
        if self.state.identity.is_none() {
            ops.push(Op::SaveIdentity(b"node 1".to_vec()));
        }
        let last = self.state.entries.keys().next_back().copied();
        let mut next = last.map_or(self.state.first_index(), |last| last + 1);
        match self.random.below(20) {
            0 => ops.push(Op::SaveVote(self.random.bytes(24))),
            1 if self.state.entries.len() > 8 => {
                next -= 1 + self.random.below(8);
                ops.push(Op::TruncateAfter(next.checked_sub(1)));
            }
            2 if self.state.entries.len() > 100 => {
                let index = self.state.first_index() + self.random.below(90);
                ops.push(Op::Purge(Purged { index, id: self.random.bytes(16) }));
            }
            _ => {}
        }
        let many = self.random.magnitude(6);
        for index in next..next + many {
            let bytes = match self.random.below(100) {
                0 => self.random.below(64 << 10),
                1..=10 => self.random.below(5000),
                _ => 50 + self.random.below(400),
            };
            ops.push(Op::Append { index, entry: self.random.bytes(bytes) });
        }
        if self.random.below(2) == 0 {
            ops.push(Op::SaveCommitted(Some(self.random.bytes(16))));
        }
        ops.iter().for_each(|op| self.apply(op));
        ops
    }

    fn apply(&mut self, op: &Op) {
        let state = &mut self.state;
        match op {
            Op::SaveIdentity(bytes) => state.identity = Some(bytes.clone()),
            Op::SaveVote(bytes) => state.vote = Some(bytes.clone()),
            Op::SaveCommitted(bytes) => state.committed = bytes.clone(),
            Op::Append { index, entry } => {
                state.entries.insert(*index, entry.clone());
            }
            Op::TruncateAfter(keep) => {
                state.entries.retain(|index, _| keep.is_some_and(|keep| *index <= keep))
            }
            Op::Purge(purged) => {
                state.entries.retain(|index, _| *index > purged.index);
                state.purged = Some(purged.clone());
            }
        }
    }
}

struct Shown<'a>(&'a Loaded);

impl std::fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (first, last) = (self.0.entries.keys().next(), self.0.entries.keys().next_back());
        match (first, last) {
            (Some(first), Some(last)) => write!(f, "entries {first} to {last}"),
            _ => write!(f, "no entries"),
        }
    }
}

/// An error with its causes.
struct Report<'a>(&'a dyn std::error::Error);

impl std::fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}
