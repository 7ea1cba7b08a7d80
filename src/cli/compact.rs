//! `compact`.

use delta_stream::{CompactReport, Result, UpkeepOptions};

use crate::cli::args;
use crate::cli::dry_run;
use crate::cli::output::{Facts, Outcome, exact_size};
use crate::cli::repair;
use crate::cli::resolve::Context;

pub(crate) fn run(verb: &args::Compact, context: &Context) -> Result<Outcome> {
    let options = UpkeepOptions::default()
        .with_parity(verb.parity)
        .with_dry_run(verb.dry_run)
        .with_resources(context.resources.clone());
    let report =
        context.watch(|observer| delta_stream::compact_with(&verb.archive, &options, observer))?;
    context.print(&report, || table(&report))?;
    Ok(dry_run::outcome(report.run.space.as_ref()))
}

fn table(report: &CompactReport) -> String {
    let result = match (report.rewritten, report.run.dry_run) {
        (true, false) => "written anew",
        (true, true) => "would be written anew",
        (false, _) => "left as it is: nothing would be saved",
    };
    let mut facts = Facts::default();
    facts
        .add("result", result)
        .add("variants", report.variants.len())
        .add("before", exact_size(report.bytes_before))
        .add(if report.run.dry_run { "then" } else { "now" }, exact_size(report.bytes_after))
        .add("saved", exact_size(report.bytes_before.saturating_sub(report.bytes_after)))
        .add_if("parity", report.parity.as_ref().map(repair::parity))
        .add_cost(report.peak_memory_bytes, report.elapsed_seconds);
    dry_run::add_space(&mut facts, report.run.space.as_ref());
    facts.to_string()
}
