//! `join`: all parts of a round become what the next round needs, or the archive.

use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::archive::{
    ArchiveWriter, BLOB_PIECE, BlobSeal, Cut, Entry, FIRST_VARIANT, Head, Note, PartHead,
    PartReader, PartWriter, Place, Seal, SealNote, TensorSeal, TileNote,
};
use crate::error::{Error, Result, ResultExt};
use crate::frame::{Decoder, Kind, Label, MAX_RAW_LEN};
use crate::method::{Measured, name_of};
use crate::pipeline::budget::peak_memory;
use crate::pipeline::inputs::TOOL;
use crate::pipeline::options::Observer;
use crate::pipeline::sink::{blank_seals, seal_aliases};
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
    let started = Instant::now();
    let (parts, head) = sorted(parts)?;
    refuse_own(&parts, output)?;
    let mut copy = Copy::new(&parts, observer)?;
    let (written_bytes, archive) = match head.encodes() {
        true => {
            let archive = frames(&mut copy, output, force, &head)?;
            (archive.archive_bytes, Some(archive))
        }
        false => (surveys(&mut copy, output, force, &head)?, None),
    };
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
struct Copy<'a> {
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

    fn step(&mut self, n_bytes: u64) -> Result<()> {
        self.observer.check()?;
        self.done += n_bytes;
        self.observer.progress(self.done.min(self.total), self.total);
        Ok(())
    }
}

/// Joins what surveys found. Returns the bytes it takes.
fn surveys(copy: &mut Copy<'_>, output: &Path, force: bool, head: &PartHead) -> Result<u64> {
    let mut writer = PartWriter::create(output, force, head)?;
    for path in copy.parts {
        let mut part = PartReader::open(path)?;
        let mut each = |at, found: &[u8]| {
            copy.step(found.len() as u64)?;
            writer.enter(&Entry::Note(Note::Surveyed(at, found)))
        };
        while part.survey(&mut each)?.is_some() {}
    }
    writer.commit()
}

/// Joins frames to an archive.
fn frames(copy: &mut Copy<'_>, output: &Path, force: bool, of: &PartHead) -> Result<JoinedArchive> {
    let writer = ArchiveWriter::create(output, force, false)?;
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

/// The archive that parts are joined to.
struct Whole {
    writer: ArchiveWriter,
    head: Head,
    place: Place,
    cut: Cut,
    seals: Vec<TensorSeal>,
    /// Tensors before this one have their seals.
    tensor: usize,
    blobs: Vec<BlobSeal>,
    n_hashed: usize,
    measured: Option<Measured>,
    frame: Vec<u8>,
}

impl Whole {
    /// Begins with the head, which the first part has first.
    fn begin(part: &mut PartReader, mut writer: ArchiveWriter) -> Result<Self> {
        let Some(Entry::Frame(len)) = part.next()? else {
            return Err(Error::corrupt("the variant's head is not in it"));
        };
        let (mut frame, mut raw) = (Vec::new(), Vec::new());
        let found = part.frame(len, &mut frame)?.label;
        let (kind, variant) = (Kind::Head, FIRST_VARIANT);
        if found != (Label { kind, codec: 0, variant, item: 0, part: 0 }) {
            return Err(Error::corrupt("its first frame is not the variant's head"));
        }
        Decoder::new()?.decode(&frame, MAX_RAW_LEN as usize, &mut raw)?;
        let head = Head::parse(&raw)?;
        let cut = Cut::of(&head)?;
        let place = writer.write_head(&head)?;
        let seals = blank_seals(cut.tilings.iter());
        let (blobs, measured) = (vec![BlobSeal::default(); head.side_files.len()], None);
        let (tensor, n_hashed) = (0, 0);
        let mut whole =
            Self { writer, head, place, cut, seals, tensor, blobs, n_hashed, measured, frame };
        whole.skip();
        Ok(whole)
    }

    /// Goes on to the next tensor that has tiles.
    fn skip(&mut self) {
        while self.cut.tilings.get(self.tensor).is_some_and(|tiling| tiling.is_empty()) {
            self.tensor += 1;
        }
    }

    /// Takes the rest of a part, which has to go on where the one before it ended.
    fn take(&mut self, mut part: PartReader, copy: &mut Copy<'_>) -> Result<()> {
        while let Some(n_bytes) = self.take_entry(&mut part).context(|| part.context())? {
            copy.step(n_bytes)?;
        }
        Ok(())
    }

    /// Takes one entry with its frame; returns the frame's bytes, and nothing behind the last one.
    fn take_entry(&mut self, part: &mut PartReader) -> Result<Option<u64>> {
        let n_bytes = match part.next()? {
            None => return Ok(None),
            Some(Entry::Note(Note::Tile(note))) => {
                let mut frame = std::mem::take(&mut self.frame);
                let label = part.frame(note.len, &mut frame)?.label;
                self.tile(note, label, &frame)?;
                self.frame = frame;
                note.len.into()
            }
            Some(Entry::Note(Note::Sealed(note))) => self.sealed(note).map(|()| 0)?,
            Some(Entry::Frame(len)) => {
                let mut frame = std::mem::take(&mut self.frame);
                let label = part.frame(len, &mut frame)?.label;
                self.piece(label, &frame)?;
                self.frame = frame;
                len.into()
            }
            Some(Entry::SideFile(hash)) => {
                let blob = self.blobs.get_mut(self.n_hashed);
                blob.ok_or_else(|| Error::corrupt("it has too many side files"))?.hash = hash;
                self.n_hashed += 1;
                0
            }
            Some(Entry::Measured(measured)) => self.measured(measured).map(|()| 0)?,
            Some(_) => return Err(Error::corrupt("it has what belongs to another round")),
        };
        Ok(Some(n_bytes))
    }

    fn tile(&mut self, note: TileNote, label: Label, frame: &[u8]) -> Result<()> {
        let seal = self
            .seals
            .get_mut(self.tensor)
            .ok_or_else(|| Error::corrupt("it has too many tiles"))?;
        let (item, part) = (self.tensor as u32, seal.frame_lens.len() as u32);
        let wanted = Label { kind: Kind::Tile, codec: 0, variant: FIRST_VARIANT, item, part };
        let is_next = (note.tensor, note.part) == (item, part) && label.is_but_for_codec(wanted);
        if !is_next || u64::from(part) >= self.cut.tilings[self.tensor].len() {
            let name = &self.cut.tensors[self.tensor].name;
            return Err(Error::corrupt(format!(
                "tile {part} of tensor {name} is not where it belongs"
            )));
        }
        let offset = self.writer.write(frame)?;
        if part == 0 {
            seal.offset = offset;
        }
        note.add_to(seal);
        Ok(())
    }

    fn sealed(&mut self, note: SealNote) -> Result<()> {
        let tiling = self.cut.tilings.get(self.tensor).map_or(0, |tiling| tiling.len());
        let seal = self.seals.get_mut(self.tensor).filter(|seal| {
            note.tensor as usize == self.tensor && seal.frame_lens.len() as u64 == tiling
        });
        let seal = seal.ok_or_else(|| {
            Error::corrupt(format!("hashes of tensor {} are not behind its tiles", note.tensor))
        })?;
        note.add_to(seal);
        self.tensor += 1;
        self.skip();
        Ok(())
    }

    /// A piece of a side file: these come when all tensors are there.
    fn piece(&mut self, label: Label, frame: &[u8]) -> Result<()> {
        let wrong = || Error::corrupt("a piece of a side file is not where it belongs");
        let file = self.head.side_files.get(label.item as usize).ok_or_else(wrong)?;
        let before = &self.blobs[..label.item as usize];
        let is_whole = |(blob, len): (&BlobSeal, u64)| {
            blob.frame_lens.len() as u64 == len.div_ceil(BLOB_PIECE as u64)
        };
        let lens = self.head.side_files.iter().map(|file| file.len);
        let are_whole = before.iter().zip(lens).all(is_whole);
        let blob = &self.blobs[label.item as usize];
        let (part, item) = (blob.frame_lens.len() as u32, label.item);
        let wanted = Label { kind: Kind::Blob, codec: 0, variant: FIRST_VARIANT, item, part };
        let is_in = !is_whole((blob, file.len));
        if label != wanted || !is_in || !are_whole || self.tensor < self.seals.len() {
            return Err(wrong());
        }
        let offset = self.writer.write(frame)?;
        let blob = &mut self.blobs[item as usize];
        if part == 0 {
            blob.offset = offset;
        }
        blob.frame_lens.push(frame.len() as u32);
        Ok(())
    }

    /// What was measured of the whole model is the same in every part.
    fn measured(&mut self, measured: Measured) -> Result<()> {
        match &self.measured {
            Some(before) if *before != measured => Err(Error::corrupt(
                "it measured another model than the parts before it; make it again",
            )),
            _ => {
                self.measured = Some(measured);
                Ok(())
            }
        }
    }

    /// Seals the variant and commits the archive.
    fn finish(mut self) -> Result<JoinedArchive> {
        if let Some(t) = self.cut.tensors.get(self.tensor) {
            return Err(Error::corrupt(format!("the parts lack tiles of tensor {}", t.name)));
        }
        let pieces = |len: u64| len.div_ceil(BLOB_PIECE as u64);
        let files = self.head.side_files.iter().zip(&self.blobs);
        let are_whole = files.clone().all(|(f, b)| b.frame_lens.len() as u64 == pieces(f.len));
        if !are_whole || self.n_hashed != self.blobs.len() {
            return Err(Error::corrupt("the parts lack a side file"));
        }
        seal_aliases(&mut self.seals, self.head.items.iter());
        let Self { mut writer, head, place, seals, blobs, measured, .. } = self;
        let measured = measured.unwrap_or_default();
        let sum = |of: fn(&TensorSeal) -> f64| -> f64 {
            head.items.iter().zip(&seals).filter(|(item, _)| item.lossy).map(|(_, s)| of(s)).sum()
        };
        let (error, delta) = (sum(|s| s.squared_error), sum(|s| s.squared_delta));
        let seal = Seal { tensors: seals, blobs, measured };
        writer.finish_variant(&head.name, place, &seal)?;
        let archive_bytes = writer.commit()?;
        let shards: u64 = head.shards.iter().map(|shard| shard.file_len).sum();
        let fine_tuned_bytes = shards + head.side_files.iter().map(|file| file.len).sum::<u64>();
        Ok(JoinedArchive {
            method: name_of(head.method),
            archive_bytes,
            fine_tuned_bytes,
            ratio: fine_tuned_bytes as f64 / archive_bytes as f64,
            tensors: head.items.len(),
            relative_error: (delta > 0.0).then(|| error / delta),
            measured: seal.measured,
        })
    }
}
