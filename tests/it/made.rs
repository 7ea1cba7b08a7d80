//! Hand-made checkpoints: safetensors files written byte by byte, random values without a library's
//! help, and directories compared file by file.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use delta_stream::{
    Auto, BitDelta, CompressOptions, CompressReport, Dare, DeltaDct, DeltaDq, Method, Observer,
    PairShape, Resources, RestoreOptions, Silent, UltraDelta, VerifyLevel, VerifyOptions,
    VerifyReport,
};
use safetensors::SafeTensors;

/// What a test returns.
pub(crate) type Outcome<T = ()> = Result<T, Box<dyn Error>>;

/// The files of a directory by name.
pub(crate) type Files = BTreeMap<String, Vec<u8>>;

/// A tensor to be written: name, dtype, shape, bytes.
#[derive(Debug, Clone)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    pub(crate) dtype: &'static str,
    pub(crate) shape: Vec<u64>,
    pub(crate) bytes: Vec<u8>,
}

pub(crate) fn tensor(name: &str, dtype: &'static str, shape: &[u64], bytes: Vec<u8>) -> Tensor {
    Tensor { name: name.into(), dtype, shape: shape.to_vec(), bytes }
}

/// A safetensors file with these tensors in this order, `metadata` as JSON, and so many blanks after
/// the header, which move where the data starts.
pub(crate) fn shard(tensors: &[Tensor], metadata: Option<&str>, blanks: usize) -> Vec<u8> {
    let mut entries: Vec<_> =
        metadata.map(|m| format!("\"__metadata__\":{m}")).into_iter().collect();
    let mut at = 0;
    for t in tensors {
        let end = at + t.bytes.len();
        entries.push(format!(
            "\"{}\":{{\"dtype\":\"{}\",\"shape\":{:?},\"data_offsets\":[{at},{end}]}}",
            t.name, t.dtype, t.shape
        ));
        at = end;
    }
    let header = format!("{{{}}}{}", entries.join(","), " ".repeat(blanks));
    let mut out = (header.len() as u64).to_le_bytes().to_vec();
    out.extend(header.as_bytes());
    tensors.iter().for_each(|t| out.extend(&t.bytes));
    out
}

/// The files of a checkpoint of one shard.
pub(crate) fn one_shard(tensors: &[Tensor]) -> Files {
    let name = "model.safetensors".to_owned();
    Files::from([(name, shard(tensors, None, 0))])
}

/// Random numbers that are the same for ever: xorshift64*.
#[derive(Debug, Clone)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn draw(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `n`.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        (((self.draw() >> 32) * n as u64) >> 32) as usize
    }

    pub(crate) fn bytes(&mut self, n: usize) -> Vec<u8> {
        (0..n).map(|_| (self.draw() >> 56) as u8).collect()
    }

    /// A value of about the given deviation: the sum of four uniforms, exact in f32.
    pub(crate) fn value(&mut self, deviation: f32) -> f32 {
        let x = self.draw();
        let sum: u64 = (0..4).map(|k| (x >> (16 * k)) & 0xffff).sum();
        (sum as f32 - 131_072.0) / 37_837.0 * deviation
    }
}

/// Values as the elements of a float dtype; F8 takes bits as they come.
pub(crate) fn encode(dtype: &str, values: &[f32]) -> Vec<u8> {
    let each = |v: &f32| match dtype {
        "F64" => f64::from(*v).to_le_bytes().to_vec(),
        "F32" => v.to_le_bytes().to_vec(),
        "F16" => half::f16::from_f32(*v).to_le_bytes().to_vec(),
        "BF16" => half::bf16::from_f32(*v).to_le_bytes().to_vec(),
        _ => vec![(v.to_bits() >> 20) as u8],
    };
    values.iter().flat_map(each).collect()
}

/// A float tensor and its fine-tune: weights of deviation 0.02, moved by a thousandth.
pub(crate) fn twins(
    rng: &mut Rng,
    name: &str,
    dtype: &'static str,
    shape: &[u64],
) -> (Tensor, Tensor) {
    let n = shape.iter().product::<u64>() as usize;
    let base: Vec<f32> = (0..n).map(|_| rng.value(0.02)).collect();
    let fine: Vec<f32> = base.iter().map(|v| v + rng.value(0.001)).collect();
    (
        tensor(name, dtype, shape, encode(dtype, &base)),
        tensor(name, dtype, shape, encode(dtype, &fine)),
    )
}

pub(crate) fn write(dir: &Path, files: &Files) -> Outcome {
    fs::create_dir_all(dir)?;
    for (name, bytes) in files {
        fs::write(dir.join(name), bytes)?;
    }
    Ok(())
}

pub(crate) fn read(dir: &Path) -> Outcome<Files> {
    let mut files = Files::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        files.insert(name.into_owned(), fs::read(&path)?);
    }
    Ok(files)
}

/// Every tensor of a checkpoint: dtype, shape, bytes.
pub(crate) type Tensors = BTreeMap<String, (String, Vec<usize>, Vec<u8>)>;

pub(crate) fn tensors(files: &Files) -> Outcome<Tensors> {
    let mut out = Tensors::new();
    for (_, bytes) in files.iter().filter(|f| f.0.ends_with(".safetensors")) {
        for (name, view) in SafeTensors::deserialize(bytes)?.tensors() {
            let dtype = view.dtype().to_string();
            out.insert(name, (dtype, view.shape().to_vec(), view.data().to_vec()));
        }
    }
    Ok(out)
}

/// Each method with its default settings.
pub(crate) fn every_method() -> [Method; 7] {
    [
        Method::Lossless,
        Method::DeltaDct(DeltaDct::default()),
        Method::BitDelta(BitDelta::default()),
        Method::Dare(Dare::default()),
        Method::DeltaDq(DeltaDq::default()),
        Method::UltraDelta(UltraDelta::default()),
        Method::Auto(Auto::default()),
    ]
}

/// A base, a fine-tune and an archive in a directory of their own.
#[derive(Debug)]
pub(crate) struct Place {
    dir: tempfile::TempDir,
    pub(crate) base: PathBuf,
    pub(crate) ft: PathBuf,
    pub(crate) archive: PathBuf,
}

impl Place {
    pub(crate) fn new(base: &Files, ft: &Files) -> Outcome<Self> {
        let place = Self::empty()?;
        write(&place.base, base)?;
        write(&place.ft, ft)?;
        Ok(place)
    }

    /// With a made-up pair of this shape.
    pub(crate) fn made_up(shape: &PairShape) -> Outcome<Self> {
        let place = Self::empty()?;
        delta_stream::make_pair(&place.path(""), shape, 2)?;
        fs::rename(place.path("fine-tune"), &place.ft)?;
        Ok(place)
    }

    /// Without files; in memory where the system has such a place, since syncs cost most otherwise.
    pub(crate) fn empty() -> Outcome<Self> {
        let fast = Path::new("/dev/shm");
        let dir = if fast.is_dir() { tempfile::tempdir_in(fast)? } else { tempfile::tempdir()? };
        let (base, ft) = (dir.path().join("base"), dir.path().join("ft"));
        let archive = dir.path().join("ft.delta.zst");
        Ok(Self { dir, base, ft, archive })
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn compress(&self, method: Method) -> delta_stream::Result<CompressReport> {
        let options = CompressOptions::new(method).with_force(true);
        delta_stream::compress(&self.ft, &self.base, &self.archive, &options, &Silent)
    }

    /// Restores the archive and returns the files.
    pub(crate) fn restore(&self, options: &RestoreOptions) -> Outcome<Files> {
        self.restore_against(&self.base, options)
    }

    pub(crate) fn restore_against(&self, base: &Path, options: &RestoreOptions) -> Outcome<Files> {
        let out = tempfile::tempdir_in(self.dir.path())?;
        let to = out.path().join("restored");
        delta_stream::restore(&self.archive, base, &to, options, &Silent)?;
        read(&to)
    }
}

/// Checks every frame of an archive, or with a base every tensor; the first fault is an error.
pub(crate) fn verify(archive: &Path, base: Option<&Path>) -> delta_stream::Result<VerifyReport> {
    let level = base.map_or(VerifyLevel::Frames, |base| VerifyLevel::Decode(base.to_owned()));
    let options = VerifyOptions::default()
        .with_level(level)
        .with_resources(Resources::default().with_threads(2));
    delta_stream::verify(archive, &options, &Silent)?.sound()
}

/// Runs a command, and kills it after `moment` unless it is done by then; it may end in no other way.
/// Returns what it printed if it was done.
pub(crate) fn kill_after(
    command: &mut Command,
    moment: Option<Duration>,
) -> Outcome<Option<Vec<u8>>> {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    if let Some(moment) = moment {
        std::thread::sleep(moment);
        child.kill()?;
    }
    let output = child.wait_with_output()?;
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code().unwrap_or(0) == 0, "{command:?}: {text}");
    Ok(output.status.success().then_some(output.stdout))
}

/// Ends a run after so many tiles.
pub(crate) struct After(pub(crate) AtomicU64);

impl Observer for After {
    fn progress(&self, done: u64, total: u64) {
        assert!(done <= total);
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
    }
    fn note(&self, _text: &str) {}
    fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }
}

/// The kind of a library error inside a test's error.
pub(crate) fn kind_of(error: &(dyn Error + 'static)) -> Option<delta_stream::ErrorKind> {
    error.downcast_ref::<delta_stream::Error>().map(|e| e.kind())
}

/// Set in the process that a test starts for itself.
const OWN: &str = "DELTA_STREAM_TEST_OWN_PROCESS";

/// Runs the test of this full name in a process of its own: where the process's memory is measured,
/// or its locks matter, which a child that another test starts holds too until it is another program.
pub(crate) fn alone(test: &str, body: impl FnOnce() -> Outcome) -> Outcome {
    alone_under(&[], test, body)
}

/// As [`alone`], with the process started by another program, given with its arguments. What the test
/// prints is passed on.
pub(crate) fn alone_under(starter: &[&str], test: &str, body: impl FnOnce() -> Outcome) -> Outcome {
    if std::env::var_os(OWN).is_some() {
        return body();
    }
    let own = std::env::current_exe()?;
    let mut command = match starter {
        [] => Command::new(own),
        [starter, args @ ..] => {
            let mut command = Command::new(starter);
            command.args(args).arg(own);
            command
        }
    };
    let output = command.args(["--exact", "--nocapture", test]).env(OWN, "1").output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}{errors}");
    println!("{text}");
    Ok(())
}
