//! `demo`: the whole tour on a small pair, each step shown as the command that does it. Also the
//! hidden `make-pair`.

use std::path::{Path, PathBuf};

use delta_stream::{DryRun, Error, PairForecast, PairShape, Result, VerifyLevel};
use serde::Serialize;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::cli::args::{self, Choice, MethodName};
use crate::cli::output::{self, Facts, Outcome};
use crate::cli::progress;
use crate::cli::resolve::Context;
use crate::cli::{compare, compress, dry_run, inspect, restore, verify};

/// Name of the variant stored bit for bit.
const EXACT: &str = "exact";
/// Name of the variant stored with loss.
const SMALL: &str = "small";

pub(crate) fn run(verb: &args::Demo, context: &Context) -> Result<Outcome> {
    let temp = match &verb.dir {
        Some(dir) => {
            refuse_contents(dir)?;
            None
        }
        None => Some(temporary()?),
    };
    let dir = match (&verb.dir, &temp) {
        (Some(dir), _) => dir.clone(),
        (None, Some(temp)) => temp.path().to_owned(),
        (None, None) => std::env::temp_dir(),
    };
    let mut tour = Tour { context, dir: dir.clone(), steps: Vec::new(), elapsed: 0.0 };
    let result = tour.walk();
    if let Some(temp) = temp {
        let removed = temp.close().map_err(|e| Error::io("remove", &dir, e));
        // What went wrong on the tour comes first.
        result.as_ref().is_ok().then_some(removed).transpose()?;
    }
    let found = result?;
    tour.finish(&found, verb.dir.is_some())?;
    Ok(Outcome::of(found.verified && found.exact))
}

/// The tour writes several files and directories, which have to lie among nobody's own.
fn refuse_contents(dir: &Path) -> Result<()> {
    let is_empty = std::fs::read_dir(dir).map_or(!dir.exists(), |mut found| found.next().is_none());
    if is_empty {
        return Ok(());
    }
    let text = format!("{} is not an empty directory; choose another", dir.display());
    Err(Error::invalid_argument(text))
}

fn temporary() -> Result<TempDir> {
    tempfile::Builder::new()
        .prefix("delta-stream-demo-")
        .tempdir()
        .map_err(|e| Error::io("make a directory in", &std::env::temp_dir(), e))
}

/// One command and what it reported.
#[derive(Debug, Serialize)]
struct Step {
    command: String,
    report: Value,
}

/// What the tour has to show.
#[derive(Debug)]
struct Found {
    verified: bool,
    exact: bool,
    ratios: (f64, f64),
    relative_error: Option<f64>,
}

struct Tour<'a> {
    context: &'a Context,
    dir: PathBuf,
    steps: Vec<Step>,
    elapsed: f64,
}

impl Tour<'_> {
    fn walk(&mut self) -> Result<Found> {
        let started = std::time::Instant::now();
        self.make_pair()?;
        let ratios = (self.compress()?, self.append()?);
        let archive = self.at("models.delta.zst");
        let summary = delta_stream::inspect(&archive, None, false)?;
        let command = format!("inspect {}", quoted(&archive));
        self.step(&command, &summary, || inspect::table(&summary))?;
        let verified = self.verify(&archive)?;
        let (_, relative_error) = self.restore_and_compare(SMALL)?;
        let (exact, _) = self.restore_and_compare(EXACT)?;
        self.elapsed = started.elapsed().as_secs_f64();
        Ok(Found { verified, exact, ratios, relative_error })
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The flags for both sides of the delta.
    fn pair(&self) -> String {
        let (ft, base) = (self.at("fine-tune"), self.at("base"));
        format!("--shards {} --base {}", quoted(&ft), quoted(&base))
    }

    fn make_pair(&mut self) -> Result<()> {
        let shape =
            self.context.seed.map_or_else(PairShape::small, |s| PairShape::small().with_seed(s));
        let pair = write_pair(&self.dir, &shape, self.context, false)?;
        let command = format!("make-pair {} --seed {}", quoted(&self.dir), shape.seed);
        self.step(&command, &pair, || pair.table())
    }

    fn compress(&mut self) -> Result<f64> {
        let (ft, base, archive) =
            (self.at("fine-tune"), self.at("base"), self.at("models.delta.zst"));
        let options = self.context.compress_options(&choice(MethodName::Auto), Some(SMALL))?;
        let report = self
            .context
            .watch(|observer| delta_stream::compress(&ft, &base, &archive, &options, observer))?;
        let (pair, to) = (self.pair(), quoted(&archive));
        let command = format!("compress {pair} -o {to} --name {SMALL} --method auto");
        self.step(&command, &report, || compress::table(&report))?;
        Ok(report.ratio)
    }

    fn append(&mut self) -> Result<f64> {
        let (ft, base, archive) =
            (self.at("fine-tune"), self.at("base"), self.at("models.delta.zst"));
        let options = self.context.compress_options(&choice(MethodName::Lossless), Some(EXACT))?;
        let report = self
            .context
            .watch(|observer| delta_stream::append(&ft, &base, &archive, &options, observer))?;
        let (pair, to) = (self.pair(), quoted(&archive));
        let command = format!("append {pair} --archive {to} --name {EXACT} --method lossless");
        self.step(&command, &report, || compress::table(&report))?;
        Ok(report.ratio)
    }

    fn verify(&mut self, archive: &Path) -> Result<bool> {
        let base = self.at("base");
        let options = verify::options(VerifyLevel::Decode(base.clone()), self.context);
        let report =
            self.context.watch(|observer| delta_stream::verify(archive, &options, observer))?;
        let command = format!("verify {} --base {}", quoted(archive), quoted(&base));
        self.step(&command, &report, || verify::table(&report))?;
        Ok(report.ok)
    }

    /// Whether the restored variant is the fine-tune, and how far it is from it.
    fn restore_and_compare(&mut self, name: &str) -> Result<(bool, Option<f64>)> {
        let (ft, base, archive) =
            (self.at("fine-tune"), self.at("base"), self.at("models.delta.zst"));
        let output = self.at(&format!("restored-{name}"));
        let options = restore::options(Some(name.to_owned()), self.context);
        let report = self.context.watch(|observer| {
            delta_stream::restore(&archive, &base, &output, &options, observer)
        })?;
        let (from, at, to) = (quoted(&archive), quoted(&base), quoted(&output));
        let command = format!("restore {from} --base {at} -o {to} --name {name}");
        self.step(&command, &report, || restore::table(&report))?;
        let report = self.context.watch(|observer| {
            delta_stream::compare(&ft, &output, Some(&base), &self.context.resources, observer)
        })?;
        let command = format!("compare {} {to} --base {at}", quoted(&ft));
        self.step(&command, &report, || compare::table(&report, true))?;
        Ok((report.identical, report.relative_error))
    }

    /// Shows a step, or keeps it for the one JSON object.
    fn step(
        &mut self,
        command: &str,
        report: &impl Serialize,
        table: impl FnOnce() -> String,
    ) -> Result<()> {
        progress::check_cancelled()?;
        let command = format!("delta-stream {command}");
        if !self.context.json {
            return output::print(&format!("$ {}\n{}\n", output::visible(&command), table()));
        }
        let report = output::value(report)?;
        self.steps.push(Step { command, report });
        Ok(())
    }

    fn finish(&self, found: &Found, is_kept: bool) -> Result<()> {
        let dir = is_kept.then(|| self.dir.display().to_string());
        let report = json!({
            "directory": dir,
            "verified": found.verified,
            "lossless_identical": found.exact,
            "lossless_ratio": found.ratios.1,
            "lossy_ratio": found.ratios.0,
            "lossy_relative_error": found.relative_error,
            "elapsed_seconds": self.elapsed,
            "steps": self.steps,
        });
        self.context.print(&report, || {
            let exact = if found.exact { "identical to the fine-tune" } else { "DIFFERENT" };
            let error = output::relative(found.relative_error);
            let mut facts = Facts::default();
            facts
                .add(SMALL, format!("{:.2} times smaller, relative error {error}", found.ratios.0))
                .add(EXACT, format!("{:.2} times smaller, {exact}", found.ratios.1))
                .add("time", output::time(self.elapsed))
                .add("directory", dir.as_deref().unwrap_or("removed; `demo DIR` keeps it"));
            facts.to_string()
        })
    }
}

/// A method with all its defaults.
fn choice(method: MethodName) -> Choice {
    Choice { method, ..Choice::default() }
}

/// A path as a shell takes it.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain = |c: char| c.is_alphanumeric() || "/._-+:@%=".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        text
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

/// Where a made-up pair lies.
#[derive(Debug, Serialize)]
struct MadePair {
    base: PathBuf,
    fine_tune: PathBuf,
    bytes: u64,
    tensors: usize,
    #[serde(flatten)]
    run: DryRun,
}

impl MadePair {
    fn table(&self) -> String {
        let mut facts = Facts::default();
        facts
            .add("base", self.base.display())
            .add("fine-tune", self.fine_tune.display())
            .add("each", output::exact_size(self.bytes))
            .add("tensors", self.tensors);
        dry_run::add_space(&mut facts, self.run.space.as_ref());
        facts.to_string()
    }
}

fn write_pair(dir: &Path, shape: &PairShape, context: &Context, is_dry: bool) -> Result<MadePair> {
    let told = delta_stream::make_pair_dry_run(dir, shape)?;
    if !is_dry {
        delta_stream::make_pair(dir, shape, context.resources.threads)?;
    }
    let (base, fine_tune) = (dir.join("base"), dir.join("fine-tune"));
    let PairForecast { bytes, tensors, space, .. } = told;
    let run = is_dry.then_some(space).into();
    Ok(MadePair { base, fine_tune, bytes, tensors, run })
}

/// The hidden verb that makes pairs of any size.
pub(crate) fn make_pair(verb: &args::MakePair, context: &Context) -> Result<Outcome> {
    let small = PairShape::small();
    let shape = PairShape::small()
        .with_sizes(
            verb.hidden.unwrap_or(small.hidden),
            verb.intermediate.unwrap_or(small.intermediate),
            verb.vocab.unwrap_or(small.vocab),
            verb.layers.unwrap_or(small.layers),
        )
        .with_shards(
            verb.base_shards.unwrap_or(small.shards.0),
            verb.shards.unwrap_or(small.shards.1),
        )
        .with_dtype(verb.dtype.map_or(small.dtype, Into::into))
        .with_seed(context.seed.unwrap_or(small.seed))
        .with_delta(verb.delta.unwrap_or(small.delta));
    let pair = write_pair(&verb.dir, &shape, context, verb.dry_run)?;
    context.print(&pair, || pair.table())?;
    Ok(dry_run::outcome(pair.run.space.as_ref()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_can_be_typed() {
        for (path, text) in [
            ("/tmp/a-b.c", "/tmp/a-b.c"),
            ("/tmp/a b", "'/tmp/a b'"),
            ("it's", r"'it'\''s'"),
            ("", "''"),
        ] {
            assert_eq!(quoted(Path::new(path)), text);
        }
    }
}
