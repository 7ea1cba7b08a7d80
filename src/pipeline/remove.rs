//! `remove`: an archive's next generation does without a variant.

use std::path::Path;

use crate::archive::{self, Upkeep};
use crate::error::Result;
use crate::pipeline::dry_run::space;
use crate::pipeline::options::{Observer, Silent, UpkeepOptions};
use crate::pipeline::parity;
use crate::report::RemoveReport;

/// Takes the variant called `name` off an archive, as its next generation. The last one can be taken
/// too; the archive is then empty and can be appended to. The file does not get smaller:
/// [`compact`](crate::compact) gives the space back. A parity file is renewed.
///
/// # Errors
/// `InvalidArgument` if there is no such variant; `Io` if another process is writing to the archive;
/// `Corrupt`, `Truncated` or `Incompatible` if it cannot be read. The archive keeps its last
/// generation.
pub fn remove(archive: &Path, name: &str) -> Result<RemoveReport> {
    remove_with(archive, name, &UpkeepOptions::default(), &Silent)
}

/// As [`remove`], with parity and resources to choose.
///
/// # Errors
/// As [`remove`] and [`make_parity`](crate::make_parity).
pub fn remove_with(
    archive: &Path,
    name: &str,
    options: &UpkeepOptions,
    observer: &dyn Observer,
) -> Result<RemoveReport> {
    let before = parity::present(archive);
    let dry_run = options.dry_run;
    let Upkeep { variants, bytes_before, bytes_after } = archive::remove(archive, name, dry_run)?;
    let wanted = (options.parity, before);
    let (parity, space) = if dry_run {
        let added = bytes_after.saturating_sub(bytes_before);
        let needed = added + parity::forecast_bytes(bytes_after, wanted);
        (None, Some(space(archive, needed)?))
    } else {
        (parity::renew(archive, wanted, false, &options.resources, observer)?, None)
    };
    let removed = name.to_owned();
    let run = space.into();
    Ok(RemoveReport { removed, variants, bytes_before, bytes_after, parity, run })
}
