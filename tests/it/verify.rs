//! `verify` names every fault of an archive and goes on behind it; no byte of a committed archive can
//! change unseen.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use delta_stream::{
    BitDelta, CompressOptions, DeltaDct, ErrorKind, Fault, Method, Resources, Silent, Subset,
    VerifyLevel, VerifyOptions, VerifyReport,
};

use crate::forge::{BLOB, HEAD, SEAL, TILE, frames, u32_at};
use crate::made::{Outcome, Place, Rng, one_shard, tensor, twins};
use crate::support::{Pair, stdout};

fn options(name: &str, method: Method) -> CompressOptions {
    CompressOptions::new(method)
        .with_name(name)
        .with_resources(Resources::default().with_threads(1))
}

/// An archive of two variants, a removed one between them, and a side file of two pieces; small unless
/// `rows` is not.
fn archive(rows: u64, side: usize) -> Outcome<Place> {
    let mut rng = Rng::new(91);
    let (b0, f0) = twins(&mut rng, "layers.0.a.weight", "BF16", &[rows, 8]);
    let (b1, f1) = twins(&mut rng, "norm.weight", "F32", &[9]);
    let empty = tensor("empty.weight", "F32", &[0, 4], Vec::new());
    let (_, f2) = twins(&mut rng, "new.weight", "F32", &[3, 3]);
    let mut tied = f2.clone();
    tied.name = "tied.weight".into();
    let mut ft = one_shard(&[f0, f1, empty, f2, tied]);
    ft.insert("config.json".into(), rng.bytes(side));
    let place = Place::new(&one_shard(&[b0, b1]), &ft)?;
    let (ft, base, archive) = (&place.ft, &place.base, &place.archive);
    let dct = Method::DeltaDct(DeltaDct::default().with_patch(8));
    delta_stream::compress(ft, base, archive, &options("one", dct), &Silent)?;
    let signs = Method::BitDelta(BitDelta::default());
    delta_stream::append(ft, base, archive, &options("gone", signs), &Silent)?;
    delta_stream::remove(archive, "gone")?;
    delta_stream::append(ft, base, archive, &options("two", Method::Lossless), &Silent)?;
    Ok(place)
}

fn verify(place: &Place, level: VerifyLevel) -> delta_stream::Result<VerifyReport> {
    let resources = Resources::default().with_threads(2);
    let options = VerifyOptions::default().with_level(level).with_resources(resources);
    delta_stream::verify(&place.archive, &options, &Silent)
}

#[test]
fn no_byte_can_change_unseen() -> Outcome {
    let place = archive(16, 40)?;
    let whole = fs::read(&place.archive)?;
    let sound = verify(&place, VerifyLevel::Frames)?;
    assert!(sound.ok && sound.n_faults == 0 && sound.tail_bytes == 0, "{sound:?}");
    let mut reported = 0;
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        fs::write(&place.archive, &bytes)?;
        match verify(&place, VerifyLevel::Frames) {
            Ok(report) => {
                assert!(!report.ok && report.n_faults > 0, "byte {at} changed unseen");
                assert_eq!(report.faults.len() as u64, report.n_faults);
                // The place that is named is the frame with the byte, or the frame that lists it.
                assert!(report.faults.iter().all(|f| f.offset <= at as u64), "{at}: {report:?}");
                reported += 1;
            }
            Err(e) => {
                let kinds = [ErrorKind::Corrupt, ErrorKind::Truncated, ErrorKind::Incompatible];
                assert!(kinds.contains(&e.kind()), "byte {at}: {e}");
            }
        }
    }
    assert!(reported > whole.len() * 8 / 10, "{reported} of {}", whole.len());
    Ok(())
}

/// Damage to a header, which the structure shows, and to a body, which only reading it does.
#[test]
fn every_fault_is_named_at_every_level() -> Outcome {
    let place = archive(600_000, (1 << 20) + 9)?;
    let whole = fs::read(&place.archive)?;
    let names = BTreeMap::from([(0, "one"), (2, "two")]);
    let tensors = ["layers.0.a.weight", "norm.weight", "empty.weight", "new.weight", "tied.weight"];
    let mut bytes = whole.clone();
    let (mut headers, mut all, mut in_tiles) = (BTreeSet::new(), BTreeSet::new(), 0);
    for (i, frame) in frames(&whole).into_iter().enumerate() {
        if ![TILE, BLOB].contains(&frame.kind) {
            continue;
        }
        let (id, item) = (u32_at(&whole, frame.at + 16), u32_at(&whole, frame.at + 20) as usize);
        let part = u64::from(u32_at(&whole, frame.at + 24));
        let is_header = i % 2 == 0;
        bytes[frame.at + if is_header { 33 } else { frame.len - 1 }] ^= 4;
        let tensor = (frame.kind == TILE).then(|| tensors[item].to_owned());
        let side = (frame.kind == BLOB).then(|| "config.json".to_owned());
        let variant = names.get(&id).map(|n| (*n).to_owned());
        let known = variant.is_some();
        let named = (variant, tensor.filter(|_| known), side.filter(|_| known), frame.at as u64);
        let named = (named, known.then_some(part));
        in_tiles += usize::from(frame.kind == TILE && known);
        if is_header {
            headers.insert(named.clone());
        }
        all.insert(named);
    }
    fs::write(&place.archive, &bytes)?;
    assert!(headers.len() > 4 && all.len() > headers.len() + 4 && in_tiles > 10);
    let named = |f: &Fault| {
        let (variant, tensor, side) = (f.variant.clone(), f.tensor.clone(), f.side_file.clone());
        ((variant, tensor, side, f.offset), f.part)
    };
    let found = |level| -> Outcome<BTreeSet<_>> {
        let report = verify(&place, level)?;
        assert!(!report.ok && report.n_faults == report.faults.len() as u64);
        Ok(report.faults.iter().map(named).collect())
    };
    assert_eq!(found(VerifyLevel::Structure)?, headers);
    assert_eq!(found(VerifyLevel::Frames)?, all);
    assert_eq!(found(VerifyLevel::Decode(place.base.clone()))?, all);
    // A share shows the structure and what it reads; all groups together show all that a variant uses.
    let mut together = BTreeSet::new();
    for n in 1..=3 {
        let group = found(VerifyLevel::Subset(Subset::Group { n, of: 3 }))?;
        assert!(group.is_superset(&headers) && group.is_subset(&all));
        together.extend(group);
    }
    let used: BTreeSet<_> = all.iter().filter(|f| f.0.0.is_some()).cloned().collect();
    assert!(together.is_superset(&used));
    Ok(())
}

#[test]
fn a_share_reads_its_share_and_the_seed_says_which() -> Outcome {
    let place = archive(600_000, (1 << 20) + 9)?;
    let all = verify(&place, VerifyLevel::Frames)?;
    let of = |percent, seed| verify(&place, VerifyLevel::Subset(Subset::Percent { percent, seed }));
    let mut seen = BTreeSet::new();
    for seed in 0..20 {
        let report = of(20.0, seed)?;
        assert!(report.ok && report.level == "subset" && report.headers == all.headers);
        assert_eq!(report.frames, all.frames.div_ceil(5));
        let subset = report.subset.ok_or("no subset")?;
        assert_eq!((subset.seed, subset.of_frames), (Some(seed), all.frames));
        assert_eq!(report.bytes, of(20.0, seed)?.bytes);
        seen.insert(report.bytes);
    }
    assert!(seen.len() > 5, "{seen:?}");
    let whole = of(100.0, 0)?;
    assert_eq!((whole.frames, whole.bytes), (all.frames, all.bytes));
    for subset in [
        Subset::Percent { percent: 0.0, seed: 0 },
        Subset::Percent { percent: 100.5, seed: 0 },
        Subset::Percent { percent: f64::NAN, seed: 0 },
        Subset::Group { n: 0, of: 3 },
        Subset::Group { n: 4, of: 3 },
    ] {
        let refused = verify(&place, VerifyLevel::Subset(subset)).map_err(|e| e.kind());
        assert_eq!(refused.err(), Some(ErrorKind::InvalidArgument), "{subset:?}");
    }
    Ok(())
}

/// Records are faults of their variant; the others are checked all the same.
#[test]
fn damaged_records_hide_no_other_fault() -> Outcome {
    let place = archive(600, 40)?;
    let whole = fs::read(&place.archive)?;
    for kind in [HEAD, SEAL] {
        let mut bytes = whole.clone();
        let mut wanted = BTreeSet::new();
        for frame in frames(&whole) {
            let id = u32_at(&whole, frame.at + 16);
            if (frame.kind == kind && id == 0) || (frame.kind == TILE && id != 1) {
                bytes[frame.at + frame.len - 1] ^= 1;
                wanted.insert(frame.at as u64);
            }
        }
        fs::write(&place.archive, &bytes)?;
        let report = verify(&place, VerifyLevel::Frames)?;
        let found: BTreeSet<_> = report.faults.iter().map(|f| f.offset).collect();
        assert_eq!(found, wanted);
        let of =
            |id: &str| report.faults.iter().filter(|f| f.variant.as_deref() == Some(id)).count();
        assert!(of("one") > 1 && of("two") > 1, "{report:?}");
        assert_eq!(report.variants, ["one", "two"]);
    }
    // Only one of them.
    fs::write(&place.archive, &whole)?;
    let options = VerifyOptions::default().with_name(Some("two".into()));
    let report = delta_stream::verify(&place.archive, &options, &Silent)?;
    assert!(report.ok && report.variants == ["two"]);
    Ok(())
}

/// A later generation whose footer is damaged looks like what a crash left, but for the bytes of a whole
/// footer behind its index.
#[test]
fn a_lost_generation_is_no_torn_tail() -> Outcome {
    let place = archive(16, 40)?;
    let whole = fs::read(&place.archive)?;
    let last = frames(&whole).into_iter().next_back().ok_or("no footer")?;
    for n in last.at..whole.len() {
        fs::write(&place.archive, &whole[..n])?;
        let report = verify(&place, VerifyLevel::Frames)?;
        assert!(report.ok && report.tail_bytes > 100, "{n}: {report:?}");
    }
    let mut bytes = whole;
    bytes[last.at + 20] ^= 1;
    fs::write(&place.archive, &bytes)?;
    let report = verify(&place, VerifyLevel::Structure)?;
    assert_eq!((report.n_faults, report.faults[0].offset), (1, last.at as u64));
    assert!(report.faults[0].what.contains("later generation"), "{report:?}");
    Ok(())
}

#[test]
fn faults_are_listed_up_to_a_bound_and_counted_beyond() -> Outcome {
    let mut rng = Rng::new(92);
    let pairs: Vec<_> =
        (0..1100).map(|i| twins(&mut rng, &format!("norm.{i}.bias"), "F32", &[3])).collect();
    let (base, ft): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
    let place = Place::new(&one_shard(&base), &one_shard(&ft))?;
    place.compress(Method::Lossless)?;
    let mut bytes = fs::read(&place.archive)?;
    let tiles: Vec<_> = frames(&bytes).into_iter().filter(|f| f.kind == TILE).collect();
    assert_eq!(tiles.len(), 1100);
    tiles.iter().for_each(|f| bytes[f.at + f.len - 1] ^= 1);
    fs::write(&place.archive, &bytes)?;
    let report = verify(&place, VerifyLevel::Frames)?;
    assert_eq!((report.n_faults, report.faults.len()), (1100, VerifyReport::MAX_LISTED));
    Ok(())
}

#[test]
fn the_command_line_lists_faults_and_ends_with_4() {
    let pair = Pair::with_archive();
    let path = pair.path("a.delta.zst");
    let mut bytes = fs::read(&path).unwrap();
    let all: Vec<_> = frames(&bytes).into_iter().filter(|f| f.kind == TILE).collect();
    assert!(all.len() > 16, "{}", all.len());
    all.iter().for_each(|f| bytes[f.at + f.len - 1] ^= 1);
    fs::write(&path, &bytes).unwrap();
    for (line, n) in [
        ("verify a.delta.zst", all.len()),
        ("verify a.delta.zst --base base --name small", all.len()),
        ("verify a.delta.zst --read-data-subset 100%", all.len()),
        ("verify a.delta.zst --read-data-subset 1/1", all.len()),
    ] {
        let report = pair.json(line, 4);
        assert_eq!(report["n_faults"], n, "{line}");
        let fault = &report["faults"][0];
        assert_eq!(fault["variant"], "small");
        assert_eq!(fault["part"], 0);
        assert_eq!(fault["offset"], all[0].at);
        assert!(fault["tensor"].is_string() && fault["side_file"].is_null());
        assert!(fault["what"].as_str().unwrap().contains("checksum"), "{fault}");
        assert!(fault.get("kind").is_none());
    }
    assert_eq!(pair.json("verify a.delta.zst --structure", 0)["level"], "structure");
    let report = pair.json("verify a.delta.zst --read-data-subset 5% --seed 7", 4);
    assert_eq!((&report["subset"]["seed"], &report["subset"]["share"]), (&7.into(), &"5%".into()));
    let text = stdout(&pair.run("verify a.delta.zst").code(4));
    assert!(text.contains("DAMAGED") && text.contains("more; --json lists them"), "{text}");
    assert_eq!(text.lines().filter(|l| l.contains("tile 0 at offset")).count(), 16, "{text}");
}
