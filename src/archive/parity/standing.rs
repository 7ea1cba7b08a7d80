//! How a parity file stands to the archive beside it.
//!
//! Committed bytes never change, so the parity file of an earlier generation still describes the beginning of
//! the file. Another archive in the same place is told by its footers: whatever commits writes one, and each
//! says where the one before it stands.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::archive::format::{FOOTER_LEN, Footer};
use crate::archive::parity::layout::Header;
use crate::archive::reader::find_footer;
use crate::error::{ErrorKind, Result};

/// Which part of an archive a parity file covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// All that is committed.
    Current,
    /// What an earlier generation committed: the file has this later one.
    Behind(Footer),
    /// More than what the last footer that can be read commits: the end of the file is damaged.
    Ahead(Footer),
    /// No footer of the file can be read.
    Headless,
    /// It is of another archive.
    Foreign,
}

/// Holds the header of a parity file to the archive's footers.
///
/// # Errors
/// `Incompatible` if a newer tool wrote the last generation.
pub(crate) fn standing(file: &File, path: &Path, header: &Header) -> Result<Standing> {
    let last = match find_footer(file, path) {
        Ok(last) => last,
        Err(e) if e.kind() == ErrorKind::Incompatible => return Err(e),
        // A disk that cannot be read is what parity is for.
        Err(_) => return Ok(Standing::Headless),
    };
    let end = |footer: &Footer| footer.offset + FOOTER_LEN as u64;
    let covered = header.layout.len;
    if end(&last) == covered {
        let same = last == header.footer;
        return Ok(if same { Standing::Current } else { Standing::Foreign });
    }
    if end(&last) < covered {
        // A later generation that is shorter: the archive was written anew.
        let later = last.generation >= header.footer.generation;
        return Ok(if later { Standing::Foreign } else { Standing::Ahead(last) });
    }
    let mut at = last;
    loop {
        let before = at.previous + FOOTER_LEN as u64;
        if before == covered && at.generation > header.footer.generation {
            return Ok(Standing::Behind(last));
        }
        if at.previous == 0 || before <= covered {
            return Ok(Standing::Foreign);
        }
        let mut bytes = [0; FOOTER_LEN];
        let read = file.read_exact_at(&mut bytes, at.previous);
        match read.ok().and_then(|()| Footer::parse(&bytes, at.previous).ok()?) {
            Some(footer) => at = footer,
            // One between is damaged. Blocks will tell.
            None => return Ok(Standing::Behind(last)),
        }
    }
}
