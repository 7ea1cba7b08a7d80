//! What the passes over a fine-tune's units read, and what of it is worth keeping for the next pass.

use crate::pipeline::inputs::Inputs;
use crate::pipeline::schedule::Unit;
use crate::tensor::DType;

/// Bytes of the fine-tune that all passes over a unit read, of which the first `n_joint` are up to the last
/// joint one.
pub(crate) fn bytes_read(inputs: &Inputs, unit: &Unit, n_joint: usize) -> u64 {
    let passes = if unit.is_kept { n_joint } else { unit.n_surveys + 1 };
    let lane = inputs.ft.tensors()[unit.tensor].dtype.lane_bytes();
    n_elements(inputs, unit) * (lane * passes) as u64
}

/// Lets the sources keep, of at most `spare` bytes, what later passes over the units under way read again.
pub(crate) fn keep_for_later(inputs: &Inputs, units: &[Unit], n_joint: usize, spare: u64) {
    // Each pass of a unit is a stage later, when as many others are under way.
    let n_stages = |u: &Unit| (u.n_surveys + 1).saturating_sub(n_joint);
    let depth = units.iter().map(n_stages).max().unwrap_or(0).clamp(1, units.len().max(1));
    let most = |dtype: &dyn Fn(usize) -> Option<DType>| {
        let again = |u: &Unit| {
            let lane = dtype(u.tensor).filter(|_| n_stages(u) > 1).map_or(0, DType::lane_bytes);
            n_elements(inputs, u) * lane as u64
        };
        let bytes: Vec<_> = units.iter().map(again).collect();
        bytes.windows(depth).map(|units| units.iter().sum()).max().unwrap_or(0)
    };
    let ft = most(&|tensor| Some(inputs.ft.tensors()[tensor].dtype));
    let of_base = |tensor: usize| inputs.pair.items[tensor].base;
    let base = most(&|tensor| of_base(tensor).map(|b| inputs.base.tensors()[b].dtype));
    let sources = [(&inputs.ft_source, ft), (&inputs.base_source, base)];
    let sources = sources.into_iter().filter(|(source, _)| source.keeps());
    let share = spare / sources.clone().count().max(1) as u64;
    sources.for_each(|(source, bytes): (_, u64)| source.keep(bytes.min(share)));
}

fn n_elements(inputs: &Inputs, unit: &Unit) -> u64 {
    let tiling = &inputs.pair.items[unit.tensor].tiling;
    unit.tiles.clone().map(|i| tiling.get(i).n_elements() as u64).sum()
}
