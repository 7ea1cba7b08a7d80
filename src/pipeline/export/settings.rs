//! What a caller may choose of an export.

use crate::error::{Error, Result};
use crate::method::Policy;
use crate::pipeline::export::check_base_model;
use crate::pipeline::options::Resources;
use crate::tensor::DType;

/// What is exported, whatever the form.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct ExportOptions {
    /// Which variant; needed if the archive has more than one.
    pub name: Option<String>,
    /// The base's name on a hub, ORG/NAME, for model cards and adapters; left out of them if not given.
    pub base_model: Option<String>,
    /// Memory, threads, mapping.
    pub resources: Resources,
    /// Whether an existing directory may be replaced.
    pub force: bool,
}

impl ExportOptions {
    /// Chooses the variant.
    #[must_use]
    pub fn with_name(mut self, name: Option<String>) -> Self {
        self.name = name;
        self
    }

    /// Names the base as a hub does.
    #[must_use]
    pub fn with_base_model(mut self, name: Option<String>) -> Self {
        self.base_model = name;
        self
    }

    /// Sets memory, threads and mapping.
    #[must_use]
    pub fn with_resources(mut self, resources: Resources) -> Self {
        self.resources = resources;
        self
    }

    /// Allows an existing directory to be replaced.
    #[must_use]
    pub fn with_force(mut self, force: bool) -> Self {
        self.force = force;
        self
    }

    pub(super) fn validate(&self) -> Result<()> {
        if self.resources.threads == 0 {
            return Err(Error::invalid_argument("--threads 0 is out of range; it takes 1 or more"));
        }
        self.base_model.as_deref().map_or(Ok(()), check_base_model)
    }
}

/// How the bytes of a changed tensor are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeltaEncoding {
    /// New xor old. The smallest; to be applied once.
    #[default]
    Xor,
    /// How many bytes changed, their places and their new values. May be applied again. Tensors of 4 GiB and
    /// more have no places.
    Overwrite,
}

impl DeltaEncoding {
    /// As the files spell it.
    pub fn name(self) -> &'static str {
        match self {
            DeltaEncoding::Xor => "xor",
            DeltaEncoding::Overwrite => "overwrite",
        }
    }
}

/// What a patched tensor is checked by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Checksum {
    /// 128 bits of xxh3.
    #[default]
    Xxh3,
    /// Adler-32, the only one that ModelExpress takes.
    Adler32,
}

impl Checksum {
    /// As the files spell it.
    pub fn name(self) -> &'static str {
        match self {
            Checksum::Xxh3 => "xxh3-128",
            Checksum::Adler32 => "adler32",
        }
    }
}

/// A step of weights as receivers of weight updates take it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct HfDelta {
    /// Number of the version that is written, 1 to 999,999. Default 1.
    pub version: u32,
    /// Number of the version that the base is, below `version`. Default: the one before.
    pub base_version: Option<u32>,
    /// Default: xor.
    pub encoding: DeltaEncoding,
    /// Default: xxh3-128.
    pub checksum: Checksum,
    /// Whether to leave out tensors that the base has not, or has in another dtype or shape, and that receivers
    /// cannot take. Default: no, they are refused.
    pub leave_out_new: bool,
}

impl Default for HfDelta {
    fn default() -> Self {
        let (encoding, checksum) = (DeltaEncoding::default(), Checksum::default());
        Self { version: 1, base_version: None, encoding, checksum, leave_out_new: false }
    }
}

impl HfDelta {
    /// Sets the number of the version.
    #[must_use]
    pub fn with_version(mut self, version: u32) -> Self {
        self.version = version;
        self
    }

    /// Sets the number of the version that the base is.
    #[must_use]
    pub fn with_base_version(mut self, version: Option<u32>) -> Self {
        self.base_version = version;
        self
    }

    /// Sets how changes are told.
    #[must_use]
    pub fn with_encoding(mut self, encoding: DeltaEncoding) -> Self {
        self.encoding = encoding;
        self
    }

    /// Sets what patched tensors are checked by.
    #[must_use]
    pub fn with_checksum(mut self, checksum: Checksum) -> Self {
        self.checksum = checksum;
        self
    }

    /// Leaves out what receivers cannot take.
    #[must_use]
    pub fn with_leave_out_new(mut self, leave_out: bool) -> Self {
        self.leave_out_new = leave_out;
        self
    }

    /// The number of the version that the base is.
    pub(super) fn base_number(&self) -> u32 {
        self.base_version.unwrap_or(self.version.saturating_sub(1))
    }

    pub(super) fn validate(&self) -> Result<()> {
        let (version, base) = (self.version, self.base_number());
        if !(1..=999_999).contains(&version) {
            let text = format!("--version {version} is out of range; it takes 1 to 999999");
            return Err(Error::invalid_argument(text));
        }
        if base >= version {
            let text = format!("--base-version {base} is not below --version {version}");
            return Err(Error::invalid_argument(text));
        }
        Ok(())
    }
}

/// A low-rank adapter.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Peft {
    /// Directions of each matrix, 1 to 1024. Default 16.
    pub rank: usize,
    /// F32, BF16 or F16. Default F32.
    pub dtype: DType,
    /// Which weights are taken of those with two dimensions. Default: linear layers inside blocks.
    pub policy: Policy,
}

impl Default for Peft {
    fn default() -> Self {
        Self { rank: 16, dtype: DType::F32, policy: Policy::default() }
    }
}

impl Peft {
    /// Sets the rank.
    #[must_use]
    pub fn with_rank(mut self, rank: usize) -> Self {
        self.rank = rank;
        self
    }

    /// Sets the dtype.
    #[must_use]
    pub fn with_dtype(mut self, dtype: DType) -> Self {
        self.dtype = dtype;
        self
    }

    /// Sets which weights are taken.
    #[must_use]
    pub fn with_policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    pub(super) fn validate(&self) -> Result<()> {
        if !(1..=1024).contains(&self.rank) {
            let text = format!("--rank {} is out of range; it takes 1 to 1024", self.rank);
            return Err(Error::invalid_argument(text));
        }
        if !matches!(self.dtype, DType::F32 | DType::BF16 | DType::F16) {
            let name = self.dtype.name();
            let text = format!("--dtype {name} is no dtype of adapters; it takes f32, bf16 or f16");
            return Err(Error::invalid_argument(text));
        }
        Ok(())
    }
}
