//! `--rest base`: what a method leaves alone takes the base's values, where the base has the like.

use std::collections::HashSet;

use delta_stream::{
    CompressOptions, CompressReport, DeltaDct, ErrorKind, Method, Policy, Rest, RestoreOptions,
    Silent, VariantSummary,
};

use crate::made::{
    Outcome, Place, Rng, Tensor, Tensors, every_method, one_shard, tensor, tensors, twins, verify,
};

const LINEAR: &str = "model.layers.0.mlp.up_proj.weight";
const EXCLUDED: &str = "model.layers.0.mlp.down_proj.weight";
/// The base has these with the same dtype and shape.
const DROPPED: [&str; 6] =
    [EXCLUDED, "model.norm.weight", "embed.weight", "lm_head.weight", "steps", "same.bias"];

/// A base and a fine-tune: a lossy matrix, tensors that can take the base's values (two of them with
/// the same bytes in the fine-tune alone, one with those of a new tensor), and tensors that cannot.
fn model() -> (Vec<Tensor>, Vec<Tensor>) {
    let mut rng = Rng::new(61);
    let (mut base, mut ft) = (Vec::new(), Vec::new());
    for (name, dtype, shape) in [
        (LINEAR, "BF16", &[48, 64][..]),
        (EXCLUDED, "BF16", &[64, 48]),
        ("model.norm.weight", "F32", &[64]),
        ("embed.weight", "BF16", &[90, 64]),
        ("lm_head.weight", "BF16", &[90, 64]),
        ("same.bias", "F16", &[7]),
    ] {
        let (b, f) = twins(&mut rng, name, dtype, shape);
        base.push(b);
        ft.push(f);
    }
    ft[4].bytes = ft[3].bytes.clone();
    ft[5].bytes = base[5].bytes.clone();
    base.push(tensor("steps", "I64", &[3], rng.bytes(24)));
    ft.push(tensor("steps", "I64", &[3], rng.bytes(24)));
    // None of these has a base of its dtype and shape.
    for (name, from, to) in [
        ("grown.weight", ("BF16", &[20, 8][..]), ("BF16", &[24, 8][..])),
        ("other_dtype.weight", ("F32", &[40]), ("BF16", &[40])),
        ("reshaped.weight", ("F32", &[4, 6]), ("F32", &[6, 4])),
    ] {
        base.push(twins(&mut rng, name, from.0, from.1).0);
        ft.push(twins(&mut rng, name, to.0, to.1).1);
    }
    ft.push(twins(&mut rng, "new.weight", "F32", &[9]).1);
    // A new tensor with the bytes of one that is dropped is no alias of it, nor of its base.
    let mut tied = ft[3].clone();
    tied.name = "tied.weight".into();
    ft.push(tied);
    (base, ft)
}

fn options(method: Method, rest: Rest) -> delta_stream::Result<CompressOptions> {
    let policy = Policy::new(None, Some("down_proj"))?.with_rest(rest);
    Ok(CompressOptions::new(method).with_policy(policy).with_force(true))
}

fn run(place: &Place, method: Method, rest: Rest) -> Outcome<(CompressReport, Tensors)> {
    let options = options(method, rest)?;
    let report = delta_stream::compress(&place.ft, &place.base, &place.archive, &options, &Silent)?;
    Ok((report, tensors(&place.restore(&RestoreOptions::default())?)?))
}

fn summary(place: &Place) -> Outcome<VariantSummary> {
    let found = delta_stream::inspect(&place.archive, None, true)?.variants;
    Ok(found.into_iter().next().ok_or("no variant")?)
}

#[test]
fn the_rest_is_the_base_and_the_lossy_tensors_are_as_ever() -> Outcome {
    let (base, ft) = model();
    let place = Place::new(&one_shard(&base), &one_shard(&ft))?;
    let (in_base, in_ft) = (tensors(&one_shard(&base))?, tensors(&one_shard(&ft))?);
    for method in every_method().into_iter().filter(|m| *m != Method::Lossless) {
        let (kept, with_keep) = run(&place, method.clone(), Rest::Keep)?;
        let (dropped, with_base) = run(&place, method, Rest::Base)?;
        assert_eq!(with_base[LINEAR], with_keep[LINEAR]);
        assert!(with_base[LINEAR] != in_ft[LINEAR]);
        for (name, restored) in &with_base {
            if DROPPED.contains(&name.as_str()) {
                assert!(*restored == in_base[name], "{name} is not the base's");
            } else if name != LINEAR {
                assert!(*restored == in_ft[name], "{name} is not the fine-tune's");
            }
        }
        assert!(with_keep.iter().all(|(name, t)| name == LINEAR || *t == in_ft[name]));

        assert_eq!(dropped.fine_tuned_bytes, kept.fine_tuned_bytes);
        let of_lossy = |r: &CompressReport| {
            (r.lossy_tensors, r.bits_per_parameter, r.relative_error, r.paper_ratio)
        };
        assert_eq!(of_lossy(&dropped), of_lossy(&kept));
        let said = |r: &CompressReport| r.notes.iter().any(|n| n.starts_with("6 tensors take the"));
        assert!(said(&dropped) && !said(&kept), "{:?}", dropped.notes);
        assert!(dropped.settings.contains(&("rest".into(), "base".into())));
        assert!(kept.settings.iter().all(|s| s.0 != "rest"));

        let found = summary(&place)?;
        assert_eq!(found.settings, dropped.settings);
        for t in found.tensor_list.ok_or("no tensors")? {
            let one_equal_tile = t.stored_bytes < 70;
            assert!(!DROPPED.contains(&t.name.as_str()) || one_equal_tile, "{t:?}");
            assert!(t.name == "tied.weight" || t.stored_as != "alias", "{t:?}");
        }
        for base in [None, Some(&*place.base)] {
            let report = verify(&place.archive, base)?;
            assert!(report.ok, "{:?}", report.differing);
        }
    }
    Ok(())
}

#[test]
fn a_forecast_honours_it() -> Outcome {
    let (base, ft) = model();
    let place = Place::new(&one_shard(&base), &one_shard(&ft))?;
    let method = Method::DeltaDct(DeltaDct::default());
    let options = options(method.clone(), Rest::Base)?;
    let forecast = delta_stream::forecast(&place.ft, &place.base, &options, &Silent)?;
    run(&place, method, Rest::Base)?;
    let stored = summary(&place)?;
    assert_eq!(forecast.settings, stored.settings);
    assert!(forecast.notes.iter().any(|n| n.starts_with("6 tensors take the")));
    // All tensors but one have one tile, so the forecast has seen all of each.
    let sizes = |list: &[delta_stream::TensorSummary]| {
        let list = list.iter().filter(|t| t.name != "grown.weight");
        list.map(|t| (t.name.clone(), t.stored_bytes)).collect::<HashSet<_>>()
    };
    let list = stored.tensor_list.ok_or("no tensors")?;
    assert_eq!(sizes(&forecast.tensors), sizes(&list));
    Ok(())
}

#[test]
fn lossless_has_no_rest() -> Outcome {
    let (base, ft) = model();
    let place = Place::new(&one_shard(&base), &one_shard(&ft))?;
    let options = options(Method::Lossless, Rest::Base)?;
    let refused = delta_stream::compress(&place.ft, &place.base, &place.archive, &options, &Silent);
    assert_eq!(refused.map_err(|e| e.kind()).err(), Some(ErrorKind::InvalidArgument));
    assert!(!place.archive.exists());
    Ok(())
}
