//! Mixed sparsity allocation: which share of each matrix is dropped (METHODS section 4.2).

use crate::method::ultradelta::Rates;

/// The official code clamps the rate of the last group to this.
const CLAMP: f64 = 0.99;

/// A matrix as the allocation sees it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spread {
    pub(super) n_elements: u64,
    /// What matrices are ranked by, ascending: the spread of their values.
    pub(super) spread: f64,
}

/// The share of each matrix that is dropped, 0 to 1. Equal spreads keep their order.
pub(super) fn allot(
    matrices: &[Spread],
    (target, step): (f64, f64),
    rates: Rates,
    clamp: bool,
) -> Vec<f64> {
    let mut order: Vec<usize> = (0..matrices.len()).collect();
    order.sort_by(|a, b| matrices[*a].spread.total_cmp(&matrices[*b].spread));
    let mut out = vec![target; matrices.len()];
    match rates {
        Rates::Paper => {
            for (rank, i) in order.into_iter().enumerate() {
                // Three groups as equal as can be.
                let third = rank * 3 / matrices.len().max(1);
                out[i] = target + step * (1.0 - third as f64);
            }
        }
        Rates::Code => by_parameters(matrices, &order, (target, step), clamp, &mut out),
    }
    out
}

/// Thirds of the parameter count; the last third's rate is solved so that the mean is the target.
fn by_parameters(
    matrices: &[Spread],
    order: &[usize],
    (target, step): (f64, f64),
    clamp: bool,
    out: &mut [f64],
) {
    let total: u64 = matrices.iter().map(|m| m.n_elements).sum();
    let (mut seen, mut low, mut last) = (0, 0u64, Vec::new());
    for i in order {
        // A matrix that straddles a border belongs to the next group.
        seen += matrices[*i].n_elements;
        if u128::from(seen) * 3 <= u128::from(total) {
            out[*i] = target + step;
            low += matrices[*i].n_elements;
        } else if u128::from(seen) * 3 > u128::from(total) * 2 {
            last.push(*i);
        }
    }
    let n_last: u64 = last.iter().map(|i| matrices[*i].n_elements).sum();
    let rate = target - step * low as f64 / n_last.max(1) as f64;
    let rate = rate.clamp(0.0, if clamp { CLAMP } else { 1.0 });
    last.into_iter().for_each(|i| out[i] = rate);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spreads(of: &[(u64, f64)]) -> Vec<Spread> {
        of.iter()
            .map(|(n_elements, spread)| Spread { n_elements: *n_elements, spread: *spread })
            .collect()
    }

    #[test]
    fn thirds_are_of_parameters_and_the_mean_is_the_target() {
        let matrices = spreads(&[(100, 3.0), (100, 1.0), (100, 2.0)]);
        let rates = allot(&matrices, (0.9, 0.05), Rates::Code, false);
        assert!(
            rates.iter().zip([0.85, 0.95, 0.9]).all(|(a, b)| (a - b).abs() < 1e-12),
            "{rates:?}"
        );
        // The first is more than a third alone, the second reaches beyond two thirds.
        let matrices = spreads(&[(40, 1.0), (40, 2.0), (20, 3.0)]);
        let rates = allot(&matrices, (0.9, 0.05), Rates::Code, false);
        assert_eq!(rates, [0.9; 3]);
        let matrices = spreads(&[(30, 1.0), (30, 2.0), (40, 3.0)]);
        let rates = allot(&matrices, (0.9, 0.04), Rates::Code, false);
        let mean = rates.iter().zip(&matrices).map(|(r, m)| r * m.n_elements as f64).sum::<f64>();
        assert!((mean / 100.0 - 0.9).abs() < 1e-12 && (rates[2] - 0.87).abs() < 1e-12, "{rates:?}");
    }

    #[test]
    fn the_codes_clamp_breaks_the_target_only_when_asked_for() {
        let matrices = spreads(&[(10, 1.0), (10, 2.0), (10, 3.0)]);
        assert_eq!(allot(&matrices, (0.995, 0.001), Rates::Code, true)[2], 0.99);
        assert!((allot(&matrices, (0.995, 0.001), Rates::Code, false)[2] - 0.994).abs() < 1e-12);
    }

    #[test]
    fn the_papers_groups_are_of_matrices() {
        let matrices = spreads(&[(1, 5.0), (1000, 1.0), (1, 2.0), (1, 3.0)]);
        let rates = allot(&matrices, (0.9, 0.05), Rates::Paper, false);
        let wanted = [0.85, 0.95, 0.95, 0.9];
        assert!(rates.iter().zip(wanted).all(|(a, b)| (a - b).abs() < 1e-12), "{rates:?}");
        assert!(allot(&[], (0.9, 0.05), Rates::Paper, false).is_empty());
    }
}
