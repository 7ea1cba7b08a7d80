//! What the passes over a fine-tune's units read, and what of it is worth keeping for the next pass.

use crate::checkpoint::Direct;
use crate::pipeline::inputs::Inputs;
use crate::pipeline::read_ahead::room;
use crate::pipeline::schedule::Unit;
use crate::tensor::DType;

/// Bytes of the fine-tune that all passes over a unit read. `joint` are the passes about all units together.
pub(crate) fn bytes_read(inputs: &Inputs, unit: &Unit, joint: &[usize]) -> u64 {
    let n_joint = joint.last().map_or(0, |pass| pass + 1);
    let passes = if unit.is_kept { n_joint.min(unit.n_surveys) } else { unit.n_surveys + 1 };
    let lane = inputs.ft.tensors()[unit.tensor].dtype.lane_bytes();
    n_elements(inputs, unit) * (lane * passes) as u64
}

/// Lets what is read past the system's cache have, of at most `spare` bytes, room to be read ahead, and for what
/// later passes over the units under way read again. Returns whether there is room to read ahead.
pub(crate) fn make_room(inputs: &Inputs, units: &[Unit], joint: &[usize], spare: u64) -> bool {
    // Each pass of a unit is a stage later, when as many others are under way.
    let n_stages = |u: &Unit| most_passes_in_a_row(u.n_surveys + 1, joint);
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
    let sources = [(inputs.ft_source.direct(), ft), (inputs.base_source.direct(), base)];
    let files: Vec<(&Direct, u64)> =
        sources.into_iter().filter_map(|(direct, bytes)| Some((direct?, bytes))).collect();
    let ahead = room(spare, files.len());
    let share = spare / files.len().max(1) as u64 - ahead;
    files.iter().for_each(|(direct, again)| direct.keep(ahead + again.min(&share)));
    ahead > 0
}

/// Most passes of a unit that follow one another while other units are under way: after a joint pass, which
/// waits for all units, it begins anew.
fn most_passes_in_a_row(n_passes: usize, joint: &[usize]) -> usize {
    let ends = joint.iter().map(|pass| pass + 1).filter(|end| *end < n_passes);
    let mut start = 0;
    let rows = ends.chain([n_passes]).map(|end| end - std::mem::replace(&mut start, end));
    rows.max().unwrap_or(0)
}

fn n_elements(inputs: &Inputs, unit: &Unit) -> u64 {
    let tiling = &inputs.pair.items[unit.tensor].tiling;
    unit.tiles.clone().map(|i| tiling.get(i).n_elements() as u64).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passes_in_a_row_are_cut_by_joint_ones() {
        let rows = |joint: &[usize]| [1, 2, 3, 4].map(|n| most_passes_in_a_row(n, joint));
        assert_eq!(rows(&[]), [1, 2, 3, 4]);
        assert_eq!(rows(&[0]), [1, 1, 2, 3]);
        assert_eq!(rows(&[1]), [1, 2, 2, 2]);
        assert_eq!(rows(&[0, 2]), [1, 1, 2, 2]);
    }
}
