//! What the themes share: a made-up pair in a directory of its own, runs of the binary, its JSON.

use std::path::{Path, PathBuf};

use assert_cmd::Command;
use assert_cmd::assert::Assert;
use delta_stream::{PairShape, make_pair};
use serde_json::Value;
use tempfile::TempDir;

/// A directory with `base` and `fine-tune`, removed when dropped.
pub(crate) struct Pair {
    dir: TempDir,
}

impl Pair {
    /// A pair of some hundred thousand parameters, in two and three shards.
    pub(crate) fn new() -> Self {
        Self::of(&small())
    }

    pub(crate) fn of(shape: &PairShape) -> Self {
        let dir = tempfile::tempdir().unwrap();
        make_pair(dir.path(), shape, 2).unwrap();
        Self { dir }
    }

    /// A directory without anything in it.
    pub(crate) fn empty() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    /// A pair with `a.delta.zst`, which holds the variant `small` (delta-dct).
    pub(crate) fn with_archive() -> Self {
        let pair = Self::new();
        pair.run("compress --shards fine-tune --base base -o a.delta.zst --name small").success();
        pair
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The binary, to be run in the pair's directory with these words as arguments.
    pub(crate) fn command(&self, line: &str) -> Command {
        let mut command = Command::from(program());
        command.current_dir(self.dir.path()).args(line.split_whitespace());
        command
    }

    pub(crate) fn run(&self, line: &str) -> Assert {
        self.command(line).assert()
    }

    /// Runs with `--json`, demands this exit code, and parses the one object.
    pub(crate) fn json(&self, line: &str, code: i32) -> Value {
        let assert = self.command(line).arg("--json").assert().code(code);
        let value: Value = serde_json::from_slice(&assert.get_output().stdout).unwrap();
        assert!(value.is_object(), "{line}: {value}");
        value
    }

    /// Names in the directory, sorted.
    pub(crate) fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.dir.path()).unwrap();
        let mut names: Vec<String> =
            entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

/// The binary, with nothing of the environment that it heeds: a machine that runs tests may ask for colour, backtraces or
/// a cache of models.
pub(crate) fn program() -> std::process::Command {
    bare(env!("CARGO_BIN_EXE_delta-stream"))
}

/// A program that gets as much of the environment as it takes to run.
pub(crate) fn bare(program: &str) -> std::process::Command {
    let kept = ["PATH", "HOME", "TMPDIR"];
    let mut command = std::process::Command::new(program);
    command.env_clear().envs(kept.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
    command
}

pub(crate) fn small() -> PairShape {
    PairShape::small().with_sizes(64, 96, 128, 2)
}

/// What a run wrote to standard error.
pub(crate) fn stderr(assert: &Assert) -> String {
    String::from_utf8(assert.get_output().stderr.clone()).unwrap()
}

/// What a run wrote to standard output.
pub(crate) fn stdout(assert: &Assert) -> String {
    String::from_utf8(assert.get_output().stdout.clone()).unwrap()
}

/// Whether two directories hold the same files with the same bytes.
pub(crate) fn assert_same_files(a: &Path, b: &Path) {
    let list = |dir: &Path| {
        let mut files: Vec<_> = std::fs::read_dir(dir)
            .unwrap()
            .map(|e| e.unwrap())
            .map(|e| (e.file_name(), std::fs::read(e.path()).unwrap()))
            .collect();
        files.sort();
        files
    };
    let (a, b) = (list(a), list(b));
    let names = |files: &[(std::ffi::OsString, Vec<u8>)]| -> Vec<std::ffi::OsString> {
        files.iter().map(|f| f.0.clone()).collect()
    };
    assert_eq!(names(&a), names(&b));
    for (a, b) in a.iter().zip(&b) {
        assert!(a == b, "{:?} differs", a.0);
    }
}
