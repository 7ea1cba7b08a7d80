//! `compare`.

use delta_stream::{CompareReport, Result};

use crate::cli::args;
use crate::cli::output::{Columns, Facts, Outcome, count, relative};
use crate::cli::resolve::Context;

pub(crate) fn run(verb: &args::Compare, context: &Context) -> Result<Outcome> {
    let base = verb.base.as_deref();
    let report = context.watch(|observer| {
        delta_stream::compare(&verb.a, &verb.b, base, &context.resources, observer)
    })?;
    context.print(&report, || {
        format!("{}{}", different_tensors(&report), table(&report, base.is_some()))
    })?;
    Ok(Outcome::of(report.identical))
}

/// The tensors that differ, and a blank line; nothing if none does.
fn different_tensors(report: &CompareReport) -> String {
    if report.identical {
        return String::new();
    }
    let mut columns = Columns::new(&["tensor", "relative error", "largest", "changed", ""]);
    for t in report.tensors.iter().filter(|t| !t.identical) {
        columns.add(vec![
            t.name.clone(),
            relative(t.relative_error),
            relative(t.max_abs),
            count(t.changed),
            t.note.clone().unwrap_or_default(),
        ]);
    }
    format!("{columns}\n")
}

/// The summary.
pub(crate) fn table(report: &CompareReport, has_base: bool) -> String {
    let n_identical = report.tensors.iter().filter(|t| t.identical).count();
    let against = if has_base { "A's delta" } else { "A" };
    let n_alone = report.tensors.iter().filter(|t| t.note.is_some()).count();
    let error = match (report.relative_error, n_alone) {
        (Some(e), _) => {
            Some(format!("{} (sum of squares, over that of {against})", relative(Some(e))))
        }
        (None, 0) => None,
        (None, n) => Some(format!("none: {} of the tensors cannot be compared", count(n as u64))),
    };
    let mut facts = Facts::default();
    facts
        .add("result", if report.identical { "identical" } else { "different" })
        .add("tensors", format!("{}, of these {n_identical} identical", report.tensors.len()))
        .add_if("relative error", error)
        .add_cost(report.peak_memory_bytes, report.elapsed_seconds);
    facts.to_string()
}
