//! Tiles of a variant as workers finish them: what came of one is with the system before its worker begins
//! another, so that a kill costs no more than the tiles that workers are at. No loss of power is guarded
//! against here: nothing is synced.
//!
//! Frames stand in the archive in the order of tiles, so one has its place once all before it are finished. It
//! is then written there by its own worker. One that is finished earlier waits in a room of the journal, and
//! the sink writes it to its place when its turn comes.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Debug;
use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::archive::writer::ArchiveWriter;
use crate::archive::writer::found::{Kept, TileKey};
use crate::archive::writer::journal::Journal;
use crate::archive::writer::note::{Note, SealNote, SurveyAt, TileNote};
use crate::checkpoint::{Writeback, disk};
use crate::error::{Error, Result};

/// Takes what workers finish.
pub(crate) trait TakesTiles: Debug + Sync {
    /// Whether notes are taken.
    fn takes_notes(&self) -> bool;

    /// What a survey found, in bytes that mean nothing here.
    ///
    /// # Errors
    /// `Io`.
    fn surveyed(&self, at: SurveyAt, found: &[u8]) -> Result<()>;

    /// A finished frame: goes to the archive if it has its place there, or else to the journal.
    ///
    /// # Errors
    /// `Io`.
    fn encoded(&self, note: TileNote, frame: &[u8]) -> Result<()>;
}

/// Takes the tiles of one variant in their order.
pub(crate) trait TileSink: TakesTiles {
    /// The next tile in order, of the sink: its frame is written to its place if it is not there yet. Returns
    /// where that is.
    ///
    /// # Errors
    /// `Io`.
    fn due(&self, note: TileNote, frame: &[u8]) -> Result<u64>;

    /// The hashes of a tensor whose tiles were all due.
    ///
    /// # Errors
    /// `Io`.
    fn sealed(&self, note: SealNote) -> Result<()>;
}

/// Where tiles of one variant go, for workers and the sink together.
#[derive(Debug)]
pub(crate) struct TileLog<'a> {
    file: &'a File,
    path: &'a Path,
    dry: bool,
    shared: Mutex<Shared<'a>>,
    /// The sink's alone: it may wait for the disk.
    writeback: Mutex<&'a mut Writeback>,
}

#[derive(Debug)]
struct Shared<'a> {
    journal: Option<&'a mut Journal>,
    /// Where the last tile that has a place ends.
    at: &'a mut u64,
    /// Tiles that have no place yet, in order: tensors and ranges of their tiles.
    open: VecDeque<(u32, Range<u32>)>,
    /// Tiles that are finished and have no place yet: bytes of their frames, and their rooms.
    waiting: BTreeMap<TileKey, (u32, usize)>,
    /// Offsets of tiles that have a place and whose turn has not come, with the rooms of those that are not
    /// written there yet.
    placed: BTreeMap<TileKey, (u64, Option<usize>)>,
}

impl Shared<'_> {
    /// The first tile that has no place.
    fn next(&self) -> Option<TileKey> {
        self.open.front().map(|(tensor, parts)| (*tensor, parts.start))
    }

    /// Goes on behind it.
    fn step(&mut self) {
        if let Some((_, parts)) = self.open.front_mut() {
            parts.start += 1;
            if parts.start >= parts.end {
                self.open.pop_front();
            }
        }
    }

    /// Gives the next tile its place, behind all others.
    fn place(&mut self, len: u32) -> u64 {
        let offset = *self.at;
        *self.at += u64::from(len);
        self.step();
        offset
    }

    /// Writes down what has come of a tile.
    fn note(&mut self, note: Note<'_>) -> Result<()> {
        let Some(journal) = &mut self.journal else { return Ok(()) };
        journal.note(note);
        journal.write_out()
    }
}

impl ArchiveWriter {
    /// Begins to take tiles of the variant whose head was written: `order` has tensors and ranges of their
    /// tiles that are to be encoded, in file order, `kept` what was there before.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn tiles(
        &mut self,
        order: impl Iterator<Item = (u32, Range<u32>)>,
        kept: Option<&Kept>,
    ) -> Result<TileLog<'_>> {
        self.flush()?;
        let Self { file, path, dry, journal, at, writeback, .. } = self;
        let open = order.filter(|(_, parts)| parts.start < parts.end).collect();
        let (waiting, placed) = (BTreeMap::new(), BTreeMap::new());
        let mut shared = Shared { journal: journal.as_mut(), at, open, waiting, placed };
        if let Some(kept) = kept {
            let waiting = kept.waiting().map(|(key, note, room)| (*key, (note.len, room)));
            shared.waiting = waiting.collect();
            let is_there = |(tensor, part): TileKey| {
                let tile = kept.tile(tensor as usize, part.into());
                tile.is_some_and(|tile| tile.is_in_archive())
            };
            while shared.next().is_some_and(is_there) {
                shared.step();
            }
        }
        let (shared, writeback) = (Mutex::new(shared), Mutex::new(writeback));
        Ok(TileLog { file, path, dry: *dry, shared, writeback })
    }
}

impl<'a> TileLog<'a> {
    fn shared(&self) -> MutexGuard<'_, Shared<'a>> {
        // Whoever panicked with it ends the run.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, frame: &[u8], offset: u64) -> Result<()> {
        disk::write_all_at(self.file, frame, offset)
            .map_err(|e| Error::io("write to", self.path, e))
    }
}

impl TakesTiles for TileLog<'_> {
    fn takes_notes(&self) -> bool {
        self.shared().journal.is_some()
    }

    fn surveyed(&self, at: SurveyAt, found: &[u8]) -> Result<()> {
        self.shared().note(Note::Surveyed(at, found))
    }

    fn encoded(&self, note: TileNote, frame: &[u8]) -> Result<()> {
        let key = (note.tensor, note.part);
        let mut shared = self.shared();
        let is_new = !shared.waiting.contains_key(&key) && !shared.placed.contains_key(&key);
        let next = shared.next();
        let Some(journal) = shared.journal.as_mut().filter(|_| is_new) else { return Ok(()) };
        if next != Some(key) {
            let room = journal.hold(note, frame)?;
            shared.waiting.insert(key, (note.len, room));
            return Ok(());
        }
        self.write(frame, *shared.at)?;
        let offset = shared.place(note.len);
        shared.placed.insert(key, (offset, None));
        shared.note(Note::Tile(note))?;
        while let Some(key) = shared.next()
            && let Some((len, room)) = shared.waiting.remove(&key)
        {
            let offset = shared.place(len);
            shared.placed.insert(key, (offset, Some(room)));
        }
        Ok(())
    }
}

impl TileSink for TileLog<'_> {
    fn due(&self, note: TileNote, frame: &[u8]) -> Result<u64> {
        let key = (note.tensor, note.part);
        let (offset, is_there, room) = {
            let mut shared = self.shared();
            match shared.placed.remove(&key) {
                Some((offset, room)) => (offset, room.is_none(), room),
                // Nothing is noted, so its worker did not write it.
                None => (shared.place(note.len), false, None),
            }
        };
        if self.dry {
            return Ok(offset);
        }
        if !is_there {
            self.write(frame, offset)?;
            let mut shared = self.shared();
            shared.note(Note::Tile(note))?;
            if let (Some(journal), Some(room)) = (&mut shared.journal, room) {
                journal.set_used(room, false);
            }
        }
        let mut writeback = self.writeback.lock().unwrap_or_else(PoisonError::into_inner);
        let sent = writeback.wrote(self.file, offset, frame.len() as u64);
        sent.map_err(|e| Error::io("sync", self.path, e))?;
        Ok(offset)
    }

    /// If that is lost, these are decoded again.
    fn sealed(&self, note: SealNote) -> Result<()> {
        if let Some(journal) = &mut self.shared().journal {
            journal.note(Note::Sealed(note));
        }
        Ok(())
    }
}
