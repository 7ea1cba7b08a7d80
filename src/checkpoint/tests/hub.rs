//! Names on the Hub, looked up in a cache that is made here as the Hub's own client makes it.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::{put, vectors};
use crate::checkpoint::{Checkpoint, HubCache, model_name};
use crate::error::{Error, ErrorKind};

const OLD: &str = "00aa11bb22cc33dd44ee55ff66aa77bb88cc99dd";
const NEW: &str = "00aa2222222222222222222222222222222222aa";

struct Cache {
    dir: tempfile::TempDir,
    hub: HubCache,
}

impl Cache {
    /// A cache with `org/model` at two commits, `main` the newer one.
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let hub = HubCache::at(dir.path().join("hub"));
        let cache = Self { dir, hub };
        cache.snapshot("org--model", OLD, &["model.safetensors", "config.json"]);
        cache.snapshot("org--model", NEW, &["model.safetensors", "config.json"]);
        cache.branch("org--model", "main", NEW);
        cache.branch("org--model", "v1.0", OLD);
        cache.branch("org--model", "pr/7", OLD);
        cache
    }

    fn model(&self, model: &str) -> PathBuf {
        self.hub.dir().join(format!("models--{model}"))
    }

    /// Links to blobs, each with a tensor of the commit's first byte.
    fn snapshot(&self, model: &str, commit: &str, files: &[&str]) {
        let (blobs, at) =
            (self.model(model).join("blobs"), self.model(model).join("snapshots").join(commit));
        fs::create_dir_all(&blobs).unwrap();
        fs::create_dir_all(&at).unwrap();
        for (i, file) in files.iter().enumerate() {
            let blob = format!("{commit}{i}");
            put(&blobs, &blob, vectors(&[(file, 4)]));
            symlink(format!("../../blobs/{blob}"), at.join(file)).unwrap();
        }
    }

    fn branch(&self, model: &str, name: &str, commit: &str) {
        let path = self.model(model).join("refs").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, commit).unwrap();
    }

    fn locate(&self, input: &str) -> Result<PathBuf, Error> {
        self.hub.locate(Path::new(input))
    }

    fn commit(&self, input: &str) -> String {
        let found = self.locate(input).unwrap();
        assert_eq!(Checkpoint::open(&found).unwrap().tensors().len(), 1, "{input}");
        found.file_name().unwrap().to_string_lossy().into_owned()
    }
}

#[test]
fn names_give_the_snapshots_of_their_revisions() {
    let cache = Cache::new();
    for (input, commit) in [
        ("org/model", NEW),
        ("org/model@main", NEW),
        ("org/model@v1.0", OLD),
        ("org/model@pr/7", OLD),
        (&format!("org/model@{OLD}"), OLD),
        ("org/model@00aa1", OLD),
        ("org/model@00AA2", NEW),
    ] {
        assert_eq!(cache.commit(input), commit, "{input}");
    }
    cache.snapshot("gpt2", OLD, &["model.safetensors"]);
    cache.branch("gpt2", "main", OLD);
    assert_eq!(cache.commit("gpt2"), OLD);
}

#[test]
fn a_local_path_wins_and_others_pass_unseen() {
    let cache = Cache::new();
    let there = cache.dir.path().to_str().unwrap();
    assert_eq!(cache.locate(there).unwrap(), cache.dir.path());
    // Tests run where the package is.
    cache.snapshot("src", OLD, &["model.safetensors"]);
    cache.branch("src", "main", OLD);
    assert_eq!(cache.locate("src").unwrap(), Path::new("src"));
    for path in
        ["./none", "../none", "/none", "a/b/c", "org/none.safetensors", "a--b/c", "a/..", ""]
    {
        assert_eq!(cache.locate(path).unwrap(), Path::new(path));
    }
    for path in
        ["org/model@", "org/model@../x", "org/model@a//b", "org/model@.git", "org/model@a b"]
    {
        assert_eq!(cache.locate(path).unwrap(), Path::new(path));
    }
}

#[test]
fn a_name_that_is_not_there_says_where_it_was_looked_for_and_how_to_get_it() {
    let cache = Cache::new();
    let refused = |input: &str, kind: ErrorKind, words: &[&str]| {
        let error = cache.locate(input).unwrap_err();
        let text = error.to_string();
        assert_eq!(error.kind(), kind, "{text}");
        words.iter().for_each(|word| assert!(text.contains(word), "{word}: {text}"));
    };
    let dir = cache.hub.dir().to_str().unwrap();
    let usage = ErrorKind::InvalidArgument;
    refused("org/other", usage, &["org/other is no local path", dir, "hf download org/other"]);
    refused(
        "org/model@v2",
        usage,
        &[dir, "revisions main, pr/7, v1.0 of it", "hf download org/model --revision v2"],
    );
    refused("org/model@00aa", usage, &["2 commits", "more of its digits"]);
    refused("org/model@00a", usage, &["--revision 00a"]);
    // These may be files that are missing.
    refused("none", ErrorKind::Io, &["none is no local path", dir, "check the path"]);
    refused("src/none", ErrorKind::Io, &["src/none is no local path", "hf download src/none"]);
}

#[test]
fn a_download_that_was_cut_off_is_told() {
    let cache = Cache::new();
    let refused = |input: &str, words: &[&str]| {
        let error = cache.locate(input).unwrap_err();
        let text = error.to_string();
        assert_eq!(error.kind(), ErrorKind::InvalidCheckpoint, "{text}");
        words.iter().for_each(|word| assert!(text.contains(word), "{word}: {text}"));
    };
    cache.snapshot("org--bare", OLD, &["config.json"]);
    cache.branch("org--bare", "main", OLD);
    refused("org/bare", &["org/bare is not whole", "has no weights", "hf download org/bare"]);
    let index = r#"{"weight_map":{"a":"a.safetensors","b":"b.safetensors"}}"#;
    cache.snapshot("org--half", OLD, &["a.safetensors"]);
    let at = cache.model("org--half").join("snapshots").join(OLD);
    fs::write(at.join("model.safetensors.index.json"), index).unwrap();
    refused(&format!("org/half@{OLD}"), &["b.safetensors is missing", "--revision 00aa11"]);
    fs::remove_file(cache.model("org--model").join("blobs").join(format!("{NEW}0"))).unwrap();
    refused("org/model", &["model.safetensors is missing"]);
    // A branch whose commit was never downloaded, and one that leads elsewhere.
    cache.branch("org--model", "dev", "ffff");
    let error = cache.locate("org/model@dev").unwrap_err().to_string();
    assert!(error.contains("--revision dev") && !error.contains("dev,"), "{error}");
    cache.branch("org--model", "out", "../../..");
    refused("org/model@out", &["refs/out"]);
    // Weights that are not read are for those to refuse who would read them.
    cache.snapshot("org--torch", OLD, &["pytorch_model.bin"]);
    let torch = cache.locate(&format!("org/torch@{OLD}")).unwrap();
    let error = Checkpoint::open(&torch).unwrap_err().to_string();
    assert!(error.contains("torch.load"), "{error}");
}

#[test]
fn the_environment_names_the_cache_in_order() {
    let of = |vars: &[(&str, &str)]| {
        let vars: Vec<_> = [("HOME", "/home/me")].iter().chain(vars).copied().collect();
        let find = |name: &str| {
            vars.iter().rev().find(|(n, _)| *n == name).map(|(_, v)| OsString::from(v))
        };
        HubCache::from_env(find).dir().to_str().unwrap().to_owned()
    };
    let mut vars = Vec::new();
    let mut check = |var, dir: &str| {
        vars.push(var);
        assert_eq!(of(&vars), dir);
    };
    check(("NONE", ""), "/home/me/.cache/huggingface/hub");
    check(("XDG_CACHE_HOME", "/xdg"), "/xdg/huggingface/hub");
    check(("HF_HOME", "/hf"), "/hf/hub");
    check(("HUGGINGFACE_HUB_CACHE", "/older"), "/older");
    check(("HF_HUB_CACHE", "/newer"), "/newer");
    check(("HF_HUB_CACHE", ""), "/older");
    assert_eq!(of(&[("HF_HOME", "~/hf")]), "/home/me/hf/hub");
    assert_eq!(of(&[("HF_HOME", "$HOME/a/${HOME}$NONE")]), "/home/me/a//home/me$NONE/hub");
}

#[test]
fn paths_in_a_cache_have_the_models_name() {
    let name = |path: &str| model_name(Path::new(path));
    assert_eq!(name("/c/models--org--a-b.c/snapshots/00aa").as_deref(), Some("a-b.c"));
    assert_eq!(name("/c/models--gpt2/blobs/00aa").as_deref(), Some("gpt2"));
    assert_eq!(name("/c/models/org/name"), None);
    assert_eq!(name("/c/models--/x"), None);
}
