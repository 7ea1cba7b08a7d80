//! Archives that somebody made on purpose, with right checksums: names that would leave the output directory,
//! references in circles, things that are there twice, shapes and lengths out of all bounds, scales that are no
//! numbers. Each is refused as `Corrupt`, and leaves nothing.

use std::fs;
use std::path::{Path, PathBuf};

use delta_stream::{
    BaseShift, BaseVector, BitDelta, CompressOptions, Dare, DeltaDct, DeltaDq, ErrorKind,
    GroupIndex, Method, RestoreOptions, Silent, UltraDelta,
};

use crate::forge::{self, HEAD, INDEX, SEAL};
use crate::made::{Files, Outcome, Place, Rng, alone, kind_of, one_shard, read, shard, twins};

/// Two shards with their index, two side files, and two aliases of one tensor.
fn place() -> Outcome<Place> {
    let mut rng = Rng::new(41);
    let (b0, f0) = twins(&mut rng, "layers.0.a.weight", "F32", &[20, 24]);
    let (b1, f1) = twins(&mut rng, "layers.1.b.weight", "F32", &[20, 24]);
    let (b2, f2) = twins(&mut rng, "layers.2.c.weight", "F32", &[24, 20]);
    let tied = |name: &str| {
        let mut tensor = f0.clone();
        tensor.name = name.into();
        tensor
    };
    let ft = Files::from([
        (
            "model-00001-of-00002.safetensors".into(),
            shard(&[f0.clone(), tied("tied.1"), tied("tied.2")], None, 0),
        ),
        ("model-00002-of-00002.safetensors".into(), shard(&[f1, f2], None, 0)),
        (
            "model.safetensors.index.json".into(),
            br#"{"metadata":{"total_size":9600},"weight_map":{
                "layers.0.a.weight":"model-00001-of-00002.safetensors",
                "tied.1":"model-00001-of-00002.safetensors",
                "tied.2":"model-00001-of-00002.safetensors",
                "layers.1.b.weight":"model-00002-of-00002.safetensors",
                "layers.2.c.weight":"model-00002-of-00002.safetensors"}}"#
                .to_vec(),
        ),
        ("config.json".into(), b"{\"a\": 1}\n".to_vec()),
        ("other.txt".into(), b"text".to_vec()),
    ]);
    Place::new(&one_shard(&[b0, b1, b2]), &ft)
}

fn archive_of(place: &Place, method: Method) -> Outcome<Vec<u8>> {
    place.compress(method)?;
    Ok(fs::read(&place.archive)?)
}

/// Every path below a directory, sorted.
fn tree(dir: &Path) -> Outcome<Vec<PathBuf>> {
    let mut out = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            out.extend(tree(&path)?);
        }
        out.push(path);
    }
    out.sort();
    Ok(out)
}

/// Restores in every way there is, which must be refused as corrupt each time and leave nothing.
#[track_caller]
fn refused(place: &Place, bytes: &[u8], what: &str) -> Outcome {
    fs::write(&place.archive, bytes)?;
    let before = tree(&place.path(""))?;
    let whole = RestoreOptions::default();
    for options in
        [whole.clone(), whole.clone().with_max_shard_size(Some(1000)), whole.with_force(true)]
    {
        let error = place.restore(&options).err().ok_or_else(|| format!("{what} restores"))?;
        assert_eq!(kind_of(&*error), Some(ErrorKind::Corrupt), "{what}: {error}");
    }
    assert_eq!(tree(&place.path(""))?, before, "{what}");
    Ok(())
}

/// The archive with one record changed.
fn with_record(
    archive: &[u8],
    (entry, kind): (usize, u8),
    change: impl FnOnce(&mut Vec<u8>),
) -> Outcome<Vec<u8>> {
    forge::replaced(archive, (entry, kind), &mut Rng::new(1), |_, content| change(content))
}

/// Where these bytes stand; they must stand there once.
#[track_caller]
fn find(content: &[u8], wanted: &[u8]) -> usize {
    let mut found = content.windows(wanted.len()).enumerate().filter(|(_, w)| *w == wanted);
    let (at, _) = found.next().expect("to be there");
    assert!(found.next().is_none(), "{wanted:?} stands there twice");
    at
}

/// Gives a stored string with its length in front another value.
#[track_caller]
fn rename(content: &mut Vec<u8>, from: &str, to: &str) {
    let field = |text: &str| [&(text.len() as u32).to_le_bytes(), text.as_bytes()].concat();
    let at = find(content, &field(from));
    content.splice(at..at + 4 + from.len(), field(to));
}

/// Changes the JSON of a stored shard header, and both lengths in front of it.
#[track_caller]
fn edit_header(head: &mut Vec<u8>, shard: &str, from: &str, to: &str) {
    let after = |n: usize| n + 4 + shard.len() + 8;
    let field = [&(shard.len() as u32).to_le_bytes(), shard.as_bytes()].concat();
    let at = after(find(head, &field));
    let n = forge::u32_at(head, at) as usize;
    let json = String::from_utf8(head[at + 12..at + 4 + n].to_vec()).expect("JSON");
    assert!(json.contains(from), "{json}");
    let json = json.replacen(from, to, 1);
    let mut new = (json.len() as u32 + 8).to_le_bytes().to_vec();
    new.extend((json.len() as u64).to_le_bytes());
    new.extend(json.as_bytes());
    head.splice(at..at + 4 + n, new);
}

#[test]
fn names_never_leave_the_output() -> Outcome {
    let place = place()?;
    let archive = archive_of(&place, Method::Lossless)?;
    let long = "x".repeat(256);
    let absolute = place.path("outside").display().to_string();
    let names = [
        "",
        ".",
        "..",
        "../x",
        "../../x",
        "/x",
        &absolute,
        "a/b",
        "a\\b",
        "..\\x",
        "C:x",
        "C:\\x",
        "x:y",
        "x\0y",
        "x\ny",
        "x.",
        "x ",
        "NUL",
        "nul.json",
        "CON",
        "aux.txt",
        "COM1",
        "lpt9.x",
        "PRN.",
        &long,
        // Case clashes, and names that the restore itself writes.
        "OTHER.TXT",
        "other.txt",
        "MODEL-00001-of-00002.safetensors",
        "model-00001-of-00002.safetensors",
        "model.safetensors.index.json",
        "Model.Safetensors.Index.JSON",
        "model.safetensors",
        "model-00001-of-00010.safetensors",
    ];
    for name in names {
        let bytes = with_record(&archive, (0, HEAD), |head| rename(head, "config.json", name))?;
        refused(&place, &bytes, &format!("the side file {name:?}"))?;
    }
    for name in &names[..25] {
        let from = "model-00002-of-00002.safetensors";
        let bytes = with_record(&archive, (0, HEAD), |head| rename(head, from, name))?;
        refused(&place, &bytes, &format!("the shard {name:?}"))?;
    }
    // A name that is plain goes through.
    let bytes = with_record(&archive, (0, HEAD), |head| rename(head, "config.json", "..x"))?;
    fs::write(&place.archive, bytes)?;
    assert!(place.restore(&RestoreOptions::default())?.contains_key("..x"));
    Ok(())
}

#[test]
fn links_in_a_forced_output_are_replaced_and_not_followed() -> Outcome {
    let place = place()?;
    archive_of(&place, Method::Lossless)?;
    let (out, outside) = (place.path("out"), place.path("outside.json"));
    fs::create_dir(&out)?;
    fs::write(&outside, "mine")?;
    std::os::unix::fs::symlink(&outside, out.join("config.json"))?;
    std::os::unix::fs::symlink(&place.base, out.join("model-00001-of-00002.safetensors"))?;
    let options = RestoreOptions::default().with_force(true);
    delta_stream::restore(&place.archive, &place.base, &out, &options, &Silent)?;
    assert_eq!(fs::read_to_string(&outside)?, "mine");
    assert!(!out.join("config.json").is_symlink());
    let (mut wanted, found) = (read(&place.ft)?, read(&out)?);
    wanted.remove("model.safetensors.index.json");
    assert!(wanted.iter().all(|(name, bytes)| found.get(name) == Some(bytes)));
    Ok(())
}

#[test]
fn references_in_circles_or_to_nowhere_are_refused() -> Outcome {
    let place = place()?;
    let archive = archive_of(&place, Method::Lossless)?;
    // Items of the tensors: 0 itself, 1 and 2 its aliases; 3 of the same shape, 4 of another. An alias is its
    // code, the number of the tensor, no patch, no loss.
    let items: Vec<u8> = [[2, 0, 0, 0, 0, 0, 0, 0]; 2].concat();
    for (alias, of, why) in [
        (0, 1u32, "itself"),
        (0, 2, "a later alias, which is one of it"),
        (0, 3, "a later tensor"),
        (0, 4, "a later tensor of another shape"),
        (0, u32::MAX, "no tensor"),
        (1, 1, "an alias"),
        (1, 2, "itself"),
    ] {
        let bytes = with_record(&archive, (0, HEAD), |head| {
            let at = find(head, &items) + 8 * alias + 1;
            head[at..at + 4].copy_from_slice(&of.to_le_bytes());
        })?;
        refused(&place, &bytes, &format!("an alias of {why}"))?;
    }
    // A tensor whose frames are another's, or lie in front of the file's first, or across the index.
    for offset in [0u64, 54, archive.len() as u64 - 64, u64::MAX - 10] {
        let bytes = with_record(&archive, (0, SEAL), |seal| {
            seal[4 + 40..4 + 48].copy_from_slice(&offset.to_le_bytes());
        })?;
        refused(&place, &bytes, &format!("frames at {offset}"))?;
    }
    let bytes = with_record(&archive, (0, SEAL), |seal| {
        // The entries before tensor 3 have one frame, none and none.
        let third = 4 + 72 + 2 * 68;
        let first = seal[4 + 40..4 + 48].to_vec();
        seal[third + 40..third + 48].copy_from_slice(&first);
    })?;
    refused(&place, &bytes, "frames that are another tensor's")
}

#[test]
fn vectors_in_circles_are_refused() -> Outcome {
    alone("forged::vectors_in_circles_are_refused", || {
        let place = place()?;
        let shift = BaseShift::new(BaseVector::Own).with_parameters(Some(0.75), Some(1.25));
        let method = Method::BitDelta(BitDelta::default());
        let options = CompressOptions::new(method).with_base_shift(Some(shift));
        delta_stream::compress(&place.ft, &place.base, &place.archive, &options, &Silent)?;
        let archive = fs::read(&place.archive)?;
        assert_eq!(forge::n_entries(&archive)?, 2);
        let names: Vec<_> = delta_stream::inspect(&place.archive, None, false)?.base_vectors;
        assert_eq!(names.len(), 1);
        // The vector has the id 0 or 1; a shift along either is along itself or along what is shifted by it.
        for id in [0u32, 1] {
            for entry in [0, 1] {
                let mut was_shifted = false;
                let bytes = with_record(&archive, (entry, HEAD), |head| {
                    let shift = [
                        &[1][..],
                        &id.to_le_bytes(),
                        &0.75f32.to_le_bytes(),
                        &1.25f32.to_le_bytes(),
                    ]
                    .concat();
                    let numbers = [0.75f32.to_le_bytes(), 1.25f32.to_le_bytes()].concat();
                    was_shifted = head.ends_with(&numbers);
                    if was_shifted {
                        head.truncate(head.len() - 13);
                    }
                    head.extend(shift);
                })?;
                fs::write(&place.archive, &bytes)?;
                let restored = place.restore(&RestoreOptions::default());
                match (was_shifted, restored) {
                    // The variant's own shift, along what its head named before.
                    (true, Ok(_)) => {}
                    (_, Err(e)) => assert_eq!(kind_of(&*e), Some(ErrorKind::Corrupt), "{e}"),
                    (false, Ok(_)) => return Err("a vector that is shifted itself is taken".into()),
                }
            }
        }
        Ok(())
    })
}

#[test]
fn what_is_there_twice_is_refused() -> Outcome {
    alone("forged::what_is_there_twice_is_refused", || {
        let place = place()?;
        let archive = archive_of(&place, Method::Lossless)?;
        let second = "model-00002-of-00002.safetensors";
        let bytes = with_record(&archive, (0, HEAD), |head| {
            edit_header(head, second, "layers.1.b.weight", "layers.0.a.weight");
        })?;
        refused(&place, &bytes, "a tensor in two shards")?;
        let bytes = with_record(&archive, (0, HEAD), |head| {
            edit_header(head, second, "layers.1.b.weight", "layers.2.c.weight");
        })?;
        refused(&place, &bytes, "a tensor twice in one shard")?;
        let options = CompressOptions::new(Method::Lossless).with_name("g");
        delta_stream::append(&place.ft, &place.base, &place.archive, &options, &Silent)?;
        let two = fs::read(&place.archive)?;
        // Both variants under one name: the index says so, or index and head do.
        let bytes = with_record(&two, (1, INDEX), |index| rename(index, "g", "ft"))?;
        refused(&place, &bytes, "two variants of one name")?;
        let bytes = with_record(&two, (1, INDEX), |index| {
            // The second entry is a copy of the first under its own name.
            let entry = 4 + 4 + 4 + 4 + 2;
            let words = index[entry..entry + 32].to_vec();
            let at = index.len() - 32;
            index[at..].copy_from_slice(&words);
        })?;
        fs::write(&place.archive, &bytes)?;
        let options = RestoreOptions::default().with_name(Some("g".into()));
        let error = place.restore(&options).err().ok_or("another variant's records are taken")?;
        assert_eq!(kind_of(&*error), Some(ErrorKind::Corrupt), "{error}");
        Ok(())
    })
}

#[test]
fn shapes_and_lengths_out_of_bounds_are_refused() -> Outcome {
    let place = place()?;
    let archive = archive_of(&place, Method::DeltaDct(DeltaDct::default().with_patch(8)))?;
    let second = "model-00002-of-00002.safetensors";
    for (from, to) in [
        ("[20, 24]", "[4294967296, 4294967296]"),
        ("[20, 24]", "[9223372036854775807]"),
        ("[20, 24]", "[18446744073709551615, 2]"),
        ("[20, 24]", "[18446744073709551616]"),
        ("[20, 24]", "[20, 24, 0]"),
        ("[20, 24]", "[480]"),
        ("[20, 24]", "[20, 25]"),
        ("[0,1920]", "[0,18446744073709551615]"),
        ("[0,1920]", "[1920,0]"),
        ("[0,1920]", "[1,1921]"),
        ("[1920,3840]", "[1900,3820]"),
        ("F32", "F64"),
        ("F32", "I32"),
        ("F32", "F4"),
    ] {
        let bytes = with_record(&archive, (0, HEAD), |head| edit_header(head, second, from, to))?;
        refused(&place, &bytes, &format!("{from} as {to}"))?;
    }
    // Lengths of a side file, of a shard; counts of the lists.
    let tail = [9u64.to_le_bytes().to_vec(), 9u32.to_le_bytes().to_vec(), b"other.txt".to_vec()];
    for len in [0u64, 8, 10, 1 << 40, u64::MAX] {
        let bytes = with_record(&archive, (0, HEAD), |head| {
            let at = find(head, &tail.concat());
            head[at..at + 8].copy_from_slice(&len.to_le_bytes());
        })?;
        refused(&place, &bytes, &format!("a side file of {len} bytes"))?;
        let bytes = with_record(&archive, (0, HEAD), |head| {
            let at = find(head, second.as_bytes()) + second.len();
            head[at..at + 8].copy_from_slice(&len.to_le_bytes());
        })?;
        refused(&place, &bytes, &format!("a shard of {len} bytes"))?;
    }
    for n in [0u32, 4, 6, 1 << 28, u32::MAX] {
        let bytes = with_record(&archive, (0, SEAL), |seal| {
            seal[..4].copy_from_slice(&n.to_le_bytes());
        })?;
        refused(&place, &bytes, &format!("a seal of {n} tensors"))?;
        let bytes = with_record(&archive, (0, SEAL), |seal| {
            seal[52..56].copy_from_slice(&n.to_le_bytes());
        })?;
        refused(&place, &bytes, &format!("a tensor of {n} frames"))?;
    }
    Ok(())
}

#[test]
fn a_few_bytes_that_expand_to_many_are_refused() -> Outcome {
    let place = place()?;
    let archive = archive_of(&place, Method::Lossless)?;
    // Within the cap of a record: expanded, and then found to be none. Beyond: not even expanded.
    for n in [1 << 20, 100 << 20, (128 << 20) + 1] {
        for kind in [HEAD, SEAL, INDEX] {
            let bytes = with_record(&archive, (0, kind), |content| *content = vec![0; n])?;
            assert!(bytes.len() < archive.len() + (1 << 16));
            refused(&place, &bytes, &format!("a record of kind {kind} of {n} zeros"))?;
        }
        let bytes = forge::replaced_tile(&archive, (0, 0), |payload| payload.resize(n, 0))?;
        refused(&place, &bytes, &format!("a tile of {n} bytes"))?;
    }
    Ok(())
}

/// A method, its codec, and where its payloads have floats that must be finite.
type Scales = (Method, u16, Vec<usize>);

#[test]
fn scales_that_are_no_numbers_are_refused() -> Outcome {
    let place = place()?;
    let allocation = "2:0.5,0:0.5".parse()?;
    let dct = DeltaDct::default().with_patch(8).with_allocation(allocation);
    let csr = DeltaDq::default().with_alpha(4).with_index(GroupIndex::Csr, 4);
    let cases: [Scales; 5] = [
        // Side, two classes with their bits, exponent, factor.
        (Method::DeltaDct(dct), 2, vec![6]),
        (Method::BitDelta(BitDelta::default().with_planes(2)), 3, vec![1, 5]),
        (Method::Dare(Dare::default()), 4, vec![4]),
        (Method::DeltaDq(csr), 5, vec![11]),
        (Method::UltraDelta(UltraDelta::default().with_sparsity(0.5, 0.1)), 6, vec![1, 5, 9]),
    ];
    for (method, codec, places) in cases {
        let name = method.name();
        let archive = archive_of(&place, method)?;
        let tile = forge::codecs(&archive, 0)?.iter().position(|c| *c == codec).ok_or(name)?;
        for at in places {
            for scale in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let bytes = forge::replaced_tile(&archive, (0, tile), |payload| {
                    let old = f32::from_bits(forge::u32_at(payload, at));
                    assert!(old.is_normal(), "{name}: {old} is no scale");
                    payload[at..at + 4].copy_from_slice(&scale.to_le_bytes());
                })?;
                refused(&place, &bytes, &format!("{name}: {scale} at {at}"))?;
            }
        }
    }
    Ok(())
}

#[test]
fn gains_and_ranges_out_of_bounds_are_refused() -> Outcome {
    let place = place()?;
    let plain = delta_stream::Auto::default().with_size(delta_stream::Size::Bits(2.0));
    let archive = archive_of(&place, Method::Auto(plain))?;
    let tile = forge::codecs(&archive, 0)?.iter().position(|c| *c == 7).ok_or("a path")?;
    for exponent in [121i16, 127, i16::MAX, i16::MIN, -101] {
        let bytes = forge::replaced_tile(&archive, (0, tile), |payload| {
            payload[2..4].copy_from_slice(&exponent.to_le_bytes());
        })?;
        refused(&place, &bytes, &format!("gains of 2^{exponent}"))?;
    }
    let one_class = DeltaDct::default().with_patch(8).with_allocation("8:1".parse()?);
    let archive = archive_of(&place, Method::DeltaDct(one_class))?;
    let tile = forge::codecs(&archive, 0)?.iter().position(|c| *c == 2).ok_or("patches")?;
    // Nine patches; the low and the high bytes of their least values, then of their greatest.
    for (at, high) in [(9 + 9, 0x7c), (9 + 9, 0xfe), (9 + 27, 0x7c), (9 + 27, 0xff)] {
        let bytes = forge::replaced_tile(&archive, (0, tile), |payload| {
            assert_eq!((payload[0], payload[1], payload[2]), (8, 1, 8));
            payload[at] = high;
        })?;
        refused(&place, &bytes, &format!("a range with {high:#x} at {at}"))?;
    }
    Ok(())
}

#[test]
fn a_flat_tile_has_no_codec_of_matrices() -> Outcome {
    let place = place()?;
    let archive = archive_of(&place, Method::Lossless)?;
    let tiles: Vec<_> =
        forge::frames(&archive).into_iter().filter(|f| f.kind == forge::TILE).collect();
    for tile in tiles {
        for codec in 2..=7 {
            let mut bytes = archive.clone();
            bytes[tile.at + 14] = codec;
            forge::repair(&mut bytes, tile);
            refused(&place, &bytes, &format!("a flat tile of codec {codec}"))?;
        }
    }
    Ok(())
}
