//! Where a tensor stands in its model, told from its name alone: which layer, and what kind of tensor. Knows
//! no architecture: the first part of a name that is a number is the layer, what follows is the kind.

/// Longer numbers are no layers.
const MAX_DIGITS: usize = 6;

/// A tensor's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// Its layer; none for embeddings, heads and the like.
    pub(super) layer: Option<Layer>,
    /// What it is, the same in every layer; further numbers, as of experts, are `*`.
    pub(super) kind: String,
}

/// A layer. A model may have several stacks of them, as an encoder and a decoder.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Layer {
    /// What stands before the number.
    pub(super) stack: String,
    /// The number.
    pub(super) index: u64,
}

impl Place {
    /// The place of the tensor of this name.
    pub(super) fn of(name: &str) -> Self {
        let whole = name.strip_suffix(".weight").unwrap_or(name);
        let parts: Vec<&str> = whole.split('.').collect();
        let Some(at) = parts.iter().position(|part| number(part).is_some()) else {
            return Self { layer: None, kind: whole.to_owned() };
        };
        let index = number(parts[at]).unwrap_or_default();
        let kind: Vec<&str> = parts[at + 1..]
            .iter()
            .map(|part| if number(part).is_some() { "*" } else { *part })
            .collect();
        let kind = if kind.is_empty() { "weight".to_owned() } else { kind.join(".") };
        Self { layer: Some(Layer { stack: parts[..at].join("."), index }), kind }
    }
}

fn number(part: &str) -> Option<u64> {
    let fits = !part.is_empty() && part.len() <= MAX_DIGITS;
    (fits && part.bytes().all(|b| b.is_ascii_digit())).then(|| part.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_and_kinds_are_told_from_names() {
        for (name, layer, kind) in [
            (
                "model.layers.12.self_attn.q_proj.weight",
                Some(("model.layers", 12)),
                "self_attn.q_proj",
            ),
            (
                "model.layers.0.mlp.experts.7.w1.weight",
                Some(("model.layers", 0)),
                "mlp.experts.*.w1",
            ),
            ("decoder.block.3.layer.0.q.bias", Some(("decoder.block", 3)), "layer.*.q.bias"),
            ("model.embed_tokens.weight", None, "model.embed_tokens"),
            ("features.4.weight", Some(("features", 4)), "weight"),
            ("0", Some(("", 0)), "weight"),
            ("a.1234567.b", None, "a.1234567.b"),
            ("..", None, ".."),
            ("", None, ""),
        ] {
            let place = Place::of(name);
            let found = place.layer.as_ref().map(|l| (l.stack.as_str(), l.index));
            assert_eq!((found, place.kind.as_str()), (layer, kind), "{name}");
        }
    }
}
