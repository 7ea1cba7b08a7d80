//! NaN and infinities under a lossy method: the tile that has them is kept bit for bit, the others
//! are as lossy as ever.

use delta_stream::{Allocation, DeltaDct, Method, RestoreOptions};

use crate::made::{Outcome, Place, Rng, encode, one_shard, read, tensor, tensors};

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
        let back = tensors(&place.restore(&RestoreOptions::default())?)?;
        let original = tensors(&read(&place.ft)?)?;
        let (back, original) = (&back[NAME].2, &original[NAME].2);
        let edge = (1 << 20) * 2;
        assert_eq!(back[..edge], original[..edge]);
        assert_ne!(back[edge..], original[edge..]);
    }
    Ok(())
}
