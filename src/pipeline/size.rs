//! From an asked size to what `auto` has to know before its first pass: bits a parameter for the
//! tensors stored with loss, and the noise level these come to.

use std::collections::BTreeMap;

use crate::codec::Scratch;
use crate::error::{Error, Result};
use crate::kernel::quantise;
use crate::method::auto::level::noise_level;
use crate::method::auto::{BITS, MatrixRate, Settled};
use crate::method::{Auto, RowRates, Size, TraceNorms};
use crate::pipeline::encode::{Run, encode_units};
use crate::pipeline::inputs::Inputs;
use crate::pipeline::options::{CompressOptions, Observer};
use crate::pipeline::overhead::overhead_bytes;
use crate::pipeline::schedule::{Unit, units};
use crate::pipeline::strip::Strip;
use crate::survey::held::Room;

/// One row in so many tells how strong a tensor's delta is.
const SHARE: u64 = 16;
/// Share of the whole size that is kept back, since records are known beforehand to about so much.
const RESERVE: f64 = 0.0015;

/// `auto` with what follows for this pair.
///
/// # Errors
/// `InvalidArgument` if the size cannot be had, or a plan is not of this pair; `Interrupted`; `Io`.
pub(crate) fn settle(
    inputs: &Inputs,
    method: &Auto,
    options: &CompressOptions,
    observer: &dyn Observer,
) -> Result<Auto> {
    let mut method = method.clone();
    if let Some(plan) = &method.plan {
        let rates = planned_rates(inputs, &plan.matrices)?;
        let (bits, level) = (*BITS.end(), plan.checked_level()?);
        method.settled = Some(Settled { bits, level, rates: Some(rates), room: Room::default() });
        return Ok(method);
    }
    let all = inputs.fine_tuned_bytes() as f64;
    let bits = match (method.bits(), method.size) {
        (Some(bits), _) => bits,
        (_, Size::Ratio(ratio)) => bits_left(inputs, all / ratio, options, observer)?,
        (_, Size::Bytes(bytes)) => bits_left(inputs, bytes as f64, options, observer)?,
        _ => *BITS.end(),
    };
    let level = noise_level(&sources(inputs, observer)?, bits);
    method.settled = Some(Settled { bits, level, rates: None, room: Room::default() });
    Ok(method)
}

/// `auto` with what [`settle`] came to elsewhere.
///
/// # Errors
/// `InvalidArgument` if that are no numbers in their ranges.
pub(crate) fn settle_as(method: &Auto, bits: &str, level: &str) -> Result<Auto> {
    let number = |text: &str| text.parse::<f64>().ok().filter(|x| x.is_finite() && *x >= 0.0);
    let (Some(bits), Some(level)) = (number(bits), number(level)) else {
        let text = "the split's bits and noise level are no numbers; make it again";
        return Err(Error::invalid_argument(text));
    };
    let settled = Settled { bits, level, rates: None, room: Room::default() };
    Ok(Auto { settled: Some(settled), ..method.clone() })
}

/// Tensors that have tiles with loss, by position.
fn lossy_tensors(inputs: &Inputs) -> impl Iterator<Item = usize> {
    let items = &inputs.pair.items;
    (0..items.len()).filter(|i| items[*i].item.lossy && !items[*i].tiling.is_empty())
}

/// Variance of the delta, told from a strip, and number of elements of each tensor stored with loss.
fn sources(inputs: &Inputs, observer: &dyn Observer) -> Result<Vec<(f64, u64)>> {
    let mut scratch = Scratch::default();
    let mut found = Vec::new();
    for tensor in lossy_tensors(inputs) {
        observer.check()?;
        let Some(strip) = Strip::read(inputs, tensor, SHARE)? else { continue };
        let delta = strip.delta();
        let mut energy = 0.0;
        for rows in delta.cached_strips() {
            delta.rows(&rows, &mut scratch.strip);
            energy += quantise::sum_squares(&scratch.strip);
        }
        let variance = energy / strip.tile.n_elements() as f64;
        // Where it is not finite the tile is kept exactly.
        if variance.is_finite() {
            found.push((variance, inputs.ft.tensors()[tensor].n_elements()));
        }
    }
    Ok(found)
}

/// Bits a parameter of the tensors stored with loss, if everything together is to take `bytes`. What
/// is stored without loss is encoded to know its size.
fn bits_left(
    inputs: &Inputs,
    bytes: f64,
    options: &CompressOptions,
    observer: &dyn Observer,
) -> Result<f64> {
    let mut rest = overhead_bytes(inputs, options)?;
    let exact: Vec<Unit> = units(&inputs.pair, None)
        .into_iter()
        .filter(|unit| !inputs.pair.items[unit.tensor].item.lossy)
        .collect();
    let earlier = TraceNorms::new();
    let mut run = Run::new(&exact, 0, &earlier, options.seed);
    run.stage = Some("measure");
    encode_units(inputs, options, &run, observer, |_, tile| {
        rest += tile.frame.len() as u64;
        Ok(())
    })?;
    let n: u64 = lossy_tensors(inputs).map(|i| inputs.ft.tensors()[i].n_elements()).sum();
    if n == 0 {
        return Ok(*BITS.end());
    }
    let bits = (bytes * (1.0 - RESERVE) - rest as f64) * 8.0 / n as f64;
    if bits < *BITS.start() {
        let least = (rest as f64 + n as f64 * BITS.start() / 8.0) / (1.0 - RESERVE);
        return Err(Error::invalid_argument(format!(
            "{bytes:.0} bytes are too few: what is stored without loss takes {rest}, and the smallest size \
             is about {least:.0}; ask for more, or drop tensors that need not be kept with --rest base",
        )));
    }
    if bits > *BITS.end() {
        observer.note(
            "the size asked for is more than auto can use; it stops at about 5 bits a parameter \
             (--method lossless keeps every bit)",
        );
    }
    Ok(bits.min(*BITS.end()))
}

/// The rates of a plan in the order of the matrices.
fn planned_rates(inputs: &Inputs, planned: &[MatrixRate]) -> Result<Vec<RowRates>> {
    let mut left: BTreeMap<(&str, u64), Vec<&MatrixRate>> = BTreeMap::new();
    for rate in planned {
        left.entry((&rate.tensor, rate.matrix)).or_default().push(rate);
    }
    let mut rates = Vec::new();
    for tensor in lossy_tensors(inputs) {
        let info = &inputs.ft.tensors()[tensor];
        let n_rows = info.shape.iter().rev().nth(1).copied().unwrap_or(1);
        for matrix in 0..inputs.pair.items[tensor].tiling.n_matrices() {
            let found = left.remove(&(info.name.as_str(), matrix)).unwrap_or_default();
            let [found] = found[..] else {
                return Err(not_one_rate(&info.name, matrix, found.len()));
            };
            rates.push(found.rates(n_rows)?);
        }
    }
    if let Some(((foreign, _), _)) = left.first_key_value() {
        return Err(Error::invalid_argument(format!(
            "plan: tensor {foreign} is not stored with loss here; make the plan for this pair with the \
             same --include and --exclude"
        )));
    }
    Ok(rates)
}

/// Why a matrix that has none or several rates is refused.
fn not_one_rate(tensor: &str, matrix: u64, n_rates: usize) -> Error {
    let fault = match n_rates {
        0 => "has no rate; make the plan for this pair with the same --include and --exclude"
            .to_owned(),
        n => format!("has {n} rates; leave one of them in the plan"),
    };
    Error::invalid_argument(format!("plan: tensor {tensor}: matrix {matrix} of it {fault}"))
}
