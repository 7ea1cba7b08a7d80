//! The one error type: a kind the caller can act on, what was being done, and the cause.
//!
//! Context lines read from the outside in: what the user asked, the file, the tensor, the fault.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Shorthand for results of this library.
pub type Result<T> = std::result::Result<T, Error>;

/// What a caller can do about an error.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// An argument is out of range or contradicts another; correct it and call again.
    InvalidArgument,
    /// A checkpoint is not what the safetensors format or its index promises.
    InvalidCheckpoint,
    /// The archive is damaged: a checksum, length or code is wrong.
    Corrupt,
    /// The archive ends before its data does.
    Truncated,
    /// The archive was written by a newer tool.
    Incompatible,
    /// The base given is not the base the archive was made against.
    Mismatch,
    /// The operating system refused a read, write, map or lock.
    Io,
    /// The caller asked to stop.
    Interrupted,
}

/// What was asked for and is not there, and what is. Something of nearly the same name may have been meant.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Missing {
    /// A path; what is there, its directory says.
    Path(PathBuf),
    /// A variant of an archive, and the names of those that it holds.
    Variant {
        /// As it was asked for.
        asked: String,
        /// Oldest first.
        held: Vec<String>,
    },
    /// A model that is no local path and not in the Hub's local cache either, and those that are there.
    Model {
        /// As it was asked for, with its revision.
        asked: PathBuf,
        /// In the order of their names, without revisions.
        cached: Vec<String>,
    },
}

/// An error with its kind, context and source.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    /// Innermost first; shown outermost first.
    context: Vec<String>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
    missing: Option<Box<Missing>>,
}

impl Error {
    /// An error of `kind` with a message that names the fault and the remedy.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, context: vec![message.into()], source: None, missing: None }
    }

    /// A value the caller chose is out of its legal range.
    pub fn invalid_argument(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidArgument, message)
    }

    /// A checkpoint breaks the safetensors format.
    pub fn invalid_checkpoint(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidCheckpoint, message)
    }

    /// An archive's bytes contradict themselves.
    pub fn corrupt(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Corrupt, message)
    }

    /// A stored code this tool does not know. Codes stand behind checksums, so a newer tool wrote it.
    pub(crate) fn unknown(what: &str, code: impl fmt::Display) -> Self {
        let text = format!("unknown {what} {code}: a newer delta-stream wrote it; install that");
        Self::new(ErrorKind::Incompatible, text)
    }

    /// An archive ends too early.
    pub fn truncated(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Truncated, message)
    }

    /// The base differs from the one an archive was made against.
    pub fn mismatch(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Mismatch, message)
    }

    /// A failed system call on `path`; `action` says what was tried ("open", "write").
    pub fn io(action: &str, path: &Path, source: io::Error) -> Self {
        use io::ErrorKind::{NotADirectory, NotFound};
        let is_missing = matches!(source.kind(), NotFound | NotADirectory);
        Self {
            kind: ErrorKind::Io,
            context: vec![format!("cannot {action} {}", path.display())],
            source: Some(Box::new(source)),
            missing: is_missing.then(|| Box::new(Missing::Path(path.to_owned()))),
        }
    }

    /// The caller asked to stop.
    pub fn interrupted() -> Self {
        Self::new(ErrorKind::Interrupted, "interrupted")
    }

    /// Adds an outer context line.
    #[must_use]
    pub fn context(mut self, line: impl Into<String>) -> Self {
        self.context.push(line.into());
        self
    }

    /// Keeps the underlying cause for the printed chain.
    #[must_use]
    pub fn with_source(
        mut self,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Says what is missing, where it is about that.
    #[must_use]
    pub(crate) fn with_missing(mut self, missing: Missing) -> Self {
        self.missing = Some(Box::new(missing));
        self
    }

    /// What is missing, where it is about that.
    pub fn missing(&self) -> Option<&Missing> {
        self.missing.as_deref()
    }

    /// Whether it says that an archive is damaged or not understood.
    pub(crate) fn is_damage(&self) -> bool {
        matches!(self.kind, ErrorKind::Corrupt | ErrorKind::Truncated | ErrorKind::Incompatible)
    }

    /// What can be done about it.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, line) in self.context.iter().rev().enumerate() {
            if i > 0 {
                f.write_str(": ")?;
            }
            f.write_str(line)?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|s| &**s as _)
    }
}

/// Adds context to the error of a result.
pub(crate) trait ResultExt<T> {
    /// Adds the line `line()` returns, on error only.
    fn context(self, line: impl FnOnce() -> String) -> Result<T>;
}

impl<T> ResultExt<T> for Result<T> {
    fn context(self, line: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|e| e.context(line()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn context_reads_from_the_outside_in() {
        let e = Error::corrupt("length 9 exceeds the file").context("frame 3 at offset 64");
        assert_eq!(e.to_string(), "frame 3 at offset 64: length 9 exceeds the file");
        assert_eq!(e.kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn a_path_is_missing_only_where_the_system_says_so() {
        for (kind, is_missing) in [
            (io::ErrorKind::NotFound, true),
            (io::ErrorKind::NotADirectory, true),
            (io::ErrorKind::PermissionDenied, false),
        ] {
            let e = Error::io("open", Path::new("a/b"), kind.into()).context("base");
            let missing = is_missing.then(|| Missing::Path("a/b".into()));
            assert_eq!(e.missing(), missing.as_ref(), "{kind}");
        }
    }
}
