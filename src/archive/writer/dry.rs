//! Writers without a place: what a generation would add is known to the byte, and nothing is written under any
//! name.

use std::path::Path;

use crate::archive::format::PREAMBLE;
use crate::archive::index::Index;
use crate::archive::reader::Archive;
use crate::archive::writer::{ArchiveWriter, next_generation};
use crate::checkpoint::{Locked, disk};
use crate::error::{Error, Result};

impl ArchiveWriter {
    /// Starts an archive that counts its bytes and is never written.
    pub(crate) fn dry() -> Result<Self> {
        Self::dry_new(Index::default(), 1)
    }

    /// As [`Self::dry`], with these numbers.
    pub(in crate::archive) fn dry_new(index: Index, generation: u32) -> Result<Self> {
        let mut writer = Self::unplaced(0, index, generation, 0)?;
        writer.write(PREAMBLE)?;
        Ok(writer)
    }

    /// Counts the bytes of a generation behind those of an archive.
    pub(in crate::archive) fn dry_behind(archive: Archive) -> Result<Self> {
        let generation = next_generation(&archive)?;
        let end = archive.committed_len();
        Self::unplaced(end, archive.index, generation, archive.footer.offset)
    }

    fn unplaced(start: u64, index: Index, generation: u32, previous: u64) -> Result<Self> {
        let path = Path::new("an archive that is not written");
        let file = disk::create_unnamed().map_err(|e| Error::io("create a file for", path, e))?;
        let mut writer =
            Self::new(Locked::unneeded(file), path, start, index, generation, previous)?;
        (writer.dry, writer.counts) = (true, true);
        Ok(writer)
    }

    /// Keeps what follows in a file without a name until the end, so that it can be read back.
    pub(in crate::archive) fn kept_meanwhile(mut self) -> Self {
        self.counts = false;
        self
    }

    /// Counts the bytes of what [`Self::replace`] starts.
    pub(in crate::archive) fn dry_replace(old: &Archive) -> Result<Self> {
        let index = Index { next_id: old.index.next_id, entries: Vec::new() };
        Self::dry_new(index, next_generation(old)?)
    }
}
