//! `export`.

use std::path::Path;

use delta_stream::{
    Error, ExportForecast, ExportOptions, HfDelta, HfDeltaReport, Peft, PeftReport, Policy, Result,
};
use serde_json::json;

use crate::cli::args;
use crate::cli::args::FormatName;
use crate::cli::dry_run;
use crate::cli::output::{Facts, Outcome, count, exact_size, print, relative, visible};
use crate::cli::resolve::Context;

/// What the note says of tensors that receivers cannot take.
const NEW: &str = "left out: the base has none alike";

pub(crate) fn run(verb: &args::Export, context: &Context) -> Result<Outcome> {
    let options = ExportOptions::default()
        .with_name(verb.name.clone())
        .with_base_model(verb.base_model.clone())
        .with_resources(context.resources.clone())
        .with_force(context.force);
    refuse_others_options(verb)?;
    match verb.format {
        FormatName::HfDelta => hf_delta(verb, &options, context),
        FormatName::Peft => peft(verb, &options, context),
        FormatName::Card => card(verb, &options, context),
    }
}

/// Refuses what another form takes.
fn refuse_others_options(verb: &args::Export) -> Result<()> {
    let of = &verb.hf_delta;
    let hf_delta = [
        ("--version", of.version.is_some()),
        ("--base-version", of.base_version.is_some()),
        ("--encoding", of.encoding.is_some()),
        ("--checksum", of.checksum.is_some()),
        ("--leave-out-new", of.leave_out_new),
    ];
    let peft = [
        ("--rank", verb.peft.rank.is_some()),
        ("--dtype", verb.peft.dtype.is_some()),
        ("--include", verb.peft.include.is_some()),
        ("--exclude", verb.peft.exclude.is_some()),
    ];
    let places = [
        ("--base", verb.base.is_some()),
        ("--output", verb.output.is_some()),
        ("--dry-run", verb.dry_run),
    ];
    let refused = match verb.format {
        FormatName::HfDelta => peft.to_vec(),
        FormatName::Peft => hf_delta.to_vec(),
        FormatName::Card => [&hf_delta[..], &peft, &places].concat(),
    };
    match refused.iter().find(|(_, is_given)| *is_given) {
        Some((flag, _)) => {
            Err(Error::invalid_argument(format!("{flag} means nothing for this --format")))
        }
        None => Ok(()),
    }
}

/// Base and output, which the parser has asked for where they are needed.
fn places(verb: &args::Export) -> Result<(&Path, &Path)> {
    let missing = || Error::invalid_argument("this --format takes --base and --output");
    let (base, output) = verb.base.as_deref().zip(verb.output.as_deref()).ok_or_else(missing)?;
    Ok((base, output))
}

fn hf_delta(verb: &args::Export, options: &ExportOptions, context: &Context) -> Result<Outcome> {
    let (base, output) = places(verb)?;
    let of = &verb.hf_delta;
    let mut settings =
        HfDelta::default().with_base_version(of.base_version).with_leave_out_new(of.leave_out_new);
    if let Some(version) = of.version {
        settings = settings.with_version(version);
    }
    if let Some(encoding) = of.encoding {
        settings = settings.with_encoding(encoding.into());
    }
    if let Some(checksum) = of.checksum {
        settings = settings.with_checksum(checksum.into());
    }
    if verb.dry_run {
        let archive = &verb.archive;
        return told(
            &delta_stream::export_hf_delta_dry_run(archive, base, output, &settings, options)?,
            context,
        );
    }
    let report = context.watch(|observer| {
        delta_stream::export_hf_delta(&verb.archive, base, output, &settings, options, observer)
    })?;
    let new = named(&report.left_out, NEW);
    let only_in_base = named(&report.only_in_base, "only in the base and stay there");
    context.note_all(&[new, only_in_base].concat());
    context.print(&report, || hf_delta_table(&report))?;
    Ok(Outcome::Done)
}

/// Prints what a dry run found.
fn told(forecast: &ExportForecast, context: &Context) -> Result<Outcome> {
    context.note_all(&named(&forecast.left_out, NEW));
    context.print(forecast, || {
        let mut facts = Facts::default();
        facts
            .add("variant", &forecast.variant)
            .add("would write", &forecast.directory)
            .add("tensors", forecast.tensors)
            .add("bytes", format!("at most {}", exact_size(forecast.space.needed_bytes)));
        dry_run::add_space(&mut facts, Some(&forecast.space));
        facts.to_string()
    })?;
    Ok(dry_run::outcome(Some(&forecast.space)))
}

/// What a person should know of some tensors, if there are any.
fn named(names: &[String], are: &str) -> Vec<String> {
    let note = |first: &String| match names.len() {
        1 => format!("tensor {} is {are}", visible(first)),
        n => format!("{n} tensors are {are} (first: {})", visible(first)),
    };
    names.first().map(note).into_iter().collect()
}

fn hf_delta_table(report: &HfDeltaReport) -> String {
    let all = report.tensors + report.unchanged_tensors;
    let share = 100.0 * report.changed_bytes as f64 / report.tensor_bytes.max(1) as f64;
    let mut facts = Facts::default();
    facts
        .add("variant", &report.variant)
        .add("directory", &report.directory)
        .add("version", format!("{} on {}", report.version, report.base_version))
        .add("encoding", format!("{}, checksums {}", report.encoding, report.checksum))
        .add("tensors", format!("{} of {all}; the others are as in the base", report.tensors))
        .add("changed", format!("{} bytes, {share:.2} %", count(report.changed_bytes)))
        .add("written", format!("{} in {} files", exact_size(report.exported_bytes), report.files))
        .add_cost(report.peak_memory_bytes, report.elapsed_seconds);
    facts.to_string()
}

fn peft(verb: &args::Export, options: &ExportOptions, context: &Context) -> Result<Outcome> {
    let (base, output) = places(verb)?;
    let of = &verb.peft;
    let policy = Policy::new(of.include.as_deref(), of.exclude.as_deref())?;
    let mut settings = Peft::default().with_policy(policy);
    if let Some(rank) = of.rank {
        settings = settings.with_rank(rank);
    }
    if let Some(dtype) = of.dtype {
        settings = settings.with_dtype(dtype.into());
    }
    if verb.dry_run {
        let archive = &verb.archive;
        return told(
            &delta_stream::export_peft_dry_run(archive, base, output, &settings, options)?,
            context,
        );
    }
    let report = context.watch(|observer| {
        delta_stream::export_peft(&verb.archive, base, output, &settings, options, observer)
    })?;
    let left = &report.left_out;
    let changed = named(&left.changed, "changed and not in the adapter");
    let new = named(&left.without_delta, "left out: they have no delta to the base");
    context.note_all(&[changed, new].concat());
    context.print(&report, || peft_table(&report))?;
    Ok(Outcome::Done)
}

fn peft_table(report: &PeftReport) -> String {
    let left = &report.left_out;
    let n_left = left.changed.len() + left.without_delta.len();
    let share = relative(left.delta_share);
    let mut facts = Facts::default();
    facts
        .add("variant", &report.variant)
        .add("directory", &report.directory)
        .add("adapter", format!("rank {}, {}", report.rank, report.dtype))
        .add("weights", report.tensors.len())
        .add(
            "relative error",
            format!(
                "{} (lost / delta, sums of squares over these)",
                relative(report.relative_error)
            ),
        )
        .add(
            "left out",
            format!("{n_left} tensors, with {share} of the sum of squares of all deltas"),
        )
        .add("written", exact_size(report.adapter_bytes))
        .add_cost(report.peak_memory_bytes, report.elapsed_seconds);
    facts.to_string()
}

fn card(verb: &args::Export, options: &ExportOptions, context: &Context) -> Result<Outcome> {
    let card = delta_stream::model_card(&verb.archive, options)?;
    if context.json {
        context.print(&json!({ "card": card }), String::new)?;
    } else {
        print(&card)?;
    }
    Ok(Outcome::Done)
}
