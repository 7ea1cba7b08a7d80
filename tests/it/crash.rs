//! A writer that dies at any moment leaves the last whole generation, and the next one can go on.

use std::fs::{self, File};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use delta_stream::{
    CompressOptions, DeltaDct, ErrorKind, Method, Observer, PairShape, Resources, RestoreOptions,
    Silent,
};

use crate::made::{Files, Outcome, Place, Rng, alone, kill_after, one_shard, twins, verify};
use crate::support::program;

/// Kills of `append`, and of `compress`.
const KILLS: (usize, usize) = (50, 10);

fn options(name: &str) -> CompressOptions {
    CompressOptions::new(Method::DeltaDct(DeltaDct::default().with_patch(8)))
        .with_name(name)
        .with_resources(Resources::default().with_threads(1))
}

fn append(place: &Place, name: &str) -> delta_stream::Result<()> {
    let added =
        delta_stream::append(&place.ft, &place.base, &place.archive, &options(name), &Silent);
    added.map(drop)
}

/// Names of the variants; every frame is checked too.
fn whole(archive: &Path) -> delta_stream::Result<Vec<String>> {
    let names = delta_stream::inspect(archive, None, false)?.variants;
    verify(archive, None)?;
    Ok(names.into_iter().map(|v| v.name).collect())
}

#[test]
fn cut_at_every_byte() -> Outcome {
    alone("crash::cut_at_every_byte", cut_everywhere)
}

fn cut_everywhere() -> Outcome {
    let mut rng = Rng::new(51);
    let (base, ft) = twins(&mut rng, "layers.0.a.weight", "BF16", &[8, 9]);
    let place = Place::new(&one_shard(&[base]), &one_shard(&[ft]))?;
    let (ft, base, archive) = (&place.ft, &place.base, &place.archive);
    delta_stream::compress(ft, base, archive, &options("one"), &Silent)?;
    let first = fs::read(archive)?.len();
    append(&place, "two")?;
    let both = fs::read(archive)?;
    append(&place, "three")?;
    let three = fs::read(archive)?;

    for n in 0..=both.len() {
        fs::write(archive, &both[..n])?;
        match whole(archive) {
            Ok(names) => {
                let wanted: &[&str] = if n < both.len() { &["one"] } else { &["one", "two"] };
                assert!(n >= first && names == wanted, "cut at {n}: {names:?}");
                if n < both.len() {
                    append(&place, "two")?;
                }
                // The torn tail is gone, and the bytes are those of a writer that never died.
                assert!(fs::read(archive)? == both, "cut at {n}");
                append(&place, "three")?;
                assert!(fs::read(archive)? == three, "cut at {n}");
            }
            Err(e) => {
                let kinds = [ErrorKind::Truncated, ErrorKind::Corrupt];
                assert!(n < first && kinds.contains(&e.kind()), "cut at {n}: {e}");
                let refused = append(&place, "two").map_err(|e| e.kind());
                assert_eq!(refused, Err(e.kind()), "cut at {n}");
                assert_eq!(fs::read(archive)?.len(), n, "a refused append wrote");
            }
        }
    }
    println!("{} cuts, no losses", both.len() + 1);
    Ok(())
}

#[test]
fn a_second_writer_is_refused() -> Outcome {
    alone("crash::a_second_writer_is_refused", refuse_second_writer)
}

fn refuse_second_writer() -> Outcome {
    let mut rng = Rng::new(52);
    let (base, ft) = twins(&mut rng, "layers.0.a.weight", "BF16", &[16, 16]);
    let place = Place::new(&one_shard(&[base]), &one_shard(&[ft]))?;
    place.compress(Method::Lossless)?;
    let before = fs::read(&place.archive)?;
    let other = File::open(&place.archive)?;
    other.try_lock()?;
    let error = append(&place, "two").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
    assert!(error.to_string().contains("another process"), "{error}");
    assert!(fs::read(&place.archive)? == before);
    assert_eq!(whole(&place.archive)?, ["ft"]);
    other.unlock()?;
    append(&place, "two")?;
    assert_eq!(whole(&place.archive)?, ["ft", "two"]);
    Ok(())
}

/// A pair that takes the binary long enough to be killed at different places.
fn slow_pair() -> Outcome<Place> {
    let place = Place::empty()?;
    let shape = PairShape::small().with_sizes(256, 688, 1024, 2);
    delta_stream::make_pair(&place.path(""), &shape, 2)?;
    Ok(place)
}

/// Runs the program; kills it after `moment` unless it is done by then. Says whether it was done.
fn run_for(place: &Place, verb: &str, name: &str, moment: Option<Duration>) -> Outcome<bool> {
    let flag = if verb == "append" { "--archive" } else { "-o" };
    let mut command = program();
    command
        .args([verb, "--method", "delta-dct", "--threads", "2", "-q", "--name", name, "--shards"])
        .arg(place.path("fine-tune"))
        .arg("--base")
        .arg(&place.base)
        .arg(flag)
        .arg(&place.archive);
    Ok(kill_after(&mut command, moment)?.is_some())
}

/// How long a whole run takes.
fn duration(place: &Place, verb: &str, name: &str) -> Outcome<Duration> {
    let started = Instant::now();
    run_for(place, verb, name, None)?;
    Ok(started.elapsed())
}

#[test]
fn append_killed_at_any_moment() -> Outcome {
    let place = slow_pair()?;
    run_for(&place, "compress", "first", None)?;
    let start = fs::read(&place.archive)?;
    let lasts = duration(&place, "append", "second")?;
    let mut names = vec!["first".to_owned()];
    fs::write(&place.archive, &start)?;
    let mut rng = Rng::new(53);
    let mut finished = 0;
    for i in 0..KILLS.0 {
        // A kill between the last two syncs leaves a tail that the next append drops: what may never
        // change is what the last footer commits.
        let before = fs::read(&place.archive)?;
        let committed = delta_stream::inspect(&place.archive, None, false)?.archive_bytes as usize;
        let moment = lasts.mul_f64(rng.below(1000) as f64 / 900.0);
        let name = format!("kill{i}");
        let done = run_for(&place, "append", &name, Some(moment))?;
        finished += usize::from(done);
        let found = whole(&place.archive)?;
        if found.len() > names.len() {
            names.push(name);
        } else {
            assert!(!done, "a finished append is not there");
        }
        assert_eq!(found, names, "after kill {i}");
        assert!(fs::read(&place.archive)?.starts_with(&before[..committed]));
        if i % 10 == 9 {
            let name = format!("whole{i}");
            run_for(&place, "append", &name, None)?;
            names.push(name);
            assert_eq!(whole(&place.archive)?, names);
            // Back to one variant, so that the archive stays small.
            fs::write(&place.archive, &start)?;
            names.truncate(1);
        }
    }
    assert!(finished < KILLS.0, "no kill came in time");
    Ok(())
}

#[test]
fn compress_killed_at_any_moment() -> Outcome {
    let place = slow_pair()?;
    let lasts = duration(&place, "compress", "first")?;
    let mut rng = Rng::new(54);
    for i in 0..KILLS.1 {
        fs::remove_file(&place.archive).or_else(|e| match e.kind() {
            std::io::ErrorKind::NotFound => Ok(()),
            _ => Err(e),
        })?;
        let moment = lasts.mul_f64(rng.below(1000) as f64 / 1100.0);
        let done = run_for(&place, "compress", "first", Some(moment))?;
        if place.archive.exists() {
            assert_eq!(whole(&place.archive)?, ["first"], "kill {i}");
        } else {
            assert!(!done, "a finished archive is not there");
        }
    }
    Ok(())
}

/// An error of the disk is no crash, but must leave as little: nothing under the final name.
#[test]
fn a_failed_compress_leaves_nothing() -> Outcome {
    let mut rng = Rng::new(55);
    let (base, ft) = twins(&mut rng, "layers.0.a.weight", "BF16", &[16, 16]);
    let place = Place::new(&one_shard(&[base]), &one_shard(&[ft]))?;
    let broken = Files::from([("model.safetensors".into(), b"\x02\0\0\0\0\0\0\0{".to_vec())]);
    crate::made::write(&place.path("broken"), &broken)?;
    for (ft, base) in [(&place.path("broken"), &place.base), (&place.ft, &place.path("none"))] {
        let failed = delta_stream::compress(ft, base, &place.archive, &options("x"), &Silent);
        assert!(failed.is_err() && !place.archive.exists());
    }
    let names = fs::read_dir(place.path(""))?.count();
    assert_eq!(names, 3, "base, ft and broken are all there is");
    Ok(())
}

/// Wants to stop once every byte is done.
#[derive(Default)]
struct AtTheEnd(AtomicBool);

impl Observer for AtTheEnd {
    fn progress(&self, done: u64, total: u64) {
        self.0.store(done == total, Ordering::Relaxed);
    }
    fn note(&self, _text: &str) {}
    fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

#[test]
fn a_wish_to_stop_at_the_last_byte_is_heard() -> Outcome {
    let place = Place::made_up(&PairShape::small().with_sizes(64, 96, 32, 1))?;
    let (ft, base, archive) = (&place.ft, &place.base, &place.archive);
    let observer = AtTheEnd::default();
    let stopped = delta_stream::compress(ft, base, archive, &options("one"), &observer);
    assert_eq!(stopped.unwrap_err().kind(), ErrorKind::Interrupted);
    assert_eq!(fs::read_dir(place.path(""))?.count(), 2, "more than base and fine-tune");
    delta_stream::compress(ft, base, archive, &options("one"), &Silent)?;
    let before = fs::read(archive)?;
    let observer = AtTheEnd::default();
    let stopped = delta_stream::append(ft, base, archive, &options("two"), &observer);
    assert_eq!(stopped.unwrap_err().kind(), ErrorKind::Interrupted);
    assert!(fs::read(archive)? == before);
    let (out, how) = (place.path("out"), RestoreOptions::default());
    let stopped = delta_stream::restore(archive, base, &out, &how, &AtTheEnd::default());
    assert_eq!(stopped.unwrap_err().kind(), ErrorKind::Interrupted);
    assert_eq!(fs::read_dir(place.path(""))?.count(), 3, "more than these and the archive");
    Ok(())
}
