//! Interleaved rANS itself, whichever tables its symbols have: see [`rans`](super::rans), which stores one
//! table, and [`normal`](super::normal) and [`trellis`](super::trellis), which store none.

/// Frequencies sum up to two to this power.
pub(super) const SCALE_BITS: u32 = 14;
pub(super) const SCALE: u32 = 1 << SCALE_BITS;
/// Symbols that are coded side by side.
pub(super) const LANES: usize = 4;
/// A state is never below this between symbols.
const LOWEST: u32 = 1 << 16;

/// How one symbol moves a state, with the division by its frequency as a multiplication.
#[derive(Debug, Clone, Copy, Default)]
#[repr(align(32))]
pub(super) struct Coder {
    /// 2^64 / freq, rounded up; all ones for 1.
    reciprocal: u64,
    /// States from here on give a word first.
    too_high: u64,
    bias: u32,
    /// [`SCALE`] less the frequency.
    step: u32,
}

/// What each byte that has a frequency does.
pub(super) fn coders(freqs: &[u32; 256]) -> [Coder; 256] {
    let (mut coders, mut start) = ([Coder::default(); 256], 0);
    for (coder, freq) in coders.iter_mut().zip(freqs).filter(|(_, freq)| **freq > 0) {
        *coder = Coder::new(*freq, start);
        start += freq;
    }
    coders
}

impl Coder {
    fn new(freq: u32, start: u32) -> Self {
        // x * 2^64 / freq is rounded up by less than 2^32 * 2^14 of 2^64, too little to reach the next
        // whole number. For 1 the quotient comes out as x - 1; the bias makes up for it.
        let reciprocal = if freq == 1 { u64::MAX } else { u64::MAX / u64::from(freq) + 1 };
        let bias = if freq == 1 { start + SCALE - 1 } else { start };
        let too_high = u64::from(freq) << (32 - SCALE_BITS);
        Self { reciprocal, too_high, bias, step: SCALE - freq }
    }

    /// The state after this symbol, `x / freq * SCALE + x % freq + start`. A word it has to give is
    /// put at `at`, which then moves down.
    #[inline(always)]
    pub(super) fn step(&self, state: u32, words: &mut [[u8; 2]], at: &mut usize) -> u32 {
        let mut x = state;
        // Written whether it stays or not, so that there is no branch to guess wrong.
        words[*at] = (x as u16).to_le_bytes();
        let gives = u64::from(x) >= self.too_high;
        *at -= usize::from(gives);
        x = if gives { x >> 16 } else { x };
        let quotient = ((u128::from(x) * u128::from(self.reciprocal)) >> 64) as u32;
        x.wrapping_add(self.bias).wrapping_add(quotient.wrapping_mul(self.step))
    }
}

/// Symbols by slot, and what each does to a state.
pub(super) struct Slots {
    symbols: Box<[u8]>,
    /// Frequency in the low half, sum of those before in the high half.
    spans: [u32; 256],
}

impl Slots {
    /// `freqs` sum up to [`SCALE`].
    pub(super) fn new(freqs: &[u32; 256]) -> Self {
        let (mut symbols, mut spans) = (vec![0; SCALE as usize], [0; 256]);
        let mut start = 0;
        for (symbol, (span, freq)) in (0u8..=255).zip(spans.iter_mut().zip(freqs)) {
            *span = freq | start << 16;
            symbols[start as usize..(start + freq) as usize].fill(symbol);
            start += freq;
        }
        Self { symbols: symbols.into(), spans }
    }

    /// The symbol a state shows, and the state after it without the word it may need.
    #[inline(always)]
    pub(super) fn step(&self, x: u32) -> (u8, u32) {
        let slot = x & (SCALE - 1);
        let symbol = self.symbols[slot as usize];
        let span = self.spans[usize::from(symbol)];
        (symbol, (span & 0xffff) * (x >> SCALE_BITS) + slot - (span >> 16))
    }
}

/// Writes a stream of symbols, from the last to the first.
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
    /// As in [`Slots`], by what a slot stands for, which is in one of the tables alone.
    spans: Box<[u32; 256]>,
}

impl Pair {
    /// Each table's frequencies sum up to [`SCALE`]; `meaning` is what a byte stands for in the table of this
    /// number, and no two bytes that occur stand for the same.
    pub(super) fn new(freqs: [&[u32; 256]; 2], meaning: impl Fn(usize, u8) -> u8) -> Self {
        let (mut symbols, mut spans) = (Box::new([0; SCALE as usize]), Box::new([0; 256]));
        for (which, freqs) in freqs.into_iter().enumerate() {
            let mut start = 0;
            for (byte, freq) in (0u8..=255).zip(freqs).filter(|(_, freq)| **freq > 0) {
                let symbol = meaning(which, byte);
                spans[usize::from(symbol)] = freq | start << 16;
                for both in &mut symbols[start as usize..(start + freq) as usize] {
                    *both |= u16::from(symbol) << (8 * which);
                }
                start += freq;
            }
        }
        Self { symbols, spans }
    }

    /// The symbol a state shows in a table, and the state after it without the word it may need. `shift` is 0
    /// for the first table, 8 for the second.
    #[inline(always)]
    pub(super) fn step(&self, x: u32, shift: u32) -> (u8, u32) {
        let slot = x & (SCALE - 1);
        // Both are looked up before it is known which it is.
        let symbol = (u32::from(self.symbols[slot as usize]) >> (shift & 8)) as u8;
        let span = self.spans[usize::from(symbol)];
        (symbol, (span & 0xffff) * (x >> SCALE_BITS) + slot - (span >> 16))
    }
}

/// Reads a stream of symbols.
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

    /// The next symbol; `lane` is its number modulo [`LANES`], `step` as in [`Decoder::run`]. `None` if words
    /// run out.
    #[inline(always)]
    pub(super) fn take(&mut self, lane: usize, step: impl FnOnce(u32) -> (u8, u32)) -> Option<u8> {
        let (kept, low) = step(self.states[lane]);
        self.states[lane] = if low >= LOWEST {
            low
        } else {
            let (word, words) = self.words.split_first()?;
            self.words = words;
            low << 16 | u32::from(u16::from_le_bytes(*word))
        };
        Some(kept)
    }

    /// Fills `out` from the start of the stream; `step` is given a state, and says what is kept of the symbol
    /// it shows, and the state after it without the word it may need. False if words run out.
    #[inline(always)]
    pub(super) fn run(&mut self, out: &mut [u8], mut step: impl FnMut(u32) -> (u8, u32)) -> bool {
        let (mut states, mut words) = (self.states, self.words);
        let (groups, rest) = out.as_chunks_mut::<LANES>();
        let mut groups = groups.iter_mut();
        // Words for a whole group are there, or the end is near.
        while let Some(window) = words.first_chunk::<LANES>() {
            let Some(group) = groups.next() else { break };
            let mut used = 0;
            for (state, out) in states.iter_mut().zip(group) {
                let (kept, low) = step(*state);
                let word = u32::from(u16::from_le_bytes(window[used % LANES]));
                let is_low = low < LOWEST;
                *state = if is_low { low << 16 | word } else { low };
                used += usize::from(is_low);
                *out = kept;
            }
            words = &words[used..];
        }
        (self.states, self.words) = (states, words);
        let left = groups.into_slice().as_flattened_mut().iter_mut().chain(rest);
        for (i, out) in left.enumerate() {
            let Some(kept) = self.take(i % LANES, &mut step) else { return false };
            *out = kept;
        }
        true
    }

    /// Whether the stream ends after the symbols that were taken.
    pub(super) fn is_at_end(&self) -> bool {
        self.words.is_empty() && self.states == [LOWEST; LANES]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divisions_are_exact() {
        for freq in [1, 2, 3, 5, 7, 127, 5461, 8191, 8192, 8193, 16_381, 16_383] {
            let coder = Coder::new(freq, 0);
            let most = (u64::from(freq) << 18) - 1;
            for x in (0..2000).flat_map(|i| [(1 << 16) + i * 31, most - i * 17]) {
                let x = x.clamp(1 << 16, most) as u32;
                let want = x / freq * SCALE + x % freq;
                assert_eq!(coder.step(x, &mut [[0; 2]], &mut 0), want, "{x} / {freq}");
            }
        }
    }
}
