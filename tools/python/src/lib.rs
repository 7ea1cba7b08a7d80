//! The compiled part of the Python package `delta_stream`: thin functions over the public library, which
//! `python/delta_stream` wraps. Paths, plain values and byte arrays cross the border; options come and
//! reports go as JSON. Whatever takes long runs without the interpreter's lock.

mod errors;
mod observer;
mod options;
mod reader;

use std::path::PathBuf;

use delta_stream::Result;
use pyo3::prelude::*;
use serde::Serialize;

use crate::errors::raise;
use crate::observer::Watcher;

/// A report as Python's plain types.
fn to_python<'py>(py: Python<'py>, report: &impl Serialize) -> PyResult<Bound<'py, PyAny>> {
    let text = serde_json::to_string(report)
        .map_err(|e| pyo3::exceptions::PyRuntimeError::new_err(e.to_string()))?;
    py.import("json")?.call_method1("loads", (text,))
}

/// Runs something long without the lock, and gives its report.
fn run<'py, T: Serialize + Send>(
    py: Python<'py>,
    progress: Option<Py<PyAny>>,
    work: impl FnOnce(&Watcher) -> Result<T> + Send,
) -> PyResult<Bound<'py, PyAny>> {
    let watcher = Watcher::new(progress);
    let done = py.detach(|| work(&watcher));
    let report = watcher.finish(py, done)?;
    to_python(py, &report)
}

/// What an archive holds, or one variant of it.
#[pyfunction]
#[pyo3(signature = (archive, name=None))]
fn inspect<'py>(
    py: Python<'py>,
    archive: PathBuf,
    name: Option<String>,
) -> PyResult<Bound<'py, PyAny>> {
    run(py, None, |_| delta_stream::inspect(&archive, name.as_deref(), false))
}

/// Stores a fine-tune, in a new archive or in one that there is.
#[pyfunction]
fn compress<'py>(
    py: Python<'py>,
    paths: (PathBuf, PathBuf, PathBuf),
    options: &str,
    append: bool,
    progress: Option<Py<PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    let (shards, base, archive) = paths;
    let options = options::compress(options).map_err(|e| raise(py, &e))?;
    let verb = if append { delta_stream::append } else { delta_stream::compress };
    run(py, progress, |watcher| verb(&shards, &base, &archive, &options, watcher))
}

/// Writes a variant as a checkpoint.
#[pyfunction]
fn restore<'py>(
    py: Python<'py>,
    paths: (PathBuf, PathBuf, PathBuf),
    options: &str,
    progress: Option<Py<PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    let (archive, base, output) = paths;
    let options = options::restore(options).map_err(|e| raise(py, &e))?;
    run(py, progress, |watcher| delta_stream::restore(&archive, &base, &output, &options, watcher))
}

#[pymodule]
mod _native {
    #[pymodule_export]
    use crate::reader::{Reader, Variant};
    #[pymodule_export]
    use crate::{compress, inspect, restore};

    /// Version of the package.
    #[pymodule_export]
    const __VERSION__: &str = env!("CARGO_PKG_VERSION");
}
