//! A call under way, in Python's hands.

use std::os::fd::{AsFd, BorrowedFd, RawFd};

use parking_lot::Mutex;
use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;
use tagout::{SocketError, Stopped};

use crate::generation::Generation;
use crate::stopped::{refused, stopped};
use crate::watch::{Outcome, Watch, Watcher};

/// A call under way: from `guard.call()` until it is closed.
#[pyclass(frozen, module = "tagout._native")]
pub struct Call {
    // Locked only with the GIL held, and with no Python code run meanwhile, so that no thread and no fork finds it locked.
    open: Mutex<Standing>,
    born: Generation,
}

enum Standing {
    Open { call: tagout::Call, watches: Vec<Watch> },
    Closed { cut: Option<Stopped> },
}

#[pymethods]
impl Call {
    /// Raises `TagoutStopped` once the call was cut.
    fn check(&self, py: Python<'_>) -> PyResult<()> {
        self.cut().map_or(Ok(()), |cut| Err(stopped(py, &cut)))
    }

    /// The `TagoutStopped` that it was cut by, once it was.
    #[getter]
    fn stopped(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.cut().map(|cut| stopped(py, &cut).into_value(py).into_any())
    }

    /// Counts tokens of the call, where people have limited them.
    fn spend(&self, py: Python<'_>, tokens: u64) -> PyResult<()> {
        let spent = match &*self.open.lock() {
            Standing::Open { call, .. } => call.spend(tokens),
            Standing::Closed { .. } => Ok(()),
        };
        spent.map_err(|denied| refused(py, &denied))
    }

    /// Has the connected socket `fd` shut by a thread of Tagout's own when a cut comes, for as long as what it gives is not
    /// closed. It keeps a duplicate. Of a call that is closed it does nothing.
    fn socket(&self, py: Python<'_>, fd: RawFd) -> PyResult<GuardedSocket> {
        let socket = borrowed(fd)?;
        let guarded = match &*self.open.lock() {
            Standing::Open { call, .. } => call.socket(&socket).map(Some),
            Standing::Closed { .. } => Ok(None),
        };
        match guarded {
            Ok(guarded) => Ok(GuardedSocket(Mutex::new(guarded))),
            Err(SocketError::Stopped(cut)) => Err(stopped(py, &cut)),
            Err(
                error @ (SocketError::NotConnected(_) | SocketError::TooMany | SocketError::Duplicate(_)),
            ) => Err(PyOSError::new_err(error.to_string())),
        }
    }

    /// Has `callback()` called once, by a thread of Tagout's own, when the call is cut; at once, if it was.
    fn on_cut(&self, py: Python<'_>, callback: Py<PyAny>) -> PyResult<()> {
        let watcher = Watcher::of_cuts(py)?;
        let mut open = self.open.lock();
        let Standing::Open { call, watches } = &mut *open else { return Ok(()) };
        let cut = call.token();
        watches.push(watcher.watch(callback, async move |tell| {
            cut.cancelled().await;
            tell.of(Outcome::Cut);
        })?);
        Ok(())
    }

    /// The call is over.
    fn close(&self) {
        let mut standing = self.open.lock();
        let Standing::Open { call, .. } = &*standing else { return };
        let cut = call.check().err();
        let was = std::mem::replace(&mut *standing, Standing::Closed { cut });
        drop(standing);
        if !self.born.is_here() {
            // It is the parent's, with locks that may be held by threads that are not here.
            std::mem::forget(was);
        } else if let Standing::Open { watches, .. } = &was {
            watches.iter().for_each(Watch::close);
        }
    }

    fn __enter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, _exception: &Bound<'_, PyAny>) {
        self.close();
    }
}

impl Call {
    pub fn new(call: tagout::Call) -> Self {
        let open = Standing::Open { call, watches: Vec::new() };
        Self { open: Mutex::new(open), born: Generation::here() }
    }

    fn cut(&self) -> Option<Stopped> {
        match &*self.open.lock() {
            Standing::Open { call, .. } => call.check().err(),
            Standing::Closed { cut } => cut.clone(),
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.close();
    }
}

/// A socket that a cut of its call shuts.
#[pyclass(frozen, module = "tagout._native")]
pub struct GuardedSocket(Mutex<Option<tagout::GuardedSocket>>);

#[pymethods]
impl GuardedSocket {
    /// A cut shuts it no longer.
    fn close(&self) {
        self.0.lock().take();
    }

    fn __enter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, _exception: &Bound<'_, PyAny>) {
        self.close();
    }
}

/// A descriptor of Python's, for as long as it is duplicated.
#[allow(unsafe_code)]
fn borrowed(fd: RawFd) -> PyResult<impl AsFd> {
    if fd < 0 {
        return Err(PyOSError::new_err("the socket is closed"));
    }
    // SAFETY: it is not -1, and is used at once, with the GIL held, for system calls that fail on one that is not open.
    Ok(unsafe { BorrowedFd::borrow_raw(fd) })
}
