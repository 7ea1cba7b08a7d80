//! A run that was cut off goes on where it stood, and writes what a run that never was writes.

use std::fs;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use delta_stream::{
    BitDelta, CompressOptions, CompressReport, Error, ErrorKind, Method, Observer, PairShape,
    Resources, RestoreOptions, Silent,
};

use crate::made::{After, Outcome, Place, Rng, alone, every_method, kill_after, read};

/// Kills of `compress` and of `append`, and of `restore`.
const KILLS: (usize, usize) = (20, 10);

/// Counts tiles.
#[derive(Default)]
struct Count(AtomicU64);

impl Observer for Count {
    fn progress(&self, _done: u64, _total: u64) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
    fn note(&self, _text: &str) {}
    fn is_cancelled(&self) -> bool {
        false
    }
}

fn pair() -> Outcome<Place> {
    Place::made_up(&PairShape::small().with_sizes(64, 176, 96, 3).with_shards(2, 4))
}

fn options(method: Method) -> CompressOptions {
    let resources = Resources::default().with_threads(2);
    CompressOptions::new(method).with_name("second").with_resources(resources)
}

fn store(
    place: &Place,
    options: &CompressOptions,
    observer: &dyn Observer,
) -> delta_stream::Result<CompressReport> {
    let run = if place.archive.exists() { delta_stream::append } else { delta_stream::compress };
    run(&place.ft, &place.base, &place.archive, options, observer)
}

/// Names beside base, fine-tune and archive.
fn strays(place: &Place) -> Outcome<Vec<String>> {
    let mut names: Vec<_> = read_names(place)?;
    names.retain(|n| !["base", "ft", "ft.delta.zst"].contains(&n.as_str()));
    Ok(names)
}

fn read_names(place: &Place) -> Outcome<Vec<String>> {
    let names = fs::read_dir(place.path(""))?.map(|e| Ok(e?.file_name().to_string_lossy().into()));
    names.collect()
}

#[test]
fn every_method_goes_on_from_anywhere() -> Outcome {
    alone("resume::every_method_goes_on_from_anywhere", from_anywhere)
}

fn from_anywhere() -> Outcome {
    for appends in [false, true] {
        for method in every_method() {
            let place = pair()?;
            let first = appends.then(|| -> Outcome<_> {
                let options = options(Method::BitDelta(BitDelta::default())).with_name("first");
                store(&place, &options, &Silent)?;
                Ok(fs::read(&place.archive)?)
            });
            let first = first.transpose()?;
            let options = options(method);
            let count = Count::default();
            store(&place, &options, &count)?;
            let wanted = fs::read(&place.archive)?;
            let n_tiles = count.0.into_inner();
            let (mut kept, mut again) = (0, 0);
            for cut in (1..n_tiles).step_by(usize::try_from(n_tiles / 6)?.max(1)) {
                back_to(&place, first.as_deref())?;
                let resumes = options.clone().with_resume(true);
                let cut_off = store(&place, &resumes, &After(cut.into())).unwrap_err();
                assert_eq!(cut_off.kind(), ErrorKind::Interrupted);
                assert!(!strays(&place)?.is_empty(), "nothing is left to go on from");
                let count = Count::default();
                let report = store(&place, &resumes, &count)?;
                assert!(fs::read(&place.archive)? == wanted, "{}: cut at {cut}", report.method);
                assert_eq!(strays(&place)?, [""; 0]);
                // Tiles that both runs went through: of the tensor and the surveys that were under way.
                again += cut + count.0.into_inner() - n_tiles;
                kept = kept.max(report.resumed_tensors);
            }
            let name = options.method.name();
            assert!(kept > 0, "{name}: nothing was ever kept");
            println!(
                "{name}, appends: {appends}: {again} of {n_tiles} tiles again in 6 resumed runs"
            );
        }
    }
    Ok(())
}

/// The archive as it was, and nothing beside it.
fn back_to(place: &Place, archive: Option<&[u8]>) -> Outcome {
    match archive {
        Some(bytes) => fs::write(&place.archive, bytes)?,
        None => fs::remove_file(&place.archive)?,
    }
    Ok(())
}

/// A run that was cut off after `cut` tiles.
fn cut_off(place: &Place, options: &CompressOptions, cut: u64) {
    let resumes = options.clone().with_resume(true);
    let error = store(place, &resumes, &After(cut.into())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Interrupted);
}

#[test]
fn what_is_left_is_never_trusted() -> Outcome {
    alone("resume::what_is_left_is_never_trusted", never_trusted)
}

fn never_trusted() -> Outcome {
    let place = pair()?;
    let options = options(Method::Lossless);
    store(&place, &options, &Silent)?;
    let wanted = fs::read(&place.archive)?;
    fs::remove_file(&place.archive)?;
    cut_off(&place, &options, 20);
    let names = [".ft.delta.zst.partial", ".ft.delta.zst.resume"];
    let left: Vec<_> = names.iter().map(|n| fs::read(place.path(n))).collect::<Result<_, _>>()?;
    let resumes = options.clone().with_resume(true);
    let mut rng = Rng::new(91);
    for i in 0..60 {
        for (name, bytes) in names.iter().zip(&left) {
            fs::write(place.path(name), bytes)?;
        }
        let name = names[i % 2];
        let mut bytes = left[i % 2].clone();
        match i % 3 {
            0 => bytes.truncate(rng.below(bytes.len())),
            _ => {
                let at = rng.below(bytes.len());
                bytes[at] ^= 1 << rng.below(8);
            }
        }
        fs::write(place.path(name), bytes)?;
        store(&place, &resumes, &Silent)?;
        assert!(fs::read(&place.archive)? == wanted, "damage {i} of {name}");
        assert_eq!(strays(&place)?, [""; 0]);
        fs::remove_file(&place.archive)?;
    }
    Ok(())
}

#[test]
fn other_inputs_or_settings_are_refused() -> Outcome {
    alone("resume::other_inputs_or_settings_are_refused", others_refused)
}

fn others_refused() -> Outcome {
    let place = pair()?;
    let options = options(Method::Lossless);
    cut_off(&place, &options, 20);
    let refused = |options: &CompressOptions| -> Error {
        store(&place, &options.clone().with_resume(true), &Silent).unwrap_err()
    };
    for other in [options.clone().with_name("third"), options.clone().with_seed(3)] {
        let error = refused(&other);
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(error.to_string().contains("without --resume"), "{error}");
    }
    // What was refused is still there.
    let report = store(&place, &options.clone().with_resume(true), &Silent)?;
    assert!(report.resumed_tensors > 0);
    fs::remove_file(&place.archive)?;

    cut_off(&place, &options, 20);
    let shard = place.ft.join("model-00001-of-00004.safetensors");
    fs::write(&shard, fs::read(&shard)?)?;
    assert_eq!(refused(&options).kind(), ErrorKind::InvalidArgument);
    // A run that does not resume starts again and leaves nothing.
    assert_eq!(store(&place, &options, &Silent)?.resumed_tensors, 0);
    assert_eq!(strays(&place)?, [""; 0]);
    Ok(())
}

#[test]
fn a_restore_keeps_the_shards_that_are_whole() -> Outcome {
    alone("resume::a_restore_keeps_the_shards_that_are_whole", restore_by_shards)
}

fn restore_by_shards() -> Outcome {
    let place = pair()?;
    store(&place, &options(Method::BitDelta(BitDelta::default())), &Silent)?;
    let (output, resources) = (place.path("out"), Resources::default().with_threads(2));
    let options = RestoreOptions::default().with_resources(resources).with_resume(true);
    let restore = |options: &RestoreOptions, observer: &dyn Observer| {
        delta_stream::restore(&place.archive, &place.base, &output, options, observer)
    };
    let count = Count::default();
    restore(&options, &count)?;
    let wanted = read(&output)?;
    let n_tiles = count.0.into_inner();
    let mut kept = Vec::new();
    for cut in 1..n_tiles {
        fs::remove_dir_all(&output)?;
        let error = restore(&options, &After(cut.into())).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Interrupted);
        assert!(!output.exists());
        // Another layout is not this checkpoint.
        let other = options.clone().with_max_shard_size(Some(10_000));
        assert_eq!(restore(&other, &Silent).unwrap_err().kind(), ErrorKind::InvalidArgument);
        let count = Count::default();
        let report = restore(&options, &count)?;
        assert!(read(&output)? == wanted, "cut at {cut}");
        assert!((count.0.into_inner() < n_tiles) == (report.resumed_files > 0));
        kept.push(report.resumed_files);
    }
    assert!(kept.is_sorted() && kept.last() == Some(&3), "{kept:?}");
    // Without the wish to go on nothing is kept.
    fs::remove_dir_all(&output)?;
    restore(&options, &After(n_tiles.saturating_sub(1).into())).unwrap_err();
    assert_eq!(restore(&options.with_resume(false), &Silent)?.resumed_files, 0);
    assert!(read(&output)? == wanted);
    Ok(())
}

/// A pair that takes the binary long enough to be killed at different places.
fn slow_pair() -> Outcome<Place> {
    Place::made_up(&PairShape::small().with_sizes(256, 688, 1024, 2).with_shards(2, 6))
}

/// What a run that was not killed before `moment` reports.
fn run_for(command: &mut Command, moment: Option<Duration>) -> Outcome<Option<serde_json::Value>> {
    let printed = kill_after(command, moment)?;
    Ok(printed.map(|bytes| serde_json::from_slice(&bytes)).transpose()?)
}

fn program(place: &Place, verb: &str, line: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_delta-stream"));
    command.current_dir(place.path("")).arg(verb).args(line.split_whitespace());
    command.args(["--base", "base", "--json", "-q", "--threads", "2", "--resume"]);
    command
}

#[test]
fn killed_and_resumed() -> Outcome {
    let place = slow_pair()?;
    let mut rng = Rng::new(92);
    let compress =
        || program(&place, "compress", "--shards ft -o ft.delta.zst --name a --method delta-dct");
    let append = || {
        program(&place, "append", "--shards ft --archive ft.delta.zst --name b --method lossless")
    };
    let mut kept = 0;
    let mut before = None;
    for command in [&compress as &dyn Fn() -> Command, &append] {
        let started = Instant::now();
        run_for(&mut command(), None)?;
        let lasts = started.elapsed();
        let wanted = fs::read(&place.archive)?;
        for i in 0..KILLS.0 {
            match &before {
                None => fs::remove_file(&place.archive)?,
                Some(bytes) => fs::write(&place.archive, bytes)?,
            }
            // Killed twice, the second time while it goes on.
            let mut done = None;
            for _ in 0..2 {
                let moment = lasts.mul_f64(rng.below(1000) as f64 / 1000.0);
                done = run_for(&mut command(), Some(moment))?;
                if done.is_some() {
                    break;
                }
            }
            // Killed after the commit, it is done.
            let is_there = fs::read(&place.archive).is_ok_and(|bytes| bytes == wanted);
            if done.is_none() && !is_there {
                let report = run_for(&mut command(), None)?.ok_or("no report")?;
                kept += report["resumed_tensors"].as_u64().ok_or("no count")?;
            }
            assert!(fs::read(&place.archive)? == wanted, "kill {i}");
            assert_eq!(strays(&place)?, [""; 0], "kill {i}");
        }
        before = Some(wanted);
    }
    assert!(kept > 0, "no kill came in time");
    Ok(())
}

#[test]
fn restores_killed_and_resumed() -> Outcome {
    let place = slow_pair()?;
    let line = "--shards ft -o ft.delta.zst --name a --method delta-dct";
    run_for(&mut program(&place, "compress", line), None)?;
    let output = place.path("out");
    let restore = || program(&place, "restore", "ft.delta.zst -o out");
    let started = Instant::now();
    run_for(&mut restore(), None)?;
    let (lasts, wanted) = (started.elapsed(), read(&output)?);
    let mut rng = Rng::new(93);
    let mut kept = 0;
    for i in 0..KILLS.1 {
        fs::remove_dir_all(&output)?;
        let moment = lasts.mul_f64(rng.below(1000) as f64 / 1000.0);
        if run_for(&mut restore(), Some(moment))?.is_none() && !output.exists() {
            let report = run_for(&mut restore(), None)?.ok_or("no report")?;
            kept += report["resumed_files"].as_u64().ok_or("no count")?;
        }
        assert!(read(&output)? == wanted, "kill {i}");
    }
    assert!(kept > 0, "no kill came in time");
    Ok(())
}
