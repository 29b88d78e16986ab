//! Which process this is, of a program that forks: one more in each forked child. Asking costs a load; asking for the process
//! id is a system call.
//!
//! A fork past the C library is not noticed here, and everything of the parent's is denied there all the same: its cells
//! are wiped by the kernel.

use std::io;
use std::sync::atomic::{AtomicU32, Ordering};

#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Generation(u32);

static NOW: AtomicU32 = AtomicU32::new(0);

impl Generation {
    pub fn here() -> Self {
        Self(NOW.load(Ordering::Relaxed))
    }

    pub fn is_here(self) -> bool {
        self == Self::here()
    }
}

/// Counts the forks from here on; once for the process.
#[allow(unsafe_code)]
pub fn follow() -> io::Result<()> {
    extern "C" fn in_child() {
        NOW.fetch_add(1, Ordering::Relaxed);
    }
    // SAFETY: the handler is part of a module that Python never unloads, and does what one may do in a forked child.
    match unsafe { libc::pthread_atfork(None, None, Some(in_child)) } {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}
