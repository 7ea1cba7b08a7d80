//! Masks that do not look at the weights: drawn again from a key wherever they are needed, so they
//! cost no stored byte. The generator is number 1 of FORMAT.md section 6.4.

use bitvec::vec::BitVec;

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
    random::places_below(draws, keep, out);
}

/// Gives the entries of one row random signs, and takes them back: entry `i` is negated if bit `i % 16`
/// of draw `i / 16` is set.
pub(crate) fn flip_signs(place: MaskPlace, row: usize, draws: &mut Vec<u16>, values: &mut [f32]) {
    draws.resize(values.len().div_ceil(16), 0);
    random::row_draws(place.key, place.first_row + row as u64, draws);
    random::flip_signs(draws, values);
}

/// How many entries survive in each row of `n_cols` when one of `alpha` does in every group of `group`;
/// a shorter group at the end of a row keeps its share, rounded half to even.
pub(crate) fn kept_in_row(n_cols: usize, group: usize, alpha: usize) -> usize {
    n_cols / group * (group / alpha) + kept_in_rest(n_cols % group, alpha)
}

fn kept_in_rest(rest: usize, alpha: usize) -> usize {
    (rest as f64 / alpha as f64).round_ties_even() as usize
}

/// Positions of one row that survive when exactly one of `alpha` does in every group of `group`
/// entries, ascending. Floyd's sampling, one 32-bit draw a survivor.
pub(crate) fn group_survivors(
    place: MaskPlace,
    row: usize,
    (n_cols, group, alpha): (usize, usize, usize),
    draws: &mut Vec<u16>,
    out: &mut Vec<u32>,
) {
    draws.resize(2 * kept_in_row(n_cols, group, alpha), 0);
    random::row_draws(place.key, place.first_row + row as u64, draws);
    let mut words =
        draws.as_chunks::<2>().0.iter().map(|d| u64::from(d[0]) | u64::from(d[1]) << 16);
    out.clear();
    let mut wide = BitVec::<u64>::new();
    for start in (0..n_cols).step_by(group) {
        let size = group.min(n_cols - start);
        let keep = if size == group { group / alpha } else { kept_in_rest(size, alpha) };
        if size <= 64 {
            let mut mask = choose(
                size,
                keep,
                &mut words,
                0u64,
                |mask, i| *mask >> i & 1 == 1,
                |mask, i| *mask |= 1 << i,
            );
            while mask != 0 {
                out.push(start as u32 + mask.trailing_zeros());
                mask &= mask - 1;
            }
        } else {
            wide.clear();
            wide.resize(size, false);
            wide = choose(
                size,
                keep,
                &mut words,
                wide,
                |mask, i| mask[i],
                |mask, i| mask.set(i, true),
            );
            out.extend(wide.iter_ones().map(|i| (start + i) as u32));
        }
    }
}

/// Sets `keep` of the first `size` bits of an empty mask, every choice as likely: Floyd's sampling.
#[inline(always)]
fn choose<M>(
    size: usize,
    keep: usize,
    words: &mut impl Iterator<Item = u64>,
    mut mask: M,
    is_set: impl Fn(&M, usize) -> bool,
    set: impl Fn(&mut M, usize),
) -> M {
    for (last, word) in (size - keep..size).zip(words) {
        let draw = ((word * (last as u64 + 1)) >> 32) as usize;
        let taken = is_set(&mask, draw);
        set(&mut mask, if taken { last } else { draw });
    }
    mask
}

#[cfg(test)]
mod tests {
    use super::*;
    use bitvec::bitvec;

    #[test]
    fn a_mask_depends_on_key_and_row_alone() {
        let draw = |key, first_row, row| {
            let mut out = Vec::new();
            let place = MaskPlace { key, first_row };
            survivors(place, row, 6554, &mut Vec::new(), 4096, &mut out);
            out
        };
        assert_eq!(draw(1, 5, 0), draw(1, 3, 2));
        assert_ne!(draw(1, 5, 0), draw(2, 5, 0));
        assert_ne!(draw(1, 5, 0), draw(1, 6, 0));
        let n = draw(1, 5, 0).len();
        assert!((350..480).contains(&n), "{n} of 4096 at one in ten");
    }

    #[test]
    fn signs_are_the_bits_of_the_draws_and_come_off_again() {
        let (place, mut draws) = (MaskPlace { key: 9, first_row: 4 }, Vec::new());
        let values: Vec<f32> = (0..1000).map(|i| i as f32 - 300.5).collect();
        let mut flipped = values.clone();
        flip_signs(place, 2, &mut draws, &mut flipped);
        let mut want = [0; 63];
        random::row_draws(9, 6, &mut want);
        for (i, (x, y)) in values.iter().zip(&flipped).enumerate() {
            assert_eq!(*y, if want[i / 16] >> (i % 16) & 1 == 1 { -x } else { *x });
        }
        let n_flipped = values.iter().zip(&flipped).filter(|(x, y)| x != y).count();
        assert!((430..570).contains(&n_flipped), "{n_flipped}");
        flip_signs(place, 2, &mut draws, &mut flipped);
        assert_eq!(flipped, values);
    }

    /// The same draws over one mask for the whole row: what the format says, plainly.
    fn plain(
        place: MaskPlace,
        row: usize,
        (n_cols, group, alpha): (usize, usize, usize),
    ) -> Vec<u32> {
        let mut draws = vec![0; 2 * kept_in_row(n_cols, group, alpha)];
        random::row_draws(place.key, place.first_row + row as u64, &mut draws);
        let mut words = draws.chunks_exact(2).map(|d| u64::from(d[0]) | u64::from(d[1]) << 16);
        let mut chosen = bitvec![0; n_cols];
        for mask in chosen.chunks_mut(group) {
            let size = mask.len();
            let keep = if size == group { group / alpha } else { kept_in_rest(size, alpha) };
            for last in size - keep..size {
                let draw = ((words.next().unwrap() * (last as u64 + 1)) >> 32) as usize;
                let taken = mask[draw];
                mask.set(if taken { last } else { draw }, true);
            }
        }
        chosen.iter_ones().map(|i| i as u32).collect()
    }

    #[test]
    fn small_and_large_groups_are_drawn_as_the_format_says() {
        let place = MaskPlace { key: 5, first_row: 2 };
        let shapes =
            [(100, 16, 8), (100, 64, 4), (200, 65, 5), (1000, 300, 3), (7, 16, 16), (64, 64, 1)];
        for shape in shapes {
            let mut out = vec![9];
            group_survivors(place, 3, shape, &mut Vec::new(), &mut out);
            assert_eq!(out, plain(place, 3, shape), "{shape:?}");
        }
    }

    #[test]
    fn every_group_keeps_its_exact_count_and_all_positions_are_as_likely() {
        let (n_cols, group, alpha) = (16 * 40 + 11, 16, 4);
        let mut counts = vec![0; group];
        for row in 0..500 {
            let mut out = Vec::new();
            let place = MaskPlace { key: 1, first_row: 0 };
            group_survivors(place, row, (n_cols, group, alpha), &mut Vec::new(), &mut out);
            assert_eq!(out.len(), kept_in_row(n_cols, group, alpha));
            for g in 0..40 {
                let inside = out.iter().filter(|i| **i as usize / group == g).count();
                assert_eq!(inside, 4);
            }
            out.iter().filter(|i| **i < 640).for_each(|i| counts[*i as usize % group] += 1);
        }
        // 500 rows of 40 groups, 4 of 16 each: 5,000 a position, deviation about 61.
        assert!(counts.iter().all(|c| (4700..5300).contains(c)), "{counts:?}");
    }
}
