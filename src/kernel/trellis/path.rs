//! Paths as packed bits, and what they stand for.

use super::book::Codebook;

/// Appends the symbols of `bits` bits each, most significant bit first; the last byte is filled up
/// with zeros.
pub fn pack(symbols: &[u8], bits: u32, out: &mut Vec<u8>) {
    for eight in symbols.chunks(8) {
        let mut word = eight.iter().fold(0u64, |word, s| word << bits | u64::from(*s));
        word <<= bits as usize * (8 - eight.len());
        let bytes = word.to_be_bytes();
        let n = (eight.len() * bits as usize).div_ceil(8);
        out.extend(&bytes[8 - bits as usize..][..n]);
    }
}

/// Bytes of a packed path of so many steps.
pub fn packed_len(n_steps: usize, bits: u32) -> usize {
    (n_steps * bits as usize).div_ceil(8)
}

/// Fills `out` with the values from number `first` on that a packed path stands for. Bits before its
/// first and after its last byte count as zeros.
pub fn decode(book: &Codebook, packed: &[u8], first: usize, out: &mut [f32]) {
    match book.width {
        1 => decode_width::<1>(book, packed, first, out),
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
    let bits = book.bits;
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
            let at = (t / 8 + i) * bits as usize;
            let mut word = at.checked_sub(1).map_or(0, |before| byte(packed, before));
            for b in 0..bits as usize {
                word = word << 8 | byte(packed, at + b);
            }
            for (j, value) in eight.iter_mut().enumerate() {
                *value = words[(word >> (bits as usize * (7 - j))) as u8 as usize];
            }
        }
        t += n_bulk;
        let n = rest.len().min(V - skip);
        let (one, later) = rest.split_at_mut(n);
        one.copy_from_slice(&words[state_at(packed, bits, t)][skip..skip + n]);
        (t, skip, out) = (t + 1, 0, later);
    }
}

fn byte(packed: &[u8], at: usize) -> u64 {
    packed.get(at).map_or(0, |b| u64::from(*b))
}

/// The state after step `t`: the eight bits that end with the step's own.
fn state_at(packed: &[u8], bits: u32, t: usize) -> usize {
    let last = (t + 1) * bits as usize - 1;
    let before = (last / 8).checked_sub(1).map_or(0, |before| byte(packed, before));
    let word = before << 8 | byte(packed, last / 8);
    (word >> (7 - last % 8)) as u8 as usize
}
