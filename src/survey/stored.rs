//! What surveys found as bytes, for the journal of a run that may be cut off (`archive/writer`). Not part of
//! any archive: another version of the program need not read them.

use crate::codec::trellis::TileNeeds;
use crate::error::{Error, Result};
use crate::survey::TileStats;
use crate::wire::{Reader, Writer};

/// Size of a tile: rows, columns, and the side of its patches.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TileSize {
    pub(crate) n_rows: usize,
    pub(crate) n_cols: usize,
    /// At least 1.
    pub(crate) patch: usize,
}

impl TileStats {
    /// What is read back by [`Self::parse`]; `None` for what takes too much room to be kept tile by tile. What
    /// is held for the encode is left out: a run that resumes finds it again.
    pub(crate) fn to_bytes(&self) -> Result<Option<Vec<u8>>> {
        let mut w = Writer::default();
        match self {
            TileStats::NonFinite => w.u8(0),
            TileStats::Patches { scores, sum_abs } => {
                w.u8(1);
                w.f64(*sum_abs);
                w.count(scores.len())?;
                scores.iter().for_each(|score| w.f64(*score));
            }
            TileStats::Magnitude(magnitude, _) => {
                w.u8(2);
                w.f64(*magnitude);
            }
            TileStats::Residual { sum_abs, sum_squares, along_sign } => {
                w.u8(3);
                [sum_abs, sum_squares, along_sign].into_iter().for_each(|sum| w.f64(*sum));
            }
            TileStats::Range { low, high } => {
                w.u8(4);
                w.u32(low.to_bits());
                w.u32(high.to_bits());
            }
            TileStats::Spread { bounds, sums } => {
                w.u8(5);
                w.u32(bounds.0.to_bits());
                w.u32(bounds.1.to_bits());
                w.f64(sums.0);
                w.f64(sums.1);
            }
            TileStats::Counts(counts) => {
                w.u8(6);
                w.count(counts.len())?;
                counts.iter().for_each(|n| w.u32(*n));
            }
            TileStats::Needs(needs, _) => {
                w.u8(7);
                [needs.n_rows, needs.n_cols, needs.factor_bytes]
                    .into_iter()
                    .for_each(|n| w.u64(n as u64));
                [needs.energy, needs.residual, needs.log_spread].into_iter().for_each(|x| w.f64(x));
            }
            TileStats::TraceNorm(norm) => {
                w.u8(8);
                w.f64(*norm);
            }
            TileStats::Survivors { .. } => return Ok(None),
        }
        Ok(Some(w.0))
    }

    /// What a survey found in a tile of this size.
    ///
    /// # Errors
    /// `Corrupt` if no survey finds that in such a tile.
    pub(crate) fn parse(bytes: &[u8], size: TileSize) -> Result<Self> {
        let r = &mut Reader::new(bytes);
        let stats = match r.u8()? {
            0 => TileStats::NonFinite,
            1 => {
                let sum_abs = r.f64()?;
                let n = r.count(8)?;
                let scores = (0..n).map(|_| r.f64()).collect::<Result<_>>()?;
                TileStats::Patches { scores, sum_abs }
            }
            2 => TileStats::Magnitude(r.f64()?, None),
            3 => TileStats::Residual {
                sum_abs: r.f64()?,
                sum_squares: r.f64()?,
                along_sign: r.f64()?,
            },
            4 => TileStats::Range { low: f32(r)?, high: f32(r)? },
            5 => TileStats::Spread { bounds: (f32(r)?, f32(r)?), sums: (r.f64()?, r.f64()?) },
            6 => {
                let n = r.count(4)?;
                TileStats::Counts((0..n).map(|_| r.u32()).collect::<Result<_>>()?)
            }
            7 => {
                let [n_rows, n_cols, factor_bytes] =
                    [r.u64()?, r.u64()?, r.u64()?].map(|n| n as usize);
                let [energy, residual, log_spread] = [r.f64()?, r.f64()?, r.f64()?];
                TileStats::Needs(
                    TileNeeds { n_rows, n_cols, energy, residual, factor_bytes, log_spread },
                    None,
                )
            }
            8 => TileStats::TraceNorm(r.f64()?),
            _ => return Err(Error::corrupt("a survey of no known kind")),
        };
        r.end()?;
        if stats.is_of(size) {
            return Ok(stats);
        }
        Err(Error::corrupt("what a survey found is not of its tile"))
    }

    /// Whether a survey may find this in a tile of such a size.
    fn is_of(&self, TileSize { n_rows, n_cols, patch }: TileSize) -> bool {
        let n = n_rows * n_cols;
        let are_finite = |sums: &[f64]| sums.iter().all(|sum| sum.is_finite());
        match self {
            TileStats::NonFinite => true,
            TileStats::Patches { scores, sum_abs } => {
                scores.len() == n_rows.div_ceil(patch) * n_cols.div_ceil(patch)
                    && sum_abs.is_finite()
                    && are_finite(scores)
            }
            TileStats::Magnitude(x, _) | TileStats::TraceNorm(x) => x.is_finite(),
            TileStats::Residual { sum_abs, sum_squares, along_sign } => {
                are_finite(&[*sum_abs, *sum_squares, *along_sign])
            }
            TileStats::Range { low, high } => low.is_finite() && high.is_finite(),
            TileStats::Spread { bounds, sums } => {
                bounds.0.is_finite() && bounds.1.is_finite() && are_finite(&[sums.0, sums.1])
            }
            TileStats::Counts(counts) => {
                counts.iter().map(|n| u64::from(*n)).sum::<u64>() == n as u64
            }
            TileStats::Needs(needs, _) => {
                let sums = [needs.energy, needs.residual, needs.log_spread];
                (needs.n_rows, needs.n_cols) == (n_rows, n_cols)
                    && are_finite(&sums)
                    && sums.iter().all(|sum| *sum >= 0.0)
                    // Far more than directions ever take: their factors have a byte or two each.
                    && needs.factor_bytes <= 64 * n.max(1 << 20)
            }
            TileStats::Survivors { .. } => false,
        }
    }
}

fn f32(r: &mut Reader<'_>) -> Result<f32> {
    r.u32().map(f32::from_bits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SIZE: TileSize = TileSize { n_rows: 3, n_cols: 20, patch: 16 };

    fn all() -> Vec<TileStats> {
        let needs = TileNeeds {
            n_rows: 3,
            n_cols: 20,
            energy: 2.5,
            residual: 1.5,
            factor_bytes: 7,
            log_spread: 0.25,
        };
        vec![
            TileStats::NonFinite,
            TileStats::Patches { scores: vec![0.5, 7.0], sum_abs: 3.0 },
            TileStats::Magnitude(4.5, None),
            TileStats::Residual { sum_abs: 1.0, sum_squares: 2.0, along_sign: -3.0 },
            TileStats::Range { low: -1.0, high: 0.5 },
            // What is left where no entry is seen.
            TileStats::Range { low: f32::MAX, high: f32::MIN },
            TileStats::Spread { bounds: (-1.5, 2.0), sums: (0.1, 5.0) },
            TileStats::Counts(vec![50, 0, 10, 0]),
            TileStats::Needs(needs, None),
            TileStats::TraceNorm(12.0),
        ]
    }

    #[test]
    fn what_was_found_comes_back() {
        for stats in all() {
            let bytes = stats.to_bytes().unwrap().unwrap();
            assert_eq!(TileStats::parse(&bytes, SIZE).unwrap(), stats);
            (0..bytes.len()).for_each(|n| assert!(TileStats::parse(&bytes[..n], SIZE).is_err()));
            assert!(TileStats::parse(&[bytes, vec![0]].concat(), SIZE).is_err());
        }
        let (positions, codes) = (vec![1], vec![2]);
        let large = TileStats::Survivors { n_rows: 3, n_cols: 20, positions, codes };
        assert_eq!(large.to_bytes().unwrap(), None);
    }

    #[test]
    fn what_no_survey_finds_in_such_a_tile_is_refused() {
        let wider = TileSize { n_cols: 50, ..SIZE };
        for i in [1, 7, 8] {
            let bytes = all()[i].to_bytes().unwrap().unwrap();
            assert!(TileStats::parse(&bytes, wider).is_err(), "{:?}", all()[i]);
        }
        for stats in [
            TileStats::Magnitude(f64::NAN, None),
            TileStats::TraceNorm(f64::INFINITY),
            TileStats::Patches { scores: vec![0.5, f64::NAN], sum_abs: 3.0 },
            TileStats::Range { low: f32::NEG_INFINITY, high: 0.5 },
            TileStats::Spread { bounds: (0.0, 1.0), sums: (f64::NAN, 5.0) },
            TileStats::Residual { sum_abs: 1.0, sum_squares: f64::INFINITY, along_sign: 1.0 },
            TileStats::Needs(
                TileNeeds { n_rows: 3, n_cols: 20, energy: -1.0, ..TileNeeds::default() },
                None,
            ),
            TileStats::Needs(
                TileNeeds {
                    n_rows: 3,
                    n_cols: 20,
                    factor_bytes: usize::MAX,
                    ..TileNeeds::default()
                },
                None,
            ),
        ] {
            let bytes = stats.to_bytes().unwrap().unwrap();
            assert!(TileStats::parse(&bytes, SIZE).is_err(), "{stats:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(stats) = TileStats::parse(&bytes, SIZE) {
                prop_assert_eq!(stats.to_bytes().unwrap().unwrap(), bytes);
            }
        }
    }
}
