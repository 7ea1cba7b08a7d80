//! `compress` and `append`.

use std::path::Path;

use delta_stream::{CompressReport, Result};

use crate::cli::args;
use crate::cli::dry_run;
use crate::cli::output::{Facts, Outcome, count, exact_size, listed, method, relative, size};
use crate::cli::resolve::Context;
use crate::cli::{parts, repair, whole_file};

pub(crate) fn compress(verb: &args::Compress, context: &Context) -> Result<Outcome> {
    let read: Vec<&Path> = [&verb.choice.plan, &verb.part.surveys]
        .into_iter()
        .filter_map(|file| file.as_deref())
        .collect();
    whole_file::apart(&verb.output, &read)?;
    if let (Some(part), Some(plan)) = (verb.part.part, &verb.choice.plan) {
        return parts::part(verb, part, plan, context);
    }
    let (ft, base) = (&verb.pair.fine_tune, &verb.pair.base);
    let options = context.compress_options(&verb.choice, verb.name.as_deref())?;
    let options = options.with_resume(verb.resume).with_parity(verb.parity);
    let archive = &verb.output;
    if verb.dry_run {
        return dry_run::compress(context, |observer| {
            delta_stream::compress_dry_run(ft, base, archive, &options, observer)
        });
    }
    let report =
        context.watch(|observer| delta_stream::compress(ft, base, archive, &options, observer))?;
    context.print(&report, || table(&report))?;
    Ok(Outcome::Done)
}

pub(crate) fn append(verb: &args::Append, context: &Context) -> Result<Outcome> {
    let (ft, base) = (&verb.pair.fine_tune, &verb.pair.base);
    let options = context.compress_options(&verb.choice, Some(&verb.name))?;
    let options = options.with_resume(verb.resume).with_parity(verb.parity);
    if verb.dry_run {
        return dry_run::compress(context, |observer| {
            delta_stream::append_dry_run(ft, base, &verb.archive, &options, observer)
        });
    }
    let report = context
        .watch(|observer| delta_stream::append(ft, base, &verb.archive, &options, observer))?;
    context.print(&report, || table(&report))?;
    Ok(Outcome::Done)
}

pub(crate) fn table(report: &CompressReport) -> String {
    let tensors = match report.lossy_tensors {
        0 => format!("{}, all bit for bit", report.tensors),
        n => format!("{}, of these {n} with loss", report.tensors),
    };
    let kept = [report.resumed_tensors, report.resumed_tiles, report.resumed_surveys];
    let resumed = (kept != [0; 3]).then(|| {
        let [tensors, tiles, surveys] = kept;
        format!("{tensors} tensors, {tiles} tiles and {surveys} surveys of a run that was cut off were kept")
    });
    let paper = report.paper_ratio.map(|ratio| {
        format!("{ratio:.2} (the paper's count: {})", report.paper_ratio_kind.unwrap_or("unknown"))
    });
    let bits = report.bits_per_parameter.map(|bits| {
        format!("{bits:.3} (over {} lossy parameters)", count(report.lossy_parameters))
    });
    let exact = (report.exact_tiles > 0).then(|| {
        let (tiles, parameters) = (report.exact_tiles, count(report.exact_parameters));
        format!("{tiles} ({parameters} parameters) of the lossy tensors: not finite, or too large")
    });
    let error = report.relative_error.map(|e| {
        format!("{} (lost / delta, sums of squares over the lossy tensors)", relative(Some(e)))
    });
    let shift = report.base_shift.as_ref().map(|s| {
        let vector = s.vector.as_deref().unwrap_or("no vector");
        let (lambda, eta) = (s.lambda, s.eta);
        let users = match s.vector_users {
            0 | 1 => String::new(),
            n => format!(", {n} variants use it"),
        };
        format!("lambda {lambda:.4} along {vector} ({}{users}), eta {eta:.4}", size(s.vector_bytes))
    });
    let measured = (!report.measured.is_empty()).then(|| listed(&report.measured));
    let output = report.output_error.map(|e| {
        format!("{} (the same at the outputs of the calibrated layers)", relative(Some(e)))
    });
    let rate = report.fine_tuned_bytes as f64 / report.elapsed_seconds.max(1e-9);
    let ratio = format!("{:.2} (fine-tune / stored, everything included)", report.ratio);
    let mut facts = Facts::default();
    facts
        .add("variant", &report.variant)
        .add("method", method(report.method, &report.settings))
        .add("tensors", tensors)
        .add_if("resumed", resumed)
        .add("fine-tune", exact_size(report.fine_tuned_bytes))
        .add("stored", exact_size(report.archive_bytes))
        .add("honest ratio", ratio)
        .add_if("paper ratio", paper)
        .add_if("bits a parameter", bits)
        .add_if("exact tiles", exact)
        .add_if("relative error", error)
        .add_if("output error", output)
        .add_if("base shift", shift)
        .add_if("measured", measured)
        .add_if("parity", report.parity.as_ref().map(repair::parity))
        .add_cost(report.peak_memory_bytes, report.elapsed_seconds)
        .add("rate", format!("{} a second", size(rate as u64)));
    facts.to_string()
}
