//! A compress that is shared out among machines: a split, parts round by round, and joins. The scheme is in
//! ARCHITECTURE.md, "More than one machine".

mod join;
mod most;
mod part;
mod share;
mod split;
mod whole;

pub use join::{join, join_dry_run};
pub use part::{PartOptions, compress_part, compress_part_dry_run};
pub use split::split;

use xxhash_rust::xxh3::{Xxh3, xxh3_128};

use crate::checkpoint::{Checkpoint, Source};
use crate::error::{Error, Result};
use crate::method::{LossyMethod, Method, RatePlan};
use crate::pipeline::inputs::Inputs;
use crate::pipeline::options::CompressOptions;
use crate::report::Settled;

/// Places of a shard that tell it from another with the same header, and bytes of each.
const PROBES: u64 = 8;
const PROBE: u64 = 4096;

/// Refuses what only one run can do.
fn check(options: &CompressOptions) -> Result<()> {
    let refused = [
        (options.base_shift.is_some(), "--base-shift needs the whole vector before its fit"),
        (options.resume, "--resume is for one run; a part that was cut off is made again"),
        (options.parity.is_some(), "--parity is for a whole archive; append and compact add it"),
    ];
    match refused.iter().find(|(is_asked, _)| *is_asked) {
        Some((_, why)) => Err(Error::invalid_argument(format!("a compress in parts: {why}"))),
        None => Ok(()),
    }
}

/// Passes of the method after which all matrices are decided together: each ends a round.
fn joint_passes(options: &CompressOptions) -> &'static [usize] {
    options.method.lossy().map_or(&[], LossyMethod::joint_passes)
}

/// Rates that were given to `auto`.
fn given_rates(method: &Method) -> Option<&RatePlan> {
    match method {
        Method::Auto(method) => method.plan.as_ref(),
        _ => None,
    }
}

/// A hash of all that decides what the archive will have: files, settings, what was settled, version. Of
/// options with that put in.
fn identity(inputs: &Inputs, options: &CompressOptions, values: Option<&Settled>) -> Result<u128> {
    let mut hash = Xxh3::new();
    let mut add = |bytes: &[u8]| hash.update(&xxh3_128(bytes).to_le_bytes());
    add(&inputs.head(options).to_bytes()?);
    // Rates that are given are in no setting.
    add(format!("{:?}", given_rates(&options.method)).as_bytes());
    add(format!("{values:?}").as_bytes());
    add(&fingerprint(&inputs.ft, &inputs.ft_source)?.to_le_bytes());
    add(&fingerprint(&inputs.base, &inputs.base_source)?.to_le_bytes());
    Ok(hash.digest128())
}

/// Names, lengths and headers of a checkpoint's shards, and a few places of each: tells checkpoints apart
/// wherever they lie, without reading them.
fn fingerprint(checkpoint: &Checkpoint, source: &Source) -> Result<u128> {
    let mut hash = Xxh3::new();
    for (i, shard) in checkpoint.shards().iter().enumerate() {
        hash.update(shard.file_name.as_bytes());
        hash.update(&shard.file_len.to_le_bytes());
        hash.update(&shard.header);
        let start = shard.header.len() as u64;
        let n = PROBE.min(shard.file_len - start);
        let last = u128::from(shard.file_len - start - n);
        for k in (0..PROBES).filter(|_| n > 0) {
            let offset = start + (last * u128::from(k) / u128::from(PROBES - 1)) as u64;
            hash.update(&source.peek_stored(i, offset, n as usize)?);
        }
    }
    if let Some((adapter, source)) = checkpoint.adapter().zip(source.adapter()) {
        hash.update(&adapter.config_hash().to_le_bytes());
        hash.update(&fingerprint(adapter.checkpoint(), source)?.to_le_bytes());
    }
    Ok(hash.digest128())
}
