//! Ends a node whose disk has gone silent.
//!
//! A request that a disk never answers is not an error, and nothing would follow from it: the thread waits, nothing is
//! acknowledged, and the node seems to live. After a bound, which no working disk comes near, that is a failure.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

/// How long a disk may take for one request. A spinning disk that retries a bad sector gives up far sooner.
pub const DISK_PATIENCE: Duration = Duration::from_secs(30);
/// How many looks the patience is made of. What counts is looks, not the clock: a process that was stopped, or a machine
/// that slept, has not waited for its disk meanwhile.
const LOOKS: u32 = 30;

/// Watches one thread's requests. Dropping it ends the watch.
pub struct Watchdog {
    requests: Arc<Requests>,
    /// Its end tells the thread.
    _alive: Sender<()>,
}

#[derive(Default)]
struct Requests {
    begun: AtomicU64,
    ended: AtomicU64,
}

/// A request under way.
pub struct Busy<'a>(&'a Requests);

impl Watchdog {
    /// Calls `hung` once when a request took longer than `patience`. Outside of tests that does not return.
    pub fn start(patience: Duration, hung: impl FnOnce() + Send + 'static) -> std::io::Result<Self> {
        let requests = Arc::new(Requests::default());
        let (alive, ended) = channel::<()>();
        let watched = requests.clone();
        std::thread::Builder::new().name("disk-watchdog".into()).spawn(move || {
            let (mut seen, mut looks) = (0, 0);
            while ended.recv_timeout(patience / LOOKS) == Err(RecvTimeoutError::Timeout) {
                let begun = watched.begun.load(Ordering::Acquire);
                let busy = watched.ended.load(Ordering::Acquire) < begun;
                looks = if busy && begun == seen { looks + 1 } else { 0 };
                seen = begun;
                if looks == LOOKS {
                    return hung();
                }
            }
        })?;
        Ok(Self { requests, _alive: alive })
    }

    /// Held during one request.
    pub fn request(&self) -> Busy<'_> {
        self.requests.begun.fetch_add(1, Ordering::AcqRel);
        Busy(&self.requests)
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_millis(300);

    #[test]
    fn one_request_that_does_not_end_is_told_and_many_that_do_are_not() {
        let (hung, told) = channel();
        let watchdog = Watchdog::start(PATIENCE, move || hung.send(()).unwrap()).unwrap();
        for _ in 0..40 {
            let _busy = watchdog.request();
            std::thread::sleep(PATIENCE / 20);
        }
        std::thread::sleep(PATIENCE * 2);
        assert!(told.try_recv().is_err(), "nothing hangs");
        let _busy = watchdog.request();
        assert!(told.recv_timeout(PATIENCE * 20).is_ok());
    }

    #[test]
    fn its_end_is_no_hang() {
        let (hung, told) = channel::<()>();
        drop(Watchdog::start(PATIENCE, move || hung.send(()).unwrap()).unwrap());
        assert_eq!(told.recv(), Err(std::sync::mpsc::RecvError), "the thread ends without a word");
    }
}
