//! Damaged and forged input ends in an error of the right kind: no panic, no wrong bytes, no memory
//! that only the damage asked for.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};

use delta_stream::{
    Auto, BaseShift, BaseVector, BitDelta, CompressOptions, DeltaDct, ErrorKind, Method, Quality,
    RecoverOptions, Resources, RestoreOptions, Silent, Size, TraceOf, TraceReference, UltraDelta,
};

use crate::forge::{self, HEAD, INDEX, SEAL, TILE, frames};
use crate::made::{
    Files, Outcome, Place, Rng, alone, kind_of, one_shard, read, shard, twins, verify, write,
};

/// Mutated checkpoints, and mutated archives of all four kinds together, unless [`ASKED`] says how many.
const N: usize = 2000;
/// Variable for a longer run than every change can wait for.
const ASKED: &str = "DELTA_STREAM_TEST_MUTATIONS";
/// Calls that each mutated archive goes through.
const CALLS: usize = 8;
/// More memory than this beyond the start was asked for by the damage.
const MEMORY: u64 = 300 << 20;

/// Runs a test in a process of its own, since the most memory a process had is known for all of it.
fn in_own_process(test: &str, body: impl FnOnce() -> Outcome) -> Outcome {
    alone(&format!("hostile::{test}"), || {
        let before = peak_memory();
        body()?;
        let grown = peak_memory().saturating_sub(before);
        assert!(grown < MEMORY, "{} MiB for hostile input", grown >> 20);
        Ok(())
    })
}

/// Most bytes this process has had resident; 0 where the system does not say.
fn peak_memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    let kib = line.and_then(|l| l.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}

fn n_mutations() -> usize {
    std::env::var(ASKED).ok().and_then(|n| n.parse().ok()).unwrap_or(N)
}

fn resources() -> Resources {
    Resources::default().with_threads(2)
}

/// A pair of a few KiB: a lossy matrix, a grown table, an alias, a side file.
fn tiny() -> Outcome<Place> {
    let mut rng = Rng::new(31);
    let (b0, f0) = twins(&mut rng, "model.layers.0.a.weight", "F32", &[20, 24]);
    let (b1, _) = twins(&mut rng, "model.embed.weight", "BF16", &[20, 8]);
    let (_, f1) = twins(&mut rng, "model.embed.weight", "BF16", &[24, 8]);
    let (_, f2) = twins(&mut rng, "head.bias", "F16", &[8]);
    let mut f3 = f1.clone();
    f3.name = "lm_head.weight".into();
    let ft = Files::from([
        ("model.safetensors".into(), shard(&[f0, f1, f2, f3], None, 0)),
        ("config.json".into(), b"{\"a\": 1}\n".to_vec()),
    ]);
    Place::new(&one_shard(&[b0, b1]), &ft)
}

/// An archive of the variants a and b, and what each restores to.
type Stored = (Vec<u8>, [Files; 2]);

/// The tiny pair in archives of two variants: one without loss and patches, survivors in runs and one
/// on a shifted base, trellis paths of whole numbers and of codewords.
fn two_variants() -> Outcome<(Place, [Stored; 3])> {
    let place = tiny()?;
    let options = |name, method| CompressOptions::new(method).with_name(name);
    let dct = Method::DeltaDct(DeltaDct::default().with_patch(8));
    let runs = Method::UltraDelta(UltraDelta::default().with_sparsity(0.5, 0.1).with_trace(
        TraceReference::Archive,
        TraceOf::Survivors,
        0.5,
    ));
    let signs = Method::BitDelta(BitDelta::default());
    let shift = BaseShift::new(BaseVector::Own).with_parameters(Some(0.75), Some(1.25));
    let store = |a, b| {
        let (ft, base, archive) = (&place.ft, &place.base, &place.archive);
        delta_stream::compress(ft, base, archive, &a, &Silent)?;
        delta_stream::append(ft, base, archive, &b, &Silent)?;
        let stored = (fs::read(archive)?, [restore(&place, "a")?, restore(&place, "b")?]);
        fs::remove_file(archive)?;
        Outcome::Ok(stored)
    };
    let plain = store(options("a", Method::Lossless), options("b", dct))?;
    let shifted = store(options("a", runs), options("b", signs).with_base_shift(Some(shift)))?;
    let paths = |quality| Method::Auto(Auto::default().with_size(Size::Quality(quality)));
    let (high, small) = (paths(Quality::High), paths(Quality::Small));
    let paths = store(options("a", high), options("b", small))?;
    Ok((place, [plain, shifted, paths]))
}

fn restore(place: &Place, name: &str) -> Outcome<Files> {
    let options = RestoreOptions::default().with_resources(resources());
    place.restore(&options.with_name(Some(name.into())))
}

/// Runs everything that opens an archive over `bytes`. Where `honest`, whatever is restored must be
/// what was stored. Returns how many of the calls succeeded.
fn probe(place: &Place, bytes: &[u8], wanted: &[Files; 2], honest: bool) -> Outcome<usize> {
    fs::write(&place.archive, bytes)?;
    let mut ok = 0;
    let mut hold = |result: Outcome| match result {
        Ok(()) => ok += 1,
        Err(e) => {
            let kind = kind_of(&*e);
            let expected = matches!(
                kind,
                Some(
                    ErrorKind::Corrupt
                        | ErrorKind::Truncated
                        | ErrorKind::Incompatible
                        | ErrorKind::Mismatch
                        | ErrorKind::InvalidArgument
                )
            );
            assert!(expected, "{kind:?}: {e}");
        }
    };
    hold(delta_stream::inspect(&place.archive, None, true).map(drop).map_err(Into::into));
    for base in [None, Some(&*place.base)] {
        let verified = verify(&place.archive, base);
        hold(verified.map(drop).map_err(Into::into));
    }
    let mut found = Vec::new();
    for (name, wanted) in ["a", "b"].into_iter().zip(wanted) {
        hold(restore(place, name).map(|files| {
            assert!(!honest || files == *wanted, "{name} restores to other bytes");
            found.push((name, files));
        }));
    }
    // What an archive held before does not touch what is added to it.
    let options =
        CompressOptions::new(Method::Lossless).with_name("added").with_resources(resources());
    let added = delta_stream::append(&place.ft, &place.base, &place.archive, &options, &Silent);
    let is_added = added.is_ok();
    hold(added.map(drop).map_err(Into::into));
    assert!(!is_added || restore(place, "added")? == read(&place.ft)?, "what is added is lost");
    // A copy without the waste restores to the same, or there is none and the archive stays.
    let before = fs::read(&place.archive)?;
    let compacted = delta_stream::compact(&place.archive, &Silent);
    let is_old = fs::read(&place.archive)? == before;
    assert!(is_old || compacted.is_ok(), "a compact that failed wrote");
    for (name, files) in found.iter().filter(|_| !is_old) {
        assert!(restore(place, name)? == *files, "{name} restores to other bytes from the copy");
    }
    hold(compacted.map(drop).map_err(Into::into));
    // What a recover saves restores to what was stored, or is refused where a forger made it.
    fs::write(&place.archive, bytes)?;
    let saved = place.path("saved");
    let recovered =
        delta_stream::recover(&place.archive, &saved, &RecoverOptions::default(), &Silent);
    if let Ok(report) = &recovered {
        fs::rename(&saved, &place.archive)?;
        for (name, wanted) in ["a", "b"].into_iter().zip(wanted).filter(|_| honest) {
            let files = restore(place, name).unwrap_or_default();
            assert!(files.is_empty() || files == *wanted, "{name} was saved wrong");
            let saved = report.variants.iter().find(|v| v.name == name && v.state == "partial");
            assert!(saved.is_none() || files.is_empty(), "{name} is not whole");
        }
    }
    assert!(!saved.exists(), "a recover that failed wrote");
    hold(recovered.map(drop).map_err(Into::into));
    Ok(ok)
}

/// Probes `n` archives that `damage` makes; says how many calls went through. `least` is how many of
/// a hundred must: damage that never gets past the first check would test nothing.
fn check(
    n: usize,
    honest: bool,
    least: usize,
    damage: impl Fn(&mut Rng, &[u8]) -> Outcome<Vec<u8>>,
) -> Outcome {
    let (place, stored) = two_variants()?;
    fs::write(&place.archive, &stored[0].0)?;
    let mut rng = Rng::new(77);
    let before = fs::read_dir(place.path(""))?.count();
    let mut ok = 0;
    for i in 0..n {
        let (archive, wanted) = &stored[i % 2];
        let bytes = damage(&mut rng, archive)?;
        let probed = catch_unwind(AssertUnwindSafe(|| probe(&place, &bytes, wanted, honest)));
        match probed {
            Ok(n) => ok += n?,
            Err(_) => {
                let keep = std::env::temp_dir().join(format!("hostile-{i}.delta.zst"));
                fs::write(&keep, &bytes)?;
                return Err(format!("mutation {i} fails; it is kept as {}", keep.display()).into());
            }
        }
    }
    assert!(ok * 100 >= n * CALLS * least, "only {ok} of {} calls went through", n * CALLS);
    // Nothing was written elsewhere, whatever names the archive held.
    assert_eq!(fs::read_dir(place.path(""))?.count(), before);
    Ok(())
}

/// Changes a few bytes: bits, fields set to extremes, a cut, an insertion, a range copied over another.
fn mutate(rng: &mut Rng, bytes: &mut Vec<u8>) {
    let at = rng.below(bytes.len().max(1)).min(bytes.len().saturating_sub(1));
    if bytes.is_empty() {
        return;
    }
    match rng.below(8) {
        0 => bytes.truncate(at),
        1 => {
            let n = rng.below(9);
            let new = rng.bytes(n);
            bytes.splice(at..at, new);
        }
        2 => {
            let n = rng.below(40).min(bytes.len() - at);
            let from = rng.below(bytes.len() - n + 1);
            bytes.copy_within(from..from + n, at);
        }
        3 | 4 => {
            let value: u64 =
                [0, 1, u64::MAX, 1 << 63, 1 << 31, 0xffff_ffff, 1 << 20, 1 << 40][rng.below(8)];
            let n = [1, 2, 4, 8][rng.below(4)].min(bytes.len() - at);
            bytes[at..at + n].copy_from_slice(&value.to_le_bytes()[..n]);
        }
        n => (4..n).for_each(|_| {
            let at = rng.below(bytes.len());
            bytes[at] ^= 1 << rng.below(8);
        }),
    }
}

#[test]
fn damaged_archives() -> Outcome {
    in_own_process("damaged_archives", || {
        check(n_mutations() * 2 / 5, true, 5, |rng, archive| {
            let mut bytes = archive.to_vec();
            mutate(rng, &mut bytes);
            Ok(bytes)
        })
    })
}

/// Fields of frame headers and footers, and bodies of tiles and blobs, with checksums made right.
#[test]
fn frames_with_right_checksums() -> Outcome {
    in_own_process("frames_with_right_checksums", || {
        check(n_mutations() / 5, true, 5, |rng, archive| {
            let mut bytes = archive.to_vec();
            let all = frames(archive);
            let frame = all[rng.below(all.len())];
            let is_record = [HEAD, SEAL, INDEX].contains(&frame.kind);
            let within = if is_record || rng.below(3) > 0 { frame.len.min(48) } else { frame.len };
            let mut part = bytes[frame.at..frame.at + within].to_vec();
            mutate(rng, &mut part);
            part.resize(within, 0);
            bytes[frame.at..frame.at + within].copy_from_slice(&part);
            forge::repair(&mut bytes, frame);
            Ok(bytes)
        })
    })
}

/// Records with right checksums say what a forger wants, so other bytes may come out of them.
#[test]
fn forged_records() -> Outcome {
    in_own_process("forged_records", || {
        check(n_mutations() / 5, false, 5, |rng, archive| {
            let kind = [HEAD, HEAD, SEAL, INDEX][rng.below(4)];
            let entry = rng.below(forge::n_entries(archive)?);
            forge::replaced(archive, (entry, kind), rng, mutate)
        })
    })
}

/// Shifts along what is no vector, or out of all bounds.
#[test]
fn forged_shifts() -> Outcome {
    in_own_process("forged_shifts", || {
        let (place, [_, (archive, wanted), _]) = two_variants()?;
        // Ids: 0 is the variant a, 1 the vector, 2 the variant b itself.
        let fields = |vector: u32, lambda: f32, eta: f32| {
            [vector, lambda.to_bits(), eta.to_bits()].map(u32::to_le_bytes).concat()
        };
        let as_it_is = fields(1, 0.75, 1.25);
        let mut n_right = 0;
        for forged in [
            as_it_is.clone(),
            fields(0, 0.75, 1.25),
            fields(2, 0.75, 1.25),
            fields(3, 0.75, 1.25),
            fields(u32::MAX, 0.0, 1.25),
            fields(1, f32::MAX, 1.25),
            fields(1, f32::MIN_POSITIVE, f32::MIN),
            fields(1, f32::NAN, 1.25),
            fields(1, 0.75, f32::INFINITY),
        ] {
            let mut was_there = false;
            let bytes = forge::replaced(&archive, (2, HEAD), &mut Rng::new(1), |_, head| {
                let at = head.len() - forged.len();
                was_there = head[at..] == as_it_is;
                head[at..].copy_from_slice(&forged);
            })?;
            assert!(was_there);
            probe(&place, &bytes, &wanted, true)?;
            fs::write(&place.archive, &bytes)?;
            match restore(&place, "b") {
                Ok(_) => n_right += 1,
                Err(e) => assert_eq!(kind_of(&*e), Some(ErrorKind::Corrupt), "{e}"),
            }
        }
        assert_eq!(n_right, 1);
        Ok(())
    })
}

#[test]
fn forged_tiles() -> Outcome {
    in_own_process("forged_tiles", || {
        check(n_mutations() / 5, true, 5, |rng, archive| {
            let entry = rng.below(forge::n_entries(archive)?);
            forge::replaced(archive, (entry, TILE), rng, mutate)
        })
    })
}

#[test]
fn damaged_checkpoints() -> Outcome {
    in_own_process("damaged_checkpoints", || {
        let place = tiny()?;
        let (base, ft) = (read(&place.base)?, read(&place.ft)?);
        let mut rng = Rng::new(78);
        for i in 0..n_mutations() {
            let mut files = if i % 4 == 0 { base.clone() } else { ft.clone() };
            if let Some(bytes) = files.get_mut("model.safetensors") {
                let n = 8 + forge::u32_at(bytes, 0) as usize;
                let mut header = bytes[..n].to_vec();
                mutate(&mut rng, &mut header);
                // A length that still fits lets the damage reach the JSON.
                if header.len() > 8 && rng.below(4) > 0 {
                    let n = header.len() as u64 - 8;
                    header[..8].copy_from_slice(&n.to_le_bytes());
                }
                bytes.splice(..n, header);
            }
            write(if i % 4 == 0 { &place.base } else { &place.ft }, &files)?;
            if i % 4 == 0 {
                write(&place.ft, &ft)?;
            } else {
                write(&place.base, &base)?;
            }
            match place.compress(Method::Lossless) {
                Ok(_) => {
                    let restored = place.restore(&RestoreOptions::default())?;
                    assert!(restored == read(&place.ft)?, "mutation {i} comes back changed");
                }
                Err(e) => assert_eq!(e.kind(), ErrorKind::InvalidCheckpoint, "mutation {i}: {e}"),
            }
        }
        Ok(())
    })
}
