//! `recover`: what is whole of a damaged archive becomes a new one.

use std::path::Path;
use std::time::Instant;

use crate::archive::{self, Rescued};
use crate::error::{Error, Result};
use crate::pipeline::budget::peak_memory;
use crate::pipeline::options::Observer;
use crate::report::{RecoverReport, RecoveredVariant};

/// Writes what is whole of the damaged archive `archive` as a new one at `output`, whatever is damaged of
/// it: footers, indexes, heads, seals, ranges in between, its end. Bytes must stand where they stood.
/// Frames keep their bytes, variants their names. Of a variant that lost some tensors or side files the
/// others can be restored by name, and a whole restore is refused; one that lost its head or seal is lost.
/// An archive is read once, one frame is in memory at a time, and the damaged file is left as it is.
///
/// The report says of every tensor of every variant whether it is saved, by checksums; no base is needed.
///
/// # Errors
/// `Corrupt` if nothing can be saved; `Incompatible` if a newer tool wrote the archive; `InvalidArgument`
/// if `output` exists (without force) or is the damaged archive; `Io`; `Interrupted`. Nothing is then
/// left at `output`.
pub fn recover(
    archive: &Path,
    output: &Path,
    force: bool,
    observer: &dyn Observer,
) -> Result<RecoverReport> {
    let started = Instant::now();
    let found = archive::recover(archive, output, force, |done, total| {
        if observer.is_cancelled() {
            return Err(Error::interrupted());
        }
        observer.progress(done, total);
        Ok(())
    })?;
    let variants: Vec<_> = found.variants.into_iter().map(variant).collect();
    Ok(RecoverReport {
        complete: variants.iter().all(|v| v.state == "whole"),
        index_of: found.index,
        variants,
        bytes_before: found.bytes_before,
        damaged_bytes: found.gap_bytes,
        bytes_after: found.bytes_after,
        peak_memory_bytes: peak_memory(),
        elapsed_seconds: started.elapsed().as_secs_f64(),
    })
}

fn variant(found: Rescued) -> RecoveredVariant {
    let (tensors, lost_tensors) = divided(found.tensors);
    let (side_files, lost_side_files) = divided(found.side_files);
    let state = match &found.why_lost {
        Some(_) => "lost",
        None if lost_tensors.is_empty() && lost_side_files.is_empty() => "whole",
        None => "partial",
    };
    RecoveredVariant {
        name: found.name,
        base_vector: found.is_vector,
        state,
        why: found.why_lost,
        listed: found.is_listed,
        tensors,
        lost_tensors,
        side_files,
        lost_side_files,
    }
}

/// Names that are saved, and those that are not.
fn divided(all: Vec<(String, bool)>) -> (Vec<String>, Vec<String>) {
    let (saved, lost): (Vec<_>, Vec<_>) = all.into_iter().partition(|(_, is_saved)| *is_saved);
    let names = |list: Vec<(String, bool)>| list.into_iter().map(|(name, _)| name).collect();
    (names(saved), names(lost))
}
