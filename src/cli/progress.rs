//! What standard error carries while a verb runs: a bar on a terminal, notes, and the wish to stop.
//!
//! Failing to write there is no failure of the run. The bar has no colour, so `NO_COLOR` holds; help and usage
//! errors, which have some, are clap's, and it heeds that.

use std::env;
use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use delta_stream::{Error, ErrorKind, Observer, Result};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

use crate::cli::output::{exit_code, size, visible};

/// Notes printed before the rest is only counted.
const MAX_NOTES: usize = 5;
/// Redraws a second.
const REFRESH_HZ: u8 = 10;

/// Set by the first signal.
static CANCELLED: AtomicBool = AtomicBool::new(false);
/// Signals after which the program ends at once. A second one may come with the first, of whoever forwards
/// it to the whole group.
const IMPATIENT: usize = 3;

/// Turns Ctrl-C and a request to terminate into a wish to stop at the next tile, where temporary files are
/// removed. Who insists is obeyed; what is left then is hidden, and the next run removes it.
#[expect(clippy::disallowed_methods, reason = "whatever does not look at the wish has to end too")]
pub(crate) fn catch_signals() -> Result<()> {
    let mut n_signals = 0;
    let handler = move || {
        CANCELLED.store(true, Ordering::Relaxed);
        n_signals += 1;
        if n_signals >= IMPATIENT {
            std::process::exit(exit_code(ErrorKind::Interrupted).into());
        }
    };
    ctrlc::set_handler(handler)
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

/// The stage, bytes done, their rate, the time left, and the program's memory.
const TEMPLATE: &str = "{prefix:7} {percent:>3}% [{bar:24}] {binary_bytes}/{binary_total_bytes} \
                        {binary_bytes_per_sec} ETA {eta}{memory}";
/// Turns the bars of other programs for models off, too.
const DISABLED: &str = "HF_HUB_DISABLE_PROGRESS_BARS";

/// An observer that shows a person what it hears.
#[derive(Debug)]
pub(crate) struct Console {
    quiet: bool,
    bar: Option<ProgressBar>,
    n_notes: AtomicUsize,
}

impl Console {
    pub(crate) fn new(quiet: bool) -> Self {
        let [term, disabled] = ["TERM", DISABLED].map(env::var_os);
        let can_show =
            io::stderr().is_terminal() && is_wanted(term.as_deref(), disabled.as_deref());
        let shown = !quiet && can_show;
        Self { quiet, bar: shown.then(bar), n_notes: AtomicUsize::new(0) }
    }

    fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| say(line)),
            None => say(line),
        }
    }
}

/// Whether a terminal gets a bar: not one that cannot go back on a line, nor where it is turned off.
fn is_wanted(term: Option<&OsStr>, disabled: Option<&OsStr>) -> bool {
    let is_dumb = term.is_none_or(|term| term.is_empty() || term == "dumb");
    let disabled = disabled.map(|value| value.to_string_lossy().to_uppercase());
    let is_off = disabled.is_some_and(|value| ["1", "ON", "YES", "TRUE"].contains(&&*value));
    !is_dumb && !is_off
}

impl Observer for Console {
    fn stage(&self, name: &'static str) {
        if let Some(bar) = &self.bar {
            bar.set_prefix(name);
        }
    }

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
        let memory = |_: &ProgressState, out: &mut dyn fmt::Write| {
            let _ = memory().map_or(Ok(()), |bytes| write!(out, ", {} of memory", size(bytes)));
        };
        bar.set_style(style.with_key("memory", memory).progress_chars("#>-"));
    }
    bar
}

/// Bytes of this process that are resident, mapped pages included; `None` where the system does not say.
fn memory() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;
    use indicatif::TermLike;
    use std::sync::{Arc, Mutex};

    /// A terminal that keeps all that is written to it.
    #[derive(Debug, Clone, Default)]
    struct Screen(Arc<Mutex<String>>);

    impl TermLike for Screen {
        fn width(&self) -> u16 {
            120
        }
        fn move_cursor_up(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_down(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_right(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_left(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn write_line(&self, text: &str) -> io::Result<()> {
            self.write_str(text)
        }
        fn write_str(&self, text: &str) -> io::Result<()> {
            self.0.lock().unwrap().push_str(text);
            Ok(())
        }
        fn clear_line(&self) -> io::Result<()> {
            Ok(())
        }
        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_bar_says_stage_bytes_rate_time_and_memory() {
        let screen = Screen::default();
        let bar = bar();
        bar.set_draw_target(ProgressDrawTarget::term_like(Box::new(screen.clone())));
        bar.set_prefix("survey");
        bar.set_length(4 << 20);
        bar.set_position(1 << 20);
        bar.tick();
        let text = screen.0.lock().unwrap().clone();
        for word in ["survey ", " 25% [", "1.00 MiB/4.00 MiB", "/s ETA "] {
            assert!(text.contains(word), "{word} is not in {text}");
        }
        assert_eq!(text.contains(" of memory"), memory().is_some(), "{text}");
        assert!(!text.contains('\n') && !text.contains('\u{1b}'), "{text}");
    }

    #[test]
    fn bars_are_for_terminals_that_want_them() {
        let wanted = |term: Option<&str>, disabled: Option<&str>| {
            is_wanted(term.map(OsStr::new), disabled.map(OsStr::new))
        };
        for (term, disabled, shown) in [
            (Some("xterm"), None, true),
            (Some("xterm"), Some("0"), true),
            (Some("xterm"), Some(""), true),
            (Some("xterm"), Some("false"), true),
            (Some("xterm"), Some("1"), false),
            (Some("xterm"), Some("True"), false),
            (Some("xterm"), Some("yes"), false),
            (Some("dumb"), None, false),
            (Some(""), None, false),
            (None, None, false),
        ] {
            assert_eq!(wanted(term, disabled), shown, "{term:?} {disabled:?}");
        }
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
