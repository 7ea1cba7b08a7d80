//! How many codes of each level there are, and an exact number of each drawn at random (Knuth, "The Art of
//! Computer Programming", volume 2, section 3.4.2, algorithm S, on all levels at once).
//!
//! One step an entry would wait for the counter that the last entry of the same level left in memory.
//! Here entries whose draw is too high for any level are found in vectors and only counted, in four
//! tables in turn; what is left of a level is worked out when an entry of it may be taken.

use crate::kernel::entropy;
use crate::kernel::random::places_below_body;

/// Counters, one a level.
pub type Counts = [u32; 256];

/// Beyond this many levels counting one level after another is slower than a table.
const FEW_LEVELS: usize = 32;
/// Entries between two looks at how high a draw may be.
const BLOCK: usize = 4096;

vectorised! {
    /// Counts the codes of each level below `n_levels`, at most 256; there are no others.
    pub fn count_levels(codes: &[u8], n_levels: usize) -> Counts = count_levels_body;
}

vectorised! {
    /// Takes entries, in order, so that of the `left[c]` entries of level `c` still to come every choice
    /// of `due[c]` is as likely; both counters go on to the next call. An entry is taken if its draw, of
    /// 65,536, is below `due / left`. Appends `first` plus the place of each to `places`, its code to
    /// `taken`. There are no codes from `n_levels` on. `below` is working space.
    pub fn take(codes: &[u8], draws: &[u16], n_levels: usize, counters: (&mut Counts, &mut Counts), first: u32, below: &mut Vec<u32>, out: (&mut Vec<u32>, &mut Vec<u8>)) = take_body;
}

#[inline(always)]
fn count_levels_body(codes: &[u8], n_levels: usize) -> Counts {
    if n_levels > FEW_LEVELS {
        return entropy::histogram(codes);
    }
    let mut counts = [0; 256];
    for block in codes.chunks(BLOCK) {
        for (level, count) in (0..n_levels as u8).zip(&mut counts) {
            *count += count_of(block, level);
        }
    }
    counts
}

/// How many codes are `level`. Counters of a byte, so that a vector holds as many as codes.
#[inline(always)]
fn count_of(codes: &[u8], level: u8) -> u32 {
    const LANES: usize = 64;
    let mut total = 0;
    for stretch in codes.chunks(LANES * 255) {
        let mut counts = [0u8; LANES];
        let (chunks, rest) = stretch.as_chunks::<LANES>();
        for chunk in chunks {
            for (count, code) in counts.iter_mut().zip(chunk) {
                *count += u8::from(*code == level);
            }
        }
        total += counts.iter().map(|n| u32::from(*n)).sum::<u32>();
        total += rest.iter().map(|code| u32::from(*code == level)).sum::<u32>();
    }
    total
}

#[inline(always)]
fn take_body(
    codes: &[u8],
    draws: &[u16],
    n_levels: usize,
    (left, due): (&mut Counts, &mut Counts),
    first: u32,
    below: &mut Vec<u32>,
    (places, taken): (&mut Vec<u32>, &mut Vec<u8>),
) {
    for (block_idx, (codes, draws)) in codes.chunks(BLOCK).zip(draws.chunks(BLOCK)).enumerate() {
        match u16::try_from(highest_draw(codes.len() as u32, left, due)) {
            Ok(bound) => places_below_body(draws, bound, below),
            Err(_) => {
                below.clear();
                below.extend(0..codes.len() as u32);
            }
        }
        let mut seen = Seen([[0; 256]; 4]);
        let mut counted = 0;
        for &at in below.iter() {
            seen.add(&codes[counted..at as usize]);
            counted = at as usize;
            let code = codes[counted];
            let level = usize::from(code);
            let still = u64::from(left[level] - seen.of(level));
            if u64::from(draws[counted]) * still < u64::from(due[level]) << 16 {
                due[level] -= 1;
                places.push(first + (block_idx * BLOCK) as u32 + at);
                taken.push(code);
            }
        }
        seen.add(&codes[counted..]);
        for (level, left) in left.iter_mut().take(n_levels).enumerate() {
            *left -= seen.of(level);
        }
    }
}

/// Entries of each level passed by, as four counters: one raised twice in a row would wait on its store.
struct Seen([Counts; 4]);

impl Seen {
    #[inline(always)]
    fn add(&mut self, codes: &[u8]) {
        let (groups, rest) = codes.as_chunks::<4>();
        for group in groups {
            for (table, code) in self.0.iter_mut().zip(group) {
                table[usize::from(*code)] += 1;
            }
        }
        for (table, code) in self.0.iter_mut().zip(rest) {
            table[usize::from(*code)] += 1;
        }
    }

    #[inline(always)]
    fn of(&self, level: usize) -> u32 {
        self.0.iter().map(|table| table[level]).sum()
    }
}

/// No entry of the next `n` is taken whose draw is this or more: within them a level's `due` never grows,
/// and its `left` shrinks by `n` at most.
#[inline(always)]
fn highest_draw(n: u32, left: &Counts, due: &Counts) -> u64 {
    let open = left.iter().zip(due).filter(|(_, due)| **due > 0);
    let bound = open.map(|(left, due)| match left.saturating_sub(n) {
        0 => 1 << 16,
        least => (u64::from(*due) << 16).div_ceil(u64::from(least)),
    });
    bound.max().unwrap_or(0).min(1 << 16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::{both_ways, random};
    use proptest::prelude::*;

    /// Algorithm S, one step an entry.
    fn one_by_one(codes: &[u8], draws: &[u16], due: &Counts) -> (Vec<u32>, Vec<u8>) {
        let (mut left, mut due) = (entropy::histogram(codes), *due);
        let (mut places, mut taken) = (Vec::new(), Vec::new());
        for (at, (code, draw)) in codes.iter().zip(draws).enumerate() {
            let level = usize::from(*code);
            if u64::from(*draw) * u64::from(left[level]) < u64::from(due[level]) << 16 {
                due[level] -= 1;
                places.push(at as u32);
                taken.push(*code);
            }
            left[level] -= 1;
        }
        (places, taken)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]
        #[test]
        fn entries_taken_are_those_of_the_plain_algorithm(
            n in 0usize..12_000,
            bits in 1u32..=8,
            share in 0u32..=100,
            seed in any::<u64>(),
            n_cols in 1usize..5000,
        ) {
            let mut draws = vec![0; n];
            random::row_draws(seed, 1, &mut draws);
            // Levels of very different size.
            let codes: Vec<u8> =
                draws.iter().map(|d| (d.trailing_zeros() as u8).wrapping_mul(37) & (255 >> (8 - bits)) as u8).collect();
            random::row_draws(seed, 2, &mut draws);
            let total = entropy::histogram(&codes);
            let due = total.map(|t| t * share / 100);
            let want = one_by_one(&codes, &draws, &due);
            let (wide, plain) = both_ways(|| {
                let (mut left, mut due) = (count_levels(&codes, 1 << bits), due);
                assert_eq!(left, total);
                let (mut places, mut taken, mut below) = (Vec::new(), Vec::new(), Vec::new());
                for (i, (codes, draws)) in codes.chunks(n_cols).zip(draws.chunks(n_cols)).enumerate() {
                    let (counters, out) = ((&mut left, &mut due), (&mut places, &mut taken));
                    take(codes, draws, 1 << bits, counters, (i * n_cols) as u32, &mut below, out);
                }
                assert_eq!((left, due), ([0; 256], [0; 256]));
                (places, taken)
            });
            prop_assert_eq!(&wide, &plain);
            prop_assert_eq!(&wide, &want);
        }
    }
}
