//! What the program is built from, checked without a network: licences, versions that are there twice, places
//! that packages come from; and where unsafe code stands.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::made::Outcome;

/// Licences that may be linked into a program under MIT or Apache-2.0. All are permissive.
const LICENCES: &[&str] = &[
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "MIT",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Packages of which two versions are there, and why.
const TWICE: &[(&str, &str)] = &[
    (
        "cpufeatures",
        "reed-solomon-simd has not moved to the version that the tests' random numbers have",
    ),
    ("hashbrown", "safetensors has not moved to the version that indexmap has"),
    ("syn", "procedural macros alone; the one of zerocopy, below half, has not moved to version 3"),
];

/// Files with unsafe code: what it is for. In the library there is one, in the program there are two.
const UNSAFE: &[(&str, &str)] = &[
    ("src/checkpoint/map.rs", "maps files"),
    ("src/cli/bus.rs", "answers the signal of a bad page"),
    ("src/cli/resolve.rs", "passes the user's promise on that files stay unchanged"),
    ("src/checkpoint/tests/windows.rs", "makes that promise"),
    ("benches/pipeline.rs", "makes that promise"),
    ("tests/it/determinism.rs", "makes that promise"),
    ("tests/allocations.rs", "counts what is allocated"),
    ("tests/fuzz/src/allocator.rs", "counts what is allocated"),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A package of the lock file: name, version, where it comes from, its checksum.
#[derive(Debug)]
struct Locked {
    name: String,
    version: String,
    source: Option<String>,
    checksum: Option<String>,
}

fn locked(path: &Path) -> Outcome<Vec<Locked>> {
    let text = fs::read_to_string(path)?;
    let package = |block: &str| {
        let field = |key: &str| {
            let value = block.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(" = \""));
            value.and_then(|v| Some(v.strip_suffix('"')?.to_owned()))
        };
        let (name, version) =
            (field("name").ok_or("a name")?, field("version").ok_or("a version")?);
        Ok(Locked { name, version, source: field("source"), checksum: field("checksum") })
    };
    text.split("[[package]]").skip(1).map(package).collect()
}

#[test]
fn packages_come_from_the_registry_and_are_what_they_were() -> Outcome {
    for lock in ["Cargo.lock", "tests/fuzz/Cargo.lock", "tools/python/Cargo.lock"] {
        let packages = locked(&root().join(lock))?;
        assert!(packages.len() > 40, "{lock} is not read");
        let mut sources = BTreeSet::new();
        for p in &packages {
            match &p.source {
                None => assert!(p.name.starts_with("delta-stream"), "{lock}: {p:?} is a path"),
                Some(source) => {
                    assert!(source.starts_with("registry+"), "{lock}: {p:?} is from no registry");
                    assert!(p.checksum.as_ref().is_some_and(|c| c.len() == 64), "{lock}: {p:?}");
                    sources.insert(source);
                }
            }
        }
        assert_eq!(sources.len(), 1, "{lock}: {sources:?}");
    }
    Ok(())
}

#[test]
fn two_versions_of_a_package_have_a_reason() -> Outcome {
    let mut versions = BTreeMap::<_, Vec<_>>::new();
    for p in locked(&root().join("Cargo.lock"))? {
        versions.entry(p.name).or_default().push(p.version);
    }
    versions.retain(|_, v| v.len() > 1);
    let known: BTreeSet<_> = TWICE.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(versions.keys().cloned().collect::<BTreeSet<_>>(), known, "{versions:?}");
    assert!(versions.values().all(|v| v.len() == 2), "{versions:?}");
    Ok(())
}

/// Whether a licence expression can be kept by keeping [`LICENCES`] alone: `AND` binds tighter than `OR`, and
/// the old `MIT/Apache-2.0` says `OR`.
fn is_allowed(expression: &str) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let mut words = spaced.split_whitespace().collect::<Vec<_>>();
    words.reverse();
    either(&mut words) == Some(true) && words.is_empty()
}

/// Both sides are always read; `None` for what is no expression.
fn either(words: &mut Vec<&str>) -> Option<bool> {
    let mut allowed = both(words)?;
    while words.last() == Some(&"OR") {
        words.pop();
        allowed |= both(words)?;
    }
    Some(allowed)
}

fn both(words: &mut Vec<&str>) -> Option<bool> {
    let mut allowed = one(words)?;
    while words.last() == Some(&"AND") {
        words.pop();
        allowed &= one(words)?;
    }
    Some(allowed)
}

fn one(words: &mut Vec<&str>) -> Option<bool> {
    match words.pop()? {
        "(" => either(words).filter(|_| words.pop() == Some(")")),
        name if words.last() == Some(&"WITH") => {
            words.pop();
            let full = format!("{name} WITH {}", words.pop()?);
            Some(LICENCES.contains(&full.as_str()))
        }
        name => Some(LICENCES.contains(&name)),
    }
}

#[test]
fn licence_expressions_are_read_as_they_are_meant() {
    for good in [
        "MIT",
        "MIT OR Apache-2.0",
        "MIT/Apache-2.0",
        "GPL-3.0 OR MIT",
        "(MIT OR GPL-3.0) AND Unicode-3.0",
        "Apache-2.0 WITH LLVM-exception OR GPL-2.0",
        "GPL-3.0 AND MIT OR Zlib",
    ] {
        assert!(is_allowed(good), "{good}");
    }
    for bad in [
        "",
        "GPL-3.0",
        "MIT AND GPL-3.0",
        "(MIT",
        "MIT)",
        "MIT OR",
        "GPL-3.0 OR MIT AND GPL-3.0",
        "MIT AND (GPL-3.0 OR LGPL-3.0)",
        "Apache-2.0 WITH Classpath-exception-2.0",
    ] {
        assert!(!is_allowed(bad), "{bad}");
    }
}

/// What cargo says of all packages that are built in a directory of the tree; `None` with a message where it
/// cannot without a network.
fn metadata(dir: &str) -> Outcome<Option<Value>> {
    let version = Command::new(env!("CARGO")).arg("-vV").output()?;
    let version = String::from_utf8(version.stdout)?;
    let host = version.lines().find_map(|l| l.strip_prefix("host: ")).ok_or("a host")?;
    let output = Command::new(env!("CARGO"))
        .current_dir(root().join(dir))
        .args(["metadata", "--offline", "--locked", "--format-version", "1"])
        .args(["--filter-platform", host])
        .output()?;
    if output.status.success() {
        return Ok(Some(serde_json::from_slice(&output.stdout)?));
    }
    println!("skipped: cargo metadata in {dir}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(None)
}

#[test]
fn licences_are_permissive() -> Outcome {
    for dir in [".", "tools/python"] {
        let Some(metadata) = metadata(dir)? else { continue };
        let packages = metadata["packages"].as_array().ok_or("packages")?;
        assert!(packages.len() > 40, "only {} packages in {dir}", packages.len());
        for package in packages {
            let name = package["name"].as_str().unwrap_or_default();
            let licence = package["license"].as_str().unwrap_or_default();
            assert!(is_allowed(licence), "{name} is under {licence:?}");
        }
    }
    Ok(())
}

/// Every source file of the repository.
fn sources(dir: &Path, out: &mut Vec<PathBuf>) -> Outcome {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            if name != "target" && !name.starts_with('.') {
                sources(&path, out)?;
            }
        } else if name.ends_with(".rs") {
            out.push(path);
        }
    }
    Ok(())
}

/// The lines of a source with an unsafe block, function or implementation.
fn unsafe_lines(lines: &[&str]) -> Vec<usize> {
    let begins = ["{", "fn ", "impl ", "trait ", "extern "];
    let is_unsafe = |line: &&str| {
        let code = line.split("//").next().unwrap_or_default();
        let mut rest = code.match_indices("unsafe ");
        rest.any(|(at, word)| {
            let starts =
                !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '"');
            starts && begins.iter().any(|b| code[at + word.len()..].starts_with(b))
        })
    };
    lines.iter().enumerate().filter(|(_, line)| is_unsafe(line)).map(|(i, _)| i).collect()
}

#[test]
fn unsafe_code_stands_in_few_files_with_a_reason_each() -> Outcome {
    let mut paths = Vec::new();
    sources(root(), &mut paths)?;
    assert!(paths.len() > 100, "the sources are not where they were");
    let mut found = BTreeSet::new();
    for path in paths {
        let text = fs::read_to_string(&path)?;
        let lines: Vec<_> = text.lines().collect();
        let file = path.strip_prefix(root())?.to_string_lossy().into_owned();
        for i in unsafe_lines(&lines) {
            // The note stands right before, among attributes and other comments. A function that implements an
            // unsafe trait has its contract there; any other says it in its documentation.
            let before = lines[..i].iter().rev().map(|l| l.trim());
            let mut note = before.take_while(|l| l.starts_with("//") || l.starts_with("#["));
            let implements = lines[i].starts_with("    unsafe fn") && text.contains("unsafe impl ");
            let has_note = note.any(|l| l.contains("SAFETY:") || l.contains("# Safety"));
            assert!(has_note || implements, "{file}:{}: no safety note", i + 1);
            found.insert(file.clone());
        }
    }
    let known: BTreeSet<_> = UNSAFE.iter().map(|(file, _)| (*file).to_owned()).collect();
    assert_eq!(found, known);
    Ok(())
}
