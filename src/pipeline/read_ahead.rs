//! How far ahead of its reader a run asks the kernel for pages: plain faults on cold files reach about
//! a quarter of the disk's speed.

use std::collections::VecDeque;

/// Bytes asked for ahead of the reader.
const WINDOW: u64 = 24 << 20;
/// What a tile counts at least, so that tiles without input do not let the window run to the end.
const LEAST: u64 = 1 << 20;

/// Counts what was announced and not yet read.
#[derive(Debug, Default)]
pub(crate) struct ReadAhead {
    tiles: VecDeque<u64>,
    bytes: u64,
}

impl ReadAhead {
    /// The reader goes on by one tile.
    pub(crate) fn read_one(&mut self) {
        self.bytes -= self.tiles.pop_front().unwrap_or(0);
    }

    pub(crate) fn wants_more(&self) -> bool {
        self.bytes < WINDOW
    }

    /// One more tile was asked for.
    pub(crate) fn announced(&mut self, bytes: u64) {
        self.tiles.push_back(bytes.max(LEAST));
        self.bytes += bytes.max(LEAST);
    }
}
