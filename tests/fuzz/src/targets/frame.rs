//! Stored frames. Input: a mode, then a stored frame as it is (checksums made right where the mode says so); or
//! kind, label, cap and raw bytes of a frame that is to come back.

use delta_stream::fuzzing;

use super::hold_to_kinds;
use super::input::Input;

const HEADER: usize = 48;
/// Most bytes a frame may expand to here.
const CAP: usize = 1 << 16;

pub(super) fn check(data: &[u8]) {
    let mut input = Input::new(data);
    match input.u8() % 3 {
        0 => round_trip(&mut input),
        mode => {
            let cap = usize::from(input.u16());
            let mut stored = input.rest().to_vec();
            if mode == 2 && stored.len() >= HEADER {
                repair(&mut stored);
            }
            decode(&stored, cap);
        }
    }
}

/// Makes lengths, marks and checksums what they must be, so that zstd sees the body.
fn repair(stored: &mut [u8]) {
    let body = (stored.len() - HEADER) as u32;
    stored[..8].copy_from_slice(&[0x5D, 0x2A, 0x4D, 0x18, 40, 0, 0, 0]);
    stored[8..12].copy_from_slice(b"DSFR");
    (stored[12], stored[13]) = (1 + stored[12] % 5, 0);
    stored[32..36].copy_from_slice(&body.to_le_bytes());
    let crc = crc32c::crc32c(&stored[HEADER..]);
    stored[36..40].copy_from_slice(&crc.to_le_bytes());
    stored[40..44].fill(0);
    let crc = crc32c::crc32c(&stored[..HEADER - 4]);
    stored[HEADER - 4..HEADER].copy_from_slice(&crc.to_le_bytes());
}

fn decode(stored: &[u8], cap: usize) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let decoded = fuzzing::frame(stored, cap, &mut out);
    assert!(out.capacity() <= cap.max(8), "{} bytes where {cap} may be", out.capacity());
    match decoded {
        Ok(()) => {
            assert!(out.len() <= cap);
            let raw_len = u32::from_le_bytes(stored[28..32].try_into().expect("four bytes"));
            assert_eq!(out.len(), raw_len as usize);
            Some(out)
        }
        Err(e) => {
            hold_to_kinds(&e);
            None
        }
    }
}

fn round_trip(input: &mut Input<'_>) {
    let (kind, codec) = (input.u8(), input.u16());
    let words = [input.u32(), input.u32(), input.u32()];
    let (at, flip) = (usize::from(input.u16()), input.u8());
    let raw = input.take(CAP);
    let mut stored = fuzzing::frame_of(kind, words, codec, raw).expect("a small frame");
    assert_eq!(decode(&stored, raw.len()).as_deref(), Some(raw));
    if !raw.is_empty() {
        assert!(decode(&stored, raw.len() - 1).is_none(), "more than its cap");
    }
    if flip != 0 {
        let at = at % stored.len();
        stored[at] ^= flip;
        assert!(decode(&stored, CAP).is_none(), "byte {at} was changed");
    }
}
