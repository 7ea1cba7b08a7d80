//! The directory that a checkpoint grows in until it is whole: `.NAME.partial` beside the output, for one
//! process alone.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::checkpoint::disk::{self, parent_of};
use crate::checkpoint::replace::{hidden_name, remove_files};
use crate::checkpoint::sys::{self, Locked};
use crate::error::{Error, Result};

/// Says what the shards in the directory are of.
const IDENTITY_FILE: &str = ".delta-stream-resume";

/// Gone with all it holds once it is dropped, unless it is left to a later run.
#[derive(Debug)]
pub(super) struct PartialDir {
    path: PathBuf,
    _lock: Locked,
    /// Whether it stays when it is dropped.
    stays: bool,
}

impl PartialDir {
    /// Opens the directory for a checkpoint that will stand at `dir`, with whatever a killed process
    /// left in it.
    ///
    /// # Errors
    /// `Io` if another process is writing to it.
    pub(super) fn open(dir: &Path) -> Result<Self> {
        let name = hidden_name(dir.file_name().unwrap_or_default(), "partial");
        let path = parent_of(dir).join(name);
        let failed = |e| Error::io("create", &path, e);
        loop {
            if fs::symlink_metadata(&path).is_err() {
                match disk::create_dir(&path) {
                    Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(failed(e)),
                    _ => {}
                }
            }
            let lock = match File::open(&path) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                other => other.map_err(failed)?,
            };
            let lock = Locked::new(lock, dir)?;
            // Whoever held the lock before may have renamed or removed it.
            let named = match fs::symlink_metadata(&path) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                other => other.map_err(failed)?,
            };
            if !named.is_dir() {
                let text = format!("{} is no directory; remove it and run again", path.display());
                return Err(Error::invalid_argument(text));
            }
            let open = lock.metadata().map_err(failed)?;
            if sys::is_same_file(&open, &named) {
                return Ok(Self { path, _lock: lock, stays: false });
            }
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes what is in it.
    pub(super) fn clear(&self) -> Result<()> {
        remove_files(&self.path).map_err(|e| Error::io("clear", &self.path, e))
    }

    /// Leaves the directory to a later run if this one does not finish.
    pub(super) fn leave(&mut self) {
        self.stays = true;
    }

    /// Says what is written here; `resumes` is whether shards that were left may stay if they are of it.
    ///
    /// # Errors
    /// `InvalidArgument` if they are of something else.
    pub(super) fn claim(&self, identity: u64, resumes: bool) -> Result<()> {
        let file = self.path.join(IDENTITY_FILE);
        let text = format!("{identity:016x}\n");
        match fs::read_to_string(&file) {
            Ok(found) if resumes && found == text => return Ok(()),
            Ok(found) if resumes && found.len() == text.len() => {
                let text = format!(
                    "{} holds shards of another variant or layout that a run left; restore without --resume \
                     to start again",
                    self.path.display()
                );
                return Err(Error::invalid_argument(text));
            }
            _ => {}
        }
        self.clear()?;
        let written =
            disk::create_new(&file).and_then(|f| disk::write_all_at(&f, text.as_bytes(), 0));
        written.map_err(|e| Error::io("write", &file, e))
    }

    /// Everything is written; what is left is the checkpoint alone.
    pub(super) fn settle(&self) -> Result<()> {
        let file = self.path.join(IDENTITY_FILE);
        if !file.exists() {
            return Ok(());
        }
        disk::remove_file(&file).map_err(|e| Error::io("remove", &file, e))
    }

    /// It has another name now; nothing is left to remove. Returns the name it had.
    pub(super) fn keep(mut self) -> PathBuf {
        self.stays = true;
        self.path.clone()
    }
}

impl Drop for PartialDir {
    fn drop(&mut self) {
        if !self.stays {
            disk::discard_dir(&self.path);
        }
    }
}
