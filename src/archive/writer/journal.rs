//! The journal beside an archive that is being written: what its run stands on, then what surveys found and
//! which frames are in the file, entry by entry, in the order in which the run came to it. Between entries
//! lie rooms for frames that wait until those before them are finished.

use std::fs::File;
use std::io::{self, BufReader, ErrorKind as Cause, Read};
use std::path::{Path, PathBuf};

use crate::archive::store::MAX_STORED_LEN;
use crate::archive::writer::note::{Note, TileNote};
use crate::checkpoint::disk::{self, TempPath};
use crate::checkpoint::hidden_name;
use crate::error::{Error, Result};

/// Bytes before an entry's own: their number and their checksum.
pub(super) const PREFIX: usize = 8;
/// Longest entry. The widest tile's survey has half a megabyte.
const MAX_ENTRY: u32 = 4 << 20;
/// Bytes of a room before its frame: the entry of its tile.
pub(super) const ROOM_HEAD: usize = PREFIX + 53;
/// Smallest and largest room.
const MIN_ROOM: usize = 64 << 10;
pub(super) const MAX_ROOM: usize = (ROOM_HEAD + MAX_STORED_LEN).next_power_of_two();

/// A part of the journal that holds one frame which waits, behind the entry of its tile; another once that one
/// is in the archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Room {
    pub(super) at: u64,
    pub(super) size: usize,
    /// Whether its frame is nowhere else.
    pub(super) is_used: bool,
}

/// The journal of a run that is under way.
#[derive(Debug)]
pub(super) struct Journal {
    file: File,
    /// Removed when it is dropped.
    path: TempPath,
    /// Entries that are not written yet.
    pending: Vec<u8>,
    len: u64,
    /// A frame gets a room of the next power of two, a new one only if all are used that it fits in. So there
    /// are no more of a size than tiles are alive, and all have at most four times the bytes of so many frames.
    rooms: Vec<Room>,
}

impl Journal {
    /// Starts a journal in place of one that is there; `identity` is what the run stands on.
    pub(super) fn create(archive: &Path, identity: &[u8]) -> Result<Self> {
        let path = path(archive);
        let file = disk::open_or_create(&path).map_err(|e| Error::io("create", &path, e))?;
        let mut journal = Self::of(file, path, (0, Vec::new()))?;
        disk::set_len(&journal.file, 0).map_err(|e| Error::io("cut", &journal.path, e))?;
        journal.enter(identity);
        journal.write_out()?;
        Ok(journal)
    }

    /// Goes on with the journal of an earlier run after its first `len` bytes, among which are these rooms.
    pub(super) fn go_on(archive: &Path, len: u64, rooms: Vec<Room>) -> Result<Self> {
        let path = path(archive);
        let file = disk::open(&path).map_err(|e| Error::io("open", &path, e))?;
        disk::set_len(&file, len).map_err(|e| Error::io("cut", &path, e))?;
        Self::of(file, path, (len, rooms))
    }

    fn of(file: File, path: PathBuf, (len, rooms): (u64, Vec<Room>)) -> Result<Self> {
        let of = TempPath::try_from_path(&path).map_err(|e| Error::io("find", &path, e))?;
        Ok(Self { file, path: of, pending: Vec::new(), len, rooms })
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
        self.pending.extend(prefix(bytes));
        self.pending.extend(bytes);
    }

    /// Puts a frame into a room, whose number is returned; what is there was put into the archive. The frame
    /// comes before its head: until that is there, the old head does not fit it.
    ///
    /// # Errors
    /// `Io`.
    pub(super) fn hold(&mut self, note: TileNote, frame: &[u8]) -> Result<usize> {
        let needed = ROOM_HEAD + frame.len();
        let fits = |(_, room): &(usize, &Room)| !room.is_used && room.size >= needed;
        let smallest = self.rooms.iter().enumerate().filter(fits).min_by_key(|(_, r)| r.size);
        let i = match smallest {
            Some((i, _)) => i,
            None => self.add_room(needed)?,
        };
        self.rooms[i].is_used = true;
        let at = self.rooms[i].at;
        let note = Note::Tile(note).to_bytes();
        let head = [&prefix(&note)[..], &note].concat();
        for (offset, bytes) in [(at + ROOM_HEAD as u64, frame), (at, &head)] {
            disk::write_all_at(&self.file, bytes, offset)
                .map_err(|e| Error::io("write to", &self.path, e))?;
        }
        Ok(i)
    }

    fn add_room(&mut self, needed: usize) -> Result<usize> {
        let size = needed.next_power_of_two().max(MIN_ROOM);
        self.enter(&Note::Room(size as u32).to_bytes());
        self.write_out()?;
        self.rooms.push(Room { at: self.len, size, is_used: false });
        self.len += size as u64;
        Ok(self.rooms.len() - 1)
    }

    /// Says whether the frame of a room is nowhere else.
    pub(super) fn set_used(&mut self, room: usize, is_used: bool) {
        if let Some(room) = self.rooms.get_mut(room) {
            room.is_used = is_used;
        }
    }

    /// All that the entries speak of is in the file by now.
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

/// Removes the journal beside an archive, if there is one.
pub(super) fn remove(archive: &Path) -> Result<()> {
    let path = path(archive);
    match path.symlink_metadata() {
        Ok(_) => disk::remove_file(&path).map_err(|e| Error::io("remove", &path, e)),
        Err(_) => Ok(()),
    }
}

/// What stands before an entry.
fn prefix(entry: &[u8]) -> [u8; PREFIX] {
    let [a, b, c, d] = (entry.len() as u32).to_le_bytes();
    let [e, f, g, h] = crc32c::crc32c(entry).to_le_bytes();
    [a, b, c, d, e, f, g, h]
}

/// `.NAME.resume`, beside the archive.
pub(super) fn path(archive: &Path) -> PathBuf {
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

    /// The next one; a room that follows it is passed over.
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
        if let Ok(Note::Room(size)) = Note::parse(&self.bytes) {
            // It may end before its room does: what is missing was not written.
            io::copy(&mut (&mut self.reader).take(size.into()), &mut io::sink()).ok()?;
            self.end += u64::from(size);
        }
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
    use crate::archive::writer::note::{SealNote, SurveyAt};
    use std::fs;

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
        let at = SurveyAt { tensor: 1, part: 2, pass: 3 };
        let seal = SealNote { tensor: 7, base_hash: 8 << 99, base_probe: 9, restored_hash: 10 };
        let notes = [
            Note::Surveyed(at, b"found"),
            Note::Tile(TileNote { squared_error: 0.5, ..TileNote::default() }),
            Note::Sealed(seal),
            Note::Surveyed(at, b""),
            Note::Head(7),
            Note::Value(b"value"),
        ];
        notes.into_iter().for_each(|note| journal.note(note));
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
    fn rooms_are_used_again_and_are_no_more_than_needed() {
        let dir = tempfile::tempdir().unwrap();
        let archive = dir.path().join("a.delta.zst");
        let mut journal = Journal::create(&archive, b"identity").unwrap();
        let tile = TileNote::default();
        let frames = [vec![1; 10], vec![2; MIN_ROOM], vec![3; 2 * MIN_ROOM - ROOM_HEAD]];
        let rooms: Vec<_> = frames.iter().map(|f| journal.hold(tile, f).unwrap()).collect();
        assert_eq!(rooms, [0, 1, 2]);
        journal.note(Note::Head(7));
        journal.write_out().unwrap();
        let bytes = fs::read(path(&archive)).unwrap();
        assert_eq!(bytes.len(), journal.len as usize);
        assert_eq!(ends(&bytes).len(), 5);
        for (room, frame) in journal.rooms.iter().zip(&frames) {
            let at = room.at as usize + ROOM_HEAD;
            assert_eq!(bytes[at..at + frame.len()], frame[..]);
        }
        // The smallest that it fits in.
        [0, 1, 2].iter().for_each(|room| journal.set_used(*room, false));
        let again: Vec<_> =
            [1, 0, 2].iter().map(|i| journal.hold(tile, &frames[*i]).unwrap()).collect();
        assert_eq!(again, [1, 0, 2]);
        assert_eq!(journal.hold(tile, &frames[0]).unwrap(), 3);
        let sizes: Vec<_> = journal.rooms.iter().map(|room| room.size / MIN_ROOM).collect();
        assert_eq!(sizes, [1, 2, 2, 1]);
        // One whose room was not written to its end is passed over, and goes on behind it.
        let end = journal.len;
        drop(journal);
        fs::write(path(&archive), &bytes).unwrap();
        let rooms = vec![Room { at: 30, size: MIN_ROOM, is_used: true }];
        let mut journal = Journal::go_on(&archive, end, rooms).unwrap();
        assert_eq!(journal.hold(tile, &frames[0]).unwrap(), 1);
        assert_eq!(journal.rooms[1].at, end + PREFIX as u64 + 5);
    }
}
