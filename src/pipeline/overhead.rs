//! Bytes that an archive has beside its tiles, known before anything is encoded. Records of what will be
//! found are made of numbers that compress as little as the real ones.

use xxhash_rust::xxh3::xxh3_64;

use crate::archive::{ArchiveWriter, Seal, TensorSeal};
use crate::error::Result;
use crate::method::Measured;
use crate::pair::PairItem;
use crate::pipeline::base_shift::vector_head;
use crate::pipeline::compress::write_side_files;
use crate::pipeline::inputs::Inputs;
use crate::pipeline::options::CompressOptions;

/// Bytes a new archive of this fine-tune has beside its tiles, and beside a base vector.
pub(crate) fn overhead_bytes(inputs: &Inputs, options: &CompressOptions) -> Result<u64> {
    let mut writer = ArchiveWriter::dry()?;
    let place = writer.write_head(&inputs.head(options))?;
    let blobs = write_side_files(inputs, &mut writer)?;
    let tensors = inputs.pair.items.iter().enumerate().map(seal).collect();
    let seal = Seal { tensors, blobs, measured: Measured::new() };
    writer.finish_variant(&inputs.name, place, &seal)?;
    writer.commit()
}

/// Bytes a base vector takes beside its tiles.
pub(crate) fn vector_overhead_bytes(inputs: &Inputs, options: &CompressOptions) -> Result<u64> {
    let mut writer = ArchiveWriter::dry()?;
    let before = writer.added();
    let (head, items) = vector_head(inputs, options, &inputs.name)?;
    let place = writer.write_head(&head)?;
    let all = inputs.pair.items.iter().enumerate().zip(&items);
    let tensors = all.filter(|(_, item)| **item != u32::MAX).map(|(p, _)| seal(p)).collect();
    let seal = Seal { tensors, blobs: Vec::new(), measured: Measured::new() };
    writer.finish_variant(&head.name, place, &seal)?;
    Ok(writer.added() - before)
}

/// A made-up seal of one tensor.
fn seal((i, p): (usize, &PairItem)) -> TensorSeal {
    let random = |j: u64| xxh3_64(&[(i as u64).to_le_bytes(), j.to_le_bytes()].concat());
    let wide = |j| u128::from(random(j)) << 64 | u128::from(random(j + 1));
    TensorSeal {
        base_hash: if p.base.is_some() { wide(0) } else { 0 },
        base_probe: if p.base.is_some() { random(2) } else { 0 },
        restored_hash: wide(3),
        offset: random(5) >> 32,
        frame_lens: (0..p.tiling.len()).map(|j| random(6 + j) as u32 >> 12).collect(),
        squared_error: if p.item.lossy { 1.0 / random(7) as f64 } else { 0.0 },
        squared_delta: if p.item.lossy { 1.0 / random(8) as f64 } else { 0.0 },
    }
}
