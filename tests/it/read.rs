//! Tensors read one by one into the caller's memory are those that a restore writes.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use delta_stream::{
    Checkpoint, ErrorKind, Observer, Resources, Silent, TensorReader, VariantReader,
};

use crate::made::Outcome;
use crate::support::Pair;

/// The bytes of every tensor of a checkpoint, by name.
fn bytes_of(checkpoint: &Path) -> Outcome<Vec<(String, Vec<u8>)>> {
    let checkpoint = Checkpoint::open(checkpoint)?;
    let mut out = Vec::new();
    for t in checkpoint.tensors() {
        let mut bytes = vec![0; t.n_bytes as usize];
        let file = std::fs::File::open(&checkpoint.shards()[t.shard].path)?;
        file.read_exact_at(&mut bytes, t.offset)?;
        out.push((t.name.clone(), bytes));
    }
    out.sort();
    Ok(out)
}

/// The same, read of an archive.
fn read_all(reader: &TensorReader) -> Outcome<Vec<(String, Vec<u8>)>> {
    let mut out = Vec::new();
    for (i, t) in reader.variant().tensors().iter().enumerate() {
        let mut bytes = vec![0xa5; t.n_bytes as usize];
        reader.read(i, &mut bytes, &Silent)?;
        out.push((t.name.clone(), bytes));
    }
    out.sort();
    Ok(out)
}

fn open(pair: &Pair, name: Option<&str>) -> Outcome<TensorReader> {
    let variant = VariantReader::open(&pair.path("a.delta.zst"), name)?;
    Ok(variant.on(&pair.path("base"), &Resources::default().with_threads(3))?)
}

#[test]
fn every_tensor_is_what_a_restore_writes() -> Outcome {
    let pair = Pair::with_archive();
    let append = "append --shards fine-tune --base base --archive a.delta.zst --name";
    for (name, how) in [
        ("exact", "--method lossless"),
        ("rates", "--method auto"),
        ("own", "--method bitdelta --base-shift own --lambda 0.5 --eta 1"),
    ] {
        pair.run(&format!("{append} {name} {how}")).success();
    }
    for name in ["small", "exact", "rates", "own"] {
        pair.run(&format!("restore a.delta.zst --base base --name {name} -o {name}")).success();
        let reader = open(&pair, Some(name))?;
        assert!(read_all(&reader)? == bytes_of(&pair.path(name))?, "{name}");
    }
    Ok(())
}

#[test]
fn tensors_of_several_tiles_too() -> Outcome {
    let shape = delta_stream::PairShape::small().with_sizes(1024, 1536, 64, 1);
    let pair = Pair::of(&shape);
    pair.run("compress --shards fine-tune --base base -o a.delta.zst --name a").success();
    pair.run("restore a.delta.zst --base base -o back").success();
    let reader = open(&pair, None)?;
    let largest = reader.variant().tensors().iter().map(|t| t.n_elements()).max();
    assert!(largest > Some(1 << 20), "{largest:?}");
    assert!(read_all(&reader)? == bytes_of(&pair.path("back"))?);
    Ok(())
}

#[test]
fn the_base_is_read_too_and_what_is_equal_is_known() -> Outcome {
    let pair = Pair::with_archive();
    let reader = open(&pair, None)?;
    let base = bytes_of(&pair.path("base"))?;
    let tuned = read_all(&reader)?;
    let of = |all: &[(String, Vec<u8>)], name: &str| {
        all.iter().find(|(n, _)| n == name).map(|(_, bytes)| bytes.clone())
    };
    for (i, t) in reader.base().tensors().iter().enumerate() {
        let mut bytes = vec![0; t.n_bytes as usize];
        reader.read_base(i, &mut bytes)?;
        assert!(Some(bytes) == of(&base, &t.name), "{}", t.name);
    }
    let variant = reader.variant();
    let mut seen = [0; 2];
    for (i, t) in variant.tensors().iter().enumerate() {
        let is_same = variant.is_as_in_base(i);
        assert_eq!(is_same, of(&tuned, &t.name) == of(&base, &t.name), "{}", t.name);
        seen[usize::from(is_same)] += 1;
    }
    assert!(seen[0] > 0, "no tensor differs");
    // A fine-tune that is the base itself.
    pair.run("compress --shards base --base base -o b.delta.zst --name none").success();
    let none = VariantReader::open(&pair.path("b.delta.zst"), None)?;
    let n_same = (0..none.tensors().len()).filter(|i| none.is_as_in_base(*i)).count();
    assert_eq!(n_same, none.tensors().len());
    assert!(!none.is_as_in_base(n_same));
    Ok(())
}

#[test]
fn what_cannot_be_read_is_refused() -> Outcome {
    let pair = Pair::with_archive();
    let archive = pair.path("a.delta.zst");
    let variant = VariantReader::open(&archive, Some("small"))?;
    let wrong = variant.on(&pair.path("fine-tune"), &Resources::default()).unwrap_err();
    assert_eq!(wrong.kind(), ErrorKind::Mismatch);
    let none = VariantReader::open(&archive, Some("other")).unwrap_err();
    assert_eq!(none.kind(), ErrorKind::InvalidArgument);
    let reader = open(&pair, None)?;
    let n = variant.tensors()[0].n_bytes as usize;
    for (tensor, len) in [(0, n - 1), (0, n + 1), (variant.tensors().len(), n)] {
        let mut out = vec![0; len];
        let refused = reader.read(tensor, &mut out, &Silent).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::InvalidArgument, "{refused}");
        assert!(reader.read_base(usize::MAX, &mut out).is_err());
    }
    let tight = variant.on(&pair.path("base"), &Resources::default().with_max_memory(1 << 20))?;
    let refused = tight.read(0, &mut vec![0; n], &Silent).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidArgument, "{refused}");
    Ok(())
}

#[test]
fn damage_is_named_and_other_tensors_are_read() -> Outcome {
    let pair = Pair::with_archive();
    let archive = pair.path("a.delta.zst");
    let whole = read_all(&open(&pair, None)?)?;
    let reader = open(&pair, None)?;
    // A byte in the first tenth of the file, where the first tensors' frames are.
    let mut bytes = std::fs::read(&archive)?;
    let at = bytes.len() / 10;
    bytes[at] ^= 0x40;
    std::fs::write(&archive, bytes)?;
    let (mut n_bad, mut n_good) = (0, 0);
    for (i, t) in reader.variant().tensors().iter().enumerate() {
        let mut out = vec![0; t.n_bytes as usize];
        match reader.read(i, &mut out, &Silent) {
            Ok(()) => {
                n_good += 1;
                assert!(whole.iter().any(|(name, bytes)| *name == t.name && *bytes == out));
            }
            Err(error) => {
                n_bad += 1;
                assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
                assert!(error.to_string().contains(&t.name), "{error}");
            }
        }
    }
    assert!(n_bad == 1 && n_good > 0, "{n_bad} bad, {n_good} good");
    Ok(())
}

#[test]
fn a_base_that_changes_is_noticed() -> Outcome {
    let pair = Pair::with_archive();
    let reader = open(&pair, None)?;
    let shard = reader.base().shards()[0].path.clone();
    let bytes = std::fs::read(&shard)?;
    std::fs::write(&shard, [&bytes[..], b"more"].concat())?;
    let mut out = vec![0; reader.variant().tensors()[0].n_bytes as usize];
    assert_eq!(reader.read(0, &mut out, &Silent).unwrap_err().kind(), ErrorKind::Io);
    Ok(())
}

/// Counts what it hears, and stops at a given number of bytes.
struct Until {
    heard: AtomicU64,
    stop_at: u64,
}

impl Observer for Until {
    fn progress(&self, done: u64, total: u64) {
        assert!(done <= total);
        self.heard.store(done, Ordering::Relaxed);
    }
    fn note(&self, _text: &str) {}
    fn is_cancelled(&self) -> bool {
        self.heard.load(Ordering::Relaxed) >= self.stop_at
    }
}

#[test]
fn an_observer_hears_of_each_byte_and_stops_a_read() -> Outcome {
    let pair = Pair::with_archive();
    let reader = open(&pair, None)?;
    let n = reader.variant().tensors()[0].n_bytes;
    let mut out = vec![0; n as usize];
    let all = Until { heard: AtomicU64::new(0), stop_at: u64::MAX };
    reader.read(0, &mut out, &all)?;
    assert_eq!(all.heard.into_inner(), n);
    let none = Until { heard: AtomicU64::new(0), stop_at: 0 };
    assert_eq!(reader.read(0, &mut out, &none).unwrap_err().kind(), ErrorKind::Interrupted);
    Ok(())
}
