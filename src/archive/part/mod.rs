//! Parts: what runs on several machines make of one variant, each of a share of its tensors, until a join
//! makes the archive of them. Byte layout: FORMAT.md, section 13.
//!
//! A part is a list of entries as a journal's, with frames between them, under a magic of its own: it is no
//! archive and is not taken for one.

mod entry;
mod log;
mod read;
mod write;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

pub(crate) use crate::archive::part::entry::{Entry, PartHead};
pub(crate) use crate::archive::part::log::PartLog;
pub(crate) use crate::archive::part::read::PartReader;
pub(crate) use crate::archive::part::write::PartWriter;
use crate::error::{Error, Result};

/// The first bytes of a part. No zstd frame begins so, and no safetensors file.
const MAGIC: [u8; 8] = *b"DSPART\r\n";
/// Changes with what the bytes of a part mean.
const PART_VERSION: u32 = 1;
/// Bytes before an entry's own: their number and their checksum.
const PREFIX: usize = 8;
/// Longest entry, as in a journal.
const MAX_ENTRY: u32 = 4 << 20;
/// The id that the frames of a new archive's first variant carry.
pub(crate) const FIRST_VARIANT: u32 = 0;

/// Refuses to take a part for an archive.
///
/// # Errors
/// `InvalidArgument` if the file begins as a part does; `Io` if it cannot be read.
pub(super) fn refuse(file: &File, path: &Path) -> Result<()> {
    let mut start = [0; MAGIC.len()];
    let is_part = match file.read_exact_at(&mut start, 0) {
        Ok(()) => start == MAGIC,
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => false,
        Err(e) => return Err(Error::io("read", path, e)),
    };
    if !is_part {
        return Ok(());
    }
    let what = PartReader::open(path).map_or("a part".to_owned(), |part| part.head().to_string());
    Err(Error::invalid_argument(format!(
        "this is {what}, not an archive; all parts of the last round make one: \
         delta-stream join PARTS... -o ARCHIVE"
    )))
}
