//! Reads stored frames in order, with the tiles of the base they are decoded against.

use crate::checkpoint::Source;
use crate::error::Result;
use crate::pipeline::decode::{DecodeStage, Job};
use crate::pipeline::identity::base_range;
use crate::pipeline::read_ahead::ReadAhead;
use crate::pipeline::subset::Picker;
use crate::tensor::Tile;

/// Reads the frames of all wanted tensors in order, with the tiles of the base they need.
pub(crate) struct FrameReader<'a> {
    stage: &'a DecodeStage<'a>,
    /// Position in `wanted`, tile, and the file offset of its frame.
    at: (usize, u64, u64),
    /// Position and tile to announce next.
    next_ahead: (usize, u64),
    ahead: ReadAhead,
    /// Which frames are read, if not all.
    picker: Option<&'a mut Picker>,
}

impl<'a> FrameReader<'a> {
    pub(crate) fn new(stage: &'a DecodeStage<'a>) -> Self {
        let (at, next_ahead, ahead) = ((0, 0, 0), (0, 0), ReadAhead::default());
        let mut reader = Self { stage, at, next_ahead, ahead, picker: None };
        reader.enter(0);
        reader
    }

    /// Only those that the picker takes; no base may be read.
    pub(crate) fn picked(mut self, picker: Option<&'a mut Picker>) -> Self {
        self.picker = picker;
        self
    }

    fn enter(&mut self, position: usize) {
        let seals = &self.stage.stored.seal.tensors;
        let offset = self.stage.wanted.get(position).map_or(0, |i| seals[*i].offset);
        self.at = (position, 0, offset);
    }

    /// The next frame; `None` after the last.
    pub(crate) fn next(&mut self) -> Option<Result<Job>> {
        self.read_ahead();
        loop {
            let (position, part, offset) = self.at;
            let tensor = *self.stage.wanted.get(position)?;
            if part == self.stage.stored.tilings[tensor].len() {
                self.enter(position + 1);
                continue;
            }
            let len = self.stage.stored.seal.tensors[tensor].frame_lens[part as usize];
            self.at = (position, part + 1, offset + u64::from(len));
            if self.picker.as_mut().is_some_and(|picker| !picker.pick()) {
                continue;
            }
            return Some(self.job(tensor, part, offset, len));
        }
    }

    fn job(&self, tensor: usize, part: u64, offset: u64, len: u32) -> Result<Job> {
        let tile = self.stage.stored.tilings[tensor].get(part);
        let mut frame = self.stage.spares.frame();
        let read = self.stage.archive.frames().read(offset, len as usize, &mut frame);
        let base = match self.base_place(tensor, &tile) {
            Some((source, shard, at, n)) => {
                let window = source.last_window(shard, at, n)?;
                window.populate()?;
                Some(window)
            }
            None => None,
        };
        Ok(Job { tensor, part, offset, tile, frame, failed: read.err(), base })
    }

    fn base_place(&self, tensor: usize, tile: &Tile) -> Option<(&'a Source, usize, u64, usize)> {
        let stored = self.stage.stored;
        let (t, item) = (&stored.tensors[tensor], &stored.head.items[tensor]);
        let range = base_range(item, t.dtype, tile)?;
        let base = self.stage.base?;
        let b = base.checkpoint().find(&t.name)?.1;
        let n = (range.end - range.start) as usize;
        Some((base.source(), b.shard, b.offset + range.start, n))
    }

    fn read_ahead(&mut self) {
        self.ahead.read_one();
        while self.ahead.wants_more() {
            let (position, part) = self.next_ahead;
            let Some(&tensor) = self.stage.wanted.get(position) else { return };
            let tiling = &self.stage.stored.tilings[tensor];
            if part == tiling.len() {
                self.next_ahead = (position + 1, 0);
                continue;
            }
            self.next_ahead = (position, part + 1);
            let place = self.base_place(tensor, &tiling.get(part));
            if let Some((source, shard, at, n)) = place {
                source.will_need(shard, at, n);
            }
            self.ahead.announced(place.map_or(0, |p| p.3 as u64));
        }
    }
}
