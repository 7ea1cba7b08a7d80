//! Checkpoints in and out: Hugging Face directories of safetensors files.
//!
//! Opening reads headers alone; tensor bytes come through [`map`]'s windows, a range at a time, and
//! leave through [`writer`]. Nothing here knows what a delta is.

mod adapter;
mod alias;
mod behind;
mod buffers;
mod cache;
mod direct;
mod discover;
pub(crate) mod disk;
mod foreign;
mod gather;
mod grown;
mod header;
mod hub;
mod index;
mod layout;
mod map;
mod memory;
mod names;
mod partial;
mod replace;
mod shard;
mod side;
mod sys;
#[cfg(test)]
mod tests;
mod window;
mod writeback;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64;

pub(crate) use adapter::{Adapter, is_adapter};
pub(crate) use alias::aliases;
pub(crate) use direct::{Direct, Fetch};
pub(crate) use discover::{INDEX_NAME, is_weights};
#[cfg(feature = "fault-injection")]
pub use disk::faults;
pub(crate) use grown::GrownShard;
pub(crate) use header::metadata as header_metadata;
pub use hub::HubCache;
pub(crate) use hub::model_name;
pub(crate) use layout::{ShardLayout, parse_layout, plan_file, plan_shards};
pub(crate) use map::Source;
pub use map::{IoMode, MapChoice};
pub(crate) use memory::bytes_of;
pub(crate) use names::{NameSet, shown};
pub(crate) use replace::hidden_name;
pub(crate) use shard::parse_header;
pub use shard::{Shard, TensorInfo};
pub use side::{SideFile, SideFiles, SkippedFile};
pub(crate) use sys::{Locked, free_bytes, is_same_file};
pub(crate) use window::Window;
pub(crate) use writeback::Writeback;
pub(crate) use writer::{CheckpointWriter, sync_dir, temporary_dir};

use crate::checkpoint::discover::{Found, discover};
use crate::checkpoint::index::Index;
use crate::error::{Error, Result};

/// Places of a shard that are asked whether they are cached: one less than so many.
const PROBES: u64 = 9;

/// An open checkpoint: files and headers, validated; no tensor bytes.
#[derive(Debug)]
pub struct Checkpoint {
    root: PathBuf,
    owns_root: bool,
    has_index: bool,
    shards: Vec<Shard>,
    tensors: Vec<TensorInfo>,
    /// Indices into `tensors`, sorted by name.
    by_name: Vec<usize>,
    /// What is merged into the tensors as they are read.
    adapter: Option<Arc<Adapter>>,
}

impl Checkpoint {
    /// Opens a Hugging Face directory, one `.safetensors` file, or a `.safetensors.index.json`.
    ///
    /// In a directory `model.safetensors.index.json` comes first, then `model.safetensors`, then
    /// all `*.safetensors` by name, without `consolidated*` and `adapter_*` where there are others.
    /// Links are followed, as a Hugging Face cache needs.
    ///
    /// # Errors
    /// `InvalidCheckpoint` for weights in another format, a missing shard, or anything that breaks
    /// the safetensors format; `Io` if the path cannot be read.
    pub fn open(path: &Path) -> Result<Checkpoint> {
        Self::from_found(discover(path)?)
    }

    /// Opens a fine-tune of `base`: a checkpoint as [`open`](Self::open) takes it, or the directory of a
    /// LoRA adapter that PEFT saved as safetensors, which stands for the base with the adapter merged into
    /// it: the base's tensors, shards and side files, with the adapter's tokenizer where it has one.
    ///
    /// An element of a merged weight is that of the base plus the scaled sum over the rank, taken in f32 (f64
    /// of an F64 base) and rounded once to the base's dtype. [`shards`](Self::shards) are then the base's own
    /// files, without the change. If the base itself is an adapter, both are taken as they are.
    ///
    /// # Errors
    /// As [`open`](Self::open); `InvalidCheckpoint` for adapters that are no plain LoRA or do not fit the
    /// base.
    pub fn open_fine_tune(path: &Path, base: &Path) -> Result<Checkpoint> {
        if !is_adapter(path) || is_adapter(base) {
            return Self::open(path);
        }
        let mut merged = Self::open(base)?;
        merged.adapter = Some(Arc::new(Adapter::open(path, &merged)?));
        Ok(merged)
    }

    fn from_found(Found { root, owns_root, files, index }: Found) -> Result<Checkpoint> {
        let mut shards = Vec::with_capacity(files.len());
        let mut tensors = Vec::new();
        for (shard_idx, name) in files.into_iter().enumerate() {
            let path = root.join(&name);
            if let Some(index) = &index {
                check_present(&path, index)?;
            }
            let (shard, its_tensors) = Shard::open(path, name, shard_idx)?;
            shards.push(shard);
            tensors.extend(its_tensors);
        }
        let mut by_name: Vec<usize> = (0..tensors.len()).collect();
        by_name.sort_unstable_by(|&a, &b| tensors[a].name.cmp(&tensors[b].name));
        let (has_index, adapter) = (index.is_some(), None);
        let checkpoint =
            Checkpoint { root, owns_root, has_index, shards, tensors, by_name, adapter };
        checkpoint.check_unique()?;
        index.map_or(Ok(()), |index| checkpoint.check_index(&index))?;
        Ok(checkpoint)
    }

    /// The directory the shards lie in.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The shards, sorted by name.
    pub fn shards(&self) -> &[Shard] {
        &self.shards
    }

    /// All tensors in file order: by shard, offset and name.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// The tensor of this name, with its place in [`tensors`](Self::tensors).
    pub fn find(&self, name: &str) -> Option<(usize, &TensorInfo)> {
        let at =
            self.by_name.binary_search_by(|&i| self.tensors[i].name.as_str().cmp(name)).ok()?;
        let idx = self.by_name[at];
        Some((idx, &self.tensors[idx]))
    }

    /// Bytes of all shards, headers included.
    pub fn total_bytes(&self) -> u64 {
        self.shards.iter().map(|shard| shard.file_len).sum()
    }

    /// The files beside the shards that belong to the model; none if one file was opened by name.
    ///
    /// # Errors
    /// `Io` if the directory cannot be listed.
    pub fn side_files(&self) -> Result<SideFiles> {
        let own = if self.owns_root { side::list(&self.root)? } else { SideFiles::default() };
        match self.adapter() {
            Some(adapter) => adapter.side_files(own),
            None => Ok(own),
        }
    }

    /// Whether the whole directory is the checkpoint, not one file in it.
    pub(crate) fn owns_root(&self) -> bool {
        self.owns_root
    }

    /// Whether an index file lists the shards.
    pub(crate) fn has_index(&self) -> bool {
        self.has_index
    }

    /// Fails if a shard was written to since it was opened.
    pub(crate) fn check_unchanged(&self) -> Result<()> {
        self.shards.iter().try_for_each(Shard::check_unchanged)?;
        self.adapter().map_or(Ok(()), |adapter| adapter.checkpoint().check_unchanged())
    }

    /// What is merged into its tensors as they are read, if it is an adapter's fine-tune.
    pub(crate) fn adapter(&self) -> Option<&Arc<Adapter>> {
        self.adapter.as_ref()
    }

    /// Whether the system has most of it in its cache, by a few places of each shard.
    fn is_cached(&self) -> bool {
        let places = self.shards.iter().flat_map(|shard| {
            (1..PROBES).map(move |i| sys::is_cached(shard.file(), shard.file_len / PROBES * i))
        });
        let (n, n_cached) = places.fold((0, 0), |(n, cached), is| (n + 1, cached + u64::from(is)));
        2 * n_cached > n
    }

    /// Hash of the names, lengths and modification times of the shards: another one means that something
    /// was written to them.
    pub(crate) fn state(&self) -> u64 {
        let mut bytes = Vec::new();
        for shard in &self.shards {
            bytes.extend(shard.file_name.as_bytes());
            shard.stamp().content().iter().for_each(|word| bytes.extend(word.to_le_bytes()));
        }
        let merged = self.adapter().into_iter().flat_map(|adapter| adapter.state());
        merged.for_each(|word| bytes.extend(word.to_le_bytes()));
        xxh3_64(&bytes)
    }

    fn check_unique(&self) -> Result<()> {
        let at = |i: usize| &self.tensors[self.by_name[i]];
        let twice = (1..self.by_name.len()).find(|&i| at(i - 1).name == at(i).name);
        let Some(i) = twice else { return Ok(()) };
        let (a, b) = (at(i - 1).shard.min(at(i).shard), at(i - 1).shard.max(at(i).shard));
        Err(Error::invalid_checkpoint(format!(
            "{}: tensor {} is in both {} and {}; give the one file or index.json that is meant",
            self.root.display(),
            shown(&at(i).name),
            self.shards[a].file_name,
            self.shards[b].file_name,
        )))
    }

    /// Every tensor of the index must be where it says. The reverse is not asked: loaders read
    /// whatever a shard holds, and so does this.
    fn check_index(&self, index: &Index) -> Result<()> {
        let lacks = index.weight_map.iter().find(|(tensor, file)| {
            self.find(tensor).is_none_or(|(_, info)| self.shards[info.shard].file_name != **file)
        });
        let Some((tensor, file)) = lacks else {
            return Ok(());
        };
        Err(Error::invalid_checkpoint(format!(
            "{}: tensor {} should be in {file}, which lacks it; index and shards do not belong \
             together: download them again",
            index.path.display(),
            shown(tensor),
        )))
    }
}

/// A shard that an index promises and that is not there is the checkpoint's fault.
fn check_present(shard: &Path, index: &Index) -> Result<()> {
    match shard.metadata() {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            Err(Error::invalid_checkpoint(format!(
                "{}: shard {} is missing; download it too",
                index.path.display(),
                shard.display()
            ))
            .with_source(e))
        }
        _ => Ok(()),
    }
}
