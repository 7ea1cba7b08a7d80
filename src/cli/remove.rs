//! `remove`.

use delta_stream::{RemoveReport, Result};

use crate::cli::args;
use crate::cli::output::{Facts, Outcome, exact_size};
use crate::cli::resolve::Context;

pub(crate) fn run(verb: &args::Remove, context: &Context) -> Result<Outcome> {
    let report = delta_stream::remove(&verb.archive, &verb.name)?;
    context.print(&report, || table(&report))?;
    Ok(Outcome::Done)
}

fn table(report: &RemoveReport) -> String {
    let left = match report.variants.as_slice() {
        [] => "none".to_owned(),
        names => names.join(", "),
    };
    let mut facts = Facts::default();
    facts
        .add("removed", &report.removed)
        .add("left", left)
        .add("archive", exact_size(report.bytes_after))
        .add("space", "given back by compact");
    facts.to_string()
}
