//! A few rows of a tensor that stand for the whole of it.

use crate::checkpoint::Window;
use crate::codec::Operand;
use crate::codec::delta::DeltaTile;
use crate::error::Result;
use crate::pipeline::identity::base_range;
use crate::pipeline::inputs::Inputs;
use crate::tensor::{DType, Tile, Tiling};

/// Rows of a strip, unless the matrix has fewer or so many do not fit a tile.
const LEAST_ROWS: u64 = 16;

/// The rows of a tensor on both sides.
pub(crate) struct Strip {
    pub(crate) tensor: usize,
    pub(crate) tile: Tile,
    ft: (DType, Window),
    base: (DType, Window),
}

impl Strip {
    /// One row in `share` of a tensor's middle matrix; `None` if it has no base or no rows.
    pub(crate) fn read(inputs: &Inputs, tensor: usize, share: u64) -> Result<Option<Self>> {
        let (t, p) = (&inputs.ft.tensors()[tensor], &inputs.pair.items[tensor]);
        let Some(tile) = rows_of(&p.tiling, share) else { return Ok(None) };
        let (Some(base), Some(there)) = (p.base, base_range(&p.item, t.dtype, &tile)) else {
            return Ok(None);
        };
        let b = &inputs.base.tensors()[base];
        let here = tile.bytes(t.dtype.lane_bytes());
        let len = |range: &std::ops::Range<u64>| (range.end - range.start) as usize;
        let ft = inputs.ft_source.window(t.shard, t.offset + here.start, len(&here))?;
        let source = &inputs.base_source;
        let base = source.window(b.shard, b.offset + there.start, len(&there))?;
        Ok(Some(Strip { tensor, tile, ft: (t.dtype, ft), base: (b.dtype, base) }))
    }

    /// Fine-tune and base of these rows.
    pub(crate) fn delta(&self) -> DeltaTile<'_> {
        let Tile { n_rows, n_cols, .. } = self.tile;
        let ft = Operand { dtype: self.ft.0, bytes: &self.ft.1 };
        let base = Operand { dtype: self.base.0, bytes: &self.base.1 };
        DeltaTile { ft, base, n_rows, n_cols }
    }

    /// Bytes of the fine-tune's rows.
    pub(crate) fn n_bytes(&self) -> usize {
        self.ft.1.len()
    }
}

/// Rows from the middle of a tensor's middle matrix.
fn rows_of(tiling: &Tiling, share: u64) -> Option<Tile> {
    let Tiling::Matrix { n_matrices, m, n, step } = *tiling else { return None };
    let n_rows = (m / share).max(LEAST_ROWS).min(m).min(step);
    let matrix = n_matrices / 2;
    let first = (matrix * m + (m - n_rows) / 2) * n;
    Some(Tile { matrix, first, n_rows: n_rows as usize, n_cols: n as usize })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_strip_lies_in_the_middle_and_never_outgrows_a_tile() {
        for (shape, share, rows) in [
            // One row in forty, in the second of three matrices.
            (vec![3, 4000, 64], 40, 4000 + 1950..4000 + 2050),
            (vec![100, 64], 40, 42..58),
            (vec![5, 64], 40, 0..5),
            // A tile has one row of these.
            (vec![9, 1 << 20], 40, 4..5),
        ] {
            let tiling = Tiling::matrix(&shape, 2, 1).unwrap();
            let strip = rows_of(&tiling, share).unwrap();
            let n = strip.n_cols as u64;
            assert_eq!(
                strip.first..strip.first + strip.n_elements() as u64,
                rows.start * n..rows.end * n
            );
            assert!(strip.n_elements() as u64 <= tiling.max_elements());
        }
        assert!(rows_of(&Tiling::flat(9, 4, 9), 1).is_none());
    }
}
