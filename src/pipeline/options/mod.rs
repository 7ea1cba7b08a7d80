//! What a caller may choose, and how it hears of progress.

mod stored;

use std::path::{Path, PathBuf};

use crate::archive::VECTOR_MARK;
use crate::checkpoint::{HubCache, MapChoice};
use crate::error::{Error, Result};
use crate::method::{BaseShift, Method, Policy, Rest};
use crate::pipeline::budget::{DEFAULT_MAX_MEMORY, default_threads};
pub use crate::pipeline::options::stored::{
    RecoverOptions, RepairOptions, RestoreOptions, Subset, UpkeepOptions, VerifyLevel,
    VerifyOptions,
};
use crate::pipeline::parity::Parity;

/// What a run may use.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Resources {
    /// Most bytes of memory, mapped pages included. Default [`DEFAULT_MAX_MEMORY`].
    pub max_memory: u64,
    /// Worker threads, 1 or more. Default: one a core. Never changes any byte written.
    pub threads: usize,
    /// Whether checkpoints may be mapped. Default: never, they are read.
    pub map: MapChoice,
    /// Where checkpoints that are given by their names on the Hugging Face Hub are looked up. Default:
    /// nowhere, they are local paths.
    pub hub: Option<HubCache>,
}

impl Default for Resources {
    fn default() -> Self {
        let (max_memory, threads) = (DEFAULT_MAX_MEMORY, default_threads());
        Self { max_memory, threads, map: MapChoice::never(), hub: None }
    }
}

impl Resources {
    /// Sets the memory limit in bytes.
    #[must_use]
    pub fn with_max_memory(mut self, bytes: u64) -> Self {
        self.max_memory = bytes;
        self
    }

    /// Sets the number of worker threads.
    #[must_use]
    pub fn with_threads(mut self, threads: usize) -> Self {
        self.threads = threads;
        self
    }

    /// Chooses whether checkpoints may be mapped.
    #[must_use]
    pub fn with_map(mut self, map: MapChoice) -> Self {
        self.map = map;
        self
    }

    /// Chooses where names on the Hugging Face Hub are looked up.
    #[must_use]
    pub fn with_hub(mut self, hub: Option<HubCache>) -> Self {
        self.hub = hub;
        self
    }

    /// The path of the checkpoint that an input means.
    pub(crate) fn locate(&self, input: &Path) -> Result<PathBuf> {
        self.hub.as_ref().map_or_else(|| Ok(input.to_owned()), |hub| hub.locate(input))
    }
}

/// How a fine-tune is compressed.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct CompressOptions {
    /// The variant's name in the archive; 1 to 255 bytes without control characters and without `@` in
    /// front. Default: the name of the fine-tune's directory or file, or of its model in a Hub cache.
    pub name: Option<String>,
    /// What decides and what is lost.
    pub method: Method,
    /// Whether the base is shifted first (DBMS), and how; with a lossy method alone. Default: no.
    pub base_shift: Option<BaseShift>,
    /// Which tensors the method may touch.
    pub policy: Policy,
    /// Statistics of the layers' inputs; only for methods with loss. A safetensors file with, for a
    /// weight `[out, in]` called N, a tensor called N, F32 or F64: the inputs' second moments, mean of
    /// x x^T `[in, in]`, or their diagonal, mean of x_j^2 `[in]`. With it the error at the layers'
    /// outputs is reported, and what is not given of a DeltaDQ group and of a base shift's lambda and
    /// eta is chosen by it. A matrix is read
    /// again for every tile and takes `in / 2` products an element: for widths of some thousands
    /// take the diagonal. Not stored. Default: none.
    pub calibrate: Option<PathBuf>,
    /// Seed of whatever a method draws. Default 0. Stored.
    pub seed: u64,
    /// Memory, threads, mapping.
    pub resources: Resources,
    /// Whether an existing archive may be replaced.
    pub force: bool,
    /// Whether to go on with what a run that was cut off left beside the archive, and to leave what is
    /// done if this one fails or is interrupted. What is written is the same. Default: no, what is left
    /// is removed.
    pub resume: bool,
    /// How much parity the archive has beside it once the variant is committed. Default: an archive that is
    /// appended to keeps as much as it has, a new one has none.
    pub parity: Option<Parity>,
}

impl CompressOptions {
    /// The defaults with this method.
    pub fn new(method: Method) -> Self {
        Self {
            name: None,
            method,
            base_shift: None,
            policy: Policy::default(),
            calibrate: None,
            seed: 0,
            resources: Resources::default(),
            force: false,
            resume: false,
            parity: None,
        }
    }

    /// Sets how much parity the archive has.
    #[must_use]
    pub fn with_parity(mut self, parity: Option<Parity>) -> Self {
        self.parity = parity;
        self
    }

    /// Names the variant.
    #[must_use]
    pub fn with_name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Sets memory, threads and mapping.
    #[must_use]
    pub fn with_resources(mut self, resources: Resources) -> Self {
        self.resources = resources;
        self
    }

    /// Shifts the base before the delta is taken.
    #[must_use]
    pub fn with_base_shift(mut self, shift: Option<BaseShift>) -> Self {
        self.base_shift = shift;
        self
    }

    /// Sets the choice of lossy tensors.
    #[must_use]
    pub fn with_policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// Sets the file of statistics.
    #[must_use]
    pub fn with_calibrate(mut self, file: Option<PathBuf>) -> Self {
        self.calibrate = file;
        self
    }

    /// Sets the seed.
    #[must_use]
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Allows an existing archive to be replaced.
    #[must_use]
    pub fn with_force(mut self, force: bool) -> Self {
        self.force = force;
        self
    }

    /// Goes on with what a run that was cut off left.
    #[must_use]
    pub fn with_resume(mut self, resume: bool) -> Self {
        self.resume = resume;
        self
    }

    /// All settings that decide what is stored how, as typed.
    pub(crate) fn settings(&self) -> Vec<(String, String)> {
        let mut settings = self.method.settings();
        if self.method.lossy().is_some() {
            settings.extend(self.policy.settings());
            settings.extend(self.base_shift.iter().flat_map(BaseShift::settings));
        }
        settings
    }

    pub(crate) fn validate(&self) -> Result<()> {
        if self.resources.threads == 0 {
            return Err(Error::invalid_argument("--threads 0 is out of range; it takes 1 or more"));
        }
        if self.policy.rest == Rest::Base && self.method.lossy().is_none() {
            let text = "--rest base drops what a method with loss leaves alone; --method lossless \
                        keeps every tensor";
            return Err(Error::invalid_argument(text));
        }
        if let Some(shift) = &self.base_shift {
            if self.method.lossy().is_none() {
                let text =
                    "--base-shift needs a lossy method; --method lossless has nothing to shift";
                return Err(Error::invalid_argument(text));
            }
            if self.method.lossy().is_some_and(|m| m.leaves_values()) {
                let text = "a base shift scales what a method stores; a custom method leaves values, \
                            which are stored as they are: compress it without a base shift";
                return Err(Error::invalid_argument(text));
            }
            shift.validate()?;
        }
        if self.calibrate.is_some() && self.method.lossy().is_none() {
            let text = "--calibrate weighs what is lost; --method lossless loses nothing";
            return Err(Error::invalid_argument(text));
        }
        self.method.validate()
    }
}

/// Says whether `name` can name a variant.
pub(crate) fn check_name(name: &str) -> Result<()> {
    let marked = name.starts_with(VECTOR_MARK);
    if name.is_empty() || name.len() > 255 || name.chars().any(char::is_control) || marked {
        return Err(Error::invalid_argument(format!(
            "variant name {name:?} is not 1 to 255 bytes without control characters and without \
             {VECTOR_MARK} in front; choose another with --name"
        )));
    }
    Ok(())
}

/// Hears of progress and may end a run.
pub trait Observer: Sync {
    /// What follows is progress of this stage of the work: one or two words, as in `survey` or `encode`. A run has
    /// one or more, and may come back to one. By default nobody cares.
    fn stage(&self, name: &'static str) {
        let _ = name;
    }

    /// So many of so many bytes of input are done, in this stage or in several together.
    fn progress(&self, done: u64, total: u64);

    /// Something a person should know that is no error.
    fn note(&self, text: &str);

    /// Whether the run should stop; asked at every tile.
    fn is_cancelled(&self) -> bool;
}

impl dyn Observer + '_ {
    /// Ends the run if it should stop.
    ///
    /// # Errors
    /// `Interrupted` if it should.
    pub(crate) fn check(&self) -> Result<()> {
        if self.is_cancelled() { Err(Error::interrupted()) } else { Ok(()) }
    }
}

/// Says nothing and never stops.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Observer for Silent {
    fn progress(&self, _done: u64, _total: u64) {}
    fn note(&self, _text: &str) {}
    fn is_cancelled(&self) -> bool {
        false
    }
}
