//! `verify`: every frame's checksum, or with the base every tensor against its stored hash.

use std::path::Path;
use std::time::Instant;

use crate::archive::{Archive, Stored};
use crate::error::{Error, Result};
use crate::pipeline::base::Base;
use crate::pipeline::budget::peak_memory;
use crate::pipeline::decode::{DecodeStage, DecodeState, HashCheck};
use crate::pipeline::frames::FrameReader;
use crate::pipeline::options::{Observer, Resources};
use crate::pipeline::ordered::run_ordered;
use crate::pipeline::restore::{BlobPieces, sources};
use crate::pipeline::spares::Spares;
use crate::pipeline::stored_delta::load_shift;
use crate::report::{Differing, VerifyReport};

/// Checks the variant called `name`, or all. Without `base` every frame is read, checked and
/// expanded; with it every tensor is decoded and held to its stored hash.
///
/// # Errors
/// `Corrupt` or `Truncated` at the first frame that is damaged; `Mismatch` if `base` is another.
/// Tensors that decode to other bytes are in the report.
pub fn verify(
    archive: &Path,
    base: Option<&Path>,
    name: Option<&str>,
    resources: &Resources,
    observer: &dyn Observer,
) -> Result<VerifyReport> {
    let started = Instant::now();
    let opened = Archive::open(archive)?;
    let base = base.map(|path| Base::open(path, &resources.map)).transpose()?;
    let level = if base.is_some() { "decode" } else { "frames" };
    let mut report = VerifyReport {
        ok: true,
        level,
        variants: Vec::new(),
        frames: 0,
        bytes: 0,
        differing: Vec::new(),
        peak_memory_bytes: None,
        elapsed_seconds: 0.0,
    };
    let mut check = |stored: Stored| {
        check_variant(&opened, &stored, base.as_ref(), resources, observer, &mut report)?;
        report.variants.push(stored.head.name);
        Ok(())
    };
    match name {
        Some(_) => check(opened.load(name)?)?,
        // Base vectors too.
        None => opened.index.entries.iter().try_for_each(|e| check(opened.load_entry(e)?))?,
    }
    report.ok = report.differing.is_empty();
    report.peak_memory_bytes = peak_memory();
    report.elapsed_seconds = started.elapsed().as_secs_f64();
    Ok(report)
}

fn check_variant(
    archive: &Archive,
    stored: &Stored,
    base: Option<&Base>,
    resources: &Resources,
    observer: &dyn Observer,
    report: &mut VerifyReport,
) -> Result<()> {
    let all: Vec<_> = (0..stored.tensors.len()).collect();
    let wanted = sources(stored, &all);
    if let Some(base) = base {
        base.check(stored, &wanted)?;
    }
    let shift = load_shift(archive, stored)?;
    let (shift, spares) = (shift.as_ref(), Spares::default());
    let stage = DecodeStage { archive, stored, base, shift, wanted: &wanted, spares };
    let width = stage.needs().width(resources.max_memory, resources.threads)?;
    let mut reader = FrameReader::new(&stage);
    let mut check = HashCheck::new(&stage);
    let (mut done, total) = (0, stage.total_bytes());
    run_ordered(
        width,
        || reader.next(),
        DecodeState::new,
        |state, job| {
            if base.is_some() { stage.work(state, job) } else { stage.expand(state, job) }
        },
        |tile| {
            if observer.is_cancelled() {
                return Err(Error::interrupted());
            }
            report.frames += 1;
            report.bytes += tile.stored_len();
            let t = &stored.tensors[tile.tensor];
            if base.is_some() && check.add(&tile)? == Some(false) {
                let (variant, tensor) = (stored.head.name.clone(), t.name.clone());
                report.differing.push(Differing { variant, tensor });
            }
            done += (tile.tile.n_elements() * t.dtype.lane_bytes()) as u64;
            observer.progress(done, total);
            check.done(tile);
            Ok(())
        },
    )?;
    for item in 0..stored.head.side_files.len() {
        let mut pieces = BlobPieces::new(archive, stored, item)?;
        for piece in &mut pieces {
            piece?;
            report.frames += 1;
        }
        pieces.check()?;
        report.bytes +=
            stored.seal.blobs[item].frame_lens.iter().map(|n| u64::from(*n)).sum::<u64>();
    }
    Ok(())
}
