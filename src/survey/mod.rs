//! Statistics gathered before anything is encoded: what a pass over one tile found. Methods merge
//! the tiles of a matrix, in tile order, into their plan.

pub(crate) mod held;
pub(crate) mod stored;
pub(crate) mod trace_norm;

use std::sync::Arc;

use crate::codec::trellis::TileNeeds;
use crate::survey::held::Held;

/// What one pass found in one tile.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum TileStats {
    /// Sum of squares of each patch, and the tile's sum of absolute values.
    Patches {
        /// One for each patch, row by row.
        scores: Vec<f64>,
        /// Over the whole delta of the tile.
        sum_abs: f64,
    },
    /// Sum of absolute values of the decoded delta, and the tile's payload but for what follows from the sums,
    /// if it is held.
    Magnitude(f64, Option<Arc<Held>>),
    /// Sums over the delta, or over what earlier bit planes left of it.
    Residual {
        /// Of absolute values of the residual.
        sum_abs: f64,
        /// Of squares of the delta.
        sum_squares: f64,
        /// Of the delta times the residual's sign.
        along_sign: f64,
    },
    /// The least and greatest survivor of a mask.
    Range {
        /// The least.
        low: f32,
        /// The greatest.
        high: f32,
    },
    /// Bounds and moments of the delta.
    Spread {
        /// The least and greatest entry.
        bounds: (f32, f32),
        /// Sum and sum of squares.
        sums: (f64, f64),
    },
    /// How many entries fall on each level of a grid.
    Counts(Vec<u32>),
    /// Entries that survive, in a tile of rows of `n_cols`.
    Survivors {
        n_rows: usize,
        n_cols: usize,
        /// Places in the tile, ascending.
        positions: Vec<u32>,
        codes: Vec<u8>,
    },
    /// What is left of a tile when its leading directions are peeled off, and these, if they are held.
    Needs(TileNeeds, Option<Arc<Held>>),
    /// The trace norm of the whole matrix, which what its tiles have came to: of the first tile, and the
    /// others have nothing more to say.
    TraceNorm(f64),
    /// The delta has NaN or infinities: the tile is kept bit for bit, and counts for nothing.
    NonFinite,
}
