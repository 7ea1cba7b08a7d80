//! Sizes beside what other methods and tools say of themselves.

use delta_stream::VariantSummary;
use maud::{Markup, html};

use crate::cli::report::html::{at, cell, fact, name, numbers, round};
use crate::cli::report::scale::Scale;

/// Variants that have a row.
const MAX_VARIANTS: usize = 24;

/// A ratio as its authors state it.
struct Nominal {
    name: &'static str,
    ratio: f64,
    /// Whether the fine-tune comes back bit for bit.
    is_exact: bool,
    counts: &'static str,
    source: &'static str,
}

/// None of them was measured on this archive's models.
const NOMINAL: &[Nominal] = &[
    Nominal {
        name: "DARE, 90 % dropped",
        ratio: 7.73,
        is_exact: false,
        counts: "values and mask of the linear layers, on 16 bits",
        source: "arXiv 2311.03099",
    },
    Nominal {
        name: "DeltaZip, 2 bits and 2:4",
        ratio: 9.86,
        is_exact: false,
        counts: "one 7B model, as published",
        source: "github.com/eth-easl/deltazip",
    },
    Nominal {
        name: "BitDelta",
        ratio: 16.0,
        is_exact: false,
        counts: "one bit for each weight of the linear layers, on 16",
        source: "arXiv 2402.10193",
    },
    Nominal {
        name: "Delta-DCT",
        ratio: 16.0,
        is_exact: false,
        counts: "code bits of the linear layers, on 16",
        source: "arXiv 2503.06676",
    },
    Nominal {
        name: "DeltaDQ, alpha 8, 4 bits",
        ratio: 32.0,
        is_exact: false,
        counts: "codes of the survivors, on 16 bits",
        source: "arXiv 2410.08666",
    },
    Nominal {
        name: "UltraDelta, LLaMA-2, at most",
        ratio: 50.0,
        is_exact: false,
        counts: "the linear layers",
        source: "arXiv 2505.13563",
    },
    Nominal {
        name: "ZipNN, bf16, without a base",
        ratio: 1.51,
        is_exact: true,
        counts: "whole files",
        source: "github.com/zipnn/zipnn",
    },
    Nominal {
        name: "FM-Delta, mean",
        ratio: 2.0,
        is_exact: true,
        counts: "whole files",
        source: "NeurIPS 2024",
    },
    Nominal {
        name: "ZipLLM, delta stage",
        ratio: 2.0,
        is_exact: true,
        counts: "what deduplication leaves of 3,048 models",
        source: "github.com/ds2-lab/ZipLLM",
    },
];

/// The panel.
pub(super) fn panel(variants: &[VariantSummary]) -> Markup {
    let listed = &variants[..variants.len().min(MAX_VARIANTS)];
    let own = listed.iter().flat_map(|v| [Some(v.ratio), on_sixteen(v)]).flatten();
    let most = own.chain(NOMINAL.iter().map(|n| n.ratio)).filter(|r| r.is_finite());
    let scale = Scale::log(1.0, most.fold(100.0, f64::max));
    html! {
        section.panel #sizes aria-labelledby="sizes-title" {
            h2 #sizes-title { "Times smaller" }
            p.quiet {
                "Filled: everything stored for the fine-tune, of everything it has. Hollow: the tensors stored with "
                "loss alone, on 16 bits a parameter, as papers count. Figures of others are nominal: what their "
                "authors state, of other models, not measured here."
            }
            div.dots role="img" aria-label="Ratios of the variants and nominal ratios of other methods" {
                @for v in listed { (row(&name(&v.name), "own", Some(v.ratio), on_sixteen(v), &scale)) }
                @for n in NOMINAL { (nominal_row(n, &scale)) }
                (axis(&scale))
            }
            (numbers(&["", "ratio", "on 16 bits", "counts", "source"], &rows(listed)))
        }
    }
}

/// A variant's ratio as papers count: 16 bits over what its lossy tensors take.
fn on_sixteen(variant: &VariantSummary) -> Option<f64> {
    variant.bits_per_parameter.filter(|bits| *bits > 0.0).map(|bits| 16.0 / bits)
}

fn nominal_row(nominal: &Nominal, scale: &Scale) -> Markup {
    let ratio = Some(nominal.ratio);
    let (whole, paper) = if nominal.is_exact { (ratio, None) } else { (None, ratio) };
    row(nominal.name, "peer", whole, paper, scale)
}

fn row(label: &str, class: &str, whole: Option<f64>, paper: Option<f64>, scale: &Scale) -> Markup {
    let values = [whole, paper];
    let text: Vec<String> = values.iter().flatten().map(|v| format!("{}×", times(*v))).collect();
    html! {
        div.bar.(class) {
            span.label title=(label) { bdi { (label) } }
            svg height="18" {
                title { (label) ": " (text.join(", on 16 bits ")) }
                line.track x1="0" x2="100%" y1="9" y2="9" {}
                @if let (Some(whole), Some(paper)) = (whole, paper) {
                    line.span x1=(at(scale.at(whole))) x2=(at(scale.at(paper))) y1="9" y2="9" {}
                }
                @if let Some(paper) = paper { circle.hollow cx=(at(scale.at(paper))) cy="9" r="4.5" {} }
                @if let Some(whole) = whole { circle.filled cx=(at(scale.at(whole))) cy="9" r="5" {} }
            }
            span.value { (text.join(" / ")) }
        }
    }
}

/// A ratio in about three digits.
fn times(ratio: f64) -> String {
    round(if ratio < 10.0 { (ratio * 100.0).round() / 100.0 } else { ratio })
}

/// Labels at the ends of an axis stay inside it.
fn anchor(place: f64) -> &'static str {
    match place {
        ..0.02 => "tick-first",
        0.98.. => "tick-last",
        _ => "tick-x",
    }
}

fn axis(scale: &Scale) -> Markup {
    html! {
        div.bar.axis {
            span.label {}
            svg height="16" {
                @for tick in scale.ticks() {
                    text.(anchor(scale.at(tick))) x=(at(scale.at(tick))) y="12" { (round(tick)) "×" }
                }
            }
            span.value {}
        }
    }
}

fn rows(variants: &[VariantSummary]) -> Vec<Vec<Markup>> {
    let own = variants.iter().enumerate().map(|(i, v)| {
        vec![
            html! { bdi { (name(&v.name)) } },
            fact(&format!("variants.{i}.ratio"), v.ratio, &format!("{:.2}", v.ratio)),
            cell(on_sixteen(v).map_or("-".into(), |r| format!("{r:.2}"))),
            cell("everything stored"),
            cell("this archive"),
        ]
    });
    let others = NOMINAL.iter().map(|n| {
        let (whole, paper) = match n.is_exact {
            true => (format!("{:.2}, nominal", n.ratio), "-".to_owned()),
            false => ("-".to_owned(), format!("{:.2}, nominal", n.ratio)),
        };
        vec![cell(n.name), cell(whole), cell(paper), cell(n.counts), cell(n.source)]
    });
    own.chain(others).collect()
}
