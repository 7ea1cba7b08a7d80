//! Disks that are really full, read-only or gone: a verb ends in an error and leaves what was there.
//!
//! A full and a read-only disk are mounted in a namespace of their own, which takes root or user
//! namespaces; where the machine has neither, these tests say so and pass.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use delta_stream::{CompressOptions, ErrorKind, Method, Observer, RestoreOptions};

use crate::cases::{ARCHIVE, Case, Lab, committed, named, read_tree, write_tree};
use crate::made::{Outcome, alone, alone_under};

/// Bytes of the small disk, and of the steps in which it fills up.
const DISK: usize = 1 << 20;
const PAGE: usize = 4096;

/// Runs the test of this full name where it can mount. What it mounts goes with its process.
pub(crate) fn with_mounts(test: &str, body: impl FnOnce() -> Outcome) -> Outcome {
    let dir = tempfile::tempdir()?;
    let ways: [&[&str]; 2] = [&["--mount"], &["--user", "--map-root-user", "--mount"]];
    for way in ways {
        let mut probe = Command::new("unshare");
        probe.args(way).args(["mount", "-t", "tmpfs", "none"]).arg(dir.path());
        if probe.output().is_ok_and(|output| output.status.success()) {
            let way: Vec<_> = ["unshare"].iter().chain(way).copied().collect();
            return alone_under(&way, test, body);
        }
    }
    println!("skipped {test}: nothing can be mounted here");
    Ok(())
}

/// Mounts a file system in memory.
pub(crate) fn mount(options: &str, dir: &Path) -> Outcome {
    let args = ["-t", "tmpfs", "-o", options, "none"];
    let done = Command::new("mount").args(args).arg(dir).output()?;
    assert!(done.status.success(), "mount: {}", String::from_utf8_lossy(&done.stderr));
    Ok(())
}

/// The verbs, on a disk of a mebibyte.
fn small_lab() -> Outcome<(Lab, Vec<Case>, PathBuf)> {
    let mut lab = Lab::new()?;
    let mut cases = lab.archive_cases()?;
    cases.extend(lab.restore_cases()?);
    let small = lab.disk.clone();
    write_tree(&small, &Default::default())?;
    mount(&format!("size={DISK}"), &small)?;
    lab.disk = small.join("disk");
    Ok((lab, cases, small))
}

/// Fills a disk with a file of this name but for so many pages.
pub(crate) fn fill_but(filler: &Path, pages: usize) -> Outcome {
    let (mut fill, page) = (File::create(filler)?, [1; PAGE]);
    while std::io::Write::write_all(&mut fill, &page).is_ok() {}
    let full = fill.metadata()?.len() / PAGE as u64;
    fill.set_len(full.saturating_sub(pages as u64) * PAGE as u64)?;
    Ok(())
}

/// A case that may have no more than so many pages. Says whether they were enough.
fn with_pages(lab: &Lab, case: &Case, filler: &Path, pages: usize) -> Outcome<bool> {
    let (dir, what) = (&lab.disk, format!("{} with {pages} pages", case.name));
    write_tree(dir, &case.start)?;
    let before = committed(dir, &case.start)?;
    fill_but(filler, pages)?;
    let ended = (case.run)(dir);
    let after = read_tree(dir)?;
    if ended.is_ok() {
        assert!(named(&after) == named(&case.wanted), "{what}");
        return Ok(true);
    }
    let error = ended.err().ok_or("no error")?;
    assert_eq!(error.kind(), ErrorKind::Io, "{what}: {error}");
    assert!(committed(dir, &after)? == before, "{what}: {:?}", after.keys());
    let is_left = !case.name.ends_with("--resume") && after.keys().any(|n| n.starts_with('.'));
    assert!(!is_left, "{what}: {:?}", after.keys());
    fs::remove_file(filler)?;
    (case.run)(dir).map_err(|e| format!("{what}: with room again: {e}"))?;
    assert!(named(&read_tree(dir)?) == named(&case.wanted), "{what}: with room again");
    Ok(false)
}

#[test]
fn a_disk_fills_up() -> Outcome {
    with_mounts("small_disk::a_disk_fills_up", || {
        let (lab, cases, small) = small_lab()?;
        let mut full = 0;
        for case in &cases {
            let pages = (0..DISK / PAGE).find_map(|pages| {
                let filler = small.join("filler");
                let enough = with_pages(&lab, case, &filler, pages);
                let _ = fs::remove_file(filler);
                enough.map(|enough| enough.then_some(pages)).transpose()
            });
            let pages = pages.ok_or("a mebibyte is not enough")??;
            println!("{}: needs {pages} pages", case.name);
            full += pages;
        }
        println!("{full} runs on a full disk, no losses");
        assert!(full > 20);
        Ok(())
    })
}

#[test]
fn a_disk_is_read_only() -> Outcome {
    with_mounts("small_disk::a_disk_is_read_only", || {
        let (lab, cases, small) = small_lab()?;
        for case in &cases {
            write_tree(&lab.disk, &case.start)?;
            mount("remount,ro", &small)?;
            let error = (case.run)(&lab.disk).err().ok_or("no error")?;
            assert_eq!(error.kind(), ErrorKind::Io, "{}: {error}", case.name);
            assert!(read_tree(&lab.disk)? == case.start, "{}", case.name);
            mount("remount,rw", &small)?;
            (case.run)(&lab.disk)?;
            assert!(named(&read_tree(&lab.disk)?) == named(&case.wanted), "{}", case.name);
        }
        println!("{} runs on a read-only disk, no losses", cases.len());
        Ok(())
    })
}

/// Removes a directory at the first progress it hears of.
struct Remover<'a> {
    dir: &'a Path,
    done: AtomicBool,
}

impl Observer for Remover<'_> {
    fn progress(&self, _: u64, _: u64) {
        if !self.done.swap(true, Ordering::SeqCst) {
            let _ = fs::remove_dir_all(self.dir);
        }
    }

    fn note(&self, _: &str) {}

    fn is_cancelled(&self) -> bool {
        false
    }
}

/// What each verb says when the directory it works in goes away below it.
fn remove_meanwhile(verb: &str) -> Outcome {
    let lab = Lab::new()?;
    let (ft, base, dir) = (&lab.place.ft, &lab.place.base, &lab.disk);
    let (archive, out) = (dir.join(ARCHIVE), dir.join("out"));
    let archive_cases = lab.archive_cases()?;
    let case = |name: &str| archive_cases.iter().find(|case| case.name == name);
    let case = case(verb).or(case("append")).ok_or("no such case")?;
    write_tree(dir, &case.start)?;
    // An archive elsewhere, so that the directory holds the output alone.
    let kept = lab.place.path("kept");
    let remover = &Remover { dir, done: AtomicBool::new(false) };
    let options = CompressOptions::new(Method::Lossless).with_name("gone");
    let ended = match verb {
        "compress" => delta_stream::compress(ft, base, &archive, &options, remover).map(drop),
        "append" => delta_stream::append(ft, base, &archive, &options, remover).map(drop),
        "compact" => delta_stream::compact(&archive, remover).map(drop),
        _ => {
            fs::rename(&archive, &kept)?;
            let options = RestoreOptions::default();
            delta_stream::restore(&kept, base, &out, &options, remover).map(drop)
        }
    };
    assert!(remover.done.load(Ordering::SeqCst), "{verb}: nothing was removed");
    let error = ended.err().ok_or_else(|| format!("{verb}: no error"))?;
    assert_eq!(error.kind(), ErrorKind::Io, "{verb}: {error}");
    assert!(!dir.exists(), "{verb}: {error}");
    // The next run finds nothing in its way.
    write_tree(dir, &case.start)?;
    (case.run)(dir)?;
    assert!(read_tree(dir)? == case.wanted, "{verb}");
    Ok(())
}

#[test]
fn a_directory_goes_away() -> Outcome {
    alone("small_disk::a_directory_goes_away", || {
        ["compress", "append", "compact", "restore"].iter().try_for_each(|v| remove_meanwhile(v))
    })
}
