//! The verbs that change a disk, each with what is there before it and what it leaves, on a pair so
//! small that thousands of runs take seconds.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use delta_stream::{
    BaseShift, BaseVector, CompressOptions, DeltaDct, ExportOptions, HfDelta, MapChoice, Method,
    Observer, PartOptions, Peft, Resources, RestoreOptions, Silent, VerifyOptions,
};

use crate::made::{Outcome, Place, Rng, one_shard, shard, twins};

/// What is below a directory: files by path, and directories, whose paths end in a slash and which have
/// no bytes.
pub(crate) type Tree = BTreeMap<String, Vec<u8>>;

/// The archive's name in the directory that verbs change.
pub(crate) const ARCHIVE: &str = "a.delta.zst";

pub(crate) fn read_tree(dir: &Path) -> Outcome<Tree> {
    let mut tree = Tree::new();
    add_tree(dir, "", &mut tree)?;
    Ok(tree)
}

fn add_tree(dir: &Path, prefix: &str, tree: &mut Tree) -> Outcome {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_dir() {
            let prefix = format!("{prefix}{name}/");
            add_tree(&path, &prefix, tree)?;
            tree.insert(prefix, Vec::new());
        } else {
            tree.insert(format!("{prefix}{name}"), fs::read(&path)?);
        }
    }
    Ok(())
}

/// Makes `dir` hold this and nothing else.
pub(crate) fn write_tree(dir: &Path, tree: &Tree) -> Outcome {
    if dir.exists() {
        fs::remove_dir_all(dir)?;
    }
    fs::create_dir(dir)?;
    for (name, bytes) in tree {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().unwrap_or(dir))?;
        if name.ends_with('/') {
            fs::create_dir_all(path)?;
        } else {
            fs::write(path, bytes)?;
        }
    }
    Ok(())
}

/// The files that stand under names of their own, without those of unfinished runs, which are hidden.
pub(crate) fn named(tree: &Tree) -> Tree {
    let is_named =
        |name: &str| !name.ends_with('/') && !name.split('/').any(|p| p.starts_with('.'));
    tree.iter().filter(|(name, _)| is_named(name)).map(|(n, b)| (n.clone(), b.clone())).collect()
}

/// Files under names of their own, each archive cut to what it commits, every frame of which is checked.
pub(crate) fn committed(dir: &Path, tree: &Tree) -> Outcome<Tree> {
    let mut tree = named(tree);
    if let Some(bytes) = tree.get_mut(ARCHIVE) {
        let archive = dir.join(ARCHIVE);
        let len = delta_stream::inspect(&archive, None, false)?.archive_bytes;
        let report = delta_stream::verify(&archive, &VerifyOptions::default(), &Silent)?;
        // What a footer that was torn might have committed is no loss.
        let of_it = report.faults.iter().find(|fault| fault.offset < len);
        of_it.map_or(Ok(()), |fault| Err(fault.to_string()))?;
        bytes.truncate(len as usize);
    }
    Ok(tree)
}

/// A run that changes the directory it is given.
pub(crate) type Run = Box<dyn Fn(&Path) -> delta_stream::Result<()>>;

/// A verb, what is there before it, and what it leaves where nothing goes wrong.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) start: Tree,
    pub(crate) run: Run,
    pub(crate) wanted: Tree,
}

/// A pair, and beside it the directory that verbs change.
pub(crate) struct Lab {
    pub(crate) place: Place,
    pub(crate) disk: PathBuf,
}

fn compress_options(name: &str) -> CompressOptions {
    // Two methods, so that there are frames with and without loss.
    let method = match name {
        "two" | "next" => Method::Lossless,
        _ => Method::DeltaDct(DeltaDct::default().with_patch(8)),
    };
    CompressOptions::new(method)
        .with_name(name)
        .with_resources(Resources::default().with_threads(1))
}

/// Ends a run before its last tile.
struct BeforeTheLast;

impl Observer for BeforeTheLast {
    fn progress(&self, done: u64, total: u64) {
        LEFT.store(total - done, Ordering::Relaxed);
    }
    fn note(&self, _text: &str) {}
    fn is_cancelled(&self) -> bool {
        // The norm is the last tensor.
        LEFT.load(Ordering::Relaxed) == 160
    }
}

/// Bytes that the run has still to go through.
static LEFT: AtomicU64 = AtomicU64::new(u64::MAX);

impl Lab {
    /// A pair with two matrices and a norm, and side files beside the fine-tune.
    pub(crate) fn new() -> Outcome<Self> {
        Self::with_side_file(12_000)
    }

    /// As [`Self::new`], with so many bytes in the largest side file.
    pub(crate) fn with_side_file(n_bytes: usize) -> Outcome<Self> {
        let mut rng = Rng::new(91);
        let (b0, f0) = twins(&mut rng, "layers.0.a.weight", "BF16", &[64, 56]);
        let (b1, f1) = twins(&mut rng, "layers.1.a.weight", "BF16", &[40, 56]);
        let (b2, f2) = twins(&mut rng, "norm.weight", "F32", &[40]);
        let base = one_shard(&[b0, b1, b2]);
        let mut ft = one_shard(&[f0, f1]);
        let first = ft.remove("model.safetensors").unwrap_or_default();
        ft.insert("model-00001-of-00002.safetensors".into(), first);
        ft.insert("model-00002-of-00002.safetensors".into(), shard(&[f2], None, 0));
        ft.insert("config.json".into(), b"{}\n".to_vec());
        ft.insert("tokenizer.model".into(), rng.bytes(n_bytes));
        let place = Place::new(&base, &ft)?;
        let disk = fs::canonicalize(place.path(""))?.join("disk");
        fs::create_dir(&disk)?;
        Ok(Self { place, disk })
    }

    /// `compress` to the archive.
    pub(crate) fn create(&self, name: &'static str, force: bool) -> Run {
        let (ft, base) = (self.place.ft.clone(), self.place.base.clone());
        let options = compress_options(name).with_force(force);
        Box::new(move |dir| {
            delta_stream::compress(&ft, &base, &dir.join(ARCHIVE), &options, &Silent).map(drop)
        })
    }

    /// `compress` or `append` to the archive, going on with what an earlier run left.
    pub(crate) fn resume(&self, name: &'static str) -> Run {
        let (ft, base) = (self.place.ft.clone(), self.place.base.clone());
        let options = compress_options(name).with_resume(true);
        Box::new(move |dir| {
            let archive = dir.join(ARCHIVE);
            let run = if archive.exists() { delta_stream::append } else { delta_stream::compress };
            run(&ft, &base, &archive, &options, &Silent).map(drop)
        })
    }

    /// `compress --part` of one of two parts, to a file of its number.
    fn part(&self, part: u32) -> Run {
        let (ft, base) = (self.place.ft.clone(), self.place.base.clone());
        let options = compress_options("one");
        Box::new(move |dir| {
            let split = delta_stream::split(&ft, &base, 2, &options, &Silent)?;
            let (output, part) = (dir.join(part.to_string()), PartOptions::new(split, part));
            delta_stream::compress_part(&ft, &base, &output, &part, &options, &Silent).map(drop)
        })
    }

    /// `join` of these to the archive.
    fn join() -> Run {
        Box::new(|dir| {
            let parts = ["1", "2"].map(|part| dir.join(part));
            delta_stream::join(&parts, &dir.join(ARCHIVE), false, &Silent).map(drop)
        })
    }

    /// What such a run leaves that is ended before its last tile.
    fn cut_off(&self, start: &Tree, name: &'static str) -> Outcome<Tree> {
        let (ft, base) = (&self.place.ft, &self.place.base);
        let options = compress_options(name).with_resume(true);
        write_tree(&self.disk, start)?;
        let archive = self.disk.join(ARCHIVE);
        let run = if archive.exists() { delta_stream::append } else { delta_stream::compress };
        run(ft, base, &archive, &options, &BeforeTheLast).err().ok_or("it was not ended")?;
        read_tree(&self.disk)
    }

    /// `append` to the archive.
    pub(crate) fn append(&self, name: &'static str) -> Run {
        self.append_with(compress_options(name))
    }

    fn append_with(&self, options: CompressOptions) -> Run {
        let (ft, base) = (self.place.ft.clone(), self.place.base.clone());
        Box::new(move |dir| {
            delta_stream::append(&ft, &base, &dir.join(ARCHIVE), &options, &Silent).map(drop)
        })
    }

    /// `restore` of variant `one` to `to`.
    pub(crate) fn restore(&self, to: &'static str, force: bool, shard_bytes: Option<u64>) -> Run {
        let mut options = RestoreOptions::default()
            .with_name(Some("one".to_owned()))
            .with_resources(Resources::default().with_threads(1))
            .with_force(force);
        options.max_shard_size = shard_bytes;
        self.restore_with(to, options)
    }

    fn restore_with(&self, to: &'static str, options: RestoreOptions) -> Run {
        let base = self.place.base.clone();
        Box::new(move |dir| {
            let (archive, to) = (dir.join(ARCHIVE), dir.join(to));
            delta_stream::restore(&archive, &base, &to, &options, &Silent).map(drop)
        })
    }

    /// What runs leave, one after the other, of `start`.
    pub(crate) fn after(&self, start: &Tree, runs: &[&Run]) -> Outcome<Tree> {
        write_tree(&self.disk, start)?;
        for run in runs {
            run(&self.disk)?;
        }
        read_tree(&self.disk)
    }

    /// Verbs that leave an archive.
    pub(crate) fn archive_cases(&self) -> Outcome<Vec<Case>> {
        let remove: &dyn Fn(&'static str) -> Run =
            &|name| Box::new(move |dir| delta_stream::remove(&dir.join(ARCHIVE), name).map(drop));
        let compact = || -> Run {
            Box::new(|dir| delta_stream::compact(&dir.join(ARCHIVE), &Silent).map(drop))
        };
        let none = Tree::new();
        let one = self.after(&none, &[&self.create("one", false)])?;
        let two = self.after(&one, &[&self.append("two")])?;
        let rid = self.after(&two, &[&remove("one")])?;
        let mut torn = two.clone();
        torn.entry(ARCHIVE.to_owned()).and_modify(|bytes| bytes.truncate(bytes.len() - 9));
        let (part, parts) = (self.cut_off(&none, "one")?, self.cut_off(&one, "two")?);
        let shift = Some(BaseShift::new(BaseVector::Own));
        let shift = compress_options("shifted").with_base_shift(shift);
        let cases = [
            ("compress", &none, self.create("one", false)),
            ("compress --force", &two, self.create("three", true)),
            ("append", &one, self.append("two")),
            ("append to a torn tail", &torn, self.append("three")),
            ("append with a base shift", &one, self.append_with(shift)),
            ("compress --resume", &part, self.resume("one")),
            ("append --resume", &parts, self.resume("two")),
            ("remove", &two, remove("one")),
            ("compact", &rid, compact()),
        ];
        cases.into_iter().map(|(name, start, run)| self.case(name, start, run)).collect()
    }

    /// Verbs of a compress in parts.
    pub(crate) fn part_cases(&self) -> Outcome<Vec<Case>> {
        let none = Tree::new();
        let both = self.after(&none, &[&self.part(1), &self.part(2)])?;
        let cases = [("compress --part", &none, self.part(1)), ("join", &both, Self::join())];
        cases.into_iter().map(|(name, start, run)| self.case(name, start, run)).collect()
    }

    /// Verbs that leave a checkpoint.
    pub(crate) fn restore_cases(&self) -> Outcome<Vec<Case>> {
        let one = self.after(&Tree::new(), &[&self.create("one", false)])?;
        let mut full = one.clone();
        full.insert("out/".into(), Vec::new());
        full.insert("out/config.json".into(), b"{ }\n".to_vec());
        full.insert("out/model.safetensors".into(), vec![7; 600]);
        let resources = Resources::default().with_threads(1).with_map(MapChoice::direct());
        let past_cache = RestoreOptions::default().with_resources(resources);
        let cases = [
            ("restore past the cache", &one, self.restore_with("out", past_cache)),
            ("restore", &one, self.restore("out", false, None)),
            ("restore --force", &full, self.restore("out", true, None)),
            ("restore --max-shard-size", &one, self.restore("out", false, Some(800))),
            ("restore below missing directories", &one, self.restore("a/b/out", false, None)),
        ];
        cases.into_iter().map(|(name, start, run)| self.case(name, start, run)).collect()
    }

    /// `export` of variant `one` to `to`, as a step of weights or as an adapter.
    fn export(&self, to: &'static str, is_step: bool, force: bool) -> Run {
        let base = self.place.base.clone();
        let options = ExportOptions::default()
            .with_name(Some("one".to_owned()))
            .with_resources(Resources::default().with_threads(1))
            .with_force(force);
        Box::new(move |dir| {
            let (archive, to) = (dir.join(ARCHIVE), dir.join(to));
            if is_step {
                let step = HfDelta::default();
                return delta_stream::export_hf_delta(
                    &archive, &base, &to, &step, &options, &Silent,
                )
                .map(drop);
            }
            let adapter = Peft::default().with_rank(2);
            delta_stream::export_peft(&archive, &base, &to, &adapter, &options, &Silent).map(drop)
        })
    }

    /// Verbs that leave what other tools read.
    pub(crate) fn export_cases(&self) -> Outcome<Vec<Case>> {
        let one = self.after(&Tree::new(), &[&self.create("one", false)])?;
        let mut full = one.clone();
        full.insert("out/weight_v000001/model-00000-of-00001.safetensors".into(), vec![7; 600]);
        let cases = [
            ("export a step", &one, self.export("out", true, false)),
            ("export a step --force", &full, self.export("out", true, true)),
            ("export an adapter", &one, self.export("out", false, false)),
        ];
        cases.into_iter().map(|(name, start, run)| self.case(name, start, run)).collect()
    }

    fn case(&self, name: &'static str, start: &Tree, run: Run) -> Outcome<Case> {
        let wanted = self.after(start, &[&run])?;
        Ok(Case { name, start: start.clone(), run, wanted })
    }
}
