//! What the verbs report: sizes, ratios by kind, errors. The field names are what `--json` prints.

mod dry_run;
mod export;
mod parity;
mod parts;
mod trust;

use serde::{Serialize, Serializer};

use crate::method::RatePlan;
pub use crate::report::dry_run::{CompressForecast, DryRun, Space};
pub use crate::report::export::{
    AdapterTensor, ExportForecast, HfDeltaReport, LeftOut, PeftReport,
};
pub use crate::report::parity::{
    ParityReport, ParityState, RepairReport, RepairState, Span, Survivors,
};
pub use crate::report::parts::{JoinReport, JoinedArchive, PartReport, Settled, Share, Split};
pub use crate::report::trust::{
    Differing, Fault, Lost, RecoverReport, RecoveredVariant, SubsetReport, VerifyReport,
};

/// Settings as one JSON object, in their order.
fn as_object<S: Serializer>(settings: &[(String, String)], to: S) -> Result<S::Ok, S::Error> {
    to.collect_map(settings.iter().map(|(key, value)| (key, value)))
}

/// What `compress` and `append` did.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct CompressReport {
    /// Name of the variant.
    pub variant: String,
    /// Name of the method.
    pub method: &'static str,
    /// The method's settings, as typed.
    #[serde(serialize_with = "as_object")]
    pub settings: Vec<(String, String)>,
    /// Bytes this variant added to the archive, everything included, a base vector made for it too.
    pub archive_bytes: u64,
    /// Bytes of the fine-tune's shards and side files.
    pub fine_tuned_bytes: u64,
    /// `fine_tuned_bytes / archive_bytes`: the honest one.
    pub ratio: f64,
    /// The ratio as the method's paper counts it, without a base vector; null where there is no paper.
    pub paper_ratio: Option<f64>,
    /// What `paper_ratio` counts.
    pub paper_ratio_kind: Option<&'static str>,
    /// Stored bits a parameter of the lossy tensors, frame headers and this variant's share of a base
    /// vector included; null if none is lossy.
    pub bits_per_parameter: Option<f64>,
    /// Error of the lossy tensors: sum of squares of what was lost over the delta's.
    pub relative_error: Option<f64>,
    /// The same at the layers' outputs: tr(E M E^T) of what was lost over tr(D M D^T) of the delta,
    /// summed over the lossy tensors with statistics; null without `calibrate`.
    pub output_error: Option<f64>,
    /// How the base was shifted; null if it was not.
    pub base_shift: Option<BaseShiftReport>,
    /// What the method measured about the whole model, by name; empty for most.
    #[serde(serialize_with = "as_object")]
    pub measured: Vec<(String, String)>,
    /// Number of tensors.
    pub tensors: usize,
    /// Of these, stored with loss.
    pub lossy_tensors: usize,
    /// Parameters in the lossy tensors.
    pub lossy_parameters: u64,
    /// Tensors with frames that a run which was cut off had written, and that were kept.
    pub resumed_tensors: usize,
    /// Tiles with frames, of a tensor that was not finished, that were kept of such a run.
    pub resumed_tiles: usize,
    /// Surveys of tiles, pass by pass, that were kept of such a run.
    pub resumed_surveys: usize,
    /// Tiles of the lossy tensors that are kept bit for bit, since their delta is not finite or too
    /// large for the method.
    pub exact_tiles: u64,
    /// Parameters in these tiles.
    pub exact_parameters: u64,
    /// Most bytes resident at any time, mapped pages included; null where the system does not say.
    pub peak_memory_bytes: Option<u64>,
    /// Wall time.
    pub elapsed_seconds: f64,
    /// The parity file that was made; null if there is none.
    pub parity: Option<ParityReport>,
    /// What a person should know about the pair.
    pub notes: Vec<String>,
}

/// How a base was shifted before the delta was taken (DBMS).
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct BaseShiftReport {
    /// Name of the base vector; null if none is used.
    pub vector: Option<String>,
    /// Bytes the vector takes in the archive, once for all variants that use it.
    pub vector_bytes: u64,
    /// Variants that use it, this one included.
    pub vector_users: usize,
    /// How far the base was shifted along it.
    pub lambda: f32,
    /// What the compressed delta is multiplied by.
    pub eta: f32,
    /// How often something was encoded to find them.
    pub evaluations: usize,
}

/// What `restore` did.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct RestoreReport {
    /// Name of the variant.
    pub variant: String,
    /// Bytes of the files written.
    pub restored_bytes: u64,
    /// Number of tensors written.
    pub tensors: usize,
    /// Names of the shards written.
    pub files: Vec<String>,
    /// Of these, written by a run that was cut off and kept.
    pub resumed_files: usize,
    /// Most bytes resident at any time.
    pub peak_memory_bytes: Option<u64>,
    /// Wall time.
    pub elapsed_seconds: f64,
    /// Whether it was a dry run.
    #[serde(flatten)]
    pub run: DryRun,
}

/// Stored bits a parameter by what they are for; together all of a lossy tensor's stored bits. A frame
/// is compressed as one, so its bits are divided as its parts would be stored alone.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[non_exhaustive]
pub struct PartBits {
    /// Values, or what takes their place; tiles that are kept exactly are all codes.
    pub codes: f64,
    /// Where the values stand; 0 for masks that are drawn again.
    pub positions: f64,
    /// Small numbers for many values: factors, ranges of patches, class maps, settings.
    pub scales: f64,
    /// Frame headers.
    pub headers: f64,
}

/// One tensor as `inspect --tensors` and `plan` show it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct TensorSummary {
    /// Its name.
    pub name: String,
    /// Its dtype, as safetensors spells it.
    pub dtype: &'static str,
    /// Its shape.
    pub shape: Vec<u64>,
    /// `lossy`, `lossless`, `whole` (no base), `alias`, or `lost` before the archive was recovered.
    pub stored_as: &'static str,
    /// Bytes in the checkpoint.
    pub bytes: u64,
    /// Bytes in the archive, frame headers included.
    pub stored_bytes: u64,
    /// Stored bits an element.
    pub bits_per_parameter: f64,
    /// Sum of squares of what was lost over the delta's; null unless lossy.
    pub relative_error: Option<f64>,
    /// `bits_per_parameter` by part; for lossy tensors in `inspect` alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parts: Option<PartBits>,
}

/// One variant as `inspect` shows it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct VariantSummary {
    /// Its name.
    pub name: String,
    /// Name of its method.
    pub method: &'static str,
    /// The method's settings, as typed.
    #[serde(serialize_with = "as_object")]
    pub settings: Vec<(String, String)>,
    /// Seed of whatever was drawn.
    pub seed: u64,
    /// The tool that wrote it.
    pub tool: String,
    /// Number of tensors.
    pub tensors: usize,
    /// Of these, stored with loss.
    pub lossy_tensors: usize,
    /// Bytes of the fine-tune's shards and side files.
    pub fine_tuned_bytes: u64,
    /// Bytes of its frames and records in the archive.
    pub stored_bytes: u64,
    /// `fine_tuned_bytes / stored_bytes`.
    pub ratio: f64,
    /// Stored bits a parameter of the lossy tensors, without a base vector; null if none is lossy.
    pub bits_per_parameter: Option<f64>,
    /// `bits_per_parameter` by part, if tensors are asked for and some are lossy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parts: Option<PartBits>,
    /// Stored bytes of all that is not a lossy tensor: the others, side files, records.
    pub rest_bytes: u64,
    /// Error of the lossy tensors.
    pub relative_error: Option<f64>,
    /// How its base was shifted; null if it was not.
    pub base_shift: Option<BaseShiftSummary>,
    /// What the method measured about the whole model, by name.
    #[serde(serialize_with = "as_object")]
    pub measured: Vec<(String, String)>,
    /// Names of the shards it restores to.
    pub shards: Vec<String>,
    /// Names of the files beside the weights.
    pub side_files: Vec<String>,
    /// Names of tensors and side files that the archive that this one was recovered from had lost.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub lost: Vec<String>,
    /// Its tensors, if asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tensor_list: Option<Vec<TensorSummary>>,
}

/// How a stored variant's base was shifted (DBMS).
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct BaseShiftSummary {
    /// Name of the base vector; null if none is used.
    pub vector: Option<String>,
    /// How far the base was shifted along it.
    pub lambda: f32,
    /// What the compressed delta is multiplied by.
    pub eta: f32,
}

/// A base vector as `inspect` shows it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct BaseVectorSummary {
    /// Its name.
    pub name: String,
    /// Name of the method it is compressed with.
    pub method: &'static str,
    /// Bytes of its frames and records in the archive.
    pub stored_bytes: u64,
    /// Names of the variants that use it; `compact` leaves a vector behind that none does.
    pub used_by: Vec<String>,
}

/// An archive as `inspect` shows it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ArchiveSummary {
    /// Version of the file format.
    pub format_version: u16,
    /// Commits so far.
    pub generation: u32,
    /// Bytes of the committed file.
    pub archive_bytes: u64,
    /// Its variants, oldest first.
    pub variants: Vec<VariantSummary>,
    /// Its base vectors, oldest first.
    pub base_vectors: Vec<BaseVectorSummary>,
}

/// What `remove` did.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct RemoveReport {
    /// Name of the variant that is gone.
    pub removed: String,
    /// Names of the variants that are left, oldest first.
    pub variants: Vec<String>,
    /// Bytes of the file before.
    pub bytes_before: u64,
    /// Bytes of the file now: the removed variant's stay in it until `compact`.
    pub bytes_after: u64,
    /// The parity file that was renewed; null if there is none.
    pub parity: Option<ParityReport>,
    /// Whether it was a dry run.
    #[serde(flatten)]
    pub run: DryRun,
}

/// What `compact` did.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct CompactReport {
    /// Whether the archive was written anew; if not, nothing would have been saved.
    pub rewritten: bool,
    /// Names of its variants, oldest first.
    pub variants: Vec<String>,
    /// Bytes of the file before.
    pub bytes_before: u64,
    /// Bytes of the file now.
    pub bytes_after: u64,
    /// The parity file that was made; null if there is none.
    pub parity: Option<ParityReport>,
    /// Most bytes resident at any time.
    pub peak_memory_bytes: Option<u64>,
    /// Wall time.
    pub elapsed_seconds: f64,
    /// Whether it was a dry run.
    #[serde(flatten)]
    pub run: DryRun,
}

/// How one tensor of two checkpoints differs.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct TensorDifference {
    /// Its name.
    pub name: String,
    /// Whether dtype, shape and every bit agree.
    pub identical: bool,
    /// Sum of squares of the difference over the sum of squares of A minus the base (with a base) or
    /// of A; null for tensors that are no floats or cannot be compared.
    pub relative_error: Option<f64>,
    /// Largest absolute difference; null likewise.
    pub max_abs: Option<f64>,
    /// Elements whose bits differ.
    pub changed: u64,
    /// Why it cannot be compared, if so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// How two checkpoints differ.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct CompareReport {
    /// Whether every tensor is in both, bit for bit.
    pub identical: bool,
    /// Over all float tensors that differ or have a delta: sum of squares of the difference over that
    /// of the delta, with a base; over that of A without one. Null if there is nothing to divide by, or a
    /// tensor that only one side has, or with another dtype or shape.
    pub relative_error: Option<f64>,
    /// One for each tensor of either side.
    pub tensors: Vec<TensorDifference>,
    /// Most bytes resident at any time.
    pub peak_memory_bytes: Option<u64>,
    /// Wall time.
    pub elapsed_seconds: f64,
}

/// What `plan` expects of a `compress` with the same options.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Forecast {
    /// Name of the method.
    pub method: &'static str,
    /// The method's settings, as typed.
    #[serde(serialize_with = "as_object")]
    pub settings: Vec<(String, String)>,
    /// Bytes of the fine-tune's shards and side files.
    pub fine_tuned_bytes: u64,
    /// Bytes the archive is expected to take.
    pub archive_bytes: u64,
    /// Of these, what a base vector takes that is made for it; 0 without a base shift.
    pub vector_bytes: u64,
    /// `fine_tuned_bytes / archive_bytes`.
    pub ratio: f64,
    /// Share of the tiles that was encoded to tell, 0 to 1; at 1 the sizes are exact.
    pub sampled: f64,
    /// Wall time expected, from the sample's.
    pub seconds: f64,
    /// Most memory expected.
    pub memory_bytes: u64,
    /// Wall time of the forecast itself.
    pub elapsed_seconds: f64,
    /// Its tensors and how each would be stored.
    pub tensors: Vec<TensorSummary>,
    /// The rate of each matrix, where the method has such: what `--plan` takes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plan: Option<RatePlan>,
    /// What a person should know about the pair.
    pub notes: Vec<String>,
}
