//! Sends what is written to disk while more is written, so that dirty pages stay few and a sync finds
//! little to wait for.

use std::fs::File;
use std::io;
use std::ops::Range;

use crate::checkpoint::{behind, sys};

/// Bytes of one file written between two syncs. Dirty pages count against a control group's memory
/// limit and cannot be reclaimed before they are on disk.
const SYNC_BYTES: u64 = 32 << 20;
/// Bytes after which the system is asked to begin writing them.
const BEGIN_BYTES: u64 = 4 << 20;

/// What of one file is on its way to the disk.
#[derive(Debug, Default)]
pub(crate) struct Writeback {
    /// Written last, and not yet sent to disk.
    fresh: Range<u64>,
    /// From the first byte that is not synced to the last.
    unsynced: Range<u64>,
    /// Bytes written since the last sync.
    n_unsynced: u64,
    /// All bytes written.
    n_written: u64,
}

impl Writeback {
    /// Takes note of `len` bytes that were written at `offset`, and syncs if it is time.
    ///
    /// # Errors
    /// What the sync says.
    pub(crate) fn wrote(&mut self, file: &File, offset: u64, len: u64) -> io::Result<()> {
        let end = offset + len;
        if self.fresh.end != offset {
            self.fresh = offset..offset;
        }
        self.fresh.end = end;
        if self.n_unsynced == 0 {
            self.unsynced = offset..end;
        }
        self.unsynced = self.unsynced.start.min(offset)..self.unsynced.end.max(end);
        self.n_unsynced += len;
        self.n_written += len;
        if self.n_unsynced >= SYNC_BYTES {
            return self.sync(file);
        }
        if end - self.fresh.start >= BEGIN_BYTES {
            sys::give_up(file, self.fresh.start, end - self.fresh.start);
            self.fresh = end..end;
        }
        Ok(())
    }

    /// Brings everything written so far to disk. Where memory is short it is not kept in the cache.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn sync(&mut self, file: &File) -> io::Result<()> {
        file.sync_data()?;
        if self.n_unsynced > 0 && behind::crowds(self.n_written) {
            sys::give_up(file, self.unsynced.start, self.unsynced.end - self.unsynced.start);
        }
        (self.n_unsynced, self.fresh) = (0, self.fresh.end..self.fresh.end);
        Ok(())
    }
}
