//! What stands before an agent's calls: all of them, or those of one essential class.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use tagout::{Denied, EssentialGuard, Guard, Permit, Reason, Running, State};

use crate::call::Call;
use crate::client::{Client, Process};
use crate::stopped::{not_remade, refused};
use crate::watch::{Outcome, Watch, Watcher};

/// How long a wait may keep Python from looking at its signals.
const SIGNALS_EVERY: Duration = Duration::from_millis(100);

#[pyclass(frozen, subclass, module = "tagout._native")]
pub struct Gate(Here);

/// A gate in one process.
struct Here {
    process: Arc<Process>,
    native: Native,
    /// The same in a forked child, as with [`Process`].
    child: OnceLock<Result<Box<Here>, String>>,
}

struct Native {
    guard: Guard,
    essential: Option<EssentialGuard>,
}

#[pymethods]
impl Gate {
    #[new]
    #[pyo3(signature = (client, agent, essential_class=None))]
    fn new(client: &Client, agent: &str, essential_class: Option<&str>) -> PyResult<Self> {
        let here = client.0.here().and_then(|process| Here::new(process, agent, essential_class));
        here.map(Self).map_err(PyValueError::new_err)
    }

    #[getter]
    fn agent(&self) -> String {
        self.0.native.guard.agent().to_string()
    }

    /// Raises `TagoutStopped` unless a call may begin now. Ask before every call; never retry on it.
    fn check(&self, py: Python<'_>) -> PyResult<()> {
        match self.0.native.check() {
            Ok(_permit) => Ok(()),
            Err(denied) => self.0.again(py, denied, |native| native.check().map(drop)),
        }
    }

    /// As `check`, and counts one call and `tokens` where people have limited them.
    #[pyo3(signature = (tokens=0))]
    fn acquire(&self, py: Python<'_>, tokens: u64) -> PyResult<()> {
        match self.0.native.acquire(tokens) {
            Ok(_permit) => Ok(()),
            Err(denied) => self.0.again(py, denied, |native| native.acquire(tokens).map(drop)),
        }
    }

    /// Begins a call: under way until it is closed, and cut by a halt, the end of a drain or a long lapse.
    fn call(&self, py: Python<'_>) -> PyResult<Call> {
        match self.0.native.call() {
            Ok(call) => Ok(Call::new(call)),
            Err(denied) => self.0.again(py, denied, Native::call).map(Call::new),
        }
    }

    fn _ready(&self, py: Python<'_>, timeout_s: f64) -> PyResult<Py<PyDict>> {
        let native = self.0.here(py)?;
        let end = Duration::try_from_secs_f64(timeout_s).ok().and_then(|t| Instant::now().checked_add(t));
        let end = end.ok_or_else(|| PyValueError::new_err("the timeout is no number of seconds"))?;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let ready = native.guard.ready(left.min(SIGNALS_EVERY));
            match py.detach(|| wait_for(ready))? {
                Ok(state) => return state_fields(py, &state),
                // Nothing is left to wait for.
                Err(denied) if left <= SIGNALS_EVERY || is_gone(&denied.reason) => {
                    return Err(refused(py, &denied));
                }
                Err(_) => py.check_signals()?,
            }
        }
    }

    fn _state(&self, py: Python<'_>) -> PyResult<Py<PyDict>> {
        state_fields(py, &self.0.here(py)?.guard.state())
    }

    fn _trip(&self, py: Python<'_>, reason: &str) -> PyResult<String> {
        let trip = self.0.here(py)?.guard.trip(reason);
        let lock = py.detach(|| wait_for(trip))?;
        lock.map(|lock| lock.to_string()).map_err(|error| PyRuntimeError::new_err(error.to_string()))
    }

    /// Has `callback(TagoutStopped)` called whenever people have stopped the agent, or have not consented to it; at once,
    /// if that is so already.
    fn _when_stopped(&self, py: Python<'_>, callback: Py<PyAny>) -> PyResult<Watch> {
        let guard = self.0.here(py)?.guard.clone();
        Watcher::of_callbacks(py)?.watch(callback, async move |tell| {
            let mut changes = guard.changes();
            let mut told = None;
            loop {
                match guard.state().denied {
                    // It may hide a stop, which is not told of again when it ends.
                    Some(reason) if reason.is_lapse() => {}
                    Some(reason) => {
                        if told.as_ref().is_none_or(|told| !is_same_stop(told, &reason)) {
                            let (agent, reason) = (guard.agent().clone(), reason.clone());
                            tell.of(Outcome::Denied(Denied { agent, reason }));
                        }
                        told = Some(reason);
                    }
                    None => told = None,
                }
                if changes.next().await.is_none() {
                    return;
                }
            }
        })
    }

    /// Has `callback(None)` called once calls may begin, or `callback(TagoutStopped)` where nothing leads to that.
    fn _when_enabled(&self, py: Python<'_>, callback: Py<PyAny>) -> PyResult<Watch> {
        let guard = self.0.here(py)?.guard.clone();
        Watcher::of_cuts(py)?.watch(callback, async move |tell| {
            tell.of(guard.wait_enabled().await.map_or_else(Outcome::Denied, |_permit| Outcome::Enabled));
        })
    }
}

impl Gate {
    /// Begins a call that nobody in Python holds, and nothing cuts.
    #[inline]
    pub fn running(&self, py: Python<'_>) -> PyResult<Running<'_>> {
        match self.0.native.running() {
            Ok(running) => Ok(running),
            Err(denied) => self.0.again(py, denied, Native::running),
        }
    }
}

impl Here {
    fn new(process: &Arc<Process>, agent: &str, essential_class: Option<&str>) -> Result<Self, String> {
        let guard = process.native.guard(agent).map_err(|error| error.to_string())?;
        let essential = essential_class.map(|class| guard.essential(class)).transpose();
        let native = Native { guard, essential: essential.map_err(|error| error.to_string())? };
        Ok(Self { process: Arc::clone(process), native, child: OnceLock::new() })
    }

    /// The gate of the process that asks.
    fn here(&self, py: Python<'_>) -> PyResult<&Native> {
        self.find().map_err(|why| not_remade(py, self.native.guard.agent(), &why))
    }

    fn find(&self) -> Result<&Native, String> {
        if self.process.born.is_here() {
            return Ok(&self.native);
        }
        let Native { guard, essential } = &self.native;
        let class = essential.as_ref().map(EssentialGuard::class);
        let made = || Here::new(self.process.here()?, &guard.agent().to_string(), class).map(Box::new);
        self.child.get_or_init(made).as_ref().map_err(String::clone)?.find()
    }

    /// Refused. If that was because this process is a forked child, its own gate decides: no process pays for a look at its
    /// id while it is permitted.
    #[cold]
    fn again<'a, T>(
        &'a self,
        py: Python<'_>,
        denied: Denied,
        ask: impl FnOnce(&'a Native) -> Result<T, Denied>,
    ) -> PyResult<T> {
        if denied.reason != Reason::ForkedChild {
            return Err(refused(py, &denied));
        }
        ask(self.here(py)?).map_err(|denied| refused(py, &denied))
    }
}

impl Native {
    #[inline]
    fn check(&self) -> Result<Permit, Denied> {
        match &self.essential {
            None => self.guard.check(),
            Some(essential) => essential.check(),
        }
    }

    fn acquire(&self, tokens: u64) -> Result<Permit, Denied> {
        match &self.essential {
            None => self.guard.acquire(tokens),
            Some(essential) => essential.acquire(tokens),
        }
    }

    #[inline]
    fn running(&self) -> Result<Running<'_>, Denied> {
        match &self.essential {
            None => self.guard.running(),
            Some(essential) => essential.running(),
        }
    }

    fn call(&self) -> Result<tagout::Call, Denied> {
        match &self.essential {
            None => self.guard.call(),
            Some(essential) => essential.call(),
        }
    }
}

/// Waits on this thread, which has let go of the GIL.
fn wait_for<F: Future>(future: F) -> PyResult<F::Output> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    Ok(runtime.block_on(future))
}

/// A lock stays the same stop when it is released and waits for its start.
fn is_same_stop(one: &Reason, other: &Reason) -> bool {
    match (one, other) {
        (Reason::Stopped(one), Reason::Stopped(other)) => one.id == other.id,
        _ => one == other,
    }
}

fn is_gone(reason: &Reason) -> bool {
    matches!(reason, Reason::ForkedChild | Reason::ClientGone { .. })
}

fn state_fields(py: Python<'_>, state: &State) -> PyResult<Py<PyDict>> {
    let fields = PyDict::new(py);
    let stopped = state.denied.as_ref().map(|reason| {
        let denied = Denied { agent: state.agent.clone(), reason: reason.clone() };
        refused(py, &denied)
    });
    fields.set_item("agent", state.agent.to_string())?;
    fields.set_item("stopped", stopped)?;
    fields.set_item("left", state.left.as_secs_f64())?;
    fields.set_item("lease_left", state.lease_left.as_secs_f64())?;
    fields.set_item("log_size", state.log_size)?;
    fields.set_item("essential", &state.essential)?;
    fields.set_item("calls_per_minute", state.limits.calls_per_minute)?;
    fields.set_item("tokens_per_minute", state.limits.tokens_per_minute)?;
    fields.set_item("share_of_calls", state.share.calls_per_minute)?;
    fields.set_item("share_of_tokens", state.share.tokens_per_minute)?;
    fields.set_item("isolated", state.isolated)?;
    fields.set_item("calls_under_way", state.calls_under_way)?;
    Ok(fields.unbind())
}
