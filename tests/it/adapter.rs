//! Fine-tunes that are LoRA adapters: merged as this file does it, one element at a time, and never
//! differently whatever the machine.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use delta_stream::{
    Auto, CompressOptions, ErrorKind, HubCache, IoMode, Method, Observer, PartOptions, Resources,
    RestoreOptions, Silent,
};
use half::{bf16, f16};

use crate::determinism::choice;
use crate::made::{
    Files, Outcome, Place, Rng, Tensor, alone, encode, kind_of, shard, tensor, tensors, write,
};
use crate::resume::{Lab, WORKERS, cut_off, program, run_for, store, strays};

const CONFIG: &str = r#"{"peft_type": "LORA", "r": 8, "lora_alpha": 12, "use_rslora": true, "bias": "none",
    "rank_pattern": {"key": 3, "layer.0.c_proj": 5}, "alpha_pattern": {"query": 32}, "use_dora": false,
    "fan_in_fan_out": false, "modules_to_save": ["score"], "base_model_name_or_path": "some/base",
    "init_lora_weights": true, "target_modules": ["query"]}"#;

/// One low-rank change: the base's tensor, its dtype and shape, the adapter's name for it and the spelling
/// of its factors, rank, scale, and whether the weight lies as `[in, out]`.
struct Change {
    name: &'static str,
    dtype: &'static str,
    shape: [usize; 2],
    module: &'static str,
    spelling: [&'static str; 2],
    factors: &'static str,
    rank: usize,
    scale: f64,
    is_turned: bool,
}

const PLAIN: [&str; 2] = ["lora_A.weight", "lora_B.weight"];
const NAMED: [&str; 2] = ["lora_A.default.weight", "lora_B.default.weight"];
const EMBEDDING: [&str; 2] = ["lora_embedding_A", "lora_embedding_B"];

/// Adapters of every spelling; the first is larger than a tile.
fn changes() -> Vec<Change> {
    let of = |name, dtype, shape, module, spelling, factors, rank, alpha: f64| Change {
        name,
        dtype,
        shape,
        module,
        spelling,
        factors,
        rank,
        scale: alpha / (rank as f64).sqrt(),
        is_turned: spelling == EMBEDDING || name.contains("c_proj"),
    };
    let query = "bert.layer.0.query";
    vec![
        of("bert.layer.0.query.weight", "BF16", [1500, 1100], query, PLAIN, "BF16", 8, 32.0),
        of("bert.layer.0.key.weight", "F32", [64, 64], "layer.0.key", NAMED, "F32", 3, 12.0),
        of(
            "bert.layer.0.c_proj.weight",
            "F16",
            [70, 90],
            "x.bert.layer.0.c_proj",
            PLAIN,
            "F32",
            5,
            12.0,
        ),
        of("bert.layer.0.out.weight", "F64", [16, 20], "bert.layer.0.out", PLAIN, "F64", 8, 12.0),
        of("bert.words.weight", "F32", [300, 24], "bert.words", EMBEDDING, "F16", 8, 12.0),
    ]
}

/// Base and adapter, and what the two make.
struct Case {
    place: Place,
    merged: Files,
}

fn values(bytes: &[u8], dtype: &str) -> Vec<f64> {
    let chunk = |n: usize| bytes.chunks_exact(n);
    match dtype {
        "F64" => chunk(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect(),
        "F32" => chunk(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()).into()).collect(),
        "F16" => chunk(2).map(|b| f16::from_le_bytes(b.try_into().unwrap()).into()).collect(),
        _ => chunk(2).map(|b| bf16::from_le_bytes(b.try_into().unwrap()).into()).collect(),
    }
}

/// The merged weight, an element at a time: f64 for F64, else f32, the rank in ascending order.
fn merged(c: &Change, base: &[u8], a: &[u8], b: &[u8]) -> Vec<u8> {
    let [n_rows, n_cols] = c.shape;
    let (n_in, n_out) = if c.is_turned { (n_rows, n_cols) } else { (n_cols, n_rows) };
    let (base, a, b) = (values(base, c.dtype), values(a, c.factors), values(b, c.factors));
    assert_eq!((a.len(), b.len()), (c.rank * n_in, n_out * c.rank));
    let mut out = Vec::new();
    assert_eq!(base.len(), n_rows * n_cols);
    for (i, base) in base.into_iter().enumerate() {
        let (row, col) = (i / n_cols, i % n_cols);
        let (x, y) = if c.is_turned { (row, col) } else { (col, row) };
        let pairs = (0..c.rank).map(|k| (b[y * c.rank + k], a[k * n_in + x]));
        if c.dtype == "F64" {
            let sum = pairs.fold(0.0, |sum, (b, a)| sum + b * a);
            out.extend((base + sum * c.scale).to_le_bytes());
        } else {
            let sum = pairs.fold(0.0f32, |sum, (b, a)| sum + b as f32 * a as f32);
            out.extend(encode(c.dtype, &[base as f32 + sum * c.scale as f32]));
        }
    }
    out
}

fn case() -> Outcome<Case> {
    let mut rng = Rng::new(17);
    let mut random = |name: &str, dtype: &'static str, shape: &[usize]| -> Tensor {
        let drawn: Vec<f32> = (0..shape.iter().product()).map(|_| rng.value(0.05)).collect();
        let shape: Vec<u64> = shape.iter().map(|n| *n as u64).collect();
        tensor(name, dtype, &shape, encode(dtype, &drawn))
    };
    let (mut base, mut adapter, mut fine) = (Vec::new(), Vec::new(), Vec::new());
    for c in changes() {
        let [n_rows, n_cols] = c.shape;
        let (n_in, n_out) = if c.is_turned { (n_rows, n_cols) } else { (n_cols, n_rows) };
        let name = |part: usize| format!("base_model.model.{}.{}", c.module, c.spelling[part]);
        let weight = random(c.name, c.dtype, &[n_rows, n_cols]);
        let a = random(&name(0), c.factors, &[c.rank, n_in]);
        let b = random(&name(1), c.factors, &[n_out, c.rank]);
        let bytes = merged(&c, &weight.bytes, &a.bytes, &b.bytes);
        assert_ne!(bytes, weight.bytes);
        fine.push(Tensor { bytes, ..weight.clone() });
        base.push(weight);
        adapter.extend([a, b]);
    }
    let norm = random("bert.norm.weight", "F32", &[64]);
    let (score, saved) = (random("score.weight", "BF16", &[2, 64]), random("", "F32", &[2, 64]));
    let as_base: Vec<f32> = values(&saved.bytes, "F32").iter().map(|v| *v as f32).collect();
    fine.push(norm.clone());
    fine.push(Tensor { bytes: encode("BF16", &as_base), ..score.clone() });
    base.extend([norm, score]);
    adapter.push(Tensor { name: "base_model.model.score.weight".into(), ..saved });
    let side = |files: &mut Files, of: &[(&str, &str)]| {
        of.iter().for_each(|(name, text)| drop(files.insert((*name).into(), (*text).into())));
    };
    let metadata = Some(r#"{"format":"pt"}"#);
    let of_base = |tensors: &[Tensor]| {
        let mut files = Files::from([("model.safetensors".into(), shard(tensors, metadata, 3))]);
        side(
            &mut files,
            &[("config.json", "{}"), ("tokenizer.json", "base"), ("vocab.txt", "base")],
        );
        files
    };
    let mut merged = of_base(&fine);
    side(&mut merged, &[("tokenizer.json", "adapter")]);
    let mut files = Files::from([("adapter_model.safetensors".into(), shard(&adapter, None, 0))]);
    side(&mut files, &[("adapter_config.json", CONFIG), ("tokenizer.json", "adapter")]);
    side(&mut files, &[("README.md", "of the adapter"), ("training_args.bin", "x")]);
    Ok(Case { place: Place::new(&of_base(&base), &files)?, merged })
}

fn options(method: Method) -> CompressOptions {
    CompressOptions::new(method).with_name("v").with_force(true)
}

#[test]
fn an_adapter_is_the_base_with_it_merged() -> Outcome {
    let Case { place, merged } = case()?;
    let report = place.compress(Method::Lossless)?;
    let bytes: usize = merged.values().map(Vec::len).sum();
    assert_eq!((report.variant.as_str(), report.fine_tuned_bytes), ("ft", bytes as u64));
    let restored = place.restore(&RestoreOptions::default())?;
    assert_eq!(restored.keys().collect::<Vec<_>>(), merged.keys().collect::<Vec<_>>());
    let (got, want) = (tensors(&restored)?, tensors(&merged)?);
    for (name, want) in &want {
        assert!(got[name] == *want, "{name} differs");
    }
    assert!(restored == merged, "headers or side files differ");
    // Both ways of saying the same are the same.
    write(&place.path("merged"), &merged)?;
    let compare = |a: &str, base: Option<&Path>| {
        let (a, b) = (place.path(a), place.path("merged"));
        delta_stream::compare(&a, &b, base, &Resources::default(), &Silent)
    };
    assert!(compare("ft", Some(&place.base))?.identical);
    assert!(!compare("base", Some(&place.base))?.identical);
    let error = compare("ft", None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert!(error.to_string().contains("--base"), "{error}");
    let forecast =
        delta_stream::forecast(&place.ft, &place.base, &options(Method::Lossless), &Silent)?;
    assert!(forecast.notes.iter().any(|note| note.contains("5 changed tensors and 1 whole ones")));
    assert!(
        forecast.notes.iter().any(|note| note.starts_with("README.md")),
        "{:?}",
        forecast.notes
    );
    Ok(())
}

#[test]
fn threads_memory_and_ways_to_read_never_show() -> Outcome {
    let Case { place, merged } = case()?;
    write(&place.path("merged"), &merged)?;
    for method in [Method::Lossless, Method::Auto(Auto::default())] {
        let archive = |ft: &Path, resources: Resources| -> Outcome<Vec<u8>> {
            let options = options(method.clone()).with_resources(resources);
            delta_stream::compress(ft, &place.base, &place.archive, &options, &Silent)?;
            Ok(fs::read(&place.archive)?)
        };
        // The adapter makes the archive that its merged checkpoint makes.
        let want = archive(&place.path("merged"), Resources::default())?;
        for (threads, mib, map) in
            [(1, 128, IoMode::Read), (5, 1024, IoMode::Mmap), (2, 192, IoMode::Direct)]
        {
            let resources = Resources::default().with_threads(threads).with_max_memory(mib << 20);
            let got = archive(&place.ft, resources.with_map(choice(map)))?;
            assert!(got == want, "{method:?} by {threads} threads, {map:?}");
        }
    }
    Ok(())
}

/// Its parts are told apart by the files, which for an adapter are not those of its checkpoint.
#[test]
fn an_adapter_is_compressed_in_parts_as_in_one_run() -> Outcome {
    let Case { place, .. } = case()?;
    let options = options(Method::Lossless);
    delta_stream::compress(&place.ft, &place.base, &place.archive, &options, &Silent)?;
    let split = delta_stream::split(&place.ft, &place.base, 2, &options, &Silent)?;
    let parts: Vec<_> = (0..2).map(|n| place.path(&format!("part-{n}"))).collect();
    let run = |n: usize| {
        let of = PartOptions::new(split.clone(), n as u32 + 1);
        delta_stream::compress_part(&place.ft, &place.base, &parts[n], &of, &options, &Silent)
    };
    run(0)?;
    run(1)?;
    let joined = place.path("joined.delta.zst");
    delta_stream::join(&parts, &joined, false, &Silent)?;
    assert!(fs::read(&joined)? == fs::read(&place.archive)?, "the bytes are those of one run");
    // Another adapter is other work.
    fs::write(place.ft.join("adapter_config.json"), CONFIG.replacen("12", "13", 1))?;
    let error = run(0).unwrap_err();
    assert!(error.to_string().contains("split"), "{error}");
    Ok(())
}

#[test]
fn what_is_no_plain_lora_is_refused_with_the_way_out() -> Outcome {
    let Case { place, .. } = case()?;
    let config = place.ft.join("adapter_config.json");
    let refused = |words: &[&str]| {
        let error = place.compress(Method::Lossless).unwrap_err();
        let text = error.to_string();
        assert_eq!(error.kind(), ErrorKind::InvalidCheckpoint, "{text}");
        words.iter().for_each(|word| assert!(text.contains(word), "{word}: {text}"));
        assert!(!place.archive.exists());
    };
    for (from, to, words) in [
        ("\"LORA\"", "\"LOHA\"", &["adapter_config.json", "LOHA", "merge_and_unload"][..]),
        ("\"use_dora\": false", "\"use_dora\": true", &["DoRA"]),
        ("\"none\"", "\"lora_only\"", &["bias is \"lora_only\""]),
        ("\"init_lora_weights\": true", "\"init_lora_weights\": \"pissa\"", &["pissa"]),
        ("\"r\": 8", "\"r\": 4", &["rank 8", "says 4", "lora_A"]),
        ("\"r\": 8", "\"r\": \"8\"", &["r is no number"]),
        ("\"key\": 3", "\"key(\": 3", &["rank_pattern", "key("]),
        ("{\"peft_type\"", "[\"peft_type\"", &["no JSON object"]),
    ] {
        assert!(CONFIG.contains(from));
        fs::write(&config, CONFIG.replacen(from, to, 1))?;
        refused(words);
    }
    fs::write(&config, CONFIG)?;
    let weights = place.ft.join("adapter_model.safetensors");
    let factor = |name: &str, shape: [u64; 2]| {
        let n = (shape[0] * shape[1]) as usize;
        tensor(name, "F32", &shape, encode("F32", &vec![0.5; n]))
    };
    let a = |name: &str, n: u64| factor(&format!("{name}.lora_A.weight"), [3, n]);
    let b = |name: &str, n: u64| factor(&format!("{name}.lora_B.weight"), [n, 3]);
    for (of, words) in [
        (vec![a("bert.layer.0.key", 64)], &["without its other factor"][..]),
        (vec![a("layer.9.key", 64), b("layer.9.key", 64)], &["layer.9.key", "some/base"]),
        (vec![a("layer.0.key", 63), b("layer.0.key", 64)], &["make no [64, 64]"]),
        (vec![factor("layer.0.key.lora_magnitude_vector", [1, 64])], &["DoRA"]),
        (vec![factor("score.weight", [3, 64])], &["shape [3, 64]", "[2, 64]"]),
    ] {
        fs::write(&weights, shard(&of, None, 0))?;
        refused(&[&["adapter_model.safetensors"], words].concat());
    }
    fs::remove_file(&weights)?;
    fs::write(place.ft.join("adapter_model.bin"), "x")?;
    refused(&["adapter_model.bin", "torch.load", "adapter_model.safetensors"]);
    Ok(())
}

/// Moments at which a run is ended, and as many at which it is killed.
const MOMENTS: u32 = 6;

#[test]
fn a_run_that_was_cut_off_goes_on_to_the_same_bytes() -> Outcome {
    alone("adapter::a_run_that_was_cut_off_goes_on_to_the_same_bytes", from_anywhere)
}

fn from_anywhere() -> Outcome {
    for (method, appends) in [
        (Method::Lossless, false),
        (Method::Auto(Auto::default()), false),
        (Method::Lossless, true),
    ] {
        let lab = Lab::new(case()?.place, resumable(method.clone()), appends)?;
        let mut most = 0;
        for i in 0..MOMENTS {
            let cut = 1 + u64::from(i) * (lab.n_tiles - 2) / u64::from(MOMENTS - 1);
            most = most.max(lab.end_and_resume(cut)?);
            let moment = lab.lasts.mul_f64(f64::from(2 * i + 1) / f64::from(2 * MOMENTS));
            most = most.max(lab.kill_and_resume(moment)?.map_or(0, |[tiles, _]| tiles));
        }
        println!(
            "{}, appends: {appends}: at most {most} of {} tiles again",
            method.name(),
            lab.n_tiles
        );
        assert!(most <= WORKERS as u64, "{method:?}: {most} tiles again");
    }
    Ok(())
}

fn resumable(method: Method) -> CompressOptions {
    let resources = Resources::default().with_threads(WORKERS);
    CompressOptions::new(method).with_name("v").with_resources(resources)
}

#[test]
fn a_program_that_was_killed_goes_on_to_the_same_bytes() -> Outcome {
    let Case { place, .. } = case()?;
    let line = "--shards ft -o ft.delta.zst --name v --method lossless";
    let command = || program(&place, "compress", line);
    let started = Instant::now();
    run_for(&mut command(), None)?;
    let (lasts, wanted) = (started.elapsed(), fs::read(&place.archive)?);
    let mut n_killed = 0;
    for i in 0..2 * MOMENTS {
        fs::remove_file(&place.archive)?;
        let moment = lasts.mul_f64(f64::from(i) / f64::from(2 * MOMENTS));
        n_killed += u32::from(run_for(&mut command(), Some(moment))?.is_none());
        if !place.archive.exists() {
            run_for(&mut command(), None)?;
        }
        assert!(fs::read(&place.archive)? == wanted, "kill {i}");
        assert_eq!(strays(&place)?, [""; 0], "kill {i}");
    }
    assert!(n_killed > 0, "no kill came in time");
    Ok(())
}

#[test]
fn a_run_does_not_go_on_with_another_adapter() -> Outcome {
    alone("adapter::a_run_does_not_go_on_with_another_adapter", others_refused)
}

fn others_refused() -> Outcome {
    let Case { place, .. } = case()?;
    let options = resumable(Method::Lossless);
    store(&place, &options, &Silent)?;
    let wanted = fs::read(&place.archive)?;
    fs::remove_file(&place.archive)?;
    cut_off(&place, &options, 4);
    let resumes = options.clone().with_resume(true);
    let refused = |what: &str| {
        let error = store(&place, &resumes, &Silent).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{what}: {error}");
        assert!(error.to_string().contains("without --resume"), "{what}: {error}");
    };
    let config = place.ft.join("adapter_config.json");
    for (from, to) in [("\"lora_alpha\": 12", "\"lora_alpha\": 13"), ("\"key\": 3", "\"key\": 3.0")]
    {
        fs::write(&config, CONFIG.replacen(from, to, 1))?;
        refused(to);
    }
    // What was refused is still there, and goes on with what it began with.
    fs::write(&config, CONFIG)?;
    let report = store(&place, &resumes, &Silent)?;
    assert!(report.resumed_tensors > 0 && fs::read(&place.archive)? == wanted);
    fs::remove_file(&place.archive)?;

    // Of tensors the file's length and times are compared, as of any shard.
    let weights = place.ft.join("adapter_model.safetensors");
    let mut bytes = fs::read(&weights)?;
    *bytes.last_mut().ok_or("no bytes")? ^= 1;
    cut_off(&place, &options, 4);
    fs::write(&weights, &bytes)?;
    refused("a factor");
    // A run that does not resume starts again and leaves nothing.
    assert_eq!(store(&place, &options, &Silent)?.resumed_tensors, 0);
    assert!(fs::read(&place.archive)? != wanted);
    assert_eq!(strays(&place)?, [""; 0]);
    Ok(())
}

/// Writes to a file as soon as it hears of progress.
struct Touch<'a>(&'a Path, AtomicBool);

impl Observer for Touch<'_> {
    fn progress(&self, _done: u64, _total: u64) {
        if !self.1.swap(true, Ordering::Relaxed) {
            let mut bytes = fs::read(self.0).unwrap();
            *bytes.last_mut().unwrap() ^= 1;
            bytes.push(0);
            fs::write(self.0, bytes).unwrap();
        }
    }
    fn note(&self, _text: &str) {}
    fn is_cancelled(&self) -> bool {
        false
    }
}

#[test]
fn an_adapter_that_changes_ends_the_run_and_an_output_is_not_put_into_it() -> Outcome {
    let Case { place, .. } = case()?;
    let inside = place.ft.join("a.delta.zst");
    let options = options(Method::Lossless);
    let error = delta_stream::compress(&place.ft, &place.base, &inside, &options, &Silent);
    assert_eq!(error.unwrap_err().kind(), ErrorKind::InvalidArgument);
    let weights = place.ft.join("adapter_model.safetensors");
    let observer = Touch(&weights, AtomicBool::new(false));
    let error = delta_stream::compress(&place.ft, &place.base, &place.archive, &options, &observer);
    let error = error.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io, "{error}");
    assert!(error.to_string().contains("adapter_model.safetensors"), "{error}");
    assert!(!place.archive.exists());
    Ok(())
}

#[test]
fn names_on_the_hub_stand_for_paths_in_every_verb() -> Outcome {
    let Case { place, merged } = case()?;
    let cache = place.path("hub");
    let commit = "0123456789abcdef0123456789abcdef01234567";
    for (from, model) in [(&place.base, "models--org--base"), (&place.ft, "models--org--lora-x")] {
        let model = cache.join(model);
        fs::create_dir_all(model.join("snapshots"))?;
        fs::create_dir_all(model.join("refs"))?;
        fs::write(model.join("refs/main"), commit)?;
        fs::rename(from, model.join("snapshots").join(commit))?;
    }
    let resources = Resources::default().with_hub(Some(HubCache::at(&cache)));
    let (ft, base) = (Path::new("org/lora-x"), Path::new("org/base@0123"));
    let options = CompressOptions::new(Method::Lossless).with_resources(resources.clone());
    let report = delta_stream::compress(ft, base, &place.archive, &options, &Silent)?;
    assert_eq!(report.variant, "lora-x");
    let options = RestoreOptions::default().with_resources(resources.clone());
    assert!(place.restore_against(base, &options)? == merged);
    assert!(delta_stream::compare(ft, ft, Some(base), &resources, &Silent)?.identical);
    // The program finds the cache by its environment.
    let mut program = crate::support::program();
    program.args(["verify", "-q", "--base", "org/base"]).arg(&place.archive);
    program.env("HUGGINGFACE_HUB_CACHE", &cache);
    assert!(program.output()?.status.success());
    let missing = program.env("HUGGINGFACE_HUB_CACHE", place.path("none")).output()?;
    assert_eq!(missing.status.code(), Some(2));
    assert!(String::from_utf8(missing.stderr)?.contains("hf download org/base"));
    // Without a cache a name is a path.
    let error = place.restore_against(base, &RestoreOptions::default()).unwrap_err();
    assert_eq!(kind_of(&*error), Some(ErrorKind::Io));
    Ok(())
}
