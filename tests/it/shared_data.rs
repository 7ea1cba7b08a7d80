//! Pairs of real checkpoints, where there are some: in `DELTA_STREAM_SHARED`, or in `../shared`.

use std::fs;
use std::path::{Path, PathBuf};

use delta_stream::{CompressOptions, CompressReport, DeltaDct, Method, RestoreOptions, Silent};

use crate::made::{Outcome, Place};

const RXNFP: (&str, &str) = ("rxnfp-base", "rxnfp-ft10k");
const ANARCII: [(&str, &str); 2] =
    [("anarcii-l2/base", "anarcii-l2/ft-tcr"), ("anarcii-l2/base", "anarcii-l2/ft-shark")];

/// The checkpoint called `name`, if it is on this machine.
pub(crate) fn shared(name: &str) -> Option<PathBuf> {
    let root = std::env::var_os("DELTA_STREAM_SHARED")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared"), PathBuf::from);
    let found = [root.join("data").join(name), root.join(name)];
    found.into_iter().find(|p| p.is_dir())
}

/// Compresses and restores; without loss the shards must come back byte for byte.
fn check(pair: (&str, &str), method: Method) -> Outcome<Option<CompressReport>> {
    let (Some(base), Some(ft)) = (shared(pair.0), shared(pair.1)) else {
        eprintln!("skipped: {} and {} are not here; set DELTA_STREAM_SHARED", pair.0, pair.1);
        return Ok(None);
    };
    let place = Place::empty()?;
    let options = CompressOptions::new(method.clone());
    let report = delta_stream::compress(&ft, &base, &place.archive, &options, &Silent)?;
    let restored = place.restore_against(&base, &RestoreOptions::default())?;
    for entry in fs::read_dir(&ft)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let exact = method == Method::Lossless || !name.ends_with(".safetensors");
        let back = restored.get(&name).ok_or_else(|| format!("{name} is not restored"))?;
        assert!(!exact || *back == fs::read(&path)?, "{name} has other bytes");
    }
    Ok(Some(report))
}

#[test]
fn rxnfp_without_loss() -> Outcome {
    if let Some(report) = check(RXNFP, Method::Lossless)? {
        let share = 1.0 / report.ratio;
        assert!(share <= 0.74, "the archive takes {share} of the fine-tune");
    }
    Ok(())
}

#[test]
fn anarcii_without_loss() -> Outcome {
    for pair in ANARCII {
        check(pair, Method::Lossless)?;
    }
    Ok(())
}

#[test]
fn delta_dct_takes_a_bit_a_parameter() -> Outcome {
    for pair in [RXNFP].into_iter().chain(ANARCII) {
        if let Some(report) = check(pair, Method::DeltaDct(DeltaDct::default()))? {
            let bits = report.bits_per_parameter.unwrap_or(f64::MAX);
            assert!(report.lossy_tensors > 0 && bits <= 1.08, "{}: {bits} bits", pair.1);
        }
    }
    Ok(())
}
