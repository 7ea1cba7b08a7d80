//! The order of the modules and what only some of them may do, read from the source itself.

use std::fs;
use std::path::{Path, PathBuf};

use crate::made::Outcome;

/// Modules from the bottom up. A module uses what stands in rows above its own, and itself.
const LAYERS: &[&[&str]] = &[
    &["error"],
    &["wire"],
    &["tensor"],
    &["kernel"],
    &["checkpoint", "frame"],
    &["codec"],
    &["archive", "survey"],
    &["method"],
    &["report"],
    &["pair", "inspect"],
    &["pipeline"],
    &["synthetic", "fuzzing"],
    &["lib"],
    &["cli"],
    &["main"],
];

/// Words that only files with one of these prefixes may contain.
const ONLY_IN: &[(&str, &[&str])] = &[
    ("memmap2", &["checkpoint/map.rs", "checkpoint/window.rs", "checkpoint/buffers.rs"]),
    ("clap", &["cli/"]),
    ("indicatif", &["cli/"]),
    ("anyhow", &["cli/", "main.rs"]),
    ("println!", &["cli/", "main.rs"]),
    ("eprintln!", &["cli/", "main.rs"]),
    ("print!", &["cli/", "main.rs"]),
    ("eprint!", &["cli/", "main.rs"]),
    ("process::exit", &["main.rs", "cli/progress.rs"]),
    ("env::var", &["cli/"]),
    // What changes a disk, so that faults can be injected into all of it. The command line writes reports
    // and plans of its own.
    ("File::create", &["checkpoint/disk/", "cli/"]),
    ("File::options", &["checkpoint/disk/", "cli/"]),
    ("OpenOptions", &["checkpoint/disk/", "cli/"]),
    ("tempfile", &["checkpoint/disk/", "cli/"]),
    ("Builder::new", &["checkpoint/disk/", "cli/"]),
    ("fs::write", &["cli/whole_file.rs", "cli/output.rs"]),
    ("fs::copy", &[]),
    ("fs::rename", &["checkpoint/disk/"]),
    ("fs::hard_link", &["checkpoint/disk/"]),
    ("fs::create_dir", &["checkpoint/disk/", "cli/"]),
    ("fs::remove_", &["checkpoint/disk/", "cli/"]),
    ("fs::set_permissions", &["checkpoint/disk/"]),
    ("file.set_permissions", &["checkpoint/disk/"]),
    (".set_len(", &["checkpoint/disk/"]),
    (".sync_data(", &["checkpoint/disk/"]),
    (".sync_all(", &["checkpoint/disk/", "cli/whole_file.rs"]),
    (".write_all(", &["cli/"]),
    (".write_all_at(", &["checkpoint/disk/"]),
    ("unsafe {", &["checkpoint/map.rs", "cli/"]),
];

/// Lines of code in a file, and lines of a function.
const MOST_LINES: usize = 400;
const LONGEST_FUNCTION: usize = 60;

/// A source file without its tests: path inside `src/`, and lines.
struct Source {
    path: String,
    lines: Vec<String>,
}

fn sources() -> Outcome<Vec<Source>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut out = Vec::new();
    walk(&root, &root, &mut out)?;
    assert!(out.len() > 30, "the sources are not where they were");
    Ok(out)
}

fn walk(root: &Path, dir: &Path, out: &mut Vec<Source>) -> Outcome {
    let mut entries: Vec<PathBuf> =
        fs::read_dir(dir)?.map(|e| e.map(|e| e.path())).collect::<Result<_, _>>()?;
    entries.sort();
    for path in entries {
        if path.is_dir() {
            if path.file_name().is_some_and(|n| n != "tests") {
                walk(root, &path, out)?;
            }
        } else if path.extension().is_some_and(|e| e == "rs") {
            let text = fs::read_to_string(&path)?;
            let path = path.strip_prefix(root)?.to_string_lossy().into_owned();
            out.push(Source { path, lines: without_tests(&text) });
        }
    }
    Ok(())
}

/// The lines of a file but for items under `#[cfg(test)]`, which end at a line that closes their
/// brace or, without one, at their semicolon. The numbers of the lines stay.
fn without_tests(text: &str) -> Vec<String> {
    let mut out = Vec::new();
    let mut skipped_indent = None;
    for line in text.lines() {
        let indent = line.len() - line.trim_start().len();
        let Some(start) = skipped_indent else {
            if line.trim_start().starts_with("#[cfg(test)]") {
                skipped_indent = Some(indent);
                out.push(String::new());
            } else {
                out.push(line.to_owned());
            }
            continue;
        };
        let ends = line.ends_with('}') || line.ends_with(';');
        if indent == start && ends && !line.trim_start().starts_with('#') {
            skipped_indent = None;
        }
        out.push(String::new());
    }
    out
}

/// A line without its comment.
fn code(line: &str) -> &str {
    line.split("//").next().unwrap_or_default()
}

/// The module a file belongs to: the first part of its path.
fn module(path: &str) -> &str {
    path.split('/').next().unwrap_or_default().trim_end_matches(".rs")
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|row| row.contains(&module))
}

#[test]
fn modules_use_only_what_is_below_them() -> Outcome {
    let mut wrong = Vec::new();
    for Source { path, lines } in sources()? {
        let owner = module(&path);
        let own = layer(owner).ok_or_else(|| format!("src/{path} is in no layer"))?;
        // In the binary `crate` is the binary; the library is below all of it.
        let is_root = owner == "lib" || owner == "main";
        for (i, line) in lines.iter().enumerate().filter(|_| !is_root) {
            for rest in code(line).split("crate::").skip(1) {
                let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_');
                let word = &rest[..end.unwrap_or(rest.len())];
                let place = format!("src/{path}:{}", i + 1);
                // A group would hide its modules from this test; a macro is no module.
                let is_below = layer(word).is_some_and(|l| l < own || word == owner);
                let is_macro = rest[word.len()..].starts_with('!');
                if !is_below && !is_macro {
                    wrong.push(format!("{place}: {owner} uses `{rest}`"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

#[test]
fn some_words_have_one_home() -> Outcome {
    let mut wrong = Vec::new();
    for Source { path, lines } in sources()? {
        for (i, line) in lines.iter().enumerate() {
            for (word, homes) in ONLY_IN {
                let at_home = homes.iter().any(|home| path.starts_with(home));
                // `println!` ends with `print!`, so a word must start where it is found; a method has
                // whatever it is called on before it.
                let found = code(line).match_indices(word).any(|(at, _)| {
                    word.starts_with('.')
                        || !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_')
                });
                if found && !at_home {
                    wrong.push(format!("src/{path}:{}: `{word}` belongs in {homes:?}", i + 1));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

/// Whether a line starts a function.
fn starts_function(line: &str) -> bool {
    let (head, found) = line.split_once("fn ").map_or(("", false), |(head, _)| (head, true));
    let qualifiers = ["pub", "pub(crate)", "pub(super)", "const", "unsafe", "async"];
    found && head.split_whitespace().all(|word| qualifiers.contains(&word))
}

/// Line and length of each function that has a body. The closing brace stands where `fn` does.
fn functions(lines: &[String]) -> Vec<(usize, usize)> {
    let mut out = Vec::new();
    for (i, line) in lines.iter().enumerate().filter(|(_, line)| starts_function(line)) {
        let indent = line.len() - line.trim_start().len();
        let close = format!("{}}}", " ".repeat(indent));
        let signature_ends = |l: &String| l.ends_with(['{', ';', '}']);
        let Some(opens) = lines[i..].iter().position(signature_ends) else { continue };
        if lines[i + opens].ends_with('{') {
            let n = lines[i..].iter().position(|l| *l == close);
            out.push((i + 1, n.map_or(usize::MAX, |n| n + 1)));
        }
    }
    out
}

#[test]
fn files_and_functions_stay_short() -> Outcome {
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for Source { path, lines } in sources()? {
        let n = lines.iter().rposition(|l| !l.is_empty()).map_or(0, |i| i + 1);
        if n > MOST_LINES {
            wrong.push(format!("src/{path}: {n} lines of code, more than {MOST_LINES}"));
        }
        for (line, n) in functions(&lines) {
            seen += 1;
            if n > LONGEST_FUNCTION {
                wrong.push(format!("src/{path}:{line}: a function of {n} lines"));
            }
        }
    }
    assert!(seen > 300, "only {seen} functions were seen");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

/// Places that the documents point to, as Markdown has them, without those of other sites.
fn links(text: &str) -> impl Iterator<Item = &str> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next());
    targets.filter(|to| !to.is_empty() && !to.contains("://") && !to.contains(char::is_whitespace))
}

#[test]
fn links_of_the_documents_lead_somewhere() -> Outcome {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut n_links = 0;
    for document in ["ARCHITECTURE.md", "FORMAT.md", "README.md", "tests/README.md"] {
        let path = root.join(document);
        let text = fs::read_to_string(&path)?;
        for to in links(&text) {
            let there = path.parent().unwrap_or(root).join(to);
            assert!(there.exists(), "{document} points to {to}, which is not there");
            n_links += 1;
        }
    }
    assert!(n_links > 100, "the documents have {n_links} links");
    Ok(())
}
