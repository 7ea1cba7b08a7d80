//! A bitshift trellis coder (Tseng et al., "QTIP", arXiv 2406.11235): every step shifts a few new bits
//! into a state of eight, and the state says which codeword of a fixed book stands there. The books
//! are linear codes over a few levels, as in trellis-coded quantisation (Marcellin and Fischer, 1990).
//!
//! The encoder finds a path of small error by Viterbi's algorithm; the decoder looks the codewords up,
//! and can begin anywhere, since a state is the last eight bits. Which values are coded and how they
//! are scaled is not decided here.

mod book;
mod path;
mod search;

pub use book::{Codebook, MAX_BITS, RATES, WIDTHS};
pub use path::{decode, pack, packed_len};
pub use search::{BLOCK, Work, encode};

/// For each rate what its code adds to a Gaussian source once it is scaled without bias, against the
/// source's power. The best codes there are would add 1 / (4^R - 1) at R bits a value.
pub const NOISE: [f64; 11] =
    [25.7, 12.4, 5.93, 2.69, 1.132, 0.649, 0.393, 0.174, 0.0877, 0.0229, 0.00626];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::{both_ways, random};
    use proptest::prelude::*;

    /// Normally distributed numbers (Box and Muller).
    fn gaussian(seed: u64, n: usize) -> Vec<f32> {
        let mut draws = vec![0; 4 * n];
        random::row_draws(seed, 0, &mut draws);
        let uniform =
            |d: &[u16]| (f64::from(d[0]) * 65536.0 + f64::from(d[1]) + 0.5) / 2f64.powi(32);
        let number = |d: &[u16]| {
            let (radius, angle) = (-2.0 * uniform(&d[..2]).ln(), uniform(&d[2..]));
            (radius.sqrt() * (std::f64::consts::TAU * angle).cos()) as f32
        };
        draws.chunks_exact(4).map(number).collect()
    }

    /// The symbols of whole codewords, in blocks of so many steps.
    fn path(book: &Codebook, values: &[f32], block: usize) -> Vec<u8> {
        let (mut state, mut work, mut symbols) = (0, Work::default(), Vec::new());
        for part in values.chunks(block * book.width()) {
            state = encode(book, part, state, &mut work, &mut symbols);
        }
        symbols
    }

    fn packed(symbols: &[u8], bits: u32) -> Vec<u8> {
        let mut out = Vec::new();
        pack(symbols, bits, &mut out);
        assert_eq!(out.len(), packed_len(symbols.len(), bits));
        out
    }

    /// The codewords of a path, by the definition alone.
    fn walk(book: &Codebook, symbols: &[u8]) -> Vec<f32> {
        let mut state = 0usize;
        let mut out = Vec::new();
        for symbol in symbols {
            state = (state << book.bits() | usize::from(*symbol)) % 256;
            out.extend(&book.words()[state * book.width()..][..book.width()]);
        }
        out
    }

    fn dot(a: &[f32], b: &[f32]) -> f64 {
        a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum()
    }

    /// What the code adds to the values once it is scaled without bias, against their power.
    fn noise(values: &[f32], code: &[f32]) -> f64 {
        dot(values, values) * dot(code, code) / dot(values, code).powi(2) - 1.0
    }

    /// Values scaled as the codewords of the best code of this rate would be.
    fn scaled(values: &[f32], bits: u32, width: usize) -> Vec<f32> {
        let gain = (1.0 - 4f64.powf(-f64::from(bits) / width as f64)).sqrt().recip();
        values.iter().map(|x| (f64::from(*x) * gain) as f32).collect()
    }

    #[test]
    fn books_come_in_opposites_and_never_change() {
        for (rate, bits_and_width) in RATES.into_iter().enumerate() {
            let book = Codebook::new(rate);
            let words: Vec<&[f32]> = book.words().chunks_exact(book.width()).collect();
            assert_eq!((words.len(), (book.bits(), book.width())), (256, bits_and_width));
            for word in &words {
                let opposite: Vec<f32> = word.iter().map(|x| -x).collect();
                assert!(words.contains(&&opposite[..]));
            }
            // The search relies on this: a bit that goes out is as one that comes in.
            let is_alike = |s: usize| words[s] == words[s ^ 0x81];
            assert!(book.bits() > 1 || (0..256).all(is_alike));
        }
        let start = |rate, n| -> Vec<i32> {
            Codebook::new(rate).words()[..n].iter().map(|x| (x * 1024.0) as i32).collect()
        };
        assert_eq!(start(6, 8), [-1449, 306, -306, 1449, 1449, -306, 306, -1449]);
        // Taken of books made by another program from the text of FORMAT.md.
        let hash = |rate| {
            let fold = |h: u32, x: &i32| (h ^ *x as u32).wrapping_mul(16_777_619);
            start(rate, 256 * RATES[rate].1).iter().fold(0, fold)
        };
        let want = [
            0x0bf00000, 0x16dc0000, 0xa7dc0000, 0x255c0000, 0xfe78e880, 0xa012b320, 0xf7c1f400,
            0x4ebc5040, 0x1a475d40, 0x78fbf6c0, 0x818512d0,
        ];
        assert_eq!(std::array::from_fn::<u32, 11, _>(hash), want);
    }

    #[test]
    fn noise_is_near_that_of_the_best_code_of_each_rate() {
        for (rate, want) in NOISE.into_iter().enumerate() {
            let (bits, width) = RATES[rate];
            let (book, n) = (Codebook::new(rate), 1 << (17 + width.ilog2() / 2));
            let values = gaussian(5, n);
            let symbols = path(&book, &scaled(&values, bits, width), BLOCK);
            let got = noise(&values, &walk(&book, &symbols));
            println!("{bits}/{width}: {got}");
            assert!((got / want - 1.0).abs() < 0.03, "{bits} bits for {width}: {got}, not {want}");
        }
    }

    #[test]
    fn borders_of_blocks_cost_next_to_nothing() {
        let (book, values) = (Codebook::new(3), gaussian(9, 1 << 17));
        let of = |block| {
            let symbols = path(&book, &scaled(&values, 1, 4), block);
            noise(&values, &walk(&book, &symbols))
        };
        // Blocks a sixteenth as long have sixteen times the borders, and lose sixteen times as much.
        let lost = of(BLOCK / 16) / of(BLOCK) - 1.0;
        assert!((0.0..0.03).contains(&lost), "{lost}");
    }

    #[test]
    fn no_path_is_better_than_the_one_found() {
        // Eight steps of one bit: all paths can be tried.
        for rate in [3, 4, 6, 8, 10] {
            let ((bits, width), book) = (RATES[rate], Codebook::new(rate));
            let n_steps = 8 / bits as usize;
            let values = gaussian(u64::from(bits), n_steps * width);
            let error = |symbols: &[u8]| {
                let code = walk(&book, symbols);
                values.iter().zip(&code).map(|(x, c)| f64::from(x - c).powi(2)).sum::<f64>()
            };
            let low = (1 << bits) - 1;
            let paths = (0..=u8::MAX)
                .map(|p| (0..n_steps).map(|t| p >> (bits as usize * t) & low).collect::<Vec<u8>>());
            let least = paths.map(|p| error(&p)).fold(f64::INFINITY, f64::min);
            let found = error(&path(&book, &values, BLOCK));
            assert!((found - least).abs() < 1e-4, "{found} {least}");
        }
    }

    #[test]
    fn nothing_codes_to_nothing() {
        let (mut work, mut symbols) = (Work::default(), Vec::new());
        let book = Codebook::new(2);
        assert_eq!(encode(&book, &[], 77, &mut work, &mut symbols), 77);
        assert!(symbols.is_empty() && packed(&symbols, 3).is_empty());
        decode(&book, &[], 0, &mut []);
    }

    proptest! {
        #[test]
        fn any_part_of_a_path_comes_back_and_clones_agree(
            seed: u64,
            n_steps in 1usize..600,
            rate in 0..RATES.len(),
            part in any::<(prop::sample::Index, prop::sample::Index)>(),
            block in 1usize..400,
        ) {
            let ((bits, width), book) = (RATES[rate], Codebook::new(rate));
            let values = gaussian(seed, n_steps * width);
            let (wide, plain) = both_ways(|| path(&book, &values, block));
            prop_assert_eq!(&wide, &plain);
            prop_assert!(wide.len() == n_steps && wide.iter().all(|s| *s < 1 << bits));
            let bytes = packed(&wide, bits);
            let want = walk(&book, &wide);
            let (a, b) = (part.0.index(want.len() + 1), part.1.index(want.len() + 1));
            for range in [0..want.len(), a.min(b)..a.max(b)] {
                let mut got = vec![f32::NAN; range.len()];
                decode(&book, &bytes, range.start, &mut got);
                prop_assert_eq!(&got[..], &want[range]);
            }
        }

        #[test]
        fn any_values_and_any_bytes_are_taken(
            values in prop::collection::vec(any::<f32>(), 1..200),
            bytes in prop::collection::vec(any::<u8>(), 0..20),
            rate in prop::sample::select(vec![6, 8, 9, 10]),
            first in 0usize..1000,
        ) {
            let book = Codebook::new(rate);
            prop_assert_eq!(path(&book, &values, BLOCK).len(), values.len());
            let mut out = vec![f32::NAN; 100];
            decode(&book, &bytes, first, &mut out);
            prop_assert!(out.iter().all(|x| x.is_finite()));
        }
    }
}
