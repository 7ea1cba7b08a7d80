//! What a caller may choose of a stored archive: what is restored, verified, recovered or repaired, and how far.

use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::pipeline::options::Resources;
use crate::pipeline::parity::Parity;

/// What is restored, and where.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct RestoreOptions {
    /// Which variant; needed if the archive has more than one.
    pub name: Option<String>,
    /// Globs of tensor names; empty for all. A selection is written as a checkpoint of its own.
    pub tensors: Vec<String>,
    /// Most bytes of tensor data a shard; `None` keeps the fine-tune's own shards, byte for byte.
    pub max_shard_size: Option<u64>,
    /// Memory, threads, mapping.
    pub resources: Resources,
    /// Whether an existing directory may be replaced.
    pub force: bool,
    /// Whether to keep the whole shards that a run which was cut off left beside the output, and to leave
    /// those that are done if this one fails or is interrupted. Default: no, what is left is removed.
    pub resume: bool,
    /// Whether only to check all that can be checked, and to say what would be written. Default: no.
    pub dry_run: bool,
}

impl RestoreOptions {
    /// Writes nothing.
    #[must_use]
    pub fn with_dry_run(mut self, dry_run: bool) -> Self {
        self.dry_run = dry_run;
        self
    }

    /// Chooses the variant.
    #[must_use]
    pub fn with_name(mut self, name: Option<String>) -> Self {
        self.name = name;
        self
    }

    /// Chooses tensors by globs.
    #[must_use]
    pub fn with_tensors(mut self, globs: Vec<String>) -> Self {
        self.tensors = globs;
        self
    }

    /// Cuts the checkpoint into shards of at most so many bytes.
    #[must_use]
    pub fn with_max_shard_size(mut self, bytes: Option<u64>) -> Self {
        self.max_shard_size = bytes;
        self
    }

    /// Sets memory, threads and mapping.
    #[must_use]
    pub fn with_resources(mut self, resources: Resources) -> Self {
        self.resources = resources;
        self
    }

    /// Goes on with what a run that was cut off left.
    #[must_use]
    pub fn with_resume(mut self, resume: bool) -> Self {
        self.resume = resume;
        self
    }

    /// Allows an existing directory to be replaced.
    #[must_use]
    pub fn with_force(mut self, force: bool) -> Self {
        self.force = force;
        self
    }
}

/// How much of an archive a verify looks at.
#[non_exhaustive]
#[derive(Debug, Clone, Default, PartialEq)]
pub enum VerifyLevel {
    /// Footers, the index, every head and seal, and every frame's header at its place.
    Structure,
    /// The structure, and a chosen share of the frames.
    Subset(Subset),
    /// Every frame: its checksums, and that it expands.
    #[default]
    Frames,
    /// Every frame, and every tensor decoded against this base and held to its stored hash.
    Decode(PathBuf),
}

/// Which frames a partial verify reads.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Subset {
    /// So many percent of them, above 0 and at most 100, rounded up to whole frames, drawn at random.
    Percent {
        /// The share.
        percent: f64,
        /// The same seed draws the same frames of the same archive.
        seed: u64,
    },
    /// One of so many groups, counted from 1: as many runs as there are groups read every frame once.
    Group {
        /// Which group, 1 to `of`.
        n: u32,
        /// How many there are.
        of: u32,
    },
}

impl Subset {
    pub(crate) fn validate(&self) -> Result<()> {
        let (fits, text) = match *self {
            Subset::Percent { percent, .. } => {
                (percent > 0.0 && percent <= 100.0, format!("{percent}%"))
            }
            Subset::Group { n, of } => ((1..=of).contains(&n), format!("{n}/{of}")),
        };
        if fits {
            return Ok(());
        }
        Err(Error::invalid_argument(format!(
            "{text} is no share of an archive; it takes a percentage above 0% and up to 100%, or n/t \
             with n from 1 to t"
        )))
    }
}

/// What is verified, and how far.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct VerifyOptions {
    /// Only this variant; `None` for the whole file.
    pub name: Option<String>,
    /// How much is looked at. Default: every frame.
    pub level: VerifyLevel,
    /// Memory, threads, mapping.
    pub resources: Resources,
}

impl VerifyOptions {
    /// Chooses one variant.
    #[must_use]
    pub fn with_name(mut self, name: Option<String>) -> Self {
        self.name = name;
        self
    }

    /// Chooses how much is looked at.
    #[must_use]
    pub fn with_level(mut self, level: VerifyLevel) -> Self {
        self.level = level;
        self
    }

    /// Sets memory, threads and mapping.
    #[must_use]
    pub fn with_resources(mut self, resources: Resources) -> Self {
        self.resources = resources;
        self
    }
}

/// How a damaged archive is recovered.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct RecoverOptions {
    /// The base of the variants: with it lost seals are made anew from what their frames decode to.
    pub base: Option<PathBuf>,
    /// Memory, threads, mapping.
    pub resources: Resources,
    /// Whether an existing file may be replaced.
    pub force: bool,
    /// Whether only to check all that can be checked, and to say what would be written. Default: no.
    pub dry_run: bool,
}

impl RecoverOptions {
    /// Writes nothing.
    #[must_use]
    pub fn with_dry_run(mut self, dry_run: bool) -> Self {
        self.dry_run = dry_run;
        self
    }

    /// Sets the base.
    #[must_use]
    pub fn with_base(mut self, base: Option<PathBuf>) -> Self {
        self.base = base;
        self
    }

    /// Sets memory, threads and mapping.
    #[must_use]
    pub fn with_resources(mut self, resources: Resources) -> Self {
        self.resources = resources;
        self
    }

    /// Allows an existing file to be replaced.
    #[must_use]
    pub fn with_force(mut self, force: bool) -> Self {
        self.force = force;
        self
    }
}

/// How an archive is changed by `remove` and `compact`.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct UpkeepOptions {
    /// How much parity it has beside it afterwards. Default: as much as before.
    pub parity: Option<Parity>,
    /// Memory and threads.
    pub resources: Resources,
    /// Whether only to check all that can be checked, and to say what would be written. Default: no.
    pub dry_run: bool,
}

impl UpkeepOptions {
    /// Writes nothing.
    #[must_use]
    pub fn with_dry_run(mut self, dry_run: bool) -> Self {
        self.dry_run = dry_run;
        self
    }

    /// Sets how much parity the archive has.
    #[must_use]
    pub fn with_parity(mut self, parity: Option<Parity>) -> Self {
        self.parity = parity;
        self
    }

    /// Sets memory and threads.
    #[must_use]
    pub fn with_resources(mut self, resources: Resources) -> Self {
        self.resources = resources;
        self
    }
}

/// How a damaged archive is repaired.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct RepairOptions {
    /// Where the mended archive is written; `None` for the place of the damaged one.
    pub output: Option<PathBuf>,
    /// Whether only to say what is damaged and whether it can be repaired.
    pub dry_run: bool,
    /// Memory and threads.
    pub resources: Resources,
    /// Whether an existing file at the output may be replaced.
    pub force: bool,
}

impl RepairOptions {
    /// Writes the mended archive there.
    #[must_use]
    pub fn with_output(mut self, output: Option<PathBuf>) -> Self {
        self.output = output;
        self
    }

    /// Writes nothing.
    #[must_use]
    pub fn with_dry_run(mut self, dry_run: bool) -> Self {
        self.dry_run = dry_run;
        self
    }

    /// Sets memory and threads.
    #[must_use]
    pub fn with_resources(mut self, resources: Resources) -> Self {
        self.resources = resources;
        self
    }

    /// Allows an existing file to be replaced.
    #[must_use]
    pub fn with_force(mut self, force: bool) -> Self {
        self.force = force;
        self
    }
}
