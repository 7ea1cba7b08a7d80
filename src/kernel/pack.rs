//! Codes of 1 to 8 bits into a dense bit string, least significant bit first, and back.
//!
//! The order is that of `bitvec`'s `Lsb0`: code i takes bits i*width to (i+1)*width-1, so eight
//! codes fill exactly `width` bytes. Whether packing pays before an entropy coder is not decided here.

vectorised! {
    /// Appends the packed codes to `out`, `ceil(n * bits / 8)` bytes; the last byte is filled up
    /// with zero bits. Bits of a code above `bits` are ignored. `bits` is 1..=8.
    pub fn pack(codes: &[u8], bits: u32, out: &mut Vec<u8>) = pack_body;
}

vectorised! {
    /// Fills `codes` from packed bytes; bytes beyond the last code are ignored, and codes beyond
    /// the last byte are 0.
    pub fn unpack(bytes: &[u8], bits: u32, codes: &mut [u8]) = unpack_body;
}

/// Runs `$f::<W>` with the constant W equal to `$bits`.
macro_rules! with_width {
    ($bits:expr, $f:ident($($arg:expr),*)) => {
        match $bits {
            1 => $f::<1>($($arg),*),
            2 => $f::<2>($($arg),*),
            3 => $f::<3>($($arg),*),
            4 => $f::<4>($($arg),*),
            5 => $f::<5>($($arg),*),
            6 => $f::<6>($($arg),*),
            7 => $f::<7>($($arg),*),
            _ => {
                debug_assert!($bits == 8);
                $f::<8>($($arg),*)
            }
        }
    };
}

#[inline(always)]
fn pack_body(codes: &[u8], bits: u32, out: &mut Vec<u8>) {
    with_width!(bits, pack_width(codes, out));
}

#[inline(always)]
fn unpack_body(bytes: &[u8], bits: u32, codes: &mut [u8]) {
    with_width!(bits, unpack_width(bytes, codes));
}

#[inline(always)]
fn pack_width<const W: usize>(codes: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    let (groups, rest) = codes.as_chunks::<8>();
    out.resize(start + (codes.len() * W).div_ceil(8), 0);
    let (full, tail) = out[start..].split_at_mut(groups.len() * W);
    for (packed, group) in full.as_chunks_mut::<W>().0.iter_mut().zip(groups) {
        packed.copy_from_slice(&squeeze::<W>(*group)[..W]);
    }
    if !rest.is_empty() {
        let mut group = [0; 8];
        group[..rest.len()].copy_from_slice(rest);
        tail.copy_from_slice(&squeeze::<W>(group)[..tail.len()]);
    }
}

#[inline(always)]
fn unpack_width<const W: usize>(bytes: &[u8], codes: &mut [u8]) {
    let (full, tail) = bytes.as_chunks::<W>();
    let (groups, rest) = codes.as_chunks_mut::<8>();
    let n_full = full.len().min(groups.len());
    for (group, packed) in groups.iter_mut().zip(full) {
        *group = spread::<W>(*packed);
    }
    // The last codes, or the first that the bytes do not reach: bytes missing count as zeros.
    let (short_groups, last_bytes) = (&mut groups[n_full..], full.get(n_full));
    let mut last = [0; W];
    match last_bytes {
        Some(packed) => last = *packed,
        None => last[..tail.len()].copy_from_slice(tail),
    }
    let mut last = spread::<W>(last);
    if last_bytes.is_none() {
        // A code that is only partly there is 0 too.
        last[(tail.len() * 8 / W).min(8)..].fill(0);
    }
    if let Some((first, others)) = short_groups.split_first_mut() {
        *first = last;
        others.as_flattened_mut().fill(0);
        rest.fill(0);
    } else {
        let n = rest.len();
        rest.copy_from_slice(&last[..n]);
    }
}

/// Eight codes to the low `W` bytes: pairs are joined, then pairs of pairs, then the halves.
#[inline(always)]
pub(super) fn squeeze<const W: usize>(codes: [u8; 8]) -> [u8; 8] {
    let mask = 0x0101_0101_0101_0101 * ((1u64 << W) - 1);
    let x = u64::from_le_bytes(codes) & mask;
    let x = (x & 0x00ff_00ff_00ff_00ff) | ((x >> (8 - W)) & (0x00ff_00ff_00ff_00ff << W));
    let x =
        (x & 0x0000_ffff_0000_ffff) | ((x >> (16 - 2 * W)) & (0x0000_ffff_0000_ffff << (2 * W)));
    let x =
        (x & 0x0000_0000_ffff_ffff) | ((x >> (32 - 4 * W)) & (0x0000_0000_ffff_ffff << (4 * W)));
    x.to_le_bytes()
}

/// The inverse of `squeeze`.
#[inline(always)]
fn spread<const W: usize>(packed: [u8; W]) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..W].copy_from_slice(&packed);
    let x = u64::from_le_bytes(bytes);
    let low = |n: usize| if n >= 64 { u64::MAX } else { (1u64 << n) - 1 };
    let x = (x & low(4 * W)) | ((x & (low(4 * W) << (4 * W))) << (32 - 4 * W));
    let pair = low(2 * W) * 0x0000_0001_0000_0001;
    let x = (x & pair) | ((x & (pair << (2 * W))) << (16 - 2 * W));
    let one = low(W) * 0x0001_0001_0001_0001;
    let x = (x & one) | ((x & (one << W)) << (8 - W));
    x.to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::both_ways;
    use bitvec::field::BitField;
    use bitvec::prelude::{BitVec, Lsb0};
    use proptest::prelude::*;

    fn oracle(codes: &[u8], bits: u32) -> Vec<u8> {
        let mut all = BitVec::<u8, Lsb0>::repeat(false, codes.len() * bits as usize);
        for (field, &code) in all.chunks_mut(bits as usize).zip(codes) {
            field.store_le(code);
        }
        all.set_uninitialized(false);
        all.into_vec()
    }

    #[test]
    fn nothing_packs_to_nothing() {
        for bits in 1..=8 {
            let mut out = vec![9];
            pack(&[], bits, &mut out);
            assert_eq!(out, [9]);
            unpack(&[], bits, &mut []);
        }
    }

    proptest! {
        #[test]
        fn bytes_are_those_of_bitvec(codes in prop::collection::vec(any::<u8>(), 0..300), bits in 1u32..=8) {
            let masked: Vec<u8> = codes.iter().map(|c| c & (255 >> (8 - bits))).collect();
            let (wide, plain) = both_ways(|| {
                let mut out = vec![1, 2, 3];
                pack(&codes, bits, &mut out);
                let mut back = vec![99; codes.len()];
                unpack(&out[3..], bits, &mut back);
                (out, back)
            });
            prop_assert_eq!(&wide, &plain);
            prop_assert_eq!(&wide.0[..3], &[1, 2, 3]);
            prop_assert_eq!(&wide.0[3..], oracle(&masked, bits));
            prop_assert_eq!(&wide.1, &masked);
        }

        #[test]
        fn missing_bytes_read_as_zero_codes_and_more_are_ignored(
            codes in prop::collection::vec(1u8..2, 0..90), bits in 1u32..=8, keep in 0usize..120,
        ) {
            let mut packed = oracle(&codes, bits);
            packed.resize(keep, 0xff);
            let n_whole = (keep * 8 / bits as usize).min(codes.len());
            let mut want = codes.clone();
            want[n_whole..].fill(0);
            let padded = oracle(&codes, bits).len() < keep;
            let mut got = vec![99; codes.len()];
            unpack(&packed, bits, &mut got);
            prop_assert_eq!(&got[..n_whole], &want[..n_whole]);
            prop_assert!(padded || got == want);
        }
    }
}
