//! `remove` and `compact`: what is left restores as before, and a run that fails or dies leaves the old
//! archive.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use delta_stream::{
    BitDelta, CompressOptions, Dare, DeltaDct, ErrorKind, Method, PairShape, Resources,
    RestoreOptions, Silent,
};

use crate::forge::{BLOB, HEAD, SEAL, TILE, frames, u32_at};
use crate::made::{
    After, Files, Outcome, Place, Rng, alone, kill_after, kind_of, one_shard, tensor, twins, verify,
};
use crate::support::program;

/// Kills of `compact`.
const KILLS: usize = 20;

fn options(name: &str, method: Method) -> CompressOptions {
    CompressOptions::new(method)
        .with_name(name)
        .with_seed(name.len() as u64)
        .with_resources(Resources::default().with_threads(1))
}

fn method(i: usize) -> Method {
    match i % 4 {
        0 => Method::DeltaDct(DeltaDct::default().with_patch(8)),
        1 => Method::Lossless,
        2 => Method::Dare(Dare::default()),
        _ => Method::BitDelta(BitDelta::default()),
    }
}

/// A pair with a lossy matrix, a tensor without elements, tied tensors, a norm and side files.
fn pair() -> Outcome<Place> {
    let mut rng = Rng::new(81);
    let (b0, f0) = twins(&mut rng, "layers.0.a.weight", "BF16", &[96, 80]);
    let (b1, f1) = twins(&mut rng, "norm.weight", "F32", &[40]);
    let empty = tensor("empty.weight", "F32", &[0, 4], Vec::new());
    let (_, f2) = twins(&mut rng, "new.weight", "F32", &[9, 9]);
    let mut tied = f2.clone();
    tied.name = "tied.weight".into();
    let mut ft = one_shard(&[f0, f1, empty, f2, tied]);
    ft.insert("config.json".into(), b"{}\n".to_vec());
    ft.insert("tokenizer.json".into(), rng.bytes((1 << 20) + 9));
    Place::new(&one_shard(&[b0, b1]), &ft)
}

fn add(place: &Place, name: &str, method: Method) -> Outcome {
    let options = options(name, method);
    let add = if place.archive.exists() { delta_stream::append } else { delta_stream::compress };
    add(&place.ft, &place.base, &place.archive, &options, &Silent)?;
    Ok(())
}

/// An archive of variants of these names, each by another method.
fn archive_of(names: &[&str]) -> Outcome<Place> {
    let place = pair()?;
    for (i, name) in names.iter().enumerate() {
        add(&place, name, method(i))?;
    }
    Ok(place)
}

fn restore(place: &Place, name: &str) -> Outcome<Files> {
    place.restore(&RestoreOptions::default().with_name(Some(name.into())))
}

/// Names of the variants; every frame is checked too, by zstd as well.
fn whole(archive: &Path) -> Outcome<Vec<String>> {
    let found = delta_stream::inspect(archive, None, false)?;
    assert_eq!(found.archive_bytes, fs::metadata(archive)?.len());
    verify(archive, None)?;
    zstd::stream::copy_decode(File::open(archive)?, std::io::sink())?;
    Ok(found.variants.into_iter().map(|v| v.name).collect())
}

/// The stored bytes of all frames of a variant but its seal, in order of the file.
fn frames_of(archive: &[u8], id: u32) -> Vec<&[u8]> {
    let all = frames(archive).into_iter().filter(|f| [HEAD, TILE, BLOB].contains(&f.kind));
    let stored = all.map(|f| &archive[f.at..f.at + f.len]);
    stored.filter(|f| u32_at(f, 16) == id).collect()
}

fn entries(place: &Place) -> Outcome<usize> {
    Ok(fs::read_dir(place.path(""))?.count())
}

#[test]
fn what_is_left_restores_as_before() -> Outcome {
    alone("upkeep::what_is_left_restores_as_before", left_restores)
}

fn left_restores() -> Outcome {
    let names = ["one", "second", "the third"];
    for gone in 0..3 {
        let place = archive_of(&names)?;
        let ids: Vec<u32> = (0..3).filter(|i| *i != gone as u32).collect();
        let left: Vec<_> = ids.iter().map(|i| names[*i as usize]).collect();
        let wanted: Vec<_> = left.iter().map(|n| restore(&place, n)).collect::<Outcome<_>>()?;
        let old = fs::read(&place.archive)?;

        let report = delta_stream::remove(&place.archive, names[gone])?;
        assert_eq!((report.removed.as_str(), &report.variants[..]), (names[gone], &own(&left)[..]));
        let removed = fs::read(&place.archive)?;
        assert!(removed.starts_with(&old), "committed bytes changed");
        assert_eq!(report.bytes_before, old.len() as u64);
        assert_eq!(report.bytes_after, removed.len() as u64);
        assert_eq!(whole(&place.archive)?, left);
        let error = restore(&place, names[gone]).unwrap_err();
        assert_eq!(kind_of(&*error), Some(ErrorKind::InvalidArgument));

        let report = delta_stream::compact(&place.archive, &Silent)?;
        let compacted = fs::read(&place.archive)?;
        assert!(report.rewritten);
        assert_eq!(report.variants, left);
        assert_eq!(report.bytes_before, removed.len() as u64);
        assert_eq!(report.bytes_after, compacted.len() as u64);
        assert!(compacted.len() < old.len());
        assert_eq!(whole(&place.archive)?, left);
        assert_eq!(delta_stream::inspect(&place.archive, None, false)?.generation, 5);
        // One footer, the first of its file; every other frame under its id and byte for byte.
        let footers: Vec<_> = frames(&compacted).into_iter().filter(|f| f.kind == 0).collect();
        assert_eq!(footers.len(), 1);
        assert_eq!(compacted[footers[0].at + 48..footers[0].at + 56], [0; 8]);
        for id in 0..3 {
            let stays = if id == gone as u32 { Vec::new() } else { frames_of(&old, id) };
            assert!(frames_of(&compacted, id) == stays, "variant {id}");
        }
        for (name, files) in left.iter().zip(&wanted) {
            assert!(restore(&place, name)? == *files, "{name} restores to other bytes");
        }
        assert!(verify(&place.archive, Some(&place.base))?.ok);

        // Nothing more is saved, and an append goes on with an id that none had.
        assert!(!delta_stream::compact(&place.archive, &Silent)?.rewritten);
        assert!(fs::read(&place.archive)? == compacted);
        add(&place, names[gone], Method::Lossless)?;
        assert_eq!(frames_of(&fs::read(&place.archive)?, 3).len(), frames_of(&old, 1).len());
        assert!(restore(&place, names[gone])? == crate::made::read(&place.ft)?);
        assert_eq!(whole(&place.archive)?, [&left[..], &[names[gone]]].concat());
        assert_eq!(entries(&place)?, 3, "base, ft and the archive are all there is");
    }
    Ok(())
}

fn own(names: &[&str]) -> Vec<String> {
    names.iter().map(|n| (*n).to_owned()).collect()
}

#[test]
fn the_last_variant_can_go() -> Outcome {
    alone("upkeep::the_last_variant_can_go", last_goes)
}

fn last_goes() -> Outcome {
    for compacts in [false, true] {
        let place = archive_of(&["only"])?;
        assert!(delta_stream::remove(&place.archive, "only")?.variants.is_empty());
        assert!(whole(&place.archive)?.is_empty());
        for name in [None, Some("only".to_owned())] {
            let gone = place.restore(&RestoreOptions::default().with_name(name)).unwrap_err();
            assert_eq!(kind_of(&*gone), Some(ErrorKind::InvalidArgument));
            assert!(gone.to_string().ends_with("it holds no variant; append adds one"), "{gone}");
        }
        let gone = delta_stream::remove(&place.archive, "only").unwrap_err();
        assert_eq!(gone.kind(), ErrorKind::InvalidArgument);
        if compacts {
            let report = delta_stream::compact(&place.archive, &Silent)?;
            assert!(report.rewritten && report.bytes_after < 300, "{report:?}");
            assert!(whole(&place.archive)?.is_empty());
            assert!(!delta_stream::compact(&place.archive, &Silent)?.rewritten);
        }
        add(&place, "only", Method::Lossless)?;
        assert_eq!(whole(&place.archive)?, ["only"]);
        assert!(restore(&place, "only")? == crate::made::read(&place.ft)?);
        assert!(frames_of(&fs::read(&place.archive)?, 1).len() > 3, "the id is a new one");
    }
    Ok(())
}

#[test]
fn a_new_archive_has_nothing_to_save_but_a_torn_tail() -> Outcome {
    alone("upkeep::a_new_archive_has_nothing_to_save_but_a_torn_tail", torn_tail)
}

fn torn_tail() -> Outcome {
    let place = archive_of(&["only"])?;
    let old = fs::read(&place.archive)?;
    let report = delta_stream::compact(&place.archive, &Silent)?;
    assert!(!report.rewritten && report.bytes_after == report.bytes_before);
    assert!(fs::read(&place.archive)? == old);
    fs::write(&place.archive, [&old[..], &[7; 5000]].concat())?;
    let report = delta_stream::compact(&place.archive, &Silent)?;
    assert!(report.rewritten && report.bytes_before == old.len() as u64 + 5000, "{report:?}");
    assert_eq!(report.bytes_after, old.len() as u64);
    assert_eq!(whole(&place.archive)?, ["only"]);
    Ok(())
}

/// Damage to what is kept ends a compact and changes nothing; damage to what is not is left behind.
#[test]
fn damage_is_not_carried_over() -> Outcome {
    alone("upkeep::damage_is_not_carried_over", damage)
}

fn damage() -> Outcome {
    let place = archive_of(&["stays", "goes"])?;
    delta_stream::remove(&place.archive, "goes")?;
    let whole_file = fs::read(&place.archive)?;
    let mut seen = [0; 2];
    for frame in frames(&whole_file) {
        if ![HEAD, TILE, BLOB, SEAL].contains(&frame.kind) {
            continue;
        }
        let id = u32_at(&whole_file, frame.at + 16);
        for at in [frame.at + 30, frame.at + 44, frame.at + frame.len - 1] {
            let mut bytes = whole_file.clone();
            bytes[at] ^= 16;
            fs::write(&place.archive, &bytes)?;
            let done = delta_stream::compact(&place.archive, &Silent);
            seen[id as usize] += 1;
            match done {
                Ok(report) => assert!(id == 1 && report.variants == ["stays"]),
                Err(e) => {
                    assert!(id == 0 && e.kind() == ErrorKind::Corrupt, "{frame:?}: {e}");
                    assert!(e.to_string().contains("stays"), "{e}");
                    assert!(fs::read(&place.archive)? == bytes, "{frame:?}");
                }
            }
            assert_eq!(entries(&place)?, 3);
        }
    }
    assert!(seen[0] > 20 && seen[1] > 20, "{seen:?}");
    // A variant whose records are damaged can be removed.
    let mut bytes = whole_file.clone();
    let head = frames(&bytes).into_iter().find(|f| f.kind == HEAD).ok_or("no head")?;
    bytes[head.at + head.len - 1] ^= 1;
    fs::write(&place.archive, &bytes)?;
    assert!(restore(&place, "stays").is_err());
    assert!(delta_stream::remove(&place.archive, "stays")?.variants.is_empty());
    assert!(delta_stream::compact(&place.archive, &Silent)?.rewritten);
    Ok(())
}

#[test]
fn a_cancelled_compact_leaves_the_old_archive() -> Outcome {
    alone("upkeep::a_cancelled_compact_leaves_the_old_archive", cancel)
}

fn cancel() -> Outcome {
    let place = archive_of(&["a", "b", "c"])?;
    delta_stream::remove(&place.archive, "b")?;
    let old = fs::read(&place.archive)?;
    for n in 0.. {
        let observer = After(AtomicU64::new(n));
        match delta_stream::compact(&place.archive, &observer) {
            Ok(report) => {
                assert!(report.rewritten && n > 10, "done after {n}");
                break;
            }
            Err(e) => assert_eq!(e.kind(), ErrorKind::Interrupted),
        }
        assert!(fs::read(&place.archive)? == old, "after {n}");
        assert_eq!(entries(&place)?, 3);
    }
    assert_eq!(whole(&place.archive)?, ["a", "c"]);
    Ok(())
}

#[test]
fn a_remove_cut_anywhere_leaves_the_variant() -> Outcome {
    alone("upkeep::a_remove_cut_anywhere_leaves_the_variant", cut_remove)
}

fn cut_remove() -> Outcome {
    let place = archive_of(&["a", "b"])?;
    let before = fs::read(&place.archive)?.len();
    delta_stream::remove(&place.archive, "a")?;
    let bytes = fs::read(&place.archive)?;
    for n in before..=bytes.len() {
        fs::write(&place.archive, &bytes[..n])?;
        let found = delta_stream::inspect(&place.archive, None, false)?.variants;
        let found: Vec<_> = found.into_iter().map(|v| v.name).collect();
        assert_eq!(found.contains(&"a".to_owned()), n < bytes.len(), "cut at {n}");
        if n < bytes.len() {
            delta_stream::remove(&place.archive, "a")?;
        }
        assert!(fs::read(&place.archive)? == bytes, "cut at {n}");
    }
    Ok(())
}

#[test]
fn another_writer_is_waited_for() -> Outcome {
    alone("upkeep::another_writer_is_waited_for", refuse_second)
}

fn refuse_second() -> Outcome {
    let place = archive_of(&["a", "b"])?;
    let before = fs::read(&place.archive)?;
    let other = File::open(&place.archive)?;
    other.try_lock()?;
    let refused = [
        delta_stream::remove(&place.archive, "a").map(drop),
        delta_stream::compact(&place.archive, &Silent).map(drop),
    ];
    for refused in refused {
        let error = refused.unwrap_err();
        assert!(error.kind() == ErrorKind::Io && error.to_string().contains("another process"));
    }
    assert!(fs::read(&place.archive)? == before);
    other.unlock()?;
    delta_stream::remove(&place.archive, "a")?;
    assert!(delta_stream::compact(&place.archive, &Silent)?.rewritten);
    assert_eq!(whole(&place.archive)?, ["b"]);
    Ok(())
}

#[test]
fn links_and_permissions_stay() -> Outcome {
    alone("upkeep::links_and_permissions_stay", keep_links)
}

fn keep_links() -> Outcome {
    let place = archive_of(&["a", "b"])?;
    let link = place.path("link.delta.zst");
    std::os::unix::fs::symlink(&place.archive, &link)?;
    fs::set_permissions(&place.archive, fs::Permissions::from_mode(0o640))?;
    let mut reader = File::open(&place.archive)?;
    let old = fs::read(&place.archive)?;
    delta_stream::remove(&link, "a")?;
    assert!(delta_stream::compact(&link, &Silent)?.rewritten);
    assert!(fs::symlink_metadata(&link)?.is_symlink());
    assert_eq!(fs::metadata(&place.archive)?.permissions().mode() & 0o777, 0o640);
    assert_eq!(whole(&place.archive)?, ["b"]);
    // Who has the old file open still has it.
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut reader, &mut bytes)?;
    assert!(bytes.starts_with(&old));
    Ok(())
}

#[test]
fn compact_killed_at_any_moment() -> Outcome {
    let place = Place::empty()?;
    let shape = PairShape::small().with_sizes(256, 688, 1024, 2);
    delta_stream::make_pair(&place.path(""), &shape, 2)?;
    let (ft, base) = (place.path("fine-tune"), place.path("base"));
    for i in 0..4 {
        let options = options(&format!("v{i}"), Method::Lossless);
        let add = if i == 0 { delta_stream::compress } else { delta_stream::append };
        add(&ft, &base, &place.archive, &options, &Silent)?;
    }
    delta_stream::remove(&place.archive, "v1")?;
    let old = fs::read(&place.archive)?;
    let lasts = run_for(&place.archive, None)?.1;
    let new = fs::read(&place.archive)?;
    assert_eq!(whole(&place.archive)?, ["v0", "v2", "v3"]);
    let mut rng = Rng::new(83);
    let mut killed = 0;
    for i in 0..KILLS {
        fs::write(&place.archive, &old)?;
        let moment = lasts.mul_f64(rng.below(1000) as f64 / 1000.0);
        let done = run_for(&place.archive, Some(moment))?.0;
        let found = fs::read(&place.archive)?;
        assert!(found == new || (found == old && !done), "kill {i}");
        killed += usize::from(!done);
    }
    assert!(killed > 0, "no kill came in time");
    Ok(())
}

/// Compacts with the program; kills it after `moment`. Says whether it was done, and how long it ran.
fn run_for(archive: &Path, moment: Option<Duration>) -> Outcome<(bool, Duration)> {
    let started = Instant::now();
    let mut command = program();
    let done = kill_after(command.args(["compact", "-q"]).arg(archive), moment)?;
    Ok((done.is_some(), started.elapsed()))
}
