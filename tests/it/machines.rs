//! A compress in parts, as on several machines: what is joined is what one run writes, and nothing else is
//! joined.

use std::fs;
use std::path::{Path, PathBuf};

use delta_stream::{
    Auto, BaseShift, BaseVector, BitDelta, CompressOptions, Dare, DeltaDct, ErrorKind, Method,
    Observer, PairShape, Parity, PartOptions, RecoverOptions, Resources, RestoreOptions, Silent,
    Size, Split, TraceOf, TraceReference, UltraDelta, VerifyOptions,
};

use crate::forge_part::{self, Piece};
use crate::made::{
    Files, Outcome, Place, Rng, Tensor, alone, every_method, one_shard, shard, tensor, twins,
};

/// Tensors of all kinds: of many tiles, stacked, not finite, without elements, twice the same, new, grown;
/// a side file of two pieces and one without bytes.
fn place() -> Outcome<Place> {
    let mut rng = Rng::new(17);
    let mut base = Vec::new();
    let mut ft = Vec::new();
    for (name, dtype, shape) in [
        ("layers.0.a.weight", "BF16", &[96, 80][..]),
        ("layers.0.b.weight", "F32", &[1100, 1000]),
        ("layers.0.experts.weight", "F16", &[3, 48, 64]),
        ("layers.1.a.weight", "BF16", &[80, 96]),
        ("norm.weight", "F32", &[300]),
    ] {
        let (b, f) = twins(&mut rng, name, dtype, shape);
        base.push(b);
        ft.push(f);
    }
    ft[1].bytes[400..404].copy_from_slice(&f32::INFINITY.to_le_bytes());
    ft.push(Tensor { name: "layers.1.tied.weight".into(), ..ft[3].clone() });
    ft.push(tensor("empty", "F32", &[0, 4], Vec::new()));
    ft.push(tensor("new", "I64", &[20], rng.bytes(160)));
    base.push(tensor("grown", "BF16", &[10, 8], rng.bytes(160)));
    ft.push(tensor("grown", "BF16", &[12, 8], rng.bytes(192)));
    let (first, second) = ft.split_at(4);
    let files = Files::from([
        ("model-00001-of-00002.safetensors".into(), shard(first, None, 0)),
        ("model-00002-of-00002.safetensors".into(), shard(second, None, 3)),
        ("config.json".into(), b"{}\n".to_vec()),
        ("empty.txt".into(), Vec::new()),
        ("tokenizer.model".into(), rng.bytes((1 << 20) + 77)),
    ]);
    Place::new(&one_shard(&base), &files)
}

fn options(method: Method, threads: usize) -> CompressOptions {
    let resources = Resources::default().with_threads(threads);
    CompressOptions::new(method).with_name("v").with_seed(5).with_resources(resources)
}

/// A compress in parts, in a directory of a place.
struct Lab<'a> {
    place: &'a Place,
    options: CompressOptions,
    split: Split,
}

impl<'a> Lab<'a> {
    fn new(place: &'a Place, method: Method, n: u32) -> Outcome<Self> {
        let options = options(method, 2);
        let split = delta_stream::split(&place.ft, &place.base, n, &options, &Silent)?;
        // As it comes from a file.
        let split = serde_json::from_str(&serde_json::to_string(&split)?)?;
        Ok(Self { place, options, split })
    }

    fn part(&self, part: u32, surveys: Option<&Path>, output: &Path) -> delta_stream::Result<()> {
        // Neither threads nor the time of a part show.
        let threads = 1 + part as usize % 3;
        let resources = self.options.resources.clone().with_threads(threads);
        let options = self.options.clone().with_resources(resources);
        let part = PartOptions::new(self.split.clone(), part);
        let part = part.with_surveys(surveys.map(Path::to_owned));
        let (ft, base) = (&self.place.ft, &self.place.base);
        delta_stream::compress_part(ft, base, output, &part, &options, &Silent).map(drop)
    }

    /// All parts of a round, the last one first, each at its place.
    fn round(&self, round: u32, surveys: Option<&Path>) -> Outcome<Vec<PathBuf>> {
        let mut parts = Vec::new();
        for part in (1..=self.split.parts).rev() {
            let output = self.place.path(&format!("{round}.{part}"));
            self.part(part, surveys, &output)?;
            parts.push(output);
        }
        Ok(parts)
    }

    /// All rounds; returns the parts of the last one.
    fn rounds(&self) -> Outcome<Vec<PathBuf>> {
        let mut surveys = None;
        for round in 1..self.split.rounds {
            let parts = self.round(round, surveys.as_deref())?;
            let output = self.place.path(&format!("{round}.surveys"));
            delta_stream::join(&parts, &output, true, &Silent)?;
            surveys = Some(output);
        }
        self.round(self.split.rounds, surveys.as_deref())
    }

    fn clear(&self) -> Outcome {
        for entry in fs::read_dir(self.place.path(""))? {
            let path = entry?.path();
            if path.is_file() {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }
}

/// Methods that survey in other ways than by default.
fn more_methods() -> [Method; 5] {
    let traced = UltraDelta::default();
    let survivors = traced.with_trace(TraceReference::Value(0.1), TraceOf::Survivors, 0.0);
    let all = traced.with_trace(TraceReference::Archive, TraceOf::Delta, 0.5);
    [
        Method::UltraDelta(survivors),
        Method::UltraDelta(all),
        Method::BitDelta(BitDelta::default().with_planes(2)),
        Method::Auto(Auto::default().with_size(Size::Bits(1.5))),
        Method::Auto(Auto::default().with_size(Size::Ratio(2.5))),
    ]
}

#[test]
fn what_is_joined_is_what_one_run_writes() -> Outcome {
    let place = place()?;
    for method in every_method().into_iter().chain(more_methods()) {
        let one = options(method.clone(), 2).with_force(true);
        delta_stream::compress(&place.ft, &place.base, &place.archive, &one, &Silent)?;
        let wanted = fs::read(&place.archive)?;
        for n in [2, 20] {
            let lab = Lab::new(&place, method.clone(), n)?;
            let what = format!("{method:?}, {n} parts");
            assert_eq!(lab.split.shares.len(), n as usize, "{what}");
            let joined = place.path("joined");
            let parts = lab.rounds()?;
            let report = delta_stream::join(&parts, &joined, false, &Silent)?;
            assert!(fs::read(&joined)? == wanted, "{what}: other bytes");
            let archive = report.archive.ok_or("no archive")?;
            assert_eq!(
                (report.written_bytes, archive.archive_bytes),
                (wanted.len() as u64, wanted.len() as u64)
            );
            lab.clear()?;
        }
    }
    Ok(())
}

#[test]
fn rates_that_are_given_need_no_strips_and_are_part_of_what_parts_stand_on() -> Outcome {
    let place = Place::made_up(&PairShape::small().with_sizes(64, 176, 96, 2))?;
    let auto = Auto::default();
    let forecast = delta_stream::forecast(
        &place.ft,
        &place.base,
        &options(Method::Auto(auto.clone()), 1),
        &Silent,
    )?;
    let mut rates = forecast.plan.ok_or("no plan")?;
    let planned = Method::Auto(auto.clone().with_plan(Some(rates.clone())));
    let lab = Lab::new(&place, planned.clone(), 3)?;
    assert_eq!(lab.split.settled, None);
    let parts = lab.rounds()?;
    let joined = place.path("joined");
    delta_stream::join(&parts, &joined, false, &Silent)?;
    delta_stream::compress(&place.ft, &place.base, &place.archive, &options(planned, 1), &Silent)?;
    assert!(fs::read(&joined)? == fs::read(&place.archive)?);
    rates.matrices[0].rate = "1/8".to_owned();
    let changed = Method::Auto(auto.with_plan(Some(rates)));
    let other = Lab { options: options(changed, 1), ..lab };
    let error = other.part(1, None, &place.path("other")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
    Ok(())
}

/// A small pair, and the parts of its last round in order.
fn small(method: Method, n: u32) -> Outcome<(Place, Vec<PathBuf>)> {
    let mut rng = Rng::new(4);
    let (b0, f0) = twins(&mut rng, "layers.0.a.weight", "BF16", &[9, 10]);
    let (b1, f1) = twins(&mut rng, "layers.1.a.weight", "BF16", &[12, 10]);
    let (b2, f2) = twins(&mut rng, "norm.weight", "F32", &[6]);
    let mut files = one_shard(&[f0, f1, f2]);
    files.insert("config.json".into(), b"{}\n".to_vec());
    let place = Place::new(&one_shard(&[b0, b1, b2]), &files)?;
    let mut parts = Lab::new(&place, method, n)?.rounds()?;
    parts.reverse();
    Ok((place, parts))
}

/// Joins, which has to fail with these words and leave nothing.
fn refused(place: &Place, parts: &[PathBuf], words: &[&str]) -> Outcome<ErrorKind> {
    let error = delta_stream::join(parts, &place.archive, false, &Silent);
    let error = error.err().ok_or_else(|| format!("{parts:?} were joined"))?;
    let text = error.to_string();
    assert!(words.iter().all(|word| text.contains(word)), "{text}");
    assert!(!place.archive.exists() && !place.path(".ft.delta.zst.partial").exists(), "{text}");
    Ok(error.kind())
}

#[test]
fn only_all_parts_of_one_round_of_one_split_are_joined() -> Outcome {
    let dare = || Method::Dare(Dare::default());
    let (place, parts) = small(dare(), 3)?;
    let [a, b, c] = [0, 1, 2].map(|i| parts[i].clone());
    let copy = place.path("copy");
    fs::copy(&b, &copy)?;
    let usage = ErrorKind::InvalidArgument;
    assert_eq!(refused(&place, &[a.clone(), c.clone()], &["part 2 of 3 is missing"])?, usage);
    assert_eq!(refused(&place, std::slice::from_ref(&c), &["part 1 of 3", "1 more"])?, usage);
    assert_eq!(
        refused(&place, &[a.clone(), b.clone(), c.clone(), copy], &["copy", "both", "part 2"])?,
        usage
    );
    assert_eq!(refused(&place, &[], &["no parts"])?, usage);
    assert_eq!(refused(&place, &[a.clone(), place.path("none")], &["none"])?, ErrorKind::Io);
    let config = place.ft.join("config.json");
    assert_eq!(
        refused(&place, &[a.clone(), b.clone(), config], &["config.json", "no part"])?,
        usage
    );
    // Of another seed, another number of parts, another method, another file.
    let make = |options: CompressOptions, n, part| -> Outcome<PathBuf> {
        let split = delta_stream::split(&place.ft, &place.base, n, &options, &Silent)?;
        let lab = Lab { place: &place, options: options.with_force(true), split };
        let output = place.path("other");
        lab.part(part, None, &output)?;
        Ok(output)
    };
    for (options, n, words) in [
        (options(dare(), 1).with_seed(6), 3, "other files or settings"),
        (options(dare(), 1).with_name("w"), 3, "other files or settings"),
        (options(dare(), 1), 4, "part 2 of 4"),
        (options(Method::Lossless, 1), 3, "other files or settings"),
    ] {
        let other = make(options, n, 2)?;
        assert_eq!(refused(&place, &[a.clone(), other, c.clone()], &["other", words])?, usage);
    }
    let shard = place.ft.join("model.safetensors");
    let mut bytes = fs::read(&shard)?;
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&shard, bytes)?;
    let other = make(options(dare(), 1), 3, 2)?;
    assert_eq!(refused(&place, &[a.clone(), other, c.clone()], &["other files"])?, usage);
    // Over one of its own parts.
    let own = delta_stream::join(&parts, &a, true, &Silent).unwrap_err();
    assert!(own.to_string().contains("one of the parts"), "{own}");
    delta_stream::join(&parts, &place.archive, false, &Silent)?;
    let there = delta_stream::join(&parts, &place.archive, false, &Silent).unwrap_err();
    assert_eq!(there.kind(), usage, "{there}");
    Ok(())
}

#[test]
fn rounds_follow_one_another() -> Outcome {
    let ultradelta = UltraDelta::default();
    let (place, parts) = small(Method::UltraDelta(ultradelta), 2)?;
    let lab = Lab::new(&place, Method::UltraDelta(ultradelta), 2)?;
    let surveys = place.path("1.surveys");
    let first = [place.path("1.1"), place.path("1.2")];
    let usage = ErrorKind::InvalidArgument;
    let mixed = [first[0].clone(), parts[1].clone()];
    assert_eq!(refused(&place, &mixed, &["round 1 of 2", "round 2 of 2"])?, usage);
    let joined = [surveys.clone(), first[1].clone()];
    assert_eq!(refused(&place, &joined, &["joined already"])?, usage);
    let out = place.path("out");
    for (surveys, words) in [
        (&first[0], "join all parts"),
        (&parts[0], "no surveys"),
        (&place.base.join("model.safetensors"), "no part"),
    ] {
        let error = lab.part(1, Some(surveys), &out).unwrap_err();
        assert!(error.to_string().contains(words) && !out.exists(), "{error}");
    }
    let other = Lab::new(&place, Method::UltraDelta(ultradelta.with_bits(3)), 2)?;
    let error = other.part(1, Some(&surveys), &out).unwrap_err();
    assert!(error.to_string().contains("other files, settings"), "{error}");
    // A method without a decision about the whole model has nothing to survey for.
    let dare = Lab::new(&place, Method::Dare(Dare::default()), 2)?;
    assert_eq!(dare.split.rounds, 1);
    assert_eq!(dare.part(1, Some(&surveys), &out).unwrap_err().kind(), usage);
    // Surveys that lack a tile are not made up for; nor may there be more than tiles.
    let mut walk = forge_part::pieces(&fs::read(&surveys)?);
    let one = walk.remove(1);
    let more = [&walk[..], &vec![one; 99]].concat();
    fs::write(&surveys, forge_part::part(&more))?;
    let error = lab.part(1, Some(&surveys), &out).unwrap_err();
    assert!(error.to_string().contains("more surveys than"), "{error}");
    fs::write(&surveys, forge_part::part(&walk))?;
    let error = lab.part(1, Some(&surveys), &out).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("lacks surveys of tensor layers.0.a.weight"), "{error}");
    assert!(!out.exists());
    Ok(())
}

#[test]
fn a_split_is_of_its_files_and_options() -> Outcome {
    let place = Place::made_up(&PairShape::small().with_sizes(64, 176, 96, 2))?;
    let dct = Method::DeltaDct(DeltaDct::default());
    let lab = Lab::new(&place, dct.clone(), 2)?;
    let split = &lab.split;
    let out = place.path("out");
    let with = |options, split: &Split| Lab { place: &place, options, split: split.clone() };
    let smaller = Method::DeltaDct(DeltaDct::default().with_patch(8));
    let mut newer = split.clone();
    newer.tool = "delta-stream 99.0.0".into();
    for (lab, part, words) in [
        (with(options(Method::Lossless, 1), split), 1, "--method delta-dct, not lossless"),
        (with(options(smaller, 1), split), 1, "other settings"),
        (with(options(dct.clone(), 1).with_seed(6), split), 1, "another seed"),
        (with(options(dct.clone(), 1).with_name("w"), split), 1, "variant `v`, not `w`"),
        (with(options(dct.clone(), 1), &newer), 1, "99.0.0"),
        (with(options(dct.clone(), 1), split), 0, "1 to 2"),
        (with(options(dct.clone(), 1), split), 3, "1 to 2"),
    ] {
        let error = lab.part(part, None, &out).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(error.to_string().contains(words) && !out.exists(), "{error}");
    }
    // What only one run can do.
    let shifted = options(dct.clone(), 1).with_base_shift(Some(BaseShift::new(BaseVector::Own)));
    let resumed = options(dct.clone(), 1).with_resume(true);
    let parity = options(dct.clone(), 1).with_parity(Some(Parity::percent(2.0)?));
    for (options, words) in [(shifted, "--base-shift"), (resumed, "--resume"), (parity, "--parity")]
    {
        let error = delta_stream::split(&place.ft, &place.base, 2, &options, &Silent).unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
        assert!(with(options, split).part(1, None, &out).is_err());
    }
    for n in [0, 1_000_000] {
        assert!(delta_stream::split(&place.ft, &place.base, n, &lab.options, &Silent).is_err());
    }
    Ok(())
}

/// Stops at once.
struct Stop;

impl Observer for Stop {
    fn progress(&self, _done: u64, _total: u64) {}
    fn note(&self, _text: &str) {}
    fn is_cancelled(&self) -> bool {
        true
    }
}

#[test]
fn a_part_that_is_stopped_leaves_nothing() -> Outcome {
    let (place, parts) = small(Method::Dare(Dare::default()), 2)?;
    let lab = Lab::new(&place, Method::Dare(Dare::default()), 2)?;
    let out = place.path("out");
    let part = PartOptions::new(lab.split.clone(), 1);
    let (ft, base) = (&place.ft, &place.base);
    let stopped = delta_stream::compress_part(ft, base, &out, &part, &lab.options, &Stop);
    assert_eq!(stopped.unwrap_err().kind(), ErrorKind::Interrupted);
    let stopped = delta_stream::join(&parts, &place.archive, false, &Stop);
    assert_eq!(stopped.unwrap_err().kind(), ErrorKind::Interrupted);
    let names: Vec<_> = fs::read_dir(place.path(""))?.map(|e| e.unwrap().file_name()).collect();
    assert!(names.iter().all(|n| !n.to_string_lossy().starts_with('.')), "{names:?}");
    assert!(!out.exists() && !place.archive.exists());
    Ok(())
}

#[test]
fn a_part_is_no_archive_and_says_what_it_is() -> Outcome {
    let (place, parts) = small(Method::Dare(Dare::default()), 2)?;
    let part = &parts[0];
    let says = |error: delta_stream::Error| {
        let text = error.to_string();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{text}");
        assert!(text.contains("part 1 of 2, round 1 of 1") && text.contains("join"), "{text}");
    };
    says(delta_stream::inspect(part, None, false).unwrap_err());
    says(delta_stream::verify(part, &VerifyOptions::default(), &Silent).unwrap_err());
    let (base, out) = (&place.base, place.path("out"));
    let restored = delta_stream::restore(part, base, &out, &RestoreOptions::default(), &Silent);
    says(restored.unwrap_err());
    let options = RecoverOptions::default();
    says(delta_stream::recover(part, &out, &options, &Silent).unwrap_err());
    let more = CompressOptions::new(Method::Lossless).with_name("w");
    says(delta_stream::append(&place.ft, base, part, &more, &Silent).unwrap_err());
    assert!(!out.exists());
    Ok(())
}

fn is_typed(kind: ErrorKind) -> bool {
    use ErrorKind as K;
    matches!(kind, K::Corrupt | K::Truncated | K::Incompatible | K::InvalidArgument)
}

#[test]
fn any_single_byte_of_a_part_that_is_changed_or_lost_is_noticed() -> Outcome {
    for method in [Method::Dare(Dare::default()), Method::UltraDelta(UltraDelta::default())] {
        let (place, parts) = small(method, 2)?;
        let mut files = vec![parts.clone()];
        if place.path("1.surveys").exists() {
            files.push(vec![place.path("1.1"), place.path("1.2")]);
        }
        for parts in files {
            for part in &parts {
                let whole = fs::read(part)?;
                assert!(forge_part::part(&forge_part::pieces(&whole)) == whole);
                for i in 0..whole.len() {
                    let mut bad = whole.clone();
                    bad[i] ^= 1 << (i % 8);
                    fs::write(part, bad)?;
                    assert!(is_typed(refused(&place, &parts, &[])?), "byte {i}");
                    if i % 7 == 0 {
                        fs::write(part, &whole[..i])?;
                        assert!(is_typed(refused(&place, &parts, &[])?), "cut to {i}");
                    }
                }
                fs::write(part, [&whole[..], b"x"].concat())?;
                assert!(is_typed(refused(&place, &parts, &[])?), "longer");
                fs::write(part, whole)?;
            }
        }
    }
    Ok(())
}

#[test]
fn a_forged_part_ends_in_an_error_or_in_an_archive() -> Outcome {
    alone("machines::a_forged_part_ends_in_an_error_or_in_an_archive", forged)
}

fn forged() -> Outcome {
    let (place, parts) = small(Method::UltraDelta(UltraDelta::default()), 2)?;
    let mut rng = Rng::new(8);
    let mut n_refused = 0;
    for part in &parts {
        let whole = fs::read(part)?;
        let pieces = forge_part::pieces(&whole);
        for round in 0..800 {
            let mut bad = pieces.clone();
            let i = rng.below(bad.len());
            match round % 5 {
                0 => drop(bad.remove(i)),
                1 => bad.swap(i, rng.below(pieces.len())),
                2 => bad.insert(i, pieces[rng.below(pieces.len())].clone()),
                _ => {
                    let at = rng.below(bad[i].0.len());
                    bad[i].0[at] = rng.below(256) as u8;
                }
            }
            fs::write(part, forge_part::part(&bad))?;
            match delta_stream::join(&parts, &place.archive, true, &Silent) {
                Ok(_) => drop(delta_stream::inspect(&place.archive, None, true)?),
                Err(error) => {
                    assert!(is_typed(error.kind()), "{error}");
                    n_refused += 1;
                }
            }
        }
        fs::write(part, whole)?;
    }
    assert!(n_refused > 1000, "{n_refused}");
    Ok(())
}

/// A frame says which codec it is of, and stands where one of another codec has to come.
#[test]
fn a_tile_of_another_methods_part_is_refused() -> Outcome {
    let (place, parts) = small(Method::Lossless, 2)?;
    let (_other, others) = small(Method::Dare(Dare::default()), 2)?;
    let mut pieces = forge_part::pieces(&fs::read(&parts[0])?);
    let theirs = forge_part::pieces(&fs::read(&others[0])?);
    let first = |pieces: &[Piece]| pieces.iter().position(|p| p.0[0] == forge_part::TILE);
    let (at, from) = (first(&pieces).ok_or("no tile")?, first(&theirs).ok_or("no tile")?);
    pieces[at] = theirs[from].clone();
    fs::write(&parts[0], forge_part::part(&pieces))?;
    let name = parts[0].display().to_string();
    let words = [name.as_str(), "tile 0 of tensor layers.0.a.weight", "codec of a matrix"];
    assert_eq!(refused(&place, &parts, &words)?, ErrorKind::Corrupt);
    Ok(())
}

#[test]
fn the_error_of_a_part_that_is_cut_off_names_it() -> Outcome {
    let (place, parts) = small(Method::Dare(Dare::default()), 2)?;
    let whole = fs::read(&parts[1])?;
    fs::write(&parts[1], &whole[..whole.len() - 30])?;
    let name = parts[1].display().to_string();
    assert_eq!(refused(&place, &parts, &[&name, "cut off"])?, ErrorKind::Truncated);
    // One that speaks of very many costs nothing.
    let mut pieces = forge_part::pieces(&fs::read(&parts[0])?);
    pieces[0].0[25..29].copy_from_slice(&u32::MAX.to_le_bytes());
    fs::write(&parts[0], forge_part::part(&pieces))?;
    assert_eq!(refused(&place, &parts[..1], &["4294967293 more"])?, ErrorKind::InvalidArgument);
    Ok(())
}
