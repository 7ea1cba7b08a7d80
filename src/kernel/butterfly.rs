//! The one-dimensional DCT-II of 4, 8 or 16 numbers and its transpose, the inverse up to scale.
//!
//! Straight-line scalar code: a caller's loop over columns turns each operation into a vector one.
//! Lee's recursion, as JPEG XL codecs use it: sums and differences of mirrored inputs go through the
//! transform of half the length. The unscaled result is sqrt(n) times the orthonormal one. Nothing
//! here depends on a platform's cosine, and products are never fused with sums.

use std::f32::consts::SQRT_2;

// SECANT_N[j] = 1 / (2 cos(pi (2 j + 1) / (2 N))), from 200-bit arithmetic.
const SECANT_4: [f32; 2] = [0.5411961, 1.306563];
const SECANT_8: [f32; 4] = [0.5097956, 0.6013449, 0.8999762, 2.5629156];
const SECANT_16: [f32; 8] =
    [0.5024193, 0.5224986, 0.56694406, 0.6468218, 0.7881546, 1.0606776, 1.7224472, 5.1011486];
/// For the caller that splits 32 rows into twice 16.
pub(super) const SECANT_32: [f32; 16] = [
    0.500603, 0.50547093, 0.5154473, 0.5310426, 0.5531039, 0.582935, 0.6225041, 0.6748083,
    0.7445363, 0.8393496, 0.9725682, 1.1694399, 1.4841646, 2.057781, 3.4076085, 10.190008,
];

#[inline(always)]
fn forward_2([a, b]: [f32; 2]) -> [f32; 2] {
    [a + b, a - b]
}

/// A transform of `N` numbers. A trait and not a function passed along, since a closure cannot be
/// `#[inline(always)]` and without that the vector clones would call baseline code.
pub(super) trait Transform<const N: usize> {
    fn apply(x: [f32; N]) -> [f32; N];
}

/// The DCT-II.
pub(super) struct Forward;
/// Its transpose.
pub(super) struct Inverse;

macro_rules! butterflies {
    ($n:literal, $forward:ident, $inverse:ident, $half_forward:path, $half_inverse:path, $secant:ident) => {
        #[inline(always)]
        fn $forward(x: [f32; $n]) -> [f32; $n] {
            const HALF: usize = $n / 2;
            let (mut even, mut odd) = ([0.0; HALF], [0.0; HALF]);
            for j in 0..HALF {
                even[j] = x[j] + x[$n - 1 - j];
                odd[j] = (x[j] - x[$n - 1 - j]) * $secant[j];
            }
            let (even, mut odd) = ($half_forward(even), $half_forward(odd));
            odd[0] *= SQRT_2;
            let mut y = [0.0; $n];
            for k in 0..HALF {
                y[2 * k] = even[k];
                y[2 * k + 1] = if k + 1 < HALF { odd[k] + odd[k + 1] } else { odd[k] };
            }
            y
        }

        #[inline(always)]
        fn $inverse(y: [f32; $n]) -> [f32; $n] {
            const HALF: usize = $n / 2;
            let (mut even, mut odd) = ([0.0; HALF], [0.0; HALF]);
            for k in 0..HALF {
                even[k] = y[2 * k];
                odd[k] = if k > 0 { y[2 * k + 1] + y[2 * k - 1] } else { y[1] * SQRT_2 };
            }
            let (even, odd) = ($half_inverse(even), $half_inverse(odd));
            let mut x = [0.0; $n];
            for j in 0..HALF {
                let product = odd[j] * $secant[j];
                x[j] = even[j] + product;
                x[$n - 1 - j] = even[j] - product;
            }
            x
        }

        impl Transform<$n> for Forward {
            #[inline(always)]
            fn apply(x: [f32; $n]) -> [f32; $n] {
                $forward(x)
            }
        }

        impl Transform<$n> for Inverse {
            #[inline(always)]
            fn apply(y: [f32; $n]) -> [f32; $n] {
                $inverse(y)
            }
        }
    };
}

butterflies!(4, forward_4, inverse_4, forward_2, forward_2, SECANT_4);
butterflies!(8, forward_8, inverse_8, forward_4, inverse_4, SECANT_8);
butterflies!(16, forward_16, inverse_16, forward_8, inverse_8, SECANT_16);
