//! What `export` takes.

use std::path::PathBuf;

use clap::ValueEnum;
use clap::builder::RangedU64ValueParser;
use delta_stream::{Checksum, DeltaEncoding};

use crate::cli::args::make_pair::FloatName;

/// A form that other tools read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum FormatName {
    /// A step of weights for SGLang, Slime and ModelExpress, told as what changed
    HfDelta,
    /// A low-rank adapter for PEFT, near the fine-tune's linear layers
    Peft,
    /// A model card, printed
    Card,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Export {
    /// The archive
    pub(crate) archive: PathBuf,

    /// The form
    #[arg(long, value_enum)]
    pub(crate) format: FormatName,

    /// The base it was made against; a card needs none
    #[arg(long, value_name = "BASE", required_if_eq_any([("format", "hf-delta"), ("format", "peft")]))]
    pub(crate) base: Option<PathBuf>,

    /// The directory to write; for hf-delta the one in which weight_vNNNNNN is made
    #[arg(short, long, value_name = "DIR", required_if_eq_any([("format", "hf-delta"), ("format", "peft")]))]
    pub(crate) output: Option<PathBuf>,

    /// Which variant; needed if the archive has more than one
    #[arg(long, value_name = "V")]
    pub(crate) name: Option<String>,

    /// The base's name on a hub, for cards and adapters
    #[arg(long, value_name = "ORG/NAME")]
    pub(crate) base_model: Option<String>,

    /// Check all that can be checked before, say what would be written, and write nothing
    #[arg(long)]
    pub(crate) dry_run: bool,

    #[command(flatten)]
    pub(crate) hf_delta: HfDeltaChoice,

    #[command(flatten)]
    pub(crate) peft: PeftChoice,
}

/// Settings of peft alone.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Options of --format peft")]
pub(crate) struct PeftChoice {
    /// Directions of each matrix that are kept [default: 16]
    #[arg(long, value_name = "R", value_parser = RangedU64ValueParser::<usize>::new().range(1..=1024))]
    pub(crate) rank: Option<usize>,

    /// Element type of the adapter [default: f32]
    #[arg(long, value_enum)]
    pub(crate) dtype: Option<FloatName>,

    /// Take weights whose names match, of those with two dimensions [default: linear layers inside blocks]
    #[arg(long, value_name = "REGEX")]
    pub(crate) include: Option<String>,

    /// Leave out weights whose names match
    #[arg(long, value_name = "REGEX")]
    pub(crate) exclude: Option<String>,
}

/// Settings of hf-delta alone.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Options of --format hf-delta")]
pub(crate) struct HfDeltaChoice {
    /// Number of the version to write [default: 1]
    #[arg(long, value_name = "N", value_parser = RangedU64ValueParser::<u32>::new().range(1..=999_999))]
    pub(crate) version: Option<u32>,

    /// Number of the version that BASE is [default: the one before]
    #[arg(long, value_name = "N", value_parser = RangedU64ValueParser::<u32>::new().range(0..=999_998))]
    pub(crate) base_version: Option<u32>,

    /// How changes are told: xor is the smallest, overwrite may be applied twice [default: xor]
    #[arg(long, value_enum)]
    pub(crate) encoding: Option<EncodingName>,

    /// What receivers check tensors by; ModelExpress takes adler32 alone [default: xxh3-128]
    #[arg(long, value_enum)]
    pub(crate) checksum: Option<ChecksumName>,

    /// Leave out tensors that the base has not, or not alike, which receivers cannot take
    #[arg(long)]
    pub(crate) leave_out_new: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum EncodingName {
    Xor,
    Overwrite,
}

impl From<EncodingName> for DeltaEncoding {
    fn from(name: EncodingName) -> Self {
        match name {
            EncodingName::Xor => DeltaEncoding::Xor,
            EncodingName::Overwrite => DeltaEncoding::Overwrite,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ChecksumName {
    #[value(name = "xxh3-128")]
    Xxh3,
    Adler32,
}

impl From<ChecksumName> for Checksum {
    fn from(name: ChecksumName) -> Self {
        match name {
            ChecksumName::Xxh3 => Checksum::Xxh3,
            ChecksumName::Adler32 => Checksum::Adler32,
        }
    }
}
