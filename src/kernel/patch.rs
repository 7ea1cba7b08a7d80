//! Square patches of a strip of matrix rows: the delta gathered into them, and what they decode to added
//! to the base.
//!
//! A strip is at most `p` whole rows. Patch `k` covers its columns `k * p..k * p + p`; gathered, it is
//! `p * p` row-major elements, with zeros beyond the last row and column. Chosen patches alone are
//! gathered, and neither the strip nor its delta is ever held in f32.

use std::ops::Range;

use crate::kernel::convert::{add_body, subtract_body};
use crate::tensor::DType;

/// Elements of a line at most: what neighbouring patches have of one row.
pub const MAX_LINE: usize = 4096;

/// Neighbouring patches of a strip.
#[derive(Debug, Clone)]
pub struct Strip {
    /// Columns of the matrix.
    pub n_cols: usize,
    /// At most `p`.
    pub n_rows: usize,
    /// Side of a patch: 8, 16, 32 or 64.
    pub p: usize,
    /// Which patches: [`MAX_LINE`] columns at most.
    pub patches: Range<u32>,
}

/// Deltas of some patches of a strip.
#[derive(Debug, Clone)]
pub struct Deltas<'a> {
    /// The patches that have a delta, ascending.
    pub chosen: &'a [u32],
    /// Their deltas, one after another.
    pub values: &'a [f32],
    /// What a delta is multiplied by, one after the other.
    pub scale: (f32, f32),
}

vectorised! {
    /// Fine-tune minus base as `convert::subtract` gives it, of those patches of the strip that are
    /// `chosen`, one after another in `out`, which has `p * p` elements for each. `ft` and `base` are
    /// the strip's rows, whole.
    pub fn gather_difference(ft: (DType, &[u8]), base: (DType, &[u8]), strip: &Strip, chosen: &[u32], out: &mut [f32]) = gather_body;
}

vectorised! {
    /// Base plus scaled deltas as `convert::add` gives it. `base` and `out` are the strip's rows, whole;
    /// columns of other patches are left alone.
    pub fn add_patches(base: (DType, &[u8]), strip: &Strip, deltas: Deltas<'_>, dtype: DType, out: &mut [u8]) = add_patches_body;
}

/// Looks at every cache line once, from the first to the last, so that the processor reads ahead and
/// what comes later, piece by piece, finds it in cache.
pub fn touch(bytes: &[u8]) {
    let lines = bytes.iter().step_by(64);
    std::hint::black_box(lines.fold(0, |all, byte| all | byte));
}

/// Row by row and all patches at once, so that both inputs are read as they lie in memory and the
/// subtraction runs over more than a patch's width; the copies stay in the first-level cache.
#[inline(always)]
fn gather_body(
    ft: (DType, &[u8]),
    base: (DType, &[u8]),
    strip: &Strip,
    chosen: &[u32],
    out: &mut [f32],
) {
    if chosen.is_empty() {
        return;
    }
    match strip.p {
        8 => gather_side::<8>(ft, base, strip, chosen, out),
        16 => gather_side::<16>(ft, base, strip, chosen, out),
        32 => gather_side::<32>(ft, base, strip, chosen, out),
        _ => gather_side::<64>(ft, base, strip, chosen, out),
    }
}

#[inline(always)]
fn gather_side<const P: usize>(
    ft: (DType, &[u8]),
    base: (DType, &[u8]),
    strip: &Strip,
    chosen: &[u32],
    out: &mut [f32],
) {
    debug_assert!(strip.p == P);
    let lines = out.as_chunks_mut::<P>().0;
    let mut line = [0.0; MAX_LINE];
    let span = (strip.patches.len() * P).min(MAX_LINE);
    for r in 0..P {
        let columns = strip.line(r.min(strip.n_rows.saturating_sub(1)));
        // What lies beyond the last row and column is zero.
        let width = if r < strip.n_rows { columns.len().min(MAX_LINE) } else { 0 };
        subtract_body(piece(ft, &columns), piece(base, &columns), &mut line[..width]);
        line[width..span].fill(0.0);
        for (i, &k) in chosen.iter().enumerate() {
            let from = line.as_chunks::<P>().0.get((k - strip.patches.start) as usize);
            if let (Some(to), Some(from)) = (lines.get_mut(i * P + r), from) {
                *to = *from;
            }
        }
    }
}

#[inline(always)]
fn add_patches_body(
    base: (DType, &[u8]),
    strip: &Strip,
    deltas: Deltas<'_>,
    dtype: DType,
    out: &mut [u8],
) {
    match strip.p {
        8 => add_side::<8>(base, strip, &deltas, dtype, out),
        16 => add_side::<16>(base, strip, &deltas, dtype, out),
        32 => add_side::<32>(base, strip, &deltas, dtype, out),
        _ => add_side::<64>(base, strip, &deltas, dtype, out),
    }
}

#[inline(always)]
fn add_side<const P: usize>(
    base: (DType, &[u8]),
    strip: &Strip,
    deltas: &Deltas<'_>,
    dtype: DType,
    out: &mut [u8],
) {
    debug_assert!(strip.p == P);
    let lines = deltas.values.as_chunks::<P>().0;
    // Patches without a delta stay zero in every row.
    let mut line = [0.0; MAX_LINE];
    let out_width = dtype.bits() / 8;
    for r in 0..strip.n_rows {
        let columns = strip.line(r);
        let width = columns.len().min(MAX_LINE);
        for (i, &k) in deltas.chosen.iter().enumerate() {
            let to = line.as_chunks_mut::<P>().0.get_mut((k - strip.patches.start) as usize);
            if let (Some(to), Some(from)) = (to, lines.get(i * P + r)) {
                *to = *from;
            }
        }
        for x in &mut line[..width] {
            *x = *x * deltas.scale.0 * deltas.scale.1;
        }
        let to = &mut out[columns.start * out_width..columns.end * out_width];
        add_body(piece(base, &columns), &line[..width], dtype, to);
    }
}

impl Strip {
    /// What the patches have of row `r`, as elements of the rows.
    #[inline(always)]
    fn line(&self, r: usize) -> Range<usize> {
        let column = |k: u32| (k as usize * self.p).min(self.n_cols);
        let (start, end) = (column(self.patches.start), column(self.patches.end));
        r * self.n_cols + start..r * self.n_cols + end
    }
}

#[inline(always)]
fn piece<'a>((dtype, bytes): (DType, &'a [u8]), elements: &Range<usize>) -> (DType, &'a [u8]) {
    let width = dtype.bits() / 8;
    (dtype, &bytes[elements.start * width..elements.end * width])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::{both_ways, convert};
    use proptest::prelude::*;

    const SIDES: [usize; 4] = [8, 16, 32, 64];

    fn floats() -> Vec<DType> {
        DType::all().filter(|d| d.is_float()).collect()
    }

    fn bytes_of(dtype: DType, values: &[f32]) -> Vec<u8> {
        let mut out = vec![0; values.len() * dtype.bits() / 8];
        convert::from_f32(dtype, values, &mut out);
        out
    }

    proptest! {
        #[test]
        fn patches_are_the_delta_and_are_added_to_their_places(
            p in prop::sample::select(SIDES.to_vec()),
            n_cols in 1usize..200,
            missing in 0usize..8,
            picks in prop::collection::vec(any::<bool>(), 25),
            dtypes in (prop::sample::select(floats()), prop::sample::select(floats())),
            same in any::<bool>(),
        ) {
            let (a, b) = (dtypes.0, if same { dtypes.0 } else { dtypes.1 });
            let n_rows = p - missing;
            let number = |i: usize| ((i * 7919) % 255) as f32 / 16.0 - 7.0;
            let ft: Vec<f32> = (0..n_rows * n_cols).map(number).collect();
            let base: Vec<f32> = (0..n_rows * n_cols).map(|i| number(i * 3 + 1)).collect();
            let (ft, base) = (bytes_of(a, &ft), bytes_of(b, &base));
            let mut delta = vec![0.0; n_rows * n_cols];
            convert::subtract((a, &ft), (b, &base), &mut delta);
            let across = n_cols.div_ceil(p) as u32;
            let strip = Strip { n_cols, n_rows, p, patches: 0..across };
            let chosen: Vec<u32> = (0..across).filter(|k| picks[*k as usize]).collect();

            let (wide, plain) = both_ways(|| {
                let mut patches = vec![f32::NAN; chosen.len() * p * p];
                gather_difference((a, &ft), (b, &base), &strip, &chosen, &mut patches);
                let mut out = vec![0xff; ft.len()];
                let deltas = Deltas { chosen: &chosen, values: &patches, scale: (0.5, 2.0) };
                add_patches((b, &base), &strip, deltas, a, &mut out);
                (patches, out)
            });
            prop_assert_eq!(&wide, &plain);

            let mut kept = vec![0.0; delta.len()];
            for (patch, &k) in wide.0.chunks_exact(p * p).zip(&chosen) {
                for (i, x) in patch.iter().enumerate() {
                    let (r, c) = (i / p, k as usize * p + i % p);
                    let inside = r < n_rows && c < n_cols;
                    prop_assert_eq!(*x, if inside { delta[r * n_cols + c] } else { 0.0 });
                    if inside {
                        kept[r * n_cols + c] = *x;
                    }
                }
            }
            let mut want = vec![0; ft.len()];
            convert::add((b, &base), &kept, a, &mut want);
            prop_assert_eq!(wide.1, want);
        }
    }
}
