//! Dry runs: all that a verb checks before it writes, what it would write, and whether there is room for it.
//! Nothing is written under any name.

use std::path::Path;
use std::time::Instant;

use crate::archive::{Archive, refuse_existing, writable};
use crate::checkpoint::{disk, free_bytes};
use crate::error::{Error, Result};
use crate::pipeline::base_shift::has_vector_in;
use crate::pipeline::compress::{none_there, refuse_taken};
use crate::pipeline::forecast::forecast_of;
use crate::pipeline::inputs::Inputs;
use crate::pipeline::options::{CompressOptions, Observer};
use crate::pipeline::parity;
use crate::report::{CompressForecast, Forecast, Space};

/// What [`compress`](crate::compress) would do: everything is checked that can be before the end, and the size is
/// forecast as by [`forecast`](crate::forecast). Nothing is written.
///
/// # Errors
/// As [`compress`](crate::compress).
pub fn compress_dry_run(
    ft: &Path,
    base: &Path,
    archive: &Path,
    options: &CompressOptions,
    observer: &dyn Observer,
) -> Result<CompressForecast> {
    let started = Instant::now();
    let inputs = Inputs::open(ft, base, options)?;
    inputs.refuse_alias(archive)?;
    refuse_existing(archive, options.force)?;
    // Before the long part, as in a real run.
    space(archive, 0)?;
    let forecast = forecast_of(&inputs, options, observer, started)?;
    told(archive, inputs.name, 0, (options.parity, None), forecast)
}

/// What [`append`](crate::append) would do, as [`compress_dry_run`] does. A base vector that the archive has is
/// not counted again.
///
/// # Errors
/// As [`append`](crate::append).
pub fn append_dry_run(
    ft: &Path,
    base: &Path,
    archive: &Path,
    options: &CompressOptions,
    observer: &dyn Observer,
) -> Result<CompressForecast> {
    let started = Instant::now();
    let inputs = Inputs::open(ft, base, options)?;
    inputs.refuse_alias(archive)?;
    writable(archive).map_err(|e| none_there(e, archive))?;
    let opened = Archive::open(archive)?;
    refuse_taken(opened.index.entries.iter().map(|v| v.name.as_str()), &inputs.name, archive)?;
    space(archive, 0)?;
    let mut forecast = forecast_of(&inputs, options, observer, started)?;
    if has_vector_in(&inputs, options, &opened)? {
        forecast.archive_bytes -= forecast.vector_bytes;
        forecast.vector_bytes = 0;
        forecast.ratio = forecast.fine_tuned_bytes as f64 / forecast.archive_bytes as f64;
    }
    let before = parity::present(archive);
    told(archive, inputs.name, opened.committed_len(), (options.parity, before), forecast)
}

fn told(
    archive: &Path,
    variant: String,
    bytes_before: u64,
    parity: (Option<parity::Parity>, Option<parity::Parity>),
    forecast: Forecast,
) -> Result<CompressForecast> {
    let parity_bytes = parity::forecast_bytes(bytes_before + forecast.archive_bytes, parity);
    let space = space(archive, forecast.archive_bytes + parity_bytes)?;
    let archive = archive.display().to_string();
    let dry_run = true;
    Ok(CompressForecast { dry_run, variant, archive, bytes_before, parity_bytes, space, forecast })
}

/// Room for so many bytes where a file at `output` would be written: what a caller that writes files of its own
/// may want to know first.
///
/// # Errors
/// `Io` if its directory is not there, or nothing can be written to it.
pub fn space(output: &Path, needed_bytes: u64) -> Result<Space> {
    let real = output.canonicalize();
    room(disk::parent_of(real.as_deref().unwrap_or(output)), needed_bytes)
}

/// The same for a directory, which is made together with those above it that are missing.
///
/// # Errors
/// As [`space`].
pub fn space_for_dir(output: &Path, needed_bytes: u64) -> Result<Space> {
    let there = output.ancestors().skip(1).find(|dir| dir.exists());
    let there = there.filter(|dir| !dir.as_os_str().is_empty());
    room(there.unwrap_or(Path::new(".")), needed_bytes)
}

fn room(dir: &Path, needed_bytes: u64) -> Result<Space> {
    let free_bytes = free_bytes(dir).map_err(|e| Error::io("write to", dir, e))?;
    Ok(Space { needed_bytes, free_bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_told_of_the_place_that_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let found = space(&dir.path().join("a.delta.zst"), 1).unwrap();
        assert!(found.free_bytes.is_some() && found.is_enough());
        assert!(!space(&dir.path().join("a"), u64::MAX).unwrap().is_enough());
        assert!(space(&dir.path().join("no/a.delta.zst"), 1).is_err());
        let made = space_for_dir(&dir.path().join("no/such/dir"), 7).unwrap();
        assert_eq!((made.needed_bytes, made.free_bytes.is_some()), (7, true));
        assert!(space(Path::new("a"), 0).unwrap().is_enough());
    }
}
