//! Tiles as bit planes of signs, each with one scale: 1 bit an entry and plane.
//!
//! Payload: number of planes, their scales, the planes (FORMAT.md section 6.3).

use crate::codec::delta::{DeltaTile, rows_in_cache, strips};
use crate::codec::{Codec, CodecId, Operand, Part, Parts, Scratch, Target};
use crate::error::{Error, Result};
use crate::kernel::{pack, quantise};
use crate::wire::{Reader, Writer};

/// Most planes a tile has.
pub(crate) const MAX_PLANES: usize = 8;

/// The codec of sign planes.
#[derive(Debug)]
pub(crate) struct Signs;

/// Takes `scale` times its own sign from each value, bit by bit of a plane: set where not negative.
fn take_plane(values: &mut [f32], scale: f32, bits: &mut Vec<u8>) {
    bits.clear();
    bits.extend(values.iter().map(|v| u8::from(*v >= 0.0)));
    for (value, bit) in values.iter_mut().zip(bits.iter()) {
        *value -= if *bit == 1 { scale } else { -scale };
    }
}

/// Sums of what the planes with these scales leave of a delta.
pub(crate) struct ResidualSums {
    pub(crate) sum_abs: f64,
    pub(crate) sum_squares: f64,
    pub(crate) along_sign: f64,
}

/// Sums over a tile: absolute residual, squared delta, delta times the residual's sign.
pub(crate) fn residual_sums(
    tile: &DeltaTile<'_>,
    scales: &[f32],
    scratch: &mut Scratch,
) -> ResidualSums {
    let mut sums = ResidualSums { sum_abs: 0.0, sum_squares: 0.0, along_sign: 0.0 };
    for rows in tile.cached_strips() {
        tile.rows(&rows, &mut scratch.strip);
        sums.sum_squares += quantise::sum_squares(&scratch.strip);
        if scales.is_empty() {
            let sum = quantise::sum_abs(&scratch.strip);
            sums.sum_abs += sum;
            sums.along_sign += sum;
            continue;
        }
        scratch.work.clear();
        scratch.work.extend_from_slice(&scratch.strip);
        for scale in scales {
            take_plane(&mut scratch.work, *scale, &mut scratch.codes);
        }
        sums.sum_abs += quantise::sum_abs(&scratch.work);
        // A plain sum in order, the same on every machine.
        let signed = scratch.strip.iter().zip(&scratch.work);
        let signed = signed.map(|(d, r)| f64::from(if *r >= 0.0 { *d } else { -*d }));
        sums.along_sign += signed.sum::<f64>();
    }
    sums
}

/// Appends the payload of a tile: signs against `scales`, decoded with each times `gain`.
pub(crate) fn encode(
    tile: &DeltaTile<'_>,
    scales: &[f32],
    gain: f32,
    scratch: &mut Scratch,
    out: &mut Vec<u8>,
) {
    let mut w = Writer(std::mem::take(out));
    w.u8(scales.len() as u8);
    scales.iter().for_each(|s| w.u32((s * gain).to_bits()));
    *out = w.0;
    let Scratch { strip, codes, planes, .. } = scratch;
    planes.resize(scales.len(), Vec::new());
    planes.iter_mut().for_each(Vec::clear);
    for rows in strips(tile.n_rows, rows_a_strip(tile.n_cols)).map(|s| s.1) {
        tile.rows(&rows, strip);
        for (scale, plane) in scales.iter().zip(&mut *planes) {
            take_plane(strip, *scale, codes);
            pack::pack(codes, 1, plane);
        }
    }
    planes.iter().for_each(|p| out.extend_from_slice(p));
}

/// Rows of a strip: a multiple of eight, so that every strip but the last fills whole bytes.
fn rows_a_strip(n_cols: usize) -> usize {
    rows_in_cache(n_cols).next_multiple_of(8)
}

impl Codec for Signs {
    fn id(&self) -> CodecId {
        CodecId::Signs
    }

    fn max_len(&self, target: &Target) -> usize {
        1 + MAX_PLANES * (4 + target.n_elements().div_ceil(8))
    }

    fn decode(
        &self,
        payload: &[u8],
        target: &Target,
        base: Option<Operand<'_>>,
        scratch: &mut Scratch,
        out: &mut [u8],
    ) -> Result<()> {
        let base = base.ok_or_else(|| Error::corrupt("signs without a base"))?;
        let mut r = Reader::new(payload);
        let n_planes = usize::from(r.u8()?);
        if !(1..=MAX_PLANES).contains(&n_planes) {
            return Err(Error::corrupt(format!("{n_planes} planes where 1 to 8 can be")));
        }
        let mut scales = [0f32; MAX_PLANES];
        for scale in &mut scales[..n_planes] {
            *scale = f32::from_bits(r.u32()?);
            if !scale.is_finite() {
                return Err(Error::corrupt("a scale is not finite"));
            }
        }
        let plane_len = target.n_elements().div_ceil(8);
        let planes = r.take(n_planes * plane_len)?;
        r.end()?;
        for (_, rows) in strips(target.n_rows, rows_a_strip(target.n_cols)) {
            let part = rows.start * target.n_cols..rows.end * target.n_cols;
            scratch.strip.clear();
            scratch.strip.resize(part.len(), 0.0);
            scratch.codes.resize(part.len(), 0);
            for (scale, plane) in scales.iter().zip(planes.chunks_exact(plane_len)) {
                let bytes = &plane[part.start / 8..part.end.div_ceil(8)];
                pack::unpack(bytes, 1, &mut scratch.codes);
                for (value, bit) in scratch.strip.iter_mut().zip(&scratch.codes) {
                    *value += if *bit == 1 { *scale } else { -*scale };
                }
            }
            target.add_rows(base, &rows, &mut scratch.strip, out);
        }
        Ok(())
    }

    fn parts(&self, payload: &[u8], target: &Target) -> Result<Parts> {
        let n_planes = payload.first().map_or(0, |n| usize::from(*n));
        let (scales, codes) = (1 + 4 * n_planes, n_planes * target.n_elements().div_ceil(8));
        if !(1..=MAX_PLANES).contains(&n_planes) || payload.len() != scales + codes {
            return Err(Error::corrupt("payload does not fit its tile"));
        }
        Ok(vec![(Part::Scales, scales), (Part::Codes, codes)])
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
        fn planes_come_back(
            n_rows in 1usize..40,
            n_cols in 1usize..90,
            scales in prop::collection::vec(0.01f32..1.0, 1..=8),
            seed in any::<u32>(),
        ) {
            let n = n_rows * n_cols;
            let ft: Vec<f32> = (0..n).map(|i| ((i as u32 ^ seed) as f32 * 0.37).sin()).collect();
            let bytes: Vec<u8> = ft.iter().flat_map(|v| v.to_le_bytes()).collect();
            let zeros = vec![0; bytes.len()];
            let operand = |bytes| Operand { dtype: DType::F32, bytes };
            let tile = DeltaTile { ft: operand(&bytes), base: operand(&zeros), n_rows, n_cols };
            let (mut scratch, mut payload) = (Scratch::default(), Vec::new());
            encode(&tile, &scales, 2.0, &mut scratch, &mut payload);
            let place = MaskPlace::default();
            let target = Target { dtype: DType::F32, n_rows, n_cols, patch: 1, place, gain: 1.0 };
            prop_assert!(payload.len() <= Signs.max_len(&target));
            let mut out = vec![0; bytes.len()];
            let base = Some(operand(&zeros[..]));
            Signs.decode(&payload, &target, base, &mut scratch, &mut out).unwrap();
            for (x, y) in ft.iter().zip(out.as_chunks::<4>().0) {
                let (mut rest, mut expected) = (*x, 0.0);
                for s in &scales {
                    let step = if rest >= 0.0 { *s } else { -*s };
                    rest -= step;
                    expected += if step >= 0.0 { 2.0 * s } else { -2.0 * s };
                }
                prop_assert_eq!(f32::from_le_bytes(*y), expected);
            }
            prop_assert!(Signs.decode(&payload[1..], &target, base, &mut scratch, &mut out).is_err());
            let codes = scales.len() * n.div_ceil(8);
            let parts = [(Part::Scales, payload.len() - codes), (Part::Codes, codes)];
            prop_assert_eq!(Signs.parts(&payload, &target).unwrap(), parts);
            prop_assert!(Signs.parts(&payload[..payload.len() - 1], &target).is_err());
        }
    }
}
