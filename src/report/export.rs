//! What exports report.

use serde::Serialize;

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
