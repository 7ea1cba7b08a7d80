//! A step of weights as receivers of weight updates take it: a directory `weight_vNNNNNN` that looks like a
//! checkpoint, whose tensors are what changed of the real ones, each as one zstd frame under its own name.
//!
//! The spelling is that of Slime's publisher (THUDM/slime,
//! slime/backends/megatron_utils/update_weight/update_weight_from_disk_delta.py), which SGLang's `/pull_weights`
//! (sgl-project/sglang, python/sglang/srt/weight_sync/local_checkpoint.py) and ModelExpress (ai-dynamo/modelexpress,
//! modelexpress_client/python/modelexpress_rl/inference/receiver.py) read; tools/export tells which takes what.

use std::path::{Path, PathBuf};
use std::time::Instant;

use adler2::Adler32;
use serde_json::{Map, Value, json};

use crate::checkpoint::{CheckpointWriter, GrownShard, INDEX_NAME};
use crate::error::{Error, Result};
use crate::frame::BareFrames;
use crate::kernel::bytes;
use crate::pipeline::budget::{Needs, peak_memory};
use crate::pipeline::export::card::{CARD_NAME, delta_card};
use crate::pipeline::export::settings::{Checksum, DeltaEncoding, ExportOptions, HfDelta};
use crate::pipeline::export::{Progress, Variant, View};
use crate::pipeline::options::Observer;
use crate::pipeline::spares::Spares;
use crate::report::HfDeltaReport;

/// Tensor bytes that one file speaks of, unless one tensor has more: receivers read whole files.
const FILE_BYTES: u64 = 5_000_000_000;
/// What zstd holds of a frame that is open.
const FRAME_STATE: u64 = 4 << 20;
/// Longest checksum, in characters.
const DIGEST_LEN: usize = 32;

/// Writes what turns the bytes of `base` into those of a variant of `archive` as the directory
/// `weight_vNNNNNN` in `output`. Tensors that are as in the base are left out. The variant may be stored with
/// loss: what is told is what it restores to. Each tensor is decoded once, with
/// [`DeltaEncoding::Overwrite`] three times.
///
/// # Errors
/// `Mismatch` if `base` is not the base the variant was made against; `InvalidArgument` if the variant has a
/// tensor that the base has not, or has in another dtype or shape, since receivers patch the base's own files,
/// or if the directory is there and not empty (without force); `Corrupt` or `Truncated` if the archive is
/// damaged. Nothing is left in `output`.
pub fn export_hf_delta(
    archive: &Path,
    base: &Path,
    output: &Path,
    settings: &HfDelta,
    options: &ExportOptions,
    observer: &dyn Observer,
) -> Result<HfDeltaReport> {
    let started = Instant::now();
    let Opened { dir, variant, new, files } = open(archive, base, output, settings, options)?;
    let mut writer = CheckpointWriter::create(&dir, options.force)?;
    let mut run = Run::new(&variant, settings, observer)?;
    let (mut weight_map, mut lens) = (Map::new(), Vec::new());
    run.check_unchanged()?;
    for (k, tensors) in files.iter().enumerate() {
        let name = format!("model-{k:05}-of-{:05}.safetensors", files.len());
        lens.push(run.write_file(&mut writer, &name, tensors, &mut weight_map)?);
    }
    let index = json!({ "metadata": metadata(settings), "weight_map": weight_map });
    let index = format!("{index:#}\n");
    let index_len = writer.write_side_file(INDEX_NAME, [Ok(index)])?;
    let report = HfDeltaReport {
        variant: variant.name().to_owned(),
        directory: dir.display().to_string(),
        version: settings.version,
        base_version: settings.base_number(),
        encoding: settings.encoding.name(),
        checksum: settings.checksum.name(),
        tensors: weight_map.len(),
        unchanged_tensors: variant.stored.tensors.len() - weight_map.len() - new.len(),
        left_out: new,
        only_in_base: variant.only_in_base().into_iter().map(str::to_owned).collect(),
        changed_bytes: run.changed_bytes,
        tensor_bytes: run.tensor_bytes,
        exported_bytes: lens.iter().sum::<u64>() + index_len,
        files: lens.len(),
        peak_memory_bytes: peak_memory(),
        elapsed_seconds: started.elapsed().as_secs_f64(),
    };
    writer.write_side_file(CARD_NAME, [Ok(delta_card(&variant.stored, options, &report))])?;
    variant.check_end(observer)?;
    writer.commit()?;
    Ok(HfDeltaReport { elapsed_seconds: started.elapsed().as_secs_f64(), ..report })
}

/// What is known of a step before its first tensor is decoded.
pub(super) struct Opened<'a> {
    /// The directory it is written to.
    pub(super) dir: PathBuf,
    pub(super) variant: Variant<'a>,
    /// Names of the tensors that are left out.
    pub(super) new: Vec<String>,
    /// The tensors of each file.
    pub(super) files: Vec<Vec<usize>>,
}

/// Opens both sides of a step, and refuses what cannot be told.
pub(super) fn open<'a>(
    archive: &Path,
    base: &Path,
    output: &Path,
    settings: &HfDelta,
    options: &'a ExportOptions,
) -> Result<Opened<'a>> {
    settings.validate()?;
    let dir = output.join(format!("weight_v{:06}", settings.version));
    let variant = Variant::open(archive, base, &dir, options)?;
    let new = check_patchable(&variant, settings)?;
    let files = files(&variant);
    Ok(Opened { dir, variant, new, files })
}

/// What the index says of the step; receivers compare the numbers with what they have.
fn metadata(settings: &HfDelta) -> Value {
    json!({
        "version": format!("{:06}", settings.version),
        "base_version": format!("{:06}", settings.base_number()),
        "delta_encoding": settings.encoding.name(),
        "compression_format": "zstd",
        "checksum_format": settings.checksum.name(),
    })
}

/// Names of the tensors that no patch of the base's files makes.
///
/// # Errors
/// `InvalidArgument` if there are such and they are not to be left out.
fn check_patchable(variant: &Variant<'_>, settings: &HfDelta) -> Result<Vec<String>> {
    let mut new = Vec::new();
    for (i, t) in variant.stored.tensors.iter().enumerate() {
        if variant.twin(i).is_none() && settings.leave_out_new {
            new.push(t.name.clone());
        } else if variant.twin(i).is_none() {
            let is = match variant.base.checkpoint().find(&t.name) {
                Some((_, b)) => format!("{} {:?} in the base", b.dtype.name(), b.shape),
                None => "not in the base".to_owned(),
            };
            return Err(Error::invalid_argument(format!(
                "tensor {} is {} {:?} and {is}; receivers of hf-delta patch the base's files and can add or \
                 resize nothing: --leave-out-new leaves it out, or restore the variant and publish it whole",
                t.name,
                t.dtype.name(),
                t.shape,
            )));
        }
        if settings.encoding == DeltaEncoding::Overwrite && t.n_bytes > u64::from(u32::MAX) {
            return Err(Error::invalid_argument(format!(
                "tensor {} has {} bytes, more than places of 32 bits reach; take --encoding xor",
                t.name, t.n_bytes
            )));
        }
    }
    Ok(new)
}

/// The tensors that may have changed, file by file: as in the fine-tune's own shards, cut where one would
/// speak of too much.
fn files(variant: &Variant<'_>) -> Vec<Vec<usize>> {
    let mut files: Vec<Vec<usize>> = Vec::new();
    let (mut shard, mut bytes) = (None, 0);
    for (i, t) in variant.stored.tensors.iter().enumerate() {
        if t.n_bytes == 0 || variant.twin(i).is_none() || variant.is_changed(i) == Some(false) {
            continue;
        }
        if shard != Some(t.shard) || bytes + t.n_bytes > FILE_BYTES {
            files.push(Vec::new());
            (shard, bytes) = (Some(t.shard), 0);
        }
        bytes += t.n_bytes;
        if let Some(file) = files.last_mut() {
            file.push(i);
        }
    }
    files
}

/// What is needed from the first tensor to the last.
struct Run<'a> {
    variant: &'a Variant<'a>,
    settings: &'a HfDelta,
    frames: BareFrames,
    spares: Spares,
    progress: Progress<'a>,
    /// Bytes of all tensors that the base has alike.
    tensor_bytes: u64,
    changed_bytes: u64,
}

impl<'a> Run<'a> {
    fn new(
        variant: &'a Variant<'a>,
        settings: &'a HfDelta,
        observer: &'a dyn Observer,
    ) -> Result<Self> {
        let times = match settings.encoding {
            DeltaEncoding::Xor => 1,
            DeltaEncoding::Overwrite => 3,
        };
        let tensors = &variant.stored.tensors;
        let patched = (0..tensors.len()).filter(|i| variant.twin(*i).is_some());
        let (mut tensor_bytes, mut total) = (0, 0);
        for i in patched {
            tensor_bytes += tensors[i].n_bytes;
            let is_unchanged = variant.is_changed(i) == Some(false);
            total += tensors[i].n_bytes * if is_unchanged { 1 } else { times };
        }
        let progress = Progress { observer, done: 0, total };
        let (frames, spares) = (BareFrames::new()?, Spares::default());
        Ok(Self { variant, settings, frames, spares, progress, tensor_bytes, changed_bytes: 0 })
    }

    /// Holds tensors that are left out to their hashes, so that no other base is taken for this one.
    fn check_unchanged(&mut self) -> Result<()> {
        let all = 0..self.variant.stored.tensors.len();
        for i in all.filter(|i| self.variant.is_changed(*i) == Some(false)) {
            let sink = |new: &[u8], ()| self.progress.add(new.len());
            self.variant.each_tile(i, Needs::NONE, || (), |(), _| Ok(()), sink)?;
        }
        Ok(())
    }

    /// Writes one file; gives its length.
    fn write_file(
        &mut self,
        writer: &mut CheckpointWriter,
        file_name: &str,
        tensors: &[usize],
        weight_map: &mut Map<String, Value>,
    ) -> Result<u64> {
        let all = &self.variant.stored.tensors;
        let names = tensors.iter().map(|i| all[*i].name.as_str());
        let mut shard = writer.start_grown(file_name, names, DIGEST_LEN)?;
        let mut checksums = Vec::new();
        for &i in tensors {
            let n_changed = match (self.settings.encoding, self.variant.is_changed(i)) {
                (DeltaEncoding::Xor, Some(_)) => None,
                _ => Some(self.count(i)?),
            };
            if n_changed == Some(0) {
                continue;
            }
            shard.begin(&all[i].name);
            let digest = match (self.settings.encoding, n_changed) {
                (DeltaEncoding::Overwrite, Some(n)) => self.write_changes(i, n, &mut shard)?,
                _ => self.write_xor(i, &mut shard)?,
            };
            checksums.push((all[i].name.clone(), digest));
            weight_map.insert(all[i].name.clone(), file_name.into());
        }
        shard.finish(&checksums)
    }

    fn write_xor(&mut self, tensor: usize, shard: &mut GrownShard) -> Result<String> {
        let Self { variant, frames, spares, progress, changed_bytes, .. } = self;
        frames.begin(variant.stored.tensors[tensor].n_bytes)?;
        let mut digest = Digest::new(self.settings.checksum, variant.hash(tensor));
        let work = |(): &mut (), view: &View<'_>| {
            let mut made = spares.tile(view.new.len());
            bytes::xor(view.new, view.old, &mut made);
            Ok((bytes::n_changed(view.new, view.old), made))
        };
        let sink = |new: &[u8], (n, made): (u64, Vec<u8>)| {
            digest.add(new);
            *changed_bytes += n;
            frames.add(&made, |piece| shard.add(piece))?;
            spares.give_tile(made);
            progress.add(new.len())
        };
        variant.each_tile(tensor, extra(variant.tile_bytes(tensor)), || (), work, sink)?;
        Ok(digest.text())
    }

    /// How many bytes of a tensor differ.
    fn count(&mut self, tensor: usize) -> Result<u64> {
        let mut sum = 0;
        let work = |(): &mut (), view: &View<'_>| Ok(bytes::n_changed(view.new, view.old));
        let sink = |new: &[u8], n: u64| {
            sum += n;
            self.progress.add(new.len())
        };
        self.variant.each_tile(tensor, Needs::NONE, || (), work, sink)?;
        Ok(sum)
    }

    /// Writes number, places and values of the bytes that differ.
    fn write_changes(&mut self, tensor: usize, n: u64, shard: &mut GrownShard) -> Result<String> {
        let Self { variant, frames, progress, changed_bytes, .. } = self;
        let mut digest = Digest::new(self.settings.checksum, variant.hash(tensor));
        *changed_bytes += n;
        frames.begin(4 + 5 * n)?;
        frames.add(&(n as u32).to_le_bytes(), |piece| shard.add(piece))?;
        for values in [false, true] {
            let work = |(): &mut (), view: &View<'_>| {
                let mut made = Vec::new();
                if values {
                    bytes::changed_values(view.new, view.old, &mut made);
                } else {
                    bytes::changed_places(view.new, view.old, view.at as u32, &mut made);
                }
                Ok(made)
            };
            let sink = |new: &[u8], made: Vec<u8>| {
                if values {
                    digest.add(new);
                }
                frames.add(&made, |piece| shard.add(piece))?;
                progress.add(new.len())
            };
            // A place has four bytes.
            let most = 4 * variant.tile_bytes(tensor);
            variant.each_tile(tensor, extra(most), || (), work, sink)?;
        }
        Ok(digest.text())
    }
}

/// What an export takes beside decoded tiles, with so many bytes made of each.
fn extra(tile: u64) -> Needs {
    Needs { resident: FRAME_STATE, tile, worker: 0 }
}

/// The checksum of a tensor's new bytes.
enum Digest {
    /// That of the archive, which decoded tensors are held to.
    Known(u128),
    Adler(Adler32),
}

impl Digest {
    fn new(checksum: Checksum, known: u128) -> Self {
        match checksum {
            Checksum::Xxh3 => Digest::Known(known),
            Checksum::Adler32 => Digest::Adler(Adler32::new()),
        }
    }

    fn add(&mut self, bytes: &[u8]) {
        if let Digest::Adler(sum) = self {
            sum.write_slice(bytes);
        }
    }

    fn text(&self) -> String {
        match self {
            Digest::Known(hash) => format!("{hash:032x}"),
            Digest::Adler(sum) => format!("{:08x}", sum.checksum()),
        }
    }
}
