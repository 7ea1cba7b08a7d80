//! The code itself: parity blocks of a group's data blocks, and lost data blocks of what is left.
//!
//! Reed-Solomon over GF(2^16) with fast transforms (Lin, Al-Naffouri, Han, Novel Polynomial Basis and Its
//! Application to Reed-Solomon Erasure Codes, IEEE FOCS 2014; the construction of Leopard-RS), from the package
//! `reed-solomon-simd`, always at its high rate. Any `parity` blocks of a group can be lost.

use reed_solomon_simd::engine::DefaultEngine;
use reed_solomon_simd::rate::{HighRateDecoder, HighRateEncoder, RateDecoder, RateEncoder};

use crate::archive::parity::layout::Layout;
use crate::error::{Error, Result};

/// Encodes and rebuilds groups of one layout, one after the other, in the same memory.
pub(crate) struct Coder {
    layout: Layout,
    encoder: Option<HighRateEncoder<DefaultEngine>>,
    decoder: Option<HighRateDecoder<DefaultEngine>>,
}

/// The package refuses numbers that no layout has.
fn failed(e: reed_solomon_simd::Error) -> Error {
    Error::corrupt("parity blocks cannot be worked out").with_source(e)
}

impl Coder {
    /// Takes memory once it is used: [`Self::bytes`].
    pub(crate) fn new(layout: Layout) -> Self {
        Self { layout, encoder: None, decoder: None }
    }

    /// Bytes that a coder of this layout holds, a group's parity and what is rebuilt of it included.
    pub(crate) fn bytes(layout: &Layout) -> u64 {
        let blocks = (layout.parity.next_power_of_two() + layout.data).next_power_of_two();
        u64::from(blocks + 2 * layout.parity) * u64::from(layout.block) + (1 << 20)
    }

    /// Appends the parity blocks of these data blocks, all of a group in their order.
    pub(crate) fn encode<'a>(
        &mut self,
        blocks: impl Iterator<Item = &'a [u8]>,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        let Layout { block, data, parity, .. } = self.layout;
        let encoder = match &mut self.encoder {
            Some(encoder) => encoder,
            empty => {
                let (data, parity, block) = (data as usize, parity as usize, block as usize);
                let new = HighRateEncoder::new(data, parity, block, DefaultEngine::new(), None);
                empty.insert(new.map_err(failed)?)
            }
        };
        for block in blocks {
            encoder.add_original_shard(block).map_err(failed)?;
        }
        let encoded = encoder.encode().map_err(failed)?;
        encoded.recovery_iter().for_each(|block| out.extend_from_slice(block));
        Ok(())
    }

    /// The data blocks that are not among those given by their place, by theirs.
    pub(crate) fn rebuild<'a>(
        &mut self,
        data: impl Iterator<Item = (usize, &'a [u8])>,
        parity: impl Iterator<Item = (usize, &'a [u8])>,
    ) -> Result<Vec<(usize, Vec<u8>)>> {
        let decoder = match &mut self.decoder {
            Some(decoder) => decoder,
            empty => {
                let Layout { block, data, parity, .. } = self.layout;
                let (data, parity, block) = (data as usize, parity as usize, block as usize);
                let new = HighRateDecoder::new(data, parity, block, DefaultEngine::new(), None);
                empty.insert(new.map_err(failed)?)
            }
        };
        for (i, block) in data {
            decoder.add_original_shard(i, block).map_err(failed)?;
        }
        for (i, block) in parity {
            decoder.add_recovery_shard(i, block).map_err(failed)?;
        }
        let decoded = decoder.decode().map_err(failed)?;
        Ok(decoded.restored_original_iter().map(|(i, block)| (i, block.to_vec())).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn layout(data: u32, parity: u32, block: u32) -> Layout {
        Layout { len: u64::from(data * block), block, groups: 1, data, parity }
    }

    fn bytes(n: usize, seed: u64) -> Vec<u8> {
        let mut x = seed | 1;
        let next = || {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            (x >> 32) as u8
        };
        std::iter::repeat_with(next).take(n).collect()
    }

    /// The field as FORMAT.md has it: elements are sums of a Cantor basis, whose powers are those of x modulo
    /// x^16 + x^5 + x^3 + x^2 + 1.
    struct Field {
        to_powers: Vec<u16>,
        from_powers: Vec<u16>,
    }

    impl Field {
        fn new() -> Self {
            const BASIS: [u16; 16] = [
                0x0001, 0xacca, 0x3c0e, 0x163e, 0xc582, 0xed2e, 0x914c, 0x4012, 0x6c98, 0x10d8,
                0x6a72, 0xb900, 0xfdb8, 0xfb34, 0xff38, 0x991e,
            ];
            let sum =
                |i: usize| (0..16).filter(|k| i >> k & 1 == 1).fold(0, |sum, k| sum ^ BASIS[k]);
            let to_powers: Vec<u16> = (0..1 << 16).map(sum).collect();
            let mut from_powers = vec![0; 1 << 16];
            for (i, p) in to_powers.iter().enumerate() {
                from_powers[*p as usize] = i as u16;
            }
            Self { to_powers, from_powers }
        }

        fn mul(&self, a: u16, b: u16) -> u16 {
            let (mut a, b) = (u32::from(self.to_powers[a as usize]), self.to_powers[b as usize]);
            let mut product = 0;
            for k in 0..16 {
                if b >> k & 1 == 1 {
                    product ^= a;
                }
                a <<= 1;
                if a >> 16 == 1 {
                    a ^= 0x1_002d;
                }
            }
            self.from_powers[product as usize]
        }

        fn inverse(&self, a: u16) -> u16 {
            // a^(2^16 - 2)
            (1..16).fold(1, |product, k| {
                let square = (0..k).fold(a, |x, _| self.mul(x, x));
                self.mul(product, square)
            })
        }
    }

    /// Element `i` of a block: its low byte, and 32 bytes on its high one, in every 64.
    fn element(block: &[u8], i: usize) -> u16 {
        let at = i / 32 * 64 + i % 32;
        u16::from_le_bytes([block[at], block[at + 32]])
    }

    /// What FORMAT.md says of parity, by Lagrange's formula.
    #[test]
    fn parity_is_the_polynomial_that_is_written_down() {
        let field = Field::new();
        assert_eq!(field.mul(7, field.inverse(7)), 1);
        for (data, parity) in [(1, 1), (3, 2), (5, 3), (9, 4), (11, 5), (3, 6)] {
            let blocks = bytes(data * 64, 5);
            let mut found = Vec::new();
            let mut coder = Coder::new(layout(data as u32, parity as u32, 64));
            coder.encode(blocks.chunks(64), &mut found).unwrap();
            let m = (parity as u32).next_power_of_two() as usize;
            for (i, at) in (0..parity).flat_map(|i| (0..32).map(move |at| (i, at))) {
                let mut wanted = 0;
                for (k, block) in blocks.chunks(64).enumerate() {
                    // Point m + k; the others of the same run of m points.
                    let (own, start) = ((m + k) as u16, m + k / m * m);
                    let mut term = element(block, at);
                    for other in (start..start + m).map(|x| x as u16).filter(|x| *x != own) {
                        let by = field.mul(i as u16 ^ other, field.inverse(own ^ other));
                        term = field.mul(term, by);
                    }
                    wanted ^= term;
                }
                let block = &found[i * 64..(i + 1) * 64];
                assert_eq!(element(block, at), wanted, "{data} + {parity}: block {i}, {at}");
            }
        }
    }

    proptest! {
        #[test]
        fn as_many_blocks_can_be_lost_as_there_is_parity(
            data in 1usize..60,
            parity in 1usize..20,
            units in 1usize..4,
            seed in any::<u64>(),
        ) {
            let block = 64 * units;
            let all = bytes(data * block, seed);
            let mut coder = Coder::new(layout(data as u32, parity as u32, block as u32));
            for round in 0..2 {
                let mut made = Vec::new();
                coder.encode(all.chunks(block), &mut made).unwrap();
                // Lost: some of both, `parity` together.
                let mut order: Vec<usize> = (0..data + parity).collect();
                let keys = bytes(order.len() * 4, seed ^ (round + 1));
                order.sort_by_key(|i| keys[i * 4..i * 4 + 4].to_vec());
                let lost = &order[..parity];
                let kept = |i: &usize| !lost.contains(i);
                let whole = (0..data).filter(kept).map(|i| (i, &all[i * block..(i + 1) * block]));
                let others = (0..parity).filter(|i| kept(&(data + i)));
                let others = others.map(|i| (i, &made[i * block..(i + 1) * block]));
                let mut back = coder.rebuild(whole, others).unwrap();
                back.sort();
                let mut gone: Vec<_> = lost.iter().copied().filter(|i| *i < data).collect();
                gone.sort_unstable();
                prop_assert_eq!(back.iter().map(|b| b.0).collect::<Vec<_>>(), gone);
                for (i, bytes) in &back {
                    prop_assert_eq!(&bytes[..], &all[i * block..(i + 1) * block]);
                }
            }
        }
    }
}
