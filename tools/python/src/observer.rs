//! Progress for a Python callable, and the wish to stop: an exception in the callable, or a signal.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use delta_stream::{Observer, Result};
use pyo3::prelude::*;

use crate::errors::raise;

/// The interpreter's lock is taken no more often than this: tiles take milliseconds.
const PERIOD: Duration = Duration::from_millis(50);

/// Tells a callable of progress, and stops the run if that raises or Ctrl-C was pressed.
pub(crate) struct Watcher {
    callback: Option<Py<PyAny>>,
    is_stopped: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// When the callable was last told.
    told: Option<Instant>,
    /// When Python was last asked for signals.
    asked: Option<Instant>,
    /// What it raised.
    raised: Option<PyErr>,
}

impl Watcher {
    pub(crate) fn new(callback: Option<Py<PyAny>>) -> Self {
        Self { callback, is_stopped: AtomicBool::new(false), state: Mutex::default() }
    }

    /// Whether it is time to ask Python again. The lock on this is never held while the interpreter's is
    /// waited for.
    fn is_due(&self, last: impl FnOnce(&mut State) -> &mut Option<Instant>) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let last = last(&mut state);
        let is_due = last.is_none_or(|last| last.elapsed() >= PERIOD);
        if is_due {
            *last = Some(Instant::now());
        }
        is_due
    }

    /// Asks Python something; what it raises ends the run.
    fn ask(&self, what: impl FnOnce(Python<'_>) -> PyResult<()>) {
        if self.is_stopped.load(Ordering::Relaxed) {
            return;
        }
        if let Err(raised) = Python::attach(what) {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.raised.get_or_insert(raised);
            self.is_stopped.store(true, Ordering::Relaxed);
        }
    }

    /// What the run came to: the exception that ended it goes before the error that it led to.
    pub(crate) fn finish<T>(self, py: Python<'_>, done: Result<T>) -> PyResult<T> {
        let state = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        match (state.raised, done) {
            (Some(raised), _) => Err(raised),
            (None, done) => done.map_err(|e| raise(py, &e)),
        }
    }
}

impl Observer for Watcher {
    fn progress(&self, done: u64, total: u64) {
        let Some(callback) = &self.callback else { return };
        if self.is_due(|state| &mut state.told) || done == total {
            self.ask(|py| callback.call1(py, (done, total)).map(drop));
        }
    }

    fn note(&self, text: &str) {
        self.ask(|py| {
            let logger = py.import("logging")?.call_method1("getLogger", ("delta_stream",))?;
            logger.call_method1("info", ("%s", text)).map(drop)
        });
    }

    fn is_cancelled(&self) -> bool {
        if self.is_due(|state| &mut state.asked) {
            self.ask(|py| py.check_signals());
        }
        self.is_stopped.load(Ordering::Relaxed)
    }
}
