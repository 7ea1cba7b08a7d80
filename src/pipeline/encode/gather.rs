//! What the sink makes of tiles that were worked on.

use crate::error::Result;
use crate::pipeline::encode::{Done, EncodedTile};
use crate::pipeline::known::survey_at;
use crate::pipeline::merge::Merger;
use crate::pipeline::options::Observer;
use crate::pipeline::schedule::{Block, Unit};
use crate::survey::TileStats;

/// A tile that was worked on.
pub(super) struct Worked {
    pub(super) block: Block,
    /// Position in the unit.
    pub(super) tile_idx: u64,
    /// Bytes of the fine-tune in it.
    pub(super) n_bytes: u64,
    pub(super) result: Outcome,
}

/// A survey's result, or a finished frame.
pub(super) enum Outcome {
    Surveyed(TileStats),
    /// By an earlier run.
    Known(TileStats),
    /// By this one, and the sink has heard of it.
    Told(TileStats),
    Encoded(Box<EncodedTile>),
}

/// The outcome of a tile that was encoded.
pub(super) fn encoded(tile: EncodedTile) -> Outcome {
    Outcome::Encoded(Box::new(tile))
}

/// Gathers results: surveys for the merger, and what is to be kept for the sink of the run.
pub(super) struct Gather<'a, S, R> {
    pub(super) units: &'a [Unit],
    pub(super) observer: &'a dyn Observer,
    pub(super) merger: Option<Merger<'a>>,
    pub(super) sink: S,
    /// Takes a tile's buffers back.
    pub(super) recycle: R,
    /// Bytes of the fine-tune that are done, of all that are read.
    pub(super) done: u64,
    pub(super) total: u64,
}

impl<S, R> Gather<'_, S, R>
where
    S: FnMut(Done<'_>) -> Result<()>,
    R: Fn(EncodedTile),
{
    /// Tells the sink what a survey found, once; also of a tile that waits for others, so that a run which is
    /// cut off meanwhile need not survey it again.
    pub(super) fn tell(&mut self, worked: &mut Worked) -> Result<()> {
        if let Outcome::Surveyed(stats) = &mut worked.result {
            let at = survey_at(&self.units[worked.block.unit], worked.block.pass, worked.tile_idx);
            (self.sink)(Done::Surveyed(at, stats))?;
            let stats = std::mem::replace(stats, TileStats::NonFinite);
            worked.result = Outcome::Told(stats);
        }
        Ok(())
    }

    /// Adds the next tile in order.
    pub(super) fn add(&mut self, mut worked: Worked) -> Result<()> {
        self.observer.check()?;
        self.done += worked.n_bytes;
        self.observer.progress(self.done, self.total);
        self.tell(&mut worked)?;
        let (stats, is_known) = match worked.result {
            Outcome::Encoded(tile) => {
                (self.sink)(Done::Encoded(self.units[worked.block.unit].tensor, &tile))?;
                (self.recycle)(*tile);
                return Ok(());
            }
            Outcome::Known(stats) => (stats, true),
            Outcome::Surveyed(stats) | Outcome::Told(stats) => (stats, false),
        };
        let Some(merger) = &mut self.merger else { return Ok(()) };
        let Block { unit, pass } = worked.block;
        if let Some(whole) = merger.add(worked.block, stats)?.filter(|_| !is_known) {
            for i in 0..self.units[unit].n_tiles() {
                let found = if i == 0 { &whole } else { &TileStats::NonFinite };
                (self.sink)(Done::Surveyed(survey_at(&self.units[unit], pass, i), found))?;
            }
        }
        Ok(())
    }
}
