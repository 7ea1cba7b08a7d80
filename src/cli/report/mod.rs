//! `report`: an archive as one HTML page for people, which needs nothing beside it.
//!
//! Numbers come from `inspect` and `verify` alone and stand in the page once more as JSON. Templates escape
//! whatever they are given, a policy in the page lets no script run but its own, and drawings are SVG whose
//! places are percentages, so that they fit any width without a script.

mod bytes;
mod groups;
mod heat;
mod html;
mod integrity;
mod names;
mod nominal;
mod page;
mod scale;
mod scatter;
mod variant;

use std::path::{Path, PathBuf};

use delta_stream::{ArchiveSummary, DryRun, Result, VerifyLevel, VerifyReport};
use serde::Serialize;

use crate::cli::output::{Facts, Outcome, exact_size};
use crate::cli::resolve::Context;
use crate::cli::whole_file::WholeFile;
use crate::cli::{args, dry_run, verify};

/// What a page is made of.
struct Found {
    file_name: String,
    /// The one variant it is about, if it is not about all.
    only: Option<String>,
    summary: ArchiveSummary,
    verify: VerifyReport,
}

/// What was written.
#[derive(Serialize)]
struct Written {
    /// The page.
    output: PathBuf,
    /// Bytes of it.
    page_bytes: u64,
    /// Names of the variants in it.
    variants: Vec<String>,
    /// Whether everything checked is as it must be.
    ok: bool,
    /// How many places of the archive are damaged.
    n_faults: u64,
    #[serde(flatten)]
    run: DryRun,
}

pub(crate) fn run(verb: &args::Report, context: &Context) -> Result<Outcome> {
    let base = verb.base.as_deref();
    let parity = with_suffix(&verb.archive, ".parity");
    let inputs: Vec<&Path> = [&*verb.archive, &*parity].into_iter().chain(base).collect();
    let output = WholeFile::checked(&verb.output, &inputs, (context.force, verb.dry_run))?;
    let found = look(verb, context)?;
    let page = page::render(&found)?;
    let written = Written {
        run: output.write(&page)?,
        output: verb.output.clone(),
        page_bytes: page.len() as u64,
        variants: found.summary.variants.iter().map(|v| v.name.clone()).collect(),
        ok: found.verify.ok,
        n_faults: found.verify.n_faults,
    };
    context.print(&written, || table(&written, &found))?;
    Ok(dry_run::outcome(written.run.space.as_ref()).or(verify::outcome(&found.verify)))
}

/// Checks the archive, then reads what it holds. Of one whose tiles are damaged the records may still be read.
fn look(verb: &args::Report, context: &Context) -> Result<Found> {
    let level = match &verb.base {
        Some(base) => VerifyLevel::Decode(base.clone()),
        None => VerifyLevel::Frames,
    };
    let options = verify::options(level, context).with_name(verb.name.clone());
    let verify =
        context.watch(|observer| delta_stream::verify(&verb.archive, &options, observer))?;
    let name = verb.name.as_deref();
    let summary = match delta_stream::inspect(&verb.archive, name, true) {
        Err(_) if verify.n_faults > 0 => delta_stream::inspect(&verb.archive, name, false)?,
        summary => summary?,
    };
    let file_name = verb.archive.file_name().unwrap_or(verb.archive.as_os_str());
    let file_name = file_name.to_string_lossy().into_owned();
    Ok(Found { file_name, only: verb.name.clone(), summary, verify })
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn table(written: &Written, found: &Found) -> String {
    let page = format!("{}, {}", written.output.display(), exact_size(written.page_bytes));
    let mut facts = Facts::default();
    facts
        .add(if written.run.dry_run { "would write" } else { "page" }, page)
        .add("variants", written.variants.join(", "))
        .add("integrity", integrity::verdict(&found.verify).0);
    dry_run::add_space(&mut facts, written.run.space.as_ref());
    facts.to_string()
}
