//! The parallel part of restoring and verifying: one stored frame in, its restored bytes out; and the
//! check of what came out against the stored hashes.

use crate::archive::{Archive, Head, Origin, Stored, is_placeholder};
use crate::checkpoint::{TensorInfo, Window};
use crate::codec::{self, Codec, CodecId, Operand, Scratch, Target};
use crate::error::{Error, Result};
use crate::frame::{self, Decoder, HEADER_LEN, Header, Kind, Label};
use crate::pipeline::base::{Base, other_values};
use crate::pipeline::budget::Needs;
use crate::pipeline::identity::{TensorHasher, mask_place};
use crate::pipeline::spares::Spares;
use crate::pipeline::stored_delta::{DeltaState, Shift};
use crate::tensor::Tile;

/// A frame to decode.
pub(crate) struct Job {
    pub(crate) tensor: usize,
    pub(crate) part: u64,
    /// Where its frame stands in the archive.
    pub(crate) offset: u64,
    pub(crate) tile: Tile,
    pub(crate) frame: Vec<u8>,
    /// Why the frame could not be read, if so.
    pub(crate) failed: Option<Error>,
    pub(crate) base: Option<Window>,
}

/// What became of a frame.
pub(crate) enum Examined {
    Whole(Decoded),
    Damaged(BadTile),
}

/// A frame that is damaged: whose it is, where, and why.
pub(crate) struct BadTile {
    pub(crate) tensor: usize,
    pub(crate) part: u64,
    pub(crate) offset: u64,
    pub(crate) error: Error,
    frame: Vec<u8>,
}

impl BadTile {
    /// Whether its checksums are right, so that what it needs is damaged.
    pub(crate) fn is_whole(&self) -> bool {
        frame::check(&self.frame).is_ok()
    }

    /// Whether it is whole, and stands for one that was lost.
    pub(crate) fn is_lost(&self) -> bool {
        is_placeholder(&self.frame)
    }
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
    /// The base's bytes it was decoded against.
    pub(crate) fn base_bytes(&self) -> Option<&[u8]> {
        self.base.as_deref()
    }

    /// Bytes of its frame in the archive.
    pub(crate) fn stored_len(&self) -> u64 {
        self.frame.len() as u64
    }
}

/// What one worker reuses.
pub(crate) struct DecodeState {
    decoder: Decoder,
    scratch: Scratch,
    /// The payload that was expanded last.
    pub(crate) payload: Vec<u8>,
    shift: DeltaState,
}

impl DecodeState {
    pub(crate) fn new() -> Result<Self> {
        let (scratch, payload, shift) = (Scratch::default(), Vec::new(), DeltaState::default());
        Ok(Self { decoder: Decoder::new()?, scratch, payload, shift })
    }
}

/// Decodes chosen tensors of one variant.
pub(crate) struct DecodeStage<'a> {
    pub(crate) archive: &'a Archive,
    pub(crate) stored: &'a Stored,
    pub(crate) base: Option<&'a Base>,
    /// What its base is shifted by.
    pub(crate) shift: Option<&'a Shift<'a>>,
    /// Tensors to decode, ascending; no aliases.
    pub(crate) wanted: &'a [usize],
    pub(crate) spares: Spares,
}

impl DecodeStage<'_> {
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
            let frame = self.stored.seal.tensors[i].frame_lens.iter().max().copied().unwrap_or(0);
            let patch = u64::from(self.stored.head.items[i].patch);
            let strip = t.shape.last().map_or(0, |cols| cols * patch * 4);
            tile = tile.max(bytes + base + u64::from(frame));
            let shift = self.shift.map_or(0, |shift| shift.worker_bytes(n));
            worker = worker.max(3 * bytes + n + 3 * strip + shift);
        }
        tile += self.base.map_or(0, |base| base.source().window_margin());
        let shift = self.shift.map_or(0, Shift::resident_bytes);
        let base = self.base.map_or(0, |base| base.source().resident_bytes());
        let sources = base + self.archive.frames().buffer_bytes();
        Needs { resident: self.stored.resident_bytes() + shift + sources, tile, worker }
    }

    /// Bytes all wanted tensors restore to.
    pub(crate) fn total_bytes(&self) -> u64 {
        self.wanted.iter().map(|i| self.stored.tensors[*i].n_bytes).sum()
    }

    /// Decodes one frame.
    pub(crate) fn work(&self, state: &mut DecodeState, job: Job) -> Result<Decoded> {
        match self.examine(state, job, true)? {
            Examined::Whole(tile) => Ok(tile),
            Examined::Damaged(bad) => {
                Err(bad.error.context(self.place(bad.tensor, bad.part, bad.offset)))
            }
        }
    }

    /// Checks one frame and expands it; with `decodes` decodes it too, for which the base must be there.
    ///
    /// # Errors
    /// What is no damage of the archive.
    pub(crate) fn examine(
        &self,
        state: &mut DecodeState,
        mut job: Job,
        decodes: bool,
    ) -> Result<Examined> {
        let target = self.target(&job);
        let mut bytes = if decodes { self.spares.tile(target.n_bytes()) } else { Vec::new() };
        let done = match job.failed.take() {
            Some(error) => Err(error),
            None if decodes => self.decode(state, &job, &target, &mut bytes),
            None => self.payload(state, &job, &target).map(drop),
        };
        let Job { tensor, part, tile, offset, frame, base, .. } = job;
        match done {
            Ok(()) => Ok(Examined::Whole(Decoded { tensor, part, tile, bytes, base, frame })),
            Err(error) if error.is_damage() => {
                self.spares.give_tile(bytes);
                Ok(Examined::Damaged(BadTile { tensor, part, offset, error, frame }))
            }
            Err(error) => Err(error.context(self.place(tensor, part, offset))),
        }
    }

    /// Which tile it is, for messages.
    pub(crate) fn place(&self, tensor: usize, part: u64, offset: u64) -> String {
        let (variant, name) = (&self.stored.head.name, &self.stored.tensors[tensor].name);
        format!("variant `{variant}`: tensor {name}: tile {part} at offset {offset}")
    }

    pub(crate) fn target(&self, job: &Job) -> Target {
        target(&self.stored.head, &self.stored.tensors, job.tensor, &job.tile)
    }

    /// Checks a frame's header and expands its payload into `state.payload`.
    pub(crate) fn payload(
        &self,
        state: &mut DecodeState,
        job: &Job,
        target: &Target,
    ) -> Result<&'static dyn Codec> {
        let (variant, item, part) = (self.stored.id, job.tensor as u32, job.part as u32);
        let wanted = Label { kind: Kind::Tile, codec: 0, variant, item, part };
        expand(&mut state.decoder, &job.frame, wanted, target, &mut state.payload)
    }

    fn decode(
        &self,
        state: &mut DecodeState,
        job: &Job,
        target: &Target,
        out: &mut [u8],
    ) -> Result<()> {
        let codec = self.payload(state, job, target)?;
        let base = match (self.stored.head.items[job.tensor].origin, &job.base) {
            (Origin::Base { dtype, .. }, Some(bytes)) => Some(Operand { dtype, bytes }),
            _ => None,
        };
        let DecodeState { scratch, payload, shift, .. } = state;
        let base = match (self.shift, base) {
            // Tiles kept bit for bit stand on the base as it is.
            (Some(by), Some(base)) if codec.id() != CodecId::Planes => {
                Some(by.apply(&self.stored.tensors[job.tensor].name, &job.tile, base, shift)?)
            }
            _ => base,
        };
        codec.decode(payload, target, base, scratch, out)
    }
}

/// Checks that a frame is the one `wanted` says, whatever its codec, and expands it into `payload`.
pub(crate) fn expand(
    decoder: &mut Decoder,
    frame: &[u8],
    wanted: Label,
    target: &Target,
    payload: &mut Vec<u8>,
) -> Result<&'static dyn Codec> {
    let head = frame.first_chunk::<HEADER_LEN>();
    let head = head.ok_or_else(|| Error::truncated("frame shorter than its header"))?;
    let label = Header::parse(head)?.label;
    if !label.is_but_for_codec(wanted) {
        return Err(Error::corrupt("another tile's frame stands here"));
    }
    let codec = codec::of_tile(label.codec, target)?;
    decoder.decode(frame, codec.max_len(target), payload)?;
    Ok(codec)
}

/// What a tile of a variant's tensor is restored to.
pub(crate) fn target(head: &Head, tensors: &[TensorInfo], tensor: usize, tile: &Tile) -> Target {
    let t = &tensors[tensor];
    Target {
        dtype: t.dtype,
        n_rows: tile.n_rows,
        n_cols: tile.n_cols,
        patch: usize::from(head.items[tensor].patch),
        place: mask_place(head.seed, &t.name, tile.first / tile.n_cols as u64),
        gain: head.shift.map_or(1.0, |shift| shift.eta),
    }
}

/// Holds decoded tensors to the hashes they were stored with.
pub(crate) struct HashCheck<'a> {
    stage: &'a DecodeStage<'a>,
    hasher: TensorHasher,
}

impl<'a> HashCheck<'a> {
    pub(crate) fn new(stage: &'a DecodeStage<'a>) -> Self {
        Self { stage, hasher: TensorHasher::default() }
    }

    /// Adds a tile; after the last one of a tensor, says whether it restored to the stored hash.
    ///
    /// # Errors
    /// `Mismatch` if the base's hash differs.
    pub(crate) fn add(&mut self, tile: &Decoded) -> Result<Option<bool>> {
        let Some((base, restored)) = self.hash(tile) else { return Ok(None) };
        let seal = &self.stage.stored.seal.tensors[tile.tensor];
        if let Some(b) = self.stage.base.filter(|_| base != seal.base_hash) {
            let name = &self.stage.stored.tensors[tile.tensor].name;
            return Err(other_values(b.checkpoint(), name));
        }
        Ok(Some(restored == seal.restored_hash))
    }

    /// The same for tensors that must restore to what was stored. Says whether one has.
    ///
    /// # Errors
    /// As [`Self::add`]; `Corrupt` if it has not.
    pub(crate) fn hold(&mut self, tile: &Decoded) -> Result<bool> {
        match self.add(tile)? {
            Some(false) => Err(Error::corrupt(format!(
                "tensor {} decodes to other bytes than were stored; run verify --base",
                self.stage.stored.tensors[tile.tensor].name
            ))),
            checked => Ok(checked.is_some()),
        }
    }

    /// Adds a tile; after the last one of a tensor, gives the hashes of the base's bytes and of what it
    /// restores to.
    pub(crate) fn hash(&mut self, tile: &Decoded) -> Option<(u128, u128)> {
        self.hasher.update(tile.base.as_deref(), &tile.bytes);
        let is_last = tile.part + 1 == self.stage.stored.tilings[tile.tensor].len();
        is_last.then(|| self.hasher.finish())
    }

    /// Forgets the tensor that is being added.
    pub(crate) fn forget(&mut self) {
        self.hasher.finish();
    }

    /// Gives a tile's buffers back.
    pub(crate) fn done(&self, tile: Decoded) {
        self.stage.spares.give_tile(tile.bytes);
        self.stage.spares.give_frame(tile.frame);
    }
}
