//! Which tensors are in which share, and which units a part works on in a round.

use std::ops::Range;

use crate::pipeline::inputs::Inputs;
use crate::pipeline::options::CompressOptions;
use crate::pipeline::parts::joint_passes;
use crate::pipeline::schedule::{Unit, units};

/// The tensors of each of `n` shares: runs in file order of about the same work.
pub(super) fn shares(inputs: &Inputs, options: &CompressOptions, n: u32) -> Vec<Range<usize>> {
    let mut work = vec![0; inputs.pair.items.len()];
    for unit in units(&inputs.pair, options.method.lossy()) {
        // Each pass reads it; a tensor has as many in all of its units.
        work[unit.tensor] = inputs.ft.tensors()[unit.tensor].n_bytes * (unit.n_surveys as u64 + 1);
    }
    cut(&work, n)
}

/// Runs of `n` about equal sums: each has those whose middle lies in its part of the sum.
fn cut(work: &[u64], n: u32) -> Vec<Range<usize>> {
    let total: u128 = work.iter().map(|w| u128::from(*w)).sum();
    let mut before = 0;
    let mut middle = |w: &u64| {
        let middle = 2 * before + u128::from(*w);
        before += u128::from(*w);
        middle
    };
    let middles: Vec<u128> = work.iter().map(&mut middle).collect();
    let n = u128::from(n);
    let start = |k: u128| match k {
        0 => 0,
        _ if k == n => work.len(),
        _ => middles.partition_point(|middle| middle * n < 2 * k * total),
    };
    (0..n).map(|k| start(k)..start(k + 1)).collect()
}

/// What a part does: its share, and which round, from 0.
#[derive(Debug, Clone)]
pub(super) struct Task {
    pub(super) share: Range<usize>,
    pub(super) round: usize,
}

impl Task {
    /// The joint pass that the round ends with; `None` if it encodes.
    pub(super) fn ends_with(&self, options: &CompressOptions) -> Option<usize> {
        joint_passes(options).get(self.round).copied()
    }

    /// Survey passes that earlier rounds did.
    fn n_known(&self, options: &CompressOptions) -> usize {
        let last = self.round.checked_sub(1).and_then(|last| joint_passes(options).get(last));
        last.map_or(0, |pass| pass + 1)
    }

    /// Units of the share, and those of other shares whose surveys the decisions of earlier rounds need.
    pub(super) fn units(&self, inputs: &Inputs, options: &CompressOptions) -> Vec<Unit> {
        let (ends_with, n_known) = (self.ends_with(options), self.n_known(options));
        let mut units = units(&inputs.pair, options.method.lossy());
        units.retain_mut(|unit| {
            let is_own = self.share.contains(&unit.tensor);
            unit.is_kept = !is_own || ends_with.is_some();
            unit.n_surveys = match ends_with {
                _ if !is_own => unit.n_surveys.min(n_known),
                Some(pass) => unit.n_surveys.min(pass + 1),
                None => unit.n_surveys,
            };
            !unit.is_kept || unit.n_surveys > 0
        });
        units
    }

    /// Units whose surveys this round rests on, with so many passes.
    pub(super) fn needed(&self, inputs: &Inputs, options: &CompressOptions) -> Vec<Unit> {
        let n_surveys = self.n_known(options);
        let mut units = units(&inputs.pair, options.method.lossy());
        units.iter_mut().for_each(|unit| unit.n_surveys = unit.n_surveys.min(n_surveys));
        units
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_runs_of_all_tensors_and_about_equal() {
        let sums = |work: &[u64], n| -> Vec<u64> {
            let cut = cut(work, n);
            assert_eq!(cut.len(), n as usize);
            let mut next = 0;
            for share in &cut {
                assert_eq!(share.start, next);
                next = share.end;
            }
            assert_eq!(next, work.len());
            cut.into_iter().map(|share| work[share].iter().sum()).collect()
        };
        assert_eq!(sums(&[1; 16], 4), [4; 4]);
        assert_eq!(sums(&[1; 5], 1), [5]);
        assert_eq!(sums(&[], 3), [0; 3]);
        assert_eq!(sums(&[0, 0], 2), [0; 2]);
        assert_eq!(sums(&[7], 3).iter().sum::<u64>(), 7);
        assert_eq!(sums(&[9, 1, 1, 1], 2), [9, 3]);
        assert_eq!(cut(&[u64::MAX; 4], 2), [0..2, 2..4]);
    }
}
