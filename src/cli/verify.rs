//! `verify`.

use std::time::{SystemTime, UNIX_EPOCH};

use delta_stream::{Result, Subset, VerifyLevel, VerifyOptions, VerifyReport};

use crate::cli::args;
use crate::cli::output::{Facts, Outcome, count, exact_size};
use crate::cli::repair;
use crate::cli::resolve::Context;
use crate::cli::values::Share;

/// Faults listed in the table.
const MAX_LISTED: usize = 16;

pub(crate) fn run(verb: &args::Verify, context: &Context) -> Result<Outcome> {
    let level = match (&verb.base, verb.read_data_subset) {
        (Some(base), _) => VerifyLevel::Decode(base.clone()),
        (None, Some(share)) => VerifyLevel::Subset(subset(share, context.seed)),
        (None, None) if verb.structure => VerifyLevel::Structure,
        (None, None) => VerifyLevel::Frames,
    };
    let options = options(level, context).with_name(verb.name.clone());
    let report =
        context.watch(|observer| delta_stream::verify(&verb.archive, &options, observer))?;
    context.print(&report, || table(&report))?;
    Ok(outcome(&report))
}

pub(crate) fn options(level: VerifyLevel, context: &Context) -> VerifyOptions {
    VerifyOptions::default().with_level(level).with_resources(context.resources.clone())
}

/// Without a seed each run draws other frames.
fn subset(share: Share, seed: Option<u64>) -> Subset {
    let clock = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as u64);
    match share {
        Share::Percent(percent) => Subset::Percent { percent, seed: seed.unwrap_or_else(clock) },
        Share::Group { n, of } => Subset::Group { n, of },
    }
}

/// How a run ends that found this.
pub(crate) fn outcome(report: &VerifyReport) -> Outcome {
    if report.n_faults > 0 { Outcome::Damaged } else { Outcome::of(report.ok) }
}

pub(crate) fn table(report: &VerifyReport) -> String {
    let level = match report.level {
        "structure" => "records, and every frame's header at its place".to_owned(),
        "decode" => "every tensor decoded and held to its stored hash".to_owned(),
        "subset" => chosen(report),
        _ => "every checksum; give --base to decode every tensor".to_owned(),
    };
    let result = match (report.n_faults, report.ok) {
        (0, true) => "ok",
        (0, false) if !report.lost.is_empty() => "INCOMPLETE",
        (0, false) if report.differing.is_empty() => "PARITY IS OF NO USE",
        (0, false) => "DIFFERENT",
        _ => "DAMAGED",
    };
    let mut facts = Facts::default();
    facts
        .add("result", result)
        .add("checked", level)
        .add("variants", report.variants.join(", "))
        .add("frames", report.frames)
        .add("read", exact_size(report.bytes));
    if report.tail_bytes > 0 {
        let text = format!("{}, which no reader uses", exact_size(report.tail_bytes));
        facts.add("torn tail", text);
    }
    facts.add_if("parity", report.parity.as_ref().map(repair::parity));
    facts.add_cost(report.peak_memory_bytes, report.elapsed_seconds);
    for fault in report.faults.iter().take(MAX_LISTED) {
        facts.add("damaged", fault);
    }
    let n_listed = report.faults.len().min(MAX_LISTED) as u64;
    if report.n_faults > n_listed {
        let more = count(report.n_faults - n_listed);
        facts.add("damaged", format!("... {more} places more; --json lists them"));
    }
    if report.n_faults > 0 {
        let next = match report.parity.as_ref().and_then(|p| p.mendable) {
            Some(true) => "repair ARCHIVE rebuilds what the parity file covers",
            _ => "recover ARCHIVE -o NEW saves what is whole",
        };
        facts.add("next", next);
    }
    for lost in report.lost.iter().take(MAX_LISTED) {
        let name = lost.tensor.as_ref().or(lost.side_file.as_ref()).map_or("", String::as_str);
        facts.add("lost", format!("{}: {name}, before this archive was recovered", lost.variant));
    }
    if report.lost.len() > MAX_LISTED {
        facts
            .add("lost", format!("... {} more; --json lists them", report.lost.len() - MAX_LISTED));
    }
    for differing in &report.differing {
        facts.add("differs", format!("{}: {}", differing.variant, differing.tensor));
    }
    facts.to_string()
}

/// Which frames were read.
fn chosen(report: &VerifyReport) -> String {
    let Some(subset) = &report.subset else { return String::new() };
    let seed = subset.seed.map_or(String::new(), |seed| format!(", --seed {seed}"));
    let (share, frames) = (&subset.share, count(subset.of_frames));
    format!("records, every frame's header, and {share} of {frames} frames{seed}")
}
