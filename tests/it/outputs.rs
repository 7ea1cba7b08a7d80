//! Where outputs may stand: in no input, over nothing but what they replace, and known before the work begins.

use std::fs;
use std::os::unix::fs::{FileTypeExt, symlink};
use std::path::Path;
use std::process::Command;

use predicates::str::{contains, is_empty};

use crate::support::{Pair, stderr};

/// A pair with an archive that has a parity file, and with what makes outputs go wrong.
fn place() -> Pair {
    let pair = Pair::with_archive();
    pair.run("append --shards fine-tune --base base --archive a.delta.zst --name b --method lossless --parity 10%")
        .success();
    pair.run("plan --shards fine-tune --base base -o rates.json -q").success();
    pair.run("plan --shards fine-tune --base base --method dare --split 1 -o split.json -q")
        .success();
    assert!(Command::new("mkfifo").arg(pair.path("pipe")).status().unwrap().success());
    symlink("nowhere", pair.path("dangling")).unwrap();
    fs::create_dir(pair.path("papers")).unwrap();
    fs::write(pair.path("papers/thesis.txt"), "years").unwrap();
    pair
}

fn files(pair: &Pair) -> Vec<(String, Option<Vec<u8>>)> {
    fn walk(dir: &Path, out: &mut Vec<(String, Option<Vec<u8>>)>) {
        for entry in fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            let kind = entry.file_type().unwrap();
            let bytes = kind.is_file().then(|| fs::read(entry.path()).unwrap());
            out.push((entry.path().display().to_string(), bytes));
            if kind.is_dir() {
                walk(&entry.path(), out);
            }
        }
    }
    let mut out = Vec::new();
    walk(&pair.path(""), &mut out);
    out.sort();
    out
}

#[test]
fn what_may_not_be_replaced_is_refused_even_by_force() {
    let pair = place();
    let before = files(&pair);
    let compress = "compress --shards fine-tune --base base --force -q";
    let part = "--method dare --plan split.json --part 1/1";
    let plan = "plan --shards fine-tune --base base --force -q";
    let recover = "recover a.delta.zst --force -q";
    for (line, words) in [
        // An input.
        (format!("{recover} --base base -o base/model.safetensors.index.json"), "base"),
        (format!("{recover} --base base -o base/new.delta.zst"), "lies in the base"),
        (format!("{compress} --plan rates.json -o rates.json"), "lies in the input rates.json"),
        (format!("{compress} {part} -o split.json"), "lies in the input split.json"),
        (
            format!("{compress} {part} --surveys papers/thesis.txt -o papers/thesis.txt"),
            "lies in the input",
        ),
        (format!("{plan} --plan rates.json -o rates.json"), "lies in the input rates.json"),
        // What is no file.
        (format!("{compress} -o pipe"), "no regular file"),
        (format!("{compress} {part} -o pipe"), "no regular file"),
        (format!("{recover} -o pipe"), "no regular file"),
        (format!("{plan} -o pipe"), "no regular file"),
        ("report a.delta.zst --force -q -o pipe".into(), "no regular file"),
        (format!("{compress} -o papers"), "is a directory"),
        (format!("{compress} -o papers/new/"), "is a directory"),
        (format!("{plan} -o papers/new/"), "is a directory"),
        // Names that say something else.
        (format!("{compress} -o other.delta.zst.parity"), "parity"),
        (format!("{recover} -o a.delta.zst.parity"), "parity"),
        ("repair a.delta.zst --force -q -o a.delta.zst.parity".into(), "parity"),
        (format!("{compress} -o model.safetensors"), "weights"),
        (format!("{compress} -o model.gguf"), "weights"),
        // Somebody's own.
        ("restore a.delta.zst --name b --base base -o papers --force -q".into(), "no checkpoint"),
        ("demo papers".into(), "not an empty directory"),
    ] {
        let text = stderr(&pair.run(&line).code(2).stdout(is_empty()));
        assert!(text.contains(words), "{line}: {text}");
        assert!(files(&pair) == before, "{line}");
    }
    assert!(fs::symlink_metadata(pair.path("pipe")).unwrap().file_type().is_fifo());
}

#[test]
fn a_link_that_leads_nowhere_is_seen_before_the_work() {
    let pair = place();
    let line = "compress --shards fine-tune --base base -o dangling";
    pair.run(line).code(2).stdout(is_empty()).stderr(contains("dangling exists"));
    pair.run(&format!("{line} --force")).success();
    pair.run("verify dangling --base base").success();
}

#[test]
fn a_checkpoint_and_an_empty_directory_are_replaced() {
    let pair = place();
    fs::create_dir(pair.path("empty")).unwrap();
    let restore = "restore a.delta.zst --name b --base base -q -o";
    pair.run(&format!("{restore} empty")).success();
    pair.run(&format!("{restore} empty")).code(2).stderr(contains("--force"));
    pair.run(&format!("{restore} empty --force")).success();
    pair.run("compare fine-tune empty").success();
}

#[test]
fn a_pipe_is_no_archive() {
    let pair = place();
    for line in
        ["verify pipe", "inspect pipe", "restore pipe --base base -o r", "recover pipe -o r"]
    {
        pair.run(line).code(6).stdout(is_empty()).stderr(contains("no regular file"));
    }
}
