//! Fine-tuned checkpoints stored as compressed deltas against their base, in one appendable archive,
//! streamed tile by tile so that no tensor is ever resident.
//!
//! ```text
//! compress:  Checkpoint(base) ┐
//!                             ├ pair ─ survey ─ plan ┬ [ read → delta → codec → frame ] × workers ─ ordered ─ archive
//!            Checkpoint(ft)  ─┘                      └ permits bound the tiles alive
//! restore:   archive ─ [ frame → codec → base + delta ] × workers ─ ordered ─ checkpoint writer
//! ```
//!
//! Method decides, codec stores, kernel computes. A tour of the tree is in ARCHITECTURE.md, the bytes
//! of an archive in FORMAT.md.
//!
//! # A tour
//!
//! A made-up pair is compressed into an archive, looked at, read tensor by tensor, and restored:
//!
//! ```
//! use delta_stream::{
//!     BitDelta, CompressOptions, Method, PairShape, Resources, RestoreOptions, Silent, VariantReader,
//! };
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! # let dir = dir.path();
//! delta_stream::make_pair(dir, &PairShape::small().with_sizes(32, 48, 64, 1), 1)?;
//! let (base, ft, archive) = (dir.join("base"), dir.join("fine-tune"), dir.join("models.delta.zst"));
//!
//! // Two variants: one with loss, one bit for bit.
//! let options = CompressOptions::new(Method::BitDelta(BitDelta::default())).with_name("signs");
//! let report = delta_stream::compress(&ft, &base, &archive, &options, &Silent)?;
//! println!("{:.1} times smaller, relative error {:?}", report.ratio, report.relative_error);
//! let options = CompressOptions::new(Method::Lossless).with_name("exact");
//! delta_stream::append(&ft, &base, &archive, &options, &Silent)?;
//!
//! // What the archive holds.
//! for variant in &delta_stream::inspect(&archive, None, true)?.variants {
//!     for tensor in variant.tensor_list.iter().flatten() {
//!         println!("{} {}: {} bytes", variant.name, tensor.name, tensor.stored_bytes);
//!     }
//! }
//!
//! // One tensor, into memory of one's own.
//! let variant = VariantReader::open(&archive, Some("signs"))?;
//! let wanted = variant.tensors().iter().position(|t| t.name.ends_with("q_proj.weight"));
//! let wanted = wanted.ok_or("no such tensor")?;
//! let mut bytes = vec![0; variant.tensors()[wanted].n_bytes as usize];
//! variant.on(&base, &Resources::default())?.read(wanted, &mut bytes, &Silent)?;
//!
//! // Or all of them, as a checkpoint again: here with the fine-tune's own bits.
//! let options = RestoreOptions::default().with_name(Some("exact".into()));
//! delta_stream::restore(&archive, &base, &dir.join("back"), &options, &Silent)?;
//! for entry in std::fs::read_dir(&ft)? {
//!     let file = entry?.file_name();
//!     assert_eq!(std::fs::read(ft.join(&file))?, std::fs::read(dir.join("back").join(&file))?);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! A method of one's own is an implementation of [`CustomMethod`]; what it leaves needs no code of its own to be
//! read.
//!
//! # What stays
//!
//! Versions follow semantic versioning, as Cargo reads it. Before 1.0 the minor number stands for what breaks, the
//! patch number for what is added or mended.
//!
//! | part | what holds |
//! |---|---|
//! | this library | the items listed below. Structs and enums that may grow are `#[non_exhaustive]`: make them by their constructors and `with_` functions, and match with a last arm. Hidden items, and features other than `cli`, are for this package's own tests and tools |
//! | traits | [`CustomMethod`] and [`Observer`] are the caller's to implement: new functions of theirs come with a default |
//! | JSON of the program, and of reports that are serialised | fields keep name and meaning; new ones come, so readers pass over those they do not know. Order is for people |
//! | bytes of an archive | every archive that a release wrote is read by all later ones, to the same bits. New codes come, and an older reader refuses only the variants that have them. Two versions need not write the same archive of one input |
//! | exit codes | 0 done, 1 a difference, 2 usage, 3 checkpoint, 4 archive, 5 base, 6 input or output, 130 interrupted; one [`ErrorKind`] each |
//! | texts | errors, notes and tables are for people, and change |
//! | least version of Rust | may rise with a minor version |
#![deny(missing_docs)]

// What a user meets.
mod error;
mod inspect;
mod method;
mod pipeline;
mod report;
mod synthetic;
mod tensor;

// What it is made of.
mod archive;
mod checkpoint;
mod codec;
mod frame;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
#[doc(hidden)]
pub mod kernel;
mod pair;
mod survey;
mod wire;

#[cfg(feature = "fault-injection")]
#[doc(hidden)]
pub use checkpoint::faults;
pub use checkpoint::{
    Checkpoint, HubCache, IoMode, MapChoice, Shard, SideFile, SideFiles, SkippedFile, TensorInfo,
};
pub use error::{Error, ErrorKind, Missing, Result};
pub use method::{
    Allocation, Auto, BaseShift, BaseVector, BitDelta, Custom, CustomMethod, CustomTile, Dare,
    DeltaDct, DeltaDq, EtaRule, GroupIndex, MatrixRate, Method, Policy, Quality, RatePlan, Rates,
    Rest, Score, SignScale, Size, TraceOf, TraceReference, Tune, UltraDelta,
};
pub use pipeline::{
    Checksum, CompressOptions, DEFAULT_MAX_MEMORY, DeltaEncoding, ExportOptions, HfDelta, Observer,
    Parity, PartOptions, Peft, RecoverOptions, RepairOptions, Resources, RestoreOptions, Silent,
    Subset, TensorReader, UpkeepOptions, VariantReader, VerifyLevel, VerifyOptions, append,
    append_dry_run, compact, compact_with, compare, compress, compress_dry_run, compress_part,
    compress_part_dry_run, export_hf_delta, export_hf_delta_dry_run, export_peft,
    export_peft_dry_run, forecast, inspect, join, join_dry_run, make_parity, model_card, recover,
    remove, remove_with, repair, restore, space, space_for_dir, split, verify,
};
pub use report::{
    AdapterTensor, ArchiveSummary, BaseShiftReport, BaseShiftSummary, BaseVectorSummary,
    CompactReport, CompareReport, CompressForecast, CompressReport, Differing, DryRun,
    ExportForecast, Fault, Forecast, HfDeltaReport, JoinReport, JoinedArchive, LeftOut, Lost,
    ParityReport, ParityState, PartBits, PartReport, PeftReport, RecoverReport, RecoveredVariant,
    RemoveReport, RepairReport, RepairState, RestoreReport, Settled, Share, Space, Span, Split,
    SubsetReport, Survivors, TensorDifference, TensorSummary, VariantSummary, VerifyReport,
};
pub use synthetic::{PairForecast, PairShape, make_pair, make_pair_dry_run};
pub use tensor::{DType, Shape};
