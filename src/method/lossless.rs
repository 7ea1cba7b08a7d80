//! The bit-exact mode, and what every method does with the tensors it does not touch: ordered-integer
//! difference against the base as byte planes, or the tile without its base where that is smaller.
//!
//! Reads its input once. The choice is made for each tile from its own bytes.

use crate::codec::planes;
use crate::codec::{CodecId, Operand, Scratch};
use crate::error::Result;
use crate::frame::{Encoder, Label};
use crate::kernel::planes::{coded_bytes, histogram_of_every};

/// An estimate decides alone only where it is clearly ahead; otherwise both forms are compressed.
const CLEARLY: f64 = 0.8;
/// Bytes tried for repeats, which an estimate of single bytes cannot see.
const TRIAL: usize = 64 << 10;

/// Appends the frame of a bit-exact tile: the smaller of difference and whole.
pub(crate) fn encode(
    tile: Operand<'_>,
    base: Option<Operand<'_>>,
    label: Label,
    encoder: &mut Encoder,
    scratch: &mut Scratch,
    out: &mut Vec<u8>,
) -> Result<()> {
    let label = Label { codec: CodecId::Planes as u16, ..label };
    let mut payload = std::mem::take(&mut scratch.codes);
    payload.clear();
    let result = match base {
        None => {
            planes::encode_split(tile, &mut payload);
            encoder.encode_pieces(label, &payload, plane_len(tile), out)
        }
        Some(base) => {
            let base = planes::base_as(base, tile.dtype, &mut scratch.bytes);
            encode_pair(tile, base, label, encoder, &mut scratch.sorted, &mut payload, out)
        }
    };
    scratch.codes = payload;
    result
}

fn encode_pair(
    tile: Operand<'_>,
    base: &[u8],
    label: Label,
    encoder: &mut Encoder,
    sorted: &mut Vec<u8>,
    payload: &mut Vec<u8>,
    out: &mut Vec<u8>,
) -> Result<()> {
    if tile.bytes == base {
        planes::encode_equal(payload);
        return encoder.encode(label, payload, out);
    }
    planes::encode_difference(tile, base, sorted, payload);
    let start = out.len();
    encoder.encode_pieces(label, payload, plane_len(tile), out)?;
    let difference_len = out.len() - start;
    if !whole_may_win(tile, difference_len, encoder, label)? {
        return Ok(());
    }
    payload.clear();
    planes::encode_split(tile, payload);
    let middle = out.len();
    encoder.encode_pieces(label, payload, plane_len(tile), out)?;
    if out.len() - middle < difference_len {
        out.drain(start..middle);
    } else {
        out.truncate(middle);
    }
    Ok(())
}

/// Bytes of one plane of a payload.
fn plane_len(tile: Operand<'_>) -> usize {
    tile.bytes.len() / tile.dtype.lane_bytes()
}

/// Whether the tile without its base may be smaller than `difference_len` bytes.
fn whole_may_win(
    tile: Operand<'_>,
    difference_len: usize,
    encoder: &mut Encoder,
    label: Label,
) -> Result<bool> {
    let lane = tile.dtype.lane_bytes();
    // Byte positions of a lane have statistics of their own, as the planes will.
    let estimate: u64 =
        (0..lane).map(|k| coded_bytes(&histogram_of_every(&tile.bytes[k..], lane * 8)) * 8).sum();
    if (difference_len as f64) > CLEARLY * estimate as f64 {
        return Ok(true);
    }
    let trial = &tile.bytes[..tile.bytes.len().min(TRIAL)];
    let mut stored = Vec::new();
    encoder.encode(label, trial, &mut stored)?;
    let scaled = stored.len() as f64 * tile.bytes.len() as f64 / trial.len() as f64;
    Ok(scaled < difference_len as f64)
}
