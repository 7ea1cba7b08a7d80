//! How large a part can become, known before anything of its share is read.

use crate::archive::BLOB_PIECE;
use crate::codec::mask::MaskPlace;
use crate::codec::planes::Planes;
use crate::codec::{Codec, Target};
use crate::error::{Error, Result};
use crate::frame;
use crate::pair::PairItem;
use crate::pipeline::inputs::Inputs;
use crate::pipeline::options::CompressOptions;
use crate::pipeline::parts::PartOptions;
use crate::pipeline::parts::share::Task;

/// Bytes of an entry beside what surveys found in it and the frame that follows it, at most.
const ENTRY: u64 = 128;
/// Bytes of what a survey finds in a tile, at most: methods that decide about the whole model, and no others
/// have rounds that survey, count 256 levels there, four bytes each.
const SURVEY: u64 = 2 << 10;
/// Bytes of what a part has once: what it is of, what was measured, its end. At most.
const ONCE: u64 = 64 << 10;

/// Most bytes of a part.
pub(super) fn most_bytes(
    inputs: &Inputs,
    options: &CompressOptions,
    task: &Task,
    part: &PartOptions,
) -> Result<u64> {
    let of_round = match task.ends_with(options) {
        Some(_) => surveys(inputs, options, task, part)?,
        None => frames(inputs, options, task, part)?,
    };
    Ok(ONCE + of_round)
}

/// What surveys find in this round, and what they found in those before it.
fn surveys(
    inputs: &Inputs,
    options: &CompressOptions,
    task: &Task,
    part: &PartOptions,
) -> Result<u64> {
    let known = part.surveys.as_deref().map_or(Ok(0), |path| {
        path.metadata().map(|found| found.len()).map_err(|e| Error::io("examine", path, e))
    })?;
    let units = task.units(inputs, options);
    let own = units.iter().filter(|unit| task.share.contains(&unit.tensor));
    // What stands for a whole matrix comes behind what its tiles had.
    let n_surveys: u64 = own.map(|unit| 2 * unit.n_surveys as u64 * unit.n_tiles()).sum();
    Ok(known + n_surveys * (SURVEY + ENTRY))
}

/// The frames of a share; with the first part comes the head, with the last come the side files.
fn frames(
    inputs: &Inputs,
    options: &CompressOptions,
    task: &Task,
    part: &PartOptions,
) -> Result<u64> {
    let frame = |n_bytes: usize| ENTRY + frame::max_len(n_bytes) as u64;
    let mut most = 0;
    if part.part == 1 {
        most += frame(inputs.head(options).to_bytes()?.len());
    }
    for tensor in task.share.clone() {
        let p = &inputs.pair.items[tensor];
        let tiles = (0..p.tiling.len()).map(|i| frame(payload(inputs, options, (tensor, p), i)));
        most += ENTRY + tiles.sum::<u64>();
    }
    if part.part == part.split.parts {
        let pieces = |len: u64| len / BLOB_PIECE as u64 * frame(BLOB_PIECE);
        let whole = |len: u64| pieces(len) + frame(len as usize % BLOB_PIECE);
        most += inputs.side_files.iter().map(|file| ENTRY + whole(file.len)).sum::<u64>();
    }
    Ok(most)
}

/// Most bytes of the payload of one tile. Any tile may have to be kept exactly.
fn payload(
    inputs: &Inputs,
    options: &CompressOptions,
    (tensor, p): (usize, &PairItem),
    i: u64,
) -> usize {
    let tile = p.tiling.get(i);
    let target = Target {
        dtype: inputs.ft.tensors()[tensor].dtype,
        n_rows: tile.n_rows,
        n_cols: tile.n_cols,
        patch: usize::from(p.item.patch),
        place: MaskPlace::default(),
        gain: 1.0,
    };
    let lossy = options.method.lossy().filter(|_| p.item.lossy);
    lossy.map_or(0, |method| method.max_len(&target)).max(Planes.max_len(&target))
}
