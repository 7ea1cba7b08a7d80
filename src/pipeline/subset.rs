//! Which frames a partial verify reads: a share drawn at random, or one group of several.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::pipeline::options::Subset;
use crate::report::SubsetReport;

/// Says of one frame after the other whether it is read.
#[derive(Debug)]
pub(crate) struct Picker {
    subset: Subset,
    /// Number of the next frame, and of all.
    at: u64,
    total: u64,
    /// Frames still to be taken, of a share.
    due: u64,
}

impl Picker {
    /// For an archive of `total` frames.
    pub(crate) fn new(subset: Subset, total: u64) -> Self {
        let due = match subset {
            Subset::Percent { percent, .. } => (total as f64 * percent / 100.0).ceil() as u64,
            Subset::Group { .. } => 0,
        };
        Self { subset, at: 0, total, due: due.min(total) }
    }

    /// Whether the next frame is read. Of a share every choice of as many frames is as likely (Knuth,
    /// "The Art of Computer Programming", volume 2, section 3.4.2, algorithm S).
    pub(crate) fn pick(&mut self) -> bool {
        let at = self.at;
        self.at += 1;
        match self.subset {
            Subset::Group { n, of } => at % u64::from(of.max(1)) + 1 == u64::from(n),
            Subset::Percent { seed, .. } => {
                let left = u128::from(self.total.saturating_sub(at));
                let draw = u128::from(xxh3_64_with_seed(&at.to_le_bytes(), seed));
                let taken = (draw * left) >> 64 < u128::from(self.due);
                self.due -= u64::from(taken && self.due > 0);
                taken
            }
        }
    }

    /// How it is told to people.
    pub(crate) fn report(&self) -> SubsetReport {
        let (share, seed) = match self.subset {
            Subset::Percent { percent, seed } => (format!("{percent}%"), Some(seed)),
            Subset::Group { n, of } => (format!("{n}/{of}"), None),
        };
        SubsetReport { share, seed, of_frames: self.total }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn taken(subset: Subset, total: u64) -> Vec<bool> {
        let mut picker = Picker::new(subset, total);
        (0..total).map(|_| picker.pick()).collect()
    }

    proptest! {
        #[test]
        fn a_share_has_its_number_and_groups_divide_all(
            total in 0u64..3000, percent in 0.01f64..=100.0, seed: u64, of in 1u32..50,
        ) {
            let drawn = taken(Subset::Percent { percent, seed }, total);
            let n = drawn.iter().filter(|t| **t).count() as u64;
            prop_assert_eq!(n, (total as f64 * percent / 100.0).ceil() as u64);
            prop_assert_eq!(&drawn, &taken(Subset::Percent { percent, seed }, total));
            let mut times = vec![0; total as usize];
            for n in 1..=of {
                let group = taken(Subset::Group { n, of }, total);
                times.iter_mut().zip(group).for_each(|(n, t)| *n += u32::from(t));
            }
            prop_assert!(times.iter().all(|n| *n == 1));
        }
    }

    #[test]
    fn every_frame_is_drawn_as_often() {
        let mut times = [0u32; 50];
        for seed in 0..4000 {
            let drawn = taken(Subset::Percent { percent: 10.0, seed }, 50);
            times.iter_mut().zip(drawn).for_each(|(n, t)| *n += u32::from(t));
        }
        // 400 expected, deviation 19.
        assert!(times.iter().all(|n| (300..500).contains(n)), "{times:?}");
    }
}
