//! Writes what workers make of a variant: its tiles in order, what they hash to, and notes for a run that
//! goes on from here.

use crate::archive::{
    ArchiveWriter, Item, Kept, KeptTile, Origin, SealNote, Sums, TensorSeal, TileSink,
};
use crate::error::Result;
use crate::method::{Measured, RowRates};
use crate::pipeline::encode::{EncodedTile, Run, encode_units};
use crate::pipeline::identity::{TensorHasher, base_bytes_used, base_probe};
use crate::pipeline::inputs::Inputs;
use crate::pipeline::options::{CompressOptions, Observer};
use crate::tensor::Tiling;

/// What is known of a variant once its tiles are written.
pub(crate) struct Written {
    /// One for each tensor of the inputs.
    pub(crate) seals: Vec<TensorSeal>,
    pub(crate) measured: Measured,
    /// Units with their rates, where the method has such.
    pub(crate) rates: Vec<(usize, RowRates)>,
    pub(crate) sums: Sums,
}

/// Writes the tiles of a variant, but for those that are kept.
pub(crate) fn encode_variant(
    inputs: &Inputs,
    writer: &mut ArchiveWriter,
    options: &CompressOptions,
    run: &Run<'_>,
    observer: &dyn Observer,
) -> Result<Written> {
    let encoded = run.units.iter().filter(|unit| !unit.is_kept);
    let order = encoded.map(|u| (u.tensor as u32, u.tiles.start as u32..u.tiles.end as u32));
    let log = &writer.tiles(order, run.kept)?;
    encode_tiles(inputs, log, options, run, observer)
}

/// Hands the tiles of a run's units to `log`, but for those that are kept.
pub(crate) fn encode_tiles(
    inputs: &Inputs,
    log: &dyn TileSink,
    options: &CompressOptions,
    run: &Run<'_>,
    observer: &dyn Observer,
) -> Result<Written> {
    let run = &Run { log: Some(log), ..*run };
    let mut sink = CompressSink::new(inputs, log, run.kept);
    let write = |tensor, tile: &EncodedTile| sink.write(tensor, tile);
    let findings = encode_units(inputs, options, run, observer, write)?;
    let CompressSink { seals, sums, .. } = sink;
    Ok(Written { seals, measured: findings.measured, rates: findings.rates, sums })
}

/// The seals of tensors that are cut so, before any of their tiles is written.
pub(crate) fn blank_seals<'a>(tilings: impl Iterator<Item = &'a Tiling>) -> Vec<TensorSeal> {
    let blank = |tiling: &Tiling| TensorSeal {
        restored_hash: if tiling.is_empty() { TensorHasher::default().finish().1 } else { 0 },
        ..TensorSeal::default()
    };
    tilings.map(blank).collect()
}

/// Lets tensors that have another's bytes have its hash, once all tiles are written.
pub(crate) fn seal_aliases<'a>(seals: &mut [TensorSeal], items: impl Iterator<Item = &'a Item>) {
    for (i, item) in items.enumerate() {
        if let Origin::Alias(of) = item.origin {
            seals[i].restored_hash = seals[of as usize].restored_hash;
        }
    }
}

/// Writes encoded tiles in order, hashing what they stand on and what they restore to.
struct CompressSink<'a> {
    inputs: &'a Inputs,
    log: &'a dyn TileSink,
    seals: Vec<TensorSeal>,
    hasher: TensorHasher,
    sums: Sums,
    /// Those of the tensor that is being written.
    tensor_sums: Sums,
}

impl<'a> CompressSink<'a> {
    fn new(inputs: &'a Inputs, log: &'a dyn TileSink, kept: Option<&Kept>) -> Self {
        let mut seals = blank_seals(inputs.pair.items.iter().map(|p| &p.tiling));
        let mut sums = Sums::default();
        for tensor in kept.iter().flat_map(|kept| &kept.tensors) {
            sums.add(&tensor.sums);
            seals[tensor.tensor] = tensor.seal.clone();
        }
        let (hasher, tensor_sums) = (TensorHasher::default(), Sums::default());
        Self { inputs, log, seals, hasher, sums, tensor_sums }
    }

    fn write(&mut self, tensor: usize, tile: &EncodedTile) -> Result<()> {
        self.hasher.update(tile.base.as_deref(), tile.restored.bytes());
        let note = tile.note(tensor);
        let offset = match tile.kept.filter(KeptTile::is_in_archive) {
            Some(kept) => kept.offset,
            None => self.log.due(note, &tile.frame)?,
        };
        let seal = &mut self.seals[tensor];
        if tile.part == 0 {
            seal.offset = offset;
        }
        note.add_to(seal);
        self.tensor_sums.add(&note.sums());
        let item = &self.inputs.pair.items[tensor];
        if tile.part + 1 == item.tiling.len() {
            (seal.base_hash, seal.restored_hash) = self.hasher.finish();
            if let Some(base) = item.base {
                let used = base_bytes_used(&item.item);
                let base = &self.inputs.base.tensors()[base];
                seal.base_probe = base_probe(&self.inputs.base_source, base, used)?;
            }
            let &mut TensorSeal { base_hash, base_probe, restored_hash, .. } = seal;
            self.sums.add(&std::mem::take(&mut self.tensor_sums));
            let tensor = tensor as u32;
            let note = SealNote { tensor, base_hash, base_probe, restored_hash };
            self.log.sealed(note)?;
        }
        Ok(())
    }
}
