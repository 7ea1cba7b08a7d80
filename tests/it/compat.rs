//! Archives of every format version stay readable, to the bit, and broken ones keep their errors.
//!
//! The archives are committed. A missing one is written by the current tool, as long as that writes
//! the version of its directory; a present one is never touched. Pairs come from functions that are
//! never edited: another case is another function and another file.

use std::fs;
use std::path::{Path, PathBuf};

use delta_stream::{
    Auto, BaseShift, BaseVector, BitDelta, CompressOptions, Dare, DeltaDct, DeltaDq, ErrorKind,
    GroupIndex, MatrixRate, Method, RatePlan, RestoreOptions, SignScale, Silent, TraceOf,
    TraceReference, UltraDelta,
};
use xxhash_rust::xxh3::Xxh3;

use crate::forge::{self, HEAD, INDEX, SEAL, TILE, frames};
use crate::made::{Files, Outcome, Place, Rng, Tensor, kind_of, one_shard, tensor, verify};

fn data(dir: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(dir)
}

/// Values that are exact in f32 on every machine; never edited.
fn v1_values(seed: u64, n: usize, moved: bool) -> Vec<f32> {
    let mut state = seed;
    let mut draw = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as i32
    };
    (0..n)
        .map(|i| {
            let base = (draw() - (1 << 23)) as f32 / (1 << 27) as f32;
            let noise = (draw() >> 12) + (draw() >> 12) - (1 << 12);
            let noise = (noise * (1 + i as i32 % 5)) as f32 / (1 << 24) as f32;
            if moved { base + noise } else { base }
        })
        .collect()
}

/// One tensor of a version 1 pair, as f32 or the upper halves of it; never edited.
fn v1_tensor(name: &str, dtype: &'static str, shape: &[u64], seed: u64, moved: bool) -> Tensor {
    let n = shape.iter().product::<u64>() as usize;
    let skip = if dtype == "BF16" { 2 } else { 0 };
    let values = v1_values(seed, n, moved).into_iter();
    let bytes = values.flat_map(|v| v.to_le_bytes().into_iter().skip(skip)).collect();
    tensor(name, dtype, shape, bytes)
}

/// Base and fine-tune of the version 1 archives; never edited.
fn v1_pair() -> (Files, Files) {
    let side = |moved: bool| {
        let rows = if moved { 70 } else { 64 };
        let mut all = vec![
            v1_tensor("layers.0.a.weight", "F32", &[48, 40], 1, moved),
            v1_tensor("layers.0.b.weight", "BF16", &[33, 47], 2, moved),
            v1_tensor("layers.1.stack.weight", "F32", &[2, 20, 24], 3, moved),
            v1_tensor("embed.weight", "BF16", &[rows, 12], 4, moved),
            v1_tensor("norm.weight", "F32", &[40], 5, moved),
        ];
        if moved {
            all.push(v1_tensor("head.weight", "F32", &[5, 12], 6, moved));
            all.push(v1_tensor("tied.weight", "F32", &[5, 12], 6, moved));
        }
        one_shard(&all)
    };
    let mut ft = side(true);
    ft.insert("config.json".into(), b"{\"hidden_size\": 40}\n".to_vec());
    (side(false), ft)
}

/// Base and fine-tune of the version 1 archive of trellis paths: one matrix moves along a direction, too;
/// never edited.
fn v1_pair_with_a_direction() -> (Files, Files) {
    let side = |moved: bool| {
        let mut values = v1_values(7, 96 * 64, moved);
        for (i, value) in values.iter_mut().enumerate().filter(|_| moved) {
            let (row, column) = ((i / 64) as i32, (i % 64) as i32);
            *value += ((row * 7 % 11 - 5) * (column * 5 % 13 - 6)) as f32 / 4096.0;
        }
        let bytes = values.into_iter().flat_map(f32::to_le_bytes).collect();
        one_shard(&[
            tensor("layers.0.a.weight", "F32", &[96, 64], bytes),
            v1_tensor("layers.0.b.weight", "BF16", &[33, 47], 8, moved),
            v1_tensor("norm.weight", "F32", &[40], 9, moved),
        ])
    };
    (side(false), side(true))
}

fn hash(files: &Files) -> u128 {
    let mut hash = Xxh3::new();
    for (name, bytes) in files {
        hash.update(name.as_bytes());
        hash.update(bytes);
    }
    hash.digest128()
}

/// Writes `name` if it is missing; then decodes it and holds the files to `wanted`.
fn check(name: &str, method: Method, wanted: u128) -> Outcome {
    check_with(name, CompressOptions::new(method), wanted)
}

fn check_with(name: &str, options: CompressOptions, wanted: u128) -> Outcome {
    check_pair(name, "base.safetensors", v1_pair(), options, wanted)
}

fn check_pair(
    name: &str,
    base_name: &str,
    (base, ft): (Files, Files),
    options: CompressOptions,
    wanted: u128,
) -> Outcome {
    let lossless = options.method == Method::Lossless;
    let archive = data("v1").join(name);
    let base_file = data("v1").join(base_name);
    let place = Place::new(&base, &ft)?;
    if !archive.exists() {
        fs::create_dir_all(data("v1"))?;
        let options = options.with_name("v1");
        delta_stream::compress(&place.ft, &place.base, &place.archive, &options, &Silent)?;
        let version = delta_stream::inspect(&place.archive, None, false)?.format_version;
        assert_eq!(version, 1, "{name} is gone and cannot be written any more");
        fs::copy(&place.archive, &archive)?;
        if !base_file.exists() {
            fs::write(&base_file, &base["model.safetensors"])?;
        }
    }
    assert!(fs::metadata(&archive)?.len() < 40 << 10);
    fs::copy(&archive, &place.archive)?;
    let restored = place.restore_against(&base_file, &RestoreOptions::default())?;
    if lossless {
        assert!(restored == ft, "{name} restores to other bytes");
    }
    let found = hash(&restored);
    assert_eq!(found, wanted, "{name} restores to {found:#x}");
    let report = verify(&archive, Some(&base_file))?;
    assert!(report.ok, "{name}: {:?}", report.differing);
    Ok(())
}

#[test]
fn v1_lossless() -> Outcome {
    check("lossless.delta.zst", Method::Lossless, HASH_LOSSLESS)
}

#[test]
fn v1_delta_dct_of_side_8() -> Outcome {
    let method = DeltaDct::default().with_patch(8);
    check("delta_dct_8.delta.zst", Method::DeltaDct(method), HASH_DCT_8)
}

#[test]
fn v1_delta_dct_of_side_16_with_five_classes() -> Outcome {
    let allocation = "8:0.1,5:0.2,3:0.2,1:0.3,0:0.2".parse()?;
    let method = DeltaDct::default().with_allocation(allocation);
    check("delta_dct_16_mixed.delta.zst", Method::DeltaDct(method), HASH_DCT_16)
}

#[test]
fn v1_sign_planes() -> Outcome {
    let method = BitDelta::default().with_scale(SignScale::Unbiased).with_planes(3);
    check("bitdelta_3.delta.zst", Method::BitDelta(method), HASH_BITDELTA_3)
}

#[test]
fn v1_seeded_survivors() -> Outcome {
    let method = Dare::default().with_sparsity(0.75);
    check("dare.delta.zst", Method::Dare(method), HASH_DARE)
}

#[test]
fn v1_groups_in_every_form() -> Outcome {
    let method = DeltaDq::default().with_alpha(4);
    for (name, index, parts) in [
        ("deltadq_seed.delta.zst", GroupIndex::Seed, 1),
        ("deltadq_in_group.delta.zst", GroupIndex::InGroup, 1),
        ("deltadq_csr.delta.zst", GroupIndex::Csr, 4),
    ] {
        check(name, Method::DeltaDq(method.with_index(index, parts)), HASH_DELTADQ)?;
    }
    Ok(())
}

#[test]
fn v1_runs_and_a_measured_trace_norm() -> Outcome {
    let reference = TraceReference::Value(0.5);
    let method = UltraDelta::default().with_sparsity(0.75, 0.05).with_trace(
        reference,
        TraceOf::Survivors,
        0.5,
    );
    check("ultradelta.delta.zst", Method::UltraDelta(method), HASH_ULTRADELTA)?;
    let summary = delta_stream::inspect(&data("v1").join("ultradelta.delta.zst"), None, false)?;
    let measured = &summary.variants[0].measured;
    let names: Vec<_> = measured.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["trace-norm", "trace-reference", "gamma"]);
    Ok(())
}

#[test]
fn v1_a_shifted_base() -> Outcome {
    let shift = BaseShift::new(BaseVector::Own).with_parameters(Some(0.75), Some(1.25));
    let method = Method::BitDelta(BitDelta::default());
    let options = CompressOptions::new(method).with_base_shift(Some(shift));
    check_with("bitdelta_shifted.delta.zst", options, HASH_SHIFTED)
}

#[test]
fn v1_trellis_paths_of_both_kinds_and_directions() -> Outcome {
    let mut plan = RatePlan::default();
    plan.noise_level = 1e-8;
    for (tensor, rate, rows) in
        [("layers.0.a.weight", "2", Some(70)), ("layers.0.b.weight", "1", None)]
    {
        let mut matrix = MatrixRate::default();
        (matrix.tensor, matrix.rate) = (tensor.into(), rate.into());
        (matrix.rows, matrix.rest) = (rows, rows.map(|_| "1/4".into()));
        plan.matrices.push(matrix);
    }
    let method = Method::Auto(Auto::default().with_plan(Some(plan)));
    let (name, base_name) = ("trellis.delta.zst", "base_trellis.safetensors");
    let pair = v1_pair_with_a_direction();
    check_pair(name, base_name, pair, CompressOptions::new(method), HASH_TRELLIS)
}

const HASH_TRELLIS: u128 = 0x5ec8_8acd_fc61_4908_43c9_253e_425d_3662;
const HASH_ULTRADELTA: u128 = 0x3949_53d8_7f29_e593_d578_3bb8_5d12_854e;
const HASH_SHIFTED: u128 = 0xb614_8bd3_bcad_9902_b233_766a_ce97_7bb1;
const HASH_BITDELTA_3: u128 = 0xb98e_68c0_db70_4ddd_7200_9bff_3b73_8136;
const HASH_DARE: u128 = 0x0507_8e61_1159_ccc2_4bab_3bca_ff6e_077f;
const HASH_DELTADQ: u128 = 0xa2c9_2c88_f510_59b2_1847_5a7b_4fb3_06ed;
const HASH_LOSSLESS: u128 = 0xfe45_ea2c_d64f_397e_2dce_38a0_b2b3_8256;
const HASH_DCT_8: u128 = 0xcfeb_169b_3ae8_27b8_52f1_2432_9742_50d6;
const HASH_DCT_16: u128 = 0x81f8_610b_d20e_6a09_9382_1894_d5ea_7a45;

/// How a broken archive is made of a whole one, for the day it is missing.
type Breaking = fn(&[u8]) -> Outcome<Vec<u8>>;

/// Every file in `tests/data/broken`, the error that restoring it gives, and how it was made.
const BROKEN: &[(&str, ErrorKind, Breaking)] = &[
    ("empty", ErrorKind::Truncated, |_| Ok(Vec::new())),
    ("half_a_preamble", ErrorKind::Truncated, |a| Ok(a[..30].to_vec())),
    ("another_file", ErrorKind::Corrupt, |_| Ok(b"PK\x03\x04".repeat(100))),
    ("cut", ErrorKind::Truncated, |a| Ok(a[..a.len() - 1].to_vec())),
    ("cut_in_half", ErrorKind::Truncated, |a| Ok(a[..a.len() / 2].to_vec())),
    ("footer_bit", ErrorKind::Truncated, |a| flipped(a, 0)),
    ("tile_bit", ErrorKind::Corrupt, |a| flipped(a, TILE)),
    ("head_bit", ErrorKind::Corrupt, |a| flipped(a, HEAD)),
    ("seal_bit", ErrorKind::Corrupt, |a| flipped(a, SEAL)),
    ("blob_bit", ErrorKind::Corrupt, |a| flipped(a, 4)),
    ("index_bit", ErrorKind::Corrupt, |a| flipped(a, INDEX)),
    ("newer_format", ErrorKind::Incompatible, |a| field(a, 0, 16, 2)),
    ("unknown_kind", ErrorKind::Incompatible, |a| field(a, TILE, 12, 9)),
    ("unknown_codec", ErrorKind::Incompatible, |a| field(a, TILE, 14, 9)),
    ("tile_of_another_tensor", ErrorKind::Corrupt, |a| field(a, TILE, 20, 3)),
    ("tile_of_another_variant", ErrorKind::Corrupt, |a| field(a, TILE, 16, 3)),
    ("bomb", ErrorKind::Corrupt, |a| field(a, TILE, 31, 0xff)),
    ("large_bomb", ErrorKind::Corrupt, |a| field(a, TILE, 30, 0x7f)),
    ("tile_without_payload", ErrorKind::Corrupt, |a| record(a, TILE, |p| p.clear())),
    ("tile_of_an_unknown_mode", ErrorKind::Corrupt, |a| record(a, TILE, |p| p[0] = 0xee)),
    ("head_cut", ErrorKind::Corrupt, |a| record(a, HEAD, |p| p.truncate(60))),
    ("head_with_a_tail", ErrorKind::Corrupt, |a| record(a, HEAD, |p| p.push(0))),
    ("seal_of_no_tensor", ErrorKind::Corrupt, |a| record(a, SEAL, |p| p[..4].fill(0))),
    ("seal_of_many_tensors", ErrorKind::Corrupt, |a| record(a, SEAL, |p| p[..4].fill(0xff))),
    ("seal_of_a_far_tile", ErrorKind::Corrupt, |a| record(a, SEAL, |p| p[51] = 0x7f)),
    ("seal_of_other_bytes", ErrorKind::Corrupt, |a| record(a, SEAL, |p| p[30] ^= 1)),
    ("seal_of_another_base", ErrorKind::Mismatch, |a| record(a, SEAL, |p| p[5] ^= 1)),
    ("seal_of_another_probe", ErrorKind::Mismatch, |a| record(a, SEAL, |p| p[21] ^= 1)),
    ("index_of_many", ErrorKind::Corrupt, |a| record(a, INDEX, |p| p[4..8].fill(0xff))),
    ("index_of_a_far_head", ErrorKind::Corrupt, |a| record(a, INDEX, |p| p[24] = 0x7f)),
    ("side_file_without_end", ErrorKind::Corrupt, |a| {
        // The last field of a head is the length of its last side file.
        record(a, HEAD, |p| {
            let at = p.len() - 8;
            p[at..].fill(0xff);
        })
    }),
    ("other_name_in_head", ErrorKind::Corrupt, |a| record(a, HEAD, |p| p[4] = b'w')),
];

/// One bit in the middle of the last frame of a kind; 0 for the footer.
fn flipped(archive: &[u8], kind: u8) -> Outcome<Vec<u8>> {
    let frame = frames(archive).into_iter().rfind(|f| f.kind == kind).ok_or("no such frame")?;
    let mut out = archive.to_vec();
    out[frame.at + frame.len - 1] ^= 4;
    Ok(out)
}

/// One byte of the first frame header of a kind, with the checksum made right.
fn field(archive: &[u8], kind: u8, at: usize, value: u8) -> Outcome<Vec<u8>> {
    let frame = frames(archive).into_iter().find(|f| f.kind == kind).ok_or("no such frame")?;
    let mut out = archive.to_vec();
    out[frame.at + at] = value;
    forge::repair(&mut out, frame);
    Ok(out)
}

/// A record or tile changed, with everything around it made right.
fn record(archive: &[u8], kind: u8, change: fn(&mut Vec<u8>)) -> Outcome<Vec<u8>> {
    let last = forge::n_entries(archive)? - 1;
    forge::replaced(archive, (last, kind), &mut Rng::new(1), |_, content| change(content))
}

#[test]
fn broken_archives_keep_their_errors() -> Outcome {
    let place = Place::new(&v1_pair().0, &Files::new())?;
    fs::create_dir_all(data("broken"))?;
    let mut wrong = Vec::new();
    for (name, kind, make) in BROKEN {
        let path = data("broken").join(format!("{name}.delta.zst"));
        if !path.exists() {
            fs::write(&path, make(&fs::read(data("v1").join("delta_dct_8.delta.zst"))?)?)?;
        }
        fs::copy(&path, &place.archive)?;
        // Whatever else can be said of it must be said without a panic.
        for base in [None, Some(&*place.base)] {
            let checked = verify(&place.archive, base);
            assert!(base.is_none() || !checked.is_ok_and(|r| r.ok), "{name} is called whole");
        }
        let _ = delta_stream::inspect(&place.archive, None, true);
        match place.restore(&RestoreOptions::default()) {
            Ok(_) => wrong.push(format!("{name} restores")),
            Err(e) if kind_of(&*e) != Some(*kind) => {
                wrong.push(format!("{name}: {:?}, not {kind:?}: {e}", kind_of(&*e)));
            }
            Err(_) => {}
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    for entry in fs::read_dir(data("broken"))? {
        let file = entry?.file_name().to_string_lossy().into_owned();
        let known = BROKEN.iter().any(|row| format!("{}.delta.zst", row.0) == file);
        assert!(known, "{file} has no row in the table");
    }
    Ok(())
}
