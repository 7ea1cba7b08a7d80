//! Puts a finished directory in its place, and what was there out of it.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::io::ErrorKind::{InvalidInput, Unsupported};
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64;

use crate::checkpoint::disk::{self, parent_of};
use crate::error::{Error, Result};

/// Gives the finished directory `made` the name `dir`. If that `replaces` something, returns where it
/// lies now; one change takes its place, so that whoever opens `dir` sees the old state or the new.
///
/// # Errors
/// `Io`; then `dir` is as it was.
pub(super) fn put_in_place(made: &Path, dir: &Path, replaces: bool) -> Result<Option<PathBuf>> {
    let failed = |e| Error::io("rename the finished checkpoint to", dir, e);
    if !replaces {
        return disk::rename(made, dir).map(|()| None).map_err(failed);
    }
    match disk::exchange(made, dir) {
        Ok(()) => return Ok(Some(made.to_owned())),
        // A file system that cannot: there will be a moment without either.
        Err(e) if matches!(e.kind(), InvalidInput | Unsupported) => {}
        Err(e) => return Err(failed(e)),
    }
    let aside = move_aside(dir)?;
    match disk::rename(made, dir) {
        Ok(()) => Ok(Some(aside)),
        Err(e) => Err(match disk::rename(&aside, dir) {
            Ok(()) => failed(e),
            Err(_) => failed(e).context(lies_in(&aside)),
        }),
    }
}

/// Undoes [`put_in_place`] for the sake of `error`, and removes what was made. What was replaced lies
/// `aside`.
pub(super) fn take_back(made: &Path, dir: &Path, aside: Option<&Path>, error: Error) -> Error {
    let back = match aside {
        Some(aside) if aside == made => disk::exchange(made, dir),
        Some(aside) => disk::rename(dir, made).and_then(|()| disk::rename(aside, dir)),
        None => disk::rename(dir, made),
    };
    match (back, aside) {
        (Ok(()), _) => {
            let _ = remove_flat(made);
            error
        }
        (Err(_), Some(aside)) => error.context(lies_in(aside)),
        (Err(_), None) => error.context("the new checkpoint is complete and in place"),
    }
}

fn lies_in(aside: &Path) -> String {
    format!("the old contents are now in {}", aside.display())
}

/// Gives `dir` a hidden name beside its own.
fn move_aside(dir: &Path) -> Result<PathBuf> {
    let parent = parent_of(dir);
    let mut prefix = hidden_name(dir.file_name().unwrap_or_default(), "replaced");
    prefix.push("-");
    let aside = disk::create_temporary_dir(parent, &prefix, 0o700)
        .map_err(|e| Error::io("create a directory in", parent, e))?;
    // The rename takes the place of the empty directory; from then on it holds the user's files,
    // which no drop may remove.
    match disk::rename(dir, aside.path()) {
        Ok(()) => Ok(aside.keep()),
        Err(e) => Err(Error::io("rename", dir, e)),
    }
}

/// Removes a directory of files. Never recursive: what was no file a moment ago stays.
pub(super) fn remove_flat(dir: &Path) -> Result<()> {
    remove_files(dir).and_then(|()| disk::remove_dir(dir)).map_err(|e| {
        Error::io("remove the replaced files in", dir, e)
            .context("the new checkpoint is complete and in place")
    })
}

/// Removes the files of a directory. What is no file is an error, and stays.
pub(super) fn remove_files(dir: &Path) -> io::Result<()> {
    fs::read_dir(dir)?.try_for_each(|entry| disk::remove_file(&entry?.path()))
}

/// `.NAME.role`, with a hash for NAME where it is so long that the whole would not be a legal name.
pub(crate) fn hidden_name(name: &OsStr, role: &str) -> OsString {
    let mut hidden = OsString::from(".");
    if name.len() <= 200 {
        hidden.push(name);
    } else {
        hidden.push(format!("{:016x}", xxh3_64(name.as_encoded_bytes())));
    }
    hidden.push(".");
    hidden.push(role);
    hidden
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidden_names_are_legal_and_tell_long_names_apart() {
        assert_eq!(hidden_name(OsStr::new("a"), "partial"), ".a.partial");
        let long = |end: &str| hidden_name(OsStr::new(&("x".repeat(240) + end)), "partial");
        assert!(long("a").len() < 255 && long("a") != long("b"));
    }
}
