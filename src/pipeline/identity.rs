//! Hashes that tie an archive to its base, to what it restores, and masks to their tensors.

use std::ops::Range;

use xxhash_rust::xxh3::{Xxh3, xxh3_64, xxh3_64_with_seed};

use crate::archive::{Item, Origin};
use crate::checkpoint::{Source, TensorInfo};
use crate::codec::mask::MaskPlace;
use crate::error::Result;
use crate::tensor::{DType, Tile};

/// Bytes at each end of a tensor that its probe covers.
const PROBE: u64 = 4096;

/// The hashes of one tensor, fed tile by tile in order.
#[derive(Default)]
pub(crate) struct TensorHasher {
    base: Option<Box<Xxh3>>,
    restored: Option<Box<Xxh3>>,
}

impl TensorHasher {
    /// Adds one tile.
    pub(crate) fn update(&mut self, base: Option<&[u8]>, restored: &[u8]) {
        if let Some(base) = base {
            self.base.get_or_insert_default().update(base);
        }
        self.restored.get_or_insert_default().update(restored);
    }

    /// Hash of the base bytes (0 without any) and of the restored bytes; starts afresh.
    pub(crate) fn finish(&mut self) -> (u128, u128) {
        let base = self.base.take().map_or(0, |h| h.digest128());
        (base, self.restored.take().unwrap_or_default().digest128())
    }
}

/// Where a tile that starts at row `first_row` of a tensor is drawn for: its key is the name's hash
/// with the variant's seed.
pub(crate) fn mask_place(seed: u64, name: &str, first_row: u64) -> MaskPlace {
    MaskPlace { key: xxh3_64_with_seed(name.as_bytes(), seed), first_row }
}

/// Bytes of the base's tensor that an item uses.
pub(crate) fn base_bytes_used(item: &Item) -> u64 {
    match item.origin {
        Origin::Base { dtype, n_elements } => {
            (u128::from(n_elements) * dtype.bits() as u128 / 8) as u64
        }
        _ => 0,
    }
}

/// Where a tile of a tensor of this dtype lies inside the base's tensor; `None` if it has no base there.
pub(crate) fn base_range(item: &Item, dtype: DType, tile: &Tile) -> Option<Range<u64>> {
    let Origin::Base { dtype: base, .. } = item.origin else { return None };
    // Lanes are elements unless the dtype is complex or narrower than a byte; then both sides have
    // the same dtype.
    let width = if base == dtype { dtype.lane_bytes() } else { base.bits() / 8 };
    Some(tile.bytes(width)).filter(|range| range.end <= base_bytes_used(item))
}

/// Hash of the first and last bytes that an item uses of its base tensor: another base is seen
/// without reading it.
pub(crate) fn base_probe(source: &Source, base: &TensorInfo, used: u64) -> Result<u64> {
    let n = PROBE.min(used);
    let mut bytes = source.peek(base.shard, base.offset, n as usize)?.to_vec();
    bytes.extend_from_slice(&source.peek(base.shard, base.offset + used - n, n as usize)?);
    Ok(xxh3_64(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use xxhash_rust::xxh3::xxh3_128;

    #[test]
    fn tiles_hash_as_the_whole_and_the_hasher_starts_afresh() {
        let mut hasher = TensorHasher::default();
        hasher.update(Some(b"ab"), b"x");
        hasher.update(Some(b"c"), b"yz");
        assert_eq!(hasher.finish(), (xxh3_128(b"abc"), xxh3_128(b"xyz")));
        assert_eq!(hasher.finish(), (0, xxh3_128(b"")));
    }
}
