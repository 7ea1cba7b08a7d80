//! Readers beside a writer see one generation, whole, whatever it does meanwhile; who has to be alone is.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};

use delta_stream::{
    BitDelta, CompressOptions, Dare, ErrorKind, Method, RecoverOptions, Resources, RestoreOptions,
    Result, Silent,
};

use crate::made::{Outcome, Place, Rng, alone, one_shard, read, twins, verify};
use crate::support::program;

/// Generations that the writer makes.
const ROUNDS: usize = 200;

fn pair() -> Outcome<Place> {
    let mut rng = Rng::new(71);
    let (b0, f0) = twins(&mut rng, "layers.0.a.weight", "BF16", &[64, 48]);
    let (b1, f1) = twins(&mut rng, "norm.weight", "F32", &[48]);
    let mut ft = one_shard(&[f0, f1]);
    ft.insert("config.json".into(), b"{}\n".to_vec());
    Place::new(&one_shard(&[b0, b1]), &ft)
}

fn options(name: &str, i: usize) -> CompressOptions {
    let method = match i % 3 {
        0 => Method::Lossless,
        1 => Method::BitDelta(BitDelta::default()),
        _ => Method::Dare(Dare::default()),
    };
    let resources = Resources::default().with_threads(1);
    CompressOptions::new(method).with_name(name).with_resources(resources)
}

/// Appends, removes and compacts.
fn write(place: &Place) -> Result<()> {
    let (ft, base, archive) = (&place.ft, &place.base, &place.archive);
    for i in 0..ROUNDS {
        delta_stream::append(ft, base, archive, &options(&format!("v{i}"), i), &Silent)?;
        if i > 1 {
            delta_stream::remove(archive, &format!("v{}", i - 2))?;
        }
        if i % 5 == 4 {
            delta_stream::compact(archive, &Silent)?;
        }
    }
    Ok(())
}

#[test]
fn readers_see_one_generation_beside_a_writer() -> Outcome {
    alone("concurrent::readers_see_one_generation_beside_a_writer", readers_and_a_writer)
}

fn readers_and_a_writer() -> Outcome {
    let place = &pair()?;
    let first = options("first", 0);
    delta_stream::compress(&place.ft, &place.base, &place.archive, &first, &Silent)?;
    let wanted = &read(&place.ft)?;
    let done = &AtomicBool::new(false);
    std::thread::scope(|scope| -> Outcome {
        let readers: Vec<_> =
            (0..2).map(|reader| scope.spawn(move || look(place, wanted, reader, done))).collect();
        let written = write(place);
        done.store(true, Ordering::Relaxed);
        for reader in readers {
            let seen = reader.join().map_err(|_| "a reader panicked")?;
            assert!(seen >= 10, "a reader looked {seen} times");
        }
        Ok(written?)
    })
}

/// Lists, verifies and restores until the writer is done; returns how often.
fn look(place: &Place, wanted: &crate::made::Files, reader: usize, done: &AtomicBool) -> usize {
    let (mut seen, mut generation) = (0, 0);
    let resources = Resources::default().with_threads(1);
    while !done.load(Ordering::Relaxed) {
        let found = delta_stream::inspect(&place.archive, None, false).unwrap();
        assert!(found.generation >= generation, "the archive went back");
        generation = found.generation;
        assert_eq!(found.variants[0].name, "first");
        assert!(verify(&place.archive, Some(&place.base)).unwrap().ok);
        let output = place.path(&format!("out{reader}"));
        let options = RestoreOptions::default()
            .with_name(Some("first".into()))
            .with_resources(resources.clone())
            .with_force(true);
        delta_stream::restore(&place.archive, &place.base, &output, &options, &Silent).unwrap();
        assert!(read(&output).unwrap() == *wanted);
        seen += 1;
    }
    seen
}

/// Two runs that would write one new archive, or one directory: the second is refused, and the first is
/// not disturbed.
#[test]
fn one_new_archive_has_one_writer() -> Outcome {
    let place = Place::empty()?;
    let shape = delta_stream::PairShape::small().with_sizes(256, 688, 1024, 2);
    delta_stream::make_pair(&place.path(""), &shape, 2)?;
    let compress = || {
        let mut command = program();
        command.current_dir(place.path(""));
        command.args(["compress", "--shards", "fine-tune", "--base", "base", "-o", "a.delta.zst"]);
        command.args(["--method", "lossless", "--force"]);
        command
    };
    let mut refused = 0;
    for _ in 0..5 {
        let runs: Vec<_> = (0..3)
            .map(|_| compress().stderr(std::process::Stdio::piped()).spawn())
            .collect::<std::io::Result<_>>()?;
        let mut finished = 0;
        for run in runs {
            let output = run.wait_with_output()?;
            let text = String::from_utf8_lossy(&output.stderr);
            if output.status.success() {
                finished += 1;
            } else {
                assert!(text.contains("another process"), "{text}");
                refused += 1;
            }
        }
        assert!(finished > 0, "nobody finished");
        let archive = place.path("a.delta.zst");
        verify(&archive, None)?;
        fs::remove_file(archive)?;
    }
    assert!(refused > 0, "no run met another");
    assert_eq!(fs::read_dir(place.path(""))?.count(), 2, "something is left");
    Ok(())
}

/// `recover` reads what no generation holds yet, so it waits for no writer and lets none in meanwhile; a file
/// that cannot be written is read all the same.
#[test]
fn recover_is_refused_beside_a_writer() -> Outcome {
    let place = &pair()?;
    delta_stream::compress(&place.ft, &place.base, &place.archive, &options("v", 0), &Silent)?;
    let saved = place.path("saved.delta.zst");
    let recover = || {
        let options = RecoverOptions::default();
        delta_stream::recover(&place.archive, &saved, &options, &Silent)
    };
    let writer = fs::File::open(&place.archive)?;
    writer.lock()?;
    let refused = recover().unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Io);
    assert!(refused.to_string().contains("another process"), "{refused}");
    assert!(!saved.exists());
    writer.unlock()?;

    let mut permissions = fs::metadata(&place.archive)?.permissions();
    permissions.set_readonly(true);
    fs::set_permissions(&place.archive, permissions)?;
    assert!(recover()?.complete);
    // Another that reads all of it is no writer; and the lock is gone with the run.
    writer.lock_shared()?;
    fs::remove_file(&saved)?;
    assert!(recover()?.complete);
    writer.unlock()?;
    Ok(writer.try_lock()?)
}
