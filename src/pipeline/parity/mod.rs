//! Parity files: made of a committed archive, renewed after a change, and held against the archive.

mod scan;
mod seen;

use std::fs::File;
use std::path::Path;

use crate::archive::parity::{
    self, Coder, Damaged, Layout, Look, ParityFile, ParityWriter, SHARES, Standing, Window,
};
use crate::error::{Error, Result, ResultExt};
use crate::pipeline::budget::Needs;
use crate::pipeline::options::{Observer, Resources, VerifyOptions};
use crate::pipeline::ordered::{Width, run_ordered};
pub(crate) use crate::pipeline::parity::scan::{Scan, scan};
pub(crate) use crate::pipeline::parity::seen::{advised, missing_end, report, seen};
use crate::pipeline::spares::Spares;
use crate::pipeline::verify::verify;
use crate::report::{ParityReport, ParityState};

/// How much parity an archive has beside it: a share of its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Parity {
    millionths: u32,
}

impl Parity {
    /// So many percent of the archive, 0.1 to 100, to a ten-thousandth. Any one burnt range of nearly as many
    /// percent can be repaired (15/16 of it from 1 % on, half of it below), and any other damage that takes no
    /// more than that of any group of blocks.
    ///
    /// # Errors
    /// `InvalidArgument` if it is out of range.
    pub fn percent(percent: f64) -> Result<Self> {
        let millionths = (percent * 10_000.0).round();
        if millionths >= f64::from(*SHARES.start()) && millionths <= f64::from(*SHARES.end()) {
            return Ok(Self { millionths: millionths as u32 });
        }
        Err(Error::invalid_argument(format!(
            "parity {percent}% is out of range; it takes 0.1% to 100%"
        )))
    }

    /// The share in percent.
    pub fn as_percent(self) -> f64 {
        f64::from(self.millionths) / 10_000.0
    }
}

/// Makes the parity file of an archive, `ARCHIVE.parity` beside it, or makes it anew. What is covered is held
/// to an earlier parity file first or, where there is none, to the archive's own checksums, so that damage is
/// not taken for what was stored. It is written under a hidden name and renamed when it is whole; another
/// writer is kept out meanwhile.
///
/// # Errors
/// `Corrupt`, `Truncated` or `Incompatible` if the archive is damaged or cannot be read; `InvalidArgument` if
/// there is too little memory; `Io`; `Interrupted`. An earlier parity file is then as it was.
pub fn make_parity(
    archive: &Path,
    parity: Parity,
    resources: &Resources,
    observer: &dyn Observer,
) -> Result<ParityReport> {
    hold_to_old(archive, resources, observer)?;
    make(archive, parity, resources, observer)
}

/// The parity that the archive has, if its parity file can be read.
pub(crate) fn present(archive: &Path) -> Option<Parity> {
    let found = ParityFile::open(archive).ok()??;
    Some(Parity { millionths: found.header.share })
}

/// Bytes of the parity file that an archive of `len` bytes would get; 0 if none.
pub(crate) fn forecast_bytes(len: u64, (asked, before): (Option<Parity>, Option<Parity>)) -> u64 {
    let parity = asked.or(before).filter(|_| len > 0);
    parity.map_or(0, |parity| Layout::choose(len, parity.millionths).file_len())
}

/// Makes or renews parity after a change: as much as was asked, or else as there was `before`. `trusted` says
/// that all of the archive was just written or checked.
pub(crate) fn renew(
    archive: &Path,
    (asked, before): (Option<Parity>, Option<Parity>),
    trusted: bool,
    resources: &Resources,
    observer: &dyn Observer,
) -> Result<Option<ParityReport>> {
    let Some(parity) = asked.or(before) else {
        if parity::path_of(archive).symlink_metadata().is_ok() {
            observer.note("its parity file cannot be read and was left; --parity makes a new one");
        }
        return Ok(None);
    };
    let made = if trusted {
        make(archive, parity, resources, observer)
    } else {
        make_parity(archive, parity, resources, observer)
    };
    let done = || "the archive is committed, its parity file was not renewed".to_owned();
    made.map(Some).context(done)
}

/// Refuses an archive that is damaged.
fn hold_to_old(archive: &Path, resources: &Resources, observer: &dyn Observer) -> Result<()> {
    let damaged = Damaged::open(archive, false)?;
    let refused = |what: String| {
        let text = format!("archive {} is damaged: {what}; repair it first", archive.display());
        Error::corrupt(text)
    };
    if let Ok(Some(old)) = ParityFile::open(archive) {
        let standing = damaged.standing(&old)?;
        if matches!(standing, Standing::Current | Standing::Behind(_)) {
            let look = Look { at_parity: false, mends: false };
            let found = scan(&damaged.file, &old, look, (resources, observer), |_| Ok(()))?;
            if found.bad_blocks > 0 {
                return Err(refused(format!("{} blocks of its parity file", found.bad_blocks)));
            }
            if found.unknown_groups == 0 {
                return Ok(());
            }
        } else if !matches!(standing, Standing::Foreign) {
            return Err(refused("its end is missing".to_owned()));
        }
    }
    let options = VerifyOptions::default().with_resources(resources.clone());
    let found = verify(archive, &options, observer)?.sound();
    found.map(drop).map_err(|fault| refused(fault.to_string()))
}

/// Field tables of the code, and what the run itself takes.
const RESIDENT: u64 = 12 << 20;
/// Reading is what takes longest.
const MOST_WORKERS: usize = 2;
/// A window has at most this share of the memory.
const SHARE: u64 = 6;

/// How wide a run over the groups of a layout is, and how many of them a window has.
fn width(layout: &Layout, resources: &Resources) -> Result<(Width, u64)> {
    let blocks = u64::from(layout.data) + u64::from(layout.parity);
    let group = blocks * u64::from(layout.block) + 2 * layout.table_len() as u64;
    let window = (resources.max_memory / SHARE / group).clamp(1, layout.groups);
    let needs = Needs { resident: RESIDENT, tile: window * group, worker: Coder::bytes(layout) };
    let mut width = needs.width(resources.max_memory, resources.threads.clamp(1, MOST_WORKERS))?;
    width.permits = width.permits.min(width.workers + 1);
    Ok((width, window))
}

/// Windows of so many groups.
fn windows(layout: &Layout, n: u64) -> impl Iterator<Item = std::ops::Range<u64>> + use<> {
    let groups = layout.groups;
    (0..groups.div_ceil(n)).map(move |i| i * n..((i + 1) * n).min(groups))
}

fn make(
    archive: &Path,
    share: Parity,
    resources: &Resources,
    observer: &dyn Observer,
) -> Result<ParityReport> {
    let (file, mut writer, layout) = parity::begin(archive, share.millionths)?;
    write(&file, archive, &layout, &mut writer, resources, observer)?;
    Ok(ParityReport {
        percent: share.as_percent(),
        bytes: writer.finish()?,
        covered_bytes: layout.len,
        state: ParityState::Current,
        damaged_blocks: 0,
        mendable: None,
    })
}

fn write(
    file: &File,
    path: &Path,
    layout: &Layout,
    writer: &mut ParityWriter,
    resources: &Resources,
    observer: &dyn Observer,
) -> Result<()> {
    let (width, n) = width(layout, resources)?;
    observer.stage("parity");
    let (spares, mut windows) = (Spares::default(), windows(layout, n));
    run_ordered(
        width,
        || {
            let groups = windows.next()?;
            Some(Window::read(file, path, layout, groups, spares.tile(0), false))
        },
        || Ok(Coder::new(*layout)),
        |coder, window: Window| {
            let (tables, parity) = window.encode(layout, coder)?;
            let groups = window.groups.clone();
            spares.give_tile(window.into_buffer());
            Ok((groups, tables, parity))
        },
        |(groups, tables, parity)| {
            observer.check()?;
            writer.add(groups.end - groups.start, &tables, &parity)?;
            observer.progress(done(layout, groups.end), layout.len);
            Ok(())
        },
    )
}

/// Bytes of an archive that are done once these groups are.
fn done(layout: &Layout, groups: u64) -> u64 {
    (groups * u64::from(layout.block) * u64::from(layout.data)).min(layout.len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_percentages_within_bounds() {
        for (percent, millionths) in
            [(0.1, 1_000), (2.0, 20_000), (0.25, 2_500), (100.0, 1_000_000)]
        {
            let parity = Parity::percent(percent).unwrap();
            assert_eq!((parity.millionths, parity.as_percent()), (millionths, percent));
        }
        for percent in [0.0, 0.09, -1.0, 101.0, f64::NAN, f64::INFINITY] {
            assert!(Parity::percent(percent).is_err(), "{percent}");
        }
    }
}
