//! Blocks of files that several threads read, each brought in once and kept until others need its room.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::checkpoint::buffers::Block;

/// File and number of a block.
pub(super) type Place = (usize, u64);

/// At most so many blocks, of which those used last stay.
#[derive(Debug)]
pub(super) struct BlockCache {
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
    /// One of at most `most` blocks; at least 1.
    pub(super) fn new(most: usize) -> Self {
        let state = State { most, ..State::default() };
        Self { state: Mutex::new(state), changed: Condvar::new() }
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
        let mut state = self.lock();
        loop {
            if let Some(at) = state.held.get(&place).copied() {
                if let Some(block) = state.touch(at) {
                    return Ok(block);
                }
            } else if let Some((at, block)) = state.make_room(place)? {
                drop(state);
                return self.bring(at, block, load);
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
        if let Ok(Some((at, block))) = state.make_room(place) {
            drop(state);
            let _ = self.bring(at, block, load);
        }
    }

    /// Whether a block is here or on its way.
    pub(super) fn has(&self, place: Place) -> bool {
        self.lock().held.contains_key(&place)
    }

    /// Nobody looks at this block through `block` any more. If it `is_done`, it is the next to make room.
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
        let kept = Arc::clone(&block);
        state.slots[at].bytes = Some(kept);
        if loaded.is_err() {
            let place = state.slots[at].place.take();
            place.and_then(|place| state.held.remove(&place));
            state.slots[at].used = 0;
        }
        drop(state);
        self.changed.notify_all();
        loaded.map(|()| block)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn touch(&mut self, at: usize) -> Option<Arc<Block>> {
        self.clock += 1;
        self.slots[at].used = self.clock;
        self.slots[at].bytes.clone()
    }

    /// A slot for a block and the memory it had; none while all are looked at or coming.
    fn make_room(&mut self, place: Place) -> io::Result<Option<(usize, Arc<Block>)>> {
        let may_grow = self.slots.len() < self.most;
        let is_free = |s: &Slot| s.bytes.as_ref().is_some_and(|b| Arc::strong_count(b) == 1);
        let free = self.slots.iter_mut().enumerate().filter(|(_, slot)| is_free(slot));
        let oldest = free.min_by_key(|(_, slot)| slot.used);
        // More memory is taken only if all that there is holds something that may be wanted.
        let oldest = oldest.filter(|(_, slot)| slot.used == 0 || !may_grow);
        let (at, block) = match oldest.and_then(|(at, slot)| Some((at, slot.bytes.take()?))) {
            Some(found) => found,
            None if may_grow => {
                let block = Arc::new(Block::new()?);
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
        let cache = BlockCache::new(2);
        cache.grow(3);
        (0..3).for_each(|n| take(&cache, n, n == 1));
        take(&cache, 3, false);
        assert_eq!(held(&cache), [0, 2, 3]);
        take(&cache, 0, false);
        take(&cache, 4, false);
        assert_eq!(held(&cache), [0, 3, 4]);
    }

    #[test]
    fn what_failed_is_told_once_and_read_again() {
        let cache = BlockCache::new(1);
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
            let (cache, loads) = (BlockCache::new(most), AtomicUsize::new(0));
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
