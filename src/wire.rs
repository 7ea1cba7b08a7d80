//! Stored fields, little-endian, written and read one by one.
//!
//! Reading trusts nothing: a length is checked against the bytes that are left before anything is
//! allocated for it.

use crate::error::{Error, Result};

/// Appends fields to a record.
#[derive(Debug, Default)]
pub(crate) struct Writer(pub(crate) Vec<u8>);

impl Writer {
    pub(crate) fn u8(&mut self, v: u8) {
        self.0.push(v);
    }
    pub(crate) fn u16(&mut self, v: u16) {
        self.0.extend(v.to_le_bytes());
    }
    pub(crate) fn u32(&mut self, v: u32) {
        self.0.extend(v.to_le_bytes());
    }
    pub(crate) fn u64(&mut self, v: u64) {
        self.0.extend(v.to_le_bytes());
    }
    pub(crate) fn u128(&mut self, v: u128) {
        self.0.extend(v.to_le_bytes());
    }
    pub(crate) fn f64(&mut self, v: f64) {
        self.u64(v.to_bits());
    }
    /// Seven bits a byte, lowest first; the top bit says that more follow (LEB128).
    pub(crate) fn varint(&mut self, mut v: u32) {
        while v >= 0x80 {
            self.u8(v as u8 | 0x80);
            v >>= 7;
        }
        self.u8(v as u8);
    }
    /// A u32 length, then the bytes.
    pub(crate) fn bytes(&mut self, v: &[u8]) -> Result<()> {
        let len = u32::try_from(v.len())
            .map_err(|_| Error::invalid_argument("a field of 4 GiB or more cannot be stored"))?;
        self.u32(len);
        self.0.extend(v);
        Ok(())
    }
    pub(crate) fn str(&mut self, v: &str) -> Result<()> {
        self.bytes(v.as_bytes())
    }
    /// A u32 count of entries that follow.
    pub(crate) fn count(&mut self, n: usize) -> Result<()> {
        let n =
            u32::try_from(n).map_err(|_| Error::invalid_argument("too many entries to store"))?;
        self.u32(n);
        Ok(())
    }
}

/// Takes fields off a record.
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(rest: &'a [u8]) -> Self {
        Self { rest }
    }

    /// The next `n` bytes.
    pub(crate) fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        let (head, rest) = self
            .rest
            .split_at_checked(n)
            .ok_or_else(|| Error::corrupt("a record ends before its fields do"))?;
        self.rest = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N)?);
        Ok(out)
    }
    pub(crate) fn u8(&mut self) -> Result<u8> {
        Ok(self.array::<1>()?[0])
    }
    pub(crate) fn u16(&mut self) -> Result<u16> {
        self.array().map(u16::from_le_bytes)
    }
    pub(crate) fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_le_bytes)
    }
    pub(crate) fn u64(&mut self) -> Result<u64> {
        self.array().map(u64::from_le_bytes)
    }
    pub(crate) fn u128(&mut self) -> Result<u128> {
        self.array().map(u128::from_le_bytes)
    }
    pub(crate) fn f64(&mut self) -> Result<f64> {
        self.u64().map(f64::from_bits)
    }
    /// A number written as [`Writer::varint`] does: no other bytes stand for it.
    pub(crate) fn varint(&mut self) -> Result<u32> {
        let mut v = 0u64;
        for shift in (0..35).step_by(7) {
            let byte = self.u8()?;
            v |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                let is_shortest = byte > 0 || shift == 0;
                return u32::try_from(v)
                    .ok()
                    .filter(|_| is_shortest)
                    .ok_or_else(|| Error::corrupt("a number is stored as no writer would"));
            }
        }
        Err(Error::corrupt("a number takes too many bytes"))
    }
    pub(crate) fn bytes(&mut self) -> Result<&'a [u8]> {
        let n = self.u32()? as usize;
        self.take(n)
    }
    pub(crate) fn str(&mut self) -> Result<String> {
        let bytes = self.bytes()?.to_vec();
        String::from_utf8(bytes).map_err(|_| Error::corrupt("a stored name is not UTF-8"))
    }
    /// A count of entries of at least `min_bytes` each, so that a hostile count cannot allocate more
    /// than the record holds.
    pub(crate) fn count(&mut self, min_bytes: usize) -> Result<usize> {
        let n = self.u32()? as usize;
        if n.checked_mul(min_bytes).is_none_or(|need| need > self.rest.len()) {
            return Err(Error::corrupt("a record counts more entries than it holds"));
        }
        Ok(n)
    }
    /// Everything not taken yet.
    pub(crate) fn rest(self) -> &'a [u8] {
        self.rest
    }

    /// Bytes not taken yet.
    pub(crate) fn left(&self) -> usize {
        self.rest.len()
    }

    /// Whether everything was taken.
    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Says that nothing may be left.
    pub(crate) fn end(&self) -> Result<()> {
        if self.rest.is_empty() {
            return Ok(());
        }
        Err(Error::corrupt(format!("a record has {} bytes too many", self.rest.len())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_come_back_and_lies_are_refused() {
        let mut w = Writer::default();
        w.u8(1);
        w.u16(2);
        w.u32(3);
        w.u64(4);
        w.u128(5);
        w.f64(-0.5);
        w.str("né").unwrap();
        w.count(2).unwrap();
        w.u16(9);
        let mut r = Reader::new(&w.0);
        assert_eq!((r.u8().unwrap(), r.u16().unwrap(), r.u32().unwrap()), (1, 2, 3));
        assert_eq!((r.u64().unwrap(), r.u128().unwrap(), r.f64().unwrap()), (4, 5, -0.5));
        assert_eq!(r.str().unwrap(), "né");
        assert!(r.end().is_err());
        assert!(r.count(2).is_err());
        let cut = Reader::new(&w.0[..1]).u16();
        assert!(cut.is_err());
    }

    #[test]
    fn numbers_of_any_size_have_one_form() {
        for v in [0, 1, 127, 128, 300, 16383, 16384, 1 << 28, u32::MAX] {
            let mut w = Writer::default();
            w.varint(v);
            assert_eq!(w.0.len(), (32 - v.leading_zeros()).max(1).div_ceil(7) as usize);
            let mut r = Reader::new(&w.0);
            assert_eq!((r.varint().unwrap(), r.left()), (v, 0));
            assert!(Reader::new(&w.0[..w.0.len() - 1]).varint().is_err());
        }
        let wrong: [&[u8]; 4] =
            [&[0x80, 0], &[0xff; 5], &[0xff, 0xff, 0xff, 0xff, 0x10], &[0xff; 9]];
        for bytes in wrong {
            assert!(Reader::new(bytes).varint().is_err(), "{bytes:?}");
        }
    }
}
