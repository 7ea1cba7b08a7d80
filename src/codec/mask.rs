//! Masks that do not look at the weights: drawn again from a key wherever they are needed, so they
//! cost no stored byte. The generator is number 1 of FORMAT.md section 6.4.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::kernel::random;

/// One of this many chances is the unit a keep rate is stored in.
pub(crate) const CHANCES: u32 = 1 << 16;

/// Where a tile stands among the rows that are drawn for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct MaskPlace {
    /// Key of the tensor.
    pub(crate) key: u64,
    /// First row of the tile, counted over all matrices of the tensor.
    pub(crate) first_row: u64,
}

impl MaskPlace {
    /// The place of a tile that starts at row `first_row` of the tensor called `name`.
    pub(crate) fn new(seed: u64, name: &str, first_row: u64) -> Self {
        Self { key: xxh3_64_with_seed(name.as_bytes(), seed), first_row }
    }
}

/// Positions of one row that survive when `keep` of [`CHANCES`] do, each on its own.
pub(crate) fn survivors(
    place: MaskPlace,
    row: usize,
    keep: u16,
    draws: &mut Vec<u16>,
    n_cols: usize,
    out: &mut Vec<u32>,
) {
    draws.resize(n_cols, 0);
    random::row_draws(place.key, place.first_row + row as u64, draws);
    out.clear();
    out.extend((0u32..).zip(draws.iter()).filter(|(_, d)| **d < keep).map(|(i, _)| i));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_depends_on_seed_name_and_row_alone() {
        let draw = |seed, name, first_row, row| {
            let mut out = Vec::new();
            let place = MaskPlace::new(seed, name, first_row);
            survivors(place, row, 6554, &mut Vec::new(), 4096, &mut out);
            out
        };
        assert_eq!(draw(1, "a", 5, 0), draw(1, "a", 3, 2));
        assert_ne!(draw(1, "a", 5, 0), draw(2, "a", 5, 0));
        assert_ne!(draw(1, "a", 5, 0), draw(1, "b", 5, 0));
        let n = draw(1, "a", 5, 0).len();
        assert!((350..480).contains(&n), "{n} of 4096 at one in ten");
    }
}
