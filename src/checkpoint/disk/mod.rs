//! Everything that changes a disk, in one place: files and directories made, written, cut, synced, renamed
//! and removed. What is dropped before it was committed is removed by its own guard; nothing rests on
//! that.
//!
//! Each function is the bare system call. With the feature `fault-injection`, which tests of crash safety
//! have and no other build, an injector is asked before each change and hears of it after: see `faults`.

#[cfg(feature = "fault-injection")]
pub mod faults;

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;

use tempfile::Builder;
pub(crate) use tempfile::{TempDir, TempPath};

/// Makes a change and returns what came of it. The injector, where there is one, may refuse it before,
/// and is told of it after.
macro_rules! change {
    ($made:expr, $told:expr) => {{
        #[cfg(feature = "fault-injection")]
        faults::ask()?;
        let made = $made?;
        #[cfg(feature = "fault-injection")]
        faults::tell(&made, $told);
        Ok(made)
    }};
}

/// Opens a file that is there, to read and write. Changes nothing yet.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(path)
}

/// Creates a file that may not be there yet, to read and write. The process's own mask decides about its
/// permissions.
pub(crate) fn create_new(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let options = options.read(true).write(true).create_new(true);
    change!(options.open(path), |made| faults::Change::made(path, made))
}

/// How often a file may come and go while it is opened. A link that leads nowhere does so for ever.
const ATTEMPTS: usize = 100;

/// Opens a file to read and write, and creates it if it is not there.
pub(crate) fn open_or_create(path: &Path) -> io::Result<File> {
    let mut tried = 0;
    loop {
        match open(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            opened => return opened,
        }
        match create_new(path) {
            // Another process was quicker, and may be done with it before it can be opened.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && tried < ATTEMPTS => tried += 1,
            created => return created,
        }
    }
}

/// Creates a file without a name, which goes when it is closed.
pub(crate) fn create_unnamed() -> io::Result<File> {
    change!(tempfile::tempfile(), |_| faults::Change::Unnamed)
}

/// Makes a directory and those above it that are missing, and waits until their names are on disk.
pub(crate) fn create_dir_all(dir: &Path) -> io::Result<()> {
    let is_missing = |dir: &&Path| !dir.as_os_str().is_empty() && !dir.exists();
    let missing: Vec<_> = dir.ancestors().take_while(is_missing).collect();
    for dir in missing.into_iter().rev() {
        match create_dir(dir) {
            Ok(()) => {}
            // Another process was quicker.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => {}
            Err(e) => return Err(e),
        }
        if let Err(e) = sync_dir(parent_of(dir)) {
            // A later run that found it would not know that its name is not safe.
            let _ = remove_dir(dir);
            return Err(e);
        }
    }
    Ok(())
}

/// Makes a directory; the process's own mask decides about its permissions.
pub(crate) fn create_dir(dir: &Path) -> io::Result<()> {
    change!(fs::create_dir(dir), |_| faults::Change::made_dir(dir))
}

/// Makes a directory of a new name that begins with `prefix`, with those bits of `mode` that the process's
/// own mask leaves; it goes with all it holds when it is dropped.
pub(crate) fn create_temporary_dir(dir: &Path, prefix: &OsStr, mode: u32) -> io::Result<TempDir> {
    let mut builder = Builder::new();
    let builder = builder.prefix(prefix).permissions(Permissions::from_mode(mode));
    change!(builder.tempdir_in(dir), |made: &TempDir| faults::Change::made_dir(made.path()))
}

/// Bytes handed to the system at a time: more make it look for larger folios than it has at hand, which
/// took ten times as long.
const WRITE_BYTES: usize = 256 << 10;

/// Writes all of `bytes` at `offset`, leaving the file's cursor alone.
pub(crate) fn write_all_at(file: &File, bytes: &[u8], mut offset: u64) -> io::Result<()> {
    for piece in bytes.chunks(WRITE_BYTES) {
        write_piece(file, piece, offset)?;
        offset += piece.len() as u64;
    }
    Ok(())
}

/// Writes an aligned block at once, of a file whose writes pass the page cache by.
pub(crate) fn write_block_at(file: &File, block: &[u8], offset: u64) -> io::Result<()> {
    write_piece(file, block, offset)
}

/// The directory a path stands in.
pub(crate) fn parent_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn write_piece(file: &File, piece: &[u8], offset: u64) -> io::Result<()> {
    #[cfg(feature = "fault-injection")]
    faults::tear(file, piece, offset)?;
    change!(file.write_all_at(piece, offset), |_| faults::Change::wrote(file, piece, offset))
}

/// Cuts a file to `len` bytes, or makes it so long.
pub(crate) fn set_len(file: &File, len: u64) -> io::Result<()> {
    change!(file.set_len(len), |_| faults::Change::SetLen { file: faults::id(file), len })
}

/// Sets who may read and write a file.
pub(crate) fn set_permissions(file: &File, permissions: Permissions) -> io::Result<()> {
    change!(file.set_permissions(permissions), |_| faults::Change::SetPermissions)
}

/// Waits until what was written to a file is on disk, with what it takes to read it back.
pub(crate) fn sync_data(file: &File) -> io::Result<()> {
    change!(file.sync_data(), |_| faults::Change::Sync { node: faults::id(file) })
}

/// Waits until a file is on disk, its times and permissions too.
pub(crate) fn sync_all(file: &File) -> io::Result<()> {
    change!(file.sync_all(), |_| faults::Change::Sync { node: faults::id(file) })
}

/// Waits until the names in a directory are on disk.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    let dir = File::open(dir)?;
    change!(dir.sync_all(), |_| faults::Change::Sync { node: faults::id(&dir) })
}

/// Renames a file or directory, over what has the new name.
pub(crate) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    change!(fs::rename(from, to), |_| faults::Change::renamed(from, to))
}

/// Lets two files or directories have each other's name, in one change.
///
/// # Errors
/// `InvalidInput` or `Unsupported` if the system or the file system cannot.
pub(crate) fn exchange(a: &Path, b: &Path) -> io::Result<()> {
    change!(bare_exchange(a, b), |_| faults::Change::exchanged(a, b))
}

#[cfg(target_os = "linux")]
fn bare_exchange(a: &Path, b: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    Ok(renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE)?)
}

#[cfg(not(target_os = "linux"))]
fn bare_exchange(_: &Path, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Renames a file.
///
/// # Errors
/// `AlreadyExists` if something has the new name.
pub(crate) fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    change!(bare_rename_new(from, to), |_| faults::Change::renamed(from, to))
}

#[cfg(target_os = "linux")]
fn bare_rename_new(from: &Path, to: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    use rustix::io::Errno;
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // A file system that cannot.
        Err(Errno::INVAL | Errno::NOSYS) => link_and_unlink(from, to),
        renamed => Ok(renamed?),
    }
}

#[cfg(not(target_os = "linux"))]
fn bare_rename_new(from: &Path, to: &Path) -> io::Result<()> {
    link_and_unlink(from, to)
}

fn link_and_unlink(from: &Path, to: &Path) -> io::Result<()> {
    fs::hard_link(from, to)?;
    fs::remove_file(from)
}

/// Removes a file.
pub(crate) fn remove_file(path: &Path) -> io::Result<()> {
    change!(fs::remove_file(path), |_| faults::Change::Removed { path: path.to_owned() })
}

/// Removes a directory of files, as far as that goes: what was not committed. Like other guards' removals
/// it goes past the injector.
pub(crate) fn discard_dir(path: &Path) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        let _ = fs::remove_file(entry.path());
    }
    let _ = fs::remove_dir(path);
}

/// Removes an empty directory.
pub(crate) fn remove_dir(path: &Path) -> io::Result<()> {
    change!(fs::remove_dir(path), |_| faults::Change::Removed { path: path.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_overwritten_unasked() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        let file = create_new(&a).unwrap();
        write_all_at(&file, b"a", 0).unwrap();
        fs::write(&b, b"b").unwrap();
        assert_eq!(create_new(&a).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        for rename in [rename_new, link_and_unlink] {
            assert_eq!(rename(&a, &b).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
            assert_eq!([fs::read(&a).unwrap(), fs::read(&b).unwrap()], [b"a", b"b"]);
        }
        for rename in [rename_new, link_and_unlink] {
            let to = dir.path().join("c");
            rename(&a, &to).unwrap();
            assert!(!a.exists() && fs::read(&to).unwrap() == b"a");
            rename_new(&to, &a).unwrap();
        }
        rename(&a, &b).unwrap();
        assert_eq!(fs::read(&b).unwrap(), b"a");
    }

    #[test]
    fn a_file_that_comes_and_goes_is_opened() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        std::thread::scope(|scope| {
            let others = [0, 1].map(|_| {
                scope.spawn(|| {
                    for _ in 0..2000 {
                        open_or_create(&path).unwrap();
                        let _ = fs::remove_file(&path);
                    }
                })
            });
            others.into_iter().for_each(|other| other.join().unwrap());
        });
        let link = dir.path().join("b");
        std::os::unix::fs::symlink(dir.path().join("nowhere"), &link).unwrap();
        assert!(open_or_create(&link).is_err());
    }

    #[test]
    fn what_is_temporary_goes() {
        let dir = tempfile::tempdir().unwrap();
        let made = create_temporary_dir(dir.path(), OsStr::new(".x-"), 0o700).unwrap();
        create_new(&made.path().join("y")).unwrap();
        drop(made);
        let made = dir.path().join("z");
        create_dir(&made).unwrap();
        create_new(&made.join("y")).unwrap();
        discard_dir(&made);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn directories_are_made_only_where_they_are_missing() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("a/b/c");
        create_dir_all(&deep).unwrap();
        create_dir_all(&deep).unwrap();
        assert!(deep.is_dir());
        fs::write(dir.path().join("file"), b"x").unwrap();
        assert!(create_dir_all(&dir.path().join("file/below")).is_err());
    }
}
