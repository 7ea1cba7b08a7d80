//! Real kills of the real program, many of them, at random moments of every verb that writes. They take
//! minutes, so all but a few run only when asked for: `cargo test --test it kills -- --ignored --nocapture`.

use std::path::Path;
use std::time::{Duration, Instant};

use delta_stream::PairShape;

use crate::cases::{ARCHIVE, Tree, committed, named, read_tree, write_tree};
use crate::made::{Outcome, Place, Rng, kill_after};
use crate::support::program;

/// Kills of each verb.
const KILLS: usize = 110;

/// Kills of `repair` in every run of the tests.
const REPAIRS: usize = 20;

/// A verb as it is typed in the directory it changes.
struct Typed {
    name: &'static str,
    args: Vec<String>,
    /// What of the directory has to be as it was or as it is to be.
    look: fn(&Path, &Tree) -> Outcome<Tree>,
    /// Whether it can be typed again where it is done.
    repeats: bool,
    start: Tree,
    wanted: Tree,
    lasts: Duration,
}

/// Runs the program in `dir`; kills it after `moment` unless it is done by then. Says whether it was
/// done.
fn run(dir: &Path, args: &[String], moment: Option<Duration>) -> Outcome<bool> {
    let mut command = program();
    Ok(kill_after(command.args(args).current_dir(dir), moment)?.is_some())
}

fn typed(place: &Place, name: &'static str, line: &str, start: &Tree) -> Outcome<Typed> {
    let args: Vec<_> = line.split_whitespace().map(str::to_owned).collect();
    let dir = place.path("disk");
    write_tree(&dir, start)?;
    let started = Instant::now();
    run(&dir, &args, None)?;
    let (lasts, wanted) = (started.elapsed(), read_tree(&dir)?);
    let (look, repeats, start) = (committed as fn(&Path, &Tree) -> _, false, start.clone());
    Ok(Typed { name, args, look, repeats, start, wanted, lasts })
}

fn kill(place: &Place, typed: &Typed, n_kills: usize, rng: &mut Rng) -> Outcome {
    let dir = &place.path("disk");
    let (mut kills, mut done, mut hidden) = (0, 0, 0);
    let before = {
        write_tree(dir, &typed.start)?;
        (typed.look)(dir, &typed.start)?
    };
    let all = named(&typed.wanted);
    while kills < n_kills {
        let what = format!("{} killed {kills} times", typed.name);
        write_tree(dir, &typed.start)?;
        let moment = typed.lasts.mul_f64(rng.below(1000) as f64 / 1000.0);
        let ended = run(dir, &typed.args, Some(moment))?;
        let after = read_tree(dir)?;
        let found = (typed.look)(dir, &after).map_err(|e| format!("{what}: {e}"))?;
        assert!(found == all || (!ended && found == before), "{what}: {:?}", after.keys());
        (kills, done) = (kills + usize::from(!ended), done + usize::from(ended));
        hidden += usize::from(after.keys().any(|name| name.starts_with('.')));
        if found == before || typed.repeats {
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

/// `repair` of an archive of which a hundredth is burnt, from a parity file that knows twice as much.
fn repair(place: &Place, whole: &Tree) -> Outcome<Typed> {
    let (mut burnt, mut rng) = (whole.clone(), Rng::new(96));
    let archive = burnt.get_mut(ARCHIVE).ok_or("no archive")?;
    let (at, n) = (archive.len() / 3, archive.len() / 100);
    archive[at..at + n].copy_from_slice(&rng.bytes(n));
    let typed = typed(place, "repair", &format!("repair {ARCHIVE}"), &burnt)?;
    assert!(typed.wanted == *whole && burnt != *whole);
    // A damaged archive commits nothing that passes: its very bytes have to be there.
    Ok(Typed { look: |_, tree| Ok(named(tree)), repeats: true, ..typed })
}

/// The lines that make an archive, without and with a parity file.
fn compress_line(parity: &str) -> String {
    let more = "--shards ../fine-tune --base ../base --method delta-dct --threads 2 -q --name one";
    format!("compress {more} {parity} -o {ARCHIVE}")
}

#[test]
fn repair_killed_at_random_moments() -> Outcome {
    let place = Place::empty()?;
    let shape = PairShape::small().with_sizes(256, 688, 1024, 2);
    delta_stream::make_pair(&place.path(""), &shape, 2)?;
    let line = compress_line("--parity 2%");
    let whole = typed(&place, "compress", &line, &Tree::new())?.wanted;
    kill(&place, &repair(&place, &whole)?, REPAIRS, &mut Rng::new(97))
}

#[test]
#[ignore = "takes minutes"]
fn every_verb_killed_at_random_moments() -> Outcome {
    let place = Place::empty()?;
    let shape = PairShape::small().with_sizes(256, 688, 1024, 2);
    delta_stream::make_pair(&place.path(""), &shape, 2)?;
    let (dir, none) = (place.path("disk"), Tree::new());
    write_tree(&dir, &none)?;
    let compress = typed(&place, "compress", &compress_line(""), &none)?;
    let more = "--shards ../fine-tune --base ../base --method delta-dct --threads 2 -q --name two";
    let append = format!("append {more} --archive {ARCHIVE}");
    let append = typed(&place, "append", &append, &compress.wanted)?;
    let remove = format!("remove {ARCHIVE} --name one");
    let remove = typed(&place, "remove", &remove, &append.wanted)?;
    let compact = typed(&place, "compact", &format!("compact {ARCHIVE}"), &remove.wanted)?;
    let restore = format!("restore {ARCHIVE} --base ../base -o out -q");
    let restore = typed(&place, "restore", &restore, &compress.wanted)?;
    let whole = typed(&place, "compress", &compress_line("--parity 2%"), &none)?.wanted;
    let repair = repair(&place, &whole)?;
    let (mut rng, all) = (Rng::new(94), [compress, append, remove, compact, restore, repair]);
    for typed in &all {
        kill(&place, typed, KILLS, &mut rng)?;
    }
    println!("{} kills, no losses", all.len() * KILLS);
    Ok(())
}
