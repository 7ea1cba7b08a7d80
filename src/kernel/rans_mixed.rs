//! Streams of [`rans`](super::rans) whose symbols have tables of their own, which the reader knows or
//! learns from the symbols before; no table is stored.

use crate::kernel::rans::{Coder, LANES, LOWEST, SCALE, SCALE_BITS, Slots};

/// Writes a stream of symbols that have a table each, from the last to the first.
pub(super) struct Encoder {
    words: Vec<[u8; 2]>,
    at: usize,
    states: [u32; LANES],
}

impl Encoder {
    /// For a stream of `n` symbols.
    pub(super) fn new(n: usize) -> Self {
        // A place more: a word is put there before it is known whether it stays.
        Self { words: vec![[0; 2]; n + 1], at: n, states: [LOWEST; LANES] }
    }

    /// Puts one symbol before those that were put; `lane` is its number modulo [`LANES`].
    #[inline(always)]
    pub(super) fn put(&mut self, lane: usize, coder: &Coder) {
        let state = &mut self.states[lane];
        *state = coder.step(*state, &mut self.words, &mut self.at);
    }

    /// Appends the stream.
    pub(super) fn finish(self, out: &mut Vec<u8>) {
        self.states.iter().for_each(|state| out.extend(state.to_le_bytes()));
        out.extend(self.words[self.at + 1..].as_flattened());
    }
}

/// Two tables side by side, for symbols that show which of them the next one has.
pub(super) struct Pair {
    /// What each slot stands for in the first table, and in the high half in the second.
    symbols: Box<[u16; SCALE as usize]>,
    /// As in [`Slots`], by what a slot stands for; those of the second table follow the first's.
    spans: Box<[u32; 512]>,
}

impl Pair {
    /// Each table's frequencies sum up to [`SCALE`]; `meaning` is what a byte stands for.
    pub(super) fn new(freqs: [&[u32; 256]; 2], meaning: impl Fn(u8) -> u8) -> Self {
        let (mut symbols, mut spans) = (Box::new([0; SCALE as usize]), Box::new([0; 512]));
        for (which, freqs) in freqs.into_iter().enumerate() {
            let mut start = 0;
            for (byte, freq) in (0u8..=255).zip(freqs) {
                let symbol = meaning(byte);
                spans[which << 8 | usize::from(symbol)] = freq | start << 16;
                for both in &mut symbols[start as usize..(start + freq) as usize] {
                    *both |= u16::from(symbol) << (8 * which);
                }
                start += freq;
            }
        }
        Self { symbols, spans }
    }

    /// The symbol a state shows in a table, 0 or 1, and the state after it without the word it may need.
    #[inline(always)]
    fn step(&self, x: u32, which: u8) -> (u8, u32) {
        let slot = x & (SCALE - 1);
        // Both are looked up before it is known which it is.
        let symbol = (self.symbols[slot as usize] >> (8 * (which & 1))) as u8;
        let span = self.spans[usize::from(which & 1) << 8 | usize::from(symbol)];
        (symbol, (span & 0xffff) * (x >> SCALE_BITS) + slot - (span >> 16))
    }
}

/// Reads a stream of symbols that have a table each.
pub(super) struct Decoder<'a> {
    states: [u32; LANES],
    words: &'a [[u8; 2]],
}

impl<'a> Decoder<'a> {
    /// `None` if this is no stream.
    pub(super) fn new(bytes: &'a [u8]) -> Option<Self> {
        let (head, words) = bytes.split_first_chunk::<{ 4 * LANES }>()?;
        let (words, odd) = words.as_chunks::<2>();
        let mut states = [0; LANES];
        for (state, bytes) in states.iter_mut().zip(head.as_chunks::<4>().0) {
            *state = u32::from_le_bytes(*bytes);
        }
        let is_one = odd.is_empty() && states.iter().all(|state| *state >= LOWEST);
        is_one.then_some(Self { states, words })
    }

    /// The next symbol; `lane` is its number modulo [`LANES`]. `None` if words run out.
    #[inline(always)]
    pub(super) fn take(&mut self, lane: usize, slots: &Slots) -> Option<u8> {
        let (symbol, low) = slots.step(self.states[lane]);
        self.refill(lane, low)?;
        Some(symbol)
    }

    /// Keeps a state, with a word if it needs one.
    #[inline(always)]
    fn refill(&mut self, lane: usize, low: u32) -> Option<()> {
        self.states[lane] = if low >= LOWEST {
            low
        } else {
            let (word, words) = self.words.split_first()?;
            self.words = words;
            low << 16 | u32::from(u16::from_le_bytes(*word))
        };
        Some(())
    }

    /// Fills `out` from the start of the stream, each symbol with one of two tables, the first with the
    /// first. `then` is given which table it was, 0 or 1, and the symbol; it returns what is kept of them,
    /// and the table of the next in its lowest bit. False if words run out.
    #[inline(always)]
    pub(super) fn run(
        &mut self,
        tables: &Pair,
        out: &mut [u8],
        mut then: impl FnMut(u8, u8) -> (u8, u8),
    ) -> bool {
        let (mut which, mut states, mut words) = (0, self.states, self.words);
        let (groups, rest) = out.as_chunks_mut::<LANES>();
        let mut groups = groups.iter_mut();
        // Words for a whole group are there, or the end is near.
        while let Some(window) = words.first_chunk::<LANES>() {
            let Some(group) = groups.next() else { break };
            let mut used = 0;
            for (state, out) in states.iter_mut().zip(group) {
                let (symbol, low) = tables.step(*state, which);
                let word = u32::from(u16::from_le_bytes(window[used % LANES]));
                let is_low = low < LOWEST;
                *state = if is_low { low << 16 | word } else { low };
                used += usize::from(is_low);
                (*out, which) = then(which & 1, symbol);
            }
            words = &words[used..];
        }
        (self.states, self.words) = (states, words);
        let left = groups.into_slice().as_flattened_mut().iter_mut().chain(rest);
        for (i, out) in left.enumerate() {
            let (symbol, low) = tables.step(self.states[i % LANES], which);
            if self.refill(i % LANES, low).is_none() {
                return false;
            }
            (*out, which) = then(which & 1, symbol);
        }
        true
    }

    /// Whether the stream ends after the symbols that were taken.
    pub(super) fn is_at_end(&self) -> bool {
        self.words.is_empty() && self.states == [LOWEST; LANES]
    }
}
