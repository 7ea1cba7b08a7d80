//! Some groups that stand side by side: read from the archive a run of each row, and worked on.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::archive::parity::code::Coder;
use crate::archive::parity::file::{ParityFile, Table, hash, read_what_can_be, seal_table};
use crate::archive::parity::layout::Layout;
use crate::error::{Error, Result};

/// The data blocks of a run of groups.
#[derive(Debug)]
pub(crate) struct Window {
    pub(crate) groups: Range<u64>,
    /// Rows, each with the window's blocks one after the other.
    bytes: Vec<u8>,
}

impl Window {
    /// Reads the blocks of these groups. With `leniently`, zeros stand for bytes that are missing or cannot
    /// be read; otherwise that is an error. What lies behind the covered bytes is zero in any case.
    ///
    /// # Errors
    /// `Io`, naming `path`.
    pub(crate) fn read(
        file: &File,
        path: &Path,
        layout: &Layout,
        groups: Range<u64>,
        mut bytes: Vec<u8>,
        leniently: bool,
    ) -> Result<Self> {
        let block = layout.block as usize;
        let n = (groups.end - groups.start) as usize * block;
        bytes.resize(n * layout.data as usize, 0);
        for (row, piece) in (0..).zip(bytes.chunks_mut(n.max(1))) {
            let at = row * layout.row() + groups.start * u64::from(layout.block);
            let covered = layout.len.saturating_sub(at).min(n as u64) as usize;
            let (piece, behind) = piece.split_at_mut(covered);
            behind.fill(0);
            if leniently {
                read_what_can_be(file, at, piece, block);
            } else {
                file.read_exact_at(piece, at).map_err(|e| Error::io("read", path, e))?;
            }
        }
        Ok(Self { groups, bytes })
    }

    /// The buffer, to be used again.
    pub(crate) fn into_buffer(self) -> Vec<u8> {
        self.bytes
    }

    /// A data block of the `i`-th group here.
    fn block(&self, layout: &Layout, i: usize, row: usize) -> &[u8] {
        let block = layout.block as usize;
        let n = (self.groups.end - self.groups.start) as usize * block;
        let at = row * n + i * block;
        &self.bytes[at..at + block]
    }

    /// Tables and parity blocks of all groups here, in their order.
    pub(crate) fn encode(&self, layout: &Layout, coder: &mut Coder) -> Result<(Vec<u8>, Vec<u8>)> {
        let (mut tables, mut parity) = (Vec::new(), Vec::new());
        let rows = 0..layout.data as usize;
        for (i, group) in self.groups.clone().enumerate() {
            let start = parity.len();
            coder.encode(rows.clone().map(|row| self.block(layout, i, row)), &mut parity)?;
            let mut hashes = Vec::with_capacity(layout.table_len());
            let data = rows.clone().map(|row| self.block(layout, i, row));
            for block in data.chain(parity[start..].chunks(layout.block as usize)) {
                hashes.extend(hash(block).to_le_bytes());
            }
            seal_table(group, &mut hashes);
            tables.extend(hashes);
        }
        Ok((tables, parity))
    }

    /// Holds the groups here to what the parity file says of them.
    pub(crate) fn examine(
        &self,
        parity: &ParityFile,
        coder: &mut Coder,
        look: Look,
    ) -> Result<Vec<Group>> {
        let groups = self.groups.clone().enumerate();
        groups.map(|(i, group)| self.group(i, group, parity, coder, look)).collect()
    }

    fn group(
        &self,
        i: usize,
        group: u64,
        parity: &ParityFile,
        coder: &mut Coder,
        look: Look,
    ) -> Result<Group> {
        let layout = &parity.header.layout;
        let mut found = Group { group, ..Group::default() };
        let mut table = parity.table(group, 0);
        found.bad_tables += usize::from(table.is_none());
        if table.is_none() || look.at_parity {
            let copy = parity.table(group, 1);
            found.bad_tables += usize::from(copy.is_none());
            table = table.or(copy);
        }
        let Some(table) = table else { return Ok(found) };
        let (data, block) = (layout.data as usize, layout.block as usize);
        let is_good = |row: &usize| hash(self.block(layout, i, *row)) == table.get(*row);
        let (good, bad): (Vec<_>, Vec<_>) = (0..data).partition(is_good);
        if look.at_parity || !bad.is_empty() {
            let mut blocks = Vec::new();
            parity.parity(group, &mut blocks);
            let is_whole = |(k, bytes): &(usize, &[u8])| hash(bytes) == table.get(data + k);
            let all = || blocks.chunks(block).enumerate();
            let whole: Vec<_> = all().filter(is_whole).collect();
            found.bad_parity = layout.parity as usize - whole.len();
            found.can_be_mended = bad.len() <= whole.len();
            if look.mends && found.can_be_mended && !bad.is_empty() {
                let good = good.iter().map(|row| (*row, self.block(layout, i, *row)));
                let rebuilt = coder.rebuild(good, whole.into_iter())?;
                let is_right = |(row, bytes): &(usize, Vec<u8>)| hash(bytes) == table.get(*row);
                found.can_be_mended = rebuilt.len() == bad.len() && rebuilt.iter().all(is_right);
                found.rebuilt = rebuilt;
            }
        } else {
            found.can_be_mended = true;
        }
        (found.bad, found.table) = (bad, Some(table));
        Ok(found)
    }
}

/// What is looked at, and done about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Look {
    /// Parity blocks and second copies of tables, also where nothing is damaged.
    pub(crate) at_parity: bool,
    /// Whether lost blocks are rebuilt.
    pub(crate) mends: bool,
}

/// What was found of a group.
#[derive(Debug, Default)]
pub(crate) struct Group {
    pub(crate) group: u64,
    /// Its table; `None` if both copies are damaged, and nothing can be said of the group.
    pub(crate) table: Option<Table>,
    /// Rows whose block is damaged.
    pub(crate) bad: Vec<usize>,
    /// Whether enough is left to rebuild these.
    pub(crate) can_be_mended: bool,
    /// Damaged parity blocks, as far as they were looked at, and copies of the table.
    pub(crate) bad_parity: usize,
    pub(crate) bad_tables: usize,
    /// Blocks by row, if they were asked for.
    pub(crate) rebuilt: Vec<(usize, Vec<u8>)>,
}
