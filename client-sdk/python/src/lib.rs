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

#[pyo3::pymodule(name = "_native")]
mod native {
    #[pymodule_init]
    fn init(_module: &pyo3::Bound<'_, pyo3::types::PyModule>) -> pyo3::PyResult<()> {
        crate::generation::follow().map_err(Into::into)
    }

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
}
