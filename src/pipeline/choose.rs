//! Settings that are chosen by trial on a sample of the input before anything is stored.
//!
//! DeltaDQ's group (arXiv 2410.08666): the paper chooses the size by trial on the task or by a cheap
//! proxy, an attention error of early layers. Here the error at the outputs of all layers that have
//! statistics stands in for it: of each such tensor a strip of rows is encoded and decoded with every
//! candidate, under the masks that the encode will draw there, and the candidate with the least sum
//! of tr(E M E^T) is taken for the whole model. The range of a strip's survivors stands for its
//! matrix's.

use crate::codec::delta::DeltaTile;
use crate::codec::{self, Operand, Scratch, Target};
use crate::error::{Error, Result, ResultExt};
use crate::method::{Auto, DeltaDq, LossyMethod, MatrixPlan, Method, TileAt};
use crate::pipeline::calibration::Calibration;
use crate::pipeline::identity::mask_place;
use crate::pipeline::inputs::Inputs;
use crate::pipeline::options::{CompressOptions, Observer};
use crate::pipeline::ordered::run_ordered;
use crate::pipeline::size;
use crate::pipeline::stored_delta::Sides;
use crate::pipeline::strip::Strip;
use crate::report::Settled;
use crate::survey::TileStats;

/// All trials of a large matrix together encode one row in so many.
const SHARE: u64 = 4;

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
    if let Method::Auto(method) = &options.method {
        settled.method = Method::Auto(size::settle(inputs, method, options, observer)?);
    }
    Ok(settled)
}

/// What [`settle`] decided that the options did not say, for runs that are to go on from it.
pub(crate) fn settled_values(
    typed: &CompressOptions,
    settled: &CompressOptions,
) -> Option<Settled> {
    match (&typed.method, &settled.method) {
        (Method::DeltaDq(before), Method::DeltaDq(method)) if before.group.is_none() => {
            method.group.map(Settled::Group)
        }
        (_, Method::Auto(Auto { plan: None, settled: Some(found), .. })) => {
            let (bits, noise_level) = (found.bits.to_string(), found.level.to_string());
            Some(Settled::Auto { bits, noise_level })
        }
        _ => None,
    }
}

/// [`settle`], by what it came to elsewhere. Reads no tensor.
///
/// # Errors
/// `InvalidArgument` if that is not of this method.
pub(crate) fn settle_as(
    inputs: &Inputs,
    options: &CompressOptions,
    values: Option<&Settled>,
    observer: &dyn Observer,
) -> Result<CompressOptions> {
    let mut settled = options.clone();
    settled.method = match (&options.method, values) {
        (Method::DeltaDq(method), Some(Settled::Group(group))) => {
            Method::DeltaDq(method.with_group(Some(*group)))
        }
        (Method::Auto(method), Some(Settled::Auto { bits, noise_level })) => {
            Method::Auto(size::settle_as(method, bits, noise_level)?)
        }
        // Its rates are given.
        (Method::Auto(method), None) if method.plan.is_some() => {
            Method::Auto(size::settle(inputs, method, options, observer)?)
        }
        (Method::Auto(_), _) | (_, Some(_)) => {
            let text = "the split is not of this method; give the options it was made with";
            return Err(Error::invalid_argument(text));
        }
        (method, None) => method.clone(),
    };
    settled.method.validate()?;
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
    let share = SHARE * groups.len() as u64;
    let mut strips = tensors().filter_map(|i| Strip::read(inputs, i, share).transpose());
    let mut sums = vec![0.0; groups.len()];
    run_ordered(
        width,
        || strips.next(),
        || Ok(State::default()),
        |state, strip| trial.errors(state, &strip),
        |errors| {
            observer.check()?;
            sums.iter_mut().zip(errors).for_each(|(sum, error)| *sum += error);
            Ok(())
        },
    )?;
    let least = sums.iter().zip(&groups).min_by(|a, b| a.0.total_cmp(b.0));
    Ok(least.map_or(method.alpha, |(_, group)| *group))
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
        let delta = strip.delta();
        let DeltaTile { base, n_rows, n_cols, .. } = delta;
        let place = mask_place(self.seed, &t.name, strip.tile.first / n_cols as u64);
        let mut plan = MatrixPlan::default();
        for pass in 0..method.n_passes() {
            let at = TileAt { plan: &plan, tensor: &t.name, tile_idx: 0, delta, place };
            let stats = method.survey(pass, &at, scratch);
            // Such a tile is kept exactly, whatever the group.
            if stats == TileStats::NonFinite {
                return Ok(0.0);
            }
            let n_elements = strip.tile.n_elements() as u64;
            plan.decided = method.merge(pass, &plan.decided, n_elements, &[stats]);
        }
        payload.clear();
        let at = TileAt { plan: &plan, tensor: &t.name, tile_idx: 0, delta, place };
        let Some(codec) = method.encode(&at, scratch, payload) else { return Ok(0.0) };
        let patch = usize::from(p.item.patch);
        let target = Target { dtype: t.dtype, n_rows, n_cols, patch, place, gain: 1.0 };
        restored.clear();
        restored.resize(strip.n_bytes(), 0);
        codec::by_code(codec as u16)?.decode(payload, &target, Some(base), scratch, restored)?;
        let lossy = Operand { dtype: t.dtype, bytes: restored };
        self.calibration.output_error(strip.tensor, &DeltaTile { base: lossy, ..delta }, scratch)
    }
}
