//! A function under a guard: `@guard.protect` of a function that is none of asyncio's and no generator. All of the
//! module's `unsafe` but one line is here.
//!
//! PyO3 has no classes that are called by vectorcall, and a call through a tuple and a dict costs more than all that the
//! guard does. So this one class is made by hand, as CPython's documentation of `PyType_FromSpec` says, and behaves as
//! functions do: it has a `__dict__`, is bound to an instance where it is a method, and is pickled by its name.

#![allow(unsafe_code)]

use std::ffi::{c_int, c_uint, c_void};
use std::mem::offset_of;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;

use pyo3::exceptions::PyRuntimeError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

use crate::gate::Gate;

// In the headers of every CPython since 3.9, though of the limited API only later or never.
unsafe extern "C" {
    fn PyObject_VectorcallDict(
        callable: *mut ffi::PyObject,
        args: *const *mut ffi::PyObject,
        nargsf: usize,
        kwargs: *mut ffi::PyObject,
    ) -> *mut ffi::PyObject;
    fn PyVectorcall_Call(
        callable: *mut ffi::PyObject,
        args: *mut ffi::PyObject,
        kwargs: *mut ffi::PyObject,
    ) -> *mut ffi::PyObject;
    fn PyMethod_New(function: *mut ffi::PyObject, instance: *mut ffi::PyObject) -> *mut ffi::PyObject;
}
const HAVE_VECTORCALL: u64 = 1 << 11;

#[repr(C)]
struct Protected {
    base: ffi::PyObject,
    vectorcall: ffi::vectorcallfunc,
    /// A [`Gate`].
    gate: *mut ffi::PyObject,
    function: *mut ffi::PyObject,
    dict: *mut ffi::PyObject,
    weak_references: *mut ffi::PyObject,
}

/// `function` as what begins a call of `gate`'s each time, and ends it when the function ends.
#[pyfunction]
pub fn protected(py: Python<'_>, gate: Bound<'_, Gate>, function: Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
    static CLASS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let class = CLASS.get_or_try_init(py, || class(py))?;
    // SAFETY: the class is a type of instances of this layout; `PyType_GenericAlloc` gives one, zeroed, which is a valid one
    // but for `vectorcall`, and that is written before anything else sees it.
    unsafe {
        let made = ffi::PyType_GenericAlloc(class.as_ptr().cast(), 0);
        let made = Bound::from_owned_ptr_or_err(py, made)?;
        let fields = made.as_ptr().cast::<Protected>();
        (&raw mut (*fields).vectorcall).write(call);
        (*fields).gate = gate.into_ptr();
        (*fields).function = function.into_ptr();
        Ok(made.unbind())
    }
}

/// The guard's part is between two calls of CPython's; nothing is converted.
unsafe extern "C" fn call(
    this: *mut ffi::PyObject,
    args: *const *mut ffi::PyObject,
    nargsf: usize,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    let this = this.cast::<Protected>();
    // SAFETY: CPython calls this with an instance, which it keeps alive meanwhile, and attached; `gate` is a `Gate` from the
    // instance's making to its end.
    let begun = catch_unwind(AssertUnwindSafe(|| unsafe {
        let py = Python::assume_attached();
        let gate = Borrowed::from_ptr(py, (*this).gate);
        let gate = gate.cast_unchecked::<Gate>();
        gate.get().running(py)
    }));
    let error = match begun {
        Ok(Ok(_under_way)) => {
            // SAFETY: as above, and the arguments are passed on as they came.
            return unsafe { pass_on((*this).function, args, nargsf, names) };
        }
        Ok(Err(refused)) => refused,
        Err(_panic) => PyRuntimeError::new_err("the guard has panicked, which is a fault of this SDK"),
    };
    // SAFETY: attached, as above.
    error.restore(unsafe { Python::assume_attached() });
    ptr::null_mut()
}

unsafe fn pass_on(
    function: *mut ffi::PyObject,
    args: *const *mut ffi::PyObject,
    nargsf: usize,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: by vectorcall's protocol `args` has the positional arguments and then those that the tuple `names` names. All
    // are borrowed; the dict takes its own references and is let go of here.
    unsafe {
        if names.is_null() {
            return PyObject_VectorcallDict(function, args, nargsf, ptr::null_mut());
        }
        let kwargs = ffi::PyDict_New();
        if kwargs.is_null() {
            return ptr::null_mut();
        }
        let positional = (nargsf & !(1 << (usize::BITS - 1))).cast_signed(); // PY_VECTORCALL_ARGUMENTS_OFFSET
        let mut failed = 0;
        for n in 0..ffi::PyTuple_Size(names) {
            let value = *args.offset(positional + n);
            failed |= ffi::PyDict_SetItem(kwargs, ffi::PyTuple_GetItem(names, n), value);
        }
        let mut result = ptr::null_mut();
        if failed == 0 {
            result = PyObject_VectorcallDict(function, args, nargsf, kwargs);
        }
        ffi::Py_DECREF(kwargs);
        result
    }
}

/// As functions are bound.
unsafe extern "C" fn bind(
    this: *mut ffi::PyObject,
    instance: *mut ffi::PyObject,
    _class: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: both are alive while CPython calls this.
    unsafe {
        if instance.is_null() || instance == ffi::Py_None() {
            return ffi::Py_NewRef(this);
        }
        PyMethod_New(this, instance)
    }
}

/// As functions are pickled: by name.
unsafe extern "C" fn reduce(this: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: alive while CPython calls this.
    unsafe { ffi::PyObject_GetAttrString(this, c"__qualname__".as_ptr()) }
}

unsafe extern "C" fn traverse(this: *mut ffi::PyObject, visit: ffi::visitproc, arg: *mut c_void) -> c_int {
    let fields = this.cast::<Protected>();
    // SAFETY: an instance; what it refers to is alive or null.
    unsafe {
        let class = ffi::Py_TYPE(this).cast();
        for referred in [class, (*fields).gate, (*fields).function, (*fields).dict] {
            if !referred.is_null() {
                let stop = visit(referred, arg);
                if stop != 0 {
                    return stop;
                }
            }
        }
    }
    0
}

/// Breaks cycles, which lead through `function` and `dict`. The gate stays: calls may still come.
unsafe extern "C" fn clear(this: *mut ffi::PyObject) -> c_int {
    let fields = this.cast::<Protected>();
    // SAFETY: an instance. A call that comes yet finds None and is told that it is not callable.
    unsafe {
        let function = std::mem::replace(&mut (*fields).function, ffi::Py_NewRef(ffi::Py_None()));
        let dict = std::mem::replace(&mut (*fields).dict, ptr::null_mut());
        ffi::Py_XDECREF(function);
        ffi::Py_XDECREF(dict);
    }
    0
}

unsafe extern "C" fn dealloc(this: *mut ffi::PyObject) {
    let fields = this.cast::<Protected>();
    // SAFETY: the last reference is gone. Untracked first, so that the collector does not see it half taken apart; an
    // instance of a heap type holds a reference to it.
    unsafe {
        ffi::PyObject_GC_UnTrack(this.cast());
        if !(*fields).weak_references.is_null() {
            ffi::PyObject_ClearWeakRefs(this);
        }
        let class = ffi::Py_TYPE(this);
        for referred in [(*fields).gate, (*fields).function, (*fields).dict] {
            ffi::Py_XDECREF(referred);
        }
        ffi::PyObject_GC_Del(this.cast());
        ffi::Py_DECREF(class.cast());
    }
}

fn class(py: Python<'_>) -> PyResult<Py<PyAny>> {
    let member = |name: &'static std::ffi::CStr, offset: usize| ffi::PyMemberDef {
        name: name.as_ptr(),
        type_code: ffi::Py_T_PYSSIZET,
        offset: offset.cast_signed(),
        flags: ffi::Py_READONLY,
        doc: ptr::null(),
    };
    // CPython keeps pointers to these three.
    let members = Box::leak(Box::new([
        member(c"__vectorcalloffset__", offset_of!(Protected, vectorcall)),
        member(c"__dictoffset__", offset_of!(Protected, dict)),
        member(c"__weaklistoffset__", offset_of!(Protected, weak_references)),
        ffi::PyMemberDef::default(),
    ]));
    let attributes = Box::leak(Box::new([
        ffi::PyGetSetDef {
            name: c"__dict__".as_ptr(),
            get: Some(ffi::PyObject_GenericGetDict),
            set: Some(ffi::PyObject_GenericSetDict),
            doc: ptr::null(),
            closure: ptr::null_mut(),
        },
        ffi::PyGetSetDef::default(),
    ]));
    let methods = Box::leak(Box::new([
        ffi::PyMethodDef {
            ml_name: c"__reduce__".as_ptr(),
            ml_meth: ffi::PyMethodDefPointer { PyCFunction: reduce },
            ml_flags: ffi::METH_NOARGS,
            ml_doc: ptr::null(),
        },
        ffi::PyMethodDef::zeroed(),
    ]));
    let slot = |slot, pfunc: *mut c_void| ffi::PyType_Slot { slot, pfunc };
    let mut slots = [
        slot(ffi::Py_tp_call, PyVectorcall_Call as *mut c_void),
        slot(ffi::Py_tp_descr_get, bind as *mut c_void),
        slot(ffi::Py_tp_traverse, traverse as *mut c_void),
        slot(ffi::Py_tp_clear, clear as *mut c_void),
        slot(ffi::Py_tp_dealloc, dealloc as *mut c_void),
        slot(ffi::Py_tp_members, members.as_mut_ptr().cast()),
        slot(ffi::Py_tp_getset, attributes.as_mut_ptr().cast()),
        slot(ffi::Py_tp_methods, methods.as_mut_ptr().cast()),
        slot(0, ptr::null_mut()),
    ];
    let flags = ffi::Py_TPFLAGS_DEFAULT
        | ffi::Py_TPFLAGS_HAVE_GC
        | ffi::Py_TPFLAGS_METHOD_DESCRIPTOR
        | HAVE_VECTORCALL;
    let mut spec = ffi::PyType_Spec {
        name: c"tagout._native.Protected".as_ptr(),
        basicsize: c_int::try_from(size_of::<Protected>()).expect("a few words"),
        itemsize: 0,
        flags: c_uint::try_from(flags).expect("the flags of a type are 32 bits"),
        slots: slots.as_mut_ptr(),
    };
    // SAFETY: the slots hold functions of the signatures that CPython documents for them, and end with a zero.
    unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyType_FromSpec(&mut spec)).map(Bound::unbind) }
}
