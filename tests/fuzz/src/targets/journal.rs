//! The journal of a run that was cut off, entry by entry.

use delta_stream::fuzzing;

use super::hold_to_kinds;
use super::input::Input;

/// Input: rows and columns of a tile less one, and its patch side as a power of two, a byte each; the rest is an
/// entry, and a journal too.
pub(super) fn check(data: &[u8]) {
    let mut input = Input::new(data);
    let [rows, cols, patch] = input.bytes();
    let size = [usize::from(rows) + 1, usize::from(cols) + 1, 1 << (patch % 7)];
    let entry = input.rest();
    match fuzzing::note(entry, size) {
        Ok(written) => assert_eq!(written, entry),
        Err(e) => hold_to_kinds(&e),
    }
    // Nothing that is torn or changed is an entry.
    let crc = crc32c::crc32c(entry).to_le_bytes();
    let mut journal = [&(entry.len() as u32).to_le_bytes()[..], &crc, entry].concat();
    let whole = journal.len();
    journal.extend(entry);
    assert_eq!(fuzzing::journal(&journal).first().map(Vec::as_slice), Some(entry));
    assert!(fuzzing::journal(&journal[..whole - 1]).is_empty());
    journal[4] ^= 1;
    assert!(fuzzing::journal(&journal).is_empty());
    // Whatever a room holds, what follows it is found.
    let len = (entry.len() as u32).to_le_bytes();
    let room = [&[6][..], &len].concat();
    let mut journal = Vec::new();
    for (entry, behind) in [(&room[..], entry), (&room, &[][..])] {
        journal.extend(
            [(entry.len() as u32).to_le_bytes(), crc32c::crc32c(entry).to_le_bytes()].concat(),
        );
        journal.extend([entry, behind].concat());
    }
    assert_eq!(fuzzing::journal(&journal), [&room[..], &room]);
    for entry in fuzzing::journal(entry) {
        if let Err(e) = fuzzing::note(&entry, size) {
            hold_to_kinds(&e);
        }
    }
}
