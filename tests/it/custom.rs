//! A method of the caller's own: what it leaves of a delta is what comes back, to the bit.

use std::sync::atomic::{AtomicU64, Ordering};

use delta_stream::{
    BaseShift, BaseVector, CompressOptions, Custom, CustomMethod, CustomTile, DType, ErrorKind,
    Method, Observer, PairShape, Resources, RestoreOptions, Silent, VerifyOptions,
};
use half::bf16;

use crate::made::{Outcome, Place, Tensors, encode, one_shard, read, tensor, tensors, verify};

/// Drops every third row of a tensor and halves the others, so that tiles have to know where they stand.
struct Thirds;

impl CustomMethod for Thirds {
    fn name(&self) -> &str {
        "thirds"
    }

    fn settings(&self) -> Vec<(String, String)> {
        vec![("by".into(), "row".into())]
    }

    fn change(&self, tile: &CustomTile<'_>, delta: &mut [f32]) {
        assert_eq!(delta.len(), tile.n_rows * tile.n_cols);
        for (i, row) in delta.chunks_mut(tile.n_cols).enumerate() {
            let factor = thirds(tile.first_row + i as u64);
            row.iter_mut().for_each(|v| *v *= factor);
        }
    }
}

fn thirds(row: u64) -> f32 {
    if row.is_multiple_of(3) { 0.0 } else { 0.5 }
}

fn method() -> Method {
    Method::Custom(Custom::new(Thirds))
}

/// A pair whose largest matrices take two tiles.
fn pair(dtype: DType) -> Outcome<Place> {
    Place::made_up(&PairShape::small().with_sizes(256, 4200, 64, 1).with_dtype(dtype))
}

fn values(bytes: &[u8], dtype: DType) -> Vec<f32> {
    let [f32s, bf16s] = [bytes.chunks_exact(4), bytes.chunks_exact(2)];
    match dtype {
        DType::F32 => f32s.map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
        _ => bf16s.map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
    }
}

/// What the lossy tensors have to come back as, and the relative error over them.
fn expected(place: &Place, dtype: DType) -> Outcome<(Tensors, f64)> {
    let (ft, base) = (tensors(&read(&place.ft)?)?, tensors(&read(&place.base)?)?);
    let (mut out, mut lost, mut all) = (Tensors::new(), 0.0, 0.0);
    for (name, (spelt, shape, bytes)) in ft {
        let is_lossy = name.contains("_proj");
        if !is_lossy {
            out.insert(name, (spelt, shape, bytes));
            continue;
        }
        let (ft, base) = (values(&bytes, dtype), values(&base[&name].2, dtype));
        let n_cols = shape[1];
        let changed = ft.iter().zip(&base).enumerate().map(|(i, (ft, base))| {
            let delta = (ft - base) * thirds((i / n_cols) as u64);
            if delta == 0.0 { *base } else { base + delta }
        });
        let restored = encode(&spelt, &changed.collect::<Vec<_>>());
        let back = values(&restored, dtype);
        let square = |a: &f32, b: &f32| f64::from(a - b) * f64::from(a - b);
        lost += ft.iter().zip(&back).map(|(a, b)| square(a, b)).sum::<f64>();
        all += ft.iter().zip(&base).map(|(a, b)| square(a, b)).sum::<f64>();
        out.insert(name, (spelt, shape, restored));
    }
    Ok((out, lost / all))
}

#[test]
fn what_it_leaves_comes_back_rounded_once() -> Outcome {
    for dtype in [DType::BF16, DType::F32] {
        let place = pair(dtype)?;
        let report = place.compress(method())?;
        let (wanted, error) = expected(&place, dtype)?;
        let restored = tensors(&place.restore(&RestoreOptions::default())?)?;
        for (name, tensor) in &wanted {
            assert!(restored[name] == *tensor, "{dtype:?} {name}");
        }
        assert_eq!(restored.len(), wanted.len());
        let reported = report.relative_error.ok_or("an error")?;
        assert!((reported / error - 1.0).abs() < 1e-6, "{reported} is reported, {error} is so");
        assert_eq!((report.exact_tiles, report.paper_ratio), (0, None));
        // The stored hashes are those of what comes back, not of the fine-tune.
        assert!(verify(&place.archive, Some(&place.base))?.ok);
        // A third of the rows costs nothing.
        let exact = place.compress(Method::Lossless)?;
        assert!((report.archive_bytes as f64) < exact.archive_bytes as f64 * 0.9);
    }
    Ok(())
}

#[test]
fn readers_are_told_of_it_and_need_not_know_it() -> Outcome {
    let place = pair(DType::BF16)?;
    let report = place.compress(method())?;
    let settings = [("name", "thirds"), ("by", "row")].map(|(k, v)| (k.to_owned(), v.to_owned()));
    assert_eq!((report.method, &*report.settings), ("custom", &settings[..]));
    let summary = delta_stream::inspect(&place.archive, None, true)?;
    let variant = &summary.variants[0];
    assert_eq!((variant.method, &*variant.settings), ("custom", &settings[..]));
    assert_eq!(variant.relative_error, report.relative_error);
    // All of its bits are codes, but for frame headers.
    let parts = variant.parts.ok_or("parts")?;
    assert!(parts.codes > 0.0 && parts.positions == 0.0 && parts.scales == 0.0);
    assert!(delta_stream::verify(&place.archive, &VerifyOptions::default(), &Silent)?.ok);
    Ok(())
}

#[test]
fn threads_never_show_in_the_bytes() -> Outcome {
    let place = pair(DType::BF16)?;
    let mut archives = Vec::new();
    for threads in [1, 2, 5] {
        let resources = Resources::default().with_threads(threads);
        let options = CompressOptions::new(method())
            .with_name("v")
            .with_resources(resources)
            .with_force(true);
        delta_stream::compress(&place.ft, &place.base, &place.archive, &options, &Silent)?;
        archives.push(std::fs::read(&place.archive)?);
    }
    assert!(archives.windows(2).all(|w| w[0] == w[1]));
    Ok(())
}

/// Stops when it was asked so often.
struct StopAt(u64, AtomicU64);

impl Observer for StopAt {
    fn progress(&self, _done: u64, _total: u64) {}
    fn note(&self, _text: &str) {}
    fn is_cancelled(&self) -> bool {
        self.1.fetch_add(1, Ordering::Relaxed) >= self.0
    }
}

#[test]
fn a_run_that_was_cut_off_goes_on_to_the_same_bytes() -> Outcome {
    let place = pair(DType::BF16)?;
    place.compress(method())?;
    let whole = std::fs::read(&place.archive)?;
    std::fs::remove_file(&place.archive)?;
    let resources = Resources::default().with_threads(2);
    let options = CompressOptions::new(method()).with_resources(resources).with_resume(true);
    let run = |observer: &dyn Observer| {
        delta_stream::compress(&place.ft, &place.base, &place.archive, &options, observer)
    };
    let mut n_tiles = 0;
    for moment in (4..16).step_by(2) {
        let error = run(&StopAt(moment, AtomicU64::new(0))).err().ok_or("it was done")?;
        assert_eq!(error.kind(), ErrorKind::Interrupted);
        // Tiles of a tensor that was not finished are decoded again, for its hashes.
        n_tiles += run(&Silent)?.resumed_tiles;
        assert!(std::fs::read(&place.archive)? == whole, "the bytes are others at {moment}");
        std::fs::remove_file(&place.archive)?;
    }
    assert!(n_tiles > 0, "no tile was kept");
    Ok(())
}

/// Leaves what is not finite in tensors whose names say so.
struct Divides;

impl CustomMethod for Divides {
    fn name(&self) -> &str {
        "divides"
    }

    fn change(&self, tile: &CustomTile<'_>, delta: &mut [f32]) {
        let by = if tile.tensor.contains("up_proj") { 0.0 } else { 2.0 };
        delta.iter_mut().for_each(|v| *v /= by);
    }
}

#[test]
fn tiles_that_are_not_finite_are_kept_bit_for_bit() -> Outcome {
    let shape = [8u64, 8];
    let of = |name: &str, values: &[f32]| tensor(name, "F32", &shape, encode("F32", values));
    let names = ["model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.down_proj.weight"];
    let (base, mut fine) = ([0.5f32; 64], [0.75f32; 64]);
    let base = one_shard(&names.map(|name| of(name, &base)));
    fine[9] = f32::NAN;
    let ft = one_shard(&[of(names[0], &[0.75; 64]), of(names[1], &fine)]);
    let place = Place::new(&base, &ft)?;
    let report = place.compress(Method::Custom(Custom::new(Divides)))?;
    assert_eq!((report.exact_tiles, report.lossy_tensors), (2, 2));
    assert!(place.restore(&RestoreOptions::default())? == ft, "not the fine-tune's own bits");
    Ok(())
}

/// Has a name that cannot be stored.
struct Nameless;

impl CustomMethod for Nameless {
    fn name(&self) -> &str {
        ""
    }

    fn change(&self, _tile: &CustomTile<'_>, _delta: &mut [f32]) {}
}

#[test]
fn names_and_shifts_that_do_not_fit_are_refused() -> Outcome {
    let place = Place::made_up(&crate::support::small())?;
    let error = place.compress(Method::Custom(Custom::new(Nameless))).err().ok_or("a name")?;
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    let shift = BaseShift::new(BaseVector::Own);
    let options = CompressOptions::new(method()).with_base_shift(Some(shift));
    let done = delta_stream::compress(&place.ft, &place.base, &place.archive, &options, &Silent);
    let error = done.err().ok_or("a shift")?;
    assert!(error.to_string().contains("without a base shift"), "{error}");
    assert!(!place.archive.exists());
    Ok(())
}
