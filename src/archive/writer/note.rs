//! What a journal's entries say, and their bytes.

use crate::archive::record::TensorSeal;
use crate::archive::writer::journal::MAX_ROOM;
use crate::error::{Error, Result};
use crate::wire::{Reader, Writer};

/// A pass of a survey over a tile of a tensor, by their numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SurveyAt {
    pub(crate) tensor: u32,
    pub(crate) part: u32,
    pub(crate) pass: u32,
}

/// A tensor that need not be encoded again.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct KeptTensor {
    /// Position in the variant.
    pub(crate) tensor: usize,
    pub(crate) seal: TensorSeal,
    pub(crate) sums: Sums,
}

/// What a report says of tensors beside their seals.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Sums {
    /// What was lost at the layer's output, and what the delta makes there; 0 without statistics.
    pub(crate) output: (f64, f64),
    /// Tiles of a lossy tensor that are kept bit for bit, and their elements.
    pub(crate) exact: (u64, u64),
}

impl Sums {
    pub(crate) fn add(&mut self, other: &Self) {
        self.output.0 += other.output.0;
        self.output.1 += other.output.1;
        self.exact.0 += other.exact.0;
        self.exact.1 += other.exact.1;
    }
}

/// A tile whose frame is finished.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct TileNote {
    pub(crate) tensor: u32,
    /// Number in the tensor.
    pub(crate) part: u32,
    /// Bytes of its frame.
    pub(crate) len: u32,
    /// Sums of squares of what was lost and of the delta.
    pub(crate) squared_error: f64,
    pub(crate) squared_delta: f64,
    /// As [`Sums`] has them.
    pub(crate) output: (f64, f64),
    /// Elements, if it is kept bit for bit though its tensor is lossy.
    pub(crate) kept_elements: u64,
}

impl TileNote {
    /// Adds the tile behind those that its tensor's seal has.
    pub(crate) fn add_to(&self, seal: &mut TensorSeal) {
        seal.frame_lens.push(self.len);
        seal.squared_error += self.squared_error;
        seal.squared_delta += self.squared_delta;
    }

    /// What the tile adds to its tensor's sums.
    pub(crate) fn sums(&self) -> Sums {
        let exact = (u64::from(self.kept_elements > 0), self.kept_elements);
        Sums { output: self.output, exact }
    }
}

/// The hashes of a tensor whose frames were all handed over.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct SealNote {
    pub(crate) tensor: u32,
    pub(crate) base_hash: u128,
    pub(crate) base_probe: u64,
    pub(crate) restored_hash: u128,
}

impl SealNote {
    /// Puts the hashes into the seal of their tensor.
    pub(crate) fn add_to(&self, seal: &mut TensorSeal) {
        seal.base_hash = self.base_hash;
        seal.base_probe = self.base_probe;
        seal.restored_hash = self.restored_hash;
    }
}

/// One thing that a run need not do again.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Note<'a> {
    /// What a survey found, in bytes that mean nothing here.
    Surveyed(SurveyAt, &'a [u8]),
    Tile(TileNote),
    Sealed(SealNote),
    /// A head is handed over, and what follows is of its variant: a hash of it and of what it is made of.
    Head(u64),
    /// Something that was computed before a variant, in bytes that mean nothing here.
    Value(&'a [u8]),
    /// So many bytes follow which are no entries: a room.
    Room(u32),
}

/// Bytes of a survey's entry before what it found.
pub(super) const SURVEY_HEAD: usize = 13;

impl<'a> Note<'a> {
    pub(crate) fn to_bytes(self) -> Vec<u8> {
        let mut w = Writer::default();
        match self {
            Note::Surveyed(at, found) => {
                w.u8(1);
                w.u32(at.tensor);
                w.u32(at.part);
                w.u32(at.pass);
                w.0.extend(found);
            }
            Note::Tile(tile) => {
                w.u8(2);
                w.u32(tile.tensor);
                w.u32(tile.part);
                w.u32(tile.len);
                w.f64(tile.squared_error);
                w.f64(tile.squared_delta);
                w.f64(tile.output.0);
                w.f64(tile.output.1);
                w.u64(tile.kept_elements);
            }
            Note::Sealed(seal) => {
                w.u8(3);
                w.u32(seal.tensor);
                w.u128(seal.base_hash);
                w.u64(seal.base_probe);
                w.u128(seal.restored_hash);
            }
            Note::Head(hash) => {
                w.u8(4);
                w.u64(hash);
            }
            Note::Value(value) => {
                w.u8(5);
                w.0.extend(value);
            }
            Note::Room(size) => {
                w.u8(6);
                w.u32(size);
            }
        }
        w.0
    }

    /// # Errors
    /// `Corrupt`, `Truncated`.
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self> {
        let mut r = Reader::new(bytes);
        let note = match r.u8()? {
            1 => {
                let at = SurveyAt { tensor: r.u32()?, part: r.u32()?, pass: r.u32()? };
                return Ok(Note::Surveyed(at, r.rest()));
            }
            2 => Note::Tile(TileNote {
                tensor: r.u32()?,
                part: r.u32()?,
                len: r.u32()?,
                squared_error: r.f64()?,
                squared_delta: r.f64()?,
                output: (r.f64()?, r.f64()?),
                kept_elements: r.u64()?,
            }),
            3 => Note::Sealed(SealNote {
                tensor: r.u32()?,
                base_hash: r.u128()?,
                base_probe: r.u64()?,
                restored_hash: r.u128()?,
            }),
            4 => Note::Head(r.u64()?),
            5 => return Ok(Note::Value(r.rest())),
            6 => Note::Room(r.u32()?),
            _ => return Err(Error::corrupt("an entry of no known kind")),
        };
        r.end()?;
        match note {
            Note::Room(size) if size as usize > MAX_ROOM => {
                Err(Error::corrupt("a room larger than any frame"))
            }
            note => Ok(note),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notes() -> [Note<'static>; 7] {
        let at = SurveyAt { tensor: 1, part: 2, pass: 3 };
        let tile = TileNote { tensor: 4, part: 5, len: 6, kept_elements: 9, ..TileNote::default() };
        let tile =
            TileNote { squared_error: 0.5, squared_delta: 1.5, output: (2.5, f64::NAN), ..tile };
        let seal = SealNote { tensor: 7, base_hash: 8 << 99, base_probe: 9, restored_hash: 10 };
        let none = Note::Surveyed(SurveyAt { pass: 0, ..at }, b"");
        let [head, value] = [Note::Head(7), Note::Value(b"value")];
        let room = Note::Room(3);
        [
            Note::Surveyed(at, b"found"),
            Note::Tile(tile),
            Note::Sealed(seal),
            none,
            head,
            value,
            room,
        ]
    }

    #[test]
    fn notes_come_back_and_no_other_bytes_are_read_as_one() {
        for note in notes() {
            let bytes = note.to_bytes();
            assert_eq!(Note::parse(&bytes).unwrap().to_bytes(), bytes);
            match note {
                Note::Surveyed(_, found) => assert_eq!(bytes.len(), SURVEY_HEAD + found.len()),
                Note::Value(_) => {}
                _ => assert!(Note::parse(&[&bytes[..], &[0]].concat()).is_err()),
            }
            if matches!(note, Note::Surveyed(..) | Note::Value(_)) {
                continue;
            }
            (0..bytes.len()).for_each(|n| assert!(Note::parse(&bytes[..n]).is_err()));
        }
        assert!(Note::parse(&[7]).is_err());
        assert!(Note::parse(&Note::Room(1 + MAX_ROOM as u32).to_bytes()).is_err());
    }
}
