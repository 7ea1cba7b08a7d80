//! `repair`, and what other verbs say of parity.

use delta_stream::{
    ParityReport, ParityState, RepairOptions, RepairReport, RepairState, Result, Span,
};

use crate::cli::args;
use crate::cli::output::{Facts, Outcome, count, exact_size};
use crate::cli::resolve::Context;

/// Ranges and faults listed in the table.
const MAX_LISTED: usize = 16;

pub(crate) fn run(verb: &args::Repair, context: &Context) -> Result<Outcome> {
    let options = RepairOptions::default()
        .with_output(verb.output.clone())
        .with_dry_run(verb.dry_run)
        .with_resources(context.resources.clone())
        .with_force(context.force);
    let report =
        context.watch(|observer| delta_stream::repair(&verb.archive, &options, observer))?;
    context.print(&report, || table(&report))?;
    Ok(match report.state {
        RepairState::BeyondRepair => Outcome::Damaged,
        state => Outcome::of(state != RepairState::Repairable),
    })
}

/// One line about a parity file.
pub(crate) fn parity(report: &ParityReport) -> String {
    let ParityReport { percent, bytes, covered_bytes, state, damaged_blocks, .. } = report;
    let mut text = match state {
        ParityState::Unreadable => return "UNREADABLE; --parity makes a new one".to_owned(),
        ParityState::Foreign => return "OF ANOTHER ARCHIVE; remove it".to_owned(),
        ParityState::Current => format!("{percent}%, {}", exact_size(*bytes)),
        _ => format!("{percent}%, {}, covers {}", exact_size(*bytes), exact_size(*covered_bytes)),
    };
    match state {
        ParityState::Behind => text.push_str("; a compact renews it"),
        ParityState::Ahead => text.push_str(", more than is left"),
        _ => {}
    }
    if *damaged_blocks > 0 {
        text.push_str(&format!("; {} blocks of it are DAMAGED", count(*damaged_blocks)));
    }
    text
}

fn table(report: &RepairReport) -> String {
    let result = match report.state {
        RepairState::Whole => "nothing is damaged",
        RepairState::Repaired => "repaired",
        RepairState::Repairable => "damaged; it can be repaired",
        _ => "TOO MUCH IS DAMAGED; nothing was written",
    };
    let mut facts = Facts::default();
    facts
        .add("result", result)
        .add("parity", parity(&report.parity))
        .add("archive", exact_size(report.bytes));
    if report.parity_renewed {
        facts.add("parity", "was damaged itself, and is made anew");
    }
    if report.uncovered_bytes > 0 {
        facts.add("not covered", format!("the last {}", exact_size(report.uncovered_bytes)));
    }
    if report.unknown_groups > 0 {
        let text = "groups of blocks, since the parity file is damaged";
        facts.add("unknown", format!("{} {text}", count(report.unknown_groups)));
    }
    if report.damaged_blocks > 0 {
        facts.add("damaged", format!("{} blocks", count(report.damaged_blocks)));
        spans(&mut facts, &report.damaged, report.n_damaged);
    }
    if report.n_beyond > 0 {
        facts.add("beyond", "of these, more than can be rebuilt:");
        spans(&mut facts, &report.beyond, report.n_beyond);
    }
    if let Some(left) = &report.survivors {
        let whole = if left.whole.is_empty() { "none".to_owned() } else { left.whole.join(", ") };
        facts.add("still whole", whole);
        left.faults.iter().take(MAX_LISTED).for_each(|fault| {
            facts.add("", fault);
        });
        let more = left.n_faults.saturating_sub(left.faults.len().min(MAX_LISTED) as u64);
        if more > 0 {
            facts.add("", format!("... {} places more; --json lists them", count(more)));
        }
    }
    if report.state == RepairState::BeyondRepair {
        facts.add("next", "recover ARCHIVE -o NEW saves what is whole");
    }
    facts.add_cost(report.peak_memory_bytes, report.elapsed_seconds);
    facts.to_string()
}

fn spans(facts: &mut Facts, listed: &[Span], n: usize) {
    for Span { start, end } in listed.iter().take(MAX_LISTED) {
        facts.add("", format!("bytes {} to {}", count(*start), count(*end)));
    }
    let more = n.saturating_sub(listed.len().min(MAX_LISTED));
    if more > 0 {
        facts.add("", format!("... {} ranges more; --json lists them", count(more as u64)));
    }
}
