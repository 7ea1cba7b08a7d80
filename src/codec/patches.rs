//! Tiles as quantised DCT patches of mixed bit widths.
//!
//! A payload decodes alone: it holds its class map, the range of every kept patch, the packed codes
//! and the factor of its matrix. Byte layout: FORMAT.md section 6.2.

use std::ops::Range;

use half::f16;

use crate::codec::delta::{DeltaTile, strips};
use crate::codec::{
    Codec, CodecId, Operand, Part, Parts, Scratch, Target, power_of_two, stored_bits,
};
use crate::error::{Error, Result};
use crate::kernel::dct::Dct;
use crate::kernel::{pack, patch, quantise};
use crate::wire::{Reader, Writer};

/// Most bits a code has.
pub(crate) const MAX_BITS: u8 = 8;
/// Most classes an allocation has.
pub(crate) const MAX_CLASSES: usize = 16;
/// Patch sides with a transform.
pub(crate) const SIDES: [usize; 4] = [8, 16, 32, 64];

/// The codec of DCT patches.
#[derive(Debug)]
pub(crate) struct Patches;

/// What a method decided for one tile.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Decisions<'a> {
    /// Patch side.
    pub(crate) p: usize,
    /// Bits of each class; 0 keeps nothing.
    pub(crate) bits: &'a [u8],
    /// Class of each patch of the tile, row by row.
    pub(crate) classes: &'a [u8],
    /// Patch ranges are stored as f16 times two to this power.
    pub(crate) exponent: i16,
    /// The decoded delta is multiplied by this.
    pub(crate) factor: f32,
}

/// Patches of side `p` that cover an area.
pub(crate) fn n_patches(n_rows: usize, n_cols: usize, p: usize) -> usize {
    n_rows.div_ceil(p) * n_cols.div_ceil(p)
}

fn class_bits(n_classes: usize) -> u32 {
    usize::BITS - (n_classes - 1).leading_zeros()
}

/// Cuts the delta of these rows into patches, in `scratch.patches`; the strip itself stays in
/// `scratch.strip`.
fn load(tile: &DeltaTile<'_>, rows: &Range<usize>, p: usize, scratch: &mut Scratch) {
    tile.rows(rows, &mut scratch.strip);
    scratch.patches.resize(tile.n_cols.div_ceil(p) * p * p, 0.0);
    patch::gather(&scratch.strip, tile.n_cols, rows.len(), p, &mut scratch.patches);
}

/// Sum of squares of every patch, whose root ranks alike, and the sum of absolute
/// values (E8).
pub(crate) fn scores(tile: &DeltaTile<'_>, p: usize, scratch: &mut Scratch) -> (Vec<f64>, f64) {
    let mut scores = Vec::with_capacity(n_patches(tile.n_rows, tile.n_cols, p));
    let mut sum_abs = 0.0;
    for (_, rows) in strips(tile.n_rows, p) {
        load(tile, &rows, p, scratch);
        sum_abs += quantise::sum_abs(&scratch.strip);
        scores.extend(scratch.patches.chunks_exact(p * p).map(quantise::sum_squares));
    }
    (scores, sum_abs)
}

/// Sum of absolute values of what these decisions decode to, before the factor.
pub(crate) fn decoded_magnitude(
    tile: &DeltaTile<'_>,
    d: &Decisions<'_>,
    scratch: &mut Scratch,
) -> f64 {
    let dct = scratch.take_dct(d.p);
    let area = d.p * d.p;
    let across = tile.n_cols.div_ceil(d.p);
    let mut sum = 0.0;
    let mut codes = std::mem::take(&mut scratch.codes);
    codes.resize(area, 0);
    for (s, rows) in strips(tile.n_rows, d.p) {
        load(tile, &rows, d.p, scratch);
        scratch.work.resize(area, 0.0);
        for (i, values) in scratch.patches.chunks_exact_mut(area).enumerate() {
            let bits = d.bits[usize::from(d.classes[s * across + i])];
            if bits == 0 {
                values.fill(0.0);
                continue;
            }
            let range = quantise_patch(&dct, d, bits, values, &mut scratch.work, &mut codes);
            restore_patch(&dct, d.exponent, range, bits, &codes, values, &mut scratch.work);
        }
        patch::scatter(&scratch.patches, tile.n_cols, rows.len(), d.p, &mut scratch.strip);
        sum += quantise::sum_abs(&scratch.strip);
    }
    scratch.codes = codes;
    scratch.give_dct(d.p, dct);
    sum
}

/// Appends the payload of this tile.
pub(crate) fn encode(
    tile: &DeltaTile<'_>,
    d: &Decisions<'_>,
    scratch: &mut Scratch,
    out: &mut Vec<u8>,
) {
    let dct = scratch.take_dct(d.p);
    let area = d.p * d.p;
    let across = tile.n_cols.div_ceil(d.p);
    let mut codes = std::mem::take(&mut scratch.codes);
    codes.resize(area, 0);
    let mut ranges = Vec::new();
    let mut streams = vec![Vec::new(); d.bits.len()];
    for (s, rows) in strips(tile.n_rows, d.p) {
        load(tile, &rows, d.p, scratch);
        scratch.work.resize(area, 0.0);
        for (i, values) in scratch.patches.chunks_exact_mut(area).enumerate() {
            let class = usize::from(d.classes[s * across + i]);
            let bits = d.bits[class];
            if bits == 0 {
                continue;
            }
            ranges.push(quantise_patch(&dct, d, bits, values, &mut scratch.work, &mut codes));
            pack::pack(&codes, stored_bits(bits), &mut streams[class]);
        }
    }
    scratch.codes = codes;
    scratch.give_dct(d.p, dct);
    write_payload(d, &ranges, &streams, out);
}

fn write_payload(d: &Decisions<'_>, ranges: &[(f16, f16)], streams: &[Vec<u8>], out: &mut Vec<u8>) {
    let mut w = Writer(std::mem::take(out));
    w.u8(d.p as u8);
    w.u8(d.bits.len() as u8);
    d.bits.iter().for_each(|b| w.u8(*b));
    w.u16(d.exponent as u16);
    w.u32(d.factor.to_bits());
    *out = w.0;
    if d.bits.len() > 1 {
        pack::pack(d.classes, class_bits(d.bits.len()), out);
    }
    // As byte planes, since the high bytes of neighbouring ranges are alike.
    for byte in 0..2 {
        out.extend(ranges.iter().map(|r| r.0.to_le_bytes()[byte]));
    }
    for byte in 0..2 {
        out.extend(ranges.iter().map(|r| r.1.to_le_bytes()[byte]));
    }
    streams.iter().for_each(|s| out.extend(s));
}

/// Transforms a patch in place and quantises it between its own extremes, narrowed outwards to f16 so
/// that no coefficient falls outside.
fn quantise_patch(
    dct: &Dct,
    d: &Decisions<'_>,
    bits: u8,
    values: &mut [f32],
    work: &mut [f32],
    codes: &mut [u8],
) -> (f16, f16) {
    dct.forward(values, work);
    let (lo, hi) = quantise::min_max(values);
    let down = power_of_two(-d.exponent);
    let range = (quantise::f16_at_most(lo * down), quantise::f16_at_least(hi * down));
    let (lo, hi) = widen(d.exponent, range);
    quantise::quantise(values, lo, hi, u32::from(bits), codes);
    range
}

fn widen(exponent: i16, range: (f16, f16)) -> (f32, f32) {
    let up = power_of_two(exponent);
    (range.0.to_f32() * up, range.1.to_f32() * up)
}

/// Dequantises a patch and transforms it back.
fn restore_patch(
    dct: &Dct,
    exponent: i16,
    range: (f16, f16),
    bits: u8,
    codes: &[u8],
    values: &mut [f32],
    work: &mut [f32],
) {
    let (lo, hi) = widen(exponent, range);
    quantise::dequantise(codes, lo, hi, u32::from(bits), values);
    dct.inverse(values, work);
}

/// A payload taken apart and found whole.
struct Payload<'a> {
    p: usize,
    bits: &'a [u8],
    exponent: i16,
    factor: f32,
    classes: Vec<u8>,
    /// Byte planes of the kept patches' ranges, `n_kept` bytes each.
    ranges: &'a [u8],
    n_kept: usize,
    /// The code streams of the classes, in order.
    streams: Vec<&'a [u8]>,
}

impl<'a> Payload<'a> {
    fn parse(payload: &'a [u8], target: &Target) -> Result<Self> {
        let mut r = Reader::new(payload);
        let p = usize::from(r.u8()?);
        let n_classes = usize::from(r.u8()?);
        if !SIDES.contains(&p) || p != target.patch || !(1..=MAX_CLASSES).contains(&n_classes) {
            return Err(Error::corrupt("patch side or class count is not the tile's"));
        }
        let bits = r.take(n_classes)?;
        if bits.iter().any(|b| *b > MAX_BITS) {
            return Err(Error::corrupt("a class has more than 8 bits"));
        }
        let exponent = r.u16()? as i16;
        let factor = f32::from_bits(r.u32()?);
        if !factor.is_finite() || exponent.unsigned_abs() > 126 {
            return Err(Error::corrupt("scale is not finite"));
        }
        let n = n_patches(target.n_rows, target.n_cols, p);
        let mut classes = vec![0; n];
        if n_classes > 1 {
            let width = class_bits(n_classes);
            let map = r.take((n * width as usize).div_ceil(8))?;
            pack::unpack(map, width, &mut classes);
        }
        let mut counts = [0usize; MAX_CLASSES];
        for class in &classes {
            if usize::from(*class) >= n_classes {
                return Err(Error::corrupt("a patch has a class that does not exist"));
            }
            counts[usize::from(*class)] += 1;
        }
        let kept = bits.iter().zip(counts).filter(|(b, _)| **b > 0);
        let n_kept = kept.map(|(_, n)| n).sum();
        let ranges = r.take(n_kept * 4)?;
        let mut streams = Vec::with_capacity(n_classes);
        for (b, count) in bits.iter().zip(counts) {
            let width = if *b == 0 { 0 } else { stored_bits(*b) as usize };
            streams.push(r.take(count * p * p * width / 8)?);
        }
        r.end()?;
        Ok(Self { p, bits, exponent, factor, classes, ranges, n_kept, streams })
    }

    fn range(&self, k: usize) -> Result<(f16, f16)> {
        let byte = |plane: usize| self.ranges[plane * self.n_kept + k];
        let range =
            (f16::from_le_bytes([byte(0), byte(1)]), f16::from_le_bytes([byte(2), byte(3)]));
        if range.0.is_finite() && range.1.is_finite() {
            return Ok(range);
        }
        Err(Error::corrupt("a patch range is not finite"))
    }
}

impl Codec for Patches {
    fn id(&self) -> CodecId {
        CodecId::Patches
    }

    fn max_len(&self, target: &Target) -> usize {
        let p = target.patch.max(1);
        let n = n_patches(target.n_rows, target.n_cols, p);
        2 + MAX_CLASSES + 6 + n + n * 4 + n * p * p
    }

    fn decode(
        &self,
        payload: &[u8],
        target: &Target,
        base: Option<Operand<'_>>,
        scratch: &mut Scratch,
        out: &mut [u8],
    ) -> Result<()> {
        let base = base.ok_or_else(|| Error::corrupt("patches without a base"))?;
        let mut payload = Payload::parse(payload, target)?;
        let (p, n_cols) = (payload.p, target.n_cols);
        let (area, across) = (p * p, n_cols.div_ceil(p));
        let dct = scratch.take_dct(p);
        scratch.codes.resize(area, 0);
        scratch.work.resize(area, 0.0);
        scratch.patches.resize(across * area, 0.0);
        let mut k = 0;
        for (s, rows) in strips(target.n_rows, p) {
            for (i, values) in scratch.patches.chunks_exact_mut(area).enumerate() {
                let class = usize::from(payload.classes[s * across + i]);
                let bits = payload.bits[class];
                if bits == 0 {
                    values.fill(0.0);
                    continue;
                }
                let width = stored_bits(bits);
                let (codes, rest) = payload.streams[class].split_at(area * width as usize / 8);
                payload.streams[class] = rest;
                pack::unpack(codes, width, &mut scratch.codes);
                let most = u8::MAX >> (MAX_BITS - bits);
                if width != u32::from(bits) && scratch.codes.iter().any(|c| *c > most) {
                    return Err(Error::corrupt("a code exceeds its bits"));
                }
                let range = payload.range(k)?;
                k += 1;
                restore_patch(
                    &dct,
                    payload.exponent,
                    range,
                    bits,
                    &scratch.codes,
                    values,
                    &mut scratch.work,
                );
            }
            scratch.strip.resize(rows.len() * n_cols, 0.0);
            patch::scatter(&scratch.patches, n_cols, rows.len(), p, &mut scratch.strip);
            scratch.strip.iter_mut().for_each(|v| *v *= payload.factor);
            target.add_rows(base, &rows, &mut scratch.strip, out);
        }
        scratch.give_dct(p, dct);
        Ok(())
    }

    fn parts(&self, payload: &[u8], target: &Target) -> Result<Parts> {
        let streams = Payload::parse(payload, target)?.streams;
        let codes = streams.iter().map(|s| s.len()).sum();
        Ok(vec![(Part::Scales, payload.len() - codes), (Part::Codes, codes)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::mask::MaskPlace;
    use crate::tensor::DType;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn parts_cover_the_payload(
            n_rows in 1usize..40,
            n_cols in 1usize..60,
            bits in prop::collection::vec(0u8..=MAX_BITS, 1..=MAX_CLASSES),
            seed in any::<u32>(),
        ) {
            let n = n_rows * n_cols;
            let ft: Vec<f32> = (0..n).map(|i| ((i as u32 ^ seed) as f32 * 0.37).sin()).collect();
            let bytes: Vec<u8> = ft.iter().flat_map(|v| v.to_le_bytes()).collect();
            let zeros = vec![0; bytes.len()];
            let operand = |bytes| Operand { dtype: DType::F32, bytes };
            let tile = DeltaTile { ft: operand(&bytes), base: operand(&zeros), n_rows, n_cols };
            let all = n_patches(n_rows, n_cols, 8) as u32;
            let classes: Vec<_> =
                (0..all).map(|i| (seed.wrapping_mul(i + 7) % bits.len() as u32) as u8).collect();
            let d = Decisions { p: 8, bits: &bits, classes: &classes, exponent: 4, factor: 1.0 };
            let mut payload = Vec::new();
            encode(&tile, &d, &mut Scratch::default(), &mut payload);
            let place = MaskPlace::default();
            let target = Target { dtype: DType::F32, n_rows, n_cols, patch: 8, place, gain: 1.0 };

            let parts = Patches.parts(&payload, &target).unwrap();
            prop_assert_eq!(parts.iter().map(|(_, n)| n).sum::<usize>(), payload.len());
            let codes: u32 = classes
                .iter()
                .map(|c| bits[usize::from(*c)])
                .map(|b| if b == 0 { 0 } else { stored_bits(b) * 8 })
                .sum();
            prop_assert_eq!(parts.last(), Some(&(Part::Codes, codes as usize)));
            let all_but_codes = parts.iter().rev().skip(1);
            prop_assert!(all_but_codes.into_iter().all(|p| p.0 == Part::Scales));
            prop_assert!(Patches.parts(&payload[..payload.len() - 1], &target).is_err());
        }
    }
}
