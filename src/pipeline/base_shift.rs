//! DBMS as a stage before the encode: finds or makes the base vector, and the two parameters.

use std::path::Path;
use std::sync::Arc;

use crate::archive::{
    Archive, ArchiveWriter, Expected, Head, Item, Seal, ShiftRecord, Stored, StoredShard,
};
use crate::archive::{Origin, VECTOR_MARK};
use crate::checkpoint::{plan_shards, temporary_dir};
use crate::error::{Error, Result, ResultExt};
use crate::method::dbms::{self, Fit, Point};
use crate::method::{BaseShift, BaseVector, TraceNorms, Tune};
use crate::pair::PairItem;
use crate::pipeline::encode::{Run, encode_units};
use crate::pipeline::forecast::take_sample;
use crate::pipeline::inputs::{Inputs, TOOL};
use crate::pipeline::options::{CompressOptions, Observer};
use crate::pipeline::schedule::{Unit, leave_out, units};
use crate::pipeline::sink::encode_variant;
use crate::pipeline::stored_delta::{Shift, Sides, StoredDelta, load_delta};
use crate::pipeline::trial::write_trial;
use crate::report::BaseShiftReport;

/// What a variant is encoded against.
pub(crate) struct Shifted<'a> {
    pub(crate) record: ShiftRecord,
    pub(crate) shift: Option<Shift<'a>>,
    pub(crate) report: BaseShiftReport,
    /// What each trial that was scored came to.
    pub(crate) notes: Vec<String>,
}

/// Lambda and eta, and how they were found.
#[derive(Default)]
struct Found {
    point: Point,
    /// How often something was encoded for them.
    n_trials: usize,
    notes: Vec<String>,
}

/// One variant that is about to be encoded.
#[derive(Clone, Copy)]
pub(crate) struct Task<'a> {
    pub(crate) inputs: &'a Inputs,
    pub(crate) options: &'a CompressOptions,
    pub(crate) observer: &'a dyn Observer,
    /// The archive it is added to, as it is; none if it is new.
    pub(crate) archive: Option<&'a Archive>,
    /// Trace norms of its variants, where the method asks for them.
    pub(crate) earlier: &'a TraceNorms,
    /// Where the archive is to stand.
    pub(crate) path: &'a Path,
}

/// The base vector of a shift, wherever it comes from.
struct Vector<'a> {
    name: String,
    id: u32,
    delta: Arc<StoredDelta<'a>>,
    /// Bytes it takes in the archive.
    bytes: u64,
    /// Variants that use it, this one included.
    n_users: usize,
}

/// Makes the base vector unless it is there, and finds the parameters.
pub(crate) fn prepare<'a>(
    task: &Task<'a>,
    settings: &BaseShift,
    writer: &mut ArchiveWriter,
) -> Result<Shifted<'a>> {
    let vector = match settings.has_vector() {
        // Nothing is shifted, so nothing is stored to shift along.
        false => None,
        true => Some(vector(task, settings, writer)?),
    };
    let along = vector.as_ref().map(|v| &v.delta);
    let found = parameters(task, settings, along, writer)?;
    let [lambda, eta] = found.point.map(|x| x as f32);
    // A vector that does not help is not used, so that it need not be kept.
    let vector = vector.as_ref().filter(|_| lambda != 0.0);
    Ok(Shifted {
        record: ShiftRecord { vector: vector.map(|v| v.id), lambda, eta },
        shift: vector.map(|v| Shift { vector: Arc::clone(&v.delta), lambda }),
        report: BaseShiftReport {
            vector: vector.map(|v| v.name.clone()),
            vector_bytes: vector.map_or(0, |v| v.bytes),
            vector_users: vector.map_or(0, |v| v.n_users),
            lambda,
            eta,
            evaluations: found.n_trials,
        },
        notes: found.notes,
    })
}

/// The base vector: the archive's, or a new one.
fn vector<'a>(
    task: &Task<'a>,
    settings: &BaseShift,
    writer: &mut ArchiveWriter,
) -> Result<Vector<'a>> {
    let external = match &settings.vector {
        BaseVector::External(path) => Some(open_external(task, path)?),
        _ => None,
    };
    let name = vector_name(task.inputs, settings, external.as_ref())?;
    if let Some(archive) = task.archive
        && let Some(entry) = archive.index.vectors().find(|v| v.name == name)
    {
        let id = entry.id;
        let mut n_users = 1;
        for variant in archive.index.variants() {
            let shift = archive.load_entry(variant)?.head.shift;
            n_users += usize::from(shift.is_some_and(|s| s.vector == Some(id)));
        }
        if settings.vector != BaseVector::Own || n_users > 1 {
            let stored = archive.load_vector(id)?;
            let bytes = stored.seal.stored_bytes() + stored.record_bytes;
            let delta = StoredDelta::new(archive.frames().clone(), stored, None, None);
            let delta = Arc::new(delta.keep_like(task.inputs.ft.tensors()));
            return Ok(Vector { name, id, delta, bytes, n_users });
        }
        // Left by a variant that was removed, which may have been another fine-tune.
        writer.unlist(&name);
    }
    let before = writer.added();
    let (id, delta) = match (&settings.vector, &external) {
        (BaseVector::External(_), Some(external)) => {
            let task = Task { inputs: external, archive: None, ..*task };
            let made = make(&task, &name, Sides::AsTheyAre, writer)?;
            external.check_unchanged()?;
            made
        }
        (BaseVector::Shared, _) => make(task, &name, Sides::MeanWith(&others(task)?), writer)?,
        _ => make(task, &name, Sides::AsTheyAre, writer)?,
    };
    let bytes = writer.added() - before;
    let delta = Arc::new(delta.keep_like(task.inputs.ft.tensors()));
    Ok(Vector { name, id, delta, bytes, n_users: 1 })
}

fn vector_name(inputs: &Inputs, settings: &BaseShift, external: Option<&Inputs>) -> Result<String> {
    Ok(match (&settings.vector, external) {
        (BaseVector::External(path), Some(external)) => {
            let end = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
            // Another checkpoint may end alike.
            format!("{VECTOR_MARK}from/{end}-{:016x}", external.probe()?)
        }
        (BaseVector::Shared, _) => format!("{VECTOR_MARK}shared"),
        _ => format!("{VECTOR_MARK}own/{}", inputs.name),
    })
}

/// Whether an archive has the base vector of these options, which is then not made again.
pub(crate) fn has_vector_in(
    inputs: &Inputs,
    options: &CompressOptions,
    archive: &Archive,
) -> Result<bool> {
    let Some(settings) = &options.base_shift else { return Ok(false) };
    let external = match &settings.vector {
        // One of a variant that was removed is not used again.
        BaseVector::Own => return Ok(false),
        BaseVector::External(path) => Some(open_against(inputs, options, path)?),
        BaseVector::Shared => None,
    };
    let name = vector_name(inputs, settings, external.as_ref())?;
    Ok(archive.index.vectors().any(|v| v.name == name))
}

/// Another checkpoint, against the same base.
fn open_external(task: &Task<'_>, path: &Path) -> Result<Inputs> {
    let open = || {
        let external = open_against(task.inputs, task.options, path)?;
        external.refuse_alias_of("checkpoint that the base is shifted towards", task.path)?;
        Ok(external)
    };
    open().context(|| format!("--base-shift {}", path.display()))
}

fn open_against(inputs: &Inputs, options: &CompressOptions, path: &Path) -> Result<Inputs> {
    Inputs::open(path, &inputs.base_path, &options.clone().with_name("vector"))
}

/// Says what [`prepare`] would say of a vector before it reads any tile.
pub(crate) fn check_vector(
    inputs: &Inputs,
    options: &CompressOptions,
    shift: &BaseShift,
) -> Result<()> {
    let BaseVector::External(path) = &shift.vector else { return Ok(()) };
    let opened = open_against(inputs, options, path);
    opened.context(|| format!("--base-shift {}", path.display())).map(drop)
}

/// The deltas of the archive's variants, as far as they are against this base.
fn others<'a>(task: &Task<'a>) -> Result<Vec<StoredDelta<'a>>> {
    let Some(archive) = task.archive else { return Ok(Vec::new()) };
    let base = (&task.inputs.base, &task.inputs.base_source);
    let variants = archive.index.variants().map(|v| {
        let delta = load_delta(archive, archive.load_entry(v)?, base)?;
        delta.keep_like(task.inputs.ft.tensors()).keep_based()
    });
    variants.filter(|delta| !delta.as_ref().is_ok_and(StoredDelta::is_empty)).collect()
}

/// Encodes a base vector: a variant of the lossy tensors alone, which is read back as it was decoded.
fn make<'b>(
    task: &Task<'_>,
    name: &str,
    sides: Sides<'_>,
    writer: &mut ArchiveWriter,
) -> Result<(u32, StoredDelta<'b>)> {
    let Task { inputs, options, observer, .. } = *task;
    let (head, items) = vector_head(inputs, options, name)?;
    let seed = head.seed;
    let n_tiles = |(p, item): (&PairItem, &u32)| if *item == u32::MAX { 0 } else { p.tiling.len() };
    let n_tiles: Vec<u64> = inputs.pair.items.iter().zip(&items).map(n_tiles).collect();
    let expected = Expected { n_tiles: &n_tiles, items: Some(&items), is_last: false };
    let (place, kept) = writer.begin(&head, inputs.state(), expected)?;
    let id = writer.variant_id();
    let mut units: Vec<Unit> = lossy_units(task);
    leave_out(
        &mut units,
        kept.n_tensors(),
        options.method.lossy().map_or(&[], |m| m.joint_passes()),
    );
    let none = TraceNorms::new();
    let kept = Some(&kept);
    let stage = Some("vector");
    let run = Run { sides, items: Some(&items), kept, stage, ..Run::new(&units, id, &none, seed) };
    let written = encode_variant(inputs, writer, options, &run, observer)?;
    let seals = written.seals.into_iter().zip(&items).filter(|(_, item)| **item != u32::MAX);
    let (tensors, blobs) = (seals.map(|(s, _)| s).collect(), Vec::new());
    let seal = Seal { tensors, blobs, measured: written.measured };
    writer.finish_variant(name, place, &seal)?;
    let stored = Stored::new(id, head, seal, 0)?;
    Ok((id, StoredDelta::new(writer.frames()?, stored, None, None)))
}

/// Whether a base vector has this tensor.
pub(crate) fn is_in_vector(p: &PairItem) -> bool {
    p.item.lossy && matches!(p.item.origin, Origin::Base { .. })
}

/// The head of a base vector, and the numbers that the fine-tune's tensors have in it; `u32::MAX` for those that
/// are not in it.
pub(crate) fn vector_head(
    inputs: &Inputs,
    options: &CompressOptions,
    name: &str,
) -> Result<(Head, Vec<u32>)> {
    let mut items = vec![u32::MAX; inputs.pair.items.len()];
    let (mut stored_items, mut tensors): (Vec<Item>, Vec<_>) = (Vec::new(), Vec::new());
    for (i, (t, p)) in inputs.ft.tensors().iter().zip(&inputs.pair.items).enumerate() {
        if is_in_vector(p) {
            items[i] = stored_items.len() as u32;
            stored_items.push(p.item.clone());
            tensors.push((t.name.clone(), t.dtype, t.shape.clone(), t.n_bytes));
        }
    }
    let layout = plan_shards(&tensors, None, u64::MAX)?.into_iter().next();
    let layout = layout.ok_or_else(|| Error::invalid_argument("there is nothing to shift"))?;
    // A residual must not meet the mask again that made it.
    let seed = options.seed ^ 1 << 63;
    let (file_name, file_len, header) = (layout.file_name, layout.file_len, layout.header);
    let head = Head {
        name: name.to_owned(),
        method: options.method.id() as u16,
        settings: options.method.settings(),
        seed,
        tool: TOOL.to_owned(),
        has_index: false,
        shards: vec![StoredShard { file_name, file_len, header }],
        items: stored_items,
        side_files: Vec::new(),
        shift: None,
    };
    Ok((head, items))
}

fn lossy_units(task: &Task<'_>) -> Vec<Unit> {
    let mut units = units(&task.inputs.pair, task.options.method.lossy());
    units.retain(|u| task.inputs.pair.items[u.tensor].item.lossy);
    units
}

fn parameters<'a>(
    task: &Task<'a>,
    settings: &BaseShift,
    vector: Option<&Arc<StoredDelta<'a>>>,
    writer: &mut ArchiveWriter,
) -> Result<Found> {
    if let (Some(lambda), Some(eta)) = (settings.lambda, settings.eta) {
        return Ok(Found { point: [lambda, eta], ..Found::default() });
    }
    let mut sample = lossy_units(task);
    sample.iter_mut().for_each(take_sample);
    let mut n_trials = 0;
    let mut fit_at = |lambda: f64| {
        n_trials += 1;
        if let Some(fit) = writer.recall()?.and_then(|value| Fit::parse(&value)) {
            return Ok(fit);
        }
        let fit = fit(task, &sample, vector, lambda as f32)?;
        writer.remember(&fit.to_bytes())?;
        Ok(fit)
    };
    let eta_of = |fit: &Fit| settings.eta.unwrap_or_else(|| fit.eta(settings.rule));
    let lambda = match settings.lambda {
        Some(lambda) => lambda,
        None => dbms::search_lambda(|lambda| {
            let fit = fit_at(lambda)?;
            Ok(fit.objective(eta_of(&fit)))
        })?,
    };
    // Parameters are stored as f32; eta belongs to the lambda that is.
    let lambda = f64::from(lambda as f32);
    let start = [lambda, eta_of(&fit_at(lambda)?)];
    let mut notes = Vec::new();
    let Tune::Score(score) = &settings.tune else {
        return Ok(Found { point: start, n_trials, notes });
    };
    let given = [settings.lambda.is_some(), settings.eta.is_some()];
    let point = dbms::search_scores(start, given, |point| {
        n_trials += 1;
        let dir = temporary_dir(task.path)?;
        let checkpoint = dir.path().join("checkpoint");
        write_trial(task, vector, point.map(|x| x as f32), &checkpoint)?;
        let found = score.of(&checkpoint);
        // The signal that ends the run ends a command too, which then has no score.
        task.observer.check()?;
        let found = found?;
        let [lambda, eta] = point;
        notes.push(format!("lambda {lambda:.4}, eta {eta:.4}: score {found}"));
        task.observer.note(&notes[notes.len() - 1]);
        Ok(found)
    })?;
    Ok(Found { point, n_trials, notes })
}

/// How the method fits a sample of tiles at this lambda.
fn fit(
    task: &Task<'_>,
    sample: &[Unit],
    vector: Option<&Arc<StoredDelta<'_>>>,
    lambda: f32,
) -> Result<Fit> {
    let shift = vector.map(|v| Shift { vector: Arc::clone(v), lambda });
    let sides = match &shift {
        Some(shift) if lambda != 0.0 => Sides::ShiftedBase(shift),
        _ => Sides::AsTheyAre,
    };
    let stage = Some("search");
    let run = Run::new(sample, 0, task.earlier, task.options.seed);
    let run = Run { sides, fits: true, stage, ..run };
    let mut sum = Fit::default();
    encode_units(task.inputs, task.options, &run, task.observer, |_, tile| {
        sum.add(tile.fit);
        Ok(())
    })?;
    Ok(sum)
}
