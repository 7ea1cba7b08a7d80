//! `--dry-run`: nothing on the disk changes, sizes are those of the real run, and so are failures.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde_json::Value;

use crate::support::{Pair, stderr, stdout};

const COMPRESS: &str = "compress --shards fine-tune --base base";
const APPEND: &str = "append --shards fine-tune --base base --archive a.delta.zst";

/// All files below a directory, hidden ones too: when they were written, and their bytes. Directories have
/// no bytes.
fn contents(dir: &Path) -> BTreeMap<PathBuf, (SystemTime, Option<Vec<u8>>)> {
    let mut out = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let modified = fs::metadata(&path).unwrap().modified().unwrap();
        if path.is_dir() {
            out.extend(contents(&path));
            out.insert(path, (modified, None));
        } else {
            let bytes = fs::read(&path).unwrap();
            out.insert(path, (modified, Some(bytes)));
        }
    }
    out
}

/// Runs dry, demands that nothing changed, and gives the report.
fn dry(pair: &Pair, line: &str, code: i32) -> Value {
    let before = contents(&pair.path(""));
    let told = pair.json(&format!("{line} --dry-run"), code);
    assert!(contents(&pair.path("")) == before, "{line} changed something");
    assert_eq!(told["dry_run"], true, "{line}: {told}");
    if !line.starts_with("repair") {
        let needed = told["space"]["needed_bytes"].as_u64().unwrap();
        let free = told["space"]["free_bytes"].as_u64().unwrap();
        assert!(needed > 0 && free > 0, "{line}: {told}");
    }
    // The table says so too.
    pair.run(&format!("{line} --dry-run -q")).code(code);
    assert!(contents(&pair.path("")) == before, "{line} changed something");
    told
}

/// How far `b` is from `a`.
fn off(a: &Value, b: &Value) -> f64 {
    (a.as_f64().unwrap() / b.as_f64().unwrap() - 1.0).abs()
}

/// Verbs that write no file.
const READ: &[&str] = &["inspect", "verify", "compare", "completions"];
/// Writes, and is itself the trial: without a directory it leaves nothing.
const TRIAL: &str = "demo";

/// A line for each way in which a verb writes, and how its dry run ends. Real runs in this order find what they
/// need.
const WRITES: &[(&str, i32)] = &[
    ("plan --shards fine-tune --base base --method bitdelta -o plan.json", 0),
    ("plan --shards fine-tune --base base --method bitdelta --split 1 -o split.json", 0),
    (
        "compress --shards fine-tune --base base --method bitdelta --plan split.json --part 1/1 -o part",
        0,
    ),
    ("join part -o joined.delta.zst", 0),
    ("compress --shards fine-tune --base base --method bitdelta --parity 20% -o new.delta.zst", 0),
    ("append --shards fine-tune --base base --archive a.delta.zst --name v", 0),
    ("restore a.delta.zst --base base --name v -o back", 0),
    ("export a.delta.zst --base base --name v --format hf-delta -o step", 0),
    ("export a.delta.zst --base base --name v --format peft -o adapter", 0),
    ("report a.delta.zst -o page.html", 0),
    ("remove a.delta.zst --name v", 0),
    ("compact a.delta.zst", 0),
    ("recover a.delta.zst -o saved.delta.zst", 0),
    ("repair new.delta.zst -o mended.delta.zst", 1),
    ("man -o man", 0),
    ("make-pair other --hidden 64 --intermediate 96 --vocab 128 --layers 2", 0),
];

/// A new verb has to say here whether it writes.
#[test]
fn every_verb_that_writes_has_a_dry_run_that_leaves_everything_as_it_was() {
    let pair = Pair::with_archive();
    let help = stdout(&pair.run("--help").code(0));
    let commands = help.split("Commands:\n").nth(1).unwrap().split("\n\n").next().unwrap();
    let listed = commands.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let verbs: Vec<_> = listed.filter_map(|line| line.split_whitespace().next()).collect();
    assert!(verbs.contains(&"compress") && verbs.len() > 10, "{verbs:?}");
    for verb in verbs.into_iter().filter(|verb| *verb != "help" && *verb != TRIAL) {
        let writes = WRITES.iter().any(|(line, _)| line.split(' ').next() == Some(verb));
        assert_ne!(writes, READ.contains(&verb), "{verb}");
        if !writes {
            let help = stdout(&pair.run(&format!("{verb} --help")).code(0));
            assert!(!help.contains("--output"), "{verb} writes and has no dry run");
        }
    }
    for (line, code) in WRITES {
        if line.starts_with("repair") {
            let path = pair.path("new.delta.zst");
            let mut bytes = fs::read(&path).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            fs::write(&path, bytes).unwrap();
        }
        dry(&pair, line, *code);
        let before = contents(&pair.path(""));
        pair.run(line).code(0);
        assert!(contents(&pair.path("")) != before, "{line} wrote nothing");
    }
    // Where there is nothing to write there is nothing to try.
    for line in ["plan --shards fine-tune --base base", "man compress", "man"] {
        pair.run(&format!("{line} --dry-run")).code(2);
    }
}

#[test]
fn single_files_and_made_up_pairs_say_their_sizes() {
    let pair = Pair::with_archive();
    let plan = "plan --shards fine-tune --base base --method bitdelta";
    for (line, file) in [
        (format!("{plan} -o plan.json"), "plan.json"),
        (format!("{plan} --split 3 -o split.json"), "split.json"),
        ("report a.delta.zst -o page.html".into(), "page.html"),
        ("man -o man".into(), "man"),
        ("make-pair other --hidden 128".into(), "other"),
    ] {
        let told = dry(&pair, &line, 0);
        pair.run(&line).code(0);
        let path = pair.path(file);
        let written = if path.is_dir() { bytes_in(&path) } else { path.metadata().unwrap().len() };
        // What a report says of times differs from run to run.
        assert!(
            off(&told["space"]["needed_bytes"], &Value::from(written)) < 0.02,
            "{line}: {told}"
        );
    }
    // A split is read back by the program, and has no place for what a dry run says.
    let split: Value = serde_json::from_slice(&fs::read(pair.path("split.json")).unwrap()).unwrap();
    assert_eq!(split.get("dry_run"), None);
}

#[test]
fn parts_say_the_most_they_take_in_every_round() {
    let pair = Pair::new();
    for method in [
        "lossless",
        "delta-dct",
        "bitdelta",
        "dare",
        "deltadq --group 16",
        "deltadq --group 16 --index csr --parts 4",
        "ultradelta",
        "auto",
    ] {
        let how = format!("--shards fine-tune --base base --method {method}");
        let split = pair.json(&format!("plan {how} --split 2 -o split.json --force"), 0);
        let rounds = split["rounds"].as_u64().unwrap();
        let mut surveys = String::new();
        for round in 1..=rounds {
            for part in [1, 2] {
                let line = format!(
                    "compress {how} --plan split.json --part {part}/2 -o part{part} {surveys}"
                );
                let told = dry(&pair, &line, 0);
                let real = pair.json(&line, 0);
                for key in ["variant", "part", "parts", "round", "rounds", "tensors", "share_bytes"]
                {
                    assert_eq!(told[key], real[key], "{line}: {key}");
                }
                let bytes = |told: &Value| told["part_bytes"].as_u64().unwrap();
                assert!(bytes(&real) <= bytes(&told), "{line}: {told} {real}");
                assert_eq!(told["space"]["needed_bytes"], told["part_bytes"], "{line}");
                assert_eq!(
                    bytes(&real),
                    pair.path(&format!("part{part}")).metadata().unwrap().len()
                );
            }
            pair.run(&format!("join part1 part2 -o joined{round}")).code(0);
            surveys = format!("--surveys joined{round}");
            for made in ["part1", "part2"] {
                fs::remove_file(pair.path(made)).unwrap();
            }
        }
        (1..=rounds)
            .for_each(|round| fs::remove_file(pair.path(&format!("joined{round}"))).unwrap());
    }
}

#[test]
fn compress_and_append_write_nothing_and_say_what_they_would() {
    let pair = Pair::with_archive();
    for method in ["auto", "bitdelta", "lossless", "bitdelta --base-shift own"] {
        for (line, output) in [(COMPRESS, "-o new.delta.zst --name v"), (APPEND, "--name v")] {
            let line = format!("{line} {output} --method {method} --parity 5%");
            let told = dry(&pair, &line, 0);
            assert_eq!(told["variant"], "v");
            let archive = pair.path("a.delta.zst");
            let whole = fs::read(&archive).unwrap();
            let real = pair.json(&line, 0);
            assert!(off(&told["archive_bytes"], &real["archive_bytes"]) < 0.05, "{told} {real}");
            assert!(off(&told["parity_bytes"], &real["parity"]["bytes"]) < 0.05, "{told} {real}");
            // As it was, for the next method.
            fs::write(&archive, whole).unwrap();
            for made in ["new.delta.zst", "new.delta.zst.parity", "a.delta.zst.parity"] {
                let _ = fs::remove_file(pair.path(made));
            }
        }
    }
}

#[test]
fn a_vector_that_the_archive_has_is_not_counted_again() {
    let pair = Pair::new();
    let shift = "--method bitdelta --base-shift shared";
    pair.run(&format!("{COMPRESS} -o a.delta.zst --name first {shift}")).code(0);
    let line = format!("{APPEND} --name second {shift}");
    let told = dry(&pair, &line, 0);
    assert_eq!(told["vector_bytes"], 0);
    let real = pair.json(&line, 0);
    assert!(off(&told["archive_bytes"], &real["archive_bytes"]) < 0.05, "{told} {real}");
}

#[test]
fn restore_says_what_it_would_write() {
    let pair = Pair::with_archive();
    for more in ["", "--max-shard-size 200KB", "--tensor *q_proj*"] {
        let line = format!("restore a.delta.zst --base base -o back/here {more}");
        let told = dry(&pair, &line, 0);
        let real = pair.json(&line, 0);
        for key in ["variant", "tensors", "restored_bytes", "files"] {
            assert_eq!(told[key], real[key], "{more}: {key}");
        }
        let written = fs::read_dir(pair.path("back/here")).unwrap();
        let written: u64 = written
            .map(|file| file.unwrap())
            .filter(|file| file.file_name() != "model.safetensors.index.json")
            .map(|file| file.metadata().unwrap().len())
            .sum();
        assert_eq!(told["space"]["needed_bytes"], written, "{more}");
        fs::remove_dir_all(pair.path("back")).unwrap();
    }
}

#[test]
fn remove_and_compact_know_their_sizes_to_the_byte() {
    let pair = Pair::with_archive();
    pair.run(&format!("{APPEND} --name second --method bitdelta")).code(0);
    for line in ["remove a.delta.zst --name small", "compact a.delta.zst"] {
        let told = dry(&pair, line, 0);
        let real = pair.json(line, 0);
        for key in ["variants", "bytes_before", "bytes_after"] {
            assert_eq!(told[key], real[key], "{line}: {key}");
        }
        assert_eq!(real["dry_run"], false);
        let len = fs::metadata(pair.path("a.delta.zst")).unwrap().len();
        assert_eq!(told["bytes_after"], len, "{line}");
    }
}

#[test]
fn recover_and_repair_write_nothing() {
    let pair = Pair::with_archive();
    pair.run(&format!("{APPEND} --name second --method lossless --parity 10%")).code(0);
    let path = pair.path("a.delta.zst");
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, bytes).unwrap();
    for base in ["", "--base base"] {
        let line = format!("recover a.delta.zst -o saved.delta.zst {base}");
        let told = dry(&pair, &line, 1);
        let real = pair.json(&line, 1);
        for key in ["complete", "variants", "damaged_bytes", "bytes_after"] {
            assert_eq!(told[key], real[key], "{line}: {key}");
        }
        fs::remove_file(pair.path("saved.delta.zst")).unwrap();
    }
    assert_eq!(dry(&pair, "repair a.delta.zst", 1)["state"], "repairable");
}

/// Whatever a real run refuses before it writes, a dry one refuses in the same words.
#[test]
fn failures_are_those_of_the_real_run() {
    let pair = Pair::with_archive();
    fs::create_dir(pair.path("full")).unwrap();
    fs::write(pair.path("full/file"), "x").unwrap();
    let whole = fs::read(pair.path("a.delta.zst")).unwrap();
    fs::write(pair.path("cut.delta.zst"), &whole[..whole.len() / 2]).unwrap();
    let compress = |rest: &str| format!("{COMPRESS} {rest}");
    let plan = COMPRESS.replace("compress", "plan");
    let bitdelta = "--method bitdelta --name small";
    pair.run(&format!("{plan} {bitdelta} --split 2 -o split.json")).code(0);
    fs::write(pair.path("no-split.json"), "{}").unwrap();
    let part = |rest: &str| format!("{COMPRESS} {bitdelta} --plan split.json --part {rest}");
    for (line, code) in [
        (part("1/2 -o a.delta.zst"), 2),
        (part("1/2 -o base/part"), 2),
        (part("1/2 -o full"), 2),
        (part("1/3 -o part"), 2),
        (part("1/2 -o part --seed 9"), 2),
        (part("1/2 -o part --max-memory 1MiB"), 2),
        (part("1/2 -o part --surveys missing"), 6),
        (part("1/2 -o part --surveys a.delta.zst"), 2),
        (part("1/2 -o part").replace("split.json", "no-split.json"), 2),
        (part("1/2 -o part").replace("--method bitdelta", "--method dare"), 2),
        (format!("{plan} -o a.delta.zst"), 2),
        (format!("{plan} -o base/plan.json"), 2),
        (format!("{plan} -o none/plan.json"), 6),
        (format!("{plan} --split 0 -o plan.json"), 2),
        (format!("{plan} --split 2 -o full"), 2),
        ("report a.delta.zst -o a.delta.zst --force".into(), 2),
        ("report a.delta.zst -o none/page.html".into(), 6),
        ("report a.delta.zst -o page.html --name other".into(), 2),
        ("report a.delta.zst -o page.html --base fine-tune".into(), 5),
        ("report missing.delta.zst -o page.html".into(), 6),
        ("make-pair .".into(), 2),
        ("make-pair other --hidden 0".into(), 2),
        (compress("-o a.delta.zst"), 2),
        (compress("-o base/a.delta.zst"), 2),
        (compress("-o full"), 2),
        (compress("-o a --method dare --sparsity 2"), 2),
        (compress("-o a --method bitdelta --base-shift missing"), 6),
        (format!("{APPEND} --name small"), 2),
        (APPEND.replace("a.delta", "cut.delta") + " --name v", 4),
        (APPEND.replace("a.delta", "missing.delta") + " --name v", 6),
        ("restore a.delta.zst --base fine-tune -o r".into(), 5),
        ("restore a.delta.zst --base base -o full".into(), 2),
        ("restore a.delta.zst --base base -o base/r".into(), 2),
        ("restore a.delta.zst --base base -o r --name other".into(), 2),
        ("restore a.delta.zst --base base -o r --tensor nothing".into(), 2),
        ("restore a.delta.zst --base base -o r --max-memory 1MiB".into(), 2),
        ("remove a.delta.zst --name other".into(), 2),
        ("remove cut.delta.zst --name small".into(), 4),
        ("compact cut.delta.zst".into(), 4),
        ("recover a.delta.zst -o cut.delta.zst".into(), 2),
        ("recover missing.delta.zst -o new.delta.zst".into(), 6),
    ] {
        let before = contents(&pair.path(""));
        let told = pair.run(&format!("{line} --dry-run")).code(code);
        assert!(contents(&pair.path("")) == before, "{line} changed something");
        let real = pair.run(&line).code(code);
        assert_eq!(stderr(&told), stderr(&real), "{line}");
    }
}

/// Bytes of all files in a directory and those below it.
fn bytes_in(dir: &Path) -> u64 {
    contents(dir).values().filter_map(|(_, bytes)| Some(bytes.as_ref()?.len() as u64)).sum()
}

#[test]
fn exports_say_the_most_they_take() {
    let pair = Pair::with_archive();
    let to = "export a.delta.zst --base base -o out --format";
    for how in [
        "hf-delta --leave-out-new",
        "hf-delta --leave-out-new --encoding overwrite",
        "peft --rank 2",
        "peft --rank 2 --dtype bf16",
    ] {
        let told = dry(&pair, &format!("{to} {how}"), 0);
        let real = pair.json(&format!("{to} {how}"), 0);
        assert_eq!(told["directory"], real["directory"]);
        let most = told["space"]["needed_bytes"].as_u64().unwrap();
        assert!(bytes_in(&pair.path("out")) <= most, "{how}: {told}");
        let there = pair.run(&format!("{to} {how} --dry-run")).code(2);
        assert!(stderr(&there).contains("--force"), "{how}");
        fs::remove_dir_all(pair.path("out")).unwrap();
    }
    pair.run("export a.delta.zst --base fine-tune -o out --format peft --dry-run").code(5);
    pair.run("export a.delta.zst --format card --dry-run").code(2);
}

/// A page of what is damaged says so, and so does its dry run.
#[test]
fn a_dry_report_ends_as_the_real_one() {
    let pair = Pair::with_archive();
    let path = pair.path("a.delta.zst");
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, bytes).unwrap();
    let line = "report a.delta.zst -o page.html";
    let told = dry(&pair, line, 4);
    let real = pair.json(line, 4);
    for key in ["output", "variants", "ok", "n_faults"] {
        assert_eq!(told[key], real[key], "{key}");
    }
    assert_eq!(real["dry_run"], false);
}
