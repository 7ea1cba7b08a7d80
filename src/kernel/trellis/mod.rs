//! Trellis codes: every step shifts one new bit into a state of eight, and the state says which values
//! may stand there (trellis-coded quantisation; Marcellin and Fischer, 1990).
//!
//! Up to half a bit a value the state names one codeword of a fixed book (a bitshift trellis as in Tseng
//! et al., "QTIP", arXiv 2406.11235), and the bits are stored as they are: a reader can begin anywhere.
//! Above, it names a class of whole numbers, and these are entropy coded. Both are within a few
//! hundredths of a bit of the best codes there are. The encoder finds a path of small error by
//! Viterbi's algorithm. Which values are coded and how they are scaled is not decided here.

mod book;
mod bytes;
mod lattice;
mod path;
mod search;

pub use book::Codebook;
pub use lattice::Lattice;
pub use search::{Work, encode};

/// Number of rates; a rate is known by its place, from the lowest up.
pub const N_RATES: usize = book::WIDTHS.len() + lattice::N_RATES;

/// For each rate the bits a value of a Gaussian source takes. Those of books are exact for any source.
pub const BITS: [f64; N_RATES] = [
    0.03125, 0.0625, 0.125, 0.25, 0.5, 0.799, 1.047, 1.297, 1.547, 1.797, 2.045, 2.296, 2.546,
    2.796, 3.047, 3.297, 3.548, 3.798, 4.049, 4.3, 4.55, 4.8, 5.049,
];

/// For each rate what its code adds to a Gaussian source once it is scaled without bias, against the
/// source's power. The best codes there are would add 1 / (4^R - 1) at R bits a value.
pub const NOISE: [f64; N_RATES] = [
    25.7, 12.4, 5.93, 2.69, 1.132, 0.542, 0.3305, 0.2134, 0.1421, 0.0964, 0.0665, 0.0461, 0.0321,
    0.0226, 0.0158, 0.0111, 0.00786, 0.00554, 0.00391, 0.00276, 0.00195, 0.00138, 0.00098,
];

/// The code of one rate.
#[derive(Debug)]
pub enum Code {
    /// Codewords of several values.
    Book(Box<Codebook>),
    /// Whole numbers of steps.
    Lattice(Lattice),
}

impl Code {
    /// The code of a rate below [`N_RATES`].
    pub fn new(rate: usize) -> Self {
        match rate.checked_sub(book::WIDTHS.len()) {
            None => Self::Book(Box::new(Codebook::new(rate))),
            Some(rate) => Self::Lattice(Lattice::new(rate)),
        }
    }

    /// Values of a codeword, which are coded together.
    pub fn width(&self) -> usize {
        match self {
            Self::Book(book) => book.width,
            Self::Lattice(_) => 1,
        }
    }

    /// Values that are decided together: what [`encode`] takes at most.
    pub fn block(&self) -> usize {
        search::block(self) * self.width()
    }

    /// Appends a path of these symbols, and returns it as [`Code::values`] takes it.
    pub fn write<'a>(&self, symbols: &'a [u8], out: &'a mut Vec<u8>) -> &'a [u8] {
        match self {
            Self::Book(_) => {
                let start = out.len();
                path::pack(symbols, out);
                &out[start..]
            }
            Self::Lattice(lattice) => {
                lattice.write(symbols, out);
                symbols
            }
        }
    }

    /// Bytes that a path of `n` values of this rate takes, if that does not depend on the values.
    pub fn path_len(rate: usize, n: usize) -> Option<usize> {
        book::WIDTHS.get(rate).map(|width| path::packed_len(n, *width))
    }

    /// A path of `n` values as it was written, made ready for [`Code::values`]; `None` if `bytes` are not
    /// exactly those of one. A few bytes may hold any number of values, so the caller bounds them.
    pub fn read<'a>(&self, bytes: &'a [u8], n: usize, points: &'a mut Vec<u8>) -> Option<&'a [u8]> {
        match self {
            Self::Book(book) => (bytes.len() == path::packed_len(n, book.width)).then_some(bytes),
            Self::Lattice(lattice) => lattice.read(bytes, n, points).then_some(points),
        }
    }

    /// What [`Code::read`] would give of the bytes that [`Code::write`] made of these symbols.
    pub fn written<'a>(&self, symbols: &'a [u8], bytes: &'a [u8]) -> &'a [u8] {
        match self {
            Self::Book(_) => bytes,
            Self::Lattice(_) => symbols,
        }
    }

    /// Fills `out` with the values from number `first` on that a path stands for. What is beyond a path of
    /// a book counts as zeros.
    pub fn values(&self, path: &[u8], first: usize, out: &mut [f32]) {
        match self {
            Self::Book(book) => path::decode(book, path, first, out),
            Self::Lattice(lattice) => lattice.values(path, first, out),
        }
    }
}

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

    /// The symbols of whole codewords.
    fn path(code: &Code, values: &[f32]) -> Vec<u8> {
        path_in(code, values, search::block(code))
    }

    /// The same in blocks of so many steps.
    fn path_in(code: &Code, values: &[f32], block: usize) -> Vec<u8> {
        let (mut state, mut work, mut symbols) = (0, Work::default(), Vec::new());
        for part in values.chunks(block * code.width()) {
            state = encode(code, part, state, &mut work, &mut symbols);
        }
        symbols
    }

    /// The values of a path, by the definition alone.
    fn walk(code: &Code, symbols: &[u8]) -> Vec<f32> {
        let mut state = 0usize;
        let mut out = Vec::new();
        for symbol in symbols {
            match code {
                Code::Book(book) => {
                    state = (state << 1 | usize::from(*symbol)) % 256;
                    out.extend(&book.words()[state * book.width..][..book.width]);
                }
                Code::Lattice(lattice) => {
                    let number = *symbol as i8;
                    let next = [0, 1].map(|bit| (state << 1 | bit) % 256);
                    let class = number.rem_euclid(4) as u8;
                    let allowed = next.into_iter().find(|s| lattice::subset(*s as u8) == class);
                    state = allowed.expect("a number of a subset that may follow");
                    out.push(f32::from(number) * lattice.step);
                }
            }
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

    #[test]
    fn books_come_in_opposites_and_never_change() {
        for (rate, width) in book::WIDTHS.into_iter().enumerate() {
            let book = Codebook::new(rate);
            let words: Vec<&[f32]> = book.words().chunks_exact(width).collect();
            assert_eq!(words.len(), 256);
            for word in &words {
                let opposite: Vec<f32> = word.iter().map(|x| -x).collect();
                assert!(words.contains(&&opposite[..]));
            }
            // The search relies on this: a bit that goes out is as one that comes in.
            assert!((0..256).all(|s| words[s] == words[s ^ 0x81]));
        }
        // Taken of books made by another program from the text of FORMAT.md.
        let hash = |rate| {
            let fold = |h: u32, x: &f32| (h ^ (x * 1024.0) as i32 as u32).wrapping_mul(16_777_619);
            Codebook::new(rate).words().iter().fold(0, fold)
        };
        let want = [0x0bf00000, 0x16dc0000, 0xa7dc0000, 0x255c0000, 0xfe78e880];
        assert_eq!(std::array::from_fn::<u32, 5, _>(hash), want);
    }

    #[test]
    fn bits_and_noise_are_near_those_of_the_best_code_of_each_rate() {
        for (rate, want) in NOISE.into_iter().enumerate() {
            let code = Code::new(rate);
            let values = gaussian(5, 1 << (17 + code.width().ilog2() / 2));
            let symbols = path(&code, &values);
            let mut written = Vec::new();
            code.write(&symbols, &mut written);
            let bits = written.len() as f64 * 8.0 / values.len() as f64;
            let got = noise(&values, &walk(&code, &symbols));
            println!("{rate}: {bits:.4} bits, {got:.5}, {}", bits - (1.0 + 1.0 / got).log2() / 2.0);
            assert!((bits / BITS[rate] - 1.0).abs() < 0.003, "{rate}: {bits} bits");
            assert!((got / want - 1.0).abs() < 0.03, "{rate}: {got}, not {want}");
            // Nowhere far from the best there can be.
            assert!(bits - (1.0 + 1.0 / got).log2() / 2.0 < 0.07);
        }
    }

    #[test]
    fn borders_of_blocks_cost_next_to_nothing() {
        for rate in [3, 8] {
            let (code, values) = (Code::new(rate), gaussian(9, 1 << 17));
            let of = |block| noise(&values, &walk(&code, &path_in(&code, &values, block)));
            // Blocks a sixteenth as long have sixteen times the borders, and lose sixteen times as much.
            let lost = of(search::block(&code) / 16) / of(search::block(&code)) - 1.0;
            assert!((0.0..0.03).contains(&lost), "{lost}");
        }
    }

    #[test]
    fn no_path_is_better_than_the_one_found() {
        // Eight steps of one bit: all paths can be tried.
        for rate in [0, 3, 4] {
            let code = Code::new(rate);
            let values = gaussian(rate as u64, 8 * code.width());
            // Codewords are weaker than what they are for.
            let gain = (1.0 - 4f64.powf(-1.0 / code.width() as f64)).sqrt().recip() as f32;
            let scaled: Vec<f32> = values.iter().map(|x| x * gain).collect();
            let error = |symbols: &[u8]| {
                let walked = walk(&code, symbols);
                scaled.iter().zip(&walked).map(|(x, c)| f64::from(x - c).powi(2)).sum::<f64>()
            };
            let paths = (0..=u8::MAX).map(|p| (0..8).map(|t| p >> t & 1).collect::<Vec<u8>>());
            let least = paths.map(|p| error(&p)).fold(f64::INFINITY, f64::min);
            let found = error(&path(&code, &values));
            assert!((found - least).abs() < 1e-3, "{rate}: {found} {least}");
        }
    }

    #[test]
    fn no_numbers_are_nearer_than_those_found() {
        let code = Code::new(9);
        let Code::Lattice(lattice) = &code else { panic!("no lattice") };
        let values = gaussian(3, 8);
        let place = |i: usize| f64::from(values[i] * lattice.scale) / 16384.0;
        let error = |i: usize, class: u8| {
            let near = ((place(i) - f64::from(class)) / 4.0).round() * 4.0 + f64::from(class);
            (place(i) - near).powi(2)
        };
        let of = |path: u8| {
            let states = (0..8).scan(0u8, |state, t| {
                *state = *state << 1 | (path >> t & 1);
                Some(*state)
            });
            let error = |(i, state): (usize, u8)| error(i, lattice::subset(state));
            states.enumerate().map(error).sum::<f64>()
        };
        let least = (0..=u8::MAX).map(of).fold(f64::INFINITY, f64::min);
        let symbols = path(&code, &values);
        let found = symbols.iter().enumerate();
        let found: f64 = found.map(|(i, k)| (place(i) - f64::from(*k as i8)).powi(2)).sum();
        assert!((found - least).abs() < 0.02, "{found} {least}");
    }

    #[test]
    fn far_values_become_the_greatest_number_and_no_number_becomes_one() {
        for rate in book::WIDTHS.len()..N_RATES {
            let code = Code::new(rate);
            let values = [1e30, -1e30, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 0.0, 14.0];
            let symbols = path(&code, &values.repeat(100));
            let (mut written, mut points) = (Vec::new(), Vec::new());
            code.write(&symbols, &mut written);
            assert_eq!(code.read(&written, 700, &mut points), Some(&symbols[..]), "{rate}");
            walk(&code, &symbols);
        }
    }

    #[test]
    fn nothing_codes_to_nothing() {
        for rate in [2, 8] {
            let (mut work, mut symbols, mut out) = (Work::default(), Vec::new(), Vec::new());
            let code = Code::new(rate);
            assert_eq!(encode(&code, &[], 77, &mut work, &mut symbols), 77);
            assert!(symbols.is_empty() && code.write(&symbols, &mut out).is_empty());
            assert_eq!(code.read(&[], 0, &mut Vec::new()), Some(&[][..]));
            assert_eq!(code.read(&[0], 0, &mut Vec::new()), None);
        }
    }

    proptest! {
        #[test]
        fn any_part_of_a_path_comes_back_and_clones_agree(
            seed: u64,
            n_steps in 1usize..600,
            rate in 0..N_RATES,
            part in any::<(prop::sample::Index, prop::sample::Index)>(),
            block in 1usize..400,
            flip in any::<prop::sample::Index>(),
        ) {
            let code = Code::new(rate);
            let values = gaussian(seed, n_steps * code.width());
            let (wide, plain) = both_ways(|| path_in(&code, &values, block));
            prop_assert_eq!(&wide, &plain);
            prop_assert_eq!(wide.len(), n_steps);
            let (mut bytes, mut points) = (Vec::new(), Vec::new());
            code.write(&wide, &mut bytes);
            let want = walk(&code, &wide);
            let (a, b) = (part.0.index(want.len() + 1), part.1.index(want.len() + 1));
            let read = code.read(&bytes, want.len(), &mut points).unwrap();
            for range in [0..want.len(), a.min(b)..a.max(b)] {
                let mut got = vec![f32::NAN; range.len()];
                code.values(read, range.start, &mut got);
                prop_assert_eq!(&got[..], &want[range]);
            }
            // A cut or another path is refused, or is one of other values.
            prop_assert!(code.read(&bytes[..bytes.len() - 1], want.len(), &mut points).is_none());
            let i = flip.index(bytes.len());
            bytes[i] ^= 1 << (i % 8);
            if let Some(read) = code.read(&bytes, want.len(), &mut points) {
                let mut got = vec![f32::NAN; want.len()];
                code.values(read, 0, &mut got);
                prop_assert!(got.iter().all(|x| x.is_finite()));
            }
        }

        #[test]
        fn any_values_and_any_bytes_are_taken(
            values in prop::collection::vec(any::<f32>(), 1..200),
            bytes in prop::collection::vec(any::<u8>(), 0..60),
            rate in 0..N_RATES,
            first in 0usize..1000,
        ) {
            let code = Code::new(rate);
            let whole = values.len() / code.width() * code.width();
            prop_assert_eq!(path(&code, &values[..whole]).len(), whole / code.width());
            let (mut points, mut out) = (Vec::new(), vec![0.0; 100]);
            if let Some(read) = code.read(&bytes, 100, &mut points) {
                code.values(read, first, &mut out);
            }
            prop_assert!(out.iter().all(|x| x.is_finite()));
        }
    }
}
