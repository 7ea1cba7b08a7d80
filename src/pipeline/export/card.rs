//! Model cards: what a variant or an export is, for the page of a model on a hub. Nothing is said that the
//! archive does not know: the base's name, a licence and a task are the caller's to add.

use std::path::Path;

use crate::archive::{Archive, Stored};
use crate::error::Result;
use crate::inspect::summarise;
use crate::pipeline::export::settings::ExportOptions;
use crate::report::{HfDeltaReport, PeftReport, VariantSummary};

/// File name of a card, where hubs look for it.
pub(super) const CARD_NAME: &str = "README.md";

/// The model card of a variant of `archive`, as Markdown with the front matter that hubs read, from its records
/// alone.
///
/// # Errors
/// `InvalidArgument` if there is no such variant, or none is named and there are several, or for a base that
/// is not called ORG/NAME; `Corrupt`, `Truncated` or `Incompatible` if what is read of the archive cannot be;
/// `Io`.
pub fn model_card(archive: &Path, options: &ExportOptions) -> Result<String> {
    options.validate()?;
    let opened = Archive::open(archive)?;
    let stored = opened.load(options.name.as_deref())?;
    let file = archive.file_name().unwrap_or_default().to_string_lossy();
    let name = code(&stored.head.name);
    let mut card = Card::new("finetune", None, options);
    card.title(&stored.head.name);
    card.text(&format!(
        "A fine-tune{}, stored as a compressed delta against it{}.",
        of_base(options),
        by_tool(&stored)
    ));
    card.table(&facts(&stored, true));
    card.text(LOSS_NOTE.get(usize::from(is_lossy(&stored))).unwrap_or(&""));
    card.text("Restored with the base at hand:");
    card.block(&format!(
        "delta-stream restore {} --base BASE -o DIR --name {}",
        shell(&file),
        shell(&stored.head.name)
    ));
    card.text(&format!("`BASE` is a local copy of the base; another is refused. {name} is one of the archive's variants."));
    Ok(card.0)
}

/// What is lost, and what not, for variants without and with loss.
const LOSS_NOTE: [&str; 2] = [
    "Every tensor restores bit for bit.",
    "The relative error is the sum of squares of what was lost over that of the delta, over the tensors that are \
     stored with loss; what it means for a task has to be measured on it.",
];

/// The card of a step of weights.
pub(super) fn delta_card(
    stored: &Stored,
    options: &ExportOptions,
    report: &HfDeltaReport,
) -> String {
    let mut card = Card::new("finetune", None, options);
    card.title(&stored.head.name);
    card.text(&format!(
        "Version {} of the weights of a fine-tune{}, told as what changed since version {}{}. These files are no \
         model: loaded as one they mean nothing.",
        report.version,
        of_base(options),
        report.base_version,
        by_tool(stored)
    ));
    let mut facts = facts(stored, false);
    facts.extend([
        ("encoding", format!("{}, zstd, checksums {}", report.encoding, report.checksum)),
        ("tensors that changed", format!("{}", report.tensors)),
        ("tensors as in the base", format!("{}", report.unchanged_tensors)),
        ("tensors left out", format!("{}", report.left_out.len())),
        ("bytes that changed", format!("{} of {}", report.changed_bytes, report.tensor_bytes)),
        ("bytes here", format!("{}", report.exported_bytes)),
    ]);
    card.table(&facts);
    card.text(LOSS_NOTE.get(usize::from(is_lossy(stored))).unwrap_or(&""));
    if !report.left_out.is_empty() {
        card.text("Tensors that the base has not, or not alike, are not here.");
    }
    card.text(
        "Taken by SGLang's `/pull_weights` and by what reads the same layout: each tensor is one zstd frame under \
         its own name, to be applied to the bytes of the base's tensor; the checksum in its file's metadata is that \
         of the result. Configuration and tokenizer stay the base's.",
    );
    card.0
}

/// The card of an adapter.
pub(super) fn adapter_card(
    stored: &Stored,
    options: &ExportOptions,
    report: &PeftReport,
) -> String {
    let mut card = Card::new("adapter", Some("peft"), options);
    card.title(&stored.head.name);
    card.text(&format!(
        "A low-rank adapter{}, taken of a fine-tune's stored delta against it{}. It was not trained: it is the best of \
         its rank, matrix by matrix, and not the whole fine-tune.",
        of_base(options),
        by_tool(stored)
    ));
    let mut facts = facts(stored, false);
    let percent =
        |share: Option<f64>| share.map_or("-".to_owned(), |x| format!("{:.2} %", 100.0 * x));
    let left = &report.left_out;
    facts.extend([
        ("rank", format!("{}, {}", report.rank, report.dtype)),
        ("weights", format!("{}", report.tensors.len())),
        ("lost of their deltas", percent(report.relative_error)),
        ("changed tensors left out", format!("{}", left.changed.len())),
        ("their share of all deltas", percent(left.delta_share)),
        ("tensors without a delta", format!("{}", left.without_delta.len())),
    ]);
    card.table(&facts);
    card.text(
        "Shares are of sums of squares, and against what the archive restores. Left out are embeddings, heads, norms and \
         biases: a fine-tune with a new head is not whole without that.",
    );
    card.0
}

fn is_lossy(stored: &Stored) -> bool {
    let is_dropped = |(key, value): &(String, String)| key == "rest" && value == "base";
    stored.head.items.iter().any(|item| item.lossy) || stored.head.settings.iter().any(is_dropped)
}

/// What the archive knows of a variant; with `stored` how large it is there.
fn facts(stored: &Stored, with_size: bool) -> Vec<(&'static str, String)> {
    let summary = summarise(stored, None, false);
    let VariantSummary { method, settings, stored_bytes, fine_tuned_bytes, ratio, .. } = &summary;
    let settings: Vec<_> = settings.iter().map(|(key, value)| format!("{key} {value}")).collect();
    let settings =
        if settings.is_empty() { String::new() } else { format!(" ({})", settings.join(", ")) };
    let mut facts = vec![("method", format!("{method}{settings}"))];
    if with_size {
        facts.push(("fine-tune", format!("{fine_tuned_bytes} bytes")));
        facts.push(("stored", format!("{stored_bytes} bytes, everything included")));
        facts.push(("ratio", format!("{ratio:.2}")));
        facts.push((
            "tensors",
            format!("{}, of these {} with loss", summary.tensors, summary.lossy_tensors),
        ));
    }
    if let Some(error) = summary.relative_error {
        facts.push(("relative error", format!("{error:.3e}")));
    }
    facts
}

/// ` of [ORG/NAME](..)`, or of an unnamed base.
fn of_base(options: &ExportOptions) -> String {
    match &options.base_model {
        Some(name) => format!(" of [{name}](https://huggingface.co/{name})"),
        None => " of a base that is not named here".to_owned(),
    }
}

/// Which tools made it.
fn by_tool(stored: &Stored) -> String {
    let (by, now) = (code(&stored.head.tool), env!("CARGO_PKG_VERSION"));
    format!(" (compressed by {by}, written by `delta-stream {now}`)")
}

/// A card that grows: front matter first.
struct Card(String);

impl Card {
    /// The front matter: how the model stands to the base, if that has a name, and for which library it is.
    fn new(relation: &str, library: Option<&str>, options: &ExportOptions) -> Self {
        let mut front = String::from("---\n");
        if let Some(name) = &options.base_model {
            front += &format!("base_model: {name}\nbase_model_relation: {relation}\n");
        }
        if let Some(library) = library {
            front += &format!("library_name: {library}\n");
        }
        Self(front + "tags:\n- delta-stream\n---\n")
    }

    fn title(&mut self, name: &str) {
        self.0 += &format!("\n# {}\n", code(name));
    }

    fn text(&mut self, text: &str) {
        self.0 += &format!("\n{text}\n");
    }

    fn block(&mut self, line: &str) {
        self.0 += &format!("\n```sh\n{line}\n```\n");
    }

    fn table(&mut self, rows: &[(&str, String)]) {
        self.0 += "\n| | |\n|---|---|\n";
        for (label, value) in rows {
            self.0 += &format!("| {label} | {} |\n", plain(value).replace('|', "\\|"));
        }
    }
}

/// A name as code in Markdown, whatever is in it.
fn code(name: &str) -> String {
    format!("`{}`", plain(name).replace('`', "'"))
}

/// Text without control characters: names in archives are anyone's.
fn plain(text: &str) -> String {
    text.replace(char::is_control, " ")
}

/// A word of a command line, quoted where a shell would take it apart.
fn shell(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./@".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", plain(word).replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_do_no_harm() {
        assert_eq!(code("a`b\n"), "`a'b `");
        assert_eq!(shell("ft-1.delta.zst"), "ft-1.delta.zst");
        assert_eq!(shell("a b'c"), "'a b'\\''c'");
        assert_eq!(shell(""), "''");
    }
}
