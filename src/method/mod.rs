//! Methods decide: which tensors, how many bits, which survivors. One file per paper.
//!
//! A method reads a matrix tile by tile: some survey passes, whose results it merges into a plan, then
//! the encode pass. How often each reads its input is stated in its file.

pub(crate) mod delta_dct;
pub(crate) mod lossless;
pub(crate) mod policy;

pub use delta_dct::{Allocation, DeltaDct};
pub use policy::Policy;

use crate::codec::patches::DeltaStrips;
use crate::codec::{CodecId, Scratch};
use crate::error::{Error, Result};
use crate::survey::TileStats;

/// Stored code of a method. Codes are never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub(crate) enum MethodId {
    Lossless = 1,
    DeltaDct = 2,
}

/// Names of stored methods, as the command line and reports use them.
const NAMES: &[(MethodId, &str)] =
    &[(MethodId::Lossless, "lossless"), (MethodId::DeltaDct, "delta-dct")];

/// The name of a stored method.
pub(crate) fn name_of(code: u16) -> &'static str {
    NAMES.iter().find(|(id, _)| *id as u16 == code).map_or("unknown", |(_, name)| name)
}

/// How a fine-tune is to be stored.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Method {
    /// Every tensor bit for bit.
    Lossless,
    /// Quantised DCT patches of the linear layers, the rest bit for bit.
    DeltaDct(DeltaDct),
}

impl Method {
    /// Its name on the command line.
    pub fn name(&self) -> &'static str {
        name_of(self.id() as u16)
    }

    pub(crate) fn id(&self) -> MethodId {
        match self {
            Method::Lossless => MethodId::Lossless,
            Method::DeltaDct(_) => MethodId::DeltaDct,
        }
    }

    /// All its settings, as a person would type them.
    pub(crate) fn settings(&self) -> Vec<(String, String)> {
        match self {
            Method::Lossless => Vec::new(),
            Method::DeltaDct(m) => m.settings(),
        }
    }

    /// What decides the lossy tensors; `None` if there are none.
    pub(crate) fn lossy(&self) -> Option<&dyn LossyMethod> {
        match self {
            Method::Lossless => None,
            Method::DeltaDct(m) => Some(m),
        }
    }

    /// Says whether every setting is in its range.
    ///
    /// # Errors
    /// `InvalidArgument` naming the setting and its range.
    pub fn validate(&self) -> Result<()> {
        match self {
            Method::Lossless => Ok(()),
            Method::DeltaDct(m) => m.validate(),
        }
    }
}

/// What is known about one matrix when a pass over it starts.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct MatrixPlan {
    /// First patch of each tile, then the number of all patches.
    starts: Vec<usize>,
    classes: Vec<u8>,
    /// Tiles that are kept bit for bit.
    exact: Vec<bool>,
    exponent: i16,
    /// Mean absolute value of the delta, to which rescaling brings a matrix.
    mean_abs: f64,
    factor: f32,
}

impl MatrixPlan {
    /// Whether this tile of the matrix is kept bit for bit.
    pub(crate) fn is_exact(&self, tile_idx: usize) -> bool {
        self.exact.get(tile_idx).copied().unwrap_or(false)
    }
}

/// A method with loss.
pub(crate) trait LossyMethod: std::fmt::Debug + Sync {
    /// Tiles are strips of a multiple of so many rows.
    fn patch(&self) -> u16;

    /// Survey passes over each matrix before it is encoded.
    fn n_passes(&self) -> usize;

    /// One survey pass over one tile; `tile_idx` counts inside the matrix.
    fn survey(
        &self,
        pass: usize,
        plan: &MatrixPlan,
        tile_idx: usize,
        delta: &DeltaStrips<'_>,
        scratch: &mut Scratch,
    ) -> TileStats;

    /// Merges a pass's results, in tile order, into the plan of a matrix of `n_elements`.
    fn merge(&self, plan: &MatrixPlan, n_elements: u64, stats: &[TileStats]) -> MatrixPlan;

    /// Appends the payload of one tile.
    fn encode(
        &self,
        plan: &MatrixPlan,
        tile_idx: usize,
        delta: &DeltaStrips<'_>,
        scratch: &mut Scratch,
        out: &mut Vec<u8>,
    ) -> CodecId;

    /// Bits a parameter in the paper's own way of counting, and what that way is.
    fn paper_bits(&self) -> (f64, &'static str);
}

/// An argument outside its range.
fn out_of_range(what: &str, given: impl std::fmt::Display, range: &str) -> Error {
    Error::invalid_argument(format!("{what} {given} is out of range; it takes {range}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_names_never_change() {
        assert_eq!(name_of(1), "lossless");
        assert_eq!(name_of(2), "delta-dct");
        assert_eq!(name_of(99), "unknown");
    }
}
