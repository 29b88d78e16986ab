//! The sockets of calls under way: a cut shuts them, so that code which blocks on one comes back although nobody polls it.
//!
//! Each is a duplicate of the caller's descriptor and only that is closed here; shutting it shuts the connection, which
//! both name. They are closed by whoever registered them: a close may linger, and the client's thread must not.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use parking_lot::Mutex;
use rustix::net::{Shutdown, getpeername, shutdown};

use crate::denied::Stopped;
use crate::guard::Guard;
use crate::limits::SOCKETS_PER_AGENT_MAX;

/// The registered sockets of one agent, by the number of the duplicate.
#[derive(Default)]
pub(crate) struct Sockets(Mutex<BTreeMap<RawFd, OwnedFd>>);

/// A socket that a cut shuts, for as long as this lives. The connection stays open as long, too, though its owner closes it.
#[must_use = "dropped, it takes the socket out of what a cut shuts"]
pub struct GuardedSocket {
    guard: Guard,
    number: RawFd,
}

/// Why a socket is not under the guard.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// It was shut.
    #[error(transparent)]
    Stopped(#[from] Stopped),
    #[error("it is no connected socket: register it once it is connected")]
    NotConnected(#[source] io::Error),
    #[error(
        "the calls of this agent have registered {SOCKETS_PER_AGENT_MAX} sockets already; drop those that are done"
    )]
    TooMany,
    #[error("its descriptor cannot be duplicated")]
    Duplicate(#[source] io::Error),
}

impl Sockets {
    fn hold(&self, socket: OwnedFd) -> Result<RawFd, SocketError> {
        let mut sockets = self.0.lock();
        if sockets.len() >= SOCKETS_PER_AGENT_MAX {
            return Err(SocketError::TooMany);
        }
        let number = socket.as_raw_fd();
        sockets.insert(number, socket);
        Ok(number)
    }

    fn release(&self, number: RawFd) {
        let socket = self.0.lock().remove(&number);
        drop(socket); // with the lock open again
    }

    /// Shuts all of them. It waits for nothing.
    pub(crate) fn shut(&self) {
        self.0.lock().values().for_each(shut);
    }

    fn shut_one(&self, number: RawFd) {
        self.0.lock().get(&number).into_iter().for_each(shut);
    }
}

fn shut(socket: &OwnedFd) {
    // One whose peer is gone is not connected any more.
    if let Err(error) = shutdown(socket, Shutdown::Both) {
        tracing::debug!(target: "tagout", %error, "a socket is shut already");
    }
}

impl GuardedSocket {
    pub(crate) fn register(guard: &Guard, socket: &impl AsFd) -> Result<Self, SocketError> {
        let socket = socket.as_fd();
        // A shutdown says nothing to a socket that connects later.
        getpeername(socket).map_err(|error| SocketError::NotConnected(error.into()))?;
        let duplicate = socket.try_clone_to_owned().map_err(SocketError::Duplicate)?;
        let number = guard.calls().sockets.hold(duplicate)?;
        Ok(Self { guard: guard.clone(), number })
    }

    pub(crate) fn shut(&self) {
        self.guard.calls().sockets.shut_one(self.number);
    }
}

impl Drop for GuardedSocket {
    fn drop(&mut self) {
        // In a forked child the lock may be held by a thread that is not there; the duplicate ends with the process.
        if !self.guard.forked() {
            self.guard.calls().sockets.release(self.number);
        }
    }
}

impl std::fmt::Debug for GuardedSocket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("GuardedSocket").field(self.guard.agent()).finish()
    }
}
