//! Refusals and cuts, raised as `tagout.TagoutStopped`. The class is Python's own: it is pickled, subclassed and read there.

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyType};
use tagout::{Denied, Reason, Stopped};

/// A refusal of a call that has not begun.
#[cold]
pub fn refused(py: Python<'_>, denied: &Denied) -> PyErr {
    error(py, denied, denied.to_string(), false)
}

/// A refusal in a forked child, which could not make a client of its own.
#[cold]
pub fn not_remade(py: Python<'_>, agent: &tagout::proto::scope::Scope, why: &str) -> PyErr {
    let denied = Denied { agent: agent.clone(), reason: Reason::ForkedChild };
    let text = format!("{denied}; it could not be made by itself: {why}");
    error(py, &denied, text, false)
}

/// A refusal, or a cut of a call under way.
#[cold]
pub fn stopped(py: Python<'_>, stopped: &Stopped) -> PyErr {
    let cut = matches!(stopped, Stopped::Cut(_));
    error(py, stopped.denied(), stopped.to_string(), cut)
}

fn error(py: Python<'_>, denied: &Denied, text: String, cut: bool) -> PyErr {
    object(py, denied, text, cut).map_or_else(|failed| failed, |stopped| PyErr::from_value(stopped))
}

fn object<'py>(py: Python<'py>, denied: &Denied, text: String, cut: bool) -> PyResult<Bound<'py, PyAny>> {
    static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    let reason = &denied.reason;
    let fields = PyDict::new(py);
    fields.set_item("agent", denied.agent.to_string())?;
    fields.set_item("reason", reason.to_string())?;
    fields.set_item("code", reason.code())?;
    fields.set_item("lifted_by", reason.lifted_by())?;
    fields.set_item("is_lapse", reason.is_lapse())?;
    fields.set_item("cut", cut)?;
    match reason {
        Reason::Stopped(lock) => {
            fields.set_item("lock_id", lock.id.to_string())?;
            fields.set_item("kind", lock.kind.name())?;
            fields.set_item("scope", lock.scope.to_string())?;
            fields.set_item("tag", &lock.tag.reason)?;
            fields.set_item("by", &lock.tag.by)?;
            fields.set_item("case", &lock.tag.case)?;
            fields.set_item("since_ms", lock.since_ms)?;
            fields.set_item("released", lock.released)?;
        }
        Reason::Throttled { retry_after, .. } => {
            fields.set_item("retry_after", retry_after.map(|after| after.as_secs_f64()))?;
        }
        Reason::NotReady { .. }
        | Reason::Lapsed { .. }
        | Reason::NotEnrolled { .. }
        | Reason::NoConsent { .. }
        | Reason::GrantExpired { .. }
        | Reason::Unverifiable(_)
        | Reason::StopsMissed
        | Reason::ClockJumped
        | Reason::TooManyLocks
        | Reason::TooManyRevokes
        | Reason::NotEssential { .. }
        | Reason::StateLost(_)
        | Reason::ForkedChild
        | Reason::ClientStuck { .. }
        | Reason::ClientGone { .. } => {}
    }
    CLASS.import(py, "tagout._stopped", "TagoutStopped")?.call((text,), Some(&fields))
}
