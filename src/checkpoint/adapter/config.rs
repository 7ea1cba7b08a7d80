//! `adapter_config.json`: what a PEFT adapter is, and by how much its product is scaled.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde_json::{Map, Value};
use xxhash_rust::xxh3::xxh3_64;

use crate::checkpoint::adapter::patterns::Patterns;
use crate::checkpoint::adapter::refused;
use crate::checkpoint::header::json_fault;
use crate::checkpoint::names::shown;
use crate::error::{Error, Result};

/// Longest configuration read; with a rank for each layer they have some 100 KB.
const MAX_BYTES: u64 = 16 << 20;

/// Settings that make something else of a layer than base plus scaled product.
const OTHER_MATHS: &[(&str, &str)] = &[
    ("use_dora", "DoRA, which also scales columns"),
    ("use_qalora", "QALoRA, which pools its inputs"),
    ("lora_bias", "a LoRA with biases"),
    ("layer_replication", "one that repeats layers"),
    ("target_parameters", "one for parameters that are no layers"),
    ("trainable_token_indices", "one that trains single tokens"),
    ("alora_invocation_tokens", "an activated LoRA, which no weights stand for"),
    ("arrow_config", "one that is routed among others"),
    ("monteclora_config", "MonteCLoRA"),
    ("velora_config", "VeLoRA"),
];

/// Ways to begin a training that leave the base's weights as they are. Others change them, so the product
/// belongs to another base.
const PLAIN_INITS: &[&str] = &["gaussian", "eva", "orthogonal"];

/// What was read of an adapter's configuration.
#[derive(Debug)]
pub(super) struct Config {
    rank: f64,
    alpha: f64,
    /// Divides by the rank's square root.
    is_rank_stabilised: bool,
    ranks: Patterns,
    alphas: Patterns,
    /// Whether weights lie as `[in, out]`.
    pub(super) fan_in_fan_out: bool,
    /// What the adapter says it was trained on.
    pub(super) base: Option<String>,
    /// Hash of the file.
    pub(super) hash: u64,
}

impl Config {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// `InvalidCheckpoint` for anything but a plain LoRA.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let mut json = Vec::new();
        let file = File::open(path).map_err(|e| Error::io("open", path, e))?;
        file.take(MAX_BYTES).read_to_end(&mut json).map_err(|e| Error::io("read", path, e))?;
        let map: Map<String, Value> = serde_json::from_slice(&json).map_err(|e| {
            let what = path.display();
            Error::invalid_checkpoint(format!(
                "{what}: this is no JSON object ({})",
                json_fault(&e)
            ))
        })?;
        check_plain(path, &map)?;
        let number = |name: &str| {
            map.get(name).and_then(Value::as_f64).filter(|x| x.is_finite() && *x > 0.0).ok_or_else(
                || {
                    Error::invalid_checkpoint(format!(
                        "{}: {name} is no number above 0",
                        path.display()
                    ))
                },
            )
        };
        Ok(Self {
            rank: number("r")?,
            alpha: number("lora_alpha")?,
            is_rank_stabilised: is_set(map.get("use_rslora")),
            ranks: patterns(path, &map, "rank_pattern")?,
            alphas: patterns(path, &map, "alpha_pattern")?,
            fan_in_fan_out: is_set(map.get("fan_in_fan_out")),
            base: map.get("base_model_name_or_path").and_then(Value::as_str).map(str::to_owned),
            hash: xxh3_64(&json),
        })
    }

    /// The rank of a module.
    pub(super) fn rank(&self, module: &str) -> f64 {
        self.ranks.find(module).unwrap_or(self.rank)
    }

    /// What the product of a module is multiplied by.
    pub(super) fn scale(&self, module: &str) -> f64 {
        let (rank, alpha) = (self.rank(module), self.alphas.find(module).unwrap_or(self.alpha));
        alpha / if self.is_rank_stabilised { rank.sqrt() } else { rank }
    }
}

/// Whether a setting asks for something: not null, false, 0 or empty.
fn is_set(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => false,
        Some(Value::Bool(is)) => *is,
        Some(Value::Array(list)) => !list.is_empty(),
        Some(Value::Object(map)) => !map.is_empty(),
        Some(_) => true,
    }
}

fn check_plain(path: &Path, map: &Map<String, Value>) -> Result<()> {
    let text = |name: &str| map.get(name).and_then(Value::as_str);
    let kind = text("peft_type").unwrap_or("unknown");
    if kind != "LORA" {
        return Err(refused(path, &format!("peft_type is {}, not LORA", shown(kind))));
    }
    if let Some((name, what)) = OTHER_MATHS.iter().find(|(name, _)| is_set(map.get(*name))) {
        return Err(refused(path, &format!("{name} makes it {what}")));
    }
    if let Some(bias) = text("bias").filter(|bias| *bias != "none") {
        return Err(refused(path, &format!("bias is {}: it trained biases too", shown(bias))));
    }
    match text("init_lora_weights").filter(|init| !PLAIN_INITS.contains(init)) {
        Some(init) => Err(refused(
            path,
            &format!("init_lora_weights is {}, which changes the base's own weights", shown(init)),
        )),
        None => Ok(()),
    }
}

fn patterns(path: &Path, map: &Map<String, Value>, name: &str) -> Result<Patterns> {
    let Some(Value::Object(of)) = map.get(name) else { return Ok(Patterns::default()) };
    let not_understood = |pattern: &str| {
        refused(path, &format!("{name} has {}, which is not understood", shown(pattern)))
    };
    let mut rows = Vec::with_capacity(of.len());
    for (pattern, value) in of {
        let value = value.as_f64().filter(|x| x.is_finite() && *x > 0.0);
        rows.push((pattern.as_str(), value.ok_or_else(|| not_understood(pattern))?));
    }
    Patterns::new(&rows).map_err(not_understood)
}
