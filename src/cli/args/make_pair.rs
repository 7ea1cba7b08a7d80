//! What the hidden `make-pair` takes.

use std::path::PathBuf;

use clap::ValueEnum;
use delta_stream::DType;

#[derive(Debug, clap::Args)]
pub(crate) struct MakePair {
    /// Directory to make `base` and `fine-tune` in
    pub(crate) dir: PathBuf,
    /// Width of the model
    #[arg(long, value_name = "N")]
    pub(crate) hidden: Option<u64>,
    /// Width inside its feed-forward layers
    #[arg(long, value_name = "N")]
    pub(crate) intermediate: Option<u64>,
    /// Rows of the embedding
    #[arg(long, value_name = "N")]
    pub(crate) vocab: Option<u64>,
    /// Number of blocks
    #[arg(long, value_name = "N")]
    pub(crate) layers: Option<u64>,
    /// Element type of all tensors
    #[arg(long, value_enum)]
    pub(crate) dtype: Option<FloatName>,
    /// Size of the delta against the base [default: 0.05, a full fine-tune; a light one is at 0.002]
    #[arg(long, value_name = "X")]
    pub(crate) delta: Option<f32>,
    /// Shards of the base
    #[arg(long, value_name = "N")]
    pub(crate) base_shards: Option<u64>,
    /// Shards of the fine-tune
    #[arg(long, value_name = "N")]
    pub(crate) shards: Option<u64>,
    /// Write nothing: check what can be checked, and say what would be written and whether it has room
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// Element types of made-up pairs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum FloatName {
    Bf16,
    F16,
    F32,
}

impl From<FloatName> for DType {
    fn from(name: FloatName) -> Self {
        match name {
            FloatName::Bf16 => DType::BF16,
            FloatName::F16 => DType::F16,
            FloatName::F32 => DType::F32,
        }
    }
}
