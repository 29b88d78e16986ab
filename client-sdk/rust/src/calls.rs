//! Calls under way, so that a stop can cut them. Step ⑦ of a stop, second half.
//!
//! A call registers first and checks after; a stop zeroes the cell first and cuts after. Whichever comes first, the call
//! is refused or cut: none slips through between.

use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

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
    /// Cut, but not all dropped yet.
    cut: Vec<Arc<Batch>>,
}

/// The calls between two cuts.
#[derive(Default)]
struct Batch {
    cut: CancellationToken,
    calls: TaskTracker,
    why: OnceLock<Denied>,
}

/// One call as it is counted. Drop it after the call itself.
pub(crate) struct Registered {
    batch: Arc<Batch>,
    _counted: TaskTrackerToken,
}

impl Calls {
    pub(crate) fn register(&self) -> Registered {
        let batches = self.batches.lock();
        Registered { batch: Arc::clone(&batches.open), _counted: batches.open.calls.token() }
    }

    pub(crate) fn under_way(&self) -> usize {
        self.batches.lock().open.calls.len()
    }

    /// Cuts every call that is registered now, and says how many that are. When it returns all sockets are shut.
    pub(crate) fn cut(&self, why: impl FnOnce() -> Denied) -> usize {
        let calls = self.cut_open(why);
        // After the calls: see `Call::socket`. Also those that outlive their call.
        self.sockets.shut();
        calls
    }

    fn cut_open(&self, why: impl FnOnce() -> Denied) -> usize {
        let batch = {
            let mut batches = self.batches.lock();
            batches.cut.retain(|batch| !batch.calls.is_empty());
            if batches.open.calls.is_empty() {
                return 0;
            }
            let batch = std::mem::take(&mut batches.open);
            batches.cut.push(Arc::clone(&batch));
            batch
        };
        let _ = batch.why.set(why());
        batch.calls.close();
        let calls = batch.calls.len();
        batch.cut.cancel();
        calls
    }

    /// Resolves when every call that was cut until now has been dropped.
    pub(crate) fn all_dropped(&self) -> impl Future<Output = ()> + Send + use<> {
        let cut = self.batches.lock().cut.clone();
        async move {
            for batch in cut {
                batch.calls.wait().await;
            }
        }
    }
}

impl Registered {
    /// Resolves when the call is cut.
    pub(crate) fn cut(&self) -> WaitForCancellationFutureOwned {
        self.batch.cut.clone().cancelled_owned()
    }

    pub(crate) fn is_cut(&self) -> bool {
        self.batch.cut.is_cancelled()
    }

    /// A token that the cut cancels, and that cancels nothing else.
    pub(crate) fn token(&self) -> CancellationToken {
        self.batch.cut.child_token()
    }

    /// Why it was cut, once it was.
    pub(crate) fn why(&self) -> Option<Denied> {
        self.batch.why.get().cloned()
    }
}
