//! Blocks of files that several threads read, each brought in once and kept until others need its room.

use std::collections::HashMap;
use std::io;
use std::ops::{Deref, Range};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::checkpoint::buffers::Block;

/// File and number of a block.
pub(super) type Place = (usize, u64);

/// Blocks that nobody looks at for long, at least.
pub(super) const LEAST_BLOCKS: usize = 3;

/// At most so many blocks, of which those used last stay.
#[derive(Debug)]
pub(super) struct BlockCache {
    /// Bytes of a block.
    block_len: u64,
    state: Mutex<State>,
    /// A block came, or nobody looks at one any more.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    most: usize,
    clock: u64,
    slots: Vec<Slot>,
    /// Where blocks are, or come to, in `slots`.
    held: HashMap<Place, usize>,
}

#[derive(Debug)]
struct Slot {
    /// None if reading it failed.
    place: Option<Place>,
    used: u64,
    /// None while it comes.
    bytes: Option<Arc<Block>>,
}

impl BlockCache {
    /// One of at most `most` blocks, at least 1, of `block_len` bytes.
    pub(super) fn new(block_len: u64, most: usize) -> Self {
        let state = State { most, ..State::default() };
        Self { block_len, state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Holds at most so many blocks from now on; never fewer than before.
    pub(super) fn grow(&self, most: usize) {
        let mut state = self.lock();
        state.most = state.most.max(most);
    }

    /// A block, which `load` brings in if it is not here. Whoever has it gives it [`back`](Self::back).
    ///
    /// # Errors
    /// What `load` says; if the system has no memory.
    pub(super) fn get(
        &self,
        place: Place,
        load: impl FnOnce(&mut Block) -> io::Result<()>,
    ) -> io::Result<Arc<Block>> {
        let found = self.find(place, false, load)?;
        found.ok_or_else(|| io::ErrorKind::Other.into())
    }

    /// The same for somebody who will look at it for long; none if too few would be left for those who only copy
    /// and then give back: nobody is to wait for a block while others wait for theirs.
    ///
    /// # Errors
    /// As there.
    pub(super) fn get_for_long(
        &self,
        place: Place,
        load: impl FnOnce(&mut Block) -> io::Result<()>,
    ) -> io::Result<Option<Arc<Block>>> {
        self.find(place, true, load)
    }

    fn find(
        &self,
        place: Place,
        for_long: bool,
        load: impl FnOnce(&mut Block) -> io::Result<()>,
    ) -> io::Result<Option<Arc<Block>>> {
        let mut state = self.lock();
        loop {
            if for_long && state.n_in_use() + LEAST_BLOCKS >= state.most {
                return Ok(None);
            }
            if let Some(at) = state.held.get(&place).copied() {
                if let Some(block) = state.touch(at) {
                    return Ok(Some(block));
                }
            } else if let Some((at, block)) = state.make_room(place, self.block_len)? {
                drop(state);
                return self.bring(at, block, load).map(Some);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Brings a block in ahead of those who will [`get`](Self::get) it, if there is room: they are told what went wrong.
    pub(super) fn fetch(&self, place: Place, load: impl FnOnce(&mut Block) -> io::Result<()>) {
        let mut state = self.lock();
        if state.held.contains_key(&place) {
            return;
        }
        if let Ok(Some((at, block))) = state.make_room(place, self.block_len) {
            drop(state);
            if let Ok(block) = self.bring(at, block, load) {
                self.back(place, block, false);
            }
        }
    }

    /// Whether a block is here or on its way.
    pub(super) fn has(&self, place: Place) -> bool {
        self.lock().held.contains_key(&place)
    }

    /// Nobody looks at this block through `block` any more: who waits for room hears of it, as of nothing that is
    /// only dropped. If it `is_done`, it is the next to make room.
    pub(super) fn back(&self, place: Place, block: Arc<Block>, is_done: bool) {
        let mut state = self.lock();
        drop(block);
        if let (true, Some(at)) = (is_done, state.held.get(&place).copied()) {
            state.slots[at].used = 0;
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Fills a slot that room was made in.
    fn bring(
        &self,
        at: usize,
        mut block: Arc<Block>,
        load: impl FnOnce(&mut Block) -> io::Result<()>,
    ) -> io::Result<Arc<Block>> {
        // Room was made by taking what nobody else has.
        let loaded = Arc::get_mut(&mut block).map_or(Err(io::ErrorKind::Other.into()), load);
        let mut state = self.lock();
        let came = match loaded {
            Ok(()) => Ok(Arc::clone(&block)),
            Err(e) => {
                let place = state.slots[at].place.take();
                place.and_then(|place| state.held.remove(&place));
                state.slots[at].used = 0;
                Err(e)
            }
        };
        state.slots[at].bytes = Some(block);
        drop(state);
        self.changed.notify_all();
        came
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes of a block that somebody looks at.
#[derive(Debug)]
pub(super) struct Shared {
    cache: Arc<BlockCache>,
    place: Place,
    /// None only while it is dropped.
    block: Option<Arc<Block>>,
    range: Range<usize>,
    is_done: bool,
}

impl Shared {
    /// A range of a block that the cache gave; given back with this.
    pub(super) fn new(
        cache: Arc<BlockCache>,
        (place, block): (Place, Arc<Block>),
        range: Range<usize>,
        is_done: bool,
    ) -> Self {
        Self { cache, place, block: Some(block), range, is_done }
    }
}

impl Deref for Shared {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.block.as_ref().map_or(&[], |block| &block[self.range.clone()])
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if let Some(block) = self.block.take() {
            self.cache.back(self.place, block, self.is_done);
        }
    }
}

impl State {
    /// Blocks that are looked at, or on their way.
    fn n_in_use(&self) -> usize {
        let in_use = |s: &&Slot| s.bytes.as_ref().is_none_or(|b| Arc::strong_count(b) > 1);
        self.slots.iter().filter(in_use).count()
    }

    fn touch(&mut self, at: usize) -> Option<Arc<Block>> {
        self.clock += 1;
        self.slots[at].used = self.clock;
        self.slots[at].bytes.clone()
    }

    /// A slot for a block and the memory it had; none while all are looked at or coming.
    fn make_room(&mut self, place: Place, len: u64) -> io::Result<Option<(usize, Arc<Block>)>> {
        let may_grow = self.slots.len() < self.most;
        let is_free = |s: &Slot| s.bytes.as_ref().is_some_and(|b| Arc::strong_count(b) == 1);
        let free = self.slots.iter_mut().enumerate().filter(|(_, slot)| is_free(slot));
        let oldest = free.min_by_key(|(_, slot)| slot.used);
        // More memory is taken only if all that there is holds something that may be wanted.
        let oldest = oldest.filter(|(_, slot)| slot.used == 0 || !may_grow);
        let (at, block) = match oldest.and_then(|(at, slot)| Some((at, slot.bytes.take()?))) {
            Some(found) => found,
            None if may_grow => {
                let block = Arc::new(Block::new(len)?);
                self.slots.push(Slot { place: None, used: 0, bytes: None });
                (self.slots.len() - 1, block)
            }
            None => return Ok(None),
        };
        if let Some(old) = self.slots[at].place.replace(place) {
            self.held.remove(&old);
        }
        self.held.insert(place, at);
        // What is on its way was asked for last.
        self.clock += 1;
        self.slots[at].used = self.clock;
        Ok(Some((at, block)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn number(block: &Block) -> u64 {
        u64::from_le_bytes(block[..8].try_into().unwrap())
    }

    fn fill(number: u64) -> impl FnOnce(&mut Block) -> io::Result<()> {
        move |block| {
            block[..8].copy_from_slice(&number.to_le_bytes());
            Ok(())
        }
    }

    fn take(cache: &BlockCache, n: u64, is_done: bool) {
        let block = cache.get((0, n), fill(n)).unwrap();
        assert_eq!(number(&block), n);
        cache.back((0, n), block, is_done);
    }

    fn held(cache: &BlockCache) -> Vec<u64> {
        let mut held: Vec<_> = cache.lock().held.keys().map(|(_, n)| *n).collect();
        held.sort_unstable();
        held
    }

    #[test]
    fn those_done_with_make_room_first_and_then_those_used_longest_ago() {
        let cache = BlockCache::new(4096, 2);
        cache.grow(3);
        (0..3).for_each(|n| take(&cache, n, n == 1));
        take(&cache, 3, false);
        assert_eq!(held(&cache), [0, 2, 3]);
        take(&cache, 0, false);
        take(&cache, 4, false);
        assert_eq!(held(&cache), [0, 3, 4]);
    }

    #[test]
    fn some_are_left_to_those_who_only_copy() {
        let cache = Arc::new(BlockCache::new(4096, LEAST_BLOCKS + 2));
        let share = |n| {
            let block = cache.get_for_long((0, n), fill(n)).unwrap()?;
            Some(Shared::new(Arc::clone(&cache), ((0, n), block), 0..8, n == 1))
        };
        let (first, second) = (share(0).unwrap(), share(1).unwrap());
        assert!(share(2).is_none() && !cache.has((0, 2)));
        (2..9).for_each(|n| take(&cache, n, false));
        assert_eq!((first[0], second[0], held(&cache)), (0, 1, vec![0, 1, 6, 7, 8]));
        drop(second);
        // It was done with, and is the first to go.
        take(&cache, 9, false);
        assert_eq!(held(&cache), [0, 6, 7, 8, 9]);
    }

    #[test]
    fn what_failed_is_told_once_and_read_again() {
        let cache = BlockCache::new(4096, 1);
        take(&cache, 0, false);
        let fail = |_: &mut Block| Err(io::ErrorKind::UnexpectedEof.into());
        cache.fetch((0, 1), fail);
        assert!(held(&cache).is_empty());
        let error = cache.get((0, 1), fail).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        take(&cache, 1, false);
        assert!(cache.has((0, 1)) && !cache.has((0, 0)));
    }

    #[test]
    fn many_threads_get_what_they_ask_for_and_no_block_comes_twice_while_there_is_room() {
        for (most, n_blocks) in [(1, 9), (2, 9), (9, 9)] {
            let (cache, loads) = (BlockCache::new(4096, most), AtomicUsize::new(0));
            std::thread::scope(|scope| {
                for thread in 0..4u64 {
                    let (cache, loads) = (&cache, &loads);
                    scope.spawn(move || {
                        for i in 0..200u64 {
                            let n = (i * (2 * thread + 1)) % n_blocks;
                            let load = |block: &mut Block| {
                                loads.fetch_add(1, Ordering::Relaxed);
                                fill(n)(block)
                            };
                            if thread == 3 {
                                cache.fetch((0, n), load);
                            } else {
                                let block = cache.get((0, n), load).unwrap();
                                assert_eq!(number(&block), n);
                                cache.back((0, n), block, most < 9 && i % 3 == 0);
                            }
                        }
                    });
                }
            });
            assert!(cache.lock().slots.len() <= most);
            if most as u64 == n_blocks {
                assert_eq!(loads.into_inner(), most);
            }
        }
    }
}
