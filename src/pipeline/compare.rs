//! `compare`: how two checkpoints differ, tensor by tensor, streamed like everything else.

use std::path::Path;
use std::time::Instant;

use crate::checkpoint::{Checkpoint, Source, TensorInfo, Window, is_adapter};
use crate::error::{Error, Result};
use crate::kernel::{convert, quantise};
use crate::pipeline::budget::{Needs, peak_memory};
use crate::pipeline::options::{Observer, Resources};
use crate::pipeline::ordered::run_ordered;
use crate::report::{CompareReport, TensorDifference};
use crate::tensor::Tiling;

/// Elements whose squares are summed at a time.
const STEP: usize = 16 << 10;

/// Compares checkpoint `a` (the original) with `b`; with `base`, errors are relative to `a`'s delta.
///
/// # Errors
/// `InvalidCheckpoint` if one of them is broken.
pub fn compare(
    a: &Path,
    b: &Path,
    base: Option<&Path>,
    resources: &Resources,
    observer: &dyn Observer,
) -> Result<CompareReport> {
    let started = Instant::now();
    let [a, b] = [resources.locate(a)?, resources.locate(b)?];
    let base = base.map(|base| resources.locate(base)).transpose()?;
    check_bases(&a, &b, base.is_some())?;
    let open = |path: &Path| {
        let checkpoint = match &base {
            Some(base) => Checkpoint::open_fine_tune(path, base)?,
            None => Checkpoint::open(path)?,
        };
        let source = Source::new(&checkpoint, &resources.map)?;
        Ok::<_, Error>((checkpoint, source))
    };
    let sides = Sides { a: open(&a)?, b: open(&b)?, base: base.as_deref().map(open).transpose()? };
    let tensors: Vec<_> = sides.a.0.tensors().iter().map(|t| sides.match_up(t)).collect();
    let mut sums = vec![Sums::default(); tensors.len()];
    let total = sides.a.0.total_bytes();
    let mut done = 0;
    observer.stage("compare");
    let width = sides.needs().width(resources.max_memory, resources.threads)?;
    let mut jobs = tensors
        .iter()
        .enumerate()
        .flat_map(|(i, m)| (0..m.tiling.len()).map(move |tile| (i, tile)));
    run_ordered(
        width,
        || jobs.next().map(|(i, tile)| sides.read(&tensors[i], i, tile)),
        || Ok(Vec::new()),
        |buffer, job| Ok((job.tensor, job.a.len() as u64, job.sums(buffer))),
        |(i, n, part)| {
            observer.check()?;
            sums[i].add(&part);
            done += n;
            observer.progress(done, total);
            Ok(())
        },
    )?;
    Ok(sides.report(&tensors, &sums, started))
}

/// An adapter is compared with a checkpoint as the fine-tune that it makes of the base.
fn check_bases(a: &Path, b: &Path, has_base: bool) -> Result<()> {
    if has_base || is_adapter(a) == is_adapter(b) {
        return Ok(());
    }
    let adapter = if is_adapter(a) { a } else { b };
    Err(Error::invalid_argument(format!(
        "{} is a LoRA adapter; give the base that it is merged into with --base",
        adapter.display()
    )))
}

type Side = (Checkpoint, Source);

struct Sides {
    a: Side,
    b: Side,
    base: Option<Side>,
}

/// A tensor of `a` with its counterparts.
struct Match<'a> {
    a: &'a TensorInfo,
    b: Option<&'a TensorInfo>,
    base: Option<&'a TensorInfo>,
    tiling: Tiling,
}

#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    error: f64,
    reference: f64,
    max_abs: f64,
    changed: u64,
}

impl Sums {
    fn add(&mut self, part: &Sums) {
        self.error += part.error;
        self.reference += part.reference;
        self.max_abs = self.max_abs.max(part.max_abs);
        self.changed += part.changed;
    }
}

struct Job {
    tensor: usize,
    dtype: crate::tensor::DType,
    a: Window,
    b: Window,
    base: Option<(crate::tensor::DType, Window)>,
}

impl Sides {
    fn needs(&self) -> Needs {
        let a = &self.a.0;
        let tile = |t: &TensorInfo| {
            let lane = t.dtype.lane_bytes();
            let n = Tiling::flat(t.n_bytes / lane as u64, lane, 0).max_elements();
            let other = self
                .b
                .0
                .find(&t.name)
                .map_or(0, |(_, b)| self.b.1.beside(b, n * b.dtype.lane_bytes() as u64));
            // Both sides, and a base of at most eight bytes an element.
            n * (2 * lane as u64 + 8) + self.a.1.beside(t, n * lane as u64) + other
        };
        let tile = a.tensors().iter().map(tile).max().unwrap_or(0);
        let headers: u64 = a.shards().iter().map(|s| s.header.len() as u64).sum();
        Needs { resident: 24 * headers, tile, worker: (STEP * 8) as u64 }
    }

    fn match_up<'a>(&'a self, t: &'a TensorInfo) -> Match<'a> {
        let alike = |o: &&TensorInfo| o.dtype == t.dtype && o.shape == t.shape;
        let b = self.b.0.find(&t.name).map(|f| f.1).filter(alike);
        let base = self.base.as_ref().and_then(|base| base.0.find(&t.name));
        let base = base.map(|f| f.1).filter(|o| o.shape == t.shape && o.dtype.is_float());
        let n = if b.is_some() { t.n_bytes / t.dtype.lane_bytes() as u64 } else { 0 };
        Match { a: t, b, base, tiling: Tiling::flat(n, t.dtype.lane_bytes(), 0) }
    }

    fn read(&self, m: &Match<'_>, tensor: usize, tile: u64) -> Result<Job> {
        let tile = m.tiling.get(tile);
        let window = |side: &Side, t: &TensorInfo| {
            let range = tile.bytes(t.dtype.lane_bytes());
            let window = side.1.window(
                t.shard,
                t.offset + range.start,
                (range.end - range.start) as usize,
            )?;
            window.populate()?;
            Ok::<_, Error>(window)
        };
        let b = m.b.ok_or_else(|| Error::invalid_argument("nothing to compare with"))?;
        let base = match (&self.base, m.base) {
            (Some(side), Some(t)) if m.a.dtype.is_float() => Some((t.dtype, window(side, t)?)),
            _ => None,
        };
        let (a, b) = (window(&self.a, m.a)?, window(&self.b, b)?);
        Ok(Job { tensor, dtype: m.a.dtype, a, b, base })
    }

    fn report(&self, tensors: &[Match<'_>], sums: &[Sums], started: Instant) -> CompareReport {
        let relative = |s: &Sums| (s.reference > 0.0).then(|| s.error / s.reference);
        let mut list: Vec<_> = tensors
            .iter()
            .zip(sums)
            .map(|(m, s)| {
                let float = m.a.dtype.is_float() && m.b.is_some();
                TensorDifference {
                    name: m.a.name.clone(),
                    identical: m.b.is_some() && s.changed == 0,
                    relative_error: relative(s).filter(|_| float),
                    max_abs: float.then_some(s.max_abs),
                    changed: s.changed,
                    note: self.why_not(m),
                }
            })
            .collect();
        let only_b = self.b.0.tensors().iter().filter(|t| self.a.0.find(&t.name).is_none());
        list.extend(only_b.map(|t| TensorDifference {
            name: t.name.clone(),
            identical: false,
            relative_error: None,
            max_abs: None,
            changed: t.n_elements(),
            note: Some("only in B".to_owned()),
        }));
        // What one side lacks has no error that could be added up.
        let is_comparable = list.iter().all(|t| t.note.is_none());
        let mut all = Sums::default();
        sums.iter().for_each(|s| all.add(s));
        CompareReport {
            identical: list.iter().all(|t| t.identical),
            relative_error: relative(&all).filter(|_| is_comparable),
            tensors: list,
            peak_memory_bytes: peak_memory(),
            elapsed_seconds: started.elapsed().as_secs_f64(),
        }
    }

    fn why_not(&self, m: &Match<'_>) -> Option<String> {
        if m.b.is_some() {
            return None;
        }
        Some(match self.b.0.find(&m.a.name) {
            None => "only in A".to_owned(),
            Some((_, b)) => {
                let (a, b) = ((m.a.dtype.name(), &m.a.shape), (b.dtype.name(), &b.shape));
                format!("{} {:?} in A, {} {:?} in B", a.0, a.1, b.0, b.1)
            }
        })
    }
}

impl Job {
    fn sums(&self, buffer: &mut Vec<f32>) -> Sums {
        let lane = self.dtype.lane_bytes();
        let mut sums = Sums::default();
        if self.a[..] != self.b[..] {
            let lanes = self.a.chunks_exact(lane).zip(self.b.chunks_exact(lane));
            sums.changed = lanes.filter(|(x, y)| x != y).count() as u64;
        }
        if !self.dtype.is_float() {
            return sums;
        }
        let n = self.a.len() / lane;
        for start in (0..n).step_by(STEP) {
            let part = start..n.min(start + STEP);
            let a = (self.dtype, &self.a[part.start * lane..part.end * lane]);
            buffer.resize(part.len(), 0.0);
            if sums.changed > 0 {
                convert::subtract(
                    a,
                    (self.dtype, &self.b[part.start * lane..part.end * lane]),
                    buffer,
                );
                sums.error += quantise::sum_squares(buffer);
                let (lo, hi) = quantise::min_max(buffer);
                sums.max_abs = sums.max_abs.max(f64::from(hi.max(-lo)));
            }
            match &self.base {
                Some((dtype, base)) => {
                    let width = dtype.lane_bytes();
                    let base = (*dtype, &base[part.start * width..part.end * width]);
                    convert::subtract(a, base, buffer);
                }
                None => convert::to_f32(a.0, a.1, buffer),
            }
            sums.reference += quantise::sum_squares(buffer);
        }
        sums
    }
}
