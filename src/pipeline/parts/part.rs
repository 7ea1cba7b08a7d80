//! `compress --part`: one round of one share.

use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::archive::{
    Entry, FIRST_VARIANT, Kept, Note, PartHead, PartLog, PartReader, PartWriter, Place,
};
use crate::error::{Error, Result};
use crate::frame::{Encoder, Kind, Label};
use crate::method::{Measured, TraceNorms};
use crate::pipeline::budget::peak_memory;
use crate::pipeline::choose::settle_as;
use crate::pipeline::compress::put_side_files;
use crate::pipeline::dry_run::space;
use crate::pipeline::encode::{Run, check_memory};
use crate::pipeline::inputs::{Inputs, TOOL};
use crate::pipeline::known::survey_at;
use crate::pipeline::options::{CompressOptions, Observer};
use crate::pipeline::parts::most::most_bytes;
use crate::pipeline::parts::share::{Task, shares};
use crate::pipeline::parts::{check, identity, joint_passes};
use crate::pipeline::schedule::Unit;
use crate::pipeline::sink::encode_tiles;
use crate::report::{DryRun, PartReport, Split};

/// Which part of a split is made.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct PartOptions {
    /// How the compress is shared out.
    pub split: Split,
    /// Which part, from 1.
    pub part: u32,
    /// What the parts of the round before found, joined; none in the first round. Which round it is follows
    /// from it.
    pub surveys: Option<PathBuf>,
}

impl PartOptions {
    /// A part of this split, from 1, in its first round.
    pub fn new(split: Split, part: u32) -> Self {
        Self { split, part, surveys: None }
    }

    /// Goes on from what the round before found.
    #[must_use]
    pub fn with_surveys(mut self, file: Option<PathBuf>) -> Self {
        self.surveys = file;
        self
    }
}

/// Makes one part of a compress that [`split`](crate::split) shared out, in one of its rounds; `options` are
/// those of the split. [`join`](crate::join) makes of all parts of a round what the next one needs, and of
/// those of the last the archive.
///
/// # Errors
/// As [`compress`](crate::compress); `InvalidArgument` if the split or the surveys are of other files,
/// settings or another version. Nothing is left at `output`.
pub fn compress_part(
    ft: &Path,
    base: &Path,
    output: &Path,
    part: &PartOptions,
    options: &CompressOptions,
    observer: &dyn Observer,
) -> Result<PartReport> {
    let started = Instant::now();
    let mut opened = open(ft, base, output, part, options, observer)?;
    let mut writer = PartWriter::create(output, options.force, &opened.head)?;
    let kept = begin(&mut opened, Some(&mut writer))?;
    let measured = work(&opened, &kept, &mut writer, observer)?;
    let Opened { inputs, head, .. } = &opened;
    if head.encodes() {
        end(inputs, &mut writer, measured, head.part == head.of)?;
    }
    inputs.check_unchanged()?;
    let report = report(&opened, started);
    Ok(PartReport { part_bytes: writer.commit()?, ..report })
}

/// What [`compress_part`] would do: the pair, the options, the split and all that the surveys say is checked, and
/// nothing is written. How small the share gets is not known before, so bytes are what they are at most.
///
/// # Errors
/// As [`compress_part`].
pub fn compress_part_dry_run(
    ft: &Path,
    base: &Path,
    output: &Path,
    part: &PartOptions,
    options: &CompressOptions,
    observer: &dyn Observer,
) -> Result<PartReport> {
    let started = Instant::now();
    let mut opened = open(ft, base, output, part, options, observer)?;
    PartWriter::refuse_existing(output, options.force)?;
    // Before the long part, as in a real run.
    space(output, 0)?;
    let kept = begin(&mut opened, None)?;
    let Opened { inputs, options, task, .. } = &opened;
    let (units, earlier) = (task.units(inputs, options), TraceNorms::new());
    check_memory(inputs, options, &run(&opened, &units, &earlier, &kept))?;
    inputs.check_unchanged()?;
    let part_bytes = most_bytes(inputs, options, task, part)?;
    let run = Some(space(output, part_bytes)?).into();
    Ok(PartReport { part_bytes, run, ..report(&opened, started) })
}

/// What a part is made of, once all was looked at that is there before.
struct Opened {
    inputs: Inputs,
    /// With what was settled when the split was made.
    options: CompressOptions,
    head: PartHead,
    task: Task,
    /// What the round before found; taken when it is read.
    surveys: Option<PartReader>,
}

/// Opens the pair, and says which round of which share the part is.
fn open(
    ft: &Path,
    base: &Path,
    output: &Path,
    part: &PartOptions,
    options: &CompressOptions,
    observer: &dyn Observer,
) -> Result<Opened> {
    check(options)?;
    let inputs = Inputs::open(ft, base, options)?;
    inputs.refuse_alias(output)?;
    let options = settle_as(&inputs, options, part.split.settled.as_ref(), observer)?;
    let mut head = check_split(&inputs, &options, part)?;
    let surveys = part.surveys.as_deref().map(PartReader::open).transpose()?;
    if let Some(surveys) = &surveys {
        check_surveys(surveys, &head)?;
        head.round = surveys.head().round + 1;
    }
    let share = shares(&inputs, &options, head.of).swap_remove(part.part as usize - 1);
    let task = Task { share, round: head.round as usize - 1 };
    Ok(Opened { inputs, options, head, task, surveys })
}

fn report(opened: &Opened, started: Instant) -> PartReport {
    let Opened { inputs, options, head, task, .. } = opened;
    let tensors = &inputs.ft.tensors()[task.share.clone()];
    PartReport {
        variant: inputs.name.clone(),
        method: options.method.name(),
        part: head.part,
        parts: head.of,
        round: head.round,
        rounds: head.rounds,
        tensors: tensors.len() as u64,
        share_bytes: tensors.iter().map(|t| t.n_bytes).sum(),
        part_bytes: 0,
        peak_memory_bytes: peak_memory(),
        elapsed_seconds: started.elapsed().as_secs_f64(),
        notes: inputs.pair.notes.clone(),
        run: DryRun::default(),
    }
}

/// Says whether this part can be made of that split; returns what it will be of, in the first round.
fn check_split(inputs: &Inputs, options: &CompressOptions, part: &PartOptions) -> Result<PartHead> {
    let split = &part.split;
    let refuse = |text: String| Err(Error::invalid_argument(text));
    if !(1..=split.parts).contains(&part.part) {
        return refuse(format!(
            "part {} is out of range; the split has 1 to {}",
            part.part, split.parts
        ));
    }
    if split.tool != TOOL {
        let tool = &split.tool;
        return refuse(format!(
            "the split was made by {tool}, this is {TOOL}; all parts need one version"
        ));
    }
    let identity = identity(inputs, options, split.settled.as_ref())?;
    let rounds = joint_passes(options).len() as u32 + 1;
    if split.identity != format!("{identity:032x}") || split.rounds != rounds {
        let (method, name) = (options.method.name(), &inputs.name);
        let what = match () {
            () if split.variant != *name => format!("variant `{}`, not `{name}`", split.variant),
            () if split.method != method => format!("--method {}, not {method}", split.method),
            () if split.settings != options.settings().into_iter().collect() => {
                "other settings".to_owned()
            }
            () => "other files, another seed or other settings".to_owned(),
        };
        return refuse(format!(
            "the split is of {what}; give the files and options it was made with"
        ));
    }
    let (tool, variant, of) = (TOOL.to_owned(), inputs.name.clone(), split.parts);
    Ok(PartHead { identity, part: part.part, of, round: 1, rounds, tool, variant })
}

/// Begins the part, if one is written, and reads what earlier rounds found.
fn begin(opened: &mut Opened, mut writer: Option<&mut PartWriter>) -> Result<Kept> {
    let surveys = opened.surveys.take();
    let Opened { inputs, options, head, task, .. } = opened;
    if let Some(writer) = writer.as_mut().filter(|_| head.encodes() && head.part == 1) {
        let (kind, variant) = (Kind::Head, FIRST_VARIANT);
        let label = Label { kind, codec: 0, variant, item: 0, part: 0 };
        put_frame(writer, &mut Encoder::new()?, label, &inputs.head(options).to_bytes()?)?;
    }
    let Some(surveys) = surveys else { return Ok(Kept::default()) };
    let (context, needed) = (surveys.context(), task.needed(inputs, options));
    // What stands for a whole matrix comes behind what its tiles had.
    let most = 2 * needed.iter().map(|unit| unit.n_surveys as u64 * unit.n_tiles()).sum::<u64>();
    let surveys = surveys.surveys(most, |at, found| {
        // A later round stands on what earlier ones found too.
        match &mut writer {
            Some(writer) if task.share.contains(&(at.tensor as usize)) && !head.encodes() => {
                writer.enter(&Entry::Note(Note::Surveyed(at, found)))
            }
            _ => Ok(()),
        }
    })?;
    for unit in needed {
        let all = (0..unit.n_surveys).flat_map(|pass| (0..unit.n_tiles()).map(move |i| (pass, i)));
        if !all.into_iter().all(|(pass, i)| surveys.has(survey_at(&unit, pass, i))) {
            let name = &inputs.ft.tensors()[unit.tensor].name;
            let text = format!(
                "{context}: it lacks surveys of tensor {name}; join all parts of that round again"
            );
            return Err(Error::corrupt(text));
        }
    }
    Ok(Kept::surveyed(surveys))
}

/// Says whether these surveys are what the round before found.
fn check_surveys(surveys: &PartReader, head: &PartHead) -> Result<()> {
    let found = surveys.head();
    let is_of = [found.of, found.rounds] == [head.of, head.rounds];
    let why = match () {
        () if found.identity != head.identity || !is_of => {
            "it is of other files, settings or another split".to_owned()
        }
        () if found.encodes() => {
            format!("this is {found}, which has no surveys; join makes the archive of it")
        }
        () if found.part != 0 => format!("this is {found}; join all parts of the round first"),
        () => return Ok(()),
    };
    Err(Error::invalid_argument(format!("{}: {why}", surveys.context())))
}

/// Surveys or encodes the share. Returns what was measured of the whole model.
fn work(
    opened: &Opened,
    kept: &Kept,
    writer: &mut PartWriter,
    observer: &dyn Observer,
) -> Result<Measured> {
    let Opened { inputs, options, task, .. } = opened;
    let (units, earlier) = (task.units(inputs, options), TraceNorms::new());
    let run = run(opened, &units, &earlier, kept);
    let log = PartLog::new(writer, run.ends_with.is_some());
    let measured = encode_tiles(inputs, &log, options, &run, observer)?.measured;
    // Who wished to stop at the last tile, too.
    observer.check()?;
    Ok(measured)
}

fn run<'a>(opened: &Opened, units: &'a [Unit], earlier: &'a TraceNorms, kept: &'a Kept) -> Run<'a> {
    let Opened { options, task, .. } = opened;
    let run = Run::new(units, FIRST_VARIANT, earlier, options.seed);
    Run { kept: Some(kept), ends_with: task.ends_with(options), ..run }
}

fn put_frame(
    writer: &mut PartWriter,
    encoder: &mut Encoder,
    label: Label,
    raw: &[u8],
) -> Result<Place> {
    let mut frame = Vec::new();
    encoder.encode(label, raw, &mut frame)?;
    writer.enter_frame(&Entry::Frame(frame.len() as u32), &frame)?;
    // Its place in the archive is not known yet.
    Ok(Place { offset: 0, len: frame.len() as u64 })
}

/// What comes behind the tiles: in the last part the side files, and what was measured.
fn end(inputs: &Inputs, writer: &mut PartWriter, measured: Measured, is_last: bool) -> Result<()> {
    if is_last {
        let mut encoder = Encoder::new()?;
        let put = |label: Label, piece: &[u8]| put_frame(writer, &mut encoder, label, piece);
        let blobs = put_side_files(inputs, FIRST_VARIANT, put)?;
        blobs.iter().try_for_each(|blob| writer.enter(&Entry::SideFile(blob.hash)))?;
    }
    writer.enter(&Entry::Measured(measured))
}
