//! Reads stored frames in order, with the tiles of the base they are decoded against.

use crate::checkpoint::{Direct, Source};
use crate::error::Result;
use crate::pipeline::budget::Needs;
use crate::pipeline::decode::{DecodeStage, Job};
use crate::pipeline::identity::base_range;
use crate::pipeline::options::Resources;
use crate::pipeline::ordered::{Width, run_beside};
use crate::pipeline::read_ahead::{Fetches, ReadAhead, read_ahead, room};
use crate::pipeline::subset::Picker;
use crate::tensor::Tile;

/// Reads the frames of a stage's tensors in order, works on them in parallel with one `S` a worker, and hands the
/// results to `sink` in that order. A picker takes only some; no base may be read then.
///
/// # Errors
/// `InvalidArgument` if the memory is too little; what `work` or `sink` says.
pub(crate) fn run_frames<T: Send, S>(
    stage: &DecodeStage<'_>,
    (needs, resources): (Needs, &Resources),
    picker: Option<&mut Picker>,
    scratch: impl Fn() -> Result<S> + Sync,
    work: impl Fn(&mut S, Job) -> Result<T> + Sync,
    sink: impl FnMut(T) -> Result<()>,
) -> Result<()> {
    let (width, mut reader, fetches) = frames(stage, (needs, resources), picker)?;
    let beside: (_, &(dyn Fn() + Sync)) = (fetches.n_threads(), &|| fetches.run());
    run_beside(width, beside, move || reader.next(), scratch, work, sink)
}

/// The frames of a stage's tensors, how many are worked on at once, and what is to be fetched ahead of them.
///
/// # Errors
/// `InvalidArgument` if the memory is too little.
pub(crate) fn frames<'a>(
    stage: &'a DecodeStage<'a>,
    (needs, resources): (Needs, &Resources),
    picker: Option<&'a mut Picker>,
) -> Result<(Width, FrameReader<'a>, Fetches<'a>)> {
    let width = needs.width(resources.max_memory, resources.threads)?;
    let base = stage.base.map(|base| base.source());
    let files = [base.and_then(Source::direct), stage.archive.frames().direct()];
    let files: Vec<&Direct> = files.into_iter().flatten().collect();
    let room = room(needs.spare(resources.max_memory, width), files.len());
    files.iter().for_each(|direct| direct.keep(room));
    let (ahead, fetches) = read_ahead(base.as_slice(), room > 0);
    Ok((width, FrameReader::new(stage, picker, ahead), fetches))
}

/// Reads the frames of all wanted tensors in order, with the tiles of the base they need.
pub(crate) struct FrameReader<'a> {
    stage: &'a DecodeStage<'a>,
    /// Position in `wanted`, tile, and the file offset of its frame.
    at: (usize, u64, u64),
    /// What to announce next, as `at`.
    next_ahead: (usize, u64, u64),
    ahead: ReadAhead<'a>,
    /// Which frames are read, if not all.
    picker: Option<&'a mut Picker>,
}

impl<'a> FrameReader<'a> {
    fn new(
        stage: &'a DecodeStage<'a>,
        picker: Option<&'a mut Picker>,
        ahead: ReadAhead<'a>,
    ) -> Self {
        let at = (0, 0, start(stage, 0));
        Self { stage, at, next_ahead: at, ahead, picker }
    }

    /// The next frame; `None` after the last.
    pub(crate) fn next(&mut self) -> Option<Result<Job>> {
        self.read_ahead();
        loop {
            let (tensor, part, offset, len) = advance(self.stage, &mut self.at)?;
            if self.picker.as_mut().is_none_or(|picker| picker.pick()) {
                return Some(self.job(tensor, part, offset, len));
            }
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
        // What the picker takes is not known yet.
        while self.picker.is_none() && self.ahead.wants_more() {
            let next = advance(self.stage, &mut self.next_ahead);
            let Some((tensor, part, offset, len)) = next else { return };
            let mut bytes = 0;
            if let Some(direct) = self.stage.archive.frames().direct() {
                bytes += self.ahead.fetch(direct, 0, offset..offset + u64::from(len));
            }
            let tile = self.stage.stored.tilings[tensor].get(part);
            if let Some((source, shard, at, n)) = self.base_place(tensor, &tile) {
                bytes += self.ahead.need(source, shard, at..at + n as u64);
            }
            self.ahead.announced(bytes);
        }
    }
}

/// Where the frames of the tensor at this position begin.
fn start(stage: &DecodeStage<'_>, position: usize) -> u64 {
    stage.wanted.get(position).map_or(0, |i| stage.stored.seal.tensors[*i].offset)
}

/// The tensor, tile, offset and length of the frame at `at`, which goes on to the one after it; `None` after
/// the last.
fn advance(stage: &DecodeStage<'_>, at: &mut (usize, u64, u64)) -> Option<(usize, u64, u64, u32)> {
    loop {
        let (position, part, offset) = *at;
        let tensor = *stage.wanted.get(position)?;
        if part == stage.stored.tilings[tensor].len() {
            *at = (position + 1, 0, start(stage, position + 1));
            continue;
        }
        let len = stage.stored.seal.tensors[tensor].frame_lens[part as usize];
        *at = (position, part + 1, offset + u64::from(len));
        return Some((tensor, part, offset, len));
    }
}
