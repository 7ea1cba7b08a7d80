//! What comes of a tile.

use crate::archive::{KeptTile, SurveyAt};
use crate::checkpoint::Window;
use crate::method::dbms::Fit;
use crate::pipeline::schedule::Job;
use crate::survey::TileStats;

/// What a run comes to, tile by tile in order.
pub(crate) enum Done<'a> {
    /// What a survey found. Not what an earlier run did.
    Surveyed(SurveyAt, &'a TileStats),
    /// A tile of this tensor.
    Encoded(usize, &'a EncodedTile),
}

/// A tile ready to be written.
pub(crate) struct EncodedTile {
    /// Number in the tensor.
    pub(crate) part: u64,
    /// Empty if an earlier run wrote it.
    pub(crate) frame: Vec<u8>,
    pub(crate) kept: Option<KeptTile>,
    pub(crate) base: Option<Window>,
    pub(crate) restored: Restored,
    /// Sums of squares of what was lost and of the delta.
    pub(crate) squared_error: f64,
    pub(crate) squared_delta: f64,
    /// The same two at the layer's output; 0 without statistics.
    pub(crate) output_sums: (f64, f64),
    /// Only if the run measures how a gain would fit.
    pub(crate) fit: Fit,
    /// Elements, if it is kept bit for bit though its tensor is stored with loss, and differs from its base.
    pub(crate) kept_elements: u64,
}

impl EncodedTile {
    /// One that is kept bit for bit.
    pub(super) fn exact(job: Job, frame: Vec<u8>) -> Self {
        Self {
            part: job.part,
            frame,
            kept: None,
            base: job.base,
            restored: Restored::Exact(job.ft),
            squared_error: 0.0,
            squared_delta: 0.0,
            output_sums: (0.0, 0.0),
            fit: Fit::default(),
            kept_elements: 0,
        }
    }
}

/// The bytes the tile restores to.
pub(crate) enum Restored {
    /// The fine-tune's own.
    Exact(Window),
    Lossy(Vec<u8>),
}

impl Restored {
    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Restored::Exact(window) => window,
            Restored::Lossy(bytes) => bytes,
        }
    }
}
