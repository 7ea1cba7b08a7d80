//! Faults on demand, and a record of every change, for tests of crash safety. Compiled with the feature
//! `fault-injection` alone.
//!
//! One injector for the process: a test that uses it has the process to itself. [`start`] sets it going,
//! [`stop`] says what it heard. Changes are counted from 0 as they are asked for; where several threads
//! write, the count follows whoever came first.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// Which change, from 0.
    pub at: usize,
    /// The system's number of the error it ends in.
    pub errno: i32,
    /// Of a write, so many bytes are made nevertheless.
    pub torn: usize,
    /// All later changes fail too.
    pub lasts: bool,
}

/// A change that was made. Files and directories are known by their inodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A file of this name was created.
    File {
        /// Its name.
        path: PathBuf,
        /// What it is known by.
        node: u64,
    },
    /// A directory of this name was created.
    Dir {
        /// Its name.
        path: PathBuf,
        /// What it is known by.
        node: u64,
    },
    /// A file without a name was created.
    Unnamed,
    /// Bytes were written.
    Write {
        /// The file.
        file: u64,
        /// Where, in bytes.
        offset: u64,
        /// What.
        bytes: Vec<u8>,
    },
    /// A file was cut, or made longer.
    SetLen {
        /// The file.
        file: u64,
        /// Its length now, in bytes.
        len: u64,
    },
    /// Permissions of a file were set.
    SetPermissions,
    /// A file, or the names in a directory, reached the disk.
    Sync {
        /// The file or directory.
        node: u64,
    },
    /// Something has another name, and what had that is gone.
    Rename {
        /// The name it had.
        from: PathBuf,
        /// The name it has.
        to: PathBuf,
    },
    /// Two files or directories have each other's name.
    Exchange {
        /// The one name.
        a: PathBuf,
        /// The other.
        b: PathBuf,
    },
    /// A file or directory was removed.
    Removed {
        /// The name it had.
        path: PathBuf,
    },
}

impl Change {
    pub(super) fn made(path: &Path, file: &File) -> Self {
        Self::File { path: path.to_owned(), node: id(file) }
    }

    pub(super) fn made_dir(path: &Path) -> Self {
        let node = std::fs::metadata(path).map_or(0, |m| m.ino());
        Self::Dir { path: path.to_owned(), node }
    }

    pub(super) fn wrote(file: &File, bytes: &[u8], offset: u64) -> Self {
        Self::Write { file: id(file), offset, bytes: bytes.to_vec() }
    }

    pub(super) fn renamed(from: &Path, to: &Path) -> Self {
        Self::Rename { from: from.to_owned(), to: to.to_owned() }
    }

    pub(super) fn exchanged(a: &Path, b: &Path) -> Self {
        Self::Exchange { a: a.to_owned(), b: b.to_owned() }
    }
}

/// What a file is known by; 0 if the system does not say.
pub(super) fn id(file: &File) -> u64 {
    file.metadata().map_or(0, |m| m.ino())
}

/// What was heard between [`start`] and [`stop`].
#[derive(Debug)]
pub struct Heard {
    /// Changes asked for.
    pub asked: usize,
    /// Changes that were refused or torn.
    pub faults: usize,
    /// Changes made, in their order; a torn write as far as it went.
    pub changes: Vec<Change>,
}

struct Injector {
    heard: Heard,
    faults: Vec<Fault>,
    is_on: bool,
    /// Tiles and elements.
    work: [u64; 2],
}

const NOTHING: Heard = Heard { asked: 0, faults: 0, changes: Vec::new() };

static INJECTOR: Mutex<Injector> =
    Mutex::new(Injector { heard: NOTHING, faults: Vec::new(), is_on: false, work: [0; 2] });

fn injector() -> MutexGuard<'static, Injector> {
    INJECTOR.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Begins to count and record, and to inject these faults.
pub fn start(faults: &[Fault]) {
    let mut injector = injector();
    injector.heard = NOTHING;
    injector.faults = faults.to_vec();
    injector.is_on = true;
}

/// Ends it, and gives what was heard.
pub fn stop() -> Heard {
    let mut injector = injector();
    injector.is_on = false;
    std::mem::replace(&mut injector.heard, NOTHING)
}

/// Counts a tile of so many elements that a worker begins to survey or to encode.
pub(crate) fn work(n_elements: usize) {
    let work = &mut injector().work;
    work[0] += 1;
    work[1] += n_elements as u64;
}

/// Tiles and elements that workers have begun to survey or to encode since the last call.
pub fn take_work() -> [u64; 2] {
    std::mem::take(&mut injector().work)
}

/// Refuses all changes from now on, as if the process were killed. Returns what [`take_work`] does, of this very
/// moment.
pub fn kill() -> [u64; 2] {
    let mut injector = injector();
    injector.heard = NOTHING;
    injector.faults = vec![Fault { at: 0, errno: 5, torn: 0, lasts: true }];
    injector.is_on = true;
    std::mem::take(&mut injector.work)
}

impl Injector {
    /// The fault of the next change, if it has one.
    fn due(&self) -> Option<Fault> {
        let at = self.heard.asked;
        let is_due = |f: &&Fault| f.at == at || (f.lasts && f.at < at);
        self.faults.iter().find(is_due).filter(|_| self.is_on).copied()
    }
}

/// Counts a change.
///
/// # Errors
/// That of the fault that is due.
pub(super) fn ask() -> io::Result<()> {
    let mut injector = injector();
    let due = injector.due();
    injector.heard.asked += 1;
    let Some(fault) = due else { return Ok(()) };
    injector.heard.faults += 1;
    Err(io::Error::from_raw_os_error(fault.errno))
}

/// Makes part of a write if the fault that is due for it says so. Whether it fails, [`ask`] says.
pub(super) fn tear(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    let mut injector = injector();
    let Some(fault) = injector.due().filter(|f| f.torn > 0 && f.at == injector.heard.asked) else {
        return Ok(());
    };
    let mut part = &bytes[..fault.torn.min(bytes.len())];
    match file.write_all_at(part, offset) {
        // A file that is written in whole sectors alone.
        Err(e) if e.kind() == io::ErrorKind::InvalidInput => {
            part = &part[..part.len() / 4096 * 4096];
            file.write_all_at(part, offset)?;
        }
        written => written?,
    }
    injector.heard.changes.push(Change::wrote(file, part, offset));
    Ok(())
}

/// Records a change that was made.
pub(super) fn tell<T>(made: &T, change: impl FnOnce(&T) -> Change) {
    let mut injector = injector();
    if injector.is_on {
        injector.heard.changes.push(change(made));
    }
}
