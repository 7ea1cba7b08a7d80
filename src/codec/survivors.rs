//! Tiles as the 16-bit values of a random share of their entries; the positions are drawn again.
//!
//! Payload: keep rate, exponent, factor, then the values as byte planes (FORMAT.md section 6.4).

use crate::codec::delta::{DeltaTile, rows_in_cache, strips};
use crate::codec::mask::{self, CHANCES, MaskPlace};
use crate::codec::{Codec, CodecId, Operand, Part, Parts, Scratch, Target, power_of_two};
use crate::error::{Error, Result};
use crate::kernel::{convert, quantise};
use crate::tensor::DType;
use crate::wire::{Reader, Writer};

/// Bytes of a payload before its values.
const SETTINGS: usize = 8;

/// Greatest exponent of a tile's power of two, on either side of 1.
const MOST_EXPONENT: i16 = 100;

/// The codec of seeded survivors.
#[derive(Debug)]
pub(crate) struct Survivors;

/// What a method decided.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Decisions {
    /// How many of [`CHANCES`] entries survive, 1 to 65,535.
    pub(crate) keep: u16,
    /// What a survivor is multiplied by when it is decoded.
    pub(crate) factor: f32,
}

/// Appends the payload of a tile; `None` if its delta is not finite, or too large to be multiplied.
pub(crate) fn encode(
    tile: &DeltaTile<'_>,
    place: MaskPlace,
    d: Decisions,
    scratch: &mut Scratch,
    out: &mut Vec<u8>,
) -> Option<()> {
    let exponent = exponent_of(tile, d.factor, scratch)?;
    let down = power_of_two(-exponent);
    let Scratch { strip, work, bytes, draws, positions, .. } = scratch;
    work.clear();
    for rows in tile.cached_strips() {
        tile.rows(&rows, strip);
        for (row, values) in rows.zip(strip.chunks_exact(tile.n_cols)) {
            mask::survivors(place, row, d.keep, draws, tile.n_cols, positions);
            work.extend(positions.iter().map(|i| values[*i as usize] * down));
        }
    }
    let mut w = Writer(std::mem::take(out));
    w.u16(d.keep);
    w.u16(exponent as u16);
    w.u32(d.factor.to_bits());
    *out = w.0;
    bytes.resize(work.len() * 2, 0);
    convert::from_f32(DType::F16, work, bytes);
    for byte in 0..2 {
        out.extend(bytes.as_chunks::<2>().0.iter().map(|half| half[byte]));
    }
    Some(())
}

/// The power of two that brings the tile's values within half precision's best range; `None` if one
/// is not finite, or is not once it is multiplied.
fn exponent_of(tile: &DeltaTile<'_>, factor: f32, scratch: &mut Scratch) -> Option<i16> {
    let (mut most, mut sum) = (0f32, 0.0);
    for rows in tile.cached_strips() {
        tile.rows(&rows, &mut scratch.strip);
        let (lo, hi) = quantise::min_max(&scratch.strip);
        most = most.max(hi).max(-lo);
        sum += quantise::sum_abs(&scratch.strip);
    }
    // Values end up below 2^15, well inside the range of f16.
    let exponent = (most.to_bits() >> 23) as i16 - 127 - 14;
    if !f64::is_finite(sum) || exponent > MOST_EXPONENT || !f32::is_finite(2.0 * most * factor) {
        return None;
    }
    Some(if most == 0.0 { 0 } else { exponent.max(-MOST_EXPONENT) })
}

impl Codec for Survivors {
    fn id(&self) -> CodecId {
        CodecId::Survivors
    }

    fn max_len(&self, target: &Target) -> usize {
        SETTINGS + 2 * target.n_elements()
    }

    fn decode(
        &self,
        payload: &[u8],
        target: &Target,
        base: Option<Operand<'_>>,
        scratch: &mut Scratch,
        out: &mut [u8],
    ) -> Result<()> {
        let base = base.ok_or_else(|| Error::corrupt("survivors without a base"))?;
        let mut r = Reader::new(payload);
        let (keep, exponent, factor) = (r.u16()?, r.u16()? as i16, f32::from_bits(r.u32()?));
        if keep == 0 || exponent.unsigned_abs() > 126 || !factor.is_finite() {
            return Err(Error::corrupt("keep rate or scale is out of range"));
        }
        let values = r.rest();
        let n_kept = values.len() / 2;
        let (low, high) = values.split_at(n_kept);
        let up = power_of_two(exponent) * factor;
        let Scratch { strip, work, bytes, draws, positions, .. } = scratch;
        bytes.clear();
        bytes.extend(low.iter().zip(high).flat_map(|(low, high)| [*low, *high]));
        work.resize(n_kept, 0.0);
        convert::to_f32(DType::F16, bytes, work);
        if !quantise::sum_abs(work).is_finite() {
            return Err(Error::corrupt("a stored value is not finite"));
        }
        let mut left = work.as_slice();
        for (_, rows) in strips(target.n_rows, rows_in_cache(target.n_cols)) {
            strip.clear();
            strip.resize(rows.len() * target.n_cols, 0.0);
            for (row, delta) in rows.clone().zip(strip.chunks_exact_mut(target.n_cols)) {
                mask::survivors(target.place, row, keep, draws, target.n_cols, positions);
                let (here, later) = left
                    .split_at_checked(positions.len())
                    .ok_or_else(|| Error::corrupt("fewer values than the mask keeps"))?;
                for (i, value) in positions.iter().zip(here) {
                    delta[*i as usize] = value * up;
                }
                left = later;
            }
            target.add_rows(base, &rows, strip, out);
        }
        if !left.is_empty() || !values.len().is_multiple_of(2) {
            return Err(Error::corrupt("more values than the mask keeps"));
        }
        Ok(())
    }

    fn parts(&self, payload: &[u8], target: &Target) -> Result<Parts> {
        let values = payload.len().checked_sub(SETTINGS);
        let fits = |n: &usize| n.is_multiple_of(2) && *n <= 2 * target.n_elements();
        match values.filter(fits) {
            Some(n) => Ok(vec![(Part::Scales, SETTINGS), (Part::Codes, n)]),
            None => Err(Error::corrupt("payload does not fit its tile")),
        }
    }
}

/// The keep rate nearest to `share` of all entries, and the factor that makes it unbiased.
pub(crate) fn keep_rate(share: f64) -> Decisions {
    let most = f64::from(CHANCES - 1);
    let keep = (share * f64::from(CHANCES)).round_ties_even().clamp(1.0, most) as u16;
    Decisions { keep, factor: CHANCES as f32 / f32::from(keep) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::DType;

    #[test]
    fn survivors_come_back_scaled_and_the_rest_is_the_base() {
        let (n_rows, n_cols) = (30, 70);
        let ft: Vec<f32> = (1..=n_rows * n_cols).map(|i| (i as f32 * 0.37).sin()).collect();
        let bytes: Vec<u8> = ft.iter().flat_map(|v| v.to_le_bytes()).collect();
        let zeros = vec![0; bytes.len()];
        let operand = |bytes| Operand { dtype: DType::F32, bytes };
        let tile = DeltaTile { ft: operand(&bytes), base: operand(&zeros), n_rows, n_cols };
        let place = MaskPlace { key: 3, first_row: 11 };
        let d = keep_rate(0.25);
        let (mut scratch, mut payload) = (Scratch::default(), Vec::new());
        encode(&tile, place, d, &mut scratch, &mut payload).unwrap();
        let target = Target { dtype: DType::F32, n_rows, n_cols, patch: 1, place, gain: 1.0 };
        let mut out = vec![0; bytes.len()];
        let base = Some(operand(&zeros[..]));
        Survivors.decode(&payload, &target, base, &mut scratch, &mut out).unwrap();
        let mut kept = 0;
        for (x, y) in ft.iter().zip(out.as_chunks::<4>().0) {
            let y = f32::from_le_bytes(*y);
            if y != 0.0 {
                assert!((y - 4.0 * x).abs() <= 2e-3, "{x} {y}");
                kept += 1;
            }
        }
        assert_eq!(payload.len(), 8 + 2 * kept);
        let parts = [(Part::Scales, 8), (Part::Codes, 2 * kept)];
        assert_eq!(Survivors.parts(&payload, &target).unwrap(), parts);
        assert!(Survivors.parts(&payload[1..], &target).is_err());
        assert!(Survivors.parts(&payload[..7], &target).is_err());
        assert!((400..650).contains(&kept), "{kept}");
        for large in [1e38f32, f32::MAX] {
            let huge: Vec<u8> = ft.iter().flat_map(|v| (v * large).to_le_bytes()).collect();
            let zeros = vec![0; huge.len()];
            let (ft, base) =
                [&huge, &zeros].map(|bytes| Operand { dtype: DType::F32, bytes }).into();
            let tile = DeltaTile { ft, base, n_rows, n_cols };
            assert!(encode(&tile, place, d, &mut scratch, &mut Vec::new()).is_none(), "{large}");
        }
        for bad in [&payload[..9], &payload[..payload.len() - 2], &[0; 8]] {
            assert!(Survivors.decode(bad, &target, base, &mut scratch, &mut out).is_err());
        }
    }
}
