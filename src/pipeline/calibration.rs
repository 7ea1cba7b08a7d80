//! Statistics of the layers' inputs (`tools/calibrate` records them), and what an error in a weight
//! does to a layer's output by them.
//!
//! For a weight W [out, in] whose inputs x have second moments M = mean(x x^T), an error E in W moves
//! the output by E x, whose mean squared length is tr(E M E^T). The file is one of safetensors: for
//! the weight called N a tensor called N, F32 or F64, either M itself, `[in, in]`, of which the
//! lower triangle is read, or its diagonal alone, `[in]`. A matrix may be larger than memory, so it
//! passes by in blocks of lines for every tile.

use std::path::Path;

use crate::checkpoint::{Checkpoint, MapChoice, Source, TensorInfo};
use crate::codec::delta::DeltaTile;
use crate::codec::{Operand, Scratch};
use crate::error::{Error, Result};
use crate::kernel::{convert, moment, quantise};
use crate::pair::Pair;
use crate::tensor::DType;

/// Elements of a matrix of moments that are read at a time: a block of 1 MiB stays in the
/// second-level cache while the rows of a tile pass by.
const BLOCK: usize = 256 << 10;

/// An open file of statistics, held against a fine-tune.
pub(crate) struct Calibration {
    checkpoint: Checkpoint,
    source: Source,
    /// For each tensor of the fine-tune that is stored with loss its statistics, if there are any.
    found: Vec<Option<usize>>,
}

impl Calibration {
    /// Opens the file and holds it against the fine-tune; what a person should know goes to the
    /// pair's notes. A diagonal is checked here, a matrix as it is read.
    ///
    /// # Errors
    /// `InvalidArgument` if nothing in it belongs to a tensor with loss, or something belongs to a
    /// tensor of another width; `InvalidCheckpoint` for values that no second moment has; `Io`.
    pub(crate) fn open(
        path: &Path,
        ft: &Checkpoint,
        pair: &mut Pair,
        map: &MapChoice,
    ) -> Result<Self> {
        let checkpoint = Checkpoint::open(path).map_err(|e| e.context("--calibrate"))?;
        let source = Source::new(&checkpoint, map)?;
        let mut this = Self { checkpoint, source, found: vec![None; ft.tensors().len()] };
        let mut unknown = Vec::new();
        for (i, t) in this.checkpoint.tensors().iter().enumerate() {
            let Some((tensor, weight)) = ft.find(&t.name) else {
                unknown.push(&t.name);
                continue;
            };
            check_shape(t, weight).map_err(|e| this.named(e, t))?;
            let p = &pair.items[tensor];
            if p.item.lossy && !p.tiling.is_empty() {
                this.found[tensor] = Some(i);
            }
        }
        let notes = this.notes(ft, pair, &unknown)?;
        this.check_diagonals()?;
        pair.notes.extend(notes);
        Ok(this)
    }

    /// What does not match, on both sides.
    fn notes(&self, ft: &Checkpoint, pair: &Pair, unknown: &[&String]) -> Result<Vec<String>> {
        let file = self.path().display();
        let items = pair.items.iter().zip(ft.tensors()).zip(&self.found);
        let lossy: Vec<_> =
            items.filter(|((p, _), _)| p.item.lossy && !p.tiling.is_empty()).collect();
        let bare: Vec<_> = lossy.iter().filter(|(_, found)| found.is_none()).collect();
        if bare.len() == lossy.len() {
            return Err(Error::invalid_argument(format!(
                "--calibrate {file} has no statistics of any tensor that is stored with loss; \
                 record them with this model (tools/calibrate)"
            )));
        }
        let mut notes = Vec::new();
        if let Some(((_, t), _)) = bare.first() {
            notes.push(format!(
                "{} of {} lossy tensors have no statistics in {file} (first: {}); the output error \
                 leaves them out",
                bare.len(),
                lossy.len(),
                t.name
            ));
        }
        if let Some(first) = unknown.first() {
            notes.push(format!(
                "{} statistics in {file} belong to no tensor of the fine-tune (first: {first})",
                unknown.len()
            ));
        }
        Ok(notes)
    }

    fn check_diagonals(&self) -> Result<()> {
        let mut values = Vec::new();
        for t in self.found.iter().flatten().map(|i| &self.checkpoint.tensors()[*i]) {
            if let [n] = t.shape[..] {
                self.read(t, 0, n as usize, &mut values)?;
                if values.iter().any(|v| !is_moment(*v)) {
                    return Err(self.named(not_moments(), t));
                }
            }
        }
        Ok(())
    }

    /// Whether this tensor of the fine-tune has statistics.
    pub(crate) fn has(&self, tensor: usize) -> bool {
        self.found.get(tensor).is_some_and(Option::is_some)
    }

    /// The file, for messages and to be held against an output.
    pub(crate) fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// Bytes that stay for the whole run, and bytes of one worker's buffers.
    pub(crate) fn needs(&self, pair: &Pair) -> (u64, u64) {
        let headers: u64 = self.checkpoint.shards().iter().map(|s| s.header.len() as u64).sum();
        let worker = pair.items.iter().zip(&self.found).filter_map(|(p, found)| {
            let t = &self.checkpoint.tensors()[(*found)?];
            let width = t.shape[0];
            // A window and its f32 copy; for a matrix the whole tile's difference too.
            Some(match t.shape.len() {
                1 => 12 * width,
                _ => 12 * width.max(BLOCK as u64) + 4 * p.tiling.max_elements(),
            })
        });
        (8 * headers, worker.max().unwrap_or(0))
    }

    /// tr(E M E^T) of a difference E of whole rows of this tensor of the fine-tune; 0 for a tensor
    /// without statistics.
    ///
    /// # Errors
    /// `InvalidCheckpoint` if the moments cannot be any; `Io`.
    pub(crate) fn output_error(
        &self,
        tensor: usize,
        difference: &DeltaTile<'_>,
        scratch: &mut Scratch,
    ) -> Result<f64> {
        let Some(found) = self.found.get(tensor).copied().flatten() else {
            return Ok(0.0);
        };
        let t = &self.checkpoint.tensors()[found];
        let sum = match t.shape.len() {
            1 => self.by_diagonal(t, difference, scratch),
            _ => self.by_matrix(t, difference, scratch),
        };
        let sum = sum.map_err(|e| self.named(e, t))?;
        // A restored value may have overflowed; that is no fault of the moments.
        if !sum.is_finite() && is_finite(difference, scratch) {
            return Err(self.named(not_moments(), t));
        }
        Ok(sum)
    }

    fn by_diagonal(
        &self,
        t: &TensorInfo,
        difference: &DeltaTile<'_>,
        scratch: &mut Scratch,
    ) -> Result<f64> {
        let n_cols = difference.n_cols;
        self.read(t, 0, n_cols, &mut scratch.work)?;
        let mut sum = 0.0;
        for rows in difference.cached_strips() {
            difference.rows(&rows, &mut scratch.strip);
            sum += moment::diagonal(&scratch.strip, n_cols, &scratch.work);
        }
        Ok(sum)
    }

    fn by_matrix(
        &self,
        t: &TensorInfo,
        difference: &DeltaTile<'_>,
        scratch: &mut Scratch,
    ) -> Result<f64> {
        let n_cols = difference.n_cols;
        difference.rows(&(0..difference.n_rows), &mut scratch.strip);
        let step = (BLOCK / n_cols.max(1)).max(1);
        let mut sum = 0.0;
        for first in (0..n_cols).step_by(step) {
            let n = step.min(n_cols - first);
            self.read(t, first * n_cols, n * n_cols, &mut scratch.work)?;
            let mut own = (0..n).filter_map(|k| scratch.work.get(k * n_cols + first + k));
            if own.any(|v| !is_moment(*v)) {
                return Err(not_moments());
            }
            sum += moment::full(&scratch.strip, n_cols, first, &scratch.work);
        }
        Ok(sum)
    }

    /// Reads `n` elements of a tensor from element `first`.
    fn read(&self, t: &TensorInfo, first: usize, n: usize, out: &mut Vec<f32>) -> Result<()> {
        let width = t.dtype.bits() / 8;
        let at = t.offset + (first * width) as u64;
        let window = self.source.window(t.shard, at, n * width)?;
        window.populate()?;
        out.resize(n, 0.0);
        convert::to_f32(t.dtype, &window, out);
        Ok(())
    }

    fn path(&self) -> &Path {
        match self.checkpoint.shards() {
            [shard] => &shard.path,
            _ => self.checkpoint.root(),
        }
    }

    fn named(&self, error: Error, t: &TensorInfo) -> Error {
        error.context(format!("--calibrate {}: tensor {}", self.path().display(), t.name))
    }
}

/// What an error does to the output, and the delta itself: tr(E M E^T) of what is lost and of the
/// whole delta, for a tile `ft` of whole rows; zeros without statistics.
pub(crate) fn output_sums(
    calibration: Option<&Calibration>,
    tensor: usize,
    ft: DeltaTile<'_>,
    restored: Operand<'_>,
    scratch: &mut Scratch,
) -> Result<(f64, f64)> {
    let Some(calibration) = calibration else { return Ok((0.0, 0.0)) };
    let lost = DeltaTile { base: restored, ..ft };
    let error = calibration.output_error(tensor, &lost, scratch)?;
    Ok((error, calibration.output_error(tensor, &ft, scratch)?))
}

/// Statistics are `[in]` or `[in, in]` for a weight `[.., out, in]`.
fn check_shape(t: &TensorInfo, weight: &TensorInfo) -> Result<()> {
    if !matches!(t.dtype, DType::F32 | DType::F64) {
        let text = format!("{} where second moments are F32 or F64; record again", t.dtype.name());
        return Err(Error::invalid_checkpoint(text));
    }
    let fits = match (&t.shape[..], &weight.shape[..]) {
        ([n], [_, .., width]) => n == width,
        ([n, m], [_, .., width]) => n == width && m == width,
        _ => false,
    };
    if fits {
        return Ok(());
    }
    Err(Error::invalid_argument(format!(
        "{:?} is neither [in] nor [in, in] for the weight's {:?}; record them with this model",
        t.shape, weight.shape
    )))
}

/// Whether a mean of squares can have this value.
fn is_moment(value: f32) -> bool {
    value.is_finite() && value >= 0.0
}

fn not_moments() -> Error {
    Error::invalid_checkpoint(
        "values that are no means of squares (negative or not finite); record again",
    )
}

fn is_finite(difference: &DeltaTile<'_>, scratch: &mut Scratch) -> bool {
    difference.cached_strips().all(|rows| {
        difference.rows(&rows, &mut scratch.strip);
        quantise::sum_abs(&scratch.strip).is_finite()
    })
}
