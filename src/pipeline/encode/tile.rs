//! What comes of a tile.

use crate::archive::{KeptTile, TileNote};
use crate::checkpoint::Window;
use crate::method::dbms::Fit;
use crate::pipeline::schedule::Job;

/// A tile ready to be written.
pub(crate) struct EncodedTile {
    /// Number in the tensor.
    pub(crate) part: u64,
    /// Need not be there if an earlier run wrote it to its place.
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

    /// What a run that resumes has to know of it, as a tile of this tensor.
    pub(crate) fn note(&self, tensor: usize) -> TileNote {
        self.kept.map_or_else(
            || TileNote {
                tensor: tensor as u32,
                part: self.part as u32,
                len: self.frame.len() as u32,
                squared_error: self.squared_error,
                squared_delta: self.squared_delta,
                output: self.output_sums,
                kept_elements: self.kept_elements,
            },
            |kept| kept.note,
        )
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
