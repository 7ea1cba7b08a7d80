//! Tiles as a path through a trellis, with one gain a row: a fraction of a bit to a few bits an entry.
//! Leading directions of the tile may be taken off before, and the first rows may have another rate
//! than the others.
//!
//! Each row is brought to unit power and its entries get random signs, so that what the code adds to
//! a row looks like noise beside it, and beside what it adds to the rows that resemble it. Payload:
//! settings, directions, gains, paths (FORMAT.md section 6.7).

mod directions;
mod gains;
mod rates;
mod side;

use crate::codec::delta::{DeltaTile, rows_in_cache, strips};
use crate::codec::mask::{self, MaskPlace};
pub(crate) use crate::codec::trellis::directions::{Directions, MAX_RANK, TileNeeds, survey};
use crate::codec::trellis::gains::{Gains, PER_OCTAVE};
use crate::codec::trellis::rates::Rates;
pub(crate) use crate::codec::trellis::rates::path_bytes;
use crate::codec::trellis::side::Stored;
use crate::codec::{Codec, CodecId, Operand, Part, Parts, Scratch, Target};
use crate::error::{Error, Result};
use crate::kernel::trellis::{self, Code};
use crate::kernel::{low_rank, quantise};
use crate::wire::{Reader, Writer};

/// Bytes of the fields that every payload has before directions and gains.
const HEADER: usize = 1 + 1 + 2;
/// Most bytes of a number of variable length.
const VARINT: usize = 5;
/// Flags beside the two bits of the gains' distance.
const TWO_RATES: u8 = 1 << 2;
const HAS_DIRECTIONS: u8 = 1 << 3;
const SIDE_CODED: u8 = 1 << 4;

/// The codec of trellis paths.
#[derive(Debug)]
pub(crate) struct Trellis;

/// How a tile is coded. Rates are below [`trellis::N_RATES`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Decisions {
    /// Rate of the first rows.
    pub(crate) first: usize,
    /// Rate of the others.
    pub(crate) second: usize,
    /// How many rows have the first rate: all of them if there is but one.
    pub(crate) n_first: usize,
    /// Which directions are taken off before.
    pub(crate) directions: Option<Directions>,
}

/// Bytes a worker holds for a tile of so many elements beside its payload: the residual, what a search is
/// given of it, a symbol for each step, what entropy coding makes of these, and the decisions of a search.
pub(crate) fn worker_bytes(n_elements: u64) -> u64 {
    12 * n_elements + (3 << 19)
}

/// How many gains an octave has at this rate.
pub(crate) fn gains_per_octave(rate: usize) -> f64 {
    PER_OCTAVE[rates::distance(rate)] as f64
}

/// Appends the payload of a tile; `None` if its delta is not finite. `known` are the right codes that
/// [`survey`] found with the same directions, if they are still there.
pub(crate) fn encode(
    tile: &DeltaTile<'_>,
    place: MaskPlace,
    decisions: &Decisions,
    known: Option<&[i8]>,
    scratch: &mut Scratch,
    out: &mut Vec<u8>,
) -> Option<()> {
    let Decisions { first, second, n_first, directions } = decisions;
    let Scratch { residual, work, codes, draws, search, .. } = scratch;
    let (energy, residual) = directions::delta(tile, residual)?;
    let factors = directions::take_off(tile, energy, *directions, known, residual);
    for (row, values) in residual.chunks_exact_mut(tile.n_cols).enumerate() {
        mask::flip_signs(place, row, draws, values);
    }
    let rates = Rates::new(*first, *second, *n_first, tile.n_rows);
    codes.clear();
    let (mut paths, mut gains) = (Writer::default(), Vec::with_capacity(tile.n_rows));
    for (rate, rows) in rates.parts() {
        let values = &residual[rows.start * tile.n_cols..rows.end * tile.n_cols];
        let buffers = (&mut *work, &mut *codes, &mut *search);
        code_rows(values, tile.n_cols, rate, buffers, (&mut paths, &mut gains))?;
    }
    let distance = rates.distance();
    let gains = Gains::of(&gains, PER_OCTAVE[distance]);
    let mut w = Writer(std::mem::take(out));
    let flags = w.0.len() + 1;
    w.u8(rates.first as u8);
    w.u8(distance as u8 | if rates.are_two() { TWO_RATES } else { 0 });
    w.u16(gains.exponent as u16);
    rates.write_second(&mut w);
    w.0[flags] |= if factors.rank > 0 { HAS_DIRECTIONS } else { 0 };
    let step = directions.map_or(0.0, |directions| directions.step);
    if side::write(&factors, step, &gains.codes, &mut w) {
        w.0[flags] |= SIDE_CODED;
    }
    *out = w.0;
    out.extend(paths.0);
    scratch.has_symbols = true;
    Some(())
}

/// Appends the path of rows whose signs are flipped, each row's gain, and the path's symbols. `work` and `search`
/// are buffers.
/// `None` if the path is longer than a payload may have it.
fn code_rows(
    values: &[f32],
    n_cols: usize,
    rate: usize,
    (work, symbols, search): (&mut Vec<f32>, &mut Vec<u8>, &mut trellis::Work),
    (paths, gains): (&mut Writer, &mut Vec<f64>),
) -> Option<()> {
    let code = Code::new(rate);
    let before = symbols.len();
    let powers = find(values, n_cols, &code, (&mut *work, &mut *symbols, search));
    let mut path = Vec::new();
    let readable = code.write(&symbols[before..], &mut path);
    for ((row, values), power) in values.chunks_exact(n_cols).enumerate().zip(powers) {
        work.resize(n_cols, 0.0);
        code.values(readable, row * n_cols, work);
        gains.push(gains::unbiased(values, power, work));
    }
    if Code::path_len(rate, values.len()).is_none() {
        paths.varint(path.len() as u32);
    }
    (path.len() <= rates::max_path_len(values.len())).then(|| paths.0.extend(path))
}

/// Appends the symbols of the path of rows, each brought to unit power; returns the rows' powers.
fn find(
    values: &[f32],
    n_cols: usize,
    code: &Code,
    (work, symbols, search): (&mut Vec<f32>, &mut Vec<u8>, &mut trellis::Work),
) -> Vec<f64> {
    let mut state = 0;
    let block = code.block();
    work.clear();
    let mut powers = Vec::with_capacity(values.len() / n_cols);
    for row in values.chunks_exact(n_cols) {
        let power = quantise::sum_squares(row);
        powers.push(power);
        let scale = if power == 0.0 { 0.0 } else { (n_cols as f64 / power).sqrt() };
        if (1e-30..1e30).contains(&scale) {
            let scale = scale as f32;
            work.extend(row.iter().map(|v| v * scale));
        } else {
            work.extend(row.iter().map(|v| (f64::from(*v) * scale) as f32));
        }
        let whole = work.len() - work.len() % block;
        if whole > 0 {
            for values in work[..whole].chunks_exact(block) {
                state = trellis::encode(code, values, state, search, symbols);
            }
            work.drain(..whole);
        }
    }
    work.resize(work.len().next_multiple_of(code.width()), 0.0);
    trellis::encode(code, work, state, search, symbols);
    powers
}

/// A payload taken apart.
struct Fields<'a> {
    rates: Rates,
    distance: usize,
    exponent: i16,
    side: Stored<'a>,
    /// Bytes of the settings.
    n_settings: usize,
    /// One for the rows of each rate.
    paths: Vec<&'a [u8]>,
    /// Bytes of the paths, with their lengths.
    n_paths: usize,
}

impl<'a> Fields<'a> {
    fn read(payload: &'a [u8], target: &Target) -> Result<Self> {
        let mut r = Reader::new(payload);
        let (first, flags, exponent) = (rate_code(r.u8()?)?, r.u8()?, r.u16()? as i16);
        let distance = usize::from(flags & 3);
        let has = |flag| flags & flag != 0;
        if flags & !(3 | TWO_RATES | HAS_DIRECTIONS | SIDE_CODED) != 0 {
            return Err(Error::corrupt("flags of a trellis are unknown"));
        }
        if !gains::EXPONENTS.contains(&exponent) {
            return Err(Error::corrupt("exponent of gains is out of range"));
        }
        let n_rows = target.n_rows;
        let mut rates = Rates { first, second: first, n_first: n_rows, n_rows };
        if has(TWO_RATES) {
            (rates.second, rates.n_first) = (rate_code(r.u8()?)?, r.varint()? as usize);
            if !(1..n_rows).contains(&rates.n_first) {
                return Err(Error::corrupt("a trellis has a rate for no row"));
            }
        }
        let n_settings = payload.len() - r.left();
        let side = Stored::read(&mut r, target, (has(HAS_DIRECTIONS), has(SIDE_CODED)))?;
        let (mut paths, n_left) = (Vec::new(), r.left());
        for (rate, rows) in rates.parts() {
            let n = match Code::path_len(rate, rows.len() * target.n_cols) {
                Some(n) => n,
                None => r.varint()? as usize,
            };
            paths.push(r.take(n)?);
        }
        r.end()?;
        Ok(Self { rates, distance, exponent, side, n_settings, paths, n_paths: n_left })
    }
}

fn rate_code(stored: u8) -> Result<usize> {
    let code = usize::from(stored);
    if code < trellis::N_RATES {
        return Ok(code);
    }
    Err(Error::corrupt("rate of a trellis is out of range"))
}

impl Codec for Trellis {
    fn id(&self) -> CodecId {
        CodecId::Trellis
    }

    fn max_len(&self, target: &Target) -> usize {
        let paths = rates::max_path_len(target.n_elements()) + rates::max_path_len(0);
        HEADER + 1 + VARINT + side::max_len(target) + paths
    }

    fn decode(
        &self,
        payload: &[u8],
        target: &Target,
        base: Option<Operand<'_>>,
        scratch: &mut Scratch,
        out: &mut [u8],
    ) -> Result<()> {
        scratch.has_symbols = false;
        decode(payload, target, base, scratch, out)
    }

    fn decode_encoded(
        &self,
        payload: &[u8],
        target: &Target,
        base: Option<Operand<'_>>,
        scratch: &mut Scratch,
        out: &mut [u8],
    ) -> Result<()> {
        decode(payload, target, base, scratch, out)?;
        scratch.has_symbols = false;
        Ok(())
    }

    fn parts(&self, payload: &[u8], target: &Target) -> Result<Parts> {
        let Fields { n_settings, n_paths, .. } = Fields::read(payload, target)?;
        let n_side = payload.len() - n_settings - n_paths;
        Ok(vec![(Part::Scales, n_settings), (Part::Scales, n_side), (Part::Codes, n_paths)])
    }
}

/// Writes the restored tile. Entropy-coded paths are not read if their symbols are still there.
fn decode(
    payload: &[u8],
    target: &Target,
    base: Option<Operand<'_>>,
    scratch: &mut Scratch,
    out: &mut [u8],
) -> Result<()> {
    let base = base.ok_or_else(|| Error::corrupt("a trellis without a base"))?;
    let fields = Fields::read(payload, target)?;
    let Scratch { bytes: points, strip, codes: symbols, kept: gains, draws, .. } = scratch;
    let factors = fields.side.decode(target, gains)?;
    let levels = gains::levels(fields.exponent, PER_OCTAVE[fields.distance]);
    let n_cols = target.n_cols;
    let mut known = if scratch.has_symbols { &symbols[..] } else { &[] };
    for ((rate, part), path) in fields.rates.parts().zip(&fields.paths) {
        let code = Code::new(rate);
        let n = part.len() * n_cols;
        let n_symbols = n.div_ceil(code.width());
        let path = match known.split_at_checked(n_symbols) {
            Some((of_part, others)) => {
                known = others;
                let written = code.written(of_part, path);
                debug_assert_eq!(code.read(path, n, points), Some(written));
                written
            }
            None => code
                .read(path, n, points)
                .ok_or_else(|| Error::corrupt("path of a trellis is not one"))?,
        };
        for (_, inner) in strips(part.len(), rows_in_cache(n_cols)) {
            let rows = part.start + inner.start..part.start + inner.end;
            let n = rows.len() * n_cols;
            if strip.len() < n {
                strip.resize(n, 0.0);
            }
            let strip = &mut strip[..n];
            code.values(path, inner.start * n_cols, strip);
            for (row, delta) in rows.clone().zip(strip.chunks_exact_mut(n_cols)) {
                mask::flip_signs(target.place, row, draws, delta);
                let gain = levels[usize::from(gains[row])];
                delta.iter_mut().for_each(|v| *v *= gain);
            }
            low_rank::add_rows(&factors, rows.clone(), fields.side.step, strip);
            target.add_rows(base, &rows, strip, out);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::kernel::random;
    use crate::tensor::DType;
    use proptest::prelude::*;
    use std::ops::Range;

    const PLACE: MaskPlace = MaskPlace { key: 77, first_row: 5 };
    /// A quarter of a bit.
    const RATE: usize = 3;
    /// Two bits.
    const FINE: usize = 10;
    const SIZE: (usize, usize) = (6, 101);

    fn target((n_rows, n_cols): (usize, usize)) -> Target {
        Target { dtype: DType::F32, n_rows, n_cols, patch: 1, place: PLACE, gain: 1.0 }
    }

    fn bytes_of(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|v| v.to_le_bytes()).collect()
    }

    /// Sums of four uniform numbers; row i is i + 1 times as wide.
    fn delta((n_rows, n_cols): (usize, usize), seed: u64) -> Vec<f32> {
        let mut draws = vec![0; 4 * n_rows * n_cols];
        random::row_draws(seed, 0, &mut draws);
        let sum = |d: &[u16]| d.iter().map(|d| (f32::from(*d) + 0.5) / 65536.0 - 0.5).sum::<f32>();
        let values = draws.chunks_exact(4).map(sum).enumerate();
        values.map(|(i, x)| x * (i / n_cols + 1) as f32 * 0.001).collect()
    }

    fn encoded(values: &[f32], (n_rows, n_cols): (usize, usize), rate: usize) -> Option<Vec<u8>> {
        let all = Decisions { first: rate, second: rate, n_first: n_rows, directions: None };
        coded(values, (n_rows, n_cols), &all)
    }

    fn coded(
        values: &[f32],
        (n_rows, n_cols): (usize, usize),
        decisions: &Decisions,
    ) -> Option<Vec<u8>> {
        let (ft, zeros) = (bytes_of(values), vec![0; 4 * values.len()]);
        let operand = |bytes| Operand { dtype: DType::F32, bytes };
        let tile = DeltaTile { ft: operand(&ft), base: operand(&zeros), n_rows, n_cols };
        let mut out = Vec::new();
        encode(&tile, PLACE, decisions, None, &mut Scratch::default(), &mut out)?;
        Some(out)
    }

    /// Two rates and directions of whatever there is.
    fn mixed((n_rows, _): (usize, usize)) -> Decisions {
        let directions = Directions { step: 5e-4, level: 0.0, max_rank: 2 };
        Decisions { first: FINE, second: RATE, n_first: n_rows / 2, directions: Some(directions) }
    }

    /// The restored tile on a base of zeros.
    fn decode(payload: &[u8], size: (usize, usize)) -> Result<Vec<f32>> {
        let target = target(size);
        let zeros = vec![0; 4 * target.n_elements()];
        let base = Operand { dtype: DType::F32, bytes: &zeros };
        let mut out = vec![0; zeros.len()];
        Trellis.decode(payload, &target, Some(base), &mut Scratch::default(), &mut out)?;
        Ok(out.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect())
    }

    #[track_caller]
    fn refused(payload: &[u8], size: (usize, usize)) {
        assert_eq!(decode(payload, size).unwrap_err().kind(), ErrorKind::Corrupt);
    }

    fn dot(a: &[f32], b: &[f32]) -> f64 {
        a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum()
    }

    #[test]
    fn rows_come_back_without_bias_and_with_the_noise_of_the_rate() {
        let size = (24, 2000);
        let values = delta(size, 1);
        for (rate, want) in trellis::NOISE.into_iter().enumerate() {
            let payload = encoded(&values, size, rate).unwrap();
            let back = decode(&payload, size).unwrap();
            let mut noise = 0.0;
            // Half the distance of two gains.
            let widest = 2f64.powf(0.51 / [2.0, 4.0, 8.0, 16.0][usize::from(payload[1] & 3)]) - 1.0;
            for (x, y) in values.chunks_exact(size.1).zip(back.chunks_exact(size.1)) {
                let along = dot(x, y) / dot(x, x);
                assert!((along - 1.0).abs() < widest, "{along} of a row");
                noise += dot(y, y) / dot(x, x) / along.powi(2) - 1.0;
            }
            noise /= size.0 as f64;
            assert!((noise / want - 1.0).abs() < 0.1, "{noise}, not {want}");
            // The path, and less than a byte a row beside it.
            let path = Fields::read(&payload, &target(size)).unwrap().n_paths;
            assert!((path + HEADER).abs_diff(path_bytes(size, (rate, 0, size.0))) <= path / 64);
            let gains = payload.len() - path - HEADER;
            assert!(gains <= size.0, "{gains}");
            let parts = [HEADER, gains, path];
            let got = Trellis.parts(&payload, &target(size)).unwrap();
            assert_eq!(got.iter().map(|p| p.1).collect::<Vec<_>>(), parts);
        }
    }

    /// Noise and three directions of many times its power.
    fn with_directions((n_rows, n_cols): (usize, usize), seed: u64) -> Vec<f32> {
        let mut values = delta((1, n_rows * n_cols), seed);
        for c in 0..3 {
            let sides = delta((1, n_rows + n_cols), seed + 1 + c);
            let (left, right) = sides.split_at(n_rows);
            for (row, l) in values.chunks_exact_mut(n_cols).zip(left) {
                row.iter_mut().zip(right).for_each(|(x, r)| *x += 5000.0 * l * r);
            }
        }
        values
    }

    /// Next to nothing but two directions.
    fn two_directions((n_rows, n_cols): (usize, usize)) -> Vec<f32> {
        let sides = delta((2, n_rows + n_cols), 5);
        let mut values = delta((1, n_rows * n_cols), 6);
        for (i, x) in values.iter_mut().enumerate() {
            let side =
                |k: usize| sides[k * (n_rows + n_cols)..][..n_rows + n_cols].split_at(n_rows);
            let of = |(left, right): (&[f32], &[f32])| left[i / n_cols] * right[i % n_cols];
            *x = 0.01 * *x + 10_000.0 * (of(side(0)) + 0.02 * of(side(1)));
        }
        values
    }

    #[test]
    fn directions_are_kept_apart_from_the_noise() {
        let size = (96, 200);
        let values = with_directions(size, 7);
        let step = Directions { step: 0.002, level: 2e-8, max_rank: 64 };
        let one = Decisions { first: RATE, second: RATE, n_first: size.0, directions: None };
        let with = Decisions { directions: Some(step), ..one };
        let error = |decisions: &Decisions| {
            let payload = coded(&values, size, decisions).unwrap();
            let back = decode(&payload, size).unwrap();
            let rest: Vec<f32> = values.iter().zip(back).map(|(x, y)| x - y).collect();
            (payload.len(), dot(&rest, &rest))
        };
        let ((plain, before), (more, after)) = (error(&one), error(&with));
        assert!(after < before / 20.0, "{after} {before}");
        let (ft, zeros) = (bytes_of(&values), vec![0; 4 * values.len()]);
        let operand = |bytes| Operand { dtype: DType::F32, bytes };
        let (n_rows, n_cols) = size;
        let tile = DeltaTile { ft: operand(&ft), base: operand(&zeros), n_rows, n_cols };
        let scratch = &mut Scratch::default();
        let (got, right) = survey(&tile, |_| Some(step), scratch).unwrap();
        let mut again = Vec::new();
        encode(&tile, PLACE, &with, Some(&right), scratch, &mut again).unwrap();
        assert!(!right.is_empty() && Some(again) == coded(&values, size, &with));
        assert!((got.energy / dot(&values, &values) - 1.0).abs() < 1e-6);
        assert!(got.residual < got.energy / 20.0 && got.log_spread < 0.2, "{got:?}");
        // The gains differ, the rest of the payload does not.
        assert!(more.abs_diff(plain + got.factor_bytes) <= n_rows);
        let (without, _) = survey(&tile, |_| None, scratch).unwrap();
        assert_eq!(
            without,
            TileNeeds {
                residual: got.energy,
                log_spread: without.log_spread,
                factor_bytes: 0,
                ..got
            }
        );
        assert!(without.log_spread > 0.3, "{without:?}");
    }

    #[test]
    fn what_is_added_to_equal_rows_is_not_equal() {
        let (row, n_rows) = (delta((1, 3000), 4), 8);
        let back =
            decode(&encoded(&row.repeat(n_rows), (n_rows, 3000), RATE).unwrap(), (n_rows, 3000));
        let noise = |y: &[f32]| y.iter().zip(&row).map(|(y, x)| y - x).collect::<Vec<f32>>();
        let noises: Vec<_> = back.unwrap().chunks_exact(3000).map(noise).collect();
        for (i, a) in noises.iter().enumerate() {
            for b in &noises[..i] {
                let cosine = dot(a, b) / (dot(a, a) * dot(b, b)).sqrt();
                assert!(cosine.abs() < 0.08, "{cosine}");
            }
        }
    }

    #[test]
    fn rows_of_zeros_are_the_base_and_no_number_is_refused() {
        let mut values = delta(SIZE, 2);
        values[101..202].fill(0.0);
        let back = decode(&encoded(&values, SIZE, RATE).unwrap(), SIZE).unwrap();
        assert!(back[101..202].iter().all(|x| *x == 0.0) && back[..101].iter().all(|x| *x != 0.0));
        let zeros = vec![0.0; values.len()];
        assert_eq!(decode(&encoded(&zeros, SIZE, RATE).unwrap(), SIZE).unwrap(), zeros);
        let payload = coded(&zeros, SIZE, &mixed(SIZE)).unwrap();
        assert_eq!((payload[1] & HAS_DIRECTIONS, decode(&payload, SIZE).unwrap()), (0, zeros));
        for wrong in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            values[150] = wrong;
            assert_eq!(encoded(&values, SIZE, RATE), None);
            assert_eq!(coded(&values, SIZE, &mixed(SIZE)), None);
        }
    }

    #[test]
    fn the_largest_and_smallest_deltas_stay_numbers() {
        for scale in [f32::MAX / 16.0, 1e30, 1e-20, 1e-36, f32::from_bits(1)] {
            let values: Vec<f32> = delta(SIZE, 3).iter().map(|x| x * 1000.0 * scale).collect();
            let step = Directions { step: scale, level: 0.0, max_rank: 6 };
            for directions in [None, Some(step)] {
                let decisions = Decisions { directions, ..mixed(SIZE) };
                let back = decode(&coded(&values, SIZE, &decisions).unwrap(), SIZE).unwrap();
                assert!(back.iter().all(|x| x.is_finite()));
                let exact = (1e-30..=1e30).contains(&scale);
                assert!(!exact || (dot(&values, &back) / dot(&values, &values) - 1.0).abs() < 0.05);
            }
        }
    }

    #[test]
    fn gains_of_many_rows_are_entropy_coded() {
        let size = (400, 256);
        let values: Vec<f32> = delta((1, 256), 8).repeat(size.0);
        let mut payload = encoded(&values, size, RATE).unwrap();
        let fields = Fields::read(&payload, &target(size)).unwrap();
        let n_side = payload.len() - fields.n_settings - fields.n_paths;
        assert!(payload[1] & SIDE_CODED > 0 && n_side < 150, "{n_side} bytes");
        let mut codes = Vec::new();
        fields.side.decode(&target(size), &mut codes).unwrap();
        let (code, levels) = (Code::new(RATE), gains::levels(fields.exponent, 4));
        let (mut word, mut draws) = ([0.0; 256], Vec::new());
        let back = decode(&payload, size).unwrap();
        for (row, y) in back.chunks_exact(256).enumerate() {
            code.values(fields.paths[0], row * 256, &mut word);
            mask::flip_signs(PLACE, row, &mut draws, &mut word);
            assert!(y.iter().zip(word).all(|(y, c)| *y == c * levels[usize::from(codes[row])]));
        }
        for cut in [0, 4, 300] {
            refused(&payload[..payload.len() - cut - 1], size);
        }
        // The length of the stream, and a deviation there is not.
        let n = payload[6];
        for (at, wrong) in [(6, n.wrapping_sub(1)), (6, n.wrapping_add(1)), (4, 32), (4, 255)] {
            let right = std::mem::replace(&mut payload[at], wrong);
            refused(&payload, size);
            payload[at] = right;
        }
    }

    #[test]
    fn rows_have_the_rate_that_was_chosen_for_them() {
        let size = (40, 500);
        let values = delta(size, 12);
        let decisions = Decisions { n_first: 10, directions: None, ..mixed(size) };
        let payload = coded(&values, size, &decisions).unwrap();
        let back = decode(&payload, size).unwrap();
        let error = |rows: Range<usize>| {
            let part = rows.start * 500..rows.end * 500;
            let rest: Vec<f32> =
                values[part.clone()].iter().zip(&back[part.clone()]).map(|(x, y)| x - y).collect();
            dot(&rest, &rest) / dot(&values[part.clone()], &values[part])
        };
        let [want, after] = [trellis::NOISE[FINE], trellis::NOISE[RATE]];
        assert!((error(0..10) / want - 1.0).abs() < 0.1, "{}", error(0..10));
        assert!((error(10..40) / after - 1.0).abs() < 0.1, "{}", error(10..40));
        // Two bits for 10 rows, a quarter for 30.
        let want = HEADER + 2 + 10 * 125 + 30 * 500 / 32;
        assert!(path_bytes(size, (FINE, RATE, 10)).abs_diff(want) < 50);
        let one = |rate| Decisions { first: rate, second: rate, ..decisions };
        for (n_first, rate) in [(0, RATE), (40, FINE), (41, FINE), (usize::MAX, FINE)] {
            let both = coded(&values, size, &Decisions { n_first, ..decisions }).unwrap();
            assert_eq!(both, coded(&values, size, &one(rate)).unwrap());
            assert_eq!(path_bytes(size, (FINE, RATE, n_first)), path_bytes(size, (rate, rate, 7)));
        }
    }

    #[test]
    fn hostile_directions_and_second_rates_are_refused() {
        let payload = coded(&two_directions(SIZE), SIZE, &mixed(SIZE)).unwrap();
        assert_eq!(payload[1] & (TWO_RATES | HAS_DIRECTIONS), TWO_RATES | HAS_DIRECTIONS);
        assert_eq!((payload[4], payload[5], payload[10]), (RATE as u8, 3, 2));
        let with = |at: usize, bytes: &[u8]| {
            let mut wrong = payload.clone();
            wrong[at..at + bytes.len()].copy_from_slice(bytes);
            wrong
        };
        for rate in [23, 127, 255] {
            refused(&with(4, &[rate]), SIZE);
        }
        for n_first in [0, 6, 7, 127, 255] {
            refused(&with(5, &[n_first]), SIZE);
        }
        for step in [0.0, -1.0, 1e31, 1e-31, f32::NAN, f32::INFINITY] {
            refused(&with(6, &step.to_le_bytes()), SIZE);
        }
        for rank in [0, 1, 3, 6, 7, 64, 127, 255] {
            refused(&with(10, &[rank]), SIZE);
        }
        for flag in [TWO_RATES, HAS_DIRECTIONS, SIDE_CODED, 1 << 5, 1 << 6, 1 << 7] {
            refused(&with(1, &[payload[1] ^ flag]), SIZE);
        }
        for cut in 0..payload.len() {
            refused(&payload[..cut], SIZE);
        }
        refused(&[&payload[..], &[0]].concat(), SIZE);
    }

    #[test]
    fn settings_out_of_range_cuts_and_additions_are_refused() {
        let payload = encoded(&delta(SIZE, 5), SIZE, RATE).unwrap();
        let with = |at: usize, bytes: &[u8]| {
            let mut wrong = payload.clone();
            wrong[at..at + bytes.len()].copy_from_slice(bytes);
            wrong
        };
        for rate in [0, 2, 4, 5, 10, 22, 23, 255] {
            refused(&with(0, &[rate]), SIZE);
        }
        for flags in 4..=255 {
            refused(&with(1, &[flags]), SIZE);
        }
        for exponent in [-101i16, 121, i16::MIN, i16::MAX] {
            refused(&with(2, &exponent.to_le_bytes()), SIZE);
        }
        refused(&payload, (SIZE.0 - 1, SIZE.1));
        refused(&payload, (SIZE.0 + 1, SIZE.1));
        for cut in 0..payload.len() {
            refused(&payload[..cut], SIZE);
            assert!(Trellis.parts(&payload[..cut], &target(SIZE)).is_err());
        }
        refused(&[&payload[..], &[0]].concat(), SIZE);
        let mut out = vec![0; 4 * SIZE.0 * SIZE.1];
        let scratch = &mut Scratch::default();
        let no_base = Trellis.decode(&payload, &target(SIZE), None, scratch, &mut out);
        assert_eq!(no_base.unwrap_err().kind(), ErrorKind::Corrupt);
    }

    /// The codes by rate.
    fn codes_by_rate() -> &'static [Code] {
        static CODES: std::sync::OnceLock<Vec<Code>> = std::sync::OnceLock::new();
        CODES.get_or_init(|| (0..trellis::N_RATES).map(Code::new).collect())
    }

    #[test]
    fn what_was_just_encoded_is_decoded_as_any_reader_does() {
        let target = target(SIZE);
        let zeros = vec![0; 4 * target.n_elements()];
        fn operand(bytes: &[u8]) -> Operand<'_> {
            Operand { dtype: DType::F32, bytes }
        }
        let mut scratch = Scratch::default();
        for (first, second, n_first) in
            [(FINE, FINE, 6), (FINE, RATE, 3), (RATE, FINE, 2), (RATE, 0, 4)]
        {
            let ft = bytes_of(&two_directions(SIZE));
            let (ft, base, (n_rows, n_cols)) = (operand(&ft), operand(&zeros), SIZE);
            let tile = DeltaTile { ft, base, n_rows, n_cols };
            let decisions = Decisions { first, second, n_first, ..mixed(SIZE) };
            let mut payload = Vec::new();
            encode(&tile, PLACE, &decisions, None, &mut scratch, &mut payload).unwrap();
            assert!(scratch.has_symbols);
            let (mut at_once, mut read) = (zeros.clone(), zeros.clone());
            Trellis
                .decode_encoded(&payload, &target, Some(base), &mut scratch, &mut at_once)
                .unwrap();
            assert!(!scratch.has_symbols);
            Trellis.decode(&payload, &target, Some(base), &mut scratch, &mut read).unwrap();
            assert_eq!(at_once, read);
            // Symbols of one payload are not taken for another's.
            encode(&tile, PLACE, &decisions, None, &mut scratch, &mut Vec::new()).unwrap();
            let other = Decisions { first: second, second: first, ..decisions };
            let other = coded(&with_directions(SIZE, 1), SIZE, &other).unwrap();
            Trellis.decode(&other, &target, Some(base), &mut scratch, &mut read).unwrap();
            assert_eq!(bytes_of(&decode(&other, SIZE).unwrap()), read);
        }
    }

    proptest! {
        #[test]
        fn tiles_of_any_shape_come_back_as_the_format_says(
            (n_rows, n_cols) in (1usize..24, 1usize..150),
            (first, second) in (0..trellis::N_RATES, 0..trellis::N_RATES),
            n_first in 0usize..24,
            directions in prop::option::of((1e-4f32..0.01, 0f64..1e-6, 0usize..70)),
            seed in 0..u64::MAX - 9,
        ) {
            let (size, target) = ((n_rows, n_cols), target((n_rows, n_cols)));
            let directions =
                directions.map(|(step, level, max_rank)| Directions { step, level, max_rank });
            let decisions = Decisions { first, second, n_first, directions };
            let payload = coded(&with_directions(size, seed), size, &decisions).unwrap();
            prop_assert!(payload.len() <= Trellis.max_len(&target));
            let parts = Trellis.parts(&payload, &target).unwrap();
            prop_assert_eq!(parts.iter().map(|p| p.1).sum::<usize>(), payload.len());
            let plain = path_bytes(size, (first, second, n_first));
            if first.max(second) < 5 {
                prop_assert_eq!(parts[0].1 + parts[2].1, plain);
            }
            let back = decode(&payload, size).unwrap();
            // Each value by itself, from the bytes.
            let fields = Fields::read(&payload, &target).unwrap();
            let mut codes = Vec::new();
            let factors = fields.side.decode(&target, &mut codes).unwrap();
            let levels = gains::levels(fields.exponent, PER_OCTAVE[fields.distance]);
            let step = fields.side.step;
            let of_part = |((rate, rows), path): ((usize, Range<usize>), &&[u8])| {
                let (code, n) = (&codes_by_rate()[rate], rows.len() * n_cols);
                let (mut points, mut out) = (Vec::new(), vec![0.0; n]);
                code.values(code.read(path, n, &mut points).unwrap(), 0, &mut out);
                out
            };
            let words: Vec<f32> = fields.rates.parts().zip(&fields.paths).flat_map(of_part).collect();
            for (i, y) in back.iter().enumerate() {
                let (row, column) = (i / n_cols, i % n_cols);
                let mut draws = vec![0; n_cols];
                random::row_draws(PLACE.key, PLACE.first_row + row as u64, &mut draws);
                let minus = draws[column / 16] >> (column % 16) & 1 == 1;
                let scaled = words[i] * levels[usize::from(codes[row])];
                let mut want = if minus { -scaled } else { scaled };
                for c in 0..factors.rank {
                    let right = &factors.right[c * n_cols..][..n_cols];
                    let squares: i32 = right.iter().map(|q| i32::from(*q) * i32::from(*q)).sum();
                    let left = f32::from(factors.left[c * n_rows + row]);
                    want += left * step / f64::from(squares).sqrt() as f32 * f32::from(right[column]);
                }
                prop_assert_eq!(*y, want);
            }
        }

        #[test]
        fn mutations_never_panic(
            flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
            cut in any::<prop::sample::Index>(),
            directions in prop::option::of(Just(mixed(SIZE).directions.unwrap())),
        ) {
            let decisions = Decisions { directions, ..mixed(SIZE) };
            let mut payload = coded(&two_directions(SIZE), SIZE, &decisions).unwrap();
            for (at, byte) in flips {
                let at = at.index(payload.len().min(60));
                payload[at] = byte;
            }
            for payload in [&payload[..], &payload[..cut.index(payload.len())]] {
                match decode(payload, SIZE) {
                    Ok(back) => prop_assert!(back.iter().all(|x| x.is_finite())),
                    Err(e) => prop_assert_eq!(e.kind(), ErrorKind::Corrupt),
                }
            }
        }
    }
}
