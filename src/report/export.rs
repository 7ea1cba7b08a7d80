//! What exports report.

use serde::Serialize;

use crate::report::Space;

/// What `export` would write.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ExportForecast {
    /// Always true: nothing was written.
    pub dry_run: bool,
    /// Name of the variant.
    pub variant: String,
    /// The directory that would be written.
    pub directory: String,
    /// Tensors that it would speak of; with `hf-delta` those that may have changed.
    pub tensors: usize,
    /// With `hf-delta`, names of tensors that the base has not, or not alike, and that would be left out.
    pub left_out: Vec<String>,
    /// Room for it; the bytes that are needed are the most that it can take.
    pub space: Space,
}

/// What `export --format hf-delta` wrote.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct HfDeltaReport {
    /// Name of the variant.
    pub variant: String,
    /// The directory that was written.
    pub directory: String,
    /// Number of the version it is.
    pub version: u32,
    /// Number of the version it is to be applied to.
    pub base_version: u32,
    /// `xor` or `overwrite`.
    pub encoding: &'static str,
    /// `xxh3-128` or `adler32`.
    pub checksum: &'static str,
    /// Number of tensors written.
    pub tensors: usize,
    /// Tensors that are as in the base and were left out.
    pub unchanged_tensors: usize,
    /// Names of tensors that the base has not, or not alike, and that were left out.
    pub left_out: Vec<String>,
    /// Names of tensors that only the base has, and that stay as they are.
    pub only_in_base: Vec<String>,
    /// Bytes of tensors that differ from the base's.
    pub changed_bytes: u64,
    /// Bytes of all tensors that the base has alike.
    pub tensor_bytes: u64,
    /// Bytes of the files that receivers read.
    pub exported_bytes: u64,
    /// Number of files with tensors.
    pub files: usize,
    /// Most bytes resident at any time.
    pub peak_memory_bytes: Option<u64>,
    /// Wall time.
    pub elapsed_seconds: f64,
}

/// What `export --format peft` wrote.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct PeftReport {
    /// Name of the variant.
    pub variant: String,
    /// The directory that was written.
    pub directory: String,
    /// Rank of every pair of matrices.
    pub rank: usize,
    /// Their dtype, as safetensors spells it.
    pub dtype: &'static str,
    /// Bytes of their file.
    pub adapter_bytes: u64,
    /// Sum of squares that the adapter leaves of the deltas it speaks of, over these deltas'; null if they are 0.
    pub relative_error: Option<f64>,
    /// What of the fine-tune it does not speak of.
    pub left_out: LeftOut,
    /// The weights it speaks of.
    pub tensors: Vec<AdapterTensor>,
    /// Most bytes resident at any time.
    pub peak_memory_bytes: Option<u64>,
    /// Wall time.
    pub elapsed_seconds: f64,
}

/// A weight in an adapter.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct AdapterTensor {
    /// Its name.
    pub name: String,
    /// Rows and columns.
    pub shape: [usize; 2],
    /// Sum of squares of its delta.
    pub squared_delta: f64,
    /// Sum of squares that the adapter leaves of it.
    pub squared_error: f64,
    /// Their quotient; null if the delta is 0.
    pub relative_error: Option<f64>,
}

impl AdapterTensor {
    pub(crate) fn new(name: String, shape: [usize; 2], delta: f64, error: f64) -> Self {
        let relative_error = (delta > 0.0).then(|| error / delta);
        Self { name, shape, squared_delta: delta, squared_error: error, relative_error }
    }

    /// The relative error of all of them together.
    pub(crate) fn relative(tensors: &[Self]) -> Option<f64> {
        let delta: f64 = tensors.iter().map(|t| t.squared_delta).sum();
        let error: f64 = tensors.iter().map(|t| t.squared_error).sum();
        (delta > 0.0).then(|| error / delta)
    }
}

/// What of a fine-tune an adapter does not speak of: embeddings, heads, norms, biases and the like.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct LeftOut {
    /// Tensors that differ from the base's.
    pub changed: Vec<String>,
    /// Tensors that have no delta, since the base has none alike or they are no floats.
    pub without_delta: Vec<String>,
    /// Share of the sum of squares of all deltas that the changed ones have, 0 to 1; null if all are 0.
    pub delta_share: Option<f64>,
}

impl LeftOut {
    /// From names with the sum of squares of each delta there is, and the sum of all that is not left out.
    pub(crate) fn new(tensors: Vec<(String, Option<f64>)>, taken: f64) -> Self {
        let sum: f64 = tensors.iter().filter_map(|t| t.1).sum();
        let all = sum + taken;
        let (changed, without): (Vec<_>, Vec<_>) = tensors.into_iter().partition(|t| t.1.is_some());
        let names = |tensors: Vec<(String, _)>| tensors.into_iter().map(|t| t.0).collect();
        let delta_share = (all > 0.0).then(|| sum / all);
        Self { changed: names(changed), without_delta: names(without), delta_share }
    }
}
