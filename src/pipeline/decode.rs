//! The parallel part of restoring and verifying: one stored frame in, its restored bytes out.

use std::collections::VecDeque;

use crossbeam::queue::SegQueue;

use crate::archive::{Archive, Origin, Stored};
use crate::checkpoint::{Checkpoint, MapChoice, Source, TensorInfo, Window};
use crate::codec::{self, Codec, Operand, Scratch, Target};
use crate::error::{Error, Result, ResultExt};
use crate::frame::{Decoder, HEADER_LEN, Header, Kind, Label};
use crate::pipeline::budget::Needs;
use crate::pipeline::identity::{TensorHasher, base_bytes_used, base_probe};
use crate::tensor::Tile;

/// Bytes of the base the kernel is asked for ahead of the reader.
const READ_AHEAD: u64 = 24 << 20;

/// The base of an archive, opened and probed.
pub(crate) struct Base {
    checkpoint: Checkpoint,
    source: Source,
}

impl Base {
    pub(crate) fn open(path: &std::path::Path, map: &MapChoice) -> Result<Self> {
        let checkpoint = Checkpoint::open(path)?;
        let source = Source::new(&checkpoint, map)?;
        Ok(Self { checkpoint, source })
    }

    pub(crate) fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// The base's tensor of this name, if it has one.
    fn tensor(&self, name: &str) -> Result<&TensorInfo> {
        let found = self.checkpoint.find(name).map(|(_, t)| t);
        found.ok_or_else(|| wrong_base(name, &self.checkpoint, "has no such tensor"))
    }

    /// Refuses a base that cannot be the one `stored` was made against, naming the first tensor that
    /// differs; reads a few KiB of each.
    pub(crate) fn check(&self, stored: &Stored, wanted: &[usize]) -> Result<()> {
        for &i in wanted {
            let item = &stored.head.items[i];
            let Origin::Base { dtype, .. } = item.origin else {
                continue;
            };
            if stored.tilings[i].is_empty() {
                continue;
            }
            let name = &stored.tensors[i].name;
            let b = self.tensor(name)?;
            let used = base_bytes_used(item);
            if b.dtype != dtype || b.n_bytes < used {
                return Err(wrong_base(
                    name,
                    &self.checkpoint,
                    "has another dtype or shape",
                ));
            }
            if base_probe(&self.source, b, used)? != stored.seal.tensors[i].base_probe {
                return Err(wrong_base(name, &self.checkpoint, "has other values"));
            }
        }
        Ok(())
    }
}

fn wrong_base(name: &str, base: &Checkpoint, how: &str) -> Error {
    Error::mismatch(format!(
        "{} is not the base this variant was made against: it {how} in tensor {name}",
        base.root().display()
    ))
}

/// A frame to decode.
pub(crate) struct Job {
    pub(crate) tensor: usize,
    part: u64,
    /// Where its frame stands in the archive.
    offset: u64,
    tile: Tile,
    frame: Vec<u8>,
    base: Option<Window>,
}

/// A restored tile.
pub(crate) struct Decoded {
    pub(crate) tensor: usize,
    part: u64,
    pub(crate) tile: Tile,
    pub(crate) bytes: Vec<u8>,
    base: Option<Window>,
    frame: Vec<u8>,
}

impl Decoded {
    /// Bytes of its frame in the archive.
    pub(crate) fn stored_len(&self) -> u64 {
        self.frame.len() as u64
    }
}

/// What one worker reuses.
pub(crate) struct DecodeState {
    decoder: Decoder,
    scratch: Scratch,
    payload: Vec<u8>,
}

impl DecodeState {
    pub(crate) fn new() -> Result<Self> {
        Ok(Self {
            decoder: Decoder::new()?,
            scratch: Scratch::default(),
            payload: Vec::new(),
        })
    }
}

/// Decodes chosen tensors of one variant.
pub(crate) struct DecodeStage<'a> {
    pub(crate) archive: &'a Archive,
    pub(crate) stored: &'a Stored,
    pub(crate) base: Option<&'a Base>,
    /// Tensors to decode, ascending; no aliases.
    pub(crate) wanted: &'a [usize],
    pub(crate) spare: SegQueue<Vec<u8>>,
}

impl DecodeStage<'_> {
    fn spare(&self) -> Vec<u8> {
        self.spare.pop().unwrap_or_default()
    }

    /// Memory the run takes.
    pub(crate) fn needs(&self) -> Needs {
        let (mut tile, mut worker) = (0, 0);
        for &i in self.wanted {
            let t = &self.stored.tensors[i];
            let n = self.stored.tilings[i].max_elements();
            let bytes = n * t.dtype.lane_bytes() as u64;
            let base = match self.stored.head.items[i].origin {
                Origin::Base { dtype, .. } => n * dtype.lane_bytes() as u64,
                _ => 0,
            };
            let frame = self.stored.seal.tensors[i]
                .frame_lens
                .iter()
                .max()
                .copied()
                .unwrap_or(0);
            let patch = u64::from(self.stored.head.items[i].patch);
            let strip = t.shape.last().map_or(0, |cols| cols * patch * 4);
            tile = tile.max(bytes + base + u64::from(frame));
            worker = worker.max(2 * bytes + n + 3 * strip);
        }
        let headers: u64 = self
            .stored
            .head
            .shards
            .iter()
            .map(|s| s.header.len() as u64)
            .sum();
        let tiles: u64 = self.stored.tilings.iter().map(|t| t.len()).sum();
        Needs {
            resident: 8 * headers + 32 * tiles,
            tile,
            worker,
        }
    }

    /// Bytes all wanted tensors restore to.
    pub(crate) fn total_bytes(&self) -> u64 {
        self.wanted
            .iter()
            .map(|i| self.stored.tensors[*i].n_bytes)
            .sum()
    }

    /// Decodes one frame.
    pub(crate) fn work(&self, state: &mut DecodeState, job: Job) -> Result<Decoded> {
        let mut bytes = self.spare();
        self.decode(state, &job, &mut bytes)
            .context(|| self.place(&job))?;
        let Job {
            tensor,
            part,
            tile,
            frame,
            base,
            ..
        } = job;
        Ok(Decoded {
            tensor,
            part,
            tile,
            bytes,
            base,
            frame,
        })
    }

    /// Checks one frame and expands it, but decodes nothing: what can be said without the base.
    pub(crate) fn expand(&self, state: &mut DecodeState, job: Job) -> Result<Decoded> {
        self.payload(state, &job).context(|| self.place(&job))?;
        let Job {
            tensor,
            part,
            tile,
            frame,
            base,
            ..
        } = job;
        Ok(Decoded {
            tensor,
            part,
            tile,
            bytes: self.spare(),
            base,
            frame,
        })
    }

    fn place(&self, job: &Job) -> String {
        let (variant, name) = (
            &self.stored.head.name,
            &self.stored.tensors[job.tensor].name,
        );
        format!(
            "variant `{variant}`: tensor {name}: tile {} at offset {}",
            job.part, job.offset
        )
    }

    fn target(&self, job: &Job) -> Target {
        Target {
            dtype: self.stored.tensors[job.tensor].dtype,
            n_rows: job.tile.n_rows,
            n_cols: job.tile.n_cols,
            patch: usize::from(self.stored.head.items[job.tensor].patch),
        }
    }

    /// Checks a frame's header and expands its payload into `state.payload`.
    fn payload(&self, state: &mut DecodeState, job: &Job) -> Result<&'static dyn Codec> {
        let head = job.frame.first_chunk::<HEADER_LEN>();
        let head = head.ok_or_else(|| Error::truncated("frame shorter than its header"))?;
        let label = Header::parse(head)?.label;
        let (variant, item_no, part) = (self.stored.id, job.tensor as u32, job.part as u32);
        let expected = Label {
            kind: Kind::Tile,
            codec: label.codec,
            variant,
            item: item_no,
            part,
        };
        if label != expected {
            return Err(Error::corrupt("another tile's frame stands here"));
        }
        let codec = codec::by_code(label.codec)?;
        let cap = codec.max_len(&self.target(job));
        state.decoder.decode(&job.frame, cap, &mut state.payload)?;
        Ok(codec)
    }

    fn decode(&self, state: &mut DecodeState, job: &Job, out: &mut Vec<u8>) -> Result<()> {
        let codec = self.payload(state, job)?;
        let target = self.target(job);
        let base = match (self.stored.head.items[job.tensor].origin, &job.base) {
            (Origin::Base { dtype, .. }, Some(bytes)) => Some(Operand { dtype, bytes }),
            _ => None,
        };
        out.clear();
        out.resize(target.n_bytes(), 0);
        codec.decode(&state.payload, &target, base, &mut state.scratch, out)
    }
}

/// Reads the frames of all wanted tensors in order, with the tiles of the base they need.
pub(crate) struct FrameReader<'a> {
    stage: &'a DecodeStage<'a>,
    /// Position in `wanted`, tile, and the file offset of its frame.
    at: (usize, u64, u64),
    ahead: (usize, u64),
    ahead_bytes: VecDeque<u64>,
    ahead_total: u64,
}

impl<'a> FrameReader<'a> {
    pub(crate) fn new(stage: &'a DecodeStage<'a>) -> Self {
        let mut reader = Self {
            stage,
            at: (0, 0, 0),
            ahead: (0, 0),
            ahead_bytes: VecDeque::new(),
            ahead_total: 0,
        };
        reader.enter(0);
        reader
    }

    fn enter(&mut self, position: usize) {
        let seals = &self.stage.stored.seal.tensors;
        let offset = self
            .stage
            .wanted
            .get(position)
            .map_or(0, |i| seals[*i].offset);
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
            return Some(self.job(tensor, part, offset, len));
        }
    }

    fn job(&self, tensor: usize, part: u64, offset: u64, len: u32) -> Result<Job> {
        let tile = self.stage.stored.tilings[tensor].get(part);
        let mut frame = self.stage.spare();
        self.stage
            .archive
            .read_frame(offset, len as usize, &mut frame)?;
        let base = match self.base_place(tensor, &tile) {
            Some((source, shard, at, n)) => {
                let window = source.window(shard, at, n)?;
                window.populate();
                Some(window)
            }
            None => None,
        };
        Ok(Job {
            tensor,
            part,
            offset,
            tile,
            frame,
            base,
        })
    }

    fn base_place(&self, tensor: usize, tile: &Tile) -> Option<(&'a Source, usize, u64, usize)> {
        let stored = self.stage.stored;
        let (t, item) = (&stored.tensors[tensor], &stored.head.items[tensor]);
        let Origin::Base { dtype, .. } = item.origin else {
            return None;
        };
        let base = self.stage.base?;
        let b = base.checkpoint.find(&t.name)?.1;
        let width = if dtype == t.dtype {
            t.dtype.lane_bytes()
        } else {
            dtype.bits() / 8
        };
        let range = tile.bytes(width);
        let n = (range.end - range.start) as usize;
        (range.end <= base_bytes_used(item)).then_some((
            &base.source,
            b.shard,
            b.offset + range.start,
            n,
        ))
    }

    fn read_ahead(&mut self) {
        if let Some(bytes) = self.ahead_bytes.pop_front() {
            self.ahead_total -= bytes;
        }
        while self.ahead_total < READ_AHEAD {
            let (position, part) = self.ahead;
            let Some(&tensor) = self.stage.wanted.get(position) else {
                return;
            };
            let tiling = &self.stage.stored.tilings[tensor];
            if part == tiling.len() {
                self.ahead = (position + 1, 0);
                continue;
            }
            self.ahead = (position, part + 1);
            let mut bytes = 0;
            if let Some((source, shard, at, n)) = self.base_place(tensor, &tiling.get(part)) {
                source.will_need(shard, at, n);
                bytes = n as u64;
            }
            // A tile without a base counts too, or the loop would run ahead over all of them.
            let bytes = bytes.max(1 << 20);
            self.ahead_bytes.push_back(bytes);
            self.ahead_total += bytes;
        }
    }
}

/// Holds decoded tensors to the hashes they were stored with.
pub(crate) struct HashCheck<'a> {
    stage: &'a DecodeStage<'a>,
    hasher: TensorHasher,
}

impl<'a> HashCheck<'a> {
    pub(crate) fn new(stage: &'a DecodeStage<'a>) -> Self {
        Self {
            stage,
            hasher: TensorHasher::default(),
        }
    }

    /// Adds a tile; after the last one of a tensor, says whether it restored to the stored hash.
    ///
    /// # Errors
    /// `Mismatch` if the base's hash differs.
    pub(crate) fn add(&mut self, tile: &Decoded) -> Result<Option<bool>> {
        self.hasher.update(tile.base.as_deref(), &tile.bytes);
        if tile.part + 1 < self.stage.stored.tilings[tile.tensor].len() {
            return Ok(None);
        }
        let seal = &self.stage.stored.seal.tensors[tile.tensor];
        let (base, restored) = self.hasher.finish();
        if base != seal.base_hash {
            if let Some(b) = self.stage.base {
                let name = &self.stage.stored.tensors[tile.tensor].name;
                return Err(wrong_base(name, &b.checkpoint, "has other values"));
            }
        }
        Ok(Some(restored == seal.restored_hash))
    }

    /// Gives a tile's buffers back.
    pub(crate) fn done(&self, tile: Decoded) {
        self.stage.spare.push(tile.bytes);
        self.stage.spare.push(tile.frame);
    }
}
