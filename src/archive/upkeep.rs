//! Takes a variant off an archive, and writes an archive anew without what nobody needs any more.
//!
//! Removing commits a generation that does not list the variant, so it is as quick and as safe as any
//! commit, and frees nothing. Compacting copies what is still listed into a new file, byte for byte but
//! for the records that say where frames stand, and renames that file over the old one. Readers that
//! have the old file open keep it.

use std::fs;
use std::path::Path;

use crate::archive::format::{FOOTER_LEN, PREAMBLE};
use crate::archive::index::IndexEntry;
use crate::archive::lock::{check_is_at, open_archive};
use crate::archive::reader::{Archive, Stored};
use crate::archive::writer::{ArchiveWriter, Place};
use crate::codec::LOST;
use crate::error::{Error, Result, ResultExt};
use crate::frame::{Kind, Label};

/// What upkeep made of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Upkeep {
    /// Names of the variants it holds now, oldest first.
    pub(crate) variants: Vec<String>,
    /// Bytes of the file before and after, a torn tail included.
    pub(crate) bytes_before: u64,
    pub(crate) bytes_after: u64,
}

fn names(entries: &[IndexEntry]) -> Vec<String> {
    entries.iter().filter(|e| !e.is_vector()).map(|v| v.name.clone()).collect()
}

/// Commits a generation without the variant `name`, or counts the bytes it would have. Its records are not
/// read, so a damaged one can be removed too.
///
/// # Errors
/// `InvalidArgument` if there is no such variant; what [`ArchiveWriter::append`] says.
pub(crate) fn remove(path: &Path, name: &str, is_dry: bool) -> Result<Upkeep> {
    let (file, archive) = open_archive(path)?;
    archive.entry(Some(name))?;
    let left: Vec<_> = archive.index.entries.iter().filter(|v| v.name != name).cloned().collect();
    let bytes_before = len(&file, path)?;
    let committed = archive.committed_len();
    let writer = match is_dry {
        true => ArchiveWriter::dry_behind(archive)?,
        false => ArchiveWriter::go_on(file, archive, path)?,
    };
    let added = writer.commit_without(name)?;
    Ok(Upkeep { variants: names(&left), bytes_before, bytes_after: committed + added })
}

/// Writes the archive anew with only what its variants need, if that saves anything, and puts it in
/// the old one's place; or does all that but for writing. `progress` hears of bytes copied and of all there
/// are, and may end the run.
///
/// # Errors
/// `Corrupt` at the first frame that is damaged; `Incompatible` if a newer tool wrote a variant; what
/// [`ArchiveWriter::append`] and `progress` say. The old archive is then as it was.
pub(crate) fn compact(
    path: &Path,
    is_dry: bool,
    mut progress: impl FnMut(u64, u64) -> Result<()>,
) -> Result<Upkeep> {
    // A link stays one: the file it leads to is replaced.
    let path = &fs::canonicalize(path).map_err(|e| Error::io("open", path, e))?;
    // The lock is held until the new file has taken the old one's place.
    let (lock, old) = open_archive(path)?;
    let before = len(&lock, path)?;
    let entries = live(&old)?;
    let unchanged =
        || Upkeep { variants: names(&entries), bytes_before: before, bytes_after: before };
    let mut total = 0;
    for entry in &entries {
        total += stored_bytes(&old.load_entry(entry)?);
    }
    let around = PREAMBLE.len() as u64 + old.footer.index_len + FOOTER_LEN as u64;
    if total + around >= before {
        return Ok(unchanged());
    }
    let mut writer = match is_dry {
        true => ArchiveWriter::dry_replace(&old)?,
        false => ArchiveWriter::replace(path, &old)?,
    };
    if !is_dry {
        let metadata = lock.metadata().map_err(|e| Error::io("examine", path, e))?;
        writer.set_permissions(metadata.permissions())?;
    }
    let progress = &mut |done| progress(done, total);
    let (old, frame) = (&old, Vec::new());
    let mut copy = Copy { old, path, writer: &mut writer, progress, done: 0, frame };
    for entry in &entries {
        copy.variant(entry)?;
    }
    let index = writer.write_index()?;
    if writer.len() + FOOTER_LEN as u64 >= before {
        return Ok(unchanged());
    }
    check_is_at(&lock, path)?;
    let bytes_after = writer.finish(index)?;
    Ok(Upkeep { variants: names(&entries), bytes_before: before, bytes_after })
}

/// The entries of the index that something still refers to, in its order: whatever else is in the file
/// is left behind.
fn live(archive: &Archive) -> Result<Vec<IndexEntry>> {
    let mut used = Vec::new();
    for variant in archive.index.variants() {
        used.extend(archive.load_entry(variant)?.head.shift.and_then(|shift| shift.vector));
    }
    let is_live = |e: &&IndexEntry| !e.is_vector() || used.contains(&e.id);
    Ok(archive.index.entries.iter().filter(is_live).cloned().collect())
}

/// Bytes of all frames of a variant.
fn stored_bytes(stored: &Stored) -> u64 {
    let pieces = stored.seal.blobs.iter().flat_map(|b| &b.frame_lens);
    stored.record_bytes + stored.seal.stored_bytes() + pieces.map(|n| u64::from(*n)).sum::<u64>()
}

fn len(file: &fs::File, path: &Path) -> Result<u64> {
    let metadata = file.metadata().map_err(|e| Error::io("examine", path, e))?;
    Ok(metadata.len())
}

/// Copies frames from one file to another, checking each.
struct Copy<'a> {
    old: &'a Archive,
    path: &'a Path,
    writer: &'a mut ArchiveWriter,
    /// Hears of bytes copied.
    progress: &'a mut dyn FnMut(u64) -> Result<()>,
    done: u64,
    frame: Vec<u8>,
}

/// Frames that stand one after the other: whose they are, for messages too, and where.
struct Run<'a> {
    variant: &'a IndexEntry,
    kind: Kind,
    item: usize,
    name: &'a str,
    offset: u64,
    lens: &'a [u32],
}

impl Copy<'_> {
    /// Copies a variant: head, tiles and pieces as they are, the seal with the new places.
    fn variant(&mut self, variant: &IndexEntry) -> Result<()> {
        let Stored { mut seal, tensors, head, .. } = self.old.load_entry(variant)?;
        let len = variant.head_len;
        let lens = &[u32::try_from(len).map_err(|_| Error::corrupt("head exceeds the cap"))?];
        let (kind, offset) = (Kind::Head, variant.head_offset);
        let offset = self.run(&Run { variant, kind, item: 0, name: "head", offset, lens })?;
        for (item, (t, info)) in seal.tensors.iter_mut().zip(&tensors).enumerate() {
            let (kind, name, offset, lens) = (Kind::Tile, &info.name, t.offset, &t.frame_lens);
            t.offset = self.run(&Run { variant, kind, item, name, offset, lens })?;
        }
        for (item, (blob, file)) in seal.blobs.iter_mut().zip(&head.side_files).enumerate() {
            let (kind, name, offset, lens) =
                (Kind::Blob, &file.name, blob.offset, &blob.frame_lens);
            blob.offset = self.run(&Run { variant, kind, item, name, offset, lens })?;
        }
        self.writer.seal(variant.id, &variant.name, Place { offset, len }, &seal)?;
        self.done += variant.seal_len;
        (self.progress)(self.done)
    }

    /// Returns where the frames stand now; 0 if there are none.
    fn run(&mut self, run: &Run<'_>) -> Result<u64> {
        let (mut at, mut start) = (run.offset, 0);
        for (part, len) in (0..).zip(run.lens) {
            let new = self.frame(run, part, at, *len as usize).context(|| {
                let (path, variant) = (self.path.display(), &run.variant.name);
                format!("archive {path}: variant `{variant}`: {}: frame at offset {at}", run.name)
            })?;
            start = if part == 0 { new } else { start };
            at += u64::from(*len);
            self.done += u64::from(*len);
            (self.progress)(self.done)?;
        }
        Ok(start)
    }

    fn frame(&mut self, run: &Run<'_>, part: u32, at: u64, len: usize) -> Result<u64> {
        let found = self.old.frames().read_whole(at, len, &mut self.frame)?.label;
        // A tile names its codec, which need not be one that this tool knows.
        let is_lost = run.kind == Kind::Blob && found.codec == LOST;
        let codec = if run.kind == Kind::Tile || is_lost { found.codec } else { 0 };
        let (kind, variant, item) = (run.kind, run.variant.id, run.item as u32);
        if found != (Label { kind, codec, variant, item, part }) {
            return Err(Error::corrupt("another frame stands here"));
        }
        self.writer.write(&self.frame)
    }
}
