//! Values of options that have a grammar of their own.

use std::str::FromStr;

use bytesize::ByteSize;

/// A size in bytes: a number with a decimal (GB) or binary (GiB) unit, or none.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    match text.parse::<ByteSize>() {
        Ok(ByteSize(0)) | Err(_) => {
            Err("a size is a number above 0 with an optional unit, as in 512MiB or 5GB".to_owned())
        }
        Ok(ByteSize(bytes)) => Ok(bytes),
    }
}

/// Entries a group: a number, or left to the library.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GroupSize {
    Auto,
    Of(u32),
}

impl GroupSize {
    /// The number, if one was typed.
    pub(crate) fn number(self) -> Option<u32> {
        match self {
            GroupSize::Auto => None,
            GroupSize::Of(n) => Some(n),
        }
    }
}

impl FromStr for GroupSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.parse()) {
            ("auto", _) => Ok(GroupSize::Auto),
            (_, Ok(n)) => Ok(GroupSize::Of(n)),
            _ => Err("a group is a number of entries or auto".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_take_decimal_and_binary_units() {
        for (text, bytes) in [
            ("5GB", 5_000_000_000),
            ("5GiB", 5 << 30),
            ("512MiB", 512 << 20),
            ("1.5 KiB", 1536),
            ("4096", 4096),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "0", "0.1B", "-1", "5XB", "GB"] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn groups_are_numbers_or_auto() {
        assert_eq!("auto".parse::<GroupSize>().map(GroupSize::number), Ok(None));
        assert_eq!("16".parse::<GroupSize>().map(GroupSize::number), Ok(Some(16)));
        for text in ["", "Auto", "-8", "16x", "4294967296"] {
            assert!(text.parse::<GroupSize>().is_err(), "{text}");
        }
    }
}
