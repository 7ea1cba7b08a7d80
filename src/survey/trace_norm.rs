//! The trace norm (sum of singular values) of what pruning left of a matrix, as UltraDelta (Wang et
//! al., 2025, arXiv 2505.13563) takes it to choose how far to rescale a fine-tune.
//!
//! Up to [`EXACT_SIDE`] it is exact: the roots of the eigenvalues of the shorter side's product with
//! itself, which the survivors alone make in little time. Squaring costs accuracy where singular
//! values are below a ten-millionth of the greatest; those of pruned matrices are not.
//!
//! Beyond it an estimate, stochastic Lanczos quadrature (Ubaru, Chen and Saad, SIAM J. Matrix Anal.
//! Appl. 2017) of the trace of `(A Aᵀ)^½`, with two additions that the square root calls for:
//! - Singular values of a square noise matrix crowd at 0, where a root is hard to integrate. The
//!   rule of Gauss is above the integral there, and that of Gauss and Radau with a node at 0 twice
//!   as far below it, so a third of the way from one to the other both errors go.
//! - The trace of `A Aᵀ` is known. What the same probes make of it tells, times the slope of a root
//!   over the spectrum that they saw, most of what they got wrong: a control variate.
//!
//! All of it in f64 with sums in a fixed order, so that processors agree to the last bit.

use std::array;

use crate::kernel::random;
use crate::kernel::sparse::{LANES, Lanes, gather, scatter};
use crate::kernel::tridiagonal::{gauss_rule, tridiagonalise};

/// The longest shorter side for which singular values are computed, not estimated.
const EXACT_SIDE: usize = 1024;
/// Probes times the shorter side, at least: what one probe gets wrong falls with the root of the
/// side. Never fewer than [`LANES`] probes.
const PROBED: usize = 8192;
/// Lanczos steps a probe, each a pass over the survivors.
const STEPS: usize = 10;
/// A vector is rounding if so small a part of it is left without its shares of those before it.
const NEGLIGIBLE: f64 = 1e-10;
/// Columns that a 16-bit index tells apart; a row is kept in segments of as many.
const SEGMENT: usize = 1 << 16;

/// The survivors of one matrix, gathered row by row: what its trace norm is taken of.
#[derive(Debug)]
pub(crate) struct SparseMatrix {
    n_cols: usize,
    n_rows: usize,
    /// By code, 0 where there is none.
    values: [f64; 256],
    /// Of each segment of each row the end, in survivors.
    ends: Vec<usize>,
    /// Of each survivor, counted from the start of its segment.
    columns: Vec<u16>,
    codes: Vec<u8>,
}

impl SparseMatrix {
    /// A matrix without rows so far. `levels` are the finite values of the codes 0, 1, …; at most 256.
    pub(crate) fn new(n_cols: usize, levels: &[f32]) -> Self {
        let mut values = [0.0; 256];
        for (value, &level) in values.iter_mut().zip(levels) {
            *value = f64::from(level);
        }
        let (ends, columns, codes) = (Vec::new(), Vec::new(), Vec::new());
        Self { n_cols, n_rows: 0, values, ends, columns, codes }
    }

    /// Adds the next `n_rows` rows: the places of their survivors, counted row by row and ascending,
    /// and the code of each.
    pub(crate) fn push_rows(&mut self, n_rows: usize, places: &[u32], codes: &[u8]) {
        debug_assert_eq!(places.len(), codes.len());
        let before = self.columns.len();
        let mut row_start = 0;
        for _ in 0..n_rows {
            for first in (0..self.n_cols).step_by(SEGMENT) {
                let n = SEGMENT.min(self.n_cols - first);
                let (start, left) = (row_start + first, &places[self.columns.len() - before..]);
                let inside = left.iter().map_while(|&p| {
                    let column = (p as usize).checked_sub(start)?;
                    (column < n).then_some(column as u16)
                });
                self.columns.extend(inside);
                self.ends.push(self.columns.len());
            }
            row_start += self.n_cols;
        }
        self.n_rows += n_rows;
        self.codes.extend_from_slice(&codes[..self.columns.len() - before]);
    }

    /// Bytes of so many survivors, at most, and of what [`trace_norm`] needs beside them.
    pub(crate) fn max_bytes(n_survivors: usize, n_rows: usize, n_cols: usize) -> usize {
        // What grows by doubling takes at most twice what is in it.
        let kept = 2 * (3 * n_survivors + 8 * n_rows * n_cols.div_ceil(SEGMENT));
        let (short, long) = (n_rows.min(n_cols), n_rows.max(n_cols));
        let square = if short <= EXACT_SIDE { 8 * short * short } else { 0 };
        kept + square + size_of::<Lanes>() * ((STEPS + 3) * short + long)
    }

    fn n_segments(&self) -> usize {
        self.n_cols.div_ceil(SEGMENT)
    }

    /// Columns, counted from the segment's start, and codes of one segment of a row.
    fn segment(&self, row: usize, segment: usize) -> (&[u16], &[u8]) {
        let at = row * self.n_segments() + segment;
        let start = if at == 0 { 0 } else { self.ends[at - 1] };
        (&self.columns[start..self.ends[at]], &self.codes[start..self.ends[at]])
    }

    /// The survivors of each code times its value's square, summed.
    fn sum_squares(&self) -> f64 {
        let mut counts = [0u64; 256];
        self.codes.iter().for_each(|&code| counts[usize::from(code)] += 1);
        counts.iter().zip(&self.values).map(|(&n, v)| n as f64 * (v * v)).sum()
    }
}

/// The sum of the singular values, rounded to f32: exact where the shorter side is at most
/// [`EXACT_SIDE`], else an estimate: within 1 % for what pruning leaves of a delta, within 4 % where
/// rows differ in size by decades.
///
/// A function of matrix and key alone; the exact one of the matrix alone.
pub(crate) fn trace_norm(matrix: &SparseMatrix, key: u64) -> f64 {
    let side = matrix.n_rows.min(matrix.n_cols);
    let norm = if side <= EXACT_SIDE { exact(matrix) } else { estimate(matrix, key) };
    f64::from(norm as f32)
}

/// By the eigenvalues of the shorter side's product with itself.
fn exact(matrix: &SparseMatrix) -> f64 {
    let side = matrix.n_rows.min(matrix.n_cols);
    let mut product = vec![0.0; side * side];
    let (mut across, mut columns) = (Vec::new(), vec![[0.0; LANES]; side]);
    for first in (0..side).step_by(LANES) {
        let n = LANES.min(side - first);
        let mut axes = vec![[0.0; LANES]; side];
        (0..n).for_each(|l| axes[first + l][l] = 1.0);
        multiply(matrix, &axes, &mut across, &mut columns);
        for l in 0..n {
            let row = &mut product[(first + l) * side..(first + l + 1) * side];
            row.iter_mut().zip(&columns).for_each(|(a, column)| *a = column[l]);
        }
    }
    let (diagonal, off) = tridiagonalise(&mut product, side);
    let rule = gauss_rule(&diagonal, &off);
    let greatest = rule.iter().fold(0.0f64, |a, x| a.max(x.0));
    // What is below this is rounding of the greatest, and its root would count.
    let least = side as f64 * f64::EPSILON * greatest;
    rule.iter().filter(|x| x.0 > least).map(|x| x.0.sqrt()).sum()
}

/// Stochastic Lanczos quadrature on the shorter side.
fn estimate(matrix: &SparseMatrix, key: u64) -> f64 {
    let side = matrix.n_rows.min(matrix.n_cols);
    let mean_square = matrix.sum_squares() / side as f64;
    if mean_square == 0.0 {
        return 0.0;
    }
    let mut found = Found::default();
    for group in 0..PROBED.div_ceil(side * LANES) {
        lanczos(matrix, &probes(side, key, group as u64), &mut found);
    }
    side as f64 * found.mean_root(mean_square)
}

/// What the probes found.
#[derive(Debug, Default)]
struct Found {
    /// Nodes and weights of all probes, which stand for the spectrum.
    rules: Vec<(f64, f64)>,
    /// Sum of the integrals of the root, both rules together.
    roots: f64,
    /// Sum of the integrals of the spectrum itself.
    means: f64,
    n_probes: f64,
}

impl Found {
    /// Takes up the tridiagonal matrix of one probe. The last of `off`, which is as long as
    /// `diagonal`, leads out of the matrix; 0 where nothing is left.
    fn add(&mut self, diagonal: &[f64], off: &[f64]) {
        let inner = &off[..off.len() - 1];
        let gauss = gauss_rule(diagonal, inner);
        let upper = integral_of_root(&gauss);
        // What the last row would need for an eigenvalue 0 (Golub, SIAM Review 1973).
        let pivot = inner.iter().zip(&diagonal[1..]).fold(diagonal[0], |p, (b, a)| a - b * b / p);
        let last = off[inner.len()];
        let lower = if last > 0.0 && pivot > 0.0 {
            let extended = [diagonal, &[last * last / pivot]].concat();
            integral_of_root(&gauss_rule(&extended, off))
        } else {
            upper
        };
        self.roots += (2.0 * upper + lower) / 3.0;
        self.means += diagonal[0];
        self.rules.extend(gauss);
        self.n_probes += 1.0;
    }

    /// The mean root of a spectrum whose mean is known.
    fn mean_root(&self, known_mean: f64) -> f64 {
        let n = self.n_probes;
        let total = |f: &dyn Fn(f64) -> f64| self.rules.iter().map(|(x, w)| w * f(*x)).sum::<f64>();
        let (mean, root) = (total(&|x| x) / n, total(&f64::sqrt) / n);
        let spread = total(&|x| (x - mean) * (x - mean));
        let joint = total(&|x| (x - mean) * (x.sqrt() - root));
        let slope = if spread > 0.0 { joint / spread } else { 0.0 };
        self.roots / n - slope * (self.means / n - known_mean)
    }
}

fn integral_of_root(rule: &[(f64, f64)]) -> f64 {
    rule.iter().map(|(x, w)| w * x.sqrt()).sum()
}

/// Vectors of random signs, of length 1.
fn probes(side: usize, key: u64, group: u64) -> Vec<Lanes> {
    let length = 1.0 / (side as f64).sqrt();
    let mut out = vec![[0.0; LANES]; side];
    let mut draws = vec![0u16; side.div_ceil(16)];
    for lane in 0..LANES {
        random::row_draws(key, group * LANES as u64 + lane as u64, &mut draws);
        for (i, x) in out.iter_mut().enumerate() {
            x[lane] = if draws[i / 16] >> (i % 16) & 1 == 0 { length } else { -length };
        }
    }
    out
}

/// Lanczos steps on `A Aᵀ` (`Aᵀ A` of a tall matrix) from each probe of a group, with every new
/// vector freed twice of its shares of all before it.
fn lanczos(matrix: &SparseMatrix, probes: &[Lanes], found: &mut Found) {
    let mut basis = vec![probes.to_vec()];
    let (mut next, mut across) = (vec![[0.0; LANES]; probes.len()], Vec::new());
    let (mut diagonal, mut off) = (Vec::<Lanes>::new(), Vec::<Lanes>::new());
    for _ in 0..STEPS {
        let last = &basis[basis.len() - 1];
        multiply(matrix, last, &mut across, &mut next);
        diagonal.push(dot(last, &next));
        for vector in basis.iter().rev().chain(basis.iter().rev()) {
            let share = dot(vector, &next);
            for (x, v) in next.iter_mut().zip(vector) {
                for l in 0..LANES {
                    x[l] -= share[l] * v[l];
                }
            }
        }
        let length = dot(&next, &next).map(f64::sqrt);
        // A vector of rounding ends its probe: what came before it is all there is to find.
        let is_left = |l: usize| length[l] > NEGLIGIBLE * diagonal[0][l];
        off.push(array::from_fn(|l| if is_left(l) { length[l] } else { 0.0 }));
        let factor: Lanes = array::from_fn(|l| if is_left(l) { 1.0 / length[l] } else { 0.0 });
        basis.push(next.iter().map(|x| array::from_fn(|l| x[l] * factor[l])).collect());
    }
    for l in 0..LANES {
        let (a, b): (Vec<f64>, Vec<f64>) =
            diagonal.iter().zip(&off).map(|(a, b)| (a[l], b[l])).unzip();
        let n = b.iter().position(|x| *x == 0.0).map_or(STEPS, |i| i + 1);
        found.add(&a[..n], &b[..n]);
    }
}

fn dot(a: &[Lanes], b: &[Lanes]) -> Lanes {
    let mut sums = [0.0; LANES];
    for (a, b) in a.iter().zip(b) {
        for l in 0..LANES {
            sums[l] += a[l] * b[l];
        }
    }
    sums
}

/// `out = A Aᵀ x`, or `Aᵀ A x` of a tall matrix. `across` is a buffer as long as the longer side.
fn multiply(matrix: &SparseMatrix, x: &[Lanes], across: &mut Vec<Lanes>, out: &mut [Lanes]) {
    let n_segments = matrix.n_segments();
    if matrix.n_rows >= matrix.n_cols {
        out.fill([0.0; LANES]);
        for row in 0..matrix.n_rows {
            let mut sum = [0.0; LANES];
            for s in 0..n_segments {
                let (columns, codes) = matrix.segment(row, s);
                gather(columns, codes, &matrix.values, &x[s * SEGMENT..], &mut sum);
            }
            for s in 0..n_segments {
                let (columns, codes) = matrix.segment(row, s);
                scatter(columns, codes, &matrix.values, &sum, &mut out[s * SEGMENT..]);
            }
        }
        return;
    }
    across.clear();
    across.resize(matrix.n_cols, [0.0; LANES]);
    for (row, x) in x.iter().enumerate() {
        for s in 0..n_segments {
            let (columns, codes) = matrix.segment(row, s);
            scatter(columns, codes, &matrix.values, x, &mut across[s * SEGMENT..]);
        }
    }
    for (row, out) in out.iter_mut().enumerate() {
        *out = [0.0; LANES];
        for s in 0..n_segments {
            let (columns, codes) = matrix.segment(row, s);
            gather(columns, codes, &matrix.values, &across[s * SEGMENT..], out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::{Checkpoint, MapChoice, Source};
    use crate::kernel::{convert, quantise};
    use std::path::{Path, PathBuf};

    /// A matrix from its entries, of which 0 is none; `levels` has all others.
    fn sparse(rows: &[Vec<f32>], levels: &[f32]) -> SparseMatrix {
        let mut matrix = SparseMatrix::new(rows[0].len(), levels);
        for row in rows {
            let some = (0u32..).zip(row).filter(|(_, x)| **x != 0.0);
            let code = |x: f32| levels.iter().position(|l| *l == x).unwrap() as u8;
            let (places, codes): (Vec<u32>, Vec<u8>) = some.map(|(i, x)| (i, code(*x))).unzip();
            matrix.push_rows(1, &places, &codes);
        }
        matrix
    }

    fn transposed(matrix: &SparseMatrix) -> SparseMatrix {
        let mut columns = vec![(Vec::new(), Vec::new()); matrix.n_cols];
        for row in 0..matrix.n_rows {
            for s in 0..matrix.n_segments() {
                let (places, codes) = matrix.segment(row, s);
                for (&place, &code) in places.iter().zip(codes) {
                    let (rows, its) = &mut columns[s * SEGMENT + usize::from(place)];
                    rows.push(row as u32);
                    its.push(code);
                }
            }
        }
        let mut out = SparseMatrix::new(matrix.n_rows, &matrix.values.map(|x| x as f32));
        columns.iter().for_each(|(rows, codes)| out.push_rows(1, rows, codes));
        out
    }

    /// What UltraDelta keeps of a delta but for its groups: 4 bits between the bounds, a random
    /// share dropped, the others made up for it.
    fn pruned(delta: &[f32], n_cols: usize, sparsity: f64) -> SparseMatrix {
        let (low, high) = quantise::min_max(delta);
        let (mut codes, mut levels) = (vec![0; delta.len()], [0.0; 16]);
        quantise::quantise(delta, low, high, 4, &mut codes);
        quantise::dequantise(&array::from_fn::<u8, 16, _>(|i| i as u8), low, high, 4, &mut levels);
        let levels = levels.map(|x| x / (1.0 - sparsity) as f32);
        let mut matrix = SparseMatrix::new(n_cols, &levels);
        let mut draws = vec![0; n_cols];
        for (row, codes) in codes.chunks(n_cols).enumerate() {
            random::row_draws(9, row as u64, &mut draws);
            let keep = |i: &u32| f64::from(draws[*i as usize]) >= sparsity * 65536.0;
            let places: Vec<u32> = (0..n_cols as u32).filter(keep).collect();
            let codes: Vec<u8> = places.iter().map(|i| codes[*i as usize]).collect();
            matrix.push_rows(1, &places, &codes);
        }
        matrix
    }

    /// Near enough to normal numbers.
    fn noise(n: usize, key: u64) -> Vec<f32> {
        let mut draws = vec![0; 8 * n];
        random::row_draws(key, 0, &mut draws);
        let sum = |d: &[u16; 8]| d.iter().map(|x| f32::from(*x) / 65536.0 - 0.5).sum::<f32>();
        draws.as_chunks::<8>().0.iter().map(sum).collect()
    }

    /// Noise, with a few great singular values, or with rows of very different size.
    fn made(n_rows: usize, n_cols: usize, rank: usize, uneven: bool) -> Vec<f32> {
        let mut out = noise(n_rows * n_cols, 1);
        let (n, m) = (n_rows as f32, n_cols as f32);
        for r in 0..rank as u64 {
            let (left, right) = (noise(n_rows, 10 + r), noise(n_cols, 100 + r));
            for (row, x) in out.chunks_mut(n_cols).zip(left) {
                let size = 4.0 * x * (n.sqrt() + m.sqrt()) / (n * m).sqrt();
                row.iter_mut().zip(&right).for_each(|(o, y)| *o += size * y);
            }
        }
        let scales = noise(n_rows, 2);
        for (row, x) in out.chunks_mut(n_cols).zip(scales).filter(|_| uneven) {
            row.iter_mut().for_each(|o| *o *= x.exp());
        }
        out
    }

    #[track_caller]
    fn assert_near(found: f64, want: f64, within: f64) {
        assert!((found - want).abs() <= within * want, "{found} is not near {want}");
    }

    #[test]
    fn known_values() {
        // A permutation times a diagonal, with an empty row and an empty column.
        let mut rows = vec![vec![0.0; 41]; 90];
        (0..40).for_each(|i| rows[(i * 7 + 3) % 89][i * 3 % 40] = (i % 5) as f32 - 2.0);
        let want: f64 = (0..40).map(|i| f64::from((i % 5) - 2).abs()).sum();
        assert_near(exact(&sparse(&rows, &[-2.0, -1.0, 1.0, 2.0])), want, 1e-12);
        // Rank one: the product of two lengths.
        let one: Vec<Vec<f32>> = (0..60).map(|i| vec![(i % 4) as f32; 200]).collect();
        let want = f64::sqrt(15.0 * 14.0) * f64::sqrt(200.0);
        let matrix = sparse(&one, &[1.0, 2.0, 3.0]);
        assert_near(exact(&matrix), want, 1e-12);
        assert_near(exact(&transposed(&matrix)), want, 1e-12);
        for empty in [sparse(&vec![vec![0.0; 9]; 5], &[]), sparse(&vec![vec![0.0; 900]; 500], &[])]
        {
            assert_eq!((trace_norm(&empty, 1), estimate(&empty, 1)), (0.0, 0.0));
        }
        assert_eq!(trace_norm(&SparseMatrix::new(7, &[1.0]), 1), 0.0);
        // Against the SVD of NumPy 2.4.
        let entry = |r: usize, c: usize| {
            let hash = (r * 7919 + c * 104_729 + r * c * 31) % 65_521;
            let level = (hash / 20 % 16) as f32 * 0.5 - 3.5;
            if hash.is_multiple_of(20) { level } else { 0.0 }
        };
        let rows: Vec<Vec<f32>> =
            (0..300).map(|r| (0..700).map(|c| entry(r, c)).collect()).collect();
        let levels: Vec<f32> = (0..16).map(|i| i as f32 * 0.5 - 3.5).collect();
        let matrix = sparse(&rows, &levels);
        assert_near(exact(&matrix), 3853.921511185984, 1e-12);
        assert_near(trace_norm(&sparse(&rows[..100], &levels), 1), 1342.989676615218, 1e-7);
        assert_near(trace_norm(&matrix, 1), 3853.921511185984, 0.02);
    }

    #[test]
    fn estimates_are_near_exact_values() {
        for (n_rows, n_cols) in [(320, 320), (300, 900), (700, 290)] {
            for (rank, uneven) in [(0, false), (16, false), (0, true)] {
                for sparsity in [0.9, 0.97] {
                    let delta = made(n_rows, n_cols, rank, uneven);
                    let matrix = pruned(&delta, n_cols, sparsity);
                    assert_near(estimate(&matrix, 1), exact(&matrix), 0.02);
                }
            }
        }
    }

    #[test]
    fn a_spectrum_of_few_values_is_found_whole() {
        // Three values: Lanczos ends after as many steps, and on a diagonal all probes see the same.
        let rows: Vec<Vec<f32>> = (0..400)
            .map(|i| (0..400).map(|j| if i == j { [1.0, 2.0, 5.0][i % 3] } else { 0.0 }).collect())
            .collect();
        let matrix = sparse(&rows, &[1.0, 2.0, 5.0]);
        assert_near(estimate(&matrix, 3), 134.0 + 133.0 * 7.0, 1e-9);
    }

    #[test]
    fn transposition_changes_nothing_much_and_repetition_nothing() {
        let small = pruned(&made(70, 300, 2, true), 300, 0.9);
        assert_near(exact(&transposed(&small)), exact(&small), 1e-12);
        assert_eq!(trace_norm(&small, 1), trace_norm(&small, 2));
        let large = pruned(&made(300, 500, 2, true), 500, 0.9);
        // The same probes on the same side, by the other way through the survivors.
        assert_near(estimate(&transposed(&large), 1), estimate(&large, 1), 1e-9);
        assert_eq!(estimate(&large, 1), estimate(&large, 1));
        assert_ne!(estimate(&large, 1), estimate(&large, 2));
    }

    #[test]
    fn rows_come_in_any_number_at_once_and_as_wide_as_they_are() {
        let n_cols = 2 * SEGMENT + 10;
        let places =
            [5, SEGMENT, 2 * SEGMENT + 9, n_cols, 3 * n_cols + SEGMENT - 1].map(|i| i as u32);
        let mut matrix = SparseMatrix::new(n_cols, &[1.0, 2.0, 3.0]);
        matrix.push_rows(5, &places, &[0, 1, 2, 1, 0]);
        matrix.push_rows(1, &[1], &[2]);
        assert_eq!(matrix.n_rows, 6);
        assert_eq!(matrix.segment(0, 0), (&[5][..], &[0][..]));
        assert_eq!(matrix.segment(0, 2), (&[9][..], &[2][..]));
        assert_eq!(matrix.segment(3, 0), (&[u16::MAX][..], &[0][..]));
        let known = f64::sqrt(14.0) + 2.0 + 1.0 + 3.0;
        assert_near(exact(&matrix), known, 1e-12);
        assert_near(exact(&transposed(&matrix)), known, 1e-12);
        let held = 3 * matrix.columns.capacity() + 8 * matrix.ends.capacity();
        assert!(SparseMatrix::max_bytes(6, 6, n_cols) >= held);
    }

    /// The checkpoint called `name`, if it is on this machine.
    fn shared(name: &str) -> Option<PathBuf> {
        let root = std::env::var_os("DELTA_STREAM_SHARED")
            .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared"), PathBuf::from);
        let found = [root.join("data").join(name), root.join(name)];
        found.into_iter().find(|p| p.is_dir())
    }

    /// The deltas of all linear weights of blocks, with their numbers of columns.
    fn deltas(base: &Path, ft: &Path) -> Vec<(Vec<f32>, usize)> {
        let (base, ft) = (Checkpoint::open(base).unwrap(), Checkpoint::open(ft).unwrap());
        let sources = [&ft, &base].map(|c| Source::new(c, &MapChoice::never()).unwrap());
        let mut out = Vec::new();
        for info in ft.tensors() {
            let in_block = info.name.split('.').any(|part| part.parse::<u32>().is_ok());
            let Some((_, other)) = base.find(&info.name) else { continue };
            if !in_block || info.shape.len() != 2 || info.shape != other.shape {
                continue;
            }
            let [a, b] = [(&sources[0], info), (&sources[1], other)]
                .map(|(s, i)| s.window(i.shard, i.offset, i.n_bytes as usize).unwrap());
            let mut delta = vec![0.0; info.n_elements() as usize];
            convert::subtract((info.dtype, &a), (other.dtype, &b), &mut delta);
            out.push((delta, info.shape[1] as usize));
        }
        out
    }

    #[test]
    fn estimates_of_real_deltas_are_near() {
        for (base, ft) in [
            ("rxnfp-base", "rxnfp-ft10k"),
            ("anarcii-l2/base", "anarcii-l2/ft-tcr"),
            ("anarcii-l2/base", "anarcii-l2/ft-shark"),
        ] {
            let (Some(base), Some(tuned)) = (shared(base), shared(ft)) else {
                eprintln!("skipped: {base} and {ft} are not here; set DELTA_STREAM_SHARED");
                continue;
            };
            let deltas = deltas(&base, &tuned);
            assert!(deltas.len() >= 20);
            for (sparsity, most, mean) in
                [(0.0, 0.04, 0.015), (0.9, 0.02, 0.005), (0.95, 0.02, 0.005), (0.97, 0.02, 0.005)]
            {
                let (mut errors, mut sums) = (Vec::new(), [0.0; 2]);
                for (delta, n_cols) in &deltas {
                    let matrix = pruned(delta, *n_cols, sparsity);
                    let (found, want) = (estimate(&matrix, errors.len() as u64), exact(&matrix));
                    errors.push(if want > 0.0 { (found / want - 1.0).abs() } else { found });
                    sums = [sums[0] + found, sums[1] + want];
                }
                let greatest = errors.iter().fold(0.0f64, |a, b| a.max(*b));
                let average = errors.iter().sum::<f64>() / errors.len() as f64;
                let whole = sums[0] / sums[1] - 1.0;
                println!(
                    "{ft}, {} matrices, {sparsity}: at most {greatest:.4}, on average {average:.4}, of the sum {whole:+.5}",
                    errors.len()
                );
                assert!(
                    greatest < most && average < mean,
                    "{ft} at {sparsity}: {greatest} {average}"
                );
            }
        }
    }
}
