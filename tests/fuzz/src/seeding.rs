//! First inputs of the targets: without them a fuzzer would have to find whole records and payloads by itself.

use std::collections::BTreeMap;
use std::fs;

use delta_stream::fuzzing;
use delta_stream::{
    Auto, BitDelta, CompressOptions, Dare, DeltaDct, DeltaDq, GroupIndex, MatrixRate, Method,
    Quality, RatePlan, SignScale, Silent, Size, UltraDelta,
};

use crate::forge::{self, HEAD, INDEX, SEAL, TILE, frames, u32_at};
use crate::made::{Outcome, Place, Rng, Tensor, one_shard, shard, twins};
use crate::targets::{
    ARCHIVES, CODECS, CONFIG, FLOATS, KINDS, MODES, ROUNDS, TileInput, adapter_input, factors,
};

/// Inputs by target.
pub type Seeds = BTreeMap<&'static str, Vec<Vec<u8>>>;

/// First inputs of every target.
///
/// # Panics
/// If an archive cannot be made or read.
pub fn seeds() -> Seeds {
    let mut seeds = Seeds::new();
    headers(&mut seeds);
    journals(&mut seeds);
    parts(&mut seeds);
    adapters(&mut seeds);
    for (which, (archive, _)) in ARCHIVES.iter().enumerate() {
        of_archive(which as u8, archive, &mut seeds).expect("a committed archive");
    }
    payloads(&mut seeds).expect("small models");
    seeds
}

fn headers(seeds: &mut Seeds) {
    let one = |name: &str, dtype, shape: &[u64], n| Tensor {
        name: name.into(),
        dtype,
        shape: shape.to_vec(),
        bytes: vec![0; n],
    };
    let some = [
        one("a", "F32", &[2, 3], 24),
        one("b.weight", "BF16", &[0, 7], 0),
        one("c", "F4", &[4], 2),
        one("\\u0064", "F6_E2M3", &[2, 2], 3),
        one("e", "C64", &[], 8),
        one("f", "F8_E4M3", &[1, 1, 1, 1], 1),
    ];
    for metadata in [None, Some("{\"format\":\"pt\",\"x\":\"\"}"), Some("null")] {
        for n in [0, 1, 6] {
            let file = shard(&some[..n], metadata, 3);
            let json = file[8..8 + u32_at(&file, 0) as usize].to_vec();
            seeds.entry("header").or_default().push(json);
        }
    }
}

/// Entries of each kind, of a tile of 3 x 20 in patches of 16, too short as they are.
fn journals(seeds: &mut Seeds) {
    for kind in 1..4 {
        for found in 0..9 {
            let entry = [&[2, 19, 4, kind][..], &[1; 12], &[found], &[0; 60]].concat();
            seeds.entry("journal").or_default().push(entry);
        }
    }
    for rest in [&[4, 1, 2, 3, 4, 5, 6, 7, 8][..], &[5, 1], &[6, 0, 0, 1, 0], &[6, 0, 0, 0, 0xff]] {
        seeds.entry("journal").or_default().push([&[2, 19, 4][..], rest].concat());
    }
}

/// Each way to damage each part of each round; entries of each kind.
fn parts(seeds: &mut Seeds) {
    let mut add = |input: Vec<u8>| seeds.entry("part").or_default().push(input);
    for round in 0..ROUNDS as u8 {
        for mode in 0..MODES - 1 {
            for which in 0..4 {
                add([&[round, which, mode][..], &[0, 0, 0, 0, 0, 0]].concat());
                add([&[round, which, mode][..], &[2, 9, 0, 4, 3, 1, 1, 0]].concat());
            }
        }
    }
    let number = |n: u8| [n, 0, 0, 0];
    let head = [&number(1)[..], &[7; 16], &[1, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0]];
    let strings = [&number(1)[..], b"t", &number(1), b"v"];
    for (kind, fields) in [
        (16, [head.concat(), strings.concat()].concat()),
        (1, vec![0; 20]),
        (2, vec![0; 52]),
        (3, vec![1; 44]),
        (17, vec![60, 0, 0, 0]),
        (18, vec![1; 16]),
        (19, [&number(1)[..], &strings.concat()].concat()),
        (20, vec![1; 16]),
    ] {
        add([&[0, 0, MODES - 1, kind][..], &fields].concat());
    }
}

/// Adapters that fit their base, with configurations that say so and others.
fn adapters(seeds: &mut Seeds) {
    let json = |tensors: &[Tensor]| {
        let file = shard(tensors, Some("{\"format\":\"pt\"}"), 1);
        file[8..8 + u32_at(&file, 0) as usize].to_vec()
    };
    for tensors in factors() {
        for how in [0, 2, 4, 8] {
            let input = adapter_input(how, CONFIG, &json(&tensors));
            seeds.entry("adapter").or_default().push(input);
        }
        let whole = adapter_input(1, CONFIG, &shard(&tensors, None, 0));
        seeds.entry("adapter").or_default().push(whole);
    }
    let all: Vec<_> = factors().into_iter().flatten().collect();
    for (from, to) in [
        ("\"LORA\"", "\"LOHA\""),
        ("none", "all"),
        ("\"use_dora\":false", "\"use_dora\":true"),
        ("\"init_lora_weights\":true", "\"init_lora_weights\":\"pissa\""),
        ("true", "false"),
        ("\"key\"", "\"a|key\""),
        ("\"key\"", "\"(?:.{90}){90}|key\""),
        ("\"r\":2", "\"r\":1e308"),
        ("\"lora_alpha\":4", "\"lora_alpha\":1e308"),
    ] {
        let input = adapter_input(0, &CONFIG.replacen(from, to, 1), &json(&all));
        seeds.entry("adapter").or_default().push(input);
    }
}

/// Its records, frames, and ways to change it.
fn of_archive(which: u8, archive: &[u8], seeds: &mut Seeds) -> Outcome {
    let all = frames(archive);
    let mut add = |target, parts: &[&[u8]]| seeds.entry(target).or_default().push(parts.concat());
    let id = |at: usize| u32_at(archive, at + 16);
    for frame in &all {
        let stored = &archive[frame.at..frame.at + frame.len];
        if frame.kind != 0 && frame.len < 700 {
            add("frame", &[&[1, 0xff, 0xff], stored]);
            add("frame", &[&[2, 0xff, 0xff], stored]);
            let raw = forge::raw(archive, *frame)?;
            add("frame", &[&[0, frame.kind], &[7; 14], &[9, 0, which], &raw]);
        }
    }
    let heads: Vec<_> = all.iter().filter(|f| f.kind == HEAD).collect();
    for (entry, head) in heads.iter().enumerate() {
        let seal =
            all.iter().find(|f| f.kind == SEAL && id(f.at) == id(head.at)).ok_or("a seal")?;
        let (head, seal) = (forge::raw(archive, **head)?, forge::raw(archive, *seal)?);
        add("records", &[&(head.len() as u16).to_le_bytes(), &head, &seal]);
        let entry = entry as u8;
        add("archive", &[&[which, 2, 0, entry, 0], &head]);
        add("archive", &[&[which, 2, 1, entry, 0], &seal]);
    }
    for frame in all.iter().filter(|f| f.kind == INDEX) {
        let index = forge::raw(archive, *frame)?;
        let footer = &archive[archive.len() - 64..];
        add("index", &[&((archive.len() - 64) as u64).to_le_bytes(), footer, &[1], &index]);
        add("archive", &[&[which, 2, 2, 0, 0], &index]);
    }
    for tile in all.iter().filter(|f| f.kind == TILE && f.len < 400) {
        // Not at its own place, as it may be; the fuzzer finds one.
        add("archive", &[&[which, 2, 3, 0, tile.at as u8], &forge::raw(archive, *tile)?]);
    }
    for how in 0..16 {
        add("parity", &[&[which, how], &[0, 0, 0, 0, 0, 1, 100, 2, 8]]);
    }
    add("archive", &[&[which, 0, 0, 0]]);
    add("archive", &[&[which, 0, 0, 0, 200, 1, 4]]);
    for (kind, _) in KINDS.iter().enumerate() {
        add("archive", &[&[which, 1, kind as u8 * 2, 20, 1]]);
        add("archive", &[&[which, 3, kind as u8, 0, 0, 9, 0, 4, 255, 255, 255, 255]]);
    }
    Ok(())
}

/// Small matrices, one with strong directions.
fn pair() -> (Vec<Tensor>, Vec<Tensor>) {
    let mut rng = Rng::new(11);
    let shapes: [(&'static str, [u64; 2]); 6] = [
        ("F32", [6, 9]),
        ("BF16", [5, 17]),
        ("F16", [18, 16]),
        ("F64", [3, 40]),
        ("BF16", [30, 24]),
        ("F32", [2, 3]),
    ];
    let both = shapes
        .iter()
        .enumerate()
        .map(|(i, (dtype, shape))| twins(&mut rng, &format!("layers.{i}.a.weight"), dtype, shape));
    let (base, mut ft): (Vec<_>, Vec<_>) = both.unzip();
    // Of the matrix of 30 x 24: one direction, with a step that bf16 shows.
    for (i, two) in ft[4].bytes.chunks_exact_mut(2).enumerate() {
        let along = (i / 24 % 7) as u8 * (i % 24 % 5) as u8;
        two[0] = two[0].wrapping_add(along);
    }
    (base, ft)
}

fn methods() -> Vec<Method> {
    let dct = |patch, allocation: &str| {
        let allocation = allocation.parse().expect("an allocation");
        Method::DeltaDct(DeltaDct::default().with_patch(patch).with_allocation(allocation))
    };
    let mut all = vec![
        Method::Lossless,
        dct(8, "2:0.5,0:0.5"),
        dct(16, "8:0.1,5:0.2,3:0.2,1:0.3,0:0.2"),
        Method::BitDelta(BitDelta::default()),
        Method::BitDelta(BitDelta::default().with_scale(SignScale::Unbiased).with_planes(3)),
        Method::Dare(Dare::default().with_sparsity(0.5)),
        Method::Dare(Dare::default().with_sparsity(0.9)),
        Method::UltraDelta(UltraDelta::default().with_sparsity(0.5, 0.1)),
        Method::UltraDelta(UltraDelta::default().with_sparsity(0.9, 0.02)),
    ];
    for (index, parts) in [
        (GroupIndex::Seed, 1),
        (GroupIndex::InGroup, 1),
        (GroupIndex::Csr, 1),
        (GroupIndex::Csr, 4),
    ] {
        all.push(Method::DeltaDq(DeltaDq::default().with_alpha(4).with_index(index, parts)));
    }
    let auto = |size| Method::Auto(Auto::default().with_size(size));
    all.extend([Quality::High, Quality::Small].map(|quality| auto(Size::Quality(quality))));
    all.extend([3.0, 4.0, 5.0].map(|bits| auto(Size::Bits(bits))));
    let mut plan = RatePlan::default();
    plan.noise_level = 1e-8;
    for (i, (rate, rows)) in
        [("2", 3), ("1", 2), ("1/4", 9), ("3", 1), ("2", 20), ("1", 1)].into_iter().enumerate()
    {
        let mut matrix = MatrixRate::default();
        (matrix.tensor, matrix.rate) = (format!("layers.{i}.a.weight"), rate.into());
        (matrix.rows, matrix.rest) = (Some(rows), Some("1/4".into()));
        plan.matrices.push(matrix);
    }
    all.push(Method::Auto(Auto::default().with_plan(Some(plan))));
    all
}

/// The payloads of a pair's tiles by every method.
fn payloads(seeds: &mut Seeds) -> Outcome {
    let (base, ft) = pair();
    let place = Place::new(&one_shard(&base), &one_shard(&ft))?;
    for method in methods() {
        let options = CompressOptions::new(method).with_force(true);
        if let Err(e) =
            delta_stream::compress(&place.ft, &place.base, &place.archive, &options, &Silent)
        {
            eprintln!("{}: {e}", options.method.name());
            continue;
        }
        let archive = fs::read(&place.archive)?;
        for frame in frames(&archive).into_iter().filter(|f| f.kind == TILE) {
            let codec = u32_at(&archive, frame.at + 14) as u16;
            let item = u32_at(&archive, frame.at + 20) as usize;
            let payload = forge::raw(&archive, frame)?;
            let t = &ft[item];
            let dtype = FLOATS.iter().position(|d| d.name() == t.dtype).ok_or("a float")? as u8;
            let (rows, columns) = (t.shape[0] as u8, t.shape[1] as u16);
            let (size, patch) = match codec {
                1 => ((dtype, 1, u16::from(rows) * columns), 0),
                2 => ((dtype, rows, columns), payload[0]),
                _ => ((dtype, rows, columns), 1),
            };
            let key = fuzzing::mask_key(0, &t.name);
            let mut input = TileInput::header(size, (patch, key, 0));
            input.extend(payload);
            seeds.entry(CODECS[usize::from(codec) - 1]).or_default().push(input);
        }
    }
    Ok(())
}
