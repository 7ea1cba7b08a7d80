//! The positional reads, file identities and hints to the page cache that std offers per
//! system only, or not at all: a port to one that is not Unix starts here.

use std::fs::{File, Metadata, TryLockError};
use std::io;
use std::ops::Deref;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};

/// Bytes of a huge page, and of the largest folio a file is cached in.
pub(super) const HUGE_PAGE: u64 = 2 << 20;

/// Fills `buf` from `offset`, leaving the file's cursor alone.
pub(super) fn read_exact_at(file: &File, buf: &mut [u8], offset: u64) -> io::Result<()> {
    FileExt::read_exact_at(file, buf, offset)
}

/// Reads some bytes from `offset`, leaving the file's cursor alone.
pub(super) fn read_at(file: &File, buf: &mut [u8], offset: u64) -> io::Result<usize> {
    FileExt::read_at(file, buf, offset)
}

/// Whether the system has the byte at `offset` in its cache; false where it does not say.
pub(super) fn is_cached(file: &File, offset: u64) -> bool {
    #[cfg(target_os = "linux")]
    {
        use rustix::io::{ReadWriteFlags, preadv2};
        let mut byte = [0];
        let mut into = [io::IoSliceMut::new(&mut byte)];
        // It reads what can be had without waiting for the disk.
        preadv2(file, &mut into, offset, ReadWriteFlags::NOWAIT) == Ok(1)
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = (file, offset);
        false
    }
}

/// Lets reads and writes of an open file pass the page cache by, or not; memory and offsets are then held
/// to multiples of a disk's blocks.
///
/// # Errors
/// `InvalidInput` or `Unsupported` if its file system cannot.
pub(super) fn set_direct(file: &File, is_direct: bool) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
        let mut flags = fcntl_getfl(file)?;
        flags.set(OFlags::DIRECT, is_direct);
        Ok(fcntl_setfl(file, flags)?)
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = file;
        if is_direct { Err(io::ErrorKind::Unsupported.into()) } else { Ok(()) }
    }
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

/// Whether pages of a map cannot be brought in because looking at them would be a fatal signal.
#[cfg(target_os = "linux")]
pub(super) fn is_bad_page(e: &io::Error) -> bool {
    use rustix::io::Errno;
    [Errno::FAULT, Errno::HWPOISON, Errno::IO]
        .iter()
        .any(|errno| e.raw_os_error() == Some(errno.raw_os_error()))
}

/// Numbers of network file systems and of those that may be one (FUSE), as statfs(2) and Linux's
/// magic.h have them: NFS, SMB, CIFS, SMB2, FUSE, 9P, Ceph, AFS, Coda, Lustre, GPFS, BeeGFS, OCFS2, VirtualBox.
#[cfg(target_os = "linux")]
const REMOTE: [u32; 14] = [
    0x6969,
    0x517b,
    0xff53_4d42,
    0xfe53_4d42,
    0x6573_5546,
    0x0102_1997,
    0x00c3_6400,
    0x5346_414f,
    0x7375_7245,
    0x0bd0_0bd0,
    0x4750_4653,
    0x1983_0326,
    0x7461_636f,
    0x786f_4256,
];

/// Bytes that are free for this user where a directory lies; `None` where the system does not say.
///
/// # Errors
/// What the system says of a directory that is not there, or that nothing can be written to.
pub(crate) fn free_bytes(dir: &Path) -> io::Result<Option<u64>> {
    use rustix::fs::{Access, access, statvfs};
    access(dir, Access::WRITE_OK | Access::EXEC_OK)?;
    Ok(statvfs(dir).ok().map(|found| found.f_bavail.saturating_mul(found.f_frsize)))
}

/// Whether a file lies on a network file system; false where the system does not say.
pub(super) fn is_remote(file: &File) -> bool {
    #[cfg(target_os = "linux")]
    return rustix::fs::fstatfs(file).is_ok_and(|found| is_remote_kind(found.f_type as u32));
    #[cfg(not(target_os = "linux"))]
    {
        let _ = file;
        false
    }
}

#[cfg(target_os = "linux")]
fn is_remote_kind(kind: u32) -> bool {
    REMOTE.contains(&kind)
}

/// The device a file lies on.
pub(super) fn device(metadata: &Metadata) -> u64 {
    metadata.dev()
}

/// An open file with the writers' lock, which goes when this is dropped, whoever reads the file on.
#[derive(Debug)]
pub(crate) struct Locked(Arc<File>);

impl Locked {
    /// Locks a file for the writer of `path` alone.
    ///
    /// # Errors
    /// `Io` if another process has it locked, or the file system has no locks.
    pub(crate) fn new(file: File, path: &Path) -> Result<Self> {
        match file.try_lock() {
            Ok(()) => Ok(Self(Arc::new(file))),
            Err(TryLockError::WouldBlock) => Err(busy(path)),
            Err(TryLockError::Error(e)) => Err(Error::io("lock", path, e)),
        }
    }

    /// Keeps writers of `path` out while all of the file is read, what no generation holds yet included.
    /// Where a file system has no locks for a file opened to read, there is none.
    ///
    /// # Errors
    /// `Io` if another process is writing it.
    pub(crate) fn against_writers(file: File, path: &Path) -> Result<Self> {
        match file.try_lock_shared() {
            Err(TryLockError::WouldBlock) => Err(busy(path)),
            Ok(()) | Err(TryLockError::Error(_)) => Ok(Self(Arc::new(file))),
        }
    }

    /// A file that needs no lock: it is not written, or nobody else can open it.
    pub(crate) fn unneeded(file: File) -> Self {
        Self(Arc::new(file))
    }
}

fn busy(path: &Path) -> Error {
    let text = format!("{} is in use by another process; wait for it", path.display());
    Error::new(ErrorKind::Io, text)
}

impl Deref for Locked {
    type Target = Arc<File>;

    fn deref(&self) -> &Arc<File> {
        &self.0
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        // Closing it would do if nobody else had it open: a process that is being started may, for a moment.
        let _ = self.0.unlock();
    }
}

/// Whether both are one file, whatever was written to it between.
pub(crate) fn is_same_file(a: &Metadata, b: &Metadata) -> bool {
    Stamp::of(a).is_same_file(&Stamp::of(b))
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

    /// What tells whether a file of this name was written to, and survives a move to another disk.
    pub(super) fn content(&self) -> [u64; 3] {
        [self.len, self.mtime as u64, self.mtime_nsec as u64]
    }

    /// Whether both are one file, whatever was written to it between.
    pub(super) fn is_same_file(&self, other: &Stamp) -> bool {
        self.dev == other.dev && self.ino == other.ino
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_goes_with_its_guard_though_the_file_stays_open() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        std::fs::write(&path, b"bytes").unwrap();
        let open = || File::open(&path).unwrap();
        let locked = Locked::new(open(), &path).unwrap();
        let reader = Arc::clone(&locked);
        let busy = Locked::new(open(), &path).unwrap_err();
        assert!(busy.to_string().contains("another process"), "{busy}");
        // Another file of the same name, without the lock, gives up none.
        drop(Locked::unneeded(open()));
        assert!(Locked::new(open(), &path).is_err());
        drop(locked);
        let _again = Locked::new(open(), &path).unwrap();
        assert_eq!(reader.metadata().unwrap().len(), 5);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn network_file_systems_are_told_from_local_ones() {
        assert!(
            is_remote_kind(0x6969) && is_remote_kind(0xff53_4d42) && is_remote_kind(0x6573_5546)
        );
        // ext4, xfs, btrfs, tmpfs, overlayfs.
        for local in [0xef53, 0x5846_5342, 0x9123_683e, 0x0102_1994, 0x794c_7630] {
            assert!(!is_remote_kind(local), "{local:x}");
        }
        let proc = File::open("/proc/self/status").unwrap();
        assert!(!is_remote(&proc));
    }
}
