//! What a run that was cut off leaves behind, and how the next one goes on from there.
//!
//! Beside the file that is being written stands a journal: what the run stands on, then each tensor once
//! its frames are in the file. A run that resumes holds the journal to its own inputs and settings, and
//! the frames to their checksums, and keeps the tensors that pass: with them it writes the bytes that
//! a run that was never cut off writes.

use std::fs::File;
use std::io::{ErrorKind as Cause, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64;

use crate::archive::record::{Head, TensorSeal};
use crate::archive::store::FrameStore;
use crate::archive::writer::{ArchiveWriter, Place};
use crate::checkpoint::disk::{self, TempPath};
use crate::checkpoint::hidden_name;
use crate::error::{Error, Result};
use crate::frame::{Kind, Label};
use crate::wire::{Reader, Writer};

/// Bytes before an entry's own: their number and their checksum.
const PREFIX: usize = 8;
/// Longest entry: a tensor of 100,000 tiles has 400 KB.
const MAX_ENTRY: usize = 64 << 20;

/// A tensor that need not be encoded again.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct KeptTensor {
    /// Position in the variant.
    pub(crate) tensor: usize,
    pub(crate) seal: TensorSeal,
    pub(crate) sums: Sums,
}

/// What a report says of tensors beside their seals.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Sums {
    /// What was lost at the layer's output, and what the delta makes there; 0 without statistics.
    pub(crate) output: (f64, f64),
    /// Tiles of a lossy tensor that are kept bit for bit, and their elements.
    pub(crate) exact: (u64, u64),
}

impl Sums {
    pub(crate) fn add(&mut self, other: &Self) {
        self.output.0 += other.output.0;
        self.output.1 += other.output.1;
        self.exact.0 += other.exact.0;
        self.exact.1 += other.exact.1;
    }
}

impl KeptTensor {
    fn to_bytes(&self) -> Result<Vec<u8>> {
        let mut w = Writer::default();
        w.u64(self.tensor as u64);
        self.seal.write(&mut w)?;
        let Sums { output, exact } = self.sums;
        w.f64(output.0);
        w.f64(output.1);
        w.u64(exact.0);
        w.u64(exact.1);
        Ok(w.0)
    }

    fn parse(bytes: &[u8]) -> Result<Self> {
        let r = &mut Reader::new(bytes);
        let tensor = r.u64()? as usize;
        let seal = TensorSeal::read(r)?;
        let sums = Sums { output: (r.f64()?, r.f64()?), exact: (r.u64()?, r.u64()?) };
        r.end()?;
        Ok(Self { tensor, seal, sums })
    }
}

/// The journal of a run that is under way.
#[derive(Debug)]
pub(super) struct Journal {
    file: File,
    /// Removed when it is dropped.
    path: TempPath,
    /// Entries of tensors whose frames may not be in the file yet.
    pending: Vec<u8>,
    len: u64,
}

impl Journal {
    /// Starts a journal in place of one that is there; `identity` is what the run stands on.
    fn create(archive: &Path, identity: &[u8]) -> Result<Self> {
        let path = path(archive);
        let file = disk::open_or_create(&path).map_err(|e| Error::io("create", &path, e))?;
        let mut journal = Self::of(file, path, 0)?;
        disk::set_len(&journal.file, 0).map_err(|e| Error::io("cut", &journal.path, e))?;
        journal.enter(identity);
        journal.write_out()?;
        Ok(journal)
    }

    /// Goes on with the journal of an earlier run after its first `len` bytes.
    fn go_on(archive: &Path, len: u64) -> Result<Self> {
        let path = path(archive);
        let file = disk::open(&path).map_err(|e| Error::io("open", &path, e))?;
        disk::set_len(&file, len).map_err(|e| Error::io("cut", &path, e))?;
        Self::of(file, path, len)
    }

    fn of(file: File, path: PathBuf, len: u64) -> Result<Self> {
        let of = TempPath::try_from_path(&path).map_err(|e| Error::io("find", &path, e))?;
        Ok(Self { file, path: of, pending: Vec::new(), len })
    }

    /// Leaves it to a run that resumes.
    pub(super) fn leave(self) {
        let _ = self.path.keep();
    }

    /// Removes it: all that it speaks of is written.
    pub(super) fn finish(self) -> Result<()> {
        let removed = disk::remove_file(&self.path);
        removed.map_err(|e| Error::io("remove", &self.path, e))
    }

    /// Takes note of a tensor whose frames were handed over to be written.
    fn note(&mut self, kept: &KeptTensor) -> Result<()> {
        self.enter(&kept.to_bytes()?);
        Ok(())
    }

    fn enter(&mut self, bytes: &[u8]) {
        self.pending.extend((bytes.len() as u32).to_le_bytes());
        self.pending.extend(crc32c::crc32c(bytes).to_le_bytes());
        self.pending.extend(bytes);
    }

    /// Everything that was handed over is in the file by now.
    pub(super) fn write_out(&mut self) -> Result<()> {
        disk::write_all_at(&self.file, &self.pending, self.len)
            .map_err(|e| Error::io("write to", &self.path, e))?;
        self.len += self.pending.len() as u64;
        self.pending.clear();
        Ok(())
    }
}

impl ArchiveWriter {
    /// Writes the head of the new variant, and takes note of its tensors from here on; behind it the
    /// tensors are kept that an earlier run wrote, if this one resumes. `inputs` is a hash of the state
    /// of the files that are read.
    ///
    /// # Errors
    /// `InvalidArgument` if the earlier run stood on other inputs or settings.
    pub(crate) fn begin(&mut self, head: &Head, inputs: u64) -> Result<(Place, Vec<KeptTensor>)> {
        if self.dry {
            return Ok((self.write_head(head)?, Vec::new()));
        }
        let start = self.at;
        let mut frame = Vec::new();
        let label =
            Label { kind: Kind::Head, codec: 0, variant: self.variant_id(), item: 0, part: 0 };
        self.encoder.encode(label, &head.to_bytes()?, &mut frame)?;
        let place = Place { offset: start, len: frame.len() as u64 };
        let identity = identity((start, self.generation), inputs, &frame);
        let end = start + place.len;
        let mut left = None;
        if self.resumes {
            let len = self.file.metadata().map_err(|e| Error::io("examine", &self.path, e))?.len();
            let frames = FrameStore::new(Arc::clone(&self.file), len.max(end));
            left = left_behind(&self.path, &identity, (&frames, end), label.variant)?;
        }
        self.write(&frame)?;
        self.flush()?;
        let (kept, end, journal) = match left {
            Some(left) => (left.kept, left.end, left.journal),
            None => (Vec::new(), end, Journal::create(&self.path, &identity)?),
        };
        if self.resumes {
            self.cut(end)?;
        }
        (self.at, self.journal) = (end, Some(journal));
        Ok((place, kept))
    }

    /// Drops what an earlier run left.
    pub(super) fn start_over(&self) -> Result<()> {
        remove(&self.path)?;
        self.cut(self.start)
    }

    /// Cuts the file. On disk, too, or a loss of power could bring the tail back under what is written over
    /// it: a footer that an append wrote before its last sync failed would then stand for torn frames. Of
    /// an archive so even if nothing is behind `end`: it may just have been cut, and not on disk.
    fn cut(&self, end: u64) -> Result<()> {
        let cut = || match &self.temp {
            Some(_) if self.file.metadata()?.len() <= end => Ok(()),
            _ => disk::set_len(&self.file, end).and_then(|()| disk::sync_data(&self.file)),
        };
        cut().map_err(|e| Error::io("drop the torn tail of", &self.path, e))
    }

    /// Ends a run that did not commit: leaves what is done to one that resumes, or takes it back.
    pub(super) fn give_up(&mut self) {
        if self.resumes {
            // Whatever fails here is only encoded again.
            let _ = self.flush();
            let _ = self.temp.take().map(TempPath::keep);
            self.journal.take().into_iter().for_each(Journal::leave);
        } else if self.temp.is_none() {
            // The next append drops a torn tail anyway; this only gives the space back sooner.
            let _ = disk::set_len(&self.file, self.start);
        }
    }

    /// Takes note of a tensor whose frames are all handed over, for a run that resumes.
    pub(crate) fn note(&mut self, tensor: &KeptTensor) -> Result<()> {
        self.journal.as_mut().map_or(Ok(()), |journal| journal.note(tensor))
    }
}

/// Removes the journal beside an archive, if there is one.
pub(super) fn remove(archive: &Path) -> Result<()> {
    let path = path(archive);
    match path.symlink_metadata() {
        Ok(_) => disk::remove_file(&path).map_err(|e| Error::io("remove", &path, e)),
        Err(_) => Ok(()),
    }
}

/// `.NAME.resume`, beside the archive.
fn path(archive: &Path) -> PathBuf {
    archive.with_file_name(hidden_name(archive.file_name().unwrap_or_default(), "resume"))
}

/// What a run stands on: where it begins, the state of the files it reads, and the head it writes.
fn identity((start, generation): (u64, u32), inputs: u64, head: &[u8]) -> Vec<u8> {
    let mut w = Writer::default();
    w.u64(start);
    w.u32(generation);
    w.u64(inputs);
    w.u64(xxh3_64(head));
    w.0
}

/// Bytes of an identity that say where the run begins.
const PLACE: usize = 12;

/// What an earlier run left, once it is held to what this one would write.
#[derive(Debug)]
struct Left {
    /// Tensors to keep, in file order.
    kept: Vec<KeptTensor>,
    /// Where the last one's frames end.
    end: u64,
    journal: Journal,
}

/// The tensors that an earlier run wrote in full behind `start`, in a file that is read through `frames`.
/// None if it left nothing. `variant` is the id their frames carry.
///
/// # Errors
/// `InvalidArgument` if the earlier run stood on other inputs or settings.
fn left_behind(
    archive: &Path,
    identity: &[u8],
    (frames, start): (&FrameStore, u64),
    variant: u32,
) -> Result<Option<Left>> {
    let path = path(archive);
    let mut bytes = Vec::new();
    match File::open(&path).and_then(|mut file| file.read_to_end(&mut bytes)) {
        Ok(_) => {}
        Err(e) if e.kind() == Cause::NotFound => return Ok(None),
        Err(e) => return Err(Error::io("read", &path, e)),
    }
    let mut entries = entries(&bytes);
    match entries.next() {
        Some((first, _)) if first == identity => {}
        // Of a run that was committed, or whose file is gone.
        Some((first, _)) if first.get(..PLACE) != identity.get(..PLACE) => return Ok(None),
        None => return Ok(None),
        Some(_) => {
            return Err(Error::invalid_argument(format!(
                "what an earlier run left of {} was made of other files or with other settings, or the files \
                 were written to since; run without --resume to start again",
                archive.display()
            )));
        }
    }
    let (mut kept, mut end, mut len) = (Vec::new(), start, (PREFIX + identity.len()) as u64);
    let mut stored = Vec::new();
    for (entry, entry_end) in entries {
        let Ok(tensor) = KeptTensor::parse(entry) else { break };
        match frames_end(&tensor, (frames, end), variant, &mut stored) {
            Some(tensor_end) => (end, len) = (tensor_end, entry_end as u64),
            None => break,
        }
        kept.push(tensor);
    }
    Ok(Some(Left { kept, end, journal: Journal::go_on(archive, len)? }))
}

/// Whole entries from the start, each with where it ends.
fn entries(bytes: &[u8]) -> impl Iterator<Item = (&[u8], usize)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let (prefix, rest) = bytes[at..].split_first_chunk::<PREFIX>()?;
        let [a, b, c, d, crc @ ..] = *prefix;
        let len = u32::from_le_bytes([a, b, c, d]) as usize;
        let entry = rest.get(..len).filter(|_| len <= MAX_ENTRY)?;
        if crc32c::crc32c(entry).to_le_bytes() != crc {
            return None;
        }
        at += PREFIX + len;
        Some((entry, at))
    })
}

/// Where a tensor's frames end, if all of them are whole and stand right behind `at`.
fn frames_end(
    kept: &KeptTensor,
    (frames, at): (&FrameStore, u64),
    variant: u32,
    stored: &mut Vec<u8>,
) -> Option<u64> {
    if kept.seal.offset != at && !kept.seal.frame_lens.is_empty() {
        return None;
    }
    let mut end = at;
    for (part, len) in (0..).zip(&kept.seal.frame_lens) {
        let found = frames.read_whole(end, *len as usize, stored).ok()?.label;
        let item = kept.tensor as u32;
        let wanted = Label { kind: Kind::Tile, codec: 0, variant, item, part };
        if !found.is_but_for_codec(wanted) {
            return None;
        }
        end += u64::from(*len);
    }
    Some(end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn kept(tensor: usize) -> KeptTensor {
        let seal = TensorSeal { frame_lens: vec![3, 4], offset: 9, ..TensorSeal::default() };
        KeptTensor { tensor, seal, sums: Sums { output: (0.5, 1.5), exact: (2, 3) } }
    }

    #[test]
    fn a_torn_journal_ends_at_its_last_whole_entry() {
        let dir = tempfile::tempdir().unwrap();
        let archive = dir.path().join("a.delta.zst");
        let mut journal = Journal::create(&archive, b"identity").unwrap();
        for i in 0..3 {
            journal.note(&kept(i)).unwrap();
        }
        let before = fs::read(path(&archive)).unwrap();
        assert_eq!(entries(&before).count(), 1, "entries wait for the frames");
        journal.write_out().unwrap();
        let bytes = fs::read(path(&archive)).unwrap();
        let ends: Vec<_> = entries(&bytes).map(|(_, end)| end).collect();
        assert_eq!(ends.len(), 4);
        for n in 0..bytes.len() {
            assert_eq!(entries(&bytes[..n]).count(), ends.iter().filter(|end| **end <= n).count());
            let mut bad = bytes.clone();
            bad[n] ^= 1;
            assert_eq!(entries(&bad).count(), ends.iter().filter(|end| **end <= n).count());
        }
        let tensors: Vec<_> =
            entries(&bytes).skip(1).map(|(entry, _)| KeptTensor::parse(entry).unwrap()).collect();
        assert_eq!(tensors, [kept(0), kept(1), kept(2)]);
        journal.finish().unwrap();
        assert!(!path(&archive).exists());
        remove(&archive).unwrap();
    }
}
