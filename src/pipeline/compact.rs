//! `compact`: an archive is written anew without what no variant needs.

use std::path::Path;
use std::time::Instant;

use crate::archive::{self, Upkeep};
use crate::error::{Error, Result};
use crate::pipeline::budget::peak_memory;
use crate::pipeline::options::Observer;
use crate::report::CompactReport;

/// Writes an archive anew without removed variants and earlier generations, and puts it in the old
/// one's place in one rename; beside it there must be room for it. Variants keep their names, their
/// order, and every byte of their frames, and each frame's checksum is checked on the way. One frame
/// is in memory at a time. If nothing would be saved, the file is left alone.
///
/// # Errors
/// `Corrupt` or `Truncated` if the archive is damaged; `Incompatible` if a newer tool wrote some of it;
/// `Io`, also if another process is writing to it; `Interrupted`. The archive is then as it was.
pub fn compact(archive: &Path, observer: &dyn Observer) -> Result<CompactReport> {
    let started = Instant::now();
    let done = archive::compact(archive, |done, total| {
        if observer.is_cancelled() {
            return Err(Error::interrupted());
        }
        observer.progress(done, total);
        Ok(())
    })?;
    let Upkeep { variants, bytes_before, bytes_after } = done;
    Ok(CompactReport {
        rewritten: bytes_after < bytes_before,
        variants,
        bytes_before,
        bytes_after,
        peak_memory_bytes: peak_memory(),
        elapsed_seconds: started.elapsed().as_secs_f64(),
    })
}
