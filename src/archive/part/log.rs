//! Where the tiles of a share go as they are worked on: into its part.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::archive::part::{Entry, PartWriter};
use crate::archive::writer::{Note, SealNote, SurveyAt, TakesTiles, TileNote, TileSink};
use crate::error::Result;

/// Takes what surveys found in a round that surveys, and frames in the one that encodes.
#[derive(Debug)]
pub(crate) struct PartLog<'a> {
    part: Mutex<&'a mut PartWriter>,
    surveys: bool,
}

impl<'a> PartLog<'a> {
    /// Writes to this part; `surveys` is whether it has what surveys find.
    pub(crate) fn new(part: &'a mut PartWriter, surveys: bool) -> Self {
        Self { part: Mutex::new(part), surveys }
    }

    fn part(&self) -> MutexGuard<'_, &'a mut PartWriter> {
        // Whoever panicked with it ends the run.
        self.part.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl TakesTiles for PartLog<'_> {
    fn takes_notes(&self) -> bool {
        self.surveys
    }

    fn surveyed(&self, at: SurveyAt, found: &[u8]) -> Result<()> {
        self.part().enter(&Entry::Note(Note::Surveyed(at, found)))
    }

    /// Frames go to the part in their order, so not before they are due.
    fn encoded(&self, _note: TileNote, _frame: &[u8]) -> Result<()> {
        Ok(())
    }
}

impl TileSink for PartLog<'_> {
    /// Its place in the archive is not known yet, and said to be 0.
    fn due(&self, note: TileNote, frame: &[u8]) -> Result<u64> {
        self.part().enter_frame(&Entry::Note(Note::Tile(note)), frame).map(|()| 0)
    }

    fn sealed(&self, note: SealNote) -> Result<()> {
        self.part().enter(&Entry::Note(Note::Sealed(note)))
    }
}
