//! What a run that was cut off leaves behind, and how the next one goes on from there.
//!
//! Beside the file that is being written stands a [journal]. A run that resumes holds it
//! to its own inputs and settings, and the frames it speaks of to their checksums; tiles that pass are
//! neither surveyed nor encoded again: with them it writes the bytes that a run that was never cut off
//! writes.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64;

use crate::archive::record::Head;
use crate::archive::store::FrameStore;
use crate::archive::writer::found::{Expected, Found, Kept, Rest};
use crate::archive::writer::journal::{self, Entries, Journal};
use crate::archive::writer::note::Note;
use crate::archive::writer::surveys::Surveys;
use crate::archive::writer::{ArchiveWriter, Place};
use crate::checkpoint::disk::{self, TempPath};
use crate::error::{Error, Result};
use crate::frame::{Kind, Label};
use crate::wire::Writer;

/// Changes with what the journal's entries mean.
const JOURNAL_VERSION: u32 = 4;

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
        let mut found = Found::new(rest.frames.clone(), self.at, variant, expected);
        let surveys = Surveys::open(&self.path, found.gather(&mut rest))?;
        let held = rest.held()?;
        found.take_rooms(&held, &rest.rooms);
        let moved = found.move_up(&held, |frame, offset| {
            let wrote = disk::write_all_at(&self.file, frame, offset);
            wrote.map_err(|e| Error::io("write to", &self.path, e))
        })?;
        self.at = found.end;
        self.rest = Some(rest);
        if expected.is_last || !found.is_whole() {
            self.end_replay()?;
        }
        if let Some(journal) = &mut self.journal {
            moved.iter().for_each(|note| journal.note(Note::Tile(*note)));
            found.waiting().for_each(|room| journal.set_used(room, true));
            journal.write_out()?;
        }
        let frames = FrameStore::new(Arc::clone(&self.file), self.at);
        Ok((place, found.kept(frames, held, surveys)))
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
        self.journal = Some(Journal::go_on(&self.path, rest.at, rest.rooms)?);
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
    Ok(Some(Rest::new(archive, entries, frames)))
}
