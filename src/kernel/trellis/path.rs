//! Paths as packed bits, and what they stand for.

use super::book::Codebook;

/// Appends symbols of one bit each, most significant bit first; the last byte is filled up with zeros.
pub(super) fn pack(symbols: &[u8], out: &mut Vec<u8>) {
    out.extend(symbols.chunks(8).map(|eight| {
        let byte = eight.iter().fold(0, |byte, symbol| byte << 1 | symbol);
        byte << (8 - eight.len())
    }));
}

/// Bytes of a packed path of `n` values, `width` a step.
pub(super) fn packed_len(n: usize, width: usize) -> usize {
    n.div_ceil(width).div_ceil(8)
}

/// Fills `out` with the values from number `first` on that a packed path stands for. Bits before its
/// first and after its last byte count as zeros.
pub(super) fn decode(book: &Codebook, packed: &[u8], first: usize, out: &mut [f32]) {
    match book.width {
        2 => decode_width::<2>(book, packed, first, out),
        4 => decode_width::<4>(book, packed, first, out),
        8 => decode_width::<8>(book, packed, first, out),
        16 => decode_width::<16>(book, packed, first, out),
        _ => {
            debug_assert!(book.width == 32);
            decode_width::<32>(book, packed, first, out);
        }
    }
}

fn decode_width<const V: usize>(book: &Codebook, packed: &[u8], first: usize, mut out: &mut [f32]) {
    let words = book.words().as_chunks::<V>().0;
    let (mut t, mut skip) = (first / V, first % V);
    // Eight steps at a time where they begin with a byte; one at a time before, and at the end.
    while !out.is_empty() {
        let (bulk, rest) = if t % 8 == 0 && skip == 0 {
            let n = out.len() / (8 * V);
            out.split_at_mut(n * 8 * V)
        } else {
            out.split_at_mut(0)
        };
        let n_bulk = bulk.len() / V;
        for (i, eight) in bulk.as_chunks_mut::<V>().0.chunks_exact_mut(8).enumerate() {
            let pair = two_bytes(packed, t / 8 + i);
            for (j, value) in eight.iter_mut().enumerate() {
                *value = words[usize::from((pair >> (7 - j)) as u8)];
            }
        }
        t += n_bulk;
        let n = rest.len().min(V - skip);
        let (one, later) = rest.split_at_mut(n);
        let state = (two_bytes(packed, t / 8) >> (7 - t % 8)) as u8;
        one.copy_from_slice(&words[usize::from(state)][skip..skip + n]);
        (t, skip, out) = (t + 1, 0, later);
    }
}

/// A byte with the one before it.
fn two_bytes(packed: &[u8], at: usize) -> u16 {
    let byte = |at: Option<usize>| at.and_then(|at| packed.get(at)).copied().unwrap_or(0);
    u16::from_be_bytes([byte(at.checked_sub(1)), byte(Some(at))])
}
