//! The bytes of one range of a file, mapped or read, for as long as somebody looks at them.

use std::ops::{Deref, Range};
use std::path::Path;
use std::sync::Arc;

#[cfg(target_os = "linux")]
use memmap2::Advice;
use memmap2::Mmap;

use crate::checkpoint::adapter::Merged;
use crate::checkpoint::behind::Behind;
use crate::checkpoint::buffers::Pool;
use crate::checkpoint::cache::Shared;
#[cfg(target_os = "linux")]
use crate::checkpoint::sys;
use crate::error::{Error, ErrorKind, Result};

/// The bytes of one range of a shard.
#[derive(Debug)]
pub(crate) struct Window {
    bytes: Bytes,
    /// Its file and place, if these pages are to be given up after it.
    pub(super) last: Option<(Arc<Behind>, Range<u64>)>,
}

#[derive(Debug)]
pub(super) enum Bytes {
    Empty,
    /// Some of the bytes of a map.
    Mapped {
        map: Mmap,
        range: Range<usize>,
        /// For messages.
        path: Arc<Path>,
    },
    /// Of a block that others may look at too.
    Shared(Shared),
    /// The first `len` bytes of a buffer that goes back to its pool.
    Read {
        buffer: Vec<u8>,
        len: usize,
        pool: Arc<Pool>,
    },
    /// Formed of others when they are looked at.
    Merged(Box<Merged>),
}

impl Window {
    pub(super) fn new(bytes: Bytes) -> Self {
        Self { bytes, last: None }
    }

    /// Brings all pages of a mapped window in at once: on cold files four times as fast as one
    /// fault a page.
    ///
    /// # Errors
    /// `Io` if the file was cut short meanwhile or its disk cannot be read: looking at such bytes would end
    /// the process.
    pub(crate) fn populate(&self) -> Result<()> {
        if let Bytes::Merged(merged) = &self.bytes {
            return merged.populate();
        }
        #[cfg(target_os = "linux")]
        if let Bytes::Mapped { map, range, path } = &self.bytes {
            // A miss then reads two huge pages at once, ahead of it, and goes on in huge pages; without
            // this it would read single pages, half of them behind it, where all has been read.
            let _ = map.advise(Advice::HugePage);
            match map.advise_range(Advice::PopulateRead, range.start, range.len()) {
                Err(e) if sys::is_bad_page(&e) => return Err(cut_short(path, e)),
                // Systems before Linux 5.14 do not know how.
                _ => {}
            }
        }
        Ok(())
    }
}

pub(super) fn cut_short(path: &Path, e: std::io::Error) -> Error {
    let text = format!(
        "{} was cut short while it was being read, or its disk fails; restore it and run again",
        path.display()
    );
    Error::new(ErrorKind::Io, text).with_source(e)
}

impl Deref for Window {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Empty => &[],
            Bytes::Mapped { map, range, .. } => &map[range.clone()],
            Bytes::Shared(shared) => shared,
            Bytes::Read { buffer, len, .. } => &buffer[..*len],
            Bytes::Merged(merged) => merged.bytes(),
        }
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        if let Bytes::Read { buffer, pool, .. } = &mut self.bytes {
            pool.give(std::mem::take(buffer));
        }
        if let Some((behind, range)) = self.last.take() {
            // Pages that are mapped stay.
            self.bytes = Bytes::Empty;
            behind.done(range);
        }
    }
}
