//! `join`: all parts of a round become what the next round needs, or the archive.

use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::archive::{
    ArchiveWriter, Entry, Note, PartHead, PartReader, PartWriter, refuse_existing,
};
use crate::error::{Error, Result, ResultExt};
use crate::pipeline::budget::peak_memory;
use crate::pipeline::dry_run::space;
use crate::pipeline::inputs::TOOL;
use crate::pipeline::options::Observer;
use crate::pipeline::parts::whole::Whole;
use crate::report::{JoinReport, JoinedArchive};

/// Joins all parts of one round, in any order: those of the last round become the archive `output`, byte for
/// byte the one that [`compress`](crate::compress) writes; those of an earlier one what the next round needs.
/// One frame is in memory at a time.
///
/// # Errors
/// `InvalidArgument` if a part is missing, there twice, or not of the same files, settings, version and round,
/// or if `output` exists (without `force`); `Corrupt`, `Truncated` naming the part that is damaged;
/// `Interrupted`; `Io`. Nothing is left at `output`.
pub fn join(
    parts: &[PathBuf],
    output: &Path,
    force: bool,
    observer: &dyn Observer,
) -> Result<JoinReport> {
    join_to(parts, output, Write { force, is_dry: false }, observer)
}

/// What [`join`] would do: all parts are read and checked, and nothing is written.
///
/// # Errors
/// As [`join`].
pub fn join_dry_run(
    parts: &[PathBuf],
    output: &Path,
    force: bool,
    observer: &dyn Observer,
) -> Result<JoinReport> {
    join_to(parts, output, Write { force, is_dry: true }, observer)
}

/// Whether what is there is replaced, and whether anything is written at all.
#[derive(Clone, Copy)]
struct Write {
    force: bool,
    is_dry: bool,
}

fn join_to(
    parts: &[PathBuf],
    output: &Path,
    write: Write,
    observer: &dyn Observer,
) -> Result<JoinReport> {
    let started = Instant::now();
    let (parts, head) = sorted(parts)?;
    refuse_own(&parts, output)?;
    if write.is_dry {
        refuse_existing(output, write.force)?;
        // Before the long part, as in a real run.
        space(output, 0)?;
    }
    let mut copy = Copy::new(&parts, observer)?;
    let (written_bytes, archive) = match head.encodes() {
        true => {
            let archive = frames(&mut copy, output, write, &head)?;
            (archive.archive_bytes, Some(archive))
        }
        false => (surveys(&mut copy, output, write, &head)?, None),
    };
    let space = write.is_dry.then(|| space(output, written_bytes)).transpose()?;
    let PartHead { of, round, rounds, variant, .. } = head;
    Ok(JoinReport {
        variant,
        parts: of,
        round,
        rounds,
        written_bytes,
        archive,
        peak_memory_bytes: peak_memory(),
        elapsed_seconds: started.elapsed().as_secs_f64(),
        run: space.into(),
    })
}

/// The parts in their order, and what they are of. Each has to be there once, of the same split and round.
fn sorted(parts: &[PathBuf]) -> Result<(Vec<PathBuf>, PartHead)> {
    let mut found: Vec<(PartHead, &PathBuf)> = Vec::new();
    for path in parts {
        found.push((PartReader::open(path)?.head().clone(), path));
    }
    let refuse = |text: String| Err(Error::invalid_argument(text));
    let Some((first, of)) = found.first().cloned() else {
        return refuse("no parts are given".to_owned());
    };
    let of = of.display();
    for (head, path) in &found {
        let path = path.display();
        if head.tool != TOOL {
            let tool = &head.tool;
            return refuse(format!(
                "part {path} was made by {tool}, this is {TOOL}; join with that version"
            ));
        }
        if head.part == 0 {
            return refuse(format!(
                "{path} is {head}, joined already; give it to compress --surveys"
            ));
        }
        if head.variant != first.variant || head.identity != first.identity {
            return refuse(format!(
                "parts {of} and {path} are of other files or settings; leave one out"
            ));
        }
        if (head.of, head.rounds) != (first.of, first.rounds) {
            return refuse(format!(
                "{of} is {first}, and {path} is {head}; join parts of one split"
            ));
        }
        if head.round != first.round {
            return refuse(format!(
                "{of} is {first}, and {path} is {head}; join parts of one round"
            ));
        }
    }
    found.sort_by_key(|(head, _)| head.part);
    if let Some(pair) = found.windows(2).find(|pair| pair[0].0.part == pair[1].0.part) {
        let [a, b] = [&pair[0], &pair[1]].map(|(_, path)| path.display());
        return refuse(format!("{a} and {b} are both {}; leave one out", pair[0].0));
    }
    let is_there = |n: u32| found.binary_search_by_key(&n, |(head, _)| head.part).is_ok();
    // The number of parts is only what a file says: nothing is reserved for it.
    if let Some(n) = (1..=first.of).find(|n| !is_there(*n)) {
        let more = match first.of as usize - found.len() {
            1 => String::new(),
            n => format!(", and {} more are", n - 1),
        };
        return refuse(format!(
            "part {n} of {} is missing{more}; make it with compress --part",
            first.of
        ));
    }
    Ok((found.into_iter().map(|(_, path)| path.clone()).collect(), PartHead { part: 0, ..first }))
}

/// Refuses to write over a part.
fn refuse_own(parts: &[PathBuf], output: &Path) -> Result<()> {
    let Ok(output) = output.canonicalize() else { return Ok(()) };
    match parts.iter().find(|part| part.canonicalize().is_ok_and(|part| part == output)) {
        Some(part) => {
            let text = format!("{} is one of the parts; choose another output", part.display());
            Err(Error::invalid_argument(text))
        }
        None => Ok(()),
    }
}

/// Goes through the parts, and tells how far it is.
pub(super) struct Copy<'a> {
    parts: &'a [PathBuf],
    observer: &'a dyn Observer,
    done: u64,
    total: u64,
}

impl<'a> Copy<'a> {
    fn new(parts: &'a [PathBuf], observer: &'a dyn Observer) -> Result<Self> {
        let mut total = 0;
        for path in parts {
            total += path.metadata().map_err(|e| Error::io("examine", path, e))?.len();
        }
        Ok(Self { parts, observer, done: 0, total })
    }

    pub(super) fn step(&mut self, n_bytes: u64) -> Result<()> {
        self.observer.check()?;
        self.done += n_bytes;
        self.observer.progress(self.done.min(self.total), self.total);
        Ok(())
    }
}

/// Joins what surveys found. Returns the bytes it takes, of a dry run the most that it can take.
fn surveys(copy: &mut Copy<'_>, output: &Path, write: Write, head: &PartHead) -> Result<u64> {
    let create = || PartWriter::create(output, write.force, head);
    let mut writer = (!write.is_dry).then(create).transpose()?;
    for path in copy.parts {
        let mut part = PartReader::open(path)?;
        let mut each = |at, found: &[u8]| {
            copy.step(found.len() as u64)?;
            let entry = Entry::Note(Note::Surveyed(at, found));
            writer.as_mut().map_or(Ok(()), |writer| writer.enter(&entry))
        };
        while part.survey(&mut each)?.is_some() {}
    }
    // Each part has a head and an end besides.
    writer.map_or(Ok(copy.total), PartWriter::commit)
}

/// Joins frames to an archive.
fn frames(
    copy: &mut Copy<'_>,
    output: &Path,
    write: Write,
    of: &PartHead,
) -> Result<JoinedArchive> {
    let writer = match write.is_dry {
        true => ArchiveWriter::dry()?,
        false => ArchiveWriter::create(output, write.force, false)?,
    };
    let mut parts = copy.parts.iter();
    let first = parts.next().ok_or_else(|| Error::invalid_argument("no parts are given"))?;
    let mut reader = PartReader::open(first)?;
    let mut whole = Whole::begin(&mut reader, writer).context(|| reader.context())?;
    if whole.head.name != of.variant {
        return Err(Error::corrupt("its head is of another variant").context(reader.context()));
    }
    whole.take(reader, copy)?;
    for path in parts {
        whole.take(PartReader::open(path)?, copy)?;
    }
    copy.observer.check()?;
    whole.finish()
}
