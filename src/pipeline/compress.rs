//! `compress` and `append`: survey, plan and encode a fine-tune into an archive.

use std::io::Read;
use std::path::Path;
use std::time::Instant;

use crossbeam::channel::unbounded;
use crossbeam::queue::SegQueue;
use xxhash_rust::xxh3::Xxh3;

use crate::archive::{
    ArchiveWriter, BlobSeal, Head, Origin, Seal, SideFile, StoredShard, TensorSeal,
};
use crate::checkpoint::{self, Checkpoint, Source};
use crate::error::{Error, Result};
use crate::frame::{Kind, Label};
use crate::pair::Pair;
use crate::pipeline::budget::{Needs, peak_memory};
use crate::pipeline::encode::{EncodeStage, EncodeState, EncodedTile, Merger, Outcome, Restored};
use crate::pipeline::identity::{TensorHasher, base_bytes_used, base_probe};
use crate::pipeline::options::{CompressOptions, Observer, check_name};
use crate::pipeline::ordered::run_ordered;
use crate::pipeline::schedule::{TileReader, Unit, units};
use crate::report::CompressReport;

/// Bytes of a side file a frame holds.
const BLOB_PIECE: usize = 1 << 20;

/// Stores the fine-tune `ft` as a delta against `base` in a new archive.
///
/// # Errors
/// `InvalidCheckpoint` if an input is broken, `InvalidArgument` if `archive` exists (without force),
/// aliases an input, or an option is out of range; `Interrupted`; `Io`. Nothing is left at `archive`.
pub fn compress(
    ft: &Path,
    base: &Path,
    archive: &Path,
    options: &CompressOptions,
    observer: &dyn Observer,
) -> Result<CompressReport> {
    let started = Instant::now();
    options.validate()?;
    let inputs = Inputs::open(ft, base, options)?;
    inputs.refuse_alias(archive)?;
    let writer = ArchiveWriter::create(archive, options.force)?;
    run(&inputs, writer, options, observer, started)
}

/// Adds the fine-tune `ft` to an archive, as its next generation.
///
/// # Errors
/// As [`compress`]; `InvalidArgument` if the name is taken; `Corrupt`, `Truncated` or `Incompatible` if
/// the archive cannot be read. The archive keeps its last generation.
pub fn append(
    ft: &Path,
    base: &Path,
    archive: &Path,
    options: &CompressOptions,
    observer: &dyn Observer,
) -> Result<CompressReport> {
    let started = Instant::now();
    options.validate()?;
    let inputs = Inputs::open(ft, base, options)?;
    inputs.refuse_alias(archive)?;
    let writer = ArchiveWriter::append(archive)?;
    if writer.has_variant(&inputs.name) {
        return Err(Error::invalid_argument(format!(
            "archive {} has a variant `{}` already; choose another name with --name",
            archive.display(),
            inputs.name
        )));
    }
    run(&inputs, writer, options, observer, started)
}

/// Both checkpoints opened and paired.
pub(crate) struct Inputs {
    pub(crate) ft: Checkpoint,
    pub(crate) base: Checkpoint,
    pub(crate) ft_source: Source,
    pub(crate) base_source: Source,
    pub(crate) pair: Pair,
    pub(crate) side_files: Vec<checkpoint::SideFile>,
    pub(crate) name: String,
}

impl Inputs {
    pub(crate) fn open(ft: &Path, base: &Path, options: &CompressOptions) -> Result<Self> {
        let name = match &options.name {
            Some(name) => name.clone(),
            None => default_name(ft),
        };
        check_name(&name)?;
        let (ft, base) = (Checkpoint::open(ft)?, Checkpoint::open(base)?);
        let map = &options.resources.map;
        let (ft_source, base_source) = (Source::new(&ft, map)?, Source::new(&base, map)?);
        let mut pair = Pair::new(&ft, &base, &options.method, &options.policy);
        pair.find_aliases(&ft, &ft_source)?;
        let side_files = ft.side_files()?;
        let skipped = side_files.skipped.iter();
        pair.notes.extend(skipped.map(|s| format!("{} {}; it is not carried", s.name, s.why)));
        Ok(Self { ft, base, ft_source, base_source, pair, side_files: side_files.files, name })
    }

    fn refuse_alias(&self, output: &Path) -> Result<()> {
        for (what, checkpoint) in [("fine-tune", &self.ft), ("base", &self.base)] {
            if checkpoint::aliases(output, checkpoint) {
                let text = format!("{} lies in the {what}; choose another place", output.display());
                return Err(Error::invalid_argument(text));
            }
        }
        Ok(())
    }

    /// Bytes of the fine-tune, side files included.
    pub(crate) fn fine_tuned_bytes(&self) -> u64 {
        self.ft.total_bytes() + self.side_files.iter().map(|f| f.len).sum::<u64>()
    }

    /// Memory the run takes: a tile's windows, restored bytes and frame; a worker's buffers.
    pub(crate) fn needs(&self) -> Needs {
        let (mut tile, mut worker, mut survey) = (0, 0, 0);
        for (t, p) in self.ft.tensors().iter().zip(&self.pair.items) {
            let n = p.tiling.max_elements();
            let bytes = n * t.dtype.lane_bytes() as u64;
            let base = p.base.map_or(0, |b| n * self.base.tensors()[b].dtype.lane_bytes() as u64);
            let restored = if p.item.lossy { bytes } else { 0 };
            tile = tile.max(bytes + base + restored + bytes + (bytes >> 7) + 4096);
            let patch = u64::from(p.item.patch);
            let strip = t.shape.last().map_or(0, |cols| cols * patch * 4);
            worker = worker.max(2 * bytes + n + 3 * strip);
            if let Some(area) = (patch * patch).checked_sub(1) {
                let matrix = t.n_elements() / p.tiling.n_matrices();
                // Scores, ranks and classes of two matrices.
                survey = survey.max(matrix / (area + 1) * 40);
            }
        }
        let headers: u64 = self.ft.shards().iter().map(|s| s.header.len() as u64).sum();
        let tiles: u64 = self.pair.items.iter().map(|p| p.tiling.len()).sum();
        Needs { resident: 8 * headers + 32 * tiles + survey, tile, worker }
    }

    fn head(&self, options: &CompressOptions) -> Head {
        let shard = |s: &checkpoint::Shard| StoredShard {
            file_name: s.file_name.clone(),
            file_len: s.file_len,
            header: s.header.clone(),
        };
        let side_file = |f: &checkpoint::SideFile| SideFile { name: f.name.clone(), len: f.len };
        Head {
            name: self.name.clone(),
            method: options.method.id() as u16,
            settings: options.settings(),
            seed: options.seed,
            tool: concat!("delta-stream ", env!("CARGO_PKG_VERSION")).to_owned(),
            has_index: self.ft.has_index(),
            shards: self.ft.shards().iter().map(shard).collect(),
            items: self.pair.items.iter().map(|p| p.item.clone()).collect(),
            side_files: self.side_files.iter().map(side_file).collect(),
        }
    }
}

fn default_name(ft: &Path) -> String {
    let full = std::fs::canonicalize(ft).unwrap_or_else(|_| ft.to_owned());
    let name = if full.is_dir() { full.file_name() } else { full.file_stem() };
    name.map_or_else(|| "variant".to_owned(), |n| n.to_string_lossy().into_owned())
}

fn run(
    inputs: &Inputs,
    mut writer: ArchiveWriter,
    options: &CompressOptions,
    observer: &dyn Observer,
    started: Instant,
) -> Result<CompressReport> {
    inputs.pair.notes.iter().for_each(|note| observer.note(note));
    let head = writer.write_head(&inputs.head(options))?;
    let mut sink = CompressSink::new(inputs, writer);
    encode_all(inputs, options, observer, &mut sink)?;
    let blobs = write_side_files(inputs, &mut sink.writer)?;
    for checkpoint in [&inputs.ft, &inputs.base] {
        checkpoint.check_unchanged()?;
    }
    let CompressSink { writer, mut seals, .. } = sink;
    for i in 0..seals.len() {
        if let Origin::Alias(of) = inputs.pair.items[i].item.origin {
            seals[i].restored_hash = seals[of as usize].restored_hash;
        }
    }
    let seal = Seal { tensors: seals, blobs };
    let archive_bytes = writer.commit(&inputs.name, head, &seal)?;
    Ok(report(inputs, options, &seal, archive_bytes, started))
}

fn encode_all(
    inputs: &Inputs,
    options: &CompressOptions,
    observer: &dyn Observer,
    sink: &mut CompressSink<'_>,
) -> Result<()> {
    let width = inputs.needs().width(options.resources.max_memory, options.resources.threads)?;
    let units = units(&inputs.pair, options.method.lossy().map_or(0, |m| m.n_passes()));
    let stage = EncodeStage {
        ft: &inputs.ft,
        pair: &inputs.pair,
        units: &units,
        method: &options.method,
        variant: sink.writer.variant_id(),
        spare: SegQueue::new(),
    };
    let (merged_tx, merged_rx) = unbounded();
    let mut reader = TileReader::new(
        (&inputs.ft, &inputs.ft_source),
        (&inputs.base, &inputs.base_source),
        &inputs.pair,
        &units,
        merged_rx,
    );
    let (stage, units) = (&stage, units.as_slice());
    let mut merger = Merger::new(stage, merged_tx);
    let total = total_work(inputs, units);
    let mut done = 0;
    run_ordered(
        width,
        || reader.next(),
        EncodeState::new,
        |state, job| stage.work(state, job),
        move |worked| {
            if observer.is_cancelled() {
                return Err(Error::interrupted());
            }
            done += worked.n_bytes;
            observer.progress(done, total);
            match worked.result {
                Outcome::Surveyed(stats) => merger.add(worked.block, stats),
                Outcome::Encoded(tile) => {
                    let unit = &units[worked.block.unit];
                    for buffer in sink.write(unit.tensor, tile)? {
                        stage.spare.push(buffer);
                    }
                }
            }
            Ok(())
        },
    )
}

/// Bytes of the fine-tune that all passes together read.
fn total_work(inputs: &Inputs, units: &[Unit]) -> u64 {
    let bytes = |u: &Unit| {
        let t = &inputs.ft.tensors()[u.tensor];
        t.n_bytes / inputs.pair.items[u.tensor].tiling.n_matrices() * (u.n_surveys as u64 + 1)
    };
    units.iter().map(bytes).sum()
}

/// Writes encoded tiles in order, hashing what they stand on and what they restore to.
struct CompressSink<'a> {
    inputs: &'a Inputs,
    writer: ArchiveWriter,
    seals: Vec<TensorSeal>,
    hasher: TensorHasher,
}

impl<'a> CompressSink<'a> {
    fn new(inputs: &'a Inputs, writer: ArchiveWriter) -> Self {
        let mut seals = vec![TensorSeal::default(); inputs.pair.items.len()];
        for (seal, p) in seals.iter_mut().zip(&inputs.pair.items) {
            if p.tiling.is_empty() {
                seal.restored_hash = TensorHasher::default().finish().1;
            }
        }
        Self { inputs, writer, seals, hasher: TensorHasher::default() }
    }

    /// Writes one tile; returns the buffers to be used again.
    fn write(&mut self, tensor: usize, tile: EncodedTile) -> Result<Vec<Vec<u8>>> {
        let offset = self.writer.write(&tile.frame)?;
        self.hasher.update(tile.base.as_deref(), tile.restored.bytes());
        let seal = &mut self.seals[tensor];
        if tile.part == 0 {
            seal.offset = offset;
        }
        seal.frame_lens.push(tile.frame.len() as u32);
        seal.squared_error += tile.squared_error;
        seal.squared_delta += tile.squared_delta;
        let item = &self.inputs.pair.items[tensor];
        if tile.part + 1 == item.tiling.len() {
            (seal.base_hash, seal.restored_hash) = self.hasher.finish();
            if let Some(base) = item.base {
                let used = base_bytes_used(&item.item);
                let base = &self.inputs.base.tensors()[base];
                seal.base_probe = base_probe(&self.inputs.base_source, base, used)?;
            }
        }
        let mut spare = vec![tile.frame];
        if let Restored::Lossy(bytes) = tile.restored {
            spare.push(bytes);
        }
        Ok(spare)
    }
}

fn write_side_files(inputs: &Inputs, writer: &mut ArchiveWriter) -> Result<Vec<BlobSeal>> {
    let mut blobs = Vec::new();
    for (item, side_file) in inputs.side_files.iter().enumerate() {
        let failed = |e| Error::io("read", &side_file.path, e);
        let mut file = std::fs::File::open(&side_file.path).map_err(failed)?.take(side_file.len);
        let mut blob = BlobSeal::default();
        let mut hash = Xxh3::new();
        let mut piece = Vec::new();
        let mut left = side_file.len;
        while left > 0 {
            piece.clear();
            let n = (&mut file).take(BLOB_PIECE as u64).read_to_end(&mut piece).map_err(failed)?;
            if n == 0 {
                let text = format!("{} shrank while it was read", side_file.path.display());
                return Err(Error::invalid_checkpoint(text));
            }
            hash.update(&piece);
            let part = blob.frame_lens.len() as u32;
            let variant = writer.variant_id();
            let label = Label { kind: Kind::Blob, codec: 0, variant, item: item as u32, part };
            let place = writer.write_frame(label, &piece)?;
            if part == 0 {
                blob.offset = place.offset;
            }
            blob.frame_lens.push(place.len as u32);
            left -= n as u64;
        }
        blob.hash = hash.digest128();
        blobs.push(blob);
    }
    Ok(blobs)
}

fn report(
    inputs: &Inputs,
    options: &CompressOptions,
    seal: &Seal,
    archive_bytes: u64,
    started: Instant,
) -> CompressReport {
    let lossy = || {
        let all = inputs.pair.items.iter().zip(inputs.ft.tensors()).zip(&seal.tensors);
        all.filter(|((p, _), _)| p.item.lossy && !p.tiling.is_empty())
    };
    let parameters: u64 = lossy().map(|((_, t), _)| t.n_elements()).sum();
    let stored: u64 = lossy().map(|(_, s)| s.stored_bytes()).sum();
    let error: f64 = lossy().map(|(_, s)| s.squared_error).sum();
    let delta: f64 = lossy().map(|(_, s)| s.squared_delta).sum();
    let paper = options.method.lossy().map(|m| m.paper_bits());
    let fine_tuned_bytes = inputs.fine_tuned_bytes();
    CompressReport {
        variant: inputs.name.clone(),
        method: options.method.name(),
        settings: options.settings(),
        archive_bytes,
        fine_tuned_bytes,
        ratio: fine_tuned_bytes as f64 / archive_bytes as f64,
        paper_ratio: paper.filter(|(bits, _)| *bits > 0.0).map(|(bits, _)| 16.0 / bits),
        paper_ratio_kind: paper.map(|(_, kind)| kind),
        bits_per_parameter: (parameters > 0).then(|| stored as f64 * 8.0 / parameters as f64),
        relative_error: (delta > 0.0).then(|| error / delta),
        tensors: inputs.pair.items.len(),
        lossy_tensors: lossy().count(),
        lossy_parameters: parameters,
        peak_memory_bytes: peak_memory(),
        elapsed_seconds: started.elapsed().as_secs_f64(),
        notes: inputs.pair.notes.clone(),
    }
}
