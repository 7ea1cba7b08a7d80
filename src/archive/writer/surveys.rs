//! What surveys of a run that was cut off found, or of other parts: it stays in its file until it is asked for.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::archive::writer::journal::path;
use crate::archive::writer::note::SurveyAt;
use crate::error::{Error, Result};

/// What surveys found before; it stays in a journal or part until it is asked for.
#[derive(Debug, Default)]
pub(crate) struct Surveys {
    /// The file, unless nothing is in it.
    file: Option<(File, PathBuf)>,
    /// Where each stands in it, and its bytes; ascending once it is complete.
    places: Vec<(SurveyAt, u64, u32)>,
}

impl Surveys {
    /// Those of these places in the journal beside an archive.
    pub(super) fn open(archive: &Path, places: Vec<(SurveyAt, u64, u32)>) -> Result<Self> {
        let path = path(archive);
        let file = File::open(&path).map_err(|e| Error::io("open", &path, e))?;
        Ok(Self::of(file, path, places))
    }

    /// Those of these places in an open file; `path` is for messages.
    pub(in crate::archive) fn of(
        file: File,
        path: PathBuf,
        mut places: Vec<(SurveyAt, u64, u32)>,
    ) -> Self {
        places.sort_unstable();
        Self { file: Some((file, path)), places }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::writer::journal::Journal;
    use crate::archive::writer::note::Note;

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
            let end = std::fs::metadata(path(&archive)).unwrap().len();
            places.push((at(tensor), end - found.len() as u64, found.len() as u32));
        }
        let surveys = Surveys::open(&archive, places).unwrap();
        assert_eq!(surveys.read(at(3)).unwrap(), Some(b"abc".to_vec()));
        assert_eq!(surveys.read(at(1)).unwrap(), Some(b"d".to_vec()));
        assert_eq!((surveys.read(at(2)).unwrap(), surveys.has(at(2))), (None, false));
        assert!(surveys.has(at(1)) && surveys.resident_bytes() >= 48);
        assert_eq!(Surveys::default().read(at(1)).unwrap(), None);
    }
}
