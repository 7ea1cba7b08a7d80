//! Where the bytes are: by what they are for, by kind of tensor, by layer.

use delta_stream::VariantSummary;
use maud::{Markup, html};

use crate::cli::output::{count, size};
use crate::cli::report::groups::{Column, Groups, Sums, elements, is_lossy};
use crate::cli::report::html::{at, cell, name, numbers, percent, short};
use crate::cli::report::scale::Scale;

/// Kinds drawn and listed; the rest is one more.
const MAX_KINDS: usize = 14;
/// Height of the drawing by layer, in pixels.
const HEIGHT: f64 = 190.0;
/// Numbers under the columns, at most about so many.
const LABELS: usize = 12;

/// One bar for all of a variant's bytes.
pub(super) fn split(variant: &VariantSummary) -> Markup {
    let parts = parts(variant);
    let total: u64 = parts.iter().map(|(_, _, bytes)| bytes).sum::<u64>().max(1);
    let mut before = 0u64;
    let placed: Vec<_> = parts
        .iter()
        .map(|(class, label, bytes)| {
            let start = before;
            before += bytes;
            (class, label, *bytes, start as f64 / total as f64)
        })
        .collect();
    html! {
        svg.split role="img" aria-label="Stored bytes by what they are for" height="22" {
            @for (class, label, bytes, start) in &placed {
                rect class=(class) x=(at(*start)) y="0" width=(at(*bytes as f64 / total as f64)) height="22" {
                    title { (label) ": " (size(*bytes)) ", " (percent(*bytes, total)) }
                }
            }
        }
        ul.legend {
            @for (class, label, bytes, _) in &placed {
                li { span.swatch.(class) {} (label) " " b { (size(*bytes)) } " " span.quiet { (percent(*bytes, total)) } }
            }
        }
    }
}

/// Class, label and bytes of each part of a variant.
fn parts(variant: &VariantSummary) -> Vec<(&'static str, &'static str, u64)> {
    let lossy = variant.stored_bytes.saturating_sub(variant.rest_bytes);
    let mut out = Vec::new();
    if let (Some(parts), Some(all)) = (variant.parts, variant.bits_per_parameter) {
        let share = |bits: f64| (lossy as f64 * bits / all.max(f64::MIN_POSITIVE)).round() as u64;
        let (positions, scales, headers) =
            (share(parts.positions), share(parts.scales), share(parts.headers));
        // The largest takes what rounding left, so that all of them are the whole.
        let codes = lossy.saturating_sub(positions + scales + headers);
        out.push(("k0", "codes", codes));
        out.push(("k1", "positions", positions));
        out.push(("k2", "scales", scales));
        out.push(("k4", "frame headers", headers));
    } else if lossy > 0 {
        out.push(("k0", "tensors with loss", lossy));
    }
    out.push(("exact", "exact tensors, side files, records", variant.rest_bytes));
    out.retain(|(_, _, bytes)| *bytes > 0);
    out
}

/// A row of the drawing by kind.
struct Row {
    label: String,
    sums: Sums,
}

/// The kinds with most stored bytes, and one row for the others.
fn rows(groups: &Groups) -> Vec<Row> {
    let mut rows: Vec<Row> = groups
        .kinds
        .iter()
        .take(MAX_KINDS)
        .map(|kind| Row { label: name(&kind.name), sums: kind.sums })
        .collect();
    let others = groups.kinds.get(MAX_KINDS..).unwrap_or_default();
    if !others.is_empty() {
        let sums = others.iter().fold(Sums::default(), |sum, kind| sum.and(&kind.sums));
        rows.push(Row { label: format!("{} other kinds", others.len()), sums });
    }
    rows
}

/// Bars: stored bytes of each kind of tensor.
pub(super) fn by_kind(groups: &Groups) -> Markup {
    let rows = rows(groups);
    let most = rows.iter().map(|row| row.sums.stored).max().unwrap_or(0).max(1);
    html! {
        ul.legend {
            li { span.swatch.lossy {} "with loss" }
            li { span.swatch.exact {} "bit for bit" }
        }
        div.bars role="img" aria-label="Stored bytes by kind of tensor" {
            @for Row { label, sums } in &rows {
                @let lossy = sums.stored_lossy as f64 / most as f64;
                @let exact = sums.stored.saturating_sub(sums.stored_lossy) as f64 / most as f64;
                div.bar {
                    span.label title=(label) { bdi { (label) } }
                    svg height="14" {
                        title { (label) ": " (size(sums.stored)) " of " (size(sums.bytes)) }
                        rect.lossy x="0" y="0" width=(at(lossy)) height="14" {}
                        rect.exact x=(at(lossy)) y="0" width=(at(exact)) height="14" {}
                    }
                    span.value { b { (size(sums.stored)) } " " span.quiet { (percent(sums.stored, sums.bytes)) } }
                }
            }
        }
        (kind_numbers(&rows))
    }
}

fn kind_numbers(rows: &[Row]) -> Markup {
    let headings = ["kind", "tensors", "in the checkpoint", "stored", "of it", "bits", "error"];
    let cells = |row: &Row| {
        let sums = &row.sums;
        vec![
            html! { bdi { (row.label) } },
            cell(count(sums.tensors)),
            cell(count(sums.bytes)),
            html! { data.kind-stored value=(sums.stored) { (count(sums.stored)) } },
            cell(percent(sums.stored, sums.bytes)),
            cell(sums.bits().map_or("-".into(), short)),
            cell(sums.error().map_or("-".into(), short)),
        ]
    };
    numbers(&headings, &rows.iter().map(cells).collect::<Vec<_>>())
}

/// Columns: stored bytes of each layer.
pub(super) fn by_layer(groups: &Groups) -> Markup {
    let columns = &groups.columns;
    if columns.is_empty() {
        return html! { p.quiet { "No tensor's name has the number of a layer." } };
    }
    let most = columns.iter().map(|c| c.sums.stored).max().unwrap_or(0);
    let scale = Scale::of_bytes(most);
    let width = 1.0 / columns.len() as f64;
    html! {
        svg.chart role="img" aria-label="Stored bytes by layer" height=(HEIGHT + 40.0) {
            @for tick in scale.ticks() {
                @let y = y(&scale, tick);
                line.rule x1="0" x2="100%" y1=(y) y2=(y) {}
                text.tick-y x="-8" y=(y) dy="4" { (size(tick as u64).replace(".0 ", " ")) }
            }
            @for (i, column) in columns.iter().enumerate() { (drawn(column, i as f64 * width, width, &scale)) }
            (axis(columns))
        }
        p.quiet {
            "Outside the layers: " b { (size(groups.outside.stored)) } " in " (count(groups.outside.tensors))
            " tensors."
            @if groups.layers_each > 1 { " Each column is up to " (groups.layers_each) " layers." }
        }
        (layer_numbers(groups))
    }
}

fn y(scale: &Scale, value: f64) -> String {
    format!("{:.1}", 10.0 + (1.0 - scale.at(value)) * (HEIGHT - 10.0))
}

/// One column: exact tensors upon those with loss.
fn drawn(column: &Column, x: f64, width: f64, scale: &Scale) -> Markup {
    let height = |bytes: u64| scale.at(bytes as f64) * (HEIGHT - 10.0);
    let sums = &column.sums;
    let (lossy, all) = (height(sums.stored_lossy), height(sums.stored));
    let part = |class: &str, height: f64, base: f64| {
        html! {
            rect class=(class) x=(at(x + width * 0.1)) width=(at(width * 0.8))
                y=(format!("{:.1}", HEIGHT - base - height)) height=(format!("{height:.1}")) {}
        }
    };
    html! {
        g {
            title {
                (name(&column.stack)) " " (column.label()) ": " (size(sums.stored)) " of " (size(sums.bytes))
                ", " (size(sums.stored_lossy)) " of them with loss"
            }
            (part("lossy", lossy, 0.0))
            (part("exact", all - lossy, lossy))
        }
    }
}

/// Numbers of layers under a drawing, and where each stack begins if there are several.
fn axis(columns: &[Column]) -> Markup {
    let width = 1.0 / columns.len() as f64;
    let every = columns.len().div_ceil(LABELS);
    let begins = |i: usize| i == 0 || columns[i].stack != columns[i - 1].stack;
    let n_stacks = (0..columns.len()).filter(|i| begins(*i)).count();
    html! {
        @for (i, column) in columns.iter().enumerate() {
            @if i % every == 0 {
                text.tick-x x=(at((i as f64 + 0.5) * width)) y=(HEIGHT + 16.0) { (column.label()) }
            }
            @if begins(i) && n_stacks <= LABELS / 2 {
                text.stack x=(at(i as f64 * width)) y=(HEIGHT + 33.0) { (name(&column.stack)) }
            }
        }
    }
}

fn layer_numbers(groups: &Groups) -> Markup {
    let headings =
        ["layer", "tensors", "in the checkpoint", "stored", "with loss", "bits", "error"];
    let row = |label: String, sums: &Sums| {
        vec![
            html! { bdi { (label) } },
            cell(count(sums.tensors)),
            cell(count(sums.bytes)),
            html! { data.layer-stored value=(sums.stored) { (count(sums.stored)) } },
            cell(count(sums.stored_lossy)),
            cell(sums.bits().map_or("-".into(), short)),
            cell(sums.error().map_or("-".into(), short)),
        ]
    };
    let mut rows: Vec<_> = groups
        .columns
        .iter()
        .map(|c| row(format!("{} {}", name(&c.stack), c.label()), &c.sums))
        .collect();
    rows.push(row("outside".to_owned(), &groups.outside));
    numbers(&headings, &rows)
}

/// Parameters of a variant that are stored with loss.
pub(super) fn lossy_parameters(variant: &VariantSummary) -> Option<u64> {
    let tensors = variant.tensor_list.as_ref()?;
    Some(tensors.iter().filter(|t| is_lossy(t)).map(elements).fold(0, u64::saturating_add))
}
