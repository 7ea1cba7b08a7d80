//! What was typed of a method: which, its settings, which tensors it may touch.

use std::path::PathBuf;

use clap::ValueEnum;
use delta_stream::{Allocation, TraceReference};

use crate::cli::values::{GroupSize, size};

/// Which method, its settings, and which tensors it may touch.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Method options")]
pub(crate) struct Choice {
    /// What decides and what is lost
    #[arg(long, value_enum, default_value_t)]
    pub(crate) method: MethodName,

    /// auto: bits a parameter over the tensors stored with loss, all that is stored of them included,
    /// 0.03 to 5. deltadq, ultradelta: bits of a survivor's code, 1 to 8 [default: auto 1; others 4]
    #[arg(long, value_name = "N", group = "size")]
    pub(crate) bits: Option<f64>,

    /// auto: bytes of the fine-tune over all bytes stored for it
    #[arg(long, value_name = "N", group = "size")]
    pub(crate) ratio: Option<f64>,

    /// auto: all bytes stored for the fine-tune, as in 2GB or 500MiB
    #[arg(long, value_name = "SIZE", value_parser = size, group = "size")]
    pub(crate) max_size: Option<u64>,

    /// auto: about 1, 1/4 or 1/16 of a bit a parameter [default: high]
    #[arg(long, value_enum, group = "size")]
    pub(crate) quality: Option<QualityName>,

    /// auto: the rates of a plan (plan -o FILE), which may be edited, instead of a size. With compress --part,
    /// whatever the method: the plan that shares it out (plan --split N -o FILE)
    #[arg(long, value_name = "FILE", overrides_with = "plan")]
    pub(crate) plan: Option<PathBuf>,

    /// delta-dct: side of a patch, one of 8, 16, 32, 64 [default: 16]
    #[arg(long, value_name = "SIDE")]
    pub(crate) patch: Option<u16>,

    /// delta-dct: bits and share of each class of patches [default: 2:0.5,0:0.5]
    #[arg(long, value_name = "BITS:SHARE,...")]
    pub(crate) allocation: Option<Allocation>,

    /// delta-dct: rescale each matrix to the delta's mean absolute value [default: on]
    #[arg(long, value_enum)]
    pub(crate) rescale: Option<Switch>,

    /// bitdelta: scale of a matrix: the mean absolute delta, or the one that keeps its length
    /// [default: mean]
    #[arg(long, value_enum)]
    pub(crate) scale: Option<ScaleName>,

    /// bitdelta: 1 to 8 bit planes, each against what the ones before leave [default: 1]
    #[arg(long, value_name = "N")]
    pub(crate) bit_planes: Option<u8>,

    /// dare, ultradelta: share of entries that is dropped over the model, above 0 and below 1
    /// [default: 0.9; ultradelta 0.95]
    #[arg(long, value_name = "SHARE")]
    pub(crate) sparsity: Option<f64>,

    /// ultradelta: of three groups of matrices, the one whose values spread least loses this share
    /// more than --sparsity, the one whose values spread most so much less [default: 0.01]
    #[arg(long, value_name = "SHARE")]
    pub(crate) step: Option<f64>,

    /// ultradelta: how the three groups are made [default: code]
    #[arg(long, value_enum)]
    pub(crate) rates: Option<RatesName>,

    /// ultradelta: with --rates code, clamp the share of the group that spreads most to 0.99, as the
    /// authors' code does; a --sparsity beyond that is then missed [default: off]
    #[arg(long, value_enum)]
    pub(crate) clamp: Option<Switch>,

    /// ultradelta: multiply survivors by gamma = REF / trace norm of the fine-tune, at most 1; REF is
    /// none (gamma is 1), archive (the least of its variants and this one), or a number [default: none]
    #[arg(long, value_name = "REF", value_parser = trace_reference)]
    pub(crate) trace_reference: Option<TraceReference>,

    /// ultradelta: what the trace norm, the sum of singular values, is taken of, with
    /// --trace-reference [default: survivors]
    #[arg(long, value_enum)]
    pub(crate) trace_of: Option<TraceOfName>,

    /// ultradelta: least gamma, 0 to 1, with --trace-reference; the authors' code has none, which is 0
    /// [default: 0.5]
    #[arg(long, value_name = "GAMMA")]
    pub(crate) gamma_floor: Option<f64>,

    /// deltadq: one entry of so many survives [default: 8]
    #[arg(long, value_name = "N")]
    pub(crate) alpha: Option<u32>,

    /// deltadq: entries a group, a multiple of alpha; auto is the one with the least output error
    /// by --calibrate, and without that the largest up to 16, or alpha [default: auto]
    #[arg(long, value_name = "auto|N")]
    pub(crate) group: Option<GroupSize>,

    /// deltadq: how positions are stored [default: seed]
    #[arg(long, value_enum)]
    pub(crate) index: Option<IndexName>,

    /// deltadq: parts by value, a power of two, with --index csr [default: 1]
    #[arg(long, value_name = "N")]
    pub(crate) parts: Option<u16>,

    /// Shift the base along a compressed vector before the delta is taken (DBMS), with any lossy
    /// method: own (the fine-tune's own delta, as a first stage), shared (the mean of the archive's
    /// variants, stored once), or the path of another checkpoint (its delta)
    #[arg(long, value_name = "VECTOR")]
    pub(crate) base_shift: Option<PathBuf>,

    /// With --base-shift: how far along the vector, 0 to 1.5 [default: found by --tune]
    #[arg(long, value_name = "N", requires = "base_shift")]
    pub(crate) lambda: Option<f64>,

    /// With --base-shift: what the compressed delta is multiplied by, 0 to 2 [default: found by --tune]
    #[arg(long, value_name = "N", requires = "base_shift")]
    pub(crate) eta: Option<f64>,

    /// With --base-shift: how eta follows from the weights where it is not given [default: unbiased]
    #[arg(long, value_enum, requires = "base_shift")]
    pub(crate) eta_rule: Option<EtaRuleName>,

    /// With --base-shift: find lambda and eta from a sample of tiles (data-free), or from there on by
    /// scores: CMD is a shell command that gets a restored directory as its last argument and prints
    /// one number, the lower the better, up to 32 times [default: data-free]
    #[arg(long, value_name = "data-free|command:CMD", requires = "base_shift", value_parser = tune)]
    pub(crate) tune: Option<TuneName>,

    /// Statistics of the layers' inputs (tools/calibrate): report the error at the layers' outputs,
    /// and decide by it what is left open: --group of deltadq, --lambda and --eta
    #[arg(long, value_name = "FILE")]
    pub(crate) calibrate: Option<PathBuf>,

    /// Store tensors whose names match with loss, instead of the linear layers inside blocks
    #[arg(long, value_name = "REGEX")]
    pub(crate) include: Option<String>,

    /// Store tensors whose names match without loss
    #[arg(long, value_name = "REGEX")]
    pub(crate) exclude: Option<String>,

    /// What becomes of tensors that are not stored with loss
    #[arg(long, value_enum, default_value_t)]
    pub(crate) rest: RestName,
}

/// The methods by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum MethodName {
    /// Every tensor bit for bit
    Lossless,
    /// The best quality for an asked size: directions and trellis paths of the linear layers, the rest
    /// bit for bit
    #[default]
    Auto,
    /// Quantised DCT patches of the linear layers, the rest bit for bit
    DeltaDct,
    /// Signs of the linear layers' deltas with one scale a matrix, the rest bit for bit
    #[value(name = "bitdelta")]
    BitDelta,
    /// A random share of the linear layers' deltas, rescaled, the rest bit for bit
    Dare,
    /// Quantised survivors of groups of the linear layers' deltas, the rest bit for bit
    #[value(name = "deltadq")]
    DeltaDq,
    /// Quantised survivors of the linear layers' deltas, level by level, the rest bit for bit
    #[value(name = "ultradelta")]
    UltraDelta,
}

/// Sizes by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum QualityName {
    /// About 1 bit a parameter
    High,
    /// About 1/4 of a bit
    Medium,
    /// About 1/16 of a bit
    Small,
}

/// How eta follows from a compressed delta.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum EtaRuleName {
    /// The delta keeps its length in its own direction
    Unbiased,
    /// The squared error is least, which shrinks what is coded coarsely
    LeastSquares,
}

/// How lambda and eta are found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TuneName {
    DataFree,
    Command(String),
}

fn tune(text: &str) -> Result<TuneName, String> {
    match (text, text.strip_prefix("command:")) {
        ("data-free", _) => Ok(TuneName::DataFree),
        (_, Some(command)) if !command.trim().is_empty() => {
            Ok(TuneName::Command(command.to_owned()))
        }
        _ => Err("it is data-free or command:CMD, as in command:'python score.py'".to_owned()),
    }
}

/// How UltraDelta groups matrices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum RatesName {
    /// Thirds of the parameters by deviation of the quantised delta, the authors' code
    Code,
    /// Thirds of the matrices by variance of the delta, the paper
    Paper,
}

/// What UltraDelta takes the trace norm of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum TraceOfName {
    /// What is left after the drop, rescaled: the authors' code
    Survivors,
    /// The quantised delta before anything is dropped: the paper
    Delta,
}

/// How positions of survivors are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum IndexName {
    /// Drawn again from the seed: no byte
    Seed,
    /// Inside their group
    InGroup,
    /// As compressed sparse rows, the paper's form
    Csr,
}

/// How a scale is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ScaleName {
    Mean,
    Unbiased,
}

/// What becomes of tensors that are not stored with loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum RestName {
    /// Kept bit for bit
    #[default]
    Keep,
    /// Dropped to the base's values where the base has the same name, dtype and shape
    Base,
}

/// A setting with two states.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Switch {
    On,
    Off,
}

/// `none`, `archive`, or a number.
fn trace_reference(text: &str) -> Result<TraceReference, String> {
    match text {
        "none" => Ok(TraceReference::None),
        "archive" => Ok(TraceReference::Archive),
        _ => text
            .parse()
            .map(TraceReference::Value)
            .map_err(|_| "it is none, archive, or a number above 0".to_owned()),
    }
}
