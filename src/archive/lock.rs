//! Opens files for one writer alone: the archive that grows, or the file a new one grows in.
//!
//! The locks go with the open file, so none outlives its process.

use std::fs::{self, File};
use std::path::Path;

use crate::archive::reader::Archive;
use crate::checkpoint::disk::{self, TempPath, parent_of};
use crate::checkpoint::{Locked, hidden_name, is_same_file, is_weights};
use crate::error::{Error, ErrorKind, Result};

/// Opens the archive at `path` for writing, with the writers' lock.
///
/// # Errors
/// `Io` if another process is writing to it; what [`Archive::open`] says.
pub(super) fn open_archive(path: &Path) -> Result<(Locked, Archive)> {
    let file = disk::open(path).map_err(|e| Error::io("open for writing", path, e))?;
    let file = Locked::new(file, path)?;
    // Through the locked file: another process may have put a new one under this name meanwhile.
    let locked = file.try_clone().map_err(|e| Error::io("open", path, e))?;
    let archive = Archive::from_file(locked, path)?;
    check_is_at(&file, path)?;
    Ok((file, archive))
}

/// Says whether a new archive may stand at `path`.
///
/// # Errors
/// `InvalidArgument` if it may not.
pub(crate) fn refuse_existing(path: &Path, force: bool) -> Result<()> {
    refuse_occupied(path, force, "append to it")
}

/// As [`refuse_existing`], of any file; `instead` is what else can be done with one that exists.
pub(super) fn refuse_occupied(path: &Path, force: bool, instead: &str) -> Result<()> {
    let refuse = |why: &str| Err(Error::invalid_argument(format!("{} {why}", path.display())));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    if path.is_dir() || path.as_os_str().as_encoded_bytes().ends_with(b"/") {
        return refuse("is a directory; give the name of a file, as in X.delta.zst");
    }
    if name.ends_with(".parity") {
        return refuse("has the name of a parity file; choose another, as in X.delta.zst");
    }
    if is_weights(&name) {
        return refuse("has the name of a model's weights; choose another, as in X.delta.zst");
    }
    // What a link leads to, if it leads anywhere.
    if fs::metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
        return refuse("is no regular file and is not replaced; choose another place");
    }
    if fs::symlink_metadata(path).is_ok() && !force {
        return refuse(&format!("exists; {instead}, or replace it with --force"));
    }
    Ok(())
}

/// Opens an archive, or a part of one, to read it. A pipe is refused, since to open one is to wait for a writer, and a
/// directory, which a checkpoint may be.
///
/// # Errors
/// `Io`.
pub(super) fn open_file(path: &Path) -> Result<File> {
    let failed = |e| Error::io("open", path, e);
    let metadata = fs::metadata(path).map_err(failed)?;
    let refuse = |why: &str| Err(Error::new(ErrorKind::Io, format!("{} {why}", path.display())));
    if metadata.is_dir() {
        return refuse("is a directory; an archive is one file");
    }
    if !metadata.is_file() {
        return refuse("is no regular file; an archive is one");
    }
    File::open(path).map_err(failed)
}

/// Says whether the archive at `path` could be written to now.
///
/// # Errors
/// As a writer's, before it writes anything.
pub(crate) fn writable(path: &Path) -> Result<()> {
    open_archive(path).map(drop)
}

/// Opens the file that an archive at `path` grows in until it is whole, `.NAME.ROLE` beside it. It is
/// removed with the returned path; what a killed process left in it is there.
///
/// # Errors
/// `Io` if another process is writing it.
pub(super) fn open_partial(path: &Path, role: &str) -> Result<(Locked, TempPath)> {
    let partial = parent_of(path).join(hidden_name(path.file_name().unwrap_or_default(), role));
    let failed = |e| Error::io("create", &partial, e);
    loop {
        if fs::symlink_metadata(&partial).is_ok_and(|m| !m.is_file()) {
            let text = format!("{} is no file; remove it and run again", partial.display());
            return Err(Error::invalid_argument(text));
        }
        let file = Locked::new(disk::open_or_create(&partial).map_err(failed)?, path)?;
        let named = fs::symlink_metadata(&partial);
        // Whoever held the lock before may have renamed or removed it.
        if is_same(file.metadata().ok(), named.ok()) {
            return Ok((file, TempPath::try_from_path(partial.clone()).map_err(failed)?));
        }
    }
}

/// Refuses to go on with an open file that is no longer what `path` leads to.
pub(super) fn check_is_at(file: &File, path: &Path) -> Result<()> {
    if is_at(file, path) {
        return Ok(());
    }
    let text = format!("{} was replaced or removed meanwhile; run again", path.display());
    Err(Error::new(ErrorKind::Io, text))
}

/// Whether `path` leads to this open file.
pub(super) fn is_at(file: &File, path: &Path) -> bool {
    is_same(file.metadata().ok(), fs::metadata(path).ok())
}

/// Whether both are one file.
fn is_same(open: Option<fs::Metadata>, named: Option<fs::Metadata>) -> bool {
    open.zip(named).is_some_and(|(open, named)| is_same_file(&open, &named))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_process_alone_writes_a_partial_file_and_the_next_finds_what_it_left() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.delta.zst");
        let (file, temp) = open_partial(&path, "partial").unwrap();
        assert!(temp.ends_with(".a.delta.zst.partial"));
        file.set_len(5).unwrap();
        let busy = open_partial(&path, "partial").unwrap_err();
        assert!(busy.to_string().contains("another process"), "{busy}");
        // As if it had been killed: the lock goes, the file stays.
        let _ = temp.keep().unwrap();
        drop(file);
        let (file, temp) = open_partial(&path, "partial").unwrap();
        assert_eq!(file.metadata().unwrap().len(), 5);
        drop((file, temp));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_link_where_the_partial_file_should_be_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("precious");
        fs::write(&target, b"bytes").unwrap();
        std::os::unix::fs::symlink(&target, dir.path().join(".a.partial")).unwrap();
        let refused = open_partial(&dir.path().join("a"), "partial").unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::InvalidArgument);
        assert_eq!(fs::read(&target).unwrap(), b"bytes");
    }
}
