//! What is said of a compress that is shared out among machines: the split, its parts, and the join.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::method::RatePlan;
use crate::report::DryRun;

/// How a compress is shared out: what `plan --split` writes and every part is given.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Split {
    /// Name and version of the tool; every part needs the same.
    pub tool: String,
    /// Name of the variant.
    pub variant: String,
    /// Name of the method.
    pub method: String,
    /// The method's settings, as typed.
    pub settings: BTreeMap<String, String>,
    /// Hash, in hexadecimal digits, of all that decides what the archive will have: files, settings, version.
    pub identity: String,
    /// Number of parts, 1 or more.
    pub parts: u32,
    /// Rounds it takes: the last one encodes, and each before it surveys for one decision about the whole model.
    pub rounds: u32,
    /// What was decided before the first tile, where a method has such.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settled: Option<Settled>,
    /// Rates that `auto` was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<RatePlan>,
    /// Bytes of the fine-tune's shards and side files.
    pub fine_tuned_bytes: u64,
    /// The share of each part.
    pub shares: Vec<Share>,
}

/// What was decided before the first tile. Numbers are text, so that all of their bits come back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub enum Settled {
    /// Of `auto`.
    #[serde(rename = "auto")]
    Auto {
        /// Bits a parameter over the tensors stored with loss.
        bits: String,
        /// Mean square error of a weight that these come to.
        noise_level: String,
    },
    /// Entries a group, of DeltaDQ.
    #[serde(rename = "group")]
    Group(u32),
}

/// The tensors of one part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Share {
    /// Which part, from 1.
    pub part: u32,
    /// Number of tensors.
    pub tensors: u64,
    /// Bytes of the fine-tune in them.
    pub bytes: u64,
}

/// What `compress --part` did.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct PartReport {
    /// Name of the variant.
    pub variant: String,
    /// Name of the method.
    pub method: &'static str,
    /// Which part, from 1.
    pub part: u32,
    /// Of how many.
    pub parts: u32,
    /// Which round, from 1.
    pub round: u32,
    /// Of how many; the last one encodes.
    pub rounds: u32,
    /// Tensors in its share.
    pub tensors: u64,
    /// Bytes of the fine-tune in them.
    pub share_bytes: u64,
    /// Bytes of the part; of a dry run the most that it can have.
    pub part_bytes: u64,
    /// Most memory that was used, if the system tells.
    pub peak_memory_bytes: Option<u64>,
    /// Wall time.
    pub elapsed_seconds: f64,
    /// What a person should know about the pair.
    pub notes: Vec<String>,
    /// Whether it was a dry run.
    #[serde(flatten)]
    pub run: DryRun,
}

/// What `join` did.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct JoinReport {
    /// Name of the variant.
    pub variant: String,
    /// Parts that were joined.
    pub parts: u32,
    /// The round they are of, from 1.
    pub round: u32,
    /// Of how many. If it is not the last, what was written is what `--surveys` of the next round takes.
    pub rounds: u32,
    /// Bytes of the file that was written; of a dry run in an earlier round than the last, at most.
    pub written_bytes: u64,
    /// The archive, after the last round.
    #[serde(flatten)]
    pub archive: Option<JoinedArchive>,
    /// Most memory that was used, if the system tells.
    pub peak_memory_bytes: Option<u64>,
    /// Wall time.
    pub elapsed_seconds: f64,
    /// Whether it was a dry run.
    #[serde(flatten)]
    pub run: DryRun,
}

/// An archive that was joined of parts.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct JoinedArchive {
    /// Name of the stored method.
    pub method: &'static str,
    /// Bytes of the archive.
    pub archive_bytes: u64,
    /// Bytes of the fine-tune's shards and side files.
    pub fine_tuned_bytes: u64,
    /// `fine_tuned_bytes / archive_bytes`.
    pub ratio: f64,
    /// Number of tensors.
    pub tensors: usize,
    /// Squared error over the squared delta of the tensors stored with loss.
    pub relative_error: Option<f64>,
    /// What was measured of the whole model.
    #[serde(serialize_with = "super::as_object")]
    pub measured: Vec<(String, String)>,
}
