//! `inspect`.

use delta_stream::{ArchiveSummary, PartBits, Result, TensorSummary, VariantSummary};

use crate::cli::args;
use crate::cli::output::{Columns, Facts, Outcome, exact_size, listed, method, relative, size};
use crate::cli::resolve::Context;

pub(crate) fn run(verb: &args::Inspect, context: &Context) -> Result<Outcome> {
    let report = delta_stream::inspect(&verb.archive, verb.name.as_deref(), verb.tensors)?;
    context.print(&report, || table(&report))?;
    Ok(Outcome::Done)
}

pub(crate) fn table(report: &ArchiveSummary) -> String {
    let mut facts = Facts::default();
    facts
        .add("archive", exact_size(report.archive_bytes))
        .add("format version", report.format_version)
        .add("generation", report.generation)
        .add("variants", report.variants.len());
    for vector in &report.base_vectors {
        let users = match vector.used_by.as_slice() {
            [] => "no variant; compact leaves it behind".to_owned(),
            names => names.join(", "),
        };
        let text = format!(
            "{} ({}), {}, used by {users}",
            vector.name,
            vector.method,
            size(vector.stored_bytes)
        );
        facts.add("base vector", text);
    }
    let mut out = facts.to_string();
    for variant in &report.variants {
        out.push('\n');
        out.push_str(&variant_table(variant));
    }
    out
}

fn variant_table(variant: &VariantSummary) -> String {
    let mut facts = Facts::default();
    facts
        .add("variant", &variant.name)
        .add("method", method(variant.method, &variant.settings))
        .add("seed", variant.seed)
        .add("written by", &variant.tool)
        .add(
            "tensors",
            format!("{}, of these {} with loss", variant.tensors, variant.lossy_tensors),
        )
        .add("fine-tune", exact_size(variant.fine_tuned_bytes))
        .add("stored", exact_size(variant.stored_bytes))
        .add(
            "honest ratio",
            format!("{:.2} (fine-tune / stored, everything included)", variant.ratio),
        )
        .add_if("bits a parameter", variant.bits_per_parameter.map(|b| format!("{b:.3}")))
        .add_if("of these", variant.parts.map(|parts| parts_line(&parts)))
        .add("rest", format!("{} (all but the lossy tensors)", exact_size(variant.rest_bytes)))
        .add_if("relative error", variant.relative_error.map(|e| relative(Some(e))))
        .add_if(
            "base shift",
            variant.base_shift.as_ref().map(|s| {
                let vector = s.vector.as_deref().unwrap_or("no vector");
                format!("lambda {:.4} along {vector}, eta {:.4}", s.lambda, s.eta)
            }),
        )
        .add_if("measured", (!variant.measured.is_empty()).then(|| listed(&variant.measured)))
        .add("shards", variant.shards.len())
        .add("side files", variant.side_files.join(", "))
        .add_if("lost", (!variant.lost.is_empty()).then(|| variant.lost.join(", ")));
    let mut out = facts.to_string();
    if let Some(tensors) = &variant.tensor_list {
        out.push('\n');
        out.push_str(&tensor_table(tensors));
    }
    out
}

fn parts_line(parts: &PartBits) -> String {
    let PartBits { codes, positions, scales, headers, .. } = parts;
    format!(
        "codes {codes:.4}, positions {positions:.4}, scales {scales:.4}, frame headers {headers:.4}"
    )
}

fn tensor_table(tensors: &[TensorSummary]) -> String {
    let headings = [
        "tensor",
        "dtype",
        "shape",
        "as",
        "bytes",
        "stored",
        "bits",
        "codes",
        "positions",
        "scales",
        "headers",
        "error",
    ];
    let mut columns = Columns::new(&headings);
    for t in tensors {
        let shape: Vec<String> = t.shape.iter().map(u64::to_string).collect();
        let part = |of: fn(&PartBits) -> f64| {
            t.parts.map_or_else(|| "-".to_owned(), |parts| format!("{:.4}", of(&parts)))
        };
        columns.add(vec![
            t.name.clone(),
            t.dtype.to_owned(),
            format!("[{}]", shape.join(", ")),
            t.stored_as.to_owned(),
            size(t.bytes),
            size(t.stored_bytes),
            format!("{:.3}", t.bits_per_parameter),
            part(|p| p.codes),
            part(|p| p.positions),
            part(|p| p.scales),
            part(|p| p.headers),
            relative(t.relative_error),
        ]);
    }
    columns.to_string()
}
