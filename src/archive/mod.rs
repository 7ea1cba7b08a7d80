//! The archive: one file, appended to, never rewritten in place. Byte layout: FORMAT.md.
//!
//! Knows frames and records, not methods: what a tile's bytes mean is the codec's business.

mod format;
mod reader;
mod record;
mod upkeep;
mod writer;

pub(crate) use format::FORMAT_VERSION;
pub(crate) use reader::{Archive, Stored};
pub(crate) use record::{BlobSeal, Head, Item, Origin, Seal, SideFile, StoredShard, TensorSeal};
pub(crate) use upkeep::{Upkeep, compact, remove};
pub(crate) use writer::ArchiveWriter;
