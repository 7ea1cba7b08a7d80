//! `remove`: an archive's next generation does without a variant.

use std::path::Path;

use crate::archive::{self, Upkeep};
use crate::error::Result;
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
    let Upkeep { variants, bytes_before, bytes_after } = archive::remove(archive, name)?;
    let wanted = (options.parity, before);
    let parity = parity::renew(archive, wanted, false, &options.resources, observer)?;
    Ok(RemoveReport { removed: name.to_owned(), variants, bytes_before, bytes_after, parity })
}
