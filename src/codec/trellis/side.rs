//! The small numbers beside the paths, as they are stored: codes of directions and of gains, in one
//! entropy-coded stream, or a byte each where that is shorter.

use crate::codec::Target;
use crate::codec::trellis::directions::{STEPS, greatest_rank};
use crate::error::{Error, Result};
use crate::kernel::low_rank::Factors;
use crate::kernel::normal;
use crate::wire::{Reader, Writer};

/// Stands for a gain of 0 among gains less their centre.
const NO_GAIN: i8 = i8::MIN;

/// Bytes that directions add to a payload, but for the rounding of the stream to bytes.
pub(super) fn factor_bytes(factors: &Factors) -> usize {
    if factors.rank == 0 {
        return 0;
    }
    let bits: f64 = runs(factors).map(|run| normal::best_deviation(run).1).sum();
    4 + 1 + 2 * factors.rank + (bits / 8.0) as usize
}

/// Each direction's right codes, then its left ones.
fn runs(factors: &Factors) -> impl Iterator<Item = &[i8]> {
    let rank = factors.rank.max(1);
    let (n_cols, n_rows) = (factors.right.len() / rank, factors.left.len() / rank);
    let pairs =
        factors.right.chunks_exact(n_cols.max(1)).zip(factors.left.chunks_exact(n_rows.max(1)));
    pairs.flat_map(|(right, left)| [right, left])
}

/// Codes of gains less their centre, and the centre; `None` if some lie too far from it.
fn centred(gains: &[u8]) -> Option<(u8, Vec<i8>)> {
    let (mut n, mut sum) = (0, 0);
    for code in gains.iter().filter(|code| **code > 0) {
        (n, sum) = (n + 1, sum + usize::from(*code));
    }
    let centre = (sum + n / 2).checked_div(n).unwrap_or(0) as u8;
    let less = |code: &u8| match code {
        0 => Some(NO_GAIN),
        code => i8::try_from(i16::from(*code) - i16::from(centre)).ok().filter(|x| *x != NO_GAIN),
    };
    Some((centre, gains.iter().map(less).collect::<Option<_>>()?))
}

/// Writes directions, if there are any, and gains; returns whether they are entropy coded.
pub(super) fn write(factors: &Factors, step: f32, gains: &[u8], w: &mut Writer) -> bool {
    if factors.rank > 0 {
        w.u32(step.to_bits());
        w.varint(factors.rank as u32);
    }
    let plain = factors.right.len() + factors.left.len() + gains.len();
    if let Some((centre, gains)) = centred(gains) {
        let all = runs(factors).chain([&gains[..]]);
        let all: Vec<_> = all.map(|run| (normal::best_deviation(run).0, run)).collect();
        let mut coded = Writer::default();
        all.iter().for_each(|(deviation, _)| coded.u8(*deviation));
        coded.u8(centre);
        let mut stream = Vec::new();
        normal::encode(&all, &mut stream);
        coded.varint(stream.len() as u32);
        if coded.0.len() + stream.len() < plain {
            w.0.extend(coded.0);
            w.0.extend(stream);
            return true;
        }
    }
    w.0.extend(runs(factors).flatten().map(|code| *code as u8));
    w.0.extend(gains);
    false
}

/// The same as a reader finds it.
pub(super) struct Stored<'a> {
    /// 0 without directions.
    pub(super) step: f32,
    rank: usize,
    /// Deviations of all runs and the centre of the gains, if they are entropy coded.
    head: Option<&'a [u8]>,
    bytes: &'a [u8],
}

impl<'a> Stored<'a> {
    pub(super) fn read(
        r: &mut Reader<'a>,
        target: &Target,
        (has_directions, is_coded): (bool, bool),
    ) -> Result<Self> {
        let (mut step, mut rank) = (0.0, 0);
        if has_directions {
            (step, rank) = (f32::from_bits(r.u32()?), r.varint()? as usize);
            if !STEPS.contains(&step) {
                return Err(Error::corrupt("step of directions is out of range"));
            }
            if !(1..=greatest_rank(target.n_rows, target.n_cols)).contains(&rank) {
                return Err(Error::corrupt("a tile has more directions than it can"));
            }
        }
        let (head, n) = if is_coded {
            let head = r.take(2 * rank + 2)?;
            if head[..2 * rank + 1].iter().any(|d| *d >= normal::N_DEVIATIONS) {
                return Err(Error::corrupt("deviation of codes is out of range"));
            }
            (Some(head), r.varint()? as usize)
        } else {
            (None, rank * (target.n_rows + target.n_cols) + target.n_rows)
        };
        Ok(Self { step, rank, head, bytes: r.take(n)? })
    }

    /// The directions, and the codes of the gains in `gains`.
    pub(super) fn decode(&self, target: &Target, gains: &mut Vec<u8>) -> Result<Factors> {
        let (n_rows, n_cols) = (target.n_rows, target.n_cols);
        let mut codes: Vec<i8> = Vec::new();
        gains.clear();
        let n_factors = self.rank * (n_rows + n_cols);
        match self.head {
            Some([deviations @ .., of_gains, centre]) => {
                let lengths = [n_cols, n_rows].into_iter().cycle();
                let runs = deviations.iter().copied().zip(lengths).chain([(*of_gains, n_rows)]);
                if !normal::decode(self.bytes, &runs.collect::<Vec<_>>(), &mut codes) {
                    return Err(Error::corrupt("directions and gains are not those of the tile"));
                }
                let plus = |code: &i8| match *code {
                    NO_GAIN => Some(0),
                    code => u8::try_from(i16::from(*centre) + i16::from(code)).ok(),
                };
                let all = codes[n_factors..].iter().map(plus).collect::<Option<Vec<_>>>();
                gains.extend(all.ok_or_else(|| Error::corrupt("a gain is out of range"))?);
            }
            _ => {
                codes.extend(self.bytes[..n_factors].iter().map(|byte| *byte as i8));
                gains.extend(&self.bytes[n_factors..]);
            }
        }
        let mut factors = Factors { rank: self.rank, ..Factors::default() };
        for pair in codes[..n_factors].chunks_exact(n_rows + n_cols) {
            let (right, left) = pair.split_at(n_cols);
            factors.right.extend(right);
            factors.left.extend(left);
        }
        Ok(factors)
    }
}

/// Most bytes [`write()`] adds.
pub(super) fn max_len(target: &Target) -> usize {
    // Coded, they take less than a byte each.
    let rank = greatest_rank(target.n_rows, target.n_cols);
    4 + 1 + rank * (target.n_rows + target.n_cols) + target.n_rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gains_lie_about_their_centre_or_are_kept_as_they_are() {
        assert_eq!(centred(&[5, 7, 0, 9]), Some((7, vec![-2, 0, NO_GAIN, 2])));
        assert_eq!(centred(&[0, 0]), Some((0, vec![NO_GAIN; 2])));
        assert_eq!(centred(&[]), Some((0, Vec::new())));
        assert_eq!(centred(&[1, 1, 1, 255]), None);
    }

    #[test]
    fn directions_take_the_bytes_that_were_said() {
        let codes = |n: usize, k: i32| -> Vec<i8> {
            (0..n as i32).map(|i| (i * i % 7 - 3 + k) as i8).collect()
        };
        let factors = Factors { rank: 2, right: codes(400, 0), left: codes(600, 1) };
        let gains: Vec<u8> = (0..300u32).map(|i| (20 + i * i % 5) as u8).collect();
        let len = |factors: &Factors| {
            let mut w = Writer::default();
            assert!(write(factors, 1.0, &gains, &mut w));
            w.0.len()
        };
        let added = len(&factors) - len(&Factors::default());
        assert!(added.abs_diff(factor_bytes(&factors)) <= 2, "{added} {}", factor_bytes(&factors));
    }
}
