//! The verbs as graphs of stages: what is read, worked on in parallel, and written in order.

mod base;
mod base_shift;
mod budget;
mod calibration;
mod choose;
mod compact;
mod compare;
mod compress;
mod decode;
mod dry_run;
mod encode;
mod export;
mod faults;
mod forecast;
mod frames;
mod identity;
mod inputs;
mod inspect;
mod known;
mod merge;
mod options;
mod ordered;
mod overhead;
mod parity;
mod parts;
mod passes;
mod read;
mod read_ahead;
mod recover;
mod remove;
mod repair;
mod restore;
mod schedule;
mod select;
mod sink;
mod size;
mod spares;
mod stored_delta;
mod strip;
mod subset;
mod trial;
mod verify;

pub use budget::DEFAULT_MAX_MEMORY;
pub use compact::{compact, compact_with};
pub use compare::compare;
pub use compress::{append, compress};
pub use dry_run::{append_dry_run, compress_dry_run, space, space_for_dir};
pub use export::{
    Checksum, DeltaEncoding, ExportOptions, HfDelta, Peft, export_hf_delta,
    export_hf_delta_dry_run, export_peft, export_peft_dry_run, model_card,
};
pub use forecast::forecast;
#[cfg(feature = "fuzzing")]
pub(crate) use identity::mask_place;
pub use inspect::inspect;
pub use options::{
    CompressOptions, Observer, RecoverOptions, RepairOptions, Resources, RestoreOptions, Silent,
    Subset, UpkeepOptions, VerifyLevel, VerifyOptions,
};
pub(crate) use ordered::run_parallel;
pub use parity::{Parity, make_parity};
pub use parts::{PartOptions, compress_part, compress_part_dry_run, join, join_dry_run, split};
pub use read::{TensorReader, VariantReader};
pub use recover::recover;
pub use remove::{remove, remove_with};
pub use repair::repair;
pub use restore::restore;
pub use verify::verify;
