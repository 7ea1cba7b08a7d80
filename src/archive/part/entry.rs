//! What the entries of a part say, and their bytes.

use std::fmt;

use crate::archive::part::PART_VERSION;
use crate::archive::record::list;
use crate::archive::writer::Note;
use crate::error::{Error, ErrorKind, Result};
use crate::wire::{Reader, Writer};

/// What a part is of: its first entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PartHead {
    /// Hash of all that decides what the archive will have; the same in all parts that belong together.
    pub(crate) identity: u128,
    /// Which of the shares, 1 to `of`; 0 for all of them, joined.
    pub(crate) part: u32,
    pub(crate) of: u32,
    /// Which of the rounds, 1 to `rounds`; the last one encodes, those before it survey.
    pub(crate) round: u32,
    pub(crate) rounds: u32,
    /// Name and version of the tool that wrote it.
    pub(crate) tool: String,
    /// Name of the variant.
    pub(crate) variant: String,
}

impl PartHead {
    /// Whether it has frames, and not what surveys found.
    pub(crate) fn encodes(&self) -> bool {
        self.round == self.rounds
    }

    fn write(&self, w: &mut Writer) -> Result<()> {
        w.u32(PART_VERSION);
        w.u128(self.identity);
        [self.part, self.of, self.round, self.rounds].into_iter().for_each(|n| w.u32(n));
        w.str(&self.tool)?;
        w.str(&self.variant)
    }

    fn read(r: &mut Reader<'_>) -> Result<Self> {
        let version = r.u32()?;
        if version > PART_VERSION {
            let text = format!(
                "parts of version {version} are newer than this tool's; install a newer delta-stream"
            );
            return Err(Error::new(ErrorKind::Incompatible, text));
        }
        let identity = r.u128()?;
        let [part, of, round, rounds] = [r.u32()?, r.u32()?, r.u32()?, r.u32()?];
        let (tool, variant) = (r.str()?, r.str()?);
        let head = Self { identity, part, of, round, rounds, tool, variant };
        let is_sane = version > 0
            && part <= of
            && of > 0
            && (1..=rounds).contains(&round)
            // What encoded parts are joined to is an archive.
            && (part > 0 || !head.encodes());
        if is_sane { Ok(head) } else { Err(Error::corrupt("its numbers are out of range")) }
    }
}

impl fmt::Display for PartHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { part, of, round, rounds, .. } = self;
        match part {
            0 => write!(f, "what all {of} parts found in round {round} of {rounds}"),
            _ => write!(f, "part {part} of {of}, round {round} of {rounds}"),
        }
    }
}

/// One entry of a part.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Entry<'a> {
    /// The first.
    Head(PartHead),
    /// As in a journal: what a survey found; a tile, whose frame follows; the hashes of a tensor behind its
    /// tiles.
    Note(Note<'a>),
    /// A frame of so many bytes follows, which says itself what it is: the head of the variant, or a piece of
    /// a side file.
    Frame(u32),
    /// The hash of the next side file, behind the pieces of all.
    SideFile(u128),
    /// What was measured of the whole model, by name.
    Measured(Vec<(String, String)>),
    /// The last: how many entries are before it, and a hash of all bytes before it.
    End { n_entries: u64, hash: u64 },
}

impl<'a> Entry<'a> {
    pub(crate) fn to_bytes(&self) -> Result<Vec<u8>> {
        let mut w = Writer::default();
        match self {
            Entry::Head(head) => {
                w.u8(16);
                head.write(&mut w)?;
            }
            Entry::Note(note) => w.0 = note.to_bytes(),
            Entry::Frame(len) => {
                w.u8(17);
                w.u32(*len);
            }
            Entry::SideFile(hash) => {
                w.u8(18);
                w.u128(*hash);
            }
            Entry::Measured(measured) => {
                w.u8(19);
                w.count(measured.len())?;
                for (name, value) in measured {
                    w.str(name)?;
                    w.str(value)?;
                }
            }
            Entry::End { n_entries, hash } => {
                w.u8(20);
                w.u64(*n_entries);
                w.u64(*hash);
            }
        }
        Ok(w.0)
    }

    /// # Errors
    /// `Corrupt`; `Incompatible` if a newer tool wrote it.
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self> {
        let mut r = Reader::new(bytes);
        let entry = match r.u8()? {
            1..=3 => return Note::parse(bytes).map(Entry::Note),
            16 => Entry::Head(PartHead::read(&mut r)?),
            17 => Entry::Frame(r.u32()?),
            18 => Entry::SideFile(r.u128()?),
            19 => Entry::Measured(list(&mut r, 8, |r| Ok((r.str()?, r.str()?)))?),
            20 => Entry::End { n_entries: r.u64()?, hash: r.u64()? },
            _ => return Err(Error::corrupt("an entry of no known kind")),
        };
        r.end()?;
        Ok(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::{SurveyAt, TileNote};

    pub(crate) fn head() -> PartHead {
        let (tool, variant) = ("delta-stream 1".to_owned(), "v".to_owned());
        PartHead { identity: 5 << 99, part: 3, of: 16, round: 2, rounds: 2, tool, variant }
    }

    #[test]
    fn entries_come_back_and_no_other_bytes_are_read_as_one() {
        let at = SurveyAt { tensor: 1, part: 2, pass: 3 };
        for entry in [
            Entry::Head(head()),
            Entry::Note(Note::Surveyed(at, b"found")),
            Entry::Note(Note::Tile(TileNote { tensor: 4, ..TileNote::default() })),
            Entry::Frame(7),
            Entry::SideFile(8 << 99),
            Entry::Measured(vec![("a".to_owned(), "1".to_owned())]),
            Entry::End { n_entries: 9, hash: 10 },
        ] {
            let bytes = entry.to_bytes().unwrap();
            assert_eq!(Entry::parse(&bytes).unwrap(), entry);
            if !matches!(entry, Entry::Note(Note::Surveyed(..))) {
                assert!(Entry::parse(&[&bytes[..], &[0]].concat()).is_err());
                (0..bytes.len()).for_each(|n| assert!(Entry::parse(&bytes[..n]).is_err()));
            }
        }
        for kind in [0, 4, 5, 6, 15, 21] {
            assert!(Entry::parse(&[kind, 0, 0, 0, 0]).is_err());
        }
    }

    #[test]
    fn numbers_out_of_range_and_newer_versions_are_refused() {
        let good = PartHead { round: 1, ..head() };
        for (bad, is_fine) in [
            (good.clone(), true),
            (PartHead { part: 0, ..good.clone() }, true),
            (PartHead { part: 0, ..head() }, false),
            (PartHead { part: 17, ..good.clone() }, false),
            (PartHead { part: 0, of: 0, ..good.clone() }, false),
            (PartHead { round: 0, ..good.clone() }, false),
            (PartHead { round: 3, ..good.clone() }, false),
        ] {
            let bytes = Entry::Head(bad).to_bytes().unwrap();
            assert_eq!(Entry::parse(&bytes).is_ok(), is_fine);
        }
        let mut newer = Entry::Head(good).to_bytes().unwrap();
        newer[1] += 1;
        assert_eq!(Entry::parse(&newer).unwrap_err().kind(), ErrorKind::Incompatible);
    }
}
