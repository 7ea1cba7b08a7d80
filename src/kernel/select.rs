//! Which class each patch of a tensor falls into, by the rank of its score.
//!
//! Only the ranking; scores and what a class means belong to the method.

use std::cmp::Ordering;

/// Gives the strongest scores class 0, the next class 1 and so on. Class c gets
/// `round_half_even(n * shares[c])` of the n scores while any are left; the last class gets all
/// that remain. Equal scores rank by index, the lower one stronger; NaN ranks below everything.
pub fn classes_by_rank(scores: &[f64], shares: &[f64], out: &mut [u8]) {
    debug_assert!(scores.len() == out.len() && shares.len() <= 256);
    let n = scores.len().min(out.len());
    let last = shares.len().saturating_sub(1);
    out.fill(last as u8);
    // Only the borders between classes need an order, not the scores inside one.
    let mut order: Vec<u32> = (0..n as u32).collect();
    let mut left = order.as_mut_slice();
    for (class, &share) in shares.iter().take(last).enumerate() {
        // A negative or NaN share casts to 0.
        let n_class = ((n as f64 * share).round_ties_even() as usize).min(left.len());
        if 0 < n_class && n_class < left.len() {
            left.select_nth_unstable_by(n_class - 1, |&i, &j| stronger_first(scores, i, j));
        }
        let (chosen, others) = left.split_at_mut(n_class);
        for &i in chosen.iter() {
            out[i as usize] = class as u8;
        }
        left = others;
    }
}

fn stronger_first(scores: &[f64], i: u32, j: u32) -> Ordering {
    let (a, b) = (scores[i as usize], scores[j as usize]);
    let by_score = b.partial_cmp(&a).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()));
    by_score.then(i.cmp(&j))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(scores: &[f64], shares: &[f64], want: &[u8]) {
        let mut out = vec![99; scores.len()];
        classes_by_rank(scores, shares, &mut out);
        assert_eq!(out, want);
    }

    #[test]
    fn ranks_ties_and_rounding() {
        check(&[1.0, 3.0, 2.0, 4.0], &[0.5, 0.5], &[1, 0, 1, 0]);
        check(&[1.0; 5], &[0.5, 0.5], &[0, 0, 1, 1, 1]);
        check(&[-0.0, 0.0], &[0.5, 0.5], &[0, 1]);
        check(&[f64::NAN, f64::NEG_INFINITY, 0.0], &[0.67, 0.33], &[1, 0, 0]);
        check(&[5.0, 4.0, 3.0], &[0.34, 0.33, 0.33], &[0, 1, 2]);
        check(&[5.0, 4.0, 3.0], &[2.0, 9.0], &[0, 0, 0]);
        check(&[5.0, 4.0], &[0.0, 0.0], &[1, 1]);
        check(&[5.0, 4.0], &[1.0], &[0, 0]);
        check(&[5.0, 4.0], &[], &[0, 0]);
        check(&[], &[0.5, 0.5], &[]);
    }

    proptest! {
        #[test]
        fn agrees_with_a_full_sort(
            scores in prop::collection::vec(prop_oneof![Just(1.0), Just(f64::NAN), -9.0..9.0], 0..80),
            shares in prop::collection::vec(0.0..0.7f64, 1..5),
        ) {
            let mut order: Vec<usize> = (0..scores.len()).collect();
            order.sort_by(|&i, &j| {
                let key = |k: usize| if scores[k].is_nan() { f64::NEG_INFINITY } else { scores[k] };
                key(j).total_cmp(&key(i))
            });
            let mut want = vec![shares.len() as u8 - 1; scores.len()];
            let mut next = 0;
            for (class, share) in shares[..shares.len() - 1].iter().enumerate() {
                let n = (scores.len() as f64 * share).round_ties_even() as usize;
                let end = (next + n).min(scores.len());
                order[next..end].iter().for_each(|&i| want[i] = class as u8);
                next = end;
            }
            let mut out = vec![99; scores.len()];
            classes_by_rank(&scores, &shares, &mut out);
            prop_assert_eq!(out, want);
        }
    }
}
