//! Values of options that have a grammar of their own.

use std::str::FromStr;

use bytesize::ByteSize;
use delta_stream::Parity;

/// A size in bytes: a number with a decimal (GB) or binary (GiB) unit, or none.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    match text.parse::<ByteSize>() {
        Ok(ByteSize(0)) | Err(_) => {
            Err("a size is a number above 0 with an optional unit, as in 512MiB or 5GB".to_owned())
        }
        Ok(ByteSize(bytes)) => Ok(bytes),
    }
}

/// A share of an archive's frames.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Share {
    Percent(f64),
    Group { n: u32, of: u32 },
}

/// A share: `N%`, or the n-th of t groups as `n/t`.
pub(crate) fn share(text: &str) -> Result<Share, String> {
    let percent = text.strip_suffix('%').and_then(|n| n.parse::<f64>().ok());
    if let Some(percent) = percent.filter(|p| *p > 0.0 && *p <= 100.0) {
        return Ok(Share::Percent(percent));
    }
    let group = text.split_once('/').and_then(|(n, of)| n.parse().ok().zip(of.parse().ok()));
    match group {
        Some((n, of)) if (1..=of).contains(&n) => Ok(Share::Group { n, of }),
        _ => {
            Err("a share is a percentage, as in 5%, or the n-th of t groups, as in 1/20".to_owned())
        }
    }
}

/// Parity in percent of the archive: `2%`, or without the sign.
pub(crate) fn parity(text: &str) -> Result<Parity, String> {
    let percent = text.strip_suffix('%').unwrap_or(text).parse().ok();
    percent
        .and_then(|percent| Parity::percent(percent).ok())
        .ok_or_else(|| "parity is a percentage from 0.1% to 100%, as in 2%".to_owned())
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
    fn shares_are_percentages_or_groups() {
        assert_eq!(share("5%"), Ok(Share::Percent(5.0)));
        assert_eq!(share("0.25%"), Ok(Share::Percent(0.25)));
        assert_eq!(share("3/7"), Ok(Share::Group { n: 3, of: 7 }));
        for text in ["", "5", "%", "0%", "-1%", "101%", "nan%", "inf%", "0/3", "4/3", "1/", "/2"] {
            assert!(share(text).is_err(), "{text}");
        }
    }

    #[test]
    fn parity_is_a_percentage() {
        for text in ["2%", "2", "2.0%"] {
            assert_eq!(parity(text).map(Parity::as_percent), Ok(2.0), "{text}");
        }
        for text in ["", "%", "0%", "101", "2%%", "nan", "-2%"] {
            assert!(parity(text).is_err(), "{text}");
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
