//! Reading ahead: the system is asked for pages, or, where its cache is passed by, threads of our own bring
//! blocks in. Plain faults on cold files reach about a quarter of the disk's speed, and a single reader
//! who waits for each block leaves cores and disk idle in turn.

use std::collections::VecDeque;
use std::ops::Range;

use crossbeam::channel::{Receiver, Sender, unbounded};

use crate::checkpoint::{Direct, Fetch, Source};

/// Bytes asked for ahead of the reader, of all files together.
const WINDOW: u64 = 32 << 20;
/// What a tile counts at least, so that tiles without input, or with what is there already, do not let the window
/// run to the end.
const LEAST: u64 = 256 << 10;
/// Room for what is fetched ahead of each of several files: all of the window may lie in one.
const ROOM: u64 = WINDOW;
/// Blocks that were announced last, of which each is announced once though several tiles lie in it.
const N_RECENT: usize = 16;
/// Threads that fetch: beside the reader's own the disk has two orders, so that it never waits for one.
const N_FETCHERS: usize = 2;

/// Bytes that each of `n` files which are read past the cache should have room for to be read ahead, of `spare`
/// in all. Zero if it would take more than half of that: what is kept to be read again saves more.
pub(crate) fn room(spare: u64, n: usize) -> u64 {
    let bytes = 2 * ROOM * n as u64;
    if (1..=spare).contains(&bytes) { ROOM } else { 0 }
}

/// Counts what was announced and not yet read.
#[derive(Debug)]
pub(crate) struct ReadAhead<'a> {
    tiles: VecDeque<u64>,
    bytes: u64,
    /// None if nothing is read past the cache, or there is no room.
    fetches: Option<Sender<Fetch<'a>>>,
    /// Announced last.
    recent: VecDeque<Fetch<'a>>,
    /// Whether a file wants the system to be asked.
    asks: bool,
}

/// What was announced, for threads that bring it in. They end when the [`ReadAhead`] is dropped.
#[derive(Debug)]
pub(crate) struct Fetches<'a>(Option<Receiver<Fetch<'a>>>);

impl<'a> Fetches<'a> {
    /// Brings in what is announced, until nothing more can be.
    pub(crate) fn run(&self) {
        self.0.iter().flatten().for_each(Fetch::run);
    }

    /// How many threads should [`run`](Self::run) it.
    pub(crate) fn n_threads(&self) -> usize {
        self.0.iter().len() * N_FETCHERS
    }
}

/// Reading ahead from sources: by fetching too, if what `is_direct` has [`room`] for it.
pub(crate) fn read_ahead<'a>(sources: &[&Source], is_direct: bool) -> (ReadAhead<'a>, Fetches<'a>) {
    let (tx, rx) = is_direct.then(unbounded).unzip();
    let asks = sources.iter().any(|source| source.asks());
    let (tiles, recent) = (VecDeque::new(), VecDeque::with_capacity(N_RECENT));
    (ReadAhead { tiles, bytes: 0, fetches: tx, recent, asks }, Fetches(rx))
}

impl<'a> ReadAhead<'a> {
    /// The reader goes on by one tile.
    pub(crate) fn read_one(&mut self) {
        self.bytes -= self.tiles.pop_front().unwrap_or(0);
    }

    /// Whether there is a point in announcing more.
    pub(crate) fn wants_more(&self) -> bool {
        (self.asks || self.fetches.is_some()) && self.bytes < WINDOW
    }

    /// A range is read soon; of one more tile, which is [`announced`](Self::announced) after its ranges with the bytes
    /// that are brought in for them, which are returned.
    pub(crate) fn need(&mut self, source: &'a Source, shard: usize, range: Range<u64>) -> u64 {
        if let Some(direct) = source.direct() {
            return self.fetch(direct, shard, range);
        }
        let len = range.end - range.start;
        source.will_need(shard, range.start, len as usize);
        len
    }

    /// [`need`](Self::need), of files that are read past the cache.
    pub(crate) fn fetch(&mut self, direct: &'a Direct, shard: usize, range: Range<u64>) -> u64 {
        let Some(fetches) = &self.fetches else { return 0 };
        let mut bytes = 0;
        for fetch in direct.to_fetch(shard, range.start, range.end - range.start) {
            if self.recent.contains(&fetch) {
                continue;
            }
            if self.recent.len() == N_RECENT {
                self.recent.pop_front();
            }
            self.recent.push_back(fetch);
            bytes += Fetch::BYTES;
            // Nobody listens once the run has failed.
            let _ = fetches.send(fetch);
        }
        bytes
    }

    /// One more tile was asked for.
    pub(crate) fn announced(&mut self, bytes: u64) {
        self.tiles.push_back(bytes.max(LEAST));
        self.bytes += bytes.max(LEAST);
    }
}
