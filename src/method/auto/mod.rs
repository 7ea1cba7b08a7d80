//! `auto`, this program's own method: an asked size, and the best quality for it.
//!
//! 1. **Directions.** Fine-tuning moves a matrix mostly along a few directions. The leading ones of
//!    every tile are peeled off, quantised as coarsely as the noise allows, as long as they take more
//!    bits off the path than they need.
//! 2. **Path.** What is left gets random signs and is coded as a path through a trellis, near the limit
//!    of rate and distortion at every rate from 1/32 of a bit to five (codec 7). What the code adds looks
//!    like noise, different in every row.
//! 3. **Gain.** Every row is multiplied so that it keeps its length in its own direction: without bias,
//!    errors average out over a matrix product; with it they do not.
//! 4. **Allocation.** A byte goes to the matrix where it takes most squared error away.
//!
//! Nothing is fitted to a model: the constants are those of a Gaussian source. What was tried and
//! measured, and what lost, is in ARCHITECTURE.md, "auto".
//!
//! Reads its input twice: for the directions of every tile, which are held as far as there is room, and, once
//! all matrices have their rates, to encode. Before that a sample of rows tells how much noise the size will mean.

pub(crate) mod allocate;
pub(crate) mod level;
pub(crate) mod plan;

pub use plan::{MatrixRate, RatePlan};

use std::sync::Arc;

use crate::codec::trellis::{self, Decisions, Directions, TileNeeds};
use crate::codec::{Codec, CodecId, Scratch, Target};
use crate::error::{Error, Result};
use crate::method::auto::allocate::{RowRates, allocate, matrix_bytes};
use crate::method::{
    Decided, Joint, LossyMethod, MatrixCut, Measured, TileAt, TraceNorms, out_of_range,
};
use crate::survey::TileStats;
use crate::survey::held::{self, Held, Room};

/// Bits an entry on the mean that may be asked for.
pub(crate) const BITS: std::ops::RangeInclusive<f64> = 0.03..=5.0;
/// Name of the noise level among what was measured.
pub(crate) const NOISE_LEVEL: &str = "noise-level";
/// Share of the budget that is kept back, since the bytes of gains and of whole numbers are
/// known beforehand to about so much.
const RESERVE: f64 = 0.002;

/// How large the result is to be.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Size {
    /// Bits a parameter over the tensors stored with loss, everything that is stored of them included.
    Bits(f64),
    /// Bytes of the fine-tune over all bytes stored for it.
    Ratio(f64),
    /// All bytes stored for the fine-tune.
    Bytes(u64),
    /// As [`Size::Bits`] with a quality's bits, but never fewer than it takes to spend half of them on
    /// the values, however small the matrices.
    Quality(Quality),
}

/// Sizes by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Quality {
    /// About 1 bit a parameter. Default.
    #[default]
    High,
    /// About 1/4 of a bit.
    Medium,
    /// About 1/16 of a bit.
    Small,
}

impl Quality {
    /// Bits a parameter, and the kernel's code of half as many.
    fn bits(self) -> (f64, usize) {
        match self {
            Quality::High => (1.0, 4),
            Quality::Medium => (0.25, 2),
            Quality::Small => (0.0625, 0),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Quality::High => "high",
            Quality::Medium => "medium",
            Quality::Small => "small",
        }
    }
}

/// Settings of `auto`.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Auto {
    /// How large the result is to be. Default: high quality.
    pub size: Size,
    /// Rates that were chosen before; `size` then decides nothing.
    pub plan: Option<RatePlan>,
    /// What follows from the size for a pair of checkpoints.
    pub(crate) settled: Option<Settled>,
}

/// What has to be known before the first tile is surveyed.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Settled {
    /// Bits a parameter over the tensors stored with loss.
    pub(crate) bits: f64,
    /// Mean square error of a weight that these bits will come to.
    pub(crate) level: f64,
    /// Rates of all matrices in file order, if they are given.
    pub(crate) rates: Option<Vec<RowRates>>,
    /// Where directions are held between survey and encode.
    pub(crate) room: Room,
}

impl Default for Auto {
    fn default() -> Self {
        Self { size: Size::Quality(Quality::High), plan: None, settled: None }
    }
}

impl Auto {
    /// Sets how large the result is to be.
    #[must_use]
    pub fn with_size(mut self, size: Size) -> Self {
        self.size = size;
        self
    }

    /// Sets rates that were chosen before.
    #[must_use]
    pub fn with_plan(mut self, plan: Option<RatePlan>) -> Self {
        self.plan = plan;
        self
    }

    pub(crate) fn validate(&self) -> Result<()> {
        match self.size {
            Size::Bits(bits) if !BITS.contains(&bits) => {
                Err(out_of_range("bits", bits, "0.03 to 5"))
            }
            Size::Ratio(ratio) if !(ratio > 1.0 && ratio.is_finite()) => {
                Err(out_of_range("ratio", ratio, "a number above 1"))
            }
            Size::Bytes(0) => Err(out_of_range("max-size", 0, "a size above 0")),
            _ => Ok(()),
        }
    }

    pub(crate) fn settings(&self) -> Vec<(String, String)> {
        let asked = match self.size {
            _ if self.plan.is_some() => ("plan".into(), "given".into()),
            Size::Bits(bits) => ("bits".into(), bits.to_string()),
            Size::Ratio(ratio) => ("ratio".into(), ratio.to_string()),
            Size::Bytes(bytes) => ("max-size".into(), bytes.to_string()),
            Size::Quality(quality) => ("quality".into(), quality.name().into()),
        };
        vec![asked]
    }

    /// The bits a parameter that were asked for, if they were.
    pub(crate) fn bits(&self) -> Option<f64> {
        match self.size {
            Size::Bits(bits) => Some(bits),
            Size::Quality(quality) => Some(quality.bits().0),
            Size::Ratio(_) | Size::Bytes(_) => None,
        }
    }

    /// Bytes that matrices, given by their tiles, take at half the rate of a quality.
    fn half_bytes(&self, matrices: &[&[TileNeeds]]) -> usize {
        match self.size {
            Size::Quality(quality) => {
                let rates = RowRates::uniform(quality.bits().1);
                matrices.iter().map(|tiles| matrix_bytes(tiles, rates)).sum()
            }
            _ => 0,
        }
    }

    /// Which directions of a tile are taken off, if its delta has this energy.
    ///
    /// A code's rounding error and its bits are in balance at a step of `sqrt(12 (V + D))`, if what the
    /// directions leave has the variance V. That is known only afterwards; of a tile that has any, it lies
    /// between the noise level D and the delta's own variance, and their geometric mean is taken.
    fn directions(&self, energy: f64, n_rows: usize, n_cols: usize) -> Option<Directions> {
        let level = self.settled.as_ref()?.level;
        if level <= 0.0 || energy <= 0.0 {
            return None;
        }
        let variance = energy / (n_rows * n_cols) as f64;
        let step = (12.0 * (level * (variance + level)).sqrt()).sqrt() as f32;
        step.is_normal().then_some(Directions { step, level, max_rank: trellis::MAX_RANK })
    }
}

/// What `auto` decides about one matrix.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct AutoPlan {
    /// One for each tile, from the top.
    tiles: Vec<TileNeeds>,
    /// Directions of each tile that are still held.
    held: Vec<Option<Arc<Held>>>,
    pub(crate) rates: RowRates,
}

impl AutoPlan {
    fn new(stats: &[TileStats]) -> Self {
        let needs = |stats: &TileStats| match stats {
            TileStats::Needs(needs, _) => Some(*needs),
            _ => None,
        };
        let known: Vec<_> = stats.iter().map(needs).collect();
        // All tiles but the last are as high; one that is kept exactly has no rate but keeps its rows.
        let n_rows = known.iter().flatten().map(|t| t.n_rows).max().unwrap_or(0);
        let exact = TileNeeds { n_rows, ..TileNeeds::default() };
        let held = |stats: &TileStats| match stats {
            TileStats::Needs(_, held) => held.clone(),
            _ => None,
        };
        let tiles = known.into_iter().map(|t| t.unwrap_or(exact)).collect();
        Self { tiles, held: stats.iter().map(held).collect(), ..Self::default() }
    }

    /// What the trellis codec is told about a tile.
    fn decisions(&self, tile_idx: usize, directions: Option<Directions>) -> Option<Decisions> {
        let tile = self.tiles.get(tile_idx).filter(|t| t.energy > 0.0)?;
        let start: u64 = self.tiles[..tile_idx].iter().map(|t| t.n_rows as u64).sum();
        let RowRates { first, second, n_first } = self.rates.of_rows(start, tile.n_rows);
        Some(Decisions { first, second, n_first: n_first as usize, directions })
    }
}

impl LossyMethod for Auto {
    fn patch(&self) -> u16 {
        1
    }

    fn n_passes(&self) -> usize {
        1
    }

    fn joint_passes(&self) -> &'static [usize] {
        &[0]
    }

    fn survey(&self, _pass: usize, at: &TileAt<'_>, scratch: &mut Scratch) -> TileStats {
        let (n_rows, n_cols) = (at.delta.n_rows, at.delta.n_cols);
        let directions = |energy| self.directions(energy, n_rows, n_cols);
        let Some((needs, right)) = trellis::survey(&at.delta, directions, scratch) else {
            return TileStats::NonFinite;
        };
        let room = self.settled.as_ref().map(|settled| &settled.room);
        let held = room.filter(|_| !right.is_empty());
        TileStats::Needs(needs, held.and_then(|room| room.hold(bytemuck::cast_slice(&right))))
    }

    fn finds(&self, _pass: usize, stats: &TileStats) -> bool {
        matches!(stats, TileStats::NonFinite | TileStats::Needs(..))
    }

    fn merge(
        &self,
        _pass: usize,
        _decided: &Decided,
        _n_elements: u64,
        stats: &[TileStats],
    ) -> Decided {
        Decided::Auto(AutoPlan::new(stats))
    }

    fn decide_jointly(
        &self,
        _pass: usize,
        _earlier: &TraceNorms,
        matrices: &mut [Joint<'_>],
    ) -> Result<Measured> {
        let settled = self.settled.as_ref();
        let settled = settled.ok_or_else(|| Error::invalid_argument("auto was not settled"))?;
        let n_elements: u64 = matrices.iter().map(|m| m.n_elements).sum();
        let mut plans: Vec<&mut AutoPlan> = matrices
            .iter_mut()
            .filter_map(|m| if let Decided::Auto(plan) = m.decided { Some(plan) } else { None })
            .collect();
        let rates = match &settled.rates {
            Some(rates) => rates.clone(),
            None => {
                let budget = settled.bits * n_elements as f64 / 8.0 * (1.0 - RESERVE);
                let tiles: Vec<_> = plans.iter().map(|plan| plan.tiles.as_slice()).collect();
                let half = self.half_bytes(&tiles);
                allocate(&tiles, half.max(budget as usize)).map_err(|least| {
                    // With more bits more directions pay, and these take some of them.
                    let bits = least as f64 * 8.0 / n_elements as f64 * 1.05;
                    Error::invalid_argument(format!(
                        "the size asked for leaves {:.4} bits a parameter for the tensors stored with \
                         loss, and auto needs about {bits:.4} here; ask for more",
                        settled.bits
                    ))
                })?
            }
        };
        plans.iter_mut().zip(rates).for_each(|(plan, rates)| plan.rates = rates);
        let sum = |of: fn(&TileNeeds) -> f64| -> f64 {
            plans.iter().flat_map(|plan| &plan.tiles).map(of).sum()
        };
        let (energy, residual) = (sum(|t| t.energy), sum(|t| t.residual));
        let along = if energy > 0.0 { 1.0 - residual / energy } else { 0.0 };
        Ok([(NOISE_LEVEL, settled.level), ("energy-along-directions", along)]
            .map(|(name, value)| (name.to_owned(), value.to_string()))
            .into())
    }

    fn held_bytes(&self, matrices: &mut dyn Iterator<Item = MatrixCut>) -> u64 {
        let (mut needs, mut right) = (0, 0);
        for m in matrices {
            // As surveys and as plans.
            needs += m.n_tiles * 2 * size_of::<(TileNeeds, Option<Arc<Held>>)>() as u64 + 128;
            right += m.n_tiles * (m.n_cols * trellis::MAX_RANK as u64 + size_of::<Held>() as u64);
        }
        needs + right.min(held::MOST)
    }

    fn worker_bytes(&self, n_elements: u64) -> u64 {
        trellis::worker_bytes(n_elements)
    }

    fn encode(&self, at: &TileAt<'_>, scratch: &mut Scratch, out: &mut Vec<u8>) -> Option<CodecId> {
        let Decided::Auto(plan) = &at.plan.decided else { return None };
        let energy = plan.tiles.get(at.tile_idx)?.energy;
        let directions = self.directions(energy, at.delta.n_rows, at.delta.n_cols);
        let decisions = plan.decisions(at.tile_idx, directions)?;
        // Whose directions take no bytes has none.
        let none = plan.tiles[at.tile_idx].factor_bytes == 0;
        let held = plan.held.get(at.tile_idx).and_then(|held| held.as_deref());
        let held = held.map(|held| bytemuck::cast_slice(held.bytes()));
        let known = if none { Some(&[][..]) } else { held };
        trellis::encode(&at.delta, at.place, &decisions, known, scratch, out)?;
        Some(CodecId::Trellis)
    }

    fn max_len(&self, target: &Target) -> usize {
        trellis::Trellis.max_len(target)
    }

    fn paper_bits(&self) -> (f64, &'static str) {
        (0.0, "none: the method is this program's own")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_outside_their_range_are_refused() {
        let with = |size| Auto::default().with_size(size).validate();
        for bad in [
            Size::Bits(0.0),
            Size::Bits(f64::NAN),
            Size::Bits(5.5),
            Size::Ratio(1.0),
            Size::Ratio(f64::INFINITY),
            Size::Bytes(0),
        ] {
            assert!(with(bad).is_err(), "{bad:?}");
        }
        for good in [Size::Bits(0.0625), Size::Ratio(20.0), Size::Bytes(1)] {
            assert!(with(good).is_ok(), "{good:?}");
        }
    }

    #[test]
    fn steps_of_directions_follow_noise_and_variance() {
        let step = |level: f64, energy: f64| {
            let (rates, room) = (None, Room::default());
            let settled = Some(Settled { bits: 1.0, level, rates, room });
            Auto { settled, ..Auto::default() }.directions(energy, 16, 8).map(|d| d.step)
        };
        // Level 1 and variance 3: the mean of 1 and 4.
        assert_eq!(step(1.0, 384.0), Some(24f32.sqrt()));
        // Both a hundred times as much, and a hundredth.
        assert!((step(100.0, 38400.0).unwrap() / 240f32.sqrt() / 10f32.sqrt() - 1.0).abs() < 1e-6);
        assert_eq!([step(0.0, 1.0), step(1.0, 0.0), step(1e-300, 1e-300)], [None; 3]);
        assert_eq!(Auto::default().directions(1.0, 2, 2), None);
    }

    #[test]
    fn a_tile_kept_exactly_keeps_its_rows() {
        let needs = |n_rows, energy| {
            let (n_cols, residual, factor_bytes, log_spread) = (8, energy, 0, 0.1);
            let needs = TileNeeds { n_rows, n_cols, energy, residual, factor_bytes, log_spread };
            TileStats::Needs(needs, None)
        };
        let stats = [TileStats::NonFinite, needs(10, 1.0), needs(10, 0.0), needs(4, 2.0)];
        let mut plan = AutoPlan::new(&stats);
        plan.rates = RowRates { first: 4, second: 3, n_first: 32 };
        let of = |tile| plan.decisions(tile, None).map(|d| (d.first, d.second, d.n_first));
        assert_eq!([0, 1, 2, 3].map(of), [None, Some((4, 4, 0)), None, Some((4, 3, 2))]);
    }
}
