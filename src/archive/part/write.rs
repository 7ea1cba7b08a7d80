//! Writes a part: it grows under a hidden name, and has its own once it is whole and on disk.

use std::fmt;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::Xxh3;

use crate::archive::lock::{open_partial, refuse_occupied};
use crate::archive::part::{Entry, MAGIC, PartHead};
use crate::checkpoint::disk::{self, TempPath};
use crate::checkpoint::{Locked, Writeback, sync_dir};
use crate::error::{Error, Result};

/// Bytes gathered before they are written.
const BUFFER: usize = 1 << 20;

/// A part that is being written; what there is of it goes if it is dropped before its commit.
pub(crate) struct PartWriter {
    file: Locked,
    temp: TempPath,
    path: PathBuf,
    force: bool,
    buffer: Vec<u8>,
    /// Bytes that are written.
    len: u64,
    hash: Xxh3,
    n_entries: u64,
    writeback: Writeback,
}

impl fmt::Debug for PartWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PartWriter").field("path", &self.path).finish_non_exhaustive()
    }
}

impl PartWriter {
    /// Starts a part that will stand at `path`.
    ///
    /// # Errors
    /// `InvalidArgument` if something is there and `force` is not given; `Io`.
    pub(crate) fn create(path: &Path, force: bool, head: &PartHead) -> Result<Self> {
        Self::refuse_existing(path, force)?;
        let (file, temp) = open_partial(path, "partial")?;
        disk::set_len(&file, 0).map_err(|e| Error::io("cut", &temp, e))?;
        let (buffer, hash, writeback) = (Vec::new(), Xxh3::new(), Writeback::default());
        let (path, len, n_entries) = (path.to_owned(), 0, 0);
        let mut writer = Self { file, temp, path, force, buffer, len, hash, n_entries, writeback };
        writer.put(&MAGIC)?;
        writer.enter(&Entry::Head(head.clone()))?;
        Ok(writer)
    }

    /// Adds an entry.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn enter(&mut self, entry: &Entry<'_>) -> Result<()> {
        let bytes = entry.to_bytes()?;
        self.put(&(bytes.len() as u32).to_le_bytes())?;
        self.put(&crc32c::crc32c(&bytes).to_le_bytes())?;
        self.put(&bytes)?;
        self.n_entries += 1;
        Ok(())
    }

    /// Adds an entry with the frame that follows it.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn enter_frame(&mut self, entry: &Entry<'_>, frame: &[u8]) -> Result<()> {
        self.enter(entry)?;
        self.put(frame)
    }

    /// Says whether a part may stand at `path`.
    ///
    /// # Errors
    /// `InvalidArgument` if it may not.
    pub(crate) fn refuse_existing(path: &Path, force: bool) -> Result<()> {
        refuse_occupied(path, force, "choose another file")
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.hash.update(bytes);
        if self.buffer.len() + bytes.len() > BUFFER {
            self.flush()?;
        }
        if bytes.len() > BUFFER {
            return self.write_out(bytes);
        }
        self.buffer.extend(bytes);
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        let mut buffer = std::mem::take(&mut self.buffer);
        self.write_out(&buffer)?;
        buffer.clear();
        self.buffer = buffer;
        Ok(())
    }

    fn write_out(&mut self, bytes: &[u8]) -> Result<()> {
        disk::write_all_at(&self.file, bytes, self.len)
            .map_err(|e| Error::io("write to", &self.temp, e))?;
        let sent = self.writeback.wrote(&self.file, self.len, bytes.len() as u64);
        self.len += bytes.len() as u64;
        sent.map_err(|e| Error::io("sync", &self.temp, e))
    }

    /// Ends the part and gives it its name. Returns its bytes.
    ///
    /// # Errors
    /// `Io`; nothing is then at its name that was not there before.
    pub(crate) fn commit(mut self) -> Result<u64> {
        let (n_entries, hash) = (self.n_entries, self.hash.digest());
        self.enter(&Entry::End { n_entries, hash })?;
        self.flush()?;
        self.writeback.sync(&self.file).map_err(|e| Error::io("sync", &self.temp, e))?;
        let rename = if self.force { disk::rename } else { disk::rename_new };
        let renamed = rename(&self.temp, &self.path);
        renamed.map_err(|e| Error::io("rename the finished part to", &self.path, e))?;
        let Self { temp, path, len, force, .. } = self;
        // It has another name now; nothing is left to remove.
        let _ = temp.keep();
        if let Err(e) = sync_dir(disk::parent_of(&path)) {
            // A failed run leaves what was there: nothing. What was replaced cannot come back.
            if force || disk::remove_file(&path).is_err() {
                return Err(e.context("the part is whole and in place"));
            }
            return Err(e);
        }
        Ok(len)
    }
}
