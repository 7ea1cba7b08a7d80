//! Errors of the library as Python's exceptions, with the library's texts.

use delta_stream::{Error, ErrorKind};
use pyo3::prelude::*;
use pyo3::types::PyType;

/// The exception of `delta_stream._errors` for a kind. The tree is written in Python, since only there an
/// exception has two bases.
fn class_of(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::InvalidArgument => "InvalidArgumentError",
        ErrorKind::InvalidCheckpoint => "InvalidCheckpointError",
        ErrorKind::Corrupt => "CorruptError",
        ErrorKind::Truncated => "TruncatedError",
        ErrorKind::Incompatible => "IncompatibleError",
        ErrorKind::Mismatch => "MismatchError",
        ErrorKind::Io => "IoError",
        ErrorKind::Interrupted => "InterruptedRunError",
        _ => "DeltaStreamError",
    }
}

/// The error with its causes on one line.
fn text_of(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(cause.to_string().trim());
        source = cause.source();
    }
    text
}

/// The exception that an error becomes.
pub(crate) fn raise(py: Python<'_>, error: &Error) -> PyErr {
    let class = py
        .import("delta_stream._errors")
        .and_then(|module| module.getattr(class_of(error.kind())))
        .and_then(|class| Ok(class.cast_into::<PyType>()?));
    class.map_or_else(|e| e, |class| PyErr::from_type(class, (text_of(error),)))
}
