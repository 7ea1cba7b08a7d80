//! What dry runs report beside what the verb itself does.

use serde::Serialize;

use crate::report::Forecast;

/// Room for what would be written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Space {
    /// Most bytes it takes while it is written. What is replaced goes afterwards, and is not taken off.
    pub needed_bytes: u64,
    /// Bytes that are free there; null where the system does not say.
    pub free_bytes: Option<u64>,
}

impl Space {
    /// Whether it suffices, as far as is known.
    pub fn is_enough(&self) -> bool {
        self.free_bytes.is_none_or(|free| free >= self.needed_bytes)
    }
}

/// Whether a verb only said what it would do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct DryRun {
    /// Whether nothing was done, and the report is of what would be.
    pub dry_run: bool,
    /// In a dry run, room for what would be written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub space: Option<Space>,
}

impl From<Option<Space>> for DryRun {
    /// A dry run has said what room there is, and nothing else has.
    fn from(space: Option<Space>) -> Self {
        Self { dry_run: space.is_some(), space }
    }
}

/// What a `compress` or `append` would write.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct CompressForecast {
    /// Always true: nothing was written.
    pub dry_run: bool,
    /// Name the variant would have.
    pub variant: String,
    /// The archive.
    pub archive: String,
    /// Bytes the archive has now, all of which stay; 0 for a new one.
    pub bytes_before: u64,
    /// Bytes of the parity file that would be written beside it; 0 without one.
    pub parity_bytes: u64,
    /// Room for it.
    pub space: Space,
    /// What would be added.
    #[serde(flatten)]
    pub forecast: Forecast,
}
