//! What leaves the program: tables, JSON, the error line and the exit code.

use std::fmt;
use std::io::{self, Write};
use std::path::Path;

use bytesize::ByteSize;
use delta_stream::{Error, ErrorKind, Result};
use serde::Serialize;
use serde_json::Value;

/// How a verb that did its work ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Done,
    /// `verify` or `compare` found a difference.
    Different,
    /// `verify` found damage.
    Damaged,
    /// A dry run found that there is too little room.
    NoRoom,
}

impl Outcome {
    /// `Done` if `fine`.
    pub(crate) fn of(fine: bool) -> Self {
        if fine { Outcome::Done } else { Outcome::Different }
    }

    /// This one, or the other if it is `Done`.
    pub(crate) fn or(self, other: Self) -> Self {
        if self == Outcome::Done { other } else { self }
    }

    pub(crate) fn code(self) -> u8 {
        match self {
            Outcome::Done => 0,
            Outcome::Different => 1,
            Outcome::Damaged => exit_code(ErrorKind::Corrupt),
            Outcome::NoRoom => exit_code(ErrorKind::Io),
        }
    }
}

/// The exit code of an error; the numbers are a contract.
pub(crate) fn exit_code(kind: ErrorKind) -> u8 {
    match kind {
        ErrorKind::InvalidArgument => 2,
        ErrorKind::InvalidCheckpoint => 3,
        ErrorKind::Corrupt | ErrorKind::Truncated | ErrorKind::Incompatible => 4,
        ErrorKind::Mismatch => 5,
        ErrorKind::Interrupted => 130,
        // `Io`, and kinds this program has no number for.
        _ => 6,
    }
}

/// The error with its causes on one line.
pub(crate) fn error_line(error: &Error) -> String {
    let mut line = format!("error: {error}");
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let text = cause.to_string();
        // Errors of regular expressions draw a picture first; their last line says what is wrong.
        let last = text.lines().last().unwrap_or_default().trim();
        line.push_str(": ");
        line.push_str(last.strip_prefix("error: ").unwrap_or(last));
        source = cause.source();
    }
    visible(&line)
}

/// Text with its control characters escaped: names in archives are anyone's, terminals obey them.
pub(crate) fn visible(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

/// A report as JSON on one line.
pub(crate) fn json(report: &impl Serialize) -> Result<String> {
    value(report).map(|value| value.to_string())
}

/// A report as a JSON value.
pub(crate) fn value(report: &impl Serialize) -> Result<Value> {
    serde_json::to_value(report)
        .map_err(|e| Error::new(ErrorKind::Io, "cannot write the report as JSON").with_source(e))
}

/// Writes to standard output. A reader that has gone away has what it wanted.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => {
            Err(Error::io("write to", Path::new("standard output"), e))
        }
        _ => Ok(()),
    }
}

/// Labels and values, one pair a line, values aligned.
#[derive(Debug, Default)]
pub(crate) struct Facts(Vec<(&'static str, String)>);

impl Facts {
    pub(crate) fn add(&mut self, label: &'static str, value: impl fmt::Display) -> &mut Self {
        self.0.push((label, visible(&value.to_string())));
        self
    }

    pub(crate) fn add_if(
        &mut self,
        label: &'static str,
        value: Option<impl fmt::Display>,
    ) -> &mut Self {
        match value {
            Some(value) => self.add(label, value),
            None => self,
        }
    }

    /// Memory and time, which every report ends with.
    pub(crate) fn add_cost(&mut self, peak_memory_bytes: Option<u64>, seconds: f64) -> &mut Self {
        self.add_if("peak memory", peak_memory_bytes.map(size)).add("time", time(seconds))
    }
}

impl fmt::Display for Facts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.0.iter().map(|(label, _)| label.len()).max().unwrap_or(0);
        self.0.iter().try_for_each(|(label, value)| writeln!(f, "{label:width$}  {value}"))
    }
}

/// Rows under headings. The first column is a name and left-aligned, the others are right-aligned.
#[derive(Debug)]
pub(crate) struct Columns(Vec<Vec<String>>);

impl Columns {
    pub(crate) fn new(headings: &[&str]) -> Self {
        Self(vec![headings.iter().map(|h| (*h).to_owned()).collect()])
    }

    pub(crate) fn add(&mut self, row: Vec<String>) {
        self.0.push(row.iter().map(|cell| visible(cell)).collect());
    }
}

impl fmt::Display for Columns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n_columns = self.0.iter().map(Vec::len).max().unwrap_or(0);
        let cells = |i: usize| self.0.iter().filter_map(move |row| row.get(i));
        let widths: Vec<usize> = (0..n_columns)
            .map(|i| cells(i).map(|cell| cell.chars().count()).max().unwrap_or(0))
            .collect();
        for row in &self.0 {
            let mut line = String::new();
            for (i, (cell, width)) in row.iter().zip(&widths).enumerate() {
                let width = *width;
                match i {
                    0 => line.push_str(&format!("{cell:width$}")),
                    _ => line.push_str(&format!("  {cell:>width$}")),
                }
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// A size for people.
pub(crate) fn size(bytes: u64) -> String {
    ByteSize(bytes).display().iec().to_string()
}

/// A size for people with the exact number.
pub(crate) fn exact_size(bytes: u64) -> String {
    let exact = format!("{} bytes", count(bytes));
    if bytes < 1024 { exact } else { format!("{} ({exact})", size(bytes)) }
}

/// A number with its thousands apart.
pub(crate) fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A duration for people.
pub(crate) fn time(seconds: f64) -> String {
    if seconds < 60.0 {
        return format!("{seconds:.2} s");
    }
    let whole = seconds.round() as u64;
    let (hours, minutes, seconds) = (whole / 3600, whole / 60 % 60, whole % 60);
    if hours > 0 {
        format!("{hours} h {minutes} min")
    } else {
        format!("{minutes} min {seconds} s")
    }
}

/// A relative error, or a dash where there is none.
pub(crate) fn relative(error: Option<f64>) -> String {
    error.map_or_else(
        || "-".to_owned(),
        |e| {
            if e == 0.0 { "0".to_owned() } else { format!("{e:.3e}") }
        },
    )
}

/// A method with its settings.
pub(crate) fn method(name: &str, settings: &[(String, String)]) -> String {
    if settings.is_empty() {
        return name.to_owned();
    }
    format!("{name} ({})", listed(settings))
}

/// Named values in one line.
pub(crate) fn listed(values: &[(String, String)]) -> String {
    let all: Vec<String> = values.iter().map(|(key, value)| format!("{key} {value}")).collect();
    all.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_the_contract() {
        for (kind, code) in [
            (ErrorKind::InvalidArgument, 2),
            (ErrorKind::InvalidCheckpoint, 3),
            (ErrorKind::Corrupt, 4),
            (ErrorKind::Truncated, 4),
            (ErrorKind::Incompatible, 4),
            (ErrorKind::Mismatch, 5),
            (ErrorKind::Io, 6),
            (ErrorKind::Interrupted, 130),
        ] {
            assert_eq!(exit_code(kind), code, "{kind:?}");
        }
        assert_eq!((Outcome::of(true).code(), Outcome::of(false).code()), (0, 1));
        assert_eq!((Outcome::Damaged.code(), Outcome::NoRoom.code()), (4, 6));
    }

    #[test]
    fn an_error_is_one_line_with_its_causes() {
        let cause = io::Error::other("the disk\nerror: is full");
        let error = Error::io("write", Path::new("a\u{1b}[2J"), cause).context("compress");
        assert_eq!(error_line(&error), "error: compress: cannot write a\\u{1b}[2J: is full");
    }

    #[test]
    fn tables_are_aligned() {
        let mut facts = Facts::default();
        facts.add("a", 1).add("long", "two").add_if("none", None::<u8>);
        assert_eq!(facts.to_string(), "a     1\nlong  two\n");
        let mut columns = Columns::new(&["name", "n"]);
        columns.add(vec!["é".into(), "100".into()]);
        columns.add(vec!["longer".into(), "7".into()]);
        assert_eq!(columns.to_string(), "name      n\né       100\nlonger    7\n");
    }

    #[test]
    fn numbers_read_well() {
        for (bytes, text) in [
            (0, "0 bytes"),
            (999, "999 bytes"),
            (1 << 20, "1.0 MiB (1,048,576 bytes)"),
            (5 << 30, "5.0 GiB (5,368,709,120 bytes)"),
        ] {
            assert_eq!(exact_size(bytes), text);
        }
        for (seconds, text) in [(0.014, "0.01 s"), (75.2, "1 min 15 s"), (7260.0, "2 h 1 min")] {
            assert_eq!(time(seconds), text);
        }
        assert_eq!(
            [relative(None), relative(Some(0.0)), relative(Some(0.25))],
            ["-", "0", "2.500e-1"]
        );
    }
}
