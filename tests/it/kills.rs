//! Real kills of the real program, many of them, at random moments of every verb that writes. They take
//! minutes, so they run only when asked for: `cargo test --test it kills -- --ignored --nocapture`.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use delta_stream::PairShape;

use crate::cases::{ARCHIVE, Tree, committed, named, read_tree, write_tree};
use crate::made::{Outcome, Place, Rng, kill_after};

/// Kills of each verb.
const KILLS: usize = 110;

/// A verb as it is typed in the directory it changes.
struct Typed {
    name: &'static str,
    args: Vec<String>,
    start: Tree,
    wanted: Tree,
    lasts: Duration,
}

/// Runs the program in `dir`; kills it after `moment` unless it is done by then. Says whether it was
/// done.
fn run(dir: &Path, args: &[String], moment: Option<Duration>) -> Outcome<bool> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_delta-stream"));
    Ok(kill_after(command.args(args).current_dir(dir), moment)?.is_some())
}

fn typed(place: &Place, name: &'static str, line: &str, start: &Tree) -> Outcome<Typed> {
    let args: Vec<_> = line.split_whitespace().map(str::to_owned).collect();
    let dir = place.path("disk");
    write_tree(&dir, start)?;
    let started = Instant::now();
    run(&dir, &args, None)?;
    let (lasts, wanted) = (started.elapsed(), read_tree(&dir)?);
    Ok(Typed { name, args, start: start.clone(), wanted, lasts })
}

fn kill(place: &Place, typed: &Typed, rng: &mut Rng) -> Outcome {
    let dir = &place.path("disk");
    let (mut kills, mut done, mut hidden) = (0, 0, 0);
    let before = {
        write_tree(dir, &typed.start)?;
        committed(dir, &typed.start)?
    };
    let all = named(&typed.wanted);
    while kills < KILLS {
        let what = format!("{} killed {kills} times", typed.name);
        write_tree(dir, &typed.start)?;
        let moment = typed.lasts.mul_f64(rng.below(1000) as f64 / 1000.0);
        let ended = run(dir, &typed.args, Some(moment))?;
        let after = read_tree(dir)?;
        let found = committed(dir, &after).map_err(|e| format!("{what}: {e}"))?;
        assert!(found == all || (!ended && found == before), "{what}: {:?}", after.keys());
        (kills, done) = (kills + usize::from(!ended), done + usize::from(ended));
        hidden += usize::from(after.keys().any(|name| name.starts_with('.')));
        if found == before {
            run(dir, &typed.args, None)?;
            let next = read_tree(dir)?;
            assert!(named(&next) == all, "{what}: the next run");
            let left = next.keys().find(|name| name.starts_with('.'));
            assert!(left.is_none(), "{what}: the next run leaves {left:?}");
        }
    }
    println!(
        "{}: {kills} kills, {done} runs ended before; {hidden} left a hidden file behind",
        typed.name
    );
    Ok(())
}

#[test]
#[ignore = "takes minutes"]
fn every_verb_killed_at_random_moments() -> Outcome {
    let place = Place::empty()?;
    let shape = PairShape::small().with_sizes(256, 688, 1024, 2);
    delta_stream::make_pair(&place.path(""), &shape, 2)?;
    let (dir, none) = (place.path("disk"), Tree::new());
    write_tree(&dir, &none)?;
    let more = "--shards ../fine-tune --base ../base --method delta-dct --threads 2 -q --name";
    let line = |name: &str| format!("append {more} {name} --archive {ARCHIVE}");
    let compress = typed(&place, "compress", &format!("compress {more} one -o {ARCHIVE}"), &none)?;
    let append = typed(&place, "append", &line("two"), &compress.wanted)?;
    let remove = format!("remove {ARCHIVE} --name one");
    let remove = typed(&place, "remove", &remove, &append.wanted)?;
    let compact = typed(&place, "compact", &format!("compact {ARCHIVE}"), &remove.wanted)?;
    let restore = format!("restore {ARCHIVE} --base ../base -o out -q");
    let restore = typed(&place, "restore", &restore, &compress.wanted)?;
    let mut rng = Rng::new(94);
    for typed in [compress, append, remove, compact, restore] {
        kill(&place, &typed, &mut rng)?;
    }
    println!("{} kills, no losses", 5 * KILLS);
    Ok(())
}
