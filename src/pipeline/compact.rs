//! `compact`: an archive is written anew without what no variant needs.

use std::path::Path;
use std::time::Instant;

use crate::archive::{self, Upkeep};
use crate::error::Result;
use crate::pipeline::budget::peak_memory;
use crate::pipeline::dry_run::space;
use crate::pipeline::options::{Observer, UpkeepOptions};
use crate::pipeline::parity;
use crate::report::CompactReport;

/// Writes an archive anew without removed variants and earlier generations, and puts it in the old
/// one's place in one rename; beside it there must be room for it. Variants keep their names, their
/// order, and every byte of their frames, and each frame's checksum is checked on the way. One frame
/// is in memory at a time. If nothing would be saved, the file is left alone. A parity file is removed before the
/// archive is replaced, and made anew.
///
/// # Errors
/// `Corrupt` or `Truncated` if the archive is damaged; `Incompatible` if a newer tool wrote some of it;
/// `Io`, also if another process is writing to it; `Interrupted`. The archive is then as it was.
pub fn compact(archive: &Path, observer: &dyn Observer) -> Result<CompactReport> {
    compact_with(archive, &UpkeepOptions::default(), observer)
}

/// As [`compact`], with parity and resources to choose. Parity is made or renewed also where nothing would be
/// saved.
///
/// # Errors
/// As [`compact`] and [`make_parity`](crate::make_parity).
pub fn compact_with(
    archive: &Path,
    options: &UpkeepOptions,
    observer: &dyn Observer,
) -> Result<CompactReport> {
    let started = Instant::now();
    let before = parity::present(archive);
    let dry_run = options.dry_run;
    observer.stage("copy");
    let done = archive::compact(archive, dry_run, |done, total| {
        observer.check()?;
        observer.progress(done, total);
        Ok(())
    })?;
    let Upkeep { variants, bytes_before, bytes_after } = done;
    let rewritten = bytes_after < bytes_before;
    let wanted = (options.parity, before);
    let (parity, space) = if dry_run {
        let copy = if rewritten { bytes_after } else { 0 };
        let needed = copy + parity::forecast_bytes(bytes_after, wanted);
        (None, Some(space(archive, needed)?))
    } else {
        (parity::renew(archive, wanted, rewritten, &options.resources, observer)?, None)
    };
    Ok(CompactReport {
        rewritten,
        variants,
        parity,
        bytes_before,
        bytes_after,
        peak_memory_bytes: peak_memory(),
        elapsed_seconds: started.elapsed().as_secs_f64(),
        run: space.into(),
    })
}
