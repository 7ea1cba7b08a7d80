//! Base and fine-tune side by side: which tensors have a delta, which are carried whole, which are
//! the same tensor under two names.

use std::collections::HashMap;

use crate::archive::{Item, Origin};
use crate::checkpoint::{Checkpoint, Source, TensorInfo};
use crate::error::Result;
use crate::method::{Method, Policy, Rest};
use crate::tensor::Tiling;

/// Bytes of a tensor's start that are compared before whole tensors are.
const FINGERPRINT: u64 = 4096;
/// Bytes compared at a time.
const COMPARE_STEP: u64 = 4 << 20;

/// One tensor of the fine-tune and what it is stored from.
#[derive(Debug, Clone)]
pub(crate) struct PairItem {
    pub(crate) item: Item,
    /// Its tensor in the base, if it has one.
    pub(crate) base: Option<usize>,
    pub(crate) tiling: Tiling,
    /// Whether it takes the base's values, so that the fine-tune's bytes are not even read.
    pub(crate) dropped: bool,
}

/// The whole pairing, one item for each tensor of the fine-tune in file order.
#[derive(Debug)]
pub(crate) struct Pair {
    pub(crate) items: Vec<PairItem>,
    /// What a person should know: other dtypes, grown tensors, tensors left behind.
    pub(crate) notes: Vec<String>,
}

/// What to say of a base that has no tensor of the fine-tune's.
fn strangers(ft: &Checkpoint, base: &Checkpoint) -> Option<String> {
    let [first, of_base] = [ft, base].map(|side| side.tensors().first().map(|t| &*t.name));
    let is_stranger = ft.tensors().iter().all(|t| base.find(&t.name).is_none());
    let of_base = of_base.map_or("no tensor at all".to_owned(), |name| format!("{name} there"));
    first.filter(|_| is_stranger).map(|first| {
        format!(
            "the base has NONE of the fine-tune's tensors, so that every one is stored whole; is it the right \
             base? The first is {first} here, {of_base}"
        )
    })
}

impl Pair {
    /// Pairs tensors by name.
    pub(crate) fn new(
        ft: &Checkpoint,
        base: &Checkpoint,
        method: &Method,
        policy: &Policy,
    ) -> Self {
        let mut notes = Vec::new();
        let items = ft.tensors().iter().map(|t| pair_tensor(t, base, method, policy, &mut notes));
        let items: Vec<_> = items.collect();
        notes.extend(strangers(ft, base));
        let n_dropped = items.iter().filter(|p| p.dropped).count();
        if n_dropped > 0 {
            let which = if n_dropped == 1 {
                "1 tensor takes"
            } else {
                &format!("{n_dropped} tensors take")
            };
            notes.push(format!(
                "{which} the base's values; what the fine-tune changed in them is dropped"
            ));
        }
        let left: Vec<_> =
            base.tensors().iter().filter(|t| ft.find(&t.name).is_none()).map(|t| &t.name).collect();
        if let Some(first) = left.first() {
            notes.push(match left.len() {
                1 => format!("tensor {first} is only in the base and is not restored"),
                n => format!(
                    "{n} tensors are only in the base and are not restored (first: {first})"
                ),
            });
        }
        Self { items, notes }
    }

    /// Finds tensors with the same bytes; the later one is then an alias of the first.
    pub(crate) fn find_aliases(&mut self, ft: &Checkpoint, source: &Source) -> Result<()> {
        let mut by_start: HashMap<_, Vec<usize>> = HashMap::new();
        let mut by_shape: HashMap<_, usize> = HashMap::new();
        let key = |t: &TensorInfo| (t.dtype, t.shape.clone());
        for t in ft.tensors() {
            *by_shape.entry(key(t)).or_default() += 1;
        }
        for (i, t) in ft.tensors().iter().enumerate() {
            // A tensor of a shape of its own has no twin; an empty one has no bytes to save; a dropped
            // one restores to its base, whatever the fine-tune's bytes are like.
            if t.n_bytes == 0 || by_shape[&key(t)] < 2 || self.items[i].dropped {
                continue;
            }
            let start = source.peek(t.shard, t.offset, t.n_bytes.min(FINGERPRINT) as usize)?;
            let lossy = self.items[i].item.lossy;
            let found = by_start.entry((key(t), lossy, start.to_vec())).or_default();
            let mut twin = None;
            for &j in found.iter() {
                if same_bytes(source, t, &ft.tensors()[j])? {
                    twin = Some(j);
                    break;
                }
            }
            match twin {
                Some(j) => {
                    let origin = Origin::Alias(j as u32);
                    let item = Item { origin, patch: 0, lossy };
                    let tiling = Tiling::flat(0, 1, 0);
                    self.items[i] = PairItem { item, base: None, tiling, dropped: false };
                }
                None => found.push(i),
            }
        }
        Ok(())
    }
}

fn same_bytes(source: &Source, a: &TensorInfo, b: &TensorInfo) -> Result<bool> {
    for at in (0..a.n_bytes).step_by(COMPARE_STEP as usize) {
        let len = COMPARE_STEP.min(a.n_bytes - at) as usize;
        let left = source.window(a.shard, a.offset + at, len)?;
        if left[..] != source.window(b.shard, b.offset + at, len)?[..] {
            return Ok(false);
        }
    }
    Ok(true)
}

fn pair_tensor(
    t: &TensorInfo,
    base: &Checkpoint,
    method: &Method,
    policy: &Policy,
    notes: &mut Vec<String>,
) -> PairItem {
    let whole = Item { origin: Origin::Whole, patch: 0, lossy: false };
    let found = base.find(&t.name);
    let common = found.and_then(|(_, b)| common_elements(t, b));
    let (Some((idx, b)), Some(n_elements)) = (found, common) else {
        if let Some((_, b)) = found {
            notes.push(format!(
                "{}: {} {:?} cannot be a delta of the base's {} {:?}; it is stored whole",
                t.name,
                t.dtype.name(),
                t.shape,
                b.dtype.name(),
                b.shape
            ));
        }
        return flat(t, whole, None);
    };
    if b.dtype != t.dtype {
        notes.push(format!(
            "{}: {} against the base's {}; the base is converted",
            t.name,
            t.dtype.name(),
            b.dtype.name()
        ));
    }
    if b.shape != t.shape {
        notes.push(format!(
            "{}: {:?} against the base's {:?}; the common rows are a delta, the others whole",
            t.name, t.shape, b.shape
        ));
    }
    let origin = Origin::Base { dtype: b.dtype, n_elements };
    if let Some(lossy) = method.lossy().filter(|_| b.shape == t.shape) {
        let patch = lossy.patch();
        let tiling = Tiling::matrix(&t.shape, t.dtype.lane_bytes(), u64::from(patch))
            .filter(|_| b.dtype.is_float() && policy.is_lossy(&t.name, t.dtype, &t.shape));
        if let Some(tiling) = tiling {
            let item = Item { origin, patch, lossy: true };
            return PairItem { item, base: Some(idx), tiling, dropped: false };
        }
    }
    let dropped = policy.rest == Rest::Base && b.dtype == t.dtype && b.shape == t.shape;
    PairItem { dropped, ..flat(t, Item { origin, patch: 0, lossy: false }, Some(idx)) }
}

fn flat(t: &TensorInfo, item: Item, base: Option<usize>) -> PairItem {
    // A flat item of any shape can be cut.
    let tiling = item.tiling(t.dtype, &t.shape, t.n_bytes).unwrap_or(Tiling::flat(0, 1, 0));
    PairItem { item, base, tiling, dropped: false }
}

/// How many leading elements of `t` have a counterpart in `b`: all, or the common rows of a table that
/// grew or shrank. `None` if there can be no delta.
fn common_elements(t: &TensorInfo, b: &TensorInfo) -> Option<u64> {
    let convertible = t.dtype == b.dtype || (t.dtype.is_float() && b.dtype.is_float());
    // Rows of sub-byte elements may end inside a byte.
    let whole_bytes = t.dtype.bits() >= 8 || t.shape == b.shape;
    if !convertible || !whole_bytes || t.shape.len() != b.shape.len() {
        return None;
    }
    let elements = |shape: &[u64]| shape.iter().product::<u64>();
    if t.shape == b.shape {
        return Some(elements(&t.shape));
    }
    let (t_rows, t_rest) = t.shape.split_first()?;
    let (b_rows, b_rest) = b.shape.split_first()?;
    (t_rest == b_rest).then(|| t_rows.min(b_rows) * elements(t_rest)).filter(|n| *n > 0)
}
