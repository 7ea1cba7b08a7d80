//! Statistics gathered before anything is encoded: what a pass over one tile found. Methods merge
//! the tiles of a matrix, in tile order, into their plan.

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
    /// Sum of absolute values of the decoded delta.
    Magnitude(f64),
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
    /// The delta has NaN or infinities: the tile is kept bit for bit, and counts for nothing.
    NonFinite,
}
