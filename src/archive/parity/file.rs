//! A parity file on disk: opened, read with both copies of what matters, and written.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::archive::format::Footer;
use crate::archive::lock::open_partial;
use crate::archive::parity::layout::{HASH_LEN, HEADER_LEN, Header, Layout};
use crate::checkpoint::{Locked, Writeback, disk, sync_dir};
use crate::error::{Error, Result, ResultExt};

/// `NAME.parity` beside the file that `archive` leads to.
pub(crate) fn path_of(archive: &Path) -> PathBuf {
    let real = std::fs::canonicalize(archive).unwrap_or_else(|_| archive.to_owned());
    beside(&real)
}

/// `NAME.parity` beside a file of this name, which need not be there.
pub(crate) fn beside(archive: &Path) -> PathBuf {
    let mut name = archive.file_name().unwrap_or_default().to_owned();
    name.push(".parity");
    archive.with_file_name(name)
}

/// Removes the parity file of an archive that is about to be replaced, so that none is left that is of
/// another, whatever happens next.
///
/// # Errors
/// `Io`.
pub(crate) fn discard(archive: &Path) -> Result<()> {
    let path = beside(archive);
    if path.symlink_metadata().is_err() {
        return Ok(());
    }
    disk::remove_file(&path).map_err(|e| Error::io("remove", &path, e))?;
    sync_dir(disk::parent_of(&path))
}

/// Hash of a block.
pub(super) fn hash(block: &[u8]) -> u64 {
    xxh3_64(block)
}

/// Adds the hash that makes a table of the hashes of a group's blocks.
pub(super) fn seal_table(group: u64, hashes: &mut Vec<u8>) {
    let mut all = Xxh3::new();
    all.update(&group.to_le_bytes());
    all.update(hashes);
    hashes.extend(all.digest().to_le_bytes());
}

/// The hashes of a group's blocks: data, then parity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Table(Vec<u8>);

impl Table {
    /// As it is stored.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The hash of block `i`; parity blocks follow data blocks.
    pub(super) fn get(&self, i: usize) -> u64 {
        let bytes = self.0.get(i * HASH_LEN..).and_then(<[u8]>::first_chunk);
        bytes.map_or(0, |bytes| u64::from_le_bytes(*bytes))
    }
}

/// A parity file opened for reading.
#[derive(Debug)]
pub(crate) struct ParityFile {
    file: File,
    pub(crate) header: Header,
    /// Bytes that the file has, whatever its header says.
    pub(crate) len: u64,
    /// Whether both of its headers are whole and it is as long as they say.
    pub(crate) has_whole_ends: bool,
}

impl ParityFile {
    /// The parity file of an archive; `None` if it has none.
    ///
    /// # Errors
    /// `Corrupt` if both of its headers are damaged, `Incompatible` if a newer tool wrote it, `Io`.
    pub(crate) fn open(archive: &Path) -> Result<Option<Self>> {
        let path = path_of(archive);
        let file = match File::open(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(|e| Error::io("open", &path, e))?,
        };
        let len = file.metadata().map_err(|e| Error::io("examine", &path, e))?.len();
        let found = Self::read(file, len).context(|| format!("parity file {}", path.display()))?;
        Ok(Some(found))
    }

    fn read(file: File, len: u64) -> Result<Self> {
        let header = |at: u64| {
            let mut bytes = [0; HEADER_LEN];
            let read = file.read_exact_at(&mut bytes, at);
            read.map_err(|e| Error::truncated("its header cannot be read").with_source(e))?;
            Header::parse(&bytes)
        };
        let ends = [header(0), header(len.saturating_sub(HEADER_LEN as u64))];
        let is_long = |h: &Header| h.layout.file_len() == len;
        let has_whole_ends =
            matches!(&ends, [Ok(a), Ok(b)] if a == b && is_long(a)) && len > HEADER_LEN as u64;
        let [first, last] = ends;
        // The first says why, if neither is whole.
        let header = first.or_else(|e| last.map_err(|_| e))?;
        Ok(Self { file, header, len, has_whole_ends })
    }

    /// The table of a group in one of its two copies, if that is whole.
    pub(super) fn table(&self, group: u64, copy: usize) -> Option<Table> {
        let layout = &self.header.layout;
        let mut bytes = vec![0; layout.table_len()];
        self.file.read_exact_at(&mut bytes, layout.table_at(group, copy)).ok()?;
        let mut hashes = bytes[..bytes.len() - HASH_LEN].to_vec();
        seal_table(group, &mut hashes);
        (hashes == bytes).then_some(Table(bytes))
    }

    /// Counts what is damaged of the file itself: headers, tables, parity blocks. `each` is asked at every
    /// group, and may end it.
    ///
    /// # Errors
    /// `Corrupt` if the tables do not belong together; what `each` says.
    pub(crate) fn check(&self, mut each: impl FnMut() -> Result<()>) -> Result<u64> {
        let Layout { block, groups, data, parity, .. } = self.header.layout;
        let (mut bad, mut root, mut blocks) = (0, Xxh3::new(), Vec::new());
        let mut is_known = true;
        for group in 0..groups {
            each()?;
            if self.header.layout.parity_at(group) >= self.len {
                // Whatever the header says, there is no more.
                return Ok(bad + 1 + (groups - group) * u64::from(parity));
            }
            let copies = [0, 1].map(|copy| self.table(group, copy));
            bad += copies.iter().filter(|table| table.is_none()).count() as u64;
            let Some(table) = copies.into_iter().flatten().next() else {
                is_known = false;
                continue;
            };
            root.update(table.bytes());
            self.parity(group, &mut blocks);
            let all = blocks.chunks(block as usize).enumerate();
            let is_bad = |(i, bytes): &(usize, &[u8])| hash(bytes) != table.get(data as usize + i);
            bad += all.filter(is_bad).count() as u64;
        }
        if is_known && root.digest128() != self.header.root {
            return Err(Error::corrupt("the tables of the parity file do not belong together"));
        }
        Ok(bad + u64::from(!self.has_whole_ends))
    }

    /// The parity blocks of a group, as far as they can be read: zeros stand for what cannot.
    pub(super) fn parity(&self, group: u64, out: &mut Vec<u8>) {
        let Layout { block, parity, .. } = self.header.layout;
        let (block, n) = (block as usize, block as usize * parity as usize);
        out.clear();
        out.resize(n, 0);
        read_what_can_be(&self.file, self.header.layout.parity_at(group), out, block);
    }
}

/// Reads bytes that need not be there or readable: zeros stand for those that are not, in steps of `step`.
pub(super) fn read_what_can_be(file: &File, at: u64, out: &mut [u8], step: usize) {
    if file.read_exact_at(out, at).is_ok() {
        return;
    }
    let mut is_over = false;
    for (i, piece) in out.chunks_mut(step.max(1)).enumerate() {
        let mut start = at + (i * step) as u64;
        let mut rest = &mut piece[..];
        while !rest.is_empty() && !is_over {
            match file.read_at(rest, start) {
                // Behind the end is nothing more, however far.
                Ok(0) => is_over = true,
                Ok(n) => {
                    rest = &mut rest[n..];
                    start += n as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                _ => break,
            }
        }
        rest.fill(0);
    }
}

/// A parity file being written, beside the archive and hidden until it is whole.
pub(crate) struct ParityWriter {
    file: Locked,
    temp: Option<disk::TempPath>,
    path: PathBuf,
    share: u32,
    layout: Layout,
    footer: Footer,
    /// Of the tables written so far.
    root: Xxh3,
    next: u64,
    writeback: Writeback,
}

impl ParityWriter {
    /// Begins the parity file of the archive at `archive`, whose covered bytes end with `footer`.
    pub(super) fn create(
        archive: &Path,
        share: u32,
        layout: Layout,
        footer: Footer,
    ) -> Result<Self> {
        let path = path_of(archive);
        let (file, temp) = open_partial(&path, "partial")?;
        disk::set_len(&file, 0).map_err(|e| Error::io("cut", &path, e))?;
        let (temp, root, writeback) = (Some(temp), Xxh3::new(), Writeback::default());
        Ok(Self { file, temp, path, share, layout, footer, root, next: 0, writeback })
    }

    /// Adds the tables and parity blocks of the groups that follow.
    pub(crate) fn add(&mut self, groups: u64, tables: &[u8], parity: &[u8]) -> Result<()> {
        let first = self.next;
        self.root.update(tables);
        self.write(self.layout.table_at(first, 0), tables)?;
        let at = self.layout.parity_at(first);
        self.write(at, parity)?;
        let sent = self.writeback.wrote(&self.file, at, parity.len() as u64);
        sent.map_err(|e| Error::io("sync", &self.path, e))?;
        self.write(self.layout.table_at(first, 1), tables)?;
        self.next += groups;
        Ok(())
    }

    /// Writes the headers, and puts the file in its place. Returns its bytes.
    pub(crate) fn finish(mut self) -> Result<u64> {
        debug_assert_eq!(self.next, self.layout.groups);
        let (share, layout, footer) = (self.share, self.layout, self.footer);
        let header = Header { share, layout, root: self.root.digest128(), footer }.to_bytes();
        let len = layout.file_len();
        self.write(0, &header)?;
        self.write(len - HEADER_LEN as u64, &header)?;
        self.writeback.sync(&self.file).map_err(|e| Error::io("sync", &self.path, e))?;
        if let Some(temp) = &self.temp {
            disk::rename(temp, &self.path)
                .map_err(|e| Error::io("rename the finished parity file to", &self.path, e))?;
        }
        // It has another name now; nothing is left to remove.
        let _ = self.temp.take().map(disk::TempPath::keep);
        let synced = sync_dir(disk::parent_of(&self.path));
        synced.context(|| "the new parity file is complete and in place".to_owned())?;
        Ok(len)
    }

    fn write(&self, at: u64, bytes: &[u8]) -> Result<()> {
        disk::write_all_at(&self.file, bytes, at).map_err(|e| Error::io("write to", &self.path, e))
    }
}
