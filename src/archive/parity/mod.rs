//! Parity: a file beside the archive, `NAME.parity`, from which burnt ranges are rebuilt. FORMAT.md section 12.
//!
//! The archive itself knows nothing of it. A parity file describes the bytes of one generation, which no later
//! one changes, so after an append that crashed it is behind and not wrong; whatever puts another archive in the
//! place of one removes it first.

mod code;
mod file;
mod layout;
mod mend;
mod standing;
mod window;

use std::path::Path;

pub(crate) use code::Coder;
pub(crate) use file::{ParityFile, ParityWriter, discard, path_of};
pub(crate) use layout::{Layout, SHARES};
pub(crate) use mend::{Damaged, Mended};
pub(crate) use standing::Standing;
pub(crate) use window::{Group, Look, Window};

use crate::archive::lock::open_archive;
use crate::checkpoint::Locked;
use crate::error::Result;

/// Begins the parity file of what the archive at `path` commits, `share` millionths of it. The archive is locked
/// as long as the file is open that comes back with it.
///
/// # Errors
/// `Io`, also if another process is writing; what [`Archive::open`](crate::archive::Archive::open) says.
pub(crate) fn begin(path: &Path, share: u32) -> Result<(Locked, ParityWriter, Layout)> {
    let (file, archive) = open_archive(path)?;
    let layout = Layout::choose(archive.committed_len(), share);
    let writer = ParityWriter::create(path, share, layout, archive.footer)?;
    Ok((file, writer, layout))
}
