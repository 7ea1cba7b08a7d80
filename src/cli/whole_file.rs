//! Single files that verbs write for people and other programs: whole under their name, or not there.

use std::fs::{self, File, Permissions};
use std::io::Write;
use std::path::{Path, PathBuf};

use delta_stream::{DryRun, Error, Result};

/// A file that a verb writes at its end, or in a dry run only says that it would.
#[derive(Debug)]
pub(crate) struct WholeFile<'a> {
    pub(crate) path: &'a Path,
    force: bool,
    is_dry: bool,
}

impl<'a> WholeFile<'a> {
    /// Refuses a file that is there, lies in an input or cannot be written, before any work is done.
    pub(crate) fn checked(
        path: &'a Path,
        inputs: &[&Path],
        (force, is_dry): (bool, bool),
    ) -> Result<Self> {
        check(path, inputs, force)?;
        delta_stream::space(path, 0)?;
        Ok(Self { path, force, is_dry })
    }

    /// Writes it; a dry run only says what room there is.
    pub(crate) fn write(&self, text: &str) -> Result<DryRun> {
        if self.is_dry {
            return Ok(Some(delta_stream::space(self.path, text.len() as u64)?).into());
        }
        write(self.path, text, self.force).map(|()| DryRun::default())
    }
}

/// Refuses a file that is there, can never be there, or lies in an input, before any work is done.
pub(crate) fn check(output: &Path, inputs: &[&Path], force: bool) -> Result<()> {
    let refuse = |why| Err(Error::invalid_argument(format!("{} {why}", output.display())));
    if output.is_dir() || output.as_os_str().as_encoded_bytes().ends_with(b"/") {
        return refuse("is a directory; give the name of a file");
    }
    // What a link leads to, if it leads anywhere.
    if fs::metadata(output).is_ok_and(|metadata| !metadata.is_file()) {
        return refuse("is no regular file and is not replaced; choose another place");
    }
    if !force && fs::symlink_metadata(output).is_ok() {
        return Err(exists(output));
    }
    apart(output, inputs)
}

/// Refuses an output that is or lies in an input.
pub(crate) fn apart(output: &Path, inputs: &[&Path]) -> Result<()> {
    let Ok(dir) = directory(output).canonicalize() else {
        return Ok(());
    };
    let place = output.file_name().map(|name| dir.join(name));
    for input in inputs {
        let Ok(found) = input.canonicalize() else {
            continue;
        };
        // An index stands for the directory it lies in, a single file for itself.
        let is_index = input.to_string_lossy().ends_with(".index.json");
        let owned = match found.parent() {
            Some(parent) if is_index => parent,
            _ => &found,
        };
        if place.as_ref().is_some_and(|place| place.starts_with(owned)) {
            let (output, input) = (output.display(), input.display());
            let text = format!("{output} lies in the input {input}; choose another place");
            return Err(Error::invalid_argument(text));
        }
    }
    Ok(())
}

fn exists(output: &Path) -> Error {
    let output = output.display();
    Error::invalid_argument(format!(
        "{output} exists; choose another file, or --force to replace it"
    ))
}

/// The directory a file lies in.
fn directory(file: &Path) -> PathBuf {
    match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// Writes a file so that it is there whole or not at all.
pub(crate) fn write(output: &Path, text: &str, force: bool) -> Result<()> {
    let failed = |e| Error::io("write", output, e);
    let dir = directory(output);
    let mut builder = tempfile::Builder::new();
    builder.prefix(".delta-stream-");
    let permissions = public();
    if let Some(permissions) = &permissions {
        builder.permissions(permissions.clone());
    }
    let mut temp = builder.tempfile_in(&dir).map_err(failed)?;
    temp.write_all(text.as_bytes()).map_err(failed)?;
    temp.as_file().sync_all().map_err(failed)?;
    let persisted = if force { temp.persist(output) } else { temp.persist_noclobber(output) };
    persisted.map_err(|e| match e.error.kind() {
        std::io::ErrorKind::AlreadyExists => exists(output),
        _ => failed(e.error),
    })?;
    if cfg!(unix) {
        File::open(&dir).and_then(|dir| dir.sync_all()).map_err(failed)?;
    }
    Ok(())
}

/// Permissions of a file anyone may read, as far as the umask allows; temporary files are private.
#[cfg(unix)]
fn public() -> Option<Permissions> {
    Some(std::os::unix::fs::PermissionsExt::from_mode(0o666))
}

#[cfg(not(unix))]
fn public() -> Option<Permissions> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_written_whole_and_replaces_nothing_unasked() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("plan.json");
        write(&file, "1", false).unwrap();
        assert!(write(&file, "2", false).is_err());
        assert_eq!(fs::read_to_string(&file).unwrap(), "1");
        write(&file, "3", true).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "3");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_does_not_land_in_an_input() {
        let dir = tempfile::tempdir().unwrap();
        let model = dir.path().join("model");
        let index = model.join("model.safetensors.index.json");
        let single = dir.path().join("single.safetensors");
        fs::create_dir(&model).unwrap();
        fs::write(&index, "{}").unwrap();
        fs::write(&single, "").unwrap();
        for (output, fine) in [
            (dir.path().join("plan.json"), true),
            (model.join("plan.json"), false),
            (index.clone(), false),
            (single.clone(), false),
        ] {
            for inputs in [[&*model, &*single], [&*index, &*single]] {
                assert_eq!(check(&output, &inputs, true).is_ok(), fine, "{output:?}");
            }
        }
        assert!(check(&single, &[], false).is_err());
    }
}
