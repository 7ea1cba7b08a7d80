//! Leading directions of a matrix, peeled off as pairs of small integer vectors.
//!
//! Eight directions are found at a time by block power iteration from random signs, and sorted by a
//! small eigenvalue problem (Halko, Martinsson and Tropp, "Finding structure with randomness", 2011,
//! algorithm 4.4). What is taken off is what the codes stand for, so that rounding stays in the rest.

use std::ops::Range;

use crate::kernel::block::{BLOCK, Entry, multiply, multiply_transposed};
use crate::kernel::{jacobi, joined, quantise, random};

/// Times the block is multiplied by the matrix and back.
const ROUNDS: usize = 3;
/// Key of the draws that the search starts from.
const START_KEY: u64 = 0x4c4f_5752_414e_4b31;
/// A vector of which the ones before leave less than this share of its squared length is none.
const LEAST_REST: f64 = 1e-8;
/// Lanes of a sum along a row.
const LANES: usize = 16;
/// The greatest code.
const GREATEST: i32 = 127;
/// What is added to a magnitude before it is cut to an integer: a little less than to the nearest.
const ROUNDING: f32 = 0.4;
/// Greatest magnitude of a matrix that is looked at: its products stay numbers.
const PEAK: f32 = 1e30;

/// A small matrix.
type Square = [[f64; BLOCK]; BLOCK];

/// Directions of a matrix, one after another: what row `i` has of direction `c` is `left[c][i]` steps
/// along the unit vector of `right[c]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Factors {
    /// Directions.
    pub rank: usize,
    /// As many codes as the matrix has columns for each direction.
    pub right: Vec<i8>,
    /// As many codes as the matrix has rows for each direction.
    pub left: Vec<i8>,
}

/// Takes the leading directions off a matrix of `n_cols` columns, the largest of each block of eight
/// first, and returns them. Ends after `max_rank` directions, or with the block in which a singular value
/// does not pay, or a direction is nothing in units of `step`; there is one more block if codes of that
/// one could not reach their values. `pays` is asked once for each direction, in order, and what it says
/// yes to is taken off unless it is nothing. Matrices with magnitudes beyond 1e30 have no directions.
/// Values are finite, `step` is positive.
pub fn peel(
    values: &mut [f32],
    n_cols: usize,
    step: f32,
    max_rank: usize,
    mut pays: impl FnMut(f64) -> bool,
) -> Factors {
    let mut factors = Factors::default();
    let (least, most) = quantise::min_max(values);
    let peak = most.max(-least);
    if n_cols == 0 || peak == 0.0 || peak > PEAK {
        return factors;
    }
    let n_rows = values.len() / n_cols;
    let (mut left, mut right) = (vec![[0.0; BLOCK]; n_rows], vec![[0.0; BLOCK]; n_cols]);
    let mut flat = vec![0.0; BLOCK * n_cols];
    for block in 0.. {
        random_signs(block, &mut right);
        let mut is_cut = false;
        for (sigma, weights) in leading(values, n_cols, &mut flat, &mut left, &mut right) {
            if factors.rank >= max_rank {
                return factors;
            }
            let along = |entry: &Entry| {
                let sum = entry.iter().zip(&weights).map(|(x, w)| f64::from(*x) * w).sum::<f64>();
                sum as f32
            };
            let codes = right.iter().map(|entry| code(along(entry) / step));
            if pays(sigma) && factors.push(values, codes, step) {
                is_cut |= factors.last_is_cut(n_cols);
            } else if is_cut {
                break;
            } else {
                return factors;
            }
        }
    }
    factors
}

/// Takes directions off a matrix of `n_cols` columns that [`peel`] found in the same matrix with the same
/// `step`: `right` has their right codes. What is returned and left is the same.
pub fn peel_again(values: &mut [f32], n_cols: usize, step: f32, right: &[i8]) -> Factors {
    let mut factors = Factors::default();
    for codes in right.chunks_exact(n_cols.max(1)) {
        factors.push(values, codes.iter().copied(), step);
    }
    factors
}

impl Factors {
    /// Takes the direction with these right codes off the matrix; false if it is nothing.
    fn push(&mut self, values: &mut [f32], right: impl Iterator<Item = i8>, step: f32) -> bool {
        let before = (self.right.len(), self.left.len());
        self.right.extend(right);
        let codes = &self.right[before.0..];
        let norm = length(codes);
        if norm != 0.0 {
            let unit: Vec<f32> = codes.iter().map(|q| f32::from(*q)).collect();
            self.left.resize(before.1 + values.len() / unit.len(), 0);
            take_off(values, &unit, norm, step, &mut self.left[before.1..]);
        }
        let is_something = self.left[before.1..].iter().any(|p| *p != 0);
        if is_something {
            self.rank += 1;
        } else {
            self.right.truncate(before.0);
            self.left.truncate(before.1);
        }
        is_something
    }

    /// Whether the last direction has codes that may stand for more than they can.
    fn last_is_cut(&self, n_cols: usize) -> bool {
        let n_rows = self.left.len() / self.rank;
        let sides =
            [&self.right[self.right.len() - n_cols..], &self.left[self.left.len() - n_rows..]];
        sides.into_iter().flatten().any(|q| i32::from(q.unsigned_abs()) == GREATEST)
    }
}

/// The integer that stands for a number of steps.
#[inline(always)]
fn code(x: f32) -> i8 {
    let magnitude = ((x.abs() + ROUNDING) as i32).min(GREATEST);
    (if x < 0.0 { -magnitude } else { magnitude }) as i8
}

/// Length of a vector of codes; the sum of squares is exact.
fn length(codes: &[i8]) -> f32 {
    let squares: u64 = codes.iter().map(|q| u64::from(q.unsigned_abs()).pow(2)).sum();
    (squares as f64).sqrt() as f32
}

/// Signs for a block's start.
fn random_signs(block: u64, right: &mut [Entry]) {
    let mut draws = vec![0u16; right.len().div_ceil(2)];
    random::row_draws(START_KEY, block, &mut draws);
    for (j, entry) in right.iter_mut().enumerate() {
        let bits = draws[j / 2] >> (BLOCK * (j % 2));
        for (k, x) in entry.iter_mut().enumerate() {
            *x = if bits >> k & 1 == 1 { -1.0 } else { 1.0 };
        }
    }
}

/// Singular values near the largest of a matrix, from the largest on, each with the weights that make
/// its right vector, times the value, of the vectors left in `right`. `flat` is a buffer as long.
fn leading(
    values: &[f32],
    n_cols: usize,
    flat: &mut [f32],
    left: &mut [Entry],
    right: &mut [Entry],
) -> [(f64, [f64; BLOCK]); BLOCK] {
    for round in 0..ROUNDS {
        if round > 0 {
            orthonormalise(right);
        }
        multiply(values, n_cols, right, flat, left);
        orthonormalise(left);
        multiply_transposed(values, n_cols, left, flat, right);
    }
    let mut products = [[0.0; BLOCK]; BLOCK];
    gram(right, &mut products);
    let vectors = jacobi::diagonalise(&mut products);
    let mut order: [usize; BLOCK] = std::array::from_fn(|k| k);
    order.sort_by(|a, b| products[*b][*b].total_cmp(&products[*a][*a]));
    order.map(|k| (products[k][k].max(0.0).sqrt(), vectors.map(|row| row[k])))
}

vectorised! {
    /// All products of two of the vectors.
    fn gram(vectors: &[Entry], out: &mut Square) = gram_body;
}

#[inline(always)]
fn gram_body(vectors: &[Entry], out: &mut Square) {
    for entry in vectors {
        let wide = entry.map(f64::from);
        for (row, x) in out.iter_mut().zip(wide) {
            for k in 0..BLOCK {
                row[k] += x * wide[k];
            }
        }
    }
}

vectorised! {
    /// Makes the vectors a basis of what they span (Gram and Schmidt, modified); those that the ones
    /// before them span become zero.
    fn orthonormalise(vectors: &mut [Entry]) = orthonormalise_body;
}

#[inline(always)]
fn orthonormalise_body(vectors: &mut [Entry]) {
    let mut whole = [0.0; BLOCK];
    for i in 0..BLOCK {
        let products = products_with(vectors, i);
        if i == 0 {
            whole = squares(vectors);
        }
        let (mut factor, mut share) = ([1.0f32; BLOCK], [0.0f32; BLOCK]);
        factor[i] = 0.0;
        if products[i] > LEAST_REST * whole[i] {
            factor[i] = products[i].sqrt().recip() as f32;
            for k in i + 1..BLOCK {
                share[k] = (products[k] / products[i]) as f32;
            }
        }
        for entry in vectors.iter_mut() {
            let x = entry[i];
            for k in 0..BLOCK {
                entry[k] = entry[k] * factor[k] - x * share[k];
            }
        }
    }
}

/// Products of vector `i` with all of them, in two sums of every second entry.
#[inline(always)]
fn products_with(vectors: &[Entry], i: usize) -> [f64; BLOCK] {
    let mut sums = [[0.0; BLOCK]; 2];
    for pair in vectors.chunks(2) {
        for (sum, entry) in sums.iter_mut().zip(pair) {
            let x = f64::from(entry[i]);
            for k in 0..BLOCK {
                sum[k] += x * f64::from(entry[k]);
            }
        }
    }
    std::array::from_fn(|k| sums[0][k] + sums[1][k])
}

/// Squared lengths of the vectors.
#[inline(always)]
fn squares(vectors: &[Entry]) -> [f64; BLOCK] {
    let mut sums = [0.0; BLOCK];
    for entry in vectors {
        for k in 0..BLOCK {
            sums[k] += f64::from(entry[k]) * f64::from(entry[k]);
        }
    }
    sums
}

vectorised! {
    /// Finds how many steps each row has along the vector `unit` of length `norm`, and takes them off.
    fn take_off(values: &mut [f32], unit: &[f32], norm: f32, step: f32, left: &mut [i8]) = take_off_body;
}

#[inline(always)]
fn take_off_body(values: &mut [f32], unit: &[f32], norm: f32, step: f32, left: &mut [i8]) {
    for (row, p) in values.chunks_exact_mut(unit.len()).zip(left) {
        *p = code(product(row, unit) / norm / step);
        if *p != 0 {
            let share = f32::from(*p) * step / norm;
            row.iter_mut().zip(unit).for_each(|(x, q)| *x -= share * q);
        }
    }
}

/// Product of two vectors, in sixteen sums joined in pairs.
#[inline(always)]
fn product(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0f32; LANES];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in a.iter().zip(b) {
        for i in 0..LANES {
            sums[i] += a[i] * b[i];
        }
    }
    for ((sum, a), b) in sums.iter_mut().zip(a_rest).zip(b_rest) {
        *sum += a * b;
    }
    joined(sums)
}

/// Adds to `out`, whose rows are these of the matrix, what directions with this step stand for. One
/// whose right codes are all 0 adds nothing.
pub fn add_rows(factors: &Factors, rows: Range<usize>, step: f32, out: &mut [f32]) {
    if rows.is_empty() || factors.rank == 0 {
        return;
    }
    let (n_cols, n_rows) = (factors.right.len() / factors.rank, factors.left.len() / factors.rank);
    debug_assert!(rows.end <= n_rows && out.len() == rows.len() * n_cols);
    let mut unit = vec![0.0; n_cols];
    for (q, p) in factors.right.chunks_exact(n_cols).zip(factors.left.chunks_exact(n_rows)) {
        let norm = length(q);
        if norm != 0.0 {
            unit.iter_mut().zip(q).for_each(|(u, q)| *u = f32::from(*q));
            add_direction(&p[rows.clone()], &unit, norm, step, out);
        }
    }
}

vectorised! {
    /// Adds to each row its steps along the vector `unit` of length `norm`.
    fn add_direction(left: &[i8], unit: &[f32], norm: f32, step: f32, out: &mut [f32]) = add_direction_body;
}

#[inline(always)]
fn add_direction_body(left: &[i8], unit: &[f32], norm: f32, step: f32, out: &mut [f32]) {
    for (row, p) in out.chunks_exact_mut(unit.len()).zip(left) {
        if *p != 0 {
            let share = f32::from(*p) * step / norm;
            row.iter_mut().zip(unit).for_each(|(x, q)| *x += share * q);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::{both_ways, tridiagonal};
    use proptest::prelude::*;

    /// Sums of four uniform numbers: nearly Gaussian, mean 0, variance 1.
    fn noise(seed: u64, n: usize) -> Vec<f32> {
        let mut draws = vec![0; 4 * n];
        random::row_draws(seed, 0, &mut draws);
        let sum = |d: &[u16]| d.iter().map(|d| (f32::from(*d) + 0.5) / 65536.0 - 0.5).sum::<f32>();
        draws.chunks_exact(4).map(|d| sum(d) * 3f32.sqrt()).collect()
    }

    /// Noise of power 1 plus directions of these strengths, in units of the root of the longer side.
    fn spiked((n_rows, n_cols): (usize, usize), strengths: &[f32], seed: u64) -> Vec<f32> {
        let mut values = noise(seed, n_rows * n_cols);
        for (i, strength) in strengths.iter().enumerate() {
            let sides = noise(seed + 1 + i as u64, n_rows + n_cols);
            let (left, right) = sides.split_at(n_rows);
            let scale = strength / (n_rows.min(n_cols) as f32).sqrt();
            for (row, l) in values.chunks_exact_mut(n_cols).zip(left) {
                row.iter_mut().zip(right).for_each(|(x, r)| *x += scale * l * r);
            }
        }
        values
    }

    /// All singular values, the largest first, from the eigenvalues of the product with the transpose.
    fn singular_values(values: &[f32], n_cols: usize) -> Vec<f64> {
        let mut products = vec![0.0; n_cols * n_cols];
        for row in values.chunks_exact(n_cols) {
            for (x, out) in row.iter().zip(products.chunks_exact_mut(n_cols)) {
                out.iter_mut().zip(row).for_each(|(o, y)| *o += f64::from(*x) * f64::from(*y));
            }
        }
        let (diagonal, off) = tridiagonal::tridiagonalise(&mut products, n_cols);
        let mut values: Vec<f64> =
            tridiagonal::gauss_rule(&diagonal, &off).iter().map(|(x, _)| x.sqrt()).collect();
        values.sort_by(|a, b| b.total_cmp(a));
        values
    }

    fn found(values: &[f32], n_cols: usize) -> Vec<f64> {
        let (mut left, mut right) =
            (vec![[0.0; BLOCK]; values.len() / n_cols], vec![[0.0; BLOCK]; n_cols]);
        random_signs(0, &mut right);
        let mut flat = vec![0.0; BLOCK * n_cols];
        leading(values, n_cols, &mut flat, &mut left, &mut right).map(|(sigma, _)| sigma).to_vec()
    }

    #[test]
    fn singular_values_are_near_the_exact_ones() {
        for size in [(256, 200), (128, 256), (70, 90)] {
            // Noise alone reaches 2 and a little less, depending on the shape.
            let values = spiked(size, &[20.0, 10.0, 5.0, 3.0], 5);
            let (want, got) = (singular_values(&values, size.1), found(&values, size.1));
            for ((got, want), least) in got.iter().zip(&want).zip([0.9999, 0.9999, 0.999, 0.96]) {
                assert!((least..1.0001).contains(&(got / want)), "{got} of {want} in {size:?}");
            }
            let ends = got.windows(2).zip(&want).skip(4);
            assert!(ends.clone().all(|(g, w)| g[0] >= g[1] && g[0] < w * 1.0001), "{got:?}");
        }
    }

    /// Takes off what is above a singular value, which is divided by the root of the longer side.
    fn above(values: &mut [f32], n_cols: usize, step: f32, floor: f32, most: usize) -> Factors {
        let longest = n_cols.max(values.len() / n_cols.max(1)) as f64;
        let floor = f64::from(floor) * longest.sqrt();
        peel(values, n_cols, step, most, |sigma| sigma > floor)
    }

    #[test]
    fn what_stands_out_is_taken_off_and_noise_is_not() {
        let (size, step) = ((200, 256), 0.5);
        for strengths in [&[][..], &[12.0], &[20.0, 15.0, 10.0, 8.0], &[10.0; 11]] {
            let (mut values, noise) = (spiked(size, strengths, 9), noise(9, 200 * 256));
            let factors = above(&mut values, size.1, step, 2.5, 64);
            // Rounding may leave enough of a strong one to be found again.
            assert!((strengths.len()..=2 * strengths.len()).contains(&factors.rank));
            let power = |values: &[f32]| values.iter().map(|x| f64::from(x * x)).sum::<f64>();
            let left = power(&values) / power(&noise);
            assert!((0.9..1.05 + 0.03 * strengths.len() as f64).contains(&left), "{left}");
        }
    }

    #[test]
    fn it_ends_at_the_floor_at_the_greatest_rank_and_at_codes_of_nothing() {
        let values = spiked((60, 80), &[20.0, 15.0, 10.0], 3);
        let rank = |step, floor, most| above(&mut values.clone(), 80, step, floor, most).rank;
        assert_eq!([rank(0.5, 12.0, 64), rank(0.5, 17.0, 64), rank(0.5, 1e9, 64)], [2, 1, 0]);
        assert_eq!([rank(0.5, 0.0, 0), rank(0.5, 0.0, 1), rank(0.5, 0.0, 13)], [0, 1, 13]);
        assert_eq!([rank(1e6, 0.0, 64), rank(f32::MAX, 0.0, 64)], [0, 0]);
    }

    #[test]
    fn edges() {
        let empty = Factors::default();
        for n_cols in [1, 7, 14] {
            let mut zeros = vec![0.0; 14];
            assert_eq!(above(&mut zeros, n_cols, 1.0, 0.0, 8), empty);
            assert_eq!(zeros, vec![0.0; 14]);
        }
        assert_eq!(above(&mut [], 0, 1.0, 0.0, 8), empty);
        assert_eq!(above(&mut [f32::MAX, 1.0], 2, 1.0, 0.0, 8), empty);
        // What a code cannot reach stays for the next one.
        let mut row = [1000.0, 3.0, -2.0];
        let factors = above(&mut row, 3, 1.0, 0.0, 20);
        assert!(factors.rank > 5 && factors.right[0] == 127 && factors.left[0] == 127);
        assert!(row.iter().all(|x| x.abs() < 2.0), "{row:?}");
        let mut column = [10.0, 0.0, -20.0];
        let factors = above(&mut column, 1, 1.0, 0.0, 20);
        assert_eq!((factors.rank, &factors.left[..]), (1, &[10, 0, -20][..]));
        assert_eq!(column, [0.0; 3]);
        // A hostile direction of no length.
        let none = Factors { rank: 1, right: vec![0; 3], left: vec![5; 2] };
        let mut out = [1.0; 6];
        add_rows(&none, 0..2, 1.0, &mut out);
        add_rows(&empty, 0..2, 1.0, &mut out);
        assert_eq!(out, [1.0; 6]);
    }

    proptest! {
        #[test]
        fn what_is_taken_off_is_what_is_added_back(
            n_rows in 1usize..40,
            n_cols in 1usize..60,
            strengths in prop::collection::vec(0f32..30.0, 0..4),
            (seed, exponent) in (0..u64::MAX - 9, -60i32..60),
            (step, floor, most) in (0.1f32..4.0, 0f32..3.0, 0usize..20),
            cut in any::<prop::sample::Index>(),
        ) {
            let scale = 2f32.powi(exponent);
            let values: Vec<f32> =
                spiked((n_rows, n_cols), &strengths, seed).iter().map(|x| x * scale).collect();
            let (wide, plain) = both_ways(|| {
                let mut rest = values.clone();
                let factors = above(&mut rest, n_cols, step * scale, floor * scale, most);
                (rest, factors)
            });
            prop_assert_eq!(&wide, &plain);
            let (rest, mut factors) = wide;
            prop_assert!(factors.rank <= most);
            prop_assert_eq!(factors.right.len(), factors.rank * n_cols);
            prop_assert_eq!(factors.left.len(), factors.rank * n_rows);
            factors.left.iter_mut().for_each(|p| *p = -*p);
            let row = cut.index(n_rows + 1);
            let (mut first, mut whole) = (values.clone(), values);
            let last = whole.split_off(row * n_cols);
            first.truncate(row * n_cols);
            let add = |mut out: Vec<f32>, rows: Range<usize>| {
                add_rows(&factors, rows, step * scale, &mut out);
                out
            };
            let (again, plain) =
                both_ways(|| [add(first.clone(), 0..row), add(last.clone(), row..n_rows)].concat());
            prop_assert_eq!(&again, &plain);
            prop_assert_eq!(again, rest);
        }
    }
}
