//! How an archive is cut into blocks, groups and parity, and the header of a parity file that says so.
//!
//! The covered bytes are a matrix: rows of `groups` blocks each, one after the other in the file, the last one
//! filled up with zeros. A group is a column: its blocks lie a whole row apart, so that a burnt range as long as
//! `parity` rows takes no more than `parity` blocks of any group.

use crate::archive::format::{FOOTER_LEN, Footer, PREAMBLE};
use crate::error::{Error, ErrorKind, Result};
use crate::wire::{Reader, Writer};

/// The version of parity files this tool writes.
pub(crate) const PARITY_VERSION: u16 = 1;
/// Marks a parity file.
pub(super) const MAGIC: [u8; 8] = *b"DSPARIT\n";
/// Bytes of a header, of which there are two.
pub(crate) const HEADER_LEN: usize = 192;
/// Bytes of a stored hash.
pub(super) const HASH_LEN: usize = 8;

/// Parity in millionths of the archive: the least and the most.
pub(crate) const SHARES: std::ops::RangeInclusive<u32> = 1_000..=1_000_000;
/// Millionths in one.
const WHOLE: u64 = 1_000_000;
/// Parity blocks of a group, where the share is a hundredth or more; fewer where it is less.
const PARITY_BLOCKS: u64 = 16;
const LEAST_PARITY_BLOCKS: u64 = 2;
/// Data blocks of a group at most, where the share is less than a hundredth.
const DATA_BLOCKS: u64 = 1600;
/// The code works on 64 bytes at a time.
const BLOCK_UNIT: u64 = 64;
/// Bytes of a block at most, and of a group's data blocks: this is what is held at once.
const MOST_BLOCK: u64 = 16 << 10;
const MOST_GROUP: u64 = 16 << 20;
/// The same of a file that another tool may have written: bytes of a block, and of a group's data and parity
/// while it is rebuilt.
const MOST_STORED_BLOCK: u64 = 64 << 10;
const MOST_STORED_GROUP: u64 = 32 << 20;

/// The numbers that decide where everything is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Bytes of the archive that are covered, from its first.
    pub(crate) len: u64,
    /// Bytes of a block.
    pub(crate) block: u32,
    pub(crate) groups: u64,
    /// Blocks of a group: of the archive, and of parity.
    pub(crate) data: u32,
    pub(crate) parity: u32,
}

impl Layout {
    /// For `len` bytes, not 0, and so many millionths of them as parity, in [`SHARES`]. Small archives get
    /// more: a few kilobytes.
    pub(crate) fn choose(len: u64, share: u32) -> Self {
        let share = u64::from(share);
        let parity = (share * DATA_BLOCKS / WHOLE).clamp(LEAST_PARITY_BLOCKS, PARITY_BLOCKS);
        let data = parity * WHOLE / share;
        let most = (MOST_GROUP / data).min(MOST_BLOCK) / BLOCK_UNIT * BLOCK_UNIT;
        let groups = len.div_ceil(data * most).max(1);
        // Where blocks would be tiny, their hashes would take more than the parity; together they take least
        // where a block has about as many bytes as there are blocks.
        let least = if groups == 1 { len.isqrt().min(most) } else { 1 };
        let block = len.div_ceil(data * groups).max(least).next_multiple_of(BLOCK_UNIT);
        let data = len.div_ceil(groups * block);
        Self { len, block: block as u32, groups, data: data as u32, parity: parity as u32 }
    }

    /// Whether a stored layout is one that [`choose`](Self::choose) may come to in some version: its numbers
    /// fit each other and no group takes more memory than is allowed.
    fn is_sound(&self) -> bool {
        let (block, data) = (u64::from(self.block), u64::from(self.data));
        let chunk = u64::from(self.parity).next_power_of_two();
        let held = (chunk + data).next_power_of_two();
        let blocks = block.is_multiple_of(BLOCK_UNIT) && block <= MOST_STORED_BLOCK;
        let sizes = block > 0 && blocks && self.parity >= 1;
        let row = self.groups.checked_mul(block).filter(|row| *row > 0);
        let least = (PREAMBLE.len() + FOOTER_LEN) as u64;
        // Every group has bytes in the first row, and as many rows as data says.
        let fits = row.is_some_and(|row| row - block < self.len && self.len.div_ceil(row) == data);
        let small = held <= 1 << 16 && held * block <= MOST_STORED_GROUP;
        // Whatever is worked out from these stays far from the ends of 64 bits.
        let bounded = (least..1 << 60).contains(&self.len) && self.groups <= 1 << 36;
        sizes && bounded && fits && small && self.parity <= 1 << 15
    }

    /// Bytes of a row: from a block to the next of its group.
    pub(crate) fn row(&self) -> u64 {
        self.groups * u64::from(self.block)
    }

    /// Bytes of the table of a group: hashes of its data blocks, of its parity blocks, and of these.
    pub(crate) fn table_len(&self) -> usize {
        (self.data as usize + self.parity as usize + 1) * HASH_LEN
    }

    /// Where the tables begin, and where their second copy does.
    fn tables(&self) -> [u64; 2] {
        let first = HEADER_LEN as u64;
        [first, self.parity_at(self.groups)]
    }

    /// Where the table of a group stands, in either copy.
    pub(super) fn table_at(&self, group: u64, copy: usize) -> u64 {
        self.tables()[copy] + group * self.table_len() as u64
    }

    /// Where the parity blocks of a group stand.
    pub(super) fn parity_at(&self, group: u64) -> u64 {
        let tables = self.groups * self.table_len() as u64;
        HEADER_LEN as u64 + tables + group * u64::from(self.parity) * u64::from(self.block)
    }

    /// Bytes of the whole parity file.
    pub(crate) fn file_len(&self) -> u64 {
        self.table_at(self.groups, 1) + HEADER_LEN as u64
    }

    /// Bytes of any one burnt range that can be made good again, wherever it is.
    #[cfg(test)]
    fn tolerance(&self) -> u64 {
        let blocks = self.groups * u64::from(self.parity) - 1;
        blocks * u64::from(self.block) + 1
    }
}

/// What stands first and last in a parity file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    /// Millionths that were asked for, in [`SHARES`].
    pub(crate) share: u32,
    pub(crate) layout: Layout,
    /// Hash of all tables, one after the other.
    pub(crate) root: u128,
    /// The footer that ends the covered bytes.
    pub(crate) footer: Footer,
}

impl Header {
    pub(crate) fn to_bytes(self) -> [u8; HEADER_LEN] {
        let Layout { len, block, groups, data, parity } = self.layout;
        let mut w = Writer::default();
        w.0.extend(MAGIC);
        w.u16(PARITY_VERSION);
        w.u16(0);
        w.u32(self.share);
        w.u64(len);
        w.u64(groups);
        w.u32(block);
        w.u32(data);
        w.u32(parity);
        w.u32(0);
        w.u128(self.root);
        w.0.extend(self.footer.to_bytes());
        w.0.resize(HEADER_LEN - 4, 0);
        w.u32(crc32c::crc32c(&w.0));
        let mut out = [0; HEADER_LEN];
        out.copy_from_slice(&w.0);
        out
    }

    /// # Errors
    /// `Corrupt` if it is damaged or no header, `Incompatible` if a newer tool wrote it.
    pub(crate) fn parse(bytes: &[u8; HEADER_LEN]) -> Result<Self> {
        let (fields, crc) = bytes.split_at(HEADER_LEN - 4);
        let r = &mut Reader::new(fields);
        if r.take(MAGIC.len())? != MAGIC || crc != crc32c::crc32c(fields).to_le_bytes() {
            return Err(Error::corrupt("its header is damaged"));
        }
        let version = r.u16()?;
        if version > PARITY_VERSION {
            let text = format!(
                "parity file format {version} is newer than this tool's {PARITY_VERSION}; install a newer \
                 delta-stream"
            );
            return Err(Error::new(ErrorKind::Incompatible, text));
        }
        let reserved = r.u16()?;
        let (share, len, groups) = (r.u32()?, r.u64()?, r.u64()?);
        let (block, data, parity) = (r.u32()?, r.u32()?, r.u32()?);
        let layout = Layout { len, block, groups, data, parity };
        let reserved = u32::from(reserved) | r.u32()?;
        let root = r.u128()?;
        let footer = r.take(FOOTER_LEN)?.first_chunk::<FOOTER_LEN>();
        let footer = footer.ok_or_else(|| Error::corrupt("its header is damaged"))?;
        let is_zero = reserved == 0 && r.take(r.left())?.iter().all(|b| *b == 0);
        if version == 0 || !SHARES.contains(&share) || !layout.is_sound() || !is_zero {
            return Err(Error::corrupt("its header has numbers that no tool writes"));
        }
        // Sound layouts cover a footer at least.
        let footer = Footer::parse(footer, len - FOOTER_LEN as u64)?;
        let footer = footer.ok_or_else(|| Error::corrupt("its header ends with no footer"))?;
        Ok(Self { share, layout, root, footer })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header(len: u64, share: u32) -> Header {
        let footer = Footer {
            version: 1,
            generation: 3,
            offset: len - FOOTER_LEN as u64,
            index_offset: len - FOOTER_LEN as u64 - 40,
            index_len: 40,
            previous: 0,
        };
        Header { share, layout: Layout::choose(len, share), root: 7, footer }
    }

    #[test]
    fn layouts_have_the_sizes_that_are_promised() {
        for (len, share, most) in [
            (200, 20_000, 3_000),
            (2_000, 20_000, 3_500),
            (100_000, 20_000, 11_000),
            (1 << 20, 20_000, 36_000),
            (1 << 30, 20_000, 22_600_000),
            (1 << 30, 10_000, 12_600_000),
            (1 << 40, 20_000, 23_200_000_000),
            (1 << 40, 1_000, 3_300_000_000),
            (1 << 40, 1_000_000, 1_103_000_000_000),
        ] {
            let layout = Layout::choose(len, share);
            assert!(layout.is_sound(), "{layout:?}");
            let bytes = layout.file_len();
            assert!(bytes <= most, "{bytes} for {layout:?}");
            let parity = layout.groups * u64::from(layout.parity) * u64::from(layout.block);
            assert!(parity >= len / 1_000_000 * u64::from(share) * 99 / 100, "{layout:?}");
        }
    }

    proptest! {
        #[test]
        fn half_the_share_can_burn_and_headers_come_back(
            len in prop_oneof![118u64..5_000, 118u64..2_000_000, 118u64..1 << 44],
            share in prop_oneof![Just(20_000u32), SHARES],
            at in any::<u32>(),
        ) {
            let header = header(len, share);
            let layout = header.layout;
            prop_assert!(layout.is_sound(), "{layout:?}");
            prop_assert!(u128::from(layout.tolerance()) * 2_000_000 >= u128::from(len) * u128::from(share));
            if share >= 10_000 {
                prop_assert!(u128::from(layout.tolerance()) * 16 * 1_000_000 >= u128::from(len) * 15 * u128::from(share));
            }
            // Any range so long takes no more of a group than it has parity.
            let (data, block) = (u64::from(layout.data), u64::from(layout.block));
            let from = ((u128::from(at) * u128::from(len)) >> 32) as u64;
            let to = len.min(from + layout.tolerance());
            let touched = (to - 1) / block - from / block + 1;
            prop_assert!(touched.div_ceil(layout.groups) <= u64::from(layout.parity));
            prop_assert!(share < 20_000 || to == len || (to - from) * 100 >= len);
            prop_assert!(data * block <= MOST_GROUP);
            prop_assert!(layout.row() * data >= len && layout.row() * (data - 1) < len);
            prop_assert_eq!(Header::parse(&header.to_bytes()).unwrap(), header);
        }

        #[test]
        fn other_headers_are_refused_or_sound(at in 8usize..HEADER_LEN - 4, to in any::<[u8; 4]>()) {
            let mut bytes = header(1 << 30, 20_000).to_bytes();
            bytes[at..at + 4].copy_from_slice(&to);
            let crc = crc32c::crc32c(&bytes[..HEADER_LEN - 4]);
            bytes[HEADER_LEN - 4..].copy_from_slice(&crc.to_le_bytes());
            if let Ok(header) = Header::parse(&bytes) {
                prop_assert!(header.layout.is_sound());
                prop_assert!(header.layout.file_len() > 2 * HEADER_LEN as u64);
                prop_assert_eq!(header.to_bytes(), bytes);
            }
        }
    }

    #[test]
    fn a_layout_has_no_groups_without_bytes() {
        let layout = Layout { len: 3840, block: 1 << 16, groups: 1, data: 1, parity: 16 };
        assert!(layout.is_sound());
        // To look at each would take hours.
        for groups in [2, 1 << 32] {
            assert!(!Layout { groups, ..layout }.is_sound(), "{groups}");
        }
    }

    #[test]
    fn changed_and_newer_headers_are_refused() {
        let good = header(12_345, 20_000).to_bytes();
        for bit in 0..HEADER_LEN * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Header::parse(&bad).unwrap_err().kind(), ErrorKind::Corrupt, "bit {bit}");
        }
        let mut newer = good;
        newer[8] = 2;
        let crc = crc32c::crc32c(&newer[..HEADER_LEN - 4]);
        newer[HEADER_LEN - 4..].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(Header::parse(&newer).unwrap_err().kind(), ErrorKind::Incompatible);
    }
}
