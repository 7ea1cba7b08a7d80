//! The noise level: how much error a weight is to have, on the mean of the squares, before it is known
//! what each matrix gets.
//!
//! Gaussian sources of several variances share bits best if each that is coded at all ends with the
//! same error D and gets `log2(variance / D) / 2` bits (reverse water-filling; Cover and Thomas,
//! Elements of Information Theory, section 10.3). With an unbiased code the error of rate R is
//! `variance / (4^R - 1)`, so that R is `log2(1 + variance / D) / 2`.

use crate::kernel::entropy::log2_of;

/// Halvings of the interval that the level is looked for in, by its logarithm: to about 1e-5.
const HALVINGS: usize = 24;

/// The level at which sources, given by variance and number of elements, take `bits` an element on the
/// mean; 0 if there is nothing to code.
pub(crate) fn noise_level(sources: &[(f64, u64)], bits: f64) -> f64 {
    let sources = || sources.iter().filter(|(variance, _)| *variance > 0.0);
    let n: f64 = sources().map(|(_, n)| *n as f64).sum();
    let greatest = sources().map(|(variance, _)| *variance).fold(0.0, f64::max);
    if n == 0.0 {
        return 0.0;
    }
    let needs = |level: f64| {
        let of = |(variance, n): &(f64, u64)| *n as f64 * log2_of(1.0 + variance / level) / 2.0;
        sources().map(of).sum::<f64>() / n
    };
    // At 2^-24 of the greatest variance that source alone takes twelve bits, at 2^12 of it next to none.
    let (mut low, mut high) = (greatest / f64::from(1 << 24), greatest * f64::from(1 << 12));
    for _ in 0..HALVINGS {
        let middle = (low * high).sqrt();
        if needs(middle) > bits {
            low = middle;
        } else {
            high = middle;
        }
    }
    high
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_source_has_the_error_of_the_best_code() {
        for (bits, noise) in [(0.25, 2.414_2), (0.5, 1.0), (1.0, 1.0 / 3.0), (2.0, 1.0 / 15.0)] {
            let level = noise_level(&[(4.0, 1000)], bits);
            assert!((level / (4.0 * noise) - 1.0).abs() < 1e-4, "{bits}: {level}");
        }
    }

    #[test]
    fn many_sources_take_the_bits_on_the_mean() {
        let sources = [(1e-6, 1 << 20), (9e-6, 1 << 18), (0.0, 1 << 22), (1e-9, 100)];
        for bits in [0.06, 0.5, 3.0] {
            let level = noise_level(&sources, bits);
            let of = |(v, n): &(f64, u64)| *n as f64 * (1.0 + v / level).log2() / 2.0;
            let n = (1 << 20) + (1 << 18) + 100;
            let found = sources.iter().map(of).sum::<f64>() / f64::from(n);
            assert!((found / bits - 1.0).abs() < 1e-3, "{bits}: {found}");
        }
        assert_eq!(noise_level(&[(0.0, 5)], 1.0), 0.0);
        assert_eq!(noise_level(&[], 1.0), 0.0);
    }
}
