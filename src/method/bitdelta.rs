//! BitDelta (Liu et al., NeurIPS 2024, arXiv 2402.10193), without its optional distillation: the sign
//! of every entry and one scale a matrix; several planes repeat it on what is left.
//!
//! Reads its input once for each plane, a matrix at a time, and once to encode.

use crate::codec::signs::{self, MAX_PLANES};
use crate::codec::{Codec, CodecId, Scratch, Target};
use crate::error::Result;
use crate::method::{Decided, LossyMethod, TileAt, out_of_range};
use crate::survey::TileStats;

/// How the scale of a matrix is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum SignScale {
    /// The mean absolute value, which has the least squared error (the paper's). Default.
    #[default]
    Mean,
    /// The one that keeps the delta's own direction at full length, `<D,D> / <D, decoded>`: the least
    /// squared error shrinks a delta, and a model suffers more from that than from noise.
    Unbiased,
}

/// Settings of BitDelta.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct BitDelta {
    /// How scales are chosen.
    pub scale: SignScale,
    /// 1 to 8 bit planes, each against what the ones before leave. Default 1.
    pub planes: u8,
}

impl Default for BitDelta {
    fn default() -> Self {
        Self { scale: SignScale::Mean, planes: 1 }
    }
}

impl BitDelta {
    /// Sets how scales are chosen.
    #[must_use]
    pub fn with_scale(mut self, scale: SignScale) -> Self {
        self.scale = scale;
        self
    }

    /// Sets the number of planes.
    #[must_use]
    pub fn with_planes(mut self, planes: u8) -> Self {
        self.planes = planes;
        self
    }

    pub(crate) fn validate(&self) -> Result<()> {
        if !(1..=MAX_PLANES).contains(&usize::from(self.planes)) {
            return Err(out_of_range("bit-planes", self.planes, "1 to 8"));
        }
        Ok(())
    }

    pub(crate) fn settings(&self) -> Vec<(String, String)> {
        let scale = match self.scale {
            SignScale::Mean => "mean",
            SignScale::Unbiased => "unbiased",
        };
        vec![("scale".into(), scale.into()), ("bit-planes".into(), self.planes.to_string())]
    }
}

/// What BitDelta decides about one matrix.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct SignPlan {
    /// Mean absolute value of what is left at each plane.
    scales: Vec<f32>,
    /// Inner product of the delta with what the planes decode to.
    along: f64,
    /// What all scales are multiplied by when they are stored.
    gain: f32,
}

impl LossyMethod for BitDelta {
    fn patch(&self) -> u16 {
        1
    }

    fn n_passes(&self) -> usize {
        usize::from(self.planes)
    }

    fn survey(&self, _pass: usize, at: &TileAt<'_>, scratch: &mut Scratch) -> TileStats {
        let scales = match &at.plan.decided {
            Decided::Signs(plan) => plan.scales.as_slice(),
            _ => &[],
        };
        let sums = signs::residual_sums(&at.delta, scales, scratch);
        if !sums.sum_squares.is_finite() {
            return TileStats::NonFinite;
        }
        TileStats::Residual {
            sum_abs: sums.sum_abs,
            sum_squares: sums.sum_squares,
            along_sign: sums.along_sign,
        }
    }

    fn finds(&self, _pass: usize, stats: &TileStats) -> bool {
        matches!(stats, TileStats::NonFinite | TileStats::Residual { .. })
    }

    fn merge(
        &self,
        _pass: usize,
        decided: &Decided,
        n_elements: u64,
        stats: &[TileStats],
    ) -> Decided {
        let mut plan = match decided {
            Decided::Signs(plan) => plan.clone(),
            _ => SignPlan { gain: 1.0, ..SignPlan::default() },
        };
        let (mut abs, mut squares, mut along) = (0.0, 0.0, 0.0);
        for tile in stats {
            if let TileStats::Residual { sum_abs, sum_squares, along_sign } = tile {
                abs += sum_abs;
                squares += sum_squares;
                along += along_sign;
            }
        }
        let scale = (abs / n_elements as f64) as f32;
        plan.scales.push(scale);
        plan.along += f64::from(scale) * along;
        if self.scale == SignScale::Unbiased && plan.along > 0.0 {
            plan.gain = (squares / plan.along) as f32;
        }
        Decided::Signs(plan)
    }

    fn encode(&self, at: &TileAt<'_>, scratch: &mut Scratch, out: &mut Vec<u8>) -> Option<CodecId> {
        let Decided::Signs(plan) = &at.plan.decided else { return None };
        signs::encode(&at.delta, &plan.scales, plan.gain, scratch, out);
        Some(CodecId::Signs)
    }

    fn max_len(&self, target: &Target) -> usize {
        signs::Signs.max_len(target)
    }

    fn paper_bits(&self) -> (f64, &'static str) {
        (f64::from(self.planes), "sign bits of the lossy tensors alone, 16 / planes")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn residual(sum_abs: f64, sum_squares: f64, along_sign: f64) -> [TileStats; 1] {
        [TileStats::Residual { sum_abs, sum_squares, along_sign }]
    }

    #[test]
    fn the_unbiased_scale_is_the_closed_form() {
        for (scale, gain) in [(SignScale::Mean, 1.0), (SignScale::Unbiased, 40.0 / (2.0 * 16.0))] {
            let method = BitDelta::default().with_scale(scale);
            let decided = method.merge(0, &Decided::Nothing, 8, &residual(16.0, 40.0, 16.0));
            let plan = SignPlan { scales: vec![2.0], along: 32.0, gain };
            assert_eq!(decided, Decided::Signs(plan));
        }
    }

    #[test]
    fn planes_outside_the_range_are_refused() {
        assert!(BitDelta::default().with_planes(0).validate().is_err());
        assert!(BitDelta::default().with_planes(9).validate().is_err());
    }
}
