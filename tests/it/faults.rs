//! Every change that a verb makes to a disk is made to fail once, in each way that a disk fails: the verb
//! then ends in an error and leaves what was there, and succeeds when it is run again.

use std::collections::BTreeMap;

use delta_stream::ErrorKind;
use delta_stream::faults::{self, Change, Fault};

use crate::cases::{Case, Lab, committed, named, read_tree, write_tree};
use crate::made::{Outcome, alone};

/// The system's numbers of "input/output error", "invalid argument", "no space left", "read-only file
/// system" and "quota exceeded" on Linux.
const EIO: i32 = 5;
const EINVAL: i32 = 22;
const ENOSPC: i32 = 28;
const EROFS: i32 = 30;
const EDQUOT: i32 = 122;

/// Faults tried, by kind.
type Counts = BTreeMap<String, usize>;

/// What a change is called in the counts.
fn kind(change: &Change) -> &'static str {
    match change {
        Change::File { .. } | Change::Dir { .. } | Change::Unnamed => "create",
        Change::Write { .. } => "write",
        Change::SetLen { .. } | Change::SetPermissions => "set length or permissions",
        Change::Sync { .. } => "sync",
        Change::Rename { .. } | Change::Exchange { .. } => "rename",
        Change::Removed { .. } => "remove",
    }
}

/// The ways in which change number `at` can fail, with what to call them.
pub(crate) fn ways(at: usize, change: &Change) -> Vec<(String, Fault)> {
    let kind = kind(change);
    let refused = Fault { at, errno: EIO, torn: 0, lasts: false };
    let mut out = Vec::new();
    for (errno, name) in [(EIO, "EIO"), (ENOSPC, "ENOSPC"), (EROFS, "EROFS"), (EDQUOT, "EDQUOT")] {
        out.push((format!("{kind} fails, {name}"), Fault { errno, ..refused }));
    }
    if let Change::Write { bytes, .. } = change {
        let n = bytes.len();
        // The last one: all of it is written, and the system says no.
        let mut torn = vec![1, 64, 512, n / 4, n / 2, 3 * n / 4, n.saturating_sub(1), n];
        torn.retain(|torn| (1..=n).contains(torn));
        torn.sort_unstable();
        torn.dedup();
        for torn in torn {
            for errno in [EIO, ENOSPC] {
                out.push(("torn write".to_owned(), Fault { torn, errno, ..refused }));
            }
        }
    }
    out.push((format!("{kind} and all after it fail"), Fault { lasts: true, ..refused }));
    out
}

/// Runs a case with faults, looks at what is left, and runs it again without.
fn try_faults(lab: &Lab, case: &Case, change: &Change, faults: &[Fault]) -> Outcome {
    let dir = &lab.disk;
    let what = format!("{}: {faults:?} at {change:?}", case.name);
    write_tree(dir, &case.start)?;
    let before = committed(dir, &case.start)?;
    faults::start(faults);
    let ended = (case.run)(dir);
    let heard = faults::stop();
    let error = ended.err().ok_or_else(|| format!("{what}: no error"))?;
    assert_eq!(error.kind(), ErrorKind::Io, "{what}: {error}");
    assert!(heard.faults >= faults.len(), "{what}: never came");

    let after = read_tree(dir)?;
    let found = committed(dir, &after).map_err(|e| format!("{what}: {e}"))?;
    let wanted = named(&case.wanted);
    assert!(found == before || found == wanted, "{what}: {:?}; {error}", after.keys());
    // Only what could not be removed is left, and the error says where; or what a run that resumes needs.
    let removes = faults.iter().any(|f| f.lasts) || matches!(change, Change::Removed { .. });
    let resumes = case.name.ends_with("--resume");
    for name in after.keys().filter(|name| name.starts_with('.') && !resumes) {
        let top = name.split('/').next().unwrap_or_default();
        let is_told = error.to_string().contains(top);
        assert!(removes && is_told, "{what}: {name} is left; {error}");
    }

    let again = (case.run)(dir);
    // What could not be taken back either is whole, and in the way.
    let stays = faults.iter().any(|f| f.lasts) && found == wanted;
    if !stays {
        again.map_err(|e| format!("{what}: again: {e}"))?;
    }
    assert!(named(&read_tree(dir)?) == wanted, "{what}: again");
    Ok(())
}

/// Every fault of a case, after some that it gets over.
fn try_all(lab: &Lab, case: &Case, after: &[Fault], counts: &mut Counts) -> Outcome {
    write_tree(&lab.disk, &case.start)?;
    faults::start(after);
    (case.run)(&lab.disk)?;
    let heard = faults::stop();
    assert!(named(&read_tree(&lab.disk)?) == named(&case.wanted), "{}", case.name);
    assert_eq!(heard.asked, heard.changes.len() + after.len(), "{}", case.name);
    let first = after.last().map_or(0, |fault| fault.at + 1);
    for (at, change) in (first..).zip(&heard.changes[first - after.len()..]) {
        for (name, fault) in ways(at, change) {
            if after.is_empty() || !fault.lasts {
                let faults: Vec<_> = after.iter().copied().chain([fault]).collect();
                try_faults(lab, case, change, &faults)?;
                *counts.entry(name).or_default() += 1;
            }
        }
    }
    println!("{}: {} changes", case.name, heard.asked);
    Ok(())
}

fn say(counts: &Counts) -> usize {
    for (name, n) in counts {
        println!("{n:6} {name}");
    }
    let all = counts.values().sum();
    println!("{all:6} faults, no losses");
    all
}

#[test]
fn every_change_of_an_archive_fails_once() -> Outcome {
    alone("faults::every_change_of_an_archive_fails_once", || {
        let (lab, mut counts) = (Lab::new()?, Counts::new());
        for case in lab.archive_cases()? {
            try_all(&lab, &case, &[], &mut counts)?;
        }
        assert!(say(&counts) > 300);
        Ok(())
    })
}

#[test]
fn every_change_of_parts_and_their_join_fails_once() -> Outcome {
    alone("faults::every_change_of_parts_and_their_join_fails_once", || {
        let (lab, mut counts) = (Lab::new()?, Counts::new());
        for case in lab.part_cases()? {
            try_all(&lab, &case, &[], &mut counts)?;
        }
        assert!(say(&counts) > 100);
        Ok(())
    })
}

#[test]
fn every_change_of_a_restore_fails_once() -> Outcome {
    alone("faults::every_change_of_a_restore_fails_once", || {
        let (lab, mut counts) = (Lab::new()?, Counts::new());
        for case in lab.restore_cases()? {
            try_all(&lab, &case, &[], &mut counts)?;
        }
        assert!(say(&counts) > 300);
        Ok(())
    })
}

#[test]
fn every_change_of_an_export_fails_once() -> Outcome {
    alone("faults::every_change_of_an_export_fails_once", || {
        let (lab, mut counts) = (Lab::new()?, Counts::new());
        for case in lab.export_cases()? {
            try_all(&lab, &case, &[], &mut counts)?;
        }
        assert!(say(&counts) > 300);
        Ok(())
    })
}

/// More than the writers' buffer, so that there are writes in the middle of a run.
#[test]
fn every_change_of_a_larger_run_fails_once() -> Outcome {
    alone("faults::every_change_of_a_larger_run_fails_once", || {
        let (lab, mut counts) = (Lab::with_side_file((1 << 20) + 9)?, Counts::new());
        let cases = lab.archive_cases()?.into_iter().chain(lab.restore_cases()?);
        for case in cases.filter(|case| ["append", "compact", "restore"].contains(&case.name)) {
            try_all(&lab, &case, &[], &mut counts)?;
        }
        assert!(say(&counts) > 300);
        Ok(())
    })
}

/// On a file system where two directories cannot change names at once, the old one is moved aside first.
#[test]
fn a_checkpoint_is_replaced_in_two_renames() -> Outcome {
    alone("faults::a_checkpoint_is_replaced_in_two_renames", || {
        let (lab, mut counts) = (Lab::new()?, Counts::new());
        let cases = lab.restore_cases()?;
        let case = cases.iter().find(|c| c.name == "restore --force").ok_or("no such case")?;
        write_tree(&lab.disk, &case.start)?;
        faults::start(&[]);
        (case.run)(&lab.disk)?;
        let changes = faults::stop().changes;
        let is_exchange = |c: &Change| matches!(c, Change::Exchange { .. });
        let at = changes.iter().position(is_exchange).ok_or("nothing is exchanged")?;
        let cannot = Fault { at, errno: EINVAL, torn: 0, lasts: false };
        try_all(&lab, case, &[cannot], &mut counts)?;
        assert!(say(&counts) > 20);
        Ok(())
    })
}
