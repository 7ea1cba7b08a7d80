//! A second look at what was typed when a run has failed: paths and names that are there and nearly the same.

use std::fs;
use std::path::{Path, PathBuf};

use delta_stream::{Error, Missing};

use crate::cli::args::{Choice, Pair, Verb};

/// How alike two names have to be, 0 to 1.
const ALIKE: f64 = 0.6;
/// Fewest bytes of a name's beginning that tell which is meant.
const LEAST_START: usize = 3;

/// What was probably meant instead of what the error says is missing, for the end of its line.
pub(crate) fn of(verb: &Verb, error: &Error) -> Option<String> {
    // Files that were not typed, as those of a checkpoint, have siblings that nobody means.
    let typed = |path: &Path| inputs(verb).contains(&path).then(|| sibling(path)).flatten();
    let near = match error.missing()? {
        Missing::Path(path) => typed(path)?.display().to_string(),
        Missing::Variant { asked, held } => near(asked, held)?.to_owned(),
        Missing::Model { asked, cached } => match near(model(asked), cached) {
            Some(near) => near.to_owned(),
            None => typed(asked)?.display().to_string(),
        },
        _ => return None,
    };
    Some(format!("; did you mean {near}?"))
}

/// The name of a model on the Hub without its revision.
fn model(asked: &Path) -> &str {
    let text = asked.to_str().unwrap_or_default();
    text.split_once('@').map_or(text, |(id, _)| id)
}

fn near<'a>(asked: &str, names: &'a [String]) -> Option<&'a str> {
    nearest(asked, names.iter().map(String::as_str))
}

/// The name of those that is most like the one asked for, if one is.
pub(crate) fn nearest<'a>(asked: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let asked = asked.to_lowercase();
    let alike = |name: &str| {
        let name = name.to_lowercase();
        // What was cut short is like the whole; what goes on is like its beginning only if that is most of it.
        let is_start = asked.len() >= LEAST_START && name.starts_with(&asked);
        let is_longer = 2 * name.len() > asked.len() && asked.starts_with(&name);
        let is_part = is_start || (is_longer && name.len() >= LEAST_START);
        let least = if is_part { ALIKE } else { 0.0 };
        strsim::normalized_damerau_levenshtein(&asked, &name).max(least)
    };
    // Of equals the one that is as long.
    let longer = |name: &str| std::cmp::Reverse(name.len().abs_diff(asked.len()));
    let all = names.map(|name| (alike(name), longer(name), name));
    let best = all.max_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    best.filter(|(score, ..)| *score >= ALIKE).map(|(.., name)| name)
}

/// Paths that a verb reads.
fn inputs(verb: &Verb) -> Vec<&Path> {
    let mut out: Vec<&Path> = Vec::new();
    match verb {
        Verb::Compress(v) => add_pair(&mut out, &v.pair, &v.choice),
        Verb::Append(v) => {
            add_pair(&mut out, &v.pair, &v.choice);
            out.push(&v.archive);
        }
        Verb::Plan(v) => add_pair(&mut out, &v.pair, &v.choice),
        Verb::Restore(v) => add_archive(&mut out, &v.archive, Some(&v.base)),
        Verb::Export(v) => add_archive(&mut out, &v.archive, v.base.as_deref()),
        Verb::Report(v) => add_archive(&mut out, &v.archive, v.base.as_deref()),
        Verb::Verify(v) => add_archive(&mut out, &v.archive, v.base.as_deref()),
        Verb::Recover(v) => add_archive(&mut out, &v.archive, v.base.as_deref()),
        Verb::Compare(v) => {
            out.extend([&*v.a, &*v.b]);
            out.extend(v.base.as_deref());
        }
        Verb::Inspect(v) => out.push(&v.archive),
        Verb::Remove(v) => out.push(&v.archive),
        Verb::Compact(v) => out.push(&v.archive),
        Verb::Repair(v) => out.push(&v.archive),
        Verb::Join(v) => out.extend(v.parts.iter().map(|part| &**part)),
        Verb::Demo(_) | Verb::Completions(_) | Verb::Man(_) | Verb::MakePair(_) => {}
    }
    out
}

fn add_archive<'a>(out: &mut Vec<&'a Path>, archive: &'a Path, base: Option<&'a Path>) {
    out.push(archive);
    out.extend(base);
}

fn add_pair<'a>(out: &mut Vec<&'a Path>, pair: &'a Pair, choice: &'a Choice) {
    out.extend([&*pair.fine_tune, &*pair.base]);
    out.extend(choice.calibrate.as_deref());
    out.extend(choice.plan.as_deref());
    let is_path = |path: &&Path| !["own", "shared"].iter().any(|word| path.as_os_str() == *word);
    out.extend(choice.base_shift.as_deref().filter(is_path));
}

/// A path that is there, and differs from this one in the first part that is not.
fn sibling(missing: &Path) -> Option<PathBuf> {
    let there =
        missing.ancestors().skip(1).find(|dir| dir.as_os_str().is_empty() || dir.is_dir())?;
    let rest = missing.strip_prefix(there).ok()?;
    let wrong = rest.components().next()?.as_os_str().to_str()?;
    let dir = if there.as_os_str().is_empty() { Path::new(".") } else { there };
    let names =
        fs::read_dir(dir).ok()?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let names: Vec<_> = names.filter(|name| !name.starts_with('.')).collect();
    let near = nearest_file(wrong, &names)?;
    let whole: PathBuf = [there, Path::new(near)]
        .into_iter()
        .chain(rest.components().skip(1).map(|c| Path::new(c.as_os_str())))
        .collect();
    Some(if whole.exists() { whole } else { there.join(near) })
}

/// Of files of one kind what stands before the ending says which.
fn nearest_file<'a>(wrong: &str, names: &'a [String]) -> Option<&'a str> {
    let ending = |name: &str| name.find('.').map_or(String::new(), |dot| name[dot..].to_owned());
    let same = |name: &&str| !ending(wrong).is_empty() && ending(name) == ending(wrong);
    let stem = |name: &str| name.find('.').map_or(name.len(), |dot| dot);
    let all = || names.iter().map(String::as_str);
    let stems = all().filter(same).map(|name| &name[..stem(name)]);
    if let Some(near) = nearest(&wrong[..stem(wrong)], stems) {
        return all().find(|name| same(name) && &name[..stem(name)] == near);
    }
    nearest(wrong, all().filter(|name| !same(name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_alike_is_near() {
        for (asked, names, near) in [
            ("ft10", &["ft10k", "other"][..], Some("ft10k")),
            ("FT10K", &["ft10k"], Some("ft10k")),
            ("modle", &["model", "mode"], Some("model")),
            ("chat", &["code", "math"], None),
            ("a", &["ab"], None),
            ("bas", &["base-of-many"], Some("base-of-many")),
            ("model-7b", &["model"], Some("model")),
            ("model-7b-instruct", &["model", "mo"], None),
            ("org", &["o"], None),
            ("nofile", &["no", "n"], None),
            ("anything", &[], None),
        ] {
            assert_eq!(nearest(asked, names.iter().copied()), near, "{asked}");
        }
    }

    #[test]
    fn siblings_are_found_where_the_path_goes_wrong() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        fs::create_dir_all(at("models/base")).unwrap();
        fs::write(at("models/base/model.safetensors"), "").unwrap();
        fs::write(at("models/tuned.delta.zst"), "").unwrap();
        for short in ["models/no", "models/n.delta.zst", "o"] {
            fs::write(at(short), "").unwrap();
        }
        for (missing, near) in [
            ("models/bas", Some("models/base")),
            ("model/base", Some("models/base")),
            ("models/bse/model.safetensors", Some("models/base/model.safetensors")),
            ("models/bse/other.safetensors", Some("models/base")),
            ("models/tune.delta.zst", Some("models/tuned.delta.zst")),
            ("models/chat.delta.zst", None),
            ("models/x", None),
            ("models/nofile.json", None),
            ("models/nofile.delta.zst", None),
            ("org/nam", None),
        ] {
            assert_eq!(sibling(&at(missing)), near.map(at), "{missing}");
        }
    }
}
