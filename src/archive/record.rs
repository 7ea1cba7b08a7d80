//! The records of a variant: the head says what it is before its tiles are written, the seal what is
//! known afterwards.

use crate::error::{Error, Result};
use crate::tensor::{DType, Tiling};
use crate::wire::{Reader, Writer};

/// Fewest bytes of a shard header that describe one tensor.
const MIN_ENTRY: usize = 48;

/// One variant's description, written before its first tile. Tensor names, dtypes and shapes are in
/// the shard headers, which are kept verbatim.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Head {
    pub(crate) name: String,
    /// Stored code of the method.
    pub(crate) method: u16,
    /// All of the method's settings, as a person would type them.
    pub(crate) settings: Vec<(String, String)>,
    pub(crate) seed: u64,
    /// Name and version of the tool that wrote it.
    pub(crate) tool: String,
    /// Whether the fine-tune had an index file.
    pub(crate) has_index: bool,
    pub(crate) shards: Vec<StoredShard>,
    /// One for each tensor, in file order of the shards.
    pub(crate) items: Vec<Item>,
    pub(crate) side_files: Vec<SideFile>,
    /// How its base was shifted before the delta was taken. Not stored where it was not.
    pub(crate) shift: Option<ShiftRecord>,
}

/// How a base was shifted: the delta is against base + `lambda` x vector, and is multiplied by `eta`
/// when it is decoded.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct ShiftRecord {
    /// Id of the base vector; `None` if only `eta` matters.
    pub(crate) vector: Option<u32>,
    pub(crate) lambda: f32,
    pub(crate) eta: f32,
}

/// A shard's file name and its header, length prefix included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoredShard {
    pub(crate) file_name: String,
    pub(crate) file_len: u64,
    pub(crate) header: Vec<u8>,
}

/// A file carried beside the weights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SideFile {
    pub(crate) name: String,
    pub(crate) len: u64,
}

/// How one tensor is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Item {
    pub(crate) origin: Origin,
    /// Tiles are strips of so many rows of matrices; 0 for flat tiles.
    pub(crate) patch: u16,
    /// Whether it is stored with loss.
    pub(crate) lossy: bool,
}

/// What a tensor is restored from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The archive alone.
    Whole,
    /// The base's tensor of the same name: its dtype and how many of its leading elements are used.
    Base { dtype: DType, n_elements: u64 },
    /// Another tensor of the variant with the same bytes, by its position.
    Alias(u32),
}

impl Item {
    /// Whether it has frames of its own.
    pub(crate) fn has_tiles(&self) -> bool {
        !matches!(self.origin, Origin::Alias(_))
    }

    /// Position of the tensor whose frames restore the one at `i`, whose item this is.
    pub(crate) fn source(&self, i: usize) -> usize {
        match self.origin {
            Origin::Alias(of) => of as usize,
            _ => i,
        }
    }

    /// How a tensor of this dtype and shape is cut; `None` if the item cannot belong to it.
    pub(crate) fn tiling(&self, dtype: DType, shape: &[u64], n_bytes: u64) -> Option<Tiling> {
        if matches!(self.origin, Origin::Alias(_)) {
            return Some(Tiling::flat(0, 1, 0));
        }
        if self.patch > 0 {
            return Tiling::matrix(shape, dtype.lane_bytes(), u64::from(self.patch));
        }
        let lane = dtype.lane_bytes();
        let n = n_bytes / lane as u64;
        let common = match self.origin {
            Origin::Base { n_elements, .. } => {
                // Elements and lanes differ for complex and sub-byte dtypes.
                (u128::from(n_elements) * dtype.bits() as u128 / (lane as u128 * 8)) as u64
            }
            _ => 0,
        };
        Some(Tiling::flat(n, lane, common))
    }
}

/// What is known once a variant's tiles are written.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Seal {
    /// One for each tensor.
    pub(crate) tensors: Vec<TensorSeal>,
    /// One for each side file.
    pub(crate) blobs: Vec<BlobSeal>,
    /// Facts the method found about the whole model, by name. Not stored where there are none.
    pub(crate) measured: Vec<(String, String)>,
}

/// Where a tensor's tiles stand and what must come out of them.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct TensorSeal {
    /// xxh3-128 of the base bytes it needs; 0 if it needs none.
    pub(crate) base_hash: u128,
    /// xxh3-64 of the first and last 4 KiB of those bytes: a wrong base is seen before any work.
    pub(crate) base_probe: u64,
    /// xxh3-128 of the restored bytes.
    pub(crate) restored_hash: u128,
    /// Offset of its first frame; the others follow it.
    pub(crate) offset: u64,
    /// Bytes of each frame, header included.
    pub(crate) frame_lens: Vec<u32>,
    /// Sum of squares of fine-tune minus restored.
    pub(crate) squared_error: f64,
    /// Sum of squares of the delta.
    pub(crate) squared_delta: f64,
}

impl TensorSeal {
    /// Bytes of all its frames.
    pub(crate) fn stored_bytes(&self) -> u64 {
        self.frame_lens.iter().map(|n| u64::from(*n)).sum()
    }

    pub(super) fn write(&self, w: &mut Writer) -> Result<()> {
        w.u128(self.base_hash);
        w.u64(self.base_probe);
        w.u128(self.restored_hash);
        w.u64(self.offset);
        lens(w, &self.frame_lens)?;
        w.f64(self.squared_error);
        w.f64(self.squared_delta);
        Ok(())
    }

    pub(super) fn read(r: &mut Reader<'_>) -> Result<Self> {
        Ok(Self {
            base_hash: r.u128()?,
            base_probe: r.u64()?,
            restored_hash: r.u128()?,
            offset: r.u64()?,
            frame_lens: list(r, 4, Reader::u32)?,
            squared_error: r.f64()?,
            squared_delta: r.f64()?,
        })
    }
}

/// Where a side file's pieces stand.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct BlobSeal {
    /// xxh3-128 of the file.
    pub(crate) hash: u128,
    pub(crate) offset: u64,
    pub(crate) frame_lens: Vec<u32>,
}

impl Head {
    pub(crate) fn to_bytes(&self) -> Result<Vec<u8>> {
        let mut w = Writer::default();
        w.str(&self.name)?;
        w.u16(self.method);
        pairs(&mut w, &self.settings)?;
        w.u64(self.seed);
        w.str(&self.tool)?;
        w.u8(u8::from(self.has_index));
        w.count(self.shards.len())?;
        for shard in &self.shards {
            w.str(&shard.file_name)?;
            w.u64(shard.file_len);
            w.bytes(&shard.header)?;
        }
        w.count(self.items.len())?;
        for item in &self.items {
            item.write(&mut w);
        }
        w.count(self.side_files.len())?;
        for file in &self.side_files {
            w.str(&file.name)?;
            w.u64(file.len);
        }
        if let Some(shift) = &self.shift {
            shift.write(&mut w);
        }
        Ok(w.0)
    }

    pub(crate) fn parse(bytes: &[u8]) -> Result<Self> {
        let r = &mut Reader::new(bytes);
        let name = r.str()?;
        let method = r.u16()?;
        let settings = list(r, 8, |r| Ok((r.str()?, r.str()?)))?;
        let seed = r.u64()?;
        let tool = r.str()?;
        let has_index = flag(r)?;
        let shards = list(r, 16, |r| {
            let (file_name, file_len) = (r.str()?, r.u64()?);
            Ok(StoredShard { file_name, file_len, header: r.bytes()?.to_vec() })
        })?;
        let headers: usize = shards.iter().map(|s| s.header.len()).sum();
        let items = list(r, 4, Item::read)?;
        // A tensor takes more than this in its header; a longer list would only cost memory.
        if items.len() > headers / MIN_ENTRY {
            return Err(Error::corrupt("more items than the headers have tensors"));
        }
        let side_files = list(r, 12, |r| Ok(SideFile { name: r.str()?, len: r.u64()? }))?;
        let shift = if r.is_empty() { None } else { Some(ShiftRecord::read(r)?) };
        r.end()?;
        Ok(Self { name, method, settings, seed, tool, has_index, shards, items, side_files, shift })
    }
}

impl ShiftRecord {
    fn write(&self, w: &mut Writer) {
        w.u8(u8::from(self.vector.is_some()));
        w.u32(self.vector.unwrap_or(0));
        w.u32(self.lambda.to_bits());
        w.u32(self.eta.to_bits());
    }

    fn read(r: &mut Reader<'_>) -> Result<Self> {
        let (has_vector, vector) = (flag(r)?, r.u32()?);
        let (lambda, eta) = (f32::from_bits(r.u32()?), f32::from_bits(r.u32()?));
        if !lambda.is_finite() || !eta.is_finite() {
            return Err(Error::corrupt("the base shift is not finite"));
        }
        Ok(Self { vector: has_vector.then_some(vector), lambda, eta })
    }
}

impl Item {
    fn write(&self, w: &mut Writer) {
        match self.origin {
            Origin::Whole => w.u8(0),
            Origin::Base { dtype, n_elements } => {
                w.u8(1);
                w.u8(dtype as u8);
                w.u64(n_elements);
            }
            Origin::Alias(of) => {
                w.u8(2);
                w.u32(of);
            }
        }
        w.u16(self.patch);
        w.u8(u8::from(self.lossy));
    }

    fn read(r: &mut Reader<'_>) -> Result<Self> {
        let origin = match r.u8()? {
            0 => Origin::Whole,
            1 => Origin::Base { dtype: DType::from_code(r.u8()?)?, n_elements: r.u64()? },
            2 => Origin::Alias(r.u32()?),
            code => return Err(Error::unknown("tensor origin", code)),
        };
        Ok(Self { origin, patch: r.u16()?, lossy: flag(r)? })
    }
}

impl Seal {
    /// Bytes of all frames of its tensors.
    pub(crate) fn stored_bytes(&self) -> u64 {
        self.tensors.iter().map(TensorSeal::stored_bytes).sum()
    }

    pub(crate) fn to_bytes(&self) -> Result<Vec<u8>> {
        let mut w = Writer::default();
        w.count(self.tensors.len())?;
        for t in &self.tensors {
            t.write(&mut w)?;
        }
        w.count(self.blobs.len())?;
        for b in &self.blobs {
            w.u128(b.hash);
            w.u64(b.offset);
            lens(&mut w, &b.frame_lens)?;
        }
        if !self.measured.is_empty() {
            pairs(&mut w, &self.measured)?;
        }
        Ok(w.0)
    }

    pub(crate) fn parse(bytes: &[u8]) -> Result<Self> {
        let r = &mut Reader::new(bytes);
        let tensors = list(r, 68, TensorSeal::read)?;
        let blobs = list(r, 28, |r| {
            Ok(BlobSeal { hash: r.u128()?, offset: r.u64()?, frame_lens: list(r, 4, Reader::u32)? })
        })?;
        let measured =
            if r.is_empty() { Vec::new() } else { list(r, 8, |r| Ok((r.str()?, r.str()?)))? };
        r.end()?;
        Ok(Self { tensors, blobs, measured })
    }
}

fn flag(r: &mut Reader<'_>) -> Result<bool> {
    match r.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        other => Err(Error::corrupt(format!("{other} where a flag is 0 or 1"))),
    }
}

fn pairs(w: &mut Writer, pairs: &[(String, String)]) -> Result<()> {
    w.count(pairs.len())?;
    for (key, value) in pairs {
        w.str(key)?;
        w.str(value)?;
    }
    Ok(())
}

fn lens(w: &mut Writer, lens: &[u32]) -> Result<()> {
    w.count(lens.len())?;
    lens.iter().for_each(|n| w.u32(*n));
    Ok(())
}

/// A counted list of entries of at least `min_bytes` stored bytes each.
pub(super) fn list<'a, T>(
    r: &mut Reader<'a>,
    min_bytes: usize,
    mut read: impl FnMut(&mut Reader<'a>) -> Result<T>,
) -> Result<Vec<T>> {
    let n = r.count(min_bytes)?;
    let mut out = Vec::new();
    for _ in 0..n {
        out.push(read(r)?);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head() -> Head {
        Head {
            name: "v".into(),
            method: 2,
            settings: vec![("patch".into(), "16".into())],
            seed: 7,
            tool: "delta-stream 0.1.0".into(),
            has_index: true,
            shards: vec![StoredShard { file_name: "a".into(), file_len: 10, header: vec![1; 200] }],
            items: vec![
                Item { origin: Origin::Whole, patch: 0, lossy: false },
                Item {
                    origin: Origin::Base { dtype: DType::BF16, n_elements: 5 },
                    patch: 16,
                    lossy: true,
                },
                Item { origin: Origin::Alias(0), patch: 0, lossy: false },
            ],
            side_files: vec![SideFile { name: "config.json".into(), len: 2 }],
            shift: None,
        }
    }

    fn seal() -> Seal {
        let tensor = TensorSeal { frame_lens: vec![1, 2], offset: 9, ..TensorSeal::default() };
        let blob = BlobSeal { hash: 1, offset: 2, frame_lens: vec![3] };
        Seal { tensors: vec![tensor], blobs: vec![blob], measured: Vec::new() }
    }

    #[test]
    fn records_come_back() {
        assert_eq!(Head::parse(&head().to_bytes().unwrap()).unwrap(), head());
        for vector in [None, Some(0), Some(7)] {
            let shift = Some(ShiftRecord { vector, lambda: 0.5, eta: 1.25 });
            let head = Head { shift, ..head() };
            assert_eq!(Head::parse(&head.to_bytes().unwrap()).unwrap(), head);
        }
        assert_eq!(Seal::parse(&seal().to_bytes().unwrap()).unwrap(), seal());
    }

    #[test]
    fn a_record_cut_anywhere_is_refused() {
        let (head, seal) = (head().to_bytes().unwrap(), seal().to_bytes().unwrap());
        assert!((0..head.len()).all(|n| Head::parse(&head[..n]).is_err()));
        assert!((0..seal.len()).all(|n| Seal::parse(&seal[..n]).is_err()));
    }
}
