//! The trust chain: every authority, suspend and restore, verified from the genesis on.

use tagout_proto::envelope::Envelope;
use tagout_proto::restore::Restore;
use tagout_proto::trust::{Learned, NotNewer, TrustError};
use tagout_proto::wire::StopPath;

use super::latch::{Came, Latched};
use super::{Floor, Trusted};
use crate::clock::Now;
use crate::limits::TRUST_DOCUMENTS_MAX;

/// Why a chain of trust is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChainRefused {
    #[error("the trust chain has {0} documents, at most {TRUST_DOCUMENTS_MAX} are taken")]
    TooMany(usize),
    /// Counted from 0.
    #[error("document {at} of the trust chain does not hold: {error}")]
    Document { at: usize, error: TrustError },
    #[error("the trust chain is no step forward: {0}")]
    NotNewer(#[from] NotNewer),
}

impl Trusted {
    /// Learns whom to believe: `documents` are every authority, suspend and restore in the log's order. Says whether any
    /// of it was news. All of them hold, or nothing is learned.
    pub fn learn(&mut self, documents: &[Envelope], now: Now) -> Result<bool, ChainRefused> {
        if documents.len() > TRUST_DOCUMENTS_MAX {
            return Err(ChainRefused::TooMany(documents.len()));
        }
        // From the beginning: what is held already may have come out of turn, by a push.
        let mut trust = self.genesis.clone();
        let mut restored = None;
        for (at, document) in documents.iter().enumerate() {
            match trust.learn(document).map_err(|error| ChainRefused::Document { at, error })? {
                Learned::Restored(_) => restored = Some(document),
                Learned::Authority | Learned::Suspended | Learned::Nothing => {}
            }
        }
        let epoch = self.trust.epoch();
        if !self.trust.overtake(trust)? {
            return Ok(false);
        }
        if let Some(document) = restored.filter(|_| self.trust.epoch() != epoch) {
            let came =
                Came { by: StopPath::Lease, received_ns: now.boot_ns, index: None, time_ms: now.wall_ms };
            self.begin_epoch(document, came);
        }
        self.judge_again();
        // A newer authority may count what an older one refused.
        self.forget_views();
        Ok(true)
    }

    /// S1: a new epoch begins with the whole fleet halted, and with a log that may be shorter.
    pub(super) fn begin_epoch(&mut self, document: &Envelope, came: Came) {
        let restore = Restore::parse(document.document.as_bytes()).expect("it was learned");
        // The restore stands at `lost_from`, and leases of its epoch come after it.
        self.log = Some(Floor { size: restore.lost_from.saturating_add(1), root: None });
        let came = Came { index: Some(restore.lost_from), ..came };
        // What was used and has ended may be lost there: the same bytes may stop again.
        self.agents.values_mut().for_each(|agent| agent.cleared.clear());
        let (id, lock) = (document.digest(), Latched::restore(restore, document, came));
        self.latch(id, &lock);
        self.restored = Some((id, lock));
    }

    /// The next lease brings every view.
    pub(super) fn forget_views(&mut self) {
        self.agents.values_mut().for_each(|agent| agent.view = None);
    }
}
