//! A log that is behind its ledger: what a snapshot from the leader skipped is fetched from other nodes.

use tagout_proto::digest::Digest;

use super::writer::Job;

/// Entries, and their bytes, that are kept while the ones before them are being fetched. Beyond that they are dropped and
/// fetched later as well.
pub(super) const TAIL_MAX: usize = 4 * 1024;
pub(super) const TAIL_BYTES_MAX: usize = 8 << 20;

/// A size that the ledger reached, and its root there: what a log of this size must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) size: u64,
    pub(super) root: Digest,
}

/// What everybody may know of a gap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Progress {
    /// Restored snapshots that the writer has not seen yet.
    pub(super) unseen: u32,
    /// Entries that are neither in the log nor on their way to it.
    pub(super) missing: u64,
}

impl Progress {
    pub(super) fn complete(&self) -> bool {
        *self == Self::default()
    }
}

/// The writer's memory of a gap: bounded, however long it lasts.
pub(super) struct Gap {
    /// As far as the ledger is.
    newest: Mark,
    round: Option<Round>,
}

struct Round {
    /// What is being fetched ends here.
    target: Mark,
    /// The entries since, as long as they are few.
    tail: Option<Vec<Job>>,
    tail_bytes: usize,
}

impl Gap {
    pub(super) fn new(newest: Mark) -> Self {
        Self { newest, round: None }
    }

    pub(super) fn newest(&self) -> Mark {
        self.newest
    }

    pub(super) fn target(&self) -> Option<Mark> {
        self.round.as_ref().map(|round| round.target)
    }

    /// Where the next entries to fetch end. A round whose tail is whole goes on, whoever gives the entries; otherwise one
    /// begins that ends where the ledger is now.
    pub(super) fn begin(&mut self) -> Mark {
        let newest = self.newest;
        let round = self.round.take().filter(|round| round.tail.is_some());
        let new = || Round { target: newest, tail: Some(Vec::new()), tail_bytes: 0 };
        self.round.insert(round.unwrap_or_else(new)).target
    }

    /// Another snapshot went beyond what was applied.
    pub(super) fn skip_to(&mut self, newest: Mark) -> Vec<Job> {
        self.newest = newest;
        self.round.as_mut().and_then(|round| round.tail.take()).unwrap_or_default()
    }

    /// Takes note of an applied entry. Gives back what is not kept.
    pub(super) fn append(&mut self, job: Job) -> Vec<Job> {
        self.newest = Mark { size: job.index + 1, root: job.root };
        let Some(Round { tail: tail @ Some(_), tail_bytes, .. }) = &mut self.round else { return vec![job] };
        let kept = tail.as_mut().expect("matched");
        *tail_bytes += job.bytes.len();
        kept.push(job);
        if kept.len() > TAIL_MAX || *tail_bytes > TAIL_BYTES_MAX {
            return tail.take().unwrap_or_default();
        }
        Vec::new()
    }

    /// The target is reached: the entries since it, or `None` if they have to be fetched, too.
    pub(super) fn end_round(&mut self) -> Option<Vec<Job>> {
        self.round.take()?.tail
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(index: u64, bytes: usize) -> Job {
        Job { index, bytes: vec![0; bytes], root: Digest([index as u8; 32]) }
    }

    fn mark(size: u64) -> Mark {
        Mark { size, root: Digest([size as u8; 32]) }
    }

    #[test]
    fn what_is_applied_during_a_gap_is_kept_only_while_it_is_little() {
        let mut gap = Gap::new(mark(100));
        assert_eq!(gap.append(job(100, 9)).len(), 1, "nothing is fetched yet, so this is fetched as well");
        assert_eq!(gap.begin(), Mark { size: 101, root: job(100, 0).root });
        for index in 101..101 + TAIL_MAX as u64 {
            assert!(gap.append(job(index, 1)).is_empty());
        }
        assert_eq!(gap.begin().size, 101, "another node goes on with the same entries");
        assert_eq!(gap.append(job(9000, 1)).len(), TAIL_MAX + 1);
        assert_eq!(gap.append(job(9001, 1)).len(), 1);
        assert!(gap.end_round().is_none());
        assert_eq!((gap.newest().size, gap.begin().size), (9002, 9002));
        assert_eq!(gap.append(job(9002, TAIL_BYTES_MAX + 1)).len(), 1);
    }

    #[test]
    fn a_short_tail_ends_the_gap() {
        let mut gap = Gap::new(mark(100));
        gap.begin();
        assert!(gap.append(job(100, 5)).is_empty() && gap.append(job(101, 5)).is_empty());
        let tail = gap.end_round().unwrap();
        assert_eq!(tail.iter().map(|job| job.index).collect::<Vec<_>>(), [100, 101]);
    }

    #[test]
    fn another_snapshot_leaves_a_gap_behind_the_tail() {
        let mut gap = Gap::new(mark(100));
        gap.begin();
        gap.append(job(100, 5));
        assert_eq!(gap.skip_to(mark(200)).len(), 1);
        assert_eq!(gap.target(), Some(mark(100)), "what is being fetched is right all the same");
        assert!(gap.end_round().is_none());
        assert_eq!(gap.begin(), mark(200));
    }
}
