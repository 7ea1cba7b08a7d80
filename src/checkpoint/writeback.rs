//! Sends what is written to disk while more is written, so that dirty pages stay few and a sync finds
//! little to wait for.

use std::fs::File;
use std::io;
use std::ops::{Range, RangeInclusive};

use crate::checkpoint::{behind, disk, memory, sys};

/// Least and most bytes of one file written between two syncs, and what part they are of the memory
/// there is. Dirty pages count against a control group's limit and cannot be reclaimed before they are
/// on disk; but a sync also waits for the file system's own records.
const SYNC_BYTES: RangeInclusive<u64> = 32 << 20..=512 << 20;
const SYNC_SHARE: u64 = 16;
/// Bytes after which the system is asked to begin writing them.
const BEGIN_BYTES: u64 = 4 << 20;

/// What of one file is on its way to the disk.
#[derive(Debug)]
pub(crate) struct Writeback {
    /// Bytes between two syncs.
    sync_bytes: u64,
    /// Written last, and not yet sent to disk.
    fresh: Range<u64>,
    /// From the first byte that is not synced to the last.
    unsynced: Range<u64>,
    /// Bytes written since the last sync.
    n_unsynced: u64,
    /// All bytes written.
    n_written: u64,
}

impl Default for Writeback {
    fn default() -> Self {
        let share = memory::available().unwrap_or(0) / SYNC_SHARE;
        let sync_bytes = share.clamp(*SYNC_BYTES.start(), *SYNC_BYTES.end());
        Self { sync_bytes, fresh: 0..0, unsynced: 0..0, n_unsynced: 0, n_written: 0 }
    }
}

impl Writeback {
    /// Takes note of `len` bytes that were written at `offset`, and syncs if it is time.
    ///
    /// # Errors
    /// What the sync says.
    pub(crate) fn wrote(&mut self, file: &File, offset: u64, len: u64) -> io::Result<()> {
        let end = offset + len;
        if self.fresh.end == offset {
            self.fresh.end = end;
        } else {
            // Two threads write, not quite in order.
            self.begin(file);
            self.fresh = offset..end;
        }
        if self.n_unsynced == 0 {
            self.unsynced = offset..end;
        }
        self.unsynced = self.unsynced.start.min(offset)..self.unsynced.end.max(end);
        self.n_unsynced += len;
        self.n_written += len;
        if self.n_unsynced >= self.sync_bytes {
            return self.sync(file);
        }
        if end - self.fresh.start >= BEGIN_BYTES {
            self.begin(file);
        }
        Ok(())
    }

    fn begin(&mut self, file: &File) {
        sys::give_up(file, self.fresh.start, self.fresh.end - self.fresh.start);
        self.fresh.start = self.fresh.end;
    }

    /// Brings everything written so far to disk.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn sync(&mut self, file: &File) -> io::Result<()> {
        disk::sync_data(file)?;
        self.synced(file);
        Ok(())
    }

    /// Takes note that everything written so far is on disk. Where memory is short it is not kept in the
    /// cache.
    pub(crate) fn synced(&mut self, file: &File) {
        if self.n_unsynced > 0 && behind::crowds(self.n_written) {
            sys::give_up(file, self.unsynced.start, self.unsynced.end - self.unsynced.start);
        }
        (self.n_unsynced, self.fresh) = (0, self.fresh.end..self.fresh.end);
    }
}
