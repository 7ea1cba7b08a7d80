//! Frames that stand for what was lost: written by a recover in the place of each tile or piece that it
//! could not save, so that a variant keeps its head, and its whole tensors can be restored.

use crate::archive::reader::{Archive, Stored};
use crate::codec::LOST;
use crate::error::Result;
use crate::frame::{self, HEADER_LEN, Header, Kind, Label};

/// What is missing of a variant, by position.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Lost {
    pub(crate) tensors: Vec<usize>,
    pub(crate) side_files: Vec<usize>,
}

/// The label of the frame that stands for a lost one.
pub(super) fn placeholder(label: Label) -> Label {
    Label { codec: LOST, ..label }
}

/// Whether a frame's header says that it stands for a lost one.
pub(super) fn stands_for_lost(header: &Header) -> bool {
    let Label { kind, codec, .. } = header.label;
    matches!(kind, Kind::Tile | Kind::Blob) && codec == LOST && header.raw_len == 0
}

/// Whether a stored frame is whole and stands for a lost one.
pub(crate) fn is_placeholder(stored: &[u8]) -> bool {
    frame::check(stored).is_ok_and(|(header, _)| stands_for_lost(&header))
}

impl Archive {
    /// Tensors and side files of a variant of which a recover could not save everything. A frame is looked
    /// at only if it is as short as one without content.
    ///
    /// # Errors
    /// Those of reading.
    pub(crate) fn lost(&self, stored: &Stored) -> Result<Lost> {
        let mut lost = Lost::default();
        for (i, t) in stored.seal.tensors.iter().enumerate() {
            if self.has_placeholder(t.offset, &t.frame_lens)? {
                lost.tensors.push(i);
            }
        }
        for (i, b) in stored.seal.blobs.iter().enumerate() {
            if self.has_placeholder(b.offset, &b.frame_lens)? {
                lost.side_files.push(i);
            }
        }
        Ok(lost)
    }

    /// Whether one of the frames that begin at `at` stands for a lost one.
    pub(crate) fn has_placeholder(&self, mut at: u64, lens: &[u32]) -> Result<bool> {
        let mut bytes = Vec::new();
        for len in lens {
            if *len as usize == frame::stored_len(0) {
                self.frames().read(at, *len as usize, &mut bytes)?;
                let head = bytes.first_chunk::<HEADER_LEN>().map(Header::parse);
                if head.is_some_and(|head| head.is_ok_and(|head| stands_for_lost(&head))) {
                    return Ok(true);
                }
            }
            at += u64::from(*len);
        }
        Ok(false)
    }
}
