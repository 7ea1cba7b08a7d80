//! Which files a path means: a Hugging Face directory, an index, or one safetensors file.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::checkpoint::foreign::{Foreign, directory_refusal};
use crate::checkpoint::index::{INDEX_SUFFIX, Index};
use crate::checkpoint::names::{NameSet, shown};
use crate::error::{Error, Result};

/// The name every loader looks for first.
pub(crate) const INDEX_NAME: &str = "model.safetensors.index.json";
/// The name of a checkpoint of one file.
pub(super) const SINGLE_NAME: &str = "model.safetensors";
/// The shards a path stands for.
pub(super) struct Found {
    /// The directory they lie in.
    pub(super) root: PathBuf,
    /// Whether the directory belongs to the checkpoint: not so when one file was named.
    pub(super) owns_root: bool,
    /// File names in the order of the shards.
    pub(super) files: Vec<String>,
    pub(super) index: Option<Index>,
}

/// Whether a file of this name holds weights, in whatever format, or says where they are.
pub(crate) fn is_weights(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name.ends_with(".safetensors")
        || name.ends_with(".index.json")
        || Foreign::by_name(&name).is_some()
}

/// Finds the shards of the checkpoint at `path`; opens none but an index.
pub(super) fn discover(path: &Path) -> Result<Found> {
    let metadata = fs::metadata(path).map_err(|e| {
        Error::io("open", path, e)
            .context("a checkpoint is a local directory, a .safetensors file or its index.json")
    })?;
    let found = if metadata.is_dir() { in_directory(path)? } else { one_file(path)? };
    let mut names = NameSet::default();
    for name in &found.files {
        names.insert(name).map_err(|why| {
            let dir = found.root.display();
            Error::invalid_checkpoint(format!("{dir}: file name {} {why}; rename it", shown(name)))
        })?;
    }
    Ok(found)
}

fn one_file(path: &Path) -> Result<Found> {
    let name = path.file_name().and_then(|name| name.to_str()).ok_or_else(|| {
        Error::invalid_argument(format!(
            "{}: the file name is not UTF-8; rename it",
            path.display()
        ))
    })?;
    // The parent of a bare file name is the empty path.
    let root = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    if name.ends_with(INDEX_SUFFIX) {
        return from_index(root, path);
    }
    if name.ends_with(".safetensors") {
        let files = vec![name.to_owned()];
        return Ok(Found { root, owns_root: false, files, index: None });
    }
    if let Some(foreign) = Foreign::by_name(name).or_else(|| Foreign::by_start(&start_of(path))) {
        return Err(foreign.refusal(path));
    }
    Err(Error::invalid_checkpoint(format!(
        "{} is not a safetensors file; give a directory, a .safetensors file or its index.json",
        path.display()
    )))
}

/// The first bytes of a file that cannot be opened anyway, to say what it is; none if that fails.
fn start_of(path: &Path) -> Vec<u8> {
    let mut start = Vec::new();
    // A pipe would block the open for ever.
    if fs::metadata(path).is_ok_and(|metadata| metadata.is_file()) {
        let _ = fs::File::open(path).and_then(|file| file.take(8).read_to_end(&mut start));
    }
    start
}

fn from_index(root: PathBuf, path: &Path) -> Result<Found> {
    let index = Index::read(path)?;
    let files = index.files.iter().map(|name| name.to_string()).collect();
    Ok(Found { root, owns_root: true, files, index: Some(index) })
}

fn in_directory(dir: &Path) -> Result<Found> {
    let root = dir.to_owned();
    // A dangling link counts as there: to pass it over would open half a checkpoint.
    let is_there = |name: &str| fs::symlink_metadata(dir.join(name)).is_ok();
    if is_there(INDEX_NAME) {
        return from_index(root, &dir.join(INDEX_NAME));
    }
    if is_there(SINGLE_NAME) {
        let files = vec![SINGLE_NAME.to_owned()];
        return Ok(Found { root, owns_root: true, files, index: None });
    }
    let mut all = list(dir)?;
    let foreign: Vec<_> =
        all.iter().filter_map(|name| Some((name.clone(), Foreign::by_name(name)?))).collect();
    all.retain(|name| name.ends_with(".safetensors"));
    let is_copy = |name: &String| name.starts_with("consolidated") || name.starts_with("adapter_");
    let mut files: Vec<String> = all.iter().filter(|name| !is_copy(name)).cloned().collect();
    if files.is_empty() {
        files = all;
    }
    if !files.is_empty() {
        refuse_incomplete(dir, &files)?;
        return Ok(Found { root, owns_root: true, files, index: None });
    }
    Err(refusal(dir, &foreign))
}

/// Refuses files, sorted, that are by their names some of a number of which others are missing: half a download.
fn refuse_incomplete(dir: &Path, files: &[String]) -> Result<()> {
    for (prefix, i, of) in files.iter().filter_map(|name| numbered(name)) {
        let name = |i| format!("{prefix}-{i:05}-of-{of:05}.safetensors");
        // The first one asks for all, and every other for the first.
        let last = if i == 1 { of } else { of.min(1) };
        let is_missing = |name: &String| files.binary_search(name).is_err();
        if let Some(missing) = (1..=last).map(name).find(is_missing) {
            let text = format!(
                "{}: {missing} is missing, and there is no {INDEX_NAME}; fetch the rest of the checkpoint",
                dir.display()
            );
            return Err(Error::invalid_checkpoint(text));
        }
    }
    Ok(())
}

/// What `PREFIX-0000I-of-0000N.safetensors` says of itself.
fn numbered(name: &str) -> Option<(&str, u32, u32)> {
    let (rest, of) = name.strip_suffix(".safetensors")?.rsplit_once("-of-")?;
    let (prefix, i) = rest.rsplit_once('-')?;
    let number = |text: &str| text.parse().ok().filter(|_| text.len() == 5);
    Some((prefix, number(i)?, number(of)?))
}

/// Why a directory without safetensors is no checkpoint. Models come before what a training leaves
/// beside them, like `training_args.bin`.
fn refusal(dir: &Path, foreign: &[(String, Foreign)]) -> Error {
    let is_model = |name: &str| name.contains("model") && !name.ends_with(".json");
    let rank = |name: &str| (!is_model(name), name.ends_with(".json"));
    let found = foreign.iter().min_by_key(|(name, _)| rank(name));
    let Some((name, format)) = found else {
        return Error::invalid_checkpoint(format!(
            "{} has no .safetensors file; give the directory that holds the checkpoint (in a Hugging \
             Face cache: snapshots/REVISION)",
            dir.display()
        ));
    };
    let alike = |(n, f): &&(String, Foreign)| f == format && is_model(n);
    directory_refusal(dir, name, *format, foreign.iter().filter(alike).count().max(1))
}

/// The visible names in `dir` that are not directories, sorted. Names that are not UTF-8 are escaped
/// with U+FFFD, so that opening one fails by name.
fn list(dir: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(|e| Error::io("list", dir, e))? {
        let entry = entry.map_err(|e| Error::io("list", dir, e))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_dir = fs::metadata(entry.path()).is_ok_and(|metadata| metadata.is_dir());
        if !name.starts_with('.') && !is_dir {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}
