//! The archive: one file, appended to, never rewritten in place. Byte layout: FORMAT.md.
//!
//! Knows frames and records, not methods: what a tile's bytes mean is the codec's business.

mod examine;
mod format;
mod index;
mod lock;
mod lost;
pub(crate) mod parity;
mod part;
mod reader;
mod record;
mod recover;
mod reseal;
mod store;
mod traces;
mod upkeep;
mod walk;
mod writer;

pub(crate) use examine::Stray;
pub(crate) use format::{BLOB_PIECE, FORMAT_VERSION};
#[cfg(feature = "fuzzing")]
pub(crate) use format::{FOOTER_LEN, Footer};
#[cfg(feature = "fuzzing")]
pub(crate) use index::Index;
pub(crate) use index::{IndexEntry, VECTOR_MARK};
pub(crate) use lock::{refuse_existing, writable};
pub(crate) use lost::{Lost, is_placeholder};
pub(crate) use part::{Entry, FIRST_VARIANT, PartHead, PartLog, PartReader, PartWriter};
pub(crate) use reader::{Archive, Cut, Stored};
pub(crate) use record::{
    BlobSeal, Head, Item, Origin, Seal, ShiftRecord, SideFile, StoredShard, TensorSeal,
};
pub(crate) use recover::{Rescued, recover};
pub(crate) use reseal::{Rehash, Rehashed, TensorHashes};
pub(crate) use store::FrameStore;
pub(crate) use upkeep::{Upkeep, compact, remove};
#[cfg(feature = "fuzzing")]
pub(crate) use writer::entries;
pub(crate) use writer::{
    ArchiveWriter, Expected, Kept, KeptTile, Note, Place, SealNote, Sums, SurveyAt, TakesTiles,
    TileNote, TileSink,
};
