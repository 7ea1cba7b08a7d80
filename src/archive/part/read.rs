//! Reads a part from its start to its end, an entry or a frame at a time. Nothing of it is trusted: a length
//! is held to the bytes that are left before anything is reserved for it.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::Xxh3;

use crate::archive::lock::open_file;
use crate::archive::part::{Entry, MAGIC, MAX_ENTRY, PREFIX, PartHead};
use crate::archive::store::MAX_STORED_LEN;
use crate::archive::writer::{Note, SurveyAt, Surveys};
use crate::error::{Error, Result, ResultExt};
use crate::frame::{self, HEADER_LEN, Header};

/// A part that is being read.
pub(crate) struct PartReader {
    reader: BufReader<File>,
    path: PathBuf,
    head: PartHead,
    entry: Vec<u8>,
    /// Bytes that were read, of so many.
    at: u64,
    len: u64,
    hash: Xxh3,
    n_entries: u64,
}

impl PartReader {
    /// Opens a part and reads what it is of.
    ///
    /// # Errors
    /// `InvalidArgument` if it is no part; `Corrupt`, `Truncated`, `Incompatible`; `Io`.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let file = open_file(path)?;
        let len = file.metadata().map_err(|e| Error::io("examine", path, e))?.len();
        let (tool, variant) = (String::new(), String::new());
        let head = PartHead { identity: 0, part: 0, of: 0, round: 0, rounds: 0, tool, variant };
        let (reader, hash) = (BufReader::new(file), Xxh3::new());
        let (path, entry, at, n_entries) = (path.to_owned(), Vec::new(), 0, 0);
        let mut part = Self { reader, path, head, entry, at, len, hash, n_entries };
        part.read_head().context(|| part.context())?;
        Ok(part)
    }

    fn read_head(&mut self) -> Result<()> {
        let mut magic = [0; MAGIC.len()];
        if self.len >= magic.len() as u64 {
            self.fill(&mut magic)?;
        }
        if magic != MAGIC {
            let text = "this is no part that compress --part wrote";
            return Err(Error::invalid_argument(text));
        }
        match self.read_entry()? {
            Entry::Head(head) => self.head = head,
            _ => return Err(Error::corrupt("it does not say what it is of")),
        }
        Ok(())
    }

    /// What it is of.
    pub(crate) fn head(&self) -> &PartHead {
        &self.head
    }

    /// How errors name it.
    pub(crate) fn context(&self) -> String {
        format!("part {}", self.path.display())
    }

    /// The next entry; `None` behind the last, when all of the file was as it was written.
    ///
    /// # Errors
    /// `Corrupt`, `Truncated`, `Incompatible`; `Io`.
    pub(crate) fn next(&mut self) -> Result<Option<Entry<'_>>> {
        let (n_before, hash_before) = (self.n_entries, self.hash.digest());
        let (at, len) = (self.read_next()?, self.len);
        match Entry::parse(&self.entry)? {
            Entry::End { n_entries, hash } => {
                let is_whole = (n_entries, hash) == (n_before, hash_before) && at == len;
                is_whole
                    .then_some(None)
                    .ok_or_else(|| Error::corrupt("its end is not of its bytes"))
            }
            Entry::Head(_) => Err(Error::corrupt("it says twice what it is of")),
            entry => Ok(Some(entry)),
        }
    }

    fn read_entry(&mut self) -> Result<Entry<'_>> {
        self.read_next()?;
        Entry::parse(&self.entry)
    }

    /// Reads the bytes of the next entry; returns where it ends.
    fn read_next(&mut self) -> Result<u64> {
        let mut prefix = [0; PREFIX];
        self.fill(&mut prefix)?;
        let [a, b, c, d, crc @ ..] = prefix;
        let len = u32::from_le_bytes([a, b, c, d]);
        if len > MAX_ENTRY {
            return Err(Error::corrupt("an entry exceeds the cap"));
        }
        let mut entry = std::mem::take(&mut self.entry);
        self.read(len as usize, &mut entry)?;
        self.entry = entry;
        if crc32c::crc32c(&self.entry).to_le_bytes() != crc {
            return Err(Error::corrupt(format!("the entry that ends at {} is damaged", self.at)));
        }
        self.n_entries += 1;
        Ok(self.at)
    }

    /// The frame of `len` bytes that follows the last entry, held to its checksums.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub(crate) fn frame(&mut self, len: u32, out: &mut Vec<u8>) -> Result<Header> {
        let len = len as usize;
        if !(HEADER_LEN..=MAX_STORED_LEN).contains(&len) {
            return Err(Error::corrupt(format!("a frame of {len} bytes exceeds the cap")));
        }
        let at = self.at;
        self.read(len, out)?;
        Ok(frame::check(out).context(|| format!("frame at offset {at}"))?.0)
    }

    fn read(&mut self, len: usize, out: &mut Vec<u8>) -> Result<()> {
        if len as u64 > self.len - self.at {
            return Err(cut_off());
        }
        out.clear();
        out.resize(len, 0);
        self.fill(out)
    }

    fn fill(&mut self, out: &mut [u8]) -> Result<()> {
        if out.len() as u64 > self.len - self.at {
            return Err(cut_off());
        }
        self.reader.read_exact(out).map_err(|e| Error::io("read", &self.path, e))?;
        self.hash.update(out);
        self.at += out.len() as u64;
        Ok(())
    }

    /// Goes through all of it, which has at most so many surveys and nothing else, and hands what each found
    /// to `each`. Returns them, to be read as they are needed.
    ///
    /// # Errors
    /// As [`next`](Self::next); what `each` says.
    pub(crate) fn surveys(
        mut self,
        most: u64,
        mut each: impl FnMut(SurveyAt, &[u8]) -> Result<()>,
    ) -> Result<Surveys> {
        let mut places = Vec::new();
        while let Some((at, n_found)) = self.survey(&mut each)? {
            if places.len() as u64 >= most {
                let error = Error::corrupt("it has more surveys than tiles can have");
                return Err(error.context(self.context()));
            }
            places.push((at, self.at - u64::from(n_found), n_found));
        }
        Ok(Surveys::of(self.reader.into_inner(), self.path, places))
    }

    /// Hands what the next survey found to `each`. Returns which that was and its bytes; `None` behind the
    /// last.
    ///
    /// # Errors
    /// As [`surveys`](Self::surveys).
    pub(crate) fn survey(
        &mut self,
        each: &mut impl FnMut(SurveyAt, &[u8]) -> Result<()>,
    ) -> Result<Option<(SurveyAt, u32)>> {
        let context = self.context();
        match self.next().context(|| context.clone())? {
            Some(Entry::Note(Note::Surveyed(at, found))) => {
                each(at, found)?;
                Ok(Some((at, found.len() as u32)))
            }
            None => Ok(None),
            Some(_) => Err(Error::corrupt("it has more than surveys").context(context)),
        }
    }
}

fn cut_off() -> Error {
    Error::truncated("it is cut off; make the part again")
}
