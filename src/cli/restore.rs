//! `restore`.

use delta_stream::{RestoreOptions, RestoreReport, Result};

use crate::cli::args;
use crate::cli::dry_run;
use crate::cli::output::{Facts, Outcome, exact_size};
use crate::cli::resolve::Context;

/// Shards listed by name in the table.
const MAX_LISTED: usize = 4;

pub(crate) fn run(verb: &args::Restore, context: &Context) -> Result<Outcome> {
    let options = options(verb.name.clone(), context)
        .with_tensors(verb.tensors.clone())
        .with_max_shard_size(verb.max_shard_size)
        .with_resume(verb.resume)
        .with_dry_run(verb.dry_run);
    let report = context.watch(|observer| {
        delta_stream::restore(&verb.archive, &verb.base, &verb.output, &options, observer)
    })?;
    context.print(&report, || table(&report))?;
    Ok(dry_run::outcome(report.run.space.as_ref()))
}

/// Options that restore everything as it was.
pub(crate) fn options(name: Option<String>, context: &Context) -> RestoreOptions {
    RestoreOptions::default()
        .with_name(name)
        .with_resources(context.resources.clone())
        .with_force(context.force)
}

pub(crate) fn table(report: &RestoreReport) -> String {
    let files = if report.files.len() <= MAX_LISTED {
        report.files.join(", ")
    } else {
        format!("{}, ... ({} shards)", report.files[..MAX_LISTED].join(", "), report.files.len())
    };
    let resumed = (report.resumed_files > 0)
        .then(|| format!("{} shards of a run that was cut off were kept", report.resumed_files));
    let mut facts = Facts::default();
    facts
        .add("variant", &report.variant)
        .add("tensors", report.tensors)
        .add(
            if report.run.dry_run { "would write" } else { "written" },
            exact_size(report.restored_bytes),
        )
        .add("shards", files)
        .add_if("resumed", resumed);
    if report.run.dry_run {
        let text = "names, dtypes, shapes and the ends of each tensor's values are as they were";
        facts.add("base", text);
    }
    dry_run::add_space(&mut facts, report.run.space.as_ref());
    facts.add_cost(report.peak_memory_bytes, report.elapsed_seconds);
    facts.to_string()
}
