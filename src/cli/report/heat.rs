//! Layer by kind: error or bits as a colour.

use maud::{Markup, html};

use crate::cli::report::groups::{Column, Groups, Sums};
use crate::cli::report::html::{at, name, short};
use crate::cli::report::scale::Scale;

/// Colours of a map, pale to strong.
const CLASSES: usize = 7;
/// Kinds that have a row of their own.
const MAX_ROWS: usize = 14;

/// What a map shows of a cell.
struct Measure {
    /// Begins the classes of its colours.
    class: &'static str,
    label: &'static str,
    of: fn(&Sums) -> Option<f64>,
}

const ERROR: Measure = Measure { class: "e", label: "relative error", of: Sums::error };
const BITS: Measure = Measure { class: "h", label: "stored bits a parameter", of: Sums::bits };

/// Both maps with a switch between them, which needs no script; the bits alone where nothing is lost.
pub(super) fn draw(groups: &Groups, variant: usize) -> Markup {
    if groups.columns.is_empty() {
        return html! { p.empty { "No tensor's name has the number of a layer." } };
    }
    let error = map(groups, &ERROR);
    let Some(error) = error else {
        return html! { (map(groups, &BITS).unwrap_or_default()) };
    };
    let group = format!("heat-{variant}");
    html! {
        div.switch {
            input type="radio" name=(group) id={ (group) "-e" } class="pick-e" checked;
            label for={ (group) "-e" } { "error" }
            input type="radio" name=(group) id={ (group) "-h" } class="pick-h";
            label for={ (group) "-h" } { "bits" }
            div.map-e { (error) }
            div.map-h { (map(groups, &BITS).unwrap_or_default()) }
        }
    }
}

/// A row for each kind in layers, the largest first; none if no cell has a value.
fn map(groups: &Groups, measure: &Measure) -> Option<Markup> {
    let has_value = |kind: &usize| {
        let mut cells = groups.columns.iter().filter_map(|c| c.cells.get(kind));
        cells.any(|sums| (measure.of)(sums).is_some())
    };
    let in_layers = |kind: &usize| groups.kinds[*kind].in_layers;
    let kinds: Vec<usize> = (0..groups.kinds.len()).filter(in_layers).filter(has_value).collect();
    let n_left_out = kinds.len().saturating_sub(MAX_ROWS);
    let kinds = &kinds[..kinds.len().min(MAX_ROWS)];
    let values = groups.columns.iter().flat_map(|column| {
        kinds.iter().filter_map(|kind| column.cells.get(kind).and_then(measure.of))
    });
    let scale = Scale::of_range(values)?;
    Some(html! {
        div.heat role="img" aria-label={ "Layers across, kinds down, colour: " (measure.label) } {
            @for kind in kinds { (row(groups, *kind, measure, &scale)) }
            (axis(&groups.columns))
        }
        (legend(measure, &scale))
        @if n_left_out > 0 { p.quiet { (n_left_out) " smaller kinds are left out." } }
    })
}

fn row(groups: &Groups, kind: usize, measure: &Measure, scale: &Scale) -> Markup {
    let width = 1.0 / groups.columns.len() as f64;
    let label = name(&groups.kinds[kind].name);
    html! {
        div.bar {
            span.label title=(label) { bdi { (label) } }
            svg height="18" {
                @for (i, column) in groups.columns.iter().enumerate() {
                    @if let Some(value) = column.cells.get(&kind).and_then(measure.of) {
                        rect class={ (measure.class) (scale.class(value, CLASSES)) } x=(at(i as f64 * width))
                            width=(at(width)) y="0" height="18" {
                            title { (column.label()) " " (label) ": " (short(value)) }
                        }
                    }
                }
            }
        }
    }
}

/// The first and last number of each stack, as far as there is room.
fn axis(columns: &[Column]) -> Markup {
    let width = 1.0 / columns.len() as f64;
    let every = columns.len().div_ceil(12);
    html! {
        div.bar.axis {
            span.label { "layer" }
            svg height="16" {
                @for (i, column) in columns.iter().enumerate().step_by(every) {
                    text.tick-x x=(at((i as f64 + 0.5) * width)) y="12" { (column.first) }
                }
            }
        }
    }
}

fn legend(measure: &Measure, scale: &Scale) -> Markup {
    let end = |i: usize| short(scale.value(i as f64 / CLASSES as f64));
    html! {
        div.ramp {
            span { (measure.label) ": " (end(0)) }
            svg width="112" height="10" aria-hidden="true" {
                @for i in 0..CLASSES {
                    rect class={ (measure.class) (i) } x=(i * 16) y="0" width="16" height="10" {}
                }
            }
            span { (end(CLASSES)) }
        }
    }
}
