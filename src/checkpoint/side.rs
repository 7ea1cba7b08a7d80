//! Side files: what lies beside the shards (config, tokenizer, licence) and makes them a model.

use std::fs;
use std::path::{Path, PathBuf};

use crate::checkpoint::discover::is_weights;
use crate::checkpoint::names::NameSet;
use crate::error::{Error, Result};

/// Largest side file carried; tokenizers have 30 MB, anything beyond is data.
pub(crate) const MAX_SIDE_FILE_BYTES: u64 = 256 << 20;

/// A file that is carried along verbatim.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SideFile {
    /// Its name in the checkpoint's directory; plain on every system.
    pub name: String,
    /// Where to read it.
    pub path: PathBuf,
    /// Its length in bytes when it was listed.
    pub len: u64,
}

/// A file that is not carried along, though it looks like one that should.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SkippedFile {
    /// Its name.
    pub name: String,
    /// Why, to follow the name in a sentence.
    pub why: &'static str,
}

/// The side files of a checkpoint, both lists sorted by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SideFiles {
    /// Those to carry.
    pub files: Vec<SideFile>,
    /// Those to tell the user about.
    pub skipped: Vec<SkippedFile>,
}

/// Whether a file has the name of an archive or of its parity.
fn is_archive(name: &str) -> bool {
    name.ends_with(".delta.zst") || name.ends_with(".parity")
}

/// Lists `root`. Weights in any format, and what is hidden, are neither carried nor reported.
pub(super) fn list(root: &Path) -> Result<SideFiles> {
    let mut entries = Vec::new();
    for entry in fs::read_dir(root).map_err(|e| Error::io("list", root, e))? {
        let entry = entry.map_err(|e| Error::io("list", root, e))?;
        entries.push((entry.file_name(), entry.path()));
    }
    // The order decides which of two clashing names is kept.
    entries.sort_unstable();
    let mut out = SideFiles::default();
    let mut names = NameSet::default();
    for (os_name, path) in entries {
        let name = os_name.to_string_lossy().into_owned();
        if name.starts_with('.') || is_weights(&name) {
            continue;
        }
        let skip = match fs::metadata(&path) {
            Err(_) => Some("cannot be read (a dangling link?)"),
            Ok(metadata) if metadata.is_dir() => Some("is a directory"),
            Ok(_) if is_archive(&name) => Some("is an archive of deltas"),
            Ok(metadata) if !metadata.is_file() => Some("is not a regular file"),
            Ok(metadata) if metadata.len() > MAX_SIDE_FILE_BYTES => Some("is larger than 256 MiB"),
            Ok(_) if os_name.to_str().is_none() => Some("is not a UTF-8 name"),
            Ok(metadata) => match names.insert(&name) {
                Err(why) => Some(why),
                Ok(()) => {
                    out.files.push(SideFile { name: name.clone(), path, len: metadata.len() });
                    None
                }
            },
        };
        out.skipped.extend(skip.map(|why| SkippedFile { name, why }));
    }
    Ok(out)
}

/// Side files of a base with those of an adapter's tokenizer in the place of its own. The others of an
/// adapter describe the adapter: with its configuration beside them, a merged model would load as one.
pub(super) fn with_tokenizer(mut base: SideFiles, adapter: SideFiles) -> SideFiles {
    for file in adapter.files {
        if is_tokenizer(&file.name) {
            base.files.retain(|own| !own.name.eq_ignore_ascii_case(&file.name));
            base.files.push(file);
        } else {
            let why = "describes the adapter, not the merged model";
            base.skipped.push(SkippedFile { name: file.name, why });
        }
    }
    base.skipped.extend(adapter.skipped);
    base.files.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    base.skipped.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    base
}

/// Whether a file of this name is of a tokenizer, by the names that `transformers` gives them.
fn is_tokenizer(name: &str) -> bool {
    let starts = ["tokenizer", "vocab.", "chat_template", "sentencepiece"];
    let names = ["special_tokens_map.json", "added_tokens.json", "merges.txt", "spiece.model"];
    starts.iter().any(|start| name.starts_with(start)) || names.contains(&name)
}
