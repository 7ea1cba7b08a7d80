//! DBMS: a base shifted along a vector before the delta is taken.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use delta_stream::{
    BaseShift, BaseVector, BitDelta, CompressOptions, CompressReport, DeltaDct, Error, ErrorKind,
    EtaRule, Method, PairShape, RestoreOptions, Score, Silent, Tune, UltraDelta,
};

use crate::forge::{TILE, frames};
use crate::made::{Files, Outcome, Place, Rng, kind_of, one_shard, read, tensors, twins, verify};

/// Lossy matrices, one of several tiles, a stack, and a norm.
fn place(seed: u64) -> Outcome<Place> {
    let mut rng = Rng::new(seed);
    let (b0, f0) = twins(&mut rng, "layers.0.a.weight", "BF16", &[96, 80]);
    let (b1, f1) = twins(&mut rng, "layers.0.b.weight", "F32", &[1100, 1000]);
    let (b2, f2) = twins(&mut rng, "layers.0.experts.weight", "F32", &[3, 40, 50]);
    let (b3, f3) = twins(&mut rng, "norm.weight", "F32", &[300]);
    Place::new(&one_shard(&[b0, b1, b2, b3]), &one_shard(&[f0, f1, f2, f3]))
}

fn bitdelta() -> Method {
    Method::BitDelta(BitDelta::default())
}

fn compress(
    place: &Place,
    method: Method,
    shift: Option<BaseShift>,
) -> delta_stream::Result<CompressReport> {
    let options = CompressOptions::new(method).with_base_shift(shift).with_force(true);
    delta_stream::compress(&place.ft, &place.base, &place.archive, &options, &Silent)
}

fn verified(place: &Place) -> Outcome {
    let report = verify(&place.archive, Some(&place.base))?;
    assert!(report.ok, "{:?}", report.differing);
    Ok(())
}

fn restored(place: &Place, name: Option<&str>) -> Outcome<Files> {
    place.restore(&RestoreOptions::default().with_name(name.map(str::to_owned)))
}

/// The bodies of all tiles.
fn tiles(place: &Place) -> Outcome<Vec<Vec<u8>>> {
    let bytes = fs::read(&place.archive)?;
    let tiles = frames(&bytes).into_iter().filter(|f| f.kind == TILE);
    Ok(tiles.map(|f| bytes[f.at + 48..f.at + f.len].to_vec()).collect())
}

fn given(vector: BaseVector, lambda: f64, eta: f64) -> Option<BaseShift> {
    Some(BaseShift::new(vector).with_parameters(Some(lambda), Some(eta)))
}

#[test]
fn without_shift_and_scale_the_payloads_are_the_plain_ones() -> Outcome {
    let place = place(81)?;
    for method in [bitdelta(), Method::UltraDelta(UltraDelta::default())] {
        compress(&place, method.clone(), None)?;
        let (plain, files) = (tiles(&place)?, restored(&place, None)?);
        compress(&place, method.clone(), given(BaseVector::Own, 0.0, 1.0))?;
        assert!(tiles(&place)? == plain && restored(&place, None)? == files, "{method:?}");
        // Another scale is no other payload either; it is applied when the delta is decoded.
        compress(&place, method, given(BaseVector::Own, 0.0, 0.5))?;
        assert!(tiles(&place)? == plain && restored(&place, None)? != files);
        verified(&place)?;
    }
    Ok(())
}

#[test]
fn eta_zero_gives_the_shifted_base_alone() -> Outcome {
    let place = place(82)?;
    compress(&place, bitdelta(), given(BaseVector::Own, 1.0, 0.0))?;
    let shifted = tensors(&restored(&place, None)?)?;
    compress(&place, bitdelta(), None)?;
    // The vector is the plain method's own delta.
    let plain = tensors(&restored(&place, None)?)?;
    assert!(shifted["layers.0.b.weight"] == plain["layers.0.b.weight"]);
    Ok(())
}

#[test]
fn an_own_vector_is_a_second_stage() -> Outcome {
    let place = place(83)?;
    let plain = compress(&place, bitdelta(), None)?;
    let methods = [
        bitdelta(),
        Method::DeltaDct(DeltaDct::default()),
        Method::UltraDelta(UltraDelta::default().with_sparsity(0.5, 0.1)),
    ];
    for method in methods {
        let rule = BaseShift::new(BaseVector::Own).with_rule(EtaRule::LeastSquares);
        let report = compress(&place, method.clone(), Some(rule))?;
        verified(&place)?;
        let shift = report.base_shift.ok_or("no shift")?;
        assert_eq!(shift.vector.as_deref(), Some("@own/ft"));
        assert_eq!((shift.vector_users, shift.evaluations), (1, 20));
        assert!(shift.vector_bytes > 0 && shift.lambda > 0.0 && shift.eta > 0.0);
        if method == bitdelta() {
            let (two, one) = (report.relative_error, plain.relative_error);
            assert!(two.ok_or("no error")? < 0.5 * one.ok_or("no error")?, "{two:?} {one:?}");
            let bits = report.bits_per_parameter.ok_or("no bits")?;
            assert!(bits > 1.8 * plain.bits_per_parameter.ok_or("no bits")?, "{bits}");
        }
        let one = RestoreOptions::default().with_tensors(vec!["*experts*".into()]);
        let (all, one) = (tensors(&restored(&place, None)?)?, tensors(&place.restore(&one)?)?);
        assert_eq!(one.len(), 1);
        assert!(one["layers.0.experts.weight"] == all["layers.0.experts.weight"]);
    }
    Ok(())
}

#[test]
fn an_unbiased_eta_keeps_the_residuals_length() -> Outcome {
    let place = place(84)?;
    let of = |rule| {
        Some(BaseShift::new(BaseVector::Own).with_parameters(Some(0.5), None).with_rule(rule))
    };
    let unbiased = compress(&place, bitdelta(), of(EtaRule::Unbiased))?;
    let least = compress(&place, bitdelta(), of(EtaRule::LeastSquares))?;
    let eta = |r: &CompressReport| r.base_shift.as_ref().map_or(0.0, |s| s.eta);
    // The mean scale is the least squares already for one tensor, and nearly so for several alike.
    assert!((eta(&least) - 1.0).abs() < 0.2, "{}", eta(&least));
    assert!(eta(&unbiased) > 1.2 * eta(&least));
    assert!(unbiased.relative_error > least.relative_error);
    Ok(())
}

#[test]
fn a_shared_vector_is_stored_once_survives_and_goes_with_its_last_user() -> Outcome {
    let place = place(85)?;
    compress(&place, Method::Lossless, None)?;
    let shared = |name: &str, method| {
        let shift = Some(BaseShift::new(BaseVector::Shared));
        let options = CompressOptions::new(method).with_base_shift(shift).with_name(name);
        delta_stream::append(&place.ft, &place.base, &place.archive, &options, &Silent)
    };
    let first = shared("one", bitdelta())?.base_shift.ok_or("no shift")?;
    let between = fs::metadata(&place.archive)?.len();
    // Another patch side cuts tiles in other places.
    let second = shared("two", Method::DeltaDct(DeltaDct::default().with_patch(64)))?;
    let shift = second.base_shift.ok_or("no shift")?;
    assert_eq!(first.vector.as_deref(), Some("@shared"));
    assert_eq!((first.vector_users, shift.vector_users), (1, 2));
    assert_eq!(shift.vector_bytes, first.vector_bytes);
    assert_eq!(fs::metadata(&place.archive)?.len() - between, second.archive_bytes);
    verified(&place)?;
    let names = ["ft", "one", "two"];
    let before = names.map(|name| restored(&place, Some(name)).ok());
    assert!(before.iter().all(Option::is_some));

    let summary = delta_stream::inspect(&place.archive, None, false)?;
    assert_eq!(summary.variants.iter().map(|v| &*v.name).collect::<Vec<_>>(), names);
    assert_eq!(summary.base_vectors.len(), 1);
    assert_eq!(summary.base_vectors[0].used_by, ["one", "two"]);
    let error = restored(&place, Some("@shared")).err().ok_or("restored a vector")?;
    assert_eq!(kind_of(&*error), Some(ErrorKind::InvalidArgument));

    delta_stream::remove(&place.archive, "one")?;
    delta_stream::compact(&place.archive, &Silent)?;
    assert_eq!(restored(&place, Some("two")).ok(), before[2]);
    verified(&place)?;
    delta_stream::remove(&place.archive, "two")?;
    delta_stream::compact(&place.archive, &Silent)?;
    assert!(delta_stream::inspect(&place.archive, None, false)?.base_vectors.is_empty());
    assert_eq!(restored(&place, Some("ft")).ok(), before[0]);
    Ok(())
}

#[test]
fn another_checkpoint_can_be_the_vector_and_is_not_needed_again() -> Outcome {
    let place = place(86)?;
    let other = place.path("other");
    fs::create_dir(&other)?;
    for (name, bytes) in read(&place.ft)? {
        fs::write(other.join(name), bytes)?;
    }
    let shift = BaseShift::new(BaseVector::External(other.clone()));
    let report = compress(&place, bitdelta(), Some(shift.clone()))?.base_shift.ok_or("no shift")?;
    assert!(report.vector.is_some_and(|name| name.starts_with("@from/other-")));
    fs::remove_dir_all(&other)?;
    verified(&place)?;
    let error = compress(&place, bitdelta(), Some(shift)).err().ok_or("compressed")?;
    assert!(error.to_string().contains("other"), "{error}");
    Ok(())
}

#[test]
fn scores_are_followed_and_trials_are_whole_checkpoints() -> Outcome {
    let place = place(87)?;
    let n = Arc::new(AtomicUsize::new(0));
    let (counter, wanted) = (Arc::clone(&n), read(&place.ft)?);
    let score = Score::new(move |dir| {
        counter.fetch_add(1, Ordering::Relaxed);
        let found = read(dir).map_err(|e| Error::invalid_argument(e.to_string()))?;
        let sides = [&found, &wanted].map(|f| tensors(f).map(|t| t["layers.0.b.weight"].2.clone()));
        let [Ok(found), Ok(wanted)] = sides else { return Ok(f64::INFINITY) };
        let values = |b: &[u8]| -> Vec<f32> {
            b.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
        };
        let (found, wanted) = (values(&found), values(&wanted));
        Ok(found.iter().zip(&wanted).map(|(a, b)| f64::from(a - b).powi(2)).sum())
    });
    let shift = BaseShift::new(BaseVector::Own).with_tune(Tune::Score(score));
    let tuned = compress(&place, bitdelta(), Some(shift))?;
    let free = compress(&place, bitdelta(), Some(BaseShift::new(BaseVector::Own)))?;
    let trials = n.load(Ordering::Relaxed);
    assert!((5..=32).contains(&trials), "{trials}");
    assert_eq!(tuned.base_shift.map(|s| s.evaluations), Some(20 + trials));
    // The squared error is what was scored, and what the unbiased eta does not make least.
    assert!(tuned.relative_error < free.relative_error);
    let left = fs::read_dir(place.path(""))?.filter_map(|e| e.ok()?.file_name().into_string().ok());
    assert_eq!(left.filter(|name| name.contains("trial")).count(), 0);
    verified(&place)
}

#[test]
fn shifts_that_cannot_be_are_refused() -> Outcome {
    let place = place(88)?;
    for (method, shift) in [
        (Method::Lossless, given(BaseVector::Own, 0.5, 1.0)),
        (bitdelta(), given(BaseVector::Own, 2.0, 1.0)),
        (bitdelta(), given(BaseVector::Own, 1.0, -1.0)),
    ] {
        let error = compress(&place, method, shift).err().ok_or("compressed")?;
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    }
    let options = CompressOptions::new(bitdelta()).with_name("@shared");
    let error = delta_stream::compress(&place.ft, &place.base, &place.archive, &options, &Silent);
    assert_eq!(error.err().map(|e| e.kind()), Some(ErrorKind::InvalidArgument));
    assert!(!place.archive.exists());
    Ok(())
}

#[test]
fn a_tile_that_is_not_finite_is_kept_as_it_is() -> Outcome {
    let place = Place::empty()?;
    delta_stream::make_pair(&place.path(""), &PairShape::small(), 3)?;
    let place = Place::new(&read(&place.path("base"))?, &read(&place.path("fine-tune"))?)?;
    let mut files = read(&place.ft)?;
    let name = files.keys().find(|n| n.ends_with(".safetensors")).cloned().ok_or("no shard")?;
    let shard = files.get_mut(&name).ok_or("no shard")?;
    let end = shard.len();
    shard[end - 4..].copy_from_slice(&[0x80, 0x7f, 0x80, 0x7f]);
    fs::write(place.ft.join(&name), &*shard)?;
    compress(&place, bitdelta(), Some(BaseShift::new(BaseVector::Own)))?;
    verified(&place)?;
    assert!(restored(&place, None)?[&name].ends_with(&[0x80, 0x7f, 0x80, 0x7f]));
    Ok(())
}
