//! `inspect --tensors` says what the stored bits of lossy tensors are for, to the byte.

use std::fs;

use delta_stream::{
    Auto, BitDelta, CompressOptions, Dare, DeltaDct, DeltaDq, ErrorKind, GroupIndex, Method,
    PartBits, Silent, VariantSummary,
};

use crate::forge::{TILE, frames};
use crate::made::{Outcome, Place, Rng, one_shard, tensor, twins};

const HEADER: f64 = 48.0;

/// Two lossy matrices, one of them of several tiles and with an infinity in its first, and a norm.
fn place() -> Outcome<Place> {
    let mut rng = Rng::new(71);
    let (b0, f0) = twins(&mut rng, "layers.0.a.weight", "BF16", &[96, 80]);
    let (b1, mut f1) = twins(&mut rng, "layers.0.b.weight", "F32", &[1100, 1000]);
    let (b2, f2) = twins(&mut rng, "norm.weight", "F32", &[300]);
    f1.bytes[..4].copy_from_slice(&f32::INFINITY.to_le_bytes());
    let note = tensor("note", "U8", &[40], rng.bytes(40));
    Place::new(&one_shard(&[b0, b1, b2]), &one_shard(&[f0, f1, f2, note]))
}

fn summary(place: &Place, tensors: bool) -> Outcome<VariantSummary> {
    let found = delta_stream::inspect(&place.archive, None, tensors)?.variants;
    Ok(found.into_iter().next().ok_or("no variant")?)
}

fn sum(p: &PartBits) -> f64 {
    p.codes + p.positions + p.scales + p.headers
}

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-9 * b.abs().max(1.0)
}

/// Checks every sum of one method's archive; returns the variant's parts.
fn check(place: &Place, method: Method) -> Outcome<PartBits> {
    let name = method.name();
    place.compress(method)?;
    let found = summary(place, true)?;
    let (mut lossy_bytes, mut all_bits, mut n_lossy) = (0, PartSums::default(), 0);
    for t in found.tensor_list.as_ref().ok_or("no tensors")? {
        let n: u64 = t.shape.iter().product();
        let Some(parts) = t.parts.filter(|_| t.stored_as == "lossy") else {
            assert!(t.parts.is_none() && t.stored_as != "lossy", "{name}: {t:?}");
            continue;
        };
        let n_tiles = if n > 1 << 20 { 2.0 } else { 1.0 };
        assert!(close(parts.headers * n as f64 / 8.0, HEADER * n_tiles), "{name}: {t:?}");
        assert!(close(sum(&parts), t.bits_per_parameter), "{name}: {t:?}");
        assert!(close(sum(&parts) * n as f64 / 8.0, t.stored_bytes as f64), "{name}: {t:?}");
        assert!(parts.codes > 0.0 && parts.scales >= 0.0 && parts.positions >= 0.0, "{name}");
        lossy_bytes += t.stored_bytes;
        n_lossy += n;
        all_bits.add(&parts, n);
    }
    let parts = found.parts.ok_or("no parts of the variant")?;
    assert!(n_lossy > 1 << 20);
    assert!(close(sum(&parts), found.bits_per_parameter.ok_or("no bits")?), "{name}");
    assert_eq!(found.rest_bytes + lossy_bytes, found.stored_bytes);
    for (sum, whole) in [
        (all_bits.codes, parts.codes),
        (all_bits.positions, parts.positions),
        (all_bits.scales, parts.scales),
        (all_bits.headers, parts.headers),
    ] {
        assert!(close(sum / n_lossy as f64, whole), "{name}: {sum} of {whole}");
    }
    // The records alone say all but the parts.
    let records = summary(place, false)?;
    assert!(records.parts.is_none() && records.rest_bytes == found.rest_bytes);
    Ok(parts)
}

#[derive(Default)]
struct PartSums {
    codes: f64,
    positions: f64,
    scales: f64,
    headers: f64,
}

impl PartSums {
    fn add(&mut self, p: &PartBits, n: u64) {
        let n = n as f64;
        self.codes += p.codes * n;
        self.positions += p.positions * n;
        self.scales += p.scales * n;
        self.headers += p.headers * n;
    }
}

#[test]
fn parts_add_up_to_what_is_stored() -> Outcome {
    let place = place()?;
    let groups = DeltaDq::default();
    for (method, has_positions) in [
        (Method::DeltaDct(DeltaDct::default().with_patch(8)), false),
        (Method::BitDelta(BitDelta::default().with_planes(2)), false),
        (Method::Dare(Dare::default()), false),
        (Method::DeltaDq(groups), false),
        (Method::DeltaDq(groups.with_index(GroupIndex::InGroup, 1)), true),
        (Method::DeltaDq(groups.with_index(GroupIndex::Csr, 1)), true),
        (Method::DeltaDq(groups.with_index(GroupIndex::Csr, 4)), true),
        (Method::Auto(Auto::default()), false),
    ] {
        let parts = check(&place, method.clone())?;
        assert_eq!(parts.positions > 0.0, has_positions, "{method:?}: {parts:?}");
        // Patches have ranges and a class map; of the others only a few bytes a tile are no values.
        let many_scales = matches!(method, Method::DeltaDct(_));
        assert_eq!(parts.scales > 0.01, many_scales, "{method:?}: {parts:?}");
    }
    Ok(())
}

#[test]
fn without_loss_nothing_is_divided() -> Outcome {
    let place = place()?;
    place.compress(Method::Lossless)?;
    let found = summary(&place, true)?;
    assert!(found.parts.is_none() && found.rest_bytes == found.stored_bytes);
    assert!(found.tensor_list.ok_or("no tensors")?.iter().all(|t| t.parts.is_none()));
    Ok(())
}

/// The records alone do not see a tile that is damaged; who divides it does.
#[test]
fn a_damaged_tile_is_seen_where_it_is_read() -> Outcome {
    let mut rng = Rng::new(72);
    let (b, f) = twins(&mut rng, "layers.0.a.weight", "BF16", &[96, 80]);
    let place = Place::new(&one_shard(&[b]), &one_shard(&[f]))?;
    let options = CompressOptions::new(Method::DeltaDct(DeltaDct::default()));
    delta_stream::compress(&place.ft, &place.base, &place.archive, &options, &Silent)?;
    let mut bytes = fs::read(&place.archive)?;
    let tile = frames(&bytes).into_iter().find(|f| f.kind == TILE).ok_or("no tile")?;
    bytes[tile.at + tile.len - 1] ^= 1;
    fs::write(&place.archive, &bytes)?;
    delta_stream::inspect(&place.archive, None, false)?;
    let error = delta_stream::inspect(&place.archive, None, true).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("layers.0.a.weight"), "{error}");
    Ok(())
}
