//! The parallel part of compressing: one tile in, its statistics or its frame out.

mod collect;
mod kept;
mod memory;
mod tile;

use crossbeam::channel::unbounded;

use crate::archive::{Kept, Origin, SurveyAt, TakesTiles};
use crate::checkpoint::Checkpoint;
use crate::codec::delta::DeltaTile;
use crate::codec::{self, CodecId, Operand, Scratch, Target};
use crate::error::{Error, Result, ResultExt};
use crate::frame::{Decoder, Encoder, Kind, Label};
use crate::kernel::convert;
use crate::method::dbms::Fit;
use crate::method::{LossyMethod, Method, TileAt, TraceNorms, lossless};
use crate::pair::Pair;
use crate::pipeline::calibration::{Calibration, output_sums};
use crate::pipeline::encode::collect::{Collector, Outcome, Worked, encoded};
pub(crate) use crate::pipeline::encode::memory::check_memory;
use crate::pipeline::encode::memory::needs;
pub(crate) use crate::pipeline::encode::tile::{EncodedTile, Restored};
use crate::pipeline::identity::mask_place;
use crate::pipeline::inputs::Inputs;
use crate::pipeline::known::{Known, survey_at};
use crate::pipeline::merge::{Findings, Merger};
use crate::pipeline::options::{CompressOptions, Observer};
use crate::pipeline::ordered::run_beside;
use crate::pipeline::passes::{bytes_read, make_room};
use crate::pipeline::read_ahead::read_ahead;
use crate::pipeline::schedule::{Job, Step, TileReader, Unit};
use crate::pipeline::spares::Spares;
use crate::pipeline::stored_delta::{DeltaState, Sides};
use crate::survey::TileStats;
use crate::tensor::DType;

/// Elements whose error is summed at a time, so that the differences stay in cache.
const ERROR_STEP: usize = 16 << 10;

/// What all workers share.
struct EncodeStage<'a> {
    pub(crate) ft: &'a Checkpoint,
    pub(crate) pair: &'a Pair,
    pub(crate) method: &'a Method,
    pub(crate) run: Run<'a>,
    calibration: Option<&'a Calibration>,
    known: Known<'a>,
    spares: Spares,
}

/// What one worker reuses.
struct EncodeState {
    encoder: Encoder,
    /// Made for the first frame of an earlier run.
    decoder: Option<Decoder>,
    scratch: Scratch,
    payload: Vec<u8>,
    delta: DeltaState,
}

impl EncodeState {
    pub(crate) fn new() -> Result<Self> {
        let (scratch, payload, delta) = (Scratch::default(), Vec::new(), DeltaState::default());
        Ok(Self { encoder: Encoder::new()?, decoder: None, scratch, payload, delta })
    }
}

impl EncodeStage<'_> {
    /// Works on one tile.
    pub(crate) fn work(&self, state: &mut EncodeState, step: Step) -> Result<Worked> {
        let job = match step {
            Step::Tile(job) => job,
            Step::Known(block, n_bytes, stats) => {
                let (tile_idx, result) = (0, Outcome::Known(stats));
                return Ok(Worked { block, tile_idx, n_bytes, result });
            }
        };
        let unit = &self.run.units[job.block.unit];
        let tensor = unit.tensor;
        let name = &self.ft.tensors()[tensor].name;
        let (block, tile_idx, n_bytes) = (job.block, job.tile_idx as u64, job.ft.len() as u64);
        let encodes = block.pass == unit.n_surveys;
        let kept = self.known.tile(tensor, job.part).filter(|_| encodes);
        #[cfg(feature = "fault-injection")]
        if kept.is_none() {
            crate::checkpoint::faults::work(job.tile.n_elements());
        }
        let lossy = self.method.lossy().filter(|_| self.pair.items[tensor].item.lossy);
        let result = match (kept, lossy) {
            (Some(kept), _) => self.keep(state, job, tensor, kept).map(encoded),
            (_, Some(method)) => self.work_lossy(method, state, job, tensor),
            _ => self.encode_exact(state, job, tensor).map(encoded),
        };
        let result = result.context(|| format!("tensor {name}"))?;
        let worked = Worked { block, tile_idx, n_bytes, result };
        self.save(&worked)?;
        Ok(worked)
    }

    /// Writes down what came of a tile, so that a run which is cut off from here on need not work on it again.
    fn save(&self, worked: &Worked) -> Result<()> {
        let unit = &self.run.units[worked.block.unit];
        match &worked.result {
            Outcome::Surveyed(stats) => {
                self.run.save_survey(survey_at(unit, worked.block.pass, worked.tile_idx), stats)
            }
            Outcome::Encoded(tile) if tile.kept.is_none() => {
                let note = || tile.note(unit.tensor);
                self.run.notes().map_or(Ok(()), |log| log.encoded(note(), &tile.frame))
            }
            _ => Ok(()),
        }
    }

    fn label(&self, tensor: usize, part: u64, codec: u16) -> Label {
        let kind = Kind::Tile;
        let item = self.run.items.map_or(tensor as u32, |items| items[tensor]);
        Label { kind, codec, variant: self.run.variant, item, part: part as u32 }
    }

    fn encode_exact(
        &self,
        state: &mut EncodeState,
        job: Job,
        tensor: usize,
    ) -> Result<EncodedTile> {
        let tile = Operand { dtype: self.ft.tensors()[tensor].dtype, bytes: &job.ft };
        let base = self.base_operand(&job, tensor);
        let mut frame = self.spares.frame();
        let label = self.label(tensor, job.part, 0);
        lossless::encode(tile, base, label, &mut state.encoder, &mut state.scratch, &mut frame)?;
        Ok(EncodedTile::exact(job, frame))
    }

    fn recycle(&self, tile: EncodedTile) {
        self.spares.give_frame(tile.frame);
        if let Restored::Lossy(bytes) = tile.restored {
            self.spares.give_tile(bytes);
        }
    }

    fn base_operand<'j>(&self, job: &'j Job, tensor: usize) -> Option<Operand<'j>> {
        match (self.pair.items[tensor].item.origin, &job.base) {
            (Origin::Base { dtype, .. }, Some(bytes)) => Some(Operand { dtype, bytes }),
            _ => None,
        }
    }

    fn work_lossy(
        &self,
        method: &dyn LossyMethod,
        state: &mut EncodeState,
        job: Job,
        tensor: usize,
    ) -> Result<Outcome> {
        let surveys = job.block.pass < self.run.units[job.block.unit].n_surveys;
        if surveys && job.plan.is_exact(job.tile_idx) {
            return Ok(Outcome::Surveyed(TileStats::NonFinite));
        }
        let t = &self.ft.tensors()[tensor];
        let base = self
            .base_operand(&job, tensor)
            .ok_or_else(|| Error::invalid_argument("a lossy tensor needs a base"))?;
        let ft = Operand { dtype: t.dtype, bytes: &job.ft };
        let sides = (ft, base);
        let (ft, base) = self.run.sides.of(&t.name, &job.tile, sides, &mut state.delta)?;
        let (n_rows, n_cols) = (job.tile.n_rows, job.tile.n_cols);
        let place = mask_place(self.run.seed, &t.name, job.tile.first / n_cols as u64);
        let delta = DeltaTile { ft, base, n_rows, n_cols };
        let (plan, tile_idx) = (&*job.plan, job.tile_idx);
        let at = TileAt { plan, tensor: &t.name, tile_idx, delta, place };
        if surveys {
            return Ok(Outcome::Surveyed(method.survey(job.block.pass, &at, &mut state.scratch)));
        }
        state.payload.clear();
        let exact = job.plan.is_exact(job.tile_idx);
        let encode = || method.encode(&at, &mut state.scratch, &mut state.payload);
        let Some(codec) = (!exact).then(encode).flatten() else {
            let is_equal = job.base.as_deref() == Some(&*job.ft);
            let kept_elements = if is_equal { 0 } else { (n_rows * n_cols) as u64 };
            let tile = self.encode_exact(state, job, tensor)?;
            return Ok(encoded(EncodedTile { kept_elements, ..tile }));
        };
        let patch = usize::from(self.pair.items[tensor].item.patch);
        // Rounded to a narrow dtype, what is to be fitted would drown in the rounding.
        let dtype = if self.run.fits { DType::F32 } else { t.dtype };
        let target = Target { dtype, n_rows, n_cols, patch, place, gain: self.run.gain };
        let label = self.label(tensor, job.part, codec as u16);
        let EncodeState { encoder, scratch, payload, .. } = state;
        let lossy = Lossy { target, tensor, delta, sides };
        let tile = self.finish_lossy(encoder, scratch, payload, label, &lossy)?;
        Ok(encoded(EncodedTile { base: job.base, ..tile }))
    }

    /// Frames the payload and decodes it: what a restore will give is hashed now, so that every
    /// later restore can be held to it. What the codec still has of the payload is not read again.
    fn finish_lossy(
        &self,
        encoder: &mut Encoder,
        scratch: &mut Scratch,
        payload: &[u8],
        label: Label,
        lossy: &Lossy<'_>,
    ) -> Result<EncodedTile> {
        let &Lossy { target, sides, .. } = lossy;
        let DeltaTile { ft, base, .. } = lossy.delta;
        let mut frame = self.spares.frame();
        // Planes have statistics of their own.
        let is_planes = label.codec == CodecId::Planes as u16;
        let piece = if is_planes { target.n_elements() } else { 0 };
        encoder.encode_pieces(label, payload, piece, &mut frame)?;
        let mut restored = self.spares.tile(target.n_bytes());
        let codec = codec::by_code(label.codec)?;
        codec.decode_encoded(payload, &target, Some(base), scratch, &mut restored)?;
        let decoded = Operand { dtype: target.dtype, bytes: &restored };
        let (output_sums, fit) = match (self.run.fits, self.run.items) {
            (true, _) => ((0.0, 0.0), self.fit(lossy, decoded, scratch)?),
            // Of a fine-tune, not of a vector.
            (_, None) => {
                let delta = DeltaTile { ft: sides.0, base: sides.1, ..lossy.delta };
                let sums = output_sums(self.calibration, lossy.tensor, delta, decoded, scratch)?;
                (sums, Fit::default())
            }
            _ => Default::default(),
        };
        let [squared_error, squared_delta] = squared_differences([(ft, decoded), sides]);
        Ok(EncodedTile {
            part: u64::from(label.part),
            frame,
            kept: None,
            restored: Restored::Lossy(restored),
            squared_error,
            squared_delta,
            output_sums,
            fit,
            base: None,
            kept_elements: 0,
        })
    }
}

impl EncodeStage<'_> {
    /// How a tile fits what it decodes to: at the layer's output where there are statistics, which
    /// tensors without then have no part in.
    fn fit(&self, lossy: &Lossy<'_>, decoded: Operand<'_>, scratch: &mut Scratch) -> Result<Fit> {
        let DeltaTile { ft, base, .. } = lossy.delta;
        let mut sum = |a, b| match self.calibration {
            Some(calibration) => {
                let difference = DeltaTile { ft: a, base: b, ..lossy.delta };
                calibration.output_error(lossy.tensor, &difference, scratch)
            }
            None => Ok(squared_differences([(a, b)])[0]),
        };
        Ok(Fit { delta: sum(ft, base)?, decoded: sum(decoded, base)?, error: sum(ft, decoded)? })
    }
}

/// A tile that is stored with loss, once it is encoded.
struct Lossy<'a> {
    target: Target,
    tensor: usize,
    /// What was encoded.
    delta: DeltaTile<'a>,
    /// Fine-tune and base as they are.
    sides: (Operand<'a>, Operand<'a>),
}

/// Sums of squares of `a - b` for each pair, in steps of a fixed size: the pairs share operands, which so
/// stay in cache, and a sum never depends on the machine.
fn squared_differences<const N: usize>(pairs: [(Operand<'_>, Operand<'_>); N]) -> [f64; N] {
    let n = pairs.iter().map(|(a, _)| a.bytes.len() * 8 / a.dtype.bits()).max().unwrap_or(0);
    let mut sums = [0.0; N];
    for start in (0..n).step_by(ERROR_STEP) {
        let step = start..n.min(start + ERROR_STEP);
        for (sum, (a, b)) in sums.iter_mut().zip(&pairs) {
            *sum += convert::squared_difference(a.part(&step), b.part(&step));
        }
    }
    sums
}

/// What is encoded, and into what.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Run<'a> {
    pub(crate) units: &'a [Unit],
    /// Id the frames carry.
    pub(crate) variant: u32,
    /// What the archive's variants measured.
    pub(crate) earlier: &'a TraceNorms,
    /// Seed of what the method draws.
    pub(crate) seed: u64,
    /// Numbers that tensors have in the variant, where these are not their own.
    pub(crate) items: Option<&'a [u32]>,
    /// What the delta is taken between.
    pub(crate) sides: Sides<'a>,
    /// What a lossy delta is multiplied by when it is decoded.
    pub(crate) gain: f32,
    /// Whether tiles measure how a gain would fit; they are then no frames to keep.
    pub(crate) fits: bool,
    /// What an earlier run did of it.
    pub(crate) kept: Option<&'a Kept>,
    /// Where workers write what they finish, if it is to be kept.
    pub(crate) log: Option<&'a dyn TakesTiles>,
    /// The joint pass that it ends with: what is decided then waits for what other parts find.
    pub(crate) ends_with: Option<usize>,
    /// What an observer hears that it is for, instead of the passes.
    pub(crate) stage: Option<&'static str>,
}

impl<'a> Run<'a> {
    /// A run that stores these units as they are.
    pub(crate) fn new(units: &'a [Unit], variant: u32, earlier: &'a TraceNorms, seed: u64) -> Self {
        let (items, sides, gain, fits) = (None, Sides::AsTheyAre, 1.0, false);
        let (kept, log, ends_with, stage) = (None, None, None, None);
        Self {
            units,
            variant,
            earlier,
            seed,
            items,
            sides,
            gain,
            fits,
            kept,
            log,
            ends_with,
            stage,
        }
    }

    /// Where to write things down, if notes are taken.
    fn notes(&self) -> Option<&'a dyn TakesTiles> {
        self.log.filter(|log| log.takes_notes())
    }

    /// Writes down what a survey found, if notes are taken.
    fn save_survey(&self, at: SurveyAt, stats: &TileStats) -> Result<()> {
        let Some(log) = self.notes() else { return Ok(()) };
        stats.to_bytes()?.map_or(Ok(()), |found| log.surveyed(at, &found))
    }
}

/// Surveys and encodes units, and hands each encoded tile, with the position of its tensor, to `sink` in order.
/// Returns what the method found about the whole model.
///
/// # Errors
/// `Interrupted`; whatever a tile or the sink says.
pub(crate) fn encode_units(
    inputs: &Inputs,
    options: &CompressOptions,
    run: &Run<'_>,
    observer: &dyn Observer,
    sink: impl FnMut(usize, &EncodedTile) -> Result<()>,
) -> Result<Findings> {
    let units = run.units;
    let (ft, pair) = (&inputs.ft, &inputs.pair);
    let (method, calibration) = (&options.method, inputs.calibration.as_ref());
    let lossy = method.lossy();
    let known = Known::new(run.kept, lossy, pair);
    let needs = needs(inputs, method, run);
    let width = needs.width(options.resources.max_memory, options.resources.threads)?;
    let spares = Spares::default();
    let stage = &EncodeStage { ft, pair, method, calibration, run: *run, known, spares };
    let (merged_tx, merged_rx) = unbounded();
    let sides = [(ft, &inputs.ft_source), (&inputs.base, &inputs.base_source)];
    let joint = lossy.map_or(&[][..], |m| m.joint_passes());
    let spare = needs.spare(options.resources.max_memory, width);
    let has_room = make_room(inputs, units, joint, spare);
    let (ahead, fetches) = read_ahead(&[sides[0].1, sides[1].1], has_room);
    let channels = (ahead, merged_rx);
    let mut reader = TileReader::new(sides[0], sides[1], pair, (units, joint), known, channels);
    let mut findings = Findings::default();
    let merger = lossy.map(|m| Merger::new(m, run, pair, merged_tx, &mut findings));
    let total = units.iter().map(|u| bytes_read(inputs, u, joint)).sum();
    let recycle = |tile| stage.recycle(tile);
    run.stage.into_iter().for_each(|name| observer.stage(name));
    let (run, done, told) = (*run, 0, None);
    let mut collector = Collector { run, observer, merger, sink, recycle, done, total, told };
    run_beside(
        width,
        (fetches.n_threads(), &|| fetches.run()),
        move || reader.next(),
        EncodeState::new,
        |state, step| stage.work(state, step),
        move |worked| collector.add(worked),
    )?;
    Ok(findings)
}
