//! NaN and infinities under a lossy method: the tile that has them is kept bit for bit, and counted; the
//! others are as lossy as ever.

use delta_stream::{Allocation, DeltaDct, Method, RestoreOptions};

use crate::made::{
    Outcome, Place, Rng, encode, every_method, one_shard, read, tensor, tensors, twins,
};

const NAME: &str = "layers.0.up.weight";
/// Two tiles of bf16: the first has 1,024 rows.
const SHAPE: [usize; 2] = [1536, 1024];

#[test]
fn a_tile_with_odd_numbers_is_exact_and_its_neighbour_is_not() -> Outcome {
    let n = SHAPE[0] * SHAPE[1];
    let mut rng = Rng::new(5);
    let base: Vec<f32> = (0..n).map(|_| rng.value(0.02)).collect();
    let mut ft: Vec<f32> = base.iter().map(|v| v + rng.value(0.001)).collect();
    (ft[7], ft[4000], ft[90_000]) = (f32::NAN, f32::INFINITY, f32::NEG_INFINITY);
    let file =
        |values: &[f32]| one_shard(&[tensor(NAME, "BF16", &[1536, 1024], encode("BF16", values))]);
    let place = Place::new(&file(&base), &file(&ft))?;
    for (allocation, rescale) in [("2:0.5,0:0.5", true), ("8:1", false)] {
        let allocation: Allocation = allocation.parse()?;
        let settings = DeltaDct::default().with_allocation(allocation).with_rescale(rescale);
        let report = place.compress(Method::DeltaDct(settings))?;
        assert!(report.relative_error.is_some_and(f64::is_finite), "{report:?}");
        assert_eq!((report.exact_tiles, report.exact_parameters), (1, 1 << 20));
        let back = tensors(&place.restore(&RestoreOptions::default())?)?;
        let original = tensors(&read(&place.ft)?)?;
        let (back, original) = (&back[NAME].2, &original[NAME].2);
        let edge = (1 << 20) * 2;
        assert_eq!(back[..edge], original[..edge]);
        assert_ne!(back[edge..], original[edge..]);
    }
    Ok(())
}

/// Floats that are no numbers, of both signs, quiet and signalling, with payloads.
const NO_NUMBERS: [u32; 6] =
    [0x7f80_0000, 0xff80_0000, 0x7fc0_0000, 0xffc1_2345, 0x7f80_0001, 0xff8f_ffff];
/// Zeros of both signs, and floats that are barely any.
const BARELY: [u32; 6] = [0, 0x8000_0000, 1, 0x8000_0001, 0x007f_ffff, 0x8040_0000];

/// Sets floats from `first` on, a step of seven apart.
fn set(bytes: &mut [u8], first: usize, floats: &[u32]) {
    for (i, float) in floats.iter().enumerate() {
        let at = 4 * (first + 7 * i);
        bytes[at..at + 4].copy_from_slice(&float.to_le_bytes());
    }
}

#[test]
fn every_method_keeps_the_tiles_of_odd_numbers_and_counts_them() -> Outcome {
    let mut rng = Rng::new(6);
    let names = ["plain", "in_base", "in_both", "in_fine_tune", "barely"]
        .map(|name| format!("layers.0.{name}.weight"));
    let (mut base, mut ft): (Vec<_>, Vec<_>) =
        names.iter().map(|name| twins(&mut rng, name, "F32", &[24, 32])).unzip();
    set(&mut base[1].bytes, 3, &NO_NUMBERS);
    set(&mut base[2].bytes, 3, &NO_NUMBERS);
    set(&mut ft[2].bytes, 3, &NO_NUMBERS);
    set(&mut ft[3].bytes, 3, &NO_NUMBERS);
    set(&mut base[4].bytes, 0, &BARELY);
    set(&mut ft[4].bytes, 7, &BARELY);
    let place = Place::new(&one_shard(&base), &one_shard(&ft))?;
    let original = tensors(&read(&place.ft)?)?;
    for method in every_method() {
        let is_exact = method == Method::Lossless;
        let name = method.name();
        let report = place.compress(method)?;
        let back = tensors(&place.restore(&RestoreOptions::default())?)?;
        let kept = names.each_ref().map(|name| back[name].2 == original[name].2);
        if is_exact {
            assert_eq!((kept, report.exact_tiles), ([true; 5], 0), "{name}");
            continue;
        }
        assert_eq!(kept, [false, true, true, true, false], "{name}");
        assert_eq!((report.exact_tiles, report.exact_parameters), (3, 3 * 24 * 32), "{name}");
        let finite = |b: &[u8]| f32::from_le_bytes(b.try_into().unwrap_or_default()).is_finite();
        assert!(back[&names[4]].2.chunks(4).all(finite), "{name}");
    }
    Ok(())
}
