//! The blocks a tile's patches are worked on in, and the buffers for them.

use std::ops::Range;

use half::f16;

use crate::codec::delta::{DeltaTile, strips};
use crate::codec::patches::Decisions;
use crate::kernel::patch::{self, MAX_LINE, Strip};

/// Elements of the patches worked on at a time, which stay in the second-level cache: narrower blocks would
/// read so little of a row at a time that memory could not be read ahead.
const BLOCK: usize = 64 << 10;

/// Buffers that every tile uses again.
#[derive(Debug, Default)]
pub(crate) struct PatchScratch {
    /// Patches of a block, one after another.
    pub(super) values: Vec<f32>,
    /// Which of a strip's patches they are, ascending.
    pub(super) chosen: Vec<u32>,
    pub(super) ranges: Vec<(f16, f16)>,
    pub(super) codes: Vec<u8>,
    pub(super) work: Vec<f32>,
    pub(super) classes: Vec<u8>,
    /// Packed codes of each class.
    pub(super) streams: Vec<Vec<u8>>,
    /// Ranges of all kept patches of a tile.
    pub(super) tile_ranges: Vec<(f16, f16)>,
}

/// Neighbouring patches of one strip.
pub(super) struct Block {
    /// Rows of the tile.
    pub(super) rows: Range<usize>,
    pub(super) strip: Strip,
    /// The first one's number in the tile.
    pub(super) number: usize,
}

/// The blocks of a tile, in the order of its patches.
pub(super) fn blocks(
    n_rows: usize,
    n_cols: usize,
    p: usize,
) -> impl Iterator<Item = Block> + use<> {
    let across = n_cols.div_ceil(p);
    let step = (BLOCK / (p * p)).min(MAX_LINE / p).max(1);
    strips(n_rows, p).flat_map(move |(s, rows)| {
        (0..across).step_by(step).map(move |first| {
            let patches = first as u32..across.min(first + step) as u32;
            let strip = Strip { n_cols, n_rows: rows.len(), p, patches };
            Block { rows: rows.clone(), strip, number: s * across + first }
        })
    })
}

impl Block {
    /// Gathers the patches `chosen` of the delta.
    pub(super) fn gather(&self, tile: &DeltaTile<'_>, chosen: &[u32], values: &mut Vec<f32>) {
        values.resize(chosen.len() * self.strip.p * self.strip.p, 0.0);
        let part = self.rows.start * tile.n_cols..self.rows.end * tile.n_cols;
        let (ft, base) = (tile.ft.part(&part), tile.base.part(&part));
        if self.strip.patches.start == 0 {
            patch::touch(ft.1);
            patch::touch(base.1);
        }
        patch::gather_difference(ft, base, &self.strip, chosen, values);
    }

    /// Lists the patches whose class has bits.
    pub(super) fn choose(&self, bits: &[u8], classes: &[u8], chosen: &mut Vec<u32>) {
        chosen.clear();
        let classes = &classes[self.number..self.number + self.strip.patches.len()];
        let kept =
            self.strip.patches.clone().zip(classes).filter(|(_, c)| bits[usize::from(**c)] > 0);
        chosen.extend(kept.map(|(k, _)| k));
    }

    /// Bits of a patch of the block.
    pub(super) fn bits(&self, d: &Decisions<'_>, k: u32) -> (usize, u8) {
        let class = usize::from(d.classes[self.number + (k - self.strip.patches.start) as usize]);
        (class, d.bits[class])
    }

    /// Sets what lies beyond the tile's last column and row to zero.
    pub(super) fn clear_margin(&self, chosen: &[u32], values: &mut [f32]) {
        let &Strip { n_cols, n_rows, p, .. } = &self.strip;
        for (patch, &k) in values.chunks_exact_mut(p * p).zip(chosen) {
            patch[n_rows * p..].fill(0.0);
            let width = p.min(n_cols - k as usize * p);
            if width < p {
                patch.chunks_exact_mut(p).for_each(|line| line[width..].fill(0.0));
            }
        }
    }
}
