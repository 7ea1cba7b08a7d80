//! Tiles as quantised DCT patches of mixed bit widths.
//!
//! A payload decodes alone: it holds its class map, the range of every kept patch, the packed codes
//! and the factor of its matrix. Byte layout: FORMAT.md section 6.2.

mod blocks;
mod payload;

use half::f16;

use crate::codec::delta::DeltaTile;
use crate::codec::patches::blocks::{Block, blocks};
use crate::codec::patches::payload::Payload;
use crate::codec::{
    Codec, CodecId, Operand, Part, Parts, Scratch, Target, power_of_two, stored_bits,
};
use crate::error::{Error, Result};
use crate::kernel::dct::Dct;
use crate::kernel::{pack, quantise};
use crate::wire::Writer;

pub(crate) use crate::codec::patches::blocks::PatchScratch;

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

/// Sum of squares of every patch, whose root ranks alike, and the sum of absolute
/// values (E8).
pub(crate) fn scores(tile: &DeltaTile<'_>, p: usize, scratch: &mut Scratch) -> (Vec<f64>, f64) {
    let PatchScratch { values, chosen, .. } = &mut scratch.patch;
    let mut scores = Vec::with_capacity(n_patches(tile.n_rows, tile.n_cols, p));
    let mut sum_abs = 0.0;
    for block in blocks(tile.n_rows, tile.n_cols, p) {
        chosen.clear();
        chosen.extend(block.strip.patches.clone());
        block.gather(tile, chosen, values);
        sum_abs += quantise::sum_abs(values);
        scores.extend(values.chunks_exact(p * p).map(quantise::sum_squares));
    }
    (scores, sum_abs)
}

/// Transforms and quantises the kept patches of each block, and shows `then` the block with their
/// ranges and codes; the values are free to be overwritten.
fn each_quantised(
    tile: &DeltaTile<'_>,
    d: &Decisions<'_>,
    scratch: &mut Scratch,
    mut then: impl FnMut(&Block, &Dct, &mut PatchScratch),
) {
    let dct = scratch.take_dct(d.p);
    let area = d.p * d.p;
    for block in blocks(tile.n_rows, tile.n_cols, d.p) {
        let own = &mut scratch.patch;
        block.choose(d.bits, d.classes, &mut own.chosen);
        block.gather(tile, &own.chosen, &mut own.values);
        own.work.resize(area, 0.0);
        own.codes.resize(own.values.len(), 0);
        own.ranges.clear();
        dct.forward_many(&mut own.values, &mut own.work);
        let patches = own.values.chunks_exact(area).zip(own.codes.chunks_exact_mut(area));
        for ((values, codes), &k) in patches.zip(&own.chosen) {
            let (_, bits) = block.bits(d, k);
            own.ranges.push(quantise_patch(d.exponent, bits, values, codes));
        }
        then(&block, &dct, own);
    }
    scratch.give_dct(d.p, dct);
}

/// Appends the payload of this tile, and returns the sum of absolute values of what it decodes to, before the
/// factor.
pub(crate) fn encode_and_measure(
    tile: &DeltaTile<'_>,
    d: &Decisions<'_>,
    scratch: &mut Scratch,
    out: &mut Vec<u8>,
) -> f64 {
    let area = d.p * d.p;
    let mut sum = 0.0;
    encode_with(tile, d, scratch, out, |block, dct, own| {
        let patches = own.values.chunks_exact_mut(area).zip(own.codes.chunks_exact(area));
        for ((values, codes), (&range, &k)) in patches.zip(own.ranges.iter().zip(&own.chosen)) {
            let (lo, hi) = widen(d.exponent, range);
            quantise::dequantise(codes, lo, hi, u32::from(block.bits(d, k).1), values);
        }
        dct.inverse_many(&mut own.values, &mut own.work);
        block.clear_margin(&own.chosen, &mut own.values);
        sum += quantise::sum_abs(&own.values);
    });
    sum
}

/// Appends a payload of [`encode_and_measure`] with the factor of these decisions.
pub(crate) fn with_factor(payload: &[u8], d: &Decisions<'_>, out: &mut Vec<u8>) {
    let at = out.len() + factor_at(d);
    out.extend(payload);
    if let Some(factor) = out.get_mut(at..at + 4) {
        factor.copy_from_slice(&d.factor.to_bits().to_le_bytes());
    }
}

/// Where the factor stands in a payload.
fn factor_at(d: &Decisions<'_>) -> usize {
    2 + d.bits.len() + 2
}

/// Appends the payload of this tile.
pub(crate) fn encode(
    tile: &DeltaTile<'_>,
    d: &Decisions<'_>,
    scratch: &mut Scratch,
    out: &mut Vec<u8>,
) {
    encode_with(tile, d, scratch, out, |_, _, _| ());
}

/// The same, and shows `then` each block with its ranges and codes; the values are free to be overwritten.
fn encode_with(
    tile: &DeltaTile<'_>,
    d: &Decisions<'_>,
    scratch: &mut Scratch,
    out: &mut Vec<u8>,
    mut then: impl FnMut(&Block, &Dct, &mut PatchScratch),
) {
    let area = d.p * d.p;
    let own = &mut scratch.patch;
    let (mut ranges, mut streams) =
        (std::mem::take(&mut own.tile_ranges), std::mem::take(&mut own.streams));
    ranges.clear();
    streams.resize(d.bits.len(), Vec::new());
    streams.iter_mut().for_each(Vec::clear);
    each_quantised(tile, d, scratch, |block, dct, own| {
        ranges.extend(&own.ranges);
        for (codes, &k) in own.codes.chunks_exact(area).zip(&own.chosen) {
            let (class, bits) = block.bits(d, k);
            pack::pack(codes, stored_bits(bits), &mut streams[class]);
        }
        then(block, dct, own);
    });
    write_payload(d, &ranges, &streams, out);
    (scratch.patch.tile_ranges, scratch.patch.streams) = (ranges, streams);
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

/// Quantises a patch between its own extremes, narrowed outwards to f16 so that no coefficient falls
/// outside.
fn quantise_patch(exponent: i16, bits: u8, values: &[f32], codes: &mut [u8]) -> (f16, f16) {
    let (lo, hi) = quantise::min_max(values);
    let down = power_of_two(-exponent);
    let range = (quantise::f16_at_most(lo * down), quantise::f16_at_least(hi * down));
    let (lo, hi) = widen(exponent, range);
    quantise::quantise(values, lo, hi, u32::from(bits), codes);
    range
}

fn widen(exponent: i16, range: (f16, f16)) -> (f32, f32) {
    let up = power_of_two(exponent);
    (range.0.to_f32() * up, range.1.to_f32() * up)
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
        let mut own = std::mem::take(&mut scratch.patch);
        let parsed = Payload::parse(payload, target, &mut own.classes);
        let decoded = parsed.and_then(|mut payload| {
            let dct = scratch.take_dct(payload.p);
            let mut k = 0;
            let done = blocks(target.n_rows, target.n_cols, payload.p).try_for_each(|block| {
                payload.restore(&block, &mut k, (target, base), &dct, &mut own, out)
            });
            scratch.give_dct(payload.p, dct);
            done
        });
        scratch.patch = own;
        decoded
    }

    fn parts(&self, payload: &[u8], target: &Target) -> Result<Parts> {
        let streams = Payload::parse(payload, target, &mut Vec::new())?.streams;
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
            // The factor alone is not known when a tile is measured.
            let (mut before, mut after) = (Vec::new(), vec![7]);
            encode_and_measure(&tile, &Decisions { factor: 0.5, ..d }, &mut Scratch::default(), &mut before);
            with_factor(&before, &d, &mut after);
            prop_assert!(before != payload && after[1..] == payload);
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
