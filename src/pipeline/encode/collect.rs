//! What the sink makes of tiles that were worked on.

use crate::error::Result;
use crate::pipeline::encode::{EncodedTile, Run};
use crate::pipeline::known::survey_at;
use crate::pipeline::merge::Merger;
use crate::pipeline::options::Observer;
use crate::pipeline::schedule::Block;
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
    Encoded(Box<EncodedTile>),
}

/// The outcome of a tile that was encoded.
pub(super) fn encoded(tile: EncodedTile) -> Outcome {
    Outcome::Encoded(Box::new(tile))
}

/// Hands results on: surveys to the merger, and encoded tiles to the sink of the run.
pub(super) struct Collector<'a, S, R> {
    pub(super) run: Run<'a>,
    pub(super) observer: &'a dyn Observer,
    pub(super) merger: Option<Merger<'a>>,
    pub(super) sink: S,
    /// Takes a tile's buffers back.
    pub(super) recycle: R,
    /// Bytes of the fine-tune that are done, of all that are read.
    pub(super) done: u64,
    pub(super) total: u64,
    /// What the observer was last told.
    pub(super) told: Option<&'static str>,
}

impl<S, R> Collector<'_, S, R>
where
    S: FnMut(usize, &EncodedTile) -> Result<()>,
    R: Fn(EncodedTile),
{
    /// Tells the observer that surveys begin, and then that encoding does: from there on both take turns.
    fn tell(&mut self, result: &Outcome) {
        let stage = match result {
            Outcome::Encoded(_) => "encode",
            Outcome::Surveyed(_) | Outcome::Known(_) => "survey",
        };
        if self.run.stage.is_none() && self.told != Some("encode") && self.told != Some(stage) {
            self.told = Some(stage);
            self.observer.stage(stage);
        }
    }

    /// Adds the next tile in order.
    pub(super) fn add(&mut self, worked: Worked) -> Result<()> {
        self.observer.check()?;
        self.tell(&worked.result);
        self.done += worked.n_bytes;
        self.observer.progress(self.done, self.total);
        let (stats, is_known) = match worked.result {
            Outcome::Encoded(tile) => {
                (self.sink)(self.run.units[worked.block.unit].tensor, &tile)?;
                (self.recycle)(*tile);
                return Ok(());
            }
            Outcome::Known(stats) => (stats, true),
            Outcome::Surveyed(stats) => (stats, false),
        };
        let Some(merger) = &mut self.merger else { return Ok(()) };
        let Block { unit, pass } = worked.block;
        if let Some(whole) = merger.add(worked.block, stats)?.filter(|_| !is_known) {
            // It stands for the surveys of all tiles of the unit, in the place of one.
            let unit = &self.run.units[unit];
            for i in 0..unit.n_tiles() {
                let found = if i == 0 { &whole } else { &TileStats::NonFinite };
                self.run.save_survey(survey_at(unit, pass, i), found)?;
            }
        }
        Ok(())
    }
}
