//! `remove`.

use delta_stream::{RemoveReport, Result, UpkeepOptions};

use crate::cli::args;
use crate::cli::dry_run;
use crate::cli::output::{Facts, Outcome, exact_size};
use crate::cli::repair;
use crate::cli::resolve::Context;

pub(crate) fn run(verb: &args::Remove, context: &Context) -> Result<Outcome> {
    let options = UpkeepOptions::default()
        .with_parity(verb.parity)
        .with_dry_run(verb.dry_run)
        .with_resources(context.resources.clone());
    let report = context.watch(|observer| {
        delta_stream::remove_with(&verb.archive, &verb.name, &options, observer)
    })?;
    context.print(&report, || table(&report))?;
    Ok(dry_run::outcome(report.run.space.as_ref()))
}

fn table(report: &RemoveReport) -> String {
    let left = match report.variants.as_slice() {
        [] => "none".to_owned(),
        names => names.join(", "),
    };
    let mut facts = Facts::default();
    facts
        .add(if report.run.dry_run { "would remove" } else { "removed" }, &report.removed)
        .add("left", left)
        .add("archive", exact_size(report.bytes_after))
        .add("space", "given back by compact")
        .add_if("parity", report.parity.as_ref().map(repair::parity));
    dry_run::add_space(&mut facts, report.run.space.as_ref());
    facts.to_string()
}
