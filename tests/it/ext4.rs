//! A real file system that loses power, or that takes what it cannot keep: ext4 on a file, in a mount
//! namespace of its own. Where the machine cannot mount that, these tests say so and pass.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use delta_stream::ErrorKind;
use delta_stream::faults::{self, Fault};

use crate::cases::{Case, Lab, Tree, committed, named, read_tree, write_tree};
use crate::made::Outcome;
use crate::small_disk::{fill_but, mount, with_mounts};

/// Bytes of the file that holds the file system; most of it are holes.
const VOLUME: u64 = 8 << 20;

/// Runs a system tool; says why where it fails.
fn tool(name: &str, args: &[&str], path: &Path) -> Outcome {
    let output = Command::new(name).args(args).arg(path).output()?;
    let text = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(format!("{name}: {text}").into()) }
}

/// A file that holds a file system, and where it is mounted.
struct Volume {
    file: PathBuf,
    at: PathBuf,
}

impl Volume {
    /// Makes the file system.
    fn new(file: PathBuf, at: PathBuf) -> Outcome<Self> {
        fs::File::create(&file)?.set_len(VOLUME)?;
        // With its tables and its journal written, so that later only new data wants new room.
        let whole = "lazy_itable_init=0,lazy_journal_init=0,nodiscard";
        tool("mke2fs", &["-q", "-F", "-t", "ext4", "-E", whole], &file)?;
        fs::create_dir_all(&at)?;
        Ok(Self { file, at })
    }

    fn mount(&self) -> Outcome {
        let args = ["-o", "loop,errors=continue"];
        let output = Command::new("mount").args(args).args([&self.file, &self.at]).output()?;
        let text = String::from_utf8_lossy(&output.stderr);
        if output.status.success() { Ok(()) } else { Err(format!("mount: {text}").into()) }
    }

    fn unmount(&self) -> Outcome {
        tool("umount", &[], &self.at)
    }

    /// The directory that verbs change.
    fn disk(&self) -> PathBuf {
        self.at.join("disk")
    }

    /// What the file holds now, in a file of its own: no byte that is not on the disk yet.
    fn copy(&self, to: &Path) -> Outcome<Self> {
        let file = to.with_extension("img");
        // Holes stay holes.
        tool("cp", &[&self.file.to_string_lossy()], &file)?;
        fs::create_dir_all(to)?;
        Ok(Self { file, at: to.to_owned() })
    }
}

/// The verbs, and whether such a file system can be mounted at all.
fn lab() -> Outcome<Option<(Lab, Vec<Case>)>> {
    let lab = Lab::new()?;
    let probe = Volume::new(lab.place.path("probe.img"), lab.place.path("probe"));
    let mounted = probe.and_then(|volume| volume.mount().and_then(|()| volume.unmount()));
    if let Err(e) = mounted {
        println!("skipped: no ext4 can be mounted here: {e}");
        return Ok(None);
    }
    let mut cases = lab.archive_cases()?;
    cases.extend(lab.restore_cases()?);
    Ok(Some((lab, cases)))
}

/// Looks at a volume that came back after a failure, and runs the verb there. Files must be those of
/// `before`, unless `is_done`, or what was wanted.
fn look(volume: &Volume, case: &Case, before: &Tree, is_done: bool, what: &str) -> Outcome {
    volume.mount()?;
    let dir = &volume.disk();
    let tree = read_tree(dir)?;
    let found = committed(dir, &tree).map_err(|e| format!("{what}: {e}"))?;
    let wanted = named(&case.wanted);
    let is_old = !is_done && found == *before;
    assert!(is_old || found == wanted, "{what}: {:?}", tree.keys());
    if is_old {
        (case.run)(dir).map_err(|e| format!("{what}: again: {e}"))?;
        assert!(named(&read_tree(dir)?) == wanted, "{what}: again");
    }
    volume.unmount()
}

#[test]
fn power_fails_on_ext4() -> Outcome {
    with_mounts("ext4::power_fails_on_ext4", || {
        let Some((lab, cases)) = lab()? else { return Ok(()) };
        let volume = Volume::new(lab.place.path("a.img"), lab.place.path("a"))?;
        volume.mount()?;
        let (dir, mut losses) = (&volume.disk(), 0);
        for case in &cases {
            for at in 0.. {
                write_tree(dir, &case.start)?;
                let before = committed(dir, &case.start)?;
                tool("sync", &["-f"], dir)?;
                // From this change on nothing reaches the file system any more.
                faults::start(&[Fault { at, errno: 5, torn: 0, lasts: true }]);
                let is_done = (case.run)(dir).is_ok();
                let heard = faults::stop();
                let what = format!("{} up to change {at}", case.name);
                let copy = volume.copy(&lab.place.path("b"))?;
                look(&copy, case, &before, is_done, &what)?;
                losses += 1;
                if heard.faults == 0 {
                    break;
                }
            }
        }
        volume.unmount()?;
        println!("{losses} losses of power on ext4, no losses");
        assert!(losses > 100);
        Ok(())
    })
}

/// The file system has room and the disk below it has not, as with thin provisioning: writes succeed, and
/// the sync ends in an error of the device.
#[test]
fn a_sync_really_fails() -> Outcome {
    with_mounts("ext4::a_sync_really_fails", || {
        let Some((lab, cases)) = lab()? else { return Ok(()) };
        let thin = lab.place.path("thin");
        fs::create_dir(&thin)?;
        mount(&format!("size={}", 2 * VOLUME), &thin)?;
        let (mut failed, mut syncs) = (0, 0);
        for case in &cases {
            let fresh = Volume::new(lab.place.path("fresh.img"), lab.place.path("fresh"))?;
            fresh.mount()?;
            write_tree(&fresh.disk(), &case.start)?;
            let before = committed(&fresh.disk(), &case.start)?;
            fresh.unmount()?;
            for pages in (0..).map(|i| i * i) {
                let volume = fresh.copy(&thin.join("a"))?;
                fill_but(&thin.join("filler"), pages)?;
                volume.mount()?;
                let ended = (case.run)(&volume.disk());
                // Whatever is still on its way is lost or not, as it happens.
                let _ = volume.unmount();
                fs::remove_file(thin.join("filler"))?;
                let what = format!("{} with {pages} pages below", case.name);
                let copy = volume.copy(&lab.place.path("b"))?;
                look(&copy, case, &before, ended.is_ok(), &what)?;
                let Err(e) = ended else { break };
                assert_eq!(e.kind(), ErrorKind::Io, "{what}: {e}");
                (failed, syncs) = (failed + 1, syncs + usize::from(e.to_string().contains("sync")));
            }
        }
        println!("{failed} runs in which a device failed, {syncs} in a sync, no losses");
        assert!(failed > 20 && syncs > 10);
        Ok(())
    })
}
