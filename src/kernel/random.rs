//! Counter-based random numbers: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as
//! 1, 2, 3", 2011). Any draw is a function of key and place, so a mask can be drawn again anywhere.

use crate::kernel::pack::squeeze;

/// Blocks drawn side by side, so that a loop over them fills vectors.
const LANES: usize = 16;
/// Draws of 16 bits in one block.
const DRAWS: usize = 8;

/// One block of four words.
#[inline(always)]
fn philox<const N: usize>(counter: [[u32; N]; 4], key: u64) -> [[u32; N]; 4] {
    let [mut c0, mut c1, mut c2, mut c3] = counter;
    let (mut k0, mut k1) = (key as u32, (key >> 32) as u32);
    for _ in 0..10 {
        for i in 0..N {
            let a = u64::from(c0[i]) * 0xd251_1f53;
            let b = u64::from(c2[i]) * 0xcd9e_8d57;
            (c0[i], c1[i], c2[i], c3[i]) =
                ((b >> 32) as u32 ^ c1[i] ^ k0, b as u32, (a >> 32) as u32 ^ c3[i] ^ k1, a as u32);
        }
        k0 = k0.wrapping_add(0x9e37_79b9);
        k1 = k1.wrapping_add(0xbb67_ae85);
    }
    [c0, c1, c2, c3]
}

vectorised! {
    /// Fills `out` with the 16-bit draws of one row: draw `i` is half `i % 2` (low first) of word
    /// `i / 2 % 4` of the block with counter (`i / 8`, low and high word of `row`, 0).
    pub fn row_draws(key: u64, row: u64, out: &mut [u16]) = row_draws_body;
}

vectorised! {
    /// Lists the places of the draws below `bound`, ascending, in place of what `out` held.
    pub fn places_below(draws: &[u16], bound: u16, out: &mut Vec<u32>) = places_below_body;
}

vectorised! {
    /// Negates value `i` if bit `i % 16` of draw `i / 16` is set.
    pub fn flip_signs(draws: &[u16], values: &mut [f32]) = flip_signs_body;
}

#[inline(always)]
pub(super) fn places_below_body(draws: &[u16], bound: u16, out: &mut Vec<u32>) {
    out.clear();
    for (word_idx, word) in draws.chunks(64).enumerate() {
        // Comparing and joining bits run in vectors; what is left is a step for each place found.
        let mut below = [0u8; 64];
        for (b, draw) in below.iter_mut().zip(word) {
            *b = u8::from(*draw < bound);
        }
        let mut mask = 0;
        for (i, eight) in below.as_chunks::<8>().0.iter().enumerate() {
            mask |= u64::from(squeeze::<1>(*eight)[0]) << (8 * i);
        }
        while mask != 0 {
            out.push((word_idx * 64) as u32 + mask.trailing_zeros());
            mask &= mask - 1;
        }
    }
}

#[inline(always)]
fn flip_signs_body(draws: &[u16], values: &mut [f32]) {
    let flip = |(i, value): (usize, &mut f32), draw: u16| {
        *value = f32::from_bits(value.to_bits() ^ (u32::from(draw) >> i & 1) << 31);
    };
    let (whole, rest) = values.as_chunks_mut::<16>();
    for (values, draw) in whole.iter_mut().zip(draws) {
        values.iter_mut().enumerate().for_each(|each| flip(each, *draw));
    }
    let last = draws.get(whole.len()).copied().unwrap_or(0);
    rest.iter_mut().enumerate().for_each(|each| flip(each, last));
}

#[inline(always)]
fn row_draws_body(key: u64, row: u64, out: &mut [u16]) {
    for (chunk_idx, chunk) in out.chunks_mut(LANES * DRAWS).enumerate() {
        let mut first = [0; LANES];
        for (i, block) in first.iter_mut().enumerate() {
            *block = (chunk_idx * LANES + i) as u32;
        }
        let (low, high) = ([row as u32; LANES], [(row >> 32) as u32; LANES]);
        let words = philox([first, low, high, [0; LANES]], key);
        let mut draws = [0u16; LANES * DRAWS];
        for (i, block) in draws.chunks_exact_mut(DRAWS).enumerate() {
            for w in 0..4 {
                block[2 * w] = words[w][i] as u16;
                block[2 * w + 1] = (words[w][i] >> 16) as u16;
            }
        }
        chunk.copy_from_slice(&draws[..chunk.len()]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::both_ways;

    #[test]
    fn the_generator_is_the_published_one() {
        // Known answers of the authors' library, Random123.
        let [a, b, c, d] = philox([[0], [0], [0], [0]], 0);
        assert_eq!([a[0], b[0], c[0], d[0]], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        let [a, b, c, d] = philox([[u32::MAX]; 4], u64::MAX);
        assert_eq!([a[0], b[0], c[0], d[0]], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
    }

    #[test]
    fn places_below_a_bound_are_all_there_are() {
        let mut draws = vec![0; 1000];
        row_draws(3, 1, &mut draws);
        for (n, bound) in [(1000, 6554), (999, 1), (64, u16::MAX), (63, 0), (1, 40_000), (0, 7)] {
            let all = (0u32..).zip(&draws[..n]);
            let want: Vec<u32> = all.filter(|(_, d)| **d < bound).map(|(i, _)| i).collect();
            let (wide, plain) = both_ways(|| {
                let mut out = vec![9];
                places_below(&draws[..n], bound, &mut out);
                out
            });
            assert_eq!((&wide, &plain), (&want, &want), "{n} {bound}");
        }
    }

    #[test]
    fn a_row_is_the_same_whole_in_part_and_without_vectors() {
        let draw = |n| {
            let mut out = vec![0; n];
            row_draws(7, 1 << 33, &mut out);
            out
        };
        let (wide, plain) = both_ways(|| draw(1000));
        assert_eq!(wide, plain);
        assert_eq!(draw(129), wide[..129]);
        let words = philox([[1], [0], [2], [0]], 7);
        assert_eq!(u32::from(wide[8]) | u32::from(wide[9]) << 16, words[0][0]);
        let mean = wide.iter().map(|d| f64::from(*d)).sum::<f64>() / 1000.0;
        assert!((mean - 32767.5).abs() < 2000.0, "{mean}");
    }
}
