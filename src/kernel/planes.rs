//! Lossless lanes: a fine-tune's elements against the base's, or alone, as byte planes.
//!
//! A difference is taken between integers that are ordered as the floats are, folded so that small
//! differences of either sign are small numbers, and split into planes: first the least significant
//! byte of all lanes, then the next. Lanes whose base has the same exponent stand together, because
//! their differences are of one scale; a fixed sort by the base alone, so that the decoder can redo
//! it. Compressing the planes is not done here.

use std::ops::Range;

use crate::kernel::lane::{Word, fold, unfold};
use crate::tensor::DType;

pub use crate::kernel::entropy::{coded_bytes, histogram, histogram_of_every};

/// What the bits of a lane mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Sign and magnitude.
    Float,
    /// Two's complement.
    Signed,
    /// Plain binary.
    Unsigned,
    /// Nothing known: differences are exclusive ors.
    Opaque,
}

/// How the lossless kernels see an element type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lane {
    /// 1, 2, 4 or 8.
    pub bytes: usize,
    /// What the bits mean.
    pub order: Order,
    /// Lanes are sorted by bits `key_shift..key_shift + key_bits` of the base; no bits, no sorting.
    key_shift: u32,
    key_bits: u32,
}

impl Lane {
    /// The lane of a dtype.
    pub fn of(dtype: DType) -> Self {
        use Order::{Float, Opaque, Signed, Unsigned};
        // The exponent; of F64's eleven bits the upper eight.
        let (order, key_shift, key_bits) = match dtype {
            DType::F64 => (Float, 55, 8),
            DType::F32 | DType::C64 => (Float, 23, 8),
            DType::BF16 => (Float, 7, 8),
            DType::F16 => (Float, 10, 5),
            DType::F8E4M3 => (Float, 3, 4),
            DType::F8E5M2 => (Float, 2, 5),
            DType::I64 | DType::I32 | DType::I16 | DType::I8 => (Signed, 0, 0),
            DType::U64 | DType::U32 | DType::U16 | DType::U8 => (Unsigned, 0, 0),
            _ => (Opaque, 0, 0),
        };
        Self { bytes: dtype.lane_bytes(), order, key_shift, key_bits }
    }
}

/// Runs `$f::<W>` with the integer type of `$lane`.
macro_rules! with_word {
    ($lane:expr, $f:ident($($arg:expr),*)) => {
        match $lane.bytes {
            1 => $f::<u8>($($arg),*),
            2 => $f::<u16>($($arg),*),
            4 => $f::<u32>($($arg),*),
            _ => $f::<u64>($($arg),*),
        }
    };
}

vectorised! {
    /// Writes the difference planes of two runs of equal length, as many bytes as each has. `sorted` is
    /// working space that grows to as many bytes.
    pub fn difference(ft: &[u8], base: &[u8], lane: Lane, sorted: &mut Vec<u8>, out: &mut [u8]) = difference_body;
}

vectorised! {
    /// The exact inverse: the fine-tune's bytes from difference planes and base.
    pub fn undo_difference(planes: &[u8], base: &[u8], lane: Lane, sorted: &mut Vec<u8>, out: &mut [u8]) = undo_body;
}

vectorised! {
    /// Planes of lanes that have no base, in their own order. Floats are rotated left by one bit, so
    /// that the exponent is not cut by the sign.
    pub fn split(ft: &[u8], lane: Lane, out: &mut [u8]) = split_body;
}

vectorised! {
    /// The exact inverse of `split`.
    pub fn merge(planes: &[u8], lane: Lane, out: &mut [u8]) = merge_body;
}

#[inline(always)]
fn difference_body(ft: &[u8], base: &[u8], lane: Lane, sorted: &mut Vec<u8>, out: &mut [u8]) {
    debug_assert!(ft.len() == base.len() && base.len() == out.len());
    with_word!(lane, difference_words(ft, base, lane, sorted, out));
}

#[inline(always)]
fn undo_body(planes: &[u8], base: &[u8], lane: Lane, sorted: &mut Vec<u8>, out: &mut [u8]) {
    debug_assert!(planes.len() == base.len() && base.len() == out.len());
    with_word!(lane, undo_words(planes, base, lane, sorted, out));
}

#[inline(always)]
fn split_body(ft: &[u8], lane: Lane, out: &mut [u8]) {
    debug_assert!(ft.len() == out.len());
    with_word!(lane, split_words(ft, lane, out));
}

#[inline(always)]
fn merge_body(planes: &[u8], lane: Lane, out: &mut [u8]) {
    debug_assert!(planes.len() == out.len());
    with_word!(lane, merge_words(planes, lane, out));
}

/// Stretches of the input that are sorted side by side: a lane's place depends on the last one of
/// the same exponent, so one stretch alone would wait on memory at every lane.
const STRETCHES: usize = 4;
/// Lanes of a stretch that are worked on at a time.
const BLOCK: usize = 128;

/// Where the next lane of each exponent goes, per stretch of `quarter` lanes (the last is shorter).
struct Places {
    next: [[u32; 256]; STRETCHES],
    quarter: usize,
}

impl Places {
    #[inline(always)]
    fn of<W: Word>(base: &[W::Raw], lane: Lane) -> Self {
        let mut next = [[0u32; 256]; STRETCHES];
        let quarter = base.len() / STRETCHES;
        let (heads, tail) = base.split_at(quarter * STRETCHES);
        let [a, b, c, d] = &mut next;
        if quarter > 0 {
            let (ab, cd) = heads.split_at(2 * quarter);
            let ((ka, kb), (kc, kd)) = (ab.split_at(quarter), cd.split_at(quarter));
            for (((ka, kb), kc), kd) in ka.iter().zip(kb).zip(kc).zip(kd) {
                a[usize::from(key::<W>(*ka, lane))] += 1;
                b[usize::from(key::<W>(*kb, lane))] += 1;
                c[usize::from(key::<W>(*kc, lane))] += 1;
                d[usize::from(key::<W>(*kd, lane))] += 1;
            }
        }
        for &raw in tail {
            d[usize::from(key::<W>(raw, lane))] += 1;
        }
        let mut start = 0;
        for k in 0..256 {
            for counts in &mut next {
                (counts[k], start) = (start, start + counts[k]);
            }
        }
        Self { next, quarter }
    }

    /// The place of the next lane of this exponent in a stretch.
    #[inline(always)]
    fn take(&mut self, stretch: usize, key: u8) -> usize {
        let next = &mut self.next[stretch][usize::from(key)];
        let place = *next as usize;
        *next += 1;
        place
    }

    /// Cuts the stretches of `n` lanes into blocks that are worked on side by side.
    #[inline(always)]
    fn blocks(&self, n: usize) -> impl Iterator<Item = [Range<usize>; STRETCHES]> + use<> {
        let quarter = self.quarter;
        let whole = (0..quarter).step_by(BLOCK).map(move |start| {
            let end = (start + BLOCK).min(quarter);
            std::array::from_fn(|s| s * quarter + start..s * quarter + end)
        });
        // What four stretches of equal length leave over is part of the last.
        let over = (quarter * STRETCHES < n).then(|| {
            std::array::from_fn(|s| if s + 1 == STRETCHES { quarter * STRETCHES..n } else { 0..0 })
        });
        whole.chain(over)
    }
}

#[inline(always)]
fn key<W: Word>(raw: W::Raw, lane: Lane) -> u8 {
    W::load(raw).low_byte_at(lane.key_shift) & ((1u32 << lane.key_bits) - 1) as u8
}

/// Exponents and differences of one block: arithmetic runs over them in vectors, moving to and
/// from the sorted places lane by lane.
struct Block<W> {
    keys: [[u8; BLOCK]; STRETCHES],
    words: [[W; BLOCK]; STRETCHES],
}

impl<W: Word> Block<W> {
    #[inline(always)]
    fn new() -> Self {
        Self { keys: [[0; BLOCK]; STRETCHES], words: [[W::default(); BLOCK]; STRETCHES] }
    }

    #[inline(always)]
    fn load_keys(&mut self, base: &[W::Raw], ranges: &[Range<usize>; STRETCHES], lane: Lane) {
        for (keys, range) in self.keys.iter_mut().zip(ranges) {
            for (k, &raw) in keys.iter_mut().zip(&base[range.clone()]) {
                *k = key::<W>(raw, lane);
            }
        }
    }

    /// Calls `visit(word, place)` for every lane, the stretches in turn.
    #[inline(always)]
    fn visit(
        &mut self,
        places: &mut Places,
        ranges: &[Range<usize>; STRETCHES],
        mut visit: impl FnMut(&mut W, usize),
    ) {
        let len = ranges[0].len().min(BLOCK);
        for i in 0..len {
            for s in 0..STRETCHES {
                visit(&mut self.words[s][i], places.take(s, self.keys[s][i]));
            }
        }
        let last = STRETCHES - 1;
        for i in len..ranges[last].len().min(BLOCK) {
            visit(&mut self.words[last][i], places.take(last, self.keys[last][i]));
        }
    }
}

#[inline(always)]
fn difference_words<W: Word>(
    ft: &[u8],
    base: &[u8],
    lane: Lane,
    sorted: &mut Vec<u8>,
    out: &mut [u8],
) {
    let (ft, base) = (W::view(ft), W::view(base));
    let n = ft.len().min(base.len()).min(out.len() / W::BYTES);
    let (ft, base) = (&ft[..n], &base[..n]);
    if lane.key_bits == 0 {
        let diff = |i: usize| fold(W::load(ft[i]), W::load(base[i]), lane.order);
        return write_planes::<W>(n, out, diff);
    }
    let sorted = lanes_of::<W>(sorted, n);
    let mut places = Places::of::<W>(base, lane);
    let mut block = Block::<W>::new();
    for ranges in places.blocks(n) {
        block.load_keys(base, &ranges, lane);
        for (words, range) in block.words.iter_mut().zip(&ranges) {
            let lanes = ft[range.clone()].iter().zip(&base[range.clone()]);
            for (word, (&a, &b)) in words.iter_mut().zip(lanes) {
                *word = fold(W::load(a), W::load(b), lane.order);
            }
        }
        block.visit(&mut places, &ranges, |word, place| {
            if let Some(raw) = sorted.get_mut(place) {
                *raw = word.store();
            }
        });
    }
    write_planes::<W>(n, out, |i| W::load(sorted[i]));
}

/// Working space of `n` lanes. Sorting moves whole lanes, one store each, and cutting them into planes
/// afterwards is vector code: stores to scattered places are what sorting costs.
#[inline(always)]
fn lanes_of<W: Word>(sorted: &mut Vec<u8>, n: usize) -> &mut [W::Raw] {
    if sorted.len() < n * W::BYTES {
        sorted.resize(n * W::BYTES, 0);
    }
    &mut W::view_mut(sorted)[..n]
}

#[inline(always)]
fn undo_words<W: Word>(
    planes: &[u8],
    base: &[u8],
    lane: Lane,
    sorted: &mut Vec<u8>,
    out: &mut [u8],
) {
    let (out, base) = (W::view_mut(out), W::view(base));
    let n = out.len().min(base.len()).min(planes.len() / W::BYTES);
    let (out, base) = (&mut out[..n], &base[..n]);
    if lane.key_bits == 0 {
        return read_planes::<W>(n, planes, |start, words| {
            let lanes = out[start..].iter_mut().zip(&base[start..]);
            for (&word, (raw, &b)) in words.iter().zip(lanes) {
                *raw = unfold(word, W::load(b), lane.order).store();
            }
        });
    }
    let sorted = lanes_of::<W>(sorted, n);
    read_planes::<W>(n, planes, |start, words| {
        words.iter().zip(&mut sorted[start..]).for_each(|(word, raw)| *raw = word.store());
    });
    let mut places = Places::of::<W>(base, lane);
    let mut block = Block::<W>::new();
    for ranges in places.blocks(n) {
        block.load_keys(base, &ranges, lane);
        block.visit(&mut places, &ranges, |word, place| {
            *word = sorted.get(place).map_or_else(W::default, |raw| W::load(*raw));
        });
        for (words, range) in block.words.iter().zip(&ranges) {
            let lanes = out[range.clone()].iter_mut().zip(&base[range.clone()]);
            for (&word, (raw, &b)) in words.iter().zip(lanes) {
                *raw = unfold(word, W::load(b), lane.order).store();
            }
        }
    }
}

#[inline(always)]
fn split_words<W: Word>(ft: &[u8], lane: Lane, out: &mut [u8]) {
    let ft = W::view(ft);
    let turn = u32::from(lane.order == Order::Float);
    let n = ft.len().min(out.len() / W::BYTES);
    write_planes::<W>(n, out, |i| W::load(ft[i]).rotate_left(turn));
}

#[inline(always)]
fn merge_words<W: Word>(planes: &[u8], lane: Lane, out: &mut [u8]) {
    let out = W::view_mut(out);
    let turn = u32::from(lane.order == Order::Float);
    let n = out.len().min(planes.len() / W::BYTES);
    read_planes::<W>(n, planes, |start, words| {
        let lanes = words.iter().zip(&mut out[start..]);
        lanes.for_each(|(word, raw)| *raw = word.rotate_right(turn).store());
    });
}

/// Shows `then` the words of `n` lanes from their planes, block by block, each with the number of its first.
#[inline(always)]
fn read_planes<W: Word>(n: usize, planes: &[u8], mut then: impl FnMut(usize, &[W])) {
    let mut block = [W::default(); BLOCK];
    for start in (0..n).step_by(BLOCK) {
        let words = &mut block[..BLOCK.min(n - start)];
        words.fill(W::default());
        // Plane by plane too.
        for (b, plane) in planes.chunks_exact(n).take(W::BYTES).enumerate() {
            for (word, byte) in words.iter_mut().zip(&plane[start..]) {
                *word = *word | W::from_byte_at(*byte, 8 * b as u32);
            }
        }
        then(start, words);
    }
}

/// Plane by plane, so that each loop is one stream and becomes vector code.
#[inline(always)]
fn write_planes<W: Word>(n: usize, out: &mut [u8], word: impl Fn(usize) -> W) {
    if n == 0 {
        return;
    }
    for (b, plane) in out.chunks_exact_mut(n).take(W::BYTES).enumerate() {
        for (i, byte) in plane.iter_mut().enumerate() {
            *byte = word(i).low_byte_at(8 * b as u32);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::both_ways;
    use proptest::prelude::*;

    fn differences(ft: &[u8], base: &[u8], lane: Lane) -> Vec<u8> {
        let mut out = vec![0; ft.len()];
        difference(ft, base, lane, &mut Vec::new(), &mut out);
        out
    }

    #[test]
    fn bf16_lanes_stand_sorted_by_the_exponent_of_the_base() {
        // Base 2, 1, 2; the fine-tune one unit above, below, above.
        let base = [0x00, 0x40, 0x80, 0x3f, 0x00, 0x40];
        let ft = [0x01, 0x40, 0x7f, 0x3f, 0x02, 0x40];
        assert_eq!(differences(&ft, &base, Lane::of(DType::BF16)), [1, 2, 4, 0, 0, 0]);
    }

    #[test]
    fn zero_and_minus_zero_are_neighbours() {
        assert_eq!(differences(&[0, 0x80], &[0, 0], Lane::of(DType::F16)), [1, 0]);
    }

    #[test]
    fn opaque_lanes_are_xored_and_integers_folded() {
        assert_eq!(differences(&[0b110], &[0b011], Lane::of(DType::Bool)), [0b101]);
        assert_eq!(differences(&[255], &[0], Lane::of(DType::I8)), [1]);
        assert_eq!(differences(&[3], &[1], Lane::of(DType::U8)), [4]);
    }

    #[test]
    fn the_exponent_fills_the_top_plane_without_a_base() {
        let mut out = [0; 4];
        split(&[0x80, 0xbf, 0x80, 0x3f], Lane::of(DType::BF16), &mut out);
        assert_eq!(out, [1, 0, 0x7f, 0x7f]);
    }

    #[test]
    fn every_dtype_has_a_lane() {
        for dtype in DType::all() {
            let lane = Lane::of(dtype);
            assert!([1, 2, 4, 8].contains(&lane.bytes));
            assert!(lane.key_shift + lane.key_bits <= 8 * lane.bytes as u32);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_come_back(
            dtype in prop::sample::select(DType::all().collect::<Vec<_>>()),
            pairs in prop::collection::vec(any::<(u64, u64)>(), 0..1400),
            near in any::<bool>(),
        ) {
            let lane = Lane::of(dtype);
            let cut = |x: u64| x.to_le_bytes().into_iter().take(lane.bytes);
            let base: Vec<u8> = pairs.iter().flat_map(|p| cut(p.0)).collect();
            let ft: Vec<u8> =
                pairs.iter().flat_map(|p| cut(if near { p.0 ^ (p.1 & 3) } else { p.1 })).collect();
            let (wide, plain) = both_ways(|| {
                let planes = differences(&ft, &base, lane);
                let mut back = vec![0; ft.len()];
                undo_difference(&planes, &base, lane, &mut Vec::new(), &mut back);
                let mut alone = vec![0; ft.len()];
                split(&ft, lane, &mut alone);
                let mut merged = vec![0; ft.len()];
                merge(&alone, lane, &mut merged);
                (planes, alone, back, merged)
            });
            prop_assert_eq!(&wide, &plain);
            prop_assert_eq!(&wide.2, &ft);
            prop_assert_eq!(&wide.3, &ft);
        }

        #[test]
        fn the_order_is_a_stable_sort(base in prop::collection::vec(any::<u16>(), 0..1400)) {
            // The fine-tune carries each lane's index as an opaque xor would; here as a difference.
            let lane = Lane { order: Order::Opaque, ..Lane::of(DType::F16) };
            let bytes = |words: &[u16]| words.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<u8>>();
            let ft: Vec<u16> = base.iter().enumerate().map(|(i, b)| b ^ i as u16).collect();
            let mut want: Vec<usize> = (0..base.len()).collect();
            want.sort_by_key(|&i| (base[i] >> 10) & 31);
            let planes = differences(&bytes(&ft), &bytes(&base), lane);
            prop_assert_eq!(&planes[..base.len()], want.iter().map(|&i| i as u8).collect::<Vec<_>>());
        }
    }
}
