//! Opens an archive at its last whole generation and hands out records and stored frames.
//!
//! Everything read is checked: lengths against the committed file, records against each other.

use std::collections::HashSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::archive::format::{FOOTER_LEN, FOOTER_TAG, FORMAT_VERSION, Footer, PREAMBLE};
use crate::archive::index::{Index, IndexEntry};
use crate::archive::lock::open_file;
use crate::archive::part;
use crate::archive::record::{Head, Item, Origin, Seal};
use crate::archive::store::{FrameStore, MAX_STORED_LEN};
use crate::checkpoint::{INDEX_NAME, MapChoice, NameSet, TensorInfo, parse_header, shown};
use crate::codec::MAX_SIDE;
use crate::error::{Error, Missing, Result, ResultExt};
use crate::frame::{Decoder, Kind, Label, MAX_RAW_LEN};
use crate::tensor::Tiling;

/// An archive opened for reading.
#[derive(Debug)]
pub(crate) struct Archive {
    frames: FrameStore,
    path: PathBuf,
    pub(crate) footer: Footer,
    pub(crate) index: Index,
}

/// One variant of an archive: its records, checked against each other.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) id: u32,
    pub(crate) head: Head,
    pub(crate) seal: Seal,
    /// Facts from the stored shard headers, in file order.
    pub(crate) tensors: Vec<TensorInfo>,
    /// How each tensor is cut.
    pub(crate) tilings: Vec<Tiling>,
    /// Bytes of head, seal and their frame headers.
    pub(crate) record_bytes: u64,
}

impl Archive {
    /// Opens `path` at its last whole generation.
    ///
    /// # Errors
    /// `Corrupt` if it is no archive, `Truncated` if no generation is whole, `Incompatible` if it
    /// was written by a newer tool.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        Self::from_file(open_file(path)?, path)
    }

    /// Opens a file that is open already; `path` is for messages.
    pub(crate) fn from_file(file: File, path: &Path) -> Result<Self> {
        Self::read(file, path).context(|| format!("archive {}", path.display()))
    }

    fn read(file: File, path: &Path) -> Result<Self> {
        let footer = last_footer(&file, path)?;
        let frames = FrameStore::new(Arc::new(file), footer.offset);
        let Footer { generation, index_offset, index_len, .. } = footer;
        let bytes = record(&frames, Kind::Index, generation, index_offset, index_len)?;
        let index = Index::parse(&bytes).context(|| "index".to_owned())?;
        let archive = Self { frames, path: path.to_owned(), footer, index };
        let mut names = HashSet::new();
        if !archive.index.entries.iter().all(|v| names.insert(v.name.as_str())) {
            return Err(Error::corrupt("index: two variants have one name"));
        }
        Ok(archive)
    }

    /// An archive that is being written, without a footer yet.
    pub(super) fn unfinished(frames: FrameStore, path: &Path, index: Index) -> Self {
        let (version, generation, offset) = (FORMAT_VERSION, 0, u64::MAX);
        let (index_offset, index_len, previous) = (u64::MAX, 0, 0);
        let footer = Footer { version, generation, offset, index_offset, index_len, previous };
        Self { frames, path: path.to_owned(), footer, index }
    }

    /// Reads frames past the system's cache from now on, if files of this size are to be read so and it can
    /// be done.
    pub(crate) fn follow(&mut self, map: MapChoice) {
        if map.passes_cache_by(self.committed_len()) {
            self.frames.pass_cache_by(&self.path);
        }
    }

    /// Its frames, up to the last whole generation.
    pub(crate) fn frames(&self) -> &FrameStore {
        &self.frames
    }

    /// Bytes of the file up to the end of the last whole generation.
    pub(crate) fn committed_len(&self) -> u64 {
        self.footer.offset + FOOTER_LEN as u64
    }

    /// The variant called `name`, or the only one.
    ///
    /// # Errors
    /// `InvalidArgument` naming the variants there are, if the choice is not clear.
    pub(crate) fn load(&self, name: Option<&str>) -> Result<Stored> {
        self.load_entry(self.entry(name)?)
    }

    /// Where the variant called `name`, or the only one, is listed; its records are not read.
    ///
    /// # Errors
    /// `InvalidArgument` naming the variants there are, if the choice is not clear.
    pub(crate) fn entry(&self, name: Option<&str>) -> Result<&IndexEntry> {
        let mut entries = self.index.variants();
        let entry = match (name, entries.next(), entries.next()) {
            (None, Some(only), None) => Some(only),
            (None, ..) => None,
            (Some(name), ..) => self.index.variants().find(|v| v.name == name),
        };
        entry.ok_or_else(|| {
            let all: Vec<_> = self.index.variants().map(|v| v.name.clone()).collect();
            let names: Vec<_> = all.iter().map(|name| shown(name).to_string()).collect();
            let fault = match name {
                _ if names.is_empty() => "it holds no variant; append adds one".to_owned(),
                None => format!("choose one with --name; it holds: {}", names.join(", ")),
                Some(name) => format!("no variant `{name}`; it holds: {}", names.join(", ")),
            };
            let error = Error::invalid_argument(format!("{}: {fault}", self.context()));
            match name.map(str::to_owned) {
                Some(asked) => error.with_missing(Missing::Variant { asked, held: all }),
                None => error,
            }
        })
    }

    /// The variant or base vector of an entry of the index.
    pub(crate) fn load_entry(&self, entry: &IndexEntry) -> Result<Stored> {
        self.stored(entry).context(|| format!("{}: variant `{}`", self.context(), entry.name))
    }

    /// The base vector with this id.
    pub(crate) fn load_vector(&self, id: u32) -> Result<Stored> {
        let entry = self.index.vectors().find(|v| v.id == id).ok_or_else(|| {
            Error::corrupt(format!("base vector {id} is not in the archive"))
                .context(self.context())
        })?;
        let stored = self.load_entry(entry)?;
        match stored.head.shift {
            None => Ok(stored),
            Some(_) => {
                Err(Error::corrupt("a base vector is shifted itself").context(self.context()))
            }
        }
    }

    fn context(&self) -> String {
        format!("archive {}", self.path.display())
    }

    /// The head of an entry of the index, read and parsed.
    pub(super) fn head(&self, entry: &IndexEntry) -> Result<Head> {
        let head = record(&self.frames, Kind::Head, entry.id, entry.head_offset, entry.head_len)?;
        Head::parse(&head).context(|| "head".to_owned())
    }

    /// The seal of an entry of the index, read and parsed.
    pub(super) fn seal(&self, entry: &IndexEntry) -> Result<Seal> {
        let seal = record(&self.frames, Kind::Seal, entry.id, entry.seal_offset, entry.seal_len)?;
        Seal::parse(&seal).context(|| "seal".to_owned())
    }

    fn stored(&self, entry: &IndexEntry) -> Result<Stored> {
        let head = self.head(entry)?;
        join(entry, head, self.seal(entry)?, self.footer.index_offset)
    }
}

/// Reads and expands one record.
///
/// # Errors
/// `Corrupt`, `Truncated` or `Incompatible` if another stands there, or a damaged one.
pub(super) fn record(
    frames: &FrameStore,
    kind: Kind,
    variant: u32,
    offset: u64,
    len: u64,
) -> Result<Vec<u8>> {
    let len = usize::try_from(len).ok().filter(|n| *n <= MAX_STORED_LEN);
    let len = len.ok_or_else(|| Error::corrupt(format!("{kind:?} record exceeds the cap")))?;
    let mut stored = Vec::new();
    frames.read(offset, len, &mut stored)?;
    let mut raw = Vec::new();
    let header = Decoder::new()?
        .decode(&stored, MAX_RAW_LEN as usize, &mut raw)
        .context(|| format!("{kind:?} record at offset {offset}"))?;
    let expected = Label { kind, codec: 0, variant, item: 0, part: 0 };
    if header.label != expected {
        return Err(Error::corrupt(format!("no {kind:?} record at offset {offset}")));
    }
    Ok(raw)
}

/// Says whether frames of these lengths end at or before `end`.
fn check_extent(offset: u64, lens: &[u32], end: u64) -> Result<()> {
    let last = lens.iter().try_fold(offset, |at, n| at.checked_add(u64::from(*n)));
    if last.is_none_or(|last| last > end) {
        return Err(Error::corrupt("its frames lie beyond the committed file"));
    }
    Ok(())
}

/// A variant of its records, held against each other and against the end of what is committed.
pub(super) fn join(entry: &IndexEntry, head: Head, seal: Seal, end: u64) -> Result<Stored> {
    if head.name != entry.name {
        return Err(Error::corrupt("index and head give different names"));
    }
    let stored = Stored::new(entry.id, head, seal, entry.head_len + entry.seal_len)?;
    let (head, seal) = (&stored.head, &stored.seal);
    for (t, tensor_seal) in stored.tensors.iter().zip(&seal.tensors) {
        check_extent(tensor_seal.offset, &tensor_seal.frame_lens, end)
            .context(|| format!("tensor {}", t.name))?;
    }
    for (file, blob) in head.side_files.iter().zip(&seal.blobs) {
        check_extent(blob.offset, &blob.frame_lens, end)
            .context(|| format!("side file {}", file.name))?;
    }
    Ok(stored)
}

impl Stored {
    /// Bytes of memory that it takes, at most.
    pub(crate) fn resident_bytes(&self) -> u64 {
        let headers: u64 = self.head.shards.iter().map(|s| s.header.len() as u64).sum();
        let tiles: u64 = self.tilings.iter().map(Tiling::len).sum();
        8 * headers + 32 * tiles
    }

    /// A variant from its records, held against each other but not against a file.
    pub(crate) fn new(id: u32, head: Head, seal: Seal, record_bytes: u64) -> Result<Self> {
        let Cut { tensors, tilings } = Cut::of(&head)?;
        let counts = [seal.tensors.len(), seal.blobs.len()];
        if counts != [tensors.len(), head.side_files.len()] {
            return Err(Error::corrupt("head and seal count different tensors"));
        }
        for ((t, tiling), sealed) in tensors.iter().zip(&tilings).zip(&seal.tensors) {
            let (n, wanted) = (sealed.frame_lens.len(), tiling.len());
            if n as u64 != wanted {
                let text = format!("{n} frames where {wanted} belong");
                return Err(Error::corrupt(text).context(format!("tensor {}", t.name)));
            }
        }
        Ok(Self { id, head, seal, tensors, tilings, record_bytes })
    }
}

/// The tensors of a variant and how each is cut, told from its head alone.
pub(crate) struct Cut {
    /// Facts from the stored shard headers, in file order.
    pub(crate) tensors: Vec<TensorInfo>,
    pub(crate) tilings: Vec<Tiling>,
}

impl Cut {
    /// # Errors
    /// `Corrupt` if the head contradicts itself.
    pub(crate) fn of(head: &Head) -> Result<Self> {
        let mut tensors = Vec::new();
        for (i, shard) in head.shards.iter().enumerate() {
            let what = format!("stored header of shard {}", shown(&shard.file_name));
            let found = parse_header(&shard.header, shard.file_len, i, &what);
            tensors.extend(found.map_err(|e| Error::corrupt(e.to_string()))?);
        }
        check_names(head, &tensors)?;
        if head.items.len() != tensors.len() {
            return Err(Error::corrupt("head and headers count different tensors"));
        }
        let cut = |(i, t): (usize, &TensorInfo)| {
            tiling(head, &tensors, i).context(|| format!("tensor {}", t.name))
        };
        let tilings = tensors.iter().enumerate().map(cut).collect::<Result<_>>()?;
        Ok(Self { tensors, tilings })
    }
}

/// How tensor `i` is cut, once its item is held to what else the head has.
fn tiling(head: &Head, tensors: &[TensorInfo], i: usize) -> Result<Tiling> {
    let (t, item) = (&tensors[i], &head.items[i]);
    check_item(t, item)?;
    if let Origin::Alias(of) = item.origin {
        let of = of as usize;
        let is_tensor = head.items.get(of).is_some_and(|t| !matches!(t.origin, Origin::Alias(_)));
        let alike = |o: &TensorInfo| o.dtype == t.dtype && o.shape == t.shape;
        if !is_tensor || of >= i || !tensors.get(of).is_some_and(alike) {
            return Err(Error::corrupt(format!("aliases tensor {of}, which it cannot")));
        }
    }
    item.tiling(t.dtype, &t.shape, t.n_bytes)
        .ok_or_else(|| Error::corrupt("its shape cannot be cut as its item says"))
}

/// Says whether an item can belong to its tensor.
fn check_item(t: &TensorInfo, item: &Item) -> Result<()> {
    let is_strip = item.patch > 0;
    if usize::from(item.patch) > MAX_SIDE || (item.lossy && !is_strip && item.has_tiles()) {
        return Err(Error::corrupt("its patch side is out of range"));
    }
    match item.origin {
        Origin::Base { dtype, n_elements } => {
            let convertible = dtype == t.dtype || (dtype.is_float() && t.dtype.is_float());
            let whole = n_elements == t.n_elements();
            let fits =
                if is_strip { whole && t.dtype.is_float() } else { n_elements <= t.n_elements() };
            if convertible && fits {
                Ok(())
            } else {
                Err(Error::corrupt("its base cannot be its base"))
            }
        }
        _ if is_strip => Err(Error::corrupt("it has patches but no base")),
        _ => Ok(()),
    }
}

/// Says whether all names a restore will write are plain and distinct.
fn check_names(head: &Head, tensors: &[TensorInfo]) -> Result<()> {
    let mut names = HashSet::new();
    if let Some(twice) = tensors.iter().find(|t| !names.insert(t.name.as_str())) {
        return Err(Error::corrupt(format!("tensor {} is there twice", shown(&twice.name))));
    }
    let mut files = NameSet::default();
    // A restore may write it beside them.
    let _ = files.insert(INDEX_NAME);
    let shards = head.shards.iter().map(|s| &s.file_name);
    for name in shards.chain(head.side_files.iter().map(|f| &f.name)) {
        files
            .insert(name)
            .map_err(|why| Error::corrupt(format!("stored file name {} {why}", shown(name))))?;
    }
    // Other shards than the fine-tune's own may be asked for, under names that end so.
    let is_shard = |name: &str| name.to_ascii_lowercase().ends_with(".safetensors");
    if let Some(file) = head.side_files.iter().find(|f| is_shard(&f.name)) {
        let name = shown(&file.name);
        return Err(Error::corrupt(format!("side file {name} has the name of a shard")));
    }
    Ok(())
}

/// The last valid footer of the file, past a torn tail if there is one.
fn last_footer(file: &File, path: &Path) -> Result<Footer> {
    part::refuse(file, path)?;
    let len = file.metadata().map_err(|e| Error::io("examine", path, e))?.len();
    let mut start = [0; PREAMBLE.len()];
    if len < PREAMBLE.len() as u64 || file.read_exact_at(&mut start, 0).is_err() {
        return Err(Error::truncated("too short to be an archive"));
    }
    if start != PREAMBLE {
        return Err(Error::corrupt("not a delta-stream archive"));
    }
    find_footer(file, path)
}

/// The same, whatever the file begins with.
pub(super) fn find_footer(file: &File, path: &Path) -> Result<Footer> {
    let len = file.metadata().map_err(|e| Error::io("examine", path, e))?.len();
    const STEP: u64 = 1 << 20;
    let mut chunk = Vec::new();
    let mut end = len;
    while end >= FOOTER_LEN as u64 {
        // Chunks overlap by a footer less one byte, so that none is missed on a boundary.
        let from = end.saturating_sub(STEP);
        chunk.resize((end - from) as usize, 0);
        file.read_exact_at(&mut chunk, from).map_err(|e| Error::io("read", path, e))?;
        for i in (0..=chunk.len().saturating_sub(FOOTER_LEN)).rev() {
            if chunk[i + 8..].starts_with(&FOOTER_TAG) {
                let Some(bytes) = chunk[i..].first_chunk::<FOOTER_LEN>() else {
                    continue;
                };
                if let Some(footer) = Footer::parse(bytes, from + i as u64)? {
                    return Ok(footer);
                }
            }
        }
        if from == 0 {
            break;
        }
        end = from + FOOTER_LEN as u64 - 1;
    }
    Err(Error::truncated(
        "no whole generation: its writing was cut off, or its end is damaged; try recover",
    ))
}
