//! How small an order-0 entropy coder could make a run of bytes, in integer arithmetic alone, so
//! that choices which rest on it are the same everywhere.
//!
//! An estimate: contexts, matches and headers are not counted.

/// Fraction bits of the fixed-point logarithm.
const FRACTION: u32 = 16;

/// How often each byte value occurs.
pub fn histogram(bytes: &[u8]) -> [u32; 256] {
    // Four tables, since a counter raised twice in a row would wait on the first store.
    let mut tables = [[0u32; 256]; 4];
    let (groups, rest) = bytes.as_chunks::<4>();
    for group in groups {
        for (table, &byte) in tables.iter_mut().zip(group) {
            table[usize::from(byte)] += 1;
        }
    }
    for &byte in rest {
        tables[0][usize::from(byte)] += 1;
    }
    let [mut sum, b, c, d] = tables;
    for i in 0..256 {
        sum[i] += b[i] + c[i] + d[i];
    }
    sum
}

/// How often each byte value occurs among the first of every `step` bytes.
pub fn histogram_of_every(bytes: &[u8], step: usize) -> [u32; 256] {
    let mut counts = [0u32; 256];
    for &byte in bytes.iter().step_by(step) {
        counts[usize::from(byte)] += 1;
    }
    counts
}

/// The order-0 entropy of bytes with this histogram, in bytes, rounded up.
pub fn coded_bytes(histogram: &[u32; 256]) -> u64 {
    let n: u64 = histogram.iter().map(|&count| u64::from(count)).sum();
    let log_n = log2(n);
    let bits: u64 = histogram
        .iter()
        .map(|&count| u64::from(count) * log_n.saturating_sub(log2(u64::from(count))))
        .sum();
    bits.div_ceil(8 << FRACTION)
}

/// log2 of a normal positive number, to a 65536th.
pub fn log2_of(x: f64) -> f64 {
    let (exponent, fraction) = ((x.to_bits() >> 52) as i32, x.to_bits() & ((1 << 52) - 1));
    let log = log2(1 << 52 | fraction) as f64 / f64::from(1 << FRACTION);
    f64::from(exponent - 1023 - 52) + log
}

/// log2 in fixed point, rounded down; 0 for 0. Each squaring of the mantissa gives one more bit.
fn log2(x: u64) -> u64 {
    let Some(whole) = x.checked_ilog2() else {
        return 0;
    };
    // The mantissa in 1..2, with 31 fraction bits.
    let mut mantissa = if whole > 31 { x >> (whole - 31) } else { x << (31 - whole) };
    let mut log = u64::from(whole);
    for _ in 0..FRACTION {
        mantissa = (mantissa * mantissa) >> 31;
        let carry = mantissa >> 32;
        mantissa >>= carry;
        log = log << 1 | carry;
    }
    log
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn logarithms_of_floats() {
        for x in [1.0f64, 2.0, 3.0, 0.1, 1e-300, 7.5e200, 1.999_999] {
            let error = x.log2() - log2_of(x);
            assert!((-1e-9..2e-5).contains(&error), "{x}: {error}");
        }
    }

    #[test]
    fn plain_cases() {
        assert_eq!(coded_bytes(&histogram(&[])), 0);
        assert_eq!(coded_bytes(&histogram(&[7; 1000])), 0);
        assert_eq!(coded_bytes(&histogram(&[7, 8].repeat(400))), 100);
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(coded_bytes(&histogram(&all)), 256);
        assert_eq!(coded_bytes(&[u32::MAX; 256]), 256 * u64::from(u32::MAX));
    }

    proptest! {
        #[test]
        fn logarithms_are_right(x in 1u64..1 << 41) {
            let want = (x as f64).log2() * 65536.0;
            prop_assert!((log2(x) as f64 - want).abs() < 2.0);
        }

        #[test]
        fn counts_are_right(bytes in prop::collection::vec(any::<u8>(), 0..500)) {
            let counts = histogram(&bytes);
            for value in 0..=255u8 {
                let n = bytes.iter().filter(|&&b| b == value).count();
                prop_assert_eq!(counts[usize::from(value)] as usize, n);
            }
        }
    }
}
