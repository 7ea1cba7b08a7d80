//! Tiles whose frames an earlier run wrote.

use crate::archive::KeptTile;
use crate::codec::{CodecId, Operand, Target};
use crate::error::Result;
use crate::frame::Decoder;
use crate::pipeline::decode::expand;
use crate::pipeline::encode::{EncodeStage, EncodeState, EncodedTile, Restored};
use crate::pipeline::identity::mask_place;
use crate::pipeline::schedule::Job;

impl EncodeStage<'_> {
    /// A tile whose frame an earlier run wrote: only what it restores to is found again, for the hashes of its
    /// tensor, and the frame read if it is not in its place yet.
    pub(super) fn keep(
        &self,
        state: &mut EncodeState,
        job: Job,
        tensor: usize,
        kept: &KeptTile,
    ) -> Result<EncodedTile> {
        let leaves_values = self.method.lossy().is_some_and(|m| m.leaves_values());
        let lossy = self.pair.items[tensor].item.lossy
            && (leaves_values || kept.codec != CodecId::Planes as u16);
        let base = self.base_operand(&job, tensor).filter(|_| lossy);
        let mut frame = self.spares.frame();
        if base.is_some() || !kept.is_in_archive() {
            self.known.read(kept, &mut frame)?;
        }
        let restored = match base {
            Some(base) => Some(self.decode(state, &job, (tensor, base), &frame)?),
            None => None,
        };
        let mut tile = EncodedTile::exact(job, frame);
        tile.kept = Some(*kept);
        if let Some(bytes) = restored {
            tile.restored = Restored::Lossy(bytes);
        }
        Ok(tile)
    }

    /// What the frame of a lossy tile decodes to.
    fn decode(
        &self,
        state: &mut EncodeState,
        job: &Job,
        (tensor, base): (usize, Operand<'_>),
        frame: &[u8],
    ) -> Result<Vec<u8>> {
        let t = &self.ft.tensors()[tensor];
        let sides = (Operand { dtype: t.dtype, bytes: &job.ft }, base);
        let (_, base) = self.run.sides.of(&t.name, &job.tile, sides, &mut state.delta)?;
        let (n_rows, n_cols) = (job.tile.n_rows, job.tile.n_cols);
        let place = mask_place(self.run.seed, &t.name, job.tile.first / n_cols as u64);
        let patch = usize::from(self.pair.items[tensor].item.patch);
        let target = Target { dtype: t.dtype, n_rows, n_cols, patch, place, gain: self.run.gain };
        let decoder = match &mut state.decoder {
            Some(decoder) => decoder,
            none => none.insert(Decoder::new()?),
        };
        let label = self.label(tensor, job.part, 0);
        let codec = expand(decoder, frame, label, &target, &mut state.payload)?;
        let mut restored = self.spares.tile(target.n_bytes());
        codec.decode(&state.payload, &target, Some(base), &mut state.scratch, &mut restored)?;
        Ok(restored)
    }
}
