//! How one tile's decisions become bytes and come back. A codec never sees paths, names or zstd.
//!
//! Encoding is a function of each codec's own, since each takes other decisions; decoding is one
//! trait, since a reader learns the codec from the stored frame.

pub(crate) mod delta;
pub(crate) mod groups;
pub(crate) mod mask;
pub(crate) mod patches;
pub(crate) mod planes;
pub(crate) mod runs;
pub(crate) mod signs;
pub(crate) mod survivors;
pub(crate) mod trellis;

use std::ops::Range;

use crate::codec::mask::MaskPlace;
use crate::error::{Error, Result};
use crate::kernel::convert;
use crate::kernel::dct::Dct;
use crate::kernel::trellis::Work;
use crate::tensor::DType;

/// Stored code of a codec. Codes are never reused; 0x8000 and above are private.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub(crate) enum CodecId {
    /// Bit-exact byte planes.
    Planes = 1,
    /// Quantised DCT patches.
    Patches = 2,
    /// Bit planes of signs.
    Signs = 3,
    /// Values of a seeded mask's survivors.
    Survivors = 4,
    /// Quantised survivors of groups.
    Groups = 5,
    /// Quantised survivors and the runs between them.
    Runs = 6,
    /// Paths through a trellis, and gains of rows.
    Trellis = 7,
}

/// In the place of a codec's code: the frame stands for one that a recover could not save.
pub(crate) const LOST: u16 = 8;

/// Most rows of a patch strip.
pub(crate) const MAX_SIDE: usize = 64;

/// A tile's bytes as they lie in a checkpoint.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Operand<'a> {
    pub(crate) dtype: DType,
    pub(crate) bytes: &'a [u8],
}

/// Size and dtype of the tile to restore.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target {
    pub(crate) dtype: DType,
    pub(crate) n_rows: usize,
    pub(crate) n_cols: usize,
    /// Rows of a patch strip; 0 for flat tiles.
    pub(crate) patch: usize,
    /// Where masks are drawn for it.
    pub(crate) place: MaskPlace,
    /// What a lossy delta is multiplied by before it is added.
    pub(crate) gain: f32,
}

impl Target {
    pub(crate) fn n_elements(&self) -> usize {
        self.n_rows * self.n_cols
    }

    /// Writes these rows of the restored tile to their place in `out`: the base's plus `delta`, which
    /// is used up.
    fn add_rows(&self, base: Operand<'_>, rows: &Range<usize>, delta: &mut [f32], out: &mut [u8]) {
        if self.gain != 1.0 {
            delta.iter_mut().for_each(|v| *v *= self.gain);
        }
        let part = rows.start * self.n_cols..rows.end * self.n_cols;
        let width = self.dtype.bits() / 8;
        let to = &mut out[part.start * width..part.end * width];
        convert::add(base.part(&part), delta, self.dtype, to);
    }

    /// Bytes of the restored tile. Flat tiles count lanes, matrix tiles elements of whole bytes, so
    /// both are lanes wide.
    pub(crate) fn n_bytes(&self) -> usize {
        let lane = if self.patch == 0 { self.dtype.lane_bytes() } else { self.dtype.bits() / 8 };
        self.n_elements() * lane
    }
}

impl<'a> Operand<'a> {
    /// These elements, as kernels take them.
    pub(crate) fn part(&self, elements: &Range<usize>) -> (DType, &'a [u8]) {
        let width = self.dtype.bits() / 8;
        (self.dtype, &self.bytes[elements.start * width..elements.end * width])
    }
}

/// Two to the power `exponent`, which fits f32's normal range.
fn power_of_two(exponent: i16) -> f32 {
    f32::from_bits(((i32::from(exponent).clamp(-126, 127) + 127) as u32) << 23)
}

/// Bits a code takes in the payload. Widths that do not divide a byte would hide the symbols from the
/// entropy coder: 5-bit codes packed tight come out a third larger than one a byte.
fn stored_bits(bits: u8) -> u32 {
    match bits {
        1 | 2 | 4 => u32::from(bits),
        _ => 8,
    }
}

/// Buffers one worker reuses for every tile.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    pub(crate) bytes: Vec<u8>,
    pub(crate) sorted: Vec<u8>,
    pub(crate) codes: Vec<u8>,
    pub(crate) draws: Vec<u16>,
    pub(crate) positions: Vec<u32>,
    pub(crate) columns: Vec<u32>,
    pub(crate) kept: Vec<u8>,
    pub(crate) planes: Vec<Vec<u8>>,
    pub(crate) strip: Vec<f32>,
    pub(crate) patch: patches::PatchScratch,
    pub(crate) work: Vec<f32>,
    pub(crate) residual: Vec<f32>,
    pub(crate) search: Work,
    /// Whether `codes` has the symbols of the trellis paths that were encoded last.
    pub(crate) has_symbols: bool,
    dct: Option<(usize, Dct)>,
}

impl Scratch {
    /// The transform of side `p`, made once, lent out together with the buffers.
    pub(crate) fn take_dct(&mut self, p: usize) -> Dct {
        match self.dct.take() {
            Some((side, dct)) if side == p => dct,
            _ => Dct::new(p),
        }
    }

    pub(crate) fn give_dct(&mut self, p: usize, dct: Dct) {
        self.dct = Some((p, dct));
    }
}

/// What some of a payload's bytes are, for accounts of what a method costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// Values, or what takes their place; all of a tile that is kept exactly.
    Codes,
    /// Where the values stand.
    Positions,
    /// Small numbers for many values: factors, ranges, class maps, settings.
    Scales,
}

impl Part {
    /// Every part, in the order of the variants.
    pub(crate) const ALL: [Part; 3] = [Part::Codes, Part::Positions, Part::Scales];
}

/// Stretches of a payload from its first byte to its last: what each is, and its bytes.
pub(crate) type Parts = Vec<(Part, usize)>;

/// Gives a stored tile back.
pub(crate) trait Codec: std::fmt::Debug + Sync {
    fn id(&self) -> CodecId;

    /// Most bytes a payload of this tile may have: what a reader is ready to allocate.
    fn max_len(&self, target: &Target) -> usize;

    /// Writes the restored tile to `out`, which has [`Target::n_bytes`] bytes. `base` is the same
    /// tile of the base, if the tensor has one.
    ///
    /// # Errors
    /// `Corrupt` if the payload cannot be one of this tile.
    fn decode(
        &self,
        payload: &[u8],
        target: &Target,
        base: Option<Operand<'_>>,
        scratch: &mut Scratch,
        out: &mut [u8],
    ) -> Result<()>;

    /// Does the same for a payload that was encoded last with the same `scratch`, and may use what is still there of
    /// it.
    ///
    /// # Errors
    /// As [`Codec::decode`].
    fn decode_encoded(
        &self,
        payload: &[u8],
        target: &Target,
        base: Option<Operand<'_>>,
        scratch: &mut Scratch,
        out: &mut [u8],
    ) -> Result<()> {
        self.decode(payload, target, base, scratch, out)
    }

    /// Says which bytes of a payload are what. The lengths add up to the payload's.
    ///
    /// # Errors
    /// `Corrupt` if the payload cannot be one of this tile, as far as its lengths show.
    fn parts(&self, payload: &[u8], target: &Target) -> Result<Parts>;
}

/// Every codec a reader knows.
pub(crate) const ALL: &[&dyn Codec] = &[
    &planes::Planes,
    &patches::Patches,
    &signs::Signs,
    &survivors::Survivors,
    &groups::Groups,
    &runs::Runs,
    &trellis::Trellis,
];

/// The codec with this stored code, for a tile as its item describes it.
///
/// # Errors
/// `Incompatible` if there is none; `Corrupt` for a flat tile that is not of planes, since the other
/// codecs take floats with a base.
pub(crate) fn of_tile(code: u16, target: &Target) -> Result<&'static dyn Codec> {
    let codec = by_code(code)?;
    if target.patch == 0 && codec.id() != CodecId::Planes {
        return Err(Error::corrupt("a flat tile has the codec of a matrix"));
    }
    Ok(codec)
}

/// The codec with this stored code.
///
/// # Errors
/// `Incompatible` if there is none; `Corrupt` if the code says that the frame is lost.
pub(crate) fn by_code(code: u16) -> Result<&'static dyn Codec> {
    if code == LOST {
        return Err(Error::corrupt(
            "lost: the archive that this one was recovered from was damaged",
        ));
    }
    ALL.iter().copied().find(|c| c.id() as u16 == code).ok_or_else(|| Error::unknown("codec", code))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn codes_are_distinct_and_never_change() {
        assert_eq!(ALL.iter().map(|c| c.id() as u16).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(CodecId::Planes as u16, 1);
        assert_eq!(CodecId::Patches as u16, 2);
        assert_eq!(CodecId::Signs as u16, 3);
        assert_eq!(CodecId::Survivors as u16, 4);
        assert_eq!(CodecId::Groups as u16, 5);
        assert_eq!(CodecId::Runs as u16, 6);
        assert_eq!(CodecId::Trellis as u16, 7);
        assert_eq!(LOST, 8);
        assert_eq!(by_code(0).unwrap_err().kind(), ErrorKind::Incompatible);
        assert_eq!(by_code(LOST).unwrap_err().kind(), ErrorKind::Corrupt);
    }
}
