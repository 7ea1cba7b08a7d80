//! Windows whose bytes are formed of a base's and an adapter's.

use std::sync::{Arc, OnceLock};

use crate::checkpoint::TensorInfo;
use crate::checkpoint::adapter::{Adapter, LowRank, Update};
use crate::checkpoint::buffers::Pool;
use crate::checkpoint::map::{MapChoice, Source};
use crate::checkpoint::window::{Bytes, Window};
use crate::error::{Error, Result};
use crate::kernel::adapted::{Factor, Product};
use crate::kernel::convert;
use crate::tensor::DType;

/// Forms windows onto a base with an adapter merged into it.
#[derive(Debug)]
pub(in crate::checkpoint) struct Merge {
    adapter: Arc<Adapter>,
    source: Source,
    pool: Arc<Pool>,
}

/// The bytes of a window that is formed when it is first looked at: who works on it does so, not who reads.
#[derive(Debug)]
pub(in crate::checkpoint) struct Merged {
    /// What the product is added to, in its own dtype.
    raw: (DType, Window),
    product: Option<Formed>,
    dtype: DType,
    len: usize,
    pool: Arc<Pool>,
    bytes: OnceLock<Vec<u8>>,
}

/// The part of a product that falls into a window.
#[derive(Debug)]
struct Formed {
    left: (DType, Window, Option<usize>),
    right: (DType, Window, Option<usize>),
    rank: usize,
    n_cols: usize,
    scale: f64,
    /// The first element, counted from the first row of `left`.
    first: usize,
}

impl Merge {
    pub(in crate::checkpoint) fn new(adapter: &Arc<Adapter>, map: &MapChoice) -> Result<Self> {
        let source = Source::often(adapter.checkpoint(), map)?;
        Ok(Self { adapter: Arc::clone(adapter), source, pool: Arc::default() })
    }

    /// The `len` bytes at `offset` of a shard of the base, of which `stored` brings in what is stored.
    pub(in crate::checkpoint) fn window(
        &self,
        (shard, offset, len): (usize, u64, usize),
        stored: impl FnOnce() -> Result<Window>,
    ) -> Result<Window> {
        let end = offset.saturating_add(len as u64);
        let after = self.updates().partition_point(|u| (u.shard, u.end) <= (shard, offset));
        let Some(update) = self.updates().get(after).filter(|u| u.shard == shard && u.begin < end)
        else {
            return stored();
        };
        let width = update.dtype.lane_bytes() as u64;
        let is_whole = |bytes: u64| bytes.is_multiple_of(width);
        let is_inside = update.begin <= offset && end <= update.end;
        if !is_inside || !is_whole(offset - update.begin) || !is_whole(len as u64) {
            return Err(Error::invalid_argument(format!(
                "{len} bytes at {offset} of shard {shard} are no elements of one tensor"
            )));
        }
        let (first, n) = ((offset - update.begin) / width, len as u64 / width);
        let raw = match update.whole.map(|i| &self.tensors()[i]) {
            None => (update.dtype, stored()?),
            Some(t) => (t.dtype, self.part(t, first, n)?),
        };
        let product = update.product.as_ref().map(|p| self.formed(p, first, n)).transpose()?;
        let (dtype, pool) = (update.dtype, Arc::clone(&self.pool));
        let merged = Merged { raw, product, dtype, len, pool, bytes: OnceLock::new() };
        Ok(Window::new(Bytes::Merged(Box::new(merged))))
    }

    /// Most bytes held beside a window of `len` bytes onto tensor `t`.
    pub(in crate::checkpoint) fn beside(&self, t: &TensorInfo, len: u64) -> u64 {
        let found = self.updates().iter().find(|u| (u.shard, u.begin) == (t.shard, t.offset));
        let Some(update) = found else { return 0 };
        let width = update.dtype.lane_bytes() as u64;
        let bytes_of = |i: usize| self.tensors()[i].n_bytes;
        let whole = update.whole.map(|i| self.tensors()[i].dtype.lane_bytes() as u64);
        let raw = len / width * whole.unwrap_or(width);
        let factors = update.product.as_ref().map_or(0, |p| {
            let n_rows = len / width / p.n_cols as u64 + 2;
            let rows = bytes_of(p.b) * n_rows.min(p.n_rows as u64) / (p.n_rows as u64).max(1);
            let left = if p.is_turned { bytes_of(p.b) } else { rows };
            bytes_of(p.a) + left + Product::scratch_bytes(p.rank as u64)
        });
        raw + factors + 3 * self.source.window_margin()
    }

    /// Bytes that its own source holds.
    pub(in crate::checkpoint) fn resident_bytes(&self) -> u64 {
        let headers: usize =
            self.adapter.checkpoint().shards().iter().map(|s| s.header.len()).sum();
        8 * headers as u64 + self.source.resident_bytes()
    }

    /// The adapter's own files.
    pub(in crate::checkpoint) fn source(&self) -> &Source {
        &self.source
    }

    fn updates(&self) -> &[Update] {
        &self.adapter.updates
    }

    fn tensors(&self) -> &[TensorInfo] {
        self.adapter.checkpoint().tensors()
    }

    /// `n` elements of a tensor of the adapter.
    fn part(&self, t: &TensorInfo, first: u64, n: u64) -> Result<Window> {
        let width = t.dtype.lane_bytes() as u64;
        self.source.window(t.shard, t.offset + first * width, (n * width) as usize)
    }

    /// The product's elements `first..first + n`, with as much of the factors as they need.
    fn formed(&self, p: &LowRank, first: u64, n: u64) -> Result<Formed> {
        let &LowRank { rank, n_rows, n_cols, scale, .. } = p;
        let (a, b) = (&self.tensors()[p.a], &self.tensors()[p.b]);
        let whole = |t: &TensorInfo| self.part(t, 0, t.n_elements());
        let (left, right, top) = if p.is_turned {
            let left = (a.dtype, whole(a)?, Some(n_rows));
            (left, (b.dtype, whole(b)?, None), 0)
        } else {
            let cols = (n_cols as u64).max(1);
            let (top, bottom) = (first / cols, (first + n).div_ceil(cols));
            let rows = self.part(b, top * rank as u64, (bottom - top) * rank as u64)?;
            ((b.dtype, rows, None), (a.dtype, whole(a)?, Some(n_cols)), top)
        };
        let first = first as usize - top as usize * n_cols;
        Ok(Formed { left, right, rank, n_cols, scale, first })
    }
}

impl Merged {
    /// Brings in all that it is formed of.
    pub(in crate::checkpoint) fn populate(&self) -> Result<()> {
        self.raw.1.populate()?;
        self.product.as_ref().map_or(Ok(()), |p| {
            p.left.1.populate()?;
            p.right.1.populate()
        })
    }

    pub(in crate::checkpoint) fn bytes(&self) -> &[u8] {
        &self.bytes.get_or_init(|| self.form())[..self.len]
    }

    fn form(&self) -> Vec<u8> {
        let mut buffer = self.pool.take(self.len);
        let (out, raw) = (&mut buffer[..self.len], (self.raw.0, &*self.raw.1));
        match &self.product {
            Some(p) => p.product().add_to(raw, p.first, self.dtype, out),
            None => convert::recode(raw, self.dtype, out),
        }
        buffer
    }
}

impl Drop for Merged {
    fn drop(&mut self) {
        if let Some(buffer) = self.bytes.take() {
            self.pool.give(buffer);
        }
    }
}

impl Formed {
    fn product(&self) -> Product<'_> {
        fn factor((dtype, bytes, stride): &(DType, Window, Option<usize>)) -> Factor<'_> {
            Factor { dtype: *dtype, bytes, stride: *stride }
        }
        let (left, right) = (factor(&self.left), factor(&self.right));
        Product { left, right, rank: self.rank, n_cols: self.n_cols, scale: self.scale }
    }
}
