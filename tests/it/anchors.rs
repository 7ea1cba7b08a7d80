//! The relative errors and cosines that each method has on made-up deltas: METHODS section 7, closed
//! forms and Monte Carlo bands, for the bytes that this program stores.

use delta_stream::{
    Allocation, BitDelta, Dare, DeltaDct, DeltaDq, Method, RestoreOptions, UltraDelta,
};

use crate::made::{Outcome, Place, Rng, encode, one_shard, tensor, tensors};

const SIDE: usize = 1024;
const NAME: &str = "layers.0.a.weight";

/// A normal deviate by Box and Muller.
fn normal(rng: &mut Rng) -> f64 {
    let mut uniform = || ((rng.draw() >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    let (a, b) = (uniform(), uniform());
    (-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos()
}

/// A delta of deviation about 0.001: Gaussian, or Gaussian times log-normal row and column scales.
fn delta(uneven: bool) -> Vec<f32> {
    let rng = &mut Rng::new(7);
    let mut scales = || -> Vec<f64> {
        let sigma = if uneven { 0.5 } else { 0.0 };
        (0..SIDE).map(|_| (sigma * normal(rng)).exp()).collect()
    };
    let (rows, columns) = (scales(), scales());
    let of = |i: usize| rows[i / SIDE] * columns[i % SIDE] * 1e-3;
    let rng = &mut Rng::new(8);
    (0..SIDE * SIDE).map(|i| (normal(rng) * of(i)) as f32).collect()
}

/// Relative error and cosine of what comes back, against a base of zeros.
fn measured(delta: &[f32], method: Method) -> Outcome<(f64, f64)> {
    let shape = [SIDE as u64, SIDE as u64];
    let files = |values: &[f32]| one_shard(&[tensor(NAME, "F32", &shape, encode("F32", values))]);
    let place = Place::new(&files(&vec![0.0; delta.len()]), &files(delta))?;
    let report = place.compress(method)?;
    let restored = tensors(&place.restore(&RestoreOptions::default())?)?;
    let floats = restored[NAME].2.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b));
    let (mut along, mut squares, mut decoded) = (0.0, 0.0, 0.0);
    for (d, r) in delta.iter().zip(floats) {
        let (d, r) = (f64::from(*d), f64::from(r));
        along += d * r;
        squares += d * d;
        decoded += r * r;
    }
    let error = (squares - 2.0 * along + decoded) / squares;
    let reported = report.relative_error.ok_or("no error")?;
    assert!((error / reported - 1.0).abs() < 1e-6, "{error} reported as {reported}");
    Ok((error, along / (squares * decoded).sqrt()))
}

fn hold(delta: &[f32], method: Method, wanted: (f64, f64), slack: f64) -> Outcome {
    let text = format!("{method:?}");
    let (error, cosine) = measured(delta, method)?;
    let near = |found: f64, wanted: f64| (found / wanted - 1.0).abs() <= slack;
    assert!(near(error, wanted.0), "{text}: error {error}, not {}", wanted.0);
    assert!(near(cosine, wanted.1), "{text}: cosine {cosine}, not {}", wanted.1);
    Ok(())
}

fn dct(patch: u16, allocation: &str, rescale: bool) -> Outcome<Method> {
    let allocation: Allocation = allocation.parse()?;
    let method = DeltaDct::default().with_patch(patch).with_allocation(allocation);
    Ok(Method::DeltaDct(method.with_rescale(rescale)))
}

#[test]
fn gaussian_deltas() -> Outcome {
    let delta = delta(false);
    let sparse = |s| Method::Dare(Dare::default().with_sparsity(s));
    let groups = |alpha| Method::DeltaDq(DeltaDq::default().with_alpha(alpha));
    let ultra = |s| Method::UltraDelta(UltraDelta::default().with_sparsity(s, 0.0));
    let halves = "2:0.5,0:0.5";
    for (method, wanted) in [
        (Method::BitDelta(BitDelta::default()), (0.363, 0.798)),
        (sparse(0.90), (9.00, 0.316)),
        (sparse(0.97), (32.3, 0.173)),
        (groups(8), (7.22, 0.347)),
        (groups(32), (31.5, 0.173)),
        (ultra(0.95), (19.7, 0.220)),
        (ultra(0.97), (33.5, 0.170)),
        (dct(16, halves, true)?, (1.180, 0.644)),
        (dct(16, halves, false)?, (0.624, 0.644)),
        (dct(8, halves, true)?, (1.045, 0.68)),
        (dct(32, halves, true)?, (1.267, 0.63)),
        (dct(64, halves, true)?, (1.323, 0.62)),
        (dct(16, "2:0.34,1:0.33,0:0.33", true)?, (1.087, 0.626)),
    ] {
        hold(&delta, method, wanted, 0.05)?;
    }
    Ok(())
}

/// Scales of rows and columns differ from draw to draw, so the bands are wider. Methods whose levels are
/// laid between the least and the greatest value have none: see `tools/reference/README.md`.
#[test]
fn deltas_of_uneven_rows_and_columns() -> Outcome {
    let delta = delta(true);
    let halves = "2:0.5,0:0.5";
    for (method, wanted) in [
        (Method::BitDelta(BitDelta::default()), (0.633, 0.606)),
        (Method::Dare(Dare::default()), (9.12, 0.319)),
        (dct(16, halves, true)?, (0.750, 0.733)),
        (dct(16, halves, false)?, (0.520, 0.733)),
        (dct(8, halves, true)?, (0.613, 0.76)),
    ] {
        hold(&delta, method, wanted, 0.08)?;
    }
    Ok(())
}

/// Closed forms: exact in expectation, whatever the delta.
#[test]
fn closed_forms() -> Outcome {
    let delta = delta(true);
    let squares: f64 = delta.iter().map(|d| f64::from(*d).powi(2)).sum();
    let mean = delta.iter().map(|d| f64::from(d.abs())).sum::<f64>() / delta.len() as f64;
    let signs = 1.0 - mean * mean * delta.len() as f64 / squares;
    let (error, _) = measured(&delta, Method::BitDelta(BitDelta::default()))?;
    assert!((error / signs - 1.0).abs() < 1e-5, "{error}, not {signs}");
    for sparsity in [0.5, 0.8] {
        let (error, _) = measured(&delta, Method::Dare(Dare::default().with_sparsity(sparsity)))?;
        assert!((error / (sparsity / (1.0 - sparsity)) - 1.0).abs() < 0.03, "{sparsity}: {error}");
    }
    for group in [4, 64, 1024] {
        let fine = DeltaDq::default().with_alpha(4).with_group(Some(group)).with_bits(8);
        let (error, _) = measured(&delta, Method::DeltaDq(fine))?;
        assert!((error / 3.0 - 1.0).abs() < 0.05, "group {group}: {error}");
    }
    Ok(())
}
