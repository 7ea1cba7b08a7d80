//! `auto`: sizes are met, plans are exact and can be edited, bytes depend on nothing else.

use std::fs;

use delta_stream::{
    Auto, CompressOptions, CompressReport, ErrorKind, Method, Quality, RatePlan, Resources,
    RestoreOptions, Silent, Size,
};

use crate::made::{Files, Outcome, Place, Rng, Tensor, one_shard, tensor, twins};

/// Layers of several shapes whose deltas differ in strength, with a few directions in common, beside
/// tensors that are kept.
fn model() -> (Files, Files) {
    let mut rng = Rng::new(404);
    let (mut base, mut ft) = (Vec::new(), Vec::new());
    for (layer, deviation) in [0.0004, 0.001, 0.003].into_iter().enumerate() {
        for (name, shape) in [
            ("self_attn.q_proj", [128, 192]),
            ("mlp.up_proj", [320, 192]),
            ("mlp.down_proj", [192, 320]),
        ] {
            let name = format!("model.layers.{layer}.{name}.weight");
            let (b, f) = moved(&mut rng, &name, shape, deviation);
            base.push(b);
            ft.push(f);
        }
    }
    for (name, shape) in
        [("model.embed_tokens.weight", &[100, 192][..]), ("model.norm.weight", &[192])]
    {
        let (b, f) = twins(&mut rng, name, "BF16", shape);
        base.push(b);
        ft.push(f);
    }
    (one_shard(&base), one_shard(&ft))
}

/// A matrix and one moved by noise and by one direction.
fn moved(rng: &mut Rng, name: &str, [m, n]: [u64; 2], deviation: f32) -> (Tensor, Tensor) {
    let left: Vec<f32> = (0..m).map(|_| rng.value(1.0)).collect();
    let right: Vec<f32> = (0..n).map(|_| rng.value(1.0)).collect();
    let (mut base, mut fine) = (Vec::new(), Vec::new());
    for l in &left {
        for r in &right {
            let w = rng.value(0.02);
            base.extend(w.to_le_bytes());
            fine.extend((w + deviation * (rng.value(1.0) + l * r)).to_le_bytes());
        }
    }
    (tensor(name, "F32", &[m, n], base), tensor(name, "F32", &[m, n], fine))
}

fn place() -> Outcome<Place> {
    let (base, ft) = model();
    Place::new(&base, &ft)
}

fn auto(size: Size) -> Method {
    Method::Auto(Auto::default().with_size(size))
}

fn compress(place: &Place, size: Size) -> delta_stream::Result<CompressReport> {
    place.compress(auto(size))
}

#[test]
fn asked_sizes_are_met_from_below() -> Outcome {
    let place = place()?;
    let mut last = 0.0;
    for bits in [0.07, 0.125, 0.25, 0.5, 1.0, 1.7, 2.0, 4.0] {
        let found = compress(&place, Size::Bits(bits))?.bits_per_parameter.ok_or("no bits")?;
        assert!(found <= bits && found > bits * 0.99, "{bits}: {found}");
        assert!(found > last);
        last = found;
    }
    let all = compress(&place, Size::Bits(1.0))?;
    for share in [0.8, 1.3] {
        let bytes = (all.archive_bytes as f64 * share) as u64;
        let found = compress(&place, Size::Bytes(bytes))?.archive_bytes;
        assert!(found <= bytes && found as f64 > bytes as f64 * 0.99, "{bytes}: {found}");
        let ratio = all.fine_tuned_bytes as f64 / bytes as f64;
        let found = compress(&place, Size::Ratio(ratio))?.ratio;
        assert!(found >= ratio && found < ratio * 1.01, "{ratio}: {found}");
    }
    Ok(())
}

#[test]
fn more_bits_lose_less_and_directions_carry_what_they_should() -> Outcome {
    let place = place()?;
    let mut last = f64::INFINITY;
    for bits in [0.125, 0.5, 1.0, 2.0, 4.0] {
        let report = compress(&place, Size::Bits(bits))?;
        let error = report.relative_error.ok_or("no error")?;
        // An unbiased Gaussian code at the same rate would lose at least this.
        assert!(error < 1.5 / (4f64.powf(bits) - 1.0), "{bits}: {error}");
        assert!(error < last);
        last = error;
    }
    let report = compress(&place, Size::Bits(1.0))?;
    let along = report.measured.iter().find(|(name, _)| name == "energy-along-directions");
    let along: f64 = along.ok_or("not measured")?.1.parse()?;
    // Half of each delta lies along one direction.
    assert!((0.4..0.6).contains(&along), "{along}");
    Ok(())
}

#[test]
fn a_size_that_cannot_be_had_is_refused_and_says_what_can() -> Outcome {
    let place = place()?;
    for (size, text) in [
        (Size::Bytes(3000), "smallest size"),
        (Size::Ratio(1000.0), "smallest size"),
        (Size::Bits(0.031), "needs about"),
        (Size::Bits(9.0), "0.03 to 5"),
    ] {
        let error = compress(&place, size).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(error.to_string().contains(text), "{error}");
        assert!(!place.archive.exists());
    }
    // What is named works.
    let text = compress(&place, Size::Bits(0.031)).unwrap_err().to_string();
    let least =
        text.split("needs about ").nth(1).and_then(|t| t.split(' ').next()).ok_or("no least")?;
    compress(&place, Size::Bits(least.parse::<f64>()?))?;
    Ok(())
}

#[test]
fn qualities_are_about_their_bits_and_never_fail_on_small_matrices() -> Outcome {
    let place = place()?;
    for (quality, bits) in [(Quality::High, 1.0), (Quality::Medium, 0.25), (Quality::Small, 0.0625)]
    {
        let found =
            compress(&place, Size::Quality(quality))?.bits_per_parameter.ok_or("no bits")?;
        assert!(found <= bits * 1.3 && found > bits * 0.98, "{quality:?}: {found}");
    }
    let mut rng = Rng::new(7);
    let (base, ft) = twins(&mut rng, "model.layers.0.mlp.up_proj.weight", "F32", &[3, 5]);
    let place = Place::new(&one_shard(&[base]), &one_shard(&[ft]))?;
    for quality in [Quality::High, Quality::Medium, Quality::Small] {
        compress(&place, Size::Quality(quality))?;
        assert!(compress(&place, Size::Bits(1.0)).is_err());
    }
    Ok(())
}

#[test]
fn a_plan_is_exact_and_can_be_edited() -> Outcome {
    let place = place()?;
    let options = CompressOptions::new(auto(Size::Bits(0.5))).with_force(true);
    let forecast = delta_stream::forecast(&place.ft, &place.base, &options, &Silent)?;
    assert!(!place.archive.exists());
    let report = place.compress(auto(Size::Bits(0.5)))?;
    assert_eq!(forecast.archive_bytes, report.archive_bytes);
    let unplanned = fs::read(&place.archive)?;
    let mut plan = forecast.plan.ok_or("no plan")?;
    assert_eq!(plan.matrices.len(), 9);
    // The same rates make the same tiles.
    let planned = |plan| Method::Auto(Auto::default().with_plan(Some(plan)));
    let again = place.compress(planned(plan.clone()))?;
    assert_eq!(again.bits_per_parameter, report.bits_per_parameter);
    assert_eq!(again.relative_error, report.relative_error);
    assert_ne!(fs::read(&place.archive)?, unplanned, "the settings say what was asked");
    // One matrix at four bits, and nothing else moves.
    plan.matrices[0].rate = "4".into();
    (plan.matrices[0].rows, plan.matrices[0].rest) = (None, None);
    let edited = place.compress(planned(plan.clone()))?;
    assert!(edited.bits_per_parameter > again.bits_per_parameter);
    let back = place.path("back");
    delta_stream::restore(&place.archive, &place.base, &back, &RestoreOptions::default(), &Silent)?;
    let compared =
        delta_stream::compare(&place.ft, &back, Some(&place.base), &Resources::default(), &Silent)?;
    let first =
        compared.tensors.iter().find(|t| t.name == plan.matrices[0].tensor).ok_or("gone")?;
    assert!(first.relative_error.ok_or("no error")? < 0.02);
    for (change, text) in [
        (("x", "model.layers.9.gone.weight"), "is no number of bits"),
        (("1", "model.layers.9.gone.weight"), "has no rate"),
    ] {
        let mut bad = plan.clone();
        bad.matrices[1].rate = change.0.into();
        if change.0 == "1" {
            bad.matrices[1].tensor = change.1.into();
        }
        let error = place.compress(planned(bad)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(error.to_string().contains(text), "{error}");
    }
    let refused = |change: &dyn Fn(&mut RatePlan), words: [&str; 2]| {
        let mut bad = plan.clone();
        change(&mut bad);
        let error = place.compress(planned(bad)).unwrap_err().to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
    };
    let first = plan.matrices[0].tensor.as_str();
    refused(&|bad| bad.noise_level = -1.0, ["noise_level", "-1"]);
    refused(&|bad| bad.matrices.push(bad.matrices[0].clone()), [first, "has 2 rates"]);
    let of_too_many_rows = |bad: &mut RatePlan| {
        (bad.matrices[0].rows, bad.matrices[0].rest) = (Some(1_000_000_000), Some("1".into()));
    };
    refused(&of_too_many_rows, [first, "1000000000"]);
    let mut more = plan;
    more.matrices.push(more.matrices[0].clone());
    more.matrices[9].tensor = "model.norm.weight".into();
    let error = place.compress(planned(more)).unwrap_err();
    assert!(error.to_string().contains("model.norm.weight"), "{error}");
    Ok(())
}

#[test]
fn a_fine_tune_that_is_its_base_takes_next_to_nothing() -> Outcome {
    let (base, _) = model();
    let place = Place::new(&base, &base)?;
    for size in [Size::Bits(0.25), Size::Quality(Quality::High)] {
        let report = compress(&place, size)?;
        assert_eq!(report.relative_error, None);
        assert!(report.archive_bytes < 6000, "{}", report.archive_bytes);
    }
    let back = place.path("back");
    delta_stream::restore(&place.archive, &place.base, &back, &RestoreOptions::default(), &Silent)?;
    assert_eq!(fs::read(back.join("model.safetensors"))?, base["model.safetensors"]);
    Ok(())
}

#[test]
fn seeds_draw_other_signs_and_nothing_else() -> Outcome {
    let place = place()?;
    let run = |seed| {
        let options = CompressOptions::new(auto(Size::Bits(0.5))).with_seed(seed).with_force(true);
        delta_stream::compress(&place.ft, &place.base, &place.archive, &options, &Silent)
    };
    let (a, b) = (run(1)?, run(2)?);
    assert_ne!(a.relative_error, b.relative_error);
    let (a, b) = (a.relative_error.ok_or("none")?, b.relative_error.ok_or("none")?);
    assert!((a / b - 1.0).abs() < 0.05, "{a} {b}");
    Ok(())
}
