//! The fuzzers' corpus, replayed: what covers the most in few inputs, and every input that once found a fault.

use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use crate::fuzz_targets::{ALL, CODECS, decodes};
use crate::made::Outcome;

/// Inputs that every target has at least.
const LEAST: usize = 8;
/// Bytes of all inputs together, at most.
const MOST_BYTES: u64 = 300 << 10;

#[test]
fn the_corpus_finds_no_fault() -> Outcome {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus");
    let mut n_bytes = 0;
    for (target, check) in ALL {
        let mut paths = Vec::new();
        for entry in fs::read_dir(corpus.join(target))? {
            paths.push(entry?.path());
        }
        paths.sort();
        assert!(paths.len() >= LEAST, "{target} has only {} inputs", paths.len());
        for path in paths {
            let input = fs::read(&path)?;
            n_bytes += input.len() as u64;
            let held = catch_unwind(AssertUnwindSafe(|| check(&input)));
            assert!(held.is_ok(), "{} finds a fault", path.display());
        }
    }
    assert!(n_bytes <= MOST_BYTES, "the corpus has {n_bytes} bytes");
    Ok(())
}

#[test]
fn payloads_of_the_corpus_reach_the_end_of_their_codec() -> Outcome {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus");
    for (code, target) in (1..).zip(CODECS) {
        let (mut n_decoded, mut n) = (0, 0);
        for entry in fs::read_dir(corpus.join(target))? {
            n_decoded += usize::from(decodes(code, &fs::read(entry?.path())?));
            n += 1;
        }
        println!("{target}: {n_decoded} of {n} inputs decode");
        assert!(n_decoded >= 4 && n_decoded < n, "{target}: {n_decoded} of {n} inputs decode");
    }
    Ok(())
}

#[test]
fn every_target_has_its_program_and_its_corpus() -> Outcome {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz");
    let names = |dir: &str| -> Outcome<BTreeSet<String>> {
        let entries = fs::read_dir(fuzz.join(dir))?;
        let name = |e: std::io::Result<fs::DirEntry>| {
            Ok(e?.path().file_stem().unwrap_or_default().to_string_lossy().into_owned())
        };
        entries.map(name).collect()
    };
    let targets: BTreeSet<String> = ALL.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names("fuzz_targets")?, targets);
    assert_eq!(names("corpus")?, targets);
    Ok(())
}
