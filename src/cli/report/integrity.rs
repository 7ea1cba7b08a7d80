//! What was found sound: structure, checksums, hashes, parity.

use delta_stream::{ParityState, VerifyReport};
use maud::{Markup, html};

use crate::cli::output::{count, exact_size, size};
use crate::cli::repair;
use crate::cli::report::Found;
use crate::cli::report::html::name;

/// Faults, lost and differing tensors that are listed.
const MAX_LISTED: usize = 50;

/// A word or two, and whether it is good news.
pub(super) fn verdict(verify: &VerifyReport) -> (&'static str, bool) {
    match (verify.n_faults, verify.ok) {
        (0, true) => ("sound", true),
        (0, false) if !verify.lost.is_empty() => ("incomplete", false),
        (0, false) if verify.differing.is_empty() => ("parity of no use", false),
        (0, false) => ("differs", false),
        _ => ("damaged", false),
    }
}

/// The panel.
pub(super) fn panel(found: &Found) -> Markup {
    let verify = &found.verify;
    let (word, is_good) = verdict(verify);
    html! {
        section.panel #integrity aria-labelledby="integrity-title" {
            h2 #integrity-title { "Integrity" }
            p { span.badge.good[is_good].bad[!is_good] { (word) } " " (scope(found)) }
            dl.facts {
                div { dt { "generation" } dd { (found.summary.generation) } }
                div { dt { "format version" } dd { (found.summary.format_version) } }
                div { dt { "frame headers at their places" } dd { (count(verify.headers)) } }
                div { dt { "frames read, checksums held" } dd { (count(verify.frames)) ", " (size(verify.bytes)) } }
                div { dt { "hashes" } dd { (hashes(verify)) } }
                div { dt { "parity" } dd { (parity(verify, found.only.is_some())) } }
                @if verify.tail_bytes > 0 {
                    div { dt { "torn tail" } dd { (exact_size(verify.tail_bytes)) ", which no reader uses" } }
                }
            }
            (faults(verify))
        }
    }
}

/// What was looked at.
fn scope(found: &Found) -> String {
    let what = match &found.only {
        Some(only) => format!("variant {}", name(only)),
        None => "the whole archive".to_owned(),
    };
    match found.verify.level {
        "decode" => format!("{what}: structure, every checksum, and every tensor decoded"),
        _ => format!("{what}: structure and every checksum"),
    }
}

fn hashes(verify: &VerifyReport) -> &'static str {
    match (verify.level, verify.differing.is_empty()) {
        ("decode", true) => {
            "every tensor decodes to the bytes that were hashed when it was stored (xxh3-128)"
        }
        ("decode", false) => {
            "some tensors decode to other bytes than were stored; they are listed below"
        }
        _ => "stored for every tensor (xxh3-128), not compared here: that needs the base (--base)",
    }
}

fn parity(verify: &VerifyReport, one_alone: bool) -> String {
    match &verify.parity {
        None if one_alone => "not looked at: one variant alone was checked".to_owned(),
        None => "no parity file".to_owned(),
        Some(report) => {
            let text = repair::parity(report);
            if report.state == ParityState::Current { format!("{text}, current") } else { text }
        }
    }
}

/// What is damaged, lost or different.
fn faults(verify: &VerifyReport) -> Markup {
    let damaged = verify.faults.iter().map(|fault| format!("damaged: {fault}"));
    let lost = verify.lost.iter().map(|lost| {
        let what = lost.tensor.as_ref().or(lost.side_file.as_ref()).map_or("", String::as_str);
        format!("lost before this archive was recovered: {}: {what}", lost.variant)
    });
    let differing =
        verify.differing.iter().map(|d| format!("differs: {}: {}", d.variant, d.tensor));
    let all: Vec<String> = damaged.chain(lost).chain(differing).map(|line| name(&line)).collect();
    let n_faults = verify.n_faults + (verify.lost.len() + verify.differing.len()) as u64;
    let n_more = n_faults.saturating_sub(all.len().min(MAX_LISTED) as u64);
    html! {
        @if !all.is_empty() {
            ul.faults {
                @for line in all.iter().take(MAX_LISTED) { li { bdi { (line) } } }
                @if n_more > 0 { li { (count(n_more)) " more; verify --json lists them" } }
            }
        }
    }
}
