//! Viterbi's algorithm over many stretches of one path side by side, one in each lane of a vector.
//!
//! A node is what a state leaves to its successors: its bits less the one that goes out. Costs are
//! integers, so that sums in any order, with vectors and without, are the same.

use super::Code;
use super::book::{Codebook, N_STATES, STATE_BITS};
use super::lattice::{N_SUBSETS, UNIT, subset};

/// Stretches of a path that are searched side by side. What is found depends on it, so it is the same
/// on every machine.
const LANES: usize = 32;
/// One number for each stretch, in whole cache lines.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
struct Lanes<T = i16>([T; LANES]);
/// Steps whose values are brought into lanes together.
const RUN: usize = 32;
/// Steps before and after a border that are looked at to decide the state at it.
const MARGIN: usize = 32;
/// A stretch has at least so many steps, unless it is the only one.
const SHORTEST: usize = 4 * MARGIN;
/// Steps that are decided together: what [`encode`] takes at most.
pub const BLOCK: usize = LANES * 1024;
/// States that differ in the paths that can follow.
const N_NODES: usize = N_STATES / 2;
/// Where the least cost is put, so that a few steps can lower it.
const LEAST: i16 = -16384;
/// Values after which the least cost is brought back to [`LEAST`], or after each step if it has more.
const RENORMALISE: usize = 8;
/// A number that leaves no room for a fraction beside it, so that a sum's lowest bits are the integer
/// nearest to what was added.
const ROUND: f32 = 12_582_912.0;
/// Decisions that are put into one word.
const PER_WORD: usize = 16;
/// Pairs of nodes that have the same predecessors, of a word.
const PAIRS: usize = PER_WORD / 2;
/// Words of decisions of a step.
const WORDS: usize = N_NODES / PER_WORD;

/// Buffers of a search.
#[derive(Debug, Default)]
pub struct Work {
    /// For each step, in words of 16 bits, which predecessor each node came from.
    back: Vec<[Lanes<u16>; WORDS]>,
}

/// Stretches of equal length, one in each lane.
struct Stretches {
    /// Their first steps.
    first: Vec<usize>,
    n_steps: usize,
    /// Nodes that they begin at; all are as good if there are none.
    starts: Vec<u16>,
}

vectorised! {
    /// Appends the symbols of a path of small error, one a step: the bit that it shifts in, or the point
    /// of a lattice. Returns the path's last state. `values`, of about unit power, are whole codewords,
    /// at most [`BLOCK`]; a longer sequence goes on in the next call with the last state as `start`. The
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
    let width = code.width();
    let n_steps = values.len() / width;
    debug_assert!(n_steps <= BLOCK && values.len().is_multiple_of(width));
    if n_steps == 0 {
        return start;
    }
    let length = n_steps.div_ceil((n_steps / SHORTEST).clamp(1, LANES));
    let mut all = Stretches { first: vec![0], n_steps: length, starts: Vec::new() };
    all.first.extend((length..n_steps).step_by(length));
    all.starts.push(u16::from(start) % N_NODES as u16);
    let mut ends = Lanes([0; LANES]);
    let n_borders = all.first.len() - 1;
    if n_borders > 0 {
        let first = all.first[1..].iter().map(|border| border - MARGIN).collect();
        let around = Stretches { first, n_steps: 2 * MARGIN, starts: Vec::new() };
        ends = best(&forward(code, values, &around, work));
        trace_back(&work.back[MARGIN..], &mut ends, &mut [], MARGIN);
        all.starts.extend(&ends.0[..n_borders]);
    }
    ends.0[n_borders] = best(&forward(code, values, &all, work)).0[n_borders];
    let begin = symbols.len();
    symbols.resize(begin + n_steps, 0);
    let out = &mut symbols[begin..];
    trace_back(&work.back, &mut ends, out, length);
    // Eight bits or more say the state without the one before.
    let last = &out[n_steps.saturating_sub(STATE_BITS as usize)..];
    let end = last.iter().fold(start, |state, symbol| state << 1 | symbol);
    if let Code::Lattice(lattice) = code {
        lattice.points(values, start, out);
    }
    end
}

/// The node of least cost of each lane, the lowest of several.
#[inline(always)]
fn best(costs: &[Lanes; N_NODES]) -> Lanes<u16> {
    let (mut best, mut least) = ([0; LANES], costs[0]);
    for (node, cost) in costs.iter().enumerate() {
        for (l, best) in best.iter_mut().enumerate() {
            if cost.0[l] < least.0[l] {
                (*best, least.0[l]) = (node as u16, cost.0[l]);
            }
        }
    }
    Lanes(best)
}

/// Follows the best paths of all stretches from their first to their last step; returns the costs of
/// all nodes there. A cost is half the squared error less half the input's square, which is the same for
/// all paths, in the book's unit.
#[inline(always)]
fn forward(
    code: &Code,
    values: &[f32],
    stretches: &Stretches,
    work: &mut Work,
) -> [Lanes; N_NODES] {
    let mut costs = [[Lanes([LEAST; LANES]); N_NODES]; 2];
    for (lane, start) in stretches.starts.iter().enumerate() {
        for (node, cost) in costs[0].iter_mut().enumerate() {
            cost.0[lane] = if node == usize::from(*start) { LEAST } else { i16::MAX };
        }
    }
    work.back.resize(stretches.n_steps, [Lanes([0; LANES]); WORDS]);
    let (width, scale, bound, rows) = match code {
        Code::Book(book) => (book.width, book.scale, 32767.0, &book.rows),
        Code::Lattice(lattice) => (1, lattice.scale, lattice.bound, &lattice.subsets),
    };
    let first = std::array::from_fn(|place| subset((place * PER_WORD) as u8));
    let mut inputs = vec![Lanes([0; LANES]); RUN * width];
    let mut scores = [Lanes([0; LANES]); N_STATES];
    for (run, back) in work.back.chunks_mut(RUN).enumerate() {
        gather((width, scale, bound), values, stretches, run * RUN, &mut inputs);
        for ((i, back), word) in back.iter_mut().enumerate().zip(inputs.chunks_exact(width)) {
            score(code, word, &mut scores);
            let [even, odd] = &mut costs;
            let (costs, next) = if i % 2 == 0 { (even, odd) } else { (odd, even) };
            match (code, scores.first_chunk()) {
                (Code::Lattice(_), Some(scores)) => step_lattice(&first, scores, costs, next, back),
                _ => step(rows, &scores, costs, next, back),
            }
            if ((i + 1) * width).is_multiple_of(RENORMALISE) {
                renormalise(next);
            }
        }
    }
    costs[stretches.n_steps % 2]
}

/// The integer nearest to a value times `scale`, taken as `bound` or its opposite beyond them.
#[inline(always)]
pub(super) fn place(value: f32, scale: f32, bound: f32) -> i32 {
    // What is no number becomes a bound, which `clamp` would not do.
    let near = (value * scale).max(-bound).min(bound) + ROUND;
    near.to_bits() as i32 - ROUND.to_bits() as i32
}

/// Brings the values of a run of steps into lanes; 0 beyond the last.
#[inline(always)]
fn gather(
    (width, scale, bound): (usize, f32, f32),
    values: &[f32],
    stretches: &Stretches,
    from: usize,
    out: &mut [Lanes],
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
            some.iter_mut().zip(&numbers).for_each(|(out, n)| out.0[lane] = *n);
        }
        none.iter_mut().for_each(|out| out.0[lane] = 0);
    }
}

/// What each row of the code adds to the costs: a codeword or its opposite, or a subset of a lattice.
#[inline(always)]
fn score(code: &Code, word: &[Lanes], scores: &mut [Lanes; N_STATES]) {
    let book = match code {
        Code::Book(book) => book,
        Code::Lattice(_) => return score_lattice(word, scores),
    };
    match book.width {
        2 => score_width::<2>(book, word, scores),
        4 => score_width::<4>(book, word, scores),
        8 => score_width::<8>(book, word, scores),
        16 => score_width::<16>(book, word, scores),
        _ => score_width::<32>(book, word, scores),
    }
}

/// The distance to the nearest point of each subset, squared. Sixteen bits hold the place between two
/// points of a subset, so that they overflow from one to the next.
#[inline(always)]
fn score_lattice(word: &[Lanes], scores: &mut [Lanes; N_STATES]) {
    let Some(place) = word.first() else { return };
    for (subset, score) in scores.iter_mut().enumerate().take(N_SUBSETS) {
        for l in 0..LANES {
            let distance = place.0[l].wrapping_sub((subset as i16).wrapping_mul(UNIT));
            score.0[l] = ((i32::from(distance) * i32::from(distance >> 1)) >> 16) as i16;
        }
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

/// The same for a lattice, which has four scores. `first` has the subset of each word's first state: subsets
/// are sums modulo 2 of bits of the state, so all others of a word are as far from it as they are from 0 in
/// the first word.
#[inline(always)]
fn step_lattice(
    first: &[u8; WORDS],
    scores: &[Lanes; N_SUBSETS],
    costs: &[Lanes; N_NODES],
    next: &mut [Lanes; N_NODES],
    back: &mut [Lanes<u16>; WORDS],
) {
    for ((place, word), first) in back.iter_mut().enumerate().zip(first) {
        let score = |from_first: u8| &scores[usize::from(first ^ from_first) % N_SUBSETS];
        let scores = [score(0), score(1), score(2), score(3)];
        let mut decisions = Lanes([0; LANES]);
        let mut of = |pair: usize| {
            let subset = usize::from(subset(2 * pair as u8));
            let scores = [scores[subset], scores[subset ^ 2]];
            either(costs, place * PAIRS + pair, scores, next, &mut decisions);
        };
        // Written out, so that it is known when this is compiled which score is whose.
        of(0);
        of(1);
        of(2);
        of(3);
        of(4);
        of(5);
        of(6);
        of(7);
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
