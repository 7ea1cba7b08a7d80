//! The delta of a variant that an archive holds, or is about to hold, for any run of elements: what a
//! base is shifted by, and what a shared base vector is the mean of.

use std::collections::HashMap;
use std::sync::Arc;

use crate::archive::{Archive, FrameStore, Origin, Stored};
use crate::checkpoint::{Checkpoint, Source, TensorInfo};
use crate::codec::{Codec, CodecId, Operand, Scratch, Target};
use crate::error::{Error, Result, ResultExt};
use crate::frame::{Decoder, Kind, Label};
use crate::kernel::convert;
use crate::pipeline::decode::{expand, target};
use crate::pipeline::identity::{base_bytes_used, base_probe, base_range};
use crate::tensor::{DType, Tile};

/// The delta of one variant.
#[derive(Debug)]
pub(crate) struct StoredDelta<'a> {
    frames: FrameStore,
    stored: Stored,
    by_name: HashMap<String, usize>,
    /// The base its tiles without loss are deltas of; without one they count as no delta.
    base: Option<(&'a Checkpoint, &'a Source)>,
    /// What its own base was shifted by.
    shift: Option<Box<Shift<'a>>>,
}

/// A base vector and how far along it a base is shifted.
#[derive(Debug, Clone)]
pub(crate) struct Shift<'a> {
    pub(crate) vector: Arc<StoredDelta<'a>>,
    pub(crate) lambda: f32,
}

/// What one worker reuses.
#[derive(Default)]
pub(crate) struct DeltaState {
    decoder: Option<Decoder>,
    scratch: Scratch,
    frame: Vec<u8>,
    payload: Vec<u8>,
    zeros: Vec<u8>,
    tile: Vec<f32>,
    values: Vec<f32>,
    shifted: Vec<u8>,
}

impl DeltaState {
    /// Bytes it holds for tiles of at most so many elements.
    pub(crate) fn bytes(n_elements: u64) -> u64 {
        // Frame, payload, zeros, tile, values in f32 each, the shifted base in up to f64, scratch.
        n_elements * (4 + 4 + 4 + 4 + 4 + 8) + (4 << 20)
    }

    /// A base's tile plus values, in f64 if the base is, otherwise in f32.
    fn plus(&mut self, base: Operand<'_>, values: Vec<f32>) -> Operand<'_> {
        let dtype = if base.dtype == DType::F64 { DType::F64 } else { DType::F32 };
        self.shifted.clear();
        self.shifted.resize(values.len() * dtype.bits() / 8, 0);
        convert::add((base.dtype, base.bytes), &values, dtype, &mut self.shifted);
        self.values = values;
        Operand { dtype, bytes: &self.shifted }
    }
}

impl<'a> StoredDelta<'a> {
    pub(crate) fn new(
        frames: FrameStore,
        stored: Stored,
        base: Option<(&'a Checkpoint, &'a Source)>,
        shift: Option<Shift<'a>>,
    ) -> Self {
        let names = stored.tensors.iter().enumerate();
        let by_name = names.map(|(i, t)| (t.name.clone(), i)).collect();
        Self { frames, stored, by_name, base, shift: shift.map(Box::new) }
    }

    /// Forgets tensors that have another shape in `like`, or are not there.
    pub(crate) fn keep_like(mut self, like: &[TensorInfo]) -> Self {
        let shapes: HashMap<_, _> = like.iter().map(|t| (t.name.as_str(), &t.shape)).collect();
        let tensors = &self.stored.tensors;
        self.by_name.retain(|name, i| {
            shapes.get(name.as_str()).is_some_and(|shape| **shape == tensors[*i].shape)
        });
        self
    }

    /// Forgets tensors that were not made against its base, which a delta says nothing about.
    pub(crate) fn keep_based(mut self) -> Result<Self> {
        let Some((base, source)) = self.base else { return Ok(self) };
        let mut kept = HashMap::new();
        for (name, i) in std::mem::take(&mut self.by_name) {
            let of = self.own_tiles(i);
            let (t, item) = (&self.stored.tensors[of], &self.stored.head.items[of]);
            let Origin::Base { dtype, .. } = item.origin else { continue };
            let used = base_bytes_used(item);
            let Some((_, b)) = base.find(&t.name) else { continue };
            if b.dtype == dtype
                && b.n_bytes >= used
                && base_probe(source, b, used)? == self.stored.seal.tensors[of].base_probe
            {
                kept.insert(name, i);
            }
        }
        self.by_name = kept;
        Ok(self)
    }

    /// The tensor that has the tiles of tensor `i`.
    fn own_tiles(&self, i: usize) -> usize {
        self.stored.head.items[i].source(i)
    }

    /// Whether it has no tensor left.
    pub(crate) fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// Bytes that stay while it is there.
    fn resident_bytes(&self) -> u64 {
        let shift = self.shift.as_ref().map_or(0, |s| s.vector.resident_bytes());
        self.stored.resident_bytes() + shift
    }

    /// Bytes of a worker's state for tiles of at most so many elements, which are not cut as its own.
    fn worker_bytes(&self, n_elements: u64) -> u64 {
        let (mut most, mut frame) = (n_elements, 0);
        for i in self.by_name.values().map(|i| self.own_tiles(*i)) {
            most = most.max(self.stored.tilings[i].max_elements());
            let lens = &self.stored.seal.tensors[i].frame_lens;
            frame = frame.max(lens.iter().max().copied().unwrap_or(0));
        }
        // A frame is seldom longer than what is counted for it anyway.
        let own = DeltaState::bytes(most) + u64::from(frame).saturating_sub(4 * most);
        self.shift.as_ref().map_or(own, |s| own.max(s.vector.worker_bytes(n_elements)))
    }

    /// Adds `weight` times the delta of the elements from `first` of a tensor to `out`. A tensor it
    /// does not have has no delta.
    pub(crate) fn add(
        &self,
        name: &str,
        first: u64,
        weight: f32,
        state: &mut DeltaState,
        out: &mut [f32],
    ) -> Result<()> {
        let Some(named) = self.by_name.get(name) else { return Ok(()) };
        let tensor = self.own_tiles(*named);
        // What it was shifted by has the name of the tiles.
        let own_name = &self.stored.tensors[tensor].name;
        let tiling = &self.stored.tilings[tensor];
        let (mut at, end) = (first, first + out.len() as u64);
        while at < end {
            let part = tiling.holding(at);
            if part >= tiling.len() {
                return Err(Error::corrupt(format!(
                    "{name} has fewer elements than are asked for"
                )));
            }
            let tile = tiling.get(part);
            let lossy = self
                .decode(tensor, part, &tile, state)
                .context(|| format!("`{}`: tensor {name}: tile {part}", self.stored.head.name))?;
            let until = end.min(tile.first + tile.n_elements() as u64);
            let from = &state.tile[(at - tile.first) as usize..(until - tile.first) as usize];
            let to = &mut out[(at - first) as usize..(until - first) as usize];
            to.iter_mut().zip(from).for_each(|(to, from)| *to += weight * from);
            if let Some(shift) = self.shift.as_ref().filter(|_| lossy) {
                shift.vector.add(own_name, at, weight * shift.lambda, state, to)?;
            }
            at = until;
        }
        Ok(())
    }

    /// Fills `state.tile` with the delta of one tile, but for what its base was shifted by; says
    /// whether it was stored with loss.
    fn decode(
        &self,
        tensor: usize,
        part: u64,
        tile: &Tile,
        state: &mut DeltaState,
    ) -> Result<bool> {
        let codec = self.payload(tensor, part, tile, state)?;
        let t = &self.stored.tensors[tensor];
        let head = &self.stored.head;
        let n = tile.n_elements();
        state.tile.clear();
        state.tile.resize(n, 0.0);
        let target = Target { dtype: DType::F32, ..self.target(tensor, tile) };
        if codec.id() != CodecId::Planes {
            state.zeros.resize(n * 4, 0);
            let zeros = Some(Operand { dtype: DType::F32, bytes: &state.zeros[..n * 4] });
            let out = bytemuck::cast_slice_mut(&mut state.tile);
            codec.decode(&state.payload, &target, zeros, &mut state.scratch, out)?;
            return Ok(true);
        }
        let item = &head.items[tensor];
        let place = base_range(item, t.dtype, tile).zip(self.base);
        let (Some((range, (base, source))), Origin::Base { dtype, .. }) = (place, item.origin)
        else {
            return Ok(false);
        };
        let Some((_, b)) = base.find(&t.name) else { return Ok(false) };
        let n_bytes = (range.end - range.start) as usize;
        let window = source.window(b.shard, b.offset + range.start, n_bytes)?;
        let base = Operand { dtype, bytes: &window };
        let exact = Target { dtype: t.dtype, ..target };
        state.shifted.clear();
        state.shifted.resize(exact.n_bytes(), 0);
        let out = &mut state.shifted;
        codec.decode(&state.payload, &exact, Some(base), &mut state.scratch, out)?;
        convert::subtract((t.dtype, out), (dtype, &window), &mut state.tile);
        // Nothing can be shifted by infinity.
        state.tile.iter_mut().filter(|v| !v.is_finite()).for_each(|v| *v = 0.0);
        Ok(false)
    }

    fn target(&self, tensor: usize, tile: &Tile) -> Target {
        target(&self.stored.head, &self.stored.tensors, tensor, tile)
    }

    /// Reads one frame and expands it into `state.payload`.
    fn payload(
        &self,
        tensor: usize,
        part: u64,
        tile: &Tile,
        state: &mut DeltaState,
    ) -> Result<&'static dyn Codec> {
        let seal = &self.stored.seal.tensors[tensor];
        let lens = &seal.frame_lens;
        let offset = seal.offset + lens[..part as usize].iter().map(|n| u64::from(*n)).sum::<u64>();
        self.frames.read(offset, lens[part as usize] as usize, &mut state.frame)?;
        let (variant, item, part) = (self.stored.id, tensor as u32, part as u32);
        let wanted = Label { kind: Kind::Tile, codec: 0, variant, item, part };
        let target = self.target(tensor, tile);
        let decoder = match &mut state.decoder {
            Some(decoder) => decoder,
            none => none.insert(Decoder::new()?),
        };
        expand(decoder, &state.frame, wanted, &target, &mut state.payload)
    }
}

/// What a delta is taken between.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Sides<'a> {
    /// Fine-tune and base.
    AsTheyAre,
    /// Fine-tune and a shifted base.
    ShiftedBase(&'a Shift<'a>),
    /// The mean of the fine-tune and others, and the base.
    MeanWith(&'a [StoredDelta<'a>]),
}

impl Sides<'_> {
    /// Bytes a worker holds for them.
    pub(crate) fn worker_bytes(&self, n_elements: u64) -> u64 {
        match self {
            Sides::AsTheyAre => 0,
            Sides::ShiftedBase(shift) => shift.worker_bytes(n_elements),
            Sides::MeanWith(others) => {
                let bytes = others.iter().map(|other| other.worker_bytes(n_elements));
                bytes.max().unwrap_or(0).max(DeltaState::bytes(n_elements))
            }
        }
    }

    /// Bytes that stay for the whole run for them.
    pub(crate) fn resident_bytes(&self) -> u64 {
        match self {
            Sides::AsTheyAre => 0,
            Sides::ShiftedBase(shift) => shift.resident_bytes(),
            Sides::MeanWith(others) => others.iter().map(StoredDelta::resident_bytes).sum(),
        }
    }

    /// Both sides of one tile, from the fine-tune's and the base's.
    pub(crate) fn of<'s>(
        &self,
        name: &str,
        tile: &Tile,
        (ft, base): (Operand<'s>, Operand<'s>),
        state: &'s mut DeltaState,
    ) -> Result<(Operand<'s>, Operand<'s>)> {
        match self {
            Sides::AsTheyAre => Ok((ft, base)),
            Sides::ShiftedBase(shift) => Ok((ft, shift.apply(name, tile, base, state)?)),
            Sides::MeanWith(others) => {
                let mut values = std::mem::take(&mut state.values);
                values.clear();
                values.resize(tile.n_elements(), 0.0);
                convert::subtract((ft.dtype, ft.bytes), (base.dtype, base.bytes), &mut values);
                for other in *others {
                    other.add(name, tile.first, 1.0, state, &mut values)?;
                }
                let share = 1.0 / (others.len() + 1) as f32;
                values.iter_mut().for_each(|v| *v *= share);
                Ok((state.plus(base, values), base))
            }
        }
    }
}

/// The delta of a variant of `archive`, against the base given.
pub(crate) fn load_delta<'a>(
    archive: &Archive,
    stored: Stored,
    base: (&'a Checkpoint, &'a Source),
) -> Result<StoredDelta<'a>> {
    let shift = load_shift(archive, &stored)?;
    Ok(StoredDelta::new(archive.frames().clone(), stored, Some(base), shift))
}

/// What the base of a stored variant is shifted by, if it is: by a vector's tensors of the variant's
/// own shapes alone.
pub(crate) fn load_shift<'a>(archive: &Archive, stored: &Stored) -> Result<Option<Shift<'a>>> {
    let Some((id, lambda)) = stored.head.shift.and_then(|s| s.vector.zip(Some(s.lambda))) else {
        return Ok(None);
    };
    let vector = archive.load_vector(id)?;
    // As it was encoded; and nothing times an overflow would be no number.
    if lambda == 0.0 {
        return Ok(None);
    }
    let vector = StoredDelta::new(archive.frames().clone(), vector, None, None);
    Ok(Some(Shift { vector: Arc::new(vector.keep_like(&stored.tensors)), lambda }))
}

impl Shift<'_> {
    /// Bytes of a worker's state for tiles of at most so many elements.
    pub(crate) fn worker_bytes(&self, n_elements: u64) -> u64 {
        self.vector.worker_bytes(n_elements)
    }

    /// Bytes that stay for the whole run.
    pub(crate) fn resident_bytes(&self) -> u64 {
        self.vector.resident_bytes()
    }

    /// The shifted base of a tile, in f64 if the base is, otherwise in f32.
    pub(crate) fn apply<'s>(
        &self,
        name: &str,
        tile: &Tile,
        base: Operand<'_>,
        state: &'s mut DeltaState,
    ) -> Result<Operand<'s>> {
        let mut values = std::mem::take(&mut state.values);
        values.clear();
        values.resize(tile.n_elements(), 0.0);
        self.vector.add(name, tile.first, self.lambda, state, &mut values)?;
        Ok(state.plus(base, values))
    }
}
