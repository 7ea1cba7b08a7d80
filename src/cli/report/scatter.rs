//! Bits against error, a mark a tensor stored with loss.

use std::collections::BTreeMap;

use delta_stream::TensorSummary;
use maud::{Markup, html};

use crate::cli::report::groups::{Groups, is_lossy};
use crate::cli::report::html::{at, name, round, short};
use crate::cli::report::scale::Scale;

/// Height of the drawing, in pixels.
const HEIGHT: f64 = 260.0;
/// Marks have one of so many colours and shapes; the last is for all further kinds.
const KINDS: usize = 8;
/// More tensors than this are drawn together where their marks would lie on each other.
const MAX_MARKS: usize = 800;
/// Cells across and down in which they are.
const CELLS: (f64, f64) = (80.0, 40.0);

/// One tensor, or several of one kind in the same place.
struct Mark {
    kind: usize,
    bits: f64,
    error: f64,
    title: String,
}

/// The drawing; says so where there is nothing to draw.
pub(super) fn draw(tensors: &[TensorSummary], groups: &Groups) -> Markup {
    let points: Vec<(usize, f64, f64)> = tensors
        .iter()
        .enumerate()
        .filter(|(_, t)| is_lossy(t))
        .filter_map(|(i, t)| Some((i, t.bits_per_parameter, t.relative_error?)))
        .filter(|(_, bits, error)| bits.is_finite() && error.is_finite())
        .collect();
    let axes = Scale::of(points.iter().map(|p| p.1)).zip(Scale::of(points.iter().map(|p| p.2)));
    let Some((x, y)) = axes else {
        return html! { p.empty { "Every tensor is kept bit for bit: there is no error to draw." } };
    };
    let (kinds, has_others) = drawn_kinds(groups, &points);
    let slot = |tensor: usize| {
        kinds.iter().position(|k| *k == groups.kind_of[tensor]).unwrap_or(KINDS - 1)
    };
    let marks = if points.len() > MAX_MARKS {
        together(&points, slot, &x, &y, groups)
    } else {
        let mark = |(i, bits, error): &(usize, f64, f64)| Mark {
            kind: slot(*i),
            bits: *bits,
            error: *error,
            title: format!(
                "{}: {} bits, error {}",
                name(&tensors[*i].name),
                short(*bits),
                short(*error)
            ),
        };
        points.iter().map(mark).collect()
    };
    html! {
        p.axis-name { "relative error, up; stored bits a parameter, to the right" }
        (plot(&marks, &x, &y))
        (legend(groups, (&kinds, has_others), points.len()))
    }
}

/// The kinds that have colours of their own, those with most bytes, and whether there are others.
fn drawn_kinds(groups: &Groups, points: &[(usize, f64, f64)]) -> (Vec<usize>, bool) {
    let mut kinds: Vec<usize> = points.iter().map(|(i, ..)| groups.kind_of[*i]).collect();
    kinds.sort_unstable();
    kinds.dedup();
    // Their numbers are their ranks.
    let has_others = kinds.len() > KINDS;
    kinds.truncate(if has_others { KINDS - 1 } else { KINDS });
    (kinds, has_others)
}

/// Points as marks, those of a kind in one cell together.
fn together(
    points: &[(usize, f64, f64)],
    slot: impl Fn(usize) -> usize,
    x: &Scale,
    y: &Scale,
    groups: &Groups,
) -> Vec<Mark> {
    let mut cells: BTreeMap<(usize, usize, usize), (u64, usize)> = BTreeMap::new();
    for (i, bits, error) in points {
        let across = x.class(*bits, CELLS.0 as usize);
        let down = y.class(*error, CELLS.1 as usize);
        cells.entry((slot(*i), across, down)).or_insert((0, *i)).0 += 1;
    }
    let mark = |((kind, across, down), (n, first)): ((usize, usize, usize), (u64, usize))| {
        let bits = x.value((across as f64 + 0.5) / CELLS.0);
        let error = y.value((down as f64 + 0.5) / CELLS.1);
        let what = name(&groups.kinds[groups.kind_of[first]].name);
        let (b, e) = (short(bits), short(error));
        Mark { kind, bits, error, title: format!("{what}: {n} tensors about {b} bits, error {e}") }
    };
    cells.into_iter().map(mark).collect()
}

fn plot(marks: &[Mark], x: &Scale, y: &Scale) -> Markup {
    let down = |value: f64| format!("{:.1}", 8.0 + (1.0 - y.at(value)) * (HEIGHT - 16.0));
    html! {
        svg.chart role="img" height=(HEIGHT + 24.0)
            aria-label="Relative error against stored bits a parameter, a mark a tensor" {
            @for tick in y.ticks() {
                @let y = down(tick);
                line.rule x1="0" x2="100%" y1=(y) y2=(y) {}
                text.tick-y x="-8" y=(y) dy="4" { (round(tick)) }
            }
            @for tick in x.ticks() {
                @let x = at(x.at(tick));
                line.rule x1=(x) x2=(x) y1="8" y2=(HEIGHT - 8.0) {}
                text.tick-x x=(x) y=(HEIGHT + 12.0) { (round(tick)) }
            }
            @for mark in marks {
                use.{ "k" (mark.kind) } href={ "#m" (mark.kind) } x=(at(x.at(mark.bits))) y=(down(mark.error)) {
                    title { (mark.title) }
                }
            }
        }
    }
}

fn legend(groups: &Groups, (kinds, has_others): (&[usize], bool), n: usize) -> Markup {
    html! {
        ul.legend {
            @for (i, kind) in kinds.iter().enumerate() {
                li {
                    svg.key width="12" height="12" aria-hidden="true" { use.{ "k" (i) } href={ "#m" (i) } x="6" y="6" {} }
                    bdi { (name(&groups.kinds[*kind].name)) }
                }
            }
            @if has_others {
                li {
                    svg.key width="12" height="12" aria-hidden="true" {
                        use.{ "k" (KINDS - 1) } href={ "#m" (KINDS - 1) } x="6" y="6" {}
                    }
                    "other kinds"
                }
            }
        }
        @if n > MAX_MARKS { p.quiet { (n) " tensors; those in the same place are one mark." } }
    }
}

/// The shapes of marks, for the whole page: shape and colour both tell kinds apart.
pub(super) fn shapes() -> Markup {
    html! {
        svg.shapes width="0" height="0" aria-hidden="true" {
            defs {
                circle #m0 r="3.6" {}
                rect #m1 x="-3.2" y="-3.2" width="6.4" height="6.4" {}
                path #m2 d="M0-4.4 4.2 3.2H-4.2z" {}
                path #m3 d="M0-4.6 4.6 0 0 4.6-4.6 0z" {}
                path #m4 d="M0 4.4 4.2-3.2H-4.2z" {}
                path #m5 d="M-1.4-4.2H1.4V-1.4H4.2V1.4H1.4V4.2H-1.4V1.4H-4.2V-1.4H-1.4z" {}
                path #m6 d="M-4.4 0A4.4 4.4 0 0 1 4.4 0z" {}
                circle #m7 r="2.4" {}
            }
        }
    }
}
