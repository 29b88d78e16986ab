//! Calls under way, so that a stop can cut them. Step ⑦ of a stop, second half.
//!
//! A call registers first and checks after; a stop zeroes the cell first and cuts after. Whichever comes first, the call
//! is refused or cut: none slips through between.

use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use tokio_util::sync::{CancellationToken, DropGuard, WaitForCancellationFutureOwned};

use crate::denied::Denied;
use crate::sockets::Sockets;

/// The calls of one agent.
#[derive(Default)]
pub(crate) struct Calls {
    batches: Mutex<Batches>,
    pub(crate) sockets: Sockets,
}

#[derive(Default)]
struct Batches {
    open: Arc<Batch>,
    /// Of each batch that was cut: cancelled when its last call has been dropped.
    cut: Vec<CancellationToken>,
}

/// The calls between two cuts. Each holds it, and so its references count them.
struct Batch {
    cut: CancellationToken,
    why: OnceLock<Denied>,
    /// Goes with the last of them.
    dropped: DropGuard,
}

/// One call as it is counted. Drop it after the call itself.
pub(crate) struct Registered(Arc<Batch>);

impl Default for Batch {
    fn default() -> Self {
        let dropped = CancellationToken::new().drop_guard();
        Self { cut: CancellationToken::new(), why: OnceLock::new(), dropped }
    }
}

impl Calls {
    pub(crate) fn register(&self) -> Registered {
        Registered(Arc::clone(&self.batches.lock().open))
    }

    pub(crate) fn under_way(&self) -> usize {
        self.batches.lock().open.calls()
    }

    /// Cuts every call that is registered now, and says how many that are. When it returns all sockets are shut.
    pub(crate) fn cut(&self, why: impl FnOnce() -> Denied) -> usize {
        let calls = self.cut_open(why);
        // After the calls: see `Call::socket`. Also those that outlive their call.
        self.sockets.shut();
        calls
    }

    fn cut_open(&self, why: impl FnOnce() -> Denied) -> usize {
        let (batch, calls) = {
            let mut batches = self.batches.lock();
            batches.cut.retain(|dropped| !dropped.is_cancelled());
            if batches.open.calls() == 0 {
                return 0;
            }
            let batch = std::mem::take(&mut batches.open);
            batches.cut.push(batch.dropped.token().clone());
            let calls = batch.calls();
            (batch, calls)
        };
        let _ = batch.why.set(why());
        batch.cut.cancel();
        calls
    }

    /// Resolves when every call that was cut until now has been dropped.
    pub(crate) fn all_dropped(&self) -> impl Future<Output = ()> + Send + use<> {
        let cut = self.batches.lock().cut.clone();
        async move {
            for dropped in cut {
                dropped.cancelled().await;
            }
        }
    }
}

impl Batch {
    /// One of the references is that of whoever asks.
    fn calls(self: &Arc<Self>) -> usize {
        Arc::strong_count(self) - 1
    }
}

impl Registered {
    /// Resolves when the call is cut.
    pub(crate) fn cut(&self) -> WaitForCancellationFutureOwned {
        self.0.cut.clone().cancelled_owned()
    }

    pub(crate) fn is_cut(&self) -> bool {
        self.0.cut.is_cancelled()
    }

    /// A token that the cut cancels, and that cancels nothing else.
    pub(crate) fn token(&self) -> CancellationToken {
        self.0.cut.child_token()
    }

    /// Why it was cut, once it was.
    pub(crate) fn why(&self) -> Option<Denied> {
        self.0.why.get().cloned()
    }
}
