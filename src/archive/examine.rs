//! Looks at an archive place by place and goes on behind damage, for those who want to know all of it.

use crate::archive::format::{FOOTER_LEN, PREAMBLE};
use crate::archive::index::IndexEntry;
use crate::archive::reader::{Archive, Stored, join};
use crate::archive::walk::Found;
use crate::error::{Error, Result};
use crate::frame::{HEADER_LEN, Header, Kind, Label};

/// A record of a variant that cannot be used: where it stands, and why.
#[derive(Debug)]
pub(crate) struct BadRecord {
    pub(crate) offset: u64,
    pub(crate) error: Error,
}

/// Something in the file that no listed variant accounts for and that is not as it must be.
#[derive(Debug)]
pub(crate) struct Stray {
    /// Whose frame it is by its own header, if it is one.
    pub(crate) variant: Option<u32>,
    pub(crate) offset: u64,
    pub(crate) error: Error,
}

impl Archive {
    /// The variant or base vector of an entry of the index.
    ///
    /// # Errors
    /// Every record of it that is damaged.
    pub(crate) fn examine(
        &self,
        entry: &IndexEntry,
    ) -> std::result::Result<Stored, Vec<BadRecord>> {
        let bad = |offset| move |error| BadRecord { offset, error };
        let head = self.head(entry).map_err(bad(entry.head_offset));
        let seal = self.seal(entry).map_err(bad(entry.seal_offset));
        match (head, seal) {
            (Ok(head), Ok(seal)) => join(entry, head, seal, self.footer.index_offset)
                .map_err(|e| vec![bad(entry.head_offset)(e)]),
            (head, seal) => Err([head.err(), seal.err()].into_iter().flatten().collect()),
        }
    }

    /// Holds the header at `offset`, where a frame of `len` bytes should stand, to what it should be,
    /// whatever its codec.
    ///
    /// # Errors
    /// `Corrupt`, `Truncated` or `Incompatible` if it is not that.
    pub(crate) fn check_header(&self, offset: u64, len: u32, wanted: Label) -> Result<()> {
        let mut bytes = Vec::new();
        self.frames().read(offset, HEADER_LEN, &mut bytes)?;
        let head = bytes.first_chunk::<HEADER_LEN>();
        let header = Header::parse(head.ok_or_else(|| Error::truncated("no frame header here"))?)?;
        if !header.label.is_but_for_codec(wanted) {
            return Err(Error::corrupt("another frame stands here"));
        }
        if HEADER_LEN as u64 + u64::from(header.body_len) != u64::from(len) {
            return Err(Error::corrupt("frame length differs from the seal"));
        }
        Ok(())
    }

    /// Goes through the committed file frame by frame: that one follows the other without a gap and, with
    /// `bodies`, that those are whole which are not of a variant in `known`. Tells `stray` of all that is
    /// not so. Returns the number of frame headers.
    ///
    /// # Errors
    /// What `stray` says.
    pub(crate) fn examine_file(
        &self,
        known: &[u32],
        bodies: bool,
        stray: &mut dyn FnMut(Stray) -> Result<()>,
    ) -> Result<u64> {
        let (mut n, mut stored) = (0, Vec::new());
        let mut walk = self.frames().walk(PREAMBLE.len() as u64, self.committed_len());
        while let Some(found) = walk.next()? {
            match found {
                Found::Frame { offset, header } => {
                    n += 1;
                    let Label { kind, variant, .. } = header.label;
                    let is_index = kind == Kind::Index;
                    let is_known = if is_index {
                        offset == self.footer.index_offset
                    } else {
                        known.contains(&variant)
                    };
                    if is_known || !bodies {
                        continue;
                    }
                    let len = HEADER_LEN + header.body_len as usize;
                    if let Err(e) = self.frames().read_whole(offset, len, &mut stored) {
                        let error = e.context(format!("{kind:?} frame that no variant uses"));
                        let variant = (!is_index).then_some(variant);
                        stray(Stray { variant, offset, error })?;
                    }
                }
                Found::Gap { offset, len } => {
                    let text = format!("no frame begins here; the next is {len} bytes on");
                    stray(Stray { variant: None, offset, error: Error::corrupt(text) })?;
                }
                Found::Footer(_) | Found::Unknown { .. } => {}
            }
        }
        self.examine_tail(stray)?;
        Ok(n)
    }

    /// Bytes behind the last footer: what a crash left, or a generation whose footer is damaged.
    pub(crate) fn tail_len(&self) -> Result<u64> {
        Ok(self.frames().file_len()?.saturating_sub(self.committed_len()))
    }

    /// A crash leaves frames, or an index and the first bytes of a footer. An index with as many bytes
    /// behind it as a footer has was committed once, or as good as.
    fn examine_tail(&self, stray: &mut dyn FnMut(Stray) -> Result<()>) -> Result<()> {
        let end = self.committed_len() + self.tail_len()?;
        let mut walk = self.frames().walk(self.committed_len(), end);
        let mut index_end = None;
        while let Some(found) = walk.next()? {
            match found {
                Found::Frame { offset, header } if header.label.kind == Kind::Index => {
                    index_end = Some(offset + HEADER_LEN as u64 + u64::from(header.body_len));
                }
                Found::Gap { offset, len }
                    if Some(offset) == index_end && len >= FOOTER_LEN as u64 =>
                {
                    let text = "the footer of a later generation is damaged: what it added is not \
                                seen; recover brings it back";
                    stray(Stray { variant: None, offset, error: Error::corrupt(text) })?;
                }
                _ => {}
            }
        }
        Ok(())
    }
}
