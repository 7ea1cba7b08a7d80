//! What a run need not do, since one that was cut off did it: surveys of tiles, and frames in the file.

use crate::archive::{Kept, KeptTile, SurveyAt};
use crate::error::{Error, Result};
use crate::method::LossyMethod;
use crate::pair::Pair;
use crate::pipeline::schedule::{Block, Unit};
use crate::survey::TileStats;
use crate::survey::stored::TileSize;

/// What is known of the tiles of a run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Known<'a> {
    kept: Option<&'a Kept>,
    method: Option<&'a dyn LossyMethod>,
    pair: &'a Pair,
}

/// Which survey of which tile of its tensor a block's tile is.
pub(crate) fn survey_at(unit: &Unit, pass: usize, tile_idx: u64) -> SurveyAt {
    let part = unit.tiles.start + tile_idx;
    SurveyAt { tensor: unit.tensor as u32, part: part as u32, pass: pass as u32 }
}

impl<'a> Known<'a> {
    pub(crate) fn new(
        kept: Option<&'a Kept>,
        method: Option<&'a dyn LossyMethod>,
        pair: &'a Pair,
    ) -> Self {
        Self { kept, method, pair }
    }

    /// Whether this tile of a unit may be passed over: what it comes to is known.
    pub(crate) fn has(&self, unit: &Unit, block: Block, tile_idx: u64) -> bool {
        let surveys = self.kept.filter(|_| block.pass < unit.n_surveys).map(|kept| &kept.surveys);
        surveys.is_some_and(|surveys| surveys.has(survey_at(unit, block.pass, tile_idx)))
    }

    /// What a survey of this tile found. What the journal has for it is not taken if no survey of this
    /// method finds that there.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn survey(
        &self,
        unit: &Unit,
        block: Block,
        tile_idx: u64,
    ) -> Result<Option<TileStats>> {
        let (Some(kept), Some(method)) = (self.kept, self.method) else { return Ok(None) };
        if block.pass >= unit.n_surveys {
            return Ok(None);
        }
        let Some(bytes) = kept.surveys.read(survey_at(unit, block.pass, tile_idx))? else {
            return Ok(None);
        };
        let p = &self.pair.items[unit.tensor];
        let tile = p.tiling.get(unit.tiles.start + tile_idx);
        let patch = usize::from(p.item.patch.max(1));
        let size = TileSize { n_rows: tile.n_rows, n_cols: tile.n_cols, patch };
        let stats = TileStats::parse(&bytes, size).ok();
        Ok(stats.filter(|stats| method.finds(block.pass, stats)))
    }

    /// The frame of this tile of a tensor that was not finished.
    pub(crate) fn tile(&self, tensor: usize, part: u64) -> Option<&'a KeptTile> {
        self.kept?.tile(tensor, part)
    }

    /// Reads such a frame.
    ///
    /// # Errors
    /// `Truncated` if it is gone.
    pub(crate) fn read(&self, tile: &KeptTile, frame: &mut Vec<u8>) -> Result<()> {
        let kept = self.kept.ok_or_else(|| Error::truncated("no frames are kept"))?;
        kept.read(tile, frame)
    }

    /// Bytes it holds in memory.
    pub(crate) fn resident_bytes(&self) -> u64 {
        self.kept.map_or(0, Kept::resident_bytes)
    }
}
