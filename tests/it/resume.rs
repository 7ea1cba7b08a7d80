//! A run that was cut off goes on where it stood, and writes what a run that never was writes.

use std::fs;
use std::ops::Range;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use delta_stream::faults;
use delta_stream::{
    Auto, BaseShift, BaseVector, BitDelta, CompressOptions, CompressReport, Dare, Error, ErrorKind,
    Method, Observer, PairShape, Resources, RestoreOptions, Silent, TraceOf, TraceReference,
    UltraDelta,
};

use crate::made::{
    After, Outcome, Place, Rng, alone, every_method, kill_after, one_shard, read, twins,
};

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
    let resources = Resources::default().with_threads(WORKERS);
    CompressOptions::new(method).with_name("second").with_resources(resources)
}

pub(crate) fn store(
    place: &Place,
    options: &CompressOptions,
    observer: &dyn Observer,
) -> delta_stream::Result<CompressReport> {
    let run = if place.archive.exists() { delta_stream::append } else { delta_stream::compress };
    run(&place.ft, &place.base, &place.archive, options, observer)
}

/// Names beside base, fine-tune and archive.
pub(crate) fn strays(place: &Place) -> Outcome<Vec<String>> {
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
        let [more, traced] = with_more_passes();
        let all = every_method().into_iter().chain([more]).map(|method| (method, WORKERS as u64));
        for (method, at_most) in all.chain([(traced, OF_A_NORM)]) {
            let name = method.name();
            let lab = Lab::new(pair()?, options(method), appends)?;
            let mut sum = 0;
            for cut in (1..lab.n_tiles).step_by(usize::try_from(lab.n_tiles / 6)?.max(1)) {
                let again = lab.end_and_resume(cut)?;
                assert!(again <= at_most, "{name}: {again} tiles again");
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
        assert!(most <= WORKERS as u64 + lab.n_tiles / 10, "{again:?}");
    }
    Ok(())
}

/// Methods that find something else at the same places: on what passes before them left, and of a whole
/// matrix.
fn with_more_passes() -> [Method; 2] {
    let traced = UltraDelta::default().with_trace(TraceReference::Archive, TraceOf::Survivors, 0.5);
    [Method::BitDelta(BitDelta::default().with_planes(3)), Method::UltraDelta(traced)]
}

/// A run that may not change the disk from one moment on, as if it were killed there, and ends.
#[derive(Default)]
struct Killed(AtomicBool);

impl Killed {
    /// Kills it. Returns the tiles, and elements, that its workers had begun.
    fn kill(&self) -> [u64; 2] {
        let begun = faults::kill();
        self.0.store(true, Ordering::Relaxed);
        begun
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
pub(crate) struct Lab {
    pub(crate) place: Place,
    options: CompressOptions,
    /// The archive it adds to.
    first: Option<Vec<u8>>,
    wanted: Vec<u8>,
    /// Tiles of all passes, and their elements.
    pub(crate) n_tiles: u64,
    n_elements: u64,
    pub(crate) lasts: Duration,
}

impl Lab {
    pub(crate) fn new(place: Place, options: CompressOptions, appends: bool) -> Outcome<Self> {
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
    pub(crate) fn end_and_resume(&self, cut: u64) -> Outcome<u64> {
        back_to(&self.place, self.first.as_deref())?;
        faults::take_work();
        cut_off(&self.place, &self.options, cut);
        let begun = faults::take_work();
        Ok(self.resume(begun)?[0])
    }

    /// Kills a run at a moment and resumes it. Returns how many tiles, and elements, were surveyed or encoded
    /// again; none if it was done before.
    pub(crate) fn kill_and_resume(&self, moment: Duration) -> Outcome<Option<[u64; 2]>> {
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

    /// Kills a run while frames wait in rooms of its journal. Returns the tiles, and elements, that were begun.
    fn kill_while_frames_wait(&self) -> Outcome<[u64; 2]> {
        let options = self.options.clone().with_resume(true);
        let journal = self.place.path(".ft.delta.zst.resume");
        for _ in 0..100 {
            back_to(&self.place, self.first.as_deref())?;
            faults::take_work();
            let observer = Killed::default();
            let (begun, ended) = std::thread::scope(|scope| {
                let killer = scope.spawn(|| {
                    let started = Instant::now();
                    // The smallest room has 64 KiB; entries alone do not come to so much.
                    let rooms = || fs::metadata(&journal).map_or(0, |m| m.len() >> 16);
                    while rooms() < 7 && started.elapsed() < Duration::from_secs(20) {
                        std::thread::sleep(Duration::from_micros(200));
                    }
                    observer.kill()
                });
                let ended = store(&self.place, &options, &observer);
                (killer.join(), ended)
            });
            faults::stop();
            faults::take_work();
            if ended.is_err() && rooms_of(&fs::read(&journal)?).len() >= 2 * 7 {
                return begun.map_err(|_| "the killer failed".into());
            }
        }
        Err("no frames ever waited".into())
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

/// Of a trace norm what is found in tiles is not kept: those of a matrix, and nine that are alive at once.
const OF_A_NORM: u64 = 3 + 9;

/// Threads that work, and so tiles that are done again at most.
pub(crate) const WORKERS: usize = 2;

/// Moments at which runs are killed.
const MOMENTS: usize = 20;

#[test]
fn a_killed_run_does_a_tile_a_worker_again() -> Outcome {
    alone("resume::a_killed_run_does_a_tile_a_worker_again", killed_anywhere)
}

fn killed_anywhere() -> Outcome {
    let full = 1 << 20;
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
        assert!(most(0) <= WORKERS as u64, "{name}: {again:?}");
    }
    Ok(())
}

#[test]
fn journals_with_right_checksums_are_not_believed_blindly() -> Outcome {
    alone("resume::journals_with_right_checksums_are_not_believed_blindly", forged_journals)
}

/// What an entry begins with that a room follows.
const ROOM: u8 = 6;

/// Where the entries of a journal are, and those of its rooms.
fn entries_of(journal: &[u8]) -> Vec<Range<usize>> {
    let (mut at, mut entries) = (0, Vec::new());
    while at < journal.len() {
        let end = at + 8 + word(journal, at);
        entries.push(at + 8..end);
        let room = if journal[at + 8] == ROOM { word(journal, end - 4) } else { 0 };
        at = end + room;
    }
    entries
}

/// What has to do with frames that wait: entries that rooms follow, and the entry inside of each room.
fn rooms_of(journal: &[u8]) -> Vec<Range<usize>> {
    let before = entries_of(journal).into_iter().filter(|entry| journal[entry.start] == ROOM);
    let inside = |end: usize| end + 8..end + 8 + word(journal, end);
    before.flat_map(|entry| [entry.clone(), inside(entry.end)]).collect()
}

fn word(bytes: &[u8], at: usize) -> usize {
    bytes[at..at + 4].iter().rev().fold(0, |n, byte| n << 8 | usize::from(*byte))
}

/// Changes some bytes of one entry behind the first, and makes its checksum right. Every other time one that has
/// to do with frames that wait is taken, if there are such; says whether it was one.
fn forge_entry(journal: &mut [u8], rng: &mut Rng) -> bool {
    let (entries, rooms) = (entries_of(journal), rooms_of(journal));
    let of_room = !rooms.is_empty() && rng.below(2) == 0;
    let of = if of_room { &rooms } else { &entries[1..] };
    let entry = of[rng.below(of.len())].clone();
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
    of_room
}

fn forged_journals() -> Outcome {
    let mut rng = Rng::new(95);
    let mut counts = [0; 3];
    for method in every_method().into_iter().chain(with_more_passes()) {
        let lab = Lab::new(pair()?, options(method), false)?;
        for cut in [lab.n_tiles / 3, lab.n_tiles * 4 / 5] {
            fs::remove_file(&lab.place.archive)?;
            cut_off(&lab.place, &lab.options, cut);
            forge_and_resume(&lab, 12, &mut rng, &mut counts)?;
        }
    }
    let lab = Lab::new(uneven_pair()?, options(Method::Auto(Auto::default())), false)?;
    lab.kill_while_frames_wait()?;
    counts[2] = 0;
    forge_and_resume(&lab, 48, &mut rng, &mut counts)?;
    let [taken, refused, of_rooms] = counts;
    println!("{taken} forged journals were gone on with, {refused} refused; {of_rooms} in rooms");
    assert!(of_rooms > 0);
    Ok(())
}

/// Resumes a run with `n` forged journals, each in turn. Counts those that were gone on with, those that were
/// refused, and those in which something of a room was forged.
fn forge_and_resume(lab: &Lab, n: usize, rng: &mut Rng, counts: &mut [usize; 3]) -> Outcome {
    let place = &lab.place;
    let resumes = lab.options.clone().with_resume(true);
    let names = [".ft.delta.zst.partial", ".ft.delta.zst.resume"].map(|n| place.path(n));
    let left = [fs::read(&names[0])?, fs::read(&names[1])?];
    for _ in 0..n {
        let mut journal = left[1].clone();
        counts[2] += usize::from(forge_entry(&mut journal, rng));
        fs::write(&names[0], &left[0])?;
        fs::write(&names[1], journal)?;
        match store(place, &resumes, &Silent) {
            Ok(_) => {
                assert_eq!(strays(place)?, [""; 0]);
                fs::remove_file(&place.archive)?;
                counts[0] += 1;
            }
            Err(error) => {
                let kinds = [ErrorKind::Corrupt, ErrorKind::InvalidArgument];
                assert!(kinds.contains(&error.kind()), "{error}");
                assert!(!place.archive.exists());
                counts[1] += 1;
            }
        }
    }
    // A run that does not resume has nothing to do with it.
    store(place, &lab.options, &Silent)?;
    assert!(fs::read(&place.archive)? == lab.wanted);
    Ok(())
}

#[test]
fn frames_that_wait_are_not_lost() -> Outcome {
    alone("resume::frames_that_wait_are_not_lost", frames_kept)
}

/// A matrix, then many small tensors, which wait for it.
fn uneven_pair() -> Outcome<Place> {
    let mut rng = Rng::new(98);
    let (mut base, mut ft) = (Vec::new(), Vec::new());
    let mut add = |name: &str, shape: &[u64]| {
        let (b, f) = twins(&mut rng, name, "BF16", shape);
        base.push(b);
        ft.push(f);
    };
    add("layers.0.mlp.weight", &[1024, 1024]);
    (0..40).for_each(|i| add(&format!("layers.{}.norm.weight", 10 + i), &[64]));
    Place::new(&one_shard(&base), &one_shard(&ft))
}

fn frames_kept() -> Outcome {
    let lab = Lab::new(uneven_pair()?, options(Method::Auto(Auto::default())), false)?;
    for _ in 0..5 {
        let begun = lab.kill_while_frames_wait()?;
        let [tiles, _] = lab.resume(begun)?;
        assert!(tiles <= WORKERS as u64, "{tiles} tiles again");
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
pub(crate) fn cut_off(place: &Place, options: &CompressOptions, cut: u64) {
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
pub(crate) fn run_for(
    command: &mut Command,
    moment: Option<Duration>,
) -> Outcome<Option<serde_json::Value>> {
    let printed = kill_after(command, moment)?;
    Ok(printed.map(|bytes| serde_json::from_slice(&bytes)).transpose()?)
}

pub(crate) fn program(place: &Place, verb: &str, line: &str) -> Command {
    let mut command = crate::support::program();
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
        let is_there = || fs::read(&place.archive).is_ok_and(|bytes| bytes == wanted);
        // On a busy machine it takes luck to come in time.
        for i in 0..20 * KILLS.0 {
            if i >= KILLS.0 && kept > 0 {
                break;
            }
            match &before {
                None => fs::remove_file(&place.archive)?,
                Some(bytes) => fs::write(&place.archive, bytes)?,
            }
            // Killed twice, the second time while it goes on.
            let mut done = None;
            for _ in 0..2 {
                let moment = lasts.mul_f64(rng.below(1000) as f64 / 1000.0);
                done = run_for(&mut command(), Some(moment))?;
                // Killed after the commit, it is done.
                if done.is_some() || is_there() {
                    break;
                }
            }
            if done.is_none() && !is_there() {
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
    // On a busy machine it takes luck to come in time.
    for i in 0..20 * KILLS.1 {
        if i >= KILLS.1 && kept > 0 {
            break;
        }
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
