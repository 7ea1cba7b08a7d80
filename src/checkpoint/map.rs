//! Windows onto tensor bytes, mapped or read. The only file of the crate that maps.
//!
//! A window maps its own range and unmaps it when dropped: one map of a 140 GB model, kept, would
//! cost 280 MB of page tables, which count against a memory limit like any other memory.

#![expect(
    unsafe_code,
    reason = "a file map is only as sound as the promise that nobody writes to the file"
)]

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use memmap2::{Advice, Mmap, MmapOptions};

use crate::checkpoint::adapter::Merge;
use crate::checkpoint::behind::{self, Behind};
use crate::checkpoint::buffers::Pool;
use crate::checkpoint::direct::Direct;
use crate::checkpoint::sys::{self, HUGE_PAGE};
use crate::checkpoint::window::{Bytes, Window, cut_short};
use crate::checkpoint::{Checkpoint, TensorInfo};
use crate::error::{Error, ErrorKind, Result};

/// Where the system reads at least this far ahead of a sequential reader, it is left to it: it then
/// keeps the file in large folios, which cost a tenth of the time of the single pages that come of being
/// asked. Below that, being asked is three times as fast on cold files. Maps on Linux have huge pages.
const OWN_READ_AHEAD: u64 = 1 << 20;

/// How tensor bytes are brought in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum IoMode {
    /// Pages of the file are mapped; the system shares and reclaims them.
    Mmap,
    /// Bytes are copied into buffers of our own; right for network file systems.
    Read,
    /// Bytes come straight from the disk to buffers of our own, past the system's cache: least work for
    /// files that are read once or exceed the memory, and none for files that are cached already.
    Direct,
    /// What suits the files. Read where they lie on a network file system: there another machine may
    /// change them unseen, and a map shows a lost connection as a fatal signal. Direct where the checkpoint
    /// exceeds a quarter of the memory there is, and would push itself out of the cache, or where it is
    /// read once and is not in the cache yet. Mapped otherwise.
    Auto,
}

/// Whether files may be mapped. The promise that makes it sound is made where this is constructed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MapChoice(IoMode);

impl MapChoice {
    /// Maps files where the system allows it.
    ///
    /// # Safety
    /// No file of a checkpoint that is opened with this choice may be written to or truncated, by
    /// this process or another, until everything made from that checkpoint is dropped. A change
    /// shows as bytes that alter under a shared reference, which is undefined behaviour; a
    /// truncation ends the process with SIGBUS. Replacing a file by a rename is fine.
    pub const unsafe fn trusting_files_stay_unchanged() -> Self {
        Self(IoMode::Mmap)
    }

    /// Maps files that lie on a local file system, and reads others.
    ///
    /// # Safety
    /// As for [`trusting_files_stay_unchanged`](Self::trusting_files_stay_unchanged), of local files.
    pub const unsafe fn trusting_local_files_stay_unchanged() -> Self {
        Self(IoMode::Auto)
    }

    /// Never maps: reads past the system's cache, or through it where a file system cannot.
    pub const fn direct() -> Self {
        Self(IoMode::Direct)
    }

    /// Never maps: reads into buffers.
    pub const fn never() -> Self {
        Self(IoMode::Read)
    }

    /// The mode chosen.
    pub fn mode(self) -> IoMode {
        self.0
    }

    /// Whether files of so many bytes together, wanted again soon, are read or written past the system's cache.
    pub(crate) fn passes_cache_by(self, bytes: u64) -> bool {
        match self.0 {
            IoMode::Direct => true,
            IoMode::Auto => behind::crowds(bytes),
            IoMode::Mmap | IoMode::Read => false,
        }
    }

    /// How a checkpoint is read: not [`IoMode::Auto`].
    fn mode_for(self, checkpoint: &Checkpoint, is_once: bool) -> IoMode {
        match self.0 {
            IoMode::Auto if checkpoint.shards().iter().any(|s| sys::is_remote(s.file())) => {
                IoMode::Read
            }
            IoMode::Auto if behind::crowds(checkpoint.total_bytes()) => IoMode::Direct,
            IoMode::Auto if is_once && !checkpoint.is_cached() => IoMode::Direct,
            IoMode::Auto => IoMode::Mmap,
            mode => mode,
        }
    }
}

impl Default for MapChoice {
    /// [`MapChoice::never`]: safe whatever happens to the files.
    fn default() -> Self {
        Self::never()
    }
}

/// The shards of a checkpoint as sources of bytes; shared by threads.
#[derive(Debug)]
pub(crate) struct Source {
    maps: bool,
    /// Where the cache is passed by.
    direct: Option<Direct>,
    shards: Vec<SourceFile>,
    pool: Arc<Pool>,
    /// Where an adapter is merged into what is read.
    merge: Option<Box<Merge>>,
}

/// How often the bytes of a checkpoint are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Once,
    Again,
    /// So often, or beside other readers of the same files, that the system's cache is the place for them.
    Often,
}

#[derive(Debug)]
struct SourceFile {
    file: Arc<File>,
    path: Arc<Path>,
    len: u64,
    /// Whether the system has to be asked to read ahead.
    asks: bool,
    /// Where it is not to stay cached.
    behind: Option<Arc<Behind>>,
}

impl Source {
    /// A source over all shards of `checkpoint`.
    ///
    /// # Errors
    /// `Io` if a shard was written to since the checkpoint was opened.
    pub(crate) fn new(checkpoint: &Checkpoint, map: &MapChoice) -> Result<Source> {
        Self::open(checkpoint, map, Wanted::Again)
    }

    /// The same, of a checkpoint whose bytes are wanted once: it need not come to the system's cache.
    pub(crate) fn once(checkpoint: &Checkpoint, map: &MapChoice) -> Result<Source> {
        Self::open(checkpoint, map, Wanted::Once)
    }

    /// The same, of one whose bytes are read for every tile: never past the system's cache.
    pub(super) fn often(checkpoint: &Checkpoint, map: &MapChoice) -> Result<Source> {
        Self::open(checkpoint, map, Wanted::Often)
    }

    fn open(checkpoint: &Checkpoint, map: &MapChoice, wanted: Wanted) -> Result<Source> {
        // A merged fine-tune reads the base's files beside the base.
        let wanted = if checkpoint.adapter().is_some() { Wanted::Often } else { wanted };
        let mode = match map.mode_for(checkpoint, wanted == Wanted::Once) {
            IoMode::Direct if wanted == Wanted::Often && map.mode() == IoMode::Auto => IoMode::Mmap,
            IoMode::Direct if wanted == Wanted::Often => IoMode::Read,
            mode => mode,
        };
        let direct = (mode == IoMode::Direct).then(|| Direct::open(checkpoint.shards())).flatten();
        // Where a file system cannot, the next best is what may be done.
        let may_map = mode == IoMode::Mmap || map.mode() == IoMode::Auto && mode != IoMode::Read;
        let maps = direct.is_none() && may_map;
        let alone = direct.is_none() && !maps || cfg!(not(target_os = "linux"));
        let crowded = direct.is_none() && behind::crowds(checkpoint.total_bytes());
        let mut shards = Vec::with_capacity(checkpoint.shards().len());
        for shard in checkpoint.shards() {
            shard.check_unchanged()?;
            let (file, path) = (Arc::clone(shard.file()), Arc::from(&*shard.path));
            let asks = alone && sys::read_ahead_bytes(&file).is_none_or(|n| n < OWN_READ_AHEAD);
            let behind = crowded.then(|| Arc::new(Behind::new(Arc::clone(&file))));
            shards.push(SourceFile { file, path, len: shard.file_len, asks, behind });
        }
        let merge = checkpoint.adapter().map(|adapter| Merge::new(adapter, map)).transpose()?;
        Ok(Source { maps, direct, shards, pool: Arc::default(), merge: merge.map(Box::new) })
    }

    /// The `len` bytes of shard `shard_idx` from `offset`. A mapped window has read nothing yet.
    ///
    /// # Errors
    /// `InvalidArgument` for a range outside the shard; `Io` if reading fails or the file shrank.
    pub(crate) fn window(&self, shard_idx: usize, offset: u64, len: usize) -> Result<Window> {
        self.formed(shard_idx, offset, len, |source| source.bring(shard_idx, offset, len, false))
    }

    /// What an adapter makes of stored bytes that are brought in.
    fn formed(
        &self,
        shard_idx: usize,
        offset: u64,
        len: usize,
        stored: impl FnOnce(&Self) -> Result<Window>,
    ) -> Result<Window> {
        match &self.merge {
            Some(merge) => merge.window((shard_idx, offset, len), || stored(self)),
            None => stored(self),
        }
    }

    fn bring(&self, shard_idx: usize, offset: u64, len: usize, is_last: bool) -> Result<Window> {
        let shard = self.shard(shard_idx, offset, len)?;
        if len == 0 {
            // The system refuses to map nothing.
            return Ok(Window::new(Bytes::Empty));
        }
        if self.maps {
            shard.check_not_shrunk()?;
            if let Some((map, start)) = shard.map(offset, len) {
                let path = Arc::clone(&shard.path);
                let bytes = Bytes::Mapped { map, range: start..start + len, path };
                return Ok(Window::new(bytes));
            }
        }
        let Some(direct) = &self.direct else {
            return self.fill(shard, len, |out| sys::read_exact_at(&shard.file, out, offset));
        };
        match direct.share(shard_idx, offset, len, is_last) {
            Ok(None) => self.fill(shard, len, |out| direct.read(shard_idx, offset, out, is_last)),
            Ok(Some(shared)) => Ok(Window::new(Bytes::Shared(shared))),
            Err(e) => Err(shard.unread(len, e)),
        }
    }

    /// [`window`](Self::window), of a few bytes far from others that are read: no block is read for them.
    pub(crate) fn peek(&self, shard_idx: usize, offset: u64, len: usize) -> Result<Window> {
        if self.merge.is_some() {
            return self.window(shard_idx, offset, len);
        }
        self.peek_stored(shard_idx, offset, len)
    }

    /// [`peek`](Self::peek), of what is stored, whatever an adapter makes of it; not only of one tensor.
    pub(crate) fn peek_stored(&self, shard_idx: usize, offset: u64, len: usize) -> Result<Window> {
        if self.direct.is_none() {
            return self.bring(shard_idx, offset, len, false);
        }
        let shard = self.shard(shard_idx, offset, len)?;
        self.fill(shard, len, |out| sys::read_exact_at(&shard.file, out, offset))
    }

    fn shard(&self, shard_idx: usize, offset: u64, len: usize) -> Result<&SourceFile> {
        self.shards.get(shard_idx).filter(|s| s.holds(offset, len)).ok_or_else(|| {
            Error::invalid_argument(format!(
                "{len} bytes at {offset} of shard {shard_idx} lie outside the checkpoint"
            ))
        })
    }

    /// A window of `len` bytes that `read` brings in.
    fn fill(
        &self,
        shard: &SourceFile,
        len: usize,
        read: impl FnOnce(&mut [u8]) -> std::io::Result<()>,
    ) -> Result<Window> {
        let mut buffer = self.pool.take(len);
        match read(&mut buffer[..len]) {
            Ok(()) => Ok(Window::new(Bytes::Read { buffer, len, pool: Arc::clone(&self.pool) })),
            Err(e) => {
                self.pool.give(buffer);
                Err(shard.unread(len, e))
            }
        }
    }

    /// [`window`](Self::window), of bytes that are not read again after it.
    pub(crate) fn last_window(&self, shard_idx: usize, offset: u64, len: usize) -> Result<Window> {
        self.formed(shard_idx, offset, len, |source| {
            let mut window = source.bring(shard_idx, offset, len, true)?;
            let behind = source.shards.get(shard_idx).and_then(|shard| shard.behind.clone());
            window.last = behind.map(|behind| (behind, offset..offset + len as u64));
            Ok(window)
        })
    }

    /// The files of the adapter that is merged into what is read.
    pub(crate) fn adapter(&self) -> Option<&Source> {
        self.merge.as_ref().map(|merge| merge.source())
    }

    /// Most bytes held beside a window of `len` bytes onto tensor `t` that others are formed of.
    pub(crate) fn beside(&self, t: &TensorInfo, len: u64) -> u64 {
        self.merge.as_ref().map_or(0, |merge| merge.beside(t, len))
    }

    /// Most bytes that a window has mapped beside its own.
    pub(crate) fn window_margin(&self) -> u64 {
        let largest = self.shards.iter().map(|shard| shard.len).max().unwrap_or(0);
        if self.maps { largest.min(2 * HUGE_PAGE) } else { 0 }
    }

    /// Bytes that this source holds whatever is read through it.
    pub(crate) fn resident_bytes(&self) -> u64 {
        let merge = self.merge.as_ref().map_or(0, |merge| merge.resident_bytes());
        self.direct.as_ref().map_or(0, Direct::least_bytes) + merge
    }

    /// Its own reads past the system's cache, if that is how it reads.
    pub(crate) fn direct(&self) -> Option<&Direct> {
        self.direct.as_ref()
    }

    /// Whether [`will_need`](Self::will_need) may do anything.
    pub(crate) fn asks(&self) -> bool {
        self.shards.iter().any(|shard| shard.asks)
    }

    /// Asks the system to read a range ahead. A hint: it never fails, and may do nothing.
    pub(crate) fn will_need(&self, shard_idx: usize, offset: u64, len: usize) {
        let Some(shard) = self.shards.get(shard_idx).filter(|shard| shard.asks) else {
            return;
        };
        let left = shard.len.saturating_sub(offset);
        let len = usize::try_from(left).unwrap_or(usize::MAX).min(len);
        if len == 0 {
            return;
        }
        // The pages come to the system's cache, so the map need not outlive the call, nor is it
        // ever looked through: this is sound in read mode too.
        let map = MmapOptions::new().offset(offset).len(len).map_raw_read_only(&*shard.file);
        if let Ok(map) = map {
            let _ = map.advise(Advice::WillNeed);
        }
    }
}

impl SourceFile {
    fn holds(&self, offset: u64, len: usize) -> bool {
        offset.checked_add(len as u64).is_some_and(|end| end <= self.len)
    }

    /// A map beyond the end would kill the process when touched; this catches all but a race.
    fn check_not_shrunk(&self) -> Result<()> {
        let now = self.file.metadata().map_err(|e| Error::io("read", &self.path, e))?.len();
        if now >= self.len {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Io,
            format!(
                "{} shrank from {} to {now} bytes while it was being read; restore it and run again",
                self.path.display(),
                self.len
            ),
        ))
    }

    /// Why `len` bytes of it cannot be had.
    fn unread(&self, len: usize, e: std::io::Error) -> Error {
        if e.kind() == std::io::ErrorKind::UnexpectedEof {
            return cut_short(&self.path, e);
        }
        Error::io("read", &self.path, e).context(format!("{len} bytes"))
    }

    /// A map that holds the `len` bytes at `offset`, and where in it they start. None where the system
    /// refuses: some file systems cannot map, and maps per process are limited.
    fn map(&self, offset: u64, len: usize) -> Option<(Mmap, usize)> {
        // The system then maps a large folio as one huge page, which a processor reads three times as
        // fast as single pages, since it need not stop and look up where the next one lies.
        let start = offset / HUGE_PAGE * HUGE_PAGE;
        let end = (offset + len as u64).next_multiple_of(HUGE_PAGE).min(self.len);
        let mut options = MmapOptions::new();
        options.offset(start).len(usize::try_from(end - start).ok()?);
        // SAFETY: a source maps only if its `MapChoice` came from `trusting_files_stay_unchanged`,
        // whose caller promised that these files are neither written to nor truncated meanwhile.
        let map = unsafe { options.map(&*self.file) }.ok()?;
        Some((map, (offset - start) as usize))
    }
}
