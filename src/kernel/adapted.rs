//! A base plus a scaled product of two narrow matrices, for any run of its elements: what a low-rank
//! adapter makes of a weight.
//!
//! An element's sum goes over the rank in ascending order, each product and sum rounded, then it is scaled
//! and added to the base's, and rounded once to the output's dtype. So an element never depends on which
//! others are asked for with it. All of it is in f32, or in f64 where the output is F64.

use std::ops::{Add, Mul, Range};

use crate::kernel::convert;
use crate::tensor::DType;

/// Rows and columns that are worked on together: both their factors stay in the second-level cache.
const ROWS: usize = 64;
const COLS: usize = 256;

/// One of both matrices: a value for each position (a row or a column of the product) and each rank.
#[derive(Debug, Clone, Copy)]
pub struct Factor<'a> {
    /// Its dtype, one of the floats.
    pub dtype: DType,
    /// Its values.
    pub bytes: &'a [u8],
    /// Positions between one rank and the next; `None` if the ranks of a position lie side by side.
    pub stride: Option<usize>,
}

/// The product of two factors, times `scale`.
#[derive(Debug, Clone, Copy)]
pub struct Product<'a> {
    /// The factor whose positions are rows.
    pub left: Factor<'a>,
    /// The factor whose positions are columns.
    pub right: Factor<'a>,
    /// Summands of an element, 1 or more.
    pub rank: usize,
    /// Columns, 1 or more.
    pub n_cols: usize,
    /// What the sum is multiplied by.
    pub scale: f64,
}

impl Product<'_> {
    /// Bytes that [`add_to`](Self::add_to) allocates at most for a rank.
    pub fn scratch_bytes(rank: u64) -> u64 {
        8 * (rank * (ROWS + COLS + 1) as u64 + 2 * COLS as u64)
    }

    /// `base` plus elements `first..` of the product, row by row, as many as `out` holds in `dtype`.
    pub fn add_to(&self, base: (DType, &[u8]), first: usize, dtype: DType, out: &mut [u8]) {
        match dtype {
            DType::F64 => add::<f64>(self, base, first, dtype, out),
            _ => add::<f32>(self, base, first, dtype, out),
        }
    }
}

/// What sums are taken in.
trait Number: Copy + Default {
    fn from_scale(scale: f64) -> Self;
    fn widen(dtype: DType, bytes: &[u8], out: &mut [Self]);
    /// `out[i]` becomes the sum of `left[k] * right[k * width + skip + i]`, scaled.
    fn sum(left: &[Self], right: &[Self], at: (usize, usize), scale: Self, out: &mut [Self]);
    fn add(base: (DType, &[u8]), delta: &[Self], dtype: DType, out: &mut [u8]);
}

impl Number for f32 {
    fn from_scale(scale: f64) -> Self {
        scale as f32
    }
    fn widen(dtype: DType, bytes: &[u8], out: &mut [Self]) {
        convert::to_f32(dtype, bytes, out);
    }
    fn sum(left: &[Self], right: &[Self], at: (usize, usize), scale: Self, out: &mut [Self]) {
        sum_f32(left, right, at, scale, out);
    }
    fn add(base: (DType, &[u8]), delta: &[Self], dtype: DType, out: &mut [u8]) {
        convert::add(base, delta, dtype, out);
    }
}

impl Number for f64 {
    fn from_scale(scale: f64) -> Self {
        scale
    }
    fn widen(dtype: DType, bytes: &[u8], out: &mut [Self]) {
        convert::to_f64(dtype, bytes, out);
    }
    fn sum(left: &[Self], right: &[Self], at: (usize, usize), scale: Self, out: &mut [Self]) {
        sum_f64(left, right, at, scale, out);
    }
    fn add(base: (DType, &[u8]), delta: &[Self], dtype: DType, out: &mut [u8]) {
        convert::add_f64(base, delta, dtype, out);
    }
}

vectorised! {
    fn sum_f32(left: &[f32], right: &[f32], at: (usize, usize), scale: f32, out: &mut [f32]) = sum_body;
}

vectorised! {
    fn sum_f64(left: &[f64], right: &[f64], at: (usize, usize), scale: f64, out: &mut [f64]) = sum_body;
}

#[inline(always)]
fn sum_body<T: Copy + Default + Add<Output = T> + Mul<Output = T>>(
    left: &[T],
    right: &[T],
    (width, skip): (usize, usize),
    scale: T,
    out: &mut [T],
) {
    out.fill(T::default());
    let n = out.len();
    let run = |k: usize| &right[k * width + skip..k * width + skip + n];
    // Four at a time: sums are loaded and stored a quarter as often, in the same order.
    let (fours, rest) = left.as_chunks::<4>();
    for (i, l) in fours.iter().enumerate() {
        let [a, b, c, d] = [run(4 * i), run(4 * i + 1), run(4 * i + 2), run(4 * i + 3)];
        for ((((o, &a), &b), &c), &d) in out.iter_mut().zip(a).zip(b).zip(c).zip(d) {
            *o = *o + l[0] * a + l[1] * b + l[2] * c + l[3] * d;
        }
    }
    for (i, &l) in rest.iter().enumerate() {
        for (o, &r) in out.iter_mut().zip(run(4 * fours.len() + i)) {
            *o = *o + l * r;
        }
    }
    for o in out {
        *o = *o * scale;
    }
}

fn add<T: Number>(
    product: &Product<'_>,
    base: (DType, &[u8]),
    first: usize,
    dtype: DType,
    out: &mut [u8],
) {
    let &Product { rank, n_cols, .. } = product;
    let (width, base_width) = (dtype.bits() / 8, base.0.bits() / 8);
    let end = first + out.len() / width;
    let (mut left, mut right) = (vec![T::default(); ROWS * rank], vec![T::default(); COLS * rank]);
    let (mut spare, mut delta) = (vec![T::default(); rank.max(COLS)], [T::default(); COLS]);
    let scale = T::from_scale(product.scale);
    let last_row = end.div_ceil(n_cols);
    for top in (first / n_cols..last_row).step_by(ROWS) {
        let rows = top..last_row.min(top + ROWS);
        load(&product.left, rows.clone(), rank, true, &mut left, &mut spare);
        for start in (0..n_cols).step_by(COLS) {
            let cols = start..n_cols.min(start + COLS);
            load(&product.right, cols.clone(), rank, false, &mut right, &mut spare);
            for row in rows.clone() {
                // The first and the last row may be cut.
                let from = first.max(row * n_cols + cols.start);
                let to = end.min(row * n_cols + cols.end);
                if from >= to {
                    continue;
                }
                let skip = from - row * n_cols - cols.start;
                let delta = &mut delta[..to - from];
                let ranks = &left[(row - top) * rank..(row - top + 1) * rank];
                T::sum(ranks, &right, (cols.len(), skip), scale, delta);
                let (from, to) = (from - first, to - first);
                let base = (base.0, &base.1[from * base_width..to * base_width]);
                T::add(base, delta, dtype, &mut out[from * width..to * width]);
            }
        }
    }
}

/// The values of some positions, those of a position side by side if `by_position`, else those of a rank.
fn load<T: Number>(
    factor: &Factor<'_>,
    positions: Range<usize>,
    rank: usize,
    by_position: bool,
    out: &mut [T],
    spare: &mut [T],
) {
    let n = positions.len();
    let width = factor.dtype.bits() / 8;
    let run = |start: usize, len: usize| &factor.bytes[start * width..(start + len) * width];
    let scatter = |values: &[T], to: &mut [T], step: usize| {
        to.iter_mut().step_by(step).zip(values).for_each(|(o, v)| *o = *v);
    };
    match factor.stride {
        None => {
            for (i, position) in positions.enumerate() {
                let values = run(position * rank, rank);
                if by_position {
                    T::widen(factor.dtype, values, &mut out[i * rank..(i + 1) * rank]);
                } else {
                    T::widen(factor.dtype, values, &mut spare[..rank]);
                    scatter(&spare[..rank], &mut out[i..], n);
                }
            }
        }
        Some(stride) => {
            for k in 0..rank {
                let values = run(k * stride + positions.start, n);
                if by_position {
                    T::widen(factor.dtype, values, &mut spare[..n]);
                    scatter(&spare[..n], &mut out[k..], rank);
                } else {
                    T::widen(factor.dtype, values, &mut out[k * n..(k + 1) * n]);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::both_ways;
    use proptest::prelude::*;

    fn bytes_of(dtype: DType, values: &[f32]) -> Vec<u8> {
        let mut out = vec![0; values.len() * dtype.bits() / 8];
        convert::from_f32(dtype, values, &mut out);
        out
    }

    fn noise(n: usize, seed: u64) -> Vec<f32> {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / 16_777_216.0 - 0.5
        };
        (0..n).map(|_| next()).collect()
    }

    /// Element by element, as the first lines of this file say.
    fn plainly(a: &[f32], b: &[f32], base: f32, (row, col): (usize, usize), of: [usize; 2]) -> f32 {
        let [rank, n_cols] = of;
        let sum = (0..rank).fold(0.0f32, |sum, k| sum + b[row * rank + k] * a[k * n_cols + col]);
        base + sum * 0.75
    }

    #[test]
    fn every_element_is_the_ordered_sum_on_both_layouts() {
        for [n_rows, n_cols, rank] in [[3, 5, 1], [70, 300, 8], [2, 513, 7], [129, 1, 4]] {
            let (a, b) = (noise(rank * n_cols, 1), noise(n_rows * rank, 2));
            let base = noise(n_rows * n_cols, 3);
            let at = |i: usize| (i / n_cols, i % n_cols);
            let want: Vec<f32> = (0..n_rows * n_cols)
                .map(|i| plainly(&a, &b, base[i], at(i), [rank, n_cols]))
                .collect();
            let turned = |m: &[f32], n: usize| -> Vec<f32> {
                (0..m.len()).map(|i| m[i % (m.len() / n) * n + i / (m.len() / n)]).collect()
            };
            let (a_turned, b_turned) = (turned(&a, n_cols), turned(&b, rank));
            let dtype = DType::F32;
            let bytes = [&a, &b, &a_turned, &b_turned, &base].map(|m| bytes_of(dtype, m));
            let factor = |i: usize, stride| Factor { dtype, bytes: &bytes[i], stride };
            for (left, right) in [
                (factor(1, None), factor(0, Some(n_cols))),
                (factor(3, Some(n_rows)), factor(2, None)),
            ] {
                let product = Product { left, right, rank, n_cols, scale: 0.75 };
                let mut out = vec![0; want.len() * 4];
                product.add_to((dtype, &bytes[4]), 0, dtype, &mut out);
                assert_eq!(out, bytes_of(dtype, &want), "{n_rows} x {n_cols}, rank {rank}");
            }
        }
    }

    #[test]
    fn f64_outputs_are_summed_in_f64() {
        let (a, b) = ([1e-9f64, 3.0], [1.0f64, 1e-12]);
        let bytes = |v: &[f64]| v.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>();
        let (left, right, base) = (bytes(&b), bytes(&a), bytes(&[1.0]));
        let dtype = DType::F64;
        let left = Factor { dtype, bytes: &left, stride: None };
        let right = Factor { dtype, bytes: &right, stride: Some(1) };
        let product = Product { left, right, rank: 2, n_cols: 1, scale: 2.0 };
        let mut out = [0; 8];
        product.add_to((dtype, &base), 0, dtype, &mut out);
        assert_eq!(f64::from_le_bytes(out), 1.0 + (1e-9 + 3.0 * 1e-12) * 2.0);
    }

    proptest! {
        #[test]
        fn a_part_is_that_part_of_the_whole_in_every_clone(
            dtypes in prop::array::uniform3(prop::sample::select(vec![DType::F32, DType::F16, DType::BF16])),
            [n_rows, n_cols, rank] in [1usize..140, 1usize..600, 1usize..12],
            cut in (any::<prop::sample::Index>(), any::<prop::sample::Index>()),
        ) {
            let [of_base, of_factors, dtype] = dtypes;
            let n = n_rows * n_cols;
            let base = bytes_of(of_base, &noise(n, 4));
            let (a, b) = (bytes_of(of_factors, &noise(rank * n_cols, 5)), bytes_of(of_factors, &noise(rank * n_rows, 6)));
            let left = Factor { dtype: of_factors, bytes: &b, stride: None };
            let right = Factor { dtype: of_factors, bytes: &a, stride: Some(n_cols) };
            let product = Product { left, right, rank, n_cols, scale: 1.5 };
            let run = |part: Range<usize>| {
                let mut out = vec![0; part.len() * dtype.bits() / 8];
                let width = of_base.bits() / 8;
                let base = &base[part.start * width..part.end * width];
                product.add_to((of_base, base), part.start, dtype, &mut out);
                out
            };
            let (wide, plain) = both_ways(|| run(0..n));
            prop_assert_eq!(&wide, &plain);
            let (x, y) = (cut.0.index(n + 1), cut.1.index(n + 1));
            let part = x.min(y)..x.max(y);
            let width = dtype.bits() / 8;
            prop_assert_eq!(&run(part.clone())[..], &wide[part.start * width..part.end * width]);
        }
    }
}
