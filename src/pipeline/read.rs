//! Reads the tensors of a variant one by one into memory of the caller's, as a program wants them that
//! patches a model it holds already.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use crate::archive::{Archive, Lost, Origin, Stored};
use crate::checkpoint::{Checkpoint, TensorInfo};
use crate::error::{Error, Result, ResultExt};
use crate::pipeline::base::Base;
use crate::pipeline::decode::{DecodeStage, DecodeState, Decoded, HashCheck, Job};
use crate::pipeline::frames::frames;
use crate::pipeline::options::{Observer, Resources};
use crate::pipeline::ordered::run_beside;
use crate::pipeline::restore::sources;
use crate::pipeline::spares::Spares;
use crate::pipeline::stored_delta::{Shift, load_shift};

/// Bytes of a base that are read at a time.
const PIECE: usize = 4 << 20;

/// A variant of an archive, as its records describe it. The generation it was opened at stays readable, whatever
/// is appended or removed later.
///
/// # Examples
/// The variants of an archive, and their tensors, without the base:
/// ```
/// use delta_stream::{CompressOptions, Method, PairShape, Silent, VariantReader};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// # delta_stream::make_pair(dir.path(), &PairShape::small().with_sizes(32, 48, 64, 1), 1)?;
/// # let [ft, base, archive] = ["fine-tune", "base", "a.delta.zst"].map(|name| dir.path().join(name));
/// # let options = CompressOptions::new(Method::Lossless).with_name("exact");
/// # delta_stream::compress(&ft, &base, &archive, &options, &Silent)?;
/// for listed in &delta_stream::inspect(&archive, None, false)?.variants {
///     let variant = VariantReader::open(&archive, Some(&listed.name))?;
///     assert_eq!(variant.name(), "exact");
///     for (i, tensor) in variant.tensors().iter().enumerate() {
///         let tuned = if variant.is_as_in_base(i) { "as in the base" } else { "tuned" };
///         println!("{} {:?} {:?} {tuned}", tensor.name, tensor.dtype, tensor.shape);
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct VariantReader(Arc<Opened>);

struct Opened {
    archive: Archive,
    stored: Stored,
    lost: Lost,
}

impl VariantReader {
    /// Opens the variant called `name`, or the only one there is, from its records alone.
    ///
    /// # Errors
    /// `Corrupt`, `Truncated` or `Incompatible` if what is read of the archive cannot be; `InvalidArgument`
    /// if there is no such variant, or none is named and there are several; `Io`.
    pub fn open(archive: &Path, name: Option<&str>) -> Result<Self> {
        let archive = Archive::open(archive)?;
        let stored = archive.load(name)?;
        let lost = archive.lost(&stored)?;
        Ok(Self(Arc::new(Opened { archive, stored, lost })))
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.0.stored.head.name
    }

    /// Its tensors in file order: shard and place are those of the fine-tune's own files.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.0.stored.tensors
    }

    /// Whether the tensor at this position of [`tensors`](Self::tensors) restores to the very bits that the
    /// base has under its name, as the stored hashes say.
    pub fn is_as_in_base(&self, tensor: usize) -> bool {
        let Stored { head, seal, tensors, .. } = &self.0.stored;
        let Some(((item, seal), info)) =
            head.items.get(tensor).zip(seal.tensors.get(tensor)).zip(tensors.get(tensor))
        else {
            return false;
        };
        match item.origin {
            Origin::Base { dtype, n_elements } => {
                dtype == info.dtype
                    && n_elements == info.n_elements()
                    && seal.base_hash == seal.restored_hash
            }
            Origin::Alias(_) | Origin::Whole => false,
        }
    }

    /// Opens the base it is decoded against. A base that cannot be the one the variant was made against is
    /// refused at once, by a few KiB of each tensor; of every tensor that is read all bytes are held to the
    /// stored hashes.
    ///
    /// # Errors
    /// `Mismatch` naming the first tensor that differs; `InvalidCheckpoint` if the base is broken; `Corrupt` if
    /// the variant's base vector is; `Io`.
    pub fn on(&self, base: &Path, resources: &Resources) -> Result<TensorReader> {
        let Opened { archive, stored, .. } = &*self.0;
        let base = Base::open(base, resources)?;
        let all: Vec<_> = (0..stored.tensors.len()).collect();
        base.check(stored, &sources(stored, &all))?;
        let shift = load_shift(archive, stored)?;
        Ok(TensorReader { variant: self.clone(), base, shift, resources: resources.clone() })
    }
}

impl fmt::Debug for VariantReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("VariantReader").field(&self.name()).finish()
    }
}

/// A variant with its base: gives tensors of both, whole and checked. Any thread may read, and several at once.
///
/// # Examples
/// One tensor as `f32`; elements lie as they do in a safetensors file, little-endian:
/// ```
/// use delta_stream::{CompressOptions, DType, Method, PairShape, Resources, Silent, VariantReader};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// # let shape = PairShape::small().with_sizes(32, 48, 64, 1).with_dtype(DType::F32);
/// # delta_stream::make_pair(dir.path(), &shape, 1)?;
/// # let [ft, base, archive] = ["fine-tune", "base", "a.delta.zst"].map(|name| dir.path().join(name));
/// # delta_stream::compress(&ft, &base, &archive, &CompressOptions::new(Method::Lossless), &Silent)?;
/// let variant = VariantReader::open(&archive, None)?;
/// let reader = variant.on(&base, &Resources::default())?;
/// let tensor = &variant.tensors()[0];
/// assert_eq!(tensor.dtype, DType::F32);
/// let mut bytes = vec![0; tensor.n_bytes as usize];
/// reader.read(0, &mut bytes, &Silent)?;
/// let values: Vec<f32> =
///     bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
/// assert_eq!(values.len() as u64, tensor.shape.iter().product::<u64>());
/// # Ok(())
/// # }
/// ```
pub struct TensorReader {
    variant: VariantReader,
    base: Base,
    shift: Option<Shift<'static>>,
    resources: Resources,
}

impl TensorReader {
    /// The variant that is read.
    pub fn variant(&self) -> &VariantReader {
        &self.variant
    }

    /// The base, as opened.
    pub fn base(&self) -> &Checkpoint {
        self.base.checkpoint()
    }

    /// Decodes the tensor at this position of [`VariantReader::tensors`] into `out`, which has its `n_bytes`
    /// bytes: elements in row-major order, little-endian. Tiles are decoded in parallel. The observer hears
    /// of bytes of this tensor.
    ///
    /// # Errors
    /// `InvalidArgument` if there is no such tensor, `out` has another length, or there is too little memory;
    /// `Mismatch` if the base has other values; `Corrupt` or `Truncated` if the archive is damaged or had lost
    /// the tensor; `Io`, also if the base was written to; `Interrupted`. What `out` holds then means nothing.
    pub fn read(&self, tensor: usize, out: &mut [u8], observer: &dyn Observer) -> Result<()> {
        let Opened { archive, stored, lost } = &*self.variant.0;
        let info = self.tensor(&stored.tensors, tensor, out.len())?;
        let source = stored.head.items[tensor].source(tensor);
        if lost.tensors.contains(&source) {
            return Err(Error::corrupt(format!(
                "tensor {} is not whole: the archive that this one was recovered from had lost it",
                info.name
            )));
        }
        let (wanted, spares) = (&[source][..], Spares::default());
        let (base, shift) = (Some(&self.base), self.shift.as_ref());
        let stage = DecodeStage { archive, stored, base, shift, wanted, spares };
        decode(&stage, out, &self.resources, observer)
            .context(|| format!("variant `{}`", stored.head.name))?;
        self.base.checkpoint().check_unchanged()
    }

    /// Copies the tensor at this position of the base's [`Checkpoint::tensors`] into `out`, which has its
    /// `n_bytes` bytes.
    ///
    /// # Errors
    /// `InvalidArgument` if there is no such tensor or `out` has another length; `Io`, also if the base was
    /// written to.
    pub fn read_base(&self, tensor: usize, out: &mut [u8]) -> Result<()> {
        let info = self.tensor(self.base.checkpoint().tensors(), tensor, out.len())?;
        let mut at = info.offset;
        for piece in out.chunks_mut(PIECE) {
            piece.copy_from_slice(&self.base.source().window(info.shard, at, piece.len())?);
            at += piece.len() as u64;
        }
        self.base.checkpoint().check_unchanged()
    }

    fn tensor<'t>(
        &self,
        tensors: &'t [TensorInfo],
        i: usize,
        len: usize,
    ) -> Result<&'t TensorInfo> {
        let found = tensors.get(i);
        let info =
            found.ok_or_else(|| Error::invalid_argument(format!("there is no tensor {i}")))?;
        if info.n_bytes == len as u64 {
            return Ok(info);
        }
        let (name, n_bytes) = (&info.name, info.n_bytes);
        let text = format!("tensor {name} has {n_bytes} bytes, the memory for it {len}");
        Err(Error::invalid_argument(text))
    }
}

impl fmt::Debug for TensorReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("TensorReader");
        shown.field("variant", &self.variant.name()).field("base", &self.base().root()).finish()
    }
}

/// Decodes the one tensor that the stage wants.
fn decode(
    stage: &DecodeStage<'_>,
    out: &mut [u8],
    resources: &Resources,
    observer: &dyn Observer,
) -> Result<()> {
    let (width, mut reader, fetches) = frames(stage, (stage.needs(), resources), None)?;
    let (mut done, total) = (0, out.len() as u64);
    let mut rest = out;
    let mut check = HashCheck::new(stage);
    // Each tile with its own piece of what is filled.
    let mut next = move || -> Option<Result<(Job, &mut [u8])>> {
        let job = match reader.next()? {
            Ok(job) => job,
            Err(error) => return Some(Err(error)),
        };
        let n = stage.target(&job).n_bytes().min(rest.len());
        let (piece, left) = std::mem::take(&mut rest).split_at_mut(n);
        rest = left;
        Some(Ok((job, piece)))
    };
    let work = |state: &mut DecodeState, (job, piece): (Job, &mut [u8])| -> Result<Decoded> {
        let tile = stage.work(state, job)?;
        piece.copy_from_slice(&tile.bytes);
        Ok(tile)
    };
    let mut sink = |tile: Decoded| {
        observer.check()?;
        check.hold(&tile)?;
        done += tile.bytes.len() as u64;
        observer.progress(done, total);
        check.done(tile);
        Ok(())
    };
    if stage.wanted.iter().all(|i| stage.stored.tilings[*i].len() <= 1) {
        // Most tensors of a model are small: threads would take longer than they do.
        let mut state = DecodeState::new()?;
        while let Some(job) = next() {
            sink(work(&mut state, job?)?)?;
        }
        return Ok(());
    }
    let beside: (_, &(dyn Fn() + Sync)) = (fetches.n_threads(), &|| fetches.run());
    run_beside(width, beside, next, DecodeState::new, work, sink)
}
