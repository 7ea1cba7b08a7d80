//! Bit-exact tiles: equal to the base, differences against it, or whole, as byte planes.
//!
//! Payload: one mode byte, then the planes (FORMAT.md section 6.1).

use crate::codec::{Codec, CodecId, Operand, Part, Parts, Scratch, Target};
use crate::error::{Error, Result};
use crate::kernel::convert;
use crate::kernel::planes::{self, Lane};
use crate::tensor::DType;

const EQUAL: u8 = 0;
const DIFFERENCE: u8 = 1;
const SPLIT: u8 = 2;

/// The codec of lossless tiles.
#[derive(Debug)]
pub(crate) struct Planes;

/// The payload of a tile that equals its base.
pub(crate) fn encode_equal(out: &mut Vec<u8>) {
    out.push(EQUAL);
}

/// Appends the payload of `tile` as differences against `base`, which has the tile's dtype.
/// `sorted` is working space of as many bytes.
pub(crate) fn encode_difference(
    tile: Operand<'_>,
    base: &[u8],
    sorted: &mut Vec<u8>,
    out: &mut Vec<u8>,
) {
    out.push(DIFFERENCE);
    let start = out.len();
    out.resize(start + tile.bytes.len(), 0);
    planes::difference(tile.bytes, base, Lane::of(tile.dtype), sorted, &mut out[start..]);
}

/// Appends the payload of `tile` without a base.
pub(crate) fn encode_split(tile: Operand<'_>, out: &mut Vec<u8>) {
    out.push(SPLIT);
    let start = out.len();
    out.resize(start + tile.bytes.len(), 0);
    planes::split(tile.bytes, Lane::of(tile.dtype), &mut out[start..]);
}

/// The base's bytes in the fine-tune's dtype: converted, rounding half to even, where they differ.
pub(crate) fn base_as<'a>(base: Operand<'a>, dtype: DType, buffer: &'a mut Vec<u8>) -> &'a [u8] {
    if base.dtype == dtype {
        return base.bytes;
    }
    let n = base.bytes.len() * 8 / base.dtype.bits();
    buffer.clear();
    buffer.resize(n * dtype.bits() / 8, 0);
    convert::recode((base.dtype, base.bytes), dtype, buffer);
    buffer
}

impl Codec for Planes {
    fn id(&self) -> CodecId {
        CodecId::Planes
    }

    fn max_len(&self, target: &Target) -> usize {
        1 + target.n_bytes()
    }

    fn decode(
        &self,
        payload: &[u8],
        target: &Target,
        base: Option<Operand<'_>>,
        scratch: &mut Scratch,
        out: &mut [u8],
    ) -> Result<()> {
        let (mode, body) = payload.split_first().ok_or_else(|| Error::corrupt("empty payload"))?;
        let lane = Lane::of(target.dtype);
        let base = base.map(|b| base_as(b, target.dtype, &mut scratch.bytes));
        match (*mode, base) {
            (EQUAL, Some(base)) if body.is_empty() && base.len() == out.len() => {
                out.copy_from_slice(base);
            }
            (DIFFERENCE, Some(base)) if body.len() == out.len() && base.len() == out.len() => {
                planes::undo_difference(body, base, lane, &mut scratch.sorted, out);
            }
            (SPLIT, _) if body.len() == out.len() => planes::merge(body, lane, out),
            _ => return Err(Error::corrupt("payload does not fit its tile")),
        }
        Ok(())
    }

    /// All codes, the mode byte too: the tile is kept exactly, whatever its tensor's method.
    fn parts(&self, payload: &[u8], target: &Target) -> Result<Parts> {
        let n = match payload.first() {
            Some(&EQUAL) => 1,
            Some(&DIFFERENCE | &SPLIT) => 1 + target.n_bytes(),
            _ => 0,
        };
        if n == 0 || payload.len() != n {
            return Err(Error::corrupt("payload does not fit its tile"));
        }
        Ok(vec![(Part::Codes, n)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::mask::MaskPlace;
    use proptest::prelude::*;

    fn target(dtype: DType, n: usize) -> Target {
        let n_cols = n / dtype.lane_bytes();
        Target { dtype, n_rows: 1, n_cols, patch: 0, place: MaskPlace::default(), gain: 1.0 }
    }

    fn parts(dtype: DType, payload: &[u8], n: usize) -> Result<Parts> {
        Planes.parts(payload, &target(dtype, n))
    }

    fn decode(
        dtype: DType,
        payload: &[u8],
        base: Option<Operand<'_>>,
        n: usize,
    ) -> Result<Vec<u8>> {
        let target = target(dtype, n);
        let mut out = vec![0; target.n_bytes()];
        Planes.decode(payload, &target, base, &mut Scratch::default(), &mut out)?;
        Ok(out)
    }

    proptest! {
        #[test]
        fn every_dtype_comes_back_bit_for_bit(
            code in 1u8..=22,
            ft in prop::collection::vec(any::<u8>(), 0..400),
            base in prop::collection::vec(any::<u8>(), 400),
        ) {
            let dtype = DType::from_code(code).unwrap();
            let n = ft.len() / dtype.lane_bytes() * dtype.lane_bytes();
            let (ft, base) = (&ft[..n], Operand { dtype, bytes: &base[..n] });
            let tile = Operand { dtype, bytes: ft };
            let mut payload = Vec::new();
            encode_difference(tile, base.bytes, &mut Vec::new(), &mut payload);
            prop_assert!(payload.len() <= 1 + n);
            prop_assert_eq!(parts(dtype, &payload, n).unwrap(), [(Part::Codes, 1 + n)]);
            prop_assert!(parts(dtype, &payload, n + dtype.lane_bytes()).is_err());
            prop_assert_eq!(&decode(dtype, &payload, Some(base), n).unwrap(), ft);
            payload.clear();
            encode_split(tile, &mut payload);
            prop_assert_eq!(&decode(dtype, &payload, None, n).unwrap(), ft);
        }

        #[test]
        fn a_base_of_another_dtype_is_converted_alike_both_ways(
            bits in prop::collection::vec(any::<u32>(), 64),
            noise in prop::collection::vec(any::<u8>(), 128),
        ) {
            let base: Vec<u8> = bits.iter().flat_map(|b| b.to_le_bytes()).collect();
            let base = Operand { dtype: DType::F32, bytes: &base };
            let tile = Operand { dtype: DType::BF16, bytes: &noise };
            let (mut buffer, mut payload) = (Vec::new(), Vec::new());
            let converted = base_as(base, DType::BF16, &mut buffer);
            encode_difference(tile, converted, &mut Vec::new(), &mut payload);
            prop_assert_eq!(decode(DType::BF16, &payload, Some(base), 128).unwrap(), noise);
        }
    }

    #[test]
    fn payloads_that_do_not_fit_are_corrupt() {
        let base = Operand { dtype: DType::F32, bytes: &[0; 8] };
        for (payload, base) in [
            (&[][..], Some(base)),
            (&[EQUAL][..], None),
            (&[EQUAL, 0][..], Some(base)),
            (&[DIFFERENCE, 0, 0][..], Some(base)),
            (&[SPLIT][..], None),
            (&[9, 0, 0, 0, 0, 0, 0, 0, 0][..], Some(base)),
        ] {
            assert!(decode(DType::F32, payload, base, 8).is_err(), "{payload:?}");
        }
        assert_eq!(parts(DType::F32, &[EQUAL], 8).unwrap(), [(Part::Codes, 1)]);
        for payload in [&[][..], &[EQUAL, 0], &[SPLIT], &[9, 0, 0, 0, 0, 0, 0, 0, 0]] {
            assert!(parts(DType::F32, payload, 8).is_err(), "{payload:?}");
        }
    }
}
