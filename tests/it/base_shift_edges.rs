//! Base shifts where archives hold what does not fit, and runs that end early.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use delta_stream::{
    BaseShift, BaseVector, BitDelta, CompressOptions, CompressReport, DeltaDct, Error, ErrorKind,
    EtaRule, Method, Observer, Policy, Resources, Rest, RestoreOptions, Score, Silent, TraceOf,
    TraceReference, Tune, UltraDelta,
};

use crate::made::{
    After, Files, Outcome, Place, Rng, Tensor, encode, every_method, one_shard, read, tensor,
    tensors, twins, verify, write,
};

const NAME: &str = "layers.0.a.weight";

fn bitdelta() -> Method {
    Method::BitDelta(BitDelta::default())
}

fn pair(seed: u64, shape: &[u64]) -> Outcome<Place> {
    let (base, ft) = twins(&mut Rng::new(seed), NAME, "F32", shape);
    Place::new(&one_shard(&[base]), &one_shard(&[ft]))
}

fn shifted(vector: BaseVector, method: Method, name: &str) -> CompressOptions {
    CompressOptions::new(method).with_base_shift(Some(BaseShift::new(vector))).with_name(name)
}

fn compress(place: &Place, options: &CompressOptions) -> delta_stream::Result<CompressReport> {
    delta_stream::compress(&place.ft, &place.base, &place.archive, options, &Silent)
}

fn append(place: &Place, options: &CompressOptions) -> delta_stream::Result<CompressReport> {
    delta_stream::append(&place.ft, &place.base, &place.archive, options, &Silent)
}

fn restored(place: &Place, name: &str) -> Outcome<Files> {
    place.restore(&RestoreOptions::default().with_name(Some(name.into())))
}

/// The names in the directory of an archive.
fn beside(place: &Place) -> Outcome<Vec<String>> {
    let names = fs::read_dir(place.path(""))?.map(|e| Ok(e?.file_name().to_string_lossy().into()));
    let mut names: Vec<String> = names.collect::<std::io::Result<_>>()?;
    names.sort();
    Ok(names)
}

/// The fine-tune of another base, of this shape, in the place of the one that is there.
fn another_base(place: &Place, seed: u64, shape: &[u64]) -> Outcome {
    let (base, ft) = twins(&mut Rng::new(seed), NAME, "F32", shape);
    write(&place.base, &one_shard(&[base]))?;
    write(&place.ft, &one_shard(&[ft]))
}

#[test]
fn a_vector_of_other_shapes_shifts_nothing() -> Outcome {
    // As many elements, fewer, and more than the vector has.
    for shape in [&[40, 60][..], &[30, 40], &[90, 80]] {
        let place = pair(91, &[60, 40])?;
        compress(&place, &shifted(BaseVector::Shared, bitdelta(), "one"))?;
        another_base(&place, 92, shape)?;
        append(&place, &shifted(BaseVector::Shared, bitdelta(), "two"))?;
        restored(&place, "two")?;
    }
    Ok(())
}

#[test]
fn a_shift_by_nothing_keeps_the_base_to_the_sign_of_its_zeros() -> Outcome {
    let of = |v: f32| one_shard(&[tensor(NAME, "F32", &[16, 16], encode("F32", &[v; 256]))]);
    let place = Place::new(&of(-0.0), &of(-0.5))?;
    // Away from the fine-tune, so the best shift is none; eta makes negative zeros of what is added.
    let away = place.path("away");
    write(&away, &of(0.5))?;
    let shift = BaseShift::new(BaseVector::External(away)).with_parameters(None, Some(0.0));
    let options = CompressOptions::new(bitdelta()).with_base_shift(Some(shift)).with_name("v");
    let report = compress(&place, &options)?;
    assert_eq!(report.base_shift.map(|s| (s.lambda, s.eta)), Some((0.0, 0.0)));
    let restored = tensors(&restored(&place, "v")?)?;
    assert!(restored[NAME].2 == encode("F32", &[-0.0; 256]));
    Ok(())
}

#[test]
fn values_that_overflow_leave_parameters_that_can_be_stored() -> Outcome {
    let of = |values: &[f32]| one_shard(&[tensor(NAME, "F32", &[16, 16], encode("F32", values))]);
    let values: Vec<f32> = (0..256).map(|i| if i % 2 == 0 { 1e38 } else { -1e38 }).collect();
    let place = Place::new(&of(&[0.0; 256]), &of(&values))?;
    for rule in [EtaRule::Unbiased, EtaRule::LeastSquares] {
        let shift = BaseShift::new(BaseVector::Own).with_parameters(Some(0.0), None);
        let shift = shift.with_rule(rule);
        let method = Method::UltraDelta(UltraDelta::default());
        let options = shifted(BaseVector::Own, method, "v").with_base_shift(Some(shift));
        compress(&place, &options.with_force(true))?;
        restored(&place, "v")?;
    }
    Ok(())
}

/// How much of the delta of the variant `name` is lost.
fn lost(report: &CompressReport) -> Outcome<f64> {
    Ok(report.relative_error.ok_or("no error")?)
}

#[test]
fn a_vector_left_by_another_fine_tune_is_not_taken_for_its_own() -> Outcome {
    let place = pair(93, &[64, 80])?;
    compress(&place, &CompressOptions::new(Method::Lossless).with_name("first"))?;
    append(&place, &shifted(BaseVector::Own, bitdelta(), "v"))?;
    let fresh = place.path("fresh.delta.zst");
    delta_stream::remove(&place.archive, "v")?;
    // Another fine-tune of the same base under the same name.
    let mut rng = Rng::new(94);
    let base = tensors(&read(&place.base)?)?[NAME].2.clone();
    let moved = |b: &[u8; 4]| (f32::from_le_bytes(*b) + rng.value(0.001)).to_le_bytes();
    let bytes: Vec<u8> = base.as_chunks::<4>().0.iter().flat_map(moved).collect();
    write(&place.ft, &one_shard(&[tensor(NAME, "F32", &[64, 80], bytes)]))?;
    let again = append(&place, &shifted(BaseVector::Own, bitdelta(), "v"))?;
    let options = shifted(BaseVector::Own, bitdelta(), "v");
    let alone = delta_stream::compress(&place.ft, &place.base, &fresh, &options, &Silent)?;
    assert_eq!(lost(&again)?, lost(&alone)?);
    restored(&place, "v")?;
    restored(&place, "first")?;
    Ok(())
}

#[test]
fn checkpoints_of_one_name_are_told_apart() -> Outcome {
    let place = pair(95, &[64, 80])?;
    compress(&place, &CompressOptions::new(Method::Lossless).with_name("first"))?;
    let (own, far) = (place.path("x/other"), place.path("y/other"));
    write(&own, &read(&place.ft)?)?;
    let values: Vec<f32> = (0..64 * 80).map(|i| (i % 7) as f32).collect();
    write(&far, &one_shard(&[tensor(NAME, "F32", &[64, 80], encode("F32", &values))]))?;
    let of = |path: &Path, name| shifted(BaseVector::External(path.to_owned()), bitdelta(), name);
    append(&place, &of(&far, "far"))?;
    let near = append(&place, &of(&own, "near"))?;
    let again = append(&place, &of(&own, "again"))?;
    assert!(near.base_shift.as_ref().is_some_and(|s| s.lambda > 0.5), "{:?}", near.base_shift);
    assert_eq!(again.base_shift.map(|s| s.vector_users), Some(2));
    assert_eq!(delta_stream::inspect(&place.archive, None, false)?.base_vectors.len(), 2);
    Ok(())
}

#[test]
fn a_mean_is_of_fine_tunes_of_this_base_alone() -> Outcome {
    let shape = [64, 80];
    let place = pair(96, &shape)?;
    // One without loss, whose delta is nothing against another base, and one with.
    compress(&place, &CompressOptions::new(Method::Lossless).with_name("a"))?;
    append(&place, &CompressOptions::new(bitdelta()).with_name("b"))?;
    another_base(&place, 97, &shape)?;
    let with_others = append(&place, &shifted(BaseVector::Shared, bitdelta(), "c"))?;
    let fresh = place.path("fresh.delta.zst");
    let options = shifted(BaseVector::Shared, bitdelta(), "c");
    let alone = delta_stream::compress(&place.ft, &place.base, &fresh, &options, &Silent)?;
    assert_eq!(lost(&with_others)?, lost(&alone)?);
    restored(&place, "c")?;
    Ok(())
}

#[test]
fn a_mean_takes_tied_tensors_with_their_shift() -> Outcome {
    let mut rng = Rng::new(98);
    let (base, ft) = twins(&mut rng, NAME, "F32", &[64, 80]);
    let as_b = |t: &Tensor| Tensor { name: "layers.0.b.weight".into(), ..t.clone() };
    let place =
        Place::new(&one_shard(&[base.clone(), as_b(&base)]), &one_shard(&[ft.clone(), as_b(&ft)]))?;
    compress(&place, &shifted(BaseVector::Own, bitdelta(), "tied"))?;
    // Not tied any more: by one bit of one value.
    let mut other = as_b(&ft);
    other.bytes[0] ^= 1;
    write(&place.ft, &one_shard(&[ft, other]))?;
    let mean = append(&place, &shifted(BaseVector::Shared, bitdelta(), "two"))?;
    let restored = tensors(&restored(&place, "two")?)?;
    let values = |name: &str| -> Vec<f32> {
        restored[name].2.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
    };
    let (a, b) = (values(NAME), values("layers.0.b.weight"));
    let far = a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(far < 1e-6, "{far} {:?}", mean.relative_error);
    Ok(())
}

#[test]
fn an_append_that_ends_early_leaves_the_archive_as_it_was() -> Outcome {
    let place = pair(99, &[64, 80])?;
    compress(&place, &CompressOptions::new(Method::Lossless).with_name("a"))?;
    let (bytes, names) = (fs::read(&place.archive)?, beside(&place)?);
    let scored = |score: Score| {
        let shift = BaseShift::new(BaseVector::Shared).with_tune(Tune::Score(score));
        shifted(BaseVector::Shared, bitdelta(), "b").with_base_shift(Some(shift))
    };
    let calls = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&calls);
    let fails = scored(Score::new(move |_| match counter.fetch_add(1, Ordering::Relaxed) {
        0 | 1 => Ok(1.0),
        _ => Err(Error::invalid_argument("no score")),
    }));
    assert!(append(&place, &fails).is_err() && calls.load(Ordering::Relaxed) == 3);
    assert!(fs::read(&place.archive)? == bytes && beside(&place)? == names);
    let works = scored(Score::new(|_| Ok(1.0)));
    let mut n_ended = 0;
    for n in 1.. {
        let after = After(AtomicU64::new(n));
        match delta_stream::append(&place.ft, &place.base, &place.archive, &works, &after) {
            Ok(_) => break,
            Err(e) => assert_eq!(e.kind(), ErrorKind::Interrupted),
        }
        assert!(fs::read(&place.archive)? == bytes && beside(&place)? == names, "{n}");
        n_ended += 1;
    }
    assert!(n_ended > 20, "{n_ended}");
    restored(&place, "b")?;
    Ok(())
}

/// Cancelled from the first score on.
struct WhenScored(Arc<AtomicUsize>);

impl Observer for WhenScored {
    fn progress(&self, _done: u64, _total: u64) {}
    fn note(&self, _text: &str) {}
    fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 0
    }
}

#[test]
fn a_score_that_fails_because_the_run_is_cancelled_is_an_interruption() -> Outcome {
    let place = pair(100, &[64, 80])?;
    let scored = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&scored);
    let score = Score::new(move |_| {
        counter.fetch_add(1, Ordering::Relaxed);
        Err(Error::invalid_argument("the command was ended by a signal"))
    });
    let shift = BaseShift::new(BaseVector::Own).with_tune(Tune::Score(score));
    let options = shifted(BaseVector::Own, bitdelta(), "v").with_base_shift(Some(shift));
    let (ft, base, archive) = (&place.ft, &place.base, &place.archive);
    let error = delta_stream::compress(ft, base, archive, &options, &WhenScored(scored)).err();
    assert_eq!(error.map(|e| e.kind()), Some(ErrorKind::Interrupted));
    assert_eq!(beside(&place)?, ["base", "ft"]);
    Ok(())
}

#[test]
fn a_trial_is_what_a_restore_would_give() -> Outcome {
    let place = pair(101, &[64, 80])?;
    let trace = |reference| {
        let settings = UltraDelta::default().with_sparsity(0.5, 0.1);
        Method::UltraDelta(settings.with_trace(reference, TraceOf::Survivors, 0.0))
    };
    // A trace norm to be held against: the one of a tenth of the delta.
    let ft = read(&place.ft)?;
    let sides = [&place.base, &place.ft].map(|p| read(p).and_then(|f| tensors(&f)));
    let [base, full] = sides.map(|s| s.map(|t| t[NAME].2.clone()));
    let near = base?
        .as_chunks::<4>()
        .0
        .iter()
        .zip(full?.as_chunks::<4>().0)
        .flat_map(|(b, f)| {
            let (b, f) = (f32::from_le_bytes(*b), f32::from_le_bytes(*f));
            (b + 0.1 * (f - b)).to_le_bytes()
        })
        .collect();
    write(&place.ft, &one_shard(&[tensor(NAME, "F32", &[64, 80], near)]))?;
    compress(&place, &CompressOptions::new(trace(TraceReference::Archive)).with_name("near"))?;
    write(&place.ft, &ft)?;
    let seen = Arc::new(Mutex::new(Vec::new()));
    let keep = Arc::clone(&seen);
    let score = Score::new(move |dir| {
        let files = read(dir).map_err(|e| Error::invalid_argument(e.to_string()))?;
        if let Ok(mut seen) = keep.lock() {
            seen.push(files);
        }
        Ok(1.0)
    });
    let shift = BaseShift::new(BaseVector::Own).with_tune(Tune::Score(score));
    let options = shifted(BaseVector::Own, trace(TraceReference::Archive), "v");
    append(&place, &options.with_base_shift(Some(shift.with_parameters(Some(0.0), None))))?;
    // All scores are alike, so the first point stays.
    let first = seen.lock().map_err(|_| "poisoned")?.first().cloned();
    assert!(first == Some(restored(&place, "v")?));
    Ok(())
}

#[test]
fn an_archive_is_not_written_into_the_checkpoint_it_is_shifted_along() -> Outcome {
    let place = pair(102, &[64, 80])?;
    let other = place.path("other");
    write(&other, &read(&place.ft)?)?;
    let options = shifted(BaseVector::External(other.clone()), bitdelta(), "v").with_force(true);
    let before = read(&other)?;
    for output in [other.join("model.safetensors"), other.join("new.delta.zst")] {
        let report = delta_stream::compress(&place.ft, &place.base, &output, &options, &Silent);
        assert_eq!(report.err().map(|e| e.kind()), Some(ErrorKind::InvalidArgument));
    }
    assert!(read(&other)? == before);
    Ok(())
}

#[test]
fn a_vector_in_larger_tiles_than_the_variants_counts_against_the_memory() -> Outcome {
    let (base, ft) = twins(&mut Rng::new(103), NAME, "BF16", &[64, 60_000]);
    let place = Place::new(&one_shard(&[base]), &one_shard(&[ft]))?;
    let shift = |lambda| {
        let shift = BaseShift::new(BaseVector::Shared);
        Some(shift.with_parameters(Some(lambda), Some(1.0)))
    };
    // One tile of 3.7 Mi elements, which takes 103 MiB beside the tile it shifts.
    let wide = Method::DeltaDct(DeltaDct::default().with_patch(64));
    compress(&place, &shifted(BaseVector::Shared, wide, "a").with_base_shift(shift(1.0)))?;
    let within = |mib: u64| Resources::default().with_threads(1).with_max_memory(mib << 20);
    let narrow = shifted(BaseVector::Shared, bitdelta(), "b").with_base_shift(shift(0.5));
    let error = append(&place, &narrow.clone().with_resources(within(110))).err();
    assert_eq!(error.map(|e| e.kind()), Some(ErrorKind::InvalidArgument));
    append(&place, &narrow.with_resources(within(170)))?;
    let named = RestoreOptions::default().with_name(Some("b".into()));
    let error = place.restore(&named.clone().with_resources(within(110))).err();
    assert!(error.is_some_and(|e| e.to_string().contains("--max-memory")));
    place.restore(&named.with_resources(within(170)))?;
    Ok(())
}

/// A pair of a tensor of many tiles with values that are no numbers in two of them, a tied one, a stack
/// and a norm, in these dtypes.
fn mixed(base: &'static str, ft: &'static str) -> Outcome<Place> {
    let mut rng = Rng::new(104);
    let mut of = |name: &str, shape: &[u64], holes: &[usize]| {
        let n = shape.iter().product::<u64>() as usize;
        let values: Vec<f32> = (0..n).map(|_| rng.value(0.02)).collect();
        let mut moved: Vec<f32> = values.iter().map(|v| v + rng.value(0.001)).collect();
        holes.iter().for_each(|i| moved[*i] = f32::NAN);
        let b = tensor(name, base, shape, encode(base, &values));
        (b, tensor(name, ft, shape, encode(ft, &moved)))
    };
    let (b0, f0) = of("layers.0.a.weight", &[1100, 1000], &[5, 1_090_000]);
    let (b1, f1) = of("layers.0.experts.weight", &[3, 24, 32], &[800]);
    let (b2, f2) = of("layers.1.a.weight", &[48, 32], &[]);
    let (b3, f3) = of("norm.weight", &[32], &[]);
    let as_tied = |t: &Tensor| Tensor { name: "layers.2.a.weight".into(), ..t.clone() };
    let tied = [as_tied(&b2), as_tied(&f2)];
    let [b4, f4] = tied;
    Place::new(&one_shard(&[b0, b1, b2, b3, b4]), &one_shard(&[f0, f1, f2, f3, f4]))
}

#[test]
fn shifts_restore_in_every_dtype_beside_tiles_that_are_no_numbers() -> Outcome {
    let resources = Resources::default;
    let methods = every_method();
    let dtypes = [
        ("BF16", "BF16"),
        ("F32", "BF16"),
        ("BF16", "F16"),
        ("F64", "F32"),
        ("F16", "F64"),
        ("F8_E4M3", "F32"),
        ("F32", "F8_E4M3"),
    ];
    for ((base, ft), method) in dtypes.into_iter().zip(methods[1..].iter().cycle().cloned()) {
        let place = mixed(base, ft)?;
        let what = format!("{base} {ft} {method:?}");
        let rest = Policy::default().with_rest(Rest::Base);
        let own = shifted(BaseVector::Own, method.clone(), "own").with_force(true);
        let given = BaseShift::new(BaseVector::Own).with_parameters(Some(0.8), Some(1.1));
        compress(&place, &own.with_base_shift(Some(given)).with_policy(rest))?;
        let bytes = fs::read(&place.archive)?;
        let options = shifted(BaseVector::Shared, method, "shared");
        let given = BaseShift::new(BaseVector::Shared).with_parameters(Some(0.8), None);
        let options = options.with_base_shift(Some(given));
        let mut found = Vec::new();
        for threads in [1, 5] {
            fs::write(&place.archive, &bytes)?;
            append(&place, &options.clone().with_resources(resources().with_threads(threads)))?;
            found.push(fs::read(&place.archive)?);
        }
        assert!(found[0] == found[1], "{what}");
        let (archive, base) = (&place.archive, Some(&*place.base));
        let report = verify(archive, base)?;
        assert!(report.ok, "{what}: {:?}", report.differing);
        let one = RestoreOptions::default().with_name(Some("shared".into()));
        let one = tensors(&place.restore(&one.with_tensors(vec!["layers.2*".into()]))?)?;
        let all = tensors(&restored(&place, "shared")?)?;
        assert!(one["layers.2.a.weight"] == all["layers.1.a.weight"], "{what}");
    }
    Ok(())
}

#[test]
fn models_of_one_lossy_tensor_none_or_no_numbers() -> Outcome {
    let methods = || {
        let trace = UltraDelta::default();
        let of = |t| Method::UltraDelta(trace.with_trace(t, TraceOf::Survivors, 0.0));
        [
            bitdelta(),
            of(TraceReference::None),
            of(TraceReference::Archive),
            of(TraceReference::Value(1.0)),
        ]
    };
    let of =
        |name: &str, v: f32| one_shard(&[tensor(name, "F32", &[16, 16], encode("F32", &[v; 256]))]);
    for (name, base, ft) in [
        (NAME, 0.5, 0.75),
        (NAME, 0.5, 0.5),
        (NAME, 0.5, f32::NAN),
        (NAME, f32::NAN, f32::INFINITY),
        ("norm.weight", 0.5, 0.75),
    ] {
        let place = Place::new(&of(name, base), &of(name, ft))?;
        for method in methods() {
            let what = format!("{name} {base} {ft} {method:?}");
            let plain = CompressOptions::new(method.clone()).with_name("a").with_force(true);
            compress(&place, &plain).map_err(|e| format!("{what}: {e}"))?;
            let a = restored(&place, "a")?;
            if !(base.is_finite() && ft.is_finite()) || name != NAME {
                assert!(a == read(&place.ft)?, "{what}");
            }
            let shifted = append(&place, &shifted(BaseVector::Own, method.clone(), "b"));
            match shifted {
                Ok(_) => drop(restored(&place, "b")?),
                Err(e) => {
                    assert!(name != NAME && e.kind() == ErrorKind::InvalidArgument, "{what}: {e}")
                }
            }
            let options = plain.with_base_shift(Some(BaseShift::new(BaseVector::Own)));
            let forecast = delta_stream::forecast(&place.ft, &place.base, &options, &Silent)?;
            assert!(forecast.archive_bytes > forecast.vector_bytes, "{what}");
            assert!(forecast.vector_bytes > 0, "{what}");
            assert!(
                forecast.notes.iter().any(|n| n.contains("a base vector is counted")),
                "{what}"
            );
        }
    }
    Ok(())
}
