//! The six float formats: one element to and from f32 or f64, by integer arithmetic.
//!
//! Knows nothing of slices longer than an element. Written without branches or table look-ups so
//! that loops over elements become vector code, and without float operations that could round
//! differently elsewhere.

/// A stored float format. Elements are little-endian byte arrays, so no alignment is needed.
pub(super) trait Format {
    /// One stored element.
    type Raw: Copy;
    /// The elements of a byte run; bytes of a cut-off last element are left out.
    fn view(bytes: &[u8]) -> &[Self::Raw];
    /// The same for writing.
    fn view_mut(bytes: &mut [u8]) -> &mut [Self::Raw];
    /// Exact, except that F64 is rounded to nearest even.
    fn to_f32(raw: Self::Raw) -> f32;
    /// Exact.
    fn to_f64(raw: Self::Raw) -> f64 {
        f64::from(Self::to_f32(raw))
    }
    /// One rounding to nearest even.
    fn from_f32(x: f32) -> Self::Raw;
    /// One rounding to nearest even.
    fn from_f64(x: f64) -> Self::Raw {
        Self::from_f32(round_to_odd(x))
    }
}

/// Narrows to f32 so that a second rounding to any narrower format gives what one rounding of `x`
/// would have given: an inexact result gets an odd last bit, which no tie of the second has.
#[inline(always)]
fn round_to_odd(x: f64) -> f32 {
    let near = x as f32;
    let back = f64::from(near);
    let too_far = u32::from(back.abs() > x.abs());
    let odd = f32::from_bits(near.to_bits().wrapping_sub(too_far) | 1);
    // NaN compares unequal to itself and must keep its bits.
    if back == x || near.is_nan() { near } else { odd }
}

/// Magnitude bits of a format with `M` mantissa bits and exponent bias `BIAS` to f32; its own
/// infinities and NaN are the caller's business.
#[inline(always)]
fn widen<const M: u32, const BIAS: u32>(mag: u32) -> f32 {
    let normal = f32::from_bits((mag << (23 - M)) + ((127 - BIAS) << 23));
    // A subnormal is a small integer times a power of two, hence exact.
    let unit = f32::from_bits((128 - BIAS - M) << 23);
    let subnormal = mag as i32 as f32 * unit;
    if mag >> M == 0 { subnormal } else { normal }
}

/// The inverse for finite f32 magnitude bits, rounding to nearest even. Too large a value comes
/// out as a code above the format's largest; the caller saturates.
#[inline(always)]
fn narrow<const M: u32, const BIAS: u32>(mag: u32) -> u32 {
    let shift = 23 - M;
    let odd = (mag >> shift) & 1;
    let normal = mag.wrapping_sub((127 - BIAS) << 23).wrapping_add((1 << (shift - 1)) - 1 + odd);
    // Adding a number whose last bit is worth one subnormal unit makes the adder round for us.
    let magic = (128 - BIAS + shift) << 23;
    let sum = f32::from_bits(mag) + f32::from_bits(magic);
    let subnormal = sum.to_bits().wrapping_sub(magic);
    if mag < (128 - BIAS) << 23 { subnormal } else { normal >> shift }
}

const INF: u32 = 0x7f80_0000;

macro_rules! byte_views {
    ($n:literal) => {
        type Raw = [u8; $n];
        #[inline(always)]
        fn view(bytes: &[u8]) -> &[Self::Raw] {
            bytes.as_chunks().0
        }
        #[inline(always)]
        fn view_mut(bytes: &mut [u8]) -> &mut [Self::Raw] {
            bytes.as_chunks_mut().0
        }
    };
}

/// IEEE binary64.
pub(super) struct F64;
impl Format for F64 {
    byte_views!(8);
    #[inline(always)]
    fn to_f32(raw: [u8; 8]) -> f32 {
        f64::from_le_bytes(raw) as f32
    }
    #[inline(always)]
    fn to_f64(raw: [u8; 8]) -> f64 {
        f64::from_le_bytes(raw)
    }
    #[inline(always)]
    fn from_f32(x: f32) -> [u8; 8] {
        f64::from(x).to_le_bytes()
    }
    #[inline(always)]
    fn from_f64(x: f64) -> [u8; 8] {
        x.to_le_bytes()
    }
}

/// IEEE binary32.
pub(super) struct F32;
impl Format for F32 {
    byte_views!(4);
    #[inline(always)]
    fn to_f32(raw: [u8; 4]) -> f32 {
        f32::from_le_bytes(raw)
    }
    #[inline(always)]
    fn from_f32(x: f32) -> [u8; 4] {
        x.to_le_bytes()
    }
    #[inline(always)]
    fn from_f64(x: f64) -> [u8; 4] {
        (x as f32).to_le_bytes()
    }
}

/// The upper half of binary32.
pub(super) struct Bf16;
impl Format for Bf16 {
    byte_views!(2);
    #[inline(always)]
    fn to_f32(raw: [u8; 2]) -> f32 {
        f32::from_bits(u32::from(u16::from_le_bytes(raw)) << 16)
    }
    #[inline(always)]
    fn from_f32(x: f32) -> [u8; 2] {
        let bits = x.to_bits();
        let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
        // A NaN is made quiet: cutting its payload alone could leave an infinity.
        let nan = bits >> 16 | 0x40;
        let code = if bits & !(1 << 31) > INF { nan } else { rounded };
        (code as u16).to_le_bytes()
    }
}

/// IEEE binary16. Beyond the largest finite value lies infinity.
pub(super) struct F16;
impl Format for F16 {
    byte_views!(2);
    #[inline(always)]
    fn to_f32(raw: [u8; 2]) -> f32 {
        let bits = u32::from(u16::from_le_bytes(raw));
        let mag = bits & 0x7fff;
        let finite = widen::<10, 15>(mag).to_bits();
        let special = INF | mag << 13;
        let wide = if mag >= 0x7c00 { special } else { finite };
        f32::from_bits(wide | (bits & 0x8000) << 16)
    }
    #[inline(always)]
    fn from_f32(x: f32) -> [u8; 2] {
        let bits = x.to_bits();
        let mag = bits & !(1 << 31);
        let finite = narrow::<10, 15>(mag).min(0x7c00);
        let nan = 0x7e00 | ((mag >> 13) & 0x3ff);
        let code = if mag > INF { nan } else { finite };
        ((code | (bits >> 16) & 0x8000) as u16).to_le_bytes()
    }
}

/// `float8_e5m2`: the upper half of binary16, with infinities.
pub(super) struct E5M2;
impl Format for E5M2 {
    byte_views!(1);
    #[inline(always)]
    fn to_f32(raw: [u8; 1]) -> f32 {
        F16::to_f32([0, raw[0]])
    }
    #[inline(always)]
    fn from_f32(x: f32) -> [u8; 1] {
        let bits = x.to_bits();
        let mag = bits & !(1 << 31);
        let finite = narrow::<2, 15>(mag).min(0x7c);
        let nan = 0x7e | ((mag >> 21) & 3);
        let code = if mag > INF { nan } else { finite };
        [(code | (bits >> 24) & 0x80) as u8]
    }
}

/// `float8_e4m3fn`: no infinities, one NaN per sign. A value that would round beyond the largest
/// finite one, 448, becomes NaN, as in `ml_dtypes`.
pub(super) struct E4M3;
impl Format for E4M3 {
    byte_views!(1);
    #[inline(always)]
    fn to_f32(raw: [u8; 1]) -> f32 {
        let bits = u32::from(raw[0]);
        let mag = bits & 0x7f;
        let finite = widen::<3, 7>(mag).to_bits();
        let wide = if mag == 0x7f { INF | 1 << 22 } else { finite };
        f32::from_bits(wide | (bits & 0x80) << 24)
    }
    #[inline(always)]
    fn from_f32(x: f32) -> [u8; 1] {
        let bits = x.to_bits();
        // Infinity and NaN have larger magnitude bits than any finite value.
        let code = narrow::<3, 7>(bits & !(1 << 31)).min(0x7f);
        [(code | (bits >> 24) & 0x80) as u8]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn f16_code(x: f32) -> u16 {
        u16::from_le_bytes(F16::from_f32(x))
    }

    #[test]
    fn every_half_code_agrees_with_the_half_crate_and_round_trips() {
        for code in 0..=u16::MAX {
            let (h, b) = (half::f16::from_bits(code), half::bf16::from_bits(code));
            let wide = F16::to_f32(code.to_le_bytes());
            if h.is_nan() {
                assert!(wide.is_nan());
                assert_eq!(f16_code(wide), code | 0x200);
            } else {
                assert_eq!(wide.to_bits(), h.to_f32().to_bits());
                assert_eq!(f16_code(wide), code);
            }
            let wide = Bf16::to_f32(code.to_le_bytes());
            assert_eq!(wide.to_bits(), u32::from(code) << 16);
            let quiet = if b.is_nan() { code | 0x40 } else { code };
            assert_eq!(Bf16::from_f32(wide), quiet.to_le_bytes());
            assert_eq!(Bf16::from_f64(Bf16::to_f64(code.to_le_bytes())), quiet.to_le_bytes());
        }
    }

    #[test]
    fn every_f8_code_round_trips() {
        for code in 0..=u8::MAX {
            let wide = E4M3::to_f32([code]);
            assert_eq!(wide.is_nan(), code & 0x7f == 0x7f);
            assert_eq!(E4M3::from_f32(wide), [code]);
            assert_eq!(E4M3::from_f64(f64::from(wide)), [code]);
            let wide = E5M2::to_f32([code]);
            let nan = code & 0x7f > 0x7c;
            assert_eq!(wide.is_nan(), nan);
            assert_eq!(E5M2::from_f32(wide), [if nan { code | 2 } else { code }]);
        }
        assert_eq!(E4M3::to_f32([0x7e]), 448.0);
        assert_eq!(E4M3::to_f32([0x38]), 1.0);
        assert_eq!(E4M3::to_f32([1]), 1.0 / 512.0);
        assert_eq!(E5M2::to_f32([0x7b]), 57344.0);
    }

    /// Nearest finite code by search, ties to the even code.
    fn nearest(x: f64, codes: u32, value: impl Fn(u32) -> f64) -> u32 {
        (0..codes)
            .min_by(|&a, &b| {
                let (da, db) = ((value(a) - x).abs(), (value(b) - x).abs());
                da.total_cmp(&db).then((a & 1).cmp(&(b & 1)))
            })
            .unwrap()
    }

    #[test]
    fn f8_rounds_to_nearest_even() {
        for code in 0..0x7e_u8 {
            let (a, b) = (E4M3::to_f64([code]), E4M3::to_f64([code + 1]));
            for x in [a, a * 0.75 + b * 0.25, (a + b) / 2.0, a * 0.25 + b * 0.75] {
                let want = nearest(x, 0x7f, |c| E4M3::to_f64([c as u8])) as u8;
                assert_eq!(E4M3::from_f64(x), [want]);
                assert_eq!(E4M3::from_f32(-x as f32), [want | 0x80]);
            }
        }
        assert_eq!(E4M3::from_f32(464.0), [0x7e]);
        assert_eq!(E4M3::from_f32(464.1), [0x7f]);
        assert_eq!(E4M3::from_f32(f32::NEG_INFINITY), [0xff]);
        assert_eq!(E5M2::from_f32(1e9), [0x7c]);
        for code in 0..0x7b_u8 {
            let (a, b) = (E5M2::to_f64([code]), E5M2::to_f64([code + 1]));
            let x = (a + b) / 2.0;
            let want = nearest(x, 0x7c, |c| E5M2::to_f64([c as u8])) as u8;
            assert_eq!(E5M2::from_f64(x), [want]);
        }
    }

    proptest! {
        #[test]
        fn narrowing_agrees_with_the_half_crate(bits: u32) {
            let x = f32::from_bits(bits);
            prop_assert_eq!(f16_code(x), half::f16::from_f32_const(x).to_bits());
            prop_assert_eq!(Bf16::from_f32(x), half::bf16::from_f32(x).to_bits().to_le_bytes());
        }

        #[test]
        fn narrowing_small_values_agrees_with_the_half_crate(x in -1e-3f32..1e-3) {
            prop_assert_eq!(f16_code(x), half::f16::from_f32_const(x).to_bits());
        }

        #[test]
        fn f64_is_rounded_once(code in 0u16..0x7f7f, nudge in -1i64..=1) {
            // Just beside a tie of bf16, where rounding by way of f32 would go wrong.
            let (a, b) = (Bf16::to_f64(code.to_le_bytes()), Bf16::to_f64((code + 1).to_le_bytes()));
            let tie = a + (b - a) / 2.0;
            let x = f64::from_bits((tie.to_bits() as i64 + nudge) as u64);
            let want = match nudge {
                -1 => code,
                1 => code + 1,
                _ => code + (code & 1),
            };
            prop_assert_eq!(Bf16::from_f64(x), want.to_le_bytes());
            prop_assert_eq!(Bf16::from_f64(-x), (want | 0x8000).to_le_bytes());
        }
    }
}
