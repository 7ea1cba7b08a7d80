//! What a compress reads: both checkpoints opened and paired, and what follows from them.

use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64;

use crate::archive::{Head, SideFile, StoredShard};
use crate::checkpoint::{self, Checkpoint, Source};
use crate::error::{Error, Result};
use crate::method::{MatrixCut, Method, Policy};
use crate::pair::Pair;
use crate::pipeline::budget::Needs;
use crate::pipeline::calibration::Calibration;
use crate::pipeline::identity::{base_bytes_used, base_probe};
use crate::pipeline::options::{CompressOptions, check_name};
use crate::pipeline::stored_delta::Sides;

/// Both checkpoints opened and paired.
pub(crate) struct Inputs {
    pub(crate) ft: Checkpoint,
    pub(crate) base: Checkpoint,
    pub(crate) ft_source: Source,
    pub(crate) base_source: Source,
    pub(crate) pair: Pair,
    pub(crate) calibration: Option<Calibration>,
    pub(crate) side_files: Vec<checkpoint::SideFile>,
    pub(crate) name: String,
    pub(crate) base_path: PathBuf,
}

/// Name and version of the tool, as archives record them.
pub(crate) const TOOL: &str = concat!("delta-stream ", env!("CARGO_PKG_VERSION"));

/// What to say where a method with loss finds nothing to store with loss: everything is then kept bit for bit, which
/// is more likely a mistyped name than meant.
fn none_lossy(pair: &Pair, options: &CompressOptions) -> Option<String> {
    options.method.lossy()?;
    if pair.items.iter().any(|p| p.item.lossy) {
        return None;
    }
    let Policy { include, exclude, .. } = &options.policy;
    let taken = match include {
        Some(include) => format!("matches --include `{include}`"),
        None => "is the weight of a linear layer inside a block".to_owned(),
    };
    let left = exclude.as_ref().map_or(String::new(), |e| format!(" and not --exclude `{e}`"));
    Some(format!(
        "no tensor is stored with loss: no float matrix that both sides have in one shape {taken}{left}"
    ))
}

impl Inputs {
    pub(crate) fn open(ft: &Path, base: &Path, options: &CompressOptions) -> Result<Self> {
        options.validate()?;
        let base_path = base.to_owned();
        let (ft, base) = (options.resources.locate(ft)?, options.resources.locate(base)?);
        let name = options.name.clone().unwrap_or_else(|| default_name(&ft));
        check_name(&name)?;
        let (ft, base) = (Checkpoint::open_fine_tune(&ft, &base)?, Checkpoint::open(&base)?);
        let map = &options.resources.map;
        // The base is there for the next fine-tune too.
        let is_once = options.method.lossy().is_none_or(|m| m.joint_passes().is_empty());
        let ft_source = if is_once { Source::once(&ft, map)? } else { Source::new(&ft, map)? };
        let base_source = Source::new(&base, map)?;
        let mut pair = Pair::new(&ft, &base, &options.method, &options.policy);
        pair.find_aliases(&ft, &ft_source)?;
        pair.notes.extend(ft.adapter().map(|adapter| adapter.note()));
        pair.notes.extend(none_lossy(&pair, options));
        let calibrate = options.calibrate.as_deref();
        let calibration =
            calibrate.map(|file| Calibration::open(file, &ft, &mut pair, map)).transpose()?;
        let side_files = ft.side_files()?;
        let skipped = side_files.skipped.iter();
        pair.notes.extend(skipped.map(|s| format!("{} {}; it is not carried", s.name, s.why)));
        let side_files = side_files.files;
        Ok(Self {
            ft,
            base,
            ft_source,
            base_source,
            pair,
            calibration,
            side_files,
            name,
            base_path,
        })
    }

    pub(crate) fn refuse_alias(&self, output: &Path) -> Result<()> {
        self.refuse_alias_of("fine-tune", output)
    }

    /// [`Self::refuse_alias`] where the fine-tune is called `ft`.
    pub(crate) fn refuse_alias_of(&self, ft: &str, output: &Path) -> Result<()> {
        let statistics = self.calibration.iter().map(|c| ("calibration", c.checkpoint()));
        let all = [(ft, &self.ft), ("base", &self.base)].into_iter().chain(statistics);
        for (what, checkpoint) in all {
            if checkpoint::aliases(output, checkpoint) {
                let text = format!("{} lies in the {what}; choose another place", output.display());
                return Err(Error::invalid_argument(text));
            }
        }
        Ok(())
    }

    /// Hash of the first and last bytes of each tensor that is stored with loss, of both sides: tells
    /// fine-tunes apart without reading them.
    pub(crate) fn probe(&self) -> Result<u64> {
        let mut bytes = Vec::new();
        for (t, p) in self.ft.tensors().iter().zip(&self.pair.items).filter(|(_, p)| p.item.lossy) {
            bytes.extend(t.name.as_bytes());
            bytes.extend(base_probe(&self.ft_source, t, t.n_bytes)?.to_le_bytes());
            if let Some(base) = p.base.map(|b| &self.base.tensors()[b]) {
                let used = base_bytes_used(&p.item);
                bytes.extend(base_probe(&self.base_source, base, used)?.to_le_bytes());
            }
        }
        Ok(xxh3_64(&bytes))
    }

    /// Hash of the state of all files that are read: another one means that something was written to
    /// them.
    pub(crate) fn state(&self) -> u64 {
        let statistics = self.calibration.as_ref().map(|c| c.checkpoint());
        let all = [&self.ft, &self.base].into_iter().chain(statistics);
        xxh3_64(&all.flat_map(|c| c.state().to_le_bytes()).collect::<Vec<_>>())
    }

    /// Bytes of the fine-tune, side files included.
    pub(crate) fn fine_tuned_bytes(&self) -> u64 {
        self.ft.total_bytes() + self.side_files.iter().map(|f| f.len).sum::<u64>()
    }

    /// Memory the run takes: a tile's windows, restored bytes and frame; a worker's buffers.
    pub(crate) fn needs(&self, method: &Method, sides: &Sides<'_>) -> Needs {
        let (mut tile, mut worker) = (0, 0);
        for (t, p) in self.ft.tensors().iter().zip(&self.pair.items) {
            let n = p.tiling.max_elements();
            let bytes = n * t.dtype.lane_bytes() as u64;
            let base = p.base.map_or(0, |b| n * self.base.tensors()[b].dtype.lane_bytes() as u64);
            let restored = if p.item.lossy { bytes } else { 0 };
            let beside = self.ft_source.beside(t, bytes);
            tile = tile.max(bytes + beside + base + restored + bytes + (bytes >> 7) + 4096);
            let patch = u64::from(p.item.patch);
            let strip = t.shape.last().map_or(0, |cols| cols * patch * 4);
            let own =
                if p.item.lossy { method.lossy().map_or(0, |m| m.worker_bytes(n)) } else { 0 };
            worker = worker.max(3 * bytes + n + 3 * strip + sides.worker_bytes(n) + own);
        }
        tile += self.ft_source.window_margin() + self.base_source.window_margin();
        let headers: u64 = self.ft.shards().iter().map(|s| s.header.len() as u64).sum();
        let tiles: u64 = self.pair.items.iter().map(|p| p.tiling.len()).sum();
        let held = method.lossy().map_or(0, |m| m.held_bytes(&mut self.matrices()));
        let (statistics, buffers) =
            self.calibration.as_ref().map_or((0, 0), |c| c.needs(&self.pair));
        let sources = self.ft_source.resident_bytes() + self.base_source.resident_bytes();
        let records = 8 * headers + 32 * tiles + sources;
        let resident = records + held + statistics + sides.resident_bytes();
        Needs { resident, tile, worker: worker + buffers }
    }

    /// Says whether everything that was read is still as it was when it was opened.
    pub(crate) fn check_unchanged(&self) -> Result<()> {
        let statistics = self.calibration.as_ref().map(|c| c.checkpoint());
        [&self.ft, &self.base].into_iter().chain(statistics).try_for_each(|c| c.check_unchanged())
    }

    /// Each matrix that is stored with loss.
    fn matrices(&self) -> impl Iterator<Item = MatrixCut> {
        let lossy = self.ft.tensors().iter().zip(&self.pair.items).filter(|(_, p)| p.item.lossy);
        lossy.filter(|(_, p)| !p.tiling.is_empty()).flat_map(|(t, p)| {
            let n = p.tiling.n_matrices();
            let n_cols = t.shape.last().copied().unwrap_or(1).max(1);
            let (n_rows, n_tiles) = (t.n_elements() / n / n_cols, p.tiling.len() / n);
            (0..n).map(move |_| MatrixCut { n_rows, n_cols, n_tiles })
        })
    }

    pub(crate) fn head(&self, options: &CompressOptions) -> Head {
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
            tool: TOOL.to_owned(),
            has_index: self.ft.has_index(),
            shards: self.ft.shards().iter().map(shard).collect(),
            items: self.pair.items.iter().map(|p| p.item.clone()).collect(),
            side_files: self.side_files.iter().map(side_file).collect(),
            shift: None,
        }
    }
}

fn default_name(ft: &Path) -> String {
    let full = std::fs::canonicalize(ft).unwrap_or_else(|_| ft.to_owned());
    // A cache names snapshots and files by their hashes.
    if let Some(model) = checkpoint::model_name(&full) {
        return model;
    }
    let name = if full.is_dir() { full.file_name() } else { full.file_stem() };
    name.map_or_else(|| "variant".to_owned(), |n| n.to_string_lossy().into_owned())
}
