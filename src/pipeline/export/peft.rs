//! A low-rank adapter of a variant, as PEFT reads it: for each matrix two small ones whose product is near its
//! delta, and a configuration that names their modules.
//!
//! The directions come from power iteration over the delta's rows (`kernel::rows`), which are decoded anew for each
//! pass: no delta is ever held. What is lost is measured against the numbers that are written.

use std::path::Path;
use std::time::Instant;

use serde_json::{Value, json};

use crate::archive::Origin;
use crate::checkpoint::{CheckpointWriter, ShardLayout, plan_file};
use crate::error::{Error, Result};
use crate::kernel::{convert, quantise, rows};
use crate::pipeline::budget::{Needs, peak_memory};
use crate::pipeline::export::card::{CARD_NAME, adapter_card};
use crate::pipeline::export::rows::Matrix;
use crate::pipeline::export::settings::{ExportOptions, Peft};
use crate::pipeline::export::{Progress, Variant, View};
use crate::pipeline::options::Observer;
use crate::pipeline::restore::BlobPieces;
use crate::report::{AdapterTensor, LeftOut, PeftReport};
use crate::tensor::DType;

/// The files of an adapter, as PEFT names them.
const WEIGHTS: &str = "adapter_model.safetensors";
const CONFIG: &str = "adapter_config.json";
/// Vectors that are looked for beyond the rank that is kept.
const BEYOND: usize = 16;
/// Times the vectors are multiplied by the delta and back. With as many beyond the rank, less than a hundredth more is
/// lost than has to be, also of noise.
const ROUNDS: u64 = 4;
/// What else goes through all rows: what they have along the vectors, and what the adapter leaves.
const OTHER_PASSES: u64 = 2;
/// Longest configuration that is looked into.
const MAX_CONFIG: u64 = 16 << 20;
/// Models whose linear layers keep their weights as inputs by outputs.
const TRANSPOSED: &[&str] = &["gpt2", "openai-gpt", "imagegpt", "decision_transformer"];

/// Writes a low-rank adapter of a variant of `archive` as the directory `output`: of each two-dimensional weight that
/// the policy takes the directions with the largest singular values of its delta against `base`, as many as the
/// rank. Everything else of the fine-tune is left out, and reported. A matrix is decoded once for each of six
/// passes.
///
/// # Errors
/// `Mismatch` if `base` is not the base the variant was made against; `InvalidArgument` if no matrix is taken, a
/// delta is not finite, there is too little memory, or the directory is there and not empty (without
/// force); `Corrupt` or `Truncated` if the archive is damaged. Nothing is left at `output`.
pub fn export_peft(
    archive: &Path,
    base: &Path,
    output: &Path,
    settings: &Peft,
    options: &ExportOptions,
    observer: &dyn Observer,
) -> Result<PeftReport> {
    let started = Instant::now();
    settings.validate()?;
    let variant = Variant::open(archive, base, output, options)?;
    let Planned { taken, is_transposed, layout } = planned(&variant, settings)?;
    let mut writer = CheckpointWriter::create(output, options.force)?;
    let shard = writer.start_shard(&layout)?;
    let mut progress = progress(&variant, &taken, observer);
    let left_out = left_out(&variant, &taken, &mut progress)?;
    let mut tensors = Vec::with_capacity(taken.len());
    for (matrix, places) in taken.iter().zip(layout_places(&layout, taken.len())) {
        let (pair, delta) = search(matrix, settings.rank, &mut progress)?;
        let (pair, lost) = settle(matrix, pair, settings, &mut progress)?;
        let pair = if is_transposed {
            [transposed(&pair.left, settings.rank), transposed(&pair.right, matrix.n_cols)]
        } else {
            [pair.right, pair.left]
        };
        for (values, at) in pair.iter().zip(places) {
            writer.write_at(shard, at, &stored(values, settings.dtype))?;
        }
        let name = variant.stored.tensors[matrix.tensor].name.clone();
        tensors.push(AdapterTensor::new(name, [matrix.n_rows, matrix.n_cols], delta, lost));
    }
    let config = config(&variant, &taken, settings, options, is_transposed);
    writer.write_side_file(CONFIG, [Ok(format!("{config:#}\n"))])?;
    let report = PeftReport {
        variant: variant.name().to_owned(),
        directory: output.display().to_string(),
        rank: settings.rank,
        dtype: settings.dtype.name(),
        adapter_bytes: layout.file_len,
        relative_error: AdapterTensor::relative(&tensors),
        left_out: LeftOut::new(left_out, tensors.iter().map(|t| t.squared_delta).sum()),
        tensors,
        peak_memory_bytes: peak_memory(),
        elapsed_seconds: started.elapsed().as_secs_f64(),
    };
    writer.write_side_file(CARD_NAME, [Ok(adapter_card(&variant.stored, options, &report))])?;
    variant.check_end(observer)?;
    writer.commit()?;
    Ok(PeftReport { elapsed_seconds: started.elapsed().as_secs_f64(), ..report })
}

/// What is known of an adapter before its first matrix is decoded.
pub(super) struct Planned<'a> {
    /// The matrices that it speaks of.
    pub(super) taken: Vec<Matrix<'a>>,
    is_transposed: bool,
    /// The file of their directions.
    pub(super) layout: ShardLayout,
}

/// Chooses the matrices, and lays their directions out.
pub(super) fn planned<'a>(variant: &'a Variant<'a>, settings: &Peft) -> Result<Planned<'a>> {
    let taken = taken(variant, settings)?;
    let is_transposed = is_transposed(variant)?;
    let layout = layout(variant, &taken, settings, is_transposed)?;
    Ok(Planned { taken, is_transposed, layout })
}

/// The matrices that the adapter speaks of.
fn taken<'a>(variant: &'a Variant<'a>, settings: &Peft) -> Result<Vec<Matrix<'a>>> {
    let stored = &variant.stored;
    let is_taken = |i: &usize| {
        let t = &stored.tensors[*i];
        let is_own = matches!(stored.head.items[*i].origin, Origin::Base { .. });
        is_own
            && t.shape.len() == 2
            && t.name.ends_with(".weight")
            && settings.policy.is_lossy(&t.name, t.dtype, &t.shape)
            && variant.twin(*i).is_some()
            && variant.is_changed(*i) != Some(false)
    };
    let matrices: Vec<_> = (0..stored.tensors.len())
        .filter(is_taken)
        .filter_map(|i| Matrix::new(variant, i))
        .collect();
    if matrices.is_empty() {
        return Err(Error::invalid_argument(format!(
            "variant `{}` has no changed weight of a linear layer inside a block; --include REGEX takes others",
            variant.name()
        )));
    }
    Ok(matrices)
}

fn progress<'a>(
    variant: &Variant<'_>,
    taken: &[Matrix<'_>],
    observer: &'a dyn Observer,
) -> Progress<'a> {
    let tensors = &variant.stored.tensors;
    let all: u64 = tensors.iter().map(|t| t.n_bytes).sum();
    let matrices: u64 = taken.iter().map(|m| tensors[m.tensor].n_bytes).sum();
    let total = all - matrices + (ROUNDS + OTHER_PASSES) * matrices;
    Progress { observer, done: 0, total }
}

/// Of each tensor that is left out its name, and the sum of squares of its delta if it has one.
fn left_out(
    variant: &Variant<'_>,
    taken: &[Matrix<'_>],
    progress: &mut Progress<'_>,
) -> Result<Vec<(String, Option<f64>)>> {
    let mut out = Vec::new();
    for (i, t) in variant.stored.tensors.iter().enumerate() {
        if taken.iter().any(|matrix| matrix.tensor == i) {
            continue;
        }
        if variant.is_changed(i) == Some(false) && variant.twin(i).is_some() {
            progress.add(t.n_bytes as usize)?;
            continue;
        }
        let mut sum = (variant.twin(i).is_some() && t.dtype.is_float()).then_some(0.0);
        if let Some(sum) = &mut sum {
            let work = |(): &mut (), view: &View<'_>| {
                Ok(convert::squared_difference((t.dtype, view.new), (t.dtype, view.old)))
            };
            let sink = |new: &[u8], squares: f64| {
                *sum += squares;
                progress.add(new.len())
            };
            variant.each_tile(i, Needs::NONE, || (), work, sink)?;
        }
        if sum != Some(0.0) {
            out.push((t.name.clone(), sum));
        }
    }
    Ok(out)
}

/// The directions of a matrix that are kept, and the sum of squares of its delta.
fn search(
    matrix: &Matrix<'_>,
    rank: usize,
    progress: &mut Progress<'_>,
) -> Result<(rows::Pair, f64)> {
    let (n_rows, n_cols) = (matrix.n_rows, matrix.n_cols);
    let n = (rank + BEYOND).min(n_cols).next_multiple_of(rows::GROUP);
    // Vectors, their sums in f64, and what all rows have along them.
    let resident = (n * (12 * n_cols + 4 * n_rows)) as u64;
    let rows_a_tile = matrix.variant.tile_bytes(matrix.tensor) / n_cols.max(1) as u64 + 1;
    let worker = 4 * n as u64 * rows_a_tile;
    let sums_of_tile = Needs { resident, tile: (4 * n * n_cols) as u64, worker };
    let mut vectors = rows::start(n_cols, n);
    let mut squares = 0.0;
    for round in 0..ROUNDS {
        let mut sums = vec![0.0f64; n * n_cols];
        let work = |_: usize, values: &mut [f32]| {
            let mut times = vec![0.0; values.len() / n_cols * n];
            rows::along(values, n_cols, &vectors, &mut times);
            let mut part = vec![0.0; n * n_cols];
            rows::add_rows(values, n_cols, &times, &mut part);
            (quantise::sum_squares(values), part)
        };
        let sink = |(square, part): (f64, Vec<f32>)| {
            squares += if round == 0 { square } else { 0.0 };
            sums.iter_mut().zip(part).for_each(|(sum, x)| *sum += f64::from(x));
        };
        matrix.each_rows(sums_of_tile, progress, work, sink)?;
        check_finite(matrix, squares)?;
        let largest = sums.iter().fold(0.0, |most: f64, x| most.max(x.abs()));
        // So that no entry is too small or too large for its squares.
        let scale = if largest > 0.0 { largest.recip() } else { 0.0 };
        vectors.iter_mut().zip(&sums).for_each(|(x, sum)| *x = (sum * scale) as f32);
        rows::orthonormalise(&mut vectors, n_cols);
    }
    let mut along = Vec::with_capacity(n * n_rows);
    let work = |_: usize, values: &mut [f32]| {
        let mut times = vec![0.0; values.len() / n_cols * n];
        rows::along(values, n_cols, &vectors, &mut times);
        times
    };
    let tile = worker;
    matrix.each_rows(Needs { resident, tile, worker: 0 }, progress, work, |times: Vec<f32>| {
        along.extend(times);
    })?;
    Ok((rows::best(&along, &vectors, n_cols, rank), squares))
}

/// Refuses deltas with NaN or infinities, and those whose squares are.
fn check_finite(matrix: &Matrix<'_>, squares: f64) -> Result<()> {
    if squares.is_finite() {
        return Ok(());
    }
    Err(Error::invalid_argument(format!(
        "the delta of tensor {} is not finite; --exclude leaves it out",
        matrix.variant.stored.tensors[matrix.tensor].name
    )))
}

/// The pair as it will be read, and the sum of squares that it leaves of the delta.
fn settle(
    matrix: &Matrix<'_>,
    pair: rows::Pair,
    settings: &Peft,
    progress: &mut Progress<'_>,
) -> Result<(rows::Pair, f64)> {
    let (rank, n_cols) = (settings.rank, matrix.n_cols);
    let as_read = |values: Vec<f32>| {
        let mut out = vec![0.0; values.len()];
        convert::to_f32(settings.dtype, &stored(&values, settings.dtype), &mut out);
        out
    };
    let pair = rows::Pair { left: as_read(pair.left), right: as_read(pair.right) };
    let mut lost = 0.0;
    let work = |first: usize, values: &mut [f32]| {
        rows::take_off(values, n_cols, &pair.left[first * rank..], &pair.right);
        quantise::sum_squares(values)
    };
    let resident = 8 * (pair.left.len() + pair.right.len()) as u64;
    let needs = Needs { resident, ..Needs::NONE };
    matrix.each_rows(needs, progress, work, |squares: f64| lost += squares)?;
    Ok((pair, lost))
}

/// Values as they lie in a file.
fn stored(values: &[f32], dtype: DType) -> Vec<u8> {
    let mut out = vec![0; values.len() * dtype.lane_bytes()];
    convert::from_f32(dtype, values, &mut out);
    out
}

/// Rows of `n` values as columns.
fn transposed(values: &[f32], n: usize) -> Vec<f32> {
    (0..n).flat_map(|j| values[j.min(values.len())..].iter().step_by(n)).copied().collect()
}

/// Where the two matrices of each tensor begin.
fn layout_places(layout: &ShardLayout, n: usize) -> impl Iterator<Item = [u64; 2]> + '_ {
    let pairs = layout.tensors.as_chunks::<2>().0.iter().take(n);
    pairs.map(|[a, b]| [a.1, b.1])
}

/// The name of the module that a weight is of.
fn module(name: &str) -> &str {
    name.strip_suffix(".weight").unwrap_or(name)
}

/// Two matrices for each tensor: `lora_A`, rank by inputs, and `lora_B`, outputs by rank.
fn layout(
    variant: &Variant<'_>,
    taken: &[Matrix<'_>],
    settings: &Peft,
    is_transposed: bool,
) -> Result<ShardLayout> {
    let (rank, dtype) = (settings.rank as u64, settings.dtype);
    let pair = |matrix: &Matrix<'_>| {
        let module = module(&variant.stored.tensors[matrix.tensor].name);
        let sides = [matrix.n_rows as u64, matrix.n_cols as u64];
        let [outputs, inputs] = if is_transposed { [sides[1], sides[0]] } else { sides };
        let tensor = |which: &str, shape: [u64; 2]| {
            let n_bytes = shape[0] * shape[1] * dtype.lane_bytes() as u64;
            let name = format!("base_model.model.{module}.lora_{which}.weight");
            (name, dtype, shape.to_vec(), n_bytes)
        };
        [tensor("A", [rank, inputs]), tensor("B", [outputs, rank])]
    };
    let tensors: Vec<_> = taken.iter().flat_map(pair).collect();
    plan_file(WEIGHTS, &tensors, Some(&vec![("format".to_owned(), "pt".to_owned())]))
}

/// Whether the fine-tune's configuration is of a model with weights the other way round.
fn is_transposed(variant: &Variant<'_>) -> Result<bool> {
    let stored = &variant.stored;
    let found = stored.head.side_files.iter();
    let found = found.enumerate().find(|(_, f)| f.name == "config.json" && f.len <= MAX_CONFIG);
    let Some((i, _)) = found else { return Ok(false) };
    let mut pieces = BlobPieces::new(&variant.archive, stored, i)?;
    let text = pieces.by_ref().collect::<Result<Vec<_>>>()?.concat();
    pieces.check()?;
    // Whatever else it holds is the fine-tune's own affair.
    let config: Value = serde_json::from_slice(&text).unwrap_or_default();
    Ok(config["model_type"].as_str().is_some_and(|name| TRANSPOSED.contains(&name)))
}

fn config(
    variant: &Variant<'_>,
    taken: &[Matrix<'_>],
    settings: &Peft,
    options: &ExportOptions,
    is_transposed: bool,
) -> Value {
    let tensors = &variant.stored.tensors;
    let modules: Vec<_> = taken.iter().map(|m| module(&tensors[m.tensor].name)).collect();
    json!({
        "peft_type": "LORA",
        "auto_mapping": null,
        "base_model_name_or_path": options.base_model,
        "revision": null,
        "task_type": null,
        "inference_mode": true,
        "r": settings.rank,
        "lora_alpha": settings.rank,
        "lora_dropout": 0.0,
        "fan_in_fan_out": is_transposed,
        "bias": "none",
        "target_modules": modules,
        "modules_to_save": null,
    })
}
