//! Reads past the system's page cache, in large aligned blocks, and keeps the blocks used last.
//!
//! Bytes that are read once need no place in the cache: the disk puts them straight into a buffer that is
//! used again and again, which costs a core next to nothing. A page that comes to the cache is found,
//! cleared of its old owner, entered and later given up, and where the machine is a guest its host may
//! have to find it too: more than half a second of a core a GB.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use crate::checkpoint::Shard;
use crate::checkpoint::buffers::{Block, REQUEST};
use crate::checkpoint::cache::{BlockCache, LEAST_BLOCKS, Shared};
use crate::checkpoint::sys;

/// Bytes of a block: two requests, so that few tiles begin in one and end in the next.
const BLOCK: u64 = 2 * REQUEST;

/// The shards of a checkpoint, or an archive, opened a second time for such reads.
#[derive(Debug)]
pub(crate) struct Direct {
    files: Vec<DirectFile>,
    cache: Arc<BlockCache>,
}

#[derive(Debug)]
struct DirectFile {
    file: File,
    len: u64,
}

/// A block that is wanted soon.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fetch<'a> {
    from: &'a Direct,
    shard_idx: usize,
    number: u64,
}

impl PartialEq for Fetch<'_> {
    fn eq(&self, other: &Self) -> bool {
        let place = |fetch: &Self| (fetch.shard_idx, fetch.number);
        std::ptr::eq(self.from, other.from) && place(self) == place(other)
    }
}

impl Fetch<'_> {
    /// Bytes of a block.
    pub(crate) const BYTES: u64 = BLOCK;

    /// Brings it in, so that who reads it finds it, or is told what went wrong.
    pub(crate) fn run(self) {
        let file = &self.from.files[self.shard_idx];
        let load = |block: &mut Block| file.read_block(self.number, block);
        self.from.cache.fetch((self.shard_idx, self.number), load);
    }
}

impl Direct {
    /// `None` if a shard's file system cannot, or its path leads to another file by now.
    pub(super) fn open(shards: &[Shard]) -> Option<Self> {
        let open = |s: &Shard| DirectFile::open(&s.path, s.file(), s.file_len);
        let files = shards.iter().map(open).collect::<io::Result<_>>().ok()?;
        Some(Self::of(files))
    }

    /// The first `len` bytes of one file, which is open as `file`.
    ///
    /// # Errors
    /// If its file system cannot or is that of another machine, or another file is at `path` by now.
    pub(crate) fn open_file(path: &Path, file: &File, len: u64) -> io::Result<Self> {
        if sys::is_remote(file) {
            return Err(io::ErrorKind::Unsupported.into());
        }
        Ok(Self::of(vec![DirectFile::open(path, file, len)?]))
    }

    fn of(files: Vec<DirectFile>) -> Self {
        Self { files, cache: Arc::new(BlockCache::new(BLOCK, LEAST_BLOCKS)) }
    }

    /// Fills `out` from `offset` of a shard. Of bytes that are read for the last time, blocks that end here make
    /// room first.
    ///
    /// # Errors
    /// What the system says; `UnexpectedEof` if the file is shorter than it was.
    pub(crate) fn read(
        &self,
        shard_idx: usize,
        offset: u64,
        out: &mut [u8],
        is_last: bool,
    ) -> io::Result<()> {
        let end = offset + out.len() as u64;
        for number in offset / BLOCK..end.div_ceil(BLOCK) {
            let start = number * BLOCK;
            let part = offset.max(start)..end.min(start + BLOCK);
            let place = (shard_idx, number);
            let load = |block: &mut Block| self.files[shard_idx].read_block(number, block);
            let block = self.cache.get(place, load)?;
            let to = (part.start - offset) as usize..(part.end - offset) as usize;
            let from = (part.start - start) as usize..(part.end - start) as usize;
            out[to].copy_from_slice(&block[from]);
            self.cache.back(place, block, is_last && part.end == start + BLOCK);
        }
        Ok(())
    }

    /// `len` bytes from `offset` of a shard as they lie in a block, if they lie in one and it can be spared; of
    /// bytes that are read for the last time as with [`read`](Self::read).
    ///
    /// # Errors
    /// As there.
    pub(super) fn share(
        &self,
        shard_idx: usize,
        offset: u64,
        len: usize,
        is_last: bool,
    ) -> io::Result<Option<Shared>> {
        let (number, end) = (offset / BLOCK, offset + len as u64);
        if end > (number + 1) * BLOCK {
            return Ok(None);
        }
        let place = (shard_idx, number);
        let load = |block: &mut Block| self.files[shard_idx].read_block(number, block);
        let Some(block) = self.cache.get_for_long(place, load)? else { return Ok(None) };
        let start = (offset - number * BLOCK) as usize;
        let is_done = is_last && end == (number + 1) * BLOCK;
        let cache = Arc::clone(&self.cache);
        Ok(Some(Shared::new(cache, (place, block), start..start + len, is_done)))
    }

    /// The blocks that `len` bytes from `offset` of a shard lie in, which are not here yet.
    pub(crate) fn to_fetch(
        &self,
        shard_idx: usize,
        offset: u64,
        len: u64,
    ) -> impl Iterator<Item = Fetch<'_>> {
        let numbers = offset / BLOCK..(offset + len).div_ceil(BLOCK);
        let missing = numbers.filter(move |number| !self.cache.has((shard_idx, *number)));
        missing.map(move |number| Fetch { from: self, shard_idx, number })
    }

    /// Makes room for so many bytes more than the last ones read: those that are fetched ahead, and those of a
    /// few tensors which are read again.
    pub(crate) fn keep(&self, bytes: u64) {
        self.cache.grow(LEAST_BLOCKS + bytes.div_ceil(BLOCK) as usize);
    }

    /// Bytes of the blocks that are kept at least.
    pub(crate) fn least_bytes(&self) -> u64 {
        LEAST_BLOCKS as u64 * BLOCK
    }
}

impl DirectFile {
    fn open(path: &Path, opened: &File, len: u64) -> io::Result<Self> {
        let file = File::open(path)?;
        if !sys::is_same_file(&file.metadata()?, &opened.metadata()?) {
            return Err(io::ErrorKind::NotFound.into());
        }
        sys::set_direct(&file, true)?;
        Ok(Self { file, len })
    }

    /// Reads block `number`, as far as the file has it.
    fn read_block(&self, number: u64, out: &mut [u8]) -> io::Result<()> {
        let range: Range<u64> = number * BLOCK..self.len.min((number + 1) * BLOCK);
        let wanted = (range.end - range.start) as usize;
        let mut done = 0;
        while done < wanted {
            let end = out.len().min(done + REQUEST as usize);
            done += match sys::read_at(&self.file, &mut out[done..end], range.start + done as u64) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => 0,
                Err(e) if e.kind() == io::ErrorKind::InvalidInput => {
                    // Its file system wants other alignments than any disk has, or was cut off within one.
                    sys::set_direct(&self.file, false)?;
                    sys::read_exact_at(&self.file, &mut out[..wanted], range.start)?;
                    wanted - done
                }
                Err(e) => return Err(e),
            };
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::LazyLock;

    /// Two files of more blocks than are kept, and what they hold.
    static FILES: LazyLock<(tempfile::TempDir, Vec<Vec<u8>>)> = LazyLock::new(|| {
        let dir = tempfile::tempdir().unwrap();
        let lens = [5 * BLOCK as usize + 1234, 2 * BLOCK as usize];
        let bytes = lens.map(|n| (0..n).map(|i| (i * 7 + i / 4099) as u8).collect::<Vec<_>>());
        for (i, bytes) in bytes.iter().enumerate() {
            std::fs::write(dir.path().join(i.to_string()), bytes).unwrap();
        }
        (dir, bytes.into())
    });

    fn opened() -> Direct {
        let (dir, bytes) = &*FILES;
        let file = |(i, bytes): (usize, &Vec<u8>)| {
            let file = open(&dir.path().join(i.to_string()));
            DirectFile { file, len: bytes.len() as u64 }
        };
        Direct::of(bytes.iter().enumerate().map(file).collect())
    }

    fn open(path: &Path) -> File {
        let file = File::open(path).unwrap();
        if sys::set_direct(&file, true).is_err() {
            eprintln!("{} cannot be read past the cache: it is read through it", path.display());
        }
        file
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn any_ranges_in_any_order_are_the_files(
            keep in 0u64..6 * BLOCK,
            places in prop::collection::vec((0usize..2, any::<prop::sample::Index>(), 0usize..5 << 20), 1..24),
        ) {
            let direct = opened();
            direct.keep(keep);
            for (shard, at, len) in places {
                let bytes = &FILES.1[shard];
                let at = at.index(bytes.len());
                let len = len.min(bytes.len() - at);
                let mut out = vec![0; len];
                direct.read(shard, at as u64, &mut out, len % 3 == 0).unwrap();
                prop_assert!(out == bytes[at..at + len]);
            }
        }
    }

    #[test]
    fn what_was_fetched_ahead_is_there_and_is_the_file() {
        let direct = opened();
        direct.keep(3 * BLOCK);
        let missing = |offset, len| direct.to_fetch(0, offset, len).map(|f| f.number).collect();
        let missing: &dyn Fn(u64, u64) -> Vec<u64> = &missing;
        assert_eq!(missing(BLOCK - 1, BLOCK + 2), [0, 1, 2]);
        direct.to_fetch(0, BLOCK, 2 * BLOCK).for_each(Fetch::run);
        assert_eq!(missing(BLOCK - 1, 2 * BLOCK), [0]);
        let mut out = vec![0; 2 * BLOCK as usize];
        direct.read(0, BLOCK + 7, &mut out, false).unwrap();
        assert!(out == FILES.1[0][BLOCK as usize + 7..][..out.len()]);
    }

    #[test]
    fn a_file_that_was_cut_short_is_an_error_and_not_old_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        std::fs::write(&path, vec![7; 3 * BLOCK as usize]).unwrap();
        let direct = Direct::of(vec![DirectFile { file: open(&path), len: 3 * BLOCK }]);
        let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        for len in [BLOCK + 8192, BLOCK + 5000] {
            file.set_len(len).unwrap();
            let error = direct.read(0, BLOCK, &mut [0; 8], false).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        }
        direct.read(0, 0, &mut [0; 8], false).unwrap();
    }
}
