//! Which files a path means, and what lies beside them.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use super::{file_of, open_error, put, vectors};
use crate::checkpoint::alias::same_file;
use crate::checkpoint::{Checkpoint, aliases, header_metadata};
use crate::error::ErrorKind;

/// Opens a directory of these files, each with one tensor named as the file; gives the shards' names.
fn shards_of(files: &[&str]) -> Result<Vec<String>, String> {
    let dir = tempfile::tempdir().unwrap();
    for name in files {
        put(dir.path(), name, vectors(&[(name, 2)]));
    }
    let opened = Checkpoint::open(dir.path()).map_err(|e| e.to_string())?;
    Ok(opened.shards().iter().map(|shard| shard.file_name.clone()).collect())
}

#[test]
fn a_directory_gives_its_shards_by_precedence() {
    let check = |files: &[&str], expected: &[&str]| assert_eq!(shards_of(files).unwrap(), expected);
    check(&["b.safetensors", "model.safetensors"], &["model.safetensors"]);
    check(
        &["b.safetensors", "a.safetensors", "._a.safetensors"],
        &["a.safetensors", "b.safetensors"],
    );
    check(&["consolidated.safetensors", "x.safetensors"], &["x.safetensors"]);
    check(&["adapter_model.safetensors"], &["adapter_model.safetensors"]);
    let refused = |files: &[&str], words: &str| {
        let error = shards_of(files).unwrap_err();
        assert!(error.contains(words), "{error}");
    };
    refused(&[], "has no .safetensors file");
    refused(&["config.json"], "has no .safetensors file");
    refused(
        &["pytorch_model.bin"],
        "pytorch_model.bin is not a safetensors file but a PyTorch one",
    );
    refused(&["pytorch_model.bin", "training_args.bin"], "/pytorch_model.bin");
    refused(
        &["pytorch_model-1.bin", "pytorch_model-2.bin", "pytorch_model.bin.index.json"],
        "1 more",
    );
    refused(&["model.Q4.gguf"], "GGUF");
    refused(&["A.safetensors", "a.safetensors"], "letter case");
    // Half a download.
    refused(&["model-00001-of-00002.safetensors"], "model-00002-of-00002.safetensors is missing");
    let both = ["m-00001-of-00002.safetensors", "m-00002-of-00002.safetensors"];
    check(&both, &both);
    check(&["m-1-of-2.safetensors"], &["m-1-of-2.safetensors"]);
}

#[test]
fn a_single_file_owns_no_directory() {
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), "config.json", "{}");
    for name in ["m.bin", "m.pt", "m.pth", "m.gguf", "m.json", "pytorch_model.bin.index.json"] {
        let error = Checkpoint::open(&put(dir.path(), name, "x")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidCheckpoint);
        assert!(error.to_string().contains("is not a safetensors file"), "{error}");
    }
    // A name may say nothing.
    let error = Checkpoint::open(&put(dir.path(), "sha256-0a1b", "GGUF\x03\0\0\0")).unwrap_err();
    assert!(error.to_string().contains("GGUF one"), "{error}");
    let path = put(dir.path(), "any.safetensors", vectors(&[("t", 5)]));
    let one = Checkpoint::open(&path).unwrap();
    assert_eq!(one.root(), dir.path());
    assert!(one.side_files().unwrap().files.is_empty());
    assert_eq!(one.total_bytes(), fs::metadata(&path).unwrap().len());
    let missing = Checkpoint::open(&dir.path().join("no such")).unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::Io);
}

#[test]
fn an_index_gives_its_shards_and_tensors_in_file_order() {
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), "b.safetensors", vectors(&[("z", 2), ("m", 0), ("e", 1)]));
    put(dir.path(), "a.safetensors", vectors(&[("q", 3)]));
    put(dir.path(), "stray.safetensors", "not read");
    let index =
        r#"{"metadata":{"total_size":6},"weight_map":{"z":"b.safetensors","q":"a.safetensors"}}"#;
    let path = put(dir.path(), "x.fp16.safetensors.index.json", index);
    let by_path = Checkpoint::open(&path).unwrap();
    fs::rename(&path, dir.path().join("model.safetensors.index.json")).unwrap();
    let by_dir = Checkpoint::open(dir.path()).unwrap();
    for checkpoint in [by_path, by_dir] {
        let order: Vec<_> = checkpoint.tensors().iter().map(|t| (t.shard, &*t.name)).collect();
        assert_eq!(order, [(0, "q"), (1, "z"), (1, "e"), (1, "m")]);
        let (at, e) = checkpoint.find("e").unwrap();
        assert_eq!((at, e.n_bytes, e.n_elements()), (2, 1, 1));
        assert_eq!(e.offset, checkpoint.shards()[1].header.len() as u64 + 2);
        assert!(checkpoint.find("nowhere").is_none());
    }
}

#[test]
fn a_cache_of_links_opens_and_a_dangling_one_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let (blobs, snapshot) = (dir.path().join("blobs"), dir.path().join("snapshots"));
    fs::create_dir(&blobs).unwrap();
    fs::create_dir(&snapshot).unwrap();
    put(&blobs, "0a1b", vectors(&[("t", 4)]));
    put(&blobs, "2c3d", "{}");
    symlink("../blobs/0a1b", snapshot.join("model.safetensors")).unwrap();
    symlink("../blobs/2c3d", snapshot.join("config.json")).unwrap();
    symlink("../blobs/gone", snapshot.join("tokenizer.json")).unwrap();
    let checkpoint = Checkpoint::open(&snapshot).unwrap();
    let side = checkpoint.side_files().unwrap();
    assert_eq!((side.files.len(), side.files[0].name.as_str()), (1, "config.json"));
    assert_eq!((side.skipped.len(), side.skipped[0].name.as_str()), (1, "tokenizer.json"));
    assert!(aliases(&blobs.join("0a1b"), &checkpoint));
    fs::remove_file(blobs.join("0a1b")).unwrap();
    assert!(open_error(&snapshot).contains("model.safetensors"));
}

#[test]
fn side_files_are_what_belongs_to_the_model() {
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), "model.safetensors", vectors(&[("t", 4)]));
    let carried = ["README.md", "config.json", "merges.txt", "tokenizer.model"];
    let left = [
        ".gitattributes",
        "model.safetensors.index.json.bak",
        "model.bin",
        "x.PT",
        "x.pth",
        "x.gguf",
        "x.h5",
        "x.msgpack",
        "x.onnx",
        "adapter_model.safetensors",
        "pytorch_model.bin.index.json",
    ];
    carried.iter().chain(&left).for_each(|name| drop(put(dir.path(), name, "x")));
    fs::remove_file(dir.path().join("model.safetensors.index.json.bak")).unwrap();
    fs::create_dir(dir.path().join("original")).unwrap();
    fs::create_dir(dir.path().join(".cache")).unwrap();
    put(dir.path(), "other.delta.zst", "x");
    put(dir.path(), "readme.md", "x");
    put(dir.path(), "a:b", "x");
    let huge = fs::File::create(dir.path().join("huge.npy")).unwrap();
    huge.set_len((256 << 20) + 1).unwrap();
    let side = Checkpoint::open(dir.path()).unwrap().side_files().unwrap();
    assert_eq!(side.files.iter().map(|f| &*f.name).collect::<Vec<_>>(), carried);
    let skipped: Vec<_> = side.skipped.iter().map(|f| &*f.name).collect();
    assert_eq!(skipped, ["a:b", "huge.npy", "original", "other.delta.zst", "readme.md"]);
}

#[test]
fn outputs_that_touch_an_input_are_found() {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("model");
    fs::create_dir(&model).unwrap();
    let file = put(&model, "model.safetensors", vectors(&[("t", 4)]));
    symlink(&model, dir.path().join("link")).unwrap();
    fs::hard_link(&file, dir.path().join("hard.delta.zst")).unwrap();
    let whole = Checkpoint::open(&model).unwrap();
    let one = Checkpoint::open(&file).unwrap();
    let check = |output: &Path, of_whole: bool, of_one: bool| {
        assert_eq!(aliases(output, &whole), of_whole, "{}", output.display());
        assert_eq!(aliases(output, &one), of_one, "{}", output.display());
    };
    let at = |name: &str| dir.path().join(name);
    check(&model, true, true);
    check(dir.path(), true, true);
    check(&at("link"), true, true);
    check(&at("link/new/out"), true, false);
    check(&at("model/out.delta.zst"), true, false);
    check(&file, true, true);
    check(&at("hard.delta.zst"), true, true);
    check(&at("model-2"), false, false);
    check(&at("out/new"), false, false);
    assert!(same_file(&model, &at("link")) && !same_file(&model, &at("none")));
}

#[test]
fn metadata_is_read_in_order() {
    let dir = tempfile::tempdir().unwrap();
    for (json, expected) in [
        (
            r#"{"__metadata__":{"format":"pt","a":"\u00e4"}}"#,
            Some(vec![("format", "pt"), ("a", "ä")]),
        ),
        (r#"{"__metadata__":null}"#, None),
        (r#"{}   "#, None),
    ] {
        let path = put(dir.path(), "x.safetensors", file_of(json, b""));
        let metadata =
            header_metadata(&Checkpoint::open(&path).unwrap().shards()[0].header, "x").unwrap();
        let expected = expected
            .map(|pairs| pairs.iter().map(|&(k, v)| (k.to_owned(), v.to_owned())).collect());
        assert_eq!(metadata, expected);
    }
}

#[test]
fn a_header_whose_length_reads_as_another_format_opens() {
    // 640 is 80 02, the start of a pickle.
    let dir = tempfile::tempdir().unwrap();
    let path = put(dir.path(), "x.safetensors", file_of(&format!("{:640}", "{}"), b""));
    assert!(Checkpoint::open(&path).unwrap().tensors().is_empty());
}
