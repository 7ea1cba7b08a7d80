//! What an error in a layer's weights does to its outputs: the quadratic form e M e^T, summed over
//! rows e, where M holds the second moments of the layer's inputs.
//!
//! Sums are taken in f64 over fixed lanes joined in a fixed order, as in `quantise`.

use crate::kernel::joined;

/// Lanes of every sum: one of the widest vectors, two or four of others.
const LANES: usize = 8;
/// Columns that a pair of rows is multiplied over at a time, a multiple of the lanes.
const COLUMNS: usize = 512;
/// Rows of the error that share what is loaded of the moments.
const ROWS: usize = 4;
/// Rows of the moments that share what is loaded of the error.
const LINES: usize = 2;

vectorised! {
    /// The sum of `m_j x^2` over all x of `rows`, which are `n_cols` wide; `moments` has `n_cols`
    /// values m_j, and without one a column counts nothing.
    pub fn diagonal(rows: &[f32], n_cols: usize, moments: &[f32]) -> f64 = diagonal_body;
}

vectorised! {
    /// What rows `first..` of a symmetric M, `n_cols` wide and handed over in `lines`, add to the sum
    /// of e M e^T over the rows e. Of M only the lower triangle is looked at; all rows of M, in
    /// any cut, add up to the whole form. Rows beyond `n_cols` and unfinished rows are not looked at.
    pub fn full(rows: &[f32], n_cols: usize, first: usize, lines: &[f32]) -> f64 = full_body;
}

#[inline(always)]
fn diagonal_body(rows: &[f32], n_cols: usize, moments: &[f32]) -> f64 {
    let mut sums = [0.0f64; LANES];
    for row in rows.chunks_exact(n_cols.max(1)) {
        let (xs, x_rest) = row.as_chunks::<LANES>();
        let (ms, m_rest) = moments.as_chunks::<LANES>();
        for (x, m) in xs.iter().zip(ms) {
            for i in 0..LANES {
                sums[i] += f64::from(m[i]) * (f64::from(x[i]) * f64::from(x[i]));
            }
        }
        for ((sum, &x), &m) in sums.iter_mut().zip(x_rest).zip(m_rest) {
            *sum += f64::from(m) * (f64::from(x) * f64::from(x));
        }
    }
    joined(sums)
}

#[inline(always)]
fn full_body(rows: &[f32], n_cols: usize, first: usize, lines: &[f32]) -> f64 {
    let n_cols = n_cols.max(1);
    let n_lines = (lines.len() / n_cols).min(n_cols.saturating_sub(first));
    let mut total = 0.0;
    // A few rows of the error stay in the nearest cache while all lines pass by.
    for few in rows.chunks(ROWS * n_cols) {
        let mut at = 0;
        while at < n_lines {
            let n = LINES.min(n_lines - at);
            let some = &lines[at * n_cols..(at + n) * n_cols];
            total += if few.len() == ROWS * n_cols && n == LINES {
                block::<ROWS, LINES>(few, some, n_cols, first + at)
            } else {
                let each = few.chunks_exact(n_cols);
                each.map(|row| lines_of(row, some, n_cols, first + at)).sum::<f64>()
            };
            at += n;
        }
    }
    total
}

/// One row of the error against some lines.
#[inline(always)]
fn lines_of(row: &[f32], lines: &[f32], n_cols: usize, first: usize) -> f64 {
    let each = lines.chunks_exact(n_cols).enumerate();
    each.map(|(k, line)| block::<1, 1>(row, line, n_cols, first + k)).sum()
}

/// `I` rows of the error against the `J` lines of M from `first`.
#[inline(always)]
fn block<const I: usize, const J: usize>(
    rows: &[f32],
    lines: &[f32],
    n_cols: usize,
    first: usize,
) -> f64 {
    // Before column `first` all lines are full; what is left of the triangle is a corner.
    let dots = dots::<I, J>(rows, lines, n_cols, first);
    let mut total = 0.0;
    for (i, dots) in dots.iter().enumerate() {
        for (j, &dot) in dots.iter().enumerate() {
            let row = &rows[i * n_cols + first..];
            let line = &lines[j * n_cols + first..];
            let mut beside = dot;
            for k in 0..j {
                beside += f64::from(line[k]) * f64::from(row[k]);
            }
            let own = f64::from(line[j]) * f64::from(row[j]);
            total += f64::from(row[j]) * (own + 2.0 * beside);
        }
    }
    total
}

/// The products of the first `n` columns of each row with those of each line. One pair at a time over
/// columns that stay in the nearest cache: with all pairs at once the compiler finds no vectors.
#[inline(always)]
fn dots<const I: usize, const J: usize>(
    rows: &[f32],
    lines: &[f32],
    n_cols: usize,
    n: usize,
) -> [[f64; J]; I] {
    let mut sums = [[[0.0f64; LANES]; J]; I];
    let whole = n / LANES * LANES;
    for from in (0..whole).step_by(COLUMNS) {
        let part = from..whole.min(from + COLUMNS);
        for j in 0..J {
            for i in 0..I {
                let row = &rows[i * n_cols..][part.clone()];
                let line = &lines[j * n_cols..][part.clone()];
                let mut lanes = sums[i][j];
                let chunks = row.as_chunks::<LANES>().0.iter().zip(line.as_chunks::<LANES>().0);
                for (x, m) in chunks {
                    for l in 0..LANES {
                        lanes[l] += f64::from(x[l]) * f64::from(m[l]);
                    }
                }
                sums[i][j] = lanes;
            }
        }
    }
    let mut out = [[0.0; J]; I];
    for i in 0..I {
        for j in 0..J {
            out[i][j] = joined(sums[i][j]);
            for k in whole..n {
                out[i][j] += f64::from(rows[i * n_cols + k]) * f64::from(lines[j * n_cols + k]);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::both_ways;
    use proptest::prelude::*;

    /// A symmetric matrix from a list of values, whatever they are.
    fn symmetric(n: usize, values: &[f32]) -> Vec<f32> {
        let at = |i: usize, j: usize| values[(i * n + j) % values.len()];
        (0..n * n).map(|k| at((k / n).max(k % n), (k / n).min(k % n))).collect()
    }

    fn naive(rows: &[f32], n: usize, m: &[f32]) -> f64 {
        let mut sum = 0.0;
        for row in rows.chunks_exact(n) {
            for i in 0..n {
                for j in 0..n {
                    sum += f64::from(row[i]) * f64::from(m[i * n + j]) * f64::from(row[j]);
                }
            }
        }
        sum
    }

    #[test]
    fn forms_by_hand() {
        assert_eq!(diagonal(&[1.0, 2.0, 3.0, 4.0], 2, &[10.0, 100.0]), 10.0 * 10.0 + 20.0 * 100.0);
        // (1, 2) M (1, 2)^T for M = (3 5; 5 7): 3 + 2 * 10 + 28.
        assert_eq!(full(&[1.0, 2.0], 2, 0, &[3.0, 5.0, 5.0, 7.0]), 51.0);
        // The upper triangle is not looked at.
        assert_eq!(full(&[1.0, 2.0], 2, 0, &[3.0, f32::NAN, 5.0, 7.0]), 51.0);
    }

    #[test]
    fn nothing_and_too_much_are_no_panic() {
        assert_eq!((diagonal(&[], 0, &[]), full(&[], 0, 0, &[])), (0.0, 0.0));
        assert_eq!(diagonal(&[2.0, 3.0], 2, &[1.0]), 4.0);
        assert_eq!(full(&[2.0, 3.0], 2, 7, &[1.0, 1.0]), 0.0);
        assert_eq!(full(&[2.0, 3.0], 2, 0, &[1.0, 1.0, 1.0]), 4.0);
        assert_eq!(full(&[2.0, 3.0, 9.0], 2, 1, &[1.0, 1.0, 5.0, 5.0]), 9.0 + 12.0);
    }

    #[test]
    fn what_is_not_finite_shows() {
        let rows = vec![0.0; 40];
        for bad in [f32::NAN, f32::INFINITY] {
            for at in [0, 5, 39] {
                let mut moments = vec![1.0; 40];
                moments[at] = bad;
                assert!(!diagonal(&rows, 40, &moments).is_finite());
            }
            for (line, column) in [(0, 0), (9, 3), (39, 38), (38, 38)] {
                let mut moments = vec![1.0; 1600];
                moments[line * 40 + column] = bad;
                assert!(!full(&rows, 40, 0, &moments).is_finite());
            }
        }
    }

    proptest! {
        #[test]
        fn forms_agree_with_the_naive_sum(
            n in 1usize..40, n_rows in 0usize..11, cut in 0usize..40,
            values in prop::collection::vec(-2f32..2.0, 50..900),
        ) {
            let rows: Vec<f32> = (0..n * n_rows).map(|i| values[i * 7 % values.len()]).collect();
            let m = symmetric(n, &values);
            let cut = cut.min(n);
            let (wide, plain) = both_ways(|| {
                let (above, below) = m.split_at(cut * n);
                let diagonal = diagonal(&rows, n, &m[..n]);
                [full(&rows, n, 0, above), full(&rows, n, cut, below), diagonal].map(f64::to_bits)
            });
            prop_assert_eq!(wide, plain);
            let [above, below, by_diagonal] = wide.map(f64::from_bits);
            let scale = (16 * n * n * n_rows) as f64 * 1e-14 + 1e-14;
            prop_assert!((above + below - naive(&rows, n, &m)).abs() < scale);
            let plain: f64 = rows.iter().zip(m[..n].iter().cycle())
                .map(|(x, m)| f64::from(*x) * f64::from(*x) * f64::from(*m)).sum();
            prop_assert!((by_diagonal - plain).abs() < scale);
        }
    }
}
