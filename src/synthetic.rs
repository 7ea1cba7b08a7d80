//! Made-up pairs of checkpoints, llama-shaped: for the demo, for benches, and for trying machines.
//!
//! The base is Gaussian; the delta is a low-rank part plus noise under uneven row and column scales,
//! as real deltas have them. Every value is a function of seed, tensor and position alone.

use std::path::{Path, PathBuf};

use crate::checkpoint::{CheckpointWriter, ShardLayout, plan_shards};
use crate::error::{Error, Result};
use crate::kernel::convert;
use crate::pipeline::{run_parallel, space_for_dir};
use crate::report::Space;
use crate::tensor::{DType, Shape, Tile, Tiling};

/// Standard deviation of base weights.
const BASE_SCALE: f32 = 0.02;
/// Leading directions of the delta.
const RANK: u64 = 4;

/// Shape of a made-up pair.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct PairShape {
    /// Width of the model.
    pub hidden: u64,
    /// Width inside its feed-forward layers.
    pub intermediate: u64,
    /// Rows of the embedding.
    pub vocab: u64,
    /// Number of blocks.
    pub layers: u64,
    /// Element type of all tensors; one of the floats.
    pub dtype: DType,
    /// Shards of base and fine-tune.
    pub shards: (u64, u64),
    /// Seed of all values.
    pub seed: u64,
    /// Size of the delta against the base, 0 or more. A full fine-tune is about 0.05 away; at 0.002 most
    /// BF16 weights stay as they are.
    pub delta: f32,
}

impl PairShape {
    /// About 13 million parameters: what the demo uses.
    pub fn small() -> Self {
        Self {
            hidden: 512,
            intermediate: 1376,
            vocab: 1024,
            layers: 4,
            dtype: DType::BF16,
            shards: (2, 3),
            seed: 7,
            delta: 0.05,
        }
    }

    /// The same shape with other sizes.
    #[must_use]
    pub fn with_sizes(mut self, hidden: u64, intermediate: u64, vocab: u64, layers: u64) -> Self {
        (self.hidden, self.intermediate, self.vocab, self.layers) =
            (hidden, intermediate, vocab, layers);
        self
    }

    /// The same shape in so many shards of base and fine-tune.
    #[must_use]
    pub fn with_shards(mut self, base: u64, fine_tune: u64) -> Self {
        self.shards = (base, fine_tune);
        self
    }

    /// The same shape in another float dtype.
    #[must_use]
    pub fn with_dtype(mut self, dtype: DType) -> Self {
        self.dtype = dtype;
        self
    }

    /// The same shape with other values.
    #[must_use]
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// The same shape with a delta of another size.
    #[must_use]
    pub fn with_delta(mut self, delta: f32) -> Self {
        self.delta = delta;
        self
    }

    fn tensors(&self) -> Vec<(String, Shape)> {
        let (h, i) = (self.hidden, self.intermediate);
        let mut out = vec![("model.embed_tokens.weight".to_owned(), vec![self.vocab, h])];
        for layer in 0..self.layers {
            let mut push = |name: &str, shape: Shape| {
                out.push((format!("model.layers.{layer}.{name}.weight"), shape));
            };
            push("input_layernorm", vec![h]);
            for name in ["q", "k", "v", "o"] {
                push(&format!("self_attn.{name}_proj"), vec![h, h]);
            }
            push("post_attention_layernorm", vec![h]);
            push("mlp.gate_proj", vec![i, h]);
            push("mlp.up_proj", vec![i, h]);
            push("mlp.down_proj", vec![h, i]);
        }
        out.push(("model.norm.weight".to_owned(), vec![h]));
        out
    }
}

/// What [`make_pair`] would write.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PairForecast {
    /// Bytes of the fine-tune's shards, headers included.
    pub bytes: u64,
    /// Number of its tensors; the base has as many.
    pub tensors: usize,
    /// Room for both, their headers and what lies beside their shards.
    pub space: Space,
}

/// Bytes of the files beside the shards of one side, at most: its configuration, and the index with an entry
/// for each tensor.
const SMALL_FILES: u64 = 4 << 10;
/// Bytes of a tensor's entry in the index beside its name, at most.
const PER_TENSOR: u64 = 128;

/// Writes a made-up pair as `dir/base` and `dir/fine-tune`, each with a `config.json`.
///
/// # Errors
/// `InvalidArgument` if a size is 0, the dtype is no float, or a directory is there already.
pub fn make_pair(dir: &Path, shape: &PairShape, threads: usize) -> Result<()> {
    sides(dir, shape)?.iter().try_for_each(|side| side.write(threads))
}

/// What [`make_pair`] would write; nothing is written.
///
/// # Errors
/// As [`make_pair`].
pub fn make_pair_dry_run(dir: &Path, shape: &PairShape) -> Result<PairForecast> {
    let sides = sides(dir, shape)?;
    let beside = |side: &Side<'_>| {
        let names = side.tensors.iter().map(|t| t.0.len() as u64 + PER_TENSOR);
        SMALL_FILES + names.sum::<u64>()
    };
    let files = |side: &Side<'_>| side.layouts.iter().map(|l| l.file_len).sum::<u64>();
    let needed = sides.iter().map(|side| files(side) + beside(side)).sum();
    let [_, fine_tune] = &sides;
    let (bytes, tensors) = (files(fine_tune), fine_tune.tensors.len());
    Ok(PairForecast { bytes, tensors, space: space_for_dir(&fine_tune.dir, needed)? })
}

/// One side of a pair, and in which shards it is cut.
struct Side<'a> {
    dir: PathBuf,
    shape: &'a PairShape,
    /// Seed and size of the delta; none for a base.
    delta: Option<(u64, f32)>,
    tensors: Vec<(String, DType, Shape, u64)>,
    layouts: Vec<ShardLayout>,
}

/// Both sides of a pair that can be written: the base, then the fine-tune.
fn sides<'a>(dir: &Path, shape: &'a PairShape) -> Result<[Side<'a>; 2]> {
    let sizes = [shape.hidden, shape.intermediate, shape.vocab, shape.layers];
    let counts = sizes.into_iter().chain([shape.shards.0, shape.shards.1]);
    let has_delta = shape.delta.is_finite() && shape.delta >= 0.0;
    if counts.min() == Some(0) || !shape.dtype.is_float() || !has_delta {
        return Err(Error::invalid_argument(
            "a made-up pair takes sizes and shards of 1 or more, a float dtype and a delta of 0 or more",
        ));
    }
    // The fine-tune's own seed moves its delta alone: two fine-tunes may share a base.
    let delta = Some((shape.seed ^ 0xd1, shape.delta));
    let side = |name, n_shards, delta| Side::new(dir.join(name), shape, n_shards, delta);
    Ok([side("base", shape.shards.0, None)?, side("fine-tune", shape.shards.1, delta)?])
}

impl<'a> Side<'a> {
    fn new(
        dir: PathBuf,
        shape: &'a PairShape,
        n_shards: u64,
        delta: Option<(u64, f32)>,
    ) -> Result<Self> {
        CheckpointWriter::refuse_existing(&dir, false)?;
        let width = shape.dtype.bits() as u64 / 8;
        let tensors: Vec<_> = shape
            .tensors()
            .into_iter()
            .map(|(name, s)| (name, shape.dtype, s.clone(), s.iter().product::<u64>() * width))
            .collect();
        let total: u64 = tensors.iter().map(|t| t.3).sum();
        let metadata = vec![("format".to_owned(), "pt".to_owned())];
        // The largest limit that still packs whole tensors into so many shards, or just more.
        let (mut low, mut high) = (1, total.max(2));
        while high - low > 1 {
            let limit = low + (high - low) / 2;
            let n = plan_shards(&tensors, Some(&metadata), limit)?.len() as u64;
            if n >= n_shards { low = limit } else { high = limit }
        }
        let limit = if n_shards == 1 { total } else { low };
        let layouts = plan_shards(&tensors, Some(&metadata), limit)?;
        Ok(Self { dir, shape, delta, tensors, layouts })
    }

    fn write(&self, threads: usize) -> Result<()> {
        let Self { shape, delta, tensors, layouts, .. } = self;
        let width = shape.dtype.bits() as u64 / 8;
        let mut writer = CheckpointWriter::create(&self.dir, false)?;
        let mut jobs = Vec::new();
        for (shard, layout) in layouts.iter().enumerate() {
            writer.start_shard(layout)?;
            for (tensor_name, offset, _) in &layout.tensors {
                let Some(tensor) = tensors.iter().position(|t| t.0 == *tensor_name) else {
                    continue;
                };
                let n = tensors[tensor].3 / width;
                let tiling = Tiling::flat(n, width as usize, 0);
                jobs.extend((0..tiling.len()).map(|i| (shard, *offset, tensor, tiling.get(i))));
            }
        }
        let values = |&(shard, offset, tensor, ref tile): &(usize, u64, usize, Tile)| {
            let n_cols = tensors[tensor].2.last().copied().unwrap_or(1);
            let is_norm = tensors[tensor].2.len() == 1;
            let (seed, delta) = (shape.seed, *delta);
            let maker = Maker { seed, delta, tensor: tensor as u64, n_cols, is_norm };
            let floats = maker.values(tile);
            let mut bytes = vec![0; floats.len() * width as usize];
            convert::from_f32(shape.dtype, &floats, &mut bytes);
            (shard, offset + tile.bytes(width as usize).start, bytes)
        };
        run_parallel(threads, &jobs, values, |(shard, offset, bytes)| {
            writer.write_at(shard, offset, &bytes)
        })?;
        writer.write_side_file("config.json", [Ok(self.config())])?;
        writer.write_index(false)?;
        writer.commit()
    }

    fn config(&self) -> String {
        let PairShape { hidden, intermediate, layers, vocab, .. } = self.shape;
        format!(
            "{{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\",\"hidden_size\":{hidden},\
             \"intermediate_size\":{intermediate},\"num_hidden_layers\":{layers},\"num_attention_heads\":8,\
             \"num_key_value_heads\":8,\"vocab_size\":{vocab},\"tie_word_embeddings\":true}}\n"
        )
    }
}

/// Values of one tensor.
struct Maker {
    seed: u64,
    /// Seed and size of the delta; none for a base.
    delta: Option<(u64, f32)>,
    tensor: u64,
    n_cols: u64,
    is_norm: bool,
}

impl Maker {
    fn values(&self, tile: &Tile) -> Vec<f32> {
        let first = tile.first;
        (first..first + tile.n_elements() as u64).map(|i| self.base(i) + self.delta(i)).collect()
    }

    fn base(&self, i: u64) -> f32 {
        let offset = if self.is_norm { 1.0 } else { 0.0 };
        offset + BASE_SCALE * gaussian(self.seed, self.tensor, i)
    }

    fn delta(&self, i: u64) -> f32 {
        let Some((seed, size)) = self.delta else {
            return 0.0;
        };
        let (row, col) = (i / self.n_cols, i % self.n_cols);
        let (rows, cols) = (seed ^ 0x517c, seed ^ 0xc01);
        // Between a quarter and twice the average, most near it.
        let uneven = |s, k| 1.0 + 0.4 * gaussian(s, self.tensor, k).clamp(-1.9, 2.5);
        let low_rank: f32 = (0..RANK)
            .map(|r| {
                gaussian(rows + 1 + r, self.tensor, row) * gaussian(cols + 1 + r, self.tensor, col)
            })
            .sum();
        let noise = gaussian(seed, self.tensor, i);
        let scale = size * BASE_SCALE * uneven(rows, row) * uneven(cols, col);
        scale * (noise + 0.3 * low_rank)
    }
}

/// A value of mean 0 and variance 1, nearly Gaussian: the sum of four uniforms from one hash.
fn gaussian(seed: u64, tensor: u64, i: u64) -> f32 {
    let mut x =
        seed ^ tensor.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ i.wrapping_mul(0xd6e8_feb8_6659_fd93);
    x ^= x >> 32;
    x = x.wrapping_mul(0xd6e8_feb8_6659_fd93);
    x ^= x >> 29;
    x = x.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x ^= x >> 32;
    let part = |k: u32| ((x >> (16 * k)) & 0xffff) as f32;
    let sum = part(0) + part(1) + part(2) + part(3);
    (sum - 131_070.0) / 37_837.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::Checkpoint;

    #[test]
    fn values_have_mean_zero_and_variance_one() {
        let values: Vec<f64> = (0..100_000).map(|i| f64::from(gaussian(1, 2, i))).collect();
        let mean = values.iter().sum::<f64>() / 1e5;
        let variance = values.iter().map(|v| v * v).sum::<f64>() / 1e5;
        assert!(mean.abs() < 0.02 && (variance - 1.0).abs() < 0.02, "{mean} {variance}");
    }

    #[test]
    fn a_pair_has_the_shards_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let shape = PairShape::small().with_sizes(32, 64, 100, 3).with_shards(2, 3);
        make_pair(dir.path(), &shape, 2).unwrap();
        for (name, n) in [("base", 2), ("fine-tune", 3)] {
            let checkpoint = Checkpoint::open(&dir.path().join(name)).unwrap();
            assert_eq!(checkpoint.shards().len(), n);
            assert_eq!(checkpoint.tensors().len(), 3 * 9 + 2);
        }
    }
}
