//! Writes a checkpoint directory: all or nothing.
//!
//! Everything goes to a temporary directory beside the output, reaches the disk, and takes the final
//! name in one rename; whoever opens the output sees the old state or the new, never a part. An
//! existing file is never truncated, since someone may have it mapped.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::json;

use crate::checkpoint::buffers::Blocks;
use crate::checkpoint::discover::{INDEX_NAME, is_weights};
use crate::checkpoint::disk::{self, TempDir, parent_of};
use crate::checkpoint::gather::{Gather, OPEN_BYTES};
use crate::checkpoint::layout::ShardLayout;
use crate::checkpoint::names::{NameSet, shown};
use crate::checkpoint::partial::PartialDir;
use crate::checkpoint::replace::{put_in_place, remove_flat, take_back};
use crate::checkpoint::sys;
use crate::checkpoint::writeback::Writeback;
use crate::error::{Error, Result};

/// What a shard's file name ends in until it is whole.
const PART: &str = ".part";

/// A checkpoint directory being written; dropped without [`commit`](Self::commit), it leaves nothing unless
/// it is resumed.
#[derive(Debug)]
pub(crate) struct CheckpointWriter {
    /// The final name, with links resolved.
    dir: PathBuf,
    force: bool,
    temp: PartialDir,
    names: NameSet,
    shards: Vec<WrittenShard>,
    /// Of shards that are written past the system's cache.
    blocks: Option<Arc<Blocks>>,
}

#[derive(Debug)]
struct WrittenShard {
    file_name: String,
    tensors: Vec<(String, u64)>,
    data_start: u64,
    file_len: u64,
    /// Tensor bytes still to come.
    left: AtomicU64,
    /// None if an earlier run wrote it.
    out: Option<SyncedFile>,
    /// Whether it is on disk under its own name.
    is_whole: AtomicBool,
}

impl CheckpointWriter {
    /// Prepares to write `dir`, and its parents where missing.
    ///
    /// # Errors
    /// `InvalidArgument` if `dir` is a file, a mount point, or a directory that is not empty and
    /// either `force` is false or it has sub-directories.
    pub(crate) fn create(dir: &Path, force: bool) -> Result<Self> {
        let writer = Self::open(dir, force)?;
        writer.temp.clear()?;
        Ok(writer)
    }

    /// As [`create`](Self::create), for a checkpoint that `identity` tells from all others: if it is
    /// resumed, the whole shards stay that an earlier run left of it, and those that this one writes if
    /// it is cut off.
    ///
    /// # Errors
    /// `InvalidArgument` if the earlier run wrote something else.
    pub(crate) fn create_as(dir: &Path, force: bool, identity: u64, resumes: bool) -> Result<Self> {
        let mut writer = Self::open(dir, force)?;
        if resumes {
            writer.temp.leave();
        }
        writer.temp.claim(identity, resumes)?;
        Ok(writer)
    }

    /// Says whether a checkpoint may be written at `dir`.
    ///
    /// # Errors
    /// `InvalidArgument` if it may not.
    pub(crate) fn refuse_existing(dir: &Path, force: bool) -> Result<()> {
        check_replaceable(&named(dir)?, force).map(drop)
    }

    fn open(dir: &Path, force: bool) -> Result<Self> {
        let dir = named(dir)?;
        let parent = parent_of(&dir);
        disk::create_dir_all(parent).map_err(|e| Error::io("create", parent, e))?;
        check_replaceable(&dir, force)?;
        let temp = PartialDir::open(&dir)?;
        let (names, shards, blocks) = (NameSet::default(), Vec::new(), None);
        Ok(Self { dir, force, temp, names, shards, blocks })
    }

    /// Writes shards that are started from now on past the system's cache, where that can be done.
    pub(crate) fn pass_cache_by(&mut self) {
        self.blocks = Some(Arc::default());
    }

    /// Bytes that it holds while it writes.
    pub(crate) fn buffer_bytes(&self) -> u64 {
        self.blocks.as_ref().map_or(0, |_| OPEN_BYTES)
    }

    /// Creates the file of `layout` with its header and its full length; gives its index. It is whole
    /// already if an earlier run left it so.
    pub(crate) fn start_shard(&mut self, layout: &ShardLayout) -> Result<usize> {
        self.claim_name(&layout.file_name)?;
        let whole = fs::metadata(self.temp.path().join(&layout.file_name));
        let out = if whole.is_ok_and(|m| m.len() == layout.file_len) {
            None
        } else {
            let mut out = self.create_file(&format!("{}{PART}", layout.file_name))?;
            disk::set_len(&out.file, layout.file_len)
                .map_err(|e| Error::io("extend", &out.path, e))?;
            let blocks = self.blocks.as_ref();
            out.gather = blocks.and_then(|b| Gather::open(&out.path, layout.file_len, b));
            out.write_at(0, &layout.header)?;
            Some(out)
        };
        let data_start = layout.header.len() as u64;
        let left = out.as_ref().map_or(0, |_| layout.file_len - data_start);
        let tensors = layout.tensors.iter().map(|(name, _, n_bytes)| (name.clone(), *n_bytes));
        self.shards.push(WrittenShard {
            file_name: layout.file_name.clone(),
            tensors: tensors.collect(),
            data_start,
            file_len: layout.file_len,
            left: AtomicU64::new(left),
            is_whole: AtomicBool::new(out.is_none()),
            out,
        });
        Ok(self.shards.len() - 1)
    }

    /// Whether nothing is left to write of a shard.
    pub(crate) fn is_whole(&self, shard_idx: usize) -> bool {
        self.shards.get(shard_idx).is_some_and(|shard| shard.is_whole.load(Ordering::Relaxed))
    }

    /// Writes tensor bytes at `offset` of the file of shard `shard_idx`. Each byte is written once.
    /// Threads may write different places at once.
    pub(crate) fn write_at(&self, shard_idx: usize, offset: u64, bytes: &[u8]) -> Result<()> {
        let n = bytes.len() as u64;
        let shard = self.shards.get(shard_idx).filter(|shard| {
            let fits = offset.checked_add(n).is_some_and(|end| end <= shard.file_len);
            fits && offset >= shard.data_start
        });
        let open = shard.and_then(|shard| Some((shard, shard.out.as_ref()?)));
        let taken = open.filter(|(shard, _)| {
            let take = |left: u64| left.checked_sub(n);
            shard.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
        });
        match taken {
            Some((_, out)) => out.write_at(offset, bytes),
            None => Err(Error::invalid_argument(format!(
                "{n} bytes at {offset} of output shard {shard_idx} have no place in its layout"
            ))),
        }
    }

    /// Checks that a shard is complete, brings it to disk and gives it its name: from then on a run that
    /// resumes need not write it. Later calls do nothing.
    ///
    /// # Errors
    /// `InvalidCheckpoint` if tensor bytes are missing.
    pub(crate) fn finish_shard(&self, shard_idx: usize) -> Result<()> {
        let Some(shard) = self.shards.get(shard_idx) else {
            return Err(Error::invalid_argument(format!("there is no output shard {shard_idx}")));
        };
        let left = shard.left.load(Ordering::Relaxed);
        if left != 0 {
            return Err(Error::invalid_checkpoint(format!(
                "output shard {}: {} of {} bytes were never written; its header and its tensors disagree",
                shard.file_name,
                left,
                shard.file_len - shard.data_start
            )));
        }
        let Some(out) = shard.out.as_ref().filter(|_| !self.is_whole(shard_idx)) else {
            return Ok(());
        };
        out.finish()?;
        let name = self.temp.path().join(&shard.file_name);
        disk::rename(&out.path, &name).map_err(|e| Error::io("rename", &out.path, e))?;
        shard.is_whole.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Writes a side file from its chunks and gives its length.
    ///
    /// # Errors
    /// `InvalidCheckpoint` if `name` is not plain or taken; whatever a chunk brings.
    pub(crate) fn write_side_file<B: AsRef<[u8]>>(
        &mut self,
        name: &str,
        chunks: impl IntoIterator<Item = Result<B>>,
    ) -> Result<u64> {
        self.claim_name(name)?;
        let out = self.create_file(name)?;
        let mut len = 0;
        for chunk in chunks {
            let chunk = chunk?;
            out.write_at(len, chunk.as_ref())?;
            len += chunk.as_ref().len() as u64;
        }
        out.finish()?;
        Ok(len)
    }

    /// Writes the index of the shards started so far, if there are several or `always` is set.
    /// Its bytes are those that transformers writes for the same facts.
    ///
    /// # Errors
    /// `InvalidCheckpoint` if a tensor is in two shards.
    pub(crate) fn write_index(&mut self, always: bool) -> Result<()> {
        if self.shards.len() < 2 && !always {
            return Ok(());
        }
        let mut total_size = 0;
        let mut weight_map = BTreeMap::new();
        for shard in &self.shards {
            for (name, n_bytes) in &shard.tensors {
                total_size += n_bytes;
                if let Some(other) = weight_map.insert(name, &shard.file_name) {
                    return Err(Error::invalid_checkpoint(format!(
                        "tensor {} would be in both {other} and {}",
                        shown(name),
                        shard.file_name
                    )));
                }
            }
        }
        let index = json!({ "metadata": { "total_size": total_size }, "weight_map": weight_map });
        let text = format!("{index:#}\n");
        self.write_side_file(INDEX_NAME, [Ok(text)])?;
        Ok(())
    }

    /// Brings everything to disk and gives it its final name, in place of what was there.
    pub(crate) fn commit(self) -> Result<()> {
        for shard_idx in 0..self.shards.len() {
            self.finish_shard(shard_idx)?;
        }
        self.temp.settle()?;
        sync_dir(self.temp.path())?;
        // Again: hours may have passed.
        let replaces = check_replaceable(&self.dir, self.force)?;
        let aside = put_in_place(self.temp.path(), &self.dir, replaces)?;
        // The name leads to the user's files now, or nowhere: no drop may remove what is there.
        let made = self.temp.keep();
        if let Err(e) = sync_dir(parent_of(&self.dir)) {
            return Err(take_back(&made, &self.dir, aside.as_deref(), e));
        }
        aside.map_or(Ok(()), |aside| remove_flat(&aside))
    }

    pub(super) fn claim_name(&mut self, name: &str) -> Result<()> {
        self.names.insert(name).map_err(|why| {
            Error::invalid_checkpoint(format!("output file name {} {why}", shown(name)))
        })
    }

    pub(super) fn create_file(&self, name: &str) -> Result<SyncedFile> {
        let path = self.temp.path().join(name);
        // An earlier run may have left a part of it.
        if fs::symlink_metadata(&path).is_ok() {
            disk::remove_file(&path).map_err(|e| Error::io("replace", &path, e))?;
        }
        let file = disk::create_new(&path).map_err(|e| Error::io("create", &path, e))?;
        Ok(SyncedFile { file, path, gather: None, writeback: Mutex::default() })
    }
}

/// A file whose unsynced bytes are bounded.
#[derive(Debug)]
pub(super) struct SyncedFile {
    file: File,
    path: PathBuf,
    /// Where its blocks go straight to the disk.
    gather: Option<Gather>,
    writeback: Mutex<Writeback>,
}

impl SyncedFile {
    pub(super) fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let failed = |e| Error::io("write", &self.path, e);
        if let Some(gather) = &self.gather {
            return gather.write_at(&self.file, offset, bytes).map_err(failed);
        }
        disk::write_all_at(&self.file, bytes, offset).map_err(failed)?;
        let mut writeback = self.writeback.lock().unwrap_or_else(PoisonError::into_inner);
        let sent = writeback.wrote(&self.file, offset, bytes.len() as u64);
        sent.map_err(|e| Error::io("sync", &self.path, e))
    }

    pub(super) fn finish(&self) -> Result<()> {
        if let Some(gather) = &self.gather {
            gather.finish(&self.file).map_err(|e| Error::io("write", &self.path, e))?;
        }
        disk::sync_all(&self.file).map_err(|e| Error::io("sync", &self.path, e))?;
        let mut writeback = self.writeback.lock().unwrap_or_else(PoisonError::into_inner);
        writeback.synced(&self.file);
        Ok(())
    }
}

/// The place itself, behind links, which has to have a name.
fn named(dir: &Path) -> Result<PathBuf> {
    let dir = match dir.canonicalize() {
        Ok(found) => found,
        // A dangling link exists and leads nowhere.
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && !dir.is_symlink() => dir.to_owned(),
        Err(e) => return Err(Error::io("open", dir, e)),
    };
    if dir.file_name().is_none() {
        return Err(Error::invalid_argument(format!(
            "{} cannot be replaced; give a directory with a name",
            dir.display()
        )));
    }
    Ok(dir)
}

/// Whether `dir` has contents that a new checkpoint replaces.
fn check_replaceable(dir: &Path, force: bool) -> Result<bool> {
    let metadata = match fs::metadata(dir) {
        Ok(metadata) => metadata,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(Error::io("open", dir, e)),
    };
    let refuse = |why: &str| Err(Error::invalid_argument(format!("{} {why}", dir.display())));
    if !metadata.is_dir() {
        return refuse("is a file; give a directory to write to");
    }
    let parent = parent_of(dir);
    let parent_metadata = fs::metadata(parent).map_err(|e| Error::io("open", parent, e))?;
    if sys::device(&metadata) != sys::device(&parent_metadata) {
        return refuse("is a mount point and cannot be replaced; give a directory inside it");
    }
    let (mut is_empty, mut has_weights) = (true, false);
    for entry in fs::read_dir(dir).map_err(|e| Error::io("list", dir, e))? {
        let entry = entry.map_err(|e| Error::io("list", dir, e))?;
        is_empty = false;
        if !force {
            return refuse("is not empty; choose another directory, or --force to replace it");
        }
        has_weights |= is_weights(&entry.file_name().to_string_lossy());
        if entry.file_type().map_err(|e| Error::io("list", dir, e))?.is_dir() {
            let name = entry.file_name();
            let name = shown(&name.to_string_lossy()).to_string();
            return refuse(&format!(
                "has a sub-directory {name}, which no checkpoint has: it is not replaced even by \
                 force; choose another directory"
            ));
        }
    }
    if !is_empty && !has_weights {
        return refuse(
            "holds no checkpoint: it is not replaced even by force; choose another directory, or empty it",
        );
    }
    Ok(!is_empty)
}

/// A directory that is gone with all it holds once it is dropped.
pub(crate) type TemporaryDir = TempDir;

/// Makes a directory for a checkpoint that is looked at and thrown away, beside `path`.
pub(crate) fn temporary_dir(path: &Path) -> Result<TemporaryDir> {
    let parent = parent_of(path);
    disk::create_temporary_dir(parent, OsStr::new(".delta-stream-trial-"), 0o700)
        .map_err(|e| Error::io("create a directory in", parent, e))
}

/// Makes the names in a directory durable.
pub(crate) fn sync_dir(dir: &Path) -> Result<()> {
    disk::sync_dir(dir).map_err(|e| Error::io("sync", dir, e))
}
