//! Products of a matrix with a block of vectors, and of its transpose: what the search for directions
//! ([`low_rank`](super::low_rank)) does most of the time.

use crate::kernel::joined;

/// Vectors of a block: directions that are found together.
pub(super) const BLOCK: usize = 8;
/// An entry of each vector of a block.
pub(super) type Entry = [f32; BLOCK];
/// Rows that are multiplied together.
pub(super) const ROWS: usize = 8;
/// Lanes of a sum along a row.
const LANES: usize = 16;
/// Vectors that a row is multiplied by at once: their sums and the row fit registers.
const HALF: usize = BLOCK / 2;
/// Columns of rows that are multiplied together.
const COLUMNS: usize = 512;

vectorised! {
    /// `left = values x right`; `flat` is a buffer for all of `right`.
    pub(super) fn multiply(
        values: &[f32],
        n_cols: usize,
        right: &[Entry],
        flat: &mut [f32],
        left: &mut [Entry],
    ) = multiply_body;
}

#[inline(always)]
fn multiply_body(
    values: &[f32],
    n_cols: usize,
    right: &[Entry],
    flat: &mut [f32],
    left: &mut [Entry],
) {
    for (k, vector) in flat.chunks_exact_mut(n_cols).enumerate() {
        vector.iter_mut().zip(right).for_each(|(x, entry)| *x = entry[k]);
    }
    for (row, out) in values.chunks_exact(n_cols).zip(left) {
        let halves = out.as_chunks_mut::<HALF>().0.iter_mut();
        for (out, vectors) in halves.zip(flat.chunks_exact(HALF * n_cols)) {
            *out = products(row, std::array::from_fn(|k| &vectors[k * n_cols..][..n_cols]));
        }
    }
}

/// Products of a row with half of a block's vectors, each in sixteen sums joined in pairs.
#[inline(always)]
pub(super) fn products(row: &[f32], vectors: [&[f32]; HALF]) -> [f32; HALF] {
    let mut sums = [[0.0f32; LANES]; HALF];
    let (whole, rest) = row.as_chunks::<LANES>();
    let [a, b, c, d] = vectors.map(|vector| vector.as_chunks::<LANES>());
    let all = whole.iter().zip(a.0).zip(b.0).zip(c.0).zip(d.0);
    for ((((x, a), b), c), d) in all {
        // One loop for each, so that a vector of lanes is one of the row.
        for i in 0..LANES {
            sums[0][i] += x[i] * a[i];
        }
        for i in 0..LANES {
            sums[1][i] += x[i] * b[i];
        }
        for i in 0..LANES {
            sums[2][i] += x[i] * c[i];
        }
        for i in 0..LANES {
            sums[3][i] += x[i] * d[i];
        }
    }
    for (sums, last) in sums.iter_mut().zip([a.1, b.1, c.1, d.1]) {
        for ((sum, x), y) in sums.iter_mut().zip(rest).zip(last) {
            *sum += x * y;
        }
    }
    let mut products = [0.0; HALF];
    products.iter_mut().zip(&sums).for_each(|(product, sums)| *product = sum_of(sums));
    products
}

/// All lanes, joined in pairs. Called, not part of its caller, whose vectors would else be made of one lane of each
/// sum.
#[inline(never)]
fn sum_of(sums: &[f32; LANES]) -> f32 {
    joined(*sums)
}

vectorised! {
    /// `right = values^T x left`; `flat` is a buffer for all of `right`.
    pub(super) fn multiply_transposed(
        values: &[f32],
        n_cols: usize,
        left: &[Entry],
        flat: &mut [f32],
        right: &mut [Entry],
    ) = multiply_transposed_body;
}

#[inline(always)]
fn multiply_transposed_body(
    values: &[f32],
    n_cols: usize,
    left: &[Entry],
    flat: &mut [f32],
    right: &mut [Entry],
) {
    flat.fill(0.0);
    let (groups, rest) = left.as_chunks::<ROWS>();
    let (whole, last) = values.split_at(groups.len() * ROWS * n_cols);
    for (rows, group) in whole.chunks_exact(ROWS * n_cols).zip(groups) {
        let rows: [&[f32]; ROWS] = std::array::from_fn(|r| &rows[r * n_cols..][..n_cols]);
        // So many columns that all rows' stay in the nearest cache.
        for start in (0..n_cols).step_by(COLUMNS) {
            let end = n_cols.min(start + COLUMNS);
            let rows = rows.map(|row| &row[start..end]);
            for (k, vector) in flat.chunks_exact_mut(n_cols).enumerate() {
                add_rows_times(rows, std::array::from_fn(|r| group[r][k]), &mut vector[start..end]);
            }
        }
    }
    for (row, of) in last.chunks_exact(n_cols).zip(rest) {
        for (vector, of) in flat.chunks_exact_mut(n_cols).zip(of) {
            vector.iter_mut().zip(row).for_each(|(x, y)| *x += y * of);
        }
    }
    for (k, vector) in flat.chunks_exact(n_cols).enumerate() {
        right.iter_mut().zip(vector).for_each(|(entry, x)| entry[k] = *x);
    }
}

/// Adds rows, each times a number, to a vector, one row after the other.
#[inline(always)]
pub(super) fn add_rows_times(rows: [&[f32]; ROWS], times: [f32; ROWS], vector: &mut [f32]) {
    let n = vector.len();
    let [a, b, c, d, e, f, g, h] = rows.map(|row| &row[..n]);
    for (j, x) in vector.iter_mut().enumerate() {
        let first = *x + a[j] * times[0] + b[j] * times[1] + c[j] * times[2] + d[j] * times[3];
        *x = first + e[j] * times[4] + f[j] * times[5] + g[j] * times[6] + h[j] * times[7];
    }
}
