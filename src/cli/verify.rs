//! `verify`.

use delta_stream::{Result, VerifyReport};

use crate::cli::args;
use crate::cli::output::{Facts, Outcome, exact_size};
use crate::cli::resolve::{self, Context};

pub(crate) fn run(verb: &args::Verify, context: &Context) -> Result<Outcome> {
    let base = verb.base.as_deref();
    resolve::local(base.as_slice())?;
    let report = context.watch(|observer| {
        delta_stream::verify(
            &verb.archive,
            base,
            verb.name.as_deref(),
            &context.resources,
            observer,
        )
    })?;
    context.print(&report, || table(&report))?;
    Ok(Outcome::of(report.ok))
}

pub(crate) fn table(report: &VerifyReport) -> String {
    let level = match report.level {
        "decode" => "every tensor decoded and held to its stored hash",
        _ => "every checksum; give --base to decode every tensor",
    };
    let mut facts = Facts::default();
    facts
        .add("result", if report.ok { "ok" } else { "DIFFERENT" })
        .add("checked", level)
        .add("variants", report.variants.join(", "))
        .add("frames", report.frames)
        .add("read", exact_size(report.bytes))
        .add_cost(report.peak_memory_bytes, report.elapsed_seconds);
    for differing in &report.differing {
        facts.add("differs", format!("{}: {}", differing.variant, differing.tensor));
    }
    facts.to_string()
}
