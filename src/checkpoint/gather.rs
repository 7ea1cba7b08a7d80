//! Gathers what is written to a file, in any order, into whole aligned blocks that go straight to the disk,
//! past the system's page cache: what is written once and read by nobody soon has no need of a place there.

use std::collections::BTreeSet;
use std::collections::btree_map::{BTreeMap, Entry};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use crate::checkpoint::buffers::{Block, Blocks, REQUEST};
use crate::checkpoint::{disk, sys};

/// Bytes of a block: they are written at once.
const BLOCK: u64 = REQUEST;
/// Blocks of one file that are filled at once; of one more, the first is written as far as it has come.
/// Tiles under way seldom touch more: tensors come in the order in which they lie.
const MOST_OPEN: usize = 16;
/// Bytes of them.
pub(super) const OPEN_BYTES: u64 = MOST_OPEN as u64 * BLOCK;
/// What disks want lengths to be a multiple of.
const SECTOR: u64 = 4096;

/// A file that is written so.
#[derive(Debug)]
pub(super) struct Gather {
    file: File,
    len: u64,
    open: Mutex<Open>,
    spare: Arc<Blocks>,
}

#[derive(Debug, Default)]
struct Open {
    blocks: BTreeMap<u64, Filling>,
    /// Written before they were full: what comes later goes there by itself.
    early: BTreeSet<u64>,
}

#[derive(Debug)]
struct Filling {
    bytes: Block,
    /// What of it there is, in the order in which it came; neighbours are one.
    parts: Vec<Range<usize>>,
}

/// What is to be done once some bytes have come to a block.
enum Next {
    Nothing,
    /// They have no place to wait.
    Pass,
    Full(Filling),
    /// Another block, which had to give way.
    Early(u64, Filling),
}

impl Gather {
    /// A second opening of the file at `path`, which has `len` bytes; `None` if its file system cannot.
    pub(super) fn open(path: &Path, len: u64, spare: &Arc<Blocks>) -> Option<Self> {
        let file = disk::open(path).ok().filter(|file| !sys::is_remote(file))?;
        sys::set_direct(&file, true).ok()?;
        Some(Self { file, len, open: Mutex::default(), spare: Arc::clone(spare) })
    }

    /// Takes bytes for `offset`. `plain` is the file as opened before, for what makes no whole block.
    pub(super) fn write_at(
        &self,
        plain: &File,
        mut offset: u64,
        mut bytes: &[u8],
    ) -> io::Result<()> {
        while !bytes.is_empty() {
            let number = offset / BLOCK;
            let n = bytes.len().min(((number + 1) * BLOCK - offset) as usize);
            let (now, later) = bytes.split_at(n);
            match self.add(number, (offset - number * BLOCK) as usize, now)? {
                Next::Nothing => {}
                Next::Pass => disk::write_all_at(plain, now, offset)?,
                Next::Full(block) => self.write_block(plain, number, block)?,
                Next::Early(number, block) => self.write_parts(plain, number, block)?,
            }
            (offset, bytes) = (offset + n as u64, later);
        }
        Ok(())
    }

    /// Writes what has not made whole blocks.
    pub(super) fn finish(&self, plain: &File) -> io::Result<()> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        for (number, block) in std::mem::take(&mut open.blocks) {
            self.write_parts(plain, number, block)?;
        }
        Ok(())
    }

    fn add(&self, number: u64, at: usize, bytes: &[u8]) -> io::Result<Next> {
        let wanted = (self.len - number * BLOCK).min(BLOCK) as usize;
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.early.contains(&number) {
            return Ok(Next::Pass);
        }
        let block = match open.blocks.entry(number) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                entry.insert(Filling { bytes: self.spare.take()?, parts: Vec::new() })
            }
        };
        block.bytes[at..at + bytes.len()].copy_from_slice(bytes);
        block.add(at..at + bytes.len());
        if block.parts.first() == Some(&(0..wanted)) {
            return Ok(open.blocks.remove(&number).map_or(Next::Nothing, Next::Full));
        }
        if open.blocks.len() <= MOST_OPEN {
            return Ok(Next::Nothing);
        }
        let first = open.blocks.pop_first();
        Ok(first.map_or(Next::Nothing, |(number, block)| {
            open.early.insert(number);
            Next::Early(number, block)
        }))
    }

    fn write_block(&self, plain: &File, number: u64, block: Filling) -> io::Result<()> {
        let (start, end) = (number * BLOCK, self.len.min((number + 1) * BLOCK));
        let whole = ((end - start) / SECTOR * SECTOR) as usize;
        let len = (end - start) as usize;
        match disk::write_block_at(&self.file, &block.bytes[..whole], start) {
            Err(e) if e.kind() == io::ErrorKind::InvalidInput => {
                // A file system that has let it be asked for, and cannot.
                disk::write_all_at(plain, &block.bytes[..whole], start)?;
            }
            written => written?,
        }
        // Pages of the cache are not shared between the two.
        disk::write_all_at(plain, &block.bytes[whole..len], start + whole as u64)?;
        self.spare.give(block.bytes);
        Ok(())
    }

    fn write_parts(&self, plain: &File, number: u64, block: Filling) -> io::Result<()> {
        for part in &block.parts {
            disk::write_all_at(
                plain,
                &block.bytes[part.clone()],
                number * BLOCK + part.start as u64,
            )?;
        }
        self.spare.give(block.bytes);
        Ok(())
    }
}

impl Filling {
    fn add(&mut self, mut part: Range<usize>) {
        if let Some(i) = self.parts.iter().position(|p| p.end == part.start) {
            part.start = self.parts.swap_remove(i).start;
        }
        if let Some(i) = self.parts.iter().position(|p| p.start == part.end) {
            part.end = self.parts.swap_remove(i).end;
        }
        self.parts.push(part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Writes a file of `len` bytes in pieces that end at `cuts`, in the order that `order` gives them.
    fn written(len: usize, cuts: &[usize], order: &[u64]) -> (Vec<u8>, Vec<u8>) {
        let bytes: Vec<u8> = (0..len).map(|i| (i * 31 + i / 4093) as u8).collect();
        let mut ends: Vec<_> = cuts.iter().map(|c| c % len).chain([0, len]).collect();
        ends.sort_unstable();
        let mut pieces: Vec<_> = ends.windows(2).map(|w| w[0]..w[1]).collect();
        pieces.sort_by_key(|p| order[p.start % order.len()]);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let plain = disk::create_new(&path).unwrap();
        disk::set_len(&plain, len as u64).unwrap();
        let Some(gather) = Gather::open(&path, len as u64, &Arc::default()) else {
            eprintln!("skipped: {} cannot be written past the cache", path.display());
            return (Vec::new(), Vec::new());
        };
        for piece in pieces {
            gather.write_at(&plain, piece.start as u64, &bytes[piece]).unwrap();
        }
        gather.finish(&plain).unwrap();
        assert!(gather.open.lock().unwrap().blocks.is_empty());
        (bytes, std::fs::read(&path).unwrap())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]
        #[test]
        fn pieces_in_any_order_make_the_file(
            len in 1usize..40 << 20,
            cuts in prop::collection::vec(any::<usize>(), 0..60),
            order in prop::collection::vec(any::<u64>(), 1..50),
        ) {
            let (wanted, found) = written(len, &cuts, &order);
            prop_assert!(wanted == found);
        }
    }

    #[test]
    fn more_blocks_than_are_held_at_once_are_written_early() {
        let len = (MOST_OPEN + 9) * BLOCK as usize + 77;
        // The second half of each block before the first of any.
        let half = BLOCK as usize / 2;
        let cuts: Vec<_> = (1..len / half + 1).map(|i| i * half).filter(|c| *c < len).collect();
        let order: Vec<u64> = (0..2 * half as u64).map(|i| u64::from(i < half as u64)).collect();
        let (wanted, found) = written(len, &cuts, &order);
        assert!(wanted == found);
    }
}
