//! `plan`: what a `compress` would take, told from a sample of tiles that is really encoded; with
//! `auto`, whose size is promised, from all of them.

use std::path::Path;
use std::time::Instant;

use crate::error::Result;
use crate::inspect::stored_as;
use crate::method::auto::NOISE_LEVEL;
use crate::method::{MatrixRate, Method, RatePlan, TraceNorms};
use crate::pipeline::choose::settle;
use crate::pipeline::compress::{Ran, rehearse};
use crate::pipeline::encode::{Run, encode_units};
use crate::pipeline::inputs::Inputs;
use crate::pipeline::options::{CompressOptions, Observer};
use crate::pipeline::schedule::{Unit, units};
use crate::pipeline::stored_delta::Sides;
use crate::report::{Forecast, TensorSummary};

/// One tile in so many of a matrix is encoded, and at least one.
const SAMPLE: u64 = 16;
/// Record bytes a tensor takes in head and seal: hashes, offset, errors, its share of the headers.
const RECORD_BYTES: u64 = 70;

/// Forecasts size, time and memory of a `compress` with these options, writing nothing. With `auto` it
/// takes as long as a compress and is exact, and gives the rates chosen. A base shift is left out, its
/// vector and the search for its parameters too.
///
/// # Errors
/// As [`compress`](crate::compress), as far as nothing is written.
pub fn forecast(
    ft: &Path,
    base: &Path,
    options: &CompressOptions,
    observer: &dyn Observer,
) -> Result<Forecast> {
    let started = Instant::now();
    let inputs = Inputs::open(ft, base, options)?;
    if let Method::Auto(_) = &options.method {
        return rehearsed(&inputs, options, observer, started);
    }
    let options = &settle(&inputs, options, observer)?;
    let sides = match options.base_shift {
        // As much as a vector cut as the fine-tune is takes.
        Some(_) => Sides::MeanWith(&[]),
        None => Sides::AsTheyAre,
    };
    let needs = inputs.needs(&options.method, &sides);
    let width = needs.width(options.resources.max_memory, options.resources.threads)?;
    let opened = started.elapsed();
    let mut units = units(&inputs.pair, options.method.lossy());
    let n_tiles: u64 = units.iter().map(Unit::n_tiles).sum();
    units.iter_mut().for_each(take_sample);
    let sampled: u64 = units.iter().map(Unit::n_tiles).sum();
    let found = encode_sample(&inputs, &units, options, observer)?;
    let tensors = summaries(&inputs, &found);
    let records = tensors.len() as u64 * RECORD_BYTES + 4 * n_tiles + 512;
    let side_files: u64 = inputs.side_files.iter().map(|f| f.len).sum();
    let archive_bytes =
        tensors.iter().map(|t| t.stored_bytes).sum::<u64>() + records + side_files / 3;
    let elapsed = started.elapsed();
    let share = sampled as f64 / n_tiles.max(1) as f64;
    let fine_tuned_bytes = inputs.fine_tuned_bytes();
    Ok(Forecast {
        method: options.method.name(),
        settings: options.settings(),
        fine_tuned_bytes,
        archive_bytes,
        ratio: fine_tuned_bytes as f64 / archive_bytes as f64,
        sampled: share,
        seconds: opened.as_secs_f64() + (elapsed - opened).as_secs_f64() / share.max(1e-9),
        memory_bytes: needs.forecast(width),
        elapsed_seconds: elapsed.as_secs_f64(),
        tensors,
        plan: None,
        notes: notes(&inputs, options),
    })
}

fn notes(inputs: &Inputs, options: &CompressOptions) -> Vec<String> {
    let mut notes = inputs.pair.notes.clone();
    if options.base_shift.is_some() {
        let text =
            "the base vector of --base-shift and the search along it are not in the forecast";
        notes.push(text.to_owned());
    }
    notes
}

/// The forecast of a method whose size is promised: everything is encoded, and nothing written.
fn rehearsed(
    inputs: &Inputs,
    options: &CompressOptions,
    observer: &dyn Observer,
    started: Instant,
) -> Result<Forecast> {
    let needs = inputs.needs(&options.method, &Sides::AsTheyAre);
    let width = needs.width(options.resources.max_memory, options.resources.threads)?;
    let Ran { report, seals, rates } = rehearse(inputs, options, observer)?;
    let found = seals.iter().zip(inputs.ft.tensors()).map(|(seal, t)| Found {
        elements: t.n_bytes / t.dtype.lane_bytes() as u64,
        stored: seal.stored_bytes(),
        squared_error: seal.squared_error,
        squared_delta: seal.squared_delta,
    });
    let tensors = summaries(inputs, &found.collect::<Vec<_>>());
    let name = |tensor: usize| inputs.ft.tensors()[tensor].name.as_str();
    let matrices =
        rates.iter().map(|(t, matrix, rates)| MatrixRate::new(name(*t), *matrix, *rates));
    let level = report.measured.iter().find(|(name, _)| name == NOISE_LEVEL);
    let level = level.and_then(|(_, value)| value.parse().ok()).unwrap_or(0.0);
    let elapsed = started.elapsed().as_secs_f64();
    Ok(Forecast {
        method: report.method,
        settings: report.settings,
        fine_tuned_bytes: report.fine_tuned_bytes,
        archive_bytes: report.archive_bytes,
        ratio: report.ratio,
        sampled: 1.0,
        seconds: elapsed,
        memory_bytes: needs.forecast(width),
        elapsed_seconds: elapsed,
        tensors,
        plan: Some(RatePlan { noise_level: level, matrices: matrices.collect() }),
        notes: notes(inputs, options),
    })
}

/// Keeps a run of tiles from the middle of a unit.
pub(crate) fn take_sample(unit: &mut Unit) {
    let n = unit.n_tiles();
    let take = n.div_ceil(SAMPLE);
    let first = unit.tiles.start + (n - take) / 2;
    unit.tiles = first..first + take;
}

/// What the sample of one tensor came to.
#[derive(Debug, Clone, Copy, Default)]
struct Found {
    elements: u64,
    stored: u64,
    squared_error: f64,
    squared_delta: f64,
}

fn encode_sample(
    inputs: &Inputs,
    units: &[Unit],
    options: &CompressOptions,
    observer: &dyn Observer,
) -> Result<Vec<Found>> {
    let mut found = vec![Found::default(); inputs.pair.items.len()];
    let earlier = TraceNorms::new();
    let run = Run::new(units, 0, &earlier, options.seed);
    encode_units(inputs, options, &run, observer, |tensor, tile| {
        let found = &mut found[tensor];
        found.elements += inputs.pair.items[tensor].tiling.get(tile.part).n_elements() as u64;
        found.stored += tile.frame.len() as u64;
        found.squared_error += tile.squared_error;
        found.squared_delta += tile.squared_delta;
        Ok(())
    })?;
    Ok(found)
}

fn summaries(inputs: &Inputs, found: &[Found]) -> Vec<TensorSummary> {
    let all = inputs.ft.tensors().iter().zip(&inputs.pair.items).zip(found);
    all.map(|((t, p), f)| {
        let lanes = t.n_bytes / t.dtype.lane_bytes() as u64;
        let stored_bytes = match f.elements {
            0 => 0,
            n => (u128::from(f.stored) * u128::from(lanes.max(n)) / u128::from(n)) as u64,
        };
        TensorSummary {
            name: t.name.clone(),
            dtype: t.dtype.name(),
            shape: t.shape.clone(),
            stored_as: stored_as(&p.item),
            bytes: t.n_bytes,
            stored_bytes,
            bits_per_parameter: stored_bytes as f64 * 8.0 / t.n_elements().max(1) as f64,
            relative_error: (f.squared_delta > 0.0).then(|| f.squared_error / f.squared_delta),
            parts: None,
        }
    })
    .collect()
}
