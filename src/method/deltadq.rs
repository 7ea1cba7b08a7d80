//! DeltaDQ (arXiv 2410.08666): in every group of a row exactly one entry of alpha survives, drawn at
//! random and multiplied by alpha; survivors are quantised uniformly, and separate quantisation
//! splits them by value into parts of fewer bits.
//!
//! Reads its input twice, a matrix at a time: the range of the survivors, encode. The mask does not
//! look at the weights; by default it is drawn again from the seed, and then splitting saves nothing.

use crate::codec::groups::{self, Decisions, IndexForm, MAX_GROUP};
use crate::codec::{CodecId, Scratch, Target};
use crate::error::Result;
use crate::method::{Decided, LossyMethod, TileAt, out_of_range};
use crate::survey::TileStats;

/// How the positions of survivors are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum GroupIndex {
    /// Drawn again from the seed: no byte. Default.
    #[default]
    Seed,
    /// Inside their group.
    InGroup,
    /// As compressed sparse rows, one matrix a part: the paper's.
    Csr,
}

/// Settings of DeltaDQ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeltaDq {
    /// One entry of so many survives, 2 to 65,536. Default 8.
    pub alpha: u32,
    /// Entries a group, a multiple of alpha up to 65,536. Default: the one with the least output error
    /// on a sample, where there are statistics (`CompressOptions::calibrate`), otherwise the largest
    /// up to 16, or alpha.
    pub group: Option<u32>,
    /// Bits of a code, 1 to 8. Default 4.
    pub bits: u8,
    /// Parts by value, a power of two up to 2 to the power of bits; more than 1 for sparse rows alone.
    /// Default 1.
    pub parts: u16,
    /// How positions are stored.
    pub index: GroupIndex,
}

impl Default for DeltaDq {
    fn default() -> Self {
        Self { alpha: 8, group: None, bits: 4, parts: 1, index: GroupIndex::Seed }
    }
}

impl DeltaDq {
    /// Sets the survival rate, one of `alpha`.
    #[must_use]
    pub fn with_alpha(mut self, alpha: u32) -> Self {
        self.alpha = alpha;
        self
    }

    /// Sets the group size; `None` for the default.
    #[must_use]
    pub fn with_group(mut self, group: Option<u32>) -> Self {
        self.group = group;
        self
    }

    /// Sets the bits of a code.
    #[must_use]
    pub fn with_bits(mut self, bits: u8) -> Self {
        self.bits = bits;
        self
    }

    /// Sets how positions are stored, and in how many parts.
    #[must_use]
    pub fn with_index(mut self, index: GroupIndex, parts: u16) -> Self {
        (self.index, self.parts) = (index, parts);
        self
    }

    /// The group size chosen or following from alpha.
    fn group(&self) -> u32 {
        self.group.unwrap_or((16 / self.alpha * self.alpha).max(self.alpha))
    }

    /// The group sizes to choose from for rows of up to `widest` entries, ascending: alpha, twice
    /// alpha and so on.
    pub(crate) fn groups(&self, widest: u64) -> Vec<u32> {
        let most = widest.min(u64::from(MAX_GROUP));
        let twice = |group: &u32| group.checked_mul(2).filter(|g| u64::from(*g) <= most);
        std::iter::successors(Some(self.alpha), twice).collect()
    }

    pub(crate) fn validate(&self) -> Result<()> {
        if !(2..=MAX_GROUP).contains(&self.alpha) {
            return Err(out_of_range("alpha", self.alpha, "2 to 65536"));
        }
        let group = self.group();
        if !(self.alpha..=MAX_GROUP).contains(&group) || !group.is_multiple_of(self.alpha) {
            return Err(out_of_range("group", group, "a multiple of alpha up to 65536"));
        }
        if !(1..=8).contains(&self.bits) {
            return Err(out_of_range("bits", self.bits, "1 to 8"));
        }
        let most = if self.index == GroupIndex::Csr { 1 << self.bits } else { 1 };
        if !self.parts.is_power_of_two() || self.parts > most {
            let range = "a power of two up to 2^bits with --index csr, otherwise 1";
            return Err(out_of_range("parts", self.parts, range));
        }
        Ok(())
    }

    pub(crate) fn settings(&self) -> Vec<(String, String)> {
        let index = match self.index {
            GroupIndex::Seed => "seed",
            GroupIndex::InGroup => "in-group",
            GroupIndex::Csr => "csr",
        };
        vec![
            ("alpha".into(), self.alpha.to_string()),
            ("group".into(), self.group().to_string()),
            ("bits".into(), self.bits.to_string()),
            ("parts".into(), self.parts.to_string()),
            ("index".into(), index.into()),
        ]
    }
}

/// What DeltaDQ decides about one matrix: a survivor is `scale * (code - zero)`.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct AffinePlan {
    scale: f32,
    zero: i32,
}

impl AffinePlan {
    /// The plan for multiplied survivors between `low` and `high`. Without a range there is one value,
    /// which scale and zero point give back exactly.
    fn new(low: f64, high: f64, bits: u8) -> Self {
        let top = f64::from(u8::MAX >> (8 - bits));
        let scale = ((high - low) / top) as f32;
        if scale == 0.0 || !scale.is_finite() {
            return Self { scale: low as f32, zero: -1 };
        }
        let zero = (-low / f64::from(scale)).round_ties_even();
        // A range narrow against its distance from zero needs a far zero point.
        Self { scale, zero: zero.clamp(-1e9, 1e9) as i32 }
    }
}

impl LossyMethod for DeltaDq {
    fn patch(&self) -> u16 {
        1
    }

    fn n_passes(&self) -> usize {
        1
    }

    fn survey(&self, _pass: usize, at: &TileAt<'_>, scratch: &mut Scratch) -> TileStats {
        let groups = (self.group(), self.alpha);
        match groups::survivor_range(&at.delta, at.place, groups, scratch) {
            Some((low, high)) => TileStats::Range { low, high },
            None => TileStats::NonFinite,
        }
    }

    fn finds(&self, _pass: usize, stats: &TileStats) -> bool {
        matches!(stats, TileStats::NonFinite | TileStats::Range { .. })
    }

    fn merge(
        &self,
        _pass: usize,
        _decided: &Decided,
        _n_elements: u64,
        stats: &[TileStats],
    ) -> Decided {
        let (mut low, mut high) = (f32::MAX, f32::MIN);
        for tile in stats {
            if let TileStats::Range { low: l, high: h } = tile {
                (low, high) = (low.min(*l), high.max(*h));
            }
        }
        let alpha = f64::from(self.alpha);
        let none = low > high;
        let (low, high) = if none { (0.0, 0.0) } else { (f64::from(low), f64::from(high)) };
        Decided::Affine(AffinePlan::new(low * alpha, high * alpha, self.bits))
    }

    fn encode(&self, at: &TileAt<'_>, scratch: &mut Scratch, out: &mut Vec<u8>) -> Option<CodecId> {
        let Decided::Affine(plan) = at.plan.decided else { return None };
        let index = match self.index {
            GroupIndex::Seed => IndexForm::Seed,
            GroupIndex::InGroup => IndexForm::InGroup,
            GroupIndex::Csr => IndexForm::Csr,
        };
        let d = Decisions {
            group: self.group(),
            alpha: self.alpha,
            bits: self.bits,
            log2_parts: self.parts.trailing_zeros() as u8,
            index,
            scale: plan.scale,
            zero: plan.zero,
        };
        groups::encode(&at.delta, at.place, &d, scratch, out);
        Some(CodecId::Groups)
    }

    fn max_len(&self, target: &Target) -> usize {
        let (shape, parts) = ((self.group(), self.alpha), self.parts.into());
        groups::max_len_of(shape, parts, target)
    }

    fn paper_bits(&self) -> (f64, &'static str) {
        let left = f64::from(self.bits) - f64::from(self.parts.trailing_zeros());
        (
            left / f64::from(self.alpha),
            "value bits alone of the lossy tensors, alpha 16 / (bits - log2 parts)",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_papers_headline_ratios_come_out() {
        for (alpha, ratio) in [(8, 128.0), (32, 512.0)] {
            let method = DeltaDq::default().with_alpha(alpha).with_index(GroupIndex::Csr, 8);
            method.validate().unwrap();
            assert_eq!(16.0 / method.paper_bits().0, ratio);
        }
    }

    #[test]
    fn the_group_follows_from_alpha() {
        for (alpha, group) in [(2, 16), (3, 15), (8, 16), (16, 16), (32, 32)] {
            assert_eq!(DeltaDq::default().with_alpha(alpha).group(), group);
        }
    }

    #[test]
    fn groups_double_up_to_the_row() {
        let of = |alpha, widest| DeltaDq::default().with_alpha(alpha).groups(widest);
        assert_eq!(of(8, 64), [8, 16, 32, 64]);
        assert_eq!(of(3, 100), [3, 6, 12, 24, 48, 96]);
        assert_eq!(of(8, 5), [8]);
        assert_eq!(of(MAX_GROUP, u64::MAX), [MAX_GROUP]);
        assert!(
            of(2, u64::MAX).iter().all(|g| DeltaDq::default()
                .with_alpha(2)
                .with_group(Some(*g))
                .validate()
                .is_ok())
        );
    }

    #[test]
    fn settings_that_contradict_are_refused() {
        let good = DeltaDq::default();
        for bad in [
            good.with_alpha(1),
            good.with_group(Some(12)),
            good.with_bits(9),
            good.with_index(GroupIndex::Seed, 2),
            good.with_index(GroupIndex::Csr, 3),
            good.with_index(GroupIndex::Csr, 32),
        ] {
            assert!(bad.validate().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn survivors_of_one_value_come_back_exactly() {
        let plan = AffinePlan::new(-0.25, -0.25, 4);
        assert_eq!(plan.scale * (0 - plan.zero) as f32, -0.25);
    }
}
