//! What is taken off a tile before its rows are coded, and what that leaves.

use crate::codec::Scratch;
use crate::codec::delta::DeltaTile;
use crate::codec::trellis::side::factor_bytes;
use crate::kernel::low_rank::{self, Factors};
use crate::kernel::{entropy, quantise};

/// Most directions of a tile.
pub(crate) const MAX_RANK: usize = 64;
/// Bounds of the step: what directions add to a tile is then finite.
pub(super) const STEPS: std::ops::RangeInclusive<f32> = 1e-30..=1e30;

/// Which directions are taken off a tile: those that take more bits off the path than their codes need.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Directions {
    /// What a code of one stands for, on both sides: 1e-30 to 1e30, else none are taken.
    pub(crate) step: f32,
    /// Mean square error of an entry that the path is to leave.
    pub(crate) level: f64,
    /// Most of them; also bounded by 64 and by both sides of the tile.
    pub(crate) max_rank: usize,
}

/// What directions of a tile save and cost.
struct Balance {
    directions: Directions,
    n_rows: f64,
    n_cols: f64,
    /// Squares of the tile less those of what was taken off.
    energy: f64,
}

impl Balance {
    /// Whether one more direction of this singular value pays; it then counts as taken off.
    ///
    /// A path that leaves the error D of values of variance V takes `log2(1 + V / D) / 2` bits an entry;
    /// V + D is what changes. The rounding of codes stays in the rest, a twelfth of a squared step each.
    fn pays(&mut self, sigma: f64) -> bool {
        let Directions { step, level, .. } = self.directions;
        let (step, n_entries) = (f64::from(step), self.n_rows * self.n_cols);
        let bits = |n: f64| n * code_bits(sigma * sigma / n / (step * step));
        let needed = bits(self.n_rows) + bits(self.n_cols);
        let rounding = (self.n_rows + self.n_cols) * step * step / 12.0;
        let before = self.energy / n_entries + level;
        let after = before - (sigma * sigma - rounding) / n_entries;
        // A singular value is only nearly known.
        let after = after.max(level).max(f64::MIN_POSITIVE);
        let saved = n_entries / 2.0 * (entropy::log2_of(before) - entropy::log2_of(after));
        let pays = saved > needed;
        if pays {
            self.energy = ((after - level) * n_entries).max(0.0);
        }
        pays
    }
}

/// Bits of a normal number of this variance once it is rounded to whole numbers: `log2(2 pi e variance) / 2`
/// if that is large, and nearly so where it is small.
fn code_bits(variance: f64) -> f64 {
    const TWO_PI_E: f64 = 17.079_468_445_347_132;
    entropy::log2_of(1.0 + TWO_PI_E * variance) / 2.0
}

/// What a tile would cost and keep, before its rate is known.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct TileNeeds {
    pub(crate) n_rows: usize,
    pub(crate) n_cols: usize,
    /// Sum of the delta's squares; a tile without any is kept exactly, in next to no bytes.
    pub(crate) energy: f64,
    /// Sum of the squares that directions leave.
    pub(crate) residual: f64,
    /// Bytes of the directions in the payload, to one or two.
    pub(crate) factor_bytes: usize,
    /// Standard deviation of log2 of the residual rows' root mean square, over rows with power.
    pub(crate) log_spread: f64,
}

/// What a tile would cost and keep, and the right codes of its directions; `None` if its delta is not
/// finite. `choose` says which directions are taken off a delta of this energy.
pub(crate) fn survey(
    tile: &DeltaTile<'_>,
    choose: impl FnOnce(f64) -> Option<Directions>,
    scratch: &mut Scratch,
) -> Option<(TileNeeds, Vec<i8>)> {
    let (energy, values) = delta(tile, &mut scratch.residual)?;
    let factors = take_off(tile, energy, choose(energy), None, values);
    let (mut residual, mut n, mut sum, mut squares) = (0.0, 0.0, 0.0, 0.0);
    for row in values.chunks_exact(tile.n_cols) {
        let power = quantise::sum_squares(row);
        residual += power;
        if power > 0.0 {
            let log = entropy::log2_of(power) / 2.0;
            (n, sum, squares) = (n + 1.0, sum + log, squares + log * log);
        }
    }
    let log_spread =
        if n == 0.0 { 0.0 } else { (squares / n - (sum / n) * (sum / n)).max(0.0).sqrt() };
    let (n_rows, n_cols, factor_bytes) = (tile.n_rows, tile.n_cols, factor_bytes(&factors));
    let needs = TileNeeds { n_rows, n_cols, energy, residual, factor_bytes, log_spread };
    Some((needs, factors.right))
}

/// Sum of squares of a tile's delta, and the delta, for which `buffer` is; `None` if that is not finite.
pub(super) fn delta<'b>(
    tile: &DeltaTile<'_>,
    buffer: &'b mut Vec<f32>,
) -> Option<(f64, &'b mut [f32])> {
    let values = tile.all(buffer);
    let energy: f64 = values.chunks_exact(tile.n_cols).map(quantise::sum_squares).sum();
    energy.is_finite().then_some((energy, values))
}

/// Takes directions off the delta of a tile, which has this energy; `known` are the right codes that the
/// survey of the tile found.
pub(super) fn take_off(
    tile: &DeltaTile<'_>,
    energy: f64,
    directions: Option<Directions>,
    known: Option<&[i8]>,
    values: &mut [f32],
) -> Factors {
    match (directions, known) {
        (Some(Directions { step, .. }), Some(right)) => {
            low_rank::peel_again(values, tile.n_cols, step, right)
        }
        (Some(directions), None) if STEPS.contains(&directions.step) => {
            let Directions { step, max_rank, .. } = directions;
            let most = greatest_rank(tile.n_rows, tile.n_cols).min(max_rank);
            let (n_rows, n_cols) = (tile.n_rows as f64, tile.n_cols as f64);
            let mut balance = Balance { directions, n_rows, n_cols, energy };
            low_rank::peel(values, tile.n_cols, step, most, |sigma| balance.pays(sigma))
        }
        _ => Factors::default(),
    }
}

/// Most directions of a tile of this size.
pub(super) fn greatest_rank(n_rows: usize, n_cols: usize) -> usize {
    MAX_RANK.min(n_rows).min(n_cols)
}
