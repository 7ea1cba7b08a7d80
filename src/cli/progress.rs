//! What standard error carries while a verb runs: a bar on a terminal, notes, and the wish to stop.
//!
//! Failing to write there is no failure of the run. No colour is used, so `NO_COLOR` holds.

use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use delta_stream::{Error, ErrorKind, Observer, Result};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::cli::output::visible;

/// Notes printed before the rest is only counted.
const MAX_NOTES: usize = 5;
/// Redraws a second.
const REFRESH_HZ: u8 = 10;

/// Set by the first signal; a second one changes nothing, so that temporary files are removed.
static CANCELLED: AtomicBool = AtomicBool::new(false);

/// Turns Ctrl-C and a request to terminate into a wish to stop at the next tile.
pub(crate) fn catch_signals() -> Result<()> {
    ctrlc::set_handler(|| CANCELLED.store(true, Ordering::Relaxed))
        .map_err(|e| Error::new(ErrorKind::Io, "cannot listen for signals").with_source(e))
}

/// Stops between two library calls.
pub(crate) fn check_cancelled() -> Result<()> {
    if CANCELLED.load(Ordering::Relaxed) { Err(Error::interrupted()) } else { Ok(()) }
}

/// Writes a line to standard error, if anyone listens.
pub(crate) fn say(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Bytes done, their rate, and the time left.
const TEMPLATE: &str = "{percent:>3}% [{bar:30}] {binary_bytes}/{binary_total_bytes} \
                        {binary_bytes_per_sec} ETA {eta}";

/// An observer that shows a person what it hears.
#[derive(Debug)]
pub(crate) struct Console {
    quiet: bool,
    bar: Option<ProgressBar>,
    n_notes: AtomicUsize,
}

impl Console {
    pub(crate) fn new(quiet: bool) -> Self {
        let shown = !quiet && io::stderr().is_terminal();
        Self { quiet, bar: shown.then(bar), n_notes: AtomicUsize::new(0) }
    }

    fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| say(line)),
            None => say(line),
        }
    }
}

impl Observer for Console {
    fn progress(&self, done: u64, total: u64) {
        let Some(bar) = &self.bar else { return };
        if bar.length() != Some(total) {
            bar.set_length(total);
        }
        bar.set_position(done);
    }

    fn note(&self, text: &str) {
        let before = self.n_notes.fetch_add(1, Ordering::Relaxed);
        if !self.quiet && before < MAX_NOTES {
            self.say(&format!("note: {}", visible(text)));
        }
    }

    fn is_cancelled(&self) -> bool {
        CANCELLED.load(Ordering::Relaxed)
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        let hidden = self.n_notes.get_mut().saturating_sub(MAX_NOTES);
        if !self.quiet && hidden > 0 {
            say(&format!("note: {hidden} more like these; --json lists all"));
        }
    }
}

fn bar() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(REFRESH_HZ));
    if let Ok(style) = ProgressStyle::with_template(TEMPLATE) {
        bar.set_style(style.progress_chars("#>-"));
    }
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_template_is_sound() {
        ProgressStyle::with_template(TEMPLATE).unwrap();
    }

    #[test]
    fn progress_without_a_terminal_is_silent_and_nothing_is_cancelled() {
        let console = Console::new(true);
        (0..9).for_each(|i| console.progress(i, 9));
        console.note("said to nobody");
        assert!(console.bar.is_none() && !console.is_cancelled());
        check_cancelled().unwrap();
    }
}
