//! Uniform quantisation between two bounds, and the statistics that choose the bounds.
//!
//! Sums run over fixed lanes that are joined in a fixed order, so that the last bit of a sum does
//! not depend on the vector width. Packing codes into fewer bits is `pack`'s work.

use half::f16;

use crate::kernel::joined;

/// Lanes of every reduction: two of the widest vectors, whatever this machine has.
pub(super) const LANES: usize = 16;
/// Adding 2^23 leaves a float of 0..=255 rounded to nearest even in the low bits.
const ROUNDER: f32 = 8_388_608.0;

vectorised! {
    /// The sum of the squares, taken in f64.
    pub fn sum_squares(values: &[f32]) -> f64 = sum_squares_body;
}

vectorised! {
    /// The sum of the products of both, taken in f64. What one has more than the other does not count.
    pub fn product(values: &[f32], others: &[f32]) -> f64 = product_body;
}

vectorised! {
    /// The sum, taken in f64.
    pub fn sum(values: &[f32]) -> f64 = sum_body;
}

vectorised! {
    /// The sum of the magnitudes, taken in f64.
    pub fn sum_abs(values: &[f32]) -> f64 = sum_abs_body;
}

vectorised! {
    /// Codes 0..=2^bits-1 of values between `lo` and `hi`, rounded to nearest even; values outside
    /// get the code of the nearer bound and NaN gets 0. All codes are 0 if the bounds do not span
    /// a finite range wide enough to divide by. `bits` is 1..=8.
    pub fn quantise(values: &[f32], lo: f32, hi: f32, bits: u32, codes: &mut [u8]) = quantise_body;
}

vectorised! {
    /// The values the codes stand for: `lo` for 0, `hi` (within rounding) for the largest.
    pub fn dequantise(codes: &[u8], lo: f32, hi: f32, bits: u32, out: &mut [f32]) = dequantise_body;
}

vectorised! {
    /// Codes of values times `alpha` on the grid `scale * (code - zero)`, rounded to nearest even in f64
    /// and held to 0..=`most`; NaN gets 0.
    pub fn quantise_affine(values: &[f32], alpha: f64, scale: f64, zero: f64, most: u8, codes: &mut [u8]) = quantise_affine_body;
}

/// The largest finite f16 that is not above `x`; -65504 below that, 0 for NaN.
pub fn f16_at_most(x: f32) -> f16 {
    if x.is_nan() {
        return f16::ZERO;
    }
    let near = f16::from_f32(x.clamp(-65504.0, 65504.0));
    if near.to_f32() <= x || near == f16::MIN {
        return near;
    }
    match near.to_bits() {
        0 | 0x8000 => f16::from_bits(0x8001),
        bits if bits & 0x8000 == 0 => f16::from_bits(bits - 1),
        bits => f16::from_bits(bits + 1),
    }
}

/// The least finite f16 that is not below `x`; 65504 above that, 0 for NaN.
pub fn f16_at_least(x: f32) -> f16 {
    -f16_at_most(-x)
}

/// The least and the largest value; NaN is skipped, and without any value both are 0.
///
/// Without clones: the baseline code reads as fast as memory delivers, and what the compiler makes
/// of these comparisons with wider vectors is six times slower.
pub fn min_max(values: &[f32]) -> (f32, f32) {
    let (mut lo, mut hi) = ([f32::INFINITY; LANES], [f32::NEG_INFINITY; LANES]);
    let (chunks, rest) = values.as_chunks::<LANES>();
    for chunk in chunks {
        for i in 0..LANES {
            // In this form a NaN fails the comparison and is skipped.
            lo[i] = if chunk[i] < lo[i] { chunk[i] } else { lo[i] };
            hi[i] = if chunk[i] > hi[i] { chunk[i] } else { hi[i] };
        }
    }
    for (i, &x) in rest.iter().enumerate() {
        lo[i] = if x < lo[i] { x } else { lo[i] };
        hi[i] = if x > hi[i] { x } else { hi[i] };
    }
    let lo = lo.into_iter().fold(f32::INFINITY, |a, x| if x < a { x } else { a });
    let hi = hi.into_iter().fold(f32::NEG_INFINITY, |a, x| if x > a { x } else { a });
    if lo > hi { (0.0, 0.0) } else { (lo, hi) }
}

#[inline(always)]
fn sum_of(values: &[f32], term: impl Fn(f32) -> f64) -> f64 {
    let mut sums = [0.0f64; LANES];
    let (chunks, rest) = values.as_chunks::<LANES>();
    for chunk in chunks {
        for i in 0..LANES {
            sums[i] += term(chunk[i]);
        }
    }
    for (sum, &x) in sums.iter_mut().zip(rest) {
        *sum += term(x);
    }
    joined(sums)
}

#[inline(always)]
fn product_body(values: &[f32], others: &[f32]) -> f64 {
    let n = values.len().min(others.len());
    let mut sums = [0.0f64; LANES];
    let (chunks, rest) = values[..n].as_chunks::<LANES>();
    let (other_chunks, other_rest) = others[..n].as_chunks::<LANES>();
    let mut add = |i: usize, x: f32, y: f32| sums[i] += f64::from(x) * f64::from(y);
    for (chunk, other) in chunks.iter().zip(other_chunks) {
        for i in 0..LANES {
            add(i, chunk[i], other[i]);
        }
    }
    rest.iter().zip(other_rest).enumerate().for_each(|(i, (x, y))| add(i, *x, *y));
    joined(sums)
}

#[inline(always)]
fn sum_squares_body(values: &[f32]) -> f64 {
    sum_of(values, |x| f64::from(x) * f64::from(x))
}

#[inline(always)]
fn sum_body(values: &[f32]) -> f64 {
    sum_of(values, f64::from)
}

#[inline(always)]
fn sum_abs_body(values: &[f32]) -> f64 {
    sum_of(values, |x| f64::from(x.abs()))
}

#[inline(always)]
fn levels(bits: u32) -> f32 {
    debug_assert!((1..=8).contains(&bits));
    ((1u32 << bits.clamp(1, 8)) - 1) as f32
}

#[inline(always)]
fn quantise_body(values: &[f32], lo: f32, hi: f32, bits: u32, codes: &mut [u8]) {
    let levels = levels(bits);
    let scale = levels / (hi - lo);
    if !(hi > lo && (hi - lo).is_finite() && scale.is_finite()) {
        codes.fill(0);
        return;
    }
    for (code, &x) in codes.iter_mut().zip(values) {
        let t = (x - lo) * scale;
        let t = if t > 0.0 { t } else { 0.0 };
        let t = if t < levels { t } else { levels };
        *code = (t + ROUNDER).to_bits() as u8;
    }
}

#[inline(always)]
fn quantise_affine_body(
    values: &[f32],
    alpha: f64,
    scale: f64,
    zero: f64,
    most: u8,
    codes: &mut [u8],
) {
    let most = f64::from(most);
    for (code, &x) in codes.iter_mut().zip(values) {
        let t = (f64::from(x) * alpha / scale).round_ties_even() + zero;
        let t = if t > 0.0 { t } else { 0.0 };
        let t = if t < most { t } else { most };
        *code = t as i32 as u8;
    }
}

#[inline(always)]
fn dequantise_body(codes: &[u8], lo: f32, hi: f32, bits: u32, out: &mut [f32]) {
    let span = hi - lo;
    let step = if hi > lo && span.is_finite() { span / levels(bits) } else { 0.0 };
    for (o, &code) in out.iter_mut().zip(codes) {
        *o = f32::from(code) * step + lo;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::both_ways;
    use proptest::prelude::*;

    fn codes_of(values: &[f32], lo: f32, hi: f32, bits: u32) -> Vec<u8> {
        let mut codes = vec![77; values.len()];
        quantise(values, lo, hi, bits, &mut codes);
        codes
    }

    #[test]
    fn bounds_skip_nan_and_default_to_zero() {
        assert_eq!(min_max(&[]), (0.0, 0.0));
        assert_eq!(min_max(&[f32::NAN; 40]), (0.0, 0.0));
        let mut values = vec![f32::NAN; 40];
        values[3] = -2.0;
        values[37] = 5.0;
        assert_eq!(min_max(&values), (-2.0, 5.0));
    }

    #[test]
    fn codes_round_half_to_even_and_saturate() {
        let x = [-9.0, 0.0, 0.5, 1.5, 2.5, 2.6, 3.0, 9.0, f32::NAN, f32::INFINITY];
        assert_eq!(codes_of(&x, 0.0, 3.0, 2), [0, 0, 0, 2, 2, 3, 3, 3, 0, 3]);
        assert_eq!(codes_of(&[0.0, 255.0, 254.5], 0.0, 255.0, 8), [0, 255, 254]);
    }

    #[test]
    fn bounds_without_a_range_give_code_zero() {
        let bad = [(1.0, 1.0), (2.0, 1.0), (f32::NAN, 1.0), (0.0, f32::INFINITY)];
        for (lo, hi) in bad.into_iter().chain([(-3e38, 3e38), (0.0, 1e-44)]) {
            assert_eq!(codes_of(&[0.5, 2.0], lo, hi, 4), [0, 0], "{lo} {hi}");
        }
        let mut out = [0.0; 2];
        dequantise(&[0, 0], 1.5, 1.5, 4, &mut out);
        assert_eq!(out, [1.5, 1.5]);
    }

    #[test]
    fn sums_are_the_fixed_tree() {
        let values: Vec<f32> = (0..1001).map(|i| (i as f32).sin()).collect();
        let plain: f64 = values.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
        assert!((sum_squares(&values) / plain - 1.0).abs() < 1e-14);
        assert_eq!(sum_abs(&[-1.0; 33]), 33.0);
        assert_eq!(sum(&[-1.0; 33]), -33.0);
        assert_eq!(sum_squares(&[]), 0.0);
    }

    #[test]
    fn affine_codes_round_half_to_even_and_saturate() {
        let values = [-9.0, 0.0, 0.25, 0.75, 1.0, 2.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY];
        let (wide, plain) = both_ways(|| {
            let mut codes = [77; 9];
            quantise_affine(&values, 2.0, 1.0, 1.0, 3, &mut codes);
            codes
        });
        assert_eq!((wide, plain), ([0, 1, 1, 3, 3, 3, 0, 3, 0], wide));
    }

    proptest! {
        #[test]
        fn clones_agree(
            values in prop::collection::vec(prop_oneof![-1e3f32..1e3, any::<f32>()], 0..200),
            bits in 1u32..=8,
        ) {
            let (wide, plain) = both_ways(|| {
                let (lo, hi) = min_max(&values);
                let codes = codes_of(&values, lo, hi, bits);
                let mut back = vec![0.0; values.len()];
                dequantise(&codes, lo, hi, bits, &mut back);
                let back: Vec<u32> = back.iter().map(|x| x.to_bits()).collect();
                ((lo.to_bits(), hi.to_bits()), codes, back)
            });
            prop_assert_eq!(wide, plain);
            if values.iter().all(|x| x.is_finite()) {
                let (wide, plain) = both_ways(|| {
                    [sum(&values), sum_squares(&values), sum_abs(&values)].map(f64::to_bits)
                });
                prop_assert_eq!(wide, plain);
            }
        }

        #[test]
        fn values_come_back_within_half_a_step(
            values in prop::collection::vec(-4f32..4.0, 1..100), bits in 1u32..=8,
        ) {
            let (lo, hi) = min_max(&values);
            let codes = codes_of(&values, lo, hi, bits);
            prop_assert!(codes.iter().all(|&c| u32::from(c) < 1 << bits));
            let mut back = vec![0.0; values.len()];
            dequantise(&codes, lo, hi, bits, &mut back);
            let half = (hi - lo) / ((1u32 << bits) - 1) as f32 / 2.0;
            for (x, y) in values.iter().zip(&back) {
                prop_assert!((x - y).abs() <= half + 2e-6, "{x} {y} {half}");
            }
        }

        #[test]
        fn directed_narrowing_is_tight(bits: u32) {
            let x = f32::from_bits(bits);
            let (below, above) = (f16_at_most(x), f16_at_least(x));
            prop_assert!(below.is_finite() && above.is_finite());
            if x.abs() <= 65504.0 {
                prop_assert!(below.to_f32() <= x && x <= above.to_f32());
                let exact = f16::from_f32(x).to_f32() == x;
                let steps = i32::from(above.to_bits() & 0x7fff) - i32::from(below.to_bits() & 0x7fff);
                let tight = if exact { below == above } else { steps.abs() == 1 };
                prop_assert!(tight);
            } else if !x.is_nan() {
                prop_assert_eq!(below.to_f32().abs(), 65504.0);
                prop_assert_eq!(above, below);
            }
        }
    }
}
