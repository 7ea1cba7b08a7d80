//! `plan --split`, `compress --part` and `join`: a compress that is shared out among machines.

use std::path::Path;

use delta_stream::{Error, JoinReport, Method, PartOptions, PartReport, Result, Split};

use crate::cli::args::{self, Choice};
use crate::cli::dry_run;
use crate::cli::output::{Columns, Facts, Outcome, count, exact_size, listed, relative, size};
use crate::cli::plan;
use crate::cli::resolve::Context;

/// `plan --split n`.
pub(crate) fn split(verb: &args::Plan, n: u32, context: &Context) -> Result<Outcome> {
    let (ft, base) = (&verb.pair.fine_tune, &verb.pair.base);
    let options = context.compress_options(&verb.choice, verb.name.as_deref())?;
    let output = plan::output(verb, context)?;
    let split = context.watch(|observer| delta_stream::split(ft, base, n, &options, observer))?;
    plan::finish(output, &split, context, || split_table(&split))
}

/// `compress --part i/n --plan FILE`.
pub(crate) fn part(
    verb: &args::Compress,
    (part, of): (u32, u32),
    file: &Path,
    context: &Context,
) -> Result<Outcome> {
    let (ft, base) = (&verb.pair.fine_tune, &verb.pair.base);
    let split = read_split(file)?;
    // The file says who works on what and, where auto was given some, the rates too.
    let choice = Choice { plan: None, ..verb.choice.clone() };
    let mut options = context.compress_options(&choice, verb.name.as_deref())?;
    if let Method::Auto(method) = options.method {
        options.method = Method::Auto(method.with_plan(split.plan.clone()));
    }
    if split.parts != of {
        let text = format!("--part {part}/{of}: {} has {} parts", file.display(), split.parts);
        return Err(Error::invalid_argument(text));
    }
    let task = PartOptions::new(split, part).with_surveys(verb.part.surveys.clone());
    let make = match verb.dry_run {
        true => delta_stream::compress_part_dry_run,
        false => delta_stream::compress_part,
    };
    let report =
        context.watch(|observer| make(ft, base, &verb.output, &task, &options, observer))?;
    context.print(&report, || part_table(&report))?;
    Ok(dry_run::outcome(report.run.space.as_ref()))
}

/// `join PARTS -o FILE`.
pub(crate) fn join(verb: &args::Join, context: &Context) -> Result<Outcome> {
    let join = if verb.dry_run { delta_stream::join_dry_run } else { delta_stream::join };
    let report =
        context.watch(|observer| join(&verb.parts, &verb.output, context.force, observer))?;
    context.print(&report, || join_table(&report))?;
    Ok(dry_run::outcome(report.run.space.as_ref()))
}

fn read_split(file: &Path) -> Result<Split> {
    let text = std::fs::read_to_string(file).map_err(|e| Error::io("read", file, e))?;
    serde_json::from_str(&text).map_err(|e| {
        let text = format!(
            "{} is no plan of parts; write one with: delta-stream plan --split N -o FILE",
            file.display()
        );
        Error::invalid_argument(text).with_source(e)
    })
}

fn split_table(split: &Split) -> String {
    let mut facts = Facts::default();
    let round = match split.rounds {
        1 => "1: every part encodes its share".to_owned(),
        n => format!("{n}: the last one encodes, each before it surveys"),
    };
    facts
        .add("variant", &split.variant)
        .add("method", &split.method)
        .add("fine-tune", exact_size(split.fine_tuned_bytes))
        .add("rounds", round);
    let mut columns = Columns::new(&["part", "tensors", "bytes"]);
    for share in &split.shares {
        let part = format!("{}/{}", share.part, split.parts);
        columns.add(vec![part, count(share.tensors), size(share.bytes)]);
    }
    format!("{facts}\n{columns}")
}

fn part_table(report: &PartReport) -> String {
    let PartReport { part, parts, round, rounds, .. } = report;
    let made = if round == rounds { "frames" } else { "what surveys found" };
    let mut facts = Facts::default();
    facts
        .add("variant", &report.variant)
        .add("method", report.method)
        .add("part", format!("{part} of {parts}, round {round} of {rounds}: {made}"))
        .add("tensors", count(report.tensors))
        .add("share", exact_size(report.share_bytes))
        .add(
            if report.run.dry_run { "stored, at most" } else { "stored" },
            exact_size(report.part_bytes),
        );
    dry_run::add_space(&mut facts, report.run.space.as_ref());
    facts.add_cost(report.peak_memory_bytes, report.elapsed_seconds);
    facts.to_string()
}

fn join_table(report: &JoinReport) -> String {
    let JoinReport { parts, round, rounds, .. } = report;
    let mut facts = Facts::default();
    facts
        .add("variant", &report.variant)
        .add(
            if report.run.dry_run { "would join" } else { "joined" },
            format!("{parts} parts, round {round} of {rounds}"),
        )
        .add("stored", exact_size(report.written_bytes));
    match &report.archive {
        None => facts.add("next", "give it to --surveys of all parts of the next round"),
        Some(archive) => facts
            .add("method", archive.method)
            .add("tensors", archive.tensors)
            .add("fine-tune", exact_size(archive.fine_tuned_bytes))
            .add("honest ratio", format!("{:.2} (fine-tune / stored)", archive.ratio))
            .add_if("relative error", archive.relative_error.map(|e| relative(Some(e))))
            .add_if("measured", Some(listed(&archive.measured)).filter(|text| !text.is_empty())),
    };
    dry_run::add_space(&mut facts, report.run.space.as_ref());
    facts.add_cost(report.peak_memory_bytes, report.elapsed_seconds);
    facts.to_string()
}
