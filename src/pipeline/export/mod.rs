//! Variants in forms that other tools read: what all of them share. A variant is opened and held to its base as
//! for a restore, and gone through tensor by tensor, in tiles.

mod card;
mod dry_run;
mod hf_delta;
mod peft;
mod rows;
mod settings;

use std::path::Path;

use crate::archive::{Archive, Origin, Stored};
use crate::checkpoint::{TensorInfo, Window};
use crate::error::{Error, Result, ResultExt};
use crate::pipeline::base::Base;
use crate::pipeline::budget::Needs;
use crate::pipeline::decode::{DecodeStage, DecodeState, Decoded, HashCheck, Job};
use crate::pipeline::frames::frames;
use crate::pipeline::options::{Observer, Resources};
use crate::pipeline::ordered::run_beside;
use crate::pipeline::restore::{check_output, refuse_lost, sources};
use crate::pipeline::spares::Spares;
use crate::pipeline::stored_delta::{Shift, load_shift};

pub use card::model_card;
pub use dry_run::{export_hf_delta_dry_run, export_peft_dry_run};
pub use hf_delta::export_hf_delta;
pub use peft::export_peft;
pub use settings::{Checksum, DeltaEncoding, ExportOptions, HfDelta, Peft};

/// A variant with its base, to be read for an export.
struct Variant<'a> {
    archive: Archive,
    stored: Stored,
    base: Base,
    shift: Option<Shift<'static>>,
    resources: &'a Resources,
}

/// One tile of a tensor as it is restored, and its base's bytes.
struct View<'v> {
    /// Where it begins in its tensor, in bytes.
    at: u64,
    new: &'v [u8],
    old: &'v [u8],
}

/// How far an export is, in bytes decoded.
struct Progress<'a> {
    observer: &'a dyn Observer,
    done: u64,
    total: u64,
}

impl Progress<'_> {
    fn add(&mut self, n_bytes: usize) -> Result<()> {
        self.observer.check()?;
        self.done += n_bytes as u64;
        self.observer.progress(self.done.min(self.total), self.total);
        Ok(())
    }
}

impl<'a> Variant<'a> {
    /// Opens both sides of an export to `output`, and refuses what a restore there would refuse.
    fn open(
        archive: &Path,
        base: &Path,
        output: &Path,
        options: &'a ExportOptions,
    ) -> Result<Self> {
        options.validate()?;
        let mut opened = Archive::open(archive)?;
        let stored = opened.load(options.name.as_deref())?;
        opened.follow(options.resources.map);
        let all: Vec<_> = (0..stored.tensors.len()).collect();
        refuse_lost(&opened, &stored, &all, false)?;
        let base = Base::open(base, &options.resources)?;
        check_output(output, archive, &base)?;
        base.check(&stored, &sources(&stored, &all))?;
        let shift = load_shift(&opened, &stored)?;
        Ok(Self { archive: opened, stored, base, shift, resources: &options.resources })
    }

    fn name(&self) -> &str {
        &self.stored.head.name
    }

    /// The base's tensor of the same name, dtype and shape.
    fn twin(&self, tensor: usize) -> Option<&TensorInfo> {
        let t = &self.stored.tensors[tensor];
        let (_, b) = self.base.checkpoint().find(&t.name)?;
        (b.dtype == t.dtype && b.shape == t.shape).then_some(b)
    }

    /// Whether a tensor with a twin restores to other bytes than that has; `None` if the hashes do not say.
    fn is_changed(&self, tensor: usize) -> Option<bool> {
        let seal = &self.stored.seal.tensors[tensor];
        match self.stored.head.items[tensor].origin {
            Origin::Base { .. } => Some(seal.base_hash != seal.restored_hash),
            Origin::Alias(_) | Origin::Whole => None,
        }
    }

    /// Hash of the bytes that a tensor restores to.
    fn hash(&self, tensor: usize) -> u128 {
        self.stored.seal.tensors[self.stored.head.items[tensor].source(tensor)].restored_hash
    }

    /// Most bytes of a tile of a tensor.
    fn tile_bytes(&self, tensor: usize) -> u64 {
        let source = self.stored.head.items[tensor].source(tensor);
        let lane = self.stored.tensors[source].dtype.lane_bytes() as u64;
        self.stored.tilings[source].max_elements() * lane
    }

    /// Names of the tensors that only the base has.
    fn only_in_base(&self) -> Vec<&str> {
        let names: std::collections::HashSet<&str> =
            self.stored.tensors.iter().map(|t| t.name.as_str()).collect();
        let base = self.base.checkpoint().tensors().iter().map(|t| t.name.as_str());
        base.filter(|name| !names.contains(name)).collect()
    }

    /// Goes through the tiles of a tensor with a twin: `work` in parallel, with one `S` a worker, then `sink`
    /// in order, which is given the restored bytes too. Both sides are held to the stored hashes.
    /// `extra` is what `work` and `sink` take of memory beside the tiles.
    fn each_tile<S, T: Send>(
        &self,
        tensor: usize,
        extra: Needs,
        scratch: impl Fn() -> S + Sync,
        work: impl Fn(&mut S, &View<'_>) -> Result<T> + Sync,
        mut sink: impl FnMut(&[u8], T) -> Result<()>,
    ) -> Result<()> {
        let Some(twin) = self.twin(tensor) else { return Ok(()) };
        let source = self.stored.head.items[tensor].source(tensor);
        let stage = DecodeStage {
            archive: &self.archive,
            stored: &self.stored,
            base: Some(&self.base),
            shift: self.shift.as_ref(),
            wanted: &[source],
            spares: Spares::default(),
        };
        let mut check = HashCheck::new(&stage);
        let work = |(decode, scratch): &mut (DecodeState, S), job: Job| {
            let tile = stage.work(decode, job)?;
            let at = tile.tile.bytes(stage.stored.tensors[source].dtype.lane_bytes()).start;
            let old = self.old_bytes(source == tensor, &tile, twin, at)?;
            let old = old.as_deref().or(tile.base_bytes()).unwrap_or_default();
            let made = work(scratch, &View { at, new: &tile.bytes, old })?;
            Ok((tile, made))
        };
        let sink = |(tile, made): (Decoded, T)| {
            check.hold(&tile)?;
            sink(&tile.bytes, made)?;
            check.done(tile);
            Ok(())
        };
        let mut needs = stage.needs();
        needs.resident += extra.resident;
        needs.tile += extra.tile;
        needs.worker += extra.worker;
        let scratch = || Ok((DecodeState::new()?, scratch()));
        run(&stage, (needs, self.resources), scratch, work, sink)
            .context(|| format!("variant `{}`", self.name()))
    }

    /// The base's bytes for a tile, where the one that was decoded does not have them.
    fn old_bytes(
        &self,
        is_own: bool,
        tile: &Decoded,
        twin: &TensorInfo,
        at: u64,
    ) -> Result<Option<Window>> {
        let n = tile.bytes.len();
        if is_own && tile.base_bytes().is_some_and(|old| old.len() == n) {
            return Ok(None);
        }
        self.base.source().window(twin.shard, twin.offset + at, n).map(Some)
    }

    /// Says whether the base is still as it was, and whether to go on.
    fn check_end(&self, observer: &dyn Observer) -> Result<()> {
        self.base.checkpoint().check_unchanged()?;
        // Who wished to stop at the last tile, too.
        observer.check()
    }
}

/// Runs a stage of one tensor.
fn run<T: Send, S>(
    stage: &DecodeStage<'_>,
    (needs, resources): (Needs, &Resources),
    scratch: impl Fn() -> Result<S> + Sync,
    work: impl Fn(&mut S, Job) -> Result<T> + Sync,
    mut sink: impl FnMut(T) -> Result<()>,
) -> Result<()> {
    let (width, mut reader, fetches) = frames(stage, (needs, resources), None)?;
    if stage.wanted.iter().all(|i| stage.stored.tilings[*i].len() <= 1) {
        // Most tensors of a model are small: threads would take longer than they do.
        let mut state = scratch()?;
        while let Some(job) = reader.next() {
            sink(work(&mut state, job?)?)?;
        }
        return Ok(());
    }
    let beside: (_, &(dyn Fn() + Sync)) = (fetches.n_threads(), &|| fetches.run());
    run_beside(width, beside, move || reader.next(), scratch, work, sink)
}

/// Refuses what no hub would take as the name of a model.
fn check_base_model(name: &str) -> Result<()> {
    let is_word = |word: &str| {
        let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        !word.is_empty() && word.chars().all(is_part) && !word.starts_with(['-', '.'])
    };
    match name.split_once('/') {
        Some((org, model)) if is_word(org) && is_word(model) => Ok(()),
        _ => Err(Error::invalid_argument(format!(
            "--base-model {name:?} is no name on a hub; it takes ORG/NAME"
        ))),
    }
}
