//! The archive: one file, appended to, never rewritten in place. Byte layout: FORMAT.md.
//!
//! Knows frames and records, not methods: what a tile's bytes mean is the codec's business.

mod format;
mod index;
mod lock;
mod reader;
mod record;
mod store;
mod upkeep;
mod writer;

pub(crate) use format::FORMAT_VERSION;
#[cfg(feature = "fuzzing")]
pub(crate) use format::{FOOTER_LEN, Footer};
#[cfg(feature = "fuzzing")]
pub(crate) use index::Index;
pub(crate) use index::VECTOR_MARK;
pub(crate) use reader::{Archive, Stored};
pub(crate) use record::{
    BlobSeal, Head, Item, Origin, Seal, ShiftRecord, SideFile, StoredShard, TensorSeal,
};
pub(crate) use store::FrameStore;
pub(crate) use upkeep::{Upkeep, compact, remove};
pub(crate) use writer::{ArchiveWriter, KeptTensor, Sums};
