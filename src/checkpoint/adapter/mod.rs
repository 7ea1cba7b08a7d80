//! PEFT's LoRA adapters: fine-tunes of which only the low-rank change is stored, and whole tensors that take
//! the place of the base's. Their tensors are formed from base and adapter as they are read, range by range
//! ([`merged`]); the arithmetic is [`crate::kernel::adapted`]'s.

mod config;
mod keys;
mod merged;
mod patterns;

use std::collections::BTreeMap;
use std::path::Path;

use crate::checkpoint::discover::{Found, INDEX_NAME, SINGLE_NAME};
use crate::checkpoint::foreign::{Foreign, quoted};
use crate::checkpoint::names::shown;
use crate::checkpoint::side::{self, SideFiles};
use crate::checkpoint::{Checkpoint, TensorInfo};
use crate::error::{Error, Result};
use crate::tensor::DType;

use config::Config;
use keys::Key;
pub(super) use merged::{Merge, Merged};

const CONFIG_NAME: &str = "adapter_config.json";
const WEIGHTS_NAME: &str = "adapter_model.safetensors";
const TORCH_NAME: &str = "adapter_model.bin";

/// Whether this is the directory of an adapter, and not of a whole checkpoint that one lies beside.
pub(crate) fn is_adapter(path: &Path) -> bool {
    let is_there = |name: &str| path.join(name).exists();
    let has_weights = is_there(WEIGHTS_NAME) || is_there(TORCH_NAME);
    is_there(CONFIG_NAME) && has_weights && !is_there(SINGLE_NAME) && !is_there(INDEX_NAME)
}

/// An adapter held against the base that it is for.
#[derive(Debug)]
pub(crate) struct Adapter {
    checkpoint: Checkpoint,
    /// In the order of the base's tensors, which is that of their places.
    updates: Vec<Update>,
    config_hash: u64,
}

/// What becomes of one tensor of the base.
#[derive(Debug)]
struct Update {
    /// Its place in the base: shard, and bytes of it.
    shard: usize,
    begin: u64,
    end: u64,
    dtype: DType,
    /// The adapter's tensor that takes its place.
    whole: Option<usize>,
    /// What is added to either.
    product: Option<LowRank>,
}

/// A scaled product of two tensors of the adapter.
#[derive(Debug)]
struct LowRank {
    a: usize,
    b: usize,
    rank: usize,
    /// Shape of the base's tensor.
    n_rows: usize,
    n_cols: usize,
    /// Whether the weight lies as `[in, out]`.
    is_turned: bool,
    scale: f64,
}

/// The factors of one module, as they are found.
#[derive(Debug, Default)]
struct Factors {
    a: Option<usize>,
    b: Option<usize>,
    of_embedding: bool,
}

impl Adapter {
    /// Opens the adapter in directory `dir` against `base`; reads headers alone.
    ///
    /// # Errors
    /// `InvalidCheckpoint` for all but a plain LoRA whose every tensor has its place in the base.
    pub(super) fn open(dir: &Path, base: &Checkpoint) -> Result<Self> {
        if !dir.join(WEIGHTS_NAME).exists() {
            return Err(Foreign::Torch.refusal(&dir.join(TORCH_NAME)));
        }
        let config = Config::read(&dir.join(CONFIG_NAME))?;
        let (root, files) = (dir.to_owned(), vec![WEIGHTS_NAME.to_owned()]);
        let checkpoint =
            Checkpoint::from_found(Found { root, owns_root: true, files, index: None })?;
        let found = Matcher { config: &config, checkpoint: &checkpoint, base }.updates()?;
        let updates = found.into_values().collect();
        Ok(Self { checkpoint, updates, config_hash: config.hash })
    }

    /// Its own files.
    pub(crate) fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// Hash of its configuration.
    pub(crate) fn config_hash(&self) -> u64 {
        self.config_hash
    }

    /// Hashes of its configuration and of the state of its weights' file.
    pub(super) fn state(&self) -> [u64; 2] {
        [self.config_hash, self.checkpoint.state()]
    }

    /// What a person should know of it.
    pub(crate) fn note(&self) -> String {
        let n_whole = self.updates.iter().filter(|u| u.whole.is_some()).count();
        let whole = match n_whole {
            0 => String::new(),
            n => format!(" and {n} whole ones"),
        };
        format!(
            "the fine-tune is the base with a LoRA adapter merged into it ({} changed tensors{whole}); the \
             adapter itself has {} bytes",
            self.updates.iter().filter(|u| u.product.is_some()).count(),
            self.checkpoint.total_bytes()
        )
    }

    /// The base's side files with the adapter's tokenizer: what loads as the merged model.
    pub(super) fn side_files(&self, base: SideFiles) -> Result<SideFiles> {
        Ok(side::with_tokenizer(base, side::list(self.checkpoint.root())?))
    }
}

/// Finds the places of an adapter's tensors in a base.
struct Matcher<'a> {
    config: &'a Config,
    checkpoint: &'a Checkpoint,
    base: &'a Checkpoint,
}

impl Matcher<'_> {
    /// All updates, by the place of their tensor in the base.
    fn updates(&self) -> Result<BTreeMap<usize, Update>> {
        let mut out = BTreeMap::new();
        let mut modules: BTreeMap<&str, Factors> = BTreeMap::new();
        for (i, t) in self.checkpoint.tensors().iter().enumerate() {
            let key =
                keys::parse(&t.name).map_err(|what| self.refused(t, &format!("is of {what}")))?;
            match key {
                Key::Factor { module, is_b, of_embedding } => {
                    let factors = modules.entry(module).or_default();
                    factors.of_embedding |= of_embedding;
                    let place = if is_b { &mut factors.b } else { &mut factors.a };
                    if place.replace(i).is_some() {
                        return Err(self.refused(t, "is there under two adapters' names"));
                    }
                }
                Key::Whole { name } => {
                    let target = self.target(t, &name)?;
                    let (idx, update) = self.whole(i, target)?;
                    if out.insert(idx, update).is_some() {
                        return Err(self.refused(t, "is there under two adapters' names"));
                    }
                }
            }
        }
        for (module, factors) in &modules {
            let (idx, product) = self.product(module, factors)?;
            out.entry(idx).or_insert_with(|| self.update(idx)).product = Some(product);
        }
        Ok(out)
    }

    fn update(&self, idx: usize) -> Update {
        let t = &self.base.tensors()[idx];
        let (begin, end) = (t.offset, t.offset + t.n_bytes);
        Update { shard: t.shard, begin, end, dtype: t.dtype, whole: None, product: None }
    }

    /// The base's tensor of this name, which the adapter's tensor `t` is for.
    fn target(&self, t: &TensorInfo, name: &str) -> Result<usize> {
        keys::find(self.base, name).ok_or_else(|| {
            let trained = self.config.base.as_deref().map(shown);
            let trained = trained.map_or("which it does not name".into(), |name| name.to_string());
            Error::invalid_checkpoint(format!(
                "{}: tensor {} has no place in the base {}, which has no tensor {}; give the base that \
                 the adapter was trained on ({trained}), or merge them with PEFT: {}",
                self.file(),
                shown(&t.name),
                self.base.root().display(),
                shown(name),
                merge_command(self.checkpoint.root())
            ))
        })
    }

    fn whole(&self, i: usize, idx: usize) -> Result<(usize, Update)> {
        let (t, b) = (&self.checkpoint.tensors()[i], &self.base.tensors()[idx]);
        if t.shape != b.shape {
            let why = format!("has shape {:?} where the base's has {:?}", t.shape, b.shape);
            return Err(self.refused(t, &why));
        }
        if t.dtype != b.dtype && !(is_number(t.dtype) && is_number(b.dtype)) {
            let why = format!("is {} where the base's is {}", t.dtype.name(), b.dtype.name());
            return Err(self.refused(t, &why));
        }
        Ok((idx, Update { whole: Some(i), ..self.update(idx) }))
    }

    fn product(&self, module: &str, factors: &Factors) -> Result<(usize, LowRank)> {
        let tensors = self.checkpoint.tensors();
        let (Some(a), Some(b)) = (factors.a, factors.b) else {
            let one = factors.a.or(factors.b).map_or(&tensors[0], |i| &tensors[i]);
            return Err(self.refused(one, "is without its other factor"));
        };
        let (a_info, b_info) = (&tensors[a], &tensors[b]);
        let idx = self.target(a_info, &format!("{module}.weight"))?;
        let weight = &self.base.tensors()[idx];
        if let Some(t) = [a_info, b_info, weight].into_iter().find(|t| !is_number(t.dtype)) {
            let why = format!("is {}; products are of F64, F32, F16 and BF16", t.dtype.name());
            return Err(self.refused(t, &why));
        }
        let shapes = (&a_info.shape[..], &b_info.shape[..], &weight.shape[..]);
        let (&[rank, n_in], &[n_out, b_rank], &[n_rows, n_cols]) = shapes else {
            let why = "belongs to a layer whose weight is no matrix, like a convolution's";
            return Err(self.refused(a_info, why));
        };
        let (plain, turned) =
            ((n_out, n_in) == (n_rows, n_cols), (n_in, n_out) == (n_rows, n_cols));
        if rank != b_rank || !(turned || plain && !factors.of_embedding) {
            let why = format!(
                "{:?} and its other factor {:?} make no {:?}, as the base's {} has",
                a_info.shape, b_info.shape, weight.shape, weight.name
            );
            return Err(self.refused(a_info, &why));
        }
        if self.config.rank(module) != rank as f64 {
            let why =
                format!("has rank {rank}, its configuration says {}", self.config.rank(module));
            return Err(self.refused(a_info, &why));
        }
        let is_turned = turned && (!plain || factors.of_embedding || self.config.fan_in_fan_out);
        let [rank, n_rows, n_cols] = [rank, n_rows, n_cols].map(|n| n as usize);
        let scale = self.config.scale(module);
        Ok((idx, LowRank { a, b, rank, n_rows, n_cols, is_turned, scale }))
    }

    fn file(&self) -> impl std::fmt::Display {
        self.checkpoint.shards()[0].path.display()
    }

    fn refused(&self, t: &TensorInfo, why: &str) -> Error {
        refused(&self.checkpoint.shards()[0].path, &format!("tensor {} {why}", shown(&t.name)))
    }
}

/// Whether products are formed of this dtype: narrower floats come with scales of their own.
fn is_number(dtype: DType) -> bool {
    dtype.is_float() && dtype.bits() >= 16
}

/// Why the adapter that `file` is of is not merged, and what to do instead.
fn refused(file: &Path, why: &str) -> Error {
    let dir = file.parent().unwrap_or(file);
    Error::invalid_checkpoint(format!(
        "{}: {why}; what is merged here is plain LoRA. Merge it with PEFT and give the result: {}",
        file.display(),
        merge_command(dir)
    ))
}

/// The command that has PEFT merge the adapter in `dir`.
fn merge_command(dir: &Path) -> String {
    let mut to = dir.as_os_str().to_owned();
    to.push("-merged");
    format!(
        "python3 -c 'import sys; from peft import AutoPeftModelForCausalLM as Model; \
         Model.from_pretrained(sys.argv[1], torch_dtype=\"auto\").merge_and_unload().save_pretrained(sys.argv[2])' \
         {} {} (with the class of its task, if it is no causal language model)",
        quoted(dir),
        quoted(Path::new(&to))
    )
}
