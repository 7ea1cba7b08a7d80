//! Archives taken apart and put together again with right checksums, so that damage reaches the
//! parsers behind them. Written from the format, without the library's own code.

use crate::made::{Outcome, Rng};

const PREAMBLE: usize = 54;
const HEADER: usize = 48;
const FOOTER: usize = 64;
pub(crate) const TILE: u8 = 1;
pub(crate) const HEAD: u8 = 2;
pub(crate) const SEAL: u8 = 3;
pub(crate) const BLOB: u8 = 4;
pub(crate) const INDEX: u8 = 5;

/// A stored frame: where it stands, and its kind; 0 for a footer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Frame {
    pub(crate) at: usize,
    pub(crate) len: usize,
    pub(crate) kind: u8,
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap_or_default())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

/// All frames and footers of a whole archive, in order.
pub(crate) fn frames(archive: &[u8]) -> Vec<Frame> {
    let (mut at, mut out) = (PREAMBLE, Vec::new());
    while at < archive.len() {
        let (len, kind) = if u32_at(archive, at + 4) as usize == FOOTER - 8 {
            (FOOTER, 0)
        } else {
            (HEADER + u32_at(archive, at + 32) as usize, archive[at + 12])
        };
        out.push(Frame { at, len, kind });
        at += len;
    }
    out
}

/// Makes the checksums of a frame or footer right again.
pub(crate) fn repair(archive: &mut [u8], frame: Frame) {
    let stored = &mut archive[frame.at..frame.at + frame.len];
    let crc_at = if frame.kind == 0 { FOOTER - 4 } else { HEADER - 4 };
    if frame.kind != 0 {
        let crc = crc32c::crc32c(&stored[HEADER..]);
        stored[36..40].copy_from_slice(&crc.to_le_bytes());
    }
    let crc = crc32c::crc32c(&stored[..crc_at]);
    stored[crc_at..crc_at + 4].copy_from_slice(&crc.to_le_bytes());
}

/// What a frame expands to.
pub(crate) fn raw(archive: &[u8], frame: Frame) -> Outcome<Vec<u8>> {
    Ok(zstd::decode_all(&archive[frame.at + HEADER..frame.at + frame.len])?)
}

/// The last frame of a kind that `wanted` takes.
fn find(archive: &[u8], kind: u8, wanted: impl Fn(&Frame) -> bool) -> Outcome<Frame> {
    let found = frames(archive).into_iter().rev().find(|f| f.kind == kind && wanted(f));
    Ok(found.ok_or("no such frame")?)
}

/// Appends a frame with the header fields of `like` and another content; returns where it stands.
fn append_frame(archive: &mut Vec<u8>, like: Frame, content: &[u8]) -> Outcome<Frame> {
    let at = archive.len();
    archive.extend_from_within(like.at..like.at + HEADER);
    archive.extend(zstd::bulk::compress(content, 1)?);
    let len = archive.len() - at;
    archive[at + 28..at + 32].copy_from_slice(&(content.len() as u32).to_le_bytes());
    archive[at + 32..at + 36].copy_from_slice(&((len - HEADER) as u32).to_le_bytes());
    let frame = Frame { at, len, kind: like.kind };
    repair(archive, frame);
    Ok(frame)
}

/// Ends the archive with this index and a footer of the generation that the last footer had.
fn close(archive: &mut Vec<u8>, index: &[u8]) -> Outcome {
    let last = find(archive, 0, |_| true)?;
    let like = find(archive, INDEX, |_| true)?;
    let index = append_frame(archive, like, index)?;
    let at = archive.len();
    archive.extend_from_within(last.at..last.at + FOOTER);
    let words = [at, index.at, index.len, last.at];
    for (i, word) in words.into_iter().enumerate() {
        archive[at + 24 + 8 * i..at + 32 + 8 * i].copy_from_slice(&(word as u64).to_le_bytes());
    }
    repair(archive, Frame { at, len: FOOTER, kind: 0 });
    Ok(())
}

/// The same archive with its index, or one record or tile of its entry `entry` (base vectors are
/// entries too), replaced by what `change` makes of it, everything that points at it corrected, and all checksums right.
pub(crate) fn replaced(
    archive: &[u8],
    (entry, kind): (usize, u8),
    rng: &mut Rng,
    change: impl FnOnce(&mut Rng, &mut Vec<u8>),
) -> Outcome<Vec<u8>> {
    replaced_at(archive, (entry, kind), Rng::below, rng, change)
}

/// The codec of each tile of an entry that is its tensor's only one, by its number.
pub(crate) fn codecs(archive: &[u8], entry: usize) -> Outcome<Vec<u16>> {
    let index = raw(archive, find(archive, INDEX, |_| true)?)?;
    let at = u64_at(&index, entries(&index)[entry] + 16);
    let seal = raw(archive, find(archive, SEAL, |f| f.at as u64 == at)?)?;
    let codec = |(_, tile): (usize, Frame)| u32_at(archive, tile.at + 14) as u16;
    Ok(tiles(archive, &seal)?.into_iter().map(codec).collect())
}

/// The same archive with the tile of this number in [`codecs`] replaced, as [`replaced`] does it.
pub(crate) fn replaced_tile(
    archive: &[u8],
    (entry, number): (usize, usize),
    change: impl FnOnce(&mut Vec<u8>),
) -> Outcome<Vec<u8>> {
    let choose = |_: &mut Rng, _| number;
    replaced_at(archive, (entry, TILE), choose, &mut Rng::new(0), |_, payload| change(payload))
}

fn replaced_at(
    archive: &[u8],
    (entry, kind): (usize, u8),
    choose: impl FnOnce(&mut Rng, usize) -> usize,
    rng: &mut Rng,
    change: impl FnOnce(&mut Rng, &mut Vec<u8>),
) -> Outcome<Vec<u8>> {
    let mut out = archive.to_vec();
    let mut index = raw(archive, find(archive, INDEX, |_| true)?)?;
    let words = entries(&index)[entry];
    let place = |at: u64| move |f: &Frame| f.at as u64 == at;
    let head = find(archive, HEAD, place(u64_at(&index, words)))?;
    let seal = find(archive, SEAL, place(u64_at(&index, words + 16)))?;
    let mut point = |word: usize, frame: Frame| {
        index[words + word..words + word + 8].copy_from_slice(&(frame.at as u64).to_le_bytes());
        index[words + word + 8..words + word + 16]
            .copy_from_slice(&(frame.len as u64).to_le_bytes());
    };
    match kind {
        INDEX => change(rng, &mut index),
        HEAD => {
            let mut content = raw(archive, head)?;
            change(rng, &mut content);
            point(0, append_frame(&mut out, head, &content)?);
        }
        SEAL => {
            let mut content = raw(archive, seal)?;
            change(rng, &mut content);
            point(16, append_frame(&mut out, seal, &content)?);
        }
        _ => {
            let mut content = raw(archive, seal)?;
            let tiles = tiles(archive, &content)?;
            let (field, tile) = tiles[choose(rng, tiles.len())];
            let mut payload = raw(archive, tile)?;
            change(rng, &mut payload);
            let new = append_frame(&mut out, tile, &payload)?;
            content[field..field + 8].copy_from_slice(&(new.at as u64).to_le_bytes());
            content[field + 12..field + 16].copy_from_slice(&(new.len as u32).to_le_bytes());
            point(16, append_frame(&mut out, seal, &content)?);
        }
    }
    close(&mut out, &index)?;
    Ok(out)
}

/// Where each entry of the index keeps the places of head and seal.
fn entries(index: &[u8]) -> Vec<usize> {
    let mut at = 8;
    let entry = |_| {
        let words = at + 8 + u32_at(index, at + 4) as usize;
        at = words + 32;
        words
    };
    (0..u32_at(index, 4)).map(entry).collect()
}

/// How many variants and base vectors an archive lists.
pub(crate) fn n_entries(archive: &[u8]) -> Outcome<usize> {
    Ok(entries(&raw(archive, find(archive, INDEX, |_| true)?)?).len())
}

/// Where a seal keeps the offset of each tensor of one tile, and that tile.
fn tiles(archive: &[u8], seal: &[u8]) -> Outcome<Vec<(usize, Frame)>> {
    let (mut at, mut out) = (4, Vec::new());
    for _ in 0..u32_at(seal, 0) {
        let field = at + 40;
        let n = u32_at(seal, field + 8) as usize;
        let offset = u64_at(seal, field);
        if n == 1 {
            out.push((field, find(archive, TILE, |f| f.at as u64 == offset)?));
        }
        at = field + 12 + 4 * n + 16;
    }
    Ok(out)
}
