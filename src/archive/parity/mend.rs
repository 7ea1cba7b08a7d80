//! Writes the mended copy of a damaged archive, and puts it in the archive's place.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::archive::format::{FOOTER_LEN, Footer};
use crate::archive::lock::{check_is_at, is_at, open_partial, refuse_existing};
use crate::archive::parity::file::{ParityFile, discard, read_what_can_be};
use crate::archive::parity::standing::{Standing, standing};
use crate::archive::parity::window::Group;
use crate::archive::reader::Archive;
use crate::checkpoint::{Locked, Writeback, disk, sync_dir};
use crate::error::{Error, Result, ResultExt};

/// Bytes copied at a time, and the least that is given up where the disk cannot be read.
const COPY: usize = 1 << 20;
const SECTOR: usize = 4 << 10;

/// A damaged archive, opened with the writers' lock where it is to be replaced.
#[derive(Debug)]
pub(crate) struct Damaged {
    pub(crate) file: Locked,
    pub(crate) path: PathBuf,
    is_to_go: bool,
}

impl Damaged {
    /// Opens the archive at `path`; with `to_replace` for that.
    ///
    /// # Errors
    /// `Io`, also if another process is writing to it.
    pub(crate) fn open(path: &Path, to_replace: bool) -> Result<Self> {
        // A link stays one: the file it leads to is replaced.
        let path = fs::canonicalize(path).map_err(|e| Error::io("open", path, e))?;
        let open = if to_replace { disk::open(&path) } else { File::open(&path) };
        let file = open.map_err(|e| Error::io("open", &path, e))?;
        if !to_replace {
            return Ok(Self { file: Locked::unneeded(file), path, is_to_go: false });
        }
        let file = Locked::new(file, &path)?;
        check_is_at(&file, &path)?;
        Ok(Self { file, path, is_to_go: true })
    }

    /// Bytes of the file.
    pub(crate) fn len(&self) -> Result<u64> {
        let metadata = self.file.metadata();
        Ok(metadata.map_err(|e| Error::io("examine", &self.path, e))?.len())
    }

    /// How its parity file stands to it.
    pub(crate) fn standing(&self, parity: &ParityFile) -> Result<Standing> {
        standing(&self.file, &self.path, &parity.header)
    }
}

/// A copy of a damaged archive, hidden until it is whole.
pub(crate) struct Mended<'a> {
    damaged: &'a Damaged,
    pub(crate) file: Locked,
    temp: Option<disk::TempPath>,
    /// Where it will stand, and whether over what is there.
    path: PathBuf,
    force: bool,
    writeback: Writeback,
    len: u64,
}

impl<'a> Mended<'a> {
    /// Begins a copy that will stand at `output`, or in the place of the damaged archive.
    ///
    /// # Errors
    /// `InvalidArgument` if there is something at `output` and `force` is not given; `Io`.
    pub(crate) fn begin(damaged: &'a Damaged, output: Option<&Path>, force: bool) -> Result<Self> {
        let path = output.unwrap_or(&damaged.path).to_owned();
        let force = force || output.is_none();
        if output.is_some() {
            refuse_existing(&path, force)?;
            if is_at(&damaged.file, &path) {
                let text = format!("{} is the damaged archive; leave --output out", path.display());
                return Err(Error::invalid_argument(text));
            }
        }
        let (file, temp) = open_partial(&path, "repair")?;
        disk::set_len(&file, 0).map_err(|e| Error::io("cut", &path, e))?;
        let (temp, writeback) = (Some(temp), Writeback::default());
        Ok(Self { damaged, file, temp, path, force, writeback, len: 0 })
    }

    /// Copies what can be read, zeros for the rest, and makes the copy at least `least` bytes long.
    /// `progress` hears of bytes copied, and may end the run.
    pub(crate) fn copy(
        &mut self,
        least: u64,
        mut progress: impl FnMut(u64) -> Result<()>,
    ) -> Result<()> {
        let len = self.damaged.len()?;
        let mut buffer = vec![0; COPY];
        let mut at = 0;
        while at < len {
            let n = (len - at).min(COPY as u64) as usize;
            read_what_can_be(&self.damaged.file, at, &mut buffer[..n], SECTOR);
            self.write(at, &buffer[..n])?;
            at += n as u64;
            progress(at)?;
        }
        self.len = len;
        if len < least {
            disk::set_len(&self.file, least).map_err(|e| Error::io("lengthen", &self.path, e))?;
            self.len = least;
        }
        Ok(())
    }

    /// Writes the rebuilt blocks of a group over what is damaged.
    pub(crate) fn put(&mut self, parity: &ParityFile, group: &Group) -> Result<()> {
        let layout = &parity.header.layout;
        for (row, block) in &group.rebuilt {
            let at = *row as u64 * layout.row() + group.group * u64::from(layout.block);
            let n = layout.len.saturating_sub(at).min(block.len() as u64) as usize;
            self.write(at, &block[..n])?;
        }
        Ok(())
    }

    fn write(&mut self, at: u64, bytes: &[u8]) -> Result<()> {
        disk::write_all_at(&self.file, bytes, at)
            .map_err(|e| Error::io("write to", &self.path, e))?;
        let sent = self.writeback.wrote(&self.file, at, bytes.len() as u64);
        sent.map_err(|e| Error::io("sync", &self.path, e))
    }

    /// Says whether the copy, all of whose covered blocks are whole, is what the archive once was.
    ///
    /// # Errors
    /// `Corrupt` if it is not: the parity file is of another archive.
    pub(crate) fn check(&self, before: Standing) -> Result<()> {
        let is_other = || Error::corrupt("the parity file is of another archive");
        if let Standing::Ahead(last) = before {
            // What could be read before must be there still.
            let mut bytes = [0; FOOTER_LEN];
            self.file.read_exact_at(&mut bytes, last.offset).map_err(|_| is_other())?;
            if Footer::parse(&bytes, last.offset)? != Some(last) {
                return Err(is_other());
            }
        }
        let clone = self.file.try_clone().map_err(|e| Error::io("open", &self.path, e))?;
        let archive = Archive::from_file(clone, &self.path)?;
        if let Standing::Behind(last) = before
            && archive.footer != last
        {
            return Err(is_other());
        }
        Ok(())
    }

    /// Puts the copy in its place. Returns its bytes.
    pub(crate) fn finish(mut self) -> Result<u64> {
        let metadata = self.damaged.file.metadata();
        let metadata = metadata.map_err(|e| Error::io("examine", &self.damaged.path, e))?;
        disk::set_permissions(&self.file, metadata.permissions())
            .map_err(|e| Error::io("set the permissions of the new", &self.path, e))?;
        self.writeback.sync(&self.file).map_err(|e| Error::io("sync", &self.path, e))?;
        if self.damaged.is_to_go {
            check_is_at(&self.damaged.file, &self.damaged.path)?;
        } else if self.force || !self.path.exists() {
            // It is of whatever stood there.
            discard(&self.path)?;
        }
        let rename = if self.force { disk::rename } else { disk::rename_new };
        if let Some(temp) = &self.temp {
            rename(temp, &self.path)
                .map_err(|e| Error::io("rename the mended archive to", &self.path, e))?;
        }
        // It has another name now; nothing is left to remove.
        let _ = self.temp.take().map(disk::TempPath::keep);
        let synced = sync_dir(disk::parent_of(&self.path));
        synced.context(|| "the mended archive is complete and in place".to_owned())?;
        Ok(self.len)
    }
}
