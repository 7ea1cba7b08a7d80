//! A matrix of rank `r` near one that comes in runs of rows, as often as is asked for: leading directions by power
//! iteration on a block of vectors, sorted by a small eigenvalue problem (Halko, Martinsson and Tropp, "Finding
//! structure with randomness", 2011). Sums over rows are the caller's, who has them in order.
//!
//! Vectors stand one after another, each as long as a row; what rows have along them stands row by row.

use crate::kernel::block::{ROWS, add_rows_times, products};
use crate::kernel::{jacobi, quantise, random};

/// Vectors are multiplied in groups of so many; a block of vectors is a multiple of it.
pub const GROUP: usize = 4;
/// Columns of rows that are worked on together: they stay in the nearest cache.
const COLUMNS: usize = 512;
/// Key of the draws that the search starts from.
const START_KEY: u64 = 0x4c6f_5241_726f_7773;
/// A vector of which the ones before leave less than this share of its squared length is none.
const LEAST_REST: f64 = 1e-8;

/// Signs for `n` vectors of `n_cols` entries to start from.
pub fn start(n_cols: usize, n: usize) -> Vec<f32> {
    let mut out = vec![1.0; n * n_cols];
    let mut draws = vec![0u16; n_cols.div_ceil(16)];
    for (i, vector) in out.chunks_exact_mut(n_cols.max(1)).enumerate() {
        random::row_draws(START_KEY, i as u64, &mut draws);
        random::flip_signs(&draws, vector);
    }
    out
}

vectorised! {
    /// What each row of `values` has along each of `vectors`, of `n_cols` entries: a multiple of [`GROUP`] of them.
    pub fn along(values: &[f32], n_cols: usize, vectors: &[f32], out: &mut [f32]) = along_body;
}

#[inline(always)]
fn along_body(values: &[f32], n_cols: usize, vectors: &[f32], out: &mut [f32]) {
    let n = vectors.len() / n_cols;
    for (row, out) in values.chunks_exact(n_cols).zip(out.chunks_exact_mut(n)) {
        let groups = vectors.chunks_exact(GROUP * n_cols);
        for (out, group) in out.as_chunks_mut::<GROUP>().0.iter_mut().zip(groups) {
            *out = products(row, std::array::from_fn(|k| &group[k * n_cols..][..n_cols]));
        }
    }
}

vectorised! {
    /// Adds to each of `vectors` the rows of `values`, each times its entry of `times` for that vector.
    pub fn add_rows(values: &[f32], n_cols: usize, times: &[f32], vectors: &mut [f32]) = add_rows_body;
}

#[inline(always)]
fn add_rows_body(values: &[f32], n_cols: usize, times: &[f32], vectors: &mut [f32]) {
    let n = vectors.len() / n_cols;
    let (values, rest) = values.split_at(values.len() / (ROWS * n_cols) * ROWS * n_cols);
    let (groups, last) = times.split_at(values.len() / n_cols * n);
    for (rows, times) in values.chunks_exact(ROWS * n_cols).zip(groups.chunks_exact(ROWS * n)) {
        let rows: [&[f32]; ROWS] = std::array::from_fn(|r| &rows[r * n_cols..][..n_cols]);
        for start in (0..n_cols).step_by(COLUMNS) {
            let end = n_cols.min(start + COLUMNS);
            let rows = rows.map(|row| &row[start..end]);
            for (k, vector) in vectors.chunks_exact_mut(n_cols).enumerate() {
                let times = std::array::from_fn(|r| times[r * n + k]);
                add_rows_times(rows, times, &mut vector[start..end]);
            }
        }
    }
    for (row, times) in rest.chunks_exact(n_cols).zip(last.chunks_exact(n)) {
        for (vector, times) in vectors.chunks_exact_mut(n_cols).zip(times) {
            vector.iter_mut().zip(row).for_each(|(x, y)| *x += y * times);
        }
    }
}

vectorised! {
    /// Takes off each row of `values` the `vectors`, each times what the row's part of `times` says.
    pub fn take_off(values: &mut [f32], n_cols: usize, times: &[f32], vectors: &[f32]) = take_off_body;
}

#[inline(always)]
fn take_off_body(values: &mut [f32], n_cols: usize, times: &[f32], vectors: &[f32]) {
    let n = vectors.len() / n_cols;
    for (row, times) in values.chunks_exact_mut(n_cols).zip(times.chunks_exact(n)) {
        for (vector, times) in vectors.chunks_exact(n_cols).zip(times) {
            row.iter_mut().zip(vector).for_each(|(x, y)| *x -= y * times);
        }
    }
}

/// Makes the vectors a basis of what they span (Gram and Schmidt, modified, each one twice); those that the ones
/// before them span become zero.
pub fn orthonormalise(vectors: &mut [f32], n_cols: usize) {
    for i in 0..vectors.len() / n_cols {
        let (before, after) = vectors.split_at_mut(i * n_cols);
        let vector = &mut after[..n_cols];
        let whole = quantise::sum_squares(vector);
        for _ in 0..2 {
            for other in before.chunks_exact(n_cols) {
                let share = quantise::product(vector, other) as f32;
                vector.iter_mut().zip(other).for_each(|(x, y)| *x -= share * y);
            }
        }
        let rest = quantise::sum_squares(vector);
        let factor = if rest > LEAST_REST * whole { rest.sqrt().recip() as f32 } else { 0.0 };
        vector.iter_mut().for_each(|x| *x *= factor);
    }
}

/// Two matrices whose product is near a third.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Pair {
    /// What each row has of each direction, row by row.
    pub left: Vec<f32>,
    /// The directions, one after another, each as long as a row.
    pub right: Vec<f32>,
}

/// The `rank` directions with the largest singular values among what orthonormal `vectors` span, where `along` is
/// what all rows of a matrix have along them. The roots of singular values are on both sides alike. Beyond the
/// matrix's own rank all is zero.
pub fn best(along: &[f32], vectors: &[f32], n_cols: usize, rank: usize) -> Pair {
    let n = vectors.len() / n_cols;
    let mut products = gram(along, n);
    let turned = jacobi::diagonalise_rows(&mut products);
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|a, b| products[*b][*b].total_cmp(&products[*a][*a]));
    let largest = order.first().map_or(0.0, |k| products[*k][*k]);
    let n_rows = along.len() / n.max(1);
    let (mut left, mut right) = (vec![0.0; n_rows * rank], vec![0.0; rank * n_cols]);
    for (j, &k) in order.iter().take(rank).enumerate() {
        let square = products[k][k];
        // Below this it is the rounding of the vectors.
        if square <= LEAST_REST * LEAST_REST * largest || square <= 0.0 {
            break;
        }
        let root = square.sqrt().sqrt();
        let weights: Vec<f64> = turned.iter().map(|row| row[k]).collect();
        for (out, row) in left.chunks_exact_mut(rank).zip(along.chunks_exact(n)) {
            out[j] = (weighed(row.iter(), &weights) / root) as f32;
        }
        for (i, out) in right[j * n_cols..][..n_cols].iter_mut().enumerate() {
            *out = (weighed(vectors[i..].iter().step_by(n_cols), &weights) * root) as f32;
        }
    }
    Pair { left, right }
}

/// Sum of values, each times its weight.
fn weighed<'v>(values: impl Iterator<Item = &'v f32>, weights: &[f64]) -> f64 {
    values.zip(weights).map(|(x, w)| f64::from(*x) * w).sum()
}

/// All products of two columns of rows of `n`.
fn gram(rows: &[f32], n: usize) -> Vec<Vec<f64>> {
    let mut out = vec![vec![0.0; n]; n];
    for row in rows.chunks_exact(n.max(1)) {
        for (i, x) in row.iter().enumerate() {
            let x = f64::from(*x);
            for (sum, y) in out[i].iter_mut().zip(row) {
                *sum += x * f64::from(*y);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::both_ways;

    /// A matrix of the given singular values, in bases of cosines.
    fn matrix(n_rows: usize, n_cols: usize, singular: &[f64]) -> Vec<f32> {
        let basis = |n: usize, i: usize, k: usize| {
            let phase = std::f64::consts::PI * (i as f64 + 0.5) * (k as f64 + 1.0) / n as f64;
            (2.0 / n as f64).sqrt() * phase.cos()
        };
        let entry = |i, j| {
            let each = singular.iter().enumerate();
            each.map(|(k, s)| s * basis(n_rows, i, k) * basis(n_cols, j, k)).sum::<f64>() as f32
        };
        (0..n_rows).flat_map(|i| (0..n_cols).map(move |j| entry(i, j))).collect()
    }

    /// The pair of this rank, from runs of so many rows; and what it leaves, as a sum of squares.
    fn search(values: &[f32], n_cols: usize, rank: usize, run: usize) -> (Pair, f64) {
        let n = (rank + 8).next_multiple_of(GROUP);
        let n_rows = values.len() / n_cols;
        let mut vectors = start(n_cols, n);
        for _ in 0..2 {
            let mut sums = vec![0.0; n * n_cols];
            for rows in values.chunks(run * n_cols) {
                let mut times = vec![0.0; rows.len() / n_cols * n];
                along(rows, n_cols, &vectors, &mut times);
                add_rows(rows, n_cols, &times, &mut sums);
            }
            vectors = sums;
            orthonormalise(&mut vectors, n_cols);
        }
        let mut times = vec![0.0; n_rows * n];
        along(values, n_cols, &vectors, &mut times);
        let pair = best(&times, &vectors, n_cols, rank);
        let mut rest = values.to_vec();
        take_off(&mut rest, n_cols, &pair.left, &pair.right);
        let lost = quantise::sum_squares(&rest);
        (pair, lost)
    }

    #[test]
    fn the_best_of_a_rank_is_found_within_a_hundredth() {
        let singular: Vec<f64> = (0..30).map(|k| 0.9f64.powi(k)).collect();
        let values = matrix(70, 45, &singular);
        for rank in [1, 4, 7, 16] {
            let (_, lost) = search(&values, 45, rank, 13);
            let least: f64 = singular[rank..].iter().map(|s| s * s).sum();
            assert!((1.0 - 1e-5..1.01).contains(&(lost / least)), "{rank}: {lost} {least}");
        }
    }

    #[test]
    fn a_matrix_of_low_rank_comes_back_and_nothing_more() {
        let values = matrix(33, 40, &[3.0, 2.0, 1.0]);
        let (pair, lost) = search(&values, 40, 6, 8);
        assert!(lost < 1e-9, "{lost}");
        assert!(pair.right[3 * 40..].iter().all(|x| *x == 0.0));
        assert!(pair.left.chunks(6).all(|row| row[3..].iter().all(|x| *x == 0.0)));
        let squares = |v: &[f32]| quantise::sum_squares(v);
        let first: Vec<f32> = pair.left.iter().step_by(6).copied().collect();
        // The root of 3 on both sides.
        assert!(
            (squares(&first) - 3.0).abs() < 1e-4 && (squares(&pair.right[..40]) - 3.0).abs() < 1e-4
        );
        let (none, lost) = search(&[0.0; 12], 4, 2, 3);
        assert!(lost == 0.0 && none.left.iter().chain(&none.right).all(|x| *x == 0.0));
    }

    #[test]
    fn vector_code_changes_nothing() {
        let values = matrix(37, 67, &[2.0, 1.5, 1.0, 0.9, 0.3]);
        let (wide, plain) = both_ways(|| search(&values, 67, 3, 9));
        assert_eq!(wide, plain);
    }
}
