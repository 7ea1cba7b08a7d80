//! Statistics of the layers' inputs: the output error and the group chosen by it against a plain
//! computation, files that are refused, and a matrix of moments larger than memory.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use delta_stream::{
    CompressOptions, CompressReport, DeltaDct, DeltaDq, ErrorKind, Method, Resources,
    RestoreOptions, Silent,
};
use predicates::str::contains;

use crate::made::{Outcome, Place, Rng, Tensor, encode, one_shard, shard, tensor, twins};
use crate::support::Pair;

/// The inputs of one layer: width and second moments.
#[derive(Clone)]
struct Moments {
    n: usize,
    values: Vec<f32>,
}

impl Moments {
    /// Of inputs that have a mean, as those behind a non-linearity do, so that they go together.
    fn made_up(rng: &mut Rng, n: usize) -> Self {
        let mean: Vec<f32> = (0..n).map(|_| rng.value(1.0)).collect();
        let draw = |rng: &mut Rng| mean.iter().map(|m| m + rng.value(0.5)).collect();
        let inputs: Vec<Vec<f32>> = (0..12).map(|_| draw(rng)).collect();
        let at = |k: usize| inputs.iter().map(|x| x[k / n] * x[k % n]).sum::<f32>() / 12.0;
        Self { n, values: (0..n * n).map(at).collect() }
    }

    fn diagonal(&self) -> Vec<f32> {
        (0..self.n).map(|i| self.values[i * (self.n + 1)]).collect()
    }

    /// The same with nothing beside the diagonal.
    fn without_pairs(&self) -> Self {
        let own = |k: usize| if k / self.n == k % self.n { self.values[k] } else { 0.0 };
        Self { n: self.n, values: (0..self.n * self.n).map(own).collect() }
    }

    /// tr(E M E^T), in the plainest way.
    fn form(&self, e: &[f64]) -> f64 {
        let mut sum = 0.0;
        for row in e.chunks_exact(self.n) {
            for (x, line) in row.iter().zip(self.values.chunks_exact(self.n)) {
                let product: f64 = line.iter().zip(row).map(|(m, y)| f64::from(*m) * y).sum();
                sum += x * product;
            }
        }
        sum
    }
}

/// A pair, its inputs' moments by tensor, and the values of both sides.
struct Case {
    place: Place,
    moments: BTreeMap<String, Moments>,
    sides: [BTreeMap<String, Vec<f64>>; 2],
}

fn wide(bytes: &[u8]) -> Vec<f64> {
    bytes.as_chunks::<4>().0.iter().map(|b| f64::from(f32::from_le_bytes(*b))).collect()
}

impl Case {
    /// Matrices of these names and shapes and a bias that is kept.
    fn new(matrices: &[(&str, u64, u64)]) -> Outcome<Self> {
        let mut rng = Rng::new(11);
        let (mut pairs, mut moments) = (Vec::new(), BTreeMap::new());
        for (name, m, n) in matrices {
            pairs.push(twins(&mut rng, name, "F32", &[*m, *n]));
            moments.insert((*name).to_owned(), Moments::made_up(&mut rng, *n as usize));
        }
        pairs.push(twins(&mut rng, "layers.0.up.bias", "F32", &[7]));
        let (base, ft): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
        let values = |side: &[Tensor]| -> BTreeMap<_, _> {
            side.iter().map(|t| (t.name.clone(), wide(&t.bytes))).collect()
        };
        let sides = [values(&base), values(&ft)];
        Ok(Self { place: Place::new(&one_shard(&base), &one_shard(&ft))?, moments, sides })
    }

    /// Writes a file of statistics.
    fn statistics(&self, tensors: &[Tensor]) -> Outcome<PathBuf> {
        let path = self.place.path("statistics.safetensors");
        fs::write(&path, shard(tensors, Some("{\"tokens\":\"12\"}"), 3))?;
        Ok(path)
    }

    fn full(&self, dtype: &'static str) -> Outcome<PathBuf> {
        let of = |(name, m): (&String, &Moments)| {
            tensor(name, dtype, &[m.n as u64; 2], encode(dtype, &m.values))
        };
        self.statistics(&self.moments.iter().map(of).collect::<Vec<_>>())
    }

    fn diagonal(&self, dtype: &'static str) -> Outcome<PathBuf> {
        let of = |(name, m): (&String, &Moments)| {
            tensor(name, dtype, &[m.n as u64], encode(dtype, &m.diagonal()))
        };
        self.statistics(&self.moments.iter().map(of).collect::<Vec<_>>())
    }

    fn compress(
        &self,
        options: CompressOptions,
        file: Option<PathBuf>,
    ) -> delta_stream::Result<CompressReport> {
        let options = options.with_force(true).with_calibrate(file);
        let Place { ft, base, archive, .. } = &self.place;
        delta_stream::compress(ft, base, archive, &options, &Silent)
    }

    /// What the archive lost at the outputs, and what the delta makes of them.
    fn sums(&self, moments: &BTreeMap<String, Moments>) -> Outcome<(f64, f64)> {
        let files = self.place.restore(&RestoreOptions::default())?;
        let restored = crate::made::tensors(&files)?;
        let mut sums = (0.0, 0.0);
        for (name, m) in moments {
            let [base, ft] = [0, 1].map(|i| &self.sides[i][name]);
            let minus =
                |other: &[f64]| -> Vec<f64> { ft.iter().zip(other).map(|(a, b)| a - b).collect() };
            sums.0 += m.form(&minus(&wide(&restored[name].2)));
            sums.1 += m.form(&minus(base));
        }
        Ok(sums)
    }
}

fn setting<'a>(report: &'a CompressReport, name: &str) -> &'a str {
    report.settings.iter().find(|s| s.0 == name).map_or("", |s| &s.1)
}

#[test]
fn the_output_error_is_that_of_a_plain_computation() -> Outcome {
    // The first matrix has two tiles, and its moments come in two blocks.
    let case = Case::new(&[("layers.0.up.weight", 1800, 600), ("layers.0.down.weight", 24, 33)])?;
    let bare: BTreeMap<_, _> =
        case.moments.iter().map(|(name, m)| (name.clone(), m.without_pairs())).collect();
    let dq = Method::DeltaDq(DeltaDq::default().with_group(Some(8)));
    for method in [dq, Method::DeltaDct(DeltaDct::default())] {
        for (kind, dtype) in [("full", "F32"), ("diagonal", "F32"), ("diagonal", "F64")] {
            let (file, moments) = match kind {
                "full" => (case.full(dtype)?, &case.moments),
                _ => (case.diagonal(dtype)?, &bare),
            };
            let report = case.compress(CompressOptions::new(method.clone()), Some(file))?;
            let found = report.output_error.ok_or("no output error")?;
            let (error, delta) = case.sums(moments)?;
            // The delta is rounded to f32 before it is weighed.
            assert!((found * delta / error - 1.0).abs() < 1e-4, "{found} {error} {delta}");
        }
        let report = case.compress(CompressOptions::new(method), None)?;
        assert_eq!(report.output_error, None);
    }
    Ok(())
}

#[test]
fn the_group_is_the_one_with_the_least_output_error() -> Outcome {
    // Sixteen rows are looked at whole, so that the trial and the archive are the same.
    let case = Case::new(&[("layers.0.up.weight", 16, 64), ("layers.0.down.weight", 12, 96)])?;
    let mut seen = Vec::new();
    for seed in 0..6 {
        let options = |group: Option<u32>| {
            let method = DeltaDq::default().with_alpha(4).with_group(group);
            CompressOptions::new(Method::DeltaDq(method)).with_seed(seed)
        };
        let mut errors = Vec::new();
        for group in [4, 8, 16, 32, 64] {
            let report = case.compress(options(Some(group)), Some(case.full("F32")?))?;
            assert_eq!(setting(&report, "group"), group.to_string());
            errors.push((case.sums(&case.moments)?.0, group));
        }
        let least = errors.iter().min_by(|a, b| a.0.total_cmp(&b.0)).ok_or("no error")?;
        let wanted = least.1.to_string();
        let mut bytes = Vec::new();
        for threads in [1, 5] {
            let resources = Resources::default().with_threads(threads);
            let options = options(None).with_resources(resources);
            let report = case.compress(options, Some(case.full("F32")?))?;
            assert_eq!(setting(&report, "group"), wanted, "{errors:?}");
            bytes.push((fs::read(&case.place.archive)?, report.output_error));
        }
        assert!(bytes[0] == bytes[1], "threads show in the archive");
        // Without statistics the rule decides.
        assert_eq!(setting(&case.compress(options(None), None)?, "group"), "16");
        seen.push(wanted);
    }
    assert!(seen.iter().any(|group| group != "16"), "{seen:?}");
    Ok(())
}

#[test]
fn files_that_cannot_be_statistics_are_refused() -> Outcome {
    let case = Case::new(&[("layers.0.up.weight", 8, 6)])?;
    let name = "layers.0.up.weight";
    let of = |dtype: &'static str, shape: &[u64], values: &[f32]| {
        tensor(name, dtype, shape, encode(dtype, values))
    };
    let ones = [1.0f32; 49];
    let with = |at: usize, value: f32| {
        let mut values = [1.0f32; 36];
        values[at] = value;
        values
    };
    let (argument, checkpoint) = (ErrorKind::InvalidArgument, ErrorKind::InvalidCheckpoint);
    for (tensors, kind, word) in [
        (of("F32", &[7], &ones[..7]), argument, "[in, in]"),
        (of("F32", &[7, 7], &ones), argument, "[in, in]"),
        (of("F32", &[6, 7], &ones[..42]), argument, "[in, in]"),
        (of("F32", &[8], &ones[..8]), argument, "[in, in]"),
        (of("BF16", &[6], &ones[..6]), checkpoint, "BF16"),
        (of("F32", &[6], &with(5, -1.0)[..6]), checkpoint, "negative"),
        (of("F64", &[6], &with(2, f32::NAN)[..6]), checkpoint, "not finite"),
        (of("F32", &[6, 6], &with(7, -1.0)), checkpoint, "negative"),
        (of("F32", &[6, 6], &with(35, f32::INFINITY)), checkpoint, "not finite"),
        (of("F32", &[6, 6], &with(6, f32::NAN)), checkpoint, "not finite"),
        (tensor("other", "F32", &[6], encode("F32", &ones[..6])), argument, "this model"),
        (tensor("layers.0.up.bias", "F32", &[7], encode("F32", &ones[..7])), argument, "bias"),
    ] {
        let file = case.statistics(&[tensors])?;
        let method = Method::DeltaDq(DeltaDq::default().with_alpha(2));
        let error = case.compress(CompressOptions::new(method), Some(file)).unwrap_err();
        let text = error.to_string();
        assert_eq!(error.kind(), kind, "{text}");
        assert!(text.contains("statistics.safetensors") && text.contains(word), "{text}");
        assert!(!case.place.archive.exists(), "{text}");
    }
    let options = CompressOptions::new(Method::Lossless);
    let error = case.compress(options, Some(case.diagonal("F32")?)).unwrap_err();
    assert_eq!(error.kind(), argument);
    Ok(())
}

#[test]
fn names_that_match_nothing_are_told() -> Outcome {
    let case = Case::new(&[("layers.0.up.weight", 16, 32), ("layers.0.down.weight", 16, 8)])?;
    let (known, unknown) = (&case.moments["layers.0.down.weight"], [1.0f32; 4]);
    let file = case.statistics(&[
        tensor("layers.0.down.weight", "F32", &[8], encode("F32", &known.diagonal())),
        tensor("head.weight", "F32", &[4], encode("F32", &unknown)),
    ])?;
    let dq = DeltaDq::default().with_group(Some(8));
    let report = case.compress(CompressOptions::new(Method::DeltaDq(dq)), Some(file))?;
    let told = |words: &[&str]| {
        report.notes.iter().any(|note| words.iter().all(|word| note.contains(word)))
    };
    assert!(told(&["1 of 2 lossy tensors", "layers.0.up.weight"]), "{:?}", report.notes);
    assert!(told(&["1 statistics", "head.weight"]), "{:?}", report.notes);
    // What has no statistics does not count.
    let moments =
        BTreeMap::from([("layers.0.down.weight".to_owned(), known.clone().without_pairs())]);
    let (error, delta) = case.sums(&moments)?;
    let found = report.output_error.ok_or("no output error")?;
    assert!((found * delta / error - 1.0).abs() < 1e-4, "{found} {error} {delta}");
    Ok(())
}

#[test]
fn a_matrix_of_moments_may_be_larger_than_memory() -> Outcome {
    let pair = Pair::new();
    let mut rng = Rng::new(3);
    let (base, ft) = twins(&mut rng, "layers.0.up.weight", "F32", &[64, 4096]);
    for (name, side) in [("wide-base", base), ("wide-ft", ft)] {
        fs::write(pair.path(&format!("{name}.safetensors")), shard(&[side], None, 0))?;
    }
    // The identity: the outputs' error is then the weights' own.
    let mut bytes = vec![0; 4096 * 4096 * 4];
    for i in 0..4096 {
        bytes[i * 4097 * 4..][..4].copy_from_slice(&1f32.to_le_bytes());
    }
    let moments = tensor("layers.0.up.weight", "F32", &[4096, 4096], bytes);
    fs::write(pair.path("moments.safetensors"), shard(&[moments], None, 0))?;
    for io in ["read", "mmap"] {
        let report = pair.json(
            &format!(
                "compress --shards wide-ft.safetensors --base wide-base.safetensors -o {io} \
                 --method deltadq --group 8 --calibrate moments.safetensors --max-memory 60MiB \
                 --io {io} --threads 2"
            ),
            0,
        );
        let number = |name: &str| report[name].as_f64().unwrap_or(f64::MAX);
        assert!(number("peak_memory_bytes") < f64::from(60 << 20), "{report}");
        assert!((number("output_error") / number("relative_error") - 1.0).abs() < 1e-9, "{report}");
    }
    Ok(())
}

#[test]
fn the_command_line_takes_groups_and_statistics() -> Outcome {
    let pair = Pair::new();
    let line = "compress --shards fine-tune --base base --method deltadq --force";
    for (group, stored) in [("auto", "16"), ("16", "16"), ("64", "64")] {
        let report = pair.json(&format!("{line} -o a --group {group}"), 0);
        assert_eq!(report["settings"]["group"], stored);
        assert!(report["output_error"].is_null());
    }
    let q = "model.layers.0.self_attn.q_proj.weight";
    let ones = tensor(q, "F32", &[64], encode("F32", &[1.0; 64]));
    fs::write(pair.path("ones.safetensors"), shard(&[ones], None, 0))?;
    fs::write(pair.path("text"), "no statistics at all, only words in a row")?;
    pair.run(&format!("{line} -o a --group 16 --calibrate ones.safetensors"))
        .success()
        .stdout(contains("output error"));
    let report = pair.json(
        "append --shards fine-tune --base base --archive a --name auto --method deltadq \
         --calibrate ones.safetensors",
        0,
    );
    assert!(report["output_error"].as_f64().is_some_and(|e| e > 0.0), "{report}");
    let planned = pair.json(
        "plan --shards fine-tune --base base --method deltadq --calibrate ones.safetensors",
        0,
    );
    assert_eq!(planned["settings"], report["settings"]);
    for (words, code, told) in [
        ("--calibrate fine-tune", 3, "BF16"),
        ("--calibrate text", 3, "text"),
        ("--calibrate missing.safetensors", 6, "missing.safetensors"),
        ("--group 12", 2, "multiple of alpha"),
        ("--group some", 2, "auto"),
        ("-o ones.safetensors --calibrate ones.safetensors", 2, "calibration"),
    ] {
        let output = if words.starts_with("-o") { "" } else { "-o b" };
        pair.run(&format!("{line} {output} {words}")).code(code).stderr(contains(told));
    }
    pair.run("compress --shards fine-tune --base base -o b --method lossless --calibrate ones.safetensors")
        .code(2)
        .stderr(contains("--calibrate"));
    assert!(!pair.names().iter().any(|name| name == "b"));
    Ok(())
}
