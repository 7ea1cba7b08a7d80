//! Memory that bytes of files are read into and written from, used again and again.

use std::io;
use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, PoisonError};

use memmap2::{MmapMut, MmapOptions};

/// Bytes that a disk is asked for at once. Disks and what lies below them work in pieces of up to 2 MiB: requests
/// of half a piece, or across two, took twice the time.
pub(super) const REQUEST: u64 = 4 << 20;
/// Buffers beyond this are given back to the system: tiles have 4 MiB at most.
const MAX_POOLED_BYTES: usize = 8 << 20;

/// Buffers between two windows. It never holds more of them than were in use at once.
#[derive(Debug, Default)]
pub(super) struct Pool(Mutex<Vec<Vec<u8>>>);

impl Pool {
    /// A buffer of at least `len` bytes, of which those not new keep their old contents.
    pub(super) fn take(&self, len: usize) -> Vec<u8> {
        let pooled = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut buffer = pooled.unwrap_or_default();
        if buffer.len() < len {
            // A fresh allocation copies nothing over and holds no more than is asked for.
            buffer = vec![0; len];
        }
        buffer
    }

    pub(super) fn give(&self, buffer: Vec<u8>) {
        if (1..=MAX_POOLED_BYTES).contains(&buffer.len()) {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push(buffer);
        }
    }
}

/// Bytes that a disk can read into by itself.
#[derive(Debug)]
pub(super) struct Block(MmapMut);

impl Block {
    /// # Errors
    /// If the system has no memory.
    pub(super) fn new(len: u64) -> io::Result<Self> {
        let memory = MmapOptions::new().len(len as usize).map_anon()?;
        // In huge pages the disk is told of two places, not of a thousand.
        #[cfg(target_os = "linux")]
        let _ = memory.advise(memmap2::Advice::HugePage);
        Ok(Self(memory))
    }
}

impl Deref for Block {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl DerefMut for Block {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

/// Blocks of [`REQUEST`] bytes between two uses.
#[derive(Debug, Default)]
pub(super) struct Blocks(Mutex<Vec<Block>>);

impl Blocks {
    pub(super) fn take(&self) -> io::Result<Block> {
        let spare = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        spare.map_or_else(|| Block::new(REQUEST), Ok)
    }

    pub(super) fn give(&self, block: Block) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(block);
    }
}
