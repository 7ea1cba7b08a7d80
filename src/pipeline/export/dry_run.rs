//! Exports that write nothing: all that an export checks before its first tensor, and the room it may take.

use std::path::Path;

use crate::checkpoint::CheckpointWriter;
use crate::error::Result;
use crate::pipeline::dry_run::space_for_dir;
use crate::pipeline::export::Variant;
use crate::pipeline::export::hf_delta::{self, Opened};
use crate::pipeline::export::peft::{self, Planned};
use crate::pipeline::export::settings::{DeltaEncoding, ExportOptions, HfDelta, Peft};
use crate::report::ExportForecast;

/// Bytes of the small files beside the tensors, at most: an index entry or a line of a card for each, and their
/// own text.
const SMALL_FILES: u64 = 16 << 10;
/// Bytes that a tensor takes in a header, an index and a card beside its name, at most.
const PER_TENSOR: u64 = 1 << 10;

/// What [`export_hf_delta`](crate::export_hf_delta) would write: what it checks before it decodes a tensor is
/// checked, and nothing is written. How much of each tensor changed is not known before, so bytes are what they
/// are at most.
///
/// # Errors
/// As [`export_hf_delta`](crate::export_hf_delta).
pub fn export_hf_delta_dry_run(
    archive: &Path,
    base: &Path,
    output: &Path,
    settings: &HfDelta,
    options: &ExportOptions,
) -> Result<ExportForecast> {
    let Opened { dir, variant, new, files } =
        hf_delta::open(archive, base, output, settings, options)?;
    let tensors = files.concat();
    let most = |i: &usize| {
        let t = &variant.stored.tensors[*i];
        let places = match settings.encoding {
            DeltaEncoding::Xor => 0,
            // One place of four bytes for each element.
            DeltaEncoding::Overwrite => 4 * (t.n_bytes / t.dtype.lane_bytes().max(1) as u64),
        };
        let bytes = t.n_bytes + places;
        // What zstd cannot make smaller it stores, in blocks.
        bytes + bytes / 256 + 2 * t.name.len() as u64 + PER_TENSOR
    };
    let bytes = tensors.iter().map(most).sum::<u64>() + SMALL_FILES;
    told(&variant, &dir, options, tensors.len(), new, bytes)
}

/// What [`export_peft`](crate::export_peft) would write, likewise. The adapter's bytes are known but for its card.
///
/// # Errors
/// As [`export_peft`](crate::export_peft).
pub fn export_peft_dry_run(
    archive: &Path,
    base: &Path,
    output: &Path,
    settings: &Peft,
    options: &ExportOptions,
) -> Result<ExportForecast> {
    settings.validate()?;
    let variant = Variant::open(archive, base, output, options)?;
    let Planned { taken, layout, .. } = peft::planned(&variant, settings)?;
    let n_tensors = variant.stored.tensors.len() as u64;
    let bytes = layout.file_len + SMALL_FILES + n_tensors * PER_TENSOR;
    told(&variant, output, options, taken.len(), Vec::new(), bytes)
}

fn told(
    variant: &Variant<'_>,
    dir: &Path,
    options: &ExportOptions,
    tensors: usize,
    left_out: Vec<String>,
    most_bytes: u64,
) -> Result<ExportForecast> {
    CheckpointWriter::refuse_existing(dir, options.force)?;
    Ok(ExportForecast {
        dry_run: true,
        variant: variant.name().to_owned(),
        directory: dir.display().to_string(),
        tensors,
        left_out,
        space: space_for_dir(dir, most_bytes)?,
    })
}
