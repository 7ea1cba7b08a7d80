//! Numbers and names as the page shows them. What goes into the page goes through the template's escaping;
//! nothing here makes markup of text.

use maud::{Markup, html};
use serde::Serialize;

use crate::cli::output::{count, exact_size, size, visible};

/// Characters of a name that are shown.
const LONGEST_NAME: usize = 160;

/// A name from an archive, which is anyone's: control characters and those that move text about are
/// written out, and one too long for a page is cut.
pub(super) fn name(text: &str) -> String {
    let cut: String = text.chars().take(LONGEST_NAME).collect();
    let mut out = String::with_capacity(cut.len());
    for c in visible(&cut).chars() {
        if moves_text(c) { out.extend(c.escape_unicode()) } else { out.push(c) }
    }
    if text.chars().nth(LONGEST_NAME).is_some() {
        out.push('…');
    }
    out
}

/// Whether a character turns the text around it or ends its line.
pub(super) fn moves_text(c: char) -> bool {
    let ranges = ['\u{200e}'..='\u{200f}', '\u{2028}'..='\u{202e}', '\u{2066}'..='\u{2069}'];
    ranges.iter().any(|range| range.contains(&c))
}

/// A number of the embedded data, with its path there, as people read it.
pub(super) fn fact(path: &str, value: impl Serialize, text: &str) -> Markup {
    let value = serde_json::to_value(value).unwrap_or_default();
    html! { data value=(value) data-of=(path) { (text) } }
}

/// Bytes of the embedded data.
pub(super) fn bytes_fact(path: &str, bytes: u64) -> Markup {
    fact(path, bytes, &exact_size(bytes))
}

/// Bytes of the embedded data, in short.
pub(super) fn size_fact(path: &str, bytes: u64) -> Markup {
    html! { data value=(bytes) data-of=(path) title=(format!("{} bytes", count(bytes))) { (size(bytes)) } }
}

/// A number in three or four digits.
pub(super) fn short(value: f64) -> String {
    let size = value.abs();
    if !value.is_finite() {
        return value.to_string();
    }
    match size {
        0.0 => "0".to_owned(),
        1000.0.. => count(value.round() as u64),
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        0.1.. => format!("{value:.3}"),
        0.001.. => format!("{value:.4}"),
        _ => format!("{value:.1e}"),
    }
}

/// A number without zeros at its end, as on an axis.
pub(super) fn round(value: f64) -> String {
    let text = short(value);
    match text.contains('.') && !text.contains('e') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

/// A share of a whole.
pub(super) fn percent(part: u64, whole: u64) -> String {
    if whole == 0 {
        return "-".to_owned();
    }
    let share = part as f64 * 100.0 / whole as f64;
    if share >= 10.0 { format!("{share:.0} %") } else { format!("{share:.2} %") }
}

/// A place along an axis, 0 to 1, as SVG takes it.
pub(super) fn at(place: f64) -> String {
    let text = format!("{:.2}", place * 100.0);
    format!("{}%", text.trim_end_matches('0').trim_end_matches('.'))
}

/// A table that scrolls by itself where the page is narrow. The first column names the row.
pub(super) fn table(headings: &[&str], rows: &[Vec<Markup>]) -> Markup {
    html! {
        div.scroll tabindex="0" role="region" aria-label="Table" {
            table {
                thead { tr { @for heading in headings { th scope="col" { (heading) } } } }
                tbody {
                    @for row in rows {
                        tr {
                            @for (i, cell) in row.iter().enumerate() {
                                @if i == 0 { th scope="row" { (cell) } } @else { td { (cell) } }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// The numbers behind a drawing, folded away.
pub(super) fn numbers(headings: &[&str], rows: &[Vec<Markup>]) -> Markup {
    html! {
        details { summary { "The numbers" } (table(headings, rows)) }
    }
}

/// Plain text as a cell.
pub(super) fn cell(text: impl Into<String>) -> Markup {
    let text = text.into();
    html! { (text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_turn_or_end_the_text() {
        assert_eq!(name("a\u{202e}b\nc"), "a\\u{202e}b\\nc");
        assert_eq!(name("wörter"), "wörter");
        assert_eq!(name(&"x".repeat(500)).chars().count(), LONGEST_NAME + 1);
        let markup = fact("a.b", "\"><script>", "<b>").into_string();
        assert!(!markup.contains("<script") && !markup.contains("<b>"), "{markup}");
    }

    #[test]
    fn numbers_are_short() {
        for (value, text) in [
            (0.0, "0"),
            (0.98765, "0.988"),
            (12.345, "12.3"),
            (0.0421, "0.0421"),
            (4.2e-6, "4.2e-6"),
            (123456.7, "123,457"),
            (f64::INFINITY, "inf"),
        ] {
            assert_eq!(short(value), text);
        }
        assert_eq!(
            [round(2.0), round(0.5), round(100.0), round(1e-5)],
            ["2", "0.5", "100", "1.0e-5"]
        );
        assert_eq!([at(0.5), at(0.0), at(1.0), at(0.12345)], ["50%", "0%", "100%", "12.35%"]);
        assert_eq!(
            (percent(1, 3), percent(1, 0), percent(1, 400)),
            ("33 %".into(), "-".into(), "0.25 %".into())
        );
    }
}
