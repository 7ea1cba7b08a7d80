//! What is taken off a tile before its rows are coded, and what that leaves.

use crate::codec::Scratch;
use crate::codec::delta::DeltaTile;
use crate::codec::trellis::side::factor_bytes;
use crate::kernel::low_rank::{self, Factors};
use crate::kernel::{entropy, quantise};

/// Most directions of a tile.
pub(super) const MAX_RANK: usize = 64;
/// Bounds of the step: what directions add to a tile is then finite.
pub(super) const STEPS: std::ops::RangeInclusive<f32> = 1e-30..=1e30;

/// Which directions are taken off a tile.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Directions {
    /// What a code of one stands for, on both sides: 1e-30 to 1e30, else none are taken.
    pub(crate) step: f32,
    /// Least singular value, divided by the root of the tile's longer side.
    pub(crate) floor: f32,
    /// Most of them; also bounded by 64 and by both sides of the tile.
    pub(crate) max_rank: usize,
}

/// What a tile would cost and keep, before its rate is known.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Survey {
    /// Sum of the delta's squares.
    pub(crate) energy: f64,
    /// Sum of the squares that directions leave.
    pub(crate) residual: f64,
    /// Bytes of the directions in the payload, to one or two.
    pub(crate) factor_bytes: usize,
    /// Standard deviation of log2 of the residual rows' root mean square, over rows with power.
    pub(crate) log_spread: f64,
}

/// What a tile would cost and keep; `None` if its delta is not finite. `choose` says which directions are
/// taken off a delta of this energy.
pub(crate) fn survey(
    tile: &DeltaTile<'_>,
    choose: impl FnOnce(f64) -> Option<Directions>,
    scratch: &mut Scratch,
) -> Option<Survey> {
    let energy = delta(tile, &mut scratch.residual)?;
    let factors = take_off(tile, choose(energy).as_ref(), &mut scratch.residual);
    let (mut residual, mut n, mut sum, mut squares) = (0.0, 0.0, 0.0, 0.0);
    for row in scratch.residual.chunks_exact(tile.n_cols) {
        let power = quantise::sum_squares(row);
        residual += power;
        if power > 0.0 {
            let log = entropy::log2_of(power) / 2.0;
            (n, sum, squares) = (n + 1.0, sum + log, squares + log * log);
        }
    }
    let log_spread =
        if n == 0.0 { 0.0 } else { (squares / n - (sum / n) * (sum / n)).max(0.0).sqrt() };
    Some(Survey { energy, residual, factor_bytes: factor_bytes(&factors), log_spread })
}

/// Fills `values` with a tile's delta and returns its sum of squares; `None` if that is not finite.
pub(super) fn delta(tile: &DeltaTile<'_>, values: &mut Vec<f32>) -> Option<f64> {
    tile.rows(&(0..tile.n_rows), values);
    let energy: f64 = values.chunks_exact(tile.n_cols).map(quantise::sum_squares).sum();
    energy.is_finite().then_some(energy)
}

/// Takes directions off the delta of a tile.
pub(super) fn take_off(
    tile: &DeltaTile<'_>,
    directions: Option<&Directions>,
    values: &mut [f32],
) -> Factors {
    match directions {
        Some(Directions { step, floor, max_rank }) if STEPS.contains(step) => {
            let most = greatest_rank(tile.n_rows, tile.n_cols).min(*max_rank);
            low_rank::peel(values, tile.n_cols, *step, *floor, most)
        }
        _ => Factors::default(),
    }
}

/// Most directions of a tile of this size.
pub(super) fn greatest_rank(n_rows: usize, n_cols: usize) -> usize {
    MAX_RANK.min(n_rows).min(n_cols)
}
