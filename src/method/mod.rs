//! Methods decide: which tensors, how many bits, which survivors. One file per paper.
//!
//! A method reads a matrix tile by tile: some survey passes, whose results it merges into a plan, then
//! the encode pass. After a joint pass it decides about all matrices together. How often each reads its
//! input is stated in its file.

pub(crate) mod auto;
pub(crate) mod bitdelta;
pub(crate) mod custom;
pub(crate) mod dare;
pub(crate) mod dbms;
pub(crate) mod delta_dct;
pub(crate) mod deltadq;
pub(crate) mod lossless;
pub(crate) mod policy;
pub(crate) mod ultradelta;

pub(crate) use auto::allocate::RowRates;
pub use auto::{Auto, MatrixRate, Quality, RatePlan, Size};
pub use bitdelta::{BitDelta, SignScale};
pub use custom::{Custom, CustomMethod, CustomTile};
pub use dare::Dare;
pub use dbms::{BaseShift, BaseVector, EtaRule, Score, Tune};
pub use delta_dct::{Allocation, DeltaDct};
pub use deltadq::{DeltaDq, GroupIndex};
pub use policy::{Policy, Rest};
pub use ultradelta::{Rates, TraceOf, TraceReference, UltraDelta};

use crate::codec::delta::DeltaTile;
use crate::codec::mask::MaskPlace;
use crate::codec::{CodecId, Scratch, Target};
use crate::error::{Error, Result};
use crate::survey::TileStats;

/// Stored code of a method. Codes are never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub(crate) enum MethodId {
    Lossless = 1,
    DeltaDct = 2,
    BitDelta = 3,
    Dare = 4,
    DeltaDq = 5,
    UltraDelta = 6,
    /// What `auto` decides: rates of trellis paths. Nothing stored is left to a choice.
    Trellis = 7,
    /// What a caller's own method left, stored bit for bit: its settings name it.
    Custom = 8,
}

/// Names of stored methods, as the command line and reports use them.
const NAMES: &[(MethodId, &str)] = &[
    (MethodId::Lossless, "lossless"),
    (MethodId::DeltaDct, "delta-dct"),
    (MethodId::BitDelta, "bitdelta"),
    (MethodId::Dare, "dare"),
    (MethodId::DeltaDq, "deltadq"),
    (MethodId::UltraDelta, "ultradelta"),
    (MethodId::Trellis, "trellis"),
    (MethodId::Custom, "custom"),
];

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
    /// Signs of the linear layers' deltas with one scale a matrix, the rest bit for bit.
    BitDelta(BitDelta),
    /// A random share of the linear layers' deltas, rescaled, the rest bit for bit.
    Dare(Dare),
    /// Quantised survivors of groups of the linear layers' deltas, the rest bit for bit.
    DeltaDq(DeltaDq),
    /// Quantised survivors of the linear layers' deltas, drawn level by level, the rest bit for bit.
    UltraDelta(UltraDelta),
    /// The best quality for an asked size: directions and trellis paths of the linear layers' deltas,
    /// the rest bit for bit.
    Auto(Auto),
    /// What the caller's own code leaves of the linear layers' deltas, the rest bit for bit.
    Custom(Custom),
}

impl Method {
    /// Its name on the command line.
    pub fn name(&self) -> &'static str {
        match self {
            Method::Auto(_) => "auto",
            _ => name_of(self.id() as u16),
        }
    }

    pub(crate) fn id(&self) -> MethodId {
        match self {
            Method::Lossless => MethodId::Lossless,
            Method::DeltaDct(_) => MethodId::DeltaDct,
            Method::BitDelta(_) => MethodId::BitDelta,
            Method::Dare(_) => MethodId::Dare,
            Method::DeltaDq(_) => MethodId::DeltaDq,
            Method::UltraDelta(_) => MethodId::UltraDelta,
            Method::Auto(_) => MethodId::Trellis,
            Method::Custom(_) => MethodId::Custom,
        }
    }

    /// All its settings, as a person would type them.
    pub(crate) fn settings(&self) -> Vec<(String, String)> {
        match self {
            Method::Lossless => Vec::new(),
            Method::DeltaDct(m) => m.settings(),
            Method::BitDelta(m) => m.settings(),
            Method::Dare(m) => m.settings(),
            Method::DeltaDq(m) => m.settings(),
            Method::UltraDelta(m) => m.settings(),
            Method::Auto(m) => m.settings(),
            Method::Custom(m) => m.settings(),
        }
    }

    /// What decides the lossy tensors; `None` if there are none.
    pub(crate) fn lossy(&self) -> Option<&dyn LossyMethod> {
        match self {
            Method::Lossless => None,
            Method::DeltaDct(m) => Some(m),
            Method::BitDelta(m) => Some(m),
            Method::Dare(m) => Some(m),
            Method::DeltaDq(m) => Some(m),
            Method::UltraDelta(m) => Some(m),
            Method::Auto(m) => Some(m),
            Method::Custom(m) => Some(m),
        }
    }

    /// Whether it wants to know the trace norms of the archive's variants.
    pub(crate) fn wants_trace_norms(&self) -> bool {
        matches!(self, Method::UltraDelta(m) if m.trace_reference == TraceReference::Archive)
    }

    /// Says whether every setting is in its range.
    ///
    /// # Errors
    /// `InvalidArgument` naming the setting and its range.
    pub fn validate(&self) -> Result<()> {
        match self {
            Method::Lossless => Ok(()),
            Method::DeltaDct(m) => m.validate(),
            Method::BitDelta(m) => m.validate(),
            Method::Dare(m) => m.validate(),
            Method::DeltaDq(m) => m.validate(),
            Method::UltraDelta(m) => m.validate(),
            Method::Auto(m) => m.validate(),
            Method::Custom(m) => m.validate(),
        }
    }
}

/// What is known about one matrix when a pass over it starts.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct MatrixPlan {
    /// Tiles that are kept bit for bit, since their delta is not finite.
    pub(crate) exact: Vec<bool>,
    pub(crate) decided: Decided,
}

impl MatrixPlan {
    /// Whether this tile of the matrix is kept bit for bit.
    pub(crate) fn is_exact(&self, tile_idx: usize) -> bool {
        self.exact.get(tile_idx).copied().unwrap_or(false)
    }
}

/// What a method has decided about one matrix so far.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) enum Decided {
    /// Nothing yet, or nothing is to be decided.
    #[default]
    Nothing,
    Patches(delta_dct::PatchPlan),
    Signs(bitdelta::SignPlan),
    Affine(deltadq::AffinePlan),
    Grid(ultradelta::GridPlan),
    Auto(auto::AutoPlan),
}

/// One tile as a pass meets it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TileAt<'a> {
    pub(crate) plan: &'a MatrixPlan,
    /// Name of the tensor.
    pub(crate) tensor: &'a str,
    /// Position in the matrix.
    pub(crate) tile_idx: usize,
    pub(crate) delta: DeltaTile<'a>,
    /// Where the tile stands, for methods that draw.
    pub(crate) place: MaskPlace,
}

/// How large a matrix is, and in how many tiles it is cut.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MatrixCut {
    pub(crate) n_rows: u64,
    pub(crate) n_cols: u64,
    pub(crate) n_tiles: u64,
}

/// One of all matrices, as a joint decision meets it.
#[derive(Debug)]
pub(crate) struct Joint<'a> {
    pub(crate) n_elements: u64,
    pub(crate) decided: &'a mut Decided,
}

/// Facts about a whole variant that a method found while it was encoded: name and value.
pub(crate) type Measured = Vec<(String, String)>;

/// Name of a variant's trace norm among what was measured.
pub(crate) const TRACE_NORM: &str = "trace-norm";

/// Trace norms of the variants an archive holds already.
pub(crate) type TraceNorms = Vec<f64>;

/// A method with loss.
pub(crate) trait LossyMethod: std::fmt::Debug + Sync {
    /// Tiles are strips of a multiple of so many rows.
    fn patch(&self) -> u16;

    /// Survey passes over each matrix before it is encoded; none unless a method says otherwise.
    fn n_passes(&self) -> usize {
        0
    }

    /// Most elements, in whole tiles, that are surveyed and decided together: a larger matrix is cut into
    /// bands of rows. A method that has none decides whole matrices.
    fn band_elements(&self) -> u64 {
        u64::MAX
    }

    /// One survey pass over one tile. Without one nothing is known, and the tile is kept exactly.
    fn survey(&self, _pass: usize, _at: &TileAt<'_>, _scratch: &mut Scratch) -> TileStats {
        TileStats::NonFinite
    }

    /// Whether this is what a survey pass finds in a tile that it has not seen yet in this run: what an
    /// earlier run found may come from anywhere.
    fn finds(&self, _pass: usize, stats: &TileStats) -> bool {
        *stats == TileStats::NonFinite
    }

    /// What a pass found over a whole matrix that was merged, where that stands for what its tiles had and is
    /// much less: a run that resumes is given it for the matrix's first tile.
    fn condensed(&self, _pass: usize, _decided: &Decided) -> Option<TileStats> {
        None
    }

    /// Passes, ascending, after which all matrices of the model are decided together.
    fn joint_passes(&self) -> &'static [usize] {
        &[]
    }

    /// Merges what a pass found, in tile order, into what is decided about a matrix of `n_elements`.
    fn merge(
        &self,
        _pass: usize,
        _decided: &Decided,
        _n_elements: u64,
        _stats: &[TileStats],
    ) -> Decided {
        Decided::Nothing
    }

    /// Decides about all matrices, in file order, after a joint pass was merged for each of them.
    ///
    /// # Errors
    /// `InvalidArgument` if what was asked for cannot be had of these matrices.
    fn decide_jointly(
        &self,
        _pass: usize,
        _earlier: &TraceNorms,
        _matrices: &mut [Joint<'_>],
    ) -> Result<Measured> {
        Ok(Measured::new())
    }

    /// Bytes that surveys and plans of these matrices hold in memory between passes.
    fn held_bytes(&self, _matrices: &mut dyn Iterator<Item = MatrixCut>) -> u64 {
        0
    }

    /// Bytes a worker needs for a tile of so many elements, beyond those of any method.
    fn worker_bytes(&self, _n_elements: u64) -> u64 {
        0
    }

    /// Whether it says what a tile restores to in values, which the codec of exact tiles then stores: such
    /// tiles differ from the fine-tune's, and a shifted base has no place in them.
    fn leaves_values(&self) -> bool {
        false
    }

    /// Appends the payload of one tile; `None` if its delta is not finite, so that it cannot.
    fn encode(&self, at: &TileAt<'_>, scratch: &mut Scratch, out: &mut Vec<u8>) -> Option<CodecId>;

    /// Most bytes of the payload of a tile.
    fn max_len(&self, target: &Target) -> usize;

    /// Bits a parameter in the paper's own way of counting, and what that way is.
    fn paper_bits(&self) -> (f64, &'static str);
}

/// Bits an entry of a mask takes in which this share is set.
fn binary_entropy(share: f64) -> f64 {
    -share * share.log2() - (1.0 - share) * (1.0 - share).log2()
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
        assert_eq!(name_of(3), "bitdelta");
        assert_eq!(name_of(4), "dare");
        assert_eq!(name_of(5), "deltadq");
        assert_eq!(name_of(6), "ultradelta");
        assert_eq!(name_of(7), "trellis");
        assert_eq!(name_of(8), "custom");
        assert_eq!(name_of(99), "unknown");
    }
}
