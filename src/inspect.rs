//! What a variant is, from its records alone.

use crate::archive::{Item, Origin, Stored};
use crate::method;
use crate::report::{BaseShiftSummary, TensorSummary, VariantSummary};

/// A variant's summary, with the name of its base vector and, if asked for, its tensors. Their parts are
/// not in the records.
pub(crate) fn summarise(
    stored: &Stored,
    vector: Option<&str>,
    with_tensors: bool,
) -> VariantSummary {
    let (head, seal) = (&stored.head, &stored.seal);
    let list: Vec<_> = (0..stored.tensors.len()).map(|i| tensor(stored, i)).collect();
    let lossy: Vec<usize> = (0..list.len()).filter(|i| list[*i].stored_as == "lossy").collect();
    let parameters: u64 = lossy.iter().map(|i| stored.tensors[*i].n_elements()).sum();
    let lossy_bytes: u64 = lossy.iter().map(|i| list[*i].stored_bytes).sum();
    let error: f64 = lossy.iter().map(|i| seal.tensors[*i].squared_error).sum();
    let delta: f64 = lossy.iter().map(|i| seal.tensors[*i].squared_delta).sum();
    let blobs = seal.blobs.iter().flat_map(|b| &b.frame_lens);
    let stored_bytes =
        seal.stored_bytes() + blobs.map(|n| u64::from(*n)).sum::<u64>() + stored.record_bytes;
    // A forged head may claim any length.
    let files = head.shards.iter().map(|s| s.file_len).chain(head.side_files.iter().map(|f| f.len));
    let fine_tuned_bytes = files.fold(0, u64::saturating_add);
    VariantSummary {
        name: head.name.clone(),
        method: method::name_of(head.method),
        settings: head.settings.clone(),
        seed: head.seed,
        tool: head.tool.clone(),
        tensors: list.len(),
        lossy_tensors: lossy.len(),
        fine_tuned_bytes,
        stored_bytes,
        ratio: fine_tuned_bytes as f64 / stored_bytes as f64,
        bits_per_parameter: (parameters > 0).then(|| lossy_bytes as f64 * 8.0 / parameters as f64),
        parts: None,
        rest_bytes: stored_bytes - lossy_bytes,
        relative_error: (delta > 0.0).then(|| error / delta),
        base_shift: head.shift.map(|shift| BaseShiftSummary {
            vector: vector.map(str::to_owned),
            lambda: shift.lambda,
            eta: shift.eta,
        }),
        measured: seal.measured.clone(),
        shards: head.shards.iter().map(|s| s.file_name.clone()).collect(),
        side_files: head.side_files.iter().map(|f| f.name.clone()).collect(),
        lost: Vec::new(),
        tensor_list: with_tensors.then_some(list),
    }
}

/// How an item is stored, in a word.
pub(crate) fn stored_as(item: &Item) -> &'static str {
    match item.origin {
        Origin::Alias(_) => "alias",
        Origin::Whole => "whole",
        Origin::Base { .. } if item.lossy => "lossy",
        Origin::Base { .. } => "lossless",
    }
}

fn tensor(stored: &Stored, i: usize) -> TensorSummary {
    let (t, item, seal) = (&stored.tensors[i], &stored.head.items[i], &stored.seal.tensors[i]);
    let stored_bytes = seal.stored_bytes();
    let n = t.n_elements().max(1);
    TensorSummary {
        name: t.name.clone(),
        dtype: t.dtype.name(),
        shape: t.shape.clone(),
        stored_as: stored_as(item),
        bytes: t.n_bytes,
        stored_bytes,
        bits_per_parameter: stored_bytes as f64 * 8.0 / n as f64,
        relative_error: (item.lossy && seal.squared_delta > 0.0)
            .then(|| seal.squared_error / seal.squared_delta),
        parts: None,
    }
}
