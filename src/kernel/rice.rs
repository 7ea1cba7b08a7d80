//! Golomb-Rice coding of the zero runs between survivors (Rice and Plaunt 1971; parameter after
//! Kiely 2004, as UltraDelta stores its masks).
//!
//! A gap is how many entries lie between a survivor and the one before it. Its quotient by `2^k` is
//! stored as so many zero bits and a one bit, then the remainder in `k` bits, all least significant
//! bit first; the last byte is filled up with zeros.

/// Largest Rice parameter: runs of more entries than a strip may have need none larger.
pub const MAX_PARAMETER: u32 = 24;

/// The golden ratio less one. A quotient of 0 and of more are about as likely there.
const GOLDEN: f64 = 0.618_033_988_749_894_9;

/// The parameter for `n_survivors` that lie at random among `n_elements`:
/// `1 + floor(log2(ln(golden) / ln(s)))` for a share `s` of entries that do not survive, at least 0
/// and at most [`MAX_PARAMETER`], which it is if none survives.
///
/// It is the number of times `s` can be squared before it falls below the golden ratio less one, so
/// no logarithm is needed and every machine finds the same.
pub fn parameter(n_survivors: u64, n_elements: u64) -> u32 {
    let mut share = n_elements.saturating_sub(n_survivors) as f64 / n_elements.max(1) as f64;
    let mut k = 0;
    while share >= GOLDEN && k < MAX_PARAMETER {
        share *= share;
        k += 1;
    }
    k
}

/// Most bytes [`encode`] writes for any ascending positions below `n_elements` and any `k`.
pub fn max_len(n_elements: usize) -> usize {
    // Gaps and survivors are n_elements together, and each survivor has its k bits.
    (n_elements * (1 + MAX_PARAMETER as usize)).div_ceil(8)
}

/// Appends the coded gaps of `positions`, which ascend. `k` is at most [`MAX_PARAMETER`].
pub fn encode(positions: &[u32], k: u32, out: &mut Vec<u8>) {
    debug_assert!(k <= MAX_PARAMETER && positions.is_sorted_by(|a, b| a < b));
    let (mut bits, mut next) = (BitWriter { word: 0, n: 0, out }, 0);
    for position in positions {
        let gap = position.saturating_sub(next);
        let mut zeros = gap >> k;
        while zeros >= 32 {
            bits.put(0, 32);
            zeros -= 32;
        }
        bits.put(1 << zeros, zeros + 1);
        bits.put(u64::from(gap) & ((1 << k) - 1), k);
        next = position.saturating_add(1);
    }
    bits.finish();
}

/// Fills `out` with the `n` positions, ascending and below `limit`, whose gaps `bytes` holds. False
/// if it does not hold exactly these; `out` then has no meaning. Memory for at most `limit`
/// positions is taken.
pub fn decode(bytes: &[u8], k: u32, n: usize, limit: u32, out: &mut Vec<u32>) -> bool {
    out.clear();
    let fits = n <= limit as usize && k <= MAX_PARAMETER;
    if !fits || n.saturating_mul(k as usize + 1).div_ceil(8) > bytes.len() {
        return false;
    }
    out.reserve(n);
    let (mut bits, mut next) = (BitReader { bytes, word: 0, n: 0 }, 0);
    for _ in 0..n {
        let most = u64::from(limit - next) >> k;
        let (Some(quotient), Some(rest)) = (bits.zeros(most), bits.take(k)) else { return false };
        let position = u64::from(next) + (quotient << k | rest);
        if position >= u64::from(limit) {
            return false;
        }
        out.push(position as u32);
        next = position as u32 + 1;
    }
    bits.ends()
}

/// Appends fields of bits.
struct BitWriter<'a> {
    /// The lowest `n` bits wait for their bytes; fewer than 32 between calls.
    word: u64,
    n: u32,
    out: &'a mut Vec<u8>,
}

impl BitWriter<'_> {
    /// Appends the low `len` bits of `value`, which has no others; `len` is at most 32.
    fn put(&mut self, value: u64, len: u32) {
        self.word |= value << self.n;
        self.n += len;
        if self.n >= 32 {
            self.out.extend((self.word as u32).to_le_bytes());
            self.word >>= 32;
            self.n -= 32;
        }
    }

    fn finish(self) {
        self.out.extend(&self.word.to_le_bytes()[..self.n.div_ceil(8) as usize]);
    }
}

/// Takes fields of bits off bytes.
struct BitReader<'a> {
    /// Bytes of which no bit counts in `n`.
    bytes: &'a [u8],
    /// The lowest `n` bits come next. Bits above are 0 or those that `bytes` begins with.
    word: u64,
    /// At most 63.
    n: u32,
}

impl BitReader<'_> {
    /// Brings `n` to 56 or more, or to all that is left.
    fn refill(&mut self) {
        if let Some(chunk) = self.bytes.first_chunk::<8>() {
            self.word |= u64::from_le_bytes(*chunk) << self.n;
            self.bytes = &self.bytes[(63 - self.n as usize) / 8..];
            self.n |= 56;
            return;
        }
        while self.n < 56 && !self.bytes.is_empty() {
            self.word |= u64::from(self.bytes[0]) << self.n;
            self.bytes = &self.bytes[1..];
            self.n += 8;
        }
    }

    /// Takes zero bits and the one bit after them; how many zeros, `None` above `most` or at the end.
    fn zeros(&mut self, most: u64) -> Option<u64> {
        let mut zeros = 0;
        loop {
            if self.n < 32 {
                self.refill();
            }
            let run = self.word.trailing_zeros();
            if run < self.n {
                self.word >>= run + 1;
                self.n -= run + 1;
                zeros += u64::from(run);
                return (zeros <= most).then_some(zeros);
            }
            zeros += u64::from(self.n);
            if self.n == 0 || zeros > most {
                return None;
            }
            self.word >>= self.n;
            self.n = 0;
        }
    }

    /// Takes `len` bits, at most [`MAX_PARAMETER`].
    fn take(&mut self, len: u32) -> Option<u64> {
        if self.n < len {
            self.refill();
        }
        self.n = self.n.checked_sub(len)?;
        let value = self.word & ((1 << len) - 1);
        self.word >>= len;
        Some(value)
    }

    /// Whether only the zeros that fill up the last byte are left.
    fn ends(&self) -> bool {
        self.bytes.is_empty() && self.n < 8 && self.word == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn coded(positions: &[u32], k: u32) -> Vec<u8> {
        let mut out = Vec::new();
        encode(positions, k, &mut out);
        out
    }

    /// One bit after the other, straight from the definition.
    fn oracle(positions: &[u32], k: u32) -> Vec<u8> {
        let (mut bits, mut next) = (Vec::new(), 0);
        for position in positions {
            let gap = position - next;
            bits.extend((0..gap >> k).map(|_| 0));
            bits.push(1);
            bits.extend((0..k).map(|i| (gap >> i & 1) as u8));
            next = position + 1;
        }
        bits.chunks(8).map(|b| b.iter().rev().fold(0, |byte, bit| byte << 1 | bit)).collect()
    }

    #[test]
    fn parameters_are_those_of_the_formula() {
        for (kept, k) in [(100, 3), (50, 4), (30, 4), (10, 6), (5, 7)] {
            assert_eq!(parameter(kept, 1000), k, "{kept} of 1000");
        }
        for kept in 1..10_000u64 {
            let share = 1.0 - kept as f64 / 10_000.0;
            let k = 1.0 + (GOLDEN.ln() / share.ln()).log2().floor();
            assert_eq!(f64::from(parameter(kept, 10_000)), k.max(0.0), "{kept}");
        }
        assert_eq!([parameter(7, 7), parameter(9, 7), parameter(0, 0)], [0; 3]);
        assert_eq!([parameter(0, 9), parameter(1, u64::MAX)], [MAX_PARAMETER; 2]);
    }

    #[test]
    fn a_run_takes_the_bits_that_were_expected() {
        let (n, mut state) = (1u32 << 20, 1u32);
        for (share, want) in [(0.1, 4.76), (0.05, 5.79), (0.03, 6.59), (0.01, 8.11)] {
            let limit = (share * f64::from(u32::MAX)) as u32;
            let positions: Vec<u32> = (0..n)
                .filter(|_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    (state ^ state >> 15).wrapping_mul(0x2c1b_3c6d) < limit
                })
                .collect();
            let bytes = coded(&positions, parameter(positions.len() as u64, u64::from(n)));
            let bits = 8.0 * bytes.len() as f64 / positions.len() as f64;
            assert!((bits - want).abs() < 0.05, "{bits} where {want} were expected at {share}");
        }
    }

    #[test]
    fn hostile_streams_are_refused() {
        let mut out = Vec::new();
        // A run of zeros as long as the stream, with and without an end.
        let mut zeros = vec![0; 1 << 20];
        assert!(!decode(&zeros, 0, 1, u32::MAX, &mut out));
        zeros.push(1);
        assert!(decode(&zeros, 0, 1, u32::MAX, &mut out));
        assert_eq!(out, [8 << 20]);
        assert!(!decode(&zeros, 0, 1, 8 << 20, &mut out));
        assert!(!decode(&zeros, 24, 1, u32::MAX, &mut out));
        assert!(!decode(&zeros, MAX_PARAMETER + 1, 0, 9, &mut out));
        // More positions than the limit or the bytes allow take no memory.
        for n in [5, usize::MAX] {
            assert!(!decode(&[255; 9], 0, n, 4, &mut Vec::new()));
            assert!(!decode(&[255], 2, n, u32::MAX, &mut Vec::new()));
        }
        assert!(decode(&[], 3, 0, 0, &mut out) && out.is_empty());
        assert!(!decode(&[0], 3, 0, 9, &mut out));
        assert!(decode(&[255], 0, 8, 8, &mut out));
        assert!(!decode(&[255], 0, 7, 8, &mut out), "padding that is not zero");
        assert!(decode(&[127], 0, 7, 8, &mut out));
    }

    proptest! {
        #[test]
        fn positions_come_back(
            positions in prop::collection::btree_set(0u32..6000, 0..400),
            far in prop::collection::btree_set(any::<u32>(), 0..3),
            k in 0u32..=24,
        ) {
            let k_far = k.max(20);
            let far: BTreeSet<u32> = far.into_iter().filter(|p| *p < u32::MAX).collect();
            for (set, k, limit) in [(positions, k, 6000), (far, k_far, u32::MAX)] {
                let positions: Vec<u32> = set.into_iter().collect();
                let bytes = coded(&positions, k);
                prop_assert_eq!(&bytes, &oracle(&positions, k));
                prop_assert!(bytes.len() <= max_len(limit as usize));
                let (n, mut out) = (positions.len(), vec![7]);
                prop_assert!(decode(&bytes, k, n, limit, &mut out));
                prop_assert_eq!(&out, &positions);
                let last = positions.last().copied().unwrap_or(0);
                prop_assert!(n == 0 || !decode(&bytes, k, n, last, &mut out));
                for cut in 0..bytes.len() {
                    prop_assert!(!decode(&bytes[..cut], k, n, limit, &mut out));
                }
                prop_assert!(!decode(&[&bytes[..], &[0]].concat(), k, n, limit, &mut out));
            }
        }

        #[test]
        fn whatever_is_accepted_is_what_encode_writes(
            bytes in prop::collection::vec(any::<u8>(), 0..60),
            k in 0u32..8,
            n in 0usize..80,
        ) {
            let mut out = Vec::new();
            if decode(&bytes, k, n, 5000, &mut out) {
                prop_assert_eq!(coded(&out, k), bytes);
            }
        }
    }
}
