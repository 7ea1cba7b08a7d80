//! Viterbi's algorithm over many stretches of one path side by side, one in each lane of a vector.
//!
//! A node is what a state leaves to its successors: its bits less the one that goes out. Costs are
//! integers, so that sums in any order, with vectors and without, are the same.

use std::ops::Range;

use super::Code;
use super::book::{Codebook, N_STATES, STATE_BITS};
use super::bytes::{Back, ByteSearch};

/// Stretches of a path of codewords that are searched side by side. What is found depends on it, so it is the
/// same on every machine.
const LANES: usize = 32;
/// Most stretches of any path that are searched side by side.
pub(super) const MOST_LANES: usize = 2 * LANES;
/// One number for each stretch, in whole cache lines.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
struct Lanes<T = i16>([T; LANES]);
/// Steps whose values are brought into lanes together.
pub(super) const RUN: usize = 32;
/// Steps before and after a border that are looked at to decide the state at it.
const MARGIN: usize = 32;
/// A stretch has at least so many steps, unless it is the only one.
const SHORTEST: usize = 4 * MARGIN;
/// Steps of a stretch, if it is one of as many as there can be.
const LONGEST: usize = 1024;
/// States that differ in the paths that can follow.
pub(super) const N_NODES: usize = N_STATES / 2;
/// Where the least cost is put, so that a few steps can lower it.
const LEAST: i16 = -16384;
/// Values after which the least cost is brought back to [`LEAST`], or after each step if it has more.
const RENORMALISE: usize = 8;
/// A number that leaves no room for a fraction beside it, so that a sum's lowest bits are the integer
/// nearest to what was added.
const ROUND: f32 = 12_582_912.0;
/// Greatest magnitude of a value times the book's scale.
const GREATEST_PLACE: f32 = 32767.0;
/// Decisions that are put into one word.
const PER_WORD: usize = 16;
/// Pairs of nodes that have the same predecessors, of a word.
const PAIRS: usize = PER_WORD / 2;
/// Words of decisions of a step.
const WORDS: usize = N_NODES / PER_WORD;

/// Buffers of a search.
#[derive(Debug, Default)]
pub struct Work {
    /// For each step of codewords, in words of 16 bits, which predecessor each node came from.
    back: Vec<[Lanes<u16>; WORDS]>,
    /// What a search through a lattice keeps of each step.
    of_bytes: Back,
}

/// Stretches of equal length, one in each lane.
pub(super) struct Stretches {
    /// Their first steps.
    pub(super) first: Vec<usize>,
    pub(super) n_steps: usize,
    /// Nodes that they begin at; all are as good if there are none.
    pub(super) starts: Vec<u16>,
}

/// One node for each stretch.
pub(super) type Nodes = [u16; MOST_LANES];

/// How the best paths of many stretches are found.
pub(super) trait Search {
    /// Stretches that are searched side by side; at most [`MOST_LANES`].
    const LANES: usize;
    /// Steps that are gone together: stretches have a multiple of them.
    const STEPS: usize;

    /// Follows the best paths of all stretches from their first to their last step; returns the nodes that the
    /// best one of each ends at.
    fn forward(&mut self, values: &[f32], stretches: &Stretches) -> Nodes;

    /// Follows each stretch's path through these steps of it, from the node it ends at to the one it begins at, and
    /// writes what they shift in to `out`, of which each stretch has `length` in turn; those beyond its end are
    /// dropped.
    fn trace_back(&self, steps: Range<usize>, nodes: &mut Nodes, out: &mut [u8], length: usize);
}

/// Steps that are decided together: what [`encode`] takes at most.
pub(super) fn block(code: &Code) -> usize {
    match code {
        Code::Book(_) => WordSearch::LANES * LONGEST,
        Code::Lattice(_) => ByteSearch::LANES * LONGEST,
    }
}

vectorised! {
    /// Appends the symbols of a path of small error, one a step: the bit that it shifts in, or the point
    /// of a lattice. Returns the path's last state. `values`, of about unit power, are whole codewords,
    /// at most [`Code::block`] values; a longer sequence goes on in the next call with the last state as `start`. The
    /// first is 0. Values of another power are coded badly; those beyond a bound of at least 4 are taken
    /// as that. `work` is a buffer.
    ///
    /// The path is cut into stretches of equal length, which are searched side by side. First the
    /// states at their borders are decided, each by a search of a few steps around it.
    pub fn encode(
        code: &Code,
        values: &[f32],
        start: u8,
        work: &mut Work,
        symbols: &mut Vec<u8>,
    ) -> u8 = encode_body;
}

#[inline(always)]
fn encode_body(
    code: &Code,
    values: &[f32],
    start: u8,
    work: &mut Work,
    symbols: &mut Vec<u8>,
) -> u8 {
    let n_steps = values.len() / code.width();
    debug_assert!(n_steps <= block(code) && values.len().is_multiple_of(code.width()));
    if n_steps == 0 {
        return start;
    }
    let begin = symbols.len();
    symbols.resize(begin + n_steps, 0);
    let out = &mut symbols[begin..];
    let from = u16::from(start) % N_NODES as u16;
    match code {
        Code::Book(book) => find(WordSearch { book, back: &mut work.back }, values, from, out),
        Code::Lattice(lattice) => {
            find(ByteSearch { lattice, back: &mut work.of_bytes }, values, from, out);
        }
    }
    // Eight bits or more say the state without the one before.
    let last = &out[n_steps.saturating_sub(STATE_BITS as usize)..];
    let end = last.iter().fold(start, |state, symbol| state << 1 | symbol);
    if let Code::Lattice(lattice) = code {
        lattice.points(values, start, out);
    }
    end
}

/// Fills `out` with what the steps of a path shift in, one each, that begins at the node `start`.
#[inline(always)]
fn find<S: Search>(mut search: S, values: &[f32], start: u16, out: &mut [u8]) {
    let n_steps = out.len();
    // No more than are searched side by side anywhere, until they are as long as they may be.
    let n_stretches = (n_steps / SHORTEST).clamp(1, LANES).max(n_steps / LONGEST);
    let length = n_steps.div_ceil(n_stretches).next_multiple_of(S::STEPS);
    let mut all = Stretches { first: vec![0], n_steps: length, starts: vec![start] };
    all.first.extend((length..n_steps).step_by(length));
    let mut ends = [0; MOST_LANES];
    let n_borders = all.first.len() - 1;
    if n_borders > 0 {
        let first = all.first[1..].iter().map(|border| border - MARGIN).collect();
        let around = Stretches { first, n_steps: 2 * MARGIN, starts: Vec::new() };
        ends = search.forward(values, &around);
        search.trace_back(MARGIN..2 * MARGIN, &mut ends, &mut [], MARGIN);
        all.starts.extend(&ends[..n_borders]);
    }
    ends[n_borders] = search.forward(values, &all)[n_borders];
    search.trace_back(0..length, &mut ends, out, length);
}

/// A search for a path of codewords.
struct WordSearch<'a> {
    book: &'a Codebook,
    back: &'a mut Vec<[Lanes<u16>; WORDS]>,
}

impl Search for WordSearch<'_> {
    const LANES: usize = LANES;
    const STEPS: usize = 1;

    /// A cost is half the squared error less half the input's square, which is the same for all paths, in the
    /// book's unit.
    #[inline(always)]
    fn forward(&mut self, values: &[f32], stretches: &Stretches) -> Nodes {
        let mut costs = [[Lanes([LEAST; LANES]); N_NODES]; 2];
        for (lane, start) in stretches.starts.iter().enumerate() {
            for (node, cost) in costs[0].iter_mut().enumerate() {
                cost.0[lane] = if node == usize::from(*start) { LEAST } else { i16::MAX };
            }
        }
        let n_steps = stretches.n_steps;
        if self.back.len() < n_steps {
            self.back.resize(n_steps, [Lanes([0; LANES]); WORDS]);
        }
        let Codebook { width, scale, ref rows, .. } = *self.book;
        let mut inputs = vec![Lanes([0; LANES]); RUN * width];
        let mut scores = [Lanes([0; LANES]); N_STATES];
        for (run, back) in self.back[..n_steps].chunks_mut(RUN).enumerate() {
            let scaled = (width, scale, GREATEST_PLACE);
            gather(scaled, values, stretches, run * RUN, &mut inputs, |to, lane, x| {
                to.0[lane] = x;
            });
            for ((i, back), word) in back.iter_mut().enumerate().zip(inputs.chunks_exact(width)) {
                score(self.book, word, &mut scores);
                let [even, odd] = &mut costs;
                let (costs, next) = if i % 2 == 0 { (even, odd) } else { (odd, even) };
                step(rows, &scores, costs, next, back);
                if ((i + 1) * width).is_multiple_of(RENORMALISE) {
                    renormalise(next);
                }
            }
        }
        best(&costs[n_steps % 2])
    }

    #[inline(always)]
    fn trace_back(&self, steps: Range<usize>, nodes: &mut Nodes, out: &mut [u8], length: usize) {
        let mut at = Lanes(std::array::from_fn(|lane| nodes[lane]));
        trace_back(&self.back[steps], &mut at, out, length);
        nodes[..LANES].copy_from_slice(&at.0);
    }
}

/// The node of least cost of each lane, the lowest of several.
#[inline(always)]
fn best(costs: &[Lanes; N_NODES]) -> Nodes {
    let (mut best, mut least) = ([0; MOST_LANES], costs[0]);
    for (node, cost) in costs.iter().enumerate() {
        for (l, best) in best[..LANES].iter_mut().enumerate() {
            if cost.0[l] < least.0[l] {
                (*best, least.0[l]) = (node as u16, cost.0[l]);
            }
        }
    }
    best
}

/// The integer nearest to a value times `scale`, taken as `bound` or its opposite beyond them.
#[inline(always)]
pub(super) fn place(value: f32, scale: f32, bound: f32) -> i32 {
    // What is no number becomes a bound, which `clamp` would not do; `max` would look for such.
    let scaled = value * scale;
    let above = if scaled > -bound { scaled } else { -bound };
    let near = if above < bound { above } else { bound } + ROUND;
    near.to_bits() as i32 - ROUND.to_bits() as i32
}

/// Brings the values of a run of steps into lanes, by `put`; 0 beyond the last.
#[inline(always)]
pub(super) fn gather<L>(
    (width, scale, bound): (usize, f32, f32),
    values: &[f32],
    stretches: &Stretches,
    from: usize,
    out: &mut [L],
    put: impl Fn(&mut L, usize, i16),
) {
    for (lane, first) in stretches.first.iter().enumerate() {
        let rest = values.get((first + from) * width..).unwrap_or_default();
        let rest = &rest[..rest.len().min(out.len())];
        let (some, none) = out.split_at_mut(rest.len());
        let mut numbers = [0; RUN];
        for (some, rest) in some.chunks_mut(RUN).zip(rest.chunks(RUN)) {
            for (n, x) in numbers.iter_mut().zip(rest) {
                *n = place(*x, scale, bound) as i16;
            }
            some.iter_mut().zip(&numbers).for_each(|(out, n)| put(out, lane, *n));
        }
        none.iter_mut().for_each(|out| put(out, lane, 0));
    }
}

/// What each row of the book adds to the costs: a codeword or its opposite.
#[inline(always)]
fn score(book: &Codebook, word: &[Lanes], scores: &mut [Lanes; N_STATES]) {
    match book.width {
        2 => score_width::<2>(book, word, scores),
        4 => score_width::<4>(book, word, scores),
        8 => score_width::<8>(book, word, scores),
        16 => score_width::<16>(book, word, scores),
        _ => score_width::<32>(book, word, scores),
    }
}

#[inline(always)]
fn score_width<const V: usize>(book: &Codebook, word: &[Lanes], scores: &mut [Lanes; N_STATES]) {
    let Some(word) = word.first_chunk::<V>() else { return };
    let points = book.points.as_chunks::<V>().0.iter().zip(&book.half_squares);
    for (pair, (point, half)) in scores.as_chunks_mut::<2>().0.iter_mut().zip(points) {
        let [plus, minus] = pair;
        for l in 0..LANES {
            let mut product = 0i16;
            for v in 0..V {
                let one = (i32::from(word[v].0[l]) * i32::from(point[v])) >> 16;
                product = product.saturating_add(one as i16);
            }
            plus.0[l] = half.saturating_sub(product);
            minus.0[l] = half.saturating_add(product);
        }
    }
}

/// One step: the least cost of every node, and which of its predecessors it came from. `rows` says for
/// each state which of the scores is its.
#[inline(always)]
fn step(
    rows: &[u8; N_STATES],
    scores: &[Lanes; N_STATES],
    costs: &[Lanes; N_NODES],
    next: &mut [Lanes; N_NODES],
    back: &mut [Lanes<u16>; WORDS],
) {
    let score = |state: usize| &scores[usize::from(rows[state % N_STATES])];
    for (place, word) in back.iter_mut().enumerate() {
        let mut decisions = Lanes([0; LANES]);
        for pair in place * PAIRS..(place + 1) * PAIRS {
            let scores = [score(2 * pair), score(2 * pair + 1)];
            either(costs, pair, scores, next, &mut decisions);
        }
        *word = decisions;
    }
}

/// The lesser costs of the two nodes of a pair, which have the same two predecessors; `[c, d]` are the scores
/// of the states that they follow as from the first. The bit that comes in and the one that goes out tell
/// the same codewords apart, so the second predecessor has those of the first the other way round.
#[inline(always)]
fn either(
    costs: &[Lanes; N_NODES],
    pair: usize,
    [c, d]: [&Lanes; 2],
    next: &mut [Lanes; N_NODES],
    decisions: &mut Lanes<u16>,
) {
    let [a, b] = [&costs[pair % N_NODES], &costs[(N_NODES / 2 + pair) % N_NODES]];
    let [mut least, mut other] = [Lanes([0; LANES]); 2];
    for l in 0..LANES {
        let (x, y) = (a.0[l].saturating_add(c.0[l]), b.0[l].saturating_add(d.0[l]));
        let (z, w) = (a.0[l].saturating_add(d.0[l]), b.0[l].saturating_add(c.0[l]));
        least.0[l] = x.min(y);
        other.0[l] = z.min(w);
        decisions.0[l] = (decisions.0[l] << 1 | u16::from(y < x)) << 1 | u16::from(w < z);
    }
    next[2 * pair % N_NODES] = least;
    next[(2 * pair + 1) % N_NODES] = other;
}

/// Brings the least cost back to [`LEAST`].
#[inline(always)]
fn renormalise(costs: &mut [Lanes; N_NODES]) {
    let mut least = Lanes([i16::MAX; LANES]);
    for cost in costs.iter() {
        for l in 0..LANES {
            least.0[l] = least.0[l].min(cost.0[l]);
        }
    }
    for l in 0..LANES {
        least.0[l] = least.0[l].saturating_sub(LEAST);
    }
    for cost in costs {
        for l in 0..LANES {
            cost.0[l] = cost.0[l].saturating_sub(least.0[l]);
        }
    }
}

/// Follows each lane's path from the node it ends at to the node it begins at, and writes what its
/// steps shift in to `out`, of which each lane has `length` in turn; those beyond its end are dropped.
#[inline(always)]
fn trace_back(back: &[[Lanes<u16>; WORDS]], nodes: &mut Lanes<u16>, out: &mut [u8], length: usize) {
    for (run, back) in back.chunks(RUN).enumerate().rev() {
        let mut symbols = [[0; LANES]; RUN];
        for (words, symbols) in back.iter().zip(&mut symbols).rev() {
            let [a, b, c, d, e, f, g, h] = words;
            // Written to afterwards: a loop over what cannot overlap fills vectors.
            let (mut before, mut shifted) = (Lanes([0; LANES]), [0; LANES]);
            for (l, shifted) in shifted.iter_mut().enumerate() {
                let node = nodes.0[l];
                // Looking a word up would take longer than to choose it of all, as whole vectors do.
                let place = node / PER_WORD as u16;
                let [one, two, four] =
                    [place, place >> 1, place >> 2].map(|bit| (bit & 1).wrapping_neg());
                let pick = |yes: u16, first: u16, second: u16| first ^ (first ^ second) & yes;
                let low = pick(two, pick(one, a.0[l], b.0[l]), pick(one, c.0[l], d.0[l]));
                let high = pick(two, pick(one, e.0[l], f.0[l]), pick(one, g.0[l], h.0[l]));
                let word = pick(four, low, high);
                // The first node's is the highest bit.
                let which = word >> (!node % PER_WORD as u16) & 1;
                let state = which << (STATE_BITS - 1) | node;
                *shifted = state as u8 & 1;
                before.0[l] = state >> 1;
            }
            (*nodes, *symbols) = (before, shifted);
        }
        for (lane, out) in out.chunks_mut(length).enumerate().take(LANES) {
            let from = out.len().min(run * RUN);
            for (out, symbols) in out[from..].iter_mut().zip(&symbols[..back.len()]) {
                *out = symbols[lane];
            }
        }
    }
}
