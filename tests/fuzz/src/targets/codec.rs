//! Payloads of every codec, against a tile of a small shape and any dtype that records admit.

use delta_stream::fuzzing::{Tile, Worker};
use delta_stream::{DType, ErrorKind};

use super::input::Input;

/// The dtypes that lossy tiles have.
pub(crate) const FLOATS: [DType; 6] =
    [DType::F64, DType::F32, DType::F16, DType::BF16, DType::F8E4M3, DType::F8E5M2];
const OTHERS: [DType; 16] = [
    DType::I64,
    DType::I32,
    DType::I16,
    DType::I8,
    DType::U64,
    DType::U32,
    DType::U16,
    DType::U8,
    DType::Bool,
    DType::C64,
    DType::F8E8M0,
    DType::F8E4M3Fnuz,
    DType::F8E5M2Fnuz,
    DType::F6E2M3,
    DType::F6E3M2,
    DType::F4,
];
/// Most elements of a tile.
const MOST: usize = 24_000;

/// A tile and a payload, as an input has them.
pub(crate) struct TileInput<'a> {
    tile: Tile,
    base: Option<DType>,
    base_seed: u8,
    payload: &'a [u8],
}

impl<'a> TileInput<'a> {
    pub(crate) fn read(data: &'a [u8]) -> Self {
        let mut input = Input::new(data);
        let (form, dtype, base, rows) = (input.u8(), input.u8(), input.u8(), input.u8());
        let (columns, patch, base_seed) = (input.u16(), input.u8(), input.u8());
        let (gain, key) = (f32::from_bits(input.u32()), u64::from_le_bytes(input.bytes()));
        let first_row = u64::from(input.u16());
        // Few are large, since most faults show in small ones, and those are tried a hundred times as fast.
        let is_large = form >= 0xf0;
        let n_cols = 1 + usize::from(columns) % if is_large { MOST } else { 80 };
        let is_flat = form & 1 == 1;
        let most_rows = if is_large { (MOST / n_cols).clamp(1, 64) } else { 40 };
        let n_rows = if is_flat { 1 } else { 1 + usize::from(rows) % most_rows };
        let patch = if is_flat { 0 } else { 1 + usize::from(patch) % 64 };
        let float = |i: u8| FLOATS[usize::from(i) % FLOATS.len()];
        let dtype = match dtype {
            i if is_flat && i >= 128 => OTHERS[usize::from(i) % OTHERS.len()],
            i => float(i),
        };
        // A flat tile may have no base, or one of its own dtype, or another float.
        let base = match base {
            i if is_flat && i >= 192 => None,
            _ if !dtype.is_float() => Some(dtype),
            i => Some(float(i)),
        };
        let gain = if gain.is_finite() { gain } else { 1.0 };
        let place = (key, first_row);
        let tile = Tile { dtype, n_rows, n_cols, patch, place, gain };
        Self { tile, base, base_seed, payload: input.rest() }
    }

    /// Bytes of an input for a matrix tile of `FLOATS[dtype]`, of base and target alike.
    pub(crate) fn header(
        (dtype, n_rows, n_cols): (u8, u8, u16),
        (patch, key, first_row): (u8, u64, u16),
    ) -> Vec<u8> {
        let (is_flat, patch) = (u8::from(patch == 0), patch.saturating_sub(1));
        let is_large = n_cols > 80 || n_rows > 40;
        let form = is_flat | if is_large { 0xf0 } else { 0 };
        let columns = (n_cols - 1).to_le_bytes();
        let mut out = vec![form, dtype, dtype, n_rows - 1, columns[0], columns[1], patch, 1];
        out.extend(1f32.to_le_bytes());
        out.extend(key.to_le_bytes());
        out.extend(first_row.to_le_bytes());
        out
    }

    /// The base's bytes: small values, or anything at all.
    fn base_bytes(&self) -> Option<(DType, Vec<u8>)> {
        let dtype = self.base?;
        let same = self.tile.n_bytes();
        let n = if dtype == self.tile.dtype {
            same
        } else {
            self.tile.n_rows * self.tile.n_cols * dtype.bits() / 8
        };
        let mut state = u64::from(self.base_seed) << 32 | 0x9e37_79b9;
        let byte = |i: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let byte = (state >> 56) as u8;
            match self.base_seed {
                0 => 0,
                // The byte of the exponent stays at about one.
                1 if i % (dtype.bits() / 8).max(1) + 1 == (dtype.bits() / 8).max(1) => {
                    0x3c | byte & 0x80
                }
                _ => byte,
            }
        };
        Some((dtype, (0..n).map(byte).collect()))
    }
}

/// Input: 22 bytes of a tile ([`TileInput`]), then a payload. It decodes to each byte of the tile, whatever
/// the worker and the output held before, and its parts are all of it; or it is refused. Says whether it decodes.
pub(crate) fn check(codec: u16, data: &[u8]) -> bool {
    let input = TileInput::read(data);
    let tile = &input.tile;
    let Ok(max_len) = tile.max_len(codec) else {
        assert!(tile.patch == 0 && codec != 1, "a tile that records admit has no codec");
        return false;
    };
    // A longer payload is refused before it is expanded.
    let payload = &input.payload[..input.payload.len().min(max_len)];
    let base = input.base_bytes();
    let base = base.as_ref().map(|(dtype, bytes)| (*dtype, bytes.as_slice()));
    let mut worker = Worker::default();
    let mut decode = |fill: u8| {
        let mut out = vec![fill; tile.n_bytes()];
        worker.decode(codec, payload, tile, base, &mut out).map(|()| out)
    };
    match (decode(0x55), decode(0xaa)) {
        (Ok(first), Ok(second)) => {
            assert!(first == second, "an output depends on what was there before");
            let n = tile.parts(codec, payload).expect("parts of a payload that decodes");
            assert_eq!(n, payload.len(), "parts of a payload");
            true
        }
        (Err(first), Err(second)) => {
            assert_eq!(first.kind(), second.kind());
            let known = [ErrorKind::Corrupt, ErrorKind::Incompatible];
            assert!(known.contains(&first.kind()), "{first}");
            false
        }
        (first, second) => panic!("refused once: {:?} {:?}", first.err(), second.err()),
    }
}
