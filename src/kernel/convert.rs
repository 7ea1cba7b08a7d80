//! Checkpoint bytes to f32 and back, and the two steps that need base and fine-tune together:
//! subtracting and adding.
//!
//! Bytes may lie at any address. Of two slices of different length the shorter one counts. A dtype
//! that is not one of the six float formats reads as zeros and is not written: callers ask
//! `DType::is_float` first.

use crate::kernel::float::{Bf16, E4M3, E5M2, F16, F32, F64, Format};
use crate::kernel::joined;
use crate::kernel::quantise::LANES;
use crate::tensor::DType;

/// Elements handled at a time when two formats meet; the copies stay in the first-level cache.
const BLOCK: usize = 256;

/// Runs `$call` with `$format` naming the format of `$dtype`.
macro_rules! with_format {
    ($dtype:expr, $format:ident => $call:expr, else $other:expr) => {
        match $dtype {
            DType::F64 => {
                type $format = F64;
                $call
            }
            DType::F32 => {
                type $format = F32;
                $call
            }
            DType::F16 => {
                type $format = F16;
                $call
            }
            DType::BF16 => {
                type $format = Bf16;
                $call
            }
            DType::F8E4M3 => {
                type $format = E4M3;
                $call
            }
            DType::F8E5M2 => {
                type $format = E5M2;
                $call
            }
            _ => {
                debug_assert!(false, "not a float dtype");
                $other
            }
        }
    };
}

vectorised! {
    /// Widens to f32; F64 is rounded to nearest even.
    pub fn to_f32(dtype: DType, bytes: &[u8], out: &mut [f32]) = to_f32_body;
}

vectorised! {
    /// Rounds to nearest even. Too large a value becomes infinity, or NaN in F8_E4M3; NaN stays NaN.
    pub fn from_f32(dtype: DType, values: &[f32], out: &mut [u8]) = from_f32_body;
}

vectorised! {
    /// Fine-tune minus base in f32, or in f64 and then narrowed when either is F64. A NaN result
    /// is always the same NaN, since processors disagree about its sign and payload.
    pub fn subtract(ft: (DType, &[u8]), base: (DType, &[u8]), out: &mut [f32]) = subtract_body;
}

vectorised! {
    /// The sum of squares of what [`subtract`] gives, taken in f64 and over the lanes of
    /// [`sum_squares`](crate::kernel::quantise::sum_squares).
    pub fn squared_difference(ft: (DType, &[u8]), base: (DType, &[u8])) -> f64 = squared_difference_body;
}

vectorised! {
    /// Base plus delta in f32, or in f64 when base or output is F64, rounded once to `dtype`.
    /// Where the delta is zero the base's value is kept as it is, the sign of a zero included.
    pub fn add(base: (DType, &[u8]), delta: &[f32], dtype: DType, out: &mut [u8]) = add_body;
}

vectorised! {
    /// Widens to f64, exactly.
    pub fn to_f64(dtype: DType, bytes: &[u8], out: &mut [f64]) = to_f64_body;
}

vectorised! {
    /// The same as [`add`] of a delta in f64.
    pub fn add_f64(base: (DType, &[u8]), delta: &[f64], dtype: DType, out: &mut [u8]) = add_f64_body;
}

vectorised! {
    /// The same values in another dtype, rounded once; an equal dtype copies the bytes.
    pub fn recode(from: (DType, &[u8]), to: DType, out: &mut [u8]) = recode_body;
}

#[inline(always)]
fn to_f32_body(dtype: DType, bytes: &[u8], out: &mut [f32]) {
    with_format!(dtype, F => widen::<F>(bytes, out), else out.fill(0.0));
}

#[inline(always)]
fn widen<F: Format>(bytes: &[u8], out: &mut [f32]) {
    for (o, &raw) in out.iter_mut().zip(F::view(bytes)) {
        *o = F::to_f32(raw);
    }
}

#[inline(always)]
fn to_f64_body(dtype: DType, bytes: &[u8], out: &mut [f64]) {
    with_format!(dtype, F => {
        for (o, &raw) in out.iter_mut().zip(F::view(bytes)) {
            *o = F::to_f64(raw);
        }
    }, else out.fill(0.0));
}

#[inline(always)]
fn from_f32_body(dtype: DType, values: &[f32], out: &mut [u8]) {
    with_format!(dtype, F => narrow::<F>(values, out), else ());
}

#[inline(always)]
fn narrow<F: Format>(values: &[f32], out: &mut [u8]) {
    for (o, &x) in F::view_mut(out).iter_mut().zip(values) {
        *o = F::from_f32(x);
    }
}

#[inline(always)]
fn from_f64_body(dtype: DType, values: &[f64], out: &mut [u8]) {
    with_format!(dtype, F => {
        for (o, &x) in F::view_mut(out).iter_mut().zip(values) {
            *o = F::from_f64(x);
        }
    }, else ());
}

#[inline(always)]
fn one_nan(x: f32) -> f32 {
    if x.is_nan() { f32::NAN } else { x }
}

#[inline(always)]
pub(super) fn subtract_body(ft: (DType, &[u8]), base: (DType, &[u8]), out: &mut [f32]) {
    match (ft.0, base.0) {
        (DType::BF16, DType::BF16) => subtract_same::<Bf16>(ft.1, base.1, out),
        (DType::F16, DType::F16) => subtract_same::<F16>(ft.1, base.1, out),
        (DType::F32, DType::F32) => subtract_same::<F32>(ft.1, base.1, out),
        (DType::F64, _) | (_, DType::F64) => subtract_f64(ft, base, out),
        _ => subtract_blocks(ft, base, out),
    }
}

#[inline(always)]
fn subtract_same<F: Format>(ft: &[u8], base: &[u8], out: &mut [f32]) {
    for ((o, &a), &b) in out.iter_mut().zip(F::view(ft)).zip(F::view(base)) {
        *o = one_nan(F::to_f32(a) - F::to_f32(b));
    }
}

#[inline(always)]
fn squared_difference_body(ft: (DType, &[u8]), base: (DType, &[u8])) -> f64 {
    let mut sums = [0.0; LANES];
    match (ft.0, base.0) {
        (DType::BF16, DType::BF16) => squares_of_same::<Bf16>(ft.1, base.1, &mut sums),
        (DType::F16, DType::F16) => squares_of_same::<F16>(ft.1, base.1, &mut sums),
        (DType::F32, DType::F32) => squares_of_same::<F32>(ft.1, base.1, &mut sums),
        _ => {
            let mut delta = [0.0f32; BLOCK];
            for (a, b) in blocks(ft).zip(blocks(base)) {
                let n = (a.len() * 8 / ft.0.bits()).min(b.len() * 8 / base.0.bits());
                subtract_body((ft.0, a), (base.0, b), &mut delta[..n]);
                add_squares(&mut sums, &delta[..n]);
            }
        }
    }
    joined(sums)
}

#[inline(always)]
fn squares_of_same<F: Format>(ft: &[u8], base: &[u8], sums: &mut [f64; LANES]) {
    let (ft, ft_rest) = F::view(ft).as_chunks::<LANES>();
    let (base, base_rest) = F::view(base).as_chunks::<LANES>();
    for (a, b) in ft.iter().zip(base) {
        for i in 0..LANES {
            let x = f64::from(F::to_f32(a[i]) - F::to_f32(b[i]));
            sums[i] += x * x;
        }
    }
    // Lengths are equal, so only one of both chunk lists can have ended here.
    for ((sum, &a), &b) in sums.iter_mut().zip(ft_rest).zip(base_rest) {
        let x = f64::from(F::to_f32(a) - F::to_f32(b));
        *sum += x * x;
    }
}

#[inline(always)]
fn add_squares(sums: &mut [f64; LANES], values: &[f32]) {
    for chunk in values.chunks(LANES) {
        for (sum, &x) in sums.iter_mut().zip(chunk) {
            *sum += f64::from(x) * f64::from(x);
        }
    }
}

#[inline(always)]
fn subtract_blocks(ft: (DType, &[u8]), base: (DType, &[u8]), out: &mut [f32]) {
    let mut b = [0.0f32; BLOCK];
    let blocks = out.chunks_mut(BLOCK).zip(blocks(ft)).zip(blocks(base));
    for ((out, ft_bytes), base_bytes) in blocks {
        to_f32_body(ft.0, ft_bytes, out);
        to_f32_body(base.0, base_bytes, &mut b);
        for (o, b) in out.iter_mut().zip(&b) {
            *o = one_nan(*o - b);
        }
    }
}

#[inline(always)]
fn subtract_f64(ft: (DType, &[u8]), base: (DType, &[u8]), out: &mut [f32]) {
    let (mut a, mut b) = ([0.0f64; BLOCK], [0.0f64; BLOCK]);
    let blocks = out.chunks_mut(BLOCK).zip(blocks(ft)).zip(blocks(base));
    for ((out, ft_bytes), base_bytes) in blocks {
        to_f64_body(ft.0, ft_bytes, &mut a);
        to_f64_body(base.0, base_bytes, &mut b);
        for (o, (a, b)) in out.iter_mut().zip(a.iter().zip(&b)) {
            *o = one_nan((a - b) as f32);
        }
    }
}

/// The byte runs of `BLOCK` elements each.
#[inline(always)]
fn blocks(of: (DType, &[u8])) -> std::slice::Chunks<'_, u8> {
    of.1.chunks(BLOCK * of.0.bits() / 8)
}

#[inline(always)]
pub(super) fn add_body(base: (DType, &[u8]), delta: &[f32], dtype: DType, out: &mut [u8]) {
    match (base.0, dtype) {
        (DType::BF16, DType::BF16) => add_same::<Bf16>(base.1, delta, out),
        (DType::F16, DType::F16) => add_same::<F16>(base.1, delta, out),
        (DType::F32, DType::F32) => add_same::<F32>(base.1, delta, out),
        (DType::F64, _) | (_, DType::F64) => add_widened(base, delta, dtype, out),
        _ => add_blocks(base, delta, dtype, out),
    }
}

#[inline(always)]
fn shifted(base: f32, delta: f32) -> f32 {
    let sum = one_nan(base + delta);
    if delta == 0.0 { base } else { sum }
}

#[inline(always)]
fn add_same<F: Format>(base: &[u8], delta: &[f32], out: &mut [u8]) {
    for ((o, &b), &d) in F::view_mut(out).iter_mut().zip(F::view(base)).zip(delta) {
        *o = F::from_f32(shifted(F::to_f32(b), d));
    }
}

#[inline(always)]
fn add_blocks(base: (DType, &[u8]), delta: &[f32], dtype: DType, out: &mut [u8]) {
    let mut b = [0.0f32; BLOCK];
    let out_blocks = out.chunks_mut(BLOCK * dtype.bits() / 8);
    for ((out, base_bytes), d) in out_blocks.zip(blocks(base)).zip(delta.chunks(BLOCK)) {
        to_f32_body(base.0, base_bytes, &mut b);
        for (b, &d) in b.iter_mut().zip(d) {
            *b = shifted(*b, d);
        }
        from_f32_body(dtype, &b[..d.len()], out);
    }
}

#[inline(always)]
fn add_widened(base: (DType, &[u8]), delta: &[f32], dtype: DType, out: &mut [u8]) {
    let mut wide = [0.0f64; BLOCK];
    let out_blocks = out.chunks_mut(BLOCK * dtype.bits() / 8);
    for ((out, base_bytes), d) in out_blocks.zip(blocks(base)).zip(delta.chunks(BLOCK)) {
        for (wide, &d) in wide.iter_mut().zip(d) {
            *wide = f64::from(d);
        }
        add_f64_body((base.0, base_bytes), &wide[..d.len()], dtype, out);
    }
}

#[inline(always)]
fn add_f64_body(base: (DType, &[u8]), delta: &[f64], dtype: DType, out: &mut [u8]) {
    let mut b = [0.0f64; BLOCK];
    let out_blocks = out.chunks_mut(BLOCK * dtype.bits() / 8);
    for ((out, base_bytes), d) in out_blocks.zip(blocks(base)).zip(delta.chunks(BLOCK)) {
        to_f64_body(base.0, base_bytes, &mut b);
        for (b, &d) in b.iter_mut().zip(d) {
            let sum = *b + d;
            let sum = if sum.is_nan() { f64::NAN } else { sum };
            *b = if d == 0.0 { *b } else { sum };
        }
        from_f64_body(dtype, &b[..d.len()], out);
    }
}

#[inline(always)]
fn recode_body(from: (DType, &[u8]), to: DType, out: &mut [u8]) {
    if from.0 == to {
        let n = from.1.len().min(out.len());
        out[..n].copy_from_slice(&from.1[..n]);
        return;
    }
    let out_blocks = out.chunks_mut(BLOCK * to.bits() / 8);
    if from.0 == DType::F64 {
        let mut values = [0.0f64; BLOCK];
        for (out, bytes) in out_blocks.zip(blocks(from)) {
            to_f64_body(from.0, bytes, &mut values);
            from_f64_body(to, &values[..bytes.len() / 8], out);
        }
    } else {
        let mut values = [0.0f32; BLOCK];
        for (out, bytes) in out_blocks.zip(blocks(from)) {
            to_f32_body(from.0, bytes, &mut values);
            from_f32_body(to, &values[..bytes.len() * 8 / from.0.bits()], out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::{both_ways, quantise};
    use proptest::prelude::*;

    fn floats() -> Vec<DType> {
        DType::all().filter(|d| d.is_float()).collect()
    }

    fn bytes_of(dtype: DType, values: &[f32]) -> Vec<u8> {
        let mut out = vec![0; values.len() * dtype.bits() / 8];
        from_f32(dtype, values, &mut out);
        out
    }

    fn values_of(dtype: DType, bytes: &[u8]) -> Vec<f32> {
        let mut out = vec![0.0; bytes.len() * 8 / dtype.bits()];
        to_f32(dtype, bytes, &mut out);
        out
    }

    fn bits(values: &[f32]) -> Vec<u32> {
        values.iter().map(|x| x.to_bits()).collect()
    }

    #[test]
    fn every_pair_of_dtypes_subtracts_adds_and_recodes() {
        let small: Vec<f32> = (0..700).map(|i| (i % 13) as f32 - 6.0).collect();
        let large: Vec<f32> = (0..700).map(|i| (i % 7) as f32 * 2.0 - 8.0).collect();
        let want: Vec<f32> = small.iter().zip(&large).map(|(a, b)| a - b).collect();
        for a in floats() {
            for b in floats() {
                let (ft, base) = (bytes_of(a, &small), bytes_of(b, &large));
                let mut delta = vec![0.0; small.len()];
                subtract((a, &ft), (b, &base), &mut delta);
                assert_eq!(delta, want, "{a:?} - {b:?}");
                let mut back = vec![0; ft.len()];
                add((b, &base), &delta, a, &mut back);
                assert_eq!(back, ft, "{b:?} + delta as {a:?}");
                let mut other = vec![0; base.len()];
                recode((a, &ft), b, &mut other);
                assert_eq!(values_of(b, &other), small, "{a:?} as {b:?}");
            }
        }
    }

    #[test]
    fn a_zero_delta_keeps_the_sign_of_zero_and_nan() {
        let base = [0x00, 0x80, 0xc1, 0xff, 0x80, 0x3f];
        let mut out = [0; 6];
        add((DType::BF16, &base), &[0.0; 3], DType::BF16, &mut out);
        assert_eq!(out, base);
    }

    #[test]
    fn f64_differences_are_taken_in_f64() {
        let (a, b) = (1.0f64 + 1e-12, 1.0f64);
        let mut out = [0.0];
        subtract((DType::F64, &a.to_le_bytes()), (DType::F64, &b.to_le_bytes()), &mut out);
        assert_eq!(out[0], (a - b) as f32);
    }

    #[test]
    fn infinities_that_cancel_give_the_one_nan() {
        let inf = f32::INFINITY.to_le_bytes();
        let mut out = [0.0];
        subtract((DType::F32, &inf), (DType::F32, &inf), &mut out);
        assert_eq!(out[0].to_bits(), f32::NAN.to_bits());
    }

    proptest! {
        #[test]
        fn clones_agree_on_any_bytes_at_any_address(
            a in prop::collection::vec(any::<u8>(), 0..2600),
            b in prop::collection::vec(any::<u8>(), 2600),
            skip in 0usize..8,
            pair in (prop::sample::select(floats()), prop::sample::select(floats())),
        ) {
            let (a, b) = (&a[skip.min(a.len())..], &b[skip..]);
            let n = a.len() * 8 / pair.0.bits();
            let n = n.min(b.len() * 8 / pair.1.bits());
            let (wide, plain) = both_ways(|| {
                let mut delta = vec![0.0; n];
                subtract((pair.0, a), (pair.1, b), &mut delta);
                let mut sum = vec![0; n * pair.0.bits() / 8];
                add((pair.1, b), &delta, pair.0, &mut sum);
                let mut other = vec![0; n * pair.1.bits() / 8];
                recode((pair.0, a), pair.1, &mut other);
                let (x, y) = (&a[..n * pair.0.bits() / 8], &b[..n * pair.1.bits() / 8]);
                let squares = squared_difference((pair.0, x), (pair.1, y));
                let apart = quantise::sum_squares(&delta);
                // Which NaN a sum of NaN is depends on the processor.
                assert!(squares.to_bits() == apart.to_bits() || squares.is_nan() && apart.is_nan());
                (bits(&values_of(pair.0, a)), bits(&delta), sum, other)
            });
            prop_assert_eq!(wide, plain);
        }
    }
}
