//! What is found of a run that was cut off: the entries of its journal, held to the file and to its rooms.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::archive::record::TensorSeal;
use crate::archive::store::FrameStore;
use crate::archive::writer::journal::{self, Entries, PREFIX, ROOM_HEAD, Room};
use crate::archive::writer::note::{
    KeptTensor, Note, SURVEY_HEAD, SealNote, Sums, SurveyAt, TileNote,
};
use crate::archive::writer::surveys::Surveys;
use crate::error::{Error, Result};
use crate::frame::{Kind, Label};

/// A tile of its variant: its tensor, and its number in that.
pub(super) type TileKey = (u32, u32);

/// A tile of a tensor that was not finished: its frame is kept, but the tensor's hashes need its bytes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct KeptTile {
    pub(crate) note: TileNote,
    /// Where its frame stands, in the archive or in the journal.
    pub(crate) offset: u64,
    pub(crate) codec: u16,
    /// Its room in the journal, if a tile before it is missing.
    pub(super) room: Option<usize>,
}

impl KeptTile {
    /// Whether its frame is in the archive, and not only in the journal.
    pub(crate) fn is_in_archive(&self) -> bool {
        self.room.is_none()
    }
}

/// What an earlier run did that need not be done again.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    /// Tensors whose frames are all there, in file order.
    pub(crate) tensors: Vec<KeptTensor>,
    /// Tiles of those after these.
    tiles: BTreeMap<TileKey, KeptTile>,
    /// The frames of the file, and of the journal.
    frames: Option<[FrameStore; 2]>,
    pub(crate) surveys: Surveys,
}

impl Kept {
    /// Nothing but what surveys found.
    pub(crate) fn surveyed(surveys: Surveys) -> Self {
        Self { surveys, ..Self::default() }
    }

    /// Tensors from the first on that are done.
    pub(crate) fn n_tensors(&self) -> usize {
        self.tensors.last().map_or(0, |last| last.tensor + 1)
    }

    /// The frame of this tile of a tensor that was not finished.
    pub(crate) fn tile(&self, tensor: usize, part: u64) -> Option<&KeptTile> {
        self.tiles.get(&(u32::try_from(tensor).ok()?, u32::try_from(part).ok()?))
    }

    /// How many of these there are.
    pub(crate) fn n_tiles(&self) -> usize {
        self.tiles.len()
    }

    /// Those of them whose frames are only in the journal, with their rooms.
    pub(super) fn waiting(&self) -> impl Iterator<Item = (&TileKey, &TileNote, usize)> {
        self.tiles.iter().filter_map(|(key, tile)| Some((key, &tile.note, tile.room?)))
    }

    /// Reads the frame of such a tile.
    ///
    /// # Errors
    /// `Truncated` if it is gone.
    pub(crate) fn read(&self, tile: &KeptTile, frame: &mut Vec<u8>) -> Result<()> {
        let frames = self.frames.as_ref().ok_or_else(|| Error::truncated("no frames are kept"))?;
        let [archive, journal] = frames;
        let of = if tile.is_in_archive() { archive } else { journal };
        of.read(tile.offset, tile.note.len as usize, frame)
    }

    /// Bytes it holds in memory.
    pub(crate) fn resident_bytes(&self) -> u64 {
        let tiles = self.tiles.len() * 2 * size_of::<(TileKey, KeptTile)>();
        self.surveys.resident_bytes() + tiles as u64
    }
}

/// The tiles that a variant has.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Expected<'a> {
    /// How many each tensor of the inputs has.
    pub(crate) n_tiles: &'a [u64],
    /// Numbers that tensors have in the variant, where these are not their own.
    pub(crate) items: Option<&'a [u32]>,
    /// Whether no other variant follows.
    pub(crate) is_last: bool,
}

/// What is left of the journal of an earlier run, as far as it was not gone through.
pub(super) struct Rest {
    path: PathBuf,
    entries: Entries<BufReader<File>>,
    /// The next entry.
    pub(super) next: Option<Vec<u8>>,
    /// Where it begins.
    pub(super) at: u64,
    /// Rooms before it.
    pub(super) rooms: Vec<Room>,
    /// The archive.
    pub(super) frames: FrameStore,
}

impl Rest {
    /// Of the journal beside `archive`, behind the entries that were read.
    pub(super) fn new(
        archive: &Path,
        entries: Entries<BufReader<File>>,
        frames: FrameStore,
    ) -> Self {
        let path = journal::path(archive);
        let mut rest = Self { path, entries, next: None, at: 0, rooms: Vec::new(), frames };
        rest.step();
        rest
    }

    /// Goes on behind the next entry, and the rooms behind that.
    pub(super) fn step(&mut self) {
        loop {
            self.at = self.entries.end;
            self.next = self.entries.next().map(<[u8]>::to_vec);
            let Some(Ok(Note::Room(size))) = self.next.as_deref().map(Note::parse) else { return };
            let at = self.entries.end - u64::from(size);
            self.rooms.push(Room { at, size: size as usize, is_used: false });
        }
    }

    /// The frames of the journal.
    pub(super) fn held(&self) -> Result<Held> {
        let failed = |e| Error::io("open", &self.path, e);
        let file = File::open(&self.path).map_err(failed)?;
        let len = file.metadata().map_err(failed)?.len();
        let file = Arc::new(file);
        Ok(Held { frames: FrameStore::new(Arc::clone(&file), len), file })
    }
}

/// A journal whose rooms are read.
pub(super) struct Held {
    file: Arc<File>,
    frames: FrameStore,
}

impl Held {
    /// What the head of a room says.
    fn note(&self, room: &Room) -> Option<TileNote> {
        let mut head = [0; ROOM_HEAD];
        self.file.read_exact_at(&mut head, room.at).ok()?;
        held(&head[..]).filter(|note| ROOM_HEAD + note.len as usize <= room.size)
    }
}

/// The tile that the head of a room is of.
fn held(head: impl Read) -> Option<TileNote> {
    match Note::parse(Entries::of(head).next()?) {
        Ok(Note::Tile(note)) => Some(note),
        _ => None,
    }
}

/// What the entries of a journal come to.
pub(super) struct Found<'a> {
    /// The file, and where the last frame ends that is whole and in its place.
    frames: FrameStore,
    pub(super) end: u64,
    /// Id that the frames carry.
    variant: u32,
    expected: Expected<'a>,
    tensors: Vec<KeptTensor>,
    /// Tiles of the tensors after these whose frames are in their places, from the first on.
    tiles: Vec<KeptTile>,
    /// Tiles whose frames are in the file, says the journal; those of `tiles` among them.
    noted: BTreeMap<TileKey, TileNote>,
    /// Tiles whose frames are in rooms.
    in_rooms: BTreeMap<TileKey, KeptTile>,
    stored: Vec<u8>,
}

impl<'a> Found<'a> {
    pub(super) fn new(frames: FrameStore, end: u64, variant: u32, expected: Expected<'a>) -> Self {
        let (tensors, tiles, stored) = (Vec::new(), Vec::new(), Vec::new());
        let (noted, in_rooms) = (BTreeMap::new(), BTreeMap::new());
        Self { frames, end, variant, expected, tensors, tiles, noted, in_rooms, stored }
    }

    /// Adds the entries behind a head, up to the first that is none of its variant. Returns where what surveys
    /// found stands in the journal.
    pub(super) fn gather(&mut self, rest: &mut Rest) -> Vec<(SurveyAt, u64, u32)> {
        let mut surveys = Vec::new();
        rest.step();
        while let Some(entry) = &rest.next {
            let n_found = entry.len().saturating_sub(SURVEY_HEAD);
            let Some(survey) = self.add(entry) else { break };
            // Rooms may follow it.
            let start = rest.at + (PREFIX + SURVEY_HEAD) as u64;
            surveys.extend(survey.map(|at| (at, start, n_found as u32)));
            rest.step();
        }
        self.follow();
        surveys
    }

    /// Adds an entry; of a survey, says of which. None if it is none that a run which came so far makes.
    fn add(&mut self, entry: &[u8]) -> Option<Option<SurveyAt>> {
        match Note::parse(entry).ok()? {
            Note::Surveyed(at, _) => Some(Some(at)),
            Note::Tile(note) => self.tile(note).map(|()| None),
            Note::Sealed(note) => self.sealed(note).map(|()| None),
            Note::Head(_) | Note::Value(_) | Note::Room(_) => None,
        }
    }

    /// The first tensor that is not sealed.
    fn tensor(&self) -> Option<usize> {
        let next = self.tensors.last().map_or(0, |last| last.tensor + 1);
        let n_tiles = self.expected.n_tiles;
        (next..n_tiles.len()).find(|i| n_tiles[*i] > 0)
    }

    /// Whether all is there.
    pub(super) fn is_whole(&self) -> bool {
        self.tensor().is_none()
    }

    /// The first tile that is not in its place.
    fn next_tile(&self) -> Option<TileKey> {
        let n_tiles = self.expected.n_tiles;
        let (mut tensor, mut part) = match self.tiles.last() {
            Some(last) => (last.note.tensor as usize, u64::from(last.note.part) + 1),
            None => (self.tensor()?, 0),
        };
        while part >= *n_tiles.get(tensor)? {
            (tensor, part) = (tensor + 1, 0);
        }
        Some((tensor as u32, part as u32))
    }

    /// Whether the variant has such a tile, and its tensor is not sealed.
    fn is_open(&self, note: &TileNote) -> bool {
        let tensor = note.tensor as usize;
        let n_tiles = self.expected.n_tiles.get(tensor).copied().unwrap_or(0);
        u64::from(note.part) < n_tiles && self.tensor().is_some_and(|first| first <= tensor)
    }

    fn tile(&mut self, note: TileNote) -> Option<()> {
        self.is_open(&note).then(|| self.noted.insert((note.tensor, note.part), note)).map(drop)
    }

    /// Goes on through the file as far as frames are in their places.
    fn follow(&mut self) {
        while let Some(key) = self.next_tile()
            && let Some(note) = self.noted.get(&key).copied()
            && let Some(codec) = self.codec(None, self.end, note)
        {
            self.tiles.push(KeptTile { note, offset: self.end, codec, room: None });
            self.end += u64::from(note.len);
        }
    }

    /// The codec of this tile's frame, if that is whole at an offset of the archive, or of another file.
    fn codec(&mut self, of: Option<&Held>, offset: u64, note: TileNote) -> Option<u16> {
        let frames = of.map_or(&self.frames, |held| &held.frames);
        let found = frames.read_whole(offset, note.len as usize, &mut self.stored).ok()?.label;
        let tensor = note.tensor as usize;
        let items = self.expected.items;
        let item = items.map_or(Some(note.tensor), |items| items.get(tensor).copied())?;
        let (variant, part) = (self.variant, note.part);
        let wanted = Label { kind: Kind::Tile, codec: 0, variant, item, part };
        found.is_but_for_codec(wanted).then_some(found.codec)
    }

    fn sealed(&mut self, note: SealNote) -> Option<()> {
        let tensor = self.tensor().filter(|i| *i == note.tensor as usize)?;
        self.follow();
        let n_tiles = usize::try_from(self.expected.n_tiles[tensor]).ok()?;
        // They are in their order.
        self.tiles.get(n_tiles - 1)?;
        let offset = self.tiles.first()?.offset;
        let mut seal = TensorSeal { offset, ..TensorSeal::default() };
        note.add_to(&mut seal);
        let mut sums = Sums::default();
        for KeptTile { note, .. } in self.tiles.drain(..n_tiles) {
            note.add_to(&mut seal);
            sums.add(&note.sums());
            self.noted.remove(&(note.tensor, note.part));
        }
        self.tensors.push(KeptTensor { tensor, seal, sums });
        Some(())
    }

    /// Adds the tiles of rooms whose frames are whole and not in their places.
    pub(super) fn take_rooms(&mut self, held: &Held, rooms: &[Room]) {
        for (i, room) in rooms.iter().enumerate() {
            let Some(note) = held.note(room).filter(|note| self.is_open(note)) else { continue };
            let key = (note.tensor, note.part);
            let offset = room.at + ROOM_HEAD as u64;
            if self.next_tile().is_some_and(|next| key >= next)
                && let Some(codec) = self.codec(Some(held), offset, note)
            {
                self.in_rooms.insert(key, KeptTile { note, offset, codec, room: Some(i) });
            }
        }
    }

    /// Moves frames from their rooms to their places, with `write`, as long as none is missing before them.
    /// Returns what these are.
    pub(super) fn move_up(
        &mut self,
        held: &Held,
        mut write: impl FnMut(&[u8], u64) -> Result<()>,
    ) -> Result<Vec<TileNote>> {
        let (mut moved, mut frame) = (Vec::new(), Vec::new());
        while let Some(key) = self.next_tile()
            && let Some(tile) = self.in_rooms.remove(&key)
        {
            held.frames.read(tile.offset, tile.note.len as usize, &mut frame)?;
            write(&frame, self.end)?;
            self.tiles.push(KeptTile { offset: self.end, room: None, ..tile });
            self.end += u64::from(tile.note.len);
            moved.push(tile.note);
            self.follow();
        }
        // One may have come into its place as it was noted twice.
        let next = self.next_tile();
        self.in_rooms.retain(|key, _| next.is_some_and(|next| *key > next));
        Ok(moved)
    }

    /// The rooms of frames that are nowhere else.
    pub(super) fn waiting(&self) -> impl Iterator<Item = usize> {
        self.in_rooms.values().filter_map(|tile| tile.room)
    }

    /// What need not be done again.
    pub(super) fn kept(self, archive: FrameStore, held: Held, surveys: Surveys) -> Kept {
        let in_place =
            self.tiles.into_iter().map(|tile| ((tile.note.tensor, tile.note.part), tile));
        let tiles = self.in_rooms.into_iter().chain(in_place).collect();
        Kept { tensors: self.tensors, tiles, frames: Some([archive, held.frames]), surveys }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::writer::journal::Journal;
    use crate::frame::Encoder;
    use std::io::Write;

    /// A file with frames of the parts 0, 1, ... of one tensor, and what a journal says of each.
    fn file(tensor: u32, n: u32) -> (FrameStore, Vec<TileNote>) {
        let (mut bytes, mut notes) = (Vec::new(), Vec::new());
        for part in 0..n {
            let before = bytes.len();
            let label = Label { kind: Kind::Tile, codec: 3, variant: 5, item: tensor, part };
            Encoder::new().unwrap().encode(label, &[1; 40], &mut bytes).unwrap();
            let len = (bytes.len() - before) as u32;
            notes.push(TileNote { tensor, part, len, squared_error: 0.5, ..TileNote::default() });
        }
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        (FrameStore::new(Arc::new(file), bytes.len() as u64), notes)
    }

    /// Variant 5 has three tiles of tensor 1 and one of tensor 2.
    const EXPECTED: Expected<'_> = Expected { n_tiles: &[0, 3, 1], items: None, is_last: true };
    const SEALED: SealNote = SealNote { tensor: 1, base_hash: 2, base_probe: 3, restored_hash: 4 };

    #[test]
    fn only_what_a_run_that_came_so_far_writes_is_taken() {
        let (frames, tiles) = file(1, 3);
        let none = SealNote { tensor: 0, ..SEALED };
        let mut found = Found::new(frames.clone(), 0, 5, EXPECTED);
        assert_eq!((found.sealed(none), found.sealed(SEALED)), (None, None));
        for (i, tile) in tiles.iter().enumerate() {
            assert_eq!(found.sealed(SEALED), None, "a seal before the last tile");
            for bad in [
                TileNote { tensor: 0, part: 0, ..*tile },
                TileNote { tensor: u32::MAX, ..*tile },
                TileNote { part: 3, ..*tile },
            ] {
                assert_eq!(found.tile(bad), None, "{bad:?}");
            }
            for bad in
                [TileNote { len: tile.len - 1, ..*tile }, TileNote { len: u32::MAX, ..*tile }]
            {
                assert_eq!(found.tile(bad), Some(()));
                found.follow();
                assert_eq!(found.tiles.len(), i, "{bad:?}");
            }
            assert_eq!(found.tile(*tile), Some(()));
            found.follow();
            assert_eq!((found.tiles.len(), found.tiles[i].codec), (i + 1, 3));
        }
        assert_eq!(found.sealed(SEALED), Some(()));
        let [kept] = &found.tensors[..] else { panic!("one tensor") };
        assert_eq!((kept.tensor, kept.seal.restored_hash, kept.seal.squared_error), (1, 4, 1.5));
        assert_eq!(kept.seal.frame_lens, tiles.iter().map(|t| t.len).collect::<Vec<_>>());
        assert_eq!(found.tile(tiles[0]), None, "a tile of a tensor that is sealed");
        // The next one's frame is not there.
        assert_eq!(found.tile(TileNote { tensor: 2, part: 0, ..tiles[0] }), Some(()));
        found.follow();
        assert!(found.tiles.is_empty() && !found.is_whole());
        // Nothing of another variant is.
        let mut other = Found::new(frames, 0, 6, EXPECTED);
        assert_eq!(other.tile(tiles[0]), Some(()));
        other.follow();
        assert!(other.tiles.is_empty());
    }

    /// What a run comes to whose tiles `in_place` are in the file, in this order, and `in_rooms` in rooms.
    fn found(in_place: &[u32], in_rooms: &[u32]) -> (Vec<u32>, Vec<u32>, u64) {
        let (frames, tiles) = file(1, 3);
        let dir = tempfile::tempdir().unwrap();
        let archive = dir.path().join("a.delta.zst");
        let mut journal = Journal::create(&archive, b"").unwrap();
        let mut frame = Vec::new();
        for part in in_rooms {
            let note = tiles[*part as usize];
            frames.read(u64::from(note.len * part), note.len as usize, &mut frame).unwrap();
            journal.hold(note, &frame).unwrap();
        }
        in_place.iter().for_each(|part| journal.note(Note::Tile(tiles[*part as usize])));
        journal.write_out().unwrap();
        let entries = Entries::open(&archive).unwrap().unwrap();
        let mut rest = Rest::new(&archive, entries, frames.clone());
        let mut found = Found::new(frames, 0, 5, EXPECTED);
        found.gather(&mut rest);
        assert_eq!((rest.rooms.len(), rest.next.is_none()), (in_rooms.len(), true));
        let held = rest.held().unwrap();
        found.take_rooms(&held, &rest.rooms);
        let moved = found.move_up(&held, |_, _| Ok(())).unwrap();
        let waiting = found.in_rooms.values().map(|tile| tile.note.part).collect();
        (moved.iter().map(|note| note.part).collect(), waiting, found.end / u64::from(tiles[0].len))
    }

    #[test]
    fn frames_of_rooms_come_into_their_places_once_those_before_them_are_there() {
        assert_eq!(found(&[], &[0, 1]), (vec![0, 1], vec![], 2));
        assert_eq!(found(&[], &[2, 1]), (vec![], vec![1, 2], 0));
        assert_eq!(found(&[0], &[2]), (vec![], vec![2], 1));
        assert_eq!(found(&[0, 2], &[1]), (vec![1], vec![], 3));
        assert_eq!(found(&[2, 0], &[1, 2]), (vec![1], vec![], 3));
        // It was put into its place, and its room is not used again yet.
        assert_eq!(found(&[0, 1], &[1]), (vec![], vec![], 2));
        // One that lies behind a missing one may be torn.
        assert_eq!(found(&[1, 2], &[]), (vec![], vec![], 0));
    }

    #[test]
    fn a_room_that_was_changed_holds_nothing() {
        let (frames, tiles) = file(1, 1);
        let dir = tempfile::tempdir().unwrap();
        let archive = dir.path().join("a.delta.zst");
        let mut frame = Vec::new();
        frames.read(0, tiles[0].len as usize, &mut frame).unwrap();
        let mut journal = Journal::create(&archive, b"").unwrap();
        journal.hold(tiles[0], &frame).unwrap();
        let path = journal::path(&archive);
        let bytes = std::fs::read(&path).unwrap();
        let at = bytes.len() - frame.len() - ROOM_HEAD;
        let n_found = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            let entries = Entries::open(&archive).unwrap().unwrap();
            let mut rest = Rest::new(&archive, entries, frames.clone());
            let mut found = Found::new(frames.clone(), 0, 5, EXPECTED);
            found.gather(&mut rest);
            found.take_rooms(&rest.held().unwrap(), &rest.rooms);
            found.in_rooms.len()
        };
        assert_eq!(n_found(&bytes), 1);
        for i in at..bytes.len() {
            let mut bad = bytes.clone();
            bad[i] ^= 1;
            assert_eq!((n_found(&bad), n_found(&bytes[..i])), (0, 0), "{i}");
        }
    }
}
