//! `repair`: damaged blocks of an archive are rebuilt from its parity file.

use std::path::Path;
use std::time::Instant;

use crate::archive::parity::{Damaged, Look, Mended, ParityFile, Standing, path_of};
use crate::archive::refuse_existing;
use crate::error::{Error, Result, ResultExt};
use crate::pipeline::budget::peak_memory;
use crate::pipeline::options::{Observer, RepairOptions, VerifyOptions};
use crate::pipeline::parity::{self, Scan, make_parity, scan};
use crate::pipeline::verify::verify;
use crate::report::{RepairReport, RepairState, Survivors};

/// Rebuilds what is damaged of an archive from its parity file, `ARCHIVE.parity` beside it. The mended copy is
/// written under a hidden name, held to the parity file's hashes block by block and opened as an archive, and
/// only then takes the archive's place in one rename, or that of an output of its own. Bytes behind those that
/// the parity file covers stay as they are. If blocks of the parity file itself are damaged and nothing of the
/// archive is, or is any more, it is made anew.
///
/// With too much damage nothing is written: the report names the ranges that cannot be rebuilt, and what
/// [`recover`](crate::recover) would still save.
///
/// # Errors
/// `InvalidArgument` if the archive has no parity file, or there is something at the output (without force);
/// `Corrupt`, `Truncated` or `Incompatible` if the parity file cannot be read or is of another archive; `Io`,
/// also if another process is writing; `Interrupted`. The archive is then as it was.
pub fn repair(
    archive: &Path,
    options: &RepairOptions,
    observer: &dyn Observer,
) -> Result<RepairReport> {
    let started = Instant::now();
    let mut run = Run::open(archive, options, observer)?;
    let found = run.look()?;
    let mut report = run.report(&found);
    let is_damaged = found.bad_blocks > 0;
    if !found.can_be_mended() {
        report.state = RepairState::BeyondRepair;
        report.survivors = run.survivors(archive)?;
    } else if is_damaged && options.dry_run {
        report.state = RepairState::Repairable;
    } else if is_damaged {
        report.bytes = run.mend()?;
        report.state = RepairState::Repaired;
    }
    let is_done = matches!(report.state, RepairState::Whole | RepairState::Repaired);
    let in_place = options.output.is_none() && !options.dry_run;
    let covers_all = !matches!(run.standing, Standing::Behind(_));
    if is_done && in_place && covers_all && found.bad_parity > 0 {
        let share = parity::present(archive);
        // It lets go of its lock.
        drop(run);
        if let Some(share) = share {
            let made = make_parity(archive, share, &options.resources, observer);
            let done = || "the archive is whole, its parity file was not renewed".to_owned();
            report.parity = made.context(done)?;
            report.parity_renewed = true;
        }
    }
    report.peak_memory_bytes = peak_memory();
    report.elapsed_seconds = started.elapsed().as_secs_f64();
    Ok(report)
}

/// One repair.
struct Run<'a> {
    parity: ParityFile,
    damaged: Damaged,
    standing: Standing,
    options: &'a RepairOptions,
    observer: &'a dyn Observer,
}

impl<'a> Run<'a> {
    fn open(
        archive: &Path,
        options: &'a RepairOptions,
        observer: &'a dyn Observer,
    ) -> Result<Self> {
        let to_replace = options.output.is_none() && !options.dry_run;
        // Before the scan, however long that is.
        options.output.as_deref().map_or(Ok(()), |file| refuse_existing(file, options.force))?;
        let damaged = Damaged::open(archive, to_replace)?;
        let path = path_of(archive);
        let parity = ParityFile::open(archive)?.ok_or_else(|| {
            let text = format!(
                "{} has no parity file {}; recover saves what is whole of a damaged archive",
                archive.display(),
                path.display()
            );
            Error::invalid_argument(text)
        })?;
        let standing = damaged.standing(&parity)?;
        if standing == Standing::Foreign {
            let text = format!(
                "{} is of another archive: remove it, or make it anew with compact --parity",
                path.display()
            );
            return Err(Error::corrupt(text));
        }
        Ok(Self { parity, damaged, standing, options, observer })
    }

    fn look(&self) -> Result<Scan> {
        let look = Look { at_parity: true, mends: false };
        let with = (&self.options.resources, self.observer);
        scan(&self.damaged.file, &self.parity, look, with, |_| Ok(()))
    }

    fn report(&self, found: &Scan) -> RepairReport {
        let covered = self.parity.header.layout.len;
        let bytes = self.damaged.len().unwrap_or(0);
        RepairReport {
            state: RepairState::Whole,
            dry_run: self.options.dry_run,
            parity: parity::seen(&self.parity, self.standing, found.bad_parity),
            damaged_blocks: found.bad_blocks,
            n_damaged: found.damaged.len(),
            damaged: found.damaged.first(RepairReport::MAX_LISTED),
            n_beyond: found.beyond.len(),
            beyond: found.beyond.first(RepairReport::MAX_LISTED),
            unknown_groups: found.unknown_groups,
            uncovered_bytes: bytes.saturating_sub(covered),
            bytes,
            parity_renewed: false,
            survivors: None,
            peak_memory_bytes: None,
            elapsed_seconds: 0.0,
        }
    }

    /// Writes the mended copy and puts it in its place. Returns its bytes.
    fn mend(&mut self) -> Result<u64> {
        let Self { parity, damaged, options, observer, standing } = self;
        let (parity, covered) = (&*parity, parity.header.layout.len);
        let mut mended = Mended::begin(damaged, options.output.as_deref(), options.force)?;
        let total = damaged.len()?;
        observer.stage("copy");
        mended.copy(covered, |done| {
            observer.check()?;
            observer.progress(done, total);
            Ok(())
        })?;
        let failed = |e| Error::io("open", &damaged.path, e);
        let file = mended.file.try_clone().map_err(failed)?;
        let with = (&options.resources, *observer);
        let look = Look { at_parity: false, mends: true };
        let rebuilt = scan(&file, parity, look, with, |group| mended.put(parity, group))?;
        let look = Look { at_parity: false, mends: false };
        let left = scan(&file, parity, look, with, |_| Ok(()))?;
        if !rebuilt.can_be_mended() || left.bad_blocks > 0 || left.unknown_groups > 0 {
            return Err(Error::corrupt("what was rebuilt is not what the parity file says"));
        }
        mended.check(*standing)?;
        mended.finish()
    }

    /// What a recover of the archive as it is would save; `None` if no index of it can be read.
    fn survivors(&self, archive: &Path) -> Result<Option<Survivors>> {
        let options = VerifyOptions::default().with_resources(self.options.resources.clone());
        let found = match verify(archive, &options, self.observer) {
            Ok(found) => found,
            Err(e) if e.is_damage() => return Ok(None),
            Err(e) => return Err(e),
        };
        let is_whole = |name: &String| {
            let of_it = |v: &Option<String>| v.as_ref() == Some(name);
            found.n_faults == found.faults.len() as u64
                && !found.faults.iter().any(|fault| of_it(&fault.variant))
        };
        let whole = found.variants.iter().filter(|name| is_whole(name)).cloned().collect();
        Ok(Some(Survivors { whole, n_faults: found.n_faults, faults: found.faults }))
    }
}
