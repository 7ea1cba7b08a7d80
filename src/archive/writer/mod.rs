//! Creates an archive, appends a generation to one or replaces one, so that a crash at any write leaves the
//! previous generation readable.
//!
//! Order: lock, drop a torn tail, sync, frames, index, sync, footer, sync; for a new file then rename and
//! sync the directory. A writer dropped before its commit takes back what it wrote, or leaves it to a
//! run that resumes.

mod dry;
mod found;
mod journal;
mod note;
mod resume;
mod surveys;
mod tiles;

use std::fs::Permissions;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::archive::format::{FOOTER_LEN, FORMAT_VERSION, Footer, PREAMBLE};
use crate::archive::index::{Index, IndexEntry};
use crate::archive::lock::{check_is_at, open_archive, open_partial, refuse_existing};
use crate::archive::parity;
use crate::archive::reader::Archive;
use crate::archive::record::{Head, Seal};
use crate::archive::store::FrameStore;
use crate::archive::writer::found::Rest;
pub(crate) use crate::archive::writer::found::{Expected, Kept, KeptTile};
use crate::archive::writer::journal::Journal;
#[cfg(feature = "fuzzing")]
pub(crate) use crate::archive::writer::journal::entries;
pub(crate) use crate::archive::writer::note::{Note, SealNote, Sums, SurveyAt, TileNote};
pub(crate) use crate::archive::writer::surveys::Surveys;
pub(crate) use crate::archive::writer::tiles::{TakesTiles, TileSink};
use crate::checkpoint::{Locked, Writeback, disk, sync_dir};
use crate::error::{Error, Result};
use crate::frame::{Encoder, Kind, Label};

/// Bytes gathered before they are written.
const BUFFER: usize = 1 << 20;

/// Where a frame went.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(crate) offset: u64,
    pub(crate) len: u64,
}

/// An archive being written: one generation, with the variants and base vectors it adds.
pub(crate) struct ArchiveWriter {
    file: Locked,
    path: PathBuf,
    /// A new archive grows under a temporary name.
    temp: Option<disk::TempPath>,
    force: bool,
    /// Whether it goes on with what an earlier run left, and leaves what it wrote to a later one.
    resumes: bool,
    journal: Option<Journal>,
    /// What an earlier run noted, as long as this one follows it; nothing is noted meanwhile.
    rest: Option<Rest>,
    buffer: Vec<u8>,
    /// File offset of the end of the buffer.
    at: u64,
    writeback: Writeback,
    /// Where this generation starts; the file is cut back to it if the writer is dropped.
    start: u64,
    committed: bool,
    /// Has no place: no archive comes of it.
    dry: bool,
    /// Whether what it is given is only counted.
    counts: bool,
    index: Index,
    generation: u32,
    previous: u64,
    encoder: Encoder,
    frame: Vec<u8>,
}

impl ArchiveWriter {
    /// Starts a new archive that will stand at `path` once committed.
    ///
    /// # Errors
    /// `InvalidArgument` if `path` exists and `force` is not given; `Io` if another process writes it.
    pub(crate) fn create(path: &Path, force: bool, resumes: bool) -> Result<Self> {
        refuse_existing(path, force)?;
        let mut writer = Self::temporary(path, "partial", Index::default(), 1)?;
        (writer.force, writer.resumes) = (force, resumes);
        if !resumes {
            writer.start_over()?;
        }
        Ok(writer)
    }

    /// As [`Self::create`], with numbers that go on from those of an archive that is lost.
    pub(super) fn rebuild(path: &Path, force: bool, next_id: u32, generation: u32) -> Result<Self> {
        let mut writer = Self::create(path, force, false)?;
        writer.index.next_id = next_id;
        writer.generation = generation;
        Ok(writer)
    }

    /// Starts the next generation of the archive at `path`. A torn tail is dropped, at the latest once
    /// it is known what of it is kept.
    ///
    /// # Errors
    /// `Io` if another process is writing to it; what [`Archive::open`] says.
    pub(crate) fn append(path: &Path, resumes: bool) -> Result<Self> {
        let (file, archive) = open_archive(path)?;
        let mut writer = Self::behind(file, archive, path)?;
        writer.resumes = resumes;
        if !resumes {
            writer.start_over()?;
        }
        Ok(writer)
    }

    /// As [`Self::append`], with an archive that was opened with the lock already.
    pub(super) fn go_on(file: Locked, archive: Archive, path: &Path) -> Result<Self> {
        let writer = Self::behind(file, archive, path)?;
        writer.start_over()?;
        Ok(writer)
    }

    fn behind(file: Locked, archive: Archive, path: &Path) -> Result<Self> {
        let generation = next_generation(&archive)?;
        let end = archive.committed_len();
        Self::new(file, path, end, archive.index, generation, archive.footer.offset)
    }

    /// Starts a new file that will stand in the place of the archive `old` at `path` once committed:
    /// as yet without variants, with the next generation's number.
    pub(super) fn replace(path: &Path, old: &Archive) -> Result<Self> {
        let index = Index { next_id: old.index.next_id, entries: Vec::new() };
        let mut writer = Self::temporary(path, "compact", index, next_generation(old)?)?;
        writer.force = true;
        writer.start_over()?;
        Ok(writer)
    }

    /// Starts a file under a temporary name beside `path`, with whatever an earlier run left in it.
    fn temporary(path: &Path, role: &str, index: Index, generation: u32) -> Result<Self> {
        let (file, temp) = open_partial(path, role)?;
        let mut writer = Self::new(file, path, 0, index, generation, 0)?;
        writer.temp = Some(temp);
        writer.write(PREAMBLE)?;
        Ok(writer)
    }

    fn new(
        file: Locked,
        path: &Path,
        start: u64,
        index: Index,
        generation: u32,
        previous: u64,
    ) -> Result<Self> {
        Ok(Self {
            file,
            path: path.to_owned(),
            temp: None,
            force: false,
            resumes: false,
            journal: None,
            rest: None,
            buffer: Vec::with_capacity(BUFFER),
            at: start,
            writeback: Writeback::default(),
            start,
            committed: false,
            dry: false,
            counts: false,
            index,
            generation,
            previous,
            encoder: Encoder::new()?,
            frame: Vec::new(),
        })
    }

    /// The id the new variant's frames carry.
    pub(crate) fn variant_id(&self) -> u32 {
        self.index.next_id
    }

    /// Names of the variants and base vectors that the archive has.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.index.entries.iter().map(|v| v.name.as_str())
    }

    /// Whether the archive has a variant or base vector of this name.
    pub(super) fn has_variant(&self, name: &str) -> bool {
        self.index.entries.iter().any(|v| v.name == name)
    }

    /// Appends bytes; returns where they start.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<u64> {
        let offset = self.at;
        if self.counts {
            self.at += bytes.len() as u64;
            return Ok(offset);
        }
        if self.buffer.len() + bytes.len() > BUFFER {
            self.flush()?;
        }
        if bytes.len() > BUFFER {
            self.write_out(offset, bytes)?;
        } else {
            self.buffer.extend(bytes);
        }
        self.at += bytes.len() as u64;
        Ok(offset)
    }

    /// Appends one frame made of `raw`.
    pub(crate) fn write_frame(&mut self, label: Label, raw: &[u8]) -> Result<Place> {
        let mut frame = std::mem::take(&mut self.frame);
        frame.clear();
        self.encoder.encode(label, raw, &mut frame)?;
        let place = Place { offset: self.write(&frame)?, len: frame.len() as u64 };
        self.frame = frame;
        Ok(place)
    }

    /// Writes the head of the new variant; its tiles follow.
    pub(crate) fn write_head(&mut self, head: &Head) -> Result<Place> {
        self.write_record(Kind::Head, self.variant_id(), &head.to_bytes()?)
    }

    /// `of` is the id of the variant, or the generation of an index.
    fn write_record(&mut self, kind: Kind, of: u32, raw: &[u8]) -> Result<Place> {
        self.write_frame(Label { kind, codec: 0, variant: of, item: 0, part: 0 }, raw)
    }

    /// Writes the seal of the new variant, whose tiles are all written. Another may follow.
    pub(crate) fn finish_variant(&mut self, name: &str, head: Place, seal: &Seal) -> Result<()> {
        let id = self.variant_id();
        self.seal(id, name, head, seal)?;
        self.index.next_id =
            id.checked_add(1).ok_or_else(|| Error::corrupt("no variant id is left"))?;
        Ok(())
    }

    /// The frames written so far, to be read back.
    pub(crate) fn frames(&mut self) -> Result<FrameStore> {
        self.flush()?;
        Ok(FrameStore::new(Arc::clone(&self.file), self.at))
    }

    /// What is written so far, as an archive to be read.
    pub(super) fn so_far(&mut self) -> Result<Archive> {
        Ok(Archive::unfinished(self.frames()?, &self.path, self.index.clone()))
    }

    /// Lists a variant or base vector no more. Its frames stay in the file.
    pub(crate) fn unlist(&mut self, name: &str) {
        self.index.entries.retain(|v| v.name != name);
    }

    /// Bytes this generation has added so far.
    pub(crate) fn added(&self) -> u64 {
        self.at - self.start
    }

    /// Writes the seal of a variant whose other frames are written, and lists it.
    pub(super) fn seal(&mut self, id: u32, name: &str, head: Place, seal: &Seal) -> Result<()> {
        let seal = self.write_record(Kind::Seal, id, &seal.to_bytes()?)?;
        self.index.entries.push(IndexEntry {
            id,
            name: name.to_owned(),
            head_offset: head.offset,
            head_len: head.len,
            seal_offset: seal.offset,
            seal_len: seal.len,
        });
        Ok(())
    }

    /// Writes index and footer, and makes the generation durable under its final name. Returns the
    /// bytes it added to the file.
    pub(crate) fn commit(mut self) -> Result<u64> {
        let index = self.write_index()?;
        self.finish(index)
    }

    /// Commits a generation that lists the variants of the one before but for `name`. Their frames
    /// stay in the file. Returns the bytes it added.
    pub(super) fn commit_without(mut self, name: &str) -> Result<u64> {
        self.unlist(name);
        let index = self.write_index()?;
        self.finish(index)
    }

    /// Bytes of the file so far.
    pub(super) fn len(&self) -> u64 {
        self.at
    }

    /// Gives the new file the permissions of the one it will replace.
    pub(super) fn set_permissions(&self, permissions: Permissions) -> Result<()> {
        disk::set_permissions(&self.file, permissions)
            .map_err(|e| Error::io("set the permissions of the new", &self.path, e))
    }

    /// Writes the index, after which only the footer is missing.
    pub(super) fn write_index(&mut self) -> Result<Place> {
        let index = self.index.to_bytes()?;
        self.write_record(Kind::Index, self.generation, &index)
    }

    /// Writes the footer, and makes the generation durable under its final name. Returns the bytes it
    /// added to the file.
    pub(super) fn finish(mut self, index: Place) -> Result<u64> {
        self.sync()?;
        // Before the commit, after which nothing may fail that can be helped.
        self.journal.as_ref().map_or(Ok(()), Journal::remove)?;
        self.journal.take().into_iter().for_each(Journal::leave);
        let footer = Footer {
            version: FORMAT_VERSION,
            generation: self.generation,
            offset: self.at,
            index_offset: index.offset,
            index_len: index.len,
            previous: self.previous,
        };
        if let Err(e) = self.write(&footer.to_bytes()).and_then(|_| self.sync()) {
            // It may be there nevertheless, and would commit what is reported as failed.
            let _ = disk::set_len(&self.file, footer.offset);
            return Err(e);
        }
        if let Some(temp) = &self.temp {
            if self.force || !self.path.exists() {
                // It is of the archive that goes, or that once was here.
                parity::discard(&self.path)?;
            }
            let rename = if self.force { disk::rename } else { disk::rename_new };
            rename(temp, &self.path)
                .map_err(|e| Error::io("rename the finished archive to", &self.path, e))?;
            // It has another name now; nothing is left to remove.
            let _ = self.temp.take().map(disk::TempPath::keep);
            self.committed = true;
            if let Err(e) = sync_dir(disk::parent_of(&self.path)) {
                // A failed run leaves what was there: nothing. What was replaced cannot come back.
                if self.force || disk::remove_file(&self.path).is_err() {
                    return Err(e.context("the new archive is complete and in place"));
                }
                return Err(e);
            }
        } else if !self.dry {
            check_is_at(&self.file, &self.path)?;
        }
        self.committed = true;
        debug_assert_eq!(self.at, footer.offset + FOOTER_LEN as u64);
        Ok(self.at - self.start)
    }

    fn flush(&mut self) -> Result<()> {
        if !self.buffer.is_empty() {
            let mut buffer = std::mem::take(&mut self.buffer);
            self.write_out(self.at - buffer.len() as u64, &buffer)?;
            buffer.clear();
            self.buffer = buffer;
        }
        self.journal.as_mut().map_or(Ok(()), Journal::write_out)
    }

    /// Writes bytes to the file at once.
    fn write_out(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        disk::write_all_at(&self.file, bytes, offset)
            .map_err(|e| Error::io("write to", &self.path, e))?;
        let sent = self.writeback.wrote(&self.file, offset, bytes.len() as u64);
        sent.map_err(|e| Error::io("sync", &self.path, e))
    }

    fn sync(&mut self) -> Result<()> {
        self.flush()?;
        self.writeback.sync(&self.file).map_err(|e| Error::io("sync", &self.path, e))
    }
}

impl Drop for ArchiveWriter {
    fn drop(&mut self) {
        if !self.committed && !self.dry {
            self.give_up();
        }
    }
}

fn next_generation(archive: &Archive) -> Result<u32> {
    let next = archive.footer.generation.checked_add(1);
    next.ok_or_else(|| Error::corrupt("no generation is left"))
}
