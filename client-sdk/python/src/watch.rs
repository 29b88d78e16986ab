//! The threads that tell Python code of cuts and stops.
//!
//! They are Python's own threads, started by `_watch.py`, which wait here with the GIL let go of: so an interpreter that
//! ends treats them as it does every daemon thread, and no native frame lies below the code that they call. One tells of
//! cuts, which is never kept waiting; the other calls what users have given to `on_stop`.

use std::sync::Arc;

use parking_lot::Mutex;
use pyo3::prelude::*;
use tagout::Denied;
use tokio::runtime::{Handle, Runtime};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use crate::generation::Generation;
use crate::stopped::refused;

/// One such thread's work. There is one of each kind in a process, and it stays to the end.
#[pyclass(frozen, module = "tagout._native")]
pub struct Watcher(&'static Work);

struct Work {
    born: Generation,
    handle: Handle,
    events: mpsc::UnboundedSender<Option<Event>>,
    waiting: Mutex<(Runtime, mpsc::UnboundedReceiver<Option<Event>>)>,
}

struct Event {
    callback: Arc<Py<PyAny>>,
    outcome: Outcome,
}

/// What is to be called now, and with what.
type Due = (Py<PyAny>, Vec<Py<PyAny>>);

pub enum Outcome {
    /// `callback()`
    Cut,
    /// `callback(None)`
    Enabled,
    /// `callback(TagoutStopped)`
    Denied(Denied),
}

/// For the task that watches: has its callback called.
pub struct Tell {
    callback: Arc<Py<PyAny>>,
    events: mpsc::UnboundedSender<Option<Event>>,
}

impl Tell {
    pub fn of(&self, outcome: Outcome) {
        // Nobody listens any more once the interpreter ends.
        let _ = self.events.send(Some(Event { callback: Arc::clone(&self.callback), outcome }));
    }
}

/// What is watched until this is closed.
#[pyclass(frozen, module = "tagout._native")]
pub struct Watch {
    born: Generation,
    task: AbortHandle,
}

/// The watcher of the process that asks. Locked only with the GIL held and for a moment, so that no fork finds it locked.
type Current = Mutex<Option<&'static Work>>;

static CUTS: Current = Mutex::new(None);
static CALLBACKS: Current = Mutex::new(None);

impl Watcher {
    pub fn of_cuts(py: Python<'_>) -> PyResult<Self> {
        Self::of(py, &CUTS)
    }

    pub fn of_callbacks(py: Python<'_>) -> PyResult<Self> {
        Self::of(py, &CALLBACKS)
    }

    fn of(py: Python<'_>, current: &Current) -> PyResult<Self> {
        // In a forked child the parent's is left alone: its thread is not here, and its locks may be held for ever.
        let here = current.lock().filter(|work| work.born.is_here());
        if let Some(work) = here {
            return Ok(Self(work));
        }
        let work: &'static Work = Box::leak(Box::new(Work::new()?));
        py.import("tagout._watch")?.call_method1("start", (Self(work),))?;
        *current.lock() = Some(work);
        Ok(Self(work))
    }

    /// Watches by `task`, and calls `callback` with what that tells.
    pub fn watch<T, F>(&self, callback: Py<PyAny>, task: T) -> PyResult<Watch>
    where
        T: FnOnce(Tell) -> F,
        F: Future<Output = ()> + Send + 'static,
    {
        let tell = Tell { callback: Arc::new(callback), events: self.0.events.clone() };
        let task = self.0.handle.spawn(task(tell));
        Ok(Watch { born: self.0.born, task: task.abort_handle() })
    }
}

#[pymethods]
impl Watcher {
    /// Waits for the next thing to call and gives it with its arguments; `None` at the end.
    fn next(&self, py: Python<'_>) -> PyResult<Option<Due>> {
        let event = py.detach(|| {
            let (runtime, events) = &mut *self.0.waiting.lock();
            runtime.block_on(events.recv()).flatten()
        });
        let Some(Event { callback, outcome }) = event else { return Ok(None) };
        let arguments = match outcome {
            Outcome::Cut => Vec::new(),
            Outcome::Enabled => vec![py.None()],
            Outcome::Denied(denied) => vec![refused(py, &denied).into_value(py).into_any()],
        };
        Ok(Some((callback.clone_ref(py), arguments)))
    }

    /// Ends the loop.
    fn close(&self) {
        if self.0.born.is_here() {
            let _ = self.0.events.send(None);
        }
    }
}

impl Work {
    fn new() -> PyResult<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().build()?;
        let (events, waiting) = mpsc::unbounded_channel();
        let handle = runtime.handle().clone();
        Ok(Self { born: Generation::here(), handle, events, waiting: Mutex::new((runtime, waiting)) })
    }
}

#[pymethods]
impl Watch {
    /// Its callback is not called any more.
    pub fn close(&self) {
        if self.born.is_here() {
            self.task.abort();
        }
    }
}
