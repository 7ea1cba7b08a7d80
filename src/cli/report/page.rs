//! The page: its frame, what stands above the variants, and how large all of it may become.

use delta_stream::{ArchiveSummary, BaseVectorSummary};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use serde_json::{Value, json};

use crate::cli::output::{count, method, size, value};
use crate::cli::report::html::{at, bytes_fact, fact, moves_text, name, percent, short, size_fact};
use crate::cli::report::{Found, integrity, nominal, scatter, variant};

const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("script.js");
/// SHA-256 of the script in base64: no other one runs, whatever a name manages to be.
const SCRIPT_HASH: &str = "xVEz7v0vmMSOq4chINMRUmf5s73fglBn+t9uRvmPTq4=";

/// Most bytes of the embedded data, and of the page.
const MAX_DATA: usize = 1_600_000;
const MAX_PAGE: usize = 2_900_000;
/// Variants and base vectors that are listed.
const MAX_LISTED: usize = 400;

/// The page as a file.
pub(super) fn render(found: &Found) -> delta_stream::Result<String> {
    let data = data(found)?;
    let head = overview(found);
    let sizes = nominal::panel(&found.summary.variants);
    let integrity = integrity::panel(found);
    let fixed = [&head, &sizes, &integrity].map(|part| part.0.len());
    let room = MAX_PAGE.saturating_sub(data.len() + fixed.iter().sum::<usize>() + STYLE.len() * 2);
    let (sections, n_shown) = sections(found, room);
    let n_left_out = found.summary.variants.len() - n_shown;
    let policy = format!(
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; \
         form-action 'none'; script-src 'sha256-{SCRIPT_HASH}'"
    );
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(policy);
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta name="generator" content=(concat!("delta-stream ", env!("CARGO_PKG_VERSION")));
                link rel="icon" href="data:,";
                title { (name(&found.file_name)) " · delta-stream" }
                style { (PreEscaped(STYLE)) }
            }
            body {
                (scatter::shapes())
                (head)
                main {
                    (sizes)
                    (integrity)
                    (sections)
                    @if n_left_out > 0 {
                        p.panel { (n_left_out) " more variants are not drawn here; --name V draws one of them." }
                    }
                }
                footer { p { "Made by delta-stream " (env!("CARGO_PKG_VERSION")) " from the archive alone. Ratios and errors are explained in its README." } }
                div #tip role="status" hidden {}
                script type="application/json" #data { (PreEscaped(data)) }
                script { (PreEscaped(SCRIPT)) }
            }
        }
    };
    Ok(page.into_string())
}

/// Sections of as many variants as there is room for, and how many these are.
fn sections(found: &Found, room: usize) -> (Markup, usize) {
    let (mut all, mut n_shown) = (String::new(), 0);
    for (i, summary) in found.summary.variants.iter().enumerate() {
        let section = variant::section(summary, i).into_string();
        if all.len() + section.len() > room {
            break;
        }
        all.push_str(&section);
        n_shown += 1;
    }
    (PreEscaped(all), n_shown)
}

/// The numbers of the page, as `inspect` and `verify` print them, safe inside a script element. What would make
/// the page too large is left out, tensors first, and said to be.
fn data(found: &Found) -> delta_stream::Result<String> {
    let mut verify = value(&found.verify)?;
    if let Value::Object(fields) = &mut verify {
        // The same archive gives the same page.
        fields.retain(|key, _| key != "peak_memory_bytes" && key != "elapsed_seconds");
    }
    let full = value(&found.summary)?;
    let without_tensors = || {
        let mut summary = full.clone();
        let variants = summary.get_mut("variants").and_then(Value::as_array_mut);
        for variant in variants.into_iter().flatten() {
            variant.as_object_mut().map(|fields| fields.shift_remove("tensor_list"));
        }
        summary
    };
    let whole = inert(&json!({ "inspect": full, "verify": verify, "left_out": null }));
    if whole.len() <= MAX_DATA {
        return Ok(whole);
    }
    let summary = without_tensors();
    let less = inert(&json!({ "inspect": summary, "verify": verify, "left_out": "tensors" }));
    if less.len() <= MAX_DATA {
        return Ok(less);
    }
    Ok(inert(&json!({ "inspect": null, "verify": null, "left_out": "all" })))
}

/// JSON that neither ends the element it stands in, nor begins another, nor turns the text around it.
fn inert(value: &Value) -> String {
    let mut out = String::new();
    for c in value.to_string().chars() {
        let is_plain = !matches!(c, '<' | '>' | '&') && !moves_text(c);
        match is_plain {
            true => out.push(c),
            // All of these have four digits.
            false => out.push_str(&format!("\\u{:04x}", u32::from(c))),
        }
    }
    out
}

/// What stands above everything else: the archive in five numbers, and its variants.
fn overview(found: &Found) -> Markup {
    let summary = &found.summary;
    let (word, is_good) = integrity::verdict(&found.verify);
    let fine_tuned =
        summary.variants.iter().map(|v| v.fine_tuned_bytes).fold(0, u64::saturating_add);
    let ratio = fine_tuned as f64 / summary.archive_bytes.max(1) as f64;
    html! {
        header {
            p.eyebrow { "delta-stream archive" }
            h1 { bdi { (name(&found.file_name)) } }
            dl.tiles {
                div { dt { "archive" } dd { (size_fact("archive_bytes", summary.archive_bytes)) } }
                div { dt { "fine-tunes in it" } dd { (size(fine_tuned)) } }
                @if found.only.is_none() { div { dt { "times smaller, all" } dd { (format!("{ratio:.2}")) "×" } } }
                div { dt { "variants" } dd { (summary.variants.len()) } }
                div { dt { "generation" } dd { (fact("generation", summary.generation, &summary.generation.to_string())) } }
                div { dt { "integrity" } dd { a.badge.good[is_good].bad[!is_good] href="#integrity" { (word) } } }
            }
            (variants(summary))
            (vectors(&summary.base_vectors))
        }
    }
}

/// The variants as a table, which also leads to their sections.
fn variants(summary: &ArchiveSummary) -> Markup {
    let n = summary.variants.len();
    let total = summary.archive_bytes;
    html! {
        nav.panel aria-label="Variants" {
            div.scroll tabindex="0" role="region" aria-label="Variants" {
                table.variants {
                    thead {
                        tr {
                            @for heading in ["variant", "stored", "of the archive", "ratio", "bits", "error", "method"] {
                                th scope="col" { (heading) }
                            }
                        }
                    }
                    tbody {
                        @for (i, v) in summary.variants.iter().enumerate().take(MAX_LISTED) {
                            tr {
                                th scope="row" { a href={ "#v" (i) } { bdi { (name(&v.name)) } } }
                                td { (size_fact(&format!("variants.{i}.stored_bytes"), v.stored_bytes)) }
                                td.with-bar {
                                    svg height="8" aria-hidden="true" {
                                        rect.track x="0" y="0" width="100%" height="8" {}
                                        rect.lossy x="0" y="0" height="8" width=(at(v.stored_bytes as f64 / total.max(1) as f64)) {}
                                    }
                                    span.share { (percent(v.stored_bytes, total)) }
                                }
                                td { (fact(&format!("variants.{i}.ratio"), v.ratio, &format!("{:.2}", v.ratio))) }
                                td { (v.bits_per_parameter.map_or("-".to_owned(), short)) }
                                td { (v.relative_error.map_or("-".to_owned(), short)) }
                                td.text { (name(&method(v.method, &v.settings))) }
                            }
                        }
                    }
                }
            }
            @if n > MAX_LISTED { p.quiet { (n - MAX_LISTED) " more variants." } }
        }
    }
}

fn vectors(vectors: &[BaseVectorSummary]) -> Markup {
    html! {
        @if !vectors.is_empty() {
            dl.facts {
                @for (i, v) in vectors.iter().enumerate().take(MAX_LISTED) {
                    div {
                        dt { "base vector " bdi { (name(&v.name)) } }
                        dd {
                            (bytes_fact(&format!("base_vectors.{i}.stored_bytes"), v.stored_bytes)) ", " (v.method) ", used by "
                            (count(v.used_by.len() as u64)) " variants"
                        }
                    }
                }
            }
        }
    }
}
