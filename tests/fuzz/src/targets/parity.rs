//! A parity file beside one of the committed archives, both damaged, its header made right where that lets the
//! damage reach further; then verified and repaired. Input: which archive, how much parity, what is done, and
//! changes.

use std::fs;
use std::path::PathBuf;

use delta_stream::{
    Parity, RepairOptions, RepairReport, RepairState, Resources, Silent, VerifyOptions,
};

use super::archive::ARCHIVES;
use super::input::Input;
use super::{CHANGES, hold_to_kinds};
use crate::made::{Outcome, Place};

/// Percent of parity by the numbers that inputs have for them.
const PERCENTS: [f64; 4] = [2.0, 0.1, 20.0, 100.0];
/// Bytes of a header, of which the last four are its checksum.
const HEADER: usize = 192;

pub(super) fn check(data: &[u8]) {
    if let Err(e) = run(&mut Input::new(data)) {
        panic!("{e}");
    }
}

fn run(input: &mut Input<'_>) -> Outcome {
    let (whole, _) = ARCHIVES[usize::from(input.u8()) % ARCHIVES.len()];
    let how = input.u8();
    let percent = PERCENTS[usize::from(how % 4)];
    let (mends, is_right) = (how & 4 == 0, how & 8 == 8);
    let place = Place::empty()?;
    fs::write(&place.archive, whole)?;
    let resources = Resources::default().with_threads(1);
    delta_stream::make_parity(&place.archive, Parity::percent(percent)?, &resources, &Silent)?;
    let path = place.path("ft.delta.zst.parity");
    let parity = changed(fs::read(&path)?, is_right, input);
    let archive = changed(whole.to_vec(), false, input);
    fs::write(&place.archive, &archive)?;
    fs::write(&path, parity)?;

    let options = VerifyOptions::default().with_resources(resources.clone());
    if let Err(e) = delta_stream::verify(&place.archive, &options, &Silent) {
        hold_to_kinds(&e);
    }
    let options = RepairOptions::default().with_resources(resources).with_dry_run(!mends);
    let state = match delta_stream::repair(&place.archive, &options, &Silent) {
        Ok(RepairReport { state, .. }) => Some(state),
        Err(e) => {
            hold_to_kinds(&e);
            None
        }
    };
    let now = fs::read(&place.archive)?;
    // Whole again, or as it was.
    assert!(now == archive || (mends && now.starts_with(whole)), "other bytes: {state:?}");
    assert!(state != Some(RepairState::Repaired) || now.starts_with(whole), "not repaired");
    let names = fs::read_dir(place.path(""))?.map(|e| e.map(|e| e.path()));
    let mut names = names.collect::<std::io::Result<Vec<PathBuf>>>()?;
    names.sort();
    assert_eq!(names, [place.archive.clone(), path]);
    Ok(())
}

/// Bytes with some of them changed and the end cut off; the checksums of headers made right if asked for.
fn changed(mut bytes: Vec<u8>, is_right: bool, input: &mut Input<'_>) -> Vec<u8> {
    let (cut, n) = (usize::from(input.u16()), usize::from(input.u8()) % (CHANGES + 1));
    for _ in 0..n {
        let (at, len) = (usize::from(input.u16()) % bytes.len(), usize::from(input.u8()) % 9);
        let new = u64::from_le_bytes(input.bytes()).to_le_bytes();
        let len = len.min(bytes.len() - at);
        bytes[at..at + len].copy_from_slice(&new[..len]);
    }
    if is_right {
        let last = bytes.len() - HEADER;
        // Both say the same, as if a tool had written it.
        let mut header = bytes[..HEADER].to_vec();
        let crc = crc32c::crc32c(&header[..HEADER - 4]);
        header[HEADER - 4..].copy_from_slice(&crc.to_le_bytes());
        bytes[..HEADER].copy_from_slice(&header);
        bytes[last..].copy_from_slice(&header);
    }
    bytes.truncate(bytes.len() - cut % bytes.len());
    bytes
}
