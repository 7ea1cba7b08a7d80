//! The delta of a matrix in runs of whole rows, whatever runs of elements its tiles are.

use crate::error::Result;
use crate::kernel::convert;
use crate::pipeline::budget::Needs;
use crate::pipeline::export::{Progress, Variant, View};

/// A matrix of a variant that the base has too.
pub(super) struct Matrix<'a> {
    pub(super) variant: &'a Variant<'a>,
    pub(super) tensor: usize,
    pub(super) n_rows: usize,
    pub(super) n_cols: usize,
}

/// What became of a tile: its part of a row that an earlier tile began, what was made of its whole rows, and
/// the beginning of a row.
struct Part<T> {
    head: Vec<f32>,
    whole: Option<(usize, T)>,
    tail: Vec<f32>,
}

impl<'a> Matrix<'a> {
    pub(super) fn new(variant: &'a Variant<'a>, tensor: usize) -> Option<Self> {
        let [n_rows, n_cols] = variant.stored.tensors[tensor].shape[..] else { return None };
        let (n_rows, n_cols) = (usize::try_from(n_rows).ok()?, usize::try_from(n_cols).ok()?);
        Some(Self { variant, tensor, n_rows, n_cols })
    }

    /// Goes through the rows of the delta: `work` in parallel on runs of them, told the first one's number, then
    /// `sink` in order. `extra` is what `work` makes and what stays, in bytes.
    pub(super) fn each_rows<T: Send>(
        &self,
        extra: Needs,
        progress: &mut Progress<'_>,
        work: impl Fn(usize, &mut [f32]) -> T + Sync,
        mut sink: impl FnMut(T),
    ) -> Result<()> {
        let bytes = self.variant.tile_bytes(self.tensor);
        let dtype = self.variant.stored.tensors[self.tensor].dtype;
        let width = dtype.lane_bytes();
        let n_elements = bytes / width as u64;
        let needs = Needs {
            tile: extra.tile + 8 * self.n_cols as u64,
            worker: extra.worker + 4 * n_elements,
            ..extra
        };
        let on_tile = |values: &mut Vec<f32>, view: &View<'_>| {
            values.resize(view.new.len() / width, 0.0);
            convert::subtract((dtype, view.new), (dtype, view.old), values);
            Ok(self.cut(view.at as usize / width, values, &work))
        };
        // The row that is not whole yet, and how many are.
        let (mut open, mut n_done) = (Vec::new(), 0);
        let on_part = |new: &[u8], part: Part<T>| {
            open.extend(part.head);
            if !open.is_empty() && open.len() == self.n_cols {
                sink(work(n_done, &mut open));
                n_done += 1;
                open.clear();
            }
            if let Some((n, made)) = part.whole {
                sink(made);
                n_done += n;
            }
            open.extend(part.tail);
            progress.add(new.len())
        };
        self.variant.each_tile(self.tensor, needs, Vec::new, on_tile, on_part)
    }

    /// Works on the whole rows of the elements from `first`.
    fn cut<T>(
        &self,
        first: usize,
        values: &mut [f32],
        work: impl Fn(usize, &mut [f32]) -> T,
    ) -> Part<T> {
        let n = self.n_cols;
        let (head, rest) =
            values.split_at_mut((first.next_multiple_of(n) - first).min(values.len()));
        let (rows, tail) = rest.split_at_mut(rest.len() / n * n);
        let whole = (!rows.is_empty()).then(|| (rows.len() / n, work(first.div_ceil(n), rows)));
        Part { head: head.to_vec(), whole, tail: tail.to_vec() }
    }
}
