//! Footers, indexes, heads and seals, and a head and a seal held against each other.

use delta_stream::fuzzing;

use super::hold_to_kinds;
use super::input::Input;

/// Reads a record, and holds what is read to coming back as it was written.
fn comes_back(bytes: &[u8], read: fn(&[u8]) -> delta_stream::Result<Vec<u8>>) -> bool {
    match read(bytes) {
        Ok(written) => {
            assert!(written.len() <= bytes.len());
            assert_eq!(read(&written).expect("what was written"), written);
            true
        }
        Err(e) => {
            hold_to_kinds(&e);
            false
        }
    }
}

/// Input: the footer's offset, 8 bytes, and the footer, 64 bytes, of which marks and checksum are made right if
/// the next byte is odd; the rest is an index.
pub(super) fn index(data: &[u8]) {
    let mut input = Input::new(data);
    let (offset, mut footer) = (u64::from_le_bytes(input.bytes()), input.bytes::<64>());
    if input.u8() & 1 == 1 {
        footer[..8].copy_from_slice(&[0x5D, 0x2A, 0x4D, 0x18, 56, 0, 0, 0]);
        footer[8..16].copy_from_slice(b"DSFOOT\r\n");
        footer[24..32].copy_from_slice(&offset.to_le_bytes());
        let crc = crc32c::crc32c(&footer[..60]);
        footer[60..].copy_from_slice(&crc.to_le_bytes());
    }
    match fuzzing::footer(&footer, offset) {
        Ok(written) => assert!(written.is_none_or(|written| written == footer)),
        Err(e) => hold_to_kinds(&e),
    }
    comes_back(input.rest(), fuzzing::index);
}

/// Input: the head's length, 2 bytes, the head, the seal.
pub(super) fn variant(data: &[u8]) {
    let mut input = Input::new(data);
    let n = usize::from(input.u16());
    let (head, seal) = (input.take(n), input.rest());
    if !(comes_back(head, fuzzing::head) & comes_back(seal, fuzzing::seal)) {
        return;
    }
    match fuzzing::records(head, seal) {
        Ok(tensors) => {
            for tensor in &tensors {
                let mut next = 0;
                for tile in &tensor.tiles {
                    assert!(tile.start == next && tile.end > next, "{tensor:?}");
                    next = tile.end;
                }
                let all = if tensor.is_alias { 0 } else { tensor.n_bytes };
                assert_eq!(next, all, "{tensor:?}");
            }
        }
        Err(e) => hold_to_kinds(&e),
    }
}
