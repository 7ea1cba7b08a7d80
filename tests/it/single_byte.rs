//! Any single byte of a committed archive changed: a plain `verify` reports it, even where no reader uses it.

use std::collections::BTreeMap;
use std::fs;

use delta_stream::{BitDelta, CompressOptions, Method, RestoreOptions, Silent};

use crate::forge::{INDEX, frames, u32_at};
use crate::made::{Files, Outcome, Place, Rng, alone, one_shard, read, shard, twins, verify};

/// What a byte is part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Preamble,
    /// A frame of a variant that is listed.
    Listed,
    LastIndex,
    LastFooter,
    /// A frame of a variant that was removed: no reader uses it, and a compact leaves it behind.
    Removed,
    /// An index or a footer of an earlier generation: no reader uses them while the last one is whole.
    Earlier,
}

impl Part {
    fn is_used(self) -> bool {
        !matches!(self, Part::Removed | Part::Earlier)
    }
}

/// The variants that a plain `verify` finds and calls whole; none if it finds anything wrong.
fn verified(place: &Place) -> Vec<String> {
    match verify(&place.archive, None) {
        Ok(report) if report.ok => report.variants,
        _ => Vec::new(),
    }
}

/// Three generations: the variant `a`, then `b` too, then `b` alone.
fn three_generations() -> Outcome<Place> {
    let mut rng = Rng::new(3);
    let (b0, f0) = twins(&mut rng, "layers.0.a.weight", "F32", &[9, 10]);
    let (b1, f1) = twins(&mut rng, "norm.weight", "BF16", &[24]);
    let ft = Files::from([
        ("model.safetensors".into(), shard(&[f0, f1], None, 0)),
        ("config.json".into(), b"{\"a\": 1}\n".to_vec()),
    ]);
    let place = Place::new(&one_shard(&[b0, b1]), &ft)?;
    let options = |name, method| CompressOptions::new(method).with_name(name);
    let (ft, base, archive) = (&place.ft, &place.base, &place.archive);
    let first = options("a", Method::BitDelta(BitDelta::default()));
    delta_stream::compress(ft, base, archive, &first, &Silent)?;
    delta_stream::append(ft, base, archive, &options("b", Method::Lossless), &Silent)?;
    delta_stream::remove(archive, "a")?;
    Ok(place)
}

/// What each byte of the archive is part of.
fn parts(archive: &[u8]) -> Vec<Part> {
    let mut parts = vec![Part::Preamble; archive.len()];
    let all = frames(archive);
    let last = |kind: u8| all.iter().rposition(|f| f.kind == kind);
    for (i, frame) in all.iter().enumerate() {
        let variant = u32_at(archive, frame.at + 16);
        let part = match frame.kind {
            0 if Some(i) == last(0) => Part::LastFooter,
            INDEX if Some(i) == last(INDEX) => Part::LastIndex,
            0 | INDEX => Part::Earlier,
            // The first variant has the id 0.
            _ if variant == 0 => Part::Removed,
            _ => Part::Listed,
        };
        parts[frame.at..frame.at + frame.len].fill(part);
    }
    parts
}

#[test]
fn every_byte_of_an_archive_is_reported() -> Outcome {
    alone("single_byte::every_byte_of_an_archive_is_reported", every_byte)
}

fn every_byte() -> Outcome {
    let place = three_generations()?;
    let whole = fs::read(&place.archive)?;
    assert_eq!(verified(&place), ["b"]);
    let parts = parts(&whole);
    let mut counts = BTreeMap::new();
    for (at, part) in parts.iter().enumerate() {
        *counts.entry(part).or_insert(0) += 1;
        for mask in [1 << (at % 8), 0xff] {
            let mut bytes = whole.clone();
            bytes[at] ^= mask;
            fs::write(&place.archive, &bytes)?;
            assert!(verified(&place).is_empty(), "byte {at}, {part:?}");
        }
    }
    println!("{} bytes: {counts:?}", whole.len());
    assert_eq!(counts.len(), 6, "{counts:?}");
    // What no reader uses can all be wrong at once.
    let mut bytes = whole;
    bytes.iter_mut().zip(&parts).filter(|(_, part)| !part.is_used()).for_each(|(b, _)| *b ^= 0xff);
    fs::write(&place.archive, &bytes)?;
    assert!(verified(&place).is_empty());
    assert!(place.restore(&RestoreOptions::default())? == read(&place.ft)?);
    Ok(())
}

#[test]
fn one_generation_has_no_byte_that_is_not_used() -> Outcome {
    alone("single_byte::one_generation_has_no_byte_that_is_not_used", one_generation)
}

fn one_generation() -> Outcome {
    let place = three_generations()?;
    // Its one generation has the variant that is left, and nothing before it.
    delta_stream::compact(&place.archive, &Silent)?;
    let whole = fs::read(&place.archive)?;
    assert_eq!(verified(&place), ["b"]);
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        fs::write(&place.archive, &bytes)?;
        assert!(verified(&place).is_empty(), "byte {at} of {}", whole.len());
    }
    Ok(())
}
