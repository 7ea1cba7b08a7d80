//! A variant whose seal is lost: its frames are found behind its head, and what they restore to is worked
//! out anew, which takes the base.

use std::collections::BTreeMap;

use crate::archive::format::BLOB_PIECE;
use crate::archive::index::IndexEntry;
use crate::archive::reader::{Archive, Stored};
use crate::archive::record::{BlobSeal, Head, Seal, TensorSeal};
use crate::archive::store::FrameStore;
use crate::archive::walk::Found;
use crate::checkpoint::parse_header;
use crate::error::{Error, Result};
use crate::frame::{HEADER_LEN, Kind, stored_len};

/// Offsets and lengths of the frames behind a head, by kind, item and part.
pub(super) type Places = BTreeMap<(u8, u32, u32), (u64, u32)>;

/// What a seal says of a tensor, but for where its frames stand.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct TensorHashes {
    pub(crate) base_hash: u128,
    pub(crate) base_probe: u64,
    /// `None` if it does not decode.
    pub(crate) restored_hash: Option<u128>,
}

/// What the frames of a variant restore to.
#[derive(Debug, Default)]
pub(crate) struct Rehashed {
    /// One for each tensor.
    pub(crate) tensors: Vec<TensorHashes>,
    /// One for each side file; `None` if it is not whole.
    pub(crate) side_files: Vec<Option<u128>>,
}

/// Decodes, for those who make seals anew.
pub(crate) trait Rehash {
    /// Holds the base to a variant whose seal is whole.
    ///
    /// # Errors
    /// `Mismatch` if it is another.
    fn check(&mut self, stored: &Stored) -> Result<()>;

    /// Works out what a variant of an archive that is being written restores to.
    fn hashes(&mut self, archive: &Archive, stored: &Stored) -> Result<Rehashed>;
}

/// The frames of a variant that stand behind its head, up to the next record or footer.
pub(super) fn places(frames: &FrameStore, entry: &IndexEntry) -> Result<Places> {
    let mut places = Places::new();
    let mut walk = frames.walk(entry.head_offset + entry.head_len, frames.file_len()?);
    while let Some(found) = walk.next()? {
        let (offset, header) = match found {
            Found::Frame { offset, header } => (offset, header),
            Found::Footer(_) => break,
            Found::Gap { .. } | Found::Unknown { .. } => continue,
        };
        let label = header.label;
        if label.variant != entry.id || !matches!(label.kind, Kind::Tile | Kind::Blob) {
            break;
        }
        if let Some(len) = header.body_len.checked_add(HEADER_LEN as u32) {
            let key = (label.kind as u8, label.item, label.part);
            places.entry(key).or_insert((offset, len));
        }
    }
    Ok(places)
}

/// Where the frames of this kind, variant and item stand: one after the other, or where they were found.
/// One that was not found has no length.
pub(super) fn stand(
    found: Option<&Places>,
    (kind, _, item): (Kind, u32, usize),
    mut at: u64,
    lens: &[u32],
) -> Vec<(u64, u32)> {
    let place = |(part, len): (u32, &u32)| match found {
        Some(found) => found.get(&(kind as u8, item as u32, part)).copied().unwrap_or((0, 0)),
        None => {
            let here = (at, *len);
            at = at.saturating_add(u64::from(*len));
            here
        }
    };
    (0..).zip(lens).map(place).collect()
}

/// A seal with as many frames as each tensor and side file of `head` has, and nothing said of them. A
/// file of `file_len` bytes has room for them.
pub(super) fn blank(head: &Head, file_len: u64) -> Result<Seal> {
    let room = file_len / stored_len(0) as u64;
    let mut n_frames = 0u64;
    let mut lens = |n: u64| {
        n_frames = n_frames.saturating_add(n);
        if n_frames > room {
            return Err(Error::corrupt("its seal is lost, and its head has more tiles than fit"));
        }
        Ok(vec![0; n as usize])
    };
    let mut infos = Vec::new();
    for (i, shard) in head.shards.iter().enumerate() {
        let found = parse_header(&shard.header, shard.file_len, i, "stored header");
        infos.extend(found.map_err(|e| Error::corrupt(e.to_string()))?);
    }
    let mut tensors = Vec::new();
    for (t, item) in infos.iter().zip(&head.items) {
        let tiling = item.tiling(t.dtype, &t.shape, t.n_bytes);
        let tiling = tiling.ok_or_else(|| Error::corrupt("its shape cannot be cut"))?;
        tensors.push(TensorSeal { frame_lens: lens(tiling.len())?, ..TensorSeal::default() });
    }
    let mut blobs = Vec::new();
    for file in &head.side_files {
        let frame_lens = lens(file.len.div_ceil(BLOB_PIECE as u64))?;
        blobs.push(BlobSeal { frame_lens, ..BlobSeal::default() });
    }
    Ok(Seal { tensors, blobs, measured: Vec::new() })
}

impl Rehashed {
    /// Writes the hashes into a seal; returns tensors and side files that have none.
    pub(super) fn fill(self, seal: &mut Seal) -> (Vec<usize>, Vec<usize>) {
        let (mut tensors, mut files) = (Vec::new(), Vec::new());
        for (i, (t, hashes)) in seal.tensors.iter_mut().zip(self.tensors).enumerate() {
            t.base_hash = hashes.base_hash;
            t.base_probe = hashes.base_probe;
            match hashes.restored_hash {
                Some(hash) => t.restored_hash = hash,
                None => tensors.push(i),
            }
        }
        for (i, (b, hash)) in seal.blobs.iter_mut().zip(self.side_files).enumerate() {
            match hash {
                Some(hash) => b.hash = hash,
                None => files.push(i),
            }
        }
        (tensors, files)
    }
}
