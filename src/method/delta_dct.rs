//! Delta-DCT (arXiv 2503.06676): patches of the delta ranked by norm, more bits for
//! the strong ones, a 2-D DCT, uniform quantisation between each patch's own extremes.
//!
//! Reads its input three times, a matrix at a time: patch norms; the magnitude of what the decisions
//! decode to (only with rescale), whose codes are held for the encode as far as there is room; encode.
//! Matrices of a stack are layers of their own, and so are bands of a matrix of more than [`BAND`] elements.
//! The paper ranks patches within a layer, and a band holds as many of them as a square layer of a 7B model;
//! cut so, what is read three times stays in the page cache of a machine with little memory, where a layer of
//! a 70B model would come from the disk each time.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::codec::patches::{self, Decisions, MAX_BITS, MAX_CLASSES, SIDES};
use crate::codec::{Codec, CodecId, Scratch, Target};
use crate::error::{Error, Result};
use crate::kernel::select;
use crate::method::{Decided, LossyMethod, MatrixCut, TileAt, out_of_range};
use crate::survey::TileStats;
use crate::survey::held::{self, Held, Room};

/// Settings of Delta-DCT.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct DeltaDct {
    /// Patch side: 8, 16, 32 or 64. Default 16: the paper names 8, 16 and 32 without a choice;
    /// 8 costs more side information, 32 has the larger error.
    pub patch: u16,
    /// Bits and share of each class, strongest first. Default `2:0.5,0:0.5` , its main setting.
    pub allocation: Allocation,
    /// Whether a matrix is rescaled to the delta's mean absolute value , as its first re-implementation does. Default on.
    pub rescale: bool,
    /// Where payloads are held between the last survey and the encode.
    pub(crate) room: Room,
}

/// Most elements that are ranked and rescaled together: 64 MiB of both checkpoints in bf16, of which two
/// are under way at a time.
const BAND: u64 = 16 << 20;

/// Default patch side.
pub(crate) const DEFAULT_PATCH: u16 = 16;

impl Default for DeltaDct {
    fn default() -> Self {
        let allocation = Allocation(vec![(2, 0.5), (0, 0.5)]);
        Self { patch: DEFAULT_PATCH, allocation, rescale: true, room: Room::default() }
    }
}

impl DeltaDct {
    /// Sets the patch side.
    #[must_use]
    pub fn with_patch(mut self, patch: u16) -> Self {
        self.patch = patch;
        self
    }

    /// Sets the allocation.
    #[must_use]
    pub fn with_allocation(mut self, allocation: Allocation) -> Self {
        self.allocation = allocation;
        self
    }

    /// Switches the rescale.
    #[must_use]
    pub fn with_rescale(mut self, rescale: bool) -> Self {
        self.rescale = rescale;
        self
    }

    pub(crate) fn validate(&self) -> Result<()> {
        if !SIDES.contains(&usize::from(self.patch)) {
            return Err(out_of_range("patch", self.patch, "8, 16, 32 or 64"));
        }
        self.allocation.validate()
    }

    pub(crate) fn settings(&self) -> Vec<(String, String)> {
        let rescale = if self.rescale { "on" } else { "off" };
        vec![
            ("patch".into(), self.patch.to_string()),
            ("allocation".into(), self.allocation.to_string()),
            ("rescale".into(), rescale.into()),
        ]
    }

    fn bits(&self) -> Vec<u8> {
        self.allocation.0.iter().map(|c| c.0).collect()
    }

    fn with_decisions<T>(
        &self,
        at: &TileAt<'_>,
        then: impl FnOnce(&Decisions<'_>) -> T,
    ) -> Option<T> {
        let Decided::Patches(plan) = &at.plan.decided else { return None };
        Some(then(&Decisions {
            p: usize::from(self.patch),
            bits: &self.bits(),
            classes: &plan.classes[plan.starts[at.tile_idx]..plan.starts[at.tile_idx + 1]],
            exponent: plan.exponent,
            factor: plan.factor,
        }))
    }

    /// Ranks the patches of a matrix and assigns classes by exact counts.
    fn rank(&self, n_elements: u64, stats: &[TileStats]) -> PatchPlan {
        let (mut scores, mut starts, mut sum_abs) = (Vec::new(), vec![0], 0.0);
        for tile in stats {
            // A tile that is kept exactly has no patches.
            if let TileStats::Patches { scores: s, sum_abs: a } = tile {
                scores.extend_from_slice(s);
                sum_abs += a;
            }
            starts.push(scores.len());
        }
        let shares: Vec<f64> = self.allocation.0.iter().map(|c| c.1).collect();
        let mut classes = vec![0; scores.len()];
        select::classes_by_rank(&scores, &shares, &mut classes);
        let strongest = scores.iter().copied().fold(0.0, f64::max);
        let mean_abs = sum_abs / n_elements as f64;
        let exponent = exponent_above(strongest);
        PatchPlan { starts, classes, exponent, mean_abs, factor: 1.0, held: Vec::new() }
    }
}

/// What Delta-DCT decides about one matrix.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct PatchPlan {
    /// First patch of each tile, then the number of all patches.
    starts: Vec<usize>,
    classes: Vec<u8>,
    exponent: i16,
    /// Mean absolute value of the delta, to which rescaling brings the matrix.
    mean_abs: f64,
    factor: f32,
    /// Payloads of the tiles but for the factor, as far as they are held.
    held: Vec<Option<Arc<Held>>>,
}

/// The smallest power of two that no coefficient of a patch with this sum of squares exceeds, since
/// the transform keeps norms. Read off the float's exponent, so that it is the same everywhere.
fn exponent_above(sum_squares: f64) -> i16 {
    if sum_squares <= 0.0 {
        return 0;
    }
    let exponent = ((sum_squares.to_bits() >> 52) & 0x7ff) as i16 - 1023;
    (exponent + 2).div_euclid(2).clamp(-100, 100)
}

impl LossyMethod for DeltaDct {
    fn patch(&self) -> u16 {
        self.patch
    }

    fn n_passes(&self) -> usize {
        if self.rescale { 2 } else { 1 }
    }

    fn band_elements(&self) -> u64 {
        BAND
    }

    fn survey(&self, pass: usize, at: &TileAt<'_>, scratch: &mut Scratch) -> TileStats {
        if pass == 0 {
            let (scores, sum_abs) = patches::scores(&at.delta, usize::from(self.patch), scratch);
            if !sum_abs.is_finite() {
                return TileStats::NonFinite;
            }
            return TileStats::Patches { scores, sum_abs };
        }
        let mut payload = std::mem::take(&mut scratch.bytes);
        payload.clear();
        let magnitude = self.with_decisions(at, |d| {
            patches::encode_and_measure(&at.delta, d, scratch, &mut payload)
        });
        let held = self.room.hold(&payload);
        scratch.bytes = payload;
        TileStats::Magnitude(magnitude.unwrap_or(0.0), held)
    }

    fn finds(&self, pass: usize, stats: &TileStats) -> bool {
        match stats {
            TileStats::NonFinite => true,
            TileStats::Patches { .. } => pass == 0,
            TileStats::Magnitude(..) => pass == 1,
            _ => false,
        }
    }

    fn merge(
        &self,
        pass: usize,
        decided: &Decided,
        n_elements: u64,
        stats: &[TileStats],
    ) -> Decided {
        let (1, Decided::Patches(plan)) = (pass, decided) else {
            return Decided::Patches(self.rank(n_elements, stats));
        };
        let magnitude = |s: &TileStats| match s {
            TileStats::Magnitude(sum, held) => (*sum, held.clone()),
            _ => (0.0, None),
        };
        let (sums, held): (Vec<f64>, _) = stats.iter().map(magnitude).unzip();
        let sum: f64 = sums.iter().sum();
        let decoded = sum / n_elements as f64;
        // Nothing to rescale where nothing was kept.
        let factor = (plan.mean_abs / decoded) as f32;
        let factor = if decoded > 0.0 && factor.is_finite() { factor } else { 1.0 };
        Decided::Patches(PatchPlan { factor, held, ..plan.clone() })
    }

    fn held_bytes(&self, matrices: &mut dyn Iterator<Item = MatrixCut>) -> u64 {
        let area = u64::from(self.patch) * u64::from(self.patch);
        let band = matrices.map(|m| (m.n_rows * m.n_cols).min(BAND)).max().unwrap_or(0);
        let stored = |bits: u8| if bits == 0 { 0.0 } else { f64::from(bits.next_power_of_two()) };
        let bits: f64 = self.allocation.0.iter().map(|(bits, share)| share * stored(*bits)).sum();
        // Codes, with class and range of each patch, of three bands that may be under way.
        let payload = band as f64 * (bits / 8.0 + 8.0 / area as f64);
        let held = if self.rescale { ((3.0 * payload) as u64).min(held::MOST) } else { 0 };
        // Scores, ranks and classes of two bands.
        band / area * 40 + held
    }

    fn encode(&self, at: &TileAt<'_>, scratch: &mut Scratch, out: &mut Vec<u8>) -> Option<CodecId> {
        let Decided::Patches(plan) = &at.plan.decided else { return None };
        let held = plan.held.get(at.tile_idx).and_then(|held| held.as_deref());
        self.with_decisions(at, |d| match held {
            Some(held) => patches::with_factor(held.bytes(), d, out),
            None => patches::encode(&at.delta, d, scratch, out),
        })?;
        Some(CodecId::Patches)
    }

    fn max_len(&self, target: &Target) -> usize {
        patches::Patches.max_len(target)
    }

    fn paper_bits(&self) -> (f64, &'static str) {
        let bits = self.allocation.0.iter().map(|(b, share)| f64::from(*b) * share).sum();
        (bits, "nominal average bits of the lossy tensors, 16 / sum(share x bits)")
    }
}

/// Bits and share of each class of patches, strongest first. Shares sum to 1.
#[derive(Debug, Clone, PartialEq)]
pub struct Allocation(Vec<(u8, f64)>);

impl Allocation {
    /// Classes of `(bits, share)`: bits 0 to 8, shares above 0 that sum to 1. Stronger patches get
    /// more bits, in whatever order the classes are given.
    ///
    /// # Errors
    /// `InvalidArgument` if they are not so.
    pub fn new(mut classes: Vec<(u8, f64)>) -> Result<Self> {
        classes.sort_by_key(|c| std::cmp::Reverse(c.0));
        let allocation = Self(classes);
        allocation.validate()?;
        Ok(allocation)
    }

    fn validate(&self) -> Result<()> {
        if self.0.is_empty() || self.0.len() > MAX_CLASSES {
            return Err(out_of_range("allocation with classes", self.0.len(), "1 to 16 classes"));
        }
        for (bits, share) in &self.0 {
            if *bits > MAX_BITS {
                return Err(out_of_range("allocation bits", bits, "0 to 8"));
            }
            if !(*share > 0.0 && *share <= 1.0) {
                return Err(out_of_range("allocation share", share, "above 0 up to 1"));
            }
        }
        let sum: f64 = self.0.iter().map(|c| c.1).sum();
        if (sum - 1.0).abs() > 1e-6 {
            return Err(out_of_range("allocation's sum of shares", sum, "shares that sum to 1"));
        }
        Ok(())
    }
}

impl fmt::Display for Allocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (bits, share)) in self.0.iter().enumerate() {
            write!(f, "{}{bits}:{share}", if i > 0 { "," } else { "" })?;
        }
        Ok(())
    }
}

impl FromStr for Allocation {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let class = |part: &str| {
            let (bits, share) = part.trim().split_once(':')?;
            Some((bits.trim().parse().ok()?, share.trim().parse().ok()?))
        };
        let classes: Option<Vec<_>> = text.split(',').map(class).collect();
        let classes = classes.ok_or_else(|| {
            Error::invalid_argument(format!(
                "allocation `{text}` is not of the form BITS:SHARE,BITS:SHARE, as in 2:0.5,0:0.5"
            ))
        })?;
        Self::new(classes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allocations_are_read_as_typed() {
        let a: Allocation = "2:0.34, 1:0.33,0:0.33".parse().unwrap();
        assert_eq!(a.to_string(), "2:0.34,1:0.33,0:0.33");
        for bad in ["", "2", "2:x", "9:1", "2:0.5", "2:-1,0:2", "2:0.7,0:0.7"] {
            assert!(bad.parse::<Allocation>().is_err(), "{bad}");
        }
    }

    #[test]
    fn no_coefficient_exceeds_the_exponent() {
        for s in [1e-30, 0.24, 0.25, 1.0, 3.9, 4.0, 17.0, 1e20] {
            let bound = 2f64.powi(i32::from(exponent_above(s)));
            assert!(bound >= s.sqrt() && bound <= 4.0 * s.sqrt(), "{s}: {bound}");
        }
    }

    #[test]
    fn half_the_patches_are_kept_and_the_factor_restores_the_mean() {
        let method = DeltaDct::default();
        let scores = vec![1.0, 9.0, 4.0, 16.0];
        let stats = [TileStats::Patches { scores, sum_abs: 512.0 }];
        let decided = method.merge(0, &Decided::Nothing, 1024, &stats);
        let magnitude = [TileStats::Magnitude(256.0, None)];
        let Decided::Patches(plan) = method.merge(1, &decided, 1024, &magnitude) else {
            panic!("not patches")
        };
        assert_eq!(plan.classes, [1, 0, 1, 0]);
        assert_eq!((plan.mean_abs, plan.factor), (0.5, 2.0));
    }
}
