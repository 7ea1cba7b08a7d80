//! Power fails at any moment: of what a run wrote since the last sync, any part may be on disk and any
//! other part lost, in whatever order the system liked. The changes of a run are recorded, the disks that
//! a loss of power can leave are built from them, and each must hold the last generation or the new one,
//! whole, and take the next run.
//!
//! As in ALICE (Pillai et al., All File Systems Are Not Created Equal, OSDI 2014) and CrashMonkey (Mohan
//! et al., Finding Crash-Consistency Bugs with Bounded Black-Box Crash Testing, OSDI 2018), with the
//! least that POSIX promises: a file's bytes and length are safe once the file was synced, a name once its
//! directory was. A rename is one change; a write falls into sectors.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::hash::{Hash, Hasher};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use delta_stream::faults::{self, Change, Fault};

use crate::cases::{ARCHIVE, Case, Lab, Run, Tree, committed, named, read_tree, write_tree};
use crate::made::{Outcome, Rng, alone};

/// Bytes that reach a disk together or not at all.
const SECTOR: u64 = 512;
/// Subsets drawn at random at each moment of a run on an archive, and of a restore or a run after one that failed.
const DRAWS: [usize; 2] = [200, 60];

/// A part of a change that is on disk or not, whatever becomes of the others.
#[derive(Debug, Clone)]
pub(crate) enum Part {
    Bytes {
        file: u64,
        offset: u64,
        bytes: Vec<u8>,
    },
    /// A file gets longer, by zeros.
    Grow {
        file: u64,
        len: u64,
    },
    SetLen {
        file: u64,
        len: u64,
    },
    /// Names, each in a directory, that lead to a file or directory from now on, or nowhere.
    Names(Vec<(u64, String, Option<u64>)>),
}

impl Part {
    /// The file or directories that have to be synced to make it safe.
    fn nodes(&self) -> Vec<u64> {
        match self {
            Part::Bytes { file, .. } | Part::Grow { file, .. } | Part::SetLen { file, .. } => {
                vec![*file]
            }
            Part::Names(names) => names.iter().map(|n| n.0).collect(),
        }
    }

    /// The first `n` bytes of a sector.
    fn torn(&self, n: usize) -> Option<Self> {
        let Part::Bytes { file, offset, bytes } = self else { return None };
        let bytes = bytes[..n.min(bytes.len())].to_vec();
        Some(Part::Bytes { file: *file, offset: *offset, bytes })
    }
}

/// What happened at one moment.
#[derive(Debug)]
pub(crate) enum Event {
    Changed(Vec<Part>),
    Synced(u64),
}

/// Files and directories by inode.
#[derive(Debug, Clone, Default)]
pub(crate) struct Disk {
    root: u64,
    files: HashMap<u64, Vec<u8>>,
    dirs: HashMap<u64, BTreeMap<String, u64>>,
    /// Files that are made later: one of which the name alone is safe is empty.
    made: HashSet<u64>,
}

impl Disk {
    /// What lies in `dir`.
    pub(crate) fn read(dir: &Path) -> Outcome<Self> {
        let mut disk = Disk { root: fs::metadata(dir)?.ino(), ..Disk::default() };
        disk.add(dir)?;
        Ok(disk)
    }

    fn add(&mut self, dir: &Path) -> Outcome<u64> {
        let mut names = BTreeMap::new();
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            let node = if path.is_dir() {
                self.add(&path)?
            } else {
                let node = fs::metadata(&path)?.ino();
                self.files.insert(node, fs::read(&path)?);
                node
            };
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            names.insert(name, node);
        }
        let node = fs::metadata(dir)?.ino();
        self.dirs.insert(node, names);
        Ok(node)
    }

    /// The directory a path below `root` stands in, and its name there.
    fn place(&self, root: &Path, path: &Path) -> Outcome<(u64, String)> {
        let below = path.strip_prefix(root)?;
        let mut parts: Vec<_> = below.iter().map(|p| p.to_string_lossy().into_owned()).collect();
        let name = parts.pop().ok_or("the root itself changes")?;
        let mut at = self.root;
        for part in parts {
            at = *self.dirs[&at].get(&part).ok_or_else(|| format!("{part} is not there"))?;
        }
        Ok((at, name))
    }

    fn make(&mut self, part: &Part) {
        match part {
            Part::Bytes { file, offset, bytes } => {
                let (at, data) = (*offset as usize, self.files.entry(*file).or_default());
                data.resize(data.len().max(at + bytes.len()), 0);
                data[at..at + bytes.len()].copy_from_slice(bytes);
            }
            Part::Grow { file, len } => {
                let data = self.files.entry(*file).or_default();
                data.resize(data.len().max(*len as usize), 0);
            }
            Part::SetLen { file, len } => {
                self.files.entry(*file).or_default().resize(*len as usize, 0);
            }
            Part::Names(names) => {
                for (dir, name, node) in names {
                    let dir = self.dirs.entry(*dir).or_default();
                    match node {
                        Some(node) => dir.insert(name.clone(), *node),
                        None => dir.remove(name),
                    };
                }
            }
        }
    }

    pub(crate) fn tree(&self) -> Tree {
        let mut tree = Tree::new();
        self.add_tree(self.root, "", &mut tree);
        tree
    }

    fn add_tree(&self, dir: u64, prefix: &str, tree: &mut Tree) {
        for (name, node) in self.dirs.get(&dir).into_iter().flatten() {
            match self.files.get(node) {
                Some(bytes) => drop(tree.insert(format!("{prefix}{name}"), bytes.clone())),
                None if self.made.contains(node) => {
                    tree.insert(format!("{prefix}{name}"), Vec::new());
                }
                None => {
                    let prefix = format!("{prefix}{name}/");
                    self.add_tree(*node, &prefix, tree);
                    tree.insert(prefix, Vec::new());
                }
            }
        }
    }
}

/// The changes of a run as they befall inodes. `disk` is what was there before, and what is after.
fn events(root: &Path, disk: &mut Disk, changes: &[Change]) -> Outcome<Vec<Event>> {
    let mut events = Vec::new();
    for change in changes {
        let parts = match change {
            Change::Sync { node } => {
                events.push(Event::Synced(*node));
                continue;
            }
            Change::Unnamed | Change::SetPermissions => continue,
            Change::File { path, node } => {
                disk.files.insert(*node, Vec::new());
                vec![name(disk.place(root, path)?, Some(*node))]
            }
            Change::Dir { path, node } => {
                disk.dirs.insert(*node, BTreeMap::new());
                vec![name(disk.place(root, path)?, Some(*node))]
            }
            Change::Write { file, offset, bytes } => {
                let Some(data) = disk.files.get(file) else { continue };
                sectors(data.len() as u64, *file, *offset, bytes)
            }
            Change::SetLen { file, .. } if !disk.files.contains_key(file) => continue,
            Change::SetLen { file, len } => vec![Part::SetLen { file: *file, len: *len }],
            Change::Removed { path } => vec![name(disk.place(root, path)?, None)],
            Change::Rename { from, to } => {
                let (from, to) = (disk.place(root, from)?, disk.place(root, to)?);
                let node = disk.dirs[&from.0].get(&from.1).copied();
                assert!(node.is_some(), "{from:?} is renamed and is not there");
                vec![Part::Names(vec![(from.0, from.1, None), (to.0, to.1, node)])]
            }
            Change::Exchange { a, b } => {
                let (a, b) = (disk.place(root, a)?, disk.place(root, b)?);
                let node = |place: &(u64, String)| disk.dirs[&place.0].get(&place.1).copied();
                let nodes = (node(&a), node(&b));
                assert!(nodes.0.is_some() && nodes.1.is_some(), "{a:?} or {b:?} is not there");
                vec![Part::Names(vec![(a.0, a.1, nodes.1), (b.0, b.1, nodes.0)])]
            }
        };
        parts.iter().for_each(|part| disk.make(part));
        events.push(Event::Changed(parts));
    }
    Ok(events)
}

fn name((dir, name): (u64, String), node: Option<u64>) -> Part {
    Part::Names(vec![(dir, name, node)])
}

/// A write to a file of `len` bytes in parts that are safe one by one.
fn sectors(len: u64, file: u64, mut offset: u64, mut bytes: &[u8]) -> Vec<Part> {
    let end = offset + bytes.len() as u64;
    let mut parts = Vec::new();
    if end > len {
        parts.push(Part::Grow { file, len: end });
    }
    while !bytes.is_empty() {
        let n = (SECTOR - offset % SECTOR).min(bytes.len() as u64) as usize;
        parts.push(Part::Bytes { file, offset, bytes: bytes[..n].to_vec() });
        (offset, bytes) = (offset + n as u64, &bytes[n..]);
    }
    parts
}

/// Disks that a loss of power after the first `n` events can leave: all in which one part is lost, safe
/// alone, the last or torn, and `draws` others.
pub(crate) fn survivors(
    before: &Disk,
    events: &[Event],
    n: usize,
    draws: usize,
    rng: &mut Rng,
) -> Vec<Disk> {
    // When each node was synced last.
    let mut synced = HashMap::new();
    for (i, event) in events[..n].iter().enumerate() {
        if let Event::Synced(node) = event {
            synced.insert(*node, i);
        }
    }
    let mut parts = Vec::new();
    let mut pending = Vec::new();
    for (i, event) in events[..n].iter().enumerate() {
        let Event::Changed(changed) = event else { continue };
        for part in changed {
            if !part.nodes().iter().all(|node| synced.get(node).is_some_and(|at| *at > i)) {
                pending.push(parts.len());
            }
            parts.push(part.clone());
        }
    }
    let build = |lost: &dyn Fn(usize) -> bool, torn: Option<(usize, usize)>| {
        let mut disk = before.clone();
        let mut kept: Vec<_> = parts.iter().map(Some).collect();
        let torn = torn.and_then(|(k, n)| Some((pending[k], parts[pending[k]].torn(n)?)));
        pending.iter().enumerate().filter(|(k, _)| lost(*k)).for_each(|(_, at)| kept[*at] = None);
        if let Some((at, part)) = &torn {
            kept[*at] = Some(part);
        }
        kept.into_iter().flatten().for_each(|part| disk.make(part));
        disk
    };
    let all = pending.len();
    let mut disks = vec![build(&|_| false, None)];
    for k in 0..all {
        // One lost, one alone safe, and all before one; one torn, with the others and alone.
        disks.push(build(&|i| i == k, None));
        disks.push(build(&|i| i != k, None));
        disks.push(build(&|i| i >= k, None));
        let n = 1 + rng.below(SECTOR as usize - 1);
        disks.push(build(&|i| i == k, Some((k, n))));
        disks.push(build(&|i| i >= k, Some((k, n))));
    }
    for _ in 0..if all > 1 { draws } else { 0 } {
        let lost: Vec<bool> = (0..all).map(|_| rng.below(2) == 0).collect();
        disks.push(build(&|i| lost[i], None));
    }
    disks
}

/// A state that may be found, and what the next run makes of it.
struct Good {
    named: Tree,
    then: Tree,
}

/// Checks disks that a loss of power left.
struct Judge<'a> {
    lab: &'a Lab,
    /// Run next, if what it needs is there.
    next: &'a Run,
    /// Run next where there is no archive.
    first: &'a Run,
    seen: HashSet<u64>,
    states: usize,
}

/// Whether this was not seen before; it is from now on.
pub(crate) fn is_new(seen: &mut HashSet<u64>, what: &impl Hash) -> bool {
    let mut hash = DefaultHasher::new();
    what.hash(&mut hash);
    seen.insert(hash.finish())
}

impl Judge<'_> {
    fn run_next(&self) -> delta_stream::Result<()> {
        let dir = &self.lab.disk;
        if dir.join(ARCHIVE).exists() { (self.next)(dir) } else { (self.first)(dir) }
    }

    /// A state that is good, and what comes next.
    fn good(&self, tree: &Tree) -> Outcome<Good> {
        write_tree(&self.lab.disk, tree)?;
        let named = committed(&self.lab.disk, tree)?;
        self.run_next()?;
        Ok(Good { named, then: crate::cases::named(&read_tree(&self.lab.disk)?) })
    }

    /// Holds a disk against what may be found.
    fn check(&mut self, disk: &Disk, good: &[Good], what: &str) -> Outcome {
        self.states += 1;
        let tree = disk.tree();
        if !is_new(&mut self.seen, &(&tree, good.len())) {
            return Ok(());
        }
        let dir = &self.lab.disk;
        write_tree(dir, &tree)?;
        let found = committed(dir, &tree).map_err(|e| format!("{what}: {e}"))?;
        let Some(good) = good.iter().find(|good| good.named == found) else {
            let lens: Vec<_> = tree.iter().map(|(name, bytes)| (name, bytes.len())).collect();
            return Err(format!("{what}: neither the old state nor the new: {lens:?}").into());
        };
        self.run_next().map_err(|e| format!("{what}: the next run: {e}"))?;
        let then = named(&read_tree(dir)?);
        assert!(then == good.then, "{what}: the next run made something else");
        Ok(())
    }
}

/// A run's record as events; checks that it tells all that the run did. `before` hears of the files it made.
pub(crate) fn recorded(lab: &Lab, before: &mut Disk, changes: &[Change]) -> Outcome<Vec<Event>> {
    before.made = changes
        .iter()
        .filter_map(|change| match change {
            Change::File { node, .. } => Some(*node),
            _ => None,
        })
        .collect();
    let mut after = before.clone();
    let events = events(&lab.disk, &mut after, changes)?;
    assert!(after.tree() == read_tree(&lab.disk)?, "a change went past the injector");
    Ok(events)
}

/// Counts of disks, and of different ones.
#[derive(Debug, Default)]
struct Counts {
    states: usize,
    different: usize,
}

impl Counts {
    fn add(&mut self, what: &str, judge: &Judge<'_>) {
        println!("{what}: {} disks, {} different", judge.states, judge.seen.len());
        self.states += judge.states;
        self.different += judge.seen.len();
    }

    fn say(&self) {
        println!("{} disks, {} different, no losses", self.states, self.different);
    }
}

/// Power fails at every moment of a run.
fn during(judge: &mut Judge<'_>, case: &Case, draws: usize) -> Outcome {
    let dir = &judge.lab.disk;
    write_tree(dir, &case.start)?;
    let mut before = Disk::read(dir)?;
    faults::start(&[]);
    (case.run)(dir)?;
    let heard = faults::stop();
    let events = recorded(judge.lab, &mut before, &heard.changes)?;
    let good = [judge.good(&case.start)?, judge.good(&case.wanted)?];
    let mut rng = Rng::new(92);
    for n in 0..=events.len() {
        // What was reported as done may not be lost.
        let good = if n < events.len() { &good[..] } else { &good[1..] };
        for disk in survivors(&before, &events, n, draws, &mut rng) {
            judge.check(&disk, good, &format!("{} after {n} events", case.name))?;
        }
    }
    Ok(())
}

fn during_all(lab: &Lab, cases: &[Case], draws: usize, next: &Run) -> Outcome<Counts> {
    let first = lab.create("one", false);
    let mut counts = Counts::default();
    for case in cases {
        let mut judge = Judge { lab, next, first: &first, seen: HashSet::new(), states: 0 };
        during(&mut judge, case, draws)?;
        counts.add(case.name, &judge);
    }
    counts.say();
    Ok(counts)
}

#[test]
fn power_fails_while_an_archive_is_written() -> Outcome {
    alone("power_loss::power_fails_while_an_archive_is_written", || {
        let lab = Lab::new()?;
        let counts = during_all(&lab, &lab.archive_cases()?, DRAWS[0], &lab.append("next"))?;
        assert!(counts.different > 1000);
        Ok(())
    })
}

#[test]
fn power_fails_while_parts_are_made_and_joined() -> Outcome {
    alone("power_loss::power_fails_while_parts_are_made_and_joined", || {
        let lab = Lab::new()?;
        let counts = during_all(&lab, &lab.part_cases()?, DRAWS[0], &lab.append("next"))?;
        assert!(counts.different > 20);
        Ok(())
    })
}

/// Whatever a loss of power leaves of a run, one that resumes comes to the same bytes.
#[test]
fn power_fails_and_the_run_goes_on() -> Outcome {
    alone("power_loss::power_fails_and_the_run_goes_on", || {
        let lab = Lab::new()?;
        let (mut counts, mut rng) = (Counts::default(), Rng::new(94));
        for case in lab.archive_cases()?.iter().filter(|c| c.name.ends_with("--resume")) {
            let dir = &lab.disk;
            write_tree(dir, &case.start)?;
            let mut before = Disk::read(dir)?;
            faults::start(&[]);
            (case.run)(dir)?;
            let events = recorded(&lab, &mut before, &faults::stop().changes)?;
            let (wanted, mut seen) = (named(&case.wanted), HashSet::new());
            for n in 0..=events.len() {
                for disk in survivors(&before, &events, n, DRAWS[0], &mut rng) {
                    counts.states += 1;
                    let tree = disk.tree();
                    if !is_new(&mut seen, &tree) {
                        continue;
                    }
                    write_tree(dir, &tree)?;
                    let what = format!("{} after {n} events", case.name);
                    if committed(dir, &tree)? != wanted {
                        (case.run)(dir).map_err(|e| format!("{what}: {e}"))?;
                    }
                    assert!(named(&read_tree(dir)?) == wanted, "{what}");
                }
            }
            counts.different += seen.len();
        }
        counts.say();
        assert!(counts.different > 300);
        Ok(())
    })
}

#[test]
fn power_fails_while_a_checkpoint_is_restored() -> Outcome {
    alone("power_loss::power_fails_while_a_checkpoint_is_restored", || {
        let lab = Lab::new()?;
        let is_deep = |case: &Case| case.wanted.contains_key("a/b/out/config.json");
        let (deep, flat): (Vec<_>, Vec<_>) = lab.restore_cases()?.into_iter().partition(is_deep);
        let counts = during_all(&lab, &flat, DRAWS[1], &lab.restore("out", true, None))?;
        let more = during_all(&lab, &deep, DRAWS[1], &lab.restore("a/b/out", true, None))?;
        assert!(counts.different > 1000 && more.different > 100);
        Ok(())
    })
}

/// An append fails, and power fails during the next one: what the first wrote may still come back.
fn after_failures(lab: &Lab) -> Outcome {
    let (one, two, three) = (lab.create("one", false), lab.append("two"), lab.append("three"));
    let start = lab.after(&Tree::new(), &[&one])?;
    let (next, mut counts, mut rng) = (lab.append("next"), Counts::default(), Rng::new(93));
    let draws = DRAWS[1];
    let mut judge = Judge { lab, next: &next, first: &one, seen: HashSet::new(), states: 0 };
    let after = |run: &Run| lab.after(&start, &[run]);
    let (after_two, after_three) = (after(&two)?, after(&three)?);
    let good = [judge.good(&start)?, judge.good(&after_two)?, judge.good(&after_three)?];
    for at in 0.. {
        write_tree(&lab.disk, &start)?;
        let mut before = Disk::read(&lab.disk)?;
        faults::start(&[Fault { at, errno: 5, torn: 70, lasts: false }]);
        let failed = two(&lab.disk).is_err();
        let mut changes = faults::stop().changes;
        if !failed {
            break;
        }
        let earlier = events(&lab.disk, &mut before.clone(), &changes)?.len();
        faults::start(&[]);
        three(&lab.disk)?;
        changes.extend(faults::stop().changes);
        let events = recorded(lab, &mut before, &changes)?;
        for n in earlier..=events.len() {
            let good = if n < events.len() { &good[..] } else { &good[2..] };
            for disk in survivors(&before, &events, n, draws, &mut rng) {
                let what = format!("change {at} failed, then power after {n} events");
                judge.check(&disk, good, &what)?;
            }
        }
    }
    counts.add("append after one that failed", &judge);
    assert!(counts.different > 500);
    Ok(())
}

#[test]
fn power_fails_after_a_failed_append() -> Outcome {
    alone("power_loss::power_fails_after_a_failed_append", || after_failures(&Lab::new()?))
}
