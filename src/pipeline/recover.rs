//! `recover`: what is whole of a damaged archive becomes a new one.

use std::path::Path;
use std::time::Instant;

use xxhash_rust::xxh3::Xxh3;

use crate::archive::{self, Archive, Origin, Rehash, Rehashed, Rescued, Stored, TensorHashes};
use crate::checkpoint::aliases;
use crate::error::{Error, Result};
use crate::pipeline::base::Base;
use crate::pipeline::budget::peak_memory;
use crate::pipeline::decode::{DecodeStage, DecodeState, Examined, HashCheck};
use crate::pipeline::dry_run::space;
use crate::pipeline::frames::run_frames;
use crate::pipeline::options::{Observer, RecoverOptions, Resources};
use crate::pipeline::parity::{advised, present};
use crate::pipeline::restore::{BlobPieces, sources};
use crate::pipeline::spares::Spares;
use crate::pipeline::stored_delta::load_shift;
use crate::report::{RecoverReport, RecoveredVariant};

/// Writes what is whole of the damaged archive `archive` as a new one at `output`, whatever is damaged of
/// it: footers, indexes, heads, seals, ranges in between, its end. Bytes must stand where they stood.
/// Frames keep their bytes, variants their names. Of a variant that lost some tensors or side files the
/// others can be restored by name, and a whole restore is refused; one that lost its head is lost. One that
/// lost its seal needs the base: what its frames decode to becomes its seal's. The base is held to the seals
/// that are left; where none is, it has to be the right one.
///
/// One frame is in memory at a time, and the damaged file is left as it is. The report says of every
/// tensor of every variant whether it is saved, by checksums.
///
/// # Errors
/// `Corrupt` if nothing can be saved; `Incompatible` if a newer tool wrote the archive; `InvalidArgument`
/// if `output` exists (without force), is the damaged archive or lies in the base; `Mismatch` if the base is another; `Io`;
/// `Interrupted`. Nothing is then left at `output`.
pub fn recover(
    archive: &Path,
    output: &Path,
    options: &RecoverOptions,
    observer: &dyn Observer,
) -> Result<RecoverReport> {
    let started = Instant::now();
    let base = options.base.as_ref().map(|base| Base::open(base, &options.resources));
    let base = base.transpose()?;
    if base.as_ref().is_some_and(|base| aliases(output, base.checkpoint())) {
        let text = format!("{} lies in the base; choose another place", output.display());
        return Err(Error::invalid_argument(text));
    }
    let resources = &options.resources;
    let mut anew = base.as_ref().map(|base| Anew { base, resources, observer });
    let anew = anew.as_mut().map(|anew| anew as &mut dyn Rehash);
    let dry_run = options.dry_run;
    observer.stage("recover");
    let found = archive::recover(archive, output, (options.force, dry_run), anew, |done, total| {
        observer.check()?;
        observer.progress(done, total);
        Ok(())
    })
    .map_err(|e| advised(e, archive))?;
    let space = dry_run.then(|| space(output, found.bytes_after)).transpose()?;
    let variants: Vec<_> = found.variants.into_iter().map(variant).collect();
    let complete = variants.iter().all(|v| v.state == "whole");
    if !complete && present(archive).is_some() {
        observer.note("the damaged archive has a parity file: repair may save more");
    }
    Ok(RecoverReport {
        complete,
        index_of: found.index,
        variants,
        bytes_before: found.bytes_before,
        damaged_bytes: found.gap_bytes,
        bytes_after: found.bytes_after,
        peak_memory_bytes: peak_memory(),
        elapsed_seconds: started.elapsed().as_secs_f64(),
        run: space.into(),
    })
}

/// Makes seals anew with this base.
struct Anew<'a> {
    base: &'a Base,
    resources: &'a Resources,
    observer: &'a dyn Observer,
}

impl Rehash for Anew<'_> {
    fn check(&mut self, stored: &Stored) -> Result<()> {
        let all: Vec<_> = (0..stored.tensors.len()).collect();
        self.base.check(stored, &sources(stored, &all))
    }

    fn hashes(&mut self, archive: &Archive, stored: &Stored) -> Result<Rehashed> {
        hashes(archive, stored, self)
    }
}

/// What the frames of a variant restore to, by decoding them.
fn hashes(archive: &Archive, stored: &Stored, anew: &Anew<'_>) -> Result<Rehashed> {
    let base = anew.base;
    let all: Vec<_> = (0..stored.tensors.len()).collect();
    let wanted = sources(stored, &all);
    let mut tensors = Vec::new();
    for i in &all {
        // A tensor without tiles restores to no bytes, or to another's.
        let restored_hash = stored.tilings[*i].is_empty().then(|| Xxh3::new().digest128());
        let base_probe = base.probe(stored, *i)?;
        tensors.push(TensorHashes { base_hash: 0, base_probe, restored_hash });
    }
    let shift = load_shift(archive, stored)?;
    let (shift, spares) = (shift.as_ref(), Spares::default());
    let stage = DecodeStage { archive, stored, base: Some(base), shift, wanted: &wanted, spares };
    decode(&stage, anew.resources, anew.observer, &mut tensors)?;
    for (i, item) in stored.head.items.iter().enumerate() {
        if let Origin::Alias(of) = item.origin {
            tensors[i].restored_hash = tensors[of as usize].restored_hash;
        }
    }
    let mut side_files = Vec::new();
    for item in 0..stored.head.side_files.len() {
        let mut pieces = BlobPieces::new(archive, stored, item)?;
        let is_whole = pieces.by_ref().all(|piece| piece.is_ok());
        side_files.push(pieces.hash().filter(|_| is_whole));
    }
    Ok(Rehashed { tensors, side_files })
}

/// Decodes all tensors of a stage, and takes the hashes of those that decode.
fn decode(
    stage: &DecodeStage<'_>,
    resources: &Resources,
    observer: &dyn Observer,
    tensors: &mut [TensorHashes],
) -> Result<()> {
    let mut check = HashCheck::new(stage);
    let mut broken = None;
    run_frames(
        stage,
        (stage.needs(), resources),
        None,
        DecodeState::new,
        |state, job| stage.examine(state, job, true),
        |examined| {
            observer.check()?;
            match examined {
                Examined::Damaged(bad) => {
                    broken = Some(bad.tensor);
                    check.forget();
                }
                Examined::Whole(tile) => {
                    if broken != Some(tile.tensor)
                        && let Some((base, restored)) = check.hash(&tile)
                    {
                        tensors[tile.tensor].base_hash = base;
                        tensors[tile.tensor].restored_hash = Some(restored);
                    }
                    check.done(tile);
                }
            }
            Ok(())
        },
    )
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
        sealed_anew: found.is_sealed_anew,
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
