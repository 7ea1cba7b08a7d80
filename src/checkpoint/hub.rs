//! Models by their names on the Hugging Face Hub, found in its local cache. Nothing is downloaded and the
//! cache is never written.
//!
//! The cache has a directory for each model, `models--ORG--NAME`: in `refs` a file for each branch and tag
//! with the commit it stood for, in `snapshots` a directory for each commit, of links to `blobs`.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::checkpoint::discover::{self, is_weights};
use crate::checkpoint::names::check_plain_name;
use crate::error::{Error, ErrorKind, Missing, Result};

/// The revision that is meant where none is given.
const DEFAULT_REVISION: &str = "main";
/// How a model's directory in the cache begins.
const MODEL_PREFIX: &str = "models--";
/// Fewest digits of a commit that stand for it.
const LEAST_DIGITS: usize = 4;
/// Revisions that a message lists.
const MOST_LISTED: usize = 8;

/// The local cache of the Hugging Face Hub, in which names of models are looked up.
///
/// ```no_run
/// use delta_stream::HubCache;
/// use std::path::Path;
///
/// # fn main() -> delta_stream::Result<()> {
/// let cache = HubCache::from_env(|name| std::env::var_os(name));
/// let base = cache.locate(Path::new("org/name@v1.0"))?;
/// let checkpoint = delta_stream::Checkpoint::open(&base)?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubCache {
    dir: PathBuf,
}

impl HubCache {
    /// The cache in this directory, which need not be there.
    pub fn at(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// The cache that the environment names, as `huggingface_hub` has it: `HF_HUB_CACHE`, else
    /// `HUGGINGFACE_HUB_CACHE`, else `hub` in `HF_HOME`, else `huggingface/hub` in `XDG_CACHE_HOME`, else
    /// `~/.cache/huggingface/hub`. An empty variable counts as none. `var` looks one up.
    pub fn from_env(var: impl Fn(&str) -> Option<OsString>) -> Self {
        let get = |name: &str| var(name).filter(|value| !value.is_empty());
        let path = |name: &str| get(name).map(|value| expanded(&value, &get));
        let cache = path("HF_HUB_CACHE").or_else(|| path("HUGGINGFACE_HUB_CACHE"));
        Self::at(cache.unwrap_or_else(|| {
            let home = path("HF_HOME").unwrap_or_else(|| {
                let caches = path("XDG_CACHE_HOME");
                caches.unwrap_or_else(|| expanded("~/.cache".as_ref(), &get)).join("huggingface")
            });
            home.join("hub")
        }))
    }

    /// The directory of the cache.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The path that an input means: the path itself if it is there or cannot be a model's name; of
    /// `ORG/NAME`, `NAME` and either with `@REVISION` the snapshot in the cache. A revision is a branch, a
    /// tag, or a commit of at least four digits that are no other's; without one it is `main`.
    ///
    /// # Errors
    /// `InvalidArgument` for a name that is not in the cache, `Io` if it may as well be a path that is
    /// missing; `InvalidCheckpoint` if the snapshot lacks files of the checkpoint. All name the command that
    /// downloads it.
    pub fn locate(&self, input: &Path) -> Result<PathBuf> {
        let is_there = fs::symlink_metadata(input).is_ok();
        let Some(name) = HubName::parse(input).filter(|_| !is_there) else {
            return Ok(input.to_owned());
        };
        let snapshot = self.snapshot(&name).map_err(|error| match error {
            // What could be a file in a directory that is there is more likely missing from it.
            Lookup::Missing(why) if name.revision.is_none() && has_parent(input) => {
                Error::new(ErrorKind::Io, why).with_missing(Missing::Path(input.to_owned()))
            }
            Lookup::Missing(why) => {
                let (asked, cached) = (input.to_owned(), self.others(&name));
                Error::invalid_argument(why).with_missing(Missing::Model { asked, cached })
            }
            Lookup::Failed(error) => error,
        })?;
        check_whole(&snapshot, &name)?;
        Ok(snapshot)
    }

    fn snapshot(&self, name: &HubName<'_>) -> std::result::Result<PathBuf, Lookup> {
        let model = self.dir.join(format!("{MODEL_PREFIX}{}", name.id.replace('/', "--")));
        let revision = name.revision();
        let snapshots = model.join("snapshots");
        let commits = entries(&snapshots)?;
        let commit = match read_ref(&model.join("refs").join(revision))? {
            Some(commit) => Some(commit),
            None => commit_of(revision, &commits).map_err(|n| {
                Lookup::Missing(format!(
                    "{name}: {n} commits in the Hub cache begin with {revision}; give more of its digits"
                ))
            })?,
        };
        match commit.filter(|commit| commits.contains(commit)) {
            Some(commit) => Ok(snapshots.join(commit)),
            None => Err(self.missing(name, &model, &commits)),
        }
    }

    /// Names of the models in it, but for this one: what is missing of it is a revision. What cannot be read is
    /// left out: this is for a message.
    fn others(&self, name: &HubName<'_>) -> Vec<String> {
        let dirs = entries(&self.dir).unwrap_or_default();
        let models = dirs.iter().filter_map(|dir| dir.strip_prefix(MODEL_PREFIX));
        models.map(|model| model.replace("--", "/")).filter(|model| model != name.id).collect()
    }

    /// Says where a name was looked for, which revisions are there, and how to get it.
    fn missing(&self, name: &HubName<'_>, model: &Path, commits: &[String]) -> Lookup {
        let mut known = Vec::new();
        branches(&model.join("refs"), "", &mut known);
        known.retain(|(_, commit)| commits.contains(commit));
        let unnamed = commits.iter().filter(|c| !known.iter().any(|(_, named)| named == *c));
        let mut shown: Vec<String> = known.iter().map(|(name, _)| name.clone()).collect();
        shown.extend(unnamed.cloned());
        let there = match shown.len() {
            0 => String::new(),
            n => {
                let more = if n > MOST_LISTED { ", ..." } else { "" };
                shown.truncate(MOST_LISTED);
                format!(", which has revisions {}{more} of it", shown.join(", "))
            }
        };
        // Few models have no owner; a word is more likely a path.
        let remedy = match name.id.contains('/') || name.revision.is_some() || !there.is_empty() {
            true => format!("download it: {}", name.download()),
            false => "check the path; a model's name there is ORG/NAME".to_owned(),
        };
        Lookup::Missing(format!(
            "{name} is no local path and not in the Hub cache {}{there}; {remedy}",
            self.dir.display()
        ))
    }
}

/// Why there is no snapshot.
enum Lookup {
    Missing(String),
    Failed(Error),
}

impl From<Error> for Lookup {
    fn from(error: Error) -> Self {
        Lookup::Failed(error)
    }
}

/// A model's name on the Hub, with a revision or without.
struct HubName<'a> {
    /// `ORG/NAME` or `NAME`.
    id: &'a str,
    revision: Option<&'a str>,
}

impl<'a> HubName<'a> {
    /// Takes a path apart that reads like a name; none if it cannot be one.
    fn parse(path: &'a Path) -> Option<Self> {
        let text = path.to_str()?;
        let (id, revision) = match text.split_once('@') {
            Some((id, revision)) => (id, Some(revision)),
            None => (text, None),
        };
        let (org, name) = id.split_once('/').map_or((None, id), |(org, name)| (Some(org), name));
        let is_file = is_weights(name) || name.ends_with(".json");
        let is_id = !is_file && is_word(name) && org.is_none_or(is_word);
        (is_id && revision.is_none_or(is_revision)).then_some(Self { id, revision })
    }

    fn revision(&self) -> &'a str {
        self.revision.unwrap_or(DEFAULT_REVISION)
    }

    /// The command that brings it to the cache.
    fn download(&self) -> String {
        let revision = self.revision.map_or(String::new(), |r| format!(" --revision {r}"));
        format!("hf download {}{revision}", self.id)
    }
}

impl std::fmt::Display for HubName<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.id)?;
        self.revision.map_or(Ok(()), |revision| write!(f, "@{revision}"))
    }
}

/// Whether it may be the name of a model or of its owner. The Hub allows no `--`, which stands for the
/// slash in the cache.
fn is_word(word: &str) -> bool {
    let is_edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = word.as_bytes();
    let ends = is_edge(bytes.first()) && (is_edge(bytes.last()) || word.ends_with('_'));
    let inside = bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b));
    ends && inside && !word.contains("--") && !word.contains("..")
}

/// Whether it may be a branch, tag or commit; branches have slashes. Nothing leads out of `refs`.
fn is_revision(text: &str) -> bool {
    let is_plain = |c: char| c.is_alphanumeric() || "-_.+=@".contains(c);
    let is_part =
        |part: &str| !part.is_empty() && !part.starts_with('.') && part.chars().all(is_plain);
    text.split('/').all(is_part)
}

/// Whether the directory is there that the path would lie in.
fn has_parent(path: &Path) -> bool {
    path.parent().is_some_and(|parent| parent.as_os_str().is_empty() || parent.exists())
}

/// The commit of `commits` that `revision` names, if it is one, or is how just one begins.
///
/// # Errors
/// How many begin so, if there are several.
fn commit_of(revision: &str, commits: &[String]) -> std::result::Result<Option<String>, usize> {
    let is_hex = revision.bytes().all(|b| b.is_ascii_hexdigit());
    if let Some(same) = commits.iter().find(|commit| *commit == revision) {
        return Ok(Some(same.clone()));
    }
    if !is_hex || revision.len() < LEAST_DIGITS {
        return Ok(None);
    }
    let start = revision.to_ascii_lowercase();
    let mut found = commits.iter().filter(|commit| commit.starts_with(&start));
    match (found.next(), found.count()) {
        (commit, 0) => Ok(commit.cloned()),
        (_, more) => Err(more + 1),
    }
}

/// The names of the directories in `dir`, sorted; none if it is not there.
fn entries(dir: &Path) -> Result<Vec<String>> {
    let listed = match fs::read_dir(dir) {
        Err(e) if is_absent(&e) => return Ok(Vec::new()),
        listed => listed.map_err(|e| Error::io("list", dir, e))?,
    };
    let mut names = Vec::new();
    for entry in listed {
        let entry = entry.map_err(|e| Error::io("list", dir, e))?;
        names.extend(
            entry.file_name().to_str().filter(|_| entry.path().is_dir()).map(str::to_owned),
        );
    }
    names.sort_unstable();
    Ok(names)
}

fn is_absent(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// The commit that a file of `refs` holds; none if there is no such file.
fn read_ref(path: &Path) -> Result<Option<String>> {
    if !path.is_file() {
        return Ok(None);
    }
    let text = fs::read_to_string(path).map_err(|e| Error::io("read", path, e))?;
    let commit = text.trim();
    match check_plain_name(commit) {
        Ok(()) => Ok(Some(commit.to_owned())),
        Err(why) => Err(Error::new(
            ErrorKind::InvalidCheckpoint,
            format!("{}: the commit in it {why}; download the model again", path.display()),
        )),
    }
}

/// Names and commits of all branches and tags under `refs`. What cannot be read is left out: this is for a
/// message.
fn branches(dir: &Path, before: &str, out: &mut Vec<(String, String)>) {
    let Ok(listed) = fs::read_dir(dir) else { return };
    let mut paths: Vec<_> = listed.flatten().map(|entry| entry.path()).collect();
    paths.sort_unstable();
    for path in paths {
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        let name = format!("{before}{name}");
        if path.is_dir() {
            branches(&path, &format!("{name}/"), out);
        } else if let Ok(Some(commit)) = read_ref(&path) {
            out.push((name, commit));
        }
    }
}

/// Fails if a download that was cut off, or one of some files, left a snapshot without its weights.
fn check_whole(snapshot: &Path, name: &HubName<'_>) -> Result<()> {
    let again = |what: String| {
        Error::invalid_checkpoint(format!(
            "{name} is not whole in the Hub cache: {what}; download the rest: {}",
            name.download()
        ))
    };
    let names = entries_of_weights(snapshot)?;
    if names.is_empty() {
        return Err(again(format!("{} has no weights", snapshot.display())));
    }
    // Weights of other formats are refused, with what to do, by who opens it.
    let Ok(found) = discover::discover(snapshot) else { return Ok(()) };
    match found.files.iter().map(|file| snapshot.join(file)).find(|path| !path.exists()) {
        Some(path) => Err(again(format!("{} is missing", path.display()))),
        None => Ok(()),
    }
}

/// Names of all weights in a snapshot, links that lead nowhere too.
fn entries_of_weights(dir: &Path) -> Result<Vec<String>> {
    let listed = fs::read_dir(dir).map_err(|e| Error::io("list", dir, e))?;
    let names = listed.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    Ok(names.filter(|name| is_weights(name)).collect())
}

/// The name of the model that a path inside a Hub cache belongs to, without its owner's; none for other
/// paths.
pub(crate) fn model_name(path: &Path) -> Option<String> {
    let parts = path.components().filter_map(|part| part.as_os_str().to_str());
    let model = parts.filter_map(|part| part.strip_prefix(MODEL_PREFIX)).next_back()?;
    let name = model.rsplit("--").next().filter(|name| !name.is_empty())?;
    Some(name.to_owned())
}

/// A path with a leading `~` and `$NAME` or `${NAME}` replaced, as Python's `expanduser` and `expandvars` do.
fn expanded(path: &std::ffi::OsStr, var: &impl Fn(&str) -> Option<OsString>) -> PathBuf {
    let Some(text) = path.to_str() else { return path.into() };
    let mut out = OsString::new();
    let mut rest = text;
    let home = var("HOME").or_else(|| var("USERPROFILE"));
    if let (Some(home), Some(after)) = (home, rest.strip_prefix('~'))
        && (after.is_empty() || after.starts_with('/'))
    {
        out.push(home);
        rest = after;
    }
    while let Some((before, after)) = rest.split_once('$') {
        out.push(before);
        let braced = after.strip_prefix('{').and_then(|inner| inner.split_once('}'));
        let end = after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let (name, after_name) =
            braced.unwrap_or_else(|| after.split_at(end.unwrap_or(after.len())));
        match var(name).filter(|_| !name.is_empty()) {
            Some(value) => {
                out.push(value);
                rest = after_name;
            }
            None => {
                out.push("$");
                rest = after;
            }
        }
    }
    out.push(rest);
    out.into()
}
