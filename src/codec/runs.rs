//! Tiles as quantised survivors: the runs of zeros between them Rice coded, their codes entropy coded
//! (UltraDelta's storage, arXiv 2505.13563, with the codes' entropy taken out as well).
//!
//! Payload: settings, counts, the runs, the codes (FORMAT.md section 6.6).

use crate::codec::delta::{rows_in_cache, strips};
use crate::codec::{Codec, CodecId, Operand, Part, Parts, Scratch, Target};
use crate::error::{Error, Result};
use crate::kernel::{rans, rice};
use crate::wire::{Reader, Writer};

/// Bytes before the two streams.
const HEADER: usize = 1 + 3 * 4 + 1 + 2 * 4;

/// The codec of survivors in runs.
#[derive(Debug)]
pub(crate) struct Runs;

/// How survivors are quantised and their runs coded.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Decisions {
    /// Bits of a code, 1 to 8.
    pub(crate) bits: u8,
    /// Value of code 0, finite.
    pub(crate) low: f32,
    /// Value of the greatest code, finite.
    pub(crate) high: f32,
    /// What a survivor is multiplied by when it is decoded, finite.
    pub(crate) factor: f32,
    /// Rice parameter of the runs, at most [`rice::MAX_PARAMETER`].
    pub(crate) rice: u32,
}

impl Decisions {
    fn read(r: &mut Reader<'_>) -> Result<Self> {
        let bits = r.u8()?;
        let mut float = || r.u32().map(f32::from_bits);
        let (low, high, factor) = (float()?, float()?, float()?);
        let d = Self { bits, low, high, factor, rice: u32::from(r.u8()?) };
        let finite = [low, high, factor].iter().all(|v| v.is_finite());
        if !(1..=8).contains(&bits) || !finite || d.rice > rice::MAX_PARAMETER {
            return Err(Error::corrupt("settings of runs are out of range"));
        }
        Ok(d)
    }

    fn greatest_code(&self) -> u8 {
        u8::MAX >> (8 - self.bits)
    }
}

/// What a survivor with this code, at most 2^bits - 1, adds to the base.
pub(crate) fn level(d: &Decisions, code: u8) -> f32 {
    let (low, high) = (f64::from(d.low), f64::from(d.high));
    let share = f64::from(code) / f64::from(d.greatest_code());
    ((share * (high - low) + low) * f64::from(d.factor)) as f32
}

/// Appends the payload of a tile that has a survivor with each of `codes` at each of `positions`,
/// which count row by row and ascend. `runs` is working space.
pub(crate) fn encode(
    d: &Decisions,
    positions: &[u32],
    codes: &[u8],
    runs: &mut Vec<u8>,
    out: &mut Vec<u8>,
) {
    debug_assert!(positions.len() == codes.len());
    runs.clear();
    rice::encode(positions, d.rice, runs);
    let mut w = Writer(std::mem::take(out));
    w.u8(d.bits);
    [d.low, d.high, d.factor].iter().for_each(|v| w.u32(v.to_bits()));
    w.u8(d.rice as u8);
    w.u32(positions.len() as u32);
    w.u32(runs.len() as u32);
    *out = w.0;
    out.extend_from_slice(runs);
    rans::encode(codes, out);
}

impl Codec for Runs {
    fn id(&self) -> CodecId {
        CodecId::Runs
    }

    fn max_len(&self, target: &Target) -> usize {
        let n = target.n_elements();
        HEADER + rice::max_len(n) + rans::max_len(n)
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
        let d = Decisions::read(&mut r)?;
        let (n, runs) = (r.u32()? as usize, r.bytes()?);
        // The runs are held to the tile first, so that no more codes are made than it has entries.
        let limit = u32::try_from(target.n_elements()).unwrap_or(u32::MAX);
        let Scratch { positions, codes, strip, .. } = scratch;
        positions.clear();
        if !rice::decode(runs, d.rice, n, limit, positions) {
            return Err(Error::corrupt("runs do not give the tile's survivors"));
        }
        if !rans::decode(r.rest(), n, codes) || codes.iter().any(|c| *c > d.greatest_code()) {
            return Err(Error::corrupt("codes of survivors are not those of the tile"));
        }
        let mut levels = [0.0; 256];
        for (code, value) in (0..=d.greatest_code()).zip(&mut levels) {
            *value = level(&d, code);
        }
        let (mut positions, mut codes) = (&positions[..], &codes[..]);
        for (_, rows) in strips(target.n_rows, rows_in_cache(target.n_cols)) {
            let part = rows.start * target.n_cols..rows.end * target.n_cols;
            strip.clear();
            strip.resize(part.len(), 0.0);
            let inside = positions.partition_point(|p| (*p as usize) < part.end);
            let (here, later) = positions.split_at(inside);
            let (codes_here, codes_later) = codes.split_at(inside);
            for (position, code) in here.iter().zip(codes_here) {
                strip[*position as usize - part.start] = levels[usize::from(*code)];
            }
            (positions, codes) = (later, codes_later);
            target.add_rows(base, &rows, strip, out);
        }
        Ok(())
    }

    fn parts(&self, payload: &[u8], _target: &Target) -> Result<Parts> {
        let mut r = Reader::new(payload);
        Decisions::read(&mut r)?;
        r.u32()?;
        let runs = r.bytes()?.len();
        let codes = r.rest().len();
        // The length of the runs belongs to them.
        Ok(vec![(Part::Scales, HEADER - 4), (Part::Positions, 4 + runs), (Part::Codes, codes)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::mask::MaskPlace;
    use crate::error::ErrorKind;
    use crate::tensor::DType;
    use proptest::prelude::*;

    const SIZE: (usize, usize) = (37, 530);
    const D: Decisions = Decisions { bits: 4, low: -0.5, high: 0.75, factor: 20.0, rice: 4 };

    /// About one entry of 33 survives; with codes of this many bits.
    fn survivors(bits: u8) -> (Vec<u32>, Vec<u8>) {
        let n = (SIZE.0 * SIZE.1) as u32;
        let hash = |i: u32| (i ^ i >> 7).wrapping_mul(0x9e37_79b1) >> 8;
        let positions: Vec<u32> = (0..n).filter(|i| hash(*i) % 33 == 5).collect();
        let codes = positions.iter().map(|p| (hash(*p) >> 12) as u8 >> (8 - bits)).collect();
        (positions, codes)
    }

    fn target((n_rows, n_cols): (usize, usize)) -> Target {
        let place = MaskPlace::default();
        Target { dtype: DType::F32, n_rows, n_cols, patch: 1, place, gain: 1.0 }
    }

    /// The restored tile on a base of ones.
    fn decode(payload: &[u8], size: (usize, usize)) -> Result<Vec<f32>> {
        let target = target(size);
        let ones = 1f32.to_le_bytes().repeat(target.n_elements());
        let base = Operand { dtype: DType::F32, bytes: &ones };
        let mut out = vec![0; ones.len()];
        Runs.decode(payload, &target, Some(base), &mut Scratch::default(), &mut out)?;
        Ok(out.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect())
    }

    fn encoded(d: &Decisions, positions: &[u32], codes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        encode(d, positions, codes, &mut Vec::new(), &mut out);
        out
    }

    #[track_caller]
    fn refused(payload: &[u8], size: (usize, usize)) {
        assert_eq!(decode(payload, size).unwrap_err().kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn levels_reach_from_low_to_high_and_are_rounded_once() {
        assert_eq!([level(&D, 0), level(&D, 15)], [-10.0, 15.0]);
        assert_eq!(level(&D, 6), 0.0);
        let d = Decisions { bits: 2, low: 0.1, high: 0.2, factor: 3.0, rice: 0 };
        let want = (1.0 / 3.0 * (f64::from(0.2f32) - f64::from(0.1f32)) + f64::from(0.1f32)) * 3.0;
        assert_eq!(level(&d, 1), want as f32);
    }

    #[test]
    fn survivors_come_back_and_the_rest_is_the_base() {
        let (positions, codes) = survivors(4);
        let payload = encoded(&D, &positions, &codes);
        let mut want = vec![1.0; SIZE.0 * SIZE.1];
        for (position, code) in positions.iter().zip(&codes) {
            want[*position as usize] = 1.0 + level(&D, *code);
        }
        assert_eq!(decode(&payload, SIZE).unwrap(), want);
        // 6.7 bits a run and 4 a code, with 22 bytes before, 30 of table and 16 of states.
        let bits = 8 * (payload.len() - 68) / positions.len();
        assert!(positions.len() > 500 && bits < 11, "{bits} bits a survivor");
        assert_eq!(decode(&encoded(&D, &[], &[]), SIZE).unwrap(), vec![1.0; want.len()]);
    }

    #[test]
    fn settings_and_counts_out_of_range_are_refused() {
        let (positions, codes) = survivors(4);
        let payload = encoded(&D, &positions, &codes);
        let with = |at: usize, bytes: &[u8]| {
            let mut wrong = payload.clone();
            wrong[at..at + bytes.len()].copy_from_slice(bytes);
            wrong
        };
        for bits in [0, 3, 9, 255] {
            refused(&with(0, &[bits]), SIZE);
        }
        for (at, value) in [(1, f32::NAN), (5, f32::INFINITY), (9, f32::NEG_INFINITY)] {
            refused(&with(at, &value.to_le_bytes()), SIZE);
        }
        for rice in [3, 5, 25, 255] {
            refused(&with(13, &[rice]), SIZE);
        }
        for (at, n) in [(14, positions.len() as u32), (18, payload.len() as u32 - 22)] {
            for wrong in [0, n - 1, n + 1, u32::MAX] {
                refused(&with(at, &wrong.to_le_bytes()), SIZE);
            }
        }
        refused(&payload, (SIZE.0 - 1, SIZE.1));
        // More survivors than entries, of a code that costs nothing.
        refused(&encoded(&D, &[0, 1, 2], &[0; 3]), (1, 2));
        refused(&encoded(&D, &[2], &[0]), (1, 2));
        assert_eq!(decode(&encoded(&D, &[1], &[0]), (1, 2)).unwrap(), [1.0, -9.0]);
        let (target, mut out) = (target(SIZE), vec![0; 4 * want_len()]);
        let no_base = Runs.decode(&payload, &target, None, &mut Scratch::default(), &mut out);
        assert_eq!(no_base.unwrap_err().kind(), ErrorKind::Corrupt);
    }

    fn want_len() -> usize {
        SIZE.0 * SIZE.1
    }

    #[test]
    fn cuts_and_additions_are_refused() {
        let (positions, codes) = survivors(4);
        let mut payload = encoded(&D, &positions, &codes);
        for cut in 0..payload.len() {
            refused(&payload[..cut], SIZE);
        }
        payload.push(0);
        refused(&payload, SIZE);
    }

    proptest! {
        #[test]
        fn payloads_of_any_share_come_back_within_their_bound(
            kept in prop::collection::vec(prop::option::weighted(0.4, any::<u8>()), 1..900),
            bits in 1u8..=8,
            rice in 0u32..=24,
            n_cols in 1usize..40,
        ) {
            let size = (kept.len().div_ceil(n_cols), n_cols);
            let d = Decisions { bits, rice, ..D };
            let mut want = vec![1.0; size.0 * n_cols];
            let (mut positions, mut codes) = (Vec::new(), Vec::new());
            for (i, code) in kept.iter().enumerate() {
                let Some(code) = code.map(|c| c >> (8 - bits)) else { continue };
                positions.push(i as u32);
                codes.push(code);
                want[i] += level(&d, code);
            }
            let payload = encoded(&d, &positions, &codes);
            prop_assert!(payload.len() <= Runs.max_len(&target(size)));
            prop_assert_eq!(decode(&payload, size).unwrap(), want);
        }

        #[test]
        fn mutations_never_panic(
            flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
            cut in any::<prop::sample::Index>(),
        ) {
            let (positions, codes) = survivors(5);
            let mut payload = encoded(&Decisions { bits: 5, ..D }, &positions, &codes);
            for (at, byte) in flips {
                let at = at.index(payload.len());
                payload[at] = byte;
            }
            for payload in [&payload[..], &payload[..cut.index(payload.len())]] {
                if let Err(e) = decode(payload, SIZE) {
                    prop_assert_eq!(e.kind(), ErrorKind::Corrupt);
                }
            }
        }
    }
}
