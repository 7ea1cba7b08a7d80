//! The delta of one tile, taken a strip of rows at a time so that no f32 copy outgrows the cache.

use std::ops::Range;

use crate::codec::Operand;
use crate::kernel::convert;

/// Elements of a strip where its height is free.
const STRIP: usize = 16 << 10;

/// A tile of the fine-tune and the same tile of the base.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DeltaTile<'a> {
    pub(crate) ft: Operand<'a>,
    pub(crate) base: Operand<'a>,
    pub(crate) n_rows: usize,
    pub(crate) n_cols: usize,
}

impl DeltaTile<'_> {
    /// Writes the delta of these rows to `out`.
    pub(crate) fn rows(&self, rows: &Range<usize>, out: &mut Vec<f32>) {
        let part = rows.start * self.n_cols..rows.end * self.n_cols;
        out.resize(part.len(), 0.0);
        convert::subtract(self.ft.part(&part), self.base.part(&part), out);
    }

    /// Writes the delta of all rows to the front of `out`, which grows where that is too short but never shrinks,
    /// and returns that part.
    pub(crate) fn all<'o>(&self, out: &'o mut Vec<f32>) -> &'o mut [f32] {
        let part = 0..self.n_rows * self.n_cols;
        if out.len() < part.len() {
            out.resize(part.len(), 0.0);
        }
        let out = &mut out[..part.len()];
        convert::subtract(self.ft.part(&part), self.base.part(&part), out);
        out
    }

    /// Strips of so many rows that one stays in cache.
    pub(crate) fn cached_strips(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        strips(self.n_rows, rows_in_cache(self.n_cols)).map(|(_, rows)| rows)
    }
}

/// Rows of this many columns that stay in cache together; at least one.
pub(crate) fn rows_in_cache(n_cols: usize) -> usize {
    (STRIP / n_cols.max(1)).max(1)
}

/// The strips of `p` rows, with their numbers; the last may be lower.
pub(crate) fn strips(n_rows: usize, p: usize) -> impl Iterator<Item = (usize, Range<usize>)> {
    (0..n_rows.div_ceil(p)).map(move |s| (s, s * p..n_rows.min(s * p + p)))
}
