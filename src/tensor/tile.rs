//! How tensors are cut into tiles, the unit of work and of storage.
//!
//! A cut depends on shape, dtype and patch side alone, never on memory or threads, so the archive's
//! bytes do not either.

use std::ops::Range;

/// Most elements in a tile, unless one strip of patch rows holds more.
pub(crate) const MAX_TILE_ELEMENTS: u64 = 1 << 20;
/// Most bytes of a tile as it lies in a checkpoint, unless one strip of patch rows holds more.
pub(crate) const MAX_TILE_BYTES: u64 = 4 << 20;
/// Most elements in one strip of patch rows. A wider matrix has no matrix tiles.
pub(crate) const MAX_STRIP_ELEMENTS: u64 = 4 << 20;

/// A tensor's shape, outermost dimension first. Scalars have no dimensions.
pub type Shape = Vec<u64>;

/// A run of whole rows of one matrix of a tensor; a flat tile is one row of lanes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tile {
    /// Which matrix of the stack; 0 for flat tiles.
    pub(crate) matrix: u64,
    /// First element (for flat tiles: lane) in the whole tensor.
    pub(crate) first: u64,
    /// Rows in the tile; 1 for flat tiles.
    pub(crate) n_rows: usize,
    /// Columns in the tile; lanes for flat tiles.
    pub(crate) n_cols: usize,
}

impl Tile {
    /// Number of elements, or lanes.
    pub(crate) fn n_elements(&self) -> usize {
        self.n_rows * self.n_cols
    }

    /// Where its bytes lie inside the tensor, for elements (lanes) of `width` bytes.
    pub(crate) fn bytes(&self, width: usize) -> Range<u64> {
        let start = self.first * width as u64;
        start..start + (self.n_elements() * width) as u64
    }
}

/// How one tensor is cut; tiles are computed on demand, so hostile shapes cost nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Tiling {
    /// Runs of lanes, with a cut at `common` so that no run lies half inside the part that has a base.
    Flat {
        /// Lanes in the tensor.
        n: u64,
        /// Lanes that have a base.
        common: u64,
        /// Lanes a tile.
        step: u64,
    },
    /// Runs of whole rows of a stack of `n_matrices` matrices of `m` rows and `n` columns.
    Matrix {
        /// Matrices in the stack.
        n_matrices: u64,
        /// Rows of a matrix.
        m: u64,
        /// Columns of a matrix.
        n: u64,
        /// Rows a tile.
        step: u64,
    },
}

impl Tiling {
    /// Cuts `n` lanes of `lane_bytes` bytes, the first `common` of which have a base.
    pub(crate) fn flat(n: u64, lane_bytes: usize, common: u64) -> Self {
        let step = MAX_TILE_ELEMENTS.min(MAX_TILE_BYTES / lane_bytes as u64);
        Tiling::Flat { n, common: common.min(n), step }
    }

    /// Cuts a tensor of `shape` `[.., m, n]` and elements of `width` bytes into a multiple of `patch`
    /// rows a tile, fewer at the bottom of a matrix. `None` if the tensor has fewer than two
    /// dimensions, is empty, or one strip of `patch` rows is larger than [`MAX_STRIP_ELEMENTS`].
    pub(crate) fn matrix(shape: &[u64], width: usize, patch: u64) -> Option<Self> {
        let [stack @ .., m, n] = shape else {
            return None;
        };
        let n_matrices = stack.iter().try_fold(1u64, |a, b| a.checked_mul(*b))?;
        let strip = n.checked_mul(patch)?;
        if n_matrices == 0 || *m == 0 || strip == 0 || strip > MAX_STRIP_ELEMENTS {
            return None;
        }
        let most = MAX_TILE_ELEMENTS.min(MAX_TILE_BYTES / width as u64);
        let step = (most / n / patch * patch).max(patch);
        Some(Tiling::Matrix { n_matrices, m: *m, n: *n, step })
    }

    /// Number of tiles.
    pub(crate) fn len(&self) -> u64 {
        match *self {
            Tiling::Flat { n, common, step } => common.div_ceil(step) + (n - common).div_ceil(step),
            Tiling::Matrix { n_matrices, m, step, .. } => n_matrices * m.div_ceil(step),
        }
    }

    /// Whether there is nothing to cut.
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Tile `i`, counted from 0.
    pub(crate) fn get(&self, i: u64) -> Tile {
        match *self {
            Tiling::Flat { n, common, step } => {
                let n_based = common.div_ceil(step);
                let (first, end) = if i < n_based {
                    (i * step, common)
                } else {
                    (common + (i - n_based) * step, n)
                };
                let n_cols = step.min(end - first) as usize;
                Tile { matrix: 0, first, n_rows: 1, n_cols }
            }
            Tiling::Matrix { m, n, step, .. } => {
                let per_matrix = m.div_ceil(step);
                let (matrix, row) = (i / per_matrix, i % per_matrix * step);
                let n_rows = step.min(m - row) as usize;
                Tile { matrix, first: (matrix * m + row) * n, n_rows, n_cols: n as usize }
            }
        }
    }

    /// The number of the tile that holds an element (a lane, of flat tiles) of the tensor.
    pub(crate) fn holding(&self, element: u64) -> u64 {
        match *self {
            Tiling::Flat { common, step, .. } if element < common => element / step,
            Tiling::Flat { common, step, .. } => common.div_ceil(step) + (element - common) / step,
            Tiling::Matrix { m, n, step, .. } => {
                let row = element / n;
                row / m * m.div_ceil(step) + row % m / step
            }
        }
    }

    /// Matrices in the stack; a flat tensor counts as one.
    pub(crate) fn n_matrices(&self) -> u64 {
        match *self {
            Tiling::Flat { .. } => 1,
            Tiling::Matrix { n_matrices, .. } => n_matrices,
        }
    }

    /// The tiles of one matrix, as a range of tile numbers.
    pub(crate) fn of_matrix(&self, matrix: u64) -> Range<u64> {
        let per_matrix = self.len() / self.n_matrices();
        matrix * per_matrix..(matrix + 1) * per_matrix
    }

    /// Most elements (lanes) a tile of this tensor has.
    pub(crate) fn max_elements(&self) -> u64 {
        match *self {
            Tiling::Flat { n, step, .. } => n.min(step),
            Tiling::Matrix { m, n, step, .. } => m.min(step) * n,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tiles(tiling: &Tiling) -> impl Iterator<Item = Tile> + '_ {
        (0..tiling.len()).map(|i| tiling.get(i))
    }

    #[test]
    fn a_strip_too_wide_for_a_tile_is_refused() {
        assert!(Tiling::matrix(&[64, 1 << 20], 2, 64).is_none());
        assert_eq!(Tiling::matrix(&[64, 28672], 2, 64).map(|t| t.len()), Some(1));
    }

    #[test]
    fn nothing_is_cut_from_nothing() {
        assert!(Tiling::flat(0, 4, 0).is_empty());
        assert_eq!(Tiling::matrix(&[0, 9], 4, 16), None);
        assert_eq!(Tiling::matrix(&[u64::MAX, u64::MAX, 2, 2], 4, 16), None);
    }

    proptest! {
        #[test]
        fn flat_tiles_cover_once(n in 0u64..5_000_000, common in 0u64..6_000_000, lane in prop::sample::select(vec![1usize, 2, 4, 8])) {
            let mut next = 0;
            for t in tiles(&Tiling::flat(n, lane, common)) {
                let end = t.first + t.n_elements() as u64;
                prop_assert_eq!(t.first, next);
                prop_assert!(t.n_elements() as u64 <= MAX_TILE_ELEMENTS);
                prop_assert!(end <= common || t.first >= common);
                let tiling = Tiling::flat(n, lane, common);
                prop_assert_eq!(tiling.get(tiling.holding(t.first)), t.clone());
                prop_assert_eq!(tiling.get(tiling.holding(end - 1)), t);
                next = end;
            }
            prop_assert_eq!(next, n);
        }

        #[test]
        fn matrix_tiles_cover_once(k in 1u64..4, m in 1u64..3000, n in 1u64..3000, p in prop::sample::select(vec![8u64, 16, 32, 64])) {
            let tiling = Tiling::matrix(&[k, m, n], 4, p).unwrap();
            let mut next = 0;
            for t in tiles(&tiling) {
                prop_assert_eq!(t.first, next);
                prop_assert_eq!((t.first - t.matrix * m * n) / n % p, 0);
                prop_assert!(t.n_elements() as u64 <= tiling.max_elements());
                next += t.n_elements() as u64;
                prop_assert_eq!(tiling.get(tiling.holding(next - 1)), t);
            }
            prop_assert_eq!(next, k * m * n);
            prop_assert_eq!(tiling.of_matrix(k - 1).end, tiling.len());
        }
    }
}
