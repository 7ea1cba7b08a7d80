//! `plan`: what a `compress` would take, told from a sample of tiles that is really encoded; with
//! `auto`, whose size is promised, from all of them.

use std::path::Path;
use std::time::Instant;

use crate::archive::Origin;
use crate::error::Result;
use crate::inspect::stored_as;
use crate::method::auto::NOISE_LEVEL;
use crate::method::{BaseShift, MatrixRate, Method, RatePlan, TraceNorms};
use crate::pipeline::base_shift::{check_vector, is_in_vector};
use crate::pipeline::budget::Needs;
use crate::pipeline::choose::settle;
use crate::pipeline::compress::{Ran, rehearse};
use crate::pipeline::encode::{Run, encode_units};
use crate::pipeline::inputs::Inputs;
use crate::pipeline::options::{CompressOptions, Observer};
use crate::pipeline::ordered::Width;
use crate::pipeline::overhead::{overhead_bytes, vector_overhead_bytes};
use crate::pipeline::schedule::{Unit, units};
use crate::pipeline::stored_delta::Sides;
use crate::report::{Forecast, TensorSummary};

/// One tile in so many of a matrix is encoded, and at least one.
const SAMPLE: u64 = 16;
/// Of what is decided tile by tile at least so many, where one tile in `LARGE` of the model or more belongs to it, or
/// the base lacks some of its rows: it may differ from place to place.
const LEAST: u64 = 4;
const LARGE: u64 = 32;
/// Encodes that one trial of a base shift's parameters takes as long as: it shifts the base by a vector that it
/// decodes, and measures how the result fits.
const TRIAL: f64 = 2.5;

/// Forecasts size, time and memory of a `compress` with these options, writing nothing. With `auto` it
/// takes as long as a compress and is exact, and gives the rates chosen. A base vector and what is coded
/// against the shifted base are each counted as large as the delta alone, which is encoded.
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
    forecast_of(&Inputs::open(ft, base, options)?, options, observer, started)
}

/// [`forecast`] of checkpoints that are open.
pub(crate) fn forecast_of(
    inputs: &Inputs,
    options: &CompressOptions,
    observer: &dyn Observer,
    started: Instant,
) -> Result<Forecast> {
    if let Method::Auto(_) = &options.method {
        return rehearsed(inputs, options, observer, started);
    }
    let options = &settle(inputs, options, observer)?;
    let (needs, width) = needs(inputs, options)?;
    let opened = started.elapsed();
    let all = units(&inputs.pair, options.method.lossy());
    let n_tiles: u64 = all.iter().map(Unit::n_tiles).sum();
    let sampled = |unit: Unit| {
        let is_large = is_large(inputs, &unit, n_tiles);
        sample_of(unit, is_large)
    };
    let units: Vec<Unit> = all.into_iter().flat_map(sampled).collect();
    let sampled: u64 = units.iter().map(Unit::n_tiles).sum();
    let found = encode_sample(inputs, &units, options, observer)?;
    let tensors = summaries(inputs, &found);
    let vector_bytes = vector_bytes(inputs, options, &tensors)?;
    let tiles: u64 = tensors.iter().map(|t| t.stored_bytes).sum();
    let archive_bytes = tiles + overhead_bytes(inputs, options)? + vector_bytes;
    let elapsed = started.elapsed();
    let share = sampled as f64 / n_tiles.max(1) as f64;
    let encode = (elapsed - opened).as_secs_f64() / share.max(1e-9);
    let fine_tuned_bytes = inputs.fine_tuned_bytes();
    Ok(Forecast {
        method: options.method.name(),
        settings: options.settings(),
        fine_tuned_bytes,
        archive_bytes,
        vector_bytes,
        ratio: fine_tuned_bytes as f64 / archive_bytes as f64,
        sampled: share,
        seconds: opened.as_secs_f64() + encode * encodes(inputs, options),
        memory_bytes: needs.forecast(width),
        elapsed_seconds: elapsed.as_secs_f64(),
        tensors,
        plan: None,
        notes: notes(inputs, options),
    })
}

/// What a compress with these options needs.
fn needs(inputs: &Inputs, options: &CompressOptions) -> Result<(Needs, Width)> {
    let sides = match options.base_shift {
        // As much as a vector cut as the fine-tune is takes.
        Some(_) => Sides::MeanWith(&[]),
        None => Sides::AsTheyAre,
    };
    let needs = inputs.needs(&options.method, &sides);
    let width = needs.width(options.resources.max_memory, options.resources.threads)?;
    Ok((needs, width))
}

/// Bytes that a base vector takes, once it is made: the tensors stored with loss, once more.
fn vector_bytes(
    inputs: &Inputs,
    options: &CompressOptions,
    tensors: &[TensorSummary],
) -> Result<u64> {
    let Some(shift) = options.base_shift.as_ref().filter(|shift| shift.has_vector()) else {
        return Ok(0);
    };
    check_vector(inputs, options, shift)?;
    let based = tensors.iter().zip(&inputs.pair.items).filter(|(_, p)| is_in_vector(p));
    let tiles: u64 = based.map(|(t, _)| t.stored_bytes).sum();
    Ok(tiles + vector_overhead_bytes(inputs, options)?)
}

/// How often as much as one encode is encoded: vectors, and the search for their parameters.
fn encodes(inputs: &Inputs, options: &CompressOptions) -> f64 {
    let Some(shift) = &options.base_shift else { return 1.0 };
    let all = units(&inputs.pair, options.method.lossy());
    let n_tiles: u64 = all.iter().map(Unit::n_tiles).sum();
    let lossy = all.into_iter().filter(|u| inputs.pair.items[u.tensor].item.lossy);
    let trial: u64 = lossy.map(|mut u| (take_sample(&mut u), u.n_tiles()).1).sum();
    let trials = TRIAL * shift.n_trials() as f64 * trial as f64 / n_tiles.max(1) as f64;
    1.0 + f64::from(u8::from(shift.has_vector())) + trials
}

fn notes(inputs: &Inputs, options: &CompressOptions) -> Vec<String> {
    let mut notes = inputs.pair.notes.clone();
    if options.base_shift.as_ref().is_some_and(BaseShift::has_vector) {
        let text = "a base vector is counted as large as the fine-tune's own delta; one that the archive has \
                    already takes nothing";
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
    let (needs, width) = needs(inputs, options)?;
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
    let vector_bytes = vector_bytes(inputs, options, &tensors)?;
    let archive_bytes = report.archive_bytes + vector_bytes;
    let elapsed = started.elapsed().as_secs_f64();
    Ok(Forecast {
        method: report.method,
        settings: options.settings(),
        fine_tuned_bytes: report.fine_tuned_bytes,
        archive_bytes,
        vector_bytes,
        ratio: report.fine_tuned_bytes as f64 / archive_bytes as f64,
        sampled: 1.0,
        seconds: elapsed * encodes(inputs, options),
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

/// Whether a unit has much to say in a model of so many tiles, or parts that have nothing in common.
fn is_large(inputs: &Inputs, unit: &Unit, n_tiles: u64) -> bool {
    let n_elements = inputs.ft.tensors()[unit.tensor].n_elements();
    // Rows that the base lacks are whole.
    let origin = &inputs.pair.items[unit.tensor].item.origin;
    let is_grown = matches!(origin, Origin::Base { n_elements: n, .. } if *n < n_elements);
    is_grown || unit.n_tiles() * LARGE >= n_tiles
}

/// The tiles of a unit that stand for it. Those that are surveyed lie side by side, since what they have in common is
/// decided for all of them; others are spread over the unit, at least [`LEAST`] of them if it is large.
fn sample_of(unit: Unit, is_large: bool) -> Vec<Unit> {
    if unit.n_surveys > 0 {
        let mut unit = unit;
        take_sample(&mut unit);
        return vec![unit];
    }
    let n = unit.n_tiles();
    let least = if is_large { LEAST } else { 1 };
    let take = n.div_ceil(SAMPLE).max(n.min(least));
    let at = |i: u64| unit.tiles.start + (2 * i + 1) * n / (2 * take);
    (0..take).map(|i| Unit { tiles: at(i)..at(i) + 1, ..unit.clone() }).collect()
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
    let mut run = Run::new(units, 0, &earlier, options.seed);
    run.stage = Some("sample");
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_lies_inside_and_is_spread_where_nothing_is_surveyed() {
        for n in [1, 2, 3, 4, 5, 17, 64, 65, 1000] {
            let flat = Unit { tensor: 0, tiles: 7..7 + n, n_surveys: 0, is_kept: false };
            let surveyed = sample_of(Unit { n_surveys: 2, ..flat.clone() }, true);
            assert_eq!(surveyed.len(), 1);
            assert_eq!(surveyed[0].n_tiles(), n.div_ceil(SAMPLE));
            assert!(surveyed[0].tiles.start >= 7 && surveyed[0].tiles.end <= 7 + n);

            let of_many = sample_of(flat.clone(), false);
            assert_eq!(of_many.len() as u64, n.div_ceil(SAMPLE));
            let spread = sample_of(flat, true);
            assert_eq!(spread.len() as u64, n.div_ceil(SAMPLE).max(n.min(LEAST)));
            assert!(spread.iter().all(|u| u.n_tiles() == 1 && u.tiles.end <= 7 + n));
            assert!(spread.windows(2).all(|pair| pair[0].tiles.end <= pair[1].tiles.start));
            // One in each part of the unit.
            let part = n as f64 / spread.len() as f64;
            for (i, unit) in spread.iter().enumerate() {
                let (start, end) = (unit.tiles.start - 7, unit.tiles.end - 7);
                let (first, last) = (start as f64 / part, end as f64 / part);
                assert!(last > i as f64 && first < (i + 1) as f64, "{n} {i} {first} {last}");
            }
        }
    }
}
