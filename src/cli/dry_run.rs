//! What verbs say with `--dry-run`.

use std::path::Path;

use delta_stream::{CompressForecast, DryRun, Observer, Result, Space};
use serde::Serialize;

use crate::cli::output::{Facts, Outcome, exact_size, method, size, time};
use crate::cli::resolve::Context;

/// Runs a dry `compress` or `append`.
pub(crate) fn compress(
    context: &Context,
    call: impl FnOnce(&dyn Observer) -> Result<CompressForecast>,
) -> Result<Outcome> {
    let told = context.watch(call)?;
    context.note_all(&told.forecast.notes);
    context.print(&told, || table(&told))?;
    Ok(outcome(Some(&told.space)))
}

/// How a dry run ends: as the real one would, which fails where there is no room.
pub(crate) fn outcome(space: Option<&Space>) -> Outcome {
    match space {
        Some(space) if !space.is_enough() => Outcome::NoRoom,
        _ => Outcome::Done,
    }
}

/// Adds what every dry run says of itself; nothing to a report of what was done.
pub(crate) fn add_space(facts: &mut Facts, space: Option<&Space>) {
    let Some(space) = space else { return };
    let free = space.free_bytes.map_or("unknown".to_owned(), size);
    let word = if space.is_enough() { "" } else { "; NOT ENOUGH" };
    let text = format!("{} needed, {free} free{word}", size(space.needed_bytes));
    facts.add("room", text).add("dry run", "nothing was written");
}

/// A report, and that it was a dry run.
#[derive(Serialize)]
struct Told<'a, T> {
    #[serde(flatten)]
    report: &'a T,
    #[serde(flatten)]
    run: &'a DryRun,
}

/// Prints a report whose text is that of a file too, and so has no place for that it was a dry run.
pub(crate) fn print_file<T: Serialize>(
    context: &Context,
    report: &T,
    (file, run): (&Path, &DryRun),
    table: impl FnOnce() -> String,
) -> Result<Outcome> {
    if !run.dry_run {
        context.print(report, table)?;
        return Ok(Outcome::Done);
    }
    context.print(&Told { report, run }, || {
        let mut facts = Facts::default();
        facts.add("would write", file.display());
        add_space(&mut facts, run.space.as_ref());
        format!("{}\n{facts}", table())
    })?;
    Ok(outcome(run.space.as_ref()))
}

fn table(told: &CompressForecast) -> String {
    let forecast = &told.forecast;
    let is_exact = forecast.sampled >= 1.0 && forecast.plan.is_some() && forecast.vector_bytes == 0;
    let about = |text: String| if is_exact { text } else { format!("about {text}") };
    let after = told.bytes_before + forecast.archive_bytes;
    let mut facts = Facts::default();
    facts
        .add("variant", &told.variant)
        .add("method", method(forecast.method, &forecast.settings))
        .add("fine-tune", exact_size(forecast.fine_tuned_bytes))
        .add("would store", about(exact_size(forecast.archive_bytes)))
        .add("honest ratio", about(format!("{:.2} (fine-tune / stored)", forecast.ratio)))
        .add("archive", format!("{}, then {}", told.archive, about(exact_size(after))));
    if told.parity_bytes > 0 {
        facts.add("parity", about(exact_size(told.parity_bytes)));
    }
    facts
        .add("time, about", time(forecast.seconds))
        .add("memory, at most", size(forecast.memory_bytes))
        .add("sampled", format!("{:.1} % of the tiles", forecast.sampled * 100.0));
    add_space(&mut facts, Some(&told.space));
    facts.to_string()
}
