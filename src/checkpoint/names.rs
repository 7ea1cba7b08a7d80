//! Which file names may be read from an index or an archive and written to an output directory:
//! plain names alone, that mean one and the same file on every system.

use std::collections::HashSet;
use std::fmt::{self, Write as _};

/// Longest file name the common file systems take, in bytes.
const MAX_NAME_BYTES: usize = 255;

/// A name from a file, quoted and escaped so that it cannot drive a terminal, and cut when long.
pub(crate) fn shown(name: &str) -> impl fmt::Display + '_ {
    struct Shown<'a>(&'a str);
    impl fmt::Display for Shown<'_> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_char('"')?;
            for c in self.0.chars().take(200).flat_map(char::escape_debug) {
                f.write_char(c)?;
            }
            f.write_str(if self.0.chars().nth(200).is_some() { "\"..." } else { "\"" })
        }
    }
    Shown(name)
}

/// Whether `name` names a file directly inside a directory, whatever the system.
///
/// # Errors
/// The reason why not, for a sentence of the caller.
pub(crate) fn check_plain_name(name: &str) -> Result<(), &'static str> {
    if name.is_empty() || name == "." || name == ".." {
        return Err("is not the name of a file");
    }
    if name.len() > MAX_NAME_BYTES {
        return Err("is longer than 255 bytes");
    }
    if name.contains(['/', '\\']) {
        return Err("contains a path separator");
    }
    // A colon starts a drive or an alternate data stream on Windows.
    if name.contains(':') || name.chars().any(char::is_control) {
        return Err("contains a colon or a control character");
    }
    if name.ends_with(['.', ' ']) {
        return Err("ends with a dot or a space, which Windows drops");
    }
    let stem = name.split('.').next().unwrap_or(name).trim_end().to_ascii_uppercase();
    let numbered = |device: &str| {
        stem.strip_prefix(device).is_some_and(|n| n.len() == 1 && n.as_bytes()[0].is_ascii_digit())
    };
    let device = matches!(stem.as_str(), "CON" | "PRN" | "AUX" | "NUL");
    if device || numbered("COM") || numbered("LPT") {
        return Err("is the name of a device on Windows");
    }
    Ok(())
}

/// The file names of one directory, told apart as a case-insensitive file system does.
#[derive(Debug, Default)]
pub(crate) struct NameSet(HashSet<String>);

impl NameSet {
    /// Takes `name` if it is plain and free.
    ///
    /// # Errors
    /// The reason why not, for a sentence of the caller.
    pub(crate) fn insert(&mut self, name: &str) -> Result<(), &'static str> {
        check_plain_name(name)?;
        if self.0.insert(name.to_lowercase()) {
            Ok(())
        } else {
            Err("is used twice, or differs from another name in letter case alone")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_names_pass() {
        for good in ["config.json", "model-00001-of-00002.safetensors", "a", "..a", "COM.json"] {
            assert_eq!(check_plain_name(good), Ok(()), "{good}");
        }
        let long = "x".repeat(256);
        for bad in [
            "",
            ".",
            "..",
            "/etc/passwd",
            "a/b",
            "..\\b",
            "C:x",
            "a\0b",
            "a\n",
            "NUL",
            "nul.txt",
            "Com1.json",
            "lpt9",
            "aux .json",
            "a.",
            "a ",
            &long,
        ] {
            assert!(check_plain_name(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn letter_case_does_not_make_two_names() {
        let mut names = NameSet::default();
        assert!(names.insert("README.md").is_ok());
        assert!(names.insert("readme.MD").is_err());
        assert!(names.insert("readme.txt").is_ok());
    }

    #[test]
    fn shown_names_are_escaped_and_short() {
        assert_eq!(shown("a\u{1b}[2J").to_string(), "\"a\\u{1b}[2J\"");
        assert_eq!(shown(&"x".repeat(300)).to_string().len(), 205);
    }
}
