//! How the bytes of a model are shared out among its matrices.
//!
//! A code of rate R adds noise of the power `N(R)` times the residual's, so what is lost in all is the
//! sum of `E N(R)` over the matrices, E being the energy of a matrix's residual: equal error in the
//! weights counts the same wherever it is. Bytes go where a byte takes most of that sum away. Since
//! `N` is convex in R, taking the best next step again and again is the best there is.

use std::collections::BinaryHeap;

use crate::codec::trellis::{self, TileNeeds};
use crate::frame;
use crate::kernel::entropy::log2_of;
use crate::kernel::trellis::{N_RATES, NOISE};

/// Entropy of a Gaussian of unit deviation, in bits: `log2(sqrt(2 pi e))`.
const GAUSSIAN_BITS: f64 = 2.047_095_585_180_641;

/// Bytes gains take beside their codes: two settings, a length, and what four states of a coder leave
/// unused.
const GAIN_BYTES: f64 = 13.0;
/// Bits a code takes beyond the entropy, since the coder's tables are but nearly right.
const TABLE_BITS: f64 = 0.04;

/// Chance in a row's gain against that of independent noise of the same power, squared: a path follows
/// each row's own values. Measured at widths 128 and 256.
const CHANCE: f64 = 0.78;

/// Bytes a tile's frame is expected to take at these rates of its rows: to the byte, but for gains and
/// for paths of whole numbers.
fn tile_bytes(tile: &TileNeeds, RowRates { first, second, n_first }: RowRates) -> usize {
    if tile.energy == 0.0 {
        return frame::stored_len(0);
    }
    let paths = trellis::path_bytes((tile.n_rows, tile.n_cols), (first, second, n_first as usize));
    frame::stored_len(paths + tile.factor_bytes + gain_bytes(tile, first.max(second)))
}

/// Bytes the gains of a tile's rows are expected to take: they differ as the rows' powers do, and by
/// chance as far as a code of that noise misses a row's direction.
fn gain_bytes(tile: &TileNeeds, rate: usize) -> usize {
    let chance = (CHANCE * NOISE[rate] / tile.n_cols as f64).sqrt() / std::f64::consts::LN_2;
    let spread = (tile.log_spread * tile.log_spread + chance * chance).sqrt();
    let spread = spread * trellis::gains_per_octave(rate);
    // A step wide, a uniform error is part of what is coded.
    let bits = GAUSSIAN_BITS + log2_of(spread * spread + 1.0 / 12.0) / 2.0 + TABLE_BITS;
    let coded = tile.n_rows as f64 * bits / 8.0 + GAIN_BYTES;
    (coded.round() as usize).min(tile.n_rows)
}

/// Rates of a matrix's rows, by the kernel's code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct RowRates {
    /// Rate of the rows before `n_first`.
    pub(crate) first: usize,
    /// Rate of the others.
    pub(crate) second: usize,
    /// Rows, counted in the matrix.
    pub(crate) n_first: u64,
}

impl RowRates {
    /// The same rate for all rows.
    pub(crate) fn uniform(rate: usize) -> Self {
        Self { first: rate, second: rate, n_first: 0 }
    }

    /// The rates of `n_rows` rows from row `start` of the matrix on.
    pub(crate) fn of_rows(self, start: u64, n_rows: usize) -> Self {
        let n_first = self.n_first.saturating_sub(start).min(n_rows as u64);
        match n_first {
            0 => Self::uniform(self.second),
            n if n == n_rows as u64 => Self::uniform(self.first),
            _ => Self { n_first, ..self },
        }
    }
}

/// Bytes the tiles of a matrix, from the top, are expected to take.
pub(crate) fn matrix_bytes(tiles: &[TileNeeds], rates: RowRates) -> usize {
    let mut start = 0;
    let bytes = |tile: &TileNeeds| {
        let bytes = tile_bytes(tile, rates.of_rows(start, tile.n_rows));
        start += tile.n_rows as u64;
        bytes
    };
    tiles.iter().map(bytes).sum()
}

/// A matrix that could have the next higher rate.
#[derive(Debug, PartialEq)]
struct Step {
    /// Loss it takes away, a byte.
    worth: f64,
    matrix: usize,
    /// The rate it leads to.
    rate: usize,
    bytes: usize,
}

impl Eq for Step {}

impl PartialOrd for Step {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Step {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        // Of two as good the one of the matrix that comes first.
        self.worth.total_cmp(&other.worth).then(other.matrix.cmp(&self.matrix))
    }
}

fn step(matrices: &[&[TileNeeds]], matrix: usize, rate: usize) -> Option<Step> {
    let tiles = matrices[matrix];
    let residual: f64 = tiles.iter().map(|t| t.residual).sum();
    if rate >= N_RATES || residual == 0.0 {
        return None;
    }
    let bytes = |rate| matrix_bytes(tiles, RowRates::uniform(rate));
    let more = bytes(rate).saturating_sub(bytes(rate - 1));
    let worth = residual * (NOISE[rate - 1] - NOISE[rate]) / more.max(1) as f64;
    Some(Step { worth, matrix, rate, bytes: more })
}

/// Shares out `budget` bytes among matrices, each given by its tiles from the top. The last step is
/// taken by as many rows of its matrix as the budget still has bytes for.
///
/// # Errors
/// The least budget that could be met.
pub(crate) fn allocate(
    matrices: &[&[TileNeeds]],
    budget: usize,
) -> std::result::Result<Vec<RowRates>, usize> {
    let mut rates = vec![RowRates::uniform(0); matrices.len()];
    let least: usize = matrices.iter().map(|tiles| matrix_bytes(tiles, rates[0])).sum();
    let mut left = budget.checked_sub(least).ok_or(least)?;
    let mut steps: BinaryHeap<Step> =
        (0..matrices.len()).filter_map(|m| step(matrices, m, 1)).collect();
    while let Some(Step { matrix, rate, bytes, .. }) = steps.pop() {
        if bytes > left {
            rates[matrix] = split(matrices[matrix], rate, left);
            break;
        }
        left -= bytes;
        rates[matrix] = RowRates::uniform(rate);
        steps.extend(step(matrices, matrix, rate + 1));
    }
    Ok(rates)
}

/// As many rows of a matrix at this rate, the others at the one below it, as `left` bytes pay for.
fn split(tiles: &[TileNeeds], rate: usize, left: usize) -> RowRates {
    let split = |n_first| RowRates { first: rate, second: rate - 1, n_first };
    let most = matrix_bytes(tiles, split(0)) + left;
    let (mut fits, mut end) = (0, tiles.iter().map(|t| t.n_rows as u64).sum());
    while fits + 1 < end {
        let middle = (fits + end) / 2;
        if matrix_bytes(tiles, split(middle)) <= most {
            fits = middle;
        } else {
            end = middle;
        }
    }
    if fits == 0 { RowRates::uniform(rate - 1) } else { split(fits) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tile(n_rows: usize, n_cols: usize, variance: f64) -> TileNeeds {
        let energy = variance * (n_rows * n_cols) as f64;
        TileNeeds { n_rows, n_cols, energy, residual: energy, factor_bytes: 0, log_spread: 0.2 }
    }

    fn spent(matrices: &[&[TileNeeds]], rates: &[RowRates]) -> usize {
        matrices.iter().zip(rates).map(|(tiles, rates)| matrix_bytes(tiles, *rates)).sum()
    }

    fn lost(matrices: &[&[TileNeeds]], rates: &[RowRates]) -> f64 {
        let of = |(tiles, rates): (&&[TileNeeds], &RowRates)| {
            let n_rows: usize = tiles.iter().map(|t| t.n_rows).sum();
            let residual: f64 = tiles.iter().map(|t| t.residual).sum();
            let share = rates.n_first as f64 / n_rows as f64;
            residual * (share * NOISE[rates.first] + (1.0 - share) * NOISE[rates.second])
        };
        matrices.iter().zip(rates).map(of).sum()
    }

    #[test]
    fn a_budget_is_spent_to_the_row() {
        let a = [tile(256, 1024, 1.0); 3];
        let b = [tile(512, 512, 9.0), tile(100, 512, 9.0)];
        let c = [tile(300, 256, 0.0)];
        let matrices = [&a[..], &b[..], &c[..]];
        let n: usize = matrices.iter().flat_map(|m| m.iter()).map(|t| t.n_rows * t.n_cols).sum();
        for bits in [0.05, 0.0625, 0.1, 0.3, 0.77, 1.0, 2.0, 3.3] {
            let budget = (bits * n as f64 / 8.0) as usize;
            let rates = allocate(&matrices, budget).unwrap();
            let spent = spent(&matrices, &rates);
            assert!(spent <= budget && budget - spent < 1024, "{bits}: {spent} of {budget}");
            // What is nine times as strong is never coded more coarsely; what is nothing, not at all.
            assert!(rates[1].second >= rates[0].second, "{bits}: {rates:?}");
            assert_eq!(rates[2], RowRates::uniform(0));
        }
    }

    #[test]
    fn no_other_choice_of_whole_rates_loses_less() {
        let matrices = [[tile(64, 1000, 1.0)], [tile(64, 500, 3.0)], [tile(32, 700, 0.2)]];
        let matrices: Vec<_> = matrices.iter().map(|m| &m[..]).collect();
        for budget in [1200, 3000, 9000, 20000] {
            let best = allocate(&matrices, budget).unwrap();
            let n = N_RATES;
            for all in 0..n * n * n {
                let rates = [all % n, all / n % n, all / n / n].map(RowRates::uniform);
                if spent(&matrices, &rates) <= budget {
                    assert!(lost(&matrices, &best) <= lost(&matrices, &rates) * 1.001, "{rates:?}");
                }
            }
        }
    }

    #[test]
    fn too_small_a_budget_says_the_least() {
        let matrices = [&[tile(64, 64, 1.0)][..]];
        let least = allocate(&matrices, 10).unwrap_err();
        assert!(allocate(&matrices, least).is_ok() && allocate(&matrices, least - 1).is_err());
        assert_eq!(allocate(&[], 0), Ok(Vec::new()));
    }

    #[test]
    fn rows_of_a_tile_know_their_rate() {
        let rates = RowRates { first: 3, second: 2, n_first: 10 };
        assert_eq!(rates.of_rows(0, 8), RowRates::uniform(3));
        assert_eq!(rates.of_rows(8, 8), RowRates { first: 3, second: 2, n_first: 2 });
        assert_eq!(rates.of_rows(10, 8), RowRates::uniform(2));
    }
}
