//! The constants of the file format, and the footer that commits a generation.

use crate::error::{Error, ErrorKind, Result};
use crate::frame::SKIPPABLE_MAGIC;

/// The version this tool writes.
pub(crate) const FORMAT_VERSION: u16 = 1;
/// Bytes of a footer, its skippable frame's own eight included.
pub(crate) const FOOTER_LEN: usize = 64;
/// Bytes of every piece of a side file but its last.
pub(crate) const BLOB_PIECE: usize = 1 << 20;
/// Marks a footer.
pub(crate) const FOOTER_TAG: [u8; 8] = *b"DSFOOT\r\n";
/// A whole zstd frame with one raw block, so that `file` and `zstd -t` know the archive and `zstd -dc`
/// tells a person what it is.
pub(crate) const PREAMBLE: &[u8] =
    b"\x28\xb5\x2f\xfd\x20\x2d\x69\x01\x00delta-stream archive; see delta-stream --help";

/// The last bytes of a generation. The last valid footer of a file is its current state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Footer {
    pub(crate) version: u16,
    /// 1 for a new archive; each commit adds one.
    pub(crate) generation: u32,
    /// Where this footer stands, so that a copy of one elsewhere is no footer.
    pub(crate) offset: u64,
    /// Where the index frame stands, and its bytes.
    pub(crate) index_offset: u64,
    pub(crate) index_len: u64,
    /// The previous generation's footer; 0 for the first.
    pub(crate) previous: u64,
}

impl Footer {
    pub(crate) fn to_bytes(self) -> [u8; FOOTER_LEN] {
        let mut out = [0; FOOTER_LEN];
        out[0..4].copy_from_slice(&SKIPPABLE_MAGIC.to_le_bytes());
        out[4..8].copy_from_slice(&(FOOTER_LEN as u32 - 8).to_le_bytes());
        out[8..16].copy_from_slice(&FOOTER_TAG);
        out[16..18].copy_from_slice(&self.version.to_le_bytes());
        out[20..24].copy_from_slice(&self.generation.to_le_bytes());
        let words = [self.offset, self.index_offset, self.index_len, self.previous];
        for (slot, word) in out[24..56].chunks_exact_mut(8).zip(words) {
            slot.copy_from_slice(&word.to_le_bytes());
        }
        let crc = crc32c::crc32c(&out[..60]);
        out[60..64].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// The footer in `bytes` if they stand at `offset` and are one; an error if it is one that this
    /// tool is too old to read.
    pub(crate) fn parse(bytes: &[u8; FOOTER_LEN], offset: u64) -> Result<Option<Self>> {
        let four =
            |i: usize| u32::from_le_bytes([bytes[i], bytes[i + 1], bytes[i + 2], bytes[i + 3]]);
        let eight = |i: usize| u64::from(four(i)) | u64::from(four(i + 4)) << 32;
        let framed = four(0) == SKIPPABLE_MAGIC && four(4) == FOOTER_LEN as u32 - 8;
        if !framed || bytes[8..16] != FOOTER_TAG || crc32c::crc32c(&bytes[..60]) != four(60) {
            return Ok(None);
        }
        let footer = Self {
            version: u16::from_le_bytes([bytes[16], bytes[17]]),
            generation: four(20),
            offset: eight(24),
            index_offset: eight(32),
            index_len: eight(40),
            previous: eight(48),
        };
        if footer.offset != offset {
            return Ok(None);
        }
        if footer.version > FORMAT_VERSION {
            let text = format!(
                "archive format {} is newer than this tool's {FORMAT_VERSION}; install a newer delta-stream",
                footer.version
            );
            return Err(Error::new(ErrorKind::Incompatible, text));
        }
        if bytes[18..20] != [0; 2] || bytes[56..60] != [0; 4] {
            return Err(Error::unknown("footer field", "in reserved bytes"));
        }
        let end = footer.index_offset.checked_add(footer.index_len);
        let sane = end == Some(offset) && footer.previous < offset && footer.version > 0;
        Ok(sane.then_some(footer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_change_these() {
        assert_eq!(FORMAT_VERSION, 1);
        assert_eq!(FOOTER_LEN, 64);
        assert_eq!(FOOTER_TAG, *b"DSFOOT\r\n");
        assert_eq!(PREAMBLE.len(), 54);
    }

    #[test]
    fn the_preamble_is_a_zstd_frame() {
        let text = zstd::decode_all(PREAMBLE).unwrap();
        assert_eq!(text, b"delta-stream archive; see delta-stream --help");
    }

    #[test]
    fn a_footer_counts_only_where_it_was_written() {
        let footer = Footer {
            version: 1,
            generation: 3,
            offset: 500,
            index_offset: 400,
            index_len: 100,
            previous: 64,
        };
        let bytes = footer.to_bytes();
        assert_eq!(Footer::parse(&bytes, 500).unwrap(), Some(footer));
        assert_eq!(Footer::parse(&bytes, 501).unwrap(), None);
        for bit in 0..FOOTER_LEN * 8 {
            let mut bad = bytes;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Footer::parse(&bad, 500).unwrap(), None, "bit {bit}");
        }
        let newer = Footer { version: 2, ..footer }.to_bytes();
        assert_eq!(Footer::parse(&newer, 500).unwrap_err().kind(), ErrorKind::Incompatible);
    }
}
