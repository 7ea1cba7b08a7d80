//! `plan --split`: what is decided before the first tile, and who works on what.

use std::ops::Range;
use std::path::Path;

use crate::error::{Error, Result};
use crate::pipeline::choose::{settle, settled_values};
use crate::pipeline::inputs::{Inputs, TOOL};
use crate::pipeline::options::{CompressOptions, Observer};
use crate::pipeline::parts::share::shares;
use crate::pipeline::parts::{check, given_rates, identity, joint_passes};
use crate::report::{Share, Split};

/// Most parts: each one is a file that a join has to look at.
const MAX_PARTS: u32 = 100_000;

/// Shares a compress with these options out among `parts` parts, and settles what has to be known before the
/// first tile. Reads headers, and with `auto` a strip of each tensor stored with loss; with a size as a ratio
/// or in bytes, all that is stored without.
///
/// # Errors
/// `InvalidArgument` if it cannot be done in parts; as [`compress`](crate::compress), as far as nothing is
/// written.
pub fn split(
    ft: &Path,
    base: &Path,
    parts: u32,
    options: &CompressOptions,
    observer: &dyn Observer,
) -> Result<Split> {
    if !(1..=MAX_PARTS).contains(&parts) {
        let text = format!("{parts} parts are out of range; it takes 1 to {MAX_PARTS}");
        return Err(Error::invalid_argument(text));
    }
    check(options)?;
    let inputs = Inputs::open(ft, base, options)?;
    inputs.pair.notes.iter().for_each(|note| observer.note(note));
    let settled = settle(&inputs, options, observer)?;
    let values = settled_values(options, &settled);
    let identity = identity(&inputs, &settled, values.as_ref())?;
    let share = |(i, tensors): (usize, Range<usize>)| Share {
        part: i as u32 + 1,
        tensors: tensors.len() as u64,
        bytes: inputs.ft.tensors()[tensors].iter().map(|t| t.n_bytes).sum(),
    };
    let shares = shares(&inputs, &settled, parts).into_iter().enumerate().map(share).collect();
    inputs.check_unchanged()?;
    Ok(Split {
        tool: TOOL.to_owned(),
        variant: inputs.name.clone(),
        method: settled.method.name().to_owned(),
        settings: settled.settings().into_iter().collect(),
        identity: format!("{identity:032x}"),
        parts,
        rounds: joint_passes(&settled).len() as u32 + 1,
        settled: values,
        plan: given_rates(&options.method).cloned(),
        fine_tuned_bytes: inputs.fine_tuned_bytes(),
        shares,
    })
}
