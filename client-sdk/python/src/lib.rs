//! The native half of the Python package `tagout`: what asks, counts and cuts is the Rust SDK, and here it is made callable.
//!
//! Nothing here has Python wait for another thread but [`ready`](gate::Gate), `trip` and the loop of a [`Watcher`], which let
//! go of the GIL meanwhile. `check` never does. No thread of the Rust SDK touches Python, so a stop never waits for the GIL:
//! sockets are shut without it. What Python code is told of it hears from a thread that Python knows: see `watch.rs`.

mod call;
mod client;
mod gate;
mod generation;
mod protected;
mod stopped;
mod watch;

use pyo3::exceptions::PyImportError;
use pyo3::prelude::*;

#[pymodule(name = "_native")]
mod native {
    #[pymodule_export]
    use crate::call::{Call, GuardedSocket};
    #[pymodule_export]
    use crate::client::Client;
    #[pymodule_export]
    use crate::gate::Gate;
    #[pymodule_export]
    use crate::protected::protected;
    #[pymodule_export]
    use crate::watch::{Watch, Watcher};

    #[pymodule_init]
    fn init(_module: &pyo3::Bound<'_, pyo3::types::PyModule>) -> pyo3::PyResult<()> {
        crate::refuse_subinterpreters()?;
        crate::generation::follow().map_err(Into::into)
    }
}

/// What is static here, as the thread that tells of cuts, is the main interpreter's.
#[allow(unsafe_code)]
fn refuse_subinterpreters() -> PyResult<()> {
    // SAFETY: Python is importing this, so the thread is attached to the interpreter that it asks for.
    match unsafe { pyo3::ffi::PyInterpreterState_GetID(pyo3::ffi::PyInterpreterState_Get()) } {
        0 => Ok(()),
        _ => Err(PyImportError::new_err(
            "tagout does not run in a subinterpreter: import it in the main one, or take processes instead \
             (under mod_wsgi, WSGIApplicationGroup %{GLOBAL})",
        )),
    }
}
