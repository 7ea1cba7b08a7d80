//! What is compressed comes back: byte for byte without loss, and outside the policy with it.

use std::fs;

use delta_stream::{
    Allocation, CompressOptions, DType, DeltaDct, ErrorKind, Method, PairShape, RestoreOptions,
    Silent,
};

use crate::made::{
    Files, Outcome, Place, Rng, Tensor, alone, encode, every_method, kind_of, one_shard, shard,
    tensor, tensors, twins,
};

const LINEAR: &str = "model.layers.0.mlp.up_proj.weight";

/// Restores both ways: without loss every file, with loss every tensor that was not stored so.
fn check(label: &str, base: &Files, ft: &Files) -> Outcome {
    let place = Place::new(base, ft)?;
    let report = place.compress(Method::Lossless)?;
    assert_eq!(report.archive_bytes, fs::metadata(&place.archive)?.len());
    let restored = self::restored(&place)?;
    assert!(restored == *ft, "{label}: lossless restored other bytes");

    place.compress(Method::DeltaDct(DeltaDct::default().with_patch(8)))?;
    let restored = self::restored(&place)?;
    let names: Vec<_> = restored.keys().collect();
    assert_eq!(names, ft.keys().collect::<Vec<_>>(), "{label}");
    let (restored, wanted) = (tensors(&restored)?, tensors(ft)?);
    for t in inspected(&place)? {
        if t.1 != "lossy" {
            assert!(restored[&t.0] == wanted[&t.0], "{label}: {} lost bits", t.0);
        }
    }
    Ok(())
}

/// What is restored, but for the index that every checkpoint of several shards gets.
fn restored(place: &Place) -> Outcome<Files> {
    let mut files = place.restore(&RestoreOptions::default())?;
    files.remove("model.safetensors.index.json");
    Ok(files)
}

/// Names of the archive's tensors and how each is stored.
fn inspected(place: &Place) -> Outcome<Vec<(String, &'static str)>> {
    let summary = delta_stream::inspect(&place.archive, None, true)?;
    let list = summary.variants.into_iter().flat_map(|v| v.tensor_list);
    Ok(list.flatten().map(|t| (t.name, t.stored_as)).collect())
}

fn check_tensors(label: &str, base: &[Tensor], ft: &[Tensor]) -> Outcome {
    check(label, &one_shard(base), &one_shard(ft))
}

/// Bytes of a base and of a fine-tune that differ in the low bits of every third byte.
fn noisy(rng: &mut Rng, n: usize) -> (Vec<u8>, Vec<u8>) {
    let base = rng.bytes(n);
    let mut ft = base.clone();
    ft.iter_mut().step_by(3).for_each(|b| *b ^= 3);
    (base, ft)
}

#[test]
fn every_dtype_and_odd_shape() -> Outcome {
    let mut rng = Rng::new(1);
    let (mut base, mut ft) = (Vec::new(), Vec::new());
    for dtype in DType::all() {
        let scalar: &[u64] = if dtype.bits() < 8 { &[8] } else { &[] };
        for (i, shape) in [&[9, 16][..], scalar, &[0, 4], &[3, 1, 8], &[16]].iter().enumerate() {
            let bits = shape.iter().product::<u64>() as usize * dtype.bits();
            let (b, f) = noisy(&mut rng, bits / 8);
            let name = format!("layers.{i}.{}.weight", dtype.name());
            base.push(tensor(&name, dtype.name(), shape, b));
            ft.push(tensor(&name, dtype.name(), shape, f));
        }
    }
    check_tensors("every dtype", &base, &ft)?;
    check_tensors("no base tensor", &[], &ft)?;
    check_tensors("nothing at all", &[], &[])?;
    check_tensors("equal", &ft, &ft)
}

#[test]
fn shards_metadata_side_files_and_unaligned_data() -> Outcome {
    let mut rng = Rng::new(2);
    let (b, f) = twins(&mut rng, LINEAR, "BF16", &[24, 40]);
    let (b2, f2) = twins(&mut rng, "model.norm.weight", "F32", &[40]);
    let base = one_shard(&[b, b2]);
    for blanks in 0..9 {
        let metadata = r#"{"format":"pt","x":"\u00e4 \" \\"}"#;
        let first = shard(std::slice::from_ref(&f), Some(metadata), blanks);
        let second = shard(std::slice::from_ref(&f2), None, blanks / 2);
        let ft = Files::from([
            ("a.safetensors".into(), first),
            ("b.safetensors".into(), second),
            ("c-empty.safetensors".into(), shard(&[], None, blanks)),
            ("d-empty.safetensors".into(), shard(&[], Some("{}"), 0)),
            ("config.json".into(), b"{}\n".to_vec()),
            ("empty.txt".into(), Vec::new()),
            ("tokenizer.json".into(), rng.bytes((1 << 20) + 7)),
        ]);
        check(&format!("{blanks} blanks"), &base, &ft)?;
    }
    Ok(())
}

#[test]
fn tensors_that_grew_shrank_or_stand_alone() -> Outcome {
    let mut rng = Rng::new(3);
    for (from, to) in [
        (&[30, 16][..], &[37, 16][..]),
        (&[37, 16], &[30, 16]),
        (&[40], &[50]),
        (&[50], &[40]),
        (&[30, 16], &[30, 17]),
        (&[0, 16], &[30, 16]),
        (&[30, 16], &[480]),
        (&[4, 6, 8], &[5, 6, 8]),
        (&[], &[1]),
    ] {
        for name in ["model.embed_tokens.weight", LINEAR] {
            let b = twins(&mut rng, name, "BF16", from).0;
            let mut f = twins(&mut rng, name, "BF16", to).1;
            let common = b.bytes.len().min(f.bytes.len());
            f.bytes[..common].copy_from_slice(&b.bytes[..common]);
            f.bytes.iter_mut().step_by(6).for_each(|x| *x ^= 1);
            let (only_base, _) = twins(&mut rng, "only.base", "F32", &[8]);
            let (_, only_ft) = twins(&mut rng, "only.ft", "F32", &[8]);
            check_tensors(&format!("{name} {from:?} to {to:?}"), &[b, only_base], &[f, only_ft])?;
        }
    }
    Ok(())
}

#[test]
fn dtypes_that_differ() -> Outcome {
    const FLOATS: [&str; 6] = ["F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"];
    let mut rng = Rng::new(4);
    let values: Vec<f32> = (0..24 * 40).map(|_| rng.value(0.02)).collect();
    for from in FLOATS.into_iter().chain(["I32", "U8"]) {
        for to in FLOATS {
            let b = match from {
                "I32" => rng.bytes(values.len() * 4),
                float => encode(float, &values),
            };
            let moved: Vec<f32> = values.iter().map(|v| v + rng.value(0.001)).collect();
            let b = tensor(LINEAR, from, &[24, 40], b);
            let f = tensor(LINEAR, to, &[24, 40], encode(to, &moved));
            check_tensors(&format!("{from} to {to}"), &[b], &[f])?;
        }
    }
    Ok(())
}

#[test]
fn values_no_model_should_have() -> Outcome {
    let mut rng = Rng::new(5);
    for dtype in ["F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"] {
        let (b, _) = twins(&mut rng, LINEAR, dtype, &[24, 40]);
        // Random bits: NaNs with payloads, infinities, subnormals.
        let f = tensor(LINEAR, dtype, &[24, 40], rng.bytes(b.bytes.len()));
        check_tensors(dtype, std::slice::from_ref(&b), std::slice::from_ref(&f))?;
        check_tensors(dtype, std::slice::from_ref(&f), std::slice::from_ref(&b))?;
        check_tensors(dtype, std::slice::from_ref(&f), std::slice::from_ref(&f))?;
        let max = encode(dtype, &[f32::MAX; 960]);
        let min = encode(dtype, &[f32::MIN; 960]);
        check_tensors(
            dtype,
            &[tensor(LINEAR, dtype, &[24, 40], max)],
            &[tensor(LINEAR, dtype, &[24, 40], min)],
        )?;
    }
    Ok(())
}

#[test]
fn equal_tensors_are_stored_once() -> Outcome {
    let mut rng = Rng::new(6);
    let (b, f) = twins(&mut rng, "model.embed_tokens.weight", "BF16", &[300, 16]);
    let mut tied = f.clone();
    tied.name = "lm_head.weight".into();
    let place = Place::new(&one_shard(&[b]), &one_shard(&[f, tied]))?;
    place.compress(Method::Lossless)?;
    let stored: Vec<_> = inspected(&place)?.into_iter().map(|t| t.1).collect();
    assert_eq!(stored, ["lossless", "alias"]);
    let whole = place.restore(&RestoreOptions::default())?;
    assert!(whole == crate::made::read(&place.ft)?);
    let one = RestoreOptions::default().with_tensors(vec!["lm_head*".into()]);
    let one = tensors(&place.restore(&one)?)?;
    assert!(one.len() == 1 && one["lm_head.weight"] == tensors(&whole)?["lm_head.weight"]);
    Ok(())
}

/// A base and a fine-tune with a norm, linear layers, a stack of experts and an embedding.
fn model(seed: u64) -> (Vec<Tensor>, Vec<Tensor>) {
    let mut rng = Rng::new(7);
    let shapes: [(&str, &[u64]); 6] = [
        (LINEAR, &[48, 64]),
        ("model.layers.0.mlp.down_proj.weight", &[64, 50]),
        ("model.layers.0.mlp.experts.gate_up_proj", &[4, 24, 40]),
        ("model.layers.0.input_layernorm.weight", &[64]),
        ("model.layers.1.big.weight", &[150, 256]),
        ("model.embed_tokens.weight", &[90, 64]),
    ];
    let all = shapes.map(|(name, shape)| {
        let (base, mut ft) = twins(&mut rng, name, "F32", shape);
        let mut rng = Rng::new(seed);
        ft.bytes.iter_mut().step_by(4).for_each(|b| *b ^= rng.below(9) as u8);
        (base, ft)
    });
    all.into_iter().unzip()
}

#[test]
fn parts_and_other_shards_agree_with_the_whole() -> Outcome {
    let (base, ft) = model(8);
    let place = Place::new(&one_shard(&base), &one_shard(&ft))?;
    for method in every_method() {
        place.compress(method)?;
        let whole = tensors(&place.restore(&RestoreOptions::default())?)?;
        for limit in [1, 20_000, 60_000, 1 << 40] {
            let options = RestoreOptions::default().with_max_shard_size(Some(limit));
            let files = place.restore(&options)?;
            assert!(tensors(&files)? == whole, "shards of {limit}");
            let n = files.keys().filter(|n| n.ends_with(".safetensors")).count();
            assert_eq!(n > 1, limit < 1 << 40, "shards of {limit}");
        }
        for glob in ["*", "*mlp*", "model.norm*", "*.1.big.weight", "*e*"] {
            let options = RestoreOptions::default().with_tensors(vec![glob.into()]);
            match place.restore(&options) {
                Ok(files) => {
                    let part = tensors(&files)?;
                    assert!(!part.is_empty() && part.iter().all(|(k, v)| whole[k] == *v));
                }
                Err(e) => {
                    assert_eq!(kind_of(&*e), Some(ErrorKind::InvalidArgument), "{glob}: {e}");
                    assert_eq!(glob, "model.norm*");
                }
            }
        }
    }
    let stacked = inspected(&place)?.into_iter().find(|t| t.0.contains("experts"));
    assert_eq!(stacked.map(|t| t.1), Some("lossy"));
    Ok(())
}

#[test]
fn variants_of_one_archive_restore_as_if_alone() -> Outcome {
    alone("roundtrip::variants_of_one_archive_restore_as_if_alone", restore_variants)
}

fn restore_variants() -> Outcome {
    let base = one_shard(&model(0).0);
    let place = Place::new(&base, &Files::new())?;
    let allocation: Allocation = "3:0.2,1:0.4,0:0.4".parse()?;
    let dct = DeltaDct::default().with_patch(8).with_allocation(allocation);
    let (mut first, mut alone) = (Vec::new(), Vec::new());
    for (i, method) in
        [Method::DeltaDct(DeltaDct::default()), Method::Lossless, Method::DeltaDct(dct)]
            .into_iter()
            .enumerate()
    {
        let single = Place::new(&base, &one_shard(&model(10 + i as u64).1))?;
        let options = CompressOptions::new(method).with_name(format!("v{i}"));
        let add = if i == 0 { delta_stream::compress } else { delta_stream::append };
        add(&single.ft, &place.base, &place.archive, &options, &Silent)?;
        delta_stream::compress(&single.ft, &single.base, &single.archive, &options, &Silent)?;
        alone.push(single.restore(&RestoreOptions::default())?);
        if i == 0 {
            first = fs::read(&place.archive)?;
        }
    }
    assert!(fs::read(&place.archive)?.starts_with(&first));
    for (i, alone) in alone.iter().enumerate() {
        let options = RestoreOptions::default().with_name(Some(format!("v{i}")));
        assert!(place.restore(&options)? == *alone, "variant {i}");
    }
    Ok(())
}

#[test]
fn the_base_may_move_but_not_change() -> Outcome {
    let (base, ft) = model(20);
    let place = Place::new(&one_shard(&base), &one_shard(&ft))?;
    for method in every_method() {
        place.compress(method)?;
        let wanted = place.restore(&RestoreOptions::default())?;
        let (front, back) = base.split_at(2);
        let moved = Files::from([
            ("x-2.safetensors".into(), shard(front, Some("{\"a\":\"b\"}"), 3)),
            ("x-1.safetensors".into(), shard(back, None, 0)),
        ]);
        let elsewhere = Place::new(&moved, &Files::new())?;
        let options = RestoreOptions::default();
        assert!(place.restore_against(&elsewhere.base, &options)? == wanted);

        for (i, t) in base.iter().enumerate() {
            let n = t.bytes.len();
            for at in [0, n / 2, n - 1] {
                let mut other = base.clone();
                other[i].bytes[at] ^= 1;
                let other = Place::new(&one_shard(&other), &Files::new())?;
                let error = place.restore_against(&other.base, &options).unwrap_err();
                assert_eq!(kind_of(&*error), Some(ErrorKind::Mismatch), "{} {at}: {error}", t.name);
                assert!(error.to_string().contains(&t.name), "{error}");
            }
        }
    }
    Ok(())
}

#[test]
fn a_forecast_is_within_a_twentieth() -> Outcome {
    let place = Place::empty()?;
    let shape = PairShape::small().with_sizes(256, 688, 2000, 2);
    delta_stream::make_pair(&place.path(""), &shape, 2)?;
    let (base, ft) = (place.path("base"), place.path("fine-tune"));
    for method in every_method() {
        let options = CompressOptions::new(method).with_force(true);
        let said = delta_stream::forecast(&ft, &base, &options, &Silent)?.archive_bytes as f64;
        let report = delta_stream::compress(&ft, &base, &place.archive, &options, &Silent)?;
        let ratio = said / report.archive_bytes as f64;
        assert!((ratio - 1.0).abs() < 0.05, "{}: forecast {ratio} of the size", report.method);
    }
    Ok(())
}

/// A base never costs: at most a thousandth and what its records take.
#[test]
fn a_base_is_never_a_burden() -> Outcome {
    let mut rng = Rng::new(9);
    for dtype in ["F64", "F32", "BF16", "U8", "I64"] {
        for n in [64, 5_000, 300_000] {
            let noise = rng.bytes(n * 8);
            let floats: Vec<f32> = (0..n).map(|_| rng.value(0.02)).collect();
            let floats = encode(if dtype.starts_with('I') { "F64" } else { dtype }, &floats);
            let repeats: Vec<u8> = noise[..256].iter().cycle().take(n * 8).copied().collect();
            let zeros = vec![0; n * 8];
            for (label, b, f) in [
                ("unrelated", &noise, &floats),
                ("noisy base, repeats", &noise, &repeats),
                ("float base, repeats", &floats, &repeats),
                ("noisy base, zeros", &noise, &zeros),
                ("zero base, noise", &zeros, &noise),
                ("equal noise", &noise, &noise),
                ("equal floats", &floats, &floats),
            ] {
                let len = b.len().min(f.len()) / 8 * 8;
                let width = DType::from_name(dtype).map_or(1, |d| d.bits() / 8);
                let shape = [(len / width) as u64];
                let ft = one_shard(&[tensor("t", dtype, &shape, f[..len].to_vec())]);
                let based = one_shard(&[tensor("t", dtype, &shape, b[..len].to_vec())]);
                let size = |base| {
                    Ok::<_, Box<dyn std::error::Error>>(
                        Place::new(base, &ft)?.compress(Method::Lossless)?.archive_bytes,
                    )
                };
                let (with, without) = (size(&based)?, size(&one_shard(&[]))?);
                let most = without + without / 1000 + 200;
                assert!(with <= most, "{dtype} {n} {label}: {with} with a base, {without} without");
            }
        }
    }
    Ok(())
}
