//! Bytes of a tensor against those it had before: what differs, and where.

vectorised! {
    /// `out` = `new` xor `old`, byte by byte. All have one length.
    pub fn xor(new: &[u8], old: &[u8], out: &mut [u8]) = xor_body;
}

#[inline(always)]
fn xor_body(new: &[u8], old: &[u8], out: &mut [u8]) {
    for ((out, new), old) in out.iter_mut().zip(new).zip(old) {
        *out = new ^ old;
    }
}

vectorised! {
    /// How many bytes differ.
    pub fn n_changed(new: &[u8], old: &[u8]) -> u64 = n_changed_body;
}

/// Bytes that are counted in a byte, which 255 of them still fit.
const COUNTED: usize = 128;

#[inline(always)]
fn n_changed_body(new: &[u8], old: &[u8]) -> u64 {
    let each = |(new, old): (&[u8], &[u8])| {
        let changed = new.iter().zip(old).map(|(new, old)| u8::from(new != old));
        u64::from(changed.sum::<u8>())
    };
    new.chunks(COUNTED).zip(old.chunks(COUNTED)).map(each).sum()
}

/// Appends the places of the bytes that differ, counted from `first`, as little-endian words of four bytes.
pub fn changed_places(new: &[u8], old: &[u8], first: u32, out: &mut Vec<u8>) {
    out.reserve_exact(4 * n_changed(new, old) as usize);
    for (i, _) in changed(new, old) {
        out.extend((first + i as u32).to_le_bytes());
    }
}

/// Appends the new ones of the bytes that differ.
pub fn changed_values(new: &[u8], old: &[u8], out: &mut Vec<u8>) {
    out.reserve_exact(n_changed(new, old) as usize);
    out.extend(changed(new, old).map(|(_, new)| new));
}

fn changed(new: &[u8], old: &[u8]) -> impl Iterator<Item = (usize, u8)> {
    let pairs = new.iter().zip(old).enumerate();
    pairs.filter(|(_, (new, old))| new != old).map(|(i, (new, _))| (i, *new))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::both_ways;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_changed_makes_the_new_of_the_old(
            old in prop::collection::vec(0u8..4, 0..600), flips: u64, first in 0u32..1 << 30,
        ) {
            let new: Vec<u8> =
                old.iter().enumerate().map(|(i, b)| b ^ (flips >> (i % 64)) as u8 & 1).collect();
            let (wide, plain) = both_ways(|| {
                let mut out = vec![0; old.len()];
                xor(&new, &old, &mut out);
                (out, n_changed(&new, &old))
            });
            prop_assert_eq!(&wide, &plain);
            let mut places = Vec::new();
            let mut values = Vec::new();
            changed_places(&new, &old, first, &mut places);
            changed_values(&new, &old, &mut values);
            prop_assert_eq!(values.len() as u64, wide.1);
            let mut patched = old.clone();
            for (place, value) in places.as_chunks::<4>().0.iter().zip(&values) {
                let at = (u32::from_le_bytes(*place) - first) as usize;
                prop_assert!(patched[at] != *value);
                patched[at] = *value;
            }
            prop_assert_eq!(&patched, &new);
            let twice: Vec<u8> = wide.0.iter().zip(&old).map(|(a, b)| a ^ b).collect();
            prop_assert_eq!(&twice, &new);
        }
    }

    #[test]
    fn all_of_a_long_run_are_counted() {
        assert_eq!(n_changed(&[1; 1000], &[2; 1000]), 1000);
    }
}
