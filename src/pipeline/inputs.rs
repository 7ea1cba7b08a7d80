//! What a compress reads: both checkpoints opened and paired, and what follows from them.

use std::path::Path;

use crate::archive::{Head, SideFile, StoredShard};
use crate::checkpoint::{self, Checkpoint, Source};
use crate::error::{Error, Result};
use crate::pair::Pair;
use crate::pipeline::budget::Needs;
use crate::pipeline::options::{CompressOptions, check_name};

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
        options.validate()?;
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

    pub(crate) fn refuse_alias(&self, output: &Path) -> Result<()> {
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
