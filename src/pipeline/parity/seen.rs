//! What is said of a parity file.

use std::path::Path;

use crate::archive::parity::{Damaged, Look, ParityFile, Standing};
use crate::error::{Error, Result};
use crate::pipeline::options::{Observer, VerifyLevel, VerifyOptions};
use crate::pipeline::parity::{Parity, present, scan};
use crate::report::{ParityReport, ParityState};

/// A parity file that stands so to its archive.
pub(crate) fn seen(parity: &ParityFile, standing: Standing, damaged_blocks: u64) -> ParityReport {
    let state = match standing {
        Standing::Current => ParityState::Current,
        Standing::Behind(_) => ParityState::Behind,
        Standing::Ahead(_) | Standing::Headless => ParityState::Ahead,
        Standing::Foreign => ParityState::Foreign,
    };
    ParityReport {
        percent: Parity { millionths: parity.header.share }.as_percent(),
        bytes: parity.len,
        covered_bytes: parity.header.layout.len,
        state,
        damaged_blocks,
        mendable: None,
    }
}

/// What `verify` says of the parity file of an archive; `None` if there is none. Where all frames are read its
/// own blocks are too; of an archive that is damaged it says whether it can be mended.
pub(crate) fn report(
    archive: &Path,
    options: &VerifyOptions,
    is_damaged: bool,
    observer: &dyn Observer,
) -> Result<Option<ParityReport>> {
    let opened = match ParityFile::open(archive) {
        Ok(None) => return Ok(None),
        Ok(Some(opened)) => opened,
        Err(e) if e.is_damage() => return Ok(Some(ParityReport::unreadable())),
        Err(e) => return Err(e),
    };
    let file = Damaged::open(archive, false)?;
    let mut report = seen(&opened, file.standing(&opened)?, u64::from(!opened.has_whole_ends));
    let is_damaged = is_damaged || report.state == ParityState::Ahead;
    let is_deep = matches!(options.level, VerifyLevel::Frames | VerifyLevel::Decode(_));
    if report.state == ParityState::Foreign || !(is_deep || is_damaged) {
        return Ok(Some(report));
    }
    let with = (&options.resources, observer);
    let found = if is_damaged {
        let look = Look { at_parity: true, mends: false };
        scan(&file.file, &opened, look, with, |_| Ok(()))
            .map(|found| (found.bad_parity, Some(found.bad_blocks > 0 && found.can_be_mended())))
    } else {
        // The archive's own checksums were held to.
        opened.check(|| observer.check()).map(|bad| (bad, None))
    };
    match found {
        Ok((bad, mendable)) => (report.damaged_blocks, report.mendable) = (bad, mendable),
        Err(e) if e.is_damage() => {
            report.mendable = is_damaged.then_some(false);
            report.damaged_blocks = report.damaged_blocks.max(1);
        }
        Err(e) => return Err(e),
    }
    Ok(Some(report))
}

/// The fault that a parity file alone knows: bytes that were committed are not there as such.
pub(crate) fn missing_end(report: &ParityReport) -> Option<(u64, Error)> {
    let text = "the end of a later generation, which the parity file knows, is damaged or missing";
    let last = report.covered_bytes.saturating_sub(1);
    (report.state == ParityState::Ahead).then(|| (last, Error::corrupt(text)))
}

/// Says of an archive that cannot be opened that it has parity.
pub(crate) fn advised(error: Error, archive: &Path) -> Error {
    match present(archive) {
        Some(_) if error.is_damage() => error.context("it has a parity file: try repair"),
        _ => error,
    }
}
