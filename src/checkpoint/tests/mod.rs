//! Checkpoints made of bytes, opened; one file a theme.

mod hostile;
mod hub;
mod opening;
mod round_trip;
mod windows;
mod writing;

use std::fs;
use std::path::{Path, PathBuf};

use crate::checkpoint::Checkpoint;

/// A safetensors file of this JSON and these tensor bytes.
fn file_of(json: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(json.as_bytes());
    bytes.extend_from_slice(data);
    bytes
}

/// A file of U8 vectors: their names, and for each byte `i` of a vector `i % 251`.
fn vectors(tensors: &[(&str, usize)]) -> Vec<u8> {
    let mut at = 0;
    let mut data = Vec::new();
    let entry = |&(name, n): &(&str, usize)| {
        let range = (at, at + n);
        at += n;
        data.extend((0..n).map(|i| (i % 251) as u8));
        let offsets = format!("[{},{}]", range.0, range.1);
        format!(r#""{name}":{{"dtype":"U8","shape":[{n}],"data_offsets":{offsets}}}"#)
    };
    let entries: Vec<String> = tensors.iter().map(entry).collect();
    file_of(&format!("{{{}}}", entries.join(",")), &data)
}

fn put(dir: &Path, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
    let path = dir.join(name);
    fs::write(&path, bytes).unwrap();
    path
}

fn open_error(path: &Path) -> String {
    Checkpoint::open(path).unwrap_err().to_string()
}

/// Names in a directory, hidden ones too.
fn names_in(dir: &Path) -> Vec<String> {
    let names = fs::read_dir(dir).unwrap();
    let mut names: Vec<String> =
        names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
