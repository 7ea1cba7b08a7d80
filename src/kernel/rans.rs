//! Static order-0 entropy coding of bytes: a table of frequencies, then interleaved rANS (Duda 2013,
//! arXiv 1311.2540; interleaved as in Giesen 2014, arXiv 1402.3392).
//!
//! No symbols make no bytes. Otherwise:
//!
//! 1. The greatest symbol, one byte; then the frequency of each symbol below it, in units of
//!    2^-14: one byte below 128, else the low seven bits with bit 7 set and the high seven, not 0. After
//!    a 0, one byte says how many more symbols of frequency 0 follow. What is left to 2^14 is the
//!    frequency of the greatest symbol, at least 1. A symbol that has all of it ends the stream here.
//! 2. Four states, u32, at least 2^16 each. Symbol i takes state i mod 4.
//! 3. 16-bit words. A symbol's slot is the low 14 bits of its state x; frequency f and the sum c of
//!    the frequencies before it give the next state, f * (x >> 14) + slot - c. While that is below
//!    2^16, it is moved up by 16 bits and the next word becomes its low half; states take words in
//!    the order of their symbols. At the end every state is 2^16 and no word is left.
//!
//! Integers alone decide, so every machine writes the same bytes.

use crate::kernel::entropy;
use crate::kernel::rans_stream::{Decoder, Encoder, LANES, SCALE, Slots, coders};

/// Most bytes [`encode`] writes for `n` symbols.
pub fn max_len(n: usize) -> usize {
    // The greatest symbol, two bytes for each below it, the states, at most one word a symbol.
    1 + 2 * 255 + 4 * LANES + 2 * n
}

/// Appends the coded symbols.
pub fn encode(symbols: &[u8], out: &mut Vec<u8>) {
    let Some(greatest) = symbols.iter().max() else { return };
    let freqs = normalised(&entropy::histogram(symbols));
    write_table(&freqs, *greatest, out);
    if freqs[usize::from(*greatest)] == SCALE {
        return;
    }
    let coders = coders(&freqs);
    // From the last symbol to the first: a reader goes the other way.
    let mut encoder = Encoder::new(symbols.len());
    let (groups, rest) = symbols.as_chunks::<LANES>();
    for (lane, symbol) in rest.iter().enumerate().rev() {
        encoder.put(lane, &coders[usize::from(*symbol)]);
    }
    for group in groups.iter().rev() {
        for (lane, symbol) in group.iter().enumerate().rev() {
            encoder.put(lane, &coders[usize::from(*symbol)]);
        }
    }
    encoder.finish(out);
}

/// Fills `out` with the `n` symbols that `bytes` holds. False if it is not exactly one stream of
/// them; `out` then has no meaning. A few bytes may hold any number of symbols, so the caller bounds
/// `n`.
pub fn decode(bytes: &[u8], n: usize, out: &mut Vec<u8>) -> bool {
    out.clear();
    if n == 0 {
        return bytes.is_empty();
    }
    let Some((freqs, greatest, rest)) = read_table(bytes) else { return false };
    if freqs[usize::from(greatest)] == SCALE {
        out.resize(n, greatest);
        return rest.is_empty();
    }
    let Some(mut decoder) = Decoder::new(rest) else { return false };
    out.resize(n, 0);
    let slots = Slots::new(&freqs);
    decoder.run(out, |state| slots.step(state)) && decoder.is_at_end()
}

/// Frequencies near `counts`' shares that sum up to [`SCALE`], at least 1 for what occurs. What
/// rounding leaves over goes where it costs the fewest bits, ties to the smaller symbol.
pub(super) fn normalised(counts: &[u32; 256]) -> [u32; 256] {
    let n: u64 = counts.iter().map(|c| u64::from(*c)).sum();
    let scale = u64::from(SCALE);
    let round = |c: &u32| (u64::from(*c) * scale + n / 2) / n.max(1);
    let mut freqs = counts.map(|c| if c == 0 { 0 } else { round(&c).max(1) });
    let mut sum: u64 = freqs.iter().sum();
    // A unit more or less changes the bits of a symbol by nearly count / (freq +- 1/2).
    let ratio = |a: u64, b: u64, c: u32, d: u32| (u64::from(c) * b).cmp(&(u64::from(d) * a));
    while sum < scale {
        let gain = |i: &usize, j: &usize| {
            let halves = |i: usize| 2 * freqs[i] + 1;
            ratio(halves(*i), halves(*j), counts[*i], counts[*j]).then(j.cmp(i))
        };
        let Some(i) = (0..256).filter(|i| counts[*i] > 0).max_by(gain) else { break };
        freqs[i] += 1;
        sum += 1;
    }
    while sum > scale {
        let loss = |i: &usize, j: &usize| {
            let halves = |i: usize| 2 * freqs[i] - 1;
            ratio(halves(*i), halves(*j), counts[*i], counts[*j]).then(i.cmp(j))
        };
        let Some(i) = (0..256).filter(|i| freqs[*i] > 1).min_by(loss) else { break };
        freqs[i] -= 1;
        sum -= 1;
    }
    freqs.map(|f| f as u32)
}

fn write_table(freqs: &[u32; 256], greatest: u8, out: &mut Vec<u8>) {
    out.push(greatest);
    let mut rest = &freqs[..usize::from(greatest)];
    while let [freq, others @ ..] = rest {
        rest = others;
        if *freq == 0 {
            let zeros = others.iter().take_while(|f| **f == 0).count();
            out.extend([0, zeros as u8]);
            rest = &others[zeros..];
        } else if *freq < 128 {
            out.push(*freq as u8);
        } else {
            out.extend([(freq & 127) as u8 | 128, (freq >> 7) as u8]);
        }
    }
}

/// Frequencies, the greatest symbol and what follows them.
fn read_table(bytes: &[u8]) -> Option<([u32; 256], u8, &[u8])> {
    let (greatest, mut bytes) = bytes.split_first()?;
    let (mut freqs, mut left, mut i) = ([0; 256], SCALE, 0);
    let mut next = || {
        let (byte, rest) = bytes.split_first()?;
        bytes = rest;
        Some(u32::from(*byte))
    };
    while i < usize::from(*greatest) {
        let low = next()?;
        if low == 0 {
            i += 1 + next()? as usize;
            continue;
        }
        let high = if low < 128 { 0 } else { next().filter(|high| *high > 0)? };
        let freq = (low & 127) | (high << 7);
        freqs[i] = freq;
        left = left.checked_sub(freq)?;
        i += 1;
    }
    freqs[i.min(255)] = left;
    (i == usize::from(*greatest) && left > 0).then_some((freqs, *greatest, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn coded(symbols: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        encode(symbols, &mut out);
        assert!(out.len() <= max_len(symbols.len()));
        out
    }

    fn decoded(bytes: &[u8], n: usize) -> Option<Vec<u8>> {
        let mut out = vec![1, 2, 3];
        decode(bytes, n, &mut out).then_some(out)
    }

    /// Sums of twelve uniform numbers in levels between their least and greatest.
    fn gaussian(n: usize, levels: f64) -> Vec<u8> {
        let mut state = 1u64;
        let mut uniform = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 40) as f64 / f64::from(1 << 24)
        };
        let values: Vec<f64> = (0..n).map(|_| (0..12).map(|_| uniform()).sum()).collect();
        let (lo, hi) =
            values.iter().fold((f64::MAX, f64::MIN), |(lo, hi), v| (lo.min(*v), hi.max(*v)));
        values.iter().map(|v| ((v - lo) / (hi - lo) * (levels - 1.0)).round() as u8).collect()
    }

    fn table_len(symbols: &[u8]) -> usize {
        let mut table = Vec::new();
        let greatest = symbols.iter().max().copied().unwrap_or(0);
        write_table(&normalised(&entropy::histogram(symbols)), greatest, &mut table);
        table.len()
    }

    #[test]
    fn gaussian_levels_come_out_within_half_a_percent_of_their_entropy() {
        for (levels, most_table) in [(16.0, 30), (256.0, 511)] {
            let symbols = gaussian(50_000, levels);
            let (bytes, table) = (coded(&symbols).len() as f64, table_len(&symbols));
            let entropy = entropy::coded_bytes(&entropy::histogram(&symbols)) as f64;
            assert!(table <= most_table, "a table of {table} bytes for {levels} levels");
            let over = (bytes - table as f64) / entropy - 1.0;
            assert!((0.0..0.005).contains(&over), "{bytes} bytes where {entropy} could be");
            assert_eq!(decoded(&coded(&symbols), symbols.len()), Some(symbols));
        }
    }

    #[test]
    fn one_symbol_costs_nothing_a_symbol() {
        for (symbol, bytes) in [(0, &[0][..]), (1, &[1, 0, 0]), (255, &[255, 0, 254])] {
            let symbols = vec![symbol; 100_000];
            assert_eq!(coded(&symbols), bytes);
            assert_eq!(decoded(bytes, symbols.len()), Some(symbols));
        }
        assert!(coded(&[]).is_empty());
        assert_eq!(decoded(&[], 0), Some(Vec::new()));
        assert_eq!(decoded(&[0], 0), None);
        assert_eq!(decoded(&[], 1), None);
    }

    #[test]
    fn bytes_never_change() {
        let hash = |symbols: &[u8]| xxhash_rust::xxh3::xxh3_64(&coded(symbols));
        let table = [3, 171, 21, 213, 42, 0, 0];
        let states = [175, 42, 6, 0, 101, 85, 17, 0, 0, 32, 2, 0, 0, 32, 2, 0];
        assert_eq!(coded(&[3, 1, 3, 3, 1, 0]), [&table[..], &states].concat());
        assert_eq!(hash(&gaussian(5000, 16.0)), 15_200_999_323_316_300_444);
    }

    #[test]
    fn tables_that_do_not_sum_up_are_refused() {
        for table in [
            &[2, 255, 127, 1][..],
            &[2, 255, 127, 2],
            &[1, 255, 255],
            &[3, 0, 3],
            &[3, 0, 255],
            &[3, 255],
            &[2, 128, 0, 1],
            &[2, 129, 0, 1],
            &[3, 0],
            &[255],
        ] {
            assert!(read_table(table).is_none(), "{table:?}");
        }
        let (freqs, greatest, rest) = read_table(&[2, 254, 127, 1, 9]).unwrap();
        assert_eq!((&freqs[..4], greatest, rest), (&[16382, 1, 1, 0][..], 2, &[9][..]));
    }

    #[test]
    fn frequencies_are_those_of_the_counts_and_nothing_that_occurs_has_none() {
        let mut counts = [0; 256];
        counts[..4].copy_from_slice(&[1, u32::MAX, 0, u32::MAX]);
        assert_eq!(normalised(&counts)[..4], [1, 8191, 0, 8192]);
        let mut counts = [1; 256];
        counts[7] = 1 << 24;
        let freqs = normalised(&counts);
        assert_eq!((freqs[6], freqs[7], freqs.iter().sum()), (1, SCALE - 255, SCALE));
        // Rounding down leaves units over: three times 5461 and one more for the first.
        let mut counts = [0; 256];
        counts[..3].fill(5);
        assert_eq!(normalised(&counts)[..3], [5462, 5461, 5461]);
    }

    /// Symbols of any skew: each is cut down to as many bits as a second byte says.
    fn skewed() -> impl Strategy<Value = Vec<u8>> {
        let symbol = (any::<u8>(), 0u32..12).prop_map(|(s, cut)| s.checked_shr(cut).unwrap_or(0));
        prop::collection::vec(symbol, 0..700)
    }

    proptest! {
        #[test]
        fn symbols_come_back_and_nothing_else_is_accepted(
            symbols in skewed(),
            at in any::<prop::sample::Index>(),
            flip in 1u8..,
        ) {
            let (bytes, n) = (coded(&symbols), symbols.len());
            prop_assert!(decoded(&bytes, n).is_some_and(|s| s == symbols));
            for cut in 0..bytes.len() {
                prop_assert!(decoded(&bytes[..cut], n).is_none());
            }
            for more in [&[0][..], &[0, 0], &[1, 2, 3, 4]] {
                prop_assert!(decoded(&[&bytes, more].concat(), n).is_none());
            }
            if !bytes.is_empty() {
                // A changed byte is refused or gives other symbols; the tables alone have slack.
                let mut wrong = bytes.clone();
                wrong[at.index(bytes.len())] ^= flip;
                let same = decoded(&wrong, n).is_some_and(|s| s == symbols);
                prop_assert!(!same || at.index(bytes.len()) < table_len(&symbols));
            }
        }

        #[test]
        fn hostile_bytes_never_panic(
            table in prop::collection::vec(any::<u8>(), 0..30),
            n in 0usize..5000,
        ) {
            if let Some(symbols) = decoded(&table, n) {
                prop_assert_eq!(symbols.len(), n);
            }
            // A table that is right, then anything.
            let bytes = [&[3, 100, 200, 60, 1, 0, 0, 1, 1, 0, 0, 2, 1, 0, 0, 3, 1, 0], &table[..]];
            if let Some(symbols) = decoded(&bytes.concat(), n) {
                prop_assert!(symbols.len() == n && symbols.iter().all(|s| *s <= 3));
            }
        }
    }
}
