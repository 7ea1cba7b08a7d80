//! Settings that are chosen by trial on a sample of the input before anything is stored.
//!
//! DeltaDQ's group (arXiv 2410.08666): the paper chooses the size by trial on the task or by a cheap
//! proxy, an attention error of early layers. Here the error at the outputs of all layers that have
//! statistics stands in for it: of each such tensor a strip of rows is encoded and decoded with every
//! candidate, under the masks that the encode will draw there, and the candidate with the least sum
//! of tr(E M E^T) is taken for the whole model. The range of a strip's survivors stands for its
//! matrix's.

use crate::checkpoint::Window;
use crate::codec::delta::DeltaTile;
use crate::codec::{self, Operand, Scratch, Target};
use crate::error::{Error, Result, ResultExt};
use crate::method::{DeltaDq, LossyMethod, MatrixPlan, Method, TileAt};
use crate::pipeline::calibration::Calibration;
use crate::pipeline::identity::{base_range, mask_place};
use crate::pipeline::inputs::Inputs;
use crate::pipeline::options::{CompressOptions, Observer};
use crate::pipeline::ordered::run_ordered;
use crate::pipeline::stored_delta::Sides;
use crate::survey::TileStats;
use crate::tensor::{Tile, Tiling};

/// All trials of a large matrix together encode one row in so many.
const SHARE: u64 = 4;
/// Rows of a strip, unless the matrix has fewer or so many do not fit a tile.
const LEAST_ROWS: u64 = 16;

/// The options with every setting that is left to a trial decided.
///
/// # Errors
/// `Interrupted`; `InvalidCheckpoint` for impossible statistics; `Io`.
pub(crate) fn settle(
    inputs: &Inputs,
    options: &CompressOptions,
    observer: &dyn Observer,
) -> Result<CompressOptions> {
    let mut settled = options.clone();
    if let (Method::DeltaDq(method), Some(calibration)) = (&options.method, &inputs.calibration)
        && method.group.is_none()
    {
        let group = best_group(inputs, calibration, *method, options, observer)?;
        settled.method = Method::DeltaDq(method.with_group(Some(group)));
    }
    Ok(settled)
}

fn best_group(
    inputs: &Inputs,
    calibration: &Calibration,
    method: DeltaDq,
    options: &CompressOptions,
    observer: &dyn Observer,
) -> Result<u32> {
    let tensors = || (0..inputs.pair.items.len()).filter(|i| calibration.has(*i));
    let widest = tensors().filter_map(|i| inputs.ft.tensors()[i].shape.last()).max();
    let groups = method.groups(widest.copied().unwrap_or(0));
    let trial = Trial {
        inputs,
        calibration,
        candidates: groups.iter().map(|group| method.with_group(Some(*group))).collect(),
        seed: options.seed,
    };
    let needs = inputs.needs(&options.method, &Sides::AsTheyAre);
    let width = needs.width(options.resources.max_memory, options.resources.threads)?;
    let mut strips = tensors().filter_map(|i| trial.read(i).transpose());
    let mut sums = vec![0.0; groups.len()];
    run_ordered(
        width,
        || strips.next(),
        || Ok(State::default()),
        |state, strip| trial.errors(state, &strip),
        |errors| {
            if observer.is_cancelled() {
                return Err(Error::interrupted());
            }
            sums.iter_mut().zip(errors).for_each(|(sum, error)| *sum += error);
            Ok(())
        },
    )?;
    let least = sums.iter().zip(&groups).min_by(|a, b| a.0.total_cmp(b.0));
    Ok(least.map_or(method.alpha, |(_, group)| *group))
}

/// The rows that stand for a tensor: from the middle of its middle matrix.
fn strip_of(tiling: &Tiling, n_candidates: usize) -> Option<Tile> {
    let Tiling::Matrix { n_matrices, m, n, step } = *tiling else { return None };
    let n_rows = (m / (SHARE * n_candidates as u64)).max(LEAST_ROWS).min(m).min(step);
    let matrix = n_matrices / 2;
    let first = (matrix * m + (m - n_rows) / 2) * n;
    Some(Tile { matrix, first, n_rows: n_rows as usize, n_cols: n as usize })
}

/// The rows of a tensor on both sides.
struct Strip {
    tensor: usize,
    tile: Tile,
    ft: Window,
    base: Window,
}

/// What one worker reuses.
#[derive(Default)]
struct State {
    scratch: Scratch,
    payload: Vec<u8>,
    restored: Vec<u8>,
}

/// What all strips are tried with.
struct Trial<'a> {
    inputs: &'a Inputs,
    calibration: &'a Calibration,
    candidates: Vec<DeltaDq>,
    seed: u64,
}

impl Trial<'_> {
    fn read(&self, tensor: usize) -> Result<Option<Strip>> {
        let (t, p) = (&self.inputs.ft.tensors()[tensor], &self.inputs.pair.items[tensor]);
        let Some(tile) = strip_of(&p.tiling, self.candidates.len()) else { return Ok(None) };
        let (Some(base), Some(there)) = (p.base, base_range(&p.item, t.dtype, &tile)) else {
            return Ok(None);
        };
        let b = &self.inputs.base.tensors()[base];
        let here = tile.bytes(t.dtype.lane_bytes());
        let len = |range: &std::ops::Range<u64>| (range.end - range.start) as usize;
        let ft = self.inputs.ft_source.window(t.shard, t.offset + here.start, len(&here))?;
        let source = &self.inputs.base_source;
        let base = source.window(b.shard, b.offset + there.start, len(&there))?;
        Ok(Some(Strip { tensor, tile, ft, base }))
    }

    /// The output error of one strip under every candidate.
    fn errors(&self, state: &mut State, strip: &Strip) -> Result<Vec<f64>> {
        let name = &self.inputs.ft.tensors()[strip.tensor].name;
        let all = self.candidates.iter().map(|method| self.error(state, strip, method));
        all.collect::<Result<_>>().context(|| format!("tensor {name}"))
    }

    fn error(&self, state: &mut State, strip: &Strip, method: &DeltaDq) -> Result<f64> {
        let State { scratch, payload, restored } = state;
        let t = &self.inputs.ft.tensors()[strip.tensor];
        let p = &self.inputs.pair.items[strip.tensor];
        let Some(base) = p.base.map(|b| self.inputs.base.tensors()[b].dtype) else {
            return Ok(0.0);
        };
        let base = Operand { dtype: base, bytes: &strip.base };
        let (n_rows, n_cols) = (strip.tile.n_rows, strip.tile.n_cols);
        let ft = Operand { dtype: t.dtype, bytes: &strip.ft };
        let delta = DeltaTile { ft, base, n_rows, n_cols };
        let place = mask_place(self.seed, &t.name, strip.tile.first / n_cols as u64);
        let mut plan = MatrixPlan::default();
        for pass in 0..method.n_passes() {
            let at = TileAt { plan: &plan, tile_idx: 0, delta, place };
            let stats = method.survey(pass, &at, scratch);
            // Such a tile is kept exactly, whatever the group.
            if stats == TileStats::NonFinite {
                return Ok(0.0);
            }
            let n_elements = strip.tile.n_elements() as u64;
            plan.decided = method.merge(pass, &plan.decided, n_elements, &[stats]);
        }
        payload.clear();
        let at = TileAt { plan: &plan, tile_idx: 0, delta, place };
        let Some(codec) = method.encode(&at, scratch, payload) else { return Ok(0.0) };
        let patch = usize::from(p.item.patch);
        let target = Target { dtype: t.dtype, n_rows, n_cols, patch, place, gain: 1.0 };
        restored.clear();
        restored.resize(strip.ft.len(), 0);
        codec::by_code(codec as u16)?.decode(payload, &target, Some(base), scratch, restored)?;
        let lossy = Operand { dtype: t.dtype, bytes: restored };
        self.calibration.output_error(strip.tensor, &DeltaTile { base: lossy, ..delta }, scratch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_strip_lies_in_the_middle_and_never_outgrows_a_tile() {
        for (shape, n_candidates, rows) in [
            // One in four over ten candidates, in the second of three matrices.
            (vec![3, 4000, 64], 10, 4000 + 1950..4000 + 2050),
            (vec![100, 64], 10, 42..58),
            (vec![5, 64], 10, 0..5),
            // A tile has one row of these.
            (vec![9, 1 << 20], 10, 4..5),
        ] {
            let tiling = Tiling::matrix(&shape, 2, 1).unwrap();
            let strip = strip_of(&tiling, n_candidates).unwrap();
            let n = strip.n_cols as u64;
            assert_eq!(
                strip.first..strip.first + strip.n_elements() as u64,
                rows.start * n..rows.end * n
            );
            assert!(strip.n_elements() as u64 <= tiling.max_elements());
        }
        assert!(strip_of(&Tiling::flat(9, 4, 9), 1).is_none());
    }
}
