//! The parallel part of compressing: one tile in, its statistics or its frame out.

use std::sync::Arc;

use crossbeam::channel::{Sender, unbounded};
use crossbeam::queue::SegQueue;

use crate::archive::Origin;
use crate::checkpoint::{Checkpoint, Window};
use crate::codec::delta::DeltaTile;
use crate::codec::{self, Operand, Scratch, Target};
use crate::error::{Error, Result, ResultExt};
use crate::frame::{Encoder, Kind, Label};
use crate::kernel::{convert, quantise};
use crate::method::{LossyMethod, MatrixPlan, Method, TileAt, lossless};
use crate::pair::Pair;
use crate::pipeline::identity::mask_place;
use crate::pipeline::inputs::Inputs;
use crate::pipeline::options::{CompressOptions, Observer};
use crate::pipeline::ordered::run_ordered;
use crate::pipeline::schedule::{Block, Job, Merged, TileReader, Unit};
use crate::survey::TileStats;

/// Elements whose error is summed at a time, so that the differences stay in cache.
const ERROR_STEP: usize = 16 << 10;

/// What all workers share.
struct EncodeStage<'a> {
    pub(crate) ft: &'a Checkpoint,
    pub(crate) pair: &'a Pair,
    pub(crate) units: &'a [Unit],
    pub(crate) method: &'a Method,
    /// Seed of what the method draws.
    seed: u64,
    /// Id the frames carry.
    pub(crate) variant: u32,
    /// Buffers that the sink has emptied.
    pub(crate) spare: SegQueue<Vec<u8>>,
}

/// What one worker reuses.
struct EncodeState {
    encoder: Encoder,
    scratch: Scratch,
    payload: Vec<u8>,
}

impl EncodeState {
    pub(crate) fn new() -> Result<Self> {
        Ok(Self { encoder: Encoder::new()?, scratch: Scratch::default(), payload: Vec::new() })
    }
}

/// A tile that was worked on.
struct Worked {
    pub(crate) block: Block,
    /// Bytes of the fine-tune in it.
    pub(crate) n_bytes: u64,
    pub(crate) result: Outcome,
}

/// A survey's result, or a finished frame.
enum Outcome {
    Surveyed(TileStats),
    Encoded(EncodedTile),
}

/// A tile ready to be written.
pub(crate) struct EncodedTile {
    /// Number in the tensor.
    pub(crate) part: u64,
    pub(crate) frame: Vec<u8>,
    pub(crate) base: Option<Window>,
    pub(crate) restored: Restored,
    /// Sums of squares of what was lost and of the delta.
    pub(crate) squared_error: f64,
    pub(crate) squared_delta: f64,
}

/// The bytes the tile restores to.
pub(crate) enum Restored {
    /// The fine-tune's own.
    Exact(Window),
    Lossy(Vec<u8>),
}

impl Restored {
    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Restored::Exact(window) => window,
            Restored::Lossy(bytes) => bytes,
        }
    }
}

impl EncodeStage<'_> {
    /// Works on one tile.
    pub(crate) fn work(&self, state: &mut EncodeState, job: Job) -> Result<Worked> {
        let tensor = self.units[job.block.unit].tensor;
        let name = &self.ft.tensors()[tensor].name;
        let (block, n_bytes) = (job.block, job.ft.len() as u64);
        let result = match self.method.lossy().filter(|_| self.pair.items[tensor].item.lossy) {
            Some(method) => self.work_lossy(method, state, job, tensor),
            None => self.encode_exact(state, job, tensor).map(Outcome::Encoded),
        };
        Ok(Worked { block, n_bytes, result: result.context(|| format!("tensor {name}"))? })
    }

    fn label(&self, tensor: usize, part: u64, codec: u16) -> Label {
        let kind = Kind::Tile;
        Label { kind, codec, variant: self.variant, item: tensor as u32, part: part as u32 }
    }

    fn spare(&self) -> Vec<u8> {
        let mut buffer = self.spare.pop().unwrap_or_default();
        buffer.clear();
        buffer
    }

    fn encode_exact(
        &self,
        state: &mut EncodeState,
        job: Job,
        tensor: usize,
    ) -> Result<EncodedTile> {
        let tile = Operand { dtype: self.ft.tensors()[tensor].dtype, bytes: &job.ft };
        let base = self.base_operand(&job, tensor);
        let mut frame = self.spare();
        let label = self.label(tensor, job.part, 0);
        lossless::encode(tile, base, label, &mut state.encoder, &mut state.scratch, &mut frame)?;
        Ok(EncodedTile {
            part: job.part,
            frame,
            base: job.base,
            restored: Restored::Exact(job.ft),
            squared_error: 0.0,
            squared_delta: 0.0,
        })
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
        let surveys = job.block.pass < self.units[job.block.unit].n_surveys;
        if surveys && job.plan.is_exact(job.tile_idx) {
            return Ok(Outcome::Surveyed(TileStats::NonFinite));
        }
        let t = &self.ft.tensors()[tensor];
        let base = self
            .base_operand(&job, tensor)
            .ok_or_else(|| Error::invalid_argument("a lossy tensor needs a base"))?;
        let (n_rows, n_cols) = (job.tile.n_rows, job.tile.n_cols);
        let ft = Operand { dtype: t.dtype, bytes: &job.ft };
        let place = mask_place(self.seed, &t.name, job.tile.first / n_cols as u64);
        let delta = DeltaTile { ft, base, n_rows, n_cols };
        let at = TileAt { plan: &job.plan, tile_idx: job.tile_idx, delta, place };
        if surveys {
            return Ok(Outcome::Surveyed(method.survey(job.block.pass, &at, &mut state.scratch)));
        }
        state.payload.clear();
        let exact = job.plan.is_exact(job.tile_idx);
        let encode = || method.encode(&at, &mut state.scratch, &mut state.payload);
        let Some(codec) = (!exact).then(encode).flatten() else {
            return self.encode_exact(state, job, tensor).map(Outcome::Encoded);
        };
        let patch = usize::from(self.pair.items[tensor].item.patch);
        let target = Target { dtype: t.dtype, n_rows, n_cols, patch, place };
        let label = self.label(tensor, job.part, codec as u16);
        self.finish_lossy(state, job, label, &target).map(Outcome::Encoded)
    }

    /// Frames the payload and decodes it: what a restore will give is hashed now, so that every
    /// later restore can be held to it.
    fn finish_lossy(
        &self,
        state: &mut EncodeState,
        job: Job,
        label: Label,
        target: &Target,
    ) -> Result<EncodedTile> {
        let mut frame = self.spare();
        state.encoder.encode(label, &state.payload, &mut frame)?;
        let mut restored = self.spare();
        restored.resize(job.ft.len(), 0);
        let (scratch, base) = (&mut state.scratch, self.base_operand(&job, label.item as usize));
        let codec = codec::by_code(label.codec)?;
        codec.decode(&state.payload, target, base, scratch, &mut restored)?;
        let ft = Operand { dtype: target.dtype, bytes: &job.ft };
        let lossy = Operand { dtype: target.dtype, bytes: &restored };
        let squared_error = squared_difference(ft, lossy, scratch);
        let squared_delta = base.map_or(0.0, |base| squared_difference(ft, base, scratch));
        Ok(EncodedTile {
            part: job.part,
            frame,
            restored: Restored::Lossy(restored),
            squared_error,
            squared_delta,
            base: job.base,
        })
    }
}

/// Sum of squares of `a - b`, in steps of a fixed size so that it never depends on the machine.
fn squared_difference(a: Operand<'_>, b: Operand<'_>, scratch: &mut Scratch) -> f64 {
    let (a_width, b_width) = (a.dtype.bits() / 8, b.dtype.bits() / 8);
    let parts = a.bytes.chunks(ERROR_STEP * a_width).zip(b.bytes.chunks(ERROR_STEP * b_width));
    parts
        .map(|(x, y)| {
            scratch.strip.resize(x.len() / a_width, 0.0);
            convert::subtract((a.dtype, x), (b.dtype, y), &mut scratch.strip);
            quantise::sum_squares(&scratch.strip)
        })
        .sum()
}

/// Surveys and encodes units, and hands each encoded tile to `sink` in order, with its tensor; the
/// sink returns the buffers it has emptied.
///
/// # Errors
/// `Interrupted`; whatever a tile or the sink says.
pub(crate) fn encode_units(
    inputs: &Inputs,
    options: &CompressOptions,
    units: &[Unit],
    variant: u32,
    observer: &dyn Observer,
    mut sink: impl FnMut(usize, EncodedTile) -> Result<Vec<Vec<u8>>>,
) -> Result<()> {
    let width = inputs.needs().width(options.resources.max_memory, options.resources.threads)?;
    let (ft, pair) = (&inputs.ft, &inputs.pair);
    let (method, seed) = (&options.method, options.seed);
    let stage = &EncodeStage { ft, pair, units, method, seed, variant, spare: SegQueue::new() };
    let (merged_tx, merged_rx) = unbounded();
    let sides = [(ft, &inputs.ft_source), (&inputs.base, &inputs.base_source)];
    let mut reader = TileReader::new(sides[0], sides[1], pair, units, merged_rx);
    let mut merger = Merger::new(stage, merged_tx);
    let total = units.iter().map(|u| unit_bytes(inputs, u)).sum();
    let mut done = 0;
    run_ordered(
        width,
        || reader.next(),
        EncodeState::new,
        |state, job| stage.work(state, job),
        move |worked| {
            if observer.is_cancelled() {
                return Err(Error::interrupted());
            }
            done += worked.n_bytes;
            observer.progress(done, total);
            match worked.result {
                Outcome::Surveyed(stats) => merger.add(worked.block, stats),
                Outcome::Encoded(tile) => {
                    let spare = sink(units[worked.block.unit].tensor, tile)?;
                    spare.into_iter().for_each(|buffer| stage.spare.push(buffer));
                }
            }
            Ok(())
        },
    )
}

/// Bytes of the fine-tune that all passes over a unit read.
fn unit_bytes(inputs: &Inputs, unit: &Unit) -> u64 {
    let lane = inputs.ft.tensors()[unit.tensor].dtype.lane_bytes() as u64;
    let tiling = &inputs.pair.items[unit.tensor].tiling;
    let elements: u64 = unit.tiles.clone().map(|i| tiling.get(i).n_elements() as u64).sum();
    elements * lane * (unit.n_surveys as u64 + 1)
}

/// Gathers what surveys find and gives the merged plans to the reader.
struct Merger<'a> {
    stage: &'a EncodeStage<'a>,
    stats: Vec<TileStats>,
    /// Plan of the unit whose passes are under way, by unit.
    plans: std::collections::HashMap<usize, Arc<MatrixPlan>>,
    merged: Sender<Merged>,
}

impl<'a> Merger<'a> {
    pub(crate) fn new(stage: &'a EncodeStage<'a>, merged: Sender<Merged>) -> Self {
        Self { stage, stats: Vec::new(), plans: std::collections::HashMap::new(), merged }
    }

    /// Adds one tile's result; after the last tile of a pass the plan goes to the reader.
    pub(crate) fn add(&mut self, block: Block, stats: TileStats) {
        let unit = &self.stage.units[block.unit];
        self.stats.push(stats);
        if (self.stats.len() as u64) < unit.tiles.end - unit.tiles.start {
            return;
        }
        let tiling = &self.stage.pair.items[unit.tensor].tiling;
        let n_elements = unit.tiles.clone().map(|i| tiling.get(i).n_elements() as u64).sum();
        let Some(method) = self.stage.method.lossy() else {
            return;
        };
        let before = self.plans.remove(&block.unit).unwrap_or_default();
        let exact = match block.pass {
            0 => self.stats.iter().map(|s| *s == TileStats::NonFinite).collect(),
            _ => before.exact.clone(),
        };
        let decided = method.merge(block.pass, &before.decided, n_elements, &self.stats);
        let plan = Arc::new(MatrixPlan { exact, decided });
        self.stats.clear();
        let passes = block.pass + 1;
        if passes < unit.n_surveys {
            self.plans.insert(block.unit, Arc::clone(&plan));
        }
        // A reader that is gone has failed, which the run will say.
        let _ = self.merged.send((block.unit, passes, plan));
    }
}
