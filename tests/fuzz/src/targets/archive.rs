//! Whole archives: one of the committed ones, damaged, with checksums and pointers made right where that lets the
//! damage reach further, then inspected, verified, restored. Input: which archive, how it is damaged, with what.

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use delta_stream::{ErrorKind, Resources, RestoreOptions, Silent, VerifyLevel, VerifyOptions};

use super::input::Input;
use super::{CHANGES, scratched};
use crate::forge::{self, HEAD, INDEX, SEAL, TILE, frames};
use crate::made::{Files, Outcome, Place, Rng, kind_of};

const BASE: &[u8] = include_bytes!("../../../data/v1/base.safetensors");
const BASE_TRELLIS: &[u8] = include_bytes!("../../../data/v1/base_trellis.safetensors");

macro_rules! archive {
    ($name:literal, $base:expr) => {
        (include_bytes!(concat!("../../../data/v1/", $name, ".delta.zst")) as &[u8], $base)
    };
}

/// Archives, and what they are restored against. New ones come last.
pub(crate) const ARCHIVES: &[(&[u8], &[u8])] = &[
    archive!("lossless", BASE),
    archive!("delta_dct_8", BASE),
    archive!("delta_dct_16_mixed", BASE),
    archive!("bitdelta_3", BASE),
    archive!("dare", BASE),
    archive!("deltadq_seed", BASE),
    archive!("deltadq_in_group", BASE),
    archive!("deltadq_csr", BASE),
    archive!("ultradelta", BASE),
    archive!("bitdelta_shifted", BASE),
    archive!("trellis", BASE_TRELLIS),
];

const BASE_NAME: &str = "base.safetensors";

/// Records and tiles by the numbers that inputs have for them.
pub(crate) const KINDS: [u8; 4] = [HEAD, SEAL, INDEX, TILE];

pub(super) fn check(data: &[u8]) {
    if let Err(e) = run(&mut Input::new(data)) {
        panic!("{e}");
    }
}

fn run(input: &mut Input<'_>) -> Outcome {
    let which = usize::from(input.u8()) % ARCHIVES.len();
    let (whole, base) = ARCHIVES[which];
    let how = input.u8();
    let (mode, calls) = (how % 4, how / 4 % 4);
    let bytes = match mode {
        0 => scratched(whole, input),
        1 => header_changed(whole, input),
        _ => content_changed(whole, input, mode == 2)?,
    };
    let place = Place::empty()?;
    fs::write(place.path(BASE_NAME), base)?;
    fs::write(&place.archive, bytes)?;
    let files = probe(&place, calls)?;
    // Only records with right checksums can say that other bytes are right.
    if let Some(files) = files.filter(|_| mode < 2) {
        assert!(files == *wanted(which)?, "other bytes come back");
    }
    Ok(())
}

/// What the whole archive restores to.
fn wanted(which: usize) -> Outcome<&'static Files> {
    static WANTED: [OnceLock<Files>; ARCHIVES.len()] = [const { OnceLock::new() }; ARCHIVES.len()];
    if let Some(files) = WANTED[which].get() {
        return Ok(files);
    }
    let place = Place::empty()?;
    fs::write(place.path(BASE_NAME), ARCHIVES[which].1)?;
    fs::write(&place.archive, ARCHIVES[which].0)?;
    let files = place.restore_against(&place.path(BASE_NAME), &options())?;
    Ok(WANTED[which].get_or_init(|| files))
}

fn options() -> RestoreOptions {
    RestoreOptions::default().with_resources(resources())
}

fn resources() -> Resources {
    Resources::default().with_threads(1)
}

/// Reads the archive in one of the ways there are; what it restores to, if it does. One way an input, since each
/// takes as long as all the rest of it.
fn probe(place: &Place, calls: u8) -> Outcome<Option<Files>> {
    let beside = || Outcome::Ok(fs::read_dir(place.path(""))?.count());
    let (before, base) = (beside()?, place.path(BASE_NAME));
    let verify = |base: Option<&Path>| {
        let level = base.map_or(VerifyLevel::Frames, |base| VerifyLevel::Decode(base.to_owned()));
        let options = VerifyOptions::default().with_level(level).with_resources(resources());
        delta_stream::verify(&place.archive, &options, &Silent)?.sound()
    };
    let mut is_whole = false;
    match calls {
        0 => {
            let verified = verify(Some(&base)).map(|report| report.ok);
            is_whole = verified.as_ref().is_ok_and(|ok| *ok);
            hold(verified.map(drop));
        }
        1 => hold(delta_stream::inspect(&place.archive, None, true).map(drop)),
        2 => hold(verify(None).map(drop)),
        _ => {}
    }
    if !is_whole && calls != 3 {
        return Ok(None);
    }
    let restored = place.restore_against(&base, &options());
    assert_eq!(beside()?, before, "something was written outside the output");
    match restored {
        Ok(files) => Ok(Some(files)),
        Err(e) => {
            let Some(kind) = kind_of(&*e) else { return Err(e) };
            assert!(is_expected(kind), "{kind:?}: {e}");
            // There may be no variant to restore.
            let is_asked = kind == ErrorKind::InvalidArgument;
            assert!(!is_whole || is_asked, "verified, but does not restore: {e}");
            Ok(None)
        }
    }
}

fn is_expected(kind: ErrorKind) -> bool {
    use ErrorKind::{Corrupt, Incompatible, InvalidArgument, Mismatch, Truncated};
    [Corrupt, Truncated, Incompatible, Mismatch, InvalidArgument].contains(&kind)
}

fn hold(result: delta_stream::Result<()>) {
    if let Err(e) = result {
        assert!(is_expected(e.kind()), "{:?}: {e}", e.kind());
    }
}

/// Fields of one frame's header, or of the footer, changed, with checksums made right.
fn header_changed(whole: &[u8], input: &mut Input<'_>) -> Vec<u8> {
    let all = frames(whole);
    let frame = all[usize::from(input.u8()) % all.len()];
    let mut bytes = whole.to_vec();
    for _ in 0..CHANGES {
        if input.is_empty() {
            break;
        }
        let at = usize::from(input.u8()) % if frame.kind == 0 { 64 } else { 48 };
        bytes[frame.at + at] = input.u8();
    }
    forge::repair(&mut bytes, frame);
    bytes
}

/// Another content for a record or a tile, or its own with fields changed, and all around it made right.
fn content_changed(whole: &[u8], input: &mut Input<'_>, is_new: bool) -> Outcome<Vec<u8>> {
    let kind = KINDS[usize::from(input.u8()) % KINDS.len()];
    let entry = usize::from(input.u8()) % forge::n_entries(whole)?;
    let mut rng = Rng::new(u64::from(input.u8()));
    forge::replaced(whole, (entry, kind), &mut rng, |_, content| {
        if is_new {
            *content = input.rest().to_vec();
            return;
        }
        for _ in 0..CHANGES {
            if input.is_empty() || content.is_empty() {
                break;
            }
            let (at, n) = (usize::from(input.u16()) % content.len(), usize::from(input.u8()) % 9);
            let new = u64::from_le_bytes(input.bytes()).to_le_bytes();
            match n {
                0 => content.truncate(at),
                n => {
                    let n = n.min(content.len() - at);
                    content[at..at + n].copy_from_slice(&new[..n]);
                }
            }
        }
    })
}
