//! Variants in forms that other tools read, read here by readers of their own.

use std::fs;
use std::path::Path;

use safetensors::SafeTensors;
use serde_json::Value;
use xxhash_rust::xxh3::xxh3_128;

use crate::made::{Files, Outcome, Rng, encode, one_shard, read, tensor, tensors, twins, write};
use crate::support::{Pair, assert_same_files, stderr, stdout};

/// A pair with the variants `exact` and `small`, the one without loss, the other with it.
fn pair() -> Pair {
    let pair = Pair::with_archive();
    let append = "append --shards fine-tune --base base --archive a.delta.zst";
    pair.run(&format!("{append} --name exact --method lossless")).success();
    pair
}

/// A pair in `base` and `fine-tune` of these files, with the archive `a.delta.zst`.
fn made(base: &Files, fine_tune: &Files) -> Outcome<Pair> {
    let pair = Pair::new();
    for (name, files) in [("b", base), ("f", fine_tune)] {
        write(&pair.path(name), files)?;
    }
    pair.run("compress --shards f --base b -o made.delta.zst --name v --method lossless").success();
    Ok(pair)
}

/// Applies one tensor's change to the base's bytes, as receivers do.
fn applied(encoding: &str, frame: &[u8], old: &[u8]) -> Outcome<Vec<u8>> {
    // One frame, and it says how long it is.
    assert_eq!(zstd::zstd_safe::find_frame_compressed_size(frame), Ok(frame.len()));
    let said = zstd::zstd_safe::get_frame_content_size(frame).map_err(|_| "no size")?;
    let delta = zstd::bulk::decompress(frame, said.ok_or("no size")? as usize)?;
    if encoding == "xor" {
        assert_eq!(delta.len(), old.len());
        return Ok(delta.iter().zip(old).map(|(d, o)| d ^ o).collect());
    }
    let word = |at: usize| u32::from_le_bytes(delta[at..at + 4].try_into().unwrap()) as usize;
    let (n, mut new) = (word(0), old.to_vec());
    assert_eq!(delta.len(), 4 + 5 * n);
    for i in 0..n {
        let (place, value) = (word(4 + 4 * i), delta[4 + 4 * n + i]);
        assert_ne!(new[place], value);
        new[place] = value;
    }
    Ok(new)
}

/// Applies a step to a base and holds each tensor to its checksum; gives all tensors and how many changed.
fn apply(step: &Path, base: &Files) -> Outcome<(crate::made::Tensors, usize)> {
    let index: Value =
        serde_json::from_slice(&fs::read(step.join("model.safetensors.index.json"))?)?;
    let said = |key: &str| index["metadata"][key].as_str().unwrap_or_default().to_owned();
    assert_eq!(said("compression_format"), "zstd");
    let mut all = tensors(base)?;
    let mut n = 0;
    for (file, bytes) in read(step)?.iter().filter(|f| f.0.ends_with(".safetensors")) {
        let (_, header) = SafeTensors::read_metadata(bytes)?;
        let checksums = header.metadata().clone().unwrap_or_default();
        for (name, view) in SafeTensors::deserialize(bytes)?.tensors() {
            assert_eq!(index["weight_map"][&name], file.as_str());
            let tensor = all.get_mut(&name).ok_or("not in the base")?;
            tensor.2 = applied(&said("delta_encoding"), view.data(), &tensor.2)?;
            let checksum = match said("checksum_format").as_str() {
                "xxh3-128" => format!("{:032x}", xxh3_128(&tensor.2)),
                _ => format!("{:08x}", adler2::adler32_slice(&tensor.2)),
            };
            assert_eq!(checksums.get(&name), Some(&checksum), "{name}");
            n += 1;
        }
        assert_eq!(checksums.len(), SafeTensors::deserialize(bytes)?.len());
    }
    assert_eq!(index["weight_map"].as_object().map(|map| map.len()), Some(n));
    Ok((all, n))
}

#[test]
fn a_step_makes_the_fine_tune_of_the_base() -> Outcome {
    let pair = pair();
    let base = read(&pair.path("base"))?;
    for name in ["exact", "small"] {
        pair.run(&format!("restore a.delta.zst --base base --name {name} -o {name}")).success();
        let want = tensors(&read(&pair.path(name))?)?;
        for how in ["", "--encoding overwrite", "--checksum adler32 --version 7 --base-version 4"] {
            let line = format!(
                "export a.delta.zst --format hf-delta --base base --name {name} -o out --force"
            );
            let report = pair.json(&format!("{line} {how}"), 0);
            let number = if how.contains("version") { 7 } else { 1 };
            let step = pair.path(&format!("out/weight_v{number:06}"));
            let (got, n) = apply(&step, &base)?;
            assert!(got == want, "{name} {how}");
            assert_eq!(report["tensors"], n);
            let changed: usize = want
                .iter()
                .map(|(name, t)| {
                    let old = &tensors(&base).unwrap()[name].2;
                    t.2.iter().zip(old).filter(|(new, old)| new != old).count()
                })
                .sum();
            assert_eq!(report["changed_bytes"], changed);
            let index = fs::read_to_string(step.join("model.safetensors.index.json"))?;
            let index: Value = serde_json::from_str(&index)?;
            assert_eq!(index["metadata"]["version"], format!("{number:06}"));
            let before = if number == 7 { 4 } else { 0 };
            assert_eq!(index["metadata"]["base_version"], format!("{before:06}"));
        }
    }
    Ok(())
}

#[test]
fn what_is_as_in_the_base_is_left_out_and_twins_are_told_each_by_its_own() -> Outcome {
    let mut rng = Rng::new(5);
    let same = tensor("layers.0.same.weight", "BF16", &[32, 8], rng.bytes(512));
    let (old, new) = twins(&mut rng, "layers.0.a.weight", "F32", &[300, 70]);
    let (mut other, mut twin) = (new.clone(), new.clone());
    twin.name = "layers.0.b.weight".into();
    other.name = "layers.0.b.weight".into();
    other.bytes = old.bytes.iter().map(|b| b ^ 1).collect();
    // A twin that is as in the base already, which only looking tells.
    let mut still = new.clone();
    still.name = "layers.0.c.weight".into();
    let empty = tensor("empty", "F32", &[0, 4], Vec::new());
    let base = one_shard(&[old, other, still.clone(), same.clone(), empty.clone()]);
    let fine = one_shard(&[new, twin, still, same, empty]);
    let pair = made(&base, &fine)?;
    for how in ["", "--encoding overwrite"] {
        let line = format!("export made.delta.zst --format hf-delta --base b -o out --force {how}");
        let report = pair.json(&line, 0);
        let (got, n) = apply(&pair.path("out/weight_v000001"), &base)?;
        assert!(got == tensors(&fine)?);
        assert_eq!((n, report["unchanged_tensors"].as_u64()), (2, Some(3)));
    }
    // Nothing changed at all.
    pair.run("compress --shards b --base b -o none.delta.zst --name v --method lossless").success();
    let report = pair.json("export none.delta.zst --format hf-delta --base b -o none", 0);
    assert_eq!((report["tensors"].as_u64(), report["files"].as_u64()), (Some(0), Some(0)));
    assert_eq!(apply(&pair.path("none/weight_v000001"), &base)?.1, 0);
    Ok(())
}

#[test]
fn what_receivers_cannot_take_is_refused_or_left_out() -> Outcome {
    let mut rng = Rng::new(6);
    let (old, new) = twins(&mut rng, "layers.0.a.weight", "F32", &[30, 70]);
    let (small, _) = twins(&mut rng, "embed.weight", "F32", &[20, 8]);
    let (_, grown) = twins(&mut rng, "embed.weight", "F32", &[21, 8]);
    let head = tensor("classifier.weight", "F32", &[2, 8], rng.bytes(64));
    let only = tensor("pooler.weight", "F32", &[2, 2], rng.bytes(16));
    let base = one_shard(&[old, small, only]);
    let pair = made(&base, &one_shard(&[new, grown, head]))?;
    let line = "export made.delta.zst --format hf-delta --base b -o out";
    let refused = stderr(&pair.run(line).code(2));
    assert!(refused.contains("embed.weight") && refused.contains("--leave-out-new"), "{refused}");
    assert!(!pair.path("out/weight_v000001").exists());
    let report = pair.json(&format!("{line} --leave-out-new"), 0);
    let names = |key: &str| -> Vec<String> {
        report[key].as_array().unwrap().iter().map(|n| n.as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names("left_out"), ["embed.weight", "classifier.weight"]);
    assert_eq!(names("only_in_base"), ["pooler.weight"]);
    assert_eq!(apply(&pair.path("out/weight_v000001"), &base)?.1, 1);
    // What is there stays, unless it is to be replaced.
    assert!(stderr(&pair.run(&format!("{line} --leave-out-new")).code(2)).contains("not empty"));
    pair.run(&format!("{line} --leave-out-new --force")).success();
    Ok(())
}

#[test]
fn another_base_is_refused_and_leaves_nothing() -> Outcome {
    let pair = pair();
    for format in ["hf-delta", "peft"] {
        let line =
            format!("export a.delta.zst --name exact --format {format} --base fine-tune -o out");
        pair.run(&line).code(5);
        assert!(
            !pair.path("out").join("weight_v000001").exists()
                && !pair.path("out/adapter_config.json").exists()
        );
        // A byte in the middle of a tensor, where no probe looks.
        let copy = pair.path("copy");
        write(&copy, &read(&pair.path("base"))?)?;
        let shard = read(&copy)?.into_iter().find(|f| f.0.ends_with(".safetensors")).unwrap();
        let mut bytes = shard.1;
        let at = bytes.len() / 2;
        bytes[at] ^= 1;
        fs::write(copy.join(&shard.0), bytes)?;
        let line = format!("export a.delta.zst --name exact --format {format} --base copy -o out");
        let refused = stderr(&pair.run(&line).code(5));
        assert!(refused.contains("other values in tensor"), "{refused}");
        let left: Vec<_> = pair.names().into_iter().filter(|n| n.contains("partial")).collect();
        assert!(left.is_empty() && !pair.path("out/weight_v000001").exists(), "{left:?}");
    }
    Ok(())
}

#[test]
fn options_of_one_form_are_no_others() {
    let pair = pair();
    for line in [
        "export a.delta.zst --format hf-delta -o out",
        "export a.delta.zst --format peft --base base",
        "export a.delta.zst --format hf-delta --base base -o out --name exact --rank 3",
        "export a.delta.zst --format peft --base base -o out --name exact --encoding xor",
        "export a.delta.zst --format card --name exact --rank 3",
        "export a.delta.zst --format card --name exact --base base",
        "export a.delta.zst --format card",
        "export a.delta.zst --format card --name exact --base-model none",
        "export a.delta.zst --format hf-delta --base base -o out --name exact --version 0",
        "export a.delta.zst --format hf-delta --base base -o out --name exact --version 2 --base-version 2",
        "export a.delta.zst --format peft --base base -o out --name exact --rank 0",
        "export a.delta.zst --format peft --base base -o out --name exact --include none",
        "export a.delta.zst --format peft --base base -o base/out --name exact",
    ] {
        pair.run(line).code(2);
    }
    assert!(!pair.path("out").exists());
}

#[test]
fn neither_threads_nor_memory_show() -> Outcome {
    let pair = pair();
    for (format, how) in
        [("hf-delta", ""), ("hf-delta", "--encoding overwrite"), ("peft", "--rank 5")]
    {
        for (out, width) in
            [("one", "--threads 1 --max-memory 64MiB"), ("many", "--threads 3 --no-simd")]
        {
            let line = format!(
                "export a.delta.zst --name small --format {format} --base base -o {out} --force"
            );
            pair.run(&format!("{line} {how} {width}")).success();
        }
        let inner = if format == "peft" { "" } else { "weight_v000001" };
        assert_same_files(&pair.path("one").join(inner), &pair.path("many").join(inner));
        for out in ["one", "many"] {
            fs::remove_dir_all(pair.path(out))?;
        }
    }
    Ok(())
}

/// The tensors of an adapter as numbers.
fn factors(dir: &Path, module: &str) -> Outcome<[(Vec<usize>, Vec<f32>); 2]> {
    let all = tensors(&read(dir)?)?;
    let one = |which: &str| -> Outcome<(Vec<usize>, Vec<f32>)> {
        let name = format!("base_model.model.{module}.lora_{which}.weight");
        let (dtype, shape, bytes) = all.get(&name).ok_or(name)?;
        let values = match dtype.as_str() {
            "F32" => bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            _ => bytes
                .as_chunks::<2>()
                .0
                .iter()
                .map(|b| half::bf16::from_le_bytes(*b).to_f32())
                .collect(),
        };
        Ok((shape.clone(), values))
    };
    Ok([one("A")?, one("B")?])
}

/// A base of this shape, and a fine-tune whose delta has so many directions.
fn low_rank(rng: &mut Rng, shape: [usize; 2], rank: usize) -> (Vec<f32>, Vec<f32>) {
    let [m, n] = shape;
    let base: Vec<f32> = (0..m * n).map(|_| rng.value(0.02)).collect();
    let mut values = |n: usize| -> Vec<f32> { (0..n).map(|_| rng.value(0.03)).collect() };
    let (left, right) = (values(m * rank), values(rank * n));
    let delta = |i: usize, j: usize| -> f32 {
        (0..rank).map(|k| left[i * rank + k] * right[k * n + j]).sum()
    };
    let fine = (0..m * n).map(|at| base[at] + delta(at / n, at % n)).collect();
    (base, fine)
}

/// Squares of the delta, and of what an adapter leaves of it.
fn left_of(base: &[f32], fine: &[f32], n: usize, a: &[f32], b: &[f32]) -> (f64, f64) {
    let rank = a.len() / n;
    let (mut delta, mut lost) = (0.0, 0.0);
    for (at, (base, fine)) in base.iter().zip(fine).enumerate() {
        let (i, j) = (at / n, at % n);
        let made: f64 =
            (0..rank).map(|k| f64::from(b[i * rank + k]) * f64::from(a[k * n + j])).sum();
        let d = f64::from(fine - base);
        delta += d * d;
        lost += (d - made) * (d - made);
    }
    (delta, lost)
}

#[test]
fn an_adapter_has_a_delta_of_its_rank_whole() -> Outcome {
    let mut rng = Rng::new(9);
    // Tiles of the first are cut inside rows; the second is smaller than the rank.
    let shapes = [[1500, 901], [70, 5]];
    let pairs: Vec<_> = shapes.iter().map(|s| low_rank(&mut rng, *s, 3)).collect();
    let files = |is_fine: bool| {
        let each = pairs.iter().zip(shapes).enumerate();
        let mut all: Vec<_> = each
            .map(|(i, ((base, fine), [m, n]))| {
                let values = encode("F32", if is_fine { fine } else { base });
                tensor(&format!("model.layers.{i}.up.weight"), "F32", &[m as u64, n as u64], values)
            })
            .collect();
        let norm = if is_fine { 1.5 } else { 1.0 };
        all.push(tensor("model.norm.weight", "F32", &[4], encode("F32", &[norm; 4])));
        one_shard(&all)
    };
    let pair = made(&files(false), &files(true))?;
    let line = "export made.delta.zst --format peft --base b -o out --force --max-memory 72MiB";
    for (how, most) in [("--rank 8", 1e-8), ("--rank 8 --dtype bf16", 1e-4), ("--rank 1", 0.9)] {
        let report = pair.json(&format!("{line} {how}"), 0);
        let mut sums = (0.0, 0.0);
        for (i, ((base, fine), [m, n])) in pairs.iter().zip(shapes).enumerate() {
            let [a, b] = factors(&pair.path("out"), &format!("model.layers.{i}.up"))?;
            let rank = report["rank"].as_u64().unwrap() as usize;
            assert_eq!((a.0, b.0), (vec![rank, n], vec![m, rank]));
            let (delta, lost) = left_of(base, fine, n, &a.1, &b.1);
            let said = report["tensors"][i]["relative_error"].as_f64().unwrap();
            // What is said is what is there, but for the rounding of the products.
            assert!((said - lost / delta).abs() < 1e-3 * said + 1e-9, "{said} {}", lost / delta);
            sums = (sums.0 + delta, sums.1 + lost);
        }
        let said = report["relative_error"].as_f64().unwrap();
        assert!(
            (said - sums.1 / sums.0).abs() < 1e-3 * said + 1e-9 && said < most,
            "{how}: {said}"
        );
        assert_eq!(report["left_out"]["changed"][0], "model.norm.weight");
        let share = report["left_out"]["delta_share"].as_f64().unwrap();
        assert!((share - 1.0 / (1.0 + sums.0)).abs() < 1e-6, "{share}");
    }
    Ok(())
}

#[test]
fn an_adapters_configuration_names_its_modules() -> Outcome {
    let pair = pair();
    let line = "export a.delta.zst --name exact --format peft --base base -o out --rank 4 --base-model org/base";
    let said = stdout(&pair.run(&format!("{line} --include q_proj|down")).success());
    assert!(said.contains("rank 4"), "{said}");
    let config: Value = serde_json::from_slice(&fs::read(pair.path("out/adapter_config.json"))?)?;
    let modules: Vec<_> = config["target_modules"].as_array().unwrap().iter().collect();
    assert_eq!(modules[0], "model.layers.0.self_attn.q_proj");
    assert_eq!(modules.len(), tensors(&read(&pair.path("out"))?)?.len() / 2);
    assert_eq!((&config["r"], &config["lora_alpha"]), (&4.into(), &4.into()));
    assert_eq!(config["base_model_name_or_path"], "org/base");
    assert_eq!(config["fan_in_fan_out"], false);
    let card = fs::read_to_string(pair.path("out/README.md"))?;
    let front = "---\nbase_model: org/base\nbase_model_relation: adapter\nlibrary_name: peft\n";
    assert!(card.starts_with(front), "{card}");
    Ok(())
}

#[test]
fn layers_the_other_way_round_are_turned() -> Outcome {
    let mut rng = Rng::new(12);
    let (base, fine) = low_rank(&mut rng, [40, 24], 2);
    let files = |values: &[f32]| {
        let mut files =
            one_shard(&[tensor("h.0.mlp.c_fc.weight", "F32", &[40, 24], encode("F32", values))]);
        files.insert("config.json".into(), br#"{"model_type": "gpt2"}"#.to_vec());
        files
    };
    let pair = made(&files(&base), &files(&fine))?;
    pair.run("export made.delta.zst --format peft --base b -o out --rank 2").success();
    let [a, b] = factors(&pair.path("out"), "h.0.mlp.c_fc")?;
    assert_eq!((a.0, b.0), (vec![2, 40], vec![24, 2]));
    let turn = |v: &[f32], n: usize| -> Vec<f32> {
        (0..n).flat_map(|j| v[j..].iter().step_by(n).copied()).collect()
    };
    let (delta, lost) = left_of(&base, &fine, 24, &turn(&b.1, 2), &turn(&a.1, 40));
    assert!(lost < 1e-8 * delta, "{lost} {delta}");
    let config: Value = serde_json::from_slice(&fs::read(pair.path("out/adapter_config.json"))?)?;
    assert_eq!(config["fan_in_fan_out"], true);
    Ok(())
}

#[test]
fn a_delta_that_is_not_finite_has_no_adapter() -> Outcome {
    let mut rng = Rng::new(13);
    let (old, mut new) = twins(&mut rng, "layers.0.a.weight", "F32", &[30, 70]);
    new.bytes[..4].copy_from_slice(&f32::INFINITY.to_le_bytes());
    let (fine_old, fine_new) = twins(&mut rng, "layers.1.a.weight", "F32", &[30, 70]);
    let pair = made(&one_shard(&[old, fine_old]), &one_shard(&[new, fine_new]))?;
    let line = "export made.delta.zst --format peft --base b -o out";
    let refused = stderr(&pair.run(line).code(2));
    assert!(refused.contains("layers.0.a.weight") && refused.contains("--exclude"), "{refused}");
    pair.run(&format!("{line} --exclude layers.0")).success();
    Ok(())
}

#[test]
fn a_card_says_what_the_archive_knows() {
    let pair = pair();
    let card = stdout(&pair.run("export a.delta.zst --format card --name small").success());
    assert!(card.starts_with("---\ntags:\n- delta-stream\n---\n\n# `small`\n"), "{card}");
    assert!(!card.contains("base_model") && card.contains("--name small"));
    let named = "export a.delta.zst --format card --name exact --base-model org/base-1.0";
    let card = stdout(&pair.run(named).success());
    assert!(card.contains("\nbase_model: org/base-1.0\nbase_model_relation: finetune\n"), "{card}");
    assert!(card.contains("bit for bit"));
    let json =
        pair.json("export a.delta.zst --format card --name exact --base-model org/base-1.0", 0);
    assert_eq!(json["card"], card);
    let inspected = pair.json("inspect a.delta.zst --name exact", 0);
    let stored = inspected["variants"][0]["stored_bytes"].as_u64().unwrap();
    assert!(card.contains(&format!("{stored} bytes, everything included")));
}
