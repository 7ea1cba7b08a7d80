//! Lattices: rates from 3/4 of a bit up, by trellis-coded quantisation with entropy coding (Fischer and
//! Wang, "Entropy-constrained trellis-coded quantization", 1992).
//!
//! Values are whole numbers of steps. A state allows those of one class modulo 4, its subset; so the
//! node before, which is all that a reader knows, allows the even or the odd ones, and the number says
//! by its class which bit was shifted in. Even and odd numbers have a table of frequencies each: those
//! of a normal distribution as wide as the rate makes it, so that nothing is stored of them.

use std::sync::OnceLock;

use super::book::STATE_BITS;
use super::search::place;
use crate::kernel::normal::{RATIOS, fold, unfold};
use crate::kernel::rans::normalised;
use crate::kernel::rans_stream::{Coder, Decoder, Encoder, LANES, Pair, coders};

/// Classes of numbers modulo 4.
pub(super) const N_SUBSETS: usize = 4;
/// A step, in the units that values are searched for in: four steps fill sixteen bits.
pub(super) const UNIT: i16 = 1 << 14;
/// Masks of the bits of a subset's number, by the parity of the state's bits under them: Ungerboeck's
/// code of 128 states (1982, table I: 235 and 126, octal). A subset shares its lower bit with all that
/// follow the same node.
const MASKS: [u8; 2] = [0o235, 0o126];
/// Mean squared error of the search, in squared steps: what the output's power exceeds the input's by.
const ERROR: f64 = 0.247;
/// The number of the deviation, as in [`normal`](crate::kernel::normal), of the lowest rate; each rate has
/// the next.
const FIRST_DEVIATION: usize = 3;
/// The greatest magnitude of a number by rate: twelve deviations of the output where i8 has room.
const GREATEST: [u8; 18] =
    [10, 12, 14, 16, 20, 24, 28, 33, 40, 48, 57, 67, 80, 96, 114, 127, 127, 127];
/// Number of rates.
pub(super) const N_RATES: usize = GREATEST.len();

/// The lattice of one rate.
#[derive(Debug)]
pub struct Lattice {
    rate: usize,
    /// What a value of unit power is multiplied by to be searched for.
    pub(super) scale: f32,
    /// Values are searched for between this and its opposite, times `scale`.
    pub(super) bound: f32,
    /// What a step stands for: the output has unit power.
    pub(super) step: f32,
}

/// A number's byte is turned left by so many bits while it is read, so that the upper bit of its class is
/// [`BIT`], which shifts from the first of two tables to the second.
const TURN: u32 = 2;
const BIT: u32 = 1 << 3;
const _: () = assert!(MASKS[0] >> 1 & 1 == 0 && MASKS[1] >> 1 & 1 == 1);

/// What coding with the tables of one rate takes.
struct Tables {
    /// By number, as a byte.
    coders: Box<[Coder; 256]>,
    pair: Pair,
}

/// The deviation of a rate's output in double steps, `2^((w - 8) / 4)`, and its reciprocal.
fn deviation(rate: usize) -> (f64, f64) {
    const ROOTS: [f64; 4] =
        [1.0, 1.189_207_115_002_721, std::f64::consts::SQRT_2, 1.681_792_830_507_429];
    let w = rate + FIRST_DEVIATION;
    let (whole, part) = (f64::from(1u32 << (w / 4)) / 4.0, w % 4);
    // The last root is 2, of which there is none in the table.
    let reciprocal = match part {
        0 => whole.recip(),
        part => ROOTS[4 - part] / (2.0 * whole),
    };
    (whole * ROOTS[part], reciprocal)
}

/// The subset of a state.
#[inline(always)]
pub(super) const fn subset(state: u8) -> u8 {
    let upper = (state & MASKS[0]).count_ones() as u8 % 2;
    2 * upper + (state & MASKS[1]).count_ones() as u8 % 2
}

impl Lattice {
    pub(super) fn new(rate: usize) -> Self {
        let (deviation, reciprocal) = deviation(rate);
        let input_rms = (4.0 * deviation * deviation - ERROR).sqrt();
        Self {
            rate,
            scale: (input_rms * f64::from(UNIT)) as f32,
            bound: f32::from(GREATEST[rate] - 2) * f32::from(UNIT),
            step: (reciprocal / 2.0) as f32,
        }
    }

    /// Replaces the bits of a path from state `start` on by its numbers, which are bytes of i8.
    #[inline(always)]
    pub(super) fn points(&self, values: &[f32], start: u8, symbols: &mut [u8]) {
        // The bits that the first states have of `start`, then all others: a state is a window of them,
        // and the parities of many windows are taken side by side.
        let mut bits: Vec<u8> = (0..STATE_BITS - 1).rev().map(|i| start >> i & 1).collect();
        bits.extend_from_slice(symbols);
        let parity = |window: &[u8; STATE_BITS as usize], mask: u8| {
            let newest_first = window.iter().rev().enumerate();
            newest_first.fold(0, |parity, (i, bit)| parity ^ bit & mask >> i)
        };
        let windows = bits.windows(STATE_BITS as usize);
        // Of bytes alone first, of which a vector holds more.
        for (symbol, window) in symbols.iter_mut().zip(windows) {
            let Some(window) = window.first_chunk() else { continue };
            *symbol = 2 * parity(window, MASKS[0]) + parity(window, MASKS[1]);
        }
        for (symbol, value) in symbols.iter_mut().zip(values) {
            let subset = i32::from(*symbol);
            let place = place(*value, self.scale, self.bound);
            let beyond = place - subset * i32::from(UNIT) + (1 << 15);
            *symbol = (subset + 4 * (beyond >> 16)) as i8 as u8;
        }
    }

    /// Tables of the even and the odd numbers.
    fn tables(&self) -> &'static Tables {
        static TABLES: [OnceLock<Tables>; N_RATES] = [const { OnceLock::new() }; N_RATES];
        TABLES[self.rate].get_or_init(|| {
            let greatest = i32::from(GREATEST[self.rate]);
            let ratio = RATIOS[self.rate + FIRST_DEVIATION];
            let [even, odd] = [0, 1].map(|odd| normalised(&counts(odd, greatest, ratio)));
            let coders = [&even, &odd].map(coders);
            // By what a number is, so that it need not be folded.
            let by_point =
                |point: usize| coders[point % 2][usize::from(fold(point as u8 as i8 >> 1))];
            Tables {
                coders: Box::new(std::array::from_fn(by_point)),
                pair: Pair::new([&even, &odd], |odd, byte| {
                    ((unfold(byte) as u8) << 1 | odd as u8).rotate_left(TURN)
                }),
            }
        })
    }

    /// Appends the numbers of a path, entropy coded.
    pub(super) fn write(&self, points: &[u8], out: &mut Vec<u8>) {
        put_points(&self.tables().coders, points, Encoder::new(points.len())).finish(out);
    }

    /// Fills `points` with the `n` numbers of a path; false if `bytes` are not exactly those of one.
    pub(super) fn read(&self, bytes: &[u8], n: usize, points: &mut Vec<u8>) -> bool {
        points.resize(n, 0);
        if n == 0 {
            return bytes.is_empty();
        }
        let Some(mut decoder) = Decoder::new(bytes) else { return false };
        read_points(&self.tables().pair, &mut decoder, points) && decoder.is_at_end()
    }

    /// Fills `out` with the values of a path from number `first` on.
    pub(super) fn values(&self, points: &[u8], first: usize, out: &mut [f32]) {
        let points = points.get(first..).unwrap_or_default();
        for (value, point) in out.iter_mut().zip(points) {
            *value = f32::from(*point as i8) * self.step;
        }
    }
}

vectorised! {
    /// The encoder once it has the numbers of a path. Taken and given back, so that its states stay in registers.
    fn put_points(coders: &[Coder; 256], points: &[u8], encoder: Encoder) -> Encoder = put_points_body;
}

#[inline(always)]
fn put_points_body(coders: &[Coder; 256], points: &[u8], mut encoder: Encoder) -> Encoder {
    let (groups, rest) = points.as_chunks::<LANES>();
    for (lane, point) in rest.iter().enumerate().rev() {
        encoder.put(lane, &coders[usize::from(*point)]);
    }
    for group in groups.iter().rev() {
        for (lane, point) in group.iter().enumerate().rev() {
            encoder.put(lane, &coders[usize::from(*point)]);
        }
    }
    encoder
}

vectorised! {
    /// Fills `points` with the numbers of a path; false if words run out.
    fn read_points(pair: &Pair, decoder: &mut Decoder<'_>, points: &mut [u8]) -> bool = read_points_body;
}

#[inline(always)]
fn read_points_body(pair: &Pair, decoder: &mut Decoder<'_>, points: &mut [u8]) -> bool {
    // What the past says about the classes to come, a bit for each, from bit 3 up: whether the next number
    // is odd. A number's own share is the masks of the bits of its class. The least of these bits is about
    // the very next number, which waits for nothing but it; the others come in one number later.
    let (mut check, mut later, mut nearest) = (0u32, 0u32, 0u32);
    let share = |mask: u8| u32::from(mask >> 1 & !1);
    let is_whole = decoder.run(points, |state| {
        let is_odd = check & BIT ^ nearest;
        let (turned, low) = pair.step(state, is_odd);
        check = (check ^ later) >> 1;
        nearest = u32::from(turned) & BIT;
        later = (is_odd * share(MASKS[0])) ^ (nearest * share(MASKS[1]));
        (turned, low)
    });
    points.iter_mut().for_each(|point| *point = point.rotate_right(TURN));
    is_whole
}

/// How often the half of each even number occurs, or that of the even number below each odd one, for the
/// bytes they are coded as: `ratio^(m^2)` or `ratio^(m (m + 1))` in units of 2^-24, rounded down, plus 1.
fn counts(odd: i32, greatest: i32, ratio: f64) -> [u32; 256] {
    // From one square, or product, to the next; only products, so the same on every machine.
    let (mut weight, mut weights) = (1.0, [0.0; 64]);
    let mut factor = if odd == 1 { ratio * ratio } else { ratio };
    for w in &mut weights {
        *w = weight;
        weight *= factor;
        factor *= ratio * ratio;
    }
    std::array::from_fn(|byte| {
        let half = i32::from(unfold(byte as u8));
        let number = 2 * half + odd;
        let magnitude = (number.abs() / 2) as usize;
        match weights.get(magnitude) {
            Some(weight) if number.abs() <= greatest => (weight * f64::from(1 << 24)) as u32 + 1,
            _ => 0,
        }
    })
}
