//! One gain a row, as codes on a grid of fractions of an octave.

use crate::codec::power_of_two;
use crate::kernel::quantise;

/// A row whose code points away from it, or nearly so, is left as the base's: a gain without bias
/// would add hundreds of times the row's own power.
const LEAST_COSINE: f64 = 0.05;
/// Bounds of the tile's exponent: every gain is then a normal number, and every delta finite.
pub(super) const EXPONENTS: std::ops::RangeInclusive<i16> = -100..=120;
/// Least power of two in a gain: half of it is still a normal number.
const LEAST_POWER: i16 = -125;
/// Gains of an octave, by the stored code of their distance.
pub(super) const PER_OCTAVE: [usize; 4] = [2, 4, 8, 16];
/// 2^(-i/16).
const ROOTS: [f32; 16] = [
    1.0,
    0.957_603_3,
    0.917_004_05,
    0.878_126_1,
    0.840_896_4,
    0.805_245_16,
    0.771_105_4,
    0.738_413_1,
    0.707_106_77,
    0.677_127_8,
    0.648_419_8,
    0.620_928_9,
    0.594_603_54,
    0.569_394_3,
    0.545_253_9,
    0.522_136_87,
];

/// The rows' gains as they are stored.
pub(super) struct Gains {
    pub(super) exponent: i16,
    /// One code a row.
    pub(super) codes: Vec<u8>,
}

impl Gains {
    /// The nearest codes of these gains, `per_octave` to an octave; 0 stays 0.
    pub(super) fn of(gains: &[f64], per_octave: usize) -> Self {
        let most = gains.iter().fold(0.0, |most: f64, g| most.max(*g));
        let exponent =
            (((most.to_bits() >> 52) as i16) - 1022).clamp(*EXPONENTS.start(), *EXPONENTS.end());
        let levels = levels(if most == 0.0 { 0 } else { exponent }, per_octave);
        let borders: Vec<f64> =
            levels[1..].windows(2).map(|l| f64::from(l[0]) * f64::from(l[1])).collect();
        let code = |gain: &f64| match borders.partition_point(|b| gain * gain < *b) as u8 {
            254 if 2.0 * gain < f64::from(levels[255]) => 0,
            n => n + 1,
        };
        Self { exponent, codes: gains.iter().map(code).collect() }
    }
}

/// What each code of a gain stands for.
pub(super) fn levels(exponent: i16, per_octave: usize) -> [f32; 256] {
    let mut levels = [0.0; 256];
    for (i, level) in levels[1..].iter_mut().enumerate() {
        let root = ROOTS[i % per_octave * (ROOTS.len() / per_octave)];
        *level = root * power_of_two((exponent - (i / per_octave) as i16).max(LEAST_POWER));
    }
    levels
}

/// What a row's code is multiplied by to be the row plus what is orthogonal to it; 0 for a row that is
/// left as the base's. `power` is the sum of the row's squares. Codes have unit power, or nearly so.
pub(super) fn unbiased(row: &[f32], power: f64, code: &[f32]) -> f64 {
    let product = quantise::product(row, code);
    let least = LEAST_COSINE * (power * row.len() as f64).sqrt();
    if product > least { power / product } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gains_have_the_nearest_code() {
        for (per_octave, root) in
            [(2, 0.707_106_77), (4, 0.840_896_4), (8, 0.917_004_05), (16, 0.957_603_3)]
        {
            let levels = levels(3, per_octave);
            assert_eq!([levels[0], levels[1]], [0.0, 8.0]);
            assert_eq!([levels[1 + per_octave], levels[1 + 2 * per_octave]], [4.0, 2.0]);
            assert!(levels[1..].windows(2).all(|l| (l[1] / l[0] - root).abs() < 1e-6));
            let gains: Vec<f64> = levels[..50].iter().map(|l| f64::from(*l) * 1.01).collect();
            let stored = Gains::of(&gains[..2], per_octave);
            assert_eq!((stored.exponent, stored.codes), (4, vec![0, 1 + per_octave as u8]));
            let mut gains = gains;
            gains[0] = 15.9;
            let Gains { codes, .. } = Gains::of(&gains, per_octave);
            assert!(codes[1..].iter().zip(1 + per_octave..).all(|(c, i)| usize::from(*c) == i));
        }
    }

    #[test]
    fn the_lowest_levels_are_normal_numbers() {
        for per_octave in PER_OCTAVE {
            let levels = levels(*EXPONENTS.start(), per_octave);
            assert!(levels[1..].iter().all(|l| l.is_normal()));
        }
    }
}
