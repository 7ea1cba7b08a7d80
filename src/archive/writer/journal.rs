//! The journal beside an archive that is being written: what its run stands on, then what surveys found and
//! which frames are in the file, entry by entry, in the order in which the run came to it.

use std::fs::File;
use std::io::{BufReader, ErrorKind as Cause, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::archive::record::TensorSeal;
use crate::checkpoint::disk::{self, TempPath};
use crate::checkpoint::hidden_name;
use crate::error::{Error, Result};
use crate::wire::{Reader, Writer};

/// Bytes before an entry's own: their number and their checksum.
const PREFIX: usize = 8;
/// Longest entry. The widest tile's survey has half a megabyte.
const MAX_ENTRY: u32 = 4 << 20;

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

/// A tile whose frame was handed over to be written.
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
            _ => return Err(Error::corrupt("an entry of no known kind")),
        };
        r.end()?;
        Ok(note)
    }
}

/// The journal of a run that is under way.
#[derive(Debug)]
pub(super) struct Journal {
    file: File,
    /// Removed when it is dropped.
    path: TempPath,
    /// Entries that wait until the frames before them are in the file.
    pending: Vec<u8>,
    len: u64,
}

impl Journal {
    /// Starts a journal in place of one that is there; `identity` is what the run stands on.
    pub(super) fn create(archive: &Path, identity: &[u8]) -> Result<Self> {
        let path = path(archive);
        let file = disk::open_or_create(&path).map_err(|e| Error::io("create", &path, e))?;
        let mut journal = Self::of(file, path, 0)?;
        disk::set_len(&journal.file, 0).map_err(|e| Error::io("cut", &journal.path, e))?;
        journal.enter(identity);
        journal.write_out()?;
        Ok(journal)
    }

    /// Goes on with the journal of an earlier run after its first `len` bytes.
    pub(super) fn go_on(archive: &Path, len: u64) -> Result<Self> {
        let path = path(archive);
        let file = disk::open(&path).map_err(|e| Error::io("open", &path, e))?;
        disk::set_len(&file, len).map_err(|e| Error::io("cut", &path, e))?;
        Self::of(file, path, len)
    }

    fn of(file: File, path: PathBuf, len: u64) -> Result<Self> {
        let of = TempPath::try_from_path(&path).map_err(|e| Error::io("find", &path, e))?;
        Ok(Self { file, path: of, pending: Vec::new(), len })
    }

    /// Leaves it to a run that resumes.
    pub(super) fn leave(self) {
        let _ = self.path.keep();
    }

    /// Removes it: all that it speaks of is written. If that fails, it is still of use to a run that resumes.
    pub(super) fn remove(&self) -> Result<()> {
        let removed = disk::remove_file(&self.path);
        removed.map_err(|e| Error::io("remove", &self.path, e))
    }

    /// Takes note of what was found or handed over to be written. What is too long is left out, and done
    /// again by a run that resumes.
    pub(super) fn note(&mut self, note: Note<'_>) {
        let bytes = note.to_bytes();
        if bytes.len() <= MAX_ENTRY as usize {
            self.enter(&bytes);
        }
    }

    fn enter(&mut self, bytes: &[u8]) {
        self.pending.extend((bytes.len() as u32).to_le_bytes());
        self.pending.extend(crc32c::crc32c(bytes).to_le_bytes());
        self.pending.extend(bytes);
    }

    /// Everything that was handed over is in the file by now.
    pub(super) fn write_out(&mut self) -> Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        disk::write_all_at(&self.file, &self.pending, self.len)
            .map_err(|e| Error::io("write to", &self.path, e))?;
        self.len += self.pending.len() as u64;
        self.pending.clear();
        Ok(())
    }
}

/// What surveys of an earlier run found; it stays in the journal until it is asked for.
#[derive(Debug, Default)]
pub(crate) struct Surveys {
    /// The journal, unless nothing is in it.
    file: Option<(File, PathBuf)>,
    /// Where each stands in it, and its bytes; ascending once it is complete.
    places: Vec<(SurveyAt, u64, u32)>,
}

impl Surveys {
    /// Those of these places in the journal beside an archive.
    pub(super) fn open(archive: &Path, mut places: Vec<(SurveyAt, u64, u32)>) -> Result<Self> {
        places.sort_unstable();
        let path = path(archive);
        let file = File::open(&path).map_err(|e| Error::io("open", &path, e))?;
        Ok(Self { file: Some((file, path)), places })
    }

    /// Whether this is known.
    pub(crate) fn has(&self, at: SurveyAt) -> bool {
        self.place(at).is_some()
    }

    /// Where it stands. Of two the later one is meant.
    fn place(&self, at: SurveyAt) -> Option<(u64, u32)> {
        let end = self.places.partition_point(|place| place.0 <= at);
        let (found, offset, len) = *self.places.get(end.checked_sub(1)?)?;
        (found == at).then_some((offset, len))
    }

    /// What a survey found; `None` if it is not known.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn read(&self, at: SurveyAt) -> Result<Option<Vec<u8>>> {
        let (Some((offset, len)), Some((file, path))) = (self.place(at), &self.file) else {
            return Ok(None);
        };
        let mut bytes = vec![0; len as usize];
        file.read_exact_at(&mut bytes, offset).map_err(|e| Error::io("read", path, e))?;
        Ok(Some(bytes))
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.places.len()
    }

    /// Bytes it holds in memory.
    pub(crate) fn resident_bytes(&self) -> u64 {
        (self.places.capacity() * size_of::<(SurveyAt, u64, u32)>()) as u64
    }
}

/// Removes the journal beside an archive, if there is one.
pub(super) fn remove(archive: &Path) -> Result<()> {
    let path = path(archive);
    match path.symlink_metadata() {
        Ok(_) => disk::remove_file(&path).map_err(|e| Error::io("remove", &path, e)),
        Err(_) => Ok(()),
    }
}

/// `.NAME.resume`, beside the archive.
fn path(archive: &Path) -> PathBuf {
    archive.with_file_name(hidden_name(archive.file_name().unwrap_or_default(), "resume"))
}

/// The entries of a journal from the start, up to the first that is not whole.
pub(super) struct Entries<R> {
    reader: R,
    bytes: Vec<u8>,
    /// Where the last one ends.
    pub(super) end: u64,
}

impl Entries<BufReader<File>> {
    /// Those beside an archive, if there are any.
    pub(super) fn open(archive: &Path) -> Result<Option<Self>> {
        let path = path(archive);
        match File::open(&path) {
            Ok(file) => Ok(Some(Self::of(BufReader::new(file)))),
            Err(e) if e.kind() == Cause::NotFound => Ok(None),
            Err(e) => Err(Error::io("read", &path, e)),
        }
    }
}

impl<R: Read> Entries<R> {
    pub(super) fn of(reader: R) -> Self {
        Self { reader, bytes: Vec::new(), end: 0 }
    }

    /// The next one.
    pub(super) fn next(&mut self) -> Option<&[u8]> {
        let mut prefix = [0; PREFIX];
        self.reader.read_exact(&mut prefix).ok()?;
        let [a, b, c, d, crc @ ..] = prefix;
        let len = u32::from_le_bytes([a, b, c, d]);
        if len > MAX_ENTRY {
            return None;
        }
        self.bytes.clear();
        let read = (&mut self.reader).take(u64::from(len)).read_to_end(&mut self.bytes).ok()?;
        if read < len as usize || crc32c::crc32c(&self.bytes).to_le_bytes() != crc {
            return None;
        }
        self.end += PREFIX as u64 + u64::from(len);
        Some(&self.bytes)
    }
}

/// All whole entries of a journal.
#[cfg(feature = "fuzzing")]
pub(crate) fn entries(journal: &[u8]) -> Vec<Vec<u8>> {
    let mut entries = Entries::of(journal);
    let mut all = Vec::new();
    while let Some(entry) = entries.next() {
        all.push(entry.to_vec());
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn notes() -> [Note<'static>; 6] {
        let at = SurveyAt { tensor: 1, part: 2, pass: 3 };
        let tile = TileNote { tensor: 4, part: 5, len: 6, kept_elements: 9, ..TileNote::default() };
        let tile =
            TileNote { squared_error: 0.5, squared_delta: 1.5, output: (2.5, f64::NAN), ..tile };
        let seal = SealNote { tensor: 7, base_hash: 8 << 99, base_probe: 9, restored_hash: 10 };
        let none = Note::Surveyed(SurveyAt { pass: 0, ..at }, b"");
        let [head, value] = [Note::Head(7), Note::Value(b"value")];
        [Note::Surveyed(at, b"found"), Note::Tile(tile), Note::Sealed(seal), none, head, value]
    }

    fn ends(bytes: &[u8]) -> Vec<usize> {
        let mut entries = Entries::of(bytes);
        let mut ends = Vec::new();
        while entries.next().is_some() {
            ends.push(entries.end as usize);
        }
        ends
    }

    #[test]
    fn a_torn_journal_ends_at_its_last_whole_entry() {
        let dir = tempfile::tempdir().unwrap();
        let archive = dir.path().join("a.delta.zst");
        let mut journal = Journal::create(&archive, b"identity").unwrap();
        notes().into_iter().for_each(|note| journal.note(note));
        let before = fs::read(path(&archive)).unwrap();
        assert_eq!(ends(&before).len(), 1, "entries wait for the frames");
        journal.write_out().unwrap();
        let bytes = fs::read(path(&archive)).unwrap();
        let all = ends(&bytes);
        assert_eq!((all.len(), all[6]), (7, bytes.len()));
        for n in 0..bytes.len() {
            let whole = all.iter().filter(|end| **end <= n).count();
            assert_eq!(ends(&bytes[..n]).len(), whole);
            let mut bad = bytes.clone();
            bad[n] ^= 1;
            assert_eq!(ends(&bad).len(), whole);
        }
        journal.note(Note::Surveyed(SurveyAt { tensor: 0, part: 0, pass: 0 }, &vec![0; 5 << 20]));
        journal.write_out().unwrap();
        assert_eq!(fs::read(path(&archive)).unwrap(), bytes, "what is too long is left out");
        journal.remove().unwrap();
        assert!(!path(&archive).exists());
        remove(&archive).unwrap();
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
        assert!(Note::parse(&[6]).is_err());
    }

    #[test]
    fn surveys_are_found_by_their_place() {
        let dir = tempfile::tempdir().unwrap();
        let archive = dir.path().join("a.delta.zst");
        let mut journal = Journal::create(&archive, b"").unwrap();
        let at = |tensor| SurveyAt { tensor, part: 1, pass: 0 };
        let mut places = Vec::new();
        for (tensor, found) in [(3, &b"abd"[..]), (3, b"abc"), (1, b"d")] {
            journal.note(Note::Surveyed(at(tensor), found));
            journal.write_out().unwrap();
            places.push((at(tensor), journal.len - found.len() as u64, found.len() as u32));
        }
        let surveys = Surveys::open(&archive, places).unwrap();
        assert_eq!(surveys.read(at(3)).unwrap(), Some(b"abc".to_vec()));
        assert_eq!(surveys.read(at(1)).unwrap(), Some(b"d".to_vec()));
        assert_eq!((surveys.read(at(2)).unwrap(), surveys.has(at(2))), (None, false));
        assert!(surveys.has(at(1)) && surveys.resident_bytes() >= 48);
        assert_eq!(Surveys::default().read(at(1)).unwrap(), None);
    }
}
