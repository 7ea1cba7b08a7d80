//! `plan`: prints a forecast, and writes it to a file if asked to.

use std::path::Path;

use delta_stream::{Forecast, RatePlan, Result, TensorSummary};
use serde::Serialize;

use crate::cli::args;
use crate::cli::dry_run;
use crate::cli::output::{Columns, Facts, Outcome, exact_size, json, method, relative, size, time};
use crate::cli::parts;
use crate::cli::resolve::Context;
use crate::cli::whole_file::WholeFile;

pub(crate) fn run(verb: &args::Plan, context: &Context) -> Result<Outcome> {
    let (ft, base) = (&verb.pair.fine_tune, &verb.pair.base);
    if let Some(n) = verb.split {
        return parts::split(verb, n, context);
    }
    let options = context.compress_options(&verb.choice, None)?;
    let output = output(verb, context)?;
    let report = context.watch(|observer| delta_stream::forecast(ft, base, &options, observer))?;
    context.note_all(&report.notes);
    finish(output, &report, context, || table(&report))
}

/// The file that a plan or a split goes to.
pub(crate) fn output<'a>(verb: &'a args::Plan, context: &Context) -> Result<Option<WholeFile<'a>>> {
    let mut inputs: Vec<&Path> = vec![&verb.pair.fine_tune, &verb.pair.base];
    inputs.extend(
        [&verb.choice.plan, &verb.choice.calibrate].into_iter().filter_map(|file| file.as_deref()),
    );
    let checked = |path| WholeFile::checked(path, &inputs, (context.force, verb.dry_run));
    verb.output.as_deref().map(checked).transpose()
}

/// Writes what was found to its file, and prints it.
pub(crate) fn finish<T: Serialize>(
    output: Option<WholeFile<'_>>,
    report: &T,
    context: &Context,
    table: impl FnOnce() -> String,
) -> Result<Outcome> {
    let Some(file) = output else {
        context.print(report, table)?;
        return Ok(Outcome::Done);
    };
    let run = file.write(&format!("{}\n", json(report)?))?;
    dry_run::print_file(context, report, (file.path, &run), table)
}

fn table(report: &Forecast) -> String {
    let is_exact = report.sampled >= 1.0 && report.plan.is_some();
    let [stored, ratio] = match is_exact {
        true => ["stored", "honest ratio"],
        false => ["stored, about", "honest ratio, about"],
    };
    let mut facts = Facts::default();
    facts
        .add("method", method(report.method, &report.settings))
        .add("fine-tune", exact_size(report.fine_tuned_bytes))
        .add(stored, exact_size(report.archive_bytes))
        .add(ratio, format!("{:.2} (fine-tune / stored)", report.ratio))
        .add("time, about", time(report.seconds))
        .add("memory, at most", size(report.memory_bytes))
        .add("sampled", format!("{:.1} % of the tiles", report.sampled * 100.0))
        .add("took", time(report.elapsed_seconds));
    let rates = report.plan.as_ref().map(|plan| rates_table(report, plan)).unwrap_or_default();
    format!("{facts}\n{}{rates}", kinds_table(report, stored))
}

/// What each matrix gets.
fn rates_table(report: &Forecast, plan: &RatePlan) -> String {
    let mut columns =
        Columns::new(&["tensor", "rate", "bits a parameter", "relative error", "stored"]);
    for matrix in &plan.matrices {
        let rate = match (&matrix.rest, matrix.rows) {
            (Some(rest), Some(rows)) => format!("{} in {rows} rows, {rest}", matrix.rate),
            _ => matrix.rate.clone(),
        };
        let name = match matrix.matrix {
            0 => matrix.tensor.clone(),
            n => format!("{} [{n}]", matrix.tensor),
        };
        // A tensor's figures stand beside the first of its matrices.
        let found = report.tensors.iter().find(|t| t.name == matrix.tensor && matrix.matrix == 0);
        let of = |show: fn(&TensorSummary) -> String| found.map(show).unwrap_or_default();
        columns.add(vec![
            name,
            rate,
            of(|t| format!("{:.4}", t.bits_per_parameter)),
            of(|t| relative(t.relative_error)),
            of(|t| size(t.stored_bytes)),
        ]);
    }
    format!("\n{columns}")
}

/// Tensors by the way they would be stored.
fn kinds_table(report: &Forecast, stored: &str) -> String {
    let mut columns = Columns::new(&["stored as", "tensors", "bytes", stored]);
    for kind in ["lossy", "lossless", "whole", "alias"] {
        let (mut n_tensors, mut bytes, mut stored) = (0, 0, 0);
        for t in report.tensors.iter().filter(|t| t.stored_as == kind) {
            n_tensors += 1;
            bytes += t.bytes;
            stored += t.stored_bytes;
        }
        if n_tensors > 0 {
            columns.add(vec![kind.to_owned(), n_tensors.to_string(), size(bytes), size(stored)]);
        }
    }
    columns.to_string()
}
