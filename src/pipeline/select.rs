//! Which tensors globs choose, and what one that matches none was probably meant to be.

use globset::{Glob, GlobMatcher};

use crate::archive::Stored;
use crate::error::{Error, Result};

/// Positions of the tensors whose names match a glob; all of them without globs.
///
/// # Errors
/// `InvalidArgument` for a text that is no glob, and for a glob that matches no tensor.
pub(crate) fn select(stored: &Stored, globs: &[String]) -> Result<Vec<usize>> {
    let names: Vec<_> = stored.tensors.iter().map(|t| t.name.as_str()).collect();
    let matchers: Vec<GlobMatcher> =
        globs.iter().map(|text| matcher(text)).collect::<Result<_>>()?;
    // One that matches nothing beside others that do is mistyped too, and its tensors would be missed.
    let is_unused = |m: &GlobMatcher| !names.iter().any(|name| m.is_match(name));
    if let Some((glob, _)) = globs.iter().zip(&matchers).find(|(_, m)| is_unused(m)) {
        let near = nearest(glob, &names);
        let near = near.map_or(String::new(), |near| format!("; did you mean {near}?"));
        return Err(Error::invalid_argument(format!(
            "no tensor of variant `{}` matches {glob}; `inspect --tensors` lists them{near}",
            stored.head.name,
        )));
    }
    let is_wanted = |name: &str| globs.is_empty() || matchers.iter().any(|m| m.is_match(name));
    Ok((0..names.len()).filter(|i| is_wanted(names[*i])).collect())
}

fn matcher(text: &str) -> Result<GlobMatcher> {
    let glob = Glob::new(text).map_err(|e| {
        Error::invalid_argument(format!("--tensor `{text}` is no glob")).with_source(e)
    })?;
    Ok(glob.compile_matcher())
}

/// A glob or a name that there is, if one is near.
fn nearest(glob: &str, names: &[&str]) -> Option<String> {
    let plain = glob.trim_matches('*');
    if !plain.is_empty() && !plain.contains(['*', '?', '[', '{']) {
        let wide = format!("*{plain}*");
        if wide != glob && names.iter().any(|name| name.contains(plain)) {
            return Some(wide);
        }
    }
    // Names of tensors differ in one or two of their parts: what they share is at both ends.
    let shared = |name: &str| {
        let head = glob.bytes().zip(name.bytes()).take_while(|(a, b)| a == b).count();
        let tail = glob.bytes().rev().zip(name.bytes().rev()).take_while(|(a, b)| a == b).count();
        head + tail
    };
    let best = names.iter().rev().max_by_key(|name| shared(name))?;
    (!glob.is_empty() && 2 * shared(best) >= glob.len()).then(|| (*best).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_near_is_found_and_nothing_else() {
        let names = [
            "model.embed_tokens.weight",
            "model.layers.0.self_attn.q_proj.weight",
            "model.layers.0.self_attn.k_proj.weight",
            "model.layers.1.self_attn.q_proj.weight",
        ];
        for (glob, found) in [
            ("q_proj", Some("*q_proj*")),
            ("embed_tokens*", Some("*embed_tokens*")),
            ("model.layers.0.self_atn.k_proj.weight", Some(names[2])),
            ("model.layer.*.q_proj.weight", Some(names[1])),
            ("*", None),
            ("*lora*", None),
            ("transformer.h.0", None),
            ("", None),
        ] {
            assert_eq!(nearest(glob, &names).as_deref(), found, "{glob}");
        }
        assert_eq!(nearest("weight", &[]), None);
    }
}
