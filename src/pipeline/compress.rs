//! `compress` and `append`: survey, plan and encode a fine-tune into an archive.

use std::io::Read;
use std::path::Path;
use std::time::Instant;

use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::archive::{
    Archive, ArchiveWriter, BLOB_PIECE, BlobSeal, Expected, Head, Place, Seal, TensorSeal,
};
use crate::error::{Error, Missing, Result};
use crate::frame::{Kind, Label};
use crate::method::{RowRates, TRACE_NORM, TraceNorms};
use crate::pipeline::base_shift::{self, Task};
use crate::pipeline::budget::peak_memory;
use crate::pipeline::choose::settle;
use crate::pipeline::encode::Run;
use crate::pipeline::inputs::Inputs;
use crate::pipeline::options::{CompressOptions, Observer};
use crate::pipeline::parity::{self, Parity};
use crate::pipeline::schedule::{Unit, leave_out, units};
use crate::pipeline::sink::{encode_variant, seal_aliases};
use crate::pipeline::stored_delta::Sides;
use crate::report::{BaseShiftReport, CompressReport};

/// Stores the fine-tune `ft` as a delta against `base` in a new archive.
///
/// # Examples
/// At a quarter of a bit for each parameter of the linear layers, with two threads and 256 MiB:
/// ```
/// use delta_stream::{Auto, CompressOptions, Method, PairShape, Resources, Silent, Size};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// # delta_stream::make_pair(dir.path(), &PairShape::small().with_sizes(256, 384, 64, 1), 1)?;
/// # let [ft, base, archive] = ["fine-tune", "base", "a.delta.zst"].map(|name| dir.path().join(name));
/// let options = CompressOptions::new(Method::Auto(Auto::default().with_size(Size::Bits(0.25))))
///     .with_name("quarter")
///     .with_resources(Resources::default().with_threads(2).with_max_memory(256 << 20));
/// let report = delta_stream::compress(&ft, &base, &archive, &options, &Silent)?;
/// assert!(report.bits_per_parameter.is_some_and(|bits| bits <= 0.25));
/// assert!(archive.exists());
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// `InvalidCheckpoint` if an input is broken, `InvalidArgument` if `archive` exists (without force),
/// aliases an input, or an option is out of range; `Interrupted`; `Io`. Nothing is left at `archive`; what
/// a run that resumes has done is left in hidden files beside it. If only the parity file cannot be made, the
/// error says that the archive is committed.
pub fn compress(
    ft: &Path,
    base: &Path,
    archive: &Path,
    options: &CompressOptions,
    observer: &dyn Observer,
) -> Result<CompressReport> {
    let started = Instant::now();
    let inputs = Inputs::open(ft, base, options)?;
    inputs.refuse_alias(archive)?;
    let writer = ArchiveWriter::create(archive, options.force, options.resume)?;
    let (earlier, path) = (&TraceNorms::new(), archive);
    let task = Task { inputs: &inputs, options, observer, archive: None, earlier, path };
    run_aloud(&task, writer, (None, true), started)
}

/// Adds the fine-tune `ft` to an archive, as its next generation.
///
/// # Errors
/// As [`compress`]; `InvalidArgument` if the name is taken; `Corrupt`, `Truncated` or `Incompatible` if
/// the archive cannot be read. The archive keeps its last generation.
pub fn append(
    ft: &Path,
    base: &Path,
    archive: &Path,
    options: &CompressOptions,
    observer: &dyn Observer,
) -> Result<CompressReport> {
    let started = Instant::now();
    let inputs = Inputs::open(ft, base, options)?;
    inputs.refuse_alias(archive)?;
    let parity = parity::present(archive);
    let writer =
        ArchiveWriter::append(archive, options.resume).map_err(|e| none_there(e, archive))?;
    refuse_taken(writer.names(), &inputs.name, archive)?;
    let opened = Archive::open(archive)?;
    let earlier =
        if options.method.wants_trace_norms() { trace_norms(&opened)? } else { TraceNorms::new() };
    let (inputs, earlier, archive, path) = (&inputs, &earlier, Some(&opened), archive);
    let task = Task { inputs, options, observer, archive, earlier, path };
    run_aloud(&task, writer, (parity, false), started)
}

/// The error of an append that found no archive, with what to do instead.
pub(crate) fn none_there(error: Error, archive: &Path) -> Error {
    match error.missing() {
        Some(Missing::Path(_)) => {
            error.context("append adds to an archive that is there; compress makes one")
        }
        _ if archive.is_dir() => error.context("append adds to an archive, which is one file"),
        _ => error,
    }
}

/// Refuses a name that an archive has already.
pub(crate) fn refuse_taken<'a>(
    mut names: impl Iterator<Item = &'a str>,
    name: &str,
    archive: &Path,
) -> Result<()> {
    if names.any(|taken| taken == name) {
        return Err(Error::invalid_argument(format!(
            "archive {} has a variant `{name}` already; choose another name with --name",
            archive.display()
        )));
    }
    Ok(())
}

/// Does all that [`compress`] does, without a base shift, and keeps nothing of it: what it would write is
/// then known to the byte.
pub(crate) fn rehearse(
    inputs: &Inputs,
    options: &CompressOptions,
    observer: &dyn Observer,
) -> Result<Ran> {
    let options = &CompressOptions { base_shift: None, ..options.clone() };
    let (earlier, path) = (&TraceNorms::new(), Path::new(""));
    let task = Task { inputs, options, observer, archive: None, earlier, path };
    run(&task, ArchiveWriter::dry()?, Instant::now())
}

/// What a run came to.
pub(crate) struct Ran {
    pub(crate) report: CompressReport,
    pub(crate) seals: Vec<TensorSeal>,
    /// Matrices with their rates, where the method has such: tensor, number in it, rates.
    pub(crate) rates: Vec<(usize, u64, RowRates)>,
}

/// Trace norms that the variants of an archive were measured to have.
fn trace_norms(archive: &Archive) -> Result<TraceNorms> {
    let mut found = TraceNorms::new();
    for entry in archive.index.variants() {
        let seal = archive.load_entry(entry)?.seal;
        let named = seal.measured.iter().filter(|(name, _)| name == TRACE_NORM);
        found.extend(named.filter_map(|(_, value)| value.parse::<f64>().ok()));
    }
    Ok(found)
}

/// [`run`] for an archive that is kept, with what a person should know about the pair, and parity: as much
/// as there was before, and whether all of the archive is new.
fn run_aloud(
    task: &Task<'_>,
    writer: ArchiveWriter,
    (before, is_new): (Option<Parity>, bool),
    started: Instant,
) -> Result<CompressReport> {
    let Task { options, observer, path, .. } = *task;
    task.inputs.pair.notes.iter().for_each(|note| observer.note(note));
    let mut report = run(task, writer, started)?.report;
    let wanted = (options.parity, before);
    report.parity = parity::renew(path, wanted, is_new, &options.resources, observer)?;
    report.peak_memory_bytes = peak_memory();
    report.elapsed_seconds = started.elapsed().as_secs_f64();
    Ok(report)
}

fn run(task: &Task<'_>, mut writer: ArchiveWriter, started: Instant) -> Result<Ran> {
    let Task { inputs, options, observer, .. } = *task;
    let options = &settle(inputs, options, observer)?;
    let task = &Task { options, ..*task };
    let mut head = inputs.head(options);
    writer.take_notes(stands_on(inputs, options, &head)?)?;
    let shifted = match &options.base_shift {
        Some(settings) => Some(base_shift::prepare(task, settings, &mut writer)?),
        None => None,
    };
    head.shift = shifted.as_ref().map(|s| s.record);
    let n_tiles: Vec<u64> = inputs.pair.items.iter().map(|p| p.tiling.len()).collect();
    let expected = Expected { n_tiles: &n_tiles, items: None, is_last: true };
    let (place, kept) = writer.begin(&head, inputs.state(), expected)?;
    let joint = options.method.lossy().map_or(&[][..], |m| m.joint_passes());
    let mut units = units(&inputs.pair, options.method.lossy());
    leave_out(&mut units, kept.n_tensors(), joint);
    let mut run = Run::new(&units, writer.variant_id(), task.earlier, options.seed);
    run.kept = Some(&kept);
    if let Some(shifted) = &shifted {
        run.gain = shifted.record.eta;
        run.sides = shifted.shift.as_ref().map_or(Sides::AsTheyAre, Sides::ShiftedBase);
    }
    let mut written = encode_variant(inputs, &mut writer, options, &run, observer)?;
    // Who wished to stop at the last tile, too.
    observer.check()?;
    let blobs = write_side_files(inputs, &mut writer)?;
    inputs.check_unchanged()?;
    seal_aliases(&mut written.seals, inputs.pair.items.iter().map(|p| &p.item));
    let output = written.sums.output;
    let seal = Seal { tensors: written.seals, blobs, measured: written.measured };
    writer.finish_variant(&inputs.name, place, &seal)?;
    let archive_bytes = writer.commit()?;
    let (shift, notes) = shifted.map(|s| (s.report, s.notes)).unzip();
    let mut report = report(inputs, options, &seal, shift, archive_bytes);
    report.notes.extend(notes.into_iter().flatten());
    (report.exact_tiles, report.exact_parameters) = written.sums.exact;
    report.output_error = (output.1 > 0.0).then(|| output.0 / output.1);
    report.resumed_tensors = kept.tensors.len();
    report.resumed_tiles = kept.n_tiles();
    report.resumed_surveys = kept.surveys.len();
    report.elapsed_seconds = started.elapsed().as_secs_f64();
    let rates = written.rates.into_iter().map(|(unit, rates)| {
        let Unit { tensor, tiles, .. } = &units[unit];
        (*tensor, inputs.pair.items[*tensor].tiling.get(tiles.start).matrix, rates)
    });
    Ok(Ran { report, seals: seal.tensors, rates: rates.collect() })
}

/// A hash of all that decides what a run writes, but for commands that score: these are asked again.
fn stands_on(inputs: &Inputs, options: &CompressOptions, head: &Head) -> Result<u64> {
    let shift = xxh3_64(format!("{:?}", options.base_shift).as_bytes());
    let parts = [xxh3_64(&head.to_bytes()?), inputs.state(), shift];
    Ok(xxh3_64(&parts.map(u64::to_le_bytes).concat()))
}

pub(crate) fn write_side_files(
    inputs: &Inputs,
    writer: &mut ArchiveWriter,
) -> Result<Vec<BlobSeal>> {
    put_side_files(inputs, writer.variant_id(), |label, piece| writer.write_frame(label, piece))
}

/// Hands the pieces of all side files of this variant to `put`, which says where it puts their frames.
pub(crate) fn put_side_files(
    inputs: &Inputs,
    variant: u32,
    mut put: impl FnMut(Label, &[u8]) -> Result<Place>,
) -> Result<Vec<BlobSeal>> {
    let mut blobs = Vec::new();
    for (item, side_file) in inputs.side_files.iter().enumerate() {
        let failed = |e| Error::io("read", &side_file.path, e);
        let mut file = std::fs::File::open(&side_file.path).map_err(failed)?.take(side_file.len);
        let mut blob = BlobSeal::default();
        let mut hash = Xxh3::new();
        let mut piece = Vec::new();
        let mut left = side_file.len;
        while left > 0 {
            piece.clear();
            let n = (&mut file).take(BLOB_PIECE as u64).read_to_end(&mut piece).map_err(failed)?;
            if n == 0 {
                let text = format!("{} shrank while it was read", side_file.path.display());
                return Err(Error::invalid_checkpoint(text));
            }
            hash.update(&piece);
            let part = blob.frame_lens.len() as u32;
            let label = Label { kind: Kind::Blob, codec: 0, variant, item: item as u32, part };
            let place = put(label, &piece)?;
            if part == 0 {
                blob.offset = place.offset;
            }
            blob.frame_lens.push(place.len as u32);
            left -= n as u64;
        }
        blob.hash = hash.digest128();
        blobs.push(blob);
    }
    Ok(blobs)
}

fn report(
    inputs: &Inputs,
    options: &CompressOptions,
    seal: &Seal,
    base_shift: Option<BaseShiftReport>,
    archive_bytes: u64,
) -> CompressReport {
    let lossy = || {
        let all = inputs.pair.items.iter().zip(inputs.ft.tensors()).zip(&seal.tensors);
        all.filter(|((p, _), _)| p.item.lossy && !p.tiling.is_empty())
    };
    let parameters: u64 = lossy().map(|((_, t), _)| t.n_elements()).sum();
    let stored: u64 = lossy().map(|(_, s)| s.stored_bytes()).sum();
    // A base vector is shared out among those that use it (METHODS section 2.9).
    let vector = base_shift.as_ref().map_or(0, |s| s.vector_bytes / s.vector_users.max(1) as u64);
    let stored = stored + vector;
    let error: f64 = lossy().map(|(_, s)| s.squared_error).sum();
    let delta: f64 = lossy().map(|(_, s)| s.squared_delta).sum();
    let paper = options.method.lossy().map(|m| m.paper_bits());
    let fine_tuned_bytes = inputs.fine_tuned_bytes();
    CompressReport {
        variant: inputs.name.clone(),
        method: options.method.name(),
        settings: options.settings(),
        archive_bytes,
        fine_tuned_bytes,
        ratio: fine_tuned_bytes as f64 / archive_bytes as f64,
        paper_ratio: paper.filter(|(bits, _)| *bits > 0.0).map(|(bits, _)| 16.0 / bits),
        paper_ratio_kind: paper.map(|(_, kind)| kind),
        bits_per_parameter: (parameters > 0).then(|| stored as f64 * 8.0 / parameters as f64),
        relative_error: (delta > 0.0).then(|| error / delta),
        output_error: None,
        base_shift,
        measured: seal.measured.clone(),
        tensors: inputs.pair.items.len(),
        lossy_tensors: lossy().count(),
        lossy_parameters: parameters,
        resumed_tensors: 0,
        resumed_tiles: 0,
        resumed_surveys: 0,
        exact_tiles: 0,
        exact_parameters: 0,
        peak_memory_bytes: peak_memory(),
        elapsed_seconds: 0.0,
        parity: None,
        notes: inputs.pair.notes.clone(),
    }
}
