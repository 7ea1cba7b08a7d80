//! The positional reads and writes, file identities and hints to the page cache that std offers per
//! system only, or not at all: a port to one that is not Unix starts here.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};

/// Bytes of a huge page, and of the largest folio a file is cached in.
pub(super) const HUGE_PAGE: u64 = 2 << 20;

/// Fills `buf` from `offset`, leaving the file's cursor alone.
pub(super) fn read_exact_at(file: &File, buf: &mut [u8], offset: u64) -> io::Result<()> {
    FileExt::read_exact_at(file, buf, offset)
}

/// Bytes handed to the system at a time: more make it look for larger folios than it has at hand, which
/// took ten times as long.
const WRITE_BYTES: usize = 256 << 10;

/// Writes all of `bytes` at `offset`, leaving the file's cursor alone.
pub(crate) fn write_all_at(file: &File, bytes: &[u8], mut offset: u64) -> io::Result<()> {
    for piece in bytes.chunks(WRITE_BYTES) {
        FileExt::write_all_at(file, piece, offset)?;
        offset += piece.len() as u64;
    }
    Ok(())
}

/// Asks the system to give up the cached pages of `len` bytes from `offset`, without waiting for it:
/// those that are not on disk yet begin to be written and stay, others are dropped. A hint: it never
/// fails, and may do nothing.
pub(super) fn give_up(file: &File, offset: u64, len: u64) {
    #[cfg(target_os = "linux")]
    if let Some(len) = std::num::NonZeroU64::new(len) {
        let _ = rustix::fs::fadvise(file, offset, Some(len), rustix::fs::Advice::DontNeed);
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (file, offset, len);
}

/// Bytes the system reads ahead of a sequential reader on the device of this file, if it says.
pub(super) fn read_ahead_bytes(file: &File) -> Option<u64> {
    let dev = file.metadata().ok()?.dev();
    // As makedev(3) of Linux puts them together.
    let major = (dev >> 8) & 0xfff | (dev >> 32) & !0xfff;
    let minor = dev & 0xff | (dev >> 12) & !0xff;
    let path = format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb");
    let kib: u64 = std::fs::read_to_string(path).ok()?.trim().parse().ok()?;
    Some(kib << 10)
}

/// The device a file lies on.
pub(super) fn device(metadata: &Metadata) -> u64 {
    metadata.dev()
}

/// What changes when a file is replaced or written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    dev: u64,
    ino: u64,
    len: u64,
    mtime: i64,
    mtime_nsec: i64,
}

impl Stamp {
    /// The state `metadata` was taken in.
    pub(super) fn of(metadata: &Metadata) -> Self {
        Self {
            dev: metadata.dev(),
            ino: metadata.ino(),
            len: metadata.len(),
            mtime: metadata.mtime(),
            mtime_nsec: metadata.mtime_nsec(),
        }
    }

    /// Whether both are one file, whatever was written to it between.
    pub(super) fn is_same_file(&self, other: &Stamp) -> bool {
        self.dev == other.dev && self.ino == other.ino
    }
}
