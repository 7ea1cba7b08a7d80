//! One matrix on its grid of levels: how many entries of each level every tile has, how many of them
//! survive, and which.

use crate::codec::delta::DeltaTile;
use crate::codec::mask::MaskPlace;
use crate::codec::{Scratch, runs};
use crate::kernel::{quantise, random, rice, sample};

/// What UltraDelta decides about one matrix.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct GridPlan {
    pub(super) bits: u8,
    /// Bounds of the grid: least and greatest value of the matrix.
    pub(super) low: f32,
    pub(super) high: f32,
    /// Variance of the delta.
    pub(super) variance: f64,
    /// Entries of each level in each tile, a row of levels a tile; later those that survive.
    pub(super) counts: Vec<u32>,
    /// What survivors are multiplied by when they are decoded.
    pub(super) factor: f32,
    /// Rice parameter of the runs between survivors.
    pub(super) rice: u32,
    /// Trace norm of what survives, multiplied by the rescale.
    pub(super) trace_norm: f64,
}

impl GridPlan {
    pub(super) fn n_levels(&self) -> usize {
        1 << self.bits
    }

    /// The value of a level before the rescale (METHODS section 4.3).
    pub(super) fn level(&self, code: usize) -> f64 {
        let (low, high) = (f64::from(self.low), f64::from(self.high));
        code as f64 / (self.n_levels() - 1) as f64 * (high - low) + low
    }

    /// Entries of each level in the whole matrix.
    pub(super) fn totals(&self) -> Vec<u64> {
        let mut totals = vec![0; self.n_levels()];
        for tile in self.counts.chunks_exact(self.n_levels()) {
            totals.iter_mut().zip(tile).for_each(|(total, n)| *total += u64::from(*n));
        }
        totals
    }

    /// Standard deviation of the quantised delta about its mean.
    pub(super) fn quantised_deviation(&self) -> f64 {
        let totals = self.totals();
        let n = totals.iter().sum::<u64>().max(1) as f64;
        let mean_of = |value: &dyn Fn(f64) -> f64| {
            let terms = totals.iter().enumerate();
            terms.map(|(code, n)| value(self.level(code)) * *n as f64).sum::<f64>() / n
        };
        let mean = mean_of(&|x| x);
        mean_of(&|x| (x - mean) * (x - mean)).sqrt()
    }

    /// Turns the counts into survivors at this share of dropped entries: an exact number of each level
    /// over the whole matrix (METHODS section 4.4), split over the tiles in proportion.
    pub(super) fn prune(&mut self, rate: f64) {
        let totals = self.totals();
        let n: u64 = totals.iter().sum();
        let zero: Vec<bool> = (0..self.n_levels()).map(|code| self.level(code) == 0.0).collect();
        let zeros: u64 = totals.iter().zip(&zero).filter(|(_, z)| **z).map(|(n, _)| n).sum();
        // Entries that are zero already count as dropped.
        let zero_share = zeros as f64 / n.max(1) as f64;
        let rate =
            if zeros == n { 1.0 } else { ((rate - zero_share) / (1.0 - zero_share)).max(0.0) };
        let mut survivors = 0;
        for code in 0..totals.len() {
            let dropped = (totals[code] as f64 * rate).round_ties_even() as u64;
            let kept = if zero[code] { 0 } else { totals[code].saturating_sub(dropped) };
            self.split(code, kept, totals[code]);
            survivors += kept;
        }
        self.rice = rice::parameter(survivors, n);
    }

    /// Splits `kept` of the `total` entries of a level over the tiles.
    fn split(&mut self, code: usize, kept: u64, total: u64) {
        let (mut seen, mut given) = (0, 0);
        let n_levels = self.n_levels();
        for tile in self.counts.chunks_exact_mut(n_levels) {
            seen += u64::from(tile[code]);
            // Rounded sums of a share at most 1 never grow by more than the tile has.
            let due = (2 * u128::from(kept) * u128::from(seen) + u128::from(total))
                / (2 * u128::from(total.max(1)));
            tile[code] = (due as u64 - given) as u32;
            given = due as u64;
        }
    }

    /// How many of each level survive in a tile.
    fn kept(&self, tile_idx: usize) -> &[u32] {
        let n = self.n_levels();
        self.counts.get(tile_idx * n..(tile_idx + 1) * n).unwrap_or_default()
    }

    /// Bounds and sums of a tile's delta: least, greatest, sum, sum of squares.
    pub(super) fn spread(tile: &DeltaTile<'_>, scratch: &mut Scratch) -> (f32, f32, f64, f64) {
        let (mut low, mut high, mut sum, mut squares) = (f32::MAX, f32::MIN, 0.0, 0.0);
        for rows in tile.cached_strips() {
            tile.rows(&rows, &mut scratch.strip);
            let (l, h) = quantise::min_max(&scratch.strip);
            (low, high) = (low.min(l), high.max(h));
            sum += quantise::sum(&scratch.strip);
            squares += quantise::sum_squares(&scratch.strip);
        }
        (low, high, sum, squares)
    }

    /// Entries of each level in a tile.
    pub(super) fn count(&self, tile: &DeltaTile<'_>, scratch: &mut Scratch) -> Vec<u32> {
        self.quantise(tile, scratch);
        sample::count_levels(&scratch.codes, self.n_levels())[..self.n_levels()].to_vec()
    }

    /// The survivors of a tile, in `scratch`: ascending positions, and their kept codes. Of the entries of
    /// a level every choice of as many as survive is as likely.
    pub(super) fn survivors(
        &self,
        (tile_idx, place): (usize, MaskPlace),
        tile: &DeltaTile<'_>,
        scratch: &mut Scratch,
    ) {
        self.quantise(tile, scratch);
        let mut left = sample::count_levels(&scratch.codes, self.n_levels());
        let mut due = [0; 256];
        let kept = self.kept(tile_idx);
        due[..kept.len()].copy_from_slice(kept);
        let Scratch { codes, draws, positions, columns: below, kept, .. } = scratch;
        positions.clear();
        kept.clear();
        draws.resize(tile.n_cols, 0);
        for (row, codes) in codes.chunks_exact(tile.n_cols).enumerate() {
            random::row_draws(place.key, place.first_row + row as u64, draws);
            let (counters, first) = ((&mut left, &mut due), (row * tile.n_cols) as u32);
            let out = (&mut *positions, &mut *kept);
            sample::take(codes, draws, self.n_levels(), counters, first, below, out);
        }
    }

    /// All entries of a tile, in `scratch` as survivors would be.
    pub(super) fn all(&self, tile: &DeltaTile<'_>, scratch: &mut Scratch) {
        self.quantise(tile, scratch);
        scratch.positions.clear();
        scratch.positions.extend(0..scratch.codes.len() as u32);
        scratch.kept.clone_from(&scratch.codes);
    }

    /// Fills `scratch.codes` with the codes of a tile.
    fn quantise(&self, tile: &DeltaTile<'_>, scratch: &mut Scratch) {
        scratch.codes.resize(tile.n_rows * tile.n_cols, 0);
        for rows in tile.cached_strips() {
            tile.rows(&rows, &mut scratch.strip);
            let codes = &mut scratch.codes[rows.start * tile.n_cols..rows.end * tile.n_cols];
            let bits = u32::from(self.bits);
            quantise::quantise(&scratch.strip, self.low, self.high, bits, codes);
        }
    }

    pub(super) fn decisions(&self) -> runs::Decisions {
        let &Self { bits, low, high, factor, rice, .. } = self;
        runs::Decisions { bits, low, high, factor, rice }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::Operand;
    use crate::tensor::DType;

    fn plan(bits: u8, low: f32, high: f32, counts: &[u32]) -> GridPlan {
        GridPlan { bits, low, high, counts: counts.to_vec(), ..GridPlan::default() }
    }

    #[test]
    fn every_level_loses_its_exact_share_over_all_tiles() {
        let tiles = [3, 100, 7, 1, 40, 33, 60, 0, 1, 0, 0, 2];
        let mut pruned = plan(2, -1.0, 2.0, &tiles);
        // Levels -1, 0, 1, 2: the 133 zeros count as dropped.
        pruned.prune(0.75);
        let share = (0.75 - 133.0 / 247.0) / (1.0 - 133.0 / 247.0);
        let kept: Vec<u64> = [44.0, 67.0, 3.0]
            .iter()
            .map(|n: &f64| (n - (n * share).round_ties_even()) as u64)
            .collect();
        assert_eq!(pruned.totals(), [kept[0], 0, kept[1], kept[2]]);
        assert!(pruned.counts.iter().zip(&tiles).all(|(kept, all)| kept <= all));
    }

    #[test]
    fn a_level_with_few_entries_vanishes_and_rates_at_the_ends_hold() {
        let mut few = plan(1, 1.0, 2.0, &[1000, 16]);
        few.prune(0.97);
        assert_eq!(few.counts, [30, 0]);
        let mut all = plan(1, 1.0, 2.0, &[1000, 16]);
        all.prune(0.0);
        assert_eq!(all.counts, [1000, 16]);
        let mut none = plan(1, 0.0, 0.0, &[1000, 0]);
        none.prune(0.5);
        assert_eq!(none.counts, [0, 0]);
    }

    #[test]
    fn survivors_are_as_many_as_planned_and_spread_evenly() {
        let (n_rows, n_cols) = (64, 96);
        let values: Vec<f32> = (0..n_rows * n_cols).map(|i| (i as f32 * 0.7).sin()).collect();
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let zeros = vec![0; bytes.len()];
        let operand = |bytes| Operand { dtype: DType::F32, bytes };
        let tile = DeltaTile { ft: operand(&bytes), base: operand(&zeros), n_rows, n_cols };
        let mut scratch = Scratch::default();
        let mut grid = plan(3, -1.0, 1.0, &[]);
        grid.counts = grid.count(&tile, &mut scratch);
        assert_eq!(grid.counts.iter().sum::<u32>() as usize, values.len());
        grid.prune(0.9);
        let mut rows = vec![0u32; n_rows];
        for key in 0..40 {
            let place = MaskPlace { key, first_row: 0 };
            grid.survivors((0, place), &tile, &mut scratch);
            let (positions, codes) = (&scratch.positions, &scratch.kept);
            assert!(positions.is_sorted_by(|a, b| a < b));
            let mut found = vec![0; 8];
            for (at, code) in positions.iter().zip(codes) {
                let value = f64::from(values[*at as usize]);
                assert!((grid.level(usize::from(*code)) - value).abs() <= 1.0 / 7.0 + 1e-6);
                found[usize::from(*code)] += 1;
                rows[*at as usize / n_cols] += 1;
            }
            assert_eq!(found, grid.counts);
        }
        // 40 draws of about 614 over 64 rows: 384 a row, deviation below 20.
        assert!(rows.iter().all(|n| (284..484).contains(n)), "{rows:?}");
    }

    #[test]
    fn the_deviation_is_that_of_the_levels() {
        let grid = plan(1, -1.0, 3.0, &[30, 5, 0, 5]);
        let wanted = (0.75f64 * 0.25 * 16.0).sqrt();
        assert!((grid.quantised_deviation() - wanted).abs() < 1e-12);
    }
}
