//! Where stored frames are read from: a file, up to where it is known to be whole.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use crate::archive::walk::Walk;
use crate::checkpoint::Direct;
use crate::error::{Error, ErrorKind, Result};
use crate::frame::{self, HEADER_LEN, Header, MAX_RAW_LEN};

/// Most bytes a stored frame has: what cannot be compressed grows a little.
pub(super) const MAX_STORED_LEN: usize = MAX_RAW_LEN as usize + (1 << 20);

/// The frames of a file, up to an offset. Read from any thread.
#[derive(Debug, Clone)]
pub(crate) struct FrameStore {
    file: Arc<File>,
    end: u64,
    /// Where the system's cache is passed by.
    direct: Option<Arc<Direct>>,
}

impl FrameStore {
    pub(crate) fn new(file: Arc<File>, end: u64) -> Self {
        Self { file, end, direct: None }
    }

    /// Reads frames past the system's cache from now on, in blocks, if the file at `path` is this one and
    /// its file system can.
    pub(super) fn pass_cache_by(&mut self, path: &Path) {
        self.direct = Direct::open_file(path, &self.file, self.end).ok().map(Arc::new);
    }

    /// Its own reads past the system's cache, if that is how it reads.
    pub(crate) fn direct(&self) -> Option<&Direct> {
        self.direct.as_deref()
    }

    /// Bytes that it holds while it is read.
    pub(crate) fn buffer_bytes(&self) -> u64 {
        self.direct.as_ref().map_or(0, |direct| direct.least_bytes())
    }

    /// Bytes of the whole file, which may go on behind the frames.
    pub(super) fn file_len(&self) -> Result<u64> {
        let metadata = self.file.metadata();
        metadata.map(|m| m.len()).map_err(|e| {
            Error::new(ErrorKind::Io, "cannot examine the archive".to_owned()).with_source(e)
        })
    }

    /// Goes through a range of the file frame by frame.
    pub(super) fn walk(&self, from: u64, end: u64) -> Walk<'_> {
        Walk::new(&self.file, from, end)
    }

    /// Reads the stored bytes of one frame into `out` (cleared first).
    pub(crate) fn read(&self, offset: u64, len: usize, out: &mut Vec<u8>) -> Result<()> {
        let end = offset.checked_add(len as u64);
        if len < HEADER_LEN || end.is_none_or(|end| end > self.end) {
            return Err(Error::corrupt(format!(
                "frame of {len} bytes at offset {offset} is not in the file"
            )));
        }
        out.clear();
        out.resize(len, 0);
        let read = match &self.direct {
            Some(direct) => direct.read(0, offset, out, true),
            None => self.file.read_exact_at(out, offset),
        };
        read.map_err(|e| {
            Error::truncated(format!("frame at offset {offset} cannot be read")).with_source(e)
        })
    }

    /// The same for a frame of at most [`MAX_STORED_LEN`] bytes, which is held to its checksums.
    pub(super) fn read_whole(&self, offset: u64, len: usize, out: &mut Vec<u8>) -> Result<Header> {
        if len > MAX_STORED_LEN {
            return Err(Error::corrupt(format!("{len} bytes exceed the cap")));
        }
        self.read(offset, len, out)?;
        Ok(frame::check(out)?.0)
    }
}
