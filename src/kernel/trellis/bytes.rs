//! Viterbi's algorithm for lattices, with costs that are bytes: twice as many stretches of a path fit side
//! by side as with costs of sixteen bits (see [`search`](super::search)).
//!
//! A number that a subset offers lies at most two steps from its value. So costs of nodes that may still win
//! are a few squared steps apart, and a byte holds them to 1/32 of one. What that rounding takes is some
//! hundredths of a percent of the noise.

use std::ops::Range;

use super::book::STATE_BITS;
use super::lattice::{Lattice, N_SUBSETS, UNIT, subset};
use super::search::{N_NODES, Nodes, RUN, Search, Stretches, gather};

/// Stretches of a path that are searched side by side. What is found depends on it, so it is the same
/// on every machine.
const LANES: usize = super::search::MOST_LANES;
/// One number for each stretch, in whole cache lines.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
pub(super) struct Lanes<T = u8>([T; LANES]);
/// Bits of a squared distance, which has 11 behind its point, that costs are too coarse for.
const COARSER: u32 = 6;
/// Steps after which the least cost is brought back to 0. Till then it grows by a squared step or two.
const RENORMALISE: usize = 8;
/// Decisions that are put into one byte.
const PER_WORD: usize = 8;
/// Bytes of decisions of a step.
const WORDS: usize = N_NODES / PER_WORD;
/// Nodes of each quarter whose paths are followed together.
const GROUP: usize = PER_WORD / 2;
/// Groups of a quarter of the nodes.
const N_GROUPS: usize = N_NODES / 4 / GROUP;

/// The subset of the first state that a group leads to after a step, and after two.
const FIRST: [[u8; N_GROUPS]; 2] = {
    let mut first = [[0; N_GROUPS]; 2];
    let mut group = 0;
    while group < N_GROUPS {
        first[0][group] = subset((2 * GROUP * group) as u8);
        first[1][group] = subset((4 * GROUP * group) as u8);
        group += 1;
    }
    first
};

/// For each step, in bytes, which nodes came from the first of their predecessors.
pub(super) type Back = Vec<[Lanes; WORDS]>;

/// A search for a path through a lattice.
pub(super) struct ByteSearch<'a> {
    pub(super) lattice: &'a Lattice,
    pub(super) back: &'a mut Back,
}

impl Search for ByteSearch<'_> {
    const LANES: usize = LANES;
    const STEPS: usize = 2;

    #[inline(always)]
    fn forward(&mut self, values: &[f32], stretches: &Stretches) -> Nodes {
        let mut costs = [[Lanes([0; LANES]); N_NODES]; 2];
        for (lane, start) in stretches.starts.iter().enumerate() {
            for (node, cost) in costs[0].iter_mut().enumerate() {
                cost.0[lane] = if node == usize::from(*start) { 0 } else { u8::MAX };
            }
        }
        let n_steps = stretches.n_steps;
        if self.back.len() < n_steps {
            self.back.resize(n_steps, [Lanes([0; LANES]); WORDS]);
        }
        let mut places = [Lanes([0i16; LANES]); RUN];
        let mut scores = [[Lanes([0; LANES]); N_SUBSETS]; 2];
        let Lattice { scale, bound, .. } = *self.lattice;
        let mut now = 0;
        for (run, back) in self.back[..n_steps].chunks_mut(RUN).enumerate() {
            gather((1, scale, bound), values, stretches, run * RUN, &mut places, |to, lane, x| {
                to.0[lane] = x;
            });
            let pairs = back.as_chunks_mut::<2>().0.iter_mut().zip(places.as_chunks::<2>().0);
            for (i, (back, places)) in pairs.enumerate() {
                let [even, odd] = &mut costs;
                let (costs, next) = if now == 0 { (even, odd) } else { (odd, even) };
                score(&places[0], &mut scores[0]);
                score(&places[1], &mut scores[1]);
                two_steps(&scores, costs, next, back);
                if (2 * i + 2).is_multiple_of(RENORMALISE) {
                    renormalise(next);
                }
                now = 1 - now;
            }
        }
        best(&costs[now])
    }

    #[inline(always)]
    fn trace_back(&self, steps: Range<usize>, nodes: &mut Nodes, out: &mut [u8], length: usize) {
        let mut at = Lanes(nodes.map(|node| node as u8));
        for (run, back) in self.back[steps].chunks(RUN).enumerate().rev() {
            let mut symbols = [Lanes([0; LANES]); RUN];
            for (words, symbols) in back.iter().zip(&mut symbols).rev() {
                before(words, &mut at, symbols);
            }
            for (lane, out) in out.chunks_mut(length).enumerate().take(LANES) {
                let from = out.len().min(run * RUN);
                for (out, symbols) in out[from..].iter_mut().zip(&symbols[..back.len()]) {
                    *out = symbols.0[lane];
                }
            }
        }
        *nodes = at.0.map(u16::from);
    }
}

/// The node of least cost of each lane, the lowest of several.
#[inline(always)]
fn best(costs: &[Lanes; N_NODES]) -> Nodes {
    let (mut best, mut least) = ([0; LANES], costs[0]);
    for (node, cost) in costs.iter().enumerate() {
        for (l, best) in best.iter_mut().enumerate() {
            if cost.0[l] < least.0[l] {
                (*best, least.0[l]) = (node as u16, cost.0[l]);
            }
        }
    }
    best
}

/// What numbers of each subset cost: the distance to the nearest one, squared, less that of the nearest
/// of all. Sixteen bits hold the place between two numbers of a subset, so that they overflow from one to
/// the next.
#[inline(always)]
fn score(places: &Lanes<i16>, scores: &mut [Lanes; N_SUBSETS]) {
    let mut squares = [Lanes([0i16; LANES]); N_SUBSETS];
    for (subset, square) in squares.iter_mut().enumerate() {
        for l in 0..LANES {
            let distance = places.0[l].wrapping_sub((subset as i16).wrapping_mul(UNIT));
            square.0[l] = ((i32::from(distance) * i32::from(distance >> 1)) >> 16) as i16;
        }
    }
    let [a, b, c, d] = &squares;
    let mut least = Lanes([0i16; LANES]);
    for (l, least) in least.0.iter_mut().enumerate() {
        *least = a.0[l].min(b.0[l]).min(c.0[l].min(d.0[l])) - (1 << (COARSER - 1));
    }
    for (score, square) in scores.iter_mut().zip(&squares) {
        for l in 0..LANES {
            score.0[l] = ((square.0[l] - least.0[l]) >> COARSER) as u8;
        }
    }
}

vectorised! {
    /// Two steps: the least cost of every node, and which of its predecessors it and the nodes between came from.
    ///
    /// Nodes i, i + 32, i + 64 and i + 96 lead to four nodes, and these alone lead to nodes 4i to 4i + 3.
    ///
    /// A function that is called, not part of its caller, so that what it reads and writes is known to lie apart.
    fn two_steps(
        scores: &[[Lanes; N_SUBSETS]; 2],
        costs: &[Lanes; N_NODES],
        next: &mut [Lanes; N_NODES],
        back: &mut [[Lanes; WORDS]; 2],
    ) = two_steps_body;
}

#[inline(always)]
fn two_steps_body(
    scores: &[[Lanes; N_SUBSETS]; 2],
    costs: &[Lanes; N_NODES],
    next: &mut [Lanes; N_NODES],
    back: &mut [[Lanes; WORDS]; 2],
) {
    let [between, at_end] = back;
    let (low, high) = between.split_at_mut(WORDS / 2);
    let words = low.iter_mut().zip(high).zip(at_end.as_chunks_mut::<2>().0);
    let next = next.as_chunks_mut::<{ 4 * GROUP }>().0.iter_mut();
    let quarters = costs.as_chunks::<GROUP>().0;
    for ((group, next), ((low, high), [end_low, end_high])) in next.enumerate().zip(words) {
        let of = |quarter: usize| &quarters[(quarter * N_GROUPS + group) % (4 * N_GROUPS)];
        // Subsets are sums modulo 2 of bits of the state, so those of a group are as far from its first one as
        // those of the first group are from 0.
        let [between, at_end] = [FIRST[0][group % N_GROUPS], FIRST[1][group % N_GROUPS]];
        let of_subset =
            |step: usize, first: u8, i: u8| &scores[step][usize::from(first ^ i) % N_SUBSETS];
        four(
            [0, 1, 2, 3].map(|i| of_subset(0, between, i)),
            [0, 1, 2, 3].map(|i| of_subset(1, at_end, i)),
            [0, 1, 2, 3].map(of),
            next,
            [low, high, end_low, end_high],
        );
    }
}

/// The same for the paths of four nodes of each quarter.
#[inline(always)]
fn four(
    between: [&Lanes; N_SUBSETS],
    at_end: [&Lanes; N_SUBSETS],
    [a, b, c, d]: [&[Lanes; GROUP]; 4],
    next: &mut [Lanes; 4 * GROUP],
    [low, high, end_low, end_high]: [&mut Lanes; 4],
) {
    // All that a lane does, so that a vector of lanes keeps it in registers.
    for l in 0..LANES {
        let [mut of_low, mut of_high, mut of_end_low, mut of_end_high] = [0; 4];
        // Written out, so that it is known when this is compiled which score is whose.
        one::<0>(
            between,
            at_end,
            [&a[0], &b[0], &c[0], &d[0]],
            next,
            l,
            [&mut of_low, &mut of_high, &mut of_end_low],
        );
        one::<1>(
            between,
            at_end,
            [&a[1], &b[1], &c[1], &d[1]],
            next,
            l,
            [&mut of_low, &mut of_high, &mut of_end_low],
        );
        one::<2>(
            between,
            at_end,
            [&a[2], &b[2], &c[2], &d[2]],
            next,
            l,
            [&mut of_low, &mut of_high, &mut of_end_high],
        );
        one::<3>(
            between,
            at_end,
            [&a[3], &b[3], &c[3], &d[3]],
            next,
            l,
            [&mut of_low, &mut of_high, &mut of_end_high],
        );
        low.0[l] = of_low;
        high.0[l] = of_high;
        end_low.0[l] = of_end_low;
        end_high.0[l] = of_end_high;
    }
}

/// The same for node `I` of the four, in one lane.
#[inline(always)]
fn one<const I: usize>(
    between: [&Lanes; N_SUBSETS],
    at_end: [&Lanes; N_SUBSETS],
    [a, b, c, d]: [&Lanes; 4],
    next: &mut [Lanes; 4 * GROUP],
    l: usize,
    [low, high, end]: [&mut u8; 3],
) {
    let of = |scores: [&Lanes; N_SUBSETS], state: usize| {
        let subset = usize::from(subset(state as u8));
        [scores[subset].0[l], scores[subset ^ 2].0[l]]
    };
    let [e, f] = either([a.0[l], c.0[l]], of(between, 2 * I), low);
    let [g, h] = either([b.0[l], d.0[l]], of(between, 2 * I + N_NODES / 2), high);
    let [first, second] = either([e, g], of(at_end, 4 * I), end);
    let [third, fourth] = either([f, h], of(at_end, 4 * I + 2), end);
    next[4 * I].0[l] = first;
    next[4 * I + 1].0[l] = second;
    next[4 * I + 2].0[l] = third;
    next[4 * I + 3].0[l] = fourth;
}

/// The lesser costs of the two nodes of a pair, which have the same two predecessors of these costs; `[c, d]` are
/// the scores of the states that they follow as from the first. The bit that comes in and the one that goes out
/// tell the same subsets apart, so the second predecessor has those of the first the other way round.
#[inline(always)]
fn either([a, b]: [u8; 2], [c, d]: [u8; 2], word: &mut u8) -> [u8; 2] {
    let (x, y) = (a.saturating_add(c), b.saturating_add(d));
    let (z, w) = (a.saturating_add(d), b.saturating_add(c));
    // From the first predecessor. A sum after the other: taken apart, they would be put together last.
    *word = word.wrapping_add(*word).wrapping_add(u8::from(x <= y));
    *word = word.wrapping_add(*word).wrapping_add(u8::from(z <= w));
    [x.min(y), z.min(w)]
}

/// Brings the least cost back to 0.
#[inline(always)]
fn renormalise(costs: &mut [Lanes; N_NODES]) {
    let mut least = Lanes([u8::MAX; LANES]);
    for cost in costs.iter() {
        for l in 0..LANES {
            least.0[l] = least.0[l].min(cost.0[l]);
        }
    }
    for cost in costs {
        for l in 0..LANES {
            cost.0[l] -= least.0[l];
        }
    }
}

/// Moves each lane from its node to the one before, and writes what that step shifted in to `symbols`.
#[inline(always)]
fn before(words: &[Lanes; WORDS], nodes: &mut Lanes, symbols: &mut Lanes) {
    // Written to afterwards: a loop over what cannot overlap fills vectors.
    let (mut before, mut shifted) = ([0; LANES], [0; LANES]);
    for l in 0..LANES {
        let node = nodes.0[l];
        // Looking a word up would take longer than to choose it of all, as whole vectors do.
        let bit = |bit: u32| node & 1 << bit != 0;
        let pick = |yes: bool, first: u8, second: u8| if yes { second } else { first };
        let two = |i: usize| pick(bit(3), words[i].0[l], words[i + 1].0[l]);
        let four = |i: usize| pick(bit(4), two(i), two(i + 2));
        let eight = |i: usize| pick(bit(5), four(i), four(i + 4));
        let word = pick(bit(6), eight(0), eight(8));
        // The first node's is the highest bit.
        let word = pick(bit(2), word >> 4, word);
        let word = pick(bit(1), word >> 2, word);
        let word = pick(bit(0), word >> 1, word);
        let came_from_second = !word & 1;
        shifted[l] = node & 1;
        before[l] = came_from_second << (STATE_BITS - 2) | node >> 1;
    }
    (nodes.0, symbols.0) = (before, shifted);
}
