//! The orthonormal two-dimensional DCT-II of square patches, and its inverse.
//!
//! Sides 8, 16 and 32 have kernels of ours; 64 goes through `rustdct`. Which coefficients are
//! kept and how is not decided here.

use std::f32::consts::SQRT_2;
use std::fmt;
use std::sync::Arc;

use rustdct::{DctPlanner, TransformType2And3};

use crate::kernel::butterfly::{Forward, Inverse, SECANT_32, Transform};

/// A transform of `p * p` patches.
pub struct Dct {
    p: usize,
    large: Option<Arc<dyn TransformType2And3<f32>>>,
}

impl fmt::Debug for Dct {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dct").field("p", &self.p).finish_non_exhaustive()
    }
}

/// The side that `rustdct` transforms: a power of two, which it plans without the FFT whose code
/// depends on the processor. Its factors are the platform's f64 cosines rounded to f32, where the
/// last bit of the cosine hardly ever counts; a test below holds the result's bits.
const LARGE: usize = 64;

impl Dct {
    /// A transform for patches of side 8, 16, 32 or 64. Any other side leaves patches as they are;
    /// callers check it where it is read.
    pub fn new(p: usize) -> Self {
        debug_assert!([8, 16, 32, LARGE].contains(&p));
        let large = (p == LARGE).then(|| DctPlanner::new().plan_dct2(LARGE));
        Self { p, large }
    }

    /// Transforms one row-major patch in place. `scratch` holds `p * p` elements, overwritten.
    pub fn forward(&self, patch: &mut [f32], scratch: &mut [f32]) {
        self.forward_many(&mut patch[..self.p * self.p], scratch);
    }

    /// The inverse of `forward`, up to rounding.
    pub fn inverse(&self, patch: &mut [f32], scratch: &mut [f32]) {
        self.inverse_many(&mut patch[..self.p * self.p], scratch);
    }

    /// `forward` on consecutive patches. `scratch` is that of one patch.
    pub fn forward_many(&self, patches: &mut [f32], scratch: &mut [f32]) {
        match &self.large {
            Some(dct) => each_large(patches, scratch, |row, work| large_forward(&**dct, row, work)),
            None => match self.p {
                8 => forward_8(patches, scratch),
                16 => forward_16(patches, scratch),
                32 => forward_32(patches, scratch),
                _ => {}
            },
        }
    }

    /// `inverse` on consecutive patches.
    pub fn inverse_many(&self, patches: &mut [f32], scratch: &mut [f32]) {
        match &self.large {
            Some(dct) => each_large(patches, scratch, |row, work| large_inverse(&**dct, row, work)),
            None => match self.p {
                8 => inverse_8(patches, scratch),
                16 => inverse_16(patches, scratch),
                32 => inverse_32(patches, scratch),
                _ => {}
            },
        }
    }
}

// One function for each side, since the compiler's vector code was half as fast in a function that
// held all of them; 256 bits, since its 512-bit transposition was a third slower.
vectorised_256! { fn forward_8(patches: &mut [f32], scratch: &mut [f32]) = each_small::<8, Forward>; }
vectorised_256! { fn forward_16(patches: &mut [f32], scratch: &mut [f32]) = each_small::<16, Forward>; }
vectorised_256! { fn forward_32(patches: &mut [f32], scratch: &mut [f32]) = each_small::<32, Forward>; }
vectorised_256! { fn inverse_8(patches: &mut [f32], scratch: &mut [f32]) = each_small::<8, Inverse>; }
vectorised_256! { fn inverse_16(patches: &mut [f32], scratch: &mut [f32]) = each_small::<16, Inverse>; }
vectorised_256! { fn inverse_32(patches: &mut [f32], scratch: &mut [f32]) = each_small::<32, Inverse>; }

/// Transforms the columns of a `P * P` patch from one buffer into another.
trait Pass<const P: usize> {
    /// May overwrite `from`.
    fn pass(from: &mut [f32], to: &mut [f32]);
}

macro_rules! pass {
    ($transform:ty, $p:literal, $columns:expr) => {
        impl Pass<$p> for $transform {
            #[inline(always)]
            fn pass(from: &mut [f32], to: &mut [f32]) {
                $columns(from, to);
            }
        }
    };
}

pass!(Forward, 8, columns::<8, 8, Forward>);
pass!(Forward, 16, columns::<16, 16, Forward>);
pass!(Forward, 32, forward_columns_32);
pass!(Inverse, 8, columns::<8, 8, Inverse>);
pass!(Inverse, 16, columns::<16, 16, Inverse>);
pass!(Inverse, 32, inverse_columns_32);

/// Columns, transposition, columns, transposition.
#[inline(always)]
fn each_small<const P: usize, T: Pass<P>>(patches: &mut [f32], scratch: &mut [f32]) {
    let Some((work, _)) = scratch.split_at_mut_checked(P * P) else {
        return;
    };
    for patch in patches.chunks_exact_mut(P * P) {
        T::pass(patch, work);
        transpose::<P>(work, patch);
        T::pass(patch, work);
        transpose::<P>(work, patch);
        // The two passes leave a factor of P, a power of two.
        for x in patch {
            *x *= 1.0 / P as f32;
        }
    }
}

/// Transforms every column of `N` rows of width `W`. One column is scalar code; the loop over
/// columns is what becomes vector code, since neighbouring columns are neighbours in memory.
#[inline(always)]
fn columns<const N: usize, const W: usize, T: Transform<N>>(from: &[f32], to: &mut [f32]) {
    let (from, to) = (from.as_chunks::<W>().0, to.as_chunks_mut::<W>().0);
    let (Some(from), Some(to)) = (from.first_chunk::<N>(), to.first_chunk_mut::<N>()) else {
        return;
    };
    for i in 0..W {
        let mut column = [0.0; N];
        for (x, row) in column.iter_mut().zip(from) {
            *x = row[i];
        }
        for (x, row) in T::apply(column).iter().zip(to.iter_mut()) {
            row[i] = *x;
        }
    }
}

/// Length 32 takes its outermost step of the recursion row by row: a whole column of 32 is more
/// than the vector registers hold. Overwrites `from`.
#[inline(always)]
fn forward_columns_32(from: &mut [f32], to: &mut [f32]) {
    let (Some(a), Some(b)) = (square_32(from), square_32(to)) else {
        return;
    };
    for j in 0..16 {
        for i in 0..32 {
            b[j][i] = a[j][i] + a[31 - j][i];
            b[16 + j][i] = (a[j][i] - a[31 - j][i]) * SECANT_32[j];
        }
    }
    let ((even, odd), (low, high)) = (b.split_at(16), a.split_at_mut(16));
    columns::<16, 32, Forward>(even.as_flattened(), low.as_flattened_mut());
    columns::<16, 32, Forward>(odd.as_flattened(), high.as_flattened_mut());
    for x in &mut a[16] {
        *x *= SQRT_2;
    }
    for k in 0..16 {
        for i in 0..32 {
            b[2 * k][i] = a[k][i];
            b[2 * k + 1][i] = a[16 + k][i] + if k < 15 { a[17 + k][i] } else { 0.0 };
        }
    }
}

/// The transpose of `forward_columns_32`.
#[inline(always)]
fn inverse_columns_32(from: &mut [f32], to: &mut [f32]) {
    let (Some(a), Some(b)) = (square_32(from), square_32(to)) else {
        return;
    };
    for k in 0..16 {
        for i in 0..32 {
            b[k][i] = a[2 * k][i];
            b[16 + k][i] = if k > 0 { a[2 * k + 1][i] + a[2 * k - 1][i] } else { a[1][i] * SQRT_2 };
        }
    }
    let ((even, odd), (low, high)) = (b.split_at(16), a.split_at_mut(16));
    columns::<16, 32, Inverse>(even.as_flattened(), low.as_flattened_mut());
    columns::<16, 32, Inverse>(odd.as_flattened(), high.as_flattened_mut());
    for j in 0..16 {
        for i in 0..32 {
            let product = a[16 + j][i] * SECANT_32[j];
            b[j][i] = a[j][i] + product;
            b[31 - j][i] = a[j][i] - product;
        }
    }
}

#[inline(always)]
fn square_32(buffer: &mut [f32]) -> Option<&mut [[f32; 32]; 32]> {
    buffer.as_chunks_mut::<32>().0.first_chunk_mut::<32>()
}

/// Transposes a row-major `P * P` patch.
#[inline(always)]
fn transpose<const P: usize>(from: &[f32], to: &mut [f32]) {
    let (from, to) = (from.as_chunks::<P>().0, to.as_chunks_mut::<P>().0);
    let (Some(from), Some(to)) = (from.first_chunk::<P>(), to.first_chunk_mut::<P>()) else {
        return;
    };
    for (r, row) in from.iter().enumerate() {
        for (column, &x) in to.iter_mut().zip(row) {
            column[r] = x;
        }
    }
}

/// Rows, transposition, rows, transposition. `row` gets one row and room to work in.
fn each_large(patches: &mut [f32], scratch: &mut [f32], row: impl Fn(&mut [f32], &mut [f32])) {
    let mut work = [0.0; LARGE];
    let Some((turned, _)) = scratch.split_at_mut_checked(LARGE * LARGE) else {
        return;
    };
    for patch in patches.chunks_exact_mut(LARGE * LARGE) {
        for _ in 0..2 {
            patch.chunks_exact_mut(LARGE).for_each(|r| row(r, &mut work));
            transpose::<LARGE>(patch, turned);
            patch.copy_from_slice(turned);
        }
    }
}

/// sqrt(2 / 64) and sqrt(1 / 64): what makes `rustdct`'s plain sums orthonormal.
const LARGE_SCALE: f32 = 0.176_776_7;
const LARGE_MEAN_SCALE: f32 = 0.125;

fn large_forward(dct: &dyn TransformType2And3<f32>, row: &mut [f32], work: &mut [f32]) {
    dct.process_dct2_with_scratch(row, work);
    row[0] *= LARGE_MEAN_SCALE;
    row[1..].iter_mut().for_each(|x| *x *= LARGE_SCALE);
}

fn large_inverse(dct: &dyn TransformType2And3<f32>, row: &mut [f32], work: &mut [f32]) {
    // rustdct's inverse takes half of the first coefficient.
    row[0] *= 2.0 * LARGE_MEAN_SCALE;
    row[1..].iter_mut().for_each(|x| *x *= LARGE_SCALE);
    dct.process_dct3_with_scratch(row, work);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::both_ways;
    use proptest::prelude::*;
    use std::f64::consts::PI;

    const SIDES: [usize; 4] = [8, 16, 32, 64];

    fn transformed(p: usize, patches: &[f32], inverse: bool) -> Vec<f32> {
        let (mut out, mut scratch) = (patches.to_vec(), vec![f32::NAN; p * p]);
        let dct = Dct::new(p);
        if inverse {
            dct.inverse_many(&mut out, &mut scratch);
        } else {
            dct.forward_many(&mut out, &mut scratch);
        }
        out
    }

    /// T X T^t in f64, or T^t X T.
    fn by_matrices(p: usize, x: &[f32], inverse: bool) -> Vec<f64> {
        let t = |u: usize, j: usize| {
            let scale = if u == 0 { 1.0 / p as f64 } else { 2.0 / p as f64 }.sqrt();
            scale * (PI * (2 * j + 1) as f64 * u as f64 / (2 * p) as f64).cos()
        };
        let t = |u: usize, j: usize| if inverse { t(j, u) } else { t(u, j) };
        let matrix: Vec<f64> = (0..p * p).map(|i| t(i / p, i % p)).collect();
        let times = |a: &[f64], b: &[f64], flip: bool| -> Vec<f64> {
            let at = |k: usize, c: usize| if flip { b[c * p + k] } else { b[k * p + c] };
            let dot = |r: usize, c: usize| (0..p).map(|k| a[r * p + k] * at(k, c)).sum();
            (0..p * p).map(|i| dot(i / p, i % p)).collect()
        };
        let x: Vec<f64> = x.iter().map(|&x| f64::from(x)).collect();
        times(&times(&matrix, &x, false), &matrix, true)
    }

    fn norm(values: impl IntoIterator<Item = f64>) -> f64 {
        values.into_iter().map(|x| x * x).sum::<f64>().sqrt()
    }

    fn relative_error(got: &[f32], want: &[f64]) -> f64 {
        let error = norm(got.iter().zip(want).map(|(&a, b)| f64::from(a) - b));
        error / norm(want.iter().copied()).max(1e-30)
    }

    /// Numbers without a pattern that are the same everywhere.
    fn noise(n: usize) -> Vec<f32> {
        let mut state = 1u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..n).map(|_| next()).collect()
    }

    #[test]
    fn agrees_with_the_definition_and_keeps_the_norm() {
        for p in SIDES {
            let x = noise(p * p);
            for inverse in [false, true] {
                let got = transformed(p, &x, inverse);
                let error = relative_error(&got, &by_matrices(p, &x, inverse));
                assert!(error < 1e-6, "p {p} inverse {inverse}: {error:e}");
                let wide = |v: &[f32]| norm(v.iter().map(|&x| f64::from(x)));
                assert!((wide(&got) / wide(&x) - 1.0).abs() < 1e-6);
            }
        }
    }

    #[test]
    fn agrees_with_rustdct() {
        for p in SIDES {
            let x = noise(p * p);
            let plan = DctPlanner::new().plan_dct2(p);
            let (mut want, mut work) = (x.clone(), vec![0.0; plan.get_scratch_len()]);
            for _ in 0..2 {
                for row in want.chunks_exact_mut(p) {
                    plan.process_dct2_with_scratch(row, &mut work);
                    row.iter_mut().for_each(|x| *x *= (2.0 / p as f32).sqrt());
                    row[0] *= 0.5f32.sqrt();
                }
                want = (0..p * p).map(|i| want[i % p * p + i / p]).collect();
            }
            let want: Vec<f64> = want.iter().map(|&x| f64::from(x)).collect();
            assert!(relative_error(&transformed(p, &x, false), &want) < 1e-6, "{p}");
        }
    }

    #[test]
    fn a_flat_patch_has_its_mean_alone() {
        for p in SIDES {
            let got = transformed(p, &vec![1.5; p * p], false);
            assert!((got[0] / (1.5 * p as f32) - 1.0).abs() < 1e-6);
            assert!(got[1..].iter().all(|x| x.abs() < 1e-5));
        }
    }

    #[test]
    fn never_change_these_bits() {
        let hash = |values: &[f32]| {
            values.iter().fold(0xcbf2_9ce4_8422_2325_u64, |h, x| {
                (h ^ u64::from(x.to_bits())).wrapping_mul(0x0100_0000_01b3)
            })
        };
        let golden = SIDES.map(|p| {
            let y = transformed(p, &noise(p * p), false);
            (y[1].to_bits(), hash(&y), hash(&transformed(p, &y, true)))
        });
        assert_eq!(golden, GOLDEN);
    }

    const GOLDEN: [(u32, u64, u64); 4] = [
        (3_171_951_904, 13_799_764_887_642_347_965, 6_394_577_360_201_711_835),
        (1_053_219_012, 12_533_820_560_908_120_766, 2_893_617_710_142_855_891),
        (1_064_167_808, 3_228_240_837_985_006_588, 8_093_181_374_810_418_374),
        (3_208_396_938, 4_198_524_884_422_160_435, 11_153_149_697_779_395_619),
    ];

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn clones_agree_and_the_inverse_returns(seed in prop::collection::vec(-1f32..1.0, 64), n in 1usize..4) {
            for p in SIDES {
                let x: Vec<f32> = seed.iter().copied().cycle().zip(noise(n * p * p)).map(|(a, b)| a * b).collect();
                let (wide, plain) = both_ways(|| {
                    let y = transformed(p, &x, false);
                    let back = transformed(p, &y, true);
                    (y.iter().map(|x| x.to_bits()).collect::<Vec<_>>(), back)
                });
                prop_assert_eq!(&wide.0, &plain.0);
                prop_assert!(wide.1.iter().zip(&plain.1).all(|(a, b)| a.to_bits() == b.to_bits()));
                let want: Vec<f64> = x.iter().map(|&x| f64::from(x)).collect();
                prop_assert!(relative_error(&wide.1, &want) < 1e-6);
            }
        }
    }
}
