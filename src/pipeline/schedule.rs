//! The order in which tiles are surveyed and encoded, and the reader that follows it.
//!
//! Matrix i+1 is first surveyed before matrix i is encoded, and surveyed further after it. Every pass
//! so stands one whole pass after the one it waits for, and the reader seldom waits; and at most two
//! matrices are between their first and last pass, so that what is read again is still cached. After a
//! joint pass a method decides about all matrices together: everything before it is done for all of
//! them first, in the same interleaved order.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use crossbeam::channel::Receiver;

use crate::checkpoint::{Checkpoint, Source, Window};
use crate::error::{Error, Result};
use crate::method::MatrixPlan;
use crate::pair::{Pair, PairItem};
use crate::pipeline::identity::base_range;
use crate::pipeline::read_ahead::ReadAhead;
use crate::tensor::Tile;

/// One matrix of a lossy tensor, or one whole flat tensor: what is surveyed and merged together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unit {
    pub(crate) tensor: usize,
    /// Tiles of the tensor that belong to it.
    pub(crate) tiles: Range<u64>,
    /// Survey passes before the encode pass.
    pub(crate) n_surveys: usize,
}

/// One pass over one unit; pass number `n_surveys` encodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) unit: usize,
    pub(crate) pass: usize,
}

/// A tile to work on.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) block: Block,
    /// Position in the unit.
    pub(crate) tile_idx: usize,
    /// Number in the tensor.
    pub(crate) part: u64,
    pub(crate) tile: Tile,
    pub(crate) ft: Window,
    pub(crate) base: Option<Window>,
    /// What the passes before this one found.
    pub(crate) plan: Arc<MatrixPlan>,
}

/// All units, in file order of the fine-tune.
pub(crate) fn units(pair: &Pair, n_surveys: usize) -> Vec<Unit> {
    let mut out = Vec::new();
    for (tensor, p) in pair.items.iter().enumerate().filter(|(_, p)| !p.tiling.is_empty()) {
        let n_surveys = if p.item.lossy { n_surveys } else { 0 };
        for matrix in 0..p.tiling.n_matrices() {
            out.push(Unit { tensor, tiles: p.tiling.of_matrix(matrix), n_surveys });
        }
    }
    out
}

/// The order of passes; each needs what the pass before it on the same unit found. `joint` are the
/// passes, ascending, that need to be done on every unit before any unit goes on.
pub(crate) fn blocks(units: &[Unit], joint: &[usize]) -> Vec<Block> {
    let mut out = Vec::new();
    let mut first = 0;
    for last in joint {
        let surveyed = (0..units.len()).filter(|u| units[*u].n_surveys > *last);
        let passes: Vec<_> = surveyed.map(|unit| (unit, first..last + 1)).collect();
        interleave(&passes, &mut out);
        first = last + 1;
    }
    // A unit's last pass encodes it; one that is not surveyed has no other.
    let passes: Vec<_> =
        units.iter().map(|u| first.min(u.n_surveys)..u.n_surveys + 1).enumerate().collect();
    interleave(&passes, &mut out);
    out
}

/// Passes of several units so that the last ones are in order, and all but the last of a unit lie
/// around the last of the unit before it.
fn interleave(units: &[(usize, Range<usize>)], out: &mut Vec<Block>) {
    let before_last = |at: usize, skip: usize| {
        let (unit, passes) = units.get(at).cloned().unwrap_or((0, 0..0));
        let passes = passes.start..passes.end.saturating_sub(1).max(passes.start);
        passes.skip(skip).map(move |pass| Block { unit, pass })
    };
    out.extend(before_last(0, 0));
    for (at, (unit, passes)) in units.iter().enumerate() {
        out.extend(before_last(at + 1, 0).take(1));
        out.extend(passes.clone().last().map(|pass| Block { unit: *unit, pass }));
        out.extend(before_last(at + 1, 1));
    }
}

/// Reads the tiles of all blocks in order.
pub(crate) struct TileReader<'a> {
    pub(crate) ft: (&'a Checkpoint, &'a Source),
    pub(crate) base: (&'a Checkpoint, &'a Source),
    pub(crate) pair: &'a Pair,
    pub(crate) units: &'a [Unit],
    blocks: Vec<Block>,
    /// Block and tile to read next.
    at: (usize, u64),
    /// Block and tile to announce next.
    next_ahead: (usize, u64),
    ahead: ReadAhead,
    /// Plans as the sink merges them: unit, survey passes done, plan.
    merged: Receiver<Merged>,
    plans: HashMap<usize, (usize, Arc<MatrixPlan>)>,
}

/// A unit's plan after so many survey passes.
pub(crate) type Merged = (usize, usize, Arc<MatrixPlan>);

impl<'a> TileReader<'a> {
    pub(crate) fn new(
        ft: (&'a Checkpoint, &'a Source),
        base: (&'a Checkpoint, &'a Source),
        pair: &'a Pair,
        (units, joint): (&'a [Unit], &[usize]),
        merged: Receiver<Merged>,
    ) -> Self {
        Self {
            ft,
            base,
            pair,
            units,
            blocks: blocks(units, joint),
            at: (0, 0),
            next_ahead: (0, 0),
            ahead: ReadAhead::default(),
            merged,
            plans: HashMap::new(),
        }
    }

    /// The next tile; `None` after the last.
    pub(crate) fn next(&mut self) -> Option<Result<Job>> {
        self.read_ahead();
        let (block_idx, tile_idx) = self.step(self.at)?;
        self.at = (block_idx, tile_idx + 1);
        let block = self.blocks[block_idx];
        Some(self.job(block, tile_idx))
    }

    /// The place at or after `(block, tile)` that has a tile.
    fn step(&self, (mut block_idx, mut tile_idx): (usize, u64)) -> Option<(usize, u64)> {
        loop {
            let block = self.blocks.get(block_idx)?;
            let tiles = &self.units[block.unit].tiles;
            if tile_idx < tiles.end - tiles.start {
                return Some((block_idx, tile_idx));
            }
            (block_idx, tile_idx) = (block_idx + 1, 0);
        }
    }

    fn read_ahead(&mut self) {
        self.ahead.read_one();
        while self.ahead.wants_more() {
            let Some((block_idx, tile_idx)) = self.step(self.next_ahead) else { return };
            self.next_ahead = (block_idx, tile_idx + 1);
            let unit = &self.units[self.blocks[block_idx].unit];
            let tile = self.pair.items[unit.tensor].tiling.get(unit.tiles.start + tile_idx);
            let mut bytes = 0;
            for (source, shard, range) in self.places(unit.tensor, &tile).into_iter().flatten() {
                source.will_need(shard, range.start, (range.end - range.start) as usize);
                bytes += range.end - range.start;
            }
            self.ahead.announced(bytes);
        }
    }

    /// Where a tile lies in the fine-tune, and in the base if it has one there. A dropped tensor's tile
    /// is the base's own, so that all that follows, hashes too, sees what a restore will give.
    fn places(&self, tensor: usize, tile: &Tile) -> [Option<(&'a Source, usize, Range<u64>)>; 2] {
        let t = &self.ft.0.tensors()[tensor];
        let p: &PairItem = &self.pair.items[tensor];
        let lanes = tile.bytes(t.dtype.lane_bytes());
        let here = Some((self.ft.1, t.shard, t.offset + lanes.start..t.offset + lanes.end));
        let there = p.base.zip(base_range(&p.item, t.dtype, tile)).map(|(base, range)| {
            let b = &self.base.0.tensors()[base];
            (self.base.1, b.shard, b.offset + range.start..b.offset + range.end)
        });
        if p.dropped && there.is_some() { [there.clone(), there] } else { [here, there] }
    }

    fn job(&mut self, block: Block, tile_idx: u64) -> Result<Job> {
        let unit = &self.units[block.unit];
        let plan = self.plan(block)?;
        let part = unit.tiles.start + tile_idx;
        let tile = self.pair.items[unit.tensor].tiling.get(part);
        let [ft, base] = self.places(unit.tensor, &tile).map(|place| {
            place.map(|(source, shard, range)| {
                let window =
                    source.window(shard, range.start, (range.end - range.start) as usize)?;
                window.populate();
                Ok::<_, Error>(window)
            })
        });
        let ft = ft.ok_or_else(|| Error::invalid_checkpoint("a tile without a place"))??;
        let base = base.transpose()?;
        Ok(Job { block, tile_idx: tile_idx as usize, part, tile, ft, base, plan })
    }

    /// Waits for what the earlier passes over this unit found.
    fn plan(&mut self, block: Block) -> Result<Arc<MatrixPlan>> {
        if block.pass == self.units[block.unit].n_surveys {
            // Units are encoded in order, so the plans of those before are used up.
            self.plans.retain(|unit, _| *unit >= block.unit);
        }
        if block.pass == 0 {
            return Ok(Arc::default());
        }
        loop {
            match self.plans.get(&block.unit) {
                Some((passes, plan)) if *passes == block.pass => return Ok(Arc::clone(plan)),
                _ => {}
            }
            // The sink is gone only if the run has failed; then nobody sees this error.
            let (unit, passes, plan) = self.merged.recv().map_err(|_| Error::interrupted())?;
            self.plans.insert(unit, (passes, plan));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pass_stands_after_the_one_it_needs_with_another_between() {
        let unit = |n_surveys| Unit { tensor: 0, tiles: 0..1, n_surveys };
        for surveys in [vec![2, 2, 2], vec![0, 2, 0, 1, 1], vec![1], vec![]] {
            let units: Vec<_> = surveys.iter().map(|n| unit(*n)).collect();
            let order = blocks(&units, &[]);
            check(&surveys, &order);
        }
        let units: Vec<_> = (0..3).map(|_| unit(2)).collect();
        let order = blocks(&units, &[]).into_iter().map(|b| (b.unit, b.pass));
        let wanted = [(0, 0), (0, 1), (1, 0), (0, 2), (1, 1), (2, 0), (1, 2), (2, 1), (2, 2)];
        assert_eq!(order.collect::<Vec<_>>(), wanted);
    }

    /// Every pass once, in order on each unit, encode passes in the order of units.
    fn check(surveys: &[usize], order: &[Block]) {
        assert_eq!(order.len(), surveys.iter().map(|n| n + 1).sum::<usize>());
        let place = |u, p| order.iter().position(|b| *b == Block { unit: u, pass: p }).unwrap();
        for (u, n) in surveys.iter().enumerate() {
            for pass in 1..=*n {
                assert!(place(u, pass) > place(u, pass - 1));
            }
            if u > 0 {
                assert!(place(u, *n) > place(u - 1, surveys[u - 1]), "encode order");
            }
        }
    }

    #[test]
    fn a_joint_pass_is_done_on_all_units_before_any_goes_on() {
        let unit = |n_surveys| Unit { tensor: 0, tiles: 0..1, n_surveys };
        for joint in [&[1][..], &[0, 2], &[1, 2], &[0, 1, 2]] {
            let surveys = [3, 0, 3, 3];
            let units: Vec<_> = surveys.iter().map(|n| unit(*n)).collect();
            let order = blocks(&units, joint);
            check(&surveys, &order);
            for pass in joint {
                let last = order.iter().rposition(|b| b.pass == *pass && surveys[b.unit] > 0);
                let later = order.iter().position(|b| b.pass > *pass);
                assert!(last < later, "{joint:?}: {order:?}");
            }
        }
    }
}
