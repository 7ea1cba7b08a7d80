//! The NumPy models and this program agree on the vectors those made.

use std::fs;
use std::path::Path;

use delta_stream::{
    Allocation, BaseShift, BaseVector, BitDelta, CompressOptions, Dare, DeltaDct, DeltaDq,
    GroupIndex, Method, RestoreOptions, SignScale, Silent, UltraDelta,
};
use serde_json::Value;

use crate::made::{Files, Outcome, Place, encode, one_shard, tensor, tensors};

const NAME: &str = "layers.0.a.weight";

/// Base and fine-tune of a vector, from the generator in the head of `tools/reference/vectors.py`.
fn pair(seed: u64, m: usize, n: usize) -> (Vec<f32>, Vec<f32>) {
    let mut state = seed;
    let mut draw = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as i64
    };
    let base: Vec<f32> =
        (0..m * n).map(|_| (draw() - (1 << 23)) as f32 / (1 << 25) as f32).collect();
    let fine = base.iter().enumerate().map(|(at, b)| {
        let noise: i64 = (0..4).map(|_| draw() >> 14).sum::<i64>() - 2046;
        let (i, j) = ((at / n) as i64, (at % n) as i64);
        b + ((1 + i % 5) * (1 + j % 3) * noise) as f32 / (1 << 24) as f32
    });
    let fine = fine.collect();
    (base, fine)
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().into_iter().flatten().filter_map(Value::as_f64).collect()
}

fn number(value: &Value) -> Outcome<f64> {
    Ok(value.as_f64().ok_or("no number")?)
}

/// What the fine-tune comes back as, and the relative error reported.
fn run(base: &[f32], fine: &[f32], shape: &[u64], method: Method) -> Outcome<(Vec<f32>, f64)> {
    run_with(base, fine, shape, CompressOptions::new(method))
}

fn run_with(
    base: &[f32],
    fine: &[f32],
    shape: &[u64],
    options: CompressOptions,
) -> Outcome<(Vec<f32>, f64)> {
    let files = |v: &[f32]| one_shard(&[tensor(NAME, "F32", shape, encode("F32", v))]);
    let place = Place::new(&files(base), &files(fine))?;
    let (ft, base, archive) = (&place.ft, &place.base, &place.archive);
    let report = delta_stream::compress(ft, base, archive, &options, &Silent)?;
    let restored = tensors(&place.restore(&RestoreOptions::default())?)?;
    let floats = restored[NAME].2.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b));
    Ok((floats.collect(), report.relative_error.ok_or("nothing was lossy")?))
}

/// Holds what `method` restores to the model's decoded delta and error.
fn check(case: &Value, wanted: &Value, method: &Method) -> Outcome {
    let sides = numbers(&case["shape"]);
    let (m, n) = (sides[0] as usize, sides[1] as usize);
    let (base, fine) = pair(number(&case["seed"])? as u64, m, n);
    for (values, wanted) in [(&base, &case["base"]), (&fine, &case["fine"])] {
        for (v, w) in values.iter().zip(numbers(wanted)) {
            assert_eq!(*v, w as f32, "the generator differs");
        }
    }
    let delta: Vec<f32> = fine.iter().zip(&base).map(|(f, b)| f - b).collect();
    let zero = vec![0.0; base.len()];
    let decoded = numbers(&wanted["decoded"]);
    let error = number(&wanted["noise_squares"])? / number(&case["delta_squares"])?;
    let largest = decoded.iter().fold(0.0, |a: f64, v| a.max(v.abs()));
    // Against zeros the delta comes back with all its digits, against weights with those that an
    // f32 near 0.25 has left.
    for (base, fine, ulp) in [(&zero, &delta, 0.0), (&base, &fine, 2f64.powi(-26))] {
        let (restored, lost) = run(base, fine, &[m as u64, n as u64], method.clone())?;
        for (i, want) in decoded.iter().enumerate() {
            let got = f64::from(restored[i]) - f64::from(base[i]);
            let off = (got - want).abs();
            assert!(off <= 1e-5 * largest + ulp, "{method:?}: value {i}: {got}, not {want}");
        }
        assert!((lost / error - 1.0).abs() < 1e-3, "{method:?}: error {lost}, not {error}");
    }
    Ok(())
}

/// The cases of a method's vectors; none where they are not part of the package.
fn cases(name: &str) -> Outcome<Vec<Value>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/reference/vectors");
    let path = root.join(format!("{name}.json"));
    if !path.exists() {
        eprintln!("skipped: {} is not part of the package", path.display());
        return Ok(Vec::new());
    }
    let vectors: Value = serde_json::from_str(&fs::read_to_string(path)?)?;
    let cases = vectors["cases"].as_array().ok_or("no cases")?;
    assert!(cases.len() >= 2);
    Ok(cases.clone())
}

#[test]
fn delta_dct() -> Outcome {
    for case in cases("delta_dct")? {
        let classes = case["allocation"].as_array().into_iter().flatten().map(numbers);
        let allocation = Allocation::new(classes.map(|c| (c[0] as u8, c[1])).collect())?;
        for (rescale, wanted) in [(true, &case), (false, &case["plain"])] {
            let method = DeltaDct::default()
                .with_patch(number(&case["p"])? as u16)
                .with_allocation(allocation.clone())
                .with_rescale(rescale);
            check(&case, wanted, &Method::DeltaDct(method))?;
        }
    }
    Ok(())
}

#[test]
fn bitdelta() -> Outcome {
    for case in cases("bitdelta")? {
        let scale = match case["scale"].as_str() {
            Some("unbiased") => SignScale::Unbiased,
            _ => SignScale::Mean,
        };
        let method =
            BitDelta::default().with_scale(scale).with_planes(number(&case["planes"])? as u8);
        check(&case, &case, &Method::BitDelta(method))?;
    }
    Ok(())
}

/// The mask is drawn by each side in its own way; what must agree is the error it leads to.
#[test]
fn dare_has_the_error_of_its_closed_form() -> Outcome {
    let (base, fine) = pair(9, 256, 512);
    for sparsity in [0.5, 0.9, 0.97] {
        let method = Method::Dare(Dare::default().with_sparsity(sparsity));
        let (restored, lost) = run(&base, &fine, &[256, 512], method)?;
        let expected = sparsity / (1.0 - sparsity);
        assert!((lost / expected - 1.0).abs() < 0.05, "{sparsity}: {lost}, not {expected}");
        let kept = restored.iter().zip(&base).filter(|(r, b)| r != b).count() as f64;
        let share = kept / base.len() as f64;
        assert!((share - (1.0 - sparsity)).abs() < 0.01, "{sparsity}: {share} kept");
    }
    Ok(())
}

/// With exact counts in groups the error is alpha - 1, a little more for four bits; all forms of
/// positions restore the same.
#[test]
fn deltadq_has_the_error_of_its_closed_form_in_every_form() -> Outcome {
    let (base, fine) = pair(10, 256, 512);
    for alpha in [8, 32] {
        let mut seeded = None;
        for (index, parts) in
            [(GroupIndex::Seed, 1), (GroupIndex::InGroup, 1), (GroupIndex::Csr, 8)]
        {
            let method = DeltaDq::default().with_alpha(alpha).with_index(index, parts);
            let (restored, lost) = run(&base, &fine, &[256, 512], Method::DeltaDq(method))?;
            let expected = f64::from(alpha) - 1.0;
            assert!((0.9..1.2).contains(&(lost / expected)), "{alpha}: {lost}, not {expected}");
            assert!(seeded.get_or_insert_with(|| restored.clone()) == &restored, "{index:?}");
        }
    }
    Ok(())
}

/// Base of zeros and the delta itself, so that it comes back with all its digits.
fn delta_of(case: &Value) -> Outcome<(Vec<u64>, Vec<f32>)> {
    let sides = numbers(&case["shape"]);
    let (base, fine) = pair(number(&case["seed"])? as u64, sides[0] as usize, sides[1] as usize);
    let shape = sides.iter().map(|n| *n as u64).collect();
    Ok((shape, fine.iter().zip(&base).map(|(f, b)| f - b).collect()))
}

/// The survivors are each side's own draw; rates, counts of every level and values must agree.
#[test]
fn ultradelta() -> Outcome {
    let cases = cases("ultradelta")?;
    let (mut base, mut fine) = (Vec::new(), Vec::new());
    for case in &cases {
        let (shape, delta) = delta_of(case)?;
        let name = format!("layers.0.{}.weight", case["name"].as_str().ok_or("no name")?);
        base.push(tensor(&name, "F32", &shape, encode("F32", &vec![0.0; delta.len()])));
        fine.push(tensor(&name, "F32", &shape, encode("F32", &delta)));
    }
    let Some(first) = cases.first() else { return Ok(()) };
    let (target, step) = (number(&first["target"])?, number(&first["step"])?);
    let place = Place::new(&one_shard(&base), &one_shard(&fine))?;
    place.compress(Method::UltraDelta(UltraDelta::default().with_sparsity(target, step)))?;
    let restored = tensors(&place.restore(&RestoreOptions::default())?)?;
    for case in &cases {
        let name = format!("layers.0.{}.weight", case["name"].as_str().ok_or("no name")?);
        let codes = case["codes"].as_str().ok_or("no codes")?.chars();
        let codes: Vec<usize> = codes.filter_map(|c| c.to_digit(16)).map(|c| c as usize).collect();
        let (low, high) = (number(&case["min"])?, number(&case["max"])?);
        let level = |code: usize| (code as f64 / 15.0 * (high - low) + low) / (1.0 - target);
        let mut found = [0.0; 16];
        let floats = restored[&name].2.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b));
        for (value, code) in floats.zip(&codes).filter(|(v, _)| *v != 0.0) {
            let step = (high - low) / 15.0 / (1.0 - target);
            let off = (f64::from(value) - level(*code)).abs();
            // A value on a rounding tie may fall to either side in f32.
            let tie = number(&case["margin"])? < 1e-6 && (off - step).abs() < 1e-4 * step;
            assert!(off < 1e-5 * step || tie, "{name}: {value}, not {}", level(*code));
            found[*code] += 1.0;
        }
        let wanted = numbers(&case["survivors_by_code"]);
        let slack = if number(&case["margin"])? < 1e-6 { 1.0 } else { 0.0 };
        for (code, (found, wanted)) in found.iter().zip(&wanted).enumerate() {
            assert!(
                (found - wanted).abs() <= slack,
                "{name}: {found} of code {code}, not {wanted}"
            );
        }
    }
    Ok(())
}

#[test]
fn dbms() -> Outcome {
    for case in cases("dbms")? {
        let (shape, delta) = delta_of(&case)?;
        let (lambda, eta) = (number(&case["lambda"])?, number(&case["eta"])?);
        let shift = BaseShift::new(BaseVector::Own).with_parameters(Some(lambda), Some(eta));
        let method = Method::BitDelta(BitDelta::default());
        let options = CompressOptions::new(method).with_base_shift(Some(shift));
        let zero = vec![0.0; delta.len()];
        let (restored, lost) = run_with(&zero, &delta, &shape, options)?;
        let decoded = numbers(&case["decoded"]);
        let largest = decoded.iter().fold(0.0, |a: f64, v| a.max(v.abs()));
        for (i, want) in decoded.iter().enumerate() {
            let off = (f64::from(restored[i]) - want).abs();
            assert!(off <= 1e-5 * largest, "lambda {lambda}, eta {eta}: value {i} is {off} off");
        }
        let error = number(&case["noise_squares"])? / number(&case["delta_squares"])?;
        assert!((lost / error - 1.0).abs() < 1e-3, "lambda {lambda}: error {lost}, not {error}");
    }
    Ok(())
}

fn bytes(value: &Value) -> Outcome<Vec<u8>> {
    let digits = value.as_str().ok_or("no hex")?.as_bytes();
    digits.chunks(2).map(|pair| Ok(u8::from_str_radix(str::from_utf8(pair)?, 16)?)).collect()
}

/// Archives of this program; all rates, rows without a delta, directions.
#[test]
fn trellis_tiles_decode_as_the_model_says() -> Outcome {
    for case in cases("trellis")? {
        let name = case["name"].as_str().ok_or("no name")?;
        let shape: Vec<u64> = numbers(&case["shape"]).iter().map(|n| *n as u64).collect();
        let (columns, rows) = shape.split_last().ok_or("no shape")?;
        let (m, n) = (rows.iter().product::<u64>() as usize, *columns as usize);
        let (base, _) = pair(number(&case["seed"])? as u64, m, n);
        let base = one_shard(&[tensor(name, "F32", &shape, encode("F32", &base))]);
        let place = Place::new(&base, &Files::new())?;
        fs::write(&place.archive, bytes(&case["archive"])?)?;
        let restored = tensors(&place.restore(&RestoreOptions::default())?)?;
        assert!(restored[name].2 == bytes(&case["restored"])?, "{name} differs");
    }
    Ok(())
}
