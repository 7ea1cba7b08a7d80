//! One lossless lane as an integer: loading, storing, and differences folded to small numbers.
//!
//! Knows nothing of planes or of the order lanes are stored in.

use std::ops::BitOr;

use crate::kernel::planes::Order;

/// The integer a lane is worked in.
pub(super) trait Word: Copy + Default + BitOr<Output = Self> {
    /// One lane as it is stored.
    type Raw: Copy;
    /// Its length.
    const BYTES: usize;
    /// The lanes of a byte run; bytes of a cut-off last lane are left out.
    fn view(bytes: &[u8]) -> &[Self::Raw];
    /// The same for writing.
    fn view_mut(bytes: &mut [u8]) -> &mut [Self::Raw];
    fn load(raw: Self::Raw) -> Self;
    fn store(self) -> Self::Raw;
    /// The byte that starts at this bit.
    fn low_byte_at(self, bit: u32) -> u8;
    /// A word with this byte alone.
    fn from_byte_at(byte: u8, bit: u32) -> Self;
    fn rotate_left(self, n: u32) -> Self;
    fn rotate_right(self, n: u32) -> Self;
    fn xor(self, other: Self) -> Self;
    fn minus(self, other: Self) -> Self;
    fn plus(self, other: Self) -> Self;
    /// 0, -1, 1, -2, ... to 0, 1, 2, 3, ...
    fn zigzag(self) -> Self;
    fn unzigzag(self) -> Self;
    /// Sign and magnitude to an integer with the same order; -0 comes just before +0.
    fn ordered(self) -> Self;
    fn unordered(self) -> Self;
}

macro_rules! word {
    ($word:ty, $signed:ty) => {
        impl Word for $word {
            type Raw = [u8; size_of::<$word>()];
            const BYTES: usize = size_of::<$word>();
            #[inline(always)]
            fn view(bytes: &[u8]) -> &[Self::Raw] {
                bytes.as_chunks().0
            }
            #[inline(always)]
            fn view_mut(bytes: &mut [u8]) -> &mut [Self::Raw] {
                bytes.as_chunks_mut().0
            }
            #[inline(always)]
            fn load(raw: Self::Raw) -> Self {
                <$word>::from_le_bytes(raw)
            }
            #[inline(always)]
            fn store(self) -> Self::Raw {
                self.to_le_bytes()
            }
            #[inline(always)]
            fn low_byte_at(self, bit: u32) -> u8 {
                (self >> bit) as u8
            }
            #[inline(always)]
            fn from_byte_at(byte: u8, bit: u32) -> Self {
                <$word>::from(byte) << bit
            }
            #[inline(always)]
            fn rotate_left(self, n: u32) -> Self {
                <$word>::rotate_left(self, n)
            }
            #[inline(always)]
            fn rotate_right(self, n: u32) -> Self {
                <$word>::rotate_right(self, n)
            }
            #[inline(always)]
            fn xor(self, other: Self) -> Self {
                self ^ other
            }
            #[inline(always)]
            fn minus(self, other: Self) -> Self {
                self.wrapping_sub(other)
            }
            #[inline(always)]
            fn plus(self, other: Self) -> Self {
                self.wrapping_add(other)
            }
            #[inline(always)]
            fn zigzag(self) -> Self {
                (self << 1) ^ (self as $signed >> (<$word>::BITS - 1)) as $word
            }
            #[inline(always)]
            fn unzigzag(self) -> Self {
                (self >> 1) ^ (self & 1).wrapping_neg()
            }
            #[inline(always)]
            fn ordered(self) -> Self {
                // All bits of a negative number are inverted, of a positive one the sign alone.
                let negative = (self as $signed >> (<$word>::BITS - 1)) as $word;
                self ^ (negative | 1 << (<$word>::BITS - 1))
            }
            #[inline(always)]
            fn unordered(self) -> Self {
                let positive = (self as $signed >> (<$word>::BITS - 1)) as $word;
                self ^ (!positive | 1 << (<$word>::BITS - 1))
            }
        }
    };
}

word!(u8, i8);
word!(u16, i16);
word!(u32, i32);
word!(u64, i64);

/// The difference of a lane to its base, small if the two are close.
#[inline(always)]
pub(super) fn fold<W: Word>(ft: W, base: W, order: Order) -> W {
    match order {
        Order::Float => ft.ordered().minus(base.ordered()).zigzag(),
        Order::Signed | Order::Unsigned => ft.minus(base).zigzag(),
        Order::Opaque => ft.xor(base),
    }
}

/// The lane that `fold` made `folded` of.
#[inline(always)]
pub(super) fn unfold<W: Word>(folded: W, base: W, order: Order) -> W {
    match order {
        Order::Float => base.ordered().plus(folded.unzigzag()).unordered(),
        Order::Signed | Order::Unsigned => base.plus(folded.unzigzag()),
        Order::Opaque => base.xor(folded),
    }
}
