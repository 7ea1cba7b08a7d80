//! Parts taken apart and put together again with right checksums. Written from the format, without the
//! library's own code.

use xxhash_rust::xxh3::xxh3_64;

use crate::forge::u32_at;

/// An entry of a part, and the frame that follows it.
pub(crate) type Piece = (Vec<u8>, Vec<u8>);

/// What entries begin with that a frame follows, and the last one.
pub(crate) const TILE: u8 = 2;
pub(crate) const FRAME: u8 = 17;
const END: u8 = 20;

/// Takes a whole part apart; its end is left out.
pub(crate) fn pieces(part: &[u8]) -> Vec<Piece> {
    let (mut at, mut out) = (8, Vec::new());
    while at < part.len() {
        let start = at + 8;
        let end = start + u32_at(part, at) as usize;
        let n = len_at(part[start]).map_or(0, |field| u32_at(part, start + field) as usize);
        out.push((part[start..end].to_vec(), part[end..end + n].to_vec()));
        at = end + n;
    }
    let last = out.pop();
    assert!(last.is_some_and(|(end, _)| end[0] == END));
    out
}

/// Where an entry of this kind has the length of the frame that follows it.
pub(crate) fn len_at(kind: u8) -> Option<usize> {
    match kind {
        TILE => Some(9),
        FRAME => Some(1),
        _ => None,
    }
}

/// Puts a part together with right checksums.
pub(crate) fn part(pieces: &[Piece]) -> Vec<u8> {
    let mut out = b"DSPART\r\n".to_vec();
    let enter = |out: &mut Vec<u8>, entry: &[u8]| {
        out.extend((entry.len() as u32).to_le_bytes());
        out.extend(crc32c::crc32c(entry).to_le_bytes());
        out.extend(entry);
    };
    for (entry, frame) in pieces {
        enter(&mut out, entry);
        out.extend(frame);
    }
    let mut end = vec![END];
    end.extend((pieces.len() as u64).to_le_bytes());
    end.extend(xxh3_64(&out).to_le_bytes());
    enter(&mut out, &end);
    out
}
