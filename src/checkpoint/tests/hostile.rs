//! Headers and indexes that lie, each with the words it must be refused with.

use super::{file_of, open_error, put, vectors};
use crate::checkpoint::{Checkpoint, parse_layout};
use crate::error::ErrorKind;

/// JSON, tensor bytes in the file, words of the message.
const HEADERS: &[(&str, usize, &str)] = &[
    ("", 0, "not what the format asks for"),
    ("[]", 0, "an object of tensors"),
    ("{", 0, "not what the format asks for"),
    ("{} x", 0, "trailing characters"),
    (r#"{"a":1}"#, 0, "\"a\""),
    (r#"{"a":{"dtype":"U8","shape":[2]}}"#, 2, "data_offsets"),
    (r#"{"a":{"dtype":"U8","shape":[2],"data_offsets":[0]}}"#, 2, "tuple"),
    (r#"{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2,2]}}"#, 2, "\"a\""),
    (r#"{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,-2]}}"#, 2, "integer `-2`"),
    (r#"{"a":{"dtype":"U8","shape":[2.0],"data_offsets":[0,2]}}"#, 2, "floating point"),
    (r#"{"a":{"dtype":"U8","shape":[99999999999999999999],"data_offsets":[0,2]}}"#, 2, "\"a\""),
    (r#"{"a":{"dtype":"F7","shape":[2],"data_offsets":[0,2]}}"#, 2, "unknown dtype \"F7\""),
    (r#"{"a":{"dtype":"U8","dtype":"U8","shape":[2],"data_offsets":[0,2]}}"#, 2, "duplicate field"),
    (
        r#"{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}"#,
        2,
        "tensor \"a\": the header has it twice",
    ),
    (
        r#"{"\u0061":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}"#,
        2,
        "twice (duplicate key)",
    ),
    (r#"{"__metadata__":{"a":"b","a":"c"}}"#, 0, "duplicate key \"a\""),
    (r#"{"__metadata__":{},"__metadata__":{}}"#, 0, "duplicate key __metadata__"),
    (r#"{"__metadata__":{"a":1}}"#, 0, "__metadata__"),
    (r#"{"a":{"dtype":"U8","shape":[2],"data_offsets":[2,0]}}"#, 2, "before it begins"),
    (r#"{"a":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}"#, 3, "a hole before it, 0..1"),
    (
        r#"{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}"#,
        3,
        "tensor \"b\": it overlaps another",
    ),
    (
        r#"{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[0],"data_offsets":[1,1]}}"#,
        2,
        "tensor \"b\": it overlaps another",
    ),
    (r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,2]}}"#, 2, "F32 [2] needs 8 bytes"),
    (r#"{"a":{"dtype":"F4","shape":[3],"data_offsets":[0,2]}}"#, 2, "fill whole bytes"),
    (r#"{"a":{"dtype":"F6_E2M3","shape":[2],"data_offsets":[0,2]}}"#, 2, "fill whole bytes"),
    (
        r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,2]}}"#,
        2,
        "overflows 64 bits",
    ),
    (
        r#"{"a":{"dtype":"F32","shape":[9223372036854775807],"data_offsets":[0,2]}}"#,
        2,
        "overflows 64 bits",
    ),
    (
        r#"{"a":{"dtype":"U8","shape":[2305843009213693951],"data_offsets":[0,2305843009213693951]}}"#,
        2,
        "truncated: the file ends at",
    ),
    (r#"{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}"#, 1, "download it again"),
    (r#"{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}"#, 3, "1 trailing bytes"),
    (r#"{"\ud800":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}"#, 2, "hex escape"),
];

#[test]
fn broken_headers_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    for &(json, n, words) in HEADERS {
        let path = put(dir.path(), "x.safetensors", file_of(json, &vec![0; n]));
        let error = Checkpoint::open(&path).unwrap_err();
        let text = error.to_string();
        assert_eq!(error.kind(), ErrorKind::InvalidCheckpoint, "{json}: {text}");
        assert!(text.contains(words) && text.contains("x.safetensors"), "{json}: {text}");
    }
}

#[test]
fn files_that_hold_no_header_are_refused_by_what_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let long = [100_000_001u64.to_le_bytes(), *b"{      }"].concat();
    let promised = [1000u64.to_le_bytes(), *b"{      }"].concat();
    let not_utf8 = file_of("{\"a\":1}", b"").into_iter().map(|b| if b == b'a' { 255 } else { b });
    for (bytes, words) in [
        (Vec::new(), "has 0 bytes"),
        (vec![1; 7], "has 7 bytes"),
        (long, "more than the format's 100000000"),
        (promised, "truncated: the file ends at 16, its header promises 1008"),
        (b"version https://git-lfs.github.com/spec/v1\n".to_vec(), "git lfs pull"),
        (b"GGUF\x03\0\0\0\0\0\0\0".to_vec(), "GGUF"),
        (b"PK\x03\x04\0\0\0\0\0\0\0\0".to_vec(), "PyTorch"),
        (b"<!DOCTYPE html>".to_vec(), "web page"),
        (not_utf8.collect(), "not what the format asks for"),
    ] {
        let path = put(dir.path(), "x.safetensors", bytes);
        let error = open_error(&path);
        assert!(error.contains(words), "{words}: {error}");
    }
}

#[test]
fn shapes_of_many_dimensions_do_not_grow_in_memory() {
    let dir = tempfile::tempdir().unwrap();
    for (n, good) in [(64, true), (65, false), (100_000, false)] {
        let shape = vec!["1"; n].join(",");
        let json = format!(r#"{{"a":{{"dtype":"U8","shape":[{shape}],"data_offsets":[0,1]}}}}"#);
        let path = put(dir.path(), "x.safetensors", file_of(&json, &[7]));
        assert_eq!(Checkpoint::open(&path).is_ok(), good, "{n} dimensions");
    }
}

#[test]
fn a_long_string_is_not_quoted_whole() {
    let dir = tempfile::tempdir().unwrap();
    let json = format!(r#"{{"weight_map":"{}"}}"#, "x".repeat(100_000));
    let index = put(dir.path(), "x.safetensors.index.json", &json);
    let shard = put(dir.path(), "x.safetensors", file_of(&json.replace("weight_map", "a"), b""));
    for path in [index, shard] {
        let error = open_error(&path);
        assert!(error.len() < 1000 && error.contains("..."), "{}", error.len());
    }
}

#[test]
fn a_file_cut_or_changed_anywhere_never_panics() {
    let dir = tempfile::tempdir().unwrap();
    let whole = vectors(&[("a", 3), ("b", 0), ("c", 2)]);
    for n in 0..whole.len() {
        let path = put(dir.path(), "x.safetensors", &whole[..n]);
        assert!(Checkpoint::open(&path).is_err(), "cut at {n}");
    }
    for i in 0..whole.len() - 5 {
        for bit in 0..8 {
            let mut bytes = whole.clone();
            bytes[i] ^= 1 << bit;
            // A changed name is still a checkpoint; a panic or an abort would end the test.
            let _ = parse_layout("x.safetensors", &bytes[..whole.len() - 5], "test");
        }
    }
}

#[test]
fn a_stored_header_is_held_to_the_same_rules() {
    let good = vectors(&[("a", 3)]);
    let header = &good[..good.len() - 3];
    let layout = parse_layout("x.safetensors", header, "archive Y").unwrap();
    assert_eq!(layout.file_len, good.len() as u64);
    assert_eq!(layout.tensors, [("a".to_owned(), header.len() as u64, 3)]);
    for (name, header) in
        [("../x", header), ("x", &good[..]), ("x", &header[..9]), ("x", &header[..5]), ("x", b"")]
    {
        let error = parse_layout(name, header, "archive Y").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidCheckpoint);
        assert!(error.to_string().contains("archive Y"), "{error}");
    }
}

#[test]
fn indexes_that_lie_are_refused() {
    for (index, words) in [
        (r#"{"weight_map":{"a":"../one.safetensors"}}"#, "path separator"),
        (r#"{"weight_map":{"a":"/one.safetensors"}}"#, "path separator"),
        (r#"{"weight_map":{"a":"sub/one.safetensors"}}"#, "path separator"),
        (r#"{"weight_map":{"a":"C:one.safetensors"}}"#, "colon"),
        (r#"{"weight_map":{"a":".."}}"#, "not the name of a file"),
        (r#"{"weight_map":{"a":"pytorch_model.bin"}}"#, "does not end in .safetensors"),
        (r#"{"weight_map":{"a":"three.safetensors"}}"#, "is missing; download it too"),
        (r#"{"weight_map":{"a":"two.safetensors"}}"#, "should be in two.safetensors, which lacks"),
        (r#"{"weight_map":{"z":"one.safetensors"}}"#, "tensor \"z\" should be in one.safetensors"),
        (
            r#"{"weight_map":{"a":"one.safetensors","a":"one.safetensors"}}"#,
            "tensor \"a\" is named twice",
        ),
        (r#"{"weight_map":{"a":"one.safetensors"},"weight_map":{}}"#, "duplicate field"),
        (r#"{"weight_map":{"a":"one.safetensors","d":"same.safetensors"}}"#, "is in both"),
        (r#"{"weight_map":{}}"#, "weight_map is empty"),
        (r#"{"metadata":{}}"#, "missing field `weight_map`"),
        (r#"{"weight_map":{"a":7}}"#, "not an index"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        put(dir.path(), "one.safetensors", vectors(&[("a", 3)]));
        put(dir.path(), "two.safetensors", vectors(&[("b", 3)]));
        put(dir.path(), "same.safetensors", vectors(&[("a", 3), ("d", 1)]));
        put(dir.path(), "model.safetensors.index.json", index);
        let error = Checkpoint::open(dir.path()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidCheckpoint, "{error}");
        assert!(error.to_string().contains(words), "{index}: {error}");
    }
}
