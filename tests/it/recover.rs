//! `recover` saves what is whole of a damaged archive, says exactly what that is, and never more.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use delta_stream::{
    BaseShift, BaseVector, BitDelta, CompressOptions, DeltaDct, ErrorKind, Method, RecoverOptions,
    RecoverReport, Resources, RestoreOptions, Silent, VerifyLevel, VerifyOptions,
};

use crate::forge::{BLOB, Frame, HEAD, INDEX, SEAL, TILE, frames, u32_at};
use crate::made::{
    Files, Outcome, Place, Rng, Tensors, kind_of, one_shard, tensor, tensors, twins,
};
use crate::support::{Pair, stderr, stdout};

/// Tensors of every variant, in order; the last is the one before it again.
const NAMES: [&str; 5] =
    ["layers.0.a.weight", "layers.1.a.weight", "empty.weight", "new.weight", "tied.weight"];
/// Variants and vectors by id: their names.
const IDS: [&str; 4] = ["one", "two", "@own/three", "three"];

/// What a variant restores to.
type Wanted = BTreeMap<&'static str, (Files, Tensors)>;

fn options(name: &str, method: Method) -> CompressOptions {
    CompressOptions::new(method)
        .with_name(name)
        .with_resources(Resources::default().with_threads(1))
}

fn restore(place: &Place, name: &str, globs: &[String]) -> Outcome<Files> {
    let options = RestoreOptions::default().with_resources(Resources::default().with_threads(1));
    place.restore(&options.with_name(Some(name.into())).with_tensors(globs.to_vec()))
}

/// A small archive of three variants, the last on a base shifted along a vector of its own.
fn archive(side: Vec<u8>) -> Outcome<(Place, Wanted)> {
    let mut rng = Rng::new(101);
    let (b0, f0) = twins(&mut rng, NAMES[0], "BF16", &[24, 16]);
    let (b1, f1) = twins(&mut rng, NAMES[1], "BF16", &[16, 16]);
    let empty = tensor(NAMES[2], "F32", &[0, 4], Vec::new());
    let (_, f2) = twins(&mut rng, NAMES[3], "F32", &[3, 3]);
    let mut tied = f2.clone();
    tied.name = NAMES[4].into();
    let mut ft = one_shard(&[f0, f1, empty, f2, tied]);
    ft.insert("config.json".into(), side);
    let place = Place::new(&one_shard(&[b0, b1]), &ft)?;
    let (ft, base, archive) = (&place.ft, &place.base, &place.archive);
    let dct = Method::DeltaDct(DeltaDct::default().with_patch(8));
    delta_stream::compress(ft, base, archive, &options("one", dct), &Silent)?;
    delta_stream::append(ft, base, archive, &options("two", Method::Lossless), &Silent)?;
    let shift = BaseShift::new(BaseVector::Own).with_parameters(Some(0.75), Some(1.25));
    let signs = options("three", Method::BitDelta(BitDelta::default()));
    delta_stream::append(ft, base, archive, &signs.with_base_shift(Some(shift)), &Silent)?;
    let mut wanted = Wanted::new();
    for name in ["one", "two", "three"] {
        let files = restore(&place, name, &[])?;
        let found = tensors(&files)?;
        wanted.insert(name, (files, found));
    }
    Ok((place, wanted))
}

/// Writes `bytes` as the archive, recovers it, and leaves the recovered one in its place.
fn recover(place: &Place, bytes: &[u8]) -> delta_stream::Result<RecoverReport> {
    let io = |e| delta_stream::Error::io("write", &place.archive, e);
    let output = place.path("new.delta.zst");
    fs::write(&place.archive, bytes).map_err(io)?;
    let report =
        delta_stream::recover(&place.archive, &output, &RecoverOptions::default(), &Silent);
    assert!(fs::read(&place.archive).map_err(io)? == bytes, "the damaged archive changed");
    assert_eq!(output.exists(), report.is_ok());
    if report.is_ok() {
        fs::rename(&output, &place.archive).map_err(io)?;
    }
    report
}

/// What is whole in the damaged bytes, worked out from where frames stood: of each variant that has its
/// records (and those of its vector) the tensors and side files.
fn expected(whole: &[u8], damaged: &[u8]) -> BTreeMap<&'static str, (BTreeSet<String>, bool)> {
    let is_same = |f: &Frame| {
        let range = f.at..f.at + f.len;
        damaged.get(range.clone()).is_some_and(|bytes| *bytes == whole[range])
    };
    let all = frames(whole);
    let of = |id: u32, kind: u8| {
        let all = all.iter().filter(move |f| f.kind == kind && u32_at(whole, f.at + 16) == id);
        all.collect::<Vec<_>>()
    };
    let has_records = |id| of(id, HEAD).iter().chain(&of(id, SEAL)).all(|f| is_same(f));
    let has_tiles = |id, item: u32| {
        let tiles = of(id, TILE);
        tiles.iter().filter(|f| u32_at(whole, f.at + 20) == item).all(|f| is_same(f))
    };
    let mut out = BTreeMap::new();
    for id in [0, 1, 3] {
        if !has_records(id) || (id == 3 && !has_records(2)) {
            continue;
        }
        let has = |item: usize| {
            // A tied tensor has the tiles of the one before it; the vector has the two matrices alone.
            let own = has_tiles(id, if item == 4 { 3 } else { item as u32 });
            own && (id != 3 || item > 1 || has_tiles(2, item as u32))
        };
        let tensors: BTreeSet<_> =
            (0..NAMES.len()).filter(|i| has(*i)).map(|i| NAMES[i].to_owned()).collect();
        let files = of(id, BLOB).into_iter().all(is_same);
        // Nothing is kept of a variant without a single whole frame.
        if of(id, TILE).into_iter().chain(of(id, BLOB)).any(is_same) {
            out.insert(IDS[id as usize], (tensors, files));
        }
    }
    out
}

/// Recovers `damaged` and holds the report to what is whole, and the new archive to the report.
fn hold(place: &Place, wanted: &Wanted, whole: &[u8], damaged: &[u8], what: &str) -> Outcome<bool> {
    let expected = expected(whole, damaged);
    let report = match recover(place, damaged) {
        Ok(report) => report,
        Err(e) => {
            assert!(expected.is_empty() && e.kind() == ErrorKind::Corrupt, "{what}: {e}");
            return Ok(false);
        }
    };
    let saved = report.variants.iter().filter(|v| v.state != "lost" && !v.base_vector);
    let names: BTreeSet<_> = saved.clone().map(|v| v.name.as_str()).collect();
    assert_eq!(names, expected.keys().copied().collect(), "{what}");
    let summary = delta_stream::inspect(&place.archive, None, true)?;
    assert_eq!(summary.variants.iter().map(|v| v.name.as_str()).collect::<BTreeSet<_>>(), names);
    for level in [VerifyLevel::Frames, VerifyLevel::Decode(place.base.clone())] {
        let options = VerifyOptions::default().with_level(level.clone());
        let verified = delta_stream::verify(&place.archive, &options, &Silent)?;
        assert_eq!(verified.n_faults, 0, "{what}: {verified:?}");
        assert!(verified.differing.is_empty(), "{what}: {verified:?}");
        // Decoding also shows what is lost with a vector's tensor.
        let lost = verified.lost.iter().filter_map(|l| Some((&l.variant, l.tensor.as_ref()?)));
        let found: BTreeSet<_> = lost.collect();
        let of = report.variants.iter().filter(|v| v.state != "lost");
        let named = of.flat_map(|v| v.lost_tensors.iter().map(move |t| (&v.name, t)));
        let wanted: BTreeSet<_> = named.filter(|(_, t)| *t != NAMES[4]).collect();
        let is_decoded = level != VerifyLevel::Frames;
        assert!(wanted == found || (!is_decoded && wanted.is_superset(&found)), "{what}");
    }
    for v in saved {
        let (tensors_left, has_files) = &expected[v.name.as_str()];
        let (files, all) = &wanted[v.name.as_str()];
        assert_eq!(v.tensors.iter().cloned().collect::<BTreeSet<_>>(), *tensors_left, "{what}");
        assert_eq!(v.tensors.len() + v.lost_tensors.len(), NAMES.len(), "{what}");
        assert_eq!(v.lost_side_files.is_empty(), *has_files, "{what}");
        if !v.tensors.is_empty() {
            let found = tensors(&restore(place, &v.name, &v.tensors)?)?;
            let kept = all.iter().filter(|t| tensors_left.contains(t.0));
            assert!(found == kept.map(|(n, t)| (n.clone(), t.clone())).collect(), "{what}");
        }
        for name in &v.lost_tensors {
            let lost = restore(place, &v.name, std::slice::from_ref(name)).unwrap_err();
            assert_eq!(kind_of(&*lost), Some(ErrorKind::Corrupt), "{what}");
            assert!(lost.to_string().contains(name.as_str()), "{what}: {lost}");
        }
        let is_whole = v.lost_tensors.is_empty() && *has_files;
        assert_eq!(v.state, if is_whole { "whole" } else { "partial" }, "{what}");
        match restore(place, &v.name, &[]) {
            Ok(found) => assert!(is_whole && found == *files, "{what}: {} is wrong", v.name),
            Err(e) => {
                let lost = v.lost_tensors.iter().chain(&v.lost_side_files);
                assert!(
                    !is_whole && lost.clone().any(|n| e.to_string().contains(n.as_str())),
                    "{e}"
                );
            }
        }
    }
    let complete = report.variants.iter().all(|v| v.state == "whole");
    assert_eq!(report.complete, complete, "{what}");
    Ok(true)
}

#[test]
fn burnt_ranges_anywhere() -> Outcome {
    let (place, wanted) = archive(b"{\"a\": [1, 2, 3]}".to_vec())?;
    let whole = fs::read(&place.archive)?;
    let mut rng = Rng::new(102);
    let (mut tried, mut saved) = (0, 0);
    for len in [1, 40, 200, 900, 3000] {
        for from in (0..whole.len()).step_by(if len == 1 { 7 } else { 31 }) {
            let until = whole.len().min(from + len);
            let mut damaged = whole.clone();
            match tried % 3 {
                0 => damaged[from..until].fill(0),
                1 => damaged[from..until].copy_from_slice(&rng.bytes(until - from)),
                _ => damaged[from..until].iter_mut().for_each(|b| *b = !*b),
            }
            tried += 1;
            let what = format!("{len} bytes burnt at {from}");
            saved += usize::from(hold(&place, &wanted, &whole, &damaged, &what)?);
        }
    }
    assert!(tried > 1000 && saved * 10 > tried * 9, "{saved} of {tried}");
    Ok(())
}

#[test]
fn torn_anywhere() -> Outcome {
    let (place, wanted) = archive(b"{}".to_vec())?;
    let whole = fs::read(&place.archive)?;
    let mut saved = 0;
    for n in (0..whole.len()).step_by(11).chain(whole.len() - 130..=whole.len()) {
        saved += usize::from(hold(&place, &wanted, &whole, &whole[..n], &format!("cut at {n}"))?);
    }
    assert!(saved > 100);
    Ok(())
}

/// Footers and indexes, one by one and all together: no variant is lost.
#[test]
fn without_footers_and_indexes() -> Outcome {
    let (place, wanted) = archive(b"{}".to_vec())?;
    let whole = fs::read(&place.archive)?;
    let marks: Vec<_> =
        frames(&whole).into_iter().filter(|f| f.kind == 0 || f.kind == INDEX).collect();
    assert_eq!(marks.len(), 6);
    for set in 0u32..1 << marks.len() {
        let mut damaged = whole.clone();
        for (_, f) in marks.iter().enumerate().filter(|(i, _)| set >> i & 1 == 1) {
            damaged[f.at..f.at + f.len].fill(0);
        }
        assert!(hold(&place, &wanted, &whole, &damaged, &format!("set {set:b}"))?);
        let report = recover(&place, &damaged)?;
        let indexes: Vec<_> = (0..3).filter(|i| set >> (2 * i) & 1 == 0).collect();
        assert_eq!(report.index_of, indexes.last().map(|i| i + 1), "set {set:b}");
        assert!(report.complete && report.variants.len() == 4);
        let listed = report.variants.iter().filter(|v| v.listed).count();
        assert_eq!(listed, [0, 1, 2, 4][report.index_of.unwrap_or(0) as usize], "set {set:b}");
        assert_eq!(restore(&place, "two", &[])?, crate::made::read(&place.ft)?);
    }
    Ok(())
}

/// The stored bytes of all frames of a variant but its seal, in order of the file.
fn frames_of(archive: &[u8], id: u32) -> Vec<&[u8]> {
    let all = frames(archive).into_iter().filter(|f| [HEAD, TILE, BLOB].contains(&f.kind));
    let stored = all.map(|f| &archive[f.at..f.at + f.len]);
    stored.filter(|f| u32_at(f, 16) == id).collect()
}

#[test]
fn an_undamaged_archive_comes_out_the_same() -> Outcome {
    let (place, wanted) = archive(Rng::new(3).bytes((1 << 20) + 5))?;
    let (ft, base, archive) = (&place.ft, &place.base, &place.archive);
    // A removed variant stays removed, whatever else is there.
    delta_stream::append(ft, base, archive, &options("gone", Method::Lossless), &Silent)?;
    delta_stream::remove(archive, "gone")?;
    let whole = fs::read(archive)?;
    for tail in [&[][..], &[7; 5000], &whole[54..400]] {
        let report = recover(&place, &[&whole[..], tail].concat())?;
        let names: Vec<_> = report.variants.iter().map(|v| v.name.as_str()).collect();
        assert_eq!(names, IDS);
        assert!(report.complete && report.variants.iter().all(|v| v.listed && v.state == "whole"));
        assert_eq!(
            report.damaged_bytes,
            if tail.len() == 5000 { 5000 } else { report.damaged_bytes }
        );
        let new = fs::read(archive)?;
        for id in 0..4 {
            assert!(frames_of(&new, id) == frames_of(&whole, id), "frames of {id} changed");
        }
        for (name, (files, _)) in &wanted {
            assert!(restore(&place, name, &[])? == *files);
        }
        assert!(crate::made::verify(archive, Some(base))?.ok);
        let summary = delta_stream::inspect(archive, None, false)?;
        assert_eq!((summary.generation, summary.archive_bytes), (6, new.len() as u64));
        // It goes on as any archive, with an id that none had.
        delta_stream::append(ft, base, archive, &options("next", Method::Lossless), &Silent)?;
        assert_eq!(frames_of(&fs::read(archive)?, 5).len(), frames_of(&whole, 1).len());
        assert!(restore(&place, "next", &[])? == crate::made::read(ft)?);
    }
    // Without the index that does without it, it is back, and said to be of that generation.
    let index = frames(&whole).into_iter().rev().find(|f| f.kind == INDEX).ok_or("no index")?;
    let mut damaged = whole;
    damaged[index.at..index.at + index.len].fill(0);
    let report = recover(&place, &damaged)?;
    assert_eq!((report.index_of, report.variants.len()), (Some(4), 5));
    Ok(())
}

/// A side file may be an archive, which zstd may store as it is: behind a damaged header its frames are
/// found, and are nobody's.
#[test]
fn an_archive_inside_a_side_file_is_not_taken_for_the_archive() -> Outcome {
    let (inner, _) = archive(Rng::new(8).bytes(4000))?;
    let inside = fs::read(&inner.archive)?;
    let (place, wanted) = archive(Rng::new(9).bytes(2 * inside.len()))?;
    let whole = fs::read(&place.archive)?;
    let blobs: Vec<_> = frames(&whole).into_iter().filter(|f| f.kind == BLOB).collect();
    assert_eq!(blobs.len(), 3);
    let marks = frames(&whole).into_iter().filter(|f| f.kind == INDEX || f.kind == 0);
    let mut without_index = whole.clone();
    marks.for_each(|f| without_index[f.at..f.at + f.len].fill(0));
    for from in [&whole, &without_index] {
        for blob in &blobs {
            let mut damaged = from.clone();
            let at = blob.at + 100;
            damaged[blob.at] ^= 1;
            damaged[at..at + inside.len()].copy_from_slice(&inside);
            assert!(hold(&place, &wanted, &whole, &damaged, "nested")?);
        }
    }
    Ok(())
}

/// What is partly lost can be appended to, compacted, and recovered again.
#[test]
fn a_partial_variant_lives_on() -> Outcome {
    let (place, wanted) = archive(b"{}".to_vec())?;
    let whole = fs::read(&place.archive)?;
    let mut damaged = whole.clone();
    let mut hit = frames(&whole).into_iter().filter(|f| {
        let is_first = u32_at(&whole, f.at + 16) == 0 && u32_at(&whole, f.at + 20) == 0;
        is_first && [TILE, BLOB].contains(&f.kind)
    });
    hit.by_ref().for_each(|f| damaged[f.at + f.len - 1] ^= 1);
    let report = recover(&place, &damaged)?;
    let one = &report.variants[0];
    assert_eq!((one.state, &one.lost_tensors[..]), ("partial", &[NAMES[0].to_owned()][..]));
    assert_eq!((one.lost_side_files.len(), one.tensors.len()), (1, 4));
    let (ft, base, archive) = (&place.ft, &place.base, &place.archive);
    for step in 0..3 {
        match step {
            1 => delta_stream::append(ft, base, archive, &options("x", Method::Lossless), &Silent)
                .map(drop)?,
            2 => {
                delta_stream::remove(archive, "x")?;
                assert!(delta_stream::compact(archive, &Silent)?.rewritten);
            }
            _ => {}
        }
        let before = fs::read(archive)?;
        let again = recover(&place, &before)?;
        assert_eq!(again.variants[0], *one, "step {step}");
        let refused = restore(&place, "one", &[]).unwrap_err().to_string();
        assert!(refused.contains(NAMES[0]) && refused.contains("config.json"), "{refused}");
        let left = tensors(&restore(&place, "one", &one.tensors)?)?;
        assert!(left.iter().all(|(name, t)| wanted["one"].1[name] == *t) && left.len() == 4);
        let verified = delta_stream::verify(archive, &VerifyOptions::default(), &Silent)?;
        assert!(!verified.ok && verified.n_faults == 0 && verified.lost.len() == 2, "{verified:?}");
        assert!(crate::made::verify(archive, Some(base))?.differing.is_empty());
        let summary = delta_stream::inspect(archive, Some("one"), true)?;
        assert_eq!(summary.variants[0].lost, [NAMES[0], "config.json"]);
    }
    Ok(())
}

/// Recovers `damaged` against `base` and leaves the new archive in its place.
fn recover_against(place: &Place, base: &Path, damaged: &[u8]) -> Outcome<RecoverReport> {
    let output = place.path("new.delta.zst");
    fs::write(&place.archive, damaged)?;
    let options = RecoverOptions::default().with_base(Some(base.to_owned()));
    let report = delta_stream::recover(&place.archive, &output, &options, &Silent);
    assert_eq!(output.exists(), report.is_ok());
    let report = report?;
    fs::rename(&output, &place.archive)?;
    Ok(report)
}

/// With the base, what frames decode to makes a lost seal anew, the same but for what is only reported.
#[test]
fn lost_seals_are_made_anew_with_the_base() -> Outcome {
    let (place, wanted) = archive(Rng::new(5).bytes((1 << 20) + 77))?;
    let whole = fs::read(&place.archive)?;
    let all = frames(&whole);
    let seals: Vec<_> = all.iter().filter(|f| f.kind == SEAL).collect();
    let indexes: Vec<_> = all.iter().filter(|f| f.kind == INDEX || f.kind == 0).collect();
    assert_eq!(seals.len(), IDS.len());
    for set in 1u32..1 << seals.len() {
        let mut damaged = whole.clone();
        for (_, f) in seals.iter().enumerate().filter(|(i, _)| set >> i & 1 == 1) {
            let from = if set % 2 == 0 { f.at } else { f.at + f.len - 2 };
            damaged[from..f.at + f.len].fill(0);
        }
        if set % 3 == 0 {
            indexes.iter().for_each(|f| damaged[f.at..f.at + f.len].fill(0));
        }
        let report = recover_against(&place, &place.base, &damaged)?;
        assert!(report.complete, "{set:b}: {report:?}");
        for (i, name) in IDS.iter().enumerate() {
            let v = report.variants.iter().find(|v| v.name == *name).ok_or("not there")?;
            assert_eq!((v.sealed_anew, v.state), (set >> i & 1 == 1, "whole"), "{set:b} {name}");
        }
        for (name, (files, _)) in &wanted {
            assert!(restore(&place, name, &[])? == *files, "{set:b}: {name} is wrong");
        }
        assert!(crate::made::verify(&place.archive, Some(&place.base))?.ok);
        // Without the base they are lost, and no other base is taken where a seal is left that tells.
        let lost = RecoverOptions::default().with_force(true);
        fs::write(&place.archive, &damaged)?;
        let output = place.path("without");
        let without = delta_stream::recover(&place.archive, &output, &lost, &Silent);
        let names = |r: &RecoverReport| r.variants.iter().filter(|v| v.state == "lost").count();
        match without {
            Ok(report) => assert!(names(&report) >= set.count_ones() as usize, "{set:b}"),
            Err(e) => assert!(e.kind() == ErrorKind::Corrupt && set & 0b11 == 0b11, "{set:b}: {e}"),
        }
        if set != 0b1111 {
            let other = recover_against(&place, &place.ft, &damaged).unwrap_err();
            assert_eq!(kind_of(&*other), Some(ErrorKind::Mismatch), "{other}");
        }
    }
    Ok(())
}

/// A seal and something else: what is whole beside it is saved, and no more.
#[test]
fn a_lost_seal_and_a_burnt_tile() -> Outcome {
    let (place, wanted) = archive(Rng::new(6).bytes(300))?;
    let whole = fs::read(&place.archive)?;
    let all = frames(&whole);
    let of_one = |f: &&Frame| u32_at(&whole, f.at + 16) == 0;
    let seal = all.iter().filter(of_one).find(|f| f.kind == SEAL).ok_or("no seal")?;
    for hit in all.iter().filter(of_one).filter(|f| [TILE, BLOB].contains(&f.kind)) {
        for at in [hit.at, hit.at + hit.len - 1] {
            let mut damaged = whole.clone();
            damaged[seal.at + 60] ^= 1;
            damaged[at] ^= 1;
            let report = recover_against(&place, &place.base, &damaged)?;
            let one = &report.variants[0];
            assert!(one.state == "partial" && one.sealed_anew, "{report:?}");
            let item = u32_at(&whole, hit.at + 20) as usize;
            let lost: &[&str] = match (hit.kind, item) {
                (BLOB, _) => &[],
                (_, 3) => &NAMES[3..],
                _ => &NAMES[item..item + 1],
            };
            assert_eq!(one.lost_tensors, lost);
            assert_eq!(one.lost_side_files.is_empty(), hit.kind == TILE);
            let left = tensors(&restore(&place, "one", &one.tensors)?)?;
            assert_eq!(left.len(), NAMES.len() - lost.len());
            assert!(left.iter().all(|(name, t)| wanted["one"].1[name] == *t));
            assert!(restore(&place, "one", &[]).is_err());
            let verified = crate::made::verify(&place.archive, Some(&place.base))?;
            assert!(verified.differing.is_empty() && !verified.lost.is_empty());
        }
    }
    Ok(())
}

#[test]
fn what_cannot_be_recovered_leaves_no_file() -> Outcome {
    let (place, _) = archive(b"{}".to_vec())?;
    let whole = fs::read(&place.archive)?;
    let refused = |bytes: &[u8]| recover(&place, bytes).unwrap_err();
    for bytes in [&[][..], b"no archive", &whole[..54], &vec![0; 100_000]] {
        assert_eq!(refused(bytes).kind(), ErrorKind::Corrupt);
    }
    let mut heads = whole.clone();
    for f in frames(&whole).into_iter().filter(|f| f.kind == HEAD) {
        heads[f.at + 50] ^= 1;
    }
    assert!(refused(&heads).to_string().contains("no variant is whole"));
    // Neither the archive itself nor what is there is replaced.
    fs::write(&place.archive, &whole)?;
    let link = place.path("link");
    fs::hard_link(&place.archive, &link)?;
    for (output, force) in [(&place.archive, true), (&link, true), (&place.base, true)] {
        let options = RecoverOptions::default().with_force(force);
        let same = delta_stream::recover(&place.archive, output, &options, &Silent).unwrap_err();
        assert_eq!(same.kind(), ErrorKind::InvalidArgument);
    }
    let other = place.path("other");
    fs::write(&other, "kept")?;
    let there = delta_stream::recover(&place.archive, &other, &RecoverOptions::default(), &Silent)
        .unwrap_err();
    assert!(there.kind() == ErrorKind::InvalidArgument && fs::read(&other)? == b"kept");
    let force = RecoverOptions::default().with_force(true);
    assert!(delta_stream::recover(&place.archive, &other, &force, &Silent)?.complete);
    assert!(fs::read(&place.archive)? == whole);
    Ok(())
}

#[test]
fn the_command_line_says_what_is_lost() {
    let pair = Pair::with_archive();
    let path = pair.path("a.delta.zst");
    let text = stdout(&pair.run("recover a.delta.zst -o whole.delta.zst").success());
    assert!(text.contains("everything is saved") && text.contains("small: whole"), "{text}");
    let mut bytes = fs::read(&path).unwrap();
    let tile = frames(&bytes).into_iter().find(|f| f.kind == TILE).unwrap();
    bytes[tile.at + tile.len - 1] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let report = pair.json("recover a.delta.zst -o new.delta.zst", 1);
    let lost = report["variants"][0]["lost_tensors"][0].as_str().unwrap().to_owned();
    assert_eq!(report["variants"][0]["state"], "partial");
    let text = stdout(&pair.run("recover a.delta.zst -o new.delta.zst --force").code(1));
    assert!(text.contains("SOME IS LOST") && text.contains(&format!("lost: {lost}")), "{text}");
    let text = stdout(&pair.run("verify new.delta.zst").code(1));
    assert!(text.contains("INCOMPLETE") && text.contains(&lost), "{text}");
    let text = stderr(&pair.run("restore new.delta.zst --base base -o back").code(4));
    assert!(text.contains(&lost) && text.contains("--tensor"), "{text}");
    let other = report["variants"][0]["tensors"][0].as_str().unwrap();
    pair.run(&format!("restore new.delta.zst --base base -o back --tensor {other}")).success();
    pair.run("inspect new.delta.zst --tensors").success();
    pair.run("recover a.delta.zst -o new.delta.zst").code(2);
}
