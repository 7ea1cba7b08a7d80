//! Which tensors are stored with loss: by default the 2-D (or stacked 2-D) weights of linear layers
//! inside blocks, as BitDelta, Delta-CoMe and UltraDelta choose them.

use regex::Regex;

use crate::error::{Error, Result};
use crate::tensor::DType;

/// Weights that are tables, norms or heads although they have two dimensions.
const NOT_LINEAR: &[&str] =
    &["norm", "embed", "bias", "lm_head", "classifier", "position", "rotary"];

/// What becomes of the tensors that are not stored with loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Rest {
    /// They are kept bit for bit. Default.
    #[default]
    Keep,
    /// Where the base has a tensor of the same name, dtype and shape, its values are taken and the
    /// fine-tune's are dropped, as UltraDelta's code does (arXiv 2505.13563): for figures that compare
    /// with that paper's. Others are kept.
    Base,
}

/// The choice of lossy tensors, and what becomes of the rest.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Policy {
    /// Names to take instead of the default rule.
    pub include: Option<Regex>,
    /// Names to leave out of whatever is taken.
    pub exclude: Option<Regex>,
    /// What becomes of the tensors that are not taken.
    pub rest: Rest,
}

impl Policy {
    /// A policy from `--include` and `--exclude` as typed.
    ///
    /// # Errors
    /// `InvalidArgument` if one is no regular expression.
    pub fn new(include: Option<&str>, exclude: Option<&str>) -> Result<Self> {
        let regex = |flag: &str, text: &str| {
            Regex::new(text).map_err(|e| {
                Error::invalid_argument(format!("--{flag} `{text}` is no regular expression"))
                    .with_source(e)
            })
        };
        Ok(Self {
            include: include.map(|t| regex("include", t)).transpose()?,
            exclude: exclude.map(|t| regex("exclude", t)).transpose()?,
            rest: Rest::default(),
        })
    }

    /// Sets what becomes of the tensors that are not stored with loss.
    #[must_use]
    pub fn with_rest(mut self, rest: Rest) -> Self {
        self.rest = rest;
        self
    }

    /// Its settings that differ from the default, as typed.
    pub(crate) fn settings(&self) -> Vec<(String, String)> {
        let setting = |name: &str, regex: &Option<Regex>| {
            regex.as_ref().map(|r| (name.to_owned(), r.as_str().to_owned()))
        };
        let rest = (self.rest == Rest::Base).then(|| ("rest".to_owned(), "base".to_owned()));
        let all = [setting("include", &self.include), setting("exclude", &self.exclude), rest];
        all.into_iter().flatten().collect()
    }

    /// Whether a tensor of this name, dtype and shape is stored with loss.
    pub(crate) fn is_lossy(&self, name: &str, dtype: DType, shape: &[u64]) -> bool {
        let matrix =
            dtype.is_float() && matches!(shape.len(), 2 | 3) && shape.iter().all(|n| *n > 1);
        let named = match &self.include {
            Some(include) => include.is_match(name),
            None => is_block_linear(name, shape.len()),
        };
        matrix && named && !self.exclude.as_ref().is_some_and(|e| e.is_match(name))
    }
}

fn is_block_linear(name: &str, rank: usize) -> bool {
    let in_block = name.split('.').any(|part| part.parse::<u32>().is_ok());
    // CLIP names its fused projection `in_proj_weight`; stacked experts often have no suffix.
    let weight = name.ends_with("weight") || rank == 3;
    // A position-wise feed-forward layer is linear, and has no table of positions.
    let lower = name.to_ascii_lowercase().replace("positionwise", "").replace("position_wise", "");
    in_block && weight && !NOT_LINEAR.iter().any(|word| lower.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linear_weights_of_blocks_are_lossy_and_the_rest_is_not() {
        let policy = Policy::default();
        for (name, shape, lossy) in [
            ("model.layers.0.self_attn.q_proj.weight", &[64, 64][..], true),
            ("bert.encoder.layer.3.output.dense.weight", &[64, 64], true),
            ("transformer.h.1.attn.c_attn.weight", &[64, 192], true),
            ("model.layers.0.mlp.experts.gate_up_proj", &[8, 64, 64], true),
            ("visual.transformer.resblocks.4.attn.in_proj_weight", &[192, 64], true),
            ("encoder.layers.2.positionwise_feedforward.w_1.weight", &[64, 64], true),
            ("encoder.layers.2.position_wise_ffn.fc1.weight", &[64, 64], true),
            ("decoder.layers.0.position_table.weight", &[512, 64], false),
            ("model.embed_tokens.weight", &[99, 64], false),
            ("lm_head.weight", &[99, 64], false),
            ("model.layers.0.input_layernorm.weight", &[64], false),
            (
                "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
                &[32, 8],
                false,
            ),
            ("bert.pooler.dense.weight", &[64, 64], false),
        ] {
            assert_eq!(policy.is_lossy(name, DType::BF16, shape), lossy, "{name}");
        }
        assert!(!policy.is_lossy("model.layers.0.mlp.up_proj.weight", DType::U8, &[64, 64]));
    }

    #[test]
    fn include_replaces_the_rule_and_exclude_takes_away() {
        let policy = Policy::new(Some("proj"), Some("down")).unwrap();
        assert!(policy.is_lossy("anything.proj", DType::F32, &[4, 4]));
        assert!(!policy.is_lossy("layers.0.down_proj.weight", DType::F32, &[4, 4]));
        assert!(Policy::new(Some("("), None).is_err());
    }

    #[test]
    fn settings_are_those_that_differ_from_the_default() {
        assert!(Policy::default().settings().is_empty());
        let policy = Policy::new(None, Some("down")).unwrap().with_rest(Rest::Base);
        let setting = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(policy.settings(), [setting("exclude", "down"), setting("rest", "base")]);
    }
}
