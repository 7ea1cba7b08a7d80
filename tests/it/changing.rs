//! Inputs that change during a run end it with an error and an exit code, never with a bare signal, and
//! never in an archive.

use std::fs::{self, OpenOptions};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use delta_stream::PairShape;

use crate::made::{Outcome, Place, Rng};
use crate::support::program;

/// Runs during which a file is cut, and during which one is written to.
const RUNS: usize = 12;
/// Exit code of input/output errors.
const IO: Option<i32> = Some(6);

fn pair() -> Outcome<Place> {
    Place::made_up(&PairShape::small().with_sizes(512, 1376, 2048, 3).with_shards(1, 1))
}

fn compress(place: &Place, io: &str) -> Outcome<Child> {
    let mut command = program();
    command.current_dir(place.path(""));
    command.args(["compress", "--shards", "ft", "--base", "base", "-o", "ft.delta.zst", "-q"]);
    command.args(["--method", "delta-dct", "--threads", "2", "--io", io]);
    Ok(command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?)
}

/// What a run that was ended by its input has to leave: a message and nothing else. Says whether it was.
fn ended(place: &Place, child: Child) -> Outcome<bool> {
    let output = child.wait_with_output()?;
    let text = String::from_utf8_lossy(&output.stderr);
    if output.status.success() {
        fs::remove_file(&place.archive)?;
        return Ok(false);
    }
    assert_eq!(output.status.code(), IO, "{text}");
    assert!(text.starts_with("error: ") && text.contains("run again"), "{text}");
    assert!(!place.archive.exists());
    Ok(true)
}

#[test]
fn a_file_that_is_cut_or_written_to_ends_the_run() -> Outcome {
    let place = pair()?;
    let started = Instant::now();
    assert!(!ended(&place, compress(&place, "mmap")?)?);
    let lasts = started.elapsed();
    let mut rng = Rng::new(61);
    let mut n_ended = 0;
    for i in 0..RUNS {
        let file = [&place.ft, &place.base][i % 2].join("model.safetensors");
        let whole = fs::read(&file)?;
        let child = compress(&place, ["mmap", "read", "auto", "direct"][i / 2 % 4])?;
        std::thread::sleep(lasts.mul_f64(0.1 + rng.below(600) as f64 / 1000.0));
        let open = OpenOptions::new().write(true).open(&file)?;
        if i % 4 == 3 {
            // The same length, another content.
            std::os::unix::fs::FileExt::write_all_at(&open, b"changed", whole.len() as u64 / 2)?;
        } else {
            open.set_len(whole.len() as u64 / 3)?;
        }
        n_ended += usize::from(ended(&place, child)?);
        fs::write(&file, whole)?;
    }
    assert!(n_ended > RUNS / 2, "{n_ended} of {RUNS} runs met the change");
    assert!(!ended(&place, compress(&place, "auto")?)?);
    Ok(())
}

/// A page that goes bad between being brought in and being looked at cannot be timed: the signal is sent.
#[test]
fn the_signal_of_a_bad_page_ends_the_run_with_a_message() -> Outcome {
    let place = pair()?;
    let mut n_ended = 0;
    for _ in 0..20 {
        let child = compress(&place, "mmap")?;
        // Late enough for the handler, early enough for the run.
        std::thread::sleep(Duration::from_millis(30));
        let sent = Command::new("kill").args(["-BUS", &child.id().to_string()]).status()?;
        let output = child.wait_with_output()?;
        let text = String::from_utf8_lossy(&output.stderr);
        if sent.success() && output.status.code() == IO {
            assert!(text.contains("cut short") && text.contains("--io read"), "{text}");
            assert!(!place.archive.exists());
            n_ended += 1;
        } else if output.status.success() {
            fs::remove_file(&place.archive)?;
        }
    }
    assert!(n_ended > 0, "no signal was answered");
    Ok(())
}
