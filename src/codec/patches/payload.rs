//! A payload of patches taken apart, and restored block by block (FORMAT.md section 6.2).

use half::f16;

use crate::codec::patches::blocks::{Block, PatchScratch};
use crate::codec::patches::{MAX_BITS, MAX_CLASSES, SIDES, class_bits, n_patches, widen};
use crate::codec::{Operand, Target, stored_bits};
use crate::error::{Error, Result};
use crate::kernel::dct::Dct;
use crate::kernel::patch::{self, Deltas};
use crate::kernel::{pack, quantise};
use crate::wire::Reader;

/// A payload taken apart and found whole.
pub(super) struct Payload<'a> {
    pub(super) p: usize,
    bits: &'a [u8],
    exponent: i16,
    factor: f32,
    /// Byte planes of the kept patches' ranges, `n_kept` bytes each.
    ranges: &'a [u8],
    n_kept: usize,
    /// The code streams of the classes, in order.
    pub(super) streams: [&'a [u8]; MAX_CLASSES],
}

impl<'a> Payload<'a> {
    /// Takes a payload apart; the class of each patch goes to `classes`.
    pub(super) fn parse(payload: &'a [u8], target: &Target, classes: &mut Vec<u8>) -> Result<Self> {
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
        classes.clear();
        classes.resize(n, 0);
        if n_classes > 1 {
            let width = class_bits(n_classes);
            let map = r.take((n * width as usize).div_ceil(8))?;
            pack::unpack(map, width, classes);
        }
        let mut counts = [0usize; MAX_CLASSES];
        for class in classes.iter() {
            if usize::from(*class) >= n_classes {
                return Err(Error::corrupt("a patch has a class that does not exist"));
            }
            counts[usize::from(*class)] += 1;
        }
        let kept = bits.iter().zip(counts).filter(|(b, _)| **b > 0);
        let n_kept = kept.map(|(_, n)| n).sum();
        let ranges = r.take(n_kept * 4)?;
        let mut streams: [&[u8]; MAX_CLASSES] = [&[]; MAX_CLASSES];
        for (stream, (b, count)) in streams.iter_mut().zip(bits.iter().zip(counts)) {
            let width = if *b == 0 { 0 } else { stored_bits(*b) as usize };
            *stream = r.take(count * p * p * width / 8)?;
        }
        r.end()?;
        Ok(Self { p, bits, exponent, factor, ranges, n_kept, streams })
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

    /// Takes the codes of one patch from the front of its class's stream and widens them into `values`.
    fn dequantise(
        &mut self,
        class: usize,
        range: (f16, f16),
        codes: &mut [u8],
        values: &mut [f32],
    ) -> Result<()> {
        let bits = self.bits[class];
        let width = stored_bits(bits);
        let (packed, rest) = self.streams[class].split_at(values.len() * width as usize / 8);
        self.streams[class] = rest;
        pack::unpack(packed, width, codes);
        let most = u8::MAX >> (MAX_BITS - bits);
        if width != u32::from(bits) && codes.iter().any(|c| *c > most) {
            return Err(Error::corrupt("a code exceeds its bits"));
        }
        let (lo, hi) = widen(self.exponent, range);
        quantise::dequantise(codes, lo, hi, u32::from(bits), values);
        Ok(())
    }

    /// Restores one block; `k` counts the kept patches before it.
    pub(super) fn restore(
        &mut self,
        block: &Block,
        k: &mut usize,
        (target, base): (&Target, Operand<'_>),
        dct: &Dct,
        own: &mut PatchScratch,
        out: &mut [u8],
    ) -> Result<()> {
        let area = self.p * self.p;
        block.choose(self.bits, &own.classes, &mut own.chosen);
        own.values.resize(own.chosen.len() * area, 0.0);
        own.codes.resize(area, 0);
        own.work.resize(area, 0.0);
        for (values, &patch) in own.values.chunks_exact_mut(area).zip(&own.chosen) {
            let at = block.number + (patch - block.strip.patches.start) as usize;
            let range = self.range(*k)?;
            *k += 1;
            self.dequantise(usize::from(own.classes[at]), range, &mut own.codes, values)?;
        }
        dct.inverse_many(&mut own.values, &mut own.work);
        let part = block.rows.start * target.n_cols..block.rows.end * target.n_cols;
        let width = target.dtype.bits() / 8;
        patch::add_patches(
            base.part(&part),
            &block.strip,
            Deltas { chosen: &own.chosen, values: &own.values, scale: (self.factor, target.gain) },
            target.dtype,
            &mut out[part.start * width..part.end * width],
        );
        Ok(())
    }
}
