//! Parity files: what is burnt comes back to the bit, and a parity file never does harm.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use delta_stream::{
    BitDelta, CompressOptions, ErrorKind, Method, Parity, ParityState, RepairOptions, RepairReport,
    RepairState, Resources, Silent, UpkeepOptions, VerifyOptions, VerifyReport,
};

use crate::fuzz_targets::ALL;
use crate::made::{Outcome, Place, Rng, one_shard, twins};
use crate::support::{Pair, stderr, stdout};

/// An archive of the variants `a` and `b` with 2 % parity, in a directory of its own.
fn archive(side_bytes: usize) -> Outcome<Place> {
    let mut rng = Rng::new(62);
    let (b0, f0) = twins(&mut rng, "layers.0.a.weight", "BF16", &[64, 56]);
    let (b1, f1) = twins(&mut rng, "norm.weight", "F32", &[40]);
    let mut ft = one_shard(&[f0, f1]);
    ft.insert("config.json".into(), b"{}\n".to_vec());
    ft.insert("tokenizer.model".into(), rng.bytes(side_bytes));
    let place = Place::new(&one_shard(&[b0, b1]), &ft)?;
    let two = options("a").with_parity(Some(Parity::percent(2.0)?));
    delta_stream::compress(&place.ft, &place.base, &place.archive, &two, &Silent)?;
    append(&place, "b")?;
    Ok(place)
}

fn options(name: &str) -> CompressOptions {
    let method = if name == "a" { Method::Lossless } else { Method::BitDelta(BitDelta::default()) };
    CompressOptions::new(method)
        .with_name(name)
        .with_resources(Resources::default().with_threads(1))
}

fn append(place: &Place, name: &str) -> delta_stream::Result<()> {
    let (ft, base) = (&place.ft, &place.base);
    delta_stream::append(ft, base, &place.archive, &options(name), &Silent).map(drop)
}

fn sidecar(place: &Place) -> PathBuf {
    place.path("ft.delta.zst.parity")
}

fn repair(place: &Place) -> delta_stream::Result<RepairReport> {
    delta_stream::repair(&place.archive, &RepairOptions::default(), &Silent)
}

fn verify(place: &Place) -> delta_stream::Result<VerifyReport> {
    delta_stream::verify(&place.archive, &VerifyOptions::default(), &Silent)
}

fn state(place: &Place) -> Outcome<ParityState> {
    Ok(verify(place)?.parity.ok_or("no parity file")?.state)
}

/// Names beside the archive.
fn entries(place: &Place) -> Outcome<Vec<String>> {
    let entries = fs::read_dir(place.path(""))?;
    let name = |e: std::io::Result<fs::DirEntry>| e.map(|e| e.file_name().into_string());
    let mut names: Vec<_> = entries.map(name).collect::<std::io::Result<Vec<_>>>()?;
    names.sort();
    Ok(names.into_iter().flatten().collect())
}

/// Writes over a range of a file: zeros, or bytes at random.
fn burn(path: &std::path::Path, at: usize, n: usize, rng: Option<&mut Rng>) -> Outcome {
    let bytes = rng.map_or(vec![0; n], |rng| rng.bytes(n));
    File::options().write(true).open(path)?.write_all_at(&bytes, at as u64)?;
    Ok(())
}

/// Burns of one hundredth everywhere, zeros and random bytes; each comes back.
fn every_hundredth(side_bytes: usize, steps: usize) -> Outcome {
    let place = archive(side_bytes)?;
    let (whole, parity) = (fs::read(&place.archive)?, fs::read(sidecar(&place))?);
    let beside = entries(&place)?;
    let (n, mut rng, mut tried) = (whole.len().div_ceil(100), Rng::new(7), 0);
    let last = whole.len() - n;
    for i in 0..=steps {
        let at = last * i / steps;
        for random in [false, true] {
            burn(&place.archive, at, n, random.then_some(&mut rng))?;
            let report = repair(&place).map_err(|e| format!("{at}: {e}"))?;
            assert_eq!(report.state, RepairState::Repaired, "{at}: {report:?}");
            let (from, to) = (report.damaged[0].start, report.damaged[report.n_damaged - 1].end);
            assert!(report.parity.damaged_blocks == 0 && from < (at + n) as u64 && to > at as u64);
            assert!(fs::read(&place.archive)? == whole, "{at}: other bytes");
            tried += 1;
        }
    }
    assert!(fs::read(sidecar(&place))? == parity);
    assert_eq!(entries(&place)?, beside);
    assert!(verify(&place)?.ok);
    println!("{tried} burnt hundredths of {} bytes, all rebuilt", whole.len());
    Ok(())
}

#[test]
fn a_burnt_hundredth_comes_back_wherever_it_is() -> Outcome {
    // Preamble, heads, tiles, seals, indexes and footers of two generations, at nearly every byte; and an
    // archive of many groups.
    every_hundredth(900, 400)?;
    every_hundredth(30_000, 150)
}

#[test]
fn many_small_burns_come_back() -> Outcome {
    let place = archive(60_000)?;
    let (whole, mut rng) = (fs::read(&place.archive)?, Rng::new(8));
    for round in 0..60 {
        // As many as there are parity blocks in a group, each in one block.
        let places: Vec<_> = (0..16).map(|_| rng.below(whole.len())).collect();
        for at in &places {
            burn(&place.archive, *at, 1, Some(&mut rng))?;
        }
        let report = repair(&place)?;
        assert!(matches!(report.state, RepairState::Repaired), "{round}: {report:?}");
        assert!(fs::read(&place.archive)? == whole, "{round}: {places:?}");
    }
    Ok(())
}

#[test]
fn an_end_that_is_missing_comes_back() -> Outcome {
    let place = archive(30_000)?;
    let whole = fs::read(&place.archive)?;
    for cut in [1, 9, 64, 70, whole.len() / 100] {
        fs::write(&place.archive, &whole[..whole.len() - cut])?;
        // The last generation does not open, or an earlier one does: verify says what is missing.
        let report = verify(&place);
        assert!(report.is_ok_and(|r| !r.ok && r.n_faults > 0), "{cut}");
        assert_eq!(repair(&place)?.state, RepairState::Repaired, "{cut}");
        assert!(fs::read(&place.archive)? == whole, "{cut}");
    }
    // No footer at all.
    let mut bytes = whole.clone();
    let footers: Vec<_> = bytes.windows(6).enumerate().filter(|(_, w)| w == b"DSFOOT").collect();
    let places: Vec<_> = footers.iter().map(|(at, _)| *at).collect();
    places.iter().for_each(|at| bytes[*at] ^= 1);
    assert_eq!(places.len(), 2);
    fs::write(&place.archive, &bytes)?;
    let error = verify(&place).err().ok_or("it opens")?;
    assert!(error.to_string().contains("try repair"), "{error}");
    assert_eq!(repair(&place)?.state, RepairState::Repaired);
    assert!(fs::read(&place.archive)? == whole);
    Ok(())
}

#[test]
fn parity_goes_along_with_every_change() -> Outcome {
    let place = archive(5_000)?;
    assert_eq!(state(&place)?, ParityState::Current);
    assert_eq!(repair(&place)?.state, RepairState::Whole);
    delta_stream::remove(&place.archive, "a")?;
    assert_eq!(state(&place)?, ParityState::Current);
    let before = fs::metadata(sidecar(&place))?.len();
    assert!(delta_stream::compact(&place.archive, &Silent)?.parity.is_some());
    assert_eq!(state(&place)?, ParityState::Current);
    assert!(fs::metadata(sidecar(&place))?.len() < before);
    append(&place, "c")?;
    let whole = fs::read(&place.archive)?;
    burn(&place.archive, whole.len() - 70, 70, None)?;
    assert_eq!(repair(&place)?.state, RepairState::Repaired);
    assert!(fs::read(&place.archive)? == whole);
    // Another share, of an archive that is left as it is.
    assert!(delta_stream::compact(&place.archive, &Silent)?.rewritten);
    let more = UpkeepOptions::default().with_parity(Some(Parity::percent(20.0)?));
    let report = delta_stream::compact_with(&place.archive, &more, &Silent)?;
    assert!(!report.rewritten && report.parity.is_some_and(|p| p.percent == 20.0));
    // An archive that takes the place of one has no parity, unless it is asked for.
    let (ft, base) = (&place.ft, &place.base);
    let new = options("a").with_force(true);
    delta_stream::compress(ft, base, &place.archive, &new, &Silent)?;
    assert!(!sidecar(&place).exists() && verify(&place)?.parity.is_none());
    // Nor has a new one that of one that was here once.
    fs::rename(&place.archive, place.path("away"))?;
    fs::write(sidecar(&place), b"of another")?;
    delta_stream::compress(ft, base, &place.archive, &options("a"), &Silent)?;
    assert!(!sidecar(&place).exists());
    let error = repair(&place).err().ok_or("it has none")?;
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    Ok(())
}

/// The same bytes whatever the threads and the memory, and however they were come by.
#[test]
fn parity_depends_on_the_archive_alone() -> Outcome {
    let place = archive(2_000_000)?;
    let wanted = fs::read(sidecar(&place))?;
    for (threads, mib) in [(1, 80), (2, 512), (7, 100)] {
        fs::remove_file(sidecar(&place))?;
        let resources = Resources::default().with_threads(threads).with_max_memory(mib << 20);
        let two = Parity::percent(2.0)?;
        let report = delta_stream::make_parity(&place.archive, two, &resources, &Silent)?;
        assert!(fs::read(sidecar(&place))? == wanted, "{threads} threads, {mib} MiB");
        assert_eq!(report.bytes, wanted.len() as u64);
        assert_eq!(report.covered_bytes, fs::metadata(&place.archive)?.len());
    }
    Ok(())
}

/// As a crash leaves it between the commit and the new parity file.
#[test]
fn a_parity_file_that_is_behind_covers_what_it_knows() -> Outcome {
    let place = archive(5_000)?;
    let old = fs::read(sidecar(&place))?;
    let covered = fs::metadata(&place.archive)?.len() as usize;
    append(&place, "c")?;
    fs::write(sidecar(&place), &old)?;
    let whole = fs::read(&place.archive)?;
    assert_eq!(state(&place)?, ParityState::Behind);
    assert!(verify(&place)?.ok);
    burn(&place.archive, 99, whole.len() / 100, None)?;
    assert_eq!(verify(&place)?.parity.and_then(|p| p.mendable), Some(true));
    let report = repair(&place)?;
    assert_eq!(report.state, RepairState::Repaired);
    assert_eq!(report.uncovered_bytes as usize, whole.len() - covered);
    assert!(fs::read(&place.archive)? == whole && fs::read(sidecar(&place))? == old);
    // Damage behind what is covered is not seen by it, and not taken for what was stored.
    burn(&place.archive, whole.len() - 300, 9, None)?;
    assert_eq!(repair(&place)?.state, RepairState::Whole);
    assert!(!verify(&place)?.ok);
    fs::write(&place.archive, &whole)?;
    assert!(delta_stream::compact(&place.archive, &Silent)?.parity.is_some());
    assert_eq!(state(&place)?, ParityState::Current);
    Ok(())
}

/// A parity file of another archive is told from one that is behind, and nothing is written.
#[test]
fn a_parity_file_of_another_archive_is_refused() -> Outcome {
    let place = archive(40_000)?;
    let old = fs::read(sidecar(&place))?;
    // The second variant is small: what is left is the old archive but for its last hundredths.
    delta_stream::remove(&place.archive, "b")?;
    delta_stream::compact(&place.archive, &Silent)?;
    let refused = |what: &str| -> Outcome {
        fs::write(sidecar(&place), &old)?;
        let bytes = fs::read(&place.archive)?;
        assert_eq!(state(&place)?, ParityState::Foreign, "{what}");
        assert!(!verify(&place)?.ok, "{what}");
        let error = repair(&place).err().ok_or_else(|| format!("{what}: not refused"))?;
        assert!(error.to_string().contains("another archive"), "{what}: {error}");
        assert!(fs::read(&place.archive)? == bytes, "{what}");
        Ok(())
    };
    refused("shorter")?;
    for name in ["c", "d", "e"] {
        fs::remove_file(sidecar(&place))?;
        append(&place, name)?;
        refused(name)?;
    }
    // It is replaced by the next change.
    append(&place, "f")?;
    assert_eq!(state(&place)?, ParityState::Current);
    Ok(())
}

#[test]
fn a_damaged_parity_file_is_noticed_and_serves_all_the_same() -> Outcome {
    let place = archive(5_000)?;
    let (whole, parity) = (fs::read(&place.archive)?, fs::read(sidecar(&place))?);
    let (n, mut rng) = (whole.len().div_ceil(100), Rng::new(9));
    for at in (0..parity.len() - 60).step_by(45) {
        burn(&sidecar(&place), at, 60, Some(&mut rng))?;
        let report = verify(&place)?;
        let seen = report.parity.as_ref().ok_or("no parity")?;
        assert!(!report.ok && report.n_faults == 0 && seen.damaged_blocks > 0, "{at}: {report:?}");
        burn(&place.archive, rng.below(whole.len() - n), n, Some(&mut rng))?;
        let report = repair(&place)?;
        assert_eq!(report.state, RepairState::Repaired, "{at}: {report:?}");
        assert!(report.parity_renewed && report.parity.damaged_blocks == 0, "{at}");
        assert!(fs::read(&place.archive)? == whole, "{at}: the archive");
        assert!(fs::read(sidecar(&place))? == parity, "{at}: the parity file");
    }
    println!("{} burnt places of a parity file, each with a hundredth", parity.len().div_ceil(45));
    // All of it, its ends, and none of its bytes.
    for cut in [&[7; 3000][..], &parity[..parity.len() / 2], &parity[200..], &[]] {
        fs::write(sidecar(&place), cut)?;
        assert!(!verify(&place)?.ok);
        burn(&place.archive, 40, 20, None)?;
        match repair(&place) {
            Ok(report) if report.state == RepairState::Repaired => {}
            Ok(report) => assert_eq!(report.state, RepairState::BeyondRepair, "{report:?}"),
            Err(e) => assert!(matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::Truncated), "{e}"),
        }
        fs::write(&place.archive, &whole)?;
    }
    Ok(())
}

#[test]
fn too_much_damage_is_named_and_nothing_is_written() -> Outcome {
    let place = archive(30_000)?;
    let beside = entries(&place)?;
    let n = fs::metadata(&place.archive)?.len() as usize;
    // In the side file of the first variant.
    burn(&place.archive, n / 3, n / 10, None)?;
    let bytes = fs::read(&place.archive)?;
    let report = repair(&place)?;
    assert_eq!(report.state, RepairState::BeyondRepair, "{report:?}");
    assert!(report.n_beyond > 0 && report.beyond[0].start as usize <= n / 3);
    let left = report.survivors.ok_or("it opens")?;
    assert_eq!(left.whole, ["b"]);
    assert!(left.faults.iter().all(|f| f.side_file.as_deref() == Some("tokenizer.model")));
    assert_eq!(verify(&place)?.parity.and_then(|p| p.mendable), Some(false));
    assert!(fs::read(&place.archive)? == bytes);
    assert_eq!(entries(&place)?, beside);
    Ok(())
}

/// Parity is never made over damage: the file that could undo it would be lost.
#[test]
fn damage_is_not_taken_for_what_was_stored() -> Outcome {
    let place = archive(5_000)?;
    let (whole, parity) = (fs::read(&place.archive)?, fs::read(sidecar(&place))?);
    // A byte of a tile, which an append never looks at.
    burn(&place.archive, 1500, 3, None)?;
    let error = append(&place, "c").err().ok_or("not noticed")?;
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("committed"), "{error}");
    assert!(fs::read(sidecar(&place))? == parity);
    assert_eq!(repair(&place)?.state, RepairState::Repaired);
    let now = fs::read(&place.archive)?;
    assert!(now.starts_with(&whole) && now.len() > whole.len());
    // Nor where there is none yet.
    fs::remove_file(sidecar(&place))?;
    burn(&place.archive, 1500, 3, None)?;
    let two = UpkeepOptions::default().with_parity(Some(Parity::percent(2.0)?));
    let error = delta_stream::compact_with(&place.archive, &two, &Silent).err().ok_or("made")?;
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(!sidecar(&place).exists());
    Ok(())
}

/// Headers that say anything, tables and blocks changed, ends cut off, with right checksums and without: as a
/// fuzzer would, without one.
#[test]
fn parity_files_may_hold_anything() -> Outcome {
    let target = ALL.iter().find(|(name, _)| *name == "parity").ok_or("no such target")?.1;
    let asked = std::env::var("DELTA_STREAM_TEST_MUTATIONS").ok().and_then(|n| n.parse().ok());
    let (n, mut rng) = (asked.unwrap_or(600), Rng::new(66));
    for _ in 0..n {
        let mut input = rng.bytes(2);
        for _ in 0..2 {
            let cut = if rng.below(4) == 0 { rng.below(1 << 16) } else { 0 };
            input.extend((cut as u16).to_le_bytes());
            let changes = rng.below(4) as u8;
            input.push(changes);
            for _ in 0..changes {
                // Headers more often than the rest.
                let most = if rng.below(2) == 0 { 188 } else { 6000 };
                let at = rng.below(most);
                input.extend((at as u16).to_le_bytes());
                input.extend(rng.bytes(9));
            }
        }
        target(&input);
    }
    println!("{n} parity files, no losses");
    Ok(())
}

#[test]
fn the_command_line_makes_shows_and_uses_parity() {
    let pair = Pair::new();
    let line = "compress --shards fine-tune --base base -o a.delta.zst --name small --parity 2%";
    let made = stdout(&pair.run(line).success());
    assert!(made.contains("\nparity "), "{made}");
    assert!(pair.names().contains(&"a.delta.zst.parity".to_owned()));
    let whole = fs::read(pair.path("a.delta.zst")).unwrap();
    assert_eq!(pair.json("verify a.delta.zst", 0)["parity"]["state"], "current");
    assert_eq!(pair.json("repair a.delta.zst --dry-run", 0)["state"], "whole");

    let archive = pair.path("a.delta.zst");
    burn(&archive, 100, whole.len() / 100, None).unwrap();
    let damaged = fs::read(&archive).unwrap();
    let report = pair.json("verify a.delta.zst", 4);
    assert_eq!(report["parity"]["mendable"], true, "{report}");
    let report = pair.json("repair a.delta.zst --dry-run", 1);
    assert_eq!(report["state"], "repairable");
    let report = pair.json("repair a.delta.zst -o b.delta.zst", 0);
    assert_eq!(report["state"], "repaired");
    assert!(fs::read(pair.path("b.delta.zst")).unwrap() == whole);
    assert!(fs::read(&archive).unwrap() == damaged);
    let taken = stderr(&pair.run("repair a.delta.zst -o b.delta.zst").code(2));
    assert!(taken.contains("--force"), "{taken}");
    let table = stdout(&pair.run("repair a.delta.zst").success());
    assert!(table.starts_with("result") && table.contains("repaired"), "{table}");
    assert!(fs::read(&archive).unwrap() == whole);

    burn(&archive, 100, whole.len() / 4, None).unwrap();
    let table = stdout(&pair.run("repair a.delta.zst").code(4));
    assert!(table.contains("TOO MUCH") && table.contains("recover"), "{table}");
    pair.run("repair fine-tune").code(6);
    pair.run("compact b.delta.zst --parity 0").code(2);
    pair.run("compact b.delta.zst --parity 3").success();
    pair.run("remove b.delta.zst --name small --parity 4").success();
    assert_eq!(pair.json("verify b.delta.zst", 0)["parity"]["percent"], 4.0);
}
