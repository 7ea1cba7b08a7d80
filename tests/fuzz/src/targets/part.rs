//! Parts of small models by several methods: one of them damaged, with checksums made right where that lets the
//! damage reach further, then joined; or what surveys found, joined and damaged, given to the next round. Input:
//! which round of which method, which part, how it is damaged, and with what.

use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;

use delta_stream::{
    Auto, CompressOptions, Dare, ErrorKind, JoinReport, Method, PartOptions, Resources, Silent,
    Split, UltraDelta, VerifyOptions, fuzzing,
};

use super::input::Input;
use super::{CHANGES, hold_to_kinds, scratched};
use crate::forge::{self, Frame};
use crate::forge_part::{self, Piece};
use crate::made::{Files, Outcome, Place, Rng, one_shard, tensor, twins};

/// Rounds that inputs are of: the rounds of `lossless`, `dare`, `ultradelta` and `auto`.
pub(crate) const ROUNDS: usize = 6;
/// Ways to damage a part.
pub(crate) const MODES: u8 = 7;
/// Parts of a round.
const PARTS: u32 = 2;
/// Bytes of a frame's header, the last four of which are its checksum.
const HEADER: usize = 48;

/// The parts of one round, and what they are joined to.
struct Round {
    options: CompressOptions,
    split: Split,
    parts: Vec<Vec<u8>>,
    joined: Vec<u8>,
    is_last: bool,
}

pub(super) fn check(data: &[u8]) {
    if let Err(e) = run(&mut Input::new(data)) {
        panic!("{e}");
    }
}

fn run(input: &mut Input<'_>) -> Outcome {
    let rounds = rounds()?;
    let number = usize::from(input.u8()) % ROUNDS;
    let (round, which, mode) = (&rounds[number], input.u8(), input.u8() % MODES);
    if mode == 6 {
        entry(input.rest());
        return Ok(());
    }
    let other = &rounds[(number + 1) % ROUNDS].parts[0];
    let which = usize::from(which) % if round.is_last { 2 } else { 4 };
    let whole = round.parts.get(which).unwrap_or(&round.joined);
    let bad = damaged((whole, other), mode, input)?;
    match which {
        0 | 1 => joined(round, which, bad, mode),
        // What is joined is damaged, and given to one part of the next round.
        _ => surveyed(round, which as u32 - 1, bad, mode),
    }
}

/// What is read of an entry is written again as it was read.
fn entry(bytes: &[u8]) {
    match fuzzing::part_entry(bytes) {
        Ok(written) => assert_eq!(written, bytes),
        Err(e) => hold_to_kinds(&e),
    }
}

fn joined(round: &Round, which: usize, bad: Vec<u8>, mode: u8) -> Outcome {
    let place = Place::empty()?;
    let paths = [place.path("part-0"), place.path("part-1")];
    let mut parts = round.parts.clone();
    let is_whole = bad == parts[which];
    parts[which] = bad;
    for (path, part) in paths.iter().zip(&parts) {
        fs::write(path, part)?;
    }
    let expected = delta_stream::join_dry_run(&paths, &place.archive, false, &Silent);
    let found = delta_stream::join(&paths, &place.archive, false, &Silent);
    let report = match (expected, found) {
        (Ok(expected), Ok(found)) => {
            let (expected, found) = (expected.written_bytes, found.written_bytes);
            assert!(if round.is_last { found == expected } else { found <= expected });
            found
        }
        (expected, found) => {
            hold(expected);
            hold(found);
            assert!(!is_whole, "a whole part is refused");
            assert_eq!(names(&place)?, paths);
            return Ok(());
        }
    };
    assert_eq!(names(&place)?, [&[place.archive.clone()][..], &paths].concat());
    let output = fs::read(&place.archive)?;
    assert_eq!(output.len() as u64, report);
    if is_whole {
        assert!(output == round.joined, "whole parts make other bytes");
        return Ok(());
    }
    assert!(mode > 0, "damage without right checksums is joined");
    if round.is_last {
        return is_archive(&place, mode);
    }
    // What is read is written again as it was read.
    let entries = |part: &[u8]| forge_part::pieces(part).split_off(1);
    let all: Vec<Piece> = parts.iter().flat_map(|part| entries(part)).collect();
    assert!(entries(&output) == all, "other entries are joined");
    Ok(())
}

/// Whoever forges frames and their checksums can make archives that hold nothing; nobody else can.
fn is_archive(place: &Place, mode: u8) -> Outcome {
    let options = VerifyOptions::default().with_resources(resources());
    let is_forged = [2, 3].contains(&mode);
    match delta_stream::verify(&place.archive, &options, &Silent) {
        // The hash of a side file is only what its entry says, as are those of tensors.
        Ok(report) => {
            let is_hash = report.faults.iter().all(|fault| fault.side_file.is_some());
            assert!(report.ok || is_forged || is_hash, "{:?}", report.faults);
        }
        Err(e) => assert!(is_forged, "what was joined is refused: {e}"),
    }
    match delta_stream::inspect(&place.archive, None, true) {
        Ok(_) => {}
        Err(e) => assert!(is_forged, "what was joined is refused: {e}"),
    }
    Ok(())
}

/// Makes a part of the next round from what surveys are said to have found.
fn surveyed(round: &Round, part: u32, bad: Vec<u8>, mode: u8) -> Outcome {
    let (base, ft) = pair();
    let place = Place::new(&base, &ft)?;
    let (surveys, output) = (place.path("surveys"), place.path("part"));
    let is_whole = bad == round.joined;
    fs::write(&surveys, bad)?;
    let of = PartOptions::new(round.split.clone(), part).with_surveys(Some(surveys.clone()));
    let (ft, base) = (&place.ft, &place.base);
    let made = delta_stream::compress_part(ft, base, &output, &of, &round.options, &Silent);
    match made {
        Ok(_) => {
            assert!(is_whole || mode > 0, "damage without right checksums is taken");
            assert_eq!(names(&place)?, [base, ft, &output, &surveys].map(PathBuf::clone));
        }
        Err(e) => {
            assert!(!is_whole, "whole surveys are refused: {e}");
            assert!(is_expected(e.kind()), "{:?}: {e}", e.kind());
            assert_eq!(names(&place)?, [base, ft, &surveys].map(PathBuf::clone));
        }
    }
    Ok(())
}

/// All that lies in the place.
fn names(place: &Place) -> Outcome<Vec<PathBuf>> {
    let names = fs::read_dir(place.path(""))?.map(|e| e.map(|e| e.path()));
    let mut names = names.collect::<std::io::Result<Vec<PathBuf>>>()?;
    names.sort();
    Ok(names)
}

fn is_expected(kind: ErrorKind) -> bool {
    use ErrorKind::{Corrupt, Incompatible, InvalidArgument, Truncated};
    [Corrupt, Truncated, Incompatible, InvalidArgument].contains(&kind)
}

/// What is damaged is named.
fn hold(result: delta_stream::Result<JoinReport>) {
    let error = result.expect_err("a dry run and a real one end alike");
    let (kind, text) = (error.kind(), error.to_string());
    assert!(is_expected(kind), "{kind:?}: {text}");
    let is_named = text.contains("part-0") || text.contains("part-1");
    assert!(is_named || text.starts_with("part ") || text.contains("the parts lack"), "{text}");
}

fn damaged((whole, other): (&[u8], &[u8]), mode: u8, input: &mut Input<'_>) -> Outcome<Vec<u8>> {
    let mut pieces = forge_part::pieces(whole);
    match mode {
        0 => return Ok(scratched(whole, input)),
        5 => return Ok([b"DSPART\r\n", input.rest()].concat()),
        4 => reordered(&mut pieces, &forge_part::pieces(other), input),
        _ => {
            let with_frames: Vec<_> =
                (0..pieces.len()).filter(|i| mode == 1 || !pieces[*i].1.is_empty()).collect();
            let at = usize::from(input.u8());
            // Parts of surveys have no frames.
            let Some(&i) = with_frames.get(at % with_frames.len().max(1)) else {
                return Ok(whole.to_vec());
            };
            match mode {
                1 => changed(&mut pieces[i].0, input),
                2 => header_changed(&mut pieces[i].1, input),
                _ => content_changed(&mut pieces[i], input)?,
            }
        }
    }
    Ok(forge_part::part(&pieces))
}

/// Entries and their frames left out, exchanged, taken twice or from another round; or a new one.
fn reordered(pieces: &mut Vec<Piece>, other: &[Piece], input: &mut Input<'_>) {
    for _ in 0..CHANGES {
        if input.is_empty() || pieces.is_empty() {
            break;
        }
        let (how, at) = (input.u8(), usize::from(input.u8()) % pieces.len());
        let from = usize::from(input.u8());
        match how % 5 {
            0 => drop(pieces.remove(at)),
            1 => {
                let with = from % pieces.len();
                pieces.swap(at, with);
            }
            2 => pieces.insert(at, pieces[from % pieces.len()].clone()),
            3 => pieces[at] = other[from % other.len()].clone(),
            _ => pieces.insert(at, (input.take(from).to_vec(), Vec::new())),
        }
    }
}

/// Bytes changed, or the end cut off.
fn changed(bytes: &mut Vec<u8>, input: &mut Input<'_>) {
    for _ in 0..CHANGES {
        if input.is_empty() || bytes.is_empty() {
            break;
        }
        let (at, n) = (usize::from(input.u16()) % bytes.len(), usize::from(input.u8()) % 9);
        let new = u64::from_le_bytes(input.bytes()).to_le_bytes();
        match n {
            0 => bytes.truncate(at),
            n => {
                let n = n.min(bytes.len() - at);
                bytes[at..at + n].copy_from_slice(&new[..n]);
            }
        }
    }
}

/// Fields of a frame's header changed, with its checksums made right.
fn header_changed(frame: &mut [u8], input: &mut Input<'_>) {
    for _ in 0..CHANGES {
        if input.is_empty() {
            break;
        }
        frame[usize::from(input.u8()) % HEADER] = input.u8();
    }
    let len = frame.len();
    forge::repair(frame, Frame { at: 0, len, kind: 1 });
}

/// Another content of a frame, and all that says how long it is.
fn content_changed((entry, frame): &mut Piece, input: &mut Input<'_>) -> Outcome {
    let mut content = zstd::decode_all(&frame[HEADER..])?;
    changed(&mut content, input);
    let packed = zstd::bulk::compress(&content, 1)?;
    frame.truncate(HEADER);
    frame[28..32].copy_from_slice(&(content.len() as u32).to_le_bytes());
    frame[32..36].copy_from_slice(&(packed.len() as u32).to_le_bytes());
    frame.extend(packed);
    let len = frame.len();
    forge::repair(frame, Frame { at: 0, len, kind: 1 });
    let field = forge_part::len_at(entry[0]).ok_or("no frame follows")?;
    entry[field..field + 4].copy_from_slice(&(frame.len() as u32).to_le_bytes());
    Ok(())
}

fn resources() -> Resources {
    Resources::default().with_threads(1)
}

/// Matrices, one tensor twice, one that the base lacks, a norm; two side files, one without bytes.
fn pair() -> (Files, Files) {
    let mut rng = Rng::new(4);
    let (b0, f0) = twins(&mut rng, "layers.0.a.weight", "BF16", &[9, 10]);
    let (b1, f1) = twins(&mut rng, "layers.1.a.weight", "F32", &[12, 10]);
    let (b2, f2) = twins(&mut rng, "norm.weight", "F32", &[6]);
    let (new, empty) = (rng.bytes(24), Vec::new());
    let tied = crate::made::Tensor { name: "layers.2.a.weight".into(), ..f1.clone() };
    let mut files = one_shard(&[
        f0,
        f1,
        tied,
        f2,
        tensor("new", "I64", &[3], new),
        tensor("none", "F32", &[0], empty),
    ]);
    files.insert("config.json".into(), b"{}\n".to_vec());
    files.insert("empty.txt".into(), Vec::new());
    (one_shard(&[b0, b1, b2]), files)
}

/// Made once by each process: parts are of one version of the tool.
fn rounds() -> Outcome<&'static [Round]> {
    static ALL: OnceLock<Vec<Round>> = OnceLock::new();
    if let Some(rounds) = ALL.get() {
        return Ok(rounds);
    }
    let mut rounds = Vec::new();
    for method in [
        Method::Lossless,
        Method::Dare(Dare::default()),
        Method::UltraDelta(UltraDelta::default()),
        Method::Auto(Auto::default()),
    ] {
        of_method(method, &mut rounds)?;
    }
    assert_eq!(rounds.len(), ROUNDS);
    Ok(ALL.get_or_init(|| rounds))
}

fn of_method(method: Method, rounds: &mut Vec<Round>) -> Outcome {
    let (base, ft) = pair();
    let place = Place::new(&base, &ft)?;
    let options = CompressOptions::new(method).with_name("v").with_resources(resources());
    let split = delta_stream::split(&place.ft, &place.base, PARTS, &options, &Silent)?;
    let mut surveys: Option<PathBuf> = None;
    for round in 1..=split.rounds {
        let mut paths = Vec::new();
        for part in 1..=PARTS {
            let path = place.path(&format!("{round}.{part}"));
            let of = PartOptions::new(split.clone(), part).with_surveys(surveys.clone());
            delta_stream::compress_part(&place.ft, &place.base, &path, &of, &options, &Silent)?;
            paths.push(path);
        }
        let output = place.path(&format!("{round}.joined"));
        delta_stream::join(&paths, &output, false, &Silent)?;
        let parts = paths.iter().map(fs::read).collect::<std::io::Result<_>>()?;
        let (options, split, is_last) = (options.clone(), split.clone(), round == split.rounds);
        rounds.push(Round { options, split, parts, joined: fs::read(&output)?, is_last });
        surveys = Some(output);
    }
    Ok(())
}
