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
//! ```no_run
//! use delta_stream::{CompressOptions, DeltaDct, Method, RestoreOptions, Silent};
//! use std::path::Path;
//!
//! # fn main() -> delta_stream::Result<()> {
//! let (ft, base, archive) = (Path::new("ft"), Path::new("base"), Path::new("ft.delta.zst"));
//! let options = CompressOptions::new(Method::DeltaDct(DeltaDct::default()));
//! let report = delta_stream::compress(ft, base, archive, &options, &Silent)?;
//! println!("{:.1} times smaller", report.ratio);
//! delta_stream::restore(archive, base, Path::new("back"), &RestoreOptions::default(), &Silent)?;
//! # Ok(())
//! # }
//! ```
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
pub use error::{Error, ErrorKind, Result};
pub use method::{
    Allocation, Auto, BaseShift, BaseVector, BitDelta, Dare, DeltaDct, DeltaDq, EtaRule,
    GroupIndex, MatrixRate, Method, Policy, Quality, RatePlan, Rates, Rest, Score, SignScale, Size,
    TraceOf, TraceReference, Tune, UltraDelta,
};
pub use pipeline::{
    Checksum, CompressOptions, DEFAULT_MAX_MEMORY, DeltaEncoding, ExportOptions, HfDelta, Observer,
    Parity, PartOptions, Peft, RecoverOptions, RepairOptions, Resources, RestoreOptions, Silent,
    Subset, TensorReader, UpkeepOptions, VariantReader, VerifyLevel, VerifyOptions, append,
    compact, compact_with, compare, compress, compress_part, export_hf_delta, export_peft,
    forecast, inspect, join, make_parity, model_card, recover, remove, remove_with, repair,
    restore, split, verify,
};
pub use report::{
    AdapterTensor, ArchiveSummary, BaseShiftReport, BaseShiftSummary, BaseVectorSummary,
    CompactReport, CompareReport, CompressReport, Differing, Fault, Forecast, HfDeltaReport,
    JoinReport, JoinedArchive, LeftOut, Lost, ParityReport, ParityState, PartBits, PartReport,
    PeftReport, RecoverReport, RecoveredVariant, RemoveReport, RepairReport, RepairState,
    RestoreReport, Settled, Share, Span, Split, SubsetReport, Survivors, TensorDifference,
    TensorSummary, VariantSummary, VerifyReport,
};
pub use synthetic::{PairShape, make_pair};
pub use tensor::{DType, Shape};
