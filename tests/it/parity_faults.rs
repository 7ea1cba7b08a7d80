//! Every change that a verb makes to an archive and its parity file is refused or torn once, and power is lost
//! at every moment: the archive is then whole, and the parity file is absent, the old one or the new one, but
//! never one that would do harm.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::Path;

use delta_stream::faults::{self, Fault};
use delta_stream::{
    CompressOptions, ErrorKind, Method, Parity, ParityState, RepairOptions, Resources, Silent,
    UpkeepOptions, VerifyOptions,
};

use crate::cases::{ARCHIVE, Case, Lab, Run, Tree, named, read_tree, write_tree};
use crate::faults::ways;
use crate::made::{Outcome, Rng, alone};
use crate::power_loss::{Disk, is_new, recorded, survivors};

const PARITY: &str = "a.delta.zst.parity";
/// Subsets drawn at random at each moment.
const DRAWS: usize = 40;

fn two() -> Outcome<Parity> {
    Ok(Parity::percent(2.0)?)
}

/// The verbs that change an archive with parity.
fn cases(lab: &Lab) -> Outcome<Vec<Case>> {
    let parity = two()?;
    let write = |name: &'static str, force: bool, parity: Option<Parity>| -> Run {
        let (ft, base) = (lab.place.ft.clone(), lab.place.base.clone());
        let options = CompressOptions::new(Method::Lossless)
            .with_name(name)
            .with_force(force)
            .with_parity(parity)
            .with_resources(Resources::default().with_threads(1));
        Box::new(move |dir| {
            let archive = dir.join(ARCHIVE);
            let is_new = force || !archive.exists();
            let run = if is_new { delta_stream::compress } else { delta_stream::append };
            run(&ft, &base, &archive, &options, &Silent).map(drop)
        })
    };
    let compact = |parity: Option<Parity>| -> Run {
        let options = UpkeepOptions::default().with_parity(parity);
        Box::new(move |dir| {
            delta_stream::compact_with(&dir.join(ARCHIVE), &options, &Silent).map(drop)
        })
    };
    let remove =
        || -> Run { Box::new(|dir| delta_stream::remove(&dir.join(ARCHIVE), "one").map(drop)) };
    let repair = || -> Run {
        Box::new(|dir| {
            delta_stream::repair(&dir.join(ARCHIVE), &RepairOptions::default(), &Silent).map(drop)
        })
    };
    let none = Tree::new();
    let one = lab.after(&none, &[&write("one", false, Some(parity))])?;
    let two = lab.after(&one, &[&write("two", false, None)])?;
    let rid = lab.after(&two, &[&remove()])?;
    let mut bare = one.clone();
    bare.remove(PARITY);
    let mut burnt = two.clone();
    burnt.entry(ARCHIVE.to_owned()).and_modify(|bytes| bytes[700..900].fill(0));
    let cases: [(&'static str, &Tree, Run); 8] = [
        ("compress", &none, write("one", true, Some(parity))),
        ("compress --force", &two, write("three", true, Some(parity))),
        ("compress --force, without parity", &two, write("three", true, None)),
        ("append", &one, write("two", false, None)),
        ("remove", &two, remove()),
        ("compact", &rid, compact(None)),
        ("compact --parity", &bare, compact(Some(parity))),
        ("repair", &burnt, repair()),
    ];
    let case = |(name, start, run): (&'static str, &Tree, Run)| -> Outcome<Case> {
        let wanted = lab.after(start, &[&run])?;
        Ok(Case { name, start: start.clone(), run, wanted })
    };
    cases.into_iter().map(case).collect()
}

/// Whether a tree is one that the case may leave; says if the archive is the new one.
fn judge(case: &Case, dir: &Path, tree: &Tree, what: &str) -> Outcome<bool> {
    let archive = tree.get(ARCHIVE);
    let is_damaged = case.name == "repair";
    let of = |tree: &Tree| tree.get(ARCHIVE).cloned();
    let committed = match archive {
        Some(bytes) if !is_damaged => {
            let len = delta_stream::inspect(&dir.join(ARCHIVE), None, false);
            let len = len.map_err(|e| format!("{what}: {e}"))?.archive_bytes;
            Some(bytes[..len as usize].to_vec())
        }
        other => other.cloned(),
    };
    let (before, after) = (of(&case.start), of(&case.wanted));
    assert!(committed == before || committed == after, "{what}: another archive");
    let is_new = committed == after;
    if let Some(parity) = tree.get(PARITY) {
        let is_old_one = Some(parity) == case.start.get(PARITY);
        let is_new_one = Some(parity) == case.wanted.get(PARITY);
        assert!(is_old_one || is_new_one, "{what}: another parity file");
        assert!(archive.is_some(), "{what}: a parity file alone");
        let options = VerifyOptions::default();
        let report = delta_stream::verify(&dir.join(ARCHIVE), &options, &Silent);
        let report = report.map_err(|e| format!("{what}: {e}"))?;
        let seen = report.parity.ok_or("it is there")?;
        let stands = [ParityState::Current, ParityState::Behind].contains(&seen.state);
        assert!(stands && seen.damaged_blocks == 0, "{what}: {seen:?}");
        assert!(seen.mendable != Some(false) || report.tail_bytes > 0, "{what}: {seen:?}");
    }
    Ok(is_new)
}

/// Runs the case again, or only makes the parity that is missing, and wants what is left without a fault.
fn again(case: &Case, dir: &Path, is_new: bool, what: &str) -> Outcome {
    if is_new && case.name != "repair" {
        if case.wanted.contains_key(PARITY) {
            let resources = Resources::default();
            delta_stream::make_parity(&dir.join(ARCHIVE), two()?, &resources, &Silent)
                .map_err(|e| format!("{what}: parity: {e}"))?;
        }
    } else if case.name == "compact" && !dir.join(PARITY).exists() {
        // It was taken away before the archive was to be replaced; nothing says how much it was.
        let options = UpkeepOptions::default().with_parity(Some(two()?));
        delta_stream::compact_with(&dir.join(ARCHIVE), &options, &Silent)
            .map_err(|e| format!("{what}: again: {e}"))?;
    } else {
        (case.run)(dir).map_err(|e| format!("{what}: again: {e}"))?;
    }
    let left = named(&read_tree(dir)?);
    assert!(left == named(&case.wanted), "{what}: again: {:?}", left.keys());
    Ok(())
}

#[test]
fn every_change_with_parity_fails_once() -> Outcome {
    alone("parity_faults::every_change_with_parity_fails_once", || {
        let (lab, mut counts) = (Lab::new()?, BTreeMap::<String, usize>::new());
        let dir = &lab.disk;
        for case in cases(&lab)? {
            write_tree(dir, &case.start)?;
            faults::start(&[]);
            (case.run)(dir)?;
            let heard = faults::stop();
            println!("{}: {} changes", case.name, heard.asked);
            for (at, change) in heard.changes.iter().enumerate() {
                for (name, fault) in ways(at, change) {
                    try_fault(dir, &case, fault)?;
                    *counts.entry(name).or_default() += 1;
                }
            }
        }
        counts.iter().for_each(|(name, n)| println!("{n:6} {name}"));
        let all: usize = counts.values().sum();
        println!("{all:6} faults, no losses");
        assert!(all > 700);
        Ok(())
    })
}

fn try_fault(dir: &Path, case: &Case, fault: Fault) -> Outcome {
    let what = format!("{}: {fault:?}", case.name);
    write_tree(dir, &case.start)?;
    faults::start(&[fault]);
    let ended = (case.run)(dir);
    faults::stop();
    let error = ended.err().ok_or_else(|| format!("{what}: no error"))?;
    assert_eq!(error.kind(), ErrorKind::Io, "{what}: {error}");
    let tree = read_tree(dir)?;
    assert!(tree.keys().all(|name| !name.starts_with('.')), "{what}: {:?}", tree.keys());
    let is_new = judge(case, dir, &tree, &what)?;
    again(case, dir, is_new, &what)
}

#[test]
fn power_fails_while_parity_is_written() -> Outcome {
    alone("parity_faults::power_fails_while_parity_is_written", || {
        let (lab, mut rng) = (Lab::new()?, Rng::new(95));
        let (mut states, mut different) = (0, 0);
        let dir = &lab.disk;
        for case in cases(&lab)? {
            write_tree(dir, &case.start)?;
            let mut before = Disk::read(dir)?;
            faults::start(&[]);
            (case.run)(dir)?;
            let events = recorded(&lab, &mut before, &faults::stop().changes)?;
            let mut seen = HashSet::new();
            for n in 0..=events.len() {
                for disk in survivors(&before, &events, n, DRAWS, &mut rng) {
                    states += 1;
                    let tree = disk.tree();
                    if !is_new(&mut seen, &tree) {
                        continue;
                    }
                    write_tree(dir, &tree)?;
                    let what = format!("{} after {n} events", case.name);
                    let is_new = judge(&case, dir, &tree, &what)?;
                    assert!(n < events.len() || is_new, "{what}: what was done is lost");
                    again(&case, dir, is_new, &what)?;
                }
            }
            different += seen.len();
            println!("{}: {} events, {} different disks", case.name, events.len(), seen.len());
        }
        println!("{states} disks, {different} differ, no losses");
        assert!(different > 500);
        fs::remove_dir_all(dir)?;
        Ok(())
    })
}
