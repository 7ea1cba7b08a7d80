//! DARE (Yu et al., ICML 2024, arXiv 2311.03099): each entry of the delta is dropped with one
//! probability, the others are multiplied by its counterpart. The mask does not look at the weights,
//! so the seed is stored in its place.
//!
//! Reads its input once.

use crate::codec::survivors;
use crate::codec::{Codec, CodecId, Scratch, Target};
use crate::error::Result;
use crate::method::{LossyMethod, TileAt, binary_entropy, out_of_range};

/// Settings of DARE.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Dare {
    /// Share of entries that is dropped, above 0 and below 1, in steps of 1/65,536. Default 0.9.
    pub sparsity: f64,
}

/// Default sparsity: the paper's usual one for language models.
pub(crate) const DEFAULT_SPARSITY: f64 = 0.9;

impl Default for Dare {
    fn default() -> Self {
        Self { sparsity: DEFAULT_SPARSITY }
    }
}

impl Dare {
    /// Sets the share that is dropped.
    #[must_use]
    pub fn with_sparsity(mut self, sparsity: f64) -> Self {
        self.sparsity = sparsity;
        self
    }

    pub(crate) fn validate(&self) -> Result<()> {
        if self.sparsity > 0.0 && self.sparsity < 1.0 {
            return Ok(());
        }
        Err(out_of_range("sparsity", self.sparsity, "above 0 and below 1"))
    }

    pub(crate) fn settings(&self) -> Vec<(String, String)> {
        vec![("sparsity".into(), self.sparsity.to_string())]
    }
}

impl LossyMethod for Dare {
    fn patch(&self) -> u16 {
        1
    }

    fn encode(&self, at: &TileAt<'_>, scratch: &mut Scratch, out: &mut Vec<u8>) -> Option<CodecId> {
        let d = survivors::keep_rate(1.0 - self.sparsity);
        survivors::encode(&at.delta, at.place, d, scratch, out)?;
        Some(CodecId::Survivors)
    }

    fn max_len(&self, target: &Target) -> usize {
        survivors::Survivors.max_len(target)
    }

    fn paper_bits(&self) -> (f64, &'static str) {
        (
            16.0 * (1.0 - self.sparsity) + binary_entropy(self.sparsity),
            "values and mask entropy of the lossy tensors, 16 / (16 (1-s) + H(s))",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_paper_ratio_is_the_one_competitors_print() {
        for (sparsity, ratio) in [(0.90, 7.7), (0.95, 14.7), (0.97, 23.7), (0.99, 66.4)] {
            let (bits, _) = Dare::default().with_sparsity(sparsity).paper_bits();
            assert!((16.0 / bits - ratio).abs() < 0.1, "{sparsity}: {}", 16.0 / bits);
        }
    }

    #[test]
    fn sparsity_outside_the_range_is_refused() {
        for bad in [0.0, 1.0, -0.1, f64::NAN] {
            assert!(Dare::default().with_sparsity(bad).validate().is_err(), "{bad}");
        }
    }
}
