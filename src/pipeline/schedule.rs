//! The order in which tiles are surveyed and encoded, and the reader that follows it.
//!
//! Units go through their passes one stage apart: while one is encoded, the next is in its last survey,
//! and the one after in the survey before that. Within a stage the tiles of all take turns, so that the
//! disk, which only a first pass waits for, and the processors are both busy all the time; and so few
//! units are between their first and last pass that what is read again is still cached. After a joint
//! pass a method decides about all matrices together: everything before it is done for all of them
//! first, in the same order.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use crossbeam::channel::Receiver;

use crate::checkpoint::{Checkpoint, Source, Window};
use crate::error::{Error, Result};
use crate::method::{LossyMethod, MatrixPlan};
use crate::pair::{Pair, PairItem};
use crate::pipeline::identity::base_range;
use crate::pipeline::known::Known;
use crate::pipeline::read_ahead::ReadAhead;
use crate::survey::TileStats;
use crate::tensor::Tile;

/// One matrix of a lossy tensor, a band of it, or one whole flat tensor: what is surveyed and merged
/// together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unit {
    pub(crate) tensor: usize,
    /// Tiles of the tensor that belong to it.
    pub(crate) tiles: Range<u64>,
    /// Survey passes before the encode pass.
    pub(crate) n_surveys: usize,
    /// Encoded by an earlier run or in another part: it is surveyed alone, for what is decided about all
    /// matrices together.
    pub(crate) is_kept: bool,
}

impl Unit {
    pub(crate) fn n_tiles(&self) -> u64 {
        self.tiles.end - self.tiles.start
    }
}

/// One pass over one unit; pass number `n_surveys` encodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) unit: usize,
    pub(crate) pass: usize,
}

/// What comes next.
#[derive(Debug)]
pub(crate) enum Step {
    Tile(Job),
    /// A survey's tile that need not be read: its bytes in the fine-tune, and what was found.
    Known(Block, u64, TileStats),
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

/// All units, in file order of the fine-tune. Without a method nothing is surveyed.
pub(crate) fn units(pair: &Pair, method: Option<&dyn LossyMethod>) -> Vec<Unit> {
    let mut out = Vec::new();
    for (tensor, p) in pair.items.iter().enumerate().filter(|(_, p)| !p.tiling.is_empty()) {
        let surveys = method.filter(|_| p.item.lossy).map(|m| (m.n_passes(), m.band_elements()));
        let (n_surveys, band) = surveys.unwrap_or((0, u64::MAX));
        for matrix in 0..p.tiling.n_matrices() {
            let tiles = p.tiling.of_matrix(matrix);
            out.extend(bands(tiles, p.tiling.max_elements(), band).map(|tiles| Unit {
                tensor,
                tiles,
                n_surveys,
                is_kept: false,
            }));
        }
    }
    out
}

/// The units that are left to do when the first `n_kept` tensors are encoded. `joint` are the passes about
/// all matrices together.
pub(crate) fn leave_out(units: &mut Vec<Unit>, n_kept: usize, joint: &[usize]) {
    let is_surveyed = |unit: &Unit| joint.iter().any(|pass| *pass < unit.n_surveys);
    units.retain_mut(|unit| {
        unit.is_kept = unit.tensor < n_kept;
        !unit.is_kept || is_surveyed(unit)
    });
}

/// Cuts the tiles of a matrix into bands of about equal size and at most `band` elements, or one tile.
fn bands(tiles: Range<u64>, of_tile: u64, band: u64) -> impl Iterator<Item = Range<u64>> {
    let n = tiles.end - tiles.start;
    let most = (band / of_tile.max(1)).max(1);
    let n_bands = n.div_ceil(most);
    (0..n_bands).map(move |i| tiles.start + i * n / n_bands..tiles.start + (i + 1) * n / n_bands)
}

/// Tiles of first passes that a stage begins with: the other passes wait for what the stage before found.
const HEAD_START: u64 = 8;

/// Passes that are gone through side by side; each needs what the stages before it found. `joint` are
/// the passes, ascending, that need to be done on every unit before any unit goes on.
pub(crate) fn stages(units: &[Unit], joint: &[usize]) -> Vec<Vec<Block>> {
    let mut out = Vec::new();
    let mut first = 0;
    for last in joint {
        let surveyed = (0..units.len()).filter(|u| units[*u].n_surveys > *last);
        let passes: Vec<_> = surveyed.map(|unit| (unit, first..last + 1)).collect();
        stagger(&passes, &mut out);
        first = last + 1;
    }
    // A unit's last pass encodes it; one that is not surveyed has no other.
    let left = units.iter().enumerate().filter(|(_, u)| !u.is_kept);
    let passes: Vec<_> = left.map(|(i, u)| (i, first.min(u.n_surveys)..u.n_surveys + 1)).collect();
    stagger(&passes, &mut out);
    out
}

/// Passes of several units, a unit's each a stage after the one before, and the last ones of all units in
/// stages one after another.
fn stagger(units: &[(usize, Range<usize>)], out: &mut Vec<Vec<Block>>) {
    let depth = units.iter().map(|(_, passes)| passes.len()).max().unwrap_or(0);
    for stage in 0..(units.len() + depth).saturating_sub(1) {
        // The unit that comes to its last pass is as far behind as the most passes take.
        let blocks = (0..depth).filter_map(|to_go| {
            let at = (stage + to_go + 1).checked_sub(depth)?;
            let (unit, passes) = units.get(at)?;
            let pass = passes.end.checked_sub(to_go + 1).filter(|pass| *pass >= passes.start)?;
            Some(Block { unit: *unit, pass })
        });
        out.push(blocks.collect());
    }
}

/// Goes through the tiles of all stages.
#[derive(Debug, Clone)]
struct Order {
    stage: usize,
    /// Tiles taken of each block of the stage.
    taken: Vec<u64>,
}

impl Order {
    fn new() -> Self {
        Self { stage: 0, taken: Vec::new() }
    }

    /// The next block and the position of its tile in the unit.
    fn next(&mut self, units: &[Unit], stages: &[Vec<Block>]) -> Option<(Block, u64)> {
        loop {
            let blocks = stages.get(self.stage)?;
            self.taken.resize(blocks.len(), 0);
            let all = blocks.iter().zip(&self.taken).enumerate();
            // Whoever has the smallest share of its tiles behind it; of equals the first.
            let next = all
                .filter(|(_, (block, taken))| **taken < units[block.unit].n_tiles())
                .map(|(i, (block, taken))| {
                    let ahead = if block.pass == 0 { HEAD_START } else { 0 };
                    let share = |n: u64| ((2 * n + 1) << 32) / units[block.unit].n_tiles();
                    (taken.checked_sub(ahead).map_or(0, share), i)
                })
                .min();
            if let Some((_, i)) = next {
                self.taken[i] += 1;
                return Some((blocks[i], self.taken[i] - 1));
            }
            self.stage += 1;
            self.taken.clear();
        }
    }
}

/// Reads the tiles of all blocks in order.
pub(crate) struct TileReader<'a> {
    pub(crate) ft: (&'a Checkpoint, &'a Source),
    pub(crate) base: (&'a Checkpoint, &'a Source),
    pub(crate) pair: &'a Pair,
    pub(crate) units: &'a [Unit],
    stages: Vec<Vec<Block>>,
    /// What to read next.
    order: Order,
    /// What to announce next.
    next_ahead: Order,
    ahead: ReadAhead<'a>,
    known: Known<'a>,
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
        known: Known<'a>,
        (ahead, merged): (ReadAhead<'a>, Receiver<Merged>),
    ) -> Self {
        Self {
            ft,
            base,
            pair,
            units,
            stages: stages(units, joint),
            order: Order::new(),
            next_ahead: Order::new(),
            ahead,
            known,
            merged,
            plans: HashMap::new(),
        }
    }

    /// The next tile; `None` after the last.
    pub(crate) fn next(&mut self) -> Option<Result<Step>> {
        self.read_ahead();
        let (block, tile_idx) = self.order.next(self.units, &self.stages)?;
        let unit = &self.units[block.unit];
        Some(match self.known.survey(unit, block, tile_idx) {
            Ok(None) => self.job(block, tile_idx).map(Step::Tile),
            Ok(Some(stats)) => {
                let tile = self.pair.items[unit.tensor].tiling.get(unit.tiles.start + tile_idx);
                let bytes = tile.bytes(self.ft.0.tensors()[unit.tensor].dtype.lane_bytes());
                Ok(Step::Known(block, bytes.end - bytes.start, stats))
            }
            Err(error) => Err(error),
        })
    }

    fn read_ahead(&mut self) {
        self.ahead.read_one();
        while self.ahead.wants_more() {
            let next = self.next_ahead.next(self.units, &self.stages);
            let Some((block, tile_idx)) = next else { return };
            let unit = &self.units[block.unit];
            if self.known.has(unit, block, tile_idx) {
                continue;
            }
            let tile = self.pair.items[unit.tensor].tiling.get(unit.tiles.start + tile_idx);
            let mut bytes = 0;
            for (source, shard, range) in self.places(unit.tensor, &tile).into_iter().flatten() {
                bytes += self.ahead.need(source, shard, range);
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
        let encodes = block.pass == unit.n_surveys;
        let part = unit.tiles.start + tile_idx;
        let tile = self.pair.items[unit.tensor].tiling.get(part);
        let [ft, base] = self.places(unit.tensor, &tile).map(|place| {
            place.map(|(source, shard, range)| {
                let len = (range.end - range.start) as usize;
                let window = if encodes {
                    source.last_window(shard, range.start, len)?
                } else {
                    source.window(shard, range.start, len)?
                };
                window.populate()?;
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

    fn unit(n_surveys: usize) -> Unit {
        Unit { tensor: 0, tiles: 0..3, n_surveys, is_kept: false }
    }

    #[test]
    fn every_pass_stands_a_stage_after_the_one_it_needs() {
        for surveys in [vec![2, 2, 2], vec![0, 2, 0, 1, 1], vec![1], vec![]] {
            let units: Vec<_> = surveys.iter().map(|n| unit(*n)).collect();
            check(&surveys, &stages(&units, &[]));
        }
        let units: Vec<_> = (0..3).map(|_| unit(2)).collect();
        let stages: Vec<Vec<_>> = stages(&units, &[])
            .iter()
            .map(|blocks| blocks.iter().map(|b| (b.unit, b.pass)).collect())
            .collect();
        let third = vec![(0, 2), (1, 1), (2, 0)];
        let wanted =
            [vec![(0, 0)], vec![(0, 1), (1, 0)], third, vec![(1, 2), (2, 1)], vec![(2, 2)]];
        assert_eq!(stages, wanted);
    }

    /// Every pass once, a stage after the one before, encode passes in the order of units.
    fn check(surveys: &[usize], stages: &[Vec<Block>]) {
        assert_eq!(stages.iter().flatten().count(), surveys.iter().map(|n| n + 1).sum::<usize>());
        let place = |unit, pass| {
            stages.iter().position(|blocks| blocks.contains(&Block { unit, pass })).unwrap()
        };
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
        for joint in [&[1][..], &[0, 2], &[1, 2], &[0, 1, 2]] {
            let surveys = [3, 0, 3, 3];
            let units: Vec<_> = surveys.iter().map(|n| unit(*n)).collect();
            let stages = stages(&units, joint);
            check(&surveys, &stages);
            for pass in joint {
                let surveyed = |b: &&Block| surveys[b.unit] > 0;
                let passes = |stage: &Vec<Block>| -> Vec<usize> {
                    stage.iter().filter(surveyed).map(|b| b.pass).collect()
                };
                let last = stages.iter().rposition(|s| passes(s).contains(pass));
                let later = stages.iter().position(|s| passes(s).iter().any(|p| p > pass));
                assert!(last < later, "{joint:?}: {stages:?}");
            }
        }
    }

    #[test]
    fn kept_units_are_surveyed_for_joint_passes_alone() {
        let all: Vec<_> = [2, 0, 2, 2]
            .iter()
            .enumerate()
            .map(|(tensor, n)| Unit { tensor, ..unit(*n) })
            .collect();
        let left = |joint: &[usize]| {
            let mut units = all.clone();
            leave_out(&mut units, 3, joint);
            let blocks = stages(&units, joint).concat();
            blocks.iter().map(|b| (units[b.unit].tensor, b.pass)).collect::<Vec<_>>()
        };
        assert_eq!(left(&[]), [(3, 0), (3, 1), (3, 2)]);
        assert_eq!(left(&[0]), [(0, 0), (2, 0), (3, 0), (3, 1), (3, 2)]);
        let both = left(&[1]);
        assert_eq!(both.iter().filter(|b| b.1 == 2).collect::<Vec<_>>(), [&(3, 2)]);
        assert_eq!(both.len(), 7);
    }

    #[test]
    fn tiles_of_a_stage_take_turns_after_a_head_start() {
        let units = [20, 40, 20, 0].map(|n| Unit {
            tensor: 0,
            tiles: 5..5 + n,
            n_surveys: 1,
            is_kept: false,
        });
        let stages = stages(&units, &[]);
        let mut order = Order::new();
        let all: Vec<_> = std::iter::from_fn(|| order.next(&units, &stages))
            .map(|(b, i)| (b.unit, b.pass, i))
            .collect();
        for (u, unit) in units.iter().enumerate() {
            for pass in 0..2 {
                let tiles: Vec<_> =
                    all.iter().filter(|t| (t.0, t.1) == (u, pass)).map(|t| t.2).collect();
                assert_eq!(tiles, (0..unit.tiles.end - 5).collect::<Vec<_>>());
            }
        }
        // The second stage: unit 1 for the first time, beside unit 0 for the last.
        let stage = &all[20..80];
        assert!(stage[..8].iter().all(|t| (t.0, t.1) == (1, 0)));
        let encodes = |range: Range<usize>| stage[range].iter().filter(|t| t.1 == 1).count();
        assert!((8..=12).contains(&encodes(8..34)), "{stage:?}");
        assert!((8..=12).contains(&encodes(34..60)), "{stage:?}");
    }

    #[test]
    fn bands_are_whole_tiles_of_about_equal_number() {
        let cut =
            |n: u64, most| bands(5..5 + n, 10, most).map(|r| (r.start, r.end)).collect::<Vec<_>>();
        assert_eq!(cut(7, u64::MAX), [(5, 12)]);
        assert_eq!(cut(7, 70), [(5, 12)]);
        assert_eq!(cut(7, 69), [(5, 8), (8, 12)]);
        assert_eq!(cut(7, 39), [(5, 7), (7, 9), (9, 12)]);
        assert_eq!(cut(2, 1), [(5, 6), (6, 7)]);
    }
}
