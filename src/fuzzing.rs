//! What fuzz targets call: every reader of untrusted bytes, each behind one thin function. Behind the
//! feature `fuzzing`, and no part of the public interface. The targets are in `tests/fuzz`.

use std::ops::Range;
use std::path::Path;

use crate::archive::{Entry, FOOTER_LEN, Footer, Head, Index, Note, Origin, Seal, Stored, entries};
use crate::checkpoint::{Checkpoint, MapChoice, Source, TensorInfo, parse_header, parse_layout};
use crate::codec::mask::MaskPlace;
use crate::codec::{self, Codec, Operand, Scratch, Target};
use crate::error::Result;
use crate::frame::{self, Kind, Label};
use crate::pipeline::mask_place;
use crate::survey::TileStats;
use crate::survey::stored::TileSize;
use crate::tensor::{DType, Shape};

/// A tensor of a header: name, dtype, shape, and its bytes in the file.
pub type HeaderTensor = (String, DType, Shape, Range<u64>);

/// Reads a safetensors header, 8 bytes of length and JSON, without a file behind it.
///
/// # Errors
/// As for a checkpoint.
pub fn header(bytes: &[u8]) -> Result<Vec<HeaderTensor>> {
    let layout = parse_layout("x.safetensors", bytes, "fuzz")?;
    let tensors = parse_header(bytes, layout.file_len, 0, "fuzz")?.into_iter();
    Ok(tensors.map(|t| (t.name, t.dtype, t.shape, t.offset..t.offset + t.n_bytes)).collect())
}

/// Reads a footer that stands at `offset`; what it would be written as, `None` if it is none.
///
/// # Errors
/// `Incompatible`.
pub fn footer(bytes: &[u8; FOOTER_LEN], offset: u64) -> Result<Option<[u8; FOOTER_LEN]>> {
    Ok(Footer::parse(bytes, offset)?.map(Footer::to_bytes))
}

/// Reads an index; what it would be written as.
///
/// # Errors
/// `Corrupt`.
pub fn index(bytes: &[u8]) -> Result<Vec<u8>> {
    Index::parse(bytes)?.to_bytes()
}

/// Reads a head; what it would be written as.
///
/// # Errors
/// `Corrupt` or `Incompatible`.
pub fn head(bytes: &[u8]) -> Result<Vec<u8>> {
    Head::parse(bytes)?.to_bytes()
}

/// Reads a seal; what it would be written as.
///
/// # Errors
/// `Corrupt`.
pub fn seal(bytes: &[u8]) -> Result<Vec<u8>> {
    Seal::parse(bytes)?.to_bytes()
}

/// The whole entries of the journal of a run that was cut off.
pub fn journal(bytes: &[u8]) -> Vec<Vec<u8>> {
    entries(bytes)
}

/// Reads an entry of a journal; what it would be written as. What a survey found is read as of a tile of these
/// rows and columns and of this patch side, all at least 1.
///
/// # Errors
/// `Corrupt` or `Truncated`.
pub fn note(entry: &[u8], [n_rows, n_cols, patch]: [usize; 3]) -> Result<Vec<u8>> {
    let note = Note::parse(entry)?;
    let Note::Surveyed(at, found) = note else { return Ok(note.to_bytes()) };
    let stats = TileStats::parse(found, TileSize { n_rows, n_cols, patch })?;
    let found = stats.to_bytes()?.unwrap_or_default();
    Ok(Note::Surveyed(at, &found).to_bytes())
}

/// Reads an entry of a part; what it would be written as.
///
/// # Errors
/// `Corrupt`, `Truncated` or `Incompatible`.
pub fn part_entry(entry: &[u8]) -> Result<Vec<u8>> {
    Entry::parse(entry)?.to_bytes()
}

/// A fine-tune as it is read: of an adapter, the base with that merged into it.
#[derive(Debug)]
pub struct FineTune {
    checkpoint: Checkpoint,
    source: Source,
}

impl FineTune {
    /// Opens the checkpoint or adapter in directory `dir` against `base`.
    ///
    /// # Errors
    /// As [`Checkpoint::open_fine_tune`].
    pub fn open(dir: &Path, base: &Path) -> Result<Self> {
        let checkpoint = Checkpoint::open_fine_tune(dir, base)?;
        let source = Source::new(&checkpoint, &MapChoice::default())?;
        Ok(Self { checkpoint, source })
    }

    /// Its tensors, in file order.
    pub fn tensors(&self) -> &[TensorInfo] {
        self.checkpoint.tensors()
    }

    /// These bytes of a tensor, which are whole elements of it.
    ///
    /// # Errors
    /// `Io`.
    pub fn read(&self, tensor: &TensorInfo, bytes: Range<u64>) -> Result<Vec<u8>> {
        let len = (bytes.end - bytes.start) as usize;
        let window = self.source.window(tensor.shard, tensor.offset + bytes.start, len)?;
        Ok(window.to_vec())
    }
}

/// A tensor of a variant whose records agree.
#[derive(Debug)]
pub struct StoredTensor {
    /// Its bytes in a checkpoint.
    pub n_bytes: u64,
    /// Whether it is restored from the frames of another.
    pub is_alias: bool,
    /// Bytes of each tile inside the tensor.
    pub tiles: Vec<Range<u64>>,
}

/// Holds the head and the seal of a variant against each other.
///
/// # Errors
/// `Corrupt` or `Incompatible`.
pub fn records(head: &[u8], seal: &[u8]) -> Result<Vec<StoredTensor>> {
    let stored = Stored::new(0, Head::parse(head)?, Seal::parse(seal)?, 0)?;
    let tensor = |i: usize| {
        let (t, tiling) = (&stored.tensors[i], &stored.tilings[i]);
        let tile = |k| tiling.get(k).bytes(t.dtype.lane_bytes());
        StoredTensor {
            n_bytes: t.n_bytes,
            is_alias: matches!(stored.head.items[i].origin, Origin::Alias(_)),
            tiles: (0..tiling.len()).map(tile).collect(),
        }
    };
    Ok((0..stored.tensors.len()).map(tensor).collect())
}

/// The stored frame of `raw`, as one of the five kinds of frames.
///
/// # Errors
/// `InvalidArgument` for more bytes than fit a frame.
pub fn frame_of(kind: u8, words: [u32; 3], codec: u16, raw: &[u8]) -> Result<Vec<u8>> {
    let kinds = [Kind::Tile, Kind::Head, Kind::Seal, Kind::Blob, Kind::Index];
    let [variant, item, part] = words;
    let label = Label { kind: kinds[usize::from(kind) % kinds.len()], codec, variant, item, part };
    let mut out = Vec::new();
    frame::Encoder::new()?.encode(label, raw, &mut out)?;
    Ok(out)
}

/// Expands a stored frame of at most `cap` raw bytes into `out`.
///
/// # Errors
/// `Corrupt`, `Truncated` or `Incompatible`.
pub fn frame(stored: &[u8], cap: usize, out: &mut Vec<u8>) -> Result<()> {
    frame::Decoder::new()?.decode(stored, cap, out).map(drop)
}

/// Key of the masks of a tensor of a variant with this seed.
pub fn mask_key(seed: u64, tensor: &str) -> u64 {
    mask_place(seed, tensor, 0).key
}

/// A tile to restore, as an archive's records may describe it.
#[derive(Debug, Clone, Copy)]
pub struct Tile {
    /// Dtype of the restored tile; a float if it has patches.
    pub dtype: DType,
    /// Rows, at least 1; 1 without patches.
    pub n_rows: usize,
    /// Columns, or lanes without patches; at least 1.
    pub n_cols: usize,
    /// Rows of a patch strip, at most 64; 0 for flat tiles.
    pub patch: usize,
    /// Key of the tensor's masks, and the tile's first row.
    pub place: (u64, u64),
    /// What a lossy delta is multiplied by; finite.
    pub gain: f32,
}

impl Tile {
    fn target(&self) -> Target {
        let &Tile { dtype, n_rows, n_cols, patch, place: (key, first_row), gain } = self;
        Target { dtype, n_rows, n_cols, patch, place: MaskPlace { key, first_row }, gain }
    }

    /// Bytes it restores to.
    pub fn n_bytes(&self) -> usize {
        self.target().n_bytes()
    }

    /// The codec with this stored code, if such a tile may have it.
    fn codec(&self, code: u16) -> Result<&'static dyn Codec> {
        codec::of_tile(code, &self.target())
    }

    /// Most bytes of a payload of this codec.
    ///
    /// # Errors
    /// `Corrupt` or `Incompatible`.
    pub fn max_len(&self, codec: u16) -> Result<usize> {
        Ok(self.codec(codec)?.max_len(&self.target()))
    }

    /// Bytes that a payload's parts have together.
    ///
    /// # Errors
    /// `Corrupt` or `Incompatible`.
    pub fn parts(&self, codec: u16, payload: &[u8]) -> Result<usize> {
        let parts = self.codec(codec)?.parts(payload, &self.target())?;
        Ok(parts.iter().map(|(_, n)| n).sum())
    }
}

/// Restores tiles as one worker does: buffers of one tile are there for the next.
#[derive(Debug, Default)]
pub struct Worker(Scratch);

impl Worker {
    /// Decodes a payload into `out`, which has the tile's bytes. `base` has the tile's elements.
    ///
    /// # Errors
    /// `Corrupt` or `Incompatible`.
    pub fn decode(
        &mut self,
        codec: u16,
        payload: &[u8],
        tile: &Tile,
        base: Option<(DType, &[u8])>,
        out: &mut [u8],
    ) -> Result<()> {
        let base = base.map(|(dtype, bytes)| Operand { dtype, bytes });
        tile.codec(codec)?.decode(payload, &tile.target(), base, &mut self.0, out)
    }
}
