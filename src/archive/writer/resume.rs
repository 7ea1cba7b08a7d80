//! What a run that was cut off leaves behind, and how the next one goes on from there.
//!
//! Beside the file that is being written stands a [journal]. A run that resumes holds it
//! to its own inputs and settings, and the frames it speaks of to their checksums; tiles that pass are
//! neither surveyed nor encoded again: with them it writes the bytes that a run that was never cut off
//! writes.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64;

use crate::archive::record::{Head, TensorSeal};
use crate::archive::store::FrameStore;
use crate::archive::writer::journal::{
    self, Entries, Journal, KeptTensor, Note, SURVEY_HEAD, SealNote, Sums, SurveyAt, Surveys,
    TileNote,
};
use crate::archive::writer::{ArchiveWriter, Place};
use crate::checkpoint::disk::{self, TempPath};
use crate::error::{Error, Result};
use crate::frame::{Kind, Label};
use crate::wire::Writer;

/// Elements that are worked on between two writes of what came of them: a quarter of a full tile. So little is
/// lost by a kill, and the writes are no part of the time that so many elements take.
const SAVED_EVERY: u64 = 1 << 18;

/// Changes with what the journal's entries mean.
const JOURNAL_VERSION: u32 = 3;

/// A tile of a tensor that was not finished: its frame is kept, but the tensor's hashes need its bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct KeptTile {
    pub(crate) note: TileNote,
    /// Where its frame stands.
    pub(crate) offset: u64,
    pub(crate) codec: u16,
}

/// What an earlier run did that need not be done again.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    /// Tensors whose frames are all there, in file order.
    pub(crate) tensors: Vec<KeptTensor>,
    /// Tiles of the one after these, from its first on.
    pub(crate) tiles: Vec<KeptTile>,
    /// The frames of the file, where there are such tiles.
    pub(crate) frames: Option<FrameStore>,
    pub(crate) surveys: Surveys,
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
    entries: Entries<BufReader<File>>,
    /// The next entry.
    next: Option<Vec<u8>>,
    /// Where it begins.
    at: u64,
    frames: FrameStore,
}

impl Rest {
    /// Goes on behind the next entry.
    fn step(&mut self) {
        self.at = self.entries.end;
        self.next = self.entries.next().map(<[u8]>::to_vec);
    }
}

impl Kept {
    /// Tensors from the first on that are done.
    pub(crate) fn n_tensors(&self) -> usize {
        self.tensors.last().map_or(0, |last| last.tensor + 1)
    }
}

impl ArchiveWriter {
    /// Begins to take notes, and goes on with those of an earlier run if this one resumes. `stands_on` is a hash
    /// of all that decides what will be written.
    ///
    /// # Errors
    /// `InvalidArgument` if the earlier run stood on something else.
    pub(crate) fn take_notes(&mut self, stands_on: u64) -> Result<()> {
        if self.dry {
            return Ok(());
        }
        let identity = identity((self.at, self.generation), stands_on);
        if self.resumes {
            self.rest = left_behind(&self.path, &identity, &self.file)?;
        }
        if self.rest.is_some() {
            return Ok(());
        }
        if self.resumes {
            self.cut(self.at)?;
        }
        self.journal = Some(Journal::create(&self.path, &identity)?);
        Ok(())
    }

    /// Writes the head of the next variant; behind it the frames are kept that an earlier run wrote, if this one
    /// resumes. `inputs` is a hash of the state of the files that are read for it.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn begin(
        &mut self,
        head: &Head,
        inputs: u64,
        expected: Expected<'_>,
    ) -> Result<(Place, Kept)> {
        if self.dry {
            return Ok((self.write_head(head)?, Kept::default()));
        }
        let mut frame = Vec::new();
        let variant = self.variant_id();
        let label = Label { kind: Kind::Head, codec: 0, variant, item: 0, part: 0 };
        self.encoder.encode(label, &head.to_bytes()?, &mut frame)?;
        let hash = xxh3_64(&[xxh3_64(&frame), inputs].map(u64::to_le_bytes).concat());
        let is_head = |next: &Vec<u8>| matches!(Note::parse(next), Ok(Note::Head(h)) if h == hash);
        let goes_on = self.rest.as_ref().and_then(|rest| rest.next.as_ref()).is_some_and(is_head);
        if !goes_on {
            self.end_replay()?;
        }
        let place = Place { offset: self.write(&frame)?, len: frame.len() as u64 };
        self.note(Note::Head(hash));
        self.flush()?;
        let Some(mut rest) = self.rest.take() else { return Ok((place, Kept::default())) };
        let frames = rest.frames.clone();
        let mut found = Found::new(&frames, self.at, variant, expected);
        let surveys = found.gather(&mut rest);
        let is_whole = found.tensor().is_none();
        let Found { tensors, tiles, end, .. } = found;
        let frames = (!tiles.is_empty()).then(|| frames.clone());
        let surveys = Surveys::open(&self.path, surveys)?;
        self.at = end;
        self.rest = Some(rest);
        if expected.is_last || !is_whole {
            self.end_replay()?;
        }
        Ok((place, Kept { tensors, tiles, frames, surveys }))
    }

    /// What an earlier run computed at this place; then nothing of what it did from here on is other than what
    /// this one will do.
    pub(crate) fn recall(&mut self) -> Result<Option<Vec<u8>>> {
        if let Some(rest) = &mut self.rest
            && let Some(Ok(Note::Value(value))) = rest.next.as_deref().map(Note::parse)
        {
            let value = value.to_vec();
            rest.step();
            return Ok(Some(value));
        }
        self.end_replay()?;
        Ok(None)
    }

    /// From here on nothing is known: cuts file and journal, and takes notes.
    fn end_replay(&mut self) -> Result<()> {
        let Some(rest) = self.rest.take() else { return Ok(()) };
        self.flush()?;
        self.cut(self.at)?;
        self.journal = Some(Journal::go_on(&self.path, rest.at)?);
        Ok(())
    }

    /// Drops what an earlier run left.
    pub(super) fn start_over(&self) -> Result<()> {
        journal::remove(&self.path)?;
        self.cut(self.start)
    }

    /// Cuts the file. On disk, too, or a loss of power could bring the tail back under what is written over
    /// it: a footer that an append wrote before its last sync failed would then stand for torn frames. Of
    /// an archive so even if nothing is behind `end`: it may just have been cut, and not on disk.
    fn cut(&self, end: u64) -> Result<()> {
        let cut = || match &self.temp {
            Some(_) if self.file.metadata()?.len() <= end => Ok(()),
            _ => disk::set_len(&self.file, end).and_then(|()| disk::sync_data(&self.file)),
        };
        cut().map_err(|e| Error::io("drop the torn tail of", &self.path, e))
    }

    /// Ends a run that did not commit: leaves what is done to one that resumes, or takes it back.
    pub(super) fn give_up(&mut self) {
        if self.resumes {
            // Whatever fails here is only done again.
            let _ = self.flush();
            let _ = self.temp.take().map(TempPath::keep);
            self.journal.take().into_iter().for_each(Journal::leave);
        } else if self.temp.is_none() {
            // The next append drops a torn tail anyway; this only gives the space back sooner.
            let _ = disk::set_len(&self.file, self.start);
        }
    }

    /// Takes note of what a run that resumes need not do again.
    pub(crate) fn note(&mut self, note: Note<'_>) {
        if let Some(journal) = &mut self.journal {
            journal.note(note);
        }
    }

    /// Takes note of something that was computed, for [`Self::recall`].
    pub(crate) fn remember(&mut self, value: &[u8]) -> Result<()> {
        self.note(Note::Value(value));
        self.flush()
    }

    /// Whether notes are taken.
    pub(crate) fn takes_notes(&self) -> bool {
        self.journal.is_some()
    }

    /// After so many more elements were worked on and taken note of: writes what has gathered, once it is
    /// enough.
    pub(crate) fn worked(&mut self, n_elements: u64) -> Result<()> {
        self.unsaved += n_elements;
        if self.unsaved < SAVED_EVERY || self.journal.is_none() {
            return Ok(());
        }
        self.flush()
    }
}

/// What a run stands on: where it begins, and a hash of all that decides about it.
fn identity((start, generation): (u64, u32), stands_on: u64) -> Vec<u8> {
    let mut w = Writer::default();
    w.u64(start);
    w.u32(generation);
    w.u64(stands_on);
    w.u32(JOURNAL_VERSION);
    w.0
}

/// Bytes of an identity that say where the run begins.
const PLACE: usize = 12;

/// What an earlier run left of an archive. None if it left nothing.
///
/// # Errors
/// `InvalidArgument` if the earlier run stood on other inputs or settings.
fn left_behind(archive: &Path, identity: &[u8], file: &Arc<File>) -> Result<Option<Rest>> {
    let Some(mut entries) = Entries::open(archive)? else { return Ok(None) };
    match entries.next() {
        Some(first) if first == identity => {}
        // Of a run that was committed, or whose file is gone.
        Some(first) if first.get(..PLACE) != identity.get(..PLACE) => return Ok(None),
        None => return Ok(None),
        Some(_) => {
            return Err(Error::invalid_argument(format!(
                "what an earlier run left of {} was made of other files or with other settings, or the files \
                 were written to since; run without --resume to start again",
                archive.display()
            )));
        }
    }
    let len = file.metadata().map_err(|e| Error::io("examine", archive, e))?.len();
    let frames = FrameStore::new(Arc::clone(file), len);
    let mut rest = Rest { entries, next: None, at: 0, frames };
    rest.step();
    Ok(Some(rest))
}

/// What the entries of a journal come to, held to a file.
struct Found<'a> {
    /// The file, and where the last frame that is whole ends.
    frames: &'a FrameStore,
    end: u64,
    /// Id that the frames carry.
    variant: u32,
    expected: Expected<'a>,
    tensors: Vec<KeptTensor>,
    /// Tiles of the tensor after these.
    tiles: Vec<KeptTile>,
    stored: Vec<u8>,
}

impl<'a> Found<'a> {
    fn new(frames: &'a FrameStore, end: u64, variant: u32, expected: Expected<'a>) -> Self {
        let (tensors, tiles, stored) = (Vec::new(), Vec::new(), Vec::new());
        Self { frames, end, variant, expected, tensors, tiles, stored }
    }

    /// Adds the entries behind a head, up to the first that is none of its variant. Returns where what surveys
    /// found stands in the journal.
    fn gather(&mut self, rest: &mut Rest) -> Vec<(SurveyAt, u64, u32)> {
        let mut surveys = Vec::new();
        rest.step();
        while let Some(entry) = &rest.next {
            let n = entry.len();
            let Some(survey) = self.add(entry) else { break };
            rest.step();
            surveys.extend(survey.map(|at| {
                let n_found = n - SURVEY_HEAD;
                (at, rest.at - n_found as u64, n_found as u32)
            }));
        }
        surveys
    }

    /// Adds an entry; of a survey, says of which. None if it is none that a run which came so far makes, or
    /// its frame is not whole in the file.
    fn add(&mut self, entry: &[u8]) -> Option<Option<SurveyAt>> {
        match Note::parse(entry).ok()? {
            Note::Surveyed(at, _) => Some(Some(at)),
            Note::Tile(note) => self.tile(note).map(|()| None),
            Note::Sealed(note) => self.sealed(note).map(|()| None),
            Note::Head(_) | Note::Value(_) => None,
        }
    }

    /// The tensor whose frames come next.
    fn tensor(&self) -> Option<usize> {
        let next = self.tensors.last().map_or(0, |last| last.tensor + 1);
        let n_tiles = self.expected.n_tiles;
        (next..n_tiles.len()).find(|i| n_tiles[*i] > 0)
    }

    fn tile(&mut self, note: TileNote) -> Option<()> {
        let tensor = self.tensor().filter(|i| *i == note.tensor as usize)?;
        let part = self.tiles.len() as u64;
        if u64::from(note.part) != part || part == self.expected.n_tiles[tensor] {
            return None;
        }
        let len = note.len as usize;
        let found = self.frames.read_whole(self.end, len, &mut self.stored).ok()?.label;
        let item =
            self.expected.items.map_or(Some(note.tensor), |items| items.get(tensor).copied())?;
        let part = note.part;
        let wanted = Label { kind: Kind::Tile, codec: 0, variant: self.variant, item, part };
        if !found.is_but_for_codec(wanted) {
            return None;
        }
        self.tiles.push(KeptTile { note, offset: self.end, codec: found.codec });
        self.end += u64::from(note.len);
        Some(())
    }

    fn sealed(&mut self, note: SealNote) -> Option<()> {
        let tensor = self.tensor().filter(|i| *i == note.tensor as usize)?;
        if self.tiles.len() as u64 != self.expected.n_tiles[tensor] {
            return None;
        }
        let mut seal = TensorSeal {
            base_hash: note.base_hash,
            base_probe: note.base_probe,
            restored_hash: note.restored_hash,
            offset: self.tiles.first()?.offset,
            ..TensorSeal::default()
        };
        let mut sums = Sums::default();
        for KeptTile { note, .. } in self.tiles.drain(..) {
            seal.frame_lens.push(note.len);
            seal.squared_error += note.squared_error;
            seal.squared_delta += note.squared_delta;
            sums.add(&note.sums());
        }
        self.tensors.push(KeptTensor { tensor, seal, sums });
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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

    #[test]
    fn only_what_a_run_that_came_so_far_writes_is_taken() {
        let (frames, tiles) = file(1, 3);
        let sealed = SealNote { tensor: 1, base_hash: 2, base_probe: 3, restored_hash: 4 };
        let none = SealNote { tensor: 0, ..sealed };
        // Tensor 0 has no tiles.
        let n_tiles = Expected { n_tiles: &[0, 3, 1], items: None, is_last: true };
        let mut found = Found::new(&frames, 0, 5, n_tiles);
        assert_eq!((found.sealed(none), found.sealed(sealed)), (None, None));
        assert_eq!(found.tile(tiles[1]), None, "a tile after one that is missing");
        for (i, tile) in tiles.iter().enumerate() {
            assert_eq!(found.sealed(sealed), None, "a seal before the last tile");
            for bad in [
                TileNote { tensor: 2, ..*tile },
                TileNote { tensor: u32::MAX, ..*tile },
                TileNote { part: 3, ..*tile },
                TileNote { len: tile.len - 1, ..*tile },
                TileNote { len: u32::MAX, ..*tile },
            ] {
                assert_eq!(found.tile(bad), None, "{bad:?}");
            }
            assert_eq!(found.tile(*tile), Some(()));
            assert_eq!((found.tiles.len(), found.tiles[i].codec), (i + 1, 3));
        }
        assert_eq!(found.tile(TileNote { part: 3, ..tiles[0] }), None, "more tiles than there are");
        assert_eq!(found.sealed(sealed), Some(()));
        let [kept] = &found.tensors[..] else { panic!("one tensor") };
        assert_eq!((kept.tensor, kept.seal.restored_hash, kept.seal.squared_error), (1, 4, 1.5));
        assert_eq!(kept.seal.frame_lens, tiles.iter().map(|t| t.len).collect::<Vec<_>>());
        // The next one's frame is not there.
        assert_eq!(found.tile(TileNote { tensor: 2, part: 0, ..tiles[0] }), None);
        // Nothing of another variant is.
        assert_eq!(Found::new(&frames, 0, 6, n_tiles).tile(tiles[0]), None);
    }
}
