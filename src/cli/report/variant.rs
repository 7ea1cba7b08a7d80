//! One variant: its method and settings, and where its bytes and its error are.

use delta_stream::{TensorSummary, VariantSummary};
use maud::{Markup, html};

use crate::cli::output::{count, size};
use crate::cli::report::groups::Groups;
use crate::cli::report::html::{bytes_fact, cell, fact, name, short, table};
use crate::cli::report::{bytes, heat, scatter};

/// Settings, measured values, shards and side files that are listed.
const MAX_LISTED: usize = 40;
/// Tensors that are listed.
const MAX_TENSORS: usize = 400;

/// The whole section of the variant at position `at`.
pub(super) fn section(variant: &VariantSummary, at: usize) -> Markup {
    let tensors = variant.tensor_list.as_deref().unwrap_or_default();
    let groups = Groups::new(tensors);
    html! {
        section.variant #{ "v" (at) } aria-labelledby={ "v" (at) "-title" } {
            h2 #{ "v" (at) "-title" } { bdi { (name(&variant.name)) } " " span.method { (variant.method) } }
            (facts(variant, at))
            div.grid {
                (panel(at, "split", "What the bytes are for", bytes::split(variant)))
                @if variant.tensor_list.is_some() { (panels(tensors, &groups, at)) }
                @else {
                    section.panel { p.empty { "The tensors are not drawn: their tiles cannot be read." } }
                }
            }
        }
    }
}

fn panels(tensors: &[TensorSummary], groups: &Groups, at: usize) -> Markup {
    html! {
        div.column {
            (panel(at, "kinds", "Stored bytes by kind of tensor", bytes::by_kind(groups)))
            (panel(at, "heat", "Layers and kinds", heat::draw(groups, at)))
        }
        div.column {
            (panel(at, "layers", "Stored bytes by layer", bytes::by_layer(groups)))
            (panel(at, "scatter", "Bits against error", scatter::draw(tensors, groups)))
        }
        (panel(at, "tensors", "Tensors", tensor_list(tensors)))
    }
}

fn panel(at: usize, kind: &str, title: &str, body: Markup) -> Markup {
    html! {
        section.panel.{ "panel-" (kind) } aria-labelledby={ "v" (at) "-" (kind) } {
            h3 #{ "v" (at) "-" (kind) } { (title) }
            (body)
        }
    }
}

/// What is said of the variant as a whole.
fn facts(variant: &VariantSummary, at: usize) -> Markup {
    let path = |field: &str| format!("variants.{at}.{field}");
    html! {
        dl.facts {
            div { dt { "stored" } dd { (bytes_fact(&path("stored_bytes"), variant.stored_bytes)) } }
            div { dt { "fine-tune" } dd { (bytes_fact(&path("fine_tuned_bytes"), variant.fine_tuned_bytes)) } }
            div { dt { "honest ratio" } dd { (fact(&path("ratio"), variant.ratio, &format!("{:.2}", variant.ratio))) } }
            @if let Some(bits) = variant.bits_per_parameter {
                div {
                    dt { "bits a parameter" }
                    dd {
                        (fact(&path("bits_per_parameter"), bits, &short(bits)))
                        @if let Some(n) = bytes::lossy_parameters(variant) { " over " (count(n)) " lossy parameters" }
                    }
                }
            }
            @if let Some(error) = variant.relative_error {
                div { dt { "relative error" } dd { (fact(&path("relative_error"), error, &short(error))) " of the delta's squares" } }
            }
            div {
                dt { "tensors" }
                dd {
                    (fact(&path("tensors"), variant.tensors, &count(variant.tensors as u64))) ", of these "
                    (fact(&path("lossy_tensors"), variant.lossy_tensors, &count(variant.lossy_tensors as u64)))
                    " with loss"
                }
            }
            (pairs("settings", &variant.settings))
            div { dt { "seed" } dd { (variant.seed) } }
            @if let Some(shift) = &variant.base_shift {
                div {
                    dt { "base shift" }
                    dd {
                        "lambda " (short(f64::from(shift.lambda))) " along "
                        (shift.vector.as_deref().map_or("no vector".to_owned(), name)) ", eta " (short(f64::from(shift.eta)))
                    }
                }
            }
            (pairs("measured", &variant.measured))
            (names("shards", &variant.shards))
            (names("side files", &variant.side_files))
            (names("lost", &variant.lost))
            div { dt { "written by" } dd { (name(&variant.tool)) } }
        }
    }
}

fn pairs(label: &str, pairs: &[(String, String)]) -> Markup {
    let shown: Vec<String> =
        pairs.iter().map(|(key, value)| format!("{key} {}", in_short(value))).collect();
    names(label, &shown)
}

/// A number of many digits in a few; anything else as it is.
fn in_short(value: &str) -> String {
    let number = value.parse::<f64>().ok().filter(|_| value.len() > 8);
    number.map_or_else(|| value.to_owned(), short)
}

fn names(label: &str, all: &[String]) -> Markup {
    let shown: Vec<String> = all.iter().take(MAX_LISTED).map(|text| name(text)).collect();
    let n_more = all.len() - shown.len();
    html! {
        @if !all.is_empty() {
            div {
                dt { (label) }
                dd { (shown.join(", ")) @if n_more > 0 { " and " (n_more) " more" } }
            }
        }
    }
}

/// The tensors as a table; of very many those with most stored bytes.
fn tensor_list(tensors: &[TensorSummary]) -> Markup {
    let mut order: Vec<usize> = (0..tensors.len()).collect();
    if tensors.len() > MAX_TENSORS {
        order.sort_by_key(|i| std::cmp::Reverse(tensors[*i].stored_bytes));
        order.truncate(MAX_TENSORS);
    }
    let rows: Vec<Vec<Markup>> = order.iter().map(|i| tensor_row(&tensors[*i])).collect();
    let headings = ["tensor", "dtype", "shape", "as", "bytes", "stored", "bits", "error"];
    html! {
        details {
            summary {
                @if rows.len() < tensors.len() {
                    "The " (rows.len()) " of " (count(tensors.len() as u64)) " tensors that take most bytes"
                } @else { "All " (count(tensors.len() as u64)) " tensors" }
            }
            (table(&headings, &rows))
            @if rows.len() < tensors.len() { p.quiet { "inspect --tensors lists all of them." } }
        }
    }
}

fn tensor_row(tensor: &TensorSummary) -> Vec<Markup> {
    let shape: Vec<String> = tensor.shape.iter().take(8).map(u64::to_string).collect();
    vec![
        html! { bdi { (name(&tensor.name)) } },
        cell(tensor.dtype),
        cell(shape.join("×")),
        cell(tensor.stored_as),
        cell(size(tensor.bytes)),
        cell(size(tensor.stored_bytes)),
        cell(short(tensor.bits_per_parameter)),
        cell(tensor.relative_error.map_or("-".to_owned(), short)),
    ]
}
