//! `recover`.

use delta_stream::{RecoverOptions, RecoverReport, RecoveredVariant, Result};

use crate::cli::args;
use crate::cli::dry_run;
use crate::cli::output::{Facts, Outcome, exact_size};
use crate::cli::resolve::Context;

/// Lost tensors and side files of a variant listed in the table.
const MAX_LISTED: usize = 20;

pub(crate) fn run(verb: &args::Recover, context: &Context) -> Result<Outcome> {
    let options = RecoverOptions::default()
        .with_base(verb.base.clone())
        .with_dry_run(verb.dry_run)
        .with_resources(context.resources.clone())
        .with_force(context.force);
    let report = context
        .watch(|observer| delta_stream::recover(&verb.archive, &verb.output, &options, observer))?;
    context.print(&report, || table(&report))?;
    Ok(dry_run::outcome(report.run.space.as_ref()).or(Outcome::of(report.complete)))
}

fn table(report: &RecoverReport) -> String {
    let result = match (report.complete, report.run.dry_run) {
        (true, false) => "everything is saved",
        (true, true) => "everything can be saved",
        (false, _) => "SOME IS LOST",
    };
    let index = match report.index_of {
        Some(generation) => format!("of generation {generation}"),
        None => "lost; variants were found by their frames, removed ones too".to_owned(),
    };
    let mut facts = Facts::default();
    facts
        .add("result", result)
        .add("index", index)
        .add("before", exact_size(report.bytes_before))
        .add("no frames", exact_size(report.damaged_bytes))
        .add(if report.run.dry_run { "then" } else { "now" }, exact_size(report.bytes_after));
    for variant in &report.variants {
        add(&mut facts, variant);
    }
    dry_run::add_space(&mut facts, report.run.space.as_ref());
    facts.add_cost(report.peak_memory_bytes, report.elapsed_seconds);
    facts.to_string()
}

fn add(facts: &mut Facts, v: &RecoveredVariant) {
    let mut text = format!("{}: {}", v.name, v.state);
    if let Some(why) = &v.why {
        text.push_str(&format!(": {why}"));
    }
    if v.sealed_anew {
        text.push_str(" (sealed anew by the base given)");
    }
    if !v.listed {
        text.push_str(" (in no index that is left)");
    }
    let n = v.tensors.len();
    let of = n + v.lost_tensors.len();
    facts.add(if v.base_vector { "base vector" } else { "variant" }, text);
    if v.why.is_none() {
        facts.add("", format!("{n} of {of} tensors, {} side files", v.side_files.len()));
        let all = v.lost_tensors.iter().chain(&v.lost_side_files);
        all.clone().take(MAX_LISTED).for_each(|name| {
            facts.add("", format!("lost: {name}"));
        });
        let more = all.count().saturating_sub(MAX_LISTED);
        if more > 0 {
            facts.add("", format!("lost: {more} more; --json lists them"));
        }
    }
}
