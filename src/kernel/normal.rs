//! Entropy coding of small integers that lie about zero as a normal distribution does: interleaved rANS
//! (Duda 2013, arXiv 1311.2540) with fixed tables, one for each of 32 deviations, so that no table is
//! stored.
//!
//! No symbols make no bytes. Otherwise, as in [`rans`](crate::kernel::rans): four states, u32, then
//! 16-bit words; symbol i takes state i mod 4, and at the end every state is 2^16 and no word is left.
//! Symbols come in runs, each with a deviation of its own; symbol -128 only where it is meant.

use std::sync::OnceLock;

use crate::kernel::entropy::log2_of;
use crate::kernel::rans::normalised;
use crate::kernel::rans_stream::{Coder, Decoder, Encoder, LANES, SCALE, Slots, coders};

/// Numbers of a deviation: number w stands for 2^((w - 8) / 4), 0.25 to 53.8.
pub const N_DEVIATIONS: u8 = 32;

/// exp(-1 / 2d^2) of each deviation d: how likely 1 is against 0. Written out, since platforms disagree
/// about the last bit of exponentials; part of the format.
pub(super) const RATIOS: [f64; N_DEVIATIONS as usize] = [
    0.00033546262790251185,
    0.003493489276646202,
    0.01831563888873418,
    0.05910574656195624,
    0.1353352832366127,
    0.24311673443421422,
    0.36787944117144233,
    0.4930686913952398,
    0.6065306597126334,
    0.7021885013265596,
    0.7788007830714049,
    0.8379668855787558,
    0.8824969025845955,
    0.9154053121862227,
    0.9394130628134758,
    0.9567681601026565,
    0.9692332344763441,
    0.9781452653377496,
    0.9844964370054085,
    0.9890122675365304,
    0.9922179382602435,
    0.9944909590019059,
    0.9961013694701175,
    0.9972416753234423,
    0.9980487811074755,
    0.9986198853034333,
    0.9990239141819757,
    0.9993097043977074,
    0.9995118379398894,
    0.9996547926147843,
    0.9997558891748972,
    0.9998273814088031,
];

/// What coding with one deviation takes.
struct Table {
    coders: [Coder; 256],
    slots: Slots,
    /// Bits each symbol takes, by its byte.
    bits: [f64; 256],
}

/// The byte a symbol is coded as: small magnitudes are small bytes.
pub(super) fn fold(symbol: i8) -> u8 {
    ((symbol << 1) ^ (symbol >> 7)) as u8
}

pub(super) fn unfold(byte: u8) -> i8 {
    (byte >> 1) as i8 ^ -((byte & 1) as i8)
}

impl Table {
    fn new(ratio: f64) -> Self {
        // ratio^(q^2), from one square to the next; only products, so the same on every machine.
        let (mut weight, mut factor, mut weights) = (1.0, ratio, [0.0; 129]);
        for w in &mut weights {
            *w = weight;
            weight *= factor;
            factor *= ratio * ratio;
        }
        let weight = |byte: usize| weights[usize::from(unfold(byte as u8).unsigned_abs())];
        // Whatever may occur has a chance.
        let freqs =
            normalised(&std::array::from_fn(|byte| (weight(byte) * f64::from(1 << 24)) as u32 + 1));
        let bits = freqs.map(|freq| log2_of(f64::from(SCALE)) - log2_of(f64::from(freq)));
        Self { coders: coders(&freqs), slots: Slots::new(&freqs), bits }
    }

    /// The table of a deviation's number, below [`N_DEVIATIONS`].
    fn of(deviation: u8) -> &'static Self {
        static TABLES: [OnceLock<Box<Table>>; N_DEVIATIONS as usize] =
            [const { OnceLock::new() }; N_DEVIATIONS as usize];
        let i = usize::from(deviation.min(N_DEVIATIONS - 1));
        TABLES[i].get_or_init(|| Box::new(Table::new(RATIOS[i])))
    }
}

/// The number of the deviation these symbols take fewest bits with, and the bits.
pub fn best_deviation(symbols: &[i8]) -> (u8, f64) {
    let mut counts = [0u32; 256];
    symbols.iter().for_each(|s| counts[usize::from(fold(*s))] += 1);
    let used: Vec<_> = counts.iter().enumerate().filter(|(_, n)| **n > 0).collect();
    let mut best = (0, f64::INFINITY);
    for deviation in 0..N_DEVIATIONS {
        let bits = &Table::of(deviation).bits;
        let sum = used.iter().map(|(byte, n)| bits[*byte] * f64::from(**n)).sum();
        if sum < best.1 {
            best = (deviation, sum);
        }
    }
    best
}

/// Most bytes [`encode`] writes for `n` symbols.
pub fn max_len(n: usize) -> usize {
    4 * LANES + 2 * n
}

/// Appends the coded symbols of these runs, each with its deviation's number.
pub fn encode(runs: &[(u8, &[i8])], out: &mut Vec<u8>) {
    let n: usize = runs.iter().map(|(_, symbols)| symbols.len()).sum();
    if n == 0 {
        return;
    }
    // From the last symbol to the first: a reader goes the other way.
    let (mut encoder, mut i) = (Encoder::new(n), n);
    for (deviation, symbols) in runs.iter().rev() {
        let coders = &Table::of(*deviation).coders;
        for symbol in symbols.iter().rev() {
            i -= 1;
            encoder.put(i % LANES, &coders[usize::from(fold(*symbol))]);
        }
    }
    encoder.finish(out);
}

/// Fills `out` with the symbols of runs of these deviations and lengths. False if `bytes` is not exactly
/// one stream of them; `out` then has no meaning. A few bytes may hold any number of symbols, so the
/// caller bounds them.
pub fn decode(bytes: &[u8], runs: &[(u8, usize)], out: &mut Vec<i8>) -> bool {
    out.clear();
    let n: usize = runs.iter().map(|(_, n)| n).sum();
    if n == 0 {
        return bytes.is_empty();
    }
    let Some(mut decoder) = Decoder::new(bytes) else { return false };
    out.reserve(n);
    for (deviation, n) in runs {
        let slots = &Table::of(*deviation).slots;
        for _ in 0..*n {
            let byte = decoder.take(out.len() % LANES, |state| slots.step(state));
            let Some(byte) = byte else { return false };
            out.push(unfold(byte));
        }
    }
    decoder.is_at_end()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::random;
    use proptest::prelude::*;

    /// Rounded sums of twelve uniform numbers of this deviation.
    fn normal(seed: u64, n: usize, deviation: f64) -> Vec<i8> {
        let mut draws = vec![0; 12 * n];
        random::row_draws(seed, 0, &mut draws);
        let sum = |d: &[u16]| d.iter().map(|d| (f64::from(*d) + 0.5) / 65536.0 - 0.5).sum::<f64>();
        draws.chunks_exact(12).map(|d| (sum(d) * deviation).round() as i8).collect()
    }

    #[test]
    fn ratios_are_those_of_their_deviations() {
        for (w, ratio) in RATIOS.iter().enumerate() {
            let deviation = ((w as f64 - 8.0) / 4.0).exp2();
            assert!((ratio - (-0.5 / (deviation * deviation)).exp()).abs() < 1e-15);
        }
    }

    #[test]
    fn normal_symbols_take_their_entropy() {
        for deviation in [0.4, 1.0, 3.0, 10.0, 30.0] {
            let symbols = normal(3, 20_000, deviation);
            let (w, bits) = best_deviation(&symbols);
            let mut out = Vec::new();
            encode(&[(w, &symbols)], &mut out);
            assert!((out.len() as f64 * 8.0 / (bits + 80.0) - 1.0).abs() < 0.002, "{deviation}");
            let mut counts = [0u32; 256];
            symbols.iter().for_each(|s| counts[usize::from(fold(*s))] += 1);
            let entropy: f64 = counts
                .iter()
                .filter(|n| **n > 0)
                .map(|n| f64::from(*n) * (20_000.0 / f64::from(*n)).log2())
                .sum();
            // At most 255 of 16384 chances are for what does not occur.
            assert!(bits < entropy * 1.01 + 20_000.0 * 0.03, "{deviation}: {bits} {entropy}");
        }
    }

    #[test]
    fn every_symbol_can_be_coded_with_every_deviation() {
        let all: Vec<i8> = (i8::MIN..=i8::MAX).collect();
        let runs: Vec<_> = (0..N_DEVIATIONS).map(|w| (w, all.as_slice())).collect();
        let (mut bytes, mut back) = (Vec::new(), Vec::new());
        encode(&runs, &mut bytes);
        let lengths: Vec<_> = runs.iter().map(|(w, s)| (*w, s.len())).collect();
        assert!(decode(&bytes, &lengths, &mut back));
        assert!(back.chunks(256).all(|part| part == all));
    }

    proptest! {
        #[test]
        fn runs_come_back_and_nothing_else_does(
            runs in prop::collection::vec((0..N_DEVIATIONS, prop::collection::vec(any::<i8>(), 0..40)), 0..6),
            flip in any::<prop::sample::Index>(),
        ) {
            let (mut bytes, mut back) = (Vec::new(), Vec::new());
            let given: Vec<_> = runs.iter().map(|(w, s)| (*w, s.as_slice())).collect();
            encode(&given, &mut bytes);
            let lengths: Vec<_> = runs.iter().map(|(w, s)| (*w, s.len())).collect();
            let n: usize = lengths.iter().map(|(_, n)| n).sum();
            prop_assert!(bytes.len() <= max_len(n));
            prop_assert!(decode(&bytes, &lengths, &mut back));
            prop_assert_eq!(&back, &runs.iter().flat_map(|(_, s)| s.clone()).collect::<Vec<_>>());
            if bytes.is_empty() {
                return Ok(());
            }
            prop_assert!(!decode(&bytes[..bytes.len() - 1], &lengths, &mut back));
            let i = flip.index(bytes.len());
            bytes[i] ^= 1;
            // Another stream may be whole, but is of other symbols.
            let wanted = runs.iter().flat_map(|(_, s)| s.clone()).collect::<Vec<_>>();
            prop_assert!(!decode(&bytes, &lengths, &mut back) || back != wanted);
        }

        #[test]
        fn any_bytes_are_taken(bytes in prop::collection::vec(any::<u8>(), 0..80), n in 0usize..100) {
            decode(&bytes, &[(3, n), (31, n)], &mut Vec::new());
        }
    }
}
