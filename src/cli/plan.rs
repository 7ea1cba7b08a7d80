//! `plan`: prints a forecast, and writes it to a file if asked to.

use std::fs::{self, File, Permissions};
use std::io::Write;
use std::path::{Path, PathBuf};

use delta_stream::{Error, Forecast, RatePlan, Result, TensorSummary};

use crate::cli::args;
use crate::cli::output::{Columns, Facts, Outcome, exact_size, json, method, relative, size, time};
use crate::cli::resolve::{self, Context};

pub(crate) fn run(verb: &args::Plan, context: &Context) -> Result<Outcome> {
    let (ft, base) = (&verb.pair.fine_tune, &verb.pair.base);
    resolve::local(&[ft, base])?;
    let options = context.compress_options(&verb.choice, None)?;
    if let Some(output) = &verb.output {
        check_output(output, &[ft, base], context.force)?;
    }
    let report = context.watch(|observer| delta_stream::forecast(ft, base, &options, observer))?;
    context.note_all(&report.notes);
    if let Some(output) = &verb.output {
        write(output, &format!("{}\n", json(&report)?), context.force)?;
    }
    context.print(&report, || table(&report))?;
    Ok(Outcome::Done)
}

/// Refuses a file that is there or lies in an input, before any work is done.
fn check_output(output: &Path, inputs: &[&Path], force: bool) -> Result<()> {
    if !force && fs::symlink_metadata(output).is_ok() {
        return Err(exists(output));
    }
    let Ok(dir) = directory(output).canonicalize() else {
        return Ok(());
    };
    let place = output.file_name().map(|name| dir.join(name));
    for input in inputs {
        let Ok(found) = input.canonicalize() else {
            continue;
        };
        // An index stands for the directory it lies in, a single file for itself.
        let is_index = input.to_string_lossy().ends_with(".index.json");
        let owned = match found.parent() {
            Some(parent) if is_index => parent,
            _ => &found,
        };
        if place.as_ref().is_some_and(|place| place.starts_with(owned)) {
            let (output, input) = (output.display(), input.display());
            let text = format!("{output} lies in the input {input}; choose another place");
            return Err(Error::invalid_argument(text));
        }
    }
    Ok(())
}

fn exists(output: &Path) -> Error {
    let output = output.display();
    Error::invalid_argument(format!(
        "{output} exists; choose another file, or --force to replace it"
    ))
}

/// The directory a file lies in.
fn directory(file: &Path) -> PathBuf {
    match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// Writes a file so that it is there whole or not at all.
fn write(output: &Path, text: &str, force: bool) -> Result<()> {
    let failed = |e| Error::io("write", output, e);
    let dir = directory(output);
    let mut builder = tempfile::Builder::new();
    builder.prefix(".delta-stream-plan-");
    let permissions = public();
    if let Some(permissions) = &permissions {
        builder.permissions(permissions.clone());
    }
    let mut temp = builder.tempfile_in(&dir).map_err(failed)?;
    temp.write_all(text.as_bytes()).map_err(failed)?;
    temp.as_file().sync_all().map_err(failed)?;
    let persisted = if force { temp.persist(output) } else { temp.persist_noclobber(output) };
    persisted.map_err(|e| match e.error.kind() {
        std::io::ErrorKind::AlreadyExists => exists(output),
        _ => failed(e.error),
    })?;
    if cfg!(unix) {
        File::open(&dir).and_then(|dir| dir.sync_all()).map_err(failed)?;
    }
    Ok(())
}

/// Permissions of a file anyone may read, as far as the umask allows; temporary files are private.
#[cfg(unix)]
fn public() -> Option<Permissions> {
    Some(std::os::unix::fs::PermissionsExt::from_mode(0o666))
}

#[cfg(not(unix))]
fn public() -> Option<Permissions> {
    None
}

fn table(report: &Forecast) -> String {
    let is_exact = report.sampled >= 1.0 && report.plan.is_some();
    let [stored, ratio] = match is_exact {
        true => ["stored", "honest ratio"],
        false => ["stored, about", "honest ratio, about"],
    };
    let mut facts = Facts::default();
    facts
        .add("method", method(report.method, &report.settings))
        .add("fine-tune", exact_size(report.fine_tuned_bytes))
        .add(stored, exact_size(report.archive_bytes))
        .add(ratio, format!("{:.2} (fine-tune / stored)", report.ratio))
        .add("time, about", time(report.seconds))
        .add("memory, at most", size(report.memory_bytes))
        .add("sampled", format!("{:.1} % of the tiles", report.sampled * 100.0))
        .add("took", time(report.elapsed_seconds));
    let rates = report.plan.as_ref().map(|plan| rates_table(report, plan)).unwrap_or_default();
    format!("{facts}\n{}{rates}", kinds_table(report, stored))
}

/// What each matrix gets.
fn rates_table(report: &Forecast, plan: &RatePlan) -> String {
    let mut columns =
        Columns::new(&["tensor", "rate", "bits a parameter", "relative error", "stored"]);
    for matrix in &plan.matrices {
        let rate = match (&matrix.rest, matrix.rows) {
            (Some(rest), Some(rows)) => format!("{} in {rows} rows, {rest}", matrix.rate),
            _ => matrix.rate.clone(),
        };
        let name = match matrix.matrix {
            0 => matrix.tensor.clone(),
            n => format!("{} [{n}]", matrix.tensor),
        };
        // A tensor's figures stand beside the first of its matrices.
        let found = report.tensors.iter().find(|t| t.name == matrix.tensor && matrix.matrix == 0);
        let of = |show: fn(&TensorSummary) -> String| found.map(show).unwrap_or_default();
        columns.add(vec![
            name,
            rate,
            of(|t| format!("{:.4}", t.bits_per_parameter)),
            of(|t| relative(t.relative_error)),
            of(|t| size(t.stored_bytes)),
        ]);
    }
    format!("\n{columns}")
}

/// Tensors by the way they would be stored.
fn kinds_table(report: &Forecast, stored: &str) -> String {
    let mut columns = Columns::new(&["stored as", "tensors", "bytes", stored]);
    for kind in ["lossy", "lossless", "whole", "alias"] {
        let (mut n_tensors, mut bytes, mut stored) = (0, 0, 0);
        for t in report.tensors.iter().filter(|t| t.stored_as == kind) {
            n_tensors += 1;
            bytes += t.bytes;
            stored += t.stored_bytes;
        }
        if n_tensors > 0 {
            columns.add(vec![kind.to_owned(), n_tensors.to_string(), size(bytes), size(stored)]);
        }
    }
    columns.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_written_whole_and_replaces_nothing_unasked() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("plan.json");
        write(&file, "1", false).unwrap();
        assert!(write(&file, "2", false).is_err());
        assert_eq!(fs::read_to_string(&file).unwrap(), "1");
        write(&file, "3", true).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "3");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_plan_does_not_land_in_an_input() {
        let dir = tempfile::tempdir().unwrap();
        let model = dir.path().join("model");
        let index = model.join("model.safetensors.index.json");
        let single = dir.path().join("single.safetensors");
        fs::create_dir(&model).unwrap();
        fs::write(&index, "{}").unwrap();
        fs::write(&single, "").unwrap();
        for (output, fine) in [
            (dir.path().join("plan.json"), true),
            (model.join("plan.json"), false),
            (index.clone(), false),
            (single.clone(), false),
        ] {
            for inputs in [[&*model, &*single], [&*index, &*single]] {
                assert_eq!(check_output(&output, &inputs, true).is_ok(), fine, "{output:?}");
            }
        }
        assert!(check_output(&single, &[], false).is_err());
    }
}
