//! The command line as its contract has it (ARCHITECTURE.md section 3): exit codes, one JSON object
//! on standard output, messages on standard error, and what is refused.

use std::fs;
use std::io::Read;
use std::process::Stdio;

use delta_stream::DType;
use predicates::prelude::*;
use predicates::str::{contains, is_empty};
use serde_json::Value;

use crate::support::{Pair, assert_same_files, program, small, stderr, stdout};

const COMPRESS: &str = "compress --shards fine-tune --base base";

#[test]
fn help_and_version_are_no_errors() {
    let pair = Pair::new();
    for line in ["--help", "--version", "compress --help", "help restore"] {
        pair.run(line)
            .code(0)
            .stderr(is_empty())
            .stdout(contains("delta-stream").or(contains("Usage")));
    }
    // Switches for tests and benches stay out of sight.
    pair.run("compress --help").stdout(contains("no-simd").not().and(contains("- auto")));
    pair.run("--help").stdout(contains("make-pair").not().and(contains("must not change")));
}

#[test]
fn each_failure_has_its_exit_code_and_one_line() {
    let pair = Pair::with_archive();
    let whole = fs::read(pair.path("a.delta.zst")).unwrap();
    fs::write(pair.path("cut.delta.zst"), &whole[..whole.len() / 2]).unwrap();
    fs::write(pair.path("text.safetensors"), "this is no safetensors file, whatever it is called")
        .unwrap();
    fs::write(pair.path("pytorch_model.bin"), "torch").unwrap();
    fs::create_dir(pair.path("empty")).unwrap();
    pair.run("plan --shards fine-tune --base base --method dare -o plan.json").success();
    fs::copy(pair.path("a.delta.zst"), pair.path("none.delta.zst")).unwrap();
    pair.run("remove none.delta.zst --name small").success();
    pair.run("compress --shards fine-tune --base base -o parity.delta.zst --parity 5%").success();
    let rest = fs::read(pair.path("parity.delta.zst")).unwrap();
    fs::write(pair.path("parity.delta.zst"), &rest[..rest.len() / 2]).unwrap();
    fs::create_dir(pair.path("shift")).unwrap();
    for entry in fs::read_dir(pair.path("fine-tune")).unwrap().map(Result::unwrap) {
        fs::copy(entry.path(), pair.path("shift").join(entry.file_name())).unwrap();
    }
    for (line, code, words) in [
        ("restore a.delta.zst --base base -o r --name other", 2, &["small"][..]),
        ("inspect a.delta.zst --name other", 2, &["small"]),
        ("verify a.delta.zst --name other", 2, &["small"]),
        ("restore a.delta.zst --base base -o r --tensor no-such-*", 2, &["no-such-*"]),
        ("restore a.delta.zst --base base -o r --tensor * --tensor no-such-*", 2, &["no-such-*"]),
        (
            "compress --shards fine-tune --base base -o b --method delta-dct --patch 7",
            2,
            &["patch", "8, 16, 32"],
        ),
        ("compress --shards fine-tune --base base -o b --include (", 2, &["--include"]),
        ("compress --shards fine-tune --base base -o b --max-memory 1MiB", 2, &["--max-memory"]),
        ("compress --shards some-org/model --base base -o b", 2, &["some-org/model", "local"]),
        ("plan --shards text.safetensors --base base", 3, &["text.safetensors"]),
        ("compress --shards pytorch_model.bin --base base -o b", 3, &["convert"]),
        ("compare fine-tune empty", 3, &["empty"]),
        ("inspect cut.delta.zst", 4, &["cut.delta.zst"]),
        ("verify cut.delta.zst --base base", 4, &["cut.delta.zst"]),
        ("restore cut.delta.zst --base base -o r", 4, &["cut.delta.zst"]),
        ("restore a.delta.zst --base fine-tune -o r", 5, &["model.", "weight"]),
        ("verify a.delta.zst --base fine-tune", 5, &["model.", "weight"]),
        ("inspect missing.delta.zst", 6, &["missing.delta.zst"]),
        ("inspect base", 6, &["base is a directory", "an archive is one file"]),
        ("recover base -o b", 6, &["base is a directory", "an archive is one file"]),
        (
            "append --shards fine-tune --base base --archive new.zst --name n",
            6,
            &["new.zst", "compress makes"],
        ),
        (
            "append --shards fine-tune --base base --archive empty --name n",
            6,
            &["empty", "is one file"],
        ),
        (
            "append --shards fine-tune --base base --archive new.zst --name n --dry-run",
            6,
            &["compress makes"],
        ),
        ("recover cut.delta.zst -o b", 4, &["cut.delta.zst", "with the base (--base)"]),
        ("compress --shards fine-tune --base base -o b --max-memory 1", 2, &["1 B is too little"]),
        ("compress --shards fine-tune --base base -o b --plan plan.json", 2, &["another method"]),
        ("inspect none.delta.zst --name small", 2, &["none.delta.zst", "holds no variant"]),
        ("restore none.delta.zst --base base -o r", 2, &["none.delta.zst", "holds no variant"]),
        ("compress --shards missing --base base -o b", 6, &["missing", "check the path"]),
        ("recover parity.delta.zst -o b", 4, &["nothing can be saved", "try repair"]),
        (
            "compress --shards fine-tune --base base --base-shift shift -o shift/x",
            2,
            &["shift/x", "shifted towards"],
        ),
    ] {
        for json in [false, true] {
            let mut command = pair.command(line);
            let assert = if json { command.arg("--json") } else { &mut command }.assert();
            let text = stderr(&assert);
            assert_eq!(assert.get_output().status.code(), Some(code), "{line}: {text}");
            assert!(text.starts_with("error: ") && text.lines().count() == 1, "{line}: {text}");
            assert!(words.iter().all(|word| text.contains(word)), "{line}: {text}");
            assert_eq!(stdout(&assert), "", "{line}");
        }
    }
    // Nothing half-made is left.
    let names = pair.names();
    assert!(!names.iter().any(|n| n == "r" || n == "b" || n.starts_with('.')), "{names:?}");
}

/// What is nearly right is asked about, on the one line that the error has.
#[test]
fn errors_say_what_was_probably_meant() {
    let pair = Pair::with_archive();
    fs::copy(pair.path("a.delta.zst"), pair.path("models.delta.zst")).unwrap();
    for (line, code, words) in [
        ("restore a.delta.zst --base base -o r --name smal", 2, "did you mean small?"),
        ("restore a.delta.zst --base org/base -o r --name smal", 2, "did you mean small?"),
        ("inspect a.delta.zst --name SMALL", 2, "did you mean small?"),
        ("remove a.delta.zst --name smalll", 2, "did you mean small?"),
        ("restore a.delta.zst --base base -o r --tensor q_proj", 2, "did you mean *q_proj*?"),
        ("restore a.delta.zst --base base -o r --tensor * --tensor k_proj", 2, "mean *k_proj*?"),
        ("restore a.delta.zst --base bass -o r", 6, "did you mean base?"),
        ("inspect model.delta.zst", 6, "did you mean models.delta.zst?"),
        ("compress --shards fine-tun --base base -o b", 6, "did you mean fine-tune?"),
        ("compress --shards fine-tune --base base -o b --method dare --alpha 8", 2, "--sparsity"),
    ] {
        let text = stderr(&pair.run(line).code(code).stdout(is_empty()));
        assert!(text.contains(words) && text.lines().count() == 1, "{line}: {text}");
    }
    for (line, near) in [
        ("compres --shards fine-tune --base base -o b", "'compress'"),
        ("compress --shard fine-tune --base base -o b", "'--shards'"),
        ("compress --shards fine-tune --base base -o b --method bitdeta", "'bitdelta'"),
    ] {
        pair.run(line).code(2).stdout(is_empty()).stderr(contains(near));
    }
    // The question is about what the error is about, whatever else was mistyped.
    let model = pair.path("hub/models--org--base/snapshots/0123");
    fs::create_dir_all(model).unwrap();
    for (line, near) in [
        ("restore a.delta.zst --base org/bose -o r --name smal", "small"),
        ("restore a.delta.zst --base org/bose -o r --name small", "org/base"),
        ("compress --shards org/bose@v1 --base bass -o b", "org/base"),
        ("compress --shards fine-tune --base bass -o b --calibrate fine-tun", "base"),
    ] {
        let assert = pair.command(line).env("HF_HUB_CACHE", pair.path("hub")).assert();
        let text = stderr(&assert);
        assert!(text.ends_with(&format!("; did you mean {near}?\n")), "{line}: {text}");
    }
    // Where nothing is near, nothing is said; neither of a revision that the cache has not.
    for line in [
        "inspect other.delta.zst",
        "inspect a.delta.zst --name chat",
        "restore a.delta.zst --base some/model -o r --name small",
    ] {
        assert!(!stderr(&pair.run(line)).contains("did you mean"), "{line}");
    }
}

/// What tells a wrong base from the right one is said of both.
#[test]
fn a_wrong_base_is_told_by_how_it_differs() {
    let pair = Pair::with_archive();
    let wide = Pair::of(&small().with_dtype(DType::F32));
    let other = tempfile::tempdir().unwrap();
    fs::write(other.path().join("model.safetensors"), b"\x02\0\0\0\0\0\0\0{}").unwrap();
    for (base, words) in [
        (wide.path("base"), &["is F32 [", "right base is BF16 ["][..]),
        (pair.path("fine-tune"), &["it has other values in tensor model."]),
        (other.path().to_owned(), &["it has no tensor model."]),
    ] {
        let mut command = pair.command("restore a.delta.zst -o r --base");
        let text = stderr(&command.arg(base).assert().code(5));
        assert!(words.iter().all(|word| text.contains(word)), "{text}");
    }
}

/// A method with loss that finds nothing to store with loss says so, and why.
#[test]
fn a_choice_that_takes_no_tensor_is_told() {
    let pair = Pair::new();
    let line = "compress --shards fine-tune --base base --force -o a.delta.zst";
    for (flags, words) in [
        ("--include nomatch", Some("matches --include `nomatch`")),
        ("--exclude .", Some("not --exclude `.`")),
        ("--include q_proj", None),
        ("--method lossless", None),
    ] {
        let json = pair.json(&format!("{line} {flags}"), 0);
        let notes = json["notes"].as_array().unwrap();
        let told =
            notes.iter().find_map(|n| n.as_str().filter(|n| n.contains("no tensor is stored")));
        match words {
            Some(words) => {
                assert!(told.is_some_and(|told| told.contains(words)), "{flags}: {told:?}")
            }
            None => assert_eq!(told, None, "{flags}"),
        }
    }
    pair.run(&format!("{line} --include nomatch")).stderr(contains("note: no tensor is stored"));
}

#[test]
fn usage_errors_exit_2_with_nothing_on_stdout() {
    let pair = Pair::new();
    for line in [
        "",
        "frobnicate",
        "compress --shards fine-tune --base base",
        "compress --shards fine-tune --base base -o a --bits 1 --ratio 30",
        "compress --shards fine-tune --base base -o a --quality best",
        "compress --shards fine-tune --base base -o a --max-size little",
        "append --shards fine-tune --base base --archive a",
        "inspect a --threads 0",
        "inspect a --max-memory zero",
    ] {
        pair.run(line).code(2).stdout(is_empty()).stderr(is_empty().not());
    }
    for flag in ["--patch 8", "--allocation 2:0.5,0:0.5", "--rescale off", "--rest base"] {
        let name = flag.split(' ').next().unwrap();
        pair.run(&format!("{COMPRESS} -o a --method lossless {flag}"))
            .code(2)
            .stderr(contains(name).and(contains("--method lossless")));
    }
}

#[test]
fn json_has_the_fields_of_the_contract() {
    let pair = Pair::new();
    let compressed = "archive_bytes fine_tuned_bytes ratio paper_ratio paper_ratio_kind \
                      bits_per_parameter tensors method peak_memory_bytes elapsed_seconds";
    for (line, code, fields) in [
        ("plan --shards fine-tune --base base", 0, "archive_bytes seconds memory_bytes tensors"),
        ("compress --shards fine-tune --base base -o a --name small", 0, compressed),
        (
            "append --shards fine-tune --base base --archive a --name exact --method lossless",
            0,
            compressed,
        ),
        ("inspect a --tensors", 0, "format_version generation archive_bytes variants"),
        ("verify a", 0, "ok level variants frames bytes"),
        ("verify a --base base", 0, "ok level variants differing"),
        (
            "restore a --base base -o r --name small",
            0,
            "restored_bytes peak_memory_bytes elapsed_seconds",
        ),
        ("restore a --base base -o e --name exact", 0, "restored_bytes"),
        ("compare fine-tune r --base base", 1, "identical relative_error tensors"),
        ("compare fine-tune e --base base", 0, "identical relative_error tensors"),
    ] {
        let report = pair.json(line, code);
        for field in fields.split_whitespace() {
            assert!(report.get(field).is_some(), "{line}: no {field} in {report}");
        }
    }
    assert_same_files(&pair.path("fine-tune"), &pair.path("e"));
    let report = pair.json("compare fine-tune r --base base", 1);
    let error = report["relative_error"].as_f64().unwrap();
    assert!(report["identical"] == false && error > 0.0 && error < 1.0, "{report}");
    assert!(pair.json("verify a --base base", 0)["level"] == "decode");
}

#[test]
fn ratios_count_the_file_that_was_written() {
    let pair = Pair::new();
    let report = pair.json(&format!("{COMPRESS} -o a --method delta-dct"), 0);
    let bytes = |v: &Value| v.as_u64().unwrap();
    assert_eq!(bytes(&report["archive_bytes"]), fs::metadata(pair.path("a")).unwrap().len());
    let files = fs::read_dir(pair.path("fine-tune")).unwrap().map(|e| e.unwrap());
    let total: u64 = files
        .filter(|e| !e.file_name().to_string_lossy().ends_with(".index.json"))
        .map(|e| e.metadata().unwrap().len())
        .sum();
    assert_eq!(bytes(&report["fine_tuned_bytes"]), total);
    let ratio = total as f64 / bytes(&report["archive_bytes"]) as f64;
    assert!((report["ratio"].as_f64().unwrap() - ratio).abs() < 1e-9, "{report}");
    assert_eq!(report["variant"], "fine-tune");
    // People see both ratios, labelled.
    pair.run(&format!("{COMPRESS} -o b --method delta-dct"))
        .stdout(contains("honest ratio").and(contains("paper ratio")));
}

#[test]
fn an_archive_does_not_depend_on_threads_memory_io_or_vectors() {
    let pair = Pair::new();
    let variations = [
        "--threads 1",
        "--threads 3 --io read",
        "--max-memory 64MiB --threads 2",
        "--no-simd --threads 2",
    ];
    let archives = variations.map(|flags| {
        pair.run(&format!("{COMPRESS} -o a --force {flags}")).success();
        fs::read(pair.path("a")).unwrap()
    });
    assert!(archives.windows(2).all(|two| two[0] == two[1]));
}

#[test]
fn stderr_has_no_bar_without_a_terminal_and_nothing_when_quiet() {
    let base = Pair::of(&small().with_dtype(DType::F32));
    let pair = Pair::new();
    let base = base.path("base");
    let line = format!("plan --shards fine-tune --base {} --max-memory 256MiB", base.display());
    let assert = pair.run(&line).success();
    let text = stderr(&assert);
    // Twenty tensors have another dtype than the base's; nobody reads twenty lines of that.
    let notes = text.lines().filter(|line| line.starts_with("note: ")).count();
    assert!(notes == 6 && text.lines().count() == 6 && text.contains("15 more"), "{text}");
    pair.run(&format!("{line} --quiet")).success().stderr(is_empty()).stdout(is_empty().not());
    pair.run("inspect missing -q").code(6).stderr(contains("missing"));
}

#[test]
fn outputs_that_exist_are_kept_unless_forced() {
    let pair = Pair::with_archive();
    fs::create_dir(pair.path("d")).unwrap();
    fs::write(pair.path("d/mine"), "mine").unwrap();
    fs::write(pair.path("p.json"), "mine").unwrap();
    let before = fs::read(pair.path("a.delta.zst")).unwrap();
    for line in [
        "compress --shards fine-tune --base base -o a.delta.zst",
        "restore a.delta.zst --base base -o d",
        "plan --shards fine-tune --base base -o p.json",
        "append --shards fine-tune --base base --archive a.delta.zst --name small",
    ] {
        pair.run(line).code(2).stdout(is_empty());
    }
    assert_eq!(fs::read(pair.path("a.delta.zst")).unwrap(), before);
    assert_eq!(fs::read_to_string(pair.path("d/mine")).unwrap(), "mine");
    assert_eq!(fs::read_to_string(pair.path("p.json")).unwrap(), "mine");
    pair.run("plan --shards fine-tune --base base -o p.json --force").success();
    let plan: Value = serde_json::from_slice(&fs::read(pair.path("p.json")).unwrap()).unwrap();
    assert!(plan["tensors"].is_array());
    pair.run("compress --shards fine-tune --base base -o a.delta.zst --force").success();
}

#[test]
fn outputs_never_land_in_an_input() {
    let pair = Pair::with_archive();
    for line in [
        "compress --shards fine-tune --base base -o base/a --force",
        "compress --shards fine-tune --base base -o fine-tune/config.json --force",
        "restore a.delta.zst --base base -o base --force",
        "restore a.delta.zst --base base -o base/inner",
        "restore a.delta.zst --base base -o . --force",
        "plan --shards fine-tune --base base -o base/config.json --force",
    ] {
        let text = stderr(&pair.run(line).code(2).stdout(is_empty()));
        assert!(text.starts_with("error: "), "{line}: {text}");
    }
    assert_eq!(pair.names(), ["a.delta.zst", "base", "fine-tune"]);
}

#[test]
fn an_archive_of_several_variants_asks_which() {
    let pair = Pair::with_archive();
    pair.run("append --shards fine-tune --base base --archive a.delta.zst --name exact --method lossless")
        .success();
    pair.run("restore a.delta.zst --base base -o r")
        .code(2)
        .stderr(contains("small").and(contains("exact")));
    let summary = pair.json("inspect a.delta.zst", 0);
    let names: Vec<_> =
        summary["variants"].as_array().unwrap().iter().map(|v| &v["name"]).collect();
    assert_eq!(names, ["small", "exact"]);
    assert_eq!(summary["generation"], 2);
    let one = pair.json("inspect a.delta.zst --name exact --tensors", 0);
    assert_eq!(one["variants"].as_array().unwrap().len(), 1);
    assert_eq!(one["variants"][0]["tensor_list"].as_array().unwrap().len(), 20);
    assert!(one["variants"][0].get("parts").is_none() && one["variants"][0]["rest_bytes"].is_u64());
    let all = pair.json("inspect a.delta.zst --tensors", 0);
    for part in ["codes", "positions", "scales", "headers"] {
        assert!(all["variants"][0]["parts"][part].is_f64(), "{all}");
    }
    pair.run("inspect a.delta.zst --tensors")
        .stdout(contains("of these").and(contains("positions")).and(contains("rest ")));
}

#[test]
fn variants_are_removed_and_archives_compacted() {
    let pair = Pair::with_archive();
    let add = "append --shards fine-tune --base base --archive a.delta.zst --name";
    pair.run(&format!("{add} exact --method lossless")).success();
    pair.run("remove a.delta.zst").code(2).stdout(is_empty());
    pair.run("remove a.delta.zst --name other")
        .code(2)
        .stderr(contains("small").and(contains("exact")));
    let report = pair.json("remove a.delta.zst --name small", 0);
    assert_eq!((&report["removed"], &report["variants"][0]), (&"small".into(), &"exact".into()));
    assert!(report["bytes_after"].as_u64() > report["bytes_before"].as_u64(), "{report}");
    let report = pair.json("compact a.delta.zst", 0);
    for field in ["variants", "peak_memory_bytes", "elapsed_seconds"] {
        assert!(report.get(field).is_some(), "no {field} in {report}");
    }
    let len = fs::metadata(pair.path("a.delta.zst")).unwrap().len();
    assert!(report["rewritten"] == true && report["bytes_after"] == len, "{report}");
    pair.run("compact a.delta.zst").success().stdout(contains("nothing would be saved"));
    pair.run("restore a.delta.zst --base base -o r").success();
    assert_same_files(&pair.path("fine-tune"), &pair.path("r"));
    pair.run("remove a.delta.zst --name exact").success().stdout(contains("none"));
    pair.run("inspect a.delta.zst").success();
    pair.run("restore a.delta.zst --base base -o s").code(2).stderr(contains("no variant"));
    pair.run("compact missing").code(6);
    pair.run("compact base/config.json").code(4);
    assert_eq!(pair.names(), ["a.delta.zst", "base", "fine-tune", "r"]);
}

#[test]
fn restore_takes_a_selection_and_a_shard_size() {
    let pair = Pair::with_archive();
    let report = pair
        .json("restore a.delta.zst --base base -o one --tensor *.0.*q_proj* --tensor *.norm.*", 0);
    assert_eq!(report["tensors"], 2);
    let report = pair.json("restore a.delta.zst --base base -o cut --max-shard-size 50kB", 0);
    let files = report["files"].as_array().unwrap();
    assert!(files.len() > 3, "{report}");
    pair.run("restore a.delta.zst --base base -o whole").success();
    assert_eq!(pair.json("compare whole cut", 0)["identical"], true);
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let pair = Pair::with_archive();
    let mut child = program()
        .args(["inspect", "a.delta.zst", "--tensors"])
        .current_dir(pair.path("."))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let mut text = String::new();
    child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(text, "");
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_under_stdout_is_an_error() {
    let pair = Pair::with_archive();
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = program()
        .args(["inspect", "a.delta.zst", "--json"])
        .current_dir(pair.path("."))
        .stdout(full)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(6));
    assert!(String::from_utf8(output.stderr).unwrap().starts_with("error: "));
}

#[test]
fn the_demo_walks_the_whole_tour() {
    let pair = Pair::new();
    fs::create_dir(pair.path("tmp")).unwrap();
    let temp = pair.path("tmp");
    let assert = pair.command("demo").env("TMPDIR", &temp).assert().success();
    let text = stdout(&assert);
    for verb in ["compress", "append", "inspect", "verify", "restore", "compare"] {
        assert!(text.contains(&format!("$ delta-stream {verb} ")), "{verb}: {text}");
    }
    assert!(text.contains("identical to the fine-tune"), "{text}");
    assert_eq!(fs::read_dir(&temp).unwrap().count(), 0);
    let report = pair.json("demo kept", 0);
    assert_eq!(report["lossless_identical"], true);
    assert_eq!(report["steps"].as_array().unwrap().len(), 9);
    assert_same_files(&pair.path("kept/fine-tune"), &pair.path("kept/restored-exact"));
    // It does not walk over what it left.
    pair.run("demo kept").code(2).stdout(is_empty());
}

#[test]
fn pairs_of_any_size_can_be_made() {
    let pair = Pair::new();
    let line = "make-pair p --hidden 32 --intermediate 48 --vocab 40 --layers 1 --dtype f16 \
                --base-shards 1 --shards 2 --seed 3";
    let report = pair.json(line, 0);
    assert_eq!(report["tensors"], 11);
    assert!(pair.path("p/base/model.safetensors").is_file() || pair.path("p/base").is_dir());
    pair.run("make-pair q --dtype i8").code(2);
    pair.run("make-pair q --hidden 0").code(2);
}

#[test]
fn a_base_that_has_nothing_of_the_fine_tune_is_told_loudly() {
    let pair = Pair::with_archive();
    pair.run("compress --shards fine-tune --base base -o x")
        .success()
        .stderr(contains("NONE").not());
    let dir = pair.path("strange");
    fs::create_dir(&dir).unwrap();
    let header = r#"{"wte":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend([0; 4]);
    fs::write(dir.join("model.safetensors"), bytes).unwrap();
    pair.run("compress --shards fine-tune --base strange -o y")
        .success()
        .stderr(contains("NONE of the fine-tune's tensors").and(contains("wte there")));
    let report = pair.json("compress --shards fine-tune --base strange -o y --force", 0);
    assert!(report["notes"][0].as_str().unwrap().contains("NONE"), "{report}");
    // Without a counterpart there is no error to be small.
    let report = pair.json("compare fine-tune strange", 1);
    assert!(report["relative_error"].is_null(), "{report}");
    pair.run("compare fine-tune strange").code(1).stdout(contains("none: 21 of the tensors"));
}

#[test]
fn rates_that_were_given_go_with_the_plan_of_parts() {
    let pair = Pair::with_archive();
    let given = "--shards fine-tune --base base --name small";
    pair.run(&format!("plan {given} --bits 0.5 -o x")).code(2);
    pair.run("plan --shards fine-tune --base base --bits 0.5 -o rates.json").success();
    let split = pair.json(&format!("plan {given} --plan rates.json --split 2 -o plan.json"), 0);
    assert!(split["plan"]["matrices"].is_array(), "{split}");
    let part = |i, more: &str, output: &str| {
        format!("compress {given} --plan plan.json --part {i}/2 {more} -o {output}{i}")
    };
    for i in [1, 2] {
        // The last --plan counts, so a script may pass options on.
        pair.run(&part(i, "", "s").replace("--plan", "--plan rates.json --plan")).success();
    }
    pair.run("join s1 s2 -o s").success();
    for i in [1, 2] {
        pair.run(&part(i, "--surveys s", "p")).success();
    }
    pair.run("join p1 p2 -o joined").success();
    for plan in ["rates.json", "plan.json"] {
        pair.run(&format!("compress {given} --plan {plan} -o one --force")).success();
        assert!(fs::read(pair.path("one")).unwrap() == fs::read(pair.path("joined")).unwrap());
    }
    pair.run(&format!("plan {given} --split 2 -o parts.json")).success();
    for (more, words) in [
        ("--plan parts.json", "shares a compress out; say which part: --part I/2"),
        ("--plan rates.json --part 1/2", "no plan of parts"),
        ("--plan rates.json --bits 1", "--bits cannot be used with --plan"),
        ("--plan parts.json --part 1/2 --bits 0.25", "other settings"),
        ("--part 1/2", "--plan"),
    ] {
        let line = format!("compress {given} {more} -o x");
        pair.run(&line).code(2).stdout(is_empty()).stderr(contains(words));
        assert!(!pair.path("x").exists(), "{line}");
    }
}

#[test]
fn a_compress_in_parts_is_joined_by_its_verbs() {
    let pair = Pair::with_archive();
    let given = "--shards fine-tune --base base --name small --method ultradelta";
    let split = pair.json(&format!("plan {given} --split 2 -o plan.json"), 0);
    assert_eq!((&split["parts"], &split["rounds"]), (&2.into(), &2.into()));
    let part = |part: &str, more: &str, output: &str| {
        format!("compress {given} --plan plan.json --part {part} {more} -o {output}")
    };
    for i in [2, 1] {
        let report = pair.json(&part(&format!("{i}/2"), "", &format!("s{i}")), 0);
        assert_eq!((&report["part"], &report["round"]), (&i.into(), &1.into()));
    }
    let most = pair.json("join s1 s2 -o s --dry-run", 0)["written_bytes"].as_u64().unwrap();
    assert!(!pair.path("s").exists());
    assert_eq!(pair.json("join s1 s2 -o s", 0)["round"], 1);
    assert!(fs::metadata(pair.path("s")).unwrap().len() <= most);
    for i in [1, 2] {
        pair.run(&part(&format!("{i}/2"), "--surveys s", &format!("p{i}"))).code(0);
    }
    let told = pair.json("join p2 p1 -o joined --dry-run", 0);
    assert!(told["dry_run"] == true && !pair.path("joined").exists());
    let real = pair.json("join p2 p1 -o joined", 0);
    assert_eq!(told["archive_bytes"], real["archive_bytes"]);
    assert_eq!(told["space"]["needed_bytes"], real["archive_bytes"]);
    pair.run("join p2 p1 -o joined --dry-run").code(2).stderr(contains("--force"));
    pair.run("join p2 p1 -o joined --force").code(0).stdout(contains("2 parts, round 2 of 2"));
    pair.run(&format!("compress {given} -o one")).code(0);
    assert!(fs::read(pair.path("one")).unwrap() == fs::read(pair.path("joined")).unwrap());
    for (line, code, words) in [
        (part("1/3", "", "x"), 2, "plan.json has 2 parts"),
        (part("1/2", "--seed 3", "x"), 2, "another seed"),
        (part("1/2", "--surveys s1", "x"), 2, "join all parts"),
        (part("1/2", "--force", "base/x"), 2, "lies in the base"),
        (part("1/2", "", "p1"), 2, "--force"),
        ("join p1 -o x".into(), 2, "part 2 of 2 is missing"),
        ("join p1 none -o x".into(), 6, "none"),
        ("inspect p1".into(), 2, "part 1 of 2, round 2 of 2"),
        ("restore p1 --base base -o x".into(), 2, "join"),
        (format!("plan {given} --split 0"), 2, "out of range"),
        (
            "compress --shards fine-tune --base base -o x --plan fine-tune/config.json --part 1/2"
                .into(),
            2,
            "no plan of parts",
        ),
    ] {
        pair.run(&line).code(code).stdout(is_empty()).stderr(contains(words));
        assert!(!pair.path("x").exists(), "{line}");
    }
    pair.run(&format!("compress {given} -o x --plan plan.json")).code(2).stderr(contains("--plan"));
    let mut bytes = fs::read(pair.path("p2")).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(pair.path("p2"), bytes).unwrap();
    pair.run("join p1 p2 -o x").code(4).stderr(contains("part p2"));
}
