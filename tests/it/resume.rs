//! A run that was cut off goes on where it stood, and writes what a run that never was writes.

use std::fs;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use delta_stream::faults::{self, Fault};
use delta_stream::{
    BaseShift, BaseVector, BitDelta, CompressOptions, CompressReport, Dare, Error, ErrorKind,
    Method, Observer, PairShape, Resources, RestoreOptions, Silent, TraceOf, TraceReference,
    UltraDelta,
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
        for method in every_method().into_iter().chain(with_more_passes()) {
            let name = method.name();
            let lab = Lab::new(pair()?, options(method), appends)?;
            let mut sum = 0;
            for cut in (1..lab.n_tiles).step_by(usize::try_from(lab.n_tiles / 6)?.max(1)) {
                let again = lab.end_and_resume(cut)?;
                // Those that workers have begun, and those that wait for one before them; of a trace norm
                // the matrix that it is of.
                let matrix = if name == "ultradelta" { 3 } else { 0 };
                assert!(again <= PERMITS + matrix, "{name}: {again} tiles again");
                sum += again;
            }
            let n_tiles = lab.n_tiles;
            println!(
                "{name}, appends: {appends}: {sum} of {n_tiles} tiles again in 6 resumed runs"
            );
        }
    }
    Ok(())
}

#[test]
fn a_run_with_a_base_shift_goes_on_from_anywhere() -> Outcome {
    alone("resume::a_run_with_a_base_shift_goes_on_from_anywhere", shifted_from_anywhere)
}

fn shifted_from_anywhere() -> Outcome {
    let other = Place::made_up(&PairShape::small().with_sizes(64, 176, 96, 3).with_seed(5))?;
    for (method, vector) in [
        (Method::BitDelta(BitDelta::default()), BaseVector::Own),
        (Method::Dare(Dare::default()), BaseVector::External(other.ft.clone())),
        (Method::UltraDelta(UltraDelta::default()), BaseVector::Shared),
    ] {
        let name = method.name();
        let shift = BaseShift::new(vector.clone());
        let options = options(method).with_base_shift(Some(shift));
        let lab = Lab::new(pair()?, options, vector == BaseVector::Shared)?;
        let mut again = Vec::new();
        for i in 0..8 {
            again.push(lab.end_and_resume(1 + i * (lab.n_tiles - 2) / 7)?);
        }
        let (sum, most) = (again.iter().sum::<u64>(), again.iter().max().copied().unwrap_or(0));
        println!("{name}: {sum} of {} tiles again in 8 runs, at most {most}", lab.n_tiles);
        // Of a search for parameters the trial that was under way, surveys too.
        assert!(most <= PERMITS + lab.n_tiles / 10, "{again:?}");
    }
    Ok(())
}

/// Methods that find something else at the same places: on what passes before them left, and of a whole
/// matrix.
fn with_more_passes() -> [Method; 2] {
    let traced = UltraDelta::default().with_trace(TraceReference::Archive, TraceOf::Survivors, 0.5);
    [Method::BitDelta(BitDelta::default().with_planes(3)), Method::UltraDelta(traced)]
}

/// Tiles alive at once with two workers.
const PERMITS: u64 = 9;

/// A run that may not change the disk from one moment on, as if it were killed there, and ends.
#[derive(Default)]
struct Killed(AtomicBool);

impl Killed {
    /// Kills it. Returns the tiles, and elements, that its workers had begun.
    fn kill(&self) -> [u64; 2] {
        faults::start(&[Fault { at: 0, errno: 5, torn: 0, lasts: true }]);
        self.0.store(true, Ordering::Relaxed);
        faults::take_work()
    }
}

impl Observer for Killed {
    fn progress(&self, _done: u64, _total: u64) {}
    fn note(&self, _text: &str) {}
    fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A run that is ended and resumed at many moments, and what it comes to undisturbed.
struct Lab {
    place: Place,
    options: CompressOptions,
    /// The archive it adds to.
    first: Option<Vec<u8>>,
    wanted: Vec<u8>,
    /// Tiles of all passes, and their elements.
    n_tiles: u64,
    n_elements: u64,
    lasts: Duration,
}

impl Lab {
    fn new(place: Place, options: CompressOptions, appends: bool) -> Outcome<Self> {
        let first = appends.then(|| -> Outcome<_> {
            let other = Method::BitDelta(BitDelta::default());
            store(&place, &self::options(other).with_name("first"), &Silent)?;
            Ok(fs::read(&place.archive)?)
        });
        let first = first.transpose()?;
        faults::take_work();
        let started = Instant::now();
        store(&place, &options, &Silent)?;
        let lasts = started.elapsed();
        let [n_tiles, n_elements] = faults::take_work();
        let wanted = fs::read(&place.archive)?;
        Ok(Self { place, options, first, wanted, n_tiles, n_elements, lasts })
    }

    /// Ends a run after `cut` tiles and resumes it. Returns how many tiles were surveyed or encoded again.
    fn end_and_resume(&self, cut: u64) -> Outcome<u64> {
        back_to(&self.place, self.first.as_deref())?;
        faults::take_work();
        cut_off(&self.place, &self.options, cut);
        let begun = faults::take_work();
        Ok(self.resume(begun)?[0])
    }

    /// Kills a run at a moment and resumes it. Returns how many tiles, and elements, were surveyed or encoded
    /// again; none if it was done before.
    fn kill_and_resume(&self, moment: Duration) -> Outcome<Option<[u64; 2]>> {
        back_to(&self.place, self.first.as_deref())?;
        faults::take_work();
        let (options, observer) = (self.options.clone().with_resume(true), Killed::default());
        let (begun, ended) = std::thread::scope(|scope| {
            let killer = scope.spawn(|| {
                std::thread::sleep(moment);
                observer.kill()
            });
            let ended = store(&self.place, &options, &observer);
            (killer.join(), ended)
        });
        faults::stop();
        let Err(error) = ended else { return Ok(None) };
        let kinds = [ErrorKind::Interrupted, ErrorKind::Io];
        assert!(kinds.contains(&error.kind()), "{error}");
        faults::take_work();
        // The journal goes a moment before the commit; a run killed in between starts again.
        let commits = !strays(&self.place)?.contains(&".ft.delta.zst.resume".to_owned());
        let again = self.resume(begun.map_err(|_| "the killer failed")?)?;
        Ok((!commits).then_some(again))
    }

    /// Resumes a run whose workers had begun so much.
    fn resume(&self, begun: [u64; 2]) -> Outcome<[u64; 2]> {
        let resumes = self.options.clone().with_resume(true);
        store(&self.place, &resumes, &Silent)?;
        assert!(fs::read(&self.place.archive)? == self.wanted, "{}", self.options.method.name());
        assert_eq!(strays(&self.place)?, [""; 0]);
        let [tiles, elements] = faults::take_work();
        let again = [begun[0] + tiles - self.n_tiles, begun[1] + elements - self.n_elements];
        Ok(again)
    }
}

/// Moments at which runs are killed.
const MOMENTS: usize = 20;

#[test]
fn a_killed_run_does_a_tile_a_worker_again() -> Outcome {
    alone("resume::a_killed_run_does_a_tile_a_worker_again", killed_anywhere)
}

fn killed_anywhere() -> Outcome {
    let full = 1 << 20;
    let (mut sum, mut n_kills) = (0, 0);
    println!("method, tiles in all passes, kills, tiles again on the mean, most, in full tiles");
    for method in every_method() {
        let place = Place::made_up(&PairShape::small().with_sizes(1024, 2560, 3072, 1))?;
        let name = method.name();
        let lab = Lab::new(place, options(method), false)?;
        let mut again = Vec::new();
        for i in 0.. {
            // Spread over the run, and a bit beyond: how long it takes varies.
            let moment = lab.lasts.mul_f64(f64::from(i * 37 % 64 + 1) / 64.0);
            again.extend(lab.kill_and_resume(moment)?);
            if again.len() == MOMENTS {
                break;
            }
        }
        let most = |i: usize| again.iter().map(|n| n[i]).max().unwrap_or(0);
        let total = again.iter().map(|n| n[0]).sum::<u64>();
        let (mean, full_tiles) = (total as f64 / MOMENTS as f64, most(1) as f64 / full as f64);
        println!("{name}, {}, {MOMENTS}, {mean:.1}, {}, {full_tiles:.2}", lab.n_tiles, most(0));
        // What is alive, and a quarter of a tile that was not saved yet.
        assert!(most(1) <= PERMITS * full + full / 4, "{name}: {again:?}");
        (sum, n_kills) = (sum + total, n_kills + MOMENTS);
    }
    // One a worker and one that waits, with room for a machine that does other things too.
    let mean = sum as f64 / n_kills as f64;
    assert!(mean <= 5.0, "{mean} tiles again on the mean");
    Ok(())
}

#[test]
fn journals_with_right_checksums_are_not_believed_blindly() -> Outcome {
    alone("resume::journals_with_right_checksums_are_not_believed_blindly", forged_journals)
}

/// Changes some bytes of one entry behind the first, and makes its checksum right.
fn forge_entry(journal: &mut [u8], rng: &mut Rng) {
    let word = |at: usize, journal: &[u8]| -> usize {
        journal[at..at + 4].iter().rev().fold(0, |n, byte| n << 8 | usize::from(*byte))
    };
    let (mut at, mut entries) = (0, Vec::new());
    while at < journal.len() {
        let end = at + 8 + word(at, journal);
        entries.push(at + 8..end);
        at = end;
    }
    let entry = entries[1 + rng.below(entries.len() - 1)].clone();
    for _ in 0..=rng.below(3) {
        let at = entry.start + rng.below(entry.len());
        journal[at] = match rng.below(3) {
            0 => journal[at] ^ 1 << rng.below(8),
            1 => 0xff,
            _ => rng.below(256) as u8,
        };
    }
    let crc = crc32c::crc32c(&journal[entry.clone()]);
    journal[entry.start - 4..entry.start].copy_from_slice(&crc.to_le_bytes());
}

fn forged_journals() -> Outcome {
    let mut rng = Rng::new(95);
    let (mut taken, mut refused) = (0, 0);
    for method in every_method().into_iter().chain(with_more_passes()) {
        let lab = Lab::new(pair()?, options(method), false)?;
        let place = &lab.place;
        let resumes = lab.options.clone().with_resume(true);
        for cut in [lab.n_tiles / 3, lab.n_tiles * 4 / 5] {
            fs::remove_file(&place.archive)?;
            cut_off(place, &lab.options, cut);
            let names = [".ft.delta.zst.partial", ".ft.delta.zst.resume"].map(|n| place.path(n));
            let left = [fs::read(&names[0])?, fs::read(&names[1])?];
            for _ in 0..12 {
                let mut journal = left[1].clone();
                forge_entry(&mut journal, &mut rng);
                fs::write(&names[0], &left[0])?;
                fs::write(&names[1], journal)?;
                match store(place, &resumes, &Silent) {
                    Ok(_) => {
                        assert_eq!(strays(place)?, [""; 0]);
                        fs::remove_file(&place.archive)?;
                        taken += 1;
                    }
                    Err(error) => {
                        let kinds = [ErrorKind::Corrupt, ErrorKind::InvalidArgument];
                        assert!(kinds.contains(&error.kind()), "{error}");
                        assert!(!place.archive.exists());
                        refused += 1;
                    }
                }
            }
            // A run that does not resume has nothing to do with it.
            store(place, &lab.options, &Silent)?;
            assert!(fs::read(&place.archive)? == lab.wanted);
        }
    }
    println!("{taken} forged journals were gone on with, {refused} refused");
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
