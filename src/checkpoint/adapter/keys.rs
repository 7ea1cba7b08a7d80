//! Names of an adapter's tensors: which layer they are for, and which tensor of a base that is.

use crate::checkpoint::Checkpoint;

/// What a name in an adapter stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Key<'a> {
    /// A factor of the product for a module's weight.
    Factor { module: &'a str, is_b: bool, of_embedding: bool },
    /// A tensor that takes the place of the base's.
    Whole { name: String },
}

/// What names begin with: the wrapper's own module and the model inside it.
const WRAPPER: &str = "base_model.model.";

/// Takes a name apart.
///
/// # Errors
/// What it belongs to that is not supported, for a sentence of the caller.
pub(super) fn parse(name: &str) -> Result<Key<'_>, &'static str> {
    let name = name.strip_prefix(WRAPPER).unwrap_or(name);
    let Some((module, factor)) = name.split_once(".lora_") else {
        return whole(name);
    };
    let (of_embedding, factor) = match factor.strip_prefix("embedding_") {
        Some(factor) => (true, factor),
        None => (false, factor),
    };
    let is_b = match factor.as_bytes().first() {
        Some(b'A') => false,
        Some(b'B') => true,
        _ if factor.starts_with("magnitude_vector") => {
            return Err("DoRA, which also scales columns");
        }
        _ => return Err("no LoRA that is known"),
    };
    // `.weight`, with the adapter's name before it where it was not taken out.
    let rest = &factor[1..];
    let adapter = rest.strip_suffix(".weight").unwrap_or(rest);
    if rest.ends_with(".bias") {
        return Err("a LoRA with biases");
    }
    if !adapter.is_empty() && (!adapter.starts_with('.') || adapter[1..].contains('.')) {
        return Err("no LoRA that is known");
    }
    Ok(Key::Factor { module, is_b, of_embedding })
}

fn whole(name: &str) -> Result<Key<'_>, &'static str> {
    if name.contains(".original_module.") {
        return Err("a copy of the base's own weights");
    }
    let mut parts: Vec<&str> = name.split('.').filter(|part| *part != "base_layer").collect();
    if let Some(at) = parts.iter().position(|part| *part == "modules_to_save") {
        parts.remove(at);
        // What follows is the adapter's name, where it was not taken out.
        if parts.get(at) == Some(&"default") {
            parts.remove(at);
        }
    }
    Ok(Key::Whole { name: parts.join(".") })
}

/// The tensor of the base that an adapter calls `name`: under this name, without its first part, or with one
/// more in front, as models with and without a head differ. None if there is none, or several.
pub(super) fn find(base: &Checkpoint, name: &str) -> Option<usize> {
    let exact = |name: &str| base.find(name).map(|found| found.0);
    let shorter = || exact(name.split_once('.')?.1);
    let longer = || {
        let is_it = |full: &str| full.split_once('.').is_some_and(|(_, rest)| rest == name);
        let all = base.tensors().iter().enumerate();
        let mut found = all.filter(|(_, t)| is_it(&t.name)).map(|(i, _)| i);
        found.next().filter(|_| found.next().is_none())
    };
    exact(name).or_else(shorter).or_else(longer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_every_spelling_are_taken_apart() {
        let factor = |name, is_b| {
            let wanted = Key::Factor { module: "m.layers.0.q_proj", is_b, of_embedding: false };
            assert_eq!(parse(name).unwrap(), wanted, "{name}");
        };
        factor("base_model.model.m.layers.0.q_proj.lora_A.weight", false);
        factor("base_model.model.m.layers.0.q_proj.lora_B.default.weight", true);
        factor("m.layers.0.q_proj.lora_B.weight", true);
        let wanted = Key::Factor { module: "embed", is_b: false, of_embedding: true };
        assert_eq!(parse("base_model.model.embed.lora_embedding_A").unwrap(), wanted);
        assert_eq!(parse("base_model.model.embed.lora_embedding_A.default").unwrap(), wanted);
        for name in [
            "base_model.model.score.weight",
            "base_model.model.score.modules_to_save.weight",
            "base_model.model.score.modules_to_save.default.weight",
            "base_model.model.score.base_layer.weight",
        ] {
            assert_eq!(parse(name).unwrap(), Key::Whole { name: "score.weight".into() });
        }
        for name in ["x.lora_magnitude_vector", "x.lora_A.bias", "x.lora_E", "x.lora_A.a.b.weight"]
        {
            assert!(parse(name).is_err(), "{name}");
        }
    }
}
