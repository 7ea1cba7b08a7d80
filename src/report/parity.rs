//! What is said of parity files, and what `repair` did.

use serde::Serialize;

use crate::report::Fault;

/// A parity file beside an archive.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ParityReport {
    /// Parity in percent of the archive, as asked; more for small archives.
    pub percent: f64,
    /// Bytes of the parity file.
    pub bytes: u64,
    /// Bytes of the archive that it covers, from the first.
    pub covered_bytes: u64,
    /// How it stands to the archive.
    pub state: ParityState,
    /// Damaged blocks, tables and headers of the parity file itself, as far as they were looked at.
    pub damaged_blocks: u64,
    /// Whether what is damaged of the covered bytes can be rebuilt; null where that was not asked.
    pub mendable: Option<bool>,
}

impl ParityReport {
    /// Whether it is whole, as far as it was looked at, and of this archive.
    pub(crate) fn is_of_use(&self) -> bool {
        self.damaged_blocks == 0 && self.state != ParityState::Foreign
    }

    /// Of a parity file that cannot be read.
    pub(crate) fn unreadable() -> Self {
        let state = ParityState::Unreadable;
        let (percent, bytes, covered_bytes) = (0.0, 0, 0);
        Self { percent, bytes, covered_bytes, state, damaged_blocks: 1, mendable: None }
    }
}

/// How a parity file stands to its archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum ParityState {
    /// It covers all that is committed.
    Current,
    /// It covers what an earlier generation committed, which no later one changes.
    Behind,
    /// It covers more than the archive seems to commit: the archive's end is damaged.
    Ahead,
    /// It is of another archive.
    Foreign,
    /// Both of its headers are damaged, or a newer tool wrote it.
    Unreadable,
}

/// A range of bytes of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Span {
    /// The first.
    pub start: u64,
    /// The one behind the last.
    pub end: u64,
}

/// What `repair` did.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct RepairReport {
    /// What came of it.
    pub state: RepairState,
    /// Whether nothing was to be written.
    pub dry_run: bool,
    /// The parity file.
    pub parity: ParityReport,
    /// Damaged blocks of the archive.
    pub damaged_blocks: u64,
    /// Ranges that these make up.
    pub n_damaged: usize,
    /// The first [`Self::MAX_LISTED`] of them.
    pub damaged: Vec<Span>,
    /// Ranges that cannot be rebuilt.
    pub n_beyond: usize,
    /// The first [`Self::MAX_LISTED`] of them.
    pub beyond: Vec<Span>,
    /// Groups of blocks of which nothing is known, since the parity file is damaged.
    pub unknown_groups: u64,
    /// Bytes of the file behind those that are covered, which were not looked at.
    pub uncovered_bytes: u64,
    /// Bytes of the archive, mended or as it is.
    pub bytes: u64,
    /// Whether the parity file, damaged itself, was made anew.
    pub parity_renewed: bool,
    /// With too much damage, what `recover` would still save; null otherwise, or if no index can be read and
    /// only `recover` itself can tell.
    pub survivors: Option<Survivors>,
    /// Most bytes resident at any time.
    pub peak_memory_bytes: Option<u64>,
    /// Wall time.
    pub elapsed_seconds: f64,
}

impl RepairReport {
    /// Ranges listed at most.
    pub const MAX_LISTED: usize = 1000;
}

/// How a `repair` ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum RepairState {
    /// Nothing that is covered is damaged.
    Whole,
    /// All that was damaged is rebuilt.
    Repaired,
    /// It could be rebuilt, which was not asked.
    Repairable,
    /// Too much is damaged, and nothing was written.
    BeyondRepair,
}

/// What is left of an archive that cannot be repaired.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Survivors {
    /// Variants and base vectors of which nothing is damaged.
    pub whole: Vec<String>,
    /// How many places of the archive are damaged.
    pub n_faults: u64,
    /// The first of them.
    pub faults: Vec<Fault>,
}
