//! The safetensors dtypes, with codes of our own that are stored and never change.

use safetensors::Dtype as Format;

use crate::error::{Error, Result};

/// Element type of a stored tensor. The number is the stored code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the names are the format's own")]
pub enum DType {
    F64 = 1,
    F32 = 2,
    F16 = 3,
    BF16 = 4,
    F8E4M3 = 5,
    F8E5M2 = 6,
    I64 = 7,
    I32 = 8,
    I16 = 9,
    I8 = 10,
    U64 = 11,
    U32 = 12,
    U16 = 13,
    U8 = 14,
    Bool = 15,
    C64 = 16,
    F8E8M0 = 17,
    F8E4M3Fnuz = 18,
    F8E5M2Fnuz = 19,
    F6E2M3 = 20,
    F6E3M2 = 21,
    F4 = 22,
}

/// Every dtype with its name in a safetensors header and the format crate's own member.
const TABLE: &[(DType, &str, Format)] = &[
    (DType::F64, "F64", Format::F64),
    (DType::F32, "F32", Format::F32),
    (DType::F16, "F16", Format::F16),
    (DType::BF16, "BF16", Format::BF16),
    (DType::F8E4M3, "F8_E4M3", Format::F8_E4M3),
    (DType::F8E5M2, "F8_E5M2", Format::F8_E5M2),
    (DType::I64, "I64", Format::I64),
    (DType::I32, "I32", Format::I32),
    (DType::I16, "I16", Format::I16),
    (DType::I8, "I8", Format::I8),
    (DType::U64, "U64", Format::U64),
    (DType::U32, "U32", Format::U32),
    (DType::U16, "U16", Format::U16),
    (DType::U8, "U8", Format::U8),
    (DType::Bool, "BOOL", Format::BOOL),
    (DType::C64, "C64", Format::C64),
    (DType::F8E8M0, "F8_E8M0", Format::F8_E8M0),
    (DType::F8E4M3Fnuz, "F8_E4M3FNUZ", Format::F8_E4M3FNUZ),
    (DType::F8E5M2Fnuz, "F8_E5M2FNUZ", Format::F8_E5M2FNUZ),
    (DType::F6E2M3, "F6_E2M3", Format::F6_E2M3),
    (DType::F6E3M2, "F6_E3M2", Format::F6_E3M2),
    (DType::F4, "F4", Format::F4),
];

impl DType {
    /// All dtypes, in the order of their codes.
    pub fn all() -> impl Iterator<Item = DType> {
        TABLE.iter().map(|row| row.0)
    }

    fn row(self) -> &'static (DType, &'static str, Format) {
        &TABLE[self as usize - 1]
    }

    /// The dtype with this stored code.
    ///
    /// # Errors
    /// `Incompatible` if no dtype has it.
    pub fn from_code(code: u8) -> Result<Self> {
        usize::from(code)
            .checked_sub(1)
            .and_then(|i| TABLE.get(i))
            .map(|row| row.0)
            .ok_or_else(|| Error::unknown("dtype", code))
    }

    /// The dtype with this name in a safetensors header.
    pub fn from_name(name: &str) -> Option<Self> {
        TABLE.iter().find(|row| row.1 == name).map(|row| row.0)
    }

    /// Its name in a safetensors header.
    pub fn name(self) -> &'static str {
        self.row().1
    }

    /// Width of one element in bits; 4 and 6 occur.
    pub fn bits(self) -> usize {
        self.row().2.bitsize()
    }

    /// The format crate's member, for headers it renders.
    pub(crate) fn to_format(self) -> Format {
        self.row().2
    }

    /// Whether delta methods may treat it as a float: F64, F32, F16, BF16, F8_E4M3, F8_E5M2.
    pub fn is_float(self) -> bool {
        (self as u8) <= DType::F8E5M2 as u8
    }

    /// Bytes of the integer lane the lossless codec works in: 1, 2, 4 or 8. Elements narrower than a
    /// byte travel as bytes, a complex number as its two floats.
    pub fn lane_bytes(self) -> usize {
        match self {
            DType::C64 => 4,
            other => (other.bits() / 8).max(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_names_and_widths_agree_with_the_format() {
        for (i, row) in TABLE.iter().enumerate() {
            assert_eq!(row.0 as usize, i + 1);
            assert_eq!(DType::from_code(row.0 as u8).unwrap(), row.0);
            assert_eq!(DType::from_name(row.1), Some(row.0));
            assert_eq!(row.2.to_string(), row.1);
        }
        assert!(DType::from_code(0).is_err() && DType::from_code(23).is_err());
    }

    #[test]
    fn only_the_six_float_types_are_floats() {
        assert_eq!(DType::all().filter(|d| d.is_float()).count(), 6);
    }
}
