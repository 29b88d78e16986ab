//! A function under a guard.

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::gate::Gate;

#[pyclass(frozen, dict, module = "tagout._native")]
pub struct Protected {
    gate: Py<Gate>,
    function: Py<PyAny>,
}

#[pymethods]
impl Protected {
    #[new]
    fn new(gate: Py<Gate>, function: Py<PyAny>) -> Self {
        Self { gate, function }
    }

    #[pyo3(signature = (*args, **kwargs))]
    fn __call__<'py>(
        &self,
        py: Python<'py>,
        args: &Bound<'py, PyTuple>,
        kwargs: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let _under_way = self.gate.get().begin(py)?;
        self.function.bind(py).call(args, kwargs)
    }
}
