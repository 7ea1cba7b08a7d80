//! Gives up cached pages of what has been read for the last time, where memory is short of the files: a
//! page cache that is full makes room a page at a time, and has none for large folios.

use std::collections::VecDeque;
use std::fs::File;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use crate::checkpoint::memory;
use crate::checkpoint::sys::{self, HUGE_PAGE};

/// Files of more than this share of the memory there is are not kept in the cache.
const SHARE: u64 = 4;
/// Bytes read last that are kept: of a tensor's last folio the next tensor has a part, and other threads
/// may still read theirs.
const KEPT: u64 = 16 << 20;

/// Whether this many bytes would crowd other things out of the page cache.
pub(super) fn crowds(bytes: u64) -> bool {
    memory::available().is_some_and(|available| bytes > available / SHARE)
}

/// What of a file has been read for the last time, and is to be given up.
#[derive(Debug)]
pub(super) struct Behind {
    file: Arc<File>,
    done: Mutex<Done>,
}

/// Ranges read and not given up, oldest first.
#[derive(Debug, Default)]
struct Done(VecDeque<Range<u64>>);

impl Behind {
    pub(super) fn new(file: Arc<File>) -> Self {
        Self { file, done: Mutex::default() }
    }

    /// Takes note that a range has been read for the last time.
    pub(super) fn done(&self, range: Range<u64>) {
        let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        done.add(range);
        while let Some(piece) = done.take_oldest() {
            sys::give_up(&self.file, piece.start, piece.end - piece.start);
        }
    }
}

impl Done {
    /// Adds a range, to a neighbour if there is one: threads finish not quite in order.
    fn add(&mut self, range: Range<u64>) {
        let after = self.0.iter().position(|r| r.start == range.end);
        let range = range.start..after.and_then(|i| self.0.remove(i)).map_or(range.end, |r| r.end);
        match self.0.iter_mut().find(|r| r.end == range.start) {
            Some(before) => before.end = range.end,
            None => self.0.push_back(range),
        }
    }

    /// The oldest piece to give up, once more than enough is kept.
    fn take_oldest(&mut self) -> Option<Range<u64>> {
        let total: u64 = self.0.iter().map(|r| r.end - r.start).sum();
        let spare = total.checked_sub(KEPT).filter(|n| *n >= HUGE_PAGE)?;
        let oldest = self.0.front_mut()?;
        // Folios lie wholly inside a piece that is cut so.
        let cut = (oldest.start + spare) / HUGE_PAGE * HUGE_PAGE;
        if cut >= oldest.end {
            return self.0.pop_front();
        }
        let piece = oldest.start..cut;
        oldest.start = cut;
        Some(piece).filter(|piece| !piece.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn given_up(done: &mut Done) -> Vec<(u64, u64)> {
        std::iter::from_fn(|| done.take_oldest()).map(|r| (r.start / MIB, r.end / MIB)).collect()
    }

    #[test]
    fn what_was_read_long_ago_is_given_up_in_whole_steps() {
        let mut done = Done::default();
        for mib in [1, 3, 2, 4, 5] {
            done.add(mib * MIB..(mib + 1) * MIB);
        }
        assert_eq!((done.0.len(), done.0[0].end), (1, 6 * MIB));
        assert_eq!(given_up(&mut done), []);
        done.add(6 * MIB..20 * MIB);
        assert_eq!(given_up(&mut done), [(1, 4)]);
        // Another tensor, elsewhere: what lies between is not touched.
        done.add(100 * MIB..130 * MIB);
        assert_eq!(given_up(&mut done), [(4, 20), (100, 114)]);
        done.add(50 * MIB..60 * MIB);
        assert_eq!(given_up(&mut done), [(114, 124)]);
    }
}
