//! What `verify` finds damaged, and what `recover` saves.

use serde::Serialize;

use crate::error::{Error, ErrorKind, Result};
use crate::report::{DryRun, ParityReport};

/// What `verify` found.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct VerifyReport {
    /// Whether everything checked is as it must be.
    pub ok: bool,
    /// `structure`, `subset` (it, and a share of the frames), `frames` (every checksum) or `decode`
    /// (every tensor against its stored hash).
    pub level: &'static str,
    /// Which frames were read, if not all.
    pub subset: Option<SubsetReport>,
    /// Variants and base vectors checked, damaged ones too.
    pub variants: Vec<String>,
    /// Frame headers found at their places.
    pub headers: u64,
    /// Frames read whole: tiles and pieces of side files.
    pub frames: u64,
    /// Stored bytes of these.
    pub bytes: u64,
    /// Bytes behind the last footer, which no reader uses: what a crash left.
    pub tail_bytes: u64,
    /// How many places are damaged.
    pub n_faults: u64,
    /// The first [`Self::MAX_LISTED`] of them.
    pub faults: Vec<Fault>,
    /// Tensors that decode to other bytes than were stored.
    pub differing: Vec<Differing>,
    /// What the archive that this one was recovered from had lost.
    pub lost: Vec<Lost>,
    /// The parity file beside the archive; null if it has none, or one variant alone was checked.
    pub parity: Option<ParityReport>,
    /// Most bytes resident at any time.
    pub peak_memory_bytes: Option<u64>,
    /// Wall time.
    pub elapsed_seconds: f64,
}

impl VerifyReport {
    /// Faults listed at most; they are counted beyond.
    pub const MAX_LISTED: usize = 1000;

    /// The report, if nothing is damaged.
    ///
    /// # Errors
    /// That of the first fault: `Corrupt`, `Truncated` or `Incompatible`.
    pub fn sound(self) -> Result<Self> {
        let Some(fault) = self.faults.first() else { return Ok(self) };
        let text = format!("{fault} ({} places are damaged)", self.n_faults);
        Err(Error::new(fault.kind, text))
    }
}

/// The share of an archive's frames that a partial `verify` read.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct SubsetReport {
    /// As asked: `5%` or `1/20`.
    pub share: String,
    /// What the frames were drawn with; null for a group.
    pub seed: Option<u64>,
    /// How many frames there are to choose from.
    pub of_frames: u64,
}

/// A place of an archive that is damaged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Fault {
    /// The variant or base vector it belongs to; null for what belongs to none.
    pub variant: Option<String>,
    /// The tensor, if it is one of a tensor's frames.
    pub tensor: Option<String>,
    /// The side file, if it is one of its frames.
    pub side_file: Option<String>,
    /// Which tile of the tensor, or which piece of the side file.
    pub part: Option<u64>,
    /// Where in the file.
    pub offset: u64,
    /// What is wrong.
    pub what: String,
    /// `Corrupt`, `Truncated`, or `Incompatible` for what a newer tool wrote.
    #[serde(skip)]
    pub kind: ErrorKind,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(variant) = &self.variant {
            write!(f, "variant `{variant}`: ")?;
        }
        let part = self.part.unwrap_or(0);
        match (&self.tensor, &self.side_file) {
            (Some(tensor), _) => write!(f, "tensor {tensor}: tile {part} ")?,
            (None, Some(file)) => write!(f, "side file {file}: piece {part} ")?,
            (None, None) => {}
        }
        write!(f, "at offset {}: {}", self.offset, self.what)
    }
}

/// A tensor or side file that a `recover` could not save.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Lost {
    /// The variant or base vector it belongs to.
    pub variant: String,
    /// The tensor, if it is one.
    pub tensor: Option<String>,
    /// The side file, if it is one.
    pub side_file: Option<String>,
}

/// What `recover` saved of a damaged archive.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct RecoverReport {
    /// Whether all that it held, as far as is known, is in the new archive.
    pub complete: bool,
    /// The generation whose index named the variants; null if no index was left and they were found by
    /// their frames alone.
    pub index_of: Option<u32>,
    /// What came of each variant, and of each base vector that one needs, oldest first.
    pub variants: Vec<RecoveredVariant>,
    /// Bytes of the damaged file.
    pub bytes_before: u64,
    /// Of these, bytes where neither a frame nor a footer stands.
    pub damaged_bytes: u64,
    /// Bytes of the new archive.
    pub bytes_after: u64,
    /// Most bytes resident at any time.
    pub peak_memory_bytes: Option<u64>,
    /// Wall time.
    pub elapsed_seconds: f64,
    /// Whether it was a dry run.
    #[serde(flatten)]
    pub run: DryRun,
}

/// What `recover` saved of one variant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct RecoveredVariant {
    /// Its name; if that is lost, words that say so.
    pub name: String,
    /// Whether it is a base vector and no fine-tune of its own.
    pub base_vector: bool,
    /// `whole`, `partial` (its whole tensors can be restored by name), or `lost`.
    pub state: &'static str,
    /// Why nothing of it is saved, if so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Whether an index names it. One that was found by its frames alone may have been removed, or
    /// never committed.
    pub listed: bool,
    /// Whether its seal was lost and is made anew from what its frames decode to on the base given.
    pub sealed_anew: bool,
    /// Names of the tensors that can be restored.
    pub tensors: Vec<String>,
    /// Names of those that cannot, as far as they are known.
    pub lost_tensors: Vec<String>,
    /// Names of the side files that can be restored.
    pub side_files: Vec<String>,
    /// Names of those that cannot.
    pub lost_side_files: Vec<String>,
}

/// A tensor that does not decode to what was stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Differing {
    /// The variant it belongs to.
    pub variant: String,
    /// Its name.
    pub tensor: String,
}
