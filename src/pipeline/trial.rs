//! A checkpoint as a restore would give it, written while it is encoded and without an archive: what a
//! score is taken of.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use crate::checkpoint::{CheckpointWriter, parse_layout};
use crate::error::{Error, Result};
use crate::pipeline::base_shift::Task;
use crate::pipeline::encode::{Run, encode_units};
use crate::pipeline::inputs::Inputs;
use crate::pipeline::schedule::units;
use crate::pipeline::stored_delta::{Shift, Sides, StoredDelta};

/// Bytes of a side file copied at a time.
const PIECE: u64 = 1 << 20;

/// Writes what the fine-tune would be restored to with these parameters.
pub(crate) fn write_trial(
    task: &Task<'_>,
    vector: Option<&Arc<StoredDelta<'_>>>,
    [lambda, eta]: [f32; 2],
    dir: &Path,
) -> Result<()> {
    let Task { inputs, options, observer, earlier, .. } = *task;
    let mut writer = CheckpointWriter::create(dir, false)?;
    for shard in inputs.ft.shards() {
        writer.start_shard(&parse_layout(&shard.file_name, &shard.header, "fine-tune")?)?;
    }
    let shift = vector.map(|v| Shift { vector: Arc::clone(v), lambda });
    let sides = match &shift {
        Some(shift) if lambda != 0.0 => Sides::ShiftedBase(shift),
        _ => Sides::AsTheyAre,
    };
    let units = units(&inputs.pair, options.method.lossy());
    let run = Run { sides, gain: eta, ..Run::new(&units, 0, earlier, options.seed) };
    let places = places(inputs);
    encode_units(inputs, options, &run, observer, |tensor, tile| {
        let t = &inputs.ft.tensors()[tensor];
        let at = inputs.pair.items[tensor].tiling.get(tile.part);
        let start = at.bytes(t.dtype.lane_bytes()).start;
        for (shard, offset) in &places[tensor] {
            writer.write_at(*shard, offset + start, tile.restored.bytes())?;
        }
        Ok(())
    })?;
    copy_side_files(inputs, &mut writer)?;
    writer.write_index(inputs.ft.has_index())?;
    writer.commit()
}

/// For each tensor with tiles, where they go: shard and offset, several if others have the same bytes.
fn places(inputs: &Inputs) -> Vec<Vec<(usize, u64)>> {
    let mut places = vec![Vec::new(); inputs.pair.items.len()];
    for (i, (t, p)) in inputs.ft.tensors().iter().zip(&inputs.pair.items).enumerate() {
        places[p.item.source(i)].push((t.shard, t.offset));
    }
    places
}

fn copy_side_files(inputs: &Inputs, writer: &mut CheckpointWriter) -> Result<()> {
    for side_file in &inputs.side_files {
        let failed = |e| Error::io("read", &side_file.path, e);
        let mut file = std::fs::File::open(&side_file.path).map_err(failed)?;
        let pieces = std::iter::from_fn(|| {
            let mut piece = Vec::new();
            match (&mut file).take(PIECE).read_to_end(&mut piece) {
                Ok(0) => None,
                Ok(_) => Some(Ok(piece)),
                Err(e) => Some(Err(failed(e))),
            }
        });
        writer.write_side_file(&side_file.name, pieces)?;
    }
    Ok(())
}
